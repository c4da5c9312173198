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
# *Takes 75 minutes (tiny) · runs in 4 s on one core (tiny) · builds on nothing before it · 6 exercises, 14 points*
#
# **At the end** you have written every part of a modern language model: norm, positions, attention with its mask and its cache, the gated
# feed-forward. Your functions run the weights that come with the course, and they answer you in writing.
#
# **You need** matrix products, softmax, and what a token is. If attention is new to you, read the first paper at the end beside this notebook.
#
# **The claim.** A decoder block is five small functions. Written one by one, with trained weights in them, they give the same numbers as
# the package, and text comes out.
#
# Letters: $T$ positions, $S$ positions that can be seen, $D$ width, $H$ query heads, $G$ key and value heads, $E$ width of a head.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.chat import ChatTokenizer
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import BLUE, ORANGE, drawing, finish
from mmo.profiles import profile as find_profile
from mmo.thinker import Thinker, load_thinker
from mmo.transformer import KVCache, CacheLengths, make_window, rotary_table

settings = find_profile(profile)
config = settings.model.thinker
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
thinker = Thinker(settings.model).eval()
load_thinker(thinker, settings.thinker_file)
weights = thinker.state_dict()
torch.set_grad_enabled(False)  # nothing is trained here; the checks turn gradients on for themselves

D, H, G, E = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
print(f"{sum(p.numel() for p in thinker.parameters()) / 1e6:.2f} M weights: {config.num_layers} blocks of width {D}, {H} query heads over {G} key heads of {E}")

# %% [markdown]
# ## A text, as the Thinker gets it
#
# Words become tokens, tokens become ids, and each id picks a row of the embedding: $(T)$ ids give $(T, D)$ numbers, the *stream*.
# Every block reads the stream and adds to it. Nothing else ever happens to it.

# %%
ids = tokenizer.prompt([{"role": "user", "content": "What is three plus four?"}])
stream = weights["embed_tokens.weight"][ids]  # (T, D)
tokens = [tokenizer.tokenizer.id_to_token(each).replace("Ġ", " ").replace("Ċ", "↵") for each in ids]
print(list(zip(tokens, ids)))
print("stream:", tuple(stream.shape))

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
    """x (..., D), weight (D,) -> (..., D): each vector divided by its root mean square, times the weight."""
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
# Attention by itself does not know order. RoPE puts order into the angle: the numbers of a head are taken in pairs, each pair a point in the
# plane, and the pair is turned by its position times its own frequency. The product of a turned query with a turned key then depends on the
# *difference* of their positions only.
#
# The pairs here are $(x_i, x_{i+E/2})$, "rotate-half"; the paper pairs neighbours. Either works; the weights decide which.

# %%
@exercise("05.rotate")
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, heads, E), cos and sin (T, 1, E / 2) -> the same shape: pair (x_i, x_(i + E/2)) turned by its angle."""
    ### BEGIN SOLUTION
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    ### END SOLUTION


# %%
check("05.rotate")

# %%
predict("05.shift", "A query at position 7 meets a key at position 4; then both move on by 20. Does their product change: 'yes' or 'no'?", None)

# %%
table = rotary_table(E, 64, config.rope_theta, torch.device("cpu"))
generator = torch.Generator().manual_seed(0)
query, key = torch.randn(2, 1, 1, 1, E, generator=generator)


def product(at_query: int, at_key: int) -> float:
    """The query at one position times the key at another."""
    turned = [rotate(x, table[0][at : at + 1, None], table[1][at : at + 1, None]) for x, at in ((query, at_query), (key, at_key))]
    return float((turned[0] * turned[1]).sum())


print(f"7 and 4: {product(7, 4):.4f}   27 and 24: {product(27, 24):.4f}   7 and 5: {product(7, 5):.4f}")
with drawing(6.5, 2.0) as figure:
    axes = figure.add_subplot()
    for pair, colour in ((0, BLUE), (E // 8, ORANGE)):
        axes.plot(table[0][:, pair], color=colour, label=f"cosine of pair {pair}")
    axes.set(xlabel="position")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "Cosine against position for a fast and a slower pair.")
display(picture)
reveal("05.shift", "no")

# %% [markdown]
# ## Exercise: grouped queries
#
# *Exercise 05.repeat_heads · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("05.repeat_heads")`*
#
# While the model writes it keeps the keys and values of everything before. Halve the number of key and value heads and that memory is halved;
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
    """(new, cached + new) of bool: True where the new position of that row may see the position of that column."""
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
def attention(x: Tensor, layer: int, cached: int = 0, past: tuple[Tensor, Tensor] | None = None):
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
# The other half of a block looks at each position alone. Two matrices lead up, one of them through $\mathrm{silu}(a) = a \cdot \sigma(a)$; their
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

# %%
def think(ids: list[int], cached: int = 0, pasts: list | None = None):
    """ids (T) -> hidden states (T, D), keys and values of every block, attention weights of every block."""
    x = weights["embed_tokens.weight"][ids]
    kept, looks = [], []
    for layer in range(config.num_layers):
        name = f"layers.{layer}."
        heard, past, shares = attention(
            rms_norm(x, weights[name + "input_layernorm.weight"], config.rms_norm_eps), layer, cached, pasts[layer] if pasts else None
        )
        x = x + heard
        normed = rms_norm(x, weights[name + "post_attention_layernorm.weight"], config.rms_norm_eps)
        x = x + swiglu(normed, *(weights[f"{name}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))
        kept.append(past)
        looks.append(shares)
    return rms_norm(x, weights["norm.weight"], config.rms_norm_eps), kept, looks


hidden, pasts, looks = think(ids)
window = make_window(config, len(ids), "cpu")
bridge, _ = thinker.lower(thinker.embed_tokens(torch.tensor(ids)[None]), window)
package, _ = thinker.upper(bridge, window)
print(f"largest difference to mmo.thinker.Thinker: {float((hidden - package[0]).abs().max()):.1e}, of values up to {float(hidden.abs().max()):.1f}")
assert torch.allclose(hidden, package[0], atol=1e-3)

# %% [markdown]
# This is where it looks. One picture a block, the mean over its heads: a row is a position that asks, a column one that is looked at.
# The upper right is empty: that is the mask. The last row stands where the answer begins: which words does it look at, and in which block?

# %%
with drawing(3.1 * config.num_layers, 3.6) as figure:
    for layer, axes in enumerate(figure.subplots(1, config.num_layers)):
        axes.imshow(looks[layer].mean(dim=0), cmap="cividis", vmin=0, aspect="auto")
        axes.grid(False)
        axes.set_title(f"block {layer}")
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        axes.set_yticks(range(len(tokens)), tokens if layer == 0 else [""] * len(tokens), fontsize=7)
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
predict("05.cache", "An answer of a few words behind a prompt: how many times as many positions are computed without the cache?", None)

# %%
END = settings.model.im_end_token


def write(question: str, use_cache: bool = True, most: int = 32) -> tuple[str, int]:
    """The answer to a question, and how many positions were computed for it."""
    ids = tokenizer.prompt([{"role": "user", "content": question}])
    written, computed = [], len(ids)
    hidden, pasts, _ = think(ids)
    while len(written) < most:
        token = next_token(hidden, weights["embed_tokens.weight"])
        if token == END:
            break
        written.append(token)
        if use_cache:
            hidden, pasts, _ = think([token], len(ids) + len(written) - 1, pasts)
            computed += 1
        else:
            hidden, _, _ = think(ids + written)
            computed += len(ids) + len(written)
    return tokenizer.decode(written), computed


for question in ("What is three plus four?", "Which is bigger, nine or twelve?", "What is the opposite of hot?", "Count from three until eight."):
    print(f"{question}  ->  {write(question)[0]}")

# %%
question, answers = "Count from three until eight.", {}
for use_cache in (True, False):
    started = time.perf_counter()
    answers[use_cache] = write(question, use_cache)
    print(f"{'with' if use_cache else 'without'} cache: {answers[use_cache][1]:4} positions, {1000 * (time.perf_counter() - started):5.0f} ms: {answers[use_cache][0]}")
assert answers[True][0] == answers[False][0]
reveal("05.cache", round(answers[False][1] / answers[True][1], 1), "times as many")

# %% [markdown]
# The same words: the cache changes nothing but the work. `mmo.transformer.KVCache` keeps keys and values in one tensor that is made once and
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
#
# **Often mistaken.** *"The cache makes another model."* It gives the same numbers with less work. *"The model knows the question from the answer."* It sees one row of
# tokens; roles are tokens too. *"The Talker will get these words."* It gets hidden states, from the middle of this very stack.
#
# **To try.** Leave out the rotation (`rotate = lambda x, cos, sin: x`) and write again. Give every query head the key head of its neighbour. Stop after the
# second block: what does the head make of that hidden state?
#
# **Where to read on.** In this course: `mmo/transformer.py`, `mmo/thinker.py`, then [notebook 07](07_sequence_and_delay.ipynb). Papers:
#
# - A. Vaswani, N. Shazeer, N. Parmar and others: *Attention Is All You Need.* NeurIPS 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762).
# - B. Zhang, R. Sennrich: *Root Mean Square Layer Normalization.* NeurIPS 2019, [arXiv:1910.07467](https://arxiv.org/abs/1910.07467).
# - J. Su, Y. Lu, S. Pan and others: *RoFormer: Enhanced Transformer with Rotary Position Embedding.* 2021, [arXiv:2104.09864](https://arxiv.org/abs/2104.09864).
# - J. Ainslie, J. Lee-Thorp, M. de Jong and others: *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints.* EMNLP 2023,
#   [arXiv:2305.13245](https://arxiv.org/abs/2305.13245).
# - N. Shazeer: *GLU Variants Improve Transformer.* 2020, [arXiv:2002.05202](https://arxiv.org/abs/2002.05202).
