"""The tiny world's tokenizer: byte-level BPE of 1024 pieces, with the original's special tokens at the original's ids.

    0 .. 35      the 36 special tokens (<|endoftext|> 0, <|im_start|> 1, <|im_end|> 2, <|image_pad|> 12, <|audio_pad|> 16)
    36 .. 291    one token a byte, so that any text can be written and read back; newline is 234
    292 .. 1023  merges, learnt from the world's text: every word as it occurs there is one token

    python -m mmo.world.tokenizer          writes data/tiny/tokenizer

A byte's token is found by the order of its printable stand-in (Radford et al. 2019, GPT-2): the 188 printable bytes
first, then the 68 others, of which newline is the eleventh: 36 + 188 + 10 = 234, as in the original's tokenizer.
Only text of tiers other than `fact` is read (it makes no difference to the words, and keeps the rule simple).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mmo.world import text

DEFAULT_DIR = Path("data/tiny/tokenizer")
VOCABULARY = 1024  # the model's vocabulary: a multiple of 64
OFTEN = 100  # weight of a piece that the world's text holds; its other forms (a capital, a space) count 1

# Names and ids are the original's (minimind-3); the first 21 are left out of decoded text, the others are shown.
HIDDEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>",
)  # fmt: skip
SHOWN = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
    *(f"<|buffer{number}|>" for number in range(1, 10)),
)  # fmt: skip
ROLES = ("system", "user", "assistant")

# open_thinking: left out, the answer follows at once (as our training data has it); True, a think block is opened;
# False, an empty one stands before the answer.  Other settings (tools) are not part of the tiny world.
CHAT_TEMPLATE = """\
{%- for turn in messages -%}
    {%- if turn.role not in ('system', 'user', 'assistant') -%}
        {{- raise_exception('role ' ~ turn.role ~ ' is none of system, user, assistant') -}}
    {%- endif -%}
    {{- '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if open_thinking is defined -%}
        {{- '<think>\\n' if open_thinking else '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""


def world_text(drawn: int = 4000, seed: int = 0) -> list[str]:
    """Sentences of the world, questions and answers, tier `fact` left out; `drawn` facts of each open kind."""
    rng = random.Random(seed)
    scenes = (fact for _ in range(drawn) for fact in text.random_scene(rng).facts())
    facts = [*text.closed_facts(), *text.open_facts(rng, drawn), *scenes]
    known = [fact for fact in facts if text.tier(fact.kind, fact.answer) != "fact"]
    return list(dict.fromkeys(line for fact in known for line in (fact.answer, *fact.questions)))


def pieces(lines: list[str]) -> set[str]:
    """What the byte-level pre-tokenizer cuts `lines` into: words with their leading space, signs."""
    cutter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return {line[start:end] for line in lines for _, (start, end) in cutter.pre_tokenize_str(line)}


def training_pieces(lines: list[str]) -> list[str]:
    """The corpus of the merges: all pieces of `lines` (as written and in lower case) OFTEN times, so that each becomes
    one token; the words' other forms, with and without leading space, once each, for what room is left."""
    occurring = pieces(lines) | pieces([line.lower() for line in lines]) | set(ROLES)
    words = {piece.strip().lower() for piece in occurring if piece.strip().isalpha()}
    rare = {form for word in words for form in (word, " " + word)} - occurring
    return [piece for piece in sorted(occurring) for _ in range(OFTEN)] + sorted(rare)


def train(lines: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Learn the merges from `lines`.  Raises ValueError where the vocabulary comes out smaller than asked for."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in (*HIDDEN, *SHOWN)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(training_pieces(lines), trainer=trainer)
    if bpe.get_vocab_size() != vocabulary:
        raise ValueError(f"the text gives only {bpe.get_vocab_size()} pieces of {vocabulary}: give more text or ask for fewer")
    bpe.add_tokens([AddedToken(name, special=False, normalized=False) for name in SHOWN])  # known already: ids stay
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def main(arguments: list[str] | None = None) -> None:
    """Train and write the tokenizer; print how much of the world is one token a word."""
    parser = argparse.ArgumentParser(description="Train the tiny world's tokenizer.")
    parser.add_argument("--out", type=Path, default=DEFAULT_DIR)
    options = parser.parse_args(arguments)
    lines = world_text()
    tokenizer = train(lines)
    save(tokenizer, options.out)
    whole = [piece for piece in pieces(lines) if len(tokenizer(piece).input_ids) == 1]
    print(f"{options.out}: {len(tokenizer)} tokens; {len(whole)} of {len(pieces(lines))} pieces of the world's text are one token")


if __name__ == "__main__":
    main()
