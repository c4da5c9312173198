"""`mmo course grade`: a folder of submissions into grades.csv, pages and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmo.course.build import Edition, definitions, learners
from mmo.course.catalogue import REPOSITORY, Notebook, read_course
from mmo.course.exercises import Exercise, exercises_of, refuse_unmatched
from mmo.course.grading.answers import Answer, Cell, answers_of, code_cells
from mmo.course.grading.child import Job
from mmo.course.grading.files import printable
from mmo.course.grading.grades import Grade, graded, without_answer
from mmo.course.grading.limits import Limits
from mmo.course.grading.marks import marks
from mmo.course.grading.pages import UNFINISHED, write_pages
from mmo.course.grading.pool import Outcome, run_all
from mmo.course.grading.submissions import Submission, collect, handed_in, loose_files
from mmo.course.grading.variants import PLAIN, known_name, using


@dataclass(frozen=True)
class Rules:
    """How a class is graded.

    marked_points: the factor for the points of a marked answer; 1 only marks it, 0 takes them.  variant: what the class was asked, by name;
    None where the hand-outs had none, "none" to grade by the course as it is, whatever the files say.
    """

    limits: Limits = Limits()
    workers: int = 2
    marked_points: float = 1.0
    variant: str | None = None

    def __post_init__(self) -> None:
        if self.variant is not None:
            known_name(self.variant)
        if not 0 <= self.marked_points <= 1:
            raise ValueError(f"marked_points must lie between 0 and 1, not {self.marked_points}")


@dataclass(frozen=True)
class Clean:
    """A notebook as it is handed out: what stands in for what a student has torn out.  functions: exercise id -> name."""

    cells: tuple[Cell, ...]
    functions: dict[str, str]


@dataclass(frozen=True)
class Attempted:
    """An answer with whose it is and what for, and what in its text a person should look at."""

    submission: Submission
    task: Exercise
    answer: Answer
    marks: tuple[str, ...]


def grade(folder: Path, out: Path, numbers: Sequence[str] = (), rules: Rules = Rules(), root: Path = REPOSITORY,
          told: Callable[[str], None] = lambda words: None, warned: Callable[[str], None] = lambda words: None) -> list[Grade]:  # fmt: skip
    """Grade a class and write `out`.  numbers: of the notebooks; without them, those that somebody handed in.

    told: called when a student's last answer is graded, "ada is graded, 3 of 30 students".  warned: called, before anything runs, with what is the matter with somebody's files.
    Raises ValueError for an unknown number, a class of a variant where none is named, a notebook without exercises, a folder without students, or an `out` that holds other things.
    """
    refuse_strange(out, folder)
    entries = chosen(numbers, root) if numbers else handed_in(folder, read_course(root))
    if not entries:
        raise ValueError(f"{folder} holds no notebook of the course; name those that were due: --notebooks 05,07")
    for entry in entries:
        refuse_unmatched(entry)
    submissions = collect(folder, entries)
    submissions = known_variant(submissions, rules.variant)
    for words in warnings_of(folder, submissions):
        warned(words)
    with using(rules.variant):
        grades = grade_all(submissions, {entry.number: clean(entry, root) for entry in entries}, rules, (*closed_in(root), folder.resolve(), out.resolve()), told)
        write_pages(out, entries, submissions, grades, loose_files(folder))
    return grades


def closed_in(root: Path) -> tuple[Path, ...]:
    """Folders of the course that no answer may read: the solutions, also in the history, the hidden cases, the tests, what runs have left."""
    return (root / "solutions", root / ".git", root / "tests", root / "runs", Path(__file__).parent)


def known_variant(submissions: Sequence[Submission], variant: str | None) -> list[Submission]:
    """The submissions, with a note where one is of another variant than the class.

    The instructor's word counts, never the file's: a file of last year's would choose last year's answers.  One stray file is one student's matter,
    and is graded as everybody's.  Raises ValueError only where most files are of a variant and none is named: then the word is missing.
    """
    read = [each for each in submissions if not each.problem]
    strays = [each for each in read if each.variant]
    if variant is None and 2 * len(strays) > len(read):
        name = Counter(each.variant for each in strays).most_common(1)[0][0]
        one = f"{strays[0].student}'s {strays[0].notebook.file}"
        raise ValueError(f"{len(strays)} of {len(read)} files are of a variant, {one} for instance: grade with --variant {name!r}, or with --variant {PLAIN}")
    found = []
    for each in submissions:
        fits = each.problem or variant == PLAIN or each.variant == variant
        found.append(each if fits else replace(each, notes=(*each.notes, variant_note(each, variant))))
    return found


def variant_note(submission: Submission, variant: str | None) -> str:
    """What a student is told whose file is of another variant than the class."""
    own = f"the variant {submission.variant!r}" if submission.variant else "no variant"
    return f"the file is of {own}, graded by {variant!r}" if variant else f"the file is of {own}, which is not your class's: graded by the course as it is"


def warnings_of(folder: Path, submissions: Sequence[Submission]) -> list[str]:
    """What is the matter with files, a line each: the student, and what to do."""
    own = [f"student {each.student}: {words}" for each in submissions for words in (each.problem, *each.notes) if words]
    return list(dict.fromkeys([*loose_files(folder), *own]))


def refuse_strange(out: Path, folder: Path) -> None:
    """Raises ValueError where grades would be written among other things, or would look like a student."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out} lies in {folder}: the grades would be taken for a student's folder")
    if out.exists() and not (out / "grades.csv").is_file() and (not out.is_dir() or any(each.name != UNFINISHED for each in out.iterdir())):
        raise ValueError(f"{out} holds other things than grades; give an empty folder, or one of earlier grades")


def chosen(numbers: Sequence[str], root: Path) -> list[Notebook]:
    """The notebooks of those numbers.  Raises ValueError for one that is not there or has no exercises."""
    course = {entry.number: entry for entry in read_course(root)}
    for number in numbers:
        if number not in course:
            raise ValueError(f"no notebook {number!r}; there are {', '.join(course)}")
        if not exercises_of(number):
            raise ValueError(f"notebook {number} has no exercises")
    return [course[number] for number in dict.fromkeys(numbers)]


def clean(entry: Notebook, root: Path) -> Clean:
    """A notebook as it is handed out, made anew: in `notebooks/` somebody may be at work.  Raises FileNotFoundError where there is nothing to make it from."""
    import nbformat

    notebook = learners(nbformat.read(Edition(entry, root).solution, 4), entry.exercises)
    named = {id: function.name for id, function in definitions(notebook).items()}
    return Clean(code_cells(json.loads(nbformat.writes(notebook))), named)


def grade_all(submissions: Sequence[Submission], clean_ones: dict[str, Clean], rules: Rules, closed: tuple[Path, ...], told: Callable[[str], None]) -> list[Grade]:
    """A grade for every exercise of every submission, in their order."""
    attempts, found = attempted(submissions, clean_ones)
    jobs = [Job(each.answer, clean_ones[each.task.notebook].functions, rules.limits, closed, rules.variant) for each in attempts]

    left = Counter(each.submission.student for each in attempts)
    of = len(left)

    def note(number: int, outcome: Outcome) -> None:
        each = attempts[number]
        student = each.submission.student
        found[student, each.task.id] = graded(student, each.task, each.submission.notebook, outcome, each.marks, rules.marked_points)
        left[student] -= 1
        if not left[student]:
            del left[student]
            told(f"{student} is graded, {of - len(left)} of {of} students")

    run_all(jobs, rules.workers, list(clean_ones), note)
    order = [(each.student, task.id) for each in submissions for task in exercises_of(each.notebook.number)]
    return [found[key] for key in order]


def attempted(submissions: Sequence[Submission], clean_ones: dict[str, Clean]) -> tuple[list[Attempted], dict[tuple[str, str], Grade]]:
    """The answers that are to be run, and the grades of those that are not there."""
    attempts, found = [], {}
    for each in submissions:
        own, problem = read_answers(each, clean_ones[each.notebook.number].cells)
        for task in exercises_of(each.notebook.number):
            if task.id in own:
                attempts.append(Attempted(each, task, own[task.id], marks_of(own[task.id], task)))
            else:
                found[each.student, task.id] = without_answer(each.student, task, each.notebook, f"Not there: {problem or f'no cell with @exercise({task.id!r})'}.")
    return attempts, found


def marks_of(answer: Answer, task: Exercise) -> tuple[str, ...]:
    """Its marks; one that says so where its text defeats the looking."""
    try:
        return marks(answer, task)
    except Exception as error:  # as below
        return (f"has a text that cannot be looked through ({type(error).__name__})",)


def read_answers(submission: Submission, clean_cells: Sequence[Cell]) -> tuple[dict[str, Answer], str | None]:
    """The answers of a submission, or why there are none."""
    if submission.problem:
        return {}, submission.problem
    try:
        return answers_of(submission.cells, clean_cells), None
    except Exception as error:  # whatever a file may hold, it is one student's: the rest of the class is graded
        return {}, f"its cells cannot be read ({type(error).__name__}: {printable(str(error))})"
