"""Shares of a batch are the batch: its rows, its counts, its loss, its gradients, whatever the rows are and however many processes share it.

Here all processes are played by one; that several real ones do the same is in test_distributed.py."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
import worlds
from test_training import CPU, profile  # noqa: F401  (profile is a fixture)

from mmo.config import IGNORE, Draws
from mmo.data import Batches, Layout
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.rows import DataError
from mmo.shares import Measure, SharedBatches, deal, whole_of
from mmo.training import Stepper, losses_of, open_corpora

STAGES = ("t2a", "a2a", "i2t")


def told(profile, stage, seed=0, budget=480, model=None, draws=None, chunk_rows=24):  # noqa: F811
    """What `Batches` is made of: the last pass of a stage, with its rehearsal."""
    config = profile.stages[stage][-1]
    corpora, shares = open_corpora(profile, config, worlds.toy_encoders())
    for corpus in corpora:
        corpus.draws = draws or corpus.draws
    return corpora, shares, Layout(model or profile.model, worlds.tokenizer(), 160), budget, seed, chunk_rows


def members(size, *arguments):
    """The processes that share the batches, and what they would tell each other."""
    found = []
    for rank in range(size):
        found.append(SharedBatches(*arguments, rank=rank, size=size, exchange=lambda number, own: [each.measure(number) for each in found]))
    return found


def take(batches, count, *start):
    stream = batches.start(*start)
    return [next(stream) for _ in range(count)]


def rows_of(batch):
    """Each row's inputs and labels as far as it is not padded, and its features."""
    config, found = worlds.MODEL, []
    for row in range(len(batch.names)):
        ids, text, audio = batch.input_ids[row], batch.text_labels[row], batch.audio_labels[row]
        empty = (ids[:-1] == config.audio_pad_token).all(dim=0) & (ids[-1] == config.pad_token) & (text == IGNORE) & (audio == IGNORE).all(dim=0)
        length = int((~empty).nonzero()[-1]) + 1
        features = () if batch.audio_features is None else batch.audio_features[row, : int(batch.audio_lengths[row])].tolist()
        voice = () if batch.speaker is None or not batch.speaker[row].any() else batch.speaker[row].tolist()
        pictures = () if batch.image_features is None else [each.tolist() for each in batch.image_features[row] if each.any()]
        found.append((batch.names[row], ids[:, :length].tolist(), text[:length].tolist(), audio[:, :length].tolist(), features, voice, pictures))
    return found


# --- Rows and counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_shares_of_a_batch_are_the_batch(profile, stage, size, seed):  # noqa: F811
    """Rows to the bit and in order, over several chunks, which epochs begin in; counts, position and what was left out as the whole has them."""
    whole = take(Batches(*told(profile, stage, seed)), 9)
    assert whole[-1].position[0] >= 2
    shares = [take(each, 9) for each in members(size, *told(profile, stage, seed))]
    for number, batch in enumerate(whole):
        parts = [each[number] for each in shares]
        before = 0
        for part in parts:
            assert part.part_of == batch.whole() and part.position == batch.position and part.answers_cut == batch.answers_cut
            assert part.talks == bool(batch.spoken) and (part.idle or part.before == before)
            before += 0 if part.idle else len(part.spoken)
            for name in ("speaker", "audio_features", "image_features"):
                assert (getattr(part, name) is None) == (getattr(batch, name) is None), name
        assert [row for part in parts if not part.idle for row in rows_of(part)] == rows_of(batch), f"batch {number} of {stage}"


def test_idle_shares_learn_nothing_and_keep_step(profile):  # noqa: F811
    """More processes than rows: each has a batch all the same, with no label in it, and the Talker and the upper layers take part."""
    arguments = told(profile, "t2a", budget=160)
    whole, shares = take(Batches(*arguments), 4), [take(each, 4) for each in members(8, *arguments)]
    assert any(len(batch.names) < 8 for batch in whole)
    for number, batch in enumerate(whole):
        idle = [each[number] for each in shares if each[number].idle]
        assert len(idle) == max(0, 8 - len(batch.names))
        for part in idle:
            assert len(part.names) == 1 and (part.text_labels == IGNORE).all() and (part.audio_labels == IGNORE).all()
            assert part.speaking == (0,) and part.text_length > 0


def test_shares_begin_at_any_batch(profile):  # noqa: F811
    whole = take(members(2, *told(profile, "a2a"))[1], 8)
    for stop in (1, 4, 6):
        rest = take(members(2, *told(profile, "a2a"))[1], 8 - stop, *whole[stop - 1].position)
        assert [rows_of(batch) for batch in rest] == [rows_of(batch) for batch in whole[stop:]], f"stopped after {stop}"


def test_an_epoch_is_as_long_for_all(profile):  # noqa: F811
    arguments = told(profile, "i2t")
    assert {each.steps_per_epoch() for each in members(3, *arguments)} == {Batches(*arguments).steps_per_epoch()}


def test_a_chunk_without_an_answer_is_named_by_all(profile):  # noqa: F811
    corpora, shares, layout, *rest = told(profile, "t2a")
    short = Layout(layout.config, layout.tokenizer, 4)
    for batches in (Batches(corpora, shares, short, *rest), *members(2, corpora, shares, short, *rest)):
        with pytest.raises(DataError, match="every answer of 24 rows lies behind max_length 4"):
            batches.plan(0)


def test_each_process_measures_its_part_only(profile, monkeypatch):  # noqa: F811
    """A chunk costs a process its own part of the measuring and its own shares, not the whole chunk."""
    realised = []
    own = Batches.example
    monkeypatch.setattr(Batches, "example", lambda self, *row: (realised.append(getattr(self, "rank", None)), own(self, *row))[1])
    found = members(4, *told(profile, "t2a"))
    measured = [each.measure(0) for each in found]
    for each in found:
        each.exchange = lambda number, own: measured
        realised.clear()
        batches = list(each.of_chunk(0))
        assert len(realised) == len(measured[each.rank]) + sum(len(batch.names) for batch in batches) <= 24 // 4 + 24 // 2


def test_shards_of_a_file_give_its_batches(profile):  # noqa: F811
    """t2a-train.parquet, or t2a-train-00000-of-00003.parquet and so on: the same rows in the same batches, read from all shards in every chunk."""
    whole = take(Batches(*told(profile, "t2a")), 6)
    path = profile.data_dir / "t2a-train.parquet"
    path.unlink()
    rows = worlds.make_rows("t2a", 40)
    for number, part in enumerate((rows[:5], rows[5:25], rows[25:])):
        worlds.write_rows(path.with_stem(f"t2a-train-{number:05d}-of-00003"), part)
    found = take(Batches(*told(profile, "t2a")), 6)
    assert [[row[1:] for row in rows_of(batch)] for batch in found] == [[row[1:] for row in rows_of(batch)] for batch in whole]
    assert len({name.split(",")[0] for batch in found if batch.position[0] <= 1 for name in batch.names}) == 3


# --- Dealing ---------------------------------------------------------------------------------------------------------


def measures(*lengths):
    return [Measure(place, length, 1, 0, 0, 0, 0, 0, 1, (0,)) for place, length in enumerate(lengths)]


@pytest.mark.parametrize("lengths", [(5,) * 7, (1, 2, 3, 4, 40), (10, 11, 12, 13, 14, 15, 16, 17), (3,), (2, 90)])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_dealt_shares_are_runs_and_the_largest_is_as_small_as_can_be(lengths, size):
    rows = measures(*lengths)
    runs = deal(rows, size)
    assert len(runs) == size and [row for run in runs for row in run] == rows
    assert sum(not run for run in runs) == max(0, size - len(rows)), "an idle process though there are rows enough"
    largest = max(len(run) * run[-1].length for run in runs if run)
    best = min(
        max(len(part) * part[-1].length for part in (rows[a:b] for a, b in zip((0, *cuts), (*cuts, len(rows)))))
        for cuts in combinations(range(1, len(rows)), min(size, len(rows)) - 1)
    )
    assert largest == best


def test_even_shares_are_alike_in_number():
    assert [len(run) for run in deal(measures(*range(1, 12)), 4, even=True)] == [2, 3, 3, 3]


def test_measures_survive_being_sent(profile):  # noqa: F811
    batches = Batches(*told(profile, "i2t"))
    for place, each in enumerate(batches.drawn(0)):
        measure = Measure.of(place, batches.example(*each))
        assert Measure.read(measure.integers()) == measure
    rows = [Measure.of(place, example) for place, example in enumerate(batches.plan(0)[0])]
    assert whole_of(rows) == take(batches, 1)[0].whole()


# --- Loss and gradients ----------------------------------------------------------------------------------------------


def learnt(model, stage, parts, keep, pooled=False):
    """Summed losses of the parts, and the gradients that they leave."""
    model.zero_grad()
    totals = 0.0
    for part in parts:
        if pooled is not False:
            pooled(part)
        loss, made_of = losses_of(model, part, stage, CPU, keep, pooled is not False)
        loss.backward()
        totals = totals + torch.cat((loss.detach()[None], made_of))
    return totals, {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def same(one, other, what):
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys(), f"{what}: other weights learn"
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=1e-3, atol=1e-6, msg=lambda words: f"{what}, {name}: {words}")


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_shares_teach_what_the_batch_teaches(profile, stage, size, seed):  # noqa: F811
    """Dense: losses add up to the whole's, gradients too, and the same weights have one; with dropout, weights of codebooks, silent rows."""
    draws = Draws(system_prompt=0.1, hidden_history=0.2, random_codes=0.1, silent=0.6)
    arguments = told(profile, stage, seed, draws=draws)
    config = profile.stages[stage][-1].replace(code_dropout=0.3, codebook_weights=(4.0, 3.0, 2.0, 1.0, 0.5, 0.5, 0.5, 0.5))
    torch.manual_seed(seed)
    model = OmniModel(profile.model).train()
    stepper = Stepper(model, config, 10, CPU, torch.float32)
    shares = [take(each, 4) for each in members(size, *arguments)]
    for number, batch in enumerate(take(Batches(*arguments), 4)):
        keep = stepper.draw_keep(batch)
        assert (keep is None) == (not batch.spoken)
        same(learnt(model, config, [batch], keep), learnt(model, config, [each[number] for each in shares], keep), f"batch {number}")


@pytest.mark.parametrize("size", [2, 3, 8])
def test_experts_balance_over_all_shares(profile, size):  # noqa: F811
    """Mixtures: the auxiliary loss and its gradients are those of the whole batch, padding and silent rows included."""
    mixture = profile.model.replace(use_moe=True, router_aux_loss_coef=0.1)
    arguments = told(profile, "i2t", model=mixture, draws=Draws.none(silent=0.5))
    config = profile.stages["i2t"][-1]
    torch.manual_seed(0)
    model = OmniModel(mixture).train()
    balances = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    talkers = [module for module in model.talker.modules() if isinstance(module, MixtureOfExperts)]
    shares = [take(each, 3) for each in members(size, *arguments)]

    def counting(part):
        for each in balances:
            each.counted = bool(part.spoken) if each in talkers else not part.idle

    for number, batch in enumerate(take(Batches(*arguments), 3)):
        for each in balances:
            each.pool, each.counted = None, True
        wanted = learnt(model, config, [batch], None)
        assert wanted[0][3] > 0
        parts, chosen = [each[number] for each in shares], {each: [] for each in balances}
        for each in balances:
            each.pool = lambda own, each=each: (chosen[each].append(own), own)[1]
        learnt(model, config, parts, None, counting)  # what each would tell
        for each in balances:
            each.pool = lambda own, each=each: sum(chosen[each])
        same(wanted, learnt(model, config, parts, None, counting), f"batch {number}")


def test_one_mean_a_share_would_be_another_loss(profile):  # noqa: F811
    """The test itself can fail: shares that know nothing of the whole add up to something else."""
    arguments = told(profile, "t2a")
    config = profile.stages["t2a"][0].replace(code_dropout=0.0)
    model = OmniModel(profile.model).train()
    batch, parts = take(Batches(*arguments), 1)[0], [take(each, 1)[0] for each in members(2, *arguments)]
    wanted = losses_of(model, batch, config, CPU)[0].detach()
    apart = sum(losses_of(model, replace(part, part_of=None), config, CPU)[0].detach() for part in parts) / 2
    assert abs(float(apart - wanted)) > 1e-4
