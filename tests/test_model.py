"""The model's invariants: cached = full, padded = alone, batched = one by one, skipped = heard all the same."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmo import fused
from mmo.config import IGNORE, ModelConfig
from mmo.fused import attend_by_products, rms_norm, rotate
from mmo.moe import MixtureOfExperts, count_parameters, grouped_in
from mmo.omni import OmniModel, audio_loss_sums, labelled_places, last_hidden, load_model, load_weights, loss_sums, save_model
from mmo.projector import place_features
from mmo.transformer import RMSNorm, rotary_table
from speakers import TOY

SMALL = TOY.replace(vocab_size=70, max_position_embeddings=64)
MIXTURE = SMALL.replace(use_moe=True, num_experts_per_tok=2)
AUDIO, IMAGE = SMALL.audio_ids[0], SMALL.image_ids[0]


def make_model(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return OmniModel(config).eval()


def random_ids(config, batch, length, seed=0):
    """Codes of all kinds, one speaker sign a row, text with a run of speech and one of picture placeholders."""
    generator = torch.Generator().manual_seed(seed)
    Q = config.num_codebooks
    codes = torch.randint(0, config.audio_vocab_size - 5, (batch, Q, length), generator=generator)
    codes[:, :, min(6, length - 1)] = config.audio_spk_token
    text = torch.randint(20, config.vocab_size, (batch, 1, length), generator=generator)
    text[:, :, 1:4], text[:, :, 5:8] = AUDIO, IMAGE
    return torch.cat((codes, text), dim=1)


def random_features(config, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "audio_features": torch.randn(batch, 4, config.audio_hidden_size, generator=generator),
        "audio_lengths": torch.arange(batch) % 5,
        "image_features": torch.randn(batch, config.image_token_len, config.image_hidden_size, generator=generator),
    }


def random_speaker(config, batch):
    return torch.randn(batch, config.spk_emb_size, generator=torch.Generator().manual_seed(2))


def random_labels(config, batch, length, seed=3):
    """Labels on the second half, a stop here and there, rows and codebooks of different length."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(0, config.vocab_size, (batch, length), generator=generator)
    audio = torch.randint(0, config.num_codes, (batch, config.num_codebooks, length), generator=generator)
    audio[:, :, -2] = config.audio_stop_token
    text[:, : length // 2] = IGNORE
    for k in range(config.num_codebooks):
        audio[:, k, : length // 2 + k % 4] = IGNORE
    return text, audio


def close(actual, expected, atol=2e-5, rtol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


both = pytest.mark.parametrize("config", [SMALL, MIXTURE], ids=["dense", "moe"])


# --- Cache: cached = full ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("chunks", [(12,), (8, 1, 1, 1, 1), (1,) * 12, (5, 4, 3), (9, 2, 1)])
@torch.inference_mode()
def test_cached_equals_full(config, chunks):
    """Whatever the chunks in which positions arrive, the hidden states are those of one full forward."""
    model, speaker = make_model(config), random_speaker(config, 2)
    ids, features = random_ids(config, 2, 12), random_features(config, 2)
    if chunks[0] < 8:  # placeholders must arrive together with their features
        features = {}
    full = model.hidden_states(ids, speaker=speaker, **features)
    cache, start, text, audio = model.make_cache(2, 12), 0, [], []
    for chunk in chunks:
        hidden = model.hidden_states(
            ids[..., start : start + chunk], speaker=speaker, cache=cache, **(features if start == 0 else {})
        )
        text.append(hidden.text)
        audio.append(hidden.audio)
        start += chunk
        assert cache.length == start
    close(torch.cat(text, 1), full.text)
    close(torch.cat(audio, 1), full.audio)


@both
@pytest.mark.parametrize("prompt_lengths", [(9, 9, 9), (9, 4, 1), (2, 9, 8)])
@torch.inference_mode()
def test_prompts_of_unequal_length_decode_as_if_alone(config, prompt_lengths):
    """A batch of right-padded prompts, then steps of one and of two positions: each row as in its own full forward."""
    model, batch, steps = make_model(config), 3, (1, 1, 2, 1)
    speaker = random_speaker(config, batch)
    rows = [random_ids(config, 1, length + sum(steps), seed=length)[0] for length in prompt_lengths]
    prompts = torch.randint(0, 17, (batch, config.num_codebooks + 1, max(prompt_lengths)))  # padding is any garbage
    for b, length in enumerate(prompt_lengths):
        prompts[b, :, :length] = rows[b][:, :length]

    cache = model.make_cache(batch, 20)
    hidden = model.hidden_states(prompts, speaker=speaker, cache=cache, lengths=prompt_lengths)
    text = [last_hidden(hidden.text, prompt_lengths)]
    audio = [last_hidden(hidden.audio, prompt_lengths)]
    done = 0
    for step in steps:
        pieces = [row[:, n + done : n + done + step] for row, n in zip(rows, prompt_lengths, strict=True)]
        hidden = model.hidden_states(torch.stack(pieces), speaker=speaker, cache=cache)
        text.append(hidden.text)
        audio.append(hidden.audio)
        done += step
    assert cache.lengths.rows == [n + done for n in prompt_lengths]
    for b, length in enumerate(prompt_lengths):
        alone = model.hidden_states(rows[b][None], speaker=speaker[b : b + 1])
        close(torch.cat(text, 1)[b], alone.text[0, length - 1 :])
        close(torch.cat(audio, 1)[b], alone.audio[0, length - 1 :])


@torch.inference_mode()
def test_lengths_may_differ_in_later_calls_too():
    """A second right-padded chunk: rows grow by different amounts."""
    model = make_model()
    rows = [random_ids(SMALL, 1, 9, seed=s)[0] for s in (1, 2)]
    cache = model.make_cache(2, 12)
    model.hidden_states(torch.stack([row[:, :3] for row in rows]), cache=cache)
    second = torch.stack([rows[0][:, 3:7], rows[1][:, 3:7]])
    model.hidden_states(second, cache=cache, lengths=[4, 1])
    third = torch.stack([rows[0][:, 7:8], rows[1][:, 4:5]])
    hidden = model.hidden_states(third, cache=cache)
    close(hidden.audio[0, 0], model.hidden_states(rows[0][None]).audio[0, 7])
    close(hidden.audio[1, 0], model.hidden_states(rows[1][None]).audio[0, 4])


@torch.inference_mode()
def test_tail_skips_layers_and_is_not_heard():
    """tail=True: the same audio, no text; afterwards the cache refuses to give text."""
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    full = model.hidden_states(ids)
    cache = model.make_cache(2, 12)
    model.hidden_states(ids[..., :8], cache=cache)
    for t in range(8, 12):
        hidden = model.hidden_states(ids[..., t : t + 1], cache=cache, tail=True)
        assert hidden.text is None
        close(hidden.audio[:, 0], full.audio[:, t])
    with pytest.raises(ValueError, match="no more text"):
        model.hidden_states(ids[..., :1], cache=cache)


@torch.inference_mode()
def test_cache_says_what_does_not_fit():
    model, ids = make_model(), random_ids(SMALL, 2, 10)
    with pytest.raises(ValueError, match="max_length 8"):
        model.hidden_states(ids, cache=model.make_cache(2, 8))
    with pytest.raises(ValueError, match="holds 3 rows, the input 2"):
        model.hidden_states(ids, cache=model.make_cache(3, 20))
    with pytest.raises(ValueError, match=r"lengths must be 2 numbers in 1\.\.10"):
        model.hidden_states(ids, cache=model.make_cache(2, 20), lengths=[11, 3])
    with pytest.raises(ValueError, match="go with a cache"):
        model.hidden_states(ids, lengths=[10, 3])
    with pytest.raises(ValueError, match="max_position_embeddings 64"):
        model.hidden_states(random_ids(SMALL, 1, 65))
    with pytest.raises(ValueError, match="8 of codes and one of text"):
        model.hidden_states(ids[:, 1:])


# --- Batches: padded = alone -----------------------------------------------------------------------------------------


@both
def test_right_padding_changes_nothing(config):
    """Rows of a padded batch give the hidden states and summed losses that they give alone."""
    model, lengths = make_model(config), (12, 7, 9)
    rows = [random_ids(config, 1, length, seed=length) for length in lengths]
    labels = [random_labels(config, 1, length, seed=length) for length in lengths]
    ids = torch.zeros(3, config.num_codebooks + 1, 12, dtype=torch.long)
    ids[:, :-1] = config.audio_pad_token
    text = torch.full((3, 12), IGNORE)
    audio = torch.full((3, config.num_codebooks, 12), IGNORE)
    for b, length in enumerate(lengths):
        ids[b, :, :length] = rows[b][0]
        text[b, :length], audio[b, :, :length] = labels[b][0][0], labels[b][1][0]

    together = loss_sums(model, model.hidden_states(ids), text, audio)
    alone = [loss_sums(model, model.hidden_states(row), *label) for row, label in zip(rows, labels, strict=True)]
    for name in ("text", "text_count", "audio", "audio_count"):
        close(getattr(together, name), sum(getattr(one, name) for one in alone), atol=1e-3)


@both
def test_layers_above_the_bridge_may_stop_at_the_last_text_label(config):
    """text_length: the same losses and the same gradients, of all weights, as with all positions (but for sums in another order)."""
    ids, (text, audio) = random_ids(config, 2, 12), random_labels(config, 2, 12)
    text[:, 8:] = IGNORE
    results = []
    for text_length in (None, 8):
        model = make_model(config)
        hidden = model.hidden_states(ids, text_length=text_length)
        assert hidden.text.shape[1] == (text_length or 12)
        sums = loss_sums(model, hidden, text, audio)
        (sums.text_loss() + sums.audio_loss()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((sums.text_loss(), sums.audio_loss(), gradients))
    assert set(results[0][2]) == set(results[1][2]) and any(f"model.layers.{config.num_hidden_layers - 1}." in name for name in results[0][2])
    close(results[0][0], results[1][0], atol=1e-6, rtol=1e-6)
    close(results[0][1], results[1][1], atol=1e-6, rtol=1e-6)
    for name, gradient in results[0][2].items():
        close(results[1][2][name], gradient, atol=5e-6, rtol=1e-5)


def test_text_length_must_reach_the_last_text_label():
    """A text_length that is too short would drop labels without a word; loss_sums refuses."""
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    text, audio = random_labels(SMALL, 2, 12)
    with pytest.raises(ValueError, match="text_length"):
        loss_sums(model, model.hidden_states(ids, text_length=8), text, audio)


@pytest.mark.parametrize("speaking", [None, (0, 2)])
def test_the_last_blocks_may_compute_the_labelled_positions_only(speaking):
    """read: the same losses and the same gradients of all weights, also where some rows say nothing and text ends early."""
    config = SMALL
    ids, (text, audio) = random_ids(config, 3, 12), random_labels(config, 3, 12)
    text[:, 8:] = IGNORE
    audio[:, :, 9:] = IGNORE
    if speaking:
        audio[1] = IGNORE
    results = []
    for read in (None, labelled_places(text, audio, 8, speaking, "cpu")):
        model = make_model(config)
        hidden = model.hidden_states(ids, text_length=8, speaking=speaking, read=read)
        sums = loss_sums(model, hidden, text, audio)
        (sums.text_loss() + sums.audio_loss()).backward()
        results.append((sums, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (whole, gradients), (some, others) = results
    assert hidden.text.shape == (int(whole.text_count), config.hidden_size) and hidden.audio.dim() == 2
    close(some.text_loss(), whole.text_loss(), atol=1e-6, rtol=1e-6)
    close(some.audio_loss(), whole.audio_loss(), atol=1e-6, rtol=1e-6)
    assert set(gradients) == set(others)
    for name, gradient in gradients.items():
        close(others[name], gradient, atol=5e-6, rtol=1e-5)


def test_places_must_be_those_of_the_labels():
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    text, audio = random_labels(SMALL, 2, 12)
    read = labelled_places(text, audio, 12, None, "cpu")
    text[0, -1] = 0 if text[0, -1] == IGNORE else IGNORE
    with pytest.raises(ValueError, match="labelled_places"):
        loss_sums(model, model.hidden_states(ids, read=read), text, audio)
    with pytest.raises(ValueError, match="last_hidden"):
        model.hidden_states(ids, read=read, cache=model.make_cache(2, 12))


def test_a_batch_without_text_labels_needs_no_upper_layers():
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    text, audio = random_labels(SMALL, 2, 12)
    text[:] = IGNORE
    sums = loss_sums(model, model.hidden_states(ids, text_length=0), text, audio)
    close(sums.audio_loss(), loss_sums(model, model.hidden_states(ids), text, audio).audio_loss())
    assert sums.text_loss().item() == 0
    sums.audio_loss().backward()


def test_losses_at_labelled_positions_equal_losses_of_all_logits():
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    text, audio = random_labels(SMALL, 2, 12)
    out = model(ids)
    sums = loss_sums(model, model.hidden_states(ids), text, audio)
    each = torch.nn.functional.cross_entropy(out.audio_logits.movedim(-1, 1), audio, reduction="none")  # (B, Q, T)
    weights = torch.where(audio == SMALL.audio_stop_token, 10.0, 1.0)
    expected = (each * weights).sum((0, 2)) / (audio != IGNORE).sum((0, 2))
    close(sums.audio / sums.audio_count, expected)
    close(sums.audio_loss(), expected.mean())
    weights = torch.arange(1.0, 9.0)
    close(sums.audio_loss(weights), (expected * weights).sum() / weights.sum())
    close(sums.text_loss(), torch.nn.functional.cross_entropy(out.text_logits.transpose(1, 2), text))


def test_batches_without_labels_lose_nothing():
    """No text label, no code label: sums and counts are 0, losses are 0 and finite."""
    model, ids = make_model(), random_ids(SMALL, 1, 6)
    sums = loss_sums(model, model.hidden_states(ids), torch.full((1, 6), IGNORE), torch.full((1, 8, 6), IGNORE))
    assert sums.text_loss().item() == 0 and sums.audio_loss().item() == 0
    (sums.text_loss() + sums.audio_loss()).backward()


def test_stop_weight_counts_in_the_numerator_only():
    logits = torch.zeros(1, 2, 5)  # every cross-entropy is ln 5
    sums, counts = audio_loss_sums(logits, torch.tensor([[4, 1]]), stop_token=4, stop_weight=10.0)
    close(sums / counts, torch.tensor([5]).log() * 11 / 2)


# --- Codebooks: batched = one by one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [1, 3, 40], ids=lambda n: f"{n} positions")
def test_code_embedding_equals_its_formula(positions):
    """mean_k [shared[c] + Linear_k(GELU(table_k[c]))], one codebook at a time; and its gradients."""
    embedding = make_model().talker.embed_tokens
    codes = torch.randint(0, 24, (2, 8, positions))
    expected = sum(embedding.base(codes[:, k]) + embedding.adapters[k](codes[:, k]) for k in range(8)) / 8
    compare_with_gradients(embedding, embedding(codes), expected)


@pytest.mark.parametrize("shape", [(5,), (2, 7), (1, 1)], ids=str)
def test_code_head_equals_its_formula(shape):
    """shared(h) + adapter_k(h), one codebook at a time; and its gradients."""
    head = make_model().talker.lm_head
    hidden = torch.randn(*shape, 32)
    expected = torch.stack([head.base(hidden) + adapter(hidden) for adapter in head.adapters], dim=-2)
    actual = head(hidden)
    assert actual.shape == (*shape, 8, 24)
    compare_with_gradients(head, actual, expected)


def compare_with_gradients(module, actual, expected, atol=2e-5, rtol=1e-4):
    close(actual, expected, atol, rtol)
    weight = torch.randn_like(expected)
    parameters = list(module.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((actual * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
        strict=True,
    ):
        close(ours, theirs, atol, rtol)


def test_speaker_vector_stands_where_codebook_0_has_the_sign():
    """It changes that position and nothing before it; without the sign it changes nothing."""
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    one, other = (model.hidden_states(ids, speaker=torch.randn(2, 5)).audio for _ in range(2))
    close(one[:, :6], other[:, :6])
    assert (one[:, 6] - other[:, 6]).abs().max() > 1e-3
    ids[:, 0] = 3
    one, other = (model.hidden_states(ids, speaker=torch.randn(2, 5)).audio for _ in range(2))
    close(one, other)


def test_code_dropout_works_in_training_only():
    model, ids = make_model(), random_ids(SMALL, 1, 8)
    plain = model.hidden_states(ids).audio
    close(model.hidden_states(ids, code_dropout=0.5).audio, plain)
    model.train()
    assert (model.hidden_states(ids, code_dropout=0.5).audio - plain).abs().max() > 1e-3
    close(model.hidden_states(ids).audio, plain)


# --- Gradients by hand -----------------------------------------------------------------------------------------------


def test_hand_written_gradients_equal_autograds():
    """RMSNorm and rotation, numerically (gradcheck, fp64) and against the plain formulas."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    cos, sin = torch.randn(2, 3, 1, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-2), (x, weight))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))
    close(rms_norm(x, weight, 1e-2), x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * weight)
    left, right = x[..., :3], x[..., 3:]
    close(rotate(x, cos, sin), torch.cat((left * cos - right * sin, right * cos + left * sin), -1))
    with torch.no_grad():  # the other branch
        close(rms_norm(x, weight, 1e-2), x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * weight)
    transposed = x.transpose(1, 2)  # inputs need not be contiguous
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, 1e-2).transpose(1, 2), (transposed,))


def test_norm_of_bf16_with_an_fp32_weight():
    """As under autocast: computed in fp32, so as near to the exact one as rounding lets it, gradients too."""
    torch.manual_seed(0)
    x, norm = torch.randn(5, 4, 24).bfloat16().requires_grad_(), RMSNorm(24, 1e-6)
    weight = norm.weight = torch.nn.Parameter(torch.rand(24).add(0.5))
    exact = x.detach().double().requires_grad_()
    wanted = exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    found, upstream = norm(x), torch.randn(5, 4, 24).bfloat16()
    assert found.dtype == torch.bfloat16 and norm(x, wide=True).dtype == torch.float32
    close(found.double(), wanted.detach(), atol=0, rtol=2**-8)
    (dx, dw), (wx, ww) = (torch.autograd.grad(out, (source, weight), grad) for out, source, grad in ((found, x, upstream), (wanted, exact, upstream.double())))
    assert dx.dtype == torch.bfloat16 and dw.dtype == torch.float32
    close(dx.double(), wx, atol=1e-6, rtol=2**-8)
    close(dw, ww, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads, kv_heads, length", [(4, 4, 5), (4, 2, 7), (6, 1, 1), (2, 2, 33)])
def test_attention_by_products_equals_torchs(heads, kv_heads, length):
    """Values and gradients, in fp64; query heads share key heads."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, n, length, 6, dtype=torch.float64, requires_grad=True) for n in (heads, kv_heads, kv_heads))
    upstream = torch.randn(3, heads, length, 6, dtype=torch.float64)
    ours, torchs = attend_by_products(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    close(ours, torchs, atol=1e-12, rtol=0)
    for ours, torchs in zip(*(torch.autograd.grad(out, (q, k, v), upstream) for out in (ours, torchs))):
        close(ours, torchs, atol=1e-12, rtol=0)


def test_training_in_bf16_attends_by_products_where_it_is_quicker(monkeypatch):
    """Short rows with gradients on a CPU only, and there about as near to the exact gradients as torch's kernel (0.4 % for 0.3)."""
    torch.manual_seed(0)
    called = []
    monkeypatch.setattr(fused, "attend_by_products", lambda *qkv: called.append(1) or attend_by_products(*qkv))

    def gradients(q, k, v, attend, upstream):
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        return [grad.double() for grad in torch.autograd.grad(attend(q, k, v), (q, k, v), upstream.to(q.dtype))]

    def far(attend, *given):
        exact = gradients(*(x.double() for x in given[:3]), torchs, given[3])
        return [float((grad - wanted).norm() / wanted.norm()) for grad, wanted in zip(gradients(*given[:3], attend, given[3]), exact)]

    def torchs(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def ours(q, k, v):
        return fused.attend(q, k, v, None, True)

    q, k, v, upstream = (torch.randn(2, n, 60, 24).bfloat16() for n in (4, 2, 2, 4))
    for mine, kernels in zip(far(ours, q, k, v, upstream), far(torchs, q, k, v, upstream)):
        assert mine < 2 * kernels and mine < 0.01, (mine, kernels)
    assert called
    called.clear()
    with torch.no_grad():
        ours(q, k, v)
    ours(q.float(), k.float(), v.float())
    ours(*(torch.randn(1, n, fused.SHORT + 1, 24).bfloat16().requires_grad_() for n in (4, 2, 2)))
    fused.attend(q, k, v, torch.ones(60, 60, dtype=torch.bool), False)
    with fused.as_on_a_card():
        ours(q, k, v)
    assert not called
    ours(q, k, v)
    assert called


@pytest.mark.parametrize("B, T", [(5, 7), (1, 90)])
def test_codes_are_looked_up_to_the_bit_as_torch_does(B, T):
    """Values and gradients of the tables, in fp32; some codes occur often, some never."""
    torch.manual_seed(0)
    tables, codes = torch.randn(3, 20, 6, requires_grad=True), torch.randint(0, 18, (B, 3, T))
    codes[:, :, : T // 3] = 4
    ours = fused.mean_of_codes(tables, codes)
    with fused.as_on_a_card():
        torchs = fused.mean_of_codes(tables, codes)
    upstream = torch.randn_like(ours)
    assert torch.equal(ours, torchs) and type(ours.grad_fn) is not type(torchs.grad_fn)
    close(ours, torch.stack([tables[k][codes[:, k]] for k in range(3)]).mean(dim=0), atol=1e-6, rtol=0)
    assert torch.equal(*(torch.autograd.grad(out, tables, upstream)[0] for out in (ours, torchs)))


def test_losses_in_bf16_on_a_cpu_are_torchs():
    """A few rows at a time, the last part shorter; where nothing is learnt there is no loss and no gradient."""
    torch.manual_seed(0)
    logits, labels = (3 * torch.randn(2 * fused.AT_ONCE // 500 + 7, 500)).bfloat16().requires_grad_(), torch.randint(0, 500, (2 * fused.AT_ONCE // 500 + 7,))
    labels[::5] = IGNORE
    ours = fused.cross_entropies(logits, labels)
    with fused.as_on_a_card():
        torchs = fused.cross_entropies(logits, labels)
    assert torch.equal(ours, torchs) and type(ours.grad_fn) is not type(torchs.grad_fn)
    upstream = torch.rand_like(ours)
    mine, theirs = (torch.autograd.grad(out, logits, upstream)[0] for out in (ours, torchs))
    close(mine.float(), theirs.float(), atol=1e-7, rtol=2**-7)
    assert not mine[::5].any()
    assert torch.equal(fused.cross_entropies(logits.float(), labels), torchs), "fp32 is torch's own"


def test_what_several_products_read_is_rounded_once():
    """Queries, keys and values read one bf16 tensor, gate and up another: autocast alone would make a copy for each."""
    model, given = make_model().train(), {}
    block = model.model.layers[0]
    for name, layer in block.named_modules():
        if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            layer.register_forward_pre_hook(lambda _, x, name=name: given.setdefault(name.split(".")[0], []).append((x[0].dtype, x[0].data_ptr())))
    with torch.autocast("cpu", torch.bfloat16):
        model.hidden_states(random_ids(SMALL, 2, 12))
    assert {part: len(read) for part, read in given.items()} == {"self_attn": 3, "mlp": 2}
    assert all(set(read) == {(torch.bfloat16, read[0][1])} for read in given.values())


def test_autocast_rounds_products_and_no_residual_stream():
    """What the blocks of both halves hand on stays fp32: a rounded sum would lose what later blocks add to it."""
    model, handed = make_model().train(), {}
    for name, blocks in (("Thinker", model.model.layers), ("Talker", model.talker.layers)):
        for block in blocks:
            block.register_forward_hook(lambda _, given, got, name=name: handed.setdefault(name, set()).update((given[0].dtype, got[0].dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden_states(random_ids(SMALL, 2, 12), speaker=random_speaker(SMALL, 2), code_dropout=0.1)
        assert model.audio_head(hidden.audio).dtype == torch.bfloat16, "autocast is not on"
    assert handed == {"Thinker": {torch.float32}, "Talker": {torch.float32}}


# --- Features in the place of their placeholders ---------------------------------------------------------------------


def place_by_loop(stream, ids, placeholder, features, lengths):
    """The rule, spelt out."""
    stream = stream.clone()
    for b, row in enumerate(ids.tolist()):
        run, offset, inside = -1, 0, False
        for t, value in enumerate(row):
            if value != placeholder:
                inside = False
                continue
            run, offset, inside = (run, offset + 1, True) if inside else (run + 1, 0, True)
            if run < features.shape[1] and offset < min(int(lengths[b, run]), features.shape[2]):
                stream[b, t] = features[b, run, offset]
    return stream


@pytest.mark.parametrize("seed", range(20))
def test_features_are_placed_run_by_run(seed):
    generator = torch.Generator().manual_seed(seed)
    R, N = 1 + seed % 3, 1 + seed % 4
    ids = torch.randint(0, 3, (4, 15), generator=generator)  # runs of all lengths, at the edges too
    stream = torch.randn(4, 15, 2, generator=generator)
    features = torch.randn(4, R, N, 2, generator=generator)
    lengths = torch.randint(0, N + 2, (4, R), generator=generator)
    expected = place_by_loop(stream, ids, 1, features, lengths)
    assert torch.equal(place_features(stream, ids, 1, features, lengths), expected)
    full = torch.full((4, R), N)
    expected = place_by_loop(stream, ids, 1, features, full)
    assert torch.equal(place_features(stream, ids, 1, features), expected)


def test_features_reach_their_row_only():
    """Rows with and without sound share a batch: lengths of 0 place nothing."""
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    features = torch.randn(2, 4, 9)
    both_rows = model.hidden_states(ids, audio_features=features, audio_lengths=torch.tensor([3, 0])).text
    close(both_rows[1], model.hidden_states(ids).text[1])
    close(both_rows[0], model.hidden_states(ids[:1], audio_features=features[:1]).text[0])


# --- Mixture of experts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_sorted_dispatch_equals_the_loop(top_k, renormalise, keep):
    config = SMALL.replace(use_moe=True, num_experts_per_tok=top_k, norm_topk_prob=renormalise, keep_top1_gate=keep)
    torch.manual_seed(0)
    mixture = MixtureOfExperts(config.thinker)
    x = torch.randn(50, 32)
    gates, chosen, _ = mixture.route(x)
    compare_with_gradients(mixture.experts, mixture.dispatch(x, gates, chosen), mixture.dispatch_by_loop(x, gates, chosen), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_one_grouped_product_equals_the_loop(top_k, keep):
    """The card's product for all experts, as torch computes it on a CPU: outputs and gradients to 1e-5, an expert without work among them."""
    config = SMALL.replace(use_moe=True, num_experts_per_tok=top_k, keep_top1_gate=keep)
    torch.manual_seed(0)
    mixture = MixtureOfExperts(config.thinker)
    assert mixture.grouped
    x = torch.randn(50, 32)
    x[:, 0] = 9.0
    mixture.gate.weight.data[3, 0] = -9.0  # nobody comes to the last expert
    gates, chosen, _ = mixture.route(x)
    assert not (chosen == 3).any()
    loop = mixture.dispatch_by_loop(x, gates, chosen)
    compare_with_gradients(mixture.experts, mixture.dispatch_grouped(x, gates, chosen, torch.float32), loop, atol=1e-5, rtol=1e-6)
    rounded = mixture.dispatch_grouped(x, gates, chosen, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16 and (rounded.float() - loop).abs().max() < 0.03 * loop.abs().max()


def test_a_grouped_product_is_for_cards_that_have_one(monkeypatch):
    """In bfloat16 on compute capability 9.0; on a CPU, another card or in float32 the experts take turns."""
    x = torch.randn(4, 32)
    assert grouped_in(x.bfloat16()) is None
    for capability, found in (((9, 0), torch.bfloat16), ((8, 6), None), ((10, 0), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        card = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
        assert grouped_in(card) is None, "float32 would be rounded"
        with torch.autocast("cpu", torch.bfloat16):
            assert grouped_in(card) is None, "another device's autocast"
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
        assert grouped_in(card) == found
        monkeypatch.undo()
    odd = SMALL.replace(use_moe=True, hidden_size=36, num_attention_heads=2, num_key_value_heads=1)
    assert not MixtureOfExperts(odd.thinker).grouped, "its rows would not begin at multiples of 16 bytes"


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a card of compute capability 9.0")
def test_the_grouped_product_on_a_card():
    torch.manual_seed(0)
    mixture = MixtureOfExperts(SMALL.replace(use_moe=True).thinker).cuda()
    x = torch.randn(3, 50, 32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        grouped = mixture(x)[0]
        mixture.grouped = False
        each = mixture(x)[0]
    assert (grouped - each).float().abs().max() < 0.03 * each.float().abs().max()
    grouped.float().pow(2).sum().backward()
    assert all(expert.down_proj.weight.grad is not None for expert in mixture.experts)


def test_all_positions_may_choose_one_expert():
    """Experts without work get gradients of zero, not none: data-parallel training waits for each."""
    mixture = MixtureOfExperts(SMALL.replace(use_moe=True).thinker)
    torch.nn.init.zeros_(mixture.gate.weight)
    with torch.no_grad():
        mixture.gate.weight[2] = 1.0
    x = torch.rand(1, 6, 32)  # positive: expert 2 always wins
    out, _ = mixture(x)
    close(out, mixture.experts[2](x))
    out.sum().backward()
    assert float(mixture.experts[2].up_proj.weight.grad.abs().sum()) > 0
    assert float(mixture.experts[0].up_proj.weight.grad.abs().sum()) == 0


def test_the_router_learns_from_the_task_only_where_its_gate_is_kept():
    """The original's quirk: a renormalised single gate is always 1, so the router feels the auxiliary loss alone."""
    for keep, learns in ((False, False), (True, True)):
        torch.manual_seed(0)
        mixture = MixtureOfExperts(SMALL.replace(use_moe=True, keep_top1_gate=keep).thinker)
        out, _ = mixture(torch.randn(2, 9, 32))
        out.square().sum().backward()
        gradient = mixture.gate.weight.grad
        assert (gradient is not None and float(gradient.abs().sum()) > 0) == learns
        x = torch.randn(2, 9, 32)
        mixture.zero_grad()
        mixture(x)[1].backward()
        assert float(mixture.gate.weight.grad.abs().sum()) > 0


def test_balance_loss_is_least_when_all_experts_are_used_alike():
    """coef * E * sum load * score = coef when even, coef * E when one expert does everything; 0 in eval mode."""
    mixture = MixtureOfExperts(SMALL.replace(use_moe=True, router_aux_loss_coef=0.1).thinker)
    even, one = torch.full((8, 4), 0.25), torch.tensor([[1.0, 0, 0, 0]]).repeat(8, 1)
    close(mixture.balance_loss(even, torch.arange(8)[:, None] % 4), torch.tensor(0.1))
    close(mixture.balance_loss(one, torch.zeros(8, 1, dtype=torch.long)), torch.tensor(0.4))
    assert float(mixture.eval().balance_loss(one, torch.zeros(8, 1, dtype=torch.long))) == 0


def test_idle_experts_are_stored_but_not_active():
    """The Thinker keeps two of four experts at work, the Talker one of four; a dense model has nothing idle."""
    model = make_model(MIXTURE)
    stored, active = count_parameters(model)
    experts = {name: weight.numel() for name, weight in model.named_parameters() if ".experts." in name}
    thinkers = sum(count for name, count in experts.items() if name.startswith("model."))
    assert stored - active == thinkers // 2 + (sum(experts.values()) - thinkers) * 3 // 4
    assert len(set(count_parameters(make_model(SMALL)))) == 1


# --- Weights and numbers ---------------------------------------------------------------------------------------------


@both
def test_every_parameter_learns(config):
    """One step on a batch with speech, pictures and a speaker reaches every weight, and dimensions are as named."""
    model, ids = make_model(config).train(), random_ids(config, 3, 12)
    hidden = model.hidden_states(ids, speaker=random_speaker(config, 3), **random_features(config, 3))
    sums = loss_sums(model, hidden, *random_labels(config, 3, 12))
    (sums.text_loss() + sums.audio_loss() + hidden.aux_loss).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_fresh_weights_start_near_chance():
    """An untrained model is about as good as guessing: text near ln V, audio near ln A."""
    model, ids = make_model(SMALL.replace(hidden_size=192, talker_hidden_size=192)), random_ids(SMALL, 4, 20)
    text, audio = random_labels(SMALL, 4, 20)
    with torch.no_grad():
        sums = loss_sums(model, model.hidden_states(ids), text, audio, stop_weight=1.0)
    assert abs(float(sums.text_loss()) - math.log(70)) < 0.5
    assert abs(float(sums.audio_loss()) - math.log(24)) < 0.5


@both
def test_saved_and_loaded_is_the_same_model(config, tmp_path):
    model, ids = make_model(config), random_ids(config, 1, 6)
    save_model(model, tmp_path / "deep" / "model.safetensors")
    again = load_model(tmp_path / "deep" / "model.safetensors")
    assert again.config == config and not again.training
    assert torch.equal(again(ids).audio_logits, model(ids).audio_logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.safetensors"]


def test_file_has_the_names_of_the_original_and_each_weight_once(tmp_path):
    save_model(make_model(), tmp_path / "model.safetensors", torch.float16)
    state = load_file(tmp_path / "model.safetensors")
    names = ["model.layers.0.self_attn.q_proj.weight", "talker.lm_head.adapters.7.0.weight", "vision_proj.mlp.3.bias"]
    assert set(names) < set(state) and "lm_head.weight" not in state
    assert {value.dtype for value in state.values()} == {torch.float16}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ModelConfig.from_dict(json.loads(file.metadata()["config"])) == SMALL
    assert next(load_model(tmp_path / "model.safetensors").parameters()).dtype == torch.float32


def test_loading_names_what_does_not_fit(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(path)
    save_model(make_model(), path)
    with pytest.raises(ValueError, match=r"missing \['model.layers.3.input_layernorm.weight'"):
        load_model(path, SMALL.replace(num_hidden_layers=4))
    with pytest.raises(ValueError, match=r"unexpected \['talker.layers.1.input_layernorm.weight'"):
        load_model(path, SMALL.replace(num_talker_hidden_layers=1))
    with pytest.raises(ValueError, match=r"talker.spk_proj.weight \(32, 5\), wanted \(32, 6\)"):
        load_model(path, SMALL.replace(spk_emb_size=6))
    save_file(load_file(path), path)  # without metadata
    with pytest.raises(ValueError, match="no model configuration"):
        load_model(path)


def test_untied_weights_are_refused():
    state = dict(make_model().state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ValueError, match="tied"):
        load_weights(make_model(), state, "somewhere")


def test_bf16_is_close():
    """The same model in bf16: hidden states within its precision, positions not rounded."""
    model, ids = make_model(), random_ids(SMALL, 2, 12)
    with torch.inference_mode():
        exact = model.hidden_states(ids).audio
        cache = model.bfloat16().make_cache(2, 12)
        rough = model.hidden_states(ids, cache=cache).audio
    assert rough.dtype == cache.talker.keys.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.03
    assert rotary_table(8, 64, 1e6, torch.device("cpu"))[0].dtype == torch.float32


def test_generating_first_does_not_spoil_training():
    """Tables made under inference_mode must still serve autograd."""
    config = SMALL.replace(rope_theta=12345.0)  # not in the table's cache yet
    model, ids = make_model(config), random_ids(config, 1, 6)
    with torch.inference_mode():
        model(ids)
    model(ids).audio_logits.sum().backward()


def test_config_reads_back_and_names_mistakes():
    assert ModelConfig.from_dict(MIXTURE.to_dict()) == MIXTURE
    assert json.loads(json.dumps(MIXTURE.to_dict())) == MIXTURE.to_dict()
    with pytest.raises(ValueError, match=r"unknown model settings \['hiden_size'\]"):
        ModelConfig.from_dict({"hiden_size": 3})
    with pytest.raises(ValueError, match="bridge_layer 8"):
        ModelConfig(bridge_layer=8)
    with pytest.raises(ValueError, match="must differ"):
        ModelConfig(audio_stop_token=2049)
    with pytest.raises(ValueError, match="must divide num_heads"):
        ModelConfig(num_key_value_heads=3).thinker  # noqa: B018 (the property checks)


def test_minimind_3o_has_its_published_size():
    """~113 M parameters; the defaults are the original's sizes."""
    with torch.device("meta"):
        model = OmniModel(ModelConfig())
    count = sum(p.numel() for p in model.parameters())
    assert 112e6 < count < 116e6, count
    assert (model.config.head_dim, model.config.intermediate_size, model.config.bridge_layer) == (96, 2432, 3)
