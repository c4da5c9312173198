"""Pretrains the tiny Thinker: it knows the world as text before it ever hears, sees or speaks.

    python -m mmo.world.train_thinker          data/tiny/thinker.safetensors, data/tiny/figures/thinker.json

What it reads are conversations of the chat template.  Tier `fact` is in none of them, in no form.

    closed  sums, comparisons, days, greetings …: every fact that can be listed, asked in all its ways
    drawn   "Say: a red circle." and "A red circle is above a blue square. Where is the blue square?": a large pool of
            scenes, every answer and question of the speech plan and every caption of the picture plan among them.
            Small families ("Say: two red stars.", "Say: the star is red.") come as often as large ones
    aloud   any sentence of the world ("Say: seven plus two is nine."), and a few of words in no order, so that
            reading aloud is copying and not guessing

Questions are asked in lower case, without their sign or without commas and colons now and then; some conversations
have a system prompt or an earlier turn, so that an answer does not hang on where it stands.  Questions about pictures
are left out (without the picture they have no answer); the captions are there, to be read aloud.

An answer counts as right where every token of it, its end included, is the likeliest one given the true tokens before
it; that is the same as greedy decoding giving exactly this answer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mmo.chat import ChatTokenizer
from mmo.config import IGNORE, ModelConfig
from mmo.omni import OmniModel
from mmo.thinker import Thinker, load_thinker, save_thinker
from mmo.transformer import make_window
from mmo.world import plan, text
from mmo.world.pictures import picture_plan

DEFAULT_TOKENIZER = Path("data/tiny/tokenizer")
DEFAULT_OUT = Path("data/tiny/thinker.safetensors")
DEFAULT_FIGURES = Path("data/tiny/figures/thinker.json")
SIZES = ModelConfig(hidden_size=192, num_hidden_layers=4, talker_hidden_size=192)  # vocab_size: the tokenizer's
SYSTEM_PROMPTS = ("You are Mini.", "You are Mini, a small model that can hear, see and speak.")

Turn = tuple[str, str]  # question, answer
answer_plan, question_plan = lru_cache(plan.answer_plan), lru_cache(plan.question_plan)  # each takes seconds


@dataclass(frozen=True)
class Settings:
    """How the Thinker is trained."""

    steps: int = 3000
    token_budget: int = 1024  # positions a batch, padding included
    learning_rate: float = 3e-3
    final_rate: float = 0.0  # of learning_rate, where the cosine ends
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    question_weight: float = 0.0  # of the loss on all that is no answer
    share_closed: float = 0.6  # of the turns: listed facts; the rest is drawn
    share_aloud: float = 0.1  # of the listed facts' turns: the answer is read aloud
    share_jumbled: float = 0.1  # of the drawn turns: words in no order are read aloud
    knowledge: int = 4  # how often a round has each fact that follows from no rule (days, opposites, Mini itself)
    varied: float = 0.15  # chance of each way to write a question differently
    system_prompt: float = 0.1
    second_turn: float = 0.1
    drawn_facts: int = 40_000
    held_out: int = 1_000  # drawn facts of each kind that are never read
    seed: int = 0


# --- What is read --------------------------------------------------------------------------------------------------


def aloud(answer: str) -> tuple[str, str]:
    """The two ways to have a sentence read aloud.  A name keeps its capital: "Say: Monday comes after Sunday."."""
    first = answer.split()[0]
    inner = answer if first in (*text.DAYS, *text.MONTHS, "I") else answer[0].lower() + answer[1:]
    return f"Say: {inner}", f"Say {inner}"


def known(kind: str, answer: str) -> bool:
    """Whether a sentence may be read at all."""
    return text.tier(kind, answer) != "fact"


@dataclass(frozen=True)
class Corpus:
    """What the Thinker may read (closed, drawn), and drawn facts that it never reads (held_out), by kind."""

    closed: list[text.Fact]
    drawn: list[text.Fact]
    held_out: dict[str, list[text.Fact]]


def planned_facts() -> list[text.Fact]:
    """All sentences of the speech plans and all captions of the picture plan, of whatever split, as facts to be known.

    Sentences about pictures ("The circle is red.") are asked for by reading aloud.
    """
    facts = []
    for rendering in (*answer_plan(), *question_plan()):
        questions = aloud(rendering.answer) if rendering.kind in ("look", "say") else (rendering.question,)
        facts.append(text.Fact(rendering.kind, rendering.answer, questions))
    for picture in picture_plan():
        for fact in picture.scene.facts():
            facts.append(text.Fact(fact.kind, fact.answer, aloud(fact.answer)))
    return facts


def read_corpus(settings: Settings, planned: bool = True) -> Corpus:
    """Everything, tier `fact` left out; held-out facts share neither question nor answer with what is read.

    planned: with the sentences and captions of the speech and picture plans, which take seconds to make.
    """
    rng = random.Random(f"thinker {settings.seed}")
    held_out: dict[str, list[text.Fact]] = defaultdict(list)
    listing = [fact for fact in planned_facts() if known(fact.kind, fact.answer)] if planned else []
    listed = {fact.kind for fact in text.closed_facts()}
    supply = [fact for fact in text.open_facts(rng, settings.drawn_facts + 6 * settings.held_out) if known(fact.kind, fact.answer)]
    taken = {fact.answer for fact in listing}
    for fact in supply:
        if len(held_out[fact.kind]) < settings.held_out and fact.answer not in taken:
            held_out[fact.kind].append(fact)
    hidden = {fact.answer for facts in held_out.values() for fact in facts}
    pool = [*(fact for fact in listing if fact.kind not in listed), *supply]
    drawn = {(fact.answer, fact.questions): fact for fact in pool if fact.answer not in hidden}
    closed = [fact for fact in text.closed_facts() if known(fact.kind, fact.answer)]
    return Corpus(closed, list(drawn.values()), dict(held_out))


def vary(question: str, rng: random.Random, chance: float) -> str:
    """The question, perhaps in lower case, perhaps without its last sign, perhaps without commas and colons."""
    if rng.random() < chance:
        question = question.lower()
    if rng.random() < chance:
        question = question.rstrip(".?!")
    if rng.random() < chance:
        question = question.replace(",", "").replace(":", "")
    return question


def family(fact: text.Fact) -> str:
    """Which family a drawn fact belongs to: "where", or to be read aloud: a picture's "one", "two" or "count", or a
    sentence about one ("look")."""
    if fact.kind == "where":
        return "where"
    first, *others = text.words(fact.answer)
    if first == "the":
        return "look"
    if first in text.NUMBERS:
        return "count"
    return "two" if {"above", "below", "left", "right"} & set(others) else "one"


class Speaker:
    """Draws turns of a corpus.  Facts come in rounds, so that each is read as often as the others of its deck."""

    def __init__(self, corpus: Corpus, settings: Settings) -> None:
        self.settings = settings
        self.rng = random.Random(f"speaker {settings.seed}")
        self.cards: dict[str, list[text.Fact]] = defaultdict(list)
        for fact in corpus.closed:
            self.cards["closed"] += [fact] * (1 if fact.kind in text.RULE_KINDS else settings.knowledge)
        for fact in corpus.drawn:
            self.cards[family(fact)].append(fact)
        self.families = sorted(set(self.cards) - {"closed"})
        self.decks: dict[str, list[text.Fact]] = defaultdict(list)
        self.words = sorted({word for fact in corpus.closed for word in text.words(fact.answer)})

    def fact(self, name: str) -> text.Fact:
        """The next fact of the deck, which is shuffled anew when it has run out."""
        deck = self.decks[name]
        if not deck:
            deck.extend(self.cards[name])
            self.rng.shuffle(deck)
        return deck.pop()

    def turn(self) -> Turn:
        """A question and its answer."""
        settings, rng = self.settings, self.rng
        if rng.random() < settings.share_closed:
            fact = self.fact("closed")
            questions = aloud(fact.answer) if rng.random() < settings.share_aloud else fact.questions
        else:
            fact = self.jumbled() if rng.random() < settings.share_jumbled else self.fact(rng.choice(self.families))
            questions = fact.questions
        return vary(rng.choice(questions), rng, settings.varied), fact.answer

    def jumbled(self) -> text.Fact:
        """Two to eight words of the world in no order, to be read aloud."""
        while True:
            answer = text.sentence(" ".join(self.rng.choices(self.words, k=self.rng.randint(2, 8))))
            if known("say", answer):
                return text.Fact("say", answer, aloud(answer))

    def conversation(self) -> list[dict[str, str]]:
        """One turn, sometimes two, sometimes with a system prompt."""
        turns = []
        if self.rng.random() < self.settings.system_prompt:
            turns.append({"role": "system", "content": self.rng.choice(SYSTEM_PROMPTS)})
        for _ in range(2 if self.rng.random() < self.settings.second_turn else 1):
            turns.extend(messages(*self.turn()))
        return turns


def messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@dataclass(frozen=True)
class Tokens:
    """A conversation as ids; `answer[t]` says that token t belongs to an answer (its end and newline included)."""

    ids: list[int]
    answer: list[bool]


def tokenise(conversation: Sequence[dict[str, str]], tokenizer: ChatTokenizer) -> Tokens:
    """Turn by turn, which gives the chat template's ids: every turn ends and begins with a special token."""
    ids, answer = [], []
    for turn in conversation:
        head = tokenizer.encode(f"<|im_start|>{turn['role']}\n")
        body = tokenizer.encode(f"{turn['content']}<|im_end|>\n")
        ids += head + body
        answer += [False] * len(head) + [turn["role"] == "assistant"] * len(body)
    return Tokens(ids, answer)


def collate(rows: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
    """Input ids (B, T), labels (B, T) one ahead (IGNORE behind the end), and (B, T) True where the label is answer."""
    T = max(len(row.ids) for row in rows) - 1
    ids = torch.zeros(len(rows), T, dtype=torch.long)
    labels = torch.full((len(rows), T), IGNORE)
    answer = torch.zeros(len(rows), T, dtype=torch.bool)
    for b, row in enumerate(rows):
        length = len(row.ids) - 1
        ids[b, :length] = torch.tensor(row.ids[:-1])
        labels[b, :length] = torch.tensor(row.ids[1:])
        answer[b, :length] = torch.tensor(row.answer[1:])
    return ids, labels, answer


def buckets(rows: Sequence[Tokens], token_budget: int) -> Iterator[list[Tokens]]:
    """Rows sorted by length and cut into batches of at most `token_budget` positions, padding included."""
    batch: list[Tokens] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batch and (len(batch) + 1) * len(row.ids) > token_budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def batches(speaker: Speaker, tokenizer: ChatTokenizer, settings: Settings, pool: int = 1024) -> Iterator[list[Tokens]]:
    """Batches without end, cut from pools of fresh conversations and shuffled."""
    while True:
        rows = [tokenise(speaker.conversation(), tokenizer) for _ in range(pool)]
        cut = list(buckets(rows, settings.token_budget))
        speaker.rng.shuffle(cut)
        yield from cut


# --- Learning ------------------------------------------------------------------------------------------------------


def logits(thinker: Thinker, ids: Tensor, here: Tensor) -> Tensor:
    """Logits (N, V) at the N positions of ids (B, T) that `here` (B, T) marks."""
    window = make_window(thinker.config, ids.shape[1], ids.device)
    bridge, _ = thinker.lower(thinker.embed_tokens(ids), window)
    text_hidden, _ = thinker.upper(bridge, window)
    return F.linear(text_hidden[here], thinker.embed_tokens.weight)


def loss_of(thinker: Thinker, rows: Sequence[Tokens], question_weight: float) -> Tensor:
    """Mean cross-entropy of the answers' tokens, plus `question_weight` times that of all others."""
    ids, labels, answer = collate(rows)
    here = answer if question_weight == 0 else labels != IGNORE
    losses = F.cross_entropy(logits(thinker, ids, here), labels[here], reduction="none")
    of_answer = answer[here]
    loss = losses[of_answer].mean()
    return loss if question_weight == 0 else loss + question_weight * losses[~of_answer].mean()


@torch.no_grad()
def right(thinker: Thinker, turns: Sequence[Turn], tokenizer: ChatTokenizer, token_budget: int = 8192) -> list[bool]:
    """Whether greedy decoding gives exactly the answer, for each (question, answer); see the top of this file."""
    rows = [tokenise(messages(*turn), tokenizer) for turn in turns]
    place = {id(row): number for number, row in enumerate(rows)}
    found = [False] * len(rows)
    for batch in buckets(rows, token_budget):
        ids, labels, answer = collate(batch)
        hit = torch.ones_like(answer)
        hit[answer] = logits(thinker, ids, answer).argmax(dim=-1) == labels[answer]
        for row, all_hit in zip(batch, hit.all(dim=1).tolist(), strict=True):
            found[place[id(row)]] = all_hit
    return found


@torch.no_grad()
def mean_loss(thinker: Thinker, turns: Sequence[Turn], tokenizer: ChatTokenizer, token_budget: int = 8192) -> float:
    """Mean cross-entropy of all tokens of all answers, in nats; how the turns are cut into batches does not count."""
    total, tokens = 0.0, 0
    for batch in buckets([tokenise(messages(*turn), tokenizer) for turn in turns], token_budget):
        count = sum(sum(row.answer) for row in batch)
        total, tokens = total + float(loss_of(thinker, batch, 0.0)) * count, tokens + count
    return total / tokens


def groups(corpus: Corpus) -> dict[str, list[Turn]]:
    """What is asked at the end, by name: listed facts by tier and form, the plans' held-out questions, unread facts."""
    asked: dict[str, list[Turn]] = defaultdict(list)
    for fact in text.closed_facts():
        tier = text.tier(fact.kind, fact.answer)
        for question in fact.questions:
            asked[f"closed {tier}"].append((question, fact.answer))
            plain = question.lower().replace(",", "").rstrip(".?!")
            asked[f"closed {tier}, lower case, no signs"].append((plain, fact.answer))
    for rendering in answer_plan():
        if rendering.split == "test":
            question = aloud(rendering.answer)[0] if rendering.kind == "look" else rendering.question
            asked[f"spoken answers, test, {rendering.tier}"].append((question, rendering.answer))
    for rendering in question_plan():
        if rendering.split == "test":
            asked[f"spoken questions, test, {rendering.tier}"].append((rendering.question, rendering.answer))
    for kind, facts in corpus.held_out.items():
        asked[f"never read, {kind}"] = [(question, fact.answer) for fact in facts for question in fact.questions]
    return {name: list(dict.fromkeys(turns)) for name, turns in asked.items()}


def shares(thinker: Thinker, asked: dict[str, list[Turn]], tokenizer: ChatTokenizer) -> dict[str, float]:
    """Share of right answers in each group."""
    return {name: sum(right(thinker, turns, tokenizer)) / len(turns) for name, turns in asked.items()}


def rate(step: int, settings: Settings) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    progress = max(0, step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    falling = settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return settings.learning_rate * warm * falling


def optimiser_for(thinker: Thinker, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; norms and the embedding do not decay."""
    decaying = [p for name, p in thinker.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in thinker.named_parameters() if p.dim() != 2 or "embed" in name]
    kinds = [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(kinds, lr=settings.learning_rate, betas=settings.betas, fused=True)


class Training:
    """A Thinker that learns from a corpus: its weights, their running average, the optimiser and the supply of conversations.

        training = Training(corpus, tokenizer, Settings(steps=400))
        for step in range(400):
            loss = training.step(step)          # a scalar: the mean cross-entropy of the answers' tokens, before the update
        training.averaged                       # the Thinker to keep

    start: a file of weights to go on from; without one the weights are drawn with the settings' seed.
    """

    def __init__(self, corpus: Corpus, tokenizer: ChatTokenizer, settings: Settings, start: Path | None = None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.config = settings, SIZES.replace(vocab_size=len(tokenizer))
        self.thinker = OmniModel(self.config).model.train()
        if start:
            load_thinker(self.thinker, start)
        self.averaged = deepcopy(self.thinker).eval().requires_grad_(False)
        self.optimiser = optimiser_for(self.thinker, settings)
        self.supply = batches(Speaker(corpus, settings), tokenizer, settings)

    def step(self, step: int) -> Tensor:
        """One update, the `step`-th, from 0; returns the loss of its batch, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(step, self.settings)
        loss = loss_of(self.thinker, next(self.supply), self.settings.question_weight)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.thinker.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        decay = min(self.settings.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.thinker.parameters()), 1 - decay)
        return loss.detach()


def train(
    corpus: Corpus, asked: dict[str, list[Turn]], tokenizer: ChatTokenizer, settings: Settings, every: int = 250,
    start: Path | None = None,
):  # fmt: skip
    """Train from scratch, or from the weights of a file; `asked` groups are measured on the way.

    Returns the averaged Thinker, its configuration, and the curve (a list of measurements).
    """
    training = Training(corpus, tokenizer, settings, start)
    watched = {name: turns[:: 1 + len(turns) // 400] for name, turns in asked.items()}
    curve, running, began = [], [], (time.time(), time.process_time())
    bar = tqdm(range(settings.steps), desc="Thinker")
    for step in bar:
        running.append(training.step(step))
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            point = {"step": step + 1, "loss": round(torch.stack(running).mean().item(), 5),
                     "seconds": round(time.time() - began[0], 1), "cpu_seconds": round(time.process_time() - began[1], 1)}
            running.clear()
            point |= {name: round(share, 4) for name, share in shares(training.averaged, watched, tokenizer).items()}
            curve.append(point)
            bar.write(json.dumps(point))
    return training.averaged, training.config, curve


# --- Report --------------------------------------------------------------------------------------------------------


WATCHED = ("closed train", "closed sentence", "closed pair", "never read, say", "never read, where")


def report(thinker: Thinker, asked: dict[str, list[Turn]], tokenizer: ChatTokenizer) -> dict:
    """Every group's share of right answers and size, the kinds of the wrong ones, and some wrong questions."""
    kinds = {fact.answer: fact.kind for fact in text.closed_facts()}
    found = {}
    for name, turns in asked.items():
        wrong = [turn for turn, ok in zip(turns, right(thinker, turns, tokenizer), strict=True) if not ok]
        found[name] = {
            "right": round(1 - len(wrong) / len(turns), 5),
            "questions": len(turns),
            "wrong_by_kind": dict(Counter(kinds.get(answer, "drawn") for _, answer in wrong)),
            "wrong": [question for question, _ in wrong[:5]],
        }
    return found


def write_json(values: dict, path: Path) -> None:
    """Write atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def main(arguments: list[str] | None = None) -> None:
    """Train, save in fp16, and measure what was saved."""
    parser = argparse.ArgumentParser(description="Pretrain the tiny Thinker on the world's text.")
    parser.add_argument("--tokenizer", type=Path, default=DEFAULT_TOKENIZER)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--figures", type=Path, default=DEFAULT_FIGURES)
    parser.add_argument("--start", type=Path, help="go on from these weights (a new schedule, not a resumed one)")
    parser.add_argument("--threads", type=int, default=1)
    for name, default in asdict(Settings()).items():
        if not isinstance(default, tuple):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(options["threads"])
    settings = Settings(**{name: options[name] for name in asdict(Settings()) if name in options})

    tokenizer = ChatTokenizer.load(options["tokenizer"])
    corpus = read_corpus(settings)
    asked = groups(corpus)
    trained, config, curve = train(corpus, {name: asked[name] for name in WATCHED}, tokenizer, settings, start=options["start"])
    save_thinker(trained, config, options["out"], torch.float16)
    thinker = OmniModel(config).model.eval()
    load_thinker(thinker, options["out"])
    figures = report(thinker, asked, tokenizer)
    values = {
        "settings": asdict(settings), "start": options["start"] and options["start"].name, "curve": curve, "figures": figures,
        "corpus": {"closed": len(corpus.closed), "drawn": len(corpus.drawn)},
        "parameters": sum(p.numel() for p in thinker.parameters()),
        "versions": {"torch": torch.__version__, "python": platform.python_version()}, "threads": options["threads"],
    }  # fmt: skip
    write_json(values, options["figures"])
    for name, figure in figures.items():
        print(f"{figure['right']:8.2%} of {figure['questions']:5d}  {name}  {figure['wrong_by_kind'] or ''}")


if __name__ == "__main__":
    main()
