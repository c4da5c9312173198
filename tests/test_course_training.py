"""Notebooks 10 to 12: what their exercises are compared with is what the package computes."""

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmo.chat import ChatTokenizer
from mmo.config import IGNORE, Draws
from mmo.course.cost import WARM, Tried, print_beside, try_pass
from mmo.course.exercises import find, judge
from mmo.course.tasks import errors, training, trusting
from mmo.data import Batches, Corpus, Layout, disturb, written_down
from mmo.measures import interval, words
from mmo.measures import word_errors as package_word_errors
from mmo.muon import Muon
from mmo.omni import OmniModel
from mmo.optimiser import Average
from mmo.profiles import profile
from mmo.sequence import Markers, Row, build_row, find_assistant_ranges
from mmo.training import Encoders, open_corpora
from mmo.world.pictures import mirrored
from mmo.world.text import RELATIONS, random_scene


def test_average_is_the_packages():
    parameter = nn.Parameter(torch.randn(3, 4))
    kept = Average({"w": parameter}, 0.9)
    wanted = parameter.detach().clone()
    for update in range(1, 30):
        parameter.data += torch.randn(3, 4)
        kept.update()
        wanted = training.average(wanted, parameter.detach(), 0.9, update)
    torch.testing.assert_close(kept.values["w"], wanted)


@pytest.mark.parametrize("case", range(len(errors.cases())))
def test_word_errors_are_the_packages(case):
    wanted, heard = errors.cases()[case].arguments
    counted = package_word_errors([" ".join(wanted)], [" ".join(heard)])
    assert errors.word_errors(wanted, heard) == int(counted.errors.sum())


def test_interval_is_the_packages():
    hits = (torch.arange(80) % 4 > 0)
    drawn = torch.from_numpy(np.random.default_rng(0).integers(80, size=(1000, 80)))
    found = interval(hits.numpy().astype(int), np.ones(80, dtype=int), 0)
    assert [round(float(edge), 4) for edge in trusting.interval(hits, drawn)] == found


def test_the_lie_is_the_packages():
    """`disturb` draws a number for each position (once for hidden stretches, once for lies), then the lies."""
    config = profile("tiny").model
    Q, T, first = config.num_codebooks, 40, 12
    ids = torch.cat((torch.randint(config.num_codes, (Q, T)), torch.zeros(1, T, dtype=torch.long)))
    labels = torch.where(torch.arange(T) >= first, ids[:-1], IGNORE)
    row = Row(ids, torch.full((T,), IGNORE), labels, stop_cut=0, answer_cut=False)
    fed = disturb(row, Draws.none(random_codes=0.3), np.random.default_rng(5), config).input_ids

    draws = np.random.default_rng(5)
    draws.random(T)
    drawn = torch.from_numpy(draws.random(T))
    spoken = torch.arange(T) >= first
    here = spoken & (drawn < 0.3)
    lies = torch.zeros(Q, T, dtype=torch.long)
    lies[:, here] = torch.from_numpy(draws.integers(config.audio_vocab_size, size=(Q, int(here.sum()))))
    assert int(here.sum()) > 3
    assert torch.equal(fed[:-1], training.lie(ids[:-1], lies, spoken, drawn, 0.3))


def test_the_loss_begins_where_a_blind_head_leaves_it():
    frames, entries, weight = torch.tensor([3, 8]), 50, 10.0
    assert training.begin(frames, entries, weight) == pytest.approx(np.log(entries) * (11 + 2 * weight) / 13, rel=1e-6)


@pytest.mark.parametrize("learns", [(True, False, False), (True, True, True), (False, True, False), (False, False, True), (False, False, False)])
def test_operations_are_torchs(learns):
    """A chain of linear layers, counted by torch itself."""
    widths, positions = (4, 8, 16, 8), 5
    chain = nn.Sequential(*(nn.Linear(one, other, bias=False) for one, other in zip(widths, widths[1:])))
    for part, learning in zip(chain, learns):
        part.requires_grad_(learning)
    with FlopCounterMode(display=False) as counter:
        result = chain(torch.randn(positions, widths[0])).sum()
        if any(learns):
            result.backward()
    weights = torch.tensor([part.weight.numel() for part in chain])
    assert errors.operations(weights, torch.tensor(learns)) == counter.get_total_flops() / positions


def test_label_shares_are_those_of_batches():
    """Two corpora of the same rows, one mostly silent: the labels counted in the examples of one chunk."""
    settings = profile("tiny")
    stage = settings.stages["t2a"][0]
    file = open_corpora(settings, stage, Encoders())[0][0].files
    silent = [0.85, 0.0]
    corpora = [Corpus(file, Draws.none(silent=share)) for share in silent]
    layout = Layout(settings.model, ChatTokenizer.load(settings.tokenizer_dir), stage.max_length)
    batches = Batches(corpora, [0.75, 0.25], layout, stage.token_budget, chunk_rows=800)
    found = torch.zeros(2, 2)
    for which, epoch, row in batches.drawn(0):
        example = batches.example(which, epoch, row).row
        found[:, which] += torch.tensor([(example.text_labels != IGNORE).sum(), (example.audio_labels[0] != IGNORE).sum()])
    wanted = errors.label_shares(torch.tensor([0.75, 0.25]), torch.tensor(silent), torch.full((2,), 9.0), torch.full((2,), 26.0))
    torch.testing.assert_close(found / found.sum(dim=1, keepdim=True), wanted, atol=0.06, rtol=0)


@pytest.mark.parametrize("thinks", [True, False])
def test_sound_begins_where_rows_begin_it(thinks):
    """A row built by the package: its first code answers the position whose text is the first token behind the block."""
    settings = profile("tiny")
    tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
    markers = Markers.from_tokenizer(tokenizer)
    block = written_down("What is three plus four?", tokenizer) if thinks else ""
    text = tokenizer.conversation([{"role": "user", "content": "Hello."}, {"role": "assistant", "content": block + "Seven."}])
    first, end = find_assistant_ranges(text, markers.assistant, markers.end)[-1]
    begins = errors.sound_begins(text, first, end, list(markers.think_end))
    assert (begins > first) == thinks and tokenizer.decode(text[begins:end]).strip() == "Seven."
    labels = build_row(text, torch.zeros(settings.model.num_codebooks, 5, dtype=torch.long), settings.model, markers).audio_labels
    assert int((labels[0] != IGNORE).nonzero()[0]) == begins


def test_told_from_the_other_thing_is_mirrored():
    """Captions of drawn scenes, of all kinds: an "an" before orange goes along."""
    rng = random.Random(4)
    scenes = [random_scene(rng) for _ in range(300)]
    assert {scene.relation for scene in scenes} == {"", *RELATIONS}
    for scene in scenes:
        assert trusting.told(words(scene.caption)) == words(mirrored(scene).caption)


@pytest.mark.parametrize("said", ["", "above", "left of", "a a red red left", "of of right of of"])
def test_nothing_a_model_may_say_breaks_it(said):
    """Broken captions, as an untrained model writes them: no word is lost."""
    found = trusting.told(said.split())
    assert len(found) == len(said.split())


def test_change_is_the_packages():
    before, after = torch.arange(90) % 4 > 0, torch.arange(90) % 5 > 0
    drawn = torch.from_numpy(np.random.default_rng(0).integers(90, size=(1000, 90)))
    found = interval(after.numpy().astype(int) - before.numpy().astype(int), np.ones(90, dtype=int), 0)
    assert [round(float(edge), 4) for edge in trusting.change(before, after, drawn)] == found


def test_a_pass_is_tried_on_the_batches_that_it_will_begin_with():
    settings = profile("tiny")
    stage = settings.stages["t2a"][0]
    model = OmniModel(settings.model)
    tried = try_pass(settings, stage, model, Encoders(), updates=1)
    corpora, shares = open_corpora(settings, stage, Encoders())
    layout = Layout(settings.model, ChatTokenizer.load(settings.tokenizer_dir), stage.max_length)
    batch = list(islice(Batches(corpora, shares, layout, stage.token_budget, chunk_rows=stage.chunk_rows).start(), WARM + 1))[-1]
    assert (tried.rows, tried.positions, tried.speaking) == (len(batch.names), batch.size, 1.0)
    assert tried.useful == batch.useful / batch.size
    assert tried.minutes == stage.steps * tried.seconds / 60 > 0


def test_what_was_told_stands_beside_what_it_took(capsys):
    told = Tried("a2a", steps=3, seconds=0.2, opening=1.0, rows=20, positions=1000, useful=1.0, speaking=0.9)
    log = [{"pass": "a2a", "seconds": 0.5, "positions": 1000}, {"pass": "a2a", "seconds": 0.3, "positions": 1000}, {"pass": "a2a-projector", "seconds": 9, "positions": 1}]
    print_beside([told], log)
    assert capsys.readouterr().out.split() == "a2a 0.40 s an update (0.20 when tried), 2500 positions a second (5000)".split()
    print_beside([told], [])
    assert "not in the log" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(6, 6), (5, 16), (16, 5), (3, 4)])
def test_even_is_muons_step(shape):
    """One update of the package's optimiser, from nothing, at rate 1: its mean has only seen this gradient, so its direction is the gradient's."""
    weight = nn.Parameter(torch.zeros(*shape))
    weight.grad = training.uneven(*shape, 1.7, 3)
    wanted = training.even(weight.grad) * max(1.0, shape[0] / shape[1]) ** 0.5
    Muon([weight], lr=1.0).step()
    torch.testing.assert_close(-weight.detach(), wanted, atol=1e-4, rtol=0)


def test_even_keeps_directions_and_levels_what_they_weigh():
    mean = training.uneven(12, 20, 0.4, 9)
    left, before, right = torch.linalg.svd(mean, full_matrices=False)
    found = left.T @ training.even(mean) @ right.T
    assert before[0] / before[-1] > 30
    assert 0.65 < float(found.diagonal().min()) <= float(found.diagonal().max()) < 1.15
    assert float((found - found.diagonal().diag()).abs().max()) < 1e-3


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_rounds_that_end_in_nan_are_told_from_their_cause(size):
    """However the rounds are written: a matrix that is not divided by its norm leaves what floats can hold."""

    def rounds(mean):
        x = mean * size
        for _ in range(5):
            x = 3.4445 * x - 4.775 * x @ (x.T @ x) + 2.0315 * x @ (x.T @ x) @ (x.T @ x)
        return x

    verdict = judge(replace(find("10.even"), picture=None), rounds)
    assert verdict.kind == "wrong" and training.UNDIVIDED in verdict.words
