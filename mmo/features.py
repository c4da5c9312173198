"""Features of frozen encoders, computed once and kept: what the speech and vision encoders make of a data file.

An encoder that does not learn gives the same answer every epoch, so it is asked once.  Where sounds are augmented, a
few versions of each are kept and the epochs take turns.

    store, bad = cache_features(path, "question_audios", sounds, cache, copies=2)
    store.get(row, turn, copy)        # (N, D) float16, a view into the memory map

The cache's name holds the data file's content, the encoder's weights and the settings: whatever changes, it is made
anew.  A row whose sound or picture cannot be read is left out, counted and named.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import soxr
from tqdm.auto import tqdm

from mmo.rows import BadRow, DataError, file_key, open_parquet, read_batches

SAMPLE_RATE = 16_000
SHORTEST = 0.1  # seconds; a feature covers 25 ms at least, and augmentation may speed sounds up
READ_ROWS = 256  # rows decoded together
ENCODE_ITEMS = 32  # items encoded together, sorted by size

Encode = Callable[[list], list[np.ndarray]]  # items -> one (N, D) array each


@dataclass(frozen=True)
class Frozen:
    """A frozen encoder, as the cache needs it.

    decode: encoded bytes -> an item (ValueError where they cannot be read).  augment: item and numpy Generator -> item.
    encode: items -> one (N, D) array each.  fingerprint: changes whenever weights or settings do.
    """

    fingerprint: str
    dim: int
    decode: Callable[[bytes], np.ndarray]
    encode: Encode
    augment: Callable | None = None


def read_sound(data: bytes) -> np.ndarray:
    """Encoded sound -> (samples,) float32 at 16 kHz, channels averaged.  Raises ValueError where it cannot be read."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:
        raise ValueError(f"unreadable sound of {len(data)} bytes ({error})") from error
    samples = samples.mean(axis=1)
    if len(samples) < SHORTEST * rate or not np.isfinite(samples).all():
        raise ValueError(f"sound of {len(samples) / rate:.3f} s (at least {SHORTEST} s are needed), or no numbers in it")
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)


def frozen_speech(load: Callable, dim: int, fingerprint: str, augment: Callable | None = None) -> Frozen:
    """A speech encoder: `load()` gives one with .encode(waves) -> (features (B, N, D), lengths (B,)).

    It is loaded when first asked: not at all where everything is in the cache.
    """
    loaded = lru_cache(maxsize=None)(load)

    def encode(waves: list[np.ndarray]) -> list[np.ndarray]:
        features, lengths = loaded().encode(waves)
        return [each[:length].float().cpu().numpy() for each, length in zip(features, lengths.tolist(), strict=True)]

    return Frozen(fingerprint, dim, read_sound, encode, augment)


def frozen_vision(load: Callable, dim: int, fingerprint: str, decode: Callable, augment: Callable | None = None) -> Frozen:
    """A vision encoder: `load()` gives one with .encode(pictures) -> (B, P, D); `decode` reads a picture."""
    loaded = lru_cache(maxsize=None)(load)

    def encode(pictures: list) -> list[np.ndarray]:
        return list(loaded().encode(pictures).float().cpu().numpy())

    return Frozen(fingerprint, dim, decode, encode, augment)


def folder_fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of all files of a folder, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}={file_key(path)};".encode())
    return digest.hexdigest()[:16]


class FeatureStore:
    """Features of all items of one column, memory-mapped.  Pickles as its path.

    An item is one cell (a picture) or one entry of a list cell (the question of a user turn).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.copies, self.dim = about["copies"], about["dim"]
        self.bad = [BadRow(**row) for row in about["bad"]]
        with np.load(folder / "index.npz") as index:
            self.first_item, self.starts = index["first_item"], index["starts"]
        shape = (int(self.starts[-1]), self.dim)
        file = folder / "features.f16"
        self.values = np.memmap(file, np.float16, "r", shape=shape) if shape[0] else np.empty(shape, np.float16)

    def __reduce__(self):
        return FeatureStore, (self.folder,)

    def count(self, row: int) -> int:
        """Items of a row (its number in the parquet file)."""
        return int(self.first_item[row + 1] - self.first_item[row])

    def get(self, row: int, number: int, copy: int = 0) -> np.ndarray:
        """(N, D) float16; N is 0 where the cell is empty."""
        if number >= self.count(row):
            return self.values[:0]
        place = (int(self.first_item[row]) + number) * self.copies + copy % self.copies
        return self.values[self.starts[place] : self.starts[place + 1]]


def cells_of(batch: pa.RecordBatch, column: str, path: Path) -> list[list[bytes]]:
    """The encoded items of each row: a list column's entries, or the one value of a plain column; nulls as b""."""
    kind = batch.schema.field(column).type
    entry = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if not (pa.types.is_binary(entry) or pa.types.is_large_binary(entry) or pa.types.is_null(entry)):
        raise DataError(f"{path}: column {column} is {kind}, wanted bytes or a list of bytes")
    found = []
    for cell in batch.column(column).to_pylist():
        entries = cell if isinstance(cell, list) else [] if cell is None else [cell]
        found.append([entry or b"" for entry in entries])
    return found


def cache_features(
    path: Path, column: str, frozen: Frozen, cache: Path, copies: int = 1, seed: int = 0, strict: bool = False
) -> FeatureStore:
    """Features of one column of one data file, from the cache or computed now.  The store's `bad` names unusable rows.

    copies: with augmentation, how many versions to keep (copy 0 is augmented too); without, one is enough.  Raises
    DataError for the first bad row if strict.
    """
    copies = copies if frozen.augment else 1
    settings = f"{frozen.fingerprint}-{copies}-{seed if frozen.augment else 'plain'}"
    key = hashlib.sha256(f"{file_key(path)}-{column}-{settings}".encode()).hexdigest()[:16]
    folder = cache / f"{path.stem}-{column}-{key}"
    if not folder.is_dir():
        compute_features(path, column, frozen, folder, copies, seed)
    store = FeatureStore(folder)
    if strict and store.bad:
        raise DataError(str(store.bad[0]))
    return store


def compute_features(path: Path, column: str, frozen: Frozen, folder: Path, copies: int, seed: int) -> None:
    """Run the encoder over a column and write the store, atomically."""
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    begun, busy = time.monotonic(), time.process_time()
    first_item, lengths, bad = [0], [], []
    total = open_parquet(path).metadata.num_rows
    with open(unfinished / "features.f16", "wb") as out, tqdm(total=total, desc=f"{path.stem}: {column}", unit="row") as bar:
        for first, batch in read_batches(path, (column,), READ_ROWS):
            items, counts = [], []
            for place, cells in enumerate(cells_of(batch, column, path)):
                counts.append(len(cells))
                items += read_items(cells, first + place, path.name, frozen, copies, seed, bad)
            for features in encode_items(items, frozen):
                lengths.append(len(features))
                out.write(features.astype(np.float16).tobytes())
            first_item += (first_item[-1] + np.cumsum(counts)).tolist()
            bar.update(batch.num_rows)
    np.savez(unfinished / "index.npz", first_item=np.array(first_item), starts=np.cumsum([0, *lengths]))
    about = {"copies": copies, "dim": frozen.dim, "bad": [asdict(row) for row in bad]}
    about |= {"items": sum(length > 0 for length in lengths), "seconds": time.monotonic() - begun, "processor_seconds": time.process_time() - busy}
    (unfinished / "about.json").write_text(json.dumps(about), encoding="utf-8")
    try:
        os.replace(unfinished, folder)
    except OSError:  # another process was quicker: a folder that holds files is not replaced
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished)


def read_items(
    cells: list[bytes], row: int, file: str, frozen: Frozen, copies: int, seed: int, bad: list[BadRow]
) -> list[np.ndarray | None]:
    """Decode a row's cells, `copies` versions of each; None for empty ones and for those of a bad row, which is noted."""
    found = []
    try:
        for number, data in enumerate(cells):
            item = frozen.decode(data) if data else None
            for copy in range(copies):
                if item is None or frozen.augment is None:
                    found.append(item)
                else:
                    found.append(frozen.augment(item, np.random.default_rng((seed, row, number, copy))))
    except ValueError as error:
        bad.append(BadRow(file, row, str(error)))
        return [None] * (len(cells) * copies)
    return found


def encode_items(items: Sequence, frozen: Frozen) -> list[np.ndarray]:
    """Features of each item, (0, D) for None; items of like size go through the encoder together."""
    found = [np.empty((0, frozen.dim), np.float16)] * len(items)
    present = sorted((place for place, item in enumerate(items) if item is not None), key=lambda place: np.size(items[place]))
    for start in range(0, len(present), ENCODE_ITEMS):
        places = present[start : start + ENCODE_ITEMS]
        for place, features in zip(places, frozen.encode([items[place] for place in places]), strict=True):
            if features.shape[1] != frozen.dim:
                raise DataError(f"the encoder's features are {features.shape[1]} wide, the model expects {frozen.dim}")
            found[place] = features
    return found
