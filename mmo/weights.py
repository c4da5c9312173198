"""Files of weights: read without running code from them, compared name by name, written in one go.

    state, metadata = read_tensors("llm_768.pth")           # or .safetensors; .pth, .pt and .bin are pickles
    check_fit({name: value.shape for …}, state, "llm_768.pth")

A pickle can hold any program; torch's `weights_only=True` lets nothing through but tensors and plain containers.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmo.config import ModelConfig

PICKLES = (".pth", ".pt", ".bin")
NAMED = 12  # names of a kind that a message lists
EMBEDDING = "model.embed_tokens.weight"
# safetensors' order of types, the widest first, and its names for them
TYPES = (torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.int16, torch.int8, torch.uint8, torch.bool)
TYPE_NAMES = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
TIED = "lm_head.weight"  # the same matrix as EMBEDDING; safetensors files hold it once, the original's pickles twice


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, on the CPU in the precision of the file, and the metadata of a .safetensors file (else empty).

    Raises FileNotFoundError, or ValueError where the file is damaged or holds something else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with open(path, "rb") as file:
        start = file.read(9)  # a safetensors file begins with the length of a JSON object, in eight bytes, and the object
    return read_safetensors(path) if start[8:] == b"{" or path.suffix == ".safetensors" else (read_pickle(path), {})


def read_settings(path: Path) -> dict:
    """A config.json.  Raises ValueError, naming the file, where it is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {json.dumps(found)[:60]}, wanted settings by name, as in {{\"hidden_size\": 768}}")
    return found


def settings_in(metadata: Mapping[str, str], path: str | os.PathLike) -> ModelConfig:
    """The model's configuration from the metadata of its file.  Raises ValueError, naming the file, where it is none of this version's."""
    try:
        return ModelConfig.from_dict(json.loads(metadata["config"]))
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path}: the model settings in this file cannot be used ({error}); is it of another version of the course, or damaged?") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `read_tensors` does with .safetensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged: {error}") from error


def read_pickle(path: Path) -> dict[str, Tensor]:
    """What `read_tensors` does with .pth, .pt and .bin."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, nothing of it was run: it holds something else than tensors, or is damaged") from error
    except (RuntimeError, EOFError, OSError) as error:  # the file is there and was opened: what fails is its content
        raise ValueError(f"{path} is damaged, or cut short: {(str(error) or 'empty').splitlines()[0]}; fetch or copy it again") from error
    except Exception as error:  # bytes that are no pickle at all may do anything to whoever reads them as one
        raise ValueError(f"{path} is no file of weights, or damaged ({type(error).__name__} while reading); fetch or copy it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, wanted tensors by name")
    if unnamed := [name for name in found if not isinstance(name, str)]:
        raise ValueError(f"{path}: not tensors by name, but by {listed([type(name).__name__ + ' ' + repr(name) for name in unnamed])}")
    strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if strange:
        kind = " It looks like the state of an interrupted training: take the weights alone." if "optimizer" in strange else ""
        raise ValueError(f"{path}: not tensors by name, but also {listed(strange)}.{kind}")
    return found


# --- Comparing -------------------------------------------------------------------------------------------------------


def listed(names: Sequence[str]) -> str:
    """A list of names for a message, as much of it as one wants to read."""
    return f"{list(names[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def check_fit(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Tensor], source: str) -> None:
    """Raises ValueError naming what is missing, unexpected, or of another shape than the wanted one."""
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    misshapen = [
        f"{name} {tuple(found[name].shape)}, wanted {tuple(wanted[name])}"
        for name in sorted(set(wanted) & set(found))
        if tuple(found[name].shape) != tuple(wanted[name])
    ]
    if missing or unexpected or misshapen:
        raise ValueError(f"{source}: missing {listed(missing)}, unexpected {listed(unexpected)}, wrong shape {listed(misshapen)}")


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raises ValueError naming tensors that hold infinities or no numbers."""
    spoilt = sorted(name for name, value in state.items() if not value.isfinite().all())
    if spoilt:
        raise ValueError(f"{source}: not finite: {listed(spoilt)}")


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's weights, the tied head left out."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items() if name != TIED}


def untied(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Without the head, which is the embedding again.  Raises ValueError where it is another matrix."""
    head, embedding = state.get(TIED), state.get(EMBEDDING)
    if head is not None and embedding is not None and head is not embedding and not torch.equal(head, embedding):
        raise ValueError(f"{source}: {TIED} differs from {EMBEDDING}, but the two are tied here")
    return {name: value for name, value in state.items() if name != TIED}


# --- Writing ---------------------------------------------------------------------------------------------------------


SYSTEM_ERROR = re.compile(r"(?:Os \{ code: |os error )(\d+)")  # how safetensors tells it


@contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses while safetensors or torch writes is raised as OSError with its number and the file: they raise errors of their own."""
    try:
        yield
    except SafetensorError as error:
        found = SYSTEM_ERROR.search(str(error))
        if not found:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    except OSError as error:
        if error.filename is not None or error.errno is None:  # it has its file already, or only words
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except RuntimeError as error:
        if "cannot be opened" in str(error):
            raise ValueError(f"{path} cannot be written there; give another place") from error
        if not any(part in str(error) for part in ("PytorchStreamWriter", "inline_container")):  # torch's writer of archives
            raise
        raise ValueError(f"{path} could not be written whole; is there space left on that disk?") from error


def write_whole(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, then move it to `path` in one go.

    Raises OSError where the disk refuses it: what was there before is still there, and the unfinished file takes no room.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with naming_disk_errors(path):
            write(unfinished)
        os.replace(unfinished, path)
    except Exception:
        unfinished.unlink(missing_ok=True)
        raise


def write_tensors(path: str | os.PathLike, state: Mapping[str, Tensor], metadata: dict[str, str], onto_disk: bool = False) -> None:
    """A .safetensors file: the same bytes as safetensors' own `save_file`, written one tensor after the other.

    `save_file` makes bytes of every tensor before it writes the first: for the saved state of a mixture of 315 M weights that is 5 GB more.
    onto_disk: the file is on the disk, not only in the system's memory, before it takes its place.
    Layout (safetensors' README): length of the header in eight bytes, little endian; the header, JSON; the tensors' bytes.
    """
    ordered = sorted(state.items(), key=lambda each: (TYPES.index(each[1].dtype), each[0]))

    def write(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:
            file.write(safetensors_header(ordered, metadata))
            for _, value in ordered:
                file.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            if onto_disk:
                file.flush()
                os.fsync(file.fileno())

    write_whole(path, write)


def safetensors_header(ordered: Sequence[tuple[str, Tensor]], metadata: dict[str, str]) -> bytes:
    """What stands in front of the tensors' bytes: its own length, and type, shape and place of each tensor."""
    entries: dict[str, object] = {"__metadata__": metadata}
    begin = 0
    for name, value in ordered:
        end = begin + value.numel() * value.element_size()
        entries[name] = {"dtype": TYPE_NAMES[TYPES.index(value.dtype)], "shape": list(value.shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # so the tensors begin at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header


def write_pickle(path: str | os.PathLike, state: Mapping[str, Tensor]) -> None:
    """A .pth file: tensors by name, nothing else."""
    write_whole(path, lambda unfinished: torch.save(dict(state), unfinished))
