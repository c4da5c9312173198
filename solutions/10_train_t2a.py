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
# *Takes 75 minutes (tiny) · builds on 05, 07 · 2 exercises, 5 points*
#
# **At the end** you have a model of five million weights that writes an answer and reads it aloud, in two voices, in sentences it
# never heard. It started this notebook mute: its Thinker knows the world's text, its Talker is random.
#
# **You need** the row of notebook 07; from the Talker only this: at each position it gets the Thinker's hidden state and the codes so far,
# and gives one distribution for each of the eight codebooks.
#
# **The claim.** A Talker that sees only the Thinker's hidden states, never the words, learns to speak them, if it is not allowed to copy its own past.
#
# Nothing here is a second implementation: the loop is `mmo.training.train`, the rows are `mmo.data`, the model is `mmo.omni.OmniModel`.

# %% tags=["parameters"]
profile = "tiny"  # tiny, tiny-moe, mini, …
budget = "full"  # full, or smoke: a few dozen updates to see that everything runs

# %%
# %matplotlib inline
import time

import numpy as np
import torch
from torch import Tensor

from mmo.assistant import Assistant
from mmo.chat import ChatTokenizer
from mmo.checkpoint import snapshots_of
from mmo.codec import Codec
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.pictures import compare_curves
from mmo.data import Batches, Layout
from mmo.display import LossCurves, listen, show_codes, show_delay
from mmo.omni import OmniModel
from mmo.optimiser import rate_factor
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import open_rows
from mmo.sequence import Markers, build_row, find_assistant_ranges, frames
from mmo.training import Encoders, Stepper, open_corpora, planned_passes, read_log, train

settings = find_profile(profile)
run = run_dir(settings, budget)
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)

# %% [markdown]
# ## One row of data
#
# A row is a conversation and, for its last answer, the sound of that answer as codes: eight codebooks, 12.5 frames a second.

# %%
rows = open_rows(settings.data_dir / settings.stages["t2a"][0].data[0], config, settings.cache_dir())
row = rows[0]
question, answer = row.conversation[-2]["content"], row.conversation[-1]["content"]
codes = frames(row.answers[-1], config.num_codebooks, config.num_codes)
print(f"{len(rows)} rows.  asked: {question}   answered: {answer}")
print(f"{codes.shape[1]} frames of {codes.shape[0]} codes = {codes.shape[1] / codec.frame_rate:.2f} seconds, {codes.numel()} numbers")
display(show_codes(codes, config.num_codes))
display(listen(codec.decode(codes[None])[0, 0], codec.sample_rate, answer))

# %%
ids = tokenizer.conversation(row.conversation)
markers = Markers.from_tokenizer(tokenizer)
streams = build_row(ids, codes, config, markers, has_speaker=len(row.speaker) > 0)
start, _ = find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
words = [tokenizer.tokenizer.id_to_token(int(t)).replace("Ġ", " ").replace("Ċ", "\\n") for t in streams.input_ids[-1]]
print(f"{streams.input_ids.shape[1]} positions; {int((streams.text_labels >= 0).sum())} with a text label, {int((streams.audio_labels[0] >= 0).sum())} with a label in codebook 0")
display(show_delay(streams.input_ids[:, :44], config, start, words[:44]))

# %% [markdown]
# Text is a handful of positions, sound dozens. Nearly all of the training is the Talker's.
#
# ## Why not just continue?
#
# Speech changes slowly: the last codes tell much of the next ones, and they are right there in the input. A Talker that only continues its own
# past gets a fair loss in training and babbles when it is alone. So the past is made untrustworthy (`mmo.data.disturb`, `StageConfig.code_dropout`):
#
# - **dropout** on the projected code embedding, as the prenet of Tacotron has it;
# - **stretches about a word long are hidden** from the history, half of them as pads, half as random codes;
# - **some positions hold random codes**: the original's scheduled sampling, 5 % of the answer.
#
# What is left to trust is the bridge. The original's recipe is one pass over all weights: rate 5e-4, batch 40, every row padded to 512 positions, no warm-up,
# cosine to a tenth. Ours differs where our profile says so (`mmo/profiles.py`): length buckets, warm-up, Muon on hidden matrices, an average of the weights.

# %%
stage = planned_passes(settings, "t2a", budget, None)[0]
for name in ("learning_rate", "optimiser", "muon_rate", "steps", "warmup_steps", "schedule", "token_budget", "code_dropout", "codebook_weights", "stop_weight", "ema_decay"):
    print(f"{name:18} {getattr(stage, name)}")
print(f"{'draws':18} {stage.draws}")

# %% [markdown]
# ## Exercise: the learning rate's way
#
# *Exercise 10.rate · difficulty ●○○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("10.rate")`*
#
# The first gradients of a random Talker are wild, the last steps want to settle. So the rate rises over `warmup` steps and then falls in
# a straight line, to `final` of its peak in the very last step. Give the factor for one step, counted from 0.

# %%
@exercise("10.rate")
def rate(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the peak rate in step 0 … steps - 1."""
    ### BEGIN SOLUTION
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup)
    return 1 - (1 - final) * done
    ### END SOLUTION


# %%
check("10.rate")

# %%
short = stage.replace(steps=200, warmup_steps=20, final_rate=0.1, schedule="linear")
package = [rate_factor(step, 200, short) for step in range(200)]
yours = [rate(step, 200, 20, 0.1) for step in range(200)]
assert np.allclose(package, yours)
display(compare_curves(package, yours, "step", "share of the peak rate", "The rate over 200 steps: the package's and yours."))

# %% [markdown]
# ## Exercise: the average of the weights
#
# *Exercise 10.average · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("10.average")`*
#
# The weights of the last step carry the noise of the last batches. What is evaluated and shipped is their running average. A young average must forget fast, or the
# random start would linger: after $n$ updates it keeps $\min(\text{decay}, \frac{1+n}{10+n})$ of itself.

# %%
@exercise("10.average")
def average(old: Tensor, new: Tensor, decay: float, updates: int) -> Tensor:
    """The average after one more update; updates counts from 1, nothing is changed in place."""
    ### BEGIN SOLUTION
    keep = min(decay, (1 + updates) / (10 + updates))
    return keep * old + (1 - keep) * new
    ### END SOLUTION


# %%
check("10.average")

# %% [markdown]
# ## What it costs, before it is paid
#
# One update multiplies every weight about six times per position: two operations forward, four backward. A few updates on the clock
# tell the rest. They are thrown away; the training below starts fresh.

# %%
weights = sum(p.numel() for p in OmniModel(config).parameters())
corpora, shares = open_corpora(settings, stage, Encoders())
trial = Stepper(OmniModel(config).to(settings.device()).train(), stage, stage.steps or 1, settings.device(), settings.dtype())
batches = Batches(corpora, shares, Layout(config, tokenizer, stage.max_length), stage.token_budget, chunk_rows=stage.chunk_rows).start()
some = [next(batches) for _ in range(7)]
for number, batch in enumerate(some):
    if number == 2:  # the first two warm up
        started = time.perf_counter()
    trial.step(batch, number)
seconds_a_step = (time.perf_counter() - started) / 5
useful = sum(batch.useful for batch in some) / sum(batch.size for batch in some)
print(f"{weights / 1e6:.2f} M weights; a batch: {some[-1].input_ids.shape[0]} rows, {some[-1].size} positions, {useful:.0%} of them useful")
if stage.steps:
    print(f"{stage.steps} updates of at most {stage.token_budget} positions: at most {6 * weights * stage.token_budget * stage.steps / 1e15:.2f} PFLOP")
print(f"{seconds_a_step:.2f} s an update here")
del trial, some, batches
predict("10.minutes", "How many minutes will the training below take on this machine?", None)

# %% [markdown]
# ## Train
#
# Interrupt the cell whenever you like; running it again goes on from the last saved state. With `snapshots` the weights are kept at each
# validation, so that you can hear them on the way.
#
# **Predict** first: an untrained head gives every one of its entries the same chance. Where does the loss of codebook 0 begin?

# %%
predict("10.start", f"The cross-entropy of codebook 0 in the first step, with {config.audio_vocab_size} entries?", None)

# %%
with LossCurves(run / "log" / "t2a.jsonl", "T2A"):
    result = train(settings, "t2a", budget, run, snapshots=True)

# %%
log = read_log(result.log_file)
reveal("10.start", round(log[0]["codebooks"][0], 2), f"= nearly ln({config.audio_vocab_size}) = {np.log(config.audio_vocab_size):.2f} and what the stop adds, which weighs ten times as much (notebook 08)")

# %%
reveal("10.minutes", round(result.seconds / 60, 1), "minutes")

# %% [markdown]
# ## Read the curves
#
# On the right, each codebook by itself. They come down one after the other, and the later ones hardly at all. Codebooks 0 and 1 describe the sound, each from the
# start; from codebook 2 on each describes what those before it left, ever closer to noise. A later curve that stays high is no fault of the model.

# %%
held_out = [entry for entry in read_log(result.log_file, validation=True) if entry["validation"] == "t2a-validation"]
print("held out, by codebook:", "  ".join(f"{loss:.2f}" for loss in held_out[-1]["codebooks"]))
print(f"a code drawn blindly from {config.num_codes}: {np.log(config.num_codes):.2f}")

# %% [markdown]
# **Often mistaken.** *"A low loss is intelligible speech."* The loss is an average over codes, most of which nobody hears. Speech hangs on a few of them, the stop among
# them. So listen.
#
# ## The same sentence on the way
#
# One question, one seed, one voice; only the weights differ. **Predict:** what comes first, the voice or the words?

# %%
predict("10.first", "What is right first: 'voice' or 'words'?", None)

# %%
asked = "What is three plus four?"
for step, path in snapshots_of(run, "t2a"):
    assistant = Assistant.load(settings, run, path)
    spoken = assistant.ask(asked, voice=next(iter(assistant.voices), None))
    display(listen(spoken.samples, spoken.sample_rate, f"after {step} steps: {spoken.text}"))
reveal("10.first", "voice")

# %% [markdown]
# Timbre and melody are in every frame, and thousands of frames teach them. Words are rare, and each has to be found in the bridge.
#
# ## Sentences it never heard
#
# Tier `sentence`: the fact was known as text, the sentence was never spoken in training. Text and speech come from one pass.

# %%
assistant = Assistant.load(settings, run)
print(assistant.which)
test = open_rows(settings.data_dir / "t2a-test.parquet", config, settings.cache_dir())
names = {tuple(vector.tolist()): name for name, vector in assistant.voices.items()}
for number in range(0, len(test), max(1, len(test) // 4)):
    row = test[number]
    voice = names.get(tuple(torch.as_tensor(row.speaker).float().tolist()))
    spoken = assistant.ask(row.conversation[-2]["content"], voice=voice, seed=number)
    print(f"asked: {row.conversation[-2]['content']}   wanted: {row.conversation[-1]['content']}")
    display(listen(spoken.samples, spoken.sample_rate, f"{voice}: {spoken.text}"))

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("10")

# %% [markdown]
# ## Summary
#
# - One matrix of hidden states is all that passes from the Thinker to the Talker, and it is enough to speak from.
# - The past is made untrustworthy, so that the bridge is read. The rate warms up and falls; the average of the weights is kept.
# - Codebooks are learnt in their order; a loss is not speech.
#
# What is left open: the model can read and speak, but it cannot hear. That is [notebook 11](11_train_a2a.ipynb).
#
# **To try.** Set `code_dropout` to 0 and `hidden_history` to 0 in a copy of the stage and train again for a third of the steps. Where does the training loss go, where the held-out one, and
# where the speech?
#
# **Where to read on.** `mmo/training.py`, `mmo/data.py`, `mmo/optimiser.py`. Papers:
#
# - Y. Wang, RJ Skerry-Ryan, D. Stanton and others: *Tacotron: Towards End-to-End Speech Synthesis.* Interspeech 2017, [arXiv:1703.10135](https://arxiv.org/abs/1703.10135). The prenet.
# - S. Bengio, O. Vinyals, N. Jaitly, N. Shazeer: *Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks.* NeurIPS 2015, [arXiv:1506.03099](https://arxiv.org/abs/1506.03099).
# - J. Copet, F. Kreuk, I. Gat and others: *Simple and Controllable Music Generation.* NeurIPS 2023, [arXiv:2306.05284](https://arxiv.org/abs/2306.05284). The delay pattern.
# - K. Jordan and others: *Muon: An optimizer for hidden layers in neural networks.* 2024, [kellerjordan.github.io/posts/muon](https://kellerjordan.github.io/posts/muon/).
