"""Notebook 08's own parts: its stand-ins are the package's modules, its attention weights are the attention's, its depth transformer is causal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmo.config import IGNORE, ModelConfig
from mmo.course.depth import DepthTransformer
from mmo.course.exercises import find, judge
from mmo.course.looking import attention_shares, hear_by
from mmo.course.tasks import talker as tasks
from mmo.talker import CodeEmbedding, CodeHead, Talker
from mmo.transformer import make_window, run_blocks

TOY = ModelConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=40, talker_hidden_size=32, num_talker_hidden_layers=2,
    adapter_rank=4, spk_emb_size=5, audio_vocab_size=20, audio_pad_token=17, audio_stop_token=18, audio_spk_token=19, num_codebooks=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def stacked(parts, place):
    return torch.stack([part[place].weight for part in parts])


def test_stand_in_of_embed_is_code_embedding():
    module, codes = CodeEmbedding(TOY), torch.randint(20, (2, 3, 5))
    theirs = tasks.embed_codes(codes, module.base.weight, stacked(module.adapters, 0), stacked(module.adapters, 2))
    torch.testing.assert_close(theirs, module(codes))


def test_stand_in_of_heads_is_code_head():
    module, hidden = CodeHead(TOY), torch.randn(2, 5, 32)
    theirs = tasks.read_heads(hidden, module.base.weight, stacked(module.adapters, 0), stacked(module.adapters, 2))
    torch.testing.assert_close(theirs, module(hidden))


def test_stand_in_of_input_is_what_the_talkers_first_block_gets():
    """A Talker without blocks gives its input, normed."""
    module = Talker(TOY.replace(num_talker_hidden_layers=0))
    bridge, codes, speaker = torch.randn(2, 6, 24), torch.randint(17, (2, 3, 6)), torch.randn(2, 5)
    codes[:, :, 1] = TOY.audio_spk_token
    wanted, _ = module(bridge, codes, speaker, make_window(module.config, 6, "cpu"))
    x = tasks.talker_input(
        bridge, module.embed_tokens(codes), codes[:, 0], module.spk_proj(speaker), module.embed_proj, module.codec_proj,
        module.text_scale, module.audio_scale, TOY.audio_spk_token,
    )  # fmt: skip
    torch.testing.assert_close(module.norm(x), wanted)


def test_stand_in_of_loss_by_hand():
    """Two codebooks, written out: sums over labelled places, the stop tenfold above the line only, codebooks weighted."""
    logits = torch.randn(2, 3, 12)
    labels = torch.tensor([[4, tasks.STOP, IGNORE], [IGNORE, 2, 7]])
    each = -logits.log_softmax(-1)
    first = (each[0, 0, 4] + 10 * each[0, 1, tasks.STOP]) / 2
    second = (each[1, 1, 2] + each[1, 2, 7]) / 2
    theirs = tasks.audio_loss(logits, labels, tasks.STOP, 10.0, torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(theirs, (3 * first + second) / 4)


@pytest.mark.parametrize("layer", [0, 1])
def test_shares_give_what_the_attention_gives(layer):
    talker, x = Talker(TOY), torch.randn(2, 7, 32)
    window, attention = make_window(talker.config, 7, "cpu"), talker.layers[layer].self_attn
    shares = attention_shares(attention, x, window)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 8, 7))
    assert not shares.triu(1).any()
    torch.testing.assert_close(hear_by(attention, x, shares), attention(x, window))


# --- The depth transformer ---------------------------------------------------------------------------------------


def depth() -> DepthTransformer:
    return DepthTransformer(TOY, CodeEmbedding(TOY), width=16, rank=4, layers=2).eval()


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_code_is_seen_by_later_codebooks_only(changed):
    """Another code in codebook k changes the logits of codebooks behind k, and no others."""
    model, hidden, codes = depth(), torch.randn(4, 32), torch.randint(17, (4, 3))
    other = codes.clone()
    other[:, changed] = (other[:, changed] + 1) % 17
    moved = (model(hidden, codes) - model(hidden, other)).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [k > changed for k in range(3)]


def test_written_step_by_step_as_it_was_learnt():
    """Greedy writing gives codes that are the most likely ones given themselves."""
    model, hidden = depth(), torch.randn(5, 32)
    codes = model.write(hidden, lambda logits: logits.argmax(-1))
    assert torch.equal(model(hidden, codes).argmax(-1), codes)


def test_every_weight_of_the_depth_transformer_learns():
    """All but the last codebook's embedding, which nothing reads: no code comes behind it."""
    model, codes = depth(), torch.randint(17, (6, 3))
    F.cross_entropy(model(torch.randn(6, 32), codes).flatten(0, 1), codes.flatten()).backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert all(name.startswith("embed_tokens.adapters.2.") for name in idle), idle


def test_run_blocks_is_what_the_notebook_takes_apart():
    """Shares and hear_by, block after block, are the Talker's own blocks."""
    talker, x = Talker(TOY).eval(), torch.randn(1, 6, 32)
    window = make_window(talker.config, 6, "cpu")
    wanted, _ = run_blocks(talker.layers, x, window)
    for block in talker.layers:
        normed = block.input_layernorm(x)
        x = x + hear_by(block.self_attn, normed, attention_shares(block.self_attn, normed, window))
        x = x + block.mlp(block.post_attention_layernorm(x))
    torch.testing.assert_close(x, wanted)


# --- Mistakes as somebody would write them -----------------------------------------------------------------------


def embed_without_mean(codes, base, tables, outs):
    x = 0
    for k in range(len(tables)):
        x = x + base[codes[:, k]] + F.gelu(tables[k][codes[:, k]]) @ outs[k].T
    return x


def embed_detached(codes, base, tables, outs):
    return embed_without_mean(codes, base.detach(), tables, outs) / len(tables)


def heads_as_one_matrix(hidden, base, inner, outer):
    return torch.stack([hidden @ base.T + hidden @ inner[k].T @ outer[k].T for k in range(len(inner))], dim=2)


def input_of_all_positions(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    if (first == sign).any():
        embedded = voice[:, None].expand_as(embedded)
    return embed_proj(bridge) * text_scale + codec_proj(embedded) * audio_scale


def input_plainly_added(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    return embed_proj(bridge) + codec_proj(torch.where(first[..., None] == sign, voice[:, None], embedded))


def loss_of_torch(logits, labels, stop, stop_weight, codebook_weights):
    """cross_entropy's own weights: the denominator is weighted too."""
    weight = torch.ones(logits.shape[-1])
    weight[stop] = stop_weight
    means = torch.stack([F.cross_entropy(logits[k], labels[k], weight=weight) for k in range(len(labels))])
    return (means * codebook_weights).sum() / codebook_weights.sum()


def input_by_loops(bridge, embedded, first, voice, embed_proj, codec_proj, text_scale, audio_scale, sign):
    """Right, and where no speaker sign stands it never touches the voice: no gradient instead of zeros."""
    spoken = embedded.clone()
    for b, t in (first == sign).nonzero().tolist():
        spoken[b, t] = voice[b]
    return embed_proj(bridge) * text_scale + codec_proj(spoken) * audio_scale


def test_an_argument_that_a_case_has_no_use_for_needs_no_gradient():
    assert judge(find("08.input"), input_by_loops).passed


HAND_WRITTEN = [
    ("08.embed", embed_without_mean, "You summed over the codebooks"),
    ("08.embed", embed_detached, "no gradient reaches argument 2"),
    ("08.embed", lambda codes, base, tables, outs: base[codes].mean(dim=1), "The adapters are missing"),
    ("08.heads", heads_as_one_matrix, "The GELU is missing"),
    ("08.heads", lambda hidden, base, inner, outer: hidden @ base.T, "the shape is (2, 5, 12), wanted (2, 5, 3, 12)"),
    ("08.count", lambda A, D, R, Q: (A * D + Q * (A * R + R * D), Q * A * D), "the embedding alone"),
    ("08.input", input_of_all_positions, "cannot hear what it has said"),
    ("08.input", input_plainly_added, "The scales are missing"),
    ("08.loss", loss_of_torch, "in the denominator too"),
]


@pytest.mark.parametrize("id, wrong, words", HAND_WRITTEN, ids=[f"{id}-{words[:24]}" for id, _, words in HAND_WRITTEN])
def test_mistakes_written_by_hand_are_diagnosed(id, wrong, words):
    verdict = judge(find(id), wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words
