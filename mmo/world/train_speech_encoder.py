"""Trains the tiny world's speech encoder: a small SenseVoice that writes down words, with CTC. Build-time only.

    python -m mmo.world.train_speech_encoder            # goes on where it stopped; writes data/tiny/speech_encoder and its figures
    python -m mmo.world.train_speech_encoder --start-from data/tiny/speech_encoder     # a second sitting, from finished weights
    python -m mmo.world.train_speech_encoder --start-from data/tiny/speech_encoder --rows data/tiny …   # hears the shipped rows

Heard in training: the spoken questions (50 voices) and a share of the spoken answers (two voices), split `train` only. Fifty
voices are few, so every clip is changed anew each time: speed, formants, room, microphone, noise (`mmo/augmentation.py`).
The CTC head writes whole words at the last block. A second, training-only CTC head writes phones half-way up: it makes rare words share
what common words teach (Sanabria & Metze, "Hierarchical multitask learning with CTC", 2018).
With `agreement` every clip is heard twice at once, through two throats and two microphones, and both times the same must be written, place by place
(Yao et al., "CR-CTC: Consistency regularization on CTC for improved speech recognition", 2024).

The folder is FunASR's own layout, and everything in it is read by FunASR: weights are stored in half precision.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.compliance.kaldi as kaldi
import yaml
from torch import nn
from tqdm.auto import tqdm

from ..augmentation import Augmentation, augment, change_speed, log_uniform, mask_spectrogram
from ..digests import sha256_of
from ..speech_encoder import HOP, SAMPLE_RATE, STACK, STRIDE, WINDOW, SpeechEncoder, auto_model
from . import plan, shipped, speech, text

MELS = 80
SPECIAL = ("<blank>", "<s>", "</s>")  # ids 0, 1, 2, as SenseVoice has them
SPEECH, BUILD = Path("build/world/speech"), Path("build/world/speech_encoder")
HEARING = Augmentation(filter_share=0.6, echo_share=0.25, noise_share=0.5)
FOLDER, FIGURES = Path("data/tiny/speech_encoder"), Path("data/tiny/figures/speech_encoder.json")


@dataclass(frozen=True)
class Recipe:
    """Sizes and training. `blocks` blocks hear, `text_blocks` (SenseVoice's `tp_blocks`) after them write."""

    width: int = 144
    heads: int = 4
    feed_forward: int = 448
    blocks: int = 4
    text_blocks: int = 2
    kernel: int = 11
    dropout: float = 0.1
    steps: int = 4_500
    batch: int = 20
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    decay_share: float = 0.4  # of the steps, at the end
    weight_decay: float = 0.02
    phone_weight: float = 0.3
    answers: int = 6_000  # spoken answers used beside the questions
    answer_share: float = 0.35  # of the clips drawn
    formants: tuple[float, float] = (0.84, 1.19)  # warp of the frequency axis: other throats
    tempo: tuple[float, float] = (0.8, 1.3)  # stretch of the mel frames: other pace, same pitch
    clean_share: float = 0.1  # of the clips are heard unchanged; all of them at first, falling over `clean_steps`: CTC starts sooner
    clean_steps: int = 400
    agreement: float = 0.0  # weight of the divergence between what is written of a clip's two hearings; 0: one hearing
    hold_out: str = ""  # a training voice to leave out, to try recipes without touching the test voices
    seed: int = 0

    @property
    def hearings(self) -> int:
        """How often a clip stands in a batch."""
        return 2 if self.agreement else 1


@dataclass(frozen=True)
class Clip:
    """One rendering: int16 `samples` at `rate` Hz, its words as `targets` and their `phones` (ids)."""

    samples: np.ndarray
    rate: int
    voice: str
    spoken: str
    targets: tuple[int, ...]
    phones: tuple[int, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def wave(self) -> np.ndarray:
        return self.samples.astype(np.float32) / 32768


# ---- the model folder


def encoder_settings(recipe: Recipe) -> dict:
    """`encoder_conf` of a small `SenseVoiceEncoderSmall`."""
    return {"output_size": recipe.width, "attention_heads": recipe.heads, "linear_units": recipe.feed_forward, "num_blocks": recipe.blocks,
            "tp_blocks": recipe.text_blocks, "dropout_rate": recipe.dropout, "positional_dropout_rate": recipe.dropout,
            "attention_dropout_rate": recipe.dropout, "input_layer": "pe", "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True, "kernel_size": recipe.kernel, "sanm_shfit": 0, "selfattention_layer_type": "sanm"}


def folder_settings(recipe: Recipe) -> dict:
    """`config.yaml` as FunASR reads it."""
    return {"model": "SenseVoiceSmall", "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
            "encoder": "SenseVoiceEncoderSmall", "encoder_conf": encoder_settings(recipe), "frontend": "WavFrontend",
            "frontend_conf": {"fs": SAMPLE_RATE, "window": "hamming", "n_mels": MELS, "frame_length": WINDOW * 1000 // SAMPLE_RATE,
                              "frame_shift": HOP * 1000 // SAMPLE_RATE, "lfr_m": STACK, "lfr_n": STRIDE, "dither": 0.0},
            "tokenizer": "CharTokenizer", "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True}}


def token_list() -> list[str]:
    """The CTC head's vocabulary: blank and two marks, every word of the world, unknown."""
    return [*SPECIAL, *text.world_words(), "<unk>"]


def build_model(recipe: Recipe, tokens: int) -> nn.Module:
    """An untrained small `funasr` SenseVoice, built from the same settings that its folder holds."""
    with contextlib.redirect_stdout(io.StringIO()):  # funasr has a word about ffmpeg, which nobody needs here
        auto_model()
    from funasr.models.sense_voice.model import SenseVoiceSmall

    return SenseVoiceSmall(encoder="SenseVoiceEncoderSmall", encoder_conf=encoder_settings(recipe), input_size=MELS * STACK,
                           vocab_size=tokens, **folder_settings(recipe)["model_conf"])


def write_folder(folder: Path, recipe: Recipe, model: nn.Module, tokens: list[str], mean: np.ndarray, deviation: np.ndarray) -> Path:
    """Writes a folder that `funasr.AutoModel` loads. mean, deviation: (560,), of the stacked mel frames."""
    folder.mkdir(parents=True, exist_ok=True)
    metas = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"token_list": "tokens.json"},
             "frontend_conf": {"cmvn_file": "am.mvn"}}
    write_text(folder / "configuration.json", json.dumps({"framework": "pytorch", "task": "auto-speech-recognition",
                                                          "model": {"type": "funasr"}, "file_path_metas": metas}, indent=1) + "\n")
    write_text(folder / "config.yaml", yaml.safe_dump(folder_settings(recipe), sort_keys=False))
    write_text(folder / "tokens.json", json.dumps(tokens, indent=0) + "\n")
    write_text(folder / "am.mvn", kaldi_mvn(mean, deviation))
    weights = {name: value.detach().cpu().half().clone() for name, value in model.state_dict().items()}
    save(weights, folder / "model.pt")
    return folder


def kaldi_mvn(mean: np.ndarray, deviation: np.ndarray) -> str:
    """Kaldi's text form of "add -mean, multiply by 1/deviation"; FunASR allows no empty line in it."""
    size = len(mean)
    add, scale = (" ".join(f"{value:.6g}" for value in row) for row in (-mean, 1 / deviation))
    return (f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {add} ]\n"
            f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n")


def read_kaldi_mvn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """mean, deviation (560,) of a file that `kaldi_mvn` wrote."""
    add, scale = (np.array(row.split(), dtype=np.float64) for row in re.findall(r"<LearnRateCoef> 0 \[([^]]+)\]", path.read_text()))
    return -add, 1 / scale


def write_text(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8", newline="\n")
    partial.replace(path)


def save(state: dict, path: Path) -> None:
    """torch.save that is there as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


# ---- the data


@functools.cache
def pronunciations() -> dict[str, list[str]]:
    """Word to phones (ARPAbet), from the CMU dictionary in pocketsphinx's wheel."""
    import pocketsphinx

    found: dict[str, list[str]] = {}
    for line in Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")).read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        found.setdefault(word, phones)
    return found


def phone_list() -> list[str]:
    """Blank, then every phone of the world's words."""
    return ["<blank>", *sorted({phone for word in text.world_words() for phone in pronunciations()[word]})]


def load_clips(folder: Path, kind: str, choose, limit: int | None = None) -> list[Clip]:
    """The renderings of `kind` ("questions", "answers") that `choose(rendering)` accepts, or `limit` of those spoken already, evenly spread."""
    renderings = plan.question_plan() if kind == "questions" else plan.answer_plan()
    sounds = speech.load(folder, kind, len(renderings), complete=limit is None)
    chosen = [rendering for rendering in renderings if sounds[rendering.id] is not None and choose(rendering)]
    if limit is not None:
        if len(chosen) < limit:
            raise ValueError(f"{folder}: {limit} {kind} are wanted and {len(chosen)} are spoken; run `mmo world build` again, or ask for fewer")
        chosen = [chosen[i * len(chosen) // limit] for i in range(limit)]
    rate = SAMPLE_RATE if kind == "questions" else 24_000
    return [make_clip(sounds[rendering.id].copy(), rate, rendering.voice, rendering.spoken) for rendering in chosen]


def shipped_clips(folder: Path, split: str, choose=lambda spoken: True) -> list[Clip]:
    """The spoken questions that the rows of `folder` hold (compressed), where `choose(spoken)` accepts them."""
    return [make_clip(each.samples, each.rate, each.voice, each.text) for each in shipped.questions(folder, split) if choose(each)]


def make_clip(samples: np.ndarray, rate: int, voice: str, spoken: str) -> Clip:
    """A rendering, int16 `samples` at `rate` Hz, with its words and phones as ids.  KeyError names a word that the world has not."""
    word_ids, phone_ids = numbered(token_list), numbered(phone_list)
    words = text.words(spoken)
    phones = tuple(phone_ids[phone] for word in words for phone in pronunciations()[word])
    return Clip(samples, rate, voice, spoken, tuple(word_ids[word] for word in words), phones)


@functools.cache
def numbered(names) -> dict[str, int]:
    """Name to id, of what `names()` lists."""
    return {name: i for i, name in enumerate(names())}


@functools.lru_cache(maxsize=64)
def mel_bank(warp: float) -> torch.Tensor:
    """Kaldi's mel filters (257, 80), the frequency axis warped by `warp` (vocal-tract-length normalisation, run backwards)."""
    bank, _ = kaldi.get_mel_banks(MELS, 512, SAMPLE_RATE, 20.0, 0.0, 100.0, -500.0, warp)
    return F.pad(bank, (0, 1)).T.contiguous()


@functools.cache
def window() -> torch.Tensor:
    return torch.hamming_window(WINDOW, periodic=False, alpha=0.54, beta=0.46)


def log_mel(wave: torch.Tensor, warp: float = 1.0) -> torch.Tensor:
    """(N,) full scale 1 to (T, 80), equal to Kaldi's fbank as the frontend calls it; `warp` shifts the formants."""
    frames = (wave * 32768).unfold(0, WINDOW, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
    power = torch.fft.rfft(frames * window(), n=512).abs().square()
    return (power @ mel_bank(warp)).clamp_min(torch.finfo(torch.float32).eps).log()


def stack(frames: np.ndarray) -> np.ndarray:
    """(T, 80) to (ceil(T / 6), 560): seven frames around every sixth, edges repeated, as the frontend does it."""
    count = -(-len(frames) // STRIDE)
    places = np.arange(count)[:, None] * STRIDE + np.arange(STACK) - STACK // 2
    return frames[places.clip(0, len(frames) - 1)].reshape(count, -1)


def heard(clip: Clip, rng: np.random.Generator, recipe: Recipe, settings: Augmentation, clean_share: float = 0.0, length: int | None = None) -> torch.Tensor:
    """The mel frames (T, 80) of one clip as it is heard this time: unchanged with probability `clean_share`, else changed at random.

    `length`: the frames are stretched to so many, so that they lie beside those of another hearing.
    """
    if rng.random() < clean_share:
        frames = log_mel(torch.from_numpy(change_speed(clip.wave(), 1.0, clip.rate, SAMPLE_RATE)))
        return frames if length is None else stretch(frames, length)
    wave = augment(clip.wave(), rng, settings, SAMPLE_RATE, clip.rate)
    warp = round(log_uniform(rng, *recipe.formants), 2) if rng.random() < 0.7 else 1.0
    frames = log_mel(torch.from_numpy(wave), warp)
    if length is not None:
        frames = stretch(frames, length)
    elif rng.random() < 0.4:
        frames = stretch(frames, max(STRIDE, round(len(frames) / log_uniform(rng, *recipe.tempo))))
    return torch.from_numpy(mask_spectrogram(frames.numpy(), rng))


def stretch(frames: torch.Tensor, length: int) -> torch.Tensor:
    """(T, 80) to (length, 80), in between linearly: another pace, the same pitch."""
    return F.interpolate(frames.T[None], length, mode="linear")[0].T


class Batches(torch.utils.data.Dataset):
    """Batch `step` of the training, a function of the seed and the step alone: a resumed training hears the same."""

    def __init__(self, clips: list[Clip], recipe: Recipe, settings: Augmentation):
        self.clips, self.recipe, self.settings = clips, recipe, settings
        counts = Counter(word for clip in clips for word in clip.targets)
        rarity = np.array([max(1 / counts[word] for word in clip.targets) ** 0.25 for clip in clips])
        answer = np.array([clip.rate != SAMPLE_RATE for clip in clips])
        share = {True: recipe.answer_share if not answer.all() else 1.0, False: 1 - recipe.answer_share if answer.any() else 1.0}
        self.odds = np.zeros(len(clips))
        for kind, odds in share.items():
            if (answer == kind).any():
                self.odds[answer == kind] = odds * rarity[answer == kind] / rarity[answer == kind].sum()
        self.odds /= self.odds.sum()

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        """frames (B, N, 560), their lengths (B,), words and phones as flat targets with their lengths (B,).

        Where clips are heard twice, all second hearings follow all first ones.
        """
        rng = np.random.default_rng((self.recipe.seed, step))
        size = self.recipe.batch
        pool = sorted(rng.choice(len(self.clips), 4 * size, p=self.odds), key=lambda i: self.clips[i].seconds)
        start = int(rng.integers(4)) * size  # clips of like length, so that little is padding
        clips = [self.clips[i] for i in pool[start : start + size]]
        clean_share = max(self.recipe.clean_share, 1 - step / max(1, self.recipe.clean_steps))
        hearings = [[heard(clip, rng, self.recipe, self.settings, clean_share) for clip in clips]]
        for _ in range(1, self.recipe.hearings):
            hearings.append([heard(clip, rng, self.recipe, self.settings, 0.0, len(first)) for clip, first in zip(clips, hearings[0])])
        clips = clips * self.recipe.hearings
        frames = [torch.from_numpy(stack(each.numpy())) for hearing in hearings for each in hearing]
        lengths = torch.tensor([len(frame) for frame in frames])
        words = [torch.tensor(clip.targets) for clip in clips]
        phones = [torch.tensor(clip.phones) for clip in clips]
        return (nn.utils.rnn.pad_sequence(frames, batch_first=True), lengths, torch.cat(words), torch.tensor([len(w) for w in words]),
                torch.cat(phones), torch.tensor([len(p) for p in phones]))


def mean_and_deviation(batches: Batches, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Per dimension (560,), over `count` batches that training does not use."""
    frames = torch.cat([x[torch.arange(x.shape[1]) < n[:, None]] for x, n, *_ in (batches[10**6 + i] for i in range(count))]).double()
    return frames.mean(0).numpy(), frames.std(0).numpy()


# ---- the training


def ctc(logits: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor) -> torch.Tensor:
    """CTC loss per target token; sentences too fast for their targets count as zero. logits (B, N, V)."""
    scores = logits.log_softmax(-1).transpose(0, 1)
    total = F.ctc_loss(scores, targets, lengths, target_lengths, reduction="sum", zero_infinity=True)
    return total / target_lengths.sum()


def disagreement(logits: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence in nats a place between what two hearings write, each taught by the other. logits (2 B, N, V), there (B, N)."""
    first, second = (half[there].log_softmax(-1) for half in logits.chunk(2))
    return 0.5 * (F.kl_div(first, second.detach(), reduction="batchmean", log_target=True)
                  + F.kl_div(second, first.detach(), reduction="batchmean", log_target=True))


class Trainer:
    """The model, its training-only phone head, the optimiser; `save` and `restore` hold all that a resumed training needs."""

    def __init__(self, recipe: Recipe, clips: list[Clip], start_from: Path | None = None):
        """`start_from`: a finished folder whose weights and normalisation are taken over; the phone head starts anew."""
        torch.manual_seed(recipe.seed)
        self.recipe, self.tokens = recipe, token_list()
        self.batches = Batches(clips, recipe, HEARING)
        self.model = build_model(recipe, len(self.tokens))
        self.phone_head = nn.Linear(recipe.width, len(phone_list()))
        self.model.encoder.after_norm.register_forward_hook(lambda _, __, output: setattr(self, "middle", output))
        parameters = [*self.model.encoder.parameters(), *self.model.ctc.parameters(), *self.phone_head.parameters()]
        matrices = [p for p in parameters if p.ndim > 1]
        self.optimizer = torch.optim.AdamW([{"params": matrices}, {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}],
                                           lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
        self.step, self.seconds, self.skipped, self.curve = 0, 0.0, 0, []
        if start_from is None:
            self.mean, self.deviation = mean_and_deviation(self.batches)
        else:
            self.model.load_state_dict(torch.load(start_from / "model.pt", weights_only=True))
            self.mean, self.deviation = read_kaldi_mvn(start_from / "am.mvn")

    def learning_rate(self) -> float:
        """Linear warm-up, constant, linear to zero: a training may be cut short or made longer (`steps`) while it runs."""
        r = self.recipe
        warm = (self.step + 1) / r.warmup_steps
        left = (r.steps - self.step) / (r.decay_share * r.steps)
        return r.learning_rate * min(1.0, warm, left)

    def features(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """frames (B, N, 560) as `heard` gives them, lengths (B,) -> (B, N, D); `middle` then holds what the phone head reads."""
        frames = (frames - torch.from_numpy(self.mean).float()) / torch.from_numpy(self.deviation).float()
        return self.model.encoder(frames, lengths)[0]

    @torch.no_grad()
    def word_scores(self, clip: Clip) -> torch.Tensor:
        """Log-probabilities (N, V) of the tokens at every 60 ms of a clip, heard unchanged."""
        self.model.eval()
        frames = torch.from_numpy(stack(heard(clip, np.random.default_rng(0), self.recipe, HEARING, clean_share=1.0).numpy()))
        return self.model.ctc.ctc_lo(self.features(frames[None], torch.tensor([len(frames)])))[0].log_softmax(-1)

    def update(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """One optimiser step; returns the word loss. A batch with a non-finite loss is skipped and counted."""
        frames, lengths, words, word_lengths, phones, phone_lengths = batch
        self.model.train()
        features = self.features(frames, lengths)
        logits = self.model.ctc.ctc_lo(features)
        word_loss = ctc(logits, lengths, words, word_lengths)
        phone_loss = ctc(self.phone_head(self.middle), lengths, phones, phone_lengths)
        loss = word_loss + self.recipe.phone_weight * phone_loss
        if self.recipe.hearings == 2:
            there = torch.arange(logits.shape[1]) < lengths[: len(lengths) // 2, None]
            loss = loss + self.recipe.agreement * disagreement(logits, there)
        if torch.isfinite(loss):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 5.0)
            self.optimizer.step()
        else:
            self.skipped += 1
        self.step += 1
        return word_loss.detach()

    def state(self) -> dict:
        return {"recipe": asdict(self.recipe), "model": self.model.state_dict(), "phone_head": self.phone_head.state_dict(),
                "optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state(), "step": self.step, "seconds": self.seconds,
                "skipped": self.skipped, "curve": self.curve}

    def restore(self, state: dict) -> None:
        """Goes on from `state`; ValueError if it belongs to another recipe (only `steps` may differ)."""
        here = asdict(self.recipe)
        changed = [name for name in here if here[name] != state["recipe"].get(name) and name != "steps"]
        if changed:
            raise ValueError(f"the checkpoint was trained by another recipe ({', '.join(changed)} differ); remove it or use its settings")
        self.model.load_state_dict(state["model"])
        self.phone_head.load_state_dict(state["phone_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step, self.seconds, self.skipped, self.curve = state["step"], state["seconds"], state["skipped"], state["curve"]

    def write(self, folder: Path) -> Path:
        return write_folder(folder, self.recipe, self.model, self.tokens, self.mean, self.deviation)


def word_errors(encoder: SpeechEncoder, clips: list[Clip], batch: int = 16) -> dict:
    """WER of the encoder's own greedy CTC on `clips`, unchanged, 16 kHz, with the counts it is made of."""
    heard_words, spoken_words = [], []
    for start in range(0, len(clips), batch):
        part = clips[start : start + batch]
        heard_words += encoder.transcribe([clip.wave() for clip in part])
        spoken_words += [" ".join(text.words(clip.spoken)) for clip in part]
    measured = jiwer.process_words(spoken_words, heard_words)
    return {"wer": round(measured.wer, 4), "sentences_right": round(float(np.mean([a == b for a, b in zip(heard_words, spoken_words)])), 4),
            "substitutions": measured.substitutions, "deletions": measured.deletions, "insertions": measured.insertions,
            "words": measured.hits + measured.substitutions + measured.deletions, "sentences": len(clips)}


def disturbed(clips: list[Clip]) -> list[Clip]:
    """The same clips through other rooms and microphones, always alike: what is undisturbed is heard without a fault too soon to be a guide."""
    def change(i: int, clip: Clip) -> np.ndarray:
        return (augment(clip.wave(), np.random.default_rng(i), Augmentation(), clip.rate) * 32767).astype(np.int16)

    return [replace(clip, samples=change(i, clip)) for i, clip in enumerate(clips)]


def material(recipe: Recipe, speech_folder: Path, rows: Path | None) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """Clips to train with, to validate with, and those of the voice left out: from what `mmo world build` has spoken, or from the shipped rows."""
    if rows is not None:
        asked = shipped_clips(rows, "train", lambda spoken: spoken.voice != recipe.hold_out)
        left_out = shipped_clips(rows, "train", lambda spoken: spoken.voice == recipe.hold_out)
        return asked, shipped_clips(rows, "validation"), left_out

    def allowed(r: plan.Rendering) -> bool:
        return r.split == "train" and r.voice != recipe.hold_out and not text.WITHHELD_PAIRS & set(text.pairs(r.spoken))

    clips = load_clips(speech_folder, "questions", allowed)
    if recipe.answers:
        clips += load_clips(speech_folder, "answers", allowed, recipe.answers)
    validation = load_clips(speech_folder, "questions", lambda r: r.split == "validation")
    left_out = load_clips(speech_folder, "questions", lambda r: r.split == "train" and r.voice == recipe.hold_out)[:100] if recipe.hold_out else []
    if recipe.hold_out and not left_out:
        raise ValueError(f"--hold-out {recipe.hold_out}: no training question is in this voice; there are {', '.join(sorted({clip.voice for clip in clips}))}")
    return clips, validation, left_out


def train(recipe: Recipe, folder: Path, build: Path, speech_folder: Path = SPEECH, every: int = 250, workers: int = 0,
          start_from: Path | None = None, rows: Path | None = None) -> Trainer:
    """Trains, or goes on training, `recipe`; writes `folder` at the end.  What is looked at on the way lies in `build`, beside the checkpoint."""
    build.mkdir(parents=True, exist_ok=True)
    clips, validation, left_out = material(recipe, speech_folder, rows)
    hard = disturbed(validation)
    trainer, checkpoint = Trainer(recipe, clips, start_from), build / "checkpoint.pt"
    began = sha256_of(start_from / "model.pt") if start_from else ""
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        # At its last step a second sitting has taken the place of what it began with, and only its figures are missing.
        written = saved.get("began") and saved["step"] >= recipe.steps and start_from and start_from.resolve() == folder.resolve()
        if saved.get("began", "") != began and not written:
            raise ValueError(f"{checkpoint} is of a sitting that began with other weights: delete it to begin a new one, or take another folder (--build)")
        trainer.restore(saved)
        print(f"goes on from step {trainer.step} of {recipe.steps}", flush=True)
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{len(clips)} clips, {sum(c.seconds for c in clips) / 3600:.1f} h; {size / 1e6:.2f} M parameters", flush=True)
    loader = torch.utils.data.DataLoader(trainer.batches, batch_size=None, sampler=range(trainer.step, recipe.steps), num_workers=workers)
    started, before, losses = time.perf_counter(), trainer.seconds, []
    for batch in tqdm(loader, initial=trainer.step, total=recipe.steps, desc="speech encoder", mininterval=20):
        losses.append(trainer.update(batch))
        trainer.seconds = before + time.perf_counter() - started
        if trainer.step % every == 0 or trainer.step == recipe.steps:
            encoder = SpeechEncoder.load(trainer.write(build / "so_far"))
            point = {"step": trainer.step, "seconds": round(trainer.seconds), "loss": round(torch.stack(losses).mean().item(), 4),
                     "validation_wer": word_errors(encoder, validation)["wer"], "disturbed_wer": word_errors(encoder, hard)["wer"]}
            if left_out:
                point["held_out_voice_wer"] = word_errors(encoder, left_out)["wer"]
            losses = []
            trainer.curve.append(point)
            print(json.dumps(point), flush=True)
        if trainer.step % 50 == 0 or trainer.step == recipe.steps:
            save(trainer.state() | {"began": began}, checkpoint)
    trainer.write(folder)
    return trainer


def measure(folder: Path, speech_folder: Path = SPEECH, rows: Path | None = None) -> dict:
    """Test figures of a finished folder: voices and sentences never heard, by voice and by tier."""
    encoder = SpeechEncoder.load(folder)

    def test_clips(tier: str, voice: str) -> list[Clip]:
        if rows is not None:
            return shipped_clips(rows, "test", lambda spoken: spoken.tier == tier and spoken.voice == voice)
        return load_clips(speech_folder, "questions", lambda r: r.split == "test" and r.tier == tier and r.voice == voice)

    figures: dict = {}
    for tier in ("sentence", "pair", "fact"):
        by_voice = {voice: test_clips(tier, voice) for voice in plan.TEST_VOICES}
        figures[tier] = {"all": word_errors(encoder, [clip for clips in by_voice.values() for clip in clips])}
        figures[tier] |= {voice: word_errors(encoder, clips) for voice, clips in by_voice.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in asdict(Recipe()).items():
        if not isinstance(value, tuple):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--folder", type=Path, help=f"default {FOLDER}; of a trial (--hold-out) beside its checkpoint")
    parser.add_argument("--figures", type=Path, help=f"default {FIGURES}; of a trial beside its checkpoint")
    parser.add_argument("--build", type=Path, default=BUILD, help="where the checkpoint is kept")
    parser.add_argument("--every", type=int, default=250, help="steps between looks at the validation set")
    parser.add_argument("--start-from", type=Path, help="a finished folder to go on from")
    parser.add_argument("--rows", type=Path, help="hear the shipped rows of this folder instead of what `mmo world build` has spoken")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    options = vars(parser.parse_args())
    folder, figures, build, every, workers, start_from, rows = (
        options.pop(name) for name in ("folder", "figures", "build", "every", "workers", "start_from", "rows"))
    recipe = Recipe(**options)
    folder = folder or (build / "trial" if recipe.hold_out else FOLDER)
    figures = figures or (build / "trial.json" if recipe.hold_out else FIGURES)
    second = start_from and start_from.resolve() == FOLDER.resolve()  # only of these weights does FIGURES tell
    earlier = json.loads(FIGURES.read_text(encoding="utf-8")) if second else None
    trainer = train(recipe, folder, build, every=every, workers=workers, start_from=start_from, rows=rows)
    report = {"recipe": asdict(recipe), "parameters": sum(p.numel() for p in trainer.model.parameters()),
              "bytes": sum(path.stat().st_size for path in folder.iterdir()), "seconds": round(trainer.seconds),
              "batches_skipped": trainer.skipped, "curve": trainer.curve}
    if earlier:
        report["sitting_before"] = {name: earlier[name] for name in ("recipe", "seconds", "test", "sitting_before") if name in earlier}
    if not recipe.hold_out:
        report["test"] = measure(folder, rows=rows)
    figures.parent.mkdir(parents=True, exist_ok=True)
    write_text(figures, json.dumps(report, indent=1) + "\n")
    (build / "checkpoint.pt").unlink()  # done: the next sitting is another one
    print(json.dumps(report.get("test", trainer.curve[-1]), indent=1))


if __name__ == "__main__":
    main()
