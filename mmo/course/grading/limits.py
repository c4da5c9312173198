"""What a process that runs a student's answer may use.

The operating system holds it to memory, processor time and the size of its files (`resource`, not on Windows); Python's audit hooks, which
cannot be taken off again, keep it from the network, from other programs and from files that are not its own.  `pool.py` watches all but the
network from outside as well, with psutil, so that on Windows too nothing runs on for ever.

This holds mistakes and pranks.  It is no prison: somebody who sets out to attack the machine through compiled code can.  Grade what
strangers sent in a container or on a machine that holds nothing else.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000
MOST_FILES = 100  # that an answer may open for writing; each may have Limits.output
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill", "os.killpg", "pty.spawn")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.rmtree")
TO = ("os.rename", "os.link", "os.symlink")  # of these the second path is written
LISTS = ("os.listdir", "os.scandir")
REACHES = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind")
RESOLVES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


@dataclass(frozen=True)
class Limits:
    """For one answer.  seconds: of processor time, or of sleep; by the clock `patience` times as long, since the machine may be crowded."""

    seconds: float = 20.0
    patience: float = 30.0
    memory: int = 2000 * MEGABYTE  # bytes on top of what the process has when it begins
    output: int = 1 * MEGABYTE  # bytes printed, and of each of at most MOST_FILES files written

    def __post_init__(self) -> None:
        if min(self.seconds, self.patience, self.memory, self.output) <= 0:
            raise ValueError(f"limits must be greater than 0: {self}")


class NotWhileGrading(PermissionError):
    """An answer wanted something that no exercise needs."""


def confine(limits: Limits, folder: Path, closed: tuple[Path, ...]) -> None:
    """Hold this process to its limits for the rest of its life.  folder: its own; closed: folders not even to be read."""
    hold_resources(limits)
    guard(folder, closed)


def hold_resources(limits: Limits) -> None:
    """What the operating system can refuse."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows: the pool's watch is what there is
        return
    import psutil

    begun = psutil.Process().memory_info().vms
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    lower(resource, resource.RLIMIT_AS, begun + limits.memory)
    lower(resource, resource.RLIMIT_CPU, int(used + limits.seconds) + 2)
    lower(resource, resource.RLIMIT_FSIZE, limits.output)
    lower(resource, resource.RLIMIT_CORE, 0)


def lower(resource, which: int, value: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (ValueError, OSError):  # macOS refuses RLIMIT_AS below what is mapped already; the pool's watch holds memory there
        if sys.platform.startswith("linux"):
            raise


def guard(folder: Path, closed: tuple[Path, ...]) -> None:
    """Refuse, by audit hook, network, programs, files elsewhere, and more than MOST_FILES of its own."""
    home, shut = str(folder.resolve()) + os.sep, tuple(str(path.resolve()) + os.sep for path in closed)
    written = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal written
        if event == "open":
            written += check_file(arguments[0], arguments[2], home, shut, opened=True)
            if written > MOST_FILES:
                raise NotWhileGrading(f"no more than {MOST_FILES} files may be written while grading")
        elif event in STARTS:
            raise NotWhileGrading(f"no other programs while grading ({event})")
        elif event in CHANGES:
            for path in arguments[: 2 if event in TO else 1]:
                check_file(path, os.O_WRONLY, home, shut)
        elif event in LISTS:
            check_file(arguments[0], os.O_RDONLY, home, shut)
        elif event in REACHES:
            check_address(arguments[1])
        elif event in RESOLVES and not is_loopback(arguments[0]):
            raise NotWhileGrading("no network while grading")

    sys.addaudithook(hook)


def check_file(path, flags, home: str, shut: tuple[str, ...], opened: bool = False) -> bool:
    """Whether a file of its own is opened for writing.  Raises NotWhileGrading where it is not to be opened so."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False  # a number: a file that is open already
    full = os.path.realpath(os.fsdecode(path))
    if (full + os.sep).startswith(shut):
        raise NotWhileGrading(f"{os.path.basename(full)} is not to be read while grading")
    if opened and os.path.isdir(full) and not (full + os.sep).startswith(home):  # what is opened relative to it would not be seen here
        raise NotWhileGrading(f"no folders are to be opened while grading ({os.path.basename(full)})")
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if writes and not full.startswith(home) and full != os.devnull:
        raise NotWhileGrading(f"no files outside its own folder while grading ({os.path.basename(full)})")
    return bool(writes) and full != os.devnull


def check_address(address) -> None:
    """Raises NotWhileGrading for an address on another machine.  A text is a unix socket's name."""
    if isinstance(address, tuple) and address and not is_loopback(address[0]):
        raise NotWhileGrading("no network while grading")


def is_loopback(host) -> bool:
    """Whether a host is this machine; None is, in Python's calls."""
    if host is None or host in ("localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(os.fsdecode(host)).is_loopback
    except (ValueError, TypeError):
        return False
