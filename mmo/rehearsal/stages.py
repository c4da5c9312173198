"""Every stage as a person runs it, each command a process of its own: train, be killed, go on, answer.

The commands are the course's own (`mmo train`, `mmo say`) and know nothing of being rehearsed but the folder of downloads, the
budget, and how many positions to compute at once.  The kill is a real one: SIGKILL as soon as the first state is saved.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mmo.features import PACE
from mmo.memory import private_bytes
from mmo.profiles import REPOSITORY, STAGES, Profile
from mmo.training import process_peak, read_log

POLL_SECONDS = 0.02
TOLD_LINES = 12  # of a failed command's output, in the error


class RehearsalFailed(RuntimeError):
    """A command did not do what it should; the message has its last words."""


@dataclass(frozen=True)
class Ran:
    """One command: how it ended, how long it took and how much memory it held at most (bytes; all pages, shared ones too)."""

    status: int  # 0; -9 where it was killed
    seconds: float
    memory: int
    output: str


@dataclass(frozen=True)
class Stage:
    """What rehearsing one stage found."""

    name: str
    memory: int  # bytes at most, of both processes
    killed_at: int  # steps that were in the saved state
    steps: int
    card_memory: int  # bytes at most on the card; 0 where there is none
    passes: dict[str, dict[str, float]]  # by name: rows, positions, seconds and processor seconds a step, medians


@dataclass
class Runner:
    """Runs commands in the folder of a rehearsal."""

    name: str  # of the profile
    folder: Path  # stand-ins
    work: Path  # runs and caches
    positions: int | None = None
    say: Callable[[str], None] = print
    done: dict[str, Ran] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.work / f"{self.name}-rehearse"

    def environment(self) -> dict[str, str]:
        """What the commands get: where things lie, nothing fetched, no screen."""
        found = os.environ | {
            "MMO_DOWNLOADS": str(self.folder), "MMO_RUNS": str(self.work), "MMO_CACHE": str(self.work / "cache"), "MPLBACKEND": "Agg",
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
        }  # fmt: skip
        found.pop("MMO_POSITIONS", None)
        return found | ({} if self.positions is None else {"MMO_POSITIONS": str(self.positions)})

    def run(self, *arguments: str, kill_when: Callable[[], bool] | None = None, module: str = "mmo") -> Ran:
        """`mmo …` in a process of its own; with `kill_when`, killed as soon as that is true."""
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], env=self.environment(), cwd=REPOSITORY,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
        reader.start()
        try:
            status, memory = watch(process, kill_when)
        finally:
            process.kill()  # of one that has ended nothing comes; one that is left behind by Ctrl-C would train on
        reader.join()
        return Ran(status, time.monotonic() - started, memory, "".join(said))

    def expect(self, *arguments: str, module: str = "mmo") -> Ran:
        """The same, and it must end well."""
        ran = self.run(*arguments, module=module)
        if ran.status:
            raise RehearsalFailed(f"{module} {' '.join(arguments)} ended with status {ran.status}:\n{last_words(ran.output)}")
        return ran


def last_words(output: str) -> str:
    """The last lines of what a command said; a progress bar's many states are one line."""
    lines = [line.rsplit("\r", 1)[-1] for line in output.rstrip().splitlines()]
    return "\n".join(lines[-TOLD_LINES:])


def watch(process: subprocess.Popen, kill_when: Callable[[], bool] | None) -> tuple[int, int]:
    """Wait for a process to end: status, and the most bytes it held (looked at every POLL_SECONDS)."""
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error, OSError):  # it may end between two looks
            peak = max(peak, held(process.pid))
        if kill_when and kill_when():
            process.kill()
            kill_when = None
        time.sleep(POLL_SECONDS)
    return process.returncode, peak


def held(process: int) -> int:
    """Bytes that a living process held at most so far, and what those that it started hold now.  Raises psutil.Error where it has ended.

    A loader's process shares most of its memory with its parent: only its own counts.
    """
    beside = sum(private_bytes(each) for each in psutil.Process(process).children(recursive=True))
    return process_peak(process) + beside


# --- Training --------------------------------------------------------------------------------------------------------


def rehearse_stage(runner: Runner, stage: str, steps: int | None = None) -> Stage:
    """Train a stage, kill it behind its first saved state, go on by the same command.

    Raises RehearsalFailed where it ends before it is killed, goes on elsewhere than it stood, or leaves no weights.
    """
    command = ["train", "--profile", runner.name, "--stage", stage, "--budget", "rehearse", *(["--steps", str(steps)] if steps else [])]
    state, weights = runner.run_dir / f"{stage}.state.safetensors", runner.run_dir / f"{stage}.safetensors"
    for stale in (state, weights):
        stale.unlink(missing_ok=True)
    first = runner.run(*command, kill_when=state.is_file)
    if first.status == 0:
        raise RehearsalFailed(f"{stage} came to its end before it could be killed: give it more steps")
    if not state.is_file():
        raise RehearsalFailed(f"{stage} ended with status {first.status} before it saved a state:\n{last_words(first.output)}")
    second = runner.expect(*command)
    return checked(runner, stage, weights, (first, second))


def checked(runner: Runner, stage: str, weights: Path, ran: Sequence[Ran]) -> Stage:
    """What a stage's log and weights say, if they are as they should be.  Raises RehearsalFailed where not."""
    log = read_log(runner.run_dir / "log" / f"{stage}.jsonl")
    resumed = [line for line in ran[1].output.splitlines() if line.startswith("going on with stage")]
    if not resumed:
        raise RehearsalFailed(f"{stage} began anew after it was killed:\n{last_words(ran[1].output)}")
    if not weights.is_file():
        raise RehearsalFailed(f"{stage} came to its end without {weights}")
    if [entry["step"] for entry in log] != list(range(len(log))):
        raise RehearsalFailed(f"{stage}: the log's steps are {[entry['step'] for entry in log]}; each should be there once")
    killed_at = int(resumed[0].rsplit(" ", 1)[1])
    told = json.loads((runner.run_dir / "log" / f"{stage}.result.json").read_text(encoding="utf-8"))
    return Stage(
        name=stage,
        memory=max(each.memory for each in ran),
        killed_at=killed_at,
        steps=len(log),
        card_memory=told["memory"] if told["device"] == "cuda" else 0,
        passes={name: pace([entry for entry in log if entry["pass"] == name], killed_at) for name in dict.fromkeys(entry["pass"] for entry in log)},
    )


def pace(entries: Sequence[dict], resumed_at: int = 0) -> dict[str, float]:
    """Rows, positions, seconds and processor seconds of a pass's steps, all in all.

    The first step of the pass and that of the process which went on (`resumed_at`) warm up: left out, where there are more.
    """
    counted = [entry for entry in entries[1:] if entry["step"] != resumed_at] or entries[1:] or entries
    return {name: float(sum(entry[name] for entry in counted)) for name in ("rows", "positions", "seconds", "processor_seconds")} | {
        "steps": float(len(counted))
    }


def encoder_pace(cache: Path) -> dict[str, dict[str, float]]:
    """By column, what the frozen encoders' features cost: items, seconds, processor seconds (all data files together)."""
    found: dict[str, dict[str, float]] = {}
    for file in cache.rglob(PACE):
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["items"]:
            sums = found.setdefault(told["column"], {"items": 0.0, "seconds": 0.0, "processor_seconds": 0.0})
            for name in sums:
                sums[name] += told[name]
    return found


# --- Answering -------------------------------------------------------------------------------------------------------


def rehearse_answers(runner: Runner, chosen: Profile, questions: dict[str, Sequence[str]]) -> dict[str, dict]:
    """`mmo say` with the last stage's weights, once for each kind of question; by kind: memory, seconds, the line about the sound.

    questions: arguments by kind.  Raises RehearsalFailed.
    """
    found = {}
    weights = runner.run_dir / f"{STAGES[-1]}.safetensors"
    for kind, arguments in questions.items():
        out = runner.work / "answers" / f"{kind}.wav"
        out.unlink(missing_ok=True)
        ran = runner.expect("say", *arguments, "--profile", chosen.name, "--weights", str(weights), "--out", str(out))
        found[kind] = {"memory": ran.memory, "seconds": ran.seconds, "spoke": out.is_file(), "said": last_words(ran.output).splitlines()[-1]}
    return found | {"text, unable to stop": rehearse_speech(runner, weights)}


def rehearse_speech(runner: Runner, weights: Path) -> dict:
    """A written question answered aloud, frame by frame through the codec (speak.py).  Raises RehearsalFailed where no sound came."""
    out = runner.work / "answers" / "speech.wav"
    out.unlink(missing_ok=True)
    arguments = ("--profile", runner.name, "--weights", str(weights), "--out", str(out))
    ran = runner.expect(*arguments, module="mmo.rehearsal.speak")
    if not out.is_file():
        raise RehearsalFailed(f"no sound came out of the codec:\n{last_words(ran.output)}")
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return {"memory": ran.memory, "seconds": ran.seconds, "spoke": True, "said": last_words(ran.output).splitlines()[-1]} | told


def question_files(work: Path, chosen: Profile) -> dict[str, list[str]]:
    """A written, a spoken and a shown question, the last two from the held-out rows."""
    import pyarrow.parquet as pq

    folder = work / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    sound, picture = folder / "question.flac", folder / "question.jpg"
    heard = pq.read_table(chosen.data_dir / "a2a-test.parquet", columns=["question_audios"]).slice(0, 1).to_pylist()[0]
    seen = pq.read_table(chosen.data_dir / "i2t-test.parquet", columns=["image_bytes"]).slice(0, 1).to_pylist()[0]
    sound.write_bytes(heard["question_audios"][0])
    picture.write_bytes(seen["image_bytes"])
    return {"text": ["What is three plus four?"], "sound": ["--audio", str(sound)], "picture": ["--image", str(picture)]}
