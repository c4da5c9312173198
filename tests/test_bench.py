"""The bench compares two ways of computing the same: here it is shown that they do compute the same.  Nothing is timed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import worlds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmo.bench.chain import ChainBench, Playback, bench_chain, bench_codec, percentile
from mmo.bench.decode import DecodeBench, bench_decode
from mmo.bench.flops import BACKWARD, Work, forward_flops, peak_of
from mmo.bench.growing import growing_answer
from mmo.bench.learn import LearnBench, bench_learn, make_learners
from mmo.bench.load import LoadBench, PaddedLoader, bench_load, padded_row
from mmo.bench.moe import ROWS, MoeBench, bench_moe, one_batch
from mmo.bench.padded import PaddedModel, PaddedStepper, pad_batch, padded_losses
from mmo.bench.precision import PrecisionBench, bench_precision
from mmo.bench.report import number
from mmo.bench.rows import Lengths, length_figures, open_bench_rows
from mmo.bench.shards import LOOKS, ShardsBench, bench_shards
from mmo.bench.trace import ELEMENTWISE, KINDS, OPTIMISER, TraceBench, bench_trace, bench_trace_training, kind_of, traced
from mmo.bench.train import OURS, PADDED, TrainBench, bench_train, choose_updates, quiet_stage
from mmo.codec import codec_config, save_codec
from mmo.config import IGNORE, Decoding, Draws
from mmo.data import Batches, Layout, collate
from mmo.fused import cross_entropies
from mmo.generation import Generator
from mmo.muon import Muon
from mmo.omni import OmniModel, labelled_places, loss_sums
from mmo.profiles import Profile
from mmo.profiles import profile as find_profile
from mmo.training import Stepper, losses_of, open_corpora
from mmo.streaming import HEARD
from speakers import TOY, random_mimi, toy_prompts
from test_evaluation import Parrot, write_tests

CPU = torch.device("cpu")
LENGTH = 192  # what toy rows are padded to here


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    return worlds.toy_profile(tmp_path)


def toy_examples(toy, stage="t2a", count=6):
    config = toy.stages[stage][-1]
    corpora, shares = open_corpora(toy, config.replace(rehearsal=()), worlds.toy_encoders())
    layout = Layout(toy.model, worlds.tokenizer(), 160)
    return Batches(corpora, shares, layout, 480, chunk_rows=count).chunk(0)


def our_losses(model, batch):
    read = None if model.config.use_moe else labelled_places(batch.text_labels, batch.audio_labels, batch.text_length, batch.speaking, CPU)
    hidden = model.hidden_states(**batch.inputs(CPU), read=read)
    sums = loss_sums(model, hidden, batch.text_labels, batch.audio_labels)
    return sums.text_loss(), sums.audio_loss(), hidden.aux_loss


# --- The padded way is right -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["t2a", "a2a", "i2t"])
def test_the_padded_way_has_our_loss_on_every_row(toy, stage):
    """Text, sound and pictures in; each row alone, padded far beyond its end."""
    torch.manual_seed(0)
    model = OmniModel(toy.model).train()
    for example in toy_examples(toy, stage):
        ours = torch.stack(our_losses(model, collate([example], toy.model)))
        theirs = torch.stack(padded_losses(PaddedModel(model), pad_batch([example], toy.model, LENGTH), 10.0, CPU))
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=0), f"{example.name}: ours {ours.tolist()}, padded {theirs.tolist()}"


def only_row(labels, row):
    """Labels (B, …) of one row; the others learn nothing."""
    chosen = torch.full_like(labels, IGNORE)
    chosen[row] = labels[row]
    return chosen


@pytest.mark.parametrize("stage", ["t2a", "a2a", "i2t"])
def test_a_rows_loss_is_the_same_in_a_bucket_and_padded_alone(toy, stage):
    """Rows of a batch of unlike lengths, each row's labels by themselves, against that row padded to one length: 1e-5 in fp32."""
    torch.manual_seed(0)
    model, examples = OmniModel(toy.model).train(), toy_examples(toy, stage)
    batch = collate(examples, toy.model)
    assert len({example.length for example in examples}) > 1
    with torch.no_grad():
        hidden = model.hidden_states(**batch.inputs(CPU))
        for row, example in enumerate(examples):
            sums = loss_sums(model, hidden, only_row(batch.text_labels, row), only_row(batch.audio_labels, row))
            ours = torch.stack((sums.text_loss(), sums.audio_loss()))
            theirs = torch.stack(padded_losses(PaddedModel(model), pad_batch([example], toy.model, LENGTH), 10.0, CPU)[:2])
            assert torch.allclose(ours, theirs, atol=1e-5, rtol=0), f"{example.name}: in its bucket {ours.tolist()}, padded {theirs.tolist()}"


def test_what_the_loss_is_divided_by_does_not_know_the_bucket(toy):
    """The same rows padded to their longest or to anything else: the same loss and gradients, for labels are counted and not positions."""
    examples, found = toy_examples(toy, "i2t"), []
    stage = quiet_stage(toy.stages["t2a"][0])
    longest = max(example.length for example in examples)
    for batch in (collate(examples, toy.model), pad_batch(examples, toy.model, longest + 7), pad_batch(examples, toy.model, LENGTH)):
        torch.manual_seed(0)
        model = OmniModel(toy.model).train()
        loss, _ = losses_of(model, batch, stage, CPU)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    for loss, gradients in found[1:]:
        assert torch.allclose(loss, found[0][0], atol=1e-5, rtol=0)
        for name, gradient in found[0][1].items():
            assert torch.allclose(gradients[name], gradient, atol=1e-5), name


def test_the_padded_way_has_our_gradients(toy):
    """A whole batch, rows of unequal length; and the mixture's experts, in eval mode, where no auxiliary loss counts padding."""
    examples = toy_examples(toy)
    for use_moe in (False, True):
        torch.manual_seed(0)
        model = OmniModel(toy.model.replace(use_moe=use_moe)).eval()
        sum(our_losses(model, collate(examples, toy.model))).backward()
        ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        sum(padded_losses(PaddedModel(model), pad_batch(examples, toy.model, LENGTH), 10.0, CPU)).backward()
        theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for name, gradient in ours.items():
            if name in theirs or gradient.abs().sum() > 0:
                assert torch.allclose(gradient, theirs[name], atol=1e-5), f"{name}, experts: {use_moe}"


def test_both_ways_make_the_same_update(toy):
    """Two steps each from the same weights, with a rate: the same weights afterwards."""
    examples, after = toy_examples(toy), []
    stage = quiet_stage(toy.stages["t2a"][0]).replace(learning_rate=1e-3, weight_decay=0.0, warmup_steps=1, schedule="constant")
    for padded in (False, True):
        torch.manual_seed(0)
        model = OmniModel(toy.model).train()
        if padded:
            stepper = PaddedStepper(model, 1e-3, stage.clip_norm, stage.stop_weight, CPU, torch.float32)
            stepper.optimiser.param_groups[0].update(weight_decay=0.0, betas=(0.9, 0.95))
            for _ in range(2):
                stepper.step(pad_batch(examples, toy.model, LENGTH))
        else:
            stepper = Stepper(model, stage, 100, CPU, torch.float32)
            for number in range(2):
                stepper.step(collate(examples, toy.model), number + 10)
        after.append(torch.stack(our_losses(model, collate(examples, toy.model))).detach())
    assert torch.allclose(*after, atol=1e-3), after


def test_a_row_that_is_too_long_is_refused(toy):
    with pytest.raises(ValueError, match="does not fit into 8"):
        pad_batch(toy_examples(toy), toy.model, 8)


def mixed_prompt(prompt):
    """The prompt with a picture and a sound in it."""
    ids = [*prompt.text_ids, TOY.image_ids[0], TOY.audio_ids[0], TOY.audio_ids[0], 7]
    return replace(prompt, text_ids=ids, image_features=torch.randn(3, TOY.image_hidden_size), audio_features=torch.randn(2, TOY.audio_hidden_size))


def let_it_stop(model, prompt, decoding):
    """Random weights hardly ever stop: exchange the stop with the first new code that codebook 0 would say."""
    said = growing_answer(model, prompt, decoding, may_stop=False).codes[0].tolist()
    code, stop = next(each for each in said if each != said[0]), TOY.audio_stop_token
    for layer in (model.talker.lm_head.base, model.talker.lm_head.adapters[0][2]):
        layer.weight.data[[code, stop]] = layer.weight.data[[stop, code]]


@pytest.mark.parametrize("may_stop", [True, False])
def test_growing_caches_say_what_we_say(may_stop):
    """Greedy: the same text, the same codes, the same number of steps, with and without the stop."""
    torch.manual_seed(0)
    model, decoding = OmniModel(TOY).eval(), Decoding(max_text=6, max_frames=9).greedy()
    prompts, stopped = [mixed_prompt(prompt) for prompt in toy_prompts(5, 9, 13)], []
    if may_stop:
        let_it_stop(model, prompts[0], decoding)
    for prompt in prompts:
        decoder = Generator(model).start([prompt], decoding, speech=True)
        if not may_stop:
            decoder.allowed[0, TOY.audio_stop_token] = -torch.inf
        with torch.no_grad():
            steps = len(list(decoder.run(drop=False)))
        text, codes, _, ended = decoder.results()[0]
        grown = growing_answer(model, prompt, decoding, may_stop)
        assert grown.text_ids == text and torch.equal(grown.codes, codes) and grown.steps == steps
        stopped.append(ended)
    assert any(stopped) == may_stop


# --- Rows --------------------------------------------------------------------------------------------------------


def test_synthetic_rows_are_as_long_as_minis(tmp_path):
    """41 frames a row, and a padded row useful to 16 %; the same seed gives the same rows."""
    mini = find_profile("mini")
    rows = open_bench_rows(mini, "synthetic", tmp_path / "one", 400, seed=3)
    figures = length_figures(rows.examples(400))
    assert 38 < figures["frames a row"] < 44
    assert 0.14 < figures["useful, padded"] < 0.18
    again = open_bench_rows(mini, "synthetic", tmp_path / "two", 400, seed=3)
    assert rows.path.read_bytes() == again.path.read_bytes()
    with pytest.raises(ValueError, match="do not fit the model of profile mini"):
        open_bench_rows(mini, "tiny", tmp_path, 4)


def test_lengths_have_the_mean_they_say():
    rng = np.random.default_rng(0)
    assert np.mean([Lengths().draw(41, 0.5, rng) for _ in range(4000)]) == pytest.approx(41, rel=0.03)


@pytest.mark.parametrize("length", [512, 60])
def test_the_padded_loader_builds_our_rows(tmp_path, length):
    """Code by code in Python lists, or in tensors: the same row, cut or not."""
    tiny = find_profile("tiny")
    rows = open_bench_rows(tiny, "synthetic", tmp_path, 12, max_length=length, draws=Draws.none())
    loader = PaddedLoader(rows, 12, 4)
    ours = {example.name: example for example in rows.examples(12)}
    for number in range(12):
        example = ours.get(f"synthetic.parquet, row {number}")
        if example is None:  # its answer lies behind the cut
            assert length < 512
            continue
        inputs, text_labels, audio_labels = padded_row(loader.row(number), rows.layout)
        T = example.length
        assert torch.equal(inputs[:, :T], example.row.input_ids)
        assert torch.equal(text_labels[:T], example.row.text_labels) and torch.equal(audio_labels[:, :T], example.row.audio_labels)
        assert inputs.shape[1] == length and (audio_labels[:, T:] < 0).all()


def test_updates_are_spread_over_the_lengths(toy):
    examples = toy_examples(toy, count=12)
    short, long = choose_updates(examples, 3, 2)
    assert short[-1].length <= long[0].length and len(short) == len(long) == 3
    with pytest.raises(ValueError, match="too few"):
        choose_updates(examples, 13, 1)


# --- Operations --------------------------------------------------------------------------------------------------


def counted(work) -> int:
    """What torch counts; its math attention shows every product."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("use_moe", [False, True])
def test_operations_are_those_that_torch_counts(toy, use_moe):
    """Forward to the last one; backward as two forwards to 2 % (the first layers need no gradient of their inputs)."""
    torch.manual_seed(0)
    config = toy.model.replace(use_moe=use_moe)
    model = OmniModel(config).train()
    examples = toy_examples(toy)
    batch, wide = collate(examples, config), pad_batch(examples, config, LENGTH)
    ours = forward_flops(config, Work.of_ours(batch, config))
    padded = forward_flops(config, Work.of_padded(wide))
    assert counted(lambda: our_losses(model, batch)) == ours
    assert counted(lambda: padded_losses(PaddedModel(model), wide, 10.0, CPU)) == padded
    both = counted(lambda: sum(our_losses(model, batch)).backward())
    assert both == pytest.approx(BACKWARD * ours, rel=0.02)
    assert ours < padded


# --- The benches, from end to end --------------------------------------------------------------------------------


def check_report(report, tmp_path):
    report.write(tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert found["columns"] == list(report.columns) and all(len(line["values"]) == len(report.columns) for line in found["lines"])
    assert all(ratio > 0 for ratio in found["ratios"].values())


@pytest.mark.parametrize("name, peak", [
    ("NVIDIA GeForce RTX 3090", 71.2), ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H100 PCIe", None),
    ("NVIDIA A100-PCIE-40GB", 312.0), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA L4", None),
])  # fmt: skip
def test_a_cards_peak_is_its_own_and_not_its_namesakes(name, peak):
    assert peak_of(name) == peak


def test_train_end_to_end(toy, tmp_path):
    report = bench_train(toy, TrainBench(rows=2, updates=2, rounds=1, pool=12), CPU)
    check_report(report, tmp_path)
    assert report.checks["largest difference of a loss"] < 1e-4 and report.columns[:2] == (OURS, PADDED)
    alone = bench_train(toy, TrainBench(rows=2, updates=1, rounds=1, pool=8, baseline=False, full_batch=False), CPU)
    assert alone.columns == (OURS,) and not alone.ratios


def test_training_may_be_timed_in_float32_where_the_profile_takes_bfloat16(toy, monkeypatch):
    monkeypatch.setattr(Profile, "dtype", lambda self, device: torch.bfloat16)
    for asked, found in ((False, "bfloat16"), (True, "float32")):
        report = bench_train(toy, TrainBench(rows=2, updates=1, rounds=1, pool=8, full_batch=False, float32=asked), CPU)
        assert report.settings["computed in"] == found


def test_learn_end_to_end(toy, tmp_path):
    """Every column learns from the same weights for its time, and is asked as often."""
    settings = LearnBench(seconds=0.4, marks=2, rows=2, muon_rates=(0.01, 0.02), padded_length=LENGTH)
    report = bench_learn(toy, settings, CPU)
    check_report(report, tmp_path)
    figures = {line.name: line.values for line in report.lines}
    assert report.columns[:2] == ("padded", "equal rows") and report.columns[-2:] == ("budget, Muon 0.01", "budget, Muon 0.02")
    assert len(report.columns) == 5 and {"audio loss after 0.2 s", "audio loss after 0.4 s", "text loss after 0.4 s"} <= set(figures)
    assert min(figures["updates"]) >= 2 and all(seconds[0] >= 0.4 for seconds in report.samples.values())


def test_learning_at_equal_rows_is_the_same_learning(toy):
    """Padded or not: the same rows in the same order, so the same losses before the first update, and as many rows in each."""
    settings = LearnBench(rows=2, padded_length=LENGTH)
    learners, held_out = make_learners(toy, toy.stages["t2a"][0], settings, CPU, torch.float32)
    padded, ours = learners["padded"], learners["equal rows"]
    assert held_out and torch.equal(padded.model.lm_head.weight, ours.model.lm_head.weight) and padded.model is not ours.model
    for _ in range(3):
        wide, narrow = next(padded.batches), next(ours.batches)
        assert wide.names == narrow.names and wide.input_ids.shape[-1] == LENGTH > narrow.input_ids.shape[-1]
        losses = [torch.as_tensor(learner.step(batch, 0))[:2] for learner, batch in ((padded, wide), (ours, narrow))]
        for learner in (padded, ours):  # the same weights for both again
            learner.model.load_state_dict(next(iter(learners.values())).model.state_dict())
        assert torch.allclose(*losses, atol=1e-4)


def test_decode_end_to_end(toy, tmp_path):
    report = bench_decode(toy, DecodeBench(prompts=1, text=3, frames=4, rounds=1, batch=2), CPU)
    check_report(report, tmp_path)
    assert report.checks == {"same text": True, "same codes": True}
    sampled = bench_decode(toy, DecodeBench(prompts=1, text=3, frames=4, rounds=1, batch=0, sampled=True), CPU)
    assert not sampled.checks and len(sampled.columns) == 2
    rounded = bench_decode(toy, DecodeBench(prompts=1, text=3, frames=4, rounds=1, batch=0, baseline=False, precisions=("bfloat16", "int8")), CPU)
    read = next(line.values for line in rounded.lines if line.name.startswith("weights read"))
    assert rounded.columns == ("ours", "ours, bfloat16", "ours, int8") and read[0] == pytest.approx(2 * read[1]) and read[1] > read[2]


SMALL_CODEC = codec_config(n_filters=4, dimension=32, layers=1, bins=worlds.MODEL.num_codes, codebooks=8, feedforward=64)


@pytest.mark.parametrize("there", [True, False], ids=["codec there", "codec drawn"])
def test_chain_end_to_end(toy, tmp_path, monkeypatch, there):
    """From a prompt to two seconds of sound; a codec that is not there is drawn, and can be heard."""
    if there:
        save_codec(random_mimi(SMALL_CODEC), SMALL_CODEC, toy.codec_file)
    monkeypatch.setattr("mmo.bench.chain.codec_config", lambda: SMALL_CODEC)
    report = bench_chain(toy, ChainBench(seconds=2.0, precisions=("float32", "int8")), CPU)
    check_report(report, tmp_path)
    figures = {line.name: line.values for line in report.lines}
    assert figures["speech"] == pytest.approx((2.0, 2.0)) and report.columns == ("float32", "int8")
    assert 0 < figures["work a frame, p50"][0] <= figures["work a frame, p95"][0]
    assert report.settings["codec"] == ("codec.safetensors" if there else "drawn, of the real size")
    codec, _ = bench_codec(toy, 0, CPU)
    codes = torch.randint(codec.num_codes, (1, codec.num_codebooks, 3))
    assert "decode" not in vars(codec.model) and codec.decode(codes).abs().amax() > HEARD


def test_work_a_frame():
    """A piece's work is shared by its frames; the first piece is the first sound's business."""
    play = Playback([0.5, 0.6, 0.8], [0.08, 0.08, 0.16], [])
    assert play.work == pytest.approx([0.1, 0.1, 0.1])
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.25, 0.5, 0.95)] == [1.0, 2.0, 4.0]


def test_precision_end_to_end(toy, tmp_path):
    """Every precision answers the same sentences; the first column is like itself."""
    save_codec(random_mimi(SMALL_CODEC), SMALL_CODEC, toy.codec_file)
    write_tests(toy)
    judge, brief = Parrot(), Decoding(max_text=4, max_frames=3)
    report = bench_precision(toy, PrecisionBench(answers=4), CPU, encoders=worlds.toy_encoders(), judge=judge, decoding=brief)
    check_report(report, tmp_path)
    figures = {line.name: line.values for line in report.lines}
    assert report.settings["answers"] == 4 and len(judge.seconds) == 12
    assert figures["same text as the first column's"][0] == figures["same codes from beginning to end"][0] == 100.0
    assert figures["words heard wrongly (WER)"][0] is not None


def test_trace_end_to_end(toy, tmp_path):
    report = bench_trace(toy, TraceBench(text=3, frames=4, precisions=("int8",)), CPU)
    check_report(report, tmp_path)
    figures = {line.name: line.values for line in report.lines}
    assert report.columns == ("growing caches", "ours", "ours, int8")
    growing, ours, _ = figures["operations a step, views included"]
    assert ours < 0.6 * growing
    assert all(min(figures[kind]) > 0 for kind in ("products with weights", "attention", ELEMENTWISE))
    assert figures["looks at the device"][0] > 0


def test_trace_of_training_end_to_end(toy, tmp_path):
    """An update of the same rows, the padded way and ours; they make the same losses."""
    report = bench_trace_training(toy, rows=2, device=CPU)
    check_report(report, tmp_path)
    figures = {line.name: line.values for line in report.lines}
    padded, ours = figures["operations an update, views included"]
    assert report.columns == (PADDED, OURS) and ours < padded
    assert report.checks["largest difference of a loss"] < 1e-4
    assert all(min(figures[kind]) > 0 for kind in ("products with weights", "attention", "losses", OPTIMISER, ELEMENTWISE))


def test_what_an_optimiser_does_is_told_apart():
    """Products of the model are products, those of the update (Muon's) the optimiser's."""
    weight = torch.nn.Parameter(torch.randn(32, 32))
    optimiser = Muon([weight], lr=0.1)

    def update():
        weight.grad = None
        (weight @ weight).sum().backward()
        optimiser.step()

    update()
    kinds = traced(update, lambda: 1).kinds
    weight.grad = None
    only_model = traced(lambda: (weight @ weight).sum().backward(), lambda: 1).kinds
    assert kinds[OPTIMISER] > 0 and only_model["products with weights"] > 0 and OPTIMISER not in only_model


def test_the_softmax_of_our_losses_is_no_attention():
    logits, labels = torch.randn(8, 16).bfloat16().requires_grad_(), torch.zeros(8, dtype=torch.long)
    kinds = traced(lambda: cross_entropies(logits, labels).sum().backward(), lambda: 1).kinds
    assert kinds["losses"] > 0 and "attention" not in kinds


def test_kinds_of_operations():
    assert kind_of("aten::_log_softmax_backward_data") == "losses"
    assert kind_of("aten::_scaled_dot_product_flash_attention_for_cpu") == kind_of("aten::_softmax") == "attention"
    assert kind_of("aten::mul") == ELEMENTWISE and kind_of("aten::_weight_int8pack_mm") == "products with weights"
    names = [name for kind in KINDS.values() for name in kind]
    assert len(names) == len(set(names)), "an operation counts once"


def test_load_end_to_end(toy, tmp_path):
    report = bench_load(toy, LoadBench(rows=16, batch=8, rounds=1, steps=3))
    check_report(report, tmp_path)
    assert report.checks["rows a second that the model consumes"] > 0 and report.checks["memory of the worker, MB"] > 0
    assert not any("model" in name for name in bench_load(toy, LoadBench(rows=8, rounds=1, steps=0, baseline=False)).ratios)


def test_experts_end_to_end(toy, tmp_path):
    report = bench_moe(toy, MoeBench(positions=512, rounds=1), CPU)
    check_report(report, tmp_path)
    assert next(iter(report.checks.values())) < 1e-4
    assert report.settings["experts in"] == "a product each" and len(report.columns) == 3


def test_an_update_of_experts_is_as_full_as_it_is_called(tmp_path):
    """The bound is one at 8 000 positions and more: the batch of 8 192 must have them, and hardly any padding."""
    rows = open_bench_rows(find_profile("mini"), "synthetic", tmp_path, ROWS * 8192 // 80 + 1)
    batch = one_batch(rows, 8192)
    assert 8000 <= batch.size <= 8192 and batch.useful > 0.9 * batch.size


def test_experts_in_one_product_stand_beside_those_by_turns(toy, monkeypatch):
    """As on a card that has the grouped product: both ways, the same losses."""
    for module in ("mmo.moe", "mmo.bench.moe"):
        monkeypatch.setattr(f"{module}.grouped_in", lambda x: torch.float32)
    report = bench_moe(toy, MoeBench(positions=512, rounds=1), CPU)
    assert report.columns == ("dense", "experts", "experts, by turns", "experts, visited") and report.settings["experts in"] == "one grouped product"
    assert next(iter(report.checks.values())) < 1e-4, "the visited experts' losses are those of the grouped product"


def test_numbers_are_short():
    assert [number(value) for value in (0, 0.0123, 9.87, 1234.5, 2e-7)] == ["0", "0.0123", "9.87", "1234", "2.0e-07"]


def test_shards_are_measured_on_one_and_on_all(tmp_path):
    report = bench_shards(find_profile("tiny"), ShardsBench(shards=3, rows=40, seen=16, workers=1, chunk_rows=16), tmp_path)
    assert report.columns == ("1 shard", "3 shards")
    rows, packed, *memory = (line.values for line in report.lines)
    assert rows == (40, 120) and packed[1] == pytest.approx(3 * packed[0], rel=0.01)
    assert len(memory) == LOOKS and all(0 < value < 1000 for line in memory for value in line)
    assert len(list(tmp_path.glob("*.parquet"))) == 3
