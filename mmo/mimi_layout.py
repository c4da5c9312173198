"""Mimi's weights in the layout of `transformers` (kyutai/mimi), as moshi's `MimiModel` wants them.

The hubs have Mimi twice: in moshi's layout, and as `transformers.MimiModel` saves it.  The numbers are the same but for one thing.

- Names differ, one for one: every name of moshi's has its place here (`transformers_name`).
- moshi keeps the projections of queries, keys and values in one matrix.
- Rotary positions: moshi turns neighbouring pairs (0, 1), (2, 3), … of a head, transformers pairs its halves (0, d/2), (1, d/2 + 1), …
  So the rows of the query and key projections stand in another order: `interleaved` undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from mmo.weights import check_fit

Layout = Literal["moshi", "transformers"]
SIGN = {"quantizer.rvq_first.input_proj.weight": "moshi", "quantizer.semantic_residual_vector_quantizer.input_proj.weight": "transformers"}
QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")
# moshi's words -> transformers' words, one after the other
RENAMES = (
    (r"\.(conv|convtr)(\.\1)+\.", ".conv."),
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"_transformer\.transformer\.", "_transformer."),
    (r"\.self_attn\.out_projs\.0\.", ".self_attn.o_proj."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"\.rvq_first\.", ".semantic_residual_vector_quantizer."),
    (r"\.rvq_rest\.", ".acoustic_residual_vector_quantizer."),
    (r"\.vq\.layers\.(\d+)\._codebook\._?", r".layers.\1.codebook."),
    (r"\.embedding_sum$", ".embed_sum"),
)
# What transformers lets one choose and moshi's Mimi has built in: another value cannot be converted.
BUILT_IN = {
    "sampling_rate": 24000, "audio_channels": 1, "num_residual_layers": 1, "kernel_size": 7, "last_kernel_size": 3,
    "residual_kernel_size": 3, "dilation_growth_rate": 2, "use_causal_conv": True, "pad_mode": "constant", "compress": 2,
    "trim_right_ratio": 1.0, "use_conv_shortcut": False, "num_semantic_quantizers": 1, "hidden_act": "gelu", "norm_eps": 1e-5,
    "rope_theta": 10000.0, "attention_bias": False,
}  # fmt: skip


def layout_of(names: Iterable[str], source: str) -> Layout:
    """Which layout a file's names are of.  Raises ValueError where they are of neither."""
    found = [layout for sign, layout in SIGN.items() if sign in set(names)]
    if len(found) != 1:
        raise ValueError(f"{source} is no Mimi: of {' and '.join(SIGN)} it must have exactly one")
    return found[0]


def transformers_name(name: str) -> str:
    """moshi's name of a weight -> transformers' name (queries, keys and values, which moshi has in one, apart)."""
    for pattern, word in RENAMES:
        name = re.sub(pattern, word, name)
    return name


def moshi_sizes(settings: Mapping, source: str) -> dict:
    """A `config.json` of transformers -> arguments of `codec.codec_config`; what it does not name has the real Mimi's value.

    Raises ValueError naming settings that moshi's Mimi has otherwise built in.
    """
    width, heads = settings.get("hidden_size", 512), settings.get("num_attention_heads", 8)
    code_width = settings.get("vector_quantization_hidden_dimension", 256)
    tied_to_sizes = {"num_key_value_heads": heads, "head_dim": width // heads, "upsample_groups": width, "codebook_dim": code_width}
    wanted = BUILT_IN | tied_to_sizes
    odd = {name: settings[name] for name, value in wanted.items() if settings.get(name) is not None and settings[name] != value}
    if odd:
        raise ValueError(f"{source}: moshi's Mimi cannot be built so: {odd}; it has {({name: wanted[name] for name in odd})}")
    return {
        "n_filters": settings.get("num_filters", 64),
        "dimension": width,
        "layers": settings.get("num_hidden_layers", 8),
        "bins": settings.get("codebook_size", 2048),
        "codebooks": settings.get("num_quantizers", 32),
        "heads": heads,
        "feedforward": settings.get("intermediate_size", 2048),
        "code_dimension": code_width,
        "context": settings.get("sliding_window", 250),
        "ratios": settings.get("upsampling_ratios") or (8, 6, 5, 4),
    }


def moshi_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: int, source: str) -> dict[str, Tensor]:
    """Weights in transformers' layout -> the same under moshi's names; `wanted`: a moshi model's own state, for names and shapes.

    Raises ValueError naming weights that are missing, unexpected, or of another shape.
    """
    check_fit(transformers_shapes(wanted), state, source)
    found = {}
    for name in wanted:
        theirs = transformers_name(name)
        if parts := split_names(theirs):
            queries, keys, values = (state[part] for part in parts)
            found[name] = torch.cat((interleaved(queries, heads), interleaved(keys, heads), values))
        else:
            found[name] = state[theirs]
    return found


def split_names(name: str) -> list[str]:
    """The three matrices that moshi has in one; empty for every other weight."""
    return [name.replace("in_projs.0", part) for part in QUERIES_KEYS_VALUES] if ".in_projs.0." in name else []


def transformers_shapes(wanted: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that transformers' layout must have for a moshi model's state."""
    shapes = {}
    for name, value in wanted.items():
        theirs = transformers_name(name)
        parts = split_names(theirs)
        third = (value.shape[0] // 3, *value.shape[1:])
        shapes |= dict.fromkeys(parts, third) if parts else {theirs: tuple(value.shape)}
    return shapes


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection (D, D): halves of each head -> neighbouring pairs."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)
