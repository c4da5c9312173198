"""Where files come from: the Hugging Face hub, ModelScope, or a folder that a class shares.

The clients are the hubs' own. They go on with a broken download by themselves, show progress, and obey HF_ENDPOINT and
MODELSCOPE_ENDPOINT. A source only says what a file is (`describe`) and brings it into a folder (`bring`); both raise `FetchError`,
or `Interrupted` where trying again may help.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import requests
from huggingface_hub import HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub import errors as hub_errors
from tqdm import tqdm

from mmo.manifest import Artefact, File

LOCK = "fetched.json"  # beside the data: what was fetched, from where, with which checksum
RECORDED = {"size": int, "mtime_ns": int, "sha256": str}  # what is asked of every record there
ANEW = "delete it, and the files are checked and recorded anew; of a share, copy it again"
SHA256, GIT_HASH = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
ELSEWHERE = ("check the network; HF_ENDPOINT=… names another address of the Hugging Face hub, --mirror takes ModelScope, "
             "--from DIR a folder that somebody shares")  # fmt: skip


class FetchError(RuntimeError):
    """Something could not be fetched; the message names artefact, repository and file and says what to do."""


class Lacking(FetchError):
    """A source does not have an artefact; another one may."""

    def __init__(self, words: str, artefact: Artefact) -> None:
        super().__init__(words)
        self.artefact = artefact.name


class Interrupted(FetchError):
    """The connection broke off or never stood: another try goes on where this one ended."""


@dataclass(frozen=True)
class Remote:
    """A file as its source describes it.  size: bytes; sha256, git_hash: empty where not published; revision: the exact one, if known."""

    size: int
    sha256: str = ""
    revision: str = ""
    git_hash: str = ""  # of small files the Hugging Face hub publishes git's hash instead


class Source(Protocol):
    """What `fetch` asks of a place."""

    finished: bool  # its files are as they are to lie here: nothing is cut out of them any more
    known_by: str  # where its sizes and checksums stand, as "what came is not what …"

    def place(self, artefact: Artefact, file: File) -> str: ...

    def describe(self, artefact: Artefact, file: File) -> Remote | None: ...

    def bring(self, artefact: Artefact, file: File, remote: Remote, folder: Path) -> Path: ...

    def open(self, artefact: Artefact, file: File, remote: Remote) -> BinaryIO: ...

    def instead(self, names: Sequence[str]) -> str:
        """What to do about artefacts that it lacks."""


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """Every failure of a client as a `FetchError` that names the place."""
    try:
        yield
    except FetchError:
        raise
    except hub_errors.GatedRepoError as error:
        raise FetchError(f"{place}: its publisher asks for consent: open its page on the hub, give it, and set HF_TOKEN to a token of yours") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise FetchError(f"{place}: the hub has no such repository, or not for everybody ({first_line(error)}). If it was renamed, correct "
                         "data/manifest.toml; if it is private, set HF_TOKEN; or take --mirror, or --from DIR") from error  # fmt: skip
    except hub_errors.RevisionNotFoundError as error:
        raise FetchError(f"{place}: the repository has no such revision; correct data/manifest.toml") from error
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled) as error:
        raise Interrupted(f"{place}: out of reach ({first_line(error)}); {ELSEWHERE}") from error
    except hub_errors.EntryNotFoundError as error:
        raise FetchError(f"{place}: the repository has no such file; was it renamed? See data/manifest.toml") from error
    except (hub_errors.HfHubHTTPError, requests.HTTPError) as error:
        raise Interrupted(f"{place}: {refusal(error)}; or {ELSEWHERE}") from error
    except requests.RequestException as error:
        raise Interrupted(f"{place}: out of reach, or the connection broke off ({first_line(error)}); {ELSEWHERE}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"{place}: the disk is full; make room and run the command again, it goes on where it was") from error
        raise Interrupted(f"{place}: {first_line(error)}; run the command again") from error
    except RuntimeError as error:  # whatever breaks in a transfer by Xet: its client knows no kinds of errors
        raise Interrupted(f"{place}: {first_line(error)}; {ELSEWHERE}") from error


def refusal(error: requests.HTTPError) -> str:
    """What a hub's refusal means for whoever asked, by its status."""
    status = getattr(error.response, "status_code", 0)
    if status == 429:
        return "the hub has had too many requests from this address (429); wait some minutes, or set HF_TOKEN to a token of yours"
    if status in (401, 403):
        return f"the hub does not let everybody have it ({status}); set HF_TOKEN to a token of yours"
    return f"the hub refused ({first_line(error)}); try again later"


def forbidden_by() -> str | None:
    """The variable that forbids the Hugging Face hub, read as its client reads it; None where none does."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if value := os.environ.get(name):
            return name if value.upper() in ("1", "ON", "YES", "TRUE") else None
    return None


def address(variable: str) -> str | None:
    """The hub's address in a variable, None where it is not set.  FetchError where it is no address."""
    found = os.environ.get(variable, "").strip().rstrip("/")
    if found and not found.startswith(("https://", "http://")):
        raise FetchError(f"{variable} is {found!r}; wanted an address that begins with https://")
    return found or None


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class HuggingFace:
    """The Hugging Face hub, or what HF_ENDPOINT names."""

    finished = False
    known_by = "is published"

    @property
    def endpoint(self) -> str | None:
        return address("HF_ENDPOINT")

    def place(self, artefact: Artefact, file: File) -> str:
        return f"{artefact.name}: {artefact.hub}, {file.path}, Hugging Face hub"

    def describe(self, artefact: Artefact, file: File) -> Remote | None:
        """Size and checksum without the file; None for an optional file that the repository lacks."""
        if variable := forbidden_by():
            raise FetchError(f"{variable} forbids the Hugging Face hub; unset it, or use --offline, --mirror or --from DIR")
        url = hf_hub_url(artefact.hub, file.path, repo_type=artefact.kind, revision=artefact.revision, endpoint=self.endpoint)
        with told(self.place(artefact, file)):
            try:
                found = get_hf_file_metadata(url, endpoint=self.endpoint)
            except hub_errors.EntryNotFoundError:
                if file.optional:
                    return None
                raise
        if found.size is None:
            raise FetchError(f"{self.place(artefact, file)}: the hub does not say how large it is")
        etag = found.etag or ""
        return Remote(found.size, etag if SHA256.fullmatch(etag) else "", found.commit_hash or "", etag if GIT_HASH.fullmatch(etag) else "")

    def bring(self, artefact: Artefact, file: File, remote: Remote, folder: Path) -> Path:
        with told(self.place(artefact, file)):
            revision = remote.revision or artefact.revision
            return Path(hf_hub_download(artefact.hub, file.path, repo_type=artefact.kind, revision=revision, local_dir=folder,
                                        endpoint=self.endpoint))  # fmt: skip

    def open(self, artefact: Artefact, file: File, remote: Remote) -> BinaryIO:
        """The remote file, read by ranges: each read is one request for just these bytes."""
        prefix = "datasets/" if artefact.kind == "dataset" else ""
        revision = remote.revision or artefact.revision
        with told(self.place(artefact, file)):
            system = HfFileSystem(endpoint=self.endpoint, skip_instance_cache=True)
            return system.open(f"{prefix}{artefact.hub}@{revision}/{file.path}", "rb", cache_type="none")

    def instead(self, names: Sequence[str]) -> str:
        return f"Try ModelScope: mmo fetch {' '.join(names)} --mirror"


@dataclass(frozen=True)
class ModelScope:
    """ModelScope, or what MODELSCOPE_ENDPOINT names."""

    finished = False
    known_by = "is published"
    listings: dict[str, dict] = field(default_factory=dict)  # one listing a repository, asked once

    def place(self, artefact: Artefact, file: File) -> str:
        return f"{artefact.name}: {artefact.mirror or 'no repository'}, {file.mirror}, ModelScope"

    def client(self):
        from modelscope_hub import HubApi  # what modelscope's own download functions call; MODELSCOPE_ENDPOINT is read here

        return HubApi(endpoint=address("MODELSCOPE_ENDPOINT"))

    @contextlib.contextmanager
    def told(self, artefact: Artefact, file: File) -> Iterator[None]:
        from modelscope_hub import errors

        place = self.place(artefact, file)
        with told(place):
            try:
                yield
            except errors.NotExistError as error:
                raise Lacking(f"{place}: ModelScope has no such repository or file", artefact) from error
            except errors.FileIntegrityError as error:
                raise FetchError(f"{place}: what came is not what is published ({first_line(error)}); run the command again") from error
            except (errors.NetworkError, errors.RequestTimeoutError, errors.APIError) as error:
                raise Interrupted(f"{place}: out of reach ({first_line(error)}); leave out --mirror, or use --from DIR") from error

    def listing(self, artefact: Artefact) -> dict:
        if artefact.mirror not in self.listings:
            files = self.client().list_repo_files(artefact.mirror, artefact.kind)
            self.listings[artefact.mirror] = {each.path: each for each in files}
        return self.listings[artefact.mirror]

    def describe(self, artefact: Artefact, file: File) -> Remote | None:
        if not artefact.mirror or artefact.subset:
            raise Lacking(f"{self.place(artefact, file)}: not to be had there", artefact)
        with self.told(artefact, file):
            found = self.listing(artefact).get(file.mirror)
        if found is None:
            if file.optional:
                return None
            raise Lacking(f"{self.place(artefact, file)}: the repository has no such file", artefact)
        return Remote(found.size, (found.sha256 or "").lower())

    def bring(self, artefact: Artefact, file: File, remote: Remote, folder: Path) -> Path:
        from modelscope_hub import TqdmCallback

        with self.told(artefact, file):
            return self.client().downloader.download_file(
                artefact.mirror, artefact.kind, file.mirror, cache_dir=folder / ".cache", local_dir=folder,
                expected_sha256=remote.sha256 or None, file_size=remote.size, progress_callbacks=[TqdmCallback],
            )  # fmt: skip

    def open(self, artefact: Artefact, file: File, remote: Remote) -> BinaryIO:
        raise FetchError(f"{self.place(artefact, file)}: ModelScope's client does not read parts of a file")

    def instead(self, names: Sequence[str]) -> str:
        return f"The Hugging Face hub has it (HF_ENDPOINT=… names another address of it): mmo fetch {' '.join(names)}"


@dataclass(frozen=True)
class Share:
    """A folder with the layout of data/downloads, for instance a copy of the teacher's, on a disk or on the network."""

    folder: Path
    finished = True
    known_by = f"the {LOCK} of that folder records"

    @classmethod
    def at(cls, folder: Path, root: Path) -> Share:
        """The share in a folder that a person named; root: where its files are to go.  Raises ValueError where it cannot be one."""
        if not folder.is_dir():
            raise ValueError(f"--from {folder}: there is no such folder; is the disk or the network drive connected?")
        if root.exists() and folder.samefile(root):
            raise ValueError(f"--from {folder}: that is where downloads go; name the folder of somebody else")
        inside = [folder / name for name in ("downloads", "data/downloads") if (folder / name / LOCK).is_file()]
        if inside and not (folder / LOCK).is_file():
            raise ValueError(f"--from {folder}: the files lie deeper: --from {inside[0]}")
        return cls(folder)

    def warning(self) -> str:
        """What to tell of a share whose files nobody can check; "" where its record came with it."""
        if (self.folder / LOCK).is_file():
            return ""
        return (f"nothing in this share can be checked: {self.folder} has no {LOCK}. What comes is taken as it is; better copy {LOCK} there, from "
                "where the files were fetched, delete what came, and run the command again")  # fmt: skip

    def place(self, artefact: Artefact, file: File) -> str:
        return f"{artefact.name}: {file.to}, shared folder {self.folder}"

    def describe(self, artefact: Artefact, file: File) -> Remote | None:
        with told(self.place(artefact, file)):
            if not (self.folder / file.to).is_file():
                if file.optional:
                    return None
                raise Lacking(f"{self.place(artefact, file)}: not there", artefact)
            known = read_lock(self.folder).get(file.to, {})
            return Remote((self.folder / file.to).stat().st_size, known.get("sha256", ""), known.get("revision", ""))

    def bring(self, artefact: Artefact, file: File, remote: Remote, folder: Path) -> Path:
        target = folder / Path(file.to).name
        with told(self.place(artefact, file)), self.open(artefact, file, remote) as source, open(target, "wb") as copy:
            with tqdm.wrapattr(source, "read", total=remote.size, desc=target.name) as shown:
                shutil.copyfileobj(shown, copy, 1 << 20)
        return target

    def open(self, artefact: Artefact, file: File, remote: Remote) -> BinaryIO:
        return open(self.folder / file.to, "rb")

    def instead(self, names: Sequence[str]) -> str:
        return f"The folder must look like the data/downloads of somebody who ran `mmo fetch`; from a hub: mmo fetch {' '.join(names)}"


def read_lock(folder: Path) -> dict[str, dict]:
    """What was fetched into a folder: path -> size (bytes), mtime_ns, sha256, artefact, source, revision."""
    path = folder / LOCK
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{path}: cannot be read ({first_line(error)}); {ANEW}") from error
    if not isinstance(files, dict):
        raise FetchError(f"{path}: damaged, \"files\" holds no records by path; {ANEW}")
    for name, record in files.items():
        if not isinstance(record, dict) or any(not isinstance(record.get(word), kind) for word, kind in RECORDED.items()):
            raise FetchError(f"{path}: damaged, the record of {name} lacks {', '.join(RECORDED)}; {ANEW}")
    return files


def write_lock(folder: Path, files: dict[str, dict]) -> None:
    unfinished = (folder / LOCK).with_suffix(".tmp")
    unfinished.write_text(json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / LOCK)
