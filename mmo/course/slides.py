"""The course as slides: one deck a notebook, made from its executed solution by nbconvert and reveal.js, with pictures and sounds.

    mmo course slides --to runs/slides --notebooks 01,07      # then open runs/slides/index.html; S shows the speaker's view

What is on a slide follows from the notebook, so that nothing has to be kept twice and nothing is executed again:

- the title, with the claim;
- each heading, with what of its text fits; the rest is in the speaker's notes;
- each exercise, with its task and the empty function, never a solution;
- each picture, and the sounds of a cell side by side, on slides of their own below their heading;
- predictions before what they ask for, truths after it.

That is the default.  Where a cell says itself what it is, in nbconvert's own metadata (`slideshow.slide_type`; in JupyterLab the property
"Slide Type", in a text form `# %% slideshow={"slide_type": "skip"}`), it is that, whole: `slide` and `subslide` begin one, `fragment` appears at a key,
`-` stands on the slide before it, `notes` is for the speaker, `skip` stays out.  A code cell then shows its code, without what solves an
exercise, unless it is tagged `remove-input`, and all its outputs.  Every deck is one file that needs no network.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from jinja2 import pass_context
from nbconvert import SlidesExporter
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from nbformat import NotebookNode

from mmo.course.book import Renderer
from mmo.course.build import EXERCISE, EXERCISE_LINE, TAKES_LINE, Edition, emptied
from mmo.course.catalogue import REPOSITORY, Notebook, chosen

HERE = Path(__file__).parent
KINDS = ("slide", "subslide", "fragment", "-", "notes", "skip")  # nbconvert's
HEADING = re.compile(r"^(#{1,3}) +(.+)$")
QUIZ = re.compile(r"^quiz\(", re.MULTILINE)
ROOM = 620  # characters of text on a slide beside its heading
TO_READERS = " Write your answer in place of None, run the cell, then go on."
LEADS = ("**The claim.**", "**Not to be confused.**", "**Often mistaken.**", "**Predict")  # paragraphs worth a slide's room
ASIDE = ("**Where to read on.**", "**To try.**", "**You need**", "**At the end**")  # for the notes
TOGETHER = 6  # players, or lines of words, on one slide
UNDER = 420  # characters under a picture or a sound; what is longer is told


@dataclass
class Medium:
    """Something to see or hear, on a slide of its own."""

    kind: str  # "picture", "sounds", "words"
    outputs: list[NotebookNode]
    text: list[str] = field(default_factory=list)  # what the notebook says after it
    notes: list[str] = field(default_factory=list)  # cells tagged as such


@dataclass
class Tagged:
    """A cell that says itself what it is in the deck; `cells` show it whole, the first of them is that."""

    cells: list[NotebookNode]
    text: list[str] = field(default_factory=list)  # what the notebook says after it, for the notes
    notes: list[str] = field(default_factory=list)


@dataclass
class Section:
    """A heading and what stands under it, until the next."""

    title: str
    level: int
    opening: Tagged | None = None  # the cell with the heading, where that is tagged
    text: list[str] = field(default_factory=list)  # blocks of Markdown in front of the first medium
    stub: str = ""  # an exercise's empty function
    media: list[Medium | Tagged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# --- What is on the slides ---------------------------------------------------------------------------------------


def blocks_of(source: str) -> Iterator[str]:
    """Markdown, paragraph by paragraph; what is fenced stays together."""
    block, fenced = [], False
    for line in source.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not line.strip() and not fenced:
            if block:
                yield "\n".join(block)
            block = []
        elif HEADING.match(line) and not fenced:
            if block:
                yield "\n".join(block)
            yield line
            block = []
        else:
            block.append(line)
    if block:
        yield "\n".join(block)


def kind_of(output: NotebookNode) -> str | None:
    """What an output is on a slide: a picture, a sound, a line of words; None where it is none of these."""
    data = output.get("data", {})
    page = "".join(data.get("text/html", ""))
    if "image/png" in data or "image/svg+xml" in data:
        return "picture"
    if "<audio" in page:
        return "sound"
    plain = "".join(data.get("text/plain", ""))
    return "words" if page and plain.startswith(("Predict. ", "It is ")) else None


def sections_of(notebook: NotebookNode) -> list[Section]:
    """The notebook's sections with what of them can be shown."""
    found: list[Section] = []
    for cell in notebook.cells:
        asked = asked_of(cell)
        if asked:
            put_tagged(found, cell, asked)
        elif cell.cell_type == "markdown":
            for block in blocks_of(cell.source):
                heading = HEADING.match(block)
                if heading:
                    found.append(Section(heading[2].strip(), len(heading[1])))
                elif found and not is_generated(block):
                    last_of(found).text.append(without_links(block))
        elif cell.cell_type == "code" and found:
            if QUIZ.search(cell.source) and not found[-1].media:
                found.pop()  # its questions are for the notebook and for paper; the heading alone says nothing
                continue
            if EXERCISE.search(cell.source):
                found[-1].stub = emptied(cell.source)
            found[-1].media += media_of(cell)
    return found


def asked_of(cell: NotebookNode) -> str:
    """What a cell says that it is in the deck, one of KINDS; "" where it says nothing.  Raises ValueError for what nbconvert does not know."""
    kind = cell.metadata.get("slideshow", {}).get("slide_type") or ""
    if kind and kind not in KINDS:
        raise ValueError(f"a cell's slide_type is {kind!r}; there are {', '.join(KINDS)}. The cell begins {cell.source[:40]!r}")
    return kind


def last_of(found: Sequence[Section]) -> Section | Medium | Tagged:
    """What the latest slide shows last: text that follows belongs to it."""
    return found[-1].media[-1] if found[-1].media else found[-1]


def put_tagged(found: list[Section], cell: NotebookNode, asked: str) -> None:
    """Add a tagged cell to the sections, in place.  Raises ValueError for one that needs a slide before it and has none."""
    if asked == "skip":
        return
    headings = [heading for block in blocks_of(cell.source) if (heading := HEADING.match(block))] if cell.cell_type == "markdown" else []
    if not found and asked != "slide" and not headings:
        raise ValueError(f"a cell tagged {asked!r} stands before the first heading. The cell begins {cell.source[:40]!r}")
    if asked == "notes":
        last_of(found).notes.append(words_of(cell))
    elif headings or asked == "slide":
        title, level = (headings[-1][2].strip(), len(headings[-1][1])) if headings else (found[-1].title if found else "", 2)
        found.append(Section(title, level, Tagged(whole(cell, asked))))
    else:
        found[-1].media.append(Tagged(whole(cell, asked)))


def whole(cell: NotebookNode, asked: str) -> list[NotebookNode]:
    """A cell as cells of the deck, the first of which is a slide, a fragment, …; its outputs follow."""
    made = [] if "remove-input" in cell.metadata.get("tags", []) else [slide(asked, words_of(cell))]
    if cell.get("outputs"):
        made.append(nbformat.v4.new_code_cell(outputs=cell.outputs, metadata={"slideshow": {"slide_type": "-" if made else asked}}))
    return made


def words_of(cell: NotebookNode) -> str:
    """A cell's text, without the lines that the build makes and links that lead nowhere; of code, what a learner gets."""
    if cell.cell_type == "code":
        return f"```python\n{emptied(cell.source).strip()}\n```"
    return "\n\n".join(without_links(block) for block in blocks_of(cell.source) if not is_generated(block))


def is_generated(block: str) -> bool:
    return bool(EXERCISE_LINE.match(block) or TAKES_LINE.match(block))


def media_of(cell: NotebookNode) -> list[Medium]:
    """A cell's outputs as slides: sounds side by side, lines of words together, each picture by itself."""
    found: list[Medium] = []
    for output in cell.get("outputs", []):
        kind = {"sound": "sounds"}.get(kind_of(output), kind_of(output))
        if kind in ("sounds", "words") and found and found[-1].kind == kind and len(found[-1].outputs) < TOGETHER:
            found[-1].outputs.append(output)
        elif kind:
            found.append(Medium(kind, [output]))
    return found


def without_links(block: str) -> str:
    """Links within the repository as plain words: a deck stands alone."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", lambda link: link[0] if re.match(r"[a-z]+:", link[2]) else link[1], block)


def shown_and_told(section: Section) -> tuple[list[str], list[str]]:
    """The paragraphs for the slide, and those for the speaker's notes."""
    shown, told, room = [], [], ROOM - 24 * (section.stub.count("\n") + 2) if section.stub else ROOM
    for number, block in enumerate(section.text):
        if block.startswith("**Where to read on.**"):
            return shown, told + section.text[number:]
        size = 260 if block.startswith("|") else 60 if block.startswith("$$") else len(block)
        wanted = number == 0 or block.startswith(LEADS) or section.title == "Summary" or (not told and len(block) <= room)
        if section.level == 1:
            wanted = block.startswith("**The claim.**")
        if wanted and not block.startswith(ASIDE) and (size <= room or not shown or section.title == "Summary"):
            shown.append(block)
            room -= size
        else:
            told.append(block)
    return shown, told


def deck_of(notebook: NotebookNode) -> NotebookNode:
    """A notebook whose cells are slides.  Raises ValueError where nothing can be shown."""
    cells: list[NotebookNode] = []
    sections = sections_of(notebook)
    if not sections:
        raise ValueError("it has no heading, so there is nothing to make slides of")
    for section in sections:
        if section.opening:
            cells += section.opening.cells
            cells += notes([*section.text, *section.notes])
            cells += [each for medium in section.media for each in under_heading(section, medium)]
            continue
        shown, told = shown_and_told(section)
        if not (shown or section.stub or section.media or section.notes):
            continue
        head = f"{'#' * (1 if section.level == 1 else 2)} {section.title}"
        stub = [f"```python\n{section.stub.strip()}\n```"] if section.stub else []
        cells.append(slide("slide", "\n\n".join([head, *shown, *stub])))
        cells += notes([*told, *section.notes])
        cells += [each for medium in section.media for each in under_heading(section, medium)]
    made = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    for number, cell in enumerate(made.cells):
        cell.id = f"slide-{number}"
    return made


def under_heading(section: Section, medium: Medium | Tagged) -> Iterator[NotebookNode]:
    """What follows a section's first slide: a medium on a slide of its own, a tagged cell where it wants to be."""
    if isinstance(medium, Tagged):
        yield from medium.cells
        yield from notes([*medium.text, *medium.notes])
    else:
        yield slide("subslide", f'<p class="deck-small">{html.escape(section.title)}</p>')
        yield from medium_cells(medium)


def notes(told: Sequence[str]) -> list[NotebookNode]:
    """The speaker's notes of a slide, none where there is nothing to tell."""
    return [slide("notes", "\n\n".join(told))] if told else []


def medium_cells(medium: Medium) -> Iterator[NotebookNode]:
    """What stands on a medium's slide, and its notes."""
    under = [block for block in medium.text if not block.startswith(ASIDE)]
    room = UNDER if medium.kind != "sounds" else UNDER // 2  # players are tall
    shown = under if sum(map(len, under)) <= room else under[:1] if under and len(under[0]) <= room else []
    if medium.kind == "sounds":
        yield slide("-", f'<div class="deck-players">{"".join("".join(output.data["text/html"]) for output in medium.outputs)}</div>')
    elif medium.kind == "words":
        yield slide("-", "\n\n".join(f'<p class="deck-words">{spoken_line(output)}</p>' for output in medium.outputs))
    else:
        yield nbformat.v4.new_code_cell(outputs=medium.outputs, metadata={"slideshow": {"slide_type": "-"}})
    if shown:
        yield slide("-", "\n\n".join(shown))
    told = [block for block in medium.text if block not in shown]
    if medium.kind == "picture":
        told.append("".join(medium.outputs[0].data.get("text/plain", "")))
    yield from notes([*told, *medium.notes])


def spoken_line(output: NotebookNode) -> str:
    """A prediction's question, or a truth, as HTML without what only a notebook's reader is told."""
    plain = "".join(output.data["text/plain"])
    for opening in ("Predict. ", "It is "):
        if plain.startswith(opening):
            return f"<b>{opening.strip()}</b> {html.escape(plain.removeprefix(opening).replace(TO_READERS, ''))}"
    return html.escape(plain)


def slide(kind: str, source: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


# --- Writing them ------------------------------------------------------------------------------------------------


class DeckExporter(SlidesExporter):
    """nbconvert's slides with everything in one file, equations as MathML, and no code but what a slide says."""

    exclude_input = True
    exclude_input_prompt = True
    exclude_output_prompt = True

    def __init__(self, **settings) -> None:
        super().__init__(extra_template_basedirs=[str(HERE / "templates")], template_name="deck", embed_images=True, exclude_anchor_links=True, **settings)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=self.embed_images, anchor_link_text=self.anchor_link_text)).render(source)


def write_slides(folder: Path, numbers: Sequence[str] = (), root: Path = REPOSITORY) -> list[Path]:
    """Write a deck for each notebook with one of these numbers, or for all, and a page of contents; returns the files, contents first.

    Raises ValueError for an unknown number, FileNotFoundError for a notebook that is not there.
    """
    entries = chosen(numbers, root)
    missing = [str(Edition(entry, root).solution) for entry in entries if not Edition(entry, root).solution.is_file()]
    if missing:
        raise FileNotFoundError(f"no such notebook: {', '.join(missing)}; slides are made from the executed solutions, which a hand-out lacks")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"reveal_css": HERE / "reveal/reveal.css", "reveal_js": HERE / "reveal/reveal.js", "notes_js": HERE / "reveal/notes.js", "css": HERE / "templates/deck/deck.css"}
    deck, exporter, pages = {name: path.read_text(encoding="utf-8") for name, path in parts.items()}, DeckExporter(), []
    for entry in entries:
        notebook = deck_of(nbformat.read(Edition(entry, root).solution, 4))
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": f"{entry.number} · {entry.title}"}, "deck": deck})
        pages.append(folder / f"{entry.file}.html")
        pages[-1].write_text(body, encoding="utf-8")
    contents = folder / "index.html"
    contents.write_text(contents_page(entries), encoding="utf-8")
    return [contents, *pages]


def contents_page(entries: Sequence[Notebook]) -> str:
    rows = "".join(f'<li><a href="{each.file}.html">{each.number} · {html.escape(each.title)}</a></li>' for each in entries)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Slides</title>'
        "<style>body { font: 20px/1.6 system-ui, sans-serif; max-width: 40em; margin: 3em auto; } li { list-style: none; } a { color: #0072B2; }</style></head>"
        "<body><h1>MiniMind-O by hand: slides</h1><p>Arrow down: what belongs to a heading. Arrow right: the next one. S: the speaker's view. "
        f"Add <code>?print-pdf</code> to a deck's address to print it.</p><ul>{rows}</ul></body></html>\n"
    )
