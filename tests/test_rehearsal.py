"""The dress rehearsal, at toy sizes: the same commands, the same layouts, small weights."""

import json
import os
import weakref
from collections import namedtuple
from dataclasses import replace

import nbformat
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from judges import SIZES as TOY_JUDGES

from mmo.augmentation import Masked
from mmo.examination import SIZES as EXAMS
from mmo.examination import Exam
from mmo.generation import Answer
from mmo.profiles import STAGES, STAND_INS, profile
from mmo.rehearsal import notebooks as books
from mmo.rehearsal import plan as planning
from mmo.rehearsal import report, stages
from mmo.rehearsal.judges import write_judges
from mmo.rehearsal.notebooks import rehearse_notebooks
from mmo.rehearsal.rows import MINI
from mmo.rehearsal.stages import Ran, RehearsalFailed, Runner, rehearse_stage
from mmo.rehearsal.stand_ins import Sizes, downloads_at, write_stand_ins
from mmo.training import default_encoders
from mmo.weekend import NOTEBOOKS, NotebookFailed

TOY = Sizes(
    model=dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=1100, talker_hidden_size=32,
        num_talker_hidden_layers=1, talker_num_attention_heads=4, talker_num_key_value_heads=2, adapter_rank=8, audio_vocab_size=96, audio_pad_token=33, audio_stop_token=34, audio_spk_token=35,
        audio_hidden_size=24, image_hidden_size=16, image_token_len=4, max_position_embeddings=2048,
    ),
    stages=dict(chunk_rows=64),
    codec=dict(n_filters=4, dimension=32, layers=1, feedforward=64, bins=32, codebooks=8),
    speech=dict(output_size=24, attention_heads=2, linear_units=32, num_blocks=2, tp_blocks=1),
    speech_tokens=40,
    vision=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8),
    rows=48,
    decoding=dict(max_text=4, max_frames=3),
)  # fmt: skip


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    return write_stand_ins("mini", tmp_path_factory.mktemp("rehearsal") / "stand-ins", TOY, say=lambda words: None)


@pytest.fixture
def chosen(stand_ins, tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMO_DOWNLOADS", str(stand_ins))
    return profile("mini")


# --- Stand-ins -------------------------------------------------------------------------------------------------------


def test_every_loader_reads_its_stand_in(chosen):
    """The course's own loaders, not the code that wrote them."""
    from mmo.chat import ChatTokenizer
    from mmo.codec import Codec
    from mmo.doctor import missing_files
    from mmo.omni import OmniModel
    from mmo.speech_encoder import SpeechEncoder
    from mmo.thinker import load_thinker
    from mmo.vision_encoder import VisionEncoder, open_picture

    assert chosen.stand_ins and missing_files(chosen) == []
    assert len(ChatTokenizer.load(chosen.tokenizer_dir)) == 1100
    codec = Codec.load(chosen.codec_file)
    codes = torch.arange(24).view(1, 8, 3)
    assert codec.decode(codes).std() > 0, "a codec of empty codebooks says nothing"
    load_thinker(OmniModel(chosen.model).model, chosen.thinker_file)
    ear = SpeechEncoder.load(chosen.speech_encoder_dir)
    features, lengths = ear.encode([np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1])
    assert features.shape[2] == 24 and features.std() > 0 and isinstance(ear.spell(features, lengths)[0], str)
    eye = VisionEncoder.load(chosen.vision_encoder_dir)
    row = pq.read_table(chosen.data_dir / "sft_i2t_mini.parquet").slice(0, 1).to_pylist()[0]
    assert eye.encode([open_picture(row["image_bytes"])]).shape == (1, 4, 16)


def test_the_real_thing_is_never_touched(stand_ins, tmp_path):
    before = os.environ.get("MMO_DOWNLOADS")
    (tmp_path / "mine.bin").write_bytes(b"1")
    with pytest.raises(ValueError, match="no stand-ins"):
        write_stand_ins("mini", tmp_path, TOY)
    with pytest.raises(ValueError, match="other sizes"):
        write_stand_ins("mini", stand_ins, Sizes())
    with pytest.raises(ValueError, match="downloads nothing"):
        write_stand_ins("tiny", tmp_path / "new", TOY)
    assert not (tmp_path / "new").exists()
    assert os.environ.get("MMO_DOWNLOADS") == before


def test_stand_ins_are_made_once(stand_ins):
    before = {path: path.stat().st_mtime_ns for path in stand_ins.rglob("*") if path.is_file() and path.name != STAND_INS}
    said = []
    write_stand_ins("mini-moe", stand_ins, TOY, say=said.append)
    assert not said and before == {path: path.stat().st_mtime_ns for path in before}
    assert len([path for path in before if path.suffix == ".parquet" and "sft_" in path.name]) == 3


def test_questions_are_masked_on_their_way_into_the_encoder(chosen):
    """As `mini` trains: some sounds lose bands and gaps behind the frontend, and none its length."""
    speech = default_encoders(chosen, torch.device("cpu")).speech
    assert "Masks(" in speech.augmentation, "features of other masks are other features"
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    drawn = [speech.augment(samples, np.random.default_rng(number)) for number in range(20)]
    masked = next(each for each in drawn if isinstance(each, Masked))
    hidden, whole = (speech.encode([each])[0] for each in (masked, masked.samples))
    assert hidden.shape == whole.shape and np.abs(hidden - whole).max() > 1e-3


def test_without_stand_ins_the_profile_is_the_real_one(tmp_path):
    with downloads_at(tmp_path):
        real = profile("mini")
    assert not real.stand_ins and real.model.hidden_size == 768 and real.codec_file.is_relative_to(tmp_path)
    assert real.decoding.max_frames == 375 and real.stages["t2a"][0].chunk_rows == 4096


# --- Running ---------------------------------------------------------------------------------------------------------


def test_too_little_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(report.shutil, "disk_usage", lambda _: usage(10**12, 0, 8e9))
    with pytest.raises(ValueError, match="rehearsal of mini takes up to 9.7 GB more, and 8.0 GB are free there.*--folder"):
        report.rehearse(report.Settings("mini", tmp_path / "here"))
    with pytest.raises(ValueError, match="mini-moe takes up to 14.2 GB more"):
        report.rehearse(report.Settings("mini-moe", tmp_path / "here", notebooks={}))
    assert not (tmp_path / "here").exists()
    report.make_sure_of_room(report.Settings("mini", tmp_path / "here", sizes=TOY))


def test_a_command_is_not_left_behind(stand_ins, tmp_path):
    """Ctrl-C while a stage runs: what was started ends, too."""
    started = []

    def interrupted():
        started.extend(psutil.Process().children())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner("mini", stand_ins, tmp_path).run("train", "--profile", "mini", "--stage", "t2a", kill_when=interrupted)
    assert started and not [each for each in psutil.wait_procs(started, timeout=20)[1] if "train" in each.cmdline()]


def test_a_stage_that_fails_is_told_with_its_last_words(stand_ins, tmp_path):
    runner = Runner("mini", stand_ins, tmp_path)
    with pytest.raises(RehearsalFailed, match="(?s)before it saved a state.*no weights"):
        rehearse_stage(runner, "a2a")
    with pytest.raises(RehearsalFailed, match="status 2"):
        runner.expect("train", "--stage", "nothing")


def test_a_stage_that_ends_too_soon_is_told(stand_ins, tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "run", lambda self, *arguments, kill_when=None: Ran(0, 1.0, 1, ""))
    with pytest.raises(RehearsalFailed, match="before it could be killed"):
        rehearse_stage(Runner("mini", stand_ins, tmp_path), "t2a")


@pytest.mark.parametrize("spoil, message", [
    (lambda log: log.pop(1), "steps are"),  # a step lost
    (lambda log: log.append(dict(log[-1])), "steps are"),  # a step twice
])  # fmt: skip
def test_a_log_that_does_not_go_on_is_refused(stand_ins, tmp_path, monkeypatch, spoil, message):
    runner = Runner("mini", stand_ins, tmp_path)
    weights = tmp_path / "t2a.safetensors"
    log = [{"step": step, "pass": "t2a", "rows": 1, "positions": 1, "seconds": 1.0, "processor_seconds": 1.0} for step in range(3)]
    spoil(log)
    monkeypatch.setattr(stages, "read_log", lambda path: log)
    good = Ran(0, 1.0, 1, "going on with stage t2a at pass t2a, step 1\n")
    with pytest.raises(RehearsalFailed, match="without"):
        stages.checked(runner, "t2a", weights, (good, good))
    weights.write_bytes(b"")
    with pytest.raises(RehearsalFailed, match=message):
        stages.checked(runner, "t2a", weights, (good, good))
    with pytest.raises(RehearsalFailed, match="began anew"):
        stages.checked(runner, "t2a", weights, (good, Ran(0, 1.0, 1, "pass t2a: 3 steps")))


def test_memory_is_the_most_that_a_process_held():
    """300 MB for a moment, given back before it ends; what the parent holds is no part of it."""
    import subprocess
    import sys

    mine = np.ones(80_000_000)  # 640 MB
    process = subprocess.Popen([sys.executable, "-c", "import time; x = bytearray(300_000_000); del x; time.sleep(0.2)"])
    status, memory = stages.watch(process, None)
    assert mine.sum() == len(mine)
    assert status == 0 and 300e6 < memory < 500e6
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert stages.watch(process, lambda: True)[0] == -9


def test_the_examination_asks_rows_that_were_set_aside(chosen, capsys):
    from mmo.examination import OPEN_WORLD, SIZES, Exam

    exam = Exam(chosen, SIZES["rehearse"])
    assert OPEN_WORLD in capsys.readouterr().out, "that these are no questions with one right answer must be said"
    assert len(exam.said) == len(exam.asked) == len(exam.shown) == TOY.rows // 16
    assert all(item.question_sound for item in exam.asked) and all(item.picture for item in exam.shown)
    assert len(exam.text_prompts(exam.said)) == 3 and exam.text_prompts(exam.said)[0].speaker.shape == (192,)


# --- Plans -----------------------------------------------------------------------------------------------------------


def test_without_a_judge_nobody_listens_and_it_is_said(chosen, capsys):
    """`mmo fetch --profile mini --stage t2a` brings none, and notebook 10 goes on."""
    chosen = replace(chosen, judge_dir=chosen.judge_dir / "not fetched")
    said = Answer("", [], torch.zeros(8, 1, dtype=torch.long), True, True, np.zeros(1920, np.float32))
    assert Exam(chosen, EXAMS["rehearse"], stages=("t2a",)).heard([said]) == []
    assert "mmo fetch judge" in capsys.readouterr().out


def test_a_plan_has_every_row_once(chosen):
    """Rows, steps and positions of an epoch, from one chunk: what the recipe's own loader would say."""
    counts = {each.name: each for each in planning.count(chosen, rows=64)}
    assert list(counts) == ["t2a", "a2a-projector", "a2a", "i2t-projector", "i2t"]
    assert counts["t2a"].rows == MINI["t2a"].rows and counts["a2a"].rows == MINI["a2a"].rows
    assert counts["i2t"].rows == pytest.approx(MINI["i2t"].rows / 0.6, rel=0.05), "two fifths of its rows are rehearsed"
    for each in counts.values():
        assert 0.5 < each.useful <= 1 and each.positions / each.steps <= each.budget and each.operations > 0
    assert [each.encoded for each in counts.values()] == [{}, {"question_audios": 77_000}, {}, {"image_bytes": 64_000}, {}]
    with pytest.raises(ValueError, match="mini and mini-moe; tiny"):
        planning.count(profile("tiny"))


def test_a_frozen_pass_costs_two_thirds(chosen):
    """Gradients of inputs, none of weights; the same rows."""
    from mmo.bench.flops import Work, forward_flops

    stage = chosen.stages["a2a"][0]
    assert stage.trainable == "audio_proj"
    counted = planning.count(chosen, rows=64)
    assert counted[1].operations / counted[1].positions < 0.8 * counted[2].operations / counted[2].positions
    assert forward_flops(chosen.model, Work(1, 10, 10, 10, 10, False)) > 0


def test_hours_follow_the_measured_pace(chosen):
    counts = planning.count(chosen, rows=64)
    pace = {each.name: {"positions": 1000.0, "seconds": 2.0, "processor_seconds": 1.0} for each in counts}
    encoders = {"image_bytes": {"items": 10.0, "seconds": 5.0}}
    figures = {"by": "seconds", "threads": 1, "device": "cpu", "passes": pace, "encoders": encoders, "memory": {}}
    plan = planning.from_figures(counts, figures, 14e9)
    assert plan.lines[0].training == pytest.approx(counts[0].positions * 0.002 / 3600)
    assert plan.lines[3].encoding == pytest.approx(64_000 * 0.5 / 3600) and plan.lines[1].encoding == 0
    half = planning.from_figures(counts, figures | {"by": "processor_seconds", "encoders": {}}, 14e9)
    assert half.lines[0].training == pytest.approx(plan.lines[0].training / 2)


def test_hours_without_some_passes_say_so(chosen):
    counts = planning.count(chosen, rows=64)
    figures = {"profile": "mini", "by": "seconds", "threads": 1, "device": "cpu", "encoders": {}, "memory": {}}
    pace = {counts[0].name: {"positions": 1000.0, "seconds": 2.0, "processor_seconds": 1.0}}
    others = ", ".join(each.name for each in counts[1:])
    assert planning.from_figures(counts, figures | {"passes": pace}, 14e9).title.endswith(f", WITHOUT {others} (not rehearsed)")
    with pytest.raises(ValueError, match="this rehearsal has trained no pass of mini"):
        planning.from_figures(counts, figures | {"passes": {}}, 14e9)


def test_a_card_twice_as_fast_takes_half_the_time(chosen):
    counts = planning.count(chosen, rows=64)
    memory = {each.name: planning.Memory(1e9, 1e6) for each in counts}
    slow, fast = (planning.from_card(counts, memory, "rtx3090", share) for share in (0.2, 0.4))
    assert slow.lines[0].training == pytest.approx(2 * fast.lines[0].training)
    t4, l4 = (planning.from_card(counts, memory, card, 0.3) for card in ("t4", "l4"))
    assert t4.lines[0].training / l4.lines[0].training == pytest.approx(121 / 8.1), "a T4 has no bf16"
    assert any("assumed" in words for words in slow.assumptions)
    with pytest.raises(ValueError, match="no card 'abacus'"):
        planning.from_card(counts, memory, "abacus", 0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        planning.from_card(counts, memory, "t4", 2)


def test_what_a_wanted_time_takes(chosen):
    """At that share of the peak, with so many loaders, the plan comes to those minutes; the share and the loaders stand with the assumptions."""
    counts = [replace(each, loading=0.0) for each in planning.count(chosen, rows=64)]
    card, memory = planning.CARDS["rtx3090"], {each.name: planning.Memory(1e9, 1e6) for each in counts}
    minutes = 60 * planning.from_card(counts, memory, "rtx3090", 0.5).hours
    assert planning.what_it_takes(counts, card, minutes).startswith(f"{minutes:g} minutes take 50% of the peak and 1 loader process")
    assert "out of reach: 5.0 times" in planning.what_it_takes(counts, card, minutes / 10)
    training = counts[0].operations / (0.5 * card.bf16)
    slow = [replace(counts[0], loading=2.5 * training), *counts[1:]]
    assert planning.what_it_takes(slow, card, minutes).endswith("and 3 loader processes")
    told = planning.from_card(slow, memory, "rtx3090", 0.3).assumptions[-1]
    assert told.startswith("30 minutes ") and "20 minutes " in told and "up to 4 processes" in told


def test_positions_that_fit():
    memory = planning.Memory(fixed=2e9, each=1e6)
    assert memory.fits(14e9, longest=512, most=8192) == 8192
    assert memory.fits(5e9, longest=512, most=8192) == 2816 and memory.at(2816) <= 5e9 < memory.at(2816 + 256)
    assert memory.fits(2.4e9, longest=512, most=8192) == 0, "not even one row"


def test_what_a_forward_keeps_is_counted(chosen):
    """More positions keep more, a frozen model keeps less, half precision keeps less."""
    full = planning.count_memory(chosen, torch.float32, rows=64)
    half = planning.count_memory(chosen, torch.bfloat16, rows=64)
    assert all(each.each > 0 for each in full.values())
    assert full["a2a-projector"].each < full["a2a"].each and half["t2a"].each < full["t2a"].each
    # At least the hidden states of every block and the logits of eight codebooks must be kept for each position.
    assert full["t2a"].each > 4 * (3 * 32 * 6)


def test_counting_what_is_kept_lets_go_of_it(chosen, monkeypatch):
    """An operation that keeps its own output must not be kept alive by having been counted: at full size that is gigabytes a pass."""
    weight, outputs = torch.nn.Parameter(torch.ones(1000)), []

    def losses(*_):
        outputs.append(weakref.ref(found := weight.exp()))  # the gradient of exp is exp: it is kept
        return found.sum()

    monkeypatch.setattr(planning, "losses_of", losses)
    assert planning.kept_bytes(torch.nn.Linear(1, 1), None, None, torch.float32) == 4000
    assert outputs[0]() is None, "the output outlived its counting"


def test_figures_of_another_size_predict_nothing(chosen, tmp_path):
    with pytest.raises(FileNotFoundError, match="mmo rehearse --profile mini"):
        report.read_figures(tmp_path, "mini")
    with pytest.raises(ValueError, match="predict nothing"):
        report.measured_plan(chosen, {"full_size": False})


def test_processor_time_tells_more_where_others_compute():
    def figures(wall, busy, threads=1):
        return {"device": "cpu", "threads": threads, "passes": {"x": {"seconds": wall, "processor_seconds": busy}}, "encoders": {}}

    assert report.measured_by(figures(10.0, 9.5)) == "seconds"
    assert report.measured_by(crowded := figures(80.0, 10.0, threads=2)) == "processor_seconds"
    assert crowded["passes"]["x"]["processor_seconds"] == 5.0
    assert report.measured_by(figures(10.0, 1.0) | {"device": "cuda"}) == "seconds"


def test_speech_is_decoded_though_the_model_would_stop(stand_ins, chosen, tmp_path):
    """Codebook 0 may not stop; every frame comes out of the codec."""
    import soundfile

    from mmo.generation import Generator, Prompt
    from mmo.omni import OmniModel, save_model
    from mmo.rehearsal.speak import Unstoppable
    from mmo.rehearsal.stages import rehearse_speech

    model, stop = OmniModel(chosen.model), chosen.model.audio_stop_token
    prompt = Prompt([1, 2, 3], torch.zeros(192))
    with torch.no_grad():
        allowed = [kind(model).start([prompt], chosen.decoding, True).allowed for kind in (Generator, Unstoppable)]
    assert allowed[0][0, stop] == 0 and allowed[1][0, stop] == -torch.inf
    save_model(model, tmp_path / "m.safetensors")
    runner = Runner("mini", stand_ins, tmp_path)
    found = rehearse_speech(runner, tmp_path / "m.safetensors")
    samples, rate = soundfile.read(tmp_path / "answers" / "speech.wav")
    assert rate == 24_000 and len(samples) == 3 * 1920 and found["speech_seconds"] == pytest.approx(0.24)
    assert json.loads((tmp_path / "answers" / "speech.json").read_text())["real_time_factor"] > 0


# --- Notebooks -------------------------------------------------------------------------------------------------------


def write_notebook(path, *cells):
    """Parameters, then the cells; a line that begins with # is a heading's."""
    parameters = nbformat.v4.new_code_cell("profile = 'nobody'\nbudget = 'nothing'", metadata={"tags": ["parameters"]})
    made = [nbformat.v4.new_markdown_cell(cell) if cell.startswith("#") else nbformat.v4.new_code_cell(cell) for cell in cells]
    book = nbformat.v4.new_notebook(cells=[parameters, *made])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
    return path


SHORT = """
from mmo.assistant import Assistant
from mmo.profiles import profile as find_profile, run_dir
from mmo.training import process_peak, train
settings = find_profile(profile)
run = run_dir(settings, budget)
print(train(settings, "t2a", budget, run, progress_bar=False, workers=0).total_steps, "steps")
print(Assistant.load(settings, run).which)
"""
WEIGHED = """
import os, time
hold = b"1" * 300_000_000
del hold
(run / "peak.txt").write_text(str(process_peak(os.getpid())))
time.sleep(1)  # memory is looked at twice a second
"""


def test_a_short_notebook_on_stand_ins(stand_ins, tmp_path):
    """A real kernel trains the toy and loads it again; the report has its seconds and its own memory, and not a figure is lost beside it."""
    (tmp_path / "stand-ins").symlink_to(stand_ins)
    source = write_notebook(tmp_path / "short.ipynb", "# Short", SHORT, WEIGHED)
    settings = report.Settings("mini", tmp_path, positions=768, stages=(), notebooks={"t2a": source}, sizes=TOY)
    mine, said = np.ones(80_000_000), []  # 640 MB here, which are no part of the kernel's
    figures = report.rehearse(settings, say=said.append)
    told, run = figures["notebooks"]["t2a"], tmp_path / "mini" / "notebooks" / "mini-rehearse"
    assert figures == report.read_figures(tmp_path, "mini") and mine.sum() == len(mine)
    assert told["file"] == "short.ipynb" and told["seconds"] > 0 and not told["kept"]
    beyond = told["memory"] - int((run / "peak.txt").read_text())  # a kernel still grows while it ends: by 25 to 40 MB, seen
    assert 0 <= beyond < mine.nbytes // 4, f"the most that the kernel held, and nothing else: {beyond / 1e6:.0f} MB more than it told"
    text = (tmp_path / "mini" / "notebooks" / "short.ipynb").read_text(encoding="utf-8")
    assert "3 steps" in text and "nothing that it says or scores means anything" in text
    assert (run / "t2a.safetensors").is_file() and not (run / "snapshots").exists()

    report.figures_file(tmp_path, "mini").write_text(json.dumps(figures | {"passes": {"t2a": {}}, "notebooks": {}}), encoding="utf-8")
    again = report.rehearse(settings, say=said.append)
    assert again["notebooks"]["t2a"] == told | {"kept": True} and again["passes"] == {"t2a": {}}, "what was measured before stays"
    assert said[-1].startswith("short.ipynb: kept from before")
    same = report.rehearse(replace(settings, positions=None), say=said.append)
    assert same == again, "positions are those of the last report where none are named"
    before = report.figures_file(tmp_path, "mini").read_bytes()
    with pytest.raises(ValueError, match=r"mini.json is of another rehearsal \(positions 768, now 512\) and would be lost.*--folder"):
        report.rehearse(replace(settings, positions=512), say=said.append)
    assert report.figures_file(tmp_path, "mini").read_bytes() == before


def test_a_cell_that_fails_is_named_and_its_copy_kept(stand_ins, tmp_path):
    source = write_notebook(tmp_path / "bad.ipynb", "# Bad", "print('so far so good')", "## Judge\n", "raise FileNotFoundError('no words')", "print('never')")
    told = []
    with pytest.raises(NotebookFailed, match=r'(?s)bad.ipynb failed in cell \d of \d, "Judge": FileNotFoundError: no words.*--profile mini --only-notebooks'):
        rehearse_notebooks(Runner("mini", stand_ins, tmp_path, say=lambda words: None), {"t2a": source}, tell=lambda found: told.append(dict(found)))
    copy = tmp_path / "notebooks" / "bad.ipynb"
    assert "so far so good" in copy.read_text(encoding="utf-8") and not books.note_of(copy).exists()
    assert "no words" in told[-1]["t2a"]["failed"]


class Played:
    """Stands for papermill: notes what is run, leaves a copy and weights, fails where the source says so."""

    def __init__(self, run):
        self.run, self.ran = run, []

    def __call__(self, source, copy, parameters, watch):
        assert parameters == {"profile": "mini", "budget": "rehearse"}
        self.ran.append(source.stem)
        if source.read_text() == "fail":
            raise NotebookFailed(f"{source.name} failed")
        for path in (copy, *([self.run / f"{source.stem}.safetensors"] if source.stem in STAGES else [])):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return 1.0

    def names(self):
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def played(stand_ins, tmp_path, monkeypatch):
    """Three short notebooks and a call that runs them: t2a and a2a leave weights, talk leaves none."""
    sources = {name: tmp_path / f"{name}.ipynb" for name in ("t2a", "a2a", "talk")}
    for path in sources.values():
        path.write_text("good")
    player = Played(tmp_path / "notebooks" / "mini-rehearse")
    player.run.mkdir(parents=True)
    monkeypatch.setattr(books, "run_notebook", player)
    runner = Runner("mini", stand_ins, tmp_path, say=lambda words: None)

    def call(fresh=False, positions=None):
        runner.positions = positions
        return rehearse_notebooks(runner, sources, fresh)

    call()
    assert player.names() == ["t2a", "a2a", "talk"]
    return call, player, sources, tmp_path / "notebooks"


@pytest.mark.parametrize("change, again", [
    (lambda sources, runs: None, []),
    (lambda sources, runs: sources["a2a"].write_text("other"), ["a2a", "talk"]),  # what comes behind goes on from it
    (lambda sources, runs: (runs / "talk.ipynb").unlink(), ["talk"]),
    (lambda sources, runs: (runs / "mini-rehearse" / "t2a.safetensors").unlink(), ["t2a", "a2a", "talk"]),
])  # fmt: skip
def test_finished_notebooks_are_kept(played, change, again):
    call, player, sources, runs = played
    change(sources, runs)
    found = call()
    assert player.names() == again
    assert [name for name, told in found.items() if not told["kept"]] == again and list(found) == list(sources)


def test_other_settings_or_the_word_fresh_run_everything_anew(played):
    call, player, sources, _ = played
    call(positions=512)
    assert player.names() == list(sources)
    call(fresh=True, positions=512)
    assert player.names() == list(sources)


def test_the_next_call_goes_on_with_the_notebook_that_failed(played):
    call, player, sources, runs = played
    sources["a2a"].write_text("fail")
    (runs / "mini-rehearse" / "a2a.state.safetensors").write_text("of an interrupted training")
    with pytest.raises(NotebookFailed):
        call()
    assert player.names() == ["a2a"]
    assert sorted(path.name for path in (runs / "mini-rehearse").iterdir()) == ["t2a.safetensors"], "it begins where those before it ended"
    sources["a2a"].write_text("good")
    call()
    assert player.names() == ["a2a", "talk"]


def test_a_notebook_that_is_missing_is_named(stand_ins, tmp_path):
    with pytest.raises(NotebookFailed, match="none.ipynb is not there"):
        rehearse_notebooks(Runner("mini", stand_ins, tmp_path), {"t2a": tmp_path / "none.ipynb"})


# --- All of it -------------------------------------------------------------------------------------------------------


def test_a_whole_rehearsal(stand_ins, monkeypatch):
    """Real child processes and a real SIGKILL; the log has every step once, and the report says what was held."""
    settings = report.Settings(
        "mini", stand_ins.parent, positions=768, steps=40, memory=14.0, stages=("t2a",), notebooks={}, answers=False, sizes=TOY
    )
    figures = report.rehearse(settings, say=lambda words: None)
    assert figures == report.read_figures(stand_ins.parent, "mini") and not figures["full_size"] and figures["limit"] == 14e9
    found = figures["stages"]["t2a"]
    assert found["steps"] == 40 and 1 <= found["killed_at"] < 40 and found["memory"] > 100e6
    assert figures["passes"]["t2a"]["rows"] > 0 and figures["passes"]["t2a"]["seconds"] > 0
    assert (stand_ins.parent / "mini" / "mini-rehearse" / "t2a.safetensors").is_file()
    line = planning.Memory(figures["memory"]["t2a"]["fixed"], figures["memory"]["t2a"]["each"])
    assert line.at(768) == pytest.approx(found["memory"], rel=0.01), "the line goes through what was measured"
    report.show_figures(figures)


def test_the_commands_say_what_to_do(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from mmo.cli import app

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(report.shutil, "disk_usage", lambda _: usage(10**12, 0, 10**11))  # whatever this machine has: a full disk is told first
    missing = CliRunner().invoke(app, ["plan", "--folder", str(tmp_path)])
    assert missing.exit_code == 1 and "mmo rehearse --profile mini" in missing.output and "--card" in missing.output
    unknown = CliRunner().invoke(app, ["plan", "--card", "abacus"])
    assert unknown.exit_code == 1 and "no card 'abacus'; there are t4, l4, rtx3090" in unknown.output
    (tmp_path / "stand-ins").mkdir()
    (tmp_path / "stand-ins" / "mine.bin").write_bytes(b"1")
    refused = CliRunner().invoke(app, ["rehearse", "--folder", str(tmp_path)])
    assert refused.exit_code == 1 and "no stand-ins" in refused.output
    nothing = CliRunner().invoke(app, ["rehearse", "--only-notebooks", "--no-notebooks"])
    assert nothing.exit_code == 2 and "rehearses no stage" in nothing.output
    nonsense = CliRunner().invoke(app, ["rehearse", "--folder", str(tmp_path / "new"), "--stage", "t2a", "--stage", "nonsense"])
    assert nonsense.exit_code == 2 and "no stage 'nonsense'; there are t2a, a2a, i2t" in " ".join(nonsense.output.replace("│", "").split())
    monkeypatch.setenv("MMO_POSITIONS", "abc")
    for command in ("plan", "rehearse"):
        wrong = CliRunner().invoke(app, [command, "--folder", str(tmp_path / "new")])
        assert wrong.exit_code == 1 and f"mmo {command}: MMO_POSITIONS is 'abc'; wanted a number of positions" in wrong.output
    assert not (tmp_path / "new").exists(), "no stand-in was written"


@pytest.mark.notebook
def test_notebooks_run_on_stand_ins(stand_ins, chosen, tmp_path):
    """10 to 13 through papermill, at toy sizes: most of it is the kernels' start and pictures.  No other test runs them on rows like `mini`'s, which name no voice."""
    write_judges(chosen, TOY_JUDGES, say=lambda words: None)
    found = rehearse_notebooks(Runner("mini", stand_ins, tmp_path, positions=768, say=lambda words: None))
    assert list(found) == ["t2a", "a2a", "i2t", "talk"] and all(each["seconds"] > 0 and each["memory"] > 100e6 for each in found.values())
    for each in found.values():
        text = (tmp_path / "notebooks" / each["file"]).read_text(encoding="utf-8")
        assert "nothing that it says or scores means anything" in text, f"{each['file']} does not say that it ran on stand-ins"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", "mini-moe"])
def test_the_real_sizes_fit_fourteen_gigabytes(tmp_path, name):
    """Full size, the frozen parts and notebooks 10 to 13 too: an hour and more on two cores, and 2 GB of disk for stand-ins, a mixture's run 15 more."""
    figures = report.rehearse(report.Settings(name, tmp_path, memory=14.0), say=print)
    assert figures["full_size"] and figures["weights"] > (110e6 if name == "mini" else 310e6)
    assert list(figures["notebooks"]) == list(NOTEBOOKS)
    assert all(0 < each["memory"] <= 14e9 for kind in ("stages", "answers", "notebooks") for each in figures[kind].values())
    assert 0 < figures["evaluation"]["memory"] <= 14e9
    with downloads_at(tmp_path / "stand-ins"):
        assert report.measured_plan(profile(name), figures).hours > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", "mini-moe"])
def test_a_card_of_24_gigabytes_holds_the_default_budget(name):
    """Counted on a processor at full size: minutes, and some gigabytes."""
    chosen = profile(name)
    memory = planning.count_memory(chosen, torch.bfloat16)
    needed = {each.name: memory[each.name].at(each.token_budget) for passes in chosen.stages.values() for each in passes}
    assert len(needed) == 5 and all(bytes_needed <= 22e9 for bytes_needed in needed.values()), needed
