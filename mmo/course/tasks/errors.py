"""Notebook 11: the word error rate by which hearing is measured, where the sound of an answer begins that thinks first, whose labels a mixed batch holds, and what a pass with frozen parts costs."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import torch
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.sequence import THINK_WINDOW, audio_start, find


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

# --- 11.begins ---------------------------------------------------------------------------------------------------

OPENING, CLOSING = [4, 9], [5, 9, 9]  # "<think>" and its line's end; "</think>", its line's end and an empty line


def sound_begins(text: list[int], first: int, end: int, closing: list[int]) -> int:
    """`mmo.sequence.audio_start`: text holds the answer at first … end - 1, closing the tokens that end a think block."""
    return audio_start(text, (first, end), closing)


def conversation(before: list[int], answer: list[int], behind: list[int]) -> tuple:
    """Arguments: an answer between a prompt and what follows it."""
    return before + answer + behind, len(before), len(before) + len(answer), CLOSING


def begins_cases() -> Sequence[Case]:
    asked, words, said, later = [1, 20, 21, 22, 2, 9, 1, 3, 9], [20, 21, 22], [30, 31, 32, 33], [2, 9]
    block = OPENING + words + CLOSING
    return [
        Case("a block of three words in front of the answer", conversation(asked, block + said, later)),
        Case("an answer without a block", conversation(asked, said, later)),
        Case("an empty block", conversation(asked, OPENING + CLOSING + said, later)),
        Case("an earlier answer that had a block, and one without", conversation(asked + block + said + later + asked, said, later)),
        Case("an answer without a block, and one with a block behind it", conversation(asked, said, later + asked + block + said + later)),
        Case("a block, and an answer that says the closing sign once more", conversation(asked, block + said + CLOSING + said, later)),
        Case("a closing sign without its empty line in the block", conversation(asked, OPENING + [20, 5, 9, 21, *CLOSING] + said, later)),
        Case(f"a closing sign that comes only after {THINK_WINDOW + 10} tokens", conversation(asked, [30] * (THINK_WINDOW + 10) + CLOSING + said, later)),
    ]


def behind_closing(text: list[int], first: int, last: int, closing: list[int], otherwise: int, step: int | None = None) -> int:
    """Behind the first closing that begins in first … last - 1 (or `step` places behind its beginning)."""
    found = find(text, closing, first, last)
    return otherwise if found < 0 else found + (len(closing) if step is None else step)


def behind_the_last(text: list[int], first: int, end: int, closing: list[int]) -> int:
    here = [at for at in range(first, min(end, first + THINK_WINDOW)) if text[at : at + len(closing)] == closing]
    return here[-1] + len(closing) if here else first


def window(first: int, end: int) -> int:
    return min(end, first + THINK_WINDOW)


BEGINS = Exercise(
    id="11.begins",
    title="Where the sound begins",
    difficulty=1,
    importance=3,
    minutes=5,
    looks="One whole number: the place of the first token that is spoken; `first` where nothing is thought before.",
    hints=(
        "Two things may stand in front of what is spoken: nothing, or a block. How do you see that there is one, and which token is the first behind it?",
        f"Try the places first, first + 1, … below both end and first + {THINK_WINDOW}: at the first one where text[at : at + len(closing)] == closing, the block is over.",
        "There return at + len(closing); if the loop ends without one, return first.",
    ),
    reference=sound_begins,
    package_name="mmo.sequence.audio_start",
    cases=begins_cases,
    bugs=(
        Bug("The sound begins with the block: the model would read aloud what it wrote down for itself. It begins behind it.",
            lambda text, first, end, closing: first),
        Bug("The sound begins with the closing sign itself, as many tokens too early as that has: add len(closing).",
            lambda text, first, end, closing: behind_closing(text, first, window(first, end), closing, first, 0)),
        Bug("You stop one token behind the beginning of the closing sign. It has several: the line's end and the empty line belong to it, so add len(closing).",
            lambda text, first, end, closing: behind_closing(text, first, window(first, end), closing, first, 1)),
        Bug("You search the whole text, and find the block of an earlier answer. Search from `first` on.",
            lambda text, first, end, closing: behind_closing(text, 0, window(first, end), closing, first)),
        Bug("You search beyond the answer's end, and find the block of a later one. Stop at `end`.",
            lambda text, first, end, closing: behind_closing(text, first, min(len(text), first + THINK_WINDOW), closing, first)),
        Bug("An answer without a block is not spoken from its first token on. Where there is no closing sign, the sound begins at `first`.",
            lambda text, first, end, closing: behind_closing(text, first, window(first, end), closing, len(closing) - 1)),
        Bug("You take the last closing sign. The first one ends the block; one that comes after it is part of what is said.", behind_the_last),
        Bug("You look for the first token of the closing sign alone. Only all of its tokens in a row end a block.",
            lambda text, first, end, closing: behind_closing(text, first, window(first, end), closing[:1], first, len(closing))),
        Bug(f"You search the whole answer. A block closes within its first {THINK_WINDOW} tokens; a sign that comes later is part of a long answer.",
            lambda text, first, end, closing: behind_closing(text, first, end, closing, first)),
    ),
)

# --- 11.cost -----------------------------------------------------------------------------------------------------


def operations(weights: Tensor, learns: Tensor) -> int:
    """What `torch.utils.flop_counter` counts for one position of a chain of linear layers, forward and backward.

    weights (P,) int64, learns (P,) bool, in the order in which the data flows.  The gradient with respect to a part's input is wanted where
    something in front of it learns.
    """
    behind = (learns.cumsum(0) - learns.long()) > 0
    return int(2 * (weights * (1 + learns.long() + behind.long())).sum())


COST = Exercise(
    id="11.cost",
    title="What freezing saves",
    difficulty=2,
    importance=2,
    minutes=8,
    looks="6 for each weight where all learns (4 in the first part); about 4 where only the first part does; 4 in the last part and 2 in front of it where only the last does.",
    hints=(
        "Forward, each weight multiplies and adds once a position: two operations, whether it learns or not.",
        "Backward there are two products of the same size: one for the gradient of the weights (where they learn), one for the gradient of the part's input.",
        "The input's gradient is wanted only where something in front of the part learns: (learns.cumsum(0) - learns.long()) > 0.",
    ),
    reference=operations,
    package_name="torch.utils.flop_counter",
    cases=lambda: [
        Case("a small part that learns in front of a large frozen one", (torch.tensor([50, 3000]), torch.tensor([True, False]))),
        Case("both learn", (torch.tensor([50, 3000]), torch.tensor([True, True]))),
        Case("only the last of three learns", (torch.tensor([50, 3000, 2000]), torch.tensor([False, False, True]))),
        Case("nothing learns", (torch.tensor([50, 3000]), torch.tensor([False, False]))),
    ],
    bugs=(
        Bug("A frozen part costs only its forward in your count. But the gradient has to get through it to what learns in front of it: two more a weight.",
            lambda weights, learns: int((weights * torch.where(learns, 6, 2)).sum())),
        Bug("Six a weight, learning or not: that is the rule for a model that learns as a whole. A frozen weight needs no gradient of its own.",
            lambda weights, learns: int(6 * weights.sum())),
        Bug("The gradient runs on to the very front. Nobody wants the gradient of the first learning part's input: nothing in front of it learns.",
            lambda weights, learns: int(2 * (weights * (1 + learns.long() + (learns.cumsum(0) > 0).long())).sum())),
        Bug("You count one operation for a weight. It multiplies and adds: two.", lambda weights, learns: operations(weights, learns) // 2),
    ),
)


# --- 11.labels ---------------------------------------------------------------------------------------------------


def label_shares(shares: Tensor, silent: Tensor, written: Tensor, spoken: Tensor) -> Tensor:
    """What a count of the labels of `mmo.data.Batches` comes to: (2, S), each row sums to 1.

    shares, silent (S,): of the rows, and how many of these are silent; written, spoken (S,): labels a row in text, and in each codebook.
    """
    labels = torch.stack((shares * written, shares * (1 - silent) * spoken))
    return labels / labels.sum(dim=1, keepdim=True)


def label_cases() -> Sequence[Case]:
    return [
        Case("three quarters mostly silent, one quarter spoken", tuple(torch.tensor(each) for each in ([0.75, 0.25], [0.85, 0.0], [9.0, 9.0], [26.0, 26.0]))),
        Case("three sources of other lengths", tuple(torch.tensor(each) for each in ([0.5, 0.2, 0.3], [0.5, 0.0, 0.85], [14.0, 9.0, 9.0], [30.0, 26.0, 24.0]))),
    ]


LABELS = Exercise(
    id="11.labels",
    title="Whose labels are they?",
    difficulty=1,
    importance=3,
    minutes=6,
    looks="Two rows that sum to 1: in text the shares are nearly those of the rows, in sound they are not.",
    hints=(
        "In a thousand rows: how many of each source, and how many labels do these bring?",
        "Text: shares · written. Sound: only rows that are not silent bring any, shares · (1 − silent) · spoken.",
        "torch.stack((…, …)), then divide by the sum over the sources, .sum(dim=1, keepdim=True).",
    ),
    reference=label_shares,
    package_name="a count of the labels of mmo.data.Batches",
    cases=label_cases,
    bugs=(
        Bug("Those are labels a row of the batch, not shares: divide each line by its own sum.",
            lambda shares, silent, written, spoken: torch.stack((shares * written, shares * (1 - silent) * spoken))),
        Bug("Silent rows are counted as spoken ones. A silent row has no audio label at all.",
            lambda shares, silent, written, spoken: label_shares(shares, torch.zeros_like(silent), written, spoken)),
        Bug("You count the silent rows for the ones that speak: 1 − silent of the rows bring sound.",
            lambda shares, silent, written, spoken: label_shares(shares, 1 - silent, written, spoken)),
        Bug("Silent rows are left out of the text, too. They are written all the same: that is what they are for.",
            lambda shares, silent, written, spoken: label_shares(shares * (1 - silent), torch.zeros_like(silent), written, spoken)),
        Bug("You divide by the sum over both kinds. Text and sound have a loss each, with a denominator of its own.",
            lambda shares, silent, written, spoken: (lambda labels: labels / labels.sum())(torch.stack((shares * written, shares * (1 - silent) * spoken)))),
    ),
)

EXERCISES = (WORD_ERRORS, BEGINS, COST, LABELS)
