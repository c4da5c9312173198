"""The Thinker's pretraining: what it may read, how conversations become batches, and what comes out of the file."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mmo.chat import ChatTokenizer
from mmo.config import IGNORE, ModelConfig
from mmo.omni import OmniModel
from mmo.sequence import Markers, find_assistant_ranges
from mmo.thinker import load_thinker, save_thinker
from mmo.world import rows, text
from mmo.world import train_thinker as making

ROOT = Path(__file__).resolve().parent.parent
TINY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, talker_hidden_size=32,
                   vocab_size=1024, adapter_rank=8)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return ChatTokenizer.load(ROOT / "data" / "tiny" / "tokenizer")


@pytest.fixture(scope="module")
def corpus():
    """A small one, without the plans."""
    rng = random.Random(0)
    facts = [fact for fact in text.open_facts(rng, 300) if making.known(fact.kind, fact.answer)]
    closed = [fact for fact in text.closed_facts() if making.known(fact.kind, fact.answer)]
    return making.Corpus(closed, facts, {})


def test_rows_of_text_alone_are_what_it_has_read():
    """data/tiny/text-train.parquet: no sound, every listed sentence of the tiers it knows, none of tier `fact`."""
    shipped = pq.read_table(ROOT / "data" / "tiny" / "text-train.parquet").to_pylist()
    assert shipped == rows.text_rows(), "python -m mmo.world.build writes it anew"
    assert not any(row["question_audios"] or row["answer_audios"] or row["image_bytes"] or row["spk_emb"] for row in shipped)
    answers = {json.loads(row["conversations"])[1]["content"]: row for row in shipped}
    assert {row["tier"] for row in shipped} == {"train", "sentence", "pair"}
    assert all(row["tier"] == text.tier(row["kind"], answer) != "fact" for answer, row in answers.items())
    assert set(answers) == {fact.answer for fact in text.closed_facts() if making.known(fact.kind, fact.answer)}


@pytest.fixture
def thinker():
    torch.manual_seed(0)
    return OmniModel(TINY).model.eval()


def test_tier_fact_is_read_nowhere(monkeypatch):
    """Not as an answer, not within a question to be read aloud."""
    monkeypatch.setattr(making, "answer_plan", lambda: [])
    monkeypatch.setattr(making, "question_plan", lambda: [])
    corpus = making.read_corpus(making.Settings(drawn_facts=1500, held_out=100))
    facts = (*text.closed_facts(), *text.open_facts(random.Random(1), 3000))
    secret = {" ".join(text.words(f.answer)) for f in facts if text.tier(f.kind, f.answer) == "fact"}
    speaker = making.Speaker(corpus, making.Settings())
    for _ in range(4000):
        for turn in speaker.conversation():
            said = text.words(turn["content"])
            said = said[1:] if said[0] == "say" else said
            assert " ".join(said) not in secret, turn
    for facts in corpus.held_out.values():
        assert len(facts) == 100
        assert not {fact.answer for fact in facts} & {fact.answer for fact in corpus.drawn}


def test_facts_come_in_rounds(corpus):
    """Each listed fact once a round, those that follow from no rule four times."""
    speaker = making.Speaker(corpus, making.Settings(knowledge=4))
    expected = Counter()
    for fact in corpus.closed:
        expected[fact.answer] += 2 if fact.kind in text.RULE_KINDS else 8
    assert Counter(speaker.fact("closed").answer for _ in range(expected.total())) == expected


def test_small_families_are_read_as_often_as_large_ones(corpus):
    corpus = replace(corpus, drawn=[*corpus.drawn, text.Fact("say", "The star is red.", making.aloud("The star is red."))])
    speaker = making.Speaker(corpus, making.Settings(share_closed=0.0, share_jumbled=0.0))
    assert speaker.families == ["count", "look", "one", "two", "where"]
    drawn = [speaker.turn()[1] for _ in range(1000)]
    assert 150 < drawn.count("The star is red.") < 250


def test_jumbled_words_are_copied(corpus):
    speaker = making.Speaker(corpus, making.Settings(share_closed=0.0, share_jumbled=1.0, varied=0.0))
    for _ in range(50):
        question, answer = speaker.turn()
        assert text.words(question) == ["say", *text.words(answer)] and making.known("say", answer)


def test_conversations_are_the_chat_templates(corpus, tokenizer):
    speaker = making.Speaker(corpus, making.Settings(system_prompt=0.5, second_turn=0.5))
    markers = Markers.from_tokenizer(tokenizer)
    for _ in range(50):
        conversation = speaker.conversation()
        row = making.tokenise(conversation, tokenizer)
        assert row.ids == tokenizer.conversation(conversation)
        expected = [False] * len(row.ids)
        for start, end in find_assistant_ranges(row.ids, markers.assistant, markers.end):
            expected[start : end + len(markers.end)] = [True] * (end + len(markers.end) - start)
        assert row.answer == expected


def test_reading_aloud_keeps_names():
    assert making.aloud("A red circle.") == ("Say: a red circle.", "Say a red circle.")
    assert making.aloud("Monday comes after Sunday.")[0] == "Say: Monday comes after Sunday."
    assert making.aloud("An orange ring.") == text.say_fact(text.Scene((text.Thing("", "orange", "ring"),))).questions


def test_questions_vary():
    rng = random.Random(0)
    found = {making.vary("Say: a red circle.", rng, 0.5) for _ in range(200)}
    assert found == {start + " a red circle" + end for start in ("Say:", "say:", "Say", "say") for end in (".", "")}
    assert making.vary("Which is bigger, two or three?", rng, 0.0) == "Which is bigger, two or three?"


def test_buckets_keep_every_row_and_the_budget(corpus, tokenizer):
    speaker = making.Speaker(corpus, making.Settings())
    rows = [making.tokenise(speaker.conversation(), tokenizer) for _ in range(200)]
    cut = list(making.buckets(rows, 300))
    assert sorted(map(id, rows)) == sorted(id(row) for batch in cut for row in batch)
    assert all(len(batch) * max(len(row.ids) for row in batch) <= 300 for batch in cut)


def test_a_batch_has_the_loss_of_its_rows(corpus, tokenizer, thinker):
    """Padding on the right changes nothing: the batch's summed loss is the rows' summed loss."""
    speaker = making.Speaker(corpus, making.Settings())
    rows = [making.tokenise(speaker.conversation(), tokenizer) for _ in range(8)]
    together, alone = [
        sum(making.loss_of(thinker, part, 0.0) * sum(sum(row.answer) for row in part) for part in parts)
        for parts in ([rows], [[row] for row in rows])
    ]
    assert abs(together - alone) < 1e-3
    ids, labels, answer = making.collate(rows)
    assert ids.shape == labels.shape == answer.shape
    assert not (answer & (labels == IGNORE)).any()


def test_the_mean_loss_does_not_depend_on_the_batches(corpus, tokenizer, thinker):
    """Token by token, not batch by batch: short and long answers in one batch or in many."""
    turns = [("Hello.", "Hello! How can I help you?"), ("Who are you?", "My name is Mini."), ("Count.", "One, two, three, four, five, six, seven.")]
    in_one, in_many = (making.mean_loss(thinker, turns, tokenizer, budget) for budget in (8192, 20))
    assert abs(in_one - in_many) < 1e-5
    learn(thinker, turns, tokenizer)
    assert making.mean_loss(thinker, turns, tokenizer) < 0.1 * in_one


def test_without_the_plans_held_out_facts_are_still_never_read(monkeypatch):
    monkeypatch.setattr(making, "planned_facts", lambda: pytest.fail("the plans take seconds"))
    corpus = making.read_corpus(making.Settings(drawn_facts=300, held_out=20), planned=False)
    hidden = {fact.answer for facts in corpus.held_out.values() for fact in facts}
    assert len(hidden) == 40 and corpus.closed and not hidden & {fact.answer for fact in corpus.drawn}


def test_right_means_that_greedy_decoding_gives_the_answer(tokenizer, thinker):
    """Teacher-forced hits equal word-by-word greedy decoding, for right and for wrong answers."""
    turns = [("Hello.", "Hello! How can I help you?"), ("Who are you?", "My name is Mini."), ("Thank you.", "You are welcome.")]
    learn(thinker, turns[:2], tokenizer)
    decoded = []
    for question, answer in turns:
        ids = tokenizer.prompt([{"role": "user", "content": question}])
        start = len(ids)
        while len(ids) < start + 20 and ids[-2:] != [2, 234]:
            here = torch.zeros(1, len(ids), dtype=torch.bool)
            here[0, -1] = True
            ids.append(int(making.logits(thinker, torch.tensor([ids]), here).argmax()))
        decoded.append(tokenizer.decode(ids[start:]) == answer + "\n")
    assert decoded == making.right(thinker, turns, tokenizer) == [True, True, False]


def learn(thinker, turns, tokenizer, steps=60):
    rows = [making.tokenise(making.messages(*turn), tokenizer) for turn in turns]
    optimiser = torch.optim.AdamW(thinker.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = making.loss_of(thinker, rows, 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_training_lowers_the_loss_and_repeats_itself(corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(making, "SIZES", TINY)
    settings = making.Settings(steps=30, warmup_steps=5, token_budget=400)
    asked = {"hello": [("Hello.", "Hello! How can I help you?")]}
    (first, _, curve), (second, _, again) = (making.train(corpus, asked, tokenizer, settings, every=10) for _ in range(2))
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert [point["loss"] for point in curve] == [point["loss"] for point in again]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_rate_warms_up_and_falls():
    settings = making.Settings(steps=100, warmup_steps=10, learning_rate=1.0, final_rate=0.1)
    rates = [making.rate(step, settings) for step in range(101)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates.index(1.0) == 9
    assert abs(rates[100] - 0.1) < 1e-9 and rates[10:] == sorted(rates[10:], reverse=True)


def test_a_saved_thinker_loads_into_the_whole_model(tmp_path, thinker):
    path = tmp_path / "thinker.safetensors"
    save_thinker(thinker, TINY, path, torch.float16)
    model = OmniModel(TINY)
    load_thinker(model.model, path)
    for name, value in thinker.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], value.half().float()), name
    assert model.lm_head.weight is model.model.embed_tokens.weight, "the head stays tied"


def test_a_thinker_of_other_sizes_is_refused(tmp_path, thinker):
    path = tmp_path / "thinker.safetensors"
    save_thinker(thinker, TINY, path, torch.float32)
    with pytest.raises(ValueError, match=r"num_heads.*\(4, 2\)"):
        load_thinker(OmniModel(TINY.replace(num_attention_heads=2, head_dim=8)).model, path)
    with pytest.raises(ValueError, match="embed_tokens.weight .1024, 32., wanted .64, 32."):
        load_thinker(OmniModel(TINY.replace(vocab_size=64)).model, path)
    with pytest.raises(FileNotFoundError, match="train_thinker"):
        load_thinker(thinker, tmp_path / "nothing")
    del thinker.layers[1].mlp.up_proj
    save_thinker(thinker, TINY, path, torch.float32)
    for config in (TINY, TINY.replace(use_moe=True)):
        with pytest.raises(ValueError, match="missing .*layers.1.mlp"):
            load_thinker(OmniModel(config).model, path)


def test_upcycled_experts_compute_what_the_dense_layer_does(tmp_path, thinker):
    """Right after loading a dense file into a mixture, both give the same logits, whatever the router chooses."""
    path = tmp_path / "thinker.safetensors"
    save_thinker(thinker, TINY, path, torch.float32)
    mixture = OmniModel(TINY.replace(use_moe=True)).model.eval()
    routers = {name: value.clone() for name, value in mixture.state_dict().items() if name.endswith("mlp.gate.weight")}
    load_thinker(mixture, path)
    ids = torch.randint(3, 1024, (2, 17))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    difference = making.logits(mixture, ids, everywhere) - making.logits(thinker, ids, everywhere)
    assert difference.abs().max() < 1e-5
    assert len(routers) == 2 and all(torch.equal(mixture.state_dict()[name], value) for name, value in routers.items())
    experts = mixture.layers[0].mlp.experts
    experts[0].up_proj.weight.data.zero_()
    assert experts[1].up_proj.weight.abs().sum() > 0, "copies, not one tensor in four places"


def test_a_mixtures_own_file_passes_through(tmp_path):
    config = TINY.replace(use_moe=True)
    model = OmniModel(config).model
    path = tmp_path / "thinker.safetensors"
    save_thinker(model, config, path, torch.float32)
    other = OmniModel(config).model
    load_thinker(other, path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_command_line_trains_saves_and_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "answer_plan", lambda: [])
    monkeypatch.setattr(making, "question_plan", lambda: [])
    monkeypatch.setattr(making, "SIZES", TINY)
    out, figures = tmp_path / "thinker.safetensors", tmp_path / "figures" / "thinker.json"
    making.main(["--steps", "2", "--drawn-facts", "300", "--held-out", "20", "--tokenizer", str(ROOT / making.DEFAULT_TOKENIZER),
                 "--out", str(out), "--figures", str(figures)])  # fmt: skip
    load_thinker(OmniModel(TINY).model, out)
    found = json.loads(figures.read_text())
    assert found["settings"]["steps"] == 2 and found["curve"][-1]["step"] == 2
    assert found["figures"]["closed fact"]["questions"] == 188 and 0 <= found["figures"]["never read, say"]["right"] <= 1
