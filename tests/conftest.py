"""What all tests share: the repository root is importable, torch keeps to one thread (tests are tiny, and the machine
is shared), notebooks run last, after the quick tests have had their say, and where tests run side by side (pytest-xdist)
those of one file stay together, so that what a file prepares for itself is prepared once."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") and os.environ.get("MMO_SLOW") != "1":
            item.add_marker(pytest.mark.skip(reason="takes many minutes: MMO_SLOW=1 runs it"))
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("notebook") is not None)
