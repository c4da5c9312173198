"""Memory between the process and its system: kept from step to step while training, given back where nobody uses it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

TRIM, MAPPED = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (mallopt(3))
NEVER = -1  # to trim
LARGE, OLDER = 1 << 30, 32 << 20  # bytes; a glibc of before 2.35 refuses more than 32 MiB
SMALL = 4 << 20
HUGE_PAGE, ADVICE = 2 << 20, 14  # bytes; MADV_HUGEPAGE (madvise(2))
ROOM = 8 << 30  # bytes, or half of the machine's memory; only what is used of it is ever taken


def keep(mixture: bool) -> None:
    """Let freed memory stay in the process, for the next step of training needs as much again.  mixture: the model has experts.

    glibc may ask the system for every large tensor and hand it back when it is freed; each page is then cleared and mapped anew.  Which it does
    is a matter of luck, of how a process's memory came to lie: 10 000 to 24 000 pages in a step of `tiny` in one (0.03 of its 0.64 s), 300 in
    another.  A mixture's blocks stay only up to 4 MiB: what an expert gets differs from step to step, so a large block never quite fits where the last one
    was, and the gaps grow.  At 315 M weights a process held 11.4 GB after twelve steps and 8.9 with the limit, at 9 % more time a step.
    Without a mixture, what is kept lies on huge pages where the system has them (`lay_on_huge_pages`).  To be called before the weights are made.
    No number changes.  Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(TRIM, NEVER)
            if mixture:
                library.mallopt(MAPPED, SMALL)
            else:
                most = LARGE if library.mallopt(MAPPED, LARGE) else OLDER
                library.mallopt(MAPPED, most)
                if not is_counted():
                    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
                    lay_on_huge_pages(library, room=min(ROOM, half), block=most // 2)


def is_counted() -> bool:
    """Whether the system counts what a process asks for, not only what it takes: then room that is not needed is missing elsewhere."""
    import resource  # not on Windows

    limited = any(resource.getrlimit(each)[0] != resource.RLIM_INFINITY for each in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    return limited or (overcommit.is_file() and overcommit.read_text().strip() == "2")


def lay_on_huge_pages(library: ctypes.CDLL, room: int, block: int) -> None:
    """Ask for pages of 2 MiB instead of 4 KiB under the next `room` bytes of the heap, which is grown by so much; nothing is touched yet.

    Every weight is read in every step, and each page of 4 KiB has to be looked up.  Linux gives large ones where it is asked ("madvise", most
    systems' setting) or always.  block: bytes asked for at once, fewer than what glibc would map beside the heap.  Room that the system refuses is left out.
    """
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes, library.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_ssize_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    blocks = [library.malloc(block) for _ in range(room // block)]
    end = library.sbrk(0)
    inside = [each for each in blocks if each and each < end]
    if inside:
        start = -(-min(inside) // HUGE_PAGE) * HUGE_PAGE
        library.madvise(start, (end - start) // HUGE_PAGE * HUGE_PAGE, ADVICE)
    for each in blocks:
        library.free(each)


def private_bytes(process) -> int:
    """Bytes that a process (psutil's) has for itself; where the system tells only its own processes' (macOS), all that it holds."""
    import psutil

    try:
        return process.memory_full_info().uss
    except psutil.AccessDenied:
        return process.memory_info().rss


def give_back(device: torch.device) -> None:
    """Let go of what nobody uses: what a failed attempt left, or an earlier training in the same process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc, which keeps freed weights for itself
            ctypes.CDLL(None).malloc_trim(0)
