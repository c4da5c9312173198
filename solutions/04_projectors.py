# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Projectors
#
# *Takes 75 minutes (tiny) · runs in 280 s on one core (tiny) · builds on 02, 03 · 4 exercises, 12 points*
#
# **At the end** you have given a language model an ear. It has only ever read; you leave every one of its weights as it is, and every
# one of the speech encoder's. You train two matrices between them, and what it answers begins to follow what was asked aloud. And you
# know what keeps it from hearing as well as it reads.
#
# **You need** to know what an embedding is, and how a loss trains a weight. From the course: a sound becomes 16.67 vectors a second (notebook 02), a
# picture 64 vectors (notebook 03). The *Thinker* is the language model that reads them. Here only its words matter, not the voice.
#
# **The claim.** To connect two trained models one needs no third model: two matrices suffice to make the one's vectors legible
# to the other. They match the *widths*. Whether they can match the *clocks* is another question, and you will measure it.
#
# Letters: $B$ batch, $T$ positions, $N$ vectors of a sound, $P$ of a picture, $R$ runs of placeholders, $D_\mathrm{in}$ the encoder's width, $D$ the Thinker's, $V$ words.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: a few steps on the small validation file

# %%
import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mmo.chat import ChatTokenizer, user_content
from mmo.config import IGNORE, Draws, ModelConfig
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.pictures import compare_grids, show_maps
from mmo.data import Batches, Corpus, DataFile, Layout
from mmo.display import BLUE, GREY, ORANGE, SKY, LossCurves, drawing, finish, listen, smooth
from mmo.features import read_sound
from mmo.omni import OmniModel, loss_sums
from mmo.optimiser import choose_trainable
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.projector import Projector
from mmo.speech_encoder import SpeechEncoder
from mmo.thinker import load_thinker
from mmo.training import default_encoders, open_file
from mmo.vision_encoder import VisionEncoder, open_picture

settings = find_profile("tiny")  # what is measured here is measured on the tiny world, in a minute or two
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
ear, eye = SpeechEncoder.load(settings.speech_encoder_dir), VisionEncoder.load(settings.vision_encoder_dir)


def new_model(seed: int = 0) -> OmniModel:
    """A Thinker that has learnt to read and write, and projectors that have learnt nothing."""
    torch.manual_seed(seed)
    model = OmniModel(config)
    load_thinker(model.model, settings.thinker_file)
    return model


model = new_model()
AUDIO_PAD, IMAGE_PAD = config.audio_ids[0], config.image_ids[0]
print(f"the ear gives vectors of {ear.dim} numbers, the eye of {eye.dim}; the Thinker reads vectors of {config.hidden_size}")

# %% [markdown]
# ## The widths do not match
#
# A word becomes a vector by a table: its number picks a row. A piece of sound has no number. It has a vector already, but in another
# space: another width, another scale, and no axis that means there what it means here. The projector carries one into the other:
#
# $$p(x) = W_2\, \mathrm{GELU}\big(W_1\, \mathrm{LayerNorm}(x) + b_1\big) + b_2, \qquad x \in \mathbb{R}^{D_\mathrm{in}},\; W_1 \in \mathbb{R}^{D \times D_\mathrm{in}},\; W_2 \in \mathbb{R}^{D \times D},\; p(x) \in \mathbb{R}^{D}$$
#
# LayerNorm makes it indifferent to the scale of the encoder's vectors. GELU, a smooth bend, lets it do more than one matrix can. Each vector is projected by itself: $(B, N, D_\mathrm{in})$ in, $(B, N, D)$ out.
#
# ## Exercise: the projector
#
# *Exercise 04.projector · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("04.projector")`*
#
# Write $p$. `scale` and `shift` belong to the norm, and the GELU is the exact one.

# %%
@exercise("04.projector")
def projector(
    features: Tensor, scale: Tensor, shift: Tensor,
    first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor,
) -> Tensor:
    """features (..., D_in) -> (..., D).

    scale, shift (D_in,) of the norm; first (D, D_in), second (D, D), their biases (D,).
    """
    ### BEGIN SOLUTION
    normed = F.layer_norm(features, scale.shape, scale, shift)
    hidden = F.gelu(F.linear(normed, first, first_bias))
    return F.linear(hidden, second, second_bias)
    ### END SOLUTION


# %%
check("04.projector")

# %% [markdown]
# Now a question that was asked aloud, through the encoder and through your function, which borrows the weights of the package's projector. They are random still:

# %%
rows = pq.read_table(settings.data_dir / "a2a-test.parquet", columns=["conversations", "question_audios", "voice", "kind"]).slice(0, 60).to_pylist()
row = next(row for row in rows if row["kind"] == "plus")
turns = json.loads(row["conversations"])
question, answer = turns[0]["content"], turns[1]["content"]
sound = read_sound(row["question_audios"][0])
features, lengths = ear.encode([sound])  # (1, N, D_in)
N = int(lengths[0])
display(listen(sound, 16_000, question))

with torch.no_grad():
    norm, first, _, second = model.audio_proj.mlp
    mine = projector(features, norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias)
    apart = (mine - model.audio_proj(features)).abs().max()
    print(f"{tuple(features.shape)} -> {tuple(mine.shape)}; largest difference to mmo.projector.Projector: {apart:.1e}")
    assert torch.allclose(mine, model.audio_proj(features), atol=1e-5)

# %% [markdown]
# ## Exercise: what it costs
#
# *Exercise 04.parameters · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("04.parameters")`*
#
# The full-size model ("real" below) goes from 512 numbers to 768 for speech. **Predict first:** how many weights has this projector? The norm has a scale and a shift for each of its inputs.

# %%
predict("04.cost", "The projector from 512 to 768: how many million weights?", None)

# %%
@exercise("04.parameters")
def parameters(from_width: int, to_width: int) -> int:
    """How many numbers LayerNorm -> Linear -> GELU -> Linear learns, norm and biases included."""
    ### BEGIN SOLUTION
    return 2 * from_width + (from_width + 1) * to_width + (to_width + 1) * to_width
    ### END SOLUTION


# %%
check("04.parameters")

# %%
with torch.device("meta"):  # shapes only: nothing is stored
    real = OmniModel(ModelConfig())
for name, whole, sizes in (("tiny", model, config), ("real", real, ModelConfig())):
    everything = sum(p.numel() for p in whole.parameters())
    for what, width in (("speech", sizes.audio_hidden_size), ("pictures", sizes.image_hidden_size)):
        count = parameters(width, sizes.hidden_size)
        print(f"{name}, {what:8}: {width:4} -> {sizes.hidden_size:4} {count:10,} weights, {100 * count / everything:.1f} % of the model")
reveal("04.cost", round(parameters(512, 768) / 1e6, 2), "million")

# %% [markdown]
# ## Where do the vectors go?
#
# Into the text. The prompt holds a placeholder, `<|audio_pad|>`, once for every vector that will come, and for each picture 64 times `<|image_pad|>`. The tokenizer treats
# placeholders as words, so they have an embedding too. The Thinker is not meant to see it.

# %%
ids = torch.tensor([tokenizer.prompt([{"role": "user", "content": user_content(sound_length=N)}])])  # (1, T)
shown = tokenizer.tokenizer.decode(ids[0].tolist(), skip_special_tokens=False)
print(shown.replace("<|audio_pad|>" * N, f"<|audio_pad|> x {N}"))
print(f"T = {ids.shape[1]} positions, {int((ids == AUDIO_PAD).sum())} of them placeholders for {N} vectors of {len(sound) / 16_000:.2f} s")

# %% [markdown]
# ## Exercise: which run, which place
#
# *Exercise 04.runs · difficulty ●●○ · importance ●●○ · 12 minutes · 3 points · stuck? `hint("04.runs")`*
#
# A conversation may hold several pictures. Placeholders that are neighbours make a *run*: picture $k$ belongs to run $k$. For each position we must
# know which run it is in, and which place in it. A batch has many rows, and each is counted by itself. With `.` for a word and `p` for a placeholder:
#
# | ids | `.` | `p` | `p` | `p` | `.` | `p` | `p` |
# |---|---|---|---|---|---|---|---|
# | run | -1 | 0 | 0 | 0 | -1 | 1 | 1 |
# | place | -1 | 0 | 1 | 2 | -1 | 0 | 1 |

# %%
@exercise("04.runs")
def runs(ids: Tensor, placeholder: int) -> tuple[Tensor, Tensor]:
    """ids (B, T) -> number of the run (B, T), place in the run (B, T).

    Both int64 and from 0; -1 where no placeholder stands.
    """
    ### BEGIN SOLUTION
    here = ids == placeholder
    before = F.pad(here, (1, 0))[:, :-1]
    starts = here & ~before
    position = torch.arange(ids.shape[1])
    last_start = torch.where(starts, position, 0).cummax(dim=1).values
    run = starts.cumsum(dim=1) - 1
    return run.where(here, -1), (position - last_start).where(here, -1)
    ### END SOLUTION


# %%
check("04.runs")

# %% [markdown]
# ## Exercise: putting features in their places
#
# *Exercise 04.place_features · difficulty ●●● · importance ●●● · 15 minutes · 4 points · stuck? `hint("04.place_features")`*
#
# Now the heart of it, sometimes called *masked injection*. `stream` $(B, T, D)$ holds the embeddings of all positions. Where run $r$ of row $b$ stands, its place $n$ gets `features[b, r, n]`,
# as far as both reach. Everything else keeps its embedding: words, the rest of a run that is too long, and any run from $R$ on. For a sound $R = 1$: only the
# *first* run of `<|audio_pad|>` is heard. `lengths[b, r]` says how many of the $N$ vectors are real; the others are padding.
#
# Gradients must pass: to the features, for they come from the projector, which is to learn, and to the embeddings that stayed. **Predict:**

# %%
predict(
    "04.gradient",
    mine=None,
    question="Does the embedding of <|audio_pad|>, as an input, learn anything from a row whose run is filled to its end: "
    "'yes' or 'no'?",
)

# %%
@exercise("04.place_features")
def place_features(
    stream: Tensor, ids: Tensor, placeholder: int, features: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """stream (B, T, D), ids (B, T), features (B, R, N, D) -> (B, T, D), a new tensor.

    lengths (B, R), or None: all N are real.
    """
    ### BEGIN SOLUTION
    B, R, N, D = features.shape
    number, place = runs(ids, placeholder)
    row = torch.arange(B)[:, None]
    valid = torch.full((B, R), N) if lengths is None else lengths
    filled = (number >= 0) & (number < R)
    number = number.clamp(0, R - 1)
    filled &= place < valid[row, number]
    chosen = features[row, number, place.clamp(0, N - 1)]  # (B, T, D)
    return torch.where(filled[..., None], chosen, stream)
    ### END SOLUTION


# %%
check("04.place_features")

# %% [markdown]
# Your function on the prompt from above, and on one with two pictures, beside `OmniModel.embed`, which does the same. The picture is the tensor of this notebook, the stream $(1, T, D)$,
# before and after, a column for each position. Between the orange lines stand the placeholders on the left, the sound on the right:

# %%
with torch.no_grad():
    words_only = model.model.embed_tokens(ids)  # (1, T, D)
    heard = place_features(words_only, ids, AUDIO_PAD, model.audio_proj(features)[:, None])
    assert torch.allclose(heard, model.embed(ids, audio_features=features, audio_lengths=lengths), atol=1e-6)

    two = pq.read_table(settings.data_dir / "i2t-test.parquet", columns=["image_bytes"]).slice(0, 2)["image_bytes"].to_pylist()
    patches = eye.encode([open_picture(data) for data in two])[None]  # (1, R, P, D_in)
    both = torch.tensor([tokenizer.prompt([{"role": "user", "content": user_content("What do you see?", pictures=2)}])])
    seen = place_features(model.model.embed_tokens(both), both, IMAGE_PAD, model.vision_proj(patches))
    assert torch.allclose(seen, model.embed(both, image_features=patches), atol=1e-6)

numbers, places = runs(both, IMAGE_PAD)
counted = [int((numbers == r).sum()) for r in (0, 1)]
print(f"two pictures: {tuple(patches.shape)} features, runs {sorted(set(numbers[0].tolist()) - {-1})} of {counted} placeholders in {both.shape[1]} positions")
begin = int((ids[0] == AUDIO_PAD).int().argmax())
with drawing(9.0, 2.8) as figure:
    for axes, each, title in zip(figure.subplots(1, 2, sharey=True), (words_only, heard), ("the placeholders' own embedding", "the sound in their place")):
        image = axes.imshow(each[0].T, aspect="auto", cmap="cividis", vmin=-0.4, vmax=0.4, interpolation="nearest")
        for edge in (begin, begin + N):
            axes.axvline(edge - 0.5, color=ORANGE, linewidth=2)
        axes.set(xlabel="position", title=title)
        axes.grid(False)
    figure.axes[0].set_ylabel("number in the vector")
    figure.colorbar(image, ax=figure.axes, label="its value")
    words = "The stream of the prompt, position by position: left the placeholder's embedding repeated, on the right a sound's vectors between the words."
    picture = finish(figure, words)
display(picture)

# %%
stream = words_only.clone().requires_grad_(True)
given = model.audio_proj(features)[:, None].detach().requires_grad_(True)
place_features(stream, ids, AUDIO_PAD, given).square().sum().backward()
of_placeholders, of_words = (stream.grad[here].norm() for here in (ids == AUDIO_PAD, ids != AUDIO_PAD))
print(f"gradient on the features: {given.grad.norm():.2f}; on the placeholders' embeddings: {of_placeholders:.2f}; on the words': {of_words:.2f}")
reveal("04.gradient", "no" if stream.grad[ids == AUDIO_PAD].norm() == 0 else "yes")

# %% [markdown]
# **Not to be confused.** Injection is no cross-attention. There is no second stream and no new layer: from here on nothing but the vectors themselves tells the Thinker
# which positions were words. (Flamingo, for one, does it the other way.)
#
# ## Training it alone
#
# Everything is frozen but the projector. *Frozen* means that the weights do not change, not that nothing is computed: the loss stands at the Thinker's far end,
# so its gradient must go back *through* the whole Thinker to reach the projector. Only the encoder is spared. It lies in front of the projector, no gradient goes there, and its features are computed once and kept.
#
# The helpers in the next cell (`Corpus`, `Draws`, `Layout`, `Batches`) come later, in [notebook 10](10_train_t2a.ipynb). Here this is enough: `asked_aloud` and
# `asked_in_writing` are the same held-out questions, as sound and as text.

# %%
source = "a2a-validation" if budget == "smoke" else "a2a-train"
encoders = default_encoders(settings, torch.device("cpu"))
stage = settings.stages["a2a"][0]


def spoken(name: str, draws: Draws = Draws.none()) -> Corpus:
    """Spoken questions with their features, which are computed once and kept."""
    return Corpus([open_file(settings.data_dir / f"{name}.parquet", settings, stage, ("question_audios",), encoders, True, False)], draws)


training, test = spoken(source), spoken("a2a-test")
layout = Layout(config, tokenizer, stage.max_length)
count = 24 if budget == "smoke" else 120


def held_out(corpus: Corpus) -> list:
    """Test questions in voices that nobody heard, in batches; what is written only."""
    return [batch.written() for batch in Batches([corpus], [1.0], layout, 2048).validation(count)]


asked_aloud = held_out(test)
asked_in_writing = held_out(spoken("a2a-test", Draws.none(question=(0.0, 1.0, 0.0))))
learns = choose_trainable(model, "audio_proj")
frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
print(f"{len(training)} questions to learn from, {count} to measure with")
print(f"{sum(p.numel() for p in learns.values()):,} weights learn, {frozen:,} are frozen")

# %% [markdown]
# Three things are measured on the held-out questions: the loss per token of the answer; the share of its tokens that the model finds likeliest; and the share of answers of which it does so for *every* token. The last is exactly
# the share that it would write word for word by itself: if each token is the likeliest after the true ones before it, the true ones are what it writes. Do not be impressed by the second. There the true words so far are given, and in
# "Three plus four is seven." half of the tokens follow from what stands before them, whatever was asked.

# %%
@torch.no_grad()
def measure(model: OmniModel, batches: list, another: bool = False) -> tuple[float, float, float]:
    """Loss per token, share of tokens, share of whole answers; another: every question gets its neighbour's sound."""
    loss = tokens = right = whole = answers = 0
    for batch in batches:
        inputs = batch.inputs("cpu")
        if another:
            inputs |= {name: inputs[name].roll(1, dims=0) for name in ("audio_features", "audio_lengths")}
        hidden = model.hidden_states(**inputs)
        hit = (model.text_head(hidden.text).argmax(dim=-1) == batch.text_labels) | (batch.text_labels == IGNORE)
        learnt = batch.text_labels != IGNORE
        sums = loss_sums(model, hidden, batch.text_labels, batch.audio_labels)
        loss, tokens = loss + float(sums.text), tokens + int(sums.text_count)
        right, whole, answers = right + int((hit & learnt).sum()), whole + int(hit.all(dim=1).sum()), answers + len(hit)
    return loss / tokens, right / tokens, whole / answers


@torch.no_grad()
def write(model: OmniModel, features: Tensor, most: int = 24) -> str:
    """The answer to one sound, features (1, N, D_in), the likeliest token each time."""
    ids = tokenizer.prompt([{"role": "user", "content": user_content(sound_length=features.shape[1])}])
    start = len(ids)
    while len(ids) < start + most and ids[-1] != config.im_end_token:
        streams = torch.full((1, config.num_codebooks + 1, len(ids)), config.audio_pad_token)
        streams[0, -1] = torch.tensor(ids)
        hidden = model.hidden_states(streams, audio_features=features, speaking=())
        ids.append(int(model.text_head(hidden.text[:, -1]).argmax()))
    return tokenizer.decode(ids[start:])


def heard_questions() -> list[tuple[str, str, np.ndarray, Tensor]]:
    """Question, its answer, its sound and its features (1, N, D_in): the one from above and two more, each of another kind, as they stand in the file."""
    chosen = {}
    for each in (row, *rows):
        chosen.setdefault(each["kind"], each)
    found = []
    for each in list(chosen.values())[:3]:
        turns = json.loads(each["conversations"])
        spoken_question = read_sound(each["question_audios"][0])
        given, lengths = ear.encode([spoken_question])
        found.append((turns[0]["content"], turns[1]["content"], spoken_question, given[:, : int(lengths[0])]))
    return found


three = heard_questions()
figures = {"asked in writing": measure(model, asked_in_writing), "aloud, projector untrained": measure(model, asked_aloud)}
before = [write(model, given) for *_, given in three]
for (asked, _, heard_sound, _), written in zip(three, before):
    display(listen(heard_sound, 16_000, f"asked: {asked}\nanswered before the training: {written}", small=True))

# %%
untrained, in_writing = (round(100 * figures[name][1], 1) for name in ("aloud, projector untrained", "asked in writing"))
predict(
    "04.after",
    mine=None,
    question="After a minute of training: what share of the answers' tokens is right, in percent? "
    f"(Untrained: {untrained}; in writing: {in_writing})",
)

# %%
STEPS, RATE = (8 if budget == "smoke" else 200), 3e-3


def train(model: OmniModel, corpus: Corpus, title: str, seed: int = 0) -> list[float]:
    """Train the audio projector alone on rows in the seed's order; returns the loss of each step, which is drawn while it falls."""
    learns = choose_trainable(model, "audio_proj")
    optimiser = torch.optim.AdamW(learns.values(), lr=RATE, weight_decay=0.01)
    log = run_dir(settings, budget) / "log" / f"04-{title.replace(' ', '-')}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    losses = []
    batches = Batches([corpus], [1.0], layout, 1280, seed=seed, chunk_rows=1024).start()
    with open(log, "w") as file, LossCurves(log, title), tqdm(total=STEPS, desc=title) as bar:
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 20) * (1 - 0.95 * step / STEPS)
            batch = next(batches).written()
            hidden = model.hidden_states(**batch.inputs("cpu"))
            loss = loss_sums(model, hidden, batch.text_labels, batch.audio_labels).text_loss()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learns.values(), 1.0)
            optimiser.step()
            losses.append(float(loss))
            file.write(json.dumps({"step": step, "text": losses[-1]}) + "\n")
            file.flush()
            bar.update()
    return losses


untouched = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
curves = {"every vector": train(model, training, "every vector")}
assert all(torch.equal(p, untouched[name]) for name, p in model.named_parameters() if name in untouched)
print("all frozen weights are what they were, to the bit")

# %%
figures["aloud, projector trained"] = measure(model, asked_aloud)
figures["the same, another question's sound"] = measure(model, asked_aloud, another=True)
for name, (loss, tokens, whole) in figures.items():
    print(f"{name:36} loss {loss:5.2f}, {100 * tokens:5.1f} % of the tokens, {100 * whole:3.0f} % of the answers")
for (asked, true, _, given), written in zip(three, before):
    print(f"\nasked:  {asked}\nbefore: {written!r}\nafter:  {write(model, given)!r}\ntrue:   {true!r}")
reveal("04.after", round(100 * figures["aloud, projector trained"][1]), "percent")

# %% [markdown]
# It hears: with another question's sound the loss is far higher, and fewer tokens are right. So it is this sound that helps. Yet it is far from what it can do in writing: compare the shares of whole answers. The shape of the answer
# comes first ("… plus … is …"), the numbers in it come last.
#
# ## The clocks do not match either
#
# Look at what the Thinker has to read. Heard, the question above is as many vectors as it had placeholders. In writing it is about as many tokens as it has words. A word is spread over several vectors, and between the words there are vectors that say "nothing new". A
# projector sees *one vector at a time*. It can change what a vector says, but it cannot gather three into one, nor drop any. That work is left to the Thinker's attention, which is frozen and never learnt it.
#
# Is that the reason? An experiment will tell, and no trained part need change for it. The encoder's own CTC head (notebook 02), which writes at each vector a word or a blank, knows where the words are. We keep one vector a word, the first at which the head
# writes it, and leave out the rest. Same encoder, same features, a projector of the same size, as many steps. (Not as many questions: a batch is filled up to 1280 positions, and where rows are shorter more of them fit in. Part of what is gained may be that.)

# %%
class OnePerWord:
    """A feature store that hands out, of each sound, only the vectors where the CTC head writes a word."""

    def __init__(self, store) -> None:
        self.store, self.bad = store, store.bad

    def get(self, row: int, number: int, copy: int = 0) -> np.ndarray:
        return one_per_word(np.asarray(self.store.get(row, number, copy)))


def one_per_word(features: np.ndarray) -> np.ndarray:
    """(N, D_in) -> (words, D_in)."""
    if not len(features):
        return features
    best = ear.model.ctc.argmax(torch.from_numpy(features).float()[None])[0].numpy()
    return features[(best != ear.model.blank_id) & (np.diff(best, prepend=-1) != 0)]


def on_words(corpus: Corpus) -> Corpus:
    """The same questions with one vector a word."""
    return Corpus([DataFile(file.rows, OnePerWord(file.sounds)) for file in corpus.files], corpus.draws)


few = one_per_word(features[0].numpy())
print(f"{N} vectors, {len(few)} of them kept; the question in writing is {len(tokenizer.encode(question))} tokens")
predict("04.clocks", "One vector a word: what share of the tokens is right now, in percent?", None)

# %%
on_the_words = new_model()
curves["one vector a word"] = train(on_the_words, on_words(training), "one vector a word")
figures["aloud, one vector a word"] = measure(on_the_words, held_out(on_words(test)))

# %%
for name, (loss, tokens, whole) in figures.items():
    print(f"{name:36} loss {loss:5.2f}, {100 * tokens:5.1f} % of the tokens, {100 * whole:3.0f} % of the answers")
for asked, *_, given in three:
    print(f"\nasked: {asked}\nafter: {write(on_the_words, torch.from_numpy(one_per_word(given[0].numpy()))[None])!r}")
with drawing(9.0, 3.0) as figure:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for (name, losses), colour in zip(curves.items(), (ORANGE, BLUE)):
        left.plot(losses, color=colour, linewidth=0.8, alpha=0.25)
        left.plot(smooth(losses, 0.05), color=colour, linewidth=2.2, label=name)
    left.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
    left.legend(fontsize=9)
    for number, (what, colour) in enumerate((("of the tokens", SKY), ("of the whole answers", BLUE))):
        shares = [100 * each[1 + number] for each in figures.values()]
        bars = right.barh(np.arange(len(figures)) + 0.4 * number - 0.2, shares, color=colour, height=0.38, label=what)
        right.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    right.set_yticks(range(len(figures)), list(figures), fontsize=9)
    right.set(xlabel="right, percent", xlim=(0, 120), xticks=range(0, 101, 25))
    right.invert_yaxis()
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=9)
    words = "Left: the loss of both trainings. Right: what share of the tokens and of the whole answers is right, asked in writing and aloud."
    picture = finish(figure, words)
display(picture)
reveal("04.clocks", round(100 * figures["aloud, one vector a word"][1]), "percent")

# %% [markdown]
# Two matrices of the same size, but on a clock that the Thinker knows. How many more answers are right to their end? (A few questions, like those printed, show little; the dark bars count all of them.)
#
# Is the difference larger than chance? Both trainings once more, with other first weights and the rows in another order:

# %%
again = {}
for name, corpus, asked in (("every vector", training, asked_aloud), ("one vector a word", on_words(training), held_out(on_words(test)))):
    pupil = new_model(seed=1)
    train(pupil, corpus, f"{name}, seed 1", seed=1)
    again[name] = measure(pupil, asked)
print(f"{'right, in percent':18} {'of the tokens':^18}   {'of the answers':^18}")
print(f"{'':18} {'seed 0':>8}{'seed 1':>10}   {'seed 0':>8}{'seed 1':>10}")
for name, first in (("every vector", figures["aloud, projector trained"]), ("one vector a word", figures["aloud, one vector a word"])):
    line = [round(100 * each[which]) for which in (1, 2) for each in (first, again[name])]
    print(f"{name:18} {line[0]:8}{line[1]:10}   {line[2]:8}{line[3]:10}")

# %% [markdown]
# Look along a line first: within each half only the seed differs, so that is chance. Then down a column: believe a difference between the ways only if it is much larger.
#
# So why not always use one vector a word? Because the head's mistakes
# would be final, because a real encoder's tokens are no neat words, and because what lies between the words (voice, doubt, a laugh) would be gone. MiniMind-O keeps every vector and
# lets the Thinker learn to read them: a first pass trains the projector alone, a second one all weights ([notebook 11](11_train_a2a.ipynb)). Others put a small model between, which gathers vectors (a Q-Former, a resampler), or stack several into one.
#
# The first pass has another reason. An untrained projector feeds noise to a trained model. If all weights learnt from the first step, the Thinker would first learn to ignore these positions.
#
# ## What has it learnt?
#
# A word's vector in, a word's vector out: has the projector become a dictionary? For each kept vector we look up the Thinker's words whose embeddings point most nearly the same way, before training and after it. **Predict:** for which words of the question
# does it become one, and for which not?

# %%
written = tokenizer.encode(question)
embeddings = model.model.embed_tokens.weight.detach()
table = F.normalize(embeddings - embeddings.mean(dim=0), dim=1)  # (V, D)


def spelt(token: int) -> str:
    """A token's letters, without the space before a word."""
    return tokenizer.tokenizer.id_to_token(token).replace("Ġ", "")


said = [ear.tokenizer.token_list[token] for token in ear.model.ctc.argmax(torch.from_numpy(few)[None])[0].tolist()]
alike, nearest = {}, {}
for name, each in (("before", new_model()), ("after", on_the_words)):
    with torch.no_grad():
        alike[name] = F.normalize(each.audio_proj(torch.from_numpy(few)), dim=1) @ table.T  # (words, V)
    nearest[name] = [[spelt(int(token)) for token in line.topk(3).indices] for line in alike[name]]
for number, word in enumerate(said):
    print(f"{word:>10}   before: {', '.join(nearest['before'][number]):32} after: {', '.join(nearest['after'][number])}")
firsts = [int(line.argmax()) for line in alike["after"]]
columns = written + sorted(set(firsts) - set(written), key=firsts.index)  # the question's own tokens, then the others that are nearest
top = max(float(each[:, columns].max()) for each in alike.values())
with drawing(9.0, 1.5 + 0.3 * len(said)) as figure:
    for axes, (name, grid) in zip(figure.subplots(1, 2, sharey=True), alike.items()):
        image = axes.imshow(grid[:, columns], cmap="cividis", vmin=0, vmax=top, aspect="auto")
        axes.axvline(len(written) - 0.5, color="white", linewidth=2)
        axes.set_xticks(range(len(columns)), [spelt(each) for each in columns], rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
        axes.set_yticks(range(len(said)), said, fontsize=9)
        axes.set_title(f"{name} training")
        axes.grid(False)
    figure.axes[0].set_ylabel("vector of")
    figure.colorbar(image, ax=figure.axes, label="cosine, from 0")
    words = "How alike each projected vector is to the embeddings of the question's own tokens and of the nearest others, before and after training."
    picture = finish(figure, words)
display(picture)

# %% [markdown]
# The question's own tokens stand left of the white line, right of it what else was nearest. Where a word meets itself, the projector has become a dictionary, though nobody ever
# showed it a pair: it was only asked that the right *answer* follow. A vector may also point to a word that nobody said but the answer needs (an "and" to "plus", say): no mistake of the
# ear, for the answer is all that counted. Where a vector resembles neither, it need not be at fault. The answer may
# not depend on that word. Or the vector acts on the Thinker's first blocks without resembling any word: there is room for such vectors between the rows of the table.
#
# ## The same for pictures
#
# `vision_proj` is the same class with another width, and a picture has 64 vectors in a fixed order. Nothing else differs.

# %%
predict("04.seconds", "How many seconds of speech take as many positions as one picture?", None)

# %%
a_second = 16_000 / 160 / 6  # vectors: a window every 160 samples, of which every sixth is kept
print(f"a picture: {eye.patches} positions; a second of speech: {a_second:.1f}; a second of Mimi's codes: 12.5, in rows of their own")
reveal("04.seconds", round(eye.patches / a_second, 1), "seconds")

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("04")

# %% [markdown]
# ## Summary
#
# - A projector is LayerNorm, matrix, GELU, matrix: about one weight in a hundred of the model. It matches widths.
# - Placeholders keep places free. Run $k$ gets picture $k$; a sound fills the first run; what has no feature keeps its embedding.
# - Frozen weights still pass gradients on. What is frozen *and in front of* all that learns is computed once and kept.
# - A control with a false sound says whether anything is heard at all.
# - A projector maps vector by vector, so it cannot change the clock. The model that reads the vectors must learn to read them at theirs.
#
# **Often mistaken.** *"The projector translates speech into words."* It makes vectors. Nobody asked that they resemble words, only that the right answer follow. *"The Thinker gets the transcript."* It gets nothing but these vectors. *"A falling loss means that it
# hears."* The loss falls as soon as the shape of the answers is known; look at the control.
#
# **To try.** Leave out the GELU (one matrix, in effect): how much is lost? Leave out the LayerNorm and multiply the features by ten. Train `vision_proj` alone on `i2t-train`: in copies of `spoken` and `train`, put `("image_bytes",)` for `("question_audios",)` and `"vision_proj"` for `"audio_proj"`. Fill the *last* run instead of the first with two runs
# in the prompt: what does the model answer to?
#
# **Where to read on.** In this course: `mmo/projector.py`, then [notebook 05](05_thinker.ipynb), the model that reads the stream. Papers:
#
# - M. Tsimpoukelli, J. Menick, S. Cabi and others: *Multimodal Few-Shot Learning with Frozen Language Models.* NeurIPS 2021, [arXiv:2106.13884](https://arxiv.org/abs/2106.13884). A frozen language model reads a picture as if it were words.
# - J.-B. Alayrac, J. Donahue, P. Luc and others: *Flamingo: a Visual Language Model for Few-Shot Learning.* NeurIPS 2022, [arXiv:2204.14198](https://arxiv.org/abs/2204.14198). The other way: cross-attention, and a resampler that changes the clock.
# - J. Li, D. Li, S. Savarese, S. Hoi: *BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models.* ICML 2023, [arXiv:2301.12597](https://arxiv.org/abs/2301.12597). The Q-Former.
# - H. Liu, C. Li, Q. Wu, Y. J. Lee: *Visual Instruction Tuning.* NeurIPS 2023, [arXiv:2304.08485](https://arxiv.org/abs/2304.08485). LLaVA: one matrix, trained alone first.
# - H. Liu, C. Li, Y. Li, Y. J. Lee: *Improved Baselines with Visual Instruction Tuning.* CVPR 2024, [arXiv:2310.03744](https://arxiv.org/abs/2310.03744). Why two layers.
# - Z. Ma, G. Yang, Y. Yang and others: *An Embarrassingly Simple Approach for LLM with Strong ASR Capacity.* 2024, [arXiv:2402.08846](https://arxiv.org/abs/2402.08846). A projector alone between a frozen speech encoder and a frozen language model.
