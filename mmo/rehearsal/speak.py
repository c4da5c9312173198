"""`mmo say` where the stop is forbidden: a hardly trained model may stop before its first frame, and then no sound would be decoded.

    python -m mmo.rehearsal.speak --profile mini --weights runs/…/i2t.safetensors --out speech.wav

The same prompt, the same streaming decoder and codec; exactly as many frames as the profile's decoding allows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmo.bench.unstoppable import Unstoppable
from mmo.codec import Codec
from mmo.omni import load_model
from mmo.profiles import profile
from mmo.say import Question, make_prompt, show, write


def speak(name: str, weights: Path, out: Path, question: str = "What is three plus four?") -> dict:
    """Answer aloud; writes `out`, returns seconds of speech, milliseconds to the first sound, and work per second of speech."""
    settings = profile(name)
    device = settings.device()
    model = load_model(weights)
    prompt, tokenizer = make_prompt(Question(question), settings, model.config, None, 0)
    codec = Codec.load(settings.codec_file, device, model.config.num_codebooks)
    if device.type != "cpu":
        model = model.to(device, settings.dtype(device))
    answer = show(Unstoppable(model, codec, tokenizer, settings.decoding), prompt)
    write(answer, out)
    return {"speech_seconds": answer.seconds, "first_sound_ms": answer.first_audio_ms, "real_time_factor": answer.real_time_factor}


def main() -> None:
    """Figures go to a JSON file beside the sound."""
    parser = argparse.ArgumentParser(description="Answer aloud, whatever the model thinks of stopping.")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = speak(options.profile, options.weights, options.out)
    options.out.with_suffix(".json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
