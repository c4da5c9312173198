"""Generation: what is fed is what training saw, and neither batch mates, cache, skipping nor streaming change an answer."""

from dataclasses import replace

import pytest
import torch

from mmo.codec import Codec
from mmo.config import Decoding
from mmo.generation import Answer, Batch, Finished, Generator, Heard, Prompt, Sound, TextPiece, agree, for_decoding, lay_out
from mmo.omni import OmniModel
from mmo.sampling import Chooser, Noise, allowed_codes
from mmo.sequence import Markers, build_row
from speakers import TOY, random_mimi, toy_model, toy_prompt, toy_prompts

DECODING = Decoding(temperature=1.0, text_temperature=1.0, text_top_k=0, top_k=0, max_text=14, max_frames=20)
MARKERS = Markers(assistant=(1, 250, 234), end=(2, 234))


class Biased(OmniModel):
    """Random weights rarely stop: this model likes to end its text, and its speech."""

    def text_head(self, hidden):
        logits = super().text_head(hidden)
        logits[..., self.config.im_end_token] += 3.5
        return logits

    def audio_head(self, hidden):
        logits = super().audio_head(hidden).clone()
        logits[..., 0, self.config.audio_stop_token] += 2.0
        return logits


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Biased(TOY).eval()


@pytest.fixture(scope="module")
def codec():
    return Codec(random_mimi())


@pytest.fixture(scope="module")
def generator(model, codec):
    return Generator(model, codec, None, DECODING)


@pytest.fixture(scope="module")
def prompts():
    return toy_prompts(5, 9, 7, 9, 4, 12)


@pytest.fixture(scope="module")
def answers(generator, prompts):
    return [generator.answer(prompt) for prompt in prompts]


def same(one: Answer, other: Answer) -> bool:
    return one.text_ids == other.text_ids and torch.equal(one.codes, other.codes)


def test_the_toy_answers_differ_and_end(answers):
    """Without variety the tests below would prove nothing."""
    assert len({tuple(answer.text_ids) for answer in answers}) > 3
    lengths = {answer.codes.shape[1] for answer in answers}
    assert len(lengths) > 2 and any(answer.stopped for answer in answers) and any(answer.text_ended for answer in answers)


@pytest.mark.parametrize("batch", [2, 6])
def test_batch_equals_single(generator, prompts, answers, batch):
    """Prompts of unequal length, in batches of which rows drop out: the same answers, in the given order."""
    together = generator.generate_batch(prompts, batch=batch)
    for number, (one, other) in enumerate(zip(answers, together, strict=True)):
        assert same(one, other), f"prompt {number} in batches of {batch}"
        assert (one.stopped, one.text_ended) == (other.stopped, other.text_ended)
        assert other.samples.shape == one.samples.shape == (one.codes.shape[1] * 1920,)
        assert not len(one.samples) or abs(one.samples - other.samples).max() < 1e-5


def test_streamed_together_equals_alone(generator, prompts, answers):
    found = {event.row: event.answer for event in generator.stream(prompts) if isinstance(event, Finished)}
    assert all(same(found[row], answer) for row, answer in enumerate(answers))
    assert all(abs(found[row].samples - answer.samples).max(initial=0) < 1e-5 for row, answer in enumerate(answers))


def test_streamed_samples_equal_offline_decoding(codec, answers):
    for answer in answers:
        if answer.codes.shape[1]:
            assert abs(codec.decode(answer.codes[None])[0, 0].numpy() - answer.samples).max() < 1e-5


def test_events(generator, prompts, answers):
    """The pieces of sound make up the samples; each row ends with one Finished."""
    events = list(generator.stream(prompts[:3]))
    for row in range(3):
        own = [event for event in events if event.row == row]
        assert isinstance(own[-1], Finished) and sum(isinstance(event, Finished) for event in own) == 1
        pieces = [event.samples for event in own if isinstance(event, Sound)]
        assert sum(len(piece) for piece in pieces) == len(answers[row].samples)


def test_cached_equals_full_on_the_training_layout(model, generator):
    """Hidden states while decoding equal, position by position, those of one full forward over the row that sequence.py
    lays out for *training* from the same text and codes: both sides agree on where everything stands, stops included."""
    checked = 0
    for length in range(6, 12):
        prompt = toy_prompt(length, seed=length)
        prompt = replace(prompt, text_ids=[*prompt.text_ids[:-3], *MARKERS.assistant])
        answer = generator.answer(prompt)
        if not (answer.text_ended and answer.stopped and answer.codes.shape[1]):
            continue
        row = build_row([*prompt.text_ids, *answer.text_ids, *MARKERS.end], answer.codes, TOY, MARKERS, has_speaker=True)
        decoder = generator.start([prompt], DECODING, speech=True)
        with torch.no_grad():
            full = model.hidden_states(row.input_ids[None], speaker=prompt.speaker[None])
            for step, _ in enumerate(decoder.run(drop=False)):
                place = length - 1 + step
                assert (decoder.audio_hidden[0, 0] - full.audio[0, place]).abs().max() < 1e-4, f"sound, step {step}"
                if decoder.text_hidden is not None:
                    assert (decoder.text_hidden[0, 0] - full.text[0, place]).abs().max() < 1e-4, f"text, step {step}"
        # The last label is codebook 7's stop, which needs no step: it is known since codebook 0 stopped.
        assert length - 1 + step >= row.input_ids.shape[1] - 2
        checked += 1
    assert checked >= 2, "hardly a toy answer ended by itself: change the seeds"


def record_fed(generator: Generator, prompt: Prompt, decoding: Decoding) -> torch.Tensor:
    """What is fed at each step, (Q + 1, steps)."""
    decoder = generator.start([prompt], decoding, speech=True)
    with torch.no_grad():
        steps = [torch.cat((codes[0], tokens)) for tokens, codes in decoder.run(drop=False)]
    return torch.stack(steps, dim=1)


def test_what_is_fed_after_the_ends(generator):
    """Text: <|im_end|>, newline, then pad.  Codes: pad until a codebook's turn, its stop once, then pad."""
    for length in range(4, 12):
        prompt = toy_prompt(length, seed=length)
        answer = generator.answer(prompt)
        fed = record_fed(generator, prompt, DECODING)
        E, F = len(answer.text_ids), answer.codes.shape[1]
        behind = fed[-1, E:].tolist()
        assert behind[:2] == [TOY.im_end_token, TOY.newline_token][: len(behind)] and set(behind[2:]) <= {TOY.pad_token}
        for k in range(8):
            row = fed[k].tolist()
            assert row[: k + 1] == [TOY.audio_pad_token] * min(k + 1, len(row))
            assert row[k + 1 : k + 1 + F] == answer.codes[k].tolist()
            after = row[k + 1 + F :]
            assert after[:1] in ([], [TOY.audio_stop_token]) and set(after[1:]) <= {TOY.audio_pad_token}


def test_length_bound(model, codec):
    """A model that never ends is cut at the bounds, exactly, and says so."""
    silent = toy_model()
    generator = Generator(silent, codec, None, DECODING)
    decoding = replace(DECODING, max_text=5, max_frames=7)
    for prompt in toy_prompts(6, 9):
        answer = generator.answer(prompt, decoding)
        assert len(answer.text_ids) <= 5 and answer.codes.shape[1] <= 7
        if not answer.text_ended:
            assert len(answer.text_ids) == 5
        if not answer.stopped:
            assert answer.codes.shape == (8, 7) and len(answer.samples) == 7 * 1920
        assert answer.runaway == (not (answer.text_ended and answer.stopped))
    with pytest.raises(ValueError, match="max_position_embeddings"):
        generator.answer(toy_prompt(5), replace(DECODING, max_frames=1000))


def test_codes_are_codes(answers):
    for answer in answers:
        assert not answer.codes.numel() or 0 <= int(answer.codes.min()) <= int(answer.codes.max()) < TOY.num_codes


def test_seeds(generator):
    first, again, other = (generator.answer(toy_prompt(8, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again) and not same(first, other)
    greedy = [generator.answer(toy_prompt(8, seed=seed), DECODING.greedy()) for seed in (1, 2)]
    assert same(*greedy)


def test_skipping_the_upper_layers_on_the_tail_changes_no_code(model, prompts, answers):
    """`tail=True` once the text has ended, against running all layers to the end."""

    class Untailed(Biased):
        def hidden_states(self, *inputs, tail=False, **settings):
            return super().hidden_states(*inputs, tail=False, **settings)

    whole = Untailed(TOY).eval()
    whole.load_state_dict(model.state_dict())
    generator = Generator(whole, None, None, DECODING)
    assert all(same(generator.answer(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True))


def test_twin_gives_the_models_logits(model):
    ids = torch.randint(0, 16, (2, 9, 11))
    with torch.no_grad():
        one, other = model(ids), for_decoding(model)(ids)
    assert (one.audio_logits - other.audio_logits).abs().max() < 1e-5
    assert (one.text_logits - other.text_logits).abs().max() < 1e-5
    assert model.talker.lm_head is not for_decoding(model).talker.lm_head


def test_training_goes_on_as_before(codec):
    """Answering in the midst of training leaves modes and gradients alone."""
    model = toy_model().train()
    Generator(model, None, None, DECODING).generate_batch(toy_prompts(5, 6))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_text_only_equals_the_text_of_speech_until_it_hears_itself(generator, prompts, answers):
    """Speech is not heard by the Thinker, so leaving it out changes no text."""
    texts = generator.generate_batch(prompts, speech=False)
    for text, answer in zip(texts, answers, strict=True):
        assert text.codes.shape == (8, 0) and text.samples is None and not text.stopped
    greedy = [generator.generate_batch(prompts, DECODING.greedy(), speech=speech, sound=False) for speech in (True, False)]
    assert [answer.text_ids for answer in greedy[0]] == [answer.text_ids for answer in greedy[1]]


def test_features_reach_their_rows(generator):
    """Rows with sound, with a picture, with both and with neither answer in one batch as they do alone."""
    ids = toy_prompt(14).text_ids
    heard, seen = [*ids[:3], 16, 16, 16, *ids[6:]], [*ids[:8], 12, 12, 12, *ids[11:]]
    both = [*heard[:8], 12, 12, 12, *ids[11:]]
    sound, picture = torch.randn(3, 9), torch.randn(3, 7)
    prompts = [
        Prompt(heard, audio_features=sound),
        Prompt(seen, image_features=picture),
        Prompt(both, audio_features=sound, image_features=picture[None]),
        Prompt(ids),
    ]
    together = generator.generate_batch(prompts, sound=False)
    assert all(same(generator.answer(prompt), answer) for prompt, answer in zip(prompts, together, strict=True))
    logits = [generator.start([prompt], DECODING, True).text_hidden for prompt in (prompts[0], Prompt(heard))]
    assert (logits[0] - logits[1]).abs().max() > 1e-4, "the sound was not heard"


def test_reference_voice_is_heard(generator):
    reference = torch.randint(0, 16, (8, 4))
    plain, voiced = toy_prompt(9), toy_prompt(9, ref_codes=reference)
    batch = Batch.collate([plain, voiced], TOY, "cpu")
    assert batch.input_ids[1, :-1, 5:9].equal(reference) and (batch.input_ids[1, :-1, 4] == TOY.audio_spk_token).all()
    assert (batch.input_ids[0, :-1, 8] == TOY.audio_spk_token).all()
    assert not same(generator.answer(plain), generator.answer(voiced))


@pytest.mark.parametrize(
    "prompt, message",
    [
        (Prompt([]), "prompt 0 is empty"),
        (Prompt([1, 2], speaker=torch.zeros(4)), r"speaker vector of shape \(4,\), wanted \(5,\)"),
        (Prompt([1, 16, 2], audio_features=torch.zeros(2, 5)), r"features of shape \(2, 5\)"),
    ],
)
def test_bad_prompts(generator, prompt, message):
    with pytest.raises(ValueError, match=message):
        generator.answer(prompt)


def test_no_prompts(generator):
    assert generator.generate_batch([]) == []
    with pytest.raises(ValueError, match="no prompts"):
        list(generator.stream([]))


def test_codec_must_fit(model):
    wrong = Codec(random_mimi())
    wrong.model.set_num_codebooks(4)
    with pytest.raises(ValueError, match="the codec has 4 codebooks of 16 codes"):
        Generator(model, wrong)


# --- Sampling ----------------------------------------------------------------------------------------------------


def test_chooser_follows_the_probabilities():
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0]).expand(20000, 1, 4)
    drawn = Chooser([1.0], [0], 4)(logits, torch.rand(20000, 1, generator=torch.Generator().manual_seed(0)))
    shares = drawn[:, 0].bincount(minlength=4) / 20000
    assert (shares - logits[0, 0].softmax(dim=-1)).abs().max() < 0.012


def test_chooser_keeps_each_codebooks_own_settings():
    """Codebook 0 greedy, codebook 1 the best two, codebook 2 all."""
    logits = torch.randn(4000, 1, 9, generator=torch.Generator().manual_seed(0))[:1].expand(4000, 3, 9)
    chosen = Chooser([0.0, 1.0, 5.0], [5, 2, 0], 9)(logits, torch.rand(4000, 3))
    best = logits[0, 0].argsort(descending=True).tolist()
    assert set(chosen[:, 0].tolist()) == {best[0]}
    assert set(chosen[:, 1].tolist()) == set(best[:2])
    assert set(chosen[:, 2].tolist()) == set(range(9))


def test_chooser_never_takes_what_is_forbidden():
    logits = torch.zeros(2000, 8, TOY.audio_vocab_size) + allowed_codes(TOY)
    uniform = torch.rand(2000, 8)
    uniform[0] = 1.0 - 1e-7
    chosen = Chooser([1.0] * 8, [0] * 8, TOY.audio_vocab_size)(logits, uniform)
    assert set(chosen[:, 0].tolist()) == {*range(TOY.num_codes), TOY.audio_stop_token}
    assert int(chosen[:, 1:].max()) == TOY.num_codes - 1


def test_half_precision_logits_are_sampled_in_full():
    logits = torch.randn(64, 8, 24).bfloat16()
    uniform = torch.rand(64, 8)
    choose = Chooser([0.2] * 8, [50] * 8, 24)
    assert torch.equal(choose(logits, uniform), choose(logits.float(), uniform))


def test_noise_belongs_to_the_row():
    """A row draws the same numbers whoever else is in the batch, and goes on with them when others leave."""
    alone, crowd = Noise([3], 9), Noise([1, 2, 3], 9)
    for step in range(150):
        if step == 70:
            crowd.select([2], torch.tensor([2]))
        assert torch.equal(alone.next()[0], crowd.next()[-1])


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"top_k": -1}, {"max_frames": 0}, {"max_text": 0}])
def test_bad_settings(settings):
    with pytest.raises(ValueError):
        Decoding(**settings)


# --- What is heard is written down first -----------------------------------------------------------------------------


class Letters:
    """A tokenizer of single letters, with the signs of a think block."""

    SIGNS = {"<think>": 25, "</think>": 26, "\n": 234}

    def encode(self, text):
        for sign, number in self.SIGNS.items():
            text = text.replace(sign, chr(number))
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(number) for number in ids if number not in (1, 2, *self.SIGNS.values()))

    def id(self, token):
        return self.SIGNS[token]


class Closing(Biased):
    """Likes to close its think block, too."""

    def text_head(self, hidden):
        logits = super().text_head(hidden)
        logits[..., 26] += 3.0
        return logits


@pytest.fixture(scope="module")
def closing():
    torch.manual_seed(1)
    return Closing(TOY).eval()


class Quiet(Closing):
    """The same, and opens no block of its own: what a generator that writes down what it hears sees to."""

    def text_head(self, hidden):
        logits = super().text_head(hidden)
        logits[..., 25] = -torch.inf
        return logits


@pytest.fixture(scope="module")
def quiet(closing):
    quiet = Quiet(TOY).eval()
    quiet.load_state_dict(closing.state_dict())
    return quiet


@pytest.fixture(scope="module")
def listener(closing, codec):
    return Generator(closing, codec, Letters(), replace(DECODING, write_down=True))


@pytest.fixture(scope="module")
def asked():
    ids = toy_prompt(11).text_ids
    sounds = [Prompt([*ids[:3], *[16] * length, *ids[6:]], audio_features=torch.randn(length, 9), seed=length) for length in (3, 2, 4)]
    return [sounds[0], toy_prompt(9), *sounds[1:]]


def test_an_answer_follows_the_block_in_which_its_question_is_written(quiet, listener, asked):
    """As if the block had been the prompt's own end: the layout's `audio_start` stands behind it."""
    answers = listener.generate_batch(asked)
    assert any(answer.heard for answer in answers) and not answers[1].heard, "text needs no ear"
    for prompt, answer in zip(asked, answers, strict=True):
        block = [] if prompt.audio_features is None else [25, 234, *map(ord, answer.heard), 234, 26, 234, 234]
        behind = replace(prompt, text_ids=[*prompt.text_ids, *block])
        at_once = Generator(quiet, listener.codec, Letters(), DECODING).answer(behind)
        assert same(answer, at_once) and abs(answer.samples - at_once.samples).max(initial=0) < 1e-5
        if block:
            row = build_row([*MARKERS.assistant, *block, 60, *MARKERS.end], answer.codes, TOY, replace(MARKERS, think_end=(26, 234, 234)))
            spoken = (row.audio_labels[0] != -100).nonzero()
            assert not len(spoken) or spoken[0] == len(MARKERS.assistant) + len(block), "training begins the sound elsewhere"


def test_hearings_that_agree_write_one_text(listener, asked):
    """Each token is chosen from the mean of the hearings' log-probabilities: worked out here with the whole sequence at once, step by step."""
    model, opening, greedy = listener.model, [25, 234], listener.decoding.greedy()
    for first, other in ((asked[0], asked[2]), (asked[3], asked[0])):
        prompt, ids = replace(first, again=(other,)), []
        while len(ids) < DECODING.max_text:
            logits = 0
            for each in (first, other):
                batch = Batch.collate([replace(each, text_ids=[*each.text_ids, *opening, *ids])], TOY, "cpu")
                # What is written down has no codes; the streams beside its text hold the pad.
                hidden = model.hidden_states(batch.input_ids, **batch.features)
                logits = logits + model.text_head(hidden.text[:, -1:]).log_softmax(-1)
            ids.append(int(logits.argmax()))
            if ids[-1] == 26:
                break
        _, heard, _ = listener.listen([prompt, first], greedy)
        assert heard[0] == listener.tokenizer.decode(ids[: ids.index(26)] if 26 in ids else ids).strip()
        assert heard[1] == listener.listen([first], greedy)[1][0], "another row's hearings have no say"


def test_a_hearing_that_agrees_with_itself_changes_nothing(listener, asked):
    once = listener.generate_batch(asked)
    thrice = listener.generate_batch([replace(prompt, again=(prompt, prompt)) if prompt.audio_features is not None else prompt for prompt in asked])
    assert all(same(one, other) and one.heard == other.heard for one, other in zip(once, thrice, strict=True))
    answer = listener.answer(replace(asked[0], again=(asked[0],)))
    assert same(answer, once[0]) and answer.heard == once[0].heard


def test_drawn_words_are_the_same_in_all_hearings(listener, asked):
    """Rows of one group have one distribution: with one seed they draw the same tokens, with two they do not."""
    drawn, sounds = replace(listener.decoding, text_temperature=1.5), [prompt for prompt in asked if prompt.audio_features is not None]

    def written(seeds):
        prompts = [replace(prompt, seed=seed) for prompt, seed in zip(sounds, seeds, strict=True)]
        decoder = listener.start(prompts, drawn, False, 26, together=[0, 0, 0])
        for _ in decoder.run(drop=True):
            pass
        return [ids for ids, *_ in decoder.results()]

    one, two, three = written((7, 7, 7))
    assert one == two == three and len(one) > 1
    other, *_ = written((7, 8, 9))[1:]
    assert other != one, "the seed decides what is drawn"
    prompts, *_ = listener.listen([replace(asked[0], again=(asked[2], asked[3]))], drawn)
    assert prompts[0].text_ids[: len(asked[0].text_ids)] == list(asked[0].text_ids) and not prompts[0].again, "the answer is to the first hearing"


def test_agreement_is_the_mean_over_a_group():
    logits, together = torch.randn(5, 1, 7), torch.tensor([0, 1, 0, 2, 1])
    each, found = logits.log_softmax(-1), agree(logits, together, 3)
    assert torch.allclose(found[0], (each[0] + each[2]) / 2) and torch.allclose(found[1], (each[1] + each[4]) / 2) and torch.allclose(found[3], each[3])
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[4])


@pytest.fixture(scope="module")
def viewer(codec):
    """A model that shows what it sees: at these weights the text changes with the picture."""
    torch.manual_seed(3)
    model = OmniModel(TOY).eval()
    with torch.no_grad():
        model.vision_proj.requires_grad_(False)
        for parameter in model.vision_proj.parameters():
            parameter.mul_(8.0)
    return Generator(model, codec, Letters(), replace(DECODING, text_temperature=0.0))


@pytest.fixture(scope="module")
def shown():
    ids = toy_prompt(11).text_ids
    return [Prompt([*ids[:3], 12, 12, 12, *ids[6:]], image_features=torch.randn(3, 7, generator=torch.Generator().manual_seed(n)), seed=n) for n in range(3)]


def test_looks_that_agree_choose_one_text(viewer, shown):
    """Each token of the answer is chosen from the mean of the looks' log-probabilities: worked out here with the whole sequence at once."""
    model, looks = viewer.model, tuple(prompt.image_features for prompt in shown)
    ids = []
    while len(ids) < DECODING.max_text:
        logits = 0
        for look in looks:
            batch = Batch.collate([replace(shown[0], text_ids=[*shown[0].text_ids, *ids], image_features=look)], TOY, "cpu")
            logits = logits + model.text_head(model.hidden_states(batch.input_ids, **batch.features).text[:, -1:]).log_softmax(-1)
        ids.append(int(logits.argmax()))
        if ids[-1] == TOY.im_end_token:
            ids.pop()
            break
    together = replace(shown[0], looks=looks[1:])
    silent = viewer.generate_batch([together], speech=False)[0]
    assert silent.text_ids == ids
    assert any(viewer.generate_batch([prompt], speech=False)[0].text_ids != ids for prompt in shown), "nothing was to be agreed on"


def test_further_looks_say_nothing_and_leave(viewer, shown):
    """Streamed, in a batch, alone or beside others: one answer a prompt, of one text; the first look speaks it, and no other row outlasts the text."""
    asked = [replace(shown[0], looks=(shown[1].image_features, shown[2].image_features)), toy_prompt(9), replace(shown[1], looks=(shown[1].image_features,))]
    batch = viewer.generate_batch(asked)
    assert len(batch) == 3 and all(same(answer, viewer.answer(prompt)) for answer, prompt in zip(batch, asked, strict=True))
    streamed = {event.row: event.answer for event in viewer.stream(asked) if isinstance(event, Finished)}
    assert sorted(streamed) == [0, 1, 2] and all(same(streamed[row], answer) for row, answer in enumerate(batch))
    assert same(batch[2], viewer.answer(shown[1])), "a look that agrees with itself changes nothing"
    assert {event.row for event in viewer.stream(asked) if isinstance(event, (TextPiece, Sound))} <= {0, 1, 2}

    decoder = viewer.start(asked, None, speech=True)
    assert decoder.answering == 3 and len(decoder.rows) == 6
    longest = 0
    for _ in decoder.run(drop=False):
        if len(decoder.rows) > 3:
            longest = decoder.step
    assert decoder.rows == [0, 1, 2] and longest <= max(len(answer.text_ids) for answer in batch) + 1
    assert [ids for ids, *_ in decoder.results()] == [answer.text_ids for answer in batch]


def test_a_picture_may_be_seen_and_a_sound_heard_several_times(listener, asked, shown):
    """Hearings write the block; looks choose the answer behind it."""
    mixed = replace(asked[0], text_ids=[*asked[0].text_ids[:6], 12, 12, 12, *asked[0].text_ids[6:]], image_features=shown[0].image_features)
    looks = tuple(prompt.image_features for prompt in shown[1:])
    prompts, heard, cut = listener.listen([replace(mixed, again=(mixed, mixed), looks=looks)], None)
    assert heard == listener.listen([mixed], None)[1] and not cut and prompts[0].looks == looks and not prompts[0].again
    assert listener.answer(replace(mixed, again=(mixed,), looks=looks)).heard == heard[0]


def test_what_was_heard_comes_before_the_answer(listener, asked):
    together = listener.generate_batch(asked)
    for prompt, answer in zip(asked, together, strict=True):
        events = list(listener.stream([prompt]))
        assert [event.text for event in events if isinstance(event, Heard)] == [answer.heard] * bool(answer.heard)
        assert not answer.heard or isinstance(events[0], Heard)
        assert same(events[-1].answer, answer) and events[-1].answer.heard == answer.heard
        assert "".join(event.text for event in events if isinstance(event, TextPiece)) == answer.text


def test_a_question_that_is_cut_is_told(listener, asked):
    """More words than `max_text` holds: the answer is to their beginning, and whoever asked hears of it."""
    whole = listener.answer(asked[0]).heard
    for most, ended in ((64, True), (len(whole) - 1, False)):
        heard = next(event for event in listener.stream([asked[0]], replace(listener.decoding, max_text=most)) if isinstance(event, Heard))
        assert heard.ended is ended and whole.startswith(heard.text) and (heard.text == whole) is ended, most


def test_pictures_of_another_eye_are_refused():
    wanted = (TOY.image_token_len, TOY.image_hidden_size)
    for shape in ((wanted[0] + 1, wanted[1]), (wanted[0], wanted[1] + 1)):
        with pytest.raises(ValueError, match="not the one that the weights were trained with"):
            lay_out(None, TOY, seen=[torch.zeros(shape)])


class Musing(Biased):
    """Would open a think block wherever it can."""

    def text_head(self, hidden):
        logits = super().text_head(hidden)
        logits[..., 25] += 50.0
        return logits


def test_where_nothing_was_heard_no_think_block_is_opened(codec, asked):
    torch.manual_seed(1)
    musing = Musing(TOY).eval()
    assert Generator(musing, codec, None, DECODING).answer(toy_prompt(9)).text_ids[0] == 25, "it would"
    for write_down in (True, False):
        own = Generator(musing, codec, Letters(), replace(DECODING, write_down=write_down))
        assert not any(25 in answer.text_ids for answer in [*own.generate_batch(asked), own.answer(toy_prompt(9))])


def test_greedy_answers_without_a_block_stay_as_they_were(model, codec):
    plain, strict = (Generator(model, codec, tokenizer, DECODING.greedy()) for tokenizer in (None, Letters()))
    for one, other in zip(*(each.generate_batch([toy_prompt(7), toy_prompt(9)]) for each in (plain, strict)), strict=True):
        assert 25 in one.text_ids or same(one, other)


def test_without_a_tokenizer_nothing_can_be_written_down(model, codec, asked):
    with pytest.raises(ValueError, match="tokenizer"):
        Generator(model, codec, None, replace(DECODING, write_down=True)).answer(asked[0])
