"""Notebook 11."""

import torch

from mmo.course.exercises import Case

PAIRS = (
    ("a small green star below a large white moon", "small green stars below a a large moon"),
    ("one", "one one one one"),
    ("one two three four five", "five four three two one"),
    ("hello", "good bye"),
)

SHARES = (([0.9, 0.1], [0.2, 0.7], [30.0, 4.0], [12.0, 40.0]), ([1.0], [0.5], [8.0], [20.0]), ([0.25] * 4, [0.9, 0.0, 0.3, 1.0], [5.0, 6.0, 7.0, 8.0], [50.0, 10.0, 20.0, 30.0]))

HIDDEN = {
    "11.word_errors": lambda: [Case(f'"{wanted}" heard as "{heard}"', (wanted.split(), heard.split())) for wanted, heard in PAIRS],
    "11.cost": lambda: [
        Case(f"{weights}, learning: {learns}", (torch.tensor(weights), torch.tensor(learns)))
        for weights, learns in (([7, 11, 13, 17], [False, True, False, True]), ([100], [True]), ([40, 9000, 300], [True, False, True]), ([5, 6], [False, True]))
    ],
    "11.labels": lambda: [Case(f"{len(each[0])} sources, silent {each[1]}", tuple(torch.tensor(values) for values in each)) for each in SHARES],
}
