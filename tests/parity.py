"""Equality with the original, number by number: a pytest module and a script.

    python tests/parity.py ../shared/golden/dense.safetensors     # or .json, or the stem; or a layout file
    pytest tests/parity.py

A golden model file holds weights, inputs, outputs, losses and gradient norms of the original (the format is described
in tests/golden/README.md); a layout file holds rows before and after they become nine streams.  The script prints each
figure and exits with 1 where one is out of bounds.  Pytest runs our own small goldens in tests/golden, and those in
$MMO_GOLDEN or ../shared/golden where that folder exists.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # so that the script runs from anywhere, installed or not
    sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from mmo.config import ModelConfig  # noqa: E402
from mmo.interchange import from_original  # noqa: E402
from mmo.omni import OmniModel, audio_loss_sums, load_weights, loss_sums, text_loss_sums  # noqa: E402
from mmo.sequence import Markers, audio_start, build_row, find_assistant_ranges, frames  # noqa: E402

BOUND = 1e-4
STEPS = 5  # single steps of incremental decoding, after a prefill of the rest
OWN_GOLDEN = ROOT / "tests" / "golden"


def shared_golden() -> Path:
    """The folder with the original's golden numbers; it need not exist."""
    return Path(os.environ.get("MMO_GOLDEN") or ROOT.parent / "shared" / "golden")


@dataclass(frozen=True)
class Figure:
    """One checked figure."""

    name: str
    difference: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.difference <= BOUND  # also False for NaN

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name:<24} {self.difference:.3e}  {self.detail}"


# --- Model files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """A golden model file: configuration, gradient norms, tensors."""

    config: ModelConfig
    grad_norms: dict[str, float]
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, stem: Path) -> Golden:
        described = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
        tensors = load_file(stem.with_name(stem.name + ".safetensors"))
        return cls(ModelConfig.from_dict(described["config"]), described["grad_norms"], tensors)

    def model(self) -> OmniModel:
        model = OmniModel(self.config)
        state = {name.removeprefix("state."): t for name, t in self.tensors.items() if name.startswith("state.")}
        load_weights(model, from_original(state, "golden weights"), "golden weights")
        return model

    def features(self) -> dict[str, Tensor]:
        """Encoder outputs, as far as the file has them."""
        names = {
            "audio_features": "audio_features_encoded",
            "audio_lengths": "audio_lens",
            "image_features": "image_features_encoded",
        }
        return {ours: self.tensors[theirs] for ours, theirs in names.items() if theirs in self.tensors}

    def speaker(self) -> dict[str, Tensor]:
        return {"speaker": self.tensors["spk_emb"]} if "spk_emb" in self.tensors else {}


def largest(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; NaN where either has one; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0


def full_forward(golden: Golden, model: OmniModel) -> list[Figure]:
    """One forward over all positions, in eval mode."""
    with torch.inference_mode():
        out = model.eval()(golden.tensors["input_ids"], **golden.features(), **golden.speaker())
    return [
        Figure("text logits", largest(out.text_logits, golden.tensors["text_logits"])),
        Figure("audio logits", largest(out.audio_logits, golden.tensors["audio_logits"])),
    ]


def incremental(golden: Golden, model: OmniModel) -> list[Figure]:
    """Prefill of all but five positions, then single steps with the cache: logits of the last six."""
    ids = golden.tensors["input_ids"]
    T = ids.shape[-1]
    model.eval()
    cache = model.make_cache(len(ids), T)
    text, audio = [], []
    with torch.inference_mode():
        for start, end in [(0, T - STEPS)] + [(t, t + 1) for t in range(T - STEPS, T)]:
            features = golden.features() if start == 0 else {}
            hidden = model.hidden_states(ids[..., start:end], cache=cache, **features, **golden.speaker())
            text.append(model.text_head(hidden.text[:, -1:]))
            audio.append(model.audio_head(hidden.audio[:, -1:]).movedim(-2, 1))
    return [
        Figure("incremental text logits", largest(torch.cat(text, 1), golden.tensors["incremental_text_logits"])),
        Figure("incremental audio logits", largest(torch.cat(audio, 2), golden.tensors["incremental_audio_logits"])),
    ]


def losses_and_gradients(golden: Golden, model: OmniModel) -> list[Figure]:
    """Training mode: the three losses and the norm of every parameter's gradient.

    Gradients come the way training takes, through the heads at labelled positions only; the losses are computed from
    all logits as well.
    """
    tensors = golden.tensors
    hidden = model.train().hidden_states(tensors["input_ids"], **golden.features(), **golden.speaker())
    sums = loss_sums(model, hidden, tensors["text_labels"], tensors["audio_labels"])
    model.zero_grad(set_to_none=True)
    (sums.text_loss() + sums.audio_loss() + hidden.aux_loss).backward()

    with torch.no_grad():
        text, count = text_loss_sums(model.text_head(hidden.text), tensors["text_labels"])
        audio_logits = model.audio_head(hidden.audio).movedim(-2, 0)  # (Q, B, T, A)
        audio_labels = tensors["audio_labels"].transpose(0, 1)
        audio, audio_count = audio_loss_sums(audio_logits, audio_labels, golden.config.audio_stop_token)
    ours = {name: p.grad.norm() if p.grad is not None else torch.zeros(()) for name, p in model.named_parameters()}
    return [
        Figure("text loss", largest(sums.text_loss().detach(), tensors["text_loss"])),
        Figure("text loss, all logits", largest(text / count, tensors["text_loss"])),
        Figure("audio loss", largest(sums.audio_loss().detach(), tensors["audio_loss"])),
        Figure("audio loss, all logits", largest((audio / audio_count).mean(), tensors["audio_loss"])),
        Figure("aux loss", largest(hidden.aux_loss.detach(), tensors["aux_loss"])),
        gradient_figure({name: float(norm) for name, norm in ours.items()}, golden.grad_norms),
    ]


def gradient_figure(ours: dict[str, float], theirs: dict[str, float]) -> Figure:
    """|a - b| / max(|b|, 0.01) of the worst parameter; a gradient that one side lacks counts as 0."""
    worst, worst_name = 0.0, ""
    for name in sorted(set(ours) | set(theirs)):
        a, b = ours.get(name, 0.0), theirs.get(name, 0.0)
        difference = abs(a - b) / max(abs(b), 0.01)
        if not difference <= worst:  # also when NaN
            worst, worst_name = difference, name
    return Figure("gradient norms", worst, f"worst of {len(set(ours) | set(theirs))}: {worst_name}")


def check_model(stem: Path) -> list[Figure]:
    """All figures of a golden model, STEM.json and STEM.safetensors."""
    golden = Golden.load(stem)
    model = golden.model()
    return full_forward(golden, model) + incremental(golden, model) + losses_and_gradients(golden, model)


# --- Layout files ------------------------------------------------------------------------------------------------


def different(ours, theirs) -> float:
    """How many integers differ; infinite where lengths do."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    return float((ours != theirs).sum()) if ours.shape == theirs.shape else float("inf")


def check_layout_case(case: dict, config: ModelConfig, markers: Markers) -> list[Figure]:
    """One row: ranges, anchor, inputs, labels."""
    Q, length = config.num_codebooks, case["max_length"]
    kept = case["text_ids"][:length]
    ranges = find_assistant_ranges(kept, markers.assistant, markers.end)
    start = audio_start(kept, ranges[-1], markers.think_end) if ranges else None
    row = build_row(
        case["text_ids"],
        frames(case["answer_codes"], Q),
        config,
        markers,
        ref_codes=frames(case["ref_codes"], Q),
        has_speaker=case["has_spk"],
        max_length=length,
        pad=True,
    )
    stops = (torch.as_tensor(case["expected_audio_labels"]) == config.audio_stop_token).any(dim=1)
    expected_cut = int((~stops).sum()) if case["answer_codes"] else 0
    differences = {
        "assistant ranges": float([list(r) for r in ranges] != [list(r) for r in case["assistant_ranges"]]),
        "audio start": float(start != case["audio_start"]),
        "input": different(row.input_ids, case["expected_input"]),
        "text labels": different(row.text_labels, case["expected_text_labels"]),
        "audio labels": different(row.audio_labels, case["expected_audio_labels"]),
        "stops cut": float(row.stop_cut != expected_cut),
    }
    return [Figure(name, value, case["note"]) for name, value in differences.items()]


def check_layout(path: Path) -> list[Figure]:
    """All rows of a layout file."""
    layout = json.loads(path.read_text(encoding="utf-8"))
    config = ModelConfig(
        pad_token=layout["pad_token_id"],
        audio_pad_token=layout["audio_pad"],
        audio_stop_token=layout["audio_stop"],
        audio_spk_token=layout["audio_spk"],
        audio_vocab_size=max(layout["audio_pad"], layout["audio_stop"], layout["audio_spk"]) + 1,
    )
    ids = ("bos_assistant_ids", "eos_ids", "think_end_ids")
    markers = Markers(*(tuple(layout[name]) for name in ids))
    return [figure for case in layout["cases"] for figure in check_layout_case(case, config, markers)]


# --- Script and tests --------------------------------------------------------------------------------------------


def check_file(path: Path) -> list[Figure]:
    """All figures of a golden file, given as .safetensors, .json or their stem: JSON with cases is a layout."""
    stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    described = stem.with_name(stem.name + ".json")
    if not described.is_file():
        raise SystemExit(f"{path}: no such golden file ({described} is missing)")
    is_layout = "cases" in json.loads(described.read_text(encoding="utf-8"))
    return check_layout(described) if is_layout else check_model(stem)


def golden_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


OWN_FILES = golden_files(OWN_GOLDEN)
SHARED_FILES = golden_files(shared_golden())
ABSENT = pytest.param(
    None, marks=pytest.mark.skip(reason=f"no golden numbers of the original in {shared_golden()} (set MMO_GOLDEN)")
)


def assert_passed(path: Path) -> None:
    failed = [str(figure) for figure in check_file(path) if not figure.passed]
    assert not failed, f"{path.name}:\n" + "\n".join(failed)


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.stem)
def test_own_golden(path):
    assert_passed(path)


@pytest.mark.parametrize("path", SHARED_FILES or [ABSENT], ids=lambda path: path.stem if path else "absent")
def test_golden_of_the_original(path):
    assert_passed(path)


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python tests/parity.py FILE ...   (a golden model's .safetensors, .json or stem, or a layout)")
        return 2
    failures = 0
    for argument in arguments:
        path = Path(argument)
        figures = check_file(path)
        print(f"{path}  (bound {BOUND:.0e})")
        print("\n".join(f"  {figure}" for figure in figures))
        failures += sum(not figure.passed for figure in figures)
    print("all within bounds" if not failures else f"{failures} out of bounds")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
