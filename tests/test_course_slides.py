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
from mmo.course.slides import deck_of, write_slides

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
        TEXT("## Left out"), TEXT("hidden words", metadata={"slideshow": {"slide_type": "skip"}}),
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


def as_slide(cell, kind: str, *tags: str):
    cell.metadata |= {"slideshow": {"slide_type": kind}, "tags": list(tags)}
    return cell


def around(deck, words: str) -> list[tuple[str, str]]:
    """(kind, source) of the cell with these words and of the one before it."""
    found = kinds(deck)
    place = next(number for number, (_, source) in enumerate(found) if words in source)
    return found[place - 1 : place + 1]


LONG = "\n\n".join(f"Paragraph {number}. " + "word " * 60 for number in range(9))


@pytest.mark.parametrize("kind", ["slide", "subslide", "fragment", "-"])
def test_a_tagged_text_is_what_it_says_and_whole(notebook, kind):
    notebook.cells[5] = as_slide(TEXT(LONG), kind)  # by default it would stand behind a picture, as far as there is room
    (before, _), (found, source) = around(deck_of(notebook), "Paragraph 0")
    assert found == kind and "Paragraph 8" in source and before == "notes", "the picture's words for the speaker stand before it"


@pytest.mark.parametrize("kind", ["slide", "subslide", "fragment", "-"])
def test_a_tagged_heading_is_what_it_says_and_whole(notebook, kind):
    notebook.cells[-1] = TEXT(f"## Long\n\n{LONG}")
    assert "Paragraph 8" not in next(source for _, source in kinds(deck_of(notebook)) if source.startswith("## Long")), "by default what fits"
    as_slide(notebook.cells[-1], kind)
    assert next((found, "Paragraph 8" in source) for found, source in kinds(deck_of(notebook)) if source.startswith("## Long")) == (kind, True)


def test_a_tagged_code_cell_shows_its_code_and_all_that_it_gave(notebook):
    as_slide(notebook.cells[4], "subslide")
    found = deck_of(notebook).cells
    place = next(number for number, cell in enumerate(found) if "draw()" in cell.source)
    assert found[place].source == "```python\ndraw()\n```" and found[place].metadata.slideshow.slide_type == "subslide"
    assert [output.output_type for output in found[place + 1].outputs] == ["display_data", "stream"] and found[place + 1].metadata.slideshow.slide_type == "-"
    assert found[place + 2].metadata.slideshow.slide_type == "notes" and found[place + 2].source == "What explains it."
    as_slide(notebook.cells[4], "fragment", "remove-input")
    found = deck_of(notebook).cells
    assert not [cell for cell in found if "draw()" in cell.source]
    assert [cell.metadata.slideshow.slide_type for cell in found if cell.cell_type == "code"] == ["fragment"]


def test_a_tagged_exercise_shows_its_empty_function(notebook):
    as_slide(notebook.cells[8], "subslide")
    (_, _), (kind, source) = around(deck_of(notebook), "def do(x)")
    assert kind == "subslide" and "raise NotImplementedError" in source and "the_solution" not in source


def test_notes_are_for_the_speaker_and_what_is_skipped_is_nowhere(notebook):
    as_slide(notebook.cells[5], "notes")
    as_slide(notebook.cells[2], "skip")
    as_slide(notebook.cells[6], "skip")
    found = kinds(deck_of(notebook))
    assert [kind for kind, source in found if "What explains it." in source] == ["notes"]
    text = "\n".join(source for _, source in found)
    assert "In front of it." not in text and "## Look" not in text and "<audio" not in text


def test_a_slide_type_that_is_none_or_has_no_slide_is_refused(notebook):
    with pytest.raises(ValueError, match="slide_type is 'slid'; there are slide, subslide.*begins 'What explains it.'"):
        notebook.cells[5] = as_slide(TEXT("What explains it."), "slid")
        deck_of(notebook)
    with pytest.raises(ValueError, match="tagged 'notes' stands before the first heading"):
        deck_of(nbformat.v4.new_notebook(cells=[as_slide(TEXT("words"), "notes"), TEXT("# 99 · A title")]))


def test_the_rendered_deck_has_the_tagged_cells_in_nbconverts_own_way(notebook):
    """Sections for slides, nested ones for what is below, fragments and notes by their class."""
    as_slide(notebook.cells[5], "fragment")
    as_slide(notebook.cells[6], "subslide")
    parts = {name: path.read_text(encoding="utf-8") for name, path in {"reveal_css": slides.HERE / "reveal/reveal.css"}.items()} | dict.fromkeys(("reveal_js", "notes_js", "css"), "")
    body, _ = slides.DeckExporter().from_notebook_node(deck_of(notebook), {"metadata": {"name": "99"}, "deck": parts})
    shown = body[body.index('class="slides"') :]
    assert re.search(r'class="[^"]*\bfragment\b[^"]*"[^>]*>(?:(?!</section>).)*What explains it\.', shown, re.DOTALL)
    own = [part for part in re.split(r"<section\b", shown) if "hear()" in re.sub(r"<[^>]+>", "", part)]
    assert len(own) == 1 and own[0].count("<audio") == 2 and "What the picture shows" not in own[0], "the subslide has the cell's sounds, and nothing of the slide before"
    assert re.search(r'<aside class="notes">(?:(?!</aside>).)*What the picture shows\.', shown, re.DOTALL)


def test_a_notebook_without_a_heading_is_refused():
    with pytest.raises(ValueError, match="no heading"):
        deck_of(nbformat.v4.new_notebook(cells=[TEXT("words")]))


def players(out) -> int:
    return "".join(out.get("data", {}).get("text/html", "")).count("<audio")


@pytest.mark.parametrize("entry", read_course(), ids=lambda entry: entry.number)
def test_no_solution_is_on_a_slide_and_every_sound_is(entry):
    """Of every notebook of the course; nothing is rendered."""
    notebook = nbformat.read(Edition(entry, REPOSITORY).solution, 4)
    hidden = {squeezed(line) for cell in notebook.cells if cell.cell_type == "code" for region in regions(cell.source) for line in region.splitlines() if len(squeezed(line)) >= 30}
    deck = deck_of(notebook)
    text = squeezed("\n".join(cell.source for cell in deck.cells))
    assert not [line for line in hidden if line in text]
    sounds = sum(players(out) for cell in notebook.cells for out in cell.get("outputs", []) if slides.kind_of(out) == "sound")
    shown = sum(cell.source.count("<audio") + sum(map(players, cell.get("outputs", []))) for cell in deck.cells)
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
