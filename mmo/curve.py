"""Word errors of T2A against minutes of training: one training for each point, each with the whole recipe scaled to its length.

    python -m mmo.curve --minutes 5,10,20               # trains, listens, writes runs/tiny-curve/curve.json and curve.png
    python -m mmo.curve --minutes 40                    # adds a point; what is there already is not trained again

Points of one training would not do: its learning rate is still high half-way, and what comes out then is worse than what a training of that
length would give.  The step's seconds are measured first, on this machine as it is, and each training gets as many steps as fit.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from mmo import measures
from mmo.chat import ChatTokenizer
from mmo.checkpoint import stage_file
from mmo.data import Batches, Layout
from mmo.display import BLUE, GREY, ORANGE, drawing, finish
from mmo.evaluation import add_references
from mmo.examination import SIZES, Candidate, Ear, Exam, of_tier, spread_voices
from mmo.omni import OmniModel
from mmo.profiles import Profile, runs_root
from mmo.profiles import profile as find_profile
from mmo.training import Encoders, Stepper, open_corpora, planned_passes, read_log, train
from mmo.weights import write_whole

TRIED = 8  # steps on the clock, behind two that warm up


def seconds_a_step(profile: Profile) -> float:
    """Seconds of one T2A step on this machine as it is, the mean of `TRIED`."""
    stage = planned_passes(profile, "t2a", "full", None)[0]
    corpora, shares = open_corpora(profile, stage, Encoders())
    layout = Layout(profile.model, ChatTokenizer.load(profile.tokenizer_dir), stage.max_length)
    batches = Batches(corpora, shares, layout, stage.token_budget, chunk_rows=stage.chunk_rows).start()
    device = profile.device()
    stepper = Stepper(OmniModel(profile.model).to(device).train(), stage, 100, device, profile.dtype(device))
    for number, batch in enumerate(islice(batches, TRIED + 2)):
        if number == 2:
            float(figures[0])  # a device that works ahead has come to the end of what warmed up, and below of what counts
            started = time.perf_counter()
        figures = stepper.step(batch, number)
    float(figures[0])
    return (time.perf_counter() - started) / TRIED


def train_point(profile: Profile, minutes: float, step_seconds: float, folder: Path, given: bool = False) -> dict:
    """Train T2A for about so many minutes, or take what an earlier call has trained.

    given: the seconds of a step were told, not measured here; then the point stands at steps times seconds, however long this machine took.
    """
    done = folder / "point.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    plan = folder / "plan.json"  # a point that was begun is gone on with, whatever a step takes today
    steps = json.loads(plan.read_text(encoding="utf-8"))["steps"] if plan.is_file() else max(10, round(60 * minutes / step_seconds))
    write_whole(plan, lambda unfinished: unfinished.write_text(json.dumps({"steps": steps}) + "\n", encoding="utf-8"))
    result = train(profile, "t2a", "full", folder, steps=steps)
    took = sum(entry["seconds"] for entry in read_log(result.log_file)) / 60  # of all steps, in however many sittings
    point = {"wanted_minutes": minutes, "minutes": round(steps * step_seconds / 60 if given else took, 2), "took": round(took, 2), "steps": result.steps}
    done.write_text(json.dumps(point) + "\n", encoding="utf-8")
    return point


def listen(profile: Profile, folders: dict[float, Path], sentences: int) -> dict[str, dict]:
    """WER (with its interval) of each folder's T2A weights on held-out sentences in every answer voice, and of the codec alone."""
    exam = Exam(profile, replace(SIZES["full"], sentences=sentences))
    items = spread_voices(of_tier(exam.said, "sentence"), sentences)
    prompts, ear, said = exam.text_prompts(items), Ear(), {}
    for minutes, folder in folders.items():
        answers = Candidate(stage_file(folder, "t2a"), exam).answer(prompts, f"{minutes:g} minutes", speech=True)
        said[f"{minutes:g}"] = [answer.text for answer in answers]
        ear.add(f"{minutes:g}", [answer.samples for answer in answers])
    add_references("recorded", items, exam.codec, ear)
    ear.listen(exam.judge, workers=1)
    said["recorded.codec"] = [item.truth for item in items]
    found = {}
    for name, texts in said.items():
        errors = measures.word_errors(texts, ear[name], exam.split)
        found[name] = {"wer": errors.wer, "interval": errors.interval(groups=[item.truth for item in items]), "answers": len(items)}
    return found


def draw(points: list[dict], ceiling: float, path: Path) -> None:
    """WER against minutes; the codec's ceiling beside it."""
    with drawing(5.5, 2.6) as figure:
        axes = figure.add_subplot()
        minutes = [point["minutes"] for point in points]
        below, above = zip(*(point["interval"] for point in points))
        axes.fill_between(minutes, [100 * each for each in below], [100 * each for each in above], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(minutes, [100 * point["wer"] for point in points], "o-", color=BLUE)
        axes.axhline(100 * ceiling, color=ORANGE, linewidth=1.0)
        axes.annotate("the codec alone", (minutes[0], 100 * ceiling), (0, 3), textcoords="offset points", color=GREY, fontsize=8)
        axes.set(xlabel="minutes of training T2A", ylabel="misheard words, %", xscale="log", ylim=(0, None))
        axes.set_xticks(minutes, [f"{each:.0f}" for each in minutes])
        axes.minorticks_off()
        picture = finish(figure, "Word error rate of T2A against minutes of training, and the codec's ceiling.")
    path.write_bytes(picture.png)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--minutes", default="5,10,20,40,80", help="comma-separated")
    parser.add_argument("--sentences", type=int, default=60, help="each in every answer voice")
    parser.add_argument("--step-seconds", type=float, help="take this instead of measuring: minutes as of a quiet machine")
    options = parser.parse_args(arguments)
    profile = find_profile(options.profile)
    root = runs_root() / f"{profile.full_name}-curve"
    step_seconds = options.step_seconds or seconds_a_step(profile)
    print(f"a step takes {step_seconds:.2f} s; {torch.get_num_threads()} threads")
    for minutes in sorted(float(each) for each in options.minutes.split(",")):
        train_point(profile, minutes, step_seconds, root / f"{minutes:g}", given=options.step_seconds is not None)
    trained = {point["wanted_minutes"]: (point, path.parent) for path in root.glob("*/point.json") for point in [json.loads(path.read_text(encoding="utf-8"))]}
    heard = listen(profile, {minutes: trained[minutes][1] for minutes in sorted(trained)}, options.sentences)
    points = [trained[minutes][0] | heard[f"{minutes:g}"] for minutes in sorted(trained)]
    ceiling = heard["recorded.codec"]["wer"]
    (root / "curve.json").write_text(json.dumps({"points": points, "codec": ceiling}, indent=1) + "\n", encoding="utf-8")
    draw(points, ceiling, root / "curve.png")
    for point in points:
        print(f"{point['minutes']:6.1f} minutes, {point['steps']:5} steps: WER {point['wer']:.1%} ({point['interval'][0]:.1%} to {point['interval'][1]:.1%})")
    print(f"the codec alone: {ceiling:.1%}")


if __name__ == "__main__":
    main()
