"""Notebook 06: parameters of a mixture, its router, its dispatch, its balance."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.tasks.thinker import drawn
from mmo.moe import MixtureOfExperts

# --- 06.parameters -----------------------------------------------------------------------------------------------


def parameters(width: int, inner: int, experts: int, top_k: int) -> tuple[int, int]:
    """(stored, active at one position) of a `MixtureOfExperts`; a test counts one."""
    router, expert = width * experts, 3 * width * inner
    return router + experts * expert, router + top_k * expert


PARAMETERS = Exercise(
    id="06.parameters",
    title="Stored and active",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="Two whole numbers. With one expert both are the same, but for the router they are the dense layer's.",
    hints=(
        "A SwiGLU has three matrices, each of width times inner numbers and without a bias.",
        "The router is one matrix: a score for each expert from each of the position's numbers. It is used at every position.",
        "Stored: the router and all experts. Active: the router and top_k experts.",
    ),
    reference=parameters,
    package_name="a count of the weights in mmo.moe.MixtureOfExperts",
    cases=lambda: [Case("width 6, inner 10, 4 experts, 1 a position", (6, 10, 4, 1)), Case("width 8, inner 24, 8 experts, 2 a position", (8, 24, 8, 2))],
    bugs=(
        Bug("The router is missing: it has a row of weights for each expert.", lambda w, i, e, k: (e * 3 * w * i, k * 3 * w * i)),
        Bug("You counted two matrices an expert. A SwiGLU has three: gate, up and down.", lambda w, i, e, k: (w * e + e * 2 * w * i, w * e + k * 2 * w * i)),
        Bug("Of the router you counted only the chosen experts' rows as active. All of it runs: there is no choice before every expert has a score.", lambda w, i, e, k: (w * e + e * 3 * w * i, w * k + k * 3 * w * i)),
        Bug("All experts were counted as active. A position meets top_k of them.", lambda w, i, e, k: (w * e + e * 3 * w * i, w * e + e * 3 * w * i)),
        Bug("The two numbers are swapped: stored comes first.", lambda w, i, e, k: parameters(w, i, e, k)[::-1]),
    ),
)


# --- 06.route ----------------------------------------------------------------------------------------------------


def route(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Gates and numbers of the chosen, best first, by `MixtureOfExperts.route`."""
    mixture = SimpleNamespace(gate=lambda x: F.linear(x, router), top_k=top_k, renormalise=renormalise)
    gates, chosen, _ = MixtureOfExperts.route(mixture, x)
    order = gates.argsort(dim=-1, descending=True)  # the package leaves their order open
    return gates.gather(-1, order), chosen.gather(-1, order)


def scores_of(x: Tensor, router: Tensor) -> Tensor:
    return F.linear(x, router).softmax(dim=-1)


def unnormalised(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    return tuple(scores_of(x, router).topk(top_k, dim=-1))


def always_normalised(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    return route(x, router, top_k, True)


def logits_as_gates(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    return tuple(F.linear(x, router).topk(top_k, dim=-1))


def over_positions(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    gates, chosen = F.linear(x, router).softmax(dim=0).topk(top_k, dim=-1)
    return (gates / gates.sum(-1, keepdim=True) if renormalise else gates), chosen


def softmax_twice(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    gates, chosen = scores_of(x, router).topk(top_k, dim=-1)
    return (gates.softmax(dim=-1) if renormalise else gates), chosen


ROUTE = Exercise(
    id="06.route",
    title="The router",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="For each position top_k gates and top_k expert numbers, the best first; renormalised gates add up to 1.",
    hints=(
        "A score for every expert: F.linear(x, router), then softmax over the experts, the last dimension.",
        "scores.topk(top_k, dim=-1) gives values and places at once, the best first.",
        "Renormalised: gates / gates.sum(dim=-1, keepdim=True). Otherwise the scores stay as they are.",
    ),
    reference=route,
    package_name="mmo.moe.MixtureOfExperts.route",
    cases=lambda: [
        Case("6 positions, 4 experts, the best two, renormalised", (drawn(6, 8), drawn(4, 8, seed=1), 2, True)),
        Case("6 positions, 4 experts, the best two, as they are", (drawn(6, 8, seed=2), drawn(4, 8, seed=3), 2, False)),
    ],
    bugs=(
        Bug("The gates do not add up to 1 although they should be renormalised: divide them by their sum.", unnormalised),
        Bug("You renormalise always; where `renormalise` is False the scores stay as the softmax gave them.", always_normalised),
        Bug("Those are the raw scores. A softmax over the experts comes before the choice.", logits_as_gates),
        Bug("The softmax runs over the positions: each expert spreads itself over the batch. It should run over the experts, the last dimension.", over_positions),
        Bug("A second softmax over the chosen is not the same as dividing by their sum: it flattens them.", softmax_twice),
    ),
    gradients=(0, 1),
)


# --- 06.dispatch -------------------------------------------------------------------------------------------------


def dispatch(x: Tensor, chosen: Tensor, experts: Tensor) -> Tensor:
    """`MixtureOfExperts.dispatch` with one expert a position and matrices for experts."""
    layers = [lambda rows, weight=weight: F.linear(rows, weight) for weight in experts]
    mixture = SimpleNamespace(experts=layers, top_k=1, renormalise=True)
    return MixtureOfExperts.dispatch(mixture, x, None, chosen[:, None])


def by_expert(x: Tensor, chosen: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs, still sorted by expert, and the order they are in."""
    order = chosen.argsort(stable=True)
    counts = chosen.bincount(minlength=len(experts)).tolist()
    return torch.cat([F.linear(rows, weight) for rows, weight in zip(x[order].split(counts), experts)]), order


def never_back(x: Tensor, chosen: Tensor, experts: Tensor) -> Tensor:
    return by_expert(x, chosen, experts)[0]


def same_way_again(x: Tensor, chosen: Tensor, experts: Tensor) -> Tensor:
    out, order = by_expert(x, chosen, experts)
    return out[order]


def transposed(x: Tensor, chosen: Tensor, experts: Tensor) -> Tensor:
    return dispatch(x, chosen, experts.mT)


def unsorted_rows(x: Tensor, chosen: Tensor, experts: Tensor) -> Tensor:
    counts = chosen.bincount(minlength=len(experts)).tolist()
    out = torch.cat([F.linear(rows, weight) for rows, weight in zip(x.split(counts), experts)])
    return out[chosen.argsort(stable=True).argsort()]


DISPATCH = Exercise(
    id="06.dispatch",
    title="Sorted once",
    difficulty=3,
    importance=3,
    minutes=15,
    looks="(N, D) as x, in the order of x: row n is experts[chosen[n]] applied to x[n].",
    hints=(
        "order = chosen.argsort(stable=True) puts the positions of expert 0 first, then those of expert 1, ...",
        "chosen.bincount(minlength=len(experts)).tolist() says how many each expert has, even where it has none; x[order].split(...) cuts there.",
        "Row i of the joined outputs belongs to position order[i]. Make an empty tensor of its shape and assign: out[order] = joined.",
    ),
    reference=dispatch,
    package_name="mmo.moe.MixtureOfExperts.dispatch",
    cases=lambda: [
        Case("9 positions, 3 experts", (drawn(9, 4), torch.tensor([2, 0, 1, 1, 2, 0, 2, 2, 1]), drawn(3, 4, 4, seed=1))),
        Case("an expert that nobody chose", (drawn(7, 4, seed=2), torch.tensor([3, 0, 0, 3, 1, 3, 0]), drawn(4, 4, 4, seed=3))),
    ],
    bugs=(
        Bug("The rows are right but still sorted by expert: position 0 gets another position's output. Put them back where they came from.", never_back),
        Bug("You sorted a second time instead of undoing it. Row i of the outputs belongs to position order[i]: out[order] = joined, or joined[order.argsort()].", same_way_again),
        Bug("The positions were cut into pieces without being sorted: each expert got its number of rows, but not its own.", unsorted_rows),
        Bug("The matrices are used the wrong way round: F.linear(rows, weight) multiplies by a weight of shape (out, in).", transposed),
    ),
    gradients=(0, 2),
)


# --- 06.balance --------------------------------------------------------------------------------------------------


def balance(scores: Tensor, chosen: Tensor) -> Tensor:
    """`MixtureOfExperts.balance_loss` with a coefficient of 1."""
    return MixtureOfExperts.balance_loss(SimpleNamespace(training=True, aux_loss_coef=1.0), scores, chosen)


def load(scores: Tensor, chosen: Tensor) -> Tensor:
    return F.one_hot(chosen, scores.shape[-1]).sum(dim=1).float().mean(dim=0)


def scored(*shape: int, seed: int) -> Tensor:
    return (2 * drawn(*shape, seed=seed)).softmax(dim=-1)


def balance_cases() -> Sequence[Case]:
    first, second = scored(8, 4, seed=0), scored(10, 5, seed=1)
    return [Case("8 positions, 4 experts, one each", (first, first.topk(1).indices)), Case("10 positions, 5 experts, two each", (second, second.topk(2).indices))]


BALANCE = Exercise(
    id="06.balance",
    title="The balance loss",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="One number: top_k where all experts are used and scored alike, E where everything goes to one.",
    hints=(
        "Two numbers an expert: how often it was chosen a position (its load), and its mean score over all positions.",
        "F.one_hot(chosen, E) is (N, k, E); summed over k and averaged over N it is the load (E,).",
        "E * (load * scores.mean(dim=0)).sum()",
    ),
    reference=balance,
    package_name="mmo.moe.MixtureOfExperts.balance_loss",
    cases=balance_cases,
    bugs=(
        Bug("The factor E is missing: with it the even case is the same number for any number of experts.", lambda scores, chosen: balance(scores, chosen) / scores.shape[-1]),
        Bug("You summed the load over the positions. It is a mean, or the loss would grow with the batch.", lambda scores, chosen: balance(scores, chosen) * len(scores)),
        Bug("That is the square of the load. A count has no gradient; the mean score has, which is why it stands there.", lambda scores, chosen: scores.shape[-1] * load(scores, chosen).square().sum() + 0 * scores.sum()),
        Bug("That is the square of the mean score. The load, what was really chosen, is one of the two factors.", lambda scores, chosen: scores.shape[-1] * scores.mean(dim=0).square().sum()),
        Bug("The load is a share of all choices, which add up to 1. It is how often an expert was chosen a position: with two experts a position the loads add up to 2.", lambda scores, chosen: balance(scores, chosen) / chosen.shape[1]),
        Bug("Only the first of each position's chosen experts was counted.", lambda scores, chosen: balance(scores, chosen[:, :1])),
    ),
    gradients=(0,),
)

EXERCISES = (PARAMETERS, ROUTE, DISPATCH, BALANCE)
