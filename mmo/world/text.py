"""The language of the tiny world: every fact it knows, as questions and one answer each.

A *fact* has one answer sentence and a few ways to ask for it. Everything else in the world is made from facts:
the Thinker's text, the spoken answers, the spoken questions, and (through `Scene`) the pictures.

Tiers (`tier`) say what a held-out figure means. They depend on the answer sentence alone, so that every trained
part, the frozen ones included, draws the same line:

    train      may be written, spoken and drawn anywhere
    sentence   known as text; the sentence is never spoken (and the picture never drawn) in training
    pair       holds a word pair that is never spoken in training; known as text
    fact       in no text, no speech and no picture of the training set

No two words of the world sound alike ("two" is there, so "to" is not): the judge can tell every word from every other.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
           "seventeen eighteen nineteen twenty").split()
SIZES = ("small", "", "large")
COLOURS = "red blue green yellow orange purple pink black white".split()
SHAPES = "circle square triangle star heart diamond cross ring moon".split()
RELATIONS = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
THINGS = "apples books cats dogs birds cups balls coins".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()

OPPOSITES = [("hot", "cold"), ("big", "little"), ("fast", "slow"), ("day", "night"), ("happy", "sad"), ("old", "young"),
             ("open", "closed"), ("up", "down"), ("wet", "dry"), ("hard", "soft"), ("full", "empty"), ("loud", "quiet"),
             ("light", "dark"), ("early", "late"), ("long", "short")]

COLOUR_OF = {"sky": "blue", "grass": "green", "snow": "white", "banana": "yellow", "strawberry": "red", "carrot": "orange",
             "coal": "black", "plum": "purple", "lemon": "yellow", "leaf": "green"}
SOUND_OF = {"dog": "barks", "cat": "purrs", "cow": "moos", "duck": "quacks", "lion": "roars", "bird": "sings"}
LEGS_OF = {"dog": 4, "cat": 4, "bird": 2, "spider": 8, "horse": 4, "duck": 2, "cow": 4, "fish": 0}
SIDES_OF = {"triangle": 3, "square": 4}
CHAT = [  # answer, questions
    ("Hello! How can I help you?", ("Hello.", "Good morning.", "Good evening.", "Hello, Mini.")),
    ("My name is Mini.", ("What is your name?", "Tell me your name.")),
    ("I am Mini, a small model that can hear, see and speak.", ("Who are you?", "What are you?")),
    ("I can hear, see and speak.", ("What can you do?", "Tell me what you can do.")),
    ("You are welcome.", ("Thank you.", "Thank you very much.")),
    ("Goodbye! See you soon.", ("Goodbye.", "Good night.")),
    ("I am fine, thank you.", ("How are you?", "How are you today?")),
    ("I was made by hand.", ("Who made you?", "How were you made?")),
    ("I was made in a weekend.", ("How long did it take?", "When were you made?")),
    ("I live in your computer.", ("Where do you live?", "Where are you?")),
    ("My favourite colour is blue.", ("What is your favourite colour?",)),
    ("My favourite number is seven.", ("What is your favourite number?",)),
    ("A week has seven days.", ("How many days has a week?",)),
    ("A year has twelve months.", ("How many months has a year?",)),
    ("A hand has five fingers.", ("How many fingers has a hand?",)),
    ("The moon is white.", ("What colour is the moon?",)),
    ("The sun is yellow.", ("What colour is the sun?",)),
]

# Never spoken in training, in questions or answers: the tier `pair`. Lower case, without punctuation.
WITHHELD_PAIRS = frozenset({
    ("purple", "heart"), ("green", "star"), ("orange", "cross"), ("pink", "moon"), ("black", "ring"), ("red", "diamond"),
    ("plus", "six"), ("twelve", "plus"), ("minus", "three"), ("sixteen", "minus"), ("than", "eleven"), ("eight", "apples"),
})
# Kinds whose answers follow from a rule; only these can be held out as facts (nothing else says what "hot" opposes).
RULE_KINDS = frozenset({"plus", "minus", "bigger", "smaller", "have", "say", "where", "caption", "look", "count", "after", "before"})
SHARE_FACT, SHARE_SENTENCE = 5, 12  # per cent of answer sentences


@dataclass(frozen=True)
class Fact:
    """One thing the world knows: `kind`, the `answer` sentence, and the `questions` that ask for it."""

    kind: str
    answer: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Thing:
    """A drawn thing: `size` in SIZES ("" is the middle one), `colour` in COLOURS, `shape` in SHAPES."""

    size: str
    colour: str
    shape: str

    @property
    def name(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape) if word)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one thing; two in a `relation` (first `relation` second); or `count` equal things."""

    things: tuple[Thing, ...]
    relation: str = ""
    count: int = 1

    @property
    def caption(self) -> str:
        first = self.things[0]
        if self.count > 1:
            return sentence(f"{NUMBERS[self.count]} {first.name}s" if first.shape != "cross" else f"{NUMBERS[self.count]} {first.name}es")
        if self.relation:
            return sentence(f"a {first.name} {self.relation} a {self.things[1].name}")
        return sentence(f"a {first.name}")

    def facts(self) -> list[Fact]:
        """Questions about the picture, the caption first; each has one answer."""
        found = [Fact("caption", self.caption, ("What do you see?", "Tell me what you see.", "What is in the picture?"))]
        if self.count > 1:
            return found
        if not self.relation:
            thing = self.things[0]
            found.append(Fact("look", sentence(f"the {thing.shape} is {thing.colour}"), (f"What colour is the {thing.shape}?",)))
            return found
        first, second = self.things
        if first.shape != second.shape:
            for thing in self.things:
                found.append(Fact("look", sentence(f"the {thing.shape} is {thing.colour}"), (f"What colour is the {thing.shape}?",)))
            found.append(Fact("look", sentence(f"the {first.shape} is {self.relation} the {second.shape}"),
                              (f"Where is the {first.shape}?",)))
            found.append(Fact("look", sentence(f"the {second.shape} is {RELATIONS[self.relation]} the {first.shape}"),
                              (f"Where is the {second.shape}?",)))
        return found


def sentence(text: str) -> str:
    """First letter in upper case, a full stop at the end; "a orange" becomes "an orange"."""
    text = re.sub(r"\b([Aa]) (?=orange\b)", r"\1n ", text)
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + "."


def words(text: str) -> list[str]:
    """The words of a sentence as a judge would write them: lower case, no punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def pairs(text: str) -> list[tuple[str, str]]:
    """Adjacent word pairs, the sentence's edges included as "<s>" and "</s>"."""
    padded = ["<s>", *words(text), "</s>"]
    return list(zip(padded, padded[1:]))


def tier(kind: str, answer: str) -> str:
    """Which tier an answer sentence belongs to: "train", "sentence", "pair" or "fact". A pure function of the text."""
    draw = int.from_bytes(hashlib.sha256(" ".join(words(answer)).encode()).digest()[:4], "big") % 100
    if kind not in RULE_KINDS:
        return "pair" if WITHHELD_PAIRS & set(pairs(answer)) else "train"
    if draw < SHARE_FACT:
        return "fact"
    if WITHHELD_PAIRS & set(pairs(answer)):
        return "pair"
    return "sentence" if draw < SHARE_FACT + SHARE_SENTENCE else "train"


def number_facts() -> Iterator[Fact]:
    """Sums and differences to twenty, comparisons, neighbours, counting, small stories."""
    n = NUMBERS
    for a, b in itertools.product(range(21), repeat=2):
        if a + b <= 20:
            yield Fact("plus", sentence(f"{n[a]} plus {n[b]} is {n[a + b]}"),
                       (f"What is {n[a]} plus {n[b]}?", f"How much is {n[a]} plus {n[b]}?", f"Add {n[a]} and {n[b]}."))
        if a >= b:
            yield Fact("minus", sentence(f"{n[a]} minus {n[b]} is {n[a - b]}"),
                       (f"What is {n[a]} minus {n[b]}?", f"How much is {n[a]} minus {n[b]}?", f"Take {n[b]} from {n[a]}."))
        if a > b:
            yield Fact("bigger", sentence(f"{n[a]} is bigger than {n[b]}"),
                       (f"Which is bigger, {n[a]} or {n[b]}?", f"Which is bigger, {n[b]} or {n[a]}?"))
            yield Fact("smaller", sentence(f"{n[b]} is smaller than {n[a]}"),
                       (f"Which is smaller, {n[a]} or {n[b]}?", f"Which is smaller, {n[b]} or {n[a]}?"))
    for a in range(20):
        yield Fact("after", sentence(f"{n[a + 1]} comes after {n[a]}"), (f"What comes after {n[a]}?", f"Which number comes after {n[a]}?"))
        yield Fact("before", sentence(f"{n[a]} comes before {n[a + 1]}"), (f"What comes before {n[a + 1]}?", f"Which number comes before {n[a + 1]}?"))
    for a, length in itertools.product(range(20), range(3, 7)):
        if a + length <= 21:
            run = [n[i] for i in range(a, a + length)]
            yield Fact("count", sentence(", ".join(run)), (f"Count from {run[0]} until {run[-1]}.",))
            run = run[::-1]
            yield Fact("count", sentence(", ".join(run)), (f"Count down from {run[0]} until {run[-1]}.",))
    for a, b, thing in itertools.product(range(1, 11), range(1, 11), THINGS):
        if 2 <= a + b <= 20:
            have = f"{n[a]} {thing if a > 1 else thing[:-1]}"
            yield Fact("have", sentence(f"you have {n[a + b]} {thing}"),
                       (f"I have {have} and get {n[b]} more. How many {thing} have I?",))


def knowledge_facts() -> Iterator[Fact]:
    """Opposites, colours, sounds, legs, days, months and Mini itself."""
    for a, b in OPPOSITES:
        for x, y in ((a, b), (b, a)):
            yield Fact("opposite", sentence(f"the opposite of {x} is {y}"), (f"What is the opposite of {x}?", f"Tell me the opposite of {x}."))
    for thing, colour in COLOUR_OF.items():
        yield Fact("colour", sentence(f"the {thing} is {colour}"), (f"What colour is the {thing}?", f"Tell me the colour of the {thing}."))
    for animal, sound in SOUND_OF.items():
        yield Fact("sound", sentence(f"a {animal} {sound}"), (f"What does a {animal} do?", f"What sound does a {animal} make?"))
    for animal, legs in LEGS_OF.items():
        yield Fact("legs", sentence(f"a {animal} has {NUMBERS[legs]} legs"), (f"How many legs has a {animal}?",))
    for shape, sides in SIDES_OF.items():
        yield Fact("sides", sentence(f"a {shape} has {NUMBERS[sides]} sides"), (f"How many sides has a {shape}?",))
    for cycle, name in ((DAYS, "day"), (MONTHS, "month")):
        for here, following in zip(cycle, cycle[1:] + cycle[:1]):
            yield Fact(name, f"{following} comes after {here}.", (f"What comes after {here}?", f"Which {name} comes after {here}?"))
            yield Fact(name, f"{here} comes before {following}.", (f"What comes before {following}?", f"Which {name} comes before {following}?"))
    for answer, questions in CHAT:
        yield Fact("chat", answer, questions)


def random_thing(rng: random.Random) -> Thing:
    return Thing(rng.choice(SIZES), rng.choice(COLOURS), rng.choice(SHAPES))


def random_scene(rng: random.Random, kinds: tuple[str, ...] = ("one", "two", "two", "count")) -> Scene:
    """A scene drawn at random; two things always differ in colour and in shape, so that a question has one answer."""
    kind = rng.choice(kinds)
    first = random_thing(rng)
    if kind == "one":
        return Scene((first,))
    if kind == "count":
        return Scene((Thing("", first.colour, first.shape),), count=rng.randint(2, 5))
    second = Thing(rng.choice(SIZES), rng.choice([c for c in COLOURS if c != first.colour]),
                   rng.choice([s for s in SHAPES if s != first.shape]))
    return Scene((first, second), relation=rng.choice(list(RELATIONS)))


def say_fact(scene: Scene) -> Fact:
    """Reading aloud: the answer repeats what the question says."""
    text = scene.caption
    inner = text[0].lower() + text[1:]
    return Fact("say", text, (f"Say: {inner}", f"Say {inner}"))


def where_fact(scene: Scene) -> Fact:
    """Turning a relation round: what is on the other side?"""
    first, second = scene.things
    back = RELATIONS[scene.relation]
    question = sentence(f"a {first.name} is {scene.relation} a {second.name}")
    return Fact("where", sentence(f"the {second.colour} {second.shape} is {back} the {first.colour} {first.shape}"),
                (f"{question} Where is the {second.shape}?",))


def closed_facts() -> list[Fact]:
    """Every fact of the kinds that can be listed (numbers, knowledge, Mini itself)."""
    return [*number_facts(), *knowledge_facts()]


def open_facts(rng: random.Random, count: int) -> list[Fact]:
    """`count` different facts of the kinds that are drawn: reading captions aloud and turning relations round."""
    found: dict[str, Fact] = {}
    while len(found) < count:
        scene = random_scene(rng)
        fact = where_fact(scene) if scene.relation and rng.random() < 0.35 else say_fact(scene)
        found.setdefault(fact.questions[0], fact)
    return list(found.values())


def world_words() -> list[str]:
    """All words of the tiny world, sorted: what the judge's grammar loops over."""
    rng = random.Random(0)
    found: set[str] = set()
    for fact in [*closed_facts(), *open_facts(rng, 4000), *(f for _ in range(4000) for f in random_scene(rng).facts())]:
        found.update(words(fact.answer))
        for question in fact.questions:
            found.update(words(question))
    return sorted(found)
