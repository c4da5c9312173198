"""Notebook 00."""

import torch

from mmo.course.exercises import Case


def frames_cases():
    return [Case(f"{samples} samples in frames of {size}", (torch.linspace(-1, 1, samples), size)) for samples, size in ((17, 5), (1921, 1920), (1, 1), (6, 7))]


def loss_cases():
    def case(name: str, T: int, V: int, seed: int, labels: list[int]) -> Case:
        return Case(name, (torch.randn(T, V, generator=torch.Generator().manual_seed(seed)), torch.tensor(labels)))

    return [case("one position", 1, 9, 70, [4]), case("8 positions, one of them with a label", 8, 3, 71, [-100] * 7 + [1]), case("6 positions of 20 codes", 6, 20, 72, [0, -100, 19, 7, -100, 7])]


HIDDEN = {"00.frames": frames_cases, "00.loss": loss_cases}
