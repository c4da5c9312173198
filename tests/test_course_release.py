"""A hand-out holds what a class needs, and nothing of what it is to find out."""

from __future__ import annotations

import ast
import json
import os
import re

import nbformat
import pytest
from hand_out import said_in
from typer.testing import CliRunner

from mmo import __version__
from mmo.cli import app
from mmo.course import catalogue
from mmo.course.build import BEGIN, END, Edition, leaks
from mmo.course.links import broken_links
from mmo.course.release import Online, clean_notebook, is_handed_out, release, version_stamp

ENTRIES = {entry.number: entry for entry in catalogue.read_course()}


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    return release(tmp_path_factory.mktemp("release") / "class", ["07", "05"])


def test_it_holds_the_chosen_notebooks_and_what_they_run_on(handed_out):
    folder = handed_out.folder
    assert sorted(path.name for path in (folder / "notebooks").iterdir()) == ["05_thinker.ipynb", "07_sequence_and_delay.ipynb"]
    assert [entry.number for entry in catalogue.read_course(folder)] == ["05", "07"]
    for name in ("mmo/sequence.py", "mmo/course/exercises.py", "data/tiny/codec.safetensors", "environment.yml", "constraints.txt", "pyproject.toml", "LICENSE"):
        assert (folder / name).is_file(), name


def test_it_holds_no_solution_no_hidden_case_and_no_history(handed_out):
    names = {path.relative_to(handed_out.folder).as_posix() for path in handed_out.folder.rglob("*")}
    for left_out in ("solutions", "tests", ".git", "mmo/course/grading"):
        assert left_out not in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    for path in (handed_out.folder / "notebooks").iterdir():
        solution = nbformat.read(Edition(ENTRIES[path.stem[:2]], catalogue.REPOSITORY).solution, 4)
        text = path.read_text(encoding="utf-8")
        assert leaks(solution, nbformat.reads(text, 4)) == []
        assert BEGIN not in text and END not in text


def test_notebooks_have_no_outputs_and_no_metadata_but_the_stamp_nbgraders_marks_and_slide_types(handed_out):
    for path in (handed_out.folder / "notebooks").iterdir():
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert notebook.metadata["mmo"] == {"release": handed_out.stamp}
        assert set(notebook.metadata) == {"kernelspec", "language_info", "mmo"}
        for cell in notebook.cells:
            assert not cell.get("outputs") and not cell.get("execution_count")
            assert set(cell.metadata) <= {"tags", "nbgrader", "slideshow"}
            assert cell.metadata.get("slideshow", {"slide_type": "-"}).keys() == {"slide_type"}


def test_a_notebook_is_made_from_its_source_not_from_a_copy_somebody_worked_in(tmp_path):
    """Whatever lies in notebooks/ does not matter: it is not even read."""
    (tmp_path / "solutions").mkdir()
    entry = ENTRIES["07"]
    original = Edition(entry, catalogue.REPOSITORY).solution
    Edition(entry, tmp_path).solution.write_bytes(original.read_bytes())
    assert "raise NotImplementedError" in clean_notebook(entry, "1", set(), tmp_path)


def test_the_version_stands_in_it(handed_out):
    about = json.loads((handed_out.folder / "RELEASE.json").read_text(encoding="utf-8"))
    assert about["release"] == handed_out.stamp == version_stamp(catalogue.REPOSITORY)
    assert about["version"] == __version__ and handed_out.stamp.startswith(__version__)
    assert about["notebooks"] == ["05", "07"]
    assert handed_out.stamp in (handed_out.folder / "README.md").read_text(encoding="utf-8")


def test_no_link_in_it_leads_nowhere(handed_out):
    folder = handed_out.folder
    pages = {path: path.read_text(encoding="utf-8") for path in (folder / "README.md", folder / "docs" / "install.md")}
    found = [flaw for path, text in pages.items() for flaw in broken_links(path, text, folder)]
    for path in (folder / "notebooks").iterdir():
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        found += [flaw for cell in cells for flaw in broken_links(path, cell.source, folder)]
    assert found == []


def test_without_an_address_it_knows_neither_colab_nor_binder(handed_out):
    folder = handed_out.folder
    assert not (folder / "binder").exists() and "repository" not in json.loads((folder / "RELEASE.json").read_text(encoding="utf-8"))
    for path in (*(folder / "notebooks").iterdir(), folder / "README.md"):
        text = path.read_text(encoding="utf-8")
        assert "mybinder" not in text and "google.colab" not in text and "colab-badge" not in text, path.name


# --- Published ---------------------------------------------------------------------------------------------------

ADDRESS = "https://github.com/somebody/class-26"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return release(tmp_path_factory.mktemp("release") / "class", ["05", "07"], online=Online(ADDRESS, "autumn")).folder


def test_each_notebook_has_badges_that_lead_to_itself_and_a_cell_that_fetches_this_hand_out(published):
    for name in ("05_thinker", "07_sequence_and_delay"):
        notebook = nbformat.read(published / "notebooks" / f"{name}.ipynb", 4)
        nbformat.validate(notebook)
        title, badges, setup = notebook.cells[:3]
        assert title.source.startswith("# ") and (badges.cell_type, setup.cell_type) == ("markdown", "code")
        assert f"(https://colab.research.google.com/github/somebody/class-26/blob/autumn/notebooks/{name}.ipynb)" in badges.source
        assert f"(https://mybinder.org/v2/gh/somebody/class-26/autumn?urlpath=lab%2Ftree%2Fnotebooks%2F{name}.ipynb)" in badges.source
        ast.parse(setup.source)
        assert f'"--branch", "autumn", "{ADDRESS}", "/content/class-26"' in setup.source and "from mmo.colab import prepare" in setup.source
        assert not setup.get("outputs") and "nbgrader" not in setup.metadata


def test_its_binder_folder_installs_what_lies_in_the_hand_out(published):
    """repo2docker takes binder/ alone, in the repository's root, and runs postBuild there."""
    ours = catalogue.REPOSITORY / "binder"
    assert {path.name for path in (published / "binder").iterdir()} == {path.name for path in ours.iterdir()} == {"postBuild", "runtime.txt"}
    for path in ours.iterdir():
        copy = published / "binder" / path.name
        assert copy.read_bytes() == path.read_bytes() and (os.name == "nt" or os.access(copy, os.X_OK) == os.access(path, os.X_OK))
    words = (published / "binder" / "postBuild").read_text(encoding="utf-8")
    for needed in re.findall(r"-c (\S+) -e (\S+)", words)[0]:
        assert (published / needed).exists(), f"{needed}, which postBuild installs from"
    assert (published / "pyproject.toml").is_file() and (published / "mmo" / "colab.py").is_file()


def test_what_colab_installs_is_known_in_it(published):
    """`mmo.colab` there reads the hand-out's own constraints and requirements."""
    said = said_in(published, "from mmo.colab import REPOSITORY, plan, project_requirements, read_pins\n"
                              "print(len(plan(project_requirements(), read_pins((REPOSITORY / 'constraints.txt').read_text()), {'torch': '2.9.0'}).install))")  # fmt: skip
    assert int(said) > 10


def test_readme_and_stamps_name_the_address(published):
    text = (published / "README.md").read_text(encoding="utf-8")
    assert "https://mybinder.org/v2/gh/somebody/class-26/autumn?urlpath=lab%2Ftree%2Fnotebooks" in text and ADDRESS in text
    about = json.loads((published / "RELEASE.json").read_text(encoding="utf-8"))
    assert (about["repository"], about["branch"]) == (ADDRESS, "autumn") and catalogue.repository_address(published) == ADDRESS
    assert broken_links(published / "README.md", text, published) == []


def test_an_address_that_colab_cannot_open_is_refused_before_anything_is_written(tmp_path):
    for words in (["--repository", "somebody/x"], ["--repository", ADDRESS, "--branch", "a/b"]):
        found = CliRunner().invoke(app, ["course", "release", "--to", str(tmp_path / "out"), "--notebooks", "05", *words])
        assert found.exit_code == 1 and ("https://github.com/OWNER/NAME" in found.output or "without slashes" in found.output), found.output
    assert not list(tmp_path.iterdir())


def test_the_command_says_how_to_publish_it(tmp_path, monkeypatch):
    monkeypatch.setattr("mmo.course.release.fill", lambda *words: None)
    found = CliRunner().invoke(app, ["course", "release", "--to", str(tmp_path / "out"), "--notebooks", "05", "--repository", ADDRESS, "--branch", "autumn"])
    assert found.exit_code == 0, found.output
    assert f"git push {ADDRESS} autumn" in found.output.replace("\n", "")


# --- Flaws -------------------------------------------------------------------------------------------------------


def test_links_to_what_is_not_handed_out_become_words():
    assert is_handed_out("https://example.org/a.ipynb", set())
    assert is_handed_out("07_sequence_and_delay.ipynb#anchor", {"07_sequence_and_delay"})
    assert not is_handed_out("10_train_t2a.ipynb", {"07_sequence_and_delay"})
    assert not is_handed_out("../solutions/07_sequence_and_delay.ipynb", {"07_sequence_and_delay"})
    assert "notebook 10" in clean_notebook(ENTRIES["07"], "1", set(), catalogue.REPOSITORY)
    assert "10_train_t2a.ipynb" not in clean_notebook(ENTRIES["07"], "1", set(), catalogue.REPOSITORY)


def test_a_target_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        release(tmp_path, ["05"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_half_done_is_left_where_a_part_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        (tmp_path / "course").mkdir()
        (tmp_path / "course" / "course.yml").write_text((catalogue.REPOSITORY / "course.yml").read_text(encoding="utf-8"), encoding="utf-8")
        release(tmp_path / "out", ["05"], tmp_path / "course")
    assert [path.name for path in tmp_path.iterdir()] == ["course"]


def test_an_unknown_notebook_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no notebook 99"):
        release(tmp_path / "out", ["99"])
    assert not (tmp_path / "out").exists()


def test_a_check_works_in_it_and_what_is_left_out_is_said(handed_out):
    """In a process that has only the hand-out's package: the check answers, `solution` and `mmo course grade` say what they lack."""
    code = (
        "from mmo.course import check, exercise, solution\n"
        "@exercise('07.padding')\ndef padding(lengths, budget): return sum(lengths)\n"
        "print(check('07.padding').words)\n"
        "try:\n    solution('07.padding')\nexcept ValueError as error:\n    print(error)\n"
        "from typer.testing import CliRunner\nfrom mmo.cli import app\n"
        "for words in (['grade', '.', '--out', 'x'], ['seat', '--notebooks', '07'], ['release', '--to', 'y']):\n"
        "    found = CliRunner().invoke(app, ['course', *words])\n    print(found.exit_code, found.output)\n"
    )
    said = said_in(handed_out.folder, code)
    assert "what is useful, not what is computed" in said
    assert "this is a hand-out, without solutions" in said
    assert "1 this is a hand-out: grading is done in the whole course" in said
    assert "1 this is a hand-out: a seat is measured with the solutions" in said
    assert "1 this is a hand-out: another one is made in the whole course" in said
