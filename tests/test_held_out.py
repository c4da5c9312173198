"""Rows set aside of files that have no held-out part: the same ones every time, and never trained on."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import worlds
from safetensors.torch import load_file

from mmo.config import Draws
from mmo.data import Batches, Layout
from mmo.examination import SIZES
from mmo.held_out import PARTS, VERSION, kept_rows, part_file, read_note, set_aside, source_of, wanted_rows
from mmo.prepare import check_features
from mmo.profiles import HeldOut
from mmo.rows import DataError
from mmo.training import open_corpora, read_log, train, validation_batches

ROWS = 64


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The toy profile with files as the hub has them: one a kind, no held-out ones."""
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    toy = worlds.toy_profile(tmp_path, rows=ROWS)
    for path in toy.data_dir.glob("*.parquet"):
        path.rename(path.with_name(f"sft_{path.stem.removesuffix('-train')}_mini.parquet")) if "train" in path.name else path.unlink()

    def named(files):
        return tuple(f"sft_{file.removesuffix('-train.parquet')}_mini.parquet" for file in files)

    stages = {
        stage: tuple(
            each.replace(data=named(each.data), rehearsal=tuple(replace(more, data=named(more.data)) for more in each.rehearsal)) for each in passes
        )
        for stage, passes in toy.stages.items()
    }
    return replace(toy, stages=stages, held_out=HeldOut(validation=3, test=4))


def trained_rows(profile, stage):
    """Numbers of all rows that a pass over a whole epoch reads, by file."""
    config = profile.stages[stage][-1].replace(draws=Draws.none())
    corpora, shares = open_corpora(profile, config, worlds.toy_encoders())
    batches = Batches(corpora, shares, Layout(profile.model, worlds.tokenizer(), 160), 480, chunk_rows=4 * ROWS)
    found = {}
    for example in batches.chunk(0):
        file, row = example.name.split(", row ")
        found.setdefault(file, set()).add(int(row))
    return found


def test_training_never_sees_what_is_set_aside(profile):
    """Of the stage's own file, and of those it rehearses."""
    for stage in profile.stages:
        seen = trained_rows(profile, stage)
        for other in profile.stages:
            source = source_of(profile, other)
            if source.name in seen:
                kept = kept_rows(profile, source)
                assert len(kept) == 7 and not kept & seen[source.name]
                assert seen[source.name] == set(range(ROWS)) - kept, "nothing else is left out"


def test_looking_at_features_sets_nothing_aside(profile, monkeypatch):
    """`mmo features --check` makes nothing: neither features nor the held-out files whose features it would ask for."""
    monkeypatch.setattr("mmo.prepare.default_encoders", lambda *_: worlds.toy_encoders())
    before = sorted(profile.data_dir.iterdir())
    assert not check_features(profile, "a2a", say=lambda *_: None) and sorted(profile.data_dir.iterdir()) == before


def test_of_shards_the_first_gives_them(profile):
    """A file that comes in shards: its rows are set aside from the first, and of all of them nothing else is left out."""
    whole = source_of(profile, "t2a")
    rows = pq.read_table(whole)
    whole.unlink()
    for number in range(2):
        pq.write_table(rows.slice(number * ROWS // 2, ROWS // 2), whole.with_stem(f"{whole.stem}-{number:05d}-of-00002"))
    first, second = sorted(profile.data_dir.glob("*-of-00002.parquet"))
    assert source_of(profile, "t2a") == first and not kept_rows(profile, second)
    seen = trained_rows(profile, "t2a")
    assert seen == {first.name: set(range(ROWS // 2)) - kept_rows(profile, first), second.name: set(range(ROWS // 2))}
    assert validation_batches(profile, profile.stages["t2a"][0], worlds.toy_encoders(), Layout(profile.model, worlds.tokenizer(), 160))


def test_the_parts_are_rows_of_the_file_as_they_are(profile):
    set_aside(profile)
    for stage in profile.stages:
        source = pq.read_table(source_of(profile, stage)).to_pylist()
        numbers = {part: read_note(part_file(profile, stage, part))["rows"] for part in PARTS}
        assert not set(numbers["validation"]) & set(numbers["test"])
        for part in PARTS:
            held = pq.read_table(part_file(profile, stage, part)).to_pylist()
            assert [{k: v for k, v in source[n].items() if k in row} for n, row in zip(numbers[part], held, strict=True)] == held


def test_they_are_spread_and_always_the_same(profile):
    wanted = wanted_rows(515_000, {"validation": 96, "test": 256})
    assert (len(wanted["validation"]), len(wanted["test"])) == (96, 256)
    for rows in wanted.values():
        assert rows[0] < 10_000 and rows[-1] > 505_000 and np.diff(rows).max() < 3 * 515_000 / len(rows)
    assert {part: len(rows) for part, rows in wanted_rows(32, {"validation": 96, "test": 256}).items()} == {"validation": 2, "test": 2}
    set_aside(profile)
    before = {path: path.stat().st_mtime_ns for path in profile.data_dir.glob("*-*.parquet")}
    set_aside(profile)
    assert len(before) == 6 and before == {path: path.stat().st_mtime_ns for path in before}


def test_another_training_file_gets_others(profile):
    set_aside(profile, ("t2a",))
    worlds.write_rows(source_of(profile, "t2a"), worlds.make_rows("t2a", 48, seed=9))
    assert max(kept_rows(profile, source_of(profile, "t2a"))) < 48
    assert read_note(part_file(profile, "t2a", "test"))["of_rows"] == 48


def test_rows_that_cannot_serve_are_not_taken(profile):
    rows = worlds.make_rows("t2a", 32)
    for row in rows[:20]:
        row["spk_emb"] = []
    rows[25]["answer_audios"] = [[999] * 8]
    rows[26]["spk_emb"] = [0.0] * len(rows[26]["spk_emb"])
    worlds.write_rows(source_of(profile, "t2a"), rows)
    assert kept_rows(profile, source_of(profile, "t2a")) <= set(range(20, 32)) - {25, 26}
    for row in rows:
        row["spk_emb"] = []
    worlds.write_rows(source_of(profile, "t2a"), rows)
    with pytest.raises(DataError, match="none of the rows chosen for t2a validation has answer_audios, spk_emb"):
        set_aside(profile, ("t2a",))


@pytest.mark.parametrize("stage, column", [("a2a", "question_audios"), ("i2t", "image_bytes")])
def test_what_cannot_be_read_cannot_serve(profile, stage, column):
    """Training leaves such a row out and says so; an examination would end at it."""
    rows = worlds.make_rows(stage, 32)
    for row in rows[:20]:
        row[column] = [b"no sound"] if column == "question_audios" else b"no picture"
    worlds.write_rows(source_of(profile, stage), rows)
    assert kept_rows(profile, source_of(profile, stage)) <= set(range(20, 32))


@pytest.mark.parametrize("stage, column", [("t2a", "answer_audios"), ("a2a", "question_audios")])
def test_a_first_sound_that_is_null_cannot_serve(profile, stage, column):
    """A first question that was typed, and a second one that was spoken."""
    rows = worlds.make_rows(stage, 32)
    for row in rows[:20]:
        row["conversations"] = worlds.conversation("One.", "First.", "Two.", "Second.")
        row[column] = [None, row[column][0]]
    worlds.write_rows(source_of(profile, stage), rows)
    assert kept_rows(profile, source_of(profile, stage)) <= set(range(20, 32))


def test_a_file_without_conversations_is_named(profile):
    pq.write_table(pq.read_table(source_of(profile, "a2a")).drop_columns(["conversations"]), source_of(profile, "a2a"))
    with pytest.raises(DataError, match="sft_a2a_mini.parquet: missing column conversations"):
        set_aside(profile, ("a2a",))


def test_a_part_that_a_power_loss_tore_is_made_anew(profile):
    set_aside(profile, ("a2a",))
    part = part_file(profile, "a2a", "test")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    set_aside(profile, ("a2a",))
    assert part.read_bytes() == whole


def test_parts_of_older_rules_are_made_anew(profile, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("mmo.held_out.VERSION", 1)
        set_aside(profile, ("a2a",))
    set_aside(profile, ("a2a",))
    assert read_note(part_file(profile, "a2a", "test"))["version"] == VERSION


def test_an_answer_without_codes_cannot_serve(profile):
    rows = worlds.make_rows("t2a", 32)
    for row in rows[:20]:
        row["conversations"] = worlds.conversation("One.", "First.", "Two.", "Second.")
        row["answer_audios"] = [[], [1] * 8]
    worlds.write_rows(source_of(profile, "t2a"), rows)
    assert kept_rows(profile, source_of(profile, "t2a")) <= set(range(20, 32))


def test_killed_before_the_parts_are_there_the_voices_come_again(profile, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    voices = profile.data_dir / "voices.safetensors"
    for step in ("write_table", "write_voices"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(f"mmo.held_out.{step}", killed)
            set_aside(profile, ("t2a",))
        voices.unlink(missing_ok=True)
        set_aside(profile, ("t2a",))
        assert voices.is_file(), step
        for part in PARTS:
            part_file(profile, "t2a", part).unlink()


def test_voices_are_of_rows_that_were_set_aside(profile):
    set_aside(profile)
    voices = load_file(profile.data_dir / "voices.safetensors")
    held = np.array(pq.read_table(part_file(profile, "t2a", "test")).column("spk_emb").to_pylist(), np.float32)
    assert list(voices) == [f"voice-{number}" for number in range(1, 5)]
    assert all(np.isclose(held, voice.numpy()).all(axis=1).any() for voice in voices.values())


def test_training_validates_on_them(profile, tmp_path):
    result = train(profile, "t2a", run_dir=tmp_path / "run", encoders=worlds.toy_encoders(), progress_bar=False)
    assert {entry["validation"] for entry in read_log(result.log_file, validation=True)} == {"t2a-validation"}
    layout = Layout(profile.model, worlds.tokenizer(), 160)
    assert set(validation_batches(profile, profile.stages["i2t"][-1], worlds.toy_encoders(), layout)) == {
        "i2t-validation", "t2a-validation", "a2a-validation",
    }  # fmt: skip


def test_a_missing_file_is_named(profile):
    source_of(profile, "i2t").unlink()
    with pytest.raises(DataError, match="sft_i2t_mini.parquet.*mmo fetch --profile toy --stage i2t"):
        set_aside(profile)


def test_shipped_held_out_files_are_left_alone(tmp_path):
    toy = worlds.toy_profile(tmp_path)
    before = sorted(path.name for path in toy.data_dir.iterdir())
    set_aside(toy)
    assert before == sorted(path.name for path in toy.data_dir.iterdir())
    assert kept_rows(toy, toy.data_dir / "t2a-train.parquet") == frozenset()


def test_every_budget_has_sizes():
    from mmo.profiles import BUDGETS

    assert set(SIZES) == set(BUDGETS)
