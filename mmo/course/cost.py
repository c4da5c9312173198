"""What a pass of training will cost, told by a few of its updates.

    tried = try_pass(settings, stage, load_model(before), default_encoders(settings, device))
    tried.seconds, tried.minutes        # an update, and all of them, on this machine as it is

The updates are thrown away, and so is the model that they were tried on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

from mmo.chat import ChatTokenizer
from mmo.config import StageConfig
from mmo.data import Batch, Batches, Layout
from mmo.omni import OmniModel
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
            f"{self.useful:.0%} of them useful; the Talker takes part in {self.speaking:.0%} of the updates"
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
            started = time.perf_counter()
        figures = stepper.step(batch, number)
    float(figures[0])  # a device that works ahead has come to the end of the last update, too
    seconds = (time.perf_counter() - started) / updates
    counted = some[WARM:]
    return Tried(
        stage.name, stage.steps, seconds, opening,
        rows=sum(len(batch.names) for batch in counted) / updates,
        positions=sum(batch.size for batch in counted) / updates,
        useful=sum(batch.useful for batch in counted) / sum(batch.size for batch in counted),
        speaking=sum(bool(batch.spoken) for batch in counted) / updates,
    )  # fmt: skip
