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
# # 03 · The vision encoder
#
# *Takes 75 minutes (tiny) · runs in 23 s on one core (tiny) · builds on nothing before it · 5 exercises, 15 points*
#
# **At the end** you have cut a picture into 64 patches, embedded them, let them look at each other, and written the loss that
# pictures and captions share. And you have measured what its 64 vectors still say of the picture, and what they do not.
#
# **You need** matrix products and softmax. From the course only this: the language model, the *Thinker*, reads vectors, one a
# position. A picture must become a short row of them. The encoder is built like *SigLIP*, a well-known one that was trained with
# captions (`SiglipVisionModel` in Hugging Face's transformers); the tiny one was trained for this course ([appendix A3](A3_train_a_vision_encoder.ipynb)).
#
# **The claim.** To a transformer a picture is a row of patches, as a sentence is a row of words. What the vectors say is not what
# the picture shows: it is what the loss asked for, and you can measure it with one linear map.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer pictures where pictures are counted

# %%
import json

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.pictures import bare, show_maps
from mmo.display import ORANGE, drawing, finish
from mmo.profiles import profile as find_profile
from mmo.vision_encoder import VisionEncoder, open_picture

settings = find_profile("tiny")  # every claim here is counted on the tiny world, whose captions are known word by word
torch.manual_seed(0)
encoder = VisionEncoder.load(settings.vision_encoder_dir)
size = encoder.model.config.patch_size
side = encoder.side // size
print(f"{encoder.side} x {encoder.side} pixels, patches of {size} x {size}: P = {encoder.patches}, each becomes {encoder.dim} features")
print(f"numbers in: {3 * encoder.side**2}, numbers out: {encoder.patches * encoder.dim}")


def captioned(split: str, tier: str) -> list[tuple[str, bytes]]:
    """(caption, encoded picture) of the rows that describe the whole picture."""
    rows = pq.read_table(settings.data_dir / f"i2t-{split}.parquet", columns=["conversations", "image_bytes", "tier", "kind"]).to_pylist()
    return [(json.loads(row["conversations"])[-1]["content"], row["image_bytes"]) for row in rows if row["kind"] == "caption" and row["tier"] == tier]


training, test = captioned("train", "train"), captioned("test", "sentence")
training = training[: 600 if budget == "smoke" else len(training)]
print(f"{len(training)} pictures to fit with, {len(test)} to test with")

# %% [markdown]
# ## A picture
#
# `encoder.pixels` makes it ready: 96 by 96, three channels, values from -1 to 1.

# %%
caption, data = next(row for row in test if "above" in row[0] and "large" in row[0])
pixels = encoder.pixels([open_picture(data)])[0]  # (3, S, S)
print(caption, tuple(pixels.shape), f"{pixels.min():.2f} to {pixels.max():.2f}")


def as_picture(values: Tensor) -> np.ndarray:
    """(3, H, W) from -1 to 1 -> (H, W, 3) from 0 to 1."""
    return (values.permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()


display(show_maps([as_picture(pixels)], [caption], size=2.6))

# %% [markdown]
# ## Exercise: patches
#
# *Exercise 03.patchify · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("03.patchify")`*
#
# Cut the picture $(C, S, S)$ into squares and lay each square flat. Patches are read like a page: left to right, then down. Within a
# patch all of channel 0 comes first, one line of pixels after the other, then channel 1, and so on. The catch: no pixel's value changes, only the order, so a wrong order gives no error.

# %%
@exercise("03.patchify")
def patchify(picture: Tensor, size: int) -> Tensor:
    """picture (C, S, S) -> (P, C * size * size).

    Patches row by row; in each all of channel 0, row by row, then channel 1.
    """
    ### BEGIN SOLUTION
    C, S, _ = picture.shape
    cut = picture.view(C, S // size, size, S // size, size)  # channel, patch row, pixel row, patch column, pixel column
    return cut.permute(1, 3, 0, 2, 4).reshape((S // size) ** 2, C * size * size)
    ### END SOLUTION


# %%
check("03.patchify")

# %%
patches = patchify(pixels, size)  # (P, 3 * size * size)
print(f"{tuple(pixels.shape)} -> {tuple(patches.shape)}")
squares = [as_picture(patch.view(3, size, size)) for patch in patches]
display(show_maps(squares, columns=side, size=0.5, alt="The picture cut into 64 patches, in eight rows of eight."))

# %% [markdown]
# Many patches are background. The encoder spends a vector on each of them all the same.
#
# ## Exercise: a convolution that is one matrix
#
# *Exercise 03.embed · difficulty ●○○ · importance ●●● · 8 minutes · 2 points · stuck? `hint("03.embed")`*
#
# Each patch $x_i$ becomes $D$ features: $e_i = W x_i + b + \mathrm{pos}_i$. In the model $W$ is stored as a convolution of $D$ filters of $p \times p$ pixels,
# $(D, C, p, p)$, whose stride is its own size: it never looks at two patches at once, so it is this matrix product.

# %%
@exercise("03.embed")
def embed(patches: Tensor, weight: Tensor, bias: Tensor, position: Tensor) -> Tensor:
    """patches (P, C * p * p), weight (D, C, p, p), bias (D,), position (P, D) -> (P, D)."""
    ### BEGIN SOLUTION
    filters = weight.flatten(1)  # (D, C * p * p)
    return patches @ filters.T + bias + position
    ### END SOLUTION


# %%
check("03.embed")

# %% [markdown]
# The same numbers as the encoder's own convolution:

# %%
tower = encoder.model.vision_model
stem = tower.embeddings
position = stem.position_embedding.weight.detach()
embedded = embed(patches, stem.patch_embedding.weight, stem.patch_embedding.bias, position)  # (P, D)
with torch.no_grad():
    theirs = stem(pixels[None])[0]
print(f"largest difference: {(embedded - theirs).abs().max():.1e}")
assert torch.allclose(embedded, theirs, atol=1e-4)

alike = F.normalize(position - position.mean(dim=0), dim=1)
places = [0, 27, 63]
display(show_maps([(alike @ alike[p]).view(side, side) for p in places], [f"like the position of patch {p}" for p in places], size=2.0, alike=True))

# %% [markdown]
# Each map compares one learnt position with all 64: bright is alike, dark the opposite (one scale for all three). Nobody told the model which patches are neighbours; what you see of
# nearness, coarse as it is, it found by itself.
#
# ## Exercise: one head over 64 patches
#
# *Exercise 03.attention · difficulty ●●○ · importance ●●● · 12 minutes · 3 points · stuck? `hint("03.attention")`*
#
# Now the patches look at each other: $A = \mathrm{softmax}(q k^\top / \sqrt{d})$ over the last axis, and $A v$. No mask: a picture has no
# before and after.

# %%
predict("03.pairs", "How many pairs (who looks, who is looked at) does one head weigh for one picture?", None)

# %%
@exercise("03.attention")
def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v (P, d) of one head.

    -> how much patch i looks at patch j (P, P), and what patch i takes away (P, d).
    """
    ### BEGIN SOLUTION
    scores = q @ k.T / q.shape[1] ** 0.5
    looks = scores.softmax(dim=1)
    return looks, looks @ v
    ### END SOLUTION


# %%
check("03.attention")

# %%
reveal("03.pairs", encoder.patches**2, "pairs; with patches half as wide it would be sixteen times as many")

# %% [markdown]
# Now with the encoder's weights. Layer by layer we take head 0's queries, keys and values, and draw where one patch looks: the one in the
# orange frame. Each map has its own scale, from 0 to the share that its title names.

# %%
dark = (pixels - pixels[:, :1, :1]).abs().sum(dim=0)  # far from the colour of the corner: a thing
shown = int(F.avg_pool2d(dark[None], size)[0].argmax())
maps, names = [as_picture(pixels)], [f"patch {shown} asks"]
with torch.no_grad():
    states = encoder.model(pixels[None], output_hidden_states=True).hidden_states
    for number, layer in enumerate(tower.encoder.layers):
        block, normed = layer.self_attn, layer.layer_norm1(states[number][0])
        q, k, v = (project(normed)[:, : block.head_dim] for project in (block.q_proj, block.k_proj, block.v_proj))
        looks, _ = attention(q, k, v)
        maps.append(looks[shown].view(side, side))
        names.append(f"layer {number}, head 0\nup to {looks[shown].max():.2f}")
        most = int(looks[shown].argmax())
        print(f"layer {number}: looks most at patch {most} (row {most // side}, column {most % side}), with {looks[shown].max():.2f} of its attention")
print(f"shared out evenly it would be {1 / encoder.patches:.3f} for each patch")
row, column = divmod(shown, side)
with drawing(9.0, 2.1) as figure:
    for axes, each, name in zip(figure.subplots(1, len(maps)), maps, names):
        axes.imshow(each, cmap="cividis", vmin=0, extent=(0, side, side, 0), interpolation="nearest")
        axes.plot([column, column + 1, column + 1, column, column], [row, row, row + 1, row + 1, row], color=ORANGE, linewidth=2)
        axes.set_title(name, fontsize=9)
        bare(axes)
    words = f"The picture with patch {shown} in an orange frame, and for each layer how head 0 shares out that patch's attention over all patches."
    picture = finish(figure, words)
display(picture)

# %% [markdown]
# An attention map says where a head looks, not what it takes from there, and one head is one of several. Read it as a hint, not as a reason.
# And a patch need not look at its own thing: see on what the last layer's brightest square lies.
#
# ## Features as a picture
#
# The encoder's output is 64 vectors of 128 numbers. Their three strongest directions over many pictures, as red, green and blue:

# %%
some = [open_picture(data) for _, data in test[:60]]
features = encoder.encode(some)  # (B, P, D)
flat = features.flatten(0, 1)
_, _, directions = torch.pca_lowrank(flat, q=3)
colours = (flat - flat.mean(dim=0)) @ directions
low, high = colours.quantile(0.02, dim=0), colours.quantile(0.98, dim=0)
colours = ((colours - low) / (high - low)).clamp(0, 1).view(len(some), side, side, 3)
with torch.no_grad():
    ready = encoder.pixels(some[:6])
with drawing(9.0, 3.4) as figure:
    places = figure.subplots(2, 6).ravel()  # three pictures a row, each with its features on its right
    for number, (words, _) in enumerate(test[:6]):
        places[2 * number].imshow(as_picture(ready[number]))
        places[2 * number].set_title(words, fontsize=9)
        places[2 * number + 1].imshow(colours[number], interpolation="nearest")
    for axes in places:
        bare(axes)
    picture = finish(figure, "Six pictures, and on the right of each its 64 feature vectors as 8 by 8 squares of colour.", pictures=True)
display(picture)

# %% [markdown]
# Look for the outlines of the things among the squares. The features keep the order of the patches, yet each patch has heard from all
# others. See the background: its colour follows what the whole picture shows.
#
# ## One of the losses that made them
#
# Two towers, one for pictures, one for captions, each give one vector of length one. For every pair in the batch a sigmoid says whether they belong
# together. With $x_i$ the vector of picture $i$, $y_j$ that of caption $j$, $B$ pictures, two learnt numbers $t$ and $b$, $z_{ij} = e^{t} x_i \cdot y_j + b$,
# and the sign $s_{ij} = +1$ where they belong together, else $-1$:
#
# $$L = -\frac{1}{B} \sum_{i,j} \log \sigma(s_{ij} z_{ij})$$
#
# This one teaches the one vector of the whole picture, which is gathered (*pooled*) from the 64. The tiny encoder had two more, on the 64 vectors themselves: what is in the picture, and of which thing each patch is a part ([appendix A3](A3_train_a_vision_encoder.ipynb)).
#
# Nearly all pairs are false. **Predict:** 64 pictures, 64 captions, all products zero. What is $L$ with $b = 0$?

# %%
predict("03.start", "64 pictures, 64 captions, nothing learnt, bias 0: what is the loss per picture?", None)

# %% [markdown]
# ## Exercise: the sigmoid loss of a batch
#
# *Exercise 03.sigmoid_loss · difficulty ●●● · importance ●●● · 12 minutes · 4 points · stuck? `hint("03.sigmoid_loss")`*
#
# The formula above, for any table of pairs: there may be more captions than pictures ($N \ne B$), and `together` says which pairs are true. `scale` is $t$, `bias` is $b$; all $B \cdot N$ pairs are summed, then divided by $B$.

# %%
@exercise("03.sigmoid_loss")
def sigmoid_loss(pictures: Tensor, captions: Tensor, together: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """pictures (B, D), captions (N, D), all of length one; together (B, N), bool.

    -> the loss: summed over all pairs, per picture.
    """
    ### BEGIN SOLUTION
    logits = pictures @ captions.T * scale.exp() + bias  # (B, N)
    agreement = torch.where(together, logits, -logits)
    return -F.logsigmoid(agreement).sum() / len(pictures)
    ### END SOLUTION


# %%
check("03.sigmoid_loss")

# %%
nothing, true_pairs = torch.zeros(64, 8), torch.eye(64, dtype=torch.bool)
for bias in (0.0, -10.0):
    print(f"bias {bias:5.1f}: loss {sigmoid_loss(nothing, nothing, true_pairs, torch.tensor(2.3), torch.tensor(bias)):.2f} per picture")
reveal("03.start", round(float(sigmoid_loss(nothing, nothing, true_pairs, torch.tensor(2.3), torch.tensor(0.0))), 2))

# %% [markdown]
# With a bias of 0 the first thing to be learnt is "no", at great cost. So SigLIP begins at -10: it says no to everything, and has only to find the few that are true.
#
# Now the trained towers. The caption's tower is shipped too, though the omni model never uses it.

# %%
from mmo.world.train_vision_encoder import load_pair, recall, say

pair = load_pair(settings.vision_encoder_dir)
chosen = list({words: data for words, data in test}.items())[:100]
with torch.no_grad():
    pooled = F.normalize(pair.vision_model(encoder.pixels([open_picture(data) for _, data in chosen])).pooler_output, dim=-1)
    spoken = say(pair, [words for words, _ in chosen])
    logits = pooled @ spoken.T * pair.logit_scale.exp() + pair.logit_bias
found = recall(pooled, spoken)
print(f"of {len(chosen)} captions the right one is first for {100 * found['caption_of_picture']:.0f} % of the pictures; chance is {100 / len(chosen):.0f} %")
print(f"control: matched to the next picture's caption: {100 * found['control_wrong_picture']:.0f} %")
best = logits.argmax(dim=1).tolist()
for number, (words, _) in enumerate(chosen):
    if best[number] != number:
        print(f"a miss, picture {number}: {words}  taken for {best[number]}: {chosen[best[number]][0]}")
with drawing(9.0, 4.2) as figure:
    axes = figure.add_subplot()
    image = axes.imshow(logits[:12, :12].sigmoid(), cmap="cividis", vmin=0, vmax=1)
    axes.set_yticks(range(12), [f"{words}  {number}" for number, (words, _) in enumerate(chosen[:12])], fontsize=9)
    axes.set_xticks(range(12), range(12), fontsize=9)
    axes.set(ylabel="picture of", xlabel="caption")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="they belong together")
    picture = finish(figure, "Twelve pictures by the captions of the same twelve: how sure the sigmoid is, from 0 to 1, that they belong together.")
display(picture)

# %% [markdown]
# The picture shows the first twelve of the hundred, and a picture's own caption stands on the diagonal. Where a row's brightest square lies
# elsewhere, that picture is one of the misses. A grey square means that the sigmoid is unsure.
#
# ## What 64 vectors say
#
# That was one vector a picture. The Thinker gets the 64. To ask what they hold we fit a **linear probe**: one matrix from features to the classes
# of one attribute. If a probe can read it, a projector can. If it cannot, the thing may still be there, but not on the surface.
#
# ## Exercise: a linear probe
#
# *Exercise 03.probe · difficulty ●●○ · importance ●●○ · 10 minutes · 3 points · stuck? `hint("03.probe")`*
#
# Ridge regression in closed form: $W = (X^\top X + \lambda I)^{-1} X^\top Y$, where $X$ is features with a last column of ones, $Y$ is one-hot, and $\lambda$ is `strength`, the same for all columns.

# %%
@exercise("03.probe")
def probe(features: Tensor, classes: Tensor, number: int, strength: float) -> Tensor:
    """features (N, D), classes (N,) of `number` -> weights (D + 1, number), the constant last.

    Ridge regression on one-hot targets.
    """
    ### BEGIN SOLUTION
    X = torch.cat((features, torch.ones(len(features), 1)), dim=1)
    Y = F.one_hot(classes, number).float()
    return torch.linalg.solve(X.T @ X + strength * torch.eye(X.shape[1]), X.T @ Y)
    ### END SOLUTION


# %%
check("03.probe")

# %% [markdown]
# Four ways to sum up a picture: the mean colour alone; each patch's mean colour; the mean of the 64 feature vectors, which no longer says which came from where; and the same on
# a grid of 4 by 4, which still does, coarsely. **Predict:** can above, below, left and right be read from the mean of the 64?

# %%
predict(
    "03.relation",
    mine=None,
    question="Relation of two things, read from the mean of the 64 vectors: right in how many percent? "
    "(guessing one of four gives about 25)",
)

# %%
COLOURS = "red blue green yellow orange purple pink black white".split()
SHAPES = "circle square triangle star heart diamond cross ring moon".split()
RELATIONS = "above below left right".split()


def named(words: list[str], among: list[str]) -> list[int]:
    """The numbers of those words of `among` that occur, in their order; plurals count."""
    return [among.index(name) for word in words for name in among if word in (name, f"{name}s", f"{name}es")]


def attributes(caption: str) -> dict[str, int]:
    """What a caption says, as class numbers; -1 where it says nothing of the kind."""
    words = caption.lower().rstrip(".").split()
    relation = named(words, RELATIONS)[:1] or [-1]
    numbers = [at for at, name in enumerate(("two", "three", "four", "five")) if name in words] or [-1]
    alone = relation[0] < 0
    colour, shape = (named(words, among)[0] if alone else -1 for among in (COLOURS, SHAPES))
    return {"colour": colour, "shape": shape, "how many": numbers[0], "relation": relation[0]}


@torch.no_grad()
def summaries(rows: list[tuple[str, bytes]]) -> dict[str, Tensor]:
    """Four sums of each picture, (N, something)."""
    parts = {"mean colour": [], "colour of each patch": [], "mean of the 64": [], "64 on a 4 x 4 grid": []}
    for first in range(0, len(rows), 64):
        ready = encoder.pixels([open_picture(data) for _, data in rows[first : first + 64]])
        features = encoder.model(ready).last_hidden_state  # (B, P, D)
        grid = features.transpose(1, 2).unflatten(2, (side, side))  # (B, D, side, side)
        parts["mean colour"].append(ready.mean(dim=(2, 3)))
        parts["colour of each patch"].append(F.avg_pool2d(ready, size).flatten(1))
        parts["mean of the 64"].append(features.mean(dim=1))
        parts["64 on a 4 x 4 grid"].append(F.avg_pool2d(grid, 2).flatten(1))
    return {name: torch.cat(each) for name, each in parts.items()}


seen, unseen = summaries(training), summaries(test)
answers = [[attributes(words) for words, _ in rows] for rows in (training, test)]

# %%
counts = {"colour": 9, "shape": 9, "how many": 4, "relation": 4}
kept = {what: [torch.tensor([each[what] for each in rows]) for rows in answers] for what in counts}
tested = {what: kept[what][1][kept[what][1] >= 0] for what in counts}


def line(name: str, cells: dict) -> None:
    """One row of the table."""
    print(f"{name:28}" + "".join(f"{cells[what]:>10}" for what in counts))


line("", {what: what for what in counts})
line("pictures tested", {what: len(tested[what]) for what in counts})
print("right, in percent")
line("  always the commonest class", {what: round(100 * float(tested[what].bincount().max() / len(tested[what]))) for what in counts})
scores = {}
for name in seen:
    middle, spread = seen[name].mean(dim=0), seen[name].std(dim=0) + 1e-6
    for what, number in counts.items():
        here, there = (each >= 0 for each in kept[what])
        weights = probe((seen[name][here] - middle) / spread, kept[what][0][here], number, 10.0)
        read = ((unseen[name][there] - middle) / spread) @ weights[:-1] + weights[-1]
        scores[name, what] = round(100 * (read.argmax(dim=1) == kept[what][1][there]).float().mean().item())
    line(f"  {name}", {what: scores[name, what] for what in counts})
line("standard error, at most", {what: round(50 / len(tested[what]) ** 0.5) for what in counts})
reveal("03.relation", scores["mean of the 64", "relation"], "percent; on the grid it is " + str(scores["64 on a 4 x 4 grid", "relation"]))

# %% [markdown]
# Read the table downwards. The last two ways use the very same features: what differs is whether *place* was averaged away. An average of patches keeps what is there and loses
# much of where. That is why the Thinker gets all 64 in order, and not one vector.
#
# The first three columns test few pictures: see the last line. One or two standard errors are easily chance, so ten points say nothing
# there. And a way that reads nothing can fall below "always the commonest class", which was picked with the tested pictures in sight.
#
# ### What no caption asked for
#
# No caption says where a thing stands to the pixel. Move the picture's content by a few pixels
# and see how far the features go; beside it, the distance to another picture altogether.

# %%
@torch.no_grad()
def moved(by: int) -> Tensor:
    """The features of the picture, its content moved right by so many pixels; the edge is repeated."""
    padded = F.pad(pixels[None], (by, 0, 0, 0), mode="replicate")[..., : encoder.side]
    return encoder.model(padded).last_hidden_state[0]


here = moved(0)
other = features[5]
for by in (1, 3, 6, size):
    change, whole_way = moved(by) - here, other - here
    print(f"moved by {by:2} px: the 64 vectors go {100 * change.norm() / whole_way.norm():3.0f} % of the way to another picture, "
          f"their mean {100 * change.mean(dim=0).norm() / whole_way.mean(dim=0).norm():3.0f} %")

# %% [markdown]
# Look at the last line: moved by a whole patch, the mean of the 64 is nearly what it was, for the same patches stand one place further. Moved by a part of one, each patch shows something new. The distances say
# how much changes, not what. And whatever size a picture has when it comes in, it is first made 96 by 96: what is smaller than a pixel then is gone before
# the first layer. The real encoder is built the same way, with 256 pixels and patches of 32: 64 vectors too. A page of small print has more letters than that.

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("03")

# %% [markdown]
# ## Summary
#
# - A picture becomes $P = (S / p)^2$ patches; embedding them is one matrix product, a bias, and a learnt vector for the place.
# - Attention lets each patch look at all: $P^2$ pairs a head, no mask.
# - The sigmoid loss asks of each pair by itself, yes or no. The bias starts at "no".
# - What the features say is what the losses needed. A linear probe measures it; a control beside it says what the figure means.
# - Averaging over patches loses much of where things are.
#
# **Often mistaken.** *"The vision encoder describes the picture."* It has no words; the Thinker has. *"The Thinker reads the vector that was compared with captions."* It reads the
# 64 patch vectors. *"Smaller patches are always better."* Half the width is four times the tokens, sixteen times the pairs.
#
# **To try.** Shuffle the 64 vectors before the grid probe: which columns fall? Shuffle the training classes: what is left is the floor. Draw layer 2's other heads. Fit the probe for
# the colour of the *second* thing.
#
# **Where to read on.** In this course: `mmo/vision_encoder.py`, then [notebook 12](12_train_i2t.ipynb), where a projector learns to read these vectors. Papers:
#
# - A. Dosovitskiy, L. Beyer, A. Kolesnikov and others: *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale.* ICLR 2021,
#   [arXiv:2010.11929](https://arxiv.org/abs/2010.11929). Patches as words.
# - A. Radford, J. W. Kim, C. Hallacy and others: *Learning Transferable Visual Models From Natural Language Supervision.* ICML 2021,
#   [arXiv:2103.00020](https://arxiv.org/abs/2103.00020). CLIP: the same two towers with a softmax.
# - X. Zhai, B. Mustafa, A. Kolesnikov, L. Beyer: *Sigmoid Loss for Language Image Pre-Training.* ICCV 2023,
#   [arXiv:2303.15343](https://arxiv.org/abs/2303.15343). The loss above, and the bias of -10.
# - M. Tschannen, A. Gritsenko, X. Wang and others: *SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense Features.* 2025,
#   [arXiv:2502.14786](https://arxiv.org/abs/2502.14786). The real profile's encoder.
