"""Several processes, one model: shares of a batch that teach what the whole batch would have taught.

    torchrun --standalone --nproc-per-node 2 -m mmo.distributed --steps 3 --out two.safetensors
    python -m mmo.distributed --steps 3 --out one.safetensors          # the same batches in one process

Every process holds the whole model and a share of each batch.  Three things make their common step the step of the
whole batch:

- **Shares** (`share`): every process gets as many batches as every other, or one would wait for ever.
- **Denominators** (`shared_loss`): a mean over a share is not a share of the mean, for shares hold unlike numbers of
  labels.  Each process divides its sums by the counts of all.
- **Gradients** (`average_gradients`): averaged once a step.  A parameter without a gradient counts as zeros, since
  another process may have one: a batch in which nothing is spoken leaves the Talker out.

What is here is proven by the trial that this module runs (`main`), spelt out for notebook A4.  `mmo.training.train` shares its batches by the same
three rules (shares.py): shares are parts of one batch, balanced by length, and PyTorch's DistributedDataParallel averages.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from mmo.omni import LossSums

# --- The group ---------------------------------------------------------------------------------------------------

PATIENCE = timedelta(days=7)  # process 0 may encode sounds for hours while the others wait; torchrun notices a process that has ended
LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")  # what gloo says then
REPORT_SECONDS = 5  # in which torchrun should have seen who ended first, and ended the others


class ProcessLost(ValueError):
    """Another process has ended, so this one cannot go on."""


@dataclass(frozen=True)
class Group:
    """Who I am among how many.  Alone, nothing is exchanged and nobody is waited for."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Group:
        """The group that torchrun has started (it sets RANK and WORLD_SIZE), joined once; without torchrun a group of one."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not torch.distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            torch.distributed.init_process_group(backend, timeout=PATIENCE)
            atexit.register(cls.leave)
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @staticmethod
    def leave() -> None:
        """Take leave of the others, where that was not done."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; every process must call it with a tensor of the same shape."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all are here."""
        self.sum(torch.zeros(1))

    def gather(self, thing) -> list:
        """Everybody's, by rank."""
        found = [thing] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(found, thing)
        return found

    def from_first(self, thing):
        """What process 0 has here."""
        found = [thing]
        if self.size > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        return found[0]

    def must_agree(self, what: str, thing) -> None:
        """Raises ValueError on all where somebody's is not what process 0 has."""
        everybodys = self.gather(thing)
        others = [rank for rank, each in enumerate(everybodys) if each != everybodys[0]]
        if others:
            raise ValueError(f"{what} of process {others[0]} are not those of process 0: start all by the same command, on the same files")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Process 0 first, then the others: what it writes they find.  Where it fails they never begin."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Say which process an error is of, and tell torchrun, which ends the others."""
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            told = f"process {self.rank} of {self.size}"
            if isinstance(error, torch.distributed.DistNetworkError) or any(words in str(error) for words in LOST):
                print(f"{told}: another process has ended. The same command goes on from the last saved state.", file=sys.stderr, flush=True)
                time.sleep(REPORT_SECONDS)
                raise ProcessLost(f"{told}: another process has ended") from error
            print(f"{told}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
            raise


@contextmanager
def joined() -> Iterator[Group]:
    """The group that torchrun has started, until the block ends; without torchrun a group of one."""
    try:
        yield Group.join()
    finally:
        Group.leave()


# --- Shares ------------------------------------------------------------------------------------------------------


def share(count: int, rank: int, size: int) -> list[int]:
    """Which of `count` batches are this process's: every size-th from its rank on.

    The last few that do not suffice for all are left out: a process with one batch more would wait for the others.
    """
    return list(range(rank, count - count % size, size))


def share_of_mean(own_sum: Tensor, whole_count: Tensor, size: int) -> Tensor:
    """What a process adds to a mean over all: its sum, over the count of all, times the number of processes.

    Averaging over processes divides by that number again.  Shapes broadcast: () for the text, (Q,) for the codebooks.
    """
    return size * own_sum / whole_count.clamp(min=1)


def shared_loss(sums: LossSums, group: Group, codebook_weights: Tensor | None = None) -> Tensor:
    """The process's loss.

    Its average over processes is text + audio loss of the whole batch, gradients too.
    """
    counts = group.sum(torch.cat((sums.text_count[None], sums.audio_count)).float())
    text = share_of_mean(sums.text, counts[0], group.size)
    audio = share_of_mean(sums.audio, counts[1:], group.size)  # (Q,)
    weights = torch.ones_like(audio) if codebook_weights is None else codebook_weights
    return text + (audio * weights).sum() / weights.sum()


def average_gradients(parameters: Iterable[nn.Parameter], group: Group) -> None:
    """Every gradient becomes its mean over the processes.

    One exchange for all: many small ones would mostly wait.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = group.sum(torch.cat([gradient.flatten() for gradient in found])) / group.size
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


# --- Arithmetic --------------------------------------------------------------------------------------------------


def exchange_seconds(gradient_bytes: float, bandwidth: float, cards: int) -> float:
    """A ring all-reduce: every card sends and receives (cards - 1) / cards of the bytes twice (Patarasuk & Yuan 2009)."""
    return 2 * (cards - 1) / cards * gradient_bytes / bandwidth


def speed_up(work: float, gradient_bytes: float, bandwidth: float, cards: int) -> float:
    """How many times as fast `cards` cards do a step that takes one card `work` seconds, if exchange hides behind nothing."""
    return work / (work / cards + exchange_seconds(gradient_bytes, bandwidth, cards))


# --- The trial ---------------------------------------------------------------------------------------------------


def trial(group: Group, steps: int, rows: int, exact: bool = True, seed: int = 0) -> tuple[list[float], dict[str, Tensor]]:
    """Some steps of a small model on the tiny world's rows; the loss of each whole batch, and the weights behind them.

    rows: of a whole batch; process r takes every size-th of them.  exact: False lets every process take the mean over
    its own labels, which is the usual mistake.  The optimiser is plain SGD, so that weights differ as gradients do.
    """
    from mmo.chat import ChatTokenizer
    from mmo.config import Draws
    from mmo.data import Corpus, DataFile, Layout, collate, realise
    from mmo.omni import OmniModel, loss_sums
    from mmo.profiles import profile
    from mmo.rows import open_rows

    import numpy as np

    settings = profile("tiny")
    config = settings.model.replace(hidden_size=64, num_hidden_layers=2, talker_hidden_size=64, num_talker_hidden_layers=2, adapter_rank=16)
    corpus = Corpus([DataFile(open_rows(settings.data_dir / "t2a-validation.parquet", settings.model, settings.cache_dir()))], Draws.none())
    layout = Layout(config, ChatTokenizer.load(settings.tokenizer_dir), max_length=320)
    torch.manual_seed(seed)
    model = OmniModel(config).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        numbers = range(step * rows, (step + 1) * rows)
        own = [realise(corpus, number, 0, np.random.default_rng(number), layout) for number in list(numbers)[group.rank :: group.size]]
        batch = collate(own, config)
        sums = loss_sums(model, model.hidden_states(**batch.inputs("cpu")), batch.text_labels, batch.audio_labels)
        loss = shared_loss(sums, group)
        (loss if exact else sums.text_loss() + sums.audio_loss()).backward()
        average_gradients(model.parameters(), group)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(group.sum(loss.detach().clone())) / group.size)
    return losses, {name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}


def main() -> None:
    """Run the trial and let process 0 write the weights to --out, with the losses in the file's description."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=trial.__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="rows of a whole batch")
    parser.add_argument("--own-means", action="store_true", help="the usual mistake: every process its own mean")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with joined() as group:
        losses, weights = trial(group, chosen.steps, chosen.rows, exact=not chosen.own_means)
        if group.rank == 0:
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            save_file(weights, chosen.out, metadata={"losses": json.dumps(losses), "processes": str(group.size)})


if __name__ == "__main__":
    main()
