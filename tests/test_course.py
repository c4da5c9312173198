"""The course's machinery: every check passes its solution, refuses the stub and names typical mistakes; nothing blocks;
both editions come from one source; progress survives whatever is in its file."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch

from mmo.config import IGNORE, ModelConfig
from mmo.course import build, catalogue, desk, progress
from mmo.course.exercises import Bug, Case, Exercise, all_exercises, difference, find, judge
from mmo.course.grading.grade import grade
from mmo.course.grading.nbgrader_course import write_nbgrader_course
from mmo.course.release import release
from mmo.sequence import Markers, build_row

EXERCISES = {each.id: each for each in all_exercises()}
BUGS = [(each.id, number) for each in EXERCISES.values() for number in range(len(each.bugs))]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Progress goes to a folder of the test's own; nothing of another test is left."""
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MMO_STRICT", raising=False)
    desk.ATTEMPTS.clear()
    desk.HINTS_SHOWN.clear()


# --- Checks ------------------------------------------------------------------------------------------------------


def solutions() -> dict:
    """Exercise id -> the function that the notebook's solved cell defines, with only what the notebook imports."""
    found = {}
    for entry in catalogue.read_course():
        if not any(id.startswith(entry.number) for id in EXERCISES):
            continue
        text = build.read_text(build.Edition(entry, catalogue.REPOSITORY).text)
        cells = [cell.source for cell in text.cells if cell.cell_type == "code"]
        imports = "\n".join(line for cell in cells for line in cell.splitlines() if line.startswith(("import ", "from ")))
        names: dict = {}
        exec(imports, names)
        names["exercise"] = lambda id: lambda function: found.setdefault(id, function)
        for source in cells:
            if build.EXERCISE.search(source):
                exec(source, names)
    return found


@pytest.fixture(scope="module")
def solved() -> dict:
    return solutions()


@pytest.mark.parametrize("id", EXERCISES)
def test_check_passes_the_solution(id, solved):
    verdict = judge(find(id), solved[id])
    assert verdict.passed, verdict.words


@pytest.mark.parametrize("id", EXERCISES)
def test_check_passes_the_packages_own(id):
    assert judge(find(id), find(id).reference).passed


@pytest.mark.parametrize("id", EXERCISES)
def test_check_refuses_the_stub_and_says_what_is_wanted(id):
    def stub(*arguments):
        raise NotImplementedError

    verdict = judge(find(id), stub)
    assert verdict.kind == "unsolved"
    assert find(id).looks in verdict.words


@pytest.mark.parametrize("id", EXERCISES)
def test_exercise_knows_two_mistakes_and_has_graded_hints(id):
    assert len(find(id).bugs) >= 2
    assert len(find(id).hints) >= 2
    assert len({bug.words for bug in find(id).bugs}) == len(find(id).bugs)


@pytest.mark.parametrize("id, number", BUGS)
def test_typical_mistake_gets_its_own_diagnosis(id, number):
    """Not another mistake's words, which would lead astray."""
    bug = find(id).bugs[number]
    verdict = judge(find(id), bug.wrong)
    assert verdict.kind == "wrong"
    assert bug.words in verdict.words


def loop_without_delay(codes, pad, stop):
    """A mistake written as somebody would write it, not as the exercise's own list has it."""
    Q, F = codes.shape
    rows = [list(map(int, codes[k])) + [stop] + [pad] * (Q - 1) for k in range(Q)]
    return torch.tensor(rows).view(Q, F + Q)


def reversed_staircase(codes, pad, stop):
    Q, F = codes.shape
    rows = [[pad] * (Q - 1 - k) + codes[k].tolist() + [stop] + [pad] * k for k in range(Q)]
    return torch.tensor(rows)


def undelay_by_roll(delayed, stop):
    """torch.roll the right way, but the stop is only looked for in codebook 0."""
    Q, L = delayed.shape
    rolled = torch.stack([delayed[k].roll(-k) for k in range(Q)])[:, : max(0, L - Q + 1)]
    ends = [f for f in range(rolled.shape[1]) if rolled[0, f] == stop]
    return rolled[:, : ends[0]] if ends else rolled


def labels_that_forget_the_shift(text, codes, first, last, stop):
    N, Q = len(text), len(codes)
    text_labels = torch.full((N,), IGNORE)
    text_labels[first:last] = text[first:last]
    audio = torch.full((Q, N), IGNORE)
    for k in range(Q):
        for place, code in enumerate([*codes[k].tolist(), stop]):
            if first + 1 + k + place < N:
                audio[k, first + 1 + k + place] = code
    return text_labels[: N - 1], audio[:, : N - 1]


def labels_of_zero(text, codes, first, last, stop):
    text_labels, audio = labels_that_forget_the_shift(torch.cat((text, text[:1])), codes, first, last, stop)
    return text_labels[1:].clamp(min=0), audio[:, 1:].clamp(min=0)


def layer_norm(x, weight, eps):
    return torch.nn.functional.layer_norm(x, weight.shape, weight, eps=eps)


def rotate_pairs_of_neighbours(x, cos, sin):
    out = torch.empty_like(x)
    for i in range(x.shape[-1] // 2):
        a, b = x[..., 2 * i], x[..., 2 * i + 1]
        out[..., 2 * i] = a * cos[..., i] - b * sin[..., i]
        out[..., 2 * i + 1] = a * sin[..., i] + b * cos[..., i]
    return out


def mask_one_too_far(new, cached):
    return torch.tensor([[s <= cached + t + 1 for s in range(cached + new)] for t in range(new)])


def mask_of_a_window(new, cached):
    """Forgets the oldest position: in nobody's list, so the probe must find words."""
    return torch.tensor([[0 < s <= cached + t for s in range(cached + new)] for t in range(new)])


HAND_WRITTEN = [
    ("05.rms_norm", layer_norm, "that is LayerNorm"),
    ("05.rms_norm", lambda x, weight, eps: x / x.norm(dim=-1, keepdim=True) * weight, "values differ"),
    ("05.rotate", rotate_pairs_of_neighbours, "paired neighbours"),
    ("05.rotate", lambda x, cos, sin: x * torch.cat((cos, cos), -1), "values differ"),
    ("05.repeat_heads", lambda kv, times: torch.cat([kv] * times, dim=1), "0 1 2 0 1 2"),
    ("05.repeat_heads", lambda kv, times: kv, "the shape is (1, 3, 4, 2), wanted (1, 6, 4, 2)"),
    ("05.seen", mask_one_too_far, "Position t sees t + 1"),
    ("05.seen", mask_of_a_window, "Position 3 does not see position 0"),
    ("05.seen", lambda new, cached: torch.ones(new, cached + new).tril(cached), "the dtype is torch.float32, wanted torch.bool"),
    ("05.swiglu", lambda x, gate, up, down: (x @ gate.T * torch.nn.functional.silu(x @ up.T)) @ down.T, "The silu is on `up`"),
    ("05.swiglu", lambda x, gate, up, down: x @ gate, "RuntimeError"),
    ("05.next_token", lambda hidden, embedding: (hidden[0] @ embedding.T).argmax().item(), "what the first position holds likely"),
    ("05.next_token", lambda hidden, embedding: hidden[-1] @ embedding.T, "wanted"),
    ("07.delay", loop_without_delay, "starts at the same position"),
    ("07.delay", reversed_staircase, "the wrong way"),
    ("07.delay", lambda codes, pad, stop: codes, "the shape is (3, 4), wanted (3, 7)"),
    ("07.delay", lambda codes, pad, stop: None, "return"),
    ("07.undelay", undelay_by_roll, "codebook 0 only"),
    ("07.undelay", lambda delayed, stop: delayed[:, : max(0, delayed.shape[1] - len(delayed) + 1)], "wanted"),
    ("07.labels", labels_that_forget_the_shift, "what it already sees"),
    ("07.labels", labels_of_zero, "must be -100"),
    ("07.padding", lambda lengths, budget: sum(lengths), "what is useful, not what is computed"),
    ("07.padding", lambda lengths, budget: max(lengths) * len(lengths), "longest of all"),
    ("07.padding", lambda lengths, budget: lengths.undefined, "AttributeError"),
]


@pytest.mark.parametrize("id, wrong, words", HAND_WRITTEN, ids=[f"{id}-{words[:24]}" for id, _, words in HAND_WRITTEN])
def test_mistakes_written_by_hand_are_diagnosed(id, wrong, words):
    verdict = judge(find(id), wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words


def test_a_wrong_grid_is_drawn_beside_the_wanted_one():
    verdict = judge(find("07.delay"), reversed_staircase)
    assert verdict.picture.png.startswith(b"\x89PNG")
    assert "data:image/png" in verdict._repr_html_()


def test_labels_are_those_of_build_row():
    """The stand-in of 07.labels is the package's layout, cut rows included."""
    config = ModelConfig(audio_vocab_size=576, audio_pad_token=513, audio_stop_token=514, audio_spk_token=515, num_codebooks=3)
    ids = [1, 9, 5, 30, 31, 2, 5, 1, 7, 5, 40, 41, 42, 2, 5]
    codes = torch.arange(30).view(3, 10)
    for cut in (None, 20):
        row = build_row(ids, codes, config, Markers((1, 7, 5), (2, 5)), max_length=cut)
        text = torch.tensor(ids + [0] * (row.input_ids.shape[1] + 1 - len(ids)))
        text_labels, audio_labels = find("07.labels").reference(text, codes, 10, 15, 514)
        assert torch.equal(text_labels, row.text_labels)
        assert torch.equal(audio_labels, row.audio_labels)


def test_repeated_heads_are_what_grouped_attention_uses():
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    k, v, repeat = k[:, :2], v[:, :2], find("05.repeat_heads").reference
    grouped = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(grouped, torch.nn.functional.scaled_dot_product_attention(q, repeat(k, 2), repeat(v, 2)))


def scaled(**changes) -> Exercise:
    """An exercise of the test's own: x -> 2 x."""
    settings = dict(
        id="07.padding", title="Double", difficulty=1, importance=1, minutes=1, looks="Twice as much.", hints=("a", "b"),
        reference=lambda x: 2 * x, package_name="mmo.double", gradients=(0,),
        cases=lambda: [__import__("mmo.course.exercises", fromlist=["Case"]).Case("ones", (torch.ones(3),))],
        bugs=(Bug("That is the square.", lambda x: x**2 + 0 * x),),
    )
    return Exercise(**settings | changes)


def spoils_its_argument(x):
    return x.mul_(2).clone()


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x: (2 * x).detach(), "no gradient reaches argument 1"),
        (lambda x: 2 * x.detach() + 0 * x, "the gradient of argument 1 is not"),
        (lambda x: (2 * x).double(), "the dtype is torch.float64"),
        (lambda x: 2 * x / 0, "not finite"),
        (lambda x: x**2, "That is the square."),
        (spoils_its_argument, "changed in place"),
        (lambda x: [2 * x], "wanted a tensor"),
    ],
)
def test_what_every_check_looks_at(wrong, words):
    verdict = judge(scaled(), wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words


class SaysYes(torch.Tensor):
    """Finds no difference to anything."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        if function is torch.isclose:
            return torch.ones(arguments[0].shape, dtype=torch.bool)
        return super().__torch_function__(function, types, arguments, named)


class Short(list):
    """Has a length and nothing in it."""

    def __iter__(self):
        return iter(())


def test_a_result_does_not_answer_for_itself():
    assert "values differ" in judge(scaled(), lambda x: (3 * x).as_subclass(SaysYes)).words
    assert judge(scaled(), lambda x: (2 * x).as_subclass(SaysYes)).passed
    assert difference(torch.ones(2), torch.nn.Parameter(torch.ones(2)), 0.0) is None
    assert difference([1, 2], Short([3, 4]), 0.0) == "wanted 2 results, got Short [3, 4]."


@pytest.mark.parametrize("wanted, theirs, right", [
    (31, np.int64(31), True), (31, np.uint8(30), False), (0.5, np.float32(0.5), True), (True, np.bool_(True), True), ([31], [np.int32(31)], True),
    (1, True, False), (1, np.bool_(True), False), (31, 31.0, False), (31, np.float64(31), False), (np.int64(31), 31, True),
])  # fmt: skip
def test_a_number_of_numpy_is_a_number(wanted, theirs, right):
    assert (difference(wanted, theirs, 1e-5) is None) == right


def test_what_is_wanted_is_computed_after_the_answer_and_from_inputs_of_its_own():
    order = []

    def reference(tensors):
        order.append("reference")
        return tensors[0] + 1

    def spoils(tensors):
        order.append("answer")
        return tensors[0].add_(1)

    task = scaled(reference=reference, cases=lambda: [Case("one tensor in a list", ([torch.ones(2)],))], gradients=(), bugs=())
    assert "changed in place" in judge(task, spoils).words
    assert order == ["answer", "reference"]


# --- The learner's side ------------------------------------------------------------------------------------------


def open_delay():
    @desk.exercise("07.delay")
    def delay(codes, pad, stop):
        raise NotImplementedError

    return delay


def wrong_delay():
    @desk.exercise("07.delay")
    def delay(codes, pad, stop):
        return codes

    return delay


CODES = torch.arange(6).view(2, 3)


@pytest.mark.parametrize("make, why", [(open_delay, "is still open"), (wrong_delay, "is not right yet")])
def test_nothing_blocks_and_it_is_said_once(make, why, capsys):
    delay = make()
    assert not desk.check("07.delay").passed
    for _ in range(3):
        assert torch.equal(delay(CODES, 9, 8), find("07.delay").reference(CODES, 9, 8))
    assert capsys.readouterr().out.count(f"07.delay {why}: mmo.sequence.delay stands in") == 1


def test_an_unchecked_attempt_is_the_learners_own():
    """Somebody at work on it wants to see what it gives, and its errors."""
    assert torch.equal(wrong_delay()(CODES, 9, 8), CODES)

    @desk.exercise("07.delay")
    def delay(codes, pad, stop):
        return codes.nonsense

    with pytest.raises(AttributeError):
        delay(CODES, 9, 8)
    assert desk.check("07.delay").kind == "wrong"
    assert delay(CODES, 9, 8).shape == (2, 5)


def test_what_fits_a_mistake_in_one_case_alone_is_told_with_a_perhaps():
    """The longer text's length less what both have in common, in order: added words do cost."""

    def longest_common(wanted, heard):
        if not wanted or not heard:
            return 0
        if wanted[-1] == heard[-1]:
            return longest_common(wanted[:-1], heard[:-1]) + 1
        return max(longest_common(wanted[:-1], heard), longest_common(wanted, heard[:-1]))

    verdict = judge(find("11.word_errors"), lambda wanted, heard: max(len(wanted), len(heard)) - longest_common(wanted, heard))
    assert verdict.kind == "wrong" and verdict.words.startswith("Perhaps: ")


def test_torchs_own_not_implemented_is_an_error_and_no_open_exercise(capsys):
    """It raises one with words where it has no kernel for a dtype: the learner wants to read them."""

    @desk.exercise("07.delay")
    def delay(codes, pad, stop):
        raise NotImplementedError('"softmax" not implemented for \'Long\'')

    with pytest.raises(NotImplementedError, match="softmax"):
        delay(CODES, 9, 8)
    verdict = desk.check("07.delay")
    assert verdict.kind == "wrong" and "not implemented for 'Long'" in verdict.words
    assert delay(CODES, 9, 8).shape == (2, 5)


def test_strict_has_no_stand_in(monkeypatch):
    monkeypatch.setenv("MMO_STRICT", "1")
    delay = open_delay()
    with pytest.raises(NotImplementedError):
        delay(CODES, 9, 8)
    with pytest.raises(desk.CheckFailed, match="07.delay"):
        desk.check("07.delay")
    wrong_delay()
    with pytest.raises(desk.CheckFailed, match="shape"):
        desk.check("07.delay")
    assert not progress.progress_file().exists()


@pytest.mark.parametrize("how", ["strictly", "in solutions/"])
def test_a_solution_leaves_the_learners_progress_as_it_is(how, monkeypatch):
    """Executed by a command, or opened in JupyterLab and run to be read: what it solves, nobody has solved."""
    progress.note_attempt("07.delay", False)
    progress.note_prediction("07.first", mine=1)
    before = progress.progress_file().read_bytes()
    if how == "strictly":
        monkeypatch.setenv("MMO_STRICT", "1")
    else:
        monkeypatch.chdir(catalogue.REPOSITORY / "solutions")
    desk.exercise("07.delay")(find("07.delay").reference)
    assert desk.check("07.delay").passed
    desk.hint("07.delay")
    desk.predict("07.second", "How many?", 3)
    desk.reveal("07.first", 8)
    for note in (lambda: progress.note_round("01.few", {"right": 8}), lambda: progress.note_choice("07.clock", "Yes.", True), lambda: progress.note_repair("15.delay")):
        note()
    assert progress.progress_file().read_bytes() == before
    assert progress.reset("07") == 2, "what a person asks for is done there too"
    assert progress.load()["exercises"] == {}


def test_a_check_without_an_attempt_says_what_to_run():
    assert "run the cell" in desk.check("07.delay").words


def test_an_unknown_exercise_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="07.delay"):
        desk.check("07.dealy")


def test_hints_go_one_step_further_each_time():
    hints = find("07.delay").hints
    shown = [repr(desk.hint("07.delay")) for _ in range(len(hints) + 1)]
    assert all(text in words for text, words in zip((*hints, hints[-1]), shown))
    assert progress.load()["exercises"]["07.delay"]["hints"] == len(hints)


def test_the_last_hint_names_the_solution_where_there_is_one(monkeypatch, tmp_path):
    last = len(find("07.delay").hints)
    assert 'That was the last; solution("07.delay") opens one.' in repr(desk.hint("07.delay", last))
    monkeypatch.setattr(desk, "REPOSITORY", tmp_path)  # a hand-out has no solutions/
    assert repr(desk.hint("07.delay", last)).endswith("That was the last.")


def test_the_solution_is_folded():
    page = desk.solution("07.delay")
    assert page._repr_html_().startswith("<details>")
    assert "torch.full((Q, F + Q), pad)" in repr(page)
    assert build.BEGIN not in repr(page)


def test_the_first_prediction_counts():
    assert "in place of None" in repr(desk.predict("07.x", "How many?"))
    desk.predict("07.x", "How many?", 4)
    assert "4, and that one counts" in repr(desk.predict("07.x", "How many?", 8))
    assert "You predicted 4, 2.0 times too little" in repr(desk.reveal("07.x", 8, "steps"))
    assert repr(desk.reveal("07.other", 8, "steps")) == "It is 8 steps."


@pytest.mark.parametrize("mine, kept", [(torch.tensor(4.5), 4.5), (np.int64(3), 3), (torch.ones(2), "tensor([1., 1.])"), (None, None), ([1, 2], "[1, 2]")])
def test_a_prediction_may_be_computed(mine, kept):
    """Nothing blocks: what is no plain number is kept as the number that it holds, or as it is written."""
    desk.predict("07.x", "How many?", mine)
    assert progress.load()["predictions"].get("07.x", {}).get("mine") == kept


def test_of_several_truths_each_counts():
    desk.predict("07.x", "Which?", "size")
    assert repr(desk.reveal("07.x", ["shape", "size"])) == "It is shape and size. You predicted size, and that is it."
    assert repr(desk.reveal("07.x", ["size"])) == "It is size. You predicted size, and that is it."
    assert repr(desk.reveal("07.x", ["shape", "colour"])) == "It is shape and colour. You predicted size."


# --- Progress ----------------------------------------------------------------------------------------------------


def test_a_number_is_wanted_and_several_come():
    task = scaled(reference=lambda x: float(x.sum()), bugs=(), gradients=())
    assert "wanted a single number, got a tensor of shape (2,)" in judge(task, lambda x: torch.ones(2)).words
    assert judge(task, lambda x: x.sum()).passed


@pytest.mark.parametrize("wrong, words", [
    (lambda x: torch.from_numpy(2 * x.detach().numpy()) if not x.requires_grad else torch.from_numpy(2 * x.numpy()), "their gradient cannot be taken. RuntimeError"),
    (lambda x: (2 * x).to_sparse(), "torch.sparse_coo"), (lambda x: (2 * x).to("meta"), "on meta"),
])  # fmt: skip
def test_what_stops_a_gradient_or_is_no_plain_tensor_is_told(wrong, words):
    verdict = judge(scaled(), wrong)
    assert verdict.kind == "wrong" and words in verdict.words, verdict.words


def test_progress_counts_and_stays_passed():
    for passed in (False, True, False):
        progress.note_attempt("07.delay", passed)
    assert progress.load()["exercises"]["07.delay"] == {"attempts": 3, "passed": True}
    progress.note_attempt("10.other", True)
    assert progress.reset("07") == 1
    assert list(progress.load()["exercises"]) == ["10.other"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"exercises": 3}', '{"exercises": {"a": 1}, "predictions": {}}', "\x00\x01",
    '{"exercises": {"07.delay": {"attempts": null}}, "predictions": {}}', '{"exercises": {}, "predictions": {}, "ears": {"01.few": {"rounds": 3}}}'])
def test_a_broken_file_is_kept_and_counting_starts_anew(content, capsys):
    file = progress.progress_file()
    file.parent.mkdir(parents=True)
    file.write_text(content)
    progress.note_attempt("07.delay", True)
    assert file.with_name("progress.json.broken").read_text() == content
    assert json.loads(file.read_text())["exercises"]["07.delay"]["passed"]
    assert "cannot be read" in capsys.readouterr().err


def test_two_broken_files_are_both_kept():
    file = progress.progress_file()
    file.parent.mkdir(parents=True)
    for number in range(3):
        file.write_text(f"broken {number}")
        progress.note_attempt("07.delay", True)
    assert {path.read_text() for path in file.parent.glob("progress.json.broken*")} == {"broken 0", "broken 1", "broken 2"}


def test_a_clinic_entry_of_another_version_is_filled_up():
    progress.save({**progress.empty(), "clinic": {"15.delay": {"repaired": True}}}, progress.progress_file())
    assert progress.note_diagnosis("15.delay", "it is late", True) == {"guesses": ["it is late"], "found": True, "repaired": True}


def test_a_verdict_does_not_depend_on_whether_it_can_be_written_down(monkeypatch, capsys):
    runs = progress.progress_file().parent
    runs.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text("a file where the folder should be")
    desk.exercise("07.delay")(find("07.delay").reference)
    assert desk.check("07.delay").passed
    assert "cannot be written" in capsys.readouterr().err


def test_a_verdict_does_not_depend_on_whether_earlier_ones_can_be_read(monkeypatch, capsys):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    file = progress.progress_file()
    progress.save(progress.empty(), file)
    desk.exercise("07.delay")(find("07.delay").reference)
    with monkeypatch.context() as patched:
        patched.setattr(type(file), "read_text", forbidden)
        assert desk.check("07.delay").passed
    assert "cannot be read" in capsys.readouterr().err
    assert progress.load() == progress.empty(), "what could not be read is not written over"


def test_kernels_do_not_forget_what_others_note():
    """Two at a time, forty notes each."""
    code = "import sys; from mmo.course import progress\nfor n in range(40): progress.note_attempt(f'{sys.argv[1]}.{n}', True)"
    both = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("07", "08")]
    assert [each.wait() for each in both] == [0, 0]
    assert len(progress.load()["exercises"]) == 80


def test_status_shows_what_is_done():
    import io

    from rich.console import Console

    from mmo.course.status import show_status

    progress.note_attempt("07.delay", True)
    progress.note_attempt("07.labels", False)
    page = io.StringIO()
    show_status(Console(file=page, width=200))
    assert "✓ delay" in page.getvalue() and "✗ labels" in page.getvalue() and "· padding" in page.getvalue()
    assert "3 of 12" in page.getvalue()


# --- One source --------------------------------------------------------------------------------------------------


EXERCISES_OF_07 = "{07.delay: 3, 07.undelay: 3, 07.labels: 4, 07.padding: 2}"


@pytest.fixture
def repository(tmp_path):
    """A copy of what the build reads and writes, with notebook 07 alone."""
    root = tmp_path / "repository"
    (root / "solutions").mkdir(parents=True)
    source = catalogue.REPOSITORY / "solutions" / "07_sequence_and_delay.py"
    text = source.read_text(encoding="utf-8").replace("](10_train_t2a.ipynb)", "](07_sequence_and_delay.ipynb)")
    (root / "solutions" / source.name).write_text(text, encoding="utf-8")
    (root / "README.md").write_text(f"# x\n{catalogue.TABLE_BEGIN}\n{catalogue.TABLE_END}\n")
    (root / "docs").mkdir()
    (root / "docs" / "performance.md").write_text("# 07 links to it\n")
    (root / "course.yml").write_text(
        f"notebooks:\n  - {{number: '07', file: 07_sequence_and_delay, title: The sequence and its delay, aim: a, minutes: {{tiny: 60}}, exercises: {EXERCISES_OF_07}}}\n"
    )
    build.build(root)
    return root


def learner(root):
    return root / "notebooks" / "07_sequence_and_delay.ipynb"


def edit(path, change):
    notebook = nbformat.read(path, 4)
    change(notebook.cells)
    path.write_text(build.written(notebook), encoding="utf-8")


def exercise_cell(cells):
    return next(cell for cell in cells if '@exercise("07.delay")' in cell.source)


def test_build_is_deterministic(repository):
    files = [path for path in repository.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert build.build(repository) == []
    shutil.rmtree(repository / "notebooks")
    (repository / "solutions" / "07_sequence_and_delay.ipynb").unlink()
    build.build(repository)
    assert {path: path.read_bytes() for path in files} == before
    assert build.problems(repository) == []


def test_the_learners_edition_is_empty_where_it_should_be(repository):
    notebook = nbformat.read(learner(repository), 4)
    nbformat.validate(notebook)
    assert exercise_cell(notebook.cells).source.endswith("    raise NotImplementedError")
    assert "int64: row k is k pads" in exercise_cell(notebook.cells).source
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def leak_marker(cells):
    exercise_cell(cells).source += "\n    ### BEGIN SOLUTION"


def leak_line(cells):
    cells[-1].source += "\n`delayed = torch.full((Q, F + Q),  pad)`"


def change_signature(cells):
    cell = exercise_cell(cells)
    cell.source = cell.source.replace("pad: int, stop: int", "pad: int")


def fill_in(cells):
    exercise_cell(cells).source = exercise_cell(cells).source.replace("raise NotImplementedError", "return codes")


def leave_output(cells):
    exercise_cell(cells).execution_count = 1


def break_link(cells):
    cells[0].source += "\n[there](../nowhere.md)"


def grow(cells):
    cells[0].source += "x" * build.LARGEST


@pytest.mark.parametrize(
    "change, words",
    [
        (leak_marker, "leaked solution"), (leak_line, "leaked solution"), (change_signature, "the stub is delay(codes: Tensor, pad: int)"),
        (fill_in, "the stub is not empty"), (leave_output, "has outputs"), (break_link, "broken link ../nowhere.md"), (grow, "more than 1.5"),
    ],
)  # fmt: skip
def test_check_finds(repository, change, words):
    edit(learner(repository), change)
    found = "\n".join(build.problems(repository))
    assert words in found and "differs from what" in found


def test_points_changed_in_course_yml_are_missed_by_check_and_brought_everywhere_by_build(repository):
    """README's table, the line under the title, the exercise's heading, nbgrader's mark, and the verdict of the last execution."""
    file, solution = repository / "course.yml", repository / "solutions" / "07_sequence_and_delay.ipynb"

    def run(cells):
        cell = next(cell for cell in cells if cell.source.startswith('check("07.delay")'))
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "Right. It does. 3 points.", "text/html": "<b>Right.</b> It does. 3 points."})]

    edit(solution, run)
    assert build.problems(repository) == []
    file.write_text(file.read_text().replace("07.delay: 3", "07.delay: 1").replace("tiny: 60", "tiny: 50"))
    found = "\n".join(build.problems(repository))
    for words in ("README.md: its table", "generated lines are not those", "notebooks/07_sequence_and_delay.ipynb: differs", "solutions/07_sequence_and_delay.ipynb: differs"):
        assert words in found
    build.build(repository)
    assert build.problems(repository) == []
    assert "| 50 | 10 |" in (repository / "README.md").read_text()
    source, cells = (repository / "solutions" / "07_sequence_and_delay.py").read_text(), nbformat.read(learner(repository), 4).cells
    assert "4 exercises, 10 points" in source and "*Exercise 07.delay" in source and "8 minutes · 1 point · stuck?" in source
    assert [cell.metadata.nbgrader.points for cell in cells if cell.source.startswith('check("07.delay")')] == [1]
    verdict = next(cell for cell in nbformat.read(solution, 4).cells if cell.source.startswith('check("07.delay")')).outputs[0].data
    assert verdict == {"text/plain": "Right. It does. 1 point.", "text/html": "<b>Right.</b> It does. 1 point."}


@pytest.mark.parametrize("before, after, words", [
    (", 07.padding: 2", "", "course.yml gives exercise 07.padding no points: write 07.padding: 3 under `exercises` of notebook 07"),
    ("07.padding: 2", "07.padding: 2, 07.paddle: 2", "07_sequence_and_delay: points for 07.paddle, but there is no such exercise; there are 07.delay, "),
])  # fmt: skip
def test_an_exercise_without_points_and_points_without_an_exercise_are_errors(repository, before, after, words):
    """Nothing is built of them, and what would hand out or grade says the same."""
    file, was = repository / "course.yml", {path: path.read_bytes() for path in repository.rglob("*.*") if path.is_file() and path.suffix != ".yml"}
    file.write_text(file.read_text().replace(before, after))
    assert words in "\n".join(build.problems(repository))
    for do in (lambda: build.build(repository), lambda: release(repository.parent / "out", ["07"], repository)):
        with pytest.raises(ValueError, match=re.escape(words)):
            do()
    assert {path: path.read_bytes() for path in was} == was and not (repository.parent / "out").exists()
    with pytest.raises(ValueError, match=re.escape(words)):
        write_nbgrader_course(repository.parent / "out", ["07"], root=repository)
    students = repository.parent / "in" / "ada"
    students.mkdir(parents=True)
    with pytest.raises(ValueError, match=re.escape(words)):
        grade(students.parent, repository.parent / "out", ["07"], root=repository)


def test_points_are_read_once_and_where_a_hand_out_does_not_list_a_notebook_none_are_named(repository, monkeypatch):
    """A class that gets a folder a week runs all of them with the package of the first."""
    read, right = [], find("05.repeat_heads")
    monkeypatch.setattr("mmo.course.exercises.listed_points", lambda: read.append(1) or catalogue.listed_points(repository))
    before = catalogue.listed_points.cache_info().misses
    assert (find("07.delay").points, find("07.labels").points) == (3, 4)
    assert len(read) == 2 and catalogue.listed_points.cache_info().misses == before + 1
    assert judge(right, right.reference).words == f"It does what {right.package_name} does."
    with pytest.raises(ValueError, match="gives exercise 05.repeat_heads no points"):
        right.points
    assert catalogue.listed_points(repository / "docs") == {}


def test_importing_an_exercise_reads_no_course_yml():
    code = "import builtins, io; was = io.open; io.open = builtins.open = lambda file, *a, **k: [][0] if str(file).endswith('course.yml') else was(file, *a, **k)\n"
    code += "from mmo.course.tasks.sequence import EXERCISES; from mmo.course.exercises import find; assert find('07.delay') in EXERCISES"
    done = subprocess.run([sys.executable, "-c", code], cwd=catalogue.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_check_finds_other_parameters_than_the_packages(repository):
    source = repository / "solutions" / "07_sequence_and_delay.py"
    source.write_text(source.read_text().replace("def delay(codes: Tensor, pad: int, stop: int)", "def delay(codes: Tensor, blank: int, stop: int)"))
    assert "parameters ['codes', 'blank', 'stop']" in "\n".join(build.problems(repository))


def test_a_marker_without_its_partner_is_an_error(repository):
    source = repository / "solutions" / "07_sequence_and_delay.py"
    source.write_text(source.read_text().replace("### END SOLUTION", "", 1))
    with pytest.raises(build.BuildError, match="without its partner"):
        build.build(repository)


def executed(cells):
    """Let the exercise's cell look as if it had been run."""
    exercise_cell(cells).execution_count = 7


def test_outputs_stay_until_code_changes(repository):
    solution, source = (repository / "solutions" / f"07_sequence_and_delay.{end}" for end in ("ipynb", "py"))
    edit(solution, executed)
    source.write_text(source.read_text().replace("**At the end** you", "**At the end** you too"))
    build.build(repository)
    assert exercise_cell(nbformat.read(solution, 4).cells).execution_count == 7
    source.write_text(source.read_text().replace("Q, F = codes.shape\n    delayed", "Q, F = codes.size()\n    delayed"))
    build.build(repository)
    assert exercise_cell(nbformat.read(solution, 4).cells).execution_count is None


def test_slide_types_go_into_both_editions_and_outputs_stay(repository):
    """What a cell is among slides is no code: nothing has to be executed again for it."""
    solution, source = (repository / "solutions" / f"07_sequence_and_delay.{end}" for end in ("ipynb", "py"))
    edit(solution, executed)
    source.write_text(source.read_text().replace('# %%\n@exercise("07.delay")', '# %% slideshow={"slide_type": "subslide"}\n@exercise("07.delay")'))
    assert "differs from what" in "\n".join(build.problems(repository))
    build.build(repository)
    for path, count in ((solution, 7), (learner(repository), None)):
        cell = exercise_cell(nbformat.read(path, 4).cells)
        assert (cell.metadata.slideshow, cell.execution_count) == ({"slide_type": "subslide"}, count), path
    assert build.problems(repository) == []


def test_outputs_that_were_live_are_kept_as_words(repository):
    """An executed copy with its widgets, as papermill leaves it, may be laid in the place of a solution."""
    solution = repository / "solutions" / "07_sequence_and_delay.ipynb"
    notebook = nbformat.read(solution, 4)
    states = {name: {"state": {"_model_name": kind, **more}} for name, kind, more in (
        ("bar", "HBoxModel", {"children": ["IPY_MODEL_left", "IPY_MODEL_middle", "IPY_MODEL_right"]}), ("left", "HTMLModel", {"value": "rows: 100%"}),
        ("middle", "FloatProgressModel", {}), ("right", "HTMLModel", {"value": " 90/90 [01:05&lt;00:00,  1.38row/s]"}),
    )}  # fmt: skip
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": states}}
    shown = {"application/vnd.jupyter.widget-view+json": {"model_id": "bar"}, "text/plain": "rows:   0%|          | 0/90 [00:00<?, ?row/s]"}
    exercise_cell(notebook.cells).outputs = [nbformat.v4.new_output("display_data", data=shown)]
    nbformat.write(notebook, solution)
    build.build(repository)
    kept = nbformat.read(solution, 4)
    assert [output.data for output in exercise_cell(kept.cells).outputs] == [{"text/plain": "rows: 90 rows in 1:05"}]
    assert not kept.metadata.get("widgets") and build.problems(repository) == []


def test_a_copy_of_papermill_may_be_laid_in_the_place_of_a_solution(repository):
    """Its injected cell is left out, and cells are counted without it."""
    solution = repository / "solutions" / "07_sequence_and_delay.ipynb"
    notebook = nbformat.read(solution, 4)
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell('profile = "tiny"', metadata={"tags": ["injected-parameters"]}))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count, cell.outputs = number, [nbformat.v4.new_output("execute_result", {"text/plain": cell.source[:9]}, execution_count=number)]
    nbformat.write(notebook, solution)
    build.build(repository)
    kept = [cell for cell in nbformat.read(solution, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in kept] == [cell.outputs[0].execution_count for cell in kept] == list(range(1, len(code)))
    assert all(cell.outputs[0].data["text/plain"] == cell.source[:9] for cell in kept) and build.problems(repository) == []


def test_work_in_a_learners_notebook_is_kept_when_it_is_restored(repository, tmp_path):
    handed_out = learner(repository).read_bytes()

    def work(cells):
        cell = exercise_cell(cells)
        cell.source, cell.execution_count = "# my own", 3

    edit(learner(repository), work)
    worked = learner(repository).read_bytes()
    build.restore("07", repository)
    assert learner(repository).read_bytes() == handed_out
    assert [path.read_bytes() for path in (tmp_path / "runs" / "kept").iterdir()] == [worked]


def test_an_instructors_page_is_nobodys_work(tmp_path, monkeypatch):
    """Pages of `docs/instructor/notebooks` are written by the build, too."""
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    page = tmp_path / "notebooks" / "07.md"
    page.parent.mkdir()
    page.write_text("before")
    build.put(page, "after", [])
    assert page.read_text() == "after" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("work", ["typed", "noted", "torn"])
def test_answers_that_were_never_run_outlive_a_build(repository, tmp_path, work):
    if work != "torn":
        answer = {"typed": "return codes", "noted": "# raise NotImplementedError\n    return codes"}[work]
        edit(learner(repository), lambda cells: setattr(exercise_cell(cells), "source", exercise_cell(cells).source.replace("raise NotImplementedError", answer)))
    else:  # by an editor that was killed: no editor reads it any more
        learner(repository).write_bytes(learner(repository).read_bytes()[:-100])
    worked, kept = learner(repository).read_bytes(), tmp_path / "runs" / "kept"
    build.build(repository)
    assert learner(repository).read_bytes() != worked and [path.read_bytes() for path in kept.iterdir()] == [worked]
    assert build.build(repository) == [] and len(list(kept.iterdir())) == 1


def test_answers_that_were_never_run_are_kept_too(repository, tmp_path):
    """Written and not run, or all outputs cleared: the words are the work."""

    def work(cells):
        exercise_cell(cells).source = "# my own"

    edit(learner(repository), work)
    worked = learner(repository).read_bytes()
    build.restore("07", repository)
    assert [path.read_bytes() for path in (tmp_path / "runs" / "kept").iterdir()] == [worked]
    build.restore("07", repository)
    assert len(list((tmp_path / "runs" / "kept").iterdir())) == 1, "what is as it was handed out is nobody's work"


def test_what_no_editor_can_read_is_kept_and_restored(repository, tmp_path):
    handed_out, spoilt = learner(repository).read_bytes(), "an editor's UTF-16".encode("utf-16")
    learner(repository).write_bytes(spoilt)
    build.restore("07", repository)
    assert learner(repository).read_bytes() == handed_out
    assert [path.read_bytes() for path in (tmp_path / "runs" / "kept").iterdir()] == [spoilt]


def test_a_hand_out_has_nothing_to_restore_from(repository):
    (repository / "solutions" / "07_sequence_and_delay.py").unlink()
    before = learner(repository).read_bytes()
    with pytest.raises(ValueError, match="this is a hand-out"):
        build.restore("07", repository)
    assert learner(repository).read_bytes() == before


def test_course_yml_is_read_with_names_for_what_is_wrong(tmp_path):
    (tmp_path / "course.yml").write_text("notebooks:\n  - {number: '07'\n")
    with pytest.raises(ValueError, match=r"(?s)course.yml is no YAML: .*in \"course.yml\", line"):
        catalogue.read_course(tmp_path)
    (tmp_path / "course.yml").write_text("notebooks:\n  - {number: '07', file: 08_x, title: t, aim: a, minutes: {}}\n")
    with pytest.raises(ValueError, match="must begin with its number"):
        catalogue.read_course(tmp_path)
    (tmp_path / "course.yml").write_text("notebooks:\n  - {number: '07', file: 07_x, title: t, aim: a, minutes: {}, needs: ['99']}\n")
    with pytest.raises(ValueError, match="needs 99"):
        catalogue.read_course(tmp_path)
    for exercises, words in (("{07.a: 1.5}", "points of 07.a must be a whole number"), ("{07.a: 0}", "from 1 on, not 0"), ("{07.a: yes}", "not True"), ("{08.a: 1}", "begin with '07'"), ("3", "not 3")):
        (tmp_path / "course.yml").write_text(f"notebooks:\n  - {{number: '07', file: 07_x, title: t, aim: a, minutes: {{}}, exercises: {exercises}}}\n")
        with pytest.raises(ValueError, match=words):
            catalogue.read_course(tmp_path)


def test_the_repository_is_as_its_sources_say():
    """What `mmo course build --check` says of this very repository."""
    assert build.problems() == []


def test_every_stand_in_takes_what_the_stub_takes():
    for each in EXERCISES.values():
        assert len(inspect.signature(each.reference).parameters) == len(each.cases()[0].arguments)
