"""The book: a page for every notebook, its sounds inside, solutions folded, links that lead somewhere."""

from __future__ import annotations

import re

import pytest

from mmo.course.book import page_link, write_book
from mmo.course.build import BEGIN
from mmo.course.catalogue import read_course
from mmo.profiles import TINY_STAGES


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    return {path.name: path.read_text(encoding="utf-8") for path in write_book(folder)}


def test_has_a_page_for_every_notebook(book):
    assert set(book) == {"index.html", *(f"{entry.file}.html" for entry in read_course())}


def test_links_between_pages_lead_somewhere(book):
    for name, text in book.items():
        for target in re.findall(r'href="([^"#:]+\.html)[^"]*"', text):
            assert target in book, f"{name}: no page {target}"


def test_equations_need_no_network(book):
    """MathML is drawn by the browser itself; nothing is left for a script to do."""
    assert "<math" in book["07_sequence_and_delay.html"]
    for elsewhere in ("mathjax", "require.min.js", "mermaid.esm"):
        assert not [name for name, text in book.items() if elsewhere in text.lower()], elsewhere


def test_sounds_are_inside(book):
    assert "<audio" in book["07_sequence_and_delay.html"] and "data:audio/mpeg;base64," in book["07_sequence_and_delay.html"]


def test_solutions_are_folded(book):
    text = book["07_sequence_and_delay.html"]
    assert BEGIN not in text and "one way to do it" in text
    open_part = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    assert "raise" in open_part and "delayed[k, k : k + F] = codes[k]" not in re.sub(r"<[^>]+>", "", open_part)


def test_what_was_live_is_words(book):
    """No bar at 0 %, no `FloatSlider(…)`: nobody can move these on a page."""
    for name, text in book.items():
        for stub in ("0%|", "0step [", "FloatSlider(", "Dropdown(", "Button(description", "Output()</pre>", "jupyter.widget"):
            assert stub not in re.sub(r'<div class="highlight.*?</pre>', "", text, flags=re.DOTALL), f"{name}: {stub}"
    assert "Controls that work when you run this notebook: question" in book["13_talk_to_it.html"]
    assert f"t2a: {TINY_STAGES['t2a'][0].steps} steps" in book["10_train_t2a.html"]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("08_talker_and_mtp.ipynb", "[`words`](08_talker_and_mtp.html)"),
        ("08_talker_and_mtp.ipynb#summary", "[`words`](08_talker_and_mtp.html#summary)"),
        ("https://arxiv.org/abs/1", "[`words`](https://arxiv.org/abs/1)"),
        ("#summary", "[`words`](#summary)"),
        ("../docs/install.md", "`words`"),
        ("../mmo/generation.py", "`words`"),
    ],
)
def test_page_links(target, wanted):
    assert page_link("`words`", target) == wanted


def test_the_repositorys_files_are_plain_words(book):
    page = re.search(r"<main.*</main>", book["15_breaking_it.html"], re.DOTALL)[0]
    assert "mmo/generation.py" in page and "index.html" not in page
