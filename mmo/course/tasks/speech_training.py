"""Appendix A2: all the ways to write a word (CTC), back from frames to words, and hiding parts of what is heard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_maps


def scores(N: int, V: int, seed: int = 0) -> Tensor:
    """(N, V) log-probabilities."""
    return (2 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


# --- A2.ctc_loss -------------------------------------------------------------------------------------------------


def ctc_loss(log_probs: Tensor, target: list[int]) -> Tensor:
    """log_probs (N, V) with 0 the blank, target of U ids -> minus the logarithm of the probability of all ways to write it.

    What torch's ctc_loss gives; tests hold it against that.  (Torch's own gradient is the one behind a log_softmax, not that of `log_probs`.)
    """
    return forward(log_probs, target)


def ctc_cases() -> Sequence[Case]:
    return [
        Case("3 frames and one word", (scores(3, 3), [2])),
        Case("4 frames and the words 1 2", (scores(4, 3, 1), [1, 2])),
        Case("5 frames and the same word twice, 1 1", (scores(5, 3, 2), [1, 1])),
        Case("6 frames and one word", (scores(6, 3, 4), [2])),
        Case("9 frames and the words 3 1 1 2", (scores(9, 4, 3), [3, 1, 1, 2])),
    ]


def forward(log_probs: Tensor, target: list[int], skip="right", start: int = 2, end: int = 2, best: bool = False, blanks: bool = True,
            wrap: bool = False) -> Tensor:  # fmt: skip
    """The recursion with one of its parts wrong.  skip: "right", "never", "always" (over any state) or "twins" (between equal words too); wrap: from the
    last state to the first."""
    states = [0] + [each for word in target for each in (word, 0)] if blanks else list(target)
    joined = (lambda parts: torch.stack(parts).amax(0)) if best else (lambda parts: torch.stack(parts).logsumexp(0))
    never = torch.tensor(-1e9, dtype=log_probs.dtype)
    alpha = [log_probs[0, state] if s < start else never for s, state in enumerate(states)]
    for n in range(1, len(log_probs)):
        following = []
        for s, state in enumerate(states):
            ways = [alpha[s]] + ([alpha[s - 1]] if s >= 1 or wrap else [])
            allowed = {"right": state != 0 and s >= 2 and state != states[s - 2], "never": False, "always": True, "twins": state != 0}[skip]
            if s >= 2 and allowed:
                ways.append(alpha[s - 2])
            following.append(joined(ways) + log_probs[n, state])
        alpha = following
    return -joined(alpha[-end:])


CTC_LOSS = Exercise(
    id="A2.ctc_loss",
    title="All the ways to write it",
    difficulty=3,
    importance=3,
    minutes=20,
    looks="One number, the same as torch's own. Its gradient is that of your sums (torch's ctc_loss gives one that is right only behind a log_softmax).",
    hints=(
        "Put a blank before, between and behind the words: blank w blank w blank, 2 U + 1 states. alpha[s] is the log-probability of all ways to be in state s after n frames.",
        "First frame: only states 0 and 1 are possible. Then each state is reached from itself, from the one before, and from two before if it is a word unlike the word two before. Ways add up: torch.logsumexp.",
        "alpha = [log_probs[0, states[0]], log_probs[0, states[1]]] + impossible (-1e9) for the rest; for each frame n: new[s] = logsumexp(alpha[s], alpha[s-1] where s > 0, maybe alpha[s-2]) + log_probs[n, states[s]]. The end: minus logsumexp of the last two states.",
    ),
    reference=ctc_loss,
    package_name="torch.nn.functional.ctc_loss",
    cases=ctc_cases,
    bugs=(
        Bug("A word may follow another word at once: a blank between different words is allowed, not needed. You never skip the blank.", lambda log_probs, target: forward(log_probs, target, skip="never")),
        Bug("The same word twice needs a blank between, else the two are heard as one. You skip the blank there too.", lambda log_probs, target: forward(log_probs, target, skip="twins")),
        Bug("You skip over words: a blank may be left out, a word may not.", lambda log_probs, target: forward(log_probs, target, skip="always")),
        Bug("In Python alpha[-1] is the last state: from the end your ways go round to the beginning. The first state is reached from itself alone.", lambda log_probs, target: forward(log_probs, target, wrap=True)),
        Bug("You must begin with a blank: the first frame may be the first word at once.", lambda log_probs, target: forward(log_probs, target, start=1)),
        Bug("You may begin anywhere: in the first frame only the first blank and the first word are possible.", lambda log_probs, target: forward(log_probs, target, start=10**6)),
        Bug("You must end with a blank: the last frame may be the last word as well. Add up the last two states.", lambda log_probs, target: forward(log_probs, target, end=1)),
        Bug("You may end anywhere: only in the last two states everything has been said.", lambda log_probs, target: forward(log_probs, target, end=10**6)),
        Bug("That is the best single way (max). The loss adds up all of them: logsumexp.", lambda log_probs, target: forward(log_probs, target, best=True)),
        Bug("There are no blanks in your states. Without them the same word cannot come twice, and silence has no place.", lambda log_probs, target: forward(log_probs, target, blanks=False, skip="never", start=1, end=1)),
        Bug("The sign: a loss is minus the log-probability.", lambda log_probs, target: -forward(log_probs, target)),
        Bug("The loss is divided by the number of words. That is torch's default (reduction='mean'); here the plain one is wanted.", lambda log_probs, target: forward(log_probs, target) / len(target)),
    ),
    gradients=(0,),
    tolerance=1e-4,
)


# --- A2.greedy ---------------------------------------------------------------------------------------------------


def greedy(log_probs: Tensor) -> list[int]:
    """log_probs (N, V) with 0 the blank -> the words of the likeliest frame-by-frame path: repeats merged, then blanks dropped."""
    path = torch.unique_consecutive(log_probs.argmax(dim=1)).tolist()
    return [token for token in path if token != 0]


def path_scores(*path: int) -> Tensor:
    """(N, 4) log-probabilities whose likeliest path is the one given."""
    return (3.0 * F.one_hot(torch.tensor(path), 4)).log_softmax(-1)


GREEDY = Exercise(
    id="A2.greedy",
    title="From frames to words",
    difficulty=1,
    importance=3,
    minutes=6,
    looks="A short list of word ids: one for each burst, none for blanks.",
    hints=(
        "One id a frame first: the likeliest. Most of them are the blank, 0.",
        "Which comes first, merging neighbours or dropping blanks? Try 2 0 2 and 2 2 both ways.",
        "torch.unique_consecutive(log_probs.argmax(dim=1)).tolist(), then leave out the zeros.",
    ),
    reference=greedy,
    package_name="mmo.speech_encoder.SpeechEncoder.spell",
    cases=lambda: [
        Case("the path 0 1 1 0 3 0", (path_scores(0, 1, 1, 0, 3, 0),)),
        Case("the path 2 2 0 2 1, where 2 was said twice", (path_scores(2, 2, 0, 2, 1),)),
        Case("the path 3 1 3 3 0 0 3", (path_scores(3, 1, 3, 3, 0, 0, 3),)),
        Case("nothing but blanks", (path_scores(0, 0, 0),)),
    ],
    bugs=(
        Bug("Blanks are dropped first, and then neighbours merged: 2 0 2 becomes one 2. The blank is there to keep them apart, so merge first.", lambda log_probs: torch.unique_consecutive((path := log_probs.argmax(dim=1))[path != 0]).tolist()),
        Bug("Repeats are not merged: a word that lasts three frames is written three times.", lambda log_probs: [token for token in log_probs.argmax(dim=1).tolist() if token != 0]),
        Bug("The blanks are still there.", lambda log_probs: torch.unique_consecutive(log_probs.argmax(dim=1)).tolist()),
        Bug("Every word is written once only, and sorted: that is torch.unique. Only neighbours are merged (torch.unique_consecutive).", lambda log_probs: [token for token in torch.unique(log_probs.argmax(dim=1)).tolist() if token != 0]),
    ),
)


# --- A2.hide -----------------------------------------------------------------------------------------------------


def hide(frames: Tensor, bands: list[tuple[int, int]], gaps: list[tuple[int, int]]) -> Tensor:
    """frames (T, M); bands and gaps as (start, width) -> a copy, both set to the mean of all that was there before.

    What `mmo.augmentation.mask_spectrogram` does with the bands and gaps that it draws; tests hold it against that.
    """
    hidden = frames.clone()
    for start, width in bands:
        hidden[:, start : start + width] = frames.mean()
    for start, width in gaps:
        hidden[start : start + width] = frames.mean()
    return hidden


def hide_cases() -> Sequence[Case]:
    frames = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)) + 2
    return [Case("one band and one gap", (frames, [(1, 2)], [(5, 1)])), Case("two bands, no gap", (frames, [(0, 1), (3, 2)], [])),
            Case("two gaps, and a band of no width", (frames, [(4, 0)], [(0, 2), (6, 2)]))]


def hide_with(value):
    def wrong(frames: Tensor, bands, gaps) -> Tensor:
        hidden = frames.clone()
        for start, width in bands:
            hidden[:, start : start + width] = value(frames, hidden)
        for start, width in gaps:
            hidden[start : start + width] = value(frames, hidden)
        return hidden

    return wrong


HIDE = Exercise(
    id="A2.hide",
    title="Hiding what is heard",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="The spectrogram with flat bars across and flat bars down; everything else as it was.",
    hints=(
        "Work on frames.clone(). A band hides some mel bins in all frames, a gap hides all bins of some frames.",
        "The value is one number, frames.mean() of the untouched frames: to the encoder it looks like nothing in particular.",
        "hidden[:, start : start + width] = middle for bands, hidden[start : start + width] = middle for gaps.",
    ),
    reference=hide,
    package_name="mmo.augmentation.mask_spectrogram",
    cases=hide_cases,
    bugs=(
        Bug("Bands and gaps have changed places: frames are (T, M), so a band is a range of columns.", lambda frames, bands, gaps: hide(frames, gaps, bands)),
        Bug("What is hidden is set to 0. In logarithms 0 is not silence and not the mean: it is a loud clue that something is hidden.", hide_with(lambda frames, hidden: 0.0)),
        Bug("The mean is taken anew after each bar, from frames that are partly hidden. Take it once, of what was there.", hide_with(lambda frames, hidden: hidden.mean())),
        Bug("What is hidden is set to the smallest value: digital silence, which no room has.", hide_with(lambda frames, hidden: frames.min())),
        Bug("The second number of a pair is a width, not an end.", lambda frames, bands, gaps: hide(frames, [(start, max(0, width - start)) for start, width in bands], [(start, max(0, width - start)) for start, width in gaps])),
        Bug("Only the bands are hidden: a stretch of time must go too, so that words are guessed from their neighbours.", lambda frames, bands, gaps: hide(frames, bands, [])),
    ),
    picture=lambda wanted, theirs: compare_maps(wanted.T, theirs.T, xlabel="frame", ylabel="mel bin"),
)

EXERCISES = (HIDE, CTC_LOSS, GREEDY)
