"""Notebook 03's stand-ins are what the rented encoder and its training really compute: a check against them means something."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmo.course.tasks import vision


@pytest.fixture(scope="module")
def siglip():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=12, patch_size=4)
    return SiglipVisionModel(config).eval()


@torch.no_grad()
def test_patchify_and_embed_are_siglips_embedding(siglip):
    pixels = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1))
    parts = siglip.vision_model.embeddings
    ours = vision.embed(vision.patchify(pixels, 4), parts.patch_embedding.weight, parts.patch_embedding.bias, parts.position_embedding.weight)
    assert torch.allclose(ours, parts(pixels[None])[0], atol=1e-5)


@torch.no_grad()
def test_attention_is_a_head_of_siglip(siglip):
    layer = siglip.vision_model.encoder.layers[0].self_attn
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(2))
    heads = [
        vision.attention(*(project(x)[:, 8 * head : 8 * head + 8] for project in (layer.q_proj, layer.k_proj, layer.v_proj)))[1]
        for head in range(2)
    ]
    assert torch.allclose(layer.out_proj(torch.cat(heads, dim=1)), layer(x[None])[0][0], atol=1e-5)


@pytest.mark.parametrize("case", range(2))
def test_sigmoid_loss_is_the_trainings(case):
    from mmo.world.train_vision_encoder import sigmoid_loss

    arguments = vision.sigmoid_loss_cases()[case].arguments
    assert torch.allclose(vision.sigmoid_loss(*arguments), sigmoid_loss(*arguments), atol=1e-6)


def test_probe_finds_what_was_put_in():
    """Features that hold a class in one of their numbers are read without a mistake."""
    classes = torch.arange(40) % 4
    features = F.one_hot(classes, 4).float() + 0.1 * vision.drawn(40, 4)
    weights = vision.probe(features, classes, 4, 0.1)
    assert torch.equal((features @ weights[:-1] + weights[-1]).argmax(dim=1), classes)
