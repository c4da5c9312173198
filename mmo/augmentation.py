"""Sound augmentation: one clean recording becomes many speakers, rooms, microphones and distances.

Everything works on one waveform (float32, full scale 1, shape `(samples,)`) and draws from a numpy `Generator`, so that
the same seed gives the same sound whatever else the process draws:

    rng = np.random.default_rng(7)
    louder_and_noisier = augment(question, rng)

The tiny world's questions come in three people's voices and two synthesisers' variants only. Speed (which moves pitch and formants together), filters, echoes
and noise are what a model hears instead of the thousands of voices it would meet in a real corpus (Ko et al., "Audio
augmentation for speech recognition", 2015; Ko et al., "A study on data augmentation of reverberant speech", 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.signal
import soxr

from mmo.config import Augmentation, Masks

FILTER_TAPS = 129  # odd: the filter's delay is a whole number of samples


def augment(samples: np.ndarray, rng: np.random.Generator, settings: Augmentation = Augmentation(), rate: int = 16_000,
            source_rate: int | None = None) -> np.ndarray:
    """Speed, filter, echo, noise and gain, each by its share; `samples` itself is not changed.

    samples: (N,) float32 at `source_rate` Hz (default `rate`). Returns (M,) float32 at `rate` Hz, peaks at most 1.
    """
    check(samples)
    factor = log_uniform(rng, *settings.speed) if rng.random() < settings.speed_share else 1.0
    samples = change_speed(samples, factor, source_rate or rate, rate)
    if rng.random() < settings.filter_share:
        samples = filter_at_random(samples, rng, settings.equaliser_db, settings.low_pass_hz, settings.high_pass_hz, rate)
    if rng.random() < settings.echo_share:
        samples = add_echo(samples, rng, rng.uniform(*settings.echo_seconds), rng.uniform(*settings.echo_db), rate)
    if rng.random() < settings.noise_share:
        samples = add_noise(samples, rng, rng.uniform(*settings.noise_db), rng.uniform(0.0, 1.0))
    samples = samples * 10 ** (rng.uniform(*settings.gain_db) / 20)
    return (samples / max(1.0, np.abs(samples).max())).astype(np.float32)


@dataclass(frozen=True)
class Masked:
    """A sound of which the encoder is to hide parts, once its frontend has made mel frames: samples (N,), and what draws the parts."""

    samples: np.ndarray
    seed: int
    masks: Masks

    @property
    def size(self) -> int:
        return self.samples.size


def disturb(samples: np.ndarray, rng: np.random.Generator, settings: Augmentation = Augmentation()) -> np.ndarray | Masked:
    """What training does to a question at 16 kHz: `augment`, then parts hidden where the settings say so."""
    samples, masks = augment(samples, rng, settings), settings.masks
    if masks is None:
        return samples
    if rng.random() < masks.silence_share:
        samples = silence_a_stretch(samples, rng, rng.uniform(*masks.silence_seconds), 16_000)
    return Masked(samples, int(rng.integers(1 << 32)), masks) if rng.random() < masks.share else samples


def silence_a_stretch(samples: np.ndarray, rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """Nothing is heard for so long, at most half of the sound, somewhere in it.  A new array of the same length."""
    length = min(int(seconds * rate), len(samples) // 2)
    start = int(rng.integers(0, len(samples) - length + 1))
    return np.concatenate([samples[:start], np.zeros(length, samples.dtype), samples[start + length :]])


def mask_stacked(frames: np.ndarray, sound: Masked, mel_bins: int = 80) -> np.ndarray:
    """`mask_spectrogram` of a sound's frames as SenseVoice's frontend stacks them, several after each other: (N, stacked * mel_bins), the same shape."""
    masks, unstacked = sound.masks, frames.reshape(-1, mel_bins)
    hidden = mask_spectrogram(unstacked, np.random.default_rng(sound.seed), masks.bands, masks.widest_band, masks.gaps, masks.longest_gap)
    return hidden.reshape(frames.shape)


def check(samples: np.ndarray) -> None:
    """Raises ValueError unless `samples` is a floating-point waveform of shape (N,), N > 0, without NaN or infinity."""
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"a waveform of shape (samples,) with at least one sample is needed, not shape {samples.shape}")
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"the waveform is {samples.dtype}; divide integer samples by full scale (32768 for int16) first")
    if not np.isfinite(samples).all():
        raise ValueError("the waveform holds NaN or infinite samples")


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A draw that is as likely to double as to halve."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def change_speed(samples: np.ndarray, factor: float, source_rate: int, rate: int) -> np.ndarray:
    """Played `factor` times as fast, and resampled from `source_rate` to `rate` Hz in the same step.

    Pitch and formants rise by the same factor: 1.15 turns many a man's voice into a woman's.
    """
    if source_rate == rate and factor == 1.0:
        return samples.astype(np.float32)
    return soxr.resample(samples.astype(np.float32), source_rate * factor, rate, quality="HQ")


def filter_at_random(samples: np.ndarray, rng: np.random.Generator, equaliser_db: float, low_pass_hz: tuple[float, float],
                     high_pass_hz: tuple[float, float], rate: int) -> np.ndarray:
    """A smooth random frequency response between a random high-pass and a random low-pass: another microphone. Same length."""
    nyquist = rate / 2
    low = rng.uniform(*high_pass_hz)
    high = min(log_uniform(rng, *low_pass_hz), nyquist)
    knots = np.linspace(0.0, nyquist, 8)
    grid = np.linspace(0.0, nyquist, 65)
    decibels = np.interp(grid, knots, rng.uniform(-equaliser_db, equaliser_db, len(knots)) / 2)
    decibels -= np.where(grid < low, 24.0, 0.0) + np.where(grid > high, 40.0, 0.0)
    taps = scipy.signal.firwin2(FILTER_TAPS, grid, 10 ** (decibels / 20), fs=rate)
    return same_power(scipy.signal.oaconvolve(samples, taps, mode="same"), samples)


def add_echo(samples: np.ndarray, rng: np.random.Generator, seconds: float, direct_db: float, rate: int) -> np.ndarray:
    """A synthetic room: exponentially dying noise after the direct sound. Same length.

    seconds: time in which the echo falls by 60 dB; direct_db: power of the direct sound over that of the echo.
    """
    length = max(2, int(seconds * rate))
    time = np.arange(length) / rate
    tail = rng.standard_normal(length) * 10 ** (-3 * time / seconds)
    tail[: int(0.002 * rate)] = 0.0  # the first wall is some way off
    tail *= 10 ** (-direct_db / 20) / max(np.sqrt(np.sum(tail**2)), 1e-9)
    tail[0] = 1.0
    return same_power(scipy.signal.oaconvolve(samples, tail)[: len(samples)], samples)


def add_noise(samples: np.ndarray, rng: np.random.Generator, noise_db: float, colour: float) -> np.ndarray:
    """Adds noise `noise_db` dB below the signal; `colour` 0 is white, 1 pink (power falls as 1/f), between is between."""
    size = scipy.fft.next_fast_len(len(samples), real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-colour / 2)
    noise = scipy.fft.irfft(spectrum, size)[: len(samples)]
    return samples + same_power(noise, samples) * 10 ** (-noise_db / 20)


def same_power(changed: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`changed`, scaled to the mean power of `reference`; silence stays silence."""
    power = np.mean(np.square(changed, dtype=np.float64))
    return changed * np.sqrt(np.mean(np.square(reference, dtype=np.float64)) / power) if power > 0 else changed


def mask_spectrogram(frames: np.ndarray, rng: np.random.Generator, bands: int = 2, widest_band: int = 14, gaps: int = 2,
                     longest_gap: float = 0.1) -> np.ndarray:
    """SpecAugment (Park et al., 2019): hides `bands` random frequency bands and `gaps` random stretches of time behind the mean.

    By hand, though torchaudio and funasr have such masks: theirs draw from torch's generator, and a row's disturbance is a function of its own `rng`.

    frames: (T, bins). A gap lasts at most `longest_gap` of T. Returns a new array of the same shape.
    """
    frames = frames.copy()
    mean, (length, bins) = frames.mean(), frames.shape
    for _ in range(bands):
        width = int(rng.integers(0, widest_band + 1))
        start = int(rng.integers(0, bins - width + 1))
        frames[:, start : start + width] = mean
    for _ in range(gaps):
        width = int(rng.integers(0, int(longest_gap * length) + 1))
        start = int(rng.integers(0, length - width + 1))
        frames[start : start + width] = mean
    return frames
