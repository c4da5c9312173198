"""`mmo course status`: what is done, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mmo.course import progress
from mmo.course.catalogue import Notebook, read_course
from mmo.course.exercises import exercises_of


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
    return sum(each.points for each in exercises_of(notebook.number) if done.get(each.id, {}).get("passed"))


def show_status(console: Console | None = None) -> None:
    """Print the table of all notebooks, and where the file is."""
    done, course = progress.load()["exercises"], read_course()
    table = Table("", "notebook", "exercises", "points", box=None, pad_edge=False)
    for notebook in course:
        earned = f"{points(notebook, done)} of {notebook.points}" if notebook.points else ""
        table.add_row(notebook.number, notebook.title, "  ".join(marks(notebook, done)), earned)
    console = console or Console()
    console.print(table)
    console.print(f"{sum(points(each, done) for each in course)} of {sum(each.points for each in course)} points. Kept in {progress.progress_file()}", soft_wrap=True)
