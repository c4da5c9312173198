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
# # 13 · Talk to it
#
# *Takes 53 minutes (tiny) · runs in 41 s on 2 cores (tiny) · builds on 01, 07, 12 · 3 exercises, 8 points*
#
# **At the end** you have asked it by text, by voice and by picture, with your own words, your own recording and your own picture if you like. You have heard it in both voices and at four
# temperatures, and seen when its first sound arrives.
#
# **You need** a finished model. If you trained one in notebooks 10 to 12, it is the one that answers; if not, the shipped one does. From the course: a *frame* is 80 ms of sound, eight codes
# (notebook 01), and these lie on a diagonal (notebook 07).
#
# **The claim.** It speaks while it still writes: the first sound comes after a fixed number of steps, however long the answer is, and each second of speech
# takes less than a second to make, on a plain CPU. So, on average, it stays ahead of what is being played.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
import gc
import time
from dataclasses import replace
from itertools import islice, permutations
from unittest.mock import patch

import numpy as np
import pyarrow.parquet
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo import measures
from mmo.assistant import Assistant
from mmo.config import Draws
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.clinic import Ward, long_term_spectrum
from mmo.data import Batches, Corpus, DataFile, Layout
from mmo.display import BLUE, INK, ORANGE, drawing, finish, listen, show_codes, show_image
from mmo.examination import SIZES, Exam, from_each_voice, of_tier
from mmo.features import read_sound
from mmo.generation import Sound, TextPiece
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import open_rows
from mmo.sequence import frames
from mmo.training import read_picture

settings = find_profile(profile)
assistant = Assistant.load(settings, run_dir(settings, budget))
print(assistant.which)
print("voices:", ", ".join(assistant.voices))

# %% [markdown]
# ## The same answer in each voice
#
# The weights are the same. One vector at one position differs, the speaker's, right before the answer (notebook 08). **Before you listen:** what will differ, the words, the pace, the pitch?

# %%
for voice in assistant.voices:
    answer = assistant.ask("What is three plus four?", voice=voice)
    display(listen(answer.samples, answer.sample_rate, f"{voice}, written: {answer.text}"))

# %% [markdown]
# ## Write your own
#
# Put your own questions into the list. Its world has small sums, comparisons, counting, colours, shapes, days, months and greetings; the words are in `data/tiny/words.txt`. For a word outside it `mmo say "What is love?"`, in a terminal, gives a notice.
# Under each player stands what it wrote. Close your eyes first, then compare: do you hear those words, to the last one? In the first answer, did you hear *eight*?

# %%
for question in ("Count from three until eight.", "Which is bigger, nine or twelve?", "What is the opposite of hot?", "How many legs has a dog?",
                 "Say: a large red circle above a small blue square."):
    answer = assistant.ask(question)
    display(listen(answer.samples, answer.sample_rate, f"asked: {question}\nwritten: {answer.text}"))

# %% [markdown]
# ## Ask aloud
#
# The question below is from the test set, in a voice that was in no training. For your own, record a few seconds to a file (any program does; WAV, FLAC, Ogg and MP3 are read), put its path into `own_recording`, and ask something of its world. A second try in other words
# is worth it: it never heard your voice. It writes down what it hears before it answers ([notebook 11](11_train_a2a.ipynb)): so you see whether it misheard or misunderstood.

# %%
own_recording = None  # "question.wav"

# %%
row = pyarrow.parquet.read_table(settings.data_dir / "a2a-test.parquet", columns=["question_audios"]).slice(0, 1).to_pylist()[0]
data = open(own_recording, "rb").read() if own_recording else row["question_audios"][0]
sound = read_sound(data)
display(listen(sound, 16_000, "the question"))
answer = assistant.ask(sound=sound)
display(listen(answer.samples, answer.sample_rate, f"it heard: {answer.heard}\nit answers: {answer.text}"))

# %% [markdown]
# ## Show it a picture
#
# Its world has nine shapes in nine colours (`mmo/world/text.py` lists them) on a calm ground, one thing or a few. Of three that it never saw, which does it get right? Put the path of a picture of yours into `own_picture`. It has no way to say "I do not know": what does it make of a photograph?

# %%
own_picture = None  # "picture.png"

# %%
rows = pyarrow.parquet.read_table(settings.data_dir / "i2t-test.parquet", columns=["image_bytes"]).slice(1, 7).to_pylist()[::3]
for image in [open(own_picture, "rb").read()] if own_picture else [row["image_bytes"] for row in rows]:
    picture = read_picture(image)
    display(show_image(picture, "The picture that it is asked about.", 192))
    answer = assistant.ask("What do you see?", picture=picture)
    display(listen(answer.samples, answer.sample_rate, f"written: {answer.text}"))

# %% [markdown]
# ## When does it begin to speak?
#
# In each step the Thinker writes one token of text and the Talker up to eight codes, which lie on a diagonal: codebook $k$ is $k$ steps late. A frame can be made into sound when all its eight codes are there. **Predict:** how many steps pass before the first sound?

# %%
predict("13.steps", "Steps before the first sound?", None)

# %%
generator, config = assistant.generator, assistant.generator.config
exam = Exam(settings, SIZES[budget], stages=("t2a",))  # test items, as prompts


def stream(question: str):
    """Stream one answer; returns it, when each piece of text was there, and when each piece of sound, with its length; all in milliseconds."""
    events, started = [], time.perf_counter()
    for event in generator.stream([assistant.prompt(question)]):
        events.append((1000 * (time.perf_counter() - started), event))
    text_at = [at for at, event in events if isinstance(event, TextPiece)]
    sound_at = [(at, len(event.samples) / 24) for at, event in events if isinstance(event, Sound)]
    return events[-1][1].answer, text_at, sound_at


def draw_timeline(axes, text_at, sound_at) -> None:
    """Above when each piece of text was there; below when each piece of sound was, and when it is played."""
    lengths = [length for _, length in sound_at]
    begun = sound_at[0][0] if sound_at else 0.0
    axes.barh([0] * len(lengths), lengths, left=begun + np.cumsum([0.0, *lengths])[:-1], height=0.35, color=ORANGE, alpha=0.5, label="when it is played")
    axes.scatter(text_at, [1] * len(text_at), marker="|", s=220, linewidths=1.2, color=BLUE, label="a piece of text")
    axes.scatter([at for at, _ in sound_at], [0] * len(sound_at), marker="|", s=220, linewidths=1.2, color=INK, label="sound is ready")
    axes.set(yticks=[0, 1], yticklabels=["sound", "text"], ylim=(-0.6, 1.6))
    axes.grid(axis="y", visible=False)


list(generator.stream([assistant.prompt("Hello.")]))  # not on the clock: what a first stream after loading prepares,
gc.collect()  # and what Python clears away behind it
streamed = [stream(question) for question in ("What is eleven plus eight?", "Count from three until eight.")]
ready = max((at for _, text_at, sound_at in streamed for at in [*text_at, *(at for at, _ in sound_at)]), default=1.0)
with drawing(9.0, 3.8) as figure:
    panels = figure.subplots(2, 2, sharex="col", sharey=True)
    for (left, right), (final, text_at, sound_at) in zip(panels, streamed):
        for axes in (left, right):
            draw_timeline(axes, text_at, sound_at)
        left.set_title(final.text)
    panels[1, 0].set_xlim(0, 1.1 * ready)  # until the last piece is ready
    panels[1, 1].set_xlim(left=0)
    panels[0, 1].legend(loc="upper right", markerscale=0.5)
    panels[1, 0].set_xlabel("ms after the question, until all is made")
    panels[1, 1].set_xlabel("ms after the question, until all is played")
    display(finish(figure, f"When text and sound of two answers were ready: all of it within {ready:.0f} milliseconds; and when the sound is played."))
for final, text_at, sound_at in streamed:
    before = sum(at <= sound_at[0][0] for at in text_at) if sound_at else len(text_at)
    print(f"{final.text}\n   {len(final.text_ids)} tokens: {before} pieces of text before the first sound, {len(text_at) - before} behind it")
    if final.first_audio_ms is not None:
        print(f"   first sound after {final.first_audio_ms:.0f} ms; {final.real_time_factor:.2f} s of work per second of speech")
for final, *_ in streamed:
    display(listen(final.samples, final.sample_rate, f"written: {final.text}"))
asked = assistant.prompt("Count from three until eight.")
with patch.object(generator.model, "hidden_states", wraps=generator.model.hidden_states) as model:  # called once a step, the first time with the whole prompt
    steps = next((model.call_count for event in generator.stream([asked]) if isinstance(event, Sound)), "no sound at all")
reveal("13.steps", steps, f"steps, counted; one for the answer's first word and one for each codebook of the first frame are {config.num_codebooks + 1}")

# %% [markdown]
# Read the pictures from left to right; the left ones are the beginning of the right ones, drawn wider. Above in each, the text comes, a token a step. The short answer is written to its end before its first frame is whole; while the long one is still being written, its first sound is heard. Below, each black mark is a piece of sound that is ready, and
# the broad bar is the time in which it is all played. Where the marks are done before the bar is, it makes speech faster than it speaks. And the bar begins at the first mark: it did not wait for the rest.
#
# ## Exercise: where the player stands still
#
# *Exercise 13.waits · difficulty ●●○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("13.waits")`*
#
# Seconds of work for a second of speech, the *real-time factor*, is a mean over the whole answer. A player knows no means: it needs each piece at the moment when the one before it is over. Pieces $i$ are ready at `ready[i]` and play for `lengths[i]`. The player
# begins `head_start` after the first piece is there, and then plays each as soon as it is there and the one before it is over. How long does it stand still before each piece? All times are in milliseconds.

# %%
@exercise("13.waits")
def waits(ready: list[float], lengths: list[float], head_start: float) -> list[float]:
    """N waits, the first of them 0.

    ready: when N pieces are ready.  lengths: how long each plays.
    head_start: how long the player holds back at first.
    """
    ### BEGIN SOLUTION
    free, found = ready[0] + head_start, []
    for at, length in zip(ready, lengths):
        found.append(max(0.0, at - free))
        free = max(free, at) + length
    return found
    ### END SOLUTION


# %%
check("13.waits")

# %% [markdown]
# Here it never stands still, unless something else keeps this machine busy. Now take a slower machine on which each of the moments that you have just measured for the longer answer comes later by the same factor. **Predict:** at which real-time factor will the player begin to stand
# still? Where would you set an alarm, if you ran this for others?

# %%
predict("13.slower", "The real-time factor from which on the player stands still?", None)

# %%
longer, _, pieces = streamed[-1]
lengths = [length for _, length in pieces]


def slowed(factor: float) -> list[float]:
    """When the pieces are ready on a machine with this real-time factor."""
    return [at * factor / longer.real_time_factor for at, _ in pieces]


def draw_played(axes, factor: float, head_start: float) -> str:
    """The pieces on a machine of that factor, each a bar while it is played; returns a row of the table below."""
    ready = slowed(factor)
    still = waits(ready, lengths, head_start)
    starts = ready[0] + head_start + np.cumsum([0, *lengths[:-1]]) + np.cumsum(still)
    axes.barh([0] * len(starts), lengths, left=starts, height=0.6, color=ORANGE, alpha=0.5)
    axes.scatter(ready, [0] * len(ready), marker="|", s=120, linewidths=1.2, color=INK)
    axes.set_yticks([0], [f"{factor:g}" + (f",\n{head_start:.0f} ms\nheld back" if head_start else "")])
    axes.grid(axis="y", visible=False)
    return f"{factor:16.2f} {head_start:8.0f} ms {starts[0]:11.0f} ms {sum(wait > 0 for wait in still):8} times {sum(still):6.0f} ms"


if pieces:
    with drawing(9.0, 3.8) as figure:
        panels = figure.subplots(5, 1, sharex=True)
        told = [draw_played(axes, *way) for axes, way in zip(panels, ((0.25, 0), (0.5, 0), (0.75, 0), (1.0, 0), (0.75, 300)))]
        panels[-1].set_xlim(left=0)
        panels[-1].set_xlabel("milliseconds after the question; a mark: the piece is ready, a bar: it is played")
        figure.supylabel("real-time factor", fontsize=9)
        display(finish(figure, "Played on slower machines, with gaps where the player stands still; the figures stand in the table below."))
    print("real-time factor   held back   sound begins   stands still   in all")
    print("\n".join(told))
still = next((factor for factor in np.arange(0.05, 3, 0.01) if any(waits(slowed(factor), lengths, 0.0))), None) if pieces else None
begins = "never" if still is None else round(float(still), 2)
reveal("13.slower", begins if pieces else "no sound at all", "" if still is None else "and above: there it stands still")

# %% [markdown]
# The first pieces are single frames, so that you hear something soon, and 80 ms are little to live on while the next piece, of two frames, is made. Later there is more in store. So a mean below 1 is needed and is not enough. A player that holds back a little pays once, before it
# begins, and spares all gaps of that size; [notebook 09](09_streaming.ipynb) computes how much is just enough.
#
# ## Warm and cold
#
# For each codebook the Talker gives logits $z$ of shape $(A,)$, one for each code; a code is drawn from the likeliest of them (`top_k` says how many). The *temperature* $\tau$ makes their probabilities sharper or flatter:
#
# $$p_i = \frac{\exp(z_i / \tau)}{\sum_j \exp(z_j / \tau)}$$
#
# Near 0 the likeliest code wins every time, and there is one reading of a sentence. At higher temperatures there are many. How many?
#
# ## Exercise: how many codes are in play
#
# *Exercise 13.in_play · difficulty ●●○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("13.in_play")`*
#
# A die of $n$ equal faces has the entropy $H = -\sum_i p_i \log p_i = \log n$. So $e^H$ of any chances is the number of equal faces that would be as uncertain. Give it for the logits at a temperature above 0.

# %%
@exercise("13.in_play")
def in_play(logits: Tensor, temperature: float) -> Tensor:
    """How many codes are in play, (...) float32: between 1 and A.

    logits (..., A), temperature > 0.
    """
    ### BEGIN SOLUTION
    shares = (logits.float() / temperature).softmax(dim=-1)
    return torch.special.entr(shares).sum(dim=-1).exp()
    ### END SOLUTION


# %%
check("13.in_play")

# %% [markdown]
# Now the Talker's own logits, at every place of some recorded test answers that it reads along (the true past is fed):

# %%
layout = Layout(config, generator.tokenizer, settings.stages["t2a"][0].max_length)
recorded = Corpus([DataFile(open_rows(settings.data_dir / "t2a-test.parquet", config, settings.cache_dir()))], Draws.none())
batch = Batches([recorded], [1.0], layout, 4 * layout.max_length).validation(16 if budget == "full" else 4)[0]
with torch.inference_mode():
    hidden = generator.model.hidden_states(**batch.inputs(next(generator.model.parameters()).device)).audio
    labels = batch.audio_labels[list(batch.speaking)].movedim(1, -1)  # (B, T, Q)
    here = (labels >= 0).any(dim=-1)  # (B, T): where a code of any codebook is learnt
    logits = generator.model.audio_head(hidden[here.to(hidden.device)]).movedim(-2, 0).float().cpu()  # (Q, N, A)
learnt = (labels[here] >= 0).T  # (Q, N): the codebooks begin and end one after the other
print(f"{int(learnt[0].sum())} places a codebook, {logits.shape[2]} entries; the mean number in play:")
print(f"{'codebook':15}" + "".join(f"{k:8}" for k in range(len(logits))))
for temperature in (0.2, 0.6, 1.0):
    counts = (in_play(logits, temperature) * learnt).sum(dim=1) / learnt.sum(dim=1)
    print(f"temperature {temperature:3}" + "".join(f"{count:8.1f}" for count in counts))
print(f"(in decoding only the likeliest {generator.decoding.top_k} may be drawn)")

# %% [markdown]
# So many: a few codes at each place in the first codebooks, far more in the last ones, and the warmer the more. Each place is a choice, so a sentence has a great many readings.
#
# Only the codes are warmed here. The text stays at temperature 0, so what is written is the same each time, and what you
# hear may not be. **Predict:** at temperature 1 for all codebooks, what suffers first, the words or the voice?

# %%
predict("13.warm", "'words' or 'voice'?", None)

# %%
for temperature in (0.0, 0.2, 0.6, 1.0):
    answer = assistant.ask("What comes after Monday?", decoding=replace(generator.decoding, temperature=temperature))
    display(listen(answer.samples, answer.sample_rate, f"temperature {temperature}, written: {answer.text}"))

# %% [markdown]
# One sentence is an anecdote; so twenty, at each temperature. The judge writes down what it hears: that is the words. For the voice we need a measure.
#
# ## Exercise: whose voice is it?
#
# *Exercise 13.likeness · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("13.likeness")`*
#
# A speaker encoder (`mmo/speaker.py`) is not shipped with the tiny world. A plain stand-in: the *long-term spectrum* of a sound, each of 64 mel bands in decibels, its mean over the louder half of the frames, less the mean over all bands; the mean over some recordings of a voice is its *portrait*. What all
# speech has in common tells nobody apart, so take the mean of the portraits off, from the portraits and from the sound, and give the cosine to each voice. (It knows timbre, not melody, and a loudspeaker would fool it.)
#
# The table behind it wants the judge: on `mini` fetch it first, `mmo fetch judge`.

# %%
@exercise("13.likeness")
def likeness(spectrum: Tensor, portraits: Tensor) -> Tensor:
    """The likeness to each of V voices, (V,), each -1 .. 1.

    spectrum (M,): of the sound.  portraits (V, M).
    """
    ### BEGIN SOLUTION
    middle = portraits.mean(dim=0)
    return torch.nn.functional.cosine_similarity((spectrum - middle)[None], portraits - middle, dim=1)
    ### END SOLUTION


# %%
check("13.likeness")

# %%
ward = Ward(settings)  # keeps the portraits
several = len(ward.portraits) > 1
portraits = torch.from_numpy(np.stack(list(ward.portraits.values()))).double() if several else None


def like(samples, voice: str) -> float:
    """Likeness of a sound to one voice; 0 where nothing was said."""
    if not len(samples):
        return 0.0
    return float(likeness(torch.from_numpy(long_term_spectrum(samples, 24_000)).double(), portraits)[list(ward.portraits).index(voice)])


items = from_each_voice(of_tier(exam.said, "sentence"), 20 if budget == "full" else 3)
prompts, table, lines = exam.text_prompts(items), {}, []
with tqdm(total=4 * len(prompts), desc="four temperatures", unit="answer") as bar:
    spoken = {
        temperature: generator.generate_batch(prompts, replace(generator.decoding, temperature=temperature), progress=bar.update)
        for temperature in (0.0, 0.2, 0.6, 1.0)
    }
for temperature, answers in spoken.items():
    texts = exam.judge.transcribe([(answer.samples, answer.sample_rate) for answer in answers], workers=1)
    wer = measures.word_errors([answer.text for answer in answers], texts, exam.split).wer
    likes = [like(answer.samples, item.voice) for answer, item in zip(answers, items) if item.voice in ward.portraits] if several else []
    table[temperature] = {"words": max(0.0, 1 - (wer or 0.0))} | ({"voice": float(np.mean([each > 0 for each in likes]))} if likes else {})
    voice = f"{table[temperature]['voice']:11.0%}   {np.mean(likes):14.2f}" if likes else "not known: rows name no voice"
    lines.append(f"{temperature:11}   {table[temperature]['words']:11.0%}   {voice}")
print("temperature   words right   right voice   likeness to it", *lines, sep="\n")
lost = {name: 1 - table[1.0][name] / share if share else 0.0 for name, share in table[0.0].items()}  # of what was right when cold
print("lost from 0 to 1: " + ", ".join(f"{name} {share:.0%}" for name, share in lost.items()))
reveal("13.warm", "neither" if max(lost.values()) <= 0 else max(lost, key=lost.get))

# %% [markdown]
# Do ear and table agree? A reason to expect the words to go first: all codes that are likely at all sound like the voice, and which of them comes next is what makes a word. Now the same answer with three seeds, that is, three series of draws. Under them are the
# codes of the last one, $(Q, F)$, a row for each codebook and a column for each frame:

# %%
for seed in range(3):
    answer = assistant.ask("What comes after Monday?", seed=seed, decoding=replace(generator.decoding, temperature=0.6))
    display(listen(answer.samples, answer.sample_rate, f"seed {seed}, written: {answer.text}"))
if answer.codes.shape[1]:
    display(show_codes(answer.codes, config.num_codes))
else:
    print("No codes to draw: this Talker, hardly trained, stopped before its first frame.")

# %% [markdown]
# ## A voice by example
#
# Instead of a vector alone, the prompt may carry *reference codes*: some frames of the wanted voice, right before the answer, as if the Talker had just said them. Usually vector and reference are of the same voice. Here the vector of one voice meets the
# sound of the other. **Predict:** which does it follow? Then compare what you hear with the two voices at the top of this notebook.

# %%
predict(
    "13.reference", "Vector of one voice, reference of the other: in how many percent of the answers is the voice the vector's?",
    None,
)

# %%
train_rows = open_rows(settings.data_dir / settings.stages["t2a"][0].data[0], config, settings.cache_dir())


def references(voice: str, count: int) -> list[Tensor]:
    """The codes of some training answers in a voice."""
    own = (row for n in range(len(train_rows)) for row in [train_rows[n]] if np.allclose(row.speaker, assistant.voices[voice], atol=1e-4))
    return [frames(row.answers[-1], config.num_codebooks, config.num_codes) for row in islice(own, count)]


few = items[: 10 if budget == "full" else 2]
crossed, lines, players = [], [], []
if several:
    for first, second in list(permutations(ward.portraits, 2))[:2]:
        for other in (None, first, second):
            examples = references(other, len(few)) if other else [None] * len(few)
            asked = [replace(prompt, speaker=assistant.voices[first], ref_codes=codes) for prompt, codes in zip(exam.text_prompts(few), examples)]
            answers = generator.generate_batch(asked)
            likes = [like(answer.samples, first) for answer in answers]
            crossed += [each > 0 for each in likes] if other == second else []
            lines.append(f"{first:6}   {other or 'none':9}   {sum(each > 0 for each in likes):3} of {len(likes):2} answers        {np.mean(likes):14.2f}")
            heading = f"vector of {first}, reference of {other or 'nobody'}, written: {answers[0].text}"
            players.append(listen(answers[0].samples, answers[0].sample_rate, heading))
    print("vector   reference   voice of the vector in   likeness to it", *lines, sep="\n")
    for player in players:
        display(player)

# %%
dropped = settings.stages["t2a"][0].draws.drop_reference
print(f"in training {dropped:.0%} of the rows with sound had no reference; the vector stood in all of them")
voice_of_the_vector = f"percent: {sum(crossed)} of {len(crossed)} answers"
reveal("13.reference", round(100 * float(np.mean(crossed))), voice_of_the_vector) if crossed else print("There is one voice only: nothing to cross.")

# %% [markdown]
# Compare the three rows of a voice: with the other one's reference, how far does the likeness move? Where it hardly does, the vector has won, and the reference is as good as not there. Perhaps for the reason that the line above gives: the vector was always there, so the Talker had little reason to learn from the reference.

# %% [markdown]
# ## To play with
#
# A question, a voice, a temperature, a button. This needs a live kernel: where the notebook is only read, nothing answers.

# %%
import ipywidgets as widgets

question = widgets.Text("What is two plus three?", description="question", layout=widgets.Layout(width="70%"))
voice = widgets.Dropdown(options=list(assistant.voices), description="voice")
warmth = widgets.FloatSlider(0.2, min=0.0, max=1.2, step=0.1, description="temperature")
button, page = widgets.Button(description="ask"), widgets.Output()


@page.capture(clear_output=True, wait=True)
def answer_it(_=None):
    answer = assistant.ask(question.value, voice=voice.value, decoding=replace(generator.decoding, temperature=warmth.value))
    display(listen(answer.samples, answer.sample_rate, f"written: {answer.text}"))


button.on_click(answer_it)
display(question, voice, warmth, button, page)

# %% [markdown]
# ## Three questions
#
# Every choice says why it is right or wrong.

# %%
quiz("13")

# %% [markdown]
# ## Summary
#
# You built it, you trained it, it answers.
#
# - The first sound comes after nine steps, one for the first word and one for each codebook (for a typed question; a spoken one is written down first), and speech is made faster than it is played.
# - One vector at one position chooses the voice.
# - Temperature gives a sentence many readings, and what it costs can be counted: words by a judge, the voice by its portrait.
#
# You listened to a few answers; a judge, a speech recogniser, listens to hundreds. `make weekend` writes what it hears to `runs/tiny/report.json`, beside what it hears in the recordings themselves and behind the codec alone.
# It can hardly hear any Talker better than that.
#
# **Often mistaken.** *"Streaming means low latency."* It means that sound comes before the end; how soon is another question. *"The voice is in the weights."* Both voices are; the vector chooses. *"It wrote it, so it said it."* Text and speech are made side by side and may
# differ: listen.
#
# **To try.** Mix two vectors half and half (`replace(assistant.prompt("Count from three until eight."), speaker=…)`, as in "A voice by example"): whose voice is that? Ask something that is not of its world: where does it go wrong, in the text or in the speech? Warm only the late codebooks
# (`temperature=(0.0, 0.0, 0.0, 1.0)`, the last number stands for the rest): what changes now?
#
# **Where to read on.** `mmo/generation.py`, `mmo/streaming.py`, `mmo/assistant.py`; A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024,
# [arXiv:2410.00037](https://arxiv.org/abs/2410.00037).
