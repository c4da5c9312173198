"""`mmo bench load`: rows a second of the loader, against a loader that builds padded rows in Python, and against what training takes.

    ours      packed Arrow rows in a memory map, laid out as tensors, sorted by length, cut into batches (data.Batches)
    padded    the parquet table in memory, each cell through `as_py`, streams and labels as Python lists that are filled code by code,
              everything `length` positions long (the original's dataset/omni_dataset.py)

    ahead     ours in a process of its own (loader.BatchesAhead), as training uses it: through shared memory

Neither draws anything at random, so that both build the same rows (a test says so).  The padded way renders and tokenises with our
tokenizer, which is not what makes it slow.

A loader is fast enough where its rows a second are a few times those that the model consumes: so `training.Stepper` trains on the same rows,
in batches of the stage's own budget, with batches made when they are asked for and with batches made ahead; told is for how much of the
time it stood still.  Memory must not grow from round to round, neither here nor in the worker.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mmo.bench.clock import ProcessorTime, alternate, median_ratio, seconds_of
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import PADDED_LENGTH, BenchRows, open_bench_rows
from mmo.config import IGNORE, Draws
from mmo.data import Batches, Layout
from mmo.loader import BatchesAhead
from mmo.memory import private_bytes
from mmo.omni import OmniModel
from mmo.profiles import Profile
from mmo.sequence import audio_start, find_assistant_ranges
from mmo.training import Stepper

OURS, PADDED, AHEAD = "ours", "padded", "ours, one process ahead"


@dataclass(frozen=True)
class LoadBench:
    """Settings of one measurement."""

    source: str = "synthetic"
    rows: int = 512  # a round
    batch: int = 40  # rows of a padded batch: the original's
    rounds: int = 3  # counted; one more warms up
    baseline: bool = True
    steps: int = 24  # of training, to see what the model takes; 0: without
    padded_length: int = PADDED_LENGTH
    seed: int = 0


def list_frames(flat: Sequence[int], num_codebooks: int) -> list[list[int]]:
    """Flat, frame-major codes -> one list a codebook, code by code."""
    streams: list[list[int]] = [[] for _ in range(num_codebooks)]
    for first in range(0, len(flat) - num_codebooks + 1, num_codebooks):
        for k in range(num_codebooks):
            streams[k].append(flat[first + k])
    return streams


def place_voice(streams: list[list[int]], start: int, reference: Sequence[int], has_speaker: bool, layout: Layout) -> None:
    """In place: the reference voice before `start`, the speaker sign before it."""
    Q, ref_start = len(streams), start
    if reference:
        codes = list_frames(reference, Q)
        ref_start = max(int(has_speaker), start - len(codes[0]))
        for k in range(Q):
            for place, code in enumerate(codes[k][-(start - ref_start) :]):
                streams[k][ref_start + place] = code
    if has_speaker and ref_start > 0:
        for k in range(Q):
            streams[k][ref_start - 1] = layout.config.audio_spk_token


def padded_row(row: dict, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """A row of the table as plain Python -> inputs (Q + 1, T), text labels (T,), audio labels (Q, T), T = max_length."""
    config, markers, length = layout.config, layout.markers, layout.max_length + 1
    ids = layout.tokenizer.encode(layout.tokenizer.render(json.loads(row["conversations"]), add_generation_prompt=False))[:length]
    answer = find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
    text = ids + [config.pad_token] * (length - len(ids))
    text_labels = [IGNORE] * length
    for place in range(answer[0], min(answer[1] + len(markers.end), len(ids))):
        text_labels[place] = text[place]
    streams = [[config.audio_pad_token] * length for _ in range(config.num_codebooks)]
    labels = [[IGNORE] * length for _ in range(config.num_codebooks)]
    start = audio_start(ids, answer, markers.think_end)
    place_voice(streams, start, row["ref_audios"], bool(row["spk_emb"]), layout)
    for k, codes in enumerate(list_frames(row["answer_audios"][-1], config.num_codebooks)):
        for place, code in enumerate([*codes, config.audio_stop_token], start + 1 + k):
            if place < length:
                streams[k][place] = labels[k][place] = code
    return torch.tensor([*streams, text])[:, :-1], torch.tensor(text_labels)[1:], torch.tensor(labels)[:, 1:]


class PaddedLoader:
    """The parquet table in memory, row by row."""

    def __init__(self, rows: BenchRows, count: int, batch: int) -> None:
        self.table = pq.read_table(rows.path)
        self.layout, self.batch = rows.layout, batch
        self.count = min(count, len(self.table))

    def row(self, number: int) -> dict:
        """One row of the table, its cells as Python objects."""
        return {name: self.table[name][number].as_py() for name in ("conversations", "answer_audios", "ref_audios", "spk_emb")}

    def __call__(self) -> None:
        """One round: every batch, stacked."""
        for first in range(0, self.count, self.batch):
            built = [padded_row(self.row(number), self.layout) for number in range(first, min(first + self.batch, self.count))]
            for parts in zip(*built, strict=True):
                torch.stack(parts)


class OurLoader:
    """One chunk of the course's own batches, a new one every round."""

    def __init__(self, rows: BenchRows, count: int, token_budget: int) -> None:
        self.batches, self.count, self.chunk = rows.batches(token_budget, count), count, 0

    def __call__(self) -> None:
        for batch in self.batches.start(self.chunk):
            if batch.position[0] > self.chunk:
                break
        self.chunk += 1


class AheadLoader:
    """The same chunks, made by one worker; a round takes one chunk out of it."""

    def __init__(self, batches: Batches, count: int) -> None:
        self.stream, self.count, self.chunk = BatchesAhead(batches, workers=1), count, 0
        self.memory: list[int] = []  # bytes that the worker has for itself, after each round

    def __call__(self) -> None:
        while next(self.stream).position[0] == self.chunk:
            pass
        self.chunk += 1
        # The largest: where processes are spawned, Python has a small one of its own among them.
        self.memory.append(max(private_bytes(child) for child in psutil.Process().children()))


@dataclass(frozen=True)
class Consumed:
    """Some steps of training."""

    rows_a_second: float  # of the steps themselves
    waited: float  # share of the whole time
    work: float  # processor seconds a row

    @property
    def in_all(self) -> float:
        """Rows a second of the whole time."""
        return self.rows_a_second * (1 - self.waited)

    @classmethod
    def by_training(cls, stepper: Stepper, batches: Batches, steps: int, workers: int) -> Consumed:
        """`steps` steps from the first chunk on; the first batch, before which nothing can be hidden, does not count."""
        rows, waits, works = [], [], []
        step = ProcessorTime(stepper.step)
        with BatchesAhead(batches, workers=workers) as stream:
            for number in range(steps + 1):
                batch = next(stream)
                waits.append(stream.wait)
                works.append(seconds_of(lambda: step(batch, number), stepper.device))
                rows.append(len(batch.names))
        waited = sum(waits[1:])
        return cls(sum(rows[1:]) / sum(works[1:]), waited / (waited + sum(works[1:])), sum(step.seconds[1:]) / sum(rows[1:]))


def consumption(profile: Profile, rows: BenchRows, settings: LoadBench, device: torch.device) -> dict[int, Consumed]:
    """Training on these rows as the T2A stage does it, chunks of `settings.rows` rows, with no worker and with one."""
    stage = profile.stages["t2a"][0]
    torch.manual_seed(settings.seed)
    stepper = Stepper(OmniModel(profile.model).to(device).train(), stage, settings.steps + 2, device, profile.dtype(device))
    batches = rows.batches(max(stage.token_budget, rows.layout.max_length), settings.rows)
    return {workers: Consumed.by_training(stepper, batches, settings.steps, workers) for workers in (0, 1)}


def bench_load(profile: Profile, settings: LoadBench, folder: Path | None = None, device: torch.device | None = None) -> Report:
    """Measure; the loader works on the CPU, the model on `device`.  folder: for the synthetic file and packed rows, default a temporary one."""
    device = device or torch.device("cpu")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        rows = open_bench_rows(
            profile, settings.source, folder or Path(temporary), settings.rows, settings.seed, settings.padded_length, Draws.none()
        )
        count = min(settings.rows, len(rows.corpus))
        budget = max(profile.stages["t2a"][0].token_budget, settings.padded_length)
        ahead = AheadLoader(rows.batches(budget, count), count)
        ours = OurLoader(rows, count, budget)
        arms: dict[str, OurLoader | PaddedLoader | AheadLoader] = {OURS: ours, AHEAD: ahead}
        if settings.baseline:
            arms[PADDED] = PaddedLoader(rows, count, settings.batch)
        for arm in arms.values():
            arm()  # once before memory is looked at: caches fill
        before = psutil.Process().memory_info().rss
        watch = ProcessorTime(ours)
        samples = alternate(arms | {OURS: watch}, settings.rounds, torch.device("cpu"), warm_up=0)
        grown = psutil.Process().memory_info().rss - before
        ahead.stream.close()
        taken = consumption(profile, rows, settings, device) if settings.steps else {}
    rates = {name: arms[name].count / statistics.median(seconds) for name, seconds in samples.items()}
    ratios = {"rows a second, ours over padded": median_ratio(samples[PADDED], samples[OURS])} if PADDED in arms else {}
    checks = {"memory grown over all rounds, MB": grown / 1e6, "memory of the worker, MB": float(np.median(ahead.memory)) / 1e6,
              "memory of the worker grown over all rounds, MB": (ahead.memory[-1] - ahead.memory[0]) / 1e6}  # fmt: skip
    if taken:
        consumed = statistics.median(each.rows_a_second for each in taken.values())
        ratios["rows a second, ours over what the model consumes"] = rates[OURS] / consumed
        load, learn = watch.median(settings.rounds) / count, statistics.median(each.work for each in taken.values())
        checks |= {"processor time of a row, loading, ms": 1000 * load}
        if device.type == "cpu":
            checks |= {"processor time of a row, training, ms": 1000 * learn}
            ratios["processor time of a row, training over loading"] = learn / load
        checks |= {"rows a second that the model consumes": consumed, "the model waits, batches made when asked for, %": 100 * taken[0].waited,
                   "the model waits, batches made ahead, %": 100 * taken[1].waited,
                   "rows a second with all waiting, made when asked for": taken[0].in_all, "the same, made ahead": taken[1].in_all}  # fmt: skip
    return Report(
        title=f"Loading, {profile.name}, {settings.source} rows",
        columns=tuple(arms),
        lines=(Line("rows a second", "", tuple(rates.values())), Line("a row", "ms", tuple(1000 / rate for rate in rates.values()))),
        ratios=ratios,
        checks=checks,
        settings={
            "profile": profile.name, "rows": settings.source, "rows a round": count, "rounds": settings.rounds, "steps": settings.steps,
            "seed": settings.seed,
        },
        machine=describe_machine(device),
        samples=samples,
    )  # fmt: skip
