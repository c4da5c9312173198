"""`mmo bench learn`: held-out loss against time, from the same weights: what an update is worth, not only how many there are.

    padded                 `--update` rows an update, padded to 512 (padded.py), AdamW
    equal rows             the same updates the way ours computes, AdamW
    budget, AdamW 0.0012   the recipe's token budget: other updates, of more rows each, and so fewer of them
    budget, Muon 0.02      the same batches, Muon on the hidden matrices; a column for every rate that is asked for

Columns learn by turns, each until it has had its share of the time; then the held-out rows are asked, off the clock.  The clock is processor
time where a CPU computes, so that other work on the machine counts little, and the wall's on a card.  Making batches is not in it: it
is hidden behind the steps (loader.py).

What makes it a comparison and no training: the rate stays where it is after the recipe's warm-up, and there is no dropout, no weight for a codebook and
no average.  A rate that is good for few rows is not the best for many, nor AdamW's for Muon: give several before you believe a column.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch

from mmo.bench.clock import synchronise
from mmo.bench.padded import PaddedStepper, pad_batch
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import PADDED_LENGTH
from mmo.chat import ChatTokenizer
from mmo.config import StageConfig
from mmo.data import Batch, Batches, Layout, collate
from mmo.omni import OmniModel, start_talker
from mmo.optimiser import rate_factor
from mmo.profiles import Profile
from mmo.thinker import load_thinker
from mmo.training import Encoders, Stepper, losses_of, open_corpora, validation_batches

FOREVER = 1_000_000  # steps that a run is said to have: warm-up is the recipe's, and no end is in sight


@dataclass(frozen=True)
class LearnBench:
    """Settings of one comparison.  rates, muon_rates: empty for the recipe's."""

    seconds: float = 60.0  # of each column
    marks: int = 4  # how often the held-out rows are asked
    rows: int = 8  # of an update of the first two columns
    baseline: bool = True
    rates: tuple[float, ...] = ()
    muon_rates: tuple[float, ...] = ()
    padded_length: int = PADDED_LENGTH
    seed: int = 0


class Learner:
    """One column: a model, how it makes a step, its batches, and what has come of it."""

    def __init__(self, model: OmniModel, step: Callable[[Batch, int], object], batches: Iterator[Batch], device: torch.device) -> None:
        self.model, self.step, self.batches, self.device = model, step, batches, device
        self.seconds, self.updates, self.rows = 0.0, 0, 0
        self.found: list[tuple[float, float]] = []  # text and audio loss at each mark

    def now(self) -> float:
        """Seconds on this column's clock."""
        synchronise(self.device)
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def learn(self, until: float) -> None:
        """Updates until so many seconds have been spent on them."""
        while self.seconds < until:
            batch = next(self.batches)
            started = self.now()
            self.step(batch, self.updates)
            self.seconds += self.now() - started
            self.updates += 1
            self.rows += len(batch.names)


def groups(batches: Batches, rows: int, seed: int, pad: int | None = None) -> Iterator[Batch]:
    """Updates of `rows` rows of like length each, without end, in an order drawn for each chunk.  pad: to so many positions."""
    for number in count():
        examples = batches.chunk(number)
        cut = [examples[first : first + rows] for first in range(0, len(examples), rows)]
        for place in np.random.default_rng((seed, number)).permutation(len(cut)):
            yield collate(cut[place], batches.layout.config) if pad is None else pad_batch(cut[place], batches.layout.config, pad)


def plain_stage(stage: StageConfig, optimiser: str, rate: float) -> StageConfig:
    """The recipe without schedule, dropout, weights of codebooks, average and quick products.  rate: AdamW's, or Muon's for the hidden matrices."""
    rates = {"muon_rate": rate} if optimiser == "muon" else {"learning_rate": rate}
    return stage.replace(optimiser=optimiser, schedule="constant", code_dropout=0.0, codebook_weights=None, ema_decay=0.0, trainable="all", quick_products=False, **rates)


def fresh_model(profile: Profile, seed: int, device: torch.device) -> OmniModel:
    """What T2A starts from: the text-pretrained Thinker where there is one, the rest drawn."""
    torch.manual_seed(seed)
    model = OmniModel(profile.model)
    if profile.thinker_file.is_file():
        load_thinker(model.model, profile.thinker_file)
        if profile.talker_from_thinker:
            start_talker(model)
    return model.to(device).train()


def padded_step(model: OmniModel, stage: StageConfig, device: torch.device, dtype: torch.dtype) -> Callable[[Batch, int], object]:
    """An update the padded way, with the recipe's rate, warm-up and clipping; the rest of AdamW as torch gives it, which is what the original takes."""
    padded = PaddedStepper(model, stage.learning_rate, stage.clip_norm, stage.stop_weight, device, dtype)

    def step(batch: Batch, number: int) -> object:
        for group in padded.optimiser.param_groups:
            group["lr"] = stage.learning_rate * rate_factor(number, FOREVER, stage)
        return padded.step(batch)

    return step


def make_learners(profile: Profile, stage: StageConfig, settings: LearnBench, device: torch.device, dtype: torch.dtype):
    """Columns by name, and the held-out batches."""
    corpora, shares = open_corpora(profile, stage, Encoders())
    layout = Layout(profile.model, ChatTokenizer.load(profile.tokenizer_dir), stage.max_length)
    adamw = plain_stage(stage, "adamw", stage.learning_rate)

    def batches() -> Batches:
        return Batches(corpora, shares, layout, stage.token_budget, settings.seed, stage.chunk_rows)

    def ours(recipe: StageConfig, stream: Iterator[Batch]) -> Learner:
        model = fresh_model(profile, settings.seed, device)
        return Learner(model, Stepper(model, recipe, FOREVER, device, dtype).step, stream, device)

    learners: dict[str, Learner] = {}
    if settings.baseline:
        model = fresh_model(profile, settings.seed, device)
        wide = groups(batches(), settings.rows, settings.seed, settings.padded_length)
        learners["padded"] = Learner(model, padded_step(model, adamw, device, dtype), wide, device)
    learners["equal rows"] = ours(adamw, groups(batches(), settings.rows, settings.seed))
    for optimiser, word, rates in (("adamw", "AdamW", settings.rates or (stage.learning_rate,)), ("muon", "Muon", settings.muon_rates or (stage.muon_rate,))):
        for rate in rates:
            learners[f"budget, {word} {rate:g}"] = ours(plain_stage(stage, optimiser, rate), batches().start())
    held_out = [batch for each in validation_batches(profile, stage, Encoders(), layout).values() for batch in each]
    if not held_out:
        raise ValueError(f"profile {profile.name} has no held-out rows of {', '.join(stage.data)}: there is nothing to compare with")
    return learners, held_out


@torch.no_grad()
def held_out_losses(model: OmniModel, batches: Sequence[Batch], stage: StageConfig, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Text and audio loss, a mean over rows, without dropout."""
    totals, rows = torch.zeros(2), 0
    model.eval()
    for batch in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            _, parts = losses_of(model, batch, stage, device)
        totals, rows = totals + len(batch.names) * parts[:2].float().cpu(), rows + len(batch.names)
    model.train()
    return tuple((totals / rows).tolist())


def bench_learn(profile: Profile, settings: LearnBench, device: torch.device | None = None) -> Report:
    """Let every column learn for the same time, by turns.  Raises ValueError where there are no held-out rows."""
    device = device or profile.device()
    dtype, stage = profile.dtype(device), profile.stages["t2a"][0]
    learners, held_out = make_learners(profile, stage, settings, device, dtype)
    asked = plain_stage(stage, "adamw", stage.learning_rate)
    for mark in range(1, settings.marks + 1):
        for learner in learners.values():
            learner.learn(settings.seconds * mark / settings.marks)
            learner.found.append(held_out_losses(learner.model, held_out, asked, device, dtype))
    return Report(
        title=f"Learning, {profile.name}: held-out loss against {'the clock' if device.type == 'cuda' else 'processor time'}",
        columns=tuple(learners),
        lines=tuple(learn_lines(list(learners.values()), settings)),
        ratios={},
        checks={},
        settings={
            "profile": profile.name, "Thinker": "text-pretrained" if profile.thinker_file.is_file() else "drawn",
            "seconds a column": settings.seconds, "rows an update": settings.rows, "token budget": stage.token_budget,
            "held-out rows": sum(len(batch.names) for batch in held_out), "seed": settings.seed, "computed in": str(dtype).removeprefix("torch."),
        },
        machine=describe_machine(device),
        samples={name: [learner.seconds] for name, learner in learners.items()},
        notes=("constant rate after the warm-up, no dropout, no weights of codebooks, no average: a comparison and no training",),
    )  # fmt: skip


def learn_lines(learners: Sequence[Learner], settings: LearnBench) -> list[Line]:
    """Losses at each mark, audio first; then how many updates and rows that took."""
    lines = []
    for which, name in ((1, "audio"), (0, "text")):
        for mark in range(settings.marks):
            told = f"{name} loss after {settings.seconds * (mark + 1) / settings.marks:g} s"
            lines.append(Line(told, "", tuple(learner.found[mark][which] for learner in learners)))
    lines.append(Line("updates", "", tuple(float(learner.updates) for learner in learners)))
    return [*lines, Line("rows a second", "", tuple(learner.rows / learner.seconds for learner in learners))]
