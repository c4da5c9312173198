"""`mmo bench moe`: one update of a mixture of experts against the dense model of equal active size, the optimiser shown apart.

With one expert a position both compute the same products; the mixture adds a router, a sort and smaller pieces of work, and its
optimiser carries all experts' weights.  So the two are told apart: forward and backward may cost at most 1.35 times the dense
model's at 8 000 positions and more, and the optimiser costs what its parameters cost.

    dense             the profile's model without experts, `training.Stepper`
    experts           four experts, one at work (moe.py), the same rows
    experts, by turns the same, each expert a product of its own; a column only where a card has one grouped product for all
    experts, visited  the same mixture, its experts visited one after the other with a mask, the host asking each time
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmo.bench.clock import Stopwatch, alternate, median_ratio
from mmo.bench.padded import visited_experts
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import BenchRows, open_bench_rows
from mmo.bench.train import quiet_stage
from mmo.config import ModelConfig, StageConfig
from mmo.data import Batch, collate, cut_at
from mmo.moe import MixtureOfExperts, grouped_in
from mmo.omni import OmniModel
from mmo.profiles import Profile
from mmo.training import Stepper

ROWS = 6  # times as many rows as an update has
DENSE, EXPERTS, TURNS, VISITED = "dense", "experts", "experts, by turns", "experts, visited"


@dataclass(frozen=True)
class MoeBench:
    """Settings of one measurement."""

    source: str = "synthetic"
    positions: int = 8192  # of one update, at most
    rounds: int = 3  # counted; one more warms up
    baseline: bool = True  # the third column
    seed: int = 0


class VisitedExperts(MixtureOfExperts):
    """A mixture whose experts are visited one by one, the padded way (padded.py)."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, D) -> (B, T, D), and the auxiliary loss."""
        return visited_experts(self, x)


class MoeArm:
    """One model in training on one batch."""

    def __init__(
        self, config: ModelConfig, stage: StageConfig, batch: Batch, seed: int, device: torch.device, dtype: torch.dtype, visited: bool = False
    ) -> None:
        torch.manual_seed(seed)
        self.model, self.batch = OmniModel(config).to(device).train(), batch
        for module in self.model.modules() if visited else ():
            if isinstance(module, MixtureOfExperts):
                module.__class__ = VisitedExperts  # the same weights under another forward
        self.stepper = Stepper(self.model, quiet_stage(stage), 1000, device, dtype)
        self.optimiser = Stopwatch(self.stepper.optimisers.step, device)
        self.stepper.optimisers.step = self.optimiser
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def grouped(self) -> bool:
        """Whether one grouped product serves all experts here."""
        with self.stepper.autocast():
            return grouped_in(torch.empty(0, device=self.stepper.device)) is not None

    def __call__(self) -> None:
        self.losses = self.stepper.step(self.batch, 500)[:3]


def one_batch(rows: BenchRows, positions: int) -> Batch:
    """The fullest batch of at most so many positions.  As training cuts them (`Batches.cut`), batches are equal and none is full: so filled one by one."""
    batches = cut_at(rows.examples(len(rows.corpus)), positions)
    return collate(max(batches, key=lambda examples: len(examples) * examples[-1].length), rows.layout.config)


def bench_moe(profile: Profile, settings: MoeBench, device: torch.device | None = None, folder: Path | None = None) -> Report:
    """Measure.  `profile` may be the dense one or the one with experts: both are made of its sizes."""
    device = device or profile.device()
    dtype, stage = profile.dtype(device), profile.stages["t2a"][0]
    dense, mixed = profile.model.replace(use_moe=False), profile.model.replace(use_moe=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        count = ROWS * settings.positions // 80 + 1  # a row has some 80 positions: so many batches to choose from, of rows alike in length
        rows = open_bench_rows(profile, settings.source, folder or Path(temporary), count, settings.seed, min(settings.positions, 512))
        batch = one_batch(rows, settings.positions)
        arms = {name: MoeArm(config, stage, batch, settings.seed, device, dtype) for name, config in ((DENSE, dense), (EXPERTS, mixed))}
        if arms[EXPERTS].grouped:
            arms[TURNS] = MoeArm(mixed, stage, batch, settings.seed, device, dtype)
            for module in arms[TURNS].model.modules():
                if isinstance(module, MixtureOfExperts):
                    module.grouped = False
        if settings.baseline:
            arms[VISITED] = MoeArm(mixed, stage, batch, settings.seed, device, dtype, visited=True)
        samples = alternate(arms, settings.rounds, device)
    work = {name: without_optimiser(samples[name], arm.optimiser.seconds) for name, arm in arms.items()}
    return Report(
        title=f"Experts, {profile.name}: {batch.size} positions, {batch.useful / batch.size:.0%} of them useful",
        columns=tuple(arms),
        lines=tuple(moe_lines(arms, samples, work)),
        ratios={f"forward and backward, {name} over dense": median_ratio(work[name], work[DENSE]) for name in arms if name != DENSE},
        checks=moe_checks(arms),
        settings={
            "profile": profile.name, "rows": settings.source, "positions": batch.size, "rounds": settings.rounds, "seed": settings.seed,
            "computed in": str(dtype).removeprefix("torch."), "experts in": "one grouped product" if TURNS in arms else "a product each",
        },
        machine=describe_machine(device),
        samples=samples,
        notes=("bound: forward and backward of the mixture at most 1.35 × the dense model's, at 8 000 positions and more",),
    )  # fmt: skip


def without_optimiser(rounds: Sequence[float], optimiser: Sequence[float]) -> list[float]:
    """Seconds of forward and backward of each counted round; the optimiser's list begins with the warm-up's."""
    return [whole - update for whole, update in zip(rounds, optimiser[-len(rounds) :], strict=True)]


def moe_lines(arms: dict[str, MoeArm], samples: dict[str, list[float]], work: dict[str, list[float]]) -> list[Line]:
    """The table: medians over rounds."""
    return [
        Line("parameters", "million", tuple(arm.parameters / 1e6 for arm in arms.values())),
        Line("one update", "s", tuple(statistics.median(samples[name]) for name in arms)),
        Line("forward and backward", "s", tuple(statistics.median(work[name]) for name in arms)),
        Line("optimiser", "s", tuple(statistics.median(arm.optimiser.seconds) for arm in arms.values())),
    ]


def moe_checks(arms: dict[str, MoeArm]) -> dict[str, float]:
    """How far the two ways to run the same mixture are apart."""
    if VISITED not in arms:
        return {}
    return {"largest difference of a loss between both mixtures": float((arms[EXPERTS].losses - arms[VISITED].losses).abs().max())}
