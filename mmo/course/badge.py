"""Two cells for notebooks opened on Google Colab or Binder: badges, and what fetches the course on Colab (Binder's image holds it).

They stand below the title of each learner's notebook once course.yml has `repository:`, the public address on GitHub, and in a hand-out of
`mmo course release --repository ADDRESS`; Colab opens notebooks from nowhere else.  Without an address there are no such cells.
"""

from __future__ import annotations

import re
from urllib.parse import quote

ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/notebooks/{file}.ipynb)"
BINDER = "[![Open on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{owner}/{name}/{branch}?urlpath={place})"
BRANCH = re.compile(r"[\w.-]+", re.ASCII)
SETUP = '''# On Google Colab only: fetch the course and install what is missing there. Elsewhere this does nothing.
import os, subprocess, sys

if "google.colab" in sys.modules:
    if not os.path.isdir("/content/{name}"):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", "--branch", "{branch}", "https://github.com/{owner}/{name}", "/content/{name}"], check=True)
    os.chdir("/content/{name}/notebooks")
    sys.path.insert(0, "/content/{name}")
    from mmo.colab import prepare

    prepare()'''


def owner_and_name(repository: str, branch: str = "main") -> tuple[str, str]:
    """Of an address on GitHub.  Raises ValueError for an address or a branch that Colab cannot open."""
    found = ADDRESS.fullmatch(repository)
    if not found:
        raise ValueError(f"repository: {repository!r} is not of the form https://github.com/OWNER/NAME, which Colab opens")
    if not BRANCH.fullmatch(branch):
        raise ValueError(f"branch: {branch!r} must be a name without slashes and spaces, for in an address nobody could tell it from a path")
    owner, name = found.groups()
    return owner, name


def binder_badge(repository: str, branch: str = "main", place: str = "notebooks") -> str:
    """The badge that opens a file or folder of the repository in JupyterLab on mybinder.org.  Raises ValueError as `owner_and_name` does."""
    owner, name = owner_and_name(repository, branch)
    return BINDER.format(owner=owner, name=name, branch=branch, place=quote(f"lab/tree/{place}", safe=""))


def badge_cells(repository: str, file: str, branch: str = "main") -> tuple[str, str] | None:
    """(Markdown, code) for a notebook file's name without .ipynb; None where the address is empty.

    Raises ValueError for an address or a branch that Colab cannot open.
    """
    if not repository:
        return None
    owner, name = owner_and_name(repository, branch)
    badges = f"{BADGE.format(owner=owner, name=name, branch=branch, file=file)} {binder_badge(repository, branch, f'notebooks/{file}.ipynb')}"
    return badges, SETUP.format(owner=owner, name=name, branch=branch)
