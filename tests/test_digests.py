"""A file's checksum: the published ones of known contents, whatever their size, without torch or the clients of the hubs."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from mmo import digests
from mmo.rows import file_key


@pytest.mark.parametrize("content, wanted", [
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),  # FIPS 180-2, appendix B.1
])  # fmt: skip
def test_sha256_is_the_standards(content, wanted, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert digests.sha256_of(tmp_path / "file") == wanted
    assert file_key(tmp_path / "file") == wanted[:16], "the store of features finds what was kept before"


@pytest.mark.parametrize("size", [7, 8, 9, 24, 25])
def test_a_file_of_several_blocks_is_read_whole(size, tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "BLOCK", 8)
    content = bytes(range(size))
    (tmp_path / "file").write_bytes(content)
    assert digests.sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_digest_that_has_begun_goes_on(tmp_path):
    """Git's name of a file is the SHA-1 of a head and its content: `printf hello | git hash-object --stdin`."""
    (tmp_path / "file").write_bytes(b"hello")
    assert digests.digest_of(tmp_path / "file", hashlib.sha1(b"blob 5\0")) == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"


def test_one_home_for_all_without_torch_or_a_client():
    code = "import sys; import mmo.digests; print({'torch', 'huggingface_hub', 'pyarrow', 'requests'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize("module, heavy", [("mmo.hub", "torch"), ("mmo.checkpoint", "huggingface_hub")])
def test_who_fetches_needs_no_torch_and_who_saves_no_hub(module, heavy):
    code = f"import sys; import {module}; print({heavy!r} in sys.modules, sys.modules['{module}'].sha256_of.__module__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False mmo.digests"
