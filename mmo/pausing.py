"""Ctrl-C as a wish to pause: the step in hand is finished and the state saved, so that nothing is lost; a second one stops at once.

    with pausing(print) as pause:
        train(profile, "t2a", pause=pause)       # returns with finished=False; the same call goes on
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

WORDS = "\nCtrl-C: the step in hand is finished and the state saved; once more stops at once, and what was saved last stays"


@contextmanager
def pausing(say: Callable[[str], object]) -> Iterator[Callable[[], bool] | None]:
    """A question, "was Ctrl-C pressed in this block?", until the block ends; None where it is not to be asked.

    That is where nobody at a keyboard can mean this process alone, and Ctrl-C stays what it was: in other threads than the main one, under torchrun (which
    ends all its processes), and where SIGINT is passed over, as a shell has it for commands in the background.
    """
    asked: list[bool] = []
    before, owner = signal.getsignal(signal.SIGINT), os.getpid()
    alone = threading.current_thread() is threading.main_thread() and int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone or before is signal.SIG_IGN:
        yield None
        return

    def ask(*_) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.append(True)
        if os.getpid() == owner:  # loader processes are forks: they hear it, too, and go on until they are ended
            with suppress(RuntimeError):  # where the signal came in the middle of another line's printing
                say(WORDS)

    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
