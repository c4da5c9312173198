"""How good a model is whose questions are open: no answer is the only right one, so what is judged is whether it says what it writes.

    report = evaluate_run("mini", Path("runs/mini"))          # evaluation.py, which asks this module where a profile has a `judge_dir`

    wer, cer           words and characters that Whisper hears, against the model's own text, both normalised (whisper_judge.py)
    …_codec_ceiling    the same for recorded answers of held-out rows, re-coded by Mimi, judged by the same ear: the best a Talker can do
    said               the same figures by how many words were said, in the bounds of the published table
    similarity         CAM++'s cosine of the answer's voice with the vector that the model was given (speaker.py);
      …_codec_ceiling  of the reference sound, re-coded by Mimi, with its own vector; …_recorded: of the recorded answer with it
      …_other_voice    of the answer with somebody else's vector: the floor
    overlap            words that the model's text shares with the recorded answer; …_written: asked in writing, what hearing cannot
                       exceed; …_swapped_…: asked with another row's sound or picture, the floor
    controls           as in the closed world: frames shuffled, noise, another sentence
    after_stage        the twenty fixed prompts (fixed_prompts.py) to the weights after each stage; their sounds are kept

The recordings of the real files exist as codes only: there is no uncoded speech, so no floor of the judge alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmo import fixed_prompts, measures
from mmo.checkpoint import latest_weights, stage_file
from mmo.evaluation import Stopwatch, add_references, ask_controls, ask_spoken, measure_streaming, write_samples
from mmo.examination import Candidate, Ear, Exam, Item, Sizes, Spoken
from mmo.generation import Answer, Prompt, decode_all
from mmo.held_out import source_of
from mmo.profiles import STAGES, Profile
from mmo.speaker import SpeakerEncoder, similarity
from mmo.training import Encoders, default_encoders
from mmo.whisper_judge import missing_files

ANOTHER = 0.7  # cosine of two rows' vectors: below, they count as two voices

Vector = np.ndarray | None  # (S,), or None where there was too little to hear


# --- Before anything is asked ----------------------------------------------------------------------------------------


def check_judges(profile: Profile) -> None:
    """Raises FileNotFoundError naming what the judges lack and what to fetch: better now than after an hour of answers."""
    lacking, artefacts = [], []
    if missing := missing_files(profile.judge_dir):
        lacking.append(f"{profile.judge_dir} lacks {', '.join(missing)}")
        artefacts.append("judge")
    if not profile.speaker_encoder_file.is_file():
        lacking.append(f"{profile.speaker_encoder_file} is missing")
        artefacts.append("speaker-encoder")
    if lacking:
        raise FileNotFoundError(f"nobody to judge {profile.name}: {'; '.join(lacking)}.  Fetch it: mmo fetch {' '.join(artefacts)}")


def open_exam(profile: Profile, sizes: Sizes, *, encoders: Encoders | None = None, **others) -> Exam:
    """The exam of what is here: T2A's rows must be, A2A's and I2T's are left out, and that is said, where rows or encoder are missing.

    Raises FileNotFoundError where the judges' weights are missing, DataError where T2A's rows are.
    """
    check_judges(profile)
    encoders = encoders or default_encoders(profile, profile.device())
    stages = ["t2a"]
    for stage, encoder in (("a2a", encoders.speech), ("i2t", encoders.vision)):
        if encoder and source_of(profile, stage).is_file():
            stages.append(stage)
        else:
            print(f"{stage} is not examined: its rows or its encoder are not here (mmo fetch --profile {profile.name} --stage {stage})")
    return Exam(profile, sizes, encoders=encoders, stages=stages, **others)


# --- Voices ----------------------------------------------------------------------------------------------------------


@dataclass
class Voices:
    """Vectors of what was said, by the names under which the ear has it."""

    encoder: SpeakerEncoder
    found: dict[str, list[Vector]] = field(default_factory=dict)

    def listen(self, ear: Ear, *names: str) -> None:
        """Take the vectors of sounds that the ear has not given away yet."""
        for name in names:
            self.found[name] = self.encoder.vectors(ear.sounds[name])


def cosines(vectors: Sequence[Vector], wanted: Sequence[Vector]) -> list[float]:
    """Of each pair of which both are there."""
    pairs = zip(vectors, wanted, strict=True)
    return [similarity(one, other) for one, other in pairs if one is not None and other is not None]


def others_of(wanted: Sequence[np.ndarray], known: Sequence[np.ndarray], seed: int) -> list[Vector]:
    """For each voice (S,) that of another speaker among the known ones; None where all of these are like it."""
    rng, found = np.random.default_rng(seed), []
    for voice in wanted:
        strangers = [other for other in known if similarity(voice, other) < ANOTHER]
        found.append(strangers[int(rng.integers(len(strangers)))] if strangers else None)
    return found


def voice_figures(vectors: Sequence[Vector], wanted: Sequence[np.ndarray], known: Sequence[np.ndarray], seed: int) -> dict:
    """Answers' voices beside those they were told to have, and beside somebody else's of the known ones."""
    return {
        "similarity": measures.mean(cosines(vectors, wanted)),
        "similarity_other_voice": measures.mean(cosines(vectors, others_of(wanted, known, seed))),
        "voices_told": sum(vector is not None for vector in vectors),
    }


# --- Speech ----------------------------------------------------------------------------------------------------------


def error_figures(texts: Sequence[str], heard: Sequence[str], split: measures.Split, seed: int) -> dict:
    """Errors of what was heard against what was written."""
    words, characters = (count(texts, heard, split) for count in (measures.word_errors, measures.character_errors))
    return {
        "wer": words.wer,
        "wer_interval": words.interval(seed),
        "wer_insertions": words.insertions,
        "wer_deletions": words.deletions,
        "wer_substitutions": words.substitutions,
        "cer": characters.cer,
        "cer_interval": characters.interval(seed),
    }


def grouped(labels: Sequence[str], names: Sequence[str], texts: Sequence[str], heard: Sequence[str], split: measures.Split) -> dict:
    """WER and CER of each group: {name: {"answers", "wer", "cer"}}."""
    found = {}
    for name in names:
        places = [n for n, label in enumerate(labels) if label == name]
        pairs = [texts[n] for n in places], [heard[n] for n in places]
        wer, cer = measures.word_errors(*pairs, split).wer, measures.character_errors(*pairs, split).cer
        found[name] = {"answers": len(places), "wer": wer, "cer": cer}
    return found


def by_length(texts: Sequence[str], heard: Sequence[str], split: measures.Split) -> dict:
    """The same by how many words a text has."""
    labels = [fixed_prompts.length_of(len(split(text))) for text in texts]
    return grouped(labels, (*fixed_prompts.LENGTHS, fixed_prompts.LONGER), texts, heard, split)


def answer_figures(answers: Sequence[Answer], heard: Sequence[str], split: measures.Split, seed: int) -> dict:
    """What is said of any answers aloud."""
    texts = [answer.text for answer in answers]
    return {
        "answers": len(answers),
        **error_figures(texts, heard, split, seed),
        "runaways": measures.share([answer.runaway for answer in answers]),
        "silent": measures.share([not answer.codes.shape[1] for answer in answers]),
        "said": by_length(texts, heard, split),
    }


@dataclass
class Room:
    """What every part of the examination needs."""

    exam: Exam
    candidate: Candidate
    ear: Ear
    voices: Voices


def in_own_voices(prompts: Sequence[Prompt], items: Sequence[Item]) -> list[Prompt]:
    """Each prompt in the voice of its row's recorded answer, where the row names one."""
    return [prompt if item.speaker is None else replace(prompt, speaker=item.speaker) for prompt, item in zip(prompts, items, strict=True)]


def speak(name: str, items: list[Item], prompts: Sequence[Prompt], room: Room) -> tuple[Spoken, Callable[[], dict]]:
    """Answers aloud, and those recorded answers that there are, re-coded; what it returns second marks once the ear has listened."""
    exam, ear, voices = room.exam, room.ear, room.voices
    spoken = ask_spoken(name, items, prompts, room.candidate, ear)
    references = [item for item in items if item.codes is not None]
    add_references(name, references, exam.codec, ear)
    voices.listen(ear, f"{name}.model", f"{name}.codec")
    told = [prompt.speaker.numpy() for prompt in prompts]

    def mark() -> dict:
        found = answer_figures(spoken.answers, ear[f"{name}.model"], exam.split, exam.seed)
        found |= voice_figures(voices.found[f"{name}.model"], told, told, exam.seed)
        truths, heard = [item.truth for item in references], ear[f"{name}.codec"]
        ceiling = error_figures(truths, heard, exam.split, exam.seed)
        found |= {f"{key}_codec_ceiling": ceiling[key] for key in ("wer", "wer_interval", "cer", "cer_interval")}
        if f"{name}.uncoded" in ear:
            found["wer_judge_floor"] = measures.word_errors(truths, ear[f"{name}.uncoded"], exam.split).wer
        return found | {"recorded": len(references), "recorded_by_length": by_length(truths, heard, exam.split)}

    return spoken, mark


# --- The parts of the examination ------------------------------------------------------------------------------------


def ask_t2a(room: Room):
    """Held-out questions in writing, answered aloud in the voice of the recorded answer."""
    exam, voices = room.exam, room.voices
    items = measures.spread(exam.said, exam.sizes.sentences)
    spoken, mark_speech = speak("t2a", items, exam.text_prompts(items), room)
    referred = [item for item in items if item.reference is not None]
    sounds = decode_all(exam.codec, [item.reference for item in referred])
    own = [item.speaker.numpy() for item in items if item.codes is not None]
    coded = voices.encoder.vectors([(wave, exam.codec.sample_rate) for wave in sounds])

    def mark() -> dict:
        return mark_speech() | {
            "similarity_codec_ceiling": measures.mean(cosines(coded, [item.speaker.numpy() for item in referred])),
            "similarity_recorded": measures.mean(cosines(voices.found["t2a.codec"], own)),
        }

    return mark, spoken


def overlaps(texts: Sequence[str], items: Sequence[Item], split: measures.Split) -> float | None:
    """Mean overlap of texts with the recorded answers."""
    return measures.mean([measures.overlap(text, item.truth, split) for text, item in zip(texts, items, strict=True)])


def ask_inputs(name: str, what: str, items: list[Item], prompts: list[Prompt], swap_in: Callable[[int, int], Prompt], room: Room):
    """What A2A and I2T share: answers in writing, some aloud, some with another item's input.  swap_in: (item, partner) -> prompt."""
    exam, candidate = room.exam, room.candidate
    texts = candidate.texts(prompts, name)
    partners = measures.swap([item.truth for item in items], seed=exam.seed, split=exam.split)
    pairs = measures.spread([(n, other) for n, other in enumerate(partners) if other is not None], exam.sizes.swapped)
    swapped = candidate.texts([swap_in(*pair) for pair in pairs], f"{name} swapped")
    chosen = measures.spread(range(len(items)), exam.sizes.spoken)
    spoken, mark_speech = speak(f"{name} aloud", [items[n] for n in chosen], [prompts[n] for n in chosen], room)

    def mark_texts() -> dict:
        return {
            what: len(items),
            "overlap": overlaps(texts, items, exam.split),
            f"overlap_swapped_{what}": overlaps(swapped, [items[n] for n, _ in pairs], exam.split),
        }

    return mark_texts, mark_speech, spoken


def ask_a2a(room: Room):
    """Held-out questions that are only heard; the same in writing, where the row has the words."""
    exam = room.exam
    items = measures.spread(exam.asked, exam.sizes.questions)
    prompts = in_own_voices(exam.sound_prompts(exam.hear(items)), items)

    def swap_in(n: int, other: int) -> Prompt:
        return replace(prompts[other], speaker=prompts[n].speaker)

    mark_texts, mark_speech, spoken = ask_inputs("a2a", "questions", items, prompts, swap_in, room)
    known = [item for item in items if item.question.strip()]
    written = room.candidate.texts(exam.text_prompts(known), "a2a in writing")

    def mark() -> dict:
        return mark_texts() | {"overlap_written": overlaps(written, known, exam.split)} | mark_speech()

    return mark, spoken


def ask_i2t(room: Room):
    """Held-out pictures.  Marks twice: `i2t`, and `i2a` aloud."""
    exam = room.exam
    items = measures.spread(exam.shown, exam.sizes.pictures)
    prompts = in_own_voices(exam.seen_prompts(items), items)

    def swap_in(n: int, other: int) -> Prompt:
        return replace(prompts[n], image_features=prompts[other].image_features, looks=prompts[other].looks)

    return ask_inputs("i2t", "pictures", items, prompts, swap_in, room)


def ask_stages(room: Room, weights: dict[str, Path], run_dir: Path):
    """The fixed prompts to each of these weights; their sounds are kept."""
    exam, ear, voices = room.exam, room.ear, room.voices
    chosen = measures.spread(fixed_prompts.read_prompts(), exam.sizes.prompts)
    spoken_by = fixed_prompts.read_voices(exam.profile)
    prompts = fixed_prompts.as_prompts(chosen, exam.tokenizer, spoken_by)
    known = [vector.numpy() for vector in spoken_by.values()]
    answers: dict[str, list[Answer]] = {}
    for stage, path in weights.items():
        name = f"prompts {stage}"
        found = Candidate(path, exam).answer(prompts, f"after {stage}: fixed prompts", speech=True)
        fixed_prompts.write_sounds(fixed_prompts.prompts_folder(run_dir, stage), chosen, found, list(spoken_by), path.name)
        ear.add(name, [answer.samples for answer in found])
        voices.listen(ear, name)
        answers[stage] = [replace(answer, samples=None) for answer in found]

    def mark() -> dict:
        marks = {}
        for stage, said in answers.items():
            heard = ear[f"prompts {stage}"]
            fixed_prompts.write_heard(fixed_prompts.prompts_folder(run_dir, stage), heard)
            marks[stage] = answer_figures(said, heard, exam.split, exam.seed)
            marks[stage] |= voice_figures(voices.found[f"prompts {stage}"], [prompt.speaker.numpy() for prompt in prompts], known, exam.seed)
            buckets = [prompt.bucket for prompt in chosen]
            marks[stage]["asked"] = grouped(buckets, fixed_prompts.BUCKETS, [answer.text for answer in said], heard, exam.split)
        fixed_prompts.write_page(run_dir)
        return marks

    return mark


# --- The whole -------------------------------------------------------------------------------------------------------


def weights_by_stage(run_dir: Path, last: Path) -> dict[str, Path]:
    """The run's weights after each stage; where it has none, those that were imported."""
    own = {stage: stage_file(run_dir, stage) for stage in STAGES if stage_file(run_dir, stage).is_file()}
    return own or {fixed_prompts.FINISHED: last}


def examine_open(exam: Exam, run_dir: Path, workers: int = 1) -> dict:
    """All figures of the run's last checkpoint, and of the fixed prompts those of each stage."""
    weights, which = latest_weights(exam.profile, run_dir)
    print(which)
    timed = Stopwatch()
    encoder = timed("judges", SpeakerEncoder.load, exam.profile.speaker_encoder_file, exam.device)
    if encoder.dim != exam.config.spk_emb_size:
        raise ValueError(
            f"{exam.profile.speaker_encoder_file} tells voices in {encoder.dim} values, the rows of {exam.profile.name} in {exam.config.spk_emb_size}"
        )
    room = Room(exam, Candidate(weights, exam), Ear(), Voices(encoder))
    judge = exam.judge  # now: whether it can be made shall not show at the end
    streaming = timed("streaming", measure_streaming, exam, room.candidate)
    mark_t2a, said = timed("t2a", ask_t2a, room)
    nothing = (dict, dict, None)
    mark_a2a, replied = timed("a2a", ask_a2a, room) if exam.asked else nothing[1:]
    mark_i2t, mark_i2a, described = timed("i2t", ask_i2t, room) if exam.shown else nothing
    mark_controls = timed("controls", ask_controls, exam, said, room.ear)
    mark_stages = timed("after_stage", ask_stages, room, weights_by_stage(run_dir, weights), run_dir)
    parts = [part for part in (said, replied, described) if part]
    write_samples(run_dir / "samples", parts, room.ear, exam.codec.sample_rate, beside="recorded")
    timed("listen", room.ear.listen, judge, workers)
    return {
        "questions": "open",
        "checkpoint": weights.name if weights.parent == run_dir else fixed_prompts.FINISHED,
        "stand_ins": exam.profile.stand_ins,
        "judges": {
            "speech": judge.name, "language": exam.profile.judge_language or "found out", "voice": exam.profile.speaker_encoder_file.name,
        },
        "t2a": mark_t2a(),
        "a2a": mark_a2a(),
        "i2t": mark_i2t(),
        "i2a": mark_i2a(),
        "controls": mark_controls(),
        "after_stage": mark_stages(),
        "streaming": streaming,
    } | timed.closing(exam)  # fmt: skip
