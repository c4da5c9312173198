"""The examination on a toy world: who is asked what, what is held against what, and a report that lacks nothing.

A toy model knows nothing, so its answers are scripted where a figure must come out as known.
"""

import io
import json
import shutil
from collections import Counter
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import worlds
from test_judge import CLIP, SPOKEN

from mmo import evaluation, examination, measures
from mmo import report as reports
from mmo.codec import build_mimi, codec_config, save_codec
from mmo.config import Decoding
from mmo.evaluation import evaluate_run
from mmo.examination import SIZES, TIERS, Ear, Exam, Item, Sizes, Spoken
from mmo.generation import Answer
from mmo.judge import Judge
from mmo.omni import OmniModel, save_model
from mmo.profiles import REPOSITORY
from mmo.report import REQUIRED, Bound
from mmo.rows import DataError
from mmo.twin import Int8Linear

SIZE = Sizes(sentences=3, rare=1, questions=4, pictures=4, rare_inputs=2, spoken=2, swapped=3, controls=3, stage=2, stage_spoken=2, streamed=2)
BRIEF = Decoding(max_text=4, max_frames=3)
SENTENCES = ["One plus one is two.", "Two plus one is three.", "Three plus one is four.", "A red circle.", "A blue star.", "The star is blue."]
SCHEMA = pa.schema([*worlds.SCHEMA, ("kind", pa.string()), ("voice", pa.string()), ("answer_sound", pa.binary())])


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(int(seconds * 24000), np.float32), 24000, format="WAV")
    return out.getvalue()


def row(task: str, number: int, tier: str, voice: str) -> dict:
    rng = np.random.default_rng((number, len(tier), len(voice)))
    found = worlds.make_row(task, rng)
    answer = SENTENCES[number % len(SENTENCES)]
    found["conversations"] = worlds.conversation(f"Say: {answer}", answer)
    kind = "plus" if "plus" in answer else "say"
    recorded = wav(0.3) if task == "t2a" and tier == "sentence" else None
    return found | {"tier": tier, "kind": kind, "voice": voice, "answer_sound": recorded}


def write_tests(profile, columns=None):
    """Test files with every tier and, in T2A, two voices."""
    voices = {"t2a": ("joe", "slt"), "a2a": ("kal",), "i2t": ("",)}
    speakers = {"joe": [1.0] * worlds.SPEAKER, "slt": [-1.0] * worlds.SPEAKER}
    for task, names in voices.items():
        rows = [row(task, n, tier, voice) for tier in TIERS for n in range(6 if tier == "sentence" else 2) for voice in names]
        for each in rows:
            each["spk_emb"] = speakers.get(each["voice"], [])
        table = pa.Table.from_pylist(rows, SCHEMA)
        pq.write_table(table.select(columns) if columns else table, profile.data_dir / f"{task}-test.parquet")


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    profile = worlds.toy_profile(folder, rows=2)
    config = codec_config(n_filters=2, dimension=16, layers=1, feedforward=16, bins=worlds.MODEL.num_codes, codebooks=8, heads=2)
    torch.manual_seed(0)
    save_codec(build_mimi(config), config, profile.codec_file)
    write_tests(profile)
    return profile


def checkpoint(path, seed=0):
    torch.manual_seed(seed)
    save_model(OmniModel(worlds.MODEL), path)


class Parrot:
    """A judge that hears the same in everything."""

    def __init__(self, text="one plus one is two"):
        self.text, self.seconds = text, []

    def transcribe(self, sounds, workers=2, progress=None):
        self.seconds = [len(samples) / rate for samples, rate in sounds]
        for _ in sounds:
            progress(1)
        return [self.text] * len(sounds)


def exam_of(profile, **others) -> Exam:
    return Exam(profile, SIZE, encoders=worlds.toy_encoders(), judge=Parrot(), decoding=BRIEF, **others)


def test_a_candidate_in_another_precision(profile, tmp_path):
    """The model under examination has the weights that were asked for."""
    checkpoint(tmp_path / "omni.safetensors")
    candidate = examination.Candidate(tmp_path / "omni.safetensors", exam_of(profile, precision="int8"))
    assert isinstance(candidate.generator.model.lm_head, Int8Linear)


# --- The whole ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(profile, tmp_path_factory):
    """A report of a run whose last stage is there and whose A2A weights are not."""
    folder = tmp_path_factory.mktemp("run")
    checkpoint(folder / "t2a.safetensors", 1)
    checkpoint(folder / "i2t.safetensors")
    sizes = evaluation.SIZES
    evaluation.SIZES = {"smoke": SIZE}
    try:
        report = evaluate_run(profile, folder, "smoke", encoders=worlds.toy_encoders(), judge=Parrot(), decoding=BRIEF)
    finally:
        evaluation.SIZES = sizes
    return folder, report


def test_the_report_has_every_key_and_says_why_a_figure_is_missing(run):
    folder, report = run
    assert json.loads((folder / "report.json").read_text()) == report
    for key in REQUIRED:
        *path, last = key.split(".")
        place = report
        for part in path:
            place = place[part]
        assert last in place, key
    empty = reports.nulls({key: value for key, value in report.items() if key not in ("bounds", "reasons")})
    assert sorted(empty) == sorted(report["reasons"]) and all(report["reasons"].values())
    assert {"t2a.pair.wer_judge_floor", "after_stage.a2a.t2a_wer", "seconds.total", "peak_rss_mb"} <= set(empty)
    assert report["t2a"]["wer_judge_floor"] is not None and report["after_stage"]["t2a"]["t2a_answer_accuracy"] is not None
    assert report["checkpoint"] == "i2t.safetensors" and report["weights"] == "float32"


def test_sizes_are_as_planned_and_voices_stand_apart(run):
    _, report = run
    assert report["t2a"]["answers"] == 2 * SIZE.sentences and report["t2a"]["pair"]["answers"] == 2 * SIZE.rare
    assert set(report["t2a"]["voices"]) == {"joe", "slt"}
    for voice in report["t2a"]["voices"].values():
        assert voice["answers"] == SIZE.sentences and voice["wer_codec_ceiling"] is not None
    assert (report["a2a"]["questions"], report["a2a"]["spoken_answers"]) == (SIZE.questions, SIZE.spoken)
    assert report["a2a"]["answer_accuracy_by_voice"].keys() == {"kal"}
    assert report["controls"]["answers"] == SIZE.controls and report["streaming"]["prompts"] == SIZE.streamed
    assert report["t2a"]["runaways"] == 1.0  # three frames at most: a toy model never stops before


def test_the_recorded_answers_give_ceiling_and_floor(run):
    """The parrot hears one sentence in all: right in one of three truths, in both voices."""
    _, report = run
    chosen = [SENTENCES[0], SENTENCES[2], SENTENCES[4]]
    expected = evaluation.measures.word_errors(chosen, [Parrot().text] * 3).wer
    for name in ("codec_ceiling", "judge_floor"):
        assert report["t2a"][f"wer_{name}"] == pytest.approx(expected, abs=1e-4)
        assert report["t2a"][f"spoken_accuracy_{name}"] == pytest.approx(1 / 3, abs=1e-4)


def test_samples_have_captions(run):
    folder, _ = run
    sounds = sorted((folder / "samples").glob("*.wav"))
    assert len(sounds) == 6 and all(path.with_suffix(".txt").read_text().strip() for path in sounds)


def test_seconds_and_memory_that_the_weekend_measured_are_kept(run):
    folder, report = run
    weekend = report | {"seconds": {"t2a": 1.5, "total": 9.0}, "peak_rss_mb": 77}
    (folder / "report.json").write_text(json.dumps(weekend))
    weights = report["weights_sha256"]
    assert reports.earlier(folder, weights, "smoke") == {"seconds": {"t2a": 1.5, "total": 9.0}, "peak_rss_mb": 77}
    for others in (("0" * 64, "smoke"), (weights, "full")):
        assert reports.earlier(folder, *others) == {"seconds": {}}, "seconds of other weights, or of another budget"


def test_the_tables_print(run, capsys):
    _, report = run
    reports.show(report, "smoke")
    printed = capsys.readouterr().out
    assert "t2a.answer_accuracy" in printed and "NOT MET" in printed and "joe: wer" in printed


# --- Who is asked what -------------------------------------------------------------------------------------------


def test_swapped_inputs_come_from_an_item_with_another_answer(profile, monkeypatch):
    """A model that answers by its input alone: right with its own, wrong with another's."""
    exam = exam_of(profile)

    class Knows:
        """Answers by the features it is given."""

        def __init__(self, items, prompts, field):
            self.exam, self.by_input = exam, {self.key(getattr(p, field)): item for item, p in zip(items, prompts)}
            self.field = field

        @staticmethod
        def key(features):
            return features.numpy().tobytes()

        def answer(self, prompts, what, speech):
            items = [self.by_input.get(self.key(getattr(prompt, self.field))) for prompt in prompts]
            told = [(item.truth, item.question.upper() if item.truth == SENTENCES[0] else "") if item else ("unknown", "") for item in items]
            return [Answer(text, [], torch.zeros(8, 2, dtype=torch.long), True, True, np.zeros(3840, np.float32), heard=heard) for text, heard in told]

        def texts(self, prompts, what):
            return [answer.text for answer in self.answer(prompts, what, False)]

    # Different features for each item, whatever the toy encoder makes of them.
    def distinct(items, augmented=False, speed=1.0):
        return [torch.full((3, worlds.SOUND_DIM), float(SENTENCES.index(item.truth) + 10 * augmented)) for item in items]

    monkeypatch.setattr(exam, "hear", distinct)
    monkeypatch.setattr(exam, "see", lambda items, look=(0.0, 0.0): [torch.full((worlds.PATCHES, worlds.PICTURE_DIM), float(SENTENCES.index(i.truth))) for i in items])
    every = [item for item in exam.asked if item.tier == "sentence"]
    ear = Ear()
    mark, _ = evaluation.ask_a2a(exam, Knows(every, exam.sound_prompts(distinct(every)), "audio_features"), ear)
    ear.heard = {name: [""] * len(sounds) for name, sounds in ear.sounds.items()}
    found = mark()
    assert found["answer_accuracy"] == 1.0 and found["accuracy_swapped_questions"] == 0.0
    assert found["answer_accuracy_in_rooms"] == 0.0  # disturbed sounds are other inputs, and this model knows none of them
    assert found["questions_written_right"] is None, "nothing is written down in this profile"
    monkeypatch.setattr(exam, "decoding", replace(exam.decoding, write_down=True))
    chosen = measures.spread(every, exam.sizes.questions)
    share = np.mean([item.truth == SENTENCES[0] for item in chosen])  # of these it writes the question, in its own spelling
    assert 0 < share < 1 and mark()["questions_written_right"] == pytest.approx(share, abs=1e-3)

    every, ear = [item for item in exam.shown if item.tier == "sentence"], Ear()
    mark, mark_spoken, _ = evaluation.ask_i2t(exam, Knows(every, exam.picture_prompts(every, exam.see(every)), "image_features"), ear)
    ear.heard = {name: [""] * len(sounds) for name, sounds in ear.sounds.items()}
    found = mark()
    assert found["exact_match"] == 1.0 and found["exact_match_swapped_pictures"] == 0.0
    assert mark_spoken()["spoken_accuracy"] == 0.0  # nothing was heard


def test_a_swapped_picture_brings_its_own_looks(profile, monkeypatch):
    """Were the looks those of the item's own picture, the control would hear the right answer from them."""
    exam = exam_of(profile)
    monkeypatch.setattr(exam, "decoding", replace(exam.decoding, looks=((0.0, 0.0), (0.1, 0.0), (0.0, 0.1))))
    numbers = {item: number for number, item in enumerate(exam.shown)}

    def see(items, look=(0.0, 0.0)):
        return [torch.full((worlds.PATCHES, worlds.PICTURE_DIM), numbers[item] + 100.0 * (look != (0.0, 0.0))) for item in items]

    class Looks:
        """Writes down which pictures a prompt's looks are of."""

        seen: dict[str, list[list[int]]] = {}

        def texts(self, prompts, what):
            self.seen[what] = [[int(look.mean()) % 100 for look in (prompt.image_features, *prompt.looks)] for prompt in prompts]
            return ["" for _ in prompts]

        def answer(self, prompts, what, speech):
            texts = self.texts(prompts, what)
            return [Answer(text, [], torch.zeros(8, 2, dtype=torch.long), True, True, np.zeros(3840, np.float32)) for text in texts]

    monkeypatch.setattr(exam, "see", see)
    candidate = Looks()
    evaluation.ask_i2t(exam, candidate, Ear())
    for what in ("i2t", "i2t swapped"):
        assert candidate.seen[what] and all(len(looks) == 3 and len(set(looks)) == 1 for looks in candidate.seen[what]), f"{what}: looks of other pictures"


def said(texts, heard, kinds=None, frames=20) -> tuple[Spoken, Ear]:
    kinds = kinds or ["plus"] * len(texts)
    items = [Item("", text, "sentence", kind, "joe") for text, kind in zip(texts, kinds)]
    codes = [torch.randint(0, 32, (8, frames), generator=torch.Generator().manual_seed(n)) for n in range(len(texts))]
    spoken = Spoken("t2a sentence", items, [Answer(text, [], each, True, True) for text, each in zip(texts, codes)])
    return spoken, Ear(heard={"t2a sentence.model": heard})


def test_controls_shuffle_replace_and_confuse(profile):
    exam = exam_of(profile)
    spoken, ear = said(SENTENCES[:3], [text.lower().strip(".") for text in SENTENCES[:3]])
    mark = evaluation.ask_controls(exam, spoken, ear)
    lengths = {name: [len(samples) for samples, _ in sounds] for name, sounds in ear.sounds.items()}
    assert lengths == {f"controls.{name}": [20 * 1920] * 3 for name in ("shuffled", "random", "noise")}
    ear.heard |= {name: [""] * 3 for name in ear.sounds} | {"controls.noise": ["one one one one one"] * 3}
    found = mark()
    assert found["wer_shuffled_frames"] == 1.0 and found["wer_noise"] == pytest.approx(11 / 15, abs=1e-4)
    assert 0.2 < found["wer_wrong_sentence"] <= 0.8  # perfect speech, held against another sum
    assert spoken.figures(ear, {"": 1.0}, 0)["wer"] == 0.0


def test_shuffled_frames_hold_the_same_frames_in_another_order(profile, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "decode_all", lambda codec, codes: seen.append(codes) or [np.zeros(8, np.float32)] * len(codes))
    spoken, ear = said(["One."], ["one"])
    evaluation.ask_controls(exam_of(profile), spoken, ear)
    own, shuffled = spoken.answers[0].codes, seen[0][0]
    assert not torch.equal(own, shuffled)
    assert sorted(map(tuple, own.T.tolist())) == sorted(map(tuple, shuffled.T.tolist()))


def test_wer_is_against_the_own_text_and_spoken_accuracy_against_the_truth():
    spoken, ear = said(["Two plus two is five."], ["two plus two is five"])
    spoken = replace(spoken, items=[replace(spoken.items[0], truth="Two plus two is four.")])
    found = spoken.figures(ear, {"": 1.0}, 0)
    assert found["wer"] == 0.0 and found["answer_accuracy"] == 0.0 and found["spoken_accuracy"] == 0.0


def test_function_words_only_count_in_the_strict_figure():
    spoken, ear = said(["The circle is red."], ["circle red"])
    found = spoken.figures(ear, {"": 1.0}, 0)
    assert (found["spoken_accuracy"], found["spoken_accuracy_content"]) == (0.0, 1.0)
    assert found["wer_deletions"] == 0.5 and found["early_stops"] == 0.0
    assert spoken.figures(ear, {"": 5.0}, 0)["early_stops"] == 1.0


def test_sentences_with_uncoded_speech_come_first_and_keep_all_voices():
    items = [Item("", text, "sentence", "", voice, uncoded=b"x" if n >= 2 else None) for n, text in enumerate("abcd") for voice in ("joe", "slt")]
    chosen = examination.spread_voices(items, 2)
    assert [(item.truth, item.voice) for item in chosen] == [("c", "joe"), ("c", "slt"), ("d", "joe"), ("d", "slt")]
    assert len(examination.spread_voices(items, 3)) == 6


@pytest.mark.parametrize("count, voices", [(6, {"rms": 3, "kal": 3}), (4, {"rms": 2, "kal": 2}), (5, {"rms": 2, "kal": 3}), (99, {"rms": 6, "kal": 6})])
def test_where_voices_take_turns_a_part_has_all_of_them(count, voices):
    """Every other one of rms, kal, rms, kal, … is rms."""
    items = [Item("", str(n), "sentence", "", voice) for n, voice in enumerate(("rms", "kal") * 6)]
    chosen = examination.from_each_voice(items, count)
    assert Counter(item.voice for item in chosen) == voices
    assert [int(item.truth) for item in chosen] == sorted(int(item.truth) for item in chosen), "their order is kept"


def test_the_ear_gives_each_name_its_own():
    ear = Ear()
    ear.add("a", [np.zeros(10, np.float32), np.zeros(30, np.float32)])
    ear.add("b", [np.zeros(20, np.float32)])

    class Lengths(Parrot):
        def transcribe(self, sounds, workers=2, progress=None):
            return [str(len(samples)) for samples, _ in sounds]

    with pytest.raises(ValueError, match="already"):
        ear.add("a", [])
    ear.listen(Lengths(), 1)
    assert ear["a"] == ["10", "30"] and ear["b"] == ["20"] and "c" not in ear


def test_what_was_heard_soon_is_not_heard_again(capsys):
    """Every other sound's future is done when the asking ends; one of the others is cancelled, one's process died: the judge gets those, the longest first."""
    futures: list[Future] = []

    def soon(sound) -> Future:
        futures.append(Future())
        if len(futures) % 2:
            futures[-1].set_result(f"soon {len(sound[0])}")
        return futures[-1]

    ear, asked = Ear(soon=soon), []
    ear.add("a", [np.zeros(length, np.float32) for length in (10, 20, 30)])
    ear.add("b", [np.zeros(length, np.float32) for length in (40, 50)])
    futures[1].cancel()
    futures[3].set_exception(BrokenProcessPool("its process died"))

    class Late(Parrot):
        def transcribe(self, sounds, workers=2, progress=None):
            asked.extend(len(samples) for samples, _ in sounds)
            return [f"late {len(samples)}" for samples, _ in sounds]

    ear.listen(Late(), 2)
    assert asked == [40, 20]
    assert "".join(capsys.readouterr()).count("beside the model died") == 1
    assert ear["a"] == ["soon 10", "late 20", "soon 30"] and ear["b"] == ["late 40", "soon 50"]
    assert not ear.sounds and not ear.early, "sounds are given away"


def test_a_judge_that_listens_beside_takes_one_of_the_models_threads():
    judge, before = Judge.from_file(REPOSITORY / "data" / "tiny" / "words.txt"), torch.get_num_threads()
    samples, rate = soundfile.read(CLIP, dtype="float32")
    torch.set_num_threads(3)
    try:
        with evaluation.heard_soon(judge, workers=2) as ear:
            assert torch.get_num_threads() == 2
            ear.add("soon", [samples], rate)
            assert ear.early["soon", 0].result(timeout=300) == SPOKEN
        assert torch.get_num_threads() == 3 and ear.soon is None
        ear.add("late", [samples], rate)
        ear.listen(judge, workers=1)
        assert ear["soon"] == ear["late"] == [SPOKEN]
        with pytest.raises(KeyboardInterrupt), evaluation.heard_soon(judge, workers=2):
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 3, "after an error, too"
        for other, workers in ((judge, 1), (Parrot(), 2)):
            with evaluation.heard_soon(other, workers) as ear:
                assert torch.get_num_threads() == 3 and ear.soon is None
    finally:
        torch.set_num_threads(before)


# --- Bounds and bad input ----------------------------------------------------------------------------------------


def test_bounds_compare_with_the_figure_beside():
    report = {"t2a": {"wer": 0.20, "wer_codec_ceiling": 0.14}}
    near = Bound("t2a.wer", at_most=0.08, above="t2a.wer_codec_ceiling")
    assert near.limit(report) == 0.22 and near.met(report)
    assert not replace(near, at_most=0.05).met(report)
    assert Bound("t2a.wer", at_least=0.3).met(report) is False
    assert Bound("t2a.wer", at_most=0.3, above="t2a.missing").met(report) is None


def test_the_weekend_may_finish_a_report_again_once_it_knows_more():
    report = reports.finish({"budget": "full", "t2a": {"answer_accuracy": 0.96}})
    verdicts = {each["figure"]: each["met"] for each in report["bounds"]}
    assert verdicts["t2a.answer_accuracy"] is True and verdicts["seconds.total"] is None and "seconds.total" in report["reasons"]
    report = reports.finish(report | {"seconds": report["seconds"] | {"total": 2500.0}})
    verdicts = {each["figure"]: each["met"] for each in report["bounds"]}
    assert verdicts["seconds.total"] is False and "seconds.total" not in report["reasons"]


def test_a_figure_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="t2a.wer is nan"):
        reports.complete({"t2a": {"wer": float("nan")}})


def test_an_unknown_budget_and_missing_files_are_named(profile, tmp_path):
    with pytest.raises(ValueError, match="no budget 'big'; there are full, smoke"):
        evaluate_run(profile, tmp_path, "big")
    with pytest.raises(DataError, match="t2a-test.parquet: no such data file"):
        exam_of(replace(profile, data_dir=tmp_path))


def test_a_bad_test_row_is_named(profile, tmp_path):
    rows = [row("a2a", 0, "sentence", "kal"), row("a2a", 1, "sentence", "kal") | {"question_audios": []}]
    path = tmp_path / "a2a-test.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    with pytest.raises(DataError, match="a2a-test.parquet, row 1: question_audios is empty"):
        examination.read_items(path, worlds.MODEL, ("question_audios",))


@pytest.mark.parametrize("change, words", [
    ({"spk_emb": [0.0] * worlds.SPEAKER}, "spk_emb is all zeros: nobody's voice"), ({"spk_emb": [0.1] * 3}, "spk_emb has 3 values"),
    ({"answer_audios": [None]}, "answer_audios is empty"), ({"answer_audios": [[1] * 7 + [None]]}, ""),
])  # fmt: skip
def test_a_bad_row_of_a_voice_is_named_before_anything_is_asked(profile, tmp_path, change, words):
    rows = [row("t2a", 0, "sentence", "joe"), row("t2a", 1, "sentence", "joe") | change]
    path = tmp_path / "t2a-test.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    with pytest.raises(DataError, match=f"t2a-test.parquet, row 1: .*{words}"):
        examination.read_items(path, worlds.MODEL, ("answer_audios", "spk_emb"))


def copied(profile, folder):
    """The profile with test files of its own, and weights to examine."""
    checkpoint(folder / "i2t.safetensors")
    return replace(profile, data_dir=Path(shutil.copytree(profile.data_dir, folder / "data")))


def test_a_judge_that_cannot_be_made_is_told_before_anything_is_asked(profile, tmp_path, monkeypatch):
    own = copied(profile, tmp_path)
    (own.data_dir / "words.txt").write_text("blorgh\n", encoding="utf-8")
    monkeypatch.setattr(evaluation, "measure_streaming", lambda *_: pytest.fail("asked"))
    with pytest.raises(ValueError, match="lacks blorgh: choose other words"):
        evaluate_run(own, tmp_path, "smoke", encoders=worlds.toy_encoders())


def test_without_a_sentence_there_is_nothing_to_ask(profile, tmp_path):
    own = copied(profile, tmp_path)
    path = own.data_dir / "t2a-test.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("tier"), "tier", pa.array(["fact"] * len(table))), path)
    with pytest.raises(DataError, match='t2a-test.parquet: no row of tier "sentence"'):
        evaluate_run(own, tmp_path, "smoke", encoders=worlds.toy_encoders(), judge=Parrot(), decoding=BRIEF)


def test_both_budgets_ask_for_enough():
    full = SIZES["full"]
    assert 2 * full.sentences >= 300 and full.questions >= 300 and full.pictures >= 300
    assert SIZES["smoke"].sentences * 2 == 12
