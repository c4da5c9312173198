"""Hours and memory of the real run, pass by pass: from a rehearsal's figures on this machine, or from counted operations on a named card.

    count(profile)                               what each pass computes: rows, steps, positions, operations
    from_figures(counts, figures)                seconds a position and an encoded sound, as measured
    from_card(counts, CARDS["rtx3090"], 0.3)     operations over a share of the card's peak

Batches are planned by the course's own `Batches` on synthetic rows of mini's lengths (rows.py), padding and all; operations are those
of `mmo.bench.flops`.  What is assumed is said with every plan (`Plan.assumptions`).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mmo.bench.flops import BACKWARD, Work, forward_flops
from mmo.chat import ChatTokenizer
from mmo.config import ModelConfig, StageConfig
from mmo.data import Batch, Batches, Corpus, DataFile, Layout, collate
from mmo.fused import as_on_a_card
from mmo.omni import OmniModel
from mmo.optimiser import choose_trainable
from mmo.profiles import STAGES, Profile
from mmo.profiles import profile as find_profile
from mmo.rehearsal.rows import MINI, SAMPLE_RATE, Kind, assumptions, question_seconds, silent, write_rows
from mmo.rows import open_rows
from mmo.speech_encoder import feature_count
from mmo.training import losses_of

PLANNED_ROWS = 1024  # realised to plan batches from
INPUTS_ONLY = 2  # forwards that a pass costs whose weights are frozen but for a projector: forward, and gradients of inputs
ENCODER_WEIGHTS = {"question_audios": 234e6, "image_bytes": 94e6}  # SenseVoice-Small, SigLIP 2's vision half: their files' sizes over four bytes
ENCODER_BYTES = 4  # they stay in fp32
STATE_BYTES = 12  # of a learning weight beside itself: gradient and AdamW's two averages, in fp32
MARGIN = 1.15  # on what is kept for the backward pass: what is alive beside it
FULL = 0.92  # of a card's memory, at most: 22 of 24 GB
WANTED_MINUTES = (30, 20)  # what the course's issue asks of mini on a 3090, and what it is after


@dataclass(frozen=True)
class Card:
    """What the maker's data sheet says: dense products in FLOP/s, memory in bytes."""

    title: str
    bf16: float | None  # with fp32 sums; None where it has no bf16
    fp32: float  # without tensor cores
    memory: float


CARDS = {
    "t4": Card("T4", None, 8.1e12, 16e9),
    "l4": Card("L4", 121e12, 30.3e12, 24e9),
    "rtx3090": Card("RTX 3090", 71.2e12, 35.6e12, 24e9),
    "rtx4090": Card("RTX 4090", 165.2e12, 82.6e12, 24e9),
    "a100": Card("A100, 40 GB", 312e12, 19.5e12, 40e9),
    "h100": Card("H100", 989e12, 66.9e12, 80e9),
}


@dataclass(frozen=True)
class PassCount:
    """What one pass computes in all."""

    stage: str
    name: str
    learning: str
    budget: int  # positions a batch at most, by the profile
    longest: int  # positions of the longest row that may come
    rows: float  # of all corpora together
    steps: float
    positions: float  # padding included
    useful: float  # share that is no padding
    operations: float  # forward and backward
    encoded: dict[str, float]  # items that frozen encoders see, by column; only where the pass is the first to need them
    encoder_operations: float
    loading: float  # seconds in all: rows realised and collated here, in one process


# --- Counting --------------------------------------------------------------------------------------------------------


class DrawnFeatures:
    """Features that were never computed: of the drawn lengths, all zero."""

    bad = ()

    def __init__(self, lengths: Sequence[int], width: int) -> None:
        self.lengths, self.zeros = lengths, np.zeros((max(lengths), width), np.float16)

    def count(self, row: int) -> int:
        return 1

    def get(self, row: int, number: int, copy: int = 0) -> np.ndarray:
        return self.zeros[: self.lengths[row]]


def drawn_file(folder: Path, stage: str, kind: Kind, config: ModelConfig, rows: int, seed: int) -> DataFile:
    """Synthetic rows of a kind, their sounds and pictures only as lengths."""
    path = folder / f"{stage}.parquet"
    if not path.is_file():
        write_rows(path, silent(kind), config, rows, seed)
    rng, stores = np.random.default_rng((seed, 1)), {}
    if kind.question_seconds:
        lengths = [feature_count(int(question_seconds(kind, rng) * SAMPLE_RATE)) for _ in range(rows)]
        stores["sounds"] = DrawnFeatures(lengths, config.audio_hidden_size)
    if kind.picture:
        stores["pictures"] = DrawnFeatures([config.image_token_len] * rows, config.image_hidden_size)
    return DataFile(open_rows(path, config, folder), **stores)


def planned_batches(profile: Profile, stage: str, config: StageConfig, folder: Path, rows: int, seed: int) -> tuple[Batches, list[Batch], float]:
    """One chunk of a pass: the batches, and the seconds that making them took."""
    of_file = {each.data: name for name, passes in profile.stages.items() for each in passes}
    mixture = [(stage, 1 - sum(each.share for each in config.rehearsal), config.draws)]
    mixture += [(of_file[each.data], each.share, each.draws) for each in config.rehearsal]
    dense = profile.model.replace(use_moe=False)
    files = [drawn_file(folder, name, MINI[name], dense, rows // 2, seed + STAGES.index(name)) for name, *_ in mixture]
    corpora = [Corpus([file], draws, profile.system_prompts) for file, (*_, draws) in zip(files, mixture, strict=True)]
    layout = Layout(profile.model, ChatTokenizer.load(find_profile("tiny").tokenizer_dir), config.max_length)
    batches = Batches(corpora, [share for _, share, _ in mixture], layout, config.token_budget, seed, min(config.chunk_rows, rows))
    begun = time.process_time()
    made = [collate(group, profile.model) for group in batches.plan(0)]
    return batches, made, time.process_time() - begun


def count(profile: Profile, rows: int = PLANNED_ROWS, seed: int = 0) -> list[PassCount]:
    """Every pass of a profile of mini's data.  Raises ValueError for another profile."""
    if profile.held_out is None or not profile.name.startswith("mini"):
        raise ValueError(f"a plan knows the rows of mini and mini-moe; {profile.name} was not counted")
    found, seen = [], set()
    with tempfile.TemporaryDirectory() as temporary:
        for stage, passes in profile.stages.items():
            for config in passes:
                found.append(count_pass(profile, stage, config, Path(temporary), rows, seed, seen))
    return found


def count_pass(profile: Profile, stage: str, config: StageConfig, folder: Path, rows: int, seed: int, seen: set[str]) -> PassCount:
    """One pass.  seen: kinds whose features an earlier pass has computed; this one's are added."""
    batches, made, seconds = planned_batches(profile, stage, config, folder, rows, seed)
    chunks = (config.epochs or 1) * MINI[stage].rows / batches.rows[0]
    forwards = BACKWARD if config.trainable == "all" else INPUTS_ONLY
    model = profile.model
    operations = sum(forwards * forward_flops(model, Work.of_ours(batch, model)) + projector_flops(model, batch) for batch in made)
    encoded, encoder_operations = {}, 0.0
    if stage not in seen:
        seen.add(stage)
        if MINI[stage].question_seconds:
            encoded["question_audios"] = float(MINI[stage].rows)
            encoder_operations += 2 * ENCODER_WEIGHTS["question_audios"] * MINI[stage].rows * MINI[stage].question_seconds * 1000 / 60
        if MINI[stage].picture:
            encoded["image_bytes"] = float(MINI[stage].rows)
            encoder_operations += 2 * ENCODER_WEIGHTS["image_bytes"] * MINI[stage].rows * profile.model.image_token_len
    size = sum(batch.size for batch in made)
    return PassCount(
        stage, config.name, config.trainable, config.token_budget, config.max_length,
        rows=chunks * sum(len(batch.names) for batch in made), steps=chunks * len(made), positions=chunks * size,
        useful=sum(batch.useful for batch in made) / size, operations=chunks * operations,
        encoded=encoded, encoder_operations=encoder_operations, loading=chunks * seconds,
    )  # fmt: skip


def projector_flops(config: ModelConfig, batch: Batch) -> float:
    """Both projectors, forward and backward."""
    D, found = config.hidden_size, 0.0
    for features, width in ((batch.audio_features, config.audio_hidden_size), (batch.image_features, config.image_hidden_size)):
        if features is not None:
            found += BACKWARD * 2 * features[..., 0].numel() * (width * D + D * D)
    return found


# --- Memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes: what is there whatever the batch, and what each position adds."""

    fixed: float
    each: float

    def at(self, positions: float) -> float:
        return self.fixed + self.each * positions

    def fits(self, limit: float, longest: int, most: int) -> int:
        """The most positions at once within `limit` bytes, in steps of 256, at most `most`; 0 where one row is too much."""
        positions = min(most, int((limit - self.fixed) / self.each) // 256 * 256)
        return positions if positions >= longest else 0


def kept_bytes(model: OmniModel, batch: Batch, stage: StageConfig, dtype: torch.dtype) -> int:
    """Bytes that a forward keeps for its backward, every storage once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()  # the tensor itself may be its node's own output: kept, both would hold each other for ever
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address is used twice
        return tensor

    device = torch.device("cpu")
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast, as_on_a_card():
        losses_of(model, batch, stage, device)
    return sum(kept.values())


def all_speaking(batch: Batch) -> Batch:
    """The batch with a sound to learn in every row, so that all of it goes through the Talker."""
    labels = batch.audio_labels.clone()
    labels[:, :, 0] = 0
    return replace(batch, audio_labels=labels)


def count_memory(profile: Profile, dtype: torch.dtype, rows: int = 64, seed: int = 0) -> dict[str, Memory]:
    """By pass, what a card would have to hold: weights, their state, frozen encoders, and what a forward keeps, which is counted on this
    machine's processor in two small batches."""
    found, seen = {}, set()
    torch.manual_seed(seed)
    model = OmniModel(profile.model).train()
    total = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as temporary:
        for stage, passes in profile.stages.items():
            for config in passes:
                learning = sum(parameter.numel() for parameter in choose_trainable(model, config.trainable).values())
                _, made, _ = planned_batches(profile, stage, config.replace(token_budget=config.max_length), Path(temporary), rows, seed)
                made.sort(key=lambda batch: batch.size)
                small, large = (all_speaking(batch) for batch in (made[0], made[-1]))  # at most; how many rows speak differs from batch to batch
                if small.size == large.size:
                    raise ValueError(f"pass {config.name}: {len(made)} batches are all of {small.size} positions; give more rows to count with")
                bytes_small, bytes_large = (kept_bytes(model, batch, config, dtype) for batch in (small, large))
                each = (bytes_large - bytes_small) / (large.size - small.size)
                if each <= 0:
                    raise ValueError(f"pass {config.name}: the larger of two batches keeps no more than the smaller; give other rows to count with")
                seen |= {column for column, kind in (("question_audios", MINI[stage].question_seconds), ("image_bytes", MINI[stage].picture)) if kind}
                encoders = sum(ENCODER_BYTES * ENCODER_WEIGHTS[column] for column in seen)
                rest = max(0, bytes_large - each * large.size)
                found[config.name] = Memory(4 * total + STATE_BYTES * learning + encoders + MARGIN * rest, MARGIN * each)
    return found


# --- Plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One pass of a plan: hours, and how many positions go at once."""

    count: PassCount
    training: float  # hours
    encoding: float
    loading: float
    positions: int | None  # at once; 0: not even one row fits
    memory: float | None  # bytes at that many

    @property
    def hours(self) -> float:
        return self.encoding + max(self.training, self.loading)  # batches are made beside the training (loader.py)


@dataclass(frozen=True)
class Plan:
    """Hours of the real run."""

    title: str
    lines: tuple[Line, ...]
    assumptions: tuple[str, ...]

    @property
    def hours(self) -> float:
        return sum(line.hours for line in self.lines)


def from_card(counts: Sequence[PassCount], memory: dict[str, Memory], name: str, share: float) -> Plan:
    """A plan for a named card.  share: of the peak that training reaches, between 0 and 1.  Raises ValueError."""
    if name not in CARDS:
        raise ValueError(f"no card {name!r}; there are {', '.join(CARDS)}")
    if not 0 < share <= 1:
        raise ValueError(f"share {share} of the peak must lie between 0 and 1")
    card = CARDS[name]
    peak, lines = card.bf16 or card.fp32, []
    for each in counts:
        needs = memory[each.name]
        positions = needs.fits(FULL * card.memory, each.longest, each.budget)
        training = each.operations / (share * peak) / 3600
        encoding = each.encoder_operations / (share * card.fp32) / 3600
        lines.append(Line(each, training, encoding, each.loading / 3600, positions, needs.at(positions) if positions else None))
    spoken = [line for line in lines if not line.count.name.startswith("i2t")]
    return Plan(
        f"{card.title}, counted",
        tuple(lines),
        (
            *assumptions(),
            f"the original's mini recipe, of which its README says two hours, is T2A and A2A: {hours(sum(line.hours for line in spoken))} of this; I2T is in its full recipe only",
            f"the card: {peak / 1e12:g} TFLOP/s {'bf16' if card.bf16 else 'fp32 (it has no bf16)'} and {card.fp32 / 1e12:g} fp32 at most (data sheet); "
            f"training and the frozen encoders (fp32) reach {share:.0%} of it: assumed, --share changes it",
            "memory: weights, AdamW and frozen encoders in fp32, and what a forward keeps for its backward, counted on a processor, "
            f"with {MARGIN - 1:.0%} on top; at most {FULL:.0%} of {card.memory / 1e9:g} GB. Not measured on the card",
            "loading: measured on this machine, one process beside the training (mmo/loader.py), so the longer of the two counts; decoding and augmenting sounds and reading pictures are not in it",
            "; ".join(what_it_takes(counts, card, minutes) for minutes in WANTED_MINUTES)
            + f"; T2A and A2A alone: {what_it_takes([line.count for line in spoken], card, WANTED_MINUTES[-1])}. Beside a card up to 4 processes make batches by default",
        ),
    )


def what_it_takes(counts: Sequence[PassCount], card: Card, minutes: float) -> str:
    """Which share of a card's peak all passes and encoders must reach to be done in so many minutes, and how many processes must make batches meanwhile."""
    peak = card.bf16 or card.fp32
    share = sum(each.operations / peak + each.encoder_operations / card.fp32 for each in counts) / (60 * minutes)
    if share > 1:
        return f"{minutes:g} minutes are out of reach: {share:.1f} times its peak"
    processes = max(1, *(math.ceil(each.loading * share * peak / each.operations) for each in counts))
    return f"{minutes:g} minutes take {share:.0%} of the peak and {processes} loader process{'es' if processes > 1 else ''}"


def from_figures(counts: Sequence[PassCount], figures: dict, limit: float) -> Plan:
    """A plan for the machine that a rehearsal ran on.

    figures: of report.py.  limit: bytes that training may take.  By processor time where the machine was shared, else by the clock.
    """
    by = figures["by"]
    lines, missing = [], []
    for each in counts:
        pace = figures["passes"].get(each.name)
        if pace is None:
            missing.append(each.name)
            continue
        training = each.positions * pace[by] / pace["positions"] / 3600
        encoding = 0.0
        for column, items in each.encoded.items():
            if column in figures["encoders"]:
                encoding += items * figures["encoders"][column][by] / figures["encoders"][column]["items"] / 3600
        told = figures["memory"].get(each.name)
        needs = Memory(**told) if told else None
        positions = needs.fits(limit, each.longest, each.budget) if needs else None
        lines.append(Line(each, training, encoding, each.loading / 3600, positions, needs.at(positions) if positions else None))
    if not lines:
        raise ValueError(f"this rehearsal has trained no pass of {figures['profile']}: without `mmo rehearse`'s stages there is nothing to reckon with")
    clock = {"seconds": "by the clock", "processor_seconds": f"by processor time over {figures['threads']} thread(s): the machine was shared"}[by]
    return Plan(
        f"this machine ({figures['device']}), measured {clock}" + (f", WITHOUT {', '.join(missing)} (not rehearsed)" if missing else ""),
        tuple(lines),
        (
            *assumptions(),
            "a position costs in the real run what it cost in the few steps of the rehearsal",
            f"positions that fit: within {limit / 1e9:.1f} GB, on the line from what the rehearsal held and what each position adds (counted)",
            "loading: measured on this machine, one process beside the training (mmo/loader.py), so the longer of the two counts",
        ),
    )


def show(plan: Plan) -> None:
    """The table and what it rests on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{plan.title}: {hours(plan.hours)} in all", title_justify="left")
    for column in ("pass", "rows", "steps", "useful", "training", "encoding", "loading", "at once", "memory"):
        table.add_column(column, justify="left" if column == "pass" else "right")
    for line in plan.lines:
        each = line.count
        table.add_row(
            each.name, f"{each.rows:,.0f}", f"{each.steps:,.0f}", f"{each.useful:.0%}", hours(line.training), hours(line.encoding),
            hours(line.loading), fitting(line), f"{line.memory / 1e9:.1f} GB" if line.memory else "–",
        )  # fmt: skip
    console = Console(width=140, highlight=False)
    console.print(table)
    for words in plan.assumptions:
        console.print(f"- {words}", style="dim")


def fitting(line: Line) -> str:
    """How many positions go at once, beside the recipe's budget."""
    if not line.positions:
        return "–" if line.positions is None else "too large"
    return f"{line.positions:,} " + ("(all)" if line.positions >= line.count.budget else f"of {line.count.budget:,}")


def hours(value: float) -> str:
    """Hours as one says them."""
    return "–" if not value else f"{3600 * value:.0f} s" if value < 1 / 60 else f"{60 * value:.0f} min" if value < 1 else f"{value:.1f} h"
