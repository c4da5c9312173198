"""The examination room: test items, the candidate that answers them, the ear that collects what is said.

    exam = Exam(profile, SIZES["full"])
    candidate = Candidate(weights, exam)
    answers = candidate.answer(exam.text_prompts(items), "t2a", speech=True)
    ear = Ear(); ear.add("t2a.model", [answer.samples for answer in answers]); ear.listen(exam.judge, workers=2)

What is asked of whom, and marked against what, stands in evaluation.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo import measures
from mmo.augmentation import change_speed
from mmo.chat import IMAGE_MARK, ChatTokenizer, user_content
from mmo.codec import Codec
from mmo.config import Decoding, ModelConfig
from mmo.features import SAMPLE_RATE, Frozen, encode_items
from mmo.generation import Answer, Generator, Prompt
from mmo.held_out import set_aside
from mmo.judge import Judge, Sound, Transcriber
from mmo.omni import OmniModel, load_model
from mmo.profiles import STAGES, Profile
from mmo.rows import DataError, check_columns, parse_conversation
from mmo.sequence import frames
from mmo.training import Encoders, default_encoders
from mmo.twin import Precision

TIERS = ("sentence", "pair", "fact")
OPEN_WORLD = (
    "No words.txt, so this is no closed world: an answer counts as right where it has exactly its row's words, though others may be as good. "
    "Where words are sorted into sizes, colours, shapes and places, only the tiny world's are known."
)


@dataclass(frozen=True)
class Sizes:
    """How many items each figure is taken from (as far as the test files have them)."""

    sentences: int = 160  # tier `sentence`, each in every answer voice
    rare: int = 30  # tiers `pair` and `fact`, each in every answer voice
    questions: int = 300
    pictures: int = 300
    rare_inputs: int = 60  # questions and pictures of tiers `pair` and `fact`
    spoken: int = 100  # of the questions and of the pictures: answered aloud, too
    swapped: int = 150
    controls: int = 60
    stage: int = 60  # of each task, after each stage
    stage_spoken: int = 24
    streamed: int = 10
    prompts: int = 20  # of the fixed ones, after each stage (open questions only)


SIZES = {"full": Sizes(), "smoke": Sizes(*[6, 3, 12, 12, 6, 6, 12, 6, 8, 4, 3, 6]), "rehearse": Sizes(*[4, 0, 4, 4, 0, 2, 4, 2, 4, 2, 1, 3])}


# --- Test items --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One test row."""

    question: str
    truth: str
    tier: str
    kind: str
    voice: str  # who speaks: the recorded answer (T2A), or the question (A2A)
    question_sound: bytes | None = None
    picture: bytes | None = None
    codes: Tensor | None = None  # (Q, F), the recorded answer
    reference: Tensor | None = None  # (Q, F), another sound in the voice of the recorded answer
    uncoded: bytes | None = None  # the recorded answer as it was before the codec
    speaker: Tensor | None = None  # (S,)


def read_items(path: Path, config: ModelConfig, needs: Sequence[str] = ()) -> list[Item]:
    """The rows of a test file.  Raises DataError naming file, and row or column, where one cannot be used."""
    check_columns(path, needs)
    wanted = ("conversations", "question_audios", "answer_audios", "image_bytes", "ref_audios", "spk_emb", "tier", "kind", "voice", "answer_sound")
    there = set(pq.read_schema(path).names)
    items = []
    for number, row in enumerate(pq.read_table(path, columns=[name for name in wanted if name in there]).to_pylist()):
        try:
            items.append(item_of(row, config))
            for name in needs:
                if not row[name] or name == "answer_audios" and not row[name][0]:
                    raise ValueError(f"{name} is empty")
            if "spk_emb" in needs and not any(row["spk_emb"]):  # to nobody's voice no answer can be like
                raise ValueError("spk_emb is all zeros: nobody's voice")
        except (ValueError, TypeError) as error:  # the latter: a null among numbers
            raise DataError(f"{path.name}, row {number}: {error}") from error
    return items


def item_of(row: dict, config: ModelConfig) -> Item:
    """One row as an item: its first question and what was answered, since it is asked without anything before it.  Raises ValueError."""
    turns = parse_conversation(row["conversations"])
    answer = [turn["role"] for turn in turns].index("assistant")
    asked = [turn["content"] for turn in turns[:answer] if turn["role"] == "user"]
    sounds, pictures = row.get("question_audios") or [], row.get("image_bytes")
    pictures = pictures if isinstance(pictures, list) else [pictures] if pictures else []
    if row.get("spk_emb") and len(row["spk_emb"]) != config.spk_emb_size:
        raise ValueError(f"spk_emb has {len(row['spk_emb'])} values, the model's vectors have {config.spk_emb_size}")
    codes, reference, speaker = (row.get("answer_audios") or [None])[0], row.get("ref_audios"), row.get("spk_emb")
    question = asked[-1]
    if question.count(IMAGE_MARK) != len(pictures):  # marks that are not the pictures' say nothing; training leaves them out, too
        question = question.replace(IMAGE_MARK, "").strip()
    return Item(
        question=question,
        truth=turns[answer]["content"],
        tier=row.get("tier") or "sentence",
        kind=row.get("kind") or "",
        voice=row.get("voice") or "",
        question_sound=sounds[len(asked) - 1] if len(sounds) >= len(asked) else None,
        picture=pictures[0] if len(pictures) == 1 else None,
        codes=frames(codes, config.num_codebooks, config.num_codes) if codes else None,
        reference=frames(reference, config.num_codebooks, config.num_codes) if reference else None,
        uncoded=row.get("answer_sound"),
        speaker=torch.tensor(speaker, dtype=torch.float32) if speaker else None,
    )


def of_tier(items: Sequence[Item], tier: str) -> list[Item]:
    return [item for item in items if item.tier == tier]


def spread_voices(items: Sequence[Item], sentences: int) -> list[Item]:
    """`sentences` different truths, evenly spread, each with all its voices; those with uncoded speech go first."""
    by_truth: dict[str, list[Item]] = {}
    for item in items:
        by_truth.setdefault(item.truth, []).append(item)
    recorded = [truth for truth, group in by_truth.items() if all(item.uncoded for item in group)]
    others = [truth for truth in by_truth if truth not in set(recorded)]
    chosen = measures.spread(recorded, sentences)
    chosen += measures.spread(others, sentences - len(chosen))
    return [item for truth in chosen for item in by_truth[truth]]


def from_each_voice(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items (or all), evenly spread within each voice: where voices take turns, every other item would be one voice's."""
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item.voice, []).append(place)
    chosen, before, count = [], 0, min(count, len(items))
    for places in groups.values():  # each voice's share, as it has items
        until = before + len(places)
        chosen += measures.spread(places, until * count // len(items) - before * count // len(items))
        before = until
    return [items[place] for place in sorted(chosen)]


# --- Ear ---------------------------------------------------------------------------------------------------------


@dataclass
class Ear:
    """Collects everything that is to be heard, so that the judge's processes start for all of it and one bar shows it.

    soon: hears a sound while others are still to come (`Judge.beside`); what it has no time for is heard at the end, with the rest.
    """

    sounds: dict[str, list[Sound]] = field(default_factory=dict)
    heard: dict[str, list[str]] = field(default_factory=dict)
    soon: Callable[[Sound], Future[str]] | None = None
    early: dict[tuple[str, int], Future[str]] = field(default_factory=dict)

    def add(self, name: str, waves: Sequence[np.ndarray], rate: int = 24_000) -> None:
        """Samples (N,) each, under a name of their own."""
        if name in self.sounds:
            raise ValueError(f"sounds named {name} are there already")
        self.sounds[name] = [(wave, rate) for wave in waves]
        if self.soon:
            self.early |= {(name, number): self.soon(sound) for number, sound in enumerate(self.sounds[name])}

    def listen(self, judge: Transcriber, workers: int) -> None:
        """Let the judge hear all that nobody has heard yet, the longest first; sounds are given away.  After `soon`'s block, where there is one."""
        if any(has_died(future) for future in self.early.values()):
            tqdm.write("The judge's process beside the model died (too little memory?); what it had not heard is heard now.")
        found = {place: future.result() for place, future in self.early.items() if not future.cancelled() and not has_died(future)}
        left = [(name, number) for name, sounds in self.sounds.items() for number in range(len(sounds)) if (name, number) not in found]
        left.sort(key=lambda place: -len(self.sounds[place[0]][place[1]][0]))
        with tqdm(total=len(found) + len(left), initial=len(found), desc="judge listens", unit="sound") as bar:
            texts = judge.transcribe([self.sounds[name][number] for name, number in left], workers, bar.update)
        found |= zip(left, texts, strict=True)
        self.heard = {name: [found[name, number] for number in range(len(sounds))] for name, sounds in self.sounds.items()}
        self.sounds, self.early = {}, {}

    def __getitem__(self, name: str) -> list[str]:
        return self.heard[name]

    def __contains__(self, name: str) -> bool:
        return name in self.heard


def has_died(future: Future[str]) -> bool:
    """Whether the process that should hear a sound died before it had."""
    return not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


# --- Figures of one task -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoken:
    """A task's items and the model's spoken answers to them."""

    name: str
    items: list[Item]
    answers: list[Answer]

    def figures(self, ear: Ear, pace: dict[str, float], seed: int) -> dict:
        """All figures of the task, and of each answer voice."""
        everyone = list(range(len(self.items)))
        found = self.figures_of(everyone, ear, pace, seed)
        voices = sorted({item.voice for item in self.items}) if f"{self.name}.codec" in ear else []
        if len(voices) > 1:
            found["voices"] = {
                voice: self.figures_of([n for n in everyone if self.items[n].voice == voice], ear, pace, seed) for voice in voices
            }
        return found

    def figures_of(self, places: list[int], ear: Ear, pace: dict[str, float], seed: int) -> dict:
        """The figures of some of the items.  pace: see `stopped_early`, by voice ("" where the voice is unknown)."""
        texts = [self.answers[n].text for n in places]
        truths = [self.items[n].truth for n in places]
        heard = [ear[f"{self.name}.model"][n] for n in places]
        errors = measures.word_errors(texts, heard)
        right = [measures.same_words(*pair) for pair in zip(texts, truths)]
        spoken = [measures.same_words(*pair) for pair in zip(heard, truths)]
        content = [measures.same_content(*pair) for pair in zip(heard, truths)]
        answers = [self.answers[n] for n in places]
        early = [
            measures.stopped_early(answer.text, answer.codes.shape[1], pace.get(self.items[n].voice, pace[""]))
            for n, answer in zip(places, answers)
        ]
        found = {
            "answers": len(places),
            "answer_accuracy": measures.share(right),
            "answer_accuracy_interval": measures.share_interval(right, seed, truths),  # by sentence: each voice is asked for the same ones
            "wer": errors.wer,
            "wer_interval": errors.interval(seed, truths),
            "wer_insertions": errors.insertions,
            "wer_deletions": errors.deletions,
            "wer_substitutions": errors.substitutions,
            "spoken_accuracy": measures.share(spoken),
            "spoken_accuracy_interval": measures.share_interval(spoken, seed, truths),
            "spoken_accuracy_content": measures.share(content),
            "runaways": measures.share([not answer.stopped or not answer.text_ended for answer in answers]),
            "early_stops": measures.share(early),
        }
        for suffix, source in (("codec_ceiling", "codec"), ("judge_floor", "uncoded")):
            if f"{self.name}.{source}" in ear:
                found |= reference_figures(truths, [ear[f"{self.name}.{source}"][n] for n in places], suffix, seed)
        return found


def reference_figures(truths: Sequence[str], heard: Sequence[str], suffix: str, seed: int) -> dict:
    """What the judge makes of recorded answers: the same figures, named `…_<suffix>`."""
    errors = measures.word_errors(truths, heard)
    return {
        f"wer_{suffix}": errors.wer,
        f"wer_{suffix}_interval": errors.interval(seed, truths),
        f"spoken_accuracy_{suffix}": measures.share([measures.same_words(*pair) for pair in zip(heard, truths)]),
        f"spoken_accuracy_content_{suffix}": measures.share([measures.same_content(*pair) for pair in zip(heard, truths)]),
    }


def read_uncoded(data: bytes) -> tuple[np.ndarray, int]:
    """Encoded recorded speech -> samples (N,) and rate."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return samples, rate


# --- The model under examination ---------------------------------------------------------------------------------


class Candidate:
    """A checkpoint, or a model, that answers test items: text, speech, and progress shown."""

    def __init__(self, weights: Path | OmniModel, exam: Exam) -> None:
        model = weights.eval() if isinstance(weights, OmniModel) else load_model(weights)
        model = model.to(exam.device) if exam.precision else model.to(exam.device, exam.dtype)  # a precision is made of the weights as they are
        self.exam = exam
        self.generator = Generator(model, exam.codec, exam.tokenizer, exam.decoding, precision=exam.precision)

    def answer(self, prompts: Sequence[Prompt], what: str, speech: bool, decoding: Decoding | None = None) -> list[Answer]:
        """Answers in the order of the prompts; with speech, their samples too.  decoding: by default the exam's."""
        with tqdm(total=len(prompts), desc=what, unit="answer") as bar:
            return self.generator.generate_batch(prompts, decoding, speech=speech, sound=speech, progress=bar.update)

    def texts(self, prompts: Sequence[Prompt], what: str) -> list[str]:
        return [answer.text for answer in self.answer(prompts, what, speech=False)]


class Exam:
    """The test items of a profile, as prompts.

    encoders, judge, decoding: other ones than the profile's, for tests and experiments.  stages: the kinds of items to read.
    precision: of the weights (twin.py).
    """

    def __init__(
        self,
        profile: Profile,
        sizes: Sizes,
        seed: int = 0,
        encoders: Encoders | None = None,
        judge: Transcriber | None = None,
        decoding: Decoding | None = None,
        stages: Sequence[str] = STAGES,
        precision: Precision | None = None,
    ) -> None:
        self.profile, self.sizes, self.seed, self.precision = profile, sizes, seed, precision
        self.decoding = decoding or profile.decoding
        self.device = profile.device()
        # bf16 where the device is made for it; a small model on a CPU decodes no faster with it
        self.dtype = profile.dtype(self.device) if self.device.type == "cuda" else torch.float32
        self.config = profile.model
        self.tokenizer = ChatTokenizer.load(profile.tokenizer_dir)
        if not (profile.data_dir / "words.txt").is_file():
            tqdm.write(OPEN_WORLD)
        self.codec = Codec.load(profile.codec_file, self.device, self.config.num_codebooks)
        self._judge = judge
        self.encoders = encoders or default_encoders(profile, self.device)
        set_aside(profile, tuple(stages))
        needs = {"t2a": ("answer_audios", "spk_emb"), "a2a": ("question_audios",), "i2t": ("image_bytes",)}
        items = {stage: read_items(profile.data_dir / f"{stage}-test.parquet", self.config, needs[stage]) for stage in stages}
        self.said = items.get("t2a", [])
        self.asked = [item for item in items.get("a2a", []) if item.question_sound]
        self.shown = [item for item in items.get("i2t", []) if item.picture]  # rows with several pictures are not asked

    @cached_property
    def judge(self) -> Transcriber:
        """Made when something is to be heard: a notebook that only reads texts needs none."""
        if self._judge:
            return self._judge
        if self.profile.judge_dir is None:
            return Judge.from_file(self.profile.data_dir / "words.txt")
        from mmo.whisper_judge import WhisperJudge  # transformers takes seconds

        return WhisperJudge.load(self.profile.judge_dir, self.device, self.profile.judge_language)

    def heard(self, answers: Sequence[Answer]) -> list[str]:
        """What the judge writes down of each answer; nothing at all, and it is said why, where the profile's judge is not fetched."""
        try:
            judge = self.judge
        except FileNotFoundError as error:
            tqdm.write(f"Nobody listens: {error}")
            return []
        return judge.transcribe([(answer.samples, answer.sample_rate) for answer in answers], workers=1)

    @cached_property
    def split(self) -> measures.Split:
        """Text -> the words that the judge is held to."""
        return measures.words if self.profile.judge_dir is None else self.judge.split

    @cached_property
    def voices(self) -> dict[str, Tensor]:
        """Speaker vector of each answer voice, in the order of names."""
        found = {item.voice: item.speaker for item in reversed(self.said)}
        return {name: found[name] for name in sorted(found)}

    @cached_property
    def pace(self) -> dict[str, float]:
        """Codec frames a letter takes in recorded answers, by voice; under "" that of all of them."""
        groups = {"": self.said} | {voice: [item for item in self.said if item.voice == voice] for voice in self.voices}
        return {
            voice: measures.frames_per_letter([item.truth for item in group], [item.codes.shape[1] for item in group])
            for voice, group in groups.items()
        }

    def prompt(self, content: str, number: int, speaker: Tensor | None = None, **features) -> Prompt:
        """A prompt whose user turn is `content`; without a speaker, the answer voices take turns."""
        if speaker is None:
            speaker = list(self.voices.values())[number % len(self.voices)]
        ids = self.tokenizer.prompt([{"role": "user", "content": content}])
        return Prompt(ids, speaker=speaker, seed=self.seed + number, **features)

    def text_prompts(self, items: Sequence[Item]) -> list[Prompt]:
        return [self.prompt(user_content(item.question), n, item.speaker) for n, item in enumerate(items)]

    def sound_prompts(self, features: Sequence[Tensor]) -> list[Prompt]:
        """Prompts that are only heard.  features: (N, D) each."""
        return [self.prompt(user_content(sound_length=len(each)), n, audio_features=each) for n, each in enumerate(features)]

    def heard_prompts(self, items: Sequence[Item], augmented: bool = False) -> list[Prompt]:
        """Prompts of spoken questions, each heard at every speed of `Decoding.hearings`."""
        first, *others = (self.sound_prompts(self.hear(items, augmented, speed)) for speed in self.decoding.hearings)
        return [replace(prompt, again=tuple(again)) for prompt, *again in zip(first, *others, strict=True)]

    def picture_prompts(self, items: Sequence[Item], features: Sequence[Tensor]) -> list[Prompt]:
        """Prompts with a picture.  features: (P, D) each."""
        length = self.config.image_token_len
        return [
            self.prompt(user_content(item.question, pictures=1, image_length=length), n, image_features=each)
            for n, (item, each) in enumerate(zip(items, features, strict=True))
        ]

    def seen_prompts(self, items: Sequence[Item]) -> list[Prompt]:
        """Prompts with a picture, seen at every look of `Decoding.looks`."""
        first, *others = (self.see(items, look) for look in self.decoding.looks)
        prompts = self.picture_prompts(items, first)
        return [replace(prompt, looks=looks) for prompt, looks in zip(prompts, zip(*others), strict=True)] if others else prompts

    def encode(
        self, cells: Sequence[bytes], frozen: Frozen | None, what: str, augmented: bool, otherwise: Callable | None = None
    ) -> list[Tensor]:  # fmt: skip
        """Features of encoded sounds or pictures; `augmented`: disturbed as in training, but always the same way.  otherwise: what is done to each then."""
        if frozen is None:
            raise FileNotFoundError(f"no encoder for {what}: `mmo doctor` says what is missing")
        items = [frozen.decode(cell) for cell in cells]
        if augmented and frozen.augment:
            items = [frozen.augment(item, np.random.default_rng((self.seed, n))) for n, item in enumerate(items)]
        if otherwise:
            items = [otherwise(item) for item in items]
        return [torch.from_numpy(np.array(each, np.float32)) for each in encode_items(items, frozen)]

    def hear(self, items: Sequence[Item], augmented: bool = False, speed: float = 1.0) -> list[Tensor]:
        """Speech features of spoken questions, played at `speed`."""
        otherwise = None if speed == 1.0 else lambda sound: change_speed(sound, speed, SAMPLE_RATE, SAMPLE_RATE)
        return self.encode([item.question_sound for item in items], self.encoders.speech, "spoken questions", augmented, otherwise)

    def see(self, items: Sequence[Item], look: tuple[float, float] = (0.0, 0.0)) -> list[Tensor]:
        """Patch features of pictures, with the noise that the world lays over them at load, and then moved (down, right)."""
        from mmo.vision_encoder import moved  # transformers takes seconds

        otherwise = None if look == (0.0, 0.0) else lambda picture: moved(picture, *look)
        return self.encode([item.picture for item in items], self.encoders.vision, "pictures", augmented=True, otherwise=otherwise)
