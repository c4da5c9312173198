"""Notebook 11."""

from mmo.course.exercises import Case

PAIRS = (
    ("a small green star below a large white moon", "small green stars below a a large moon"),
    ("one", "one one one one"),
    ("one two three four five", "five four three two one"),
    ("hello", "good bye"),
)

HIDDEN = {"11.word_errors": lambda: [Case(f'"{wanted}" heard as "{heard}"', (wanted.split(), heard.split())) for wanted, heard in PAIRS]}
