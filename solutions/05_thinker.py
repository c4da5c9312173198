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
# # 05 · The Thinker
#
# *Takes 75 minutes (tiny) · runs in 81 s on one core (tiny) · builds on nothing before it · 6 exercises, 14 points*
#
# **At the end** you have written every part of a modern language model: norm, positions, attention with its mask and its cache, the gated
# feed-forward. Your functions run the weights that come with the course, and they answer you in writing. And you have pretrained a Thinker of your own for a
# minute or two, from random numbers, and read what it writes on the way.
#
# **You need** matrix products, softmax, and what a token is. If attention is new to you, read the first paper at the end beside this notebook.
#
# **The claim.** A decoder block is five small functions. Written one by one, with trained weights in them, they give the same numbers as
# the package, and text comes out.
#
# Letters: $T$ positions, $S$ positions that can be seen, $D$ width, $H$ query heads, $G$ key and value heads, $E$ width of a head.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few steps where a Thinker is trained

# %%
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mmo.chat import ChatTokenizer
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import BLUE, ORANGE, Curves, drawing, finish
from mmo.profiles import profile as find_profile
from mmo.thinker import Thinker, load_thinker
from mmo.transformer import KVCache, CacheLengths, make_window, rotary_table
from mmo.world import train_thinker

settings = find_profile(profile)
config = settings.model.thinker
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
thinker = Thinker(settings.model).eval()
load_thinker(thinker, settings.thinker_file)
weights = thinker.state_dict()
torch.set_grad_enabled(False)  # gradients are turned on where something learns: in the checks, and in the training at the end

D, H, G, E = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
print(f"{sum(p.numel() for p in thinker.parameters()) / 1e6:.2f} M weights: {config.num_layers} blocks of width {D}, {H} query heads over {G} key heads of {E}")

# %% [markdown]
# ## A text, as the Thinker gets it
#
# Words become tokens, tokens become ids, and each id picks a row of the embedding: $(T)$ ids give $(T, D)$ numbers, the *stream*.
# Every block reads the stream and adds to it. Until one norm at the very end nothing else happens to it.

# %%
ids = tokenizer.prompt([{"role": "user", "content": "What is three plus four?"}])
stream = weights["embed_tokens.weight"][ids]  # (T, D)
tokens = [tokenizer.tokenizer.id_to_token(each).replace("Ġ", " ").replace("Ċ", "↵") for each in ids]
for first in range(0, len(ids), 4):
    print("".join(f"{token!r} is {each}".ljust(23) for token, each in zip(tokens[first : first + 4], ids[first : first + 4])).rstrip())
print("stream:", tuple(stream.shape))

# %% [markdown]
# The stream is the tensor of this notebook. Here it is at both ends, a column for each token (red above zero, blue below): as it comes from the table, and as the package's Thinker leaves it behind the
# last block. On the left equal tokens have equal columns (look at the two `<|im_start|>`). On the right no two are alike: each column has read what stands before it, and says what comes next.

# %%
window = make_window(config, len(ids), "cpu")
package, _ = thinker.upper(thinker.lower(thinker.embed_tokens(torch.tensor(ids)[None]), window)[0], window)  # (1, T, D)
titles = ("from the embedding: (T, D)", "behind the last block and its norm: (T, D)")
with drawing(9.0, 3.4) as figure:
    for axes, each, title in zip(figure.subplots(1, 2, sharey=True), (stream, package[0]), titles):
        top = float(each.abs().quantile(0.98))
        axes.imshow(each[:, :64].T, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=9)
        axes.set(title=title)
        axes.grid(False)
    figure.axes[0].set_ylabel("the first 64 numbers")
    words = f"Two heat maps of the stream, {len(ids)} tokens by the first 64 of {D} numbers: from the embedding, where equal tokens have equal columns, "
    picture = finish(figure, words + "and behind the last block, where all columns differ.")
display(picture)

# %% [markdown]
# ## Exercise: RMSNorm
#
# *Exercise 05.rms_norm · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("05.rms_norm")`*
#
# Before each half of a block the stream is brought to one size, so that it does not matter how much was added to it before:
# $$y = \frac{x}{\sqrt{\frac{1}{D}\sum_i x_i^2 + \epsilon}} \odot w$$

# %%
@exercise("05.rms_norm")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D), weight (D,) -> (..., D).

    Each vector is divided by its root mean square and multiplied by the weight.
    """
    ### BEGIN SOLUTION
    mean_square = x.square().mean(dim=-1, keepdim=True)
    return x * torch.rsqrt(mean_square + eps) * weight
    ### END SOLUTION


# %%
check("05.rms_norm")

# %% [markdown]
# ## Exercise: where a word stands
#
# *Exercise 05.rotate · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("05.rotate")`*
#
# Attention by itself does not know order. RoPE (*rotary position embedding*) puts order into the angle: the numbers of a head are taken in pairs, each pair a point in the
# plane, and the pair is turned by its position times its own frequency. The product of a turned query with a turned key then depends on the
# *difference* of their positions only.
#
# The pairs here are $(x_i, x_{i+E/2})$, "rotate-half"; the paper pairs neighbours. Either works; the weights decide which.

# %%
@exercise("05.rotate")
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, heads, E), cos and sin (T, 1, E / 2) -> the same shape as x.

    Each pair (x_i, x_(i + E/2)) is turned by its angle.
    """
    ### BEGIN SOLUTION
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    ### END SOLUTION


# %%
check("05.rotate")

# %%
predict(
    "05.shift",
    mine=None,
    question="A query at position 7 meets a key at position 4; then both move on by 20. Does their product change: 'yes' or 'no'?",
)

# %%
table = rotary_table(E, 64, config.rope_theta, torch.device("cpu"))
generator = torch.Generator().manual_seed(0)
query, key = torch.randn(2, 1, 1, 1, E, generator=generator)


def product(at_query: int, at_key: int) -> float:
    """The query at one position times the key at another."""
    turned = [rotate(x, table[0][at : at + 1, None], table[1][at : at + 1, None]) for x, at in ((query, at_query), (key, at_key))]
    return float((turned[0] * turned[1]).sum())


before, after = product(7, 4), product(27, 24)
print(f"7 and 4: {before:.4f}   27 and 24: {after:.4f}   7 and 5: {product(7, 5):.4f}")
with drawing(6.5, 2.0) as figure:
    axes = figure.add_subplot()
    for pair, colour in ((0, BLUE), (E // 8, ORANGE)):
        axes.plot(table[0][:, pair], color=colour, label=f"cosine of pair {pair}")
    axes.set(xlabel="position")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "Cosine against position for a fast and a slower pair.")
display(picture)
reveal("05.shift", "no" if abs(before - after) < 1e-3 else "yes", f"(by {abs(before - after):.0e})")

# %% [markdown]
# ## Exercise: grouped queries
#
# *Exercise 05.repeat_heads · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("05.repeat_heads")`*
#
# While the model writes it keeps the keys and values of everything before: the *cache*. Halve the number of key and value heads and that memory is halved;
# two query heads then share one. To compute, each key head is repeated for its queries.

# %%
@exercise("05.repeat_heads")
def repeat_heads(kv: Tensor, times: int) -> Tensor:
    """kv (B, G, S, E) -> (B, G * times, S, E): each head `times` times, neighbours alike."""
    ### BEGIN SOLUTION
    B, heads, S, width = kv.shape
    return kv[:, :, None].expand(B, heads, times, S, width).reshape(B, heads * times, S, width)
    ### END SOLUTION


# %%
check("05.repeat_heads")

# %%
per_position = 2 * config.num_layers * E
print(f"cached numbers a position: {per_position * G} with {G} key heads, {per_position * H} with {H}")

# %% [markdown]
# ## Exercise: who sees whom
#
# *Exercise 05.seen · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("05.seen")`*
#
# In training all positions are computed at once, and position $t$ must not see $t + 1$, for that is the answer. In writing some positions
# stand in the cache already and some are new. One rule covers both: the new position $i$ stands at `cached + i` and sees everything up to itself.

# %%
@exercise("05.seen")
def seen(new: int, cached: int) -> Tensor:
    """-> (new, cached + new) of bool.

    True where the new position of that row may see the position of that column.
    """
    ### BEGIN SOLUTION
    columns = torch.arange(cached + new)
    own = torch.arange(cached, cached + new)
    return columns <= own[:, None]
    ### END SOLUTION


# %%
check("05.seen")

# %% [markdown]
# ## Attention, put together
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\!\left(\frac{q k^\top}{\sqrt{E}} + \mathrm{mask}\right) v$$
#
# Queries and keys get a norm of their own per head, so that no product can grow without bound. Read the shapes beside each step.

# %%
def attention(x: Tensor, layer: int, cached: int = 0, past: tuple[Tensor, Tensor] | None = None, weights: dict[str, Tensor] = weights):
    """x (T, D), normed -> what was heard (T, D), the keys and values so far, the attention weights (H, T, S)."""
    name = f"layers.{layer}.self_attn."
    T = len(x)
    q = (x @ weights[name + "q_proj.weight"].T).view(1, T, H, E)
    k = (x @ weights[name + "k_proj.weight"].T).view(1, T, G, E)
    v = (x @ weights[name + "v_proj.weight"].T).view(1, T, G, E)
    cos, sin = (part[cached : cached + T, None] for part in rotary_table(E, config.max_positions, config.rope_theta, torch.device("cpu")))
    q = rotate(rms_norm(q, weights[name + "q_norm.weight"], config.rms_norm_eps), cos, sin).transpose(1, 2)  # (1, H, T, E)
    k = rotate(rms_norm(k, weights[name + "k_norm.weight"], config.rms_norm_eps), cos, sin).transpose(1, 2)  # (1, G, T, E)
    v = v.transpose(1, 2)
    if past is not None:
        k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)  # (1, G, S, E)
    keys, values = repeat_heads(k, H // G), repeat_heads(v, H // G)  # (1, H, S, E)
    scores = q @ keys.transpose(-1, -2) / E**0.5  # (1, H, T, S)
    shares = scores.masked_fill(~seen(T, cached), -torch.inf).softmax(dim=-1)
    heard = (shares @ values).transpose(1, 2).reshape(T, H * E)
    return heard @ weights[name + "o_proj.weight"].T, (k, v), shares[0]


# %% [markdown]
# ## Exercise: SwiGLU
#
# *Exercise 05.swiglu · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("05.swiglu")`*
#
# The other half of a block looks at each position alone. Two matrices lead up, one of them through $\mathrm{silu}(a) = a \cdot \sigma(a)$, with $\sigma$ the sigmoid $1 / (1 + e^{-a})$; their
# product leads down again: the one says *what*, the other *how much of it*.

# %%
@exercise("05.swiglu")
def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x (..., D), gate and up (inner, D), down (D, inner) -> (..., D)."""
    ### BEGIN SOLUTION
    opened = F.silu(F.linear(x, gate))
    return F.linear(opened * F.linear(x, up), down)
    ### END SOLUTION


# %%
check("05.swiglu")

# %% [markdown]
# ## The whole Thinker, and is it the same?
#
# Norm, attention, add. Norm, feed-forward, add. As many times as there are blocks, and one norm at the end.

# %% slideshow={"slide_type": "subslide"}
def think(ids: list[int], cached: int = 0, pasts: list | None = None, weights: dict[str, Tensor] = weights):
    """ids (T) -> hidden states (T, D), keys and values of every block, attention weights of every block."""
    x = weights["embed_tokens.weight"][ids]
    kept, looks = [], []
    for layer in range(config.num_layers):
        name = f"layers.{layer}."
        heard, past, shares = attention(
            rms_norm(x, weights[name + "input_layernorm.weight"], config.rms_norm_eps), layer, cached, pasts[layer] if pasts else None, weights
        )
        x = x + heard
        normed = rms_norm(x, weights[name + "post_attention_layernorm.weight"], config.rms_norm_eps)
        x = x + swiglu(normed, *(weights[f"{name}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))
        kept.append(past)
        looks.append(shares)
    return rms_norm(x, weights["norm.weight"], config.rms_norm_eps), kept, looks


hidden, pasts, looks = think(ids)
print(f"largest difference to mmo.thinker.Thinker: {float((hidden - package[0]).abs().max()):.1e}, of values up to {float(hidden.abs().max()):.1f}")
assert torch.allclose(hidden, package[0], atol=1e-3)

# %% [markdown]
# This is where it looks. One picture a block, the mean over its heads: a row is a position that asks, a column one that is looked at.
# The upper right is empty: that is the mask. (The first position sees only itself, the second only two: their shares may lie beyond the scale.) The last
# row stands where the answer begins: which words does it look at, and in which block?

# %%
means = [each.mean(dim=0) for each in looks]  # of each block (T, T)
top = max(float(each[2:].max()) for each in means)
lines = math.ceil(len(means) / 2)
with drawing(9.0, 1.2 + 2.7 * lines) as figure:
    for layer, axes in enumerate(figure.subplots(lines, 2, sharex=True, sharey=True, squeeze=False).ravel()[: len(means)]):
        image = axes.imshow(means[layer], cmap="cividis", vmin=0, vmax=top, aspect="auto")
        axes.grid(False)
        axes.set_title(f"block {layer}")
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=9)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=9)
    figure.supxlabel("is looked at", fontsize=9)
    figure.supylabel("asks", fontsize=9)
    figure.colorbar(image, ax=figure.axes, label="share of the attention", extend="max", shrink=0.6)
    picture = finish(figure, "Attention of each block over the prompt: lower triangles; a bright place is a word that is looked at.")
display(picture)

# %% [markdown]
# ## Exercise: one step of writing
#
# *Exercise 05.next_token · difficulty ●○○ · importance ●●● · 5 minutes · 2 points · stuck? `hint("05.next_token")`*
#
# The hidden state at a position says which token comes next. The head that reads it is the embedding itself: a token is likely where its vector
# points the way the hidden state does.

# %%
@exercise("05.next_token")
def next_token(hidden: Tensor, embedding: Tensor) -> int:
    """hidden (T, D), embedding (V, D) -> the id that is most likely behind the last position."""
    ### BEGIN SOLUTION
    logits = embedding @ hidden[-1]
    return int(logits.argmax())
    ### END SOLUTION


# %%
check("05.next_token")

# %% [markdown]
# ## It writes
#
# Choose a token, append it, think again. With the cache only the new token is computed; without it everything is, each time. **Predict**
# what that saves:

# %%
question, counted_aloud = "Count from three until eight.", "Three, four, five, six, seven, eight."
prompt_length, answer_length = len(tokenizer.prompt([{"role": "user", "content": question}])), len(tokenizer.encode(counted_aloud))
predict(
    "05.cache",
    mine=None,
    question=f"A prompt of {prompt_length} tokens, then {answer_length} that are written one by one: "
    "how many times as many positions are computed without the cache?",
)

# %%
END = settings.model.im_end_token


def write(question: str, use_cache: bool = True, most: int = 32, weights: dict[str, Tensor] = weights) -> tuple[str, int]:
    """The answer to a question, and how many positions were computed for it."""
    ids = tokenizer.prompt([{"role": "user", "content": question}])
    written, computed = [], len(ids)
    hidden, pasts, _ = think(ids, weights=weights)
    while len(written) < most:
        token = next_token(hidden, weights["embed_tokens.weight"])
        if token == END:
            break
        written.append(token)
        if use_cache:
            hidden, pasts, _ = think([token], len(ids) + len(written) - 1, pasts, weights)
            computed += 1
        else:
            hidden, _, _ = think(ids + written, weights=weights)
            computed += len(ids) + len(written)
    return tokenizer.decode(written), computed


for each in ("What is three plus four?", "Which is bigger, nine or twelve?", "What is the opposite of hot?", question):
    print(f"{each}  ->  {write(each)[0]}")

# %%
answers = {}
for use_cache in (True, False):
    taken = []
    for _ in range(5):  # the quickest of five: what else the machine does shall not count
        started = time.perf_counter()
        answers[use_cache] = write(question, use_cache)
        taken.append(time.perf_counter() - started)
    print(f"{'with' if use_cache else 'without'} cache: {answers[use_cache][1]:4} positions, {1000 * min(taken):5.0f} ms: {answers[use_cache][0]}")
assert answers[True][0] == answers[False][0]
reveal("05.cache", round(answers[False][1] / answers[True][1], 1), "times as many")

# %% [markdown]
# The same words: the cache changes nothing but the work. Ten times the positions are not ten times the time here: at this size a call costs more than its arithmetic. With a longer text or a larger model it nears that. `mmo.transformer.KVCache` keeps keys and values in one tensor that is made once and
# written in place, so that nothing is copied at each step.

# %%
lengths, cache = CacheLengths(1, 64, "cpu"), KVCache(config, 1, 64, torch.float32, "cpu")
for part in (ids[:5], ids[5:]):
    window = make_window(config, len(part), "cpu", lengths)
    bridge, _ = thinker.lower(thinker.embed_tokens(torch.tensor(part)[None]), window, cache)
    states, _ = thinker.upper(bridge, window, cache)
    lengths.advance([len(part)])
print(f"package, in two parts with its cache, against yours at once: {float((states[0] - hidden[5:]).abs().max()):.1e}")
assert torch.allclose(states[0], hidden[5:], atol=1e-3)

# %% [markdown]
# ## Where the weights come from: pretraining
#
# So far the weights were given. Now a Thinker of the same size begins with random ones and reads conversations: sums, comparisons, days, greetings, sentences to be read aloud. It does one thing all the time, in parallel at
# every position of an answer: it says how likely each token is to be the next one, and is told which it was. The loss is the mean of $-\log p$ over the answers' tokens,
# in nats. All that it comes to know, it comes to know from this.
#
# `mmo/world/train_thinker.py` made the shipped weights, and this is its `Training`, with fewer steps and a smaller store of sentences (the shipped weights are of an earlier state of it, with another mixture of sentences: `figures/thinker.json`). Some sentences it will not read, to be asked for later (the shipped one, which read more, has met some of these).
# **Predict** the loss of the first step, when nothing is learnt:

# %%
STEPS = 8 if budget == "smoke" else 400
V = len(tokenizer)
recipe = train_thinker.Settings(steps=STEPS, warmup_steps=max(1, STEPS // 10), ema_decay=0.98, drawn_facts=400 if budget == "smoke" else 4000, held_out=100)
corpus = train_thinker.read_corpus(recipe, planned=False)
asked = {
    f"not read by yours: {name}": [(fact.questions[0], fact.answer) for fact in corpus.held_out[kind][:60]]
    for name, kind in (("to read aloud", "say"), ("where is it?", "where"))
}
asked["read: sums, days, opposites …"] = [(fact.questions[0], fact.answer) for fact in corpus.closed[:: len(corpus.closed) // 60]]
for name, turns in asked.items():
    print(f"{name}\n   {turns[0][0]}\n   -> {turns[0][1]}")
predict("05.start", f"{V} tokens, nothing learnt: what is the loss of the first step, in nats a token?", None)

# %%
MOMENTS = sorted({0, STEPS // 16, STEPS // 4, STEPS // 2, STEPS})
QUESTIONS = (asked["not read by yours: to read aloud"][0][0], "What is three plus four?", "What is the opposite of hot?")
aloud = asked["not read by yours: to read aloud"]
threads = torch.get_num_threads()
torch.set_num_threads(1)  # steps of a model so small are too short to share between threads
started, losses, said = time.perf_counter(), [], {}
PANELS = ("loss in training, nats a token", "loss on sentences not read, nats a token")
with torch.enable_grad(), Curves(*PANELS) as curves:
    training = train_thinker.Training(corpus, tokenizer, recipe)

    def look(step: int) -> None:
        """What it writes after so many steps, and its loss on held-out questions, as a dot."""
        said[step] = [write(question, most=16, weights=training.averaged.state_dict())[0] for question in QUESTIONS]
        curves.dot(step, PANELS[1], train_thinker.mean_loss(training.averaged, aloud, tokenizer))

    for step in tqdm(range(STEPS), desc="Thinker", unit="step"):
        if step in MOMENTS:
            look(step)
        losses.append(float(training.step(step)))
        curves.add(step, losses[-1], None)
    look(STEPS)
torch.set_num_threads(threads)
print(f"{STEPS} steps in {time.perf_counter() - started:.0f} s")

# %%
reveal("05.start", round(losses[0], 2), f"(the logarithm of {V} is {math.log(V):.2f})")

# %% [markdown]
# Each token of $V$ as likely as any other, $p = 1/V$, is a loss of $\ln V$. Random weights give nearly that: their first guess is almost even. (The seconds of the training are those of the machine and the hour; the line at the top of this notebook was measured at another one.)
#
# The dots on the right are no points of the curve on the left. They are measured on sentences that it never read, all of them to be read aloud, and with weights averaged over the last steps.
# The curve is the loss of each step's own weights on all kinds of questions.
#
# What it wrote on the way, with *your* functions around its
# weights:

# %%
for place, question in enumerate(QUESTIONS):
    print(question)
    for step, answers_then in said.items():
        words = answers_then[place]
        print(f"   after {step:4} steps: {words if len(words) < 64 else words[:60] + ' …'!r}")

# %% [markdown]
# And beside the shipped Thinker, of the same size and from an earlier state of the same code, with another mixture of sentences (steps and seconds are those that its training noted):

# %%
shipped = json.loads((settings.data_dir / "figures" / "thinker.json").read_text(encoding="utf-8"))
last, end = sum(losses[-20:]) / len(losses[-20:]), shipped["curve"][-1]
print(f"{'':34}{'yours':>16}{'shipped':>20}")
print(f"{'steps':34}{STEPS:16}{shipped['settings']['steps']:20}")
print(f"{'loss in training, at the end':34}{last:8.3f}{end['loss']:20.3f}")
print(f"{'':34}{'loss':>8}{'right':>8}{'loss':>12}{'right':>8}")
for name, turns in asked.items():
    cells = []
    for each, width in ((training.averaged, 8), (thinker, 12)):
        right = train_thinker.right(each, turns, tokenizer)
        cells.append(f"{train_thinker.mean_loss(each, turns, tokenizer):{width}.3f}{sum(right) / len(right):8.0%}")
    print(f"{name:34}{''.join(cells)}")
print(f"the shipped one took {end['cpu_seconds']:.0f} s of a core; what it read aloud wrongly:")
for (question, _), good in zip(aloud, train_thinker.right(thinker, aloud, tokenizer)):
    if not good:
        print(f"   {question}  ->  {write(question)[0]}")

# %% [markdown]
# Read the answers from top to bottom. First it knows that answers begin with a capital and end with a full stop; then the commonest words and the shape of a sentence. What comes then comes at several speeds: look at
# *your* column of the table, and at how much of each the shipped one has in the end. To read aloud is to copy, a skill that serves for every sentence, also one that it never read. (Even the shipped one is
# not perfect there. One wrong word fails a whole sentence: see under the table which.) A sum is one of hundreds, and each has to be met many times. "Where is it?" asks for more than a
# copy: the relation must be turned round. So one loss stands for very unlike things, and a Thinker that repeats your sentence word for word may not know what three plus four is. The rest is patience: more steps, and more sentences to read.

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("05")

# %% [markdown]
# ## Summary
#
# - The stream is $(T, D)$; each half of a block reads it through a norm and adds to it.
# - RoPE turns queries and keys; what meets in attention is the distance.
# - Key heads are shared to save cache; the mask is one comparison, cache or not.
# - The same weights in your functions and in `mmo.thinker` give the same states, and text.
# - Pretraining begins at $\ln V$ and asks one thing only: the next token. One loss, and behind it copying, facts and relations, each at its own speed.
#
# **Often mistaken.** *"The cache makes another model."* It gives the same numbers with less work. *"The model knows the question from the answer."* It sees one row of
# tokens; roles are tokens too. *"The Talker will get these words."* It gets hidden states, from the middle of this very stack.
#
# **To try.** Leave out the rotation (`rotate = lambda x, cos, sin: x`) and write again. Give every query head the key head of its neighbour. Stop after the
# second block: what does the head make of that hidden state? Train with `question_weight=1.0`, so that questions are learnt too: does it learn the answers sooner or later?
#
# **Where to read on.** In this course: `mmo/transformer.py`, `mmo/thinker.py`, then [notebook 07](07_sequence_and_delay.ipynb). Papers:
#
# - A. Vaswani, N. Shazeer, N. Parmar and others: *Attention Is All You Need.* NeurIPS 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762).
# - B. Zhang, R. Sennrich: *Root Mean Square Layer Normalization.* NeurIPS 2019, [arXiv:1910.07467](https://arxiv.org/abs/1910.07467).
# - J. Su, Y. Lu, S. Pan and others: *RoFormer: Enhanced Transformer with Rotary Position Embedding.* 2021, [arXiv:2104.09864](https://arxiv.org/abs/2104.09864).
# - J. Ainslie, J. Lee-Thorp, M. de Jong and others: *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints.* EMNLP 2023,
#   [arXiv:2305.13245](https://arxiv.org/abs/2305.13245).
# - N. Shazeer: *GLU Variants Improve Transformer.* 2020, [arXiv:2002.05202](https://arxiv.org/abs/2002.05202).
