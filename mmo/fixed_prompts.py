"""The fixed prompts: twenty questions, asked of the weights after each stage, and their sounds kept to compare by ear.

    keep_sounds(profile, "t2a", Path("runs/mini"))          # `mmo train` does it when a stage is done

    runs/mini/prompts/t2a/01.wav …   what the weights after T2A say; a prompt that was answered in silence has no file
    runs/mini/prompts/t2a/said.json  prompt, text, voice, frames; what the judge heard, once `mmo evaluate` has asked
    runs/mini/prompts/index.html     the stages side by side

The same questions, voices and seeds every time: what differs is the weights.
"""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
from torch import Tensor

from mmo.chat import ChatTokenizer, user_content
from mmo.checkpoint import stage_file
from mmo.codec import Codec
from mmo.generation import Answer, Generator, Prompt
from mmo.omni import load_model
from mmo.profiles import REPOSITORY, STAGES, Profile
from mmo.weights import read_tensors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = REPOSITORY / "data" / "prompts.toml"
BUCKETS = ("short", "medium", "long")  # how long an answer is asked for
LENGTHS = {"short": 15, "medium": 30, "long": 60}  # words an answer has at most: the bounds of the published table (docs/judging.md)
LONGER = "longer"
SEED = 1000  # the n-th prompt's is so much more
FINISHED = "finished"  # stands for a stage where weights are none of the run's own, but imported


@dataclass(frozen=True)
class FixedPrompt:
    """One question.  number: 1 .. 20, in the file's order.  bucket: how long an answer it asks for."""

    number: int
    bucket: str
    text: str


def read_prompts(path: Path = FILE) -> list[FixedPrompt]:
    """All prompts, short ones first.  Raises ValueError where the file has other tables, or a prompt is empty or there twice."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if tuple(tables) != BUCKETS:
        raise ValueError(f"{path}: wanted the lists {', '.join(BUCKETS)}, found {', '.join(tables)}")
    pairs = [(bucket, text.strip()) for bucket, texts in tables.items() for text in texts]
    if not all(text for _, text in pairs) or len({text for _, text in pairs}) < len(pairs):
        raise ValueError(f"{path}: a prompt is empty, or there twice")
    return [FixedPrompt(number, *pair) for number, pair in enumerate(pairs, 1)]


def length_of(words: int) -> str:
    """The bucket of an answer with so many words."""
    return next((name for name, most in LENGTHS.items() if words <= most), LONGER)


def read_voices(profile: Profile) -> dict[str, Tensor]:
    """Speaker vectors (S,) by name.  Raises FileNotFoundError: they are of rows set aside for testing (held_out.py)."""
    path = profile.data_dir / "voices.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no voices {path}: they come with the data, which `mmo fetch --profile {profile.name} --stage t2a` brings")
    voices = {name: vector.float() for name, vector in read_tensors(path)[0].items()}
    return dict(sorted(voices.items()))


def as_prompts(chosen: Sequence[FixedPrompt], tokenizer: ChatTokenizer, voices: dict[str, Tensor]) -> list[Prompt]:
    """Voices take turns by the prompt's number, whichever prompts are chosen."""
    vectors = list(voices.values())
    return [
        Prompt(
            tokenizer.prompt([{"role": "user", "content": user_content(each.text)}]),
            speaker=vectors[voice_of(each, len(vectors))],
            seed=SEED + each.number,
        )
        for each in chosen
    ]


def voice_of(prompt: FixedPrompt, voices: int) -> int:
    """Which of so many voices answers a prompt: neighbours differ, and so do the same places of two buckets where voices are four."""
    return (prompt.number - 1) % voices


# --- Keeping what was said -------------------------------------------------------------------------------------------


def prompts_folder(run_dir: Path, stage: str) -> Path:
    return run_dir / "prompts" / stage


def write_sounds(folder: Path, chosen: Sequence[FixedPrompt], answers: Sequence[Answer], voices: Sequence[str], weights: str) -> None:
    """NN.wav for each answer that has a sound, and said.json; what an earlier call left there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("[0-9][0-9].wav"), folder / "said.json"]:
        stale.unlink(missing_ok=True)
    said = []
    for prompt, answer in zip(chosen, answers, strict=True):
        name = f"{prompt.number:02}.wav" if len(answer.samples) else None
        if name:
            soundfile.write(folder / name, answer.samples.clip(-1, 1), answer.sample_rate, subtype="PCM_16")
        asked = {"number": prompt.number, "bucket": prompt.bucket, "prompt": prompt.text, "voice": voices[voice_of(prompt, len(voices))]}
        said.append(asked | {"answer": answer.text, "frames": answer.codes.shape[1], "runaway": answer.runaway, "sound": name, "heard": None})
    write_json(folder / "said.json", {"weights": weights, "answers": said})


def write_heard(folder: Path, heard: Sequence[str]) -> None:
    """Add what the judge heard in each answer."""
    told = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    for each, text in zip(told["answers"], heard, strict=True):
        each["heard"] = text
    write_json(folder / "said.json", told)


def write_json(path: Path, value: dict) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def keep_sounds(profile: Profile, stage: str, run_dir: Path) -> Path:
    """Ask a stage's finished weights the fixed prompts and keep the sounds; returns the page.

    Raises FileNotFoundError or ValueError where something that speaking needs is missing: training needs no codec.
    """
    model, device = load_model(stage_file(run_dir, stage)), profile.device()
    codec = Codec.load(profile.codec_file, device, profile.model.num_codebooks)
    if device.type == "cuda":
        model = model.to(device, profile.dtype(device))
    tokenizer, voices, chosen = ChatTokenizer.load(profile.tokenizer_dir), read_voices(profile), read_prompts()
    answers = Generator(model, codec, tokenizer, profile.decoding).generate_batch(as_prompts(chosen, tokenizer, voices))
    folder = prompts_folder(run_dir, stage)
    write_sounds(folder, chosen, answers, list(voices), stage_file(run_dir, stage).name)
    return write_page(run_dir)


# --- The page --------------------------------------------------------------------------------------------------------

STYLE = """<style>
body { font-family: system-ui, sans-serif; margin: 2em; } table { border-collapse: collapse; }
td, th { padding: .5em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid #ccc; max-width: 24em; }
.heard { color: #666; } audio { display: block; width: 16em; }
</style>"""


def write_page(run_dir: Path) -> Path:
    """prompts/index.html: a row for each prompt, a column for each stage that was asked; sounds stay beside it."""
    found = {}
    for stage in (*STAGES, FINISHED):
        file = prompts_folder(run_dir, stage) / "said.json"
        if file.is_file():
            found[stage] = {each["number"]: each for each in json.loads(file.read_text(encoding="utf-8"))["answers"]}
    rows = []
    for number in sorted({number for answers in found.values() for number in answers}):
        told = [answers.get(number) for answers in found.values()]
        asked = next(each["prompt"] for each in told if each)
        cells = "".join(cell(stage, each) for stage, each in zip(found, told))
        rows.append(f"<tr><td>{number}. {html.escape(asked)}</td>{cells}</tr>")
    head = "".join(f"<th>after {stage}</th>" if stage in STAGES else f"<th>{stage}</th>" for stage in found)
    page = run_dir / "prompts" / "index.html"
    page.write_text(
        f"<!doctype html><meta charset='utf-8'><title>Fixed prompts</title>{STYLE}<h1>Fixed prompts · {html.escape(run_dir.name)}</h1>"
        f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>\n",
        encoding="utf-8",
    )
    return page


def cell(stage: str, told: dict | None) -> str:
    """One answer: what was written, its sound, and what the judge heard."""
    if told is None:
        return "<td>–</td>"
    player = f"<audio controls src='{stage}/{told['sound']}'></audio>" if told["sound"] else "no sound"
    heard = "" if told["heard"] is None else f"<div class='heard'>heard: {html.escape(told['heard']) or '–'}</div>"
    return f"<td>{html.escape(told['answer']) or '–'}{player}{heard}</td>"
