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
# # 10 · Train T2A: text in, speech out
#
# **At the end** you have a model of five million weights that writes an answer and reads it aloud, in two voices, in sentences it
# never heard. It started this notebook mute: its Thinker knows the world's text, its Talker is random.
#
# **The claim.** A Talker that sees only the Thinker's hidden states, never the words, learns to speak them, if it is not allowed to copy its own past.
#
# The parts are those of notebooks 05 to 09; here they only train. Nothing in this notebook is a second implementation: the loop is
# `mmo.training.train`, the rows are `mmo.data`, the model is `mmo.omni.OmniModel`.

# %% tags=["parameters"]
profile = "tiny"  # tiny, tiny-moe, mini, …
budget = "full"  # full, or smoke: a few dozen updates to see that everything runs

# %%
# %matplotlib inline
import numpy as np
import torch

from mmo.chat import ChatTokenizer
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.display import listen, show_codes, show_losses, show_delay
from mmo.generation import Generator, Prompt
from mmo.omni import OmniModel, load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import open_rows
from mmo.sequence import Markers, build_row, find_assistant_ranges, frames
from mmo.training import read_log, train

settings = find_profile(profile)
run = run_dir(settings, budget)
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)

# %% [markdown]
# ## One row of data
#
# A row is a conversation and, for its last answer, the sound of that answer as codes: eight codebooks, 12.5 frames a second.
# Here is the first row of the training file, drawn and audible.

# %%
rows = open_rows(settings.data_dir / settings.stages["t2a"][0].data[0], config, settings.cache_dir())
row = rows[0]
question, answer = row.conversation[-2]["content"], row.conversation[-1]["content"]
codes = frames(row.answers[-1], config.num_codebooks, config.num_codes)
print(f"{len(rows)} rows.  asked: {question}   answered: {answer}")
print(f"{codes.shape[1]} frames of {codes.shape[0]} codes = {codes.shape[1] / 12.5:.2f} seconds, {codes.numel()} numbers")
display(show_codes(codes, config.num_codes))
display(listen(codec.decode(codes[None])[0, 0], 24_000, answer))

# %% [markdown]
# ## What the model sees
#
# `sequence.build_row` puts text and codes on one clock: nine streams, each codebook one position later than the one above it.
# The text is over after a handful of positions; the sound goes on for dozens. **Predict before you look:** at how many
# positions of this row is there a text label, and at how many an audio label?

# %%
ids = tokenizer.conversation(row.conversation)
markers = Markers.from_tokenizer(tokenizer)
streams = build_row(ids, codes, config, markers, has_speaker=len(row.speaker) > 0)
start, _ = find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
words = [tokenizer.tokenizer.id_to_token(int(t)).replace("Ġ", " ").replace("Ċ", "\\n") for t in streams.input_ids[-1]]
print("positions:", streams.input_ids.shape[1])
print("with a text label:", int((streams.text_labels >= 0).sum()), "  with a label in codebook 0:", int((streams.audio_labels[0] >= 0).sum()))
display(show_delay(streams.input_ids[:, :44], config, start, words[:44]))

# %% [markdown]
# ## What it costs
#
# One update of one row multiplies every weight about six times per position (two forward, four backward). So the price of the
# stage can be told before it is paid.

# %%
stage = settings.stages["t2a"][0]
weights = sum(p.numel() for p in OmniModel(config).parameters())
positions = stage.token_budget * (stage.steps or 0)
print(f"{weights / 1e6:.2f} M weights, {stage.steps} updates of at most {stage.token_budget} positions")
print(f"at most {6 * weights * positions / 1e15:.2f} PFLOP (heads only where there are labels, so less)")

# %% [markdown]
# ## Train
#
# The start is the text-pretrained Thinker and an untrained Talker. Four things keep the Talker from merely continuing its
# own codes, which is far easier than reading the bridge, and useless: dropout on the projected code embedding, word-long
# spans of history hidden, a share of random codes, and many sentences of which none dominates.
#
# Interrupt the cell whenever you like; running it again goes on from the last saved state.

# %%
result = train(settings, "t2a", budget, run)

# %% [markdown]
# ## The curves
#
# An untrained head gives every one of its entries the same chance. **Predict:** where does the loss of codebook 0 begin?

# %%
print(f"ln({config.audio_vocab_size}) = {np.log(config.audio_vocab_size):.2f}")
display(show_losses(read_log(result.log_file), read_log(result.log_file, validation=True), "T2A"))

# %% [markdown]
# Each later codebook describes the residue that the earlier ones left, ever closer to noise. Does the order of your curves
# show it? Codebook 0 carries what is said; a later one that stays high is no fault of the model.
#
# A low loss is not speech, though. So listen.

# %% [markdown]
# ## Listen
#
# Sentences of the tier `sentence`: the fact was known as text, the sentence was never heard. Text and speech come from one
# pass; the words below each player are the model's own text.

# %%
path, which = latest_weights(settings, run)
print(which)
generator = Generator(load_model(path), codec, tokenizer)
test = open_rows(settings.data_dir / "t2a-test.parquet", config, settings.cache_dir())
chosen = [test[i] for i in range(0, len(test), max(1, len(test) // 4))][:4]
prompts = [
    Prompt(tokenizer.prompt([{"role": "user", "content": r.conversation[-2]["content"]}]), torch.as_tensor(r.speaker), seed=n)
    for n, r in enumerate(chosen)
]
for r, spoken in zip(chosen, generator.generate_batch(prompts)):
    print("asked:   ", r.conversation[-2]["content"])
    print("wanted:  ", r.conversation[-1]["content"])
    display(listen(spoken.samples, spoken.sample_rate, spoken.text))

# %% [markdown]
# **Summary.** One matrix of hidden states is all that passes from the Thinker to the Talker, and it is enough to speak from.
# What is left open: the model can read and speak, but it cannot hear. That is the next notebook.
#
# **To try.** Set `code_dropout` to 0 in a copy of the stage (`stage.replace(code_dropout=0.0)`) and train again. Where does the
# loss go, and where the speech?
