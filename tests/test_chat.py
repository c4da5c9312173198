"""The light tokenizer is the heavy one: same ids, same template; and prompts end where answers begin."""

import pickle
from pathlib import Path

import pytest

from mmo.chat import ANSWER_START, ChatTokenizer, TextStream, user_content, without_open_block
from mmo.sequence import Markers, find_assistant_ranges

FOLDER = Path(__file__).resolve().parents[1] / "data" / "tiny" / "tokenizer"
TURNS = [{"role": "user", "content": "What is three plus four?"}, {"role": "assistant", "content": "Three plus four is seven."}]


@pytest.fixture(scope="module")
def tokenizer():
    return ChatTokenizer.load(FOLDER)


def test_same_ids_as_transformers(tokenizer):
    transformers = pytest.importorskip("transformers")
    heavy = transformers.PreTrainedTokenizerFast.from_pretrained(FOLDER)
    assert tokenizer.conversation(TURNS) == heavy.apply_chat_template(TURNS, tokenize=True, return_dict=False)
    assert tokenizer.prompt(TURNS[:1]) == heavy.apply_chat_template(TURNS[:1], tokenize=True, add_generation_prompt=True, return_dict=False)
    for text in ("Hello, Mini.", "<|audio_pad|>\n\nÜber 7 naïve €", ""):
        assert tokenizer.encode(text) == heavy(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(tokenizer.encode(text)) == heavy.decode(tokenizer.encode(text), skip_special_tokens=True)
    assert Markers.from_tokenizer(tokenizer) == Markers.from_tokenizer(heavy)


def test_prompt_is_the_beginning_of_the_conversation(tokenizer):
    prompt, whole = tokenizer.prompt(TURNS[:1]), tokenizer.conversation(TURNS)
    markers = Markers.from_tokenizer(tokenizer)
    assert whole[: len(prompt)] == prompt and find_assistant_ranges(whole, markers.assistant, markers.end)[0][0] == len(prompt)
    assert tokenizer.encode(ANSWER_START) == list(markers.assistant)


def test_pickles(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode("one two") == tokenizer.encode("one two")


def test_pieces_of_text_are_whole_characters(tokenizer):
    text = "Seven. Ünï€ 🙂 end"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces) and "" in pieces
    half = TextStream(tokenizer)
    half.push(tokenizer.encode("🙂")[0])
    assert half.finish() == "\ufffd"  # cut within a character: said, not swallowed


def test_a_think_block_waits_for_its_end(tokenizer):
    def pieces(text):
        stream = TextStream(tokenizer)
        return [stream.push(token) for token in tokenizer.encode(text)] + [stream.finish()]

    assert without_open_block("Seven.") == "Seven." and without_open_block("<think>\nWhat is the moon.") == ""
    assert without_open_block("<think>\na\n</think>\n\nSeven.") == "<think>\na\n</think>\n\nSeven."
    assert "".join(pieces("Seven. <think>\nWhat is")) == "Seven. "
    closed = "<think>\na\n</think>\n\nSeven."
    assert "".join(pieces(closed)) == closed and not pieces(closed)[0]


def test_user_content():
    audio, image = "<|audio_pad|>", "<|image_pad|>"
    assert user_content("Hi.") == "Hi."
    assert user_content("", 3) == audio * 3
    assert user_content("Hi.", 2) == f"{audio * 2}\n\nHi."
    assert user_content("Hi.", 2, sound_last=True) == f"Hi.\n\n{audio * 2}"
    assert user_content("Hi.", pictures=1, image_length=2) == f"{image * 2}\nHi."
    assert user_content("", pictures=1, image_length=2) == image * 2
    assert user_content("See <image> here", pictures=1, image_length=2) == f"See {image * 2} here"
    assert user_content("<image><image><image>", pictures=3, image_length=2) == "\n".join([image * 2] * 3), "a run of placeholders is one picture"
    with pytest.raises(ValueError, match="1 <image> for 2 pictures"):
        user_content("<image>", pictures=2)


def test_bad_folders_and_turns(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match="tokenizer.json is missing"):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    for text in ('{"eos_token": "<|im', "[]", "{}"):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match="tokenizer_config.json is no tokenizer's settings, or damaged"):
            ChatTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    with pytest.raises(ValueError, match="no chat template"):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "tokenizer.json").write_text((FOLDER / "tokenizer.json").read_text(encoding="utf-8")[:500], encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json is no tokenizer, or damaged"):
        ChatTokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="role wizard"):
        tokenizer.prompt([{"role": "wizard", "content": "?"}])
    with pytest.raises(ValueError, match="no token"):
        tokenizer.id("<|nowhere|>")
    with pytest.raises(ValueError, match="no special tokens"):
        tokenizer("text", add_special_tokens=True)
