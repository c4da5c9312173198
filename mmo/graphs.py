"""A step of Thinker and Talker as one graph: `torch.compile`, and on CUDA one CUDA graph of it.

    graph = StepGraph(twin, tell=print)                    # compiles when it is first called; .reason says why it does not
    cache = graph.cache(batch, length, owner)              # the same memory for the same sizes
    hidden = graph.step(ids, cache, tail=False)            # as OmniModel.hidden_states for one position a row

A step of a small model is some three hundred operations of a few microseconds each, which a host can hardly ask for as fast as a card
does them.  A CUDA graph is asked for once.  It replays the same operations on the same memory, so

- shapes never change: keys and values are as long as the cache's capacity (rounded up to PIECE), a mask says what is there;
- the step's number is a tensor: where to write stands in `cache.lengths.tensor`;
- caches stay where they are and are used again by the next answer, one tensor a layer and marked as static.

The heads and the choice are outside, about thirty operations.  Rows that have ended stay in the batch.

**Fall-back.**  No C++ compiler, no Triton, an operation it cannot do, more than GRAPHS of them: said once, and decoding goes on step by step.
Experts are handed their positions by counts that the host must know, so a mixture's step is no graph, and that is said too.

**The CUDA path has not been run**: there was no card.  On a CPU the same trace and a compiled step are tested to give the same answers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from mmo.moe import MixtureOfExperts
from mmo.omni import Hidden, OmniCache, OmniModel
from mmo.transformer import CacheLengths, KVCache, rotary_table, slot_window

BACKEND = "inductor"
REASON_LENGTH = 300  # characters of an error that are told
PIECE = 128  # capacities are multiples of it
GRAPHS = 32  # at most: sizes of batches x capacities x with or without the Thinker's upper layers


def compile_errors(device: torch.device = torch.device("cpu")) -> tuple[type[Exception], ...]:
    """What the compiler raises, and on a card what CUDA graphs do while they are captured; imported only where something is compiled.

    Graphs raise RuntimeError, and AssertionError in a thread that torch has prepared nothing in.  A step that failed has advanced no cache,
    so it may be done again, operation by operation; a card that is really broken says so there.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import CppCompileError, CppWrapperCodegenError, InductorError, InvalidCxxCompiler

    graphs = (RuntimeError, AssertionError) if device.type == "cuda" else ()
    return (TorchDynamoException, FailOnRecompileLimitHit, InductorError, CppCompileError, CppWrapperCodegenError, InvalidCxxCompiler, *graphs)


def why(error: Exception) -> str:
    """The reason in one line: the innermost error's first words."""
    inner = getattr(error, "inner_exception", None) or error.__cause__ or error
    words = " ".join(str(inner).split()) or "no words"
    return f"{type(inner).__name__}: {words[:REASON_LENGTH]}"


class LayeredCache(KVCache):
    """Keys and values as one tensor a layer, (B, G, capacity, E) each: a graph writes into them in place."""

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values = ([layer.clone() for layer in part] for part in (cache.keys, cache.values))
        for tensor in (*self.keys, *self.values):
            torch._dynamo.mark_static_address(tensor)

    def select(self, rows: Tensor) -> None:
        self.keys, self.values = ([layer.index_select(0, rows) for layer in part] for part in (self.keys, self.values))


class StepGraph:
    """Single steps of one twin.  `reason` is None while they are compiled, else why they are not."""

    def __init__(self, model: OmniModel, tell: Callable[[str], None] = print, backend: str | Callable = BACKEND) -> None:
        self.model, self.tell = model, tell
        self.device = model.model.embed_tokens.weight.device
        self.reason: str | None = None
        self.kept: dict[tuple[int, int], list[tuple[weakref.ref, OmniCache]]] = {}
        stacks = (model.model.config, model.talker.config)
        self.tables = tuple(rotary_table(stack.head_dim, stack.max_positions, stack.rope_theta, self.device) for stack in stacks)
        for table in chain(*self.tables):
            torch._dynamo.mark_static_address(table)  # else CUDA graphs would copy them at every step
        if any(isinstance(module, MixtureOfExperts) for module in model.modules()):
            self.turn_off("experts are handed their positions by counts that the host must know, which no graph can hold")
            return
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        mode = {"mode": "reduce-overhead"} if self.device.type == "cuda" and backend == BACKEND else {}  # CUDA graphs
        self.compiled = torch.compile(self.forward, backend=backend, fullgraph=True, dynamic=False, **mode)

    @property
    def on(self) -> bool:
        return self.reason is None

    def turn_off(self, reason: str) -> None:
        """No graph from here on."""
        self.reason = reason
        self.kept.clear()
        self.tell(f"no graph of a step, decoding goes on operation by operation: {reason}")

    def cache(self, batch: int, length: int, owner: object) -> OmniCache:
        """An empty cache for at least `length` positions, for as long as `owner` lives: then the next one gets the same memory."""
        if not self.on:
            return self.model.make_cache(batch, length)
        capacity = -(-length // PIECE) * PIECE
        kept = self.kept.setdefault((batch, capacity), [])
        free = next((place for place, (user, _) in enumerate(kept) if user() is None), None)
        if free is None:
            cache = self.model.make_cache(batch, capacity)
            cache.thinker, cache.talker = LayeredCache(cache.thinker), LayeredCache(cache.talker)
        else:
            _, cache = kept.pop(free)
            cache.lengths, cache.tail = CacheLengths(batch, capacity, self.device), False
        kept.append((weakref.ref(owner), cache))
        return cache

    def step(self, ids: Tensor, cache: OmniCache, tail: bool) -> Hidden:
        """ids (B, Q + 1, 1) -> what `OmniModel.hidden_states` gives, and the cache one longer; by the graph while there is one."""
        if self.on:
            self.model._check(ids, cache, None, tail, None, None)
            if cache.length >= cache.lengths.capacity:
                raise ValueError(f"the cache's {cache.lengths.capacity} positions are full: make a longer cache")
            try:
                if self.device.type == "cuda":
                    torch.compiler.cudagraph_mark_step_begin()  # what the last step gave may be overwritten now
                text, audio = self.compiled(ids, cache.lengths.tensor[:, None], cache.thinker, cache.talker, self.tables, tail)
                cache.lengths.advance([1] * len(ids))
                cache.tail |= tail
                return Hidden(text, audio, audio.new_zeros(()))
            except compile_errors(self.device) as error:
                self.turn_off(why(error))
        return self.model.hidden_states(ids, cache=cache, tail=tail)

    def forward(
        self, ids: Tensor, slots: Tensor, thinker: KVCache, talker: KVCache, tables: tuple[tuple[Tensor, Tensor], ...], tail: bool
    ) -> tuple[Tensor | None, Tensor]:
        """What is compiled.  ids (B, Q + 1, 1), slots (B, 1) -> hidden states (B, 1, D) of text, None on the tail, and of sound."""
        model, capacity = self.model, thinker.keys[0].shape[2]
        lower, own = (slot_window(table, slots, capacity) for table in tables)
        bridge, _ = model.model.lower(model.embed(ids[:, -1]), lower, thinker)
        text = None if tail else model.model.upper(bridge, lower, thinker)[0]
        audio, _ = model.talker(bridge, ids[:, :-1], None, own, talker)
        return text, audio
