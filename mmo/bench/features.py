"""`mmo features --bench`: training on sounds whose features lie in the cache, against the encoder in every step.

    cached     `FeatureStore`: a view into a memory map, widened from 16 bits
    encoder    the question's bytes read, augmented and sent through the speech encoder, a batch at a time, in every step

Both train on the same rows with the same augmentation, so that the features are the same within what 16 bits hold (`EncodedEachTime` shows it,
row by row) and so are the losses: the rate is 0, as in `mmo bench train`.  Both passes of A2A are measured: where only the projector learns, a
step is cheap and the encoder weighs most.

Where the profile's encoder has not been fetched, one of SenseVoice-Small's sizes with drawn weights stands in: speed does not depend on
weights.  Rows are those of data/tiny's a2a-train, with drawn speaker vectors where the model's are of another size.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mmo.augmentation import Augmentation, augment
from mmo.bench.clock import ProcessorTime, alternate, median_ratio, seconds_of
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.train import quiet_stage
from mmo.chat import ChatTokenizer
from mmo.config import Draws, StageConfig
from mmo.data import Batch, Batches, Corpus, DataFile, Layout, collate, pad_features
from mmo.features import FeatureStore, Frozen, cache_features, cells_of, encode_items, frozen_speech
from mmo.omni import OmniModel
from mmo.profiles import Profile, profile
from mmo.rows import BadRow, open_rows, read_batches
from mmo.training import Stepper, default_encoders

COLUMN = "question_audios"
SENSEVOICE_SMALL = dict(
    input_size=560, output_size=512, attention_heads=4, linear_units=2048, num_blocks=50, tp_blocks=20, dropout_rate=0.1,
    attention_dropout_rate=0.1, input_layer="pe", pos_enc_class="SinusoidalPositionEncoder", normalize_before=True, kernel_size=11,
    sanm_shfit=0, selfattention_layer_type="sanm",
)  # fmt: skip


@dataclass(frozen=True)
class FeaturesBench:
    """Settings of one measurement."""

    rows: int = 8  # of one update
    rounds: int = 3  # counted; one more warms up
    pool: int = 64  # rows that are cached, to choose the updates from
    copies: int = 1
    seed: int = 0


class EncodedEachTime:
    """What `FeatureStore` gives, from the encoder itself and in its own precision: for comparison."""

    def __init__(self, path: Path, column: str, frozen: Frozen, copies: int = 1, seed: int = 0) -> None:
        self.frozen, self.copies, self.seed = frozen, copies if frozen.augment else 1, seed
        self.cells = [cells for _, batch in read_batches(path, (column,)) for cells in cells_of(batch, column, path)]
        self.bad: list[BadRow] = []
        for row, cells in enumerate(self.cells):
            try:
                for data in filter(None, cells):
                    frozen.decode(data)
            except ValueError as error:
                self.bad.append(BadRow(path.name, row, str(error)))

    def count(self, row: int) -> int:
        return len(self.cells[row])

    def item(self, row: int, number: int, copy: int):
        """The sound as the encoder gets it; None where there is none."""
        data = self.cells[row][number] if number < self.count(row) else b""
        if not data:
            return None
        item, copy = self.frozen.decode(data), copy % self.copies
        return item if self.frozen.augment is None else self.frozen.augment(item, np.random.default_rng((self.seed, row, number, copy)))

    def get(self, row: int, number: int, copy: int = 0) -> np.ndarray:
        """(N, D) float32."""
        return encode_items([self.item(row, number, copy)], self.frozen)[0]


# --- What is measured --------------------------------------------------------------------------------------------


def rows_with_sounds(chosen: Profile, folder: Path, count: int, seed: int) -> Path:
    """The first rows of data/tiny's a2a-train, with speaker vectors of the model's size."""
    source = profile("tiny").data_dir / "a2a-train.parquet"
    table = pa.Table.from_batches([next(pq.ParquetFile(source).iter_batches(count))])
    if chosen.model.spk_emb_size != profile("tiny").model.spk_emb_size:
        drawn = np.random.default_rng(seed).standard_normal((len(table), chosen.model.spk_emb_size)).astype(np.float32)
        place = table.schema.get_field_index("spk_emb")
        table = table.set_column(place, "spk_emb", pa.array(list(drawn), pa.list_(pa.float32())))
    path = folder / "a2a-train.parquet"
    pq.write_table(table, path)
    return path


def full_size_ear(device: torch.device):
    """A speech encoder of SenseVoice-Small's sizes (234 M parameters, the head aside) with drawn weights."""
    from mmo.speech_encoder import SpeechEncoder, auto_model, undisturbed

    with undisturbed():
        auto_model()
        from funasr.frontends.wav_frontend import WavFrontend
        from funasr.models.sense_voice.model import SenseVoiceEncoderSmall

        holder = torch.nn.Module()
        holder.encoder = SenseVoiceEncoderSmall(**SENSEVOICE_SMALL)
        cmvn = str(profile("tiny").speech_encoder_dir / "am.mvn")
        frontend = WavFrontend(cmvn, fs=16_000, window="hamming", n_mels=80, frame_length=25, frame_shift=10, lfr_m=7, lfr_n=6, dither=0.0)
    return SpeechEncoder(holder, frontend, device=device)


def ear_of(chosen: Profile, device: torch.device) -> tuple[Frozen, str]:
    """The profile's speech encoder, or one of its size; and a sentence that says which.  Raises FileNotFoundError."""
    if (own := default_encoders(chosen, device).speech) is not None:
        return own, f"the profile's own speech encoder ({chosen.speech_encoder_dir.name})"
    if chosen.model.audio_hidden_size != SENSEVOICE_SMALL["output_size"]:
        raise FileNotFoundError(f"{chosen.speech_encoder_dir}: no speech encoder; SenseVoice-Small's features do not fit profile {chosen.name}")
    settings = Augmentation()
    found = frozen_speech(lambda: full_size_ear(device), 512, "drawn weights", partial(augment, settings=settings), str(settings))
    return found, "a speech encoder of SenseVoice-Small's sizes with drawn weights: the real one has not been fetched"


@dataclass(frozen=True)
class Question:
    """Where a row's sound is found: what the encoder's way needs besides the batch."""

    row: int
    copy: int


class Ways:
    """One update, from the cache or through the encoder."""

    def __init__(self, store: FeatureStore, live: EncodedEachTime, corpus: Corpus, layout: Layout, settings: FeaturesBench) -> None:
        self.store, self.live, self.config = store, live, layout.config
        chunk = Batches([corpus], [1.0], layout, layout.max_length, settings.seed, settings.pool).chunk(0)
        middle = (len(chunk) - settings.rows) // 2
        self.examples = chunk[middle : middle + settings.rows]
        self.questions = [Question(int(example.name.rsplit(" ", 1)[1]), 0) for example in self.examples]

    def cached(self) -> Batch:
        """The batch, its features out of the memory map."""
        examples = [replace(each, sound=self.store.get(at.row, 0, at.copy)) for each, at in zip(self.examples, self.questions, strict=True)]
        return collate(examples, self.config)

    def sounds(self) -> list:
        """Read and augmented."""
        return [self.live.item(at.row, 0, at.copy) for at in self.questions]

    def encoded(self) -> Batch:
        """The batch, its features fresh from the encoder, all rows together."""
        features, lengths = pad_features(encode_items(self.sounds(), self.live.frozen))
        return replace(self.plain, audio_features=features, audio_lengths=lengths)

    @property
    def plain(self) -> Batch:
        return collate(self.examples, self.config)


def stage_for(chosen: Profile, which: int) -> StageConfig:
    """The A2A pass, quiet: every row with its sound, nothing drawn."""
    return quiet_stage(chosen.stages["a2a"][which]).replace(trainable=chosen.stages["a2a"][which].trainable, draws=Draws.none())


def bench_features(chosen: Profile, settings: FeaturesBench, device: torch.device | None = None, folder: Path | None = None,
                   ear: tuple[Frozen, str] | None = None) -> Report:  # fmt: skip
    """Measure.  folder: for rows and features, default a temporary one.  Raises ValueError, FileNotFoundError."""
    device = device or chosen.device()
    dtype, stage = chosen.dtype(device), chosen.stages["a2a"][-1]
    frozen, which = ear or ear_of(chosen, device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        place = folder or Path(temporary)
        path = rows_with_sounds(chosen, place, settings.pool, settings.seed)
        frozen.encode([np.zeros(16_000, np.float32)])  # loads it: that is no part of either way
        making = seconds_of(lambda: cache_features(path, COLUMN, frozen, place, settings.copies, settings.seed), device)
        store = cache_features(path, COLUMN, frozen, place, settings.copies, settings.seed)
        layout = Layout(chosen.model, ChatTokenizer.load(profile("tiny").tokenizer_dir), stage.max_length)
        corpus = Corpus([DataFile(open_rows(path, chosen.model, place), sounds=store)], Draws.none())
        if len(corpus) < settings.rows:
            raise ValueError(f"{len(corpus)} rows are too few for an update of {settings.rows}")
        ways = Ways(store, EncodedEachTime(path, COLUMN, frozen, settings.copies, settings.seed), corpus, layout, settings)
        torch.manual_seed(settings.seed)
        model = OmniModel(chosen.model).to(device).train()
        losses: dict[str, Tensor] = {}
        samples, watches = {}, {}
        for number, name in ((0, "projector learns"), (1, "all learns")):
            stepper = Stepper(model, stage_for(chosen, number), 1000, device, dtype)
            watches |= (arms := {arm: ProcessorTime(work) for arm, work in arms_of(ways, stepper, name, losses).items()})
            samples |= alternate(arms, settings.rounds, device)
        parts = {"read": ProcessorTime(ways.cached), "sounds": ProcessorTime(ways.sounds), "encoded": ProcessorTime(ways.encoded)}
        alternate(parts, settings.rounds, device)
        one, other = ways.cached().audio_features, ways.encoded().audio_features
    medians = {name: statistics.median(taken) for name, taken in samples.items()}
    worked = {name: watch.median(settings.rounds) for name, watch in watches.items()}
    part = {name: 1000 * watch.median(settings.rounds) / settings.rows for name, watch in parts.items()}
    names = ("projector learns", "all learns")
    used = len(corpus) * store.copies
    return Report(
        title=f"A2A, {chosen.name}: one update of {settings.rows} rows, features from the cache or from the encoder",
        columns=tuple(samples),
        lines=(
            Line("one update", "s", tuple(medians.values())),
            Line("rows a second", "", tuple(settings.rows / each for each in medians.values())),
            Line("one update, processor time", "s", tuple(worked.values())),
        ),
        ratios={
            f"rows a second, {name}: cached over encoder": median_ratio(samples[f"{name}, encoder"], samples[f"{name}, cached"])
            for name in names
        }
        | {f"processor time an update, {name}: encoder over cached": worked[f"{name}, encoder"] / worked[f"{name}, cached"] for name in names},
        checks={
            "reading from the cache and stacking, processor ms a row": part["read"],
            "reading and augmenting a sound, processor ms a row": part["sounds"],
            "with the encoder and stacking, processor ms a row": part["encoded"], "making the cache, rows a second and copy": used / making,
            "cache, kB a row and copy": store.values.nbytes / used / 1e3, "features a row": len(store.values) / used,
            "largest difference of a feature, of its size": float(((one - other).abs() / other.abs().clamp(min=2**-14)).max()),
            "largest difference of a loss": max(float((losses[f"{name}, cached"] - losses[f"{name}, encoder"]).abs().max()) for name in names),
        },
        settings={
            "profile": chosen.name, "rows an update": settings.rows, "rounds": settings.rounds, "seed": settings.seed,
            "computed in": str(dtype).removeprefix("torch."),
        },
        machine=describe_machine(device),
        samples=samples | {f"{name}, processor": watch.seconds[-settings.rounds :] for name, watch in (watches | parts).items()},
        notes=(which,),
    )  # fmt: skip


def arms_of(ways: Ways, stepper: Stepper, name: str, losses: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
    """An update each way; the last losses are left in `losses`."""

    def arm(way: str, batch: Callable[[], Batch]) -> Callable[[], None]:
        def work() -> None:
            losses[f"{name}, {way}"] = stepper.step(batch(), 500)[:2]

        return work

    return {f"{name}, cached": arm("cached", ways.cached), f"{name}, encoder": arm("encoder", ways.encoded)}
