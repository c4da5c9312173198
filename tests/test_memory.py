"""Memory stays in the process while it trains, and goes back where nobody uses it."""

import subprocess
import sys

import psutil
import pytest
import torch

from mmo.memory import give_back

CPU = torch.device("cpu")
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
