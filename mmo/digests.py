"""A file's checksum by its content, without holding the file: of downloads, of weights, of data whose features are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 4 << 20  # bytes read at once


def sha256_of(path: Path) -> str:
    """64 lower-case hexadecimal digits, in constant memory.  Raises OSError where the file cannot be read."""
    return digest_of(path, hashlib.sha256())


def digest_of(path: Path, digest) -> str:
    """The same by any digest of hashlib, which may have taken something in already (git's SHA-1 has a head)."""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
