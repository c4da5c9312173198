"""Notebook 11: the word error rate, by which hearing is measured."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer

from mmo.course.exercises import Bug, Case, Exercise


def word_errors(wanted: list[str], heard: list[str]) -> int:
    """What `mmo.measures.word_errors` counts: jiwer's insertions, deletions and substitutions."""
    if not wanted:
        return len(heard)
    found = jiwer.process_words(" ".join(wanted), " ".join(heard))
    return found.insertions + found.deletions + found.substitutions


def cases() -> Sequence[Case]:
    pairs = {
        "everything heard": ("two plus two is four", "two plus two is four"),
        "one word misheard": ("two plus two is four", "two plus ten is four"),
        "the first word lost": ("two plus two is four", "plus two is four"),
        "a word too many": ("a red circle", "a small red circle"),
        "lost, misheard and added": ("the sky is blue today", "sky was blue very"),
        "nothing heard": ("hello there", ""),
        "a word said once and heard twice, far off": ("red blue green", "green red blue"),
    }
    return [Case(name, (wanted.split(), heard.split())) for name, (wanted, heard) in pairs.items()]


def by_place(wanted: list[str], heard: list[str]) -> int:
    """Compares the n-th with the n-th."""
    return sum(one != other for one, other in zip(wanted, heard)) + abs(len(wanted) - len(heard))


def as_a_bag(wanted: list[str], heard: list[str]) -> int:
    left = list(heard)
    for word in wanted:
        if word in left:
            left.remove(word)
    missing = len(wanted) - (len(heard) - len(left))
    return max(missing, len(left))


def without_insertions(wanted: list[str], heard: list[str]) -> int:
    if not wanted or not heard:
        return len(wanted)
    found = jiwer.process_words(" ".join(wanted), " ".join(heard))
    return found.deletions + found.substitutions


def double_substitution(wanted: list[str], heard: list[str]) -> int:
    """Only insertions and deletions: a substitution costs two."""
    rows = [[0] * (len(heard) + 1) for _ in range(len(wanted) + 1)]
    for i, one in enumerate(wanted):
        for j, other in enumerate(heard):
            rows[i + 1][j + 1] = rows[i][j] + 1 if one == other else max(rows[i][j + 1], rows[i + 1][j])
    return len(wanted) + len(heard) - 2 * rows[-1][-1]


WORD_ERRORS = Exercise(
    id="11.word_errors",
    title="Word errors",
    difficulty=2,
    importance=3,
    minutes=15,
    points=4,
    looks="The least number of words to insert, delete or replace; 0 where all is heard, len(wanted) where nothing is.",
    hints=(
        "Fill a table: row i, column j holds the errors between the first i wanted and the first j heard words. Its edges are 0, 1, 2, …",
        "A cell is the least of: the one above + 1 (a word lost), the one to the left + 1 (a word added), the one above left + (0 if the words are equal, else 1).",
        "One row at a time is enough: row = [i, …]; row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (wanted[i - 1] != heard[j - 1])).",
    ),
    reference=word_errors,
    package_name="mmo.measures.word_errors",
    cases=cases,
    bugs=(
        Bug("You compare word n with word n. One word lost at the start then makes every later word wrong; the two must be aligned.", by_place),
        Bug("Order does not matter in your count. \"green red blue\" has all the words of \"red blue green\", and is not what was said.", as_a_bag),
        Bug("Words that were added cost nothing. A judge who babbles would score well.", without_insertions),
        Bug("A misheard word costs two, one lost and one added. A replacement is one error.", double_substitution),
    ),
)

EXERCISES = (WORD_ERRORS,)
