"""How good a finished model is, always beside the ceiling, the floor and the controls that give a figure its meaning.

    report = evaluate_run("tiny", Path("runs/tiny"), "full")      # writes runs/tiny/report.json

    answer_accuracy    the model's text is the true answer
    wer                what the judge hears, against the model's own text
    spoken_accuracy    what the judge hears is the true answer, word for word
    …_codec_ceiling    the same for the recorded answer, encoded and decoded: the best a Talker can do on these codes
    …_judge_floor      the same for the recorded answer as it is: what the judge loses by itself
    controls           the same where it must be bad: frames shuffled, noise, another sentence

Speech is judged by pocketsphinx (judge.py), which had no part in any training.  All figures come from one checkpoint, but for
`after_stage`, which asks a sample of the same questions of the weights after each stage.  Figures that could not be taken are
null, and `reasons` says why.

So it is in the closed world, where every question has one answer.  Where questions are open (mini, full), open_evaluation.py examines.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm.auto import tqdm

from mmo import measures
from mmo.checkpoint import latest_weights, stage_file
from mmo.codec import Codec
from mmo.digests import sha256_of
from mmo.examination import SIZES, TIERS, Candidate, Ear, Exam, Item, Spoken, from_each_voice, of_tier, read_uncoded, spread_voices
from mmo.generation import Prompt, decode_all
from mmo.judge import Judge, Transcriber
from mmo.profiles import STAGES, Profile
from mmo.profiles import profile as profile_of
from mmo.report import earlier, finish, show, write_report
from mmo.rows import DataError

VERSIONS = ("torch", "moshi", "funasr", "transformers", "pocketsphinx", "jiwer", "numpy")


# --- The parts of the examination --------------------------------------------------------------------------------
# Each part asks first and hands its sounds to the ear; it returns a function that marks, once the ear has listened.


def ask_spoken(name: str, items: list[Item], prompts: Sequence[Prompt], candidate: Candidate, ear: Ear) -> Spoken:
    """Answers aloud; their sound goes to the ear as `<name>.model`."""
    answers = candidate.answer(prompts, name, speech=True)
    ear.add(f"{name}.model", [answer.samples for answer in answers])
    # The samples are the ear's now; keeping them twice would cost hundreds of megabytes.
    return Spoken(name, items, [replace(answer, samples=None) for answer in answers])


def add_references(name: str, items: Sequence[Item], codec: Codec, ear: Ear) -> None:
    """The recorded answers for the ear: through the codec (`<name>.codec`), and as they are, where all are there (`<name>.uncoded`)."""
    ear.add(f"{name}.codec", decode_all(codec, [item.codes for item in items]))
    if items and all(item.uncoded for item in items):
        recorded = [read_uncoded(item.uncoded) for item in items]
        rates = {rate for _, rate in recorded}
        if len(rates) > 1:
            raise DataError(f"answer_sound holds sounds of different rates {sorted(rates)}: they must share one")
        ear.add(f"{name}.uncoded", [samples for samples, _ in recorded], rates.pop())


def ask_t2a(exam: Exam, candidate: Candidate, ear: Ear):
    """Text in, speech out: all tiers, with ceiling and floor."""
    parts = {}
    for tier in TIERS:
        count = exam.sizes.sentences if tier == "sentence" else exam.sizes.rare
        items = spread_voices(of_tier(exam.said, tier), count)
        if items:
            name = f"t2a {tier}"
            add_references(name, items, exam.codec, ear)  # first: who hears them soon has something to do while the model answers
            parts[tier] = ask_spoken(name, items, exam.text_prompts(items), candidate, ear)

    def mark() -> dict:
        found = {tier: part.figures(ear, exam.pace, exam.seed) for tier, part in parts.items()}
        return found.pop("sentence", {}) | found

    return mark, parts["sentence"]


def ask_inputs(
    name: str, items: list[Item], prompts: list[Prompt], partners: list[int | None], swap_in, exam: Exam, candidate: Candidate, ear: Ear
):
    """What A2A and I2T share: answers in text, some of them aloud, some with another item's input.

    partners: whose input each item gets when inputs are swapped.  swap_in: (item's number, partner's number) -> prompt.
    Returns the answers, the spoken part, and hits with swapped inputs.
    """
    answers = candidate.answer(prompts, name, speech=False)
    chosen = measures.spread(range(len(items)), exam.sizes.spoken)
    spoken = ask_spoken(f"{name} aloud", [items[n] for n in chosen], [prompts[n] for n in chosen], candidate, ear)
    pairs = [(n, other) for n, other in enumerate(partners) if other is not None]
    pairs = measures.spread(pairs, exam.sizes.swapped)
    swapped = candidate.texts([swap_in(*pair) for pair in pairs], f"{name} swapped")
    wrong = [measures.same_words(text, items[n].truth) for text, (n, _) in zip(swapped, pairs, strict=True)]
    return answers, spoken, wrong


def ask_a2a(exam: Exam, candidate: Candidate, ear: Ear):
    """Speech in, text and speech out, in voices never heard."""
    items = measures.spread(of_tier(exam.asked, "sentence"), exam.sizes.questions)
    prompts = exam.heard_prompts(items)
    partners = measures.swap([item.truth for item in items], seed=exam.seed)
    answers, spoken, wrong = ask_inputs(
        "a2a", items, prompts, partners, lambda n, other: prompts[other], exam, candidate, ear
    )
    right = [measures.same_words(answer.text, item.truth) for answer, item in zip(answers, items)]
    written = [measures.same_words(answer.heard, item.question) for answer, item in zip(answers, items)]
    disturbed = from_each_voice(items, exam.sizes.swapped)
    in_rooms = candidate.texts(exam.heard_prompts(disturbed, augmented=True), "a2a in rooms")
    rare = {tier: measures.spread(of_tier(exam.asked, tier), exam.sizes.rare_inputs) for tier in TIERS[1:]}
    rare_texts = {tier: candidate.texts(exam.heard_prompts(found), f"a2a {tier}") for tier, found in rare.items() if found}

    def mark() -> dict:
        voices = sorted({item.voice for item in items})
        found = {
            "questions": len(items),
            "answer_accuracy": measures.share(right),
            "answer_accuracy_interval": measures.share_interval(right, exam.seed),
            "answer_accuracy_by_voice": {
                voice: measures.share([hit for hit, item in zip(right, items) if item.voice == voice]) for voice in voices
            },
            "answer_accuracy_in_rooms": accuracy(in_rooms, disturbed),
            "questions_written_right": measures.share(written) if exam.decoding.write_down else None,
            "accuracy_swapped_questions": measures.share(wrong),
        }
        found |= spoken_extras(spoken, ear, exam)
        return found | {tier: {"questions": len(rare[tier]), "answer_accuracy": accuracy(texts, rare[tier])} for tier, texts in rare_texts.items()}

    return mark, spoken


def ask_i2t(exam: Exam, candidate: Candidate, ear: Ear):
    """Pictures in, text and speech out.  Marks twice: `i2t` and `i2a`."""
    items = measures.spread(of_tier(exam.shown, "sentence"), exam.sizes.pictures)
    prompts = exam.seen_prompts(items)
    partners = measures.swap([item.truth for item in items], seed=exam.seed)

    def swap_in(n: int, other: int) -> Prompt:
        return replace(prompts[n], image_features=prompts[other].image_features, looks=prompts[other].looks)

    answers, spoken, wrong = ask_inputs("i2t", items, prompts, partners, swap_in, exam, candidate, ear)
    right = exactly([answer.text for answer in answers], items)
    rare = {tier: measures.spread(of_tier(exam.shown, tier), exam.sizes.rare_inputs) for tier in TIERS[1:]}
    rare_texts = {
        tier: candidate.texts(exam.seen_prompts(found), f"i2t {tier}") for tier, found in rare.items() if found
    }

    def mark() -> dict:
        found = {
            "pictures": len(items),
            "exact_match": measures.share(right),
            "exact_match_interval": measures.share_interval(right, exam.seed),
            "exact_match_swapped_pictures": measures.share(wrong),
        }
        return found | {tier: {"pictures": len(rare[tier]), "exact_match": measures.share(exactly(texts, rare[tier]))} for tier, texts in rare_texts.items()}

    def mark_spoken() -> dict:
        return spoken_extras(spoken, ear, exam)

    return mark, mark_spoken, spoken


def exactly(texts: Sequence[str], items: Sequence[Item]) -> list[bool]:
    """Whether each text is the description, to the letter."""
    return [text.strip() == item.truth for text, item in zip(texts, items, strict=True)]


def accuracy(texts: Sequence[str], items: Sequence[Item]) -> float | None:
    """Share of texts that have the true answer's words."""
    return measures.share([measures.same_words(text, item.truth) for text, item in zip(texts, items, strict=True)])


def spoken_extras(spoken: Spoken, ear: Ear, exam: Exam) -> dict:
    """The figures of a spoken part whose accuracy was measured on more items than were spoken."""
    found = spoken.figures(ear, exam.pace, exam.seed)
    found["spoken_answers"] = found.pop("answers")
    return {key: value for key, value in found.items() if not key.startswith("answer_accuracy")}


def ask_controls(exam: Exam, said: Spoken, ear: Ear):
    """What must sound bad: the model's own answers with their frames shuffled, noise in their place, codes drawn at random;
    and the answers as they are, held against another sentence of the same kind and voice."""
    chosen = measures.spread([n for n, answer in enumerate(said.answers) if answer.codes.shape[1] > 1], exam.sizes.controls)
    codes = [said.answers[n].codes for n in chosen]
    rng = np.random.default_rng(exam.seed)
    shuffled = [each[:, torch.from_numpy(rng.permutation(each.shape[1]))] for each in codes]
    drawn = [torch.from_numpy(rng.integers(0, exam.config.num_codes, tuple(each.shape))) for each in codes]
    ear.add("controls.shuffled", decode_all(exam.codec, shuffled))
    ear.add("controls.random", decode_all(exam.codec, drawn))
    ear.add("controls.noise", [rng.normal(0, 0.07, each.shape[1] * exam.codec.frame_size).astype(np.float32) for each in codes])
    groups = [(item.kind, item.voice) for item in said.items]
    partners = measures.swap([answer.text for answer in said.answers], groups, exam.seed, exam.split)

    def wer(name: str) -> float | None:
        return measures.word_errors([said.answers[n].text for n in chosen], ear[f"controls.{name}"], exam.split).wer

    def mark() -> dict:
        heard = ear[f"{said.name}.model"]
        pairs = measures.spread([(n, other) for n, other in enumerate(partners) if other is not None], exam.sizes.controls)
        wrong = measures.word_errors([said.answers[other].text for _, other in pairs], [heard[n] for n, _ in pairs], exam.split)
        return {
            "answers": len(chosen),
            "wer_shuffled_frames": wer("shuffled"),
            "wer_wrong_sentence": wrong.wer,
            "wer_noise": wer("noise"),
            "wer_random_codes": wer("random"),
        }

    return mark


def ask_stages(exam: Exam, run_dir: Path, ear: Ear):
    """A sample of each task after each stage whose weights are there: what was learnt, and what forgotten."""
    sizes = exam.sizes
    said = spread_voices(of_tier(exam.said, "sentence"), -(-sizes.stage // max(1, len(exam.voices))))
    asked = measures.spread(of_tier(exam.asked, "sentence"), sizes.stage)
    shown = measures.spread(of_tier(exam.shown, "sentence"), sizes.stage)
    prompts = {
        "t2a": exam.text_prompts(said),
        "a2a": exam.heard_prompts(asked),
        "i2t": exam.seen_prompts(shown),
    }
    texts: dict[tuple[str, str], list[str]] = {}
    aloud: dict[str, Spoken] = {}
    some = measures.spread(range(len(said)), sizes.stage_spoken)
    for stage in STAGES:
        if stage_file(run_dir, stage).is_file():
            candidate = Candidate(stage_file(run_dir, stage), exam)
            for task, questions in prompts.items():
                texts[stage, task] = candidate.texts(questions, f"after {stage}: {task}")
            spoken = [prompts["t2a"][n] for n in some]
            aloud[stage] = ask_spoken(f"after {stage}: aloud", [said[n] for n in some], spoken, candidate, ear)

    def mark() -> dict:
        found = {}
        for stage in STAGES:
            there = stage in aloud
            exact = [text.strip() == item.truth for text, item in zip(texts[stage, "i2t"], shown)] if there else []
            found[stage] = {
                "t2a_answer_accuracy": accuracy(texts[stage, "t2a"], said) if there else None,
                "t2a_wer": aloud[stage].figures(ear, exam.pace, exam.seed)["wer"] if there else None,
                "a2a_answer_accuracy": accuracy(texts[stage, "a2a"], asked) if there else None,
                "i2t_exact_match": measures.share(exact),
            }
        return found

    return mark


def measure_streaming(exam: Exam, candidate: Candidate) -> dict:
    """How long until the first sound, and how much work a second of it takes: of typed questions; and of spoken ones and of pictures, under their names."""
    items = from_each_voice(of_tier(exam.said, "sentence"), exam.sizes.streamed)
    if not items:
        raise DataError(f"{exam.profile.data_dir / 't2a-test.parquet'}: no row of tier \"sentence\", so there is nothing to ask")
    typed = exam.text_prompts(items)
    found = {"threads": torch.get_num_threads()} | one_at_a_time(candidate, typed, lambda prompt: prompt, "streaming")
    for name, others, prompts in (("spoken_question", exam.asked, exam.heard_prompts), ("picture", exam.shown, exam.seen_prompts)):
        if some := from_each_voice(of_tier(others, "sentence"), exam.sizes.streamed):
            found[name] = one_at_a_time(candidate, some, lambda item: prompts([item])[0], f"streaming: {name.replace('_', ' ')}")
    return found


def one_at_a_time(candidate: Candidate, asked: Sequence, prompt_of: Callable[..., Prompt], what: str) -> dict:
    """Medians over what is asked, after a first one that does not count.  What `prompt_of` takes (an encoder, say) is time before the first sound."""
    answers, before = [], []
    for each in tqdm([asked[0], *asked], desc=what, unit="answer"):
        started = time.perf_counter()
        prompt = prompt_of(each)
        before.append(1000 * (time.perf_counter() - started))
        answers.append(candidate.generator.answer(prompt))
    spoken = [(took + answer.first_audio_ms, answer.real_time_factor) for took, answer in zip(before[1:], answers[1:]) if answer.first_audio_ms is not None]
    found = {"prompts": len(asked), "silent": len(asked) - len(spoken)}
    if not spoken:
        return found | {"first_audio_ms": None, "first_audio_ms_worst": None, "real_time_factor": None}
    first, factors = zip(*spoken)
    return found | {
        "first_audio_ms": round(float(np.median(first)), 1),
        "first_audio_ms_worst": round(max(first), 1),
        "real_time_factor": round(float(np.median(factors)), 3),
    }


# --- Samples to listen to ----------------------------------------------------------------------------------------


def write_samples(folder: Path, parts: Sequence[Spoken], ear: Ear, rate: int, count: int = 2, beside: str = "the truth") -> None:
    """A few answers of each part as WAV files with a caption beside them (`evaluation-…`), before the ear gives them away.

    beside: what the caption calls the recorded answer, where the model's is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for number, n in enumerate(measures.spread(range(len(part.items)), count), 1):
            item, answer = part.items[n], part.answers[n]
            path = folder / f"evaluation-{part.name.replace(' ', '-')}-{number}.wav"
            soundfile.write(path, ear.sounds[f"{part.name}.model"][n][0], rate)
            asked = "(a picture)" if item.picture else "(a spoken question)" if item.question_sound else item.question
            caption = f"{part.name}: {asked} — {answer.text}"
            if not measures.same_words(answer.text, item.truth):
                caption += f" ({beside}: {item.truth})"
            path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")


# --- The whole ---------------------------------------------------------------------------------------------------


class Stopwatch:
    """Calls the parts of an examination and remembers their seconds."""

    def __init__(self) -> None:
        self.started, self.parts = time.monotonic(), {}

    def __call__(self, name: str, make, *arguments):
        before = time.monotonic()
        found = make(*arguments)
        self.parts[name] = round(time.monotonic() - before, 1)
        return found

    def closing(self, exam: Exam) -> dict:
        """What every report ends with."""
        return {
            "weights": exam.precision or str(exam.dtype).removeprefix("torch."),  # what was computed with
            "seed": exam.seed,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
            "seconds": {"evaluate": round(time.monotonic() - self.started, 1)},
            "evaluation_seconds": self.parts,
        }


@contextmanager
def heard_soon(judge: Transcriber, workers: int) -> Iterator[Ear]:
    """An ear behind which one of the judge's processes listens while the model goes on answering, with a thread fewer.

    On two cores the model's second thread brings it little, and the judge needs a core for each sound.  With one worker, or another
    judge, the ear collects only.  (Another number of threads may add up in another order, so `workers` may change a last bit.)
    """
    if workers < 2 or not isinstance(judge, Judge):
        yield Ear()
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        with judge.beside() as soon:
            ear = Ear(soon=soon)
            yield ear
        ear.soon = None  # what is added from now on is heard at the end
    finally:
        torch.set_num_threads(threads)


def examine(exam: Exam, run_dir: Path, workers: int = 2) -> dict:
    """All figures of the run's last checkpoint (else of the shipped one)."""
    weights, which = latest_weights(exam.profile, run_dir)
    print(which)
    timed, candidate, judge = Stopwatch(), Candidate(weights, exam), exam.judge  # now: whether it can be made shall not show at the end
    streaming = timed("streaming", measure_streaming, exam, candidate)  # first: nothing else is in memory or at work yet
    with heard_soon(judge, workers) as ear:
        mark_t2a, said = timed("t2a", ask_t2a, exam, candidate, ear)
        mark_a2a, replied = timed("a2a", ask_a2a, exam, candidate, ear)
        mark_i2t, mark_i2a, described = timed("i2t", ask_i2t, exam, candidate, ear)
        mark_controls = timed("controls", ask_controls, exam, said, ear)
        mark_stages = timed("after_stage", ask_stages, exam, run_dir, ear)
    write_samples(run_dir / "samples", [said, replied, described], ear, exam.codec.sample_rate)
    timed("listen", ear.listen, judge, workers)
    return {
        "checkpoint": weights.name if weights.parent == run_dir else "shipped",
        "t2a": mark_t2a(),
        "a2a": mark_a2a(),
        "i2t": mark_i2t(),
        "i2a": mark_i2a(),
        "controls": mark_controls(),
        "after_stage": mark_stages(),
        "streaming": streaming,
    } | timed.closing(exam)


def evaluate_run(profile: Profile | str, run_dir: Path, budget: str = "full", *, workers: int | None = None, **others) -> dict:
    """Examine the run's last checkpoint, write `report.json` and some samples into `run_dir`, print the table.

    budget: "full" or "smoke" (a dozen items of each).  workers: processes of the judge, by default one a core.  `others`: see
    `Exam`.  Raises DataError or FileNotFoundError naming what is missing.
    """
    if budget not in SIZES:
        raise ValueError(f"no budget {budget!r}; there are {', '.join(SIZES)}")
    profile = profile_of(profile) if isinstance(profile, str) else profile
    run_dir = Path(run_dir)
    if profile.judge_dir is None:
        opened, examined = Exam, examine
    else:
        from mmo.open_evaluation import examine_open as examined
        from mmo.open_evaluation import open_exam as opened
    exam = opened(profile, SIZES[budget], **others)
    run_dir.mkdir(parents=True, exist_ok=True)
    weights = sha256_of(latest_weights(profile, run_dir)[0])
    before = earlier(run_dir, weights, budget)
    report = {"profile": profile.name, "budget": budget, "weights_sha256": weights} | examined(exam, run_dir, workers or min(8, os.cpu_count() or 1))
    report["seconds"] = before["seconds"] | report["seconds"]
    report["peak_rss_mb"] = before.get("peak_rss_mb")
    report = finish(report)
    write_report(run_dir / "report.json", report)
    show(report, budget)
    return report
