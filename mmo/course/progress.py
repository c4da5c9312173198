"""What a learner has done, in one small file: runs/progress.json (the folder is `MMO_RUNS`).

    {"version": 1,
     "exercises": {"07.delay": {"passed": true, "attempts": 3, "hints": 1}},
     "predictions": {"07.first": {"mine": 1, "truth": 8}},
     "ears": {"01.few": {"rounds": [{"right": 6, "trials": 8}]}},
     "clinic": {"15.delay": {"guesses": ["..."], "found": true, "repaired": false}},
     "quizzes": {"07.clock": {"first": "the words of the first choice", "right": true, "tries": 2}}}

It is read before every change and replaced in one go, so that it is whole whenever the machine stops.  A file that
cannot be read is laid aside under another name, never overwritten.  What a solution does while it is executed is written nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from mmo.profiles import REPOSITORY, runs_root


KINDS = {"attempts": int, "hints": int, "passed": bool, "rounds": list, "guesses": list, "found": bool, "repaired": bool, "first": str, "right": bool, "tries": int}


def strict() -> bool:
    """MMO_STRICT=1, which is how solutions are executed."""
    return os.environ.get("MMO_STRICT") == "1"


def is_nobodys() -> bool:
    """Whether what is done now is no learner's doing: solutions are executed strictly, or opened where they lie, in solutions/."""
    return strict() or Path.cwd() == REPOSITORY / "solutions"


def empty() -> dict:
    return {"version": 1, "exercises": {}, "predictions": {}, "ears": {}, "clinic": {}, "quizzes": {}}


def progress_file() -> Path:
    return runs_root() / "progress.json"


def load(path: Path | None = None) -> dict:
    """The progress so far; empty where there is no file, or where it is broken (it is kept beside, and that is said)."""
    path = path or progress_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for part in ("ears", "clinic", "quizzes"):  # files from before there were such have none
            found.setdefault(part, {})
        check_entries(found)
        return found
    except (FileNotFoundError, NotADirectoryError):
        return empty()
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        names = (path.with_name(f"{path.name}.broken{number or ''}") for number in range(1000))
        aside = next(name for name in names if not name.exists())
        os.replace(path, aside)
        print(f"{path} cannot be read ({error!r}); it is kept as {aside.name}, and counting starts anew.", file=sys.stderr)
        return empty()


def check_entries(found: dict) -> None:
    """Raises ValueError where something in a progress file is not of its kind."""
    for part in ("exercises", "predictions", "ears", "clinic", "quizzes"):
        for id, entry in found[part].items():
            if not isinstance(entry, dict):
                raise ValueError("its entries are no mappings")
            wrong = [name for name, kind in KINDS.items() if part != "predictions" and name in entry and not isinstance(entry[name], kind)]
            if wrong:
                raise ValueError(f"{part}, {id}: {wrong[0]} is {entry[wrong[0]]!r}")


def save(progress: dict, path: Path | None = None) -> None:
    """Replace the file in one go; without a path the learner's, which a solution leaves as it is.

    Where the learner's cannot be written that is said, and nothing else stops: a verdict is worth more than its count.
    """
    if path is None and is_nobodys():
        return
    given, path = path, path or progress_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        unfinished.write_text(json.dumps(progress, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        if given is not None:
            raise
        print(f"your progress cannot be written to {path} ({error.strerror}); set MMO_RUNS to a folder that can be written to. All else goes on.", file=sys.stderr)


@contextlib.contextmanager
def changing(asked: bool = False) -> Iterator[dict]:
    """The progress, to be changed and then saved: one kernel after the other, so that none forgets what another has noted.

    asked: somebody has asked for the change itself; then it is made wherever they are, and an error is theirs to see.
    """
    lock = FileLock(progress_file().with_suffix(".lock"), timeout=10)
    if asked or not is_nobodys():
        with contextlib.suppress(OSError):  # a folder that cannot be written to (`save` says so), or a lock that nobody gives back
            progress_file().parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    try:
        progress, readable = empty(), True
        try:
            progress = load()
        except OSError as error:
            if asked:
                raise
            readable = False  # a verdict is worth more than its count
            print(f"your progress cannot be read from {progress_file()} ({error.strerror}), so nothing is added to it. All else goes on.", file=sys.stderr)
        yield progress
        if readable:
            save(progress, progress_file() if asked else None)
    finally:
        lock.release()


def note_attempt(id: str, passed: bool) -> None:
    """Count an attempt; once passed, an exercise stays passed."""
    with changing() as progress:
        entry = progress["exercises"].setdefault(id, {})
        entry["attempts"] = entry.get("attempts", 0) + 1
        entry["passed"] = entry.get("passed", False) or passed


def note_hint(id: str, number: int) -> None:
    """Remember how many hints were read."""
    with changing() as progress:
        entry = progress["exercises"].setdefault(id, {})
        entry["hints"] = max(entry.get("hints", 0), number)


def note_prediction(id: str, **what) -> dict:
    """Add to a prediction's entry; what was committed first stays.  Returns the entry."""
    with changing() as progress:
        entry = progress["predictions"].setdefault(id, {})
        for name, value in what.items():
            entry.setdefault(name, value)
    return entry


def note_round(id: str, result: dict) -> None:
    """Add a finished round of ear training."""
    with changing() as progress:
        progress["ears"].setdefault(id, {}).setdefault("rounds", []).append(result)


def rounds(id: str) -> list[dict]:
    """The finished rounds of an ear training, oldest first."""
    return load()["ears"].get(id, {}).get("rounds", [])


def note_diagnosis(id: str, cause: str, right: bool) -> dict:
    """Add a guess to a patient of the clinic; once it is found, nothing more is counted.  Returns the entry."""
    with changing() as progress:
        entry = progress["clinic"].setdefault(id, {})
        entry |= {"guesses": [], "found": False, "repaired": False} | entry
        if not entry["found"] and cause not in entry["guesses"]:
            entry["guesses"].append(cause)
            entry["found"] = right
    return entry


def note_repair(id: str) -> None:
    """Remember that a patient was cured by the learner's own function."""
    with changing() as progress:
        entry = progress["clinic"].setdefault(id, {})
        entry |= {"guesses": [], "found": False} | entry | {"repaired": True}


def note_choice(id: str, words: str, right: bool) -> dict:
    """Count a choice in a quiz; the first one stays.  Returns the entry."""
    with changing() as progress:
        entry = progress["quizzes"].setdefault(id, {"first": words, "right": right})
        entry["tries"] = entry.get("tries", 0) + 1
    return entry


def reset(notebook: str) -> int:
    """Forget a notebook ("07"); returns how many entries were forgotten."""
    forgotten = 0
    with changing(asked=True) as progress:
        for part in ("exercises", "predictions", "ears", "clinic", "quizzes"):
            for id in [id for id in progress[part] if id.split(".")[0] == notebook]:
                del progress[part][id]
                forgotten += 1
    return forgotten
