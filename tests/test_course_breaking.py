"""Notebook 15: forced decoding, its stand-ins, half precision, and the clinic: every patient is really ill, and is cured by the package's own function."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from mmo import measures
from mmo.config import Decoding
from mmo.course import clinic as clinics
from mmo.course import progress
from mmo.course.clinic import PATIENTS, Clinic, Ward, agreement_by_codebook, lags, mel_distance, pitch
from mmo.course.exercises import judge
from mmo.course.tasks import breaking
from mmo.forcing import forced
from mmo.generation import Generator, Prompt
from mmo.profiles import profile
from speakers import toy_model


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MMO_STRICT", raising=False)


# --- Forced decoding -----------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer of the test's own: one id a letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 250 + 20 for letter in text]

    def decode(self, ids) -> str:
        return "".join(chr(each) for each in ids)

    def id(self, token: str) -> int:
        return 19  # in front of all letters


@pytest.fixture(scope="module")
def generator():
    return Generator(toy_model(), tokenizer=Letters(), decoding=Decoding(temperature=1.0, max_text=12, max_frames=40))


def true_codes(Q: int, *lengths: int) -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return [torch.randint(0, 16, (Q, length), generator=drawn) for length in lengths]


PROMPTS = [Prompt([1, 5, 9, 7], seed=1), Prompt([1, 5, 9], seed=2)]


def test_all_codebooks_given_are_the_true_codes(generator):
    codes = true_codes(8, 5, 9)
    answers = forced(generator, PROMPTS, ["abc", "d"], codes, 8)
    assert all(torch.equal(answer.codes, wanted) for answer, wanted in zip(answers, codes))
    assert [len(answer.text_ids) for answer in answers] == [3, 1]
    assert all(answer.stopped and answer.text_ended for answer in answers)


@pytest.mark.parametrize("given", [1, 3])
def test_given_codebooks_are_true_and_the_others_hear_them(generator, given):
    codes = true_codes(8, 6, 6)
    one = forced(generator, PROMPTS, ["ab", "c"], codes, given)
    other = forced(generator, PROMPTS, ["ab", "c"], [(each + 1) % 16 for each in codes], given)
    for answer, changed, wanted in zip(one, other, codes):
        assert torch.equal(answer.codes[:given], wanted[:given])
        assert answer.codes.shape == wanted.shape
        assert not torch.equal(answer.codes[given:], changed.codes[given:])


def test_nothing_given_but_its_own_text_is_what_it_says_by_itself(generator):
    decoding = Decoding(temperature=1.0, max_text=6, max_frames=12)
    own = generator.generate_batch(PROMPTS, decoding, sound=False)
    again = [each.text_ids for each in own]
    generator.tokenizer.encode, before = (lambda text: again[int(text)]), generator.tokenizer.encode
    try:
        found = forced(generator, PROMPTS, ["0", "1"], true_codes(8, 3, 3), 0, decoding)
    finally:
        generator.tokenizer.encode = before
    assert all(torch.equal(one.codes, other.codes) for one, other in zip(own, found))


@pytest.mark.parametrize("change, words", [(dict(given=9), "there are 8 codebooks"), (dict(texts=["a"]), "one of each"), (dict(codes=true_codes(8, 500, 500)), "longer than")])
def test_forcing_what_cannot_be_is_refused(generator, change, words):
    arguments = dict(prompts=PROMPTS, texts=["a", "b"], codes=true_codes(8, 2, 2), given=1) | change
    with pytest.raises(ValueError, match=words):
        forced(generator, **arguments)


# --- Stand-ins and instruments -------------------------------------------------------------------------------------


def test_pooled_rates_are_those_of_word_errors():
    references = ["one two three four", "one", "one two", "three four five"]
    heard = ["one two four", "two", "one two", "three three four five six"]
    figure = measures.word_errors(references, heard)
    groups = torch.tensor([0, 1, 0, 1])
    rates = breaking.pooled(torch.from_numpy(figure.errors), torch.from_numpy(figure.sizes), groups, 2)
    for group in range(2):
        here = [n for n in range(4) if groups[n] == group]
        part = measures.word_errors([references[n] for n in here], [heard[n] for n in here])
        assert float(rates[group]) == pytest.approx(part.wer, abs=1e-4)


def test_lags_are_found():
    wanted = breaking.codes(4, 9)
    assert lags(wanted, breaking.late(wanted, (0, 1, -2, 3))) == [0, 1, -2, 3]
    assert lags(wanted, wanted) == [0] * 4


def tone(frequency: float, seconds: float = 0.5, rate: int = 24_000) -> np.ndarray:
    """A buzz: three harmonics."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.1 * sum(np.sin(2 * np.pi * k * frequency * time) / k for k in (1, 2, 3))).astype(np.float32)


def test_instruments_measure():
    assert mel_distance(tone(120), tone(120), 24_000) == 0.0
    assert mel_distance(tone(120), tone(240), 24_000) > 3
    assert mel_distance(tone(120), tone(120)[:0], 24_000) == 0.0
    for frequency in (95, 120, 210):
        assert pitch(tone(frequency), 24_000) == pytest.approx(frequency, rel=0.02)
    assert pitch(np.zeros(12_000, np.float32), 24_000) == 0.0
    assert agreement_by_codebook(torch.tensor([[1, 2, 3, 4], [1, 1, 1, 1]]), torch.tensor([[1, 2], [0, 1]])) == [100, 50]


# --- The patients ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ward():
    """With as many updates as a learner's: what an illness does to a model grows with them."""
    return Ward(profile("tiny"), questions=6, pictures=5)


@pytest.fixture(scope="module")
def hospital(ward):
    """A clinic with room for everybody."""
    torch.set_num_threads(1)
    return Clinic(profile("tiny"), ward=ward, beds=len(PATIENTS))


def bed_of(clinic: Clinic, id: str) -> str:
    return next(bed for bed, patient in clinic.beds.items() if patient.id == id)


@pytest.mark.parametrize("patient", PATIENTS, ids=lambda patient: patient.id)
def test_patient_is_well_described(patient):
    assert patient.id.startswith("15.")
    assert len(patient.choices) == 4
    assert len({choice.cause for choice in patient.choices}) == len({choice.reply for choice in patient.choices}) == 4
    assert all(len(choice.reply) > 40 for choice in patient.choices)
    assert len(inspect.signature(patient.broken).parameters) == len(inspect.signature(patient.healthy).parameters)
    assert patient.healthy is not patient.broken and patient.home.startswith("mmo.")
    code = clinics.source_of(patient.broken)
    assert "def " in code and len(code.splitlines()) < 25


@pytest.mark.parametrize("patient", PATIENTS, ids=lambda patient: patient.id)
def test_patient_is_ill_by_a_measured_figure_and_only_while_the_function_is_exchanged(hospital, patient):
    bed = bed_of(hospital, patient.id)
    healthy, symptom = hospital.healthy(patient), hospital.symptom(bed)
    assert abs(symptom.figures[patient.sign] - healthy.figures[patient.sign]) >= patient.least, (symptom.figures, healthy.figures)
    assert clinics.unlike(symptom, healthy)
    assert clinics.unlike(hospital.run(patient, patient.healthy), healthy) is None


def test_the_first_run_in_a_ward_is_like_every_other():
    """The ward loads its model when it is first asked for, and that draws random numbers."""
    fresh = Ward(profile("tiny"), steps=2)
    first, second = clinics.train_on(fresh), clinics.train_on(fresh)
    assert first.curve == second.curve


def test_a_chart_shows_and_names_no_cause(hospital):
    for bed, patient in list(hospital.beds.items())[:4]:
        page = hospital.see(bed)._repr_html_() + repr(hospital.see(bed))
        assert "healthy" in page
        assert patient.place not in page and patient.broken.__name__ not in page and patient.id not in page
        assert not any(choice.cause in page for choice in patient.choices)


# --- Diagnosis and treatment ---------------------------------------------------------------------------------------


@pytest.fixture
def clinic(ward):
    return Clinic(profile("tiny"), seed=3, ward=ward, only=("15.codebooks", "15.delay"))


def number_of(clinic: Clinic, bed: str, right: bool, which: int = 0) -> int:
    """The number under which the true cause, or one of the wrong ones, is shown."""
    truth = clinic.patient(bed).choices[0]
    return [n for n, choice in enumerate(clinic.choices(bed), 1) if (choice is truth) == right][which]


def test_seed_decides_who_lies_where():
    def order(seed: int) -> list[str]:
        return [patient.id for patient in Clinic(profile("tiny"), seed).beds.values()]

    assert order(1) == order(1) != order(2)
    assert len(order(1)) == 10 == len(set(order(1)))


def test_the_true_cause_stands_at_no_fixed_place():
    clinic = Clinic(profile("tiny"), beds=len(PATIENTS))
    assert {number_of(clinic, bed, True) for bed in clinic.beds} == {1, 2, 3, 4}


def test_the_first_right_diagnosis_scores_most(clinic):
    bed = bed_of(clinic, "15.codebooks")
    assert "that is it" in repr(clinic.diagnose(bed, number_of(clinic, bed, True)))
    assert progress.load()["clinic"]["15.codebooks"]["found"]
    assert "3 of 8 points" in repr(clinic.score())
    clinic.diagnose(bed, number_of(clinic, bed, False))  # afterwards nothing is counted
    assert "3 of 8 points" in repr(clinic.score())


def test_a_wrong_diagnosis_is_answered_and_costs_a_point(clinic):
    bed = bed_of(clinic, "15.codebooks")
    wrong = number_of(clinic, bed, False)
    said = repr(clinic.diagnose(bed, wrong))
    assert "that is not it" in said and clinic.choices(bed)[wrong - 1].reply in said
    assert clinic.patient(bed).choices[0].cause not in said
    clinic.diagnose(bed, wrong)  # the same guess again is no further one
    clinic.diagnose(bed, number_of(clinic, bed, True))
    assert "2 of 8 points" in repr(clinic.score()) and "found at guess 2" in repr(clinic.score())


def test_a_list_of_causes_gives_nothing_away_and_nonsense_is_refused(clinic):
    bed = bed_of(clinic, "15.delay")
    listed = repr(clinic.diagnose(bed))
    assert all(choice.cause in listed and choice.reply not in listed for choice in clinic.patient(bed).choices)
    for nonsense in (0, 5, "delay", True, 1.0):
        with pytest.raises(ValueError, match="from 1 to 4"):
            clinic.diagnose(bed, nonsense)
    with pytest.raises(ValueError, match="no patient"):
        clinic.see("Z")
    assert "is empty" in repr(clinic.see("J"))


def test_no_treatment_without_a_diagnosis_and_three_wrong_ones_open_the_chart(clinic):
    bed = bed_of(clinic, "15.codebooks")
    assert "No treatment without a diagnosis" in repr(clinic.treat(bed))
    for which in range(3):
        assert "def frames" not in repr(clinic.treat(bed))
        clinic.diagnose(bed, number_of(clinic, bed, False, which))
    assert "def frames_with_the_first_codebook_last" in repr(clinic.treat(bed))
    assert "0 of 8" in repr(clinic.score())


def test_a_repair_is_tried_on_the_patient(clinic):
    bed = bed_of(clinic, "15.codebooks")
    clinic.diagnose(bed, number_of(clinic, bed, True))

    def no_repair(flat, num_codebooks=8, num_codes=None):
        return torch.tensor(flat).view(num_codebooks, -1)

    def repair(flat, num_codebooks=8, num_codes=None):
        return torch.tensor(flat).view(-1, num_codebooks).T

    assert "not cured yet" in repr(clinic.treat(bed, no_repair)) and "in health" in repr(clinic.treat(bed, no_repair))
    assert "cured" in repr(clinic.treat(bed, repair))
    assert "4 of 8 points" in repr(clinic.score())
    assert progress.reset("15") == 1
    assert "0 of 8 points" in repr(clinic.score())


def test_strict_writes_nothing_and_cures_with_the_packages_own(clinic, monkeypatch):
    monkeypatch.setenv("MMO_STRICT", "1")
    bed = bed_of(clinic, "15.codebooks")
    clinic.diagnose(bed, 1)
    assert "cured" in repr(clinic.treat(bed)) and clinic.patient(bed).lesson in repr(clinic.treat(bed))
    assert not progress.progress_file().exists()


# --- Shares and slopes ---------------------------------------------------------------------------------------------


def test_shares_of_blame_are_what_each_joint_adds():
    found = breaking.blame(torch.tensor([0.1, 0.3, 0.25, 0.5], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.2, 0.4, -0.1, 0.5], dtype=torch.float64))
    assert found.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("wanted", [1.0, 1.7, 2.0])
def test_the_exponent_of_a_power_is_found(wanted):
    widths = torch.tensor([24, 48, 100, 384])
    assert breaking.exponent(widths, 37 * widths.double() ** wanted) == pytest.approx(wanted)


# --- Bits and half precision ---------------------------------------------------------------------------------------


def test_bits_are_what_a_label_costs_less_than_an_even_guess():
    """Label by label, with the probability of each true one: log2 p + log2 A."""
    logits = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(16, (3, 40), generator=torch.Generator().manual_seed(1))
    true = logits.softmax(dim=-1).gather(-1, labels[..., None])[..., 0]
    losses = torch.stack([torch.nn.functional.cross_entropy(each, wanted) for each, wanted in zip(logits, labels)])
    assert breaking.bits(losses, torch.tensor([40, 40, 40]), 16) == pytest.approx(float((true.log2() + 4).sum()))


@pytest.mark.parametrize("kind, least, most, above", [(torch.float16, 2.0**-24, 65519.0, 65521.0), (torch.bfloat16, 2.0**-133, 3.39e38, 3.4e38)])
def test_half_precision_ends_where_its_numbers_end(kind, least, most, above):
    """The smallest subnormal number is kept, less than half of it sinks; the largest is kept, and what is half a step above it overflows."""
    assert breaking.fate(torch.tensor([least, -most]), 1.0, kind).tolist() == [0.0, 0.0]
    assert breaking.fate(torch.tensor([0.49 * least, -least]), 1.0, kind).tolist() == [0.5, 0.0]
    assert breaking.fate(torch.tensor([-above, 1.0, 0.0]), 1.0, kind).tolist() == [0.0, 0.5]


def sinking_by_hand(values, scale, kind):
    """Compares with the smallest normal number, as somebody would who looks into finfo."""
    limits = torch.finfo(kind)
    scaled = (values[values != 0] * scale).abs()
    return torch.tensor([float((scaled < limits.smallest_normal).float().mean()), float(scaled.to(kind).isinf().float().mean())])


def bits_of_a_mean(losses, counts, entries):
    return counts.sum().item() * (np.log2(entries) - losses.mean().item() / np.log(2))


@pytest.mark.parametrize("task, wrong, words", [(breaking.FATE, sinking_by_hand, "smallest normal number"), (breaking.BITS, bits_of_a_mean, "add up codebook by codebook")])
def test_mistakes_written_by_hand_are_diagnosed(task, wrong, words):
    verdict = judge(task, wrong)
    assert verdict.kind == "wrong" and words in verdict.words
