"""Memory between the process and its system: kept from step to step while training, given back where nobody uses it."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

import torch

TRIM, MAPPED = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (mallopt(3))
ALWAYS, LARGE, OLDER = 2**31 - 1, 1 << 30, 32 << 20  # bytes; a glibc of before 2.35 refuses more than 32 MiB for the second
SMALL = 4 << 20


def keep(mixture: bool) -> None:
    """Let freed memory stay in the process, for the next step of training needs as much again.  mixture: the model has experts.

    glibc may ask the system for every large tensor and hand it back when it is freed; each page is then cleared and mapped anew.  Which it does
    is a matter of luck, of how a process's memory came to lie: 10 000 to 24 000 pages in a step of `tiny` in one (0.03 of its 0.64 s), 300 in
    another.  A mixture's blocks stay only up to 4 MiB: what an expert gets differs from step to step, so a large block never quite fits where the last one
    was, and the gaps grow.  At 315 M weights a process held 11.4 GB after twelve steps and 8.9 with the limit, at 9 % more time a step.
    No number changes.  Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(MAPPED, SMALL if mixture else LARGE) or library.mallopt(MAPPED, OLDER)
            library.mallopt(TRIM, ALWAYS)


def give_back(device: torch.device) -> None:
    """Let go of what nobody uses: what a failed attempt left, or an earlier training in the same process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc, which keeps freed weights for itself
            ctypes.CDLL(None).malloc_trim(0)
