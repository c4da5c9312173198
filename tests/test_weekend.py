"""The weekend's runner, on notebooks of a few cells each."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbclient.exceptions import CellTimeoutError
from papermill.engines import NBClientEngine
from rich.console import Console

from mmo import weekend
from mmo.weekend_page import figure, write_page

CODE, TEXT = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def write_notebook(path: Path, *cells) -> None:
    parameters = CODE("profile = 'nobody'\nbudget = 'nothing'", metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(cells=[parameters, *cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


def write_wave(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(bytes(4800))


def evaluate(profile_name: str, run_dir: Path, budget: str) -> dict:
    write_wave(run_dir / "samples" / "seven.wav")
    (run_dir / "samples" / "seven.txt").write_text("Three plus four is <seven>.")
    return {"t2a": {"answer_accuracy": 0.975}, "seconds": {"inside": 1.0}}


@pytest.fixture
def books(tmp_path):
    """Two notebooks that work: each writes down what it was given and where it ran."""
    sources = tmp_path / "solutions"
    sources.mkdir()
    for name in ("one", "two"):
        write_notebook(
            sources / f"{name}.ipynb", TEXT(f"# Notebook {name}"),
            CODE(
                "import json, os, pathlib, mmo\n"
                f"note = dict(profile=profile, budget=budget, pid=os.getpid(), cwd=os.getcwd(), mmo=mmo.__file__, strict=os.environ.get('MMO_STRICT'))\n"
                f"pathlib.Path(os.environ['MMO_RUNS'], '{name}.json').write_text(json.dumps(note))\n"
                f"print('heard from {name}')"
            ),
        )
    return sources


def run(sources: Path, run_dir: Path, names=("one", "two"), **more):
    more = {"evaluate": evaluate, "console": Console(file=io.StringIO())} | more
    return weekend.run_weekend(
        "tiny", "smoke", run_dir=run_dir, sources=sources, notebooks={name: f"{name}.ipynb" for name in names}, **more
    )


def test_a_weekend_runs_every_notebook_in_its_own_kernel_and_reports(books, tmp_path):
    run_dir = tmp_path / "runs" / "tiny-smoke"
    report = run(books, run_dir)

    notes = [json.loads((tmp_path / "runs" / f"{name}.json").read_text()) for name in ("one", "two")]
    assert [(note["profile"], note["budget"]) for note in notes] == [("tiny", "smoke")] * 2
    assert notes[0]["pid"] != notes[1]["pid"], "both notebooks ran in the same kernel"
    assert Path(notes[0]["cwd"]) == books.resolve(), "notebooks run from the folder they lie in"
    assert [note["strict"] for note in notes] == ["1"] * 2, "what a solution solves would count as the learner's"
    assert Path(notes[0]["mmo"]).parent == Path(weekend.__file__).parent, "the kernel imported another mmo"

    assert report == json.loads((run_dir / "report.json").read_text())
    assert report["t2a"]["answer_accuracy"] == 0.975, "the evaluation's figures are lost"
    assert set(report["seconds"]) == {"one", "two", "inside", "evaluate", "total"}
    assert report["seconds"]["total"] + 0.2 >= report["seconds"]["one"] + report["seconds"]["two"] > 0  # rounded
    assert "MMO_RUNS" not in os.environ or os.environ["MMO_RUNS"] != str(run_dir.parent)

    page = (run_dir / "weekend.html").read_text()
    for part in ("97.5%", "not measured", "heard from one", "heard from two", "data:audio/wav;base64,UklGR",
                 "Three plus four is &lt;seven&gt;.", "smoke run"):
        assert part in page, f"{part!r} is not on the page"


def test_two_weekends_in_one_folder_are_refused(books, tmp_path):
    """The second would delete the first one's report and overwrite its notebooks."""
    run_dir = tmp_path / "runs" / "tiny-smoke"
    run_dir.mkdir(parents=True)
    (run_dir / "report.json").write_text("{}")
    with FileLock(run_dir / ".weekend.lock"), pytest.raises(weekend.NotebookFailed, match="another `mmo weekend` is at work.*MMO_RUNS"):
        run(books, run_dir)
    assert (run_dir / "report.json").read_text() == "{}" and not (run_dir / "notebooks").exists()


def test_a_weekend_that_went_on_tells_no_seconds(books, tmp_path):
    """What was done before the kill is not on its clock."""
    run_dir = tmp_path / "runs" / "tiny-smoke"
    run_dir.mkdir(parents=True)
    (run_dir / "t2a.state.safetensors").write_bytes(b"")
    report = run(books, run_dir)
    assert report["peak_rss_mb"] is None and {report["seconds"][name] for name in ("one", "two", "evaluate", "total")} == {None}


def test_a_weekend_that_was_stopped_goes_on_behind_what_is_whole(books, tmp_path):
    """The first notebook is done and its stage, too; the second failed.  Afterwards the report is there, and the same command begins anew."""
    run_dir, ran = tmp_path / "runs" / "tiny-smoke", lambda name: json.loads((tmp_path / "runs" / f"{name}.json").read_text())["pid"]
    good = (books / "two.ipynb").read_text()
    write_notebook(books / "two.ipynb", CODE("raise ValueError('out of luck')"))
    with pytest.raises(weekend.NotebookFailed, match="out of luck"):
        run(books, run_dir)
    first = ran("one")
    (books / "two.ipynb").write_text(good)
    (run_dir / "report.json").write_text("{}")  # somebody looked with `mmo evaluate`; or the page could not be written
    report = run(books, run_dir, done=lambda stage: True)
    assert ran("one") == first and report["seconds"]["total"] is None, "the first notebook ran again, or its time is told"
    assert "heard from one" in (run_dir / "weekend.html").read_text()
    run(books, run_dir, done=lambda stage: True)
    assert ran("one") != first, "a finished weekend begins anew"


@pytest.mark.parametrize("why", ["the stage is not done", "another notebook", "fresh"])
def test_what_is_not_whole_and_done_runs_again(books, tmp_path, why):
    run_dir = tmp_path / "runs" / "tiny-smoke"
    run(books, run_dir, names=["one"])
    (run_dir / weekend.PAGE).unlink()
    before = (tmp_path / "runs" / "one.json").read_text()
    (run_dir / "t2a.state.safetensors").write_bytes(b"")
    if why == "another notebook":
        (books / "one.ipynb").write_text((books / "one.ipynb").read_text().replace("heard from one", "heard from the new one"))
    run(books, run_dir, names=["one"], done=lambda stage: why != "the stage is not done", fresh=why == "fresh")
    assert (tmp_path / "runs" / "one.json").read_text() != before
    assert (run_dir / "t2a.state.safetensors").exists() == (why != "fresh")


def test_a_finished_weekend_that_is_begun_anew_and_stopped_at_once_begins_anew_again(books, tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "tiny-smoke"
    run(books, run_dir)
    before = (tmp_path / "runs" / "one.json").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(weekend.papermill, "execute_notebook", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(weekend.NotebookFailed, match="stopped from outside"):
            run(books, run_dir, done=lambda stage: True)
    report = run(books, run_dir, done=lambda stage: True)
    assert (tmp_path / "runs" / "one.json").read_text() != before and report["seconds"]["total"] is not None


@pytest.mark.parametrize("error, words", [
    (KeyboardInterrupt(), "stopped from outside"), (RuntimeError("Kernel died before replying to kernel_info"), "its kernel did not start: Kernel died before"),
])  # fmt: skip
def test_a_notebook_whose_kernel_never_started_is_named_and_not_whole(books, tmp_path, monkeypatch, error, words):
    """papermill calls every cell of it completed."""
    copy = tmp_path / "copies" / "one.ipynb"
    monkeypatch.setattr(NBClientEngine, "execute_managed_notebook", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(weekend.NotebookFailed, match=f"one.ipynb failed in its start, before any cell: {words}"):
        weekend.run_notebook(books / "one.ipynb", copy, {}, weekend.Watch(Console(file=io.StringIO())))
    assert copy.is_file() and not weekend.is_whole(copy, books / "one.ipynb")


def test_memory_counts_the_kernels_too(tmp_path):
    """A kernel that holds 400 MB for two seconds raises the peak by as much, though this process does not."""
    write_notebook(tmp_path / "big.ipynb", CODE("import time\nhold = b'1' * 400_000_000\ntime.sleep(2)"))
    watch = weekend.Watch(Console(file=io.StringIO()))
    watch.sample()
    before = watch.rss
    report = run(tmp_path, tmp_path / "runs" / "x", names=["big"], evaluate=lambda *_: {})
    assert report["peak_rss_mb"] >= before / 1e6 + 400


def test_a_failing_cell_is_named_and_the_copy_kept(books, tmp_path):
    write_notebook(books / "bad.ipynb", TEXT("# Start\n\n## Train the Talker"), CODE("print('so far so good')"),
                   CODE("raise ValueError('row 17 of data.parquet')"), CODE("print('never')"))
    run_dir = tmp_path / "runs" / "tiny-smoke"
    run_dir.mkdir(parents=True)
    (run_dir / "report.json").write_text("{}")  # of an earlier run
    with pytest.raises(weekend.NotebookFailed) as failure:
        run(books, run_dir, names=("one", "bad", "two"))
    message = str(failure.value)
    copy = run_dir / "notebooks" / "bad.ipynb"
    for part in ("bad.ipynb", "Train the Talker", "ValueError: row 17 of data.parquet", str(copy)):
        assert part in message, f"{part!r} is not in {message!r}"
    # The parameters are injected as a cell of their own: parameters, injected, text, print, raise.
    assert "cell 5 of 6" in message
    assert "so far so good" in copy.read_text()
    assert not (run_dir / "report.json").exists(), "a failed weekend must not leave a report"
    assert not (run_dir / "notebooks" / "two.ipynb").exists(), "went on after a failure"


def test_a_dead_kernel_is_named_and_the_copy_says_where(tmp_path):
    write_notebook(tmp_path / "dies.ipynb", TEXT("## Eat all memory"), CODE("import os, signal\nprint('alive')"),
                   CODE("os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))"))
    with pytest.raises(weekend.NotebookFailed, match='cell 5 of 5, "Eat all memory": its kernel died'):
        run(tmp_path, tmp_path / "runs" / "x", names=["dies"])
    copy = nbformat.read(tmp_path / "runs" / "x" / "notebooks" / "dies.ipynb", as_version=4)
    assert [cell.metadata.papermill.status for cell in copy.cells][-2:] == ["completed", "failed"]


def test_a_notebook_has_its_time(tmp_path):
    """Between cells and within one: who takes too long is stopped, and named."""
    write_notebook(tmp_path / "slow.ipynb", TEXT("# Wait"), CODE("import time\ntime.sleep(3)"), TEXT("## Never reached"), CODE("print('late')"))
    write_notebook(tmp_path / "stuck.ipynb", TEXT("# Stuck"), CODE("import time\ntime.sleep(300)"))
    for name, limit in (("slow", 2.9), ("stuck", 12.0)):
        with pytest.raises(weekend.NotebookFailed, match=f"{name}.ipynb failed in .*seconds"):
            weekend.run_notebook(tmp_path / f"{name}.ipynb", tmp_path / "copies" / f"{name}.ipynb", {}, weekend.Watch(Console(file=io.StringIO())), limit)


@pytest.mark.parametrize("limit", [None, 60.0])
def test_a_machine_too_busy_to_deliver_output_is_said(tmp_path, monkeypatch, limit):
    """nbclient waits 4 seconds for what a cell printed: too few beside a training, and no cell's fault."""
    given = {}

    def execute(source, copy, **settings):
        given.update(settings)
        raise CellTimeoutError("A cell timed out while it was being executed, after 300 seconds.\nThe message was: Timeout waiting for IOPub output.")

    write_notebook(tmp_path / "busy.ipynb", CODE("print('here')"))
    monkeypatch.setattr(weekend.papermill, "execute_notebook", execute)
    with pytest.raises(weekend.NotebookFailed, match="what it printed did not arrive within 300 seconds: the machine is too busy"):
        weekend.run_notebook(tmp_path / "busy.ipynb", tmp_path / "copies" / "busy.ipynb", {}, weekend.Watch(Console(file=io.StringIO())), limit)
    assert given["iopub_timeout"] == 300 and given["start_timeout"] == 300


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(weekend.NotebookFailed, match="none.ipynb is not there"):
        run(tmp_path, tmp_path / "runs" / "x", names=["none"])


SLEEPER = """
import signal, sys
from pathlib import Path
from mmo.weekend import NotebookFailed, run_weekend
here = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits SIGINT ignored
try:
    run_weekend("tiny", "smoke", run_dir=here / "run", sources=here, notebooks={"s": "sleeps.ipynb"},
                evaluate=lambda *_: {})
except NotebookFailed as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGKILL", None)])
def test_killed_from_outside(tmp_path, number):
    """SIGTERM and Ctrl-C name the cell; after any signal the copy holds what was printed and the kernel is gone."""
    write_notebook(tmp_path / "sleeps.ipynb", TEXT("## Sleep"), CODE("print('before the nap')"),
                   CODE("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(300)"))
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, tmp_path], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, cwd=weekend.REPOSITORY)
    deadline = time.monotonic() + 300  # where others compute too
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None and time.monotonic() < deadline, "the notebook never started"
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert 'cell 5 of 5, "Sleep": stopped from outside' in errors
    copy = nbformat.read(tmp_path / "run" / "notebooks" / "sleeps.ipynb", as_version=4)
    assert "before the nap" in copy.cells[3].outputs[0].text
    assert copy.cells[4].metadata.papermill.status == ("running" if number == signal.SIGKILL else "failed")
    kernel = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 120
    while alive(kernel):
        assert time.monotonic() < deadline, "the kernel outlived the weekend"
        time.sleep(0.2)


def alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_titles_come_from_the_last_heading_else_from_the_code():
    cells = [CODE("x = 1\ny = 2"), TEXT("# A\ntext\n## B"), CODE("z = 3")]
    assert weekend.title_of(cells, 0) == "x = 1"
    assert weekend.title_of(cells, 2) == "B"


def test_the_progress_line_shows_the_last_words_printed():
    output = nbformat.v4.new_output("stream", text="epoch 1\rloss 3.5\rloss 3.4\n")
    watch = weekend.Watch(Console(file=io.StringIO()))
    watch.starts("10_train_t2a")
    assert "10_train_t2a" in watch.line()
    watch.cell_starts([TEXT("# Train"), CODE("train()", outputs=[output])], 1)
    assert 'cell 2 of 2, "Train"' in watch.line() and watch.line().endswith("loss 3.4")


def test_a_terminal_gets_a_progress_line(books, tmp_path, monkeypatch):
    monkeypatch.setattr(weekend, "SAMPLE_SECONDS", 0.02)
    screen = io.StringIO()
    run(books, tmp_path / "runs" / "x", ["one"], console=Console(file=screen, force_terminal=True, width=160))
    assert "one: cell 4 of 4" in screen.getvalue()


def test_without_a_terminal_it_speaks_once_in_a_while(books, tmp_path, monkeypatch):
    """And from another thread, where no signal handler can be set: a server or a test runner may call it there."""
    monkeypatch.setattr(weekend, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setattr(weekend, "HEARTBEAT_SECONDS", 0.1)
    out = Console(file=io.StringIO(), width=160)
    thread = threading.Thread(target=run, args=(books, tmp_path / "runs" / "x", ["one"]), kwargs={"console": out})
    thread.start()
    thread.join(300)
    assert "one: cell" in out.file.getvalue() and "one.ipynb done in" in out.file.getvalue()


def test_figures_are_found_by_dotted_key():
    report = {"t2a": {"wer": 0.2}, "peak_rss_mb": 10}
    assert figure(report, "t2a.wer") == 0.2
    assert figure(report, "peak_rss_mb") == 10
    assert figure(report, "i2t.exact_match") is None and figure(report, "peak_rss_mb.more") is None


def test_the_page_holds_without_samples(tmp_path):
    write_notebook(tmp_path / "empty.ipynb")
    page = write_page(tmp_path, [tmp_path / "empty.ipynb"], {"profile": "tiny", "budget": "full"})
    assert "not measured" in page.read_text() and "<audio" not in page.read_text()


def test_the_page_tells_what_became_of_progress_bars(tmp_path):
    """The copy keeps them as they were; on the page nothing moves."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='rows of it', unit='row'): pass")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "book.ipynb")
    weekend.run_notebook(tmp_path / "book.ipynb", tmp_path / "copy.ipynb", {}, weekend.Watch(Console(quiet=True)))
    text = write_page(tmp_path, [tmp_path / "copy.ipynb"], {"profile": "tiny", "budget": "full"}).read_text(encoding="utf-8")
    assert "rows of it: 3 rows in less than a second" in text and "0%|" not in text and "jupyter.widget" not in text
    assert nbformat.read(tmp_path / "copy.ipynb", 4).metadata.get("widgets")
