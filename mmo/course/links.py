"""Links within the repository: each must lead to a file that is there, and where it names a place in it (`#limits`), to a place that is there.

    broken_links(Path("docs/install.md"), its_text, root)      # ["docs/install.md: broken link judge.md#no-such (judge.md has #…)"]

Names of places are those that readers see: GitHub's for Markdown ("What is run" -> `what-is-run`, a second one `what-is-run-1`), JupyterLab's and
nbconvert's for notebooks ("What is run" -> `What-is-run`), `L12` for a line of any other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

import nbformat

LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*$")
FENCE = re.compile(r"^ {0,3}(```|~~~)")
NAMED = re.compile(r"<\w+\s[^>]*\b(?:id|name)=[\"']([^\"']+)[\"']")
LINE = re.compile(r"L(\d+)(?:-L(\d+))?")


def broken_links(path: Path, markdown: str, root: Path) -> list[str]:
    """Relative links in a text of `path` that lead nowhere, each named with what there is instead."""
    found = []
    for target in LINK.findall(markdown):
        if ELSEWHERE.match(target):
            continue
        name, _, place = target.partition("#")
        there = path.parent / unquote(name) if name else path
        if not there.exists():
            found.append(f"{path.relative_to(root)}: broken link {target}")
        elif place and not has_place(there, unquote(place)):
            close = get_close_matches(unquote(place), places_in(there), 1, 0.5)
            instead = f"; is it #{close[0]}?" if close else ""
            found.append(f"{path.relative_to(root)}: broken link {target}: no such place in {there.name}{instead}")
    return found


def has_place(path: Path, place: str) -> bool:
    """Whether that place of a file can be jumped to."""
    if path.suffix in (".md", ".ipynb"):
        return place in places_in(path)
    line = LINE.fullmatch(place)
    return bool(line and path.is_file() and 1 <= int(line[1]) <= int(line[2] or line[1]) <= len(path.read_text(encoding="utf-8").splitlines()))


def places_in(path: Path) -> list[str]:
    """The places that a file has names for: headings and what bears an id.  None in other files than Markdown and notebooks."""
    if path.suffix == ".ipynb":
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        return [name for source in cells for name in [*(title.replace(" ", "-") for title in headings(source)), *NAMED.findall(source)]]
    if path.suffix != ".md":
        return []
    markdown, seen, found = path.read_text(encoding="utf-8"), {}, []
    for title in headings(markdown):
        name = github_name(title)
        seen[name] = seen.get(name, -1) + 1
        found.append(f"{name}-{seen[name]}" if seen[name] else name)
    return [*found, *NAMED.findall(markdown)]


def headings(markdown: str) -> Iterator[str]:
    """The words of each heading, without the signs around them; what is fenced holds none."""
    fence = ""
    for line in markdown.splitlines():
        mark = FENCE.match(line)
        if mark:
            fence = "" if fence == mark[1] else fence or mark[1]
        elif not fence and (found := HEADING.match(line)):
            yield re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).replace("`", "").replace("*", "")


def github_name(title: str) -> str:
    """What GitHub calls a heading: small letters, hyphens for spaces, no other signs."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
