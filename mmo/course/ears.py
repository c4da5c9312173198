"""Ear training: what you hear, with a number to it.

    abx("01.few", coarse, fine, 24000, names=("4 codebooks", "8 codebooks"))     # is X the one or the other?
    dictation("01.dictation", clips, texts, 24000, heard=judge.transcribe)       # your word errors beside the judge's

In a notebook that somebody works in, both are players with buttons, and a finished round is kept in the progress file.
Where nobody can press a button (papermill, the course's book) they are a picture, with the sounds of one trial.

ABX (Munson & Gardner 1950): X is A or B, drawn anew in each trial.  Who hears no difference is right half of the time,
so a score says something only beside the chance of getting it by tossing a coin.
"""

from __future__ import annotations

import base64
import difflib
import html
import math
import random
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from mmo import measures
from mmo.course import progress
from mmo.course.desk import strict
from mmo.display import BLUE, GREEN, GREY, INK, ORANGE, RED, Picture, drawing, encode_sound, finish, is_watched, listen, one_channel

LOUDNESS = 0.06  # root mean square; all sounds of a comparison are brought to it, else the louder one is known by that
UNLIKELY = 0.05  # a score that a coin reaches less often counts as heard
Sounds = Sequence | np.ndarray  # one sound (n,), or several


# --- Figures -----------------------------------------------------------------------------------------------------


def chance(right: int, trials: int) -> float:
    """The p-value of a score: how likely a tossed coin is right at least `right` times in `trials`."""
    if not 0 <= right <= trials:
        raise ValueError(f"{right} right answers in {trials} trials")
    return sum(math.comb(trials, count) for count in range(right, trials + 1)) / 2**trials


def needed(trials: int) -> int | None:
    """The lowest score that a coin reaches with less than UNLIKELY; None where there are too few trials for any."""
    return next((right for right in range(trials + 1) if chance(right, trials) < UNLIKELY), None)


def judgement(right: int, trials: int) -> str:
    """A score in words."""
    p = chance(right, trials)
    score = f"{right} of {trials} right, p = {p:.3f}: a coin does as well in {100 * p:.{0 if p >= 0.01 else 1}f} of 100 rounds."
    if p < UNLIKELY:
        return f"{score} You hear the difference."
    return f"{score} That does not show that you hear a difference; nor does it show that there is none."


def levelled(samples) -> np.ndarray:
    """One sound (n,) at LOUDNESS, or a little below where its peaks would be cut; silence stays silence."""
    samples = one_channel(samples)
    loudness, peak = float(np.sqrt(np.mean(samples**2))), float(np.abs(samples).max())
    return samples * min(LOUDNESS / loudness, 0.99 / peak) if loudness > 1e-5 else samples


def several(sounds: Sounds) -> list[np.ndarray]:
    """One sound or a sequence of sounds -> a list of levelled sounds.  Raises ValueError where there is none."""
    if not len(sounds):
        raise ValueError("no sound to compare")
    one = isinstance(sounds, np.ndarray) or not np.ndim(sounds[0])
    return [levelled(each) for each in ([sounds] if one else sounds)]


# --- Pictures ----------------------------------------------------------------------------------------------------


def show_scores(trials: int, right: int | None = None) -> Picture:
    """How often a coin gets each score; the scores that show something are marked, and yours."""
    shares = [math.comb(trials, count) / 2**trials for count in range(trials + 1)]
    least = needed(trials)
    with drawing(5.4, 1.9) as figure:
        axes = figure.add_subplot()
        colours = [GREEN if least is not None and count >= least else GREY for count in range(trials + 1)]
        axes.bar(range(trials + 1), [100 * share for share in shares], color=colours, width=0.8)
        if right is not None:
            axes.annotate("you", (right, 100 * shares[right]), (right, 100 * max(shares) * 0.75), ha="center", color=RED, arrowprops={"arrowstyle": "->", "color": RED})
        axes.set(xlabel=f"right answers of {trials}", ylabel="percent of rounds", xticks=range(trials + 1), ylim=(0, 112 * max(shares)))
        axes.set_title("How often a tossed coin gets there")
        axes.grid(False, axis="x")
        enough = f"{least} or more are seldom luck" if least is not None else "too few trials to tell hearing from luck"
        axes.text(0.01, 0.86, enough, transform=axes.transAxes, color=GREEN if least is not None else INK, fontsize=8)
        you = "" if right is None else f" You have {right}."
        return finish(figure, f"Bar chart: how often a tossed coin gets each score in {trials} trials; {enough}.{you}")


def show_errors(judge: measures.WordErrors | None, yours: measures.WordErrors | None) -> Picture:
    """Word error rates with their 95 % intervals."""
    rows = [("you", yours, ORANGE), ("the judge", judge, BLUE)]
    with drawing(5.4, 1.3) as figure:
        axes = figure.add_subplot()
        for place, (_, errors, colour) in enumerate(rows):
            if errors is None or errors.wer is None:
                axes.text(0.5, place, "not yet" if errors is None else "no words", va="center", color=GREY, fontsize=8)
                continue
            low, high = errors.interval()
            axes.barh(place, 100 * errors.wer, color=colour, height=0.55)
            axes.plot([100 * low, 100 * high], [place, place], color=INK, linewidth=1)
            axes.text(100 * max(high, errors.wer) + 1, place, f"{100 * errors.wer:.0f} %", va="center", fontsize=8)
        axes.set(xlabel="word error rate, percent, with its 95 % interval", xlim=(0, None), ylim=(1.5, -0.5))
        axes.set_xlim(0, max(20.0, axes.get_xlim()[1] * 1.1))
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.grid(False, axis="y")
        figures = ", ".join(f"{name} {100 * errors.wer:.0f} %" for name, errors, _ in rows if errors is not None and errors.wer is not None)
        return finish(figure, f"Word error rates: {figures or 'none yet'}.")


# --- HTML --------------------------------------------------------------------------------------------------------


def as_image(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return f'<img alt="{html.escape(picture.alt)}" style="max-width:100%" src="data:image/png;base64,{data}">'


def as_sound(samples: np.ndarray, rate: int, label: str) -> str:
    """A small player with a word in front of it."""
    data = base64.b64encode(encode_sound(samples, rate)).decode()
    player = f'<audio controls preload="metadata" style="height:32px;vertical-align:middle" src="data:audio/mpeg;base64,{data}"></audio>'
    return f'<div style="margin:2px 0"><b style="display:inline-block;min-width:9em">{html.escape(label)}</b>{player}</div>'


def folded(title: str, page: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{page}</details>"


class Training:
    """What `abx` and `dictation` give a notebook: with buttons where somebody can press them, else as it is."""

    live: bool

    def still(self) -> str:
        """The page without a kernel, as HTML."""
        raise NotImplementedError

    @property
    def box(self):
        """The player with buttons, an ipywidgets box."""
        raise NotImplementedError

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        if self.live:
            return self.box._repr_mimebundle_(include=include, exclude=exclude)
        return {"text/html": self.still(), "text/plain": repr(self)}


# --- ABX ---------------------------------------------------------------------------------------------------------


class Abx(Training):
    """An ABX test.  `answer(True)` says "X is A"; the buttons call it."""

    def __init__(self, id: str, a: Sounds, b: Sounds, rate: int, names: tuple[str, str], trials: int, seed: int, texts: Sequence[str], live: bool) -> None:
        self.id, self.rate, self.names, self.trials, self.seed, self.texts, self.live = id, rate, names, trials, seed, list(texts), live
        self.a, self.b = several(a), several(b)
        if len(self.a) != len(self.b):
            raise ValueError(f"{len(self.a)} sounds {names[0]}, but {len(self.b)} sounds {names[1]}")
        if texts and len(texts) != len(self.a):
            raise ValueError(f"{len(texts)} transcripts for {len(self.a)} pairs of sounds")
        if trials < 1:
            raise ValueError(f"{trials} trials")
        self.begin()

    def begin(self) -> None:
        """A new round: which pair and which of the two each trial plays.  The first round of a seed is always the same."""
        self.round = len(progress.rounds(self.id)) if self.live and not strict() else 0
        rng = random.Random(f"{self.id} {self.seed} {self.round}")
        pairs = [place for _ in range(-(-self.trials // len(self.a))) for place in rng.sample(range(len(self.a)), len(self.a))]
        self.plan = [(pair, rng.random() < 0.5) for pair in pairs[: self.trials]]  # (pair, whether X is A)
        self.answers: list[bool] = []

    @property
    def right(self) -> int:
        return sum(answer == is_a for answer, (_, is_a) in zip(self.answers, self.plan))

    @property
    def done(self) -> bool:
        return len(self.answers) == self.trials

    def answer(self, is_a: bool) -> bool:
        """Answer the trial that is open; whether it was right.  Raises ValueError where the round is over."""
        if self.done:
            raise ValueError("the round is over")
        self.answers.append(is_a)
        if self.done and not strict():
            progress.note_round(self.id, {"right": self.right, "trials": self.trials, "p": round(chance(self.right, self.trials), 4)})
        return is_a == self.plan[len(self.answers) - 1][1]

    def said(self, pair: int) -> str:
        """The words of a pair, in front of them a colon; nothing where they were not given."""
        return f": {self.texts[pair]}" if self.texts else ""

    def sounds(self, trial: int) -> dict[str, np.ndarray]:
        """What is played in a trial."""
        pair, is_a = self.plan[trial]
        return {f"A: {self.names[0]}": self.a[pair], f"B: {self.names[1]}": self.b[pair], "X: which is it?": (self.a if is_a else self.b)[pair]}

    def __repr__(self) -> str:
        return f"ABX {self.id}: {self.names[0]} against {self.names[1]}, {self.trials} trials; {needed(self.trials)} right answers are seldom luck"

    def still(self) -> str:
        pair, is_a = self.plan[0]
        shown = "".join(listen(sounds[pair], self.rate, f"{letter}, {name}{self.said(pair)}")._repr_html_() for letter, name, sounds in zip("AB", self.names, (self.a, self.b)))
        hidden = as_sound(self.sounds(0)["X: which is it?"], self.rate, "X: which is it?")
        truth = folded("X is …", f"{'A' if is_a else 'B'}, {html.escape(self.names[0 if is_a else 1])}.")
        note = f"<p>One trial of {self.trials}. In a notebook of your own it has buttons and keeps your score.</p>"
        return f"{shown}{hidden}{truth}{note}{as_image(show_scores(self.trials))}"

    @cached_property
    def box(self):
        import ipywidgets as widgets

        self.players, self.verdict = widgets.HTML(), widgets.HTML()
        self.choices = [widgets.Button(description=f"X is {letter}", tooltip=name, button_style="info") for letter, name in zip("AB", self.names)]
        self.again = widgets.Button(description="Another round")
        for button, is_a in zip(self.choices, (True, False)):
            button.on_click(lambda _, is_a=is_a: self.press(is_a))
        self.again.on_click(lambda _: self.restart())
        self.restart()
        return widgets.VBox([self.players, widgets.HBox([*self.choices, self.again]), self.verdict])

    def restart(self) -> None:
        self.begin()
        past = ", ".join(f"{each['right']} of {each['trials']}" for each in progress.rounds(self.id)[-6:])
        self.verdict.value = f"<p>Your rounds so far: {past}.</p>" if past else ""
        self.show()

    def press(self, is_a: bool) -> None:
        if self.done:
            return
        right, truth = self.answer(is_a), self.plan[len(self.answers) - 1][1]
        colour, word = (GREEN, "Right") if right else (RED, "No")
        self.verdict.value = f'<p><b style="color:{colour}">{word}:</b> it was {"A" if truth else "B"}. {self.right} of {len(self.answers)} so far.</p>'
        self.show()

    def show(self) -> None:
        """Bring the buttons and sounds up to the trial that is open."""
        for button in self.choices:
            button.disabled = self.done
        self.again.layout.display = "" if self.done else "none"
        if self.done:
            self.players.value = ""
            self.verdict.value += f"<p>{html.escape(judgement(self.right, self.trials))}</p>{as_image(show_scores(self.trials, self.right))}"
            return
        trial = len(self.answers)
        sounds = "".join(as_sound(samples, self.rate, label) for label, samples in self.sounds(trial).items())
        self.players.value = f"<b>Trial {trial + 1} of {self.trials}</b>{html.escape(self.said(self.plan[trial][0]))}{sounds}"


def abx(
    id: str,
    a: Sounds,
    b: Sounds,
    rate: int,
    names: tuple[str, str] = ("A", "B"),
    trials: int = 8,
    seed: int = 0,
    *,
    texts: Sequence[str] = (),
    live: bool | None = None,
) -> Abx:
    """An ABX test between sounds (n,) at `rate`: A and B are one sound each, or several, pair by pair the same words.

    texts: what is said in each pair.  live: with buttons; default: if somebody works in the notebook.
    """
    return Abx(id, a, b, rate, names, trials, seed, texts, is_watched() if live is None else live)


# --- Dictation ---------------------------------------------------------------------------------------------------


def marked(text: str, heard: str) -> str:
    """`heard` as HTML with what is wrong in it struck out, and what is missing set beside it."""
    wanted, found, parts = measures.words(text), measures.words(heard), []
    for what, i, j, k, m in difflib.SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes():
        if what == "equal":
            parts.append(" ".join(found[k:m]))
            continue
        if k < m:
            parts.append(f'<s style="color:{RED}">{" ".join(found[k:m])}</s>')
        if i < j:
            parts.append(f'<b style="color:{GREEN}">{" ".join(wanted[i:j])}</b>')
    return " ".join(parts)


class Dictation(Training):
    """Clips to write down.  `write(words)` answers the open clip; the button calls it."""

    def __init__(self, id: str, clips: Sequence, texts: Sequence[str], rate: int, heard, live: bool) -> None:
        self.id, self.rate, self.live = id, rate, live
        self.clips, self.texts = [levelled(clip) for clip in clips], list(texts)
        if len(self.clips) != len(self.texts) or not self.clips:
            raise ValueError(f"{len(self.clips)} clips for {len(self.texts)} texts")
        if not callable(heard) and heard is not None and len(heard) != len(self.texts):
            raise ValueError(f"{len(heard)} transcripts of the judge for {len(self.texts)} texts")
        self.source, self.written, self.over = heard, [], False

    @cached_property
    def heard(self) -> list[str] | None:
        """What the judge heard in the same sounds; it is asked when it is first needed."""
        return list(self.source([(clip, self.rate) for clip in self.clips])) if callable(self.source) else self.source and list(self.source)

    def errors(self, heard: Sequence[str] | None, count: int | None = None) -> measures.WordErrors | None:
        """Word errors over the first `count` clips (default: all)."""
        return None if heard is None else measures.word_errors(self.texts[:count], list(heard)[:count])

    @property
    def yours(self) -> measures.WordErrors | None:
        """Over the clips you have written down."""
        return self.errors(self.written, len(self.written)) if self.written else None

    @property
    def judges(self) -> measures.WordErrors | None:
        """The judge's, over the clips you have written down, or all if you have none."""
        return self.errors(self.heard, len(self.written) or None)

    def write(self, words: str) -> None:
        """Your words for the open clip; the last one ends the dictation.  Raises ValueError where it is over."""
        if self.over:
            raise ValueError("the dictation is over")
        self.written.append(words)
        if len(self.written) == len(self.clips):
            self.end()

    def end(self) -> None:
        """End it here; the round is kept if anything was written."""
        self.over = True
        if self.written and not strict():
            judge = self.judges
            progress.note_round(self.id, {"clips": len(self.written), "wer": self.yours.wer, "judge": judge and judge.wer})

    def __repr__(self) -> str:
        judge = self.judges
        return f"dictation {self.id}: {len(self.clips)} clips" + (f"; the judge's WER is {100 * judge.wer:.0f} %" if judge else "")

    def table(self) -> str:
        """What was said, what the judge heard, what you wrote."""
        columns = [("said", [html.escape(text) for text in self.texts])]
        columns += [("you", [marked(text, words) for text, words in zip(self.texts, self.written)])] if self.written else []
        columns += [("the judge", [marked(text, words) for text, words in zip(self.texts, self.heard)])] if self.heard is not None else []
        count = len(self.written) or len(self.texts)
        head = "".join(f'<th style="text-align:left">{name}</th>' for name, _ in columns)
        rows = "".join("<tr>" + "".join(f'<td style="text-align:left">{column[place]}</td>' for _, column in columns) + "</tr>" for place in range(count))
        return f"<table><tr>{head}</tr>{rows}</table>"

    def still(self) -> str:
        clip = listen(self.clips[0], self.rate, f"Clip 1 of {len(self.clips)}: what is said?")._repr_html_()
        note = "<p>In a notebook of your own you write down all of them, and your word error rate is set beside the judge's.</p>"
        return f"{clip}{folded('All sentences, and what the judge heard', self.table())}{note}{as_image(show_errors(self.judges, None))}"

    @cached_property
    def box(self):
        import ipywidgets as widgets

        self.player, self.said = widgets.HTML(), widgets.HTML()
        self.line = widgets.Text(placeholder="the words you hear; numbers as words", continuous_update=False, layout={"width": "32em"})
        self.next, self.stop = widgets.Button(description="Write down", button_style="info"), widgets.Button(description="End here")
        self.next.on_click(lambda _: self.press())
        self.stop.on_click(lambda _: self.finish())
        self.show()
        return widgets.VBox([self.player, widgets.HBox([self.line, self.next, self.stop]), self.said])

    def press(self) -> None:
        if self.over:
            return
        words, place = self.line.value, len(self.written)
        if any(sign.isdigit() for sign in words):
            self.said.value = "<p>Write numbers as words: seven, not 7.</p>"
            return
        self.write(words)
        self.said.value = f"<p>Clip {place + 1}: {marked(self.texts[place], words)}</p>"
        self.show()

    def finish(self) -> None:
        if not self.over:
            self.end()
            self.show()

    def show(self) -> None:
        """Bring the page up to the clip that is open."""
        self.line.value = ""
        for each in (self.line, self.next, self.stop):
            each.disabled = self.over
        if not self.over:
            place = len(self.written)
            self.player.value = as_sound(self.clips[place], self.rate, f"Clip {place + 1} of {len(self.clips)}")
            return
        self.player.value = ""
        self.said.value = f"{as_image(show_errors(self.judges, self.yours))}{self.table()}" if self.written else "<p>Nothing was written down.</p>"


def dictation(
    id: str, clips: Sequence, texts: Sequence[str], rate: int, heard: Sequence[str] | Callable | None = None, live: bool | None = None
) -> Dictation:
    """Clips (n,) at `rate` to write down, and what is said in them.

    heard: what the judge heard in them, or a function of [(samples, rate), …] that gives it (`Judge.transcribe`).
    live: with buttons; default: if somebody works in the notebook.
    """
    return Dictation(id, clips, texts, rate, heard, is_watched() if live is None else live)
