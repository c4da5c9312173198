"""`mmo bench train`: updates of the whole model on the same rows, ours against the padded way.

    ours              the rows of one update, neighbours in length, padded to the longest of them; `training.Stepper`
    padded            the same rows, padded to 512 (padded.py)
    ours, compiled    ours with its blocks by torch.compile, on request
    ours, quick products  ours with products in bfloat16 and all else in float32 (products.py), on request
    ours, full batch  as many rows an update as fill the positions that the padded way computes; on request compiled, too

The first two do the same update on the same rows: that is the ratio at equal rows.  The third makes another update, of more rows:
it shows what the card or processor gives where it is as full as the padded way keeps it.

The rate is 0, so that both arms see the same weights at every step and their losses can be compared (an update costs the same at
any rate); code dropout, codebook weights, averaging and quick products are off in both, and both use AdamW.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmo.bench.clock import Stopwatch, alternate, median_ratio
from mmo.bench.flops import BACKWARD, Work, forward_flops, peak_flops
from mmo.bench.padded import PaddedStepper, pad_batch
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import PADDED_LENGTH, BenchRows, length_figures, open_bench_rows
from mmo.config import ModelConfig, StageConfig
from mmo.data import Batch, Example, collate, useful_share
from mmo.omni import OmniModel
from mmo.profiles import Profile, has_units
from mmo.training import Stepper

WARM_UP = 3  # rounds: the first updates take their memory from the system, page by page (15, 11, 7.6 and then 7.0 s at mini's size, one busy thread)
OURS, PADDED, FULL, COMPILED, FULL_COMPILED = "ours", "padded", "ours, full batch", "ours, compiled", "ours, full batch, compiled"
QUICK = "ours, quick products"


@dataclass(frozen=True)
class TrainBench:
    """Settings of one measurement."""

    source: str = "synthetic"
    rows: int = 8  # of one update
    updates: int = 2  # different ones a round, spread over the lengths
    rounds: int = 3  # counted, behind those that warm up
    baseline: bool = True
    full_batch: bool = True
    pool: int | None = None  # rows to choose updates from; default the stage's chunk
    compiled: bool = False  # also ours by torch.compile
    quick: bool = False  # also ours with products in bfloat16 and all else in float32
    float32: bool = False  # computed so, also where the profile would take bfloat16
    padded_length: int = PADDED_LENGTH
    seed: int = 0


class Arm:
    """One way of training, its batches, and what came out of the last round."""

    def __init__(self, step: Callable[[Batch], Tensor], batches: Sequence[Batch], work: Sequence[Work], config: ModelConfig) -> None:
        self.step, self.batches = step, list(batches)
        self.rows = sum(len(batch.names) for batch in batches)
        self.flops = BACKWARD * sum(forward_flops(config, each) for each in work)
        self.useful = sum(batch.useful for batch in batches) / sum(batch.size for batch in batches)
        self.losses: list[Tensor] = []

    def __call__(self) -> None:
        """One round: an update for every batch."""
        self.losses = [self.step(batch) for batch in self.batches]


def spread(items: Sequence, count: int) -> list:
    """`count` of the items, in the middles of as many equal parts: short, middling and long alike."""
    count = min(count, len(items))
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def choose_updates(examples: Sequence[Example], rows: int, updates: int) -> list[list[Example]]:
    """Updates of `rows` neighbours each, from examples sorted by length.  Raises ValueError where there are too few."""
    groups = [list(examples[first : first + rows]) for first in range(0, len(examples) - rows + 1, rows)]
    if not groups:
        raise ValueError(f"{len(examples)} rows are too few for one update of {rows}")
    return spread(groups, updates)


def quiet_stage(stage: StageConfig) -> StageConfig:
    """The stage's sizes without what would make two runs differ: see above."""
    return stage.replace(learning_rate=0.0, optimiser="adamw", code_dropout=0.0, codebook_weights=None, ema_decay=0.0, trainable="all", quick_products=False)


def make_arms(model: OmniModel, rows: BenchRows, stage: StageConfig, settings: TrainBench, device: torch.device, dtype: torch.dtype):
    """Arms by name, their stopwatches on the optimiser, and figures of the rows."""
    config = model.config
    pool = rows.examples(settings.pool or stage.chunk_rows)
    updates = choose_updates(pool, settings.rows, settings.updates)
    stepper = Stepper(model, quiet_stage(stage), 1000, device, dtype)
    watches = {OURS: Stopwatch(stepper.optimisers.step, device)}
    stepper.optimisers.step = watches[OURS]
    batches = [collate(group, config) for group in updates]
    arms = {OURS: Arm(lambda batch: stepper.step(batch, 500)[:3], batches, [Work.of_ours(each, config) for each in batches], config)}
    if settings.baseline:
        padded = PaddedStepper(model, 0.0, stage.clip_norm, stage.stop_weight, device, dtype)
        watches[PADDED] = Stopwatch(padded.optimiser.step, device)
        padded.optimiser.step = watches[PADDED]
        wide = [pad_batch(group, config, settings.padded_length) for group in updates]
        arms[PADDED] = Arm(padded.step, wide, [Work.of_padded(each) for each in wide], config)
    if settings.compiled:  # over a copy of the model: compiling replaces the blocks' forward
        other = Stepper(copy.deepcopy(model), quiet_stage(stage).replace(compile=True), 1000, device, dtype)
        if other.compilation.reason is None:
            watches[COMPILED] = other.optimisers.step = Stopwatch(other.optimisers.step, device)
            arms[COMPILED] = Arm(lambda batch: other.step(batch, 500)[:3], batches, [Work.of_ours(each, config) for each in batches], config)
    if settings.quick:
        rounding = Stepper(copy.deepcopy(model), quiet_stage(stage).replace(quick_products=True), 1000, device, dtype)
        watches[QUICK] = rounding.optimisers.step = Stopwatch(rounding.optimisers.step, device)
        arms[QUICK] = Arm(lambda batch: rounding.step(batch, 500)[:3], batches, [Work.of_ours(each, config) for each in batches], config)
    if settings.full_batch:
        budget = max(settings.rows * settings.padded_length, rows.layout.max_length)
        full = [collate(group, config) for group in spread(rows.batches(budget, 1).cut(pool), settings.updates)]
        for whole, part in ((FULL, OURS), (FULL_COMPILED, COMPILED)):
            if part in arms:
                arms[whole] = Arm(arms[part].step, full, [Work.of_ours(each, config) for each in full], config)
    figures = length_figures(pool, settings.padded_length)
    plan = rows.batches(max(stage.token_budget, rows.layout.max_length), 1).cut(pool)
    figures["useful, as trained"] = useful_share([collate(group, config) for group in plan])
    return arms, watches, figures


def bench_train(profile: Profile, settings: TrainBench, device: torch.device | None = None, folder: Path | None = None) -> Report:
    """Measure.  folder: for the synthetic file, default a temporary one.  Raises ValueError for rows that do not fit."""
    device = device or profile.device()
    dtype, stage = torch.float32 if settings.float32 else profile.dtype(device), profile.stages["t2a"][0]
    if settings.quick and not (dtype == torch.float32 and has_units(device)):
        raise ValueError(
            f"--quick-products: for what is computed in float32 (here {str(dtype).removeprefix('torch.')}; --float32 asks for it) on a CPU "
            f"with units for bfloat16 (AMX; {device.type} here{'' if has_units(device) else ', without them'})"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        count = settings.pool or stage.chunk_rows
        rows = open_bench_rows(profile, settings.source, folder or Path(temporary), count, settings.seed, settings.padded_length)
        torch.manual_seed(settings.seed)
        model = OmniModel(profile.model).to(device).train()
        arms, watches, figures = make_arms(model, rows, stage, settings, device, dtype)
        samples = alternate(arms, settings.rounds, device, WARM_UP)
    difference = loss_difference(arms)
    return Report(
        title=f"Training, {profile.name}, {settings.source} rows: one update of {settings.rows} rows",
        columns=tuple(arms),
        lines=tuple(train_lines(arms, samples, watches, device, dtype)),
        ratios=train_ratios(arms, samples),
        checks=figures | ({} if difference is None else {"largest difference of a loss": difference}),
        settings={
            "profile": profile.name, "rows": settings.source, "rows an update": settings.rows, "updates a round": settings.updates,
            "rounds": settings.rounds, "padded to": settings.padded_length, "seed": settings.seed, "computed in": str(dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        machine=describe_machine(device),
        samples=samples,
        notes=("useful, as trained: positions that are no padding, in the batches of one chunk under the stage's own budget; 92 % is the bound",),
    )  # fmt: skip


def loss_difference(arms: dict[str, Arm]) -> float | None:
    """The largest difference between the two ways' losses of one update; None without a baseline.  Aux losses differ by design."""
    if PADDED not in arms:
        return None
    pairs = zip(arms[OURS].losses, arms[PADDED].losses, strict=True)
    return max(float((ours[:2] - padded[:2]).abs().max()) for ours, padded in pairs)


def train_lines(
    arms: dict[str, Arm], samples: dict[str, list[float]], watches: dict[str, Stopwatch], device: torch.device, dtype: torch.dtype
) -> list[Line]:
    """The table: medians over rounds."""
    round_seconds = {name: statistics.median(seconds) for name, seconds in samples.items()}
    optimiser = {name: statistics.median(watch.seconds) for name, watch in watches.items()}
    per_update = {name: round_seconds[name] / len(arm.batches) for name, arm in arms.items()}
    lines = [
        Line("rows an update", "", tuple(arm.rows / len(arm.batches) for arm in arms.values())),
        Line("one update", "s", tuple(per_update[name] for name in arms)),
        Line("of it the optimiser", "s", tuple(optimiser.get(name, optimiser[OURS]) for name in arms)),
        Line("rows a second", "", tuple(arm.rows / round_seconds[name] for name, arm in arms.items())),
        Line("useful positions", "%", tuple(100 * arm.useful for arm in arms.values())),
        Line("operations", "TFLOP/s", tuple(arm.flops / round_seconds[name] / 1e12 for name, arm in arms.items())),
    ]
    if device.type == "cuda" and dtype == torch.bfloat16:  # of which the peak is; not tested on this course's machines: they have no card
        peak = peak_flops(device)
        shares = [None if peak is None else 100 * arm.flops / round_seconds[name] / peak for name, arm in arms.items()]
        lines.append(Line("share of the card's peak", "%", tuple(shares)))
    return lines


def train_ratios(arms: dict[str, Arm], samples: dict[str, list[float]]) -> dict[str, float]:
    """Rows a second against the padded way's, at equal rows and at equal positions an update."""
    others = {COMPILED: "compiled", QUICK: "with quick products"}
    ratios = {f"rows a second, ours {words} over ours": median_ratio(samples[OURS], samples[name]) for name, words in others.items() if name in arms}
    if PADDED not in arms:
        return ratios
    ratios["rows a second at equal rows an update, ours over padded"] = median_ratio(samples[PADDED], samples[OURS])
    for name, words in ((FULL, "ours"), (FULL_COMPILED, "ours compiled")):
        if name in arms:
            more = arms[name].rows / arms[PADDED].rows
            ratios[f"rows a second at equal positions an update, {words} over padded"] = more * median_ratio(samples[PADDED], samples[name])
    return ratios
