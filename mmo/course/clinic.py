"""The symptom clinic of notebook 15: runs that are broken on purpose, to be heard, guessed, diagnosed and repaired.

A *patient* is the real pipeline of the shipped model with one function of the package exchanged for a broken one
(`Patient.place`).  Nothing about a symptom is made up: it is what that one wrong function does.  Some symptoms need
training; then the shipped weights are trained on for a few steps.

    clinic = Clinic(profile("tiny"), seed=7)      # ten beds, A to J; the seed says who lies where
    clinic.see("A")                               # complaint, sound, figures beside those of a healthy run
    clinic.diagnose("A", 2)                       # the first guess counts most; a wrong one gets words that lead on
    clinic.treat("A")                             # the broken function; treat("A", repaired) runs the patient with yours
    clinic.score()

Everything is deterministic, so a patient is cured when every figure is the healthy run's again.
"""

from __future__ import annotations

import base64
import copy
import html
import importlib
import inspect
import io
import random
import string
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from torch import Tensor

from mmo import data, features, generation, measures, sequence, transformer, vision_encoder
from mmo.chat import ChatTokenizer, user_content
from mmo.codec import Codec, StreamingDecoder, widen_context
from mmo.config import IGNORE
from mmo.course import progress
from mmo.course.desk import strict
from mmo.course.pictures import bare
from mmo.display import BLUE, GREEN, GREY, ORANGE, RED, Picture, draw_spectrogram, drawing, finish, listen, mel_spectrogram
from mmo.examination import Item, of_tier, read_items
from mmo.generation import Finished, Generator, Prompt
from mmo.judge import Judge
from mmo.omni import OmniModel, load_model
from mmo.profiles import Profile
from mmo.training import Encoders, Stepper, open_corpora, read_picture
from mmo.transformer import CacheLengths, Window
from mmo.vision_encoder import to_rgb

BEDS = 10
POINTS = (3, 2, 1)  # for the right diagnosis at the first, second and third guess
REPAIR_POINTS = 1
STEPS = 24  # of the short trainings
CLOSE = 1e-3  # figures this close, relative to their size, are the same
DISTANCE = "mel distance from health over the common length, dB"


# --- Instruments -------------------------------------------------------------------------------------------------


def mel_distance(one: np.ndarray, other: np.ndarray, rate: int) -> float:
    """Mean difference in decibels between the mel spectrograms of two sounds, over their common length; 0 where there is none."""
    length = min(len(one), len(other))
    if not length:
        return 0.0
    return float(np.abs(mel_spectrogram(one[:length], rate) - mel_spectrogram(other[:length], rate)).mean())


def pitch(samples: np.ndarray, rate: int, low: float = 60.0, high: float = 320.0) -> float:
    """The median pitch of the voiced parts in Hz, by autocorrelation of 50 ms windows; 0 where nothing is voiced.

    A deep voice through a rough codec may come out an octave too high: compare a sound with its like, not two voices.
    """
    size, found = round(0.05 * rate), []
    first, last = int(rate / high), int(rate / low)
    loud = 0.25 * np.sqrt(np.mean(samples**2)) if len(samples) else 0.0
    for start in range(0, len(samples) - size, size // 2):
        window = samples[start : start + size] - samples[start : start + size].mean()
        if np.sqrt(np.mean(window**2)) < max(loud, 1e-4):
            continue
        spectrum = np.fft.rfft(window, 2 * size)
        echo = np.fft.irfft(np.abs(spectrum) ** 2)[:size] / np.arange(size, 0, -1)
        lag = first + int(np.argmax(echo[first : last + 1]))
        if echo[lag] > 0.5 * echo[0]:
            found.append(rate / lag)
    return float(np.median(found)) if found else 0.0


def long_term_spectrum(samples: np.ndarray, rate: int) -> np.ndarray:
    """(bands,) the mean mel spectrum of the louder half of a sound, in decibels, its own mean taken off: what a voice looks like."""
    levels = mel_spectrogram(samples, rate)
    loud = levels.mean(axis=0)
    mean = levels[:, loud >= np.median(loud)].mean(axis=1)
    return mean - mean.mean()


def likeness(spectrum: np.ndarray, portraits: np.ndarray) -> np.ndarray:
    """spectrum (M,), portraits (V, M), as `long_term_spectrum` gives them -> (V,) likeness to each voice, -1 .. 1.

    The cosine of what differs from the mean of the portraits, for what all speech has in common tells nobody apart.  With two voices the
    one figure is the other's negative.
    """
    middle = portraits.mean(axis=0)
    own, others = spectrum - middle, portraits - middle
    return others @ own / np.maximum(np.linalg.norm(others, axis=1) * np.linalg.norm(own), 1e-12)


def lags(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    """How many frames late each codebook is: wanted, found (Q, F) -> Q whole numbers in -most .. most.

    The lag d of a codebook is the one at which most of found[k, f + d] equal wanted[k, f]; of equals the one nearest to 0,
    the positive before the negative.
    """
    F_ = min(wanted.shape[1], found.shape[1])
    order = sorted(range(-most, most + 1), key=lambda lag: (abs(lag), -lag))

    def agreement(k: int, lag: int) -> int:
        return sum(int(wanted[k, f] == found[k, f + lag]) for f in range(F_) if 0 <= f + lag < F_)

    return [max(order, key=lambda lag: agreement(k, lag)) for k in range(len(wanted))]


def agreement_by_codebook(wanted: Tensor, found: Tensor) -> list[int]:
    """Percent of equal codes in each codebook, (Q, F) each, over the common length."""
    length = min(wanted.shape[1], found.shape[1])
    if not length:
        return [0] * len(wanted)
    return [round(100 * float(share)) for share in (wanted[:, :length] == found[:, :length]).float().mean(dim=1)]


# --- The ward: the shipped model and what it needs, loaded once ---------------------------------------------------------


class Ward:
    """Model, codec, encoders, test rows and the judge; each is loaded when it is first needed."""

    VOICE = "slt"  # of the two the one that the judge hears best
    SPOKEN = 6  # sentences of which one is chosen for the patients
    FALLBACK = "What is nine minus four?"

    def __init__(self, settings: Profile, weights=None, *, questions: int = 12, pictures: int = 8, steps: int = STEPS) -> None:
        self.settings = settings
        self.weights = weights or settings.checkpoint_file
        self.questions, self.pictures, self.steps = questions, pictures, steps  # how many a run asks, shows, trains

    @cached_property
    def model(self) -> OmniModel:
        with torch.random.fork_rng(devices=[]):  # the first run is then like every other: building a model draws numbers
            return load_model(self.weights)

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer.load(self.settings.tokenizer_dir)

    @cached_property
    def codec(self) -> Codec:
        return Codec.load(self.settings.codec_file, num_codebooks=self.settings.model.num_codebooks)

    @cached_property
    def judge(self) -> Judge:
        return Judge.from_file(self.settings.data_dir / "words.txt")

    @cached_property
    def speech_encoder(self):
        from mmo.speech_encoder import SpeechEncoder

        return SpeechEncoder.load(self.settings.speech_encoder_dir)

    @cached_property
    def vision_encoder(self):
        from mmo.vision_encoder import VisionEncoder

        return VisionEncoder.load(self.settings.vision_encoder_dir)

    @cached_property
    def voices(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return {name: vector.float() for name, vector in sorted(load_file(self.settings.data_dir / "voices.safetensors").items())}

    @cached_property
    def said(self) -> list[Item]:
        return self.items("t2a", ("answer_audios", "spk_emb"))

    @cached_property
    def question(self) -> str:
        """A short question whose spoken answer the judge hears with the fewest mistakes: a patient should be well but for one thing."""
        short = [item.question for item in self.said if item.voice == self.VOICE and item.kind in ("minus", "plus", "bigger", "smaller")]
        questions = measures.spread(list(dict.fromkeys(short)), self.SPOKEN) or [self.FALLBACK]
        answers = self.generator().generate_batch([self.prompt(each) for each in questions])
        heard = self.judge.transcribe([(answer.samples, answer.sample_rate) for answer in answers], workers=1)
        errors = measures.word_errors([answer.text for answer in answers], heard).errors
        return questions[int(np.argmin(errors))]

    @cached_property
    def asked(self) -> list[Item]:
        """Spoken questions of the test set, those first that a healthy run answers rightly."""
        items = measures.spread(self.items("a2a", ("question_audios",)), 4 * self.questions)
        texts = self.reply([HEALTHY_READ(item.question_sound) for item in items])[0]
        right = [measures.same_words(text, item.truth) for text, item in zip(texts, items)]
        return sorted(items, key=lambda item: not right[items.index(item)])[: self.questions]

    def reply(self, waves: Sequence[np.ndarray]) -> tuple[list[str], list[str], tuple[Tensor, Tensor]]:
        """Answers in writing to spoken questions, what the encoder hears, and the encoder's input with its lengths."""
        frames = self.speech_encoder.frames(waves)
        features, lengths = self.speech_encoder.encode_frames(*frames)
        prompts = [
            Prompt(self.tokenizer.prompt([{"role": "user", "content": user_content(sound_length=len(each))}]), self.voices[self.VOICE], audio_features=each)
            for each in (each[:length] for each, length in zip(features, lengths.tolist()))
        ]
        answers = self.generator().generate_batch(prompts, speech=False)
        return [answer.text for answer in answers], self.speech_encoder.spell(features, lengths), frames

    @cached_property
    def shown(self) -> list[Item]:
        """Pictures in which a red or a blue thing is asked for."""
        coloured = [item for item in self.items("i2t", ("image_bytes",)) if {"red", "blue"} & set(measures.words(item.truth))]
        return measures.spread(coloured, self.pictures)

    def items(self, task: str, needs: Sequence[str]) -> list[Item]:
        return of_tier(read_items(self.settings.data_dir / f"{task}-test.parquet", self.settings.model, needs), "sentence")

    @cached_property
    def trained_rows(self):
        """The first corpus of T2A, as its training reads it."""
        stage = self.settings.stages["t2a"][0]
        return open_corpora(self.settings, stage, Encoders())[0]

    @cached_property
    def portraits(self) -> dict[str, np.ndarray]:
        """The long-term spectrum of each answer voice, from recorded answers decoded by the codec; without voices that nobody recorded here speaks.

        Rows need not name their voices (`mini`'s do not): a voice is known by its vector.
        """
        found = {}
        for voice, vector in self.voices.items():
            items = measures.spread([item for item in self.said if torch.allclose(item.speaker, vector, atol=1e-4)], 6)
            if not items:
                continue
            found[voice] = np.mean([long_term_spectrum(self.codec.decode(item.codes[None])[0, 0].numpy(), 24_000) for item in items], axis=0)
        return found

    def nearer(self, samples: np.ndarray, voice: str) -> float:
        """By how many decibels a sound is nearer to a voice's recordings than to the nearest other voice's; negative: it is farther."""
        if not len(samples):
            return 0.0
        own = long_term_spectrum(samples, 24_000)
        far = {name: float(np.abs(own - portrait).mean()) for name, portrait in self.portraits.items()}
        return min(value for name, value in far.items() if name != voice) - far[voice]

    def likeness(self, samples: np.ndarray) -> dict[str, float]:
        """How like each answer voice a sound is (`likeness`); 0 for all where there is no sound."""
        if not len(samples):
            return dict.fromkeys(self.portraits, 0.0)
        found = likeness(long_term_spectrum(samples, 24_000), np.stack(list(self.portraits.values())))
        return dict(zip(self.portraits, found.tolist()))

    def generator(self, model: OmniModel | None = None, codec: Codec | None = None) -> Generator:
        return Generator(model or self.model, codec or self.codec, self.tokenizer, replace(self.settings.decoding, max_frames=75))

    def prompt(self, text: str, voice: str = VOICE, **more) -> Prompt:
        ids = self.tokenizer.prompt([{"role": "user", "content": text}])
        return Prompt(ids, self.voices[voice], **more)

    def heard(self, samples: np.ndarray, rate: int) -> str:
        return self.judge.transcribe([(samples, rate)], workers=1)[0]


# --- Symptoms ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """One sound of a patient, and what is to be said of it without a diagnosis."""

    caption: str
    samples: np.ndarray
    rate: int = 24_000


@dataclass(frozen=True)
class Symptom:
    """What a run shows: figures by name, remarks by name, sounds, a curve (step by step), codes for comparison."""

    figures: dict[str, float]
    notes: dict[str, str]
    sounds: tuple[Heard, ...] = ()
    curve: tuple[float, ...] = ()
    codes: Tensor | None = None
    shown: tuple[tuple[str, np.ndarray], ...] = ()  # pictures (H, W, 3) as they are in the file, and what was said of each


def spoken(ward: Ward, text: str, samples: np.ndarray, rate: int = 24_000) -> tuple[dict, dict, tuple[Heard, ...]]:
    """Figures, remarks and sound of one spoken answer."""
    found = ward.heard(samples, rate) if len(samples) else ""
    errors = measures.word_errors([text], [found])
    figures = {"seconds": round(len(samples) / rate, 2), "words the judge gets wrong": int(errors.errors.sum()), "pitch in Hz": round(pitch(samples, rate))}
    notes = {"it writes": shortened(text), "the judge hears": found or "(nothing)"}
    return figures, notes, (Heard(f"meant: {shortened(text)}", samples, rate),)


def answer_one(ward: Ward) -> Symptom:
    """One question by text, answered aloud."""
    (answer,) = ward.generator().generate_batch([ward.prompt(ward.question)])
    figures, notes, sounds = spoken(ward, answer.text, answer.samples)
    figures["ended by itself (1: yes)"] = int(answer.stopped)
    figures[f"dB nearer to {ward.VOICE}'s recordings than to others'"] = round(ward.nearer(answer.samples, ward.VOICE), 1)
    return Symptom(figures, {"asked": ward.question} | notes, sounds, codes=answer.codes)


def play_recorded(ward: Ward) -> Symptom:
    """A recorded answer, from the flat codes of a data file through the codec."""
    item = next(item for item in ward.said if item.voice == ward.VOICE and item.kind == "minus")
    flat = item.codes.T.flatten().tolist()
    codes = sequence.frames(flat, ward.codec.num_codebooks)
    figures, notes, sounds = spoken(ward, item.truth, ward.codec.decode(codes[None])[0, 0].numpy())
    notes["it writes"] = "(nothing: these are recorded codes, no model is at work)"
    return Symptom(figures, notes, sounds, codes=codes)


def answer_both_voices(ward: Ward) -> Symptom:
    """The same question in each voice, in one batch."""
    answers = ward.generator().generate_batch([ward.prompt(ward.question, voice) for voice in ward.voices])
    figures = {f"{voice} was asked for: dB nearer to {voice}'s recordings than to others'": round(ward.nearer(answer.samples, voice), 1) for voice, answer in zip(ward.voices, answers)}
    sounds = tuple(Heard(f"{voice} was asked for: {answer.text}", answer.samples) for voice, answer in zip(ward.voices, answers))
    heard = {f"the judge hears ({voice})": ward.heard(answer.samples, 24_000) for voice, answer in zip(ward.voices, answers)}
    return Symptom(figures, {"asked": ward.question} | heard, sounds)


def answer_two_streamed(ward: Ward) -> Symptom:
    """Two questions, one after the other, streamed; the second answer is looked at."""
    codec = Codec.load(ward.settings.codec_file, num_codebooks=ward.settings.model.num_codebooks)
    generator = ward.generator(codec=codec)
    prompts = [ward.prompt("Count from three until eight."), ward.prompt(ward.question)]
    answers = [next(event.answer for event in generator.stream([prompt]) if isinstance(event, Finished)) for prompt in prompts]
    second = answers[1]
    offline = ward.codec.decode(second.codes[None])[0, 0].numpy()
    figures, notes, sounds = spoken(ward, second.text, second.samples)
    start = 24_000 // 2
    figures |= {
        "dB from its codes decoded at once, first half second": round(mel_distance(second.samples[:start], offline[:start], 24_000), 2),
        "dB from them, after that": round(mel_distance(second.samples[start:], offline[start:], 24_000), 2),
    }
    return Symptom(figures, {"asked before": "Count from three until eight.", "asked": ward.question} | notes, sounds, codes=second.codes)


def answer_spoken(ward: Ward) -> Symptom:
    """Spoken questions, as files of 24 kHz: what the encoder hears, what the model answers."""
    items = ward.asked
    files = [as_file(item.question_sound, 24_000) for item in items]
    waves = [features.read_sound(each) for each in files]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        texts, heard, (frames, lengths) = ward.reply(waves)
    wrong = measures.word_errors([item.question for item in items], heard)
    real = frames[torch.arange(frames.shape[1]) < lengths[:, None]]
    figures = {
        f"of {len(items)} questions answered rightly": sum(measures.same_words(text, item.truth) for text, item in zip(texts, items)),
        "words the encoder mishears, percent": round(100 * wrong.wer),
        "mean of the encoder's input": round(float(real.mean()), 2),
        "spread of the encoder's input": round(float(real.std()), 2),
        "seconds of a question": round(float(np.mean([len(wave) for wave in waves])) / 16_000, 2),
    }
    example = next((n for n, item in enumerate(items) if len(measures.words(item.question)) >= 6), 0)  # long enough to lose a word
    notes = {"asked aloud": items[example].question, "the encoder hears": heard[example] or "(nothing)", "it writes": texts[example]}
    return Symptom(figures, notes, (Heard(f"what reaches the encoder, of: {items[example].question}", waves[example], 16_000),))


def as_file(sound: bytes, rate: int) -> bytes:
    """An encoded sound as a WAV file of another rate."""
    import soxr

    buffer = io.BytesIO()
    soundfile.write(buffer, soxr.resample(HEALTHY_READ(sound), 16_000, rate), rate, format="WAV")
    return buffer.getvalue()


def describe_pictures(ward: Ward) -> Symptom:
    """Pictures with something red or blue in them: what the model says of them."""
    items, length = ward.shown, ward.settings.model.image_token_len
    pictures = [read_picture(item.picture) for item in items]
    seen, given = ward.vision_encoder.encode(pictures), ward.vision_encoder.pixels(pictures)
    prompts = [ward.prompt(user_content(item.question, pictures=1, image_length=length), image_features=each) for item, each in zip(items, seen)]
    answers = ward.generator().generate_batch(prompts, speech=False)
    pairs = [(measures.words(answer.text), measures.words(item.truth)) for answer, item in zip(answers, items)]
    colours = ("red", "blue")
    figures = {
        f"of {len(items)} pictures described rightly": sum(one == other for one, other in pairs),
        "… rightly but for colours": sum([w for w in one if w not in COLOURS] == [w for w in other if w not in COLOURS] for one, other in pairs),
        "mean of the network's input": round(float(given.mean()), 2),
        "red or blue named where the picture has it": sum(word in one for one, other in pairs for word in colours if word in other),
    }
    notes = {f"of “{item.truth.rstrip('.')}” it says": shortened(answer.text) for item, answer in list(zip(items, answers))[:4]}
    plain = [np.asarray(HEALTHY_OPEN(item.picture)) for item in items[:4]]
    return Symptom(figures, notes, shown=tuple((shortened(answer.text), picture) for answer, picture in zip(answers, plain)))


def shortened(text: str, most: int = 70) -> str:
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"


def train_on(ward: Ward) -> Symptom:
    """The shipped weights, trained on with T2A's recipe for a few steps; then they answer."""
    torch.manual_seed(0)
    model = copy.deepcopy(ward.model).train()
    stage = ward.settings.stages["t2a"][0].replace(learning_rate=6e-4, optimiser="adamw", warmup_steps=4, steps=ward.steps)
    layout = data.Layout(ward.settings.model, ward.tokenizer, stage.max_length)
    batches = data.Batches(ward.trained_rows, [1.0], layout, stage.max_length, seed=0, chunk_rows=64)
    stepper = Stepper(model, stage, ward.steps, torch.device("cpu"), torch.float32)
    losses, labelled, places = [], 0, 0
    for number, batch in zip(range(ward.steps), batches.start()):
        parts = stepper.step(batch, number)
        losses.append(float(parts[3 : 3 + ward.settings.model.num_codebooks].mean()))
        text_loss = float(parts[0])
        labelled, places = labelled + int((batch.audio_labels != IGNORE).sum()), places + batch.audio_labels.numel()
    (answer,) = ward.generator(model.eval()).generate_batch([ward.prompt(ward.question)])
    figures, notes, sounds = spoken(ward, answer.text, answer.samples)
    figures = {"audio loss at the last step": round(losses[-1], 2), "text loss at the last step": round(text_loss, 2), "places with a label, percent": round(100 * labelled / places)} | figures
    return Symptom(figures, {"asked": ward.question} | notes, sounds if len(answer.samples) else (), curve=tuple(losses))


# --- What is broken --------------------------------------------------------------------------------------------------
# The package's own functions as they are, whatever is put in their place later.

HEALTHY_READ = features.read_sound
HEALTHY_COLLATE = data.collate
HEALTHY_FEATURES = generation.collate_features
HEALTHY_OPEN = vision_encoder.open_picture
COLOURS = frozenset("red blue green yellow orange purple pink black white".split())


def undelay_refining_the_wrong_frame(delayed: Tensor, stop: int | None = None) -> Tensor:
    Q, L = delayed.shape
    F_ = max(0, L - Q + 1)
    codes = torch.stack([delayed[k, max(0, k - 1) : max(0, k - 1) + F_] for k in range(Q)])
    if stop is not None:
        codes = codes[:, (codes == stop).any(dim=0).cumsum(dim=0) == 0]
    return torch.where(codes < 512, codes, 0)  # the codec takes no pads


def frames_with_the_first_codebook_last(flat: Sequence[int], num_codebooks: int = 8, num_codes: int | None = None) -> Tensor:
    codes = torch.tensor(flat, dtype=torch.long).view(-1, num_codebooks).T
    return torch.cat((codes[1:], codes[:1]))


def allowed_codes_only(config, device=None) -> Tensor:
    allowed = torch.full((config.num_codebooks, config.audio_vocab_size), -torch.inf, device=device)
    allowed[:, : config.num_codes] = 0
    return allowed


def read_sound_as_it_is(sound: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
    return samples.mean(axis=1)


def frames_by_default(self, waves, sample_rate: int = 16_000) -> tuple[Tensor, Tensor]:
    waves = [torch.as_tensor(wave).float() for wave in waves]
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    frontend = copy.copy(self.frontend)
    frontend.upsacle_samples = False  # funasr's own spelling: samples are taken as they are, from -1 to 1
    frontend.dither = 1.0  # funasr's default
    with torch.no_grad():
        return frontend(padded, [len(wave) for wave in waves])


def pixels_as_they_are(self, pictures) -> Tensor:
    small = [to_rgb(picture).resize((self.side, self.side)) for picture in pictures]
    pixels = torch.from_numpy(np.stack([np.asarray(picture, np.float32) for picture in small]))
    return pixels.permute(0, 3, 1, 2)


@contextmanager
def streaming_that_stays_open(self, batch: int = 1, largest: int = 8) -> Iterator[StreamingDecoder]:
    if not self.model.is_streaming:
        self.model.streaming_forever(batch)
        widen_context(self.model, batch, largest)
    yield StreamingDecoder(self, largest)


def collate_with_zeros(examples, config, position=(0, 0), answers_cut=0, length=0):
    batch = HEALTHY_COLLATE(examples, config, position, answers_cut, length)
    audio_labels = batch.audio_labels.clone()
    audio_labels[audio_labels == IGNORE] = 0
    return replace(batch, audio_labels=audio_labels)


def shift_inputs_only(streams, text, text_labels, audio_labels, stop_cut, answer_cut=False):
    return sequence.Row(
        input_ids=torch.cat((streams, text[None]))[:, :-1],
        text_labels=text_labels[:-1],
        audio_labels=audio_labels[:, :-1],
        stop_cut=stop_cut,
        answer_cut=answer_cut,
    )


def collate_features_in_another_order(prompts, config) -> dict[str, Tensor]:
    features = HEALTHY_FEATURES(prompts, config)
    if "speaker" in features:
        features["speaker"] = features["speaker"].flip(0)
    return features


def make_window_one_behind(config, length: int, device, lengths: CacheLengths | None = None) -> Window:
    window = transformer.make_window(config, length, device, lengths)
    if lengths is None or not window.start:
        return window
    return replace(window, start=window.start - 1, end=window.end - 1)


def choose_and_feed_what_was_drawn(self) -> tuple[Tensor, Tensor]:
    config, s = self.config, self.step
    uniform = self.noise.next()
    if self.text_hidden is None:
        tokens = torch.full_like(self.text_end, config.pad_token)
    else:
        tokens = self.choose_text(self.model.text_head(self.text_hidden), uniform[:, -1:])[:, 0]
        ended = (tokens == config.im_end_token) & (s < self.text_end)
        self.text_ended |= ended
        self.text_end = torch.where(ended, s, self.text_end)
    logits = self.model.audio_head(self.audio_hidden)[:, 0] + self.allowed
    codes = self.choose_codes(logits, uniform[:, :-1])
    if s >= 1:
        stopped = (codes[:, 0] == config.audio_stop_token) & (s - 1 < self.speech_end)
        self.stopped |= stopped
        self.speech_end = torch.where(stopped, s - 1, self.speech_end)
    return tokens, codes


def open_picture_as_opencv_does(source, name: str = ""):
    from PIL import Image

    pixels = np.asarray(HEALTHY_OPEN(source, name))
    return Image.fromarray(pixels[:, :, ::-1].copy())


# --- Patients ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A possible cause, and what to say to somebody who chose it: why not, and what to look at; for the true one, why it is."""

    cause: str
    reply: str


@dataclass(frozen=True)
class Patient:
    """One broken run.  The first of `choices` is the true cause; they are shown in another order."""

    id: str  # "15.delay"; never shown before the diagnosis
    complaint: str  # what somebody would report who knows nothing of the cause
    run: Callable[[Ward], Symptom]
    place: str  # the function of the package that is exchanged: "mmo.generation.undelay"
    broken: Callable
    choices: tuple[Choice, ...]
    sign: str  # the figure in which it differs from health, by at least `least`
    least: float
    lesson: str  # what keeps it from happening again

    @property
    def home(self) -> str:
        """Where a reader finds the healthy function: "mmo.sequence.undelay"."""
        return f"{self.healthy.__module__}.{self.healthy.__qualname__}"

    @property
    def healthy(self) -> Callable:
        """The package's own function."""
        return healthy_function(self.place)


HEALTHY: dict[str, Callable] = {}


def healthy_function(place: str) -> Callable:
    """What stands at a place when nothing is exchanged; remembered from the first look."""
    if place not in HEALTHY:
        parts = place.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            for name in parts[cut:]:
                found = getattr(found, name)
            HEALTHY[place] = found
            break
    return HEALTHY[place]


PATIENTS = (
    Patient(
        id="15.delay",
        complaint="It is hoarse, as if each sound carried a bit of its neighbour, and harder to make out than it was. The text is right. Training was fine, and so was its loss.",
        run=answer_one, place="mmo.generation.undelay", broken=undelay_refining_the_wrong_frame,
        choices=(
            Choice("The streams are moved back by one step too few: codebooks 1 to 7 refine the frame after theirs.",
                   "Codebook 0 agrees with a healthy run and the others do not, and they agree once you move them by one frame: they are the right codes in the wrong frame."),
            Choice("The sampling is too warm: codes are drawn that do not belong together.",
                   "Then codebook 0 would differ as well, for it is drawn the same way, and the speech would run off. Look at the agreement by codebook: which one is untouched?"),
            Choice("The codec's weights are damaged.",
                   "A damaged codec spoils all codes alike, but the codes themselves would be those of a healthy run. Here most of them are not. Look before the codec."),
            Choice("Codebooks 1 to 7 were not trained.",
                   "The complaint says that their loss was fine; and codes of an untrained head are noise, which agrees with nothing at any lag. Compare the rows at a lag of one frame."),
        ),
        sign=DISTANCE, least=2.0,
        lesson="Test the way there and the way back together: undelay(delay(codes)) == codes, with every codebook different.",
    ),
    Patient(
        id="15.codebooks",
        complaint="Recorded answers, played from the data file before any training, are a babble. The file's codes are all in range, and nothing was complained of when they were read.",
        run=play_recorded, place="mmo.sequence.frames", broken=frames_with_the_first_codebook_last,
        choices=(
            Choice("The codebooks stand in the wrong order.",
                   "The rhythm and the length are right, no row agrees with its own healthy one, but row k is the healthy row k + 1. Every code is a good code, of another codebook."),
            Choice("The frames are in the wrong order.",
                   "Then the same columns would be there, only elsewhere, and codebook 0 would hold its own codes. Compare the first rows of both pictures: is any code of this codebook 0 in the healthy codebook 0 at all?"),
            Choice("The sound is played at the wrong rate.",
                   "Then length and pitch would have changed by the same factor, and the words would be there, slower or faster. The length is right."),
            Choice("The codec is another one than the one that made the codes.",
                   "A good thought: it sounds like this. But then the codes in the file would be unchanged, and here they differ from what a healthy reader takes out of the same file."),
        ),
        sign=DISTANCE, least=4.0,
        lesson="A range check cannot see an order. Keep one recorded row and its sound as a test, and listen to data before training on it.",
    ),
    Patient(
        id="15.stop",
        complaint="It says the sentence, and then it does not stop: it goes on babbling until something cuts it off. The text ends as it should.",
        run=answer_one, place="mmo.generation.allowed_codes", broken=allowed_codes_only,
        choices=(
            Choice("The stop sign can never be drawn: the mask of what may be said leaves it out.",
                   "Up to the end of the sentence every code is that of a healthy run, so the weights know where the end is. What they say there is not listened to."),
            Choice("The stops were cut off in training, so the model never learnt to stop.",
                   "It would sound just so. But these are the shipped weights, the same that end by themselves in the healthy run beside it. Something between weights and choice must differ."),
            Choice("The text does not end, so the speech does not either.",
                   "Look at what it writes: the text is whole, and ends. Text and speech end each by a sign of its own."),
            Choice("The limit on the number of frames is too low.",
                   "The limit is what ends it here, and without it there would be more of the same. The question is why it was reached at all."),
        ),
        sign="seconds", least=1.5,
        lesson="Count runaways in every evaluation, and count the stops that a maximal length cuts off (Row.stop_cut).",
    ),
    Patient(
        id="15.rate",
        complaint="Spoken questions are often misunderstood, though typed ones are not. It began with new recordings from a better microphone, files of 24 kHz.",
        run=answer_spoken, place="mmo.features.read_sound", broken=read_sound_as_it_is,
        choices=(
            Choice("The recordings are taken for 16 kHz sound: they were not resampled.",
                   "The questions got longer by one half and the voice deeper by as much: 24 / 16. A rate is a number beside the samples, and whoever drops it changes the sound."),
            Choice("The new microphone is too quiet.",
                   "The mean of the encoder's input is near that of health, so the level is right. Look at the figure that should not depend on a microphone at all: the length."),
            Choice("The projector was trained on other voices.",
                   "What the encoder itself hears is wrong already, and the projector stands behind the encoder."),
            Choice("The speaker's accent is new to the encoder.",
                   "These are the healthy run's own recordings. And an accent does not make a sentence half as long again."),
        ),
        sign="seconds of a question", least=0.3,
        lesson="Carry the rate with the samples, and let functions that need one rate refuse another.",
    ),
    Patient(
        id="15.scale",
        complaint="Spoken questions are answered with something, but hardly ever with the answer. If you play the recordings, they are perfectly good.",
        run=answer_spoken, place="mmo.speech_encoder.SpeechEncoder.frames", broken=frames_by_default,
        choices=(
            Choice("The samples lie between -1 and 1 where 16-bit numbers are expected, and the dither of one such step drowns them.",
                   "Kaldi's filterbanks expect full scale 32768 and add noise of size 1 by default. Multiply by 32768 and set dither to 0, or the noise is louder than the voice: the encoder's input has another mean than in training, and its transcript is a guess."),
            Choice("The projector is broken.",
                   "The projector stands behind the encoder, and what the encoder itself hears is wrong already. The damage is done before."),
            Choice("The file's rate is not the encoder's.",
                   "Then questions would be longer or shorter than in health. Their length is the same, and what you hear is in order."),
            Choice("The voices are new to the encoder.",
                   "They are the healthy run's own recordings, and there they are understood. Compare the encoder's input instead."),
        ),
        sign="words the encoder mishears, percent", least=15.0,
        lesson="Print mean and spread of every input once, beside those of training. Full scale 1 or 32768 is a contract: write it into the signature, and read a library's defaults.",
    ),
    Patient(
        id="15.pixels",
        complaint="What it says about pictures has nothing to do with them. Typed questions are answered as ever.",
        run=describe_pictures, place="mmo.vision_encoder.VisionEncoder.pixels", broken=pixels_as_they_are,
        choices=(
            Choice("The pixels reach the network as 0 to 255, not as -1 to 1: they are not normalised.",
                   "The mean of what the network gets says it. The shapes of all tensors are right, so nothing complains; a language model behind a blind eye goes on talking, since it has learnt what captions are like."),
            Choice("The picture's channels are in the order blue, green, red.",
                   "Then shapes and places would be right, and only some colours wrong. Here nearly nothing is right."),
            Choice("The image placeholders are missing from the prompt.",
                   "A good thought, for it would talk just so. But then the picture's numbers would be those of health. Look at the mean of what the network gets."),
            Choice("The vision encoder's weights are not loaded.",
                   "It would look the same from outside. But random weights do not change the network's *input*, and that is not what it is in health."),
        ),
        sign="mean of the network's input", least=20.0,
        lesson="Let one class own the picture's way into the network (mmo.vision_encoder.VisionEncoder), and check the input's range there, not the output's looks.",
    ),
    Patient(
        id="15.state",
        complaint="In a conversation the first answer is what its codes decode to, to the last digit. The later ones are not quite. Most people hear nothing; some say that a later answer begins oddly.",
        run=answer_two_streamed, place="mmo.codec.Codec.streaming", broken=streaming_that_stays_open,
        choices=(
            Choice("The codec's streaming state is still that of the answer before.",
                   "The codes are those of a healthy run, and decoded at once they give the healthy sound; only the streamed sound differs, and most where it begins. The decoder remembers what it should have forgotten."),
            Choice("Each frame is decoded by itself, without any state.",
                   "That clicks at every frame border, 12.5 times a second, all through, and in the first answer too. Here it is the beginning of a later answer."),
            Choice("The key-value cache still holds the last question.",
                   "Then the codes would change, and with them perhaps the words. They are those of a healthy run, every one."),
            Choice("The pieces of sound are put together in the wrong order.",
                   "That would give another sentence, and a far larger distance. Here it is the same sentence with an odd beginning."),
        ),
        sign="dB from its codes decoded at once, first half second", least=0.5,
        lesson="State has an owner and a lifetime: open it and close it in one block. Test the second answer, not only the first.",
    ),
    Patient(
        id="15.zeros",
        complaint="A new training run looks wonderful: after two dozen steps its audio loss is lower than any run's before. But the model speaks no better for it.",
        run=train_on, place="mmo.data.collate", broken=collate_with_zeros,
        choices=(
            Choice("Positions without a label are labelled 0, and 0 is a code: much of what is asked is to say code 0.",
                   "Every place has a label now, the question's and the padding's too. Zeros are easy to predict: the loss begins high, since nobody taught them before, then falls below all that is honest. They are many, and the mean hides how the sounds fare."),
            Choice("The learning rate is too high, and the run has diverged.",
                   "A diverging loss rises. This one falls, below what two dozen steps can do for speech."),
            Choice("The labels are not shifted, so each position is asked for what it sees.",
                   "That makes a loss fall too, in time. But it does not change how many places have a label. Read that figure again."),
            Choice("It has learnt the training rows by heart.",
                   "In two dozen steps over ever new rows nothing can be learnt by heart."),
        ),
        sign="places with a label, percent", least=20.0,
        lesson="Print the share of labelled places once a run. A loss that is too good is a symptom.",
    ),
    Patient(
        id="15.shift",
        complaint="Trained on with the new code, its loss falls steadily from step to step, while that of the old code had long come to rest. Asked anything, the model stammers.",
        run=train_on, place="mmo.sequence.shift", broken=shift_inputs_only,
        choices=(
            Choice("Labels are not shifted by one: each position is asked for what it already sees.",
                   "Copying its input is the easiest thing a model can learn, and the loss rewards nothing else. It begins above health, for these weights were taught otherwise, and would fall to nothing. In use the model repeats what it was fed: the stammer."),
            Choice("Positions without a label are labelled 0.",
                   "Then the share of labelled places would have jumped. It is that of health."),
            Choice("The causal mask is missing, so a position sees the next.",
                   "A good thought: the answer would leak in the same way. But this run answers with the same mask that it was trained with, and a model that looks ahead does not stammer, it fails where there is nothing ahead. Look at what it repeats."),
            Choice("The learning rate is too low.",
                   "Then the loss would hardly move, and the answers would be those of the shipped weights, which do not stammer."),
        ),
        sign=DISTANCE, least=4.0,
        lesson="Check the labels of one row by eye, position by position, before the first run; and be suspicious of a loss below that of a known good model.",
    ),
    Patient(
        id="15.speaker",
        complaint="Two people use it at once. Each says that it answers in the other one's voice; alone, each of them is content.",
        run=answer_both_voices, place="mmo.generation.collate_features", broken=collate_features_in_another_order,
        choices=(
            Choice("Within a batch each row gets another row's speaker vector.",
                   "The words are right, the two voices have changed places, and alone, where a batch has one row, all is well. So rows and vectors are put side by side in different orders."),
            Choice("The sound is played at the wrong rate.",
                   "Then both voices would be higher, or both lower, and faster or slower as well. Here each is a voice that you know, in the other's place."),
            Choice("The speaker vector is left out, and the model chooses a voice.",
                   "Then both rows would be in one voice, or in voices that change by chance. They are cleanly exchanged."),
            Choice("The reference codes of the other voice are in the prompt.",
                   "There are no reference codes in these prompts; and these, too, would help the voice they belong to, in a batch of one as well."),
        ),
        sign="joe was asked for: dB nearer to joe's recordings than to others'", least=1.0,
        lesson="Whatever is sorted must be sorted with all that belongs to it. Test batches of rows that differ.",
    ),
    Patient(
        id="15.cache",
        complaint="Computed in one go, over the whole answer, the model's codes are right. Step by step, with the cache, many of them are others, with the same weights and the same random numbers.",
        run=answer_one, place="mmo.omni.make_window", broken=make_window_one_behind,
        choices=(
            Choice("Each step writes its keys and values one slot too early, the first one over the prompt's last position.",
                   "In one go there are no slots, and all is well. What is lost is one position, but which: the prompt's last is where the speaker sign stands. From the first step on the sign itself can no longer be looked at, only what the positions behind it took from it. See how much that costs: compare codes, voice and pitch with a healthy run's."),
            Choice("The speaker vector is that of the other voice.",
                   "Then the answer would be in that voice in one go, too, and there all is well. See whose recordings the sound is nearer to."),
            Choice("The causal mask lets a position see the next one.",
                   "In step-by-step use there is no next one to be seen. And in one go, where there is, all is well."),
            Choice("The sampling is too warm.",
                   "The temperature is that of the healthy run, and so are the random numbers. And in one go, with the same choice, the codes are right."),
        ),
        sign="codes unlike a healthy run's, percent", least=10.0,
        lesson="One test finds every mistake of this kind: step by step with a cache must give the logits of one go without.",
    ),
    Patient(
        id="15.pads",
        complaint="Since somebody tidied up the decoder, answers are not quite what they were. Nothing is plainly wrong, and the weights are the same.",
        run=answer_one, place="mmo.generation.Decoder.choose", broken=choose_and_feed_what_was_drawn,
        choices=(
            Choice("Where training has pads, before a codebook's first frame and behind its stop, the codes just drawn are fed back.",
                   "The model meets at these places what it never saw there. In the middle of the speech there is no difference in the rule, only in the history it stands on."),
            Choice("The streams are moved back by one step too few.",
                   "Then codebook 0 would agree with the healthy run all the way. Look at the agreement by codebook."),
            Choice("The stop sign can never be drawn.",
                   "Then the speech would run to its limit. It ends by itself, as the chart says, and where a healthy run ends."),
            Choice("The speaker vector is wrong.",
                   "Then it would be another voice from the first sound to the last. The pitch is that of the voice that was asked for."),
        ),
        sign=DISTANCE, least=0.5,
        lesson="What is fed in use must be what was fed in training, down to the pads. Build both with the same function.",
    ),
    Patient(
        id="15.colours",
        complaint="It speaks of shapes, sizes and places as surely as ever, though it is not always right about them any more. It is wrong about some colours nearly every time, and right about others.",
        run=describe_pictures, place="mmo.vision_encoder.open_picture", broken=open_picture_as_opencv_does,
        choices=(
            Choice("The picture's channels are in the order blue, green, red.",
                   "Red and blue are taken for something else, red often for blue; colours with as much red as blue, white and black among them, are what they were. That is an exchange of channels, nothing else does it."),
            Choice("The pictures are in grey.",
                   "Then no colour would be left to be sure of, green neither."),
            Choice("The patches are in the wrong order.",
                   "Then the places would suffer first, above and below, left and right, and the colours would stay."),
            Choice("The vision encoder never learnt its colours.",
                   "In the healthy run, with the same encoder, they are right."),
        ),
        sign="red or blue named where the picture has it", least=2.0,
        lesson="A picture as an array does not know its channels' names. Look at one picture exactly as the network gets it.",
    ),
)


# --- The clinic --------------------------------------------------------------------------------------------------


@contextmanager
def exchanged(place: str, function: Callable | None) -> Iterator[None]:
    """Put a function in the place of the package's own while the block lasts; None leaves all as it is."""
    healthy_function(place)  # remembered before anything is exchanged
    if function is None:
        yield
        return
    with patch(place, function):
        yield


class Clinic:
    """Ten beds.  Patients and their order follow from the seed; what was diagnosed is kept in the progress file."""

    def __init__(self, settings: Profile, seed: int = 0, *, ward: Ward | None = None, beds: int = BEDS, only: Sequence[str] = ()) -> None:
        chosen = [each for each in PATIENTS if not only or each.id in only]
        order = random.Random(seed).sample(chosen, min(beds, len(chosen)))
        self.seed, self.ward = seed, ward or Ward(settings)
        self.beds = dict(zip(string.ascii_uppercase, order))
        self.health: dict[Callable, Symptom] = {}
        self.seen: dict[str, Symptom] = {}

    def empty(self, bed: str) -> Chart | None:
        """What is said of a bed that nobody lies in; None where somebody does."""
        return Chart(f"Bed {bed} is empty.") if bed in string.ascii_uppercase[len(self.beds) : BEDS] else None

    def patient(self, bed: str) -> Patient:
        """Raises ValueError naming the beds there are."""
        if bed not in self.beds:
            raise ValueError(f"no patient {bed!r}; there are {', '.join(self.beds)}")
        return self.beds[bed]

    def choices(self, bed: str) -> list[Choice]:
        """The possible causes, in the order in which this clinic shows them."""
        patient = self.patient(bed)
        return random.Random(f"{self.seed} {patient.id}").sample(patient.choices, len(patient.choices))

    # Running ---------------------------------------------------------------------------------------------------

    def healthy(self, patient: Patient) -> Symptom:
        """The same run with nothing exchanged; made once."""
        if patient.run not in self.health:
            healthy = patient.run(self.ward)
            self.health[patient.run] = compared(healthy, healthy)
        return self.health[patient.run]

    def run(self, patient: Patient, function: Callable | None) -> Symptom:
        """The patient's run with a function in the exchanged place; None is the package's own."""
        healthy = self.healthy(patient)
        with exchanged(patient.place, function):
            found = patient.run(self.ward)
        return compared(found, healthy)

    def symptom(self, bed: str) -> Symptom:
        """What the patient in that bed shows; made once."""
        if bed not in self.seen:
            patient = self.patient(bed)
            self.seen[bed] = self.run(patient, patient.broken)
        return self.seen[bed]

    # What the learner calls -------------------------------------------------------------------------------------------

    def see(self, bed: str) -> Chart:
        """Complaint, sounds, pictures, figures beside those of a healthy run."""
        if empty := self.empty(bed):
            return empty
        patient, symptom = self.patient(bed), self.symptom(bed)
        return Chart(f"Patient {bed}", patient.complaint, symptom, self.healthy(patient))

    def diagnose(self, bed: str, number: int | None = None) -> Chart:
        """Commit to one of the possible causes, by its number; None lists them.  Each guess is answered, and the first counts most."""
        if empty := self.empty(bed):
            return empty
        patient, choices = self.patient(bed), self.choices(bed)
        if number is None:
            lines = [f"{place}. {choice.cause}" for place, choice in enumerate(choices, 1)]
            return Chart(f"Patient {bed}: what is it?", "Write the number of your diagnosis in place of None.", lines=lines)
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(choices):
            raise ValueError(f"a diagnosis is a whole number from 1 to {len(choices)}, got {number!r}")
        choice = choices[number - 1]
        right = choice is patient.choices[0]
        entry = {"guesses": [choice.cause], "found": right} if strict() else progress.note_diagnosis(patient.id, choice.cause, right)
        earned = points_of(entry)
        said = f"{choice.cause} {choice.reply}"
        if right:
            return Chart(f"Patient {bed}: that is it.", f"{said} {earned} of {POINTS[0] + REPAIR_POINTS} points so far.", colour=GREEN)
        return Chart(f"Patient {bed}: that is not it.", said, colour=RED)

    def treat(self, bed: str, repaired: Callable | None = None) -> Chart:
        """After the diagnosis: the broken function; with a repaired one, the run once more, beside health.

        With MMO_STRICT=1, as solutions are executed, the package's own function is put back and the cause is told.
        """
        if empty := self.empty(bed):
            return empty
        patient = self.patient(bed)
        entry = {} if strict() else progress.load().get("clinic", {}).get(patient.id, {})
        if not strict() and not entry.get("found") and len(entry.get("guesses", [])) < len(POINTS):
            return Chart(f"Patient {bed}", f'No treatment without a diagnosis: first clinic.diagnose("{bed}", number). After {len(POINTS)} wrong ones the chart is opened.')
        code = source_of(patient.broken)
        told = f"{patient.choices[0].cause} Exchanged was {patient.place}."
        if repaired is None and not strict():
            words = (
                f"{told} This stands there now. Write it as it should be, a function that takes what {patient.home} takes, and pass it: "
                f'clinic.treat("{bed}", my_function).'
            )
            return Chart(f"Patient {bed}: the broken function", words, code=code)
        found = self.run(patient, repaired)
        flaw = unlike(found, self.healthy(patient))
        if flaw:
            return Chart(f"Patient {bed}: not cured yet.", f"Not as in health: {flaw}.", found, self.healthy(patient), colour=RED, pictures=False)
        if not strict():
            progress.note_repair(patient.id)
        whose = "the package's own function" if repaired is None else "your function"
        words = f"{told} With {whose} every figure is that of health again. {patient.lesson}"
        return Chart(f"Patient {bed}: cured.", words, found, self.healthy(patient), colour=GREEN, pictures=False, code=code)

    def score(self) -> Chart:
        """Points so far."""
        kept = {} if strict() else progress.load().get("clinic", {})
        lines, total = [], 0
        for bed, patient in self.beds.items():
            entry = kept.get(patient.id, {})
            earned = points_of(entry)
            total += earned
            guesses = len(entry.get("guesses", []))
            state = "no diagnosis yet" if not guesses else f"found at guess {guesses}" if entry.get("found") else f"not found in {guesses}"
            lines.append(f"{bed}: {state}{', repaired' if entry.get('repaired') else ''} ({earned})")
        most = (POINTS[0] + REPAIR_POINTS) * len(self.beds)
        return Chart("The clinic", f"{total} of {most} points.", lines=lines)


def points_of(entry: dict) -> int:
    """Points of one patient: the earlier found, the more; one for a repair."""
    guesses = len(entry.get("guesses", []))
    found = POINTS[guesses - 1] if entry.get("found") and 1 <= guesses <= len(POINTS) else 0
    return found + REPAIR_POINTS * bool(entry.get("repaired"))


def compared(found: Symptom, healthy: Symptom) -> Symptom:
    """The symptom, with the figures that need the healthy run beside it."""
    figures, notes = dict(found.figures), dict(found.notes)
    if len(found.sounds) == 1 and len(healthy.sounds) == 1 and found.sounds[0].rate == healthy.sounds[0].rate:
        figures[DISTANCE] = round(mel_distance(found.sounds[0].samples, healthy.sounds[0].samples, found.sounds[0].rate), 1)
    if found.codes is not None and healthy.codes is not None:
        shares = agreement_by_codebook(healthy.codes, found.codes)
        figures["codes unlike a healthy run's, percent"] = round(100 - sum(shares) / len(shares))
        notes["codes as in a healthy run, by codebook"] = " ".join(f"{share} %" for share in shares)
    return replace(found, figures=figures, notes=notes)


def unlike(found: Symptom, healthy: Symptom) -> str | None:
    """The first figure in which two runs differ, in words; None where there is none."""
    for name, wanted in healthy.figures.items():
        here = found.figures.get(name)
        if here is None or abs(here - wanted) > CLOSE * (1 + abs(wanted)):
            return f"{name} is {here}, in health {wanted}"
    return None


def source_of(function: Callable) -> str:
    """A function's text."""
    return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))


# --- What is shown -----------------------------------------------------------------------------------------------


class Chart:
    """A page of the clinic, for a notebook; its plain form holds the same words and figures."""

    def __init__(
        self, title: str, words: str = "", symptom: Symptom | None = None, healthy: Symptom | None = None, *,
        lines: Sequence[str] = (), code: str = "", colour: str = BLUE, pictures: bool = True,
    ) -> None:
        self.title, self.words, self.symptom, self.healthy = title, words, symptom, healthy
        self.lines, self.code, self.colour, self.pictures = list(lines), code, colour, pictures

    def table(self) -> list[tuple[str, str, str]]:
        """Rows: what is measured, here, in health."""
        if not self.symptom:
            return []
        return [(name, f"{value:g}", f"{self.healthy.figures[name]:g}" if name in self.healthy.figures else "") for name, value in self.symptom.figures.items()]

    @property
    def heading(self) -> str:
        """The title, with a full stop where it has no end of its own."""
        return self.title if self.title[-1] in ".?:" else f"{self.title}."

    def __repr__(self) -> str:
        notes = [f"{name}: {value}" for name, value in self.symptom.notes.items()] if self.symptom else []
        rows = [f"{name}: {here} (healthy: {healthy})" for name, here, healthy in self.table()]
        return "\n".join([f"{self.heading} {self.words}".strip(), *self.lines, *notes, *rows, *([self.code] if self.code else [])])

    def _repr_html_(self) -> str:
        say = html.escape
        parts = [f"<b>{say(self.heading)}</b> {say(self.words)}"]
        parts += [f"<div>{say(line)}</div>" for line in self.lines]
        if self.code:
            parts.append(f'<pre style="font-family:monospace;margin:6px 0;white-space:pre;overflow-x:auto">{say(self.code)}</pre>')
        if self.symptom:
            parts += [f"<div>{say(name)}: <i>{say(value)}</i></div>" for name, value in self.symptom.notes.items()]
            cells = "".join(
                f'<tr><td style="text-align:left">{say(name)}</td><td>{say(here)}</td><td>{say(healthy)}</td></tr>' for name, here, healthy in self.table()
            )
            parts.append(f'<table><tr><th></th><th>here</th><th>healthy</th></tr>{cells}</table>')
            if self.pictures:
                parts += [part for pair in zip_longest(self.symptom.sounds, self.healthy.sounds) for part in side_by_side(*pair)]
                parts += [shown(picture) for picture in drawings(self.symptom, self.healthy)]
            else:
                parts += [listen(each.samples, each.rate, each.caption, picture=False)._repr_html_() for each in self.symptom.sounds]
        return f'<div style="border-left:4px solid {self.colour};padding:2px 10px;margin:4px 0">{"".join(parts)}</div>'


def shown(picture: Picture) -> str:
    """A picture inside a page."""
    return f'<img alt="{html.escape(picture.alt)}" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(picture.png).decode()}">'


def side_by_side(here: Heard | None, healthy: Heard | None) -> list[str]:
    """A sound and the one of a healthy run, players and one picture of both; None where a run has none."""
    both = [(whose, each) for whose, each in (("this run", here), ("a healthy run", healthy)) if each is not None]
    players = [listen(each.samples, each.rate, f"{each.caption} ({whose})", picture=False)._repr_html_() for whose, each in both]
    heard = [(whose, each) for whose, each in both if len(each.samples)]
    return [*players, shown(spectrograms(heard))] if heard else players


def spectrograms(heard: Sequence[tuple[str, Heard]]) -> Picture:
    """Spectrograms one above the other, alike in size, with one time axis: what is longer is seen to be longer."""
    longest = max(len(each.samples) / each.rate for _, each in heard)
    with drawing(6.4, 0.5 + 1.1 * len(heard)) as figure:
        for axes, (whose, each) in zip(figure.subplots(len(heard), 1, sharex=True, squeeze=False)[:, 0], heard):
            draw_spectrogram(axes, each.samples, each.rate, marks=(200, 1000, 3000), vmin=-70, vmax=0)
            axes.set(xlim=(0, longest))
            axes.set_title(whose)
        axes.set_xlabel("seconds")
        words = " and ".join(f"{whose}, {len(each.samples) / each.rate:.1f} s" for whose, each in heard)
        return finish(figure, f"Spectrograms on one time axis: {words}.")


def drawings(symptom: Symptom, healthy: Symptom) -> list[Picture]:
    """Curves of both runs where there are any; where codes agree with those of health."""
    found = []
    if symptom.curve:
        with drawing(5.5, 2.0) as figure:
            axes = figure.add_subplot()
            axes.plot(healthy.curve, color=GREY, label="a healthy run")
            axes.plot(symptom.curve, color=ORANGE, label="this run")
            axes.set(xlabel="step", ylabel="audio loss", ylim=(0, None))
            axes.legend()
            found.append(finish(figure, f"Audio loss of this run, which ends at {symptom.curve[-1]:.2f}, beside that of a healthy one, which ends at {healthy.curve[-1]:.2f}."))
    if symptom.codes is not None and symptom.codes.numel():
        found.append(code_picture(healthy.codes, symptom.codes))
    if symptom.shown:
        found.append(picture_row(symptom.shown))
    return found


def picture_row(shown: Sequence[tuple[str, np.ndarray]]) -> Picture:
    """Pictures side by side, under each what was said of it."""
    with drawing(2.0 * len(shown), 2.6) as figure:
        for axes, (said, pixels) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown):
            axes.imshow(pixels, interpolation="nearest")
            bare(axes)
            axes.set_xlabel("\n".join(textwrap.wrap(said, 24)))
        return finish(figure, "Pictures, and what it says of each: " + " ".join(said for said, _ in shown), pictures=True)


def code_picture(healthy: Tensor, found: Tensor) -> Picture:
    """Both grids of codes, one above the other, this run's first, as with sounds; one scale for both."""
    last = max(1, *(int(codes.max()) for codes in (found, healthy) if codes.numel()))
    with drawing(7.0, 2.3) as figure:
        for axes, (title, codes) in zip(figure.subplots(2, 1, sharex=True), (("codes of this run, a colour a code", found), ("codes of a healthy run", healthy))):
            axes.imshow(np.asarray(codes), aspect="auto", cmap="cividis", vmin=0, vmax=last, interpolation="nearest")
            axes.grid(False)
            axes.set_title(title)
            axes.set_yticks(range(0, len(codes), 2))
            axes.set_ylabel("codebook")
        axes.set_xlabel("frame")
        return finish(figure, "Two heat-maps of codes, codebook by frame: of this run, and of a healthy one.")
