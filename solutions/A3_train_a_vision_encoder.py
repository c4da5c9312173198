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
# *Takes 60 minutes (tiny) · builds on 03 · 3 exercises, 8 points*
#
# **At the end** you have trained three small SigLIPs on pictures drawn a minute ago: one with 64 patches, one with 16, one that never met a caption that was nearly right. You know what each of them cannot see, and you have measured it
# on pictures that none of them was shown.
#
# **You need** [notebook 03](03_vision_encoder.ipynb): patches, and the sigmoid loss of two towers.
#
# **The claim.** An encoder sees what it is asked to tell apart, in pieces no smaller than its patches. Ask it easy questions and it stays half blind, with a loss that looks fine.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few steps on a few pictures, so that every cell runs

# %%
import random
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo.course import check, exercise, hint, predict, reveal, solution
from mmo.course.pictures import show_maps
from mmo.display import BLUE, ORANGE, Curves, drawing, finish
from mmo.profiles import profile as find_profile
from mmo.world import pictures, text
from mmo.world.train_vision_encoder import SLOTS, Settings, Trainer, as_shipped, draw_batch, draw_lessons, load_pair, losses, read_slots, say, see, slots

settings = find_profile("tiny")  # this appendix is about the tiny world's eye, whatever the profile
smoke = budget == "smoke"
torch.manual_seed(0)

# %% [markdown]
# ## Pictures without end
#
# Nothing has to be downloaded: a *scene* says what is to be seen, and `pictures.draw` paints it, every seed another picture. What a caption says is true by construction.

# %%
source = pictures.scenes_of("train", random.Random(5))
scenes = list(islice(source, 6))
display(show_maps([np.asarray(pictures.draw(scene, seed)) for seed, scene in enumerate(scenes)], [scene.caption[:-1].replace(f" {scene.relation} ", f"\n{scene.relation} ") for scene in scenes], size=1.8))
print(f"the first again, another seed, is another picture: {not np.array_equal(pictures.draw(scenes[0], 0), pictures.draw(scenes[0], 1))}")

# %% [markdown]
# ## Wrong, and nearly right
#
# Two towers learn to say whether a picture and a caption belong together. What are the wrong captions? Those of the other pictures of the batch are free. But "a large red circle" against "two black moons" is told apart by a single colour. Once colours are known,
# the loss is small, and *large*, *circle* and *above* were never needed.
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
    """All (size, colour, shape) that differ from this thing in exactly one attribute, sorted."""
    ### BEGIN SOLUTION
    thing = (size, colour, shape)
    every = [(s, c, f) for s in text.SIZES for c in text.COLOURS for f in text.SHAPES]
    return sorted(other for other in every if sum(a != b for a, b in zip(other, thing)) == 1)
    ### END SOLUTION


# %%
check("A3.swaps")

# %%
near = swaps("large", "red", "circle")
print(f"{len(near)} things are one step from a large red circle, of {len(text.SIZES) * len(text.COLOURS) * len(text.SHAPES) - 1} others: {', '.join(' '.join(each).strip() for each in near[:4])} ...")
one_step = [pictures.Scene((pictures.Thing(*each),)) for each in (("large", "red", "circle"), ("", "red", "circle"), ("large", "orange", "circle"), ("large", "red", "ring"))]
display(show_maps([np.asarray(pictures.draw(scene, 11)) for scene in one_step], [scene.caption[:-1] for scene in one_step], size=1.8))

# %% [markdown]
# In a picture of two things the relation can be turned as well: above and below, left and right. The package takes for each picture its own caption, one with an attribute changed and one with the relation turned: $3B$ captions for $B$ pictures.
#
# ## Exercise: which pairs are true
#
# *Exercise A3.together · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("A3.together")`*
#
# A trap. The obvious answer is the diagonal: picture $i$ and caption $i$. But this world is small, and a batch may show two red rings. Every scene has a number; equal numbers say the same.

# %%
@exercise("A3.together")
def together(pictures: Tensor, captions: Tensor) -> Tensor:
    """pictures (B,), captions (N,): numbers of what they show and say -> (B, N) bool, True where the caption is true of the picture."""
    ### BEGIN SOLUTION
    return pictures[:, None] == captions[None]
    ### END SOLUTION


# %%
check("A3.together")

# %% [markdown]
# Now a real batch. First some thousand pictures are drawn and kept for this notebook's time; then `draw_batch` picks, disturbs (noise, brightness, a pixel's shift) and numbers them. Each row below is a picture, each column a caption; the three blocks are the own captions, those with an attribute changed, those with the relation
# turned. White is true.

# %%
BASE = Settings(width=96, layers=3, heads=4, inner=256, text_width=48, text_layers=1, drawn=3000, batch=48, steps=700, restart=300, warmup=50)
if smoke:
    BASE = replace(BASE, width=32, layers=1, inner=32, drawn=96, batch=16, steps=6, restart=4, warmup=2)
work = TemporaryDirectory()
lessons = draw_lessons(BASE, Path(work.name), shard=BASE.drawn)
batch = draw_batch(lessons, BASE, 3)
print(f"pictures {tuple(batch.pixels.shape)}, captions {tuple(batch.words.shape)}, together {tuple(batch.together.shape)}: {int(batch.together.sum())} true pairs for {len(batch.pixels)} pictures")
display(show_maps([batch.together.float()], ["belong together"], size=7.0, cmap="gray"))

# %% [markdown]
# ## How it is measured
#
# Held-out pictures with different captions; each picture is compared with all captions of the pool. **Recall at 1** is the share of pictures whose own caption is the most alike. What it means depends on the pool: among captions drawn at random it is easy, in a pool made of *families* (a scene, a one-attribute swap of it, its relation turned) every caption has its
# nearest rival beside it.
#
# ## Exercise: recall at 1
#
# *Exercise A3.recall · difficulty ●○○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("A3.recall")`*

# %%
@exercise("A3.recall")
def recall(pictures: Tensor, captions: Tensor) -> tuple[float, float]:
    """pictures (N, D), captions (N, D) of length one, row by row a pair -> share of pictures that find their caption, of captions that find their picture."""
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
print(f"families: {', '.join(each.scene.caption for each in families[:3])}")
print(f"apart:    {', '.join(each.scene.caption for each in apart[:3])}")


def finds(model, name: str, items) -> float:
    """Percent of the pictures that find their caption among those of the pool."""
    return 100 * recall(see(model, shown[name])[1], say(model, [each.scene.caption for each in items]))[0]


# %% [markdown]
# ## The first layer, and where it starts
#
# A patch of 12 by 12 pixels is 432 numbers, and nearly all of their variance is one thing: the patch's mean colour. A first layer drawn at random passes that on and drowns the outlines by which shapes are known. `whiten_patches` starts it with the patches' principal components, each at the same strength. These are the first of
# them, as pictures: colours first, then edges in every direction, finer and finer.

# %%
trainer = Trainer(BASE, lessons)
filters = trainer.model.vision_model.embeddings.patch_embedding.weight.detach()[:24]
low, high = filters.amin(dim=(1, 2, 3), keepdim=True), filters.amax(dim=(1, 2, 3), keepdim=True)
display(show_maps([each.permute(1, 2, 0).numpy() for each in (filters - low) / (high - low)], columns=12, size=0.7, alt="The first 24 whitened filters of 12 by 12 pixels: flat colours, then edges and finer patterns."))

# %% [markdown]
# ## Train
#
# Three losses at once, and in the last part of the run a fourth. The *sigmoid* loss of notebook 03 for the two towers. A *reader* that must tell the caption's content from all 64 patch vectors, for it is these that the Thinker will read, and not the pooled one. And for every single patch: of what size, colour and shape is the thing that you are a part of? Without that
# last question shapes are hardly learnt in the time we have; the towers find that colours will do.
#
# **Predict:** of five things that can be read from the patches (size, colour and shape of the first thing, the relation, how many), which is the first to get half-way from guessing to knowing?

# %%
predict("A3.first", "Which is learnt first: 'size', 'colour', 'shape', 'relation' or 'count'?", None)

# %%
def trained(trial: Settings, hard: bool = True, name: str = "vision encoder", trainer: Trainer | None = None) -> tuple[Trainer, list[dict]]:
    """Train to the end; returns the trainer and what could be read from its patches on the way."""
    trainer, readings = trainer or Trainer(trial, trial_lessons(trial)), []
    started = time.process_time()
    with Curves("sigmoid loss", "reader loss", "recall, percent") as curves:
        for step in tqdm(range(trial.steps), desc=name):
            one = draw_batch(trainer.lessons, trial, step)
            if not hard:  # own captions alone: those of the other pictures are the only wrong ones
                one = replace(one, words=one.words[: len(one.pixels)], together=one.together[:, : len(one.pixels)])
            sigmoid, reader, _, _ = trainer.update(one)
            curves.add(step, sigmoid, reader, None)
            if (step + 1) % max(1, trial.steps // 5) == 0:
                trainer.model.eval()
                patches, pooled = see(trainer.model, shown["validation"])
                readings.append({"step": step + 1, **read_slots(trainer.reader, patches, validation)})
                curves.dot(step, "recall, percent", 100 * recall(pooled, say(trainer.model, [each.scene.caption for each in validation]))[0])
                trainer.model.train()
    print(f"{name}: {(time.process_time() - started) / 60:.1f} minutes of one core")
    trainer.model.eval()
    return trainer, readings


def trial_lessons(trial: Settings):
    """The same pictures; which thing a patch is a part of depends on the patches, so that is worked out anew."""
    return lessons if trial.patch == BASE.patch else draw_lessons(trial, Path(work.name), shard=trial.drawn)


fine, readings = trained(BASE, name="64 patches", trainer=trainer)

# %%
watched = ["size", "colour", "shape", "relation", "count", "whole caption"]
print("read from the patches of held-out pictures, percent right")
print(f"{'step':>6}" + "".join(f"{name:>15}" for name in watched))
for each in readings:
    print(f"{each['step']:6}" + "".join(f"{100 * each[name]:15.0f}" for name in watched))
contents = torch.tensor([slots(each.scene) for each in validation])  # (N, slots)
frequent = {name: contents[:, number].bincount().max().item() / len(contents) for number, name in enumerate(SLOTS) if name in watched}
print(f"{'guess':>6}" + "".join(f"{100 * frequent[name]:15.0f}" for name in watched[:-1]) + "   always the most frequent answer")
half_way = {name: next((each["step"] for each in readings if each[name] > (1 + frequent[name]) / 2), 10**9) for name in watched[:-1]}
reveal("A3.first", min(half_way, key=lambda name: (half_way[name], -readings[0][name])))

# %% [markdown]
# ## What a patch of twice the width can say
#
# The same pictures, the same steps, the same losses, but patches of 24 by 24 pixels: 16 instead of 64. That is a quarter of the vectors and of the work. A middle-sized thing is then as large as one patch and lies across four of them. **Predict:** which attribute suffers most?

# %%
predict("A3.patch", "16 patches instead of 64: what falls most, 'size', 'colour', 'shape', 'relation' or 'count'?", None)

# %%
coarse, coarse_readings = trained(replace(BASE, patch=24), name="16 patches")

# %%
fallen = {name: readings[-1][name] - coarse_readings[-1][name] for name in watched[:-1]}
with drawing(7.0, 2.3) as figure:
    axes = figure.add_subplot()
    places = np.arange(len(watched))
    axes.bar(places - 0.2, [100 * readings[-1][name] for name in watched], 0.38, color=BLUE, label="64 patches of 12 pixels")
    axes.bar(places + 0.2, [100 * coarse_readings[-1][name] for name in watched], 0.38, color=ORANGE, label="16 patches of 24 pixels")
    axes.set_xticks(places, watched)
    axes.set(ylabel="percent right", ylim=(0, 100))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "What is read rightly from 64 and from 16 patches, attribute by attribute.")
display(picture)
for name in watched:
    print(f"{name:15} {100 * readings[-1][name]:4.0f} from 64 patches, {100 * coarse_readings[-1][name]:4.0f} from 16")
reveal("A3.patch", max(fallen, key=fallen.get))

# %% [markdown]
# What a patch shows goes through one linear map. Colour survives that in any patch; a shape is an outline, and an outline has to be pieced together from patches that each hold a bit of it. When the shipped encoder was designed this was measured on full training runs: 25 patches of 16 pixels read shapes to 41 percent, 64 of 12 pixels to 97. Smaller patches cost:
# half the width is four times the vectors, and sixteen times the pairs that attention weighs.
#
# ## Without the captions that are nearly right
#
# Once more the coarse one, which is quick, and the wrong captions are now only those of the other pictures. **Predict:** its sigmoid loss at the end is lower or higher than with hard negatives? And its recall in the pool of families?

# %%
predict("A3.easy", "Without hard negatives the sigmoid loss ends 'lower' or 'higher'?", None)

# %%
easy, _ = trained(replace(BASE, patch=24), hard=False, name="16 patches, easy negatives")

# %%
@torch.no_grad()
def final_loss(trainer: Trainer, hard: bool) -> float:
    """Mean sigmoid loss over some batches of its own kind."""
    total = []
    for step in range(4):
        one = draw_batch(trainer.lessons, trainer.settings, 10**6 + step)
        if not hard:
            one = replace(one, words=one.words[: len(one.pixels)], together=one.together[:, : len(one.pixels)])
        total.append(losses(trainer.model, trainer.reader, trainer.looks, trainer.standings, one)[0].item())
    return float(np.mean(total))


ends = {"hard negatives": final_loss(coarse, True), "easy negatives": final_loss(easy, False)}
print(f"{'':16}{'sigmoid loss':>14}{'recall, apart':>16}{'recall, families':>18}   (percent; chance {100 / len(families):.0f})")
for name, model in (("hard negatives", coarse.model), ("easy negatives", easy.model)):
    print(f"{name:16}{ends[name]:14.2f}{finds(model, 'apart', apart):16.0f}{finds(model, 'families', families):18.0f}")
reveal("A3.easy", "lower" if ends["easy negatives"] < ends["hard negatives"] else "higher")

# %% [markdown]
# Two losses of different questions cannot be compared: the easy one is small because little was asked. The recall can be, since both answer the same questions. A loss says how well a network does what it is asked; whether that is worth asking, only a test of another kind can say.
#
# ## How far minutes reach
#
# Your encoder of 64 patches beside the shipped one, both on pictures that neither was shown.

# %%
pair = load_pair(settings.vision_encoder_dir)
for name, model in (("yours", fine.model), ("shipped", pair)):
    size = sum(parameter.numel() for parameter in model.vision_model.parameters()) / 1e6
    found = {pool: finds(model, pool, items) for pool, items in (("apart", apart), ("families", families))}
    print(f"{name:8} {size:.2f} million weights that see; own caption first: {found['apart']:.0f} % of {len(apart)} apart, {found['families']:.0f} % of {len(families)} in families")

# %%
captions = [each.scene.caption for each in families]
with torch.no_grad():
    likeness = see(fine.model, shown["families"])[1] @ say(fine.model, captions).T
wrong = [number for number in range(len(captions)) if int(likeness[number].argmax()) != number][:6]
print("some pictures of families, and the caption that your encoder takes for its own:")
chosen = wrong or list(range(min(6, len(captions))))
display(show_maps([shown["families"][number] for number in chosen], ["\n".join((captions[number][:-1].replace(f" {families[number].scene.relation} ", f" {families[number].scene.relation}\n"), "-> " + captions[int(likeness[number].argmax())][:-1].replace(" a ", "\na ", 1))) for number in chosen], columns=3, size=2.9))

# %% [markdown]
# Look at *how* it is wrong: mostly by one attribute, and mostly by shape or relation. The shipped encoder had twenty thousand pictures and about forty minutes of one core. SigLIP 2 itself learnt from billions of pictures with captions that people wrote: there nobody can draw the nearly right ones, so batches of tens of thousands must contain them by
# chance.
#
# ## Summary
#
# - Negatives make the encoder. Random ones teach colour; captions one step away teach the rest.
# - A caption can be true of several pictures in a batch: compare meanings, not places.
# - A patch passes one linear map: what is finer than a patch has to be pieced together. Shape pays first.
# - Recall at 1 means nothing without its pool, and two losses of different questions cannot be compared.
#
# **Often mistaken.** *"The pooled vector matches captions, so the patches say it too."* Each loss teaches what it looks at; hence the reader and the parts. *"Hard negatives raise the loss, so they hurt."* They raise the question. *"A larger batch is only faster."* Here it brings more wrong captions.
#
# **To try.** `parts_weight=0`: how far do shapes get? `Trainer(..., whitened=False)`: what is lost in the first hundred steps? Patches of 8 pixels: 144 vectors; what do they gain, and in how many minutes? Make `together` the diagonal in a world of nine captions.
#
# **Where to read on.** In this course: `mmo/world/train_vision_encoder.py`, `mmo/world/pictures.py`, then [notebook 12](12_train_i2t.ipynb). Papers:
#
# - X. Zhai, B. Mustafa, A. Kolesnikov, L. Beyer: *Sigmoid Loss for Language Image Pre-Training.* ICCV 2023, [arXiv:2303.15343](https://arxiv.org/abs/2303.15343).
# - M. Yuksekgonul, F. Bianchi, P. Kalluri, D. Jurafsky, J. Zou: *When and why vision-language models behave like bags-of-words, and what to do about it?* ICLR 2023, [arXiv:2210.01936](https://arxiv.org/abs/2210.01936). Swapped relations and attributes: hard negatives.
# - M. Tschannen, M. Kumar, A. Steiner and others: *Image Captioners Are Scalable Vision Learners Too.* NeurIPS 2023, [arXiv:2306.07915](https://arxiv.org/abs/2306.07915). A reader that answers in parallel.
# - M. Tschannen, A. Gritsenko, X. Wang and others: *SigLIP 2.* 2025, [arXiv:2502.14786](https://arxiv.org/abs/2502.14786). The real profile's encoder.
