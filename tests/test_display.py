"""Pictures and players: they hold what they should, stay small, and refuse what cannot be shown."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmo.display import (
    Curves, LossCurves, drawing, finish, listen, mel_spectrogram, read_records, show_codes, show_delay, show_image, show_losses, smooth, without_silence,
)  # fmt: skip
from mmo.sequence import Markers, build_row
from speakers import TOY

RATE = 24000
TONE = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)


def picture(shown) -> Image.Image:
    """What a notebook would show."""
    return Image.open(io.BytesIO(base64.b64decode(shown._repr_mimebundle_()["image/png"])))


def test_player_holds_the_sound_its_words_and_a_picture():
    html = listen(torch.from_numpy(TONE)[None], RATE, "Is 3 < 4?")._repr_html_()
    assert "Is 3 &lt; 4?" in html
    sound = base64.b64decode(re.search(r"audio/mpeg;base64,([^\"]+)", html)[1])
    samples, rate = soundfile.read(io.BytesIO(sound))
    assert rate == RATE and samples.ndim == 1 and abs(len(samples) - RATE) < 3000  # MP3 pads to whole frames
    loudest = np.fft.rfft(samples[4000:20000]).__abs__().argmax() * RATE / 16000
    assert abs(loudest - 1000) < 5
    assert len(sound) < 12_000 and len(html) < 60_000
    assert Image.open(io.BytesIO(base64.b64decode(re.search(r"image/png;base64,([^\"]+)", html)[1]))).width > 200
    assert "image/png" not in listen(TONE, RATE, picture=False)._repr_html_()


def test_a_small_picture_is_small_and_says_what_it_is():
    small, whole = (listen(TONE, RATE, "hm", small=small).picture for small in (True, False))
    assert picture(small).height < picture(whole).height / 2 and len(small.png) < len(whole.png) / 2
    assert small.alt == whole.alt == "Spectrogram of 1.0 s of sound."


def test_an_image_is_shown_with_words():
    shown = show_image(Image.new("RGBA", (20, 30), "red"), "A red thing.", 64)
    assert picture(shown).size == (64, 64) and shown._repr_mimebundle_()["text/plain"] == "A red thing."


def test_spectrogram_shows_a_tone_in_its_place():
    levels = mel_spectrogram(TONE, RATE)
    assert levels.shape == (64, 101) and levels.max() <= 0 and levels.min() >= -70
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 12000 / 700), 66) / 2595 / 1) - 1)
    band = levels[:, 20:80].mean(axis=1).argmax()
    assert edges[band] < 1000 < edges[band + 2]


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="one channel"):
        listen(np.zeros((2, 100)), RATE)


def test_no_sound_at_all_is_said():
    """What a hardly trained model may say: its words stay, and a line tells that there is nothing to hear."""
    shown = listen(np.zeros(0), RATE, "Seven.")._repr_html_()
    assert "Seven." in shown and "no sound" in shown and "<audio" not in shown


def test_codes_and_delay():
    codes = torch.arange(24).view(8, 3) % 16
    assert picture(show_codes(codes, 16, "title")).width > 200
    markers = Markers((1, 250, 234), (2, 234))
    row = build_row([1, 60, 2, 234, 1, 250, 234, 70, 71, 2, 234], codes, TOY, markers, has_speaker=True)
    words = [str(int(token)) for token in row.input_ids[-1]]
    assert picture(show_delay(row.input_ids, TOY, 7, words)).width > 400
    # The answer's frames stand out: the same row without sound looks different.
    silent = row.input_ids.clone()
    silent[:-1] = TOY.audio_pad_token
    assert show_delay(silent, TOY, 7, words).png != show_delay(row.input_ids, TOY, 7, words).png
    with pytest.raises(ValueError, match="words for"):
        show_delay(row.input_ids, TOY, 7, words[1:])
    with pytest.raises(ValueError, match="at least one frame"):
        show_codes(codes[:, :0])


def test_what_is_no_code_is_grey():
    """Special tokens and gaps are no codes: they are told apart from every code, and nothing else is."""
    grey = (0xE4, 0xE4, 0xE4)
    codes = torch.arange(8).view(2, 4) * 2
    counts = {}
    for name, changed in (("all codes", codes), ("one too high", codes.clone().fill_diagonal_(16)), ("one below 0", codes.clone().fill_diagonal_(-1))):
        counts[name] = sum(count for count, colour in picture(show_codes(changed, 16)).convert("RGB").getcolors(1 << 20) if colour == grey)
    assert counts["all codes"] < 50, "a code is drawn as none"  # antialiased letters have a few such pixels
    assert counts["one too high"] == counts["one below 0"] > 500


def test_columns_are_seconds_or_steps():
    codes = torch.arange(24).view(8, 3) % 16
    assert show_codes(codes, 16).png != show_codes(codes, 16, frame_rate=None).png


def test_running_mean():
    assert smooth([1, 2, 3, 4], share=0.5).tolist() == [1.5, 2, 3, 3.5]
    assert smooth([1, float("nan"), 3], share=1.0).tolist() == [1, 2, 3]
    assert smooth([5, None, 1], share=0.1).tolist()[::2] == [5, 1] and len(smooth([])) == 0
    assert smooth(range(100), share=0.1)[5:-5].tolist() == list(range(5, 95)), "a straight line is itself: the mean does not lag behind"


def test_losses(tmp_path):
    log = tmp_path / "t2a.jsonl"
    records = [{"step": n, "text": 2.0 / (n + 1), "audio": 5.0, "codebooks": [4.0] * 8} for n in range(20)]
    lines = [*map(json.dumps, records), json.dumps({"step": 19, "validation": "t2a", "text": 0.3, "audio": 5.5}), '{"step": 2']
    log.write_text("\n".join(lines))
    training, validation = read_records(log)
    assert training == records and [record["step"] for record in validation] == [19]
    with LossCurves(log, "T2A") as curves:
        pass
    assert picture(curves.picture).width > 600 and "text 0.100" in curves.picture.alt
    assert picture(show_losses([])).width > 300  # before the first step


def test_a_step_in_which_nothing_was_spoken_has_no_audio_loss():
    """It was logged as 0, which would draw a curve down to the axis and back."""
    spoken = [{"step": step, "text": 0.1, "audio": 3.0, "codebooks": [2.0, 4.0]} for step in range(0, 20, 2)]
    silent = [{"step": step, "text": 0.1, "audio": 0.0, "codebooks": [0.0, 0.0]} for step in range(1, 20, 2)]
    mixed = sorted(spoken + silent, key=lambda record: record["step"])
    written = [{"step": record["step"], "text": 0.1} for record in silent]
    assert show_losses(mixed).png == show_losses(sorted(spoken + written, key=lambda record: record["step"])).png
    assert without_silence(mixed[0]) == mixed[0]


def test_live_curves_follow_the_file(tmp_path):
    log = tmp_path / "log.jsonl"
    with LossCurves(log, seconds=0.05, live=True) as curves:
        assert "0 records" in curves.picture.alt
        log.write_text(json.dumps({"step": 0, "audio": 5.0}) + "\n")
        for _ in range(600):
            if "1 records" in curves.picture.alt:
                break
            curves.ended.wait(0.05)
        assert "1 records" in curves.picture.alt
    assert not curves.thread.is_alive()


def test_curves_of_any_names():
    with Curves("one", "another", live=False, mark=(2, "here")) as curves:
        for step in range(5):
            curves.add(step, 5 - step, torch.tensor(2.0) if step % 2 else None)
        curves.dot(4, "one", 1.5)
    assert "last: one 1, one, held out, 1.5." in curves.picture.alt and picture(curves.picture).width > 500
    with pytest.raises(ValueError, match="1 values for the curves one, another"):
        curves.add(5, 1.0)


def test_curves_without_a_point_are_drawn():
    assert "nothing yet" in Curves("loss", live=False).draw().alt


def test_small_things_in_large_pictures_keep_their_colours():
    """Median cut made the red ring of the fourth picture purple: it goes by area."""
    import random
    from itertools import islice

    from mmo.course.pictures import show_maps
    from mmo.world import pictures

    scenes = list(islice(pictures.scenes_of("train", random.Random(5)), 6))
    maps = [np.asarray(pictures.draw(scene, seed)) for seed, scene in enumerate(scenes)]
    with drawing(6 * 1.8, 1.8) as figure:
        for axes, each in zip(figure.subplots(1, 6), maps):
            axes.imshow(each, interpolation="nearest")
            axes.set_axis_off()
        few = finish(figure, "as a diagram is drawn")
    for shown in (few, show_maps(maps, size=1.8)):
        drawn = np.asarray(picture(shown).convert("RGB")).astype(int)
        for number, scene in enumerate(scenes):
            panel = drawn[:, number * drawn.shape[1] // 6 : (number + 1) * drawn.shape[1] // 6]
            for thing in scene.things:
                assert np.abs(panel - pictures.RGB[thing.colour]).max(axis=-1).min() < 25, f"{shown.alt}, number {number}: nothing {thing.colour} is left"


def test_pictures_keep_all_their_colours_and_diagrams_do_not():
    """A smooth ground in 256 colours that serve six pictures has steps."""
    from mmo.course.pictures import show_maps

    ground = np.stack(np.broadcast_arrays(np.arange(0, 240, 5)[:, None], np.arange(0, 240, 5)[None], 90), axis=-1).astype(np.uint8)  # (48, 48, 3)
    assert len(picture(show_maps([ground])).convert("RGB").getcolors(1 << 20)) > 48 * 48
    assert picture(show_maps([ground[..., 0]])).mode == "P", "a map of numbers is a diagram"


def test_two_grids_show_where_they_differ_and_what_their_rows_are():
    from mmo.course.pictures import RED, compare_grids

    red = tuple(int(RED[k : k + 2], 16) for k in (1, 3, 5))
    wanted, theirs = np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)
    theirs[1, 2] = 9

    def redness(shown) -> int:
        return sum(count for count, colour in picture(shown).convert("RGB").getcolors(1 << 20) if np.abs(np.subtract(colour, red)).max() < 30)

    assert redness(compare_grids(wanted, theirs)) > 50 and redness(compare_grids(wanted, wanted)) == 0
    assert redness(compare_grids(wanted, theirs, mark=False)) == 0
    plain, named = (picture(compare_grids(wanted, theirs, **names)) for names in ({}, {"rows": ("text", "codebook 0"), "columns": ("one", "two", "three")}))
    assert named.height > plain.height and named.width > plain.width, "names of rows and columns have room of their own"
    with pytest.raises(ValueError, match="wanted two grids"):
        compare_grids(wanted, np.arange(3))


def test_a_stop_has_a_colour_of_its_own():
    from mmo.course.pictures import cell_colour

    colours: dict[str, str] = {}
    codes = {cell_colour(str(code), colours) for code in range(20)}
    assert cell_colour("stop", colours) not in codes | {cell_colour("", colours)} and cell_colour("7", colours) in codes
