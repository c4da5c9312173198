"""Notebook 01's stand-ins are what moshi's quantiser really computes: a check against them means something."""

from __future__ import annotations

import pytest
import torch

from mmo.codec import Codec, codec_config
from mmo.course.exercises import judge
from mmo.course.tasks import codec as tasks
from speakers import random_mimi


@pytest.fixture(scope="module")
def codec():
    return Codec(random_mimi(codec_config(n_filters=4, dimension=32, layers=1, bins=16, codebooks=8, feedforward=64)))


@pytest.fixture(scope="module")
def latents(codec):
    """Wide apart, so that the codes differ; an untrained encoder's are all alike."""
    return 3 * torch.randn(1, codec.model.dimension, 40, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_one_step_is_moshis_codebook(codec, latents):
    layer = codec.model.quantizer.rvq_rest.vq.layers[0]
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(1)) * layer.embedding.std()
    codes, left = tasks.nearest(x, layer.embedding)
    assert torch.equal(codes, layer._codebook.encode(x))
    assert torch.allclose(left + layer._codebook.decode(codes), x, atol=1e-6)


@torch.no_grad()
def test_the_two_chains_are_the_codes_of_mimi(codec, latents):
    """Codebook 0 by itself, 1 to 7 residually, both from the same latent."""
    made = [tasks.residual_codes((part.project_in @ latents[0]).T, part.codebooks) for part in codec.quantisers()]
    assert all(len(row.unique()) > 3 for row in torch.cat(made))
    assert torch.equal(torch.cat(made), codec.model.quantizer.encode(latents)[0])


@torch.no_grad()
def test_the_sum_is_what_mimi_decodes(codec, latents):
    codes = codec.model.quantizer.encode(latents)
    for used in (1, 3, 8):
        split = (codes[0, :1], codes[0, 1:used])
        total = sum(part.project_out @ tasks.sum_entries(rows, part.codebooks).T for part, rows in zip(codec.quantisers(), split) if len(rows))
        torch.testing.assert_close(total, codec.model.decode_latent(codes[:, :used])[0])


def loop_nearest(x, codebook):
    codes = torch.stack([torch.stack([((point - entry) ** 2).sum() for entry in codebook]).argmin() for point in x])
    return codes, torch.stack([point - codebook[code] for point, code in zip(x, codes)])


def entropy_with_zeros(codes, num_codes):
    shares = torch.bincount(codes, minlength=num_codes) / len(codes)
    return float(torch.exp(-(shares * shares.log()).sum()))


def perplexity_of_seen(codes, num_codes):
    counts = codes.unique(return_counts=True)[1] / len(codes)
    return float(2 ** -(counts * counts.log2()).sum())


def test_other_ways_to_the_same_result_pass():
    assert judge(tasks.NEAREST, loop_nearest).passed
    assert judge(tasks.PERPLEXITY, perplexity_of_seen).passed
    assert judge(tasks.SUM, lambda codes, books: torch.stack([books[k][codes[k]] for k in range(len(codes))]).sum(0)).passed
    assert judge(tasks.BITRATE, lambda rate, Q, C: rate * Q * torch.log2(torch.tensor(C))).passed


@pytest.mark.parametrize(
    "task, wrong, words",
    [
        (tasks.NEAREST, lambda x, book: (((x[:, None] - book) ** 2).sum(-1).argmin(1), book), "result 2"),
        (tasks.NEAREST, lambda x, book: (x @ book.T).softmax(1).argmax(1), "wanted 2 results"),
        (tasks.RESIDUAL, lambda x, books: torch.stack([torch.cdist(x, book).argmin(1) for book in books]), "quantises the point itself"),
        (tasks.SUM, lambda codes, books: torch.stack([books[k][codes[k]] for k in range(len(codes))]).mean(0), "average"),
        (tasks.SUM, lambda codes, books: sum(books[k][codes[k]] for k in range(len(codes))).detach(), "no gradient"),
        (tasks.PERPLEXITY, entropy_with_zeros, "0 · log 0 is nan"),
        (tasks.BITRATE, lambda rate, Q, C: rate * Q * len(f"{C:b}"), "need 11 bits"),
        (tasks.NEAREST, lambda x, book: (i := ((x[:, None] - book) ** 2).sum(-1).argmin(0), x - book[i]), "nearest point for each entry"),
    ],
)
def test_mistakes_written_by_hand_are_diagnosed(task, wrong, words):
    verdict = judge(task, wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words
