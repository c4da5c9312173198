"""`mmo world build`: makes data/tiny from nothing, step by step; every step is skipped where its result is there already.

    speech      Piper, flite, eSpeak NG and Festival speak the plan             build/world/speech
    codec       trains the tiny Mimi on the spoken answers                      data/tiny/codec.safetensors
    codes       encodes every spoken answer with it                             build/world/codes.npz
    voices      speaker vectors of the answer voices                            data/tiny/voices.safetensors
    words       the world's word list and tokenizer                             data/tiny/words.txt, tokenizer/
    thinker     pretrains the tiny Thinker on the world's text                  data/tiny/thinker.safetensors
    speech-encoder, vision-encoder  train the two encoders                      data/tiny/speech_encoder/, vision_encoder/
    rows        writes the parquet files                                        data/tiny/*.parquet
    decoder     the codec's last sitting, with the speech encoder's ear         data/tiny/codec.safetensors
    measure     what the codec costs, by the judge                              data/tiny/figures/codec.json
    card        the data card, from the files and figures                       data/tiny/README.md

Delete a result to make it again; what was made of a codec is made again with it. A killed step goes on from its checkpoint, or begins anew where it has none
(the Thinker's).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..digests import sha256_of
from ..profiles import REPOSITORY
from . import plan, rows, speech, text

DATA, WORK = REPOSITORY / "data" / "tiny", REPOSITORY / "build" / "world"  # the modules' own defaults, seen from the repository
SPLITS = ("train", "validation", "test")


def encode_shard(codec_file: Path, sounds: Path, path: Path, ids: set[int], batch_seconds: float = 8.0) -> Path:
    """Codes of those sounds of one shard (`speech.render_shard`) that are in `ids`, (8, ceil(samples / 1920)) each, all in a row.

    Sounds of similar length share a batch. The codec is causal, so silence behind a shorter sound changes none of its codes.
    """
    from ..codec import Codec

    if path.exists():
        return path
    torch.set_num_threads(1)
    codec = Codec.load(codec_file)
    with np.load(sounds) as shard:
        spoken = {int(i): s for i, s in zip(shard["ids"], np.split(shard["samples"], np.cumsum(shard["lengths"])[:-1])) if int(i) in ids}
    order = sorted(spoken, key=lambda i: len(spoken[i]))
    codes: dict[int, np.ndarray] = {}
    while order:
        longest = -(-len(spoken[order[-1]]) // codec.frame_size) * codec.frame_size
        chosen = [order.pop() for _ in range(min(len(order), max(1, int(batch_seconds * codec.sample_rate / longest))))]
        wave = torch.zeros(len(chosen), 1, longest)
        for at, i in enumerate(chosen):
            wave[at, 0, : len(spoken[i])] = torch.from_numpy(spoken[i].astype(np.float32) / 32768)
        for i, found in zip(chosen, codec.encode(wave).numpy()):
            codes[i] = found[:, : -(-len(spoken[i]) // codec.frame_size)].astype(np.int16)
    save_codes(codes, path)
    return path


def encode_answers(answers: list[plan.Rendering], codec_file: Path, folder: Path, path: Path, workers: int = 2) -> None:
    """Codes of `answers`, whose sound is in the shards of `folder`: shard by shard into `path`'s folder, then all into `path`.

    A killed build goes on with the shards that are missing. They carry a mark of the codec's file: another codec, other codes.
    """
    ids = {r.id for r in answers}
    mark = hashlib.sha256(codec_file.read_bytes()).hexdigest()[:8]
    parts = path.parent / f"codes-{mark}-{len(ids)}"
    parts.mkdir(parents=True, exist_ok=True)
    codes: dict[int, np.ndarray] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(encode_shard, codec_file, shard, parts / shard.name, ids) for shard in sorted(folder.glob("answers-*[0-9].npz"))]
        for job in tqdm(jobs, desc="encode the answers", unit="shard"):
            codes |= load_codes(job.result())
    if missing := ids - set(codes):
        raise FileNotFoundError(f"{folder}: {len(missing)} of {len(ids)} answers are not spoken yet; run `mmo world build` again, it goes on where it stopped")
    save_codes(codes, path)


def save_codes(codes: dict[int, np.ndarray], path: Path) -> None:
    """Codes (8, F) by rendering id as one npz: all codes in a row, ids and frame counts. Atomic; none at all is a file too."""
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, codes=np.concatenate([np.zeros((8, 0), np.int16), *codes.values()], axis=1), ids=np.array(list(codes), dtype=np.int64),
                        frames=np.array([found.shape[1] for found in codes.values()], dtype=np.int64))
    partial.replace(path)


def load_codes(path: Path) -> dict[int, np.ndarray]:
    """What `save_codes` saved: rendering id to codes (8, F)."""
    with np.load(path) as saved:
        return dict(zip(saved["ids"].tolist(), np.split(saved["codes"], np.cumsum(saved["frames"])[:-1], axis=1)))


def speaker_vectors(answers: list[plan.Rendering], sounds: list[np.ndarray], count: int = 24) -> dict[str, np.ndarray]:
    """One 256-d vector per answer voice: the mean over `count` utterances of a pretrained encoder (Resemblyzer, GE2E), unit length."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)
    found = {}
    for voice in plan.ANSWERS:
        chosen = [r.id for r in answers if r.voice == voice and r.split == "train"][:count]
        waves = [preprocess_wav(sounds[i].astype(np.float32) / 32768, source_sr=24_000) for i in chosen]
        mean = np.mean([encoder.embed_utterance(w) for w in waves], axis=0)
        found[voice] = (mean / np.linalg.norm(mean)).astype(np.float32)
    return found


def step(name: str, result: Path, make, figures: Path | None = None) -> None:
    """Runs `make` unless `result` is there, and the `figures` that are written last where there are such; says which."""
    if result.exists() and (figures is None or figures.exists()):
        print(f"{name}: {result} is there")
        return
    print(f"{name}: making {result}", flush=True)
    if figures:
        figures.unlink(missing_ok=True)  # those of another one: a step that is killed now is not done
    make()
    for wanted in filter(None, (result, figures)):
        if not wanted.exists():
            raise RuntimeError(f"step {name} ended without writing {wanted}")


def module(name: str, *arguments: str):
    """A step that is a module of its own, run in its own process so that its memory goes back when it ends."""
    return lambda: subprocess.run([sys.executable, "-m", f"mmo.world.{name}", *arguments], check=True, cwd=REPOSITORY)


def forget_codec(data: Path, work: Path) -> None:
    """Whatever was made of the codec before: its last sitting, that sitting's weights, codes, and the rows that hold them."""
    for path in (data / "figures" / "decoder.json", work / "codes.npz", data / "t2a-test.parquet"):
        path.unlink(missing_ok=True)
    shutil.rmtree(work / "decoder", ignore_errors=True)


def is_measured(data: Path) -> bool:
    """Whether the codec's figures are of the codec that is there."""
    figures, codec = data / "figures" / "codec.json", data / "codec.safetensors"
    return figures.is_file() and json.loads(figures.read_text(encoding="utf-8")).get("codec") == sha256_of(codec)


def build(workers: int = 2, share: float = 1.0) -> None:
    """Everything, in order. share: how much of the training speech goes into the parquet files (all of it trains the codec)."""
    from safetensors.numpy import load_file, save_file

    data, work = DATA, WORK
    data.mkdir(parents=True, exist_ok=True)
    answers, questions = plan.answer_plan(), plan.question_plan()
    speech.render(work / "speech", "answers", answers, workers)
    speech.render(work / "speech", "questions", questions, workers)

    def codec() -> None:
        module("train_codec", "--build", str(work))()
        forget_codec(data, work)
        for suffix in (".json", ".safetensors"):  # the weights at last: where they are there, all is
            shutil.copy(work / f"codec{suffix}", data / f"codec{suffix}")

    def write_rows() -> None:
        codes = load_codes(work / "codes.npz")
        spoken = rows.SpokenAnswers([r for r in answers if r.id in codes], codes, load_file(data / "voices.safetensors"))
        answer_sounds = speech.load(work / "speech", "answers", len(answers))
        question_sounds = speech.load(work / "speech", "questions", len(questions))
        rows.write(rows.text_rows(), data / "text-train.parquet")
        for split in SPLITS:
            rows.write(rows.a2a_rows(spoken, questions, question_sounds, split, round(share * rows.SHIPPED_QUESTIONS)), data / f"a2a-{split}.parquet")
            rows.write(rows.i2t_rows(split, spoken), data / f"i2t-{split}.parquet")
            rows.write(rows.t2a_rows(spoken, answer_sounds, split), data / f"t2a-{split}.parquet")

    def sounds() -> list[np.ndarray]:
        return speech.load(work / "speech", "answers", len(answers))

    step("codec", data / "codec.safetensors", codec)
    step("codes", work / "codes.npz",
         lambda: encode_answers(plan.thinned(answers, share), data / "codec.safetensors", work / "speech", work / "codes.npz", workers))
    step("voices", data / "voices.safetensors", lambda: save_file(speaker_vectors(answers, sounds()), data / "voices.safetensors"))
    step("words", data / "words.txt", lambda: (data / "words.txt").write_text("\n".join(text.world_words()) + "\n"))
    step("tokenizer", data / "tokenizer" / "tokenizer.json", module("tokenizer"))
    step("thinker", data / "thinker.safetensors", module("train_thinker"), data / "figures" / "thinker.json")
    step("speech-encoder", data / "speech_encoder" / "model.pt", module("train_speech_encoder"), data / "figures" / "speech_encoder.json")
    step("vision-encoder", data / "vision_encoder" / "model.safetensors", module("train_vision_encoder"), data / "figures" / "vision_encoder.json")
    step("rows", data / "t2a-test.parquet", write_rows)
    step("decoder", data / "figures" / "decoder.json",
         module("train_decoder", "--speech", str(work / "speech"), "--data", str(data), "--work", str(work / "decoder")))
    if is_measured(data):
        print(f"measure: {data / 'figures' / 'codec.json'} is there, and of this codec")
    else:
        module("measure_codec")()
    module("card")()


if __name__ == "__main__":
    build()
