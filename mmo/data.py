"""From rows of data files to batches of nine streams.

    Corpus      files, opened (rows.py) and their frozen features (features.py)
    realise     one row + one set of draws -> Example: the conversation as this epoch sees it, laid out by sequence.py
    Batches     seeded, endless, length-bucketed batches of several corpora, mixed by shares; resumable at any batch
    collate     examples -> Batch, padded on the right to the longest of them

**Draws** (config.Draws: question as sound or text, reference dropped, scheduled sampling, …) come from a generator
seeded by (seed, corpus, epoch, row), so what a row looks like depends on nothing that happened before.

**Length buckets.**  Rows are realised a chunk at a time, sorted by length, cut into batches under a budget of
positions, and the batches shuffled.  Causal attention needs no mask for padding on the right, so a batch costs its
longest row, and rows of like length waste almost nothing.  Position in training is two numbers: chunk, and batch in it.

Letters: B batch, T positions, Q codebooks, N speech features, P picture patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmo.chat import IMAGE_MARK, ChatTokenizer, think_block, user_content
from mmo.config import IGNORE, Draws, ModelConfig
from mmo.features import FeatureStore
from mmo.omni import carry
from mmo.rows import BadRow, DataError, PackedRows, RawRow, files_of
from mmo.sequence import THINK_WINDOW, Markers, Row, build_row, frames

EMPTY_THINK = think_block("")
PICTURE_PLACES = (("before", "\n"), ("before", "\n\n"), ("behind", "\n"), ("behind", "\n\n"))
PICTURE_SHARES = (0.2, 0.2, 0.2, 0.4)


# --- Corpus ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataFile:
    """One file: its packed rows, and the features of its sounds and pictures where the task uses them."""

    rows: PackedRows
    sounds: FeatureStore | None = None
    pictures: FeatureStore | None = None
    held_out: frozenset[int] = frozenset()  # numbers of rows that were set aside (held_out.py)

    def bad(self) -> list[BadRow]:
        """Rows that were left out, each once."""
        found = {}
        for part in (self.rows, self.sounds, self.pictures):
            for row in [] if part is None else part.bad:
                found.setdefault(row.row, row)
        return [found[number] for number in sorted(found)]

    def seen(self) -> dict[str, str]:
        """What is learnt from here, by name, each with a checksum: the file, and the features with all that made them."""
        stores = [store for store in (self.sounds, self.pictures) if store is not None]
        return {self.rows.source.name: self.rows.key} | {features_of(self.rows.source, store.made.column): store.made.key() for store in stores}

    def usable(self) -> np.ndarray:
        """Indices of the packed rows whose sounds and pictures could be read, too, without those set aside."""
        numbers = self.rows.numbers()
        return np.flatnonzero(~np.isin(numbers, [*(row.row for row in self.bad()), *self.held_out]))


class Corpus:
    """All usable rows of some files under one numbering, and how they are drawn."""

    def __init__(self, files: Sequence[DataFile], draws: Draws, system_prompts: Sequence[str] = ()) -> None:
        self.files = list(files)
        self.draws = draws
        self.system_prompts = tuple(system_prompts)
        self.usable = [file.usable() for file in self.files]
        self.starts = np.cumsum([0] + [len(rows) for rows in self.usable])
        if not len(self):
            names = ", ".join(str(file.rows.source) for file in self.files) or "no file"
            raise DataError(f"no usable row in {names}; {sum(len(file.bad()) for file in self.files)} bad ones")
        if draws.system_prompt and not system_prompts:
            raise ValueError("draws.system_prompt is set, but there are no system prompts to draw from")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def bad(self) -> list[BadRow]:
        """Rows of all files that were left out."""
        return [row for file in self.files for row in file.bad()]

    def locate(self, index: int) -> tuple[DataFile, RawRow]:
        """File and row behind a number."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        file = self.files[number]
        return file, file.rows[int(self.usable[number][index - self.starts[number]])]


# --- One row -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One row, drawn and laid out."""

    row: Row
    name: str  # file and row, for messages
    speaker: np.ndarray  # (S,) or empty
    sound: np.ndarray  # (N, D) or (0, D)
    pictures: tuple[np.ndarray, ...]  # (P, D) each

    @property
    def length(self) -> int:
        return self.row.input_ids.shape[1]


@dataclass(frozen=True)
class Layout:
    """What turning rows into streams needs besides the rows; the same for all of a run."""

    config: ModelConfig
    tokenizer: ChatTokenizer
    max_length: int
    markers: Markers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "markers", Markers.from_tokenizer(self.tokenizer))


def realise(corpus: Corpus, index: int, copy: int, rng: np.random.Generator, layout: Layout) -> Example:
    """Row `index` of the corpus with the draws of `rng`; `copy` says which version of its features.

    Raises DataError naming file and row where the layout cannot be made.
    """
    file, raw = corpus.locate(index)
    name = f"{raw.file}, row {raw.row}"
    draws, config = corpus.draws, layout.config
    turns, last_answer = cut_conversation(raw.conversation, rng)
    asked = sum(turn["role"] == "user" for turn in turns) - 1  # number of the last question
    none = np.empty((0, 0), np.float16)
    sound = file.sounds.get(raw.row, asked, copy) if file.sounds else none
    pictures = stored_pictures(file.pictures, raw.row, copy)
    if not any(is_marked(turns)) and any(is_marked(raw.conversation)):
        pictures = ()  # they belong to a question behind the cut
    try:
        text, heard, shown = render(turns, len(sound), len(pictures), draws, corpus.system_prompts, rng, layout)
        codes = raw.answers[last_answer] if last_answer < len(raw.answers) else None
        if draws.silent and rng.random() < draws.silent:
            codes = None
        keep = draws.drop_reference <= rng.random()
        row = build_row(
            layout.tokenizer.encode(text),
            None if codes is None else frames(codes.astype(np.int64), config.num_codebooks),
            config,
            layout.markers,
            ref_codes=frames(raw.reference.astype(np.int64), config.num_codebooks) if keep else None,
            has_speaker=len(raw.speaker) > 0,
            max_length=layout.max_length + 1,  # the shift by one takes a position
        )
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    row = disturb(row, draws, rng, config)
    return Example(row, name, raw.speaker, sound if heard else sound[:0], pictures[:shown])


def is_marked(turns: list[dict]) -> Iterator[bool]:
    """Of each question, whether it says where a picture stands."""
    return (IMAGE_MARK in turn["content"] for turn in turns if turn["role"] == "user")


def cut_conversation(turns: list[dict], rng: np.random.Generator) -> tuple[list[dict], int]:
    """Up to a random answer, if there are several: the turns, and the number of that answer."""
    answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    number = int(rng.integers(len(answers))) if len(answers) > 1 else 0
    return turns[: answers[number] + 1], number


def stored_pictures(store: FeatureStore | None, row: int, copy: int) -> tuple[np.ndarray, ...]:
    """Features of a row's pictures."""
    if store is None:
        return ()
    found = (store.get(row, number, copy) for number in range(store.count(row)))
    return tuple(features for features in found if len(features))


def render(
    turns: list[dict],
    sound_length: int,
    num_pictures: int,
    draws: Draws,
    system_prompts: Sequence[str],
    rng: np.random.Generator,
    layout: Layout,
) -> tuple[str, bool, int]:
    """The conversation as text with placeholders; whether the sound is in it; how many pictures are in it."""
    contents = [turn["content"] for turn in turns]
    users = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    form, place_of_sound = rng.random(), rng.random()
    heard = sound_length > 0 and not draws.question[0] <= form < draws.question[0] + draws.question[1]
    if heard and form < draws.question[0]:
        if draws.write_down and rng.random() < draws.write_down:
            contents[-1] = written_down(contents[users[-1]], layout.tokenizer) + contents[-1]
        contents[users[-1]] = "\n".join([IMAGE_MARK] * contents[users[-1]].count(IMAGE_MARK))  # the words are only spoken
    left = num_pictures
    unmarked = not any(IMAGE_MARK in contents[place] for place in users)
    for place in users:
        marks = left if unmarked and place == users[0] else min(left, contents[place].count(IMAGE_MARK))
        left -= marks
        length = sound_length if heard and place == users[-1] else 0
        contents[place] = user_turn(contents[place], length, marks, draws, place_of_sound, rng, layout.config)
    messages = [{"role": turn["role"], "content": content} for turn, content in zip(turns, contents, strict=True)]
    if messages[0]["role"] != "system" and rng.random() < draws.system_prompt:
        messages.insert(0, {"role": "system", "content": system_prompts[rng.integers(len(system_prompts))]})
    text = layout.tokenizer.render(messages, add_generation_prompt=False)
    if EMPTY_THINK in text and rng.random() >= draws.empty_think:
        text = text.replace(EMPTY_THINK, "")
    return text, heard, num_pictures - left


def written_down(question: str, tokenizer: ChatTokenizer) -> str:
    """A question's words as a think block; "" where they are too many: the answer's sound must find the block's end (`THINK_WINDOW`)."""
    block = think_block(question.replace(IMAGE_MARK, "").strip())
    return block if len(tokenizer.encode(block)) <= THINK_WINDOW else ""


def user_turn(
    content: str,
    sound_length: int,
    pictures: int,
    draws: Draws,
    place_of_sound: float,
    rng: np.random.Generator,
    config: ModelConfig,
) -> str:
    """One user turn with its placeholders; a single picture may move (Draws.picture_moves)."""
    if pictures != content.count(IMAGE_MARK) or pictures == 1:
        content = content.replace(IMAGE_MARK, "").strip()
    if pictures == 1:
        where = rng.choice(len(PICTURE_PLACES), p=PICTURE_SHARES) if draws.picture_moves else 0
        side, gap = PICTURE_PLACES[where]
        parts = [IMAGE_MARK, *([content] if content else [])]
        content = gap.join(parts if side == "before" else reversed(parts))
    return user_content(
        content, sound_length, pictures, config.image_token_len, sound_last=place_of_sound < draws.sound_last
    )


def disturb(row: Row, draws: Draws, rng: np.random.Generator, config: ModelConfig) -> Row:
    """Replace some of the answer's history: scheduled sampling, and stretches hidden from the Talker."""
    if not (draws.random_codes or draws.random_text or draws.hidden_history):
        return row
    ids = row.input_ids.numpy().copy()
    codes, text = ids[:-1], ids[-1]
    Q, T = codes.shape
    spoken = (row.audio_labels != IGNORE).any(dim=0).numpy()
    if spoken.any():
        hide_history(codes, spoken, draws, rng, config)
        replaced = spoken & (rng.random(T) < draws.random_codes)
        codes[:, replaced] = rng.integers(config.audio_vocab_size, size=(Q, int(replaced.sum())))
    if draws.random_text:
        written = (row.text_labels != IGNORE).numpy() & (rng.random(T) < draws.random_text)
        written[: np.argmax(row.text_labels.numpy() != IGNORE) + 1] = False  # the template's last newline is no history
        drawn = rng.integers(config.vocab_size, size=T)
        written &= ~np.isin(drawn, (*config.audio_ids, *config.image_ids))  # a stray placeholder would look for a feature
        text[written] = drawn[written]
    return replace(row, input_ids=torch.from_numpy(ids))


def hide_history(codes: np.ndarray, spoken: np.ndarray, draws: Draws, rng: np.random.Generator, config: ModelConfig) -> None:
    """In place, codes (Q, T): stretches of history become pad or random codes, hidden_history of `spoken` in all."""
    low, high = draws.hidden_length
    starts = np.flatnonzero(spoken & (rng.random(len(spoken)) < draws.hidden_history / ((low + high) / 2)))
    for start in starts:
        stretch = np.arange(start, min(start + rng.integers(low, high + 1), len(spoken)))
        stretch = stretch[spoken[stretch]]
        if rng.random() < 0.5:
            codes[:, stretch] = config.audio_pad_token
        else:
            codes[:, stretch] = rng.integers(config.num_codes, size=(len(codes), len(stretch)))


# --- Batches -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """What a part of a batch (a piece for want of memory, a share of one process) must know of the batch that it is of."""

    rows: int
    length: int  # positions of each row, padding included
    text_length: int  # positions that the Thinker's upper layers must read
    useful: int  # positions that are no padding
    stop_cut: int  # answers whose stop sign was lost where the row was cut
    spoken: int  # rows with sound to learn
    text_labels: int
    audio_labels: tuple[int, ...]  # of each codebook

    @property
    def size(self) -> int:
        """Positions, padding included."""
        return self.rows * self.length


@dataclass(frozen=True)
class Batch:
    """What one step of training takes.  Labels are shifted; -100 is not learnt.  Tensors are on the CPU."""

    input_ids: Tensor  # (B, Q + 1, T)
    text_labels: Tensor  # (B, T)
    audio_labels: Tensor  # (B, Q, T)
    speaker: Tensor | None  # (B, S)
    audio_features: Tensor | None  # (B, N, D)
    audio_lengths: Tensor | None  # (B,)
    image_features: Tensor | None  # (B, I, P, D)
    text_length: int  # positions that the Thinker's upper layers must read
    names: tuple[str, ...]
    useful: int  # positions that are no padding
    stop_cut: int  # answers whose stop sign was lost where the row was cut
    answers_cut: int = 0  # rows left out of the chunk that ends here: their whole answer fell behind max_length
    position: tuple[int, int] = (0, 0)  # chunk, and batch in it: where to go on behind this batch
    part_of: Whole | None = None  # None: this is a whole batch
    before: int = 0  # rows with sound to learn that the whole has in front of this part
    talks: bool = False  # the Talker takes part even where nothing is spoken: in another process's share something is (shares.py)
    idle: bool = False  # a share without rows: one row of the whole, without a label, only keeps step

    @property
    def size(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids.shape[0] * self.input_ids.shape[2]

    @property
    def spoken(self) -> tuple[int, ...]:
        """Rows with sound to learn."""
        return tuple((self.audio_labels != IGNORE).flatten(1).any(dim=1).nonzero()[:, 0].tolist())

    @property
    def speaking(self) -> tuple[int, ...]:
        """Rows that go through the Talker: those with sound to learn; the others need none."""
        return self.spoken or ((0,) if self.talks else ())

    def whole(self) -> Whole:
        """The batch that this is a part of, or that it is."""
        if self.part_of is not None:
            return self.part_of
        return Whole(
            rows=len(self.names), length=self.input_ids.shape[2], text_length=self.text_length, useful=self.useful, stop_cut=self.stop_cut,
            spoken=len(self.spoken), text_labels=int((self.text_labels != IGNORE).sum()),
            audio_labels=tuple((self.audio_labels != IGNORE).sum(dim=(0, 2)).tolist()),
        )  # fmt: skip

    def written(self) -> Batch:
        """The same rows as if nothing were spoken: cut behind the last text label, no label for a sound."""
        length = self.text_length
        text_labels = self.text_labels[:, :length]
        return replace(
            self,
            input_ids=self.input_ids[..., :length],
            text_labels=text_labels,
            audio_labels=torch.full_like(self.audio_labels[..., :length], IGNORE),
            useful=int(((text_labels != IGNORE).flip(1).cumsum(dim=1) > 0).sum()),  # up to each row's last label
        )

    def inputs(self, device) -> dict:
        """Arguments of `OmniModel.hidden_states`, on the device."""
        moved = {
            name: None if value is None else carry(value, device)
            for name in ("input_ids", "speaker", "audio_features", "audio_lengths", "image_features")
            for value in [getattr(self, name)]
        }
        return moved | {"text_length": self.text_length, "speaking": self.speaking}

    def pin_memory(self) -> Batch:
        """The same in pinned memory: a copy to a CUDA device then runs beside the host (`torch.utils.data` calls this)."""
        return replace(self, **{name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)})


def collate(
    examples: Sequence[Example], config: ModelConfig, position: tuple[int, int] = (0, 0), answers_cut: int = 0, length: int = 0
) -> Batch:
    """Stack examples, padded on the right to the longest, or to `length` where that is more."""
    rows = [example.row for example in examples]
    B, Q, T = len(rows), config.num_codebooks, max(length, *(example.length for example in examples))
    input_ids = torch.full((B, Q + 1, T), config.audio_pad_token)
    input_ids[:, Q] = config.pad_token
    text_labels, audio_labels = torch.full((B, T), IGNORE), torch.full((B, Q, T), IGNORE)
    for b, row in enumerate(rows):
        length = row.input_ids.shape[1]
        input_ids[b, :, :length] = row.input_ids
        text_labels[b, :length] = row.text_labels
        audio_labels[b, :, :length] = row.audio_labels
    sounds, lengths = pad_features([example.sound for example in examples])
    return Batch(
        input_ids=input_ids,
        text_labels=text_labels,
        audio_labels=audio_labels,
        speaker=stack_speakers([example.speaker for example in examples], config.spk_emb_size),
        audio_features=sounds,
        audio_lengths=lengths,
        image_features=stack_pictures([example.pictures for example in examples]),
        text_length=max(row.text_length for row in rows),
        names=tuple(example.name for example in examples),
        useful=sum(example.length for example in examples),
        stop_cut=sum(row.stop_cut > 0 for row in rows),
        answers_cut=answers_cut,
        position=position,
    )


def pad_features(features: Sequence[np.ndarray]) -> tuple[Tensor | None, Tensor | None]:
    """(N_b, D) each -> (B, N, D) float32 and lengths (B,); None where no row has any."""
    longest = max(features, key=len)
    if not len(longest):
        return None, None
    padded = np.zeros((len(features), *longest.shape), np.float32)
    for b, each in enumerate(features):
        padded[b, : len(each)] = each if len(each) else 0
    return torch.from_numpy(padded), torch.tensor([len(each) for each in features])


def stack_pictures(pictures: Sequence[tuple[np.ndarray, ...]]) -> Tensor | None:
    """Per row (P, D) each -> (B, I, P, D) float32, zeros where a row has fewer; None where no row has any."""
    most = max(len(row) for row in pictures)
    if not most:
        return None
    first = next(row[0] for row in pictures if row)
    stacked = np.zeros((len(pictures), most, *first.shape), np.float32)
    for b, row in enumerate(pictures):
        for number, each in enumerate(row):
            stacked[b, number] = each
    return torch.from_numpy(stacked)


def stack_speakers(speakers: Sequence[np.ndarray], size: int) -> Tensor | None:
    """(S,) or empty each -> (B, S), zeros where a row has none (it has no speaker sign either)."""
    if not any(len(each) for each in speakers):
        return None
    return torch.from_numpy(np.stack([each if len(each) else np.zeros(size, np.float32) for each in speakers]))


@dataclass
class Counts:
    """What was seen on the way.  `Batches` keeps one of what it handed out; the trainer one of what it trained on."""

    rows: int = 0
    answers_cut: int = 0  # rows whose whole answer fell behind max_length: left out
    stops_cut: int = 0  # rows whose answer lost a stop sign

    def add(self, batch: Batch) -> None:
        """Count one batch; of a part, the whole that it is of."""
        self.rows += batch.part_of.rows if batch.part_of else len(batch.names)
        self.answers_cut += batch.answers_cut
        self.stops_cut += batch.part_of.stop_cut if batch.part_of else batch.stop_cut


class Batches:
    """Endless batches of one or several corpora.

    Corpus s gives `shares[s]` of every chunk's rows, each corpus in a new order every epoch of its own.

    >>> batches = Batches([corpus], [1.0], layout, token_budget=2048, seed=0)      # doctest: +SKIP
    >>> for batch in batches.start(chunk=0, number=0): ...                        # doctest: +SKIP

    `start` may begin at any batch's `position` and gives exactly what an unbroken run would have given from there.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        shares: Sequence[float],
        layout: Layout,
        token_budget: int,
        seed: int = 0,
        chunk_rows: int = 2048,
    ) -> None:
        if abs(sum(shares) - 1) > 1e-6 or len(shares) != len(corpora):
            raise ValueError(f"shares {list(shares)} of {len(corpora)} corpora must sum to 1")
        if token_budget < layout.max_length:
            raise ValueError(f"token_budget {token_budget} has no room for one row of max_length {layout.max_length}")
        self.corpora, self.layout = list(corpora), layout
        self.token_budget, self.seed = token_budget, seed
        self.rows = [max(1, round(share * chunk_rows)) for share in shares]  # of each corpus in a chunk
        self.counts = Counts()
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # of each corpus, its epoch's order

    def order(self, corpus: int, epoch: int) -> np.ndarray:
        """The order of a corpus's rows in one of its epochs."""
        if self._orders.get(corpus, (-1,))[0] != epoch:
            drawn = np.random.default_rng((self.seed, corpus, epoch)).permutation(len(self.corpora[corpus]))
            self._orders[corpus] = epoch, drawn
        return self._orders[corpus][1]

    def drawn(self, number: int) -> list[tuple[int, int, int]]:
        """The rows of one chunk, not yet realised: corpus, its epoch, row."""
        found = []
        for which, corpus in enumerate(self.corpora):
            for place in range(number * self.rows[which], (number + 1) * self.rows[which]):
                epoch, rank = divmod(place, len(corpus))
                found.append((which, epoch, int(self.order(which, epoch)[rank])))
        return found

    def example(self, which: int, epoch: int, row: int) -> Example:
        """One row of a corpus as an epoch of that corpus sees it, whoever asks and whatever was asked before."""
        rng = np.random.default_rng((self.seed, which, epoch, row))
        return realise(self.corpora[which], row, epoch + row, rng, self.layout)

    def chunk(self, number: int) -> list[Example]:
        """The rows of one chunk, realised, shortest first; rows whose answer was cut off are left out."""
        examples = [self.example(*each) for each in self.drawn(number)]
        kept = [example for example in examples if not example.row.answer_cut]
        if not kept:
            raise DataError(self.nothing_left(len(examples)))
        return sorted(kept, key=lambda example: (example.length, len(example.sound)))

    def nothing_left(self, rows: int) -> str:
        """What to say where every answer of a chunk was cut off."""
        return f"every answer of {rows} rows lies behind max_length {self.layout.max_length}: raise it"

    def cut(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Sorted examples -> batches whose padded size stays within the budget, as few and as equal as can be.

        A last batch of three rows would weigh as much as one of thirty; so the least budget is sought that gives no
        more batches than the full one.
        """
        fewest = len(cut_at(examples, self.token_budget))
        low, high = examples[-1].length, self.token_budget
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(cut_at(examples, middle)) <= fewest else (middle + 1, high)
        return cut_at(examples, high)

    def plan(self, number: int) -> list[list[Example]]:
        """The batches of one chunk in the order in which they are trained on."""
        batches = self.cut(self.chunk(number))
        order = np.random.default_rng((self.seed, len(self.corpora), number)).permutation(len(batches))
        return [batches[place] for place in order]

    def of_chunk(self, chunk: int, number: int = 0) -> Iterator[Batch]:
        """The batches of one chunk, from a place in it on."""
        plan = self.plan(chunk)
        for place in range(number, len(plan)):
            last = place + 1 == len(plan)
            cut = sum(self.rows) - sum(map(len, plan)) if last else 0
            batch = collate(plan[place], self.layout.config, (chunk + 1, 0) if last else (chunk, place + 1), cut)
            self.counts.add(batch)
            yield batch

    def start(self, chunk: int = 0, number: int = 0) -> Iterator[Batch]:
        """Batches from a position on, without end."""
        while True:
            yield from self.of_chunk(chunk, number)
            chunk, number = chunk + 1, 0

    def steps_per_epoch(self) -> float:
        """Batches in one epoch of the first corpus, from the first chunk's."""
        return len(self.plan(0)) * len(self.corpora[0]) / self.rows[0]

    def validation(self, rows: int) -> list[Batch]:
        """The first `rows` rows of each corpus in the files' order, in batches; always the same."""
        examples = []
        for which, corpus in enumerate(self.corpora):
            for row in range(min(rows, len(corpus))):
                rng = np.random.default_rng((self.seed, which, row))
                examples.append(realise(corpus, row, 0, rng, self.layout))
        kept = [example for example in examples if not example.row.answer_cut]
        if not kept:
            return []
        kept.sort(key=lambda example: (example.length, len(example.sound)))
        return [collate(batch, self.layout.config) for batch in self.cut(kept)]


def cut_at(examples: Sequence[Example], budget: int) -> list[list[Example]]:
    """Examples, shortest first -> batches of at most `budget` positions, padding included."""
    batches: list[list[Example]] = [[]]
    for example in examples:
        if batches[-1] and (len(batches[-1]) + 1) * example.length > budget:
            batches.append([])
        batches[-1].append(example)
    return batches


def useful_share(batches: Sequence[Batch]) -> float:
    """Positions that are no padding, of all that are computed."""
    return sum(batch.useful for batch in batches) / sum(batch.size for batch in batches)


def features_of(path: Path, column: str) -> str:
    """What features of a file's column are called: "a2a-train.parquet: features of question_audios"."""
    return f"{path.name}: features of {column}"


def find_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files that globs under `folder` name, or their shards, sorted.  Raises DataError naming a glob that finds nothing."""
    found: list[Path] = []
    for pattern in patterns:
        matches = files_of(folder, pattern)
        if not matches:
            raise DataError(f"{folder / pattern}: no such data file; fetch it (`mmo fetch --profile mini`, or full) or build it (`mmo world build`)")
        found += matches
    return found
