"""Timing: A B A B in one process, so that whatever else the machine does meets all arms alike; medians, never means."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, the device's work included."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def alternate(arms: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each arm in each round, one arm after the other; the first `warm_up` rounds do not count."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(warm_up + rounds):
        for name, work in arms.items():
            taken = seconds_of(work, device)
            if number >= warm_up:
                found[name].append(taken)
    return found


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of round-by-round quotients: both of a round met the same machine."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


class ProcessorTime:
    """Wraps a function; `seconds` holds the processor time of this process, all threads together, that each call took.

    Beside other work a wall clock tells of the other work too; this does not, but for what shared caches and memory cost.
    """

    def __init__(self, work: Callable) -> None:
        self.work = work
        self.seconds: list[float] = []

    def __call__(self, *arguments, **named):
        started = time.process_time()
        result = self.work(*arguments, **named)
        self.seconds.append(time.process_time() - started)
        return result

    def median(self, rounds: int) -> float:
        """Of the last `rounds` calls."""
        return statistics.median(self.seconds[-rounds:])


class Stopwatch:
    """Wraps a function; `seconds` holds what each call took.

    Its two waits a call keep the host from running ahead of a GPU: about the time of one launch.
    """

    def __init__(self, work: Callable, device: torch.device) -> None:
        self.work, self.device = work, device
        self.seconds: list[float] = []

    def __call__(self, *arguments, **named):
        synchronise(self.device)
        started = time.perf_counter()
        result = self.work(*arguments, **named)
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - started)
        return result
