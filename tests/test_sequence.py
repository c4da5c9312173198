"""The nine streams: delay and back, every edge of the layout, prompts that are the beginning of training rows."""

import pytest
import torch

from mmo.config import IGNORE, ModelConfig
from mmo.sequence import Markers, audio_start, build_prompt, build_row, delay, find_assistant_ranges, frames, undelay

CONFIG = ModelConfig(audio_vocab_size=576, audio_pad_token=513, audio_stop_token=514, audio_spk_token=515)
PAD, STOP, SPEAKER = 513, 514, 515
MARKERS = Markers(assistant=(1, 7, 5), end=(2, 5), think_end=(6, 5, 5))
QUESTION = [1, 9, 5, 30, 31, 2, 5]
ANSWER = [1, 7, 5, 40, 41, 42, 2, 5]  # its text starts at 3
START = len(QUESTION) + 3


def codes(F, seed=0, Q=8):
    return torch.randint(0, 512, (Q, F), generator=torch.Generator().manual_seed(seed))


def row(F=4, text=None, **options):
    return build_row(text or QUESTION + ANSWER, codes(F) if F else None, CONFIG, MARKERS, **options)


# --- Delay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("Q", [1, 2, 8])
@pytest.mark.parametrize("F", [0, 1, 3, 20])
def test_delay_then_undelay_is_the_identity(F, Q):
    original = codes(F, Q=Q)
    delayed = delay(original, PAD, STOP)
    assert delayed.shape == (Q, F + Q)
    assert torch.equal(undelay(delayed, STOP), original)
    assert torch.equal(undelay(delayed)[:, :F], original)


def test_delay_picture():
    """The staircase of the module's docstring."""
    assert delay(torch.tensor([[1, 2], [3, 4], [5, 6]]), 0, 9).tolist() == [
        [1, 2, 9, 0, 0],
        [0, 3, 4, 9, 0],
        [0, 0, 5, 6, 9],
    ]


def test_undelay_gives_whole_frames_only():
    """While streaming, Q - 1 positions more than frames have been seen; fewer give no frame."""
    delayed = delay(codes(6), PAD, STOP)
    for seen in range(14):
        assert undelay(delayed[:, :seen]).shape == (8, max(0, seen - 7))
    assert torch.equal(undelay(delayed[:, :10]), codes(6)[:, :3])


def test_any_codebooks_stop_ends_the_frames():
    original = codes(6)
    original[3, 4] = STOP
    assert torch.equal(undelay(delay(original, PAD, STOP), STOP), original[:, :4])


def test_frames_are_whole_and_in_range():
    assert torch.equal(frames(list(range(16))), torch.arange(16).view(2, 8).T)
    assert frames([]).shape == (8, 0)
    with pytest.raises(ValueError, match="15 codes are no whole number of frames of 8"):
        frames(range(15))
    with pytest.raises(ValueError, match=r"0\.\.512 leave the range 0\.\.511"):
        frames([0] * 7 + [512], num_codes=512)


@pytest.mark.parametrize("wanted", [4, 2, 16])
def test_rows_of_eight_are_not_cut_into_frames_of_another_size(wanted):
    """16 codes are as well four whole frames of four: nothing but the file's own size tells them apart."""
    with pytest.raises(ValueError, match=rf"hold 8 codes a frame; cut by {wanted} .* frames\(flat\)\[:{wanted}\]"):
        frames(list(range(16)), wanted)
    assert torch.equal(frames(list(range(16)))[:4, 1], torch.arange(8, 12)), "the way that the message names"


# --- Finding the answer ------------------------------------------------------------------------------------------------


def test_ranges_of_all_answers():
    text = QUESTION + ANSWER + QUESTION + ANSWER
    assert find_assistant_ranges(text, MARKERS.assistant, MARKERS.end) == [(10, 13), (25, 28)]
    assert find_assistant_ranges(text[:12], MARKERS.assistant, MARKERS.end) == [(10, 12)]
    assert find_assistant_ranges(QUESTION, MARKERS.assistant, MARKERS.end) == []
    assert find_assistant_ranges([], MARKERS.assistant, MARKERS.end) == []


@pytest.mark.parametrize("thoughts, found", [(0, True), (49, True), (50, False)])
def test_think_block_must_begin_to_end_within_50_tokens(thoughts, found):
    text = [1, 7, 5] + [33] * thoughts + [6, 5, 5, 40, 2, 5]
    answer = find_assistant_ranges(text, MARKERS.assistant, MARKERS.end)[0]
    assert audio_start(text, answer, MARKERS.think_end) == (3 + thoughts + 3 if found else 3)
    assert audio_start(text, answer, ()) == 3


# --- Rows --------------------------------------------------------------------------------------------------------------


def test_code_k_of_frame_f_sits_at_start_1_k_f():
    built = row(F=4)
    for k in range(8):
        for f in range(4):
            position = START + 1 + k + f
            if position < built.input_ids.shape[1]:  # the very last position is no input, only a label
                assert built.input_ids[k, position] == codes(4)[k, f]
            assert built.audio_labels[k, position - 1] == codes(4)[k, f]
        assert built.audio_labels[k, START + k + 4] == STOP
        assert (built.audio_labels[k] != IGNORE).sum() == 5
    assert built.stop_cut == 0


def test_labels_answer_their_inputs():
    """Shifted by one: label t is input t + 1 wherever it is learnt, and nothing outside the answer is."""
    built = row(F=4, ref_codes=codes(3, seed=1), has_speaker=True)
    for labels, ids in ((built.text_labels[None], built.input_ids[8:]), (built.audio_labels, built.input_ids[:8])):
        learnt = labels[:, :-1] != IGNORE
        assert torch.equal(labels[:, :-1][learnt], ids[:, 1:][learnt])
    assert built.text_labels[: START - 1].eq(IGNORE).all()
    assert built.text_labels[START - 1 : START + 4].tolist() == [40, 41, 42, 2, 5]  # with <|im_end|> and newline
    assert built.text_labels[START + 4 :].eq(IGNORE).all()
    assert built.audio_labels[:, :START].eq(IGNORE).all()
    assert built.text_length == START + 4


def test_row_is_as_long_as_text_and_sound_need():
    assert row(F=4).input_ids.shape == (9, START + 1 + 4 + 8 - 1)
    assert row(F=0).input_ids.shape == (9, len(QUESTION + ANSWER) - 1)
    assert row(F=4, max_length=16).input_ids.shape == (9, 15)
    assert row(F=4, max_length=100).input_ids.shape == (9, START + 1 + 4 + 8 - 1)
    padded = row(F=4, max_length=100, pad=True)
    assert padded.input_ids.shape == (9, 99)
    assert padded.input_ids[:8, 30:].eq(PAD).all() and padded.input_ids[8, 30:].eq(0).all()
    assert padded.text_length == row(F=4).text_length
    with pytest.raises(ValueError, match="needs max_length"):
        row(pad=True)


def test_reference_is_right_aligned_and_its_end_kept():
    reference = codes(3, seed=1)
    ids = row(ref_codes=reference, has_speaker=True).input_ids
    assert torch.equal(ids[:8, START - 3 : START], reference)
    assert ids[:8, START - 4].eq(SPEAKER).all() and ids[:8, : START - 4].eq(PAD).all()
    long = codes(50, seed=2)
    ids = row(ref_codes=long, has_speaker=True).input_ids
    assert ids[:8, 0].eq(SPEAKER).all() and torch.equal(ids[:8, 1:START], long[:, 51 - START :])
    ids = row(ref_codes=long).input_ids
    assert torch.equal(ids[:8, :START], long[:, 50 - START :])
    ids = row(has_speaker=True).input_ids
    assert ids[:8, START - 1].eq(SPEAKER).all()


def test_no_sound_no_voice():
    built = row(F=0, ref_codes=codes(3), has_speaker=True)
    assert built.input_ids[:8].eq(PAD).all() and built.audio_labels.eq(IGNORE).all()
    assert built.stop_cut == 0 and (built.text_labels != IGNORE).sum() == 5


@pytest.mark.parametrize("max_length", range(START, 30))
def test_cut_stops_are_counted(max_length):
    """At every cut: as many stops are counted lost as are not in the labels, and what is left is the uncut row's."""
    whole, cut = row(F=4), row(F=4, max_length=max_length)
    length = cut.input_ids.shape[1]
    assert cut.stop_cut == 8 - int((cut.audio_labels == STOP).sum())
    assert torch.equal(cut.input_ids, whole.input_ids[:, :length])
    assert torch.equal(cut.audio_labels, whole.audio_labels[:, :length])
    assert torch.equal(cut.text_labels, whole.text_labels[:length])
    assert not cut.answer_cut


def test_answer_behind_the_cut_leaves_nothing_to_learn():
    """Its codes must not be laid on an earlier answer."""
    text = QUESTION + ANSWER + QUESTION + ANSWER
    built = row(text=text, max_length=20)
    assert built.answer_cut and built.stop_cut == 8
    assert built.text_labels.eq(IGNORE).all() and built.audio_labels.eq(IGNORE).all()
    assert built.input_ids[:8].eq(PAD).all() and built.input_ids[8].tolist() == text[:19]
    assert built.text_length == 0
    assert row(text=text, max_length=20, pad=True).input_ids.shape == (9, 19)


def test_only_the_last_answer_is_learnt():
    built = row(text=QUESTION + ANSWER + QUESTION + ANSWER)
    assert built.text_labels[:24].eq(IGNORE).all() and (built.text_labels != IGNORE).sum() == 5
    assert built.audio_labels[:, :25].eq(IGNORE).all() and built.audio_labels[0, 25] == codes(4)[0, 0]


def test_conversation_without_answer_is_refused():
    with pytest.raises(ValueError, match="no assistant turn"):
        row(text=QUESTION)


def test_a_code_like_pad_is_still_learnt():
    """Labels follow positions, not values: nothing is lost where a code equals a special id."""
    odd = torch.full((8, 2), PAD)
    built = build_row(QUESTION + ANSWER, odd, CONFIG, MARKERS)
    assert (built.audio_labels == PAD).sum() == 16


# --- Prompts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("think", [[], [8, 5, 6, 5, 5]], ids=["plain", "empty think block"])
@pytest.mark.parametrize("reference", [0, 3, 50])
@pytest.mark.parametrize("has_speaker", [False, True])
def test_prompt_is_the_beginning_of_the_training_row(think, reference, has_speaker):
    """The same functions lay out both, so decoding is fed what training was fed."""
    voice = {"ref_codes": codes(reference, seed=1) if reference else None, "has_speaker": has_speaker}
    text = QUESTION + [1, 7, 5] + think
    prompt = build_prompt(text, CONFIG, **voice)
    trained = row(text=text + [40, 41, 42, 2, 5], **voice).input_ids
    assert prompt.shape == (9, len(text))
    assert torch.equal(prompt, trained[:, : len(text)])
    assert trained[:8, len(text)].eq(PAD).all()  # beside the first token of text there is no sound yet


def test_prompt_without_room_has_no_voice():
    assert build_prompt([], CONFIG, ref_codes=codes(3), has_speaker=True).shape == (9, 0)
    assert build_prompt([5], CONFIG, ref_codes=codes(3), has_speaker=True)[:8, 0].eq(SPEAKER).all()
