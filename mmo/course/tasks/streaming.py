"""Notebook 09: convolutions with state, the sampling step, frames as they become whole, the end of the speech."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import codebooks, compare_curves, compare_grids
from mmo.generation import end_speech
from mmo.sampling import Chooser
from mmo.streaming import Straightener

PAD, STOP = 513, 514  # the tiny world's
SIGNS = {PAD: "", STOP: "stop"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 09.conv -----------------------------------------------------------------------------------------------------


def conv_step(x: Tensor, previous: Tensor, weight: Tensor, bias: Tensor, stride: int, dilation: int) -> tuple[Tensor, Tensor]:
    """One piece through moshi's StreamingConv1d; a test holds it against that class.

    x (B, C, T), previous (B, C, P) with P = (K - 1) dilation + 1 - stride, weight (D, C, K) -> y (B, D, T / stride), the next previous.
    """
    joined = torch.cat((previous, x), dim=-1)
    return F.conv1d(joined, weight, bias, stride, dilation=dilation), joined[..., joined.shape[-1] - previous.shape[-1] :]


def conv_case(name: str, channels: int, kernel: int, length: int, stride: int = 1, dilation: int = 1, seed: int = 0) -> Case:
    kept = (kernel - 1) * dilation + 1 - stride
    parts = [(2, channels, length), (2, channels, kept), (3, channels, kernel), (3,)]
    x, previous, weight, bias = (drawn(*shape, seed=10 * seed + place) for place, shape in enumerate(parts))
    return Case(name, (x, previous, weight, bias, stride, dilation))


def conv_cases() -> Sequence[Case]:
    return [
        conv_case("kernel 3, a piece of 6", 2, 3, 6),
        conv_case("kernel 8, stride 4, a piece of 8", 2, 8, 8, stride=4, seed=1),
        conv_case("kernel 3, dilation 2, a piece of 5", 2, 3, 5, dilation=2, seed=2),
        conv_case("kernel 7, a piece of 2, shorter than what is kept", 1, 7, 2, seed=3),
        conv_case("kernel 1, where nothing is kept", 2, 1, 4, seed=4),
    ]


def conv_forgets(x, previous, weight, bias, stride, dilation):
    """Zeros in front, as at the start of a sound."""
    return conv_step(x, torch.zeros_like(previous), weight, bias, stride, dilation)


def conv_never_moves_on(x, previous, weight, bias, stride, dilation):
    return conv_step(x, previous, weight, bias, stride, dilation)[0], previous


def conv_keeps_of_the_piece(x, previous, weight, bias, stride, dilation):
    return conv_step(x, previous, weight, bias, stride, dilation)[0], x[..., max(0, x.shape[-1] - previous.shape[-1]) :]


def conv_keeps_all_of_it(x, previous, weight, bias, stride, dilation):
    """joined[..., -0:]."""
    joined = torch.cat((previous, x), dim=-1)
    return F.conv1d(joined, weight, bias, stride, dilation=dilation), joined[..., -previous.shape[-1] :]


def conv_looks_ahead(x, previous, weight, bias, stride, dilation):
    joined = torch.cat((x, previous), dim=-1)
    return F.conv1d(joined, weight, bias, stride, dilation=dilation), x[..., max(0, x.shape[-1] - previous.shape[-1]) :]


def conv_centred(x, previous, weight, bias, stride, dilation):
    """Half of the zeros on either side: not causal."""
    P = previous.shape[-1]
    padded = F.pad(x, (P // 2, P - P // 2))
    return F.conv1d(padded, weight, bias, stride, dilation=dilation), conv_step(x, previous, weight, bias, stride, dilation)[1]


CONV = Exercise(
    id="09.conv",
    title="A causal convolution with state",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="Pieces joined are the whole; what is kept is the end of what has been read so far, always of the same length.",
    hints=(
        "The first output of this piece needs inputs that came with earlier pieces. They are in `previous`: put them in front.",
        "torch.cat((previous, x), dim=-1), then F.conv1d without any padding.",
        "Keep the last P = previous.shape[-1] values of what you joined. A piece may be shorter than P, and P may be 0, where [-0:] is everything.",
    ),
    reference=conv_step,
    package_name="moshi's StreamingConv1d",
    cases=conv_cases,
    bugs=(
        Bug("`previous` is not used: every piece is computed as if silence had come before it. That is the click you hear.", conv_forgets),
        Bug("The state is handed back as it came, so the next piece would be joined to old inputs. Keep the end of what was read just now.", conv_never_moves_on),
        Bug("The state is cut from this piece alone, but here the piece is shorter than what must be kept: cut it from previous and x together.", conv_keeps_of_the_piece),
        Bug("With kernel 1 nothing is to be kept, but [-0:] means everything. Count from the front: joined.shape[-1] - P.", conv_keeps_all_of_it),
        Bug("`previous` was put behind x: the convolution takes the past for the future.", conv_looks_ahead),
        Bug("Half of the padding is on the right: the output waits for inputs that have not come yet. A causal convolution only looks back.", conv_centred),
    ),
    picture=lambda wanted, theirs: compare_curves(wanted[0][0, 0], theirs[0][0, 0], "step", "first channel"),
)


# --- 09.overlap --------------------------------------------------------------------------------------------------


def overlap_add(x: Tensor, partial: Tensor, weight: Tensor, bias: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """One piece through moshi's StreamingConvTranspose1d; a test holds it against that class.

    x (B, C, T), partial (B, D, K - stride), weight (C, D, K) -> y (B, D, T stride), the next partial.
    """
    spread = F.conv_transpose1d(x, weight, stride=stride)  # (B, D, (T - 1) stride + K)
    started = F.pad(partial, (0, spread.shape[-1] - partial.shape[-1]))
    summed = spread + started
    ready = x.shape[-1] * stride
    return summed[..., :ready] + bias[:, None], summed[..., ready:]


def overlap_case(name: str, kernel: int, stride: int, length: int, seed: int = 0) -> Case:
    parts = [(2, 3, length), (2, 2, kernel - stride), (3, 2, kernel), (2,)]
    x, partial, weight, bias = (drawn(*shape, seed=10 * seed + place) for place, shape in enumerate(parts))
    return Case(name, (x, partial, weight, bias, stride))


def overlap_cases() -> Sequence[Case]:
    return [
        overlap_case("kernel 4, stride 2, a piece of 3", 4, 2, 3),
        overlap_case("kernel 16, stride 8, a piece of 2", 16, 8, 2, seed=1),
        overlap_case("kernel 5, stride 2, a piece of 1: what is left over reaches past the piece", 5, 2, 1, seed=2),
        overlap_case("kernel 2, stride 2: nothing overlaps", 2, 2, 3, seed=3),
    ]


def overlap_cuts(x, partial, weight, bias, stride):
    """What a stateless decoder does."""
    y, _ = overlap_add(x, torch.zeros_like(partial), weight, bias, stride)
    return y, torch.zeros_like(partial)


def overlap_keeps_but_forgets_to_add(x, partial, weight, bias, stride):
    return overlap_add(x, torch.zeros_like(partial), weight, bias, stride)


def overlap_bias_twice(x, partial, weight, bias, stride):
    y, tail = overlap_add(x, partial, weight, bias, stride)
    return y, tail + bias[:, None]


def overlap_no_bias(x, partial, weight, bias, stride):
    return overlap_add(x, partial, weight, torch.zeros_like(bias), stride)


def overlap_at_the_end(x, partial, weight, bias, stride):
    y, tail = overlap_add(x, torch.zeros_like(partial), weight, bias, stride)
    summed = torch.cat((y, tail), dim=-1)
    P = partial.shape[-1]
    summed = torch.cat((summed[..., : summed.shape[-1] - P], summed[..., summed.shape[-1] - P :] + partial), dim=-1)
    return summed[..., : y.shape[-1]], summed[..., y.shape[-1] :]


def overlap_tail_too_early(x, partial, weight, bias, stride):
    y, _ = overlap_add(x, partial, weight, bias, stride)
    return y, overlap_add(x, torch.zeros_like(partial), weight, bias, stride)[1]


def overlap_hands_out_all(x, partial, weight, bias, stride):
    y, tail = overlap_add(x, partial, weight, bias, stride)
    return torch.cat((y, tail + bias[:, None]), dim=-1), tail


OVERLAP = Exercise(
    id="09.overlap",
    title="A transposed convolution with state",
    difficulty=2,
    importance=3,
    minutes=12,
    looks="T inputs give exactly T times stride outputs; K - stride sums that later inputs will still add to are kept.",
    hints=(
        "One input is spread over K outputs, and the next input's spread begins stride further. Draw two of them for K = 4, stride = 2: which outputs are finished?",
        "F.conv_transpose1d(x, weight, stride=stride), without bias, is (T - 1) stride + K long. Its first K - stride places still miss `partial`.",
        "Add partial at the front. The first T * stride places are finished: hand them out, plus bias[:, None]. The rest is the next partial, without bias.",
    ),
    reference=overlap_add,
    package_name="moshi's StreamingConvTranspose1d",
    cases=overlap_cases,
    bugs=(
        Bug("What sticks out at the end is thrown away and `partial` is not added. At every seam half of the sum is missing.", overlap_cuts),
        Bug("You keep what sticks out but never add what the piece before has left: `partial` belongs onto the first K - stride outputs.", overlap_keeps_but_forgets_to_add),
        Bug("The bias is in the kept part too. The next piece brings its own, so each seam would have it twice: keep the sums without bias.", overlap_bias_twice),
        Bug("The bias is missing.", overlap_no_bias),
        Bug("`partial` was added at the end. It is what earlier inputs have begun, so it belongs to the first outputs of this piece.", overlap_at_the_end),
        Bug("The new partial was cut off before the old one was added. Where the old one reaches past this piece, its rest is lost: add first, then cut.", overlap_tail_too_early),
        Bug("Outputs are handed out that later inputs still add to. Only the first T * stride are finished.", overlap_hands_out_all),
    ),
    picture=lambda wanted, theirs: compare_curves(wanted[0][0, 0], theirs[0][0, 0], "sample", "first channel"),
)


# --- 09.choose ---------------------------------------------------------------------------------------------------


def choose(logits: Tensor, temperature: float, top_k: int, uniform: Tensor) -> Tensor:
    """`mmo.sampling.Chooser` for one codebook: logits (B, V), uniform (B,) in 0..1 -> ids (B,)."""
    return Chooser([temperature], [top_k], logits.shape[-1])(logits[:, None], uniform[:, None])[:, 0]


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def choose_cases() -> Sequence[Case]:
    spaced = torch.linspace(-3, 3, 64)
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(row)) for row in range(64)])
    return [
        Case("temperature 1.5, the 4 best of 12", (2 * drawn(64, 12), 1.5, 4, uniforms(64))),
        Case("temperature 0.5, all of 12", (drawn(64, 12, seed=1), 0.5, 0, uniforms(64, 1))),
        Case("temperature 0", (drawn(64, 12, seed=2), 0.0, 4, uniforms(64, 2))),
        Case("the 4 best of 12, the uniform number as near to 1 as it gets", (2 * drawn(2048, 12, seed=4), 1.0, 4, torch.full((2048,), 1 - 2**-24))),
        Case("logits in bfloat16", (spaced[order].bfloat16(), 1.0, 0, uniforms(64, 3))),
    ]


def ranked(logits: Tensor, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The best logits over the temperature, best first, and their ids; temperature 0 leaves one."""
    width = min(top_k or logits.shape[-1], logits.shape[-1]) if temperature else 1
    values, ids = logits.float().topk(width)
    return values / (temperature or 1.0), ids


def placed(shares: Tensor, uniform: Tensor) -> Tensor:
    """(B, K) shares -> place of the one at which their sum reaches uniform."""
    heap = shares.cumsum(dim=-1)
    return (heap < uniform[:, None]).sum(dim=-1, keepdim=True).clamp(max=shares.shape[-1] - 1)


def choose_rank(logits, temperature, top_k, uniform):
    values, _ = ranked(logits, temperature, top_k)
    return placed(values.softmax(-1), uniform)[:, 0]


def choose_worst_first(logits, temperature, top_k, uniform):
    values, ids = ranked(logits, temperature, top_k)
    return ids.flip(-1).gather(-1, placed(values.softmax(-1).flip(-1), uniform))[:, 0]


def choose_unscaled(logits, temperature, top_k, uniform):
    """Shares of all, of which only the best are kept."""
    values, ids = ranked(logits, temperature, top_k)
    shares = (logits.float() / (temperature or 1e-6)).softmax(-1).gather(-1, ids)
    return ids.gather(-1, placed(shares, uniform))[:, 0]


def choose_late_temperature(logits, temperature, top_k, uniform):
    values, ids = ranked(logits, temperature, top_k)
    shares = (values * (temperature or 1.0)).softmax(-1) / (temperature or 1.0)
    return ids.gather(-1, placed(shares / shares.sum(-1, keepdim=True), uniform))[:, 0]


def choose_multiplied(logits, temperature, top_k, uniform):
    values, ids = ranked(logits, temperature, top_k)
    return ids.gather(-1, placed((values * (temperature or 1.0) ** 2).softmax(-1), uniform))[:, 0]


def choose_in_bfloat(logits, temperature, top_k, uniform):
    values, ids = ranked(logits, temperature, top_k)
    shares = values.to(logits.dtype).softmax(-1)
    return ids.gather(-1, placed(shares, uniform.to(logits.dtype)))[:, 0]


def choose_clamped_to_all(logits, temperature, top_k, uniform):
    """Behind the best the shares are 0, but a sum that rounds to a little below 1 is never reached."""
    _, best = ranked(logits, temperature, top_k)
    values, ids = logits.float().sort(dim=-1, descending=True)
    values = (values / (temperature or 1.0)).masked_fill(torch.arange(logits.shape[-1]) >= best.shape[-1], -torch.inf)
    return ids.gather(-1, placed(values.softmax(-1), uniform))[:, 0]


CHOOSE = Exercise(
    id="09.choose",
    title="The sampling step",
    difficulty=2,
    importance=3,
    minutes=12,
    looks="One id a row: always the best one at temperature 0, rarely a poor one when it is cold, never one outside the top_k.",
    hints=(
        "Temperature 0 is argmax. Else: which top_k logits are the largest (0: all)? torch.topk gives values and ids, best first.",
        "Divide these values by the temperature, then softmax in fp32 (.float() first): shares that sum to 1, the best first.",
        "Lay the shares end to end with cumsum. The chosen place is the first whose sum reaches uniform: (sums < uniform[:, None]).sum(-1), at most the last one, for the sum of all may be a rounding below 1. The id stands at that place in ids.",
    ),
    reference=choose,
    package_name="mmo.sampling.Chooser",
    cases=choose_cases,
    bugs=(
        Bug("That is always the most likely one: `uniform` decides nothing.", lambda logits, temperature, top_k, uniform: logits.argmax(-1)),
        Bug("top_k is not used: an unlikely id may still be drawn.", lambda logits, temperature, top_k, uniform: choose(logits, temperature, 0, uniform)),
        Bug("That is the rank of the chosen one (0 = best), not its id: look it up in the ids that topk gives.", choose_rank),
        Bug("You multiply by the temperature. Dividing by a small one makes large logits tower over the rest; multiplying flattens them.", choose_multiplied),
        Bug("The temperature is applied to the shares. There it cancels out; it belongs on the logits, before softmax.", choose_late_temperature),
        Bug("softmax runs over all ids, then the best are kept: their shares no longer sum to 1, so the last kept one gets the rest. Cut first, then softmax.", choose_unscaled),
        Bug("Shares add up to 1 only but for rounding. Where their sum stays a little below uniform, the place runs behind the best: clamp it to the last of the top_k, not of all.", choose_clamped_to_all),
        Bug("The shares are laid end to end with the worst first. Any order samples right, but here it is best first, so that the same uniform gives the same id.", choose_worst_first),
        Bug("The shares are computed in bfloat16, which has three digits. Sums of many small shares go wrong: .float() before softmax.", choose_in_bfloat),
    ),
)


# --- 09.straighten -----------------------------------------------------------------------------------------------


def push(held: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """One step of `mmo.streaming.Straightener`: held (n, Q) and codes (Q,) -> held, the frame (Q,) that is whole now, or None."""
    Q = len(codes)
    straightener = Straightener(Q)
    straightener.steps = list(held[:, None])
    frame = straightener.push(codes[None])
    kept = straightener.steps[max(0, len(straightener.steps) - (Q - 1)) :]
    return torch.cat(kept) if kept else held[:0], None if frame is None else frame[0, :, 0]


def numbered(steps: int, Q: int) -> Tensor:
    """(steps, Q): 100 k + frame, so that one sees where a code belongs; before its frame 0 a codebook has pad."""
    frame = torch.arange(steps)[:, None] - torch.arange(Q)
    return torch.where(frame < 0, PAD, 100 * torch.arange(Q) + frame)


def straighten_cases() -> Sequence[Case]:
    steps = numbered(9, 4)
    return [
        Case("4 codebooks, 3 steps held", (steps[2:5], steps[5])),
        Case("4 codebooks, the step that makes frame 0 whole", (steps[:3], steps[3])),
        Case("4 codebooks, the very first step", (steps[:0], steps[0])),
        Case("4 codebooks, the third step", (steps[:2], steps[2])),
        Case("1 codebook", (numbered(1, 1)[:0], numbered(1, 1)[0])),
    ]


def diagonal(steps: Tensor) -> Tensor:
    """steps (Q, Q), oldest first -> codebook k of step k."""
    return steps.diagonal().clone()


def with_new(held: Tensor, codes: Tensor) -> Tensor:
    return torch.cat((held, codes[None]))


def push_straight(held, codes):
    kept, frame = push(held, codes)
    return kept, None if frame is None else codes.clone()


def push_backwards(held, codes):
    kept, frame = push(held, codes)
    return kept, None if frame is None else diagonal(with_new(held, codes)[-len(codes) :].flip(0))


def push_too_early(held, codes):
    """Gives whatever diagonal there is."""
    kept, frame = push(held, codes)
    if frame is None:
        steps = with_new(held, codes)
        missing = steps[:1].expand(len(codes) - len(steps), -1)
        frame = diagonal(torch.cat((missing, steps)))
    return kept, frame


def push_too_late(held, codes):
    kept, frame = push(held, codes)
    return kept, None if len(held) < len(codes) else frame


def push_keeps_all(held, codes):
    return with_new(held, codes), push(held, codes)[1]


def push_forgets_new(held, codes):
    return held, push(held, codes)[1]


STRAIGHTEN = Exercise(
    id="09.straighten",
    title="Undelay as you go",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="None until Q steps are there, then one whole frame a step; never more than Q - 1 steps are held.",
    hints=(
        "Codebook k of frame f comes at step f + k. When codebook Q - 1 of frame f arrives, how many steps ago did codebook 0 of that frame come?",
        "Put the new step behind the held ones. With fewer than Q there is no frame yet: None.",
        "Of the last Q steps, oldest first, take codebook k from step k: steps[k, k]. Hold the last Q - 1 (which may be none).",
    ),
    reference=push,
    package_name="mmo.streaming.Straightener",
    cases=straighten_cases,
    bugs=(
        Bug("That is the column as it came: Q codes of Q different frames. Codebook k of the frame came Q - 1 - k steps ago.", push_straight),
        Bug("The diagonal runs the wrong way. Codebook 0 was written first, so it stands in the oldest of the Q steps; the last codebook in the newest.", push_backwards),
        Bug("A frame is given before all its codes are there: the later codebooks are still missing. Until Q steps have come it is None.", push_too_early),
        Bug("One step too late: Q - 1 held steps and this one are Q, which is enough.", push_too_late),
        Bug("Every step is held for ever. Only the last Q - 1 can still be needed; a stream may run for hours.", push_keeps_all),
        Bug("The new step is not held: the next frame needs it.", push_forgets_new),
    ),
)


# --- 09.stop -----------------------------------------------------------------------------------------------------


def stop_cases() -> Sequence[Case]:
    sampled = torch.arange(4) * 100 + 7
    stopping = sampled.clone()
    stopping[0] = STOP
    most = torch.tensor([50])
    return [
        Case("three rows at different places", (torch.stack((sampled, stopping, sampled)), 6, torch.tensor([50, 50, 4]), PAD, STOP)),
        Case("the middle of the speech", (sampled[None], 9, most, PAD, STOP)),
        Case("codebook 0 says stop", (stopping[None], 9, most, PAD, STOP)),
        Case("two steps behind the stop", (sampled[None], 11, torch.tensor([8]), PAD, STOP)),
        Case("a second stop behind the first", (stopping[None], 10, torch.tensor([8]), PAD, STOP)),
        Case("the beginning: the lower codebooks' turn has not come", (sampled[None], 2, most, PAD, STOP)),
        Case("step 0, where only text is written", (stopping[None], 0, most, PAD, STOP)),
    ]


def stop_feeds_samples(sampled, step, speech_end, pad, stop):
    """What the original's generator does behind a stop."""
    _, end = end_speech(sampled, step, speech_end, pad, stop)
    frame = step - 1 - torch.arange(sampled.shape[1])
    return torch.where(frame < 0, pad, sampled), end


def stop_all_at_once(sampled, step, speech_end, pad, stop):
    codes, end = end_speech(sampled, step, speech_end, pad, stop)
    over = (step - 1 - end)[:, None]
    codes = torch.where(over == 0, stop, codes)
    return torch.where(over > 0, pad, codes), end


def stop_without_sign(sampled, step, speech_end, pad, stop):
    codes, end = end_speech(sampled, step, speech_end, pad, stop)
    return torch.where(codes == stop, pad, codes), end


def stop_off_by_one(sampled, step, speech_end, pad, stop):
    """Counts codebook 0's frame as `step`."""
    stopped = (sampled[:, 0] == stop) & (step < speech_end)
    end = torch.where(stopped, step, speech_end)
    behind = step - torch.arange(sampled.shape[1]) - end[:, None]
    codes = torch.where(behind == 0, stop, sampled)
    return torch.where((behind > 0) | (step - torch.arange(sampled.shape[1]) < 0), pad, codes), end


def stop_moves_again(sampled, step, speech_end, pad, stop):
    if step >= 1:
        speech_end = torch.where(sampled[:, 0] == stop, step - 1, speech_end)
    return end_speech(torch.where(sampled == stop, 0, sampled), step, speech_end, pad, stop)


def stop_starts_early(sampled, step, speech_end, pad, stop):
    codes, end = end_speech(sampled, step, speech_end, pad, stop)
    frame = step - 1 - torch.arange(sampled.shape[1])
    return torch.where(frame < 0, sampled, codes), end


STOPPING = Exercise(
    id="09.stop",
    title="The end of the speech",
    difficulty=3,
    importance=3,
    minutes=14,
    looks="Pads on the left below the diagonal; after codebook 0's stop the stops run down a diagonal too, and pads follow.",
    hints=(
        "At step s codebook k is at frame s - 1 - k. Write that as a tensor (Q,): torch.arange helps.",
        "First the end: where codebook 0 sampled the stop, at a frame before speech_end (and step is at least 1), speech_end becomes that frame, step - 1.",
        "Then compare frame with speech_end[:, None]: equal gives stop, larger gives pad, negative frames give pad, the rest keep what was sampled. torch.where, three times.",
    ),
    reference=end_speech,
    package_name="mmo.generation.end_speech",
    cases=stop_cases,
    bugs=(
        Bug("What was sampled is fed behind the stop. In training there is a stop and then pads; a model fed with anything else there is in a place it has never seen.", stop_feeds_samples),
        Bug("All codebooks stop at the step at which codebook 0 does. The others are up to Q - 1 frames behind and still owe codes: their stops lie on the diagonal.", stop_all_at_once),
        Bug("The stop sign itself is never fed: training has one in each codebook, then pads.", stop_without_sign),
        Bug("The frames are counted one too high. The sound begins one step behind the text: codebook 0 is at frame step - 1.", stop_off_by_one),
        Bug("A stop that codebook 0 samples after the end moves the end. The first one counts: only a frame before speech_end may become the end.", stop_moves_again),
        Bug("Codebooks speak before their turn: while step - 1 - k is negative they have no frame, so they get pad.", stop_starts_early),
    ),
    picture=lambda wanted, theirs: compare_grids(
        wanted[0].T, theirs[0].T, SIGNS, rows=codebooks(wanted[0].shape[1]),
        columns=("speaking", "stops now", "stopped a step ago") if len(wanted[0]) == 3 else (),  # the first case: three rows of a batch
        alt="What is fed in one step, a column for each row of the batch, wanted and yours; cells that differ have a red edge.",
    ),  # fmt: skip
)

EXERCISES = (CONV, OVERLAP, CHOOSE, STRAIGHTEN, STOPPING)
