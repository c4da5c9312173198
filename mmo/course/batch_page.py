"""The page of a batch: what became of every notebook, the losses, and what the variants say, side by side."""

from __future__ import annotations

import html
import re
from pathlib import Path

import nbformat

CSS = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1.5em; color: #1b1b1b; } h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 32px; }
table { border-collapse: collapse; } td, th { padding: 6px 16px 6px 0; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.done { color: #00795A; } .failed, .stopped { color: #B03A2E; } .skipped, .waiting { color: #777; } .sounds { overflow-x: auto; } audio { width: 260px; height: 34px; } figure { margin: 0 0 4px; } img { max-width: 420px; }
</style>"""
PICTURE = re.compile(r"<img\b[^>]*>")


def batch_page(report: dict, folder: Path, titles: dict[str, str]) -> str:
    """One HTML file; its links lead to the notebooks beside it."""
    asked = report["asked"]
    settings = ", ".join(f"{name} = {' | '.join(values)}" for name, values in asked["settings"].items()) or "no setting changed"
    variants = list(dict.fromkeys(each["variant"] for each in report["jobs"]))
    parts = [
        f"<h1>Batch {html.escape(folder.name)}</h1><p>Notebooks {', '.join(asked['notebooks'])}, profile {html.escape(asked['profile'])}, budget {asked['budget']}; {html.escape(settings)}.</p>",
        "<h2>What became of each</h2>", jobs_table(report["jobs"], titles), losses_table(report["losses"]),
        *(side_by_side(number, title, report["jobs"], variants, folder) for number, title in titles.items()),
    ]  # fmt: skip
    return f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Batch {html.escape(folder.name)}</title>{CSS}</head><body>{"".join(parts)}</body></html>\n'


def jobs_table(jobs: list[dict], titles: dict[str, str]) -> str:
    rows = []
    for each in jobs:
        links = " · ".join(f'<a href="{html.escape(each[key])}">{word}</a>' for key, word in (("page", "page"), ("copy", "notebook")) if each[key])
        seconds = f"{each['seconds'] / 60:.1f}" if "seconds" in each else ""
        memory = f"{each['peak_rss_mb'] / 1000:.1f}" if "peak_rss_mb" in each else ""
        rows.append(
            f"<tr><td>{html.escape(each['variant'])}</td><td>{each['notebook']} {html.escape(titles[each['notebook']])}</td><td class=\"{each['state']}\">{each['state']}</td>"
            f'<td class="number">{seconds}</td><td class="number">{memory}</td><td>{links}</td><td>{html.escape(each.get("reason", ""))}</td></tr>'
        )
    return f"<table><tr><th>variant</th><th>notebook</th><th>state</th><th>minutes</th><th>GB</th><th></th><th></th></tr>{''.join(rows)}</table>"


def losses_table(losses: dict[str, dict]) -> str:
    """The last held-out losses, a line a variant and stage; nothing where nothing was trained."""
    rows = [
        f"<tr><td>{html.escape(variant)}</td><td>{stage}</td>" + "".join(f'<td class="number">{shown(found.get(key))}</td>' for key in ("step", "text", "audio")) + "</tr>"
        for variant, stages in losses.items() for stage, found in stages.items()
    ]  # fmt: skip
    if not rows:
        return ""
    return f"<h2>Held-out losses, the last ones</h2><table><tr><th>variant</th><th>stage</th><th>step</th><th>text</th><th>audio</th></tr>{''.join(rows)}</table>"


def shown(value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def side_by_side(number: str, title: str, jobs: list[dict], variants: list[str], folder: Path) -> str:
    """The sounds of one notebook: a line a sound, a column a variant; nothing where it has none."""
    heard = {each["variant"]: sounds_of(folder / each["copy"]) for each in jobs if each["notebook"] == number and each["copy"]}
    places = sorted({place for sounds in heard.values() for place in sounds})
    if not places:
        return ""
    head = "".join(f"<th>{html.escape(variant)}</th>" for variant in variants)
    rows = "".join("<tr>" + "".join(f"<td>{heard.get(variant, {}).get(place, '<i>none</i>')}</td>" for variant in variants) + "</tr>" for place in places)
    return f'<h2>{number} {html.escape(title)}: what is heard</h2><div class="sounds"><table><tr>{head}</tr>{rows}</table></div>'


def sounds_of(copy: Path) -> dict[tuple[int, int, int], str]:
    """The players of an executed notebook, without their pictures, by their places: cell, lines printed before it there, which of several.

    So what answers the same question stands in the same line, though another variant said nothing to the question before.
    """
    found: dict[tuple[int, int, int], str] = {}
    cells = [cell for cell in nbformat.read(copy, 4).cells if not any(tag.startswith("papermill-error") for tag in cell.metadata.get("tags", []))]
    for number, cell in enumerate(cells):
        lines = same = 0
        for output in cell.get("outputs", []):
            page = "".join(output.get("data", {}).get("text/html", ""))
            if output.output_type == "stream" and output.name == "stdout":
                lines, same = lines + output.text.count("\n"), 0
            elif "<audio" in page:
                found[number, lines, same] = PICTURE.sub("", page)
                same += 1
    return found
