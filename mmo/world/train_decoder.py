"""The tiny codec's last sitting: its decoder learns what a Talker's codes are worth. Encoder and codebooks rest, so every stored code stays valid.

A Talker predicts codebooks 0 and 1; what it says in the other six is plausible and seldom right. A decoder that was taught on true
codes believes all eight. So here, in half of the steps, the codes behind the first two are those of other frames, and the true sound is
wanted. In other steps fewer are false, the last codebooks are left out, or all is true.

Three losses, added:

    mel       distance between log-mel spectrograms, as in train_codec
    features  distance between what the frozen speech encoder makes of the decoded and of the true sound: it minds what makes a word
    variance  how much the decoded sound's cepstra vary, beside the true sound's. Whoever is measured by distance alone says the mean
              of all that a code may stand for, and a mean is too smooth: joe's fine cepstra varied about half as much as in the recording

The judge (pocketsphinx) has no part in it. Codes that the Talker itself had guessed, in place of other frames', were no better.

Two sittings from the same weights see other batches, and the mean of their weights is written: better than each after 1 300 steps,
no worse after 5 500.

    python -m mmo.world.train_decoder            # speech in build/world/speech; goes on from its checkpoints; writes data/tiny/codec.safetensors
                                                 # and figures/decoder.json
    python -m mmo.world.train_decoder --only 1   # one of the sittings, for a core of its own; the plain command joins them
    python -m mmo.world.train_decoder --work FOLDER --more slt --seeds 2 --start-too   # go on from the shipped decoder, with more of a
                                                 # voice; the mean of before and after (better than after alone where all codes are true)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import memory
from ..codec import Codec, save_codec
from ..speech_encoder import SAMPLE_RATE as EAR_RATE
from ..speech_encoder import SpeechEncoder
from . import plan, speech
from .train_codec import FLOOR, FRAME, SAMPLE_RATE, MelLoss, falsified

SEEDS = (0, 1)  # of the sittings whose mean is taken
KNOWN = 2  # codebooks that a Talker predicts well enough to be believed


@dataclass(frozen=True)
class DecoderTraining:
    """How the decoder is taught."""

    steps: int = 5500
    batch_frames: int = 56  # padding included
    learning_rate: float = 4e-4
    warmup: int = 100
    features: float = 0.5  # weight of the features' loss
    variance: float = 0.3  # weight of the variances' loss; at 1.0 slt was heard worse than without it where later codes are false or missing
    unknown: float = 0.5  # share of the steps whose codes from codebook 2 on are those of other frames
    strange: float = 0.1  # … from a codebook drawn among 3 … 6 on
    fewer: float = 0.1  # … whose codes are left out, from a codebook drawn among 2 … 5 on
    more: tuple[str, ...] = ()  # voices of which twice as many utterances are drawn
    seed: int = 0


@dataclass(frozen=True)
class Utterance:
    """One spoken answer in whole frames."""

    voice: str
    sound: Tensor  # (1920 F,)
    codes: Tensor  # (Q, F)


class FeatureLoss(nn.Module):
    """How far the speech encoder's features of two sounds lie apart: mean absolute difference over their standard deviation."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.encoder, self.resample = encoder, torchaudio.transforms.Resample(SAMPLE_RATE, EAR_RATE)

    def features(self, waves: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """waves (B, 1, samples) at 24 kHz, true lengths in samples -> (B, N, D), and which of them are real (B, N).  Gradients flow."""
        frames, counts = self.encoder.frontend(self.resample(waves[:, 0]), [length * EAR_RATE // SAMPLE_RATE for length in lengths])
        found, _ = self.encoder.model.encoder(frames, counts)
        return found, torch.arange(found.shape[1]) < counts[:, None]

    def forward(self, heard: Tensor, wanted: Tensor, lengths: Sequence[int]) -> Tensor:
        with torch.no_grad():
            target, real = self.features(wanted, lengths)
        found, _ = self.features(heard, lengths)
        return (found - target)[real].abs().mean() / target[real].std()


class GlobalVarianceLoss(nn.Module):
    """How far the variances of two sounds' cepstra lie apart: mean absolute difference of their logarithms.

    Cepstra of log-mel spectrograms at several window lengths, about the utterance's mean, and their differences over two hops, which
    keep the sound's pace. Each variance is one number over the batch (Toda and Tokuda, *Speech parameter generation considering
    global variance*, 2007), so a frame is free to be wrong; that it is right is the mel loss's matter.
    """

    SOFT = 0.02  # of the mean variance, added to each: cepstra that hardly vary do not count

    def __init__(self, windows: tuple[tuple[int, int], ...] = ((512, 40), (1024, 60), (2048, 80))):
        super().__init__()
        self.scales = nn.ModuleList(
            torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=size, hop_length=size // 4, n_mels=mels, f_min=20, power=1.0) for size, mels in windows)
        self.cosines = [torchaudio.functional.create_dct(mels, mels, "ortho") for _, mels in windows]

    def variances(self, waves: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """waves (B, 1, samples), true lengths in samples -> per window length the variances of cepstra and of their differences (mels,)."""
        found = []
        for scale, cosines in zip(self.scales, self.cosines):
            cepstra = (scale(waves[:, 0]) + FLOOR).log().transpose(1, 2) @ cosines  # (B, N, mels)
            rows = [row[: length // scale.hop_length] for row, length in zip(cepstra, lengths)]
            about_mean, paces = [row - row.mean(0) for row in rows], [row[2:] - row[:-2] for row in rows]
            found += [torch.cat(each).square().mean(0) for each in (about_mean, paces)]
        return found

    def forward(self, heard: Tensor, wanted: Tensor, lengths: Sequence[int]) -> Tensor:
        """Both (B, 1, samples), their true lengths in samples -> a scalar."""
        with torch.no_grad():
            targets = self.variances(wanted, lengths)
        pairs = [(found, target, self.SOFT * target.mean()) for found, target in zip(self.variances(heard, lengths), targets)]
        return torch.stack([((found + soft).log() - (target + soft).log()).abs().mean() for found, target, soft in pairs]).mean()


class Batches:
    """Batches of utterances of similar length, drawn by the step's number alone, so that a resumed training draws the same."""

    def __init__(self, utterances: Sequence[Utterance], settings: DecoderTraining):
        self.utterances, self.settings = utterances, settings
        self.strangers = torch.cat([each.codes for each in utterances], dim=1).T
        voices = sorted({each.voice for each in utterances})
        if unknown := set(settings.more) - set(voices):
            raise ValueError(f"more of {', '.join(sorted(unknown))}: the utterances are spoken by {', '.join(voices)}")
        self.voices = {voice: [n for n, each in enumerate(utterances) if each.voice == voice] for voice in voices}

    def chosen(self, rng: random.Random) -> list[Utterance]:
        """Neighbours in length out of a draw from all voices alike (twice as many of those in `more`), as many as fit."""
        counts = {voice: 48 if voice in self.settings.more else 24 for voice in self.voices}
        pool = [n for voice, spoken in self.voices.items() for n in rng.sample(spoken, min(counts[voice], len(spoken)))]
        pool = sorted((self.utterances[n] for n in pool), key=lambda each: each.codes.shape[1])
        found: list[Utterance] = []
        for each in pool[rng.randrange(max(1, len(pool) - 3)) :]:
            if found and each.codes.shape[1] * (len(found) + 1) > self.settings.batch_frames:
                break
            found.append(each)
        return found

    def others(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Codes of frames drawn from all utterances, in the shape of `codes` (B, Q, F)."""
        B, _, F = codes.shape
        return self.strangers[torch.randint(len(self.strangers), (B, F), generator=generator)].transpose(1, 2)

    def batch(self, step: int) -> tuple[Tensor, Tensor, list[int]]:
        """Codes to be decoded (B, 1 … Q, F), the sound wanted (B, 1, 1920 F), samples of each row that are no padding."""
        settings = self.settings
        rng, generator = random.Random(f"{settings.seed}-{step}"), torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        chosen, draw = self.chosen(rng), rng.random()
        lengths = [len(each.sound) for each in chosen]
        codes = nn.utils.rnn.pad_sequence([each.codes.T for each in chosen], batch_first=True).transpose(1, 2)
        sound = nn.utils.rnn.pad_sequence([each.sound for each in chosen], batch_first=True)[:, None]
        if draw < settings.unknown:
            codes = falsified(codes, self.others(codes, generator), KNOWN, rng.choice((1.0, rng.uniform(0.5, 1.0))), generator)
        elif draw < settings.unknown + settings.strange:
            codes = falsified(codes, self.others(codes, generator), rng.randint(3, 6), rng.uniform(0.2, 1.0), generator)
        elif draw < settings.unknown + settings.strange + settings.fewer:
            codes = codes[:, : rng.randint(2, 5)]
        return codes, sound, lengths


def decoding_side(model: nn.Module) -> list[nn.Parameter]:
    """What no code depends on: all behind the codebooks.  Everything else is frozen."""
    model.requires_grad_(False)
    parts = (model.quantizer.rvq_first.output_proj, model.quantizer.rvq_rest.output_proj, model.upsample, model.decoder_transformer, model.decoder)
    return [parameter.requires_grad_() for part in parts for parameter in part.parameters()]


class Trainer:
    """Decoder, losses, optimiser and data.  One call of `update` is one step."""

    COLUMNS = ("mel", "features", "variance", "norm")

    def __init__(self, codec: Codec, encoder: SpeechEncoder, utterances: Sequence[Utterance], settings: DecoderTraining):
        self.model, self.settings, self.step = codec.model, settings, 0
        self.began = fingerprint(self.model)
        self.parameters = decoding_side(self.model)
        self.mel, self.features, self.variance, self.data = MelLoss(), FeatureLoss(encoder), GlobalVarianceLoss(), Batches(utterances, settings)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda s: min((s + 1) / settings.warmup, max(0.0, 1 - s / settings.steps)))

    def update(self) -> Tensor:
        """One step; its losses and the gradient's norm, (4,) as COLUMNS names them."""
        settings = self.settings
        codes, wanted, lengths = self.data.batch(self.step)
        real = (torch.arange(wanted.shape[-1]) < torch.tensor(lengths)[:, None])[:, None]
        heard = self.model.decode(codes)[..., : wanted.shape[-1]] * real
        mel, features, variance = self.mel(heard, wanted), self.features(heard, wanted, lengths), self.variance(heard, wanted, lengths)
        self.optimiser.zero_grad(set_to_none=True)
        (mel + settings.features * features + settings.variance * variance).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 3.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return torch.stack([mel.detach(), features.detach(), variance.detach(), norm])

    def state(self) -> dict:
        """All that a resumed training needs."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(), "step": self.step,
                "settings": asdict(self.settings), "began": self.began}

    def restore(self, state: dict) -> None:
        """Go on from such a state.  Raises ValueError where it is of other settings, or began with another codec."""
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"the saved state is of other settings: {state['settings']}")
        if state.get("began") != self.began:
            raise ValueError("the saved state began with another codec")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train(trainer: Trainer, folder: Path, save_every: int = 250) -> list[list[float]]:
    """To the end of the settings' steps, going on from `folder/decoder.pt`; the curve: step and means of `Trainer.COLUMNS`, every 50 steps.

    Raises ValueError naming that file where it is of another sitting.
    """
    state_file, curve, sums = folder / "decoder.pt", [], torch.zeros(len(Trainer.COLUMNS))
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        try:
            trainer.restore(state)
        except ValueError as error:
            raise ValueError(f"{state_file}: {error}; delete it to begin a new sitting") from error
        curve = state["curve"]
    steps = trainer.settings.steps
    bar = tqdm(range(trainer.step, steps), initial=trainer.step, total=steps, desc="decoder", mininterval=10)
    for step in bar:
        sums += trainer.update()
        if (step + 1) % 50 == 0:
            curve.append([step + 1, *(round(each, 4) for each in (sums / 50).tolist())])
            sums.zero_()
            bar.set_postfix(dict(zip(Trainer.COLUMNS, curve[-1][1:])))
        if (step + 1) % save_every == 0 or step + 1 == steps:
            partial = state_file.with_suffix(".partial")
            torch.save(trainer.state() | {"curve": curve}, partial)
            partial.replace(state_file)
    trainer.model.eval()
    return curve


# --- Data --------------------------------------------------------------------------------------------------------


def read_utterances(folder: Path, codec: Codec) -> list[Utterance]:
    """The training answers that are spoken in `folder` (not all need be), encoded.  Raises FileNotFoundError where there is none."""
    answers, found = plan.answer_plan(), []
    sounds = speech.load(folder, "answers", len(answers), complete=False)
    spoken = [r for r in answers if r.split == "train" and sounds[r.id] is not None]
    for r in tqdm(spoken, desc="encode the answers"):
        samples = sounds[r.id]
        sound = torch.zeros(-(-len(samples) // FRAME) * FRAME)
        sound[: len(samples)] = torch.from_numpy(samples.astype(np.float32) / 32768)
        found.append(Utterance(r.voice, sound, codec.encode(sound[None, None])[0]))
    if not found:
        raise FileNotFoundError(f"{folder}: no training answer is spoken there; run `mmo world build`")
    return found


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several weights that began as the same ones (Wortsman et al., *Model soups*, 2022); what they share stays as it is."""
    def mean(values: Sequence[Tensor]) -> Tensor:
        alike = all(torch.equal(value, values[0]) for value in values)
        return values[0] if alike else torch.stack(list(values)).mean(0)

    return {name: mean([state[name] for state in states]) for name in states[0]}


def one_each(seeds: Sequence[int], values: Sequence[float], name: str) -> dict[int, float]:
    """A sitting's value by its seed, where one stands for all of them or each has its own.  Raises ValueError naming the option."""
    if len(values) not in (1, len(seeds)):
        raise ValueError(f"--{name} has {len(values)} values for {len(seeds)} sittings")
    return dict(zip(seeds, list(values) * len(seeds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, default=Path("build/world/speech"), help="spoken answers; some shards of them will do")
    parser.add_argument("--data", type=Path, default=Path("data/tiny"))
    parser.add_argument("--work", type=Path, default=Path("build/world/decoder"), help="checkpoints")
    parser.add_argument("--steps", type=int, default=DecoderTraining.steps)
    parser.add_argument("--learning-rate", type=float, default=DecoderTraining.learning_rate)
    parser.add_argument("--features", type=float, nargs="+", default=[DecoderTraining.features], help="weight of the features' loss: one for all sittings, or one each")
    parser.add_argument("--variance", type=float, default=DecoderTraining.variance, help="weight of the variances' loss")
    parser.add_argument("--unknown", type=float, nargs="+", default=[DecoderTraining.unknown], help="share of the steps with codebooks 0 and 1 alone true: one for all sittings, or one each")
    parser.add_argument("--more", nargs="+", default=[], metavar="VOICE", help="draw twice as many utterances of these voices")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="one sitting each, from the same weights; their mean is what is written")
    parser.add_argument("--start-too", action="store_true", help="the weights that the sittings began with have a part in the mean, too")
    parser.add_argument("--only", type=int, help="train this seed's sitting and write no weights: for several at once, each on its core")
    options = parser.parse_args()
    try:
        features, unknown = (one_each(options.seeds, getattr(options, name), name) for name in ("features", "unknown"))
    except ValueError as error:
        parser.error(str(error))
    if options.only is not None and options.only not in options.seeds:
        parser.error(f"--only {options.only} is none of the sittings; --seeds names {', '.join(map(str, options.seeds))}")
    memory.keep(mixture=False)
    file, encoder = options.data / "codec.safetensors", SpeechEncoder.load(options.data / "speech_encoder")
    start = start_of(file, options.work)
    utterances = read_utterances(options.speech, Codec.load(start))
    hours = sum(len(each.sound) for each in utterances) / SAMPLE_RATE / 3600
    print(f"{len(utterances)} utterances, {hours:.2f} hours", flush=True)
    settings = DecoderTraining(steps=options.steps, learning_rate=options.learning_rate, features=options.features[0],
                               variance=options.variance, unknown=options.unknown[0], more=tuple(options.more))
    states, curves = [], {}
    for seed in options.seeds if options.only is None else [options.only]:
        folder = options.work / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(Codec.load(start), encoder, utterances, replace(settings, seed=seed, features=features[seed], unknown=unknown[seed]))
        curves[seed] = {"columns": ["step", *Trainer.COLUMNS], "rows": train(trainer, folder)}
        states.append(trainer.model.state_dict())
    if options.only is not None:
        return
    if options.start_too:
        states.append(Codec.load(start).model.state_dict())
    trainer.model.load_state_dict(mean_of(states))
    kept = keep_start(start, options.work)
    save_codec(trainer.model, json.loads(file.with_suffix(".json").read_text(encoding="utf-8")), file)
    figures = {"settings": asdict(settings), "seeds": options.seeds, "features": options.features, "unknown": options.unknown, "start_too": options.start_too,
               "utterances": len(utterances), "hours": round(hours, 2), "curve": curves[options.seeds[0]]}
    write_figures(figures, options.data / "figures" / "decoder.json")
    for each in (kept, kept.with_suffix(".json")):  # the next sitting begins with what this one left
        each.unlink()


def start_of(file: Path, work: Path) -> Path:
    """The codec that sittings begin with: the one that is there, or what `keep_start` kept of a run that was killed behind its new weights."""
    kept = work / "start.safetensors"
    return kept if kept.is_file() else file


def keep_start(start: Path, work: Path) -> Path:
    """A copy of the codec that these sittings began with, made before their mean takes its place: a kill in front of the figures costs nothing then."""
    kept = work / "start.safetensors"
    for suffix in (".json", ".safetensors"):  # the weights at last: where they are there, both are
        if start != kept:
            shutil.copy(start.with_suffix(suffix), work / "start.part")
            os.replace(work / "start.part", kept.with_suffix(suffix))
    return kept


def write_figures(figures: dict, path: Path) -> None:
    """What this sitting was; what was done to the same decoder before stays, without its curve, under `before`."""
    path.parent.mkdir(exist_ok=True)
    if path.is_file():
        last = json.loads(path.read_text(encoding="utf-8"))
        itself = last.get("curve") == figures["curve"]  # killed behind this line before
        before = [*last.pop("before", []), *([] if itself else [{name: value for name, value in last.items() if name != "curve"}])]
        figures = figures | ({"before": before} if before else {})
    path.write_text(json.dumps(figures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
