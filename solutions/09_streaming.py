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
# # 09 · Streaming
#
# *Takes 90 minutes (tiny) · runs in 18 s on one core (tiny) · builds on 05, 07 · 5 exercises, 18 points*
#
# **At the end** you have cut the codec's decoder into pieces of 80 ms without a seam, with convolutions whose memory you wrote yourself. You have
# written the parts of the loop that answers aloud while it still thinks, and you know what each of its milliseconds is spent on.
#
# **You need** the delay pattern of notebook 07 and the cache of notebook 05.
#
# **The claim.** A network whose every layer only looks back can be run in pieces of any size. If each layer keeps the few values it will still need,
# the pieces joined *are* the whole, to the last rounding. So sound may leave after nine steps of the model, however long the answer is.
#
# Letters: $B$ batch, $Q$ codebooks, $F$ frames, $C$ channels that go in, $D$ that come out, $K$ the kernel's length, $S$ the stride, $T$ steps of a signal.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer repetitions where time is measured

# %%
import time

import numpy as np
import torch
import torch.nn.functional as F_  # F is the number of frames here
from moshi.modules.conv import StreamingConv1d, StreamingConvTranspose1d
from moshi.modules.seanet import SEANetResnetBlock
from safetensors.torch import load_file
from torch import Tensor

from mmo import sequence
from mmo.chat import ChatTokenizer
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.config import each
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.ears import abx
from mmo.display import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, drawing, finish, listen, show_codes
from mmo.generation import Generator, Prompt
from mmo.omni import load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import open_rows
from mmo.sampling import Noise, allowed_codes
from mmo.streaming import HEARD, earliest_start

torch.set_grad_enabled(False)  # nothing is trained here
torch.set_num_threads(1)  # single steps of a small model are too short to share
settings = find_profile(profile)
config = settings.model
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)
rows = open_rows(settings.data_dir / "t2a-validation.parquet", config, settings.cache_dir())
row = rows[4]
words = row.conversation[-1]["content"]
codes = sequence.frames(row.answers[-1], config.num_codebooks, config.num_codes)[None]  # (1, Q, F)
Q, F, N = codes.shape[1], codes.shape[2], codec.frame_size
print(f"{F} frames of {N} samples, {F / codec.frame_rate:.2f} seconds: {words}")
weights_file, _ = latest_weights(settings, run_dir(settings, budget))
print(f"weights: {weights_file.name}")

# %% [markdown]
# ## A decoder that only looks back
#
# Mimi's decoder turns codes into sound: an upsampling from 12.5 to 25 positions a second, a small transformer, and then a stack of convolutions
# that makes each position into 960 samples. All of it is *causal*: sample $n$ depends on nothing that comes later. That can be tested. Exchange
# the codes of one frame in the middle, decode both, and look where the sound differs.

# %%
middle = F // 2
predict(
    "09.causal",
    mine=None,
    question=f"The codes of frame {middle} are exchanged. Which is the first frame whose sound changes?",
)

# %%
exchanged = codes.clone()
exchanged[..., middle] = (exchanged[..., middle] + 1) % config.num_codes
whole = codec.decode(codes)[0, 0]  # (1920 F,)
change = (codec.decode(exchanged)[0, 0] - whole).abs()
first_changed = int((change > 1e-5).nonzero()[0])
by_frame = change.view(F, N).square().mean(dim=1).sqrt()
with drawing(9.0, 3.4) as figure:
    upper, lower = figure.subplots(2, 1, sharex=True)
    seconds = np.arange(len(whole)) / codec.sample_rate
    upper.plot(seconds, whole, color=GREY, linewidth=0.5, label="the sound")
    upper.plot(seconds, change, color=RED, linewidth=0.7, label="what the exchange changes")
    upper.set(ylim=(-0.45, 0.6), ylabel="sample")
    changed = by_frame > 1e-6  # below that it is rounding
    starts, wide = np.arange(F)[changed.numpy()] / codec.frame_rate, 1 / codec.frame_rate
    lower.bar(starts, by_frame[changed], width=wide, align="edge", color=RED, edgecolor="white", linewidth=0.5)
    lower.set(xlabel="seconds", ylabel="change by frame\n(root mean square)", yscale="log")
    for axes in (upper, lower):
        axes.axvline(middle * N / codec.sample_rate, color=BLUE, linewidth=1.0, label=f"frame {middle} begins")
    upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    alt = "The waveform and the change; below, the change by frame on a logarithmic scale: none before the exchanged frame, and an echo long behind it."
    picture = finish(figure, alt)
display(picture)
print(f"first changed sample: {first_changed} = {first_changed / N:.2f} frames")
half = (middle + F) // 2
echo = half + int(by_frame[half:].argmax())  # of the frames far behind, the one that changes most
print(f"changed by more than rounding: {int(changed.sum())} frames; frame {middle} by {by_frame[middle]:.4f}, frame {echo} still by {by_frame[echo]:.4f}")
reveal("09.causal", first_changed // N)

# %% [markdown]
# Two things are in this picture. Nothing changes *before* the frame: so frame 0 can be played before frame 1 exists. And something changes long *behind* it, as the
# lower panel shows, whose scale is logarithmic: so frame 1 cannot be decoded as if frame 0 had never been.
#
# ## What forgetting sounds like
#
# Try it anyway. Each frame is decoded on its own, and the sounds are laid end to end. Every frame is right in its way: the codes are
# right, the decoder is right. **Listen to both, then look at the picture below the second one.**

# %%
alone = torch.cat([codec.decode(codes[..., f : f + 1])[0, 0] for f in range(F)])
display(listen(whole, codec.sample_rate, f"decoded at once: {words}"))
display(listen(alone, codec.sample_rate, f"each frame on its own: {words}"))

# %% [markdown]
# A rattle at 12.5 Hz, and in the spectrogram a bright needle through all frequencies at every seam that falls into sound: a jump holds every frequency. To see the jump,
# look at two neighbouring samples. How far apart are they, by their place in the frame?

# %%
def steps_by_place(wave: Tensor) -> Tensor:
    """(1920 F,) -> (1920,): mean distance of a sample to the one before it, by its place in a frame."""
    distance = (wave[1:] - wave[:-1]).abs()
    return F_.pad(distance, (1, 0)).view(-1, N)[1:].mean(dim=0)


around = 200
loud = int(whole.view(F, N).square().sum(dim=1)[1:].argmax()) + 1  # the seam before the loudest frame
with drawing(9.0, 2.3) as figure:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    span = slice(loud * N - around, loud * N + around)
    milliseconds = (np.arange(2 * around) - around) / codec.sample_rate * 1000
    left.plot(milliseconds, whole[span], color=BLUE, label="at once")
    left.plot(milliseconds, alone[span], color=RED, linewidth=1.0, label="frame by frame, nothing kept")
    left.axvline(0, color=GREY, linewidth=0.8)
    left.set(xlabel=f"milliseconds from the seam before frame {loud}", ylabel="sample")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    right.plot(np.roll(steps_by_place(whole), 40)[:80], color=BLUE)
    right.plot(np.roll(steps_by_place(alone), 40)[:80], color=RED, linewidth=1.0)
    right.set(xlabel="samples from a seam (at 40), mean of all", ylabel="distance to the one before")
    picture = finish(figure, "Left: two waveforms around a seam; the stateless one jumps. Right: the mean jump by place, a spike at the seam.")
display(picture)
for name, wave in (("frame by frame", alone), ("at once", whole)):
    print(f"{name:14}: from one sample to the next, at a seam {steps_by_place(wave)[0]:.4f}, elsewhere {steps_by_place(wave)[1:].mean():.4f}")

# %% [markdown]
# ### Could one simply decode a little more?
#
# Decode each frame together with the $n$ frames before it and keep only its own samples. The seams get better, and the work grows $n + 1$ times.
# **Predict:** how many frames must be decoded again each time until the error is below a thousandth of the sound's power?

# %%
predict(
    "09.context",
    mine=None,
    question="How many frames of context, decoded again for every frame: 1, 2, 4, 8, 16 or 32?",
)

# %%
def error(wave: Tensor) -> float:
    """Power of the difference, as a share of the power of the sound decoded at once."""
    return float((wave - whole).square().mean() / whole.square().mean())


context_errors = {}
for context in (0, 1, 2, 4, 8, 16) if budget == "smoke" else (0, 1, 2, 4, 8, 16, 32):
    windows = codes[0].unfold(-1, context + 1, 1).transpose(0, 1)  # (F - context, Q, context + 1): each frame and those before it
    own = codec.decode(windows)[:, 0, -N:]  # of each window only its last frame's samples
    context_errors[context] = error(torch.cat((whole[: context * N], own.flatten())))  # the first frames have no more context than that
    print(f"{context:3} frames of context: error {context_errors[context]:.1e}, {context + 1} times the work")
enough = [context for context, found in context_errors.items() if found < 1e-3]
reveal("09.context", enough[0] if enough else f"more than {max(context_errors)}", "frames")

# %% [markdown]
# A number is one answer, your ear is another. With no context at all anybody hears the rattle. With a little? In an **ABX test** X is A or B, drawn anew in each
# trial, and who hears nothing is right half of the time. Change `remembered`, and find where you begin to guess.

# %%
remembered = 2  # frames of context; 0 is what you heard above
windows = codes[0].unfold(-1, remembered + 1, 1).transpose(0, 1)  # (F - remembered, Q, remembered + 1)
forgetful = torch.cat((whole[: remembered * N], codec.decode(windows)[:, 0, -N:].flatten()))
abx(f"09.abx{remembered}", forgetful.numpy(), whole.numpy(), codec.sample_rate, names=(f"{remembered} frames of context", "all of the past"), texts=[words])

# %% [markdown]
# Computing the past again is dear, and right only when it is all of the past. Keeping it is cheap and exact. What must be kept? Layer by layer.
#
# ## A convolution
#
# A convolution with kernel $K$, stride $S$ and dilation $d$ reads windows of $(K - 1)d + 1$ inputs, $S$ apart. Causal means: in front of the sound lie
# $P = (K - 1)d + 1 - S$ zeros, behind it none. Then $T$ inputs give exactly $T/S$ outputs, and output $t$ ends its window at the newest input it may know.
#
# Cut the input into pieces. The first window of a piece begins $P$ inputs before it. So the state of a causal convolution is the **last $P$ inputs**,
# and at the start of the sound they are the zeros that were there anyway.
#
#     inputs        0 0 | a b c | d e f          K = 3, S = 1, P = 2
#     piece 1       0 0   a b c                  windows 00a 0ab abc;  keep b c
#     piece 2             b c     d e f          windows bcd cde def;  keep e f
#
# ## Exercise: a convolution that remembers
#
# *Exercise 09.conv · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("09.conv")`*
#
# Join what was kept and the new piece, convolve without further padding, and give back what the next piece will need. (With a kernel of 1 nothing is kept: $P = 0$.)

# %%
@exercise("09.conv")
def conv_step(x: Tensor, previous: Tensor, weight: Tensor, bias: Tensor, stride: int, dilation: int) -> tuple[Tensor, Tensor]:
    """x (B, C, T), previous (B, C, P), weight (D, C, K), bias (D,)
    -> y (B, D, T / stride), and the P inputs to keep.
    """
    ### BEGIN SOLUTION
    joined = torch.cat((previous, x), dim=-1)
    y = F_.conv1d(joined, weight, bias, stride, dilation=dilation)
    return y, joined[..., joined.shape[-1] - previous.shape[-1] :]
    ### END SOLUTION


# %%
check("09.conv")

# %% [markdown]
# ## A transposed convolution
#
# Going up in rate works the other way round. Each input is *spread* over $K$ outputs, and the spreads of neighbours begin $S$ apart, so they overlap
# and are added. After $T$ inputs the first $TS$ outputs are finished. Of the $K - S$ behind them only a part of the sum is known: the next input will
# add its own. Hand out the finished ones, keep the unfinished **sums**.
#
#     K = 4, S = 2     a a a a
#                          b b b b
#                              c c c c
#     finished         1 2 3 4 5 6 | . .         after a, b, c: six are finished, two wait for d
#
# The bias belongs to each output once. moshi's class takes it out of what it keeps, since the next piece brings its own.
#
# ## Exercise: overlap and add, with a memory
#
# *Exercise 09.overlap · difficulty ●●○ · importance ●●● · 12 minutes · 4 points · stuck? `hint("09.overlap")`*

# %%
@exercise("09.overlap")
def overlap_add(x: Tensor, partial: Tensor, weight: Tensor, bias: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """x (B, C, T), partial (B, D, K - stride), weight (C, D, K), bias (D,)
    -> y (B, D, T * stride), and the sums to keep.
    """
    ### BEGIN SOLUTION
    spread = F_.conv_transpose1d(x, weight, stride=stride)  # (B, D, (T - 1) stride + K)
    summed = spread + F_.pad(partial, (0, spread.shape[-1] - partial.shape[-1]))
    finished = x.shape[-1] * stride
    return summed[..., :finished] + bias[:, None], summed[..., finished:]
    ### END SOLUTION


# %%
check("09.overlap")

# %% [markdown]
# ## The whole stack, by hand
#
# Mimi's last part is nothing but these two layers, activations that look at one value at a time, and residual blocks of convolutions and such activations. So your two functions
# run all of it. `memory` holds one tensor a layer; an empty one means the sound begins here.

# %%
def run(module, x: Tensor, memory: dict) -> Tensor:
    """A SEANet decoder on one piece: x (B, C, T) -> (B, C', T'); what each layer keeps is put into `memory`."""
    if isinstance(module, StreamingConv1d):
        conv = module.conv.conv
        stride, dilation = conv.stride[0], conv.dilation[0]
        silence = x.new_zeros(len(x), conv.in_channels, (conv.kernel_size[0] - 1) * dilation + 1 - stride)
        y, memory[module] = conv_step(x, memory.get(module, silence), conv.weight, conv.bias, stride, dilation)
        return y
    if isinstance(module, StreamingConvTranspose1d):
        conv = module.convtr.convtr
        nothing = x.new_zeros(len(x), conv.out_channels, conv.kernel_size[0] - conv.stride[0])
        y, memory[module] = overlap_add(x, memory.get(module, nothing), conv.weight, conv.bias, conv.stride[0])
        return y
    if isinstance(module, SEANetResnetBlock):
        return x + run(module.block, x, memory)
    if isinstance(module, torch.nn.Sequential):
        for part in module:
            x = run(part, x, memory)
        return x
    return module(x)  # ELU: one value at a time, nothing to keep


mimi = codec.model


def latents(codes: Tensor) -> Tensor:
    """codes (1, Q, F) -> what the convolutions read, (1, D, 2 F): looked up, upsampled, through the transformer."""
    return mimi.decoder_transformer(mimi.upsample(mimi.decode_latent(codes)))[0]


latent = latents(codes)
memory: dict = {}
pieces = [run(mimi.decoder.model, piece, memory)[0, 0] for piece in latent.split(2, dim=-1)]  # a frame at a time
by_hand = torch.cat(pieces)
print(f"latent {tuple(latent.shape)} -> {len(pieces)} pieces of {len(pieces[0])} samples")
print(f"largest difference to decoding at once: {(by_hand - whole).abs().max():.1e}")
assert torch.allclose(by_hand, whole, atol=1e-4)
display(listen(by_hand, codec.sample_rate, f"in {F} pieces, by your two functions: {words}"))

# %%
predict(
    "09.numbers",
    mine=None,
    question="How many numbers do the convolutions of the decoder's last part keep between two frames, together? (A frame of sound is 1920.)",
)

# %%
shapes = {}
for module, kept in memory.items():
    kind = "the last inputs" if isinstance(module, StreamingConv1d) else "unfinished sums"
    conv = module.conv.conv if isinstance(module, StreamingConv1d) else module.convtr.convtr
    print(f"kernel {conv.kernel_size[0]:2}, stride {conv.stride[0]}: keeps {kind:16} {tuple(kept.shape[1:])!s:10} {kept.numel():5}")
reveal("09.numbers", sum(kept.numel() for kept in memory.values()), "numbers")

# %% [markdown]
# ### Which memory clicks?
#
# The decoder has two kinds of memory: the convolutions' few values (those above, and 320 sums of the upsampling, which is left whole here), and the keys and values of its transformer, which reach ten seconds back. Lose one and keep the other.
# **Predict** which loss makes the seams jump.

# %%
predict(
    "09.which",
    mine=None,
    question="Which lost memory makes the seams jump: the 'convolutions' or the 'transformer'?",
)

# %%
without_convolutions = torch.cat([run(mimi.decoder.model, piece, {})[0, 0] for piece in latent.split(2, dim=-1)])
memory = {}
upsampled = mimi.upsample(mimi.decode_latent(codes))
without_attention = torch.cat([run(mimi.decoder.model, mimi.decoder_transformer(piece)[0], memory)[0, 0] for piece in upsampled.split(2, dim=-1)])
jumps = {}
for name, wave in (("everything kept", by_hand), ("the convolutions forget", without_convolutions), ("the transformer forgets", without_attention)):
    jumps[name] = float(steps_by_place(wave)[0] / steps_by_place(wave)[1:].mean())
    print(f"{name:24} error {error(wave):8.5f}   a seam jumps {jumps[name]:5.1f} times as far as other samples")
    if wave is not by_hand:
        display(listen(wave, codec.sample_rate, f"{name}: {words}"))
reveal("09.which", "convolutions" if jumps["the convolutions forget"] > jumps["the transformer forgets"] else "transformer")

# %% [markdown]
# Two losses, two sounds. Missing inputs and sums make a jump. Missing attention makes none: the seams stay smooth, and what is between them drifts from
# what was meant. Here the click is the larger error, too. It need not be: one number for both hides which it is.
#
# ## The same in the package
#
# moshi's layers hold this memory themselves, inside `with codec.streaming(batch)`; its transformer keeps a ring of keys and values. `mmo.codec` adds
# checks, and room in the ring for several frames in one call. One frame at a time or eight: the same sound.

# %%
streamed = {}
for at_once in (1, 3, 8):
    with codec.streaming(batch=1, largest=8) as stream:
        streamed[at_once] = torch.cat([stream.decode(piece)[0, 0] for piece in codes.split(at_once, dim=-1)])
    print(f"{at_once} frame{'s' * (at_once > 1)} a call: largest difference to decoding at once {(streamed[at_once] - whole).abs().max():.1e}")
    assert torch.allclose(streamed[at_once], whole, atol=1e-4)

# %% [markdown]
# **Stale memory.** The block ends the sound: leave it, and everything is forgotten. Stay in it for a second sentence, and the second begins with the first one's
# last breath in its convolutions and its words in the attention. Nothing crashes. How long does the old sentence echo?

# %%
predict(
    "09.stale",
    mine=None,
    question="A second sentence in the same block: how many of its frames differ from what they should be: 'few', 'half' or 'all'?",
)

# %%
looks_back = next(part.context for part in mimi.decoder_transformer.modules() if hasattr(part, "context"))  # positions
other = sequence.frames(rows[11].answers[-1], Q, config.num_codes)[None]
fresh = codec.decode(other)[0, 0]
with codec.streaming(batch=1, largest=8) as stream:
    for piece in codes.split(8, dim=-1):
        stream.decode(piece)
    stale = torch.cat([stream.decode(piece)[0, 0] for piece in other.split(8, dim=-1)])
with drawing(7.0, 1.9) as figure:
    axes = figure.add_subplot()
    gap = (stale - fresh).view(-1, N).square().mean(dim=1).sqrt()
    axes.bar(range(len(gap)), fresh.view(-1, N).square().mean(dim=1).sqrt(), color=GREY, alpha=0.4, label="the sentence itself")
    axes.bar(range(len(gap)), gap, color=RED, width=0.5, label="error from the sentence before")
    axes.set(xlabel="frame of the second sentence", ylabel="root mean square")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    picture = finish(figure, "Loudness of the second sentence by frame, and its error, which goes on for as long as the sentence does.")
display(picture)
touched = float((gap > 1e-4).float().mean())
second = rows[11].conversation[-1]["content"]
display(listen(fresh, codec.sample_rate, f"the second sentence in a block of its own: {second}"))
display(listen(stale, codec.sample_rate, f"the same, behind the first in one block: {second}"))
print(f"{100 * touched:.0f} % of the frames differ by more than {1e-4:g}; the transformer looks back {looks_back / mimi.encoder_frame_rate:.0f} seconds")
reveal("09.stale", "all" if touched > 0.9 else "half" if touched > 0.3 else "few")

# %% [markdown]
# ## The sampling step
#
# So much for the sound. Now for the codes that it is made of. In each step the model gives logits $z_{k,v}$ for each codebook $k$ and each code $v$.
# One code is drawn from
#
# $$p_v = \frac{\exp(z_{k,v} / \tau)}{\sum_{w \in \text{best } n} \exp(z_{k,w} / \tau)} \quad \text{for } v \text{ among the best } n, \text{ else } 0.$$
#
# $\tau$ is the *temperature*: towards 0 the best one takes all, at 1 it is the model's own belief, above 1 all become alike. *top-k* (of $n$ codes here) cuts the long tail: each
# of five hundred unlikely codes is unlikely, but together they are not. And a code drawn wrongly is not only heard once; it is in the history of all that follow.
#
# Randomness comes from outside, as one uniform number $u$ a choice. Lay the shares end to end, the best first; the chosen one is where $u$ falls. So a
# seed fixes an answer, whoever shares the batch.
#
# ## Exercise: choose
#
# *Exercise 09.choose · difficulty ●●○ · importance ●●● · 12 minutes · 4 points · stuck? `hint("09.choose")`*

# %%
@exercise("09.choose")
def choose(logits: Tensor, temperature: float, top_k: int, uniform: Tensor) -> Tensor:
    """logits (B, V) in any dtype, uniform (B,) in 0..1 -> ids (B,).

    Temperature 0: the best; top_k 0: all may be drawn.
    """
    ### BEGIN SOLUTION
    if temperature == 0:
        return logits.argmax(dim=-1)
    width = min(top_k, logits.shape[-1]) if top_k else logits.shape[-1]
    values, ids = logits.float().topk(width, dim=-1)  # (B, K), best first
    sums = (values / temperature).softmax(dim=-1).cumsum(dim=-1)
    place = (sums < uniform[:, None]).sum(dim=-1, keepdim=True).clamp(max=width - 1)
    return ids.gather(-1, place)[:, 0]
    ### END SOLUTION


# %%
check("09.choose")

# %% [markdown]
# Draw many times from the same logits, and the shares must come out. Below are twelve made-up logits at three temperatures; the last picture keeps the best four.
# The bars are the shares drawn by your function, the dots the shares wanted, straight from the formula.

# %%
made_up = torch.linspace(2.5, -2.0, 12) + 0.4 * torch.randn(12, generator=torch.Generator().manual_seed(3))
draws = 4000
uniform = torch.rand(draws, generator=torch.Generator().manual_seed(0))
with drawing(9.0, 2.2) as figure:
    panels = figure.subplots(1, 4, sharey=True)
    for axes, (temperature, top_k) in zip(panels, ((0.3, 0), (1.0, 0), (3.0, 0), (1.0, 4))):
        drawn = choose(made_up.expand(draws, -1), temperature, top_k, uniform)
        counted = torch.bincount(drawn, minlength=12) / draws
        axes.bar(range(12), counted, color=ORANGE, label="drawn")
        kept = made_up.topk(top_k or 12).values[-1]
        axes.plot((made_up / temperature).masked_fill(made_up < kept, -torch.inf).softmax(-1), ".", color=BLUE, label="wanted")
        axes.set_title(f"temperature {temperature}" + (f", best {top_k}" if top_k else ""))
        axes.set(xlabel="id", xticks=range(0, 12, 3))
    panels[0].set(ylabel="share")
    panels[0].legend()
    picture = finish(figure, "Drawn shares as bars and wanted shares as dots: at a low temperature one bar, at a high one all alike, with top-k four bars.")
display(picture)

# %% [markdown]
# ## Frames as they become whole
#
# The codes of a step lie on a diagonal (notebook 07), and the codec wants columns. Offline one undelays at the end. Here a frame must go out in the
# very step in which its last code arrives. So hold the last $Q - 1$ steps, and look along the diagonal when a new one comes:
#
#     step        s - 2   s - 1     s            held: two steps           Q = 3
#     codebook 0 [ c0.7 ]  c0.8    c0.9          new:  step s
#     codebook 1   c1.6  [ c1.7 ]  c1.8          whole: frame 7
#     codebook 2   c2.5    c2.6  [ c2.7 ]        hold from now on: steps s - 1, s
#
# ## Exercise: undelay as you go
#
# *Exercise 09.straighten · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("09.straighten")`*

# %%
@exercise("09.straighten")
def push(held: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """held (n, Q) with n < Q, the steps before, oldest first; codes (Q,)
    -> held from now on, and the frame (Q,) or None.
    """
    ### BEGIN SOLUTION
    Q = len(codes)
    steps = torch.cat((held, codes[None]))
    frame = steps.diagonal().clone() if len(steps) == Q else None
    return steps[max(0, len(steps) - (Q - 1)) :], frame
    ### END SOLUTION


# %%
check("09.straighten")

# %%
delayed = sequence.delay(codes[0], config.audio_pad_token, config.audio_stop_token)  # (Q, F + Q)
held, whole_frames = delayed.T[:0], []
for step_codes in delayed.T:
    held, frame = push(held, step_codes)
    whole_frames += [] if frame is None else [frame]
assert torch.equal(torch.stack(whole_frames, dim=1)[:, :F], codes[0])
print(f"{delayed.shape[1]} steps in, {len(whole_frames)} frames out, at most {Q - 1} steps held; the last frame holds the stops: not played")

# %% [markdown]
# ## How speech ends
#
# Codebook 0 says when: it samples the stop sign at the frame that is no longer spoken. The codebooks below it are up to seven frames behind, and they
# still owe their codes of the last frames. Only then do they stop too. In training each codebook had exactly one stop and then pads, on a
# diagonal; so that is what must be fed, whatever the model samples there.
#
#     step              5    6    7    8    9   10      codebook 0 samples the stop
#     codebook 0      c.4  c.5  c.6  STOP  -    -       at step 8: its frame is 8 - 1 = 7,
#     codebook 1      c.3  c.4  c.5  c.6  STOP  -       so frames 0 to 6 are spoken
#     codebook 2      c.2  c.3  c.4  c.5  c.6  STOP
#
# A common mistake, and one that the generator of the original, MiniMind-O, makes: to go on feeding what is sampled behind the stop. Nobody hears it there, but the model reads
# it, in a place where training never had anything but pads.
#
# ## Exercise: the end of the speech
#
# *Exercise 09.stop · difficulty ●●● · importance ●●● · 14 minutes · 4 points · stuck? `hint("09.stop")`*
#
# Correct what one step has sampled, for all answers of a batch at once. A codebook before its turn, whose frame would be negative, gets pad.
# `speech_end` starts at the greatest number of frames that an answer may have, and comes down once, when codebook 0 stops.
#
# Where the picture of the check has three columns, they are three answers of one batch *at the same step*, not three steps.

# %%
@exercise("09.stop")
def end_speech(sampled: Tensor, step: int, speech_end: Tensor, pad: int, stop: int) -> tuple[Tensor, Tensor]:
    """sampled (B, Q) of a step, speech_end (B,): first frame that is not spoken, as far as known
    -> codes (B, Q) as fed, speech_end (B,).
    """
    ### BEGIN SOLUTION
    frame = step - 1 - torch.arange(sampled.shape[1])  # (Q,)
    if step >= 1:
        stopped = (sampled[:, 0] == stop) & (step - 1 < speech_end)
        speech_end = torch.where(stopped, step - 1, speech_end)
    behind = frame - speech_end[:, None]  # (B, Q)
    codes = torch.where(behind == 0, stop, sampled)
    codes = torch.where((behind > 0) | (frame < 0), pad, codes)
    return codes, speech_end
    ### END SOLUTION


# %%
check("09.stop")

# %% [markdown]
# ## The loop, written out
#
# All parts are there. One step:
#
# 1. choose the next token from the text logits, and $Q$ codes from the audio logits;
# 2. correct them at the ends: `end_speech`; after the text its end sign, a newline, then pads;
# 3. a whole frame goes to the codec, its 80 ms to whoever listens;
# 4. feed token and codes, **one position**, and let the caches of Thinker and Talker hold the rest.
#
# A prompt of $T$ positions is read once. Each step reads one more. Once the text is over, the Thinker's layers above the *bridge* (the block in its middle whose output
# the Talker gets, notebook 08) are left out (`tail`): only the lower ones and the Talker are still at work, and nothing that is heard changes.

# %%
model = load_model(weights_file)
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
generator = Generator(model, codec, tokenizer, settings.decoding)
twin = generator.model  # the same weights, the Talker's tables laid out for single steps
voice = next(iter(load_file(settings.data_dir / "voices.safetensors").values())).float()
PAD, STOP = config.audio_pad_token, config.audio_stop_token


def speak(prompt: Prompt, decoding, largest: int = 1):
    """Answer one prompt.  Yields (what was done, seconds it took, what came of it) for every piece of work."""
    temperatures, widths = each(decoding.temperature, Q), each(decoding.top_k, Q)
    streams = sequence.build_prompt(prompt.text_ids, config, has_speaker=True)[None]  # (1, Q + 1, T)
    longest = max(decoding.max_text, decoding.max_frames + Q) + 1
    noise = Noise([prompt.seed], Q + 1)
    allowed = allowed_codes(config)
    text_end, speech_end = decoding.max_text, torch.tensor([decoding.max_frames])
    held, waiting, number = torch.zeros(0, Q, dtype=torch.long), [], 0
    with codec.streaming(batch=1, largest=largest) as stream:
        clock = time.thread_time()
        cache = twin.make_cache(1, streams.shape[-1] + longest)
        hidden = twin.hidden_states(streams, speaker=prompt.speaker[None], cache=cache)
        text, audio = hidden.text[:, -1:], hidden.audio[:, -1:]
        yield "read the prompt", time.thread_time() - clock, streams.shape[-1]
        for step in range(longest):
            clock = time.thread_time()
            uniform = noise.next()[0]  # (Q + 1,)
            token = config.pad_token
            if step < text_end:
                token = int(choose(twin.text_head(text)[0], decoding.text_temperature, decoding.text_top_k, uniform[-1:]))
                text_end = step if token == config.im_end_token else text_end
            token = {0: config.im_end_token, 1: config.newline_token}.get(step - text_end, token)
            logits = twin.audio_head(audio)[0, 0] + allowed  # (Q, A)
            sampled = torch.cat([choose(logits[k : k + 1], temperatures[k], widths[k], uniform[k : k + 1]) for k in range(Q)])
            fed, speech_end = end_speech(sampled[None], step, speech_end, PAD, STOP)
            yield "choose", time.thread_time() - clock, (token, fed[0])

            clock = time.thread_time()
            frame = None
            if step >= 1:  # step 0 has no code yet
                held, frame = push(held, fed[0])
            if frame is not None and number < int(speech_end):
                number += 1
                waiting.append(frame)
            over = step >= text_end + 1 and step >= int(speech_end) + Q - 1
            if waiting and (len(waiting) == largest or over):
                sound = stream.decode(torch.stack(waiting, dim=1)[None])[0, 0]
                waiting = []
                yield "decode", time.thread_time() - clock, sound
            if over:
                return
            clock = time.thread_time()
            position = torch.cat((fed[0], torch.tensor([token])))[None, :, None]  # (1, Q + 1, 1)
            hidden = twin.hidden_states(position, cache=cache, tail=step + 1 > text_end)
            text, audio = hidden.text, hidden.audio
            yield "think", time.thread_time() - clock, cache.length


# %%
question = "What is three plus four?"
prompt = Prompt(tokenizer.prompt([{"role": "user", "content": question}]), voice, seed=0)
work = list(speak(prompt, settings.decoding))
tokens = [result[0] for name, _, result in work if name == "choose"]
fed = torch.stack([result[1] for name, _, result in work if name == "choose"], dim=1)  # (Q, steps)
sounds = [result for name, _, result in work if name == "decode"]
spoken = torch.cat(sounds) if sounds else torch.zeros(0)
written = tokens[: tokens.index(config.im_end_token)] if config.im_end_token in tokens else tokens
said = tokenizer.decode(written)
print(f"asked:    {question}\nanswered: {said}   in {fed.shape[1]} steps")
display(show_codes(fed[:, 1:], config.num_codes, "as fed, from the first code on: slants at both ends", frame_rate=None))
display(listen(spoken, codec.sample_rate, said))

# %% [markdown]
# (A column is a step; grey, there is no code.) Is that what the package does? The same seed must give the same words, the same codes, the same sound.

# %%
answer = generator.answer(prompt)
mine = sequence.undelay(fed[:, 1:], STOP)
print(f"text: {answer.text}")
print(f"codes: {tuple(mine.shape)} yours, {tuple(answer.codes.shape)} the package's, equal: {torch.equal(mine, answer.codes)}")
assert answer.text_ids == written and torch.equal(mine, answer.codes)
assert np.allclose(spoken, answer.samples, atol=1e-4)
read = [result for name, _, result in work if name == "think"]
first = work[0][2]
print(f"positions computed: {first} of the prompt and {len(read)} single ones, {first + len(read)} in all; without a cache {first + sum(read)}")

# %% [markdown]
# ## Time to first sound
#
# **Predict:** the prompt has been read. How many times does the loop choose, until the first frame of sound exists?

# %%
predict("09.nine", "How many steps (choices) until the first 80 ms of sound?", None)

# %%
names = [name for name, _, _ in work]
until = names.index("decode") + 1 if "decode" in names else len(work)
reveal("09.nine", sum(name == "choose" for name in names[:until]), "steps")

# %% [markdown]
# Nine, not one. The first step writes a word and no code, for the sound begins one position behind the text. Then codebook 0 says its code of frame 0,
# and seven steps later codebook 7 does. In the ninth step the frame is whole.
#
# Here they are, as measured. Each bar is one piece of work; below it what can be played, and when. The clock counts this thread's own processor
# time, so that other programs do not blur the picture; on a machine with nothing else to do it is the time you would wait.

# %%
COLOURS = {"read the prompt": PURPLE, "choose": ORANGE, "think": BLUE, "decode": GREEN}
repeats = 1 if budget == "smoke" else 3
runs = [list(speak(prompt, settings.decoding)) for _ in range(repeats)]
work = min(runs, key=lambda one: sum(seconds for _, seconds, _ in one))  # the least disturbed


def timeline(work) -> tuple[list[float], list[float], list[float]]:
    """Of all pieces of sound: when they were ready (ms of work), how long they play (ms), how loud they get."""
    clock, ready, lengths, peaks = 0.0, [], [], []
    for name, seconds, result in work:
        clock += 1000 * seconds
        if name == "decode":
            ready.append(clock)
            lengths.append(1000 * len(result) / codec.sample_rate)
            peaks.append(float(result.abs().max()))
    return ready, lengths, peaks


ready, lengths, peaks = timeline(work)
with drawing(9.0, 2.4) as figure:
    axes = figure.add_subplot()
    clock, shown = 0.0, set()
    for name, seconds, _ in work[: until + 6]:
        style = dict(color=COLOURS[name], edgecolor="white", linewidth=0.5, label=None if name in shown else name)
        axes.barh(1, 1000 * seconds, left=clock, height=0.5, **style)
        clock += 1000 * seconds
        shown.add(name)
    if ready:
        axes.barh(0, lengths[0], left=ready[0], height=0.5, color=GREEN, alpha=0.35, label="frame 0 is played")
        axes.axvline(ready[0], color=GREEN, linewidth=1.0)
        axes.set_xlim(0, max(clock, ready[0] + lengths[0] + 5))
    axes.set_yticks([0, 1], ["sound", "work"])
    axes.set(xlabel="milliseconds after the question", ylim=(-0.5, 1.6))
    axes.grid(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.35), ncols=5)
    alt = "Timeline of the work up to the first sound: the prompt, then nine choices with eight passes between them, one decoding; then frame 0 plays."
    picture = finish(figure, alt)
display(picture)
for name in COLOURS:
    spent = [1000 * seconds for each_name, seconds, _ in work[:until] if each_name == name]
    print(f"{name:16} {len(spent):2} x {np.mean(spent or [0]):5.1f} ms = {sum(spent):6.1f} ms")
if ready:
    print(f"first sound after {ready[0]:.1f} ms of work")

# %% [markdown]
# Most of the bar is steps: they stand in it nine times, the prompt and the codec once. So a faster codec helps less than a faster step, and both help less than
# fewer steps: fewer codebooks, or a small depth transformer that writes the whole frame within one step of the large model.
#
# ## Three numbers, not one
#
# **Time to first sound** is what you have just seen. **Real-time factor** is seconds of work per second of speech: below 1 the speech never ends up waiting *in the long run*.
# **The earliest start without a gap** is the third: play too early, and a piece that is late leaves a hole, though every average is fine. With pieces ready at $r_i$ that
# play for $\ell_i$, it is $\max_i \left( r_i - \sum_{j<i} \ell_j \right)$: `mmo.streaming.earliest_start`.
#
# How many frames to decode in one call? More at a time cost less each; the listener waits for all of them. (All is measured anew below: on a busy machine two neighbours may change places, and the first line, the same work as in the picture, may differ from it by a third. Eight frames take seven steps more before anything is decoded, and a longer decoding: where your figure is smaller than seven of the picture's steps, the machine got quicker meanwhile.)

# %%
predict(
    "09.pieces",
    mine=None,
    question="From 1 frame a call to 8: by how many milliseconds does the first sound come later?",
)

# %%
found = {}
print("frames a call   first sound   codec a frame   real-time factor   earliest start without a gap")
for largest in (1, 2, 4, 8):
    tries = [list(speak(prompt, settings.decoding, largest)) for _ in range(repeats)]
    found[largest] = min(tries, key=lambda one: sum(seconds for _, seconds, _ in one))
    at, plays, _ = timeline(found[largest])
    total = sum(seconds for _, seconds, _ in found[largest])
    decoding_ms = 1000 * sum(seconds for name, seconds, _ in found[largest] if name == "decode") / max(1, sum(plays) / 80)
    if at:
        print(f"{largest:13}   {at[0]:8.1f} ms   {decoding_ms:10.1f} ms   {1000 * total / sum(plays):16.2f}   {earliest_start(at, plays):25.1f} ms")
    else:
        print(f"{largest:13}   this model, hardly trained, said nothing")
later = timeline(found[8])[0][:1], timeline(found[1])[0][:1]
reveal("09.pieces", round(later[0][0] - later[1][0]) if all(later) else "nothing, for there was no sound", "ms later")

# %% [markdown]
# Here the first sound may be played at once: each piece is ready long before the one in front of it has been played to its end. Let one piece be late, once, by a third of a second:

# %%
at, plays, _ = timeline(found[1])
if len(at) > 4:
    hiccup = [moment + (330 if number >= 3 else 0) for number, moment in enumerate(at)]
    print(f"the average is still fine: all work done after {hiccup[-1]:.0f} ms, {sum(plays):.0f} ms of speech")
    print(f"but playing may begin at {earliest_start(hiccup, plays):.0f} ms instead of {at[0]:.0f}, or there is a gap")
    heard, clock = [], at[0]  # a player that begins with the first piece, and waits for a late one
    for piece, moment, length in zip((result for name, _, result in found[1] if name == "decode"), hiccup, plays):
        hole = max(0.0, moment - clock)
        heard += [torch.zeros(round(hole * codec.sample_rate / 1000)), piece]
        clock += hole + length
    display(listen(torch.cat(heard), codec.sample_rate, f"played from the first piece on, with a hole of {clock - at[0] - sum(plays):.0f} ms: {said}"))

# %% [markdown]
# So a player on a real line waits a little on purpose. As to the size of the pieces, `mmo.streaming.SpeechStream` has the best of both: single frames until something is heard, then pieces that grow. Until something *is heard*, for an answer
# may begin with silence, the breath before a word, or be loud at once. The clock that counts for a person runs until the first frame that is loud enough. Which one is it here?

# %%
loud_enough = [number for number, peak in enumerate(peaks) if peak > HEARD]
if loud_enough:
    heard_at = ready[0] + sum(lengths[: loud_enough[0]])
    print(f"the first frame is ready {ready[0]:.0f} ms after the question")
    print(f"the first one above {HEARD:g} of full scale is frame {loud_enough[0]}; a player reaches it after {heard_at:.0f} ms")

# %% [markdown]
# **Streaming is not low latency.** Streaming means that the first piece does not wait for the last. What is left is the prompt, nine steps and a decoding, and for a
# question that is *spoken*, before all that: noticing that it is over, encoding it, and writing it down, a step a token (notebook 11). Which steps a machine can afford:

# %%
with drawing(7.0, 2.2) as figure:
    axes = figure.add_subplot()
    step_ms = np.linspace(1, 90, 90)
    for number_of, colour in ((8, BLUE), (4, ORANGE), (1, GREEN)):
        axes.plot(step_ms, (number_of + 1) * step_ms, color=colour, label=f"{number_of} codebook{'s' * (number_of > 1)}: {number_of + 1} steps")
    axes.axvline(80, color=RED, linewidth=1.0, linestyle="--")
    axes.text(92, 640, "a step as long\nas a frame: speech\ncannot keep up", color=RED, fontsize=9, va="top")
    mine_ms = 1000 * sum(seconds for name, seconds, _ in work if name in ("choose", "think")) / fed.shape[1]
    axes.plot([mine_ms] * 2, [0, 620], color=GREY, linewidth=1.0)
    axes.text(mine_ms + 1, 630, "your step just now", color=GREY, fontsize=9)
    axes.set(xlabel="milliseconds a step", ylabel="ms to the first frame", ylim=(0, 830), xlim=(0, 126))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    picture = finish(figure, "Time to the first frame against the time of a step: a line for each number of codebooks; at 80 ms a step the speech stalls.")
display(picture)

# %% [markdown]
# ## What a step costs, and how it gets shorter
#
# A single position meets every weight once: two operations for each weight that is read. A processor computes far faster than it reads, so a step cannot be shorter than **reading the weights** takes, their bytes over the
# memory's bandwidth. On top come the **calls**: a great many small operations, each with some microseconds of Python and bookkeeping. `tiny` is all calls, `mini` mostly bytes.
#
# | what is done | which of the two | where |
# |---|---|---|
# | keys and values in one tensor that is made once and written in place, no `cat` that copies all of it | bytes | `KVCache` in `mmo/transformer.py` |
# | on the tail the Thinker's upper layers and its head are left out: the same codes | bytes | `tail`, above |
# | weights in bfloat16 or int8: a half, a quarter; other codes, and what that costs in words is measured | bytes | `mmo/twin.py` |
# | many answers at once: the weights are read once for all of them | bytes | `Generator.generate_batch` |
# | layers that read the same input are one product; all codebooks are chosen at once, not one after the other | calls | `mmo/twin.py`, `mmo/sampling.py` |
# | the host looks at the device once a step, not once a code | waiting | `Decoder.run` in `mmo/generation.py` |
# | a whole step as one graph, on a card | calls | `mmo/graphs.py` |
#
# [How speed is measured](../docs/performance.md) has the figures, each with its command: `mmo bench decode` for a step and its floor, `mmo bench trace` for where its time goes, before and after.

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("09")

# %% [markdown]
# ## Summary
#
# - Causal layers can be cut anywhere. A convolution keeps its last $P$ inputs, a transposed one its $K - S$ unfinished sums, attention its keys and values.
# - Forget them and the seams click; keep them too long and the next sentence begins in the echo of the last.
# - One step: choose, correct the ends, hand out a frame, feed one position. The caches hold the rest.
# - The first frame takes nine steps: one for the word in front, eight for the diagonal.
# - A step is the reading of its weights, and the calls on top: fewer bytes, fewer calls, or more answers for the same reading.
# - Time to first sound, real-time factor and the earliest start without a gap are three different numbers.
#
# **Often mistaken.** *"It streams, so it answers at once."* It answers after its prompt, nine steps and a decoding. *"A factor below 1 means no gaps."* On average; one late
# piece is a gap. *"Stateless decoding is only a little worse."* It is the same codes and the same weights, and it rattles. *"Greedy is best, it is the most likely."* For text often;
# for codes it can fall silent or repeat, since the most likely next sound is much like the last.
#
# **To try.** Take the bias twice in `overlap_add` (your own is `overlap_add.yours`) and listen to `run`. Let `speak` feed `sampled` instead of `fed` behind the stop: does the answer change?
# Choose codebook 0 at temperature 1.5 and the others at 0: what breaks first, the words or the voice? Decode with `largest=8` and print when each piece is ready.
#
# **Where to read on.** In this course: `mmo/streaming.py`, `mmo/generation.py`, `mmo/sampling.py`; [notebook 13](13_talk_to_it.ipynb) talks. Papers:
#
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024,
#   [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). Mimi, and a depth transformer that writes a frame in one step.
# - A. Défossez, J. Copet, G. Synnaeve, Y. Adi: *High Fidelity Neural Audio Compression.* 2022, [arXiv:2210.13438](https://arxiv.org/abs/2210.13438). EnCodec: the same
#   convolutions, streamed.
# - O. Rybakov, N. Kononenko, N. Subrahmanya, M. Visontai, S. Laurenzo: *Streaming keyword spotting on mobile devices.* Interspeech 2020,
#   [arXiv:2005.06720](https://arxiv.org/abs/2005.06720). Which state each kind of layer keeps.
# - A. Holtzman, J. Buys, L. Du, M. Forbes, Y. Choi: *The Curious Case of Neural Text Degeneration.* ICLR 2020, [arXiv:1904.09751](https://arxiv.org/abs/1904.09751). Why the tail is cut.
