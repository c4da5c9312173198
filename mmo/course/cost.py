"""What a pass of training will cost, told by a few of its updates.

    trials = try_passes(settings, passes, before, default_encoders(settings, device))     # prints a line for each
    trials[0].seconds, trials[0].minutes     # an update, and all of them, on this machine as it is
    print_beside(trials, read_log(result.log_file))     # after training: what it took

The updates are thrown away, and so is the model that they were tried on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmo import memory
from mmo.chat import ChatTokenizer
from mmo.config import StageConfig
from mmo.data import Batch, Batches, Layout
from mmo.omni import OmniModel, load_model
from mmo.profiles import Profile
from mmo.training import Encoders, Stepper, open_corpora

WARM = 2  # updates in front of the clock: memory is fetched and kernels are chosen in them


@dataclass(frozen=True)
class Tried:
    """Some updates of a pass, measured."""

    name: str
    steps: int | None  # updates that the pass will do; None where it counts in epochs
    seconds: float  # an update
    opening: float  # seconds until the first batch: rows are packed and features computed, unless they lie in the cache
    rows: float  # an update
    positions: float  # an update, padding included
    useful: float  # share of the positions that are no padding
    speaking: float  # share of the updates in which the Talker takes part

    @property
    def minutes(self) -> float | None:
        """Of all updates, without opening, validation and saving."""
        return None if self.steps is None else self.steps * self.seconds / 60

    def __str__(self) -> str:
        return (
            f"{self.name:14} {self.seconds:.2f} s an update of {self.rows:.0f} rows, {self.positions / self.seconds:.0f} positions a second, "
            f"{self.useful:.0%} of them useful\n{'':14} the Talker takes part in {self.speaking:.0%} of the updates"
        )


def try_pass(profile: Profile, stage: StageConfig, model: OmniModel, encoders: Encoders, updates: int = 10) -> Tried:
    """Run some updates of a pass behind `WARM` that warm up.  The model is changed by it: give one that may be thrown away."""
    device, opened = profile.device(), time.perf_counter()
    corpora, shares = open_corpora(profile, stage, encoders)
    layout = Layout(profile.model, ChatTokenizer.load(profile.tokenizer_dir), stage.max_length)
    batches = Batches(corpora, shares, layout, stage.token_budget, chunk_rows=stage.chunk_rows)
    some: list[Batch] = list(islice(batches.start(), WARM + updates))
    opening = time.perf_counter() - opened
    stepper = Stepper(model.to(device).train(), stage, stage.steps or len(some), device, profile.dtype(device), profile.positions_at_once)
    for number, batch in enumerate(some):
        if number == WARM:
            float(figures[0])  # a device that works ahead has come to the end of what warmed up, and below of the last update
            started = time.perf_counter()
        figures = stepper.step(batch, number)
    float(figures[0])
    seconds = (time.perf_counter() - started) / updates
    counted = some[WARM:]
    return Tried(
        stage.name, stage.steps, seconds, opening,
        rows=sum(len(batch.names) for batch in counted) / updates,
        positions=sum(batch.size for batch in counted) / updates,
        useful=sum(batch.useful for batch in counted) / sum(batch.size for batch in counted),
        speaking=sum(bool(batch.spoken) for batch in counted) / updates,
    )  # fmt: skip


def try_passes(profile: Profile, passes: Sequence[StageConfig], weights: Path, encoders: Encoders) -> list[Tried]:
    """Try every pass of a stage, each on the weights as they are now, and print what it showed."""
    trials = []
    for stage in passes:
        trials.append(try_pass(profile, stage, load_model(weights), encoders))
        memory.give_back(profile.device())  # the next one wants the room, and so does the training
        print(trials[-1], f"\n{'':14} ({trials[-1].opening:.0f} s to open its files, features included where they were not kept)")
    return trials


def print_beside(trials: Sequence[Tried], log: Sequence[dict]) -> None:
    """Print what each pass took, from the entries of its training's log, beside what was told of it."""
    for trial in trials:
        own = [entry for entry in log if entry["pass"] == trial.name]
        if not own:
            print(f"{trial.name:14} not in the log: it was not trained here")
            continue
        seconds = sum(entry["seconds"] for entry in own)
        print(
            f"{trial.name:14} {seconds / len(own):.2f} s an update ({trial.seconds:.2f} when tried), "
            f"{sum(entry['positions'] for entry in own) / seconds:.0f} positions a second ({trial.positions / trial.seconds:.0f})"
        )
