"""The course as a static site: one page a notebook, with its outputs and sounds, and a page of contents.

    mmo course book --to runs/book        # then open runs/book/index.html

Pages are the executed solutions, made by nbconvert; sounds and pictures are inside them.  What a learner would write is shown as
they get it, and the solution lies folded away under it.  Equations become MathML, which browsers draw by themselves (latex2mathml, since
nbconvert's way is a script from the network): the pages need no network at all.
"""

from __future__ import annotations

import html
import re
from copy import deepcopy
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mmo.course.build import BEGIN, END, Edition, emptied
from mmo.course.catalogue import REPOSITORY, Notebook, read_course
from mmo.settled import settle

CSS = """<style>
body { max-width: 1000px; margin: 0 auto !important; }
nav.course { display: flex; justify-content: space-between; gap: 1em; padding: 10px 4px; border-bottom: 1px solid #ddd; font-family: sans-serif; font-size: 14px; }
nav.course a, .toc a { color: #0072B2; text-decoration: none; }
details.solution { margin: 4px 0 4px 64px; font-size: 14px; }
details.solution pre { background: #f6f6f6; padding: 8px; overflow-x: auto; }
.toc { font-family: sans-serif; max-width: 860px; margin: 32px auto; line-height: 1.5; padding: 0 12px; }
.toc td, .toc th { padding: 6px 12px 6px 0; vertical-align: top; text-align: left; border-bottom: 1px solid #eee; }
.toc td.number { text-align: right; }
</style>"""


# What nbconvert would load from elsewhere: equations are MathML here, widgets are words, and no notebook draws with mermaid.
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
REQUIRE = re.compile(r'<script src="https?://[^"]*require[^"]*"></script>')
MERMAID = re.compile(r'<script type="module">(?:(?!</script>).)*mermaid(?:(?!</script>).)*</script>', re.DOTALL)


class Renderer(IPythonRenderer):
    """Markdown as nbconvert renders it, with equations as MathML."""

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")


class PageExporter(HTMLExporter):
    """nbconvert's exporter with the renderer above, for notebooks whose widgets nobody can move any more."""

    def from_notebook_node(self, nb: NotebookNode, resources=None, **more) -> tuple[str, dict]:
        return super().from_notebook_node(settle(deepcopy(nb)), resources, **more)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=self.embed_images, anchor_link_text=self.anchor_link_text)).render(source)


def write_book(folder: Path, root: Path = REPOSITORY) -> list[Path]:
    """Write every page of the course; returns them, the contents first.  Raises FileNotFoundError naming a missing notebook."""
    course = read_course(root)
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for place, entry in enumerate(course):
        before, behind = (course[place - 1] if place else None), (course[place + 1] if place + 1 < len(course) else None)
        path = folder / f"{entry.file}.html"
        path.write_text(page(entry, before, behind, root), encoding="utf-8")
        pages.append(path)
    contents = folder / "index.html"
    contents.write_text(contents_page(course), encoding="utf-8")
    return [contents, *pages]


def page(entry: Notebook, before: Notebook | None, behind: Notebook | None, root: Path) -> str:
    """One notebook as HTML, with ways to the pages beside it."""
    path = Edition(entry, root).solution
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such notebook; run `mmo course build --execute {entry.number}`")
    notebook = for_reading(nbformat.read(path, 4), root)
    body, _ = PageExporter(template_name="lab", embed_images=True).from_notebook_node(notebook, {"metadata": {"name": f"{entry.number} · {entry.title}"}})
    return without_network(body).replace("<main", f"{CSS}{navigation(before, behind)}<main", 1)


def without_network(body: str) -> str:
    """A page without what nbconvert's template would load from elsewhere."""
    for loaded in (MATHJAX, REQUIRE, MERMAID):
        body = loaded.sub("", body)
    return body


def navigation(before: Notebook | None, behind: Notebook | None) -> str:
    """The line at the top of a page."""
    left = f'<a href="{before.file}.html">← {before.number} {html.escape(before.title)}</a>' if before else "<span></span>"
    right = f'<a href="{behind.file}.html">{behind.number} {html.escape(behind.title)} →</a>' if behind else "<span></span>"
    return f'<nav class="course">{left}<a href="index.html">contents</a>{right}</nav>'


def for_reading(notebook: NotebookNode, root: Path) -> NotebookNode:
    """Solutions folded away, links between notebooks turned into links between pages, those into the repository into plain words."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda found: page_link(*found.groups()), cell.source)
            cells.append(cell)
        elif BEGIN in cell.source:
            solved = "\n".join(line for line in cell.source.splitlines() if line.strip() not in (BEGIN, END))
            cell.source = emptied(cell.source)
            folded = f'<details class="solution"><summary>one way to do it</summary><pre>{html.escape(solved)}</pre></details>'
            # A <pre> is kept as it is; Markdown would take its empty lines for the end of the block.
            cells += [cell, nbformat.v4.new_markdown_cell(re.sub(r"\n\s*\n", "\n&#8203;\n", folded))]
        else:
            cells.append(cell)
    notebook.cells = cells
    return notebook


LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^)\s]+)\)")


def page_link(words: str, target: str) -> str:
    """A link of Markdown's, for a page of the book: to another page, or elsewhere; to a file of the repository, which no page holds, its words alone."""
    name = target.split("#")[0]
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return f"[{words}]({target})"
    return f"[{words}]({Path(name).stem}.html{target[len(name):]})" if name.endswith(".ipynb") else words


def contents_page(course: tuple[Notebook, ...]) -> str:
    """The page that one opens first."""
    rows = "".join(
        f'<tr><td>{each.number}</td><td><a href="{each.file}.html">{html.escape(each.title)}</a></td><td>{html.escape(each.aim)}</td>'
        f'<td class="number">{each.minutes.get("tiny", "")}</td><td class="number">{each.points or ""}</td></tr>'
        for each in course
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>MiniMind-O by hand</title>{CSS}</head><body><div class="toc"><h1>MiniMind-O by hand</h1>'
        "<p>Build a small omni model over a weekend, and hear it speak. These pages are the executed notebooks, to read and to listen to; "
        "the exercises are done in <code>notebooks/</code>.</p>"
        f"<table><tr><th></th><th>notebook</th><th>aim</th><th>minutes</th><th>points</th></tr>{rows}</table></div></body></html>"
    )
