"""`mmo rehearse` and `mmo plan`: the whole rehearsal, its figures, and what they predict.

    figures = rehearse(Settings("mini", Path("runs/rehearsal")))      # also runs/rehearsal/mini.json
    show_figures(figures)

Figures are written behind every stage, so that an interrupted rehearsal has left what it found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import torch

from mmo.bench.report import describe_machine
from mmo.config import ModelConfig
from mmo.doctor import memory_limit
from mmo.profiles import STAGES, Profile, profile, runs_root
from mmo.rehearsal import plan as planning
from mmo.rehearsal.judges import JudgeSizes, rehearse_evaluation, write_judges
from mmo.rehearsal.stages import Runner, encoder_pace, question_files, rehearse_answers, rehearse_stage
from mmo.rehearsal.stand_ins import REAL, Sizes, downloads_at, write_stand_ins
from mmo.report import write_report

ON_A_PROCESSOR = 1024  # positions at once where there is no card: a step of the real budget would take minutes
STAND_INS_BYTES = 2.9e9  # the judges' among them
COPIES = 9  # of the weights in fp32 that lie on the disk at once: three stages', a state of three, and the next one before it takes its place
COPIES_WITH_NOTEBOOKS = COPIES + 6  # their own run's three, six snapshots in half precision
SHARED = 1.25  # clock over processor time a thread: above, others used the machine, and processor time tells more


@dataclass(frozen=True)
class Settings:
    """What to rehearse, and how."""

    name: str  # of the profile
    folder: Path  # takes stand-ins, runs, caches and the report
    positions: int | None = None  # at once; default the recipe's on a card, ON_A_PROCESSOR without
    steps: int | None = None  # a stage; default a few of each pass
    memory: float | None = None  # GB that training may take; default most of what the machine (or card) has
    stages: tuple[str, ...] = STAGES  # none: only notebooks, and the rest of the last report stays
    notebooks: Mapping[str, Path] | None = None  # name to source; default the course's 10 to 13; empty: none
    fresh: bool = False  # notebooks that are finished run anew
    answers: bool = True
    sizes: Sizes = REAL
    judges: JudgeSizes = JudgeSizes()


def default_folder() -> Path:
    return runs_root() / "rehearsal"


def figures_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def rehearse(settings: Settings, say: Callable[[str], None] = print) -> dict:
    """Everything, in the order of the real run; returns the figures.  Raises RehearsalFailed, NotebookFailed, ValueError."""
    make_sure_of_room(settings)
    # mini and mini-moe share their stand-ins: the mixture is upcycled from the dense Thinker.
    stand_ins = write_stand_ins(settings.name, (settings.folder / "stand-ins").resolve(), settings.sizes, say=say)
    with downloads_at(stand_ins):
        chosen = profile(settings.name)
    device = chosen.device()
    before = None if settings.stages else last_report(settings)
    positions = settings.positions or (before["positions"] if before else None if device.type == "cuda" else ON_A_PROCESSOR)
    runner = Runner(settings.name, stand_ins, (settings.folder / settings.name).resolve(), positions, say)
    figures = opening(settings, chosen, device, positions)
    if settings.stages:
        measure_stages(settings, runner, chosen, figures)
    elif before:
        figures = going_on(before, figures, figures_file(settings.folder, settings.name))
    if settings.notebooks is None:  # 13 asks the judges; they are there where answers were rehearsed before
        write_judges(chosen, settings.judges, say)
    if settings.notebooks is None or settings.notebooks:
        rehearse_notebooks(settings, runner, figures)
    return figures


def make_sure_of_room(settings: Settings) -> None:
    """Raises ValueError saying how much disk a rehearsal takes, where there is less: half an hour into it is late to learn it."""
    chosen = profile(settings.name)
    model = ModelConfig.from_dict(settings.sizes.model | {"use_moe": chosen.model.use_moe})
    weights = 4 * weights_of(replace(chosen, model=model))
    copies = COPIES_WITH_NOTEBOOKS if settings.notebooks is None else COPIES
    used = (settings.folder / "stand-ins", settings.folder / settings.name)  # another profile's runs stay where they are
    there = sum(path.stat().st_size for folder in used for path in folder.rglob("*") if path.is_file())
    needed = copies * weights + (STAND_INS_BYTES if settings.sizes == REAL else 0) - there  # what an earlier rehearsal left is used, or replaced
    place = next(path for path in (settings.folder.resolve(), *settings.folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(f"{settings.folder}: a rehearsal of {settings.name} takes up to {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free there; "
                         "make room, or name a folder on another disk: --folder")  # fmt: skip


def measure_stages(settings: Settings, runner: Runner, chosen: Profile, figures: dict) -> None:
    """Every stage and the answers; figures are filled in, and written behind each."""
    target = figures_file(settings.folder, settings.name)
    write_report(target, figures)
    shutil.rmtree(runner.work / "cache", ignore_errors=True)  # what encoders cost is measured, not remembered
    for stage in settings.stages:
        found = rehearse_stage(runner, stage, settings.steps)
        figures["stages"][stage] = asdict(found) | {"passes": list(found.passes)}
        figures["passes"] |= found.passes
        figures["encoders"] = encoder_pace(runner.work / "cache")
        runner.say(
            f"{stage}: killed with {found.killed_at} steps saved, gone on to {found.steps}; at most {found.memory / 1e9:.2f} GB"
            + (f", {found.card_memory / 1e9:.2f} GB of the card" if found.card_memory else "")
        )
        write_report(target, figures)
    if settings.answers and STAGES[-1] in settings.stages:
        figures["answers"] = rehearse_answers(runner, chosen, question_files(runner.work, chosen))
        figures["evaluation"] = rehearse_evaluation(runner, chosen, settings.judges)
    figures["by"] = measured_by(figures)
    figures["memory"] = memory_lines(chosen, figures, runner.positions)
    write_report(target, figures)  # enough for a plan, should the notebooks be interrupted


def rehearse_notebooks(settings: Settings, runner: Runner, figures: dict) -> None:
    """The notebooks; figures are filled in, and written behind each."""
    from mmo.rehearsal import notebooks  # papermill takes a second to import, and a plan needs none

    def tell(found: dict) -> None:
        figures["notebooks"] = dict(found)
        write_report(figures_file(settings.folder, settings.name), figures)

    notebooks.rehearse_notebooks(runner, settings.notebooks, settings.fresh, tell)


def last_report(settings: Settings) -> dict | None:
    """The figures that the last rehearsal in this folder left; None where there are none."""
    path = figures_file(settings.folder, settings.name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def going_on(before: dict, figures: dict, path: Path) -> dict:
    """The last report's figures, to which those of notebooks are added.  Raises ValueError where it is of another machine or other sizes: it would be lost."""
    names = ("profile", "full_size", "device", "positions", "weights")
    unlike = [f"{name} {before.get(name)}, now {figures[name]}" for name in names if before.get(name) != figures[name]]
    if unlike:
        raise ValueError(
            f"{path} is of another rehearsal ({'; '.join(unlike)}) and would be lost. Rehearse the stages, too (without --only-notebooks), or in a folder "
            "of its own: --folder"
        )
    return before | {"notebooks": {}}


def opening(settings: Settings, chosen: Profile, device: torch.device, positions: int | None) -> dict:
    """What is known before anything ran."""
    sizes = asdict(settings.sizes)
    return {
        "profile": settings.name, "full_size": sizes == asdict(REAL), "device": device.type, "machine": describe_machine(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else 1, "positions": positions, "limit": limit_of(settings.memory, device),
        "weights": weights_of(chosen), "stages": {}, "passes": {}, "encoders": {}, "answers": {}, "evaluation": {}, "notebooks": {}, "by": "seconds", "memory": {},
    }  # fmt: skip


def weights_of(chosen: Profile) -> int:
    """Parameters of the model, counted without making them."""
    from mmo.omni import OmniModel

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in OmniModel(chosen.model).parameters())


def limit_of(gigabytes: float | None, device: torch.device) -> float:
    """Bytes that training may take: what was asked for, else most of the card's, else what is free of the machine's."""
    if gigabytes is not None:
        return gigabytes * 1e9
    if device.type == "cuda":
        return planning.FULL * torch.cuda.get_device_properties(device).total_memory
    return planning.FULL * min(memory_limit(), psutil.virtual_memory().available)


def measured_by(figures: dict) -> str:
    """Which seconds tell more: the clock's, unless it ran much longer than the processor worked."""
    passes = figures["passes"].values()
    wall, busy = (sum(each[name] for each in passes) for name in ("seconds", "processor_seconds"))
    if figures["device"] == "cpu" and wall > SHARED * busy / figures["threads"] > 0:
        # Over the threads that could have worked: on a quiet machine they would have.
        for each in [*passes, *figures["encoders"].values()]:
            each["processor_seconds"] /= figures["threads"]
        return "processor_seconds"
    return "seconds"


def memory_lines(chosen: Profile, figures: dict, positions: int | None) -> dict:
    """By pass, fixed bytes and bytes a position: the slope is counted, the height is what the stage held in the rehearsal."""
    slopes = planning.count_memory(chosen, chosen.dtype())
    found = {}
    for stage, told in figures["stages"].items():
        held = told["card_memory"] or told["memory"]
        for config in chosen.stages[stage]:
            if config.name not in figures["passes"]:
                continue
            at_once = min(config.token_budget, max(config.max_length, positions)) if positions else config.token_budget
            each = slopes[config.name].each
            found[config.name] = {"fixed": max(0.0, held - each * at_once), "each": each, "counted_fixed": slopes[config.name].fixed}
    return found


# --- Plans -----------------------------------------------------------------------------------------------------------


def read_figures(folder: Path, name: str) -> dict:
    """Raises FileNotFoundError saying how to get them."""
    path = figures_file(folder, name)
    if not path.is_file():
        raise FileNotFoundError(f"no rehearsal's figures {path}: run `mmo rehearse --profile {name}` first, or name a card (--card rtx3090)")
    return json.loads(path.read_text(encoding="utf-8"))


def measured_plan(chosen: Profile, figures: dict, rows: int = planning.PLANNED_ROWS) -> planning.Plan:
    """What a rehearsal predicts for its machine.  Raises ValueError where it was not the real sizes."""
    if not figures["full_size"]:
        raise ValueError("these figures are of stand-ins of other sizes than the real ones: they predict nothing")
    lines = figures["memory"]
    told = figures | {"memory": {name: {"fixed": each["fixed"], "each": each["each"]} for name, each in lines.items()}}
    return planning.from_figures(planning.count(chosen, rows), told, figures["limit"])


def card_plans(chosen: Profile, names: list[str], share: float, rows: int = planning.PLANNED_ROWS) -> list[planning.Plan]:
    """Counted plans for named cards."""
    unknown = [name for name in names if name not in planning.CARDS]
    if unknown:
        raise ValueError(f"no card {unknown[0]!r}; there are {', '.join(planning.CARDS)}")
    counts = planning.count(chosen, rows)
    memory = {}
    for name in names:
        dtype = torch.bfloat16 if planning.CARDS[name].bf16 else torch.float32
        memory[dtype] = memory.get(dtype) or planning.count_memory(chosen, dtype)
    return [planning.from_card(counts, memory[torch.bfloat16 if planning.CARDS[name].bf16 else torch.float32], name, share) for name in names]


def rates(pace: dict, what: str) -> tuple[str, str, str]:
    """Rows or items a second by the clock and by processor time, and the seconds."""
    busy = f"{pace[what] / pace['processor_seconds']:.2f}" if pace["processor_seconds"] else "–"
    return f"{pace[what] / pace['seconds']:.2f}", busy, f"{pace['seconds']:.0f}"


def show_figures(figures: dict) -> None:
    """What was measured, as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140, highlight=False)
    at_once = figures["positions"] or "the recipe's"
    title = f"Rehearsal of {figures['profile']}: {figures['weights'] / 1e6:.0f} M weights, {at_once} positions at once"
    table = Table(title=title + ("" if figures["full_size"] else ", NOT the real sizes"), title_justify="left")
    for column in ("", "memory", "killed at", "steps", "rows a second", "of processor time", "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, told in figures["stages"].items():
        memory = f"{told['memory'] / 1e9:.2f} GB" + (f" + {told['card_memory'] / 1e9:.2f}" if told["card_memory"] else "")
        table.add_row(name, memory, f"step {told['killed_at']}", str(told["steps"]), "", "", "")
        for each in told["passes"]:
            pace = figures["passes"][each]
            table.add_row(f"  {each}", "", "", f"{pace['steps']:.0f} timed", *rates(pace, "rows"))
    for column, pace in figures["encoders"].items():
        name = {"question_audios": "sounds encoded", "image_bytes": "pictures encoded"}[column]
        table.add_row(name, "", "", f"{pace['items']:.0f}", *rates(pace, "items"))
    for kind, told in figures["answers"].items():
        spoke = f"{told['speech_seconds']:.2f} s of speech" if "speech_seconds" in told else "" if told["spoke"] else "no sound"
        table.add_row(f"answer to {kind}", f"{told['memory'] / 1e9:.2f} GB", "", spoke, "", "", f"{told['seconds']:.0f}")
    if told := figures.get("evaluation"):
        table.add_row("evaluation", f"{told['memory'] / 1e9:.2f} GB", "", "", "", "", f"{told['seconds']:.0f}")
    for told in figures["notebooks"].values():
        table.add_row(told["file"], f"{told['memory'] / 1e9:.2f} GB", "", "kept from before" if told["kept"] else "", "", "", f"{told['seconds']:.0f}")
    console.print(table)
    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items() if name != "processor")
    console.print(machine, style="dim")
    console.print("memory: the most a stage's process held (system's figure); a notebook's is its kernel's", style="dim")
