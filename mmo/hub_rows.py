"""A fixed part of a parquet file that lies on a hub, without the rest of it.

A parquet file ends with a table of its row groups, so a few ranges are enough: first the table, then the pages of the rows that
are wanted. Which row groups: `random.Random(seed).sample`, whose draws are the same in every Python; of each the first
rows, so that little is read even where a file has few and large row groups.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as parquet
from tqdm import tqdm

from mmo.manifest import Subset

BUFFER = 4 << 20  # bytes a request: what a column is read ahead, and at most lost per column where a row group is left early
BATCH = 512  # rows decoded at once


@dataclass(frozen=True)
class Part:
    """The first `rows` rows of one row group; `size`: about how many bytes they take."""

    group: int
    rows: int
    size: int


def choose(table: parquet.FileMetaData, subset: Subset) -> list[Part]:
    """The parts that make up a subset, in the file's order.  ValueError where that would be the whole file."""
    if table.num_rows <= subset.rows:
        raise ValueError(f"it has {table.num_rows} rows, and {subset.rows} were to be a part of it")
    count = min(subset.row_groups, table.num_row_groups)
    groups = sorted(random.Random(subset.seed).sample(range(table.num_row_groups), count))
    each = -(-subset.rows // count)
    return [part_of(table.row_group(group), group, each) for group in groups]


def part_of(group: parquet.RowGroupMetaData, number: int, rows: int) -> Part:
    size = sum(group.column(column).total_compressed_size for column in range(group.num_columns))
    taken = min(rows, group.num_rows)
    return Part(number, taken, size * taken // max(group.num_rows, 1))


def open_parquet(file: BinaryIO, table: parquet.FileMetaData | None = None) -> parquet.ParquetFile:
    """A parquet file that reads by ranges of BUFFER bytes, and nothing ahead of what is asked for; `table`: if it was read before."""
    return parquet.ParquetFile(file, metadata=table, buffer_size=BUFFER, pre_buffer=False)


def read_parts(source: parquet.ParquetFile, parts: list[Part], folder: Path, label: str) -> list[Path]:
    """Each part as a file of its own in `folder`; one that is finished there already is kept, which is how a broken download goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"group-{part.group:05d}-{part.rows}.parquet" for part in parts]
    for part, file in zip(parts, tqdm(files, desc=label, unit="row group")):
        if not file.is_file():
            write_part(source, part, file)
    return files


def write_part(source: parquet.ParquetFile, part: Part, file: Path) -> None:
    unfinished, left = file.with_suffix(".tmp"), part.rows
    with parquet.ParquetWriter(unfinished, source.schema_arrow) as writer:
        for batch in source.iter_batches(min(BATCH, part.rows), row_groups=[part.group], use_threads=False):
            writer.write_batch(batch.slice(0, left))
            left -= min(left, batch.num_rows)
            if not left:
                break
    os.replace(unfinished, file)


def join(files: list[Path], target: Path) -> Path:
    """All parts in one file, batch by batch: memory does not grow with it."""
    unfinished = target.with_suffix(".tmp")
    with parquet.ParquetWriter(unfinished, parquet.read_schema(files[0])) as writer:
        for file in files:
            for batch in parquet.ParquetFile(file).iter_batches(4 * BATCH):
                writer.write_batch(batch)
    os.replace(unfinished, target)
    return target
