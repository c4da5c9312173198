"""The examination rehearsed: drawn judges in the real layouts, and `mmo evaluate` with them, at toy sizes."""

import json

import pytest
import torch
from judges import SIZES
from test_rehearsal import TOY

from mmo.omni import OmniModel, save_model
from mmo.profiles import STAGES, profile
from mmo.rehearsal.judges import JudgeSizes, fresh_whisper, rehearse_evaluation, whisper_processor, write_judges
from mmo.rehearsal.stages import RehearsalFailed, Runner
from mmo.rehearsal.stand_ins import write_stand_ins

@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    return write_stand_ins("mini", tmp_path_factory.mktemp("rehearsal") / "stand-ins", TOY, say=lambda words: None)


@pytest.fixture
def chosen(stand_ins, monkeypatch):
    monkeypatch.setenv("MMO_DOWNLOADS", str(stand_ins))
    return profile("mini")


def test_a_full_size_whisper_has_the_real_ones_pieces_and_weights(tmp_path):
    """51 865 pieces and 241.7 M weights are those of Whisper small."""
    processor = whisper_processor(tmp_path / "whisper", JudgeSizes())
    assert len(processor.tokenizer) == 51_865 and processor.feature_extractor.n_samples == 480_000
    number = processor.tokenizer.convert_tokens_to_ids
    pieces = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>", "<|0.00|>", "<|30.00|>")
    assert [number(piece) for piece in pieces] == [50257, 50258, 50259, 50260, 50359, 50363, 50364, 51864]
    with torch.device("meta"):
        model = fresh_whisper(processor.tokenizer, JudgeSizes())
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(241.7e6, rel=0.001)


def test_judges_are_put_beside_stand_ins_only(chosen, tmp_path, monkeypatch):
    said = []
    write_judges(chosen, SIZES, said.append)
    write_judges(chosen, SIZES, said.append)
    assert len(said) == 2, "what is there stays"
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path))
    with pytest.raises(ValueError, match="no stand-ins"):
        write_judges(profile("mini"), SIZES)
    assert not list(tmp_path.iterdir())


def test_the_command_examines_what_was_rehearsed(chosen, stand_ins, tmp_path):
    """Whisper and CAM++ loaded, every stage asked, in a process of its own."""
    said = []
    runner = Runner("mini", stand_ins, tmp_path, say=said.append)
    runner.run_dir.mkdir()
    with pytest.raises(RehearsalFailed, match="(?s)evaluate.*no weights"):
        rehearse_evaluation(runner, chosen, SIZES)
    for seed, stage in enumerate(STAGES):
        torch.manual_seed(seed)
        save_model(OmniModel(chosen.model), runner.run_dir / f"{stage}.safetensors")
    found = rehearse_evaluation(runner, chosen, SIZES)
    assert found["memory"] > 100e6 and found["seconds"] > 0 and {"t2a", "a2a", "i2t", "listen"} <= set(found["parts"])
    report = json.loads((runner.run_dir / "report.json").read_text())
    assert report["stand_ins"] is True and report["judges"]["speech"] == "whisper-small"
    assert (runner.run_dir / "prompts" / "index.html").is_file()
