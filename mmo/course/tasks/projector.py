"""Notebook 04: the projector, its parameters, runs of placeholders, putting features in their places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids, compare_maps
from mmo.projector import Projector, place_features, runs

PAD = 9  # the placeholder in the cases


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 04.projector ------------------------------------------------------------------------------------------------


def projector(features: Tensor, scale: Tensor, shift: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
    """`mmo.projector.Projector` with its weights given.  features (..., D_in) -> (..., D); tests hold it against the module."""
    normed = F.layer_norm(features, scale.shape, scale, shift)
    return F.linear(F.gelu(F.linear(normed, first, first_bias)), second, second_bias)


def projector_cases() -> Sequence[Case]:
    def weights(narrow: int, wide: int) -> tuple[Tensor, ...]:
        return (1 + 0.2 * drawn(narrow, seed=1), 0.2 * drawn(narrow, seed=2), drawn(wide, narrow, seed=3) / narrow**0.5, 0.3 * drawn(wide, seed=4),
                drawn(wide, wide, seed=5) / wide**0.5, 0.3 * drawn(wide, seed=6))

    return [
        Case("6 features, 4 wide, for a stream of width 8", (3 * drawn(6, 4) + 1, *weights(4, 8))),
        Case("2 sounds of 5 features, 16 wide, for a stream of width 12", (2 * drawn(2, 5, 16, seed=8) - 1, *weights(16, 12))),
        Case("2 sounds of 5 features, 12 wide, for a stream of width 12", (drawn(2, 5, 12, seed=9), *weights(12, 12))),
    ]


def projected(features, scale, shift, first, first_bias, second, second_bias, norm=None, bend=F.gelu, bend_again=lambda x: x) -> Tensor:
    """The projector with another norm or another bend."""
    normed = F.layer_norm(features, scale.shape, scale, shift) if norm is None else norm(features) * scale + shift
    return bend_again(F.linear(bend(F.linear(normed, first, first_bias)), second, second_bias))


def over_time(features: Tensor) -> Tensor:
    """Norm along the wrong axis."""
    return (features - features.mean(dim=-2, keepdim=True)) / (features.var(dim=-2, keepdim=True, correction=0) + 1e-5).sqrt()


def unbiased(features: Tensor) -> Tensor:
    return (features - features.mean(dim=-1, keepdim=True)) / (features.var(dim=-1, keepdim=True) + 1e-5).sqrt()


def root_mean_square(features: Tensor) -> Tensor:
    return features * torch.rsqrt(features.square().mean(dim=-1, keepdim=True) + 1e-5)


PROJECTOR = Exercise(
    id="04.projector",
    title="The projector",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="The same shape but for its last axis, which is as wide as the stream.",
    hints=(
        "Four steps: a norm over each vector by itself, a matrix with a bias, a bend, a matrix with a bias.",
        "F.layer_norm(features, scale.shape, scale, shift) takes mean and deviation over the last axis; F.linear(x, weight, bias) is x @ weight.T + bias.",
        "The bend is F.gelu, the exact one, and stands once, between the two matrices.",
    ),
    reference=projector,
    package_name="mmo.projector.Projector",
    cases=projector_cases,
    bugs=(
        Bug("The norm is missing: a loud encoder would drown the biases, and each encoder would need its own learning rate.", lambda f, *w: projected(f, *w, norm=lambda x: (x - w[1]) / w[0])),
        Bug("The norm's own scale and shift are missing: it ends with times scale, plus shift.", lambda f, scale, shift, *w: projected(f, torch.ones_like(scale), torch.zeros_like(shift), *w)),
        Bug("The norm runs over the features of a sound, not over the numbers of a feature. Each vector is normed by itself: the last axis.", lambda f, *w: projected(f, *w, norm=over_time)),
        Bug("That is RMSNorm: the Thinker's. The projector's LayerNorm takes the mean off first.", lambda f, *w: projected(f, *w, norm=root_mean_square)),
        Bug("The deviation is divided by D - 1 (torch's var does so unless correction=0). LayerNorm divides by D.", lambda f, *w: projected(f, *w, norm=unbiased)),
        Bug("The bend is missing. Two matrices with nothing between them are one matrix.", lambda f, *w: projected(f, *w, bend=lambda x: x)),
        Bug("That is a ReLU, not a GELU.", lambda f, *w: projected(f, *w, bend=F.relu)),
        Bug("That is a SiLU, not a GELU.", lambda f, *w: projected(f, *w, bend=F.silu)),
        Bug("That is the tanh approximation of GELU. It is near, but weights that were trained with the exact one want the exact one.", lambda f, *w: projected(f, *w, bend=lambda x: F.gelu(x, approximate="tanh"))),
        Bug("The result is bent too. The last step is linear: a word's vector may be negative.", lambda f, *w: projected(f, *w, bend_again=F.gelu)),
        Bug("The biases are missing.", lambda f, scale, shift, a, b, c, d: projected(f, scale, shift, a, 0 * b, c, 0 * d)),
    ),
    gradients=(0, 1, 3, 5),
    tolerance=1e-5,
    picture=lambda wanted, theirs: compare_maps(wanted.flatten(0, -2).T, theirs.flatten(0, -2).T, xlabel="vector", ylabel="number in the vector"),
)


# --- 04.parameters -----------------------------------------------------------------------------------------------


def parameters(from_width: int, to_width: int) -> int:
    """How many numbers a `Projector` learns."""
    return sum(each.numel() for each in Projector(from_width, to_width).parameters())


def counted(from_width: int, to_width: int, norm: int = 2, biases: int = 2) -> int:
    return norm * from_width + from_width * to_width + to_width**2 + biases * to_width


PARAMETERS = Exercise(
    id="04.parameters",
    title="What it costs",
    difficulty=1,
    importance=2,
    minutes=5,
    looks="One whole number.",
    hints=(
        "Go through the four steps: which of them learn anything, and what shape has it?",
        "LayerNorm: a scale and a shift as wide as what comes in. First matrix: (to, from) and a bias of to. GELU: nothing.",
        "The second matrix is (to, to), with a bias of to.",
    ),
    reference=parameters,
    package_name="counting mmo.projector.Projector",
    cases=lambda: [Case(f"from {narrow} to {wide}", (narrow, wide)) for narrow, wide in ((3, 5), (144, 192), (512, 768), (768, 768))],
    bugs=(
        Bug("The LayerNorm is not counted: it has a scale and a shift for each number that comes in.", lambda f, t: counted(f, t, norm=0)),
        Bug("The LayerNorm has a shift beside its scale: twice the width that comes in.", lambda f, t: counted(f, t, norm=1)),
        Bug("The biases are not counted: each matrix has one.", lambda f, t: counted(f, t, biases=0)),
        Bug("Only one of the two biases is counted.", lambda f, t: counted(f, t, biases=1)),
        Bug("The second matrix goes from the stream's width to the stream's width, not from the encoder's.", lambda f, t: 2 * f + 2 * f * t + 2 * t),
        Bug("The norm is as wide as what comes in, not as the stream.", lambda f, t: 2 * t + f * t + t * t + 2 * t),
        Bug("Only one matrix is counted.", lambda f, t: 2 * f + f * t + t),
    ),
)


# --- 04.runs -----------------------------------------------------------------------------------------------------


def runs_cases() -> Sequence[Case]:
    return [
        Case("a row with two runs, and one that begins with a run", (torch.tensor([[1, PAD, PAD, PAD, 2, 3, PAD, PAD], [PAD, PAD, 4, PAD, 5, PAD, PAD, PAD]]), PAD)),
        Case("a run that ends one row, and a run that begins the next", (torch.tensor([[1, 2, PAD, PAD], [PAD, PAD, 3, PAD], [1, 2, 3, 4]]), PAD)),
    ]


def runs_by_hand(ids: Tensor, placeholder: int, restart: bool = True, per_row: bool = True) -> tuple[Tensor, Tensor]:
    """Counting one by one, with two things that can be forgotten."""
    run, offset = torch.full_like(ids, -1), torch.full_like(ids, -1)
    number, place = -1, 0
    for b in range(len(ids)):
        if per_row:
            number = -1
        before = False
        for t in range(ids.shape[1]):
            here = bool(ids[b, t] == placeholder)
            if here and not before:
                number, place = number + 1, 0 if restart or t == 0 or number == 0 else place
            if here:
                run[b, t], offset[b, t] = number, place
                place += 1
            before = here
    return run, offset


def runs_flat(ids: Tensor, placeholder: int) -> tuple[Tensor, Tensor]:
    """The batch as one long row."""
    run, offset = runs(ids.reshape(1, -1), placeholder)
    return run.view_as(ids), offset.view_as(ids)


def runs_wrapping(ids: Tensor, placeholder: int) -> tuple[Tensor, Tensor]:
    """Looks for what stood before with a roll, which goes round."""
    here = ids == placeholder
    first = here & ~here.roll(1, dims=1)
    position = torch.arange(ids.shape[1])
    start = torch.where(first, position, 0).cummax(dim=1).values
    return torch.where(here, first.cumsum(dim=1) - 1, -1), torch.where(here, position - start, -1)


def every_one_a_run(ids: Tensor, placeholder: int) -> tuple[Tensor, Tensor]:
    here = ids == placeholder
    return torch.where(here, here.cumsum(dim=1) - 1, -1), torch.where(here, 0, -1)


RUNS = Exercise(
    id="04.runs",
    title="Which run, which place",
    difficulty=2,
    importance=2,
    minutes=12,
    looks="Two grids: -1 where there is no placeholder; else the run's number, and in the other grid 0, 1, 2 … along each run.",
    hints=(
        "A run begins where a placeholder stands and none stood before. Mark these places first.",
        "The number of beginnings so far, .cumsum(dim=1) - 1, is the run's number. A loop over rows and positions will do as well.",
        "For the place: let every beginning carry its own position, torch.where(first, position, 0), carry it on with .cummax(dim=1).values, and subtract it from the position.",
    ),
    reference=runs,
    package_name="mmo.projector.runs",
    cases=runs_cases,
    bugs=(
        Bug("The runs are counted through the whole batch. Every row has its own first run.", lambda ids, placeholder: runs_by_hand(ids, placeholder, per_row=False)),
        Bug("The rows were laid end to end, so a run goes on from one row into the next. Rows are strangers.", runs_flat),
        Bug("The places are counted on over all runs. In each run they begin at 0 again: each run gets features of its own.", lambda ids, placeholder: runs_by_hand(ids, placeholder, restart=False)),
        Bug("torch.roll goes round: what stands before a row's first position is its last one. So a run at the beginning is not seen to begin where the row ends in another. Before the first position there is nothing: set it by hand.", runs_wrapping),
        Bug("Every placeholder was taken for a run of its own. A run is neighbours without a gap.", every_one_a_run),
        Bug("You count runs from 1. The first is run 0.", lambda ids, placeholder: (torch.where(ids == placeholder, runs(ids, placeholder)[0] + 1, -1), runs(ids, placeholder)[1])),
        Bug("You count places from 1. The first of a run is place 0.", lambda ids, placeholder: (runs(ids, placeholder)[0], torch.where(ids == placeholder, runs(ids, placeholder)[1] + 1, -1))),
        Bug("The place is the position in the row. It is the position in the run: subtract where the run begins.", lambda ids, placeholder: (runs(ids, placeholder)[0], torch.where(ids == placeholder, torch.arange(ids.shape[1]).expand_as(ids), -1))),
        Bug("Where there is no placeholder stands 0, as if it were the first run's first place. It must be -1.", lambda ids, placeholder: tuple(each.clamp(min=0) for each in runs(ids, placeholder))),
    ),
    picture=lambda wanted, theirs: compare_grids(
        torch.cat(wanted), torch.cat(theirs), {-1: "·"}, titles=("wanted (· = -1)", "yours"),
        rows=[f"{what}, row {b}" for what in ("run", "place") for b in range(len(wanted[0]))],
    ),
)


# --- 04.place_features -------------------------------------------------------------------------------------------


def tokens(*rows: str) -> Tensor:
    """ "ww__w" -> ids: words 1, placeholders PAD."""
    return torch.tensor([[PAD if sign == "_" else 1 for sign in row] for row in rows])


def place_cases() -> Sequence[Case]:
    def case(name: str, ids: Tensor, features: Tensor, lengths: Tensor | None = None) -> Case:
        return Case(name, (0.3 * drawn(*ids.shape, features.shape[-1], seed=7), ids, PAD, 2 + drawn(*features.shape), lengths))

    return [
        case("two sounds, one of them shorter than the batch's longest", tokens("ww__www", "w____ww"), drawn(2, 1, 4, 3), torch.tensor([[2], [4]])),
        case("a sound for the first run, and a second run that none is for", tokens("w___w__w", "__w___ww"), drawn(2, 1, 3, 4), torch.tensor([[3], [2]])),
        case("a run that is longer than its sound", tokens("w_____w"), drawn(1, 1, 3, 4), torch.tensor([[2]])),
        case("three pictures of 2 patches in two rows", tokens("__w__ww__", "w__w__w__"), drawn(2, 3, 2, 4)),
        case("a row without any placeholder", tokens("wwww", "w__w"), drawn(2, 1, 2, 3)),
    ]


def place_by_hand(stream, ids, placeholder, features, lengths=None, *, one_run=False, again=False, whole=False, crowd=False, add=False, cut=False):
    """Placing one by one, with a mistake chosen by name."""
    out = stream.clone()
    run, offset = runs(ids, placeholder)
    B, R, N, _ = features.shape
    queue = [(b, r, n) for b in range(B) for r in range(R) for n in range(N)]  # for `crowd`: whoever is next
    for b, t in (ids == placeholder).nonzero().tolist():
        r, n = int(run[b, t]), int(offset[b, t])
        r = 0 if one_run else r
        valid = N if lengths is None or whole else int(lengths[b, min(r, R - 1)])
        if crowd:
            b_from, r_from, n_from = queue.pop(0) if queue else (B - 1, R - 1, N - 1)
            out[b, t] = features[b_from, r_from, n_from]
        elif r < R and n < valid:
            chosen = features[b, r, 0 if again else n]
            out[b, t] = out[b, t] + chosen if add else chosen.detach() if cut else chosen
    return out


def mistake(**how):
    return lambda stream, ids, placeholder, features, lengths=None: place_by_hand(stream, ids, placeholder, features, lengths, **how)


def place_zeros(stream, ids, placeholder, features, lengths=None):
    """Placeholders without a feature become zero."""
    run, offset = runs(ids, placeholder)
    empty = place_features(torch.zeros_like(stream), ids, placeholder, torch.ones_like(features), lengths)[..., :1] == 0
    return torch.where(empty & (run >= 0)[..., None], 0.0, place_features(stream, ids, placeholder, features, lengths))


PLACE = Exercise(
    id="04.place_features",
    title="Putting features in their places",
    difficulty=3,
    importance=3,
    minutes=15,
    looks="The stream as it was, but for stretches where the features stand; what has no feature keeps its embedding.",
    hints=(
        "runs(ids, placeholder) says for each position which run and which place in it. Which of them have a feature? Those with run < R and place < the length that is valid.",
        "A loop is right and slow: for each row b, run r and place n, out[b, t] = features[b, r, n], on a clone of the stream. Then do it without a loop, if you like.",
        "Without a loop: clamp run and place into range, features[row, run, place] picks (B, T, D) at once, and torch.where(filled[..., None], chosen, stream) keeps the rest. row is torch.arange(B)[:, None].",
    ),
    reference=place_features,
    package_name="mmo.projector.place_features",
    cases=place_cases,
    bugs=(
        Bug("Every run got the features of the first. Run r takes features[b, r]; a run from R on keeps its embedding: only the first run of a sound is heard.", mistake(one_run=True)),
        Bug("Every place got the first feature of its run. Place n takes features[b, r, n].", mistake(again=True)),
        Bug("The padding behind a short sound was placed too. lengths[b, r] says how many of the N are real.", mistake(whole=True)),
        Bug("The features were handed out one after the other, as masked_scatter does, whoever they belong to: one sound too short, and all behind it are shifted.", mistake(crowd=True)),
        Bug("The features were added to the placeholders' embedding. They take its place.", mistake(add=True)),
        Bug("Placeholders without a feature became 0. They keep their embedding.", place_zeros),
        Bug("Nothing was placed.", lambda stream, ids, placeholder, features, lengths=None: stream.clone()),
    ),
    gradients=(0, 3),
    picture=lambda wanted, theirs: compare_maps(wanted[0].T, theirs[0].T, xlabel="position", ylabel="number in the vector"),
)

EXERCISES = (PROJECTOR, PARAMETERS, RUNS, PLACE)
