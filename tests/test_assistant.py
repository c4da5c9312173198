"""The assistant that notebooks talk to: the same prompts as `mmo say`, and errors that name what is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmo.assistant import Assistant
from mmo.config import Decoding
from mmo.profiles import profile

SHORT = Decoding(max_text=4, max_frames=3)


@pytest.fixture(scope="module")
def assistant(tmp_path_factory) -> Assistant:
    return Assistant.load(profile("tiny"), tmp_path_factory.mktemp("no-run"))


def test_takes_the_shipped_weights_where_there_is_no_run(assistant):
    assert "came with the course" in assistant.which and set(assistant.voices) == {"joe", "slt"}


@pytest.mark.parametrize("question", ["text", "sound", "picture"])
def test_answers_each_kind_of_question(assistant, question):
    given = {
        "text": {"text": "What is two plus two?"},
        "sound": {"sound": np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.1},
        "picture": {"text": "What do you see?", "picture": Image.new("RGB", (96, 96), "red")},
    }[question]
    answer = assistant.ask(**given, voice="slt", decoding=SHORT)
    assert answer.text_ids and answer.codes.shape[0] == 8
    config = assistant.generator.config
    ids = list(assistant.prompt(**given).text_ids)
    assert ids.count(config.image_ids[0]) == (config.image_token_len if question == "picture" else 0)
    assert (ids.count(config.audio_ids[0]) > 0) == (question == "sound")


def test_a_picture_without_words_is_asked_what_training_asked(assistant):
    picture = Image.new("RGB", (96, 96), "red")
    assert assistant.prompt(picture=picture).text_ids == assistant.prompt("What do you see?", picture=picture).text_ids


def test_looks_and_hearings_are_those_of_the_decoding(assistant):
    picture, sound = Image.new("RGB", (96, 96), "red"), np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.1
    once = replace(SHORT, looks=((0.0, 0.0),), hearings=(1.0,))
    assert assistant.prompt(picture=picture).looks and not assistant.prompt(picture=picture, decoding=once).looks
    assert assistant.prompt(sound=sound).again and not assistant.prompt(sound=sound, decoding=once).again


def test_the_voice_is_the_vector(assistant):
    assert torch.equal(assistant.prompt("Hello.", voice="slt").speaker, assistant.voices["slt"])


@pytest.mark.parametrize(("given", "words"), [({}, "nothing to answer"), ({"text": "Hello.", "voice": "ann"}, "there are joe, slt")])
def test_refuses_with_words(assistant, given, words):
    with pytest.raises(ValueError, match=words):
        assistant.ask(**given)
