"""Variants: what a class is asked instead of what the package does, so that an answer copied from it, or from last year, is wrong.

A variant has a name ("autumn-26", any text).  The name chooses one task for each family of exercises that can vary: another delay, another
use of the key heads.  A number at its end counts on, so that autumn-26 has nothing in common with autumn-25.  The notebooks that are handed out say what is asked; their checks know the right values for the notebook's cases, not
how to compute them (mmo/course/variant.py); the grader, here, knows both.

    delays.py      notebook 07
    blocks.py      notebooks 01, 05, 08
    codebooks.py   notebooks 01 and 08 with another number of codebooks
    asked.py       what a task of a variant is, and which a name chooses
"""

from mmo.course.grading.variants.asked import PLAIN, asked_in, function_of, hidden_of, known_name, tasks_of, use, using

__all__ = ["PLAIN", "asked_in", "function_of", "hidden_of", "known_name", "tasks_of", "use", "using"]
