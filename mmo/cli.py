"""The command line: `mmo doctor`, `mmo weekend`, `mmo test`, …

Each command imports its module when it runs, so that `mmo --help` is quick and one broken part does not break the rest.
A command stands here only when the module behind it does.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Build a small omni model and hear it speak.")


def known_profile(name: str | None) -> str | None:
    """Refuse an unknown profile, given or in MMO_PROFILE, with the list of names."""
    from mmo.profiles import profile

    try:
        profile(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return name


ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", help="tiny, mini, …; without it MMO_PROFILE, else tiny.", show_default=False, callback=known_profile
    ),
]
Budget = Literal["full", "smoke"]
BudgetOption = Annotated[Budget, typer.Option("--budget", help="smoke: the same path, in a few minutes.")]


@app.command()
def doctor(profile: ProfileOption = None) -> None:
    """Say what can run on this machine, what is missing, and what to do about it."""
    from mmo.doctor import main

    raise typer.Exit(main(profile))


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Only these artefacts of data/manifest.toml.", show_default=False)] = None,
    profile: ProfileOption = None,
    stage: Annotated[Literal["t2a", "a2a", "i2t"] | None, typer.Option("--stage", help="Only what this stage of training needs.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing; say what is missing.")] = False,
    share: Annotated[Path | None, typer.Option("--from", help="A folder like data/downloads that somebody shares.")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="From ModelScope instead of the Hugging Face hub.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Fetch nothing; read every file again and compare checksums.")] = False,
) -> None:
    """Fetch data, frozen parts and text weights; an interrupted download goes on by the same command."""
    from mmo.hub import FetchError, main
    from mmo.profiles import profile as find_profile

    try:
        raise typer.Exit(main(find_profile(profile).name, stage, names or (), offline, share, mirror, verify, typer.echo))
    except (FetchError, ValueError) as error:
        typer.echo(f"mmo fetch: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def weekend(profile: ProfileOption = None, budget: BudgetOption = "full") -> None:
    """Train T2A, A2A and I2T, evaluate, and write a page to listen to."""
    from mmo.weekend import main

    raise typer.Exit(main(profile, budget))


@app.command()
def say(
    question: Annotated[str, typer.Argument(help="What to ask, in quotes.")] = "",
    audio: Annotated[Path | None, typer.Option("--audio", help="A question as sound: WAV, FLAC, Ogg, MP3.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture: PNG, JPEG, WebP.")] = None,
    voice: Annotated[str | None, typer.Option("--voice", help="Who answers: joe, slt (tiny).")] = None,
    profile: ProfileOption = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="A model file instead of the latest.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the speech goes.")] = Path("say.wav"),
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another reading.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely token and code.")] = False,
) -> None:
    """Ask by text, sound or picture; print the answer and write its speech to a WAV file."""
    from mmo.say import Question, say

    try:
        say(
            Question(question, audio, image), profile_name=profile, weights=weights, voice=voice, out=out, seed=seed,
            greedy=greedy,
        )
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"mmo say: {error}", err=True)
        raise typer.Exit(1) from error


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    more: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Unit tests only, no notebooks.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only the notebooks that your changes since the last commit touch.")] = False,
) -> None:
    """Run the tests, units first and then the notebooks, side by side; what follows `--` goes to pytest."""
    chosen = ["-m", "not notebook"] if fast else []
    if changed:
        from mmo.course.changed import changed_files, touched

        names = [entry.file for entry in touched(changed_files())]
        if not names:
            print("no notebook is touched by what changed since the last commit")
            raise typer.Exit(0)
        chosen = ["tests/test_notebooks.py", "tests/test_course.py", "-k", " or ".join([*names, *(f"{name[:2]}." for name in names)])]
    repository = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "pytest", "-n", str(tests_side_by_side()), "--dist", "loadgroup", *chosen, *more.args]
    # Tests need neither a screen nor the network; where one asks for either, it must fail rather than wait.
    environment = os.environ | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    raise typer.Exit(subprocess.run(command, cwd=repository, env=environment).returncode)


def tests_side_by_side(memory_each: float = 4e9) -> int:
    """How many tests may run at once: one a core, as far as memory allows for a notebook each (at most eight)."""
    import psutil

    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available // memory_each), 8))


@app.command()
def train(
    stage: Annotated[Literal["t2a", "a2a", "i2t", "all"], typer.Option("--stage", help="all: the three one after the other.")],
    profile: ProfileOption = None,
    budget: BudgetOption = "full",
    minutes: Annotated[float | None, typer.Option("--minutes", help="Pause after so long; the same command goes on.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Another number of steps in all: the recipe, scaled.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run; default runs/<profile>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an interrupted run of this stage.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row instead of leaving it out.")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that make batches ahead; 0: none. Changes nothing else.", show_default=False)
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="The blocks by torch.compile; says why where that does not work.")] = False,
) -> None:
    """Train a stage, or go on with one that was interrupted: T2A, then A2A, then I2T, into one set of weights."""
    from mmo.profiles import STAGES
    from mmo.profiles import profile as find_profile
    from mmo.training import train as train_stage

    options = dict(minutes=minutes, steps=steps, seed=seed, fresh=fresh, strict=strict, workers=workers, compile=compile)
    try:
        for each in STAGES if stage == "all" else (stage,):
            if not train_stage(find_profile(profile), each, budget, run, **options).finished:
                break
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def features(
    stage: Annotated[Literal["a2a", "i2t", "t2a", "all"], typer.Option("--stage", help="Which stage's sounds and pictures.")] = "all",
    profile: ProfileOption = None,
    budget: BudgetOption = "full",
    check: Annotated[bool, typer.Option("--check", help="Make nothing; read all again, compare checksums, fail where something is amiss.")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="Measure instead: training from the cache against the encoder in every step.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, help="With --bench: rows of one update.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="With --bench: rounds that count; one more warms up.")] = 3,
    json: Annotated[Path | None, typer.Option("--json", help="With --bench: also write everything here.")] = None,
) -> None:
    """Run the frozen encoders over a stage's files and keep what they make; training does it by itself where it was not done."""
    from mmo.profiles import profile as find_profile

    if bench:
        from mmo.bench.features import FeaturesBench, bench_features

        run_bench(lambda chosen, where: bench_features(chosen, FeaturesBench(rows, rounds), where), profile, None, json)
        return
    from mmo.prepare import check_features, make_features

    try:
        if check:
            raise typer.Exit(0 if check_features(find_profile(profile), stage, budget, typer.echo) else 1)
        make_features(find_profile(profile), stage, budget, typer.echo)
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"mmo features: {error}", err=True)
        raise typer.Exit(1) from None


world = typer.Typer(no_args_is_help=True, help="Make the tiny world: its speech, pictures and frozen parts.")
app.add_typer(world, name="world")


@world.command("build")
def world_build(
    share: Annotated[float, typer.Option("--share", help="How much of the training speech the data files hold.")] = 1.0,
    workers: Annotated[int, typer.Option("--workers", help="Processes that speak.")] = 2,
) -> None:
    """Make data/tiny, step by step; what is there already is kept (hours of CPU; needs the extra `world`)."""
    from mmo.world.build import build

    try:
        build(workers=workers, share=share)
    except (FileNotFoundError, ModuleNotFoundError, RuntimeError) as error:
        typer.echo(f"mmo world build: {error}", err=True)
        raise typer.Exit(1) from error


@world.command("card")
def world_card() -> None:
    """Print the data card data/tiny/README.md from the files and their figures."""
    from mmo.world.card import main

    main()


@app.command()
def evaluate(
    profile: ProfileOption = None,
    budget: BudgetOption = "full",
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run; default runs/<profile>.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes of the judge; default one a core.")] = None,
) -> None:
    """Measure the run's last checkpoint (else the shipped one): right answers, errors heard, controls, speed."""
    from mmo.evaluation import evaluate_run
    from mmo.profiles import profile as find_profile
    from mmo.profiles import run_dir

    chosen = find_profile(profile)
    try:
        evaluate_run(chosen, run or run_dir(chosen, budget), budget, workers=workers)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


bench = typer.Typer(no_args_is_help=True, help="How fast it is, against the way the original computes (docs/performance.md).")
app.add_typer(bench, name="bench")

RowsOption = Annotated[Literal["synthetic", "tiny"], typer.Option("--rows", help="synthetic: as long as mini's; tiny: data/tiny.")]
BaselineOption = Annotated[Literal["padded", "none"], typer.Option("--baseline", help="none: ours alone.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Rounds that count; one more warms up.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda; default the profile's.", show_default=False)]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything here.")]
SeedOption = Annotated[int, typer.Option("--seed")]


def run_bench(measure, profile: str | None, device: str | None, json: Path | None) -> None:
    """Call measure(profile, device), show its report, write it."""
    import torch

    from mmo.bench.report import show
    from mmo.profiles import profile as find_profile

    try:
        chosen = find_profile(profile)
        report = measure(chosen, torch.device(device) if device else chosen.device())
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    show(report)
    if json:
        report.write(json)


@bench.command("train")
def bench_train(
    profile: ProfileOption = None,
    rows: RowsOption = "synthetic",
    baseline: BaselineOption = "padded",
    device: DeviceOption = None,
    json: JsonOption = None,
    update: Annotated[int, typer.Option("--update", min=1, help="Rows of one update.")] = 8,
    updates: Annotated[int, typer.Option("--updates", min=1, help="Different updates a round, short rows to long ones.")] = 2,
    full: Annotated[bool, typer.Option("--full-batch/--no-full-batch", help="Also ours at the padded way's positions an update.")] = True,
    pool: Annotated[int | None, typer.Option("--pool", help="Rows to choose from; default the stage's chunk.", show_default=False)] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Also ours with its blocks by torch.compile.")] = False,
    rounds: RoundsOption = 3,
    seed: SeedOption = 0,
) -> None:
    """Rows a second in training, on the same rows with the same weights."""
    from mmo.bench.train import TrainBench
    from mmo.bench.train import bench_train as measure

    settings = TrainBench(rows, update, updates, rounds, baseline == "padded", full, pool, compile, seed=seed)
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


@bench.command("decode")
def bench_decode(
    profile: ProfileOption = None,
    rows: RowsOption = "synthetic",
    baseline: BaselineOption = "padded",
    device: DeviceOption = None,
    json: JsonOption = None,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts a round.")] = 2,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Codec frames an answer.")] = 41,
    batch: Annotated[int, typer.Option("--batch", min=0, help="Prompts at once, in the last column; 0: without.")] = 16,
    sampled: Annotated[bool, typer.Option("--sampled", help="The profile's temperatures instead of greedy choice.")] = False,
    rounds: RoundsOption = 3,
    seed: SeedOption = 0,
) -> None:
    """Steps a second in answering, and whether both ways say the same."""
    from mmo.bench.decode import DecodeBench
    from mmo.bench.decode import bench_decode as measure

    settings = DecodeBench(rows, prompts, frames=frames, rounds=rounds, batch=batch, sampled=sampled, baseline=baseline == "padded", seed=seed)
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


@bench.command("load")
def bench_load(
    profile: ProfileOption = None,
    rows: RowsOption = "synthetic",
    baseline: BaselineOption = "padded",
    json: JsonOption = None,
    device: DeviceOption = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Rows a round.")] = 512,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Steps of training, to see what the model consumes; 0: without.")] = 24,
    rounds: RoundsOption = 3,
    seed: SeedOption = 0,
) -> None:
    """Rows a second of the loader against those that the model consumes, and whether its memory grows."""
    from mmo.bench.load import LoadBench
    from mmo.bench.load import bench_load as measure

    settings = LoadBench(rows, count, rounds=rounds, baseline=baseline == "padded", steps=steps, seed=seed)
    run_bench(lambda chosen, where: measure(chosen, settings, device=where), profile, device, json)


@bench.command("moe")
def bench_moe(
    profile: ProfileOption = None,
    rows: RowsOption = "synthetic",
    baseline: BaselineOption = "padded",
    device: DeviceOption = None,
    json: JsonOption = None,
    positions: Annotated[int, typer.Option("--positions", min=512, help="Positions of one update, at most.")] = 8192,
    rounds: RoundsOption = 3,
    seed: SeedOption = 0,
) -> None:
    """One update of a mixture of experts against the dense model of equal active size."""
    from mmo.bench.moe import MoeBench
    from mmo.bench.moe import bench_moe as measure

    settings = MoeBench(rows, positions, rounds, baseline == "padded", seed)
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


course = typer.Typer(no_args_is_help=True, help="The course: what is done, and both editions of its notebooks.")
app.add_typer(course, name="course")


@course.command("status")
def course_status() -> None:
    """Show which exercises are solved."""
    from mmo.course.status import show_status

    show_status()


@course.command("reset")
def course_reset(
    notebook: Annotated[str, typer.Argument(help="Its number: 07.")],
    file: Annotated[bool, typer.Option("--file", help="The notebook too, as it was handed out; your copy is kept in runs/kept.")] = False,
) -> None:
    """Forget what was done in one notebook."""
    from mmo.course.build import restore
    from mmo.course.catalogue import read_course
    from mmo.course.progress import reset

    numbers = [each.number for each in read_course()]
    if notebook not in numbers:
        raise typer.BadParameter(f"no notebook {notebook!r}; there are {', '.join(numbers)}")
    print(f"{notebook}: {reset(notebook)} entries forgotten")
    if file:
        print(f"{restore(notebook)} is as it was handed out")


@course.command("book")
def course_book(to: Annotated[Path, typer.Option("--to", help="The folder to write; open its index.html.")] = Path("runs/book")) -> None:
    """Make a static site of the executed notebooks, with their sounds."""
    from mmo.course.book import write_book

    try:
        pages = write_book(to)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{len(pages)} pages: {pages[0]}")


def numbers_in(notebooks: str) -> list[str]:
    """ "05, 07" -> ["05", "07"]."""
    return [number.strip() for number in notebooks.split(",") if number.strip()]


@course.command("release")
def course_release(
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 05,07. Without it, all.")] = "",
) -> None:
    """Make a clean hand-out for a class: learner's notebooks, package, tiny data; no solutions."""
    from mmo.course.release import release

    try:
        made = release(to, numbers_in(notebooks))
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{made.folder}: release {made.stamp}, notebooks {', '.join(entry.number for entry in made.notebooks)}")


@course.command("grade")
def course_grade(
    submissions: Annotated[Path, typer.Argument(help="A folder with one folder for each student.")],
    out: Annotated[Path, typer.Option("--out", help="Where grades.csv, class.html and the students' pages go.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Those that were due: 05,07. Without it, those that anybody handed in.")] = "",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="How many answers at a time.")] = 2,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Processor time for one answer.")] = 20.0,
    memory: Annotated[int, typer.Option("--memory", min=50, help="Megabytes for one answer.")] = 2000,
    marked_points: Annotated[float, typer.Option("--marked-points", min=0, max=1, help="Factor for an answer that calls the package: 1 marks it only, 0 takes its points.")] = 1.0,
) -> None:
    """Grade a class: every answer in a process of its own, in hidden cases too."""
    import time
    from importlib.util import find_spec

    if find_spec("mmo.course.grading") is None:
        print("this is a hand-out: grading is done in the whole course, which has the hidden cases", file=sys.stderr)
        raise typer.Exit(1)
    from mmo.course.grading.grade import Rules, grade
    from mmo.course.grading.limits import MEGABYTE, Limits
    from mmo.course.grading.report import show_class

    rules = Rules(Limits(seconds=seconds, memory=memory * MEGABYTE), jobs, marked_points)
    begun = time.monotonic()
    try:
        grades = grade(submissions, out, numbers_in(notebooks), rules)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    show_class(grades)
    print(f"{len(grades)} grades in {time.monotonic() - begun:.0f} s: {out / 'class.html'}, {out / 'grades.csv'}")


@course.command("build")
def course_build(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where something is not as it should be.")] = False,
    execute: Annotated[str, typer.Option("--execute", help="First run the solution of this notebook (its number) and keep its outputs.")] = "",
) -> None:
    """Make notebooks/ and solutions/*.ipynb from solutions/*.py, and what else comes from course.yml."""
    from mmo.course import build as builder
    from mmo.course.catalogue import read_course

    try:
        if check:
            found = builder.problems()
            print("\n".join(found) or "everything is as the sources say")
            raise typer.Exit(1 if found else 0)
        numbers = [each.number for each in read_course()]
        if execute and execute not in numbers:
            raise typer.BadParameter(f"no notebook {execute!r}; there are {', '.join(numbers)}")
        changed = builder.build()
        for entry in [each for each in read_course() if each.number == execute]:
            print(f"{entry.file}: {builder.execute(entry):.0f} s")
            changed += builder.build()
        print("\n".join(f"wrote {path}" for path in changed) or "nothing to change")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
