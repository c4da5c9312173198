"""Notebook 14."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.thinker import drawn

HIDDEN = {
    "14.names": lambda: [Case("a layer of the Talker, 3 experts", ("talker.layers.2.mlp.up_proj.weight", 3)), Case("a norm", ("layers.3.post_attention_layernorm.weight", 4))],
    "14.usage": lambda: [
        Case("one position", (torch.tensor([2]), torch.tensor([1]), 3, 2)),
        Case("the last expert and the last kind unused", (torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 1]), 3, 3)),
    ],
    "14.at_seconds": lambda: [
        Case("before the first of two", (torch.tensor([3.0, 6.0]), torch.tensor([5.0, 4.0]), 1.0)),
        Case("exactly at one", (torch.tensor([1.0, 2.0, 4.0]), torch.tensor([5.0, 4.5, 3.0]), 2.0)),
        Case("a rising curve", (torch.linspace(0, 8, 5), drawn(5, seed=103).sort().values, 5.3)),
    ],
}
