"""`mmo bench decode`: answers from the same prompts, ours against caches that grow (growing.py); one at a time, and many at once.

Answers have a fixed length (text at most `text` tokens, exactly `frames` frames: the stop is forbidden), so that both arms make the
same steps.  With greedy choice, the default, both say the same, and that is checked; `sampled` measures with the profile's own
temperatures, which costs the padded way a top-k and a draw for every codebook.

A step reads every weight it uses once, so at batch 1 the memory's bandwidth sets a floor: bytes of the weights over bytes a
second.  Both are in the table; ours reads fewer where the Thinker's upper layers are left out.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmo.bench.clock import alternate, median_ratio, seconds_of
from mmo.bench.growing import Grown, growing_answer
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import BenchRows, open_bench_rows
from mmo.config import Decoding, Draws
from mmo.generation import Generator, Prompt, evaluating
from mmo.omni import OmniModel, load_model
from mmo.profiles import Profile
from mmo.sequence import frames

OURS, GROWING, MANY = "ours", "growing caches", "ours, many at once"


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
    """Our decoder on prompts; `found` holds (text ids, codes) of the last round."""

    def __init__(self, generator: Generator, groups: Sequence[Sequence[Prompt]], decoding: Decoding) -> None:
        self.generator, self.groups, self.decoding = generator, groups, decoding
        self.found: list[tuple[list[int], torch.Tensor]] = []
        self.steps = 0  # of all rows together

    @torch.no_grad()
    def __call__(self) -> None:
        self.found, self.steps = [], 0
        with evaluating(self.generator.source):
            for group in self.groups:
                decoder = self.generator.start(group, self.decoding, speech=True)
                decoder.allowed[0, self.generator.config.audio_stop_token] = -torch.inf
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
    torch.manual_seed(seed)
    return OmniModel(profile.model).to(device).eval(), "drawn"


def weight_bytes(model: OmniModel, tail: bool) -> int:
    """Bytes of the matrices that one of our steps multiplies with.  tail: without the Thinker's upper layers and its head.

    Looked-up tables are left out: a step reads Q rows of them.
    """
    talker = model.talker
    parts = [*model.model.layers[: model.model.num_lower], *talker.layers, talker.lm_head, talker.embed_proj, talker.codec_proj]
    if not tail:
        parts += [*model.model.layers[model.model.num_lower :], model.lm_head]
    return sum(parameter.numel() * parameter.element_size() for part in parts for parameter in part.parameters())


def read_bandwidth(device: torch.device, size: int = 1 << 27) -> float:
    """Bytes a second of reading `size` bytes of fp32 once, the best of five: what a product with a vector can have at most."""
    data = torch.ones(size // 4, device=device)
    return size / min(seconds_of(data.sum, device) for _ in range(6))


def bench_decode(profile: Profile, settings: DecodeBench, device: torch.device | None = None, folder: Path | None = None) -> Report:
    """Measure, at batch 1 and at `settings.batch`.  folder: for the synthetic file, default a temporary one."""
    device = device or profile.device()
    decoding = replace(profile.decoding, max_text=settings.text, max_frames=settings.frames)
    decoding = decoding if settings.sampled else decoding.greedy()
    with tempfile.TemporaryDirectory() as temporary:
        wanted = max(settings.prompts, settings.batch)
        rows = open_bench_rows(profile, settings.source, folder or Path(temporary), wanted, settings.seed, draws=Draws.none())
        prompts = prompts_of(rows, wanted)
        model, weights = bench_model(profile, settings.seed, device)
        generator = Generator(model)
        single = prompts[: settings.prompts]
        arms: dict[str, OurArm | GrowingArm] = {OURS: OurArm(generator, [[prompt] for prompt in single], decoding)}
        if settings.baseline:
            arms[GROWING] = GrowingArm(model, single, decoding)
        if settings.batch:
            arms[MANY] = OurArm(generator, [prompts], decoding)
        samples = alternate(arms, settings.rounds, device)
    bandwidth = read_bandwidth(device)
    return Report(
        title=f"Decoding, {profile.name}: {settings.text} tokens and {settings.frames} frames an answer",
        columns=tuple(arms),
        lines=tuple(decode_lines(arms, samples, model, bandwidth)),
        ratios=decode_ratios(arms, samples),
        checks=decode_checks(arms, settings),
        settings={
            "profile": profile.name, "rows": settings.source, "prompts": settings.prompts, "batch": settings.batch, "rounds": settings.rounds,
            "choice": "sampled" if settings.sampled else "greedy", "weights": weights, "seed": settings.seed,
            "read bandwidth GB/s": round(bandwidth / 1e9, 1),
        },
        machine=describe_machine(device),
        samples=samples,
    )  # fmt: skip


def decode_lines(arms: dict, samples: dict[str, list[float]], model: OmniModel, bandwidth: float) -> list[Line]:
    """The table: medians over rounds.  A step is one position of one row."""
    seconds = {name: statistics.median(taken) for name, taken in samples.items()}
    floors = {OURS: 1000 * weight_bytes(model, tail=True) / bandwidth, GROWING: 1000 * weight_bytes(model, tail=False) / bandwidth}
    return [
        Line("steps of a round", "", tuple(float(arm.steps) for arm in arms.values())),
        Line("one step", "ms", tuple(1000 * seconds[name] / arm.steps for name, arm in arms.items())),
        Line("steps a second", "", tuple(arm.steps / seconds[name] for name, arm in arms.items())),
        Line("work for a second of sound", "s", tuple(12.5 * seconds[name] / arm.steps for name, arm in arms.items())),
        Line("the memory's floor of a step (ours: with the upper layers left out)", "ms", tuple(floors.get(name) for name in arms)),
    ]


def decode_ratios(arms: dict, samples: dict[str, list[float]]) -> dict[str, float]:
    """Steps a second against the growing caches', and many at once against one at a time."""
    ratios = {}
    if GROWING in arms:
        ratios["steps a second, ours over growing caches"] = median_ratio(samples[GROWING], samples[OURS])
    if MANY in arms:
        more = arms[MANY].steps / arms[OURS].steps
        ratios["steps a second, many at once over one at a time"] = more * median_ratio(samples[OURS], samples[MANY])
    return ratios


def decode_checks(arms: dict, settings: DecodeBench) -> dict[str, bool]:
    """Whether both ways said the same; nothing where they were sampled or there is one way only."""
    if settings.sampled or GROWING not in arms:
        return {}
    pairs = list(zip(arms[OURS].found, arms[GROWING].answers, strict=True))
    return {
        "same text": all(text == answer.text_ids for (text, _), answer in pairs),
        "same codes": all(torch.equal(codes, answer.codes) for (_, codes), answer in pairs),
    }
