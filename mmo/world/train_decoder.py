"""Trains the codec's decoder on, alone: codes stay what they are, and what is heard of them gets better.

A Talker writes codebooks 0 and 1 well and guesses the rest (docs/next.md), so what it says sounds like two codebooks, not
like eight. Here the encoder and the codebooks are frozen, and the decoder learns to speak from codes as a Talker writes them:
in most batches the later codebooks hold, in part, codes of other frames (`mistaken`). Nothing that was encoded before has to be
encoded again, and a trained Talker stays right.

    python -m mmo.world.train_decoder                      # data/tiny/codec.safetensors, trained on; goes on from its checkpoint
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..codec import Codec, save_codec
from .train_codec import CodecTraining, MelLoss, Utterances, read_answers


@dataclass(frozen=True)
class DecoderTraining:
    """The recipe; batches are those of `CodecTraining`."""

    steps: int = 3000
    learning_rate: float = 5e-4
    warmup: int = 100
    true_share: float = 0.3  # of the batches: no mistakes
    second: float = 0.6  # of the others: mistakes begin at codebook 2, else further on
    batch: CodecTraining = CodecTraining(seed=1)


def mistaken(codes: Tensor, settings: DecoderTraining, step: int) -> Tensor:
    """codes (B, Q, F) as a Talker might write them: from codebook 2 or a later one on, some are those of other frames.

    Codebooks 0 and 1 stay true. Draws depend on the step alone, so that a resumed training makes the same ones.
    """
    rng = random.Random(f"mistakes-{step}")
    if rng.random() < settings.true_share:
        return codes
    B, Q, F = codes.shape
    first = 2 if rng.random() < settings.second else rng.randint(3, Q - 1)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    others = codes.transpose(1, 2).reshape(B * F, Q)[torch.randperm(B * F, generator=generator)].view(B, F, Q).transpose(1, 2)
    hit = torch.rand(B, Q, F, generator=generator) < rng.uniform(0.3, 1.0)
    hit[:, :first] = False
    return torch.where(hit, others, codes)


def decoder_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Freezes all but what lies between codes and sound; returns that."""
    parts = [model.quantizer.rvq_first.output_proj, model.quantizer.rvq_rest.output_proj, model.upsample, model.decoder_transformer, model.decoder]
    model.eval().requires_grad_(False)  # eval: codebooks are running means, and must not run
    parameters = [p for part in parts if part is not None for p in part.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def train(codec: Codec, sounds: list, sentences: list[str], settings: DecoderTraining, folder: Path, save_every: int = 250) -> Codec:
    """Trains `codec`'s decoder in place to the end of `settings.steps`, resuming from `folder/decoder.pt`; writes `folder/decoder.json`, its curve."""
    model, mel = codec.model, MelLoss()
    parameters = decoder_parameters(model)
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / settings.warmup, max(0.0, 1 - s / settings.steps)))
    folder.mkdir(parents=True, exist_ok=True)
    state_file, curve, start = folder / "decoder.pt", [], 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        start, curve = state["step"], state["curve"]
    data = Utterances(sounds, sentences, settings.batch, start)
    total = torch.zeros(())
    bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, desc="decoder", mininterval=10)
    for step in bar:
        wave = data.batch()[0]
        with torch.no_grad():
            codes = model.encode(wave)
        loss = mel(model.decode(mistaken(codes, settings, step)), wave)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(parameters, 3.0)):
            optimiser.step()
        schedule.step()
        total += loss.detach()
        if (step + 1) % 50 == 0:
            curve.append([step + 1, round(total.item() / 50, 4)])
            total.zero_()
            bar.set_postfix(mel=f"{curve[-1][1]:.3f}")
        if (step + 1) % save_every == 0 or step + 1 == settings.steps:
            partial = state_file.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                        "step": step + 1, "curve": curve}, partial)
            partial.replace(state_file)
            (folder / "decoder.json").write_text(json.dumps({"columns": ["step", "mel"], "rows": curve}))
    model.requires_grad_(False)
    return codec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/world"))
    parser.add_argument("--codec", type=Path, default=Path("data/tiny/codec.safetensors"), help="where it begins")
    parser.add_argument("--out", type=Path, help="where it ends (default: the same file)")
    parser.add_argument("--steps", type=int, default=DecoderTraining.steps)
    parser.add_argument("--learning-rate", type=float, default=DecoderTraining.learning_rate)
    options = parser.parse_args()
    sounds, sentences = read_answers(options.build)
    codec, began = Codec.load(options.codec), time.time()
    settings = DecoderTraining(steps=options.steps, learning_rate=options.learning_rate)
    train(codec, sounds, sentences, settings, options.build)
    config = json.loads(options.codec.with_suffix(".json").read_text())
    save_codec(codec.model, config, options.out or options.codec)
    print(f"{(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
