"""What grading writes: grades.csv, class.html, and students/NAME.html.

Everything a student wrote is text here: the templates escape it, and pictures are PNG in base64.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from mmo.course.catalogue import Notebook
from mmo.course.exercises import find
from mmo.course.grading.grades import KINDS, Grade
from mmo.course.grading.submissions import Submission
from mmo.course.grading.summary import hardest_first, seen_most
from mmo.display import GREEN, GREY, ORANGE, RED

COLUMNS = ("student", "notebook", "exercise", "points", "reason")
COLOURS = {"right": GREEN, "partly": ORANGE, "wrong": RED, "open": GREY, "stopped": RED, "missing": GREY}
UNFINISHED = "students.part"
MOST_PICTURES = 12  # of the plots in a student's file
HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
body { font-family: sans-serif; max-width: 900px; margin: 24px auto; padding: 0 12px; line-height: 1.45; }
table { border-collapse: collapse; } td, th { padding: 5px 14px 5px 0; vertical-align: top; text-align: left; border-bottom: 1px solid #e4e4e4; } td.number, th.number { text-align: right; }
section { border-left: 4px solid; padding: 2px 12px; margin: 12px 0; } section h3 { margin: 2px 0; font-size: 1em; }
pre { background: #f6f6f6; padding: 8px; overflow-x: auto; white-space: pre-wrap; } img { max-width: 100%; } .words { white-space: pre-line; }
.mark { background: #fff3c4; padding: 2px 6px; }
</style></head><body>
"""
STUDENT = HEAD + """<h1>{{ student }}</h1><p>{{ points(earned) }} of {{ of }} points.</p>
{% for submission, grades in parts %}<h2>{{ submission.notebook.number }} · {{ submission.notebook.title }}</h2>
{% for note in submission.notes %}<p>Note: {{ note }}.</p>{% endfor %}
{% for grade in grades %}<section style="border-color: {{ colours[grade.kind] }}">
<h3>{{ grade.exercise }} · {{ title_of(grade) }}: {{ grade.kind }}, {{ points(grade.points) }} of {{ grade.of }}</h3>
<p class="words">{{ grade.reason }}</p>
{% for mark in grade.marks %}<p><span class="mark">This answer {{ mark }}.</span></p>{% endfor %}
{% if grade.picture and grade.kind != "right" %}<img alt="{{ grade.alt }}" src="data:image/png;base64,{{ grade.picture }}">{% endif %}
{% if grade.printed.strip() %}<p>It printed:</p><pre>{{ grade.printed }}</pre>{% endif %}
</section>{% endfor %}
{% for picture in plots(submission) %}{% if loop.first %}<h3>Plots in the file as it was handed in</h3>{% endif %}
<img alt="plot {{ loop.index }} of the notebook" src="data:image/png;base64,{{ picture }}">{% else %}{% if not submission.problem %}<p>The file has no saved plots.</p>{% endif %}{% endfor %}
{% endfor %}</body></html>
"""
CLASS = HEAD + """<h1>{{ title }}</h1>
<h2>Exercises, the hardest first</h2>
<table><tr><th>exercise</th><th class="number">points earned</th>{% for kind in kinds %}<th class="number">{{ kind }}</th>{% endfor %}<th>said most</th></tr>
{% for line in lines %}<tr><td>{{ line.exercise }}</td><td class="number">{{ "%.0f" | format(100 * line.share) }} %</td>
{% for kind in kinds %}<td class="number">{{ line.kinds[kind] or "" }}</td>{% endfor %}
<td>{% if line.often %}{{ line.times }} × {{ line.often }}{% endif %}</td></tr>{% endfor %}</table>
{% for mistake in mistakes %}{% if loop.first %}<h2>Mistakes seen most</h2>
<table><tr><th></th><th class="number">students</th><th>exercise</th><th>what they were told</th><th>who</th></tr>{% endif %}
<tr><td class="number">{{ loop.index }}</td><td class="number">{{ mistake.students | length }}</td>
<td>{{ mistake.exercise }}</td><td>{{ mistake.words }}</td><td>{{ mistake.students | join(", ") }}</td></tr>
{% if loop.last %}</table>{% endif %}{% endfor %}
<h2>Students</h2>
<table><tr><th>student</th>{% for entry in entries %}<th class="number">{{ entry.number }}</th>{% endfor %}<th class="number">of {{ of }}</th><th>to look at</th><th>the files</th></tr>
{% for row in rows %}<tr><td><a href="students/{{ row.link }}">{{ row.student }}</a></td>
{% for part in row.parts %}<td class="number">{{ points(part) }}</td>{% endfor %}<td class="number">{{ points(row.earned) }}</td><td>{{ row.look }}</td><td>{{ row.files }}</td></tr>{% endfor %}
</table>
{% for words in loose %}{% if loop.first %}<h2>Files of nobody</h2><ul>{% endif %}<li>{{ words }}</li>{% if loop.last %}</ul>{% endif %}{% endfor %}
</body></html>
"""
LONGEST_NAME = 200  # bytes of a page's name; file systems take 255


def points(number: float) -> str:
    """1.50 -> "1.5", 3.0 -> "3"."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def plots(submission: Submission) -> list[str]:
    """PNG pictures of the file, in base64."""
    return [picture for cell in submission.cells for picture in cell.pictures][:MOST_PICTURES]


def templates() -> Environment:
    """Escapes whatever is put in; a missing name is an error."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.globals |= {"points": points, "colours": COLOURS, "kinds": KINDS, "plots": plots, "title_of": lambda grade: find(grade.exercise).title}
    return environment


def page_name(student: str) -> str:
    """The name of a student's page; a name too long for a file is cut, and stays one of its own."""
    name = student.encode()
    cut = name[:LONGEST_NAME].decode(errors="ignore") + "-" + hashlib.sha256(name).hexdigest()[:12]
    return f"{student if len(name) <= LONGEST_NAME else cut}.html"


def write_pages(out: Path, entries: Sequence[Notebook], submissions: Sequence[Submission], grades: Sequence[Grade], loose: Sequence[str] = ()) -> None:
    """Write everything into `out`; pages of an earlier grading go, once all new ones are there.  loose: what lay beside the students' folders, in words."""
    pages, unfinished = out / "students", out / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    environment = templates()
    names = list(dict.fromkeys(each.student for each in submissions))
    try:
        unfinished.mkdir(parents=True)
        for name in names:
            (unfinished / page_name(name)).write_text(student_page(environment, name, submissions, grades), encoding="utf-8")
        of_class = class_page(environment, names, entries, submissions, grades, loose)
    except BaseException:  # Ctrl-C, a full disk: all stays as it was
        shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):
            out.rmdir()  # where it is empty
        raise
    write_csv(out / "grades.csv", grades)
    shutil.rmtree(pages, ignore_errors=True)
    unfinished.rename(pages)
    (out / "class.html").write_text(of_class, encoding="utf-8")


def write_csv(path: Path, grades: Sequence[Grade]) -> None:
    """One line for each student's each exercise."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows((harmless(each.student), each.notebook, each.exercise, points(each.points), harmless(each.reasons)) for each in grades)


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def student_page(environment: Environment, student: str, submissions: Sequence[Submission], grades: Sequence[Grade]) -> str:
    own = [grade for grade in grades if grade.student == student]
    parts = [(each, [grade for grade in own if grade.notebook == each.notebook.number]) for each in submissions if each.student == student]
    words = {"title": f"Grades of {student}", "student": student, "parts": parts}
    return environment.from_string(STUDENT).render(words, earned=sum(each.points for each in own), of=sum(each.of for each in own))


def class_page(
    environment: Environment, names: Sequence[str], entries: Sequence[Notebook], submissions: Sequence[Submission], grades: Sequence[Grade], loose: Sequence[str],
) -> str:  # fmt: skip
    rows = []
    for name in names:
        own = [grade for grade in grades if grade.student == name]
        parts = [sum(grade.points for grade in own if grade.notebook == entry.number) for entry in entries]
        look = ", ".join(grade.exercise for grade in own if grade.marks)
        files = "; ".join(dict.fromkeys(words for each in submissions if each.student == name for words in [each.problem, *each.notes] if words))
        rows.append({"student": name, "link": quote(page_name(name)), "parts": parts, "earned": sum(parts), "look": look, "files": files})
    of = sum(entry.points for entry in entries)
    tables = {"lines": hardest_first(grades), "mistakes": seen_most(grades), "rows": rows, "loose": loose}
    return environment.from_string(CLASS).render(tables, title="The class", entries=entries, of=of)
