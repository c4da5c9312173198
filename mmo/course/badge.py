"""Two cells for notebooks opened on Google Colab: a badge, and what fetches the course there.

They stand below the title of each learner's notebook once course.yml has `repository:`, the public address on GitHub; Colab opens
notebooks from nowhere else.  While it is empty there are no such cells.
"""

from __future__ import annotations

import re

ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/notebooks/{file}.ipynb)"
SETUP = '''# On Google Colab only: fetch the course and install what is missing there. Elsewhere this does nothing.
import os, subprocess, sys

if "google.colab" in sys.modules:
    if not os.path.isdir("/content/{name}"):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", "--branch", "{branch}", "https://github.com/{owner}/{name}", "/content/{name}"], check=True)
    os.chdir("/content/{name}/notebooks")
    sys.path.insert(0, "/content/{name}")
    from mmo.colab import prepare

    prepare()'''


def badge_cells(repository: str, file: str, branch: str = "main") -> tuple[str, str] | None:
    """(Markdown, code) for a notebook file's name without .ipynb; None where the address is empty.

    Raises ValueError for an address that Colab cannot open.
    """
    if not repository:
        return None
    found = ADDRESS.fullmatch(repository)
    if not found:
        raise ValueError(f"course.yml, repository: {repository!r} is not of the form https://github.com/OWNER/NAME, which Colab opens")
    owner, name = found.groups()
    return BADGE.format(owner=owner, name=name, branch=branch, file=file), SETUP.format(owner=owner, name=name, branch=branch)
