"""For whoever teaches: docs/instructor/notebooks/NN_name.md and docs/instructor/plans.md.

A notebook's page is written by hand (its aim, what to show, three questions, what to leave when late) but for what course.yml,
the exercises and the quizzes know.  That stands between markers and is made anew by `mmo course build`:

    <!-- facts -->      minutes, exercises, points, links
    <!-- mistakes -->   what each exercise's check says to the mistakes it knows
    <!-- cut: 07.padding -->   what these exercises save, given in the order in which to leave them

plans.md is made wholly, from docs/instructor/plans.yml and the minutes of course.yml; `plan_problems` says where a plan does not fit:
a session longer than its hours, a notebook before those it builds on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo.course.catalogue import Notebook, read_course, read_yaml
from mmo.course.exercises import exercises_of, worth
from mmo.course.questions import QUIZZES, QuizError, read_quiz

FOLDER = Path("docs/instructor")
PROFILE = "tiny"  # whose minutes are counted
QUIZ_MINUTES = 2  # a question, its discussion included
SECTIONS = ("## Show live", "## Three questions", "## Mistakes the checks know", "## When late")
REGION = re.compile(r"(<!-- (facts|mistakes|cut:[^>]*?) -->\n).*?(<!-- end of (?:facts|mistakes|cut) -->)", re.DOTALL)
ORDER_OF_MISTAKES = (
    "The checks recognise these by trying them; each line is what the learner then reads. They stand in the order in which they are tried, not by how often they are made: "
    "nobody has counted that yet. Which of them your class makes most is in the [`class.html`](../grading.md#what-you-get) of your grading."
)
MADE = "<!-- made by `mmo course build` from plans.yml, course.yml and the exercises: change those -->"


class TeachingError(ValueError):
    """A page or plan cannot be used; the message names it."""


# --- Minutes -----------------------------------------------------------------------------------------------------


def minutes_of(notebook: Notebook, left: Sequence[str] = ()) -> int:
    """A learner's minutes for a notebook, without the exercises `left` to the package.  Raises TeachingError for an unknown one."""
    known = {each.id: each for each in exercises_of(notebook.number)}
    unknown = [id for id in left if id not in known]
    if unknown:
        raise TeachingError(f"notebook {notebook.number} has no exercise {', '.join(unknown)}; there are {', '.join(known) or 'none'}")
    whole, saved = notebook.minutes[PROFILE], sum(known[id].minutes for id in left)
    if saved >= whole:
        raise TeachingError(f"notebook {notebook.number} takes {whole} minutes by course.yml, but its exercises {saved}")
    return whole - saved


# --- A notebook's page -------------------------------------------------------------------------------------------


def page_path(entry: Notebook) -> Path:
    """Where a notebook's page stands, in the repository."""
    return FOLDER / "notebooks" / f"{entry.file}.md"


def renewed(text: str, entry: Notebook) -> str:
    """A page with what stands between its markers made anew.  Raises TeachingError."""
    return REGION.sub(lambda found: f"{found[1]}{region(found[2], entry)}\n{found[3]}", text)


def region(name: str, entry: Notebook) -> str:
    if name == "facts":
        return facts(entry)
    if name == "mistakes":
        return mistakes(entry)
    return cuts(entry, [id.strip() for id in name.removeprefix("cut:").split(",") if id.strip()])


def facts(entry: Notebook) -> str:
    """The lines under a page's title."""
    tasks = exercises_of(entry.number)
    parts = [f"{minutes} minutes ({profile})" + (f", {sum(each.minutes for each in tasks)} of them for exercises" if profile == PROFILE and tasks else "") for profile, minutes in entry.minutes.items()]
    parts += entry.running()
    parts.append(f"{len(tasks)} exercise{'s' if len(tasks) > 1 else ''}, {entry.points} points" if tasks else "no exercises")
    parts.append(f"builds on {', '.join(entry.needs)}" if entry.needs else "builds on nothing before it")
    links = [f"[the notebook](../../../notebooks/{entry.file}.ipynb)", f"[solved](../../../solutions/{entry.file}.ipynb)"]
    try:
        links.append(f"[the quiz](../../../mmo/course/quizzes/{entry.number}.yml), {len(read_quiz(entry.number))} questions")
    except QuizError:
        links.append("no quiz yet")
    return f"{' · '.join(parts)}.\n{' · '.join(links)}."


def mistakes(entry: Notebook) -> str:
    """What the checks say to the mistakes they know, exercise by exercise."""
    tasks = exercises_of(entry.number)
    if not tasks:
        return "This notebook has no exercises."
    parts = [ORDER_OF_MISTAKES]
    for each in tasks:
        parts.append(f"\n**{each.id}** · {each.title} · {each.minutes} minutes, {worth(entry.exercises[each.id])}, difficulty {each.difficulty} of 3\n")
        parts += [f"- {one_line(bug.words)}" for bug in each.bugs]
    return "\n".join(parts)


def one_line(words: str) -> str:
    """Words as one line of Markdown, in which nothing but `code` is markup."""
    parts = re.split(r"(`[^`]+`)", " ".join(words.split()))
    return "".join(part if part.startswith("`") and len(part) > 1 else re.sub(r"([*_<>\[\]|`#\\])", r"\\\1", part) for part in parts)


def cuts(entry: Notebook, ids: Sequence[str]) -> str:
    """What leaving these exercises saves, one after the other."""
    if not ids:
        return "There is no exercise to leave here."
    known = {each.id: each for each in exercises_of(entry.number)}
    lines = []
    for count, id in enumerate(ids, 1):
        rest = minutes_of(entry, ids[:count])
        lines.append(f"{count}. `{id}`, {known[id].title}: saves {known[id].minutes} minutes, {rest} are left.")
    return "\n".join(lines)


def page_flaws(entry: Notebook, text: str) -> Iterator[str]:
    """What a page lacks."""
    if not text.startswith(f"# {entry.number} · {entry.title}\n"):
        yield f"its title is not that of course.yml, {entry.number} · {entry.title}"
    for marker in ("<!-- facts -->", "<!-- mistakes -->"):
        if text.count(marker) != 1:
            yield f"it needs one {marker}"
    if len(re.findall(r"<!-- cut:", text)) != 1:
        yield "it needs one <!-- cut: … -->, the exercises to leave when late"
    if not re.search(r"^\*\*Aim\.\*\* \S", text, re.MULTILINE):
        yield "it needs a line that begins with **Aim.**"
    places = [text.find(f"\n{section}\n") for section in SECTIONS]
    if -1 in places or places != sorted(places):
        yield f"it needs these sections in this order: {', '.join(SECTIONS)}"
        return
    asked = re.findall(r"^\d+\. \*\*[^*]+\?\*\* \S", text[places[1] : places[2]], re.MULTILINE)
    if len(asked) != 3:
        yield f"it needs three questions, each `1. **…?** answer`, not {len(asked)}"


# --- Plans -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A stretch of a session, or of the time between two."""

    what: str  # in Markdown
    minutes: int
    note: str = ""
    notebook: str = ""  # its number


@dataclass(frozen=True)
class Session:
    """A stretch of a timetable, without a gap."""

    title: str
    start: int  # minutes since midnight
    end: int
    blocks: tuple[Block, ...]
    home: tuple[Block, ...] = ()  # before the next session

    @property
    def minutes(self) -> int:
        return sum(block.minutes for block in self.blocks)


@dataclass(frozen=True)
class Plan:
    """A course in the form of a timetable."""

    title: str
    about: str
    sessions: tuple[Session, ...]
    instead: dict[str, str]  # notebooks that it leaves out though others build on them: number -> what takes their place


def read_plans(root: Path) -> tuple[Plan, ...]:
    """The plans of plans.yml with the minutes of course.yml.  Raises TeachingError naming plan and session."""
    path = root / FOLDER / "plans.yml"
    course = {entry.number: entry for entry in read_course(root)}
    plans = []
    for entry in read_yaml(path):
        try:
            sessions = tuple(read_session(each, course) for each in entry["sessions"])
            plans.append(Plan(entry["title"], " ".join(entry["about"].split()), sessions, entry.get("instead") or {}))
        except (KeyError, TypeError) as error:
            raise TeachingError(f"plans.yml, {entry.get('title', entry)}: {error!r}") from None
        except ValueError as error:
            raise TeachingError(f"plans.yml, {entry.get('title', entry)}: {error}") from None
    return tuple(plans)


def read_session(entry: dict, course: dict[str, Notebook]) -> Session:
    try:
        blocks, home = (tuple(read_block(each, course) for each in entry.get(part) or ()) for part in ("blocks", "home"))
        return Session(entry["title"], clock(entry["start"]), clock(entry["end"]), blocks, home)
    except ValueError as error:
        raise TeachingError(f"{entry.get('title', entry)}: {error}") from None


def read_block(entry: dict, course: dict[str, Notebook]) -> Block:
    """One of: notebook (whole; without the exercises in `leave`; `read: true`: without any), quiz, show, pause."""
    note = " ".join(str(entry.get("note", "")).split())
    kind = next((kind for kind in ("notebook", "quiz", "show", "pause") if kind in entry), None)
    unknown = set(entry) - {kind, "note", *{"notebook": ("leave", "read"), "show": ("minutes",), "pause": ("minutes",)}.get(kind, ())}
    if kind is None or unknown:
        raise TeachingError(f"a block is a notebook, a quiz, a show or a pause, not {entry}")
    if kind in ("notebook", "quiz"):
        number = entry[kind]
        if number not in course:
            raise TeachingError(f"no notebook {number!r}; there are {', '.join(course)}")
        notebook = course[number]
        link = f"[{number} {notebook.title}](notebooks/{notebook.file}.md)"
        if kind == "quiz":
            return Block(f"quiz {link}", QUIZ_MINUTES * len(read_quiz(number)), note)
        tasks = [each.id for each in exercises_of(number)]
        left = tasks if entry.get("read") else list(entry.get("leave") or ())
        how = ", run and read; the exercises are left to the package" if entry.get("read") and tasks else f", without {', '.join(left)}" if left else ""
        return Block(f"{link}{how}", minutes_of(notebook, left), note, number)
    return Block(str(entry[kind]), int(entry["minutes"]), note)


def clock(text: str) -> int:
    """ "09:30" -> 570.  Raises TeachingError."""
    found = re.fullmatch(r"(\d\d):(\d\d)", str(text))
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise TeachingError(f"a time is written \"09:30\", not {text!r}")
    return 60 * int(found[1]) + int(found[2])


def as_clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def plan_problems(plan: Plan, course: Sequence[Notebook]) -> Iterator[str]:
    """Where a plan does not fit its hours, or the order in which notebooks build on each other."""
    needs, done = {entry.number: entry.needs for entry in course}, set()
    for session in plan.sessions:
        over = session.minutes - (session.end - session.start)
        if over > 0:
            yield f"{plan.title}, {session.title}: {session.minutes} minutes do not fit between {as_clock(session.start)} and {as_clock(session.end)}; {over} too many"
        for block in (*session.blocks, *session.home):
            if block.notebook:
                missing = [number for number in needs[block.notebook] if number not in done | set(plan.instead)]
                if missing:
                    yield f"{plan.title}, {session.title}: notebook {block.notebook} builds on {', '.join(missing)}, which comes later or not at all (say in `instead` what takes its place)"
                done.add(block.notebook)
    unneeded = sorted(set(plan.instead) & done)
    if unneeded:
        yield f"{plan.title}: `instead` names {', '.join(unneeded)}, which is in the plan"


def plans_page(plans: Sequence[Plan], course: Sequence[Notebook]) -> str:
    """plans.md."""
    whole = sum(entry.minutes[PROFILE] for entry in course)
    parts = [
        "# Plans: a weekend, a day, six weeks",
        MADE,
        f"All twenty notebooks take a learner {hours(whole)} by `course.yml`: minutes to work through them, for somebody who meets the subject for the first time, not seconds to run them. "
        "They are estimates; keep your own beside them, and change `course.yml` where you know better: these tables follow, and `mmo course build --check` says where a plan then no longer fits. "
        "A notebook's minutes less an exercise's are what it takes when the package does that exercise. "
        f"A quiz counts {QUIZ_MINUTES} minutes a question, with its discussion.",
    ]
    for plan in plans:
        inside = sum(block.minutes for session in plan.sessions for block in session.blocks if block.notebook)
        home = sum(block.minutes for session in plan.sessions for block in session.home)
        share = f"{hours(inside)} in notebooks" + (f", {hours(home)} at home" if home else "")
        parts += [f"## {plan.title}", f"{plan.about} {share}."]
        if plan.instead:
            parts.append("Left out, though others build on them: " + "; ".join(f"{number} ({words})" for number, words in sorted(plan.instead.items())) + ".")
        for session in plan.sessions:
            parts.append(f"### {session.title}")
            rows, at = ["| from | minutes | |", "|---|---:|---|"], session.start
            for block in session.blocks:
                rows.append(f"| {as_clock(at)} | {block.minutes} | {described(block)} |")
                at += block.minutes
            spare = session.end - at
            rows.append(f"| {as_clock(at)} | {spare} | {'spare, for questions and what took longer' if spare else 'the end'} |")
            parts.append("\n".join(rows))
            if session.home:
                parts.append(f"At home, {sum(block.minutes for block in session.home)} minutes: " + "; ".join(f"{described(block)} ({block.minutes})" for block in session.home) + ".")
    return "\n\n".join(parts) + "\n"


def described(block: Block) -> str:
    return f"{block.what}. {block.note}" if block.note and block.notebook else f"{block.what}: {block.note}" if block.note else block.what


def hours(minutes: int) -> str:
    """135 -> "2 h 15"."""
    return f"{minutes // 60} h {minutes % 60:02d}" if minutes % 60 else f"{minutes // 60} h"


# --- For `mmo course build` --------------------------------------------------------------------------------------


def contents(root: Path) -> dict[Path, str]:
    """What the instructor's pages should hold; nothing where this copy of the course has no such folder (a hand-out).  Raises TeachingError."""
    if not (root / FOLDER / "notebooks").is_dir():
        return {}
    course, wanted = read_course(root), {}
    for entry in course:
        path = root / page_path(entry)
        if path.is_file():
            try:
                wanted[path] = renewed(path.read_text(encoding="utf-8"), entry)
            except TeachingError as error:
                raise TeachingError(f"{page_path(entry)}: {error}") from None
    wanted[root / FOLDER / "plans.md"] = plans_page(read_plans(root), course)
    return wanted


def problems(root: Path) -> list[str]:
    """Everything about the instructor's pages, plans and quizzes that is not as it should be, in words."""
    try:
        wanted = contents(root)
        if not wanted:
            return []
        course = read_course(root)
        found = [flaw for plan in read_plans(root) for flaw in plan_problems(plan, course)]
    except ValueError as error:
        return [str(error)]
    for entry in course:
        path = root / page_path(entry)
        if path not in wanted:
            found.append(f"{page_path(entry)}: missing")
            continue
        found += [f"{page_path(entry)}: {flaw}" for flaw in page_flaws(entry, path.read_text(encoding="utf-8"))]
        if QUIZZES.is_relative_to(root):
            try:
                read_quiz(entry.number)
            except QuizError as error:
                found.append(str(error))
    found += [f"{path.relative_to(root)}: not as course.yml and the exercises say; run `mmo course build`" for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return found
