"""Notebook 09's stand-ins are moshi's streaming layers, piece by piece."""

from __future__ import annotations

import pytest
import torch
from moshi.modules.conv import StreamingConv1d, StreamingConvTranspose1d

from mmo.course.exercises import judge
from mmo.course.tasks import streaming
from mmo.sequence import undelay


def pieces_of(x, sizes):
    return x.split(sizes, dim=-1)


@pytest.mark.parametrize("kernel, stride, dilation, sizes", [(7, 1, 1, [2, 1, 9]), (8, 4, 1, [4, 8, 4]), (3, 1, 4, [5, 5, 2]), (1, 1, 1, [3, 3])])
@torch.no_grad()
def test_conv_step_is_moshis(kernel, stride, dilation, sizes):
    layer = StreamingConv1d(3, 2, kernel, stride, dilation, causal=True)
    x = streaming.drawn(2, 3, sum(sizes))
    conv = layer.conv.conv
    state = torch.zeros(2, 3, (kernel - 1) * dilation + 1 - stride)
    with layer.streaming(2):
        for piece in pieces_of(x, sizes):
            ours, state = streaming.conv_step(piece, state, conv.weight, conv.bias, stride, dilation)
            torch.testing.assert_close(ours, layer(piece))
            torch.testing.assert_close(state, layer._streaming_state.previous)


@pytest.mark.parametrize("kernel, stride, sizes", [(16, 8, [1, 2, 1]), (4, 2, [3, 1]), (5, 2, [1, 1, 4]), (2, 2, [2, 2])])
@torch.no_grad()
def test_overlap_add_is_moshis(kernel, stride, sizes):
    layer = StreamingConvTranspose1d(3, 2, kernel, stride, causal=True)
    x = streaming.drawn(2, 3, sum(sizes))
    conv = layer.convtr.convtr
    state = torch.zeros(2, 2, kernel - stride)
    with layer.streaming(2):
        for piece in pieces_of(x, sizes):
            ours, state = streaming.overlap_add(piece, state, conv.weight, conv.bias, stride)
            torch.testing.assert_close(ours, layer(piece))


def test_pushed_steps_are_undelay():
    steps = streaming.numbered(12, 5)
    held, frames = steps[:0], []
    for codes in steps:
        held, frame = streaming.push(held, codes)
        frames += [] if frame is None else [frame]
        assert len(held) <= 4
    assert torch.equal(torch.stack(frames, dim=1), undelay(steps.T))


def conv_by_hand_of_zeros(x, previous, weight, bias, stride, dilation):
    """Written as a beginner would: pad on the left with zeros."""
    P = previous.shape[-1]
    y = torch.nn.functional.conv1d(torch.nn.functional.pad(x, (P, 0)), weight, bias, stride, dilation=dilation)
    return y, torch.cat((previous, x), -1)[..., x.shape[-1] :]


def overlap_with_the_layers_bias(x, partial, weight, bias, stride):
    """The bias given to conv_transpose1d, so that it is in the tail as well."""
    y = torch.nn.functional.conv_transpose1d(x, weight, bias, stride=stride)
    P = partial.shape[-1]
    y[..., :P] += partial
    return y[..., : x.shape[-1] * stride], y[..., x.shape[-1] * stride :]


def choose_with_a_loop(logits, temperature, top_k, uniform):
    """Right, but the slow way: must pass."""
    chosen = []
    for row, u in zip(logits.float(), uniform):
        if temperature == 0:
            chosen.append(int(row.argmax()))
            continue
        order = row.argsort(descending=True)[: top_k or len(row)]
        shares = (row[order] / temperature).exp()
        shares = shares / shares.sum()
        total, place = 0.0, 0
        for place, share in enumerate(shares):
            total += float(share)
            if total >= u:
                break
        chosen.append(int(order[place]))
    return torch.tensor(chosen)


def stop_that_ignores_the_stop(sampled, step, speech_end, pad, stop):
    frame = step - 1 - torch.arange(sampled.shape[1])
    return torch.where(frame < 0, pad, sampled), speech_end


@pytest.mark.parametrize(
    "task, wrong, words",
    [
        (streaming.CONV, conv_by_hand_of_zeros, "as if silence had come before"),
        (streaming.OVERLAP, overlap_with_the_layers_bias, "each seam would have it twice"),
        (streaming.CHOOSE, lambda logits, temperature, top_k, uniform: logits.topk(1).indices[:, 0], "`uniform` decides nothing"),
        (streaming.STRAIGHTEN, lambda held, codes: (held, None), "wanted"),
        (streaming.STOPPING, stop_that_ignores_the_stop, "wanted"),
    ],
)
def test_mistakes_written_by_hand_are_diagnosed(task, wrong, words):
    verdict = judge(task, wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words


def test_a_slow_but_right_choice_passes():
    assert judge(streaming.CHOOSE, choose_with_a_loop).passed
