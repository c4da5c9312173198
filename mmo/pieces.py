"""When memory runs out: a batch computed in pieces, one after the other, with the loss and the gradients of the whole.

    for piece in pieces(batch, 4096):       # rows of the batch, at most 4096 positions a piece
        loss, parts = losses_of(model, piece, stage, device)        # training.py
        loss.backward()                     # gradients add up to those of the whole batch

A mean over pieces is not the mean over the batch, for pieces hold unlike numbers of labels: every piece's sums are divided by the
counts of the whole batch (`Batch.part_of`), which are known from the labels on the CPU.  Dropout is drawn for the whole batch, and each piece
takes its rows' part.  So the recipe stays what it is, batch for batch; only the memory is smaller.  One thing differs: the auxiliary loss of
experts, which is a product of two means over what is computed together (here: the mean of the pieces', by their positions).  Where products
are rounded (products.py, autocast), each piece's gradients are, and their sum is the whole's to that rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mmo.config import IGNORE
from mmo.data import Batch, Whole

SMALLER = 0.75  # of the positions that were too many


class TooLarge(ValueError):
    """What has to be in memory at once does not fit: no smaller pieces will help."""


def rows_a_piece(batch: Batch, positions: int) -> int:
    """How many of the batch's rows are computed together."""
    return max(1, positions // batch.input_ids.shape[2])


def pieces(batch: Batch, positions: int | None) -> Iterator[Batch]:
    """The batch's rows in groups of at most so many positions (one row at least); the batch itself where it is small enough."""
    if positions is None or batch.size <= positions or len(batch.names) == 1:
        yield batch
        return
    count, whole = -(-len(batch.names) // rows_a_piece(batch, positions)), batch.whole()
    for rows in torch.arange(len(batch.names)).tensor_split(count):  # as equal as can be
        yield rows_of(batch, int(rows[0]), int(rows[-1]) + 1, whole)


def rows_of(batch: Batch, first: int, end: int, whole: Whole) -> Batch:
    """Some of a batch's rows, padded as the batch is; `useful`, `position` and what was cut off stay those of the batch."""
    audio_labels, text_labels = batch.audio_labels[first:end], batch.text_labels[first:end]
    written = (text_labels != IGNORE).any(dim=0).nonzero()
    cut = {name: None if (value := getattr(batch, name)) is None else value[first:end]
           for name in ("speaker", "audio_features", "audio_lengths", "image_features")}  # fmt: skip
    return replace(
        batch,
        input_ids=batch.input_ids[first:end],
        text_labels=text_labels,
        audio_labels=audio_labels,
        text_length=min(batch.text_length, int(written[-1]) + 1) if len(written) else 0,
        names=batch.names[first:end],
        part_of=whole,
        before=batch.before + sum(row < first for row in batch.spoken),
        **cut,
    )


# --- Running out -----------------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's own kind, CUDA's and cuBLAS's words, or those of torch's allocator on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def next_smaller(batch: Batch, positions: int | None) -> int:
    """The next smaller number of positions to compute at once, which really gives smaller pieces.

    Raises TooLarge where it was computed row by row already.
    """
    length, rows = batch.input_ids.shape[2], len(batch.names)
    tried = rows if positions is None else min(rows, rows_a_piece(batch, positions))
    if tried == 1:
        raise TooLarge(
            f"a single row of {length} positions does not fit into memory; use a card with more, close what else uses it, or a smaller "
            "max_length (mmo/profiles.py)"
        )
    return max(1, min(tried - 1, int(tried * SMALLER))) * length


def shared_too_large(batch: Batch, positions: int | None) -> str:
    """What to say where memory runs out in one of several processes: a second attempt would leave the others waiting.

    Raises TooLarge where it was computed row by row already.
    """
    return (
        f"out of memory with {batch.size} positions. Several processes do not try again, as the others would wait: start with "
        f"MMO_POSITIONS={next_smaller(batch, positions)}, and the run goes on where its state was last saved"
    )
