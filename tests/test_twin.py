"""The model made ready for decoding: joined products give the same answers, rounded weights what rounding allows."""

import pytest
import torch
from torch.nn import functional as F

from mmo.config import Decoding
from mmo.generation import Generator, Prompt, for_decoding
from mmo.omni import OmniModel
from mmo.transformer import Block
from mmo.twin import PRECISIONS, Int8Linear, PackedLinear, QuickAttention, step_bytes, tensor_bytes
from speakers import TOY, toy_model, toy_prompts

DECODING = Decoding(temperature=1.0, text_temperature=1.0, text_top_k=0, top_k=0, max_text=9, max_frames=12)
WIDE = TOY.replace(hidden_size=64, talker_hidden_size=64, num_attention_heads=4, intermediate_size=96, adapter_rank=32)
# 64 = 2 x 32, the pieces of the int8 product; TOY's widths of 32, 48 and 8 go through it and around it


def some_ids(*shape):
    return torch.randint(0, TOY.num_codes, shape, generator=torch.Generator().manual_seed(0))


def hidden_by_steps(model, ids, start=4):
    """Hidden states of ids (B, Q + 1, T): the first `start` positions at once, then one by one."""
    cache, found = model.make_cache(len(ids), ids.shape[-1]), []
    parts = [ids[..., :start], *ids[..., start:].split(1, dim=-1)]
    with torch.no_grad():
        for part in parts:
            found.append(model.hidden_states(part, cache=cache))
    return torch.cat([hidden.text for hidden in found], dim=1), torch.cat([hidden.audio for hidden in found], dim=1)


@pytest.mark.parametrize("use_moe", [False, True])
@pytest.mark.parametrize("config", [TOY, WIDE], ids=["narrow", "wide"])
def test_the_twins_hidden_states_are_the_models(config, use_moe):
    """A prompt at once and single steps after it, dense and with experts."""
    model = toy_model(config.replace(use_moe=use_moe))
    ids = some_ids(3, 9, 11)
    for one, other in zip(hidden_by_steps(model, ids), hidden_by_steps(for_decoding(model), ids), strict=True):
        assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("use_moe", [False, True])
def test_codes_are_those_of_the_model_as_it_was_trained(use_moe):
    """Alone and in batches of unequal prompts; the untouched model runs through the same loop."""
    model, prompts = toy_model(TOY.replace(use_moe=use_moe)), toy_prompts(5, 9, 7, 12)
    quick, plain = Generator(model, decoding=DECODING), Generator(model, decoding=DECODING)
    plain.model = model
    assert isinstance(quick.model.model.layers[0].self_attn, QuickAttention) and not isinstance(plain.model.model.layers[0].self_attn, QuickAttention)
    for batch in (1, 4):
        for one, other in zip(quick.generate_batch(prompts, batch=batch), plain.generate_batch(prompts, batch=batch), strict=True):
            assert one.text_ids == other.text_ids and torch.equal(one.codes, other.codes), f"batches of {batch}"


def test_the_model_is_left_alone():
    """Also where the twin has another precision, and where a compiler has replaced a block's forward."""
    model = toy_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.model.layers[0].forward = lambda *_: pytest.fail("the compiled block of the original was called")
    for precision in (None, *PRECISIONS):
        hidden_by_steps(for_decoding(model, precision), some_ids(1, 9, 6))
    del model.model.layers[0].forward
    assert all(torch.equal(value, before[name]) and value.dtype == torch.float32 for name, value in model.state_dict().items())
    assert all(type(block) is Block and "qkv_proj" not in dict(block.self_attn.named_children()) for block in model.model.layers)


# --- Precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_moe", [False, True])
@pytest.mark.parametrize("precision, close", [("bfloat16", 0.06), ("int8", 0.06)])
def test_rounded_weights_give_nearly_the_same_states(precision, close, use_moe):
    model = toy_model(WIDE.replace(use_moe=use_moe))
    if use_moe:  # a router that is torn between two experts may send rounded states elsewhere: give it no say
        for layer in (*model.model.layers, *model.talker.layers):
            layer.mlp.gate.weight.data.zero_()
    ids = some_ids(2, 9, 9)
    for exact, rough in zip(hidden_by_steps(model, ids), hidden_by_steps(for_decoding(model, precision), ids), strict=True):
        error = (exact - rough.float()).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
        assert 1e-5 < error < close, f"{precision}: {error:.4f} of the states' size"


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,), (Int8Linear.ROWS + 1,)], ids=str)
@pytest.mark.parametrize("inputs, outputs, bias", [(64, 96, False), (64, 31, True), (48, 96, True), (8, 7, False)])
def test_int8_product(shape, inputs, outputs, bias):
    """The product with the rounded weights, which are within half a step of their row's scale; activations pass through bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs, outputs, bias=bias)
    layer.weight.data[0] = 0  # a row of zeros has no size of its own
    rounded = Int8Linear(layer.weight, layer.bias)
    scales = rounded.scales.float()[:, None]
    back = rounded.weight.float() * scales
    assert ((back - layer.weight).abs() <= 0.8 * scales).all()  # half a step, and what a scale's own rounding cuts off the largest
    x = torch.randn(*shape, inputs)
    wanted = F.linear(x, back, layer.bias)
    found = rounded(x)
    assert found.shape == wanted.shape and found.dtype == x.dtype
    assert not wanted.numel() or (found - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)], ids=str)
def test_packed_product(shape, bias, monkeypatch):
    """Matrices laid out for oneDNN give what a linear layer in bfloat16 gives."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 31, bias=bias).bfloat16()
    if not PackedLinear.possible(layer.weight):
        pytest.skip("this machine has no bfloat16 products in oneDNN")
    x = torch.randn(*shape, 48).bfloat16()
    wanted, found = layer(x).float(), PackedLinear(layer.weight, layer.bias)(x)
    assert found.shape == wanted.shape and found.dtype == torch.bfloat16
    assert not wanted.numel() or (found.float() - wanted).abs().max() < 0.01 * wanted.abs().max()
    assert not PackedLinear.possible(layer.float().weight)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # as on a Mac, where these operations are not there at all
    assert not PackedLinear.possible(layer.bfloat16().weight)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_answers_with_sound_and_picture(precision):
    """Whatever is put into a prompt goes through the rounded model too."""
    ids = toy_prompts(14)[0].text_ids
    prompt = Prompt([*ids[:3], 16, 16, 16, *ids[6:8], 12, 12, 12, *ids[11:]], audio_features=torch.randn(3, 9), image_features=torch.randn(3, 7))
    answer = Generator(toy_model(WIDE), decoding=DECODING, precision=precision).answer(prompt)
    assert answer.codes.shape[1] and 0 <= int(answer.codes.min()) <= int(answer.codes.max()) < WIDE.num_codes


def test_bytes_of_a_step():
    """Half in bfloat16, a quarter (and the scales) in int8, fewer on the tail; of four experts one is read."""
    model = toy_model(WIDE)
    whole = step_bytes(for_decoding(model))
    talker, thinker = model.talker, model.model
    parts = [*thinker.layers, *talker.layers, model.lm_head, talker.lm_head, talker.embed_proj, talker.codec_proj]
    assert whole == pytest.approx(sum(tensor_bytes(part) for part in parts), rel=0.02)  # the norms of heads are laid side by side
    assert step_bytes(for_decoding(model, "bfloat16")) == whole // 2
    assert whole / 4 < step_bytes(for_decoding(model, "int8")) < whole / 3, "weights, and two bytes of scale for each row"
    upper = sum(tensor_bytes(block) for block in (*thinker.layers[thinker.num_lower :], model.lm_head))
    assert whole - step_bytes(for_decoding(model), tail=True) == pytest.approx(upper, rel=0.02)
    assert step_bytes(for_decoding(toy_model(WIDE.replace(use_moe=True)))) == pytest.approx(whole, rel=0.3)


def test_what_is_refused():
    with pytest.raises(ValueError, match="no precision 'float16'; there are float32, bfloat16, int8"):
        for_decoding(toy_model(), "float16")
    with pytest.raises(ValueError, match="int8 are for a CPU"):
        for_decoding(OmniModel(TOY).to("meta"), "int8")
