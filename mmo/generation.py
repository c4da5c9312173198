"""Answering: text and speech, step by step, out of one model.

One step feeds the last text token and the last Q codes (each codebook one frame behind the one above it) and predicts
the next of all nine.  What is fed is what training saw (sequence.py):

    step s    text fed next                    codebook k fed next, for its frame f = s - 1 - k
    0 ...     the sampled token                f < 0: pad        (speech begins one position after the text)
    E         <|im_end|>, sampled (or forced)  0 <= f < F: the sampled code
    E + 1     newline                          f = F: stop, once (F is where codebook 0 sampled it, or was made to)
    E + 2 ... pad                              f > F: pad

So the speech ends where codebook 0 says so, and the codebooks below it finish their last frames: an answer has exactly
F whole frames.  After E no text is wanted, and the Thinker's layers above the bridge and its head are left out, which
changes nothing that is heard (`tail`).

A question that is heard may be written down first (`Decoding.write_down`), in the think block with which an answer may begin and of which
nothing is spoken.  That is a run of its own, for text alone, up to "</think>"; then the prompt ends behind the block, and the above begins.
No other block is opened: speech would begin inside it.

The same sound may be heard several times, at other speeds (`Prompt.again`): then every token of the block is the one that all hearings together
find likeliest, their probabilities multiplied.  What one hearing takes for "two" another takes for "ten"; the answer is to the first.
In the same way a picture may be looked at several times (`Prompt.looks`): all looks together choose the text of the answer, the first one speaks it.

    generator = Generator(model, codec, tokenizer)
    answer = generator.answer(prompt)                        # text, codes, samples, times
    for event in generator.stream([prompt]):                 # the same, as it comes: Heard, TextPiece, Sound, Finished
        ...
    answers = generator.generate_batch(prompts)              # many, fast: what evaluation uses

Letters: B batch, T positions, Q codebooks, F frames, A audio vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from mmo.chat import IMAGE_MARK, THINK_END, THINK_START, ChatTokenizer, TextStream, user_content, without_open_block
from mmo.codec import Codec
from mmo.config import Decoding, ModelConfig, each
from mmo.graphs import StepGraph
from mmo.omni import Hidden, OmniCache, OmniModel, carry, last_hidden
from mmo.sampling import Chooser, Noise, allowed_codes
from mmo.sequence import build_prompt, undelay
from mmo.streaming import SpeechStream
from mmo.twin import Precision, for_decoding


PICTURE_QUESTION = "What do you see?"  # where there is a picture and nothing else; no picture was trained on without words


# --- What goes in and what comes out -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """One question.  `text_ids` end where the answer begins (`ChatTokenizer.prompt`).

    speaker: the wanted voice's vector (S,).  ref_codes: (Q, F), sound of that voice.  audio_features (N, D_audio) and
    image_features (P, D_image) or (I, P, D_image): what the encoders heard and saw, for the placeholders in the text.
    seed: this row's own randomness.  again: the same question as it sounds at other speeds; they help to write it down.
    looks: features of the same picture otherwise, each shaped like image_features; they help to choose the answer's text.
    """

    text_ids: Sequence[int]
    speaker: Tensor | None = None
    ref_codes: Tensor | None = None
    audio_features: Tensor | None = None
    image_features: Tensor | None = None
    seed: int = 0
    again: tuple[Prompt, ...] = ()
    looks: tuple[Tensor, ...] = ()


def lay_out(
    tokenizer: ChatTokenizer, config: ModelConfig, text: str = "", heard: Sequence[Tensor] = (), seen: Sequence[Tensor] = (),
    speaker: Tensor | None = None, seed: int = 0,
) -> Prompt:  # fmt: skip
    """A question as training laid it out: words, a sound, a picture, or several of these.

    heard: (N, D_audio) at each speed, the sound as it is first.  seen: (P, D_image) at each look, the picture as it is first.
    Raises ValueError where a picture's features are not what the model reads.
    """
    wanted = (config.image_token_len, config.image_hidden_size)
    if strange := [tuple(look.shape) for look in seen if tuple(look.shape) != wanted]:
        raise ValueError(f"a picture became features of shape {strange[0]}, the model reads {wanted}: this vision encoder is not the one that the weights were trained with")
    if seen and not text and not heard:
        text = PICTURE_QUESTION
    if seen and IMAGE_MARK not in text:
        text = f"{IMAGE_MARK}\n{text}" if text else IMAGE_MARK

    def asked(sound: Tensor | None) -> Prompt:
        length = 0 if sound is None else len(sound)
        content = user_content(text, sound_length=length, pictures=1 if seen else 0, image_length=config.image_token_len)
        ids = tokenizer.prompt([{"role": "user", "content": content}])
        return Prompt(ids, speaker, audio_features=sound, image_features=seen[0] if seen else None, seed=seed, looks=tuple(seen[1:]))

    first, *again = (asked(sound) for sound in heard or (None,))
    return replace(first, again=tuple(again))


def with_looks(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """The prompts, and behind them one row more for each further look; and each row's group: the looks of a picture choose one text."""
    further = [(replace(prompt, image_features=look), group) for group, prompt in enumerate(prompts) for look in prompt.looks]
    return [*prompts, *(prompt for prompt, _ in further)], [*range(len(prompts)), *(group for _, group in further)]


@dataclass(frozen=True)
class Answer:
    """One answer.  `samples` is None where no codec was asked; the times only exist where one prompt was streamed."""

    text: str
    text_ids: list[int]
    codes: Tensor  # (Q, F), int64, on the CPU
    text_ended: bool  # <|im_end|> was sampled; False: `max_text` cut the text
    stopped: bool  # codebook 0 sampled its stop; False: `max_frames` cut the speech (or none was wanted)
    samples: np.ndarray | None = None  # (1920 F,) float32
    sample_rate: int = 24000
    first_audio_ms: float | None = None  # from the call to the first sound, prompt included
    real_time_factor: float | None = None  # seconds of work per second of speech
    heard: str = ""  # the question as the model wrote it down, where it did

    @property
    def seconds(self) -> float:
        """Length of the speech."""
        return self.codes.shape[1] * 1920 / 24000

    @property
    def runaway(self) -> bool:
        """Whether text or speech had to be cut, of an answer that was to be spoken: one without speech counts as cut."""
        return not (self.text_ended and self.stopped)


@dataclass(frozen=True)
class Heard:
    """What one row's question was, as the model wrote it down."""

    text: str
    row: int = 0
    ended: bool = True  # False: `max_text` cut it, and what is answered is its beginning


@dataclass(frozen=True)
class TextPiece:
    """New text of one row."""

    text: str
    row: int = 0


@dataclass(frozen=True)
class Sound:
    """New sound of one row: float32 samples (1920 n,)."""

    samples: np.ndarray
    row: int = 0


@dataclass(frozen=True)
class Finished:
    """A row's whole answer; the last event of the row."""

    answer: Answer
    row: int = 0


# --- The loop ----------------------------------------------------------------------------------------------------


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout, no balance loss; each module's mode is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def end_speech(sampled: Tensor, step: int, speech_end: Tensor, pad: int, stop: int) -> tuple[Tensor, Tensor]:
    """Codes as they are *fed*: sampled (B, Q) of a step, speech_end (B,) -> codes (B, Q), speech_end (B,).

    At step s codebook k is at frame s - 1 - k.  speech_end is the number of the first frame that is not spoken; it begins
    as the most frames allowed, and a stop of codebook 0 before that moves it.  A codebook gets pad before its frame 0, the
    stop at frame speech_end, pad behind it, whatever was sampled there.
    """
    frame = step - 1 - torch.arange(sampled.shape[1], device=sampled.device)  # (Q,)
    if step >= 1:
        stopped = (sampled[:, 0] == stop) & (step - 1 < speech_end)
        speech_end = torch.where(stopped, step - 1, speech_end)
    behind = frame - speech_end[:, None]  # (B, Q)
    codes = torch.where(behind == 0, stop, sampled)
    return torch.where((behind > 0) | (frame < 0), pad, codes), speech_end


@dataclass
class Batch:
    """Prompts of unequal length, padded on the right."""

    input_ids: Tensor  # (B, Q + 1, T)
    lengths: list[int]
    features: dict[str, Tensor] = field(default_factory=dict)  # arguments of hidden_states

    @classmethod
    def collate(cls, prompts: Sequence[Prompt], config: ModelConfig, device) -> Batch:
        """Build the prompts' streams and put their features side by side.  Raises ValueError naming the bad prompt."""
        if not prompts:
            raise ValueError("no prompts")
        rows = []
        for number, prompt in enumerate(prompts):
            if not len(prompt.text_ids):
                raise ValueError(f"prompt {number} is empty")
            has_speaker = prompt.speaker is not None
            if has_speaker and tuple(prompt.speaker.shape) != (config.spk_emb_size,):
                shape = tuple(prompt.speaker.shape)
                raise ValueError(f"prompt {number}: speaker vector of shape {shape}, wanted ({config.spk_emb_size},)")
            rows.append(build_prompt(prompt.text_ids, config, ref_codes=prompt.ref_codes, has_speaker=has_speaker))
        lengths = [row.shape[1] for row in rows]
        input_ids = torch.full((len(rows), config.num_codebooks + 1, max(lengths)), config.audio_pad_token)
        input_ids[:, -1] = config.pad_token
        for place, row in zip(input_ids, rows, strict=True):
            place[:, : row.shape[1]] = row
        features = collate_features(prompts, config)
        return cls(input_ids.to(device), lengths, {name: value.to(device) for name, value in features.items()})


def collate_features(prompts: Sequence[Prompt], config: ModelConfig) -> dict[str, Tensor]:
    """Speaker vectors, speech and pictures of all rows; zeros where a row has none (nothing there asks for them)."""
    features = {}
    if any(prompt.speaker is not None for prompt in prompts):
        none = torch.zeros(config.spk_emb_size)
        features["speaker"] = torch.stack([none if p.speaker is None else p.speaker.float().cpu() for p in prompts])
    sounds = [prompt.audio_features for prompt in prompts]
    if any(sound is not None for sound in sounds):
        features["audio_features"], lengths = stack(sounds, (config.audio_hidden_size,))
        features["audio_lengths"] = torch.tensor(lengths)
    pictures = [p if p is None or p.dim() == 3 else p[None] for p in (prompt.image_features for prompt in prompts)]
    if any(picture is not None for picture in pictures):
        shape = next(tuple(picture.shape[1:]) for picture in pictures if picture is not None)
        features["image_features"], _ = stack(pictures, shape)  # (B, I, P, D)
    return features


def stack(parts: Sequence[Tensor | None], shape: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Tensors (n_b, *shape) or None -> (B, max n, *shape) padded with zeros, and the n."""
    lengths = [0 if part is None else len(part) for part in parts]
    stacked = torch.zeros(len(parts), max(lengths), *shape)
    for place, part, length in zip(stacked, parts, lengths, strict=True):
        if part is not None:
            if tuple(part.shape[1:]) != shape:
                raise ValueError(f"features of shape {tuple(part.shape)}, wanted (n, {', '.join(map(str, shape))})")
            place[:length] = part
    return stacked, lengths


class Decoder:
    """The loop over steps for one batch.

    The host looks at the device once a step, for three numbers a row (`told`); all else stays there.
    """

    def __init__(
        self,
        model: OmniModel,
        batch: Batch,
        seeds: Sequence[int],
        decoding: Decoding,
        speech: bool,
        graph: StepGraph | None = None,
        end_token: int | None = None,
        unsaid: int | None = None,
        together: Sequence[int] | None = None,
        answering: int | None = None,
    ) -> None:
        """end_token: what ends the text, by default <|im_end|>.  unsaid: a token that is never written.

        together: each row's group, 0 to n - 1; the rows of a group write one text, each token chosen by all of them (`agree`).
        answering: the rows behind so many only help to choose the text: they say nothing, and leave when it has ended.
        """
        self.model, self.config, self.graph = model, model.config, graph
        config, B, Q = model.config, len(batch.lengths), model.config.num_codebooks
        self.device = batch.input_ids.device
        self.decoding = decoding
        self.end_token = config.im_end_token if end_token is None else end_token
        self.unsaid = unsaid
        self.together = None if together is None else carry(torch.tensor(together), self.device)
        self.groups = len(set(together or ()))
        self.answering = B if answering is None else answering
        self.rows = list(range(B))  # the batch's rows that still run ...
        self.rows_index = torch.arange(B, device=self.device)  # ... and the same on the device
        self.step = 0
        self.noise = Noise(seeds, Q + 1, self.device)
        self.choose_text = Chooser([decoding.text_temperature], [decoding.text_top_k], config.vocab_size, self.device)
        self.choose_codes = Chooser(
            each(decoding.temperature, Q), each(decoding.top_k, Q), config.audio_vocab_size, self.device
        )
        self.allowed = allowed_codes(config, self.device)
        # Both ends begin at their bound: reaching it looks exactly like having sampled the end there.  Without speech
        # its end lies before every frame, so that nothing but pad is ever fed.
        max_frames = decoding.max_frames if speech else -Q - 1
        self.text_end = torch.full((B,), decoding.max_text, device=self.device)
        self.speech_end = torch.full((B,), max_frames, device=self.device)
        self.speech_end[self.answering :] = -Q - 1
        self.text_ended = torch.zeros(B, dtype=torch.bool, device=self.device)
        self.stopped = torch.zeros(B, dtype=torch.bool, device=self.device)
        self.max_steps = max(decoding.max_text, max_frames + Q) + 1
        capacity = max(batch.lengths) + self.max_steps
        if capacity > config.max_position_embeddings:
            raise ValueError(
                f"a prompt of {max(batch.lengths)} positions and an answer of up to {self.max_steps} exceed "
                f"max_position_embeddings {config.max_position_embeddings}: shorten it, or lower max_text or max_frames"
            )
        self.cache = graph.cache(B, capacity, self) if graph else model.make_cache(B, capacity)
        self.told: list[list[int]] = []  # of each running row, after each step: its token, and where text and speech end
        self.history = torch.zeros(B, self.max_steps, Q + 1, dtype=torch.long, device=self.device)
        self.ends = torch.zeros(B, 4, dtype=torch.long, device=self.device)
        self.prefill(batch)

    def prefill(self, batch: Batch) -> None:
        """Read the prompts."""
        lengths = None if len(set(batch.lengths)) == 1 else batch.lengths
        hidden = self.model.hidden_states(batch.input_ids, cache=self.cache, lengths=lengths, **batch.features)
        self.text_hidden = last_hidden(hidden.text, batch.lengths)
        self.audio_hidden = last_hidden(hidden.audio, batch.lengths)

    def run(self, drop: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each step's (tokens (B,), codes (B, Q)), as they are *fed*, for the rows in `self.rows` (those that only help stand behind the others).

        drop: go on without the rows that have ended, once they are a quarter of the batch.  Ends when all rows have.
        """
        while True:
            tokens, codes = self.choose()
            fed = torch.cat((codes, tokens[:, None]), dim=1)  # (B, Q + 1)
            self.history[self.rows_index, self.step] = fed
            self.told = torch.stack((tokens, self.text_end, self.speech_end), dim=1).tolist()
            yield tokens, codes
            self.step += 1
            running = [place for place, (_, *ends) in enumerate(self.told) if not self.has_ended(*ends)]
            if not running:
                return
            tail = all(self.step > text_end for _, text_end, _ in self.told)
            keep = running if drop and len(running) <= 0.75 * len(self.rows) else self.without_helpers(running)
            if len(keep) < len(self.rows) and not (self.graph and self.graph.on):
                fed = fed[self.select(keep)]
            hidden = self.advance(fed[..., None], tail)
            self.text_hidden, self.audio_hidden = hidden.text, hidden.audio

    def without_helpers(self, running: Sequence[int]) -> list[int]:
        """All places, or once no row that only helps is running, those of the rows that answer."""
        places = range(len(self.rows))
        if any(self.rows[place] >= self.answering for place in running):
            return list(places)
        return [place for place in places if self.rows[place] < self.answering]

    def advance(self, ids: Tensor, tail: bool) -> Hidden:
        """One position more, ids (B, Q + 1, 1).  tail: no row wants text any more."""
        if self.graph:
            return self.graph.step(ids, self.cache, tail)
        return self.model.hidden_states(ids, cache=self.cache, tail=tail)

    def has_ended(self, text_end: int, speech_end: int) -> bool:
        """Whether a row needs no further step: its text's end and its last frame's last code have been sampled."""
        return self.step > text_end and self.step >= speech_end + self.config.num_codebooks

    def choose(self) -> tuple[Tensor, Tensor]:
        """This step's tokens (B,) and codes (B, Q), as the table above says; notes where text and speech end."""
        config, s = self.config, self.step
        uniform = self.noise.next()
        if self.text_hidden is None:
            tokens = torch.full_like(self.text_end, config.pad_token)
        else:
            logits = self.model.text_head(self.text_hidden)  # (B, 1, V)
            if self.unsaid is not None:
                logits[..., self.unsaid] = -torch.inf
            if self.together is not None:
                logits = agree(logits, self.together, self.groups)
            tokens = self.choose_text(logits, uniform[:, -1:])[:, 0]
            ended = (tokens == self.end_token) & (s < self.text_end)
            self.text_ended |= ended
            self.text_end = torch.where(ended, s, self.text_end)
        behind = s - self.text_end
        tokens = torch.where(behind == 0, config.im_end_token, tokens)
        tokens = torch.where(behind == 1, config.newline_token, tokens)
        tokens = torch.where(behind > 1, config.pad_token, tokens)

        logits = self.model.audio_head(self.audio_hidden)[:, 0] + self.allowed  # (B, Q, A)
        sampled = self.choose_codes(logits, uniform[:, :-1])
        codes, end = end_speech(sampled, s, self.speech_end, config.audio_pad_token, config.audio_stop_token)
        self.stopped |= end < self.speech_end
        self.speech_end = end
        return tokens, codes

    def select(self, places: list[int]) -> Tensor:
        """Go on with the rows at these places of the batch; returns the places on the device."""
        index = carry(torch.tensor(places), self.device)
        self.ends[self.rows_index] = self.state()
        self.rows_index = self.rows_index[index]
        self.rows = [self.rows[place] for place in places]
        self.noise.select(places, index)
        for name in ("text_end", "speech_end", "text_ended", "stopped"):
            setattr(self, name, getattr(self, name)[index])
        if self.together is not None:
            self.together = self.together[index]
        select_rows(self.cache, places, index)
        return index

    def state(self) -> Tensor:
        """(B, 4): where text and speech end, and whether each ended by itself."""
        return torch.stack((self.text_end, self.speech_end, self.text_ended, self.stopped), dim=1)

    def results(self) -> list[tuple[list[int], Tensor, bool, bool]]:
        """Of each row that answers: text ids, codes (Q, F), text_ended, stopped.  For rows that have ended."""
        self.ends[self.rows_index] = self.state()
        history = self.history[: self.answering].cpu()
        found = []
        for row, (text_end, speech_end, text_ended, stopped) in zip(history, self.ends[: self.answering].tolist(), strict=True):
            delayed = row[1:, :-1].T  # codebook 0's frame 0 was chosen at step 1
            codes = undelay(delayed)[:, : max(0, speech_end)].clone()
            found.append((row[:text_end, -1].tolist(), codes, bool(text_ended), bool(stopped)))
        return found


def agree(logits: Tensor, together: Tensor, groups: int) -> Tensor:
    """logits (B, 1, V) and each row's group (B,), of `groups` -> log-probabilities (B, 1, V), the mean over the rows of a group.

    So the rows of a group have the same logits, and rows of the same seed write the same token, drawn or not.
    """
    each = logits.float().log_softmax(-1)
    sums = each.new_zeros(groups, *each.shape[1:]).index_add_(0, together, each)
    counts = each.new_zeros(groups).index_add_(0, together, each.new_ones(len(together)))
    return (sums / counts.clamp(min=1)[:, None, None])[together]


def select_rows(cache: OmniCache, rows: Sequence[int], index: Tensor) -> None:
    """Keep some rows of a cache (the same places twice: for the host and on the device)."""
    cache.thinker.select(index)
    cache.talker.select(index)
    cache.lengths.rows = [cache.lengths.rows[row] for row in rows]
    cache.lengths.tensor = cache.lengths.tensor[index]


# --- The generator -----------------------------------------------------------------------------------------------


class Generator:
    """Answers prompts.  Holds a snapshot of the model made for decoding (twin.py).

    codec and tokenizer may be missing: then there are codes without sound, or ids without text.  precision: of the weights, by
    default as they are (twin.py).  compile: a step as one graph (graphs.py); where that does not work it is said why.
    """

    def __init__(
        self,
        model: OmniModel,
        codec: Codec | None = None,
        tokenizer: ChatTokenizer | None = None,
        decoding: Decoding | None = None,
        *,
        precision: Precision | None = None,
        compile: bool = False,
    ) -> None:
        if codec is not None and (codec.num_codes, codec.num_codebooks) != (model.config.num_codes, model.config.num_codebooks):
            raise ValueError(
                f"the codec has {codec.num_codebooks} codebooks of {codec.num_codes} codes, "
                f"the model was made for {model.config.num_codebooks} of {model.config.num_codes}"
            )
        self.model = for_decoding(model, precision)
        self.graph = StepGraph(self.model) if compile else None
        self.codec = codec
        self.tokenizer = tokenizer
        self.decoding = decoding or Decoding()

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def text(self, ids: Sequence[int]) -> str:
        return without_open_block(self.tokenizer.decode(ids)) if self.tokenizer else ""

    def start(
        self, prompts: Sequence[Prompt], decoding: Decoding | None, speech: bool, end_token: int | None = None, together: Sequence[int] | None = None
    ) -> Decoder:
        """Collate and read the prompts.  No answer opens a think block of its own: speech would begin inside it.

        together: of the prompts as they are; without it each answers for itself, its further looks beside it.
        """
        decoding = decoding or self.decoding
        unsaid = self.tokenizer.id("<think>") if self.tokenizer and end_token is None else None
        answering = len(prompts)
        if together is None and any(prompt.looks for prompt in prompts):
            prompts, together = with_looks(prompts)
        batch = Batch.collate(prompts, self.config, self.model.model.embed_tokens.weight.device)
        seeds = [prompt.seed for prompt in prompts]
        return Decoder(self.model, batch, seeds, decoding, speech, self.graph, end_token, unsaid, together, answering)

    def listen(self, prompts: Sequence[Prompt], decoding: Decoding | None) -> tuple[list[Prompt], list[str], set[int]]:
        """Let the model write down what it hears, where `Decoding.write_down` wants it; what is heard `again` has a say in it.

        Returns the prompts, those with a sound ending behind their think block now; the words of each ("" where there was no sound); and the
        places of those whose words came to no end within `max_text`: they are answered as far as they go.
        """
        prompts, heard = list(prompts), [""] * len(prompts)
        asking = [number for number, prompt in enumerate(prompts) if prompt.audio_features is not None]
        if not (asking and (decoding or self.decoding).write_down):
            return prompts, heard, set()
        if self.tokenizer is None:
            raise ValueError("write_down needs a tokenizer: its think block is text")
        opening, closing = (self.tokenizer.encode(part) for part in (THINK_START, THINK_END))
        hearings = [(group, each, number) for group, number in enumerate(asking) for each in (prompts[number], *prompts[number].again)]
        opened = [replace(each, text_ids=[*each.text_ids, *opening], seed=prompts[number].seed) for _, each, number in hearings]
        together = [group for group, *_ in hearings]
        decoder = self.start(opened, decoding, False, self.tokenizer.id("</think>"), together)
        for _ in decoder.run(drop=True):
            pass
        written = {number: (ids, ended) for (*_, number), (ids, _, ended, _) in zip(hearings, decoder.results(), strict=True)}  # all hearings of one wrote the same
        for number in asking:
            heard[number] = self.tokenizer.decode(written[number][0]).strip()
            words = self.tokenizer.encode(heard[number])  # without the newline, which is the closing's
            prompts[number] = replace(prompts[number], text_ids=[*prompts[number].text_ids, *opening, *words, *closing], again=())
        return prompts, heard, {number for number, (_, ended) in written.items() if not ended}

    @torch.no_grad()
    def stream(
        self, prompts: Sequence[Prompt], decoding: Decoding | None = None, *, largest: int = 4
    ) -> Iterator[Heard | TextPiece | Sound | Finished]:
        """Answer prompts together, handing out text and sound as they come; one `Finished` a row at the end.

        What was written down of a question comes first, all at once.

        largest: the most codec frames decoded at once (see streaming.py).  Times count the work, not what the caller
        does between two events.
        """
        clock = Clock()
        with evaluating(self.model):
            prompts, heard, cut = self.listen(prompts, decoding)
            yield from clock.outside([Heard(text, row, row not in cut) for row, text in enumerate(heard) if text])
            decoder = self.start(prompts, decoding, speech=True)
            rows = [RowStream(self, row) for row in range(len(prompts))]
            with self.sounding(len(prompts), largest) as speech:
                for _, codes in decoder.run(drop=False):
                    told, codes = decoder.told[: len(rows)], codes[: len(rows)]
                    events = [row.read(decoder.step, token, text_end) for row, (token, text_end, _) in zip(rows, told, strict=True)]
                    if speech and decoder.step >= 1:  # before the first step of speech there is nothing but pad
                        events += hear(rows, speech.push(codes), told)
                    yield from clock.outside(events)
                if speech:
                    yield from clock.outside(hear(rows, speech.finish(), told))
            for row, words, result in zip(rows, heard, decoder.results(), strict=True):
                yield from clock.outside([row.finish(*result, words, clock)])

    @contextmanager
    def sounding(self, batch: int, largest: int) -> Iterator[SpeechStream | None]:
        """The codec, ready to stream; None where there is no codec."""
        if self.codec is None:
            yield None
            return
        with self.codec.streaming(batch, largest) as decoder:
            yield SpeechStream(decoder, self.config.num_codebooks, largest)

    def answer(self, prompt: Prompt, decoding: Decoding | None = None) -> Answer:
        """Answer one prompt."""
        *_, last = self.stream([prompt], decoding)
        return last.answer

    @torch.no_grad()
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding | None = None,
        *,
        batch: int = 64,
        speech: bool = True,
        sound: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer many prompts, in the order they are given.

        Prompts of like length share a batch, and rows that have ended leave it.  speech: False writes text only.
        sound: decode the codes too (needs a codec).  progress: called with the number of prompts answered just now.
        """
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number].text_ids))
        answers: dict[int, Answer] = {}
        with evaluating(self.model):
            for first in range(0, len(order), batch):
                chosen = order[first : first + batch]
                asked, heard, _ = self.listen([prompts[number] for number in chosen], decoding)
                decoder = self.start(asked, decoding, speech)
                for _ in decoder.run(drop=True):
                    pass
                for number, words, (ids, codes, text_ended, stopped) in zip(chosen, heard, decoder.results(), strict=True):
                    answers[number] = Answer(self.text(ids), ids, codes, text_ended, stopped, heard=words)
                del decoder  # its cache goes before the next batch's comes
                if progress:
                    progress(len(chosen))
        found = [answers[number] for number in range(len(prompts))]
        if not (sound and speech and self.codec):
            return found
        samples = decode_all(self.codec, [answer.codes for answer in found])
        return [replace(answer, samples=wave) for answer, wave in zip(found, samples, strict=True)]


def decode_all(codec: Codec, codes: Sequence[Tensor], frames: int = 512) -> list[np.ndarray]:
    """Codes (Q, F_b) of many answers -> their samples (1920 F_b,), decoded in batches of like length.

    frames: how many a batch may hold, padding included.
    """
    order = sorted(range(len(codes)), key=lambda number: codes[number].shape[1])
    samples: dict[int, np.ndarray] = {}
    while order:
        longest = max(1, codes[order[-1]].shape[1])
        chosen, order = order[-max(1, frames // longest) :], order[: -max(1, frames // longest)]
        padded = torch.zeros(len(chosen), codes[chosen[0]].shape[0], longest, dtype=torch.long)
        for place, number in zip(padded, chosen, strict=True):
            place[:, : codes[number].shape[1]] = codes[number]
        for wave, number in zip(codec.decode(padded).cpu(), chosen, strict=True):
            samples[number] = wave[0, : codes[number].shape[1] * codec.frame_size].numpy().copy()
    return [samples[number] for number in range(len(codes))]


# --- Rows of a stream, and their clock ---------------------------------------------------------------------------


class RowStream:
    """What one row of a streamed batch has said so far."""

    def __init__(self, generator: Generator, row: int) -> None:
        self.generator, self.row = generator, row
        self.pieces = TextStream(generator.tokenizer) if generator.tokenizer else None
        self.samples: list[np.ndarray] = []
        self.frames = 0

    def read(self, step: int, token: int, text_end: int) -> TextPiece | None:
        """The text that this step's token adds."""
        if not self.pieces or step > text_end:
            return None
        piece = self.pieces.push(token) if step < text_end else self.pieces.finish()
        return TextPiece(piece, self.row) if piece else None

    def hear(self, sound: Tensor, speech_end: int) -> Sound | None:
        """This row's part of sound (B, 1, 1920 n): what lies behind its end is left out."""
        frame_size = self.generator.codec.frame_size
        frames = sound.shape[-1] // frame_size
        own = max(0, min(frames, speech_end - self.frames))
        self.frames += frames
        if not own:
            return None
        self.samples.append(sound[self.row, 0, : own * frame_size].numpy().copy())
        return Sound(self.samples[-1], self.row)

    def finish(self, ids: list[int], codes: Tensor, text_ended: bool, stopped: bool, heard: str, clock: Clock) -> Finished:
        """The whole answer."""
        generator = self.generator
        answer = Answer(generator.text(ids), ids, codes, text_ended, stopped, heard=heard)
        if generator.codec:
            samples = np.concatenate(self.samples) if self.samples else np.zeros(0, np.float32)
            rate = generator.codec.sample_rate
            factor = clock.seconds / (len(samples) / rate) if len(samples) else None
            answer = replace(answer, samples=samples, sample_rate=rate, first_audio_ms=clock.first_audio_ms, real_time_factor=factor)
        return Finished(answer, self.row)


def hear(rows: Sequence[RowStream], sound: Tensor | None, told: Sequence[Sequence[int]]) -> list[Sound | None]:
    """New sound (B, 1, 1920 n), row by row.  told: of the decoder."""
    return [] if sound is None else [row.hear(sound, speech_end) for row, (*_, speech_end) in zip(rows, told, strict=True)]


class Clock:
    """Seconds of work: stands still while the caller has the events."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.first_audio_ms: float | None = None
        self.since = time.perf_counter()

    def outside(self, events: Sequence[Heard | TextPiece | Sound | Finished | None]) -> Iterator[Heard | TextPiece | Sound | Finished]:
        """Hand out events (None is left out) with the clock stopped."""
        self.seconds += time.perf_counter() - self.since
        for event in events:
            if isinstance(event, Sound) and self.first_audio_ms is None:
                self.first_audio_ms = 1000 * self.seconds
            if event is not None:
                yield event
        self.since = time.perf_counter()
