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
# # A3 · Train a vision encoder
#
# *Takes 60 minutes (tiny) · runs in 300 s on one core (tiny) · builds on 03 · 3 exercises, 8 points*
#
# **At the end** you have trained a small SigLIP on pictures drawn a minute ago, and watched what it learns first and what not yet. You have given good eyes two kinds of schooling, and found that one of them leaves them unable to tell above from below, with the lower
# loss of the two. All of it is measured on pictures that were never shown.
#
# **You need** [notebook 03](03_vision_encoder.ipynb): patches, and the sigmoid loss of two towers.
#
# **The claim.** An encoder learns to see what it is asked to tell apart, the easy things first. Never ask it something, and it stays blind for that, however long it trains and however fine its loss looks.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few steps on a few pictures, so that every cell runs

# %%
import json
import random
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.pictures import show_maps
from mmo.display import BLUE, GREY, ORANGE, Curves, drawing, finish, smooth
from mmo.profiles import profile as find_profile
from mmo.world import pictures, text
from mmo.world import train_vision_encoder as training
from mmo.world.train_vision_encoder import SLOTS, Settings, Trainer, as_shipped, batch_rows, build, draw_batch, draw_lessons, load_pair, parts, say, see, slots

settings = find_profile("tiny")  # this appendix is about the tiny world's eye, whatever the profile
smoke = budget == "smoke"

# %% [markdown]
# ## Pictures without end
#
# Nothing has to be downloaded: a *scene* says what is to be seen, and `pictures.draw` paints it, every seed another picture. What a caption says is true by construction.

# %%
source = pictures.scenes_of("train", random.Random(5))
scenes = list(islice(source, 6))
told = [scene.caption[:-1].replace(f" {scene.relation} ", f"\n{scene.relation} ") for scene in scenes]
display(show_maps([np.asarray(pictures.draw(scene, seed)) for seed, scene in enumerate(scenes)], told, columns=3, size=2.4))
print(f"the first again, another seed, is another picture: {not np.array_equal(pictures.draw(scenes[0], 0), pictures.draw(scenes[0], 1))}")

# %% [markdown]
# ## Wrong, and nearly right
#
# Two towers learn to say whether a picture and a caption belong together. What are the wrong captions? Those of the other pictures of the batch are free. But "a large red circle" against "two black moons" is told apart by a single colour. Once colours are known,
# the loss is small, and whoever can tell colours has little reason to learn *large*, *circle* and *above*.
#
# So each picture brings captions that are **nearly right**: one attribute changed. They are called hard negatives.
#
# ## Exercise: nearly right
#
# *Exercise A3.swaps · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("A3.swaps")`*
#
# A thing has a size (`"small"`, `""` for the middle one, `"large"`), one of nine colours and one of nine shapes: `text.SIZES`, `text.COLOURS`, `text.SHAPES`. List all things that differ from this one in exactly one of the three.

# %%
@exercise("A3.swaps")
def swaps(size: str, colour: str, shape: str) -> list[tuple[str, str, str]]:
    """All (size, colour, shape) that differ from this thing in exactly one attribute,
    sorted."""
    ### BEGIN SOLUTION
    thing = (size, colour, shape)
    every = [(s, c, f) for s in text.SIZES for c in text.COLOURS for f in text.SHAPES]
    return sorted(other for other in every if sum(a != b for a, b in zip(other, thing)) == 1)
    ### END SOLUTION


# %%
check("A3.swaps")

# %%
near = swaps("large", "red", "circle")
others = len(text.SIZES) * len(text.COLOURS) * len(text.SHAPES) - 1
print(f"{len(near)} things are one step from a large red circle, of {others} others:")
print(", ".join(" ".join(each).strip() for each in near[:4]), "...")
one_step = [pictures.Scene((pictures.Thing(*each),)) for each in (("large", "red", "circle"), ("", "red", "circle"), ("large", "orange", "circle"), ("large", "red", "ring"))]
display(show_maps([np.asarray(pictures.draw(scene, 11)) for scene in one_step], [scene.caption[:-1] for scene in one_step], size=1.8))

# %% [markdown]
# In a picture of two things the relation can be turned as well: above and below, left and right. The package takes for each picture its own caption, one with an attribute changed and one with the relation turned (where there is none, another attribute changed): $3B$ captions for $B$ pictures.
#
# ## Exercise: which pairs are true
#
# *Exercise A3.together · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("A3.together")`*
#
# A trap. The obvious answer is the diagonal: picture $i$ and caption $i$. But this world is small, and a batch may show two red rings. Every scene has a number; equal numbers say the same.

# %%
@exercise("A3.together")
def together(pictures: Tensor, captions: Tensor) -> Tensor:
    """pictures (B,), captions (N,): numbers of what they show and say
    -> (B, N) bool, True where the caption is true of the picture."""
    ### BEGIN SOLUTION
    return pictures[:, None] == captions[None]
    ### END SOLUTION


# %%
check("A3.together")

# %% [markdown]
# Now a real batch. First a few thousand pictures are drawn and kept for this notebook's time; then `draw_batch` picks, disturbs (noise, brightness, contrast, a shift of up to three pixels) and numbers them. Each row below is a picture, each column a caption; the three blocks are the own captions, those with an attribute changed, those with the relation
# turned. White is true.

# %%
BASE = Settings(width=96, layers=3, heads=4, inner=256, text_width=48, text_layers=1, drawn=3000, batch=48, steps=800, restart=800, warmup=50)
if smoke:
    BASE = replace(BASE, width=32, layers=1, inner=32, drawn=96, batch=16, steps=6, restart=6, warmup=2)
work = TemporaryDirectory()
lessons = draw_lessons(BASE, Path(work.name), shard=BASE.drawn)
batch = draw_batch(lessons, BASE, 3)
B = len(batch.pixels)
print(f"pictures {tuple(batch.pixels.shape)}, captions {tuple(batch.words.shape)}, together {tuple(batch.together.shape)}")
print(f"{int(batch.together.sum())} true pairs for {B} pictures")
with drawing(9.0, 3.6) as figure:
    axes = figure.add_subplot()
    axes.imshow(batch.together.float(), cmap="gray", interpolation="nearest")
    for block, name in enumerate(("own captions", "an attribute changed", "the relation turned")):
        axes.text((block + 0.5) * B, -2, name, ha="center", va="bottom")
        if block:
            axes.axvline(block * B - 0.5, color=ORANGE, linewidth=1.2)
    axes.set(xlabel="caption", ylabel="picture")
    axes.grid(False)
    picture = finish(figure, f"Which of {3 * B} captions are true of which of {B} pictures: "
                     f"a diagonal in the block of the own captions, and {int(batch.together.sum()) - B} pairs beside it.")
display(picture)

# %% [markdown]
# ## How it is measured
#
# Held-out pictures with different captions; each picture is compared with all captions of the pool. **Recall at 1** is the share of pictures whose own caption is the most alike. What it means depends on the pool: among captions drawn at random it is easy, in a pool made of *families* (a scene, a one-attribute swap of it, its relation turned) every caption has its
# nearest rival beside it.
#
# ## Exercise: recall at 1
#
# *Exercise A3.recall · difficulty ●○○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("A3.recall")`*
#
# Return two shares: of the pictures whose own caption is the most alike of all captions, and of the captions whose own picture is the most alike of all pictures.

# %%
@exercise("A3.recall")
def recall(pictures: Tensor, captions: Tensor) -> tuple[float, float]:
    """pictures (N, D), captions (N, D) of length one, row by row a pair
    -> share of pictures that find their caption, of captions that find their picture."""
    ### BEGIN SOLUTION
    likeness = pictures @ captions.T  # (N, N): a row a picture
    own = torch.arange(len(pictures))
    found_caption = likeness.argmax(dim=1) == own
    found_picture = likeness.argmax(dim=0) == own
    return found_caption.float().mean().item(), found_picture.float().mean().item()
    ### END SOLUTION


# %%
check("A3.recall")

# %%
plan = [each for each in pictures.picture_plan(training=0) if each.split == "test" and each.tier == "sentence"]
families = plan[: 12 if smoke else pictures.POOL]  # the plan begins with the pool of families
apart = plan[pictures.POOL :][: len(families)]
validation = [each for each in pictures.picture_plan(training=0) if each.split == "validation"][: 12 if smoke else 160]
shown = {name: as_shipped(items, BASE.side) for name, items in (("families", families), ("apart", apart), ("validation", validation))}
print(f"a family: {' '.join(each.scene.caption for each in families[4:7])}")
print("apart:    " + "\n          ".join(each.scene.caption for each in apart[:3]))


def finds(model, name: str, items) -> float:
    """Percent of the pictures that find their caption among those of the pool."""
    return 100 * recall(see(model, shown[name])[1], say(model, [each.scene.caption for each in items]))[0]


# %% [markdown]
# ## The first layer, and where it starts
#
# A patch of 12 by 12 pixels is 432 numbers, and most of their variance is one thing: the patch's mean colour (the share is printed below). A first layer drawn at random passes that on and drowns the outlines by which shapes are known. `whiten_patches` starts it with the patches' principal components, each at the same strength. These are the first of
# them, as pictures: flat colours and coarse edges first, then finer and finer patterns.

# %%
means = F.avg_pool2d(batch.pixels, BASE.patch)  # (B, 3, 8, 8): the mean colour of every patch
print(f"{float(means.var(dim=(0, 2, 3)).sum() / batch.pixels.var(dim=(0, 2, 3)).sum()):.0%} of the pixels' variance is that of the patches' mean colours")
trainer = Trainer(BASE, lessons)
filters = trainer.model.vision_model.embeddings.patch_embedding.weight.detach()[:24]
low, high = filters.amin(dim=(1, 2, 3), keepdim=True), filters.amax(dim=(1, 2, 3), keepdim=True)
display(show_maps([each.permute(1, 2, 0).numpy() for each in (filters - low) / (high - low)], columns=12, size=0.7, alt="The first 24 whitened filters of 12 by 12 pixels: flat colours and coarse edges, then finer and finer patterns."))

# %% [markdown]
# ## Train
#
# Three losses at once. The *sigmoid* loss of notebook 03 for the two towers. A *reader* that must tell the caption's content from all 64 patch vectors, for it is these that the Thinker will read, and not the pooled one. And for every single patch: of what size, colour and shape is the thing that you are a part of? Without that
# last question shapes are learnt much later still; colours will do for long.
#
# **Predict:** of five things that can be read from the patches (size, colour and shape of the first thing, the relation, how many), which is the first to get half-way from guessing to knowing?

# %%
predict("A3.first", mine=None, question="Which is learnt first: 'size', 'colour', 'shape', 'relation' or 'count'?")

# %%
readings, started = [], time.process_time()
with Curves("sigmoid loss", "reader loss", "of what each patch is a part") as curves:
    for step in tqdm(range(BASE.steps), desc="vision encoder", unit="step"):
        sigmoid, reader, looks, _ = trainer.update()
        curves.add(step, sigmoid, reader, looks)
        if trainer.step % max(1, BASE.steps // 5) == 0:
            trainer.model.eval()
            patches, pooled = see(trainer.model, shown["validation"])
            readings.append({"step": trainer.step, **training.read_slots(trainer.reader, patches, validation)})
            readings[-1]["recall"] = recall(pooled, say(trainer.model, [each.scene.caption for each in validation]))[0]
            trainer.model.train()
mine = trainer.model.eval()
print(f"{(time.process_time() - started) / 60:.1f} minutes of processor time")

# %%
watched = ["size", "colour", "shape", "relation", "count"]
print(f"on {len(validation)} held-out pictures, percent right")
print(f"{'step':>6}" + "".join(f"{name:>10}" for name in [*watched, "recall"]))
for each in readings:
    print(f"{each['step']:6}" + "".join(f"{100 * each[name]:10.0f}" for name in [*watched, "recall"]))
contents = torch.tensor([slots(each.scene) for each in validation])  # (N, slots)
frequent = {name: contents[:, number].bincount().max().item() / len(contents) for number, name in enumerate(SLOTS) if name in watched}
print(f"{'guess':>6}" + "".join(f"{100 * frequent[name]:10.0f}" for name in watched) + f"{100 / len(validation):10.0f}   (the most frequent)")
half_way = {name: next((each["step"] for each in readings if each[name] > (1 + frequent[name]) / 2), 10**9) for name in watched}
reveal("A3.first", min(half_way, key=lambda name: (half_way[name], -readings[0][name])))

# %% [markdown]
# Compare each column with its last line before you call something learnt: nearly all of these pictures show one thing and one other, and then "how many" is answered by "one". And mind the recall: it is already high. To find a caption among others, colours and sizes do.
#
# ## What minutes do not reach
#
# Where are the shapes? The shipped encoder's own curve is kept in the repository. Here is yours on it: the loss of the question that every patch is asked. **Predict:** after how many steps had the shipped
# one come below half of what guessing shapes alone would cost?

# %%
predict("A3.shapes", mine=None, question="After how many steps was the shipped encoder below half the cost of guessing shapes?")

# %%
figures = json.loads((settings.data_dir / "figures" / "vision_encoder.json").read_text(encoding="utf-8"))
theirs = figures["curve"]
cost = {name: np.log(len(names)) for name, names in (("size", text.SIZES), ("colour", text.COLOURS), ("shape", text.SHAPES))}
marks = {sum(cost.values()): "all three guessed", np.log(training.STANDINGS).sum(): "how it stands, guessed", cost["shape"]: "shape alone guessed", cost["shape"] / 2: "half of that"}
with drawing(9.0, 3.8) as figure:
    axes = figure.add_subplot()
    axes.plot([each["step"] for each in theirs], [each["looks_loss"] for each in theirs], color=BLUE, label="shipped: size, colour and shape of a patch's thing")
    axes.plot([each["step"] for each in theirs], [each["standings_loss"] for each in theirs], color=GREY, label="shipped: how that thing stands to the others")
    axes.plot([point[0] for point in curves.points], smooth([point[3] for point in curves.points]), color=ORANGE, label="yours: size, colour and shape")
    axes.axvline(figures["settings"]["restart"], color=GREY, linewidth=0.8, linestyle=":")
    axes.text(figures["settings"]["restart"] + 40, 4.6, "relation added")
    for value, name in marks.items():
        axes.axhline(value, color=GREY, linewidth=0.8, linestyle="--")
        axes.text(theirs[-1]["step"], value + 0.05, f"{name}: {value:.2f}", ha="right", va="bottom")
    axes.set(xlabel="step", ylabel="cross-entropy, nats", ylim=(0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0))
    picture = finish(figure, "Loss of the patches' question against the step, with lines at the cost of guessing all three, of guessing how a thing stands, of guessing shapes alone, and half of that: yours at the very left of the shipped encoder's curve, which falls fast at first, then slowly and steadily, and rises a little where the relation is added; the relation's loss begins to fall only after it is asked.")
display(picture)
print(f"guessing costs {sum(cost.values()):.2f}: " + ", ".join(f"{name} {value:.2f}" for name, value in cost.items()))
bend = next((each for each in theirs if each["looks_loss"] < cost["shape"] / 2), None)
print(f"the shipped encoder: {figures['settings']['drawn']:,} pictures, {figures['settings']['steps']} steps, {figures['cpu_seconds'] / 60:.0f} minutes of a core")
print(f"yours ended at {smooth([point[3] for point in curves.points])[-1]:.2f}")
reveal("A3.shapes", bend["step"] if bend else "never", f"steps, {bend['seconds'] / 60:.0f} minutes of a core" if bend else "")

# %% [markdown]
# First colours, then sizes, then, slowly, over more than a thousand steps, shapes. A colour survives in one patch. A shape is an outline, put together from several patches that each hold a bit of it: attention has to learn first which patches belong together. Whoever stops early, as you had to, believes that shapes cannot be seen.
#
# The grey curve says nothing until the dotted line: until then no patch is asked how its thing stands to the others, and the head that is to say it is as it was drawn (worse than guessing, 3.91). Whether a relation comes by itself is the next experiment but one.
#
# ## What a patch holds
#
# Would smaller patches be better? A small thing of this world is about fifteen pixels wide (`BANDS` in `mmo/world/pictures.py`). **Predict:** how many times as long does a step take with patches of 6 by 6 pixels as with 12 by 12?

# %%
predict("A3.cost", mine=None, question="Patches of 6 pixels instead of 12: a step of the vision tower takes how many times as long?")

# %%
small = pictures.Scene((pictures.Thing("small", "white", "star"), pictures.Thing("large", "blue", "heart")), "above")
canvas = np.asarray(pictures.draw(small, 3))
grids, costs = [], {}
for patch in (24, 12, 6):
    lines = np.array(canvas)
    lines[patch - 1 :: patch], lines[:, patch - 1 :: patch] = 110, 110
    grids.append(lines)
    tower = build(replace(BASE, patch=patch))[0].vision_model
    took = []
    for _ in range(3):
        before = time.process_time()
        tower(pixel_values=batch.pixels).last_hidden_state.square().mean().backward()
        took.append(time.process_time() - before)
    costs[patch] = min(took)
    placed = [pictures.layout(each.scene, np.random.default_rng(each.drawing)) for each in validation]
    touched = [int((parts(each.scene, where, 96 // patch)[:, 0] == text.SIZES.index("small")).sum()) for each, where in zip(validation, placed)]
    touched = [count / sum(thing.size == "small" for thing in each.scene.things) for count, each in zip(touched, validation) if any(thing.size == "small" for thing in each.scene.things)]
    print(f"patches of {patch:2}: {(96 // patch) ** 2:3} of them, a small thing lies on {np.mean(touched):4.1f}; {costs[patch]:.2f} s a step")
display(show_maps(grids, [f"patches of {patch}" for patch in costs], size=2.6))
reveal("A3.cost", round(costs[6] / costs[12], 1), "times as long")

# %% [markdown]
# Four times the vectors are four times the work in every layer, and sixteen times the pairs in attention. Larger patches are cheap, but then a small thing lies within a single patch, and one linear map must tell its shape.
#
# ## The same eyes, two schools
#
# Now to the captions that are nearly right. Your own encoder does not see shapes yet, so take eyes that do: the shipped vision tower, frozen. Its patch vectors are computed once. On them you train what makes a picture's one vector (the *pooling head*) and a fresh caption tower, twice, by the same loss, with the same number of captions in each batch:
#
# - **random:** the own captions, and twice as many of other pictures;
# - **nearly right:** the own captions, one with an attribute changed for each, one with the relation turned (or another change, where there is none).
#
# Then a test of another kind. Each held-out picture's own caption is put beside every caption that is one step away: which of the two is more alike? Guessing gives 50. **Predict:** the one schooled on random captions, asked whether a thing lies above or below, left or right: right in how many percent?

# %%
predict("A3.turned", mine=None, question="Random captions only: own caption against the one with the relation turned, "
        "right in how many percent?")

# %%
pair = load_pair(settings.vision_encoder_dir)
seen_by = pair.vision_model.config
school = replace(BASE, width=seen_by.hidden_size, layers=seen_by.num_hidden_layers, heads=seen_by.num_attention_heads, inner=seen_by.intermediate_size,
                 patch=seen_by.patch_size, batch=16 if smoke else 32, steps=6 if smoke else 1500, restart=10**9, learning_rate=3e-3)
kept_patches = see(pair, lessons.pixels)[0]  # (N, P, D)
tested = plan[:12] if smoke else plan
tested_patches = see(pair, as_shipped(tested, BASE.side))[0]
print(f"patch vectors kept: {tuple(kept_patches.shape)}; tested on {len(tested)} pictures")


def captions_of(rows: np.ndarray, step: int, nearly_right: bool) -> tuple[Tensor, Tensor]:
    """Own captions of the rows, then twice as many wrong ones: words (3 B, LONGEST), numbers of what they say (3 B,)."""
    draws, B = np.random.default_rng((1, step)), len(rows)
    wrong = [(rows, draws.integers(1, training.NEGATIVES, B)), (rows, np.full(B, training.NEGATIVES))] if nearly_right else [(draws.integers(len(lessons.pixels), size=B), np.zeros(B, int)) for _ in range(2)]
    chosen = [(rows, np.zeros(B, int)), *wrong]
    words = np.concatenate([lessons.words[row, which, draws.integers(0, 2, B)] for row, which in chosen])
    return torch.from_numpy(words).long(), torch.from_numpy(np.concatenate([lessons.meaning[row, which] for row, which in chosen]))


def schooled(name: str, nearly_right: bool):
    """Train a pooling head and a caption tower on the kept patch vectors; returns the towers and the loss of every step."""
    model = build(school)[0]
    head, tower = model.vision_model.head, model.text_model
    learners = [*head.parameters(), *tower.parameters(), model.logit_scale, model.logit_bias]
    optimiser = torch.optim.AdamW(learners, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in tqdm(range(school.steps), desc=name, unit="step"):
        rate = 0.01 + 0.99 * (1 + np.cos(np.pi * step / school.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = school.learning_rate * rate * min(1.0, (step + 1) / school.warmup)
        rows = batch_rows(len(lessons.pixels), school, step)
        words, meaning = captions_of(rows, step, nearly_right)
        pictured, told = F.normalize(head(kept_patches[rows]), dim=-1), F.normalize(tower(input_ids=words).pooler_output, dim=-1)
        true = together(torch.from_numpy(lessons.meaning[rows, 0]), meaning)
        loss = training.sigmoid_loss(pictured, told, true, model.logit_scale, model.logit_bias)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learners, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return model, losses


started = time.process_time()
schools = {"random": schooled("random", False), "nearly right": schooled("nearly right", True)}
print(f"{(time.process_time() - started) / 60:.1f} minutes of processor time")
at_the_end = {name: np.mean(losses[-max(1, school.steps // 15) :]) for name, (_, losses) in schools.items()}
with drawing(7.0, 2.6) as figure:
    axes = figure.add_subplot()
    for (name, (_, losses)), colour in zip(schools.items(), (ORANGE, BLUE)):
        axes.semilogy(losses, color=colour, alpha=0.25, linewidth=0.8)
        axes.semilogy(smooth(losses), color=colour, label=f"{name}, {at_the_end[name]:.2f} at the end")
    axes.set(xlabel="step", ylabel="sigmoid loss (logarithmic)")
    axes.legend()
    picture = finish(figure, "Sigmoid loss of both schools against the step; at the end "
                     + ", ".join(f"{name} {value:.2f}" for name, value in at_the_end.items()))
display(picture)

# %%
STEPS_AWAY = ["size", "colour", "shape", "count", "relation"]


def step_between(one, other) -> str:
    """In what two scenes that are one step apart differ."""
    if one.count != other.count:
        return "count"
    changed = [[thing for thing in scene.things if thing not in rival.things] for scene, rival in ((one, other), (other, one))]
    return next(what for what in ("size", "colour", "shape") if getattr(changed[0][0], what) != getattr(changed[1][0], what)) if changed[0] else "relation"


rivals = [(number, each.scene, rival) for number, each in enumerate(tested) for rival in pictures.attribute_swaps(each.scene) + pictures.relation_swaps(each.scene)]
captions = sorted({rival.caption for _, _, rival in rivals} | {each.scene.caption for each in tested})
place = {caption: number for number, caption in enumerate(captions)}


@torch.no_grad()
def beats_rivals(model, head) -> dict[str, float]:
    """How often the own caption is more alike than one that is one step away, in percent, by what differs; and recall at 1."""
    pictured, told = F.normalize(head(tested_patches), dim=-1), say(model, captions)
    likeness = pictured @ told.T
    wins = {what: [] for what in STEPS_AWAY}
    for number, scene, rival in rivals:
        wins[step_between(scene, rival)].append(bool(likeness[number, place[scene.caption]] > likeness[number, place[rival.caption]]))
    found = {what: 100 * float(np.mean(each)) if each else float("nan") for what, each in wins.items()}
    return found | {"recall": 100 * recall(pictured, say(model, [each.scene.caption for each in tested]))[0]}


table = {name: beats_rivals(model, model.vision_model.head) for name, (model, _) in schools.items()} | {"shipped": beats_rivals(pair, pair.vision_model.head)}
print(f"{'':14}{'loss':>8}" + "".join(f"{what:>10}" for what in STEPS_AWAY) + f"{f'recall among {len(tested)}':>20}")
for name, row in table.items():
    print(f"{name:14}{f'{at_the_end[name]:.2f}' if name in schools else '':>8}" + "".join(f"{row[what]:10.0f}" for what in STEPS_AWAY) + f"{row['recall']:20.0f}")
print("own caption against one that is a step away, percent right; guessing: 50")
reveal("A3.turned", round(table["random"]["relation"]), "percent; with captions that are nearly right " + str(round(table["nearly right"]["relation"])))

# %%
with drawing(7.0, 2.4) as figure:
    axes = figure.add_subplot()
    places = np.arange(len(STEPS_AWAY))
    for offset, (name, colour) in zip((-0.2, 0.2), (("random", ORANGE), ("nearly right", BLUE))):
        axes.bar(places + offset, [table[name][what] for what in STEPS_AWAY], 0.38, color=colour, label=f"schooled on {name} captions")
    axes.axhline(50, color=GREY, linewidth=0.8, linestyle=":", label="guessing")
    axes.set_xticks(places, STEPS_AWAY)
    axes.set(ylabel="percent right", ylim=(0, 100))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "How often the own caption beats one that differs in one thing, for both schools; the relation is a coin toss after random captions.")
display(picture)

# %% [markdown]
# Same eyes, same loss, same number of captions. The school of random captions ends with much the lower loss, and its recall is about as good. It tosses a coin between above and below, for hardly ever did a batch hold both "a red star above a blue ring" and "a red star below a blue ring", and nothing else asks. Caption and picture become
# bags: what is in them, not how it stands. That was found in large models too (Yuksekgonul and others).
#
# Look at the other columns too. There the random captions did about as well: among ninety-six captions there are some by chance that share the colours and differ in a shape. Hard negatives are needed for what chance does not bring.
#
# Two losses of different questions cannot be compared. A loss says how well a network does what it is asked; whether that was worth asking, only a test of another kind can say.
#
# ## How far minutes reach
#
# Your own encoder, eyes and all, beside the shipped one.

# %%
for name, model in (("yours", mine), ("shipped", pair)):
    size = sum(parameter.numel() for parameter in model.vision_model.parameters()) / 1e6
    found = {pool: finds(model, pool, items) for pool, items in (("apart", apart), ("families", families))}
    firsts = f"{found['apart']:.0f} % of {len(apart)} apart, {found['families']:.0f} % of {len(families)} in families"
    print(f"{name:8} {size:.2f} M weights that see; own caption first: {firsts}")

# %%
told = [each.scene.caption for each in families]
with torch.no_grad():
    likeness = see(mine, shown["families"])[1] @ say(mine, told).T
wrong = [number for number in range(len(told)) if int(likeness[number].argmax()) != number]
chosen = (wrong or list(range(len(told))))[:: max(1, len(wrong or told) // 6)][:6]


def in_lines(caption: str) -> str:
    """A caption in lines that fit."""
    for relation in text.RELATIONS:
        caption = caption.replace(f" {relation} ", f"\n{relation} ")
    return caption[:-1]


print("some pictures of families, and the caption that your encoder takes for theirs:")
display(show_maps([shown["families"][number] for number in chosen], [f"{in_lines(told[number])}\n-> {in_lines(told[int(likeness[number].argmax())])}" for number in chosen], columns=3, size=2.6))

# %% [markdown]
# Look at *how* it is wrong: the colours are mostly right; the shape, the count or the relation is not. What the shipped encoder had is printed with its curve. SigLIP 2 itself learnt from billions of pictures with captions that people wrote. There nobody can draw the ones that are nearly right; batches of tens of thousands must bring them by
# chance, and relations remain a weak point.

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("A3")

# %% [markdown]
# ## Summary
#
# - Easy things come first: colours, sizes; slowly shapes; relations only when they are asked for.
# - A caption can be true of several pictures in a batch: compare meanings, not places.
# - Negatives decide what is learnt. What chance does not put into a batch must be put there.
# - Patches of half the width cost four times the work and more. Larger ones leave a shape to one linear map.
# - Recall means nothing without its pool, and two losses of different questions cannot be compared.
#
# **Often mistaken.** *"The pooled vector matches captions, so the patches say it too."* Each loss teaches what it looks at; hence the reader and the parts. *"Hard negatives raise the loss, so they hurt."* They raise the question. *"The loss hardly falls any more, so it is finished."* See the shipped curve.
#
# **To try.** `parts_weight=0`: how far does the reader get? `Trainer(..., whitened=False)`: what is lost in the first hundred steps? Give the school of random captions a batch of 8, or four times the steps: what does it learn, and what never? Train on pictures of one thing only (`kinds=("one",)`): do shapes come sooner?
#
# **Where to read on.** In this course: `mmo/world/train_vision_encoder.py`, `mmo/world/pictures.py`, then [notebook 12](12_train_i2t.ipynb). Papers:
#
# - X. Zhai, B. Mustafa, A. Kolesnikov, L. Beyer: *Sigmoid Loss for Language Image Pre-Training.* ICCV 2023, [arXiv:2303.15343](https://arxiv.org/abs/2303.15343).
# - M. Yuksekgonul, F. Bianchi, P. Kalluri, D. Jurafsky, J. Zou: *When and why vision-language models behave like bags-of-words, and what to do about it?* ICLR 2023, [arXiv:2210.01936](https://arxiv.org/abs/2210.01936). Swapped relations and attributes: hard negatives.
# - M. Tschannen, M. Kumar, A. Steiner and others: *Image Captioners Are Scalable Vision Learners Too.* NeurIPS 2023, [arXiv:2306.07915](https://arxiv.org/abs/2306.07915). A reader that answers in parallel.
# - M. Tschannen, A. Gritsenko, X. Wang and others: *SigLIP 2.* 2025, [arXiv:2502.14786](https://arxiv.org/abs/2502.14786). The real profile's encoder.
