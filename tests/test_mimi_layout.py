"""Mimi in the layout of transformers: moshi's model with these weights gives the codes and the sound of transformers' own."""

import json
import shutil

import pytest
import torch
from moshi.models import loaders
from safetensors.torch import load_file, save_file
from speakers import random_mimi
from transformers import MimiConfig, MimiModel, masking_utils
from transformers.models.mimi import modeling_mimi

from mmo.codec import Codec, codec_config, codec_layout, read_sizes, save_codec
from mmo.mimi_layout import interleaved, layout_of, moshi_sizes, transformers_shapes

SMALL = dict(
    hidden_size=32, num_filters=4, codebook_size=16, codebook_dim=12, vector_quantization_hidden_dimension=12, num_quantizers=10,
    upsample_groups=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4, num_key_value_heads=4, sliding_window=24,
)  # fmt: skip
WITHIN, BEYOND = 0.96, 2.4  # seconds: 24 positions of the transformers, as many as the sliding window has, and 60


def random_transformers_mimi(**changes) -> MimiModel:
    """Nothing as it is drawn: fresh codebooks are all zero, fresh layer scales hide the transformers, fresh norms are ones."""
    torch.manual_seed(0)
    model = MimiModel(MimiConfig(**(SMALL | changes))).eval()
    for name, value in model.state_dict().items():
        if name.endswith("embed_sum"):
            value.normal_()
        elif name.endswith(("cluster_usage", "layernorm.weight")):
            value.uniform_(0.5, 2.0)
        elif name.endswith("scale"):
            value.uniform_(0.3, 1.0)
        elif name.endswith("initialized"):
            value.fill_(1)
        elif "transformer" in name:
            value.normal_(std=0.3)
        else:
            value.add_(torch.randn_like(value) * 0.05)
    model.decoder.layers[-1].conv.weight.data.mul_(0.02)  # about as loud as speech
    return model


@pytest.fixture(scope="module")
def theirs():
    return random_transformers_mimi()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """As the hub has it."""
    folder = tmp_path_factory.mktemp("mimi")
    theirs.save_pretrained(folder)
    return folder


def sound(seconds, batch=3):
    return torch.randn(batch, 1, round(seconds * 12.5) * 1920, generator=torch.Generator().manual_seed(1)) * 0.3


def difference(theirs, ours, seconds) -> tuple[float, float]:
    """Encoding and decoding by both libraries: the share of codes that differ, and the largest difference in the sound of theirs."""
    wave = sound(seconds)
    codes = theirs.encode(wave, num_quantizers=8).audio_codes
    assert all(len(book.unique()) > 3 for book in codes.transpose(0, 1)), "codes that are all one would agree with anything"
    wanted = theirs.decode(codes).audio_values
    assert 0.05 < wanted.std() < 1, "silence would agree with anything"
    return float((ours.encode(wave) != codes).double().mean()), float((ours.decode(codes) - wanted).abs().max())


@torch.no_grad()
def test_codes_are_identical_and_the_sound_is_the_same(theirs, folder):
    codes, samples = difference(theirs, Codec.load(folder / "model.safetensors"), WITHIN)
    assert codes == 0 and samples < 1e-4


@torch.no_grad()
def test_the_same_beyond_the_window_once_transformers_uses_it(theirs, folder, monkeypatch):
    """moshi looks back no further than 250 positions, ten seconds.  So says transformers' configuration, but its model (4.57.6, without
    flash attention) masks the future only: longer sound gets other codes there.  With its own window mask both agree again."""
    ours = Codec.load(folder / "model.safetensors")
    assert min(difference(theirs, ours, BEYOND)) > 1e-3
    monkeypatch.setattr(modeling_mimi, "create_causal_mask", masking_utils.create_sliding_window_causal_mask)
    codes, samples = difference(theirs, ours, BEYOND)
    assert codes == 0 and samples < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("broken", ["q_proj", "k_proj", "v_proj", "codebook.cluster_usage", "self_attn_layer_scale", "fc1", "downsample", "upsample"])
def test_every_kind_of_weight_is_heard(theirs, folder, tmp_path, broken):
    """The comparison above would notice: with one kind of weights shuffled, codes or sound are others."""
    shutil.copy(folder / "config.json", tmp_path)
    state = load_file(folder / "model.safetensors")
    for name in state:
        if broken in name:
            state[name] = state[name].flatten()[torch.randperm(state[name].numel())].view_as(state[name])
    save_file(state, tmp_path / "model.safetensors")
    codes, samples = difference(theirs, Codec.load(tmp_path / "model.safetensors"), WITHIN)
    assert codes > 0 or samples > 1e-3


def test_pairs_of_rotary_positions():
    """Two heads of width 4: halves (0, 2), (1, 3) become neighbours."""
    rows = torch.arange(8.0)[:, None].expand(-1, 8)
    assert interleaved(rows, heads=2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_streaming_works_with_it(folder):
    """What transformers' Mimi cannot do: frames one by one, with the same sound."""
    codec = Codec.load(folder / "model.safetensors")
    codes = torch.randint(0, 16, (1, 8, 9), generator=torch.Generator().manual_seed(2))
    with codec.streaming(1) as stream:
        streamed = torch.cat([stream.decode(frame) for frame in codes.split(1, dim=-1)], dim=-1)
    assert (streamed - codec.decode(codes)).abs().max() < 1e-5


def test_the_real_mimi_fits_name_by_name_and_shape_by_shape():
    """Both libraries at full size, on no device at all: the names of one are those of the other."""
    with torch.device("meta"):
        real = MimiModel(MimiConfig())
    assert codec_config(**moshi_sizes(MimiConfig().to_dict(), "defaults")) == codec_config() == json.loads(json.dumps(loaders._mimi_config))
    with torch.device("meta"):
        moshis = loaders.get_mimi(None, codec_config(), device="meta", num_codebooks=32)
    wanted = transformers_shapes(moshis.state_dict())
    assert wanted == {name: tuple(value.shape) for name, value in real.state_dict().items()}


def test_the_layout_is_told_from_the_names(folder, tmp_path):
    sizes = codec_config(n_filters=4, dimension=32, layers=1, bins=16, codebooks=8, feedforward=64)
    save_codec(random_mimi(sizes), sizes, tmp_path / "codec.safetensors")
    assert codec_layout(folder / "model.safetensors") == "transformers"
    assert codec_layout(tmp_path / "codec.safetensors") == "moshi"
    with pytest.raises(ValueError, match="x.safetensors is no Mimi"):
        layout_of(["encoder.weight"], "x.safetensors")


def test_what_is_missing_unexpected_or_of_another_shape_is_named(folder, tmp_path):
    state, path = load_file(folder / "model.safetensors"), tmp_path / "model.safetensors"
    shutil.copy(folder / "config.json", tmp_path)
    del state["upsample.conv.weight"]
    state["quantizer.strange"] = torch.zeros(1)
    state["decoder_transformer.layers.1.self_attn.k_proj.weight"] = torch.zeros(3, 32)
    save_file(state, path)
    with pytest.raises(ValueError) as error:
        Codec.load(path)
    for word in ("config.json", "missing ['upsample.conv.weight']", "unexpected ['quantizer.strange']", "k_proj.weight (3, 32), wanted (32, 32)"):
        assert word in str(error.value)


def test_without_its_sizes_it_is_taken_for_the_real_one(folder, tmp_path):
    shutil.copy(folder / "model.safetensors", tmp_path)
    assert read_sizes(tmp_path / "model.safetensors", "transformers") == (codec_config(), "the real Mimi (config.json is missing)")


@pytest.mark.parametrize("text, words", [
    ('{"hidden_size": 3', "config.json is no JSON"), ("[32]", "config.json holds"), ('{"num_attention_heads": 0}', "config.json: these are no sizes of a Mimi"),
    ('{"hidden_size": "wide"}', "config.json: these are no sizes of a Mimi"),
])  # fmt: skip
def test_damaged_sizes_are_named(folder, tmp_path, text, words):
    shutil.copy(folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        Codec.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("text, words", [("{", "codec.json is no JSON"), ("{}", "no codec can be built of the sizes in codec.json")])
def test_damaged_sizes_of_our_own_are_named(tmp_path, text, words):
    sizes = codec_config(n_filters=4, dimension=32, layers=1, bins=16, codebooks=8, feedforward=64)
    save_codec(random_mimi(sizes), sizes, tmp_path / "codec.safetensors")
    (tmp_path / "codec.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        Codec.load(tmp_path / "codec.safetensors")


@pytest.mark.parametrize("setting", [{"norm_eps": 1e-6}, {"num_key_value_heads": 2}, {"use_conv_shortcut": True}, {"upsample_groups": 1}])
def test_settings_that_moshi_cannot_build_are_named(setting):
    with pytest.raises(ValueError, match=f"config.json: moshi's Mimi cannot be built so: .*{next(iter(setting))}"):
        moshi_sizes(SMALL | setting, "config.json")
