"""The pictures of the tiny world show what their captions say: measured on pixels, not on what the painter intended."""

import io
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mmo.world import pictures, text
from mmo.world.pictures import Scene, Thing
from mmo.world.text import COLOURS, RELATIONS, SHAPES, SIZES


@pytest.fixture(scope="module")
def plan():
    return pictures.picture_plan(seed=0, training=1200)


def some_scenes(count, kinds=pictures.KINDS, seed=1):
    source = pictures.scenes(random.Random(seed), kinds)
    return [next(source) for _ in range(count)]


def covers(scene, seed):
    """Coverage of each thing in `draw(scene, seed)`: `draw` lays out before anything else is drawn at random."""
    return pictures.masks(pictures.layout(scene, np.random.default_rng(seed)))


def box_side(mask):
    rows, columns = np.where(mask.max(1) > 0.5)[0], np.where(mask.max(0) > 0.5)[0]
    return max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1


def blobs(mask):
    """How many connected parts a mask has; grown by a pixel, so that a thin tip is no part of its own."""
    picture, found = Image.fromarray((mask > 0.5).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3)), 0
    while (left := np.argwhere(np.asarray(picture) == 255)).size:
        ImageDraw.floodfill(picture, tuple(int(v) for v in left[0][::-1]), 0)
        found += 1
    return found


def centroid(picture, colour):
    """Centre (x, y) of the pixels that look like `colour`."""
    near = np.linalg.norm(pictures.lab(np.asarray(picture)) - pictures.lab(pictures.RGB[colour]), axis=-1) < 20
    assert near.sum() > 20, f"hardly a pixel is {colour}"
    y, x = np.where(near)
    return x.mean(), y.mean()


def test_same_seed_same_pixels_another_seed_others():
    scene = some_scenes(1)[0]
    assert np.array_equal(pictures.draw(scene, 3), pictures.draw(scene, 3))
    assert not np.array_equal(pictures.draw(scene, 3), pictures.draw(scene, 4))
    assert pictures.draw(scene, 3).size == (pictures.SIDE, pictures.SIDE)


def test_things_are_whole_and_never_touch():
    for seed, scene in enumerate(some_scenes(150)):
        masks = covers(scene, seed)
        assert len(masks) == max(len(scene.things), scene.count)
        for mask in masks:
            edge = np.concatenate([mask[:2].ravel(), mask[-2:].ravel(), mask[:, :2].ravel(), mask[:, -2:].ravel()])
            assert edge.max() == 0, f"{scene.caption} (seed {seed}) touches the edge"
        grown = [Image.fromarray((mask > 0).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3)) for mask in masks]
        for i, one in enumerate(grown):
            for other in grown[i + 1:]:
                assert ImageChops.multiply(one, other).getbbox() is None, f"{scene.caption} (seed {seed}): things within two pixels"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_are_three_bands(shape, size):
    low, high = pictures.BANDS[size]
    for seed in range(6):
        side = box_side(covers(Scene((Thing(size, "red", shape),)), seed)[0])
        assert low - 1.5 <= side <= high + 1.5, f"{size or 'middle'} {shape} is {side} pixels, its band is {low}…{high}"


def test_bands_are_apart():
    (_, small), (middle, wide), (large, _) = (pictures.BANDS[size] for size in SIZES)
    assert middle / small > 1.3 and large / wide > 1.3


@pytest.mark.parametrize("relation", RELATIONS)
def test_relation_holds_by_the_pixels(relation):
    for seed, scene in enumerate(s for s in some_scenes(160, ("two",)) if s.relation == relation):
        picture = pictures.draw(scene, seed)
        (x1, y1), (x2, y2) = (centroid(picture, thing.colour) for thing in scene.things)
        along = {"above": y2 - y1, "below": y1 - y2, "left of": x2 - x1, "right of": x1 - x2}[relation]
        across = abs(x1 - x2) if relation in ("above", "below") else abs(y1 - y2)
        assert along > 12 and along > 1.8 * across, f"{scene.caption} (seed {seed}): {along:.1f} along, {across:.1f} across"


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_as_many_things_as_the_caption_counts(count):
    for seed, shape in enumerate(SHAPES):
        masks = covers(Scene((Thing("", "blue", shape),), count=count), seed)
        assert blobs(np.max(masks, axis=0)) == count
        sides = [box_side(mask) for mask in masks]
        assert max(sides) - min(sides) <= 2  # equal, but for where pixels begin


def test_no_background_near_a_things_colour():
    for seed, scene in enumerate(some_scenes(60)):
        near = Image.fromarray((np.max(covers(scene, seed), axis=0) > 0).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(9))
        background = np.asarray(pictures.draw(scene, seed))[np.asarray(near) == 0]
        for thing in scene.things:
            distance = np.linalg.norm(pictures.lab(background) - pictures.lab(pictures.RGB[thing.colour]), axis=-1).min()
            assert distance > pictures.CONTRAST - 6, f"{scene.caption} (seed {seed}): background {distance:.0f} from {thing.colour}"


def test_colours_are_apart():
    values = pictures.lab([pictures.RGB[colour] for colour in COLOURS])
    distances = np.linalg.norm(values[:, None] - values, axis=-1) + 1000 * np.eye(len(COLOURS))
    assert distances.min() > 25


def test_files_are_small_and_true_to_the_picture():
    drawn = [pictures.draw(scene, seed) for seed, scene in enumerate(some_scenes(40))]
    files = [pictures.webp(picture) for picture in drawn]
    assert np.mean([len(f) for f in files]) < 1000 and max(len(f) for f in files) < 3000
    for picture, file in zip(drawn, files):
        back = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), float)
        assert np.sqrt(np.mean((back - np.asarray(picture, float)) ** 2)) < 10, "the WebP file departs from the picture"


def test_a_picture_has_one_canonical_caption():
    for scene in some_scenes(100, ("two",)):
        assert pictures.canonical(scene) == scene == pictures.canonical(pictures.mirrored(scene))
        assert pictures.mirrored(pictures.mirrored(scene)) == scene
        assert pictures.mirrored(scene).caption != scene.caption
    assert {scene.relation for scene in some_scenes(100, ("two",))} == set(RELATIONS)


def test_swaps_differ_in_one_thing():
    scene = pictures.canonical(Scene((Thing("large", "red", "circle"), Thing("", "blue", "ring")), "below"))
    swaps = pictures.attribute_swaps(scene)
    assert len(swaps) == len(set(swaps)) == 2 * (7 + 7 + 2)
    assert scene not in swaps and all(s == pictures.canonical(s) for s in swaps)
    assert all(a.colour != b.colour and a.shape != b.shape for a, b in (s.things for s in swaps))
    assert [s.relation for s in pictures.relation_swaps(scene)] == ["above"]
    three = Scene((Thing("", "red", "circle"),), count=3)
    assert {s.count for s in pictures.attribute_swaps(three)} == {2, 3, 4, 5} and pictures.relation_swaps(three) == []


def test_plan_is_the_same_each_time_and_another_with_another_seed(plan):
    again, other = (pictures.picture_plan(seed, training=1200) for seed in (0, 1))
    assert plan == again and plan != other
    assert [p.id for p in plan] == list(range(len(plan)))


def test_plan_counts_and_keeps_the_tiers_apart(plan):
    found = Counter((p.split, p.tier) for p in plan)
    assert found == {**{(split, tier): count for split, tier, count in pictures.SPLITS}, ("train", "train"): 1200}
    held_out = [p.scene.caption for p in plan if p.split != "train"]
    assert len(held_out) == len(set(held_out))
    for p in plan:
        assert text.tier("caption", p.scene.caption) == p.tier
        if p.split == "train":
            assert text.tier("caption", pictures.mirrored(p.scene).caption) == "train", f"{p.scene.caption}: withheld by its other name"


def test_held_out_pictures_are_not_drawn_by_another_name(plan):
    trained = {caption for p in plan if p.split == "train" for caption in (p.scene.caption, pictures.mirrored(p.scene).caption)}
    assert not trained & {caption for p in plan if p.split != "train" for caption in (p.scene.caption, pictures.mirrored(p.scene).caption)}


def test_training_attributes_and_relations_are_evenly_spread(plan):
    scenes = [p.scene for p in plan if p.split == "train"]
    things = [thing for scene in scenes for thing in scene.things]
    for counts in (Counter(t.colour for t in things), Counter(t.shape for t in things), Counter(s.relation for s in scenes if s.relation),
                   Counter(s.count for s in scenes if s.count > 1), Counter(t.size for s in scenes if s.count == 1 for t in s.things)):
        mean = sum(counts.values()) / len(counts)
        assert all(abs(n - mean) < 0.25 * mean for n in counts.values()), counts


@pytest.mark.parametrize("tier", ["sentence", "pair", "fact"])
def test_retrieval_pools_hold_near_rivals(plan, tier):
    pool = [p.scene for p in plan if p.split == "test" and p.tier == tier][: pictures.POOL]
    there = {scene.caption for scene in pool}
    assert len(there) == pictures.POOL
    rivals = [s for s in pool if any(n.caption in there for n in pictures.attribute_swaps(s))]
    turned = [s for s in pool if any(n.caption in there for n in pictures.relation_swaps(s))]
    assert len(rivals) >= 50 and len(turned) >= 25
