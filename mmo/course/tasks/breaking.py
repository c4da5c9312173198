"""Notebook 15: true codes in the place of the Talker's, who is to blame, pooled error rates, growth with the width, bits taken in, half precision, lags."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmo.course.clinic import lags
from mmo.course.exercises import Bug, Case, Exercise
from mmo.forcing import given_codes
from mmo.sampling import Chooser

STOP = 514  # the tiny world's


def codes(Q: int, F: int, seed: int = 0) -> Tensor:
    """(Q, F) codes that are all different."""
    return torch.randperm(512, generator=torch.Generator().manual_seed(seed))[: Q * F].view(Q, F)


# --- 15.given ----------------------------------------------------------------------------------------------------


def given_cases() -> Sequence[Case]:
    chosen = torch.tensor([600, 601, 602, 603])
    return [
        Case("4 codebooks, 5 frames, step 3, 2 of them given", (codes(4, 5), chosen, 3, 2, STOP)),
        Case("step 1, in which only codebook 0 has begun", (codes(4, 5), chosen, 1, 3, STOP)),
        Case("step 6, in which codebook 0 must stop", (codes(4, 5), chosen, 6, 4, STOP)),
        Case("step 8, in which codebook 0 has stopped long ago", (codes(4, 5), chosen, 8, 4, STOP)),
        Case("nothing given", (codes(4, 5), chosen, 3, 0, STOP)),
    ]


def given_in_one_column(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    """Forgets the delay: all codebooks at the same frame."""
    fed, frame = chosen.clone(), step - 1
    if 0 <= frame < codes.shape[1]:
        fed[:given] = codes[:given, frame]
    elif frame == codes.shape[1]:
        fed[:given] = stop
    return fed


def given_a_step_early(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    return given_codes(codes, chosen, step + 1, given, stop)


def given_without_stop(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    fed = given_codes(codes, chosen, step, given, stop)
    return torch.where(fed == stop, chosen, fed)


def given_one_more(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    return given_codes(codes, chosen, step, min(given + 1, len(codes)), stop)


def given_wrapping_round(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    """A negative frame is an index from the end."""
    fed, F = chosen.clone(), codes.shape[1]
    for k in range(given):
        frame = step - 1 - k
        if frame < F:
            fed[k] = codes[k, frame]
        elif frame == F:
            fed[k] = stop
    return fed


def given_the_last(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    fed = given_codes(codes, chosen, step, len(codes), stop)
    fed[: len(codes) - given] = chosen[: len(codes) - given]
    return fed


GIVEN = Exercise(
    id="15.given",
    title="True codes on the diagonal",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="The first entries are true codes of neighbouring frames, each one frame earlier than the one above it; the rest is what was chosen.",
    hints=(
        "Write down for step 3 which frame each of four codebooks is at. Speech begins one step behind the text.",
        "Codebook k is at frame step - 1 - k. It may not have begun (a negative frame), or be over.",
        "For each k below `given`: a frame of 0 to F - 1 takes codes[k, frame]; frame F takes the stop; else keep what was chosen.",
    ),
    reference=given_codes,
    package_name="mmo.forcing.given_codes",
    cases=given_cases,
    bugs=(
        Bug("All codebooks get codes of one frame. In one step they stand on a diagonal: codebook k is k frames behind codebook 0.", given_in_one_column),
        Bug("The codes come one step early: step 0 has no speech yet, so codebook 0 says frame 0 in step 1.", given_a_step_early),
        Bug("The stop is missing: behind its last frame a given codebook must say stop, or the speech runs on.", given_without_stop),
        Bug("One codebook too many is given: `given` counts them, so the last is number given - 1.", given_one_more),
        Bug("A codebook that has not begun gets a code from the end of the answer: Python takes a negative index from there.", given_wrapping_round),
        Bug("The last codebooks are given in place of the first.", given_the_last),
    ),
)


# --- 15.blame ----------------------------------------------------------------------------------------------------


def blame(rates: Tensor) -> Tensor:
    """`numpy.diff` of the rates (K,) from 0 on, over the last: (K,), sums to 1."""
    return torch.from_numpy(np.diff(rates.numpy(), prepend=0)) / rates[-1]


BLAME = Exercise(
    id="15.blame",
    title="Who is to blame?",
    difficulty=1,
    importance=3,
    minutes=5,
    looks="One share a joint; together they are 1, and a joint after which it was better has a negative one.",
    hints=(
        "Each rate is what is wrong after one more joint. What came in at a joint is the difference to the joint before it.",
        "The first difference is to 0: with nothing in front there are no errors.",
        "torch.diff(rates, prepend=rates.new_zeros(1)) / rates[-1].",
    ),
    reference=blame,
    package_name="numpy.diff",
    cases=lambda: [
        Case("judge, codec, Talker", (torch.tensor([0.12, 0.28, 0.40], dtype=torch.float64),)),
        Case("five joints", (torch.tensor([0.1, 0.25, 0.26, 0.35, 0.5], dtype=torch.float64),)),
        Case("better behind the second joint", (torch.tensor([0.2, 0.15, 0.4], dtype=torch.float64),)),
    ],
    bugs=(
        Bug("These are the rates as shares of their sum: what was wrong after the first joint is counted again at every later one. Take differences.",
            lambda rates: rates / rates.sum()),
        Bug("Each rate over the last: that is how much was there *by* a joint, not what it added.", lambda rates: rates / rates[-1]),
        Bug("The first joint is missing: its errors are the difference to 0.", lambda rates: rates.diff() / rates[-1]),
        Bug("A joint that made it better came out as 0. Its share is negative, or the shares would not be 1 together.", lambda rates: blame(rates).clamp(min=0)),
        Bug("Differences in percent of the joint before. To add up to 1, all must be shares of the last rate.",
            lambda rates: torch.cat((rates.new_ones(1), rates.diff() / rates[:-1]))),
    ),
)


# --- 15.pooled ---------------------------------------------------------------------------------------------------


def pooled(errors: Tensor, words: Tensor, groups: Tensor, number: int) -> Tensor:
    """errors, words, groups (N,) -> (number,): errors per word of each group, NaN where a group has no words.

    What `mmo.measures.WordErrors.wer` is for the sentences of one group.
    """
    wrong = torch.zeros(number).index_add_(0, groups, errors.float())
    said = torch.zeros(number).index_add_(0, groups, words.float())
    return torch.where(said > 0, wrong / said, torch.nan)


def pooled_mean_of_rates(errors: Tensor, words: Tensor, groups: Tensor, number: int) -> Tensor:
    rates = errors.float() / words
    return torch.stack([rates[groups == g].mean() for g in range(number)])


def pooled_per_sentence(errors: Tensor, words: Tensor, groups: Tensor, number: int) -> Tensor:
    return torch.stack([errors[groups == g].float().mean() for g in range(number)])


def pooled_over_all(errors: Tensor, words: Tensor, groups: Tensor, number: int) -> Tensor:
    return torch.stack([errors[groups == g].sum() / words.sum() for g in range(number)])


def pooled_with_zero(errors: Tensor, words: Tensor, groups: Tensor, number: int) -> Tensor:
    return torch.nan_to_num(pooled(errors, words, groups, number), 0.0)


POOLED = Exercise(
    id="15.pooled",
    title="Errors per word, by group",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="One rate a group: all its errors over all its words.",
    hints=(
        "A sentence of two words with one error, and one of ten with one: how many errors per word are that together?",
        "Add up the errors of a group and its words, then divide once.",
        "errors[groups == g].sum() / words[groups == g].sum(); dividing float zeros gives NaN, which is what an empty group should show.",
    ),
    reference=pooled,
    package_name="mmo.measures.WordErrors.wer",
    cases=lambda: [
        Case("two sentences of 2 and 10 words in one group", (torch.tensor([1, 1]), torch.tensor([2, 10]), torch.tensor([0, 0]), 1)),
        Case("three groups", (torch.tensor([0, 2, 3, 1, 4]), torch.tensor([3, 4, 9, 5, 8]), torch.tensor([0, 0, 2, 1, 2]), 3)),
        Case("a group without sentences", (torch.tensor([1, 0]), torch.tensor([4, 4]), torch.tensor([0, 2]), 3)),
    ],
    bugs=(
        Bug("That is the mean of the sentences' rates: a two-word sentence counts as much as one of ten. Divide sums, once.", pooled_mean_of_rates),
        Bug("That is errors per sentence. Long sentences have more words to get wrong: divide by words.", pooled_per_sentence),
        Bug("You divide by the words of all groups. Each group has its own.", pooled_over_all),
        Bug("An empty group shows 0, as if it had been heard without a mistake. It must be NaN: nothing was measured.", pooled_with_zero),
    ),
)


# --- 15.exponent -------------------------------------------------------------------------------------------------


def exponent(widths: Tensor, weights: Tensor) -> float:
    """The slope of `numpy.polyfit` through the logarithms: widths, weights (N,)."""
    return float(np.polyfit(np.log(widths.double().numpy()), np.log(weights.double().numpy()), 1)[0])


EXPONENT = Exercise(
    id="15.exponent",
    title="How weights grow with the width",
    difficulty=2,
    importance=2,
    minutes=6,
    looks="2 where each doubling of the width gives four times the weights, 1 where it gives twice as many.",
    hints=(
        "If weights = c · width^e, what is the logarithm of both sides?",
        "A straight line, log weights = log c + e · log width; its slope is the exponent. With more than two points: the line of least squares.",
        "x, y = widths.double().log(), weights.double().log(), both less their means; the slope is (x @ y) / (x @ x).",
    ),
    reference=exponent,
    package_name="numpy.polyfit on the logarithms",
    tolerance=1e-4,
    cases=lambda: [
        Case("squares", (torch.tensor([32, 64, 128]), torch.tensor([1000, 4000, 16000]))),
        Case("between 1 and 2", (torch.tensor([48, 96, 192]), torch.tensor([200_000, 560_000, 1_700_000]))),
        Case("unevenly spaced", (torch.tensor([16, 64, 512]), torch.tensor([900, 5000, 130_000]))),
    ],
    bugs=(
        Bug("That is the slope without logarithms, weights a unit of width. A power is a straight line only in logarithms of both.",
            lambda widths, weights: float(np.polyfit(widths.double().numpy(), weights.double().numpy(), 1)[0])),
        Bug("Width and weights have changed places: that is how width grows with the weights.", lambda widths, weights: exponent(weights, widths)),
        Bug("Only the first and the last point count in yours. The line of least squares goes by all of them.",
            lambda widths, weights: math.log(weights[-1] / weights[0]) / math.log(widths[-1] / widths[0])),
        Bug("The means are not taken off: that is a line through the origin, as if a width of 1 had one weight.",
            lambda widths, weights: float((widths.double().log() @ weights.double().log()) / (widths.double().log() @ widths.double().log()))),
    ),
)


# --- 15.bits -----------------------------------------------------------------------------------------------------


def bits(losses: Tensor, counts: Tensor, entries: int) -> float:
    """losses (Q,) in nats for a label, counts (Q,) labels -> bits saved against an even guess: cross-entropies from base e to base 2."""
    return float((counts * (math.log2(entries) - losses.double() / math.log(2))).sum())


def bits_cases() -> Sequence[Case]:
    return [
        Case("three codebooks, one hardly learnt", (torch.tensor([0.5, 3.0, 5.9]), torch.tensor([120, 120, 118]), 576)),
        Case("nothing learnt", (torch.full((4,), math.log(64.0), dtype=torch.float64), torch.tensor([30, 30, 30, 30]), 64)),
        Case("one codebook worse than an even guess", (torch.tensor([1.0, 4.5]), torch.tensor([40, 10]), 32)),
        Case("codebooks with very different numbers of labels", (torch.tensor([0.2, 2.4]), torch.tensor([300, 20]), 128)),
    ]


BITS = Exercise(
    id="15.bits",
    title="How much it has taken in",
    difficulty=2,
    importance=2,
    minutes=8,
    looks="One number: 0 for a loss of ln A in every codebook; log2 A for each label where all is known by heart, that is, where the loss is 0.",
    hints=(
        "With a loss of 0 nothing needs to be written down, with a loss of ln A each label costs as much as without a model. What does a label cost between the two, in bits?",
        "A nat is 1 / ln 2 = 1.44 bits: a label of loss l costs l / ln 2 bits. Without a model it costs log2 A.",
        "Add up counts * (math.log2(entries) - losses / math.log(2)) over the codebooks, and give a float.",
    ),
    reference=bits,
    package_name="torch.nn.functional.cross_entropy (in bits, against an even guess)",
    cases=bits_cases,
    bugs=(
        Bug("That is what is saved in nats. Divide by ln 2: a bit is a choice between two.",
            lambda losses, counts, entries: bits(losses, counts, entries) * math.log(2)),
        Bug("The even guess is in bits, the loss still in nats: two units in one difference. Divide the loss by ln 2.",
            lambda losses, counts, entries: float((counts * (math.log2(entries) - losses.double())).sum())),
        Bug("Here it is the even guess that is in nats, and the loss in bits. An even guess among A costs log2 A bits.",
            lambda losses, counts, entries: float((counts * (math.log(entries) - losses.double() / math.log(2))).sum())),
        Bug("That is what the codes still cost with the model. What it has taken in is what they cost less than without one, log2 A for each label.",
            lambda losses, counts, entries: float((counts * losses.double() / math.log(2)).sum())),
        Bug("That is for one label of each codebook. Each codebook saves that much at each of its labels: times counts.",
            lambda losses, counts, entries: bits(losses, torch.ones_like(counts), entries)),
        Bug("The mean of the losses with all labels counts each codebook alike. They have different numbers of labels: add up codebook by codebook.",
            lambda losses, counts, entries: bits(losses.mean()[None], counts.sum()[None], entries)),
        Bug("A codebook that is worse than an even guess counts as 0. It costs more bits than it saves, and they must be taken off.",
            lambda losses, counts, entries: bits(losses.clamp(max=math.log(entries)), counts, entries)),
    ),
)


# --- 15.choose ---------------------------------------------------------------------------------------------------


def choose(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """logits (B, V), uniform (B,) -> ids (B,): `mmo.sampling.Chooser` with one temperature and no top-k."""
    chooser = Chooser([temperature], [0], logits.shape[-1])
    return chooser(logits[:, None], uniform[:, None])[:, 0]


def choose_cases() -> Sequence[Case]:
    def drawn(V: int, seed: int) -> Tensor:
        """Logits without two equal ones, shuffled."""
        return torch.linspace(-1, 1, V)[torch.randperm(V, generator=torch.Generator().manual_seed(seed))].half()

    uniform = torch.tensor([0.05, 0.4, 0.77, 0.985])
    few = torch.stack([3 * drawn(6, seed) for seed in range(4)])
    large = torch.tensor([[19.0, 20.0, 2.0, 18.9]]).half().expand(4, -1).contiguous()
    near = (20 - torch.arange(12) / 64 * torch.tensor([1, 3, 2] * 4)).half().expand(99, -1).contiguous()
    many = torch.stack([drawn(1500, seed) for seed in range(24)])
    return [
        Case("six logits", (few, uniform, 1.0)),
        Case("six logits at temperature 0.5", (few, uniform, 0.5)),
        Case("logits of 20 at temperature 0.2", (large, torch.tensor([0.3, 0.9, 0.9945, 0.9999]), 0.2)),
        Case("1500 logits in half precision", (many, torch.linspace(0.021, 0.987, 24), 1.0)),
        Case("logits near 20 at temperature 0.05", (near, torch.linspace(0.0101, 0.9899, 99), 0.05)),
    ]


def choose_in_half(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Softmax and sum in the type of the logits."""
    shares, ids = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    place = (shares.cumsum(dim=-1) < uniform[:, None]).sum(dim=-1, keepdim=True)
    return ids.gather(-1, place.clamp(max=logits.shape[-1] - 1))[:, 0]


def choose_divided_in_half(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Goes to float32 behind the division."""
    return choose((logits / temperature).float(), uniform, 1.0)


def choose_by(logits: Tensor, uniform: Tensor, temperature: float, stable: bool = True, sort: bool = True, after: bool = False, times: bool = False) -> Tensor:
    """The choice written out, with what may go wrong as settings."""
    values, ids = logits.sort(dim=-1, descending=True) if sort else (logits, torch.arange(logits.shape[-1]).expand(logits.shape))
    values = values.float()
    if not after:
        values = values * temperature if times else values / temperature
    if stable:
        values = values - values.amax(dim=-1, keepdim=True)
    shares = values.exp()
    shares = shares / shares.sum(dim=-1, keepdim=True)
    if after:
        shares = shares / temperature
    heap = shares.cumsum(dim=-1)
    place = (heap < uniform[:, None]).sum(dim=-1, keepdim=True)
    return ids.gather(-1, place.clamp(max=logits.shape[-1] - 1))[:, 0]


CHOOSE = Exercise(
    id="15.choose",
    title="A choice that half precision cannot spoil",
    difficulty=2,
    importance=3,
    minutes=12,
    looks="One id a row: the first, counted from the likeliest down, at which the summed probabilities reach the uniform number.",
    hints=(
        "Which of the numbers on the way can be larger than 65504, or so small beside a sum that adding them changes nothing? In which kind of number must they be?",
        "First .float(), then sort from the largest down, divide by the temperature, and let softmax do what keeps exp from overflowing.",
        "heap = softmax(...).cumsum(-1); the place is how many entries of the heap are below uniform[:, None]; ids.gather gives the id that stands there.",
    ),
    reference=choose,
    package_name="mmo.sampling.Chooser",
    cases=choose_cases,
    bugs=(
        Bug("exp is taken of the bare logits. At temperature 0.2 a logit of 20 becomes 100, and exp(100) is infinite even in float32; infinity over infinity is NaN. Subtract the largest first, as softmax does.",
            lambda logits, uniform, temperature: choose_by(logits, uniform, temperature, stable=False)),
        Bug("The probabilities are summed in half precision: behind a sum of one half, each further share below a quarter of a thousandth is rounded away. Go to float32 before the softmax.",
            choose_in_half),
        Bug("The logits are divided by the temperature while they are still in half precision: at 20 / 0.05 its steps are a quarter, and a small temperature takes it beyond 65504. First .float(), then divide.",
            choose_divided_in_half),
        Bug("The logits are multiplied by the temperature. Divided by it: a low temperature must sharpen.",
            lambda logits, uniform, temperature: choose_by(logits, uniform, temperature, times=True)),
        Bug("The probabilities are divided by the temperature, not the logits: behind the softmax it no longer sharpens.",
            lambda logits, uniform, temperature: choose_by(logits, uniform, temperature, after=True)),
        Bug("The heap is in the order of the ids. Sort from the likeliest down first, as the package does (it cuts to top-k there).",
            lambda logits, uniform, temperature: choose_by(logits, uniform, temperature, sort=False)),
        Bug("That is always the likeliest: the uniform number is not used.", lambda logits, uniform, temperature: logits.argmax(dim=-1)),
    ),
)


# --- 15.fate -----------------------------------------------------------------------------------------------------


def fate(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """values (N,) -> (2,) shares of those that are not 0: stored as 0, stored as infinite, by what `torch.Tensor.to` makes of scale · value."""
    real = values[values != 0]
    stored = (real * scale).to(kind)
    return torch.stack(((stored == 0).float().mean(), stored.isinf().float().mean()))


def fate_cases() -> Sequence[Case]:
    small = torch.logspace(-12, -2, 41) * torch.tensor([1.0, -1.0]).repeat(21)[:41]
    edges = torch.tensor([65504.0, 65510.0, -65510.0, 65530.0, -70000.0, -1e30, 0.0, 0.0, 6e-5, 3e-8, -2e-8, 1.0])
    return [
        Case("gradients between 1e-12 and 0.01, as they are", (small, 1.0, torch.float16)),
        Case("the same, a thousand times as large", (small, 1024.0, torch.float16)),
        Case("the same, far too large", (small, 2.0**25, torch.float16)),
        Case("numbers at the edges, and two true zeros", (edges, 1.0, torch.float16)),
        Case("numbers at the edges in bfloat16", (edges, 1.0, torch.bfloat16)),
    ]


def fate_below_normal(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """Everything below the smallest normal number is lost."""
    real = values[values != 0] * scale
    return torch.stack(((real.abs() < torch.finfo(kind).tiny).float().mean(), real.to(kind).isinf().float().mean()))


def fate_scaled_behind(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    real = values[values != 0]
    stored = real.to(kind) * scale
    return torch.stack(((stored == 0).float().mean(), stored.isinf().float().mean()))


def fate_with_zeros(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    stored = (values * scale).to(kind)
    return torch.stack(((stored == 0).float().mean(), stored.isinf().float().mean()))


def fate_of_all(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """True zeros are no loss, but count among the values."""
    stored = (values * scale).to(kind)
    return torch.stack((((stored == 0) & (values != 0)).float().mean(), stored.isinf().float().mean()))


def fate_above_only(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    stored = (values[values != 0] * scale).to(kind)
    return torch.stack(((stored == 0).float().mean(), (stored == torch.inf).float().mean()))


def fate_by_largest(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """Whatever is above the largest number overflows."""
    real = values[values != 0] * scale
    return torch.stack(((real.to(kind) == 0).float().mean(), (real.abs() > torch.finfo(kind).max).float().mean()))


FATE = Exercise(
    id="15.fate",
    title="What sinks and what overflows",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="Two shares: the first falls as the scale grows, the second rises; in bfloat16 gradients like these give 0 and 0.",
    hints=(
        "Do not compute by hand where float16 ends. Store the numbers in it and look what has become of them: values.to(kind).",
        "First leave out what was 0 from the start: values[values != 0]. Then multiply, then store. In this order: what has been stored as 0 stays 0.",
        "stored = (real * scale).to(kind); the shares are (stored == 0).float().mean() and stored.isinf().float().mean(); torch.stack makes one tensor of both.",
    ),
    reference=fate,
    package_name="torch.Tensor.to",
    cases=fate_cases,
    bugs=(
        Bug("You take for lost all that is below the smallest normal number, finfo.tiny. Below it float16 has subnormal numbers, with fewer and fewer digits, down to 6e-8: only what is rounded to 0 is lost.", fate_below_normal),
        Bug("The scale comes behind the storing. What has been rounded to 0 stays 0, however large the scale: multiply first.", fate_scaled_behind),
        Bug("What was 0 before has not sunk. Leave true zeros out.", fate_with_zeros),
        Bug("True zeros do not count as sunk in yours, and still count among the values. The shares are of those that are not 0.", fate_of_all),
        Bug("Large negative numbers become infinite, too: minus infinity. isinf finds both.", fate_above_only),
        Bug("Not all that is above the largest number becomes infinite: from 65504 up to 65520 it is rounded to 65504. Let the conversion decide.", fate_by_largest),
        Bug("The scale is not used.", lambda values, scale, kind: fate(values, 1.0, kind)),
        Bug("You divide by the scale. The loss is multiplied by it, and so is every gradient; one divides by it afterwards, in float32.",
            lambda values, scale, kind: fate(values, 1 / scale, kind)),
    ),
)


# --- 15.lags -----------------------------------------------------------------------------------------------------


def late(wanted: Tensor, by: Sequence[int]) -> Tensor:
    """Row k of wanted (Q, F) late by by[k] frames; what comes in from outside is no code."""
    Q, F = wanted.shape
    found = torch.full_like(wanted, -1)
    for k, lag in enumerate(by):
        if lag >= 0:
            found[k, lag:] = wanted[k, : F - lag]
        else:
            found[k, :lag] = wanted[k, -lag:]
    return found


def lags_cases() -> Sequence[Case]:
    wanted = codes(4, 9)
    shorter = late(codes(3, 9, 1), (1, 1, 2))[:, :7]
    turns = (torch.arange(8) % 2 + torch.tensor([[4], [10]]))  # 4 5 4 5 …, and 10 11 10 11 …
    return [
        Case("codebook 0 in time, the others one frame late", (wanted, late(wanted, (0, 1, 1, 1)), 3)),
        Case("a staircase, one codebook early", (wanted, late(wanted, (-1, 0, 2, 3)), 3)),
        Case("a shorter run", (codes(3, 9, 1), shorter, 3)),
        Case("nothing late", (wanted, wanted.clone(), 2)),
        Case("nothing that agrees at any lag, so that all lags are equally good", (wanted, torch.full_like(wanted, -1), 3)),
        Case("one code comes late, two more beyond the end of a sound that goes round", (wanted[:1, :6], torch.tensor([[-1, int(wanted[0, 0]), -1, -1, *wanted[0, :2].tolist()]]), 3)),
        Case("two codes in turn, so that early and late agree alike", (turns, turns + 1 - 2 * (turns % 2), 2)),
    ]


def lags_only_late(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    length = min(wanted.shape[1], found.shape[1])
    best = []
    for k in range(len(wanted)):
        agree = [int((wanted[k, : length - lag] == found[k, lag:length]).sum()) for lag in range(most + 1)]
        best.append(agree.index(max(agree)))
    return best


def lags_of_all(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    """One lag for all codebooks."""
    whole = lags(wanted.flatten()[None], found[:, : wanted.shape[1]].flatten()[None], most) if wanted.shape == found.shape else lags(wanted[:1], found[:1], most)
    return whole * len(wanted)


def lags_turned_round(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    return lags(found, wanted, most)


def lags_rolled(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    """The end of the sound is compared with its beginning."""
    length = min(wanted.shape[1], found.shape[1])
    wanted, found = wanted[:, :length], found[:, :length]
    order = sorted(range(-most, most + 1), key=lambda lag: (abs(lag), -lag))
    return [max(order, key=lambda lag: int((wanted[k] == found[k].roll(-lag)).sum())) for k in range(len(wanted))]


def lags_by(order: Callable[[int], tuple]) -> Callable:
    """The same with another choice among equals: the first in the order given."""

    def wrong(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
        length = min(wanted.shape[1], found.shape[1])

        def agreement(k: int, lag: int) -> int:
            return sum(int(wanted[k, f] == found[k, f + lag]) for f in range(length) if 0 <= f + lag < length)

        return [max(sorted(range(-most, most + 1), key=order), key=lambda lag: agreement(k, lag)) for k in range(len(wanted))]

    return wrong


def lags_against_codebook_0(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    """The right lags, each less codebook 0's."""
    own = lags(wanted, found, most)
    return [lag - own[0] for lag in own]


LAGS = Exercise(
    id="15.lags",
    title="How late is each codebook?",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="A list of Q whole numbers; a healthy run gives zeros, a delay that is off by one gives one 0 and seven 1.",
    hints=(
        "Take one codebook and one lag: which pairs of positions do you compare, and how many of them exist?",
        "At lag d, found[k, f + d] should be wanted[k, f]. Count the equal ones for every d from -most to most, over all f for which both exist.",
        "For d >= 0: (wanted[k, : n - d] == found[k, d : n]).sum(), with n the shorter length; for d < 0 the other way round. Then the d with the largest count.",
    ),
    reference=lags,
    package_name="mmo.course.clinic.lags",
    cases=lags_cases,
    bugs=(
        Bug("You look for codebooks that are late only. One may be early, too: try negative lags.", lags_only_late),
        Bug("The sign is turned round: late is positive, found[k, f + d] equals wanted[k, f].", lags_turned_round),
        Bug("These are lags against codebook 0. Each codebook against its own wanted row: codebook 0 may be late itself.", lags_against_codebook_0),
        Bug("Of lags that agree equally well you take the first that you try. Take the one nearest to 0: what agrees with nothing is not early.", lags_by(lambda lag: (lag,))),
        Bug("Of d and -d, where both agree equally well, you take the negative. Take the positive.", lags_by(lambda lag: (abs(lag), lag))),
        Bug("roll brings the end of the sound to its beginning: compare only positions that both exist.", lags_rolled),
        Bug("One lag for all codebooks: but the delays that break are those of codebooks against each other.", lags_of_all),
    ),
)

EXERCISES = (GIVEN, BLAME, POOLED, EXPONENT, BITS, CHOOSE, FATE, LAGS)
