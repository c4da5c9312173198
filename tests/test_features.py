"""The feature cache: made once, whatever interrupts it; refused when what made it has changed; and as good as the encoder itself."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import worlds
from typer.testing import CliRunner

from mmo.bench.features import EncodedEachTime, FeaturesBench, bench_features
from mmo.config import Draws
from mmo.data import Batches, Corpus, DataFile, Layout
from mmo.features import PACE, Draft, FeatureStore, cache_features, made_from
from mmo.omni import OmniModel
from mmo.profiles import profile as named_profile
from mmo.rows import DataError, open_rows
from mmo.training import Encoders, default_encoders, losses_of

COLUMN = "question_audios"
READ = 4  # rows read together, here


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("mmo.features.READ_ROWS", READ)
    rows = worlds.make_rows("a2a", 18)
    rows[9][COLUMN] = [b"no sound"]
    rows[3][COLUMN] = []
    return worlds.write_rows(tmp_path / "a2a-train.parquet", rows, group=5)


def speech(**changes):
    return replace(worlds.toy_encoders().speech, **changes)


def files(store):
    return {file.name: file.read_bytes() for file in store.folder.iterdir() if file.name != PACE}


class Interrupted(KeyboardInterrupt):
    pass


def failing_after(frozen, calls):
    """The encoder, interrupted at one of its calls."""
    left = [calls]

    def encode(waves):
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        return frozen.encode(waves)

    return replace(frozen, encode=encode)


# --- Room on the disk ---------------------------------------------------------------------------------------------


def test_features_that_will_not_fit_are_refused_after_the_first_rows(path, tmp_path, monkeypatch):
    """What is made stays: with room, the same command goes on."""
    asked = []
    counted = replace(speech(), encode=lambda waves: asked.extend(waves) or speech().encode(waves))
    with monkeypatch.context() as patched, pytest.raises(DataError, match=r"a2a-train.parquet: its features will want some .* MMO_CACHE"):
        patched.setattr("mmo.features.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        cache_features(path, COLUMN, counted, tmp_path / "cache")
    assert len(asked) == READ - 1, "one of the first rows has no question"
    whole = cache_features(path, COLUMN, speech(), tmp_path / "whole")
    assert files(cache_features(path, COLUMN, speech(), tmp_path / "cache")) == files(whole)


# --- Interrupted -------------------------------------------------------------------------------------------------


def test_an_interrupted_cache_goes_on_and_is_the_same_to_the_byte(path, tmp_path):
    whole = cache_features(path, COLUMN, speech(), tmp_path / "whole", copies=2)
    for calls in (0, 1, 3):
        cache = tmp_path / f"pieces-{calls}"
        with pytest.raises(Interrupted):
            cache_features(path, COLUMN, failing_after(speech(), calls), cache, copies=2)
        assert not [each for each in cache.iterdir() if each.is_dir() and each.suffix != ".part"], "nothing half made has the store's name"
        asked = []

        def counted(waves):
            asked.extend(waves)
            return speech().encode(waves)

        store = cache_features(path, COLUMN, speech(encode=counted), cache, copies=2)
        assert files(store) == files(whole)
        assert len(asked) < 2 * 16 or calls == 0, "what was made before is not made again"


def test_killed_at_the_very_end_nothing_is_made_again(path, tmp_path, monkeypatch):
    """While the files are brought to the disk, and between the folder's new name and the journal's end."""
    whole = files(cache_features(path, COLUMN, speech(), tmp_path / "whole"))
    for name in ("fsync", "replace"):
        cache = tmp_path / name
        with monkeypatch.context() as patched, pytest.raises(Interrupted):
            patched.setattr(f"mmo.features.os.{name}", lambda *_: (_ for _ in ()).throw(Interrupted))
            cache_features(path, COLUMN, speech(), cache)
        assert files(cache_features(path, COLUMN, failing_after(speech(), 0), cache)) == whole, name


def test_what_a_crash_tore_is_cut_off(path, tmp_path):
    """Features without their line in the journal, a line cut short, a line whose features are damaged: made again, not trusted."""
    whole = cache_features(path, COLUMN, speech(), tmp_path / "whole")
    for number, tear in enumerate(("more features", "half a line", "damaged")):
        cache = tmp_path / str(number)
        with pytest.raises(Interrupted):
            cache_features(path, COLUMN, failing_after(speech(), 3), cache)
        (part,) = cache.glob("*.part")
        values, journal = part / "features.f16", part / "journal.jsonl"
        if tear == "more features":
            values.write_bytes(values.read_bytes() + b"xyz")
        elif tear == "half a line":
            journal.write_text(journal.read_text()[:-20])
        else:
            values.write_bytes(values.read_bytes()[:-2] + b"xy")
        assert files(cache_features(path, COLUMN, speech(), cache)) == files(whole), tear


def test_a_full_disk_at_the_reopening_costs_no_line(path, tmp_path, monkeypatch):
    """The journal is cut, never written anew."""
    cache = tmp_path / "cache"
    with pytest.raises(Interrupted):
        cache_features(path, COLUMN, failing_after(speech(), 3), cache)
    (part,) = cache.glob("*.part")
    before = (part / "journal.jsonl").read_bytes()
    (part / "journal.jsonl").write_bytes(before + b'{"torn')
    draft = Draft(part, speech().dim)
    assert draft.rows and (part / "journal.jsonl").read_bytes() == before
    draft.__exit__()


def test_a_column_that_is_missing_is_named(path, tmp_path):
    with pytest.raises(DataError, match=f"{path.name}: missing column image_bytes"):
        cache_features(worlds.write_rows(path, worlds.make_rows("a2a", 2), columns=["conversations"]), "image_bytes", speech(), tmp_path / "cache")
    assert not [each for each in (tmp_path / "cache").glob("*") if each.is_dir()]


# --- Stale or damaged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(fingerprint="other weights"), "another encoder"),
        (dict(augmentation="louder still"), "another augmentation"),
        (None, "the data file has changed"),
    ],
)
def test_a_stale_store_is_refused_with_the_reason(path, tmp_path, changes, reason):
    cache, heard = tmp_path / "cache", []
    old = cache_features(path, COLUMN, speech(), cache)
    if changes is None:
        worlds.write_rows(path, worlds.make_rows("a2a", 6, seed=5))
    changed = speech(**(changes or {}))
    with pytest.raises(DataError, match=f"no features of {COLUMN} that fit.*\n.*{old.folder.name} is refused: {reason}"):
        cache_features(path, COLUMN, changed, cache, compute=False)
    new = cache_features(path, COLUMN, changed, cache, tell=heard.append)
    assert new.folder != old.folder and reason in heard[0] and old.folder.name in heard[0]


def test_other_copies_and_plain_ones_stand_side_by_side(path, tmp_path):
    """They are other features, not stale ones: nobody is told anything, and plain ones outlive another augmentation."""
    heard, cache = [], tmp_path / "cache"
    for frozen, copies in ((speech(), 1), (speech(), 2), (speech(augment=None), 1)):
        cache_features(path, COLUMN, frozen, cache, copies, tell=heard.append)
    assert not heard and len([each for each in cache.iterdir() if each.is_dir()]) == 3
    cache_features(path, COLUMN, speech(augment=None, augmentation="louder", encode=None), cache)


def test_an_older_version_is_refused(path, tmp_path):
    store = cache_features(path, COLUMN, speech(), tmp_path)
    about = json.loads((store.folder / "about.json").read_text())
    (store.folder / "about.json").write_text(json.dumps({"copies": 1, "dim": 24, "bad": about["bad"]}))
    with pytest.raises(DataError, match="older version.*Delete this folder"):
        cache_features(path, COLUMN, speech(), tmp_path)
    heard = []
    cache_features(path, COLUMN, speech(fingerprint="other"), tmp_path, tell=heard.append)
    assert "older version" in heard[0]


def test_a_store_under_anothers_name_is_refused(path, tmp_path):
    """Copied or renamed: the description decides, not the name."""
    store = cache_features(path, COLUMN, speech(), tmp_path)
    other = speech(fingerprint="other weights")
    name = f"{path.stem}-{COLUMN}-{made_from(path, COLUMN, other, 1, 0).key()}"
    shutil.copytree(store.folder, tmp_path / name)
    with pytest.raises(DataError, match="another encoder"):
        cache_features(path, COLUMN, other, tmp_path)


def test_damage_is_found(path, tmp_path):
    store = cache_features(path, COLUMN, speech(), tmp_path)
    store.verify()
    values = store.folder / "features.f16"
    whole = values.read_bytes()
    values.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=f"features.f16 has {len(whole) - 2} bytes and should have {len(whole)}"):
        FeatureStore(store.folder)
    values.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]))
    with pytest.raises(DataError, match="content of features.f16 is not what was written"):
        FeatureStore(store.folder).verify()
    (store.folder / "index.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match="index.npz cannot be read"):
        FeatureStore(store.folder)


# --- As good as the encoder --------------------------------------------------------------------------------------


def batch_of(path, source, profile, layout, draws):
    rows = open_rows(path, profile.model, path.parent / "rows")
    corpus = Corpus([DataFile(rows, sounds=source)], draws)
    return next(Batches([corpus], [1.0], layout, 1280, chunk_rows=len(rows)).start())


def compare(cached, live):
    """Same rows and ids; features equal within what 16 bits hold."""
    assert cached.names == live.names and torch.equal(cached.input_ids, live.input_ids) and torch.equal(cached.audio_lengths, live.audio_lengths)
    assert (live.audio_features.abs() > 0).any()
    torch.testing.assert_close(cached.audio_features, live.audio_features, rtol=2**-11, atol=2**-24)


def test_batches_from_the_cache_are_those_of_the_encoder(path, tmp_path):
    """Ids equal, features to half a unit in the last place of fp16, in every copy; the model's losses follow."""
    toy = worlds.toy_profile(tmp_path / "toy")
    layout = Layout(toy.model, worlds.tokenizer(), 320)
    store = cache_features(path, COLUMN, speech(), tmp_path / "cache", copies=2)
    live = EncodedEachTime(path, COLUMN, speech(), copies=2)
    draws = Draws(system_prompt=0.0, hidden_history=0.2)
    cached, encoded = (batch_of(path, source, toy, layout, draws) for source in (store, live))
    compare(cached, encoded)
    torch.manual_seed(0)
    model, stage = OmniModel(toy.model).eval(), toy.stages["t2a"][0]
    one, other = (losses_of(model, batch, stage, torch.device("cpu"))[1] for batch in (cached, encoded))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_real_ear_gives_the_cached_batches_too(tmp_path):
    """The tiny world's own encoder, augmentation and data: a few rows of a2a-train."""
    import pyarrow.parquet as pq

    tiny = named_profile("tiny")
    path = tmp_path / "a2a-train.parquet"
    pq.write_table(pq.ParquetFile(tiny.data_dir / "a2a-train.parquet").read_row_group(0).slice(0, 4), path)
    ear = default_encoders(tiny, torch.device("cpu")).speech
    layout = Layout(tiny.model, worlds.tokenizer(), 320)
    store = cache_features(path, COLUMN, ear, tmp_path / "cache", copies=2)
    compare(*(batch_of(path, source, tiny, layout, tiny.stages["a2a"][1].draws) for source in (store, EncodedEachTime(path, COLUMN, ear, copies=2))))


def test_bench_end_to_end(tmp_path):
    """Rows of data/tiny through the toy ear and a toy model: both ways give the same losses."""
    codes = dict(audio_vocab_size=576, audio_pad_token=513, audio_stop_token=514, audio_spk_token=515)
    toy = worlds.toy_profile(tmp_path / "toy", model=worlds.MODEL.replace(**codes))
    report = bench_features(toy, FeaturesBench(rows=2, rounds=1, pool=4), torch.device("cpu"), tmp_path, (speech(), "a toy ear"))
    assert report.checks["largest difference of a loss"] < 1e-3 and report.checks["largest difference of a feature, of its size"] <= 2**-11
    assert len(report.columns) == 4 and all(ratio > 0 for ratio in report.ratios.values())


# --- The command -------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    from mmo import prepare, profiles

    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    toy = worlds.toy_profile(tmp_path)
    monkeypatch.setattr(profiles, "PROFILES", {"toy": lambda: toy})
    monkeypatch.setattr(prepare, "default_encoders", lambda *_: worlds.toy_encoders())
    return toy


def invoke(*options):
    from mmo import cli

    return CliRunner().invoke(cli.app, ["features", "--profile", "toy", *options])


def test_command_makes_what_training_uses(toy, tmp_path):
    """Before: nothing fits.  Afterwards training's own call finds everything, with an encoder that cannot be asked."""
    missing = invoke("--stage", "a2a", "--check")
    assert missing.exit_code == 1 and "no features of question_audios that fit" in missing.output
    done = invoke("--stage", "a2a")
    assert done.exit_code == 0, done.output
    assert "a2a-train.parquet" in done.output and "40 rows, 2 copies" in done.output and "a2a-validation.parquet" in done.output
    assert invoke("--stage", "a2a", "--check").exit_code == 0
    mute = Encoders(speech(encode=None), worlds.toy_encoders().vision)
    from mmo.training import open_corpora

    corpora, _ = open_corpora(toy, toy.stages["a2a"][1], mute)
    assert corpora[0].files[0].sounds.copies == 2


def test_check_reads_everything(toy, tmp_path):
    assert invoke("--stage", "i2t").exit_code == 0
    assert invoke("--stage", "i2t", "--check").exit_code == 0
    (values,) = (tmp_path / "cache").rglob("i2t-train-image_bytes-*/features.f16")
    values.write_bytes(bytes(len(values.read_bytes())))
    found = invoke("--stage", "i2t", "--check")
    assert found.exit_code == 1 and "content of features.f16 is not what was written" in found.output
    assert found.output.count("i2t-validation.parquet") == 1, "the others are still looked at"


def test_a_stage_without_features_says_so(toy):
    done = invoke("--stage", "t2a")
    assert done.exit_code == 0 and "t2a needs no features" in done.output
