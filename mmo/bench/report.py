"""What a bench found: a table for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Line:
    """One figure for each column; None where a column has none."""

    name: str
    unit: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Report:
    """The result of one bench.  `samples` are the seconds of every round, `checks` what must hold for the comparison to count."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    ratios: dict[str, float]
    checks: dict[str, float | bool]
    settings: dict[str, str | int | float | None]
    machine: dict[str, str | int | float]
    samples: dict[str, list[float]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Plain types only."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def describe_machine(device: torch.device) -> dict[str, str | int | float]:
    """What a figure of speed depends on: processor or card, threads, how busy the machine is, versions."""
    found = {
        "processor": processor_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else -1.0,
        "torch": torch.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        found["card"] = torch.cuda.get_device_name(device)
    return found


def processor_name() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(report: Report) -> None:
    """The table, ratios, checks and notes."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=report.title, title_justify="left")
    for column in ("", *report.columns):
        table.add_column(column, justify="right" if column else "left")
    for line in report.lines:
        name = f"{line.name} ({line.unit})" if line.unit else line.name
        table.add_row(name, *("–" if value is None else number(value) for value in line.values))
    console.print(table)
    for name, value in report.ratios.items():
        console.print(f"{name}: [bold]{number(value)} ×[/bold]", highlight=False)
    for name, value in report.checks.items():
        console.print(f"{name}: {value if isinstance(value, bool) else number(value)}", highlight=False)
    told = ", ".join(f"{name} {value}" for name, value in (report.machine | report.settings).items() if value is not None)
    console.print(told, style="dim", highlight=False)
    for note in report.notes:
        console.print(note, style="dim", highlight=False)


def number(value: float) -> str:
    """Three significant digits without an exponent, where that is short."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.1e}"
