"""Target and attempt, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmo.display import INK, PAPER, RED, Picture, drawing, finish

STOP = "#A9A9A9"  # no code is drawn in it
SOFT = ("#8CC8EE", "#F5D68A", "#8FD1BE", "#E8B8D4", "#C9C4EC", "#D9E3A0", "#F3B89B", "#B9DDE4")


def cell_colour(label: str, colours: dict[str, str]) -> str:
    """The same label, the same soft colour; no label, light grey, and so is "·", which stands for none; a stop, dark grey."""
    if label in ("", "·"):
        return "#F4F4F4"
    if label == "stop":
        return STOP
    return colours.setdefault(label, SOFT[len(colours) % len(SOFT)])


def codebooks(count: int) -> list[str]:
    """Names of a picture's rows, a codebook each."""
    return [f"codebook {k}" for k in range(count)]


def compare_grids(
    wanted, theirs, names: dict[int, str] | None = None, alt: str = "", titles: tuple[str, str] = ("wanted", "yours"), mark: bool = True,
    rows: Sequence[str] = (), columns: Sequence[str] = (),
) -> Picture:
    """Two small grids of whole numbers; with `mark`, cells that differ have a red edge.

    names: words for special values ("" leaves the cell empty).  rows, columns: what each row and column is.  Raises ValueError where the attempt is no such grid.
    """
    wanted, theirs = np.asarray(wanted), np.asarray(theirs)
    if wanted.ndim != 2 or theirs.ndim != 2:
        raise ValueError(f"wanted two grids, got shapes {wanted.shape} and {theirs.shape}")
    names, colours = names or {}, {}
    widest = max(wanted.shape[1], theirs.shape[1])
    short = all(len(str(name)) <= 2 for name in columns)  # then they need no tilt
    with drawing(min(12.0, 1.4 + 0.62 * widest + 0.06 * max(map(len, rows), default=0)), 0.8 + 0.28 * max(wanted.shape[0], theirs.shape[0]) + (0.15 if short else 0.5) * bool(columns)) as figure:
        from matplotlib.patches import Rectangle

        for axes, grid, title in zip(figure.subplots(1, 2), (wanted, theirs), titles):
            for (k, t), value in np.ndenumerate(grid):
                label = names.get(int(value), str(int(value)))
                differs = mark and grid is theirs and (k >= wanted.shape[0] or t >= wanted.shape[1] or wanted[k, t] != value)
                edge, width, order = (RED, 2.0, 3) if differs else (PAPER, 1.0, 2)
                axes.add_patch(Rectangle((t, k), 1, 1, facecolor=cell_colour(label, colours), edgecolor=edge, linewidth=width, zorder=order))
                axes.text(t + 0.5, k + 0.5, label, ha="center", va="center", fontsize=7, color=INK, zorder=4)
            axes.set(xlim=(-0.05, widest + 0.05), ylim=(max(wanted.shape[0], theirs.shape[0]) + 0.05, -0.05), xticks=[], yticks=[])
            if columns:
                tilt = dict(ha="center") if short else dict(rotation=25, ha="right", rotation_mode="anchor")
                axes.set_xticks(np.arange(len(columns)) + 0.5, columns, **tilt)
            if rows and grid is wanted:
                axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
            axes.tick_params(length=0, labelcolor=INK, labelsize=7)
            axes.grid(False)
            axes.set_title(title)
            for spine in axes.spines.values():
                spine.set_visible(False)
        return finish(figure, alt or "The wanted grid and yours, side by side; cells that differ have a red edge.")


def compare_curves(
    wanted, theirs, xlabel: str = "", ylabel: str = "", alt: str = "", titles: tuple[str, str] = ("wanted", "yours"), logarithmic: bool = False
) -> Picture:
    """Two curves in one picture, (n,) each; a few points are drawn as points.  logarithmic: so is the values' scale."""
    from matplotlib.ticker import MaxNLocator

    wanted, theirs = np.asarray(wanted, float), np.asarray(theirs, float)
    few = max(len(wanted), len(theirs)) <= 12
    with drawing(6.0, 2.0) as figure:
        axes = figure.add_subplot()
        axes.plot(wanted, color="#0072B2", linewidth=4, alpha=0.35, marker="o" if few else "", markersize=9, label=titles[0])
        axes.plot(theirs, color="#D55E00", linewidth=1.2, marker="o" if few else "", markersize=4, label=titles[1])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if logarithmic else "linear")
        axes.legend()
        return finish(figure, alt or "The wanted curve and yours.")


def bare(axes) -> None:
    """No ticks, no grid, no frame: a picture, not a diagram."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def show_maps(maps, titles=(), columns: int = 6, size: float = 1.5, cmap: str = "cividis", alt: str = "", alike: bool = False, smooth: bool = False) -> Picture:
    """Small pictures in rows: (H, W) with a colour map, or (H, W, 3) as they are.  alike: one scale for all."""
    maps = [np.asarray(each) for each in maps]
    flat = [each for each in maps if each.ndim == 2]
    scale = dict(vmin=min(each.min() for each in flat), vmax=max(each.max() for each in flat)) if alike and flat else {}
    rows = -(-len(maps) // columns)
    across = min(columns, len(maps))
    height = size * maps[0].shape[0] / maps[0].shape[1]
    lines = max((str(title).count("\n") + 1 for title in titles), default=0)
    with drawing(across * size, rows * (height + (0.14 + 0.14 * lines if lines else 0.06))) as figure:
        places = figure.subplots(rows, across, squeeze=False).ravel()
        for axes in places:
            axes.set_visible(False)
        for number, (axes, each) in enumerate(zip(places, maps)):
            axes.set_visible(True)
            axes.imshow(each, cmap=cmap, interpolation="bilinear" if smooth else "nearest", **(scale if each.ndim == 2 else {}))
            bare(axes)
            if number < len(titles):
                axes.set_title(titles[number], fontsize=8)
        return finish(figure, alt or f"{len(maps)} small pictures: {', '.join(map(str, titles))}", pictures=any(each.ndim == 3 for each in maps))


def compare_maps(wanted, theirs, alt: str = "", xlabel: str = "", ylabel: str = "") -> Picture:
    """Two matrices of numbers on one scale, and where they differ."""
    from matplotlib.ticker import MaxNLocator

    wanted, theirs = np.asarray(wanted, float), np.asarray(theirs, float)
    if wanted.ndim != 2 or theirs.ndim != 2:
        raise ValueError(f"wanted two matrices, got shapes {wanted.shape} and {theirs.shape}")
    scale = dict(vmin=min(wanted.min(), theirs.min()), vmax=max(wanted.max(), theirs.max()), cmap="cividis", aspect="auto", interpolation="nearest")
    panels = [("wanted", wanted, scale), ("yours", theirs, scale)]
    if wanted.shape == theirs.shape:
        gap = np.abs(wanted - theirs)
        panels.append(("difference", gap, dict(scale, vmin=0, vmax=max(gap.max(), 1e-6), cmap="Reds")))
    with drawing(2.4 * len(panels), 1.9) as figure:
        for axes, (title, each, how) in zip(figure.subplots(1, len(panels)), panels):
            figure.colorbar(axes.imshow(each, **how), ax=axes, shrink=0.8)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
            axes.set(xlabel=xlabel, ylabel=ylabel if title == "wanted" else "")
            axes.set_title(title)
            axes.grid(False)
        return finish(figure, alt or "The wanted matrix, yours, and where they differ.")


def show_machine(machine, needs: dict, ready: dict[str, bool]) -> Picture:
    """What each profile needs beside what there is: memory, disk, GPUs; and whether its files are there.

    machine, needs: `mmo.doctor`'s Machine and NEEDS.  ready: profile -> whether none of its files is missing.
    """
    columns = ("memory", "disk", "GPU", "files")
    with drawing(7.4, 0.5 + 0.36 * (len(needs) + 1)) as figure:
        axes = figure.add_subplot()
        card = f"{len(machine.gpus)} × {machine.gpus[0].memory:.0f} GB" if machine.gpus else "none"
        rows = [("this machine", [f"{machine.memory:.1f} GB", f"{machine.disk:.0f} GB free", card, ""], [None] * 4)]
        for name, need in needs.items():
            enough = [machine.memory >= need.memory, machine.disk >= need.disk, need.cards(machine.gpus), ready[name]]
            wants = f"{need.gpus} × {need.gpu_memory:.0f} GB" if need.gpus else "none needed"
            rows.append((name, [f"{need.memory:.0f} GB", f"{need.disk:.0f} GB", wants, "here" if ready[name] else "to be fetched"], enough))
        for y, (name, words, enough) in enumerate(rows):
            fits = None if enough[0] is None else all(enough)
            axes.text(-0.05, y, name + ("" if fits is None else "  ✓" if fits else "  ✗"), ha="right", va="center", weight="bold", color=INK if fits is None else "#009E73" if fits else RED)
            for x, (cell, good) in enumerate(zip(words, enough)):
                colour = "#F4F4F4" if good is None else "#CDEBDD" if good else "#F6D5C3"
                axes.barh(y, 0.96, left=x + 0.02, height=0.84, color=colour)
                axes.text(x + 0.5, y, cell, ha="center", va="center", fontsize=8.5)
        axes.set(xlim=(-1.1, len(columns)), ylim=(len(rows) - 0.5, -0.5), xticks=[place + 0.5 for place in range(len(columns))], yticks=[], xticklabels=columns)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelcolor=INK)
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        can = [name for name, _, enough in rows[1:] if all(enough)]
        return finish(figure, f"Table: this machine has {machine.cores} cores, {machine.memory:.1f} GB of memory, GPU {card}; what each profile needs. It can run {', '.join(can) or 'none of them'}.")
