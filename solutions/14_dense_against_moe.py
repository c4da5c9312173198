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
# # 14 · Dense against mixture
#
# *Takes 45 minutes (tiny) · runs in 158 s on one core (tiny) · builds on 06, 10 · 3 exercises, 7 points*
#
# **At the end** you have trained the dense model and its mixture of experts on the same rows in the same order, from the very same function. You have compared them at equal steps and at equal seconds,
# in speed, in memory and in what the experts do.
#
# **You need** notebooks 06 (what a mixture is) and 10 (how T2A is trained).
#
# **The claim.** "The same active size" is one of four sizes. What is stored, what is computed, what the optimiser holds and what a second buys are
# four different comparisons. By construction a mixture draws in one (what is computed) and loses two (what is stored, what is held); it has to earn the last.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few updates

# %%
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo.bench.clock import Stopwatch, seconds_of
from mmo.bench.flops import Work, forward_flops
from mmo.chat import ChatTokenizer
from mmo.config import Decoding
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.data import Batches, Layout
from mmo.display import BLUE, GREEN, ORANGE, drawing, finish
from mmo.generation import Generator, Prompt
from mmo.moe import MixtureOfExperts, count_parameters, upcycle
from mmo.omni import OmniModel
from mmo.profiles import profile as find_profile
from mmo.thinker import load_thinker
from mmo.training import Encoders, Stepper, open_corpora, planned_passes, validation_batches

PAIR = (profile.removesuffix("-moe"), profile.removesuffix("-moe") + "-moe")
profiles = {name: find_profile(name) for name in PAIR}
DENSE, MIXED = PAIR
settings = profiles[DENSE]
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
device = settings.device()
COLOUR = {DENSE: BLUE, MIXED: ORANGE}
print(" against ".join(PAIR))

# %% [markdown]
# ## The books
#
# **Stored** weights are on disk and in memory. **Active** ones meet a position: they are the work. Training holds more: a gradient for each stored weight, and the optimiser's moments (AdamW two, Muon one). **Predict** from the numbers of experts alone (four in each layer of the mixture; a position goes to one):

# %%
predict(
    "14.memory", "How many times the dense model's memory does the mixture's training need (weights, gradients, optimiser)?",
    None,
)

# %%
stage = replace(planned_passes(settings, "t2a", budget, None)[0], ema_decay=0.9)  # the average of a short run must be short
torch.manual_seed(0)
models = {name: OmniModel(profiles[name].model) for name in PAIR}
steppers = {name: Stepper(models[name].to(device), stage, 100, device, torch.float32) for name in PAIR}
books = {}
print(f"{'':10}  stored    active    forward, at a position that reads, writes and speaks")
for name, model in models.items():
    stored, active = count_parameters(model)
    one_position = forward_flops(model.config, Work(rows=1, length=1, upper=1, text_heads=1, audio_heads=1, code_table=False))
    moments = sum(2 * p.numel() for group in steppers[name].optimisers.adam.param_groups for p in group["params"])
    if steppers[name].optimisers.muon:
        moments += sum(p.numel() for group in steppers[name].optimisers.muon.param_groups for p in group["params"])
    books[name] = {"file (half precision)": 2 * stored / 1e6, "weights": 4 * stored / 1e6, "gradients": 4 * stored / 1e6, "optimiser": 4 * moments / 1e6}
    print(f"{name:10} {stored / 1e6:6.2f} M  {active / 1e6:6.2f} M   {one_position / 1e6:6.2f} MFLOP")
with drawing(7.5, 1.8) as figure:
    axes = figure.add_subplot()
    for place, name in enumerate(PAIR):
        left = 0.0
        for part, colour in (("weights", BLUE), ("gradients", GREEN), ("optimiser", ORANGE)):
            axes.barh(place, books[name][part], left=left, color=colour, label=part if place == 0 else None)
            left += books[name][part]
    axes.set_yticks(range(2), PAIR)
    axes.invert_yaxis()
    axes.set(xlabel="MB in training, without activations")
    axes.legend(loc="upper right")
    picture = finish(figure, "Memory of weights, gradients and optimiser for both models.")
display(picture)
held = {name: books[name]["weights"] + books[name]["gradients"] + books[name]["optimiser"] for name in PAIR}
print("   ".join(f"{name}: {held[name]:.0f} MB in training, {books[name]['file (half precision)']:.1f} MB on disk" for name in PAIR))
reveal("14.memory", round(held[MIXED] / held[DENSE], 2), "times")

# %% [markdown]
# ## One function, two models
#
# A comparison is fair if both start alike. The shipped Thinker is dense; **upcycling** makes a mixture of it: every expert begins as a copy of the dense layer, only the routers are
# new. With a gate of 1 (the original's quirk, notebook 06) it does not matter whom the router picks: all copies say the same.
#
# ## Exercise: by name
#
# *Exercise 14.names · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("14.names")`*
#
# What upcycling needs is a list of names. In the mixture `layers.0.mlp.up_proj.weight` has become `layers.0.mlp.experts.0.up_proj.weight`, `layers.0.mlp.experts.1.up_proj.weight` and so on. Give the names that a dense weight is
# copied to, experts in order.

# %%
@exercise("14.names")
def names(name: str, experts: int) -> list[str]:
    """The names in the mixture that a dense weight is copied to.

    One an expert, in order; its own name alone where it is in no `.mlp.`.
    """
    ### BEGIN SOLUTION
    stem, found, layer = name.rpartition(".mlp.")
    return [f"{stem}.mlp.experts.{expert}.{layer}" for expert in range(experts)] if found else [name]
    ### END SOLUTION


# %%
check("14.names")

# %%
load_thinker(models[DENSE].model, settings.thinker_file)  # a trained Thinker, an untrained Talker: where T2A starts
state = models[DENSE].state_dict()
fresh = {name: weight.clone() for name, weight in models[MIXED].state_dict().items()}  # cloned: it is asked again below, when these weights have learnt
# The projectors have an .mlp. of their own, which stays dense: what the mixture knows by its old name keeps it.
mine = {target: weight for name, weight in state.items() for target in ([name] if name in fresh else names(name, profiles[MIXED].model.num_experts))}
mine |= {name: weight for name, weight in fresh.items() if name.endswith(".mlp.gate.weight")}  # the routers
package = upcycle(state, fresh)
same = mine.keys() == package.keys() and all(torch.equal(mine[name], package[name]) for name in mine)
print(f"{len(state)} dense weights become {len(mine)}; the same as mmo.moe.upcycle: {same}")
models[MIXED].load_state_dict(package)
steppers = {name: Stepper(models[name], stage, 100, device, torch.float32) for name in PAIR}  # anew: their averages begin with these weights

# %%
layout = Layout(settings.model, tokenizer, stage.max_length)
held_out = [batch for found in validation_batches(settings, stage, Encoders(), layout).values() for batch in found][: 4 if budget == "full" else 1]


@torch.no_grad()
def measure(name: str) -> dict:
    """Held-out losses of the averaged weights: text, audio, by codebook."""
    return steppers[name].validate(held_out)


start = {name: measure(name) for name in PAIR}
print("   ".join(f"{name}: text {start[name]['text']:.5f}, audio {start[name]['audio']:.5f}" for name in PAIR))
assert abs(start[DENSE]["audio"] - start[MIXED]["audio"]) < 1e-3

# %% [markdown]
# Two models of unlike size, one function. What parts them from here on is training alone.
#
# ## The same rows, step by step
#
# Both take the same batch, then the next. They take turns, so that a machine that is busy for a while is unfair to both. The clock runs for each by itself, and the optimiser's share of it is taken apart.
# **Predict** before you run it:

# %%
predict(
    "14.step", "How many times the dense model's seconds does one training step of the mixture take?",
    None,
)

# %%
predict(
    "14.equal_steps", "Whose held-out audio loss is lower after the same number of steps: 'dense', 'mixture' or 'even' (within 0.02)?",
    None,
)

# %%
updates, every = (60, 10) if budget == "full" else (4, 2)
corpora, shares = open_corpora(settings, stage, Encoders())
batches = Batches(corpora, shares, layout, stage.token_budget, chunk_rows=stage.chunk_rows).start()
step_seconds: dict[str, list[float]] = {name: [] for name in PAIR}
curve = {name: [(0, 0.0, start[name]["audio"], start[name]["text"])] for name in PAIR}
stage = stage.replace(steps=updates, warmup_steps=5, schedule="constant")  # a falling rate would help whoever is further on in it
steppers = {name: Stepper(models[name].train(), stage, updates, device, torch.float32) for name in PAIR}
for name in PAIR:  # each optimiser notes its own seconds
    steppers[name].optimisers.step = Stopwatch(steppers[name].optimisers.step, device)
positions = 0
for step in tqdm(range(updates), desc="both", unit="step"):
    batch = next(batches)
    positions += batch.size
    for name in PAIR if step % 2 else PAIR[::-1]:
        step_seconds[name].append(seconds_of(lambda: steppers[name].step(batch, step), device))
    if (step + 1) % every == 0:
        for name in PAIR:
            found = measure(name)
            curve[name].append((step + 1, sum(step_seconds[name]), found["audio"], found["text"]))

# %%
with drawing(9.0, 2.6) as figure:
    left, right = figure.subplots(1, 2, sharey=True)
    for name in PAIR:  # the dense one wide and pale, the mixture thin on top: where they agree, both are seen
        steps, seconds, audio, _ = np.array(curve[name]).T
        style = dict(linewidth=5, alpha=0.35, markersize=9) if name == DENSE else dict(linewidth=1.3, markersize=4)
        left.plot(steps, audio, "o-", color=COLOUR[name], label=name, **style)
        right.plot(seconds, audio, "o-", color=COLOUR[name], **style)
    left.set(xlabel="steps", ylabel="held-out audio loss")
    right.set(xlabel="seconds of training")
    left.legend()
    picture = finish(figure, "Held-out audio loss of both models against steps, and against seconds.")
display(picture)
medians = {name: (float(np.median(step_seconds[name])), float(np.median(steppers[name].optimisers.step.seconds))) for name in PAIR}
typical = {name: {"step": step, "optimiser": optimiser} for name, (step, optimiser) in medians.items()}
print(f"{'':10}   ms a step   forward and backward   optimiser   positions a second")
for name in PAIR:
    whole, optimiser = 1000 * typical[name]["step"], 1000 * typical[name]["optimiser"]
    print(f"{name:10} {whole:11.0f} {whole - optimiser:22.0f} {optimiser:11.0f} {1000 * positions / updates / whole:20.0f}")
cores = torch.get_num_threads()
print(f"this kernel computes on {f'{cores} core' + 's' * (cores > 1) if device.type == 'cpu' else device}")
ratio = typical[MIXED]["step"] / typical[DENSE]["step"]
apart = curve[DENSE][-1][2] - curve[MIXED][-1][2]
display(reveal("14.step", round(ratio, 2), "times the dense model's seconds a step"))
reveal("14.equal_steps", "even" if abs(apart) < 0.02 else "mixture" if apart > 0 else "dense", f"(held-out audio loss after {updates} steps)")

# %% [markdown]
# The same active weights, and still slower: the router, the sorting and many small products in place of one large one. And the optimiser does not know what is active. It moves every weight at every step, an expert's as well that saw three positions.
# On small batches that is the largest part of the price.
#
# Notebook 10 may have shown fewer milliseconds for the very same dense model: it is executed on two cores, this notebook on one. So compare within a table, not across.
#
# ## Exercise: at equal seconds
#
# *Exercise 14.at_seconds · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("14.at_seconds")`*
#
# Steps are not what you pay with. Read the two curves at the same moment: the last one that both have reached.

# %%
@exercise("14.at_seconds")
def at_seconds(seconds: Tensor, losses: Tensor, moment: float) -> float:
    """The loss at a moment, by straight lines between the measurements.

    seconds (M,) rising, losses (M,): the first and last values hold beyond the ends.
    """
    ### BEGIN SOLUTION
    return float(np.interp(moment, seconds.numpy(), losses.numpy()))
    ### END SOLUTION


# %%
check("14.at_seconds")

# %%
moment = min(curve[name][-1][1] for name in PAIR)
columns = {name: torch.tensor(curve[name], dtype=torch.float64).T for name in PAIR}
equal = {name: at_seconds(columns[name][1], columns[name][2], moment) for name in PAIR}
print(f"held-out audio loss   after {updates} steps: " + ", ".join(f"{name} {curve[name][-1][2]:.3f}" for name in PAIR))
print(f"                      after {moment:.0f} seconds each: " + ", ".join(f"{name} {equal[name]:.3f}" for name in PAIR))

# %% [markdown]
# ## Speaking
#
# In decoding a step has one position a row. One row needs one expert a layer: hardly more arithmetic than the dense model's, but a router and a sorting in every layer. Eight rows spread over all experts, and each expert's product is small. Which of the two costs more? The times are those of one step, since two models need not answer at equal length:

# %%
frames = 40 if budget == "full" else 8
decoding = Decoding(temperature=0.0, max_text=8, max_frames=frames)
prompt_ids = tokenizer.prompt([{"role": "user", "content": "What is three plus four?"}])
pace = {name: {} for name in PAIR}
generators = {name: Generator(models[name].eval(), None, tokenizer, decoding) for name in PAIR}
for rows in (1, 8):
    found = {name: [] for name in PAIR}
    for _ in range(3):
        for name in PAIR:
            answers, prompts = [], [Prompt(prompt_ids, seed=n) for n in range(rows)]
            taken = seconds_of(lambda: answers.extend(generators[name].generate_batch(prompts)), device)
            found[name].append(taken / (max(answer.codes.shape[1] for answer in answers) + settings.model.num_codebooks))
    for name in PAIR:
        pace[name][rows] = float(np.median(found[name]))
longer = {rows: pace[MIXED][rows] / pace[DENSE][rows] for rows in (1, 8)}
for rows in (1, 8):
    figures = ", ".join(f"{name} {1000 * pace[name][rows]:.1f} ms a step" for name in PAIR)
    print(f"{'1 row: ' if rows == 1 else f'{rows} rows:'} {figures}; the mixture takes {longer[rows]:.2f} times as long")
print(f"in proportion the mixture is dearer with {'one row' if longer[1] > longer[8] else 'eight rows'}")

# %% [markdown]
# So that is the answer here. One way to read it: the router and the sorting cost nearly the same for one row and for eight, and a step of one row has little else in it; eight rows share that price, and pay for smaller products instead. Where one row is the dearer one, the first weighs more than the second.
#
# ## What the experts do
#
# The positions of a row are of three kinds: the **prompt**, the positions where **text** is written (with sound beside it), and those of **sound** alone, behind the text's end. Do experts divide them among themselves?
#
# ## Exercise: who goes where
#
# *Exercise 14.usage · difficulty ●●○ · importance ●●○ · 10 minutes · 3 points · stuck? `hint("14.usage")`*
#
# `chosen` has the number of the expert that each position went to, `kinds` the number of its kind, 0 to `count` - 1. Each row of the table adds up to 1; a kind that does not occur gets a row of zeros.

# %%
@exercise("14.usage")
def usage(chosen: Tensor, kinds: Tensor, experts: int, count: int) -> Tensor:
    """(count, experts): of each kind's positions, the share that goes to each expert.

    chosen (N,), kinds (N,): of each position, the number of its expert and of its kind.
    """
    ### BEGIN SOLUTION
    table = torch.bincount(kinds * experts + chosen, minlength=count * experts).view(count, experts).float()
    return table / table.sum(dim=1, keepdim=True).clamp(min=1)
    ### END SOLUTION


# %%
check("14.usage")

# %%
KINDS = ("prompt", "text", "sound")
mixtures = {name: module for name, module in models[MIXED].named_modules() if isinstance(module, MixtureOfExperts)}
picked: dict[str, list[Tensor]] = {name: [] for name in mixtures}
kinds: dict[str, list[Tensor]] = {name: [] for name in mixtures}


def kinds_of(batch) -> Tensor:
    """(B, T): 0 prompt, 1 text, 2 sound, -1 padding."""
    text, sound = batch.text_labels != -100, batch.audio_labels[:, 0] != -100
    answered = (text | sound).cumsum(dim=1) > 0
    over = (text | sound).flip(1).cumsum(dim=1).flip(1) == 0
    found = torch.where(text, 1, torch.where(sound, 2, 0))
    return torch.where(answered & over, -1, found)


def spy(name: str, now: Tensor):
    def hook(module: MixtureOfExperts, arguments: tuple) -> None:
        x = arguments[0]
        here = now[:, : x.shape[1]]  # the Thinker's upper layers read only as far as there is text
        known = here >= 0
        picked[name].append(module.route(x[known])[1][:, 0].cpu())
        kinds[name].append(here[known].cpu())

    return hook


@torch.no_grad()
def look(model: OmniModel) -> None:
    """Fill `picked` and `kinds` with what the routers choose on the held-out rows."""
    for each in (*picked.values(), *kinds.values()):
        each.clear()
    for batch in held_out:
        handles = [module.register_forward_pre_hook(spy(name, kinds_of(batch).to(device))) for name, module in mixtures.items()]
        model.hidden_states(**batch.inputs(device))
        for handle in handles:
            handle.remove()


with steppers[MIXED].averaged() as model:
    look(model)
experts = len(next(iter(mixtures.values())).experts)
tables = {name: usage(torch.cat(picked[name]), torch.cat(kinds[name]), experts, len(KINDS)) for name in mixtures}
labels = {name: ("Thinker " if name.startswith("model.") else "Talker ") + name.split(".layers.")[1].split(".")[0] for name in mixtures}
largest = max(float(table.max()) for table in tables.values())
with drawing(9.0, 3.2) as figure:
    panels = figure.subplots(2, -(-len(tables) // 2), sharex=True, sharey=True, squeeze=False)
    for axes in panels.ravel()[len(tables) :]:
        axes.set_visible(False)
    for axes, (name, table) in zip(panels.ravel(), tables.items()):
        image = axes.imshow(table, cmap="cividis", vmin=0, vmax=largest, aspect="auto")
        axes.grid(False)
        axes.set_title(labels[name])
        axes.set_xticks(range(experts))
        axes.set_yticks(range(len(KINDS)), KINDS)
    for axes in panels[-1]:
        axes.set_xlabel("expert")
    figure.colorbar(image, ax=panels, label="share of the kind's positions", pad=0.01)
    display(finish(figure, "For each layer with experts: which share of prompt, text and sound positions goes to each expert."))

# %% [markdown]
# Are such maps learnt, or did the routers draw them by chance? How much an expert tells of the kind can be counted, for the routers as they are now, and for the routers that were drawn at the beginning, on the same trained model:

# %%
def told(name: str) -> float:
    """How much of the kind the expert tells: mutual information over the entropy of the kinds, 0 … 1."""
    joint = np.zeros((len(KINDS), len(mixtures[name].experts)))
    np.add.at(joint, (torch.cat(kinds[name]).numpy(), torch.cat(picked[name]).numpy()), 1)
    joint /= joint.sum()
    rows, columns = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = np.nansum(joint * np.log(joint / (rows * columns)))
        entropy = -np.nansum(rows * np.log(rows))
    return float(shared / entropy) if entropy > 0 else 0.0


trained = {name: told(name) for name in mixtures}
loads = {name: torch.bincount(torch.cat(picked[name]), minlength=experts) / len(torch.cat(picked[name])) for name in mixtures}
with steppers[MIXED].averaged() as model:  # the same weights with the routers they began with
    weights = {name: module.gate.weight.detach().clone() for name, module in mixtures.items()}
    for name, module in mixtures.items():
        module.gate.weight.data.copy_(package[f"{name}.gate.weight"])
    look(model)
    for name, module in mixtures.items():
        module.gate.weight.data.copy_(weights[name])
print("            the expert tells of the kind:   each expert's share of")
print("            learnt router   drawn router    all positions (learnt)")
for name in mixtures:
    print(f"{labels[name]:10} {trained[name]:13.0%} {told(name):14.0%}        " + "".join(f"{each:5.0%}" for each in loads[name].tolist()))

# %% [markdown]
# A share of 0 % would mean that every kind is spread over the experts alike. Positions of sound look alike to a router and unlike text, so some division comes from the vectors themselves. That is why the second column is there: the routers as
# they were drawn, on the trained model. Only what goes beyond it was learnt, and a clear map by itself is no proof of learning. Where the trained routers tell *less* than the drawn ones, training has evened out what chance had sorted: the balance loss asks for even shares, and no loss asks an expert to tell the kind.

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("14")

# %% [markdown]
# ## What this says, and what not
#
# - At equal **active** size the mixture needs more memory in training, at any size, and here its step takes longer. How much longer depends on the size of a batch.
# - A difference of a few hundredths between the curves says nothing: the two models draw different dropout, and nobody has repeated the run.
# - Whether it is *better* a step depends on how much there is to store. Our world has some two hundred and thirty words: a dense model of this size holds it with ease, and a few dozen updates show the start of a training, not its end.
# - Published gains (Switch, ST-MoE, DeepSeekMoE, OLMoE) are at billions of tokens, with experts spread over many cards and batches of millions of positions, where an expert's product is large and the optimiser's share is small.
#
# So take from this notebook how to compare, not who wins.
#
# **Often mistaken.** *"Same active size, same speed."* The work is the same, the time is not. *"Compare at equal steps."* That compares recipes in which one side pays more for each step. *"An even load means that the experts differ."* Copies of one layer, evenly used, are even too.
#
# **To try.** Build the mixture with `keep_top1_gate=True`: does the start still agree with the dense model? (It cannot: what factor comes in?) Quadruple `token_budget` and measure the ratio of the step times again.
#
# **Where to read on.** In this course: `mmo/moe.py`, [notebook 06](06_mixture_of_experts.ipynb). Papers:
#
# - W. Fedus, B. Zoph, N. Shazeer: *Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity.* JMLR 2022, [arXiv:2101.03961](https://arxiv.org/abs/2101.03961).
# - B. Zoph, I. Bello, S. Kumar and others: *ST-MoE: Designing Stable and Transferable Sparse Expert Models.* 2022, [arXiv:2202.08906](https://arxiv.org/abs/2202.08906).
# - A. Komatsuzaki, J. Puigcerver, J. Lee-Thorp and others: *Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints.* ICLR 2023, [arXiv:2212.05055](https://arxiv.org/abs/2212.05055).
# - D. Dai, C. Deng, C. Zhao and others: *DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models.* ACL 2024, [arXiv:2401.06066](https://arxiv.org/abs/2401.06066).
# - N. Muennighoff, L. Soldaini, D. Groeneveld and others: *OLMoE: Open Mixture-of-Experts Language Models.* 2024, [arXiv:2409.02060](https://arxiv.org/abs/2409.02060).
