"""A profile with changed settings, as one word: exactly what was named is changed, the name gives the same profile again, and what
cannot be changed is refused with what can."""

import pytest

from mmo.adjust import combinations, known_settings, split_list
from mmo.profiles import PROFILES, profile, run_dir


def rates(name):
    return [each.learning_rate for passes in profile(name).stages.values() for each in passes]


def test_for_all_for_a_stage_for_a_pass():
    assert rates("tiny,lr=3e-4") == [3e-4] * 5
    plain = rates("tiny")
    assert rates("tiny,a2a.lr=3e-4") == [plain[0], 3e-4, 3e-4, *plain[3:]]
    assert rates("tiny,a2a-projector.learning_rate=3e-4") == [plain[0], 3e-4, *plain[2:]]
    assert rates("tiny,a2a-projector.lr=1,a2a.lr=2,lr=3") == [3, 1, 2, 3, 3], "what is for one prevails, in whatever order it is written"


def test_draws_decoding_and_model():
    found = profile("tiny,t2a.draws.hidden_history=0,decoding.temperature=0.6,model.keep_top1_gate=true")
    assert found.stages["t2a"][0].draws.hidden_history == 0 and found.stages["a2a"][1].draws.hidden_history == 0.15
    assert found.decoding.temperature == 0.6 and found.decoding.max_frames == 125
    assert found.model.keep_top1_gate and found.model.hidden_size == 192


def test_draws_for_all_are_also_those_of_rehearsed_rows():
    plain, every, own = (profile(name).stages["i2t"][-1] for name in ("tiny", "tiny,draws.hidden_history=0", "tiny,i2t.draws.hidden_history=0"))
    assert {each.draws.hidden_history for each in plain.rehearsal} != {0.0}
    assert {each.draws.hidden_history for each in every.rehearsal} == {every.draws.hidden_history} == {0.0}
    assert own.draws.hidden_history == 0.0 and own.rehearsal == plain.rehearsal, "a stage's own are its own"


def test_settings_that_go_together_are_set_together():
    """A length that the old budget has no room for, and the new one has, whichever stands first."""
    for name in ("mini,max_length=4000,token_budget=8192", "mini,token_budget=8192,max_length=4000"):
        assert {(each.max_length, each.token_budget) for passes in profile(name).stages.values() for each in passes} == {(4000, 8192)}
    with pytest.raises(ValueError, match="token_budget 2000 has no room for one row of max_length 4000"):
        profile("mini,max_length=4000,token_budget=2000")


def test_lists_within_lists():
    found = profile("tiny,decoding.looks=[[0,0],[0.03,0]],decoding.hearings=[1,0.9]")
    assert found.decoding.looks == ((0, 0), (0.03, 0)) and found.decoding.hearings == (1, 0.9)
    assert profile(found.full_name) == found


def test_steps_take_the_place_of_epochs():
    assert all(each.steps == 50 and each.epochs is None for passes in profile("mini,steps=50").stages.values() for each in passes)
    assert profile("tiny,t2a.epochs=0.5").stages["t2a"][0].steps is None


@pytest.mark.parametrize("base", PROFILES)
def test_the_name_gives_the_same_profile_again(base, tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path))
    found = profile(f"{base},lr=3e-4,t2a.codebook_weights=[4,2,1,1,1,1,1,1],a2a.trainable=audio_proj+talker")
    assert found.full_name == f"{base},learning_rate=0.0003,a2a.trainable=audio_proj+talker,t2a.codebook_weights=[4,2,1,1,1,1,1,1]"
    assert profile(found.full_name) == found and found.name == base
    assert run_dir(found) == tmp_path / found.full_name != run_dir(profile(base)), "its weights lie in a folder of their own"
    assert profile(base).full_name == base


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny,lerning_rate=1", "no setting 'lerning_rate'. Known are learning_rate"),
        ("tiny,b2b.learning_rate=1", "in front: t2a, a2a, i2t, a2a-projector, i2t-projector"),
        ("tiny,t2a.decoding.temperature=1", "no setting"),
        ("tiny,data=x", "no setting 'data'"),
        ("tiny,model.hidden_size=384", "no setting 'model.hidden_size'"),
        ("tiny,learning_rate=much", "learning_rate=much: wanted float"),
        ("tiny,learning_rate=nan", "wanted float"),
        ("tiny,steps=1.5", "steps=1.5: wanted int"),
        ("tiny,codebook_weights=4", r"written \[4,2,1\]"),
        ("tiny,model.keep_top1_gate=perhaps", "wanted bool"),
        ("tiny,optimiser=sgd", "neither adamw nor muon"),
        ("tiny,learning_rate", "not written name=value"),
        ("huge,learning_rate=1", "no profile 'huge'"),
        (",", "no profile ''"),
    ],
)
def test_what_cannot_be_is_refused_in_words(name, words):
    with pytest.raises(ValueError, match=words):
        profile(name)


def test_lists_and_combinations():
    assert split_list("a, [1,2],b") == ["a", "[1,2]", "b"]
    assert split_list("a=[[1,2],[3]],b]") == ["a=[[1,2],[3]]", "b]"]
    assert list(combinations({"x": ["1", "2"], "y": ["3", "4"]})) == [{"x": "1", "y": "3"}, {"x": "1", "y": "4"}, {"x": "2", "y": "3"}, {"x": "2", "y": "4"}]
    assert list(combinations({})) == [{}]
    assert "learning_rate" in known_settings() and "draws.silent" in known_settings() and "data" not in known_settings()
