"""Mixture of experts: a router sends each position to a few of several feed-forward layers.

    scores = softmax(router(x))            (N, E)   N = B x T positions, E experts
    choose the k best, weigh their outputs by their scores

The auxiliary loss keeps the load even (Fedus et al. 2021, arXiv:2101.03961, equation 4):
coef * E * sum_e load_e * mean_score_e, where load_e is how often e was chosen, a mean over positions.  It is computed in
training only, over all positions of the batch, so it is not the same for a batch and for its rows one by one.  Where several processes
share a batch they add up what was chosen (`MixtureOfExperts.pool`); each then has its share of the whole batch's loss.

**A quirk, reproduced.**  The original divides the chosen scores by their sum.  With one expert a position that makes
every gate exactly 1, a constant: no gradient of the task's loss reaches the router, which learns from the auxiliary
loss alone and so learns to be even, not to be right.  The cure is one line, Switch Transformer's own: with one
expert, keep its score as the gate.  `keep_top1_gate=True` does so; the default is the original's behaviour.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmo.config import TransformerConfig
from mmo.transformer import FeedForward


class MixtureOfExperts(nn.Module):
    """Routed feed-forward layers.  Positions are sorted by expert once; each expert is one dense product."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.renormalise = config.norm_topk_prob and not (config.keep_top1_gate and self.top_k == 1)
        self.aux_loss_coef = config.router_aux_loss_coef
        self.pool: Callable[[Tensor], Tensor] | None = None  # adds up a tensor over the processes that share a batch
        self.counted = True  # False: what passes now only keeps step with other processes
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            FeedForward(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> (B, T, D), and the auxiliary loss, a scalar (0 outside training)."""
        flat = x.reshape(-1, x.shape[-1])  # (N, D)
        gates, chosen, scores = self.route(flat)
        out = self.dispatch(flat, gates, chosen)
        alone = self.pool is None and self.counted
        return out.view_as(x), self.balance_loss(scores, chosen) if alone else self.shared_balance_loss(scores, chosen)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, D) -> gates (N, k) and expert numbers (N, k) of the chosen, and all scores (N, E) in fp32."""
        scores = self.gate(x).float().softmax(dim=-1)
        gates, chosen = scores.topk(self.top_k, dim=-1, sorted=False)
        if self.renormalise:
            gates = gates / gates.sum(dim=-1, keepdim=True)
        return gates, chosen, scores

    def dispatch(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs, (N, D)."""
        experts = chosen.flatten()  # (N k): choice j of position n at n k + j
        order = experts.argsort(stable=True)
        counts = experts.bincount(minlength=len(self.experts)).tolist()
        by_expert = x[order // self.top_k].split(counts)
        # An expert without positions still runs, on none: its gradients are zeros, as data-parallel training needs.
        out = torch.cat([expert(rows) for expert, rows in zip(self.experts, by_expert, strict=True)])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        out = out[back]
        if self.top_k == 1 and self.renormalise:
            return out  # the gate is s / s = 1
        return (out.view(-1, self.top_k, x.shape[-1]) * gates[..., None].to(out.dtype)).sum(dim=1)

    def dispatch_by_loop(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """The same sum spelt out, expert by expert: slow, easy to believe, and what tests compare `dispatch` with."""
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            gate = (gates * (chosen == number)).sum(dim=-1, keepdim=True)
            out = out + expert(x) * gate.to(x.dtype)
        return out

    def balance_loss(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """coef * E * sum_e load_e * mean_score_e: smallest where all experts are used alike."""
        if not self.training or self.aux_loss_coef == 0:
            return scores.new_zeros(())
        number = scores.shape[-1]
        load = F.one_hot(chosen, number).sum(dim=1).float().mean(dim=0)  # (E,), sums to k
        return self.aux_loss_coef * number * (load * scores.mean(dim=0)).sum()

    def shared_balance_loss(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """The same over all processes that share a batch: this one's share of it; the shares add up to the whole batch's loss.

        The load has no gradient, so once it is the load of all, what is left is linear in the scores.
        """
        if not self.training or self.aux_loss_coef == 0:
            return scores.new_zeros(())
        if self.pool is None:
            return self.balance_loss(scores, chosen) * self.counted
        number = scores.shape[-1]
        counts = F.one_hot(chosen, number).sum(dim=(0, 1)).float()  # (E,)
        together = self.pool(torch.cat((counts, counts.new_full((1,), len(chosen)))) * self.counted)
        load, positions = together[:-1] / together[-1], together[-1]
        return self.aux_loss_coef * number * (load * scores.sum(dim=0)).sum() * self.counted / positions


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Parameters stored, and of them those that work on any one position: of each mixture only k of its E experts."""
    stored = sum(parameter.numel() for parameter in module.parameters())
    idle = 0
    for mixture in (each for each in module.modules() if isinstance(each, MixtureOfExperts)):
        one = sum(parameter.numel() for parameter in mixture.experts[0].parameters())
        idle += (len(mixture.experts) - mixture.top_k) * one
    return stored, stored - idle


def make_feed_forward(config: TransformerConfig) -> nn.Module:
    """The second half of a block: one SwiGLU, or a mixture of them."""
    if config.use_moe:
        return MixtureOfExperts(config)
    return FeedForward(config.hidden_size, config.intermediate_size)


def upcycle(dense: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a dense stack -> weights of the same stack with mixtures (Komatsuzaki et al. 2022, arXiv:2212.05055).

    Every expert starts as a copy of the dense layer; the routers are those of `fresh`, the state of a newly drawn
    mixture model.  With gates of 1 (see above) both models then compute the same, and the experts part as they are
    trained on what the router sends them.  Weights that are a mixture's already pass through.
    """
    mixed = {name: weight for name, weight in fresh.items() if name.endswith(".mlp.gate.weight")}
    for name, weight in dense.items():
        stem, found, layer = name.rpartition(".mlp.")
        copies = [other for other in fresh if found and other.startswith(f"{stem}.mlp.experts.") and other.endswith(f".{layer}")]
        targets = copies if copies and name not in fresh else [name]
        mixed |= dict.fromkeys(targets, weight)
    return mixed
