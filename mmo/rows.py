"""Rows of parquet files: checked once, packed once, then read through a memory map.

A data file (the real set's schema, in `COLUMNS`) is read row group by row group.  What every epoch needs (text, codes,
voice) is checked and written to an Arrow file in the cache, codes as 16-bit integers; sounds and pictures stay where they are
(`features.py` reads them once).  Rows are then views into the mapped file: however many workers read it, memory holds
it at most once, and that only as far as it is touched.

    rows = open_rows(Path("data/tiny/t2a-train.parquet"), config, cache)
    rows[0].conversation, rows[0].answers        # turns; one array of codes an answer
    rows.bad                                     # what was left out, by file and row, and why

Columns may be absent or empty, except those that the task `needs`.  A bad row is left out, counted and named; with
strict=True it raises.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from mmo.config import ModelConfig
from mmo.digests import sha256_of

COLUMNS = ("conversations", "question_audios", "answer_audios", "image_bytes", "ref_audios", "spk_emb")
ROLES = ("system", "user", "assistant")
BATCH_ROWS = 1024  # rows in memory while a file is packed
PACKING = 1  # number of the packed layout; a change makes old caches invalid
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # in the parquet file
        ("conversations", pa.string()),
        ("answer_audios", pa.list_(pa.list_(pa.int16()))),
        ("ref_audios", pa.list_(pa.int16())),
        ("spk_emb", pa.list_(pa.float32())),
    ]
)


class DataError(ValueError):
    """A data file or a row of it cannot be used; the message names both and says why."""


@dataclass(frozen=True)
class BadRow:
    """A row that was left out."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


@dataclass(frozen=True)
class RawRow:
    """One row as the file has it, but for its sounds and pictures."""

    file: str
    row: int  # number in the parquet file
    conversation: list[dict]  # turns of {"role", "content"}
    answers: list[np.ndarray]  # flat codes of each assistant turn, frame-major; empty where there is no sound
    reference: np.ndarray  # flat codes of the reference voice, or empty
    speaker: np.ndarray  # (S,) float32, or empty


def files_of(folder: Path, pattern: str) -> list[Path]:
    """The files that a glob names, sorted; where there are none, the shards of it: t2a.parquet may be t2a-00000-of-00008.parquet and so on."""
    name = Path(pattern)
    return sorted(folder.glob(pattern)) or sorted(folder.glob(str(name.with_stem(f"{name.stem}-[0-9]*-of-[0-9]*"))))


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file for reading by row group.  Raises DataError where it is missing or no parquet file."""
    if not path.is_file():
        raise DataError(f"{path}: no such data file; fetch it (`mmo fetch --profile mini`, or full) or build it (`mmo world build`)")
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)  # else it reads a whole row group before its first batch
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file, or cut short ({error}); fetch it again") from error


def check_columns(path: Path, needs: Sequence[str]) -> None:
    """Raises DataError naming columns that the file lacks."""
    found = open_parquet(path).schema_arrow.names
    missing = [name for name in ("conversations", *needs) if name not in found]
    if missing:
        raise DataError(f"{path}: missing column {', '.join(missing)}; it has {', '.join(found)}")


def file_key(path: Path) -> str:
    """16 hexadecimal digits of the file's content."""
    return sha256_of(path)[:16]


def read_batches(
    path: Path, columns: Sequence[str], batch_rows: int = BATCH_ROWS, start: int = 0
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row, batch) of the columns that the file has, row group by row group, from row `start` on."""
    file = open_parquet(path)
    wanted = [name for name in columns if name in file.schema_arrow.names]
    first, group = 0, 0  # row groups in front of `start` are not read
    while group < file.num_row_groups and first + file.metadata.row_group(group).num_rows <= start:
        first, group = first + file.metadata.row_group(group).num_rows, group + 1
    try:
        for batch in file.iter_batches(batch_size=batch_rows, row_groups=range(group, file.num_row_groups), columns=wanted, use_threads=False):
            done = max(0, start - first)
            if done < batch.num_rows:
                yield first + done, batch.slice(done)
            first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: unreadable behind row {first} ({error}); fetch it again") from error


# --- Checking ----------------------------------------------------------------------------------------------------


def parse_conversation(text: str | None) -> list[dict]:
    """The JSON of `conversations` -> turns.  Raises ValueError."""
    if not text:
        raise ValueError("conversations is empty")
    try:
        turns = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:  # the latter: thousands of brackets within each other
        raise ValueError(f"conversations is no JSON ({error})") from error
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("conversations is no list of turns")
    for turn in turns:
        if turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise ValueError(f"a turn needs role ({', '.join(ROLES)}) and content, got {str(turn)[:80]}")
        try:
            turn["content"].encode()
        except UnicodeEncodeError:
            raise ValueError("a turn's content holds half of a surrogate pair (a character that was cut in two), which no tokenizer reads") from None
    roles = [turn["role"] for turn in turns]
    if "assistant" not in roles or "user" not in roles[: roles.index("assistant")]:
        raise ValueError("no assistant turn that answers a user turn")
    return turns


def check_codes(codes: pa.Array | None, what: str, config: ModelConfig) -> None:
    """codes: a flat array of integers, or None.  Raises ValueError."""
    if codes is None or not len(codes):
        return
    if codes.null_count or len(codes) % config.num_codebooks:
        raise ValueError(f"{what}: {len(codes)} codes are no whole number of frames of {config.num_codebooks}")
    values = codes.to_numpy(zero_copy_only=False)
    low, high = values.min(), values.max()
    if low < 0 or high >= config.num_codes:
        raise ValueError(f"{what}: codes {low}..{high} leave the range 0..{config.num_codes - 1}")


def check_row(row: dict[str, pa.Scalar | None], config: ModelConfig) -> None:
    """Raises ValueError where a row cannot be used."""
    turns = parse_conversation(row["conversations"].as_py())
    answers = getattr(row.get("answer_audios"), "values", None)
    if answers is not None:
        spoken = sum(turn["role"] == "assistant" for turn in turns)
        if len(answers) > spoken:
            raise ValueError(f"answer_audios: {len(answers)} sounds for {spoken} assistant turns")
        for number in range(len(answers)):
            check_codes(getattr(answers[number], "values", None), f"answer_audios[{number}]", config)  # a null of no type has none
    check_codes(getattr(row.get("ref_audios"), "values", None), "ref_audios", config)
    speaker = getattr(row.get("spk_emb"), "values", None)
    if speaker is not None and len(speaker):
        if len(speaker) != config.spk_emb_size:
            raise ValueError(f"spk_emb has {len(speaker)} values, the model's vectors have {config.spk_emb_size}")
        if speaker.null_count or not np.isfinite(speaker.to_numpy(zero_copy_only=False)).all():
            raise ValueError("spk_emb holds values that are no finite numbers")


# --- Packing -----------------------------------------------------------------------------------------------------


def pack(path: Path, target: Path, config: ModelConfig) -> None:
    """Check every row of a parquet file and write the good ones to `target`, the bad ones beside it (.bad.json): all of it or nothing."""
    beside = target.with_suffix(".bad.json")
    rows, bad = (each.with_name(f"{each.name}.part") for each in (target, beside))
    try:
        found = pack_into(rows, path, config)
        bad.write_text(json.dumps([asdict(row) for row in found]), encoding="utf-8")
        for written in (bad, rows):  # on the disk before they have their names: a power loss leaves nothing torn under these
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(bad, beside)
        os.replace(rows, target)  # at last: where this is there, all is
    finally:
        for part in (rows, bad):
            part.unlink(missing_ok=True)


def pack_into(unfinished: Path, path: Path, config: ModelConfig) -> list[BadRow]:
    """Write the good rows of a parquet file to `unfinished`; the bad ones are returned."""
    bad: list[BadRow] = []
    with pa.ipc.new_file(unfinished, SCHEMA) as writer:
        for first, batch in read_batches(path, SCHEMA.names):
            columns = {name: column_of(batch, name, path) for name in SCHEMA.names[1:]}
            good = []
            for place in range(batch.num_rows):
                try:
                    check_row({name: column[place] for name, column in columns.items()}, config)
                    good.append(place)
                except ValueError as error:
                    bad.append(BadRow(path.name, first + place, str(error)))
            chosen = pa.array(good, pa.int64())
            arrays = [pa.array(np.array(good, np.int64) + first)]
            arrays += [columns[field.name].take(chosen).cast(field.type) for field in list(SCHEMA)[1:]]
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
    return bad


def column_of(batch: pa.RecordBatch, name: str, path: Path) -> pa.Array:
    """A column, or nulls where the file has none.  Raises DataError where its type cannot hold what it should."""
    wanted = SCHEMA.field(name).type
    if name not in batch.schema.names or pa.types.is_null(batch.schema.field(name).type):
        return pa.nulls(batch.num_rows, wanted)
    column = batch.column(name)
    if not alike(column.type, wanted):
        raise DataError(f"{path}: column {name} is {column.type}, wanted {wanted} (of any width)")
    return column


def alike(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a type can hold what is wanted, of any width.  A list in which nothing ever stood has no type inside, and fits."""
    if pa.types.is_null(kind):
        return True
    if is_any_list(kind) and is_any_list(wanted):
        return alike(kind.value_type, wanted.value_type)
    return shape_of(kind) == shape_of(wanted)


def is_any_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def shape_of(kind: pa.DataType) -> str:
    """A type without its width: "integer"."""
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "number"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def open_rows(path: Path, config: ModelConfig, cache: Path, needs: Sequence[str] = (), strict: bool = False) -> PackedRows:
    """The rows of one data file, packed into `cache` if that was not done before.

    Raises DataError where the file is missing, cut short or lacks a column, and with strict=True for the first bad row.
    """
    check_columns(path, needs)
    limits = f"{config.num_codebooks}x{config.num_codes}-{config.spk_emb_size}"
    key = file_key(path)
    target = cache / f"{path.stem}-{key}-{limits}-v{PACKING}.arrow"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_file():  # another process was quicker
                pack(path, target, config)
    rows = PackedRows(target, path, key)
    if strict and rows.bad:
        raise DataError(str(rows.bad[0]))
    return rows


class PackedRows:
    """Random access to a packed file, a view into its memory map.  Pickles as its path."""

    def __init__(self, packed: Path, source: Path, key: str) -> None:
        """key: of the source's content when it was packed (`file_key`).  Raises DataError where the packed file is damaged."""
        self.packed, self.source, self.key = packed, source, key
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(packed)))
            self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            self.bad = [BadRow(**row) for row in json.loads(packed.with_suffix(".bad.json").read_text(encoding="utf-8"))]
        except (pa.ArrowInvalid, OSError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
                raise  # the system's own: no damage of the file
            raise DataError(f"{packed}: these packed rows of {source.name} are damaged ({error}). Delete this file; they are then packed anew") from error
        self.columns = [{name: batch.column(name) for name in batch.schema.names} for batch in self.batches]
        self.starts = np.cumsum([0] + [batch.num_rows for batch in self.batches])

    def __reduce__(self):
        return PackedRows, (self.packed, self.source, self.key)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def numbers(self) -> np.ndarray:
        """(N,) the rows' numbers in the parquet file."""
        return np.concatenate([np.empty(0, np.int64), *(batch.column("row").to_numpy() for batch in self.batches)])

    def __getitem__(self, index: int) -> RawRow:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        columns, place = self.columns[number], index - int(self.starts[number])
        answers = columns["answer_audios"][place].values
        return RawRow(
            file=self.source.name,
            row=columns["row"][place].as_py(),
            conversation=json.loads(columns["conversations"][place].as_py()),
            answers=[] if answers is None else [flat(answers[turn]) for turn in range(len(answers))],
            reference=flat(columns["ref_audios"][place]),
            speaker=flat(columns["spk_emb"][place]),
        )


def flat(cell: pa.ListScalar) -> np.ndarray:
    """A list cell as an array, without a copy; a null is empty."""
    return np.empty(0, np.int16) if cell.values is None else cell.values.to_numpy()
