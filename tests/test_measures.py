"""The arithmetic of figures, on cases worked out by hand."""

import numpy as np
import pytest

from mmo import measures
from mmo.measures import word_errors


@pytest.mark.parametrize(
    ("said", "heard", "wer", "inserted", "deleted", "substituted"),
    [
        ("Three plus four is seven.", "three plus four is seven", 0.0, 0, 0, 0),
        ("Three plus four is seven.", "three plus four seven", 0.2, 0, 1, 0),
        ("Three plus four is seven.", "three plus a four was seven", 0.4, 1, 0, 1),
        ("A red circle.", "", 1.0, 0, 3, 0),
        ("Red.", "red red red", 2.0, 2, 0, 0),
    ],
)
def test_word_errors_by_hand(said, heard, wer, inserted, deleted, substituted):
    errors = word_errors([said], [heard])
    assert errors.wer == pytest.approx(wer)
    assert (errors.inserted[0], errors.deleted[0], errors.substituted[0]) == (inserted, deleted, substituted)


def test_the_rate_is_over_all_words_not_over_utterances():
    errors = word_errors(["one two three four", "five"], ["one two three four", "six"])
    assert errors.wer == pytest.approx(1 / 5)
    assert errors.insertions + errors.deletions + errors.substitutions == pytest.approx(errors.wer)


def test_an_empty_text_counts_what_is_heard_as_inserted_and_alone_has_no_rate():
    assert word_errors(["", "one two"], ["three", "one two"]).wer == pytest.approx(0.5)
    alone = word_errors([""], ["three"])
    assert alone.wer is None and alone.interval() is None


def test_word_errors_refuses_unequal_counts():
    with pytest.raises(ValueError, match="1 references for 2"):
        word_errors(["one"], ["one", "two"])


def test_interval_holds_the_rate_is_seeded_and_shrinks_with_more_utterances():
    rng = np.random.default_rng(0)
    errors, sizes = rng.binomial(5, 0.2, 400), np.full(400, 5)
    low, high = measures.interval(errors, sizes)
    assert low < errors.sum() / sizes.sum() < high
    assert measures.interval(errors, sizes) == [low, high] != measures.interval(errors, sizes, seed=1)
    few_low, few_high = measures.interval(errors[:40], sizes[:40])
    assert few_high - few_low > high - low
    # By utterance: whole utterances that go wrong together are less certain than the same errors spread evenly.
    together = np.array([5] * 80 + [0] * 320)
    evenly = np.array([1] * 400)
    width = [np.subtract(*reversed(measures.interval(each, sizes))) for each in (together, evenly)]
    assert width[0] > 0.05 and width[1] == 0


def test_what_belongs_together_is_drawn_together():
    """Each of 100 sentences in two voices that are right or wrong together: as uncertain as 100 sentences, not as 200."""
    hits = np.random.default_rng(0).binomial(1, 0.7, 100).astype(bool)
    once, twice = measures.share_interval(hits), np.concatenate((hits, hits))
    assert measures.share_interval(twice, groups=[*range(100), *range(100)]) == once
    assert np.subtract(*measures.share_interval(twice)[::-1]) < 0.8 * np.subtract(*once[::-1])
    assert measures.share_interval(hits, groups=range(100)) == once, "where all are different nothing changes"


def test_interval_and_share_of_nothing_are_none():
    assert measures.interval(np.zeros(0), np.zeros(0)) is None
    assert measures.share([]) is None and measures.share_interval([]) is None


def test_matching_ignores_case_and_punctuation_and_content_ignores_function_words():
    assert measures.same_words("Nine, eight, seven.", "nine eight seven")
    assert not measures.same_words("The circle is red.", "circle is red")
    assert measures.same_content("The circle is red.", "circle red")
    assert not measures.same_content("The circle is red.", "the circle is blue")
    assert measures.share([True, False, True, True]) == 0.75


def test_spread_is_even_ordered_and_never_more_than_there_is():
    assert measures.spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert measures.spread(range(3), 5) == [0, 1, 2]
    assert measures.spread(range(5), 0) == []


def test_swap_gives_another_truth_of_the_same_group():
    truths, groups = ["One.", "one", "Two.", "Three."], ["a", "a", "a", "b"]
    partners = measures.swap(truths, groups)
    assert partners[0] == partners[1] == 2 and partners[2] in (0, 1) and partners[3] is None
    for place, other in enumerate(measures.swap([str(["one", "two", "three"][n % 3]) for n in range(30)])):
        assert other % 3 != place % 3


def test_early_stops_are_measured_against_the_pace_of_recorded_speech():
    pace = measures.frames_per_letter(["one two", "three four five"], [12, 26])  # 6 and 13 letters
    assert pace == pytest.approx(2.0)
    assert measures.stopped_early("one two", 7, pace) and not measures.stopped_early("one two", 8, pace)
    assert not measures.stopped_early("", 0, pace)
    with pytest.raises(ValueError, match="no spoken text"):
        measures.frames_per_letter([""], [4])
