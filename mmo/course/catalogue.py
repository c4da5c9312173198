"""course.yml: what notebooks there are, and what each promises.  Everything else that lists them is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE_BEGIN, TABLE_END = "<!-- notebooks: made by `mmo course build` from course.yml -->", "<!-- end of notebooks -->"


@dataclass(frozen=True)
class Notebook:
    """One entry of course.yml."""

    number: str  # "07"
    file: str  # "07_sequence_and_delay"
    title: str
    aim: str  # one line: what one has at the end
    minutes: dict[str, int]  # profile -> minutes to work through it
    exercises: dict[str, int] = field(default_factory=dict)  # exercise id -> its points
    needs: tuple[str, ...] = ()  # numbers of notebooks
    seconds: dict[str, int] = field(default_factory=dict)  # profile -> run from top to bottom, measured
    cores: int = 1  # that they were measured on
    hidden_share: float = 0.5  # of an exercise's points, for the hidden cases of `mmo course grade`
    hidden_shares: dict[str, float] = field(default_factory=dict)  # exercise id -> its own, where it has one

    @property
    def points(self) -> int:
        """Of all its exercises."""
        return sum(self.exercises.values())

    def share_of(self, id: str) -> float:
        """Of an exercise's points, the part that its hidden cases carry."""
        return self.hidden_shares.get(id, self.hidden_share)

    def line(self) -> str:
        """The generated line under the title."""
        parts = [f"{minutes} minutes ({profile})" for profile, minutes in self.minutes.items()]
        parts += self.running()
        parts.append("builds on " + ", ".join(self.needs) if self.needs else "builds on nothing before it")
        if self.exercises:
            parts.append(f"{len(self.exercises)} exercises, {self.points} points")
        return f"*Takes {' · '.join(parts)}*"

    def running(self) -> list[str]:
        """What it takes to run, in words, a profile each."""
        where = "one core" if self.cores == 1 else f"{self.cores} cores"
        return [f"runs in {seconds} s on {where} ({profile})" for profile, seconds in self.seconds.items()]


def read_course(root: Path = REPOSITORY) -> tuple[Notebook, ...]:
    """The notebooks of course.yml in their order.  Raises ValueError naming an entry that cannot be used."""
    entries = read_yaml(root / "course.yml")["notebooks"]
    notebooks = []
    for entry in entries:
        try:
            notebook = Notebook(**entry | {"needs": tuple(entry.get("needs") or ())})
        except TypeError as error:
            raise ValueError(f"course.yml, {entry.get('file', entry)}: {error}") from None
        if not notebook.file.startswith(f"{notebook.number}_"):
            raise ValueError(f"course.yml, {notebook.file}: its name must begin with its number {notebook.number!r}")
        refuse_points(notebook)
        refuse_shares(notebook)
        notebooks.append(notebook)
    numbers = [notebook.number for notebook in notebooks]
    for notebook in notebooks:
        unknown = [number for number in notebook.needs if number not in numbers]
        if unknown:
            raise ValueError(f"course.yml, {notebook.file}: needs {', '.join(unknown)}, which course.yml does not list")
    return tuple(notebooks)


def read_yaml(path: Path):
    """What a YAML file says.  Raises ValueError naming file and place where it is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is no YAML: {str(error).replace('<unicode string>', path.name)}") from None


@lru_cache
def listed_points(root: Path = REPOSITORY) -> dict[str, Mapping[str, int]]:
    """Notebook number -> exercise id -> points, read once; empty where there is no course.yml (the package without its repository).

    A hand-out lists the notebooks that are handed out, and no others.
    """
    return {entry.number: entry.exercises for entry in read_course(root)} if (root / "course.yml").is_file() else {}


def refuse_points(notebook: Notebook) -> None:
    """Raises ValueError for points that are none, or of another notebook's exercise."""
    if not isinstance(notebook.exercises, dict):
        raise ValueError(f"course.yml, {notebook.file}: `exercises` must give each exercise's points, {{{notebook.number}.name: 3}}, not {notebook.exercises!r}")
    for id, points in notebook.exercises.items():
        if not str(id).startswith(f"{notebook.number}."):
            raise ValueError(f"course.yml, {notebook.file}: `exercises` names {id!r}; its own begin with {notebook.number!r} and a dot")
        if type(points) is not int or points < 1:
            raise ValueError(f"course.yml, {notebook.file}: the points of {id} must be a whole number from 1 on, not {points!r}")


def refuse_shares(notebook: Notebook) -> None:
    """Raises ValueError for a hidden share that is none, or of an exercise that the notebook has not."""
    ids = list(notebook.exercises)
    if not isinstance(notebook.hidden_shares, dict):
        raise ValueError(f"course.yml, {notebook.file}: hidden_shares must give shares by exercise, not {notebook.hidden_shares!r}; one for all is hidden_share")
    for name, share in {"hidden_share": notebook.hidden_share, **notebook.hidden_shares}.items():
        if name != "hidden_share" and name not in ids:
            raise ValueError(f"course.yml, {notebook.file}: hidden_shares names {name!r}; its exercises are {', '.join(ids) or 'none'}")
        if not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(f"course.yml, {notebook.file}: {'' if name == 'hidden_share' else 'hidden_shares of '}{name} must lie between 0 and 1, not {share!r}")


def chosen(numbers: Sequence[str], root: Path = REPOSITORY) -> list[Notebook]:
    """The notebooks of those numbers, in the course's order.  Raises ValueError for an unknown one."""
    course = read_course(root)
    unknown = sorted(set(numbers) - {entry.number for entry in course})
    if unknown:
        raise ValueError(f"no notebook {', '.join(unknown)}; there are {', '.join(entry.number for entry in course)}")
    return [entry for entry in course if not numbers or entry.number in numbers]


def repository_address(root: Path = REPOSITORY) -> str:
    """Where the course is published, `repository:` in course.yml; empty where it is not.  Raises ValueError for anything but text."""
    found = read_yaml(root / "course.yml").get("repository") or ""
    if not isinstance(found, str):
        raise ValueError(f"course.yml, repository: must be an address, not {found!r}")
    return found


def table(notebooks: tuple[Notebook, ...]) -> str:
    """README's table."""
    lines = ["| | | aim | minutes (tiny) | points |", "|---|---|---|---:|---:|"]
    for each in notebooks:
        links = f"[{each.title}](notebooks/{each.file}.ipynb)"
        solved = f"[solved](solutions/{each.file}.ipynb)"
        lines.append(f"| {each.number} | {links} · {solved} | {each.aim} | {each.minutes.get('tiny', '')} | {each.points or ''} |")
    return "\n".join(lines)


def with_table(readme: str, notebooks: tuple[Notebook, ...]) -> str:
    """README with its table renewed.  Raises ValueError where the two markers are missing."""
    if readme.count(TABLE_BEGIN) != 1 or readme.count(TABLE_END) != 1:
        raise ValueError(f"README.md needs one line {TABLE_BEGIN!r} and one {TABLE_END!r}")
    before, rest = readme.split(TABLE_BEGIN)
    _, after = rest.split(TABLE_END)
    return f"{before}{TABLE_BEGIN}\n{table(notebooks)}\n{TABLE_END}{after}"
