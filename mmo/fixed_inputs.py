"""The fixed spoken questions and pictures: put to the weights after each stage that can take them, and what is said kept to compare by ear.

    keep_replies(profile, "i2t", Path("runs/mini"))          # `mmo train` does it when a stage is done

    runs/mini/prompts/inputs/heard-1.wav, seen-1.jpg …   what is put to them, as it stands in the rows that were set aside
    runs/mini/prompts/i2t/heard-1.wav …                  what the weights after I2T answer; one in silence has no file
    runs/mini/prompts/i2t/replies.json                   which it was, the recorded answer, text, frames
    runs/mini/prompts/inputs.html                        the stages side by side

Spoken questions are put after A2A and I2T, pictures after I2T.  The same rows, voices and seeds every time: what differs is the weights.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from PIL import Image
from torch import Tensor

from mmo import measures
from mmo.chat import IMAGE_MARK, ChatTokenizer, user_content
from mmo.checkpoint import stage_file
from mmo.codec import Codec
from mmo.examination import Item, read_items
from mmo.features import encode_items
from mmo.fixed_prompts import STYLE, cell, prompts_folder, read_voices, write_json
from mmo.generation import Answer, Generator, Prompt
from mmo.held_out import part_file, set_aside
from mmo.omni import load_model
from mmo.profiles import Profile
from mmo.training import Encoders, default_encoders

COUNT = 4  # of each kind
SEED = 2000  # the n-th input's is so much more; pictures count on from the sounds
KINDS = {"a2a": ("heard",), "i2t": ("heard", "seen")}  # what a stage's weights can take
ROWS = {"heard": ("a2a", "question_audios"), "seen": ("i2t", "image_bytes")}  # whose held-out rows, and the column


@dataclass(frozen=True)
class FixedInput:
    """One sound or picture.  name: heard-1, …, seen-4.  data: as the row has it, encoded.  number: 0, 1, …, over both kinds."""

    name: str
    number: int
    data: bytes
    item: Item

    @property
    def heard(self) -> bool:
        return self.name.startswith("heard")

    @property
    def file(self) -> str:
        """Its name with the ending that its content has."""
        if self.heard:
            return f"{self.name}.{soundfile.info(io.BytesIO(self.data)).format.lower()}"
        return f"{self.name}.{Image.open(io.BytesIO(self.data)).format.lower()}"


def read_inputs(profile: Profile, stage: str) -> list[FixedInput]:
    """What is put to a stage's weights: rows set aside for testing, evenly spread.  None after T2A.

    Raises DataError where the rows are missing, or one of them cannot be used.
    """
    found = []
    for kind in KINDS.get(stage, ()):
        rows, column = ROWS[kind]
        set_aside(profile, (rows,))
        items = read_items(part_file(profile, rows, "test"), profile.model, (column,))
        usable = [(data, item) for item in items if (data := item.question_sound if kind == "heard" else item.picture)]
        chosen = measures.spread(usable, COUNT)
        found += [FixedInput(f"{kind}-{n + 1}", n + COUNT * (kind == "seen"), *pair) for n, pair in enumerate(chosen)]
    return found


def features_of(inputs: Sequence[FixedInput], encoders: Encoders) -> list[Tensor]:
    """What the frozen encoders make of them, undisturbed: (N, D) each.  Raises FileNotFoundError where an encoder is missing."""
    found: dict[str, Tensor] = {}
    for heard, frozen, what in ((True, encoders.speech, "spoken questions"), (False, encoders.vision, "pictures")):
        own = [each for each in inputs if each.heard == heard]
        if own and frozen is None:
            raise FileNotFoundError(f"no encoder for {what}: `mmo doctor` says what is missing")
        features = encode_items([frozen.decode(each.data) for each in own], frozen) if own else []
        found |= {each.name: torch.from_numpy(value.astype("float32")) for each, value in zip(own, features, strict=True)}
    return [found[each.name] for each in inputs]


def as_prompts(inputs: Sequence[FixedInput], features: Sequence[Tensor], tokenizer: ChatTokenizer, voices: Sequence[Tensor], image_length: int) -> list[Prompt]:
    """Sounds without a word, pictures with their row's question; voices take turns."""
    prompts = []
    for each, value in zip(inputs, features, strict=True):
        if each.heard:
            content, fed = user_content(sound_length=len(value)), {"audio_features": value}
        else:
            content, fed = user_content(each.item.question, pictures=1, image_length=image_length), {"image_features": value}
        ids = tokenizer.prompt([{"role": "user", "content": content}])
        prompts.append(Prompt(ids, speaker=voices[each.number % len(voices)], seed=SEED + each.number, **fed))
    return prompts


# --- Keeping what was said -------------------------------------------------------------------------------------------


def keep_replies(profile: Profile, stage: str, run_dir: Path, encoders: Encoders | None = None) -> Path | None:
    """Put the fixed sounds and pictures to a stage's finished weights and keep what they say; returns the page, None after T2A.

    Raises FileNotFoundError or ValueError where something that it needs is missing: training needs no codec.
    """
    inputs, device = read_inputs(profile, stage), profile.device()
    if not inputs:
        return None
    model = load_model(stage_file(run_dir, stage))
    codec = Codec.load(profile.codec_file, device, profile.model.num_codebooks)
    if device.type == "cuda":
        model = model.to(device, profile.dtype(device))
    tokenizer, voices = ChatTokenizer.load(profile.tokenizer_dir), list(read_voices(profile).values())
    features = features_of(inputs, encoders or default_encoders(profile, device))
    prompts = as_prompts(inputs, features, tokenizer, voices, profile.model.image_token_len)
    answers = Generator(model, codec, tokenizer, profile.decoding).generate_batch(prompts)
    write_replies(run_dir, stage, inputs, answers)
    return write_page(run_dir)


def was_asked(run_dir: Path, stage: str) -> bool:
    """Whether a stage's finished weights have answered all the fixed prompts, sounds and pictures that are put to them."""
    kept = [prompts_folder(run_dir, stage) / name for name in ("said.json", *(["replies.json"] if stage in KINDS else []))]
    made = stage_file(run_dir, stage).stat().st_mtime_ns
    return all(file.is_file() and file.stat().st_mtime_ns >= made for file in kept)


def write_replies(run_dir: Path, stage: str, inputs: Sequence[FixedInput], answers: Sequence[Answer]) -> None:
    """The inputs as they are, NAME.wav for each answer that has a sound, and replies.json; what an earlier call left there goes."""
    folder, given = prompts_folder(run_dir, stage), run_dir / "prompts" / "inputs"
    for each in (folder, given):
        each.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("heard-*.wav"), *folder.glob("seen-*.wav"), folder / "replies.json"]:
        stale.unlink(missing_ok=True)
    said = []
    for each, answer in zip(inputs, answers, strict=True):
        (given / each.file).write_bytes(each.data)
        sound = f"{each.name}.wav" if len(answer.samples) else None
        if sound:
            soundfile.write(folder / sound, answer.samples.clip(-1, 1), answer.sample_rate, subtype="PCM_16")
        said.append({
            "name": each.name, "input": each.file, "question": each.item.question.replace(IMAGE_MARK, "").strip(), "recorded": each.item.truth,
            "answer": answer.text, "frames": answer.codes.shape[1], "runaway": answer.runaway, "sound": sound, "heard": None,
        })  # fmt: skip
    write_json(folder / "replies.json", {"weights": stage_file(run_dir, stage).name, "answers": said})


def write_page(run_dir: Path) -> Path:
    """prompts/inputs.html: a row for each sound and picture, a column for each stage that took it, and the recorded answer."""
    found = {}
    for stage in KINDS:
        file = prompts_folder(run_dir, stage) / "replies.json"
        if file.is_file():
            found[stage] = {each["name"]: each for each in json.loads(file.read_text(encoding="utf-8"))["answers"]}
    told = {name: each for answers in found.values() for name, each in answers.items()}
    rows = "".join(
        f"<tr><td>{shown(each)}</td><td>{html.escape(each['recorded'])}</td>" + "".join(cell(stage, answers.get(name)) for stage, answers in found.items()) + "</tr>"
        for name, each in told.items()
    )
    head = "".join(f"<th>after {stage}</th>" for stage in found)
    page = run_dir / "prompts" / "inputs.html"
    page.write_text(
        f"<!doctype html><meta charset='utf-8'><title>Fixed sounds and pictures</title>{STYLE}<h1>Fixed sounds and pictures · {html.escape(run_dir.name)}</h1>"
        f"<table><tr><th></th><th>the recorded answer</th>{head}</tr>{rows}</table>\n",
        encoding="utf-8",
    )
    return page


def shown(told: dict) -> str:
    """A sound to play or a picture, and the question in words where the row has it."""
    place = f"inputs/{told['input']}"
    given = f"<audio controls src='{place}'></audio>" if told["name"].startswith("heard") else f"<img src='{place}' width='160' alt=''>"
    return given + (f"<div class='heard'>{html.escape(told['question'])}</div>" if told["question"] else "")
