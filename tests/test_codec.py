"""The codec is moshi's; what is tested is that ours is the real one in small, and that streaming changes nothing."""

import json

import pytest
import torch
from moshi.models import loaders

from mmo.codec import REAL_FILE, Codec, bit_rate, codec_config, load_mimi, perplexity, save_codec
from speakers import random_mimi

TINY = dict(n_filters=4, dimension=32, layers=2, bins=16, codebooks=8, feedforward=64)


@pytest.fixture(scope="module")
def codec():
    return Codec(random_mimi(codec_config(**TINY)))


def random_codes(batch, frames, seed=1):
    return torch.randint(0, 16, (batch, 8, frames), generator=torch.Generator().manual_seed(seed))


def test_default_sizes_are_moshis_own():
    assert codec_config() == json.loads(json.dumps(loaders._mimi_config))


def test_frame_arithmetic(codec):
    assert (codec.frame_size, codec.sample_rate, codec.frame_rate) == (1920, 24000, 12.5)
    assert [codec.frames(samples) for samples in (0, 1, 1920, 1921, 3840)] == [0, 1, 1, 2, 2]
    assert codec.encode(torch.randn(2, 1, 1921)).shape == (2, 8, 2)
    assert codec.decode(random_codes(2, 3)).shape == (2, 1, 3 * 1920)
    assert codec.decode(random_codes(2, 0)).shape == (2, 1, 0)


def test_partial_frame_is_filled_with_silence(codec):
    wave = torch.randn(1, 1, 3000)
    padded = torch.cat((wave, torch.zeros(1, 1, 840)), dim=-1)
    assert torch.equal(codec.encode(wave), codec.encode(padded))


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1, 4], [3, 8]])
def test_streamed_equals_offline(codec, sizes):
    """Frames singly, or a few at a time, give the same sound as all at once."""
    codes = random_codes(2, 3 * sum(sizes))
    offline = codec.decode(codes)
    assert offline.std() > 0.01  # a silent codec would agree with anything
    with codec.streaming(2) as stream:
        streamed = torch.cat([stream.decode(chunk) for chunk in codes.split(sizes * 3, dim=-1)], dim=-1)
    assert (streamed - offline).abs().max() < 1e-5


def test_streamed_equals_offline_beyond_the_context():
    """Once more has been said than the transformer looks back to, the ring of keys turns: still the same sound."""
    codec = Codec(random_mimi(codec_config(**TINY, context=12)))
    codes = random_codes(1, 40)
    offline = codec.decode(codes)
    for size in (1, 5, 8):
        with codec.streaming(1) as stream:
            streamed = torch.cat([stream.decode(chunk) for chunk in codes.split(size, dim=-1)], dim=-1)
        assert (streamed - offline).abs().max() < 1e-5, f"{size} frames a call"


def test_streams_do_not_remember_each_other(codec):
    codes = random_codes(1, 4)
    offline = codec.decode(codes)
    for _ in range(2):
        with codec.streaming(1) as stream:
            assert (stream.decode(codes) - offline).abs().max() < 1e-5
            with pytest.raises(RuntimeError, match="streaming"):
                codec.decode(codes)  # it would be taken for the stream's next frames


def test_a_second_stream_is_refused_in_words(codec):
    with codec.streaming(), pytest.raises(RuntimeError, match="streaming"), codec.streaming():
        pass


def test_right_padding_is_not_heard(codec):
    short, long = random_codes(1, 3), random_codes(1, 6, seed=2)
    padded = torch.cat((short, torch.zeros(1, 8, 3, dtype=torch.long)), dim=-1)
    both = codec.decode(torch.cat((padded, long)))
    assert (both[:1, :, : 3 * 1920] - codec.decode(short)).abs().max() < 1e-5


def test_moshi_compiles_nothing_and_captures_no_graph(codec, monkeypatch):
    """On a card it would, at the first call: a compiler is asked for, and seconds go by."""
    from moshi.utils import compile as moshis

    seen = []
    for name in ("encode", "decode", "encode_to_latent"):
        inner = getattr(codec.model, name)
        monkeypatch.setattr(codec.model, name, lambda *given, inner=inner, **named: (seen.append((moshis._compile_disabled, moshis._disable_cuda_graph)), inner(*given, **named))[1])
    codes = codec.encode(torch.zeros(1, 1, 1920))
    codec.decode(codes)
    codec.latents(torch.zeros(1, 1, 1920))
    with codec.streaming() as stream:
        stream.decode(codes)
    assert len(seen) == 4 and set(seen) == {(True, True)}, seen
    assert not moshis._compile_disabled, "it stays switched off for others"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saved_and_loaded(tmp_path, dtype):
    model = random_mimi(codec_config(**TINY))
    save_codec(model, codec_config(**TINY), tmp_path / "codec.safetensors", dtype)
    loaded = Codec.load(tmp_path / "codec.safetensors")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert set(loaded.model.state_dict()) == set(model.state_dict())
    codes = random_codes(1, 5)
    difference = (loaded.decode(codes) - Codec(model).decode(codes)).abs().max()
    assert difference < (1e-5 if dtype == torch.float32 else 1e-2)
    wave = torch.randn(1, 1, 9600)
    if dtype == torch.float32:
        assert torch.equal(loaded.encode(wave), Codec(model).encode(wave))


def test_fewer_codebooks(tmp_path):
    save_codec(random_mimi(codec_config(**TINY)), codec_config(**TINY), tmp_path / "codec.safetensors")
    three = Codec.load(tmp_path / "codec.safetensors", num_codebooks=3)
    eight = Codec.load(tmp_path / "codec.safetensors", num_codebooks=8)
    wave = torch.randn(1, 1, 4 * 1920)
    assert torch.equal(three.encode(wave), eight.encode(wave)[:, :3])
    with pytest.raises(ValueError, match="has 8 codebooks"):
        load_mimi(tmp_path / "codec.safetensors", num_codebooks=9)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no codec file"):
        Codec.load(tmp_path / "missing.safetensors")
    path = tmp_path / "codec.safetensors"
    save_codec(random_mimi(codec_config(**TINY)), codec_config(**TINY), path)
    path.with_suffix(".json").write_text(json.dumps(codec_config(**TINY | {"bins": 32})))
    with pytest.raises(ValueError, match="does not fit the sizes in codec.json"):
        Codec.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=f"codec.json beside it, or the name {REAL_FILE}"):
        Codec.load(path)


def test_bad_sound_and_bad_codes(codec):
    with pytest.raises(ValueError, match="16000 Hz"):
        codec.encode(torch.zeros(1, 1, 1920), sample_rate=16000)
    with pytest.raises(ValueError, match="one channel"):
        codec.encode(torch.zeros(1, 2, 1920))
    with pytest.raises(ValueError, match="0 samples"):
        codec.encode(torch.zeros(1, 1, 0))
    with pytest.raises(ValueError, match="leave the range 0..15"):
        codec.decode(torch.full((1, 8, 2), 17))
    with pytest.raises(ValueError, match="codes have shape"):
        codec.decode(random_codes(1, 2)[0])
    with codec.streaming(1, largest=2) as stream, pytest.raises(ValueError, match="3 frames in one call"):
        stream.decode(random_codes(1, 3))


def test_not_finite_in_half_precision(tmp_path):
    model = random_mimi(codec_config(**TINY))
    next(model.parameters()).data.fill_(1e6)
    with pytest.raises(ValueError, match="not finite"):
        save_codec(model, codec_config(**TINY), tmp_path / "codec.safetensors")


# --- What the codes are made of ----------------------------------------------------------------------------------


@torch.no_grad()
def test_latents_are_what_the_quantiser_sees(codec):
    wave = torch.randn(2, 1, 5000, generator=torch.Generator().manual_seed(3))
    latents = codec.latents(wave)
    assert latents.shape == (2, 32, 3)
    assert torch.equal(codec.model.quantizer.encode(latents), codec.encode(wave))
    with pytest.raises(ValueError, match="resample"):
        codec.latents(wave, sample_rate=16000)


@torch.no_grad()
def test_quantisers_are_moshis(codec):
    """Codebook 0 alone, codebooks 1 to 7 in a second chain, both on the same latent; their outputs are added."""
    codes = random_codes(1, 5)
    first, rest = codec.quantisers()
    assert first.codebooks.shape == (1, 16, 16) and rest.codebooks.shape == (7, 16, 16)
    total = sum(
        part.project_out @ sum(book[row] for book, row in zip(part.codebooks, rows)).T
        for part, rows in ((first, codes[0, :1]), (rest, codes[0, 1:]))
    )
    torch.testing.assert_close(total, codec.model.decode_latent(codes)[0])


def test_only_codebooks_in_use_are_handed_out():
    codec = Codec(random_mimi(codec_config(**TINY)))
    codec.model.set_num_codebooks(4)
    assert [len(part.codebooks) for part in codec.quantisers()] == [1, 3]
    assert codec.bit_rate == 12.5 * 4 * 4


def test_bit_rate_of_mimi():
    assert bit_rate(12.5, 8, 2048) == 1100
    assert bit_rate(12.5, 8, 512) == 900


@pytest.mark.parametrize(
    "codes, wanted", [([3, 3, 3, 3], 1.0), ([0, 1, 2, 3], 4.0), ([0, 0, 1, 1], 2.0), ([0, 0, 0, 1], 4 / 27**0.25)]
)
def test_perplexity_counts_the_codes_in_use(codes, wanted):
    assert perplexity(torch.tensor(codes), 8) == pytest.approx(wanted)


def test_perplexity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no codes"):
        perplexity(torch.zeros(0, dtype=torch.int64), 8)
