"""The appendix's stand-ins are what the rented parts and the package's own training really do; its shipped sound is what it says."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmo.course.exercises import Bug, find, judge
from mmo.course.tasks import codec_training, speech_training, vision_training
from mmo.profiles import profile
from mmo.world import pictures, shipped
from mmo.world import train_speech_encoder as ears
from mmo.world import train_vision_encoder as eyes
from mmo.world.train_codec import CodecTraining, MelLoss, Trainer

DATA = profile("tiny").data_dir


# --- A1 ----------------------------------------------------------------------------------------------------------


@pytest.fixture()
def quantiser():
    from moshi.quantization.core_vq import VectorQuantization

    torch.manual_seed(0)
    return VectorQuantization(dim=6, codebook_size=5, decay=0.9).train()


def test_straight_through_is_moshis(quantiser):
    first = torch.randn(1, 6, 40)
    quantiser(first)  # k-means sets the entries
    entries_before = quantiser.embedding.clone()
    x = torch.randn(1, 6, 12, requires_grad=True)
    found = quantiser(x)
    latent = x.detach()[0].T.requires_grad_(True)  # (N, D)
    passed, commitment = codec_training.straight_through(latent, entries_before[found.codes[0]])
    assert torch.allclose(passed.T[None], found.quantized, atol=1e-6) and torch.allclose(commitment, found.loss, atol=1e-6)
    weights = torch.randn(12, 6)
    ((passed * weights).sum() + commitment).backward()
    ((found.quantized[0].T * weights).sum() + found.loss).backward()
    assert torch.allclose(latent.grad, x.grad[0].T, atol=1e-5)


def test_codebooks_follow_as_moshis(quantiser):
    quantiser(torch.randn(1, 6, 40))
    book = quantiser._codebook
    book._next_unused_check = 100  # this is about following, not about replacing
    x = torch.randn(1, 6, 12)
    usage, sums = book.cluster_usage.clone(), book.embedding_sum.clone()
    codes = quantiser(x).codes[0]
    usage, sums = codec_training.update_codebook(usage, sums, x[0].T, codes, 0.9)
    assert torch.allclose(usage, book.cluster_usage, atol=1e-6) and torch.allclose(sums, book.embedding_sum, atol=1e-5)


def test_the_dead_are_those_that_moshi_replaces(quantiser):
    quantiser(torch.randn(1, 6, 40))
    book = quantiser._codebook
    book.cluster_usage.copy_(torch.tensor([5.0, 0.2, 3.0, 0.0, 1.8]))
    before = book.embedding_sum.clone()
    book._next_unused_check = 1
    marked = codec_training.dead(book.cluster_usage.clone(), book.threshold_usage_ratio)
    book._check_expired_codes(torch.randn(12, 6))
    assert torch.equal(marked, (book.embedding_sum != before).any(dim=1))


def test_mel_loss_takes_another_distance():
    a, b = 0.1 * torch.randn(2, 1, 1, 4800, generator=torch.Generator().manual_seed(0))
    assert torch.equal(MelLoss(distance=codec_training.mel_loss)(a, b), MelLoss()(a, b))
    assert MelLoss(distance=lambda heard, wanted, floor: heard.sum() * 0 + 1)(a, b) == 1


def test_a_trainer_goes_on_where_it_was():
    rng = np.random.default_rng(0)
    sounds = [(3000 * rng.standard_normal(int(24000 * rng.uniform(0.5, 1.0)))).astype(np.int16) for _ in range(50)]
    settings = CodecTraining(filters=4, dimension=32, layers=1, bins=16, steps=8, batch_seconds=2, warmup=3, quantise_from=2, letters_from=4)
    whole, broken, resumed = (Trainer(sounds, ["Say red."] * 50, settings) for _ in range(3))
    wanted = [whole.update() for _ in range(8)]
    for _ in range(5):
        broken.update()
    resumed.restore(deepcopy(broken.state()))  # as from a file
    for trainer in (broken, resumed):  # moshi counts the steps to its next check outside its state: the same here for both
        for quantiser in (trainer.model.quantizer.rvq_first, trainer.model.quantizer.rvq_rest):
            for layer in quantiser.vq.layers:
                layer._codebook._next_unused_check = 100
    assert all(torch.equal(broken.update(), resumed.update()) for _ in range(3))
    assert all(each.isfinite().all() for each in wanted)


# --- A2 ----------------------------------------------------------------------------------------------------------


def test_hide_is_what_the_augmentation_does():
    from mmo.augmentation import mask_spectrogram

    frames = torch.randn(50, 80, generator=torch.Generator().manual_seed(0)) + 3
    theirs = torch.from_numpy(mask_spectrogram(frames.numpy(), np.random.default_rng(3)))
    rng, bands, gaps = np.random.default_rng(3), [], []  # the same draws in the same order
    for _ in range(2):
        width = int(rng.integers(0, 15))
        bands.append((int(rng.integers(0, 80 - width + 1)), width))
    for _ in range(2):
        width = int(rng.integers(0, 6))
        gaps.append((int(rng.integers(0, 50 - width + 1)), width))
    assert sum(width for _, width in bands + gaps) > 0
    assert torch.allclose(speech_training.hide(frames, bands, gaps), theirs, atol=1e-6)


def test_greedy_is_the_encoders_spelling():
    from types import SimpleNamespace

    from mmo.speech_encoder import SpeechEncoder

    encoder = SimpleNamespace(device="cpu", model=SimpleNamespace(ctc=SimpleNamespace(argmax=lambda features: features.argmax(-1)), blank_id=0), tokenizer=SimpleNamespace(token_list=list("abcd")))
    for case in find("A2.greedy").cases():
        (log_probs,) = case.arguments
        heard = SpeechEncoder.spell(encoder, log_probs[None], torch.tensor([len(log_probs)]))
        assert heard == [" ".join("abcd"[token] for token in speech_training.greedy(log_probs))]


def test_ctc_by_counting_every_path():
    """On a small lattice: the sum over all paths that spell the words."""
    from itertools import product

    for case in find("A2.ctc_loss").cases()[:3]:
        log_probs, target = case.arguments
        total = -torch.inf
        for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
            spelt = [token for token in torch.unique_consecutive(torch.tensor(path)).tolist() if token]
            if spelt == target:
                total = np.logaddexp(total, sum(float(log_probs[n, token]) for n, token in enumerate(path)))
        assert float(speech_training.ctc_loss(log_probs, target)) == pytest.approx(-total, rel=1e-5)


def test_ctc_is_torchs_its_gradient_too():
    for case in find("A2.ctc_loss").cases():
        log_probs, target = case.arguments
        one, other = (log_probs.clone().requires_grad_(True) for _ in range(2))
        ours = speech_training.ctc_loss(one.log_softmax(-1), target)
        theirs = F.ctc_loss(other.log_softmax(-1)[:, None], torch.tensor([target]), torch.tensor([len(other)]), torch.tensor([len(target)]), reduction="sum")
        assert torch.allclose(ours, theirs, atol=1e-5)
        ours.backward()
        theirs.backward()
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_a_clip_is_numbered():
    clip = ears.make_clip(np.zeros(16_000, np.int16), 16_000, "x", "Say red.")
    assert [ears.token_list()[word] for word in clip.targets] == ["say", "red"]
    assert clip.phones and clip.seconds == 1.0


# --- A3 ----------------------------------------------------------------------------------------------------------


def test_together_is_how_batches_are_marked(tmp_path):
    settings = eyes.Settings(side=32, patch=8, drawn=40, batch=16, steps=4)
    lessons = eyes.draw_lessons(settings, tmp_path)
    batch = eyes.draw_batch(lessons, settings, 1)
    order = np.random.default_rng((settings.seed, 1_000_000)).permutation(40)[16:32]
    spoken = {tuple(words): meaning for row in range(40) for family, meaning in zip(lessons.words[row], lessons.meaning[row]) for words in family.tolist()}
    captions = torch.tensor([spoken[tuple(words)] for words in batch.words.tolist()])
    assert torch.equal(vision_training.together(torch.from_numpy(lessons.meaning[order, 0]), captions), batch.together)


def test_swaps_are_the_pictures_own():
    found = vision_training.swaps("large", "red", "circle")
    assert len(found) == 2 + 8 + 8 and ("", "red", "circle") in found and ("large", "red", "circle") not in found
    assert len(pictures.attribute_swaps(pictures.Scene((pictures.Thing("large", "red", "circle"),)))) == len(found)


def test_a_trainer_learns_from_a_batch_it_is_given(tmp_path):
    settings = eyes.Settings(side=32, patch=8, width=16, layers=1, heads=2, inner=16, text_width=8, text_layers=1, drawn=40, batch=8, steps=4)
    lessons = eyes.draw_lessons(settings, tmp_path)
    trainer = eyes.Trainer(settings, lessons)
    batch = eyes.draw_batch(lessons, settings, 0)
    without = replace(batch, words=batch.words[:8], together=batch.together[:, :8])
    assert eyes.Trainer(settings, lessons).update()[0] == trainer.update(batch)[0]
    assert trainer.update(without).isfinite().all() and trainer.step == 2


# --- The machinery -----------------------------------------------------------------------------------------------


def test_gradients_of_several_results_are_looked_at_and_diagnosed():
    """Values alike, gradients not: the words of the mistake that has these gradients."""
    verdict = judge(find("A1.straight_through"), lambda latent, entries: (entries, (latent - entries).square().mean()))
    assert verdict.kind == "wrong" and "no gradient reaches the encoder from the decoder" in verdict.words
    own = replace(find("A1.straight_through"), bugs=(Bug("Other words.", lambda latent, entries: (0 * latent, latent.sum())),))
    assert "the gradient of argument 1" in judge(own, lambda latent, entries: (entries, (latent - entries).square().mean())).words


def test_shipped_sound():
    answers = shipped.answers(DATA)
    assert {each.rate for each in answers} == {24_000} and {each.voice for each in answers} == {"joe", "slt"}
    assert all(each.samples.dtype == np.int16 and each.seconds > 0.5 and each.text for each in answers[:20])
    first = next(iter(shipped.questions(DATA, "validation")))
    assert first.rate == 16_000 and first.text.endswith((".", "?")) and first.samples.dtype == np.int16


# --- As somebody would write it ----------------------------------------------------------------------------------


def update_by_index(usage, sums, latent, codes, decay):
    usage, sums = usage * decay, sums * decay
    usage[codes] += 1 - decay
    sums[codes] += (1 - decay) * latent
    return usage, sums


def filtered_then_grouped(log_probs):
    from itertools import groupby

    return [token for token, _ in groupby(token for token in log_probs.argmax(-1).tolist() if token)]


def ctc_that_always_waits(log_probs, target):
    """In probabilities, without the step over a blank."""
    states = [0, *(each for word in target for each in (word, 0))]
    alpha = torch.zeros(len(states))
    alpha[:2] = log_probs[0].exp()[states[:2]]
    for now in log_probs[1:].exp():
        alpha = (alpha + torch.cat((torch.zeros(1), alpha[:-1]))) * now[states]
    return -alpha[-2:].sum().log()


def ctc_in_probabilities(log_probs, target):
    """Right, and another way than the solution's."""
    states = torch.tensor([0, *(each for word in target for each in (word, 0))])
    skips = torch.tensor([s >= 2 and states[s] != 0 and bool(states[s] != states[s - 2]) for s in range(len(states))])
    alpha = torch.where(torch.arange(len(states)) < 2, log_probs[0].exp()[states], torch.zeros(()))
    for now in log_probs[1:].exp():
        one, two = F.pad(alpha, (1, 0))[:-1], F.pad(alpha, (2, 0))[:-2]
        alpha = (alpha + one + torch.where(skips, two, torch.zeros(()))) * now[states]
    return -alpha[-2:].sum().log()


HAND_WRITTEN = [
    ("A1.mel_loss", lambda heard, wanted, floor: F.l1_loss((heard + floor).log(), (wanted + floor).log()), "The squared part is missing"),
    ("A1.mel_loss", lambda heard, wanted, floor: F.l1_loss(heard.clamp_min(floor).log(), wanted.clamp_min(floor).log()), "wanted"),
    ("A1.straight_through", lambda latent, entries: (latent + entries - latent, F.mse_loss(latent, entries.detach())), "the two gradients of the latent cancel out"),
    ("A1.update_codebook", update_by_index, "indexed assignment overwrites"),
    ("A1.dead", lambda usage, ratio: usage < 0.1, "nothing would ever be dead"),
    ("A2.greedy", filtered_then_grouped, "so merge first"),
    ("A2.ctc_loss", ctc_that_always_waits, "You never skip the blank"),
    ("A2.hide", lambda frames, bands, gaps: frames, "values differ"),
    ("A3.together", lambda pictures, captions: torch.arange(len(pictures))[:, None] == torch.arange(len(captions)), "Only the diagonal is true"),
    ("A3.swaps", lambda size, colour, shape: [each for each in vision_training.every_thing() if each != (size, colour, shape)], "in one attribute or more"),
    ("A3.recall", lambda pictures, captions: (((pictures @ captions.T).argmax(0) == torch.arange(len(pictures))).float().mean().item(),) * 2, "wanted"),
]


@pytest.mark.parametrize("id, wrong, words", HAND_WRITTEN, ids=[f"{id}-{number}" for number, (id, _, _) in enumerate(HAND_WRITTEN)])
def test_mistakes_written_by_hand_are_diagnosed(id, wrong, words):
    verdict = judge(find(id), wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words


def test_another_right_way_passes():
    assert judge(find("A2.ctc_loss"), ctc_in_probabilities).passed


def test_pictures_of_one_kind(tmp_path):
    settings = eyes.Settings(side=32, patch=8, drawn=24, batch=8, steps=4)
    lessons = eyes.draw_lessons(settings, tmp_path, kinds=("one",))
    assert not lessons.slots[:, 3].any() and not lessons.slots[:, -1].any()  # no relation, no count
    assert sorted(row for step in range(3) for row in eyes.batch_rows(24, settings, step)) == list(range(24))
