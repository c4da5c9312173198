"""The tiny world's language: tiers are a line that nothing crosses, and every question has one answer."""

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from mmo.world import plan, text

TIERS = {"train", "sentence", "pair", "fact"}


@pytest.fixture(scope="module")
def facts():
    rng = random.Random(5)
    scenes = (fact for _ in range(3000) for fact in text.random_scene(rng).facts())
    return [*text.closed_facts(), *text.open_facts(rng, 6000), *scenes]


@pytest.fixture(scope="module")
def answers():
    return plan.answer_plan()


@pytest.fixture(scope="module")
def questions():
    return plan.question_plan()


def plain(sentence):
    return " ".join(text.words(sentence))


def test_a_sentence_has_one_tier_whatever_kind_of_fact_says_it(facts):
    found = defaultdict(set)
    for fact in facts:
        found[plain(fact.answer)].add(text.tier(fact.kind, fact.answer))
    torn = {sentence: tiers for sentence, tiers in found.items() if len(tiers) > 1}
    assert not torn
    assert set().union(*found.values()) == TIERS


def test_tiers_are_stable():
    """They are drawn from a hash of the words: no change of Python, order or seed may move them."""
    shown = [
        ("plus", "Three plus four is seven."), ("plus", "Zero plus zero is zero."), ("say", "A large purple heart."),
        ("say", "A red circle."), ("opposite", "The opposite of hot is cold."), ("minus", "Ten minus three is seven."),
        ("bigger", "Seven is bigger than two."), ("say", "A small blue star above a large white ring."),
    ]  # fmt: skip
    expected = "train sentence pair train train pair train train".split()
    assert [text.tier(*fact) for fact in shown] == expected
    assert text.tier("say", "A red circle.") == text.tier("say", "a red circle"), "case and signs do not matter"
    counted = Counter(text.tier(fact.kind, fact.answer) for fact in text.closed_facts())
    assert counted == {"train": 1535, "sentence": 251, "fact": 107, "pair": 80}


def test_tier_pair_holds_a_withheld_pair_and_train_none(facts):
    for fact in facts:
        withheld = text.WITHHELD_PAIRS & set(text.pairs(fact.answer))
        tier = text.tier(fact.kind, fact.answer)
        assert bool(withheld) == (tier == "pair") or tier == "fact", (fact, tier)


def test_what_cannot_be_inferred_is_never_held_out(facts):
    assert {text.tier(f.kind, f.answer) for f in facts if f.kind not in text.RULE_KINDS} <= {"train", "pair"}


def test_one_answer_per_question(facts):
    """Questions about a picture are answered by the picture; all others by the world."""
    found = defaultdict(set)
    for fact in facts:
        if fact.kind not in ("caption", "look"):
            for question in fact.questions:
                found[plain(question)].add(fact.answer)
    assert not {question: given for question, given in found.items() if len(given) > 1}
    assert all(fact.questions and fact.answer[-1] in ".?!" and fact.answer[0].isupper() for fact in facts)


def test_one_answer_per_question_about_one_picture():
    rng = random.Random(6)
    for _ in range(500):
        found = defaultdict(set)
        for fact in text.random_scene(rng).facts():
            for question in fact.questions:
                found[question].add(fact.answer)
        assert all(len(given) == 1 for given in found.values())


def test_sentences_are_english_enough():
    assert text.sentence("a orange circle above a orange square") == "An orange circle above an orange square."
    assert text.Scene((text.Thing("", "red", "cross"),), count=3).caption == "Three red crosses."
    assert text.Scene((text.Thing("large", "orange", "star"),)).caption == "A large orange star."


def test_the_world_has_150_to_300_words_all_known_to_the_judge():
    pocketsphinx = pytest.importorskip("pocketsphinx")
    spoken = defaultdict(list)
    dictionary = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        spoken[word.split("(")[0]].append(tuple(phones))
    words = text.world_words()
    assert 150 <= len(words) <= 300
    assert not [word for word in words if word not in spoken]
    alike = defaultdict(set)
    for word in words:
        for phones in spoken[word]:
            alike[phones].add(word)
    clashes = [found for found in alike.values() if len(found) > 1]
    assert clashes == [{"are", "or"}], "only these two, and only where both are slurred"
    assert spoken["are"][0] != spoken["or"][0]


def test_no_famous_homophones():
    words = set(text.world_words())
    for group in ("two to too", "four for fore", "one won", "eight ate", "red read", "blue blew", "see sea", "hear here",
                  "by buy bye", "there their", "right write", "no know", "our hour", "son sun", "hole whole"):  # fmt: skip
        assert len(words & set(group.split())) <= 1, group


def test_world_words_cover_the_plans(answers, questions):
    known = set(text.world_words())
    for rendering in (*answers, *questions):
        assert set(text.words(rendering.spoken)) <= known, rendering


def test_splits_share_no_sentence(answers, questions):
    """Between validation and test, "Say a red circle." and "Say: a red circle." count as different, alike as they sound."""
    for renderings in (answers, questions):
        exact, heard = defaultdict(set), defaultdict(set)
        for rendering in renderings:
            exact[rendering.split].add(rendering.spoken)
            heard[rendering.split].add(plain(rendering.spoken))
        assert not exact["validation"] & exact["test"]
        shared = heard["train"] & (heard["validation"] | heard["test"])
        assert not shared, sorted(shared)[:5]


def test_training_says_tier_train_only(answers, questions):
    for rendering in (*answers, *questions):
        assert rendering.tier == text.tier(rendering.kind, rendering.answer)
        assert (rendering.split == "train") == (rendering.tier == "train"), rendering


def test_held_out_questions_ask_for_answers_never_spoken(answers, questions):
    spoken = {plain(r.answer) for r in (*answers, *questions) if r.split == "train"}
    assert not {plain(r.answer) for r in (*answers, *questions) if r.split != "train"} & spoken


def withheld(sentences):
    return [sentence for sentence in sentences if text.WITHHELD_PAIRS & set(text.pairs(sentence))]


def test_training_answers_never_say_a_withheld_pair(answers):
    assert not withheld(r.spoken for r in answers if r.split == "train")


def test_training_questions_never_say_a_withheld_pair(questions):
    assert not withheld(r.spoken for r in questions if r.split == "train")


def test_tier_sentence_is_made_of_pairs_that_were_spoken_often(answers):
    for voice in plan.ANSWERS:
        said = Counter(pair for r in answers if r.split == "train" and r.voice == voice for pair in text.pairs(r.spoken))
        for rendering in answers:
            if rendering.tier == "sentence":
                rare = [pair for pair in text.pairs(rendering.spoken) if said[pair] < plan.OFTEN]
                assert not rare, (voice, rendering.spoken, rare)


def test_plans_are_as_large_and_as_varied_as_promised(answers, questions):
    worn = Counter((r.voice, r.answer) for r in answers if r.split == "train")
    assert max(worn.values()) <= plan.RENDERINGS_PER_SENTENCE
    tested = Counter(r.tier for r in answers if r.split == "test")
    assert tested == {tier: 2 * count for tier, count in plan.TEST_SENTENCES.items()}
    voices = {split: {r.voice for r in questions if r.split == split} for split in ("train", "validation", "test")}
    assert len(voices["train"]) >= 8 and len(voices["test"]) == 2
    assert not voices["train"] & (voices["test"] | voices["validation"])
    assert [r.id for r in answers] == list(range(len(answers)))


def test_every_training_voice_has_its_turn(questions):
    asked = Counter(r.voice for r in questions if r.split == "train")
    groups = (plan.PEOPLE, plan.PICO_VOICES, plan.KOKORO_VOICES, plan.HIBARI_VOICES, plan.FORMANT_VOICES)
    assert set(asked) == {voice for group in groups for voice in group}
    for group in groups:
        counts = [asked[voice] for voice in group]
        assert max(counts) - min(counts) <= 1, dict(zip(group, counts))
