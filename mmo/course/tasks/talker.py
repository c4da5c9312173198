"""Notebook 08: code embedding and heads with adapters, what they cost, the Talker's input, its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmo.config import IGNORE, ModelConfig
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_maps
from mmo.omni import LossSums, audio_loss_sums
from mmo.talker import CodeEmbedding, CodeHead, projection

PAD, STOP, SPEAKER = 9, 10, 11  # of a toy vocabulary of 12: eight codes, and the signs above them


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole numbers in 0 .. high - 1, always the same."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def sizes(A: int, D: int, R: int, Q: int) -> ModelConfig:
    """A configuration with these sizes of the Talker's embedding and head."""
    return ModelConfig(
        audio_vocab_size=A, audio_pad_token=A - 3, audio_stop_token=A - 2, audio_spk_token=A - 1,
        talker_hidden_size=D, adapter_rank=R, num_codebooks=Q,
    )  # fmt: skip


# --- 08.embed ----------------------------------------------------------------------------------------------------


def embed_codes(codes: Tensor, base: Tensor, tables: Tensor, outs: Tensor) -> Tensor:
    """`mmo.talker.CodeEmbedding` with these weights."""
    Q, A, R = tables.shape
    with torch.device("meta"):
        empty = CodeEmbedding(sizes(A, base.shape[1], R, Q))
    weights = {"base.weight": base}
    for k in range(Q):
        weights |= {f"adapters.{k}.0.weight": tables[k], f"adapters.{k}.2.weight": outs[k]}
    return functional_call(empty, weights, (codes,))


def embed_by(codes: Tensor, base: Tensor, tables: Tensor, outs: Tensor, act: Callable = F.gelu, own: Callable = lambda k: k, shared: float = 1.0, low: float = 1.0) -> Tensor:
    """The same as a loop, with switches for what may go wrong."""
    parts = [shared * base[codes[:, k]] + low * F.linear(act(tables[own(k)][codes[:, k]]), outs[own(k)]) for k in range(len(tables))]
    return torch.stack(parts).mean(dim=0)


def embed_first_only(codes: Tensor, base: Tensor, tables: Tensor, outs: Tensor) -> Tensor:
    """The shared table is asked for codebook 0 only."""
    return base[codes[:, 0]] + embed_by(codes, base, tables, outs, shared=0.0)


def embed_act_late(codes: Tensor, base: Tensor, tables: Tensor, outs: Tensor) -> Tensor:
    parts = [base[codes[:, k]] + F.gelu(F.linear(tables[k][codes[:, k]], outs[k])) for k in range(len(tables))]
    return torch.stack(parts).mean(dim=0)


def embed_cases() -> Sequence[Case]:
    weights = drawn(12, 6), drawn(3, 12, 2, seed=1), drawn(3, 6, 2, seed=2)
    return [
        Case("3 codebooks, 2 rows of 4 positions", (whole(12, 2, 3, 4), *weights)),
        Case("more positions than the vocabulary has codes", (whole(12, 2, 3, 9, seed=3), *weights)),
    ]


EMBED = Exercise(
    id="08.embed",
    title="Eight codes, one vector",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="One vector a position, whatever the number of codebooks; the same code in another codebook gives another vector.",
    hints=(
        "For one codebook: look the code up in the shared table, look it up in the codebook's own small table, bring that to the full width, add.",
        "codes[:, k] is (B, T). base[codes[:, k]] is (B, T, D), tables[k][codes[:, k]] is (B, T, R). F.linear(..., outs[k]) leads from R to D; the GELU stands before it.",
        "Collect one (B, T, D) a codebook in a list, torch.stack them, and take the mean over the codebooks.",
    ),
    reference=embed_codes,
    package_name="mmo.talker.CodeEmbedding",
    cases=embed_cases,
    bugs=(
        Bug("You summed over the codebooks. It is their mean, so that the size of the vector does not hang on how many there are.", lambda codes, base, tables, outs: len(tables) * embed_by(codes, base, tables, outs)),
        Bug("The GELU is missing.", lambda *given: embed_by(*given, act=lambda x: x)),
        Bug("The GELU stands behind the Linear. It stands between the small table and the Linear.", embed_act_late),
        Bug("That is the tanh approximation of the GELU. The model has the exact one: F.gelu(x) without further arguments.", lambda *given: embed_by(*given, act=lambda x: F.gelu(x, approximate="tanh"))),
        Bug("Every codebook uses the adapter of codebook 0, so code 5 means the same in all of them. Each has its own: tables[k], outs[k].", lambda *given: embed_by(*given, own=lambda k: 0)),
        Bug("The adapters are missing: with the shared table alone nobody can tell which codebook a code came from.", lambda *given: embed_by(*given, low=0.0)),
        Bug("The shared table is missing: only the adapters speak.", lambda *given: embed_by(*given, shared=0.0)),
        Bug("The shared table is asked for codebook 0 only. All codebooks look into it, each with its own code.", embed_first_only),
    ),
    gradients=(1, 2, 3),
    picture=lambda wanted, theirs: compare_maps(wanted.detach()[0], theirs.detach()[0], xlabel="width", ylabel="position"),
)


# --- 08.heads ----------------------------------------------------------------------------------------------------


def read_heads(hidden: Tensor, base: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """`mmo.talker.CodeHead` with these weights."""
    Q, A, R = outer.shape
    with torch.device("meta"):
        empty = CodeHead(sizes(A, base.shape[1], R, Q))
    weights = {"base.weight": base}
    for k in range(Q):
        weights |= {f"adapters.{k}.0.weight": inner[k], f"adapters.{k}.2.weight": outer[k]}
    return functional_call(empty, weights, (hidden,))


def heads_by(hidden: Tensor, base: Tensor, inner: Tensor, outer: Tensor, act: Callable = F.gelu, own: Callable = lambda k: k, shared: float = 1.0, low: float = 1.0) -> Tensor:
    """The same as a loop, with switches for what may go wrong."""
    parts = [shared * F.linear(hidden, base) + low * F.linear(act(F.linear(hidden, inner[own(k)])), outer[own(k)]) for k in range(len(inner))]
    return torch.stack(parts, dim=-2)


def heads_act_late(hidden: Tensor, base: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    parts = [F.linear(hidden, base) + F.gelu(F.linear(F.linear(hidden, inner[k]), outer[k])) for k in range(len(inner))]
    return torch.stack(parts, dim=-2)


HEADS = Exercise(
    id="08.heads",
    title="One vector, eight answers",
    difficulty=2,
    importance=3,
    minutes=8,
    looks="For each position Q rows of A logits: (B, T, Q, A).",
    hints=(
        "It is the embedding read backwards: a shared part, and for each codebook a narrow way down to R numbers and up to A.",
        "For codebook k: F.linear(hidden, base) + F.linear(F.gelu(F.linear(hidden, inner[k])), outer[k]), shape (B, T, A).",
        "torch.stack(parts, dim=-2) puts the codebooks in the last place but one. Here nothing is averaged.",
    ),
    reference=read_heads,
    package_name="mmo.talker.CodeHead",
    cases=lambda: [
        Case("2 rows of 5 positions, 3 codebooks", (drawn(2, 5, 6), drawn(12, 6, seed=1), drawn(3, 2, 6, seed=2), drawn(3, 12, 2, seed=3))),
        Case("one position, 4 codebooks", (drawn(1, 1, 6, seed=4), drawn(9, 6, seed=5), drawn(4, 3, 6, seed=6), drawn(4, 9, 3, seed=7))),
    ],
    bugs=(
        Bug("The GELU is missing: without it the adapter is one thin matrix, and the hidden state cannot open or close parts of it.", lambda *given: heads_by(*given, act=lambda x: x)),
        Bug("The GELU stands at the end. It stands in the middle, where there are R numbers; logits must be free to fall.", heads_act_late),
        Bug("Every codebook has the adapter of codebook 0: eight times the same prediction.", lambda *given: heads_by(*given, own=lambda k: 0)),
        Bug("The shared head is missing.", lambda *given: heads_by(*given, shared=0.0)),
        Bug("The adapters are missing: eight times the same prediction.", lambda *given: heads_by(*given, low=0.0)),
        Bug("The shared head is divided by the number of codebooks. The mean belongs to the embedding; here each codebook gets all of it.", lambda hidden, base, inner, outer: heads_by(hidden, base, inner, outer, shared=1 / len(inner))),
        Bug("The codebooks stand before the positions: (B, Q, T, A). Wanted is (B, T, Q, A), one table of logits a position.", lambda *given: heads_by(*given).transpose(1, 2)),
    ),
    gradients=(0, 1, 2, 3),
    picture=lambda wanted, theirs: compare_maps(wanted.detach()[0, 0], theirs.detach()[0, 0], xlabel="code", ylabel="codebook"),
)


# --- 08.count ----------------------------------------------------------------------------------------------------


def count_parameters(A: int, D: int, R: int, Q: int) -> tuple[int, int]:
    """Weights of `CodeEmbedding` and `CodeHead` together, and of Q whole tables and Q whole heads."""
    config = sizes(A, D, R, Q)
    with torch.device("meta"):
        parts = CodeEmbedding(config), CodeHead(config)
    return sum(weight.numel() for part in parts for weight in part.parameters()), 2 * Q * A * D


COUNT = Exercise(
    id="08.count",
    title="What sharing saves",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="Two whole numbers. With the full-size model's the first is a little more than half of the second.",
    hints=(
        "A shared table has A * D weights, and so has a shared head. Neither has a bias.",
        "An adapter of the embedding: a table A * R and a Linear R * D. An adapter of the head: D * R down and R * A up. Q of each.",
        "shared: 2 * A * D. adapters: 2 * Q * R * (A + D). In full: 2 * Q * A * D.",
    ),
    reference=count_parameters,
    package_name="a count of the weights in mmo.talker.CodeEmbedding and CodeHead",
    cases=lambda: [Case("A 576, D 192, R 64, Q 8", (576, 192, 64, 8)), Case("A 2112, D 768, R 256, Q 8", (2112, 768, 256, 8)), Case("A 20, D 6, R 2, Q 3", (20, 6, 2, 3))],
    bugs=(
        Bug("That is the embedding alone; the head costs as much again, in both ways.", lambda A, D, R, Q: (A * D + Q * R * (A + D), Q * A * D)),
        Bug("The shared parts are counted once a codebook. They are there once: that is what sharing means.", lambda A, D, R, Q: (2 * Q * (A * D + R * (A + D)), 2 * Q * A * D)),
        Bug("The adapters are counted once. Each codebook has its own.", lambda A, D, R, Q: (2 * A * D + 2 * R * (A + D), 2 * Q * A * D)),
        Bug("Biases are counted; there are none here.", lambda A, D, R, Q: (2 * A * D + A + 2 * Q * R * (A + D) + Q * (D + R + A), 2 * Q * A * D + Q * A)),
        Bug("The adapter's second matrix is missing: a narrow table is no use without the way back to the full width.", lambda A, D, R, Q: (2 * A * D + Q * R * A + Q * R * D, 2 * Q * A * D)),
        Bug("The two numbers are swapped.", lambda A, D, R, Q: count_parameters(A, D, R, Q)[::-1]),
    ),
)


# --- 08.input ----------------------------------------------------------------------------------------------------


def talker_input(
    bridge: Tensor, embedded: Tensor, first: Tensor, voice: Tensor, embed_proj: Callable, codec_proj: Callable,
    text_scale: Tensor, audio_scale: Tensor, sign: int,
) -> Tensor:  # fmt: skip
    """What `mmo.talker.Talker.forward` gives its first block; a test holds it against the module."""
    spoken = torch.where(first[..., None] == sign, voice[:, None], embedded)
    return embed_proj(bridge) * text_scale + codec_proj(spoken) * audio_scale


def toy_projection(seed: int, from_width: int, to_width: int) -> nn.Module:
    """A projection of the Talker's kind, with weights that are always the same."""
    module = projection(from_width, to_width, 1e-6).requires_grad_(False)
    for number, weight in enumerate(module.parameters()):
        weight.copy_(drawn(*weight.shape, seed=10 * seed + number) * 0.5 + float(weight.dim() == 1))
    return module


def input_cases() -> Sequence[Case]:
    proj = toy_projection(1, 6, 6), toy_projection(2, 6, 6)
    scales = torch.tensor(3.0), torch.tensor(0.5)
    first = torch.tensor([[PAD, SPEAKER, 3, 4, 5], [PAD, PAD, SPEAKER, 1, 2]])
    return [
        Case("2 rows with a voice each", (drawn(2, 5, 6), drawn(2, 5, 6, seed=1), first, drawn(2, 6, seed=2), *proj, *scales, SPEAKER)),
        Case("a step of writing, long after the speaker sign", (drawn(1, 1, 6, seed=3), drawn(1, 1, 6, seed=4), torch.tensor([[3]]), drawn(1, 6, seed=5), *proj, *scales, SPEAKER)),
    ]


def input_voice_late(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    spoken = torch.where(first[..., None] == sign, voice[:, None], codec_proj(embedded))
    return embed_proj(bridge) * text_scale + spoken * audio_scale


def input_voice_added(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    spoken = embedded + torch.where(first[..., None] == sign, voice[:, None], 0.0)
    return embed_proj(bridge) * text_scale + codec_proj(spoken) * audio_scale


def input_voice_everywhere(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    return embed_proj(bridge) * text_scale + codec_proj(embedded + voice[:, None]) * audio_scale


def input_voice_instead(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    """The speaker replaces the whole input, the bridge too."""
    x = embed_proj(bridge) * text_scale + codec_proj(embedded) * audio_scale
    return torch.where(first[..., None] == sign, codec_proj(voice[:, None].expand_as(embedded)) * audio_scale, x)


def input_no_voice(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    return embed_proj(bridge) * text_scale + codec_proj(embedded) * audio_scale


def input_swapped(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    return talker_input(bridge, embedded, first, voice, embed_proj, codec_proj, audio_scale, text_scale, sign)


def input_no_scales(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    return talker_input(bridge, embedded, first, voice, embed_proj, codec_proj, 1.0, 1.0, sign)


def input_voice_for_row(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    """A row that has the sign anywhere has the voice everywhere."""
    here = (first == sign).any(dim=1)[:, None, None]
    return embed_proj(bridge) * text_scale + codec_proj(torch.where(here, voice[:, None], embedded)) * audio_scale


def input_scaled_first(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    spoken = torch.where(first[..., None] == sign, voice[:, None], embedded)
    return embed_proj(bridge * text_scale) + codec_proj(spoken * audio_scale)


def input_raw_bridge(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    return talker_input(bridge, embedded, first, voice, lambda x: x, codec_proj, text_scale, audio_scale, sign)


INPUT = Exercise(
    id="08.input",
    title="What the Talker hears",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="One vector a position, the shape of the embedded codes. Changing the voice changes the position of the speaker sign and no other.",
    hints=(
        "Three steps: put the voice in its place among the embedded codes; project both sides; add them with their scales.",
        "first == sign is (B, T); with [..., None] it chooses whole vectors. voice[:, None] is (B, 1, D) and stands for every position of its row. torch.where(condition, this, that).",
        "embed_proj(bridge) * text_scale + codec_proj(spoken) * audio_scale: the scales come behind the projections, whose RMSNorm would undo them.",
    ),
    reference=talker_input,
    package_name="mmo.talker.Talker.forward",
    cases=input_cases,
    bugs=(
        Bug("The voice was put in behind codec_proj. It stands for the code embedding, so it goes through codec_proj as codes do.", input_voice_late),
        Bug("The voice was added. It replaces the embedding: eight speaker signs say nothing that the vector does not say better.", input_voice_added),
        Bug("The voice is at every position. It is told once, at the speaker sign; attention carries it on.", input_voice_everywhere),
        Bug("The voice pushed out the bridge too. It replaces the codes only.", input_voice_instead),
        Bug("The voice stands for the codes at every position of its row, so the Talker cannot hear what it has said. Choose position by position: (first == sign)[..., None].", input_voice_for_row),
        Bug("The scales are missing: each side, projected, is multiplied by its own.", input_no_scales),
        Bug("There is no voice: at the speaker sign its vector must stand for the code embedding.", input_no_voice),
        Bug("The two scales are swapped: text_scale belongs to the bridge, audio_scale to the codes.", input_swapped),
        Bug("The scales stand inside the projections. Each projection ends in an RMSNorm, which takes most of a scale out again; they come behind.", input_scaled_first),
        Bug("The bridge was not projected: embed_proj brings it to the Talker's width and size.", input_raw_bridge),
    ),
    gradients=(0, 1, 3, 6, 7),
    tolerance=1e-4,
    picture=lambda wanted, theirs: compare_maps(wanted.detach()[0], theirs.detach()[0], xlabel="width", ylabel="position"),
)


# --- 08.loss -----------------------------------------------------------------------------------------------------


def audio_loss(logits: Tensor, labels: Tensor, stop: int, stop_weight: float, codebook_weights: Tensor) -> Tensor:
    """`mmo.omni.audio_loss_sums` and `LossSums.audio_loss`."""
    nothing = torch.zeros(())
    return LossSums(nothing, nothing, *audio_loss_sums(logits, labels, stop, stop_weight)).audio_loss(codebook_weights)


def loss_by(
    logits: Tensor, labels: Tensor, stop: int, stop_weight: float, codebook_weights: Tensor,
    count: Callable | None = None, join: Callable | None = None, skip: bool = True,
) -> Tensor:  # fmt: skip
    """The same step by step, with switches for what may go wrong.  count: weights, here -> denominators; join: sums, counts -> loss."""
    targets = labels if skip else labels.clamp(min=0)
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(labels.shape)
    weights = 1 + (stop_weight - 1) * (labels == stop)
    here = targets != IGNORE
    sums = (each * weights).sum(dim=1)
    counts = (count(weights, here) if count else here.sum(dim=1)).clamp(min=1)
    if join:
        return join(sums, counts)
    return (sums / counts * codebook_weights).sum() / codebook_weights.sum()


def loss_cases() -> Sequence[Case]:
    labels = whole(8, 3, 7, seed=1)
    labels[0, 5:], labels[1, 6:], labels[:, 0] = IGNORE, IGNORE, IGNORE
    labels[0, 4] = labels[1, 5] = labels[2, 6] = STOP
    silent = labels.clone()
    silent[2] = IGNORE
    weights = torch.tensor([4.0, 2.0, 0.5])
    return [
        Case("3 codebooks, a stop in each", (2 * drawn(3, 7, 12), labels, STOP, 10.0, weights)),
        Case("a codebook without any label, of a row that was cut", (2 * drawn(3, 7, 12, seed=2), silent, STOP, 10.0, weights)),
    ]


LOSS = Exercise(
    id="08.loss",
    title="The loss of eight heads",
    difficulty=3,
    importance=3,
    minutes=12,
    looks="One number. With all weights 1 and no stop among the labels it is the mean over codebooks of the usual cross-entropy.",
    hints=(
        "In three steps: a cross-entropy for every place, (Q, N); a sum and a count for every codebook, (Q,); one number.",
        'F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none") gives 0 where the label is -100. torch.where(labels == stop, each * stop_weight, each) makes the stop weigh more.',
        "Divide each codebook's sum by its number of labels, (labels != -100).sum(dim=1).clamp(min=1); then (mean * codebook_weights).sum() / codebook_weights.sum().",
    ),
    reference=audio_loss,
    package_name="mmo.omni.audio_loss_sums with LossSums.audio_loss",
    cases=loss_cases,
    bugs=(
        Bug("The stop counts no more than any other label. Multiply its cross-entropy by stop_weight.", lambda logits, labels, stop, stop_weight, weights: loss_by(logits, labels, stop, 1.0, weights)),
        Bug("The stop's weight is in the denominator too: a weighted mean. The original counts positions there, so a short answer's stop weighs more than a long one's.", lambda *given: loss_by(*given, count=lambda weights, here: (weights * here).sum(dim=1))),
        Bug("The denominator counts places without a label. They add nothing to the sum and must not count.", lambda *given: loss_by(*given, count=lambda weights, here: torch.full((len(here),), here.shape[1]))),
        Bug("-100 was taken for a code. Those places are not learnt at all.", lambda *given: loss_by(*given, skip=False)),
        Bug("All codebooks are equal here. Each one's mean is multiplied by its weight.", lambda *given: loss_by(*given, join=lambda sums, counts: (sums / counts).mean())),
        Bug("The codebook weights are not divided out: the loss grows with their sum, and the step with it.", lambda logits, labels, stop, stop_weight, weights: loss_by(logits, labels, stop, stop_weight, weights) * weights.sum()),
        Bug("The weighted sum is divided by the number of codebooks, not by the sum of their weights.", lambda logits, labels, stop, stop_weight, weights: loss_by(logits, labels, stop, stop_weight, weights) * weights.mean()),
        Bug("The codebooks' sums were added before dividing. Each codebook has a mean of its own first.", lambda logits, labels, stop, stop_weight, weights: loss_by(logits, labels, stop, stop_weight, weights, join=lambda sums, counts: (sums * weights).sum() / (counts * weights).sum())),
    ),
    gradients=(0,),
)

EXERCISES = (EMBED, HEADS, COUNT, INPUT, LOSS)
