"""A step as one graph: the same answers, few graphs, caches that stay in their place, and a reason where there is no graph.

`eager` traces as always and runs the graph as it is: compiling kernels takes minutes.  On a card the same trace becomes a CUDA graph; that
part is skipped here."""

from dataclasses import replace

import pytest
import torch

from mmo import generation, graphs
from mmo.compiling import graphs_made
from mmo.config import Decoding
from mmo.generation import Generator
from mmo.graphs import GRAPHS, PIECE, StepGraph, compile_errors
from speakers import TOY, toy_model, toy_prompts

DECODING = Decoding(temperature=1.0, text_temperature=1.0, text_top_k=0, top_k=0, max_text=6, max_frames=9)


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def generator_with(monkeypatch, backend, model=None, told=None, **settings):
    """A generator that asks for graphs; `told` collects what it says."""
    tell = (lambda text: None) if told is None else told.append
    monkeypatch.setattr(generation, "StepGraph", lambda twin: StepGraph(twin, tell, backend))
    return Generator(model or toy_model(), decoding=DECODING, compile=True, **settings)


def same(ones, others):
    return all(one.text_ids == other.text_ids and torch.equal(one.codes, other.codes) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_same_answers_and_few_graphs(monkeypatch, precision):
    """Alone and together, prompts of unequal length; each size of a batch has two graphs, one of them for the tail."""
    prompts = toy_prompts(5, 9, 7, 40)
    plain = Generator(toy_model(), decoding=DECODING, precision=precision)
    compiled = generator_with(monkeypatch, "eager", precision=precision)
    first = graphs_made()
    assert same([plain.answer(prompt) for prompt in prompts], [compiled.answer(prompt) for prompt in prompts])
    assert compiled.graph.on and graphs_made() - first == 2
    assert same(plain.generate_batch(prompts), compiled.generate_batch(prompts))
    assert compiled.graph.on and graphs_made() - first == 4
    longer = replace(DECODING, max_frames=PIECE)
    assert same([plain.answer(prompts[0], longer)], [compiled.answer(prompts[0], longer)])
    assert compiled.graph.on and graphs_made() - first <= 6 <= GRAPHS


def test_caches_stay_where_they_are(monkeypatch):
    """The next answer writes to the same memory, which a recorded graph needs; two answers at once have memory of their own."""
    generator, prompts = generator_with(monkeypatch, "eager"), toy_prompts(5, 9)

    def place(decoder):
        return [tensor.data_ptr() for part in (decoder.cache.thinker, decoder.cache.talker) for tensor in (*part.keys, *part.values)]

    with torch.no_grad():
        one = generator.start(prompts[:1], DECODING, speech=True)
        first = place(one)
        two = generator.start(prompts[1:], DECODING, speech=True)
        assert not set(first) & set(place(two)) and len(set(first)) == len(first)
        del one
        assert place(generator.start(prompts[:1], DECODING, speech=True)) == first
    streams = [generator.stream([prompt]) for prompt in prompts]  # by turns
    found = {}
    while len(found) < 2:
        for number, stream in enumerate(streams):
            for event in stream:
                if isinstance(event, generation.Finished):
                    found[number] = event.answer
                break
    assert same([found[0], found[1]], [generator.answer(prompt) for prompt in prompts])


@pytest.mark.parametrize("after", [0, 1])
def test_where_it_fails_decoding_goes_on_and_says_why(monkeypatch, after):
    """At once, and in the midst of an answer (at the tail's graph): the same answer."""
    made, told = [], []

    def backend(graph, inputs):
        made.append(graph)
        if len(made) > after:
            raise OSError("no C++ compiler was found")
        return graph.forward

    prompts = toy_prompts(5, 9)
    compiled = generator_with(monkeypatch, backend, told=told)
    wanted = [Generator(toy_model(), decoding=DECODING).answer(prompt) for prompt in prompts]
    assert same(wanted, [compiled.answer(prompt) for prompt in prompts])
    assert told == ["no graph of a step, decoding goes on operation by operation: OSError: no C++ compiler was found"]
    assert not compiled.graph.on and len(made) == after + 1
    assert same(compiled.generate_batch(prompts), wanted)


def test_on_a_card_a_capture_that_fails_is_no_end_either(monkeypatch):
    """CUDA graphs raise plain RuntimeErrors; on a CPU those are mistakes of ours and come through."""
    cpu, card = (compile_errors(torch.device(kind)) for kind in ("cpu", "cuda"))
    assert not any(issubclass(RuntimeError, each) for each in cpu) and RuntimeError in card and AssertionError in card
    told, prompts = [], toy_prompts(5)
    generator = generator_with(monkeypatch, "eager", told=told)
    monkeypatch.setattr("mmo.graphs.compile_errors", lambda device: card)

    def broken(*_):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    generator.graph.compiled = broken
    assert same([generator.answer(prompts[0])], [Generator(toy_model(), decoding=DECODING).answer(prompts[0])])
    assert "RuntimeError: CUDA error" in told[0] and not generator.graph.on


def test_rows_still_leave_a_batch_whose_graph_failed(monkeypatch):
    """A batch that began with a graph holds its caches layer by layer; dropping rows must know them, too."""
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        raise OSError("nothing works")

    prompts = toy_prompts(5, 9, 7, 12)
    decoding = replace(DECODING, max_text=12)
    compiled = generator_with(monkeypatch, backend)
    dropped = []
    own = generation.Decoder.select
    monkeypatch.setattr(generation.Decoder, "select", lambda self, places: dropped.append(places) or own(self, places))
    model = compiled.model

    def likes_to_end(hidden, head=model.text_head):
        logits = head(hidden).clone()
        logits[..., TOY.im_end_token] += 4.0
        return logits

    def likes_to_stop(hidden, head=model.audio_head):
        logits = head(hidden).clone()
        logits[..., 0, TOY.audio_stop_token] += 3.0
        return logits

    model.text_head, model.audio_head = likes_to_end, likes_to_stop
    together = compiled.generate_batch(prompts, decoding)
    assert dropped and len(calls) == 1
    assert same(together, [compiled.generate_batch([prompt], decoding)[0] for prompt in prompts])


def test_experts_are_not_compiled_and_it_is_said(monkeypatch):
    told = []
    generator = generator_with(monkeypatch, "eager", toy_model(TOY.replace(use_moe=True)), told)
    assert not generator.graph.on and "experts are handed their positions by counts" in told[0]
    assert generator.answer(toy_prompts(5)[0]).codes.shape[1]


def test_a_full_cache_is_refused(monkeypatch):
    generator = generator_with(monkeypatch, "eager")
    owner = type("Owner", (), {})()
    cache = generator.graph.cache(1, 3, owner)
    assert cache.lengths.capacity == PIECE
    cache.lengths.advance([PIECE])
    with pytest.raises(ValueError, match=f"the cache's {PIECE} positions are full"):
        generator.graph.step(torch.zeros(1, TOY.num_codebooks + 1, 1, dtype=torch.long), cache, tail=False)


def test_not_asked_for_nothing_of_the_compiler_is_there():
    assert Generator(toy_model()).graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_give_the_same_answers():
    """One graph a size, replayed at every step."""
    told, model, prompts = [], toy_model().cuda(), toy_prompts(5, 9, 7)
    plain, compiled = Generator(model, decoding=DECODING), Generator(model, decoding=DECODING, compile=True)
    for _ in range(2):  # the first answer compiles and records, the second replays
        assert same(plain.generate_batch(prompts), compiled.generate_batch(prompts))
    assert compiled.graph.on, told
    assert graphs.BACKEND == "inductor"
