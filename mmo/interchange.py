"""Weights in and out: MiniMind-O's own two layouts, and our file (`mmo import`, `mmo export`).

    sft_omni_768.pth            a pickle: every weight by name, half precision, the tied head twice, no configuration
    a folder of transformers    config.json and model.safetensors (the head once) or pytorch_model.bin (twice)
    ours                        one .safetensors file: the head once, the configuration in its metadata (`omni.write_model`)

Weights have the original's names in all three, so the mapping of names is `from_original` and `to_original`: the tied head, and what is
not ours to keep.  Precision stays what it is, unless another is asked for: import after export gives the same file, export after import
the same weights and the same config.json.

Every name and shape is compared with those of a model of that configuration, before anything is written.  Nothing is run from a file:
pickles are read with `weights_only=True`, and the code that a folder of transformers may hold is not looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mmo.config import ModelConfig
from mmo.omni import OmniModel, read_model, write_model
from mmo.profiles import profile
from mmo.weights import EMBEDDING, PICKLES, TIED, check_finite, check_fit, read_settings, read_tensors, shapes, untied, write_pickle, write_tensors, write_whole

Layout = Literal["pth", "transformers"]
Precision = Literal["as-is", "float32", "float16", "bfloat16"]
Say = Callable[[str], None]
CONFIG, SAFE, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
ENCODERS = ("audio_encoder.", "vision_encoder.")  # the rented parts, should a file hold them: they come from files of their own
KEPT = "original"  # metadata of our file: settings of the original's config.json that say nothing to this model

# --- Settings --------------------------------------------------------------------------------------------------------

ALL_SETTINGS = tuple(field.name for field in fields(ModelConfig))
BUILT_IN = ALL_SETTINGS[ALL_SETTINGS.index("num_codebooks") :]  # constants of the original's code, settings here
RENAMED = {"bos_token_id": "im_start_token", "eos_token_id": "im_end_token", "pad_token_id": "pad_token"}
# What this model does whatever a configuration says: another value is refused.
WANTED = {"model_type": "minimind-o", "hidden_act": "silu", "tie_word_embeddings": True, "inference_rope_scaling": False, "rope_scaling": None}
# How transformers finds the original's code, once model_omni.py and model_minimind.py lie in the folder.
CODE = {
    "architectures": ["MiniMindOmni"],
    "auto_map": {"AutoConfig": "model_omni.OmniConfig", "AutoModelForCausalLM": "model_omni.MiniMindOmni"},
}
# Known, and without a say in what is computed: kept as they are.
PASSED_OVER = {
    *CODE, "dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache", "gradient_checkpointing", "dropout", "flash_attn",
    "think_end_ids", "audio_special_token", "image_special_token", "rope_parameters",
}  # fmt: skip


def check_kinds(values: Mapping, source: str) -> None:
    """Raises ValueError naming settings whose values are of another kind than ours, as words where a number is wanted."""
    usual, by_rule = ModelConfig(), {field.name for field in fields(ModelConfig) if field.default is None}
    wrong = {name: value for name, value in values.items() if not (value is None and name in by_rule) and not is_like(value, getattr(usual, name), name)}
    if wrong:
        raise ValueError(f"{source}: {wrong}; wanted values like { {name: getattr(usual, name) for name in wrong} }")


def is_like(value: object, usual: object, name: str) -> bool:
    """Whether a value can stand for a setting whose usual value is that one."""
    if isinstance(usual, bool):
        return isinstance(value, bool)
    if isinstance(usual, tuple):
        return isinstance(value, (list, tuple)) and all(is_like(each, 0, "_token") for each in value)
    if isinstance(usual, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    least = -1 if name == "bridge_layer" else 0 if name.endswith("_token") or "expert" in name else 1
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def config_from_settings(settings: Mapping, source: str) -> ModelConfig:
    """The original's config.json -> our configuration.  Raises ValueError naming settings that this model cannot follow."""
    odd = {name: settings[name] for name, value in WANTED.items() if name in settings and settings[name] != value}
    rotary = settings.get("rope_parameters") or {}  # where transformers 5 keeps theta
    if not isinstance(rotary, Mapping):
        raise ValueError(f"{source}: rope_parameters is {rotary!r}, wanted settings by name, as in {{\"rope_theta\": 1000000.0}}")
    if rotary.get("rope_type", "default") != "default":
        odd["rope_parameters"] = rotary
    if odd:
        raise ValueError(f"{source}: this model has nothing for {odd}; it knows only { {name: WANTED.get(name) for name in odd} }")
    theta = {"rope_theta": rotary["rope_theta"]} if "rope_theta" in rotary else {}
    own = {name: settings[name] for name in ALL_SETTINGS if name in settings}
    renamed = {ours: settings[theirs] for theirs, ours in RENAMED.items() if settings.get(theirs) is not None}
    check_kinds(theta | renamed | own, source)
    try:
        return ModelConfig.from_dict(theta | renamed | own)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def settings_from_config(config: ModelConfig, kept: Mapping, dtype: torch.dtype) -> dict:
    """Our configuration -> the original's config.json, with the settings that were kept for it."""
    values, defaults = config.to_dict(), ModelConfig().to_dict()
    settings = CODE | WANTED | {name: values[name] for name in ALL_SETTINGS if name not in BUILT_IN}
    settings |= {theirs: values[ours] for theirs, ours in RENAMED.items() if ours != "pad_token" or values[ours] != defaults[ours]}
    settings |= {name: values[name] for name in BUILT_IN if name not in RENAMED.values() and values[name] != defaults[name]}
    precision = "torch_dtype" if "torch_dtype" in kept else "dtype"  # the older word, or that of transformers from 4.56 on
    return settings | dict(kept) | {precision: str(dtype).removeprefix("torch.")}


def settings_to_keep(settings: Mapping, config: ModelConfig, dtype: torch.dtype) -> dict:
    """Those of a config.json that exporting our configuration would not write, or not so."""
    written = settings_from_config(config, {}, dtype)
    return {name: value for name, value in settings.items() if name not in ALL_SETTINGS and written.get(name, ...) != value}


def unlike_the_original(config: ModelConfig) -> dict[str, tuple]:
    """Settings that are constants in the original's code and have other values here: (here, there)."""
    original = ModelConfig()
    return {name: (getattr(config, name), getattr(original, name)) for name in BUILT_IN if getattr(config, name) != getattr(original, name)}


def infer_config(state: Mapping[str, Tensor], source: str) -> ModelConfig:
    """The sizes that show in the shapes; all else (special ids, theta, the bridge, experts a position) as the original has it.

    A weight that is missing counts as of the original's size; comparing names afterwards tells that it is missing.
    Raises ValueError where the sizes do not go with the original's ids.
    """

    def size(name: str, dimension: int, default: int | None) -> int | None:
        if name not in state:
            return default
        shape = tuple(state[name].shape)
        if dimension >= len(shape) or not shape[dimension]:
            raise ValueError(f"{source}: {name} has shape {shape}, which no weights of the original's have there")
        return shape[dimension]

    def count(pattern: str) -> int:
        return len({found.group(1) for name in state if (found := re.match(pattern, name))})

    usual = ModelConfig()
    first, talker = "model.layers.0", "talker.layers.0"
    head, talker_head = (
        size(f"{layer}.self_attn.q_norm.weight", 0, size(f"{layer}.self_attn.k_norm.weight", 0, usual.head_dim)) for layer in (first, talker)
    )
    width, talker_width = size(EMBEDDING, 1, usual.hidden_size), size("talker.norm.weight", 0, usual.talker_hidden_size)
    sizes = {
        "hidden_size": width,
        "vocab_size": size(EMBEDDING, 0, usual.vocab_size),
        "num_hidden_layers": count(r"model\.layers\.(\d+)\.") or usual.num_hidden_layers,
        "head_dim": head,
        "num_attention_heads": size(f"{first}.self_attn.q_proj.weight", 0, width) // head,
        "num_key_value_heads": size(f"{first}.self_attn.k_proj.weight", 0, width // 2) // head,
        "intermediate_size": size(f"{first}.mlp.gate_proj.weight", 0, None),
        "use_moe": any(".mlp.experts." in name for name in state),
        "num_experts": size(f"{first}.mlp.gate.weight", 0, usual.num_experts),
        "moe_intermediate_size": size(f"{first}.mlp.experts.0.gate_proj.weight", 0, None),
        "talker_hidden_size": talker_width,
        "num_talker_hidden_layers": count(r"talker\.layers\.(\d+)\.") or usual.num_talker_hidden_layers,
        "talker_num_attention_heads": size(f"{talker}.self_attn.q_proj.weight", 0, talker_width) // talker_head,
        "talker_num_key_value_heads": size(f"{talker}.self_attn.k_proj.weight", 0, talker_width // 2) // talker_head,
        "talker_num_experts": size(f"{talker}.mlp.gate.weight", 0, usual.talker_num_experts),
        "spk_emb_size": size("talker.spk_proj.weight", 1, usual.spk_emb_size),
        "audio_vocab_size": size("talker.lm_head.base.weight", 0, usual.audio_vocab_size),
        "num_codebooks": count(r"talker\.lm_head\.adapters\.(\d+)\.") or usual.num_codebooks,
        "adapter_rank": size("talker.lm_head.adapters.0.0.weight", 0, usual.adapter_rank),
        "audio_hidden_size": size("audio_proj.mlp.1.weight", 1, usual.audio_hidden_size),
        "image_hidden_size": size("vision_proj.mlp.1.weight", 1, usual.image_hidden_size),
    }
    try:
        return ModelConfig(**sizes)
    except ValueError as error:
        raise ValueError(f"{source} holds no configuration, and the original's does not go with its sizes ({error}): "
                         "give one, a config.json beside it or with --config") from error  # fmt: skip


# --- Names -----------------------------------------------------------------------------------------------------------


def from_original(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The original's names -> ours: the tied head once, without the rented encoders.  Raises ValueError where the head is not tied."""
    return {name: value for name, value in untied(state, source).items() if not name.startswith(ENCODERS)}


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> those of the original's state: the head is there twice, one matrix."""
    return dict(state) | {TIED: state[EMBEDDING]}


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model of this configuration; no memory is taken."""
    with torch.device("meta"):
        return shapes(OmniModel(config))


# --- Reading and writing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Weights under our names, as they stood in their file."""

    state: dict[str, Tensor]
    config: ModelConfig
    kept: dict  # settings to be written back (KEPT)
    notes: tuple[str, ...] = ()  # what a person should know about how they were read

    @property
    def dtype(self) -> torch.dtype:
        return self.state[EMBEDDING].dtype

    def __str__(self) -> str:
        count, kind = sum(value.numel() for value in self.state.values()), "mixture of experts" if self.config.use_moe else "dense"
        return f"{len(self.state)} tensors, {count / 1e6:.1f} M parameters, {str(self.dtype).removeprefix('torch.')}, {kind}"


def read_original(path: Path, config_file: Path | None = None) -> Weights:
    """Read either of the original's layouts: a .pth file, or a folder with config.json.

    config_file: a config.json for a .pth; without it `<stem>.json` beside the file, else the sizes are read from the shapes.
    Raises FileNotFoundError, or ValueError naming what is missing, unexpected, of another shape or not finite.
    """
    path = Path(path)
    weights_file, config_file = find_files(path, config_file)
    found, _ = read_tensors(weights_file)
    source = str(weights_file)
    state, notes = from_original(found, source), []
    if left := sorted({name.split(".")[0] for name in found if name.startswith(ENCODERS)}):
        notes.append(f"passed over: {', '.join(left)}; the rented parts have files of their own")
    if config_file is None:
        config, settings = infer_config(state, source), {}
        notes.append("sizes read from the shapes, special ids and all else as the original has them")
    else:
        settings = read_settings(config_file)
        config = config_from_settings(settings, str(config_file))
        notes.append(f"configuration: {config_file}")
        if unknown := sorted(set(settings) - set(ALL_SETTINGS) - set(RENAMED) - set(WANTED) - PASSED_OVER):
            notes.append(f"settings that say nothing here: {unknown}")
    try:
        wanted = expected_shapes(config)
    except (ValueError, RuntimeError, ArithmeticError, TypeError) as error:
        raise ValueError(f"{config_file or source}: no model can be made of these sizes: {str(error).splitlines()[0]}") from error
    try:
        check_fit(wanted, state, source)
    except ValueError as error:
        raise ValueError(f"{error}{hint_for(state)}") from error
    check_finite(state, source)
    kept = settings_to_keep(settings, config, state[EMBEDDING].dtype)
    return Weights(state, config, kept, tuple(notes))


def hint_for(names: Iterable[str]) -> str:
    """What a file with the wrong names seems to be; "" where nothing is known of it."""
    if all(name.startswith("module.") for name in names):
        return ". All names begin with module.: it was saved from a wrapped model (DataParallel); save the model within, and import that"
    if not any(name.startswith("talker.") for name in names):
        return ". Nothing of a Talker is in it: if these are MiniMind's text weights, there is nothing to import, for T2A starts from them (`mmo fetch thinker`)"
    return ""


def find_files(path: Path, config_file: Path | None) -> tuple[Path, Path | None]:
    """The file of weights and the configuration of what a person pointed at.  Raises FileNotFoundError naming what is missing."""
    if config_file is not None and not config_file.is_file():
        raise FileNotFoundError(f"no configuration {config_file}")
    if path.is_dir():
        there = [path / name for name in (SAFE, PICKLED) if (path / name).is_file()]
        if not there:
            raise FileNotFoundError(f"{path} holds neither {SAFE} nor {PICKLED}")
        config_file = config_file or path / CONFIG
        if not config_file.is_file():
            raise FileNotFoundError(f"{path} holds no {CONFIG}")
        return there[0], config_file
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder {path}")
    beside = path.with_suffix(".json")
    return path, config_file or (beside if beside.is_file() else None)


def read_ours(path: Path) -> Weights:
    """Read a file of ours, with the same checks."""
    state, config, metadata = read_model(path)
    check_fit(expected_shapes(config), state, str(path))
    check_finite(state, str(path))
    return Weights(state, config, json.loads(metadata.get(KEPT, "{}")))


def write_ours(weights: Weights, path: Path) -> None:
    """Write a file of ours."""
    write_model(weights.state, weights.config, path, {KEPT: json.dumps(weights.kept)} if weights.kept else None)


def write_original(weights: Weights, path: Path, layout: Layout) -> list[Path]:
    """Write one of the original's layouts: a .pth with its configuration beside it, or a folder.  Returns what was written."""
    settings = json.dumps(settings_from_config(weights.config, weights.kept, weights.dtype), indent=2, ensure_ascii=False) + "\n"
    if layout == "pth":
        file, config_file = path, path.with_suffix(".json")
        write_pickle(file, to_original(weights.state))
    else:
        file, config_file = path / SAFE, path / CONFIG
        write_tensors(file, weights.state, {"format": "pt"})  # the word without which transformers refuses the file
    write_whole(config_file, lambda unfinished: unfinished.write_text(settings, encoding="utf-8"))
    return [file, config_file]


def in_precision(weights: Weights, precision: Precision, source: str) -> Weights:
    """The same in another precision.  Raises ValueError naming weights that are too large for it."""
    if precision == "as-is":
        return weights
    state = {name: value.to(getattr(torch, precision)) for name, value in weights.state.items()}
    check_finite(state, f"{source} as {precision}")
    return Weights(state, weights.config, weights.kept, weights.notes)


# --- The commands ----------------------------------------------------------------------------------------------------


def import_original(path: Path, to: Path | None = None, config_file: Path | None = None, overwrite: bool = False, say: Say = print) -> Path:
    """`mmo import minimind-3o`: the original's weights into a file of ours; default the place where a profile of these sizes looks.

    Raises FileNotFoundError, FileExistsError, ValueError; nothing is written then.
    """
    weights = read_original(Path(path), config_file)
    to = Path(to) if to else usual_place(weights.config)
    refuse_existing([to], overwrite)
    write_ours(weights, to)
    for line in (f"{path}: {weights}; every name and shape as it should be", *weights.notes, f"written: {to}"):
        say(line)
    return to


def usual_place(config: ModelConfig) -> Path:
    """Where the profile with a model of this configuration has its finished weights.  Raises ValueError where there is none."""
    for name in ("mini", "mini-moe"):
        if profile(name).model == config:
            return profile(name).checkpoint_file
    raise ValueError("no profile has a model of these sizes: say with --to where the weights shall go")


def export_original(
    weights_file: Path, to: Path, layout: Layout = "pth", precision: Precision = "as-is", overwrite: bool = False, say: Say = print
) -> list[Path]:
    """`mmo export`: a file of ours in one of the original's layouts.  Errors as `import_original`."""
    weights, to = in_precision(read_ours(Path(weights_file)), precision, str(weights_file)), Path(to)
    if layout == "pth" and to.suffix not in PICKLES:
        raise ValueError(f"{to}: the layout pth is a file that ends in {', '.join(PICKLES)}; for a folder take the layout transformers")
    if layout == "transformers" and to.is_file():
        raise ValueError(f"{to} is a file; the layout transformers is a folder")
    files = [to, to.with_suffix(".json")] if layout == "pth" else [to / SAFE, to / CONFIG]
    refuse_existing(files, overwrite)
    say(f"{weights_file}: {weights}")
    if unlike := unlike_the_original(weights.config):
        told = ", ".join(f"{name} {here} (there {there})" for name, (here, there) in unlike.items())
        say(f"the original's own code has these numbers built in and will not run such weights as they were trained: {told}")
    written = write_original(weights, to, layout)
    say(f"written: {', '.join(map(str, written))}")
    return written


def refuse_existing(files: list[Path], overwrite: bool) -> None:
    """Raises FileExistsError naming what would be lost."""
    if there := [str(file) for file in files if file.exists() and not overwrite]:
        raise FileExistsError(f"already there: {', '.join(there)}; choose another place, or say --overwrite")
