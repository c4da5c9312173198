"""Stand-ins for the judges, and the examination rehearsed with them: `mmo evaluate`, the command itself, on what the rehearsal trained.

    write_judges(chosen)                        # 1 GB beside the other stand-ins; what is there stays
    rehearse_evaluation(runner, chosen)         # memory and seconds

A Whisper small and a CAM++ of their real sizes, in the real layouts, with drawn weights: the judge writes nonsense, and the figures mean
nothing.  What is shown is that all of it runs, how much memory it holds, and how long it takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmo.profiles import Profile
from mmo.rehearsal.stages import RehearsalFailed, Runner, last_words
from mmo.rehearsal.stand_ins import atomically, size_of

# What Whisper small's own config.json says (public text).
WHISPER = {
    "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 12, "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "max_target_positions": 448,
}  # fmt: skip
SPELLING = {"colour": "color", "colours": "colors", "grey": "gray"}  # the real list has some 1700


@dataclass(frozen=True)
class JudgeSizes:
    """How large they are; the defaults are the real sizes."""

    whisper: dict = field(default_factory=dict)  # of WHISPER
    pieces: int = 50_257  # of text: bytes first, the others are made up
    languages: int = 99
    window: int = 30  # seconds
    voice: int = 192  # values of a voice's vector


REAL = JudgeSizes()


def write_judges(chosen: Profile, sizes: JudgeSizes = REAL, say: Callable[[str], None] = print, seed: int = 0) -> None:
    """Both, where `chosen` looks for them.  Raises ValueError where its downloads are no stand-ins."""
    if not chosen.stand_ins:
        raise ValueError(f"{chosen.judge_dir.parent} holds no stand-ins, so no drawn judge is put there")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, write in ((chosen.judge_dir, write_whisper), (chosen.speaker_encoder_file, write_speaker_encoder)):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                atomically(path, lambda place, write=write: write(place, sizes))
                say(f"{path.name}: {size_of(path) / 1e6:.0f} MB")


def rehearse_evaluation(runner: Runner, chosen: Profile, sizes: JudgeSizes = REAL) -> dict:
    """`mmo evaluate` with few questions of the weights after each stage.  Raises RehearsalFailed where its report lacks a stage."""
    write_judges(chosen, sizes, runner.say)
    path = runner.run_dir / "report.json"
    path.unlink(missing_ok=True)
    ran = runner.expect("evaluate", "--profile", runner.name, "--budget", "rehearse")
    told = json.loads(path.read_text(encoding="utf-8"))
    if lacking := [stage for stage, found in told["after_stage"].items() if not found]:
        raise RehearsalFailed(f"the evaluation says nothing of {', '.join(lacking)}:\n{last_words(ran.output)}")
    runner.say(f"evaluation: {ran.seconds:.0f} s, at most {ran.memory / 1e9:.2f} GB")
    return {"seconds": ran.seconds, "memory": ran.memory, "parts": told["evaluation_seconds"]}


# --- The judges ------------------------------------------------------------------------------------------------------


def special_pieces(languages: int) -> list[str]:
    """Whisper's special pieces in their order, with so many of its languages."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    names = ["startoftranscript", *list(LANGUAGES)[:languages], "translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    return [f"<|{name}|>" for name in names]


def whisper_processor(folder: Path, sizes: JudgeSizes):
    """transformers' processor: pieces of text without merges, special pieces, time stamps; the features of the real one."""
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import bytes_to_unicode
    from transformers.tokenization_utils import AddedToken

    pieces = {sign: byte for byte, sign in bytes_to_unicode().items()}
    pieces |= {f"\u0120{number}": number for number in range(len(pieces), sizes.pieces)}
    files = {"vocab.json": json.dumps(pieces), "merges.txt": "#version: 0.2\n", "normalizer.json": json.dumps(SPELLING)}
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    special = special_pieces(sizes.languages)
    tokenizer = WhisperTokenizer(*(folder / name for name in files), pad_token="<|endoftext|>", additional_special_tokens=special)
    times = [f"<|{place * 0.02:.2f}|>" for place in range(sizes.window * 50 + 1)]
    tokenizer.add_tokens([AddedToken(time, special=False, normalized=False) for time in times])
    return WhisperProcessor(WhisperFeatureExtractor(chunk_length=sizes.window), tokenizer)


def fresh_whisper(tokenizer, sizes: JudgeSizes):
    """transformers' model for this tokenizer with drawn weights, and the settings of its generation."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    number, layers = tokenizer.convert_tokens_to_ids, WHISPER | sizes.whisper
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), number("<|endoftext|>"))
    start = {"decoder_start_token_id": number("<|startoftranscript|>")}
    config = WhisperConfig(
        vocab_size=len(tokenizer), max_source_positions=sizes.window * 50, suppress_tokens=None, begin_suppress_tokens=None, **layers, **ends, **start
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **ends, **start, max_length=config.max_target_positions, is_multilingual=True, no_timestamps_token_id=number("<|notimestamps|>"),
        max_initial_timestamp_index=50, prev_sot_token_id=number("<|startofprev|>"),
        task_to_id={name: number(f"<|{name}|>") for name in ("translate", "transcribe")},
        lang_to_id={piece: number(piece) for piece in special_pieces(sizes.languages)[1 : 1 + sizes.languages]},
    )  # fmt: skip
    return model


def write_whisper(folder: Path, sizes: JudgeSizes = REAL, change: Callable = lambda model, processor: None) -> Path:
    """A folder as the hub has it.  change: gets model and processor before they are saved."""
    processor = whisper_processor(folder, sizes)
    model = fresh_whisper(processor.tokenizer, sizes)
    change(model, processor)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_speaker_encoder(path: Path, sizes: JudgeSizes = REAL) -> Path:
    """funasr's CAM++ as the hub has it: a pickled state."""
    from mmo.speaker import build

    torch.save(build(sizes.voice).state_dict(), path)
    return path
