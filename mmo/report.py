"""The report of an evaluation: which figures it must have, why one is missing, which bounds are met.

    report = finish(report)          # all keys there, `reasons` for every null, `bounds` with a verdict each
    show(report, budget)             # the table

A report of open questions has other figures and tables (open_report.py); both functions know it by `questions`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmo.profiles import STAGES

TIER_KEYS = ("answer_accuracy", "wer", "wer_codec_ceiling", "wer_judge_floor", "spoken_accuracy")
REQUIRED = (
    *(f"t2a.{tier}{key}" for tier in ("", "pair.", "fact.") for key in TIER_KEYS),
    *("a2a.answer_accuracy", "a2a.wer", "a2a.accuracy_swapped_questions"),
    *("i2t.exact_match", "i2t.exact_match_swapped_pictures", "i2a.spoken_accuracy", "i2a.wer"),
    *(f"controls.wer_{name}" for name in ("shuffled_frames", "wrong_sentence", "noise")),
    *(f"after_stage.{stage}" for stage in STAGES),
    *("streaming.first_audio_ms", "streaming.real_time_factor", "streaming.spoken_question.first_audio_ms", "streaming.picture.first_audio_ms"),
    *(f"seconds.{name}" for name in (*STAGES, "evaluate", "total")),
    *("peak_rss_mb", "seed", "versions"),
)
REASONS = (  # the first that fits a null figure's key
    ("judge_floor", "t2a-test.parquet holds no uncoded speech (answer_sound) of these rows"),
    ("after_stage", "the run's folder holds no weights of this stage, or there was nothing to compare: no such test items, or no words written"),
    ("questions_written_right", "no such test items, or questions are not written down first with these settings (decoding.write_down)"),
    ("streaming", "the model said nothing, or no such test items"),
    ("seconds", "`mmo weekend` takes this time, and it has not run here in one go, or not to these weights"),
    ("peak_rss_mb", "`mmo weekend` watches memory, and it has not run here in one go, or not to these weights"),
    ("wer", "nothing to compare: no such test items, or the model wrote no words"),
    ("", "no such test items"),
)


def lookup(report: dict, key: str):
    """A figure by its dotted key; None where it is not there."""
    value = report
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def complete(report: dict, required: Sequence[str] = REQUIRED, reasons: Sequence[tuple[str, str]] = REASONS) -> dict:
    """The report with every required key (null where it was not measured) and a reason for every null.

    Raises ValueError for a figure that is no finite number.
    """
    for key in required:
        *path, last = key.split(".")
        place = report
        for part in path:
            place = place.setdefault(part, {})
        place.setdefault(last, None)
    report["reasons"] = {key: next(why for part, why in reasons if part in key) for key in nulls(report)}
    return report


def nulls(report: dict, prefix: str = "") -> list[str]:
    """Dotted keys of all nulls.  Raises ValueError naming a number that is not finite."""
    found = []
    for key, value in report.items():
        if isinstance(value, dict):
            found += nulls(value, f"{prefix}{key}.")
        elif value is None:
            found.append(f"{prefix}{key}")
        elif isinstance(value, float) and not np.isfinite(value):
            raise ValueError(f"figure {prefix}{key} is {value}: a bug in the evaluation")
    return found


@dataclass(frozen=True)
class Bound:
    """What a figure must reach: `at_least` or `at_most`, beside another figure where `above` names one."""

    key: str
    at_least: float | None = None
    at_most: float | None = None
    above: str | None = None  # at_most counts from this figure

    def limit(self, report: dict) -> float | None:
        base = lookup(report, self.above) if self.above else 0.0
        return None if base is None else round(base + (self.at_most if self.at_least is None else self.at_least), 4)

    def met(self, report: dict) -> bool | None:
        """Whether it is; None where a figure is missing."""
        value, limit = lookup(report, self.key), self.limit(report)
        if value is None or limit is None:
            return None
        return value >= limit if self.at_least is not None else value <= limit


def bounds(report: dict, budget: str) -> list[Bound]:
    """The bounds of the tiny world's weekend."""
    voices = lookup(report, "t2a.voices") or {}
    return [
        Bound("t2a.answer_accuracy", at_least=0.95),
        *(Bound(f"t2a.voices.{voice}.wer", at_most=0.08, above=f"t2a.voices.{voice}.wer_codec_ceiling") for voice in voices),
        *(Bound(f"t2a.voices.{voice}.wer_codec_ceiling", at_most=0.05, above=f"t2a.voices.{voice}.wer_judge_floor") for voice in voices),
        Bound("a2a.answer_accuracy", at_least=0.85),
        Bound("i2t.exact_match", at_least=0.80),
        Bound("a2a.accuracy_swapped_questions", at_most=0.05),
        Bound("i2t.exact_match_swapped_pictures", at_most=0.05),
        Bound("controls.wer_shuffled_frames", at_least=0.80),
        Bound("controls.wer_noise", at_least=0.80),
        Bound("controls.wer_wrong_sentence", at_least=0.50),
        Bound("streaming.first_audio_ms", at_most=500),
        Bound("streaming.spoken_question.first_audio_ms", at_most=500),
        Bound("streaming.picture.first_audio_ms", at_most=500),
        Bound("streaming.real_time_factor", at_most=1),
        Bound("seconds.total", at_most=2400 if budget == "full" else 360),
        Bound("peak_rss_mb", at_most=6000),
    ]


def finish(report: dict) -> dict:
    """The complete report with its verdicts (`bounds`).  `mmo weekend` calls it again once it knows seconds and memory."""
    report = {key: value for key, value in report.items() if key not in ("bounds", "reasons")}
    if is_open(report):
        from mmo import open_report

        return with_verdicts(complete(report, open_report.REQUIRED, open_report.REASONS), open_report.bounds())
    return with_verdicts(complete(report), bounds(report, report["budget"]))


def is_open(report: dict) -> bool:
    """Whether its questions have no answer that is the only right one."""
    return report.get("questions") == "open"


def with_verdicts(report: dict, limits: Sequence[Bound]) -> dict:
    """The report and what became of each bound."""
    report["bounds"] = [
        {"figure": bound.key, "value": lookup(report, bound.key), "limit": bound.limit(report), "met": bound.met(report)} for bound in limits
    ]
    return report


def show(report: dict, budget: str) -> None:
    """Print the figures that have bounds, and the rest of the headlines beside their ceilings and floors."""
    from rich.console import Console
    from rich.table import Table

    if is_open(report):
        from mmo import open_report

        open_report.show(report, budget)
        return
    table = Table(title=f"Evaluation ({budget})", title_justify="left")
    for name, side in (("figure", "left"), ("value", "right"), ("bound", "right"), ("", "left")):
        table.add_column(name, justify=side)
    for bound in bounds(report, budget):
        value, limit, met = lookup(report, bound.key), bound.limit(report), bound.met(report)
        sign = "≥" if bound.at_least is not None else "≤"
        mark = {True: "met", False: "NOT MET", None: "not measured"}[met]
        table.add_row(bound.key, "–" if value is None else f"{value:g}", "–" if limit is None else f"{sign} {limit:g}", mark)
    console = Console()
    console.print(table)
    beside = Table(title="Beside ceiling and floor", title_justify="left")
    for name in ("t2a", "the model", "the codec", "uncoded"):
        beside.add_column(name, justify="left" if name == "t2a" else "right")
    groups = {"sentence": "t2a", "pair": "t2a.pair", "fact": "t2a.fact"}
    groups |= {voice: f"t2a.voices.{voice}" for voice in lookup(report, "t2a.voices") or {}}
    for name, prefix in groups.items():
        for figure in ("wer", "spoken_accuracy", "spoken_accuracy_content"):
            values = [lookup(report, f"{prefix}.{figure}{suffix}") for suffix in ("", "_codec_ceiling", "_judge_floor")]
            beside.add_row(f"{name}: {figure}", *("–" if value is None else f"{value:.1%}" for value in values))
    console.print(beside)


def write_report(path: Path, report: dict) -> None:
    """Write atomically."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def earlier(run_dir: Path, weights: str, budget: str) -> dict:
    """What only `mmo weekend` can measure, from the report that it wrote here before: seconds and memory.

    weights: SHA-256 of what is examined now; seconds that other weights, or another budget, took are none of these.
    """
    path = run_dir / "report.json"
    if not path.is_file():
        return {"seconds": {}}
    report = json.loads(path.read_text(encoding="utf-8"))
    if (report.get("weights_sha256"), report.get("budget")) != (weights, budget):
        return {"seconds": {}}
    seconds = {name: value for name, value in report.get("seconds", {}).items() if value is not None}
    return {"seconds": seconds, "peak_rss_mb": report.get("peak_rss_mb")}
