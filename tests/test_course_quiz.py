"""Every notebook has a quiz that can be trusted: one right choice, an explanation for each, a right answer that its place or length does
not give away; it works with buttons, without a kernel, and on paper."""

import re
from collections import Counter

import pytest
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import desk, progress, quiz
from mmo.course.build import Edition, read_text
from mmo.course.catalogue import REPOSITORY, read_course
from mmo.course.questions import CHOICES, QUESTIONS, QuizError, numbers, read_quiz, write_sheets

NUMBERS = [entry.number for entry in read_course()]
GOOD = "- name: clock\n  ask: Which?\n  choices:\n  - {right: this, why: so}\n  - {wrong: that, why: no}\n  - {wrong: other, why: nor this}\n"


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MMO_STRICT", raising=False)


# --- What is asked -----------------------------------------------------------------------------------------------


def test_every_notebook_has_one():
    assert numbers() == sorted(NUMBERS)


@pytest.mark.parametrize("entry", read_course(), ids=lambda entry: entry.number)
def test_every_notebook_asks_its_quiz_before_its_summary(entry):
    """Under a heading of its own, and with what it imports with the rest of the course's tools."""
    cells = read_text(Edition(entry, REPOSITORY).text).cells
    (place,) = [number for number, cell in enumerate(cells) if cell.cell_type == "code" and "quiz(" in cell.source]
    assert cells[place].source == f'quiz("{entry.number}")'
    before, behind = cells[place - 1], cells[place + 1]
    assert before.cell_type == behind.cell_type == "markdown" and before.source.startswith("## ") and behind.source.startswith("## ")
    assert any(re.search(r"^from mmo\.course import .*\bquiz\b", cell.source, re.MULTILINE) for cell in cells[:place])


@pytest.mark.parametrize("number", NUMBERS)
def test_one_right_choice_and_an_explanation_for_each(number):
    questions = read_quiz(number)  # which refuses anything else
    assert QUESTIONS[0] <= len(questions) <= QUESTIONS[1]
    for each in questions:
        assert sum(choice.right for choice in each.choices) == 1 and CHOICES[0] <= len(each.choices) <= CHOICES[1], each.id
        assert each.id.startswith(f"{number}.") and len({choice.words.lower() for choice in each.choices}) == len(each.choices), each.id
        for choice in each.choices:
            assert len(choice.why) >= 8 and choice.why != choice.words, f"{each.id}: {choice.words!r} is not explained"
            assert "!" not in choice.words + choice.why + each.ask


def test_the_right_answers_place_varies():
    everywhere = Counter(each.right for number in NUMBERS for each in read_quiz(number))
    assert set(everywhere) == {0, 1, 2, 3} and min(everywhere.values()) >= 0.15 * sum(everywhere.values()), everywhere
    for number in NUMBERS:
        assert len({each.right for each in read_quiz(number)}) > 1, f"{number}: always the same place"


def test_the_right_answers_length_does_not_give_it_away():
    questions = [each for number in NUMBERS for each in read_quiz(number)]
    for extreme in (max, min):
        found = sum(len(each.choices[each.right].words) == extreme(len(choice.words) for choice in each.choices) for each in questions)
        assert found <= 0.4 * len(questions), f"the right choice is the {extreme.__name__} in length in {found} of {len(questions)}"


def test_no_question_is_asked_twice():
    asked = Counter(each.ask for number in NUMBERS for each in read_quiz(number))
    ids = Counter(each.id for number in NUMBERS for each in read_quiz(number))
    assert max(asked.values()) == max(ids.values()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("right", "wrong"), "question clock: exactly one choice must be right, not 0"),
        (lambda text: text.replace("{wrong: that", "{right: that"), "exactly one choice must be right, not 2"),
        (lambda text: text.replace(", why: so", ""), "question clock: each choice needs"),
        (lambda text: text.replace("why: so", "why: ''"), "without its why"),
        (lambda text: text.replace("this, why: so", "that, why: so"), "same words"),
        (lambda text: text.replace("why: so", "why: no"), "same explanation"),
        (lambda text: text.replace("  - {wrong: other, why: nor this}\n", ""), "2 choices"),
        (lambda text: text.replace("ask: Which?", "question: Which?"), "exactly name, ask and choices"),
        (lambda text: text.replace("clock", "The clock"), "one word of small letters"),
        (lambda text: text + text, "two questions of one name: 99.clock"),
        (lambda text: "[", "99.yml"),
    ],
)
def test_a_broken_quiz_is_refused_by_file_and_question(tmp_path, monkeypatch, change, words):
    monkeypatch.setattr("mmo.course.questions.QUESTIONS", (1, 5))
    (tmp_path / "99.yml").write_text(GOOD)
    assert read_quiz("99", tmp_path)[0].right == 0
    (tmp_path / "99.yml").write_text(change(GOOD))
    with pytest.raises(QuizError, match=words):
        read_quiz("99", tmp_path)


def test_an_unknown_notebook_is_named_with_those_there_are():
    with pytest.raises(QuizError, match="no quiz for notebook '77'; there are quizzes for 00, 01"):
        quiz("77")


# --- In a notebook -----------------------------------------------------------------------------------------------


def test_nobody_works_in_a_test_so_it_is_text_and_folds():
    shown = quiz("07")
    found = shown._repr_mimebundle_()
    assert set(found) == {"text/html", "text/plain"}
    questions = read_quiz("07")
    assert found["text/plain"].count("\n   a) ") == len(questions) and questions[0].ask in found["text/plain"]
    assert questions[0].choices[0].why not in found["text/plain"], "the plain form asks and does not tell"
    assert found["text/html"].count("<details") == sum(len(each.choices) for each in questions)
    assert found["text/html"].count("<b>Right.</b>") == len(questions)


def test_the_key_gives_the_right_letters_and_why():
    first = read_quiz("07")[0]
    assert repr(quiz("07").key()).splitlines()[0] == f"1. {'abcd'[first.right]}) {first.choices[first.right].why}"


def test_buttons_answer_and_the_first_choice_is_kept():
    shown, first = quiz("07", live=True), read_quiz("07")[0]
    row = shown.box.children[0].children
    wrong = (first.right + 1) % len(first.choices)
    buttons, said = [row[1 + 2 * place].children[0] for place in range(len(first.choices))], [row[2 + 2 * place] for place in range(len(first.choices))]
    buttons[wrong].click()
    assert "No." in said[wrong].value and buttons[wrong].button_style == "danger"
    buttons[first.right].click()
    assert "Right." in said[first.right].value and buttons[first.right].button_style == "success"
    assert progress.load()["quizzes"] == {first.id: {"first": first.choices[wrong].words, "right": False, "tries": 2}}
    assert progress.reset("07") == 1
    assert "application/vnd.jupyter.widget-view+json" in shown._repr_mimebundle_()


def test_strict_keeps_nothing(monkeypatch):
    monkeypatch.setenv("MMO_STRICT", "1")
    assert desk.strict() and quiz("07").choose(read_quiz("07")[0].id, 0)
    assert not progress.progress_file().exists()
    with pytest.raises(ValueError, match="no choice 9"):
        quiz("07").choose(read_quiz("07")[0].id, 9)


def test_progress_files_from_before_are_read():
    progress.save({"version": 1, "exercises": {}, "predictions": {}, "ears": {}, "clinic": {}})
    assert progress.load()["quizzes"] == {}


# --- On paper ----------------------------------------------------------------------------------------------------


def test_a_sheet_and_its_key(tmp_path):
    sheet, key = write_sheets(tmp_path / "paper", ["07"], titles={"07": "The <delay>"})
    asked, told = sheet.read_text(encoding="utf-8"), key.read_text(encoding="utf-8")
    questions = read_quiz("07")
    assert sheet.name == "quiz-07.html" and key.name == "quiz-07-key.html" and "The &lt;delay&gt;" in asked
    assert "class=right" not in asked and "class=why" not in asked and "Name" in asked
    assert told.count("<li class=right>") == len(questions) and told.count("class=why") == sum(len(each.choices) for each in questions)
    assert "http" not in asked + told


def test_variants_have_the_same_choices_in_other_orders(tmp_path):
    pages = write_sheets(tmp_path, ["05"], variants=3)
    assert [page.name for page in pages] == [f"quiz-05-{letter}{key}.html" for letter in "ABC" for key in ("", "-key")]
    sheets = [page.read_text(encoding="utf-8") for page in pages[::2]]
    assert len(set(sheets)) == 3
    again = write_sheets(tmp_path, ["05"], variants=3)
    assert [page.read_text(encoding="utf-8") for page in again[::2]] == sheets, "printed tomorrow they are the same"
    for each in read_quiz("05"):
        assert Counter(each.shuffled("B").choices) == Counter(each.choices)


def test_the_command_writes_all_and_refuses_before_it_writes(tmp_path):
    result = CliRunner().invoke(app, ["course", "quiz", "--to", str(tmp_path / "all")])
    assert result.exit_code == 0 and len(list((tmp_path / "all").iterdir())) == 2 * len(NUMBERS)
    result = CliRunner().invoke(app, ["course", "quiz", "--to", str(tmp_path / "none"), "--notebooks", "07,77"])
    assert result.exit_code == 1 and "no quiz for notebook '77'" in result.output and not (tmp_path / "none").exists()
