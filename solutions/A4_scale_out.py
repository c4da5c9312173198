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
# # A4 · Scale out
#
# *Takes 75 minutes (tiny) · runs in 73 s on one core (tiny) · builds on 07, 10 · 4 exercises, 12 points*
#
# **At the end** you have trained one model in two processes and shown that it learns exactly what one process would have learnt from the whole batch. You can say
# before renting eight cards what they will bring and where they will wait. And you have five projects to go on with.
#
# **You need** the losses and batches of notebooks 07 and 10.
#
# **The claim.** Data parallelism is one sum. If every process takes a share of the batch, divides by the counts of *all*, and the gradients are averaged, then $N$
# processes make the step of the whole batch, to the rounding. Each of the three parts has a quiet way of going wrong, in which training still looks fine.
#
# Letters: $N$ processes or cards, $r$ the rank of one of them, $n$ labels in the whole batch, $P$ bytes of gradients.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer steps where something is trained or timed

# %%
import inspect
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import mmo.distributed
import mmo.training
from mmo import sequence
from mmo.chat import ChatTokenizer
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.config import Draws
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.data import Batches, Corpus, DataFile, Layout
from mmo.display import BLUE, GREEN, GREY, INK, ORANGE, SKY, drawing, finish, listen, show_delay
from mmo.generation import Generator, Prompt, Sound, TextPiece
from mmo.omni import OmniModel, load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import open_rows

settings = find_profile(profile)
config, stage = settings.model, settings.stages["t2a"][0]
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)

# %% [markdown]
# ## What the package does today
#
# `torchrun --standalone --nproc-per-node 8 -m mmo train …` shares every batch among eight processes and learns what one would have learnt
# ([docs/scale_out.md](../docs/scale_out.md) says what is exact, and what was run). What this takes is small, and easily got wrong. It is spelt out in `mmo/distributed.py`, with a trial that proves the gradients and the denominators: that
# is what this notebook takes apart. The loop in `mmo/training.py` does the same with PyTorch's own averaging (DistributedDataParallel, DDP), on shares of rows instead of whole batches (`mmo/shares.py`).

# %%
functions = [name for name, thing in vars(mmo.distributed).items() if inspect.isfunction(thing) and thing.__module__ == "mmo.distributed"]
print(textwrap.fill("mmo/distributed.py has: " + ", ".join(functions), 90))

# %% [markdown]
# ## One sum
#
# The loss of a batch is a sum over its labels, divided by their number. A gradient is linear, so the gradient of a sum is the sum of gradients:
#
# $$\nabla \frac{1}{n} \sum_{i=1}^{n} \ell_i \;=\; \frac{1}{N} \sum_{r=1}^{N} \nabla \left( \frac{N}{n} \sum_{i \in \text{share } r} \ell_i \right).$$
#
# The left side is one card with the whole batch. The right side is $N$ cards, each with its own share, whose gradients are averaged. Nothing is approximated. What
# follows are the three places where the right side is easily got wrong: which share, which mean, which denominator.
#
# ## Which share
#
# torchrun starts the same program $N$ times and tells each its rank. All of them make the *same* plan of batches, from the same seed; rank $r$ then takes its share of that plan. It need not
# ask anybody. In this course each row's draws follow from (seed, epoch, row) alone, so who computes a row does not matter either.
#
# At the end of a step all wait for all. So the slowest decides, and a rank that has one batch more than the others waits for ever.
#
# ## Exercise: a share of the batches
#
# *Exercise A4.shard · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("A4.shard")`*
#
# Return the numbers of the batches that are this rank's.

# %%
@exercise("A4.shard")
def share(count: int, rank: int, size: int) -> list[int]:
    """Batches 0 .. count - 1 -> the numbers of this rank's, in order:
    equally many for all ranks, the batches of one step side by side."""
    ### BEGIN SOLUTION
    whole_rounds = count - count % size
    return list(range(rank, whole_rounds, size))
    ### END SOLUTION


# %%
check("A4.shard")

# %% [markdown]
# How long do ranks wait for each other? Below are the first batches of the training file, dealt to four ranks. In the upper picture each rank takes *rows* as they come, sixteen a step. In the
# lower one it takes *batches* of the length-sorted plan. A bar is what a rank computes in a step; the line is what all of them wait for. **Predict:**

# %%
predict("A4.waiting", mine=None, question="Four ranks, each takes rows as they come: "
        "how many percent of the time do they wait for the slowest?")

# %%
corpus = Corpus([DataFile(open_rows(settings.data_dir / stage.data[0], config, settings.cache_dir()))], Draws.none())
layout = Layout(config, tokenizer, stage.max_length)
batches = Batches([corpus], [1.0], layout, stage.token_budget, seed=0, chunk_rows=512)
plan = batches.plan(0)
N = 4
planned = np.array([[len(plan[number]) * max(row.length for row in plan[number]) for number in share(len(plan), rank, N)] for rank in range(N)])  # (N, steps)
in_order = batches.chunk(0)  # shortest first
drawn = [in_order[place] for place in np.random.default_rng(0).permutation(len(in_order))]
groups = [drawn[at : at + 16] for at in range(0, len(drawn) - 15, 16)]
as_they_come = np.array([[len(groups[number]) * max(row.length for row in groups[number]) for number in share(len(groups), rank, N)] for rank in range(N)])


def waiting(sizes: np.ndarray) -> float:
    """Share of the time in which ranks wait: sizes (N, steps)."""
    return 1 - sizes.mean() / sizes.max(axis=0).mean()


steps = min(6, as_they_come.shape[1], planned.shape[1])
with drawing(8.0, 3.4) as figure:
    for axes, (title, sizes) in zip(figure.subplots(2, 1, sharex=True, sharey=True), (("rows as they come, 16 a rank", as_they_come), ("batches of the sorted plan", planned))):
        for rank, colour in enumerate((BLUE, SKY, ORANGE, GREEN)):
            axes.bar(np.arange(steps) + 0.2 * (rank - 1.5), sizes[rank, :steps], width=0.18, color=colour, label=f"rank {rank}")
        for step in range(steps):
            axes.plot([step - 0.4, step + 0.4], [sizes[:, step].max()] * 2, color=INK, linewidth=1.6, label="" if step else "the slowest")
        axes.set_title(f"{title}: {100 * waiting(sizes):.0f} % waiting")
        axes.set(ylabel="positions", xticks=range(steps))
    axes.set(xlabel="step")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.2))
    picture = finish(figure, f"Positions computed by four ranks in {steps} steps, two ways of dealing; the line marks the slowest of each step.")
display(picture)
reveal("A4.waiting", round(100 * waiting(as_they_come)), "percent")

# %% [markdown]
# The percentages over the pictures: of the time of all ranks together, so much is spent in waiting for the slowest. Batches of the sorted plan hold rows of like length, as many as fill the same number of positions;
# so they are of like size, whoever gets them.
#
# ## Which mean
#
# `loss.backward()` leaves a gradient in every parameter that took part. Then all processes exchange them, and each goes on with the mean. From then on the optimiser, the clipping and
# the weights are the same everywhere, so nothing else ever has to be sent.
#
# Every parameter? A batch in which nothing is spoken leaves the Talker out, and its parameters have `None`. Another rank's batch may be spoken.
#
# ## Exercise: the mean gradient
#
# *Exercise A4.average · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("A4.average")`*
#
# Return the one gradient with which every rank goes on.

# %%
@exercise("A4.average")
def average(gradients: list) -> Tensor:
    """One parameter's gradient on each rank, or None where a rank has none (not on all)
    -> what every rank goes on with."""
    ### BEGIN SOLUTION
    total = sum(gradient for gradient in gradients if gradient is not None)
    return total / len(gradients)
    ### END SOLUTION


# %%
check("A4.average")

# %% [markdown]
# In the package the exchange is one call for all parameters together: thousands of small messages would mostly wait for each other.

# %%
print(inspect.getsource(mmo.distributed.average_gradients))

# %% [markdown]
# ## Which denominator
#
# Here is the quiet one. Each rank computes a *mean* loss, as it always has, and the gradients are averaged. It trains, the curve falls. But a mean of means is not the mean:
# if one share has 30 labels and the other 50, each of the 30 weighs more. In this model it is worse than in others, for lengths differ a lot, each codebook has a denominator of its own, and a stop
# that weighs tenfold may be in either share.
#
# So the counts are added up first, one small exchange, and each rank divides by the whole.
#
# ## Exercise: a share of the mean
#
# *Exercise A4.denominator · difficulty ●●○ · importance ●●● · 12 minutes · 4 points · stuck? `hint("A4.denominator")`*
#
# Return the loss that this rank should go backwards from.

# %%
@exercise("A4.denominator")
def denominator(own_sum: Tensor, own_count: Tensor, whole_count: Tensor, size: int) -> Tensor:
    """Sum of losses and number of labels of this rank, number of labels of all
    -> this rank's loss, whose average over ranks is the mean over all labels;
    0 where no rank has one."""
    ### BEGIN SOLUTION
    return size * own_sum / whole_count.clamp(min=1)
    ### END SOLUTION


# %%
check("A4.denominator")

# %%
print(inspect.getsource(mmo.distributed.shared_loss))

# %% [markdown]
# ## The proof
#
# A small model, real rows, a few steps. Once in one process with the whole batch; once in two processes that torchrun starts, with shared denominators; once in two
# processes with the usual mistake. They exchange through *gloo*, which needs no GPU. The optimiser is plain SGD, so weights differ exactly as gradients do. The command is
#
#     torchrun --standalone --nproc-per-node 2 -m mmo.distributed --steps 4 --out two.safetensors
#
# **Predict** before you run it: the weights of one process and of two differ a little. How many times farther apart are they with the mistake?

# %%
predict("A4.mistake", mine=None, question="Every rank its own mean: by what factor are its weights farther "
        "from the one-process weights than the exact two-process ones?")

# %%
steps = 2 if budget == "smoke" else 4
losses, weights = {}, {}
losses["one process, whole batch"], weights["one process, whole batch"] = mmo.distributed.trial(mmo.distributed.Group(), steps, rows=16)

# %% [markdown]
# Now two processes, started from here as one would in a terminal. Each loads the package anew, which takes longer than its few steps.

# %%
folder = Path(tempfile.mkdtemp())


def in_two_processes(name: str, *more: str) -> None:
    """Run the trial under torchrun; its weights and losses go beside the others'."""
    out = folder / f"{len(weights)}.safetensors"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # what the command torchrun calls
    done = subprocess.run([*torchrun, "-m", "mmo.distributed", "--steps", str(steps), "--out", str(out), *more], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    weights[name] = load_file(out)
    with safe_open(out, "pt") as file:
        losses[name] = json.loads(file.metadata()["losses"])


in_two_processes("two, shared denominators")

# %%
in_two_processes("two, each its own mean", "--own-means")

# %%
alone = weights["one process, whole batch"]
gaps = {name: max(float((found[key] - alone[key]).abs().max()) for key in alone) for name, found in weights.items()}
print(f"{'':26} {'losses, step by step':42} weights off by at most")
for name, gap in gaps.items():
    print(f"{name:26} {'  '.join(f'{loss:.5f}' for loss in losses[name]):42} {gap:.1e}")
exact, naive = gaps["two, shared denominators"], gaps["two, each its own mean"]
assert exact < 1e-5 and naive > 10 * exact
reveal("A4.mistake", round(naive / max(exact, 1e-12)), "times as far")

# %% [markdown]
# Look at the losses of the last line: they fall like the others. Nothing in a training curve tells you that a denominator is wrong. That is why one compares with a single process,
# once, on a small model, before a long run.
#
# Exact to the *rounding*: the sums are added in another order. Two things do not split at all. The auxiliary loss of a mixture of experts is a product of two means over the batch (notebook 06), and a mean of
# products is not the product of means. And whatever draws random numbers while it computes, as dropout does, draws others in two processes than in one. The trial leaves both out; `mmo train` adds up the
# experts' load before it is multiplied, and lets every process draw the dropout of the whole batch, of which it takes its rows' part.
#
# ## What exchange costs
#
# How do eight cards add up their gradients? Not through one of them: its line would carry all the traffic. In a **ring** each card sends to its neighbour only. The gradients are cut into $N$ parts. In
# $N - 1$ rounds each card passes on a part and adds its own, until every part has been summed up somewhere; in $N - 1$ more rounds the sums go round. Every card sends
# $2 \frac{N-1}{N} P$ bytes, less than $2P$ however many cards there are.

# %%
def ring(cards: int) -> list[np.ndarray]:
    """How many cards' gradients are summed up in each card's copy of each part, after each round of a ring."""
    held = np.ones((cards, cards), int)  # [card, part]
    rounds = [held.copy()]
    for number in range(2 * (cards - 1)):
        passing = [(card - number) % cards if number < cards - 1 else (card + 1 - (number - cards + 1)) % cards for card in range(cards)]
        arriving = [held[card, part] for card, part in enumerate(passing)]
        for card, part in enumerate(passing):
            neighbour = (card + 1) % cards
            held[neighbour, part] = held[neighbour, part] + arriving[card] if number < cards - 1 else arriving[card]
        rounds.append(held.copy())
    return rounds


rounds = ring(4)
with drawing(9.0, 1.7) as figure:
    for number, (axes, held) in enumerate(zip(figure.subplots(1, len(rounds)), rounds)):
        axes.imshow(held, cmap="cividis", vmin=0, vmax=4)
        for (card, part), value in np.ndenumerate(held):
            axes.text(part, card, value, ha="center", va="center", fontsize=7, color="white" if value < 3 else "black")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.set_title("start" if not number else f"round {number}", fontsize=8)
        if not number:
            axes.set(ylabel="card", xlabel="part")
    picture = finish(figure, "A ring of four cards: a grid of cards by parts after each of six rounds; first one part a card is complete, then all.")
display(picture)
assert (rounds[-1] == 4).all()

# %% [markdown]
# ## Exercise: what exchange costs
#
# *Exercise A4.speedup · difficulty ●●○ · importance ●●○ · 10 minutes · 3 points · stuck? `hint("A4.speedup")`*
#
# One card needs `work` seconds for the whole batch. $N$ cards share the work, then exchange. How many times as fast are they, if nobody computes while the exchange runs?

# %%
@exercise("A4.speedup")
def speed_up(work: float, gradient_bytes: float, bandwidth: float, cards: int) -> float:
    """work: seconds of one card; gradient_bytes: P; bandwidth: bytes a second between neighbours
    -> time of one card / time of all."""
    ### BEGIN SOLUTION
    exchange = 2 * (cards - 1) / cards * gradient_bytes / bandwidth
    return work / (work / cards + exchange)
    ### END SOLUTION


# %%
check("A4.speedup")

# %% [markdown]
# ## Before you rent eight cards
#
# The numbers in the next cell are **assumptions**, to be replaced by your own: what a card really reaches, and what passes between two of them. Peak figures from data sheets are not what training gets; a
# quarter of the peak is a fair guess for a model of this size. The rest follows from six operations per weight and position: a multiplication and an addition forwards, twice that backwards.
#
# **Predict:** eight cards, the batch of one card dealt among them. How many times as fast?

# %%
PEAK = 71e12  # multiply-adds in bf16 with fp32 sums, times two, a second: an RTX 3090's data sheet
USED = 0.25  # share of it that training reaches
LINKS = {"PCIe, 10 GB/s": 10e9, "NVLink, 50 GB/s": 50e9}  # between neighbours, as measured by others; measure yours. (3090s have NVLink in pairs only: eight on it are a what-if.)
big = find_profile("mini")
with torch.device("meta"):  # shapes without memory: only to be counted
    real_weights = sum(p.numel() for p in OmniModel(big.model).parameters())
P = 4 * real_weights  # gradients in fp32
one_batch = big.stages["t2a"][0].token_budget  # positions
predict("A4.eight", mine=None, question=f"{real_weights / 1e6:.0f} M weights, {one_batch} positions a batch, 8 cards on PCIe: "
        "how many times as fast as one?")

# %%
def step_seconds(positions: float) -> float:
    """One card, forward and backward."""
    return 6 * real_weights * positions / (PEAK * USED)


cards = np.array([1, 2, 4, 8])
with drawing(8.0, 2.6) as figure:
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, grows in ((left, "the same batch, dealt out", False), (right, "each card a batch of its own", True)):
        axes.plot(cards, cards, color=GREY, linestyle="--", linewidth=1.0, label="as many times as cards")
        for (link, bandwidth), colour in zip(LINKS.items(), (ORANGE, GREEN)):
            axes.plot(cards, [speed_up(step_seconds(one_batch * (n if grows else 1)), P, bandwidth, int(n)) for n in cards], "o-", color=colour, label=link)
        axes.set(xlabel="cards", xticks=cards)
        axes.set_title(title)
    left.set(ylabel="times as fast")
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    picture = finish(figure, "Speed-up against cards: with the same batch dealt out it flattens early on the slow link; with a batch a card NVLink comes near the diagonal, and PCIe reaches about five of eight.")
display(picture)
eight = speed_up(step_seconds(one_batch), P, LINKS["PCIe, 10 GB/s"], 8)
display(reveal("A4.eight", round(eight, 1), "times"))
print(f"one step of one card {step_seconds(one_batch):.2f} s; exchange among 8 {mmo.distributed.exchange_seconds(P, LINKS['PCIe, 10 GB/s'], 8):.3f} s, however small the batch")

# %% [markdown]
# So one gives each card a batch of its own. That is fast, and it is *another training*: the batch is eight times as large, and there are an eighth as many updates. Then the recipe moves too.
#
# | what | with one card | with eight, a batch each |
# |---|---|---|
# | batch, updates per epoch | $b$, $u$ | $8b$, $u/8$ |
# | learning rate | $\eta$ | more: for Adam about $\sqrt{8}\,\eta$, for SGD up to $8\eta$; with a longer warm-up, and checked on a small run |
# | gains of a larger batch | | only up to the *critical batch*, where gradients of single batches stop disagreeing; small models with little data reach it soon |
# | clipping | on the gradient | after averaging, not before: a norm of the mean is what is bounded |
# | a step that is not finite | skipped | skipped by all or by none: each makes the flag of the exchanged loss and gradients, which are the same everywhere |
# | Muon, average of weights | | unchanged: all ranks have the same gradients, so they do the same |
# | packed rows, features of frozen encoders | made once | by rank 0 first, the others wait and read |
# | checkpoint, log, validation, progress bar | | rank 0; a state that knows nothing of $N$ goes on with any |
# | memory | weights, gradients, Adam's two: 16 bytes a weight | the same on each card; where that is too much, shard them (ZeRO, FSDP). 113 M weights are not too much |
#
# ## What it costs, predicted
#
# First something that can be measured here: how fast is this machine, on one thread? Then the same arithmetic for the mini set: its T2A part has about 470 hours of speech in 515 000 rows (`mmo/rehearsal/rows.py` keeps these two numbers).

# %%
batch = next(iter(batches.start()))
model = OmniModel(config).train()
own_weights = sum(p.numel() for p in model.parameters())
torch.set_num_threads(1)
spent = []
for _ in range(2 if budget == "smoke" else 4):
    begun = time.thread_time()
    loss, _ = mmo.training.losses_of(model, batch, stage, torch.device("cpu"))
    loss.backward()
    model.zero_grad()
    spent.append(time.thread_time() - begun)
rate = batch.size / min(spent)
print(f"here: {own_weights / 1e6:.1f} M weights, {batch.size} positions in {min(spent):.2f} s of processor time = {rate:.0f} a second, {6 * own_weights * rate / 1e9:.1f} GFLOP/s")
T2A_HOURS, T2A_ROWS = 470, 515_000
frames_a_row = T2A_HOURS * 3600 * 12.5 / T2A_ROWS
positions_a_row = frames_a_row + 8 + 1 + 30  # the delay, the step in front, and a question of some 30 tokens
print(f"mini T2A: {frames_a_row:.0f} frames a row, about {positions_a_row:.0f} positions; padded to 512 it would be {512 / positions_a_row:.1f} times as many")
print("one pass over so many rows, each of the eight cards a batch of its own:")
print(f"{'rows':>10}  {'one card':>10}  {'eight, PCIe':>12}  {'eight, NVLink':>13}")
for times_mini in (1, 3, 10):
    seconds = step_seconds(T2A_ROWS * times_mini * positions_a_row)
    each_way = [speed_up(step_seconds(8 * one_batch), P, bandwidth, 8) for bandwidth in LINKS.values()]
    print(f"{T2A_ROWS * times_mini:10}  {seconds / 3600:8.1f} h  {seconds / 3600 / each_way[0]:10.2f} h  {seconds / 3600 / each_way[1]:11.2f} h")

# %% [markdown]
# Hours of cards are what is paid, not hours of clocks: multiply the last two columns by eight. Write your prediction down before a run and compare; a factor of two off is a question worth an hour.
#
# **On eight cards** the first line of the table is `torchrun --standalone --nproc-per-node 8 -m mmo train --profile mini,token_budget=28672,chunk_rows=32768 --stage t2a`: a budget of eight batches, one for each card, and a learning rate that you choose for it.
# `--profile full` takes the same model through the whole data set, with more rows. Both exchange with nccl in place of gloo (the trial computes on CPUs wherever it runs). Look for what you have just
# read in `mmo/training.py`: `Stepper.step` (loss, gradients, and the flag that follows from both), `StageRun.open` (shares of the plan), `StageRun.save`, `Log` and `validate` (rank 0 only). What holds it together is a test,
# `tests/test_distributed.py`: two processes, a few steps, the weights of one.

# %% [markdown]
# ## Five capstones
#
# Each takes a weekend or two. Each has a starting point that runs below, and a rubric, so that you and whoever grades you know when it is done. Two rules for all five: the figure is measured on items that
# were never trained on, and it stands beside a control. What the control must give, the rubric says beforehand: most of them must fail; that of the third must hold; that of the fifth is reported, to be compared with.

# %%
weights_file, _ = latest_weights(settings, run_dir(settings, budget))
model = load_model(weights_file)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)
generator = Generator(model, codec, tokenizer, settings.decoding)
voices = {name: vector.float() for name, vector in load_file(settings.data_dir / "voices.safetensors").items()}
print(f"weights: {weights_file.name}; voices: {', '.join(voices)}")


def ask(text: str, speaker: Tensor, seed: int = 0) -> Prompt:
    """A question in writing, to be answered in a voice."""
    return Prompt(tokenizer.prompt([{"role": "user", "content": text}]), speaker, seed=seed)


# %% [markdown]
# ### 1 · Your own voice
#
# The answer in your voice. One vector at one position tells the voices apart; but the vector of a voice that was never trained is only a wish. Hear the one in the middle of two:

# %%
between = torch.stack(list(voices.values())).mean(dim=0)
answer = generator.answer(ask("What is three plus four?", between / between.norm()))
display(listen(answer.samples, answer.sample_rate, f"a vector between {' and '.join(voices)}: {answer.text}"))

# %% [markdown]
# Read the world's answers aloud (`closed_facts` and `open_facts` in `mmo/world/text.py` give thousands; begin with 200), cut them into files, encode them with the codec, make rows (`mmo/world/rows.py`, the schema is in its first lines) and your vector
# (`speaker_vectors` in `mmo/world/build.py`). Train T2A on from the finished weights, with old rows rehearsed.
#
# | | holds | good | excellent |
# |---|---|---|---|
# | is it you? | speaker similarity nearer to you than to any old voice | ten listeners pick you among three in 8 of 10 | with 50 sentences instead of 200 |
# | is it understood? | WER on unseen sentences, beside the codec's own | at most 15 points above it | as good as the old voices |
# | is the rest alive? | WER of the old voices reported | at most 3 points worse | unchanged |
# | control | a stranger's vector in place of yours does *not* sound like you | | |
#
# ### 2 · A new domain of facts
#
# Capitals, your family, the parts of a bicycle. Which of your words does the world not have? Each needs spellings for the tokenizer, a pronunciation for the judge, and sound.

# %%
from mmo.say import read_words, unknown_words
from mmo.world.text import closed_facts

known = read_words(settings)
kinds = {fact.kind: sum(other.kind == fact.kind for other in closed_facts()) for fact in closed_facts()}
print(textwrap.fill("facts there are, by kind: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items()), 90))
for sentence in ("The capital of France is Paris.", "A bicycle has two wheels.", "A week has seven days."):
    print(f"{sentence:34} new words: {', '.join(unknown_words(sentence, known)) or 'none'}")

# %% [markdown]
# Write a generator beside `knowledge_facts` in `mmo/world/text.py`, with several ways to ask each. Hold facts out by `tier`. Then text, speech, rows, Thinker, Talker (`mmo world build` does each step that is missing).
#
# | | holds | good | excellent |
# |---|---|---|---|
# | does it know? | 50 facts, 90 % right in writing on unseen wordings | 200 facts, 95 % | facts that follow from others are right too |
# | does it say it? | spoken, WER reported | within 5 points of the old domain | heard questions as well as written ones |
# | has it forgotten? | old facts measured before and after | at most 2 points lost | none, and with less than a tenth of the old rows rehearsed |
# | control | questions swapped among each other: near 0 % right | | |
#
# ### 3 · Barge-in
#
# Somebody speaks while the model speaks. It must stop at once, and it must know what it *has said*, not what it has *written*. Those differ:

# %%
heard, written, played = [], "", 0.0
for event in generator.stream([ask("Count from three until eight.", voices[next(iter(voices))])]):
    if isinstance(event, TextPiece):
        written += event.text
    if isinstance(event, Sound):
        heard.append(event.samples)
        played += len(event.samples) / codec.sample_rate
        if played > 0.9:  # here somebody interrupts: leaving the loop closes the codec's stream
            break
print(f"written: {written!r}")
print(f"played: {played:.2f} seconds of it")
if heard:
    display(listen(np.concatenate(heard), codec.sample_rate, f"cut after {played:.2f} s of: {written}"))

# %% [markdown]
# Build a loop of two threads: one plays and listens (energy above the room's is enough to begin with), one generates. On interruption cut the answer's text where the sound was, put it into the conversation as the assistant's turn, and answer the
# new question. `Generator.stream` may be left at any event; `cache.lengths` says what the caches hold.
#
# | | holds | good | excellent |
# |---|---|---|---|
# | how fast is it silent? | under 500 ms after speech begins | under 250 ms | under 150 ms, and a cough does not stop it |
# | what does it remember? | the cut answer is in the conversation | cut at the right word in 8 of 10 | asked "where were you?" it goes on from there |
# | does it hear itself? | works with headphones | works with a loudspeaker at half volume | |
# | control | recorded silence never interrupts it, in 10 minutes | | |
#
# ### 4 · A four-codebook Talker
#
# Half of the codebooks, half of the heads, a diagonal half as long. What is lost? First the ceiling, on true codes:

# %%
rows = open_rows(settings.data_dir / "t2a-validation.parquet", config, settings.cache_dir())
row = rows[4]
codes = sequence.frames(row.answers[-1], config.num_codebooks, config.num_codes)
said = row.conversation[-1]["content"]
for kept in (8, 4):
    if kept <= config.num_codebooks:
        display(listen(codec.decode(codes[None, :kept])[0, 0], codec.sample_rate, f"{kept} codebooks, first frame after {kept + 1} steps: {said}"))
for kept in (8, 4):
    print(f"{kept} codebooks: {sum(p.numel() for p in OmniModel(config.replace(num_codebooks=kept)).talker.parameters()) / 1e6:.2f} M weights in the Talker")

# %% [markdown]
# `config.replace(num_codebooks=4)` and `Codec.load(..., num_codebooks=4)` are the easy part. **Mind the rows:** they hold eight codes a frame. Cut by four they would be twice as many
# frames of nonsense, so `sequence.frames(flat, 4)` refuses. Read them as eight, then keep four (`realise` in `mmo/data.py`). `codebook_weights` in the recipe is as long as there are codebooks.
#
# | | holds | good | excellent |
# |---|---|---|---|
# | is it understood? | WER beside the codec's own with four | no worse than with eight, same steps of training | better than with eight, same *time* of training |
# | is it quicker? | first sound and real-time factor, measured on one machine | the saving explained step by step | |
# | which half? | four predicted, and four more filled in afterwards by a small model that sees the whole frame | | as good as eight to ten listeners |
# | control | codebooks 4 to 7 true, 0 to 3 of another sentence: not understood | | |
#
# ### 5 · Word-timed text
#
# The text runs ahead of the sound and is over early; then the Talker must find its place by attention alone. Moshi does it otherwise: each word stands in the text stream *where it is spoken*, with pads between. Below is a row
# as it is, and the same with its words merely spread evenly, which is a first guess at the times.

# %%
ids = tokenizer.conversation(row.conversation)
markers = sequence.Markers.from_tokenizer(tokenizer)
now = sequence.build_row(ids, codes, config, markers).input_ids
first, last = sequence.find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
spread = now.clone()
spread[-1, first:] = config.pad_token
places = first + (np.arange(last - first) * (codes.shape[1] - 2) / (last - first)).astype(int)
spread[-1, places] = torch.tensor(ids[first:last])
for title, streams in (("as it is: the text runs ahead", now), ("spread evenly: a first guess", spread)):
    shown = slice(first - 2, min(first + 22, streams.shape[1]))  # the beginning: more could not be read
    names = [tokenizer.tokenizer.id_to_token(int(t)).replace("Ġ", " ").replace("Ċ", "\\n") if int(t) != config.pad_token else "" for t in streams[-1, shown]]
    display(show_delay(streams[:, shown], config, 2, names, title))

# %% [markdown]
# You need the time of each word: by forced alignment of the training speech (the CTC head of appendix A2's encoder on the answer's own sound, or pocketsphinx, which the judge uses, with the known sentence as its grammar). Then change `build_row`, its
# labels (a pad is now something to be learnt: "not yet"), and the generator's `Decoder.choose`.
#
# | | holds | good | excellent |
# |---|---|---|---|
# | are the times right? | 20 words checked by ear, within 80 ms | within 40 ms | checked by a second aligner |
# | does it speak better? | WER against the old layout, same training | clearly lower on long sentences | no skipped or repeated word in 100 sentences |
# | what does it cost? | the text's accuracy before and after | at most 2 points lost | text ahead by a chosen lead, and the curve of WER against lead |
# | control | words at random times: WER reported | | |

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("A4")

# %% [markdown]
# ## Summary
#
# - Data parallelism is exact: shares of one plan, one sum of counts, one mean of gradients.
# - Equal numbers of batches, or somebody waits for ever; batches of like size, or all wait for the slowest.
# - Where another rank has a gradient, none counts as zeros. Where no rank has one, the `average_gradients` of above leaves zeros; to the trial's plain SGD that is the same. `mmo train` leaves none there, for an optimiser with
#   momentum or decay moves a weight whose gradient is 0.
# - A mean of means is not the mean, and no curve shows it. Compare with one process, once.
# - A ring sends each byte less than twice, but a small batch does not hide even that; a larger batch is another training.
#
# **Often mistaken.** *"Eight cards are eight times as fast."* With the same batch they wait for the line; with eight times the batch there are fewer updates. *"DDP takes care of it."* Of the mean over processes, yes. Not of your
# denominators, your shares, or your files. *"The loss falls, so it is right."*
#
# **To try.** `--nproc-per-node 3` with 16 rows: is it still exact? Give the trial AdamW instead of SGD: why do the weights differ more now, though the gradients are the same? In `trial`, let rank 0 do one step more than the others: what does it say, and when would it wait for ever instead?
#
# **Where to read on.** In this course: `mmo/distributed.py`, `mmo/training.py`, [notebook 10](10_train_t2a.ipynb). Papers:
#
# - S. Li, Y. Zhao, R. Varma and others: *PyTorch Distributed: Experiences on Accelerating Data Parallel Training.* VLDB 2020, [arXiv:2006.15704](https://arxiv.org/abs/2006.15704).
# - P. Patarasuk, X. Yuan: *Bandwidth optimal all-reduce algorithms for clusters of workstations.* Journal of Parallel and Distributed Computing 69, 2009. The ring.
# - P. Goyal, P. Dollár, R. Girshick and others: *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour.* 2017, [arXiv:1706.02677](https://arxiv.org/abs/1706.02677). Rate and warm-up; and a list of pitfalls much like this one.
# - S. McCandlish, J. Kaplan, D. Amodei and others: *An Empirical Model of Large-Batch Training.* 2018, [arXiv:1812.06162](https://arxiv.org/abs/1812.06162). The critical batch.
# - S. Rajbhandari, J. Rasley, O. Ruwase, Y. He: *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models.* 2019, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054).
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024, [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). Words where they are spoken; both sides may talk.
