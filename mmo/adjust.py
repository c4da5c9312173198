"""A profile with some of its settings changed, as one word: "tiny,learning_rate=0.0003,t2a.draws.hidden_history=0".

    profile("tiny,lr=3e-4")                    # every pass of every stage
    profile("tiny,a2a.learning_rate=3e-4")     # the passes of one stage; "a2a-projector.learning_rate": of one pass
    profile("tiny,draws.hidden_history=0,decoding.temperature=0.6,model.keep_top1_gate=true")

The name says what was changed wherever it is written down: in a notebook's parameters, in a folder's name, in a report.  A changed
profile has a run folder of its own, so its weights are never taken for those of the plain one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from mmo.config import Decoding, Draws, ModelConfig, StageConfig

ALIASES = {"lr": "learning_rate"}
FIXED = ("name", "data", "needs", "draws", "rehearsal")  # of StageConfig: what a pass is, not how it is trained
PARTS = {"draws": Draws, "decoding": Decoding, "model": ModelConfig}
# Of the model only what leaves its shapes alone: sizes hang together, and the shipped weights have them.
MODEL = ("norm_topk_prob", "router_aux_loss_coef", "talker_router_aux_loss_coef", "keep_top1_gate")


def split_list(text: str) -> list[str]:
    """ "a,[[1,2],[3]],b" -> ["a", "[[1,2],[3]]", "b"]: at commas, but not within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth = max(0, depth + {"[": 1, "]": -1}.get(letter, 0))
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """ "tiny,lr=3e-4" -> ("tiny", {"learning_rate": "3e-4"}).  Raises ValueError for a part without "="."""
    base, *parts = split_list(name) or [""]
    changes = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise ValueError(f"profile {name!r}: {part!r} is not written name=value")
        *before, last = key.strip().split(".")
        changes[".".join([*before, ALIASES.get(last, last)])] = value.strip()
    return base, changes


def known_settings() -> dict[str, str]:
    """Every setting that may be changed -> its type, as written in mmo/config.py."""
    found = {field.name: str(field.type) for field in fields(StageConfig) if field.name not in FIXED}
    for part, kind in PARTS.items():
        found |= {f"{part}.{field.name}": str(field.type) for field in fields(kind) if part != "model" or field.name in MODEL}
    return found


def setting_of(key: str, stages: Mapping[str, tuple[StageConfig, ...]]) -> tuple[str, str]:
    """ "t2a.draws.silent" -> ("t2a", "draws.silent"); "" where it is for all.  Raises ValueError listing what is known."""
    known = known_settings()
    places = [*stages, *(each.name for passes in stages.values() for each in passes)]
    if key in known:
        return "", key
    place, _, setting = key.partition(".")
    if place in places and setting in known and not setting.startswith(("decoding.", "model.")):
        return place, setting
    raise ValueError(
        f"no setting {key!r}. Known are {', '.join(known)}; those of training also with a stage or pass in front: {', '.join(dict.fromkeys(places))} "
        f"({', '.join(f'{short} is short for {long}' for short, long in ALIASES.items())})"
    )


def converted(key: str, kind: str, text: str):
    """The value of a setting from its text.  kind: its type, "float | None" for instance.  Raises ValueError."""
    for each in kind.split(" | "):
        try:
            if each == "None" and text.lower() == "none":
                return None
            if each == "bool" and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if each == "int":
                return int(text)
            if each == "float" and math.isfinite(float(text)):
                return float(text)
            if each == "str":
                return text
            if each.startswith("tuple") and isinstance(values := json.loads(text), list):
                return as_tuples(values)
        except ValueError:
            continue
    raise ValueError(f"{key}={text}: wanted {kind}" + (", written [4,2,1]" if "tuple" in kind else ""))


def as_tuples(values):
    """Lists within lists as tuples within tuples, as settings hold them."""
    return tuple(as_tuples(each) for each in values) if isinstance(values, list) else values


def written(value) -> str:
    """A value as it stands in a name, always the same for the same value."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(list(value), separators=(",", ":")) if isinstance(value, tuple) else str(value)


def adjusted(profile, changes: Mapping[str, str]):
    """A profile with its settings changed, and its `changes` saying so.  Raises ValueError naming a setting that cannot be."""
    found = []  # (how special, key, place, setting, value)
    for key, text in changes.items():
        place, setting = setting_of(key, profile.stages)
        special = 0 if not place else 1 if place in profile.stages else 2
        found.append((special, key, place, setting, converted(key, known_settings()[setting], text)))
    try:
        profile = with_settings(profile, [each[2:] for each in sorted(found, key=lambda each: each[:2])])  # what is for all first, so that what is for one prevails
    except TypeError as error:
        raise ValueError(f"{', '.join(f'{key}={text}' for key, text in changes.items())}: {error}") from None
    return replace(profile, changes=",".join(f"{key}={written(value)}" for _, key, _, _, value in sorted(found, key=lambda each: each[:2])))


def with_settings(profile, changes: Sequence[tuple[str, str, object]]):
    """A profile with (place, setting, value) changed, later ones prevailing.  All of a part at once: one alone may not go with what the others still are."""
    parts: dict[str, dict] = {"decoding": {}, "model": {}}
    for _, setting, value in changes:
        part, _, name = setting.partition(".")
        if part in parts:
            parts[part][name] = value
    of_passes = [change for change in changes if change[1].split(".")[0] not in parts]
    stages = {
        stage: tuple(changed_pass(each, [change for change in of_passes if change[0] in ("", stage, each.name)]) for each in passes)
        for stage, passes in profile.stages.items()
    }
    return replace(profile, stages=stages, **{part: replace(getattr(profile, part), **found) for part, found in parts.items() if found})


def changed_pass(stage: StageConfig, changes: Sequence[tuple[str, str, object]]) -> StageConfig:
    """One pass with settings changed; steps take the place of epochs and the other way round.

    Draws are those of the pass's own rows; those set for all (without a place) also of the rows that it rehearses, which are another stage's.
    """
    own, draws, rehearsed = {}, {}, {}
    for place, setting, value in changes:
        if setting.startswith("draws."):
            draws[setting.removeprefix("draws.")] = value
            if not place:
                rehearsed[setting.removeprefix("draws.")] = value
            continue
        own[setting] = value
        if value is not None and setting in ("steps", "epochs"):  # of both the later prevails; `replace` puts it in the other's place
            own.pop("epochs" if setting == "steps" else "steps", None)
    others = tuple(replace(each, draws=replace(each.draws, **rehearsed)) for each in stage.rehearsal) if rehearsed else stage.rehearsal
    return stage.replace(draws=replace(stage.draws, **draws), rehearsal=others, **own) if changes else stage


def combinations(choices: Mapping[str, list[str]]) -> Iterator[dict[str, str]]:
    """{"lr": ["1", "2"], "x": ["3"]} -> {"lr": "1", "x": "3"}, {"lr": "2", "x": "3"}: every choice with every other."""
    if not choices:
        yield {}
        return
    *before, last = choices
    for one in combinations({key: choices[key] for key in before}):
        yield from (one | {last: value} for value in choices[last])
