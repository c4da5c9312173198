"""The command line: what it offers, that it is quick, and that the exit status is the truth."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from mmo import cli, doctor, weekend


def test_help_lists_the_commands_and_imports_nothing_heavy():
    """`mmo --help` must answer at once; torch alone takes seconds to import."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mmo.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0, result.output\n"
        "print(result.output)\nheavy = {'torch', 'funasr', 'papermill', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, f'mmo --help imports {heavy}'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=doctor.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("doctor", "weekend", "test"):
        assert command in done.stdout


def test_every_command_has_its_module():
    """A command without a module behind it would be a promise: each one's own help must at least open."""
    group = typer.main.get_command(cli.app)
    assert {"doctor", "weekend", "test"} <= set(group.commands)
    for name in group.commands:
        result = CliRunner().invoke(cli.app, [name, "--help"])
        assert result.exit_code == 0, f"mmo {name} --help: {result.output}"


@pytest.mark.parametrize("status", [0, 1])
def test_doctor_passes_its_verdict_on(monkeypatch, status):
    asked = []
    monkeypatch.setattr(doctor, "main", lambda profile: asked.append(profile) or status)
    assert CliRunner().invoke(cli.app, ["doctor", "--profile", "mini"]).exit_code == status
    assert asked == ["mini"]


def test_weekend_gets_profile_and_budget(monkeypatch):
    asked = []
    monkeypatch.setattr(weekend, "main", lambda *arguments: asked.append(arguments) or 0)
    assert CliRunner().invoke(cli.app, ["weekend"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["weekend", "--profile", "tiny-moe", "--budget", "smoke"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["weekend", "--fresh"]).exit_code == 0
    assert asked == [(None, "full", False), ("tiny-moe", "smoke", False), (None, "full", True)]
    wrong = CliRunner().invoke(cli.app, ["weekend", "--budget", "enormous"])
    assert wrong.exit_code == 2 and len(asked) == 3


def test_an_unknown_profile_is_refused_with_the_names(monkeypatch):
    for arguments, variable in ((["--profile", "huge"], "tiny"), ([], "huge")):
        monkeypatch.setenv("MMO_PROFILE", variable)
        result = CliRunner().invoke(cli.app, ["weekend", *arguments])
        assert result.exit_code == 2, result.output
        assert "no profile 'huge'" in result.output and "tiny-moe" in result.output


def test_a_failed_weekend_exits_1_and_says_why(monkeypatch, tmp_path, capsys):
    def fails(*_, **__):
        raise weekend.NotebookFailed("10_train_t2a.ipynb failed in cell 3")

    chosen = SimpleNamespace(name="tiny", full_name="tiny")
    monkeypatch.setattr("mmo.profiles.profile", lambda name: chosen)
    monkeypatch.setattr("mmo.profiles.run_dir", lambda *_: tmp_path)
    monkeypatch.setattr(weekend, "run_weekend", fails)
    assert weekend.main(None, "full") == 1
    assert "cell 3" in capsys.readouterr().err


def test_what_cannot_be_used_is_said_in_one_line_with_the_commands_name(tmp_path):
    """And only that: an error that is ours, not the caller's, keeps its traceback, and an exit status is passed on."""
    found = CliRunner().invoke(cli.app, ["course", "release", "--to", str(tmp_path / "out"), "--notebooks", "99"])
    assert found.exit_code == 1 and found.output.startswith("mmo course release: no notebook 99; there are 00, 01"), found.output
    with pytest.raises(KeyError), cli.plain_errors("mmo x"):
        raise KeyError("ours")
    with pytest.raises(typer.Exit) as status, cli.plain_errors("mmo x", RuntimeError):
        raise RuntimeError("no memory")
    assert status.value.exit_code == 1
    with pytest.raises(typer.Exit) as status, cli.plain_errors("mmo x"):
        raise typer.Exit(3)
    assert status.value.exit_code == 3


@pytest.mark.parametrize("arguments, marks", [([], []), (["--fast"], ["-m", "not notebook"])])
def test_test_runs_pytest_in_the_repository_without_network(monkeypatch, arguments, marks):
    seen = {}

    def run(command, cwd, env):
        seen.update(command=command, cwd=cwd, env=env)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(cli.subprocess, "run", run)
    result = CliRunner().invoke(cli.app, ["test", *arguments, "--", "-k", "codec"])
    assert result.exit_code == 3, "pytest's exit status is lost"
    side_by_side = ["-n", str(cli.tests_side_by_side()), "--dist", "loadgroup"]
    assert seen["command"] == [sys.executable, "-m", "pytest", *side_by_side, *marks, "-k", "codec"]
    assert seen["cwd"] == doctor.REPOSITORY and seen["env"]["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(("cores", "free", "wanted"), [(2, 24e9, 2), (8, 9e9, 2), (2, 1e9, 1), (64, 900e9, 8)])
def test_as_many_tests_at_once_as_memory_allows(monkeypatch, cores, free, wanted):
    import psutil

    monkeypatch.setattr(cli.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert cli.tests_side_by_side() == wanted


def test_notebook_tests_run_last_and_files_stay_together(request):
    """Units first: whoever waits for notebooks should know by then that the parts hold."""
    added = []

    def item(name: str, *marks: str) -> SimpleNamespace:
        find = lambda mark: mark if mark in marks else None  # noqa: E731
        return SimpleNamespace(name=name, path=Path(f"test_{name}.py"), get_closest_marker=find, add_marker=added.append)

    items = [item("a"), item("b", "notebook"), item("c", "xdist_group"), item("d", "notebook")]
    (ours,) = [plugin for plugin in request.config.pluginmanager.get_plugins()
               if getattr(plugin, "__file__", None) == str(doctor.REPOSITORY / "tests" / "conftest.py")]
    ours.pytest_collection_modifyitems(items)
    assert [each.name for each in items] == ["a", "c", "b", "d"]
    assert [mark.args for mark in added] == [("test_a",), ("test_b",), ("test_d",)], "one with a group of its own keeps it"
