"""The command line: `mmo doctor`, `mmo weekend`, `mmo test`, …

Each command imports its module when it runs, so that `mmo --help` is quick and one broken part does not break the rest.
A command stands here only when the module behind it does.
"""

import errno
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

for stream in (sys.stdout, sys.stderr):  # on Windows a file or a pipe may know no "✓": better a "?" than no output
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
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
Budget = Literal["full", "smoke", "rehearse"]
Precision = Literal["float32", "bfloat16", "int8"]
PRECISION_HELP = "Of the weights: fewer bytes a step; int8 is for a CPU. What it costs: docs/performance.md."
PrecisionOption = Annotated[Precision | None, typer.Option("--precision", help=PRECISION_HELP, show_default="as they are")]
BudgetOption = Annotated[Budget, typer.Option("--budget", help="smoke: the same path, in a few minutes; rehearse: a few steps (see `mmo rehearse`).")]


ON_DISK = {  # what the system says of a file that is the caller's to put right
    errno.EACCES: "you may not read or write there; give another place", errno.EPERM: "you may not write there; give another place",
    errno.EROFS: "that disk can only be read; give another place", errno.ENOSPC: "no space is left on that disk; make room there, or give another place",
    errno.EDQUOT: "your share of that disk is used up; make room there, or give another place", errno.EEXIST: "a file stands where a folder is wanted",
    errno.ENOTDIR: "a file stands where a folder is wanted", errno.EISDIR: "it is a folder, and a file is wanted", errno.ENAMETOOLONG: "the name is too long",
}  # fmt: skip
MOST_SEED = 2**63 - 1  # what torch's generators take
PLACES = " (runs go to MMO_RUNS, caches to MMO_CACHE, downloads to MMO_DOWNLOADS)"


@contextmanager
def plain_errors(command: str, *more: type[Exception]) -> Iterator[None]:
    """End the command with an error's words and exit status 1, without a traceback, where something it was given cannot be used.

    more: kinds of errors beside ValueError and FileNotFoundError whose words are for whoever typed the command.  So are those of the disk (ON_DISK).
    """
    try:
        yield
    except (ValueError, FileNotFoundError, *more) as error:
        typer.echo(f"{command}: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in ON_DISK:
            raise
        own_place = PLACES if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT) else ""
        typer.echo(f"{command}: {error.filename or 'a file'}: {ON_DISK[error.errno]}{own_place}", err=True)
        raise typer.Exit(1) from None


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

    with plain_errors("mmo fetch", FetchError):
        try:
            raise typer.Exit(main(find_profile(profile).name, stage, names or (), offline, share, mirror, verify, typer.echo))
        except KeyboardInterrupt:
            typer.echo("\nmmo fetch: interrupted; what has come is kept, and the same command goes on", err=True)
            raise typer.Exit(130) from None


@app.command("import")
def import_weights(
    source: Annotated[Literal["minimind-3o"], typer.Argument(help="Whose weights.")],
    path: Annotated[Path, typer.Argument(help="Its .pth file, or its folder of transformers.")],
    to: Annotated[Path | None, typer.Option("--to", help="Our file; default where the profile mini (or mini-moe) looks.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A config.json for a .pth of other sizes.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Read the original's weights into a file of ours, every name and shape compared."""
    from mmo.interchange import import_original

    with plain_errors("mmo import", FileExistsError):
        import_original(path, to, config, overwrite, typer.echo)


@app.command("export")
def export_weights(
    weights: Annotated[Path, typer.Argument(help="A model file of ours: runs/mini/i2t.safetensors, …")],
    to: Annotated[Path, typer.Option("--to", help="A .pth file, or a folder for the layout transformers.")],
    layout: Annotated[Literal["pth", "transformers"], typer.Option("--layout", help="The original's two layouts.")] = "pth",
    dtype: Annotated[Literal["as-is", "float32", "float16", "bfloat16"], typer.Option("--dtype", help="The original's .pth is float16.")] = "as-is",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Write weights in one of the original's layouts."""
    from mmo.interchange import export_original

    with plain_errors("mmo export", FileExistsError):
        export_original(weights, to, layout, dtype, overwrite, typer.echo)


@app.command()
def weekend(
    profile: ProfileOption = None,
    budget: BudgetOption = "full",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget a weekend that was interrupted.")] = False,
) -> None:
    """Train T2A, A2A and I2T, evaluate, and write a page to listen to.  Stopped on the way, the same command goes on."""
    from mmo.weekend import main

    with plain_errors("mmo weekend"):
        raise typer.Exit(main(profile, budget, fresh))


@app.command()
def say(
    question: Annotated[str, typer.Argument(help="What to ask, in quotes.")] = "",
    audio: Annotated[Path | None, typer.Option("--audio", help="A question as sound: WAV, FLAC, Ogg, MP3.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture: PNG, JPEG, WebP.")] = None,
    voice: Annotated[str | None, typer.Option("--voice", help="Who answers: joe, slt (tiny).")] = None,
    profile: ProfileOption = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="A model file instead of the latest.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the speech goes.")] = Path("say.wav"),
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED, help="Another seed, another reading.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely token and code.")] = False,
    precision: PrecisionOption = None,
) -> None:
    """Ask by text, sound or picture; print the answer and write its speech to a WAV file."""
    from mmo.say import Question, say

    with plain_errors("mmo say"):
        say(
            Question(question, audio, image), profile_name=profile, weights=weights, voice=voice, out=out, seed=seed,
            greedy=greedy, precision=precision,
        )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    more: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Unit tests only, no notebooks.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only the notebooks that your changes since the last commit touch.")] = False,
) -> None:
    """Run the tests, units first and then the notebooks, side by side; what follows `--` goes to pytest."""
    if fast and changed:
        raise typer.BadParameter("--fast leaves the notebooks out, --changed chooses among them: give one of the two")
    chosen = ["-m", "not notebook"] if fast else []
    if changed:
        from mmo.course.changed import changed_files, touched

        with plain_errors("mmo test"):
            found = touched(changed_files())
        if not found:
            print("no notebook is touched by what changed since the last commit")
            raise typer.Exit(0)
        print("\n".join(f"{entry.file}: {why}" for entry, why in found), flush=True)
        names = [entry.file for entry, _ in found]
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
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Pause after so long, all stages together; the same command goes on.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Another number of steps in all: the recipe, scaled.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED)] = 0,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run; default runs/<profile>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an interrupted run of this stage; with all, finished stages, too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row instead of leaving it out.")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that make batches ahead; 0: none. Changes nothing else.", show_default=False)
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="The blocks by torch.compile; says why where that does not work.")] = False,
) -> None:
    """Train a stage, or go on with one that was interrupted: T2A, then A2A, then I2T, into one set of weights.

    With --stage all the same command goes on at the stage where it was stopped: stages that are done with these settings are passed over.
    """
    from mmo.loader import LoaderDied
    from mmo.pausing import pausing
    from mmo.profiles import STAGES
    from mmo.profiles import profile as find_profile

    options = dict(steps=steps, seed=seed, fresh=fresh, strict=strict, workers=workers, compile=compile)
    with plain_errors("mmo train", LoaderDied), stopped_at_once(fresh), pausing(typer.echo) as pause:
        train_stages(find_profile(profile), STAGES if stage == "all" else (stage,), budget, run, minutes, pause, options)
        if pause and pause():
            raise typer.Exit(130)


def train_stages(chosen, stages: Sequence[str], budget: str, run: Path | None, minutes: float | None, pause, options: dict) -> None:
    """Train stages one after the other, as long as there is time; of several, those that are done are passed over.

    Of several processes (torchrun) the first one looks at the files and at the clock: all must do the same.
    """
    from mmo.boundaries import Standing, find_standing
    from mmo.distributed import Group
    from mmo.profiles import run_dir
    from mmo.training import say
    from mmo.training import train as train_stage

    folder, group, deadline = run or run_dir(chosen, budget), Group.join(), None if minutes is None else time.monotonic() + 60 * minutes
    told = {name: options[name] for name in ("steps", "seed", "compile")}
    looks, trained = group.first and len(stages) > 1 and not options["fresh"], False
    for each in stages:
        with group.naming_errors():
            late = trained and deadline is not None and time.monotonic() > deadline
            standing, late = group.from_first((find_standing(chosen, each, budget, folder, **told) if looks else Standing(), late))
        if standing.words:
            say(standing.words)
        if not standing.done:
            if late:
                say(f"the {minutes:g} minutes are over before {each}: the same command{' without --fresh' if options['fresh'] else ''} goes on")
                return
            left = None if deadline is None else max(deadline - time.monotonic(), 1e-3) / 60
            finished = train_stage(chosen, each, budget, run, pause=pause, minutes=left, **options).finished
            if not finished:
                return
            trained = True
        if pause and pause():
            return
        # Asked by one process alone: the others would write the same files at the same time.
        if group.first and chosen.judge_dir and budget == "full":
            ask_fixed_prompts(chosen, each, folder, again=not standing.done)
            if pause and pause():  # meanwhile: the next stage may have hours of features to make before it asks
                return


@contextmanager
def stopped_at_once(fresh: bool) -> Iterator[None]:
    """A second Ctrl-C while training: say that nothing but the last minutes is lost.  fresh: the command was told to begin anew, and would again."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nmmo train: stopped at once; the same command{' without --fresh' if fresh else ''} goes on from what was saved last", err=True)
        raise typer.Exit(130) from None


def ask_fixed_prompts(chosen, stage: str, run: Path, again: bool = True) -> None:
    """Keep how a stage's weights answer the fixed prompts, sounds and pictures.  The stage is done and saved: what this lacks is told, and no error.

    again: also where these weights were asked already.
    """
    from mmo.fixed_inputs import keep_replies, was_asked
    from mmo.fixed_prompts import keep_sounds

    if not again and was_asked(run, stage):
        return
    for what, keep in (("fixed prompts", keep_sounds), ("fixed sounds and pictures", keep_replies)):
        try:
            page = keep(chosen, stage, run)
        except (ValueError, FileNotFoundError) as error:
            typer.echo(f"the {what} were not asked after {stage}: {error}", err=True)
            return  # what the first lacks the second lacks, too
        if page:
            typer.echo(f"the {what}, answered after {stage}: {page}")


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

    if bench and (check or stage != "all" or budget != "full"):
        raise typer.BadParameter("--bench measures on rows of its own: --check, --stage and --budget do not go with it")
    if bench:
        from mmo.bench.features import FeaturesBench, bench_features

        run_bench(lambda chosen, where: bench_features(chosen, FeaturesBench(rows, rounds), where), profile, None, json)
        return
    from mmo.prepare import check_features, make_features

    with plain_errors("mmo features"):
        if check:
            raise typer.Exit(0 if check_features(find_profile(profile), stage, budget, typer.echo) else 1)
        make_features(find_profile(profile), stage, budget, typer.echo)


def known_stages(names: list[str] | None) -> list[str] | None:
    """Refuse an unknown one with the list of names, before gigabytes of stand-ins are written (typer takes no list of literals)."""
    from mmo.profiles import STAGES

    unknown = [name for name in names or () if name not in STAGES]
    if unknown:
        raise typer.BadParameter(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    return names


@app.command()
def rehearse(
    profile: Annotated[Literal["mini", "mini-moe"], typer.Option("--profile")] = "mini",
    folder: Annotated[Path | None, typer.Option("--folder", help="Takes stand-ins (2.9 GB) and runs; default runs/rehearsal.", show_default=False)] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Only these stages, from t2a on.", show_default=False, callback=known_stages)] = None,
    positions: Annotated[int | None, typer.Option("--positions", min=1, help="At once; default the recipe's on a card, else 1024.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Of each stage; default 3 of each pass.", show_default=False)] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=1, help="GB that training may take.", show_default=False)] = None,
    notebooks: Annotated[bool, typer.Option("--notebooks/--no-notebooks", help="Also notebooks 10 to 13; finished ones are kept.")] = True,
    only_notebooks: Annotated[bool, typer.Option("--only-notebooks", help="Go on with the notebooks; the rest of the last report stays.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run notebooks anew that are finished.")] = False,
    answers: Annotated[bool, typer.Option("--answers/--no-answers", help="Also `mmo say`, three times, and `mmo evaluate`.")] = True,
) -> None:
    """Rehearse the real run with stand-ins of full size: nothing is fetched; says memory, speed, and the hours it will take."""
    if only_notebooks and (stage or not notebooks):
        raise typer.BadParameter("--only-notebooks rehearses no stage; leave --stage and --no-notebooks out")
    from mmo.profiles import profile as find_profile
    from mmo.rehearsal import plan as planning
    from mmo.rehearsal import report
    from mmo.rehearsal.stages import RehearsalFailed
    from mmo.weekend import NotebookFailed

    with plain_errors("mmo rehearse", RehearsalFailed, NotebookFailed):
        chosen = find_profile(profile)
        settings = report.Settings(
            profile, folder or report.default_folder(), positions, steps, memory, stages=() if only_notebooks else tuple(stage or chosen.stages),
            notebooks=None if notebooks else {}, fresh=fresh, answers=answers,
        )  # fmt: skip
        figures = report.rehearse(settings, typer.echo)
        report.show_figures(figures)
        if figures["passes"]:
            planning.show(report.measured_plan(chosen, figures))


@app.command("plan")
def plan_hours(
    profile: Annotated[Literal["mini", "mini-moe"], typer.Option("--profile")] = "mini",
    card: Annotated[list[str] | None, typer.Option("--card", help="t4, l4, rtx3090, rtx4090, a100, h100; default: this machine, as rehearsed.", show_default=False)] = None,
    share: Annotated[float, typer.Option("--share", help="Of the card's peak that is reached: an assumption.")] = 0.3,
    folder: Annotated[Path | None, typer.Option("--folder", help="Of the rehearsal; default runs/rehearsal.", show_default=False)] = None,
) -> None:
    """Predict the hours and memory of the real run, for this machine as rehearsed or for a card as counted."""
    from mmo.profiles import profile as find_profile
    from mmo.rehearsal import plan as planning
    from mmo.rehearsal import report

    with plain_errors("mmo plan"):
        chosen = find_profile(profile)
        if card:
            plans = report.card_plans(chosen, card, share)
        else:
            plans = [report.measured_plan(chosen, report.read_figures(folder or report.default_folder(), profile))]
    for each in plans:
        planning.show(each)


world = typer.Typer(no_args_is_help=True, help="Make the tiny world: its speech, pictures and frozen parts.")
app.add_typer(world, name="world")


@world.command("build")
def world_build(
    share: Annotated[float, typer.Option("--share", help="How much of the training speech the data files hold.")] = 1.0,
    workers: Annotated[int, typer.Option("--workers", help="Processes that speak.")] = 2,
) -> None:
    """Make data/tiny, step by step; what is there already is kept (hours of CPU; needs the extra `world`)."""
    import subprocess

    from mmo.world.build import build

    with plain_errors("mmo world build", ModuleNotFoundError, RuntimeError, subprocess.CalledProcessError):
        build(workers=workers, share=share)


@world.command("card")
def world_card() -> None:
    """Write the data card data/tiny/README.md from the files and their figures."""
    from mmo.world.card import main

    with plain_errors("mmo world card"):
        main()


@app.command()
def evaluate(
    profile: ProfileOption = None,
    budget: BudgetOption = "full",
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run; default runs/<profile>.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes of the judge; default one a core, at most 8.")] = None,
    precision: PrecisionOption = None,
) -> None:
    """Measure the run's last checkpoint (else the shipped one): right answers, errors heard, voices, controls, speed."""
    from mmo.evaluation import evaluate_run
    from mmo.profiles import profile as find_profile
    from mmo.profiles import run_dir

    chosen = find_profile(profile)
    with plain_errors("mmo evaluate"):
        evaluate_run(chosen, run or run_dir(chosen, budget), budget, workers=workers, precision=precision)


bench = typer.Typer(no_args_is_help=True, help="How fast it is, against the way the original computes (docs/performance.md).")
app.add_typer(bench, name="bench")

RowsOption = Annotated[Literal["synthetic", "tiny"], typer.Option("--rows", help="synthetic: as long as mini's; tiny: data/tiny.")]
BaselineOption = Annotated[Literal["padded", "none"], typer.Option("--baseline", help="none: ours alone.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Rounds that count, behind what warms up (one more; in training three).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda; default the profile's.", show_default=False)]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything here.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED)]


def known_precisions(names: list[str] | None) -> list[str] | None:
    """Refuse an unknown one with the list of names (typer takes no list of literals)."""
    unknown = [name for name in names or () if name not in get_args(Precision)]
    if unknown:
        raise typer.BadParameter(f"no precision {unknown[0]!r}; there are {', '.join(get_args(Precision))}")
    return names


PRECISIONS_HELP = "Of the weights: float32, bfloat16 or int8; may be given several times, a column each."
PrecisionsOption = Annotated[list[str] | None, typer.Option("--precision", help=PRECISIONS_HELP, show_default=False, callback=known_precisions)]
CompileStepOption = Annotated[bool, typer.Option("--compile", help="A step as one graph (torch.compile); says why where that does not work.")]


def run_bench(measure, profile: str | None, device: str | None, json: Path | None) -> None:
    """Call measure(profile, device), show its report, write it."""
    import torch

    from mmo.bench.report import show
    from mmo.profiles import profile as find_profile

    with plain_errors("mmo bench"):
        chosen = find_profile(profile)
        try:
            where = torch.device(device) if device else chosen.device()
        except RuntimeError as error:
            raise ValueError(f"--device {device}: no such device; cpu and cuda are") from error
        if where.type not in ("cpu", "cuda") or (where.type == "cuda" and not torch.cuda.is_available()):
            raise ValueError(f"--device {device}: there is none here that this torch can use; `mmo doctor` says what is there")
        report = measure(chosen, where)
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
    quick: Annotated[bool, typer.Option("--quick-products", help="Also ours with products in bfloat16 and all else in float32 (a CPU with AMX).")] = False,
    float32: Annotated[bool, typer.Option("--float32", help="Compute in float32, also where the profile would take bfloat16.")] = False,
    rounds: RoundsOption = 3,
    seed: SeedOption = 0,
) -> None:
    """Rows a second in training, on the same rows with the same weights."""
    from mmo.bench.train import TrainBench
    from mmo.bench.train import bench_train as measure

    settings = TrainBench(rows, update, updates, rounds, baseline == "padded", full, pool, compile, quick, float32, seed=seed)
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


@bench.command("learn")
def bench_learn(
    profile: ProfileOption = None,
    baseline: BaselineOption = "padded",
    device: DeviceOption = None,
    json: JsonOption = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Of each column, on its own clock.")] = 60,
    marks: Annotated[int, typer.Option("--marks", min=1, help="How often the held-out rows are asked.")] = 4,
    update: Annotated[int, typer.Option("--update", min=1, help="Rows of one update at equal rows.")] = 8,
    rate: Annotated[list[float] | None, typer.Option("--rate", help="AdamW's, a column each; default the recipe's.", show_default=False)] = None,
    muon_rate: Annotated[list[float] | None, typer.Option("--muon-rate", help="Muon's, a column each; default the recipe's.", show_default=False)] = None,
    seed: SeedOption = 0,
) -> None:
    """Held-out loss against time: the padded way, the same updates by ours, a token budget with AdamW and with Muon."""
    from mmo.bench.learn import LearnBench
    from mmo.bench.learn import bench_learn as measure

    settings = LearnBench(seconds, marks, update, baseline == "padded", tuple(rate or ()), tuple(muon_rate or ()), seed=seed)
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
    precision: PrecisionsOption = None,
    compile: CompileStepOption = False,
    rounds: RoundsOption = 3,
    seed: SeedOption = 0,
) -> None:
    """Steps a second in answering, and whether both ways say the same."""
    from mmo.bench.decode import DecodeBench
    from mmo.bench.decode import bench_decode as measure

    settings = DecodeBench(
        rows, prompts, frames=frames, rounds=rounds, batch=batch, sampled=sampled, baseline=baseline == "padded", precisions=tuple(precision or ()),
        compile=compile, seed=seed,
    )  # fmt: skip
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


@bench.command("chain")
def bench_chain(
    profile: ProfileOption = None,
    device: DeviceOption = None,
    json: JsonOption = None,
    seconds: Annotated[float, typer.Option("--seconds", min=2, help="Of speech.")] = 30,
    largest: Annotated[int, typer.Option("--largest", min=1, help="Codec frames decoded at once, at most.")] = 4,
    precision: PrecisionsOption = None,
    compile: CompileStepOption = False,
    clock: Annotated[Literal["wall", "processor"], typer.Option("--clock", help="processor: beside other work, with one thread.")] = "wall",
    seed: SeedOption = 0,
) -> None:
    """From prompt to sound with the real codec's size, played as it comes: work a frame, first sound, underruns."""
    from mmo.bench.chain import ChainBench
    from mmo.bench.chain import bench_chain as measure

    settings = ChainBench(seconds, largest, tuple(precision or ("float32",)), compile, clock, seed)
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


@bench.command("precision")
def bench_precision(
    profile: ProfileOption = None,
    device: DeviceOption = None,
    json: JsonOption = None,
    answers: Annotated[int, typer.Option("--answers", min=1, help="Spoken answers in each precision.")] = 60,
    precision: PrecisionsOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the judge.")] = 1,
    seed: SeedOption = 0,
) -> None:
    """What weights in bfloat16 or int8 cost: the same answers, the same codes, words heard wrongly."""
    from mmo.bench.precision import PrecisionBench
    from mmo.bench.precision import bench_precision as measure

    settings = PrecisionBench(answers, tuple(precision or ()), workers, seed)
    run_bench(lambda chosen, where: measure(chosen, settings, where), profile, device, json)


@bench.command("trace")
def bench_trace(
    profile: ProfileOption = None,
    device: DeviceOption = None,
    json: JsonOption = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Codec frames an answer.", show_default="41")] = None,
    precision: PrecisionsOption = None,
    training: Annotated[bool, typer.Option("--training", help="An update of training instead: the padded way before, ours after.")] = False,
    update: Annotated[int, typer.Option("--update", min=1, help="With --training: rows of one update.")] = 8,
    seed: SeedOption = 0,
) -> None:
    """Where a step of decoding spends its time, by PyTorch's profiler: growing caches before, ours after."""
    from mmo.bench.trace import TraceBench, bench_trace_training
    from mmo.bench.trace import bench_trace as measure

    if training and (precision or frames):
        raise typer.BadParameter("--training traces an update: --frames and --precision are of an answer")
    if training:
        run_bench(lambda chosen, where: bench_trace_training(chosen, update, seed, where), profile, device, json)
        return
    settings = TraceBench(frames=frames or TraceBench.frames, precisions=tuple(precision or ()), seed=seed)
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


@bench.command("shards")
def bench_shards(
    profile: ProfileOption = None,
    json: JsonOption = None,
    shards: Annotated[int, typer.Option("--shards", min=1, help="Files.")] = 8,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Of each file.")] = 10_000,
    seen: Annotated[int, typer.Option("--seen", min=1, help="Rows that each worker makes.")] = 8192,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that make batches.")] = 2,
    seed: SeedOption = 0,
) -> None:
    """Memory of the processes that make batches, on one file of rows and on many: it should stay flat."""
    from mmo.bench.shards import ShardsBench
    from mmo.bench.shards import bench_shards as measure

    settings = ShardsBench(shards, rows, seen, workers, seed=seed)
    run_bench(lambda chosen, where: measure(chosen, settings, device=where), profile, "cpu", json)


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
    with plain_errors("mmo course reset"):  # the file first: where it cannot be made, nothing is forgotten
        if file:
            print(f"{restore(notebook)} is as it was handed out")
        print(f"{notebook}: {reset(notebook)} entries forgotten")


@course.command("book")
def course_book(to: Annotated[Path, typer.Option("--to", help="The folder to write; open its index.html.")] = Path("runs/book")) -> None:
    """Make a static site of the executed notebooks, with their sounds."""
    from mmo.course.book import write_book

    with plain_errors("mmo course book"):
        pages = write_book(to)
    print(f"{len(pages)} pages: {pages[0]}")


def numbers_in(notebooks: str) -> list[str]:
    """ "05, 07" -> ["05", "07"]."""
    return [number.strip() for number in notebooks.split(",") if number.strip()]


@course.command("release")
def course_release(
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 05,07. Without it, all.")] = "",
    variant: Annotated[str | None, typer.Option("--variant", help="Any name: some exercises then ask this class for something else.", show_default=False)] = None,
    repository: Annotated[str | None, typer.Option("--repository", help="Where you will publish it, https://github.com/OWNER/NAME: with badges for Colab and Binder.", show_default=False)] = None,
    branch: Annotated[str, typer.Option("--branch", help="The branch there.")] = "main",
) -> None:
    """Make a clean hand-out for a class: learner's notebooks, package, tiny data; no solutions."""
    whole_course_or_exit("another one is made in the whole course")
    if branch != "main" and not repository:
        raise typer.BadParameter("--branch is of the place where you publish it: give --repository, too")
    from mmo.course.release import Online, release

    with plain_errors("mmo course release"):
        made = release(to, numbers_in(notebooks), variant=variant, online=Online(repository, branch) if repository else None)
    print(f"{made.folder}: release {made.stamp}, notebooks {', '.join(entry.number for entry in made.notebooks)}")
    if variant:
        print(f"variant {variant!r} asks for something else in {', '.join(made.varied)}; grade it with --variant {variant!r}")
    if repository:
        print(f"publish what is in it: cd {to} && git init -b {branch} && git add -A && git commit -m {made.stamp} && git push {repository} {branch}")


def whole_course_or_exit(why: str) -> None:
    """A hand-out has no grading, hidden cases and variants: ends the command there, with the reason."""
    from importlib.util import find_spec

    if find_spec("mmo.course.grading") is None:
        print(f"this is a hand-out: {why}", file=sys.stderr)
        raise typer.Exit(1)


@course.command("variant")
def course_variant(
    name: Annotated[str, typer.Argument(help="Any name: autumn-26.")],
    unlike: Annotated[str | None, typer.Option("--unlike", help="Last year's: say where both ask the same.", show_default=False)] = None,
) -> None:
    """Show what a variant asks of a class."""
    whole_course_or_exit("variants are made in the whole course")
    from mmo.course.grading.variants import tasks_of

    try:
        tasks, before = tasks_of(name), tasks_of(unlike) if unlike else {}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not tasks:
        print(f"{name!r} stands for the course as it is: nothing else is asked")
    for id, asked in tasks.items():
        print(f"{id:16}{asked.task.splitlines()[0]}{f'  AS IN {unlike}' if before.get(id) is asked else ''}")
    alike = sum(before.get(id) is asked for id, asked in tasks.items())
    if unlike:
        print(f"{alike} of {len(tasks)} as in {unlike}" + ("; another name may do better" if alike else ""))


@course.command("synthetic")
def course_synthetic(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Those that were due: 05,07.")],
) -> None:
    """Write the submissions of ten synthetic students, right, wrong and broken, to try grading with."""
    whole_course_or_exit("synthetic submissions are made of the solutions")
    from mmo.course.grading.synthetic import write_class

    with plain_errors("mmo course synthetic"):
        students = write_class(to, numbers_in(notebooks))
    print(f"{to}: {', '.join(students)}. Grade them with: mmo course grade {to} --out grades --notebooks {notebooks}")


@course.command("grade")
def course_grade(
    submissions: Annotated[Path, typer.Argument(help="A folder with one folder for each student.")],
    out: Annotated[Path, typer.Option("--out", help="Where grades.csv, class.html and the students' pages go.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Those that were due: 05,07. Without it, those that anybody handed in.")] = "",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="How many answers at a time.")] = 2,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Processor time for one answer.")] = 20.0,
    memory: Annotated[int, typer.Option("--memory", min=50, help="Megabytes for one answer.")] = 2000,
    marked_points: Annotated[float, typer.Option("--marked-points", min=0, max=1, help="Factor for an answer that calls the package: 1 marks it only, 0 takes its points.")] = 1.0,
    variant: Annotated[str | None, typer.Option("--variant", help="The hand-out's; none: by the course as it is.", show_default=False)] = None,
) -> None:
    """Grade a class: every answer in a process of its own, in hidden cases too."""
    whole_course_or_exit("grading is done in the whole course, which has the hidden cases")
    from mmo.course.grading.grade import Rules, grade
    from mmo.course.grading.limits import MEGABYTE, Limits
    from mmo.course.grading.pool import CannotStart
    from mmo.course.grading.report import show_class

    def say(words: str) -> None:
        print(words, flush=True)

    begun = time.monotonic()
    with plain_errors("mmo course grade", CannotStart):
        rules = Rules(Limits(seconds=seconds, memory=memory * MEGABYTE), jobs, marked_points, variant)
        try:
            grades = grade(submissions, out, numbers_in(notebooks), rules, told=say, warned=say)
        except KeyboardInterrupt:
            print(f"stopped: nothing was written, {out} is as it was; the same command grades the class from the beginning", file=sys.stderr)
            raise typer.Exit(130) from None
    show_class(grades)
    print(f"{len(grades)} grades in {time.monotonic() - begun:.0f} s: {out / 'class.html'}, {out / 'grades.csv'}")


@course.command("nbgrader")
def course_nbgrader(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 05,07. Without it, all that have exercises.")] = "",
    marked_points: Annotated[float, typer.Option("--marked-points", min=0, max=1, help="Factor for an answer that calls the package.")] = 1.0,
    variant: Annotated[str | None, typer.Option("--variant", help="Any name: some exercises then ask this class for something else.", show_default=False)] = None,
) -> None:
    """Lay out a course for nbgrader: sources with solutions and hidden tests, and its configuration."""
    whole_course_or_exit("the hidden tests are in the whole course")
    from mmo.course.grading.nbgrader_course import write_nbgrader_course

    with plain_errors("mmo course nbgrader"):
        entries = write_nbgrader_course(to, numbers_in(notebooks), marked_points, variant=variant)
    print(f"{to}: {len(entries)} assignments; how to go on stands in {to / 'README.md'}")
    from importlib.util import find_spec

    if find_spec("nbgrader") is None:
        print('nbgrader is not installed here: pip install -c constraints.txt -e ".[class]"')


@course.command("wheelhouse")
def course_wheelhouse(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A folder; one that was begun is finished.")],
    extra_index: Annotated[str | None, typer.Option("--extra-index-url", help="One more address for pip, as of PyTorch's CPU builds.", show_default=False)] = None,
) -> None:
    """Collect every package as a wheel, for a room with slow internet."""
    from mmo.course.wheelhouse import WheelhouseError, course_requirements, make_wheelhouse

    with plain_errors("mmo course wheelhouse", WheelhouseError):
        made = make_wheelhouse(to, course_requirements(), extra_index=extra_index)
    print(f"{made.wheels} wheels, {made.size / 1e9:.2f} GB. On each laptop, in the folder of the course:\n\n    {made.command}\n\nHow to go on stands in {made.folder / 'INSTALL.txt'}")


@course.command("seat")
def course_seat(
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 05,07.")],
    budget: BudgetOption = "full",
) -> None:
    """Measure what one seat takes: memory and seconds of one run of a notebook."""
    whole_course_or_exit("a seat is measured with the solutions, which are in the whole course")
    from tempfile import TemporaryDirectory

    from mmo.course.catalogue import chosen
    from mmo.course.seat import measure_seat
    from mmo.profiles import REPOSITORY

    try:
        entries = chosen(numbers_in(notebooks), REPOSITORY)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print("notebook                      memory   private   processor   clock")
    with TemporaryDirectory(prefix="mmo-seat-") as runs:
        for entry in entries:
            seat = measure_seat(entry, budget, Path(runs))
            print(f"{entry.file:28}{seat.memory / 1e9:6.2f} GB{seat.private / 1e9:7.2f} GB{seat.busy:10.0f} s{seat.seconds:6.0f} s", flush=True)


@course.command("build")
def course_build(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where something is not as it should be.")] = False,
    execute: Annotated[str, typer.Option("--execute", help="First run the solution of this notebook (its number) and keep its outputs.")] = "",
) -> None:
    """Make notebooks/ and solutions/*.ipynb from solutions/*.py, and what else comes from course.yml."""
    from mmo.course import build as builder
    from mmo.course.catalogue import read_course

    if check and execute:
        raise typer.BadParameter("--check writes nothing, so it cannot --execute")
    with plain_errors("mmo course build"):
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


@course.command("quiz")
def course_quiz(
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 05,07. Without it, all.")] = "",
    variants: Annotated[int, typer.Option("--variants", min=1, max=26, help="Sheets A, B, … with the choices in other orders.")] = 1,
) -> None:
    """Write the quizzes as sheets to print, each with its answer key."""
    from mmo.course.catalogue import read_course
    from mmo.course.questions import write_sheets

    with plain_errors("mmo course quiz"):
        pages = write_sheets(to, numbers_in(notebooks), variants, {entry.number: entry.title for entry in read_course()})
    print(f"{len(pages)} pages in {to}: {pages[0].name}, …")


@course.command("slides")
def course_slides(
    to: Annotated[Path, typer.Option("--to", help="The folder to write; open its index.html.")] = Path("runs/slides"),
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 05,07. Without it, all.")] = "",
) -> None:
    """Make slides of the executed notebooks, with pictures and sounds; they need no network."""
    from mmo.course.slides import write_slides

    with plain_errors("mmo course slides"):
        pages = write_slides(to, numbers_in(notebooks))
    print(f"{len(pages) - 1} decks: {pages[0]}")


@course.command("run")
def course_run(
    notebooks: Annotated[str, typer.Option("--notebooks", help="Their numbers: 10-12,A1.")] = "",
    profile: ProfileOption = None,
    budget: BudgetOption = "full",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting: lr=3e-4; several values are a sweep: code_dropout=0,0.4.", show_default=False)] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Notebooks at a time.")] = 1,
    to: Annotated[Path | None, typer.Option("--to", help="A dated folder is made in it; default runs/batch.", show_default=False)] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with this folder of an earlier run.", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="A notebook may take so long.", show_default=False)] = None,
    edition: Annotated[Literal["solutions", "notebooks"], typer.Option("--edition", help="notebooks: the learner's.")] = "solutions",
) -> None:
    """Run notebooks without anybody watching: executed copies, pages, a report, sweeps side by side."""
    from mmo.course.batch import Batch, expand, main, new_folder, read_batch, read_settings
    from mmo.course.catalogue import read_course
    from mmo.profiles import profile as find_profile

    if bool(notebooks) == bool(resume):
        raise typer.BadParameter("give --notebooks for a new run, or --resume and the folder of an earlier one")
    if resume and (profile or settings or to or budget != "full" or edition != "solutions"):
        raise typer.BadParameter("--resume goes on with what was asked for then; beside it only --jobs and --minutes can be given anew")

    def ask():
        if resume:
            earlier = read_batch(resume)
            return (earlier if minutes is None else replace(earlier, minutes=minutes)), resume
        batch = Batch(expand(notebooks, read_course()), find_profile(profile).full_name, budget, read_settings(settings or ()), edition, minutes)
        return batch, new_folder(to)

    with plain_errors("mmo course run"):
        raise typer.Exit(main(ask, jobs))
