"""`mmo bench chain`: the whole way from prompt to sound, full-size codec included, as a player would hear it.

One long answer is streamed (`Generator.stream`): frames singly until one is heard, then a few at a time.  The moments at which pieces
of sound are ready are then played: the player begins with the first piece and plays each as soon as it is there.  Where a piece is not
there in time, it stands still: an underrun.

Where the profile's codec or weights are not on this machine, drawn ones of the same size take their place.  They say nothing, but take as
long.  The text is as long as speech of that length has; the stop is forbidden, so that the answer has the length asked for.
A drawn codec is scaled until it can be heard, or `SpeechStream` would wait for the first word for ever.

`--clock processor` plays by this process's processor time: with one thread (OMP_NUM_THREADS=1), what the clock would show if nothing else
were running.  With several threads it is more than that.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from mmo.bench.clock import synchronise
from mmo.bench.decode import bench_model, prompts_of, read_bandwidth
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import open_bench_rows
from mmo.bench.unstoppable import Unstoppable
from mmo.codec import Codec, build_mimi, codec_config, draw_codebooks
from mmo.config import Decoding, Draws
from mmo.generation import Prompt, Sound
from mmo.profiles import Profile
from mmo.streaming import earliest_start, waits
from mmo.twin import Precision, step_bytes

TOKENS_A_SECOND = 3.5  # of text: 2.6 words a second, as the bench's rows have, and some signs
PEAK = 0.3  # of full scale: how loud a drawn codec is made


@dataclass(frozen=True)
class ChainBench:
    """Settings of one measurement."""

    seconds: float = 30.0  # of speech
    largest: int = 4  # codec frames at once
    precisions: tuple[Precision, ...] = ("float32",)  # a column each
    compile: bool = False
    clock: Literal["wall", "processor"] = "wall"
    seed: int = 0

    @property
    def frames(self) -> int:
        return round(12.5 * self.seconds)


@dataclass(frozen=True)
class Playback:
    """One streamed answer: when each piece of sound was ready (seconds after the question), and how long it plays."""

    ready: list[float]
    lengths: list[float]
    codec: list[float]  # seconds of each of the codec's calls

    @property
    def work(self) -> list[float]:
        """Seconds of work for each frame behind the first piece: a piece's are shared by its frames."""
        found = []
        for before, at, length in zip(self.ready, self.ready[1:], self.lengths[1:], strict=False):
            count = round(12.5 * length)
            found += [(at - before) / count] * count
        return found


def bench_codec(profile: Profile, seed: int, device: torch.device) -> tuple[Codec, str]:
    """The profile's codec, or one of the real size with drawn weights; and which it is."""
    if profile.codec_file.is_file():
        return Codec.load(profile.codec_file, device, profile.model.num_codebooks), profile.codec_file.name
    torch.manual_seed(seed)
    mimi = draw_codebooks(build_mimi(codec_config()))
    mimi.set_num_codebooks(profile.model.num_codebooks)
    codec = Codec(mimi.requires_grad_(False).to(device))
    make_audible(codec)
    return codec, "drawn, of the real size"


@torch.no_grad()
def make_audible(codec: Codec, frames: int = 8) -> None:
    """Scale the last layer so that drawn codes come out with a peak of PEAK."""
    codes = torch.randint(codec.num_codes, (1, codec.num_codebooks, frames))
    last = [module for module in codec.model.decoder.modules() if isinstance(module, torch.nn.Conv1d)][-1]
    factor = PEAK / float(codec.decode(codes).abs().amax())
    for parameter in last.parameters():
        parameter.mul_(factor)


def play_through(generator: Unstoppable, prompt: Prompt, decoding: Decoding, settings: ChainBench) -> Playback:
    """Stream one answer, as fast as it comes."""
    now = time.perf_counter if settings.clock == "wall" else time.process_time
    mimi, spent, ready, lengths = generator.codec.model, [], [], []
    decode = mimi.decode

    def timed_decode(codes: torch.Tensor) -> torch.Tensor:
        synchronise(codes.device)
        before = now()
        sound = decode(codes)
        synchronise(codes.device)
        spent.append(now() - before)
        return sound

    mimi.decode = timed_decode
    try:
        started = now()
        for event in generator.stream([prompt], decoding, largest=settings.largest):
            if isinstance(event, Sound):
                ready.append(now() - started)
                lengths.append(len(event.samples) / generator.codec.sample_rate)
    finally:
        del mimi.decode  # the class's own again
    return Playback(ready, lengths, spent)


def bench_chain(profile: Profile, settings: ChainBench, device: torch.device | None = None) -> Report:
    """Measure; one answer for each precision after a short one that does not count."""
    device = device or profile.device()
    text = round(TOKENS_A_SECOND * settings.seconds)
    decoding = replace(profile.decoding, max_text=text, max_frames=settings.frames)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = open_bench_rows(profile, "synthetic", Path(folder), 1, settings.seed, draws=Draws.none())
        prompt = prompts_of(rows, 1)[0]
    model, weights = bench_model(profile, settings.seed, device)
    codec, which = bench_codec(profile, settings.seed, device)
    found, generators = {}, {}
    for precision in settings.precisions:
        generators[precision] = generator = Unstoppable(model, codec, precision=precision, compile=settings.compile)
        play_through(generator, prompt, replace(decoding, max_text=4, max_frames=12), settings)
        found[precision] = play_through(generator, prompt, decoding, settings)
    bandwidth = read_bandwidth(device)
    return Report(
        title=f"From prompt to sound, {profile.name}: {settings.seconds:g} s of speech, {text} tokens",
        columns=settings.precisions,
        lines=tuple(chain_lines(found, generators, bandwidth)),
        ratios={},
        checks={f"{precision}: no underrun": not any(waits(play.ready, play.lengths)) for precision, play in found.items()},
        settings={
            "profile": profile.name, "weights": weights, "codec": which, "codec frames at once": settings.largest, "clock": settings.clock,
            "seed": settings.seed,
            "compiled": ", ".join(name for name, each in generators.items() if each.graph and each.graph.on) or "no",
            "read bandwidth GB/s": round(bandwidth / 1e9, 1),
        },
        machine=describe_machine(device),
        samples={f"{precision}: piece ready": play.ready for precision, play in found.items()},
    )  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def chain_lines(found: dict[str, Playback], generators: dict[str, Unstoppable], bandwidth: float) -> list[Line]:
    """The table, a column for each precision."""
    plays = list(found.values())
    stopped = [waits(play.ready, play.lengths) for play in plays]
    twins = [generators[name].model for name in found]
    mimi = sum(parameter.numel() * parameter.element_size() for parameter in decoding_half(next(iter(generators.values())).codec))

    def line(name: str, unit: str, values) -> Line:
        return Line(name, unit, tuple(float(value) for value in values))

    return [
        line("speech", "s", (sum(play.lengths) for play in plays)),
        line("first sound after", "ms", (1000 * play.ready[0] for play in plays)),
        line("work a frame, p50", "ms", (1000 * percentile(play.work, 0.5) for play in plays)),
        line("work a frame, p95", "ms", (1000 * percentile(play.work, 0.95) for play in plays)),
        line("of it the codec, mean", "ms", (1000 * sum(play.codec) / (12.5 * sum(play.lengths)) for play in plays)),
        line("the codec's call, median", "ms", (1000 * statistics.median(play.codec) for play in plays)),
        line("work for a second of sound, all of it", "s", (play.ready[-1] / sum(play.lengths) for play in plays)),
        line("underruns", "", (sum(wait > 0 for wait in each) for each in stopped)),
        line("the player stood still", "ms", (1000 * sum(each) for each in stopped)),
        line("head start that spares it that", "ms", (1000 * (earliest_start(play.ready, play.lengths) - play.ready[0]) for play in plays)),
        line("weights read by a step on the tail", "MB", (step_bytes(twin, tail=True) / 1e6 for twin in twins)),
        line("the memory's floor of a step on the tail", "ms", (1000 * step_bytes(twin, tail=True) / bandwidth for twin in twins)),
        line("weights read by a call of the codec", "MB", (mimi / 1e6 for _ in twins)),
        line("the memory's floor of such a call", "ms", (1000 * mimi / bandwidth for _ in twins)),
    ]


def decoding_half(codec: Codec) -> list[torch.nn.Parameter]:
    """The codec's weights that a decoding reads (of the codebooks it reads a few rows only)."""
    model = codec.model
    parts = [model.decoder, model.decoder_transformer, model.upsample]
    return [parameter for part in parts if part is not None for parameter in part.parameters()]
