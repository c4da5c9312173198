"""Memory stays in the process while it trains, and goes back where nobody uses it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from mmo.memory import give_back, is_counted, private_bytes

CPU = torch.device("cpu")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PAGES = """
import resource, torch
from mmo import memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones({size})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
memory.keep(mixture={mixture}) if {mixture} is not None else None
for _ in range(5):  # until the heap is large enough
    faults()
print(faults())
"""


def pages_asked_for(mixture: bool | None, megabytes: int) -> int:
    """How many pages a process asks the system for, that makes and drops a tensor of this size five times; None: memory is not kept."""
    done = subprocess.run([sys.executable, "-c", PAGES.format(mixture=mixture, size=megabytes * 250_000)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only there is it known what the C library keeps")
def test_memory_of_one_step_serves_the_next():
    """What glibc would keep by itself is a matter of luck below 32 MB; above, it never does.  Of a mixture small blocks are kept, large ones go back."""
    assert pages_asked_for(None, megabytes=40) > 10_000
    assert pages_asked_for(False, megabytes=28) < 100
    assert pages_asked_for(True, megabytes=28) > 10_000
    assert pages_asked_for(True, megabytes=3) < 100


@pytest.mark.skipif(sys.platform != "linux", reason="only there is it known what the C library keeps")
def test_what_is_freed_goes_back_to_the_system():
    """320 MB of weights, small things between them that stay: glibc keeps all of it for itself until it is told."""

    def held():
        return psutil.Process().memory_info().rss / 1e6

    torch.ones(4_000_000)  # glibc learns from the first freed block how large those are that it keeps
    stay, weights = [], []
    for _ in range(40):
        weights.append(torch.ones(2_000_000))
        stay.append(torch.ones(4_000))
    full = held()
    weights.clear()
    give_back(CPU)
    assert held() < full - 280, f"{full:.0f} MB before, {held():.0f} MB behind it"
    assert len(stay) == 40


LARGE_PAGES = """
import resource, torch
from mmo import memory
if {limit}:
    resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
for _ in range({times}):
    memory.keep(mixture=False)
held = [torch.ones(750_000) for _ in range(100)]  # 300 MB
lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
lines |= dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
print(int(lines["AnonHugePages"].split()[0]) // 1000, int(lines["VmData"].split()[0]) // 1000)
"""


def megabytes_on_huge_pages(times: int = 1, limit: int = 0) -> tuple[int, int]:
    """Of a process with 300 MB of tensors; and what it has asked the system for, touched or not.  limit: bytes that it may ask for."""
    done = subprocess.run([sys.executable, "-c", LARGE_PAGES.format(times=times, limit=limit)], capture_output=True, text=True, check=True)
    on_huge_pages, asked_for = done.stdout.split()
    return int(on_huge_pages), int(asked_for)


@pytest.mark.skipif(not HUGE_PAGES.is_file() or "[never]" in HUGE_PAGES.read_text() or is_counted(), reason="this system has no huge pages to give")
def test_what_is_kept_lies_on_huge_pages():
    """Of 300 MB at least a half (the system gives them where it has whole ones); asked again, as every training does, the heap does not grow anew."""
    on_huge_pages, asked_for = megabytes_on_huge_pages()
    assert on_huge_pages > 150, f"{on_huge_pages} of 300 MB"
    assert megabytes_on_huge_pages(times=4)[1] < asked_for + 1000, "the heap grows with every call"


@pytest.mark.skipif(sys.platform != "linux" or is_counted(), reason="the heap is grown on Linux only, and only where room costs nothing")
def test_where_room_is_counted_none_is_asked_for():
    """A process that may ask for 32 GB in all keeps them for what it needs; without the limit the heap has its room."""
    limited, free = (megabytes_on_huge_pages(limit=limit)[1] for limit in (32 << 30, 0))
    assert limited < free - 500, f"{limited} MB asked for, {free} without a limit"


def test_where_the_system_tells_nothing_of_another_process_all_that_it_holds_counts(monkeypatch):
    """macOS, without rights."""
    me = psutil.Process()
    assert 0 < private_bytes(me) <= me.memory_info().rss

    def refuse(_):
        raise psutil.AccessDenied(me.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert private_bytes(me) == pytest.approx(me.memory_info().rss, rel=0.2)
