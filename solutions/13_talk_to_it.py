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
# **At the end** you have asked it by text, by voice and by picture, in both voices, and seen when its first sound arrives.
#
# **The claim.** It speaks while it writes: the first sound is there long before the sentence is done, and each second of speech
# takes less than a second to make, on a plain CPU.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import numpy as np
from safetensors.torch import load_file

from mmo.chat import ChatTokenizer
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.display import listen, show_codes
from mmo.generation import Generator, Prompt, Sound, TextPiece
from mmo.omni import load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.sampling import Decoding

settings = find_profile(profile)
run = run_dir(settings, budget)
path, which = latest_weights(settings, run)
print(which)
model = load_model(path)
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
codec = Codec.load(settings.codec_file, num_codebooks=model.config.num_codebooks)
generator = Generator(model, codec, tokenizer)
voices = load_file(settings.data_dir / "voices.safetensors")


def ask(text: str, voice: str | None = None, seed: int = 0, decoding: Decoding | None = None):
    """One text question, answered in a voice."""
    ids = tokenizer.prompt([{"role": "user", "content": text}])
    return generator.answer(Prompt(ids, voices[voice or next(iter(voices))], seed=seed), decoding)


# %% [markdown]
# ## The same answer in each voice
#
# The weights are the same; one vector at one position differs.

# %%
for voice in voices:
    answer = ask("What is three plus four?", voice)
    display(listen(answer.samples, answer.sample_rate, f"{voice}: {answer.text}"))

# %% [markdown]
# ## Write your own
#
# Words outside the world get a notice (try `mmo say "What is love?"` in a terminal). Inside it, ask away.

# %%
for question in ("Hello.", "Which is bigger, nine or twelve?", "What is the opposite of hot?", "Count from three until eight.",
                 "Say: a large red circle above a small blue square."):
    answer = ask(question)
    print("asked:", question)
    display(listen(answer.samples, answer.sample_rate, answer.text))

# %% [markdown]
# ## When does it begin to speak?
#
# **Predict:** a frame lasts 80 ms and needs its eight codes, which lie on a diagonal. How many steps pass before the first sound?

# %%
events, started = [], time.perf_counter()
ids = tokenizer.prompt([{"role": "user", "content": "What is eleven plus eight?"}])
for event in generator.stream([Prompt(ids, next(iter(voices.values())))]):
    events.append((1000 * (time.perf_counter() - started), event))
final = events[-1][1].answer
text_at = [at for at, event in events if isinstance(event, TextPiece)]
sound_at = [(at, len(event.samples) / 24) for at, event in events if isinstance(event, Sound)]
figure, axis = plt.subplots(figsize=(9, 2.2))
axis.scatter(text_at, [1] * len(text_at), marker="|", s=300, label="a piece of text")
ready = sum((length for _, length in sound_at), 0.0)
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

# %% [markdown]
# ## Warm and cold
#
# Codebook 0 decides what is said; a little warmth there varies the reading. Greedy decoding gives one reading, always the same.

# %%
for name, decoding in (("as tuned", generator.decoding), ("greedy", generator.decoding.greedy())):
    answer = ask("What comes after Monday?", decoding=decoding)
    display(listen(answer.samples, answer.sample_rate, f"{name}: {answer.text}"))
if answer.codes.shape[1]:
    display(show_codes(answer.codes, model.config.num_codes))
else:
    print("No codes to draw: this Talker, hardly trained, stopped before its first frame.")

# %% [markdown]
# **Summary.** You built it, you trained it, it answers. `runs/…/report.json` has the figures: what an independent judge hears,
# beside the ceiling that the codec sets and the floor that the judge itself has.
