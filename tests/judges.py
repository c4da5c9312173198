"""Toy judges in the real libraries' layouts: a Whisper whose window is two seconds long and who knows three tones, and a CAM++.

    folder = write_whisper(tmp_path / "whisper", steps=STEPS)     # taught; with steps=0 its weights are drawn, and it hears nonsense
    path = write_speaker_encoder(tmp_path / "campplus_cn_common.bin")
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import bytes_to_unicode
from transformers.tokenization_utils import AddedToken

from mmo.speaker import build

WINDOW = 2  # seconds
TONES = {"red": 300.0, "green": 900.0, "blue": 2700.0}  # Hz
SPECIAL = "<|startoftranscript|> <|en|> <|zh|> <|translate|> <|transcribe|> <|startofprev|> <|nospeech|> <|notimestamps|>".split()
SPELLING = {"colour": "color", "colours": "colors", "grey": "gray"}
STEPS = 150


def tone(name: str, seconds: float, rate: int = 24_000, level: float = 0.2, seed: int = 0) -> np.ndarray:
    """The sound of one of the three words."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    wave = level * np.sin(2 * np.pi * TONES[name] * time + rng.uniform(0, 6)) + 1e-3 * rng.standard_normal(len(time))
    return wave.astype(np.float32)


def whisper_tokenizer(folder: Path) -> WhisperTokenizer:
    """One piece a byte, no merges, and the special pieces in Whisper's order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"draft-{name}" for name in ("vocab", "merges", "normalizer")}
    files["vocab"].write_text(json.dumps({sign: byte for byte, sign in bytes_to_unicode().items()}))
    files["merges"].write_text("#version: 0.2\n")
    files["normalizer"].write_text(json.dumps(SPELLING))
    tokenizer = WhisperTokenizer(
        files["vocab"], files["merges"], files["normalizer"], pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    tokenizer.add_tokens([AddedToken(f"<|{place * 0.02:.2f}|>", special=False, normalized=False) for place in range(WINDOW * 50 + 1)])
    for file in files.values():
        file.unlink()
    return tokenizer


def toy_whisper(tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    """One layer each, fresh weights."""
    number = tokenizer.convert_tokens_to_ids
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), number("<|endoftext|>"))
    start = {"decoder_start_token_id": number("<|startoftranscript|>")}
    layers = {f"{half}_{what}": value for half in ("encoder", "decoder") for what, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))}
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer), d_model=32, max_source_positions=WINDOW * 50, max_target_positions=80, suppress_tokens=None,
            begin_suppress_tokens=None, **layers, **ends, **start,
        )
    )  # fmt: skip
    model.generation_config = GenerationConfig(
        **ends, **start, max_length=80, is_multilingual=True, no_timestamps_token_id=number("<|notimestamps|>"), max_initial_timestamp_index=50,
        prev_sot_token_id=number("<|startofprev|>"), lang_to_id={f"<|{name}|>": number(f"<|{name}|>") for name in ("en", "zh")},
        task_to_id={name: number(f"<|{name}|>") for name in ("translate", "transcribe")},
    )  # fmt: skip
    return model


def lesson(processor: WhisperProcessor, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of some tones, what the decoder is given, what it should say next (-100: nothing); half of them with time stamps."""
    tokenizer = processor.tokenizer
    number = tokenizer.convert_tokens_to_ids
    waves, given, wanted = [], [], []
    for place in range(count):
        word = str(rng.choice(list(TONES)))
        waves.append(tone(word, rng.uniform(0.3, WINDOW), 16_000, rng.uniform(0.05, 0.5), int(rng.integers(1 << 30))))
        prompt = [number(piece) for piece in ("<|startoftranscript|>", "<|en|>", "<|transcribe|>")]
        said = tokenizer.encode(f" {word}", add_special_tokens=False)
        if place % 2:
            said = [number("<|0.00|>"), *said, number(f"<|{WINDOW}.00|>")]
        else:
            prompt.append(number("<|notimestamps|>"))
        said = [*said, number("<|endoftext|>")]
        given.append(torch.tensor(prompt + said[:-1]))
        wanted.append(torch.tensor([-100] * (len(prompt) - 1) + said))
    features = processor.feature_extractor(waves, sampling_rate=16_000, return_tensors="pt").input_features
    pad = torch.nn.utils.rnn.pad_sequence
    return features, pad(given, batch_first=True, padding_value=number("<|endoftext|>")), pad(wanted, batch_first=True, padding_value=-100)


def teach(model: WhisperForConditionalGeneration, processor: WhisperProcessor, steps: int) -> None:
    """Until it writes the word of each tone."""
    features, given, wanted = lesson(processor, np.random.default_rng(0), 96)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=max(1, steps))
    for step in range(steps):
        rows = slice(32 * (step % 3), 32 * (step % 3 + 1))
        logits = model(input_features=features[rows], decoder_input_ids=given[rows]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted[rows].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def write_whisper(folder: Path, steps: int = 0, seed: int = 0) -> Path:
    """A folder as the hub has it."""
    tokenizer = whisper_tokenizer(folder)
    processor = WhisperProcessor(WhisperFeatureExtractor(chunk_length=WINDOW), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = toy_whisper(tokenizer)
        teach(model, processor, steps)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_speaker_encoder(path: Path, dim: int = 192, seed: int = 0) -> Path:
    """The real CAM++ with drawn weights, as the hub has it: a pickled state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(build(dim).state_dict(), path)
    return path
