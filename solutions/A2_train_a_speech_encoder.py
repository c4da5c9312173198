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
# # A2 · Train a speech encoder
#
# *Takes 60 minutes (tiny) · runs in 163 s on one core (tiny) · builds on nothing before it · 3 exercises, 9 points*
#
# **At the end** you have trained a small SenseVoice that writes down spoken questions, and seen how it gets there: first it says nothing at all, then the most frequent words, then sentences. You have written the loss that needs
# no alignment, the decoding that goes with it, and you know how much worse it hears a voice that it has never met.
#
# **You need** logarithms of probabilities, and from the course only this: a *speech encoder* turns sound into one vector every 60 ms. Ours writes: a linear map on top gives for each vector a score for every word of the tiny world.
#
# **The claim.** Nobody has to say when each word was spoken. Add up *all* the ways to lay the words over the sound, and the gradient finds out. What it then hears depends on what it was made to hear: with few voices, on how well
# they were disguised.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few steps of a small encoder, so that every cell runs

# %%
import json
import time
from math import comb
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mmo.augmentation import augment
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import Curves, drawing, finish, listen
from mmo.measures import word_errors
from mmo.profiles import profile as find_profile
from mmo.speech_encoder import SpeechEncoder
from mmo.world import shipped
from mmo.world.train_speech_encoder import HEARING, SAMPLE_RATE, Recipe, Trainer, log_mel, make_clip, token_list

settings = find_profile("tiny")  # this appendix is about the tiny world's ear, whatever the profile
smoke = budget == "smoke"

# %% [markdown]
# ## What there is to hear
#
# The spoken questions of the repository, one recording a row. Every thirtieth row is kept back: recordings never heard, but of voices that were. From the test file come two voices
# that are in no training at all, yours or the shipped encoder's.

# %%
questions = list(tqdm(shipped.questions(settings.data_dir, "train"), desc="unpacking", unit="clip"))
clips = [make_clip(each.samples, each.rate, each.voice, each.text) for each in questions]
known, training = clips[::30], [each for number, each in enumerate(clips) if number % 30]
strangers = [make_clip(each.samples, each.rate, each.voice, each.text) for each in shipped.questions(settings.data_dir, "test") if each.tier == "sentence"][:120]
if smoke:
    training, known, strangers = training[:300], known[:6], strangers[:6]
tokens = token_list()
print(f"{len(training)} clips to train on, {sum(each.seconds for each in training) / 60:.0f} minutes, {len({each.voice for each in training})} voices")
print(f"held out: {len(known)} clips of the same voices, {len(strangers)} of {', '.join(sorted({each.voice for each in strangers}))}")
print(f"{len(tokens)} tokens: {', '.join(tokens[:3])}, then words, from {tokens[3]} to {tokens[-2]}")

# %% [markdown]
# ## Few voices, disguised
#
# Many as they are, these voices are variants of a few: a handful of synthesisers, at several pitches and in mixtures of two. An encoder could learn them by heart. So a clip is mostly heard another way each time. It is played faster or slower, sent through another microphone and another room, noise is added; the axis of pitches is
# stretched, as if by a longer or shorter throat. And parts of the spectrogram are hidden, so that a word is not known by one of its features alone.
#
# ## Exercise: hiding what is heard
#
# *Exercise A2.hide · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("A2.hide")`*
#
# Set some mel bins (bands) and some stretches of time (gaps) to the mean of the whole. In the logarithms of a spectrogram zero is no silence; the mean is what tells least.

# %%
@exercise("A2.hide")
def hide(frames: Tensor, bands: list[tuple[int, int]], gaps: list[tuple[int, int]]) -> Tensor:
    """frames (T, M) log-mel; bands and gaps as (start, width)
    -> a copy with both set to the mean of `frames`."""
    ### BEGIN SOLUTION
    hidden = frames.clone()
    middle = frames.mean()
    for start, width in bands:
        hidden[:, start : start + width] = middle
    for start, width in gaps:
        hidden[start : start + width] = middle
    return hidden
    ### END SOLUTION


# %%
check("A2.hide")

# %% [markdown]
# One question: as it is, disguised twice, and with bands and gaps hidden. The transcript is the same each time, and that is the lesson. Stretching the axis of pitches (*warping*) is done to the spectrogram:
# you see it in the pictures of the disguised ones (the factor is in their titles), and do not hear it in the sounds.

# %%
clip = known[0]
disguised = [augment(clip.wave(), np.random.default_rng(seed), HEARING, SAMPLE_RATE, clip.rate) for seed in (3, 7)]
pictures = {"as it is": log_mel(torch.from_numpy(clip.wave()))}
for number, (each, warp) in enumerate(zip(disguised, (0.88, 1.15)), 1):
    pictures[f"disguised, {number}, warped by {warp}"] = log_mel(torch.from_numpy(each), warp)
pictures["bands and gaps hidden"] = hide(pictures["as it is"], [(12, 9), (50, 12)], [(30, 10), (90, 8)])
with drawing(9.0, 3.2) as figure:
    for axes, (name, frames) in zip(figure.subplots(2, 2).ravel(), pictures.items()):
        axes.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
        axes.grid(False)
        axes.set_title(f"{name}: {tuple(frames.shape)}")
        axes.set(ylabel="mel bin", xlabel="10 ms frames")
    picture = finish(figure, f"Four log-mel spectrograms of the question '{clip.spoken}': as it is, disguised twice, and with hidden bars.")
display(picture)
display(listen(clip.wave(), clip.rate, f"as it is: {clip.spoken}"))
for number, each in enumerate(disguised, 1):
    display(listen(each, SAMPLE_RATE, f"disguised, {number} (not warped): {clip.spoken}"))

# %% [markdown]
# Frames come every 10 ms. As in notebook 02's encoder, seven of them are stacked and every sixth stack is kept: $(T, 80) \to (N, 560)$ with $N \approx T/6$, one every 60 ms.
#
# ## All the ways to write it
#
# A question of two seconds gives $N = 33$ vectors and has five words. Which vector belongs to which word? Nobody has written that down. CTC (Graves and others, 2006) lets the network write one token for each vector, a word or a **blank**
# (token 0, "nothing new"). Then neighbours that are equal are merged and blanks dropped:
#
#     blank what what blank is blank blank two     ->  what is two
#     what  is   is   blank blank two two  blank   ->  what is two
#
# Many rows of tokens give the same words. The probability of the words is the sum over all of them, and the loss is minus its logarithm. **Predict:** five different words, 33 vectors: how many rows are there?

# %%
predict("A2.ways", mine=None, question="How many ways are there to write five different words into 33 places?")

# %%
reveal("A2.ways", comb(33 + 5, 2 * 5), f"ways ({comb(38, 10) / 1e6:.0f} million); in general N + U choose 2 U, if no word follows itself")

# %% [markdown]
# Nobody adds up so many one by one. Put blanks around the words: $\ell = (\varnothing, w_1, \varnothing, w_2, \varnothing, \dots, w_U, \varnothing)$, $2U + 1$ states. Let $\alpha_n(s)$ be the probability of all ways that stand in state $s$ at vector $n$. Into state $s$ one comes
# from $s$ itself, from $s - 1$, and from $s - 2$ if that skips a blank between two *different* words:
#
# $$\alpha_n(s) = \big[\alpha_{n-1}(s) + \alpha_{n-1}(s-1) + \alpha_{n-1}(s-2)\,[\ell_s \neq \varnothing,\ \ell_s \neq \ell_{s-2}]\big]\; p_n(\ell_s)$$
#
# One begins in the first two states and ends in the last two. That is $N (2U + 1)$ small sums. With logarithms products become sums, and sums become `logsumexp`.
#
# ## Exercise: the loss of all ways
#
# *Exercise A2.ctc_loss · difficulty ●●● · importance ●●● · 20 minutes · 5 points · stuck? `hint("A2.ctc_loss")`*
#
# Return minus the logarithm of the sum over all ways. A state that cannot be reached yet gets $-10^9$, not $-\infty$: the value would be the same, but `logsumexp` of nothing but $-\infty$ has NaN for its gradient.

# %%
@exercise("A2.ctc_loss")
def ctc_loss(log_probs: Tensor, target: list[int]) -> Tensor:
    """log_probs (N, V), 0 is the blank; target: U ids
    -> minus the log-probability of all ways to write them, a scalar."""
    ### BEGIN SOLUTION
    states = [0]
    for word in target:
        states += [word, 0]
    impossible = log_probs.new_tensor(-1e9)
    alpha = [log_probs[0, states[0]], log_probs[0, states[1]]] + [impossible] * (len(states) - 2)
    for now in log_probs[1:]:
        following = []
        for s, state in enumerate(states):
            ways = alpha[max(0, s - 1) : s + 1]
            if s >= 2 and state != 0 and state != states[s - 2]:
                ways = [alpha[s - 2], *ways]
            following.append(torch.stack(ways).logsumexp(0) + now[state])
        alpha = following
    return -torch.stack(alpha[-2:]).logsumexp(0)
    ### END SOLUTION


# %%
check("A2.ctc_loss")

# %% [markdown]
# Two proofs that it counts. If every token is equally likely everywhere, each way has the same probability $V^{-N}$, so the loss tells how many ways there are. And against torch's own, with the gradient behind a softmax:

# %%
even = torch.full((33, 6), -np.log(6.0), dtype=torch.float64)
print(f"ways counted by the loss: {float((33 * np.log(6.0) - ctc_loss(even, [1, 2, 3, 4, 5])).exp()):.0f}, by formula: {comb(38, 10)}")
print(f"with one word twice, 1 2 3 3 4: {float((33 * np.log(6.0) - ctc_loss(even, [1, 2, 3, 3, 4])).exp()):.0f}, fewer: the two need a blank between")
mine, theirs = (torch.randn(20, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True) for _ in range(2))
ctc_loss(mine.log_softmax(-1), [3, 1, 1, 7]).backward()
F.ctc_loss(theirs.log_softmax(-1)[:, None], torch.tensor([[3, 1, 1, 7]]), torch.tensor([20]), torch.tensor([4]), reduction="sum").backward()
print(f"largest difference of the gradients: {(mine.grad - theirs.grad).abs().max():.1e}")
assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)

# %% [markdown]
# ## From vectors to words
#
# Reading is the same in reverse, done simply: at each vector the likeliest token, then merge, then drop. (This is *greedy*: it takes the best row, not the words whose rows add up to most.)
#
# ## Exercise: greedy decoding
#
# *Exercise A2.greedy · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("A2.greedy")`*
#
# Return the ids that are left.

# %%
@exercise("A2.greedy")
def greedy(log_probs: Tensor) -> list[int]:
    """log_probs (N, V), 0 is the blank -> the words of the likeliest row of tokens."""
    ### BEGIN SOLUTION
    row = log_probs.argmax(dim=1)
    merged = torch.unique_consecutive(row)
    return merged[merged != 0].tolist()
    ### END SOLUTION


# %%
check("A2.greedy")

# %% [markdown]
# ## Train
#
# The encoder is `funasr`'s own class, only small: SAN-M blocks, that is self-attention with a memory filter beside it. Half-way up sits a second CTC head that is thrown away afterwards. It writes *phones*: a rare word shares its phones with frequent ones, and so is learnt sooner.
#
# Clips are heard unchanged at first and disguised more and more: CTC starts sooner on clean sound. **Predict:** what does the encoder write for a question after the first few dozen steps?

# %%
predict("A2.first", mine=None, question="What does it write in the first seconds of training: "
        "'noise' (any words), 'frequent words', or 'nothing'?")

# %%
STEPS = 12 if smoke else 1000
sizes = dict(width=96, heads=4, feed_forward=256, blocks=3, text_blocks=1) if not smoke else dict(width=32, heads=2, feed_forward=48, blocks=1, text_blocks=1)
recipe = Recipe(**sizes, steps=STEPS, batch=12, learning_rate=3e-3, warmup_steps=max(1, STEPS // 16), clean_steps=STEPS // 3, clean_share=0.3, dropout=0.05)
trainer = Trainer(recipe, training)
print(f"{sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6:.2f} million weights, {STEPS} steps of {recipe.batch} clips")


def written(clip) -> str:
    """What the encoder in training writes down for a clip."""
    return " ".join(tokens[each] for each in greedy(trainer.word_scores(clip)))


def error_rate(clips) -> float:
    """Word error rate on clips as they are, in percent."""
    return 100 * word_errors([each.spoken for each in clips], [written(each) for each in clips]).wer


looks = {0, STEPS // 25, STEPS // 8, STEPS // 4, STEPS // 2, STEPS}
notes, snapshots = [], {}
LOSS, ERRORS = "CTC loss per word", "every fourth stranger: word errors, percent"


def look(step: int) -> None:
    """What it writes after so many steps, and how sure it is of it."""
    notes.append((step, written(clip)))
    snapshots[step] = trainer.word_scores(clip)
    if step:
        curves.dot(step, ERRORS, error_rate(strangers[::4]))


started = time.process_time()
with Curves(LOSS, ERRORS) as curves:
    for step in tqdm(range(STEPS), desc="speech encoder", unit="step"):
        if step in looks:
            look(step)
        curves.add(step, trainer.update(trainer.batches[step]), None)
    look(STEPS)
print(f"{(time.process_time() - started) / 60:.1f} minutes of processor time, {trainer.skipped} steps skipped")
for step, words in notes:
    print(f"after {step:4} steps: {shorten(words, 75, placeholder=' ...') or '(nothing)'}")
print(f"           spoken: {clip.spoken}")

# %%
reveal("A2.first", "nothing" if not notes[1][1] else "frequent words" if len(notes[1][1].split()) < 4 else "noise")

# %% [markdown]
# Writing nothing is the first thing that pays: five words need only five of the 33 vectors, and at all the others a blank is right. The loss pauses there: see the knee in its curve. Whoever looks at the transcripts then, and not at the curve, stops too soon. Where the curve never leaves it, the rate is too high,
# or sentences have more words than vectors.
#
# ## Who found the words?
#
# The probability of each word of the sentence at each vector, of the blank, and of any other word, as training went on. Nobody said when the words are spoken. Each column adds up to 1: where the last row is bright, the encoder
# would rather write a word that was not said.

# %%
shown = [snapshots[step] for step in sorted(snapshots)[-4:]]
names = [tokens[each] for each in clip.targets]
with drawing(9.0, 3.8) as figure:
    for axes, step, scores in zip(figure.subplots(2, 2, sharex=True).ravel(), sorted(snapshots)[-4:], shown):
        said = scores[:, [*clip.targets, 0]].exp()
        other = (1 - scores[:, [*set(clip.targets), 0]].exp().sum(dim=1)).clamp(min=0)
        image = axes.imshow(torch.cat((said, other[:, None]), dim=1).T, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        axes.grid(False)
        axes.set_yticks(range(len(names) + 2), [*names, "blank", "any other word"])
        axes.set_title(f"after {step} steps")
    figure.colorbar(image, ax=figure.axes, label="probability", pad=0.01)
    figure.supxlabel("vectors of 60 ms", fontsize=9)
    best = [scores.argmax(dim=1) for scores in shown]
    told = [f"after {step} steps the blank is the likeliest at {100 * float((row == 0).float().mean()):.0f} % of the vectors, "
            f"and {sum(bool((row == each).any()) for each in clip.targets)} of {len(names)} words somewhere" for step, row in zip(sorted(snapshots)[-4:], best)]
    picture = finish(figure, f"Probability of the words of '{clip.spoken}' and of the blank and of any other word at each vector, at {len(told)} moments of training: {'; '.join(told)}.")
display(picture)

# %% [markdown]
# CTC likes it short: one or two vectors say the word, the rest is blank, even while the word goes on. (One burst is enough, and every further one is a risk.) So the *time* of a burst is no time stamp: an encoder that sees the whole sentence may write a word well before it is spoken, or after. The order is all that the loss asks for. Compare your bursts with the spectrogram above.
#
# The course's Thinker does not read these words. It reads the features under them, at every vector.
#
# ## Voices known and unknown
#
# The shipped encoder is wider and deeper, and was trained far longer (its steps are printed below), with spoken answers besides. It has met the recordings that you kept back, so only the strangers are a fair comparison. **Predict** your own rate on them.

# %%
predict("A2.strangers", mine=None, question="Your encoder's word error rate on voices it never heard, in percent?")

# %%
with TemporaryDirectory() as folder:
    my_encoder = SpeechEncoder.load(trainer.write(Path(folder)))  # FunASR's own folder layout: `funasr.AutoModel` loads it
shipped_encoder = SpeechEncoder.load(settings.speech_encoder_dir)
rates = {}
print(f"{'':20} {'words wrong':>12} {'95 % interval':>14} {'missing':>9} {'exchanged':>9} {'too many':>9}")
for name, encoder, tried in (("yours, voices known", my_encoder, known), ("yours, strangers", my_encoder, strangers), ("shipped, strangers", shipped_encoder, strangers)):
    transcripts = encoder.transcribe([each.wave() for each in tried])
    figure = word_errors([each.spoken for each in tried], transcripts)
    rates[name] = figure.wer
    kinds = (figure.deletions, figure.substitutions, figure.insertions)
    low, high = figure.interval()
    print(f"{name:20} {100 * figure.wer:10.0f} % {f'{100 * low:.0f} to {100 * high:.0f}':>14} " + " ".join(f"{100 * share:7.0f} %" for share in kinds))
figures = json.loads((settings.data_dir / "figures" / "speech_encoder.json").read_text(encoding="utf-8"))
sittings = [figures]
while "sitting_before" in sittings[0]:
    sittings.insert(0, sittings[0]["sitting_before"])
print("the shipped encoder's training:")
for each in sittings:
    print(f"  {each['recipe']['steps']} steps of {each['recipe']['batch']} clips in {each['seconds'] / 60:.0f} minutes")
reveal("A2.strangers", round(100 * rates["yours, strangers"]), "percent")

# %%
for each in strangers[:3]:
    yours, theirs = (encoder.transcribe([each.wave()])[0] or "(nothing)" for encoder in (my_encoder, shipped_encoder))
    display(listen(each.wave(), each.rate, f"{each.voice}: {each.spoken}\nyours: {yours}\nshipped: {theirs}"))

# %% [markdown]
# The gap between the first two lines is what these voices cannot teach. More steps on the same clips lower both figures; do not expect them to meet. What brings them together are more voices, or better disguises. The course's own encoder was built with this in mind. What strangers' voices cost all the same is counted in
# [notebook 11](11_train_a2a.ipynb).
#
# An honest word. Minutes bring many of the words in known voices, because the world is small: fewer than three hundred words and a few patterns of sentences. What the shipped encoder took is printed above. The real SenseVoice-Small heard hundreds of thousands of hours in five languages, and a noisy kitchen is no news to it; the kitchen of this
# world is a formula in `mmo/augmentation.py`.

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("A2")

# %% [markdown]
# ## Summary
#
# - CTC adds up every way to lay the words over the vectors; the recursion does it in $N(2U+1)$ steps.
# - Blanks keep doubles apart and fill the rest. Merge first, then drop.
# - Training passes through "nothing" and frequent words before sentences. While it writes nothing the transcripts tell nothing: look whether the curve still falls.
# - Few voices are stretched by disguises. How far, only voices never heard can tell.
#
# **Often mistaken.** *"CTC aligns."* It adds up alignments; its bursts are not the words' durations. *"Vectors are independent, so it has no context."* Each sees the whole sentence by attention; only the *tokens*, given the vectors, are independent. *"A low loss on the training clips is hearing."* See your
# encoder's rate on strangers in the table.
#
# **To try.** `clean_share=1.0`, no disguises at all: what happens to the strangers? `phone_weight=0`: do rare words come later? Write "two two" into a sentence that has it once, and look at the loss. Make up probabilities for two vectors and two tokens for which the best single row gives other words than the rows that add up to most: that is greedy's mistake.
#
# **Where to read on.** In this course: `mmo/world/train_speech_encoder.py`, `mmo/augmentation.py`. Papers:
#
# - A. Graves, S. Fernández, F. Gomez, J. Schmidhuber: *Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks.* ICML 2006.
# - D. S. Park, W. Chan, Y. Zhang and others: *SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition.* Interspeech 2019, [arXiv:1904.08779](https://arxiv.org/abs/1904.08779).
# - T. Ko, V. Peddinti, D. Povey, S. Khudanpur: *Audio Augmentation for Speech Recognition.* Interspeech 2015.
# - R. Sanabria, F. Metze: *Hierarchical Multitask Learning with CTC.* 2018, [arXiv:1807.07104](https://arxiv.org/abs/1807.07104). Phones half-way up.
# - K. An, Q. Chen, C. Deng and others: *FunAudioLLM: Voice Understanding and Generation Foundation Models for Natural Interaction Between Humans and LLMs.* 2024, [arXiv:2407.04051](https://arxiv.org/abs/2407.04051). SenseVoice.
