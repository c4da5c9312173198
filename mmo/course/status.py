"""`mmo course status`, and the same in notebook 00: what is done, as a table."""

from __future__ import annotations

import html

from rich.console import Console
from rich.table import Table

from mmo.course import progress
from mmo.course.catalogue import Notebook, read_course
from mmo.course.desk import Words, strict
from mmo.course.exercises import exercises_of

LEGEND = "✓ solved  ✗ tried  · open"
NOBODYS = "This run is the solution's (MMO_STRICT=1). It is nobody's and records nothing, so every exercise is open here."


def marks(notebook: Notebook, done: dict) -> list[str]:
    """A word for each exercise: "✓ delay", "✗ labels (3 tries)", "· padding"."""
    words = []
    for each in exercises_of(notebook.number):
        entry, name = done.get(each.id, {}), each.id.split(".")[1]
        tries = entry.get("attempts", 0)
        sign = "✓" if entry.get("passed") else "✗" if tries else "·"
        words.append(f"{sign} {name}" + (f" ({tries} tries)" if sign == "✗" and tries > 1 else ""))
    return words


def points(notebook: Notebook, done: dict) -> int:
    """Points earned in a notebook."""
    return sum(worth for id, worth in notebook.exercises.items() if done.get(id, {}).get("passed"))


def show_status(console: Console | None = None) -> None:
    """Print the table of all notebooks, and where the file is."""
    done, course = progress.load()["exercises"], read_course()
    table = Table("", "notebook", "exercises", "points", box=None, pad_edge=False)
    for notebook in course:
        earned = f"{points(notebook, done)} of {notebook.points}" if notebook.points else ""
        table.add_row(notebook.number, notebook.title, "  ".join(marks(notebook, done)), earned)
    console = console or Console()
    console.print(table)
    console.print(LEGEND)
    for line in last_rounds(progress.load()["ears"]):
        console.print(f"ears  {line}")
    console.print(f"{sum(points(each, done) for each in course)} of {sum(each.points for each in course)} points. Kept in {progress.progress_file()}", soft_wrap=True)


def shares(done: dict) -> dict[str, float]:
    """Notebook number -> share of its points earned, for those that have points."""
    return {each.number: points(each, done) / each.points for each in read_course() if each.points}


def last_rounds(ears: dict, count: int = 3) -> list[str]:
    """The latest rounds of each ear training: "01.abx3: 6 of 8, 8 of 8"."""
    lines = []
    for id, entry in sorted(ears.items()):
        found = entry.get("rounds", [])[-count:]
        words = [f"{each['right']} of {each['trials']}" if "right" in each else f"WER {100 * each['wer']:.0f} %" for each in found]
        lines += [f"{id}: {', '.join(words)}"] if words else []
    return lines


def so_far() -> dict:
    """The progress to be shown; none with MMO_STRICT=1, where a solution is executed and it is nobody's."""
    return progress.empty() if strict() else progress.load()


def status_page(found: dict | None = None) -> Words:
    """The table for a notebook."""
    found, course = found or so_far(), read_course()
    done, lines, rows = found["exercises"], [], []
    for each in course:
        earned = f"{points(each, done)} of {each.points}" if each.points else ""
        words = "  ".join(marks(each, done))
        lines.append(f"{each.number} {each.title}: {earned} {words}".rstrip())
        cells = (each.number, each.title, words, earned)
        rows.append("<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in cells) + "</tr>")
    total = f"{sum(points(each, done) for each in course)} of {sum(each.points for each in course)} points."
    ears = last_rounds(found["ears"])
    heard = f"<p>Ears: {html.escape('; '.join(ears))}</p>" if ears else ""
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in ("", "notebook", "exercises", "points"))
    notes = [LEGEND, *([NOBODYS] if strict() else [])]
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    page = f'<table><thead><tr style="text-align:left">{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>{below}<p>{total}</p>{heard}'
    return Words("\n".join([*lines, *notes, total, *ears]), page)
