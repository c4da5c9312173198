"""What all tests share: the repository root is importable, torch keeps to one thread (tests are tiny, and the machine
is shared), and notebooks run last, after the quick tests have had their say."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("notebook") is not None)
