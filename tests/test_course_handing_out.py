"""Handing out beyond a folder: badges for Colab, Binder's configuration, wheels for a room without network, what a seat takes."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import build, catalogue, seat, wheelhouse
from mmo.course.badge import badge_cells
from mmo.course.wheelhouse import WheelhouseError, course_requirements, install_command, make_wheelhouse

ADDRESS = "https://github.com/somebody/some-course"

# --- Badges ------------------------------------------------------------------------------------------------------


def test_without_an_address_there_is_no_badge():
    assert badge_cells("", "07_x") is None
    if catalogue.repository_address() == "":
        for path in (catalogue.REPOSITORY / "notebooks").glob("*.ipynb"):
            assert "colab" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("address", [ADDRESS, ADDRESS + "/", ADDRESS + ".git"])
def test_a_badge_leads_to_the_learners_notebook(address):
    badge, setup = badge_cells(address, "07_sequence_and_delay")
    assert "colab.research.google.com/github/somebody/some-course/blob/main/notebooks/07_sequence_and_delay.ipynb" in badge
    assert '"https://github.com/somebody/some-course", "/content/some-course"' in setup
    ast.parse(setup)


def test_beside_it_stands_one_for_binder():
    badge, _ = badge_cells(ADDRESS, "07_sequence_and_delay", "autumn")
    assert "](https://mybinder.org/v2/gh/somebody/some-course/autumn?urlpath=lab%2Ftree%2Fnotebooks%2F07_sequence_and_delay.ipynb)" in badge
    assert "/blob/autumn/notebooks/07_sequence_and_delay.ipynb" in badge


@pytest.mark.parametrize("branch", ["", "a/b", "a b", '"; import os', "a?b"])
def test_a_branch_that_is_no_part_of_an_address_is_refused(branch):
    with pytest.raises(ValueError, match="without slashes and spaces"):
        badge_cells(ADDRESS, "07_x", branch)


@pytest.mark.parametrize("address", ["somebody/some-course", "https://gitlab.com/a/b", "https://github.com/a", "http://github.com/a/b\" ; x"])
def test_an_address_that_colab_cannot_open_is_refused(address):
    with pytest.raises(ValueError, match="https://github.com/OWNER/NAME"):
        badge_cells(address, "07_x")


@pytest.fixture
def published(tmp_path):
    """A copy of the course with notebook 07 alone, and an address."""
    root = tmp_path / "course"
    (root / "solutions").mkdir(parents=True)
    for ending in ("py", "ipynb"):
        name = f"07_sequence_and_delay.{ending}"
        (root / "solutions" / name).write_text((catalogue.REPOSITORY / "solutions" / name).read_text(encoding="utf-8").replace("](10_train_t2a.ipynb)", "](07_sequence_and_delay.ipynb)"), encoding="utf-8")
    (root / "README.md").write_text(f"# x\n{catalogue.TABLE_BEGIN}\n{catalogue.TABLE_END}\n")
    (root / "docs").mkdir()
    (root / "docs" / "performance.md").write_text("# 07 links to it\n")
    entry = next(each for each in yaml.safe_load((catalogue.REPOSITORY / "course.yml").read_text(encoding="utf-8"))["notebooks"] if each["number"] == "07")
    (root / "course.yml").write_text(yaml.safe_dump({"repository": ADDRESS, "notebooks": [entry]}))
    return root


def test_a_published_course_is_built_with_badges_and_passes_its_own_check(published):
    build.build(published)
    assert build.problems(published) == []
    notebook = nbformat.read(published / "notebooks" / "07_sequence_and_delay.ipynb", 4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells[:3]] == ["markdown", "markdown", "code"]
    assert "colab-badge.svg" in notebook.cells[1].source and "prepare()" in notebook.cells[2].source
    assert "colab" not in nbformat.read(published / "solutions" / "07_sequence_and_delay.ipynb", 4).cells[1].source
    (published / "course.yml").write_text((published / "course.yml").read_text().replace(ADDRESS, "ftp://x"))
    assert any("which Colab opens" in flaw for flaw in build.problems(published))


def test_the_setup_cell_does_nothing_elsewhere(monkeypatch):
    """Wherever google.colab is not loaded: no file, no process, no other folder."""
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: pytest.fail("a process was started"))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    here = os.getcwd()
    exec(badge_cells(ADDRESS, "07_x")[1], {})
    assert os.getcwd() == here


def test_the_setup_cell_fetches_and_prepares_on_colab(monkeypatch):
    from mmo import colab

    done = []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done.append(command))
    monkeypatch.setattr(os, "chdir", lambda folder: done.append(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(colab, "prepare", lambda: done.append("prepared"))
    exec(badge_cells(ADDRESS, "07_x")[1], {})
    assert done[0][:2] == ["git", "clone"] and done[0][-2:] == [ADDRESS, "/content/some-course"]
    assert done[1:] == ["/content/some-course/notebooks", "prepared"]


# --- Binder ------------------------------------------------------------------------------------------------------


def test_binders_script_is_sound_and_installs_the_pinned_set():
    folder = catalogue.REPOSITORY / "binder"
    script = folder / "postBuild"
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "-c constraints.txt -e ." in text
    if os.name == "posix":
        assert os.access(script, os.X_OK), "repo2docker runs it"
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    version = (folder / "runtime.txt").read_text(encoding="utf-8").strip()
    assert version in ("python-3.10", "python-3.11", "python-3.12")


# --- Wheels ------------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str, needs: tuple[str, ...] = ()) -> None:
    """A wheel with one module that holds its version."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = '{version}'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {each}\n" for each in needs),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in (files | {f"{about}/RECORD": record + f"{about}/RECORD,,\n"}).items():
            archive.writestr(path, text)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder that stands for a package index: mmo-toy-a needs mmo-toy-b, of which there are two versions."""
    folder = tmp_path_factory.mktemp("index")
    wheel(folder, "mmo_toy_a", "1.0", ("mmo_toy_b",))
    wheel(folder, "mmo_toy_b", "1.0")
    wheel(folder, "mmo_toy_b", "2.0")
    return folder


def from_index(folder: Path) -> tuple[str, ...]:
    return ("--no-index", "--find-links", str(folder))


def test_a_wheelhouse_holds_the_pinned_versions_and_installs_without_anything_else(index, tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text("mmo-toy-b==1.0\n")
    made = make_wheelhouse(tmp_path / "wheels", ["mmo-toy-a"], pins, pip_options=from_index(index))
    assert sorted(path.name for path in made.folder.iterdir()) == ["INSTALL.txt", "constraints.txt", "mmo_toy_a-1.0-py3-none-any.whl", "mmo_toy_b-1.0-py3-none-any.whl"]
    assert made.wheels == 2 and made.size > 0
    assert install_command("DIR") in (made.folder / "INSTALL.txt").read_text(encoding="utf-8")
    words = made.command.replace('"', "").replace("-e .", "mmo-toy-a").split()
    target = tmp_path / "installed"
    subprocess.run([sys.executable, *words[1:], "--target", str(target), "--quiet", "--disable-pip-version-check"], check=True)
    assert "1.0" in (target / "mmo_toy_b.py").read_text()


def test_what_cannot_be_had_is_named_and_what_is_there_stays(index, tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text("mmo-toy-b==3.0\n")
    with pytest.raises(WheelhouseError, match="mmo-toy-b"):
        make_wheelhouse(tmp_path / "wheels", ["mmo-toy-a"], pins, pip_options=from_index(index))
    pins.write_text("mmo-toy-b==2.0\n")
    assert make_wheelhouse(tmp_path / "wheels", ["mmo-toy-a"], pins, pip_options=from_index(index)).wheels == 2


def test_the_course_needs_its_packages_and_the_tool_that_builds_it():
    found = course_requirements()
    assert "moshi==0.2.13" in found and "setuptools==80.10.2" in found
    assert not [each for each in found if each.startswith(("pytest", "nbgrader", "piper"))]


def test_the_command_prints_how_to_install_or_what_failed(monkeypatch, tmp_path):
    def made(folder, requirements, **options):
        if options["extra_index"] == "bad":
            raise WheelhouseError("no matching distribution")
        return wheelhouse.Wheelhouse(folder, 3, 2_000_000_000, install_command(str(folder)))

    monkeypatch.setattr(wheelhouse, "make_wheelhouse", made)
    good = CliRunner().invoke(app, ["course", "wheelhouse", str(tmp_path / "w")])
    assert good.exit_code == 0 and "3 wheels, 2.00 GB" in good.output and "--no-index --find-links" in good.output
    bad = CliRunner().invoke(app, ["course", "wheelhouse", str(tmp_path / "w"), "--extra-index-url", "bad"])
    assert bad.exit_code == 1 and "no matching distribution" in bad.output


# --- A seat ------------------------------------------------------------------------------------------------------


def test_a_seat_is_measured_at_its_peak(tmp_path, monkeypatch):
    """A notebook that holds 200 MB for a moment."""
    cells = ["budget = 'full'", "import time\nheap = bytearray(200_000_000)\nfor at in range(0, len(heap), 4096): heap[at] = 1\ntime.sleep(1)\ndel heap", "assert budget == 'smoke'"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": build.KERNEL, "language_info": {"name": "python"}})
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (tmp_path / "solutions").mkdir()
    nbformat.write(notebook, tmp_path / "solutions" / "07_x.ipynb")
    entry = catalogue.Notebook("07", "07_x", "x", "x", {}, 0)
    found = seat.measure_seat(entry, "smoke", tmp_path / "runs", tmp_path)
    assert 200e6 < found.private <= found.memory < 1.5e9
    assert 0 < found.busy and 1 < found.seconds
