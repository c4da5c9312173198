"""WER against minutes: a training a point, none of them twice."""

import pytest
import worlds

from mmo import curve
from mmo.checkpoint import stage_file
from mmo.training import read_log


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    return worlds.toy_profile(tmp_path)


def test_a_step_takes_time(profile):
    assert 0 < curve.seconds_a_step(profile) < 60


def test_a_point_is_trained_once_with_as_many_steps_as_fit(profile, tmp_path, monkeypatch):
    point = curve.train_point(profile, 0.5, 2.0, tmp_path / "point")
    assert point["steps"] == 15 and stage_file(tmp_path / "point", "t2a").is_file()
    monkeypatch.setattr(curve, "train", None)  # a second training would fail
    assert curve.train_point(profile, 0.5, 1.0, tmp_path / "point") == point


def test_a_point_that_was_begun_is_gone_on_with_whatever_a_step_takes_now(profile, tmp_path, monkeypatch):
    """Its seconds are those of all sittings."""
    real, folder = curve.train, tmp_path / "point"
    monkeypatch.setattr(curve, "train", lambda *given, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        curve.train_point(profile, 0.5, 2.0, folder)
    assert not real(profile, "t2a", "full", folder, steps=15, minutes=1e-9, progress_bar=False).finished
    monkeypatch.setattr(curve, "train", real)
    point = curve.train_point(profile, 0.5, 1.0, folder)
    assert point["steps"] == 15 == len(read_log(folder / "log" / "t2a.jsonl"))
    assert point["took"] == round(sum(entry["seconds"] for entry in read_log(folder / "log" / "t2a.jsonl")) / 60, 2)


def test_where_the_steps_seconds_are_told_the_point_stands_at_their_product(profile, tmp_path):
    point = curve.train_point(profile, 0.5, 3.0, tmp_path / "point", given=True)
    assert point["minutes"] == 0.5 and point["steps"] == 10 and point["took"] < 0.5, point


def test_the_picture_shows_minutes_and_ceiling(tmp_path):
    points = [{"minutes": 5.0, "wer": 0.6, "interval": [0.5, 0.7]}, {"minutes": 10.0, "wer": 0.5, "interval": [0.4, 0.6]}]
    curve.draw(points, 0.3, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
