"""Checkpoints: the state of an interrupted training, and the finished weights of a stage.

    runs/tiny/t2a.state.safetensors     while a stage runs: weights, average, optimiser (fp32), random state, position
    runs/tiny/t2a.safetensors           when it is done: the weights alone, as `omni.save_model` writes them
    runs/tiny/log/t2a.made.json         how these weights were made: settings, budget, the weights they started from, the rows of each pass
    runs/tiny/snapshots/t2a-00800.safetensors   if asked for: the weights on the way, to listen to

A state is one file, written beside its place and moved there in one go: whenever the process is killed, the file is the old state
or the new one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmo.digests import sha256_of
from mmo.manifest import downloads_root
from mmo.profiles import REPOSITORY, STAGES, Profile
from mmo.weights import write_tensors, write_whole


def save_state(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors and a JSON-able description to one file, atomically, and onto the disk before it counts."""
    write_tensors(path, tensors, {"about": json.dumps(about)}, onto_disk=True)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What `save_state` wrote.  Raises ValueError where the file is no such state."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            about = json.loads((file.metadata() or {})["about"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is no saved training state ({error!r}); delete it to start the stage anew") from error
    return tensors, about


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names with the prefix put before them."""
    return {prefix + name: value for name, value in tensors.items()}


def without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Only the names that have the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators: the CPU's, and the device's own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """What `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def stage_file(run_dir: Path, stage: str) -> Path:
    """Where a stage's finished weights go."""
    return run_dir / f"{stage}.safetensors"


def state_file(run_dir: Path, stage: str) -> Path:
    """Where a stage's state lies while it is not finished."""
    return run_dir / f"{stage}.state.safetensors"


def made_file(run_dir: Path, stage: str) -> Path:
    """Where it stands how a stage's finished weights were made.  Not in the weights' own file: the same weights shall be the same bytes."""
    return run_dir / "log" / f"{stage}.made.json"


def write_made(run_dir: Path, stage: str, key: str, budget: str, start: str, seen: dict[str, dict[str, str]]) -> None:
    """Write down how finished weights were made.  key: of the settings.  start: SHA-256 of the weights that the stage began with.

    seen: by pass, what it has learnt from (`data.DataFile.seen`).
    """
    made = {"key": key, "budget": budget, "start": start, "seen": seen, "weights": sha256_of(stage_file(run_dir, stage))}
    write_whole(made_file(run_dir, stage), lambda unfinished: unfinished.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8"))


def how_made(run_dir: Path, stage: str) -> dict:
    """What `write_made` wrote; empty where there is no such file, or it cannot be read."""
    try:
        found = json.loads(made_file(run_dir, stage).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def started_from(path: Path) -> str:
    """SHA-256 of the weights that the stage of a saved state started from; "" where the state does not say, or cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("about", "{}")).get("start", "")
    except (SafetensorError, ValueError):
        return ""


def snapshot_file(run_dir: Path, stage: str, step: int) -> Path:
    """Where a stage's weights after so many steps go."""
    return run_dir / "snapshots" / f"{stage}-{step:05d}.safetensors"


def snapshots_of(run_dir: Path, stage: str) -> list[tuple[int, Path]]:
    """The snapshots of a stage that are there: step and file, earliest first."""
    found = (run_dir / "snapshots").glob(f"{stage}-*.safetensors")
    return sorted((int(path.stem.rsplit("-", 1)[1]), path) for path in found)


def told(path: Path) -> str:
    """A path as it is told: from the repository on where it lies in there, so that an executed notebook names no machine's folders."""
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


def latest_weights(profile: Profile, run_dir: Path, before: str | None = None) -> tuple[Path, str]:
    """The weights to go on from, and a sentence that says which: the run's own, of the last stage done, else the shipped ones.

    before: a stage; only those in front of it count.  Raises FileNotFoundError where there is neither.
    """
    stages = STAGES[: STAGES.index(before)] if before else STAGES
    for stage in reversed(stages):
        if stage_file(run_dir, stage).is_file():
            return stage_file(run_dir, stage), f"weights: this run's own, after stage {stage} ({told(stage_file(run_dir, stage))}){profile.caution}"
    if profile.checkpoint_file.is_file():
        origin = "were imported" if profile.checkpoint_file.is_relative_to(downloads_root()) else "came with the course"
        return profile.checkpoint_file, f"weights: the finished ones that {origin} ({told(profile.checkpoint_file)}){profile.caution}"
    fetched = profile.checkpoint_file.is_relative_to(downloads_root())
    theirs = ", or read in the original's: mmo import minimind-3o FILE" if fetched else ""
    raise FileNotFoundError(
        f"no weights: neither {' nor '.join(str(stage_file(run_dir, stage)) for stage in stages)} "
        f"nor the {'imported' if fetched else 'shipped'} {profile.checkpoint_file}; train first: mmo train --profile {profile.name} --stage {stages[0] if stages else 't2a'}{theirs}"
    )
