"""Slides follow from the notebook: titles, claims, pictures and sounds are there, solutions are not; what explains comes after what it
explains; a deck is one file that asks nothing of a network."""

import base64
import io
import re

import nbformat
import pytest
import soundfile
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import slides
from mmo.course.build import Edition, regions, squeezed
from mmo.course.catalogue import REPOSITORY, read_course
from mmo.course.slides import deck_of, sections_of, write_slides

CODE, TEXT = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def output(**data):
    return nbformat.v4.new_output("display_data", data={key.replace("_", "/"): value for key, value in data.items()})


def sound(name):
    return output(text_html=f"<figure><audio src='data:,'></audio>{name}</figure>", text_plain="Player")


@pytest.fixture
def notebook():
    picture = output(image_png="iVBORw0KGgo=", text_plain="What the picture shows.")
    return nbformat.v4.new_notebook(cells=[
        TEXT("# 99 · A title\n\n*Takes 5 minutes (tiny)*\n\n**At the end** you know.\n\n**The claim.** It is so, as $x^2$ shows."),
        CODE("secret_setup()"),
        TEXT("## Look\n\nIn front of it.\n\n**Predict** it. See [the file](../mmo/x.py) and [elsewhere](https://example.org)."),
        CODE("predict()", outputs=[output(text_html="<div>x</div>", text_plain="Predict. How many? Write your answer in place of None, run the cell, then go on.")]),
        CODE("draw()", outputs=[picture, nbformat.v4.new_output("stream", text="printed words")]),
        TEXT("What explains it."),
        CODE("hear()", outputs=[sound("one"), sound("two")]),
        TEXT("## Exercise: do it\n\n*Exercise 99.do · difficulty ●○○ · importance ●○○ · 5 minutes · 1 points · stuck?*\n\nThe task."),
        CODE('@exercise("99.do")\ndef do(x):\n    """x -> y."""\n    ### BEGIN SOLUTION\n    return the_solution(x)\n    ### END SOLUTION'),
        TEXT("## Left out"), TEXT("hidden words", metadata={"tags": ["no-slide"]}),
        TEXT("## Three questions\n\nEvery choice says why."), CODE('quiz("99")', outputs=[output(text_html="<details>Why?</details>", text_plain="Quiz 99")]),
        TEXT("## Summary\n\n- one\n\n**Where to read on.** There:\n\n- A paper."),
    ])  # fmt: skip


def kinds(deck):
    return [(cell.metadata.slideshow.slide_type, cell.source or "output") for cell in deck.cells]


def test_a_deck_follows_from_its_notebook(notebook):
    found = kinds(deck_of(notebook))
    text = "\n".join(source for _, source in found)
    assert found[0] == ("slide", "# 99 · A title\n\n**The claim.** It is so, as $x^2$ shows.")
    assert [source.splitlines()[0] for kind, source in found if kind == "slide"] == ["# 99 · A title", "## Look", "## Exercise: do it", "## Summary"]
    for absent in ("secret_setup", "Takes 5", "difficulty", "the_solution", "hidden words", "Left out", "Three questions", "Every choice", "Why?", "printed words", "Write your answer", "../mmo"):
        assert absent not in text, absent
    assert "[elsewhere](https://example.org)" in text and "raise NotImplementedError" in text
    assert [kind for kind, source in found if "A paper." in source] == ["notes"]


def test_what_explains_comes_after_what_it_explains(notebook):
    order = [source for _, source in kinds(deck_of(notebook))]
    place = {words: next(number for number, source in enumerate(order) if words in source) for words in ("In front of it.", "How many?", "output", "What explains it.", "<audio")}
    assert list(place.values()) == sorted(place.values())


def test_sounds_of_a_cell_share_a_slide(notebook):
    players = [cell.source for cell in deck_of(notebook).cells if "<audio" in cell.source]
    assert len(players) == 1 and players[0].count("<audio") == 2


def test_a_tag_keeps_a_cell_whole_or_out(notebook):
    long = "\n\n".join(f"Paragraph {number}. " + "word " * 60 for number in range(9))
    notebook.cells[-1] = TEXT(f"## Long\n\n{long}")
    shown = next(cell.source for cell in deck_of(notebook).cells if cell.source.startswith("## Long"))
    assert "Paragraph 0" in shown and "Paragraph 8" not in shown
    notebook.cells[-1].metadata["tags"] = ["slide"]
    assert "Paragraph 8" in next(cell.source for cell in deck_of(notebook).cells if cell.source.startswith("## Long"))


def test_a_notebook_without_a_heading_is_refused():
    with pytest.raises(ValueError, match="no heading"):
        deck_of(nbformat.v4.new_notebook(cells=[TEXT("words")]))


@pytest.mark.parametrize("entry", read_course(), ids=lambda entry: entry.number)
def test_no_solution_is_on_a_slide_and_every_sound_is(entry):
    """Of every notebook of the course; nothing is rendered."""
    notebook = nbformat.read(Edition(entry, REPOSITORY).solution, 4)
    hidden = {squeezed(line) for cell in notebook.cells if cell.cell_type == "code" for region in regions(cell.source) for line in region.splitlines() if len(squeezed(line)) >= 30}
    deck = deck_of(notebook)
    text = squeezed("\n".join(cell.source for cell in deck.cells))
    assert not [line for line in hidden if line in text]
    sounds = sum("<audio" in "".join(out.get("data", {}).get("text/html", "")) for cell in notebook.cells for out in cell.get("outputs", []) if slides.kind_of(out) == "sound")
    shown = sum("<figure" in part or "<audio" in part for section in sections_of(nbformat.read(Edition(entry, REPOSITORY).solution, 4)) for medium in section.media if medium.kind == "sounds" for part in ["".join(out.data["text/html"]) for out in medium.outputs])
    assert sounds == shown
    assert deck.cells[0].source.startswith(f"# {entry.number} · {entry.title}")


def test_a_deck_is_one_file_without_a_network(tmp_path):
    contents, page = write_slides(tmp_path, ["05"])
    deck = page.read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|img|audio|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?!data:)([^\"'> ]+)", deck)
    assert [each for each in loaded if not each.startswith("${")] == [], "nothing is loaded from anywhere"
    assert not re.search(r"@import|url\(\s*['\"]?https?:", deck)
    assert "Reveal.initialize" in deck and "RevealNotes" in deck and "<math" in deck and deck.count("<section") > 15
    assert f'href="{page.name}"' in contents.read_text(encoding="utf-8")


def test_a_rendered_deck_holds_sounds_that_can_be_played(tmp_path):
    """Notebook 07's: each player of the executed notebook stands on a slide, with controls, and what it holds is a sound that can be decoded and heard."""
    _, page = write_slides(tmp_path, ["07"])
    deck = page.read_text(encoding="utf-8")
    slide_parts = deck[deck.index('class="slides"') :]
    players = re.findall(r"<audio\b([^>]*)>(?:\s*<source\b([^>]*)>)?", slide_parts)
    notebook = nbformat.read(Edition(next(each for each in read_course() if each.number == "07"), REPOSITORY).solution, 4)
    wanted = sum("".join(out.get("data", {}).get("text/html", "")).count("<audio") for cell in notebook.cells for out in cell.get("outputs", []))
    assert len(players) == wanted > 0
    for attributes in (" ".join(player) for player in players):
        assert "controls" in attributes
        kind, data = re.search(r'src="data:(audio/[\w.+-]+)[^,]*;base64,([^"]+)"', attributes).groups()
        wave, rate = soundfile.read(io.BytesIO(base64.b64decode(data, validate=True)))
        assert len(wave) > 0.1 * rate and abs(wave).max() > 0.01, f"a {kind} of {len(wave) / rate:.2f} s that nobody hears"


def test_the_command_names_what_is_not_there(tmp_path):
    result = CliRunner().invoke(app, ["course", "slides", "--to", str(tmp_path / "slides"), "--notebooks", "77"])
    assert result.exit_code == 1 and "no notebook 77" in result.output and not (tmp_path / "slides").exists()
    with pytest.raises(FileNotFoundError, match="a hand-out lacks"):
        (tmp_path / "course.yml").write_text((REPOSITORY / "course.yml").read_text(encoding="utf-8"), encoding="utf-8")
        write_slides(tmp_path / "slides", ["05"], tmp_path)
