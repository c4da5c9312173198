"""Notebook 03: patches, their embedding, one head of attention, the sigmoid loss, a linear probe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids, compare_maps


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 03.patchify -------------------------------------------------------------------------------------------------


def patchify(picture: Tensor, size: int) -> Tensor:
    """picture (C, S, S) -> (P, C * size * size): patches row by row; in each all of channel 0, row by row, then channel 1."""
    C, S, _ = picture.shape
    grid = picture.view(C, S // size, size, S // size, size)
    return grid.permute(1, 3, 0, 2, 4).reshape((S // size) ** 2, C * size * size)


def numbered(C: int, S: int) -> Tensor:
    """(C, S, S): a pixel holds its own number, so that one sees where it went."""
    return torch.arange(C * S * S, dtype=torch.float32).view(C, S, S)


def patchify_cases() -> Sequence[Case]:
    return [
        Case("1 channel, 4 x 4 pixels, patches of 2", (numbered(1, 4), 2)),
        Case("3 channels, 6 x 6 pixels, patches of 2", (numbered(3, 6), 2)),
        Case("3 channels, 96 x 96 pixels, patches of 12", (numbered(3, 96), 12)),
    ]


def patchify_reshape(picture: Tensor, size: int) -> Tensor:
    """Only reshaped."""
    return picture.reshape(-1, picture.shape[0] * size * size)


def patchify_columns(picture: Tensor, size: int) -> Tensor:
    C, S, _ = picture.shape
    return picture.view(C, S // size, size, S // size, size).permute(3, 1, 0, 2, 4).reshape(-1, C * size * size)


def patchify_turned(picture: Tensor, size: int) -> Tensor:
    return patchify(picture.transpose(1, 2), size).view(-1, picture.shape[0] * size * size)


def patchify_inside_turned(picture: Tensor, size: int) -> Tensor:
    C, S, _ = picture.shape
    return picture.view(C, S // size, size, S // size, size).permute(1, 3, 0, 4, 2).reshape(-1, C * size * size)


def patchify_channels_last(picture: Tensor, size: int) -> Tensor:
    C, S, _ = picture.shape
    return picture.view(C, S // size, size, S // size, size).permute(1, 3, 2, 4, 0).reshape(-1, C * size * size)


def patchify_strided(picture: Tensor, size: int) -> Tensor:
    """Every n-th pixel: `view` with the two halves of an axis the wrong way round."""
    C, S, _ = picture.shape
    return picture.view(C, size, S // size, size, S // size).permute(2, 4, 0, 1, 3).reshape(-1, C * size * size)


PATCHIFY = Exercise(
    id="03.patchify",
    title="Patches",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="One row a patch, in reading order; in a row one channel's pixels after the other's.",
    hints=(
        "Split each side in two axes first: picture.view(C, S // size, size, S // size, size). Which axis counts patches, which counts pixels?",
        "The result's first axis is (patch row, patch column), its second (channel, pixel row, pixel column). permute brings the axes into that order.",
        "permute(1, 3, 0, 2, 4), then reshape to (P, C * size * size). The axes after view are: channel, patch row, pixel row, patch column, pixel column.",
    ),
    reference=patchify,
    package_name="the cut inside SiglipVisionModel",
    cases=patchify_cases,
    bugs=(
        Bug("The picture was only reshaped. A row of your result is a strip of whole pixel rows, not a square: the axes must change places before they are joined.", patchify_reshape),
        Bug("The patches are numbered column by column. They are read like a page: patch 1 lies to the right of patch 0.", patchify_columns),
        Bug("The picture is mirrored at its diagonal: rows and columns have changed places everywhere. Height comes before width.", patchify_turned),
        Bug("Each patch is mirrored at its diagonal: inside a patch, pixel rows come before pixel columns.", patchify_inside_turned),
        Bug("The channels come last in your rows (r g b r g b ...). Here a whole channel comes first, as the convolution's weights have it.", patchify_channels_last),
        Bug("A row takes every n-th pixel of the whole picture. In view the count of patches comes first and the pixels inside second: (S // size, size).", patchify_strided),
    ),
    picture=lambda wanted, theirs: compare_grids(wanted[:9, :12], theirs[:9, :12]),
)


# --- 03.embed ----------------------------------------------------------------------------------------------------


def embed(patches: Tensor, weight: Tensor, bias: Tensor, position: Tensor) -> Tensor:
    """patches (P, C * p * p), weight (D, C, p, p), bias (D,), position (P, D) -> (P, D)."""
    return patches @ weight.flatten(1).T + bias + position


def embed_cases() -> Sequence[Case]:
    return [
        Case("9 patches of 3 x 2 x 2 into 5 features", (drawn(9, 12), drawn(5, 3, 2, 2, seed=1), drawn(5, seed=2), drawn(9, 5, seed=3))),
        Case("4 patches of 3 x 4 x 4 into 4 features", (drawn(4, 48), drawn(4, 3, 4, 4, seed=1), drawn(4, seed=2), drawn(4, 4, seed=3))),
    ]


EMBED = Exercise(
    id="03.embed",
    title="A convolution that is one matrix",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="One feature vector a patch: a matrix product, a bias, and a vector that belongs to the place.",
    hints=(
        "A filter looks at one patch and gives one number. Laid flat, patch and filter have the same length: what is that number?",
        "weight.flatten(1) is (D, C * p * p), in the same order as a row of patches. Multiply by its transpose.",
        "patches @ weight.flatten(1).T + bias + position: the bias is the same for all patches, the position is not.",
    ),
    reference=embed,
    package_name="the embedding inside SiglipVisionModel",
    cases=embed_cases,
    bugs=(
        Bug("The positions are missing. Without them the picture is a bag of patches: attention cannot tell above from below.", lambda patches, weight, bias, position: embed(patches, weight, bias, 0 * position)),
        Bug("The bias is missing.", lambda patches, weight, bias, position: embed(patches, weight, 0 * bias, position)),
        Bug("Bias and positions are both missing.", lambda patches, weight, bias, position: embed(patches, weight, 0 * bias, 0 * position)),
        Bug("The weights were reshaped, not transposed: weight.view(-1, D) mixes the filters. Flatten each filter, then .T.", lambda patches, weight, bias, position: patches @ weight.reshape(-1, len(weight)) + bias + position),
        Bug("The filters' values are in another order than the patches': a row of patches is channel, row, column. Flatten the weight as it is.", lambda patches, weight, bias, position: patches @ weight.permute(0, 2, 3, 1).flatten(1).T + bias + position),
        Bug("Every patch gets the position of patch 0.", lambda patches, weight, bias, position: embed(patches, weight, bias, position[:1])),
    ),
    gradients=(0, 1, 3),
    tolerance=1e-4,
    picture=lambda wanted, theirs: compare_maps(wanted, theirs, xlabel="feature", ylabel="patch"),
)


# --- 03.attention ------------------------------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v (P, d) of one head -> how much patch i looks at patch j (P, P), and what it takes away (P, d)."""
    looks = (q @ k.T / q.shape[1] ** 0.5).softmax(dim=1)
    return looks, looks @ v


def attention_cases() -> Sequence[Case]:
    return [Case(f"{P} patches, a head {d} wide", (drawn(P, d), drawn(P, d, seed=1), drawn(P, d, seed=2))) for P, d in ((4, 3), (6, 6), (64, 32))]


def looks_by(scores: Tensor, v: Tensor, axis: int = 1) -> tuple[Tensor, Tensor]:
    looks = scores.softmax(dim=axis)
    return looks, looks @ v


def attention_causal(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return looks_by((q @ k.T / q.shape[1] ** 0.5).masked_fill(later, float("-inf")), v)


ATTENTION = Exercise(
    id="03.attention",
    title="One head over 64 patches",
    difficulty=2,
    importance=3,
    minutes=12,
    looks="Two results: a square matrix whose every row sums to 1, and one mixed vector a patch.",
    hints=(
        "Patch i asks with q[i]; patch j answers with k[j]. Their dot product is high where the answer fits. All pairs at once are one product.",
        "Divide by the square root of the head's width d, then softmax over the patches that are looked at: the last axis.",
        "looks = (q @ k.T / d ** 0.5).softmax(dim=1); the second result is looks @ v. No mask: a patch may look everywhere.",
    ),
    reference=attention,
    package_name="one head of SiglipVisionModel",
    cases=attention_cases,
    bugs=(
        Bug("The scores are not divided by the square root of the width: the softmax becomes too sharp, and its gradient small.", lambda q, k, v: looks_by(q @ k.T, v)),
        Bug("The scores are divided by the width, not by its square root: everything looks at everything.", lambda q, k, v: looks_by(q @ k.T / q.shape[1], v)),
        Bug("The columns sum to 1, not the rows. Each patch shares out its own looks: softmax over the last axis.", lambda q, k, v: looks_by(q @ k.T / q.shape[1] ** 0.5, v, 0)),
        Bug("Queries and keys have changed places: row i should say whom patch i looks at, not who looks at it.", lambda q, k, v: looks_by(k @ q.T / q.shape[1] ** 0.5, v)),
        Bug("A patch sees only the patches before it. That is a language model's mask; a picture has no before and after.", attention_causal),
        Bug("Patches mix their keys, not their values: k says where to look, v says what is taken away.", lambda q, k, v: (attention(q, k, v)[0], attention(q, k, k)[1])),
        Bug("The first result holds the raw scores: the softmax is missing in what you return.", lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5, attention(q, k, v)[1])),
    ),
    picture=lambda wanted, theirs: compare_maps(wanted[0], theirs[0], xlabel="looked at", ylabel="patch"),
)


# --- 03.sigmoid_loss ---------------------------------------------------------------------------------------------


def sigmoid_loss(pictures: Tensor, captions: Tensor, together: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """pictures (B, D), captions (N, D) of length one; together (B, N) bool -> the loss, summed over pairs, per picture."""
    logits = pictures @ captions.T * scale.exp() + bias
    return -F.logsigmoid(torch.where(together, logits, -logits)).sum() / len(pictures)


def sigmoid_loss_cases() -> Sequence[Case]:
    def unit(*shape: int, seed: int) -> Tensor:
        return F.normalize(drawn(*shape, seed=seed), dim=-1)

    three = torch.eye(3, dtype=torch.bool)
    twice = torch.cat((torch.eye(4), torch.eye(4)), dim=1).bool()  # each picture has two true captions
    return [
        Case("3 pictures and 3 captions", (unit(3, 8, seed=0), unit(3, 8, seed=1), three, torch.tensor(1.0), torch.tensor(-2.0))),
        Case("4 pictures and 8 captions, two of them true for each", (unit(4, 8, seed=2), unit(8, 8, seed=3), twice, torch.tensor(2.3), torch.tensor(-10.0))),
    ]


def loss_by(pictures: Tensor, captions: Tensor, together: Tensor, scale: Tensor, bias: Tensor, how) -> Tensor:
    return how(pictures @ captions.T * scale.exp() + bias, together)


def softmax_instead(logits: Tensor, together: Tensor) -> Tensor:
    return -(logits.log_softmax(dim=1) * together).sum() / len(logits)


SIGMOID_LOSS = Exercise(
    id="03.sigmoid_loss",
    title="The sigmoid loss of a batch",
    difficulty=3,
    importance=3,
    minutes=12,
    looks="One number: small where the true pairs score high and all the others low.",
    hints=(
        "Every pair of a picture and a caption is a question of its own: do they belong together, yes or no?",
        "logits = pictures @ captions.T * scale.exp() + bias. A true pair wants logit, any other wants -logit, to be large.",
        "F.logsigmoid of torch.where(together, logits, -logits), negated, summed over all pairs, divided by the number of pictures.",
    ),
    reference=sigmoid_loss,
    package_name="mmo.world.train_vision_encoder.sigmoid_loss",
    cases=sigmoid_loss_cases,
    bugs=(
        Bug("That is CLIP's loss: a softmax over the captions, in which they compete. Here every pair is judged by itself.", lambda *a: loss_by(*a, softmax_instead)),
        Bug("Only the true pairs count. A model that says yes to everything would have no loss: the false pairs must be refused too.", lambda *a: loss_by(*a, lambda logits, together: -(F.logsigmoid(logits) * together).sum() / len(logits))),
        Bug("The sign is not turned for the false pairs: they are trained to agree as well.", lambda *a: loss_by(*a, lambda logits, together: -F.logsigmoid(logits).sum() / len(logits))),
        Bug("The sign is turned the wrong way: true pairs are pushed apart, all others together.", lambda *a: loss_by(*a, lambda logits, together: -F.logsigmoid(torch.where(together, -logits, logits)).sum() / len(logits))),
        Bug("You divide by the number of pairs. The few true pairs then drown: divide the sum by the number of pictures.", lambda *a: loss_by(*a, lambda logits, together: -F.logsigmoid(torch.where(together, logits, -logits)).mean())),
        Bug("You sum over all pairs, but do not divide by the number of pictures.", lambda *a: loss_by(*a, lambda logits, together: -F.logsigmoid(torch.where(together, logits, -logits)).sum())),
        Bug("The bias is missing. It lets all pairs begin at 'no', which is right for nearly all of them.", lambda pictures, captions, together, scale, bias: sigmoid_loss(pictures, captions, together, scale, 0 * bias)),
        Bug("The scale is kept as a logarithm: multiply by scale.exp(), which cannot become negative.", lambda pictures, captions, together, scale, bias: sigmoid_loss(pictures, captions, together, scale.log(), bias)),
    ),
    gradients=(0, 1, 3, 4),
    tolerance=1e-4,
)


# --- 03.probe ----------------------------------------------------------------------------------------------------


def probe(features: Tensor, classes: Tensor, number: int, strength: float) -> Tensor:
    """features (N, D), classes (N,) of `number` -> weights (D + 1, number): ridge regression on one-hot targets, the constant last."""
    with_one = torch.cat((features, torch.ones(len(features), 1)), dim=1)
    wanted = F.one_hot(classes, number).float()
    gram = with_one.T @ with_one + strength * torch.eye(with_one.shape[1])
    return torch.linalg.solve(gram, with_one.T @ wanted)


def probe_cases() -> Sequence[Case]:
    def some(N: int, D: int, number: int) -> tuple[Tensor, Tensor]:
        return drawn(N, D) + 0.5, torch.arange(N) * 7 % number

    return [Case(f"{N} pictures, {D} features, {number} classes, strength {strength}", (*some(N, D, number), number, strength)) for N, D, number, strength in ((12, 3, 2, 1.0), (40, 6, 4, 0.1))]


def probe_without_one(features: Tensor, classes: Tensor, number: int, strength: float) -> Tensor:
    gram = features.T @ features + strength * torch.eye(features.shape[1])
    return torch.linalg.solve(gram, features.T @ F.one_hot(classes, number).float())


def probe_one_first(features: Tensor, classes: Tensor, number: int, strength: float) -> Tensor:
    return probe(features, classes, number, strength).roll(1, dims=0)


def probe_numbers(features: Tensor, classes: Tensor, number: int, strength: float) -> Tensor:
    with_one = torch.cat((features, torch.ones(len(features), 1)), dim=1)
    gram = with_one.T @ with_one + strength * torch.eye(with_one.shape[1])
    return torch.linalg.solve(gram, with_one.T @ classes.float()[:, None])


PROBE = Exercise(
    id="03.probe",
    title="A linear probe",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="A matrix of one column a class; features times matrix is highest at the class that is there.",
    hints=(
        "Least squares with one target column a class: 1 where the picture is of that class, 0 elsewhere. F.one_hot makes the targets.",
        "Append a column of ones to the features for the constant. Call the result X (N, D + 1) and the targets Y (N, number).",
        "Solve (X.T @ X + strength * I) W = X.T @ Y: torch.linalg.solve(left, right).",
    ),
    reference=probe,
    package_name="ridge regression",
    cases=probe_cases,
    bugs=(
        Bug("The column of ones is missing, so every class must pass through zero: append it as the last feature.", probe_without_one),
        Bug("The constant stands in the first row. Append the ones behind the features, so that it comes last.", probe_one_first),
        Bug("The class numbers themselves are the target, as if class 4 were twice class 2. Give every class a column of its own.", probe_numbers),
        Bug("The strength is missing: without it, features that say the same twice make the solution wild.", lambda features, classes, number, strength: probe(features, classes, number, 0.0)),
        Bug("The strength is subtracted, not added.", lambda features, classes, number, strength: probe(features, classes, number, -strength)),
    ),
    tolerance=1e-4,
    picture=lambda wanted, theirs: compare_maps(wanted, theirs, xlabel="class", ylabel="feature, constant last"),
)

EXERCISES = (PATCHIFY, EMBED, ATTENTION, SIGMOID_LOSS, PROBE)
