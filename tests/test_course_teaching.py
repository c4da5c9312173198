"""Instructor's pages and plans cannot disagree with course.yml and the exercises: minutes are sums of theirs, mistakes are those that the
checks name, and a plan that does not fit its hours, or the order of the notebooks, is named."""

import re
import shutil

import pytest
import yaml

from mmo.course import teaching
from mmo.course.catalogue import REPOSITORY, read_course
from mmo.course.exercises import exercises_of
from mmo.course.teaching import TeachingError, minutes_of, page_flaws, plan_problems, read_plans, renewed

COURSE = {entry.number: entry for entry in read_course()}


@pytest.fixture
def root(tmp_path):
    """A copy of what the pages are made from."""
    shutil.copytree(REPOSITORY / "docs/instructor", tmp_path / "docs/instructor")
    shutil.copyfile(REPOSITORY / "course.yml", tmp_path / "course.yml")
    return tmp_path


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_repository_is_in_order():
    assert teaching.problems(REPOSITORY) == []


def test_minutes_are_course_ymls_less_those_of_exercises_left_out():
    padding = next(each for each in exercises_of("07") if each.id == "07.padding")
    assert minutes_of(COURSE["07"]) == COURSE["07"].minutes["tiny"]
    assert minutes_of(COURSE["07"], ["07.padding"]) == COURSE["07"].minutes["tiny"] - padding.minutes
    with pytest.raises(TeachingError, match="07 has no exercise 07.nothing; there are 07.delay"):
        minutes_of(COURSE["07"], ["07.nothing"])


def test_no_exercise_takes_longer_than_its_notebook():
    for entry in COURSE.values():
        assert minutes_of(entry, [each.id for each in exercises_of(entry.number)]) > 0


def test_every_mistake_that_a_check_knows_stands_on_its_notebooks_page():
    for entry in COURSE.values():
        page = (REPOSITORY / teaching.page_path(entry)).read_text(encoding="utf-8")
        for each in exercises_of(entry.number):
            assert f"**{each.id}** · {each.title} · {each.minutes} minutes" in page
            places = [page.find(f"- {teaching.one_line(bug.words)}\n") for bug in each.bugs]
            assert -1 not in places
            assert places == sorted(places), "in the order in which they are tried, as the page says"
        assert teaching.ORDER_OF_MISTAKES in page or not exercises_of(entry.number)


def test_markdown_is_escaped_but_code_is_kept():
    assert teaching.one_line("a * b_c\n<|im_end|> and `x * y_z`") == r"a \* b\_c \<\|im\_end\|\> and `x * y_z`"


def test_other_minutes_change_pages_and_plans_and_are_found(root):
    change(root / "course.yml", "minutes: {tiny: 60}", "minutes: {tiny: 61}")
    found = "\n".join(teaching.problems(root))
    assert "06_mixture_of_experts.md: not as course.yml" in found and "plans.md: not as course.yml" in found
    for path, text in teaching.contents(root).items():
        path.write_text(text, encoding="utf-8")
    assert teaching.problems(root) == []


def test_a_plan_that_grows_over_its_hours_is_named(root):
    text = (root / "course.yml").read_text(encoding="utf-8")
    entry = re.search(r'number: "07".*?minutes: \{tiny: (\d+)\}', text, re.DOTALL)
    (root / "course.yml").write_text(text.replace(entry[0], entry[0].replace(f"tiny: {entry[1]}", "tiny: 160"), 1), encoding="utf-8")
    assert any("Saturday, after noon" in flaw and "too many" in flaw for flaw in teaching.problems(root))


def plans_with(root, edit):
    path = root / "docs/instructor/plans.yml"
    plans = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(plans)
    path.write_text(yaml.safe_dump(plans), encoding="utf-8")
    return teaching.problems(root)


def test_a_notebook_before_those_it_builds_on_is_named(root):
    def edit(plans):
        plans[0]["sessions"][0]["blocks"].insert(0, {"notebook": "13", "read": True})

    assert any("notebook 13 builds on 01, 07, 12" in flaw for flaw in plans_with(root, edit))


def test_what_takes_a_notebooks_place_must_be_missing(root):
    assert any("`instead` names 00" in flaw for flaw in plans_with(root, lambda plans: plans[1]["instead"].update({"00": "x"})))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"notebook": "77"}, "no notebook '77'"), ({"nothing": 1}, "a block is"), ({"notebook": "07", "minutes": 5}, "a block is"),
        ({"notebook": "07", "leave": ["05.seen"]}, "has no exercise 05.seen"), ({"show": "the page", "minutes": "ten"}, "'ten'"),
    ],
)  # fmt: skip
def test_a_block_that_is_none_is_named_with_plan_and_session(root, block, words):
    (flaw,) = plans_with(root, lambda plans: plans[0]["sessions"][0]["blocks"].append(block))
    assert "plans.yml, A weekend: Saturday, before noon" in flaw and words in flaw


def test_plans_that_are_no_yaml_are_named(root):
    (root / "docs/instructor/plans.yml").write_text("- title: [", encoding="utf-8")
    (flaw,) = teaching.problems(root)
    assert flaw.startswith("plans.yml is no YAML: ") and "line" in flaw


def test_times_add_up():
    for plan in read_plans(REPOSITORY):
        assert list(plan_problems(plan, tuple(COURSE.values()))) == []
        for session in plan.sessions:
            assert session.start + session.minutes <= session.end
    page = (REPOSITORY / "docs/instructor/plans.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d):(\d\d) \| (\d+) \| (.*) \|$", page, re.MULTILINE)
    for (hour, minute, lasts, what), (next_hour, next_minute, _, _) in zip(rows, rows[1:]):
        if not what.startswith(("spare", "the end")):
            assert 60 * int(hour) + int(minute) + int(lasts) == 60 * int(next_hour) + int(next_minute)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("**Aim.** ", "", "Aim"), ("## Show live", "## Show", "sections in this order"), ("2. **", "2. ", "three questions"), ("<!-- cut: ", "<!-- leave: ", "cut: "),
        ("# 07 · The", "# 07 · A", "title"),
    ],
)  # fmt: skip
def test_a_page_that_lacks_something_is_named(old, new, words):
    page = (REPOSITORY / teaching.page_path(COURSE["07"])).read_text(encoding="utf-8")
    assert list(page_flaws(COURSE["07"], page)) == []
    assert any(words in flaw for flaw in page_flaws(COURSE["07"], page.replace(old, new, 1)))


def test_a_cut_of_an_exercise_that_is_not_there_is_refused(root):
    change(root / teaching.page_path(COURSE["07"]), "<!-- cut: 07.padding", "<!-- cut: 07.paddling")
    assert any("07_sequence_and_delay.md" in flaw and "07.paddling" in flaw for flaw in teaching.problems(root))
    assert "07.padding" in renewed("<!-- cut: 07.padding -->\n<!-- end of cut -->", COURSE["07"])


def test_a_hand_out_has_no_such_pages(tmp_path):
    assert teaching.contents(tmp_path) == {} and teaching.problems(tmp_path) == []
