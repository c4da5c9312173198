"""Augmented sound: the same seed gives the same sound, the input is left alone, and each step does what its name says."""

import numpy as np
import pytest
import torch

from mmo.augmentation import (
    Masked,
    add_echo,
    add_noise,
    augment,
    change_speed,
    disturb,
    filter_at_random,
    mask_spectrogram,
    mask_stacked,
    silence_a_stretch,
)
from mmo.config import Augmentation, Masks
from mmo.features import frozen_speech
from mmo.profiles import mini, tiny

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def peak_hertz(samples: np.ndarray, rate: int = RATE) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


def power(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


def test_the_seed_decides_and_the_input_stays():
    samples = tone(440)
    before = samples.copy()
    first, second = (augment(samples, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = augment(samples, np.random.default_rng(4))
    assert first.shape != other.shape or np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize("seed", range(30))
def test_every_draw_is_usable_sound(seed):
    changed = augment(tone(300, 0.5, 24_000), np.random.default_rng(seed), source_rate=24_000)
    assert changed.dtype == np.float32 and changed.ndim == 1
    assert np.isfinite(changed).all() and np.abs(changed).max() <= 1.0 and power(changed) > 1e-6
    assert 0.5 / 1.26 * RATE <= len(changed) <= 0.5 / 0.79 * RATE


def test_all_shares_zero_changes_nothing_but_the_gain():
    still = Augmentation(speed_share=0, filter_share=0, echo_share=0, noise_share=0, gain_db=(-6.0, -6.0))
    samples = tone(500)
    np.testing.assert_allclose(augment(samples, np.random.default_rng(0), still), samples * 10 ** (-6 / 20), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("source_rate", [RATE, 24_000])
def test_speed_moves_pitch_and_length(factor, source_rate):
    changed = change_speed(tone(440, 1.0, source_rate), factor, source_rate, RATE)
    assert len(changed) == pytest.approx(RATE / factor, abs=2)
    assert peak_hertz(changed) == pytest.approx(440 * factor, abs=2)


def test_noise_has_the_asked_level_and_colour():
    samples, rng = tone(440, 4.0), np.random.default_rng(0)
    for decibels in (5.0, 20.0):
        noise = add_noise(samples, rng, decibels, 0.0) - samples
        assert 10 * np.log10(power(samples) / power(noise)) == pytest.approx(decibels, abs=0.1)
    pink = np.abs(np.fft.rfft(add_noise(samples, rng, 10.0, 1.0) - samples)) ** 2
    octaves = [pink[4 * f : 8 * f].sum() for f in (500, 1000, 2000)]  # pink noise: the same power in every octave
    assert max(octaves) / min(octaves) < 1.3


def test_a_filter_keeps_length_and_power_and_mutes_the_top():
    samples = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    changed = filter_at_random(samples, np.random.default_rng(1), 6.0, (3_000.0, 3_001.0), (0.0, 0.0), RATE)
    assert changed.shape == samples.shape and power(changed) == pytest.approx(power(samples), rel=1e-3)
    spectrum = np.abs(np.fft.rfft(changed)) ** 2
    assert spectrum[4_000:].mean() < 0.01 * spectrum[:2_500].mean()


def test_an_echo_rings_on_after_a_click():
    click = np.zeros(RATE, np.float32)
    click[1000] = 1.0
    changed = add_echo(click, np.random.default_rng(0), 0.3, 3.0, RATE)
    assert changed.shape == click.shape
    assert np.argmax(np.abs(changed)) == 1000 and power(changed[:1000]) < 1e-12
    assert power(changed[1100:1500]) > 10 * power(changed[3500:3900]) > 0


def test_masks_hide_bands_and_stretches_only():
    frames = np.random.default_rng(0).standard_normal((100, 80)).astype(np.float32)
    before = frames.copy()
    masked = mask_spectrogram(frames, np.random.default_rng(2))
    np.testing.assert_array_equal(frames, before)
    hidden = masked != frames
    rows, columns = hidden.all(1), hidden.all(0)
    assert 0 < hidden.mean() < 0.6 and rows.sum() <= 20 and columns.sum() <= 28
    np.testing.assert_array_equal(hidden, rows[:, None] | columns[None])


@pytest.mark.parametrize(("samples", "message"), [
    (np.zeros(0, np.float32), "at least one sample"), (np.zeros((2, 9), np.float32), "shape"), (np.zeros(9, np.int16), "32768"),
    (np.array([0.0, np.nan]), "NaN"),
])
def test_bad_sound_is_named(samples, message):
    with pytest.raises(ValueError, match=message):
        augment(samples, np.random.default_rng(0))


def test_silence_stays_silence():
    loud = Augmentation(speed_share=1, filter_share=1, echo_share=1, noise_share=1)
    assert not augment(np.zeros(RATE, np.float32), np.random.default_rng(0), loud).any()


# --- What is hidden ------------------------------------------------------------------------------------------------------

ALWAYS = Masks(silence_share=1.0, share=1.0)


def test_without_masks_a_question_is_disturbed_as_ever_and_features_made_before_are_still_known():
    """tiny was trained without: the words of its settings are part of what names its stored features."""
    samples = tone(440)
    np.testing.assert_array_equal(disturb(samples, np.random.default_rng(3)), augment(samples, np.random.default_rng(3)))
    assert "mask" not in str(Augmentation()).lower() and str(tiny().augmentation) == str(Augmentation())
    assert mini().augmentation.masks is not None and "Masks(" in str(mini().augmentation)
    assert str(Augmentation(masks=Masks(bands=1))) != str(Augmentation(masks=Masks(bands=2)))


def test_a_silence_is_as_long_as_said_and_the_rest_stays():
    samples = tone(440) + 1.0  # never zero
    changed = silence_a_stretch(samples, np.random.default_rng(0), 0.2, RATE)
    (silent,) = np.nonzero(changed == 0)
    assert len(silent) == 0.2 * RATE and silent[-1] - silent[0] + 1 == len(silent), "one stretch"
    np.testing.assert_array_equal(np.delete(changed, silent), np.delete(samples, silent))
    assert (silence_a_stretch(samples[:100], np.random.default_rng(0), 9.0, RATE) == 0).sum() == 50, "never more than half"


def test_shares_say_how_often_something_is_hidden():
    kinds = [type(disturb(tone(300, 0.2), np.random.default_rng(seed), Augmentation(masks=Masks(share=0.5)))) for seed in range(60)]
    assert 15 < kinds.count(Masked) < 45
    assert not any(isinstance(disturb(tone(300, 0.2), np.random.default_rng(n), Augmentation(masks=Masks(share=0.0))), Masked) for n in range(20))


def test_bands_are_the_same_in_all_seven_stacked_frames():
    """The frontend stacks seven frames of 80 mel bins: a hidden bin is hidden in each of them."""
    frames = np.random.default_rng(0).standard_normal((40, 560)).astype(np.float32)
    hidden = mask_stacked(frames, Masked(tone(300), 5, Masks(bands=2, gaps=0)))
    changed = (hidden != frames).reshape(40, 7, 80)
    assert hidden.shape == frames.shape and 0 < changed.any((0, 1)).sum() <= 28
    assert (changed.all((0, 1)) == changed.any((0, 1))).all(), "hidden throughout or not at all"
    gaps = (mask_stacked(frames, Masked(tone(300), 5, Masks(bands=0, gaps=2))) != frames).all(axis=1)
    assert 0 < gaps.sum() <= 8, "two gaps of a tenth each, at most"


class HalvedEar:
    """An encoder in two halves: features are the stacked frames themselves."""

    def frames(self, waves):
        lengths = torch.tensor([len(wave) // 960 for wave in waves])
        frames = torch.zeros(len(waves), int(lengths.max()), 560)
        for row, (wave, length) in enumerate(zip(waves, lengths.tolist())):
            frames[row, :length] = torch.from_numpy(np.resize(wave, (length, 560)))
        return frames, lengths

    def encode_frames(self, frames, lengths):
        return frames, lengths

    def encode(self, waves):
        return self.encode_frames(*self.frames(waves))


def test_only_the_sounds_that_are_to_be_masked_are():
    """Between frontend and encoder, each by its own seed, its neighbours untouched and none beyond its own length."""
    frozen = frozen_speech(HalvedEar, 560, "halves")
    short, long = tone(300, 0.5), tone(440, 1.0)
    plain = frozen.encode([short, long])
    mixed = frozen.encode([short, Masked(long, 7, ALWAYS)])
    np.testing.assert_array_equal(mixed[0], plain[0])
    assert mixed[1].shape == plain[1].shape and (mixed[1] != plain[1]).any()
    again = frozen.encode([Masked(long, 7, ALWAYS)])[0]
    np.testing.assert_array_equal(again, mixed[1])
    assert (frozen.encode([Masked(long, 8, ALWAYS)])[0] != again).any()
