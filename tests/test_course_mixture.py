"""Notebooks 06 and 14: what stands in for the package is the package's."""

import torch

from mmo.config import ModelConfig
from mmo.course.tasks import dense_moe, mixture
from mmo.moe import MixtureOfExperts, upcycle
from mmo.thinker import Thinker

CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=40, max_position_embeddings=32)


def test_parameters_are_those_of_a_mixture():
    config = CONFIG.replace(use_moe=True, num_experts=5, num_experts_per_tok=2).thinker
    layer = MixtureOfExperts(config)
    one = sum(p.numel() for p in layer.experts[0].parameters())
    stored = sum(p.numel() for p in layer.parameters())
    assert mixture.parameters(config.hidden_size, config.moe_intermediate_size, 5, 2) == (stored, stored - 3 * one)


def test_dispatch_is_the_loop_over_positions():
    x, experts = mixture.drawn(9, 4), mixture.drawn(3, 4, 4, seed=1)
    chosen = torch.tensor([2, 0, 1, 1, 2, 0, 2, 2, 1])
    expected = torch.stack([experts[e] @ row for e, row in zip(chosen, x)])
    assert torch.allclose(mixture.dispatch(x, chosen, experts), expected, atol=1e-6)


def test_balance_is_top_k_where_all_are_alike():
    assert torch.isclose(mixture.balance(torch.full((8, 4), 0.25), torch.arange(16).view(8, 2) % 4), torch.tensor(2.0))


def test_names_are_those_that_upcycling_fills():
    dense, fresh = Thinker(CONFIG).state_dict(), Thinker(CONFIG.replace(use_moe=True)).state_dict()
    filled = {target for name in dense for target in dense_moe.names(name, CONFIG.num_experts)}
    assert filled == {name for name in upcycle(dense, fresh) if not name.endswith(".mlp.gate.weight")}


def test_usage_counts_by_hand():
    chosen, kinds = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 0, 2, 2, 2])
    assert torch.allclose(dense_moe.usage(chosen, kinds, 2, 3), torch.tensor([[0.5, 0.5], [0.0, 0.0], [1 / 3, 2 / 3]]))
