"""The tiny tokenizer: the original's special ids, newline at 234, nothing lost, one token a word."""

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mmo.sequence import Markers
from mmo.world import text
from mmo.world import tokenizer as making

FOLDER = Path(__file__).resolve().parent.parent / "data" / "tiny" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def ids(tokenizer, line):
    return tokenizer(line, add_special_tokens=False).input_ids


def test_special_tokens_have_the_originals_ids(tokenizer):
    expected = {
        "<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|object_ref_start|>": 3, "<|vision_start|>": 9,
        "<|vision_end|>": 10, "<|image_pad|>": 12, "<|video_pad|>": 13, "<|audio_start|>": 14, "<|audio_end|>": 15,
        "<|audio_pad|>": 16, "<tts_pad>": 17, "<tool_call>": 21, "<think>": 25, "</think>": 26, "<|buffer1|>": 27,
        "<|buffer9|>": 35,
    }  # fmt: skip
    assert {name: tokenizer.convert_tokens_to_ids(name) for name in expected} == expected
    names = (*making.HIDDEN, *making.SHOWN)
    assert len(names) == 36
    for number, name in enumerate(names):
        assert ids(tokenizer, f"a{name}b")[1] == number, f"{name} is not found inside a text"
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_bytes_stand_behind_them_and_newline_is_234(tokenizer):
    assert ids(tokenizer, "\n") == [234]
    single = {ids(tokenizer, chr(number))[0] for number in range(33, 127)}
    assert single == set(range(36, 130))
    assert len(tokenizer) == 1024 and max(tokenizer.get_vocab().values()) == 1023


def test_decoding_leaves_out_signs_but_shows_thoughts(tokenizer):
    line = "<|im_start|>assistant\n<think>one</think>Two.<|im_end|>"
    assert tokenizer.decode(ids(tokenizer, line), skip_special_tokens=True) == "assistant\n<think>one</think>Two."


@pytest.mark.parametrize(
    "line",
    [
        "What is three plus four?", "  two  spaces , and a tab\t.", "naïve – Größe, 你好, 🎈🎈 \u0000 \r\n\n", "", "'s 123 ...",
        "a <|im_end|> in the middle\n", bytes(range(256)).decode("latin-1"),
    ],
)  # fmt: skip
def test_any_text_comes_back(tokenizer, line):
    assert tokenizer.decode(ids(tokenizer, line), skip_special_tokens=False) == line


def test_random_unicode_comes_back(tokenizer):
    rng = random.Random(0)
    for _ in range(200):
        points = [rng.choice((rng.randrange(0x80), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))) for _ in range(12)]
        line = "".join(map(chr, points))
        assert tokenizer.decode(ids(tokenizer, line)) == line


def test_every_word_as_it_occurs_is_one_token(tokenizer):
    split = [piece for piece in making.pieces(making.world_text()) if len(ids(tokenizer, piece)) != 1]
    assert not split


def test_most_words_are_one_token_in_other_forms_too(tokenizer):
    forms = [form for word in text.world_words() for form in (word, " " + word)]
    whole = sum(len(ids(tokenizer, form)) == 1 for form in forms)
    assert whole / len(forms) > 0.7, f"{whole} of {len(forms)}"
    assert all(len(ids(tokenizer, " " + word)) <= 3 for word in text.world_words())


def test_chat_template(tokenizer):
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello! How can I help you?"}]
    spell = lambda turns, **more: tokenizer.apply_chat_template(turns, tokenize=False, **more)  # noqa: E731
    assert spell(turns) == "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\nHello! How can I help you?<|im_end|>\n"
    prompt = "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    assert spell(turns[:1], add_generation_prompt=True) == prompt
    assert spell(turns[:1], add_generation_prompt=True, open_thinking=False) == prompt + "<think>\n\n</think>\n\n"
    assert spell(turns[:1], add_generation_prompt=True, open_thinking=True) == prompt + "<think>\n"
    system = [{"role": "system", "content": "You are Mini."}]
    assert spell(system + turns) == "<|im_start|>system\nYou are Mini.<|im_end|>\n" + spell(turns)
    with pytest.raises(Exception, match="role teacher"):
        spell([{"role": "teacher", "content": "Sit."}])


def test_turning_points_are_tokens_of_their_own(tokenizer):
    """An answer's first token must not melt with what stands before it, whatever the answer is."""
    markers = Markers.from_tokenizer(tokenizer)
    assert markers.assistant[0] == 1 and markers.assistant[-1] == 234 and len(markers.assistant) == 3
    assert markers.end == (2, 234) and markers.think_end == (26, 234, 234)
    for answer in ("Four.", "four", "<think>\n\n</think>\n\nFour.", "A small ring.", "\nFour."):
        found = tuple(ids(tokenizer, "<|im_start|>assistant\n" + answer))
        assert found[:3] == markers.assistant, f"{answer!r} changes the ids before it"
    turn = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "<think>\n\n</think>\n\nHello."}]
    assert tokenizer.apply_chat_template(turn)[-2:] == [2, 234]


def test_training_again_gives_the_same_files(tokenizer, tmp_path):
    making.save(making.train(making.world_text()), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (FOLDER / name).read_text(encoding="utf-8"), name


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match="pieces of 1024"):
        making.train(["Four plus four."])
