"""Training: T2A, then A2A (projector, then all), then I2T (projector, then all), into one set of weights.

    result = train(profile("tiny"), "t2a")            # runs/tiny/t2a.safetensors, log/t2a.jsonl, tensorboard/t2a
    losses = read_log(result.log_file)                # one dict a step, for curves

A *stage* (t2a, a2a, i2t) is one or more *passes* (profiles.py), each with its own files, rate and share of the
weights.  One step:

    batch -> hidden states (the Thinker above the bridge only as far as there is text) -> heads where there are labels
          -> text loss + audio loss (mean over codebooks) + auxiliary loss of the experts -> gradients -> update

- The device is never asked for a value within a step; losses are fetched together, every FETCH_STEPS steps.
- A step whose loss or gradients are not finite changes no weight and no moment, is counted and shown.
- Several processes (torchrun) share every batch and learn what one would have learnt (shares.py).
- A run is a function of data, settings and seed: budgets are counted in steps, `minutes` only says when to pause.
- State is saved atomically every few minutes; the same call goes on from there with the same losses as if it had never
  been interrupted (on the CPU to the bit).  The log is cut back to the saved step.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from mmo import memory, products
from mmo.chat import ChatTokenizer
from mmo.checkpoint import (
    latest_weights, load_state, random_state, save_state, set_random_state, snapshot_file, snapshots_of, stage_file, started_from, state_file, told,
    with_prefix, without_prefix, write_made,
)  # fmt: skip
from mmo.compiling import Compilation, uncompiled
from mmo.config import Draws, StageConfig
from mmo.data import Batch, Batches, Corpus, Counts, DataFile, Layout, Whole, features_of, find_files
from mmo.digests import sha256_of
from mmo.distributed import Group
from mmo.features import Frozen, cache_features, folder_fingerprint, frozen_speech, frozen_vision, made_from
from mmo.held_out import kept_rows, validation_file
from mmo.loader import BatchesAhead, default_workers
from mmo.omni import TIED, OmniModel, carry, labelled_places, load_model, loss_sums, save_model, start_talker
from mmo.optimiser import Average, Optimisers, choose_trainable, rate_factor
from mmo.pieces import TooLarge, is_out_of_memory, next_smaller, pieces, shared_too_large
from mmo.profiles import BUDGETS, STAGES, Profile
from mmo.profiles import run_dir as default_run_dir
from mmo.rows import BadRow, file_key, open_rows
from mmo.shares import Exchange, SharedBatches, Sharing
from mmo.talker import draw_keep
from mmo.thinker import load_thinker

LOCK_SECONDS = 3.0  # how long to wait for a training that is just ending to leave its folder
FETCH_STEPS = 10  # steps between two looks at the losses
VALIDATION_ROWS = 96  # of each validation file
VALIDATIONS = 3  # a pass, the last one at its end
BAD_ROWS_SHOWN = 20
PERTURBATION = dict(noise=10.0, light=0.12, shift=3)  # of pictures, as `vision_encoder.perturb` takes it
REHEARSED_STEPS = 3  # of each pass with budget "rehearse"
REHEARSED_SAVE = 1  # its state is saved after so many, to be killed behind and gone on from


@dataclass(frozen=True)
class Encoders:
    """Frozen encoders, as the feature cache takes them; None where a stage needs none."""

    speech: Frozen | None = None
    vision: Frozen | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a call of `train` did."""

    stage: str
    finished: bool  # False: time was up; the same call goes on
    steps: int  # done, of `total_steps`
    total_steps: int
    skipped: int  # steps whose loss or gradients were not finite
    seconds: float  # of this call
    model_file: Path  # the finished weights (there once finished)
    log_file: Path
    bad_rows: tuple[BadRow, ...]
    rows: int  # seen
    answers_cut: int  # rows left out because their answer lies behind max_length
    stops_cut: int  # answers whose stop sign was cut off
    useful: float  # share of the computed positions that are no padding
    waited: float = 0.0  # seconds of this call in which the model waited for its next batch
    memory: int = 0  # bytes, at most: on the card, else of the process; of several the one with most
    fresh: bool = False  # it was asked to forget an earlier run

    def __str__(self) -> str:
        same = "the same command without --fresh" if self.fresh else "the same command"
        done = "done" if self.finished else f"paused at step {self.steps} of {self.total_steps}: {same} goes on"
        return (
            f"{self.stage} {done} after {self.seconds:.0f} s ({self.waited:.1f} s waiting for rows); {self.rows} rows, "
            f"{self.useful:.1%} of the positions useful\n{self.skipped} steps skipped, {len(self.bad_rows)} bad rows, {self.answers_cut} answers and "
            f"{self.stops_cut} stop signs cut off; at most {self.memory / 1e9:.1f} GB of memory"
        )


# --- Data of a pass ----------------------------------------------------------------------------------------------


def default_encoders(profile: Profile, device: torch.device) -> Encoders:
    """The profile's own encoders, loaded only if something is not in the feature cache."""
    # Imported here: funasr and transformers take seconds, and T2A needs neither.
    from mmo.augmentation import disturb

    def speech():
        from mmo.speech_encoder import SpeechEncoder

        return SpeechEncoder.load(profile.speech_encoder_dir, device)

    def vision():
        from mmo.vision_encoder import VisionEncoder

        return VisionEncoder.load(profile.vision_encoder_dir, device)

    found = {}
    if profile.speech_encoder_dir.is_dir():
        mark = folder_fingerprint(profile.speech_encoder_dir)
        change = partial(disturb, settings=profile.augmentation)
        found["speech"] = frozen_speech(speech, profile.model.audio_hidden_size, mark, change, str(profile.augmentation))
    if profile.vision_encoder_dir.is_dir():
        mark = folder_fingerprint(profile.vision_encoder_dir)
        found["vision"] = frozen_vision(vision, profile.model.image_hidden_size, mark, read_picture, perturb_picture, str(PERTURBATION))
    return Encoders(**found)


def read_picture(data: bytes):
    """Encoded picture -> PIL picture.  Raises ValueError where it cannot be read."""
    from mmo.vision_encoder import open_picture

    return open_picture(data)


def perturb_picture(picture, rng: np.random.Generator):
    """The picture moved, relit and noisy, as `vision_encoder.perturb` does it."""
    from PIL import Image

    from mmo.vision_encoder import perturb

    return Image.fromarray(perturb(np.asarray(picture), rng, **PERTURBATION))


def open_file(
    path: Path, profile: Profile, stage: StageConfig, needs: Sequence[str], encoders: Encoders, plain: bool, strict: bool
) -> DataFile:
    """One data file with the features of its sounds and pictures, where it has them and there is an encoder.

    plain: sounds and pictures as they are, for validation.
    """
    cache = profile.cache_dir()
    rows = open_rows(path, profile.model, cache, needs, strict)
    uses = features_used(path, stage, needs, encoders, plain)
    stores = {use.name: cache_features(path, use.column, use.frozen, cache, use.copies, strict=strict) for use in uses}
    return DataFile(rows, **stores, held_out=frozenset() if plain else kept_rows(profile, path))


@dataclass(frozen=True)
class FeaturesUsed:
    """Features of one column, as a pass uses them."""

    name: str  # what `DataFile` calls them
    column: str
    frozen: Frozen
    copies: int


def features_used(path: Path, stage: StageConfig, needs: Sequence[str], encoders: Encoders, plain: bool) -> list[FeaturesUsed]:
    """What a pass uses of a file.  Raises FileNotFoundError where there is no encoder for it."""
    found = []
    for name, column, frozen, copies in (
        ("sounds", "question_audios", encoders.speech, stage.sound_copies),
        ("pictures", "image_bytes", encoders.vision, stage.picture_copies),
    ):
        if column in needs and frozen is None:
            raise FileNotFoundError(f"{path.name} has {column}, but there is no encoder for them: `mmo doctor` says what is missing")
        if column in needs:
            found.append(FeaturesUsed(name, column, replace(frozen, augment=None) if plain else frozen, copies))
    return found


NEEDED_BY_NAME = {"a2a": ("question_audios",), "i2t": ("image_bytes",), "text": ()}


def needs_of(pattern: str, stage: StageConfig) -> tuple[str, ...]:
    """Columns a file must have: those of the pass for its own files; for rehearsed ones, what their name tells."""
    if pattern in stage.data:
        return stage.needs
    return next((needs for part, needs in NEEDED_BY_NAME.items() if part in pattern), ("answer_audios",))


def open_corpora(
    profile: Profile, stage: StageConfig, encoders: Encoders, strict: bool = False
) -> tuple[list[Corpus], list[float]]:
    """The pass's own rows and those it rehearses, with their shares of a batch."""
    own = 1 - sum(each.share for each in stage.rehearsal)
    mixture = [(stage.data, own, stage.draws)] + [(each.data, each.share, each.draws) for each in stage.rehearsal]
    corpora = []
    for patterns, _, draws in mixture:
        files = [
            open_file(path, profile, stage, needs_of(pattern, stage), encoders, False, strict)
            for pattern in patterns
            for path in find_files(profile.data_dir, (pattern,))
        ]
        corpora.append(Corpus(files, draws, profile.system_prompts))
    return corpora, [share for _, share, _ in mixture]


def seen_by(profile: Profile, stage: StageConfig, encoders: Encoders) -> dict[str, str]:
    """What a pass would learn from now, its own and what it rehearses: data files and features of theirs, each with a checksum (`DataFile.seen`).

    Raises DataError and FileNotFoundError as training would.
    """
    found = {}
    for pattern in (name for each in (stage, *stage.rehearsal) for name in each.data):
        for path in find_files(profile.data_dir, (pattern,)):
            found[path.name] = file_key(path)
            for use in features_used(path, stage, needs_of(pattern, stage), encoders, False):
                found[features_of(path, use.column)] = made_from(path, use.column, use.frozen, use.copies, 0).key()
    return found


def unlike(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names of what differs between two of `seen_by`; features only where their file is the same."""
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [name for name in names if name.split(":")[0] == name or name.split(":")[0] not in names]


def validation_files(profile: Profile, pattern: str, make: bool = True) -> list[Path]:
    """The held-out files of a pass's files: those with "validation" for "train" in their names, or what was set aside of them (now, if `make`)."""
    held_out = pattern.replace("train", "validation")
    if held_out != pattern:
        return sorted(profile.data_dir.glob(held_out))
    found = (validation_file(profile, path, make) for path in find_files(profile.data_dir, (pattern,)))
    return [path for path in found if path is not None]


def validation_batches(profile: Profile, stage: StageConfig, encoders: Encoders, layout: Layout) -> dict[str, list[Batch]]:
    """By file name, batches of held-out rows, without draws; what is heard is written down where it mostly is in training."""
    found = {}
    for pattern, draws in ((name, each.draws) for each in (stage, *stage.rehearsal) for name in each.data):
        plain = Draws.none(write_down=float(draws.write_down > 0.5))
        for path in validation_files(profile, pattern):
            file = open_file(path, profile, stage, needs_of(pattern, stage), encoders, True, False)
            if len(file.usable()):
                batches = Batches([Corpus([file], plain)], [1.0], layout, stage.token_budget)
                found[path.stem] = batches.validation(VALIDATION_ROWS)
    return found


# --- One step ----------------------------------------------------------------------------------------------------


def losses_of(
    model: OmniModel, batch: Batch, stage: StageConfig, device: torch.device, keep: Tensor | None = None, pooled: bool = False
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and (3 + Q,) what it is made of: text, audio, auxiliary, each codebook unweighted.

    A part of a batch (a piece, pieces.py; a process's share, shares.py) gives its part of the loss: those of all add up to the whole's.
    keep: dropout's factors for the whole (`draw_keep`); without it dropout draws its own.  pooled: the experts' auxiliary loss is already
    this part's; else it is taken by positions.
    """
    own = None if keep is None else own_keep(batch, keep)
    read = None  # of a mixture all positions count: its last layer's auxiliary loss is a mean over them
    if not model.config.use_moe:
        read = labelled_places(batch.text_labels, batch.audio_labels, batch.text_length, batch.speaking, device)
    hidden = model.hidden_states(**batch.inputs(device), code_dropout=stage.code_dropout, code_keep=own, read=read)
    sums = loss_sums(model, hidden, batch.text_labels, batch.audio_labels, stage.stop_weight)
    aux = hidden.aux_loss
    if whole := batch.part_of:
        counts = torch.tensor(whole.text_labels), torch.tensor(whole.audio_labels)
        sums = replace(sums, text_count=carry(counts[0], device), audio_count=carry(counts[1], device))
        aux = aux if pooled else aux * (batch.size / whole.size)
    weights = None if stage.codebook_weights is None else constants(stage.codebook_weights, device)
    text, audio = sums.text_loss(), sums.audio_loss(weights)
    each = sums.audio / sums.audio_count.clamp(min=1)
    parts = torch.stack((text, audio, aux.to(text.dtype)))
    return parts.sum(), torch.cat((parts, each)).detach()


def own_keep(batch: Batch, keep: Tensor) -> Tensor:
    """keep (rows with sound of the whole batch, T, D) -> those of this part's rows; ones where the Talker only takes part."""
    count = len(batch.spoken)
    return keep[batch.before : batch.before + count, : batch.input_ids.shape[2]] if count else keep.new_ones(1, 1, 1)


@lru_cache(maxsize=8)
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on the device, made once: to bring them there in every step would wait for it in every step."""
    return torch.tensor(values, device=device)


class Stepper:
    """Model, optimiser and average of one pass."""

    def __init__(
        self, model: OmniModel, stage: StageConfig, steps: int, device: torch.device, dtype: torch.dtype, positions: int | None = None,
        group: Group = Group(),
    ) -> None:  # fmt: skip
        """positions: how many are computed at once; larger batches go in pieces.  group: the processes that share each batch."""
        Q, weights = model.config.num_codebooks, stage.codebook_weights
        if weights is not None and len(weights) != Q:
            raise ValueError(f"stage {stage.name}: codebook_weights has {len(weights)} numbers for {Q} codebooks")
        self.model, self.stage, self.steps, self.positions = model, stage, steps, positions
        self.ran_out: int | None = None  # what `positions` came down to, where memory ran out
        self.device, self.dtype = device, dtype
        parameters = choose_trainable(model, stage.trainable)
        self.parameters = list(parameters.values())
        quick = products.are_wanted(stage, device, dtype, group.size)
        self.products = products.QuickProducts(model) if quick else nullcontext()
        self.optimisers = Optimisers(parameters, stage, torch.bfloat16 if quick else None)
        self.average = Average(parameters, stage.ema_decay)
        if device.type == "cpu":
            memory.keep(model.config.use_moe)
        self.compilation = Compilation(model, device, dtype, tell=say) if stage.compile else uncompiled(model)
        self.sharing = Sharing(model, group, self.own_losses) if group.size > 1 else None

    def autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def rounding(self):
        """Products in bfloat16, where they are wanted and no compiler has the blocks."""
        compiled = self.compilation is not None and self.compilation.reason is None
        return nullcontext() if compiled else self.products

    def step(self, batch: Batch, number: int) -> Tensor:
        """One update; (5 + Q,) on the device: text, audio, auxiliary, each codebook, norm of the gradient, skipped."""
        self.optimisers.set_rate(rate_factor(number, self.steps, self.stage))
        loss, parts = self.losses(batch)
        if self.sharing:
            loss, parts = self.sharing.of_all(loss, parts)
        if all(parameter.grad is None for parameter in self.parameters):  # only a projector learns, and nothing here goes through it
            return torch.cat((parts, parts.new_zeros(2)))
        try:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.stage.clip_norm)
            bad = 1 - (loss.isfinite() & norm.isfinite()).float()
            self.optimisers.step(bad)
        except Exception as error:
            if is_out_of_memory(error):
                raise TooLarge("out of memory in the optimiser: weights, gradients and its own state do not fit; no smaller batch helps") from error
            raise
        self.optimisers.zero_grad()
        self.average.update()
        return torch.cat((parts, torch.stack((norm.detach(), bad))))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and parts of a batch, or of this process's share of it; where gradients are wanted they are left in the parameters (of all shares).

        Where memory runs out, the same batch is computed anew in smaller pieces, and so are all that follow: no step is lost.
        Raises TooLarge where a single row is too much, or where other processes would wait for the second attempt.
        """
        keep = None
        while True:
            try:
                keep = self.draw_keep(batch) if keep is None else keep
                if self.compilation:
                    return self.compilation.run(lambda: self.attempt(batch, keep), undo=self.optimisers.zero_grad)
                return self.attempt(batch, keep)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.sharing:
                    raise TooLarge(shared_too_large(batch, self.positions)) from error
            # Out here the error is gone, and with it the frames that hold the failed attempt's tensors.
            self.optimisers.zero_grad()
            memory.give_back(self.device)
            self.positions = self.ran_out = next_smaller(batch, self.positions)
            say(
                f"out of memory with {batch.size} positions. This batch and all that follow are computed in pieces of at most {self.positions}: "
                f"the losses are the same, a step takes a little longer. MMO_POSITIONS={self.positions} begins so"
            )

    def draw_keep(self, batch: Batch) -> Tensor | None:
        """Dropout's factors for the whole batch, whoever computes its rows; None where there is no dropout."""
        whole = batch.whole()
        if not (self.model.training and self.stage.code_dropout and whole.spoken):
            return None
        return draw_keep((whole.spoken, whole.length, self.model.config.talker_hidden_size), self.stage.code_dropout, self.device)

    def attempt(self, batch: Batch, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss and parts, whole or in pieces; with gradients where these are wanted."""
        loss = parts = 0.0
        every = list(pieces(batch, self.positions))
        shared = self.sharing if torch.is_grad_enabled() else None
        pooled = bool(shared) and shared.pool_balance(batch, self.positions)
        for piece in every:
            with shared.exchanging(piece is every[-1]) if shared else nullcontext():
                with self.autocast(), self.rounding():
                    this, made_of = (shared.model if shared else self.own_losses)(piece, keep, pooled)
                if this.requires_grad:
                    (this * shared.size if shared else this).backward()
            loss, parts = loss + this.detach(), parts + made_of
        return loss, parts

    def own_losses(self, batch: Batch, keep: Tensor | None, pooled: bool) -> tuple[Tensor, Tensor]:
        """`losses_of` with this pass's settings."""
        return losses_of(self.model, batch, self.stage, self.device, keep, pooled)

    @torch.no_grad()
    def validate(self, batches: Sequence[Batch]) -> dict:
        """Losses of the averaged weights on held-out batches, without dropout: each over all that is labelled, however it is cut into batches."""
        if not batches:
            return {}
        sums = counts = torch.zeros(3 + self.model.config.num_codebooks, device=self.device)
        with self.averaged():
            for batch in batches:
                _, parts = self.losses(batch)
                whole = batch.whole()
                labels = carry(torch.tensor([whole.text_labels, 0, whole.size, *whole.audio_labels]), self.device)
                sums, counts = sums + parts * labels, counts + labels
        means = sums / counts.clamp(min=1)
        weights = torch.ones_like(means[3:]) if self.stage.codebook_weights is None else constants(self.stage.codebook_weights, self.device)
        means[1] = (means[3:] * weights).sum() / weights.sum()
        return named(means)

    @contextmanager
    def averaged(self) -> Iterator[OmniModel]:
        """The model as it would be shipped now: with the averaged weights, in eval mode, until the block ends."""
        self.average.swap()
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train()
            self.average.swap()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `load` needs, by name."""
        weights = {name: value for name, value in self.model.state_dict().items() if name != TIED}
        return (
            with_prefix(weights, "model/")
            | with_prefix(self.average.values, "average/")
            | with_prefix(self.optimisers.state(), "optimiser/")
            | with_prefix(random_state(self.device), "random/")
        )

    def load(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave.  Raises ValueError where names do not fit."""
        copy_weights(self.model, without_prefix(tensors, "model/"))
        average = without_prefix(tensors, "average/")
        if set(average) != set(self.average.values):
            raise ValueError("the saved average is of other parameters: delete the state file to start the stage anew")
        for name, value in average.items():
            self.average.values[name].copy_(value)
        self.average.updates = updates
        self.optimisers.load(without_prefix(tensors, "optimiser/"))
        set_random_state(without_prefix(tensors, "random/"), self.device)


def copy_weights(model: OmniModel, weights: dict[str, Tensor]) -> None:
    """Into the uncompiled model; raises ValueError naming what is missing or unexpected."""
    own = {name for name in model.state_dict() if name != TIED}
    if own != set(weights):
        raise ValueError(f"weights do not fit: missing {sorted(own - set(weights))}, unexpected {sorted(set(weights) - own)}")
    model.load_state_dict(weights | {TIED: weights["model.embed_tokens.weight"]})


def named(parts: Tensor | Sequence[float]) -> dict:
    """(3 + Q, …) losses -> a dict for the log."""
    values = parts.tolist() if isinstance(parts, Tensor) else list(parts)
    text, audio, aux, *codebooks = values
    return {"text": text, "audio": audio, "aux": aux, "codebooks": codebooks}


# --- The log -----------------------------------------------------------------------------------------------------


def read_log(path: Path, validation: bool = False) -> list[dict]:
    """The steps of a log (or its validations), oldest first; a last line cut short by a kill is passed over."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if ("validation" in entry) == validation:
            found.append(entry)
    return found


class Log:
    """JSON lines for the notebooks, TensorBoard for who likes it."""

    def __init__(self, run_dir: Path, stage: str, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.path = run_dir / "log" / f"{stage}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = sorted(read_log(self.path) + read_log(self.path, True), key=lambda entry: entry["step"])
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in kept if entry["step"] < from_step), encoding="utf-8")
        unfinished.replace(self.path)
        self.file = open(self.path, "a", encoding="utf-8")
        self.board = SummaryWriter(str(run_dir / "tensorboard" / stage), purge_step=from_step, flush_secs=30)

    def write(self, entry: dict) -> None:
        self.file.write(json.dumps(entry) + "\n")
        kind = f"validation/{entry['validation']}" if "validation" in entry else "training"
        for name in ("text", "audio", "aux", "norm", "rate"):
            if name in entry:
                self.board.add_scalar(f"{kind}/{name}", entry[name], entry["step"])
        for number, loss in enumerate(entry.get("codebooks", ())):
            self.board.add_scalar(f"{kind}/codebook {number}", loss, entry["step"])

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


class NoLog:
    """The log of a process that another one speaks for."""

    def write(self, entry: dict) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


# --- A stage -----------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a stage stands; this and the tensors make a saved state."""

    done: int = 0  # passes finished
    step: int = 0  # steps done in the current pass
    chunk: int = 0  # where its data goes on
    number: int = 0
    before: int = 0  # steps of the passes finished
    skipped: int = 0
    useful: int = 0  # positions
    size: int = 0
    positions: int | None = None  # computed at once, where memory ran out before
    averaged: int | None = None  # updates of the weights' average; fewer than steps where some taught nothing


class Clock:
    """Wall and processor seconds since it was made, or since the last lap."""

    def __init__(self) -> None:
        self.wall, self.processor = time.monotonic(), time.process_time()

    def lap(self, steps: int) -> dict[str, float]:
        """Seconds a step.  The two differ where the process waits: for a card, or on a machine that others use."""
        before, self.wall, self.processor = (self.wall, self.processor), time.monotonic(), time.process_time()
        wall, processor = ((now - then) / steps for now, then in zip((self.wall, self.processor), before, strict=True))
        return {"seconds": round(wall, 4), "processor_seconds": round(processor, 4)}


class StageRun:
    """One call of `train`: opens everything, goes through the passes, saves on the way."""

    def __init__(self, profile: Profile, stage: str, run_dir: Path, settings: dict, encoders: Encoders | None) -> None:
        self.profile, self.stage, self.run_dir, self.settings = profile, stage, run_dir, settings
        self.group: Group = settings.get("group", Group())
        self.device: torch.device = settings["device"]
        self.dtype: torch.dtype = settings["dtype"]
        self.passes: tuple[StageConfig, ...] = settings["passes"]
        self.encoders = encoders or default_encoders(profile, self.device)
        self.tokenizer = ChatTokenizer.load(profile.tokenizer_dir)
        self.state_file = state_file(run_dir, stage)
        self.start = ""  # SHA-256 of the weights it starts from; process 0 knows it
        self.seen: dict[str, dict[str, str]] = {}  # by pass, what it learns from (`seen_by`)
        self.progress, self.counts = Progress(), Counts()
        self.bad: dict[tuple[str, int], BadRow] = {}
        self.saved: dict[str, Tensor] | None = None
        self.total_steps = 0  # of the passes opened so far
        self.waited = 0.0  # seconds without a batch

    # What a state belongs to: a state of other data, sizes or recipe must not be gone on from.
    def key(self) -> str:
        return settings_key(self.passes, self.profile, self.settings["seed"], self.dtype)

    def resume(self) -> bool:
        """Read an unfinished state, if there is one.  Raises ValueError where it was made with other settings."""
        if self.settings["fresh"] or not self.state_file.is_file():
            return False
        start, now = started_from(self.state_file), start_of(self.profile, self.stage, self.run_dir)
        if self.group.from_first(bool(start and now and start != now)):
            say(f"{told(self.state_file)} started from other weights than are there now; the stage begins anew")
            return False
        self.saved, about = load_state(self.state_file)
        if about["key"] != self.key():
            raise ValueError(
                f"{self.state_file} was made with other settings (recipe, model, seed or number format). Go on with those, or start "
                f"anew: fresh=True in train(), --fresh on the command line"
            )
        self.progress, self.counts = Progress(**about["progress"]), Counts(**about["counts"])
        self.start, self.seen = about.get("start", ""), about.get("seen", {})
        return True

    def model(self) -> OmniModel:
        """The model this stage starts from: T2A a text-pretrained Thinker, the others the stage before."""
        torch.manual_seed(self.settings["seed"])
        if self.stage == STAGES[0] or self.saved is not None:
            memory.keep(self.profile.model.use_moe)  # before the weights come: they lie on huge pages then
            model = OmniModel(self.profile.model)
            if self.saved is not None:
                say(f"going on with stage {self.stage} at pass {self.passes[self.progress.done].name}, step {self.progress.step}")
            else:
                load_thinker(model.model, self.profile.thinker_file)
                self.starts_from(self.profile.thinker_file)
                talker = "untrained Talker and projectors"
                if self.profile.talker_from_thinker:
                    start_talker(model)
                    talker = f"its last {len(model.talker.layers)} layers as a start for the Talker's, the rest untrained"
                say(f"weights: text-pretrained Thinker ({told(self.profile.thinker_file)}), {talker}{self.profile.caution}")
        else:
            path, words = latest_weights(self.profile, self.run_dir, before=self.stage)
            say(words)
            try:
                model = load_model(path, self.profile.model)
            except ValueError as error:
                whose = f"{error}. Are these the weights of another profile than {self.profile.full_name}? Name theirs with --profile, or give this run a folder of its own: --run"
                raise ValueError(whose) from error
            self.starts_from(path)
        return model.to(self.device).train()

    def starts_from(self, path: Path) -> None:
        """Remember the weights that the stage begins with: they are written down beside what becomes of them."""
        self.start = sha256_of(path) if self.group.first else ""

    def open(self, stage: StageConfig) -> tuple[Batches, dict[str, list[Batch]], int]:
        """Training batches, validation batches (for process 0) and number of steps of a pass."""
        layout = Layout(self.profile.model, self.tokenizer, stage.max_length)
        with self.group.in_turn():  # packed rows, features and held-out rows are made by process 0; the others read them
            corpora, shares = open_corpora(self.profile, stage, self.encoders, self.settings["strict"])
            held_out = validation_batches(self.profile, stage, self.encoders, layout) if self.group.first else {}
        for corpus in corpora:
            self.bad |= {(row.file, row.row): row for row in corpus.bad()}
        seen = {name: key for corpus in corpora for file in corpus.files for name, key in file.seen().items()}
        if self.saved is not None and (others := unlike(seen, self.seen.get(stage.name, seen))):
            raise ValueError(f"{self.state_file} was made on other rows than are there now ({', '.join(others)}). Put those back, or start anew: fresh=True in train(), --fresh on the command line")
        self.seen[stage.name] = seen
        of_batches = corpora, shares, layout, stage.token_budget, self.settings["seed"], stage.chunk_rows
        if self.group.size > 1:
            self.group.must_agree("rows and settings", [self.key(), *(f"{name} {key}" for name, key in sorted(seen.items()))])
            batches = SharedBatches(*of_batches, rank=self.group.rank, size=self.group.size, exchange=Exchange(self.group))
        else:
            batches = Batches(*of_batches)
        steps = stage.steps or max(1, round(stage.epochs * batches.steps_per_epoch()))
        rounded = ", products in bfloat16" if self.quick(stage) else ""
        say(f"pass {stage.name}: {steps} steps on {' + '.join(f'{len(corpus)}' for corpus in corpora)} rows, learning: {stage.trainable}{rounded}")
        return batches, held_out, steps

    def quick(self, stage: StageConfig) -> bool:
        """Whether a pass computes its products in bfloat16, as far as is known before it begins."""
        return products.are_wanted(stage, self.device, self.dtype, self.group.size) and not stage.compile

    def run(self, minutes: float | None, progress_bar: bool, pause: Callable[[], bool] | None = None) -> bool:
        """All passes that are left; False where time was up before, or a pause was asked for."""
        deadline = None if minutes is None else time.monotonic() + 60 * minutes

        def enough() -> bool:
            return bool(pause and pause()) or deadline is not None and time.monotonic() > deadline

        resumed = self.resume()
        model = self.model()
        if not resumed and self.group.first:
            self.state_file.unlink(missing_ok=True)  # its log ends here: nobody shall go on from it by mistake
        begun = self.progress.before + self.progress.step if resumed else 0
        log = Log(self.run_dir, self.stage, begun) if self.group.first else NoLog()
        for step, path in snapshots_of(self.run_dir, self.stage) if self.group.first else ():
            if step > begun:
                path.unlink()  # of an earlier run
        try:
            for number in range(self.progress.done, len(self.passes)):
                if not self.run_pass(model, self.passes[number], log, enough if deadline is not None or pause else None, progress_bar):
                    return False
        finally:
            log.close()
        if self.group.first:
            save_model(model, stage_file(self.run_dir, self.stage), onto_disk=True)  # the state goes behind it
            write_made(self.run_dir, self.stage, self.key(), self.settings["budget"], self.start, self.seen)
            self.state_file.unlink(missing_ok=True)
        self.group.wait()  # the next stage begins with this file
        return True

    def run_pass(
        self, model: OmniModel, stage: StageConfig, log: Log, enough: Callable[[], bool] | None, progress_bar: bool
    ) -> bool:
        """One pass to its end; the model then holds the average.  False where it was enough for now (asked behind every step)."""
        at = self.progress
        batches, held_out, steps = self.open(stage)
        self.total_steps = at.before + steps
        caps = [each for each in (at.positions, self.profile.positions_at_once) if each]
        stepper = Stepper(model, stage, steps, self.device, self.dtype, min(caps, default=None), self.group)
        if self.saved is not None:
            stepper.load(self.saved, at.step if at.averaged is None else at.averaged)
            self.saved = None
        if self.group.size > 1:  # all draw the same dropout, whatever process 0 has had to do so far
            set_random_state(self.group.from_first(random_state(self.device)), self.device)
        pending: list[tuple[dict, Tensor]] = []
        validate_at = {round(steps * part / VALIDATIONS) for part in range(1, VALIDATIONS + 1)}
        saved_at = time.monotonic()
        self.clock = Clock()
        shown = progress_bar and self.group.first
        bar = tqdm(total=steps, initial=at.step, desc=stage.name, unit="step", disable=not shown, mininterval=1.0)
        ahead = BatchesAhead(batches, at.chunk, at.number, self.settings["workers"], pin=self.device.type == "cuda")
        with bar, ahead:
            while at.step < steps:
                batch = next(ahead)
                self.waited += ahead.wait
                figures = stepper.step(batch, at.step)
                self.counts.add(batch)
                at.positions = stepper.ran_out or at.positions
                whole = batch.whole()
                pending.append((self.entry(stage, whole, steps), figures))
                at.step += 1
                at.chunk, at.number = batch.position
                at.useful, at.size = at.useful + whole.useful, at.size + whole.size
                stop = enough is not None and self.group.from_first(enough())  # all stop at the same step
                save = stop or time.monotonic() - saved_at > self.settings["checkpoint_seconds"] or at.step in self.settings["save_at"]
                if len(pending) == FETCH_STEPS or save or at.step in validate_at:
                    self.fetch(pending, log, bar)
                if at.step in validate_at and self.group.first:
                    self.validate(stepper, stage, held_out, log)
                if save and (at.step < steps or stop and stage is not self.passes[-1]):  # the next pass may have hours of features to make first
                    if self.group.first:
                        self.save(stepper, log)
                    saved_at = time.monotonic()
                    if stop:
                        return False
                if not pending:
                    self.clock = Clock()  # what was looked at and saved since the last step is no part of the next
        stepper.average.swap()
        at.before, at.step, at.done, at.chunk, at.number, at.averaged = at.before + steps, 0, at.done + 1, 0, 0, None
        return True

    def entry(self, stage: StageConfig, batch: Whole, steps: int) -> dict:
        """What is known of a step without asking the device."""
        at = self.progress
        rate = stage.learning_rate * rate_factor(at.step, steps, stage)
        return {
            "step": at.before + at.step, "pass": stage.name, "rate": rate, "rows": batch.rows,
            "positions": batch.size, "useful": batch.useful,
        }  # fmt: skip

    def fetch(self, pending: list[tuple[dict, Tensor]], log: Log, bar: tqdm) -> None:
        """Get the figures of the last steps from the device, at once; log and show them."""
        if not pending:
            return
        fetched = torch.stack([figures for _, figures in pending]).tolist()  # waits for the device
        took = self.clock.lap(len(pending))
        for (entry, _), values in zip(pending, fetched, strict=True):
            *losses, norm, bad = values
            self.progress.skipped += int(bad)
            log.write(entry | named(losses) | {"norm": norm, "skipped": bool(bad)} | took)
        log.flush()
        bar.update(len(pending))
        shown = {"text": f"{losses[0]:.3f}", "audio": f"{losses[1]:.3f}"}
        if self.progress.skipped:
            shown["skipped"] = self.progress.skipped
        bar.set_postfix(shown)
        pending.clear()

    def validate(self, stepper: Stepper, stage: StageConfig, held_out: dict[str, list[Batch]], log: Log) -> None:
        """Held-out losses of the averaged weights; with `snapshots`, these weights are kept."""
        if self.settings["snapshots"]:
            with stepper.averaged() as model:
                save_model(model, snapshot_file(self.run_dir, self.stage, self.progress.before + self.progress.step), torch.float16)
        for name, batches in held_out.items():
            figures = stepper.validate(batches)
            if figures:
                log.write({"validation": name, "step": self.progress.before + self.progress.step - 1, "pass": stage.name} | figures)
        log.flush()

    def save(self, stepper: Stepper, log: Log) -> None:
        """The state of this moment; the log reaches exactly as far."""
        self.progress.averaged = stepper.average.updates
        about = {"key": self.key(), "start": self.start, "seen": self.seen, "progress": asdict(self.progress), "counts": asdict(self.counts)}
        save_state(self.state_file, stepper.tensors(), about)

    def report_bad(self) -> tuple[BadRow, ...]:
        """Say which rows were left out, and write all of them to a file."""
        bad = tuple(self.bad[key] for key in sorted(self.bad))
        if bad and self.group.first:
            path = self.run_dir / "log" / f"{self.stage}.bad-rows.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{row}\n" for row in bad), encoding="utf-8")
            for row in bad[:BAD_ROWS_SHOWN]:
                say(f"left out: {row}")
            say(f"{len(bad)} bad rows left out; all are listed in {path}")
        return bad


def say(words: str) -> None:
    """A line for people, beside the progress bar; of several processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(words)


def peak_memory(device: torch.device) -> int:
    """Bytes at most so far: on the card, else of this process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else process_peak(os.getpid())


def process_peak(process: int) -> int:
    """The most bytes that a living process has held so far; where the system keeps no such figure, what it holds now.

    Not `ru_maxrss`: on Linux that begins with what the parent held when it started the process.
    """
    status = Path(f"/proc/{process}/status")
    if status.is_file():
        lines = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(lines[0].split()[1]) if lines else 0  # none: it has just ended
    import psutil

    held = psutil.Process(process).memory_info()
    return getattr(held, "peak_wset", held.rss)


def settings_key(passes: Sequence[StageConfig], profile: Profile, seed: int, dtype: torch.dtype) -> str:
    """A short name for what decides a stage's weights beside its data and the weights it starts from: recipe, model, seed, number format.

    Quick products count as the recipe asks for them, not as this machine has units for them: a state may go on, and finished weights serve, on another.
    """
    told = [asdict(each) for each in passes]
    for each in told:
        if not each["quick_products"] or dtype != torch.float32:  # as before there were any
            del each["quick_products"]
    told += [profile.model.to_dict(), seed, str(dtype)]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=list).encode()).hexdigest()[:16]


def start_of(profile: Profile, stage: str, run_dir: Path) -> str:
    """SHA-256 of the weights that a stage would start from now; "" where they are not there, which training says better."""
    try:
        path = profile.thinker_file if stage == STAGES[0] else latest_weights(profile, run_dir, before=stage)[0]
        return sha256_of(path)
    except FileNotFoundError:
        return ""


def planned_passes(profile: Profile, stage: str, budget: str, steps: int | None, compile: bool = False) -> tuple[StageConfig, ...]:
    """The passes of a stage under a budget; `steps` spreads another number of steps over them in proportion; `compile`: all compiled."""
    if stage not in profile.stages:
        raise ValueError(f"no stage {stage!r}; there are {', '.join(profile.stages)}")
    passes = profile.stages[stage]
    if budget == "smoke":
        passes = tuple(each.replace(steps=each.smoke_steps, epochs=None, sound_copies=1, picture_copies=1) for each in passes)
    elif budget == "rehearse":
        passes = tuple(rehearsed(each, profile.positions_at_once) for each in passes)
    elif budget != "full":
        raise ValueError(f"no budget {budget!r}; there are {', '.join(BUDGETS)}")
    if steps is not None:
        if any(each.steps is None for each in passes):
            raise ValueError(f"stage {stage} of profile {profile.name} counts in epochs; its steps cannot be set")
        whole = sum(each.steps for each in passes)
        passes = tuple(each.replace(steps=max(1, round(each.steps * steps / whole))) for each in passes)
    return tuple(each.replace(compile=True) for each in passes) if compile else passes


def rehearsed(stage: StageConfig, positions: int | None) -> StageConfig:
    """A pass for a few steps.  Where less is computed at once, its batches are no larger: pieces would take as long, and no more memory."""
    budget = stage.token_budget if positions is None else min(stage.token_budget, max(stage.max_length, positions))
    return stage.replace(steps=REHEARSED_STEPS, epochs=None, sound_copies=1, picture_copies=1, token_budget=budget)


@contextmanager
def alone_in(run_dir: Path, group: Group) -> Iterator[None]:
    """One training at a time works in a folder: two would overwrite each other's states, logs and weights.

    Raises ValueError where another is at work there.  The lock is the system's: one that was killed leaves none behind.
    """
    if not group.first:  # process 0 writes, so it alone asks
        yield
        return
    place = run_dir / "log" / ".training.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{run_dir}: another training is at work in this folder; wait until it has ended, or give this one a folder of its own: "
            "--run FOLDER on the command line, run_dir= in train()"
        ) from None
    try:
        yield
    finally:
        lock.release()


def own_device(profile: Profile, group: Group) -> torch.device:
    """Where this process computes: of several on one machine each has a card of its own.  Raises ValueError where there are too few."""
    device = profile.device()
    if device.type != "cuda" or group.size == 1:
        return device
    number, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= cards:
        raise ValueError(f"torchrun has started more processes here than there are cards ({cards}): --nproc-per-node {cards}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def train(
    profile: Profile,
    stage: str,
    budget: str = "full",
    run_dir: Path | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    encoders: Encoders | None = None,
    fresh: bool = False,
    strict: bool = False,
    progress_bar: bool = True,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    save_at: Sequence[int] = (),
    snapshots: bool = False,
    workers: int | None = None,
    compile: bool = False,
    pause: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train one stage ("t2a", "a2a", "i2t") of a profile, or go on with it where it was interrupted.

    budget: "full", "smoke" for a few dozen steps, or "rehearse" for a few.  run_dir: default runs/<profile>[-<budget>].  minutes: pause after so
    long (state saved; the schedule stays as it is).  steps: another number of steps in all, for a scaled recipe.  fresh:
    forget an interrupted run.  strict: raise at the first bad row.  encoders, device, dtype: default the profile's.
    save_at: also save the state after these steps of a pass.  snapshots: keep the averaged weights of every validation (half
    precision, `checkpoint.snapshots_of`), to listen to the same sentence on the way.  workers: processes that make batches ahead
    (0: none; default `loader.default_workers`); the run is the same with any number.  compile: the blocks by torch.compile (`compiling.py`), in
    all passes; off, with the reason, where that fails.  pause: asked behind every step; where it says True the state is saved and the call returns.

    Started by torchrun, all processes share every batch: the losses and the weights are those of one (docs/scale_out.md).  Process 0 writes.

    Writes <run_dir>/<stage>.safetensors when done.  Raises DataError (file and row), FileNotFoundError, ValueError (another training in this
    folder, too), OSError where the disk refuses: the last saved state is then still there.
    """
    started, group = time.monotonic(), Group.join()
    with group.naming_errors():
        run_dir = Path(run_dir) if run_dir else default_run_dir(profile, budget)
        device = device or own_device(profile, group)
        settings = {
            "passes": planned_passes(profile, stage, budget, steps, compile), "budget": budget,
            "seed": seed, "fresh": fresh, "strict": strict, "group": group, "device": device, "dtype": dtype or profile.dtype(device),
            "checkpoint_seconds": profile.checkpoint_seconds, "snapshots": snapshots,
            "save_at": set(save_at) | ({REHEARSED_SAVE} if budget == "rehearse" else set()),
            "workers": default_workers(device) if workers is None else workers,
        }  # fmt: skip
        with alone_in(run_dir, group):
            run = StageRun(profile, stage, run_dir, settings, encoders)
            finished = run.run(minutes, progress_bar, pause)
        at = run.progress
        result = TrainResult(
            stage=stage,
            finished=finished,
            steps=at.before + at.step,
            total_steps=run.total_steps if any(each.steps is None for each in run.passes) else sum(each.steps for each in run.passes),
            skipped=at.skipped,
            seconds=time.monotonic() - started,
            model_file=stage_file(run_dir, stage),
            log_file=run_dir / "log" / f"{stage}.jsonl",
            bad_rows=run.report_bad(),
            rows=run.counts.rows,
            answers_cut=run.counts.answers_cut,
            stops_cut=run.counts.stops_cut,
            useful=at.useful / max(1, at.size),
            waited=run.waited,
            memory=max(group.gather(peak_memory(device))),
            fresh=fresh,
        )
        if group.first:
            write_result(result, run_dir / "log" / f"{stage}.result.json", device)
        say(str(result))
        del run  # weights, averages, moments: what comes next in a notebook wants the room
        memory.give_back(device)
        return result


def write_result(result: TrainResult, path: Path, device: torch.device) -> None:
    """The figures of a call beside its log, for programs."""
    told = asdict(result) | {"bad_rows": len(result.bad_rows), "device": device.type}
    path.write_text(json.dumps(told, default=str, indent=1) + "\n", encoding="utf-8")
