"""Where a run of all stages stands: which stages are done, so that the same command goes on at the boundary where it was stopped.

    standing = find_standing(profile("mini"), "t2a", "full", Path("runs/mini"))
    standing.done     # its weights are finished, of these settings, and of these weights to start from: pass it over
    standing.fresh    # there is an unfinished state, but of other weights to start from: forget it
    standing.words    # a line for people, "" where there is nothing to say

Beside its log a stage keeps how its finished weights were made, and their checksum (`checkpoint.how_made`): a record of other weights counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmo.checkpoint import how_made, stage_file, started_from, state_file, told
from mmo.digests import sha256_of
from mmo.profiles import Profile
from mmo.training import planned_passes, settings_key, start_of


@dataclass(frozen=True)
class Standing:
    """How a stage stands before it is trained."""

    done: bool = False
    fresh: bool = False
    words: str = ""


def find_standing(profile: Profile, stage: str, budget: str, run_dir: Path, *, steps: int | None = None, seed: int = 0, compile: bool = False) -> Standing:
    """What is there of a stage, against what training would make now.  The options are those of `train`."""
    unfinished, finished = state_file(run_dir, stage), stage_file(run_dir, stage)
    if unfinished.is_file():
        start = started_from(unfinished)
        if start and start != start_of(profile, stage, run_dir):
            return Standing(fresh=True, words=f"{stage}: {told(unfinished)} started from other weights than are there now; it begins anew")
        return Standing()
    if not finished.is_file():
        return Standing()
    made = how_made(run_dir, stage)
    key = settings_key(planned_passes(profile, stage, budget, steps, compile), profile, seed, profile.dtype(profile.device()))
    if not made or made.get("weights") != sha256_of(finished):
        return Standing(words=f"{stage}: it is not written down how {told(finished)} was made; it is trained anew")
    if (made.get("key"), made.get("budget")) != (key, budget):
        return Standing(words=f"{stage}: {told(finished)} was made with other settings (recipe, model, seed or number format); it is trained anew")
    now = start_of(profile, stage, run_dir)
    if now and made.get("start") != now:  # where they are gone, nothing says that others were meant
        return Standing(words=f"{stage}: {told(finished)} was made from other weights than are there now; it is trained anew")
    return Standing(done=True, words=f"{stage}: done already, with these settings ({told(finished)}); --fresh trains it anew")
