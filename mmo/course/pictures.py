"""Target and attempt, side by side."""

from __future__ import annotations

import numpy as np

from mmo.display import INK, PAPER, RED, Picture, drawing, finish

SOFT = ("#8CC8EE", "#F5D68A", "#8FD1BE", "#E8B8D4", "#C9C4EC", "#D9E3A0", "#F3B89B", "#B9DDE4")


def cell_colour(label: str, colours: dict[str, str]) -> str:
    """The same label, the same soft colour; no label, light grey."""
    if not label:
        return "#F4F4F4"
    return colours.setdefault(label, SOFT[len(colours) % len(SOFT)])


def compare_grids(
    wanted, theirs, names: dict[int, str] | None = None, alt: str = "", titles: tuple[str, str] = ("wanted", "yours"), mark: bool = True
) -> Picture:
    """Two small grids of whole numbers; with `mark`, cells that differ have a red edge.

    names: words for special values ("" leaves the cell empty).  Raises ValueError where the attempt is no such grid.
    """
    wanted, theirs = np.asarray(wanted), np.asarray(theirs)
    if wanted.ndim != 2 or theirs.ndim != 2:
        raise ValueError(f"wanted two grids, got shapes {wanted.shape} and {theirs.shape}")
    names, colours = names or {}, {}
    widest = max(wanted.shape[1], theirs.shape[1])
    with drawing(min(12.0, 1.4 + 0.62 * widest), 0.8 + 0.28 * max(wanted.shape[0], theirs.shape[0])) as figure:
        from matplotlib.patches import Rectangle

        for axes, grid, title in zip(figure.subplots(1, 2), (wanted, theirs), titles):
            for (k, t), value in np.ndenumerate(grid):
                label = names.get(int(value), str(int(value)))
                differs = mark and grid is theirs and (k >= wanted.shape[0] or t >= wanted.shape[1] or wanted[k, t] != value)
                edge, width, order = (RED, 2.0, 3) if differs else (PAPER, 1.0, 2)
                axes.add_patch(Rectangle((t, k), 1, 1, facecolor=cell_colour(label, colours), edgecolor=edge, linewidth=width, zorder=order))
                axes.text(t + 0.5, k + 0.5, label, ha="center", va="center", fontsize=7, color=INK, zorder=4)
            axes.set(xlim=(-0.05, widest + 0.05), ylim=(max(wanted.shape[0], theirs.shape[0]) + 0.05, -0.05), xticks=[], yticks=[])
            axes.grid(False)
            axes.set_title(title)
            for spine in axes.spines.values():
                spine.set_visible(False)
        return finish(figure, alt or "The wanted grid and yours, side by side; cells that differ have a red edge.")


def compare_curves(wanted, theirs, xlabel: str = "", ylabel: str = "", alt: str = "") -> Picture:
    """Two curves in one picture, (n,) each."""
    with drawing(6.0, 2.0) as figure:
        axes = figure.add_subplot()
        axes.plot(np.asarray(wanted, float), color="#0072B2", linewidth=4, alpha=0.35, label="wanted")
        axes.plot(np.asarray(theirs, float), color="#D55E00", linewidth=1.2, label="yours")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend()
        return finish(figure, alt or "The wanted curve and yours.")
