"""Does a loader's memory stay flat, however many shards a stage's rows lie in, and however long it runs?

    one       a file of rows
    all       many such files: the same rows again and again, under other names

Both are packed (rows.py), then worker processes make batches of them as training does, and after every quarter of the way the memory
that each worker has for itself is looked at (what it shares with its parent, and pages of mapped files, which the system takes back where it
needs them, are not counted).  Rows are drawn from all over the files: every chunk touches every shard.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import PADDED_LENGTH, write_synthetic
from mmo.chat import ChatTokenizer
from mmo.data import Batches, Corpus, DataFile, Layout
from mmo.loader import BatchesAhead
from mmo.memory import private_bytes
from mmo.profiles import Profile, profile
from mmo.rows import open_rows

LOOKS = 4  # at the memory


@dataclass(frozen=True)
class ShardsBench:
    """Settings of one measurement."""

    shards: int = 8
    rows: int = 10_000  # of a shard
    seen: int = 8192  # rows that each worker makes
    workers: int = 2
    chunk_rows: int = 1024
    seed: int = 0

    @property
    def chunks(self) -> int:
        """Of each worker."""
        return max(LOOKS, self.seen // self.chunk_rows)


def write_shards(folder: Path, chosen: Profile, settings: ShardsBench) -> list[Path]:
    """The files, in the real schema."""
    words = (profile("tiny").data_dir / "words.txt").read_text(encoding="utf-8").split()
    paths = [folder / f"t2a-{number:05d}-of-{settings.shards:05d}.parquet" for number in range(settings.shards)]
    write_synthetic(paths[0], chosen.model, words, settings.rows, settings.seed)
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    return paths


def own_memory() -> list[int]:
    """Bytes that each loader process has for itself."""
    return [private_bytes(child) for child in psutil.Process().children()]


def memory_on_the_way(batches: Batches, settings: ShardsBench) -> list[int]:
    """Bytes of the largest worker after each of LOOKS parts of the way."""
    found, total = [], settings.chunks * settings.workers
    with BatchesAhead(batches, workers=settings.workers) as stream:
        for part in range(1, LOOKS + 1):
            while next(stream).position[0] < total * part // LOOKS:
                pass
            found.append(max(own_memory()))
    return found


def bench_shards(chosen: Profile, settings: ShardsBench, folder: Path | None = None, device: torch.device | None = None) -> Report:
    """Measure.  folder: for files and packed rows, default a temporary one."""
    stage, tokenizer = chosen.stages["t2a"][0], ChatTokenizer.load(profile("tiny").tokenizer_dir)
    layout = Layout(chosen.model, tokenizer, PADDED_LENGTH)
    columns = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        place = folder or Path(temporary)
        paths = write_shards(place, chosen, settings)
        for count in sorted({1, settings.shards}):
            opened = [open_rows(path, chosen.model, place, ("answer_audios",)) for path in paths[:count]]
            corpus = Corpus([DataFile(rows) for rows in opened], stage.draws, chosen.system_prompts)
            batches = Batches([corpus], [1.0], layout, max(stage.token_budget, PADDED_LENGTH), settings.seed, settings.chunk_rows)
            packed = sum(rows.packed.stat().st_size for rows in opened)
            columns[count] = [len(corpus), packed, *memory_on_the_way(batches, settings)]
    names = ["rows", "packed rows (MB)", *(f"memory of a worker after {settings.chunks * part // LOOKS} chunks (MB)" for part in range(1, LOOKS + 1))]
    values = list(zip(*columns.values(), strict=True))
    lines = [Line(names[0], "", tuple(map(float, values[0])))]
    lines += [Line(name, "", tuple(value / 1e6 for value in row)) for name, row in zip(names[1:], values[1:], strict=True)]
    first, last = min(columns), max(columns)
    return Report(
        title=f"Memory of a loader process, {chosen.name}",
        columns=tuple(f"{count} shard{'s' * (count > 1)}" for count in columns),
        lines=tuple(lines),
        ratios={},
        checks={
            "grown from the first look to the last, all shards, MB": (columns[last][-1] - columns[last][2]) / 1e6,
            "all shards over one, at the last look, MB": (columns[last][-1] - columns[first][-1]) / 1e6,
        },
        settings={"profile": chosen.name, "rows a shard": settings.rows, "chunk": settings.chunk_rows, "workers": settings.workers, "seed": settings.seed},
        machine=describe_machine(device or torch.device("cpu")),
        samples={},
    )  # fmt: skip
