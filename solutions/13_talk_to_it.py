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
# *Takes 30 minutes (tiny) · builds on 12*
#
# **At the end** you have asked it by text, by voice and by picture, with your own words, your own recording and your own picture if you like. You have heard it in both voices and at four
# temperatures, and seen when its first sound arrives.
#
# **You need** a finished model. If you trained one in notebooks 10 to 12, it is the one that answers; if not, the shipped one does. From the course: a *frame* is 80 ms of sound, eight codes
# (notebook 01), and these lie on a diagonal (notebook 07).
#
# **The claim.** It speaks while it still writes: the first sound comes after a fixed number of steps, however long the answer is, and each second of speech
# takes less than a second to make, on a plain CPU. So once it has begun to speak it need not pause.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet

from mmo.assistant import Assistant
from mmo.course import predict, quiz, reveal
from mmo.display import listen, show_codes
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
    display(listen(answer.samples, answer.sample_rate, f"{voice}: {answer.text}"))

# %% [markdown]
# ## Write your own
#
# Put your own questions into the list. Its world has small sums, comparisons, counting, colours, shapes, days, months and greetings; the words are in `data/tiny/words.txt`. For a word outside it `mmo say "What is love?"`, in a terminal, gives a notice.
# Under each player stands what it wrote. Close your eyes first, then compare: do you hear those words?

# %%
for question in ("Hello.", "Which is bigger, nine or twelve?", "What is the opposite of hot?", "Count from three until eight.",
                 "Say: a large red circle above a small blue square."):
    answer = assistant.ask(question)
    print("asked:", question)
    display(listen(answer.samples, answer.sample_rate, answer.text))

# %% [markdown]
# ## Ask aloud
#
# The question below is from the test set, in a voice that was in no training. For your own, record a few seconds to a file (any program does; WAV, FLAC, Ogg and MP3 are read), put its path into `own_recording`, and ask something of its world. A second try in other words
# is worth it: of all three ways to ask, this is the one in which it errs most.

# %%
own_recording = None  # "question.wav"

# %%
row = pyarrow.parquet.read_table(settings.data_dir / "a2a-test.parquet", columns=["question_audios"]).slice(0, 1).to_pylist()[0]
data = open(own_recording, "rb").read() if own_recording else row["question_audios"][0]
sound = read_sound(data)
display(listen(sound, 16_000, "the question"))
answer = assistant.ask(sound=sound)
display(listen(answer.samples, answer.sample_rate, answer.text))

# %% [markdown]
# ## Show it a picture
#
# Its world has nine shapes in nine colours (`mmo/world/text.py` lists them) on a calm ground, one thing or a few. Put the path of a picture of yours into `own_picture`. It has no way to say "I do not know": what does it make of a photograph?

# %%
own_picture = None  # "picture.png"

# %%
row = pyarrow.parquet.read_table(settings.data_dir / "i2t-test.parquet", columns=["image_bytes"]).slice(1, 1).to_pylist()[0]
picture = read_picture(open(own_picture, "rb").read() if own_picture else row["image_bytes"])
display(picture.resize((192, 192)))
answer = assistant.ask("What do you see?", picture=picture)
display(listen(answer.samples, answer.sample_rate, answer.text))

# %% [markdown]
# ## When does it begin to speak?
#
# In each step the Thinker writes one token of text and the Talker up to eight codes, which lie on a diagonal: codebook $k$ is $k$ steps late. A frame can be made into sound when all its eight codes are there. **Predict:** how many steps pass before the first sound?

# %%
predict("13.steps", "Steps before the first sound?", None)

# %%
generator, config = assistant.generator, assistant.generator.config
events, started = [], time.perf_counter()
for event in generator.stream([assistant.prompt("What is eleven plus eight?")]):
    events.append((1000 * (time.perf_counter() - started), event))
final = events[-1][1].answer
text_at = [at for at, event in events if isinstance(event, TextPiece)]
sound_at = [(at, len(event.samples) / 24) for at, event in events if isinstance(event, Sound)]
figure, axis = plt.subplots(figsize=(9, 2.2))
axis.scatter(text_at, [1] * len(text_at), marker="|", s=300, label="a piece of text")
axis.barh([0] * len(sound_at), [length for _, length in sound_at], left=np.cumsum([0] + [length for _, length in sound_at[:-1]]) + (sound_at[0][0] if sound_at else 0),
          height=0.35, alpha=0.35, label="when it is played")
axis.scatter([at for at, _ in sound_at], [0] * len(sound_at), marker="|", s=300, color="black", label="sound is ready")
axis.set_yticks([0, 1], ["sound", "text"])
axis.set_xlabel("milliseconds after the question")
axis.legend(loc="upper right", fontsize=8)
plt.show()
if final.first_audio_ms is not None:
    print(f"first sound after {final.first_audio_ms:.0f} ms; {final.real_time_factor:.2f} s of work per second of speech")
display(listen(final.samples, final.sample_rate, final.text))
reveal("13.steps", config.num_codebooks + 1, "steps: one for the answer's first word, and one for each codebook of the first frame")

# %% [markdown]
# Read the picture from left to right. Above, the text comes, a token a step. An answer as short as this one is written to its end before its first frame is whole; a long one is not. Below, each black mark is a piece of sound that is ready, and
# the broad bar is the time in which it is all played. The marks are done long before the bar is: it makes speech faster than it speaks. And the bar begins at the first mark: it did not wait for the rest.
#
# ## Warm and cold
#
# For each codebook the Talker gives logits $z$ of shape $(A,)$, one for each code; a code is drawn from the likeliest of them (`top_k` says how many). The *temperature* $\tau$ makes their probabilities sharper or flatter:
#
# $$p_i = \frac{\exp(z_i / \tau)}{\sum_j \exp(z_j / \tau)}$$
#
# Near 0 the likeliest code wins every time, and there is one reading of a sentence. At higher temperatures there are many. Only the codes are warmed here. The text stays at temperature 0, so what is written is the same each time, and what you
# hear may not be. **Predict:** at temperature 1 for all codebooks, what suffers first, the words or the voice?

# %%
predict("13.warm", "'words' or 'voice'?", None)

# %%
for temperature in (0.0, 0.2, 0.6, 1.0):
    answer = assistant.ask("What comes after Monday?", decoding=replace(generator.decoding, temperature=temperature))
    display(listen(answer.samples, answer.sample_rate, f"temperature {temperature}: {answer.text}"))
reveal("13.warm", "words")

# %% [markdown]
# Do you agree? One sentence is a small test; try others. The likely reason: all codes that are likely at all sound like the voice, and which of them comes next is what makes a word. Now the same answer with three seeds, that is, three series of draws. Under them are the
# codes of the last one, $(Q, F)$, a row for each codebook and a column for each frame:

# %%
for seed in range(3):
    answer = assistant.ask("What comes after Monday?", seed=seed, decoding=replace(generator.decoding, temperature=0.6))
    display(listen(answer.samples, answer.sample_rate, f"seed {seed}: {answer.text}", picture=False))
if answer.codes.shape[1]:
    display(show_codes(answer.codes, config.num_codes))
else:
    print("No codes to draw: this Talker, hardly trained, stopped before its first frame.")

# %% [markdown]
# ## A voice by example
#
# Instead of a vector alone, the prompt may carry *reference codes*: some frames of the wanted voice, right before the answer, as if the Talker had just said them. Usually vector and reference are of the same voice. Here the vector of one voice meets the
# sound of the other. **Predict:** which does it follow? Compare what you hear with the two voices at the top of this notebook.

# %%
train_rows = open_rows(settings.data_dir / settings.stages["t2a"][0].data[0], config, settings.cache_dir())
if len(assistant.voices) > 1:
    first, second = list(assistant.voices)[:2]
    example = next(train_rows[n] for n in range(len(train_rows)) if np.allclose(train_rows[n].speaker, assistant.voices[second], atol=1e-4))
    reference = frames(example.answers[-1], config.num_codebooks, config.num_codes)
    for name, codes in ((f"vector of {first}", None), (f"vector of {first}, reference of {second}", reference)):
        answer = generator.answer(replace(assistant.prompt("What colour is the sky?", voice=first), ref_codes=codes))
        display(listen(answer.samples, answer.sample_rate, f"{name}: {answer.text}"))

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
    display(listen(answer.samples, answer.sample_rate, answer.text))


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
# - The first sound comes after nine steps, one for the first word and one for each codebook, and speech is made faster than it is played.
# - One vector at one position is a voice.
# - Temperature gives a sentence many readings. It costs words before it costs the voice.
#
# You listened to a few answers; a judge, a speech recogniser, listens to hundreds. `make weekend` writes what it hears to `runs/tiny/report.json`, beside what it hears in the recordings themselves and behind the codec alone. Better than that
# it can hardly hear any Talker.
#
# **Often mistaken.** *"Streaming means low latency."* It means that sound comes before the end; how soon is another question. *"The voice is in the weights."* Both voices are; the vector chooses. *"It wrote it, so it said it."* Text and speech are made side by side and may
# differ: listen.
#
# **To try.** Mix two vectors half and half (`replace(assistant.prompt("Hello."), speaker=…)`, as in "A voice by example"): whose voice is that? Ask something that is not of its world: where does it go wrong, in the text or in the speech? Warm only the late codebooks
# (`temperature=(0.0, 0.0, 0.0, 1.0)`, the last number stands for the rest): what changes now?
#
# **Where to read on.** `mmo/generation.py`, `mmo/streaming.py`, `mmo/assistant.py`; A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024,
# [arXiv:2410.00037](https://arxiv.org/abs/2410.00037).
