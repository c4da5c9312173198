"""`mmo bench precision`: what weights in bfloat16 or int8 cost in words.

The same test sentences are answered with the same seeds in each precision; an independent judge (judge.py) listens to all of them.  An answer
whose codes part from float32's once stays apart, for it goes on from what it said: so the share of equal codes tells how soon that happens,
the judge's error how much is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmo import measures
from mmo.bench.decode import bench_model
from mmo.bench.report import Line, Report, describe_machine
from mmo.examination import SIZES, Ear, Exam, Item, of_tier, spread_voices
from mmo.generation import Answer, Generator
from mmo.profiles import Profile
from mmo.twin import PRECISIONS, Precision, step_bytes


@dataclass(frozen=True)
class PrecisionBench:
    """Settings of one measurement."""

    answers: int = 60
    precisions: tuple[Precision, ...] = ()  # none named: all that the device has
    workers: int = 1  # of the judge
    seed: int = 0


def bench_precision(profile: Profile, settings: PrecisionBench, device: torch.device | None = None, **others) -> Report:
    """Measure.  `others`: see `Exam`."""
    device = device or profile.device()
    precisions = settings.precisions or tuple(each for each in PRECISIONS if device.type == "cpu" or each != "int8")  # int8 is for CPUs
    exam = Exam(profile, SIZES["full"], settings.seed, **others)
    items = of_tier(exam.said, "sentence")
    items = spread_voices(items, -(-settings.answers // max(1, len({item.voice for item in items}))))[: settings.answers]
    prompts = exam.text_prompts(items)
    model, weights = bench_model(profile, settings.seed, device)
    ear, answers, read = Ear(), {}, {}
    for precision in precisions:
        generator = Generator(model, exam.codec, exam.tokenizer, exam.decoding, precision=precision)
        answers[precision] = generator.generate_batch(prompts)
        read[precision] = step_bytes(generator.model)
        ear.add(precision, [answer.samples for answer in answers[precision]])
    ear.listen(exam.judge, settings.workers)
    return Report(
        title=f"What the weights' precision costs, {profile.name} (width {profile.model.hidden_size})",
        columns=precisions,
        lines=tuple(precision_lines(items, answers, ear, read, settings, exam.split)),
        ratios={},
        checks={},
        settings={"profile": profile.name, "weights": weights, "answers": len(items), "seed": settings.seed},
        machine=describe_machine(device),
        samples={},
        notes=(f"compared with {precisions[0]}; every answer read from its own text by the judge",),
    )


def precision_lines(
    items: Sequence[Item], answers: dict[str, list[Answer]], ear: Ear, read: dict[str, int], settings: PrecisionBench, split: measures.Split
) -> list[Line]:
    """The table, a column for each precision.  split: a text's words, as the judge counts them."""
    first = next(iter(answers.values()))
    errors = {name: measures.word_errors([answer.text for answer in found], ear[name], split) for name, found in answers.items()}
    intervals = {name: error.interval(settings.seed, [item.truth for item in items]) or (None, None) for name, error in errors.items()}

    def percent(name: str, values) -> Line:
        return Line(name, "%", tuple(None if value is None else 100 * value for value in values))

    def share(test) -> list[float | None]:
        return [measures.share([test(*each) for each in zip(found, first, items, strict=True)]) for found in answers.values()]

    return [
        Line("weights read by a step while text is written", "MB", tuple(read[name] / 1e6 for name in answers)),
        percent("text is the true answer", share(lambda answer, _, item: measures.same_words(answer.text, item.truth))),
        percent("same text as the first column's", share(lambda answer, other, _: answer.text_ids == other.text_ids)),
        percent("same codes from beginning to end", share(lambda answer, other, _: torch.equal(answer.codes, other.codes))),
        percent("words heard wrongly (WER)", (error.wer for error in errors.values())),
        percent("the same, lower end of its interval", (intervals[name][0] for name in answers)),
        percent("the same, upper end", (intervals[name][1] for name in answers)),
        percent("cut, text or speech", share(lambda answer, *_: answer.runaway)),
    ]
