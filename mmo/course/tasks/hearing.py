"""Notebook 02: windows, mel bands, the low frame rate, mean and variance, CTC's collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids, compare_maps
from mmo.speech_encoder import collapse

FULL_SCALE, KEPT = 32768, 0.97  # Kaldi's samples are 16-bit numbers; its pre-emphasis


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 02.windows --------------------------------------------------------------------------------------------------


def windows_by(wave: Tensor, size: int, hop: int, *, scale: float = FULL_SCALE, centre: bool = True, before: Callable | None = None, kept: float = KEPT, shape: Tensor | None = None) -> Tensor:
    """The windows with one thing done otherwise; `before` gives the sample before each sample."""
    frames = (scale * wave).unfold(0, size, hop)
    if centre:
        frames = frames - frames.mean(dim=1, keepdim=True)
    before = before or (lambda each: torch.cat((each[:, :1], each[:, :-1]), dim=1))
    return (frames - kept * before(frames)) * (torch.hamming_window(size, periodic=False) if shape is None else shape)


def windows(wave: Tensor, size: int, hop: int) -> Tensor:
    """What `WavFrontend`'s fbank does before the Fourier transform; tests hold it against the frontend.

    wave (N,), full scale 1 -> (T, size): times 32768, cut every hop, mean taken off, pre-emphasised, Hamming-windowed.
    """
    return windows_by(wave, size, hop)


def humming(samples: int, seed: int = 0) -> Tensor:
    """A soft noise over a constant, so that taking the mean off shows."""
    return 0.05 + 0.1 * drawn(samples, seed=seed)


def windows_cases() -> Sequence[Case]:
    return [Case(f"{samples} samples, windows of {size} every {hop}", (humming(samples), size, hop)) for samples, size, hop in ((30, 8, 4), (1000, 400, 160), (400, 400, 160))]


def windows_emphasised_first(wave: Tensor, size: int, hop: int) -> Tensor:
    """Pre-emphasis over the whole sound, then cut."""
    sharp = torch.cat((wave[:1] - KEPT * wave[:1], wave[1:] - KEPT * wave[:-1]))
    return windows_by(sharp, size, hop, kept=0.0)


def windows_mean_last(wave: Tensor, size: int, hop: int) -> Tensor:
    frames = windows_by(wave, size, hop, centre=False, shape=torch.ones(size))
    return (frames - frames.mean(dim=1, keepdim=True)) * torch.hamming_window(size, periodic=False)


def windows_padded(wave: Tensor, size: int, hop: int) -> Tensor:
    """A last window that is half empty."""
    return windows(torch.cat((wave, torch.zeros(size - hop))), size, hop)


WINDOWS = Exercise(
    id="02.windows",
    title="Windows",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="One row a window; each row rises from its edges, and holds only whole windows of the sound.",
    hints=(
        "wave.unfold(0, size, hop) cuts whole windows only: (T, size). Scale before or after, it is the same.",
        "Per window, in this order: take off its own mean; subtract 0.97 times the sample before (the first sample's predecessor is itself); multiply by the Hamming window.",
        "torch.cat((frames[:, :1], frames[:, :-1]), dim=1) is the sample before; torch.hamming_window(size, periodic=False) is the window.",
    ),
    reference=windows,
    package_name="the first half of funasr's fbank",
    cases=windows_cases,
    bugs=(
        Bug("The samples are still between -1 and 1. The frontend was made for 16-bit numbers: times 32768.", lambda wave, size, hop: windows_by(wave, size, hop, scale=1.0)),
        Bug("The mean of each window is still there: a microphone's offset would look like a very low tone.", lambda wave, size, hop: windows_by(wave, size, hop, centre=False)),
        Bug("The mean is taken off after the pre-emphasis. It comes first: the window's own sample mean.", windows_mean_last),
        Bug("The pre-emphasis is missing: subtract 0.97 times the sample before.", lambda wave, size, hop: windows_by(wave, size, hop, kept=0.0)),
        Bug("The pre-emphasis ran over the whole sound before it was cut. Here each window is treated by itself: centred first, and its first sample's predecessor is itself.", windows_emphasised_first),
        Bug("The first sample of each window was compared with 0. Its predecessor is itself.", lambda wave, size, hop: windows_by(wave, size, hop, before=lambda each: torch.cat((0 * each[:, :1], each[:, :-1]), dim=1))),
        Bug("The first sample of each window was compared with its last: torch.roll goes round. Its predecessor is itself.", lambda wave, size, hop: windows_by(wave, size, hop, before=lambda each: each.roll(1, dims=1))),
        Bug("You subtract the next sample, not the one before.", lambda wave, size, hop: windows_by(wave, size, hop, before=lambda each: torch.cat((each[:, 1:], each[:, -1:]), dim=1))),
        Bug("The Hamming window is missing: hard edges would smear every tone over all frequencies.", lambda wave, size, hop: windows_by(wave, size, hop, shape=torch.ones(size))),
        Bug("That is a Hann window, which falls to 0 at its edges. The Hamming window keeps 0.08 there.", lambda wave, size, hop: windows_by(wave, size, hop, shape=torch.hann_window(size, periodic=False))),
        Bug("The Hamming window is periodic (torch's default), so its two ends differ. Kaldi's is symmetric: periodic=False.", lambda wave, size, hop: windows_by(wave, size, hop, shape=torch.hamming_window(size))),
        Bug("There is a window too many at the end, filled up with zeros. Only whole windows count.", windows_padded),
    ),
    gradients=(0,),
    tolerance=3e-3,
    picture=lambda wanted, theirs: compare_maps(wanted, theirs, xlabel="sample", ylabel="window"),
)


# --- 02.mel_bank -------------------------------------------------------------------------------------------------


def mel(hertz: Tensor | float) -> Tensor:
    """Kaldi's mel scale."""
    return 1127 * torch.log1p(torch.as_tensor(hertz) / 700)


def triangles(at: Tensor, edges: Tensor) -> Tensor:
    """at (bins,), edges (bands + 2,), on one scale -> (bins, bands): up from one edge to the next, down to the one after."""
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((at[:, None] - left) / (middle - left), (right - at[:, None]) / (right - middle)).clamp(min=0)


def bins(size: int, rate: int) -> Tensor:
    """(size / 2 + 1,) the frequencies of a real Fourier transform, in hertz."""
    return torch.arange(size // 2 + 1) * rate / size


def mel_bank(bands: int, size: int, rate: int, low: float) -> Tensor:
    """The filters of `WavFrontend`'s fbank; tests hold them against Kaldi's.  (size / 2 + 1, bands)."""
    edges = torch.linspace(float(mel(low)), float(mel(rate / 2)), bands + 2)
    return triangles(mel(bins(size, rate)), edges)


def hertz(mels: Tensor) -> Tensor:
    return 700 * torch.expm1(mels / 1127)


def mel_bank_in_hertz(bands: int, size: int, rate: int, low: float) -> Tensor:
    """Edges on the mel scale, flanks straight in hertz."""
    return triangles(bins(size, rate), hertz(torch.linspace(float(mel(low)), float(mel(rate / 2)), bands + 2)))


def mel_bank_few_edges(bands: int, size: int, rate: int, low: float) -> Tensor:
    """Edges counted as bands, the rest beyond."""
    step = (float(mel(rate / 2)) - float(mel(low))) / bands
    return triangles(mel(bins(size, rate)), float(mel(low)) + step * torch.arange(bands + 2))


def mel_bank_unclamped(bands: int, size: int, rate: int, low: float) -> Tensor:
    at, edges = mel(bins(size, rate))[:, None], torch.linspace(float(mel(low)), float(mel(rate / 2)), bands + 2)
    return torch.minimum((at - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - at) / (edges[2:] - edges[1:-1]))


MEL_BANK = Exercise(
    id="02.mel_bank",
    title="Mel bands",
    difficulty=3,
    importance=2,
    minutes=14,
    looks="A fan of triangles: narrow for low tones, wide for high ones, each reaching 1 at most and overlapping its neighbours by half.",
    hints=(
        "Turn everything into mel first: the frequency of each bin, and the two ends, low and rate / 2. On the mel scale all triangles have the same width.",
        "bands triangles need bands + 2 edges, evenly spaced in mel: torch.linspace(start, end, bands + 2). Band b rises from edge b to edge b + 1 and falls to edge b + 2.",
        "rise = (at - left) / (middle - left), fall = (right - at) / (right - middle); the triangle is the smaller of the two, and never below 0. at has shape (bins, 1), the edges (bands,).",
    ),
    reference=mel_bank,
    package_name="the filter bank inside funasr's fbank",
    cases=lambda: [Case(f"{bands} bands over {size // 2 + 1} bins at {rate} Hz, from {low} Hz", (bands, size, rate, low)) for bands, size, rate, low in ((6, 64, 16_000, 20.0), (80, 512, 16_000, 20.0), (10, 128, 8_000, 100.0))],
    bugs=(
        Bug("The edges are evenly spaced in hertz: all bands are equally wide. The ear is finer for low tones; space them evenly in mel.", lambda bands, size, rate, low: triangles(bins(size, rate), torch.linspace(low, rate / 2, bands + 2))),
        Bug("The edges are right, but the flanks are straight in hertz. Here they are straight on the mel scale: turn the bins into mel too.", mel_bank_in_hertz),
        Bug("The first band begins at 0 Hz, not at `low`: below that there is hum, and no speech.", lambda bands, size, rate, low: mel_bank(bands, size, rate, 0.0)),
        Bug("The last band ends at `rate`, but above rate / 2 there is nothing to be heard.", lambda bands, size, rate, low: triangles(mel(bins(size, rate)), torch.linspace(float(mel(low)), float(mel(rate)), bands + 2))),
        Bug("Outside their feet the triangles go on below zero: clamp at 0.", mel_bank_unclamped),
        Bug("The edges are too far apart: `bands` triangles need bands + 2 edges between the two ends, both included.", mel_bank_few_edges),
        Bug("The bins' frequencies are off: bin i lies at i * rate / size, not at i * (rate / 2) / (size / 2 + 1).", lambda bands, size, rate, low: triangles(mel(torch.arange(size // 2 + 1) * (rate / 2) / (size // 2 + 1)), torch.linspace(float(mel(low)), float(mel(rate / 2)), bands + 2))),
        Bug("Each band is divided by its sum. That is another convention; here each triangle's peak would be 1.", lambda bands, size, rate, low: mel_bank(bands, size, rate, low) / mel_bank(bands, size, rate, low).sum(dim=0).clamp(min=1e-6)),
    ),
    tolerance=1e-4,
    picture=lambda wanted, theirs: compare_maps(wanted.T, theirs.T, xlabel="bin", ylabel="band"),
)


# --- 02.stack ----------------------------------------------------------------------------------------------------


def places(count: int, width: int, stride: int, first: int) -> Tensor:
    """(windows, width) numbers of the frames that are stacked; the first window begins at `first`."""
    return torch.arange(-(-count // stride))[:, None] * stride + torch.arange(width) + first


def stack(frames: Tensor, width: int, stride: int) -> Tensor:
    """What `WavFrontend`'s apply_lfr does; tests hold it against that and against mmo.world's.

    frames (T, D) -> (ceil(T / stride), width * D): the `width` frames around every stride-th, edges repeated.
    """
    T, D = frames.shape
    return frames[places(T, width, stride, -((width - 1) // 2)).clamp(0, T - 1)].reshape(-1, width * D)


def numbered(T: int, D: int) -> Tensor:
    """(T, D): a value holds its own number, so that one sees where it went."""
    return torch.arange(T * D, dtype=torch.float32).view(T, D)


def stack_from_own(frames: Tensor, width: int, stride: int) -> Tensor:
    """Looks ahead only."""
    T, D = frames.shape
    return frames[places(T, width, stride, 0).clamp(0, T - 1)].reshape(-1, width * D)


def stack_looks_back(frames: Tensor, width: int, stride: int) -> Tensor:
    T, D = frames.shape
    return frames[places(T, width, stride, 1 - width).clamp(0, T - 1)].reshape(-1, width * D)


def stack_zeros(frames: Tensor, width: int, stride: int) -> Tensor:
    T, D = frames.shape
    at = places(T, width, stride, -((width - 1) // 2))
    return (frames[at.clamp(0, T - 1)] * ((at >= 0) & (at < T))[..., None]).reshape(-1, width * D)


def stack_by_band(frames: Tensor, width: int, stride: int) -> Tensor:
    """All times of band 0 first."""
    T, D = frames.shape
    return stack(frames, width, stride).view(-1, width, D).transpose(1, 2).reshape(-1, width * D)


def stack_unfolded(frames: Tensor, width: int, stride: int) -> Tensor:
    """Whole windows only, from the first frame on."""
    return frames.unfold(0, width, stride).transpose(1, 2).reshape(-1, width * frames.shape[1])


STACK = Exercise(
    id="02.stack",
    title="The low frame rate",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="A sixth of the rows, each seven times as long; neighbouring rows share one frame, and the first frame stands there four times.",
    hints=(
        "Row n is about frame n * stride. Which frames stand left and right of it, so that width of them are there in all?",
        "Make a table of frame numbers, (rows, width): n * stride - (width - 1) // 2 + j. Beyond the edges take the edge itself: clamp(0, T - 1).",
        "There are ceil(T / stride) rows: -(-T // stride). frames[table] is (rows, width, D); reshape joins the last two.",
    ),
    reference=stack,
    package_name="funasr.frontends.wav_frontend.apply_lfr",
    cases=lambda: [Case(f"{T} frames of {D}, {width} stacked every {stride}", (numbered(T, D), width, stride)) for T, D, width, stride in ((10, 1, 7, 6), (13, 3, 7, 6), (1, 2, 7, 6), (98, 80, 7, 6), (9, 2, 5, 2))],
    bugs=(
        Bug("Each row begins with its own frame and only looks ahead. It stands in the middle: three frames before it, three behind.", stack_from_own),
        Bug("Each row ends with its own frame and only looks back. It stands in the middle: three frames before it, three behind.", stack_looks_back),
        Bug("That is `unfold` as it is: whole windows only, and the first begins with frame 0. A row stands *around* its frame, and each stride has one: repeat the first frame in front and the last one behind, then unfold.", stack_unfolded),
        Bug("Beyond the edges you put zeros. In log mel 0 is a very quiet frame, which was never there: repeat the first and the last frame.", stack_zeros),
        Bug("The values are sorted by band: all times of band 0 first. A row is whole frames, one after the other.", stack_by_band),
        Bug("Frames are stacked without overlap. The step is `stride`, and a row is longer than that: neighbours share a frame.", lambda frames, width, stride: stack(frames, width, width)),
        Bug("The last row is missing: where T is no multiple of the stride there is one row more, filled up by the last frame.", lambda frames, width, stride: stack(frames, width, stride)[: len(frames) // stride]),
        Bug("The frames were averaged. Stacking keeps them all, side by side.", lambda frames, width, stride: stack(frames, width, stride).view(-1, width, frames.shape[1]).mean(dim=1)),
    ),
    picture=lambda wanted, theirs: compare_grids(wanted[:8, :14].int(), theirs[:8, :14].int()),
)


# --- 02.normalise ------------------------------------------------------------------------------------------------


def normalise(frames: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """What `WavFrontend`'s apply_cmvn does, on a new tensor.  frames (N, 560), shift and scale (560,) as am.mvn has them."""
    return (frames + shift) * scale


def normalise_cases() -> Sequence[Case]:
    return [Case(f"{N} frames of {D}", (3 * drawn(N, D, seed=D) + 9, -9 + 0.5 * drawn(D, seed=1), 0.3 + 0.1 * drawn(D, seed=2).abs())) for N, D in ((5, 4), (33, 560))]


NORMALISE = Exercise(
    id="02.normalise",
    title="Mean and variance from a file",
    difficulty=1,
    importance=2,
    minutes=5,
    looks="Numbers around 0, mostly between -3 and 3; what you were given stays as it was.",
    hints=(
        "The file holds what is to be added, and what is to be multiplied by: no minus and no division is left to do.",
        "First the shift, then the scale. One of each a column; they broadcast over the rows.",
        "(frames + shift) * scale. With += you would change the caller's tensor.",
    ),
    reference=normalise,
    package_name="funasr.frontends.wav_frontend.apply_cmvn",
    cases=normalise_cases,
    bugs=(
        Bug("The shift is already the negative mean: add it. Subtracted, everything moves further from 0.", lambda frames, shift, scale: (frames - shift) * scale),
        Bug("The scale is already one over the deviation: multiply.", lambda frames, shift, scale: (frames + shift) / scale),
        Bug("Both are turned round: the file holds minus the mean and one over the deviation. Add, then multiply.", lambda frames, shift, scale: (frames - shift) / scale),
        Bug("The scale comes first, the shift second. Take the mean off while it is still in the sound's own units.", lambda frames, shift, scale: frames * scale + shift),
        Bug("That is this sentence's own mean and deviation. The encoder was trained with those of a whole corpus, from the file: a loud sentence stays a loud one.", lambda frames, shift, scale: (frames - frames.mean(dim=0)) / frames.std(dim=0)),
        Bug("Only the shift was done.", lambda frames, shift, scale: frames + shift),
    ),
    gradients=(0,),
    tolerance=1e-4,
    picture=lambda wanted, theirs: compare_maps(wanted, theirs, xlabel="number in the stack", ylabel="row"),
)


# --- 02.collapse -------------------------------------------------------------------------------------------------


def collapse_cases() -> Sequence[Case]:
    return [
        Case("6 6 · 2 · 2 2 · 9, where · is blank", (torch.tensor([6, 6, 0, 2, 0, 2, 2, 0, 9]), 0)),
        Case("9 · 9 9 3 · · 9, where · is blank", (torch.tensor([9, 0, 9, 9, 3, 0, 0, 9]), 0)),
        Case("nothing but blanks", (torch.zeros(5, dtype=torch.int64), 0)),
        Case("a blank whose number is not 0", (torch.tensor([0, 0, 7, 0, 4, 4, 7, 4]), 7)),
    ]


def merge(tokens: Sequence[int]) -> list[int]:
    return [token for place, token in enumerate(tokens) if not place or token != tokens[place - 1]]


COLLAPSE = Exercise(
    id="02.collapse",
    title="CTC's collapse",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="A list of whole numbers, shorter than what went in; a token may stand twice in a row only where a blank was between.",
    hints=(
        "Say it aloud: 'two two blank two' is two twos, 'two two' is one. Which must be done first, merging or dropping?",
        "torch.unique_consecutive(best) merges neighbours that are alike. Then leave the blanks out.",
        "[token for token in torch.unique_consecutive(best).tolist() if token != blank]",
    ),
    reference=collapse,
    package_name="mmo.speech_encoder.collapse",
    cases=collapse_cases,
    bugs=(
        Bug("Blanks were dropped first, then repeats merged: so 'two · two' becomes one word. A blank between two alike keeps them apart: merge first.", lambda best, blank: merge([token for token in best.tolist() if token != blank])),
        Bug("Repeats are not merged: a word that lasts three vectors is written three times.", lambda best, blank: [token for token in best.tolist() if token != blank]),
        Bug("The blanks are still there. A blank says 'nothing new here' and is written nowhere.", lambda best, blank: merge(best.tolist())),
        Bug("Each token is written once, however often it was said. Only neighbours that are alike are merged.", lambda best, blank: list(dict.fromkeys(token for token in best.tolist() if token != blank))),
        Bug("Sorted, or made a set: the order of the words is gone.", lambda best, blank: sorted({token for token in best.tolist() if token != blank})),
        Bug("You take blank to be 0. It is whatever `blank` says.", lambda best, blank: collapse(best, 0)),
    ),
)

EXERCISES = (WINDOWS, MEL_BANK, STACK, NORMALISE, COLLAPSE)
