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
# # A1 · Train a codec
#
# *Takes 60 minutes (tiny) · runs in 340 s on one core (tiny) · builds on nothing before it · 4 exercises, 11 points*
#
# **At the end** you have trained a small Mimi from nothing and heard it: first noise, then a hum, then something that speaks with a full mouth.
# You have written the distance it was trained by, the trick by which a gradient passes a choice, and the running means that a codebook is made
# of; and you have seen a codec collapse, and why it did.
#
# **You need** PyTorch's `backward` and `detach`, and from the course what a codec gives: every 80 ms of sound become one *frame* of eight
# codes, one from each of eight *codebooks*, of which the first two look at the same vector, and each later one refines what those from the second up to the one before it have left.
#
# **The claim.** The network is the easy part. A codec lives or dies by three small things around it: what is compared, how a gradient passes the codes, and
# whether the codebooks stay alive.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few steps of a small codec, so that every cell runs

# %%
import inspect
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo.codec import Codec, save_codec
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import BLUE, GREY, ORANGE, RED, Curves, drawing, finish, listen, show_codes
from mmo.judge import Judge
from mmo.measures import word_errors
from mmo.profiles import profile as find_profile
from mmo.world import shipped
from mmo.world.train_codec import FLOOR, SAMPLE_RATE, CodecTraining, MelLoss, Trainer, latent, unquantised

settings = find_profile("tiny")  # this appendix is about the tiny world's codec, whatever the profile
smoke = budget == "smoke"

# %% [markdown]
# ## What there is to learn from
#
# The shipped codec heard more than ten hours of speech (`data/tiny/README.md` has them by file). They are made by synthesisers that you need not have, so here you take what lies in the repository as
# sound: the uncoded answers of one test file. One voice is enough for a few minutes. A tenth of its sentences is kept back: nobody trains on
# them, neither you now nor the shipped codec then.

# %%
VOICE = "slt"
spoken = [each for each in shipped.answers(settings.data_dir) if each.voice == VOICE]
held_out, training = spoken[::10], [each for number, each in enumerate(spoken) if number % 10]
print(f"voice {VOICE}: {len(training)} sentences to train on, {sum(each.seconds for each in training) / 60:.1f} minutes; {len(held_out)} held out")


def wave(sound: shipped.Spoken) -> Tensor:
    """(1, 1, samples), padded with silence to whole frames of 1920 samples."""
    frames = -(-len(sound.samples) // 1920)
    padded = torch.zeros(1, 1, 1920 * frames)
    padded[0, 0, : len(sound.samples)] = torch.from_numpy(sound.samples.astype(np.float32) / 32768)
    return padded


example = max(held_out, key=lambda each: each.seconds)
original = wave(example)
display(listen(original[0, 0], SAMPLE_RATE, f"{example.text} (held out, uncoded)"))

# %% [markdown]
# ## What is compared
#
# A codec is trained to give back what it got. But what does "the same" mean? **Predict:** take the sentence above, and beside it the same sentence one
# millisecond later. No ear can tell them apart. Compare them sample by sample: how large is the difference, in percent of the sound itself?

# %%
predict("A1.shift", mine=None, question="The same sound, 24 samples later: the mean absolute difference "
        "is how many percent of the mean absolute sample?")

# %%
later = original.roll(24, dims=-1)
sample_difference = 100 * float((later - original).abs().mean() / original.abs().mean())
reveal("A1.shift", round(sample_difference), "percent")

# %% [markdown]
# Sample by sample they are nearly strangers. So the comparison is made where the ear makes it: in a spectrogram, which tells how loud each pitch range is at each
# time, with pitches spaced as we hear them (*mel*). Of each value the logarithm, since the ear hears ratios. And one more thing: between the words there is nearly
# nothing, and the logarithm of nearly nothing is a large number about nothing. A **floor** is added first. For magnitudes $x, y$ of shape
# (bands, times) and $d = \log(x + \epsilon) - \log(y + \epsilon)$:
#
# $$D(x, y) = \mathrm{mean}\,|d| + \mathrm{mean}\, d^2$$
#
# ## Exercise: how far two sounds lie apart
#
# *Exercise A1.mel_loss · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("A1.mel_loss")`*
#
# Return $D$ for the two spectrograms, with `floor` as $\epsilon$.

# %%
@exercise("A1.mel_loss")
def mel_loss(heard: Tensor, wanted: Tensor, floor: float) -> Tensor:
    """heard, wanted (..., bands, T) magnitudes
    -> mean absolute plus mean squared difference of log(x + floor), a scalar."""
    ### BEGIN SOLUTION
    difference = (heard + floor).log() - (wanted + floor).log()
    return difference.abs().mean() + difference.square().mean()
    ### END SOLUTION


# %%
check("A1.mel_loss")

# %% [markdown]
# Why add and not cut? Both keep silence from mattering too much. Look at the slope, which is all that training gets to know: a floor that cuts has no slope below
# it, so a sound that is too quiet is never asked to become louder.

# %%
quiet = torch.logspace(-4, 1, 200, requires_grad=True)
with drawing(7.0, 2.0) as figure:
    axes = figure.add_subplot()
    added, cut = (quiet + FLOOR).log(), quiet.clamp(min=FLOOR).log()
    # Above the floor the cut one is the bare logarithm: drawn last and dashed, so that both are seen.
    for name, curve, colour, style in (("log(x + 0.05)", added, BLUE, "-"), ("log(x)", quiet.log(), GREY, "-"), ("log(max(x, 0.05))", cut, ORANGE, "--")):
        (slope,) = torch.autograd.grad(curve.sum(), quiet)
        axes.loglog(quiet.detach(), slope.clamp(min=1e-3), style, color=colour, label=name)
    axes.set(xlabel="magnitude x", ylabel="slope", ylim=(0.05, 3e3))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "Slope of three logarithms against the magnitude: "
                     "without a floor it grows without bound, with a cut it is the same above the floor and zero below, with an added floor it is level.")
display(picture)

# %% [markdown]
# The package's `MelLoss` does this at four window lengths: short ones see *when*, long ones see *which pitch*. It takes the distance as an argument, so that in this notebook
# it is yours that trains.

# %%
mel = MelLoss(distance=mel_loss)
print(inspect.getsource(MelLoss.forward))
print(f"24 samples later:  {mel(later, original):.2f} by mel, {sample_difference:.0f} % by sample")
print(f"another sentence:  {mel(wave(held_out[1])[..., : 1920 * 12], original[..., : 1920 * 12]):.2f} by mel")
print(f"silence:           {mel(0 * original, original):.2f} by mel")

# %% [markdown]
# ## How a gradient passes a choice
#
# Encoder and decoder are convolutions and a small transformer each; between them stands the quantiser. For each frame the encoder gives a vector $z$, the *latent*, and the
# codebook puts its nearest entry $e$ in its place. "Nearest" is a choice, and a choice has no slope: the encoder would learn nothing.
#
# The way out is a lie that works. Forwards the decoder gets $e$. Backwards we pretend that it had got $z$:
# $\;\hat z = z + \mathrm{constant}(e - z)$. This is the *straight-through* estimate. It is the better, the nearer $z$ and $e$ lie together, and so a second loss, the
# *commitment*, pulls the latent to its entry: $\mathrm{mean}\,(z - \mathrm{constant}(e))^2$.
#
# ## Exercise: a gradient through a choice
#
# *Exercise A1.straight_through · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("A1.straight_through")`*
#
# Return $\hat z$ and the commitment loss.

# %%
@exercise("A1.straight_through")
def straight_through(latent: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """latent (N, D), entries (N, D), the nearest to each
    -> entries that hand their gradient to the latent (N, D), commitment loss."""
    ### BEGIN SOLUTION
    passed = latent + (entries - latent).detach()
    return passed, (latent - entries.detach()).square().mean()
    ### END SOLUTION


# %%
check("A1.straight_through")

# %% [markdown]
# ## How the codebook moves
#
# The entries get no gradient at all. They are means: an entry is the mean of the latents that chose it lately. For entry $k$ two running numbers are kept, how often it was chosen
# and the sum of what chose it; with decay $\gamma$ and the batch's latents $z_n$ of code $c_n$:
#
# $$u_k \leftarrow \gamma u_k + (1 - \gamma)\,|\{n : c_n = k\}| \qquad s_k \leftarrow \gamma s_k + (1 - \gamma)\!\!\sum_{n:\, c_n = k}\!\! z_n \qquad e_k = s_k / u_k$$
#
# ## Exercise: a codebook that follows
#
# *Exercise A1.update_codebook · difficulty ●●○ · importance ●●○ · 12 minutes · 3 points · stuck? `hint("A1.update_codebook")`*
#
# Return all new $u_k$ and $s_k$; the quotient is made later, where an entry is needed.

# %%
@exercise("A1.update_codebook")
def update_codebook(
    usage: Tensor, sums: Tensor, latent: Tensor, codes: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """usage (K,), sums (K, D), latent (N, D), codes (N,)
    -> usage (K,) and sums (K, D) after this batch."""
    ### BEGIN SOLUTION
    chosen = torch.nn.functional.one_hot(codes, len(usage)).to(latent.dtype)  # (N, K): who chose whom
    usage = decay * usage + (1 - decay) * chosen.sum(dim=0)
    return usage, decay * sums + (1 - decay) * chosen.T @ latent
    ### END SOLUTION


# %%
check("A1.update_codebook")

# %% [markdown]
# In sum and usage alike, what nobody chooses fades; their quotient, the entry, stays where it is. Such an entry is **dead**: it lies where no latent comes by, so it is not chosen, so it
# does not move. It has to be found and put somewhere useful. Usage depends on the size of a batch, so it is compared with an even share.
#
# ## Exercise: which entries are dead
#
# *Exercise A1.dead · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("A1.dead")`*
#
# Return for each entry whether it is used less than `ratio` times an even share.

# %%
@exercise("A1.dead")
def dead(usage: Tensor, ratio: float) -> Tensor:
    """usage (K,) -> (K,) bool: entries used less than `ratio` times
    what each would get if all were used alike."""
    ### BEGIN SOLUTION
    even_share = usage.mean()
    return usage < ratio * even_share
    ### END SOLUTION


# %%
check("A1.dead")

# %% [markdown]
# All together in the plane, where one can look: two hundred points in four heaps, eight entries that begin in one corner. Left without, right with the replacement of the dead by
# points of the batch.

# %%
generator = torch.Generator().manual_seed(4)
heaps = torch.tensor([[-2.0, 1.5], [1.5, 2.0], [2.0, -1.5], [-1.0, -2.0]])
points = (heaps[:, None] + 0.45 * torch.randn(4, 50, 2, generator=generator)).flatten(0, 1)  # (200, 2)
corner = torch.tensor([-4.0, 4.0]) + 0.3 * torch.randn(8, 2, generator=torch.Generator().manual_seed(1))


def follow(replace_dead: bool, steps: int = 60) -> tuple[Tensor, Tensor]:
    """Entries (8, 2) and their usage (8,) after some batches of 40 points."""
    usage, sums, draws = torch.ones(8), corner.clone(), torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = points[torch.randperm(len(points), generator=draws)[:40]]
        codes = torch.cdist(batch, sums / usage[:, None]).argmin(dim=1)
        usage, sums = update_codebook(usage, sums, batch, codes, 0.9)
        if replace_dead:
            gone = dead(usage, 0.1)
            usage = torch.where(gone, usage.mean(), usage)
            sums = torch.where(gone[:, None], usage[:, None] * batch[:8], sums)
    return sums / usage[:, None], usage


with drawing(7.0, 3.0) as figure:
    for axes, replaced in zip(figure.subplots(1, 2), (False, True)):
        entries, usage = follow(replaced)
        axes.plot(*points.T, ".", color=GREY, markersize=3, label="points (latents)")
        axes.plot(*corner.T, "+", color=RED, label="entries at the start")
        axes.plot(*entries.T, "o", color=BLUE, markersize=7, label="after 60 batches")
        distances, codes = torch.cdist(points, entries).min(dim=1)
        axes.set_title(f"{'dead ones replaced' if replaced else 'left alone'}: {len(codes.unique())} of 8 in use,\nmean square distance {distances.square().mean():.2f}")
        axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "Points in four heaps and eight entries, without and with replacement of dead entries.")
display(picture)

# %% [markdown]
# moshi's quantiser does just this: decay 0.99, a look at the dead every five steps, ratio 0.1. It begins with k-means on the first batch, so that the entries lie among the latents at once.
#
# **Not to be confused.** *Commitment* moves the encoder towards the codebook; the *running means* move the codebook towards the encoder. Codebooks are not in the optimiser.
#
# ## A codec that collapses
#
# Nothing so far said what happens when all of this is put together in the obvious way: build the model, train. Let us do that first, for a few steps, on short batches: PyTorch's own fresh weights, codes from the
# first step on. A codebook here has 256 entries. **Predict:** how many of them does codebook 0 still use on the held-out sentences?

# %%
predict("A1.collapse", mine=None, question="Fresh weights, codes from the first step: how many different codes of 256 "
        "does codebook 0 use on held-out speech?")

# %%
SIZES = dict(filters=16, dimension=96, layers=2, bins=256) if not smoke else dict(filters=4, dimension=32, layers=1, bins=32)
WATCHED = [wave(each) for each in held_out[: 3 if smoke else 6]]


@torch.no_grad()
def codes_of(model) -> Tensor:
    """The codes (Q, F) of the watched sentences, one behind the other."""
    model.eval()
    codes = torch.cat([model.encode(each)[0] for each in WATCHED], dim=1)
    model.train()
    return codes


def prepared(trial: CodecTraining, **how) -> Trainer:
    """A trainer with your distance."""
    trainer = Trainer([each.samples for each in training], [each.text for each in training], trial, **how)
    trainer.mel = mel
    return trainer


TRIAL_STEPS = 8 if smoke else 100
obvious = prepared(CodecTraining(**SIZES, batch_seconds=2, steps=400, warmup=50, quantise_from=0, letters_from=400), variance_kept=False)
for _ in tqdm(range(TRIAL_STEPS), desc="the obvious way", unit="step"):
    obvious.update()
used = [len(row.unique()) for row in codes_of(obvious.model)]
print(f"different codes on {codes_of(obvious.model).shape[1]} held-out frames, codebooks 0 to 7: {used}")
reveal("A1.collapse", used[0], "of 256" if not smoke else "of 32")

# %% [markdown]
# The codebooks are nearly dead, and the decoder has learnt to say the same thing whatever comes. Two things went wrong.
#
# 1. **The latent says nothing.** PyTorch's default weights shrink a signal layer by layer, and from sound to latent there are many. What comes out are the biases: the same vector for
#    every frame, and on it a trace of sound. The picture below shows it before any training (over the pictures: how far a number moves over time, and how far from 0 its mean lies, each the mean over all numbers).
# 2. **Codes came too soon.** The encoder moves fast at first, the running means follow slowly. What is left behind is dead; with one live entry everything falls to it.
#
# The cures are in `mmo/world/train_codec.py`: `keep_variance` draws the weights so that a sound's variance survives the way down and up, and `quantise_from` lets the latent pass unquantised for the first steps, then sets all codebooks by
# k-means at once. (Mimi itself was trained with weight normalisation, which takes care of the first.)

# %%
fresh = {"default weights": Trainer([], [], CodecTraining(**SIZES), variance_kept=False), "variance kept": Trainer([], [], CodecTraining(**SIZES))}
with drawing(9.0, 2.1) as figure:
    for axes, (name, trainer) in zip(figure.subplots(1, 2), fresh.items()):
        with torch.no_grad():
            found = latent(trainer.model, original)[0]  # (D, F)
        image = axes.imshow(found, aspect="auto", cmap="cividis", interpolation="nearest")
        figure.colorbar(image, ax=axes, label="value")
        axes.grid(False)
        moving, still = found.std(dim=1).mean(), found.mean(dim=1).abs().mean()
        axes.set(xlabel="frame", ylabel="latent number")
        axes.set_title(f"{name}: moves by {moving:.3f} about a mean of {still:.3f}")
    picture = finish(figure, "The latent of one sentence before training: constant stripes with default weights, structure over time where the variance is kept.")
display(picture)

# %% [markdown]
# ## Train
#
# Now in earnest. One step, as `Trainer.update` does it: sound in, codes, sound out; the mel distance, a tenth of the commitment, and a twentieth of a third loss that we have not met: a small head must read the *letters* of the sentence from
# codebook 0 alone. It makes that codebook say what is said, and codes easier to predict for a Talker. Mimi does the same with features of another network. At first the head learns alone, and its
# loss is kept from the codec (up to the step `letters_from`, printed below): codebook 0 has to settle before it is told anything.
#
# Watch the dotted line: there the codes begin. **Predict:** does the mel distance jump up at that step, or does it go on falling?

# %%
predict("A1.jump", mine=None, question="When codes take the place of the latent, does the mel distance go 'up' or 'down'?")

# %%
STEPS = 24 if smoke else 800
recipe = CodecTraining(**SIZES, batch_seconds=2 if smoke else 3, steps=STEPS, warmup=STEPS // 16, quantise_from=STEPS // 4, letters_from=STEPS // 3, learning_rate=2e-3,
                       codebook_dropout=0.2, false_codes=0.0)
trainer = prepared(recipe)
weights = sum(parameter.numel() for parameter in trainer.model.parameters())
print(f"{weights / 1e6:.1f} million weights, {STEPS} steps of {recipe.batch_seconds:g} seconds of sound")
print(f"codes begin at step {recipe.quantise_from}; the letter head learns alone up to step {recipe.letters_from}")


@torch.no_grad()
def said_again(model, sound: Tensor) -> Tensor:
    """(1, 1, samples) through all eight codebooks and back; before the codes begin, through the latent as it is."""
    model.eval()
    again = model.decode(model.encode(sound)) if trainer.step > recipe.quantise_from else unquantised(model, sound)
    model.train()
    return again


snapshots = {0: said_again(trainer.model, original)}
started = time.process_time()
with Curves("mel distance", "letters", "commitment", mark=(recipe.quantise_from, "codes begin")) as curves:
    for step in tqdm(range(STEPS), desc="codec", unit="step"):
        distance, letters, commitment, _ = trainer.update()
        curves.add(step, distance, letters, commitment)
        if trainer.step in (STEPS // 4, STEPS // 2, STEPS):
            snapshots[trainer.step] = said_again(trainer.model, original)
            curves.dot(trainer.step, "mel distance", torch.stack([mel(said_again(trainer.model, each), each) for each in WATCHED]).mean())
print(f"{(time.process_time() - started) / 60:.1f} minutes of processor time")

# %%
by_step = [point[1] for point in curves.points]
window = max(2, STEPS // 32)
begin = recipe.quantise_from
before, after = np.mean(by_step[begin - window : begin]), np.mean(by_step[begin : begin + window])
print(f"mean mel distance of {window} steps before the codes: {before:.2f}, behind: {after:.2f}")
reveal("A1.jump", "up" if after > before else "down")

# %% [markdown]
# The same sentence as training went on. The first is what fresh weights make of it. Where the caption says "no codes yet", the latent went through as it is; so it did for the first held-out dot
# in the curve above.

# %%
for step, sound in snapshots.items():
    display(listen(sound[0, 0], SAMPLE_RATE, f"after {step} steps{' (no codes yet)' if step <= recipe.quantise_from else ''}: {example.text}"))
display(listen(original[0, 0], SAMPLE_RATE, f"uncoded: {example.text}"))

# %% [markdown]
# Read the pictures if you cannot listen: first the rhythm comes (when is there sound at all), then the pitch stripes of the vowels, last the sharp edges of consonants. Words need those.
#
# **High rates hide progress.** The learning rate falls in a line to zero over the run, so the curve shows two things in one: learning, and a shaking of the weights that dies down. They cannot be told apart on the way. When the shipped codec was trained,
# a second sitting at the first one's rate made good weights worse for thousands of steps, and better than before only as the rate came down. Of two recipes the one with the higher rate looks worse half-way; judge at the end of a schedule.
# Below, for each eighth of your run, the distance and how much of the rate was left in its middle.

# %%
eighths = [np.mean(by_step[number * STEPS // 8 : (number + 1) * STEPS // 8]) for number in range(8)]
print("mean mel distance  ", "".join(f"{each:7.2f}" for each in eighths))
print("rate left, percent ", "".join(f"{100 * (1 - (number + 0.5) / 8):7.0f}" for number in range(8)))

# %% [markdown]
# If the distance still falls in the last eighths, where hardly any of the rate is left, then a run that is stopped half-way is judged too early. Whether it learns there or only comes to rest, these figures do not say.

# %% [markdown]
# ## Alive?
#
# The check that the first attempt failed, on the same held-out sentences.

# %%
mine = codes_of(trainer.model)
used = [len(row.unique()) for row in mine]
print(f"different codes on {mine.shape[1]} held-out frames, codebooks 0 to 7: {used}")
first = mine[:, : WATCHED[0].shape[-1] // 1920]
display(show_codes(first, recipe.bins, f"yours: {held_out[0].text}"))
display(show_codes(codes_of(obvious.model)[:, : first.shape[1]], recipe.bins, "the collapsed one, the same sentence"))

# %% [markdown]
# ## How far minutes reach
#
# Beside the shipped codec, on the held-out sentences: the mel distance, and the word error rate of the judge, a recogniser from elsewhere that knows the words of this world and nothing
# else (in notebook 01 you take dictation against it). The uncoded recordings are its floor. **Predict** your own codec's word error rate.

# %%
predict("A1.wer", mine=None, question="Your codec's word error rate on held-out sentences, in percent (the floor is some fifteen)?")

# %%
with TemporaryDirectory() as folder:
    save_codec(trainer.model.eval(), trainer.config, Path(folder) / "mine.safetensors")
    my_codec = Codec.load(Path(folder) / "mine.safetensors")
shipped_codec = Codec.load(settings.codec_file)
judge = Judge.from_file(settings.data_dir / "words.txt")
tested = held_out[: 4 if smoke else len(held_out)]
wers, lines = {}, []
for name, codec in (("uncoded", None), ("shipped", shipped_codec), ("yours", my_codec)):
    again = [wave(each) if codec is None else codec.decode(codec.encode(wave(each))) for each in tqdm(tested, desc=name, unit="sentence")]
    heard = judge.transcribe([(sound[0, 0].numpy(), SAMPLE_RATE) for sound in again], workers=1)
    distances = [float(mel(sound, wave(each))) for sound, each in zip(again, tested)]
    figure = word_errors([each.text for each in tested], heard)
    wers[name] = figure.wer
    low, high = figure.interval()
    lines.append(f"{name:8} {np.mean(distances):12.2f} {100 * figure.wer:10.0f} % {f'{100 * low:.0f} to {100 * high:.0f}':>14}   {heard[0]}")
print(f"{'':8} {'mel distance':>12} {'word errors':>12} {'95 % interval':>14}   the judge, of '{tested[0].text}'")
print("\n".join(lines))
curve = json.loads((settings.data_dir / "figures" / "codec.json").read_text(encoding="utf-8"))["curve"]["rows"]
print(f"steps: yours {STEPS}, the shipped codec's last sitting with all its parts {curve[-1][0]}")
reveal("A1.wer", round(100 * wers["yours"]), "percent")

# %%
display(listen(shipped_codec.decode(shipped_codec.encode(original))[0, 0], SAMPLE_RATE, f"shipped codec, 8 codebooks: {example.text}"))
display(listen(my_codec.decode(my_codec.encode(original))[0, 0], SAMPLE_RATE, f"your codec, 8 codebooks: {example.text}"))

# %% [markdown]
# An honest word. Minutes give the melody of speech and few of its words. The shipped codec is of the same class and was first trained by the same losses; it is a little wider, and its last sitting alone took the steps printed above, on more than ten hours of two voices.
# Mimi itself is far wider, heard far more, and in the end was trained without any such distance: by an adversary, a second network that learns to tell its sound from real sound. That is what takes away the hum.
#
# What the tiny one has instead: in a part of its steps the later codebooks are left out (`codebook_dropout`), or hold codes of other frames (`FalseCodes`), so that its decoder lives with the mistakes of a Talker. Which codebooks a Talker can predict decided more
# than how good the codec was with all of them true. At last the decoder was taught alone (`mmo/world/train_decoder.py`): in a quarter to a half of the steps the codes behind codebooks 0 and 1 are false, all of them or at least half, and a second loss compares what the frozen *speech encoder*
# makes of the decoded sound and of the true one. A third asks that the decoded sound's cepstra (the shape of its spectrum in a few numbers a frame) *vary* as much as the recording's: a decoder that is only told how far off it is says the mean of all that its codes may stand for, and a mean is too smooth. Encoder and codebooks rest in this sitting, so not one stored code changes, and the Talker need not learn anew.

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("A1")

# %% [markdown]
# ## Summary
#
# - Compare what the ear compares: logarithms of mel magnitudes, at several window lengths, with a floor that is added.
# - Straight-through: forwards the entry, backwards as if it were the latent. The commitment keeps the lie small.
# - A codebook is a running mean. What nobody chooses dies, and must be replaced.
# - Collapse is the normal outcome. Keep the variance, let the latent settle before codes begin, count the codes in use.
# - Losses go on falling while the rate does. Judge at the end of a schedule.
#
# **Often mistaken.** *"The mel distance fell, so it can be understood."* Vowels are most of the energy, consonants most of the words. *"More entries, better sound."* Only those in use count. *"A codec is trained on speech tokens."* Nobody gives it
# tokens: the codes are what it came up with, from sound and, for codebook 0, a hint of what is said.
#
# **To try.** Train with a floor of 5e-3 (`mel = MelLoss(distance=lambda heard, wanted, floor: mel_loss(heard, wanted, 5e-3))` before `prepared` is called): which parts of the spectrogram change? Set `letters=0`: look at codebook 0. Set `quantise_from=0` but keep the variance: which of the two cures did more? Use the voice `joe`, which is harder. Start from the shipped codec: `Trainer(..., start_from=settings.codec_file)`
# needs its sizes (`CodecTraining()`) and a third of the rate.
#
# **Where to read on.** In this course: `mmo/world/train_codec.py` and `mmo/world/train_decoder.py` (the shipped codec's own training), `mmo/codec.py`. Papers:
#
# - A. van den Oord, O. Vinyals, K. Kavukcuoglu: *Neural Discrete Representation Learning.* NeurIPS 2017, [arXiv:1711.00937](https://arxiv.org/abs/1711.00937). VQ-VAE: straight-through, commitment, running means.
# - N. Zeghidour, A. Luebs, A. Omran, J. Skoglund, M. Tagliasacchi: *SoundStream: An End-to-End Neural Audio Codec.* 2021, [arXiv:2107.03312](https://arxiv.org/abs/2107.03312). Residual quantisation, dead entries, codebook dropout.
# - A. Défossez, J. Copet, G. Synnaeve, Y. Adi: *High Fidelity Neural Audio Compression.* 2022, [arXiv:2210.13438](https://arxiv.org/abs/2210.13438). EnCodec: the mel distance at several scales, the adversary.
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024, [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). Mimi is section 3.3.
