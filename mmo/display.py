"""Things to hear and to look at: a player with transcript and spectrogram, code heat-maps, delay grids, loss curves.

    listen(answer.samples, answer.sample_rate, answer.text)      # the last line of a cell, or display(...)
    show_codes(answer.codes)
    show_delay(row.input_ids, config, start=18, words=words)
    with LossCurves(run_dir / "log" / "t2a.jsonl"):               # grows while it trains; one picture under papermill
        train(...)

Pictures are PNG and sound is MP3, both small and inside the notebook, so that an executed notebook can be sent to
somebody and still speaks.  Colours are Okabe and Ito's, or cividis: they differ for colour-blind eyes too; pictures keep
their own light ground, so that they can be read on a dark page.
"""

from __future__ import annotations

import base64
import html
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from mmo.config import ModelConfig

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #8C8C8C".split()
INK, PAPER, FAINT = "#333333", "#FFFFFF", "#ECECEC"
STYLE = {
    "figure.facecolor": PAPER,
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "axes.facecolor": PAPER,
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": "#777777",
    "ytick.color": "#777777",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "font.size": 9,
    "lines.linewidth": 1.6,
    "text.color": INK,
}


# --- Pictures ----------------------------------------------------------------------------------------------------


class Picture:
    """A finished picture, with words for those who cannot see it."""

    def __init__(self, png: bytes, alt: str) -> None:
        self.png, self.alt = png, alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}

    def save(self, path: str | Path) -> None:
        """Write the PNG."""
        Path(path).write_bytes(self.png)


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """An empty figure (inches) in our style.  No pyplot, so no window, no backend and nothing that piles up."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure((width, height), layout="constrained")


def finish(figure: Figure, alt: str, *, pictures: bool = False) -> Picture:
    """Draw the figure into a Picture of 256 colours, which is a third of the size; a diagram looks the same.

    Colours are chosen so that none is far from its own: the usual median cut goes by area, and a small thing in a large picture changes colour.
    pictures: it holds pictures, whose smooth grounds need more colours than that; then all are kept.
    """
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    image = Image.open(drawn).convert("RGB")
    if not pictures:
        image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    return Picture(buffer.getvalue(), alt)


def show_image(image, alt: str, side: int = 160) -> Picture:
    """An image (PIL's), `side` pixels wide and high, with words for those who cannot see it."""
    buffer = io.BytesIO()
    image.convert("RGB").resize((side, side)).save(buffer, "PNG", optimize=True)
    return Picture(buffer.getvalue(), alt)


# --- Sound -------------------------------------------------------------------------------------------------------


def mel_filters(rate: int, bins: int, bands: int) -> np.ndarray:
    """(bands, bins) triangles, evenly spaced on the mel scale from 0 Hz to rate / 2 (O'Shaughnessy's formula)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, bins)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)), 0, None)


def mel_spectrogram(samples: np.ndarray, rate: int, bands: int = 64, hop: float = 0.01) -> np.ndarray:
    """(bands, T) in decibels below the loudest, at least -70; one column every `hop` seconds, Hann windows of 40 ms."""
    size, step = round(0.04 * rate), round(hop * rate)
    padded = np.pad(np.asarray(samples, np.float32), size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    power = np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)) ** 2
    energy = np.log10(power @ mel_filters(rate, power.shape[1], bands).T + 1e-10).T * 10
    return np.maximum(energy - energy.max(initial=-100.0), -70)


def show_spectrogram(samples: np.ndarray, rate: int, title: str = "", *, small: bool = False) -> Picture:
    """What a sound looks like: frequencies from low to high, brighter where louder.  small: a strip without a scale, to set beside others."""
    samples = one_channel(samples)
    seconds = len(samples) / rate
    with drawing(min(5.0, 0.8 * seconds), 0.6) if small else drawing(min(9.0, 2.0 + 1.6 * seconds), 1.7) as figure:
        axes = figure.add_subplot()
        draw_spectrogram(axes, samples, rate)
        axes.set_xlabel("seconds")
        axes.set_title(title)
        if small:
            axes.set_axis_off()
        return finish(figure, f"Spectrogram of {seconds:.1f} s of sound. {title}".strip())


def draw_spectrogram(axes, samples: np.ndarray, rate: int, marks: Sequence[int] = (200, 1000, 3000, 8000), **levels_from_to) -> None:
    """A sound (n,) on axes of its own: seconds across, mel bands up, with these frequencies in Hz marked.  levels_from_to: vmin, vmax in dB, where several share a scale."""
    levels = mel_spectrogram(samples, rate)
    axes.imshow(levels, origin="lower", aspect="auto", cmap="magma", extent=(0, len(samples) / rate, 0, len(levels)), interpolation="bilinear", **levels_from_to)
    axes.grid(False)
    marks = [frequency for frequency in marks if frequency < rate / 2]
    top = np.log10(1 + rate / 2 / 700)
    axes.set_yticks([len(levels) * np.log10(1 + mark / 700) / top for mark in marks], [f"{mark / 1000:g} kHz" for mark in marks])


def one_channel(samples) -> np.ndarray:
    """Samples in any shape with one channel, as (n,) float32.  Raises ValueError for more channels or no samples."""
    samples = np.asarray(samples, np.float32).squeeze()
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"wanted one channel of at least one sample, got shape {samples.shape}")
    return samples


def encode_sound(samples, rate: int) -> bytes:
    """Samples as MP3 (one channel, variable rate, about 4 kB a second): every browser plays it."""
    buffer = io.BytesIO()
    clipped = one_channel(samples).clip(-1, 1)
    soundfile.write(buffer, clipped, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.75)
    return buffer.getvalue()


class Player:
    """A sound with its transcript and picture, as HTML that needs nothing else."""

    def __init__(self, sound: bytes, text: str, picture: Picture | None) -> None:
        self.sound, self.text, self.picture = sound, text, picture

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.sound).decode()
        words = f'<figcaption style="margin:2px 0 4px;white-space:pre-line">{html.escape(self.text)}</figcaption>' if self.text else ""
        picture = ""
        if self.picture:
            image = base64.b64encode(self.picture.png).decode()
            picture = f'<img alt="{html.escape(self.picture.alt)}" style="max-width:100%" src="data:image/png;base64,{image}">'
        if not self.sound:
            return f'<figure style="margin:4px 0">{words}</figure>'
        player = f'<audio controls preload="metadata" style="height:36px" src="data:audio/mpeg;base64,{data}"></audio>'
        return f'<figure style="margin:4px 0">{player}{words}{picture}</figure>'

    def __repr__(self) -> str:
        return f"Player({self.text!r}, {len(self.sound)} bytes)"


def listen(samples, rate: int, text: str = "", *, picture: bool = True, small: bool = False) -> Player:
    """A player for short sounds: samples (n,) in -1..1 (array or tensor) at `rate`, what is said, and its spectrogram, a small one if wished.

    No samples at all, which is what a hardly trained model may say, give a line that says so.
    """
    if samples is not None and not np.asarray(samples).size:
        return Player(b"", f"{text} (no sound: the speech ended before its first frame)".lstrip(), None)
    samples = one_channel(samples)
    return Player(encode_sound(samples, rate), text, show_spectrogram(samples, rate, small=small) if picture else None)


# --- Codes -------------------------------------------------------------------------------------------------------


def show_codes(codes: torch.Tensor | np.ndarray, num_codes: int | None = None, title: str = "", frame_rate: float | None = 12.5) -> Picture:
    """codes (Q, F) as a heat-map: a row a codebook, a column a frame of 80 ms, a colour a code; grey where there is none (below 0, `num_codes` or more).

    frame_rate: frames a second; None where the columns are steps, not frames in time.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"wanted codes (Q, F) with at least one frame, got shape {codes.shape}")
    Q, F = codes.shape
    with drawing(min(9.0, 2.2 + 0.16 * F), 0.55 + 0.19 * Q + 0.25 * bool(title)) as figure:
        axes = figure.add_subplot()
        last = (num_codes or codes.max() + 1) - 1
        is_code = np.ma.masked_outside(codes, 0, last)
        axes.set_facecolor("#E4E4E4")
        image = axes.imshow(is_code, aspect="auto", cmap="cividis", vmin=0, vmax=last, extent=(0, F / (frame_rate or 1), Q - 0.5, -0.5), interpolation="nearest")
        axes.grid(False)
        axes.set_yticks(range(Q))
        axes.set_ylabel("codebook")
        axes.set_xlabel("seconds" if frame_rate else "step")
        axes.set_title(title)
        figure.colorbar(image, ax=axes, label="code", pad=0.01)
        return finish(figure, f"Heat-map of {Q} codebooks by {F} frames. {title}".strip())


FRAME_COLOURS = ("#8CC8EE", "#F5D68A", "#8FD1BE")  # neighbouring frames differ, so that the diagonals are seen


def cell(streams: np.ndarray, k: int, t: int, start: int, config: ModelConfig) -> tuple[str, str]:
    """Colour and words of one cell of a delay grid."""
    code = int(streams[k, t])
    if code == config.audio_pad_token:
        return "#F4F4F4", ""
    if code == config.audio_stop_token:
        return RED, "stop"
    if code == config.audio_spk_token:
        return PURPLE, "voice"
    frame = t - start - 1 - k
    return ("#D0D0D0", "ref") if frame < 0 else (FRAME_COLOURS[frame % len(FRAME_COLOURS)], f"{frame}")


def show_delay(
    streams: torch.Tensor | np.ndarray, config: ModelConfig, start: int, words: Sequence[str] | None = None, title: str = "", label: str = "the answer begins"
) -> Picture:
    """The nine streams of a row as a grid: which frame's code each codebook holds at each position.

    streams (Q + 1, T): `Row.input_ids`, or a prompt; readable on a notebook's page up to some 28 positions.  start: where the answer's text begins.
    words: the text row's tokens as strings, one a position.  label: what begins at `start`.
    """
    streams = np.asarray(streams)
    Q, T = streams.shape[0] - 1, streams.shape[1]
    if words is not None and len(words) != T:
        raise ValueError(f"{len(words)} words for {T} positions")
    height = 0.27 * (Q + 1) + (0.8 if words else 0.2) + 0.3
    with drawing(min(14.0, 1.0 + 0.33 * T), height) as figure:
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        for k in range(Q):
            for t in range(T):
                colour, content = cell(streams, k, t, start, config)
                axes.add_patch(Rectangle((t, k), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1))
                strong = colour in (RED, PURPLE)
                axes.text(t + 0.5, k + 0.5, content, ha="center", va="center", fontsize=6.5, color=PAPER if strong else INK)
        for t in range(T):
            pad = int(streams[-1, t]) == config.pad_token
            axes.add_patch(Rectangle((t, Q), 1, 1, facecolor="#F4F4F4" if pad else "#CFE3F2", edgecolor=PAPER, linewidth=1))
        axes.axvline(start, color=INK, linewidth=1.2)
        axes.text(start + 0.1, -0.25, label, fontsize=8, color=INK, va="bottom")
        axes.set(xlim=(0, T), ylim=(Q + 1, 0))
        axes.set_yticks(np.arange(Q + 1) + 0.5, [*(f"codebook {k}" for k in range(Q)), "text"])
        if words:
            said = ["" if token == config.pad_token else word.replace("\n", "↵") for word, token in zip(words, streams[-1])]
            axes.set_xticks(np.arange(T) + 0.5, said, rotation=55, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticks(np.arange(0, T, 5) + 0.5, range(0, T, 5))
        axes.tick_params(length=0, labelcolor=INK)
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(title, pad=22)
        return finish(figure, f"Delay grid of {Q} codebooks and the text over {T} positions; {label} at {start}. {title}".strip())


# --- Loss curves -------------------------------------------------------------------------------------------------


def smooth(values: Sequence[float], share: float = 0.03) -> np.ndarray:
    """A running mean over about `share` of the points, as many before each as behind it; at the ends over what there is.

    Values that are not finite are skipped; where there is no other, the mean is NaN.
    """
    values = np.asarray(values, float)
    half = max(1, round(share * len(values))) // 2
    finite = np.isfinite(values)
    sums = np.cumsum(np.append(0, np.where(finite, values, 0)))  # (n + 1,): of what stands before each place
    counts = np.cumsum(np.append(0, finite))
    places = np.arange(len(values))
    first, behind = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    total, count = sums[behind] - sums[first], counts[behind] - counts[first]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def show_losses(records: Sequence[Mapping], validation: Sequence[Mapping] = (), title: str = "") -> Picture:
    """Loss against step: text and audio on the left, each codebook on the right where it was logged.

    records: dicts with `step` and any of `text`, `audio`, `codebooks` (a list), as `training.read_log` gives them.
    validation: the same, measured on held-out rows, drawn as dots.  A step without a spoken row has no audio loss (it was logged as 0)
    and is left out of the audio curves.
    """
    records, validation = [without_silence(each) for each in records], [without_silence(each) for each in validation]
    by_codebook = [record for record in records if record.get("codebooks")]
    with drawing(9.0 if by_codebook else 5.0, 2.7) as figure:
        left, *right = figure.subplots(1, 2 if by_codebook else 1, squeeze=False)[0]
        for name, colour in (("audio", ORANGE), ("text", BLUE)):
            curve(left, records, name, colour, label="audio (weighted)" if name == "audio" else name)
            dots = [(each["step"], each[name]) for each in validation if each.get(name) is not None]
            if dots:
                left.plot(*zip(*dots, strict=True), "o", color=colour, markersize=6, markeredgecolor=PAPER, label=f"{name}, held out")
        left.set(xlabel="step", ylabel="cross-entropy, nats", ylim=(0, None))
        left.set_title(title)
        if left.get_legend_handles_labels()[0]:
            left.legend()
        for axes in right:
            codebook_curves(axes, by_codebook)
        last = records[-1] if records else {}
        figures = ", ".join(f"{name} {last[name]:.3f}" for name in ("text", "audio") if last.get(name) is not None)
        return finish(figure, f"Loss curves over {len(records)} records; last: {figures or 'nothing yet'}. {title}".strip())


def without_silence(record: Mapping) -> dict:
    """A record without the audio losses of a step in which nothing was spoken: sums over no label, which are 0 and no loss."""
    silent = record.get("audio") == 0 and not any(record.get("codebooks") or ())
    return {name: value for name, value in record.items() if not (silent and name in ("audio", "codebooks"))}


def curve(axes, records: Sequence[Mapping], name: str, colour: str, label: str = "") -> None:
    """One loss: faint as it was, strong as its running mean.  label: its name in the legend, where it is another."""
    points = [(each["step"], each[name]) for each in records if each.get(name) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, label=label or name)


def codebook_curves(axes, records: Sequence[Mapping]) -> None:
    """One line a codebook, from dark (0) to light."""
    import matplotlib

    steps = [each["step"] for each in records]
    values = np.asarray([each["codebooks"] for each in records], float)  # (N, Q)
    shades = matplotlib.colormaps["cividis"](np.linspace(0, 0.9, values.shape[1]))
    for k, shade in enumerate(shades):
        axes.plot(steps, smooth(values[:, k]), color=shade, label=f"{k}")
    axes.set(xlabel="step", ylabel="cross-entropy, nats")
    axes.set_title("audio, by codebook")
    axes.legend(title="codebook", title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves: they fall, and fill the corners


def read_records(path: Path) -> tuple[list[dict], list[dict]]:
    """Training records and validation records of a log of JSON lines; a line that is still being written is left out."""
    records, validation = [], []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        (validation if "validation" in record else records).append(record)
    return records, validation


def is_watched() -> bool:
    """Whether somebody looks on: a notebook's page, which may be asked for input; papermill's runs may not."""
    import sys

    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False))


class LossCurves:
    """Draws a growing log file while the block runs, and once more at its end.

    Where nobody looks on (papermill, a script) only the last picture is made, and `picture` holds it.
    """

    def __init__(self, log: str | Path, title: str = "", seconds: float = 5.0, live: bool | None = None) -> None:
        self.log, self.title, self.seconds = Path(log), title, seconds
        self.live = is_watched() if live is None else live
        self.picture: Picture | None = None
        self.handle = None
        self.ended = threading.Event()

    def __enter__(self) -> LossCurves:
        if self.live:
            self.show()
            self.thread = threading.Thread(target=self.watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.ended.set()
        if self.live:
            self.thread.join()
        self.show()

    def watch(self) -> None:
        """Redraw whenever the file has grown."""
        size = -1
        while not self.ended.wait(self.seconds):
            now = self.log.stat().st_size if self.log.is_file() else -1
            if now != size:
                size = now
                self.show()

    def show(self) -> None:
        """Draw the log as it is, in the place of the last picture; in a script there is no page to show it on."""
        import sys

        self.picture = show_losses(*read_records(self.log), title=self.title)
        if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
            return
        from IPython.display import display

        if self.handle is None:
            self.handle = display(self.picture, display_id=True)
        else:
            self.handle.update(self.picture)


class Curves:
    """Curves of any names while a notebook's own loop runs: one panel a name, drawn at most every `seconds`, and once more at the end.

        with Curves("mel distance", "letters") as curves:
            for step in tqdm(range(steps)):
                curves.add(step, mel, letters)                 # numbers or tensors of one element, in the order of the names
                curves.dot(step, "mel distance", 0.9)          # now and then, measured on held-out data

    Where nobody looks on (papermill, a script) only the last picture is made, and `picture` holds it.
    """

    def __init__(self, *names: str, seconds: float = 5.0, live: bool | None = None, mark: tuple[int, str] | None = None) -> None:
        self.names, self.seconds = names, seconds
        self.live = is_watched() if live is None else live
        self.mark = mark  # a step and its words: something changes there
        self.points: list[tuple] = []
        self.dots: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
        self.picture: Picture | None = None
        self.handle, self.drawn = None, time.monotonic()

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *error) -> None:
        self.show()

    def add(self, step: int, *values) -> None:
        """The next point of every curve; None where one has none.  Raises ValueError where there are more or fewer values than names."""
        if len(values) != len(self.names):
            raise ValueError(f"{len(values)} values for the curves {', '.join(self.names)}")
        self.points.append((step, *(None if value is None else float(value) for value in values)))
        if self.live and time.monotonic() - self.drawn > self.seconds:
            self.show()

    def dot(self, step: int, name: str, value: float) -> None:
        """A figure measured on held-out data."""
        self.dots[name].append((step, float(value)))

    def draw(self) -> Picture:
        """The curves so far: faint as they were, strong as their running mean, held-out figures as dots."""
        with drawing(min(9.0, 0.6 + 3.4 * len(self.names)), 2.3) as figure:
            for number, (axes, name) in enumerate(zip(figure.subplots(1, len(self.names), squeeze=False)[0], self.names)):
                curve(axes, [{"step": point[0], name: point[1 + number]} for point in self.points], name, BLUE)
                if self.dots[name]:
                    axes.plot(*zip(*self.dots[name], strict=True), "o", color=ORANGE, markersize=6, markeredgecolor=PAPER, label="held out")
                    axes.legend()
                if self.mark:
                    axes.axvline(self.mark[0], color=GREY, linewidth=0.8, linestyle=":")
                    axes.annotate(self.mark[1], (self.mark[0], 1.0), xycoords=("data", "axes fraction"), fontsize=7, color=GREY, va="top", xytext=(3, 0), textcoords="offset points")
                axes.set(xlabel="step", ylim=(0, None))
                axes.set_title(name)
            last = [f"{name} {value:.3g}" for name, value in zip(self.names, self.points[-1][1:] if self.points else ()) if value is not None]
            last += [f"{name}, held out, {dots[-1][1]:.3g}" for name, dots in self.dots.items() if dots]
            return finish(figure, f"Curves of {', '.join(self.names)} over {len({point[0] for point in self.points})} steps; last: {', '.join(last) or 'nothing yet'}.")

    def show(self) -> None:
        """Draw in the place of the last picture; in a script there is no page to show it on."""
        import sys

        self.picture, self.drawn = self.draw(), time.monotonic()
        if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
            return
        from IPython.display import display

        if self.handle is None:
            self.handle = display(self.picture, display_id=True)
        else:
            self.handle.update(self.picture)
