"""`mmo features`: what the frozen encoders make of a stage's files, made before training, or looked at.

    make_features(profile, "a2a")        # everything that the stage's passes will ask for
    check_features(profile, "a2a")       # reads all of it again; False where something is missing, stale or damaged

Training makes by itself what is not there; this does it beforehand: overnight, or before a card is rented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo.data import find_files
from mmo.features import FeatureStore, cache_features
from mmo.profiles import STAGES, Profile
from mmo.rows import DataError
from mmo.training import Encoders, FeaturesUsed, default_encoders, features_used, needs_of, planned_passes, validation_files

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """One column of one file, as a pass uses it."""

    path: Path
    use: FeaturesUsed

    def store(self, profile: Profile, compute: bool, tell: Say) -> FeatureStore:
        """The features, made now if need be and `compute` allows.  Raises DataError."""
        return cache_features(self.path, self.use.column, self.use.frozen, profile.cache_dir(), self.use.copies, compute=compute, tell=tell)

    def __str__(self) -> str:
        return f"{self.path.name}, {self.use.column}"


def wanted_features(profile: Profile, stage: str, budget: str, encoders: Encoders, make: bool = True) -> list[Wanted]:
    """Everything that training this stage will ask for, each once.  Raises DataError and FileNotFoundError as training would.

    make: held-out files, too, where they are missing; else they are left out.
    """
    found = {}
    for each in planned_passes(profile, stage, budget, None):
        for pattern in (*each.data, *(name for rehearsed in each.rehearsal for name in rehearsed.data)):
            needs = needs_of(pattern, each)
            files = [(path, False) for path in find_files(profile.data_dir, (pattern,))] if set(needs) - {"answer_audios"} else []
            files += [(path, True) for path in validation_files(profile, pattern, make)]
            for path, plain in files:
                for use in features_used(path, each, needs, encoders, plain):
                    copies = use.copies if use.frozen.augment else 1
                    found.setdefault((path, use.column, copies, plain), Wanted(path, use))
    return list(found.values())


def each_wanted(profile: Profile, stages: Sequence[str], budget: str, say: Say, make: bool = True) -> list[Wanted]:
    """Of all stages, each once; says so where a stage needs none.  make: as in `wanted_features`."""
    encoders = default_encoders(profile, profile.device())
    found = {}
    for stage in stages:
        wanted = wanted_features(profile, stage, budget, encoders, make)
        if not wanted:
            say(f"{stage} needs no features: its questions are text")
        found |= {(each.path, each.use.column, each.use.copies, each.use.frozen.augment is None): each for each in wanted}
    return list(found.values())


def stages_named(stage: str) -> tuple[str, ...]:
    return STAGES if stage == "all" else (stage,)


def make_features(profile: Profile, stage: str, budget: str = "full", say: Say = print) -> None:
    """Make what is missing; what is there stays.  An interrupted call goes on where it was.

    Raises DataError for files that cannot be read or stores that are damaged, FileNotFoundError where an encoder is missing.
    """
    for wanted in each_wanted(profile, stages_named(stage), budget, say):
        say(told(wanted, wanted.store(profile, True, say)))


def check_features(profile: Profile, stage: str, budget: str = "full", say: Say = print) -> bool:
    """Compute nothing; read every store again and compare checksums.  False where one is missing, stale or damaged."""
    good = True
    for wanted in each_wanted(profile, stages_named(stage), budget, say, make=False):
        try:
            store = wanted.store(profile, False, say)
            store.verify()
            say(told(wanted, store))
        except DataError as error:
            good = False
            say(f"{wanted}: {error}")
    return good


def told(wanted: Wanted, store: FeatureStore) -> str:
    """One line about a store."""
    kind = f"{store.copies} {'copy' if store.copies == 1 else 'copies'}" if store.made.augmentation else "as they are"
    bad = f", {len(store.bad)} bad rows left out" if store.bad else ""
    return f"{wanted}: {len(store.first_item) - 1} rows, {kind}, {store.values.nbytes / 1e6:.1f} MB{bad} ({store.folder})"
