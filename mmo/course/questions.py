"""Questions about the ideas of a notebook, with an explanation for each choice.

    quiz("07")              # in notebook 07: choose, and read why
    quiz("07").key()        # the right choices, and why

The questions stand in mmo/course/quizzes/NN.yml:

    - name: clock
      ask: Why ...?
      choices:
      - wrong: Because ...
        why: ...
      - right: Because ...
        why: ...

In a notebook that somebody works in, choices are buttons, and the first choice is kept in the progress file.  Where nobody can press
one (papermill, the course's book) each choice unfolds its explanation, and the plain form is text.  `write_sheets` prints them.
"""

from __future__ import annotations

import html
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from mmo.course import progress
from mmo.course.desk import Words, strict
from mmo.display import GREEN, RED, is_watched

QUIZZES = Path(__file__).parent / "quizzes"
LETTERS = "abcdef"
QUESTIONS = (3, 5)  # in a quiz
CHOICES = (3, len(LETTERS))  # in a question


class QuizError(ValueError):
    """A quiz cannot be used; the message names file and question."""


@dataclass(frozen=True)
class Choice:
    """One possible answer."""

    words: str
    why: str  # why it is right, or what is wrong with it
    right: bool


@dataclass(frozen=True)
class Question:
    """A question of which exactly one choice is right."""

    id: str  # "07.clock"
    ask: str
    choices: tuple[Choice, ...]

    @property
    def right(self) -> int:
        """The place of the right choice."""
        return next(place for place, choice in enumerate(self.choices) if choice.right)

    def shuffled(self, seed: str) -> Question:
        """The same choices in another order, always the same for a seed."""
        return replace(self, choices=tuple(random.Random(f"{seed} {self.id}").sample(self.choices, len(self.choices))))


# --- Reading -----------------------------------------------------------------------------------------------------


def quiz_file(notebook: str, folder: Path = QUIZZES) -> Path:
    return folder / f"{notebook}.yml"


def numbers(folder: Path = QUIZZES) -> list[str]:
    """The notebooks that have a quiz."""
    return sorted(path.stem for path in folder.glob("*.yml"))


def read_quiz(notebook: str, folder: Path = QUIZZES) -> tuple[Question, ...]:
    """The questions of a notebook ("07").  Raises QuizError where there are none, or where one cannot be used."""
    path = quiz_file(notebook, folder)
    if not path.is_file():
        raise QuizError(f"no quiz for notebook {notebook!r}; there are quizzes for {', '.join(numbers(folder)) or 'none'}")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise QuizError(f"{path.name}: {error}") from None
    if not isinstance(entries, list) or not QUESTIONS[0] <= len(entries) <= QUESTIONS[1]:
        raise QuizError(f"{path.name}: wanted a list of {QUESTIONS[0]} to {QUESTIONS[1]} questions")
    questions = tuple(read_question(notebook, number, entry, path.name) for number, entry in enumerate(entries, 1))
    for what, values in (("name", [each.id for each in questions]), ("text", [each.ask for each in questions])):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise QuizError(f"{path.name}: two questions of one {what}: {', '.join(twice)}")
    return questions


def read_question(notebook: str, number: int, entry: dict, file: str) -> Question:
    """One entry of a file.  Raises QuizError."""
    name = entry.get("name") if isinstance(entry, dict) else None
    place = f"{file}, question {name or number}"
    if not isinstance(entry, dict) or set(entry) != {"name", "ask", "choices"}:
        raise QuizError(f"{place}: it needs exactly name, ask and choices")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
        raise QuizError(f"{place}: its name must be one word of small letters")
    choices = []
    for each in entry["choices"] or ():
        kind = [key for key in ("right", "wrong") if key in each]
        if len(kind) != 1 or set(each) != {kind[0], "why"}:
            raise QuizError(f"{place}: each choice needs `right` or `wrong`, and `why`, not {', '.join(map(str, each))}")
        words, why = (str(each[key] if each[key] is not None else "").strip() for key in (kind[0], "why"))
        if not words or not why:
            raise QuizError(f"{place}: a choice without words, or without its why")
        choices.append(Choice(words, why, kind[0] == "right"))
    rights = sum(choice.right for choice in choices)
    if rights != 1:
        raise QuizError(f"{place}: exactly one choice must be right, not {rights}")
    if not CHOICES[0] <= len(choices) <= CHOICES[1]:
        raise QuizError(f"{place}: {len(choices)} choices, wanted {CHOICES[0]} to {CHOICES[1]}")
    for what, values in (("words", [choice.words for choice in choices]), ("explanation", [choice.why for choice in choices])):
        if len(set(values)) < len(values):
            raise QuizError(f"{place}: two choices have the same {what}")
    return Question(f"{notebook}.{name}", str(entry["ask"]).strip(), tuple(choices))


# --- In a notebook -----------------------------------------------------------------------------------------------


def marked_up(text: str) -> str:
    """Text as HTML: `code` as code, *emphasis* as emphasis, everything else as it is."""
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", escaped)


def answer_page(choice: Choice) -> str:
    colour, word = (GREEN, "Right.") if choice.right else (RED, "No.")
    return f'<div style="border-left:4px solid {colour};padding:2px 10px;margin:2px 0 6px 24px"><b>{word}</b> {marked_up(choice.why)}</div>'


class Quiz:
    """The quiz of a notebook, as the value of a cell.  `choose("07.clock", 2)` chooses; the buttons call it."""

    def __init__(self, notebook: str, questions: Sequence[Question], live: bool) -> None:
        self.notebook, self.questions, self.live = notebook, tuple(questions), live

    def choose(self, id: str, place: int) -> Choice:
        """Choose the answer at `place`, from 0; the first choice is what the progress file keeps.  Raises ValueError."""
        question = next((each for each in self.questions if each.id == id), None)
        if question is None or not 0 <= place < len(question.choices):
            raise ValueError(f"no choice {place} of {id!r}; there are {', '.join(each.id for each in self.questions)}")
        choice = question.choices[place]
        if not strict():
            progress.note_choice(id, choice.words, choice.right)
        return choice

    def __repr__(self) -> str:
        lines = [f"Quiz {self.notebook}"]
        for number, question in enumerate(self.questions, 1):
            lines += ["", f"{number}. {question.ask}", *(f"   {letter}) {choice.words}" for letter, choice in zip(LETTERS, question.choices))]
        return "\n".join([*lines, "", f'Answers, and why: quiz("{self.notebook}").key()'])

    def still(self) -> str:
        """The page without a kernel: each choice unfolds its explanation."""
        parts = []
        for number, question in enumerate(self.questions, 1):
            folds = "".join(
                f'<details name="{question.id}" style="margin:2px 0 2px 16px"><summary>{letter}) {marked_up(choice.words)}</summary>{answer_page(choice)}</details>'
                for letter, choice in zip(LETTERS, question.choices)
            )
            parts.append(f'<div style="margin:0 0 14px"><b>{number}.</b> {marked_up(question.ask)}{folds}</div>')
        return f"<div><p>Choose, then open your choice.</p>{''.join(parts)}</div>"

    def key(self) -> Words:
        """The right choices, and why."""
        lines = [f"{number}. {LETTERS[each.right]}) {each.choices[each.right].why}" for number, each in enumerate(self.questions, 1)]
        return Words("\n".join(lines), "".join(f"<p>{marked_up(line)}</p>" for line in lines))

    @cached_property
    def box(self):
        """The quiz with buttons, an ipywidgets box."""
        import ipywidgets as widgets

        return widgets.VBox([self.row(widgets, number, question) for number, question in enumerate(self.questions, 1)])

    def row(self, widgets, number: int, question: Question):
        """One question with its buttons; what is said to a choice appears under it."""
        head = widgets.HTML(f"<b>{number}.</b> {marked_up(question.ask)}")
        buttons = [widgets.Button(description=letter, layout=widgets.Layout(width="34px")) for letter, _ in zip(LETTERS, question.choices)]
        said = [widgets.HTML() for _ in question.choices]
        for place, button in enumerate(buttons):
            button.on_click(lambda _, place=place: self.press(question, place, buttons, said))
        lines = [widgets.HBox([button, widgets.HTML(marked_up(choice.words))]) for button, choice in zip(buttons, question.choices)]
        return widgets.VBox([head, *(part for pair in zip(lines, said) for part in pair)])

    def press(self, question: Question, place: int, buttons: list, said: list) -> None:
        choice = self.choose(question.id, place)
        said[place].value = answer_page(choice)
        buttons[place].button_style = "success" if choice.right else "danger"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        if self.live:
            return self.box._repr_mimebundle_(include=include, exclude=exclude)
        return {"text/html": self.still(), "text/plain": repr(self)}


def quiz(notebook: str, *, live: bool | None = None) -> Quiz:
    """The quiz of a notebook ("07").  live: with buttons; default: if somebody works in the notebook.

    Raises QuizError for a missing or broken file.
    """
    return Quiz(notebook, read_quiz(notebook), is_watched() if live is None else live)


# --- On paper ----------------------------------------------------------------------------------------------------

CSS = """<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: #111; }
h1 { font-size: 22px; margin-bottom: 2px; } .who { display: flex; gap: 2em; margin: 14px 0 22px; } .who span { flex: 1; border-bottom: 1px solid #999; padding-bottom: 2px; color: #555; }
li.question { margin: 0 0 18px; break-inside: avoid; } ul { list-style: none; padding: 0; margin: 6px 0 0; } ul li { margin: 5px 0; padding-left: 30px; text-indent: -30px; }
.box { display: inline-block; width: 12px; height: 12px; border: 1.4px solid #333; margin: 0 8px -1px 0; text-indent: 0; } .why { display: block; text-indent: 0; color: #333; font-size: 14px; }
.right { background: #e3f2ea; } .right .box { background: #009E73; } code { font-size: 13px; background: #f3f3f3; padding: 0 2px; }
@media print { body { margin: 0; font-size: 11pt; } .right { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
</style>"""


def write_sheets(folder: Path, notebooks: Sequence[str] = (), variants: int = 1, titles: dict[str, str] | None = None) -> list[Path]:
    """Write a sheet and an answer key for each notebook (default: all that have a quiz); returns the files.

    variants: sheets with the choices in other orders, for neighbours; named A, B, …  titles: number -> title of the notebook.
    Raises QuizError before anything is written.
    """
    chosen = list(notebooks) or numbers()
    if not chosen:
        raise QuizError(f"there are no quizzes in {QUIZZES}")
    if not 1 <= variants <= 26:
        raise QuizError(f"{variants} variants; wanted 1 to 26")
    quizzes = {number: read_quiz(number) for number in chosen}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, questions in quizzes.items():
        for variant in range(variants):
            letter = "" if variants == 1 else chr(ord("A") + variant)
            ordered = [each if variant == 0 else each.shuffled(letter) for each in questions]
            for key in (False, True):
                path = folder / f"quiz-{number}{f'-{letter}' if letter else ''}{'-key' if key else ''}.html"
                path.write_text(sheet(number, (titles or {}).get(number, ""), letter, ordered, key), encoding="utf-8")
                written.append(path)
    return written


def sheet(number: str, title: str, letter: str, questions: Sequence[Question], key: bool) -> str:
    """A page to print: with `key`, the right choice marked and every choice explained."""
    name = f"Quiz {number}{f' · {title}' if title else ''}{f' · sheet {letter}' if letter else ''}{' · answers' if key else ''}"
    who = "" if key else '<p class="who"><span>Name</span><span>Date</span></p><p>One answer is right in each question.</p>'
    items = []
    for question in questions:
        rows = "".join(
            f'<li{" class=right" if key and choice.right else ""}><span class="box"></span>{LETTERS[place]}) {marked_up(choice.words)}'
            f'{f"<span class=why>{marked_up(choice.why)}</span>" if key else ""}</li>'
            for place, choice in enumerate(question.choices)
        )
        items.append(f'<li class="question">{marked_up(question.ask)}<ul>{rows}</ul></li>')
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>{CSS}</head>'
        f"<body><h1>{html.escape(name)}</h1>{who}<ol>{''.join(items)}</ol></body></html>\n"
    )
