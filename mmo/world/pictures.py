"""The pictures of the tiny world: a `Scene` becomes a 96 × 96 picture, and a plan says which scenes are drawn for whom.

    picture = draw(Scene((Thing("large", "red", "circle"),)), seed=7)   # the same seed draws the same picture
    data = webp(picture)                                                # about a kilobyte

What a caption says is true by construction and clear to the eye. The three sizes are bands of the larger side of a
thing's box with gaps between them (`BANDS`); things never touch; of two things one lies in the named direction, and
sideways by at most `SIDEWAYS` of that distance; no background comes near the colour of a thing on it (`CONTRAST`).
Everything else is left to chance: place, size within the band, slight turns, kind and colour of the background.

Two captions describe one picture of two things ("A above B", "B below A"). Pictures of the plan are captioned in one
way only, which can be told from the picture: the larger thing is named first, and of two equally large ones the
upper or left one (`canonical`). So a question has one answer, and all four relations occur.

Pictures are clean here; noise is added where they are loaded (`mmo.vision_encoder.perturb`).
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from . import text
from .text import COLOURS, RELATIONS, SHAPES, SIZES, Scene, Thing

SIDE = 96  # pixels
SUPERSAMPLING = 6
MARGIN = 3.0  # pixels between a thing and the edge
GAP = 4.0  # pixels between the boxes of two things
SIDEWAYS = 0.35
BANDS = {"small": (14.0, 17.0), "": (24.0, 28.0), "large": (38.0, 42.0)}  # larger side of the box, in pixels
COUNTED_BAND = (24.0, 26.0)  # five must fit
CONTRAST = 42.0  # distance in CIELAB between a background and the things on it

RGB = {"red": (217, 38, 42), "blue": (36, 88, 222), "green": (28, 150, 66), "yellow": (252, 212, 32), "orange": (245, 128, 24),
       "purple": (126, 52, 178), "pink": (250, 140, 192), "black": (26, 26, 30), "white": (252, 252, 252)}
BACKGROUNDS = ((244, 236, 220), (232, 226, 214), (214, 232, 240), (220, 238, 222), (240, 222, 226), (230, 224, 242), (200, 206, 212),
               (176, 168, 158), (150, 170, 182), (158, 178, 152), (190, 170, 186), (122, 118, 114), (98, 112, 122), (92, 104, 88),
               (58, 62, 74), (44, 52, 66), (52, 66, 58), (74, 58, 62), (170, 206, 214), (206, 190, 160), (188, 212, 178))
TURNS = {"square": 5, "diamond": 5, "cross": 8, "triangle": 8, "star": 12, "heart": 10, "moon": 14, "circle": 0, "ring": 0}  # degrees

SPLITS = (("test", "sentence", 400), ("test", "pair", 100), ("test", "fact", 100), ("validation", "sentence", 160))
TRAINING_PICTURES = 6_000
POOL = 100  # captions that a picture has to choose among when retrieval is measured
KINDS = ("one", "two", "two", "two", "count")  # each as often as it stands here


# ---------------------------------------------------------------------------------------------------------------------
# Outlines


def _arc(start: float, stop: float, radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0), steps: int = 72) -> np.ndarray:
    """Points (steps, 2) on a circle; angles in degrees, y points down."""
    angle = np.radians(np.linspace(start, stop, steps))
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _star() -> np.ndarray:
    angle = np.radians(-90 + 36 * np.arange(10))
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96)
    return np.stack([16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], axis=1)


def _moon() -> np.ndarray:
    """A crescent that opens to the right: the outer circle's arc, then back along a second circle."""
    shift, radius = 0.52, 0.80
    x = (1 + shift**2 - radius**2) / (2 * shift)  # where the two circles meet
    outer, inner = math.degrees(math.acos(x)), math.degrees(math.acos((x - shift) / radius))
    return np.concatenate([_arc(outer, 360 - outer), _arc(360 - inner, inner, radius, (shift, 0.0))])


@lru_cache(maxsize=None)
def outline(shape: str) -> np.ndarray:
    """The outline of a shape, points (n, 2), y downwards. A ring is a circle here; `_mask` cuts its hole."""
    arm = 0.34
    return {
        "circle": lambda: _arc(0, 360),
        "ring": lambda: _arc(0, 360),
        "square": lambda: np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float),
        "triangle": lambda: np.array([(0, -1), (1.1, 0.85), (-1.1, 0.85)], float),
        "diamond": lambda: np.array([(0, -1.2), (0.86, 0), (0, 1.2), (-0.86, 0)], float),
        "cross": lambda: np.array([(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
                                   (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)], float),
        "star": _star, "heart": _heart, "moon": _moon,
    }[shape]()


# ---------------------------------------------------------------------------------------------------------------------
# Where things lie


@dataclass(frozen=True)
class Placed:
    """A thing in a picture: the centre of its box, the larger side of that box (pixels) and its turn (degrees)."""

    thing: Thing
    x: float
    y: float
    size: float
    turn: float


def _place_relation(first: float, second: float, relation: str, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres of two boxes with sides `first` and `second`, the first lying in the direction that `relation` names."""
    free = SIDE - 2 * MARGIN - first - second - GAP
    apart = first / 2 + second / 2 + GAP + rng.uniform(0, min(free, 22.0))
    start = rng.uniform(MARGIN + first / 2, SIDE - MARGIN - second / 2 - apart)
    along = [start, start + apart]
    across = [rng.uniform(MARGIN + first / 2, SIDE - MARGIN - first / 2)]
    wanted = across[0] + rng.uniform(-SIDEWAYS, SIDEWAYS) * apart
    across.append(float(np.clip(wanted, MARGIN + second / 2, SIDE - MARGIN - second / 2)))
    if abs(across[1] - across[0]) > SIDEWAYS * apart:  # a large thing cannot follow a small one to the edge
        across[0] = across[1] + math.copysign(SIDEWAYS * apart, across[0] - across[1])
    if relation in ("below", "right of"):
        along = [SIDE - along[0], SIDE - along[1]]
    return list(zip(across, along)) if relation in ("above", "below") else list(zip(along, across))


def _place_count(count: int, size: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres of `count` boxes of side `size`, at random; starts afresh when it has walled itself in."""
    low, high = MARGIN + size / 2, SIDE - MARGIN - size / 2
    while True:
        found: list[tuple[float, float]] = []
        for x, y in rng.uniform(low, high, (40 * count, 2)):
            if all(max(abs(x - a), abs(y - b)) >= size + GAP for a, b in found):
                found.append((x, y))
            if len(found) == count:
                return found


def layout(scene: Scene, rng: np.random.Generator) -> list[Placed]:
    """Where the things of `scene` lie. Counted things are equal in size and turn, others are drawn one by one."""
    def turn(thing: Thing) -> float:
        return float(rng.uniform(-1, 1) * TURNS[thing.shape])

    first = scene.things[0]
    if scene.count > 1:
        size, angle = rng.uniform(*COUNTED_BAND), turn(first)
        return [Placed(first, x, y, size, angle) for x, y in _place_count(scene.count, size, rng)]
    sizes = [rng.uniform(*BANDS[thing.size]) for thing in scene.things]
    if scene.relation:
        centres = _place_relation(*sizes, scene.relation, rng)
    else:
        centres = [tuple(rng.uniform(MARGIN + sizes[0] / 2, SIDE - MARGIN - sizes[0] / 2, 2))]
    return [Placed(thing, x, y, size, turn(thing)) for thing, size, (x, y) in zip(scene.things, sizes, centres)]


# ---------------------------------------------------------------------------------------------------------------------
# Colour


def lab(rgb) -> np.ndarray:
    """sRGB (..., 3) in 0…255 to CIELAB (D65), where equal distances look about equally different."""
    value = np.asarray(rgb, float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    xyz = linear @ matrix.T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def _background(colours: set[str], rng: np.random.Generator) -> np.ndarray:
    """A background (SIDE, SIDE, 3), floats in 0…255: flat, shaded along a line, shaded from a point, or cloudy."""
    things = lab([RGB[colour] for colour in sorted(colours)])
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    while True:
        base = np.array(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], float) + rng.uniform(-6, 6, 3)
        kind = rng.choice(["flat", "line", "point", "cloud"])
        strength = rng.uniform(-1, 1, 3) * 8 + rng.choice([-1, 1]) * rng.uniform(10, 26)  # how far the shade departs from the base
        if kind == "flat":
            field = np.zeros((SIDE, SIDE))
        elif kind == "line":
            angle = rng.uniform(0, 2 * np.pi)
            field = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) + 0.5
        elif kind == "point":
            cx, cy = rng.uniform(0.2, 0.8, 2)
            field = np.hypot(x - cx, y - cy)
        else:
            coarse = Image.fromarray(rng.uniform(0, 1, (5, 5)).astype(np.float32), mode="F")
            field = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            strength = strength * 0.8
        ends = base + np.array([[field.min()], [field.mean()], [field.max()]]) * strength
        if np.linalg.norm(lab(ends.clip(0, 255))[:, None] - things, axis=-1).min() >= CONTRAST:
            return base + field[..., None] * strength


# ---------------------------------------------------------------------------------------------------------------------
# Painting


def _mask(placed: Placed) -> tuple[Image.Image, tuple[int, int]]:
    """Coverage (0…255) of a thing and where its upper left corner goes; drawn enlarged, then averaged down."""
    angle = math.radians(placed.turn)
    points = outline(placed.thing.shape) @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / (high - low).max() * placed.size
    corner = np.floor([placed.x - placed.size / 2, placed.y - placed.size / 2]).astype(int) - 1
    side = math.ceil(placed.size) + 4
    points = (points + (placed.x, placed.y) - corner) * SUPERSAMPLING - 0.5
    mask = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    pen = ImageDraw.Draw(mask)
    pen.polygon([tuple(point) for point in points], fill=255)
    if placed.thing.shape == "ring":
        centre, radius = points.mean(0), 0.56 * placed.size / 2 * SUPERSAMPLING
        pen.ellipse([*(centre - radius), *(centre + radius)], fill=0)
    return mask.reduce(SUPERSAMPLING), (int(corner[0]), int(corner[1]))


def masks(placed: list[Placed]) -> list[np.ndarray]:
    """Coverage of each thing over the whole picture, (SIDE, SIDE) floats in 0…1."""
    found = []
    for thing in placed:
        canvas = Image.new("L", (SIDE, SIDE))
        canvas.paste(*_mask(thing))
        found.append(np.asarray(canvas, np.float32) / 255)
    return found


def draw(scene: Scene, seed: int) -> Image.Image:
    """The picture of `scene`, RGB, SIDE × SIDE. The same scene and seed give the same pixels."""
    rng = np.random.default_rng(seed)
    placed = layout(scene, rng)
    return paint(placed, _background({thing.colour for thing in scene.things}, rng), rng)


def paint(placed: list[Placed], background: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Things with a soft shadow and a little light from above, on `background` (SIDE, SIDE, 3)."""
    canvas = background.astype(np.float32)
    covers = masks(placed)
    shadow = Image.fromarray((np.max(covers, axis=0) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.6))
    canvas = canvas * (1 - 0.20 * np.roll(np.asarray(shadow, np.float32) / 255, (1, 1), (0, 1))[..., None])
    rows = np.arange(SIDE, dtype=np.float32)[:, None, None]
    shade = {thing.thing.colour: np.array(RGB[thing.thing.colour], np.float32) + rng.uniform(-6, 6, 3).astype(np.float32) for thing in placed}
    for thing, cover in zip(placed, covers):
        light = 9.0 * ((thing.y - rows) / thing.size).clip(-1, 1)  # brighter at the top
        canvas = canvas + (shade[thing.thing.colour] + light - canvas) * cover[..., None]
    return Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8))


def webp(picture: Image.Image) -> bytes:
    """The picture as a small WebP file, lossy at a quality where nothing is lost to the eye."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85, method=6, use_sharp_yuv=True)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Which scenes


def mirrored(scene: Scene) -> Scene:
    """The same picture told from the other thing: "A above B" becomes "B below A"; other scenes stay."""
    return Scene(scene.things[::-1], RELATIONS[scene.relation]) if scene.relation else scene


def canonical(scene: Scene) -> Scene:
    """Of the two ways to tell a picture of two things the one that names the larger first, then the upper or left one."""
    if not scene.relation:
        return scene
    first, second = (SIZES.index(thing.size) for thing in scene.things)
    return scene if first > second or (first == second and scene.relation in ("above", "left of")) else mirrored(scene)


@lru_cache(maxsize=100_000)
def _caption_tier(caption: str) -> str:
    return text.tier("caption", caption)


def scene_tier(scene: Scene) -> str:
    """The strictest tier among the captions that are true of the picture: what is withheld is not drawn by another name.

    But for counted things: ("green", "star") withholds "a green star" and not "two green stars" (`drawn_pairs` in card.py counts them).
    """
    tiers = {_caption_tier(scene.caption), _caption_tier(mirrored(scene).caption)}
    return next(tier for tier in ("fact", "pair", "sentence", "train") if tier in tiers)


def belongs(scene: Scene, tier: str) -> bool:
    """Whether a canonical scene may stand in the plan under `tier`: by its own caption, and by no other that is stricter."""
    return _caption_tier(scene.caption) == tier == scene_tier(scene) and scene == canonical(scene)


class _Deck:
    """Hands out its cards in random order, all of them before any comes again: draws that are evenly spread."""

    def __init__(self, cards, rng: random.Random):
        self.cards, self.rng, self.hand = list(cards), rng, []

    def draw(self, accept: Callable = lambda card: True):
        """The next card that is accepted; those passed over stay on top for the next draw."""
        while True:
            for place in range(len(self.hand) - 1, -1, -1):
                if accept(self.hand[place]):
                    return self.hand.pop(place)
            self.hand = self.rng.sample(self.cards, len(self.cards)) + self.hand


def scenes(rng: random.Random, kinds: tuple[str, ...] = KINDS) -> Iterator[Scene]:
    """Canonical scenes without end, every tier, kinds, attributes and relations evenly spread within each kind."""
    kind_deck, relation_deck, count_deck = _Deck(kinds, rng), _Deck(RELATIONS, rng), _Deck(range(2, 6), rng)
    sizes = {"one": _Deck(SIZES, rng)}
    equal = [(size, size) for size in SIZES]
    unequal = [(a, b) for a in SIZES for b in SIZES if SIZES.index(a) > SIZES.index(b)]
    sizes["two above"] = _Deck(equal * 2 + unequal, rng)  # the larger is named first: below and right of need a larger one
    sizes["two below"] = _Deck(unequal, rng)
    colours, shapes = {kind: _Deck(COLOURS, rng) for kind in KINDS}, {kind: _Deck(SHAPES, rng) for kind in KINDS}
    while True:
        kind = kind_deck.draw()
        colour, shape = colours[kind].draw(), shapes[kind].draw()
        if kind == "one":
            yield Scene((Thing(sizes["one"].draw(), colour, shape),))
        elif kind == "count":
            yield Scene((Thing("", colour, shape),), count=count_deck.draw())
        else:
            relation = relation_deck.draw()
            first, second = sizes["two above" if relation in ("above", "left of") else "two below"].draw()
            other = Thing(second, colours[kind].draw(lambda card: card != colour), shapes[kind].draw(lambda card: card != shape))
            yield Scene((Thing(first, colour, shape), other), relation)


def scenes_of(tier: str, rng: random.Random, kinds: tuple[str, ...] = KINDS) -> Iterator[Scene]:
    """The scenes of `scenes` that belong to `tier`."""
    return (scene for scene in scenes(rng, kinds) if belongs(scene, tier))


def attribute_swaps(scene: Scene) -> list[Scene]:
    """All canonical scenes that differ in one attribute of one thing (or in the count); things keep apart in colour and shape."""
    found = []
    for place, thing in enumerate(scene.things):
        changed = [replace(thing, colour=c) for c in COLOURS] + [replace(thing, shape=s) for s in SHAPES]
        changed += [] if scene.count > 1 else [replace(thing, size=s) for s in SIZES]
        others = scene.things[:place] + scene.things[place + 1:]
        for other in changed:
            if other != thing and all(other.colour != o.colour and other.shape != o.shape for o in others):
                things = scene.things[:place] + (other,) + scene.things[place + 1:]
                found.append(canonical(replace(scene, things=things)))
    if scene.count > 1:
        found += [replace(scene, count=count) for count in range(2, 6) if count != scene.count]
    return found


def relation_swaps(scene: Scene) -> list[Scene]:
    """The scene with its relation turned round (above and below, left and right); none where there is no relation."""
    return [canonical(replace(scene, relation=RELATIONS[scene.relation]))] if scene.relation else []


def swap_pool(tier: str, rng: random.Random, size: int = POOL, taken: frozenset[str] | set[str] = frozenset()) -> list[Scene]:
    """`size` scenes of `tier` with different captions in families: a scene, a one-attribute swap of it, its relation swap.

    Every caption of such a pool is held out, and has one of its nearest rivals beside it. `taken`: captions to avoid.
    """
    seen, pool = set(taken), []
    for scene in scenes_of(tier, rng):
        family = [scene]
        for swaps in (attribute_swaps(scene), relation_swaps(scene)):
            fitting = [s for s in swaps if belongs(s, tier) and s.caption not in seen and s not in family]
            family += [rng.choice(fitting)] if fitting else []
        relation_there = not scene.relation or any(s in family for s in relation_swaps(scene))
        if scene.caption in seen or len(family) == 1 or not relation_there:
            continue
        family = family[: size - len(pool)]
        seen.update(s.caption for s in family)
        pool += family
        if len(pool) == size:
            return pool
    raise AssertionError("unreachable: scenes() does not end")


@dataclass(frozen=True)
class Picture:
    """One picture of the plan. `drawing` is the seed of `draw`; the first POOL of each test tier form a `swap_pool`."""

    id: int
    split: str  # train, validation or test
    tier: str
    scene: Scene
    drawing: int

    def draw(self) -> Image.Image:
        return draw(self.scene, self.drawing)


def picture_plan(seed: int = 0, training: int = TRAINING_PICTURES) -> list[Picture]:
    """The pictures of the data set: test and validation scenes with different captions each, then `training` scenes.

    Training captions may come more than once (there are few pictures of one thing), drawn differently each time.
    """
    rng = random.Random(f"pictures {seed}")
    plan: list[Picture] = []
    taken: set[str] = set()

    def add(split: str, tier: str, scene: Scene) -> None:
        taken.add(scene.caption)
        plan.append(Picture(len(plan), split, tier, scene, rng.getrandbits(32)))

    for split, tier, count in SPLITS:
        if split == "test":
            for scene in swap_pool(tier, rng, POOL, taken):
                add(split, tier, scene)
        fresh = scenes_of(tier, rng, ("one", "two", "two", "two", "two", "two", "two", "two", "two", "count"))  # few captions but of two
        while sum(p.split == split and p.tier == tier for p in plan) < count:
            scene = next(fresh)
            if scene.caption not in taken:
                add(split, tier, scene)
    fresh = scenes_of("train", rng)
    for _ in range(training):
        add("train", "train", next(fresh))
    return plan
