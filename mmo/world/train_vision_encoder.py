"""Trains the tiny vision encoder: a small SigLIP on pictures and captions of the tiny world.

    python -m mmo.world.train_vision_encoder            # about forty CPU-minutes on one thread; run it again to resume

Two towers learn to agree (Zhai et al. 2023, SigLIP): for every picture and every caption in a batch, a sigmoid says
whether they belong together. Random captions are soon told apart by colour alone, so each picture brings its own
*hard negatives*: captions with one attribute changed, and with above/below or left/right turned round. The Thinker reads
*patch* features, not the pooled vector. So, as in SigLIP 2 (Tschannen et al. 2025), where a decoder writes captions of the
picture and of its regions, two heads that are thrown away afterwards look at the patches: one reads the caption's words from
all of them; the other says of every single patch what thing it is a part of, and later how that stands to the others.
Without the latter, shapes and relations are hardly learnt in the time we have.

Pictures come from scenes of tier `train` alone, drawn anew for this purpose; a step's draws depend on (seed, step) alone, so
that an interrupted run goes on as if nothing had happened. Writes the folder `data/tiny/vision_encoder` (which
`mmo.vision_encoder.VisionEncoder` loads; the text tower lies in its `text/`), and the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipTextConfig, SiglipTextModel, SiglipVisionModel

from ..config import IGNORE
from ..vision_encoder import VisionEncoder, open_picture, perturb
from . import pictures, text
from .pictures import Picture, Scene

NEGATIVES = 5  # captions kept for a picture beside its own: four with one attribute changed, one with the relation turned
TIERS = ("sentence", "pair", "fact")  # of test pictures
PART = 0.08  # of a patch at least is covered by the thing it is a part of
LONGEST = 10  # words: "a large red circle left of a large blue square"


@dataclass(frozen=True)
class Settings:
    """Sizes of the two towers and of the training. `width` is D_image; P = (side / patch)²."""

    side: int = 96
    patch: int = 12  # 64 patches, as the real one has; with 25 of 16 pixels shapes were read to 41 % only
    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    text_width: int = 64
    text_layers: int = 2
    drawn: int = 20_000  # pictures drawn for training
    batch: int = 64
    steps: int = 6_000
    restart: int = 2_500  # the step at which the learning rate, come down once, starts anew (SGDR, Loshchilov and Hutter 2017)
    warmup: int = 150
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    reader_weight: float = 0.5
    parts_weight: float = 1.0
    seed: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# Captions as numbers


def caption_words() -> list[str]:
    """All words of captions; number 0 is padding."""
    plurals = [s + ("es" if s == "cross" else "s") for s in text.SHAPES]
    relations = [word for relation in text.RELATIONS for word in relation.split()]
    known = ["a", "an", *filter(None, text.SIZES), *text.COLOURS, *text.SHAPES, *plurals, *relations, *text.NUMBERS[2:6]]
    return ["", *dict.fromkeys(known)]


WORD_NUMBER = {word: number for number, word in enumerate(caption_words())}


def word_numbers(caption: str) -> list[int]:
    """A caption as LONGEST word numbers, padded on the right. ValueError names a word that no caption has."""
    found = text.words(caption)
    unknown = [word for word in found if word not in WORD_NUMBER]
    if unknown or len(found) > LONGEST:
        raise ValueError(f"caption {caption!r}: " + (f"unknown words {unknown}" if unknown else f"more than {LONGEST} words"))
    return [WORD_NUMBER[word] for word in found] + [0] * (LONGEST - len(found))


LOOKS = (len(text.SIZES), len(text.COLOURS), len(text.SHAPES))  # of a thing: size, colour, shape
STANDINGS = (len(text.RELATIONS) + 1, 2, 5)  # of a thing: its relation to the other (0: alone), named first or second, how many there are
SLOTS = {"size": len(text.SIZES), "colour": len(text.COLOURS), "shape": len(text.SHAPES), "relation": len(text.RELATIONS) + 1,
         "second size": len(text.SIZES) + 1, "second colour": len(text.COLOURS) + 1, "second shape": len(text.SHAPES) + 1, "count": 5}


def slots(scene: Scene) -> list[int]:
    """The caption's content as one class per slot of SLOTS; the last class means "none", and for `relation` the first."""
    first, second = scene.things[0], scene.things[1] if scene.relation else None
    return [text.SIZES.index(first.size), text.COLOURS.index(first.colour), text.SHAPES.index(first.shape),
            1 + list(text.RELATIONS).index(scene.relation) if scene.relation else 0,
            text.SIZES.index(second.size) if second else len(text.SIZES),
            text.COLOURS.index(second.colour) if second else len(text.COLOURS),
            text.SHAPES.index(second.shape) if second else len(text.SHAPES), scene.count - 1]


def hard_negatives(scene: Scene, rng: random.Random) -> list[Scene]:
    """NEGATIVES scenes one step away: changed attributes, then the turned relation if there is one. All of tier `train`:

    a caption of another tier is never right in training, and a tower that met it as a negative would learn just that.
    """
    near = pictures.attribute_swaps(scene)
    rng.shuffle(near)
    near = list(islice((s for s in near if pictures.scene_tier(s) == "train"), NEGATIVES))
    turned = [s for s in pictures.relation_swaps(scene) if pictures.scene_tier(s) == "train"]
    return near[: NEGATIVES - len(turned)] + turned


# ---------------------------------------------------------------------------------------------------------------------
# Pictures to learn from


@dataclass(frozen=True)
class Lessons:
    """N pictures with their captions, drawn once. The second axis of `words` is: own caption, then NEGATIVES; the third:

    as told in the data set, and told from the other thing. `meaning` numbers what captions say: equal means equally true.
    """

    pixels: np.ndarray  # (N, side, side, 3) uint8
    words: np.ndarray  # (N, 1 + NEGATIVES, 2, LONGEST) int16
    meaning: np.ndarray  # (N, 1 + NEGATIVES) int64
    slots: np.ndarray  # (N, len(SLOTS)) int64
    parts: np.ndarray  # (N, P, 6) int64, of `parts`


def parts(scene: Scene, placed: Sequence[pictures.Placed], grid: int) -> np.ndarray:
    """Of which thing each patch is a part: (grid², 6) classes of LOOKS and STANDINGS, IGNORE where little of any is seen."""
    seen = np.stack([np.asarray(Image.fromarray(mask).resize((grid, grid), Image.Resampling.BOX)).ravel() for mask in pictures.masks(list(placed))])
    relations = (scene.relation, text.RELATIONS[scene.relation]) if scene.relation else ("",) * len(placed)
    classes = np.array([(text.SIZES.index(p.thing.size), text.COLOURS.index(p.thing.colour), text.SHAPES.index(p.thing.shape),
                         1 + list(text.RELATIONS).index(relation) if relation else 0, int(p.thing != scene.things[0]), scene.count - 1)
                        for p, relation in zip(placed, relations)])
    return np.where(seen.max(0)[:, None] >= PART, classes[seen.argmax(0)], IGNORE)


def draw_lessons(settings: Settings, folder: Path, shard: int = 2_000, kinds: tuple[str, ...] = pictures.KINDS) -> Lessons:
    """Draws `settings.drawn` pictures of tier `train`, in shards kept in `folder`, so that nothing is drawn twice.

    kinds: of scenes, each as often as it stands there; a folder holds the pictures of one choice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"vision encoder {settings.seed}")
    source = pictures.scenes_of("train", rng, kinds)
    numbers: dict[str, int] = {}
    shards, words, meaning, contents, places = [], [], [], [], []
    grid = settings.side // settings.patch
    for start in tqdm(range(0, settings.drawn, shard), desc="drawing", unit="shard", disable=None):
        scenes = list(islice(source, min(shard, settings.drawn - start)))
        for scene in scenes:
            family = [scene, *hard_negatives(scene, rng)]
            words.append([[word_numbers(s.caption), word_numbers(pictures.mirrored(s).caption)] for s in family])
            meaning.append([numbers.setdefault(s.caption, len(numbers)) for s in family])
            contents.append(slots(scene))
        seeds = range(1_000_003 * (settings.seed + 1) + start, 1_000_003 * (settings.seed + 1) + start + len(scenes))
        places += [parts(scene, pictures.layout(scene, np.random.default_rng(seed)), grid) for scene, seed in zip(scenes, seeds)]
        file = folder / f"pictures-{settings.side}-{settings.seed}-{len(scenes)}-{start:06d}.npy"
        if not file.exists():
            drawn = np.stack([fitted(pictures.draw(scene, seed), settings.side) for scene, seed in zip(scenes, seeds)])
            np.save(file.with_suffix(".part.npy"), drawn)
            os.replace(file.with_suffix(".part.npy"), file)
        shards.append(np.load(file))
    return Lessons(np.concatenate(shards), np.array(words, np.int16), np.array(meaning), np.array(contents), np.stack(places))


def fitted(picture: Image.Image, side: int) -> np.ndarray:
    """The picture scaled to (side, side, 3) uint8, as the folder's image processor scales it."""
    return np.array(picture.resize((side, side), Image.Resampling.BICUBIC))


def normalised(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in −1…1, as the folder's image processor does it."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


# ---------------------------------------------------------------------------------------------------------------------
# The two towers, and the decoder of words


class Reader(nn.Module):
    """Reads a caption's slots from patch features (B, P, D): one learnt query per slot, one attention, one linear layer each.

    All slots at once (parallel prediction, as in CapPa, Tschannen et al. 2023). Also the probe: what it can read, a projector can.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(SLOTS), width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in SLOTS.values())

    def forward(self, patches: Tensor) -> list[Tensor]:
        read, _ = self.attention(self.queries.expand(len(patches), -1, -1), patches, patches, need_weights=False)
        return [head(read[:, k]) for k, head in enumerate(self.heads)]

    def loss(self, patches: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy summed over slots, mean over pictures; `wanted` (B, slots)."""
        return sum(F.cross_entropy(logits, wanted[:, k]) for k, logits in enumerate(self(patches)))

    @torch.no_grad()
    def right(self, patches: Tensor, wanted: Tensor) -> Tensor:
        """Which slots are read rightly, (B, slots) bool."""
        return torch.stack([logits.argmax(-1) for logits in self(patches)], dim=1) == wanted


class Parts(nn.Linear):
    """Says of every patch by itself, from its features (B, P, D), three things about the thing it is a part of."""

    def __init__(self, width: int, classes: Sequence[int]):
        super().__init__(width, sum(classes))
        self.classes = tuple(classes)

    def loss(self, patches: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy summed over the three, mean over the patches with a thing; `wanted` (B, P, 3)."""
        logits = self(patches).flatten(0, 1).split(self.classes, dim=-1)
        return sum(F.cross_entropy(three, wanted[..., k].flatten(), ignore_index=IGNORE) for k, three in enumerate(logits))


def build(settings: Settings) -> tuple[SiglipModel, Reader, Parts, Parts]:
    """Untrained towers and heads (the reader, what a part looks like, how its thing stands to the others). Scale and bias of the similarity start where SigLIP starts them."""
    torch.manual_seed(settings.seed)
    vision = dict(hidden_size=settings.width, intermediate_size=settings.inner, num_hidden_layers=settings.layers,
                  num_attention_heads=settings.heads, image_size=settings.side, patch_size=settings.patch, hidden_act="gelu_pytorch_tanh")
    words = dict(hidden_size=settings.text_width, intermediate_size=4 * settings.text_width, num_hidden_layers=settings.text_layers,
                 num_attention_heads=4, vocab_size=len(WORD_NUMBER), max_position_embeddings=LONGEST, projection_size=settings.width,
                 pad_token_id=0, bos_token_id=0, eos_token_id=0)
    model = SiglipModel(SiglipConfig(text_config=words, vision_config=vision))
    nn.init.constant_(model.logit_scale, math.log(10.0))
    nn.init.constant_(model.logit_bias, -10.0)
    return model, Reader(settings.width, settings.heads), Parts(settings.width, LOOKS), Parts(settings.width, STANDINGS)


@torch.no_grad()
def whiten_patches(model: SiglipModel, pixels: np.ndarray, floor: float = 0.01) -> None:
    """Starts the patch embedding with the patches' principal components, each scaled to unit variance.

    Drawn at random, its outputs tell of little but a patch's mean colour, which has nearly all the variance; outlines, by which
    shapes are known, drown (whitening a first layer: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds"). `floor` is added to
    the variances: a component that is hardly there is not blown up. `pixels` (N, side, side, 3).
    """
    embedding = model.vision_model.embeddings.patch_embedding
    size, width = embedding.kernel_size[0], embedding.out_channels
    patches = F.unfold(normalised(pixels), size, stride=size).transpose(1, 2).flatten(0, 1)  # (N P, 3 size²)
    mean = patches.mean(0)
    variances, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    keep = (components / (variances + floor).sqrt()).T.flip(0)[:width]  # eigh's order is ascending
    embedding.weight[: len(keep)].copy_(keep.view(len(keep), 3, size, size))
    embedding.bias[: len(keep)].copy_(-keep @ mean)


def sigmoid_loss(pictures_: Tensor, captions: Tensor, together: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's loss: −Σ log σ(±(scale · x·y + bias)) over all pairs, per picture.

    `pictures_` (B, D) and `captions` (N, D) of length one; `together` (B, N) bool says which pairs are true.
    """
    logits = pictures_ @ captions.T * scale.exp() + bias
    return -F.logsigmoid(torch.where(together, logits, -logits)).sum() / len(pictures_)


@dataclass(frozen=True)
class Batch:
    pixels: Tensor  # (B, 3, side, side)
    words: Tensor  # (3 B, LONGEST): own captions, one-attribute changes, turned relations (or another change)
    together: Tensor  # (B, 3 B) bool
    slots: Tensor  # (B, slots)
    parts: Tensor  # (B, P, 6)


def batch_rows(count: int, settings: Settings, step: int) -> np.ndarray:
    """Which of `count` lessons the batch of `step` holds, (B,): epochs without repeats."""
    per_epoch = count // settings.batch
    order = np.random.default_rng((settings.seed, 1_000_000 + step // per_epoch)).permutation(count)
    return order[(step % per_epoch) * settings.batch:][: settings.batch]


def draw_batch(lessons: Lessons, settings: Settings, step: int) -> Batch:
    """The batch of `step`: epochs without repeats, augmented pictures, captions told from either thing."""
    rows, rng = batch_rows(len(lessons.pixels), settings, step), np.random.default_rng((settings.seed, step))
    kept = np.stack([np.zeros(len(rows), int), rng.integers(1, NEGATIVES, len(rows)), np.full(len(rows), NEGATIVES)])  # (3, B)
    told = rng.integers(0, 2, kept.shape)
    meaning = lessons.meaning[rows, kept]
    return Batch(normalised(perturb(lessons.pixels[rows], rng)),
                 torch.from_numpy(lessons.words[rows, kept, told].reshape(-1, LONGEST)).long(),
                 torch.from_numpy(meaning[0][:, None] == meaning.reshape(1, -1)), torch.from_numpy(lessons.slots[rows]),
                 torch.from_numpy(lessons.parts[rows]))


def losses(model: SiglipModel, reader: Reader, looks: Parts, standings: Parts, batch: Batch) -> Tensor:
    """The sigmoid loss, the reader's, the looks' and the standings' of one batch, (4,)."""
    seen = model.vision_model(pixel_values=batch.pixels)
    said = model.text_model(input_ids=batch.words).pooler_output
    agreement = sigmoid_loss(F.normalize(seen.pooler_output, dim=-1), F.normalize(said, dim=-1), batch.together, model.logit_scale, model.logit_bias)
    patches = seen.last_hidden_state
    return torch.stack([agreement, reader.loss(patches, batch.slots), looks.loss(patches, batch.parts[..., :3]),
                        standings.loss(patches, batch.parts[..., 3:])])


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def as_shipped(items: Sequence[Picture | tuple[Scene, int]], side: int) -> np.ndarray:
    """Pixels (N, side, side, 3) of pictures, of the plan or as (scene, seed), after their way through the WebP file."""
    drawn = (item.draw() if isinstance(item, Picture) else pictures.draw(*item) for item in items)
    return np.stack([fitted(open_picture(pictures.webp(picture)), side) for picture in drawn])


@torch.no_grad()
def see(model: SiglipModel, pixels: np.ndarray, batch: int = 100) -> tuple[Tensor, Tensor]:
    """Patch features (N, P, D) and pooled vectors of length one (N, D)."""
    found = [model.vision_model(pixel_values=normalised(pixels[i:i + batch])) for i in range(0, len(pixels), batch)]
    return torch.cat([f.last_hidden_state for f in found]), F.normalize(torch.cat([f.pooler_output for f in found]), dim=-1)


@torch.no_grad()
def say(model: SiglipModel, captions: Sequence[str]) -> Tensor:
    """Caption vectors of length one, (N, D)."""
    return F.normalize(model.text_model(input_ids=torch.tensor([word_numbers(c) for c in captions])).pooler_output, dim=-1)


def recall(pooled: Tensor, captions: Tensor) -> dict[str, float]:
    """recall@1 among N captions that belong to N pictures, row by row: the caption of a picture, the picture of a caption,
    and (the control) the caption of the next picture."""
    likeness, wanted = pooled @ captions.T, torch.arange(len(pooled))
    best = likeness.argmax(1)
    return {"caption_of_picture": (best == wanted).float().mean().item(),
            "picture_of_caption": (likeness.argmax(0) == wanted).float().mean().item(),
            "control_wrong_picture": (best.roll(1) == wanted).float().mean().item()}


def retrieval(model: SiglipModel, plan: Sequence[Picture], tier: str, settings: Settings, more: int = 5) -> dict:
    """Retrieval on one test tier: the plan's own pool, `more` pools freshly drawn, and all the plan's pictures of the tier."""
    shipped = [p for p in plan if p.split == "test" and p.tier == tier]

    def measure(items: list) -> dict[str, float]:
        captions = [(i.scene if isinstance(i, Picture) else i[0]).caption for i in items]
        return recall(see(model, as_shipped(items, settings.side))[1], say(model, captions))

    rng = random.Random(f"pools {tier} {settings.seed}")
    pools = [measure([(s, rng.getrandbits(32)) for s in pictures.swap_pool(tier, rng)]) for _ in range(more)]
    return {"pool_size": pictures.POOL, "shipped_pool": measure(shipped[: pictures.POOL]),
            "fresh_pools": {key: [pool[key] for pool in pools] for key in (pools[0] if pools else ())},
            "all_shipped": {"among": len(shipped), **measure(shipped)}}


def probe(model: SiglipModel, plan: Sequence[Picture], settings: Settings, steps: int = 600) -> dict:
    """What can be read from the frozen patch features by a Reader trained afresh on the data set's training pictures."""
    torch.manual_seed(settings.seed)
    reader = Reader(settings.width, settings.heads)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    training = [p for p in plan if p.split == "train"]
    patches = see(model, as_shipped(training, settings.side))[0]
    wanted = torch.tensor([slots(p.scene) for p in training])
    for _ in range(steps):
        rows = torch.randint(len(training), (256,))
        optimiser.zero_grad()
        reader.loss(patches[rows], wanted[rows]).backward()
        optimiser.step()
        schedule.step()
    found = {}
    for tier in TIERS:
        items = [p for p in plan if p.split == "test" and p.tier == tier]
        found[tier] = read_slots(reader, see(model, as_shipped(items, settings.side))[0], items)
    return found


def read_slots(reader: Reader, patches: Tensor, items: Sequence[Picture]) -> dict[str, float]:
    """Accuracy of each slot, and of the whole caption, from patch features (N, P, D) of N pictures."""
    right = reader.right(patches, torch.tensor([slots(p.scene) for p in items])).float()
    return {**{name: right[:, k].mean().item() for k, name in enumerate(SLOTS)}, "whole caption": right.prod(1).mean().item()}


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def learning_rate(settings: Settings, step: int) -> float:
    """Warm-up, then a cosine to a hundredth at `restart`, then from the top a second one to the last step."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    begin, end = (settings.restart, settings.steps) if step >= settings.restart else (settings.warmup, min(settings.restart, settings.steps))
    done = (step - begin) / max(1, end - begin)
    return settings.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def save_state(file: Path, **state) -> None:
    torch.save(state, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)


class Trainer:
    """Both towers, the heads that are thrown away afterwards, the optimiser.  One call of `update` is one step.

    whitened False leaves the patch embedding as it was drawn.
    """

    COLUMNS = ("sigmoid_loss", "reader_loss", "looks_loss", "standings_loss")  # what `update` gives

    def __init__(self, settings: Settings, lessons: Lessons, whitened: bool = True):
        self.settings, self.lessons = settings, lessons
        self.model, self.reader, self.looks, self.standings = build(settings)
        if whitened:
            whiten_patches(self.model, lessons.pixels[:2_000])
        self.learners = nn.ModuleDict({"model": self.model, "reader": self.reader, "part": self.looks, "standing": self.standings})
        parameters = list(self.learners.named_parameters())
        self.parameters = [p for _, p in parameters]
        flat = [p for name, p in parameters if p.ndim < 2 or "embedding" in name or "queries" in name]
        deep = [p for name, p in parameters if not any(p is q for q in flat)]
        self.optimiser = torch.optim.AdamW([{"params": deep}, {"params": flat, "weight_decay": 0.0}], betas=(0.9, 0.98),
                                           weight_decay=settings.weight_decay)
        self.step = 0

    def update(self, batch: Batch | None = None) -> Tensor:
        """One step on `batch` (default: the batch of this step); returns its losses, (4,) as COLUMNS names them."""
        settings, step = self.settings, self.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(settings, step)
        self.optimiser.zero_grad()
        found = losses(self.model, self.reader, self.looks, self.standings, batch or draw_batch(self.lessons, settings, step))
        total = found[0] + settings.reader_weight * found[1] + settings.parts_weight * found[2]
        if step >= settings.restart:  # first what things are, then how they stand to one another
            total = total + settings.parts_weight * found[3]
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        return found.detach()

    def measure(self, shown: np.ndarray, items: Sequence[Picture]) -> dict[str, float]:
        """Recall among `items` and the share of their captions that is read in whole, from their pixels `shown`."""
        self.model.eval()
        patches, pooled = see(self.model, shown)
        found = {"recall": recall(pooled, say(self.model, [p.scene.caption for p in items]))["caption_of_picture"],
                 "captions_read": read_slots(self.reader, patches, items)["whole caption"]}
        self.model.train()
        return found


def train(settings: Settings, lessons: Lessons, state_file: Path, validation: Sequence[Picture] = (), every: int = 150
          ) -> tuple[SiglipModel, Reader, list[dict]]:
    """Trains, or goes on from `state_file`. The curve has a row every `every` steps: losses (means since the last row),
    validation recall, whole captions read, CPU seconds so far. FloatingPointError if the loss is not finite."""
    trainer = Trainer(settings, lessons)
    curve, spent = [], 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state["settings"] != asdict(settings):
            raise ValueError(f"{state_file} belongs to other settings: {state['settings']}. Remove it, or give these settings back.")
        trainer.learners.load_state_dict(state["learners"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.step, curve, spent = state["step"], state["curve"], state["seconds"]
    shown = as_shipped(validation, settings.side) if validation else None
    clock, sums, counted = time.process_time(), torch.zeros(4), 0
    bar = tqdm(range(trainer.step, settings.steps), initial=trainer.step, total=settings.steps, desc="vision encoder", disable=None)
    for step in bar:
        sums, counted = sums + trainer.update(), counted + 1
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            if not torch.isfinite(sums).all():
                raise FloatingPointError(f"the loss is not finite before step {step + 1}: {(sums / counted).tolist()}; lower learning_rate")
            row = {"step": step + 1, "seconds": round(spent + time.process_time() - clock, 1)}
            row |= dict(zip(Trainer.COLUMNS, (sums / counted).tolist()))
            if validation:
                row |= {f"validation_{name}": value for name, value in trainer.measure(shown, validation).items()}
            curve.append(row)
            tqdm.write(json.dumps({key: round(value, 4) for key, value in row.items()}))
            save_state(state_file, settings=asdict(settings), learners=trainer.learners.state_dict(),
                       optimiser=trainer.optimiser.state_dict(), step=step + 1, curve=curve, seconds=row["seconds"])
            sums, counted = torch.zeros(4), 0
    return trainer.model.eval(), trainer.reader.eval(), curve


# ---------------------------------------------------------------------------------------------------------------------
# What is shipped


def export(model: SiglipModel, folder: Path) -> None:
    """Writes the vision half in the layout `transformers` loads (fp16), and the text tower with its words into `text/`."""
    vision = SiglipVisionModel(model.config.vision_config)
    vision.vision_model.load_state_dict(model.vision_model.state_dict())
    vision.half().save_pretrained(folder)
    side = model.config.vision_config.image_size
    SiglipImageProcessor(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    tower = SiglipTextModel(model.config.text_config)
    tower.text_model.load_state_dict(model.text_model.state_dict())
    tower.half().save_pretrained(folder / "text")
    (folder / "text" / "words.json").write_text(json.dumps(
        {"words": caption_words(), "logit_scale": model.logit_scale.item(), "logit_bias": model.logit_bias.item()}) + "\n")


def load_pair(folder: str | Path) -> SiglipModel:
    """Both towers of a shipped folder as one SiglipModel in fp32: what retrieval needs. ValueError if its words are not ours."""
    folder = Path(folder)
    vision = VisionEncoder.load(folder).model
    tower = SiglipTextModel.from_pretrained(folder / "text", dtype=torch.float32, local_files_only=True)
    said = json.loads((folder / "text" / "words.json").read_text())
    if said["words"] != caption_words():
        raise ValueError(f"{folder / 'text/words.json'}: other words than mmo.world.text has now; train the encoder again")
    model = SiglipModel(SiglipConfig(text_config=tower.config.to_dict(), vision_config=vision.config.to_dict()))
    model.vision_model.load_state_dict(vision.vision_model.state_dict())
    model.text_model.load_state_dict(tower.text_model.state_dict())
    nn.init.constant_(model.logit_scale, said["logit_scale"])
    nn.init.constant_(model.logit_bias, said["logit_bias"])
    return model.eval()


def report(folder: Path, settings: Settings, curve: list[dict]) -> dict:
    """All figures, measured on the shipped fp16 files."""
    plan, model = pictures.picture_plan(), load_pair(folder)
    return {"settings": asdict(settings), "patches": (settings.side // settings.patch) ** 2,
            "parameters": {"vision": sum(p.numel() for p in model.vision_model.parameters()),
                           "text (training and retrieval only)": sum(p.numel() for p in model.text_model.parameters())},
            "bytes": {f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()},
            "cpu_seconds": curve[-1]["seconds"], "retrieval": {tier: retrieval(model, plan, tier, settings) for tier in TIERS},
            "probe_on_frozen_patches": probe(model, plan, settings), "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/tiny/vision_encoder"))
    parser.add_argument("--figures", type=Path, default=Path("data/tiny/figures/vision_encoder.json"))
    parser.add_argument("--work", type=Path, default=Path("build/world/vision_encoder"), help="drawn pictures and the state to resume from")
    for name, value in asdict(Settings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    chosen = vars(parser.parse_args())
    out, figures, work = (chosen.pop(name) for name in ("out", "figures", "work"))
    settings = Settings(**chosen)
    lessons = draw_lessons(settings, work)
    validation = [p for p in pictures.picture_plan(training=0) if p.split == "validation"]
    model, _, curve = train(settings, lessons, work / "state.pt", validation)
    export(model, out)
    found = report(out, settings, curve)
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in ("parameters", "bytes", "cpu_seconds", "retrieval", "probe_on_frozen_patches")}, indent=1))


if __name__ == "__main__":
    main()
