"""`mmo fetch`: the real clients against a hub on loopback, in fair weather and in foul."""

import ast
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import requests
import torch
from hub_server import COMMIT, Hub
from safetensors import safe_open
from safetensors.torch import save
from typer.testing import CliRunner

from mmo import cli, doctor, hub, hub_rows, hub_sources, profiles
from mmo.hub_sources import FetchError, ModelScope, Share
from mmo.manifest import MANIFEST, Subset, read_artefact, read_manifest, select

NO_FILE = "the repository has no such file"
T2A = "mini/sft_t2a_mini.parquet"


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def pictures(groups: int = 40, rows: int = 50, size: int = 2000) -> bytes:
    """A parquet file of the real schema's columns for pictures; every row knows its number."""
    sink = pa.BufferOutputStream()
    schema = pa.schema([("conversations", pa.string()), ("image_bytes", pa.binary())])
    pages = dict(use_dictionary=False, write_statistics=False, write_batch_size=50, data_page_size=16_384)
    with parquet.ParquetWriter(sink, schema, **pages) as writer:
        for group in range(groups):
            talk = [json.dumps([{"role": "user", "content": str(group * rows + row)}]) for row in range(rows)]
            seen = [noise(size, group * rows + row) for row in range(rows)]
            writer.write_table(pa.table({"conversations": talk, "image_bytes": seen}, schema))
    return sink.getvalue().to_pybytes()


PICTURES = pictures()
SIGLIP = save({"vision_model.weight": torch.ones(20, 20), "text_model.weight": torch.zeros(400, 20), "logit_scale": torch.ones(1)},
              {"format": "pt"})  # fmt: skip


def content(file, artefact) -> bytes:
    if artefact.subset or file.path == "sft_i2t.parquet":
        return PICTURES
    if file.keep:
        return SIGLIP
    return noise(300_000 if file.to.endswith((".parquet", ".pt", ".pth", ".safetensors", ".bin")) else 400, len(file.path))


@pytest.fixture
def manifest(monkeypatch):
    """The real manifest; only the subset is as much smaller as the file is."""
    found = read_manifest()
    found["i2t-mini"] = replace(found["i2t-mini"], subset=Subset(row_groups=4, rows=200, seed=0))
    monkeypatch.setattr(hub, "read_manifest", lambda: found)
    return found


@pytest.fixture
def server(manifest, monkeypatch, tmp_path):
    """A hub with everything in the manifest, and the clients told of it as a user would: by the environment."""
    with Hub() as running:
        for artefact in manifest.values():
            running.add(artefact.hub, {file.path: content(file, artefact) for file in artefact.files}, artefact.kind)
            running.add(artefact.mirror, {file.mirror: content(file, artefact) for file in artefact.files}, artefact.kind)
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.address)
        monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # `mmo test` sets them
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # The client keeps what it has in whole pieces of 10 MB; these files are smaller.
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 20_000)
        monkeypatch.setattr(hub, "WAITS", (0.0, 0.0))
        huggingface_hub.utils.reset_sessions()
        yield running
    huggingface_hub.utils.reset_sessions()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path / "downloads"))
    return tmp_path / "downloads"


def mmo(*arguments: str):
    return CliRunner().invoke(cli.app, ["fetch", "--profile", "mini", *map(str, arguments)])


def lock(root) -> dict:
    return json.loads((root / "fetched.json").read_text())["files"]


# --- The manifest ----------------------------------------------------------------------------------------------------


def test_the_manifest_brings_every_part_of_the_mini_profile_to_its_place():
    chosen, brought = profiles.mini(), {file.to for artefact in select(read_manifest(), "mini") for file in artefact.files}
    downloads = MANIFEST.parent / "downloads"
    for part in (chosen.tokenizer_dir / "tokenizer.json", chosen.codec_file, chosen.speech_encoder_dir / "model.pt",
                 chosen.vision_encoder_dir / "model.safetensors", chosen.thinker_file):  # fmt: skip
        assert str(part.relative_to(downloads)) in brought
    for name, folder in (("mini", chosen.data_dir), ("full", profiles.full().data_dir)):
        brought = {file.to for artefact in select(read_manifest(), name) for file in artefact.files}
        data = {file for steps in profiles.profile(name).stages.values() for step in steps for file in step.data}
        assert {str((folder / file).relative_to(downloads)) for file in data} <= brought


@pytest.mark.parametrize("codec", ["codec", "codec-transformers"])
def test_after_a_complete_fetch_doctor_misses_nothing(tmp_path, monkeypatch, codec):
    """Either layout of Mimi will do: ModelScope has the second alone."""
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path))
    chosen = {artefact.name: artefact for artefact in select(read_manifest(), "mini")} | {codec: read_manifest()[codec]}
    if codec == "codec-transformers":
        del chosen["codec"]
    for file in [file for artefact in chosen.values() for file in artefact.files]:
        (tmp_path / file.to).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.to).touch()
    assert doctor.missing_files(profiles.mini()) == []
    assert profiles.mini().codec_file.name == {"codec": "tokenizer-e351c8d8-checkpoint125.safetensors"}.get(codec, "model.safetensors")
    (tmp_path / "minimind-3o-pytorch" / "llm_768.pth").unlink()
    assert [Path(name).name for name in doctor.missing_files(profiles.mini())] == ["llm_768.pth"]


def test_a_stage_needs_the_data_that_it_trains_on_and_rehearses():
    for stage, steps in profiles.mini().stages.items():
        files = {file.to for artefact in select(read_manifest(), "mini", stage) for file in artefact.files}
        needed = {name for step in steps for name in (*step.data, *(name for each in step.rehearsal for name in each.data))}
        assert needed == {file.removeprefix("mini/") for file in files if file.startswith("mini/")}, stage


def test_every_artefact_says_where_it_is_from_and_under_which_licence():
    for artefact in read_manifest().values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", artefact.hub) and artefact.licence and artefact.about and artefact.notebooks
        assert set(artefact.profiles) <= set(profiles.PROFILES) and set(artefact.stages) <= set(profiles.STAGES)


def test_sizes_are_known_of_all_weights_and_told_before_anything_is_fetched(root, manifest):
    weights = [each for each in manifest.values() if each.kind == "model"]
    assert all(each.gigabytes and 0 < each.gigabytes < 2 for each in weights)
    known = sum(each.gigabytes or 0 for each in select(manifest, "mini"))
    said = mmo("--offline").output
    assert f"to come: about {known:.1f} GB, and t2a-mini, a2a-mini, i2t-mini, whose size the hub tells before they come" in said


@pytest.mark.parametrize("table", [{"folder": "..", "files": ["a"]}, {"folder": "a", "files": [{"path": "x", "to": "/etc/x"}]},
                                   {"folder": "a", "files": [], "colour": "red"}, {"files": []}])  # fmt: skip
def test_a_manifest_that_reaches_outside_or_cannot_be_understood_is_refused(table):
    with pytest.raises(ValueError, match=r"manifest: \[odd\]"):
        read_artefact("odd", {"about": "", "hub": "a/b", "licence": ""} | table)


# --- Fair weather ------------------------------------------------------------------------------------------------------


def test_fetching_mini_brings_everything_and_a_second_time_nothing(server, root, manifest):
    done = mmo()
    assert done.exit_code == 0, done.output
    for artefact in select(manifest, "mini"):
        for file in artefact.files:
            assert (root / file.to).is_file()
            if not artefact.subset and not file.keep:
                assert (root / file.to).read_bytes() == content(file, artefact)
    assert lock(root)[T2A]["sha256"] == hashlib.sha256((root / T2A).read_bytes()).hexdigest()
    assert lock(root)[T2A]["revision"] == COMMIT and "minimind-o_dataset" in lock(root)[T2A]["source"]
    assert not (root / ".incoming").exists(), "nothing unfinished is left"
    assert not (root / "mimi-transformers").exists() and not (root / "full").exists(), "nobody asked for these"
    asked = dict(server.served)
    assert mmo().exit_code == 0 and dict(server.served) == asked
    assert mmo("--verify").exit_code == 0 and mmo("--offline").exit_code == 0


def test_only_what_a_stage_needs_is_fetched(server, root):
    assert mmo("--stage", "t2a").exit_code == 0
    assert (root / T2A).is_file() and (root / "minimind-3o-pytorch" / "llm_768.pth").is_file()
    assert not (root / "mini" / "sft_a2a_mini.parquet").exists() and not (root / "SenseVoiceSmall").exists()
    assert mmo("codec-transformers").exit_code == 0 and (root / "mimi-transformers" / "model.safetensors").is_file()


def test_of_siglip_only_the_vision_half_is_kept(server, root):
    assert mmo("vision-encoder").exit_code == 0
    with safe_open(root / "siglip2-base-patch32-256" / "model.safetensors", "pt") as file:
        assert list(file.keys()) == ["vision_model.weight"] and file.metadata() == {"format": "pt"}
    assert mmo("vision-encoder", "--verify").exit_code == 0


def test_an_optional_file_may_be_missing_and_that_is_said(server, root, manifest):
    del server.repositories["model", manifest["tokenizer"].hub]["chat_template.jinja"]
    done = mmo("tokenizer")
    assert done.exit_code == 0 and "chat_template.jinja" in done.output and "not needed" in done.output
    assert mmo("tokenizer", "--offline").exit_code == 0


def test_a_hub_out_of_reach_is_no_failure_where_only_optional_files_are_missing(server, root, manifest, monkeypatch):
    del server.repositories["model", manifest["tokenizer"].hub]["chat_template.jinja"]
    assert mmo("tokenizer").exit_code == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = mmo("tokenizer")
    assert again.exit_code == 0 and "out of reach" in again.output and "All that is needed is there" in again.output and "chat_template.jinja" in again.output
    needed = next(file.to for file in manifest["tokenizer"].files if not file.optional)
    (root / needed).unlink()
    assert mmo("tokenizer").exit_code == 1, "a file that is needed"


# --- Foul weather ------------------------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_goes_on_where_it_was_within_the_same_command(server, root):
    server.cut["sft_t2a_mini.parquet"] = [100_000, 100_000]
    done = mmo("t2a-mini")
    assert done.exit_code == 0 and "broke off" in done.output
    assert server.ranges["sft_t2a_mini.parquet"] == ["", "bytes=100000-", "bytes=200000-"]
    assert server.served["sft_t2a_mini.parquet"] == 300_000, "no byte came twice"
    assert mmo("t2a-mini", "--verify").exit_code == 0


def test_a_download_that_broke_off_for_good_goes_on_with_the_next_command(server, root):
    server.cut["sft_t2a_mini.parquet"] = [120_000, 0, 0]
    failed = mmo("t2a-mini")
    assert failed.exit_code == 1 and "t2a-mini: jingyaogong/minimind-o_dataset, sft_t2a_mini.parquet" in failed.output
    assert not (root / T2A).exists(), "an unfinished file never stands at its place"
    assert mmo("t2a-mini").exit_code == 0
    assert server.ranges["sft_t2a_mini.parquet"][-1] == "bytes=120000-" and server.served["sft_t2a_mini.parquet"] == 300_000


def test_a_transfer_by_xet_that_breaks_off_is_tried_again(server, root, monkeypatch):
    """Its client raises a bare RuntimeError, whatever has happened."""
    real, calls = hub_sources.hf_hub_download, []

    def breaking(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("Data processing error: CAS service error : Reqwest Error: operation timed out")
        return real(*arguments, **named)

    monkeypatch.setattr(hub_sources, "hf_hub_download", breaking)
    done = mmo("t2a-mini")
    assert done.exit_code == 0 and "operation timed out" in done.output and len(calls) == 2
    monkeypatch.setattr(hub_sources, "hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("Data processing error: no more")))
    (root / T2A).unlink()
    failed = mmo("t2a-mini")
    assert failed.exit_code == 1 and "Data processing error: no more" in failed.output and not (root / T2A).exists()


def test_a_hub_that_cannot_resume_sends_the_whole_file_again(server, root):
    server.full_answers_only, server.cut["sft_t2a_mini.parquet"] = True, [100_000]
    assert mmo("t2a-mini").exit_code == 0
    assert (root / T2A).stat().st_size == 300_000


@pytest.mark.parametrize("file, artefact", [("sft_t2a_mini.parquet", "t2a-mini"), ("am.mvn", "speech-encoder")], ids=["SHA-256", "git"])
def test_a_corrupted_file_is_refused_and_thrown_away(server, root, file, artefact):
    """Large files are compared with the SHA-256 that the hub publishes, small ones with git's hash."""
    server.damaged = {file}
    done = mmo(artefact)
    assert done.exit_code == 1 and "not what is published" in done.output and file in done.output and "--mirror" in done.output
    assert not list(root.rglob(file)), "what is damaged is not kept"
    server.damaged = set()
    assert mmo(artefact).exit_code == 0


def test_a_missing_file_and_a_missing_repository_are_named(server, root, manifest):
    del server.repositories["model", "FunAudioLLM/SenseVoiceSmall"]["am.mvn"]
    done = mmo("speech-encoder")
    assert done.exit_code == 1 and NO_FILE in done.output and "speech-encoder: FunAudioLLM/SenseVoiceSmall, am.mvn" in done.output
    del server.repositories["model", "kyutai/moshiko-pytorch-bf16"]
    done = mmo("codec")
    assert done.exit_code == 1 and "no such repository" in done.output and "kyutai/moshiko-pytorch-bf16" in done.output


def test_a_full_disk_is_noticed_before_anything_is_fetched(server, root, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, hub.RESERVE + 200_000))
    done = mmo("t2a-mini")
    assert done.exit_code == 1 and "lacks 0.00 GB" in done.output and "sft_t2a_mini.parquet" in done.output
    assert server.served["sft_t2a_mini.parquet"] == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 0))
    assert "lacks 1.00 GB" in mmo("t2a-mini").output


def test_parts_that_have_come_need_no_more_room(server, root, manifest):
    """A disk on which a broken download fitted must not be called too full when it goes on."""
    artefact, source = manifest["i2t-mini"], hub_sources.HuggingFace()
    file = artefact.files[0]
    state = next(each for each in hub.inspect([artefact], root) if each.file is file)
    whole = hub.plan(state, source, root, print).space
    folder = hub.parts_folder(root, file, source.describe(artefact, file))
    folder.mkdir(parents=True)
    (folder / "group-00000-50.parquet").write_bytes(b"x" * 1000)
    assert hub.plan(state, source, root, print).space == whole - 1000


def test_a_disk_that_fills_up_on_the_way_is_told_from_a_broken_connection(server, root, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_sources, "hf_hub_download", full)
    done = mmo("t2a-mini")
    assert done.exit_code == 1 and "the disk is full" in done.output and "again in" not in done.output, "waiting does not help"


def test_a_hub_out_of_reach_is_told_with_the_ways_round_it(server, root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    waited = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waited.append)
    done = mmo("t2a-mini")
    assert done.exit_code == 1 and "t2a-mini: jingyaogong/minimind-o_dataset" in done.output and "out of reach" in done.output
    assert sum(waited) < 60, "the client's own patience is enough"
    for way in ("HF_ENDPOINT", "--mirror", "--from DIR"):
        assert way in done.output


def test_offline_fetches_nothing_and_names_what_is_missing(server, root):
    done = mmo("--offline", "--stage", "t2a")
    assert done.exit_code == 1 and f"missing: {root / T2A}" in done.output and "jingyaogong/minimind-o_dataset" in done.output
    assert not server.served and not server.ranges


def test_the_hubs_own_word_for_offline_is_heard(server, root, monkeypatch):
    assert mmo("t2a-mini").exit_code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert mmo("t2a-mini").exit_code == 0, "what is there needs no hub"
    done = mmo("a2a-mini")
    assert done.exit_code == 1 and "HF_HUB_OFFLINE forbids" in done.output
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert "TRANSFORMERS_OFFLINE forbids" in mmo("a2a-mini").output, "the client obeys this one, too"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "GatedRepo", ("asks for consent", "HF_TOKEN")),
        (401, "RepoNotFound", ("no such repository", "data/manifest.toml", "HF_TOKEN", "--mirror")),
        (403, "", ("does not let everybody", "HF_TOKEN")),
        (429, "", ("too many requests", "wait some minutes", "HF_TOKEN")),
        (500, "", ("the hub refused (500", "try again later", "--from DIR")),
        (503, "", ("the hub refused (503", "try again later", "--mirror")),
    ],
)
def test_what_a_hub_refuses_is_told_with_what_to_do(server, root, monkeypatch, status, code, words):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    server.refusing = status, code
    done = mmo("t2a-mini")
    assert done.exit_code == 1 and all(word in done.output for word in ("t2a-mini: jingyaogong/minimind-o_dataset", *words)), done.output
    server.refusing = None
    assert mmo("t2a-mini").exit_code == 0


def test_an_address_that_is_none_is_told_as_such(server, root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    assert "HF_ENDPOINT is 'hf-mirror.com'; wanted an address that begins with https://" in mmo("t2a-mini").output
    pytest.importorskip("modelscope_hub", reason="the ModelScope client is not installed")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "modelscope.cn")
    assert "MODELSCOPE_ENDPOINT is 'modelscope.cn'; wanted an address" in mmo("t2a-mini", "--mirror").output


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(server, root):
    """A real process, a real SIGINT, in the middle of a file."""
    server.seconds_a_piece = 0.5
    asked_for = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs are told to pass it over
    command = [sys.executable, "-c", f"{asked_for}; from mmo.cli import app; app()", "fetch", "--profile", "mini", "t2a-mini"]
    process = subprocess.Popen(command, cwd=profiles.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 120
    while server.served["sft_t2a_mini.parquet"] < 60_000:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "interrupted; what has come is kept, and the same command goes on" in said and "Traceback" not in said
    assert not (root / T2A).exists(), "an unfinished file never stands at its place"
    server.seconds_a_piece = 0.0
    assert mmo("t2a-mini").exit_code == 0 and mmo("t2a-mini", "--verify").exit_code == 0


@pytest.mark.parametrize("moved", [False, True], ids=["before", "after"])
def test_killed_while_a_file_goes_to_its_place_it_is_there_or_missing_but_never_unknown(server, root, monkeypatch, moved):
    """Of a part of a file no checksum is published: unrecorded, it could not be told from a stranger's, and would be refused."""

    def killed(source, target):
        if moved:
            os.replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub, "os", SimpleNamespace(replace=killed))
        assert mmo("i2t-mini").exit_code == 130
    path = root / "mini" / "sft_i2t_mini.parquet"
    assert path.exists() == moved
    assert mmo("i2t-mini").exit_code == 0 and len(numbers(path)) == 200 and mmo("i2t-mini", "--verify").exit_code == 0


def test_a_folder_on_another_disk_is_filled(server, root, monkeypatch):
    """Where a link leads to another disk nothing can be renamed into it."""
    refused = []

    def across(source, target):
        if source.parent != target.parent:
            refused.append(target)
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        os.replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(hub, "os", SimpleNamespace(replace=across))
        assert mmo("tokenizer").exit_code == 0
    assert refused and all(path.is_file() for path in refused) and not list(root.rglob("*.part"))
    assert mmo("tokenizer", "--verify").exit_code == 0


def test_what_others_fetched_meanwhile_stays_recorded(server, root, monkeypatch):
    """To read large files once more takes minutes, in which another command may write down what it brought."""
    assert mmo("tokenizer").exit_code == 0
    os.utime(root / "tokenizer" / "tokenizer.json", (1, 1))
    own = hub.word_for

    def slowly(*given):
        hub.write_lock(root, hub.read_lock(root) | {"new/file.bin": {"size": 1, "sha256": "0" * 64, "mtime_ns": 1}})
        return own(*given)

    monkeypatch.setattr(hub, "word_for", slowly)
    hub.inspect(select(hub.read_manifest(), "mini", names=["tokenizer"]), root)
    assert "new/file.bin" in lock(root) and lock(root)["tokenizer/tokenizer.json"]["mtime_ns"] == (root / "tokenizer" / "tokenizer.json").stat().st_mtime_ns


def test_two_commands_do_not_work_in_one_folder_at_once(server, root, monkeypatch):
    monkeypatch.setattr(hub, "LOCK_SECONDS", 0.05)
    with hub.alone_in(root):
        done = mmo("t2a-mini")
        assert done.exit_code == 1 and "another `mmo fetch` is at work there" in done.output and not server.served
        assert mmo("--offline").exit_code == 1, "looking is free"
    assert mmo("t2a-mini").exit_code == 0


def test_what_is_to_come_is_said_before_it_comes(server, root):
    done = mmo("t2a-mini", "a2a-mini")
    assert "to fetch: 2 files, 0.00 GB of disk on the way" in done.output
    assert "to fetch" not in mmo("t2a-mini", "a2a-mini").output


def test_optional_files_that_are_missing_are_not_counted_among_those_there(root, manifest):
    needed = [file for artefact in select(manifest, "mini") for file in artefact.files if not file.optional]
    assert f"mini: 0 of {len(needed)} files as they should be" in mmo("--offline").output


# --- Ever after --------------------------------------------------------------------------------------------------------


def test_a_file_that_changed_is_refused_by_its_size_or_time_at_once_and_by_its_content_on_request(server, root):
    assert mmo("t2a-mini").exit_code == 0
    path, before = root / T2A, (root / T2A).stat()
    path.write_bytes(noise(300_000, 99))
    done = mmo("t2a-mini")
    assert done.exit_code == 1 and "no longer what was fetched" in done.output and str(path) in done.output
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as sly as a failing disk
    assert mmo("t2a-mini").exit_code == 0, "size and time alone do not show it"
    verified = mmo("t2a-mini", "--verify")
    assert verified.exit_code == 1 and f"changed: {path}" in verified.output and "Delete it, and `mmo fetch` brings it anew" in verified.output
    path.unlink()
    assert mmo("t2a-mini").exit_code == 0 and mmo("t2a-mini", "--verify").exit_code == 0


def test_a_file_that_was_only_touched_is_read_once_and_then_known_again(server, root, monkeypatch):
    assert mmo("t2a-mini").exit_code == 0
    os.utime(root / T2A)
    assert mmo("t2a-mini", "--offline").exit_code == 0
    monkeypatch.setattr(hub, "sha256_of", None)  # reading again would fail
    assert mmo("t2a-mini", "--offline").exit_code == 0


def test_a_checksum_that_nobody_publishes_is_recorded_and_verified_from_then_on(server, root):
    server.silent_on_checksums = True
    done = mmo("t2a-mini")
    assert done.exit_code == 0 and "checksum recorded" in done.output
    (root / T2A).write_bytes(noise(300_000, 99))
    assert mmo("t2a-mini").exit_code == 1


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_published_one_and_refused_if_not(server, root):
    (root / "mini").mkdir(parents=True)
    (root / T2A).write_bytes(noise(300_000, 99))
    done = mmo("t2a-mini")
    assert done.exit_code == 1 and "cannot be shown to be the published one" in done.output
    (root / T2A).write_bytes(server.repositories["dataset", "jingyaogong/minimind-o_dataset"]["sft_t2a_mini.parquet"])
    assert mmo("t2a-mini").exit_code == 0 and server.served["sft_t2a_mini.parquet"] == 0
    assert mmo("t2a-mini", "--verify").exit_code == 0


# --- A classroom share ---------------------------------------------------------------------------------------------------


def test_a_class_fetches_from_the_teachers_folder_without_any_hub(server, root, tmp_path, monkeypatch):
    assert mmo().exit_code == 0
    shutil.copytree(root, tmp_path / "share")
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path / "pupil"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = mmo("--from", tmp_path / "share")
    assert done.exit_code == 0, done.output
    for path, record in lock(root).items():
        assert (tmp_path / "pupil" / path).read_bytes() == (root / path).read_bytes()
        assert lock(tmp_path / "pupil")[path]["sha256"] == record["sha256"]


def test_a_damaged_or_unfinished_share_is_refused(server, root, tmp_path, monkeypatch):
    assert mmo("t2a-mini").exit_code == 0
    shutil.copytree(root, tmp_path / "share")
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path / "pupil"))
    (tmp_path / "share" / T2A).write_bytes(noise(300_000, 99))
    done = mmo("t2a-mini", "--from", tmp_path / "share")
    assert done.exit_code == 1 and "published" not in done.output, "nothing was asked of any publisher"
    assert "is not what the fetched.json of that folder records" in done.output and "have it copied there again" in done.output
    done = mmo("a2a-mini", "--from", tmp_path / "share")
    assert done.exit_code == 1 and "mini/sft_a2a_mini.parquet" in done.output and "not there" in done.output


def test_a_folder_that_is_no_share_is_told_apart_from_one_that_lacks_a_file(root, tmp_path):
    assert "there is no such folder" in mmo("--from", tmp_path / "typo").output
    root.mkdir()
    assert "that is where downloads go" in mmo("--from", root).output
    deeper = tmp_path / "disk" / "data" / "downloads"
    deeper.mkdir(parents=True)
    (deeper / "fetched.json").write_text('{"files": {}}')
    assert f"the files lie deeper: --from {deeper}" in " ".join(mmo("--from", tmp_path / "disk").output.split())


# --- I2T-mini ----------------------------------------------------------------------------------------------------------


def numbers(path) -> list[int]:
    return [int(json.loads(talk)[0]["content"]) for talk in parquet.read_table(path)["conversations"].to_pylist()]


def test_i2t_mini_is_some_row_groups_and_the_rest_is_never_read(server, root):
    done = mmo("i2t-mini")
    assert done.exit_code == 0, done.output
    path = root / "mini" / "sft_i2t_mini.parquet"
    # random.Random(0).sample(range(40), 4), sorted: written out, because the choice must never change
    assert numbers(path) == [group * 50 + row for group in (2, 16, 24, 26) for row in range(50)]
    assert parquet.read_table(path)["image_bytes"][0].as_py() == noise(2000, 100)
    share = server.served["sft_i2t.parquet"] / len(PICTURES)
    assert share < 0.15, f"{share:.0%} of the file were read for a tenth of its rows"
    assert lock(root)["mini/sft_i2t_mini.parquet"]["rows"] == {"2": 50, "16": 50, "24": 50, "26": 50}
    assert "" not in server.ranges["sft_i2t.parquet"], "every request names its range"


def test_of_few_and_large_row_groups_only_the_first_rows_are_read(server, root, manifest, monkeypatch):
    large = pictures(groups=2, rows=1500)
    server.add(manifest["i2t-mini"].hub, {"sft_i2t.parquet": large}, "dataset")
    monkeypatch.setattr(hub_rows, "BUFFER", 65_536)
    monkeypatch.setattr(hub_rows, "BATCH", 50)
    assert mmo("i2t-mini").exit_code == 0
    assert numbers(root / "mini" / "sft_i2t_mini.parquet") == [*range(100), *range(1500, 1600)]
    assert server.served["sft_i2t.parquet"] < 0.2 * len(large)


def test_row_groups_that_came_before_a_break_are_not_read_again(server, root, monkeypatch):
    real, calls = hub_rows.write_part, []

    def breaks_once(source, part, file, shown):
        calls.append(part.group)
        if len(calls) == 3:  # the client itself tries again for half a minute before it says so
            raise requests.ConnectionError("the line is dead")
        real(source, part, file, shown)

    monkeypatch.setattr(hub_rows, "write_part", breaks_once)
    assert mmo("i2t-mini").exit_code == 0
    assert calls == [2, 16, 24, 24, 26]


def test_a_break_within_a_row_group_costs_what_was_being_read_and_no_more(server, root, manifest, monkeypatch):
    """Nobody knows how the real file is cut: it may be one row group."""
    large = pictures(groups=1, rows=1500)
    server.add(manifest["i2t-mini"].hub, {"sft_i2t.parquet": large}, "dataset")
    monkeypatch.setattr(hub_rows, "BUFFER", 65_536)
    monkeypatch.setattr(hub_rows, "BATCH", 50)
    real, read = hub_rows.KeptReads.read, []

    def interrupted(self, size=-1):
        read.append(self.tell())
        if len(read) == 6:
            raise KeyboardInterrupt
        return real(self, size)

    with monkeypatch.context() as patch:
        patch.setattr(hub_rows.KeptReads, "read", interrupted)
        assert mmo("i2t-mini").exit_code == 130
    before = len(server.ranges["sft_i2t.parquet"])
    assert before >= 5
    assert mmo("i2t-mini").exit_code == 0 and numbers(root / "mini" / "sft_i2t_mini.parquet") == [*range(200)]
    asked = server.ranges["sft_i2t.parquet"]
    again = [each for each in asked[before:] if each in asked[:before] and int(each.removeprefix("bytes=").split("-")[0]) < 0.9 * len(large)]
    assert not again, "only the table at the file's end is asked for twice"
    assert not (root / ".incoming").exists()


def test_a_part_that_would_be_the_whole_is_refused(server, root, manifest):
    server.add(manifest["i2t-mini"].hub, {"sft_i2t.parquet": pictures(groups=2, rows=50)}, "dataset")
    done = mmo("i2t-mini")
    assert done.exit_code == 1 and "100 rows" in done.output


# --- ModelScope ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch):
    """ModelScope's client waits for minutes between its tries; here it does not."""
    download = pytest.importorskip("modelscope_hub._download", reason="the ModelScope client is not installed")
    monkeypatch.setattr(download, "DOWNLOAD_RETRY_TIMES", 1)
    monkeypatch.setattr(download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.0)


def test_the_mirror_has_the_same_files_under_its_own_names(server, root, manifest, patient):
    for name in ("t2a-mini", "speaker-encoder", "vision-encoder", "tokenizer"):
        done = mmo(name, "--mirror")
        assert done.exit_code == 0, done.output
        for file in manifest[name].files:
            assert file.keep or (root / file.to).read_bytes() == content(file, manifest[name])
    assert "ModelScope" in lock(root)[T2A]["source"]
    assert mmo("t2a-mini", "--verify").exit_code == 0


def test_a_broken_download_from_the_mirror_goes_on_where_it_was(server, root, patient):
    server.cut["sft_t2a_mini.parquet"] = [100_000]
    assert mmo("t2a-mini", "--mirror").exit_code == 0
    assert server.ranges["sft_t2a_mini.parquet"] == ["", "bytes=100000-"] and server.served["sft_t2a_mini.parquet"] == 300_000


def test_a_corrupted_file_from_the_mirror_is_refused(server, root, patient):
    server.damaged = {"sft_t2a_mini.parquet"}
    done = mmo("t2a-mini", "--mirror")
    assert done.exit_code == 1 and "not what is published" in done.output and not (root / T2A).exists()


def test_what_the_mirror_lacks_is_said(server, root, patient, manifest):
    for name in ("codec", "i2t-mini"):  # by its name the codec itself is meant, not what serves instead
        done = mmo(name, "--mirror")
        assert done.exit_code == 1 and "not to be had there" in done.output and f"mmo fetch {name}" in done.output
    del server.repositories["model", manifest["speech-encoder"].mirror]["am.mvn"]
    done = mmo("speech-encoder", "--mirror")
    assert done.exit_code == 1 and NO_FILE in done.output
    server.repositories.clear()
    assert "no such repository" in mmo("speech-encoder", "--mirror").output


def still_missing(done) -> str:
    return done.output[done.output.index("still missing") :]


def test_the_mirror_brings_everything_but_i2t_mini_and_the_codec_in_its_other_layout(server, root, patient, manifest):
    done = mmo("--mirror")
    assert done.exit_code == 1 and "still missing: i2t-mini\n" in done.output and "mmo fetch i2t-mini" in still_missing(done), done.output
    assert "codec-transformers serves instead" in done.output and "codec" not in still_missing(done)
    for artefact in select(manifest, "mini"):
        if artefact.name not in ("codec", "i2t-mini"):
            assert all((root / file.to).is_file() for file in artefact.files), artefact.name
    assert (root / "mimi-transformers" / "model.safetensors").is_file() and not (root / "mimi").exists()
    served = dict(server.served)
    assert mmo("--mirror").exit_code == 1 and dict(server.served) == served, "what has come stays"
    for stage in ("t2a", "a2a"):
        assert mmo("--mirror", "--stage", stage).exit_code == 0


def test_offline_and_doctor_agree_on_what_the_mirror_brought(server, root, patient):
    mmo("--mirror")
    picture_rows = root / "mini" / "sft_i2t_mini.parquet"
    assert doctor.missing_files(profiles.mini()) == [str(picture_rows)]
    offline = mmo("--offline")
    assert offline.exit_code == 1 and re.findall(r"missing: (\S+)", offline.output) == [str(picture_rows)]
    assert mmo("i2t-mini").exit_code == 0, "from the hub, as was said"
    assert mmo("--offline").exit_code == 0 and mmo("--verify").exit_code == 0 and doctor.missing_files(profiles.mini()) == []
    assert mmo().exit_code == 0 and not (root / "mimi").exists(), "the hub is not asked for what serves already"


def test_a_share_of_what_the_mirror_brought_gives_all_that_it_has(server, root, patient, tmp_path, monkeypatch):
    mmo("--mirror")
    shutil.copytree(root, tmp_path / "share")
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path / "pupil"))
    done = mmo("--from", tmp_path / "share")
    assert done.exit_code == 1 and "still missing: i2t-mini\n" in done.output and "codec-transformers serves instead" in done.output
    assert lock(tmp_path / "pupil").keys() == lock(root).keys()


def test_the_codec_itself_is_kept_where_it_is_there(server, root, patient):
    assert mmo("codec", "codec-transformers").exit_code == 0
    (root / "mimi" / "tokenizer-e351c8d8-checkpoint125.safetensors").write_bytes(b"changed")
    done = mmo("--offline")
    assert "changed: " in done.output and "mimi/tokenizer" in done.output


def test_an_alternative_that_is_no_artefact_is_refused(tmp_path):
    path = tmp_path / "manifest.toml"
    path.write_text('[a]\nabout = ""\nhub = "a/b"\nlicence = ""\nfolder = "a"\nfiles = []\nalternative = "b"\n')
    with pytest.raises(ValueError, match=r"manifest: \[a\] its alternative is no artefact"):
        read_manifest(path)


# --- Words ---------------------------------------------------------------------------------------------------------------


def test_wrong_words_are_answered_with_the_right_ones(root):
    assert "t2a-mini" in mmo("t2a-maxi").output
    assert "choose one" in mmo("--mirror", "--from", "share").output
    tiny = CliRunner().invoke(cli.app, ["fetch", "--profile", "tiny"])
    assert tiny.exit_code == 1 and "comes with the repository; for the real files say --profile mini" in tiny.output
    root.mkdir()
    (root / "fetched.json").write_text("{")
    assert "fetched.json: cannot be read" in mmo("--offline").output


@pytest.mark.parametrize("damaged", ["[]", '{"files": []}', '{"files": {"%s": {}}}' % T2A, '{"files": {"%s": {"size": "x", "mtime_ns": 1, "sha256": ""}}}' % T2A])
def test_a_damaged_record_is_named_with_what_to_do(root, tmp_path, damaged):
    for folder in (root, tmp_path / "share"):
        (folder / "mini").mkdir(parents=True)
        (folder / T2A).write_bytes(noise(2000))
    (root / "fetched.json").write_text(damaged)
    done = mmo("t2a-mini", "--offline")
    assert done.exit_code == 1 and str(root / "fetched.json") in done.output and "delete it, and the files are checked and recorded anew" in done.output, done.output
    (tmp_path / "share" / "fetched.json").write_text(damaged)
    shutil.rmtree(root)
    done = mmo("t2a-mini", "--from", tmp_path / "share")
    assert done.exit_code == 1 and str(tmp_path / "share" / "fetched.json") in done.output and "of a share, copy it again" in done.output


def test_a_share_without_its_record_is_taken_with_a_warning_above_and_below(root, tmp_path):
    (tmp_path / "share" / "mini").mkdir(parents=True)
    (tmp_path / "share" / T2A).write_bytes(noise(2000))
    done = mmo("t2a-mini", "--from", tmp_path / "share")
    warning = f"nothing in this share can be checked: {tmp_path / 'share'} has no fetched.json"
    assert done.exit_code == 0 and done.output.count(warning) == 2 and "taken unchecked" in done.output, done.output
    assert done.output.startswith(warning) and warning in done.output.strip().splitlines()[-1]


def test_what_fetches_nothing_takes_no_source(root, tmp_path):
    for command in ("--offline", "--verify"):
        for source in (["--from", tmp_path], ["--mirror"]):
            done = mmo(command, *source)
            assert done.exit_code == 1 and f"{command} fetches nothing, so {source[0]} has no meaning beside it" in done.output


def test_a_link_to_a_disk_that_was_unplugged_is_told_as_such(root, tmp_path):
    root.symlink_to(tmp_path / "disk")
    for command in ([], ["--offline"]):
        done = mmo("t2a-mini", *command)
        assert done.exit_code == 1 and f"{root}: points to {tmp_path / 'disk'}, which is not there; is the disk connected?" in done.output, done.output


def messages(path: Path) -> list[str]:
    """The words of the errors that a module raises, as far as something is filled in there, which is {} here."""
    raised = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)]
    strings = [part for node in raised for part in ast.walk(node) if isinstance(part, ast.JoinedStr)]
    return ["".join(str(piece.value) if isinstance(piece, ast.Constant) else "{}" for piece in each.values) for each in strings]


def test_an_error_that_sends_one_to_fetch_names_a_command_that_fetches():
    """`mmo fetch` alone takes the profile tiny, which needs nothing."""
    found = [(path.name, what) for path in MANIFEST.parents[1].glob("mmo/**/*.py") for words in messages(path)
             for what in re.findall(r"mmo fetch(?: ([^\s`',;)]+))?", words)]  # fmt: skip
    found = [(name, what) for name, what in found if name not in ("hub.py", "hub_sources.py")]
    assert len(found) >= 5, found
    wrong = [(name, what) for name, what in found if what not in ("--profile", "{}") and what not in read_manifest()]
    assert not wrong, f"`mmo fetch` and then neither --profile nor an artefact's name: {wrong}"


def test_sources_are_told_apart_by_what_they_cannot_do(root, manifest, tmp_path):
    artefact = manifest["i2t-mini"]
    with pytest.raises(FetchError, match="does not read parts"):
        ModelScope().open(artefact, artefact.files[0], None)
    assert Share(tmp_path).finished and not ModelScope().finished
