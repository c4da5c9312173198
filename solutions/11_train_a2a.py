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
# # 11 · Train A2A: speech in, speech out
#
# **At the end** you ask aloud, in a voice the model never heard, and it answers aloud.
#
# **The claim.** Hearing needs no new model: features of a frozen speech encoder, put through two linear layers, can stand in the
# text where words would stand.
#
# Two passes: first the projector alone (everything else is frozen, so nothing can be forgotten), then all weights, with text
# questions mixed in so that reading and speaking stay.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
import json

import pyarrow.parquet
from safetensors.torch import load_file

from mmo.chat import ChatTokenizer, user_content
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.display import listen, show_losses
from mmo.features import read_sound
from mmo.generation import Generator, Prompt
from mmo.omni import load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.speech_encoder import SpeechEncoder
from mmo.training import read_log, train

settings = find_profile(profile)
run = run_dir(settings, budget)
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)

# %% [markdown]
# ## A question, as sound and as features
#
# The encoder turns 16 kHz sound into one vector every 60 ms. The projector turns each into a vector of the Thinker's width, and it
# takes the place of one `<|audio_pad|>` in the prompt. **Predict:** how many placeholders does a question of two seconds need?

# %%
table = pyarrow.parquet.read_table(settings.data_dir / "a2a-test.parquet")
rows = table.slice(0, 4).to_pylist()
sound = read_sound(rows[0]["question_audios"][0])
encoder = SpeechEncoder.load(settings.speech_encoder_dir)
features, lengths = encoder.encode([sound])
print(f"{len(sound) / 16000:.2f} seconds -> {int(lengths[0])} features of {features.shape[-1]} numbers")
display(listen(sound, 16_000, "the question, as the encoder gets it"))

# %% [markdown]
# ## Train
#
# The features are computed once and kept (`mmo.features`), in two differently disturbed copies: other speeds, rooms and noises.

# %%
result = train(settings, "a2a", budget, run)
display(show_losses(read_log(result.log_file), read_log(result.log_file, validation=True), "A2A"))

# %% [markdown]
# ## Ask aloud
#
# Voices and sentences that no part of the model, the encoder included, was trained on.

# %%
path, which = latest_weights(settings, run)
print(which)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)
generator = Generator(load_model(path), codec, tokenizer)
speaker = load_file(settings.data_dir / "voices.safetensors")["slt"]
for number, row in enumerate(rows):
    sound = read_sound(row["question_audios"][0])
    features, lengths = encoder.encode([sound])
    count = int(lengths[0])
    ids = tokenizer.prompt([{"role": "user", "content": user_content(sound_length=count)}])
    spoken = generator.answer(Prompt(ids, speaker, audio_features=features[0, :count], seed=number))
    display(listen(sound, 16_000, "asked: " + json.loads(row["conversations"])[0]["content"]))
    display(listen(spoken.samples, spoken.sample_rate, "answered: " + spoken.text))

# %% [markdown]
# **Summary.** The projector is a dictionary from sounds to the Thinker's own language. It can only be as good as the frozen
# encoder: what that does not keep, nothing behind it can bring back.
#
# **To try.** Give the model another question's features with this question's text written beside them. Which does it believe?
