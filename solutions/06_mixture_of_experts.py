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
# # 06 · Mixture of experts
#
# *Takes 60 minutes (tiny) · runs in 90 s on one core (tiny) · builds on 05 · 4 exercises, 12 points*
#
# **At the end** you have built a mixture of experts: a router, the sorting that makes it fast, and the loss that keeps it even. You have seen one expert starve and another one dead,
# and you can say why the router of the original (MiniMind-O, the model that this course builds anew) never learns what is right for the task.
#
# **You need** notebook 05's feed-forward layer and softmax. The course goes on without this notebook: `tiny` and `mini` are dense, only `tiny-moe` and `mini-moe` have experts.
#
# **The claim.** A router that picks one expert and then divides its gate by itself hears nothing from the task. Its gate is 1, whatever it
# thought; and a constant has no gradient.
#
# Letters: $N$ positions (batch times sequence), $D$ width, $I$ inner width, $E$ experts, $k$ of them a position.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few updates instead of some hundred

# %%
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mmo.chat import ChatTokenizer
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, Curves, drawing, finish
from mmo.moe import MixtureOfExperts, count_parameters
from mmo.omni import OmniModel
from mmo.profiles import profile as find_profile
from mmo.rows import open_rows
from mmo.thinker import Thinker, load_thinker
from mmo.transformer import make_window

settings = find_profile(profile)
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
dense_config = settings.model.replace(use_moe=False)
config = settings.model.replace(use_moe=True)
D, I, E, K = config.hidden_size, config.thinker.moe_intermediate_size, config.num_experts, config.num_experts_per_tok
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
print(f"width {D}, inner width {I}, {E} experts, {K} a position")
with torch.device("meta"):  # shapes without memory
    block = OmniModel(dense_config).model.layers[0]
whole, forward = (sum(p.numel() for p in part.parameters()) for part in (block, block.mlp))
print(f"a dense block: {whole:,} weights, {forward / whole:.0%} of them in its feed-forward layer")

# %% [markdown]
# ## Why more than one
#
# Most of a block's weights are in its feed-forward layer (the share stands above), and each position runs through all of them: a comma as well as a number.
# A **mixture of experts** keeps several such layers and sends each position through a few. It stores more and computes as much as before.
#
#     scores = softmax(router(x))              (N, E)
#     choose the k best; y = sum of gate times expert(x) over the chosen
#
# ## Exercise: stored and active
#
# *Exercise 06.parameters · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("06.parameters")`*
#
# A SwiGLU expert has three matrices of $D \times I$, the router one of $E \times D$; none has a bias. Count all that are stored, and those that one position meets.

# %%
predict("06.size", "mini has 113 M parameters. How many millions does mini-moe store, with 4 experts for 1?", None)

# %%
@exercise("06.parameters")
def parameters(width: int, inner: int, experts: int, top_k: int) -> tuple[int, int]:
    """-> (stored, active at one position).

    The weights of a router and of SwiGLU experts, none of them with a bias.
    """
    ### BEGIN SOLUTION
    router, expert = width * experts, 3 * width * inner
    return router + experts * expert, router + top_k * expert
    ### END SOLUTION


# %%
check("06.parameters")


# %%
with torch.device("meta"):  # shapes without memory: whole models are counted, not made
    sizes = {name: count_parameters(OmniModel(find_profile(name).model)) for name in ("tiny", "tiny-moe", "mini", "mini-moe")}
with drawing(7.0, 2.2) as figure:
    for place, pair in enumerate((("tiny", "tiny-moe"), ("mini", "mini-moe"))):
        axes = figure.add_subplot(1, 2, place + 1)
        stored, active = np.array([sizes[name] for name in pair]).T / 1e6
        axes.barh(pair, stored, color=GREY, label="stored")
        axes.barh(pair, active, color=BLUE, label="active")
        axes.invert_yaxis()
        axes.set(xlabel="million weights")
        if place == 0:
            axes.legend(loc="upper right")
    picture = finish(figure, "Stored and active weights of the dense profiles and those with experts.")
display(picture)
for name, (stored, active) in sizes.items():
    print(f"{name:9} stored {stored / 1e6:7.2f} M   active {active / 1e6:7.2f} M")
reveal("06.size", round(sizes["mini-moe"][0] / 1e6), "million")

# %% [markdown]
# The blue bars of a pair are nearly alike: the same work a position. The grey rest must still be held in memory, and the optimiser holds one or two more numbers for each (AdamW two; Muon, notebook 10's optimiser, one).
#
# ## A real stream to route
#
# The shipped Thinker is dense. We turn each of its feed-forward layers into four equal ones and draw routers at random (`mmo.moe.upcycle`; more of it in
# [notebook 14](14_dense_against_moe.ipynb)). What arrives at the second block's mixture for a few real conversations:

# %%
rows = open_rows(settings.data_dir / "t2a-train.parquet", config, settings.cache_dir())


def tokens_of(n: int) -> list[int]:
    """Row n's first turn as a prompt, and its answer behind it."""
    return tokenizer.prompt(rows[n].conversation[:1]) + tokenizer.encode(rows[n].conversation[-1]["content"])


conversations = [tokens_of(n) for n in range(0, 200 if budget == "full" else 40)]
torch.manual_seed(0)
mixed = OmniModel(config).model.eval()
load_thinker(mixed, settings.thinker_file)
seen: dict[str, Tensor] = {}
mixture: MixtureOfExperts = mixed.layers[1].mlp
handle = mixture.register_forward_pre_hook(lambda _, arguments: seen.update(x=arguments[0][0]))
streams = []
with torch.no_grad():
    for ids in conversations:
        mixed.lower(mixed.embed_tokens(torch.tensor(ids)[None]), make_window(config.thinker, len(ids), "cpu"))
        streams.append(seen["x"])
handle.remove()
x = torch.cat(streams)  # (N, D)
tokens = [tokenizer.tokenizer.id_to_token(each).replace("Ġ", " ").replace("Ċ", "↵") for each in conversations[0]]
print(f"the stream of {len(conversations)} conversations: {tuple(x.shape)}; the first of them:")
print("".join(tokens).replace("↵", "↵\n"))

# %% [markdown]
# ## Exercise: the router
#
# *Exercise 06.route · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("06.route")`*
#
# A router is one matrix. The softmax makes scores of its products, the $k$ best experts are chosen, and their scores become **gates**: what their outputs are multiplied by. Two schools:
# keep the scores as they are (Switch), or divide them by their sum, so that the gates of a position add up to 1 (Mixtral, and the original of this course).

# %%
@exercise("06.route")
def route(x: Tensor, router: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """x (N, D), router (E, D) -> gates (N, k), expert numbers (N, k).

    Of the k = top_k chosen, best first.
    """
    ### BEGIN SOLUTION
    scores = F.linear(x, router).softmax(dim=-1)
    gates, chosen = scores.topk(top_k, dim=-1)
    return (gates / gates.sum(dim=-1, keepdim=True) if renormalise else gates), chosen
    ### END SOLUTION


# %%
check("06.route")

# %%
router = mixture.gate.weight.detach()
gates, chosen = route(x, router, K, True)
first = len(tokens)
scores = (x @ router.T).softmax(dim=-1)
with drawing(9.0, 2.4) as figure:
    axes = figure.add_subplot()
    image = axes.imshow(scores[:first].T, cmap="cividis", aspect="auto", vmin=0)
    axes.plot(range(first), chosen[:first, 0], "o", color=RED, markersize=3)
    axes.grid(False)
    axes.set(yticks=range(E), ylabel="expert")
    axes.set_xticks(range(first), tokens, rotation=90, fontsize=9)
    figure.colorbar(image, ax=axes, label="score")
    picture = finish(figure, "Scores of four experts at each token of a conversation; a dot marks the chosen one.")
display(picture)


def agreement(picked: Tensor) -> float:
    """picked (n,) -> how often two different ones of these positions have the same expert."""
    counts, n = picked.bincount(minlength=E).double(), len(picked)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


at = torch.tensor([each for ids in conversations for each in ids])  # (N,) the token at each position
often = [each for each in at.unique() if (at == each).sum() >= 10]
alike = np.mean([agreement(chosen[at == each, 0]) for each in often])
print(f"how often two positions have the same expert: any two, which is chance, {agreement(chosen[:, 0]):.0%};")
print(f"two of the same token {alike:.0%} (the mean over the {len(often)} tokens that stand there ten times or more)")

# %% [markdown]
# A column is a token, a dot the expert that it is sent to. A router drawn at random already has habits: a token goes to one expert more often than chance would have it (the two lines above). But not always: look at the words that stand here twice. In the second block a vector is no longer its token alone; attention has mixed its surroundings in.
#
# ## Sending them there
#
# The plain way is a loop over experts: each computes *all* positions, and a mask keeps its own. Four experts, four times the work, and the point of the thing is lost.
#
# ## Exercise: sorted once
#
# *Exercise 06.dispatch · difficulty ●●● · importance ●●● · 15 minutes · 4 points · stuck? `hint("06.dispatch")`*
#
# The quick way sorts the positions by their expert, once. Then each expert has its positions side by side and does one dense product. At the end everything goes back to its place.
#
#     chosen      2 0 1 1 2 0
#     order       1 5 | 2 3 | 0 4         positions of expert 0, 1, 2
#     back        out[order] = joined

# %%
@exercise("06.dispatch")
def dispatch(x: Tensor, chosen: Tensor, experts: Tensor) -> Tensor:
    """x (N, D), chosen (N,), experts (E, D, D), each a weight for F.linear -> (N, D).

    Row n is what expert chosen[n] makes of x[n].
    """
    ### BEGIN SOLUTION
    order = chosen.argsort(stable=True)
    counts = chosen.bincount(minlength=len(experts)).tolist()
    joined = torch.cat([F.linear(rows, weight) for rows, weight in zip(x[order].split(counts), experts)])
    out = torch.empty_like(joined)
    out[order] = joined
    return out
    ### END SOLUTION


# %%
check("06.dispatch")

# %%
many = x.repeat(-(-8192 // len(x)), 1)[:8192]
with torch.no_grad():
    gates, chosen, _ = mixture.route(many)
    seconds = {"loop": [], "sorted": []}
    for _ in range(5):  # taking turns, so that a busy machine is unfair to both
        for name, way in (("loop", mixture.dispatch_by_loop), ("sorted", mixture.dispatch)):
            started = time.perf_counter()
            found = way(many, gates, chosen)
            seconds[name].append(time.perf_counter() - started)
    apart = float((mixture.dispatch(many, gates, chosen) - mixture.dispatch_by_loop(many, gates, chosen)).abs().max())
ratio = np.median(seconds["loop"]) / np.median(seconds["sorted"])
print(f"{len(many)} positions, {E} experts: the loop takes {ratio:.1f} times as long; largest difference {apart:.0e}")

# %% [markdown]
# The package's `mmo.moe.MixtureOfExperts` has both, under these names: `dispatch` does the work, `dispatch_by_loop` is what the tests compare it with.
#
# ## Balance
#
# Nothing so far asks for all experts to be used. An expert that is chosen more learns more, becomes better, is chosen still more. The others may stay what they were: **dead**. On several cards it is worse: each holds
# an expert, and everybody waits for the busy one.
#
# ## Exercise: the balance loss
#
# *Exercise 06.balance · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("06.balance")`*
#
# Switch Transformer's answer is a second loss:
# $$\mathcal{L}_{\text{balance}} = E \sum_{e=1}^{E} f_e\, P_e,\qquad f_e = \text{how often } e \text{ was chosen, a position},\quad P_e = \text{its mean score}.$$
# A count $f_e$ has no gradient. $P_e$ has one, and $f_e$ is its weight: the busiest expert's scores are pressed down the most.

# %%
@exercise("06.balance")
def balance(scores: Tensor, chosen: Tensor) -> Tensor:
    """scores (N, E), chosen (N, k) -> a scalar.

    E times the sum over experts of load times mean score.
    """
    ### BEGIN SOLUTION
    number = scores.shape[-1]
    load = F.one_hot(chosen, number).sum(dim=1).float().mean(dim=0)  # (E,)
    return number * (load * scores.mean(dim=0)).sum()
    ### END SOLUTION


# %%
check("06.balance")

# %%
even = torch.full((1000, E), 1 / E)
everywhere = torch.arange(1000)[:, None] % E
nobody_else = torch.zeros(1000, 1).long()
print(f"all alike: {balance(even, everywhere):.2f}   everything to expert 0: {balance(F.one_hot(nobody_else[:, 0], E).float(), nobody_else):.2f}")
print(f"the random router above: {balance(scores, chosen[: len(scores)]):.2f}")

# %% [markdown]
# ## What the router hears
#
# Now the claim. One expert a position, gates renormalised: the gate is $s / s$. Take a batch of conversations, the loss of predicting the next
# token, and look at the gradient that reaches each router. **Predict** its size.

# %%
predict("06.gradient", "The largest entry of the task's gradient at a router, renormalised top-1?", None)


# %%
def next_token_loss(thinker: Thinker, batch: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the next token, and the sum of the blocks' balance losses (0 in eval mode)."""
    length = max(len(ids) for ids in batch)
    padded = torch.tensor([ids + [0] * (length - len(ids)) for ids in batch])
    labels = torch.tensor([ids[1:] + [-100] * (length - len(ids) + 1) for ids in batch])
    window = make_window(thinker.config, length, "cpu")
    bridge, lower = thinker.lower(thinker.embed_tokens(padded), window)
    hidden, upper = thinker.upper(bridge, window)
    loss = F.cross_entropy(F.linear(hidden, thinker.embed_tokens.weight).flatten(0, 1), labels.flatten(), ignore_index=-100)
    extra = [each for each in (*lower, *upper) if each is not None]
    return loss, torch.stack(extra).sum() if extra else torch.zeros(())


def router_gradient(keep_top1_gate: bool) -> float:
    """Largest entry of the task's gradient at any router of the upcycled Thinker."""
    torch.manual_seed(0)
    thinker = OmniModel(config.replace(keep_top1_gate=keep_top1_gate)).model.eval()
    load_thinker(thinker, settings.thinker_file)
    loss, _ = next_token_loss(thinker, conversations[:16])
    loss.backward()
    found = [layer.mlp.gate.weight.grad for layer in thinker.layers]
    return max(0.0 if gradient is None else float(gradient.abs().max()) for gradient in found)


heard = {keep: router_gradient(keep) for keep in (False, True)}
print(f"renormalised: {heard[False]:.1e}   the score kept as gate: {heard[True]:.1e}")
assert heard[False] == 0.0 and heard[True] > 0.0
reveal("06.gradient", heard[False])

# %% [markdown]
# Not small: exactly zero. Whatever the router prefers, $s/s = 1$ comes out, and the loss has nothing to say to it. All it ever hears is the balance loss, and that one asks for
# *even*, not for *right*. The experts then learn to live with what they are sent.
#
# The cure is Switch's own: with one expert, keep the score as the gate. In the package it is `keep_top1_gate=True`; the default is the original's behaviour, so that its weights load and give its numbers.
#
# ## Four small trainings
#
# A Thinker of two blocks, from nothing, on the course's conversations: the gate renormalised or kept, with the balance loss and without it. We watch the share of positions that each expert of the first block gets.
# The coefficient is Switch's $10^{-2}$; the original's is $5 \cdot 10^{-4}$ and works over far more updates.

# %%
predict(
    "06.dead",
    mine=None,
    question="Which run will use its experts least evenly: 'renormalised', 'renormalised, balanced', 'kept' or 'kept, balanced'?",
)

# %%
updates = 300 if budget == "full" else 6
text = [tokens_of(n) for n in range(0, min(len(rows), 4000 if budget == "full" else 100))]
small = config.replace(
    num_hidden_layers=2, bridge_layer=0, hidden_size=96, num_attention_heads=4, num_key_value_heads=2,
    head_dim=None, intermediate_size=None, moe_intermediate_size=None,
)


def train_small(keep: bool, coefficient: float, name: str, curves: Curves) -> dict:
    """Losses (updates,), drawn while they fall, and shares (updates, E) of the first block's experts: of the real positions, and of the padding."""
    torch.manual_seed(1)
    thinker = OmniModel(small.replace(keep_top1_gate=keep, router_aux_loss_coef=coefficient)).model.train()
    optimiser = torch.optim.AdamW(thinker.parameters(), lr=3e-3, weight_decay=0.0, fused=True)
    order = np.random.default_rng(0)
    record = {"loss": [], "share": [], "padding": [], "thinker": thinker}
    layer = thinker.layers[0].mlp
    drawn = layer.gate.weight.detach().clone()

    def watch(_, arguments):
        with torch.no_grad():
            for name, here in (("share", record["real"]), ("padding", ~record["real"])):
                _, picked, _ = layer.route(arguments[0][here])
                record[name].append(F.one_hot(picked[:, 0], E).float().mean(dim=0))

    handle = layer.register_forward_pre_hook(watch)
    for step in tqdm(range(updates), desc=name, mininterval=1.0):
        batch = [text[n] for n in order.choice(len(text), 24)]
        lengths = torch.tensor([len(ids) for ids in batch])
        record["real"] = torch.arange(int(lengths.max())) < lengths[:, None]
        loss, extra = next_token_loss(thinker, batch)
        optimiser.zero_grad()
        (loss + extra).backward()
        optimiser.step()
        record["loss"].append(loss.item())
        curves.add(step, *(record["loss"][-1] if each == name else None for each in RUNS))
    handle.remove()
    record["moved"] = float((layer.gate.weight.detach() - drawn).abs().max())
    for each in ("share", "padding"):
        record[each] = torch.stack(record[each]).nan_to_num().numpy()
    return record


RUNS = {"renormalised": (False, 0.0), "renormalised, balanced": (False, 1e-2), "kept": (True, 0.0), "kept, balanced": (True, 1e-2)}
with Curves(*(f"loss, {name}" for name in RUNS)) as curves:
    runs = {name: train_small(*choice, name, curves) for name, choice in RUNS.items()}

# %%
tail = max(1, updates // 10)
with drawing(9.0, 2.6) as figure:
    for place, (name, run) in enumerate(runs.items()):
        axes = figure.add_subplot(1, 4, place + 1)
        for expert in range(E):
            axes.plot(run["share"][:, expert], color=COLOURS[expert % len(COLOURS)], linewidth=1.0, label=f"expert {expert}")
        axes.axhline(1 / E, color=INK, linewidth=1.2, linestyle=":", label="evenly")
        axes.set(title=name, ylim=(0, 1), xlabel="updates")
        if place:
            axes.set_yticks([])
        else:
            axes.set_ylabel("share of positions")
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=E + 1, fontsize=9)
    for handle in legend.get_lines():
        handle.set_linewidth(3)
    picture = finish(figure, "The share of positions of each of four experts over training, for four ways to train.")
display(picture)
least = {}
numbers = "".join(f"{expert:5}" for expert in range(E))
print(f"{'':22} {'loss':>6}  {'real positions':>{5 * E}}  {'padding':>{5 * E}}  experts")
print(f"{'of expert':>22} {'':6}  {numbers}  {numbers}  below 1 %")
for name, run in runs.items():
    share, padding = (run[which][-tail:].mean(axis=0) for which in ("share", "padding"))
    least[name] = share.min()
    real, filled = ("".join(f"{each:5.0%}" for each in shares) for shares in (share, padding))
    print(f"{name:22} {np.mean(run['loss'][-tail:]):6.3f}  {real}  {filled}  {(share < 0.01).sum()}")
for name, run in runs.items():
    print(f"{name:22} furthest that a number of its router has moved: {run['moved']:.3f}")
reveal("06.dead", min(least, key=least.get))

# %% [markdown]
# Read the shares first. The router that hears nothing, neither task nor balance, keeps its rows as chance drew them (see the last lines); the shares move all the same, because the vectors under it do. One that hears the task takes what works first: a favourite learns fastest and is chosen more, and another one
# starves on a few percent (see the smallest share of 'kept'; the last column says whether any fell below 1 %). The balance loss brings the shares together. It has a hole, though: like the original's it counts the **padding**, and a router can please it with that. In the balanced runs, compare the two halves of a line: the padding is shared out otherwise than the real positions, and fills much of what these leave uneven.
#
# **Then read the losses.** At this size and after so few updates they are close to each other. Evenness is not quality.
#
# ### Dead
#
# An expert that starves is still alive: it learns from what little it gets. One that gets nothing is dead. Kill the last one on purpose: give it the mean of the others' router rows. Its product with a vector is then the mean of theirs, and a mean is never the largest; the softmax keeps the order.

# %%
torch.manual_seed(0)
victim = OmniModel(config.replace(keep_top1_gate=True)).model.eval()
load_thinker(victim, settings.thinker_file)
layer = victim.layers[1].mlp
with torch.no_grad():
    layer.gate.weight[-1] = layer.gate.weight[:-1].mean(dim=0)
    share = F.one_hot(layer.route(x)[1][:, 0], E).float().mean(dim=0)
loss, _ = next_token_loss(victim, conversations[:16])
loss.backward()
for expert in range(E):
    gradient = max(float(weight.grad.abs().max()) for weight in layer.experts[expert].parameters())  # zeros where no position came by
    print(f"expert {expert}: {share[expert]:.0%} of the positions, largest gradient {gradient:.1e}")

# %% [markdown]
# Nothing in, nothing learnt, nothing to be chosen for. It is stored, and the optimiser keeps its moments, of no use. The loss does not tell; a count of the choices does, and so it belongs in the log of a training.
#
# ## What did the routers learn?
#
# Which expert takes which kind of token, in the two balanced runs. If a router knows nothing of the task, this is what the balance loss and chance made of it.

# %%
KINDS = {
    "marks and roles": lambda token: token.startswith("<|") or token in ("user", "assistant", "system", "↵"),
    "numbers": lambda token: token.strip() in "zero one two three four five six seven eight nine ten eleven twelve".split(),
    "colours": lambda token: token.strip() in "red green blue yellow black white orange pink purple brown grey".split(),
    "punctuation": lambda token: token.strip() in (".", ",", "?", ":", "!"),
}


def usage(thinker: Thinker) -> np.ndarray:
    """(kinds + 1, E): of each kind of token, the share that the first block's experts get; the last row is all others."""
    layer, table = thinker.eval().layers[0].mlp, np.zeros((len(KINDS) + 1, E))
    handle = layer.register_forward_pre_hook(lambda _, arguments: seen.update(x=arguments[0][0]))
    with torch.no_grad():
        for ids in text[:: max(1, len(text) // 100)]:
            thinker.lower(thinker.embed_tokens(torch.tensor(ids)[None]), make_window(thinker.config, len(ids), "cpu"))
            picked = layer.route(seen["x"])[1][:, 0]
            for each, expert in zip(ids, picked.tolist()):
                token = tokenizer.tokenizer.id_to_token(each).replace("Ġ", " ").replace("Ċ", "↵")
                kind = next((number for number, test in enumerate(KINDS.values()) if test(token)), len(KINDS))
                table[kind, expert] += 1
    handle.remove()
    return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


maps = {name: usage(runs[name]["thinker"]) for name in ("renormalised, balanced", "kept, balanced")}
with drawing(9.0, 2.5) as figure:
    for place, (name, table) in enumerate(maps.items()):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes.grid(False)
        for (row, column), value in np.ndenumerate(table):
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=9, color="white" if value < 0.5 else "black")
        axes.set(title=name, xticks=range(E), xlabel="expert")
        axes.set_yticks(range(len(table)), [*KINDS, "other words"] if place == 0 else [""] * len(table), fontsize=9)
    picture = finish(figure, "Share of each kind of token that each expert gets, for two balanced runs.")
display(picture)
for name, table in maps.items():
    print(f"{name:22} of a kind, its favourite expert gets {table.max(axis=1).mean():.0%} on average; evenly it would be {1 / E:.0%}")

# %% [markdown]
# Both split tokens by kind, even the one that is deaf to the task: look how unlike each other the rows of a map are. So such a split is no proof that a router has understood anything. It goes by what a vector
# looks like, and in the first block that is perhaps little more than its token. The lines under the maps say how sharply each splits. One run each cannot tell whether the task made the difference between them.
#
# ## Full experts and dropped positions
#
# On many cards every expert gets a buffer of fixed size: **capacity** = factor times $N k / E$. What does not fit is *dropped*: it passes the layer by on the residual stream. GShard and Switch work so; the sizes are known beforehand,
# and a compiler likes that. Here nothing is dropped. The price is that the counts must be known on the host, the processor that gives the card its work, once a layer. **Predict:** with buffers a quarter larger than the even share, how many of the first run's positions would be lost?

# %%
predict(
    "06.dropped",
    mine=None,
    question="Percent of positions dropped at a capacity factor of 1.25, in the run 'renormalised' (no balance)?",
)


# %%
def dropped(share: np.ndarray, factor: float) -> float:
    """Share of positions beyond the buffers, from each expert's share of positions (E,)."""
    return float(np.maximum(share - factor / len(share), 0).sum())


for name, run in runs.items():
    share = run["share"][-tail:].mean(axis=0)
    print(f"{name:24} " + "   ".join(f"factor {factor}: {dropped(share, factor):.0%}" for factor in (1.0, 1.25, 2.0)))
reveal("06.dropped", round(100 * dropped(runs["renormalised"]["share"][-tail:].mean(axis=0), 1.25)), "percent")

# %% [markdown]
# ## The same in the package
#
# Your router and your sorting, with the experts of `mmo.moe.MixtureOfExperts` in place of matrices, against the module itself:

# %%
with torch.no_grad():
    gates, picked = route(x, router, 1, True)
    order = picked[:, 0].argsort(stable=True)
    counts = picked[:, 0].bincount(minlength=E).tolist()
    mine = torch.empty_like(x)
    mine[order] = torch.cat([expert(part) for expert, part in zip(mixture.experts, x[order].split(counts))])
    theirs, _ = mixture(x[None])
print(f"largest difference: {float((mine * gates - theirs[0]).abs().max()):.1e}")
assert torch.allclose(mine * gates, theirs[0], atol=1e-5)

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("06")

# %% [markdown]
# ## Summary
#
# - A mixture stores $E$ feed-forward layers and uses $k$: more memory, the same work a position.
# - Sorted once, each expert is one dense product.
# - Without a balance loss a deaf router's rows stay as chance drew them, and the shares drift with the vectors; one that hears the task lets a few favourites take most. With it the shares come together; but to be used evenly is not yet to be used well.
# - Renormalised top-1 gates are 1: the router learns from the balance loss alone. Keeping the score as the gate cures it.
#
# **Often mistaken.** *"Experts are experts for topics."* Mostly for tokens: routers split by what a vector looks like, and that is the token. *"A mixture is faster."* Than a dense model of the same *stored* size; beside one of the same
# active size it is somewhat slower. *"The balance loss makes the router learn."* It makes it even.
#
# **To try.** Set `num_experts_per_tok=2` in `small` (and count all columns of `picked` in `watch`): is the renormalised router still deaf? (Two gates that add up to 1 are no constants.) Raise the coefficient to 1 and watch the loss.
#
# **Where to read on.** In this course: `mmo/moe.py`; [notebook 14](14_dense_against_moe.ipynb) trains both kinds side by side. Papers:
#
# - N. Shazeer, A. Mirhoseini, K. Maziarz and others: *Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer.* ICLR 2017, [arXiv:1701.06538](https://arxiv.org/abs/1701.06538).
# - D. Lepikhin, H. Lee, Y. Xu and others: *GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding.* ICLR 2021, [arXiv:2006.16668](https://arxiv.org/abs/2006.16668).
# - W. Fedus, B. Zoph, N. Shazeer: *Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity.* JMLR 2022, [arXiv:2101.03961](https://arxiv.org/abs/2101.03961).
# - A. Q. Jiang, A. Sablayrolles, A. Roux and others: *Mixtral of Experts.* 2024, [arXiv:2401.04088](https://arxiv.org/abs/2401.04088).
# - A. Komatsuzaki, J. Puigcerver, J. Lee-Thorp and others: *Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints.* ICLR 2023, [arXiv:2212.05055](https://arxiv.org/abs/2212.05055).
