"""Where a run of all stages stands: which stages are done, so that the same command goes on at the boundary where it was stopped.

    standing = find_standing(profile("mini"), "t2a", "full", Path("runs/mini"))
    standing.done     # its weights are finished, of these settings, rows and features, and of these weights to start from: pass it over
    standing.words    # a line for people, "" where there is nothing to say

Beside its log a stage keeps how its finished weights were made, and their checksum (`checkpoint.how_made`): a record of other weights counts for nothing.
Whether an unfinished state may be gone on from is asked where that is done (`StageRun.resume` and `StageRun.open` in training.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmo import training
from mmo.checkpoint import how_made, stage_file, state_file, told
from mmo.config import StageConfig
from mmo.digests import sha256_of
from mmo.profiles import Profile
from mmo.rows import DataError
from mmo.training import planned_passes, settings_key, start_of


@dataclass(frozen=True)
class Standing:
    """How a stage stands before it is trained."""

    done: bool = False
    words: str = ""


def find_standing(profile: Profile, stage: str, budget: str, run_dir: Path, *, steps: int | None = None, seed: int = 0, compile: bool = False) -> Standing:
    """What is there of a stage, against what training would make now.  The options are those of `train`."""
    finished = stage_file(run_dir, stage)
    if state_file(run_dir, stage).is_file() or not finished.is_file():
        return Standing()
    made, passes = how_made(run_dir, stage), planned_passes(profile, stage, budget, steps, compile)
    key = settings_key(passes, profile, seed, profile.dtype())
    if not made or made.get("weights") != sha256_of(finished):
        return Standing(words=f"{stage}: it is not written down how {told(finished)} was made; it is trained anew")
    if (made.get("key"), made.get("budget")) != (key, budget):
        return Standing(words=f"{stage}: {told(finished)} was made with other settings (recipe, model, seed or number format); it is trained anew")
    now = start_of(profile, stage, run_dir)
    if now and made.get("start") != now:  # where they are gone, nothing says that others were meant
        return Standing(words=f"{stage}: {told(finished)} was made from other weights than are there now; it is trained anew")
    if others := other_rows(profile, passes, made.get("seen", {})):
        return Standing(words=f"{stage}: {told(finished)} was made on other rows than are there now ({', '.join(others)}); it is trained anew")
    return Standing(done=True, words=f"{stage}: done already, with these settings ({told(finished)}); --fresh trains it anew")


def other_rows(profile: Profile, passes: Sequence[StageConfig], seen: dict[str, dict[str, str]]) -> list[str]:
    """What the finished weights have seen otherwise than it is now, by name: data files, features of an encoder.

    seen: by pass, as `checkpoint.how_made` tells it; a pass that it does not name is not asked about.  Where files cannot be read, nothing says that others were meant.
    """
    encoders, found = training.default_encoders(profile, profile.device()), set()
    for each in passes:
        if each.name in seen:
            with suppress(DataError, OSError):
                found.update(training.unlike(training.seen_by(profile, each, encoders), seen[each.name]))
    return sorted(found)
