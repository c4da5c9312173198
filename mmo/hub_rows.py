"""A fixed part of a parquet file that lies on a hub, without the rest of it.

A parquet file ends with a table of its row groups, so a few ranges are enough: first the table, then the pages of the rows that
are wanted. Which row groups: `random.Random(seed).sample`, whose draws are the same in every Python; of each the first
rows, so that little is read even where a file has few and large row groups.
"""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable
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


class KeptReads(io.RawIOBase):
    """A remote file of which every read is kept in a folder: what was read before a break comes from there, and not once more over the line.

    Within a row group parquet is read from its beginning, always by the same ranges; so a broken row group goes on at the range where it broke.
    """

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        super().__init__()
        self.file, self.folder = file, folder

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        start = self.file.tell()
        kept = self.folder / f"{start}-{size}"
        if kept.is_file():
            data = kept.read_bytes()
            self.file.seek(start + len(data))
            return data
        data = self.file.read(size)
        if len(data) == size:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_suffix(".tmp")
            unfinished.write_bytes(data)
            os.replace(unfinished, kept)
        return data

    def forget(self) -> None:
        """What was read is used up: give its room back."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_parts(source: parquet.ParquetFile, parts: list[Part], folder: Path, label: str, used_up: Callable[[], object] = lambda: None) -> list[Path]:
    """Each part as a file of its own in `folder`; one that is finished there already is kept, which is how a broken download goes on.

    used_up: called behind every part that was read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"group-{part.group:05d}-{part.rows}.parquet" for part in parts]
    with tqdm(desc=label, unit=" rows", total=sum(part.rows for part in parts)) as shown:
        for part, file in zip(parts, files):
            if file.is_file():
                shown.update(part.rows)
            else:
                write_part(source, part, file, shown)
                used_up()
    return files


def write_part(source: parquet.ParquetFile, part: Part, file: Path, shown: tqdm) -> None:
    unfinished, left = file.with_suffix(".tmp"), part.rows
    with parquet.ParquetWriter(unfinished, source.schema_arrow) as writer:
        for batch in source.iter_batches(min(BATCH, part.rows), row_groups=[part.group], use_threads=False):
            writer.write_batch(batch.slice(0, left))
            shown.update(min(left, batch.num_rows))
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
