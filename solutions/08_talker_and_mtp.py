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
# # 08 · The Talker: eight codes a step
#
# *Takes 90 minutes (tiny) · runs in 88 s on one core (tiny) · builds on 05, 07 · 5 exercises, 15 points*
#
# **At the end** you have built the speaking half of the model: its input, its eight-headed output, its loss. You have seen where it looks while it
# speaks, caught it saying a word that nobody wrote, and trained one from nothing until it says one sentence aloud.
#
# **You need** notebook 05, for what a block and a hidden state are, and notebook 07, for the nine streams and their delay.
#
# **The claim.** A model that never sees a word can speak, if it is given the *hidden states* of one that does: they hold the word, and the next one.
# It can write eight codes in a single step, if these lie on a diagonal.
#
# Letters: $B$ batch, $T$ positions, $F$ frames, $Q$ codebooks, $A$ entries of the audio vocabulary, $D$ the Talker's width, $D_T$ the Thinker's,
# $R$ rank of the adapters. (In `tiny` the two widths are the same.)

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer steps where something is trained, fewer rows where something is measured

# %%
import json
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmo import sequence
from mmo.chat import ChatTokenizer
from mmo.codec import Codec
from mmo.config import IGNORE, Draws, ModelConfig, StageConfig
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.depth import DepthTransformer
from mmo.course.looking import attention_shares, hear_by
from mmo.data import Corpus, DataFile, Layout, collate, realise
from mmo.display import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, Curves, LossCurves, drawing, finish, listen, show_delay, smooth
from mmo.forcing import forced
from mmo.generation import Answer, Generator, Prompt, for_decoding
from mmo.judge import Judge
from mmo.omni import OmniModel, load_model
from mmo.optimiser import Optimisers, rate_factor
from mmo.profiles import profile as find_profile
from mmo.rows import open_rows
from mmo.talker import CodeHead, Talker
from mmo.thinker import load_thinker
from mmo.training import Stepper, named
from mmo.transformer import CacheLengths, KVCache, make_window, run_blocks
from mmo.world.text import closed_facts

settings = find_profile(profile)
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
markers = sequence.Markers.from_tokenizer(tokenizer)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)
model = load_model(settings.checkpoint_file, config)
talker = model.talker
rows = open_rows(settings.data_dir / "t2a-validation.parquet", config, settings.cache_dir())
Q, A, D = config.num_codebooks, config.audio_vocab_size, config.talker_hidden_size
PAD, STOP, SPEAKER = config.audio_pad_token, config.audio_stop_token, config.audio_spk_token
print(f"the finished Talker: {sum(p.numel() for p in talker.parameters()) / 1e6:.2f} M weights, {config.num_talker_hidden_layers} blocks of width {D}")

# %% [markdown]
# ## What it is given
#
# One row of the validation set, laid out as in notebook 07: eight streams of codes $(1, Q, T)$ over one stream of words $(1, T)$. Its sentence was never
# spoken in training. The Thinker reads the words; what it has half-way up goes to the Talker.

# %%
@dataclass(frozen=True)
class Spoken:
    """One row, laid out; tensors with a batch of one."""

    question: str
    answer: str
    codes: Tensor  # (Q, F)
    ids: list[int]  # of the whole conversation
    inputs: Tensor  # (1, Q + 1, T)
    labels: Tensor  # (1, Q, T)
    speaker: Tensor  # (1, S)
    first: int  # the answer's text stands at positions first .. last - 1, full stop included
    last: int
    words: list[str]


def lay_out(row) -> Spoken:
    """A row of the data as the model gets it, without a reference voice."""
    ids = tokenizer.conversation(row.conversation)
    codes = sequence.frames(row.answers[-1], Q, config.num_codes)
    laid = sequence.build_row(ids, codes, config, markers, has_speaker=True)
    first, last = sequence.find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
    words = [tokenizer.tokenizer.id_to_token(each).replace("Ġ", "").replace("Ċ", "↵") for each in ids]
    speaker = torch.tensor(np.array(row.speaker))[None]
    question, answer = row.conversation[-2]["content"], row.conversation[-1]["content"]
    return Spoken(question, answer, codes, ids, laid.input_ids[None], laid.audio_labels[None], speaker, first, last, words)


@torch.no_grad()
def bridge_of(text: Tensor) -> Tensor:
    """text (B, T) -> the Thinker's hidden states in the middle, (B, T, D of the Thinker)."""
    bridge, _ = model.model.lower(model.embed(text), make_window(model.model.config, text.shape[1], "cpu"))
    return bridge


one = lay_out(rows[7])
streams, text = one.inputs[:, :-1], one.inputs[:, -1]  # (1, Q, T), (1, T)
bridge = bridge_of(text)  # (1, T, D)
print(f"asked:    {one.question}\nanswered: {one.answer}")
blocks = f"block {config.bridge_layer} of 0 to {config.num_hidden_layers - 1}"
print(f"the Thinker's {blocks} hands over {tuple(bridge.shape)}; the codes are {tuple(streams.shape)}")
display(listen(codec.decode(one.codes[None])[0, 0], codec.sample_rate, one.answer))

# %% [markdown]
# The tensor of this notebook is the **bridge**, $(1, T, D_T)$: one column of numbers for every position, from the middle of the Thinker. It is all that the
# Talker ever learns about the text. Look at the right half of its picture: the words are over, and the columns go on. The Thinker reads padding as long as
# the speech lasts. (Red is above zero, blue below, white near it.)

# %%
with drawing(9.0, 3.2) as figure:
    axes = figure.add_subplot()
    spread = float(bridge.abs().quantile(0.98))
    axes.imshow(bridge[0].T, aspect="auto", cmap="RdBu_r", vmin=-spread, vmax=spread, interpolation="nearest")
    axes.axvline(one.first - 0.5, color="black", linewidth=1)
    axes.set_xticks(range(text.shape[1]), (one.words + [""] * text.shape[1])[: text.shape[1]], rotation=90, fontsize=9)
    axes.set(ylabel="width")
    axes.grid(False)
    axes.set_title("The bridge. The black line: the answer begins. No word under a column: padding.")
    picture = finish(figure, f"Heat map of the bridge, {bridge.shape[2]} numbers at {bridge.shape[1]} positions; the words end long before the columns do.")
display(picture)

# %% [markdown]
# **Not to be confused.** *"The Talker reads the Thinker's words aloud."* It cannot: it has no table of words. Search its weights for one:

# %%
sized = [name for name, weight in talker.named_parameters() if config.vocab_size in weight.shape]
print(f"weights of the Talker with a side of {config.vocab_size}, the number of words: {len(sized)}")

# %% [markdown]
# ## Exercise: eight codes, one vector
#
# *Exercise 08.embed · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("08.embed")`*
#
# The other half of the input is the codes spoken so far, eight at each position. They must become one vector. A whole table for each codebook would cost
# $Q A D$ weights. But the tables need not be strangers to each other. So there is one *shared* table $E$ $(A, D)$, and for each codebook $k$ an *adapter*: a
# narrow table $U_k$ $(A, R)$ of only $R$ numbers a code, and a matrix $W_k$ $(D, R)$ that brings them to the full width.
#
# $$e(c_0, \dots, c_{Q-1}) = \frac{1}{Q} \sum_k \Big( E[c_k] + W_k \, \mathrm{GELU}\big(U_k[c_k]\big) \Big) \in \mathbb{R}^D$$
#
# Square brackets pick a row. For all positions at once: codes $(B, Q, T)$ in, vectors $(B, T, D)$ out.

# %%
@exercise("08.embed")
def embed_codes(codes: Tensor, base: Tensor, tables: Tensor, outs: Tensor) -> Tensor:
    """codes (B, Q, T), base (A, D), tables (Q, A, R), outs (Q, D, R)
    -> (B, T, D).
    """
    ### BEGIN SOLUTION
    parts = []
    for k in range(codes.shape[1]):
        narrow = F.gelu(tables[k][codes[:, k]])  # (B, T, R)
        parts.append(base[codes[:, k]] + F.linear(narrow, outs[k]))  # (B, T, D)
    return torch.stack(parts).mean(dim=0)
    ### END SOLUTION


# %%
check("08.embed")

# %% [markdown]
# ## Exercise: one vector, eight answers
#
# *Exercise 08.heads · difficulty ●●○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("08.heads")`*
#
# At the other end it is the same, backwards. One hidden state $h$ $(D)$ comes out of the last block, and each codebook reads its own answer from it:
#
# $$\mathrm{logits}_k(h) = V h + P_k \, \mathrm{GELU}(N_k h) \in \mathbb{R}^A$$
#
# with a shared head $V$ $(A, D)$ and, for each codebook, $N_k$ $(R, D)$ down and $P_k$ $(A, R)$ up. This is all that *multi-token prediction* (MTP) is here.

# %%
@exercise("08.heads")
def read_heads(hidden: Tensor, base: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """hidden (B, T, D), base (A, D), inner (Q, R, D), outer (Q, A, R)
    -> logits (B, T, Q, A).
    """
    ### BEGIN SOLUTION
    shared = F.linear(hidden, base)  # (B, T, A), the same for all
    parts = []
    for k in range(len(inner)):
        narrow = F.gelu(F.linear(hidden, inner[k]))  # (B, T, R)
        parts.append(shared + F.linear(narrow, outer[k]))
    return torch.stack(parts, dim=-2)
    ### END SOLUTION


# %%
check("08.heads")

# %% [markdown]
# ## Exercise: what sharing saves
#
# *Exercise 08.count · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("08.count")`*
#
# Count the weights of embedding and heads together, first with shared parts and adapters, then with eight whole tables and eight whole heads. There are no biases.

# %%
@exercise("08.count")
def count_parameters(A: int, D: int, R: int, Q: int) -> tuple[int, int]:
    """-> weights of embedding and head with adapters,
    weights of Q full tables and Q full heads.
    """
    ### BEGIN SOLUTION
    shared = 2 * A * D
    adapters = 2 * Q * R * (A + D)
    return shared + adapters, 2 * Q * A * D
    ### END SOLUTION


# %%
check("08.count")

# %%
predict(
    "08.saved",
    mine=None,
    question="In the full-size model (A 2112, D 768, R 256, Q 8): how many percent of the eight whole tables and heads are left?",
)

# %%
real = ModelConfig()
for name, each in (("tiny", config), ("full size", real)):
    adapted, whole = count_parameters(each.audio_vocab_size, each.talker_hidden_size, each.adapter_rank, each.num_codebooks)
    print(f"{name:10} shared and adapters {adapted / 1e6:6.2f} M, eight of each {whole / 1e6:6.2f} M, left {adapted / whole:.0%}")
ranks = np.arange(8, 640, 8)
costs = [count_parameters(real.audio_vocab_size, real.talker_hidden_size, int(rank), real.num_codebooks) for rank in ranks]
adapted, whole = count_parameters(real.audio_vocab_size, real.talker_hidden_size, real.adapter_rank, real.num_codebooks)
with drawing(6.0, 2.2) as figure:
    axes = figure.add_subplot()
    axes.plot(ranks, [cost[0] / 1e6 for cost in costs], color=BLUE, label="shared and adapters")
    axes.axhline(whole / 1e6, color=ORANGE, label="eight whole tables and heads")
    axes.plot([real.adapter_rank], [adapted / 1e6], "o", color=BLUE)
    axes.set(xlabel="rank of the adapters", ylabel="million weights", ylim=(0, None))
    axes.legend()
    alt = "Weights against the rank of the adapters, a rising line; beyond a rank of about 490 the adapters cost more than eight whole tables."
    picture = finish(figure, alt)
display(picture)
reveal("08.saved", round(100 * adapted / whole), "percent")

# %% [markdown]
# The saving is real and not dramatic, for rank 256 is not very low. At the heads it saves work as well as weights. At the embedding it saves weights only: looking up
# a row costs the same in any table. To speak, `mmo.generation` even multiplies the adapters out, once, into eight whole tables, and then only looks codes up.
#
# ## Exercise: the Talker's input
#
# *Exercise 08.input · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("08.input")`*
#
# Two things come together: the bridge $b$ $(B, T, D_T)$ and the codes' embedding $e$ $(B, T, D)$. Each passes a small projection of its own (Linear, GELU, Linear, RMSNorm), which
# brings it to the Talker's width and to a common size, and each has a scale, one number that is learnt:
#
# $$x = s_\text{text} \, p_\text{text}(b) + s_\text{audio} \, p_\text{audio}(e) \qquad (B, T, D)$$
#
# One position is special. Before the answer stands the *speaker sign*, in all eight codebooks. There the speaker's vector replaces $e$, in front of the projection. That is how
# the Talker is told whose voice it has. In the code $p_\text{text}$ is `embed_proj`, $p_\text{audio}$ is `codec_proj`.

# %%
@exercise("08.input")
def talker_input(
    bridge: Tensor, embedded: Tensor, first: Tensor, voice: Tensor,
    embed_proj, codec_proj, text_scale: Tensor, audio_scale: Tensor, sign: int,
) -> Tensor:  # fmt: skip
    """The input of the Talker's first block, (B, T, D).

    bridge (B, T, D of the Thinker), embedded (B, T, D): the codes' embedding,
    first (B, T): the codes of codebook 0, voice (B, D): the speaker,
    embed_proj and codec_proj: functions, for the bridge and for the codes, sign: the speaker sign.
    """
    ### BEGIN SOLUTION
    here = (first == sign)[..., None]  # (B, T, 1)
    spoken = torch.where(here, voice[:, None], embedded)
    return embed_proj(bridge) * text_scale + codec_proj(spoken) * audio_scale
    ### END SOLUTION


# %%
check("08.input")

# %% [markdown]
# Now your three functions around the package's blocks, with the trained weights in them. They must give the logits of `mmo.omni.OmniModel`.

# %%
def adapters(module, place: int) -> Tensor:
    """The adapters' matrices at a place of each, stacked."""
    return torch.stack([adapter[place].weight for adapter in module.adapters])


with torch.no_grad():
    window = make_window(talker.config, text.shape[1], "cpu")
    embedded = embed_codes(streams, talker.embed_tokens.base.weight, adapters(talker.embed_tokens, 0), adapters(talker.embed_tokens, 2))
    parts = talker.embed_proj, talker.codec_proj, talker.text_scale, talker.audio_scale
    x = talker_input(bridge, embedded, streams[:, 0], talker.spk_proj(one.speaker), *parts, SPEAKER)
    x, _ = run_blocks(talker.layers, x, window)
    mine = read_heads(talker.norm(x), talker.lm_head.base.weight, adapters(talker.lm_head, 0), adapters(talker.lm_head, 2)).movedim(-2, 1)
    package = model(one.inputs, speaker=one.speaker).audio_logits  # (1, Q, T, A)
print(f"largest difference to mmo.omni.OmniModel: {float((mine - package).abs().max()):.1e}, of logits up to {float(package.abs().max()):.1f}")
print(f"scales, 3 and 1 at the start of training: text {talker.text_scale.item():.2f}, audio {talker.audio_scale.item():.2f}")
assert torch.allclose(mine, package, atol=1e-3)

# %% [markdown]
# In `mmo/talker.py` these are `CodeEmbedding`, `CodeHead` and `Talker`. The loops over codebooks are gone there where there are many positions: the adapters are stacked and multiplied at once. (For as few as here `CodeEmbedding` still loops.)
#
# ## Eight at once is a diagonal, not a frame
#
# Each step predicts eight codes at once, none knowing of the others. If they belonged to one frame, codebook 2 would have to refine a code of codebook 1 that it has not seen, and codebook 1 would have to fit a code 0 that it does not know.
# They do not belong to one frame. **Predict:**

# %%
predict(
    "08.column",
    mine=None,
    question="In the step in which codebook 0 says frame 9, which frame does codebook 7 say?",
)

# %%
shown = slice(one.first - 2, one.first + 18)
display(show_delay(one.inputs[0, :, shown], config, 2, (one.words + [""] * text.shape[1])[shown]))
nine = int((sequence.delay(torch.arange(10).expand(Q, -1), -1, -2)[0] == 9).nonzero())
reveal("08.column", int(sequence.delay(torch.arange(30).expand(Q, -1), -1, -2)[7, nine]))

# %% [markdown]
# Each square has the number of its frame. Read a column from top to bottom: the numbers fall by one. Now the same thing as an experiment. Of what the Talker has said so far we replace
# *one* code, that of codebook 0 in frame $f$, by a random one, and see which predictions become worse. We do so for one frame after the other, each time in a fresh copy of the row, and take the mean.
#
# **Predict:** which suffers more, codebook 0 in the *next* frame, or codebook 1 in the *same* frame?

# %%
predict(
    "08.influence",
    mine=None,
    question="One code of codebook 0 is wrong. Whose loss rises more: codebook 0 in the 'next' frame, or codebook 1 in the 'same' frame?",
)

# %%
@torch.no_grad()
def code_losses(bridge: Tensor, streams: Tensor, spoken: Spoken) -> Tensor:
    """bridge (B, T, D), streams (B, Q, T), all of one spoken row -> cross-entropy of its code k in frame f, (B, Q, F)."""
    speaker = spoken.speaker.expand(len(streams), -1)
    hidden, _ = talker(bridge, streams, speaker, make_window(talker.config, streams.shape[-1], "cpu"))
    frames = spoken.codes.shape[1]
    losses = []
    for k in range(Q):  # code k of frame f is predicted at position first + k + f
        here = hidden[:, spoken.first + k : spoken.first + k + frames]
        logits = talker.lm_head(here)[..., k, :]
        losses.append(F.cross_entropy(logits.flatten(0, 1), spoken.codes[k].repeat(len(streams)), reduction="none").view(len(streams), frames))
    return torch.stack(losses, dim=1)


def choose_rows(count: int, shortest: int = 20) -> list[Spoken]:
    """`one`, and other answers of at least so many frames, each sentence once; every third row, so that both voices come."""
    chosen = [one]
    for number in range(0, len(rows), 3):
        spoken = lay_out(rows[number])
        if spoken.codes.shape[1] >= shortest and spoken.answer not in [each.answer for each in chosen]:
            chosen.append(spoken)
        if len(chosen) == count:
            break
    return chosen


many = choose_rows(2 if budget == "smoke" else 10)
few = many[:6]
generator = torch.Generator().manual_seed(0)
REACH = 8
rises = torch.zeros(len(few), Q, 2 * REACH + 1)
for number, spoken in enumerate(few):
    own_bridge, own = bridge_of(spoken.inputs[:, -1]), spoken.inputs[:, :-1]
    changed = list(range(REACH, spoken.codes.shape[1] - REACH))
    wrong = own.repeat(len(changed), 1, 1)
    for place, frame in enumerate(changed):
        wrong[place, 0, spoken.first + 1 + frame] = torch.randint(config.num_codes, (1,), generator=generator)
    rise = code_losses(own_bridge.expand(len(changed), -1, -1), wrong, spoken) - code_losses(own_bridge, own, spoken)  # (changed, Q, F)
    rises[number] = torch.stack([rise[place, :, frame - REACH : frame + REACH + 1] for place, frame in enumerate(changed)]).mean(dim=0)
rise = rises.mean(dim=0)  # (Q, 2 REACH + 1)

# %%
with drawing(8.0, 2.9) as figure:
    axes = figure.add_subplot()
    top = float(rise.abs().max())
    untouched = rises.abs().amax(dim=0) < 1e-4  # nothing moved in any row: it was written before
    reached = np.ma.masked_where(untouched.numpy(), rise.numpy())
    axes.set_facecolor("#C8C8C8")
    extent = (-REACH - 0.5, REACH + 0.5, Q - 0.5, -0.5)
    shown = axes.imshow(reached, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", extent=extent, interpolation="nearest")
    axes.plot([0], [0], "x", color="black", markersize=9)
    axes.set(xlabel="frame, counted from the changed one", ylabel="codebook", yticks=range(Q))
    axes.grid(False)
    axes.set_title("Rise of the loss where one code (×) is replaced. Grey: cannot be touched.")
    figure.colorbar(shown, ax=axes, label="nats", pad=0.01)
    alt = "Rise of each code's loss after one code of codebook 0 was replaced. Left of a diagonal, in grey, everything stays as it was; "
    picture = finish(figure, alt + "right of it the first codebooks suffer most, codebook 1 of the same frame among them.")
display(picture)
same, next_frame = float(rise[1, REACH]), float(rise[0, REACH + 1])
print(f"codebook 1, same frame {same:+.2f} nats   codebook 0, next frame {next_frame:+.2f}   codebook 2, same frame {float(rise[2, REACH]):+.2f}")
reveal("08.influence", "same" if same > next_frame else "next")

# %% [markdown]
# The border of the grey field is the staircase of the delay. Codebook $k$ writes frame $f$ in step $f + k$. The changed code is written in step $f$ and first read in step $f + 1$, where codebook $k$ writes
# frame $f + 1 - k$. So the change reaches the other codes of its *own* frame, and even frames before it. That is what the delay buys: each code knows the coarser codes of its frame, as if they were written one
# after the other, and a step still writes eight. What is within reach need not be used: codebook 2 of the same frame can read the changed code as well, and its loss hardly moves.
#
# **Not to be confused.** Elsewhere, multi-token prediction means guessing several *future* tokens of one stream, to learn more from each position or to write faster.
# Here no head looks ahead: each of eight streams predicts its own next code.
#
# ## Exercise: the loss of eight heads
#
# *Exercise 08.loss · difficulty ●●● · importance ●●● · 12 minutes · 4 points · stuck? `hint("08.loss")`*
#
# Each codebook $k$ has its own cross-entropy: the mean over its $N_k$ positions $t$ that have a label, $y_{k,t} \ne -100$. Two weights come in. The stop, one label among many, counts $w$-fold in the sum
# but once in the count. And the codebooks are averaged with weights $a_k$, for the first ones carry the words:
#
# $$\ell_k = \frac{1}{N_k} \sum_{t\,:\,y_{k,t} \ne -100} w_{k,t}\, \mathrm{CE}_{k,t}, \qquad w_{k,t} = \begin{cases} w & y_{k,t} = \text{stop} \\ 1 & \text{else} \end{cases}, \qquad \ell = \frac{\sum_k a_k \ell_k}{\sum_k a_k}$$

# %%
@exercise("08.loss")
def audio_loss(logits: Tensor, labels: Tensor, stop: int, stop_weight: float, codebook_weights: Tensor) -> Tensor:
    """logits (Q, N, A), labels (Q, N) with -100 where nothing is learnt, codebook_weights (Q,)
    -> the loss, a scalar.
    """
    ### BEGIN SOLUTION
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)  # 0 at -100
    each = torch.where(labels == stop, each * stop_weight, each)
    counts = (labels != -100).sum(dim=1).clamp(min=1)
    means = each.sum(dim=1) / counts
    return (means * codebook_weights).sum() / codebook_weights.sum()
    ### END SOLUTION


# %%
check("08.loss")

# %% [markdown]
# Before anything is learnt every entry of the vocabulary is about as likely as any other. **Predict** the cross-entropy of codebook 0 in an untrained model:

# %%
predict(
    "08.start",
    mine=None,
    question=f"The audio vocabulary has {A} entries. Which cross-entropy does codebook 0 begin with?",
)

# %%
torch.manual_seed(0)
untrained = OmniModel(config).eval()


@torch.no_grad()
def by_codebook(which: OmniModel, spoken: list[Spoken], stop_weight: float) -> tuple[list[float], Tensor]:
    """The loss of each codebook over some rows, with your `audio_loss`: all the weight on one codebook at a time; and the logits (Q, N, A)."""
    logits, labels = [], []
    for each in spoken:
        logits.append(which(each.inputs, speaker=each.speaker).audio_logits[0])  # (Q, T, A)
        labels.append(each.labels[0])
    logits, labels = torch.cat(logits, dim=1), torch.cat(labels, dim=1)
    return [float(audio_loss(logits, labels, STOP, stop_weight, weight)) for weight in torch.eye(Q)], logits


start, start_logits = by_codebook(untrained, few, 1.0)
start_stop, _ = by_codebook(untrained, few, 10.0)
trained, _ = by_codebook(model, few, 1.0)
print("codebook                 " + "".join(f"{k:7}" for k in range(Q)))
for name, losses in (("untrained", start), ("untrained, stop tenfold", start_stop), ("the finished Talker", trained)):
    print(f"{name:25}" + "".join(f"{loss:7.2f}" for loss in losses))
print(f"ln {A} = {math.log(A):.2f}; a random head is not quite flat: half the variance of its logits is {float(start_logits.var(dim=-1).mean()) / 2:.2f}")
reveal("08.start", round(start[0], 2), f"(ln {A} is {math.log(A):.2f})")

# %% [markdown]
# A little above $\ln A$: random logits are not all alike, and being unevenly wrong costs about half their variance, $\ell_k \approx \ln A + \sigma^2 / 2$. The tenfold stop lifts the number that a
# training log shows: of $F + 1$ labels one counts nine times more, which at the start adds $9 / (F + 1)$ of the loss. Do not take it for a mistake.
#
# Compare the codebooks of the finished Talker. The first ones can be predicted, the last ones hardly. One understands it all the same, for the first ones carry the words. Nor does a low loss promise
# speech: it is measured with the *true* codes before each step, and when the Talker speaks they are its own.
#
# ## Which word is it on?
#
# Here is a riddle. The text row of our answer is over after a few positions. The speech goes on for dozens. **Predict** how the Talker knows, in the middle of
# its speech, which word comes next. Does it *look* back at the positions where the words stood? Is it *told*, by the bridge of its own position, where the Thinker goes on over padding?
# Or does it *continue* the codes that it has said?

# %%
words = one.words[one.first : one.last]
print(f"{len(words)} tokens of text: {words}")
print(f"{one.codes.shape[1]} frames of speech; the text is over at {one.last - one.first} of {one.codes.shape[1] + Q} steps,")
print("the first of which writes a word and no code")
predict("08.knows", "Mostly by which: 'look', 'told' or 'continue'?", None)

# %% [markdown]
# To see where it looks we take its attention apart. The package uses torch's fast attention, which never writes its weights down; `mmo.course.looking` does. For a head, let $a_{t,j}$ be the share of attention
# that step $t$ gives to word $j$ of the answer. Where it looks, on average, is its *gaze*:
#
# $$g_t = \frac{\sum_j j \, a_{t,j}}{\sum_j a_{t,j}}$$
#
# For every head we ask: over the frames that are spoken *after* the text has ended, does the gaze $g_t$ move on in step with time $t$? That is a correlation, 1 if it follows, 0 if it does not care. And
# how much of its attention, $\sum_j a_{t,j}$, is on the words at all? A reading head has both.

# %%
@torch.no_grad()
def look_in(spoken: Spoken, blind: set[tuple[int, int]] = frozenset()) -> tuple[Tensor, list[Tensor]]:
    """The Talker, block by block: its last hidden state (1, T, D), and each block's attention (H, T, T).

    blind: heads (block, head) that may not look from the speech at the answer's words.
    """
    streams = spoken.inputs[:, :-1]
    bridge, window = bridge_of(spoken.inputs[:, -1]), make_window(talker.config, streams.shape[-1], "cpu")
    parts = talker.embed_proj, talker.codec_proj, talker.text_scale, talker.audio_scale
    x = talker_input(bridge, talker.embed_tokens(streams), streams[:, 0], talker.spk_proj(spoken.speaker), *parts, SPEAKER)
    looks = []
    for number, block in enumerate(talker.layers):
        normed = block.input_layernorm(x)
        shares = attention_shares(block.self_attn, normed, window)  # (1, H, T, T)
        for head in range(shares.shape[1]):
            if (number, head) in blind:
                shares[:, head, spoken.first :, spoken.first : spoken.last] = 0
        x = x + hear_by(block.self_attn, normed, shares)
        out = block.mlp(block.post_attention_layernorm(x))
        x = x + (out[0] if isinstance(out, tuple) else out)
        looks.append(shares[0])
    return talker.norm(x), looks


def follows(spoken: Spoken, looks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """For every block and head, over frames behind the text's end: how well its gaze follows time, and its share on the words; (L, H) each."""
    frames = slice(spoken.last, spoken.first + spoken.codes.shape[1])
    on_words = torch.stack(looks)[:, :, frames, spoken.first : spoken.last]  # (L, H, frames, words)
    share = on_words.sum(dim=-1)
    centre = (on_words * torch.arange(on_words.shape[-1])).sum(dim=-1) / share
    time_line = torch.arange(centre.shape[-1]).float()
    a, b = centre - centre.mean(dim=-1, keepdim=True), time_line - time_line.mean()
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm()), share.mean(dim=-1)


measured = [follows(spoken, look_in(spoken)[1]) for spoken in few]
following, attending = (torch.stack(parts).mean(dim=0) for parts in zip(*measured))  # (L, H)
scores = following * attending
best = divmod(int(scores.argmax()), scores.shape[1])
with drawing(9.0, 2.4) as figure:
    panels = ("gaze against time: correlation", following, -1), ("share of attention on the answer's words", attending, 0)
    for axes, (title, values, low) in zip(figure.subplots(1, 2), panels):
        shown = axes.imshow(values, cmap="RdBu_r" if low else "cividis", vmin=low, vmax=1, aspect="auto")
        axes.set(xlabel="head", ylabel="block", xticks=range(values.shape[1]), yticks=range(values.shape[0]))
        axes.grid(False)
        axes.set_title(title)
        figure.colorbar(shown, ax=axes, pad=0.01)
    picture = finish(figure, "Two maps over blocks and heads: how well the gaze follows time, and how much attention is on the words. Few heads have both.")
display(picture)
ranked = [divmod(int(place), scores.shape[1]) for place in scores.flatten().argsort(descending=True)[:4]]
for block, head in ranked:
    print(f"block {block}, head {head}: correlation {float(following[block, head]):.2f}, {float(attending[block, head]):.0%} of its attention on the words")

# %% [markdown]
# These four have the largest product of the two: the best gaze. Nobody asked for this. Neither the data nor the loss says when a word is spoken; a few heads have become the finger on the page by themselves. (Two query heads share a key head, as in
# notebook 05: 0 and 1, 2 and 3, and so on.) Here is the best of them at work, under the sound of the same sentence (a row a word; the brighter, the more of its attention):

# %%
def gaze_of(spoken: Spoken, block: int, head: int) -> Tensor:
    """(F, words): how much a head looks at each word of the answer while each frame is predicted."""
    shares = look_in(spoken)[1][block][head]
    return shares[spoken.first : spoken.first + spoken.codes.shape[1], spoken.first : spoken.last]


def show_gaze(spoken: Spoken, block: int, head: int):
    """Spectrogram of the speech, and under it where a head looks while each frame is predicted."""
    gaze, frames = gaze_of(spoken, block, head), spoken.codes.shape[1]
    sound = codec.decode(spoken.codes[None])[0, 0].numpy()
    with drawing(9.0, 1.8 + 0.24 * gaze.shape[1]) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.4, 0.22 * gaze.shape[1]]})
        upper.specgram(sound + 1e-5, NFFT=512, Fs=codec.sample_rate, noverlap=384, cmap="magma", vmin=-120)
        upper.set(ylim=(0, 6000), ylabel="kHz")
        upper.set_yticks([0, 2000, 4000, 6000], ["0", "2", "4", "6"])
        upper.grid(False)
        upper.set_title(f'"{spoken.answer}": the sound, and where head {head} of block {block} looks')
        lower.imshow(gaze.T, aspect="auto", cmap="cividis", vmin=0, extent=(0, frames / codec.frame_rate, gaze.shape[1] - 0.5, -0.5), interpolation="nearest")
        lower.axvline(gaze.shape[1] / codec.frame_rate, color="white", linestyle=":", linewidth=1)
        lower.set_yticks(range(gaze.shape[1]), spoken.words[spoken.first : spoken.last])
        lower.set(xlabel="seconds (dotted: the text is over)")
        lower.grid(False)
        alt = f"Attention from frames to words for {spoken.answer!r}: a rough staircase that ends at the last word but one, under the spectrogram."
        return finish(figure, alt)


for spoken in few[:2]:
    display(listen(codec.decode(spoken.codes[None])[0, 0], codec.sample_rate, spoken.answer, picture=False))  # its spectrogram is in the picture below
    display(show_gaze(spoken, *best))

# %% [markdown]
# A gaze is no proof: a head may look and make nothing of it. So we make heads blind, one at a time: the words are hidden from this head, all others still see them. How much does the loss of codebook 0 rise?

# %%
@torch.no_grad()
def loss_when_blind(spoken: Spoken, blind: set[tuple[int, int]]) -> float:
    """Cross-entropy of codebook 0 over a row."""
    hidden = look_in(spoken, blind)[0][:, spoken.first : spoken.first + spoken.codes.shape[1]]
    return float(F.cross_entropy(talker.lm_head(hidden)[0, :, 0], spoken.codes[0]))


heads = [(block, head) for block in range(scores.shape[0]) for head in range(scores.shape[1])]
tried = few[:4]
seeing = [loss_when_blind(spoken, set()) for spoken in tried]
harm = {each: np.mean([loss_when_blind(spoken, {each}) - loss for spoken, loss in zip(tried, seeing)]) for each in heads}
together = {name: np.mean([loss_when_blind(spoken, group) - loss for spoken, loss in zip(tried, seeing)]) for name, group in
            {"the two with the best gaze together": set(ranked[:2]), "the four with the best gaze together": set(ranked), "all heads": set(heads)}.items()}
print("one at a time, the four whose blindness hurts most:")
for block, head in sorted(heads, key=harm.get, reverse=True)[:4]:
    print(f"{f'block {block}, head {head} blind':43}: loss of codebook 0 {np.mean(seeing):.2f} -> {np.mean(seeing) + harm[block, head]:.2f}")
print("several at once:")
for name, rise_of in together.items():
    print(f"{name + ' blind':43}: loss of codebook 0 {np.mean(seeing):.2f} -> {np.mean(seeing) + rise_of:.2f}")

# %% [markdown]
# The first list is in the order of the harm, not of the gaze: a head may read the words without following them one after the other, and be missed all the same. Compare the most harmful, the few with the best gaze, and all. The finger carries a part of the text across, but no single head carries it all. Blind all heads to the answer's words, and what is left comes from elsewhere: the codes said so far, the bridge at the position itself while the text lasts, and the question, which often has the same words in it.
#
# ### One word behind
#
# Look again at the last staircase step of each picture, and listen. Which word is being said while the head looks at the last word but one?

# %%
def last_loud(spoken: Spoken, count: int = 4, least: float = 0.1) -> Tensor:
    """(count,): the last frames in which the last word is still heard: as loud as a tenth of the loudest one (root mean square), or louder."""
    loudness = codec.decode(spoken.codes[None])[0, 0].view(-1, codec.frame_size).square().mean(dim=1).sqrt()  # (F,)
    return (loudness >= least * loudness.max()).nonzero()[-count:, 0]


behind = []
print("the last four loud frames of each answer, and the word that is looked at most:")
for spoken in few:
    gaze, loud = gaze_of(spoken, *best), last_loud(spoken)
    centre = (gaze * torch.arange(gaze.shape[1])).sum(dim=1) / gaze.sum(dim=1)
    last_word = gaze.shape[1] - 2  # the last token is the full stop
    behind.append(float(centre[loud].mean()) - last_word)
    looked_at = spoken.words[spoken.first + int(gaze[loud].mean(dim=0).argmax())]
    print(f"{spoken.answer:46} frames {int(loud[0]):2} to {int(loud[-1]):2} of {len(gaze)}: {looked_at!r}")
print(f"on average {np.mean(behind):+.1f} words from the word that is said")

# %% [markdown]
# The gaze is late, and the speech is not. How can that be? Remember what stands at a position: not a word but a *hidden state of a language model*, whose work it is to know **the next word**. The state above "blue" already
# holds "star". The Talker has learnt to read it there, because there it is first.
#
# If that is so, we can lie to it. We let the Thinker write an answer that it does not believe, by force, token by token. The text row then says "nine". A *judge* listens with you: a small speech recogniser that
# knows the words of this world and guesses the short ones. Trust your ears beside it. **Predict** what is heard:

# %%
predict(
    "08.lie",
    mine=None,
    question="Asked for three plus four, the text row is made to say 'Three plus four is nine.' Which number is heard?",
)

# %%
def say(question: str, written: str) -> Answer:
    """An answer whose text is `written`, whatever the Thinker would have said; the codes are all the Talker's."""
    voice = Generator(model, codec, tokenizer, settings.decoding)
    prompt = Prompt(tokenizer.prompt([{"role": "user", "content": question}]), many[1].speaker[0])
    return forced(voice, [prompt], [written], [torch.empty(Q, 0, dtype=torch.long)], given=0)[0]


vocabulary = settings.data_dir / "words.txt"
judge = Judge.from_file(vocabulary) if vocabulary.is_file() else None  # pocketsphinx, which hears only what is in the sound


def heard(samples: np.ndarray) -> str:
    """What the judge writes down; empty where a profile has no closed list of words."""
    return judge.transcribe([(samples, codec.sample_rate)], workers=1)[0] if judge and len(samples) else ""


def quoted(samples: np.ndarray) -> str:
    """A line for a player's caption; none where there is no judge."""
    return f'the judge hears: "{heard(samples)}"' if judge else ""


LIES = (
    ("What is three plus four?", "Three plus four is seven.", "Three plus four is nine."),
    ("Say: a green heart above a blue star.", "A green heart above a blue star.", "A green heart above a blue circle."),
)
notes = []
for question, true, lie in LIES:
    truly, falsely = say(question, true), say(question, lie)
    shared = min(truly.codes.shape[1], falsely.codes.shape[1])
    alike = float((truly.codes[0, :shared] == falsely.codes[0, :shared]).float().mean())
    notes.append(heard(falsely.samples))
    for answer in (truly, falsely):
        display(listen(answer.samples, codec.sample_rate, f'written: "{answer.text}"\n{quoted(answer.samples)}'))
    print(f"codes of codebook 0 that are the same in both, frame by frame: {alike:.0%}\n")
reveal("08.lie", notes[0].split()[-1] if notes[0] else "listen")

# %% [markdown]
# In the second pair many codes differ, and yet the judge hears the same last word in both. Codes that differ frame by frame are not yet other words: what is said, the ear decides.
#
# Could it have the true sentence by heart? Not the second one: that was never spoken in training. But two sentences are two. Here are twenty sums, each with a false last word; and the same twenty as they should be, to see how often the judge hears
# what is meant. **Predict:**

# %%
predict(
    "08.lies",
    mine=None,
    question="Of the lies whose last word the judge makes out: in how many percent is it the true one?",
)

# %%
LAST = "seven eight nine ten eleven twelve".split()
sums = [fact for fact in closed_facts() if fact.kind == "plus" and fact.answer.split()[-1].rstrip(".") in LAST]
sums = sums[:: len(sums) // (4 if budget == "smoke" else 20)][: 4 if budget == "smoke" else 20]


def with_last(answer: str, word: str) -> str:
    """The sentence with another last word."""
    return f"{answer.rpartition(' ')[0]} {word}."


trues = [fact.answer.split()[-1].rstrip(".") for fact in sums]
lies = [LAST[(LAST.index(true) + 3) % len(LAST)] for true in trues]
prompts = [Prompt(tokenizer.prompt([{"role": "user", "content": fact.questions[0]}]), many[1].speaker[0]) for fact in sums]
nothing = [torch.empty(Q, 0, dtype=torch.long)] * len(sums)
counts = {}
for name, last_words in (("true", trues), ("a lie", lies)):
    texts = [with_last(fact.answer, word) for fact, word in zip(sums, last_words)]
    spoken_answers = forced(Generator(model, codec, tokenizer, settings.decoding), prompts, texts, nothing, given=0)
    said = [heard(answer.samples).split()[-1:] for answer in spoken_answers]
    counts[name] = [sum(found == [word] for found, word in zip(said, words_of)) for words_of in (trues, lies)]
    right, wrong = counts[name]
    print(f"written: {name:6} of {len(sums)} last words the judge hears the true number {right} times, the lie {wrong}, others {len(sums) - right - wrong}")
made_out = sum(counts["a lie"])
share = round(100 * counts["a lie"][0] / made_out) if made_out else "not known"
reveal("08.lies", share, f"percent of {made_out}" if made_out else "(the judge made out none)")

# %% [markdown]
# The first line is the judge's and the Talker's own accuracy; the second is what the lie does to it. The more often the true number is heard there, the less the written word counts.
#
# **Not to be confused.** The Talker does not read what the Thinker wrote. The states that it gets hold the written word, too, but what it says is what the Thinker, half-way up its stack, *was about to* write. Where the two agree, which is nearly always, nobody notices. It is also why text and
# speech of such a model can drift apart, and why `mmo/evaluation.py` measures its speech against its own text.
#
# ### Which part of the input carries the words?
#
# A last experiment decides between *look*, *told* and *continue*. We put another answer's bridge in the place of this one's: once at the positions of the words, once at the padding behind them. We hide the
# codes said so far. And we put zeros in: at the padding, and everywhere. What has to be predicted stays the same, the true codes. **Predict** first: which codebook suffers most when the whole bridge is zeroed?

# %%
predict(
    "08.zeroed",
    mine=None,
    question="The whole bridge is zeroed. The loss of which codebook rises most? Give its number.",
)

# %%
def transplanted(bridge: Tensor, here: slice, donor: Tensor, there: slice) -> Tensor:
    """bridge (1, T, D) with the donor's states put in; the last one is repeated where the donor has too few."""
    changed, given = bridge.clone(), donor[0, there]
    wanted = len(changed[0, here])
    changed[0, here] = given[torch.arange(wanted).clamp(max=len(given) - 1)]
    return changed


bridges = [bridge_of(spoken.inputs[:, -1]) for spoken in many]
effects: dict[str, list[Tensor]] = {}
for number, (spoken, own_bridge) in enumerate(zip(many, bridges)):
    other = next(place % len(many) for place in range(number + 1, number + len(many)) if many[place % len(many)].answer != spoken.answer)
    said, spoken_of, place = spoken.inputs[:, :-1], many[other], torch.arange(own_bridge.shape[1])
    at_words, behind_words = slice(spoken.first, spoken.last), slice(spoken.last, None)
    for name, (changed_bridge, changed_codes) in {
        "nothing changed": (own_bridge, said),
        "padding: another answer's bridge": (transplanted(own_bridge, behind_words, bridges[other], slice(spoken_of.last, None)), said),
        "padding: zeros": (own_bridge.masked_fill((place >= spoken.last)[None, :, None], 0), said),
        "codes said so far: hidden": (own_bridge, torch.where((place > spoken.first) & (said != SPEAKER), PAD, said)),
        "words: another answer's bridge": (transplanted(own_bridge, at_words, bridges[other], slice(spoken_of.first, spoken_of.last)), said),
        "everywhere: zeros": (torch.zeros_like(own_bridge), said),
    }.items():
        effects.setdefault(name, []).append(code_losses(changed_bridge, changed_codes, spoken)[0].mean(dim=1))
table = {name: torch.stack(values).mean(dim=0) for name, values in effects.items()}  # (Q,) each
with drawing(8.5, 2.9) as figure:
    axes = figure.add_subplot()
    for (name, values), colour in zip(table.items(), (GREY, GREEN, ORANGE, PURPLE, BLUE, RED)):
        style = {"linewidth": 7, "alpha": 0.4} if name == "nothing changed" else {"linestyle": "--" if colour == GREEN else "-", "marker": "o", "markersize": 4}
        axes.plot(range(Q), values, color=colour, label=name, **style)
    axes.axhline(math.log(A), color="black", linestyle=":", linewidth=1, label=f"knowing nothing: ln {A}")
    axes.set(xlabel="codebook", ylabel="cross-entropy, nats", ylim=(0, None))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    alt = "Cross-entropy of each codebook with parts of the input changed; another answer's padding changes nothing that is seen; "
    picture = finish(figure, alt + "without a bridge, or with another answer's at the words, the first codebooks lose most, the last ones hardly anything.")
display(picture)
for name, values in table.items():
    print(f"{name:34}" + "".join(f"{float(value):7.2f}" for value in values))
rise_by_codebook = table["everywhere: zeros"] - table["nothing changed"]
highest, latest = float(rise_by_codebook.max()), float(rise_by_codebook[-1])
reveal("08.zeroed", int(rise_by_codebook.argmax()), f"(by {highest:.1f} nats; the last codebook's rises by {latest:.1f})")

# %%
witnesses = {"look": "words: another answer's bridge", "told": "padding: another answer's bridge", "continue": "codes said so far: hidden"}
loss_0 = {word: float(table[name][0]) for word, name in witnesses.items()}
found = f"with the other answer's words {loss_0['look']:.1f}, with its padding {loss_0['told']:.1f}, without the codes said so far {loss_0['continue']:.1f}"
reveal("08.knows", max(loss_0, key=loss_0.get), f"(loss of codebook 0: {found})")

# %% [markdown]
# Compare the two lines about the padding. With zeros there the loss rises a good deal; with the padding of *another sentence* hardly at all. So nothing about the words is read there. A zero is not "nothing": it is an input that was never
# seen, and it does harm of its own. Whoever takes parts of a network away should take them from another example, not from nowhere.
#
# And compare the codebooks. The early ones say *what* is said, and they know it from the bridge. The late ones say how it sounds in detail, and there the bridge is of little help. Without any bridge the loss of codebook 0 may even end
# *above* $\ln A$, worse than a blind guess: a Talker that has lost its Thinker is not ignorant but wrong, and sure of it. Left alone it may be so sure that it stops before its first frame. So here it is forbidden to stop. Hear it:

# %%
class Deaf(nn.Module):
    """A projection that gets zeros whatever comes."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, bridge: Tensor) -> Tensor:
        return self.projection(torch.zeros_like(bridge))


voice = Generator(model, codec, tokenizer, settings.decoding)
voice.model.talker.embed_proj = Deaf(talker.embed_proj)  # of the generator's own twin; the model stays as it is
chances = voice.model.audio_head


def endless(state: Tensor) -> Tensor:
    """The Talker's logits, without its stop."""
    logits = chances(state)
    logits[..., config.audio_stop_token] = -torch.inf
    return logits


voice.model.audio_head = endless
prompt = Prompt(tokenizer.prompt([{"role": "user", "content": one.question}]), one.speaker[0])
babble = voice.answer(prompt, replace(settings.decoding, max_frames=40))
display(listen(babble.samples, codec.sample_rate, f'the Thinker wrote: "{babble.text}"\nthe Talker, without its bridge:\n{quoted(babble.samples)}'))

# %% [markdown]
# ### The lead of the text
#
# The text comes at one token a step, the speech needs about three steps for each. So the text runs ahead, and soon the Talker has the whole sentence before it. Does it need that lead? We hide words: for
# every number $v$ of visible tokens the text row is cut behind the first $v$, as if the answer ended there, and the loss of every frame is measured.

# %%
def loss_by_visible(spoken: Spoken) -> Tensor:
    """(n + 1, F): loss of codebook 0 in each frame, where the text row shows 0, 1, ... n tokens of the answer and nothing behind them."""
    n, whole = spoken.last - spoken.first, spoken.inputs[0, -1]
    cut = whole.repeat(n + 1, 1)  # (n + 1, T)
    for v in range(n):  # v tokens, then the end of an answer as training knows it
        cut[v, spoken.first + v :] = config.pad_token
        cut[v, spoken.first + v], cut[v, spoken.first + v + 1] = config.im_end_token, config.newline_token
    return code_losses(bridge_of(cut), spoken.inputs[:, :-1].expand(n + 1, -1, -1), spoken)[:, 0]


PACES = (1, 2, 3, 4, 5, 6, 8)
predict(
    "08.lead",
    mine=None,
    question="If the text came at the pace of the speech, about one token every three steps, "
    "would the loss of codebook 0 rise by more than a tenth of a nat: 'yes' or 'no'?",
)

# %%
maps = [loss_by_visible(spoken) for spoken in many]


def at_pace(losses: Tensor, pace: int) -> float:
    """Mean loss if one token came every `pace` steps: frame f is then predicted with f // pace + 1 tokens visible."""
    n, frames = losses.shape[0] - 1, losses.shape[1]
    return float(torch.stack([losses[min(n, f // pace + 1), f] for f in range(frames)]).mean())


paces = {pace: np.mean([at_pace(losses, pace) for losses in maps]) for pace in PACES}
natural = np.mean([spoken.codes.shape[1] / (spoken.last - spoken.first) for spoken in many])
with drawing(9.0, 3.3) as figure:
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.7, 1]})
    n, frames = maps[0].shape[0] - 1, maps[0].shape[1]
    extent = (-0.5, frames - 0.5, n + 0.5, -0.5)
    shown = left.imshow(maps[0], aspect="auto", cmap="cividis", vmin=0, vmax=10, extent=extent, interpolation="nearest")
    left.step(range(frames), [min(n, f + 1) for f in range(frames)], where="mid", color=SKY, linewidth=1.4, label="visible, as the text comes")
    paced = [min(n, f // round(natural) + 1) for f in range(frames)]
    left.step(range(frames), paced, where="mid", color=RED, linewidth=1.4, label="visible, at the pace of speech")
    left.set_yticks(range(n + 1), ["nothing"] + [f"… {word}" for word in one.words[one.first : one.last]])
    left.set(xlabel="frame that is predicted")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    left.grid(False)
    left.set_title("loss of codebook 0, text visible up to …")
    figure.colorbar(shown, ax=left, label="nats", pad=0.01)
    right.plot(list(paces), list(paces.values()), "o-", color=BLUE)
    right.axvline(natural, color=RED, linestyle=":", linewidth=1.2)
    right.set(xlabel="steps for each token of text", ylabel="loss of codebook 0, nats", ylim=(0, None))
    right.set_title("dotted: the pace of speech")
    alt = "Left: loss of codebook 0 for each frame and number of visible words; late frames need late words. "
    picture = finish(figure, alt + "Right: mean loss against the pace of the text; it rises as the text gets slower.")
display(picture)
print("steps for each token: loss   " + "   ".join(f"{pace}: {loss:.2f}" for pace, loss in paces.items()))
print(f"the speech itself: {natural:.1f} steps a token")
reveal("08.lead", "yes" if paces[round(natural)] - paces[1] > 0.1 else "no")

# %% [markdown]
# The map is of one sentence, and all above 10 nats is one yellow; the curve is the mean of several sentences. Read the map by columns, from top to bottom. A frame's loss is high as long as the words before it are hidden; the words after the one it is on change little. Look at the frames of the last word. Must that word stand in the text, or only the one
# before it? That is the lie from above once more, as a number:

# %%
tail = []  # without the last word and its full stop, and with all
for spoken, losses in zip(many, maps):
    loud = last_loud(spoken)
    tail.append((float(losses[-3, loud].mean()), float(losses[-1, loud].mean())))
hidden_word, all_words = np.mean(tail, axis=0)
print(f"last four loud frames of each answer: loss {hidden_word:.2f} with the last word hidden, {all_words:.2f} with all words")

# %% [markdown]
# So the Talker does not need the whole sentence. But it was trained with a text that runs far ahead: at the pace of speech it loses a little already, and a text that is slower than the speech fails it. (The measure is a rough one: the earlier positions of a row see as many words as the frame in
# question, and the text that is cut looks like an answer that is over. A model *trained* with word-timed text, as Moshi is, learns to do with less. That is a capstone of [appendix A4](A4_scale_out.ipynb).)
#
# ## One sentence, from nothing
#
# Enough taken apart. We take a fresh Talker, random in every weight, with the Thinker that came with the course, and give it one row of data over and over. **Predict** how many updates it needs until its audio loss is below 0.5. About then it can say
# the sentence:

# %%
STEPS = 16 if budget == "smoke" else 60
MOMENTS = [STEPS] if budget == "smoke" else [15, 30, STEPS]
predict(
    "08.overfit",
    mine=None,
    question="After how many updates does the audio loss fall below 0.5?",
)

# %%
corpus = Corpus([DataFile(rows)], Draws.none(drop_reference=1.0))
layout = Layout(config, tokenizer, max_length=320)
batch = collate([realise(corpus, 7, 0, np.random.default_rng(0), layout)], config)
recipe = StageConfig("one sentence", ("none",), 1e-3, steps=STEPS, warmup_steps=5, schedule="linear", final_rate=0.1,
                     stop_weight=10.0, max_length=320, token_budget=320)
torch.manual_seed(0)
learner = OmniModel(config)
load_thinker(learner.model, settings.thinker_file)
stepper = Stepper(learner.train(), recipe, STEPS, torch.device("cpu"), torch.float32)
prompt = Prompt(tokenizer.prompt([{"role": "user", "content": one.question}]), one.speaker[0])
greedy = replace(settings.decoding.greedy(), max_frames=one.codes.shape[1] + 10)
attempts, history = {}, []
log = Path(tempfile.mkdtemp()) / "one.jsonl"
started = time.perf_counter()
with LossCurves(log, f'"{one.answer}"', seconds=1.0), open(log, "w", encoding="utf-8") as file:
    for step in tqdm(range(STEPS), desc="one sentence", unit="step"):
        figures = stepper.step(batch, step).tolist()
        history.append(named(figures[:-2]))
        print(json.dumps({"step": step} | history[-1]), file=file, flush=True)
        if step + 1 in MOMENTS:
            attempts[step + 1] = Generator(learner, codec, tokenizer, greedy).answer(prompt)
print(f"{STEPS} updates and {len(MOMENTS)} answers in {time.perf_counter() - started:.0f} s")

# %%
for step, answer in attempts.items():
    shared = min(answer.codes.shape[1], one.codes.shape[1])
    right = [float((answer.codes[k, :shared] == one.codes[k, :shared]).float().mean()) if shared else 0.0 for k in range(Q)]
    shares = " ".join(f"{share:.0%}" for share in right)
    display(listen(answer.samples, codec.sample_rate, f"after {step} updates\n{quoted(answer.samples)}\nright codes by codebook, 0 to {Q - 1}: {shares}"))
recording = codec.decode(one.codes[None])[0, 0].numpy()
display(listen(recording, codec.sample_rate, f'the recording, through the codec: "{one.answer}"\n{quoted(recording)}'))
below = next((step + 1 for step, each in enumerate(history) if each["audio"] < 0.5), None)
reveal("08.overfit", below if below else f"not within {STEPS}", "updates" if below else "updates")

# %% [markdown]
# In seconds, from random weights, a sentence. Where every code is right, the judge hears the same as in the recording, mistakes included: those are the judge's and the codec's. This is the first thing to try with any new model of this kind. What
# cannot learn one row by heart has a bug, in its labels, its delay or its decoding, and no data will help. If the loss falls and the sound is wrong, what is fed in decoding is not what was fed in training.
#
# All eight codebooks are learnt here, the late ones too. They can be learnt by heart; they can hardly be *predicted* for a sentence that was never heard. And one sentence by heart is not speech. Ask for something else:

# %%
other = lay_out(rows[2])
prompt = Prompt(tokenizer.prompt([{"role": "user", "content": other.question}]), one.speaker[0])
asked = Generator(learner, codec, tokenizer, greedy).answer(prompt)
display(listen(asked.samples, codec.sample_rate, f'asked: "{other.question}"\nit writes: "{asked.text}"\n{quoted(asked.samples)}'))

# %% [markdown]
# ## Against a depth transformer
#
# A frame's codes can know of each other in another way. Moshi and Sesame's CSM, after the RQ-Transformer, run the large transformer once a frame and let a *small* one, the depth transformer, write the frame: code 1
# knowing code 0, then code 2 knowing both, and so on down. No staircase is needed. (Moshi has both: a depth transformer, and a step or two of delay between its first codebook and the others.) Three ways, then:
#
# | | large steps for $F$ frames | small steps | $c_{k,f}$ knows of its own frame |
# |---|---|---|---|
# | **parallel** | $F$ | – | nothing |
# | **delayed** (ours) | $F + Q - 1$ | – | $c_{0,f} \dots c_{k-1,f}$, through the history |
# | **depth** | $F$ | $(Q - 1) F$ | $c_{0,f} \dots c_{k-1,f}$, directly |
#
# By the chain rule all three give a probability to the whole answer, so the sum of their losses over a frame's codes may be compared, in nats a frame. To make a short race fair, all three get the same rows in the same order, the finished Talker's way in
# (its embedding and projections, frozen), two fresh blocks, about as many weights to learn, and the first four codebooks to write. `mmo/course/depth.py` has the depth transformer: read it, it is short.

# %%
FEW = 4  # codebooks
race = config.replace(num_codebooks=FEW, num_talker_hidden_layers=2, use_moe=False)
WAY_IN = ("embed_tokens", "embed_proj", "codec_proj", "spk_proj", "text_scale", "audio_scale")


class Writer(nn.Module):
    """Two blocks between the finished Talker's way in, which is frozen, and one of three ways to write a frame."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.body = way, Talker(race)
        own = self.body.state_dict()
        given = {name: value for name, value in talker.state_dict().items() if name in own and name.split(".")[0] in WAY_IN}
        self.body.load_state_dict(given, strict=False)
        self.body.lm_head = nn.Identity()
        for name, weight in self.body.named_parameters():
            weight.requires_grad_(name.split(".")[0] not in WAY_IN)
        self.out = DepthTransformer(race, self.body.embed_tokens, width=96, rank=16) if way == "depth" else CodeHead(race.replace(adapter_rank=80))
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(weight)  # every block begins by adding nothing

    def forward(self, rows: "Rows") -> Tensor:
        """-> cross-entropy of every code of every frame, (codes, Q)."""
        streams = rows.delayed if self.way == "delayed" else rows.straight
        inputs, targets = streams[:, :, :-1], streams[:, :, 1:]
        hidden, _ = self.body(rows.bridge[:, :-1], inputs, rows.speaker, make_window(self.body.config, inputs.shape[-1], "cpu"))
        learnt = targets < config.num_codes  # codes only, no signs
        here = learnt.any(dim=1)
        targets = torch.where(learnt, targets, IGNORE).transpose(1, 2)[here]  # (N, Q)
        logits = self.out(hidden[here], targets.clamp(min=0)) if self.way == "depth" else self.out(hidden[here])  # (N, Q, A)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return losses.sum(dim=0) / (targets != IGNORE).sum(dim=0)


@dataclass(frozen=True)
class Rows:
    """A batch: the bridge (B, T, D), both ways to lay out the codes (B, Q, T), the speakers (B, S)."""

    bridge: Tensor
    delayed: Tensor
    straight: Tensor
    speaker: Tensor


def make_rows(spoken: list[Spoken]) -> Rows:
    """Rows of like length, padded to the longest."""
    T = max(each.first + 1 + each.codes.shape[1] + FEW for each in spoken)
    text = torch.full((len(spoken), T), config.pad_token)
    delayed = torch.full((len(spoken), FEW, T), PAD)
    straight = delayed.clone()
    for b, each in enumerate(spoken):
        text[b, : len(each.ids)] = torch.tensor(each.ids)
        codes, start = each.codes[:FEW], each.first + 1
        delayed[b, :, start : start + codes.shape[1] + FEW] = sequence.delay(codes, PAD, PAD)
        straight[b, :, start : start + codes.shape[1]] = codes
        delayed[b, :, each.first - 1] = straight[b, :, each.first - 1] = SPEAKER
    return Rows(bridge_of(text), delayed, straight, torch.cat([each.speaker for each in spoken]))


def make_batches(name: str, count: int, positions: int = 640) -> list[Rows]:
    """`count` rows of a file, drawn at random, in batches of like length."""
    file = open_rows(settings.data_dir / name, config, settings.cache_dir())
    drawn = np.random.default_rng(0).permutation(len(file))[:count]
    spoken = sorted((lay_out(file[int(number)]) for number in drawn), key=lambda each: each.inputs.shape[-1])
    size = max(1, positions // spoken[-1].inputs.shape[-1])
    return [make_rows(spoken[at : at + size]) for at in range(0, len(spoken), size)]


RACE_STEPS, RACE_ROWS = (6, 48) if budget == "smoke" else (250, 600)
training, held_out = make_batches("t2a-train.parquet", RACE_ROWS), make_batches("t2a-validation.parquet", 16 if budget == "smoke" else 48)
for way in ("parallel", "delayed", "depth"):
    writer = Writer(way)
    learning = sum(weight.numel() for weight in writer.parameters() if weight.requires_grad)
    writing = sum(weight.numel() for weight in writer.out.parameters() if weight.requires_grad)
    print(f"{way:9} {learning / 1e6:.3f} M weights learn, {writing / 1e6:.3f} M of them write the frame")

# %%
predict(
    "08.race",
    mine=None,
    question="Which way ends with the least loss in nats a frame on held-out rows: 'parallel', 'delayed' or 'depth'?",
)

# %%
def train_writer(way: str) -> tuple[Tensor, list[float], float]:
    """Train one way; returns held-out losses (Q,), the training curve in nats a frame, seconds."""
    torch.manual_seed(0)
    writer, order = Writer(way), np.random.default_rng(1)
    learning = {name: weight for name, weight in writer.named_parameters() if weight.requires_grad}
    recipe = StageConfig(way, ("none",), 2e-3, steps=RACE_STEPS, warmup_steps=10, schedule="linear", final_rate=0.05)
    optimisers, curve, started = Optimisers(learning, recipe), [], time.perf_counter()
    with Curves(f"nats a frame, {way}") as curves:
        for step in tqdm(range(RACE_STEPS), desc=way, unit="step"):
            optimisers.set_rate(rate_factor(step, RACE_STEPS, recipe))
            losses = writer(training[int(order.integers(len(training)))])
            losses.mean().backward()
            nn.utils.clip_grad_norm_(list(learning.values()), 1.0)
            optimisers.step(torch.zeros(()))
            optimisers.zero_grad()
            curve.append(float(losses.detach().sum()))
            curves.add(step, curve[-1])
    seconds = time.perf_counter() - started
    with torch.no_grad():
        held = torch.stack([writer.eval()(rows) for rows in held_out]).mean(dim=0)
    return held, curve, seconds


results = {"parallel": train_writer("parallel")}

# %%
results["delayed"] = train_writer("delayed")

# %%
results["depth"] = train_writer("depth")

# %%
with drawing(9.0, 2.8) as figure:
    left, right = figure.subplots(1, 2)
    for number, ((way, (held, curve, seconds)), colour) in enumerate(zip(results.items(), (ORANGE, BLUE, GREEN))):
        left.plot(smooth(curve, 0.1), color=colour, label=way)
        right.bar(np.arange(FEW) + 0.27 * (number - 1), held, width=0.25, color=colour, label=way)
    left.set(xlabel="update", ylabel="nats a frame, in training")
    left.legend()
    right.set(xlabel="codebook", ylabel="held-out cross-entropy, nats", xticks=range(FEW), ylim=(0, None))
    picture = finish(figure, "Left: training curves of the three ways. Right: held-out cross-entropy of each codebook, one bar for each way.")
display(picture)
for way, (held, _, seconds) in results.items():
    print(f"{way:9} held out, by codebook {' '.join(f'{float(loss):5.2f}' for loss in held)}   {float(held.sum()):5.2f} a frame   trained in {seconds:.0f} s")
reveal("08.race", min(results, key=lambda way: float(results[way][0].sum())))

# %% [markdown]
# Look at codebook 1, not at the sum alone: it describes the same latent as codebook 0, and there it shows first that *parallel* does not know that one. So short a training does not decide between the other two; it does say that both ways that let a frame's codes know of
# each other get more out of the same rows, and that neither needs more weights for it. (Codebook 0 is not won by the history: *parallel* has the same one as *depth* and is no better there than *delayed*. Perhaps depth's own full head helps: `first` in `mmo/course/depth.py`, where the others read all codebooks from a shared one with adapters.) So the choice between these two is made elsewhere, **at decoding**. What does one frame cost, one row at a time?

# %%
@torch.no_grad()
def milliseconds(work, times: int = 40) -> float:
    """The median of some calls, in milliseconds of a core (so that other programs' work does not count)."""
    work()
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - started))
    return float(np.median(taken))


quick, depth = for_decoding(model).talker, DepthTransformer(config, talker.embed_tokens, width=96, rank=16).eval()
cache, lengths = KVCache(talker.config, 1, 128, torch.float32, "cpu"), CacheLengths(1, 128, "cpu")
lengths.advance([60])
step_window = make_window(talker.config, 1, "cpu", lengths)
one_bridge, one_step = bridge[:, -1:], streams[:, :, -1:]
state = quick(one_bridge, one_step, one.speaker, step_window, cache)[0]
body = milliseconds(lambda: quick(one_bridge, one_step, one.speaker, step_window, cache))
eight = milliseconds(lambda: quick.lm_head(state))
down = milliseconds(lambda: depth.write(state[0], lambda logits: logits.argmax(-1)))
predict(
    "08.depth_cost",
    mine=None,
    question="The Talker's blocks and eight heads at once take 1. How much do the blocks and a depth transformer take?",
)

# %%
print(f"the Talker's blocks {body:.2f} ms a step; eight heads at once {eight:.2f} ms; code 0 and seven small steps {down:.2f} ms")
frames = one.codes.shape[1]
print(f"for {frames} frames: delayed {frames + Q - 1} steps, {(frames + Q - 1) * (body + eight):.0f} ms; depth {frames} steps, {frames * (body + down):.0f} ms")
print(f"before the first frame is whole: delayed {Q * (body + eight):.0f} ms, depth {body + down:.0f} ms")
reveal("08.depth_cost", round((body + down) / (body + eight), 1), "times")

# %% [markdown]
# (Our `write` computes the few positions of a frame anew at each of its steps; a cache would save a part of that, but not the steps themselves, which must wait for each other.) So
# the delay costs next to nothing per frame and pays once, with seven steps more before the first sound. The depth transformer has its first frame after one large step and pays in every frame. A small model on a small machine takes the delay. A
# large one, whose blocks dwarf a depth transformer, may well take the other. Moshi does: in a conversation the first frame counts.

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("08")

# %% [markdown]
# ## Summary
#
# - The Talker gets, at each position, one hidden state from the middle of the Thinker and eight codes of its own past. No words.
# - Embedding and heads share one table and one head; low-rank adapters tell the codebooks apart.
# - Eight codes a step lie on a diagonal: each knows the coarser codes of its frame.
# - The loss begins a little above $\ln A$. What can be predicted of a new sentence are the early codebooks, from the bridge.
# - A few heads keep, of their own accord, a finger on the text, one word behind, since a state holds the next word. So the Talker says what the Thinker thinks, not what it wrote.
# - One sentence is learnt by heart in seconds: the first test of every new model.
# - In a depth transformer, too, each code knows the coarser ones of its frame. It pays in every frame, the delay pays once.
#
# **Often mistaken.** *"MTP predicts the future."* Not here: eight streams, each its own next code. *"The Talker is a text-to-speech model behind a chatbot."* That one would get the text, and could not say what was not written.
# *"A lower loss is better speech."* A loss near zero went with a model that has one sentence. *"Attention shows what matters."* It shows where a head looks. Make it blind, and see.
#
# **To try.** Zero the bridge only where the gaze of the best head is. Take the bridge from the Thinker's last block (`config.replace(bridge_layer=3)`) and overfit again: as quick? Begin the sound three positions later than `sequence.build_row` does, in training and in
# decoding: what does the longer lead buy? Give the depth transformer two blocks. Set `adapter_rank` to 4 and overfit one sentence.
#
# **Where to read on.** In this course: `mmo/talker.py`, `mmo/omni.py`; the same model trained in earnest in [notebook 10](10_train_t2a.ipynb). Papers:
#
# - J. Copet, F. Kreuk, I. Gat, T. Remez, D. Kant, G. Synnaeve, Y. Adi, A. Défossez: *Simple and Controllable Music Generation.* NeurIPS 2023, [arXiv:2306.05284](https://arxiv.org/abs/2306.05284).
#   The delay against parallel and flat.
# - D. Lee, C. Kim, S. Kim, M. Cho, W.-S. Han: *Autoregressive Image Generation using Residual Quantization.* CVPR 2022, [arXiv:2203.01941](https://arxiv.org/abs/2203.01941). The RQ-Transformer: a large one over
#   positions, a small one in depth.
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024, [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). Its depth transformer, and text timed by words.
# - The Sesame team: *Crossing the uncanny valley of conversational voice.* 2025,
#   [sesame.com/research](https://www.sesame.com/research/crossing_the_uncanny_valley_of_voice). CSM: a backbone for codebook 0, a small decoder for the others.
# - J. Xu, Z. Guo, J. He and others: *Qwen2.5-Omni Technical Report.* 2025, [arXiv:2503.20215](https://arxiv.org/abs/2503.20215). Where Thinker and Talker have their names from.
# - E. Hu, Y. Shen, P. Wallis and others: *LoRA: Low-Rank Adaptation of Large Language Models.* 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685). Low rank, added to something shared.
# - F. Gloeckle, B. Youbi Idrissi, B. Rozière, D. Lopez-Paz, G. Synnaeve: *Better & Faster Large Language Models via Multi-token Prediction.* 2024, [arXiv:2404.19737](https://arxiv.org/abs/2404.19737). The other MTP.
# - Y. Wang, RJ Skerry-Ryan, D. Stanton and others: *Tacotron: Towards End-to-End Speech Synthesis.* 2017, [arXiv:1703.10135](https://arxiv.org/abs/1703.10135). Attention that learns to read along, and dropout on
#   the history so that it must.
