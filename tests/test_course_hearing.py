"""Notebook 02's stand-ins are what the rented frontend really computes, and a sound can be heard again from its mel frames."""

from __future__ import annotations

import pytest
import torch

from mmo.course.exercises import find, judge
from mmo.course.tasks import hearing
from mmo.speech_encoder import HOP, SAMPLE_RATE, STACK, STRIDE, WINDOW, auto_model, resynthesise


def noise(samples: int) -> torch.Tensor:
    return 0.02 + 0.1 * hearing.drawn(samples, seed=samples)


def log_mel(wave: torch.Tensor) -> torch.Tensor:
    """(N,) -> (T, 80), by the two stand-ins."""
    spectrum = torch.fft.rfft(hearing.windows(wave, WINDOW, HOP), n=512).abs().square()
    return (spectrum @ hearing.mel_bank(80, 512, SAMPLE_RATE, 20.0)).clamp(min=torch.finfo(torch.float32).eps).log()


@pytest.fixture(scope="module")
def frontend():
    """funasr's own, with numbers in place of a file's."""
    auto_model()
    from funasr.frontends.wav_frontend import WavFrontend

    made = WavFrontend(lfr_m=STACK, lfr_n=STRIDE, dither=0.0)
    made.cmvn = torch.stack((torch.linspace(-12, -5, 560), torch.linspace(0.2, 0.5, 560)))
    return made


@pytest.mark.parametrize("samples", [400, 1_000, 16_000, 20_321])
def test_windows_bank_stack_and_normalise_are_the_frontend(frontend, samples):
    wave = noise(samples)
    stacked = hearing.stack(log_mel(wave), STACK, STRIDE)
    ours = hearing.normalise(stacked, *frontend.cmvn)
    theirs, lengths = frontend(wave[None], [samples])
    assert ours.shape == theirs[0].shape and lengths.tolist() == [len(ours)]
    torch.testing.assert_close(ours, theirs[0], atol=2e-3, rtol=0)


def test_mel_bank_is_kaldis():
    import torchaudio.compliance.kaldi as kaldi

    theirs, _ = kaldi.get_mel_banks(80, 512, SAMPLE_RATE, 20.0, 0.0, 100.0, -500.0, 1.0)
    torch.testing.assert_close(hearing.mel_bank(80, 512, SAMPLE_RATE, 20.0)[:-1], theirs.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames", range(1, 40))
def test_stack_is_apply_lfr(frames):
    auto_model()
    from funasr.frontends.wav_frontend import apply_lfr

    x = hearing.numbered(frames, 3)
    assert torch.equal(hearing.stack(x, STACK, STRIDE), apply_lfr(x, STACK, STRIDE))


def test_stack_and_log_mel_are_the_trainings():
    from mmo.world import train_speech_encoder as training

    wave = noise(9_000)
    torch.testing.assert_close(log_mel(wave), training.log_mel(wave), atol=2e-3, rtol=0)
    x = hearing.numbered(31, 4)
    assert torch.equal(hearing.stack(x, STACK, STRIDE), torch.from_numpy(training.stack(x.numpy())))


def test_a_sound_can_be_heard_again_from_its_mel_frames():
    """Two tones come back where they were, as loud as they were; twice the same frames, twice the same sound."""
    time = torch.arange(16_000) / SAMPLE_RATE
    wave = 0.2 * torch.sin(2 * torch.pi * 440 * time) + 0.1 * torch.sin(2 * torch.pi * 2_500 * time)
    again = resynthesise(log_mel(wave))
    assert len(again) == (len(time) - WINDOW) // HOP * HOP + WINDOW
    assert torch.equal(again, resynthesise(log_mel(wave)))
    spectrum = torch.fft.rfft(again[: len(again) // 2 * 2]).abs()
    hertz = torch.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    low, high = (hertz[(spectrum * (hertz > start) * (hertz < end)).argmax()] for start, end in ((0, 1_000), (1_500, 4_000)))
    assert abs(low - 440) < 60 and abs(high - 2_500) < 150
    assert again.std() / wave.std() == pytest.approx(1.0, abs=0.35)
    assert (log_mel(again) - log_mel(wave)[: len(log_mel(again))]).abs().median() < 1.5


def from_the_middle_of_nowhere(frames, width, stride):
    """A loop that begins at the frame itself."""
    padded = torch.cat((frames, frames[-1:].expand(width, -1)))
    return torch.stack([padded[n : n + width].flatten() for n in range(0, len(frames), stride)])


def normalise_in_place(frames, shift, scale):
    frames += shift
    frames *= scale
    return frames


@pytest.mark.parametrize("id, wrong, words", [
    ("02.windows", lambda wave, size, hop: hearing.windows(wave / 32768, size, hop), "times 32768"),
    ("02.windows", lambda wave, size, hop: wave, "the shape is (30,), wanted (6, 8)"),
    ("02.mel_bank", lambda bands, size, rate, low: hearing.mel_bank(bands, size, rate, low).T, "the shape is"),
    ("02.stack", from_the_middle_of_nowhere, "only looks ahead"),
    ("02.normalise", normalise_in_place, "argument 1 was changed in place"),
    ("02.collapse", lambda best, blank: [int(best[0])] + [int(b) for a, b in zip(best, best[1:]) if a != b and b != blank], "wanted"),
    ("02.collapse", lambda best, blank: torch.unique_consecutive(best[best != blank]).tolist(), "Blanks were dropped first"),
])  # fmt: skip
def test_mistakes_written_by_hand_are_diagnosed(id, wrong, words):
    verdict = judge(find(id), wrong)
    assert verdict.kind == "wrong" and words in verdict.words
