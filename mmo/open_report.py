"""The report of an evaluation with open questions (open_evaluation.py): which figures it must have, and its tables.

Nobody has trained these profiles here, so there are no bounds on how good they must be; there are bounds on the controls, which
say whether the judge can tell speech from none.
"""

from __future__ import annotations

from mmo.fixed_prompts import BUCKETS, LENGTHS, LONGER
from mmo.profiles import STAGES
from mmo.report import Bound, lookup

LENGTH_NAMES = (*LENGTHS, LONGER)
ERRORS = ("wer", "cer")
CEILING = "recorded, through the codec"  # the Mimi ceiling: no Talker can do better
REQUIRED = (
    *(f"{task}.{figure}" for task in ("t2a", "a2a", "i2a") for figure in (*ERRORS, "runaways", "similarity", "similarity_other_voice")),
    *(f"{task}.{figure}_codec_ceiling" for task in ("t2a", "a2a") for figure in ERRORS),
    *("t2a.similarity_codec_ceiling", "t2a.similarity_recorded"),
    *(f"t2a.{part}.{length}.{figure}" for part in ("said", "recorded_by_length") for length in LENGTH_NAMES for figure in ERRORS),
    *("a2a.overlap", "a2a.overlap_written", "a2a.overlap_swapped_questions", "i2t.overlap", "i2t.overlap_swapped_pictures"),
    *(f"controls.wer_{name}" for name in ("shuffled_frames", "wrong_sentence", "noise")),
    *(f"after_stage.{stage}" for stage in STAGES),
    *("streaming.first_audio_ms", "streaming.real_time_factor", "streaming.spoken_question.first_audio_ms", "streaming.picture.first_audio_ms"),
    *(f"seconds.{name}" for name in (*STAGES, "evaluate", "total")),
    *("peak_rss_mb", "seed", "versions"),
)
REASONS = (  # the first that fits a null figure's key
    ("after_stage.t2a.", "no answers of this kind, nothing was said, or only one voice"),
    ("after_stage.a2a.", "no answers of this kind, nothing was said, or only one voice"),
    ("after_stage.i2t.", "no answers of this kind, nothing was said, or only one voice"),
    ("after_stage.finished.", "no answers of this kind, nothing was said, or only one voice"),
    ("after_stage", "the run's folder holds no weights of this stage"),
    ("streaming", "the model said nothing, or no such test items"),
    ("seconds", "`mmo weekend` takes this time, and it has not run here"),
    ("peak_rss_mb", "`mmo weekend` watches memory, and it has not run here"),
    ("codec_ceiling", "no held-out rows with a recorded answer (or reference)"),
    ("similarity", "no such held-out rows, nothing was said that is long enough to tell a voice by, or only one voice"),
    ("said.", "no answers of this length"),
    ("by_length.", "no recorded answers of this length"),
    ("", "no such held-out rows here, or the model wrote no words"),
)


def bounds() -> list[Bound]:
    """What must be bad, if the judge can tell."""
    return [
        Bound("controls.wer_shuffled_frames", at_least=0.80),
        Bound("controls.wer_noise", at_least=0.80),
        Bound("controls.wer_wrong_sentence", at_least=0.50),
    ]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def pair(group: dict | None) -> str:
    """WER / CER and how many answers they are of."""
    return "–" if not group or not group["answers"] else f"{percent(group['wer'])} / {percent(group['cer'])} ({group['answers']})"


def prompt_rows(report: dict, stages: list[str]) -> list[list[str]]:
    """Of the fixed prompts: a row for each figure, a column for each checkpoint, and the Mimi ceiling.

    Nobody recorded answers to these prompts: the ceiling is that of the held-out rows asked in writing, by the length of what was said.
    """
    told, ceiling = [report["after_stage"][stage] for stage in stages], lookup(report, "t2a.recorded_by_length") or {}
    whole = [percent(lookup(report, f"t2a.{figure}_codec_ceiling")) for figure in ERRORS]
    rows = [["all: WER / CER", *map(pair, told), " / ".join(whole)]]
    rows += [[f"asked for {name}", *(pair(each["asked"][name]) for each in told), "–"] for name in BUCKETS]
    rows += [[f"said {name}", *(pair(each["said"][name]) for each in told), pair(ceiling.get(name))] for name in LENGTH_NAMES]
    voices = [f"{cosine(each['similarity'])} / {cosine(each['similarity_other_voice'])}" for each in told]
    rows += [["voice: as told / another's", *voices, cosine(lookup(report, "t2a.similarity_codec_ceiling"))]]
    return [*rows, ["cut off, silent", *(f"{percent(each['runaways'])}, {percent(each['silent'])}" for each in told), "–"]]


def held_out_rows(report: dict) -> list[list[str]]:
    """Of the held-out rows: the model, and recorded speech through the codec."""
    rows = []
    for task, name in (("t2a", "asked in writing"), ("a2a", "asked aloud"), ("i2a", "asked with a picture")):
        for figure in ERRORS:
            values = (lookup(report, f"{task}.{figure}{suffix}") for suffix in ("", "_codec_ceiling"))
            rows.append([f"{name}: {figure.upper()}", *map(percent, values)])
    for length in LENGTH_NAMES:
        rows.append([f"asked in writing, {length}", *(pair(lookup(report, f"t2a.{part}.{length}")) for part in ("said", "recorded_by_length"))])
    similar = [lookup(report, f"t2a.{key}") for key in ("similarity", "similarity_codec_ceiling")]
    return [*rows, ["voice, as told", *map(cosine, similar)]]


def floor_rows(report: dict) -> list[list[str]]:
    """Figures beside what they must be far from."""
    found = [["voice", cosine(lookup(report, "t2a.similarity")), "another's", cosine(lookup(report, "t2a.similarity_other_voice"))]]
    for task, what in (("a2a", "questions"), ("i2t", "pictures")):
        values = (lookup(report, f"{task}.overlap{suffix}") for suffix in ("", f"_swapped_{what}"))
        own, swapped = map(percent, values)
        found.append([f"{task}: words shared with the recorded answer", own, f"{what} swapped", swapped])
    for key, words in (("shuffled_frames", "frames shuffled"), ("noise", "noise"), ("wrong_sentence", "another sentence")):
        found.append(["asked in writing: WER", percent(lookup(report, "t2a.wer")), words, percent(lookup(report, f"controls.wer_{key}"))])
    return found


def show(report: dict, budget: str) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if report["stand_ins"]:
        console.print("These are stand-ins, random weights and drawn rows: not one of the figures below means anything.", style="bold")

    def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
        drawn = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            drawn.add_column(column, justify="right" if number else "left")
        for row in rows:
            drawn.add_row(*row)
        console.print(drawn)

    stages = [stage for stage, found in report["after_stage"].items() if found]
    names = [f"after {stage}" if stage in STAGES else stage for stage in stages]
    table(f"Fixed prompts ({budget}), heard by {report['judges']['speech']}", ["", *names, CEILING], prompt_rows(report, stages))
    table("Held-out rows, beside the ceiling", ["", "the model", CEILING], held_out_rows(report))
    table("Beside the floor", ["", "", "beside", ""], floor_rows(report))
