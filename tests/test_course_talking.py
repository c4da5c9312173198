"""Notebook 13: what its exercises are compared with is what torch and the package compute, a player waits as it should, and recordings are like their own voice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmo.course.clinic import Ward
from mmo.course.exercises import judge
from mmo.course.tasks import talking
from mmo.examination import of_tier
from mmo.profiles import profile


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_codes_in_play_are_exp_of_torchs_entropy(temperature):
    logits = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0))
    entropy = torch.distributions.Categorical(logits=logits / temperature).entropy()
    torch.testing.assert_close(talking.in_play(logits, temperature), entropy.exp())


def test_equal_chances_are_all_in_play_and_cold_ones_are_one():
    assert talking.in_play(torch.zeros(576), 0.7).item() == pytest.approx(576, rel=1e-5)
    assert talking.in_play(torch.arange(9.0), 1e-3).item() == pytest.approx(1)


def test_a_portrait_is_wholly_like_itself():
    portraits = torch.randn(3, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for number, portrait in enumerate(portraits):
        found = talking.likeness(portrait, portraits)
        assert found[number].item() == pytest.approx(1) and found.argmax() == number


def test_recordings_are_like_the_voice_that_spoke_them():
    """Other answers than those that the portraits are taken from, through the codec; silence is like nobody."""
    ward = Ward(profile("tiny"))
    for voice in ward.voices:
        for item in [item for item in of_tier(ward.said, "sentence") if item.voice == voice][1:4]:
            found = ward.likeness(ward.codec.decode(item.codes[None])[0, 0].numpy())
            assert found[voice] > 0.3 > max(value for name, value in found.items() if name != voice), (voice, item.truth, found)
    assert set(ward.likeness(torch.zeros(0).numpy()).values()) == {0.0}


def test_voices_are_known_by_their_vectors_where_rows_name_none():
    """As in `mini`; a voice that nobody recorded speaks has no portrait."""
    ward = Ward(profile("tiny"))
    named = ward.portraits
    other = Ward(profile("tiny"))
    other.said = [replace(item, voice="") for item in ward.said]
    other.voices = ward.voices | {"stranger": torch.full_like(next(iter(ward.voices.values())), 0.5)}
    assert list(other.portraits) == list(named)
    for voice, portrait in named.items():
        assert (other.portraits[voice] == portrait).all(), voice


def test_a_wait_puts_off_what_comes_behind_it():
    """By hand, in ms.  The second piece is 70 late, and so leaves the third more time; with 70 held back nobody hears a gap."""
    ready, lengths = [100.0, 250.0, 300.0], [80.0, 80.0, 160.0]
    assert talking.WAITS.reference(ready, lengths, 0.0) == [0.0, 70.0, 0.0]
    assert talking.WAITS.reference(ready, lengths, 70.0) == [0.0, 0.0, 0.0]


def slow_player(ready, lengths, head_start):
    """Millisecond by millisecond, as nobody would write it: another right way."""
    found, now, number = [], ready[0] + head_start, 0
    while number < len(ready):
        still = 0.0
        while now < ready[number]:
            now, still = now + 1.0, still + 1.0
        found, now, number = [*found, still], now + lengths[number], number + 1
    return found


def cumulated(ready, lengths, head_start):
    """Due times by cumsum, all at once: the mistake of the first plan, written in another way."""
    due = np.cumsum([ready[0] + head_start, *lengths[:-1]])
    return [float(wait) for wait in np.maximum(0, np.asarray(ready) - due)]


def test_a_player_in_steps_of_a_millisecond_passes_and_one_that_never_puts_off_is_told_so():
    assert judge(talking.WAITS, slow_player).passed
    verdict = judge(talking.WAITS, cumulated)
    assert "first plan" in verdict.words and verdict.picture.png.startswith(b"\x89PNG")
