"""Data: what is bad is named, what is drawn can be drawn again, and padding changes no loss."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import worlds

from mmo.config import IGNORE, Draws
from mmo.data import Batches, Corpus, DataFile, Layout, collate, find_files, realise, render, useful_share, written_down
from mmo.features import cache_features, read_sound
from mmo.omni import OmniModel, loss_sums
from mmo.rows import DataError, open_rows

CONFIG = worlds.MODEL


@pytest.fixture(scope="module")
def tokenizer():
    return worlds.tokenizer()


@pytest.fixture
def layout(tokenizer):
    return Layout(CONFIG, tokenizer, max_length=160)


def open_world(folder, kind="t2a", rows=None, draws=Draws.none(), copies=1, count=24, prompts=("You are Mini.",)):
    """A corpus of one synthetic file."""
    path = worlds.write_rows(folder / f"{kind}.parquet", rows if rows is not None else worlds.make_rows(kind, count))
    encoders = worlds.toy_encoders()
    stores = {}
    if kind == "a2a":
        stores["sounds"] = cache_features(path, "question_audios", encoders.speech, folder / "cache", copies)
    if kind == "i2t":
        stores["pictures"] = cache_features(path, "image_bytes", encoders.vision, folder / "cache")
    return Corpus([DataFile(open_rows(path, CONFIG, folder / "cache"), **stores)], draws, prompts)


# --- Reading -----------------------------------------------------------------------------------------------------


def test_rows_come_back_as_written(tmp_path):
    """Across row groups and packed batches; integers of any width, columns absent or empty."""
    rows = worlds.make_rows("t2a", 40)
    path = worlds.write_rows(tmp_path / "a.parquet", rows, group=7)
    packed = open_rows(path, CONFIG, tmp_path / "cache")
    assert len(packed) == 40 and not packed.bad
    for place in (0, 6, 7, 39):
        raw = packed[place]
        assert raw.row == place and raw.conversation == json.loads(rows[place]["conversations"])
        assert raw.answers[0].tolist() == rows[place]["answer_audios"][0]
        assert raw.reference.tolist() == rows[place]["ref_audios"]
        np.testing.assert_allclose(raw.speaker, rows[place]["spk_emb"], rtol=1e-6)


def test_absent_columns_are_empty(tmp_path):
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("t2a", 3), columns=["conversations"])
    raw = open_rows(path, CONFIG, tmp_path / "cache")[1]
    assert raw.answers == [] and len(raw.reference) == 0 and len(raw.speaker) == 0


def test_packed_rows_are_made_once_and_pickle_as_their_path(tmp_path):
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("t2a", 5))
    first = open_rows(path, CONFIG, tmp_path / "cache")
    made = first.packed.stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(open_rows(path, CONFIG, tmp_path / "cache")))
    assert again.packed.stat().st_mtime_ns == made
    assert again[4].answers[0].tolist() == first[4].answers[0].tolist()
    worlds.write_rows(path, worlds.make_rows("t2a", 6))
    assert len(open_rows(path, CONFIG, tmp_path / "cache")) == 6, "a changed file must not be served from the old cache"


def spoil(name, value):
    """A good row with one cell changed."""
    return worlds.make_rows("t2a", 1)[0] | {name: value}


BAD_ROWS = {
    "bad JSON": (spoil("conversations", "{not json"), "JSON"),
    "brackets without end": (spoil("conversations", "[" * 100_000), "JSON"),
    "empty": (spoil("conversations", ""), "empty"),
    "no list": (spoil("conversations", '{"role": "user"}'), "no list"),
    "no answer": (spoil("conversations", worlds.conversation("Hello.")), "assistant"),
    "no content": (spoil("conversations", '[{"role": "user"}, {"role": "assistant", "content": "x"}]'), "content"),
    "half a character": (spoil("conversations", '[{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "x"}]'), "surrogate"),
    "strange role": (spoil("conversations", '[{"role": "robot", "content": "x"}]'), "robot"),
    "code too large": (spoil("answer_audios", [[0] * 15 + [CONFIG.num_codes]]), f"0..{CONFIG.num_codes - 1}"),
    "code too large for 16 bits": (spoil("answer_audios", [[0] * 15 + [70_000]]), "70000"),
    "code negative": (spoil("answer_audios", [[-1] * 8]), "-1"),
    "half a frame": (spoil("answer_audios", [[1] * 12]), "12 codes"),
    "null in codes": (spoil("answer_audios", [[1] * 7 + [None]]), "codes"),
    "more sounds than answers": (spoil("answer_audios", [[1] * 8, [1] * 8]), "2 sounds for 1"),
    "bad reference": (spoil("ref_audios", [1] * 9), "ref_audios"),
    "vector too short": (spoil("spk_emb", [0.1] * 5), "5 values"),
    "vector not finite": (spoil("spk_emb", [float("nan")] * worlds.SPEAKER), "finite"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_named_counted_and_left_out(tmp_path, name):
    bad, words = BAD_ROWS[name]
    good = worlds.make_rows("t2a", 2)
    path = worlds.write_rows(tmp_path / "mixed.parquet", [good[0], bad, good[1]])
    rows = open_rows(path, CONFIG, tmp_path / "cache")
    assert len(rows) == 2 and rows[1].row == 2
    assert [str(each).startswith("mixed.parquet, row 1: ") for each in rows.bad] == [True]
    assert words in rows.bad[0].reason
    with pytest.raises(DataError, match="mixed.parquet, row 1"):
        open_rows(path, CONFIG, tmp_path / "cache", strict=True)


def test_missing_column_names_file_and_column(tmp_path):
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("t2a", 2), columns=["conversations", "tier"])
    with pytest.raises(DataError, match="a.parquet: missing column answer_audios; it has conversations, tier"):
        open_rows(path, CONFIG, tmp_path / "cache", needs=("answer_audios",))


def test_wrong_column_type_names_file_and_column(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"conversations": [worlds.conversation("a", "b")], "answer_audios": [[1, 2]]}), path)
    with pytest.raises(DataError, match="a.parquet: column answer_audios is list"):
        open_rows(path, CONFIG, tmp_path / "cache")


@pytest.mark.parametrize("cells", [[[], []], [[[]], [[]]], [[None], [None]]])
def test_columns_in_which_nothing_stands_are_empty(tmp_path, cells):
    """Parquet keeps no type for what is never there."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"conversations": [worlds.conversation("a", "b")] * 2, "answer_audios": cells, "ref_audios": [[], []]}), path)
    rows = open_rows(path, CONFIG, tmp_path / "cache")
    assert len(rows) == 2 and not any(len(codes) for codes in rows[0].answers) and not len(rows[0].reference), rows.bad


def test_a_vector_of_fixed_length_is_a_list(tmp_path):
    vectors = pa.array([[0.5] * worlds.SPEAKER], pa.list_(pa.float32(), worlds.SPEAKER))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"conversations": [worlds.conversation("a", "b")], "spk_emb": vectors}), path)
    assert open_rows(path, CONFIG, tmp_path / "cache")[0].speaker.tolist() == [0.5] * worlds.SPEAKER


def test_packing_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """On a full disk the parts would be one more each time."""
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("t2a", 20))
    monkeypatch.setattr("mmo.rows.check_row", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        open_rows(path, CONFIG, tmp_path / "cache")
    assert [each for each in (tmp_path / "cache").iterdir() if each.suffix != ".lock"] == []
    monkeypatch.undo()
    assert len(open_rows(path, CONFIG, tmp_path / "cache")) == 20


@pytest.mark.parametrize("suffix", [".arrow", ".bad.json"])
def test_packed_rows_that_are_damaged_are_named(tmp_path, suffix):
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("t2a", 5))
    torn = open_rows(path, CONFIG, tmp_path / "cache").packed.with_suffix(suffix)
    torn.write_bytes(torn.read_bytes()[:1])
    with pytest.raises(DataError, match=r"cache.*arrow: these packed rows of a.parquet are damaged .*Delete this file"):
        open_rows(path, CONFIG, tmp_path / "cache")


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        open_rows(tmp_path / "absent.parquet", CONFIG, tmp_path)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="text.parquet: not a parquet file"):
        open_rows(tmp_path / "text.parquet", CONFIG, tmp_path)
    whole = worlds.write_rows(tmp_path / "cut.parquet", worlds.make_rows("t2a", 20)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut.parquet"):
        open_rows(tmp_path / "cut.parquet", CONFIG, tmp_path)
    with pytest.raises(DataError, match=r"nothing-\*.parquet"):
        find_files(tmp_path, ["nothing-*.parquet"])


# --- Features ----------------------------------------------------------------------------------------------------


def test_features_are_computed_once(tmp_path):
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("a2a", 12), group=5)
    encoders = worlds.toy_encoders()
    store = cache_features(path, "question_audios", encoders.speech, tmp_path / "cache", copies=2)
    mute = worlds.toy_encoders().speech.__class__(**(vars(encoders.speech) | {"encode": None}))
    again = pickle.loads(pickle.dumps(cache_features(path, "question_audios", mute, tmp_path / "cache", copies=2)))
    for row in range(12):
        assert len(again.get(row, 0, 0)) > 1
        np.testing.assert_array_equal(again.get(row, 0, 1), store.get(row, 0, 1))
        assert not np.array_equal(again.get(row, 0, 0), again.get(row, 0, 1)), "two copies, two augmentations"
    assert len(again.get(3, 1)) == 0, "there is no second question"


def test_features_do_not_depend_on_neighbours(tmp_path):
    """Items are sorted and grouped on the way to the encoder; each must come back to its own row."""
    rows = worlds.make_rows("a2a", 40)
    for row, seconds in zip(rows, np.random.default_rng(0).uniform(0.2, 2.0, 40)):
        row["question_audios"] = [worlds.tone(seconds, 100 + 200 * seconds)]
    encoders = worlds.toy_encoders()
    plain = encoders.speech.__class__(**(vars(encoders.speech) | {"augment": None}))
    store = cache_features(worlds.write_rows(tmp_path / "a.parquet", rows), "question_audios", plain, tmp_path)
    for place in (0, 17, 39):
        wave = plain.decode(rows[place]["question_audios"][0])
        np.testing.assert_allclose(store.get(place, 0), plain.encode([wave])[0], rtol=2e-3)


def test_another_encoder_gets_another_cache(tmp_path):
    path = worlds.write_rows(tmp_path / "a.parquet", worlds.make_rows("i2t", 4))
    vision = worlds.toy_encoders().vision
    first = cache_features(path, "image_bytes", vision, tmp_path / "cache")
    other = vision.__class__(**(vars(vision) | {"fingerprint": "other weights"}))
    assert cache_features(path, "image_bytes", other, tmp_path / "cache").folder != first.folder


@pytest.mark.parametrize("kind, column, cell", [("a2a", "question_audios", [b"no sound"]), ("i2t", "image_bytes", b"no picture")])
def test_unreadable_sound_or_picture_is_named_and_left_out(tmp_path, kind, column, cell):
    rows = worlds.make_rows(kind, 3)
    rows[1][column] = cell
    corpus = open_world(tmp_path, kind, rows)
    assert len(corpus) == 2
    assert [(bad.file, bad.row) for bad in corpus.bad()] == [(f"{kind}.parquet", 1)]
    encoders = worlds.toy_encoders()
    frozen = encoders.speech if kind == "a2a" else encoders.vision
    with pytest.raises(DataError, match=f"{kind}.parquet, row 1: "):
        cache_features(tmp_path / f"{kind}.parquet", column, frozen, tmp_path / "cache", strict=True)


def test_sound_of_another_rate_is_resampled(tmp_path):
    decode = worlds.toy_encoders().speech.decode
    assert len(decode(worlds.tone(0.5, rate=48_000))) == 8_000
    with pytest.raises(ValueError, match="0.020 s"):
        decode(worlds.tone(0.02))


def test_a_header_that_promises_terabytes_costs_nothing(tmp_path):
    """WAV's length field says 2^31 bytes; what is there is read."""
    wave = bytearray(worlds.tone(0.5))
    at = wave.index(b"data") + 4
    wave[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    assert len(read_sound(bytes(wave))) == 8000
    whole = mp3()
    at = max(whole.find(b"Xing"), whole.find(b"Info")) + 8  # how many frames there are
    assert at > 8
    endless = whole[:at] + b"\x7f\xff\xff\xff" + whole[at + 4 :]
    assert 8000 <= len(read_sound(endless)) < 16_000


def mp3() -> bytes:
    data = io.BytesIO()
    soundfile.write(data, 0.1 * np.sin(np.arange(8000) / 10), 16_000, format="MP3")
    return data.getvalue()


def test_only_bad_rows_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no usable row in .*t2a.parquet; 1 bad"):
        open_world(tmp_path, rows=[spoil("conversations", "")])


# --- Draws -------------------------------------------------------------------------------------------------------


def texts_of(corpus, layout, tokenizer, count=200):
    """How the rows look as text, over many draws."""
    found = []
    for draw in range(count):
        example = realise(corpus, draw % len(corpus), 0, np.random.default_rng((5, draw)), layout)
        found.append((tokenizer.tokenizer.decode(example.row.input_ids[-1].tolist(), skip_special_tokens=False), example))
    return found


def test_question_as_sound_text_or_both(tmp_path, layout, tokenizer):
    corpus = open_world(tmp_path, "a2a", draws=Draws.none(question=(0.4, 0.2, 0.4), sound_last=0.5))
    forms = {"sound": 0, "text": 0, "sound, text": 0, "text, sound": 0}
    for text, example in texts_of(corpus, layout, tokenizer):
        question = text.split("assistant")[0]
        sound, words = question.find("<|audio_pad|>"), question.find("Say")
        assert question.count("<|audio_pad|>") == len(example.sound)
        form = "text" if sound < 0 else "sound" if words < 0 else "sound, text" if sound < words else "text, sound"
        forms[form] += 1
    shares = {form: count / 200 for form, count in forms.items()}
    assert shares == pytest.approx({"sound": 0.4, "text": 0.2, "sound, text": 0.2, "text, sound": 0.2}, abs=0.09)


def test_silent_rows_are_only_written(tmp_path, layout):
    """draws.silent: the answer's codes stay away, its text is learnt, and a batch of such rows leaves the Talker out."""
    shown = {share: open_world(tmp_path, draws=Draws.none(silent=share)) for share in (0.0, 0.5, 1.0)}
    spoken = {}
    for share, corpus in shown.items():
        rows = [realise(corpus, n, 0, np.random.default_rng(n), layout) for n in range(len(corpus))]
        spoken[share] = sum(bool((each.row.audio_labels != IGNORE).any()) for each in rows)
        assert all((each.row.text_labels != IGNORE).any() for each in rows), f"silent {share}: a row without text to learn"
    assert spoken[0.0] == len(shown[0.0]) and spoken[1.0] == 0 and 0 < spoken[0.5] < len(shown[0.5])
    silent = next(Batches([shown[1.0]], [1.0], layout, 320).start())
    assert silent.speaking == () == silent.inputs("cpu")["speaking"]


def test_a_heard_question_is_written_down_before_its_answer(tmp_path, layout, tokenizer):
    """draws.write_down: the question's words in a think block of the answer, learnt; the sound begins behind it. Nothing of a question that stands there in words."""
    rows = worlds.make_rows("a2a", 24)
    layout = Layout(CONFIG, tokenizer, max_length=240)
    plain, written = (open_world(tmp_path, "a2a", rows, Draws.none(write_down=share)) for share in (0.0, 1.0))
    for number, row in enumerate(rows):
        one, other = (realise(corpus, number, 0, np.random.default_rng(number), layout).row for corpus in (plain, written))
        question, answer = (turn["content"] for turn in json.loads(row["conversations"]))
        learnt = other.text_labels[other.text_labels != IGNORE].tolist()
        block = tokenizer.encode(f"<think>\n{question}\n</think>\n\n")
        assert learnt == [*block, *tokenizer.encode(f"{answer}<|im_end|>\n")]
        begins = [int((each.audio_labels[0] != IGNORE).nonzero()[0]) for each in (one, other)]
        assert begins[1] - begins[0] == len(block), "the sound does not begin behind the block"
        assert torch.equal(one.audio_labels[:, begins[0] :], other.audio_labels[:, begins[1] :][:, : one.audio_labels.shape[1] - begins[0]])
    half = open_world(tmp_path, "a2a", rows, Draws.none(write_down=0.5))
    assert np.mean(["<think>" in text for text, _ in texts_of(half, layout, tokenizer)]) == pytest.approx(0.5, abs=0.12)
    as_text = open_world(tmp_path, "a2a", rows, Draws.none(question=(0.0, 1.0, 0.0), write_down=1.0))
    assert not any("<think>" in text for text, _ in texts_of(as_text, layout, tokenizer, 24))


def test_a_question_too_long_for_the_block_is_not_written_down(tokenizer):
    """Its answer's sound would be looked for at the wrong place (`THINK_WINDOW`)."""
    assert written_down("What is one?", tokenizer) == "<think>\nWhat is one?\n</think>\n\n"
    assert written_down("What is one? " * 20, tokenizer) == ""


def test_system_prompt_and_reference_are_drawn(tmp_path, layout, tokenizer):
    corpus = open_world(tmp_path, draws=Draws.none(system_prompt=0.2, drop_reference=0.5))
    drawn = texts_of(corpus, layout, tokenizer)
    assert sum("You are Mini." in text for text, _ in drawn) / 200 == pytest.approx(0.2, abs=0.09)
    kept = 0
    for _, example in drawn:
        start = int((example.row.audio_labels != IGNORE).any(dim=0).nonzero()[0])
        before = example.row.input_ids[0, :start]
        kept += bool((before < CONFIG.num_codes).any())
        assert (before == CONFIG.audio_spk_token).sum() == 1, "the speaker's vector stays"
    assert kept / 200 == pytest.approx(0.5, abs=0.11)


def test_picture_stands_where_the_text_says_or_first(tmp_path, layout, tokenizer):
    rows = worlds.make_rows("i2t", 2)
    rows[1]["conversations"] = worlds.conversation("Look: <image> What is it?", "A star.")
    corpus = open_world(tmp_path, "i2t", rows)
    for index in (0, 1):
        example = realise(corpus, index, 0, np.random.default_rng(0), layout)
        ids = example.row.input_ids[-1].tolist()
        assert ids.count(CONFIG.image_ids[0]) == CONFIG.image_token_len
        assert len(example.pictures) == 1 and example.pictures[0].shape == (worlds.PATCHES, worlds.PICTURE_DIM)
    moving = open_world(tmp_path, "i2t", rows, draws=Draws.none(picture_moves=True))
    firsts = {example.row.input_ids[-1].tolist().index(12) for _, example in texts_of(moving, layout, tokenizer, 40)}
    assert len(firsts) > 1


def runs_of(ids: list[int], token: int) -> int:
    return sum(each == token and before != token for before, each in zip([None, *ids], ids))


def drawn_of(tmp_path, layout, text, pictures, sound_length=0):
    """How often a picture begins in a question's row, and how many are said to be in it."""
    turns = json.loads(worlds.conversation(text, "Seven."))
    draws = Draws.none(question=(1.0, 0.0, 0.0)) if sound_length else Draws.none()
    shown_text, _, shown = render(turns, sound_length, pictures, draws, (), np.random.default_rng(0), layout)
    return runs_of(layout.tokenizer.encode(shown_text), CONFIG.image_ids[0]), shown


@pytest.mark.parametrize("text, sound_length", [("<image>\nand\n<image>\nCompare.", 0), ("<image>\nand\n<image>\nCompare.", 5), ("<image><image>", 0), ("Compare the two.", 0), ("Compare the two.", 5)])
def test_each_picture_has_a_run_of_its_own(tmp_path, layout, text, sound_length):
    """The k-th picture fills the k-th run of placeholders, so two that touch would be one, and the second lost."""
    assert drawn_of(tmp_path, layout, text, 2, sound_length) == (2, 2)


def test_a_picture_behind_the_cut_is_not_shown_before_it(tmp_path, layout):
    row = worlds.make_rows("i2t", 1)[0]
    row["conversations"] = worlds.conversation("Hello.", "Hello.", "<image>\nWhat is it?", "A star.")
    corpus = open_world(tmp_path, "i2t", [row])
    seen = set()
    for draw in range(20):
        example = realise(corpus, 0, 0, np.random.default_rng(draw), layout)
        ids = example.row.input_ids[-1].tolist()
        seen.add((ids.count(layout.tokenizer.encode("star")[0]) > 0, runs_of(ids, CONFIG.image_ids[0]), len(example.pictures)))
    assert {each[1:] for each in seen} == {(0, 0), (1, 1)}, seen


def test_history_is_replaced_only_inside_the_answer(tmp_path, layout):
    """Scheduled sampling and hidden stretches touch inputs, never labels, and never what the answer is given."""
    draws = Draws.none(random_codes=0.1, random_text=0.1, hidden_history=0.3)
    plain, noisy = open_world(tmp_path), open_world(tmp_path, draws=draws)
    changed = spoken = 0
    for index in range(len(plain)):
        before = realise(plain, index, 0, np.random.default_rng(index), layout).row
        after = realise(noisy, index, 0, np.random.default_rng(index), layout).row
        assert torch.equal(before.text_labels, after.text_labels) and torch.equal(before.audio_labels, after.audio_labels)
        answer = (before.audio_labels != IGNORE).any(dim=0)
        differs = (before.input_ids[:-1] != after.input_ids[:-1]).any(dim=0)
        assert not differs[~answer].any()
        assert not (before.input_ids[-1] != after.input_ids[-1])[before.text_labels == IGNORE].any()
        changed, spoken = changed + int(differs.sum()), spoken + int(answer.sum())
    assert 0.2 < changed / spoken < 0.5


def test_many_turns_are_cut_at_a_random_answer(tmp_path, layout, tokenizer):
    row = worlds.make_rows("t2a", 1)[0]
    row["conversations"] = worlds.conversation("One.", "First.", "Two.", "Second.")
    row["answer_audios"] = [[1] * 8, [2] * 16]
    corpus = open_world(tmp_path, rows=[row])
    seen = set()
    for draw in range(20):
        example = realise(corpus, 0, 0, np.random.default_rng(draw), layout)
        codes = example.row.audio_labels[0]
        seen.add((int(codes[(codes != IGNORE) & (codes < CONFIG.num_codes)][0]), int((codes == 1).sum() + (codes == 2).sum())))
    assert seen == {(1, 1), (2, 2)}, "each answer goes with its own sound"


# --- Batches -----------------------------------------------------------------------------------------------------


def make_batches(corpora, shares, layout, seed=0, budget=480, chunk_rows=20):
    return Batches(corpora, shares, layout, budget, seed, chunk_rows)


def take(batches, count, **start):
    found = []
    for batch in batches.start(**start):
        if len(found) == count:
            return found
        found.append(batch)


def same(one, other):
    return one.names == other.names and torch.equal(one.input_ids, other.input_ids)


def test_batches_go_on_exactly_where_they_stopped(tmp_path, layout):
    draws = Draws(random_codes=0.1, hidden_history=0.2)
    corpus = open_world(tmp_path, "a2a", draws=draws, copies=2)
    whole = take(make_batches([corpus], [1.0], layout), 14)
    for stop in (1, 3, 7, 11):
        chunk, number = whole[stop - 1].position
        rest = take(make_batches([corpus], [1.0], layout), 14 - stop, chunk=chunk, number=number)
        assert all(same(one, other) for one, other in zip(whole[stop:], rest, strict=True)), f"stopped after {stop}"
    other = take(make_batches([corpus], [1.0], layout, seed=1), 14)
    assert not all(same(one, two) for one, two in zip(whole, other))


def test_an_epoch_holds_every_row_once(tmp_path, layout):
    corpus = open_world(tmp_path, count=40)
    batches = make_batches([corpus], [1.0], layout, chunk_rows=20)
    names = [name for chunk in (0, 1) for batch in batches.plan(chunk) for name in [example.name for example in batch]]
    assert sorted(names) == sorted(f"t2a.parquet, row {row}" for row in range(40))
    assert names != sorted(names)


def test_batches_keep_the_budget_and_waste_little(tmp_path, layout):
    corpus = open_world(tmp_path, count=200)
    batches = make_batches([corpus], [1.0], layout, chunk_rows=200)
    found = take(batches, len(batches.plan(0)))
    assert all(batch.size <= 480 for batch in found)
    assert useful_share(found) > 0.9
    sizes = [batch.size for batch in found]
    assert min(sizes) > 0.5 * max(sizes), "no batch of a few rows left over"


def test_mixture_keeps_its_shares(tmp_path, layout):
    corpora = [open_world(tmp_path, "i2t"), open_world(tmp_path, "t2a")]
    batches = make_batches(corpora, [0.75, 0.25], layout, chunk_rows=20)
    names = [example.name for batch in batches.plan(0) for example in batch]
    assert sum(name.startswith("t2a") for name in names) == 5 and len(names) == 20


def test_padded_batch_gives_the_losses_of_single_rows(tmp_path, layout):
    """Padding on the right, features of several lengths, rows with and without sound: the sums are those of the rows."""
    corpora = [open_world(tmp_path, "a2a"), open_world(tmp_path, "i2t"), open_world(tmp_path, "t2a")]
    examples = [realise(corpora[n % 3], n, 0, np.random.default_rng(n), layout) for n in range(9)]
    torch.manual_seed(0)
    model = OmniModel(CONFIG).eval()

    def sums(batch):
        return loss_sums(model, model.hidden_states(**batch.inputs("cpu")), batch.text_labels, batch.audio_labels)

    together = sums(collate(examples, CONFIG))
    alone = [sums(collate([example], CONFIG)) for example in examples]
    for name in ("text", "text_count", "audio", "audio_count"):
        torch.testing.assert_close(getattr(together, name), sum(getattr(each, name) for each in alone), rtol=1e-5, atol=1e-4)


def test_cut_answers_and_stops_are_counted(tmp_path, tokenizer):
    rows = worlds.make_rows("t2a", 4)
    rows[1]["answer_audios"] = [[1] * 8 * 100]  # its end is cut
    rows[2]["conversations"] = worlds.conversation("word " * 80, "Yes.")  # its answer is cut
    corpus = open_world(tmp_path, rows=rows)
    batches = Batches([corpus], [1.0], Layout(CONFIG, tokenizer, 60), 240, chunk_rows=4)
    found = take(batches, len(batches.plan(0)) + 1)
    assert batches.counts.answers_cut >= 1 and batches.counts.stops_cut >= 1
    assert all(batch.input_ids.shape[2] <= 60 for batch in found)


def test_budget_must_hold_one_row(tmp_path, layout):
    with pytest.raises(ValueError, match="token_budget 100 has no room"):
        make_batches([open_world(tmp_path)], [1.0], layout, budget=100)
