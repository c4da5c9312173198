"""Profiles: every name gives a whole recipe, and what the machine cannot do fast is not chosen."""

import pytest
import torch

from mmo import profiles
from mmo.config import Draws
from mmo.omni import OmniModel
from mmo.profiles import PROFILES, STAGES, profile, run_dir


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_whole(name):
    chosen = profile(name)
    assert chosen.name == name
    assert tuple(chosen.stages) == STAGES
    for stage, passes in chosen.stages.items():
        assert passes and passes[-1].trainable == "all", f"{name} {stage}: its last pass learns everything"
        for each in passes:
            assert each.max_length <= chosen.model.max_position_embeddings
            assert each.codebook_weights is None or len(each.codebook_weights) == chosen.model.num_codebooks
            assert not each.draws.system_prompt or chosen.system_prompts


def test_name_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MMO_PROFILE", "mini")
    assert profile().name == "mini"
    monkeypatch.delenv("MMO_PROFILE")
    assert profile().name == "tiny"


def test_unknown_name_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("MMO_PROFILE", "huge")
    with pytest.raises(ValueError, match="huge.*tiny, tiny-moe, mini, mini-moe, full"):
        profile()


def test_run_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path))
    assert run_dir(profile("tiny")) == tmp_path / "tiny"
    assert run_dir(profile("tiny-moe"), "smoke") == tmp_path / "tiny-moe-smoke"
    with pytest.raises(ValueError, match="full, smoke"):
        run_dir(profile("tiny"), "weekend")


def test_tiny_fits_the_tiny_world():
    """Sizes that other files fix: codes of the codec, ids of the tokenizer."""
    model = profile("tiny").model
    assert (model.num_codes, model.audio_pad_token, model.audio_stop_token, model.audio_spk_token) == (512, 513, 514, 515)
    tokenizer = profile("tiny").tokenizer_dir / "tokenizer.json"
    if tokenizer.is_file():
        from mmo.chat import ChatTokenizer

        assert len(ChatTokenizer.load(tokenizer.parent)) <= model.vocab_size


def test_tiny_has_the_ids_that_the_original_has():
    """Newline 234, pad 0, <|im_start|> 1, <|im_end|> 2, a sound's placeholder 16, a picture's 12."""
    from mmo.chat import ChatTokenizer

    tokenizer = ChatTokenizer.load(profile("tiny").tokenizer_dir)
    model = profile("mini").model
    assert [tokenizer.encode(each) for each in ("\n", "<|im_start|>", "<|im_end|>")] == [[234], [1], [2]]
    assert (tuple(model.audio_ids), tuple(model.image_ids)) == ((16,), (12,)) and profile("tiny").model.audio_ids == model.audio_ids


def test_mini_is_the_originals_recipe():
    """Rates, lengths, epochs and draws of the published run."""
    mini = profile("mini")
    found = [(each.name, each.learning_rate, each.max_length, each.epochs, each.schedule, each.final_rate, each.trainable) for passes in mini.stages.values() for each in passes]
    assert found == [
        ("t2a", 5e-4, 512, 1, "cosine", 0.1, "all"),
        ("a2a-projector", 5e-4, 640, 1, "cosine", 0.1, "audio_proj"),
        ("a2a", 2e-5, 768, 1, "cosine", 0.1, "all"),
        ("i2t-projector", 5e-5, 768, 1, "cosine", 0.1, "vision_proj"),
        ("i2t", 5e-6, 768, 1, "cosine", 0.1, "all"),
    ]
    draws = Draws()
    assert (draws.question, draws.system_prompt, draws.empty_think, draws.drop_reference, draws.random_codes) == ((0.4, 0.2, 0.4), 0.2, 0.2, 0.5, 0.05)
    decoding = mini.decoding
    assert (decoding.temperature, decoding.top_k) == (0.2, 50)


def test_experts_keep_the_active_size():
    """Per position the mixture computes as much as the dense model: four experts, one of them at work."""
    with torch.device("meta"):
        dense, mixture = OmniModel(profile("tiny").model), OmniModel(profile("tiny-moe").model)
    size = {name: parameter.numel() for name, parameter in mixture.named_parameters()}
    experts = sum(count for name, count in size.items() if ".experts." in name)
    routers = sum(count for name, count in size.items() if name.endswith("mlp.gate.weight"))
    assert sum(size.values()) - experts * 3 // 4 - routers == sum(p.numel() for p in dense.parameters())


def test_mini_is_the_originals_size():
    with torch.device("meta"):
        model = OmniModel(profile("mini").model)
    assert 110e6 < sum(parameter.numel() for parameter in model.parameters()) < 116e6


@pytest.mark.parametrize("capability, wanted", [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((8, 6), torch.bfloat16)])
def test_cuda_computes_in_bf16_from_ampere_on(monkeypatch, capability, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert profiles.compute_dtype.__wrapped__(torch.device("cuda"), 192) == wanted


@pytest.mark.parametrize("amx, width, wanted", [(False, 768, torch.float32), (True, 768, torch.bfloat16), (True, 192, torch.float32)])
def test_cpu_computes_in_bf16_only_where_it_is_faster(monkeypatch, amx, width, wanted):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert profiles.compute_dtype.__wrapped__(torch.device("cpu"), width) == wanted
