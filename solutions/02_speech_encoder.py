# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · The speech encoder
#
# *Takes 80 minutes (tiny) · runs in 36 s on one core (tiny) · builds on nothing before it · 5 exercises, 15 points*
#
# **At the end** you have written everything that lies between a sound and its encoder, by hand and to the same numbers. You have read
# words off its features, and measured what else they still say: who spoke, how loud. And you have heard what is left.
#
# **You need** tensors and the idea of a Fourier transform: a sound as a sum of tones. From the course only this: the language model,
# the *Thinker*, reads vectors, one a position. A sound must become a row of them.
#
# **The claim.** A sound becomes 16.67 vectors a second, and an encoder that was trained to write down words throws away what words do not need.
# What it throws away is not what you would guess, and you can measure it.
#
# The encoder has the architecture of SenseVoice, a published speech recogniser, and is loaded with `funasr`, the library that SenseVoice comes with. Ours
# is a tiny one, trained as in [appendix A2](A2_train_a_speech_encoder.ipynb) with CTC (*connectionist temporal classification*): a loss that is told the words, not when
# they are said. What it is fed, the first half of the chain, `funasr` calls its *frontend* or *fbank* (filter bank). You write it below.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer sounds where sounds are counted

# %%
import json
import zlib
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import BLUE, GREEN, INK, ORANGE, RED, drawing, finish, listen
from mmo.features import read_sound
from mmo.measures import word_errors, words
from mmo.profiles import profile as find_profile
from mmo.speech_encoder import HOP, SAMPLE_RATE, STACK, STRIDE, WINDOW, SpeechEncoder, feature_count

settings = find_profile("tiny")  # every claim here is counted on the tiny world, whose words and voices are known
torch.manual_seed(0)
torch.set_grad_enabled(False)  # nothing is trained here; the checks turn gradients on for themselves
encoder = SpeechEncoder.load(settings.speech_encoder_dir)
blocks = [*encoder.model.encoder.encoders0, *encoder.model.encoder.encoders, *encoder.model.encoder.tp_encoders]
print(f"{sum(p.numel() for p in encoder.model.parameters()) / 1e6:.2f} M weights in {len(blocks)} blocks, all frozen; features of {encoder.dim} numbers")


def asked(split: str, most: int | None = None) -> list[dict]:
    """Spoken questions: what is said, in which voice, and the sound."""
    table = pq.read_table(settings.data_dir / f"a2a-{split}.parquet", columns=["conversations", "question_audios", "voice", "kind"])
    rows = table.slice(0, most).to_pylist()
    return [{"text": json.loads(row["conversations"])[0]["content"], "sound": read_sound(row["question_audios"][0]), "voice": row["voice"], "kind": row["kind"]} for row in rows]


test = asked("test", 24 if budget == "smoke" else 120)
question = next(each for each in test if each["kind"] == "plus")
sound = torch.from_numpy(question["sound"])  # (N,), full scale 1
print(f"{len(sound)} samples at {SAMPLE_RATE} Hz: {len(sound) / SAMPLE_RATE:.2f} s, voice {question['voice']}, which the encoder never heard")
display(listen(sound, SAMPLE_RATE, question["text"]))

# %% [markdown]
# ## Why not the samples themselves?
#
# A transformer could read the waveform, one sample a position. It would be absurd. Attention weighs every pair of positions, and a second
# has 16 000 samples. Nor does a single sample say anything. So a sound is made slower and wider, step by step:
#
# $$16\,000 \times 1 \;\to\; 100 \times 80 \;\to\; 16.67 \times 560 \;\to\; 16.67 \times D \quad\text{(vectors a second} \times \text{numbers each)}$$
#
# **Predict** how many vectors this question becomes. A window of 400 samples (25 ms) is cut every 160 (10 ms), and around every sixth window one vector is made.

# %%
predict("02.vectors", f"{len(sound)} samples: how many vectors come out?", None)

# %%
mel_frames = (len(sound) - WINDOW) // HOP + 1
reveal("02.vectors", feature_count(len(sound)), f"vectors: {mel_frames} windows, and every sixth, the first included")

# %% [markdown]
# ## Exercise: windows
#
# *Exercise 02.windows · difficulty ●●○ · importance ●●○ · 10 minutes · 3 points · stuck? `hint("02.windows")`*
#
# Speech holds still for about 20 ms. So we look at 25 ms at a time. Each window $x$ is made ready in three steps, after the samples have been
# made as large as 16-bit numbers ($\times\,32\,768$):
#
# 1. its own mean is taken off: a microphone's constant offset is no sound;
# 2. *pre-emphasis*, $y_i = x_i - 0.97\,x_{i-1}$ (and $x_{-1} = x_0$): voices are strong in low tones and weak in high ones, where many consonants live;
# 3. the Hamming window, the symmetric one (`periodic=False`): soft edges, so that the cut itself is not heard as a click.

# %%
@exercise("02.windows")
def windows(wave: Tensor, size: int, hop: int) -> Tensor:
    """wave (N,), full scale 1 -> (T, size): times 32768, cut every hop, mean taken off,
    pre-emphasised by 0.97, times a symmetric Hamming window.
    """
    ### BEGIN SOLUTION
    frames = (wave * 32768).unfold(0, size, hop)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    return (frames - 0.97 * previous) * torch.hamming_window(size, periodic=False)
    ### END SOLUTION


# %%
check("02.windows")

# %%
cut = windows(sound, WINDOW, HOP)  # (T, 400)
voiced = int(torch.fft.rfft(cut, n=512)[:, :32].abs().square().sum(dim=1).argmax())  # the most energy below 1 kHz: a vowel
before = 32768 * sound[voiced * HOP : voiced * HOP + WINDOW]
spectra = [torch.fft.rfft(each, n=512).abs().clamp(min=1).log10() * 20 for each in (before * torch.hamming_window(WINDOW), cut[voiced])]
fine = [torch.fft.rfft(each, n=4096).abs().clamp(min=1).log10() * 20 for each in (before * torch.hamming_window(WINDOW), cut[voiced])]
lowest = round(1500 * 4096 / SAMPLE_RATE)  # bins up to 1.5 kHz
with drawing(9.0, 2.4) as figure:
    left, middle, right = figure.subplots(1, 3)
    for values, colour, name in ((before, ORANGE, "as it came"), (cut[voiced], BLUE, "made ready")):
        left.plot(np.arange(WINDOW) / 16, values, color=colour, linewidth=1.0, label=name)
    for values, closer, colour in zip(spectra, fine, (ORANGE, BLUE)):
        middle.plot(np.arange(257) * SAMPLE_RATE / 512 / 1000, values, color=colour, linewidth=1.0)
        right.plot(np.arange(lowest) * SAMPLE_RATE / 4096 / 1000, closer[:lowest], color=colour, linewidth=1.0)
    left.set(xlabel="milliseconds", ylabel="16-bit numbers")
    middle.set(xlabel="kHz", ylabel="decibels", title="its spectrum")
    right.set(xlabel="kHz", title="the lowest 1.5 kHz of it", ylim=(40, None))
    left.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=2, fontsize=9)
    picture = finish(
        figure,
        "One window before and after: as samples on the left, as a spectrum in the middle, the lowest 1.5 kHz of the spectrum on the right. "
        "The lower a tone, the more it is pushed down; on the right narrow peaks stand close together.",
    )
print(f"{tuple(sound.shape)} -> {tuple(cut.shape)}; drawn is window {voiced}")
for name, low, high in (("below 300 Hz", 0, 300), ("300 Hz to 1 kHz", 300, 1000), ("1 to 3 kHz", 1000, 3000), ("above 4 kHz", 4000, SAMPLE_RATE // 2)):
    bins = slice(round(low * 512 / SAMPLE_RATE), round(high * 512 / SAMPLE_RATE))
    print(f"{name:15} {float((spectra[1] - spectra[0])[bins].mean()):+5.0f} decibels on average")
display(picture)

# %% [markdown]
# In the middle you see what pre-emphasis does: the lower a tone, the more it comes down (averages stand above); from about 2 kHz on little changes. On the right,
# drawn more finely, are its lowest tones. The narrow peaks, one close to the next, are the voice's pitch and its multiples; the slow hills over them are the
# mouth's shape, and they make the vowel.
#
# ## Exercise: mel bands
#
# *Exercise 02.mel_bank · difficulty ●●● · importance ●●○ · 14 minutes · 4 points · stuck? `hint("02.mel_bank")`*
#
# 257 tones are too many, and too evenly spaced: our ears tell 200 from 300 Hz easily, and 7200 from 7300 Hz hardly. The mel scale is
# spaced as we hear: $\mathrm{mel}(f) = 1127 \ln(1 + f/700)$. Lay `bands` triangles over the bins, from `low` to half the rate, equally wide in mel,
# their flanks straight in mel: `bands` + 2 edges evenly spaced in mel; band $b$ rises from 0 at edge $b$ to 1 at edge $b + 1$ and falls to 0 at edge $b + 2$.
# Bin $i$ of a Fourier transform of `size` samples is the tone of $i \cdot \mathrm{rate} / \mathrm{size}$ Hz.

# %%
@exercise("02.mel_bank")
def mel_bank(bands: int, size: int, rate: int, low: float) -> Tensor:
    """-> (size / 2 + 1, bands): how much of each bin counts for each band;
    triangles of height 1 on the mel scale, from low to rate / 2 Hz.
    """
    ### BEGIN SOLUTION
    def mel(hertz):
        return 1127 * torch.log1p(torch.as_tensor(hertz) / 700)

    edges = torch.linspace(float(mel(low)), float(mel(rate / 2)), bands + 2)
    at = mel(torch.arange(size // 2 + 1) * rate / size)[:, None]  # (bins, 1)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((at - left) / (middle - left), (right - at) / (right - middle)).clamp(min=0)
    ### END SOLUTION


# %%
check("02.mel_bank")

# %% [markdown]
# Put together: windows, Fourier transform, power, bands, logarithm. That is the picture that speech recognition has looked at for forty years.

# %%
bank = mel_bank(80, 512, SAMPLE_RATE, 20.0)  # (257, 80)
FLOOR = torch.finfo(torch.float32).eps  # no energy at all would have no logarithm


def log_mel(wave: Tensor) -> Tensor:
    """wave (N,), full scale 1 -> (T, 80)."""
    power = torch.fft.rfft(windows(wave, WINDOW, HOP), n=512).abs().square()  # (T, 257)
    return (power @ bank).clamp(min=FLOOR).log()


frames = log_mel(sound)  # (T, 80)
with drawing(9.0, 3.6) as figure:
    top, below = figure.subplots(2, 1, height_ratios=(1, 2))
    for band in range(0, 80, 6):
        top.plot(np.arange(257) * SAMPLE_RATE / 512, bank[:, band], color=BLUE, linewidth=1.0)
    top.set(xlabel="hertz", ylabel="weight", title="every sixth band")
    below.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", extent=(0, len(frames) / 100, 0, 80))
    below.set(xlabel="seconds", ylabel="band", title=f"log mel, {tuple(frames.shape)}")
    below.grid(False)
    picture = finish(figure, "Above: triangular mel filters, narrow at low frequencies and wide at high ones. Below: the log-mel picture of the question.")
display(picture)

# %% [markdown]
# ### The number 32 768
#
# The frontend comes from Kaldi, an older toolkit for speech recognition, where samples are 16-bit whole numbers. Everything behind it was trained on that scale. **Predict:** somebody
# forgets the factor. By how much does every log-mel value change?

# %%
predict(
    "02.scale",
    "Samples not multiplied by 32768: how much lower is each log-mel value?",
    None,
)

# %%
unscaled = log_mel(sound / 32768)
reveal("02.scale", round(float((frames - unscaled)[unscaled > np.log(FLOOR) + 1].median()), 2), "lower: 2 ln 32768, since energy is squared; values at the floor cannot fall that far")

# %% [markdown]
# The shape of the picture is the same, so nothing looks wrong, but the numbers are far from any that the encoder was trained on. What it then hears we try as soon as the chain is complete.
#
# ## Exercise: the low frame rate
#
# *Exercise 02.stack · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("02.stack")`*
#
# A hundred vectors a second are still many: a vowel lasts five to twenty of them. So seven frames are laid side by side, and that is done around every
# sixth frame only. Row $n$ holds frames $6n - 3$ to $6n + 3$. Hardly a number is thrown away (at the very end up to two frames), and neighbouring rows share one frame. Where there is no frame, before the
# first and behind the last, the edge is repeated.

# %%
@exercise("02.stack")
def stack(frames: Tensor, width: int, stride: int) -> Tensor:
    """frames (T, D) -> (ceil(T / stride), width * D):
    the width frames around every stride-th, edges repeated.
    """
    ### BEGIN SOLUTION
    T, D = frames.shape
    rows = -(-T // stride)
    which = torch.arange(rows)[:, None] * stride + torch.arange(width) - (width - 1) // 2
    return frames[which.clamp(0, T - 1)].reshape(rows, width * D)
    ### END SOLUTION


# %%
check("02.stack")

# %% [markdown]
# So the rate is $16\,000 / 160 / 6 = 16.67$ vectors a second, one every 60 ms. Why this rate? It is about as fast as sounds follow each other in speech. Slower, and two sounds share a
# vector; CTC, below, can write at most one token a vector. Faster, and attention pays for it squared:

# %%
seconds = 10
for name, rate in (("samples", 16_000), ("mel frames", 100), ("stacked", 100 / 6)):
    print(f"{name:10} {rate * seconds:10.0f} positions in {seconds} s, {(rate * seconds) ** 2:18,.0f} pairs for each head to weigh")
kept = stack(frames, STACK, STRIDE)  # (N, 560)
print(f"\n{tuple(frames.shape)} -> {tuple(kept.shape)}")

# %% [markdown]
# **Not to be confused.** 16.67 Hz is the clock of *hearing*. The codec's 12.5 Hz is the clock of *speaking*. They never meet: features stand in the Thinker's text, codes in
# rows of their own.
#
# ## Exercise: mean and variance from a file
#
# *Exercise 02.normalise · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("02.normalise")`*
#
# Log-mel values lie around 14. The encoder wants them around 0, and the file `am.mvn` says how: 560 numbers to add, 560 to multiply by, taken from the
# training corpus once. The same for every sentence. The library does it in place; you should not.

# %%
@exercise("02.normalise")
def normalise(frames: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """frames (N, 560), shift (560,) and scale (560,) as the file has them ->
    (N, 560), a new tensor.
    """
    ### BEGIN SOLUTION
    return (frames + shift) * scale
    ### END SOLUTION


# %%
check("02.normalise")

# %% [markdown]
# The chain is complete. Beside it the rented frontend, `funasr`'s `WavFrontend`, as `mmo.speech_encoder.SpeechEncoder.frames` calls it:

# %%
shift, scale = encoder.frontend.cmvn
mine = normalise(kept, shift, scale)
theirs, lengths = encoder.frames([sound])
print(f"{tuple(mine.shape)}, mean {mine.mean():.2f}, deviation {mine.std():.2f}; largest difference to the frontend: {(mine - theirs[0]).abs().max():.1e}")
assert torch.allclose(mine, theirs[0], atol=5e-3)

# %% [markdown]
# ## Two traps in rented code
#
# **Dither.** The frontend can add a random whisper to the samples, so that digital silence has a logarithm. In `funasr` it is on by default, in evaluation too:
# the same sound then never gives the same features twice. `SpeechEncoder` sets it to 0.

# %%
for dither in (1.0, 0.0):
    encoder.frontend.dither = dither
    once, twice = (encoder.frames([sound])[0] for _ in range(2))
    print(f"dither {dither}: two calls differ by up to {(once - twice).abs().max():.2f} deviations")

# %% [markdown]
# **A tensor that changes behind your back.** **Predict:** we hand the same tensor to the library's encoder twice. Are the features the same?

# %%
predict(
    "02.twice",
    "The same tensor encoded twice, everything in evaluation mode: the same features, 'yes' or 'no'?",
    None,
)

# %%
given = theirs.clone()
first, _ = encoder.model.encoder(given, lengths)
print(f"after one call the tensor is {float((given / theirs).median()):.0f} times itself: the square root of {encoder.dim}")
second, _ = encoder.model.encoder(given, lengths)
print(f"after two calls {float((given / theirs).median()):.0f} times; features of values up to {first.abs().max():.1f} differ by up to {(first - second).abs().max():.1f}")
print(f"words: {encoder.spell(first, lengths)[0]!r}, then {encoder.spell(second, lengths)[0]!r}")
reveal("02.twice", "yes" if torch.equal(first, second) else "no")

# %% [markdown]
# The library's line is `xs_pad *= self.output_size() ** 0.5`: with `=`, the caller's tensor is scaled. `SpeechEncoder.encode_frames` clones first. Whenever
# you rent a model, call it twice.
#
# ## From features to words
#
# The encoder is a stack of attention blocks, each with a short memory filter beside it (SAN-M). On top sits one matrix, the *CTC head*: for each vector it says which word
# is written here, or *blank*, nothing new. A word on one vector, or on a few in a row, and blanks everywhere else. The text falls out by two simple steps:
#
# $$\texttt{two two · two · · is} \;\xrightarrow{\text{merge}}\; \texttt{two · two · is} \;\xrightarrow{\text{drop blanks}}\; \texttt{two two is}$$
#
# ## Exercise: CTC's collapse
#
# *Exercise 02.collapse · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("02.collapse")`*
#
# From the likeliest token of each vector to the tokens that are written, by the two steps above: merge neighbours that are alike, then drop the blanks.
# `blank` says which number the blank has.

# %%
@exercise("02.collapse")
def collapse(best: Tensor, blank: int) -> list[int]:
    """best (N,), the likeliest token of each vector -> the tokens that are written."""
    ### BEGIN SOLUTION
    merged = torch.unique_consecutive(best).tolist()
    return [token for token in merged if token != blank]
    ### END SOLUTION


# %%
check("02.collapse")

# %%
features, _ = encoder.encode_frames(theirs, lengths)  # (1, N, D)
chances = encoder.model.ctc.log_softmax(features)[0].exp()  # (N, tokens)
best = chances.argmax(dim=1)
vocabulary = encoder.tokenizer.token_list
heard = " ".join(vocabulary[token] for token in collapse(best, encoder.model.blank_id))
print(f"said:  {question['text']}\nheard: {heard}")
print(f"{len(best)} vectors, {int((best == encoder.model.blank_id).sum())} of them blank")
own = features[0] - features[0].mean(dim=0)  # what every vector has in common says nothing about its place
own = own / own.norm(dim=1, keepdim=True)
alike = own @ own.T  # (N, N) cosines: 1 alike, 0 unrelated, -1 opposite
print("likeness, on average: " + ", ".join(f"{gap} apart {alike.diagonal(gap).mean():.2f}" for gap in (1, 2, 4, 8)))
with drawing(9.0, 6.0) as figure:
    top, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2.6, 1.6))
    end = len(best) * 0.06
    top.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", extent=(0, len(frames) / 100, 0, 80))
    top.set(ylabel="band", title="log mel, 100 a second")
    image = middle.imshow(alike, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, end, end, 0), interpolation="nearest")
    middle.set(ylabel="seconds", title="features, 16.67 a second: how alike each is to each other one")
    figure.colorbar(image, ax=middle, pad=0.01, label="cosine")
    for axes in (top, middle):
        axes.grid(False)
    below.plot(np.arange(len(best)) * 0.06 + 0.03, chances[:, encoder.model.blank_id], color="#BBBBBB", label="blank")
    below.plot(np.arange(len(best)) * 0.06 + 0.03, chances[torch.arange(len(best)), best].where(best != encoder.model.blank_id, 0.0), color=BLUE, label="a word")
    for place, token in enumerate(best.tolist()):
        if token != encoder.model.blank_id and (place == 0 or token != best[place - 1]):
            below.text(place * 0.06 + 0.03, 1.08, vocabulary[token], rotation=40, fontsize=9, color=INK, ha="left", va="bottom")
    below.set(xlabel="seconds", ylabel="chance", ylim=(0, 2.1), yticks=(0, 1), xlim=(0, end))
    below.legend(loc="upper right", fontsize=9)
    picture = finish(
        figure,
        "Log mel, the features' likeness to each other and the CTC head's chances on one time axis: each feature is like its neighbours and hardly like "
        "any other; a word appears as a short peak among blanks, where it is being said.",
    )
display(picture)

# %% [markdown]
# Read it from above. First the sounds. Below them the features, each held against each other one: red is alike, white unrelated, blue the opposite. A feature is
# like its nearest neighbours and hardly like any other (the printed line has the averages): it belongs to its place in the sentence. Last the words, a short peak each and blanks between.
# The peak often comes where the word is already clear, not where it ends.
#
# And the forgotten 32 768? Now the whole chain can be tried without it. Beside it two more things that one may forget. **Predict** which of the three spoils the words:

# %%
predict(
    "02.forgot",
    "Forgotten: 'factor' (32768), 'stacking' (one frame seven times over), or 'file' (am.mvn). "
    "Which spoils the words most?",
    None,
)

# %%
def hears(rows: Tensor) -> str:
    """What the encoder writes from one sound's rows (N, 560)."""
    return encoder.spell(*encoder.encode_frames(rows[None], torch.tensor([len(rows)])))[0]


def ways(wave: Tensor) -> dict[str, Tensor]:
    """The rows (N, 560) of a sound, made rightly and with one thing forgotten."""
    once = log_mel(wave)
    return {
        "nothing": normalise(stack(once, STACK, STRIDE), shift, scale),
        "factor": normalise(stack(log_mel(wave / 32768), STACK, STRIDE), shift, scale),
        "stacking": normalise(once[::STRIDE].repeat(1, STACK), shift, scale),
        "file": stack(once, STACK, STRIDE),
    }


errors = {}
few = test[:: max(1, len(test) // 24)]
for name in ways(sound):
    found = [hears(ways(torch.from_numpy(each["sound"]))[name]) for each in few]
    errors[name] = word_errors([" ".join(words(each["text"])) for each in few], found).wer
    print(f"{name} forgotten: {100 * errors[name]:5.1f} % of the words wrong; of our question it hears {hears(ways(sound)[name])!r}")
reveal("02.forgot", max(errors, key=errors.get))

# %% [markdown]
# The two errors that move the numbers most are the factor and the file. Compare what they cost with "nothing forgotten": there is a reason why it can be so little. A factor on the samples is a constant on all
# logarithms (and nearly one after the file, whose 560 factors are much alike), and the first thing in the first block is a LayerNorm: it takes the mean of the 560 numbers off and divides by their deviation. The stacking is another matter: the numbers look right, and five of every
# six frames are gone. (Two dozen sentences are few: a difference of one or two percent is chance.) Do not build on being forgiven: with a threshold, a floor or another encoder it ends.
#
# How well does it hear voices that no part of it was trained on? Words wrong, of all words said:

# %%
for voice in sorted({each["voice"] for each in test}):
    rows = [each for each in test if each["voice"] == voice]
    found = [text for at in range(0, len(rows), 16) for text in encoder.transcribe([each["sound"] for each in rows[at : at + 16]])]
    said = [" ".join(words(each["text"])) for each in rows]
    wrong = next((pair for pair in zip(said, found) if pair[0] != pair[1]), None)
    print(f"{voice}: {100 * word_errors(said, found).wer:.1f} % of the words wrong in {len(rows)} questions")
    if wrong:
        print(f"  for instance {wrong[0]!r}\n        became {wrong[1]!r}")

# %% [markdown]
# ## What survives, and what is lost
#
# The encoder was asked for words and for nothing else. Its training sounds came in 50 voices, at all loudnesses. One would think that it learns to forget both.
#
# We ask with a **linear probe** (notebook 03 builds it by hand): one matrix from a sound's mean vector to the classes of one property, fitted on some sentences, tested on
# *other sentences*. Three properties: which of 50 voices; how loud (we play each sound at a random level, up to 20 decibels down; the classes are four steps of 5); which of seven kinds of question. We ask the frontend's
# frames first, then the output of each block.

# %%
known = asked("train", 240 if budget == "smoke" else 1200)
counted = Counter(each["voice"] for each in known)
predict(
    "02.voice",
    f"The voice, one of {len(counted)}, read from the encoder's last features: right in how many percent? "
    f"(guessing gives about {100 / len(counted):.0f}, "
    f"naming the most frequent about {100 * max(counted.values()) / len(known):.0f})",
    None,
)

# %%
levels = np.random.default_rng(0).uniform(-20, 0, len(known))  # decibels
caught: dict[str, Tensor] = {}
hooks = [block.register_forward_hook(lambda _, __, output, number=number: caught.__setitem__(f"block {number + 1}", output[0])) for number, block in enumerate(blocks)]
means: dict[str, Tensor] = {}
order = np.argsort([len(each["sound"]) for each in known])  # alike in length, so that little is padding
for places in tqdm(np.array_split(order, max(1, len(known) // 40)), desc="encoding"):
    rows, counts = encoder.frames([known[i]["sound"] * np.float32(10 ** (levels[i] / 20)) for i in places])
    out, _ = encoder.encode_frames(rows, counts)
    real = (torch.arange(rows.shape[1]) < counts[:, None])[..., None]  # (B, N, 1)
    for name, values in {"frames": rows, **caught, "features": out}.items():
        means.setdefault(name, torch.zeros(len(known), values.shape[-1]))[places] = (values * real).sum(dim=1) / counts[:, None]
for hook in hooks:
    hook.remove()

# %%
from mmo.course.tasks.vision import probe  # notebook 03's exercise

voices, kinds = sorted({each["voice"] for each in known}), ["plus", "minus", "bigger", "smaller", "say", "have", "count"]
properties = {
    "kind of question": (torch.tensor([kinds.index(each["kind"]) if each["kind"] in kinds else -1 for each in known]), len(kinds), BLUE),
    "voice": (torch.tensor([voices.index(each["voice"]) for each in known]), len(voices), ORANGE),
    "loudness": (torch.bucketize(torch.tensor(levels), torch.tensor([-15.0, -10.0, -5.0])), 4, GREEN),
}
held_out = torch.tensor([zlib.crc32(each["text"].encode()) % 5 == 0 for each in known])  # a sentence is wholly here or wholly there
scores: dict[str, list[int]] = {name: [] for name in properties}
frequent: dict[str, float] = {}  # what naming always the most frequent class gives
print(f"{'percent right':16}" + "".join(f" {place}" for place in means) + " frequent")
for name, (classes, number, _) in properties.items():
    fit, ask = ~held_out & (classes >= 0), held_out & (classes >= 0)
    for values in means.values():
        middle, spread = values[fit].mean(dim=0), values[fit].std(dim=0) + 1e-6
        weights = probe((values[fit] - middle) / spread, classes[fit], number, 30.0)
        read = ((values[ask] - middle) / spread) @ weights[:-1] + weights[-1]
        scores[name].append(round(100 * float((read.argmax(dim=1) == classes[ask]).float().mean())))
    frequent[name] = 100 * float(classes[ask].bincount().max() / ask.sum())
    print(f"{name:16}" + "".join(f"{score:{len(place) + 1}}" for place, score in zip(means, scores[name])) + f"{frequent[name]:9.0f}")
with drawing(8.0, 2.8) as figure:
    axes = figure.add_subplot()
    for name, (_, _, colour) in properties.items():
        axes.plot(list(means), scores[name], color=colour, marker="o", markersize=4, label=name)
        axes.axhline(frequent[name], color=colour, linewidth=1.2, linestyle=":")
    axes.plot([], [], color=INK, linewidth=1.2, linestyle=":", label="dotted: always\nthe most frequent")
    axes.set(ylabel="percent right", ylim=(0, 103))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    ends = ", ".join(f"{name} {found[0]} to {found[-1]} (dotted {frequent[name]:.0f})" for name, found in scores.items())
    picture = finish(figure, f"What a linear probe reads at each depth, percent right from the frames to the features: {ends}. Dotted: always the most frequent class.")
display(picture)
reveal("02.voice", scores["voice"][-1], f"percent; loudness {scores['loudness'][-1]}, the kind of question {scores['kind of question'][-1]}")

# %% [markdown]
# Blue: what the loss asked for rises, block by block. Green: loudness can be read off the frames, and at the end no linear map finds it. You have met one reason, the norm at the entrance; the blocks do the rest. Orange is the surprise: nobody asked for the voice. Compare its figure under "features" with the one under "frequent" (the dotted line of its colour), which is what naming always the same voice would give. Whatever lies above it is left of the voice. Forgetting
# costs work, and a loss that only asks for words pays for no more forgetting than it needs.
#
# So be careful with "it only keeps the words". What a probe can read, a projector can read too. What it cannot read may still be there, folded away.
#
# ### Hear it
#
# Can one hear the difference? From log-mel frames a sound can be made again (`mmo.speech_encoder.resynthesise`): no frame holds phases, so they are found by going back and
# forth between sound and spectrum. It rasps. That rasp is the method's, not the encoder's. Then we fit one matrix from a feature vector back to six mel frames, on a few hundred sounds, and make a sound of what it gives. For each of the
# two voices we take the first sum that the encoder hears rightly as it was.

# %%
from mmo.speech_encoder import resynthesise

pieces, wanted = [], []
for at in tqdm(range(0, 60 if budget == "smoke" else 300, 20), desc="fitting the way back"):
    part = known[at : at + 20]
    out, counts = encoder.encode([each["sound"] for each in part])
    pieces += [row[:count] for row, count in zip(out, counts.tolist())]
    wanted += [stack(log_mel(torch.from_numpy(each["sound"])), STACK, STRIDE)[:, : STRIDE * 80] for each in part]
X = torch.cat(pieces)
X = torch.cat((X, torch.ones(len(X), 1)), dim=1)  # (vectors, D + 1)
back = torch.linalg.solve(X.T @ X + 10.0 * torch.eye(X.shape[1]), X.T @ torch.cat(wanted))  # (D + 1, 6 * 80)


def heard_rightly(voice: str) -> dict:
    """The voice's first sum that the encoder writes down without a mistake; its first one if there is none."""
    sums = [each for each in test if each["voice"] == voice and each["kind"] in ("plus", "minus")]
    return next((each for each in sums if encoder.transcribe([each["sound"]])[0] == " ".join(words(each["text"]))), sums[0])


for each in (heard_rightly("rms"), heard_rightly("kal")):
    wave = torch.from_numpy(each["sound"])
    out, _ = encoder.encode([wave])
    from_features = (out[0] @ back[:-1] + back[-1]).view(-1, 80)  # (6 N, 80)
    for name, again in (("as it was", wave), ("from its log-mel frames", resynthesise(log_mel(wave))), ("from its features", resynthesise(from_features))):
        print(f"{each['voice']}, {name}: the encoder hears {encoder.transcribe([again])[0]!r}")
        display(listen(again / again.abs().max(), SAMPLE_RATE, f"{each['voice']}, {name}: {each['text']}"))

# %% [markdown]
# Compare the two voices in their last version, and look at the two spectrograms: the words' outlines are there, of the fine comb of the pitch little is left. (The encoder's transcript of it is no measure: it was never trained on such a rasp, and may hear other words.) From a
# whole sentence's mean a linear map reads *which* voice it was in part of the sentences (the table above says in how many percent: row "voice", column "features").
# From each vector it still cannot give the voice back.
#
# For the course this means: the Thinker, which reads these features, can answer what was said. How loud it was, how it was sung, where the stress lay: what is lost here, nothing behind it can bring back.
#
# ## The same in the package
#
# `SpeechEncoder.encode` is the whole chain. Two more things it does: it stays in float32 and outside autocast, whatever surrounds it, and it zeroes what comes out where there was only padding. (That a sound's features do not depend on its
# neighbours in the batch is the work of the mask inside the encoder, made from the lengths.) `mmo.world.train_speech_encoder` writes the frontend out as you did, to train the encoder.

# %%
import inspect

print(inspect.getsource(SpeechEncoder.encode_frames))

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("02")

# %% [markdown]
# ## Summary
#
# - Windows of 25 ms every 10 ms; 80 log-mel bands; seven frames stacked around every sixth: 560 numbers, $16\,000 / 160 / 6 = 16.67$ times a second.
# - $\times\,32\,768$, `am.mvn` and dither are conventions. None of them crashes when it is wrong; some are even forgiven.
# - Rented code may change what you give it. Call it twice and compare.
# - CTC writes one token a vector at most, and blank for most of them: merge, then drop.
# - Features say what the loss needed. Words rise, loudness goes, part of the voice stays. Measure, do not guess.
#
# **Often mistaken.** *"The encoder hands over text."* It hands over vectors; the CTC head is not used by the omni model at all. *"A mel spectrogram loses the words' order or time."* It loses phases. *"SenseVoice also says
# language and emotion."* It does when four query vectors are put before the sound; MiniMind-O leaves them out, and so does the tiny encoder.
#
# **To try.** Keep every third frame, `stack(frames, 4, 3)`: how many vectors a second, and what would have to be trained anew? Reverse the sound in time and read what is heard. Add noise until the words go: do they go one
# by one or all at once? Probe for the *first number* in a question.
#
# **Where to read on.** In this course: `mmo/speech_encoder.py`, then [notebook 04](04_projectors.ipynb), where these vectors take the place of words. Papers:
#
# - S. Davis, P. Mermelstein: *Comparison of Parametric Representations for Monosyllabic Word Recognition in Continuously Spoken Sentences.* IEEE Transactions on Acoustics, Speech, and Signal Processing 28(4), 1980. Mel bands for speech.
# - A. Graves, S. Fernández, F. Gomez, J. Schmidhuber: *Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks.* ICML 2006.
# - G. Pundak, T. Sainath: *Lower Frame Rate Neural Network Acoustic Models.* Interspeech 2016. Why stacking and skipping costs nothing.
# - Z. Gao, S. Zhang, M. Lei, I. McLoughlin: *SAN-M: Memory Equipped Self-Attention for End-to-End Speech Recognition.* Interspeech 2020, [arXiv:2006.01713](https://arxiv.org/abs/2006.01713). The encoder's blocks.
# - K. An, Q. Chen, C. Deng and others: *FunAudioLLM: Voice Understanding and Generation Foundation Models for Natural Interaction Between Humans and LLMs.* 2024, [arXiv:2407.04051](https://arxiv.org/abs/2407.04051). SenseVoice.
# - A. Pasad, J.-C. Chou, K. Livescu: *Layer-wise Analysis of a Self-supervised Speech Representation Model.* ASRU 2021, [arXiv:2107.04734](https://arxiv.org/abs/2107.04734). The probe by depth, on a large model.
# - D. Griffin, J. Lim: *Signal Estimation from Modified Short-Time Fourier Transform.* IEEE Transactions on Acoustics, Speech, and Signal Processing 32(2), 1984. A sound from magnitudes alone.
