"""From plans, codes, sounds and pictures to the parquet files of data/tiny, in the schema of the real data set.

    conversations   JSON string: [{"role": "user", "content": …}, {"role": "assistant", "content": …}]
    question_audios list of encoded sounds (Ogg Opus, 16 kHz), one per user turn; empty where the question is only text
    answer_audios   list of flat code lists, frame-major, eight a frame; empty where the answer has no sound
    image_bytes     one WebP picture, or null
    ref_audios      flat codes of another sentence in the answer's voice, or empty
    spk_emb         the answer voice's speaker vector, or empty

and behind them what a course wants to know: tier, kind, voice (who speaks: the answer, or in A2A the question),
answer_sound (t2a-test only: the uncoded speech, for the judge's floor).
"""

from __future__ import annotations

import io
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile

from . import text
from .pictures import picture_plan, webp
from .plan import Rendering

SCHEMA = pyarrow.schema([
    ("conversations", pyarrow.string()),
    ("question_audios", pyarrow.list_(pyarrow.binary())),
    ("answer_audios", pyarrow.list_(pyarrow.list_(pyarrow.int16()))),
    ("image_bytes", pyarrow.binary()),
    ("ref_audios", pyarrow.list_(pyarrow.int16())),
    ("spk_emb", pyarrow.list_(pyarrow.float32())),
    ("tier", pyarrow.string()),
    ("kind", pyarrow.string()),
    ("voice", pyarrow.string()),
    ("answer_sound", pyarrow.binary()),
])
REFERENCES = 16  # reference utterances a voice: few, so that the column costs nothing
SHIPPED_QUESTIONS = 5_500  # of the spoken training questions; the speech encoder was trained on all of them
LOOK_SHARE = 0.15  # of the training pictures with more to ask about: a question about one thing instead of the caption, which is what is tested
QUESTION_LEVEL, ANSWER_LEVEL = 0.99, 0.95  # Opus at about 8.5 and 18 kbit/s
FLOOR_SENTENCES = {"sentence": 160, "pair": 30, "fact": 30}  # test sentences a voice whose uncoded speech is shipped


def opus(samples: np.ndarray, rate: int, level: float) -> bytes:
    """int16 samples as Ogg Opus of (1 - level) · 250 + 6 kbit/s (libsndfile's compression level)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="OGG", subtype="OPUS", compression_level=level)
    return buffer.getvalue()


def row(question: str, answer: str, **columns) -> dict:
    """One row with every column; those not given are empty."""
    conversation = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    empty = {"question_audios": [], "answer_audios": [], "image_bytes": None, "ref_audios": [], "spk_emb": [],
             "tier": "train", "kind": "", "voice": "", "answer_sound": None}
    return {"conversations": json.dumps(conversation), **empty, **columns}


def write(rows: list[dict], path: Path, group: int = 1000) -> None:
    """Writes rows atomically; small row groups let readers take them one at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), partial, compression="zstd", compression_level=19,
                                row_group_size=group, use_dictionary=["ref_audios", "spk_emb", "tier", "kind", "voice", "answer_audios"])
    partial.replace(path)


class SpokenAnswers:
    """Coded answers by voice and sentence, with reference utterances and speaker vectors.

    codes: rendering id to its (Q, F) array, for every rendering of `plan`; speakers: voice to speaker vector.
    """

    def __init__(self, plan: list[Rendering], codes: dict[int, np.ndarray], speakers: dict[str, np.ndarray], seed: int = 0):
        self.plan, self.codes, self.speakers = plan, codes, speakers
        self.voices = {r.id: r.voice for r in plan}
        self.rng = random.Random(seed)
        self.by_sentence: dict[str, list[int]] = defaultdict(list)
        by_voice: dict[str, list[int]] = defaultdict(list)
        for r in plan:
            if r.split == "train":
                self.by_sentence[r.answer].append(r.id)
                by_voice[r.voice].append(r.id)
        self.references = {voice: self.rng.sample(ids, min(REFERENCES, len(ids))) for voice, ids in by_voice.items()}

    def flat(self, i: int) -> list[int]:
        """Frame-major codes of rendering i."""
        return self.codes[i].T.reshape(-1).tolist()

    def columns(self, i: int) -> dict:
        """The answer columns of a row for rendering i."""
        voice = self.voices[i]
        reference = self.rng.choice([r for r in self.references[voice] if r != i])
        return {"answer_audios": [self.flat(i)], "ref_audios": self.flat(reference), "spk_emb": self.speakers[voice].tolist()}

    def any_rendering(self, sentence: str) -> int | None:
        """A training rendering of the sentence, if there is one."""
        found = self.by_sentence.get(sentence)
        return self.rng.choice(found) if found else None


def asked(r: Rendering) -> str:
    """What to ask in text for the answer of `r`: a sentence about a picture ("The circle is red.") is read aloud, since
    its question ("What colour is the circle?") has no answer where there is no picture."""
    return r.question if r.kind != "look" else f"Say: {r.answer[0].lower()}{r.answer[1:]}"


def t2a_rows(answers: SpokenAnswers, sounds: list[np.ndarray], split: str) -> list[dict]:
    """Text in, speech out: one row per rendering of the split."""
    rows, with_sound = [], defaultdict(int)
    for r in answers.plan:
        if r.split == split:
            rows.append(row(asked(r), r.answer, tier=r.tier, kind=r.kind, voice=r.voice, **answers.columns(r.id)))
            if split == "test" and with_sound[r.tier, r.voice] < FLOOR_SENTENCES[r.tier]:
                with_sound[r.tier, r.voice] += 1
                rows[-1]["answer_sound"] = opus(sounds[r.id], 24_000, ANSWER_LEVEL)
    return rows


def a2a_rows(answers: SpokenAnswers, questions: list[Rendering], sounds: list[np.ndarray], split: str, count: int) -> list[dict]:
    """Speech in, speech out. Training answers reuse a spoken answer; held-out ones have none to reuse.

    Of the training questions the first `count` are taken.
    """
    rows = []
    for r in questions:
        if r.split == split and (split != "train" or r.id < count):
            spoken = answers.any_rendering(r.answer) if split == "train" else None
            rows.append(row(r.question, r.answer, question_audios=[opus(sounds[r.id], 16_000, QUESTION_LEVEL)], tier=r.tier, kind=r.kind,
                            voice=r.voice, **(answers.columns(spoken) if spoken is not None else {})))
    return rows


def text_rows() -> list[dict]:
    """Text in, text out: every sentence that the Thinker has read as knowledge, asked in each of its forms and read aloud once.

    Tier `fact` stays unread.  Tiers `sentence` and `pair` are in here, as they are in the Thinker's pretraining: known as text, never spoken.
    """
    from .train_thinker import aloud, known

    facts = [fact for fact in text.closed_facts() if known(fact.kind, fact.answer)]
    rng = random.Random(3)
    return [row(question, fact.answer, tier=text.tier(fact.kind, fact.answer), kind=fact.kind)
            for fact in facts for question in (*fact.questions, rng.choice(aloud(fact.answer)))]


def i2t_rows(split: str, answers: SpokenAnswers, seed: int = 2) -> list[dict]:
    """Pictures in, text out: mostly captions, some questions about one thing; held-out pictures ask for the caption.

    Training answers that were spoken for T2A bring their sound along: so the Talker learns to speak behind a picture.
    """
    rng = random.Random(f"{seed}-{split}")
    rows = []
    for picture in picture_plan():
        if picture.split == split:
            caption, *others = picture.scene.facts()
            others = [f for f in others if text.tier(f.kind, f.answer) == "train"]
            fact = rng.choice(others) if split == "train" and others and rng.random() < LOOK_SHARE else caption
            spoken = answers.any_rendering(fact.answer) if split == "train" else None
            rows.append(row(rng.choice(fact.questions), fact.answer, image_bytes=webp(picture.draw()), tier=picture.tier, kind=fact.kind,
                            **(answers.columns(spoken) if spoken is not None else {})))
    return rows
