"""The rented eye: any picture in, patch features out, each picture by itself; and its training, at toy sizes."""

import io
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from mmo import vision_encoder
from mmo.vision_encoder import VisionEncoder, moved, open_picture, perturb
from mmo.world import pictures
from mmo.world import train_vision_encoder as training

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small vision encoder with random weights, as a folder."""
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("vision_encoder")
    SiglipVisionModel(SiglipVisionConfig(**SIZES)).save_pretrained(where)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def encoder(folder):
    return VisionEncoder.load(folder)


def some_picture(size=(32, 32), seed=0, mode="RGB"):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def encoded(picture, kind="PNG"):
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def test_shapes_and_sizes(encoder):
    assert (encoder.dim, encoder.patches, encoder.side) == (32, 4, 32)
    assert encoder.encode([some_picture(), some_picture(seed=1)]).shape == (2, 4, 32)


def test_batch_equals_single_pictures(encoder):
    several = [some_picture(seed=k) for k in range(5)]
    alone = torch.cat([encoder.encode([picture]) for picture in several])
    torch.testing.assert_close(encoder.encode(several), alone, atol=1e-5, rtol=0)


def test_is_frozen_and_keeps_no_graph(encoder):
    assert not encoder.encode([some_picture()]).requires_grad
    assert not any(p.requires_grad for p in encoder.model.parameters()) and not encoder.model.training


def test_autocast_does_not_reach_the_encoder(encoder):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    plain = encoder.encode([picture])
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder.encode([picture])
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, plain, atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_every_mode_is_seen_as_rgb(encoder, mode):
    rgb = some_picture()
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    else:
        picture = rgb.convert("L").convert("LA") if mode == "LA" else rgb.convert(mode)
    seen = vision_encoder.to_rgb(picture)
    assert seen.mode == "RGB" and seen.size == rgb.size
    if mode in ("L", "LA", "I", "F", "I;16"):
        assert np.abs(np.asarray(seen, int) - np.asarray(rgb.convert("L"), int)[..., None]).max() <= 1
    assert encoder.encode([picture]).shape == (1, 4, 32)


def test_transparent_becomes_white():
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert vision_encoder.to_rgb(picture).getpixel((0, 0)) == (255, 255, 255)
    assert vision_encoder.to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 255))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 1500)])
def test_any_size_is_made_ready(encoder, size):
    assert encoder.encode([some_picture(size)]).shape == (1, 4, 32)


def test_what_is_no_picture_is_refused(encoder):
    with pytest.raises(ValueError, match="no pictures"):
        encoder.encode([])
    with pytest.raises(TypeError, match="picture 1 is a bytes.*open_picture"):
        encoder.encode([some_picture(), b"abc"])


def test_unreadable_files_are_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(encoded(some_picture())[:200])
    with pytest.raises(ValueError, match="broken.png: not a picture that can be read"):
        open_picture(broken)
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(ValueError, match="words.png"):
        open_picture(tmp_path / "words.png")
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        open_picture(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="i2t.parquet row 7: not a picture"):
        open_picture(b"", name="i2t.parquet row 7")


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's own words about damaged tags
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_damaged_bytes_are_a_picture_or_a_value_error(kind):
    """Whatever a decoder or the EXIF reader raises: one bad cell must not end the making of features."""
    picture, exif, rng = some_picture((24, 16)), Image.Exif(), np.random.default_rng(0)
    exif[0x0112], exif[0x010E], exif[0x8298] = 6, "a long description " * 4, "nobody"
    data = io.BytesIO()
    picture.save(data, kind, exif=exif)
    for _ in range(200):
        damaged = bytearray(data.getvalue())
        for place in rng.integers(len(damaged), size=4):
            damaged[place] = rng.integers(256)
        try:
            assert open_picture(bytes(damaged), name="row 3").mode == "RGB"
        except ValueError as error:
            assert str(error).startswith("row 3: ")


def test_huge_files_are_refused_before_they_are_unpacked(monkeypatch):
    monkeypatch.setattr(vision_encoder, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="row 3: 40 x 30 pixels are too many"):
        open_picture(encoded(some_picture((40, 30))), name="row 3")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="row 3: too many pixels"):
        open_picture(encoded(some_picture((40, 30))), name="row 3")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "GIF"])
def test_files_and_bytes_open_alike(tmp_path, kind):
    data = encoded(some_picture((20, 10)), kind)
    (tmp_path / "picture").write_bytes(data)
    one, two = open_picture(data), open_picture(tmp_path / "picture")
    assert one.mode == two.mode == "RGB" and one.size == (20, 10) and np.array_equal(one, two)


def test_exif_turns_pictures_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    buffer = io.BytesIO()
    some_picture((20, 10)).save(buffer, "JPEG", exif=exif)
    assert open_picture(buffer.getvalue()).size == (10, 20)


def test_loading_leaves_random_states_alone(tmp_path):
    """With its head, which transformers draws before it reads the file: features made on the way must not change what a training's dropout draws."""
    SiglipVisionModel(SiglipVisionConfig(**SIZES | {"vision_use_head": True})).save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    VisionEncoder.load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_missing_files_and_weights_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        VisionEncoder.load(tmp_path)
    SiglipVisionModel(SiglipVisionConfig(**{**SIZES, "num_hidden_layers": 1})).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    with pytest.raises(ValueError, match="model.safetensors.*lacks"):
        VisionEncoder.load(tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "size": {"height": 48, "width": 48}}))
    SiglipVisionModel(SiglipVisionConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="make them equal"):
        VisionEncoder.load(tmp_path)


@pytest.mark.parametrize("name, text", [("config.json", '{"hidden'), ("preprocessor_config.json", '{"size'), ("config.json", json.dumps(SIZES | {"hidden_size": 64}))])
def test_damaged_configurations_are_named(folder, tmp_path, name, text):
    """Cut short, or of another shape than the weights."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="cannot be loaded"):
        VisionEncoder.load(tmp_path)


def test_a_folder_of_the_whole_siglip_gives_its_vision_half(tmp_path):
    torch.manual_seed(1)
    words = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=50, max_position_embeddings=8)
    whole = SiglipModel(SiglipConfig(text_config=words, vision_config=SIZES))
    whole.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    half = VisionEncoder.load(tmp_path)
    pixels = half.pixels([some_picture()])
    with torch.no_grad():
        wanted = whole.eval().vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(half.encode([some_picture()]), wanted)


def test_moved_pictures_go_down_and_right_and_repeat_their_edges():
    pixels = np.arange(16 * 8 * 3, dtype=np.uint8).reshape(16, 8, 3)
    picture = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(moved(picture, 0.0, 0.0)), pixels)
    down, left = np.asarray(moved(picture, 1 / 8, 0.0)), np.asarray(moved(picture, 0.0, -1 / 8))
    assert np.array_equal(down[2:], pixels[:-2]) and np.array_equal(down[:2], np.repeat(pixels[:1], 2, axis=0))
    assert np.array_equal(left[:, :-1], pixels[:, 1:]) and np.array_equal(left[:, -1], pixels[:, -1])


def test_each_look_is_the_picture_moved(encoder):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    looks = ((0.0, 0.0), (0.1, 0.0), (0.0, -0.1))
    found = encoder.encode_at(picture, looks)
    assert len(found) == 3 and not torch.equal(found[0], found[1])
    for each, look in zip(found, looks, strict=True):
        torch.testing.assert_close(each, encoder.encode([moved(picture, *look)])[0], atol=1e-5, rtol=0)


def test_perturb_keeps_form_and_changes_little():
    pixels = np.stack([np.asarray(some_picture(seed=k)) for k in range(3)])
    one, two = (perturb(pixels, np.random.default_rng(5)) for _ in range(2))
    assert one.dtype == np.uint8 and one.shape == pixels.shape and np.array_equal(one, two)
    assert not np.array_equal(one, pixels)
    assert np.array_equal(perturb(pixels, np.random.default_rng(5), noise=0, light=0, shift=0), pixels)
    assert perturb(pixels[0], np.random.default_rng(5)).shape == pixels[0].shape


# ---------------------------------------------------------------------------------------------------------------------
# Training

TOY = training.Settings(side=64, patch=32, width=16, layers=1, heads=2, inner=16, text_width=16, text_layers=1, drawn=24, batch=8, steps=6, warmup=2, restart=4)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
    return training.draw_lessons(TOY, tmp_path_factory.mktemp("drawn"), shard=16)


def test_every_caption_of_the_world_has_numbers():
    source = pictures.scenes(random.Random(0))
    seen = [next(source) for _ in range(300)]
    for scene in [*seen, *map(pictures.mirrored, seen)]:
        assert len(training.word_numbers(scene.caption)) == training.LONGEST
    with pytest.raises(ValueError, match="unknown words"):
        training.word_numbers("A large brown dog.")


def test_slots_tell_scenes_apart():
    source = pictures.scenes(random.Random(0))
    by_slots = {}
    for _ in range(500):
        scene = next(source)
        assert by_slots.setdefault(tuple(training.slots(scene)), scene) == scene
        assert all(0 <= value < classes for value, classes in zip(training.slots(scene), training.SLOTS.values()))


def test_hard_negatives_are_near_wrong_and_of_tier_train():
    rng = random.Random(0)
    source = pictures.scenes_of("train", rng)
    turned = 0
    for _ in range(60):
        scene = next(source)
        near = training.hard_negatives(scene, rng)
        assert len(near) == training.NEGATIVES and scene not in near
        assert all(pictures.scene_tier(s) == "train" for s in near)
        turned += near[-1] in pictures.relation_swaps(scene)
    assert turned > 15


def test_sigmoid_loss_is_the_papers_double_sum():
    torch.manual_seed(0)
    seen, said = (torch.nn.functional.normalize(torch.randn(n, 8), dim=-1) for n in (3, 5))
    together = torch.zeros(3, 5, dtype=torch.bool)
    together[[0, 1, 2, 2], [0, 1, 2, 4]] = True
    total = 0.0
    for i in range(3):
        for j in range(5):
            z = 1 if together[i, j] else -1
            total += math.log(1 / (1 + math.exp(z * (-7.0 * float(seen[i] @ said[j]) + 2.0))))
    found = training.sigmoid_loss(seen, said, together, torch.tensor(7.0).log(), torch.tensor(-2.0))
    assert found.item() == pytest.approx(-total / 3, rel=1e-5)


def test_batches_mark_every_true_caption(lessons):
    batch = training.draw_batch(lessons, TOY, step=1)
    assert batch.pixels.shape == (8, 3, 64, 64) and batch.words.shape == (24, training.LONGEST) and batch.together.shape == (8, 24)
    assert batch.together[:, :8].diagonal().all()
    assert not batch.together[:, 8:16].diagonal().any() and not batch.together[:, 16:].diagonal().any()
    again = training.draw_batch(lessons, TOY, step=1)
    assert torch.equal(batch.pixels, again.pixels) and torch.equal(batch.words, again.words)


def test_drawn_shards_are_kept(tmp_path):
    first = training.draw_lessons(TOY, tmp_path, shard=16)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    second = training.draw_lessons(TOY, tmp_path, shard=16)
    assert len(before) == 2 and before == {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert np.array_equal(first.pixels, second.pixels) and np.array_equal(first.words, second.words)


def test_resumed_equals_unbroken(lessons, tmp_path, monkeypatch):
    whole, _, curve = training.train(TOY, lessons, tmp_path / "whole.pt", every=3)
    draw_batch = training.draw_batch

    def power_cut(lessons, settings, step):
        if step == 4:
            raise KeyboardInterrupt
        return draw_batch(lessons, settings, step)

    monkeypatch.setattr(training, "draw_batch", power_cut)
    with pytest.raises(KeyboardInterrupt):
        training.train(TOY, lessons, tmp_path / "cut.pt", every=3)
    monkeypatch.setattr(training, "draw_batch", draw_batch)
    resumed, _, curve_again = training.train(TOY, lessons, tmp_path / "cut.pt", every=3)
    assert [row["sigmoid_loss"] for row in curve] == [row["sigmoid_loss"] for row in curve_again]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(ValueError, match="other settings"):
        training.train(replace(TOY, learning_rate=1.0), lessons, tmp_path / "cut.pt")


def test_a_toy_learns(lessons, tmp_path):
    settings = replace(TOY, steps=60, restart=60, learning_rate=1e-2)
    _, _, curve = training.train(settings, lessons, tmp_path / "state.pt", every=10)
    assert curve[-1]["reader_loss"] < 0.85 * curve[0]["reader_loss"] and curve[-1]["sigmoid_loss"] < curve[0]["sigmoid_loss"]


def test_exported_folder_loads_and_sees_the_same(tmp_path):
    model, *_ = training.build(TOY)
    model.eval()
    training.export(model, tmp_path)
    encoder, pair = VisionEncoder.load(tmp_path), training.load_pair(tmp_path)
    picture = pictures.draw(next(pictures.scenes(random.Random(0))), 0)
    patches, pooled = training.see(model, training.fitted(picture, TOY.side)[None])
    torch.testing.assert_close(encoder.encode([picture]), patches, atol=2e-2, rtol=0)  # the file is fp16
    torch.testing.assert_close(training.see(pair, training.fitted(picture, TOY.side)[None])[1], pooled, atol=1e-2, rtol=0)
    torch.testing.assert_close(training.say(pair, ["A red ring."]), training.say(model, ["A red ring."]), atol=1e-2, rtol=0)


def test_recall_counts_and_its_control_does_not():
    found = training.recall(torch.eye(4), torch.eye(4))
    assert found == {"caption_of_picture": 1.0, "picture_of_caption": 1.0, "control_wrong_picture": 0.0}


def test_patches_are_parts_of_the_things_on_them():
    scene = pictures.Scene((pictures.Thing("large", "red", "circle"), pictures.Thing("small", "blue", "star")), "above")
    placed = [pictures.Placed(scene.things[0], 30.0, 26.0, 40.0, 0.0), pictures.Placed(scene.things[1], 36.0, 80.0, 16.0, 0.0)]
    found = training.parts(scene, placed, grid=3).reshape(3, 3, 6)  # patches of 32 pixels
    assert found[0, 0].tolist() == [2, 0, 0, 1, 0, 0] and found[2, 1].tolist() == [0, 1, 3, 2, 1, 0]
    assert (found[0, 2] == training.IGNORE).all() and (found[2, 2] == training.IGNORE).all()


def test_whitened_patches_have_unit_variance(lessons):
    model, *_ = training.build(TOY)
    training.whiten_patches(model, lessons.pixels)
    with torch.no_grad():
        seen = model.vision_model.embeddings.patch_embedding(training.normalised(lessons.pixels)).flatten(2)
    assert seen.mean((0, 2)).abs().max() < 1e-2 and (seen.std((0, 2)) > 0.8).all() and (seen.std((0, 2)) < 1.05).all()


def test_learning_rate_warms_up_falls_and_starts_anew():
    rates = [training.learning_rate(replace(TOY, steps=30, warmup=5, restart=20), step) for step in range(30)]
    assert rates[0] < rates[4] == rates[5] == rates[20] == TOY.learning_rate
    assert rates[19] < 0.1 * rates[5] and rates[29] < 0.1 * rates[5] and rates[10] > rates[15] > rates[19]
