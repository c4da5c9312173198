"""How the rented parts compute: in full float32, whatever stands around the call, so that features and sound do not depend on the card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """No autocast, and on CUDA no TF32 in convolutions: cuDNN would keep 10 bits of each factor by default."""
    before = torch.backends.cudnn.allow_tf32
    with torch.autocast(device.type, enabled=False):
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.backends.cudnn.allow_tf32 = before
