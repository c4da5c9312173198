"""The class on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmo.course.grading.grades import KINDS, Grade
from mmo.course.grading.summary import hardest_first


def show_class(grades: Sequence[Grade], console: Console | None = None) -> None:
    """Print which exercises were hard, and how many answers should be looked at."""
    console = console or Console()
    table, lines = Table("exercise", "points earned", *KINDS, box=None, pad_edge=False), hardest_first(grades)
    for line in lines:
        table.add_row(line.exercise, f"{100 * line.share:.0f} %", *(str(line.kinds[kind] or "") for kind in KINDS))
    console.print(table)
    for line in lines:
        if line.often:
            console.print(f"{line.exercise}, {line.times} times: {escape(line.often)}", soft_wrap=True)
    marked = [f"{grade.student} {grade.exercise}" for grade in grades if grade.marks]
    if marked:
        console.print(f"To look at: {escape(', '.join(marked))}", soft_wrap=True)
