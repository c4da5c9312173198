"""`mmo test --changed`: a notebook is run when something changed that it reads, however far away, and it is said what; else it is not."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mmo.course.catalogue import REPOSITORY, read_course
from mmo.course.changed import changed_entries, changed_files, names_file, profile_paths, touched, used
from mmo.profiles import profile


def reasons(*files: str) -> dict[str, str]:
    """Notebook number -> why, in the real tree."""
    return {entry.number: why for entry, why in touched(files)}


ALL = {entry.number for entry in read_course()}


# --- The real tree -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["solutions/07_sequence_and_delay.py", "notebooks/07_sequence_and_delay.ipynb", "mmo/course/tasks/sequence.py", "mmo/course/quizzes/07.yml"])
def test_its_own_files_touch_a_notebook_alone(file):
    assert reasons(file) == {"07": file}


def test_a_module_touches_those_that_import_it():
    found = reasons("mmo/sequence.py")
    assert found["07"] == "mmo/sequence.py" and "10" in found and "03" not in found


@pytest.mark.parametrize(
    ("file", "some", "none"),
    [
        ("mmo/fused.py", {"05", "10", "13"}, {"02", "03", "A1"}),
        ("mmo/loader.py", {"04", "10", "11", "12", "A4"}, {"02", "03", "05", "07"}),
        ("mmo/transformer.py", {"05", "08", "10"}, {"02", "03"}),
        ("mmo/world/train_codec.py", {"A1"}, ALL - {"A1"}),
    ],
)
def test_a_module_touches_those_that_import_it_through_others(file, some, none):
    found = reasons(file)
    assert some <= set(found) and not none & set(found), found
    assert all(why.startswith(file) for why in found.values())


def test_the_way_is_told():
    assert reasons("mmo/muon.py")["13"].split(", by ")[:2] == ["mmo/muon.py", "mmo/optimiser.py"]
    assert reasons("mmo/fused.py")["05"] == "mmo/fused.py, by mmo/course/tasks/thinker.py"


@pytest.mark.parametrize("file", ["mmo/course/desk.py", "mmo/course/questions.py", "mmo/course/__init__.py", "mmo/course/exercises.py", "mmo/profiles.py"])
def test_what_every_notebook_sets_up_touches_every_notebook(file):
    assert set(reasons(file)) == ALL


@pytest.mark.parametrize(
    ("file", "some", "none"),
    [
        ("data/tiny/codec.safetensors", {"01", "07", "08", "13"}, {"02", "03", "05"}),
        ("data/tiny/codec.json", {"01", "07"}, {"03", "05"}),
        ("data/tiny/omni.safetensors", {"00", "08", "13"}, {"02", "03", "05", "07", "A1"}),
        ("data/tiny/speech_encoder/am.mvn", {"00", "02", "04", "A2"}, {"03", "05", "A1"}),
        ("data/tiny/thinker.safetensors", {"04", "05", "06"}, {"02", "03", "07", "A1"}),
        ("data/tiny/t2a-validation.parquet", {"07", "08", "09", "10"}, {"02", "03", "05", "A1", "A3"}),
        ("data/tiny/t2a-test.parquet", {"01", "10", "A1"}, {"05", "A3"}),
        ("data/tiny/i2t-test.parquet", {"00", "03", "04", "13"}, {"05", "A1"}),
        ("data/tiny/words.txt", {"01", "08", "A1"}, {"03", "05"}),
        ("data/tiny/figures/vision_encoder.json", {"A3"}, {"02", "03", "05", "07"}),
    ],
)
def test_shipped_weights_and_rows_touch_those_that_read_them(file, some, none):
    assert (REPOSITORY / file).is_file(), f"{file} is gone: name another"
    found = reasons(file)
    assert some <= set(found) and not none & set(found), found


@pytest.mark.parametrize("file", ["docs/install.md", "README.md", "data/tiny/README.md", "mmo/bench/train.py", "mmo/rehearsal/plan.py", "mmo/weekend.py", "tests/test_codec.py", "Makefile"])
def test_what_no_notebook_reads_touches_none(file):
    assert reasons(file) == {}


def test_every_path_of_the_profile_is_below_its_data():
    """What is found by a profile's path holds only while the shipped files are where the profile says."""
    paths = profile_paths(profile("tiny"))
    assert {"codec_file", "tokenizer_dir", "speech_encoder_dir", "vision_encoder_dir", "thinker_file", "checkpoint_file"} == set(paths)
    assert all((REPOSITORY / place).exists() for place in paths.values())


# --- Reading code ------------------------------------------------------------------------------------------------


def test_imports_are_found_wherever_they_stand():
    source = (
        "# %matplotlib inline\n%matplotlib inline\nfrom mmo import sequence\nimport mmo.codec as codec\nimport torch\n"
        "def late():\n    from mmo.course import check\n    run([python, '-m', 'mmo.distributed'])\n    from . import beside\n    from .beside import thing\n"
    )
    wanted = {"mmo.sequence", "mmo.codec", "mmo.course", "mmo.course.check", "mmo.distributed", "mmo.world.beside", "mmo.world.beside.thing"}
    assert used(source, "mmo.world").modules - {"mmo.world"} == wanted


def test_texts_with_gaps_are_patterns():
    assert "*-test.parquet" in used('read(f"{stage}-test.parquet")').texts
    assert names_file("t2a-*.parquet", "t2a-test.parquet") and names_file("data/*.parquet", "t2a-test.parquet")
    assert not names_file("*", "t2a-test.parquet") and not names_file("a2a-*.parquet", "t2a-test.parquet") and not names_file("t2a", "t2a-test.parquet")
    assert not names_file("x", "x")


# --- A stand-in --------------------------------------------------------------------------------------------------

COURSE = "notebooks:\n- {number: '00', file: 00_first, title: a, aim: b, minutes: {}, exercises: {00.a: 3}}\n- {number: '05', file: 05_second, title: a, aim: b, minutes: {}, exercises: {}}\n"
TREE = {
    "course.yml": COURSE,
    "mmo/__init__.py": "",
    "mmo/deep.py": "def work():\n    from mmo.deeper import x\n    from mmo.circle import y\n",
    "mmo/deeper.py": "x = 1\n",
    "mmo/circle.py": "import mmo.deep\n",
    "mmo/reader.py": "def read(settings):\n    return settings.codec_file, settings.data_dir / f'{settings.split}.txt'\n",
    "mmo/apart.py": "import mmo.deeper\n",
    "mmo/course/tasks/warm_up.py": "import mmo.reader\n",
    "solutions/00_first.py": "# %%\nimport mmo.deep\n",
    "solutions/05_second.py": "# %%\nimport torch\n",
    "data/tiny/codec.safetensors": "weights",
    "data/tiny/words.txt": "one",
}


@pytest.fixture
def tree(tmp_path):
    """A small repository of two notebooks, all of it committed."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "."), git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)


def after(tree: Path, **texts: str) -> dict[str, str]:
    """Why each notebook of the stand-in is touched once these files are written.  In the names / is __ and . is ___."""
    for name, text in texts.items():
        path = tree / name.replace("___", ".").replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    data = tree / "data" / "tiny"
    asked = replace(profile("tiny"), **{field: data / place.removeprefix("data/tiny/") for field, place in profile_paths(profile("tiny")).items()}, data_dir=data)
    return {entry.number: why for entry, why in touched(changed_files("HEAD", tree), tree, asked=asked)}


def test_an_unchanged_tree_touches_nothing(tree):
    assert after(tree) == {}


def test_a_chain_of_imports_is_followed_and_a_circle_ends(tree):
    assert after(tree, mmo__deeper___py="x = 2\n") == {"00": "mmo/deeper.py, by mmo/deep.py"}


def test_a_module_that_no_notebook_imports_touches_nothing(tree):
    assert after(tree, mmo__apart___py="x = 2\n", mmo__new___py="x = 3\n") == {}


def test_a_module_that_is_gone_touches_those_that_import_it(tree):
    (tree / "mmo" / "deeper.py").unlink()
    assert after(tree) == {"00": "mmo/deeper.py, by mmo/deep.py"}


def test_a_new_import_is_followed_at_once(tree):
    assert after(tree, mmo__deeper___py="import mmo.apart\n", mmo__apart___py="x = 2\n")["00"].startswith("mmo/deeper.py")
    git(tree, "commit", "-qam", "two")
    assert after(tree, mmo__apart___py="x = 3\n") == {"00": "mmo/apart.py, by mmo/deeper.py, by mmo/deep.py"}


def test_data_that_the_exercises_read_touch_the_notebook(tree):
    assert after(tree, data__tiny__codec___safetensors="others") == {"00": "data/tiny/codec.safetensors, read by mmo/reader.py, by mmo/course/tasks/warm_up.py"}
    git(tree, "commit", "-qam", "two")
    assert set(after(tree, data__tiny__words___txt="two")) == {"00"}
    git(tree, "commit", "-qam", "three")
    assert after(tree, data__tiny__README___md="about", data__tiny__extra___bin="new") == {}


def test_an_entry_of_the_course_touches_its_own_notebook(tree):
    assert after(tree, course___yml=COURSE.replace("exercises: {}", "exercises: {05.a: 4}")) == {"05": "its entry in course.yml"}
    assert after(tree, course___yml=COURSE + "# a remark\n") == {}


def test_a_course_that_is_new_touches_every_notebook(tree):
    git(tree, "rm", "-q", "--cached", "course.yml"), git(tree, "commit", "-qm", "two")
    assert changed_entries("HEAD", tree) == {"00", "05"}


def test_new_and_changed_files_are_found(tree):
    (tree / "mmo" / "deep.py").write_text("2")
    (tree / "new.py").write_text("3")
    assert changed_files("HEAD", tree) == {"mmo/deep.py", "new.py"}
    with pytest.raises(ValueError, match="nowhere"):
        changed_files("nowhere", tree)
