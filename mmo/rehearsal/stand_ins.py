"""Stand-ins: random weights and synthetic rows in the real sizes and layouts, where the real ones would lie.

    folder = Path("runs/rehearsal/stand-ins")
    write_stand_ins("mini", folder)                 # 1.9 GB; what is there already stays
    MMO_DOWNLOADS=runs/rehearsal/stand-ins mmo train --profile mini --stage t2a --budget rehearse

Each part is built by the library that the real one belongs to (moshi, funasr, transformers) and read back by the course's own
loaders.  The file `stand-ins.json` marks the folder, so that nobody takes it for the real thing: `profile` reads it, and a folder
with files that it did not make is refused.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml

from mmo.config import ModelConfig
from mmo.profiles import STAGES, STAND_INS, Profile, profile
from mmo.rehearsal.rows import MINI, Kind, write_rows

VERSION = 1  # a change makes older stand-ins invalid
# What SenseVoice-Small's own config.yaml says (public text).
SPEECH = {
    "output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50, "tp_blocks": 20, "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1, "input_layer": "pe", "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True, "kernel_size": 11, "sanm_shfit": 0, "selfattention_layer_type": "sanm",
}  # fmt: skip
SPEECH_TOKENS = 25_055
BPE_MODEL = "chn_jpn_yue_eng_ko_spectok.bpe.model"
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 256, "patch_size": 32}


@dataclass(frozen=True)
class Sizes:
    """How large the stand-ins are; the defaults are the real sizes."""

    model: dict = field(default_factory=dict)  # settings of ModelConfig that differ
    stages: dict = field(default_factory=dict)  # settings of every StageConfig that differ
    codec: dict = field(default_factory=dict)  # arguments of `codec_config` that differ
    speech: dict = field(default_factory=dict)  # of SPEECH
    speech_tokens: int = SPEECH_TOKENS
    vision: dict = field(default_factory=dict)  # of VISION
    rows: int = 96  # in each data file
    # An untrained model seldom stops by itself: answers are cut short, or a notebook would take hours on a CPU.
    decoding: dict = field(default_factory=lambda: {"max_text": 8, "max_frames": 13})


REAL = Sizes()


@contextmanager
def downloads_at(folder: Path) -> Iterator[None]:
    """MMO_DOWNLOADS is `folder` until the block ends."""
    before = os.environ.get("MMO_DOWNLOADS")
    os.environ["MMO_DOWNLOADS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MMO_DOWNLOADS"]
        else:
            os.environ["MMO_DOWNLOADS"] = before


def write_stand_ins(name: str, folder: Path, sizes: Sizes = REAL, seed: int = 0, say: Callable[[str], None] = print) -> Path:
    """Write everything that profile `name` reads into `folder`; returns it.  What is there of the same sizes stays.

    Raises ValueError where the folder holds something else, or the profile downloads nothing.
    """
    with downloads_at(folder):
        downloads = profile(name).codec_file.is_relative_to(folder)
    if not downloads:
        raise ValueError(f"profile {name} downloads nothing: there is nothing to rehearse but `mmo weekend --budget smoke`")
    marker, told = folder / STAND_INS, describe(sizes, seed)
    if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
        raise ValueError(f"{folder} holds files that are no stand-ins; choose an empty folder")
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) != told:
        raise ValueError(f"{folder} holds stand-ins of other sizes; delete it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")  # first: whatever comes later is marked
    with downloads_at(folder):
        chosen = profile(name)  # now of these sizes
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    for path, write in parts(chosen, sizes, seed).items():
        if not path.exists():
            atomically(path, write)
            say(f"{path.relative_to(folder)}: {size_of(path) / 1e6:.0f} MB")
    torch.set_rng_state(torch_state)
    return folder


def describe(sizes: Sizes, seed: int) -> dict:
    """What the marker says; `profiles.as_rehearsed` reads model, rows and decoding."""
    told = asdict(sizes)
    return {"version": VERSION, "seed": seed, "model": told["model"], "rows": told["stages"], "decoding": told["decoding"], "sizes": told}


def parts(chosen: Profile, sizes: Sizes, seed: int) -> dict[Path, Callable[[Path], None]]:
    """Every path and what writes it."""
    config = chosen.model.replace(use_moe=False)  # the mixture is upcycled from the dense Thinker
    found: dict[Path, Callable[[Path], None]] = {
        chosen.tokenizer_dir: lambda path: write_tokenizer(path, config.vocab_size),
        chosen.codec_file: lambda path: write_codec(path, sizes.codec),
        chosen.speech_encoder_dir: lambda path: write_speech_encoder(path, SPEECH | sizes.speech, sizes.speech_tokens),
        chosen.vision_encoder_dir: lambda path: write_vision_encoder(path, VISION | sizes.vision),
        chosen.thinker_file: lambda path: write_thinker(path, config),
    }
    for number, stage in enumerate(STAGES):
        for file in chosen.stages[stage][0].data:
            found[chosen.data_dir / file] = row_writer(MINI[stage], config, sizes.rows, seed + number)
    return found


def row_writer(kind: Kind, config: ModelConfig, count: int, seed: int) -> Callable[[Path], None]:
    return lambda path: write_rows(path, kind, config, count, seed) and None


def atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside the place (under the same name, which loaders may ask for), then move there in one go."""
    unfinished = path.parent / ".unfinished" / path.name
    shutil.rmtree(unfinished.parent, ignore_errors=True)
    unfinished.parent.mkdir(parents=True)
    write(unfinished)
    for made in unfinished.parent.iterdir():  # a codec of other sizes has a second file
        os.replace(made, path.parent / made.name)
    unfinished.parent.rmdir()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


# --- The parts -------------------------------------------------------------------------------------------------------


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """The tiny world's tokenizer with so many pieces: further merges of pieces that are there, each of two, shortest first."""
    shipped = profile("tiny").tokenizer_dir
    shutil.copytree(shipped, folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    known, merges = told["model"]["vocab"], told["model"]["merges"]
    letters = [piece for piece in known if piece.isascii() and piece.isalpha() and piece.islower()]
    letters.sort(key=len)
    pairs = ((first, second) for first in letters for second in letters)
    while len(known) < vocabulary:
        first, second = next(pairs)
        if first + second not in known:
            known[first + second] = max(known.values()) + 1
            merges.append([first, second] if merges and isinstance(merges[0], list) else f"{first} {second}")
    file.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def write_codec(path: Path, changes: dict) -> None:
    """Mimi in moshi's layout, fp32, with drawn codebooks (fresh ones are all zero)."""
    from mmo.codec import REAL_FILE, build_mimi, codec_config, draw_codebooks, save_codec

    config = codec_config(**changes)
    model = draw_codebooks(build_mimi(config))
    save_codec(model, config, path, torch.float32)
    if path.name == REAL_FILE and not changes:
        path.with_suffix(".json").unlink()  # the real file comes without its sizes


def write_speech_encoder(folder: Path, encoder: dict, tokens: int) -> None:
    """A FunASR folder of a SenseVoice-Small: config.yaml, configuration.json, am.mvn, model.pt and a sentencepiece model."""
    from mmo.speech_encoder import auto_model

    with contextlib.redirect_stdout(io.StringIO()):
        auto_model()
        from funasr.models.sense_voice.model import SenseVoiceSmall

    mels, stack = 80, 7
    settings = {
        "encoder": "SenseVoiceEncoderSmall", "encoder_conf": encoder, "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer", "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000, "window": "hamming", "n_mels": mels, "frame_length": 25, "frame_shift": 10, "lfr_m": stack, "lfr_n": 6, "cmvn_file": None,
        },
    }  # fmt: skip
    places = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"bpemodel": BPE_MODEL}, "frontend_conf": {"cmvn_file": "am.mvn"}}
    about = {"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}, "file_path_metas": places}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    (folder / "configuration.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    (folder / "am.mvn").write_text(kaldi_mvn([-8.0] * mels * stack, [0.25] * mels * stack), encoding="utf-8")
    write_sentencepiece(folder / BPE_MODEL, tokens)
    model = SenseVoiceSmall(
        encoder="SenseVoiceEncoderSmall", encoder_conf=encoder, input_size=mels * stack, vocab_size=tokens, **settings["model_conf"]
    )
    torch.save(model.state_dict(), folder / "model.pt")


def kaldi_mvn(shift: list[float], scale: list[float]) -> str:
    """Kaldi's text form of "add, then multiply"."""
    size, (add, by) = len(shift), (" ".join(f"{value:g}" for value in row) for row in (shift, scale))
    return (f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {add} ]\n"
            f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {by} ]\n</Nnet>\n")  # fmt: skip


def write_sentencepiece(path: Path, tokens: int) -> None:
    """A sentencepiece model of so many made-up pieces."""
    from sentencepiece import sentencepiece_model_pb2

    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece.Type
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.vocab_size = tokens
    model.normalizer_spec.name = "identity"
    for number in range(tokens):
        kind = {0: kinds.UNKNOWN, 1: kinds.CONTROL, 2: kinds.CONTROL}.get(number, kinds.NORMAL)
        piece = {0: "<unk>", 1: "<s>", 2: "</s>"}.get(number, f"\u2581{number}")
        model.pieces.add(piece=piece, score=-float(number), type=kind)
    path.write_bytes(model.SerializeToString())


def write_vision_encoder(folder: Path, sizes: dict) -> None:
    """A folder as `mmo fetch` leaves SigLIP 2: the whole model's config.json, the vision half's tensors, the processor's settings."""
    from safetensors.torch import save_file
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    vision = SiglipVisionConfig(**sizes)
    model = SiglipVisionModel(vision)
    folder.mkdir(parents=True)
    whole = SiglipConfig(vision_config=vision.to_dict(), architectures=["SiglipModel"])
    (folder / "config.json").write_text(json.dumps(whole.to_dict(), indent=1) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    side = {"height": vision.image_size, "width": vision.image_size}
    SiglipImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def write_thinker(path: Path, config: ModelConfig) -> None:
    """A text-pretrained Thinker's file: half precision, as published."""
    from mmo.thinker import Thinker, save_thinker

    thinker = Thinker(config)
    for name, parameter in thinker.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    if path.suffix == ".safetensors":
        save_thinker(thinker, config, path, torch.float16)
    else:  # the layout of minimind's llm_768.pth: a pickled state of plain tensors, the tied head by its own name
        state = {f"model.{name}": value.half() for name, value in thinker.state_dict().items()}
        torch.save(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, path)
