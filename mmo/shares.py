"""Batches shared by several processes: each computes some rows of every batch, and all learn what one process would have learnt.

    batches = SharedBatches(corpora, shares, layout, budget, seed, chunk_rows, rank=0, size=2, exchange=Exchange(group))
    for batch in batches.start(): ...      # this process's shares; batch.part_of tells of the whole

torchrun starts the same program several times.  What makes their common step the step of one process:

- **One plan.**  A plan of batches needs a few integers of each row (`Measure`).  Every process realises every size-th row of a chunk to
  measure it, all tell each other what they found, and all make the same plan.  Then each realises its own shares: 2 / size of the
  work of one process.  What a row looks like depends on (seed, corpus, epoch, row) alone, so it does not matter who realises it.
- **Shares.**  The rows of a batch are sorted by length; a share is a run of neighbours, such that the largest share, padded to its own
  longest row, is as small as can be (`deal`).
- **Denominators, dropout** are those of the whole batch (training.py).
- **The same weights learn.**  A weight without a gradient is left alone by the optimiser, one with a gradient of zeros is not.  So a share takes
  the way that the whole batch takes: it goes through a projector, or through the Talker, where any row of the batch does.
- **Gradients** are averaged by PyTorch's DistributedDataParallel, while the backward still runs.
- **Experts** (moe.py): their balance is a product of two means over the batch, padding included; so shares are padded as the whole is, and the
  load is added up over all.  Where a share is computed in pieces (pieces.py) this is not exact.

A sum of shares is added up in another order than the whole: equal means equal to the rounding.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmo.config import IGNORE
from mmo.data import Batch, Batches, Example, Whole, collate, cut_at
from mmo.distributed import Group, ProcessLost
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.rows import DataError

POLL_SECONDS = 0.01  # between two looks at whether another process has told what it found


# --- What a plan needs -------------------------------------------------------------------------------------------


class Measure(NamedTuple):
    """A realised row in a few integers: all that others must know of it."""

    place: int  # in its chunk
    length: int
    text_length: int
    sound: int  # features
    pictures: int
    speaker: int  # 1: it has a voice's vector
    stop_cut: int  # 1: the answer lost a stop sign
    answer_cut: int  # 1: nothing in it is learnt
    text_labels: int
    audio_labels: tuple[int, ...]  # of each codebook

    @classmethod
    def of(cls, place: int, example: Example) -> Measure:
        """Measure a row."""
        row = example.row
        return cls(
            place, example.length, row.text_length, len(example.sound), len(example.pictures), int(len(example.speaker) > 0), int(row.stop_cut > 0),
            int(row.answer_cut), int((row.text_labels != IGNORE).sum()), tuple((row.audio_labels != IGNORE).sum(dim=1).tolist()),
        )  # fmt: skip

    @classmethod
    def read(cls, integers: Sequence[int]) -> Measure:
        """From what `integers` gave."""
        fixed = len(cls._fields) - 1
        return cls(*integers[:fixed], tuple(integers[fixed:]))

    def integers(self) -> list[int]:
        """Flat, to be sent."""
        return [*self[:-1], *self.audio_labels]

    @property
    def spoken(self) -> bool:
        """Whether there is sound to learn."""
        return any(self.audio_labels)


def whole_of(rows: Sequence[Measure]) -> Whole:
    """What `Batch.whole` would say of a batch of these rows."""
    return Whole(
        rows=len(rows), length=max(row.length for row in rows), text_length=max(row.text_length for row in rows),
        useful=sum(row.length for row in rows), stop_cut=sum(row.stop_cut for row in rows), spoken=sum(row.spoken for row in rows),
        text_labels=sum(row.text_labels for row in rows), audio_labels=tuple(map(sum, zip(*(row.audio_labels for row in rows), strict=True))),
    )  # fmt: skip


def deal(rows: Sequence[Measure], size: int, even: bool = False) -> list[list[Measure]]:
    """Rows, shortest first -> `size` runs of neighbours, the largest of which, padded to its own longest row, is as small as can be.

    even: as equal in number as can be, for shares that are padded as the whole is.  Where there are fewer rows than shares, some are empty.
    """
    if even:
        bounds = [len(rows) * number // size for number in range(size + 1)]
        return [list(rows[first:end]) for first, end in zip(bounds, bounds[1:])]
    low, high = rows[-1].length, len(rows) * rows[-1].length
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cut_at(rows, middle)) <= size else (middle + 1, high)
    runs = cut_at(rows, high)
    while len(runs) < min(size, len(rows)):  # equally long rows: nothing is won by a process without any
        largest = max(range(len(runs)), key=lambda number: len(runs[number]))
        half = len(runs[largest]) // 2
        runs[largest : largest + 1] = [runs[largest][:half], runs[largest][half:]]
    return runs + [[] for _ in range(size - len(runs))]


class Exchange:
    """Arrays of integers told by each process to all others, through the store that torchrun keeps; works in loader processes, too.

    exchange(number, own) -> everybody's, by rank.  Each number once.  Where another process dies, torchrun ends this one.
    """

    names = count()  # every process makes its exchanges in the same order

    def __init__(self, group: Group) -> None:
        self.rank, self.size = group.rank, group.size
        self.name = f"exchange {next(self.names)}"
        self.store, self.process, self.parent = None, -1, -1

    def __getstate__(self) -> dict:
        return vars(self) | {"store": None, "process": -1}

    def __call__(self, number: int, own: np.ndarray) -> list[np.ndarray]:
        """own (N, K) of this process -> (N', K) of each; every process must call this."""
        self.connect()
        keys = [f"{self.name}/{number}/{rank}" for rank in range(self.size)]
        self.store.set(keys[self.rank], own.astype(np.int32).tobytes())
        found = [np.frombuffer(self.wait_for(key), np.int32).reshape(-1, own.shape[1]) for key in keys]
        if self.store.add(f"{self.name}/{number}/read", 1) == self.size:  # the last reader clears up
            for key in (*keys, f"{self.name}/{number}/read"):
                self.store.delete_key(key)
        return found

    def connect(self) -> None:
        """A connection of this process's own: one that was open when it was forked is its parent's."""
        if self.process != os.getpid():
            self.store = torch.distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
            self.process, self.parent = os.getpid(), os.getppid()

    def wait_for(self, key: str) -> bytes:
        """The value, once somebody has set it."""
        while not self.store.check([key]):
            if os.getppid() != self.parent:
                raise ProcessLost("the process that waits for batches has ended")
            time.sleep(POLL_SECONDS)
        return self.store.get(key)


# --- Shares of batches -------------------------------------------------------------------------------------------


class SharedBatches(Batches):
    """The batches of `Batches`, and of each of them the share of one process."""

    def __init__(self, *arguments, rank: int, size: int, exchange: Callable[[int, np.ndarray], list[np.ndarray]]) -> None:
        super().__init__(*arguments)
        self.rank, self.size, self.exchange = rank, size, exchange
        self.measured: tuple[int, list[Measure]] = (-1, [])  # the last chunk

    def measure(self, number: int) -> np.ndarray:
        """(N, K) measures of the rows of a chunk that are this process's to measure."""
        drawn = self.drawn(number)
        own = [Measure.of(place, self.example(*drawn[place])).integers() for place in range(self.rank, len(drawn), self.size)]
        return np.array(own, np.int32).reshape(len(own), -1 if own else len(Measure._fields) - 1 + self.layout.config.num_codebooks)

    def chunk(self, number: int) -> list[Measure]:
        """The rows of one chunk, measured, shortest first, in the order in which `Batches.chunk` has them."""
        if self.measured[0] != number:
            parts = self.exchange(number, self.measure(number))
            self.measured = number, sorted(Measure.read(row) for part in parts for row in part.tolist())
        rows = self.measured[1]
        kept = [row for row in rows if not row.answer_cut]
        if not kept:
            raise DataError(self.nothing_left(len(rows)))
        return sorted(kept, key=lambda row: (row.length, row.sound))

    def of_chunk(self, chunk: int, number: int = 0):
        """This process's shares of the batches of one chunk, from a place in it on."""
        plan, drawn = self.plan(chunk), self.drawn(chunk)
        for place in range(number, len(plan)):
            last = place + 1 == len(plan)
            cut = len(drawn) - sum(map(len, plan)) if last else 0
            batch = self.share_of(plan[place], drawn, (chunk + 1, 0) if last else (chunk, place + 1), cut)
            self.counts.add(batch)
            yield batch

    def share_of(self, rows: Sequence[Measure], drawn: Sequence[tuple[int, int, int]], position: tuple[int, int], answers_cut: int) -> Batch:
        """The share of a batch: padded to its own longest row (with experts: as the whole), and complete where the whole is.

        Without a row of its own it is a row of the whole from which nothing is learnt.
        """
        config, whole = self.layout.config, whole_of(rows)
        dealt = deal(rows, self.size, even=config.use_moe)
        own = dealt[self.rank]
        examples = [self.example(*drawn[row.place]) for row in own or rows[:1]]
        batch = collate(examples, config, position, answers_cut, whole.length if config.use_moe else 0)
        if not own:
            silent = {name: torch.full_like(getattr(batch, name), IGNORE) for name in ("text_labels", "audio_labels")}
            batch = replace(batch, idle=True, **silent)
        if config.use_moe:
            batch = replace(batch, text_length=whole.text_length)
        before = sum(row.spoken for part in dealt[: self.rank] for row in part)
        return replace(self.completed(batch, rows), part_of=whole, before=before, talks=whole.spoken > 0)

    def completed(self, batch: Batch, rows: Sequence[Measure]) -> Batch:
        """With empty features where other rows of the whole have some: then the same weights take part in all shares."""
        config, B = self.layout.config, len(batch.names)
        added = {}
        if batch.speaker is None and any(row.speaker for row in rows):
            added["speaker"] = torch.zeros(B, config.spk_emb_size)
        if batch.audio_features is None and any(row.sound for row in rows):
            added |= {"audio_features": torch.zeros(B, 1, config.audio_hidden_size), "audio_lengths": torch.zeros(B, dtype=torch.long)}
        if batch.image_features is None and any(row.pictures for row in rows):
            added["image_features"] = torch.zeros(B, 1, config.image_token_len, config.image_hidden_size)
        return replace(batch, **added) if added else batch


# --- One model in several processes ------------------------------------------------------------------------------


class OwnPart(nn.Module):
    """What a process computes of a step, as the one call that DistributedDataParallel needs."""

    def __init__(self, model: OmniModel, losses: Callable[[Batch, Tensor | None, bool], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.omni, self.losses = model, losses

    def forward(self, batch: Batch, keep: Tensor | None, pooled: bool) -> tuple[Tensor, Tensor]:
        return self.losses(batch, keep, pooled)


class Sharing:
    """The copy of the model that one process holds, tied to those of the others.

    losses: of a part of a batch, given dropout's factors and whether the experts' balance is that of all.
    """

    def __init__(self, model: OmniModel, group: Group, losses: Callable[[Batch, Tensor | None, bool], tuple[Tensor, Tensor]]) -> None:
        gc.collect()  # an earlier pass's ties hang on the same weights
        self.group, self.size = group, group.size
        self.thinkers = [module for module in model.model.modules() if isinstance(module, MixtureOfExperts)]
        self.talkers = [module for module in model.talker.modules() if isinstance(module, MixtureOfExperts)]
        # Unused: a batch in which nothing is spoken leaves the Talker out, one without pictures a projector: in all processes alike.
        self.model = DistributedDataParallel(OwnPart(model, losses), broadcast_buffers=False, find_unused_parameters=True)

    def exchanging(self, now: bool) -> AbstractContextManager:
        """Within: gradients are averaged over all processes, or, not now, only added up here."""
        return nullcontext() if now else self.model.no_sync()

    def pool_balance(self, batch: Batch, positions: int | None) -> bool:
        """Whether the experts' balance of the next forward is that of all shares: not where any share is computed in pieces."""
        whole = batch.whole()
        largest = -(-whole.rows // self.size) * whole.length
        pooled = positions is None or largest <= positions
        for mixture in (*self.thinkers, *self.talkers):
            mixture.pool = self.group.sum if pooled else None
            mixture.counted = not batch.idle
        for mixture in self.talkers:
            mixture.counted = bool(batch.spoken)
        return pooled

    def of_all(self, loss: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """The whole batch's loss and parts from everybody's."""
        figures = self.group.sum(torch.cat((loss.reshape(1).to(parts.dtype), parts)))
        return figures[0], figures[1:]
