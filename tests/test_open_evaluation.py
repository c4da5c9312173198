"""The examination of open questions on a toy world: what is held against what, and a report that lacks nothing."""

import json
from dataclasses import replace

import judges
import numpy as np
import pytest
import torch
import worlds
from judges_world import VOICES, add_judges, make_test_rows, open_profile
from typer.testing import CliRunner

from mmo import cli, evaluation, measures, open_evaluation, open_report, profiles
from mmo import report as reports
from mmo.evaluation import evaluate_run
from mmo.examination import Ear, Sizes, item_of
from mmo.fixed_prompts import LENGTHS, LONGER
from mmo.generation import Answer
from mmo.omni import OmniModel, save_model
from mmo.open_evaluation import Room, Voices, answer_figures, others_of, voice_figures
from mmo.rows import DataError
from mmo.speaker import SpeakerEncoder
from mmo.whisper_judge import WhisperJudge

SIZE = Sizes(sentences=6, questions=4, pictures=4, spoken=2, swapped=3, controls=3, streamed=2, prompts=5)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    profile = open_profile(tmp_path_factory.mktemp("open"))
    add_judges(profile)
    return profile


class Scribe:
    """A judge that hears the same in everything, and counts words as the closed world does."""

    name, split = "scribe", staticmethod(measures.words)

    def transcribe(self, sounds, workers=2, progress=None):
        progress(len(sounds))
        return ["one red star"] * len(sounds)


def evaluate(profile, folder, stages=("t2a", "i2t"), **others):
    folder.mkdir(exist_ok=True)
    for seed, stage in enumerate(stages):
        torch.manual_seed(seed)
        save_model(OmniModel(profile.model), folder / f"{stage}.safetensors")
    sizes = evaluation.SIZES
    evaluation.SIZES = {"smoke": SIZE}
    try:
        return evaluate_run(profile, folder, "smoke", encoders=worlds.toy_encoders(), **others)
    finally:
        evaluation.SIZES = sizes


@pytest.fixture(scope="module")
def run(profile, tmp_path_factory):
    """Heard by a real Whisper that was taught nothing; after A2A there are no weights."""
    folder = tmp_path_factory.mktemp("run")
    return folder, evaluate(profile, folder)


# --- The whole -------------------------------------------------------------------------------------------------------


def test_the_report_has_every_key_and_says_why_a_figure_is_missing(run):
    folder, report = run
    assert json.loads((folder / "report.json").read_text()) == report
    for key in open_report.REQUIRED:
        *path, last = key.split(".")
        place = report
        for part in path:
            place = place[part]
        assert last in place, key
    empty = reports.nulls({key: value for key, value in report.items() if key not in ("bounds", "reasons")})
    assert sorted(empty) == sorted(report["reasons"]) and all(report["reasons"].values())
    assert report["after_stage"]["a2a"] is None and "no weights of this stage" in report["reasons"]["after_stage.a2a"]
    assert {"seconds.total", "peak_rss_mb", "after_stage.a2a", "i2a.wer_codec_ceiling"} <= set(empty)
    measured = ("t2a.wer", "t2a.cer", "t2a.wer_codec_ceiling", "t2a.cer_codec_ceiling", "t2a.similarity", "t2a.similarity_codec_ceiling",
                "t2a.similarity_recorded", "t2a.similarity_other_voice", "a2a.wer", "a2a.wer_codec_ceiling", "i2a.wer", "controls.wer_noise",
                "a2a.overlap", "a2a.overlap_written", "a2a.overlap_swapped_questions", "i2t.overlap_swapped_pictures")  # fmt: skip
    assert not [key for key in measured if reports.lookup(report, key) is None]
    assert report["checkpoint"] == "i2t.safetensors" and report["questions"] == "open" and report["stand_ins"] is False
    assert report["judges"] == {"speech": "whisper-toy", "language": "en", "voice": "campplus_cn_common.bin"}


def test_sizes_are_as_planned_and_every_answer_is_in_one_bucket(run):
    _, report = run
    assert (report["t2a"]["answers"], report["t2a"]["recorded"]) == (SIZE.sentences, SIZE.sentences)
    assert (report["a2a"]["questions"], report["a2a"]["answers"], report["i2t"]["pictures"]) == (SIZE.questions, SIZE.spoken, SIZE.pictures)
    assert report["controls"]["answers"] == SIZE.controls and report["streaming"]["prompts"] == SIZE.streamed
    for group in (report["t2a"]["said"], report["t2a"]["recorded_by_length"], report["after_stage"]["t2a"]["said"]):
        assert list(group) == [*LENGTHS, LONGER]
    assert sum(each["answers"] for each in report["t2a"]["said"].values()) == SIZE.sentences
    for stage in ("t2a", "i2t"):
        told = report["after_stage"][stage]
        assert told["answers"] == SIZE.prompts == sum(each["answers"] for each in told["asked"].values())
        assert all(each["answers"] for each in told["asked"].values()), "a few prompts are of all three lengths"
        assert told["similarity"] is not None and told["similarity_other_voice"] is not None, "though all of these few are in one voice"


def test_the_prompts_sounds_are_kept_with_what_was_heard(run, profile):
    folder, report = run
    judge = WhisperJudge.load(profile.judge_dir)
    for stage in ("t2a", "i2t"):
        told = json.loads((folder / "prompts" / stage / "said.json").read_text())
        assert told["weights"] == f"{stage}.safetensors" and len(told["answers"]) == SIZE.prompts
        assert all(isinstance(each["heard"], str) for each in told["answers"])
        assert all((folder / "prompts" / stage / each["sound"]).is_file() for each in told["answers"] if each["sound"])
        assert any(each["sound"] for each in told["answers"])
        texts, heard = ([each[key] for each in told["answers"]] for key in ("answer", "heard"))
        assert report["after_stage"][stage]["wer"] == measures.word_errors(texts, heard, judge.split).wer
        assert report["after_stage"][stage]["cer"] == measures.character_errors(texts, heard, judge.split).cer
    page = (folder / "prompts" / "index.html").read_text()
    assert "after t2a" in page and "after i2t" in page and "after a2a" not in page
    assert len(list((folder / "samples").glob("*.wav"))) == 6


def test_the_tables_print_and_stand_ins_are_called_so(run, capsys):
    _, report = run
    reports.show(report, "smoke")
    printed = capsys.readouterr().out
    for words in ("Fixed prompts (smoke), heard by whisper-toy", "after t2a", "recorded, through the codec", "frames shuffled"):
        assert words in printed
    assert "stand-ins" not in printed
    reports.show(report | {"stand_ins": True}, "smoke")
    assert "not one of the figures below means anything" in " ".join(capsys.readouterr().out.split())


def test_the_fixed_prompts_stand_beside_the_codecs_ceiling_by_length(run):
    _, report = run
    stages = [stage for stage, found in report["after_stage"].items() if found]
    rows = {row[0]: row[1:] for row in open_report.prompt_rows(report, stages)}
    assert all(len(row) == len(stages) + 1 for row in rows.values())
    for name in (*LENGTHS, LONGER):
        assert rows[f"said {name}"][-1] == open_report.pair(report["t2a"]["recorded_by_length"][name])
    assert rows["all: WER / CER"][-1] == f"{open_report.percent(report['t2a']['wer_codec_ceiling'])} / {open_report.percent(report['t2a']['cer_codec_ceiling'])}"
    assert any(rows[f"said {name}"][-1] != "–" for name in LENGTHS)
    bare = {row[0]: row[1:] for row in open_report.prompt_rows({"after_stage": report["after_stage"]}, stages)}
    assert bare["said short"][-1] == "–", "a report without held-out rows has none"


def test_the_weekend_may_finish_it_again_and_show_it_on_its_page(run):
    from mmo.weekend_page import figures_table

    _, report = run
    again = reports.finish(report | {"seconds": report["seconds"] | {"total": 9.0}, "peak_rss_mb": 7})
    assert "seconds.total" not in again["reasons"] and {each["figure"] for each in again["bounds"]} == {
        "controls.wer_shuffled_frames", "controls.wer_noise", "controls.wer_wrong_sentence",
    }  # fmt: skip
    table = figures_table(again)
    assert "through the codec" in table and "the answer is right" not in table and "9 s" in table


def test_the_ceiling_is_the_recorded_answer_held_against_its_own_text(profile, tmp_path):
    report = evaluate(profile, tmp_path, ("t2a",), judge=Scribe())
    truths = [item_of(row, worlds.MODEL).truth for row in measures.spread(make_test_rows("t2a"), SIZE.sentences)]
    heard = ["one red star"] * len(truths)
    assert report["t2a"]["wer_codec_ceiling"] == measures.word_errors(truths, heard).wer
    assert report["t2a"]["cer_codec_ceiling"] == measures.character_errors(truths, heard).cer
    assert report["checkpoint"] == "t2a.safetensors" and report["after_stage"]["i2t"] is None


def test_imported_weights_are_examined_under_their_own_name(profile, tmp_path):
    torch.manual_seed(0)
    imported = replace(profile, checkpoint_file=tmp_path / "minimind-3o.safetensors")
    save_model(OmniModel(profile.model), imported.checkpoint_file)
    report = evaluate(imported, tmp_path / "run", (), judge=Scribe())
    assert report["checkpoint"] == "finished" and report["after_stage"]["finished"]["answers"] == SIZE.prompts
    assert report["after_stage"]["t2a"] is None and (tmp_path / "run" / "prompts" / "finished" / "said.json").is_file()


# --- What is missing -------------------------------------------------------------------------------------------------


def test_without_judges_nothing_is_asked_and_the_command_is_named(profile, tmp_path, monkeypatch):
    nobody = replace(profile, judge_dir=tmp_path / "whisper-small", speaker_encoder_file=tmp_path / "campplus.bin")
    message = r"nobody to judge toy: .*lacks config.json.*campplus.bin is missing.*mmo fetch judge speaker-encoder"
    with pytest.raises(FileNotFoundError, match=message):
        evaluate_run(nobody, tmp_path / "run", "smoke", encoders=worlds.toy_encoders())
    assert not (tmp_path / "run").exists()
    with pytest.raises(FileNotFoundError, match=r"mmo fetch speaker-encoder$"):
        open_evaluation.check_judges(replace(profile, speaker_encoder_file=tmp_path / "campplus.bin"))
    monkeypatch.setattr(profiles, "profile", lambda name=None: nobody)
    done = CliRunner().invoke(cli.app, ["evaluate", "--run", str(tmp_path / "run")])
    assert done.exit_code == 1 and "mmo fetch judge speaker-encoder" in done.output


def test_what_was_not_fetched_yet_is_left_out_and_said(profile, tmp_path, capsys):
    """After T2A alone: A2A's rows and the vision encoder are not there."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in profile.data_dir.iterdir():
        if path.is_file() and not path.name.startswith("a2a"):
            (folder / path.name).symlink_to(path)
    young = replace(profile, data_dir=folder)
    encoders = replace(worlds.toy_encoders(), vision=None)
    exam = open_evaluation.open_exam(young, SIZE, encoders=encoders)
    assert exam.said and not exam.asked and not exam.shown
    printed = capsys.readouterr().out
    assert "mmo fetch --profile toy --stage a2a" in printed and "i2t is not examined" in printed
    (folder / "t2a-test.parquet").unlink()
    with pytest.raises(DataError, match="t2a-test.parquet"):
        open_evaluation.open_exam(young, SIZE, encoders=encoders)


def test_a_report_without_hearing_and_seeing_is_whole(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SIZES", {"smoke": SIZE})
    torch.manual_seed(0)
    save_model(OmniModel(profile.model), tmp_path / "t2a.safetensors")
    none = worlds.Encoders()
    report = evaluate_run(profile, tmp_path, "smoke", encoders=none, judge=Scribe())
    assert report["a2a"]["wer"] is None and report["i2t"]["overlap"] is None and report["t2a"]["wer"] is not None
    assert "no such held-out rows" in report["reasons"]["a2a.overlap"]


def test_vectors_of_another_speaker_encoder_are_refused(profile, tmp_path):
    wider = replace(profile, speaker_encoder_file=judges.write_speaker_encoder(tmp_path / "campplus.bin", 192))
    with pytest.raises(ValueError, match="192 values, the rows of toy in 6"):
        evaluate(wider, tmp_path / "run", ("t2a",), judge=Scribe())


# --- Who is asked what -----------------------------------------------------------------------------------------------


def test_swapped_questions_keep_their_own_voice(profile, monkeypatch):
    """A model that answers by its input alone: it shares all words with its own row's answer, and few with the others'."""
    exam = open_evaluation.open_exam(profile, SIZE, encoders=worlds.toy_encoders(), judge=Scribe())
    number = {id(item): float(n) for n, item in enumerate(exam.asked)}
    monkeypatch.setattr(exam, "hear", lambda items: [torch.full((3, worlds.SOUND_DIM), number[id(item)]) for item in items])
    asked = {}

    class Knows:
        def answer(self, prompts, what, speech):
            asked[what] = prompts
            texts = [exam.asked[int(p.audio_features[0, 0])].truth if p.audio_features is not None else "unknown" for p in prompts]
            return [Answer(text, [], torch.zeros(8, 10, dtype=torch.long), True, True, np.full(19_200, 0.1, np.float32)) for text in texts]

        def texts(self, prompts, what):
            return [answer.text for answer in self.answer(prompts, what, False)]

    ear = Ear()
    room = Room(exam, Knows(), ear, Voices(SpeakerEncoder.load(profile.speaker_encoder_file)))
    mark, _ = open_evaluation.ask_a2a(room)
    ear.heard = {name: ["one red star"] * len(sounds) for name, sounds in ear.sounds.items()}
    found = mark()
    assert found["overlap"] == 1.0 and found["overlap_swapped_questions"] < 0.6 and found["overlap_written"] == 0.0
    chosen = measures.spread(exam.asked, SIZE.questions)
    assert all(torch.equal(prompt.speaker, item.speaker) for prompt, item in zip(asked["a2a"], chosen, strict=True))
    numbers = measures.spread([n for n, _ in enumerate(chosen)], SIZE.swapped)
    for prompt, n in zip(asked["a2a swapped"], numbers, strict=True):
        assert torch.equal(prompt.speaker, chosen[n].speaker) and not torch.equal(prompt.audio_features, asked["a2a"][n].audio_features)


def test_a_voice_is_held_against_its_own_vector_and_a_strangers():
    voices = [np.array(vector) for vector in VOICES.values()]
    told = [voices[0], voices[1], voices[0]]
    assert [list(other) for other in others_of(told, voices, 0)] == [list(voices[1]), list(voices[0]), list(voices[1])]
    found = voice_figures([voices[0], None, voices[0] + voices[1]], told, voices, 0)
    assert found["similarity"] == pytest.approx((1 + 0.5**0.5) / 2, abs=1e-4)
    assert found["similarity_other_voice"] == pytest.approx((0 + 0.5**0.5) / 2, abs=1e-4) and found["voices_told"] == 2
    alone = voice_figures([voices[0]], [voices[0]], [voices[0]], 0)
    assert alone["similarity"] == 1.0 and alone["similarity_other_voice"] is None
    assert voice_figures([], [], voices, 0) == {"similarity": None, "similarity_other_voice": None, "voices_told": 0}


def test_figures_of_answers_by_hand():
    def said(text, frames, stopped=True):
        return Answer(text, [], torch.zeros(8, frames, dtype=torch.long), True, stopped)

    long = " ".join(["word"] * 20)
    answers = [said("one two three four", 5), said(long, 9, stopped=False), said("five", 0)]
    found = answer_figures(answers, ["one too three four", long, ""], measures.words, 0)
    assert found["wer"] == pytest.approx(2 / 25) and (found["wer_substitutions"], found["wer_deletions"]) == (0.04, 0.04)
    assert found["said"]["short"] == {"answers": 2, "wer": 0.4, "cer": pytest.approx((1 + 4) / (18 + 4), abs=1e-4)}
    assert found["said"]["medium"] == {"answers": 1, "wer": 0.0, "cer": 0.0} and found["said"]["long"]["wer"] is None
    assert found["runaways"] == found["silent"] == pytest.approx(1 / 3, abs=1e-4)


# --- Rows of the real files ------------------------------------------------------------------------------------------


def test_of_a_row_with_several_exchanges_the_first_is_asked():
    """Its sound belongs to its text: the first answer's codes, held against the last answer's words, would be no ceiling."""
    row = {
        "conversations": worlds.conversation("First?", "One.", "Second?", "Two."),
        "question_audios": [b"1", b"2"], "answer_audios": [[1] * 8, [2] * 16], "ref_audios": [3] * 24, "spk_emb": [1.0] * worlds.SPEAKER,
    }  # fmt: skip
    item = item_of(row, worlds.MODEL)
    assert (item.question, item.truth, item.question_sound) == ("First?", "One.", b"1")
    assert item.codes.shape == (8, 1) and int(item.codes[0, 0]) == 1 and item.reference.shape == (8, 3)
    turns = [{"role": "system", "content": "Be brief."}, *json.loads(row["conversations"])]
    assert item_of(row | {"conversations": json.dumps(turns)}, worlds.MODEL).question == "First?"


def test_pictures_may_be_a_list_and_rows_with_several_are_not_asked():
    row = {"conversations": worlds.conversation("What?", "That.")}
    assert item_of(row | {"image_bytes": b"1"}, worlds.MODEL).picture == item_of(row | {"image_bytes": [b"1"]}, worlds.MODEL).picture == b"1"
    for several in ([b"1", b"2"], [], None):
        assert item_of(row | {"image_bytes": several}, worlds.MODEL).picture is None


def test_the_large_profiles_have_these_judges_and_tiny_keeps_its_own():
    mini, full = profiles.profile("mini"), profiles.profile("full")
    assert mini.judge_dir.name == "whisper-small" and mini.judge_language == "en" and full.judge_language is None
    assert full.judge_dir == mini.judge_dir == profiles.profile("mini-moe").judge_dir and mini.speaker_encoder_file == full.speaker_encoder_file
    assert profiles.profile("tiny").judge_dir is None and profiles.profile("tiny-moe").judge_dir is None
