"""Notebook 14: upcycling by names, a table of who uses which expert, two curves at equal seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_maps
from mmo.course.tasks.thinker import drawn

# --- 14.names ----------------------------------------------------------------------------------------------------


def names(name: str, experts: int) -> list[str]:
    """Where a dense weight goes in the mixture; a test holds it against `mmo.moe.upcycle`."""
    stem, found, layer = name.rpartition(".mlp.")
    return [f"{stem}.mlp.experts.{expert}.{layer}" for expert in range(experts)] if found else [name]


def first_only(name: str, experts: int) -> list[str]:
    return names(name, 1)


def everywhere(name: str, experts: int) -> list[str]:
    stem, _, layer = name.rpartition(".")
    return [f"{stem}.experts.{expert}.{layer}" for expert in range(experts)]


def from_one(name: str, experts: int) -> list[str]:
    stem, found, layer = name.rpartition(".mlp.")
    return [f"{stem}.mlp.experts.{expert}.{layer}" for expert in range(1, experts + 1)] if found else [name]


NAMES = Exercise(
    id="14.names",
    title="Upcycling, by name",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="For a feed-forward weight one name an expert; for any other weight a list with its own name.",
    hints=(
        "In the mixture layers.0.mlp.up_proj.weight is layers.0.mlp.experts.0.up_proj.weight, and so on for each expert.",
        "Only what lies in .mlp. is copied; attention, norms and the embedding keep their names.",
        'stem, found, layer = name.rpartition(".mlp."); found is empty where the name has no .mlp. in it.',
    ),
    reference=names,
    package_name="mmo.moe.upcycle",
    cases=lambda: [
        Case("a feed-forward weight, 4 experts", ("layers.0.mlp.gate_proj.weight", 4)),
        Case("another layer, 2 experts", ("layers.11.mlp.down_proj.weight", 2)),
        Case("an attention weight", ("layers.0.self_attn.q_proj.weight", 4)),
        Case("the embedding", ("embed_tokens.weight", 3)),
    ],
    bugs=(
        Bug("Only the first expert gets the weight. The others would start at random, and the model would not be the dense one.", first_only),
        Bug("Attention and embedding have no experts: what is not in .mlp. keeps its name.", everywhere),
        Bug("Experts are counted from 0.", from_one),
    ),
)


# --- 14.usage ----------------------------------------------------------------------------------------------------


def usage(chosen: Tensor, kinds: Tensor, experts: int, count: int) -> Tensor:
    """chosen (N,), kinds (N,) -> (count, experts): of each kind's positions, the share that goes to each expert."""
    table = F.one_hot(kinds * experts + chosen, count * experts).sum(dim=0).view(count, experts).float()
    return table / table.sum(dim=1, keepdim=True).clamp(min=1)


def usage_cases() -> Sequence[Case]:
    generator = torch.Generator().manual_seed(0)
    return [
        Case("40 positions of 3 kinds, 4 experts", (torch.randint(4, (40,), generator=generator), torch.randint(3, (40,), generator=generator), 4, 3)),
        Case("a kind that does not occur", (torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 0, 2, 2, 2]), 2, 3)),
    ]


def counted(chosen: Tensor, kinds: Tensor, experts: int, count: int) -> Tensor:
    return F.one_hot(kinds * experts + chosen, count * experts).sum(dim=0).view(count, experts).float()


def by_column(chosen: Tensor, kinds: Tensor, experts: int, count: int) -> Tensor:
    table = counted(chosen, kinds, experts, count)
    return table / table.sum(dim=0, keepdim=True).clamp(min=1)


def of_all(chosen: Tensor, kinds: Tensor, experts: int, count: int) -> Tensor:
    return counted(chosen, kinds, experts, count) / len(chosen)


def divided_by_nothing(chosen: Tensor, kinds: Tensor, experts: int, count: int) -> Tensor:
    table = counted(chosen, kinds, experts, count)
    return table / table.sum(dim=1, keepdim=True)


USAGE = Exercise(
    id="14.usage",
    title="Who goes where",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="A table (kinds, experts) whose rows add up to 1; a row of zeros for a kind that does not occur.",
    hints=(
        "Count first: how many positions of kind i go to expert e?",
        "One number for each pair: kinds * experts + chosen. torch.bincount(..., minlength=count * experts) counts them all at once.",
        "Divide each row by its sum, and clamp that at 1, so that an empty row stays zeros.",
    ),
    reference=usage,
    package_name="mmo.course.tasks.dense_moe.usage",
    cases=usage_cases,
    bugs=(
        Bug("Those are counts. A frequent kind would look as if it used every expert more.", counted),
        Bug("The columns add up to 1, not the rows: that is what an expert's positions are, not where a kind's go.", by_column),
        Bug("You divided by all positions. Each kind's row is to add up to 1 by itself.", of_all),
        Bug("A kind that does not occur gives 0 / 0. Clamp the sum at 1.", divided_by_nothing),
    ),
    picture=lambda wanted, theirs: compare_maps(wanted, theirs, alt="The table wanted and yours.", xlabel="expert", ylabel="kind"),
)


# --- 14.at_seconds -----------------------------------------------------------------------------------------------


def at_seconds(seconds: Tensor, losses: Tensor, moment: float) -> float:
    """The loss at a moment, straight lines between the measurements, the ends held."""
    return float(np.interp(moment, seconds.numpy(), losses.numpy()))


def nearest(seconds: Tensor, losses: Tensor, moment: float) -> float:
    return float(losses[(seconds - moment).abs().argmin()])


def as_step(seconds: Tensor, losses: Tensor, moment: float) -> float:
    return float(losses[min(int(moment), len(losses) - 1)])


def straight_on(seconds: Tensor, losses: Tensor, moment: float) -> float:
    place = int(torch.searchsorted(seconds, torch.tensor(moment)).clamp(1, len(seconds) - 1))
    share = (moment - seconds[place - 1]) / (seconds[place] - seconds[place - 1])
    return float(losses[place - 1] + share * (losses[place] - losses[place - 1]))


def latest(seconds: Tensor, losses: Tensor, moment: float) -> float:
    return float(losses[max(0, int(torch.searchsorted(seconds, torch.tensor(moment), right=True)) - 1)])


AT_SECONDS = Exercise(
    id="14.at_seconds",
    title="At equal seconds",
    difficulty=1,
    importance=3,
    minutes=6,
    looks="One number between the two measurements around the moment.",
    hints=(
        "The curve is given at the moments `seconds`. Which two lie around the one wanted?",
        "Between them the line is straight. Before the first and behind the last hold their values: nothing was measured there.",
        "numpy.interp(moment, seconds, losses) does all of it.",
    ),
    reference=at_seconds,
    package_name="numpy.interp",
    cases=lambda: [
        Case("between two measurements", (torch.tensor([2.0, 5.0, 9.0]), torch.tensor([4.0, 3.0, 2.5]), 6.0)),
        Case("before the first", (torch.tensor([2.0, 5.0, 9.0]), torch.tensor([4.0, 3.0, 2.5]), 1.0)),
        Case("behind the last", (torch.tensor([2.0, 5.0, 9.0]), torch.tensor([4.0, 3.0, 2.5]), 12.0)),
        Case("another curve", (torch.linspace(1, 30, 7), 3 + drawn(7, seed=1), 19.0)),
    ],
    bugs=(
        Bug("That is the nearest measurement. Between two the line is straight.", nearest),
        Bug("The moment was used as a step's number. It is in seconds, and steps of the two models do not take the same time.", as_step),
        Bug("You drew a line on beyond what was measured. Before the first and behind the last, hold their values.", straight_on),
        Bug("That is the last measurement before the moment. Go on along the line to the next.", latest),
    ),
)

EXERCISES = (NAMES, USAGE, AT_SECONDS)
