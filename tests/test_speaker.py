"""Whose voice it is: CAM++ with drawn weights, in the real layout."""

import judges
import numpy as np
import pytest
import torch

from mmo.speaker import OUTPUT, SpeakerEncoder, similarity


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return judges.write_speaker_encoder(tmp_path_factory.mktemp("speaker") / "campplus_cn_common.bin")


@pytest.fixture(scope="module")
def encoder(path):
    return SpeakerEncoder.load(path)


def voice(pitch: float, seconds: float = 1.5, rate: int = 16_000, level: float = 0.2) -> np.ndarray:
    """A tone with overtones that come and go."""
    time = np.arange(int(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9)) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
    return (level * wave / np.abs(wave).max()).astype(np.float32)


def test_the_same_sound_is_the_same_voice(encoder):
    one, again, other = encoder.vectors([(voice(120), 16_000), (voice(120), 16_000), (voice(260), 16_000)])
    assert one.shape == (192,) == (encoder.dim,) and np.isfinite(one).all()
    assert similarity(one, again) == pytest.approx(1.0, abs=1e-6)
    assert similarity(one, other) < 0.999 and similarity(one, other) == pytest.approx(similarity(other, one))


def test_rate_and_level_hardly_matter(encoder):
    one, resampled, quiet, other = encoder.vectors(
        [(voice(120), 16_000), (voice(120, rate=24_000), 24_000), (voice(120, level=0.02), 16_000), (voice(260), 16_000)]
    )
    for same in (resampled, quiet):
        assert similarity(one, same) > similarity(one, other)


def test_vectors_are_those_of_funasrs_own_inference(encoder, path):
    """What a person gets who loads the file with funasr and hands it the same sound."""
    from funasr.models.campplus.model import CAMPPlus

    theirs = CAMPPlus().eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        found, _ = theirs.inference([torch.from_numpy(voice(180))], device="cpu")
    ours = encoder.vectors([(voice(180), 16_000)])[0]
    assert np.allclose(ours, found[0]["spk_embedding"][0].numpy(), atol=1e-5)


def test_neighbours_of_other_lengths_do_not_matter(encoder):
    sounds = [(voice(120, 0.7), 16_000), (voice(200, 2.5), 16_000)]
    assert np.array_equal(encoder.vectors(sounds)[0], encoder.vectors(sounds[:1])[0])


def test_too_little_to_hear_has_no_voice(encoder):
    silent = [(np.zeros(0, np.float32), 16_000), (np.zeros(32_000, np.float32), 16_000), (voice(120, 0.3), 16_000)]
    assert encoder.vectors(silent) == [None, None, None]
    with pytest.raises(ValueError, match="finite samples"):
        encoder.vectors([(np.full(16_000, np.nan), 16_000)])


def test_cosines_by_hand():
    assert similarity(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == 0.0
    assert similarity(np.array([1.0, 1.0]), np.array([-3.0, -3.0])) == pytest.approx(-1.0)
    assert similarity(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.5**0.5)
    with pytest.raises(ValueError, match="one speaker encoder"):
        similarity(np.ones(192), np.ones(256))
    with pytest.raises(ValueError, match="all zeros"):
        similarity(np.ones(3), np.zeros(3))


def test_what_is_missing_or_no_such_model_is_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="mmo fetch speaker-encoder"):
        SpeakerEncoder.load(tmp_path / "campplus_cn_common.bin")
    wrong = tmp_path / "wrong.bin"
    torch.save({"weight": torch.ones(2)}, wrong)
    with pytest.raises(ValueError, match=rf"no CAM\+\+: it has no {OUTPUT}"):
        SpeakerEncoder.load(wrong)
    state = torch.load(path, weights_only=True)
    lost = next(name for name in state if name.endswith("conv1.weight"))
    torch.save({name: value for name, value in state.items() if name != lost}, wrong)
    with pytest.raises(ValueError, match=f"missing .*{lost}"):
        SpeakerEncoder.load(wrong)
    torch.save(state | {lost: torch.full_like(state[lost], torch.nan)}, wrong)
    with pytest.raises(ValueError, match="not finite"):
        SpeakerEncoder.load(wrong)


def test_counters_of_training_may_be_missing_and_random_states_stay(path, encoder, tmp_path):
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, tmp_path / "plain.bin")
    before = torch.get_rng_state()
    plain = SpeakerEncoder.load(tmp_path / "plain.bin")
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(plain.vectors([(voice(120), 16_000)])[0], encoder.vectors([(voice(120), 16_000)])[0])
