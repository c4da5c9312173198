"""Features of frozen encoders, computed once and kept: what the speech and vision encoders make of a data file.

An encoder that does not learn gives the same answer every epoch, so it is asked once.  Where sounds are augmented, a
few versions of each are kept and the epochs take turns.

    store = cache_features(path, "question_audios", sounds, cache, copies=2)
    store.get(row, turn, copy)        # (N, D) float16, a view into the memory map

A store belongs to what made it (`Made`: the data file's content, the encoder's weights, the augmentation, copies and seed).  Where
any of them has changed, the old store is refused, in words, and a new one is made.  Making one may be interrupted and goes on at the
last batch of rows that is whole on the disk; it appears under its name only when it is complete, with a checksum of every file.
A row whose sound or picture cannot be read is left out, counted and named.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import chain, count
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import soxr
from filelock import FileLock
from tqdm.auto import tqdm

from mmo.rows import BadRow, DataError, check_columns, file_key, open_parquet, read_batches

SAMPLE_RATE = 16_000
JOURNAL = "journal.jsonl"  # of a store on its way
SOUND_BLOCK = 1 << 20  # samples of each channel that are read at once
SHORTEST = 0.1  # seconds; a feature covers 25 ms at least, and augmentation may speed sounds up
PACE = "pace.json"  # what a making without interruption took: the rehearsal reckons with it
READ_ROWS = 256  # rows decoded together
ENCODE_ITEMS = 32  # items encoded together, sorted by size
FORMAT = 2  # number of the store's layout and of how items are read; a change makes old stores invalid

Encode = Callable[[list], list[np.ndarray]]  # items -> one (N, D) array each


@dataclass(frozen=True)
class Frozen:
    """A frozen encoder, as the cache needs it.

    decode: encoded bytes -> an item (ValueError where they cannot be read).  augment: item and numpy Generator -> item, of a kind that `encode` takes.
    encode: items -> one (N, D) array each.  fingerprint: changes whenever the weights or the encoder's settings do.
    augmentation: the settings of `augment`, in words.  loaded: gives the encoder itself, the one that `encode` uses.
    """

    fingerprint: str
    dim: int
    decode: Callable[[bytes], np.ndarray]
    encode: Encode
    augment: Callable | None = None
    augmentation: str = ""
    loaded: Callable | None = None


def read_sound(data: bytes) -> np.ndarray:
    """Encoded sound -> (samples,) float32 at 16 kHz, channels averaged.  Raises ValueError where it cannot be read."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:  # by blocks: a damaged header may promise terabytes
            rate, blocks = file.samplerate, [np.empty((0, file.channels), np.float32)]
            while len(block := file.read(SOUND_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block)
        samples = np.concatenate(blocks)
    except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:
        raise ValueError(f"unreadable sound of {len(data)} bytes ({getattr(error, 'error_string', error)})") from error
    samples = samples.mean(axis=1)
    if len(samples) < SHORTEST * rate or not np.isfinite(samples).all():
        raise ValueError(f"sound of {len(samples) / rate:.3f} s (at least {SHORTEST} s are needed), or no numbers in it")
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)


def frozen_speech(load: Callable, dim: int, fingerprint: str, augment: Callable | None = None, augmentation: str = "") -> Frozen:
    """A speech encoder: `load()` gives one with .encode(waves) -> (features (B, N, D), lengths (B,)); for sounds that are to be masked (`Masked`)
    its halves .frames(waves) and .encode_frames(frames, lengths), too.

    It is loaded when first asked: not at all where everything is in the cache.
    """
    loaded = lru_cache(maxsize=None)(load)

    def encode(sounds: list) -> list[np.ndarray]:
        masked = any(hasattr(each, "masks") for each in sounds)
        features, lengths = encode_masked(loaded(), sounds) if masked else loaded().encode(sounds)
        return [each[:length].float().cpu().numpy() for each, length in zip(features, lengths.tolist(), strict=True)]

    return Frozen(fingerprint, dim, read_sound, encode, augment, augmentation, loaded)


def encode_masked(encoder, sounds: Sequence):
    """Sounds, some of them `Masked`, through the frontend, the masks and the encoder.  Returns features (B, N, D) and lengths (B,)."""
    import torch  # imported here, as scipy with it: who finds all features in the cache waits for neither

    from mmo.augmentation import Masked, mask_stacked

    frames, lengths = encoder.frames([each.samples if isinstance(each, Masked) else each for each in sounds])
    for row, (sound, length) in enumerate(zip(sounds, lengths.tolist(), strict=True)):
        if isinstance(sound, Masked):
            frames[row, :length] = torch.from_numpy(mask_stacked(frames[row, :length].numpy(), sound))
    return encoder.encode_frames(frames, lengths)


def frozen_vision(
    load: Callable, dim: int, fingerprint: str, decode: Callable, augment: Callable | None = None, augmentation: str = ""
) -> Frozen:
    """A vision encoder: `load()` gives one with .encode(pictures) -> (B, P, D); `decode` reads a picture."""
    loaded = lru_cache(maxsize=None)(load)

    def encode(pictures: list) -> list[np.ndarray]:
        return list(loaded().encode(pictures).float().cpu().numpy())

    return Frozen(fingerprint, dim, decode, encode, augment, augmentation, loaded)


def folder_fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of all files of a folder, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}={file_key(path)};".encode())
    return digest.hexdigest()[:16]


# --- A store -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What a store was made from, and how.  Two stores are interchangeable where all of this is equal."""

    data: str  # key of the data file's content
    column: str
    encoder: str  # fingerprint of its weights
    augmentation: str  # settings in words; "" for items as they are
    copies: int
    seed: int
    dim: int
    format: int = FORMAT

    def key(self) -> str:
        """16 hexadecimal digits of everything above."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def unlike(self, other: Made) -> str:
        """What is not the same, in words; "" where nothing differs."""
        words = {
            "data": "the data file has changed", "column": "another column", "encoder": "another encoder (its weights or settings have changed)",
            "augmentation": "another augmentation", "copies": f"{other.copies} copies, {self.copies} are wanted", "seed": "another seed",
            "dim": f"features {other.dim} wide, {self.dim} are wanted", "format": "another version of the format",
        }  # fmt: skip
        return "; ".join(words[each.name] for each in fields(self) if getattr(self, each.name) != getattr(other, each.name))


def made_from(path: Path, column: str, frozen: Frozen, copies: int, seed: int) -> Made:
    """What a store of this column would be made of.  Without augmentation one copy is enough, and no seed is used."""
    changed = frozen.augment is not None
    return Made(file_key(path), column, frozen.fingerprint, frozen.augmentation or "augmented" if changed else "", copies if changed else 1,
                seed if changed else 0, frozen.dim)  # fmt: skip


class FeatureStore:
    """Features of all items of one column, memory-mapped.  Pickles as its path.

    An item is one cell (a picture) or one entry of a list cell (the question of a user turn).
    Raises DataError where the folder is no complete store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = read_about(folder)
        self.made, self.sums = Made(**about["made"]), about["sums"]
        self.copies, self.dim = self.made.copies, self.made.dim
        self.bad = [BadRow(**row) for row in about["bad"]]
        try:
            with np.load(folder / "index.npz") as index:
                self.first_item, self.starts = index["first_item"], index["starts"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(damaged(folder, f"index.npz cannot be read ({error})")) from error
        shape, file = (int(self.starts[-1]), self.dim), folder / "features.f16"
        size = file.stat().st_size if file.is_file() else -1
        if size != 2 * shape[0] * shape[1]:
            raise DataError(damaged(folder, f"features.f16 has {max(size, 0)} bytes and should have {2 * shape[0] * shape[1]}"))
        self.values = np.memmap(file, np.float16, "r", shape=shape) if shape[0] else np.empty(shape, np.float16)

    def __reduce__(self):
        return FeatureStore, (self.folder,)

    def verify(self) -> None:
        """Read every file again.  Raises DataError where one is not what was written."""
        for name, wanted in self.sums.items():
            if file_key(self.folder / name) != wanted:
                raise DataError(damaged(self.folder, f"the content of {name} is not what was written (its checksum differs)"))

    def count(self, row: int) -> int:
        """Items of a row (its number in the parquet file)."""
        return int(self.first_item[row + 1] - self.first_item[row])

    def get(self, row: int, number: int, copy: int = 0) -> np.ndarray:
        """(N, D) float16; N is 0 where the cell is empty."""
        if number >= self.count(row):
            return self.values[:0]
        place = (int(self.first_item[row]) + number) * self.copies + copy % self.copies
        return self.values[self.starts[place] : self.starts[place + 1]]


def read_about(folder: Path) -> dict:
    """A store's description.  Raises DataError where there is none that this version reads."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if set(about["made"]) != {each.name for each in fields(Made)} or "bad" not in about or "sums" not in about:
            raise KeyError("made")
        return about
    except FileNotFoundError as error:
        raise DataError(damaged(folder, "about.json is missing")) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(damaged(folder, "about.json is of an older version, or cut short")) from error


def damaged(folder: Path, what: str) -> str:
    """What to say of a store that cannot be used."""
    return f"{folder}: {what}. Delete this folder; the features are then made anew (`mmo features`, or the next training)"


def stale_stores(cache: Path, path: Path, wanted: Made) -> list[tuple[Path, str]]:
    """Stores of the same file name and column that cannot serve, and why.  Other copies, seeds and plain ones are not stale: they are others."""
    found = []
    for folder in sorted(cache.glob(f"{path.stem}-{wanted.column}-*")):
        if not folder.is_dir() or folder.suffix == ".part" or folder.name.endswith(wanted.key()):
            continue
        try:
            made = Made(**read_about(folder)["made"])
        except DataError:
            found.append((folder, "made by an older version"))
            continue
        if bool(made.augmentation) == bool(wanted.augmentation) and (made.data, made.encoder, made.augmentation, made.format) != (
            wanted.data, wanted.encoder, wanted.augmentation, wanted.format
        ):  # fmt: skip
            found.append((folder, wanted.unlike(made)))
    return found


# --- Making one --------------------------------------------------------------------------------------------------


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


def store_name(path: Path, made: Made) -> str:
    """The name of a store's folder in the cache."""
    return f"{path.stem}-{made.column}-{made.key()}"


def cache_features(
    path: Path,
    column: str,
    frozen: Frozen,
    cache: Path,
    copies: int = 1,
    seed: int = 0,
    strict: bool = False,
    compute: bool = True,
    tell: Callable[[str], None] = tqdm.write,
) -> FeatureStore:
    """Features of one column of one data file, from the cache or computed now.  The store's `bad` names unusable rows.

    copies: with augmentation, how many versions to keep (copy 0 is augmented too); without, one is enough.  compute: False
    raises instead of running the encoder.  tell: where to say that a stale store is refused.

    Raises DataError where the store is damaged, where there is none and compute is False, and for the first bad row if strict.
    """
    wanted = made_from(path, column, frozen, copies, seed)
    folder = cache / store_name(path, wanted)
    if not folder.is_dir():
        stale = "".join(f"\n  {old} is refused: {why}" for old, why in stale_stores(cache, path, wanted))
        if not compute:
            raise DataError(f"{path.name}: no features of {column} that fit; make them with `mmo features`{stale}")
        if stale:
            tell(f"{path.name}: the features of {column} are made anew{stale}")
        compute_features(path, frozen, folder, wanted)
    store = FeatureStore(folder)
    if store.made != wanted:
        raise DataError(damaged(folder, f"its description is of other features: {wanted.unlike(store.made)}"))
    if strict and store.bad:
        raise DataError(str(store.bad[0]))
    return store


def compute_features(path: Path, frozen: Frozen, folder: Path, made: Made) -> None:
    """Run the encoder over a column and write the store: resumable, and atomically.

    Another process that wants the same store waits until this one has made it.
    """
    check_columns(path, (made.column,))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():  # another process was quicker
            return
        unfinished = folder.with_name(f"{folder.name}.part")
        unfinished.mkdir(exist_ok=True)
        total = open_parquet(path).metadata.num_rows
        with (
            Draft(unfinished, made.dim) as draft,
            tqdm(total=total, initial=draft.rows, desc=f"{path.stem}: {made.column}", unit="row") as bar,
            ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding and augmenting mostly let go of Python's lock
        ):
            begun = draft.rows
            for first, batch in read_batches(path, (made.column,), READ_ROWS, begun):
                cells = cells_of(batch, made.column, path)
                read = pool.map(lambda row, cells: read_items(cells, row, path.name, frozen, made.copies, made.seed), count(first), cells)
                items, bad = zip(*read, strict=True)
                draft.add([len(each) for each in cells], encode_items([*chain(*items)], frozen), [*chain(*bad)])
                bar.update(batch.num_rows)
                if first == begun:
                    refuse_without_room(path, draft, total)
        draft.finish(made)
        os.replace(unfinished, folder)
        (folder / JOURNAL).unlink()  # at last: whoever is killed before goes on from it


def refuse_without_room(path: Path, draft: Draft, total: int) -> None:
    """Raises DataError where the disk cannot hold the features that are still to come, told from those of the first rows: before hours are spent on them."""
    wanted, free = draft.size * (total / draft.rows - 1), shutil.disk_usage(draft.folder).free
    if wanted > free:
        raise DataError(
            f"{path.name}: its features will want some {wanted / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free where {draft.folder} lies. "
            "Make room, or set MMO_CACHE to a folder on another disk; the same command then goes on"
        )


class Draft:
    """A store on its way: features, and a journal with one line for every batch of rows that is whole.

    Opening one that was interrupted reads the journal, compares each line's checksum with the features, and cuts off what is
    behind the last line that agrees.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self.counts: list[int] = []  # items of each row
        self.lengths: list[int] = []  # features of each item's copies
        self.bad: list[dict] = []
        self.digest = hashlib.sha256()
        self.values = open(folder / "features.f16", "a+b")
        self.journal = open(folder / JOURNAL, "a+", encoding="utf-8", newline="\n")
        self.go_on()
        self.begun = None if self.counts else (time.monotonic(), time.process_time())  # what a whole making took

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return len(self.counts)

    @property
    def size(self) -> int:
        """Bytes of the features so far."""
        return 2 * self.dim * sum(self.lengths)

    def go_on(self) -> None:
        """Take over what an interrupted run left."""
        self.values.seek(0)
        self.journal.seek(0)
        kept, size = 0, 0
        for line in self.journal.read().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            if not line.endswith("\n"):
                break
            data = self.values.read(2 * self.dim * sum(entry["lengths"]))
            if zlib.crc32(data) != entry["crc"] or len(data) != 2 * self.dim * sum(entry["lengths"]):
                break
            self.take(entry, data)
            kept += len(line)  # bytes, too: JSON here is ASCII
            size += len(data)
        self.values.truncate(size)
        self.journal.truncate(kept)  # cut, never written anew: a kill or a full disk costs no line that was whole

    def take(self, entry: dict, data: bytes) -> None:
        self.counts += entry["counts"]
        self.lengths += entry["lengths"]
        self.bad += entry["bad"]
        self.digest.update(data)

    def add(self, counts: list[int], features: Sequence[np.ndarray], bad: Sequence[BadRow]) -> None:
        """The features of the next rows; counted only once they are written."""
        data = b"".join(each.astype(np.float16).tobytes() for each in features)
        entry = {"counts": counts, "lengths": [len(each) for each in features], "bad": [asdict(row) for row in bad], "crc": zlib.crc32(data)}
        self.values.write(data)
        self.values.flush()
        self.journal.write(json.dumps(entry) + "\n")
        self.journal.flush()
        self.take(entry, data)

    def finish(self, made: Made) -> None:
        """Index and description; the files are on the disk when this returns."""
        first_item, starts = np.cumsum([0, *self.counts]), np.cumsum([0, *self.lengths])
        np.savez(self.folder / "index.npz", first_item=first_item, starts=starts)
        sums = {"features.f16": self.digest.hexdigest()[:16], "index.npz": file_key(self.folder / "index.npz")}
        about = {"made": asdict(made), "bad": self.bad, "sums": sums}
        if self.begun:
            pace = {"column": made.column, "items": sum(length > 0 for length in self.lengths)}
            pace |= {"seconds": time.monotonic() - self.begun[0], "processor_seconds": time.process_time() - self.begun[1]}
            (self.folder / PACE).write_text(json.dumps(pace), encoding="utf-8")
        (self.folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        for file in self.folder.iterdir():
            with open(file, "rb+") as written:
                os.fsync(written.fileno())

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_) -> None:
        self.values.close()
        self.journal.close()


def read_items(
    cells: list[bytes], row: int, file: str, frozen: Frozen, copies: int, seed: int
) -> tuple[list[np.ndarray | None], list[BadRow]]:
    """Decode a row's cells, `copies` versions of each; None for empty ones and for those of a bad row, which is named."""
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
        return [None] * (len(cells) * copies), [BadRow(file, row, str(error))]
    return found, []


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
