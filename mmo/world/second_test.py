"""A second test that no choice of the recipe has seen: other questions in the two test voices, other pictures.

    python -m mmo.world.second_test          # needs flite and Festival; prints both tests side by side, writes runs/tiny/second_test.json

Recipes were chosen with figures of the first test in view (docs/next.md tells of each), so that test may flatter the model.  Here everything is drawn
anew from the same plans: of tier `sentence`, questions that no row of data/tiny asks aloud and pictures whose caption none of its pictures has.
(As text the Thinker has read such sentences, those of the first test, too.)
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from .. import measures
from ..checkpoint import latest_weights
from ..evaluation import accuracy, exactly
from ..examination import SIZES, Candidate, Exam, Item, of_tier
from ..profiles import Profile, profile, run_dir
from . import pictures, plan, rows, speech

PROGRAMS = ("flite", "text2wave")  # rms, and kal
SEED = 100  # of the first plan that is drawn; the shipped rows are of seeds 0 and 1
PLANS = 20  # the world is small, and plans repeat each other: these have 126 new questions, and 40 have no more


def shipped(data_dir: Path, task: str, role: str) -> set[str]:
    """What is asked ("user") or answered ("assistant") in any row of a task."""
    found = set()
    for path in data_dir.glob(f"{task}-*.parquet"):
        for conversation in pq.read_table(path, columns=["conversations"])["conversations"].to_pylist():
            found |= {turn["content"] for turn in json.loads(conversation) if turn["role"] == role}
    return found


def drawn(wanted: Callable[[int], Iterator], count: int, seed: int) -> list:
    """What `wanted` finds in PLANS plans, one after the other, each once and at most `count`."""
    found: dict[str, object] = {}
    for number in range(seed, seed + PLANS):
        if len(found) < count:
            for name, each in wanted(number):
                found.setdefault(name, each)
    return list(islice(found.values(), count))


def new_questions(data_dir: Path, count: int, seed: int = SEED) -> list[plan.Rendering]:
    """Questions to be spoken, the test voices by turns; fewer than `count` where the world has no more."""
    known = shipped(data_dir, "a2a", "user")

    def of_plan(number: int) -> Iterator:
        return ((r.question, r) for r in plan.question_plan(number) if r.split == "test" and r.tier == "sentence" and r.question not in known)

    chosen = drawn(of_plan, count, seed)
    return [replace(each, id=n, voice=plan.TEST_VOICES[n % 2]) for n, each in enumerate(chosen)]


def new_pictures(data_dir: Path, count: int, seed: int = SEED) -> list[pictures.Picture]:
    """Pictures to be drawn."""
    known = shipped(data_dir, "i2t", "assistant")

    def of_plan(number: int) -> Iterator:
        planned = (p for p in pictures.picture_plan(number, training=0) if p.split == "test" and p.tier == "sentence")
        return ((p.scene.caption, p) for p in planned if p.scene.caption not in known)

    return drawn(of_plan, count, seed)


def spoken(rendering: plan.Rendering) -> Item:
    """A question as the shipped rows hold it: 16 kHz, Ogg Opus."""
    samples = speech.tidy(*speech.synthesise(rendering, "questions", 0), 16_000)
    sound = rows.opus(samples, 16_000, rows.QUESTION_LEVEL)
    return Item(rendering.question, rendering.answer, rendering.tier, rendering.kind, rendering.voice, question_sound=sound)


def shown(picture: pictures.Picture) -> Item:
    """A picture as the shipped rows hold it."""
    caption = picture.scene.facts()[0]
    question = random.Random(picture.drawing).choice(caption.questions)
    return Item(question, caption.answer, picture.tier, caption.kind, "", picture=pictures.webp(picture.draw()))


def ask(exam: Exam, candidate: Candidate, questions: Sequence[Item], seen: Sequence[Item], what: str) -> dict:
    """Shares of right answers, as the profile asks and without its several hearings and looks."""
    answers = candidate.answer(exam.heard_prompts(questions), f"{what}: questions", speech=False)
    right = [measures.same_words(answer.text, item.truth) for answer, item in zip(answers, questions, strict=True)]
    told = exactly(candidate.texts(exam.seen_prompts(seen), f"{what}: pictures"), seen)
    once = candidate.texts(exam.sound_prompts(exam.hear(questions)), f"{what}: one hearing")
    glance = candidate.texts(exam.picture_prompts(seen, exam.see(seen)), f"{what}: one look")
    return {
        "questions": len(questions),
        "answer_accuracy": measures.share(right),
        "answer_accuracy_interval": measures.share_interval(right, exam.seed),
        "answer_accuracy_by_voice": {
            voice: measures.share([hit for hit, item in zip(right, questions) if item.voice == voice]) for voice in plan.TEST_VOICES
        },
        "questions_written_right": measures.share([measures.same_words(answer.heard, item.question) for answer, item in zip(answers, questions)]),
        "answer_accuracy_one_hearing": accuracy(once, questions),
        "pictures": len(seen),
        "exact_match": measures.share(told),
        "exact_match_interval": measures.share_interval(told, exam.seed),
        "exact_match_one_look": measures.share(exactly(glance, seen)),
    }  # fmt: skip


def both(settings: Profile, run: Path, count: int, seed: int = SEED) -> dict:
    """The first test and the second, asked of the same weights in one go.  Raises FileNotFoundError where nobody can speak the questions."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise FileNotFoundError(f"the test voices are spoken by flite and Festival (with its voice kal), and there is no {' and no '.join(missing)}: install them")
    weights, which = latest_weights(settings, run)
    print(which)
    exam = Exam(settings, SIZES["full"])
    candidate = Candidate(weights, exam)
    with ThreadPoolExecutor(2) as pool:  # the synthesisers are programs of their own
        renderings = new_questions(settings.data_dir, count, seed)
        questions = list(tqdm(pool.map(spoken, renderings), desc="speak the questions", total=len(renderings), unit="question"))
    seen = [shown(each) for each in new_pictures(settings.data_dir, count, seed)]
    first = [measures.spread(of_tier(items, "sentence"), count) for items in (exam.asked, exam.shown)]
    return {"seed": seed, "first": ask(exam, candidate, *first, "first test"), "second": ask(exam, candidate, questions, seen, "second test")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="questions, and pictures, at most")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--run", type=Path, help="folder of the run whose weights are asked; default runs/tiny, else the shipped ones")
    options = parser.parse_args()
    settings = profile("tiny")
    run = options.run or run_dir(settings, "full")
    found = both(settings, run, options.count, options.seed)
    run.mkdir(parents=True, exist_ok=True)
    (run / "second_test.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{'':30} {'first test':>20} {'second test':>20}")
    for key in found["first"]:
        print(f"{key:30}", *(f"{str(found[test][key]):>20}" for test in ("first", "second")))


if __name__ == "__main__":
    main()
