"""Text and token ids: a tokenizer folder of `transformers`, read without importing transformers (which takes seconds).

    tokenizer = ChatTokenizer.load("data/tiny/tokenizer")
    ids = tokenizer.prompt([{"role": "user", "content": "What is three plus four?"}])   # ends where the answer begins
    tokenizer.decode(ids)

The ids are those that `AutoTokenizer` gives: `tokenizer.json` is the same file, and the chat template is rendered by
the same library (jinja2).  Objects can be pickled, so workers of a data loader may hold one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

from tokenizers import Tokenizer

AUDIO_PAD, IMAGE_PAD, IMAGE_MARK = "<|audio_pad|>", "<|image_pad|>", "<image>"
ANSWER_START = "<|im_start|>assistant\n"
Message = Mapping[str, str]  # {"role": "user", "content": "…"}


def user_content(
    text: str = "", sound_length: int = 0, pictures: int = 0, image_length: int = 64, *, sound_last: bool = False
) -> str:
    """What a user's turn holds: text, and placeholders for speech features and picture patches.

    sound_length: speech features, one placeholder each; they stand before the text with an empty line between, or
    after it (`sound_last`), as in the original's data.  pictures: each `image_length` placeholders on a line of their
    own before everything else, or in the place of "<image>" where the text says so (as many as there are pictures).
    Two pictures never touch: a run of placeholders is one picture.
    """
    image = IMAGE_PAD * image_length
    marks = text.count(IMAGE_MARK)
    if marks and marks != pictures:
        raise ValueError(f"the text has {marks} {IMAGE_MARK} for {pictures} pictures: {text!r}")
    while 2 * IMAGE_MARK in text:
        text = text.replace(2 * IMAGE_MARK, f"{IMAGE_MARK}\n{IMAGE_MARK}")
    text = text.replace(IMAGE_MARK, image)
    parts = [part for part in (AUDIO_PAD * sound_length, text) if part]
    content = "\n\n".join(reversed(parts) if sound_last else parts)
    return content if marks else "\n".join([image] * pictures + [content] * bool(content))


THINK_START, THINK_END = "<think>\n", "\n</think>\n\n"  # around what an answer begins with and nobody hears


def think_block(text: str) -> str:
    """What stands in front of an answer that thinks first; with no text, the original's empty block."""
    return f"{THINK_START}{text}{THINK_END}"


def without_open_block(text: str) -> str:
    """An answer as it may be shown: what stands behind a "<think>" that was never closed is no answer."""
    start = text.rfind("<think>")
    return text if start < 0 or "</think>" in text[start:] else text[:start]


class ChatTokenizer:
    """A `tokenizer.json` and the chat template beside it."""

    def __init__(self, tokenizer: Tokenizer, template: str, eos_token: str = "<|im_end|>") -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.eos_token = eos_token

    @classmethod
    def load(cls, folder: str | Path) -> ChatTokenizer:
        """Read a folder with tokenizer.json and tokenizer_config.json (or chat_template.jinja).

        Raises FileNotFoundError naming what is missing, ValueError where there is no chat template or a file is damaged.
        """
        folder = Path(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no tokenizer: {folder / name} is missing; fetch it (`mmo fetch tokenizer`)")
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            eos_token = settings["eos_token"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / 'tokenizer_config.json'} is no tokenizer's settings, or damaged ({error!r}); fetch it again") from error
        own_file = folder / "chat_template.jinja"
        template = own_file.read_text(encoding="utf-8") if own_file.is_file() else settings.get("chat_template")
        if not template:
            raise ValueError(f"{folder}: no chat template, neither in tokenizer_config.json nor in chat_template.jinja")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"{folder / 'tokenizer.json'} is no tokenizer, or damaged ({error}); fetch it again") from error
        return cls(tokenizer, template, eos_token)

    def __len__(self) -> int:
        """Tokens in the vocabulary."""
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Text to ids; special tokens written out in the text are recognised, none is added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def __call__(self, text: str, add_special_tokens: bool = False) -> SimpleNamespace:
        """The call of a `transformers` tokenizer: `tokenizer(text, add_special_tokens=False).input_ids`."""
        if add_special_tokens:
            raise ValueError("this tokenizer adds no special tokens: write them into the text")
        return SimpleNamespace(input_ids=self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def id(self, token: str) -> int:
        """The id of one token.  Raises ValueError where there is none."""
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return number

    def render(self, messages: Sequence[Message], **settings) -> str:
        """The chat template's text for these turns."""
        return compiled(self.template).render(messages=list(messages), **settings)

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a whole conversation, as training sees it."""
        return self.encode(self.render(messages, add_generation_prompt=False))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the turns so far and of "<|im_start|>assistant\\n": the answer begins behind them.

        The answer's opening is not left to the template: the original's would put an empty think block there, which
        its training keeps in one row of five.
        """
        return self.encode(self.render(messages, add_generation_prompt=False) + ANSWER_START)


@lru_cache(maxsize=4)
def compiled(template: str):
    """A chat template, compiled: that takes milliseconds, and training renders thousands of conversations."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # a template comes with downloaded weights

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)


def refuse(message: str) -> None:
    """What a template calls where it cannot render a conversation."""
    raise ValueError(f"chat template: {message}")


class TextStream:
    """Turns growing ids into pieces of text, each handed out once and never a broken character; a think block waits for its end."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.shown = 0  # characters handed out

    def push(self, token: int) -> str:
        """One more id -> the new text; "" while a character's last bytes are still to come."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids)
        return "" if text.endswith("\ufffd") else self.take(text)

    def finish(self) -> str:
        """What is left, were it a broken character."""
        return self.take(self.tokenizer.decode(self.ids))

    def take(self, text: str) -> str:
        text = without_open_block(text)
        piece, self.shown = text[self.shown :], len(text)
        return piece
