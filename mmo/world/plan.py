"""What the tiny world says: which sentences, in which voices, in which split. Pure and seeded; nothing is synthesised here.

A *rendering* is one sentence to be spoken once. `answer_plan` spreads the spoken answers over the two answer voices
and over word pairs as evenly as it can; `question_plan` spreads the spoken questions over many voices.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from . import text

# Who asks in training: in turn one of three voices of people, one of a synthesiser that learnt from people, and eSpeak NG, whose variants are many throats.
PEOPLE = ("joe", "slt", "awb")
PICO_VOICES = ("pico-us+100", "pico-gb+100", "pico-us+65", "pico-gb+65", "pico-us+140", "pico-gb+140")  # accent, pitch in percent
KOKORO_VOICES = (  # "alpha+kumo" is half the one and half the other
    "kokoro-kumo", "kokoro-alpha", "kokoro-alpha+kumo", "kokoro-gongitsune", "kokoro-gongitsune+kumo", "kokoro-nezumi",
    "kokoro-nezumi+kumo", "kokoro-tebukuro", "kokoro-tebukuro+kumo", "kokoro-alpha+nezumi", "kokoro-gongitsune+tebukuro",
)
HIBARI_VOICES = ("hibari+100", "hibari+88", "hibari+115")  # size of the throat: pitch and formants in percent
FORMANT_VOICES = (
    "en-us+m3", "en-us+f2", "en-gb+m7", "en-gb+f4", "en-gb-scotland+m1", "en-us+f5", "en-029+m5", "en-gb-x-rp+f1", "en-us+m8",
    "en-us+klatt2", "en-gb+klatt4", "en-us+Alex", "en-gb-x-gbcwmd+m2", "en-us+linda", "en-gb-x-gbclan+m6", "en-us-nyc+steph", "en-us+paul",
    "en-gb-scotland+f3", "en-us+Gene", "en-us-nyc+Michael", "en-gb-x-rp+edward", "en-us+belinda", "en-029+f2", "en-us+victor",
    "en-gb+Annie", "en-us+klatt", "en-gb-x-rp+Lee",
)
VALIDATION_VOICE = "en-gb+m4"
TEST_VOICES = ("rms", "kal")  # rms: a voice never heard; kal: from Festival's diphone synthesiser, absent from training

ANSWERS = {"joe": 10_500, "slt": 10_500}
ANSWER_RATES = (1.0, 1.1)  # of training: a voice has its pace; held-out answers are spoken at 1.05
QUESTIONS = 6_600
TEST_SENTENCES = {"sentence": 320, "pair": 160, "fact": 160}
VALIDATION_SENTENCES = 160
HELD_OUT_QUESTIONS = (("test", "sentence", 300), ("test", "pair", 60), ("test", "fact", 60), ("validation", "sentence", 100))
OFTEN = 8  # a word pair counts as "spoken often" from this many training renderings on
RENDERINGS_PER_SENTENCE = 6  # of one sentence in one voice, at most

# Share of the spoken answers by kind; the kinds that can be listed are small and must not be worn out.
SHARES = {"plus": 9, "minus": 9, "bigger": 6, "smaller": 6, "count": 6, "after": 1, "before": 1, "have": 5, "opposite": 2,
          "day": 1, "month": 1, "colour": 1, "sound": 1, "legs": 1, "sides": 0.2, "chat": 1.5, "say": 22, "where": 11, "look": 6}


@dataclass(frozen=True)
class Rendering:
    """One sentence spoken once: `voice` at `rate` (1.0 is the voice's own pace), `seed` for synthesisers that draw."""

    id: int
    split: str  # train, validation or test
    tier: str
    kind: str
    voice: str
    rate: float
    seed: int
    question: str
    answer: str
    spoken: str  # the one of the two that is said


class Facts:
    """All listed facts and a supply of drawn ones, by kind and tier, without repeats."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.closed: dict[str, list[text.Fact]] = {}
        for fact in text.closed_facts():
            self.closed.setdefault(fact.kind, []).append(fact)

    def draw(self, kind: str) -> text.Fact:
        """One fact of `kind`, any tier."""
        if kind in self.closed:
            return self.rng.choice(self.closed[kind])
        if kind == "say":
            return text.say_fact(text.random_scene(self.rng))
        scene = text.random_scene(self.rng, ("two",))
        return text.where_fact(scene) if kind == "where" else self.rng.choice(scene.facts()[1:])

    def draw_any(self, shares: dict[str, float]) -> text.Fact:
        return self.draw(self.rng.choices(list(shares), weights=list(shares.values()))[0])


def answer_plan(seed: int = 0) -> list[Rendering]:
    """Every spoken answer: training renderings voice by voice, then test and validation in both voices.

    Among eight candidates the one whose word pairs were said least often so far is taken: pairs come out even.
    Validation and test sentences of tier `sentence` are kept only if training says each of their pairs at least OFTEN times.
    """
    plan: list[Rendering] = []
    said: Counter[tuple[str, str]] = Counter()
    for number, (voice, count) in enumerate(ANSWERS.items()):
        rng = random.Random(seed + number)
        facts = Facts(rng)
        worn: Counter[str] = Counter()
        here: Counter[tuple[str, str]] = Counter()
        for _ in range(count):
            candidates = []
            while len(candidates) < 8:
                fact = facts.draw_any(SHARES)
                if text.tier(fact.kind, fact.answer) == "train" and worn[fact.answer] < RENDERINGS_PER_SENTENCE:
                    candidates.append(fact)
            fact = max(candidates, key=lambda f: novelty(f.answer, here))
            worn[fact.answer] += 1
            here.update(text.pairs(fact.answer))
            plan.append(Rendering(len(plan), "train", "train", fact.kind, voice, round(rng.uniform(*ANSWER_RATES), 2),
                                  rng.randrange(2**31), rng.choice(fact.questions), fact.answer, spoken=fact.answer))
        said = here if not said else Counter({p: min(said[p], here[p]) for p in said | here})
    for fact, split, tier in held_out_facts(Facts(random.Random(seed + 9)), said):
        rng = random.Random(fact.answer)
        for voice in ANSWERS:
            plan.append(Rendering(len(plan), split, tier, fact.kind, voice, 1.05, rng.randrange(2**31),
                                  fact.questions[0], fact.answer, spoken=fact.answer))
    return plan


def thinned(plan: list[Rendering], share: float) -> list[Rendering]:
    """The plan with only this share of its training renderings, evenly taken; held-out ones all stay. Ids are kept."""
    return [r for r in plan if r.split != "train" or int(r.id * share) != int((r.id + 1) * share)]


def novelty(answer: str, said: Counter) -> float:
    """Mean over the word pairs of `answer` of 1/(1 + how often it was said): 1 if all are new."""
    found = text.pairs(answer)
    return sum(1 / (1 + said[pair]) for pair in found) / len(found)


def held_out_facts(facts: Facts, said: Counter) -> list[tuple[text.Fact, str, str]]:
    """Validation and test facts with their tier; no sentence twice."""
    wanted = [("test", name, count) for name, count in TEST_SENTENCES.items()] + [("validation", "sentence", VALIDATION_SENTENCES)]
    found: list[tuple[text.Fact, str, str]] = []
    seen: set[str] = set()
    for split, name, count in wanted:
        taken = 0
        while taken < count:
            fact = facts.draw_any(SHARES)
            often = name != "sentence" or all(said[p] >= OFTEN for p in text.pairs(fact.answer))
            if text.tier(fact.kind, fact.answer) == name and fact.answer not in seen and often:
                seen.add(fact.answer)
                found.append((fact, split, name))
                taken += 1
    return found


# Questions that are asked aloud: whatever a listener can answer without a picture, captions kept to one thing.
QUESTION_SHARES = {"plus": 16, "minus": 16, "bigger": 12, "smaller": 12, "after": 3, "before": 3, "count": 6, "have": 8,
                   "opposite": 5, "day": 3, "month": 4, "colour": 2, "sound": 1, "legs": 1, "sides": 0.5, "chat": 4, "say": 12}


def question_voice(number: int) -> str:
    """Who asks training question `number`: PEOPLE, a learnt voice and FORMANT_VOICES in turn; the learnt ones are Pico, Kokoro and Hibari in turn.

    In each group each has its turn.
    """
    if number % 3 == 2:
        return FORMANT_VOICES[(number - number // 3 - 1) % len(FORMANT_VOICES)]  # every second one, round and round: 27 is odd, so each has its turn
    if number % 3 == 0:
        return PEOPLE[number // 3 % len(PEOPLE)]
    group = (PICO_VOICES, KOKORO_VOICES, HIBARI_VOICES)[number // 3 % 3]
    return group[number // 9 % len(group)]


def question_plan(seed: int = 1) -> list[Rendering]:
    """Every spoken question: training in the voices of `question_voice`, validation and test in voices never heard."""
    rng = random.Random(seed)
    facts, plan = Facts(rng), []

    def draw() -> text.Fact:
        fact = facts.draw_any(QUESTION_SHARES)
        return fact if fact.kind != "say" else text.say_fact(text.random_scene(rng, ("one", "count")))

    def add(split: str, tier: str, voice: str, fact: text.Fact, question: str) -> None:
        plan.append(Rendering(len(plan), split, tier, fact.kind, voice, round(rng.uniform(0.9, 1.25), 2),
                              rng.randrange(2**31), question, fact.answer, spoken=question))

    worn: Counter[str] = Counter()
    while len(plan) < QUESTIONS:
        candidates = [f for f in (draw() for _ in range(6)) if text.tier(f.kind, f.answer) == "train"]
        if not candidates:
            continue
        fact = min(candidates, key=lambda f: worn[f.answer])
        question = rng.choice(fact.questions)
        if text.WITHHELD_PAIRS.isdisjoint(text.pairs(question)):  # "I have eight apples …" is answered without saying them again
            worn[fact.answer] += 1
            add("train", "train", question_voice(len(plan)), fact, question)
    asked: set[str] = set()
    for split, name, count in HELD_OUT_QUESTIONS:
        taken, kinds = 0, Counter()
        while taken < count:
            fact = draw()
            question = rng.choice(fact.questions)
            if text.tier(fact.kind, fact.answer) != name or question in asked or kinds[fact.kind] >= 0.35 * count:
                continue
            asked.add(question)
            kinds[fact.kind] += 1
            add(split, name, VALIDATION_VOICE if split == "validation" else TEST_VOICES[taken % 2], fact, question)
            taken += 1
    return plan
