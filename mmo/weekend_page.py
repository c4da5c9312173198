"""The page at the end of a weekend: figures, players, and what the notebooks printed, drew and said.

One HTML file with everything in it (sound as data URIs), so that it can be mailed, kept as a CI artefact and listened
to without a server. Sounds to hear first: every `samples/*.wav` of the run, with `samples/<same name>.txt` as caption.
"""

import base64
import html
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from mmo.report import is_open
from mmo.settled import settle

PAGE = "weekend.html"
HEADLINES = {  # dotted key in report.json -> how the page calls it, how it is written
    "t2a.answer_accuracy": ("Text to speech: the answer is right", "{:.1%}"),
    "t2a.wer": ("… words heard wrong (WER against its own text)", "{:.1%}"),
    "t2a.wer_codec_ceiling": ("… the same, for the codec alone", "{:.1%}"),
    "t2a.wer_judge_floor": ("… the same, for the original recordings", "{:.1%}"),
    "t2a.spoken_accuracy": ("… the spoken answer is right", "{:.1%}"),
    "a2a.answer_accuracy": ("Speech to speech: the answer is right", "{:.1%}"),
    "a2a.wer": ("… words heard wrong", "{:.1%}"),
    "a2a.accuracy_swapped_questions": ("… right when the questions are swapped", "{:.1%}"),
    "i2t.exact_match": ("Picture to text: the description is right", "{:.1%}"),
    "i2t.exact_match_swapped_pictures": ("… right when the pictures are swapped", "{:.1%}"),
    "i2a.spoken_accuracy": ("Picture to speech: the spoken description is right", "{:.1%}"),
    "streaming.first_audio_ms": ("First sound after a typed question", "{:.0f} ms"),
    "streaming.spoken_question.first_audio_ms": ("… after a spoken one, which is heard and written down first", "{:.0f} ms"),
    "streaming.picture.first_audio_ms": ("… after a picture", "{:.0f} ms"),
    "streaming.real_time_factor": ("Seconds of work for a second of speech", "{:.2f}"),
    "seconds.total": ("All of it took", "{:.0f} s"),
    "peak_rss_mb": ("Memory at most", "{:.0f} MB"),
}

OPEN_HEADLINES = {  # the same where questions are open (open_evaluation.py)
    "t2a.wer": ("Text to speech: words heard wrong (WER against its own text)", "{:.1%}"),
    "t2a.cer": ("… characters heard wrong", "{:.1%}"),
    "t2a.wer_codec_ceiling": ("… words of recorded answers, through the codec", "{:.1%}"),
    "t2a.cer_codec_ceiling": ("… characters of recorded answers, through the codec", "{:.1%}"),
    "t2a.similarity": ("… likeness to the voice it was told (cosine)", "{:.2f}"),
    "t2a.similarity_other_voice": ("… to another voice", "{:.2f}"),
    "a2a.wer": ("Speech to speech: words heard wrong", "{:.1%}"),
    "a2a.overlap": ("… words shared with the recorded answer", "{:.1%}"),
    "a2a.overlap_swapped_questions": ("… when the questions are swapped", "{:.1%}"),
    "i2t.overlap": ("Picture to text: words shared with the recorded answer", "{:.1%}"),
    "i2t.overlap_swapped_pictures": ("… when the pictures are swapped", "{:.1%}"),
    **{key: HEADLINES[key] for key in HEADLINES if key.startswith("streaming.") or key in ("seconds.total", "peak_rss_mb")},
}

STYLE = """<style>
.mmo { font-family: system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
.mmo table { border-collapse: collapse; } .mmo td { padding: .2em 1em .2em 0; }
.mmo td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.mmo figure { margin: .6em 0; } .mmo audio { display: block; width: 100%; max-width: 30em; }
</style>"""


def figure(report: dict, key: str) -> float | None:
    """`figure(report, "t2a.wer")`: a figure by its dotted key; None where it was not measured."""
    value = report
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def figures_table(report: dict) -> str:
    """The headline figures as an HTML table; what was not measured says so."""
    rows = []
    for key, (words, form) in (OPEN_HEADLINES if is_open(report) else HEADLINES).items():
        value = figure(report, key)
        shown = "not measured" if value is None else form.format(value)
        rows.append(f"<tr><td>{html.escape(words)}</td><td>{shown}</td></tr>")
    return "<table>" + "\n".join(rows) + "</table>"


def players(samples: Path) -> str:
    """One player for each WAV in a folder, in the order of names, with its caption; empty without any."""
    parts = []
    for wave in sorted(samples.glob("*.wav")):
        text = wave.with_suffix(".txt")
        caption = text.read_text(encoding="utf-8").strip() if text.is_file() else wave.stem.replace("_", " ")
        data = base64.b64encode(wave.read_bytes()).decode()
        parts.append(
            f"<figure><figcaption>{html.escape(caption)}</figcaption>"
            f'<audio controls src="data:audio/wav;base64,{data}"></audio></figure>'
        )
    return "\n".join(parts)


def joined(notebooks: list[Path]) -> nbformat.NotebookNode:
    """Several executed notebooks as one, each under a line with its name, progress bars and controls as words."""
    whole = nbformat.v4.new_notebook()
    for path in notebooks:
        whole.cells.append(nbformat.v4.new_markdown_cell(f"---\n*{path.name}*"))
        whole.cells.extend(settle(nbformat.read(path, as_version=4)).cells)
    for number, cell in enumerate(whole.cells):
        cell.id = f"cell-{number}"  # ids may repeat from notebook to notebook
    return whole


def write_page(run_dir: Path, notebooks: list[Path], report: dict) -> Path:
    """Write `run_dir/weekend.html` from the executed notebooks and the report; returns its path."""
    exporter = HTMLExporter(template_name="lab", exclude_input=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(joined(notebooks), {"metadata": {"name": "The weekend"}})
    head = (
        f'{STYLE}<div class="mmo"><h1>The weekend · {html.escape(report["profile"])}'
        f"{' · smoke run' if report['budget'] == 'smoke' else ''}</h1>"
        f"{figures_table(report)}<h2>Listen</h2>{players(run_dir / 'samples')}</div>"
    )
    at = body.index(">", body.index("<body")) + 1
    page = run_dir / PAGE
    page.write_text(body[:at] + head + body[at:], encoding="utf-8")
    return page
