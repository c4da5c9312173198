"""Profiles: one word (`MMO_PROFILE`, or a notebook's parameter `profile`) chooses sizes, files and recipe.

    tiny       a closed little world, shipped in the repository: 2 CPU cores, no network, under an hour
    tiny-moe   the same with a mixture of experts
    mini       the real parts and the mini data set on one 24 GB card
    mini-moe   the same with a mixture of experts
    full       the whole data set, on several cards

A word may change settings too: "tiny,learning_rate=3e-4" (mmo/adjust.py).
All numbers of training stand here and nowhere else.  What differs from the original's recipe says so.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from mmo.adjust import adjusted, split_name
from mmo.config import Augmentation, Decoding, Draws, Masks, ModelConfig, Rehearsal, StageConfig
from mmo.manifest import downloads_root

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("t2a", "a2a", "i2t")  # in the order of training
BUDGETS = ("full", "smoke", "rehearse")
STAND_INS = "stand-ins.json"  # in the folder of downloads: what lies there was made by `mmo rehearse`

# Ours: the original's own list is partly Chinese, and its English half names another model.
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a small model that hears, sees and speaks.",
    "You are a friendly voice assistant. Answer clearly and briefly.",
    "You are a knowledgeable assistant. Give correct information.",
    "You are an assistant that is listened to: answer as one speaks.",
)


@dataclass(frozen=True)
class HeldOut:
    """How many rows of each kind's first file are kept from training (held_out.py): at most, and never more than a sixteenth."""

    validation: int = 96
    test: int = 256


@dataclass(frozen=True)
class Profile:
    """Everything one word stands for.  Paths may not exist yet; `mmo doctor` says which are missing."""

    name: str
    model: ModelConfig
    data_dir: Path
    tokenizer_dir: Path
    codec_file: Path
    speech_encoder_dir: Path
    vision_encoder_dir: Path
    thinker_file: Path  # the text-pretrained Thinker that T2A starts from
    checkpoint_file: Path  # the shipped finished model
    stages: dict[str, tuple[StageConfig, ...]]
    talker_from_thinker: bool = False  # T2A starts the Talker from the Thinker's last layers, as the original does
    system_prompts: tuple[str, ...] = ()
    checkpoint_seconds: float = 120.0  # between two saved states of training
    augmentation: Augmentation = Augmentation()  # what training does to spoken questions before they are encoded
    decoding: Decoding = Decoding()  # how its answers are chosen
    changes: str = ""  # "learning_rate=0.0003": settings that are not the profile's own

    judge_dir: Path | None = None  # the Whisper that judges its speech; None: pocketsphinx, which knows the closed world's words
    judge_language: str | None = None  # what Whisper is told to expect; None: it finds out, sound by sound
    speaker_encoder_file: Path | None = None  # the CAM++ that tells its voices
    held_out: HeldOut | None = None  # rows of the training files that are set aside; None where held-out files are shipped
    positions_at_once: int | None = None  # batches of more are computed in pieces (pieces.py); None: as memory allows
    stand_ins: bool = False  # weights and rows are `mmo rehearse`'s own: nothing that comes out means anything

    @property
    def full_name(self) -> str:
        """The word that gives this profile again, changed settings included."""
        return f"{self.name},{self.changes}" if self.changes else self.name

    @property
    def caution(self) -> str:
        """What to put behind a sentence about weights, where these are stand-ins."""
        return "; stand-ins of `mmo rehearse`: nothing that it says or scores means anything" if self.stand_ins else ""

    def device(self) -> torch.device:
        """Where to compute: a CUDA device if there is one, else the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def dtype(self, device: torch.device | None = None) -> torch.dtype:
        """What to compute in: see `compute_dtype`."""
        return compute_dtype(device or self.device(), self.model.hidden_size)

    def cache_dir(self) -> Path:
        """Packed rows and frozen features, shared by all runs of a profile's data."""
        return REPOSITORY / Path(os.environ.get("MMO_CACHE") or runs_root() / "cache").expanduser() / self.data_dir.name


def has_units(device: torch.device) -> bool:
    """Whether products of bfloat16 are quicker here than those of float32: a CPU with AMX.  AVX512-BF16 is not enough (`compute_dtype`)."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


@lru_cache(maxsize=None)
def compute_dtype(device: torch.device, width: int) -> torch.dtype:
    """bfloat16 where it is faster than float32 for a model of this width, else float32.

    CUDA: from compute capability 8.0 on (a T4 only emulates it).  CPU: only with AMX, and not for narrow models.  AVX512-BF16
    is not enough.  Measured on a Xeon with it and without AMX, one thread: products of 2432 x 768 x 2432 reach 78 GFLOP/s in bf16 and 131
    in fp32, attention forward and backward takes 97 ms instead of 18, a training step of `tiny` 2.0 s instead of 1.1.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if width >= 512 and has_units(device) else torch.float32


# --- tiny --------------------------------------------------------------------------------------------------------

TINY_MODEL = ModelConfig(
    hidden_size=192,
    num_hidden_layers=4,
    vocab_size=1024,
    max_position_embeddings=1024,
    talker_hidden_size=192,
    num_talker_hidden_layers=4,
    adapter_rank=64,  # a third of the width, as 256 is of the original's 768
    spk_emb_size=256,
    audio_vocab_size=576,
    audio_pad_token=513,
    audio_stop_token=514,
    audio_spk_token=515,
    audio_hidden_size=144,
    image_hidden_size=128,
    image_token_len=64,
)
TINY_VOICE = dict(
    needs=("answer_audios",),
    stop_weight=10.0,
    codebook_weights=(4.0, 3.0, 2.0, 1.0, 0.5, 0.5, 0.5, 0.5),  # the first three carry the words (data card, "Codec")
    code_dropout=0.4,
)
TINY_DRAWS = Draws(
    question=(0.8, 0.2, 0.0),
    picture_moves=False,
    system_prompt=0.0,
    drop_reference=0.85,  # the two voices are told apart by their vectors; a reference stands over the prompt and costs nothing
    random_codes=0.05,
    random_text=0.0,
    hidden_history=0.15,
)
# Hearing and seeing are learnt in writing: most rows are silent, the rest and T2A's keep the Talker in step (`Draws.silent`).
# What is heard is written down before it is answered: after A2A 79.3 % of 300 questions right for 77.7 (tried on 85 % of the rows), and it shows what was heard.
TINY_WRITTEN = replace(TINY_DRAWS, question=(1.0, 0.0, 0.0), silent=1.0)
TINY_HEARD = replace(TINY_DRAWS, silent=0.85, write_down=1.0)
TINY_READ = replace(TINY_DRAWS, silent=1.0)  # sentences of the pretraining: known as text and never spoken, they would be forgotten
# Three pixels each way, as far as pictures are moved in training.
TINY_LOOKS = ((0.0, 0.0), (1 / 32, 0.0), (0.0, 1 / 32), (-1 / 32, 0.0), (0.0, -1 / 32))
TINY_SEEN = replace(TINY_DRAWS, silent=0.5)  # two thirds of the pictures have no spoken answer anyway
# Small batches and Muon: after the same three minutes of a core the held-out audio loss was 5.14; with AdamW 5.23, with AdamW,
# batches of twice the size and rate 1.5e-3 for 1.2e-3 5.45. (Taken on the rows and the codec before the present ones.)
TINY_ROWS = dict(max_length=320, token_budget=1280, chunk_rows=1024, ema_decay=0.998, optimiser="muon", quick_products=True)
TINY_T2A, TINY_A2A, TINY_TEXT = ("t2a-train.parquet",), ("a2a-train.parquet",), ("text-train.parquet",)
# A2A's projector learns alone for nearly as many updates as all do after it: its update costs two fifths (0.14 s for 0.34 in one weekend).
# From the same T2A weights 1 000 and 900 of them answered 69 % of 300 questions in unheard voices; 150 and 1 500, at these seconds
# 1.2 times the cost, 67 %.
# In I2T a third of the rows are pictures; the rest keep what was learnt before.  From the same A2A weights, of 300 questions and 300 pictures: 3 000 updates
# with 40 % pictures 86.7 and 92.7 %, 2 400 with 32 % 88.3 and 94.0, 1 900 with 29 % 85.3 and 91.3.
TINY_STAGES = {
    "t2a": (
        StageConfig(
            "t2a", TINY_T2A, 1.2e-3, steps=2300, warmup_steps=60, schedule="linear", final_rate=0.02,
            draws=TINY_DRAWS, **TINY_ROWS, **TINY_VOICE,
        ),
    ),
    "a2a": (
        StageConfig(
            "a2a-projector", TINY_A2A, 2e-3, trainable="audio_proj", steps=1000, warmup_steps=20,
            draws=TINY_WRITTEN, needs=("question_audios",), sound_copies=3, **TINY_ROWS,
        ),
        StageConfig(
            "a2a", TINY_A2A, 8e-4, muon_rate=0.015, steps=1300, warmup_steps=30, draws=TINY_HEARD, sound_copies=3,
            rehearsal=(Rehearsal(TINY_T2A, 0.2, TINY_DRAWS), Rehearsal(TINY_TEXT, 0.1, TINY_READ)), **TINY_ROWS, **TINY_VOICE | {"needs": ("question_audios",)},
        ),
    ),
    "i2t": (
        StageConfig(
            "i2t-projector", ("i2t-train.parquet",), 2e-3, trainable="vision_proj", steps=100, warmup_steps=20,
            draws=TINY_WRITTEN, needs=("image_bytes",), picture_copies=2, **TINY_ROWS,
        ),
        StageConfig(
            "i2t", ("i2t-train.parquet",), 1e-3, muon_rate=0.02, steps=2400, warmup_steps=30, draws=TINY_SEEN, sound_copies=3, picture_copies=2,
            rehearsal=(Rehearsal(TINY_T2A, 0.22, TINY_DRAWS), Rehearsal(TINY_A2A, 0.4, TINY_HEARD), Rehearsal(TINY_TEXT, 0.06, TINY_READ)),
            **TINY_ROWS, **TINY_VOICE | {"needs": ("image_bytes",)},
        ),
    ),
}


def tiny() -> Profile:
    data = REPOSITORY / "data" / "tiny"
    return Profile(
        name="tiny",
        model=TINY_MODEL,
        data_dir=data,
        tokenizer_dir=data / "tokenizer",
        codec_file=data / "codec.safetensors",
        speech_encoder_dir=data / "speech_encoder",
        vision_encoder_dir=data / "vision_encoder",
        thinker_file=data / "thinker.safetensors",
        checkpoint_file=data / "omni.safetensors",
        stages=TINY_STAGES,
        # Ten seconds: the longest answer takes five.  Three hearings, chosen on the validation voice: 97 of its 100 questions written rightly for 94.
        # Five looks, chosen on the validation pictures: 144 of the 160 told rightly for 134.
        decoding=Decoding(max_text=64, max_frames=125, write_down=True, hearings=(1.0, 0.92, 1.08), looks=TINY_LOOKS),
    )


# --- mini and full -----------------------------------------------------------------------------------------------

# The original's recipe: rates, lengths and number of epochs are its own.  A batch was 40 rows (in the second pass of A2A 16) padded to the
# length; token_budget is what holds about as many real rows (`mmo plan` counts updates), 8 192 where its number is not known.
# Ours: warm-up, and rehearsal of speech where pictures are learnt.
MINI_ROWS = dict(chunk_rows=4096, warmup_steps=100)
MINI_T2A, MINI_A2A, MINI_I2T = ("sft_t2a_mini.parquet",), ("sft_a2a_mini.parquet",), ("sft_i2t_mini.parquet",)


def real_stages(t2a: tuple[str, ...], a2a: tuple[str, ...], i2t: tuple[str, ...]) -> dict[str, tuple[StageConfig, ...]]:
    """The recipe on files of the real schema."""
    spoken, heard, seen = ("answer_audios",), ("question_audios",), ("image_bytes",)
    return {
        "t2a": (
            StageConfig("t2a", t2a, 5e-4, epochs=1, max_length=512, token_budget=3584, needs=spoken, **MINI_ROWS),
        ),
        "a2a": (
            StageConfig(
                "a2a-projector", a2a, 5e-4, trainable="audio_proj", epochs=1, max_length=640, token_budget=5632,
                needs=heard, **MINI_ROWS,
            ),
            StageConfig("a2a", a2a, 2e-5, epochs=1, max_length=768, token_budget=2048, needs=heard, **MINI_ROWS),
        ),
        "i2t": (
            StageConfig(
                "i2t-projector", i2t, 5e-5, trainable="vision_proj", epochs=1, max_length=768, token_budget=8192,
                needs=seen, **MINI_ROWS,
            ),
            StageConfig(
                "i2t", i2t, 5e-6, epochs=1, max_length=768, token_budget=8192, needs=seen,
                rehearsal=(Rehearsal(t2a, 0.2), Rehearsal(a2a, 0.2)), **MINI_ROWS,
            ),
        ),
    }


def first_there(*paths: Path) -> Path:
    """The first of these files that exists; the first of all where none does."""
    return next((path for path in paths if path.is_file()), paths[0])


def mini() -> Profile:
    downloads = downloads_root()
    chosen = Profile(
        name="mini",
        model=ModelConfig(),
        data_dir=downloads / "mini",
        tokenizer_dir=downloads / "tokenizer",
        codec_file=first_there(  # the same weights in two layouts (mimi_layout.py); ModelScope has the second only
            downloads / "mimi" / "tokenizer-e351c8d8-checkpoint125.safetensors", downloads / "mimi-transformers" / "model.safetensors"
        ),
        speech_encoder_dir=downloads / "SenseVoiceSmall",
        vision_encoder_dir=downloads / "siglip2-base-patch32-256",
        thinker_file=downloads / "minimind-3o-pytorch" / "llm_768.pth",
        talker_from_thinker=True,
        checkpoint_file=downloads / "minimind-3o.safetensors",  # trained by nobody here: `mmo import` puts the original's there
        stages=real_stages(MINI_T2A, MINI_A2A, MINI_I2T),
        system_prompts=SYSTEM_PROMPTS,
        augmentation=Augmentation(masks=Masks()),  # the original's kinds: speed, filter, room, noise white to pink, gain; a silence, SpecAugment
        checkpoint_seconds=600.0,
        judge_dir=downloads / "whisper-small",
        judge_language="en",  # mini is English
        speaker_encoder_file=downloads / "campplus" / "campplus_cn_common.bin",
        held_out=HeldOut(),
    )
    return as_rehearsed(downloads, chosen)


def as_rehearsed(downloads: Path, chosen: Profile) -> Profile:
    """The profile as it is, or, where the downloads are stand-ins, with the sizes that these were made in."""
    marker = downloads / STAND_INS
    if not marker.is_file():
        return chosen
    told = json.loads(marker.read_text(encoding="utf-8"))
    stages = {name: tuple(each.replace(**told["rows"]) for each in passes) for name, passes in chosen.stages.items()}
    return replace(chosen, model=ModelConfig.from_dict(told["model"]), stages=stages, decoding=Decoding(**told["decoding"]), stand_ins=True)


def full() -> Profile:
    small = mini()
    return replace(
        small,
        name="full",
        data_dir=small.data_dir.parent / "full",
        judge_language=None,  # Chinese and English
        stages=real_stages(("sft_t2a.parquet",), ("sft_a2a.parquet",), ("sft_i2t.parquet",)),
    )


def with_experts(dense: Profile, name: str) -> Profile:
    """The same with four experts, one of them at work at each position; the Thinker is upcycled from the dense one."""
    checkpoint = dense.checkpoint_file.with_stem(dense.checkpoint_file.stem + "-moe")
    return replace(dense, name=name, model=dense.model.replace(use_moe=True), checkpoint_file=checkpoint)


PROFILES = {
    "tiny": tiny,
    "tiny-moe": lambda: with_experts(tiny(), "tiny-moe"),
    "mini": mini,
    "mini-moe": lambda: with_experts(mini(), "mini-moe"),
    "full": full,
}


def profile(name: str | None = None) -> Profile:
    """The profile of that name, "tiny,learning_rate=3e-4" for instance; without one, the one in MMO_PROFILE, else tiny.

    Raises ValueError listing the names of profiles, or of settings.
    """
    name, changes = split_name(name or os.environ.get("MMO_PROFILE") or "tiny")
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; there are {', '.join(PROFILES)}")
    chosen = adjusted(PROFILES[name](), changes) if changes else PROFILES[name]()
    return replace(chosen, positions_at_once=read_positions()) if "MMO_POSITIONS" in os.environ else chosen


def read_positions() -> int:
    """MMO_POSITIONS: how many positions training computes at once.  Raises ValueError where it is no positive number."""
    text = os.environ["MMO_POSITIONS"]
    if not text.isdecimal() or not int(text):
        raise ValueError(f"MMO_POSITIONS is {text!r}; wanted a number of positions, such as 4096")
    return int(text)


def runs_root() -> Path:
    """Where runs are written: MMO_RUNS, else `runs`; in the repository where the path is relative, for a notebook works in a folder of its own."""
    return REPOSITORY / Path(os.environ.get("MMO_RUNS") or "runs").expanduser()


def run_dir(profile: Profile, budget: str = "full") -> Path:
    """The folder of one run: runs/tiny, runs/tiny-smoke, …  Raises ValueError for an unknown budget."""
    if budget not in BUDGETS:
        raise ValueError(f"no budget {budget!r}; there are {', '.join(BUDGETS)}")
    return runs_root() / (profile.full_name if budget == "full" else f"{profile.full_name}-{budget}")
