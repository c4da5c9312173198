"""Notebook 10."""

from mmo.course.exercises import Case
from mmo.course.tasks.training import weights

HIDDEN = {
    "10.rate": lambda: [Case(f"step {step} of {steps}, {warmup} of warm-up, down to {final}", (step, steps, warmup, final)) for step, steps, warmup, final in ((3, 100, 10, 0.0), (10, 100, 10, 0.0), (37, 100, 8, 0.25), (999, 1000, 1, 0.05))],
    "10.average": lambda: [Case(f"update {updates}, decay {decay}", (weights(70), weights(71), decay, updates)) for updates, decay in ((30, 0.999), (89, 0.9), (20000, 0.9999))],
}
