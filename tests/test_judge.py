"""The judge: its files, its ear, and that nothing but the sound and the words decides what it hears."""

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from mmo.judge import RATE, Hearing, Judge, Listener, decode, prepare, pronunciations, word_loop
from mmo.profiles import REPOSITORY

CLIP = Path(__file__).parent / "data" / "sixteen-fifteen-fourteen-thirteen.ogg"  # Piper's voice joe (CC0)
SPOKEN = "sixteen fifteen fourteen thirteen"


@pytest.fixture(scope="module")
def clip():
    samples, rate = soundfile.read(CLIP, dtype="float32")
    assert CLIP.stat().st_size <= 15_000 and rate == 24_000
    return samples, rate


@pytest.fixture(scope="module")
def judge():
    return Judge.from_file(REPOSITORY / "data" / "tiny" / "words.txt")


def test_all_words_are_equally_likely_and_no_pair_is_known():
    lines = word_loop(["one", "two", "three"]).splitlines()
    entries = dict(reversed(line.split()) for line in lines[lines.index("\\1-grams:") + 1 : lines.index("\\end\\") - 1])
    assert entries.pop("<s>") == "-99" and set(entries) == {"</s>", "one", "two", "three"}
    assert len(set(entries.values())) == 1 and 10 ** float(entries["one"]) == pytest.approx(1 / 4, rel=1e-4)
    assert "ngram 1=5" in lines and not any("2-grams" in line for line in lines)


def test_the_dictionary_keeps_variants_and_names_what_it_lacks(tmp_path):
    book = tmp_path / "book.dict"
    book.write_text("a AH\na(2) EY\nan AE N\nred R EH D\n")
    assert pronunciations(["a", "red"], book) == "a AH\na(2) EY\nred R EH D\n"
    with pytest.raises(ValueError, match=r"\(book.dict\) lacks qwzx, zzyzx: choose other words"):
        pronunciations(["zzyzx", "red", "qwzx"], book)


def test_an_unknown_word_is_refused_by_name():
    with pytest.raises(ValueError, match="lacks qwzx"):
        Judge(["one", "qwzx"])
    with pytest.raises(ValueError, match="needs words"):
        Judge([])


def test_missing_words_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="words.txt: the judge's words are missing; `mmo world build`"):
        Judge.from_file(tmp_path / "words.txt")


def test_it_hears_a_sentence_among_all_the_worlds_words(judge, clip):
    assert judge.transcribe([clip]) == [SPOKEN]


def test_order_is_kept_and_nothing_heard_before_matters(judge, clip):
    samples, rate = clip
    noise = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    half = samples[: len(samples) // 2]
    told = []
    heard = judge.transcribe([(half, rate), clip, (noise, rate), clip, (half, rate)], progress=told.append)
    assert heard[1] == heard[3] == SPOKEN and heard[0] == heard[4] != SPOKEN
    assert told == [1] * 5
    assert judge.transcribe([(noise, rate), (half, rate)]) == [heard[2], heard[0]]


def test_scores_depend_on_nothing_heard_before(judge, clip):
    """To the last digit, from the first sound on: words that are barely heard hang on it."""
    samples, rate = clip
    first, second = (prepare(part, rate, judge.hearing) for part in (samples, samples[rate // 2 :]))
    noise = prepare(np.random.default_rng(0).normal(0, 0.3, rate), rate, judge.hearing)
    for own, other in zip(Listener(judge.folder, judge.hearing).decoders, Listener(judge.folder, judge.hearing).decoders):
        scores = [decode(own, pcm) for pcm in (first, second, noise, second, first)]
        assert scores[0] == scores[4] and scores[1] == scores[3]
        assert scores[:3] == [decode(other, pcm) for pcm in (noise, second, first)][::-1]


def test_processes_hear_the_same(judge, clip, monkeypatch):
    samples, rate = clip
    sounds = [clip, (samples[rate:], rate), clip, (np.zeros(rate, np.float32), rate)]
    alone = judge.transcribe(sounds, workers=1)
    monkeypatch.setattr(Judge, "POOL_SECONDS", 0.0)
    assert judge.transcribe(sounds, workers=2) == alone
    assert alone[0] == alone[2] == SPOKEN


def test_a_process_beside_hears_the_same_and_leaves_what_it_has_no_time_for(judge, clip):
    samples, rate = clip
    with judge.beside() as hear:
        first = hear(clip)
        assert first.result(timeout=300) == SPOKEN, "while the block lasts"
        begun = [hear((samples, rate)) for _ in range(200)]
    done = [each for each in begun if not each.cancelled()]
    assert len(done) < len(begun), "the block ends before all are heard"
    assert {each.result() for each in done} <= {SPOKEN}


def test_a_block_that_fails_ends_its_process(judge, clip):
    with pytest.raises(KeyboardInterrupt):
        with judge.beside() as hear:
            left = [hear(clip) for _ in range(50)]
            raise KeyboardInterrupt
    assert left[-1].cancelled()


def test_of_a_process_beside_that_dies_every_later_sound_says_so(judge, clip):
    with judge.beside() as hear:
        assert hear(clip).result(timeout=300) == SPOKEN
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        for _ in range(3):  # on its way when it died, and behind
            assert isinstance(hear(clip).exception(timeout=300), BrokenProcessPool)


def test_level_and_rate_do_not_matter(judge, clip):
    import soxr

    samples, rate = clip
    quiet = samples * 0.01
    narrow = soxr.resample(samples, rate, RATE).astype(np.float32)
    assert judge.transcribe([(quiet, rate), (narrow, RATE)]) == [SPOKEN, SPOKEN]


def test_silence_and_nothing_at_all_are_no_words_and_no_error(judge):
    assert judge.transcribe([]) == []
    assert judge.transcribe([(np.zeros(0, np.float32), 24000), (np.zeros(24000, np.float32), 24000)]) == ["", ""]


def test_prepared_sound_is_16_bit_level_and_framed_by_silence():
    hearing = Hearing(silence=0.1)
    tone = np.sin(np.arange(24000) / 10).astype(np.float32) * 1e-3
    pcm = np.frombuffer(prepare(tone, 24000, hearing), np.int16) / 32767
    edge = round(0.1 * RATE)
    assert len(pcm) == RATE + 2 * edge
    assert not pcm[:edge].any() and not pcm[-edge:].any()
    assert np.sqrt(np.mean(pcm[edge:-edge] ** 2)) == pytest.approx(hearing.level, rel=0.02)


@pytest.mark.parametrize("bad", [np.zeros((2, 100)), np.array([0.0, np.nan])])
def test_sound_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="finite samples in one channel"):
        prepare(bad, 24000, Hearing())
