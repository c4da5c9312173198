"""`mmo say`: one question by text, sound or picture; the answer is printed as it comes and written to a WAV file.

What is not needed is not imported: a text question starts without transformers and funasr.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from mmo.chat import ChatTokenizer
from mmo.checkpoint import latest_weights
from mmo.codec import Codec, codec_layout
from mmo.config import Decoding
from mmo.generation import Answer, Finished, Generator, Heard, Prompt, TextPiece, lay_out
from mmo.omni import load_model
from mmo.profiles import Profile, profile, run_dir
from mmo.twin import Precision
from mmo.weights import read_tensors

LONGEST = 4096  # positions of a sound, four minutes: the encoder's attention holds their square


@dataclass(frozen=True)
class Question:
    """What the user gave.  At least one of the three is there."""

    text: str = ""
    audio: Path | None = None
    image: Path | None = None


def note(text: str) -> None:
    """Tell the user something that is not the answer: it goes to stderr, so that stdout is the answer alone."""
    print(text, file=sys.stderr, flush=True)


# --- Words -------------------------------------------------------------------------------------------------------


def read_words(settings: Profile) -> frozenset[str] | None:
    """The words of the profile's world, lower case; None where the world is not closed (no words.txt)."""
    path = settings.data_dir / "words.txt"
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else None


def unknown_words(text: str, words: frozenset[str]) -> list[str]:
    """Words and figures of `text` that the world does not have, in order, each once."""
    found = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    return [word for word in dict.fromkeys(found) if word not in words]


def words_notice(unknown: Sequence[str], words: frozenset[str], what: str = "The question") -> str:
    """The sentence that tells which words are strange here, and what to use instead."""
    listed = ", ".join(f'"{word}"' for word in unknown)
    lines = [f"{what} has words that the tiny world does not know: {listed}. The answer below is a guess."]
    for word in unknown:
        if word.isdigit():
            lines.append(f"  Write numbers as words (zero to twenty), not {word}.")
        elif near := difflib.get_close_matches(word, words, n=3):
            lines.append(f"  Instead of {word}: {', '.join(near)}?")
    lines.append(f"  It knows {len(words)} words; ask for instance: What is three plus four?")
    return "\n".join(lines)


# --- Inputs ------------------------------------------------------------------------------------------------------


def read_voice(settings: Profile, name: str | None) -> Tensor | None:
    """A voice's speaker vector, by default the first by name; None where the profile has no voices and none was asked.

    Raises FileNotFoundError or ValueError (naming the voices there are) where the wanted one is missing.
    """
    path = settings.data_dir / "voices.safetensors"
    if not path.is_file():
        if name:
            raise FileNotFoundError(f"no voices file {path}, so there is no voice {name!r}")
        note(f"No voices file {path}: the answer's voice is the model's own choice.")
        return None
    voices, _ = read_tensors(path)
    if name is not None and name not in voices:
        raise ValueError(f"no voice {name!r} in {path}; there are {', '.join(sorted(voices))}")
    return voices[name or min(voices)].float()


def hear(settings: Profile, path: Path, words: frozenset[str] | None) -> list[Tensor]:
    """A sound file of any kind that libsndfile reads -> features (N, D_audio) at each speed of `Decoding.hearings`; says what was understood."""
    from mmo.features import read_sound
    from mmo.speech_encoder import SpeechEncoder, feature_count

    if not path.is_file():
        raise FileNotFoundError(f"no sound file {path}")
    try:
        samples = read_sound(path.read_bytes())  # 16 kHz, one channel
    except ValueError as error:
        raise ValueError(f"{path}: {error}; WAV, FLAC, Ogg and MP3 work") from error
    if np.abs(samples).max() < 1e-3:
        note(f"{path} is almost silent.")
    most = min(settings.model.max_position_embeddings, LONGEST)
    if feature_count(len(samples)) > most:  # before the encoder, whose work grows with the square of the length
        raise ValueError(f"{path}: {len(samples) / 16_000:.0f} s are {feature_count(len(samples))} positions, and there is room for {most}; cut it shorter")
    encoder = SpeechEncoder.load(settings.speech_encoder_dir)
    features = encoder.encode_at(samples, settings.decoding.hearings)
    if words is not None:  # the tiny ear spells; the real one's own text needs query tokens that we leave out
        heard = encoder.spell(features[0][None], torch.tensor([len(features[0])]))[0]
        if not settings.decoding.write_down:  # else the model says itself what it heard
            note(f"heard: {heard}")
        if unknown := unknown_words(heard, words):
            note(words_notice(unknown, words, "The recording"))
    return features


def see(settings: Profile, path: Path) -> list[Tensor]:
    """A picture file -> features (P, D_image) at each look of `Decoding.looks`."""
    from mmo.vision_encoder import VisionEncoder, open_picture

    return VisionEncoder.load(settings.vision_encoder_dir).encode_at(open_picture(path), settings.decoding.looks)


def make_prompt(question: Question, settings: Profile, model_config, voice: str | None, seed: int) -> tuple[Prompt, ChatTokenizer]:
    """Read what the user gave and lay it out as training did.  Raises ValueError, FileNotFoundError."""
    if not (question.text or question.audio or question.image):
        raise ValueError("nothing to answer: give a question in quotes, --audio FILE or --image FILE")
    words = read_words(settings)
    if words is not None and (unknown := unknown_words(question.text, words)):
        note(words_notice(unknown, words))
    speaker = read_voice(settings, voice)
    heard = hear(settings, question.audio, words) if question.audio else ()
    seen = see(settings, question.image) if question.image else ()
    tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
    return lay_out(tokenizer, model_config, question.text, heard, seen, speaker, seed), tokenizer


# --- The command -------------------------------------------------------------------------------------------------


def say(
    question: Question,
    *,
    profile_name: str | None = None,
    weights: Path | None = None,
    voice: str | None = None,
    out: Path = Path("say.wav"),
    seed: int = 0,
    greedy: bool = False,
    decoding: Decoding | None = None,
    precision: Precision | None = None,
) -> Answer:
    """Answer a question: prints the text as it streams, writes the speech to `out`, returns both.

    precision: of the weights while answering (twin.py); by default float32 on a CPU, on a card the profile's.
    Raises ValueError and FileNotFoundError whose messages say what to do, before anything is answered.
    """
    settings = profile(profile_name)
    settings = replace(settings, decoding=decoding or settings.decoding)
    check_place(out, question)
    if weights is None:
        weights, which = latest_weights(settings, run_dir(settings))
        note(which)
    model = load_model(weights)
    device = settings.device()
    codec = Codec.load(settings.codec_file, device, model.config.num_codebooks)
    if codec_layout(settings.codec_file) != "moshi":
        note(f"codec: Mimi in the layout of transformers ({settings.codec_file})")
    if codec.num_codes != model.config.num_codes:
        raise ValueError(
            f"{weights} speaks in {model.config.num_codes} codes a codebook, the codec of the profile {settings.name} has {codec.num_codes}: "
            "name the profile that the weights belong to, such as --profile mini"
        )
    prompt, tokenizer = make_prompt(question, settings, model.config, voice, seed)
    # On a CPU single steps of a small model are too short to share between threads.
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1 if model.config.hidden_size < 512 else threads)
    else:
        model = model.to(device) if precision else model.to(device, settings.dtype(device))  # what is asked for is made of the weights as they are
    try:
        generator = Generator(model, codec, tokenizer, settings.decoding.greedy() if greedy else settings.decoding, precision=precision)
        answer = show(generator, prompt)
    finally:
        torch.set_num_threads(threads)
    write(answer, out)
    return answer


def check_place(out: Path, question: Question) -> None:
    """Raises ValueError where the speech could not or should not be written there: better said now than after the answer."""
    if out.suffix.lower() != ".wav":
        raise ValueError(f"--out {out}: speech is written as WAV; give a name that ends in .wav")
    if out.is_dir():
        raise ValueError(f"--out {out}: it is a folder, and a file is wanted")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out if out.is_file() else out.parent, os.W_OK):
        raise ValueError(f"--out {out}: you may not write there; give another place")
    for given in filter(None, (question.audio, question.image)):
        if out.is_file() and given.is_file() and out.samefile(given):
            raise ValueError(f"--out {out}: that is the question itself, which the answer would replace; give another name")


def show(generator: Generator, prompt: Prompt) -> Answer:
    """Stream one answer to the terminal."""
    for event in generator.stream([prompt]):
        if isinstance(event, Heard):
            note(f"heard: {event.text}")
            if not event.ended:
                note("The question was too long to be written down whole: the answer is to its beginning.")
        elif isinstance(event, TextPiece):
            print(event.text, end="", flush=True)
        elif isinstance(event, Finished):
            answer = event.answer
    print(flush=True)
    if not answer.text_ended:
        note("The text was cut: it did not come to an end.")
    if not answer.stopped:
        note("The speech was cut: it did not come to an end.")
    return answer


def write(answer: Answer, out: Path) -> None:
    """Write the speech as 16-bit WAV and say how long it is and how long it took."""
    if not len(answer.samples):
        note("The model spoke no sound, so no file was written.")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        soundfile.write(out, answer.samples.clip(-1, 1), answer.sample_rate, subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"--out {out}: the speech could not be written ({error.error_string}); is there space left on that disk?") from error
    note(
        f"{out}: {answer.seconds:.1f} s; first sound after {answer.first_audio_ms:.0f} ms, "
        f"{answer.real_time_factor:.2f} s of work per second of speech"
    )
