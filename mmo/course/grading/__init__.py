"""Grading a class: `mmo course grade SUBMISSIONS --out grades/`.

    submissions.py   whose file is which notebook; what cannot be read is somebody's, not everybody's
    answers.py       the exercise cells of a notebook, and what else of it an answer needs
    hidden/          cases that no learner has seen
    marks.py         answers that only call the package
    limits.py        time, memory, output, network, files of a process that runs an answer
    child.py         one answer, judged in a process of its own
    pool.py          many such processes, each watched and stopped where it goes too far
    grades.py        verdicts into points
    pages.py         grades.csv, a page for each student, a page for the class
    grade.py         all of it in order
    synthetic.py     ten students that are none, to try it with

Answers are called through the exercises' own checks, as `check(...)` does in the notebook; no other cell of a submission is run.
So a changed check cell has nothing to change, no training is waited for, and a class takes minutes.

A hand-out (`mmo course release`) leaves this package out: it holds the hidden cases.
"""
