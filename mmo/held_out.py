"""Rows set aside: what the real files have no held-out part for, so that there is something to validate and to examine.

    set_aside(profile)      # mini/t2a-validation.parquet, t2a-test.parquet, the same of a2a and i2t, voices.safetensors
    kept_rows(profile, path)    # numbers of a training file's rows that training must not see

The tiny world ships its held-out files.  The files of the hub have none, so `Profile.held_out` rows of each kind's first file are
copied out, spread evenly over it, by turns for validation and for testing, and training leaves these rows out.  Each copy says in its
metadata which file it is of (name, size, rows) and which rows they are: where the training file is another one, it is made anew.
Only rows with everything that the kind needs are taken.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from safetensors.torch import save_file

from mmo.features import read_sound
from mmo.profiles import STAGES, Profile
from mmo.rows import COLUMNS, DataError, check_columns, check_row, files_of, open_parquet, read_batches

PARTS = ("validation", "test")
LEAST_SHARE = 16  # never more than one row of so many, for each part
VOICES = 4
BATCH_ROWS = 64  # rows with their sounds and pictures in memory
NOTE = b"mmo.held_out"
VERSION = 3  # of the rules by which rows are chosen: held-out files of an older one are made anew


def source_of(profile: Profile, stage: str) -> Path:
    """The file of a kind that rows are set aside from: of several shards the first."""
    pattern = profile.stages[stage][0].data[0]
    return next(iter(files_of(profile.data_dir, pattern)), profile.data_dir / pattern)


def stage_of(profile: Profile, path: Path) -> str | None:
    """The kind whose held-out rows are of this file; None where there are none of it."""
    return next((stage for stage in STAGES if profile.held_out and source_of(profile, stage) == path), None)


def part_file(profile: Profile, stage: str, part: str) -> Path:
    return profile.data_dir / f"{stage}-{part}.parquet"


def validation_file(profile: Profile, path: Path, make: bool = True) -> Path | None:
    """Held-out rows for the validation of a training file, made where they are missing (unless `make` is False); None where the file has none."""
    stage = stage_of(profile, path)
    if stage is None:
        return None
    if make:
        set_aside(profile, (stage,))
    part = part_file(profile, stage, "validation")
    return part if make or part.is_file() else None


def set_aside(profile: Profile, stages: tuple[str, ...] = STAGES) -> None:
    """Make what is missing of a profile's held-out files.  Nothing is done where these are shipped.

    Raises DataError naming a training file that is missing or has too few rows that can serve.
    """
    if profile.held_out is None:
        return
    for stage in stages:
        source = source_of(profile, stage)
        if not source.is_file():
            raise DataError(f"{source}: no such data file, so no {stage} rows can be set aside for testing; fetch it: mmo fetch --profile {profile.name} --stage {stage}")
        if not are_of(profile, stage, source):
            with FileLock(profile.data_dir / ".held-out.lock"):  # a training and an examination may begin together
                if not are_of(profile, stage, source):
                    write_parts(profile, stage, source)


def are_of(profile: Profile, stage: str, source: Path) -> bool:
    """Whether both held-out files of a kind are there, and are this training file's."""
    return all(note_of(part_file(profile, stage, part)) == (*about(source), stage, VERSION) for part in PARTS)


def about(path: Path) -> tuple[str, int, int]:
    """What tells one training file from another, without reading all of it."""
    return path.name, path.stat().st_size, open_parquet(path).metadata.num_rows


def note_of(path: Path) -> tuple | None:
    """Which file a held-out file is of, and by which rules; None where it is not there or says nothing."""
    told = read_note(path)
    return None if told is None else (told["file"], told["size"], told["of_rows"], told["stage"], told.get("version", 1))


def read_note(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):  # cut short, by a power loss for instance: it is made anew
        return None
    return json.loads(metadata[NOTE]) if NOTE in metadata else None


def kept_rows(profile: Profile, path: Path) -> frozenset[int]:
    """Numbers of the rows of a training file that are held out.  Makes the held-out files where they are missing."""
    stage = stage_of(profile, path)
    if stage is None:
        return frozenset()
    set_aside(profile, (stage,))
    return frozenset(row for part in PARTS for row in read_note(part_file(profile, stage, part))["rows"])


def wanted_rows(total: int, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Numbers of rows for each part, spread evenly over the file and by turns."""
    counts = {part: min(count, total // LEAST_SHARE) for part, count in counts.items()}
    places = np.unique(np.linspace(0, total - 1, sum(counts.values())).round().astype(int)) if total else np.empty(0, int)
    first = set(places[np.linspace(0, len(places) - 1, counts[PARTS[0]]).round().astype(int)].tolist()) if counts[PARTS[0]] else set()
    return {PARTS[0]: np.array(sorted(first), int), PARTS[1]: np.array([place for place in places if place not in first], int)}


def write_parts(profile: Profile, stage: str, source: Path) -> None:
    """Copy the rows of both parts of one kind, all columns as they are, and the voices where the kind has any."""
    name, size, total = about(source)
    check_columns(source, ())
    wanted = wanted_rows(total, {"validation": profile.held_out.validation, "test": profile.held_out.test})
    needs = [*profile.stages[stage][0].needs, *(["spk_emb"] if stage == "t2a" else [])]
    found: dict[str, list[pa.RecordBatch]] = {part: [] for part in PARTS}
    rows: dict[str, list[int]] = {part: [] for part in PARTS}
    for first, batch in read_batches(source, COLUMNS, BATCH_ROWS):
        for part, numbers in wanted.items():
            here = [int(number) for number in numbers[(numbers >= first) & (numbers < first + batch.num_rows)]]
            good = [number for number in here if can_serve(batch, number - first, needs, profile)]
            if good:
                found[part].append(batch.take(pa.array([number - first for number in good])))
                rows[part] += good
    if stage == "t2a" and found["test"]:  # in front of the parts: where these are there, all is
        write_voices(pa.Table.from_batches(found["test"]), profile.data_dir / "voices.safetensors")
    for part in PARTS:
        if not rows[part]:
            raise DataError(f"{source}: none of the rows chosen for {stage} {part} has {', '.join(needs)}; the file has {total} rows")
        note = {"stage": stage, "file": name, "size": size, "of_rows": total, "version": VERSION, "rows": rows[part]}
        table = pa.Table.from_batches(found[part])
        write_table(table.replace_schema_metadata({NOTE: json.dumps(note).encode()}), part_file(profile, stage, part))


def can_serve(batch: pa.RecordBatch, place: int, needs: list[str], profile: Profile) -> bool:
    """Whether a row can be used at all and has everything that its kind needs."""
    row = {name: batch.column(name)[place] for name in batch.schema.names}
    if any(name not in row or not holds(row[name].as_py()) for name in needs):
        return False
    try:
        check_row(row, profile.model)
        for name in set(needs) & READERS.keys():
            first = row[name].as_py()
            READERS[name](first[0] if isinstance(first, list) else first)
    except ValueError:
        return False
    return True


def read_picture(data: bytes) -> None:
    from mmo.vision_encoder import open_picture  # transformers takes seconds

    open_picture(data)


READERS = {"question_audios": read_sound, "image_bytes": read_picture}  # a damaged cell would end an examination that has run for an hour


def holds(value) -> bool:
    """Whether a cell has something in it; of a list of answers or sounds, the first one is asked for; a vector of zeros is nobody's voice."""
    if not value or value[0] is None:
        return False
    return any(value) if isinstance(value[0], float) else not isinstance(value[0], (list, bytes)) or bool(value[0])


def write_table(table: pa.Table, path: Path) -> None:
    unfinished = path.with_name(path.name + ".part")
    pq.write_table(table, unfinished)
    os.replace(unfinished, path)


def write_voices(table: pa.Table, path: Path) -> None:
    """Vectors of a few unlike voices, each the farthest from those before it (by angle); the first is the first row's."""
    vectors = torch.tensor(table.column("spk_emb").to_pylist(), dtype=torch.float32)
    directions = torch.nn.functional.normalize(vectors, dim=1)
    chosen = [0]
    while len(chosen) < min(VOICES, len(vectors)):
        nearest = (directions @ directions[chosen].T).amax(dim=1)
        if nearest.min() > 0.999:
            break  # all others are one of these
        chosen.append(int(nearest.argmin()))
    unfinished = path.with_name(path.name + ".part")
    save_file({f"voice-{number}": vectors[row].clone() for number, row in enumerate(chosen, 1)}, unfinished)
    os.replace(unfinished, path)
