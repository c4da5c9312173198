"""The map of the course: what flows through the model, and which notebook takes which part of it apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mmo.display import GREEN, GREY, INK, PAPER, RED, Picture, drawing, finish

KINDS = {  # what a notebook does with its part, and the colour of that
    "rented": ("#CFE3F2", "rented, frozen: taken apart"),
    "built": ("#F5D68A", "built by hand"),
    "trained": ("#8FD1BE", "trained"),
    "used": ("#E8B8D4", "asked and examined"),
    "extra": ("#ECECEC", "appendix"),
}


@dataclass(frozen=True)
class Box:
    """A notebook's place on the map: its middle, its size, its kind."""

    label: str
    x: float
    y: float
    kind: str
    width: float = 1.5
    height: float = 0.72


BOXES = {
    "00": Box("hear it\nfirst", 0.3, 4.3, "used", 1.3),
    "02": Box("speech\nencoder", 2.0, 2.55, "rented"),
    "03": Box("vision\nencoder", 2.0, 1.55, "rented"),
    "04": Box("projectors", 3.85, 2.05, "built", 1.4),
    "05": Box("Thinker", 5.6, 2.85, "built", 1.4, 0.9),
    "06": Box("mixture\nof experts", 5.6, 1.75, "built"),
    "07": Box("sequence\nand delay", 6.6, 4.3, "built"),
    "08": Box("Talker", 7.55, 2.85, "built", 1.3, 0.9),
    "01": Box("speech\ncodec", 9.45, 2.85, "rented", 1.5, 0.9),
    "09": Box("streaming", 9.45, 1.75, "built"),
    "10": Box("text\nto speech", 2.0, 0.3, "trained"),
    "11": Box("speech\nto speech", 3.75, 0.3, "trained"),
    "12": Box("picture\nto text", 5.5, 0.3, "trained"),
    "13": Box("talk to it", 7.25, 0.3, "used", 1.3),
    "14": Box("dense\nand MoE", 8.75, 0.3, "used", 1.3),
    "15": Box("breaking it", 10.25, 0.3, "used", 1.3),
    "A1": Box("train a\ncodec", 9.45, -0.75, "extra"),
    "A2": Box("train a\nspeech encoder", 2.0, -0.75, "extra", 1.6),
    "A3": Box("train a\nvision encoder", 3.75, -0.75, "extra", 1.6),
    "A4": Box("scale out", 5.5, -0.75, "extra"),
}
LEGEND = (2.45, 4.95, 6.45, 7.5, 9.45)  # where each kind's words begin
INPUTS = {"a question\nin writing": (0.3, 3.45), "… or spoken": (0.3, 2.55), "a picture": (0.3, 1.55)}
OUTPUTS = {"words": (7.55, 3.75), "a voice": (11.2, 2.85)}
ARROWS = (  # from, to: names of boxes, or places
    ((0.95, 3.45), (4.9, 3.1)),
    ((0.85, 2.55), "02"),
    ((0.85, 1.55), "03"),
    ("02", (3.15, 2.25)),
    ("03", (3.15, 1.85)),
    ("04", (4.9, 2.6)),
    ("05", "08"),
    ((6.3, 3.3), (7.2, 3.7)),
    ("08", "01"),
    ("01", (10.85, 2.85)),
    ("10", "11"),
    ("11", "12"),
    ("12", "13"),
)


def edge(start: Box | tuple, end: Box | tuple) -> tuple[tuple, tuple]:
    """Where an arrow begins and ends: at the sides of boxes, at places as they are."""
    a = (start.x + start.width / 2, start.y) if isinstance(start, Box) else start
    b = (end.x - end.width / 2, end.y) if isinstance(end, Box) else end
    return a, b


def show_map(listed: Collection[str], done: Mapping[str, float] | None = None, path: Collection[str] = ()) -> Picture:
    """The course as a picture.

    listed: numbers of the notebooks that are there; others are drawn pale.  done: number -> share of its points earned,
    0 .. 1.  path: numbers to be marked as a way through.
    """
    from matplotlib.patches import FancyBboxPatch, Rectangle

    done = done or {}
    with drawing(11.4, 5.6) as figure:
        axes = figure.add_subplot()
        for start, end in ARROWS:
            a, b = edge(BOXES.get(start, start) if isinstance(start, str) else start, BOXES.get(end, end) if isinstance(end, str) else end)
            axes.annotate("", b, a, arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 1.4})
        for words, (x, y) in (INPUTS | OUTPUTS).items():
            axes.text(x, y, words, ha="center", va="center", fontsize=9, style="italic", color=INK)
        axes.text(6.6, 2.97, "bridge", ha="center", va="bottom", fontsize=8.5, color=GREY)
        axes.text(8.45, 2.97, "codes", ha="center", va="bottom", fontsize=8.5, color=GREY)
        axes.plot([6.6, 6.6], [3.94, 3.25], color=GREY, linewidth=1, linestyle=":")
        for number, box in BOXES.items():
            there, chosen = number in listed, number in path
            left, low = box.x - box.width / 2, box.y - box.height / 2
            axes.add_patch(
                FancyBboxPatch(
                    (left, low), box.width, box.height, boxstyle="round,pad=0,rounding_size=0.08", zorder=3,
                    facecolor=KINDS[box.kind][0] if there else "#FAFAFA", edgecolor=RED if chosen else PAPER if there else "#CCCCCC",
                    linewidth=2.2 if chosen else 1.0, linestyle="-" if there else "--",
                )
            )  # fmt: skip
            share = done.get(number, 0.0)
            if share:
                axes.add_patch(Rectangle((left + 0.08, low + 0.05), (box.width - 0.16) * share, 0.07, facecolor=GREEN, zorder=4))
            colour = INK if there else GREY
            axes.text(left + 0.08, box.y, number, ha="left", va="center", fontsize=9, weight="bold", color=colour, zorder=5)
            axes.text(box.x + 0.14, box.y, box.label, ha="center", va="center", fontsize=9, color=colour, zorder=5)
        for place, (colour, words) in enumerate(KINDS.values()):
            axes.add_patch(Rectangle((LEGEND[place], -1.62), 0.2, 0.16, facecolor=colour))
            axes.text(LEGEND[place] + 0.26, -1.54, words, va="center", fontsize=9)
        axes.add_patch(Rectangle((0.0, -1.57), 0.5, 0.07, facecolor=GREEN))
        axes.text(0.58, -1.54, "solved", va="center", fontsize=9)
        if path:
            axes.add_patch(Rectangle((1.35, -1.62), 0.2, 0.16, facecolor=PAPER, edgecolor=RED, linewidth=2.2))
            axes.text(1.63, -1.54, "the way", va="center", fontsize=9)
        axes.set(xlim=(-0.5, 11.7), ylim=(-1.75, 4.8), xticks=[], yticks=[])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        absent = [number for number in BOXES if number not in listed]
        words = "Map of the course: text, speech (02) and pictures (03) pass projectors (04) into the Thinker (05, 06), which writes words; the Talker (08) makes codes, "
        words += "laid out with a delay (07), and the codec (01, 09) makes a voice of them. Below: training (10 to 12), use (13 to 15), appendix (A1 to A4)."
        words += f" Not there yet: {', '.join(absent)}." if absent else ""
        words += f" Marked way: {', '.join(path)}." if path else ""
        return finish(figure, words)
