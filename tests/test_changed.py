"""`mmo test --changed`: a notebook is run when its own files changed, or a module that it imports."""

import subprocess

import pytest

from mmo.course.changed import changed_files, imported, touched


def numbers(*files: str) -> list[str]:
    return [entry.number for entry in touched(files)]


def test_its_own_files_touch_a_notebook():
    for file in ("solutions/07_sequence_and_delay.py", "notebooks/07_sequence_and_delay.ipynb", "mmo/course/tasks/sequence.py"):
        assert numbers(file) == ["07"], file


def test_a_module_touches_those_that_import_it():
    assert {"07", "10"} <= set(numbers("mmo/sequence.py")) and "03" not in numbers("mmo/sequence.py")
    assert not numbers("docs/install.md")


def test_imports_are_read_from_the_text_form():
    source = "# %matplotlib inline\n%matplotlib inline\nfrom mmo import sequence\nfrom mmo.course import check\nimport mmo.codec as codec\nimport torch\n"
    assert {"mmo/sequence.py", "mmo/codec.py"} <= imported(source) and not any("torch" in file for file in imported(source))


def test_new_and_changed_files_are_found(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "old.py").write_text("1")
    git("add", "."), git("commit", "-qm", "one")
    (tmp_path / "old.py").write_text("2")
    (tmp_path / "new.py").write_text("3")
    assert changed_files("HEAD", tmp_path) == {"old.py", "new.py"}
    with pytest.raises(ValueError, match="nowhere"):
        changed_files("nowhere", tmp_path)
