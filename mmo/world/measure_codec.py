"""What the tiny codec costs: the judge's word error rate on coded speech, at 1 … 8 codebooks, beside its floor.

Held-out sentences (test, tier `sentence`) of each answer voice; the same sentences uncoded are the floor.

    python -m mmo.world.measure_codec            # writes data/tiny/figures/codec.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from . import plan, speech, text


def heard_after_coding(codec, sounds: list[np.ndarray], codebooks: int) -> list[tuple[np.ndarray, int]]:
    """Each int16 sound encoded and decoded with `codebooks` codebooks."""
    codec.model.set_num_codebooks(codebooks)
    found = []
    for sound in sounds:
        wave = torch.zeros(1, 1, -(-len(sound) // codec.frame_size) * codec.frame_size)
        wave[0, 0, : len(sound)] = torch.from_numpy(sound.astype(np.float32) / 32768)
        found.append((codec.decode(codec.encode(wave))[0, 0].numpy(), codec.sample_rate))
    codec.model.set_num_codebooks(8)
    return found


def main() -> None:
    import jiwer

    from ..codec import Codec
    from ..digests import sha256_of
    from ..judge import Judge

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/world"))
    parser.add_argument("--codec", type=Path, default=Path("data/tiny/codec.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("data/tiny/figures/codec.json"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--sentences", type=int, default=160)
    parser.add_argument("--codebooks", type=int, nargs="*", default=[1, 2, 3, 4, 5, 6, 7, 8])
    options = parser.parse_args()
    answers = plan.answer_plan()
    sounds = speech.load(options.build / "speech", "answers", len(answers), complete=False)
    codec, judge = Codec.load(options.codec), Judge(text.world_words())
    figures: dict = {"codec": sha256_of(options.codec), "sentences_per_voice": options.sentences, "split": options.split, "tier": "sentence", "voices": {}}
    for voice in plan.ANSWERS:
        chosen = [r for r in answers if r.split == options.split and r.tier == "sentence" and r.voice == voice][: options.sentences]
        if missing := sum(sounds[r.id] is None for r in chosen):
            raise SystemExit(f"{options.build / 'speech'}: {missing} of {len(chosen)} sentences of {voice} are not spoken yet; run `mmo world build`")
        truth = [" ".join(text.words(r.answer)) for r in chosen]
        uncoded = [(sounds[r.id].astype(np.float32) / 32768, 24_000) for r in chosen]
        found = {"wer_judge_floor": jiwer.wer(truth, judge.transcribe(uncoded)), "wer_by_codebooks": {}}
        for count in options.codebooks:
            coded = heard_after_coding(codec, [sounds[r.id] for r in chosen], count)
            found["wer_by_codebooks"][count] = jiwer.wer(truth, judge.transcribe(coded))
            print(voice, count, round(found["wer_by_codebooks"][count], 4), "floor", round(found["wer_judge_floor"], 4), flush=True)
        figures["voices"][voice] = found
    curve = options.build / "codec-curve.json"
    if curve.exists():
        figures["curve"] = json.loads(curve.read_text())
    elif options.out.exists() and "curve" in (before := json.loads(options.out.read_text())):
        figures["curve"] = before["curve"]  # the codec was trained elsewhere; only its decoder is new
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
