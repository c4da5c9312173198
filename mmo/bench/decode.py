"""`mmo bench decode`: answers from the same prompts, ours against caches that grow (growing.py); one at a time, and many at once.

Answers have a fixed length (text at most `text` tokens, exactly `frames` frames: the stop is forbidden), so that both arms make the
same steps.  With greedy choice, the default, both say the same, and that is checked; `sampled` measures with the profile's own
temperatures, which costs the padded way a top-k and a draw for every codebook.

A step reads every weight it uses once, so at batch 1 the memory's bandwidth sets a floor: bytes of the weights over bytes a
second.  Both are in the table; ours reads fewer where the Thinker's upper layers are left out, and fewer with weights in
bfloat16 or int8 (`--precision`, a column each; these may say something else, so that only float32 is checked against the padded way).
Beside other work the clock tells of that work too: then run with one thread (OMP_NUM_THREADS=1) and read the processor time.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmo import memory
from mmo.bench.clock import ProcessorTime, alternate, median_ratio, seconds_of
from mmo.bench.growing import Grown, growing_answer
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import BenchRows, open_bench_rows
from mmo.bench.unstoppable import Unstoppable
from mmo.config import Decoding, Draws
from mmo.generation import Generator, Prompt, evaluating
from mmo.omni import OmniModel, load_model
from mmo.profiles import Profile
from mmo.sequence import frames
from mmo.twin import Precision, step_bytes

OURS, COMPILED, GROWING, MANY = "ours", "ours, compiled", "growing caches", "ours, many at once"


@dataclass(frozen=True)
class DecodeBench:
    """Settings of one measurement."""

    source: str = "synthetic"
    prompts: int = 2  # a round
    text: int = 12  # tokens at most
    frames: int = 41
    rounds: int = 3  # counted; one more warms up
    batch: int = 16  # prompts at once, in the third column; 0 leaves it out
    sampled: bool = False
    baseline: bool = True
    precisions: tuple[Precision, ...] = ()  # further columns
    compile: bool = False  # a further column: a step as one graph
    seed: int = 0


def prompts_of(rows: BenchRows, count: int) -> list[Prompt]:
    """The first `count` rows' questions, with their voices and references."""
    found = []
    for number in range(min(count, len(rows.corpus))):
        _, raw = rows.corpus.locate(number)
        question = raw.conversation[: next(place for place, turn in enumerate(raw.conversation) if turn["role"] == "assistant")]
        reference = frames(raw.reference.astype("int64"), rows.layout.config.num_codebooks) if len(raw.reference) else None
        speaker = torch.from_numpy(raw.speaker.copy()) if len(raw.speaker) else None
        found.append(Prompt(rows.layout.tokenizer.prompt(question), speaker, reference, seed=number))
    return found


class OurArm:
    """Our decoder on prompts, from an `Unstoppable`; `found` holds (text ids, codes) of the last round."""

    def __init__(self, generator: Generator, groups: Sequence[Sequence[Prompt]], decoding: Decoding) -> None:
        self.generator, self.groups, self.decoding = generator, groups, decoding
        self.found: list[tuple[list[int], torch.Tensor]] = []
        self.steps = 0  # of all rows together

    @torch.no_grad()
    def __call__(self) -> None:
        self.found, self.steps = [], 0
        with evaluating(self.generator.model):
            for group in self.groups:
                decoder = self.generator.start(group, self.decoding, speech=True)
                for _ in decoder.run(drop=False):
                    self.steps += len(group)
                self.found += [(text, codes) for text, codes, *_ in decoder.results()]


class GrowingArm:
    """The padded way on the same prompts."""

    def __init__(self, model: OmniModel, prompts: Sequence[Prompt], decoding: Decoding) -> None:
        self.model, self.prompts, self.decoding = model, prompts, decoding
        self.answers: list[Grown] = []

    @property
    def steps(self) -> int:
        return sum(answer.steps for answer in self.answers)

    def __call__(self) -> None:
        with evaluating(self.model):
            self.answers = [growing_answer(self.model, prompt, self.decoding, may_stop=False) for prompt in self.prompts]


def bench_model(profile: Profile, seed: int, device: torch.device) -> tuple[OmniModel, str]:
    """The profile's finished weights, or fresh ones of the same size where it has none here; and which they are."""
    if profile.checkpoint_file.is_file():
        return load_model(profile.checkpoint_file, profile.model).to(device), profile.checkpoint_file.name
    memory.keep(profile.model.use_moe)
    torch.manual_seed(seed)
    return OmniModel(profile.model).to(device).eval(), "drawn"


def read_bandwidth(device: torch.device, size: int = 1 << 29) -> float:
    """Bytes a second of reading `size` bytes of fp32 once, the best of six: what a product with a vector can have at most.

    As many bytes as the model of `mini` has weights, so that caches help here as little as there.
    """
    data = torch.ones(size // 4, device=device)
    return size / min(seconds_of(data.sum, device) for _ in range(6))


def bench_decode(profile: Profile, settings: DecodeBench, device: torch.device | None = None, folder: Path | None = None) -> Report:
    """Measure, at batch 1 and at `settings.batch`.  folder: for the synthetic file, default a temporary one."""
    device = device or profile.device()
    decoding = replace(profile.decoding, max_text=settings.text, max_frames=settings.frames)
    decoding = decoding if settings.sampled else decoding.greedy()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        wanted = max(settings.prompts, settings.batch)
        rows = open_bench_rows(profile, settings.source, folder or Path(temporary), wanted, settings.seed, draws=Draws.none())
        prompts = prompts_of(rows, wanted)
        model, weights = bench_model(profile, settings.seed, device)
        single = [[prompt] for prompt in prompts[: settings.prompts]]
        arms: dict[str, OurArm | GrowingArm] = {OURS: OurArm(Unstoppable(model), single, decoding)}
        for precision in settings.precisions:
            arms[f"{OURS}, {precision}"] = OurArm(Unstoppable(model, precision=precision), single, decoding)
        if settings.compile:
            arms[COMPILED] = OurArm(Unstoppable(model, compile=True), single, decoding)
        if settings.baseline:
            arms[GROWING] = GrowingArm(model, prompts[: settings.prompts], decoding)
        if settings.batch:
            arms[MANY] = OurArm(arms[OURS].generator, [prompts[: settings.batch]], decoding)
        clocks = {name: ProcessorTime(arm) for name, arm in arms.items()}
        samples = alternate(clocks, settings.rounds, device)
    processor = {name: clock.seconds[-settings.rounds :] for name, clock in clocks.items()}
    bandwidth = read_bandwidth(device)
    return Report(
        title=f"Decoding, {profile.name}: {settings.text} tokens and {settings.frames} frames an answer",
        columns=tuple(arms),
        lines=tuple(decode_lines(arms, samples, processor, bandwidth)),
        ratios=decode_ratios(arms, samples, processor),
        checks=decode_checks(arms, settings),
        settings={
            "profile": profile.name, "rows": settings.source, "prompts": settings.prompts, "batch": settings.batch, "rounds": settings.rounds,
            "choice": "sampled" if settings.sampled else "greedy", "weights": weights, "seed": settings.seed,
            "read bandwidth GB/s": round(bandwidth / 1e9, 1),
        },
        machine=describe_machine(device),
        samples=samples,
    )  # fmt: skip


def decode_lines(arms: dict, samples: dict[str, list[float]], processor: dict[str, list[float]], bandwidth: float) -> list[Line]:
    """The table: medians over rounds.  A step is one position of one row."""
    seconds = {name: statistics.median(taken) for name, taken in samples.items()}
    alone = {name: arm.generator.model for name, arm in arms.items() if name != MANY and isinstance(arm, OurArm)}
    bytes_read = {name: (step_bytes(twin), step_bytes(twin, tail=True)) for name, twin in alone.items()}
    if GROWING in arms:
        bytes_read[GROWING] = (step_bytes(alone[OURS]),) * 2  # the same weights, all of them at every step

    def milliseconds(place: int) -> tuple[float | None, ...]:
        return tuple(1000 * bytes_read[name][place] / bandwidth if name in bytes_read else None for name in arms)

    return [
        Line("steps of a round", "", tuple(float(arm.steps) for arm in arms.values())),
        Line("one step", "ms", tuple(1000 * seconds[name] / arm.steps for name, arm in arms.items())),
        Line("the same, processor time", "ms", tuple(1000 * statistics.median(processor[name]) / arm.steps for name, arm in arms.items())),
        Line("steps a second", "", tuple(arm.steps / seconds[name] for name, arm in arms.items())),
        Line("work for a second of sound", "s", tuple(12.5 * seconds[name] / arm.steps for name, arm in arms.items())),
        Line("weights read by a step on the tail", "MB", tuple(bytes_read[name][1] / 1e6 if name in bytes_read else None for name in arms)),
        Line("the memory's floor of a step while text is written", "ms", milliseconds(0)),
        Line("the memory's floor of a step on the tail", "ms", milliseconds(1)),
    ]


def decode_ratios(arms: dict, samples: dict[str, list[float]], processor: dict[str, list[float]]) -> dict[str, float]:
    """Steps a second against the growing caches' and against ours as it is, and many at once against one at a time: by the clock, and of processor time."""
    ratios, others = {}, [name for name in arms if name.startswith(f"{OURS}, ") and name != MANY]
    for what, taken in (("steps a second", samples), ("steps a second of a processor", processor)):
        if GROWING in arms:
            ratios |= {f"{what}, {name} over growing caches": median_ratio(taken[GROWING], taken[name]) for name in (OURS, *others)}
        ratios |= {f"{what}, {name} over ours": median_ratio(taken[OURS], taken[name]) for name in others}
        if MANY in arms:
            more = arms[MANY].steps / arms[OURS].steps
            ratios[f"{what}, many at once over one at a time"] = more * median_ratio(taken[OURS], taken[MANY])
    return ratios


def decode_checks(arms: dict, settings: DecodeBench) -> dict[str, bool]:
    """Whether both ways said the same, and the compiled step; nothing where they were sampled or there is one way only."""
    checks: dict[str, bool] = {}
    if settings.sampled:
        return checks
    if GROWING in arms:
        pairs = list(zip(arms[OURS].found, arms[GROWING].answers, strict=True))
        checks["same text"] = all(text == answer.text_ids for (text, _), answer in pairs)
        checks["same codes"] = all(torch.equal(codes, answer.codes) for (_, codes), answer in pairs)
    if COMPILED in arms:
        pairs = list(zip(arms[OURS].found, arms[COMPILED].found, strict=True))
        checks["compiled: same text and codes"] = all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in pairs)
        checks["compiled: it was"] = arms[COMPILED].generator.graph.on
    return checks
