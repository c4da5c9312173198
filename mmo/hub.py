"""Fetching what `mini` and `full` need: data, frozen parts, text weights, tokenizer (`mmo fetch`).

    fetch("mini")                                  # from the Hugging Face hub; what is there already stays
    fetch("mini", "t2a")                           # only what that stage needs
    fetch("mini", source=Share(Path("share")))     # from a folder that somebody shares
    check("mini", full=True)                       # is everything still what was fetched?

`data/manifest.toml` names everything. A file comes into `data/downloads/.incoming`, is compared with the published SHA-256, moved to
its place in one go, and recorded in `fetched.json` with its size, its time and its SHA-256: from then on any other file of
that name is refused. What is fetched is never run and no pickle is opened: of the contents this module reads only parquet and safetensors.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pyarrow.parquet import FileMetaData

from mmo.digests import digest_of, sha256_of
from mmo.hub_rows import KeptReads, Part, choose, join, open_parquet, read_parts
from mmo.hub_sources import FetchError, HuggingFace, Interrupted, Lacking, ModelScope, Remote, Share, Source, read_lock, told, write_lock
from mmo.manifest import Artefact, File, downloads_root, read_manifest, select

INCOMING = ".incoming"  # unfinished files, on the same disk as their places
RESERVE = 1_000_000_000  # bytes left free: a disk filled to the brim stops more than a download
LOCK_SECONDS = 1.0  # until another command that is just ending has let go of the folder
WAITS = (2.0, 8.0, 30.0)  # seconds before another try, where a connection broke off
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A file to fetch; `space`: bytes it takes on the way; `parts`, `table`: of a subset, and the remote file's table of row groups."""

    artefact: Artefact
    file: File
    remote: Remote
    space: int
    parts: tuple[Part, ...] = ()
    table: FileMetaData | None = None


@dataclass(frozen=True)
class State:
    """How a file stands: there, missing, unrecorded (nobody fetched it), or changed since it was fetched."""

    artefact: Artefact
    file: File
    word: str


def fetch(
    profile: str, stage: str | None = None, names: Sequence[str] = (), source: Source | None = None, root: Path | None = None,
    say: Say = print,
) -> list[Path]:
    """Bring what is missing of what a profile (or one of its stages, or `names`) needs into `root`; returns what was brought.

    What a source lacks has an alternative in the manifest, or is named at the end, when all the rest has come.
    Raises FetchError where something cannot be had or is not what it should be, ValueError where there is no such name.
    """
    root, source = root or downloads_root(), source or HuggingFace()
    refuse_dangling(root)
    chosen, others = select_for(root, profile, stage, names)
    brought, lacking, states = [], [], inspect(chosen, root)
    refuse_changed(states, root)
    if wanted := [state for state in states if state.word != "there"]:
        with alone_in(root):
            jobs, lacking = plan_wanted(wanted, others, source, root, say)
            make_sure_of_space(jobs, root, say)
            brought = [bring(job, source, root, say) for job in jobs]
    say(f"{profile}: {len(states) - len(wanted)} files were there, {len(brought)} fetched into {root}")
    if lacking:
        raise still_missing(profile, lacking, source)
    return brought


def still_missing(profile: str, lacking: Sequence[Lacking], source: Source) -> FetchError:
    """What to say at the end, when a source has not had everything."""
    names = list(dict.fromkeys(each.artefact for each in lacking))
    return FetchError("\n  ".join([f"{profile}: still missing: {', '.join(names)}", *map(str, lacking), source.instead(names)]))


def select_for(root: Path, profile: str, stage: str | None, names: Sequence[str]) -> tuple[list[Artefact], dict[str, Artefact]]:
    """What is asked for, and by its name what serves instead.  An alternative that is there already is taken at once.

    What is asked for by name is meant: it has no alternative.
    """
    manifest = read_manifest()
    chosen = select(manifest, profile, stage, names)
    others = {} if names else {each.name: manifest[each.alternative] for each in chosen if each.alternative}
    taken = [others[each.name] if each.name in others and any_there(others[each.name], root) and not any_there(each, root) else each for each in chosen]
    return taken, others


def any_there(artefact: Artefact, root: Path) -> bool:
    """Whether a file that an artefact needs lies at its place."""
    return any((root / file.to).is_file() for file in artefact.files if not file.optional)


def refuse_dangling(root: Path) -> None:
    """Raises FetchError where the folder of downloads is a link into nothing, as to a disk that was unplugged."""
    if root.is_symlink() and not root.exists():
        raise FetchError(f"{root}: points to {os.readlink(root)}, which is not there; is the disk connected?")


@contextlib.contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """One `mmo fetch` at a time works in a folder: two would throw away each other's unfinished files and records.

    Raises FetchError where another is at work.  The lock is the system's: one that was killed leaves none behind.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".fetching.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise FetchError(f"{root}: another `mmo fetch` is at work there; wait until it has ended, and run the command again") from None
    try:
        yield
    finally:
        lock.release()


def check(profile: str, stage: str | None = None, names: Sequence[str] = (), root: Path | None = None, full: bool = False,
          say: Say = print) -> bool:  # fmt: skip
    """Is everything there and unchanged?  Nothing is fetched.  full: read every file again, instead of its size and time alone."""
    root = root or downloads_root()
    refuse_dangling(root)
    states = [state for state in inspect(select_for(root, profile, stage, names)[0], root, full)
              if not (state.word == "missing" and state.file.optional)]  # fmt: skip
    wrong = [state for state in states if state.word != "there"]
    for state in wrong:
        anew = ". Delete it, and `mmo fetch` brings it anew" if full and state.word == "changed" else ""  # `mmo fetch` itself reads only sizes and times
        say(f"{state.word}: {root / state.file.to} ({state.artefact.name}: {state.artefact.hub}, {state.file.path}){anew}")
    say(f"{profile}: {len(states) - len(wrong)} of {len(states)} files as they should be" + (", all read" if full else ""))
    if missing := {state.artefact.name: state.artefact for state in wrong if state.word == "missing"}:
        say(to_come(list(missing.values())))
    return not wrong


def to_come(missing: Sequence[Artefact]) -> str:
    """About how much is still to be fetched, as far as the manifest knows it."""
    known = sum(each.gigabytes or 0.0 for each in missing)
    unknown = [each.name for each in missing if each.gigabytes is None]
    return f"to come: about {known:.1f} GB" + (f", and {', '.join(unknown)}, whose size the hub tells before they come" if unknown else "")


# --- What is there -----------------------------------------------------------------------------------------------


def inspect(artefacts: Sequence[Artefact], root: Path, full: bool = False) -> list[State]:
    """The state of every file.  One that was only copied or touched is read once more and its new time recorded."""
    lock = read_lock(root)
    before = {path: dict(record) for path, record in lock.items()}
    states = [State(artefact, file, word_for(root / file.to, lock.get(file.to), full)) for artefact in artefacts for file in artefact.files]
    if touched := {path: record for path, record in lock.items() if record != before.get(path)}:
        write_lock(root, read_lock(root) | touched)  # read again: another may have fetched while large files were read here
    return states


def word_for(path: Path, record: dict | None, full: bool) -> str:
    """there, missing, unrecorded or changed; updates the record's time where the content proved to be the same."""
    if not path.is_file():
        return "missing"
    if record is None:
        return "unrecorded"
    found = path.stat()
    if found.st_size != record["size"]:
        return "changed"
    if full or found.st_mtime_ns != record["mtime_ns"]:
        if sha256_of(path) != record["sha256"]:
            return "changed"
        record["mtime_ns"] = found.st_mtime_ns
    return "there"


def refuse_changed(states: Sequence[State], root: Path) -> None:
    if changed := [str(root / state.file.to) for state in states if state.word == "changed"]:
        raise FetchError(f"no longer what was fetched: {', '.join(changed)}; delete it (or move it away) and run the command again")


def is_published(path: Path, remote: Remote) -> bool | None:
    """Is it the file that the source knows?  None where size alone is known, and right."""
    size = path.stat().st_size
    if size != remote.size:
        return False
    if remote.sha256:
        return sha256_of(path) == remote.sha256
    if remote.git_hash:  # git's name for a file is the SHA-1 of this head and the content
        return digest_of(path, hashlib.sha1(b"blob %d\0" % size)) == remote.git_hash
    return None


# --- Before --------------------------------------------------------------------------------------------------------


def plan_wanted(
    wanted: Sequence[State], others: dict[str, Artefact], source: Source, root: Path, say: Say
) -> tuple[list[Job], list[Lacking]]:
    """`plan_all`; a source out of reach is no failure where nothing is missing but files that some repositories lack."""
    try:
        return plan_all(wanted, others, source, root, say)
    except FetchError as error:
        if not all(state.word == "missing" and state.file.optional for state in wanted):
            raise
        say(f"{error}\nAll that is needed is there; not asked for: {', '.join(state.file.to for state in wanted)}, which some versions of a repository lack")
        return [], []


def plan_all(
    wanted: Sequence[State], others: dict[str, Artefact], source: Source, root: Path, say: Say
) -> tuple[list[Job], list[Lacking]]:
    """What fetching files takes; of an artefact that the source lacks, what its alternative takes, else why it is missing."""
    jobs, lacking = [], []
    for name in dict.fromkeys(state.artefact.name for state in wanted):
        try:
            jobs += plan_artefact([state for state in wanted if state.artefact.name == name], source, root, say)
        except Lacking as error:
            try:
                jobs += plan_other(others[name], source, root, say) if name in others else []
            except Lacking:
                lacking.append(error)
                continue
            if name in others:
                say(f"{error}: {others[name].name} serves instead ({others[name].about})")
            else:
                lacking.append(error)
    return jobs, lacking


def plan_artefact(wanted: Sequence[State], source: Source, root: Path, say: Say) -> list[Job]:
    return [job for state in wanted if (job := plan(state, source, root, say))]


def plan_other(artefact: Artefact, source: Source, root: Path, say: Say) -> list[Job]:
    """What fetching an alternative takes."""
    states = inspect([artefact], root)
    refuse_changed(states, root)
    return plan_artefact([state for state in states if state.word != "there"], source, root, say)


def plan(state: State, source: Source, root: Path, say: Say) -> Job | None:
    """What fetching a file takes; None where nothing is to be done: the repository lacks an optional file, or the file is there."""
    artefact, file = state.artefact, state.file
    remote = source.describe(artefact, file)  # not tried again: the clients wait for half a minute themselves
    if remote is None:
        say(f"{source.place(artefact, file)}: not in this repository, and not needed")
        return None
    if state.word == "unrecorded":
        return adopt(Job(artefact, file, remote, 0), source, root, say)
    if artefact.subset and not source.finished:
        return plan_subset(artefact, file, remote, source, root)
    started = sum(each.stat().st_size for each in staging(root, file).rglob("*") if each.is_file())
    return Job(artefact, file, remote, max(remote.size - started, 0) + (remote.size if file.keep and not source.finished else 0))


def plan_subset(artefact: Artefact, file: File, remote: Remote, source: Source, root: Path) -> Job:
    """Which row groups, by the table at the remote file's end; what an interrupted call left of them needs no more room."""
    place = source.place(artefact, file)
    with told(place), source.open(artefact, file, remote) as opened:
        try:
            table = open_parquet(opened).metadata
            parts = choose(table, artefact.subset)
        except ValueError as error:
            raise FetchError(f"{place}: no part of it can be chosen: {error}") from error
    space = 2 * sum(part.size for part in parts) + max(part.size for part in parts)  # the parts, all in one, and what was read of the one in hand
    started = sum(each.stat().st_size for each in parts_folder(root, file, remote).rglob("*") if each.is_file())
    return Job(artefact, file, remote, max(space - started, 0), tuple(parts), table)


def adopt(job: Job, source: Source, root: Path, say: Say) -> None:
    """A file that somebody put there by hand: taken as it is where it proves to be the published one, else refused."""
    path = root / job.file.to
    whole = source.finished or not (job.artefact.subset or job.file.keep)
    if not (whole and is_published(path, job.remote)):
        raise FetchError(f"{path}: nobody fetched this file, and it cannot be shown to be the published one; move it away and run the "
                         f"command again ({source.place(job.artefact, job.file)})")  # fmt: skip
    record(job, source, root, path, sha256_of(path))
    say(f"{path}: was there already, and is the published file")


def make_sure_of_space(jobs: Sequence[Job], root: Path, say: Say) -> None:
    """Says what is to come.  Raises FetchError saying how many GB of 10^9 bytes are missing."""
    needed, free = sum(job.space for job in jobs), shutil.disk_usage(root).free
    if needed and needed + RESERVE > free:
        largest = max(jobs, key=lambda job: job.space)
        raise FetchError(f"{root}: the disk lacks {(needed + RESERVE - free) / 1e9:.2f} GB: {needed / 1e9:.2f} GB are to come and "
                         f"{RESERVE / 1e9:.2f} GB stay free, but only {free / 1e9:.2f} GB are free. The largest file is {largest.file.to} "
                         f"({largest.artefact.name}, {largest.space / 1e9:.2f} GB). Make room, fetch one --stage at a time, or put "
                         "data/downloads on another disk (a symbolic link)")  # fmt: skip
    if jobs:
        say(f"to fetch: {len(jobs)} files, {needed / 1e9:.2f} GB of disk on the way; {free / 1e9:.2f} GB are free")


# --- Bringing --------------------------------------------------------------------------------------------------------


def staging(root: Path, file: File) -> Path:
    """Where a file comes in; its name is its own, so that two never meet."""
    return root / INCOMING / hashlib.sha256(file.to.encode()).hexdigest()[:16]


def parts_folder(root: Path, file: File, remote: Remote) -> Path:
    """Where row groups of a file come in: another version's are not ours."""
    return staging(root, file) / (remote.revision or remote.sha256 or "parts")


def move(arrived: Path, target: Path) -> None:
    """Into its place in one go, also where that lies on another disk than the folder of what arrives."""
    try:
        os.replace(arrived, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        unfinished = target.with_name(f"{target.name}.part")
        shutil.copyfile(arrived, unfinished)
        os.replace(unfinished, target)


def bring(job: Job, source: Source, root: Path, say: Say) -> Path:
    """Fetch one file, prove it, record it, move it to its place: killed between the two, it is missing and fetched again, never unknown."""
    folder, target = staging(root, job.file), root / job.file.to
    folder.mkdir(parents=True, exist_ok=True)
    if job.parts:
        arrived = retried(lambda: bring_subset(job, source, root), say)
    else:
        arrived = retried(lambda: source.bring(job.artefact, job.file, job.remote, folder), say)
        prove(job, source, arrived, folder)
        if job.file.keep and not source.finished:
            arrived = keep_tensors(arrived, job.file.keep, source.place(job.artefact, job.file))
    with told(str(target)):
        digest = sha256_of(arrived)
        target.parent.mkdir(parents=True, exist_ok=True)
        record(job, source, root, arrived, digest)
        move(arrived, target)
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other files may be on their way
            (root / INCOMING).rmdir()
    published = (job.remote.sha256 or job.remote.git_hash) and not job.parts
    unchecked = f"not in the record of {source.folder}: taken unchecked" if isinstance(source, Share) else "checksum recorded"
    words = f"as {source.known_by.removeprefix('is ')}" if published else unchecked
    say(f"{job.file.to}: {target.stat().st_size / 1e6:.1f} MB, {words}")
    return target


def bring_subset(job: Job, source: Source, root: Path) -> Path:
    """The chosen row groups of a remote parquet file, each kept as it comes, then all in one file."""
    parts = parts_folder(root, job.file, job.remote)
    with told(source.place(job.artefact, job.file)), source.open(job.artefact, job.file, job.remote) as opened:
        reads = KeptReads(opened, parts / "reads")
        files = read_parts(open_parquet(reads, job.table), list(job.parts), parts, Path(job.file.to).name, reads.forget)
        return join(files, staging(root, job.file) / "joined.parquet")


def prove(job: Job, source: Source, arrived: Path, folder: Path) -> None:
    """Raises FetchError where a file is not the published one; it is thrown away, so that the next try starts anew."""
    if is_published(arrived, job.remote) is not False:
        return
    size, checksum = arrived.stat().st_size, job.remote.sha256 or job.remote.git_hash
    damaged = "Run the command again; if it happens again, the source is damaged: take another (--mirror, --from)"
    if source.finished:
        damaged = "The copy in that folder is damaged, or was changed: have it copied there again"
    shutil.rmtree(folder)
    expected = f"{job.remote.size} bytes" + (f", checksum {checksum[:12]}…" if checksum else "")
    raise FetchError(f"{source.place(job.artefact, job.file)}: what came ({size} bytes) is not what {source.known_by} ({expected}); it was thrown "
                     f"away. {damaged}")  # fmt: skip


def keep_tensors(path: Path, prefix: str, place: str) -> Path:
    """A safetensors file with only the tensors whose names begin with `prefix`."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
        metadata = file.metadata()
    if not kept:
        raise FetchError(f"{place}: it has no tensors named {prefix}…; correct data/manifest.toml")
    smaller = path.with_name("kept.safetensors")
    save_file(kept, smaller, metadata)
    return smaller


def record(job: Job, source: Source, root: Path, path: Path, digest: str) -> None:
    """Enter a file into the lock file: it lies at its place, or at `path`, from where it is moved with its time."""
    lock, found = read_lock(root), path.stat()
    lock[job.file.to] = {
        "artefact": job.artefact.name, "source": source.place(job.artefact, job.file), "revision": job.remote.revision,
        "size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": digest,
    }  # fmt: skip
    if job.parts:
        lock[job.file.to]["rows"] = {str(part.group): part.rows for part in job.parts}
    write_lock(root, lock)


def retried(attempt: Callable, say: Say):
    """What `attempt` gives, tried again where a connection broke off; the last failure is raised."""
    for wait in WAITS:
        try:
            return attempt()
        except Interrupted as error:
            say(f"{error}\nagain in {wait:.0f} s, from where it was")
            time.sleep(wait)
    return attempt()


# --- The command -----------------------------------------------------------------------------------------------------


def main(
    profile: str, stage: str | None = None, names: Sequence[str] = (), offline: bool = False, share: Path | None = None,
    mirror: bool = False, verify: bool = False, say: Say = print,
) -> int:
    """`mmo fetch`: 0 when everything is there.  Raises FetchError and ValueError with what to do."""
    if share and mirror:
        raise ValueError("--from and --mirror name two sources; choose one")
    if (offline or verify) and (share or mirror):
        raise ValueError(f"{'--offline' if offline else '--verify'} fetches nothing, so {'--from' if share else '--mirror'} has no meaning beside it; leave one of them out")
    if offline or verify:
        if check(profile, stage, names, full=verify, say=say):
            return 0
        say("nothing was fetched; run the command without --offline and --verify, or with --from DIR (a folder that somebody shares)")
        return 1
    source = Share.at(share, downloads_root()) if share else ModelScope() if mirror else HuggingFace()
    if warning := source.warning() if share else "":
        say(warning)
    fetch(profile, stage, names, source, say=say)
    if warning:
        say(warning)  # once more, below all that came
    return 0
