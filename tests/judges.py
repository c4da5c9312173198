"""Toy judges in the real libraries' layouts: a Whisper whose window is two seconds long and who knows three tones, and a CAM++.

    folder = write_whisper(tmp_path / "whisper", steps=STEPS)     # taught; with steps=0 its weights are drawn, and it hears nonsense
    path = write_speaker_encoder(tmp_path / "campplus_cn_common.bin")

They are the rehearsal's stand-ins, but for their sizes and for what this one was taught.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from mmo.rehearsal import judges as stand_ins
from mmo.rehearsal.judges import JudgeSizes, fresh_whisper

WINDOW = 2  # seconds
TONES = {"red": 300.0, "green": 900.0, "blue": 2700.0}  # Hz
SIZES = JudgeSizes(
    whisper=dict(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_target_positions=80,
    ),
    pieces=256, languages=2, window=WINDOW,
)  # fmt: skip
STEPS = 150


def tone(name: str, seconds: float, rate: int = 24_000, level: float = 0.2, seed: int = 0) -> np.ndarray:
    """The sound of one of the three words."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    wave = level * np.sin(2 * np.pi * TONES[name] * time + rng.uniform(0, 6)) + 1e-3 * rng.standard_normal(len(time))
    return wave.astype(np.float32)


def toy_whisper(tokenizer) -> WhisperForConditionalGeneration:
    """One layer each, fresh weights."""
    return fresh_whisper(tokenizer, SIZES)


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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stand_ins.write_whisper(folder, SIZES, lambda model, processor: teach(model, processor, steps) if steps else None)


def write_speaker_encoder(path: Path, dim: int = 192, seed: int = 0) -> Path:
    """The real CAM++ with drawn weights, as the hub has it: a pickled state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stand_ins.write_speaker_encoder(path, JudgeSizes(voice=dim))
