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
# # 01 · The speech codec
#
# *Takes 75 minutes (tiny) · runs in 47 s on one core (tiny) · builds on nothing before it · 5 exercises, 13 points*
#
# **At the end** you have built a residual quantiser that gives Mimi's own codes. You have heard a sentence with one to eight
# of its codebooks, put a number to what you hear, and worked out what a second of speech costs.
#
# **You need** tensors, indexing, `argmin`, logarithms. Nothing of the course.
#
# **The claim.** A second of speech fits into a hundred whole numbers. Each number names an entry of a table, and the tables stand in a
# row: each says only what those before it have left to say. A few small tables then reach as far as one that nobody could store.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer sentences where sentences are judged

# %%
import math
import textwrap

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo.codec import Codec
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.ears import abx, dictation
from mmo.display import BLUE, GREEN, INK, ORANGE, RED, drawing, finish, listen, mel_spectrogram, show_codes
from mmo.examination import of_tier, read_items, read_uncoded, spread_voices
from mmo.judge import Judge
from mmo.measures import word_errors
from mmo.profiles import profile as find_profile

settings = find_profile(profile)
codec = Codec.load(settings.codec_file, num_codebooks=settings.model.num_codebooks)
tiny = find_profile("tiny")  # the recordings, and the judge's words, are the tiny world's whatever the codec
recorded = [item for item in of_tier(read_items(tiny.data_dir / "t2a-test.parquet", tiny.model), "sentence") if item.uncoded]
Q, C = codec.num_codebooks, codec.num_codes
print(f"Mimi: {codec.sample_rate} samples a second, {codec.frame_rate} frames a second of {codec.frame_size} samples; {Q} codebooks of {C} codes")
print(f"{len(recorded)} recordings that no part of the model was trained on")

# %% [markdown]
# ## From samples to codes
#
# A language model writes one item of a finite list after the other. Sound is not like that: a microphone gives 24 000 numbers a second,
# each of them any number. A **codec** stands between the two. Its *encoder* turns sound into codes, its *decoder* turns codes into sound.
# Ours is a Mimi, of `moshi`'s own class; we rent it and leave it as it is. In the tiny world it is a small one, trained as in [appendix A1](A1_train_a_codec.ipynb), of 512 codes a codebook; Kyutai's, which `mini` rents, has 2048. This notebook opens it.

# %%
said = next(item for item in recorded if item.kind == "where")
wave = torch.from_numpy(read_uncoded(said.uncoded)[0])[None, None]  # (B, 1, samples)
display(listen(wave[0, 0], codec.sample_rate, f"the recording: {said.truth}"))
print(f"{wave.shape[-1]} samples, {wave.shape[-1] / codec.sample_rate:.2f} seconds")
predict("01.numbers", "With how many whole numbers a second does Mimi write this down?", None)

# %%
codes = codec.encode(wave)  # (B, Q, F)
print(f"codes {tuple(codes.shape)}: {codes.shape[2]} frames, {Q} codes each")
display(show_codes(codes[0], C, said.truth))
reveal("01.numbers", round(codec.frame_rate * Q), f"a second: {codec.frame_rate} frames of {Q} codes")

# %% [markdown]
# Read the picture by columns. A column is a **frame**: 80 milliseconds, 1920 samples, eight codes. A row is a **codebook**. In speech a sound like
# "ee" lasts about a frame, a "t" less. Silence has codes too.
#
# ### Where 12.5 Hz comes from
#
# The encoder is a stack of convolutions. Those with a stride of $s$ keep one position of $s$ and give it more channels: the sound gets shorter
# and wider. A small transformer lets the positions look back at each other; a last convolution halves their number.

# %%
model, x, rate, shapes = codec.model, wave[..., : 12 * codec.frame_size], codec.sample_rate, []
with torch.no_grad():
    for layer in model.encoder.model:
        before, x = x.shape[-1], layer(x)
        if x.shape[-1] < before:
            rate = rate * x.shape[-1] / before
            shapes.append((f"convolution, stride {before // x.shape[-1]}", tuple(x.shape), rate))
    shapes.append(("convolution, stride 1", tuple(x.shape), rate))
    (x,) = model.encoder_transformer(x)
    shapes.append(("transformer", tuple(x.shape), rate))
    before, x = x.shape[-1], model.downsample(x)
    shapes.append((f"convolution, stride {before // x.shape[-1]}", tuple(x.shape), rate * x.shape[-1] / before))
print(f"{'the sound':24} {(1, 1, 12 * codec.frame_size)!s:16} {codec.sample_rate:8.1f} Hz")
for name, shape, hertz in shapes:
    print(f"{name:24} {shape!s:16} {hertz:8.1f} Hz")

# %% [markdown]
# $4 \cdot 5 \cdot 6 \cdot 8 \cdot 2 = 1920$ samples become one vector, the **latent** of the frame. All of this is *causal*: no position sees a
# later one, which notebook 09 lives on.
#
# **Not to be confused.** "12.5 Hz" is no sampling rate of the sound, and so it does not limit which pitches can be said. A frame's codes can describe
# a whistle at 8 kHz as well as a hum at 100 Hz. What 12.5 Hz limits is how often the *description* may change.

# %% [markdown]
# ## One step: the nearest entry
#
# A latent is a vector of real numbers. To make a whole number of it, keep a table of $C$ vectors, the **codebook**
# $e_0, \dots, e_{C-1}$, and write down which entry is nearest:
#
# $$c = \arg\min_j \lVert x - e_j \rVert, \qquad r = x - e_c .$$
#
# The code $c$ is all that is kept. The **residual** $r$ is what this step could not say.

# %% [markdown]
# ## Exercise: the nearest entry
#
# *Exercise 01.nearest · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("01.nearest")`*
#
# Give each of $N$ vectors its code, and what the code leaves.

# %%
@exercise("01.nearest")
def nearest(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, D), codebook (C, D) ->
    codes (N,), int64, of the nearest entries, and what they leave (N, D).
    """
    ### BEGIN SOLUTION
    distances = torch.cdist(x, codebook)  # (N, C)
    codes = distances.argmin(dim=1)
    return codes, x - codebook[codes]
    ### END SOLUTION


# %%
check("01.nearest")

# %% [markdown]
# ### Seen in the plane
#
# To see it, take the latents of some sentences and keep the two directions in which they differ most. Where do the entries of a table
# come from? From k-means: put each entry in the middle of the points that chose it, let the points choose anew, and repeat. This is
# how moshi starts its codebooks before they are trained on.

# %%
from moshi.quantization.core_vq import _run_kmeans


def frame_latents(item) -> tuple[Tensor, Tensor]:
    """A recording's latents (F, D), and which of its frames are quiet (F,): 40 decibels below its loudest one, or more."""
    samples = torch.from_numpy(read_uncoded(item.uncoded)[0])
    found = codec.latents(samples[None, None])[0].T
    filled = torch.nn.functional.pad(samples, (0, len(found) * codec.frame_size - len(samples)))
    power = filled.view(-1, codec.frame_size).square().mean(dim=1)
    return found, power < 1e-4 * power.max()


some = spread_voices(recorded, 4 if budget == "smoke" else 16)
latents, quiet = (torch.cat(each) for each in zip(*[frame_latents(item) for item in tqdm(some, desc="latents")]))  # (N, D), (N,)
centred = latents - latents.mean(dim=0)
plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T  # (N, 2): the two widest directions
plane = plane / plane.std()
torch.manual_seed(0)
left, tables, seen = plane, [], []
for _ in range(3):
    table, _ = _run_kmeans(left, 8)
    seen.append((left, table))
    tables.append(table)
    _, left = nearest(left, table)
tables = torch.stack(tables)  # (3 tables, 8 entries, 2)


def show_steps(steps: list[tuple[Tensor, Tensor]], quiet: Tensor):
    """For each step the points (quiet ones blue), the entries, and which region of the plane belongs to which entry."""
    widest = reach = float(steps[0][0].abs().quantile(0.995)) * 1.1
    with drawing(3.0 * len(steps), 3.4) as figure:
        for number, (axes, (points, table)) in enumerate(zip(figure.subplots(1, len(steps)), steps)):
            reach = float(points.abs().quantile(0.995)) * 1.1
            line = torch.linspace(-reach, reach, 200)
            everywhere = torch.cartesian_prod(line, line)
            regions = nearest(everywhere, table)[0].view(200, 200).T
            axes.imshow(regions, origin="lower", extent=(-reach, reach) * 2, cmap="Pastel1", interpolation="nearest")
            axes.scatter(*points[~quiet].T, s=3, color=INK, alpha=0.25, linewidths=0)
            axes.scatter(*points[quiet].T, s=4, color=BLUE, alpha=0.5, linewidths=0)
            axes.scatter(*table.T, s=28, color=RED, edgecolors="white", linewidths=0.8)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
            axes.set_title(f"step {number}: " + ("the latents" if number == 0 else f"what is left, {widest / reach:.1f} times magnified"))
            axes.grid(False)
        return finish(
            figure,
            f"{len(steps)} panels: points in the plane, 8 entries each (red) and their regions; what is left after a step lies around zero "
            "and gets smaller from step to step. Quiet frames (blue) lie close together.",
        )


display(show_steps(seen, quiet))
inside = (plane - plane[quiet].median(dim=0).values).norm(dim=1) < 0.25
print(f"{int(quiet.sum())} of {len(quiet)} frames are quiet (blue): 40 decibels below their sentence's loudest, or more")
print(f"{int((inside & quiet).sum())} of these, and {int((inside & ~quiet).sum())} others, lie within a quarter of a deviation of their middle")

# %% [markdown]
# Left: each region is the part of the plane that gets the same code, and the red dot is what a decoder would put in its place. The dense knot
# is made of quiet frames (blue): silence sounds alike wherever it stands. Middle: the
# residuals of all regions, laid on top of each other. The cloud is smaller (mind the scale), and it lies around zero. A second table of eight entries, made for
# *this* cloud, says where in its region a point lies. Right: once more.
#
# Three tables of eight entries are 24 vectors to store. But a point now gets one of $8 \cdot 8 \cdot 8 = 512$ triples. Is that better than *one* table with 24 entries?

# %%
predict(
    "01.tables",
    "Mean squared error: one table of 24 entries, or three of 8 in a row. "
    "By what factor are the three better?",
    None,
)

# %%
torch.manual_seed(0)
one, _ = _run_kmeans(plane, 24)
error_of_one = float(nearest(plane, one)[1].square().sum(dim=1).mean())
error_of_three = float(left.square().sum(dim=1).mean())
print(f"one table of 24: {error_of_one:.4f}; three of 8: {error_of_three:.4f}")
reveal("01.tables", round(error_of_one / error_of_three, 1), "times less error with the three")

# %% [markdown]
# ## Exercise: residual quantisation
#
# *Exercise 01.residual · difficulty ●●○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("01.residual")`*
#
# Now all steps. Each codebook quantises what the ones before it have left:
#
# $$r_0 = x, \qquad c_k = \arg\min_j \lVert r_k - e_{k,j} \rVert, \qquad r_{k+1} = r_k - e_{k,c_k} .$$

# %%
@exercise("01.residual")
def residual_codes(x: Tensor, codebooks: Tensor) -> Tensor:
    """x (N, D), codebooks (Q, C, D) -> codes (Q, N), int64:
    codebook k quantises what codebooks 0 to k - 1 have left.
    """
    ### BEGIN SOLUTION
    codes = []
    for codebook in codebooks:
        found, x = nearest(x, codebook)
        codes.append(found)
    return torch.stack(codes)
    ### END SOLUTION


# %%
check("01.residual")

# %% [markdown]
# ## Exercise: the way back
#
# *Exercise 01.sum · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("01.sum")`*
#
# The decoder has the codes and the same tables. Unfold the formula above: $x = e_{0,c_0} + e_{1,c_1} + \dots + r_Q$. So the way back is a sum, and
# $r_Q$ is the error. A decoder that gets only the first $q$ rows of codes sums only those.

# %%
@exercise("01.sum")
def sum_entries(codes: Tensor, codebooks: Tensor) -> Tensor:
    """codes (q, F), q <= Q, codebooks (Q, C, D) -> (F, D):
    for each frame the sum of the entries that its codes name.
    """
    ### BEGIN SOLUTION
    return sum(codebook[row] for codebook, row in zip(codebooks, codes))
    ### END SOLUTION


# %%
check("01.sum")

# %%
grid = residual_codes(plane, tables)
for q in range(1, 4):
    error = float((plane - sum_entries(grid[:q], tables)).square().sum(dim=1).mean())
    print(f"{q} of 3 codebooks: {8**q:3} places in the plane, mean squared error {error:.4f}")

# %% [markdown]
# ## Mimi's own codes, by hand
#
# Mimi has one peculiarity. Its codebooks do not form one chain but **two**, side by side on the same latent. Codebook 0 has a chain of its own,
# with its own projections; codebooks 1 to 7 are the other. Their outputs are added:
#
# $$\hat{x} = W_0^{\text{out}} e_{0,c_0} + W_1^{\text{out}} (e_{1,c_1} + \dots + e_{7,c_7}), \qquad e_{0,\cdot} \text{ chosen near } W_0^{\text{in}} x, \quad e_{1,\cdot} \text{ near } W_1^{\text{in}} x .$$
#
# The reason is a division of labour. Codebook 0 is trained to carry *what* is said: in Moshi's Mimi it is taught by a model of speech that knows
# nothing of sound quality (WavLM), in the tiny one by having to predict letters. Were it the first of one chain, it would also have to be the best first step for the sound.

# %%
first, rest = codec.quantisers()
for name, part in (("codebook 0", first), (f"codebooks 1 to {Q - 1}", rest)):
    print(f"{name:18} in {tuple(part.project_in.shape)}, codebooks {tuple(part.codebooks.shape)}, out {tuple(part.project_out.shape)}")
latent = codec.latents(wave)[0]  # (D, F)
mine = torch.cat([residual_codes((part.project_in @ latent).T, part.codebooks) for part in (first, rest)])  # (Q, F)
print(f"{int((mine == codes[0]).sum())} of {mine.numel()} codes are Mimi's own")

# %% [markdown]
# The same codes, from two matrices, eight tables and your loop. And the way back:

# %%
with torch.no_grad():
    by_hand = first.project_out @ sum_entries(mine[:1], first.codebooks).T + rest.project_out @ sum_entries(mine[1:], rest.codebooks).T  # (D, F)
    by_mimi = codec.model.decode_latent(codes)[0]
print(f"{tuple(by_hand.shape)}, largest difference to Mimi's own {float((by_hand - by_mimi).abs().max()):.1e}")

# %% [markdown]
# How much does each step of the long chain take away? Measured over all latents from above, as a share of their variance:

# %%
left = latents @ rest.project_in.T  # (N, d)
variance = (left - left.mean(dim=0)).square().sum()
remaining = [1.0]
for table in rest.codebooks:
    _, left = nearest(left, table)
    remaining.append(float(left.square().sum() / variance))
for k, share in enumerate(remaining):
    print(f"after {k} of {Q - 1} codebooks {100 * share:6.2f} % are left")
with drawing(5.4, 2.2) as figure:
    axes = figure.add_subplot()
    axes.plot(range(Q), [100 * share for share in remaining], "o-", color=BLUE, linewidth=0.8)
    axes.set(xlabel="codebooks of the second chain in use", ylabel="percent left", yscale="log")
    axes.set_xticks(range(Q), ["none", *(f"1–{k}" if k > 1 else "1" for k in range(1, Q))])
    axes.yaxis.set_major_formatter("{x:g}")
    picture = finish(
        figure,
        "Dots on a logarithmic scale: what is left of the latents after 0 to 7 codebooks of the second chain; each step takes less than the one before.",
    )
display(picture)

# %% [markdown]
# Mind the scale: each step takes a share of what is left, and so less and less. That is the shape of every residual quantiser, and the reason why the Talker's loss may weigh
# the first codebooks more. (That the first one takes so much is no accident. In training the encoder is pulled towards the entries, so that there is little to lose.) It also means: what the last codebooks hold is fine detail, much like noise and hard to predict.
#
# In moshi the choice of the entry is these lines; what is left over is taken off in the loop around them:

# %%
import inspect

from moshi.quantization.core_vq import EuclideanCodebook

print(inspect.getsource(EuclideanCodebook._quantize))

# %% [markdown]
# ## Hear it
#
# A decoder that gets fewer rows sums fewer entries. So one stream of codes is eight streams of different quality: cut off rows from below.
# First the recording once more, then one to eight codebooks. The spectrograms of 1, 2, 4 and 8 are shown; under all players a number says how far
# the spectrogram is from the recording's, in decibels on average.

# %%
def books(count: int) -> str:
    """How many codebooks, in words."""
    return f"{count} codebook" + "s" * (count != 1)


display(listen(wave[0, 0], codec.sample_rate, f"the recording: {said.truth}"))
levels = mel_spectrogram(wave[0, 0].numpy(), codec.sample_rate)  # (bands, T), decibels below the loudest
for q in range(1, Q + 1):
    again = codec.decode(codes[:, :q])[0, 0, : wave.shape[-1]].numpy()
    away = abs(mel_spectrogram(again, codec.sample_rate) - levels).mean()
    caption = f"{books(q)} of {Q}: {away:.1f} decibels from the recording"
    display(listen(again, codec.sample_rate, caption, picture=q in (1, 2, 4, Q)))

# %% [markdown]
# Codebook 0 alone is a murmur: its chain was never meant to sound. Codebook 1 brings the voice, for it is the first of the long chain. What the later
# ones bring is small: the spectrograms of 2, 4 and 8 look the same to the eye, and the figures say how little is gained. What all eight leave is the last figure.
# This decoder was taught not to lean on the later ones: a Talker seldom predicts them right ([A1](A1_train_a_codec.ipynb)).
#
# ### A judge with a number
#
# Let somebody else write down what is said. The **judge** is pocketsphinx, a recogniser by other people that knows the words of the tiny world and
# nothing else of it. Its *word error rate* (WER) counts words wrong, missing and too many, per word that was said. It makes mistakes on perfect
# speech too: that is its **floor**, and no figure of it means anything without.

# %%
pairs = spread_voices(recorded, 3 if budget == "smoke" else 20)  # each sentence in two voices, one after the other
clips = [pairs[2 * number + number % 2] for number in range(len(pairs) // 2)]  # each sentence once, voices in turn
judge = Judge.from_file(tiny.data_dir / "words.txt")
truths = [item.truth for item in clips]
waves = [torch.from_numpy(read_uncoded(item.uncoded)[0]) for item in clips]


def ask_judge(group) -> list[str]:
    """What the judge hears in sounds (n,)."""
    return judge.transcribe([(each, codec.sample_rate) for each in group], workers=1)


heard = {"floor": ask_judge([each.numpy() for each in waves])}
floor = word_errors(truths, heard["floor"])
print(f"{len(clips)} sentences, uncoded: WER {100 * floor.wer:.0f} %, 95 % interval {100 * floor.interval()[0]:.0f} to {100 * floor.interval()[1]:.0f}")
predict(
    "01.wer",
    f"The same sentences with {4 if budget == 'full' else Q} codebooks: what is the judge's WER, in percent?",
    None,
)

# %%
coded = [codec.encode(each[None, None]) for each in tqdm(waves, desc="encoding")]
counts = (1, Q) if budget == "smoke" else (1, 2, 3, 4, Q)
decoded = {q: [codec.decode(each[:, :q])[0, 0].numpy() for each in coded] for q in tqdm({*counts, 2}, desc="decoding")}
heard |= {q: ask_judge(decoded[q]) for q in tqdm(counts, desc="listening")}
errors = {name: word_errors(truths, texts) for name, texts in heard.items()}
with drawing(5.4, 2.2) as figure:
    axes = figure.add_subplot()
    low, high = errors["floor"].interval()
    axes.axhspan(100 * low, 100 * high, color=GREEN, alpha=0.15, linewidth=0)
    axes.axhline(100 * errors["floor"].wer, color=GREEN, label="uncoded: the judge's floor")
    for q in counts:
        low, high = errors[q].interval()
        axes.plot([q, q], [100 * low, 100 * high], color=INK, linewidth=1)
    axes.plot(counts, [100 * errors[q].wer for q in counts], "o-", color=BLUE, label="through the codec")
    axes.set(xlabel="codebooks", ylabel="WER, percent", xticks=range(1, Q + 1), ylim=(0, None))
    axes.legend()
    figures = ", ".join(f"{q}: {100 * errors[q].wer:.0f} %" for q in counts)
    picture = finish(figure, f"The judge's WER by number of codebooks: {figures}; floor {100 * errors['floor'].wer:.0f} %.")
display(picture)
for name, each in errors.items():
    low, high = each.interval()
    print(f"{name if name == 'floor' else books(name):12} WER {100 * each.wer:5.1f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f}")
reveal("01.wer", round(100 * errors[4 if 4 in errors else Q].wer), "percent")

# %% [markdown]
# Two things to take from this. Intelligibility is nearly all there after a few codebooks. The judge counts words and knows nothing of how pleasant a sound is: *words and sound quality are
# different things*, and whether you hear the rest is asked below. And twenty sentences are few: look at the intervals before you believe a difference. A point below the floor does not mean that the codec makes speech clearer: where the intervals overlap, it may be chance. (`data/tiny/figures/codec.json` has more
# sentences; it is written by `python -m mmo.world.measure_codec`.)
#
# ## Hear it, with a number of your own
#
# "I can hear the difference" is a claim, and there is a test for it. **ABX**: you may play A, the coarse version, and B, the full one, as often as you like. Then X,
# which is one of the two. Which? Who hears nothing is right half of the time, so your score stands beside the chance of getting it with a coin. All sounds
# are brought to the same loudness. Use headphones if you have some; eight trials take three minutes. Change `few` and find where you begin to fail.

# %%
few = 2
others = spread_voices([item for item in recorded if item.truth not in set(truths)], 4)
originals = [codec.encode(torch.from_numpy(read_uncoded(item.uncoded)[0])[None, None]) for item in others]
coarse, fine = ([codec.decode(each[:, :q])[0, 0].numpy() for each in originals] for q in (few, Q))
abx(f"01.abx{few}", coarse, fine, codec.sample_rate, names=(books(few), books(Q)), texts=[item.truth for item in others])

# %% [markdown]
# And the other question: not whether it sounds different, but whether it can be *understood*. Here are the sentences from above with two codebooks. Write down
# what you hear; your WER is set beside the judge's on the same clips. You may stop after a few. Be fair to the judge: it thinks any word may follow
# any other, while you soon know what sentences of this world are like.

# %%
hears = heard[2] if 2 in heard else ask_judge(decoded[2])
print(textwrap.fill("Words of this world: " + ", ".join(judge.words), 94))
dictation("01.dictation", decoded[2], truths, codec.sample_rate, heard=hears)

# %% [markdown]
# ## Which codebook carries the words?
#
# Take one codebook, shuffle its codes in time, and leave the other seven as they are. What it said and no other one says is lost, and something false is said in its place.
# Codebook 0 is the one that was taught the words. **Predict**:

# %%
predict(
    "01.worst",
    "Which codebook, shuffled in time, costs the most words: its number?",
    None,
)

# %%
group = range(3 if budget == "smoke" else 10)
tried = (0, 1, Q - 1) if budget == "smoke" else tuple(range(Q))
cost = {}
for k in tqdm(tried, desc="codebooks"):
    shuffled = []
    for number in group:
        changed = coded[number].clone()
        order = torch.randperm(changed.shape[2], generator=torch.Generator().manual_seed(number))
        changed[:, k] = changed[:, k, order]
        shuffled.append(codec.decode(changed)[0, 0].numpy())
    cost[k] = word_errors([truths[number] for number in group], ask_judge(shuffled)).wer
whole = word_errors([truths[number] for number in group], [heard[Q][number] for number in group]).wer
with drawing(5.4, 1.9) as figure:
    axes = figure.add_subplot()
    axes.bar(list(cost), [100 * each for each in cost.values()], color=BLUE, width=0.7)
    axes.axhline(100 * whole, color=GREEN, label="nothing shuffled")
    axes.set(xlabel="the codebook that is shuffled", ylabel="WER, percent", xticks=range(Q))
    axes.legend(loc="upper right", fontsize=9)
    axes.grid(False, axis="x")
    figures = ", ".join(f"{k}: {100 * each:.0f} %" for k, each in cost.items())
    picture = finish(figure, f"The judge's WER with one codebook shuffled: {figures}; none: {100 * whole:.0f} %.")
display(picture)
reveal("01.worst", max(cost, key=cost.get), f"({100 * max(cost.values()):.0f} % WER; codebook 0 costs {100 * cost[0]:.0f} %, none {100 * whole:.0f} %)")

# %% [markdown]
# The long chain looks at the whole latent, words included, and its first step is a large one. So the *decoder* takes much of what it needs from codebook 1. That codebook 0 was taught the words helps
# somebody else: the *model* that has to predict codes, and finds in codebook 0 a stream that follows the words closely. From codebook 2 on you may shuffle nearly unpunished, as far as words go (a bar below the green line is chance: these are ten sentences; one above 100 % means that the judge heard words too many, too).

# %% [markdown]
# ## Codes are names, not numbers
#
# A code looks like a number. **Predict**, in a word: what do you hear if every code is raised by one, 17 to 18, 240 to 241? *The same*, a *higher* voice,
# or *nothing* that could be understood?

# %%
predict("01.shift", "Every code raised by one: 'same', 'higher' or 'nothing'?", None)

# %%
shifted = codec.decode((codes + 1) % C)[0, 0]
display(listen(shifted, codec.sample_rate, f"every code raised by one; it was: {said.truth}"))
understood = ask_judge([shifted.numpy()])
lost = word_errors([said.truth], understood).wer
print(f"the judge hears: {understood[0] or 'no word'} (WER {100 * lost:.0f} %)")
neighbours = (rest.codebooks[0][1:] - rest.codebooks[0][:-1]).norm(dim=1).mean()
strangers = torch.pdist(rest.codebooks[0]).mean()
print(f"mean distance of entries with neighbouring numbers {neighbours:.2f}, of any two entries {strangers:.2f}")
reveal("01.shift", "nothing" if lost > 0.6 else "some of it", "that could be understood" if lost > 0.6 else "")

# %% [markdown]
# Entry 18 is no nearer to entry 17 than to any other. So the model that writes codes must not treat them as numbers: no rounding, no averaging, no
# loss that counts how far off a code is. It treats them as a language model treats words: an embedding for each, a softmax over all, cross-entropy.

# %% [markdown]
# ## What does it cost?
#
# *How many bits a second?* Before you calculate: sound as a CD has it, but with one channel and 24 000 samples of 16 bits, takes 384 000.

# %%
predict(
    "01.ratio",
    "By what factor is Mimi's stream (8 codebooks of 2048 codes) "
    "smaller than 16-bit samples at 24 kHz?",
    None,
)

# %% [markdown]
# ## Exercise: bits a second
#
# *Exercise 01.bitrate · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("01.bitrate")`*
#
# One code out of $C$ is worth as many bits as it takes to tell $C$ things apart, which need not be a whole number. How many bits is a second of codes?

# %%
@exercise("01.bitrate")
def bit_rate(frame_rate: float, codebooks: int, codes: int) -> float:
    """Frames a second, codes a frame, and of how many codes each is one -> bits a second."""
    ### BEGIN SOLUTION
    return frame_rate * codebooks * math.log2(codes)
    ### END SOLUTION


# %%
check("01.bitrate")

# %%
seconds = sum(len(each) for each in waves) / codec.sample_rate
spoken = sum(len(truth.split()) for truth in truths) / seconds  # words a second
costs = {
    "16-bit samples at 24 kHz": 16.0 * 24_000,
    "these recordings as shipped (Opus)": 8 * sum(len(item.uncoded) for item in clips) / seconds,
    "Mimi, all its 32 codebooks": bit_rate(12.5, 32, 2048),
    "Mimi, 8 codebooks": bit_rate(12.5, 8, 2048),
    f"this codec, {Q} codebooks of {C}": bit_rate(codec.frame_rate, Q, C),
    f"this codec, {books(few)}": bit_rate(codec.frame_rate, few, C),
    f"the words alone, one of {len(judge.words)} each": spoken * math.log2(len(judge.words)),
}
for name, bits in costs.items():
    print(f"{name:40} {bits:9.0f} bits a second")
with drawing(7.2, 2.2) as figure:
    axes = figure.add_subplot()
    axes.barh(list(costs), list(costs.values()), color=[BLUE] * 2 + [ORANGE] * 4 + [GREEN], height=0.6)
    axes.set(xscale="log", xlabel="bits a second (each line is ten times the one before)", xlim=(5, 1e6))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    picture = finish(figure, "Bar chart on a logarithmic scale: samples, Opus, Mimi with 32 and 8 codebooks, the tiny codec, the words alone.")
display(picture)
reveal("01.ratio", round(16 * 24_000 / bit_rate(12.5, 8, 2048)), "times smaller")

# %% [markdown]
# Blue is sound as samples or Opus, orange the codes of Mimi and of the tiny codec, green the words. Between the codec and the words alone there is still a gap of one or two orders of magnitude: the voice, its melody, the room. A model that speaks must come up with
# all of that, not only with the words.
#
# **Not to be confused.** A low bit rate is not low latency. Mimi's 1.1 kbit/s come from the codebooks; how long one waits comes from the frame (80 ms),
# from causality, and from the model that writes the codes (notebook 09).

# %% [markdown]
# ## Are all codes used?
#
# The bit rate assumes that all $C$ codes are equally frequent. They are not. If code $j$ has the share $p_j$, a code really carries the entropy
# $H = -\sum_j p_j \log p_j$, and the **perplexity** $e^H$ says how many equally frequent codes would carry as much: the number of codes *in use*.
# It is $C$ at best, and 1 where always the same code is chosen (a *collapsed* codebook, the commonest disease of training a codec).

# %%
predict(
    "01.use",
    f"Of codebook 0's {C} codes: how many are in use, in the sense of perplexity?",
    None,
)

# %% [markdown]
# ## Exercise: codes in use
#
# *Exercise 01.perplexity · difficulty ●●○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("01.perplexity")`*
#
# The shares $p_j$ are counted from the codes given. A code that never occurs adds nothing: $0 \log 0$ counts as 0.

# %%
@exercise("01.perplexity")
def perplexity(codes: Tensor, num_codes: int) -> float:
    """codes (N,), each in 0 .. num_codes - 1 -> exp of the entropy of their shares."""
    ### BEGIN SOLUTION
    shares = torch.bincount(codes, minlength=num_codes) / len(codes)
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))
    ### END SOLUTION


# %%
check("01.perplexity")

# %%
from mmo.rows import open_rows
from mmo.sequence import frames

rows = open_rows(settings.data_dir / settings.stages["t2a"][0].data[0], settings.model, settings.cache_dir())
many = range(0, len(rows), max(1, len(rows) // (200 if budget == "smoke" else 3000)))
training = torch.cat([frames(rows[number].answers[-1], Q) for number in many], dim=1)  # (Q, F)
in_use = [perplexity(training[k], C) for k in range(Q)]
print(f"{training.shape[1]} frames, {training.shape[1] / codec.frame_rate / 60:.0f} minutes of speech")
for k, number in enumerate(in_use):
    print(f"codebook {k}: {number:5.0f} of {C} codes in use, {math.log2(number):.2f} of {math.log2(C):.0f} bits; ln {math.log(number):.2f}")
with drawing(7.2, 2.3) as figure:
    left_axes, right_axes = figure.subplots(1, 2)
    left_axes.bar(range(Q), in_use, color=BLUE, width=0.7)
    left_axes.axhline(C, color=INK, linewidth=1)
    left_axes.text(-0.4, 1.03 * C, f"all {C}, were they equally frequent", fontsize=9)
    left_axes.set(xlabel="codebook", ylabel="codes in use", xticks=range(Q), ylim=(0, 1.25 * C))
    for k, colour in ((0, RED), (Q - 1, BLUE)):
        right_axes.plot(torch.bincount(training[k], minlength=C).sort(descending=True).values / training.shape[1] * 100, color=colour, label=f"codebook {k}")
    right_axes.set(xlabel="codes, commonest first", ylabel="percent of frames", yscale="log")
    right_axes.legend()
    picture = finish(
        figure,
        f"Left: codes in use by codebook, {in_use[0]:.0f} to {in_use[-1]:.0f} of {C}. "
        "Right: how often each code occurs in the first and the last codebook, commonest first.",
    )
display(picture)
reveal("01.use", round(in_use[0]), f"of {C}")

# %% [markdown]
# Keep the last column in mind for notebook 10. The Talker's loss is a cross-entropy in nats. One that knows nothing at all begins at the logarithm of its whole vocabulary; one that has
# learnt *how frequent* codes are, and nothing else, stands at $\ln$ of the perplexity. Only what it gains below that has to do with speech.
#
# ### The same in the package
#
# You wrote `bit_rate` and `perplexity` as `mmo/codec.py` has them. The rest of that file loads Mimi, checks what goes in and comes out, and streams:

# %%
from mmo import codec as module

print(inspect.getsource(module.bit_rate))
print(inspect.getsource(module.perplexity))
print(inspect.getsource(Codec.encode))

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("01")

# %% [markdown]
# ## Summary
#
# - Mimi turns 1920 samples, 80 ms, into one latent, and the latent into eight codes: 12.5 Hz × 8 codebooks, a hundred numbers a second.
# - A code names the nearest entry of a table. Residual quantisation puts tables in a row: each one quantises what is left. The way back is a sum.
# - $Q$ tables of $C$ entries cost $Q \cdot C$ vectors and reach $C^Q$ places: $8 \cdot 2048$ vectors, $2^{88}$ places.
# - Codebook 0 stands apart in Mimi and is taught the words; for the ear the first of the long chain counts at least as much. A few codebooks are enough to be understood; what the others add is for your ears to say.
# - Codes are names. $12.5 \cdot 8 \cdot \log_2 2048 = 1100$ bits a second at most (the tiny codec's nine bits a code: 900); perplexity says how much of that is used.
#
# **Often mistaken.** *"The words are in codebook 0."* Not only there: shuffle it and see. *"Codebook 1 refines codebook 0."* In Mimi it does not see it: both look at the latent. From codebook 2 on it is true. *"Each codebook is a frequency band."* None is;
# each moves the whole latent. *"With half the codebooks half the words are gone."* Look at the curve. *"The codec understands speech."* It only finds it again: it codes
# a foreign language, a cough or a song as willingly, as far as its training reached.
#
# **To try.** Change `few`: from which number on is your score luck? Decode with codebook 0 of one sentence and codebooks 1 to 7 of another of the same length: whose words do
# you hear? Encode, decode, and encode again: how many codes stay the same, and does it settle? Quantise the plane with 2 × 32 and 4 × 6 entries (64 and 24 vectors): which is better, and why?
#
# **Where to read on.** In this course: `mmo/codec.py`; [notebook 07](07_sequence_and_delay.ipynb), where the eight rows become a sequence. How such a codec is trained (a straight line through
# the argmin, running averages, codes that died and are brought back) is appendix A1. Papers:
#
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024, [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). Section 3.3 is Mimi.
# - N. Zeghidour, A. Luebs, A. Omran, J. Skoglund, M. Tagliasacchi: *SoundStream: An End-to-End Neural Audio Codec.* 2021, [arXiv:2107.03312](https://arxiv.org/abs/2107.03312). Residual quantisation in a neural codec; dropping codebooks in training.
# - A. Défossez, J. Copet, G. Synnaeve, Y. Adi: *High Fidelity Neural Audio Compression.* 2022, [arXiv:2210.13438](https://arxiv.org/abs/2210.13438). EnCodec.
# - A. van den Oord, O. Vinyals, K. Kavukcuoglu: *Neural Discrete Representation Learning.* 2017, [arXiv:1711.00937](https://arxiv.org/abs/1711.00937). VQ-VAE: how to learn through an argmin.
# - B.-H. Juang, A. H. Gray: *Multiple stage vector quantization for speech coding.* ICASSP 1982. The idea, forty years earlier.
# - W. A. Munson, M. B. Gardner: *Standardizing auditory tests.* Journal of the Acoustical Society of America 22, 1950. ABX.
