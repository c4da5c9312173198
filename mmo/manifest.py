"""The manifest: one table names everything that is downloaded (`data/manifest.toml`, whose head explains its words)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST = Path(__file__).resolve().parents[1] / "data" / "manifest.toml"


def downloads_root() -> Path:
    """Where downloads lie: MMO_DOWNLOADS (in the repository where the path is relative), else data/downloads."""
    given = os.environ.get("MMO_DOWNLOADS")
    return MANIFEST.parents[1] / Path(given).expanduser() if given else MANIFEST.parent / "downloads"


@dataclass(frozen=True)
class File:
    """One file of an artefact: its paths on both hubs, and where it goes in the folder of downloads."""

    path: str
    to: str
    mirror: str
    optional: bool = False
    keep: str = ""  # of a safetensors file, only tensors whose names begin so


@dataclass(frozen=True)
class Subset:
    """A part of a parquet file: `row_groups` of it, drawn with `seed`, and of each its first rows, `rows` in all."""

    row_groups: int
    rows: int
    seed: int


@dataclass(frozen=True)
class Artefact:
    """What belongs together: one repository, its mirror, some of its files."""

    name: str
    about: str
    hub: str
    licence: str
    files: tuple[File, ...]
    mirror: str = ""
    kind: str = "model"  # or dataset
    revision: str = "main"
    notebooks: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    subset: Subset | None = None
    gigabytes: float | None = None  # about; None where it is not known before the hub is asked
    alternative: str = ""  # the artefact that serves as well, for a source that lacks this one


def read_manifest(path: Path = MANIFEST) -> dict[str, Artefact]:
    """Every artefact by its name.  Raises ValueError naming the table that cannot be understood."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    found = {name: read_artefact(name, dict(table)) for name, table in tables.items()}
    if unknown := [each.name for each in found.values() if each.alternative and each.alternative not in found]:
        raise ValueError(f"manifest: [{unknown[0]}] its alternative is no artefact")
    return found


def read_artefact(name: str, table: dict) -> Artefact:
    """One table of the manifest.  ValueError: a word that means nothing, or a file that would land outside its folder."""
    try:
        folder, files = table.pop("folder"), table.pop("files")
        if subset := table.pop("subset", None):
            table["subset"] = Subset(**subset)
        lists = {key: tuple(table.pop(key, ())) for key in ("notebooks", "profiles", "stages")}
        return Artefact(name=name, files=tuple(read_file(folder, entry) for entry in files), **lists, **table)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"manifest: [{name}] {error}") from error


def read_file(folder: str, entry: str | dict) -> File:
    """A file's entry, a path alone or a table."""
    entry = {"path": entry} if isinstance(entry, str) else dict(entry)
    target = PurePosixPath(folder) / entry.pop("to", PurePosixPath(entry["path"]).name)
    if target.is_absolute() or ".." in target.parts:
        raise ValueError(f"{target} lies outside the folder of downloads")
    return File(to=str(target), mirror=entry.pop("mirror", entry["path"]), **entry)


def select(
    manifest: dict[str, Artefact], profile: str, stage: str | None = None, names: Sequence[str] = ()
) -> list[Artefact]:
    """What a profile needs, or only one of its stages; or the artefacts of these names.  ValueError: there is no such thing."""
    if unknown := [name for name in names if name not in manifest]:
        raise ValueError(f"no artefact {', '.join(unknown)}; there are {', '.join(manifest)}")
    if names:
        return [manifest[name] for name in dict.fromkeys(names)]
    chosen = [each for each in manifest.values() if profile in each.profiles and (stage is None or stage in each.stages)]
    if not chosen:
        raise ValueError(f"{profile} needs nothing from a hub: what it needs comes with the repository; for the real files say --profile mini (or full)")
    return chosen
