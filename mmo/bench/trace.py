"""`mmo bench trace`: where a step of decoding spends its time, by PyTorch's profiler: growing caches before, ours after.
`mmo bench trace --training`: the same of an update: the padded way before, ours after (on processors with AMX, tiny's products in bfloat16, too).

Times are an operation's own, without what it calls; they are taken with the profiler at work, which makes every operation slower by about a
microsecond, so shares count and sums do not.  What is left of the wall clock after all operations is
Python and, on a card, which the profiler does not see, waiting for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from mmo.bench.decode import GROWING, OURS, GrowingArm, OurArm, bench_model, prompts_of
from mmo.bench.report import Line, Report, describe_machine
from mmo.bench.rows import open_bench_rows
from mmo.bench.train import PADDED, QUICK, WARM_UP, TrainBench, loss_difference, make_arms
from mmo.bench.unstoppable import Unstoppable
from mmo.config import Draws
from mmo.omni import OmniModel
from mmo.products import are_wanted
from mmo.profiles import Profile
from mmo.twin import Precision

KINDS = {
    "products with weights": ("mm", "addmm", "linear", "bmm", "baddbmm", "mv", "addmv", "_weight_int8pack_mm", "mkldnn_linear", "_linear_pointwise"),
    "attention": ("softmax", "_softmax", "_softmax_backward_data"),  # and all that is called so
    "copies, tables, caches": (
        "copy_", "cat", "stack", "index", "_index_put_impl_", "index_put_", "index_select", "gather", "embedding", "embedding_bag", "_embedding_bag",
        "_embedding_bag_forward_only", "clone", "fill_", "zeros", "empty", "repeat_interleave", "_to_copy", "embedding_dense_backward",
        "index_add_", "index_copy", "index_copy_", "scatter_", "masked_scatter", "masked_scatter_", "slice_backward", "zero_",
    ),
    "views": (
        "view", "reshape", "transpose", "t", "slice", "select", "as_strided", "expand", "unsqueeze", "squeeze", "split", "split_with_sizes", "chunk",
        "narrow", "permute", "unbind", "_unsafe_view", "_reshape_alias", "alias", "detach", "unflatten", "movedim",
    ),
    "looks at the device": ("item", "_local_scalar_dense", "is_nonzero"),
    "choice": ("topk", "cumsum", "multinomial", "argmax", "sort"),
    "losses": ("cross_entropy_loss", "log_softmax", "_log_softmax", "_log_softmax_backward_data", "nll_loss_nd", "nll_loss", "nll_loss_forward", "nll_loss_backward"),
}  # fmt: skip
ELEMENTWISE, PYTHON, OPTIMISER = "elementwise, norms, the rest", "Python, the profiler, and waiting for a card", "optimiser"
CALLERS = {"Optimizer.step#": OPTIMISER, "CrossEntropies": "losses"}  # what is called by these is of their kind, whatever it is


@dataclass(frozen=True)
class TraceBench:
    """Settings of one measurement."""

    text: int = 12
    frames: int = 41
    precisions: tuple[Precision, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Trace:
    """One profiled round."""

    steps: int
    seconds: float  # wall
    kinds: dict[str, float]  # seconds
    operations: int
    most: list[tuple[str, float, int]]  # operations: name, seconds, how often

    def largest(self) -> list[str]:
        """The operations that take most, a step."""
        return [f"{name} {1000 * own / self.steps:.2f} ms ({count / self.steps:.0f} ×)" for name, own, count in self.most]


def kind_of(name: str) -> str:
    """The kind of an operation by its name."""
    bare = name.rpartition("::")[2]
    if "attention" in bare:
        return "attention"
    return next((kind for kind, names in KINDS.items() if bare in names), ELEMENTWISE)


def kind_by_caller(event) -> str | None:
    """The kind of what an operation was called by: an optimiser's step, which torch marks, or our own losses (fused.py), which take a softmax as attention does."""
    while event is not None:
        if found := next((kind for name, kind in CALLERS.items() if event.name.startswith(name)), None):
            return found
        event = event.cpu_parent
    return None


def traced(work: Callable[[], object], steps: Callable[[], int]) -> Trace:
    """Profile one call of work on the CPU's side."""
    with profiled(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
    kinds, own_times, counts = Counter(), Counter(), Counter()
    for event in profiler.events():
        if event.name.startswith(("aten::", "mkldnn::")):
            own, name = event.self_cpu_time_total / 1e6, event.name.rpartition("::")[2]
            kinds[kind_by_caller(event) or kind_of(name)] += own
            own_times[name] += own
            counts[name] += 1
    kinds[PYTHON] = max(0.0, seconds - sum(kinds.values()))
    most = [(name, own, counts[name]) for name, own in own_times.most_common(5)]
    return Trace(steps(), seconds, dict(kinds), counts.total(), most)


def bench_trace(profile: Profile, settings: TraceBench, device: torch.device | None = None) -> Report:
    """One answer each: growing caches, ours, and ours in further precisions."""
    device = device or profile.device()
    decoding = replace(profile.decoding, max_text=settings.text, max_frames=settings.frames).greedy()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = open_bench_rows(profile, "synthetic", Path(folder), 1, settings.seed, draws=Draws.none())
        prompts = prompts_of(rows, 1)
    model, weights = bench_model(profile, settings.seed, device)
    arms: dict[str, OurArm | GrowingArm] = {GROWING: GrowingArm(model, prompts, decoding), OURS: OurArm(Unstoppable(model), [prompts], decoding)}
    for precision in settings.precisions:
        arms[f"{OURS}, {precision}"] = OurArm(Unstoppable(model, precision=precision), [prompts], decoding)
    found: dict[str, Trace] = {}
    for name, arm in arms.items():
        arm()  # warms up
        found[name] = traced(arm, lambda arm=arm: arm.steps)
    return Report(
        title=f"Where a step of decoding goes, {profile.name}",
        columns=tuple(found),
        lines=tuple(trace_lines(list(found.values()))),
        ratios={},
        checks={},
        settings={"profile": profile.name, "weights": weights, "frames": settings.frames, "text": settings.text, "seed": settings.seed},
        machine=describe_machine(device),
        samples={name: [trace.seconds] for name, trace in found.items()},
        notes=tuple(f"{name}: {', '.join(trace.largest())}" for name, trace in found.items()),
    )


def bench_trace_training(profile: Profile, rows: int = 8, seed: int = 0, device: torch.device | None = None) -> Report:
    """One update of `rows` rows of middling length each: the padded way, ours, and ours with quick products where the recipe asks for them here."""
    device = device or profile.device()
    dtype, stage = profile.dtype(device), profile.stages["t2a"][0]
    settings = TrainBench(rows=rows, updates=1, full_batch=False, pool=8 * rows, seed=seed, quick=are_wanted(stage, device, dtype))
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        opened = open_bench_rows(profile, "synthetic", Path(folder), 8 * rows, seed, settings.padded_length)
        torch.manual_seed(seed)
        model = OmniModel(profile.model).to(device).train()
        arms, *_ = make_arms(model, opened, stage, settings, device, dtype)
        found: dict[str, Trace] = {}
        for name in (PADDED, OURS, QUICK) if settings.quick else (PADDED, OURS):
            for _ in range(WARM_UP):
                arms[name]()
            found[name] = traced(arms[name], lambda: 1)
    return Report(
        title=f"Where an update goes, {profile.name}: {rows} rows",
        columns=tuple(found),
        lines=tuple(trace_lines(list(found.values()), "one update", "an update")),
        ratios={},
        checks={"largest difference of a loss": loss_difference(arms)},
        settings={"profile": profile.name, "rows": rows, "seed": seed, "computed in": str(dtype).removeprefix("torch.")},
        machine=describe_machine(device),
        samples={name: [trace.seconds] for name, trace in found.items()},
        notes=(
            *(f"{name}: {', '.join(trace.largest())}" for name, trace in found.items()),
            "looks: at labels, which ours leaves on the host, count here; what a card would be asked for is counted in tests/test_no_waiting.py",
        ),
    )


def trace_lines(traces: list[Trace], one: str = "one step", each: str = "a step") -> list[Line]:
    """Milliseconds of one step, or update, by kind, largest first."""
    every = {kind for trace in traces for kind in trace.kinds}
    kinds = sorted(every, key=lambda kind: -max(trace.kinds.get(kind, 0.0) / trace.steps for trace in traces))
    lines = [Line(f"{one}, profiled", "ms", tuple(1000 * trace.seconds / trace.steps for trace in traces))]
    lines += [Line(kind, "ms", tuple(1000 * trace.kinds.get(kind, 0.0) / trace.steps for trace in traces)) for kind in kinds]
    return [*lines, Line(f"operations {each}, views included", "", tuple(trace.operations / trace.steps for trace in traces))]
