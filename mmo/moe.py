"""Mixture of experts: a router sends each position to a few of several feed-forward layers.

    scores = softmax(router(x))            (N, E)   N = B x T positions, E experts
    choose the k best, weigh their outputs by their scores

The auxiliary loss keeps the load even (Fedus et al. 2021, arXiv:2101.03961, equation 4):
coef * E * sum_e load_e * mean_score_e, where load_e is how often e was chosen, a mean over positions.  It is computed in
training only, over all positions of the batch, so it is not the same for a batch and for its rows one by one.  Where several processes
share a batch they add up what was chosen (`MixtureOfExperts.pool`); each then has its share of the whole batch's loss.

Positions are sorted by expert once, and each expert is one dense product: so the host must know how many each has, one copy of E
counts a layer.  In bfloat16 on a card of compute capability 9.0 one grouped product serves all experts and nobody waits; it
gives the same to 1e-5 where both compute in float32 (tests, on a CPU).  **It has not run on a card**: there was none.

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


ALIGNED = 8  # a grouped product's rows begin at multiples of 16 bytes: so many widths in bfloat16


class MixtureOfExperts(nn.Module):
    """Routed feed-forward layers.  Positions are sorted by expert once; each expert is one dense product."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.renormalise = config.norm_topk_prob and not (config.keep_top1_gate and self.top_k == 1)
        self.aux_loss_coef = config.router_aux_loss_coef
        self.pool: Callable[[Tensor], Tensor] | None = None  # adds up a tensor over the processes that share a batch
        self.counted = True  # False: what passes now only keeps step with other processes
        even = config.hidden_size % ALIGNED == 0 and config.moe_intermediate_size % ALIGNED == 0
        self.grouped = even  # all experts in one product where the card can (`grouped_in`); False: expert by expert everywhere
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            FeedForward(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> (B, T, D), and the auxiliary loss, a scalar (0 outside training)."""
        flat = x.reshape(-1, x.shape[-1])  # (N, D)
        gates, chosen, scores = self.route(flat)
        kind = grouped_in(flat) if self.grouped else None
        out = self.dispatch(flat, gates, chosen) if kind is None else self.dispatch_grouped(flat, gates, chosen, kind)
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
        """Weighted sum of the chosen experts' outputs, (N, D).  The host waits once, for how many positions each expert has."""
        experts = chosen.flatten()  # (N k): choice j of position n at n k + j
        order = experts.argsort(stable=True)
        counts = positions_of_each(experts, len(self.experts)).tolist()
        by_expert = x[order // self.top_k].split(counts)
        # An expert without positions still runs, on none: its gradients are zeros, as data-parallel training needs.
        out = torch.cat([expert(rows) for expert, rows in zip(self.experts, by_expert, strict=True)])
        return put_back(out, order, None if self.top_k == 1 and self.renormalise else gates)

    def dispatch_grouped(self, x: Tensor, gates: Tensor, chosen: Tensor, kind: torch.dtype) -> Tensor:
        """The same sum, all experts in one product a matrix: the card itself reads where each expert's rows end, and nobody waits.

        The product (`torch._grouped_mm`) is made for bfloat16 and not known to autocast, so rows and weights are brought to `kind` here.
        """
        experts = chosen.flatten()
        order = experts.argsort(stable=True)
        ends = positions_of_each(experts, len(self.experts)).cumsum(dim=0).to(torch.int32)  # (E,)
        rows = x[order // self.top_k].to(kind)
        gate, up = (self.grouped_product(rows, name, ends) for name in ("gate_proj", "up_proj"))
        out = self.grouped_product(F.silu(gate) * up, "down_proj", ends)
        return put_back(out, order, None if self.top_k == 1 and self.renormalise else gates)

    def grouped_product(self, rows: Tensor, name: str, ends: Tensor) -> Tensor:
        """rows (N k, inputs), sorted by expert -> (N k, outputs): expert e's layer `name` on its rows, which end before ends[e]."""
        weights = torch.stack([getattr(expert, name).weight.to(rows.dtype) for expert in self.experts])  # (E, outputs, inputs)
        return torch._grouped_mm(rows, weights.transpose(1, 2), offs=ends)

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


def positions_of_each(experts: Tensor, count: int) -> Tensor:
    """experts (N k) -> how many each of `count` has, (count,).  `bincount` would wait for its smallest and largest id on a card."""
    return (experts[:, None] == torch.arange(count, device=experts.device)).sum(dim=0)


def put_back(out: Tensor, order: Tensor, gates: Tensor | None) -> Tensor:
    """Outputs of sorted choices (N k, D) -> the sum at each position, (N, D), weighted by gates (N, k); None: one choice with a gate of s / s = 1."""
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    out = out[back]
    return out if gates is None else (out.view(*gates.shape, -1) * gates[..., None].to(out.dtype)).sum(dim=1)


def grouped_in(x: Tensor) -> torch.dtype | None:
    """In what precision one product can serve all experts on x's device: bfloat16 where that is computed in on a card of compute capability 9.0.

    None elsewhere: on other cards `torch._grouped_mm` is a loop that asks the host too (or is not there), and float32 would be rounded.
    """
    if x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) != (9, 0):
        return None
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return kind if kind == torch.bfloat16 else None


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
