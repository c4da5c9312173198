"""A process that has only a hand-out's package: what a learner's would say."""

import os
import subprocess
import sys
from pathlib import Path


def said_in(folder: Path, code: str) -> str:
    """What `code` prints where the package is the hand-out's in `folder`; its runs go beside it.  Fails with its complaint where it stops."""
    at_home = f"import mmo\nassert mmo.__file__.startswith({str(folder)!r}), mmo.__file__\n"
    environment = os.environ | {"PYTHONPATH": str(folder), "MMO_RUNS": str(folder.parent / "runs"), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", at_home + code], cwd=folder.parent, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout
