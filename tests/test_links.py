"""Links within the repository lead to files that are there, and to places in them that are there."""

from __future__ import annotations

import nbformat
import pytest

from mmo.course.catalogue import REPOSITORY
from mmo.course.links import broken_links, github_name, places_in

PAGE = "# A page\n\n## What is run?\n\n```\n# no heading\n```\n\n## What is run?\n\n### `mmo say` and *more*: [a link](x.md) ##\n\n<a id=\"here\"></a>\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    (tmp_path / "code.py").write_text("one\ntwo\n")
    (tmp_path / "sub").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 07 · A title\n\ntext"), nbformat.v4.new_code_cell("# no heading")])
    nbformat.write(notebook, tmp_path / "book.ipynb")
    return tmp_path


def test_places_are_named_as_readers_see_them(folder):
    assert places_in(folder / "page.md") == ["a-page", "what-is-run", "what-is-run-1", "mmo-say-and-more-a-link", "here"]
    assert places_in(folder / "book.ipynb") == ["07-·-A-title"]
    assert github_name("A CPU build of torch, on Linux (x86_64)") == "a-cpu-build-of-torch-on-linux-x86_64"


@pytest.mark.parametrize(
    "target", ["page.md", "page.md#a-page", "page.md#what-is-run-1", "page.md#here", "#what-is-run", "book.ipynb#07-·-A-title", "book.ipynb#07-%C2%B7-A-title", "code.py#L2", "code.py#L1-L2", "sub", "https://example.org/#x", "mailto:a@b"]
)
def test_a_link_that_leads_somewhere_is_none_of_them(folder, target):
    assert broken_links(folder / "page.md", f"[x]({target})", folder) == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere.md", "broken link nowhere.md"), ("nowhere.md#a", "broken link nowhere.md#a"), ("page.md#what-was-run", "no such place in page.md; is it #what-is-run"), ("#no-heading", "no such place"),
        ("page.md#A-page", "no such place in page.md; is it #a-page?"), ("page.md#what-is-run-2", "no such place"), ("book.ipynb#no-heading", "no such place in book.ipynb"),
        ("code.py#L3", "no such place"), ("code.py#two", "no such place"), ("sub#x", "no such place"),
    ],
)  # fmt: skip
def test_a_link_that_leads_nowhere_is_named(folder, target, words):
    (flaw,) = broken_links(folder / "page.md", f"[x]({target}) [fine](code.py)", folder)
    assert flaw.startswith("page.md: ") and words in flaw


def test_every_link_of_the_repository_leads_somewhere():
    """README and docs; those of the notebooks are checked by `mmo course build --check` (tests/test_course.py)."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")), REPOSITORY / "data" / "tiny" / "README.md"]
    assert [flaw for page in pages for flaw in broken_links(page, page.read_text(encoding="utf-8"), REPOSITORY)] == []
