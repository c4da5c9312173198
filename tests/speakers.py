"""Toy model, codec and prompts for the tests of streaming, generation and `mmo say`."""

import torch

from mmo.codec import build_mimi, codec_config
from mmo.config import ModelConfig
from mmo.generation import Prompt
from mmo.omni import OmniModel

TOY = ModelConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
    intermediate_size=48,
    talker_hidden_size=32,
    num_talker_hidden_layers=2,
    spk_emb_size=5,
    audio_vocab_size=24,
    audio_pad_token=17,
    audio_stop_token=18,
    audio_spk_token=19,
    audio_hidden_size=9,
    image_hidden_size=7,
    image_token_len=3,
    adapter_rank=8,
    max_position_embeddings=256,
)
TOY_CODEC = codec_config(n_filters=4, dimension=32, layers=1, bins=16, codebooks=8, feedforward=64)


def toy_model(config: ModelConfig = TOY, seed: int = 0) -> OmniModel:
    torch.manual_seed(seed)
    return OmniModel(config).eval()


def random_mimi(config: dict = TOY_CODEC, seed: int = 0):
    """A Mimi that can be heard: fresh codebooks are all zero, and a fresh layer scale of 0.01 hides the transformers."""
    torch.manual_seed(seed)
    model = build_mimi(config)
    for name, value in model.named_buffers():
        if name.endswith("embedding_sum"):
            value.normal_()
        elif name.endswith("cluster_usage"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("_initialized"):
            value.fill_(1)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            parameter.data.fill_(1.0)
    return model.eval()


def toy_prompt(length: int, seed: int = 0, **parts) -> Prompt:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(20, 200, (length,), generator=generator).tolist()
    return Prompt(ids, speaker=torch.randn(TOY.spk_emb_size, generator=generator), seed=seed, **parts)


def toy_prompts(*lengths: int) -> list[Prompt]:
    return [toy_prompt(length, seed) for seed, length in enumerate(lengths)]
