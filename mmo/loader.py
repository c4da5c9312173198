"""Batches made ahead: processes of their own realise, sort and stack rows while the model trains on earlier ones.

    with BatchesAhead(batches, chunk, number, workers=1) as stream:
        for batch in stream: ...
    stream.waited                      # seconds in which the model stood still for want of a batch

The batches and their order are those of `batches.start(chunk, number)`, whatever `workers` is: worker w makes chunks w,
w + W, w + 2 W … whole (a chunk is what is sorted by length together), and the chunks are handed out by turns.  What a row looks like is
seeded by its own number, so nothing depends on who makes it.  A batch made ahead and never trained on has not happened: it
carries its own `position` and counts, and only the trainer counts them.

Processes, not threads: laying rows out is Python, and every operation of PyTorch lets go of Python's lock and asks for it again, up to
5 ms later if another thread computes in Python.  A thread that prepares would slow the very steps that it should hide behind.

Each worker is a `torch.utils.data.DataLoader` with one process: it brings tensors through shared memory, into pinned memory where
they go on to a card, and notices when either side dies.  Rows and features are memory maps, so processes share them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import count

import torch
from torch.utils.data import DataLoader, IterableDataset

from mmo.data import Batch, Batches
from mmo.memory import give_back

AHEAD = 3  # batches that each worker holds ready, besides the chunk it has realised


def default_workers(device: torch.device) -> int:
    """Loader processes: on a card enough to keep up with it; beside a CPU's training one, as two would take its cores.

    Where processes are not forked (macOS, Windows) each takes seconds to import torch: there the CPU trains without.  Processes that
    torchrun has started on one machine share its cores.
    """
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type != "cpu":
        return min(4, max(1, cores - 1))
    return int(cores > 1 and sys.platform == "linux")


class LoaderDied(RuntimeError):
    """A loader process has ended, and no batch will come of it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"a loader process died ({str(error).splitlines()[0]}). Too little memory, or too little shared memory (/dev/shm; in a "
            "container: --shm-size)? `mmo train --workers 0` goes on without such processes"
        )


def leave_interrupts(_worker: int) -> None:
    """Ctrl-C is for the trainer, which saves and then ends its workers; a terminal tells it to all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Chunks(IterableDataset):
    """One worker's share of the chunks, batch by batch; an error comes as a value, so that it arrives as it is."""

    def __init__(self, batches: Batches, chunk: int, number: int, first: int, step: int) -> None:
        super().__init__()
        self.batches, self.chunk, self.number, self.first, self.step = batches, chunk, number, first, step

    def __iter__(self) -> Iterator[Batch | Exception]:
        try:
            for chunk in count(self.chunk + self.first, self.step):
                yield from self.batches.of_chunk(chunk, self.number if chunk == self.chunk else 0)
        except Exception as error:  # sent to the trainer and raised there
            yield error


class BatchesAhead:
    """The batches of `batches.start(chunk, number)`, made by `workers` processes (0: here, when asked).

    pin: put them into pinned memory, from where a copy to a CUDA device need not be waited for.
    Raises what making a batch raises, and LoaderDied where a process died.  torch notices that by a signal, so the error may come up
    anywhere in the block; it leaves the block as LoaderDied.
    """

    def __init__(self, batches: Batches, chunk: int = 0, number: int = 0, workers: int = 0, pin: bool = False) -> None:
        if workers < 0:
            raise ValueError(f"workers {workers} must not be negative")
        self.wait, self.waited = 0.0, 0.0  # seconds: for the last batch, and for all
        self.pin = pin
        self.chunk = chunk
        self.here = batches.start(chunk, number) if workers == 0 else None
        if workers:
            give_back(torch.device("cpu"))  # the processes are forks: what is freed and not given back, they would keep to their end
        self.streams = [iter(self.loader(Chunks(batches, chunk, number, first, workers))) for first in range(workers)]
        self.turn = 0

    def loader(self, chunks: Chunks) -> DataLoader:
        return DataLoader(
            chunks, batch_size=None, num_workers=1, prefetch_factor=AHEAD, pin_memory=self.pin,
            generator=torch.Generator(),  # it draws a seed; not from the generator that dropout uses
            worker_init_fn=leave_interrupts,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )  # fmt: skip

    def __iter__(self) -> BatchesAhead:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = self.made_here() if self.here is not None else self.made_ahead()
        self.wait = time.perf_counter() - started
        self.waited += self.wait
        return batch

    def made_here(self) -> Batch:
        batch = next(self.here)
        return batch.pin_memory() if self.pin else batch

    def made_ahead(self) -> Batch:
        try:
            batch = next(self.streams[self.turn])
        except RuntimeError as error:
            raise LoaderDied(error) from error
        if isinstance(batch, Exception):
            raise batch
        if batch.position[0] != self.chunk:  # the chunk's last batch: the next chunk is the next worker's
            self.chunk, self.turn = batch.position[0], (self.turn + 1) % len(self.streams)
        return batch

    def __enter__(self) -> BatchesAhead:
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        self.close()
        if isinstance(error, RuntimeError) and not isinstance(error, LoaderDied) and "DataLoader worker" in str(error):
            raise LoaderDied(error) from error

    def close(self) -> None:
        """End the processes; what they have made and nobody took is forgotten."""
        self.streams.clear()
