"""Running notebooks without anybody watching: what is asked for is checked before anything runs, a failure stays with its own
variant and keeps its notebook up to the failing cell, what is done stays done, and the page sets the sounds side by side."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import batch as batches
from mmo.course.batch import Batch, expand, plan, read_batch, read_settings, run_batch
from mmo.course.batch_page import side_by_side
from mmo.course.catalogue import REPOSITORY, read_course

CODE, TEXT = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
COURSE = """
notebooks:
  - {number: "10", file: 10_one, title: One, aim: it speaks, minutes: {tiny: 5}}
  - {number: "11", file: 11_two, title: Two, aim: it follows, minutes: {tiny: 5}, needs: ["10"]}
  - {number: "12", file: 12_alone, title: Alone, aim: it sleeps, minutes: {tiny: 5}}
"""
# Without the package, whose import takes seconds: the profile's name is all that reaches a notebook (tests/test_adjust.py reads it).
ONE = """
import os, pathlib
from IPython.display import HTML
dropout = float(profile.split("code_dropout=")[1])
run = pathlib.Path(os.environ["MMO_RUNS"], f"{profile}-{budget}")
run.mkdir(parents=True, exist_ok=True)
with open(run / "runs.txt", "a") as file:
    print(profile, budget, loudness, os.environ.get("MMO_STRICT"), file=file)
print("dropout", dropout)
"""
SLEEPS = """
import os, pathlib, time
begun = pathlib.Path(os.environ["MMO_RUNS"], "begun")
again = begun.exists()
begun.touch()
time.sleep(0 if again else 300)
print("slept")
"""
SOUND = 'HTML(f\'<figure><audio controls src="data:audio/mpeg;base64,AAAA"></audio><figcaption>a tone at {loudness} and {dropout}</figcaption><img src="data:image/png;base64,AAAA"></figure>\')'


def write_notebook(path, *cells):
    book = nbformat.v4.new_notebook(cells=[TEXT("# A notebook"), *cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A course of three notebooks of a few cells."""
    root = tmp_path_factory.mktemp("course")
    (root / "solutions").mkdir()
    (root / "course.yml").write_text(COURSE)
    plain = CODE('profile = "tiny"\nbudget = "full"', metadata={"tags": ["parameters"]})
    louder = CODE('profile = "tiny"\nbudget = "full"\nloudness = 0.1', metadata={"tags": ["parameters"]})
    write_notebook(root / "solutions/10_one.ipynb", louder, CODE(ONE), CODE(SOUND), TEXT("## Here it may break"), CODE('assert dropout < 0.9, "too much dropout"'), CODE("print('the end')"))
    write_notebook(root / "solutions/11_two.ipynb", plain, CODE("print('two')"))
    write_notebook(root / "solutions/12_alone.ipynb", plain, CODE(SLEEPS))
    return root


@pytest.fixture(scope="module")
def swept(root, tmp_path_factory):
    """Two notebooks with two settings; one of the settings breaks the first notebook."""
    folder = tmp_path_factory.mktemp("batch") / "here"
    batch = Batch(("10", "11"), budget="smoke", settings=read_settings(["t2a.code_dropout=0.2,0.95"]))
    return folder, batch, run_batch(batch, folder, jobs=2, root=root)


def test_every_variant_has_its_folder_copy_page_and_outcome(swept):
    folder, _, report = swept
    assert [(each["notebook"], each["state"]) for each in report["jobs"]] == [("10", "done"), ("11", "done"), ("10", "failed"), ("11", "skipped")]
    good = folder / "tiny,t2a.code_dropout=0.2-smoke"
    assert (good / "runs.txt").read_text() == "tiny,t2a.code_dropout=0.2 smoke 0.1 1\n", "the notebook got its profile, ran strictly, wrote into its own variant"
    for name in ("10_one.ipynb", "10_one.html", "10_one.json", "11_two.html"):
        assert (good / "notebooks" / name).is_file()
    assert "dropout 0.2" in (good / "notebooks/10_one.html").read_text(encoding="utf-8")
    assert json.loads((folder / "report.json").read_text())["jobs"] == report["jobs"]
    assert all(each["seconds"] > 0 and each["peak_rss_mb"] > 0 for each in report["jobs"][:3])


def test_a_failed_job_keeps_its_notebook_up_to_the_failing_cell(swept):
    folder, _, report = swept
    failed = report["jobs"][2]
    assert "too much dropout" in failed["reason"] and "Here it may break" in failed["reason"]
    cells = nbformat.read(folder / failed["copy"], 4).cells
    said = ["".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])]
    assert any("dropout 0.95" in text for text in said), "cells before the failing one keep their outputs"
    assert not any("the end" in text for text in said), "cells behind it did not run"
    assert any(output.output_type == "error" for cell in cells for output in cell.get("outputs", []))
    assert "too much dropout" in (folder / failed["page"]).read_text(encoding="utf-8")
    assert report["jobs"][3]["reason"] == "it builds on 10, which did not come to the end"


def test_the_page_sets_the_sounds_side_by_side(swept):
    folder, _, _ = swept
    page = (folder / "index.html").read_text(encoding="utf-8")
    row = page.split('class="sounds"')[1].split("</table>")[0]
    assert row.count("<audio") == 2 and "a tone at 0.1 and 0.2" in row and "a tone at 0.1 and 0.95" in row
    assert "<img" not in row and "http" not in page


def test_answers_to_one_question_share_a_line_though_one_variant_was_silent_before(tmp_path):
    out = nbformat.v4.new_output

    def asked(*answers):
        """A cell that prints a question and plays its answer, where there is one."""
        outputs = []
        for number, answer in enumerate(answers):
            outputs.append(out("stream", name="stdout", text=f"question {number}\n"))
            outputs += [out("display_data", data={"text/html": f"<audio></audio>{answer}"})] if answer else []
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Ask"), nbformat.v4.new_code_cell("ask()", outputs=outputs)])

    for name, book in (("a", asked("one", "two", "three")), ("b", asked("", "zwei", ""))):
        nbformat.write(book, tmp_path / f"{name}.ipynb")
    page = side_by_side("10", "Train", [{"variant": name, "notebook": "10", "copy": f"{name}.ipynb"} for name in "ab"], ["a", "b"], tmp_path)
    rows = page.split("<tr>")[2:]
    assert ["one" in rows[0] and "<i>none</i>" in rows[0], "two" in rows[1] and "zwei" in rows[1], "three" in rows[2] and "<i>none</i>" in rows[2]] == [True] * 3, page


def test_what_is_done_stays_and_the_rest_is_run_again(swept, root):
    folder, batch, report = swept
    assert read_batch(folder) == batch
    again = run_batch(read_batch(folder), folder, root=root)
    assert [each["state"] for each in again["jobs"]] == ["done", "done", "failed", "skipped"]
    assert len((folder / "tiny,t2a.code_dropout=0.2-smoke/runs.txt").read_text().splitlines()) == 1, "it did not run twice"
    assert len((folder / "tiny,t2a.code_dropout=0.95-smoke/runs.txt").read_text().splitlines()) == 2, "the failed one did"
    assert again["jobs"][0] == report["jobs"][0]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_stopped_it_saves_and_says_how_to_go_on(root, tmp_path):
    folder = tmp_path / "batch"
    code = (
        "import sys; from pathlib import Path; from mmo.course.batch import Batch, main\n"
        "from mmo.course import batch; run = batch.run_batch\n"
        f"batch.run_batch = lambda asked, folder, jobs: run(asked, folder, jobs, root=Path({str(root)!r}))\n"
        f"sys.exit(main(lambda: (Batch(('12',)), Path({str(folder)!r})), 1))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not (folder / "begun").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130 and f"--resume {folder}" in complaint
    (job,) = json.loads((folder / "report.json").read_text())["jobs"]
    assert job["state"] == "stopped" and (folder / job["copy"]).is_file()
    assert "<script src=" not in (folder / job["page"]).read_text(encoding="utf-8"), "a page that needs no network"
    assert read_batch(folder).notebooks == ("12",), "what was asked for is there to go on with"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_on_the_command_line_it_is_stopped_and_goes_on_by_the_command_that_it_prints(root, tmp_path):
    """A queue's way: SIGTERM during the second notebook, then the printed words.  The first is not run twice, the second comes to its end."""
    code = (
        "from pathlib import Path; from mmo.course import batch; run = batch.run_batch\n"
        f"batch.run_batch = lambda asked, folder, jobs: run(asked, folder, jobs, root=Path({str(root)!r}))\n"
        "from mmo.cli import app; app()"
    )

    def mmo(*words):
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process = mmo("course", "run", "--notebooks", "10,12", "--budget", "smoke", "--set", "t2a.code_dropout=0.2", "--to", str(tmp_path))
    try:
        until = time.monotonic() + 300
        while not list(tmp_path.glob("*/begun")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=120)
    finally:
        process.kill()
    (folder,) = tmp_path.iterdir()
    assert process.returncode == 130, complaint
    states = [(each["notebook"], each["state"]) for each in json.loads((folder / "report.json").read_text())["jobs"]]
    assert states == [("10", "done"), ("12", "stopped")]

    (words,) = [line.split("go on with: mmo ")[1] for line in complaint.splitlines() if "go on with: mmo " in line]
    again = mmo(*words.split())
    try:
        said, complaint = again.communicate(timeout=300)
    finally:
        again.kill()
    assert again.returncode == 0, complaint
    assert [(each["notebook"], each["state"]) for each in json.loads((folder / "report.json").read_text())["jobs"]] == [("10", "done"), ("12", "done")]
    assert list(tmp_path.iterdir()) == [folder] and "10 with" not in said, "in the same folder, and only what was left"
    variant = folder / "tiny,t2a.code_dropout=0.2-smoke"
    assert len((variant / "runs.txt").read_text().splitlines()) == 1, "the first did not run twice"
    assert "slept" in (variant / "notebooks" / "12_alone.html").read_text(encoding="utf-8")


# --- Before anything runs ----------------------------------------------------------------------------------------


def test_numbers_and_ranges():
    course = read_course()
    assert expand("10-12,A1", course) == ("10", "11", "12", "A1")
    assert expand("13, 12-13", course) == ("12", "13"), "each once, in the course's order"
    for wrong, words in (("10-77", "no notebook '77'"), ("12-10", "12 comes behind 10"), ("", "no notebook chosen")):
        with pytest.raises(ValueError, match=words):
            expand(wrong, course)


def test_every_setting_with_every_other(root, tmp_path):
    jobs = plan(Batch(("10", "11"), settings=read_settings(["lr=1e-3,3e-4", "loudness=0.2,0.3"])), tmp_path, root)
    assert len(jobs) == 8 and len({job.folder for job in jobs}) == 4
    assert jobs[0].parameters == {"profile": "tiny,learning_rate=0.001", "budget": "full", "loudness": 0.2}
    assert "loudness" not in jobs[1].parameters, "a notebook gets only parameters of its own"
    assert jobs[1].needs == ("10",)
    assert jobs[0].folder == tmp_path / "loudness=0.2" / "tiny,learning_rate=0.001" and jobs[0].variant == "loudness=0.2/tiny,learning_rate=0.001"


def test_an_unknown_setting_is_refused_with_the_known_ones(root, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)parameter 'lerning_rate'.*Parameters: budget, loudness, profile.*Settings: learning_rate,"):
        plan(Batch(("10",), settings={"lerning_rate": ["1"]}), tmp_path, root)
    with pytest.raises(ValueError, match="learning_rate=much: wanted float"):
        plan(Batch(("10",), settings={"learning_rate": ["much"]}), tmp_path, root)
    with pytest.raises(ValueError, match="learning_rate=3e-4 and learning_rate=0.0003 are the same values"):
        plan(Batch(("10",), settings=read_settings(["lr=3e-4,0.0003"])), tmp_path, root)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(["lr"], "written name=value"), (["lr="], "written name=value"), (["lr=1", "learning_rate=2"], "set twice"), (["profile=mini"], "option of its own")],
)
def test_a_setting_that_is_not_one(wrong, words):
    with pytest.raises(ValueError, match=words):
        read_settings(wrong)


def test_notebooks_wait_for_those_they_build_on_however_far_back():
    jobs = plan(Batch(("10", "12", "13")), REPOSITORY / "runs" / "never")
    assert {job.entry.number: job.needs for job in jobs} == {"10": (), "12": ("10",), "13": ("10", "12")}
    chain = {number: replace(entry, needs=needs) for entry, number, needs in zip(read_course(), "abcd", ((), ("a",), ("a", "b"), ("c",)))}
    assert [batches.all_needs(entry, chain) for entry in chain.values()] == [set(), {"a"}, {"a", "b"}, {"a", "b", "c"}]


def test_folders_are_dated_and_of_ones_own(tmp_path):
    """Two runs that begin in the same second do not share one: it is made at once."""
    first, second = batches.new_folder(tmp_path), batches.new_folder(tmp_path)
    assert first != second and first.name[:2] == "20" and first.is_dir() and second.is_dir()


def test_two_runs_in_one_folder_are_refused(swept, root):
    folder, batch, _ = swept
    with FileLock(folder / ".batch.lock"), pytest.raises(ValueError, match="another `mmo course run` is at work"):
        run_batch(batch, folder, root=root)


def test_a_run_that_cannot_be_planned_leaves_no_folder(tmp_path):
    found = CliRunner().invoke(app, ["course", "run", "--notebooks", "10", "--set", "nonsense=1", "--to", str(tmp_path / "to")])
    assert found.exit_code == 1 and not list((tmp_path / "to").iterdir())


def test_a_variant_that_diverged_costs_no_report(tmp_path):
    """JSON knows no NaN, and the others' losses are worth having."""
    (tmp_path / "log").mkdir()
    entry = {"step": 9, "validation": "t2a-validation", "text": float("nan"), "audio": float("inf"), "codebooks": [float("nan")], "pass": "t2a"}
    (tmp_path / "log" / "t2a.jsonl").write_text(json.dumps(entry) + "\n")
    assert batches.last_losses(tmp_path) == {"t2a": {"step": 9, "text": None, "audio": None}}


def test_the_command_says_what_is_wrong(tmp_path):
    for arguments, words in (
        (["run"], "give --notebooks"), (["run", "--notebooks", "10", "--resume", "x"], "give --notebooks"),
        (["run", "--resume", "x", "--set", "lr=1"], "--resume goes on with what was asked for then"), (["run", "--resume", "x", "--budget", "smoke"], "--resume goes on"),
        (["run", "--notebooks", "77"], "no notebook '77'"), (["run", "--resume", str(tmp_path)], "holds no batch"),
        (["run", "--notebooks", "10", "--set", "nonsense=1", "--to", str(tmp_path)], "no notebook of this batch has a parameter 'nonsense'"),
    ):  # fmt: skip
        result = CliRunner().invoke(app, ["course", *arguments])
        assert result.exit_code != 0 and words in " ".join(result.output.split()), result.output
    assert not any(tmp_path.iterdir())
