"""Cases that no learner has seen: other numbers, other sizes, and edges that the notebook's cases leave out.

Each module holds `HIDDEN`: exercise id -> a function that gives the cases.  An answer meets them only after it has passed the notebook's
own, and they carry half of the points (`hidden_share` in course.yml).
"""

from __future__ import annotations

import importlib
import importlib.util

from mmo.course.exercises import TASKS, Case


def hidden_cases(id: str) -> tuple[Case, ...]:
    """The hidden cases of an exercise; none where it has none."""
    module = f"{__name__}.{TASKS.get(id.split('.')[0])}"
    if importlib.util.find_spec(module) is None:
        return ()
    make = importlib.import_module(module).HIDDEN.get(id)
    return tuple(make()) if make else ()
