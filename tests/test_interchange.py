"""Weights in and out: there and back is the identity, every name and shape is compared, and nothing is run from a file."""

import functools
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from parity import BOUND, OWN_GOLDEN, Golden, full_forward, shared_golden
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig
from transformers.modeling_utils import load_state_dict
from typer.testing import CliRunner

from mmo import cli, interchange
from mmo.config import ModelConfig
from mmo.interchange import (
    Weights, config_from_settings, expected_shapes, export_original, from_original, import_original, infer_config, read_original, read_ours,
    settings_from_config, to_original, unlike_the_original, write_ours,
)  # fmt: skip
from mmo.omni import OmniModel, load_model, start_talker
from mmo.profiles import PROFILES
from mmo.thinker import load_thinker
from mmo.weights import EMBEDDING, TIED

# Small, with the original's ids and constants: what a .pth without a configuration must be read as.
DENSE = ModelConfig(
    hidden_size=32, num_hidden_layers=4, vocab_size=64, talker_hidden_size=64, num_talker_hidden_layers=2, spk_emb_size=6, adapter_rank=4,
    audio_hidden_size=5, image_hidden_size=7,
)  # fmt: skip
MIXTURE = DENSE.replace(use_moe=True)
both = pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "moe"])
precisions = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
# What the original's code and transformers write, by the original's public source: settings with a say, and others.
REALISTIC = {
    "architectures": ["MiniMindOmni"], "audio_hidden_size": 5, "audio_ids": [16], "audio_pad_token": 2049,
    "audio_special_token": "<|audio_pad|>", "audio_spk_token": 2051, "audio_stop_token": 2050, "audio_vocab_size": 2112,
    "auto_map": {"AutoConfig": "model_omni.OmniConfig", "AutoModelForCausalLM": "model_omni.MiniMindOmni"}, "bos_token_id": 1,
    "bridge_layer": 1, "dropout": 0.0, "dtype": "float16", "eos_token_id": 2, "flash_attn": True, "head_dim": 4, "hidden_act": "silu",
    "hidden_size": 32, "image_hidden_size": 7, "image_ids": [12], "image_special_token": "<|image_pad|>", "image_token_len": 64,
    "inference_rope_scaling": False, "intermediate_size": 128, "max_position_embeddings": 32768, "model_type": "minimind-o",
    "moe_intermediate_size": 128, "norm_topk_prob": True, "num_attention_heads": 8, "num_experts": 4, "num_experts_per_tok": 1,
    "num_hidden_layers": 4, "num_key_value_heads": 4, "num_talker_hidden_layers": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.0005, "spk_emb_size": 6, "talker_hidden_size": 64, "think_end_ids": [26, 234, 234],
    "tie_word_embeddings": True, "transformers_version": "4.57.6", "use_moe": False, "vocab_size": 64, "adapter_rank": 4,
}  # fmt: skip


def random_state(config: ModelConfig, dtype: torch.dtype) -> dict:
    """The original's state: its names, the head twice and one matrix."""
    torch.manual_seed(0)
    return to_original({name: torch.randn(shape).to(dtype) for name, shape in expected_shapes(config).items()})


def same(one: dict, other: dict) -> bool:
    """Names, precision and every bit."""
    return set(one) == set(other) and all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def quiet(words: str) -> None:
    pass


# --- The names, said once more ---------------------------------------------------------------------------------------

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"]
BLOCK = ["input_layernorm", "post_attention_layernorm", *(f"self_attn.{part}" for part in ATTENTION)]
MLP = ["gate_proj", "up_proj", "down_proj"]


def names_of(layers: int, talker_layers: int, experts: int = 0) -> set[str]:
    """Every name of a checkpoint of the original's, written down without our model's help."""
    names = {EMBEDDING, "model.norm.weight", "talker.norm.weight", "talker.spk_proj.weight", "talker.text_scale", "talker.audio_scale"}
    for stem in [f"model.layers.{i}" for i in range(layers)] + [f"talker.layers.{i}" for i in range(talker_layers)]:
        names |= {f"{stem}.{part}.weight" for part in BLOCK}
        names |= {f"{stem}.mlp.{part}.weight" for part in MLP if not experts} | ({f"{stem}.mlp.gate.weight"} if experts else set())
        names |= {f"{stem}.mlp.experts.{expert}.{part}.weight" for expert in range(experts) for part in MLP}
    for codes in ("talker.embed_tokens", "talker.lm_head"):
        names |= {f"{codes}.base.weight"} | {f"{codes}.adapters.{k}.{part}.weight" for k in range(8) for part in (0, 2)}
    for projection in ("talker.codec_proj", "talker.embed_proj"):
        names |= {f"{projection}.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias", "3.weight")}
    for projector in ("audio_proj", "vision_proj"):
        names |= {f"{projector}.mlp.{part}.{kind}" for part in (0, 1, 3) for kind in ("weight", "bias")}
    return names


def golden_files(*names: str) -> dict[str, Path]:
    """Those of the golden model files that are there, as stems: the original's (which need not be), and our own."""
    return {name: folder / name for folder in (OWN_GOLDEN, shared_golden()) for name in names if (folder / f"{name}.json").is_file()}


ORIGINALS = golden_files("dense", "moe", "narrow_talker")
GOLDENS = ORIGINALS | golden_files("plain", "experts")  # ours in the places of the original's, other maths than its defaults


@pytest.mark.parametrize("name", ORIGINALS or ["plain"])
def test_the_names_are_those_of_the_golden_files(name):
    described = json.loads(GOLDENS[name].with_suffix(".json").read_text())
    config = ModelConfig.from_dict(described["config"])
    assert set(described["grad_norms"]) == names_of(config.num_hidden_layers, config.num_talker_hidden_layers, 4 if config.use_moe else 0)


@pytest.mark.parametrize("moe, millions", [(False, (112, 114)), (True, (314, 316))], ids=["dense", "moe"])
def test_the_full_sizes_have_every_name_and_come_out_of_their_shapes(moe, millions):
    """minimind-3o and minimind-3o-moe, on no device at all: names, published sizes, and the configuration that a .pth does not hold."""
    config = ModelConfig(use_moe=moe)
    wanted = expected_shapes(config)
    assert set(wanted) == names_of(8, 4, 4 if moe else 0)
    assert millions[0] < sum(torch.Size(shape).numel() for shape in wanted.values()) / 1e6 < millions[1]
    state = to_original({name: torch.empty(shape, device="meta") for name, shape in wanted.items()})
    assert set(from_original(state, "full size")) == set(wanted) == set(state) - {TIED}
    assert infer_config(state, "full size") == config
    assert config_from_settings(settings_from_config(config, {}, torch.float16), "config.json") == config
    for name, shape in {
        "model.embed_tokens.weight": (6400, 768), "model.layers.7.self_attn.k_proj.weight": (384, 768), "talker.lm_head.base.weight": (2112, 768),
        "talker.embed_tokens.adapters.7.2.weight": (768, 256), "talker.spk_proj.weight": (768, 192), "audio_proj.mlp.1.weight": (768, 512),
        f"talker.layers.3.mlp.{'experts.3.' if moe else ''}down_proj.weight": (768, 2432),
    }.items():  # fmt: skip
        assert wanted[name] == shape, name


# --- There and back --------------------------------------------------------------------------------------------------


@both
@precisions
@pytest.mark.parametrize("layout", ["pth", "transformers"])
def test_import_after_export_is_the_identity(tmp_path, config, dtype, layout):
    state = from_original(random_state(config, dtype), "here")
    write_ours(Weights(state, config, {}), tmp_path / "ours.safetensors")
    theirs = tmp_path / ("theirs.pth" if layout == "pth" else "theirs")
    export_original(tmp_path / "ours.safetensors", theirs, layout, say=quiet)
    import_original(theirs, tmp_path / "again.safetensors", say=quiet)
    again = read_ours(tmp_path / "again.safetensors")
    assert same(again.state, state) and again.config == config and again.kept == {}


@both
@precisions
def test_export_after_import_is_the_identity_for_a_pth(tmp_path, config, dtype):
    """The released file has no configuration: sizes come from the shapes."""
    state = random_state(config, dtype)
    torch.save(state, tmp_path / "sft_omni_32.pth")
    import_original(tmp_path / "sft_omni_32.pth", tmp_path / "ours.safetensors", say=quiet)
    assert read_ours(tmp_path / "ours.safetensors").config == config
    export_original(tmp_path / "ours.safetensors", tmp_path / "back.pth", say=quiet)
    back = load(tmp_path / "back.pth")
    assert same(back, state) and back[TIED].data_ptr() == back[EMBEDDING].data_ptr(), "one matrix under two names"


@both
@pytest.mark.parametrize("pickled", [False, True], ids=["model.safetensors", "pytorch_model.bin"])
def test_export_after_import_is_the_identity_for_a_folder(tmp_path, config, pickled):
    """Weights and config.json, also those of its settings that say nothing here."""
    folder, state = tmp_path / "minimind-3o", random_state(config, torch.float16)
    folder.mkdir()
    settings = REALISTIC | {"use_moe": config.use_moe}
    (folder / "config.json").write_text(json.dumps(settings))
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file({name: value for name, value in state.items() if name != TIED}, folder / "model.safetensors", {"format": "pt"})
    import_original(folder, tmp_path / "ours.safetensors", say=quiet)
    assert read_ours(tmp_path / "ours.safetensors").config == config
    export_original(tmp_path / "ours.safetensors", tmp_path / "back", "transformers", say=quiet)
    assert same(to_original(load_file(tmp_path / "back" / "model.safetensors")), state)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == settings


def test_a_configuration_unlike_the_originals_goes_there_and_back(tmp_path):
    """The tiny world's sizes and ids, and everything that is a constant of the original's code: said, and not lost."""
    config = DENSE.replace(
        vocab_size=40, audio_vocab_size=20, audio_pad_token=17, audio_stop_token=18, audio_spk_token=19, num_codebooks=3, rope_theta=500.0,
        talker_num_attention_heads=4, talker_num_key_value_heads=2, keep_top1_gate=True, im_end_token=7, pad_token=3, bridge_layer=0,
        max_position_embeddings=99,
    )  # fmt: skip
    state, words = from_original(random_state(config, torch.float32), "here"), []
    write_ours(Weights(state, config, {}), tmp_path / "ours.safetensors")
    for layout, theirs in (("pth", tmp_path / "a.pth"), ("transformers", tmp_path / "a")):
        export_original(tmp_path / "ours.safetensors", theirs, layout, say=words.append)
        again = read_original(theirs)
        assert again.config == config and again.kept == {} and same(again.state, state)
    assert "num_codebooks 3 (there 8)" in "\n".join(words) and "keep_top1_gate True (there False)" in "\n".join(words)
    (tmp_path / "a.json").unlink()
    with pytest.raises(ValueError, match=r"a.pth holds no configuration.*--config"):
        read_original(tmp_path / "a.pth")
    assert read_original(tmp_path / "a.pth", tmp_path / "a" / "config.json").config == config
    assert unlike_the_original(ModelConfig(use_moe=True)) == {}


def test_half_precision_is_asked_for_and_checked(tmp_path):
    state = from_original(random_state(DENSE, torch.float32), "here")
    write_ours(Weights(state, DENSE, {}), tmp_path / "ours.safetensors")
    export_original(tmp_path / "ours.safetensors", tmp_path / "half.pth", "pth", "float16", say=quiet)
    assert same(from_original(load(tmp_path / "half.pth"), "half"), {name: value.half() for name, value in state.items()})
    assert json.loads((tmp_path / "half.json").read_text())["dtype"] == "float16"
    state["talker.norm.weight"] = state["talker.norm.weight"] + 1e5
    write_ours(Weights(state, DENSE, {}), tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=r"ours.safetensors as float16: not finite: \['talker.norm.weight'\]"):
        export_original(tmp_path / "ours.safetensors", tmp_path / "large.pth", "pth", "float16", say=quiet)
    assert not (tmp_path / "large.pth").exists()


@pytest.mark.parametrize("name", GOLDENS)
def test_imported_weights_compute_the_golden_numbers(tmp_path, name):
    """The golden weights as a file of the original's, imported and loaded as `mmo say` loads them: the golden logits."""
    golden, stem = Golden.load(GOLDENS[name]), GOLDENS[name]
    state = {key.removeprefix("state."): value for key, value in golden.tensors.items() if key.startswith("state.")}
    torch.save(state | {TIED: state[EMBEDDING]}, tmp_path / "golden.pth")
    (tmp_path / "golden.json").write_text(json.dumps(json.loads(stem.with_suffix(".json").read_text())["config"]))
    import_original(tmp_path / "golden.pth", tmp_path / "ours.safetensors", say=quiet)
    figures = full_forward(golden, load_model(tmp_path / "ours.safetensors"))
    assert len(figures) == 2 and all(figure.difference <= BOUND for figure in figures), list(map(str, figures))


def test_transformers_itself_reads_the_folder(tmp_path):
    """Its own readers of config.json and model.safetensors (its model class is the original's code, which is not here)."""
    write_ours(Weights(from_original(random_state(DENSE, torch.bfloat16), "here"), DENSE, {}), tmp_path / "ours.safetensors")
    export_original(tmp_path / "ours.safetensors", tmp_path / "out", "transformers", say=quiet)
    settings, _ = PretrainedConfig.get_config_dict(tmp_path / "out")
    read = PretrainedConfig.from_dict(settings)
    assert read.model_type == "minimind-o" and read.bridge_layer == 1 and read.dtype == torch.bfloat16 and read.tie_word_embeddings
    assert same(load_state_dict(str(tmp_path / "out" / "model.safetensors")), read_ours(tmp_path / "ours.safetensors").state)


# --- What does not fit -----------------------------------------------------------------------------------------------


@both
def test_missing_unexpected_and_misshapen_are_named(tmp_path, config):
    state = random_state(config, torch.float16)
    del state["talker.layers.1.self_attn.q_norm.weight"], state["vision_proj.mlp.3.bias"]
    state["talker.codebook_9.weight"] = torch.zeros(2)
    state["talker.text_scale"] = torch.zeros(1)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError) as error:
        import_original(tmp_path / "x.pth", tmp_path / "ours.safetensors", say=quiet)
    for words in ("x.pth: missing ['talker.layers.1.self_attn.q_norm.weight', 'vision_proj.mlp.3.bias']", "unexpected ['talker.codebook_9.weight']",
                  "talker.text_scale (1,), wanted ()"):  # fmt: skip
        assert words in str(error.value)
    assert not (tmp_path / "ours.safetensors").exists()


def test_one_weight_of_each_kind_is_missed():
    """Whichever name is left out, it is named, though sizes are read from what is there."""
    state, shapes = random_state(MIXTURE, torch.float16), functools.lru_cache(expected_shapes)
    for name in [name for name in state if name != TIED and not re.search(r"\.([1-9]|10)\.", name)]:
        less = {other: value for other, value in state.items() if other != name}
        config = infer_config(less, "x.pth")
        with pytest.raises(ValueError, match=re.escape(name)):
            interchange.check_fit(shapes(config), from_original(less, "x.pth"), "x.pth")


def test_an_untied_head_and_numbers_that_are_none_are_refused(tmp_path):
    state = random_state(DENSE, torch.float16)
    torch.save(state | {TIED: state[TIED] + 1}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="lm_head.weight differs from model.embed_tokens.weight"):
        read_original(tmp_path / "x.pth")
    state["model.norm.weight"][3] = float("nan")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: not finite: \['model.norm.weight'\]"):
        read_original(tmp_path / "x.pth")


def test_rented_encoders_in_a_file_are_passed_over_and_said(tmp_path):
    state = random_state(DENSE, torch.float16)
    torch.save(state | {"vision_encoder.embeddings.weight": torch.zeros(2)}, tmp_path / "x.pth")
    found = read_original(tmp_path / "x.pth")
    assert same(to_original(found.state), state) and any("passed over: vision_encoder" in note for note in found.notes)


class Trap:
    """Unpickled as pickles usually are, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["x.pth", "pytorch_model.bin", "llm_768.pth"])
def test_a_pickle_with_a_program_is_refused_and_not_run(tmp_path, name):
    sprung, file = tmp_path / "sprung", tmp_path / name
    torch.save({EMBEDDING: torch.zeros(2), "x": Trap(sprung)}, file)
    with open(tmp_path / "proof", "wb") as proof:
        pickle.dump(Trap(sprung), proof)
    pickle.loads((tmp_path / "proof").read_bytes())
    assert sprung.exists(), "the trap works"
    sprung.unlink()
    if name == "pytorch_model.bin":
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{name}: refused, nothing of it was run"):
        load_thinker(OmniModel(DENSE).model, file) if name == "llm_768.pth" else read_original(tmp_path if "bin" in name else file)
    assert not sprung.exists()


def test_files_that_people_mistake_for_it_are_told_as_what_they_are(tmp_path):
    state = random_state(DENSE, torch.float16)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "wrapped.pth")
    torch.save({name: value for name, value in state.items() if name.startswith("model.")}, tmp_path / "llm_768.pth")
    (tmp_path / "wrapped.json").write_text(json.dumps(interchange.settings_from_config(DENSE, {}, torch.float16)))
    (tmp_path / "llm_768.json").write_text(json.dumps(interchange.settings_from_config(DENSE, {}, torch.float16)))
    with pytest.raises(ValueError, match=r"missing .*save the model within, and import that"):
        read_original(tmp_path / "wrapped.pth")
    with pytest.raises(ValueError, match=r"missing .*T2A starts from them \(`mmo fetch thinker`\)"):
        read_original(tmp_path / "llm_768.pth")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where nobody may write is needed")
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    import_original(saved(tmp_path), tmp_path / "ours.safetensors", say=quiet)
    status, said = mmo("export", tmp_path / "ours.safetensors", "--to", "/proc/back.pth")
    assert status == 1 and "/proc/back.pth cannot be written there; give another place" in " ".join(said.split())


def saved(folder: Path) -> Path:
    torch.save(random_state(DENSE, torch.float16), folder / "x.pth")
    return folder / "x.pth"


def test_damaged_and_other_files_are_named(tmp_path):
    path, state = tmp_path / "x.pth", random_state(DENSE, torch.float16)
    torch.save({"model": state, "optimizer": {}, "epoch": 1}, path)
    with pytest.raises(ValueError, match="'model', 'optimizer', 'epoch'.*interrupted training"):
        read_original(path)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="x.pth is damaged, or cut short"):
        read_original(path)
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x.pth.*damaged"):
            read_original(path)
    with pytest.raises(FileNotFoundError, match="no file or folder .*missing.pth"):
        read_original(tmp_path / "missing.pth")
    with pytest.raises(FileNotFoundError, match="holds neither model.safetensors nor pytorch_model.bin"):
        read_original(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        read_original(tmp_path)
    with pytest.raises(ValueError, match="mmo import minimind-3o"):
        load_model(path)


def test_files_that_are_no_weights_are_named_without_a_traceback(tmp_path):
    """`mmo` here fails the test where anything but an exit comes through."""
    path = tmp_path / "x.pth"
    for content in (b"hello\n", b"\x00" * 100, b"PK\x03\x04 and no archive", bytes(range(256))):
        path.write_bytes(content)
        status, said = mmo("import", "minimind-3o", path, "--to", tmp_path / "ours.safetensors")
        assert status == 1 and str(path) in said, (content, said)
    for found, words in (({1: torch.zeros(1)}, "not tensors by name, but by ['int 1']"), ({EMBEDDING: torch.zeros(6400)}, f"{EMBEDDING} has shape (6400,)"),
                         ({EMBEDDING: torch.zeros(0, 0)}, "has shape (0, 0)")):  # fmt: skip
        torch.save(found, path)
        status, said = mmo("import", "minimind-3o", path, "--to", tmp_path / "ours.safetensors")
        assert status == 1 and str(path) in said and words in " ".join(said.split()), said
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize("content, words", [
    ("not json", "is no JSON"), ("[1]", "holds [1], wanted settings by name"), ("null", "holds null, wanted settings by name"), ("", "is no JSON"),
    ('{"hidden_size": "abc"}', "'hidden_size': 'abc'"), ('{"hidden_size": null}', "'hidden_size': None"), ('{"hidden_size": -8}', "'hidden_size': -8"),
    ('{"num_attention_heads": 0}', "'num_attention_heads': 0"), ('{"rms_norm_eps": "small"}', "wanted values like {'rms_norm_eps': 1e-06}"),
    ('{"use_moe": 1}', "'use_moe': 1"), ('{"audio_ids": 16}', "'audio_ids': 16"), ('{"rope_parameters": "x"}', "rope_parameters is 'x'"),
    ('{"num_key_value_heads": 3}', "num_kv_heads 3 must divide"),
])  # fmt: skip
def test_a_configuration_that_is_none_is_named_with_what_was_wanted(tmp_path, content, words):
    save_file({EMBEDDING: torch.zeros(64, 32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    status, said = mmo("import", "minimind-3o", tmp_path, "--to", tmp_path / "ours.safetensors")
    assert status == 1 and f"mmo import: {tmp_path / 'config.json'}" in said and words in " ".join(said.split()), said


@pytest.mark.parametrize("setting", [
    {"hidden_act": "gelu"}, {"model_type": "qwen3"}, {"tie_word_embeddings": False}, {"inference_rope_scaling": True},
    {"rope_scaling": {"type": "yarn"}}, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
])  # fmt: skip
def test_settings_that_this_model_cannot_follow_are_refused(setting):
    with pytest.raises(ValueError, match=f"config.json: .*{next(iter(setting))}"):
        config_from_settings(REALISTIC | setting, "config.json")


def test_settings_of_other_versions_are_understood(tmp_path):
    """transformers 5 puts theta into rope_parameters; before 4.56 the precision was called torch_dtype.  Unknown settings are said."""
    five = {name: value for name, value in REALISTIC.items() if name != "rope_theta"}
    five["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    assert config_from_settings(five, "config.json").rope_theta == 77.0
    old = {name: value for name, value in REALISTIC.items() if name != "dtype"} | {"torch_dtype": "float16", "colour": "red", "pad_token_id": None}
    torch.save(random_state(DENSE, torch.float16), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(old))
    found = read_original(tmp_path)
    assert any("colour" in note for note in found.notes)
    assert settings_from_config(found.config, found.kept, torch.float16) == old
    assert settings_from_config(found.config, found.kept, torch.bfloat16) == old | {"torch_dtype": "bfloat16"}


# --- MiniMind's text weights -----------------------------------------------------------------------------------------


def text_weights(config: ModelConfig, path: Path) -> dict:
    """As minimind saves llm_768.pth: the language model alone, half precision, each name rounded by itself, so the head is there twice."""
    state = {name: value.clone() for name, value in random_state(config, torch.float16).items() if name.startswith(("model.", TIED))}
    torch.save(state, path)
    return state


EQUAL = DENSE.replace(talker_hidden_size=32)  # as wide as the Thinker, as at full size


@pytest.mark.parametrize("moe_file", [False, True], ids=["llm_768.pth", "llm_768_moe.pth"])
def test_text_weights_start_the_thinker(tmp_path, moe_file):
    config = EQUAL.replace(use_moe=moe_file)
    state = text_weights(config, tmp_path / "llm_768.pth")
    model = OmniModel(config)
    load_thinker(model.model, tmp_path / "llm_768.pth")
    own = model.state_dict()
    assert all(torch.equal(own[name], value.float()) for name, value in state.items()) and model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("change, words", [
    (lambda state: state.pop("model.layers.3.self_attn.q_norm.weight"), "missing ['model.layers.3.self_attn.q_norm.weight']"),
    (lambda state: state.update({"model.freqs_cos": torch.zeros(2)}), "unexpected ['model.freqs_cos']"),
    (lambda state: state.update({"layers.0.strange": torch.zeros(2)}), "unexpected ['layers.0.strange']"),
    (lambda state: state.update({"model.norm.weight": torch.zeros(2)}), "model.norm.weight (2,), wanted (32,)"),
    (lambda state: state.update({TIED: state[TIED] + 1}), "lm_head.weight differs"),
])  # fmt: skip
def test_every_name_of_the_text_weights_is_compared(tmp_path, change, words):
    state = text_weights(EQUAL, tmp_path / "llm_768.pth")
    change(state)
    torch.save(state, tmp_path / "llm_768.pth")
    for config in (EQUAL, EQUAL.replace(use_moe=True)):
        with pytest.raises(ValueError, match=re.escape(words)):
            load_thinker(OmniModel(config).model, tmp_path / "llm_768.pth")


@both
def test_the_talker_starts_from_the_thinkers_last_layers(config):
    model = OmniModel(config.replace(talker_hidden_size=32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_talker(model)
    for name, value in model.state_dict().items():
        layer = re.match(r"talker\.layers\.(\d)\.(.*)", name)
        assert torch.equal(value, before[f"model.layers.{int(layer[1]) + 2}.{layer[2]}"] if layer else before[name]), name
    model.talker.layers[0].input_layernorm.weight.data.fill_(9)
    assert model.model.layers[2].input_layernorm.weight[0] == 1, "copies, not the same weights"


def test_a_talker_that_cannot_start_so_says_why():
    with pytest.raises(ValueError, match=r"the Thinker's last layers.*wrong shape \['0.input_layernorm.weight \(32,\), wanted \(64,\)"):
        start_talker(OmniModel(DENSE))
    with pytest.raises(ValueError, match="the Talker has 5 layers, the Thinker only 4"):
        start_talker(OmniModel(EQUAL.replace(num_talker_hidden_layers=5)))


def test_mini_can_start_so_at_full_size():
    """The profiles' own sizes: the text weights' names and shapes are the Thinker's, its last four layers fit the Talker's."""
    for name in ("mini", "mini-moe", "full"):
        profile = PROFILES[name]()
        assert profile.talker_from_thinker and profile.thinker_file.name == "llm_768.pth"
        with torch.device("meta"):
            start_talker(OmniModel(profile.model))
    assert not PROFILES["tiny"]().talker_from_thinker


# --- The commands ----------------------------------------------------------------------------------------------------


def mmo(*arguments) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_commands_say_what_they_did_and_lose_nothing(tmp_path):
    theirs, ours = tmp_path / "sft_omni_32.pth", tmp_path / "ours.safetensors"
    torch.save(random_state(MIXTURE, torch.float16), theirs)
    status, said = mmo("import", "minimind-3o", theirs, "--to", ours)
    assert status == 0 and "float16, mixture of experts; every name and shape as it should be" in said and f"written: {ours}" in said
    assert "sizes read from the shapes" in said
    status, said = mmo("import", "minimind-3o", theirs, "--to", ours)
    assert status == 1 and f"already there: {ours}" in said
    assert mmo("import", "minimind-3o", theirs, "--to", ours, "--overwrite")[0] == 0
    assert mmo("export", ours, "--to", tmp_path / "out", "--layout", "transformers", "--dtype", "bfloat16")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    for arguments, words in (
        (("export", ours, "--to", tmp_path / "out", "--layout", "transformers"), "already there"),
        (("export", ours, "--to", tmp_path / "folder"), "ends in .pth"),
        (("export", theirs, "--to", tmp_path / "x.pth"), "mmo import minimind-3o"),
        (("import", "minimind-3o", theirs), "say with --to"),
        (("import", "minimind-3o", tmp_path / "nothing.pth"), "no file or folder"),
    ):
        status, said = mmo(*arguments)
        assert status == 1 and words in " ".join(said.split()), said


def test_without_a_place_it_goes_where_the_profile_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path))
    assert interchange.usual_place(ModelConfig()) == tmp_path / "minimind-3o.safetensors"
    assert interchange.usual_place(ModelConfig(use_moe=True)) == tmp_path / "minimind-3o-moe.safetensors"


def test_the_file_written_is_one_of_ours(tmp_path):
    """No more metadata than it needs, the head once."""
    torch.save(random_state(DENSE, torch.float16), tmp_path / "x.pth")
    import_original(tmp_path / "x.pth", tmp_path / "ours.safetensors", say=quiet)
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert set(file.metadata()) == {"config"} and TIED not in file.keys()
