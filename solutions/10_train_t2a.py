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
# *Takes 100 minutes (tiny) · runs in 712 s on 2 cores (tiny) · builds on 05, 07, 08 · 5 exercises, 13 points*
#
# **At the end** you have a model of five million weights that writes an answer and reads it aloud, in two voices, in sentences it
# never heard. It begins this notebook mute: its Thinker knows the world's text, its Talker is random.
#
# **You need** the row of notebook 07; from the Talker ([notebook 08](08_talker_and_mtp.ipynb)) only this: at each position it gets the Thinker's hidden state and the codes so far,
# and gives one distribution for each of the eight codebooks. The hidden states are called the *bridge*: they are all that it is told of the words. And each codebook ends with a *stop*, one label among dozens.
#
# **The claim.** A Talker that sees only the Thinker's hidden states, never the words, learns to speak them, if it is not allowed to copy its own past.
#
# Nothing here is a second implementation: the loop is `mmo.training.train`, the rows are `mmo.data`, the model is `mmo.omni.OmniModel`.

# %% tags=["parameters"]
profile = "tiny"  # tiny, tiny-moe, mini, …
budget = "full"  # full, or smoke: a few dozen updates to see that everything runs

# %%
# %matplotlib inline
import math
import time

import numpy as np
import torch
from torch import Tensor

from mmo import measures
from mmo.assistant import Assistant
from mmo.chat import ChatTokenizer
from mmo.checkpoint import snapshots_of
from mmo.codec import Codec
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.clinic import Ward
from mmo.course.pictures import compare_curves, compare_grids
from mmo.data import Batches, Layout
from mmo.display import LossCurves, listen, show_codes, show_delay
from mmo.examination import SIZES, TIERS, Candidate, Exam, of_tier, spread_voices
from mmo.generation import Answer
from mmo.omni import OmniModel
from mmo.optimiser import is_hidden_matrix, rate_factor
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import open_rows
from mmo.sequence import Markers, build_row, find_assistant_ranges, frames
from mmo.thinker import load_thinker
from mmo.training import Encoders, Stepper, open_corpora, peak_memory, planned_passes, read_log, train

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
print(f"{len(rows)} rows; the first one:\nasked:    {question}\nanswered: {answer}")
print(f"{codes.shape[1]} frames of {codes.shape[0]} codes = {codes.shape[1] / codec.frame_rate:.2f} seconds, {codes.numel()} numbers")
display(show_codes(codes, config.num_codes))
display(listen(codec.decode(codes[None])[0, 0], codec.sample_rate, answer))

# %%
ids = tokenizer.conversation(row.conversation)
markers = Markers.from_tokenizer(tokenizer)
streams = build_row(ids, codes, config, markers, has_speaker=len(row.speaker) > 0)
start, _ = find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
words = [tokenizer.tokenizer.id_to_token(int(t)).replace("Ġ", " ").replace("Ċ", "\\n") for t in streams.input_ids[-1]]
with_text, with_sound = (int((labels >= 0).sum()) for labels in (streams.text_labels, streams.audio_labels[0]))
print(f"{streams.input_ids.shape[1]} positions; {with_text} with a text label, {with_sound} with a label in codebook 0")
left = max(0, start - 4)  # the question's end, then the answer
display(show_delay(streams.input_ids[:, left : left + 28], config, start - left, words[left : left + 28]))

# %% [markdown]
# A number is a frame: the code of that frame stands there. The purple column is the voice: at this position the Talker gets the vector of the voice in which to speak, in the place of codes.
#
# Text is a handful of positions, sound dozens. Nearly all of the training is the Talker's.
#
# ## Why not just continue?
#
# Speech changes slowly: the last codes tell much of the next ones, and they are right there in the input. A Talker that only continues its own
# past gets a fair loss in training and babbles when it is alone. So the past is made untrustworthy (`mmo.data.disturb`, `StageConfig.code_dropout`):
#
# - **dropout** on the projected code embedding, as the prenet of Tacotron has it;
# - **stretches about a word long are hidden** from the history, half of them as pads, half as random codes;
# - **some positions hold random codes**, 5 % of the answer. It is a plain form of *scheduled sampling*: there the model's own guesses are put in, more and more of them; here dice are, and always as many.
#
# ## Exercise: a past that lies
#
# *Exercise 10.lie · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("10.lie")`*
#
# The third of them, by hand. `lies` (Q, T) holds a random code for every place, `drawn` (T,) a number between 0 and 1 for every position. A position of the answer lies where its number is below `share`,
# and then it lies in all its codebooks.

# %%
@exercise("10.lie")
def lie(codes: Tensor, lies: Tensor, spoken: Tensor, drawn: Tensor, share: float) -> Tensor:
    """What the Talker is fed, (Q, T).

    codes, lies (Q, T) int64: the true past, and a random code for every place.
    spoken (T,) bool: the positions of the answer.  drawn (T,) float32: a number from 0 to 1.
    """
    ### BEGIN SOLUTION
    return torch.where(spoken & (drawn < share), lies, codes)
    ### END SOLUTION


# %%
check("10.lie")

# %%
dice = torch.Generator().manual_seed(0)
fed = streams.input_ids.clone()
spoken_here = (streams.audio_labels >= 0).any(dim=0)
lies = torch.randint(config.num_codes, fed[:-1].shape, generator=dice)
fed[:-1] = lie(fed[:-1], lies, spoken_here, torch.rand(fed.shape[1], generator=dice), 0.15)
lied = (fed != streams.input_ids).any(dim=0)
print(f"a share of 0.15, so that there is something to see: {int(lied.sum())} of {int(spoken_here.sum())} positions lie")
at = max(0, int(lied.nonzero()[0]) - 2) if lied.any() else start
display(compare_grids(streams.input_ids[:-1, at : at + 9], fed[:-1, at : at + 9], {config.audio_pad_token: ""}, titles=("the true past", "what is fed")))

# %% [markdown]
# A row is a codebook, a column a position; the same code has the same colour, which means nothing else. A red edge marks a lie: it goes through all codebooks. The labels stay what they were, so the Talker has to give the true next code after a false one. That is what it will need when one of its own codes is wrong.
#
# ## The recipe
#
# What is left to trust is the bridge, the Thinker's hidden states. The original's recipe is a single training pass in which all weights learn: rate 5e-4, batch 40, every row padded to 512 positions, no warm-up,
# cosine to a tenth. One pass is enough where the Thinker is finished and every row has its sound: all that is new is the Talker, and the text in each row keeps the Thinker in practice. The rate is high because nothing in the Talker can speak yet, and it falls so that the last steps settle.
# Rows padded to one length are simple, but the padding of short ones is computed for nothing. Ours differs where our profile says so (`mmo/profiles.py`): length buckets (rows of like length share a batch, so that little of it is padding), warm-up, Muon on hidden matrices (explained below), an average of the weights.
# Two settings weigh the loss ([notebook 08](08_talker_and_mtp.ipynb)): `codebook_weights` says how much the loss of each codebook counts, `stop_weight` how many times a stop does. What is drawn anew whenever a row is read begins with `draws`: `hidden_length` is the least and the greatest length of a hidden stretch in positions of 80 ms, `drop_reference` how often the reference voice of notebook 07 is left out.

# %%
stage = planned_passes(settings, "t2a", budget, None)[0]
names = "learning_rate optimiser muon_rate steps warmup_steps schedule token_budget code_dropout codebook_weights stop_weight ema_decay"
for name in names.split():
    print(f"{name:21} {getattr(stage, name)}")
for name in ("random_codes", "random_text", "hidden_history", "hidden_length", "drop_reference", "system_prompt"):
    if getattr(stage.draws, name):
        print(f"{f'draws.{name}':21} {getattr(stage.draws, name)}")

# %% [markdown]
# ## Exercise: the learning rate's way
#
# *Exercise 10.rate · difficulty ●○○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("10.rate")`*
#
# The first gradients of a random Talker are wild, the last steps want to settle. So the rate rises over `warmup` steps and then falls in
# a straight line, to `final` of its peak in the very last step. Step 0 has 1/`warmup` already, step `warmup` − 1 is the first with 1; the fall begins at 1 in step `warmup`. Give the factor for one step, counted from 0.

# %%
@exercise("10.rate")
def rate(step: int, steps: int, warmup: int, final: float) -> float:
    """The share of the peak rate in one step, 0 … steps - 1.

    warmup: how many steps the rate rises.  final: the share that is left in the last step.
    """
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
    """The average after one more update; nothing is changed in place.

    old: the average so far, new: the weights now.  updates counts from 1.
    """
    ### BEGIN SOLUTION
    keep = min(decay, (1 + updates) / (10 + updates))
    return keep * old + (1 - keep) * new
    ### END SOLUTION


# %%
check("10.average")

# %% [markdown]
# ## What it costs, before it is paid
#
# An update costs about six operations for every weight and position: two forward, four backward. A few updates on the clock
# tell the rest. They are thrown away; the training below starts fresh. What memory the weights need can be counted: each is there as itself, as its gradient, in its average and
# in what the optimiser remembers of it (AdamW two numbers, Muon one).

# %%
weights = sum(p.numel() for p in OmniModel(config).parameters())
corpora, shares = open_corpora(settings, stage, Encoders())
trial = Stepper(OmniModel(config).to(settings.device()).train(), stage, stage.steps or 1, settings.device(), settings.dtype())
batches = Batches(corpora, shares, Layout(config, tokenizer, stage.max_length), stage.token_budget, chunk_rows=stage.chunk_rows).start()
some = [next(batches) for _ in range(7)]
first_labels = some[0].audio_labels[:, 0]  # (B, T) of codebook 0: training will begin with this batch, too
for number, batch in enumerate(some):
    if number == 2:  # the first two warm up
        float(figures[0])  # a card works ahead: wait for it, here and at the end
        started = time.perf_counter()
    figures = trial.step(batch, number)
float(figures[0])
seconds_a_step = (time.perf_counter() - started) / 5
useful = sum(batch.useful for batch in some) / sum(batch.size for batch in some)
print(f"{weights / 1e6:.2f} M weights; a batch: {some[-1].input_ids.shape[0]} rows, {some[-1].size} positions, {useful:.0%} of them useful")
if stage.steps:
    print(f"{stage.steps} updates of at most {stage.token_budget} positions: at most {6 * weights * stage.token_budget * stage.steps / 1e15:.2f} PFLOP")
rows_a_second = np.mean([len(batch.names) for batch in some[2:]]) / seconds_a_step
positions_a_second = np.mean([batch.size for batch in some[2:]]) / seconds_a_step
print(f"{seconds_a_step:.2f} s an update here: {positions_a_second:.0f} positions and {rows_a_second:.1f} rows a second")
remembered = sum((1 if stage.optimiser == "muon" and is_hidden_matrix(name, p) else 2) * p.numel() for name, p in trial.model.named_parameters())
held = 4 * (3 * weights + remembered) / 1e6
print(f"weights, gradients, average and optimiser: {held:.0f} MB; this kernel has held {peak_memory(settings.device()) / 1e6:.0f} MB at most so far")
slots, looked_at = trial.optimisers.state(), "talker.layers.0.self_attn.o_proj.weight"  # one of the matrices, for later
mean = next(slots[key] for key in (f"{looked_at}|momentum_buffer", f"{looked_at}|exp_avg") if key in slots)  # the name of Muon's one, or of AdamW's first
del trial, some, batches, slots
predict(
    "10.minutes", f"{stage.steps or f'{stage.epochs:g} epochs of'} updates: how many minutes will the training below take on this machine?",
    None,
)

# %%
predict(
    "10.memory", "And how many MB will this kernel have held at its peak, with the activations of the largest batch?",
    None,
)

# %% [markdown]
# ## Exercise: no direction louder than another
#
# *Exercise 10.even · difficulty ●●○ · importance ●●○ · 10 minutes · 3 points · stuck? `hint("10.even")`*
#
# What Muon remembers of a matrix is a running mean $M$ of its gradients. Taken apart into singular values, $M = U S V^\top$ (the columns of $U$ and $V$ are directions, and the numbers on the diagonal of $S$, the *singular values*, say how loud each is), it is loud in a few directions and faint in all the others, which may hold the rarer things to be learnt. So Muon makes the loud ones about equally loud and lifts the faint ones before it steps.
# An SVD in every update would be slow; products are enough. First $X = M / \lVert M \rVert$ (the root of the sum of squares), so that no singular value is above 1. Then five rounds, each of which keeps the directions and puts every singular value $s$ through
#
# $$p(s) = 3.4445\, s - 4.775\, s^3 + 2.0315\, s^5,$$
#
# steep at 0: a faint direction grows 3.4445-fold in each round. What began above about 0.002 ends between 0.7 and 1.2. Which product of $X$ and its transpose has the same directions, and $s^3$?

# %%
@exercise("10.even")
def even(mean: Tensor) -> Tensor:
    """mean (A, B) float32 -> (A, B) float32.

    The same directions; those above some 0.002 of the whole about equally loud.
    """
    ### BEGIN SOLUTION
    a, b, c = 3.4445, -4.775, 2.0315
    x = mean / mean.norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x
    ### END SOLUTION


# %%
check("10.even")

# %%
loud, evened = torch.linalg.svdvals(mean / mean.norm()).cpu(), torch.linalg.svdvals(even(mean.cpu()))
print(f"{looked_at}, {tuple(mean.shape)}, after the updates on the clock")
print(f"{'directions':31} loudest   middle  faintest  above half the loudest  above a tenth of it")
for name, found in (("the mean gradient", loud), ("the step that Muon makes of it", evened)):
    half, tenth = (int((found > share * found[0]).sum()) for share in (0.5, 0.1))
    print(f"{name:31} {found[0]:7.3f} {found.median():8.1e}  {found[-1]:8.1e}  {f'{half} of {len(found)}':>22}  {f'{tenth} of {len(found)}':>19}")
print(f"five rounds multiply a faint direction by up to 3.4445 ** 5 = {3.4445**5:.0f}")
alt = "Singular values of one matrix's mean gradient, and of the step that is made of it."
display(compare_curves(loud, evened, "direction, loudest first", "singular value", alt, ("mean gradient", "Muon's step"), logarithmic=True))

# %% [markdown]
# Before, one direction or a few were nearly all of it. Afterwards many more count: the table says how many come near the loudest. Look at the scale: from one line to the next it is a factor of ten or more. The faintest directions are lifted as well, and are still far below; perhaps they are only noise. So the length of a step no longer hangs on one direction, and one rate serves all these matrices. Embeddings, heads and vectors are no maps of features: they stay with AdamW (`mmo.optimiser.is_hidden_matrix`).
#
# ## Train
#
# Interrupt the cell whenever you like; running it again goes on from the last saved state. With `snapshots` the weights are kept at each
# validation, so that you can hear them on the way.
#
# **Predict** first: an untrained head gives every one of its entries the same chance. Where does the loss of codebook 0 begin?

# %%
predict(
    "10.start", f"The cross-entropy of codebook 0 in the first step, with {config.audio_vocab_size} entries?",
    None,
)

# %%
with LossCurves(run / "log" / "t2a.jsonl", "T2A"):
    result = train(settings, "t2a", budget, run, snapshots=True)

# %%
log = read_log(result.log_file)
reveal("10.start", round(log[0]["codebooks"][0], 2), f"where ln({config.audio_vocab_size}) = {np.log(config.audio_vocab_size):.2f}")

# %%
trained_rows = sum(entry["rows"] for entry in log)
clock = sum(entry["seconds"] for entry in log)
print(f"{len(log)} updates, {clock / max(1, len(log)):.2f} s each ({seconds_a_step:.2f} s when tried)")
print(f"{trained_rows / clock:.1f} rows a second ({rows_a_second:.1f} when tried)")
reveal("10.minutes", round(result.seconds / 60, 1), "minutes, with looking at held-out rows and saving")

# %%
reveal("10.memory", round(result.memory / 1e6), f"MB: {held:.0f} for the weights and what belongs to them; the rest is activations, rows, libraries")

# %% [markdown]
# Far from what was tried? A try takes seconds, and what else the machine does in them counts in full: so try twice before you plan an evening by it.

# %% [markdown]
# ## Exercise: where the loss begins
#
# *Exercise 10.begin · difficulty ●●○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("10.begin")`*
#
# Above ln(entries), and no accident. Each answer of $F$ frames has $F$ codes and one stop to learn; the stop counts `stop_weight` times in the sum, and once in the number of labels (notebook 08). What does a
# head pay that gives every entry the same chance?

# %%
@exercise("10.begin")
def begin(frames: Tensor, entries: int, stop_weight: float) -> float:
    """The loss of codebook 0 before anything is learnt.

    frames (N,): of each answer of a batch.  entries: among which the head chooses.
    """
    ### BEGIN SOLUTION
    weighted, labels = (frames + stop_weight).sum(), (frames + 1).sum()
    return math.log(entries) * float(weighted / labels)
    ### END SOLUTION


# %%
check("10.begin")

# %%
lengths = (first_labels >= 0).sum(dim=1)
lengths = lengths[lengths > 0] - 1  # without the stop
counted = begin(lengths, config.audio_vocab_size, stage.stop_weight)
print(f"the first batch: {len(lengths)} answers of {float(lengths.float().mean()):.0f} frames")
print(f"counted {counted:.2f}, measured {log[0]['codebooks'][0]:.2f}")

# %% [markdown]
# What the measured one has in addition is the random head's own: its logits are not quite equal, and unequal chances at random cost more than equal ones.
#
# %% [markdown]
# ## Read the curves
#
# All in nats: a faint line is each step, a strong one the running mean, a dot held-out rows. On the right, each codebook by itself; of the two dark lines at the bottom the lower one is 0, the upper one 1. At first they all fall together; then the first ones come down far, and the later ones hardly at all. Codebooks 0 and 1 describe the sound, each from the
# start; from codebook 2 on each describes what those before it left, closer and closer to noise. A later curve that stays high is no fault of the model.
#
# On the left, the audio loss is the mean over the codebooks as `codebook_weights` weighs them. The first ones count most, and they come down furthest: so it lies below the plain mean of the lines on the right.

# %%
held_out = [entry for entry in read_log(result.log_file, validation=True) if entry["validation"] == "t2a-validation"]
print("held out, by codebook:", "  ".join(f"{loss:.2f}" for loss in held_out[-1]["codebooks"]))
print(f"their plain mean {np.mean(held_out[-1]['codebooks']):.2f}, weighted {held_out[-1]['audio']:.2f}")
print(f"a code drawn blindly from {config.num_codes}: {np.log(config.num_codes):.2f}")

# %% [markdown]
# **Often mistaken.** *"A low loss is intelligible speech."* The loss is an average over codes, most of which nobody hears. Speech hangs on a few of them, the stop among
# them. So listen.
#
# ## The same sentence on the way
#
# One question, one seed, one voice; only the weights differ. Under each player, below the number of steps: what the model wrote, and what the *judge*, a speech recogniser, heard of it. **Predict:** what comes first, the voice or the words?

# %%
predict("10.first", "What is right first: 'voice' or 'words'?", None)

# %%
exam = Exam(settings, SIZES[budget], stages=("t2a",))  # holds the judge, too


def play(spoken: dict[str, Answer]) -> None:
    """A player for each answer, and under it what was written and what was heard; the keys are the headings."""
    heard = exam.heard(list(spoken.values())) or [None] * len(spoken)  # None: there is no judge to listen
    for (heading, answer), words in zip(spoken.items(), heard):
        lines = [heading, f"written: {answer.text}"] + ([] if words is None else [f"the judge heard: {words or 'nothing'}"])
        display(listen(answer.samples, answer.sample_rate, "\n".join(lines)))


question, spoken = "What is three plus four?", {}
for step, path in snapshots_of(run, "t2a"):
    assistant = Assistant.load(settings, run, path)
    spoken[f"after {step} steps"] = assistant.ask(question, voice=next(iter(assistant.voices), None))
play(spoken)

# %% [markdown]
# One sentence is an anecdote. So a few sentences in every voice, at each snapshot: the judge says how many of the written words are heard, and the *portrait* of a voice, the mean spectrum of its recordings, whose voice it is: right
# where the answer is nearer to the portrait that was asked for than to any other.

# %%
ward = Ward(settings)  # holds the portraits
tried = spread_voices(of_tier(exam.said, "sentence"), 6 if budget == "full" else 2)
found = {}
for step, path in snapshots_of(run, "t2a"):
    said = Candidate(path, exam).generator.generate_batch(exam.text_prompts(tried))
    heard = exam.heard(said)
    words = {"words": max(0.0, 1 - (measures.word_errors([each.text for each in said], heard, exam.split).wer or 0.0))} if heard else {}
    likeness = [ward.nearer(each.samples, item.voice) > 0 for each, item in zip(said, tried) if item.voice in ward.portraits] if len(ward.portraits) > 1 else []
    found[step] = words | ({"voice": float(np.mean(likeness))} if likeness else {})
    print(f"after {step:5} steps: " + ", ".join(f"{name} {share:4.0%} right" for name, share in found[step].items()) + f"   ({len(said)} answers)")
final = list(found.values())[-1]
reached = {name: next(step for step, each in found.items() if each[name] >= 0.9 * share) for name, share in final.items() if share > 0}
first = [name for name, step in reached.items() if step == min(reached.values())]
print("nine tenths of the last figure after:", ", ".join(f"{name} {step} steps" for name, step in reached.items()) or "nothing is right yet")
reveal("10.first", first[0] if len(first) == 1 else "both at once" if first else "neither")

# %% [markdown]
# What one might expect: timbre and melody are in every frame, and thousands of frames teach them; words are rare, and each has to be found in the bridge. Do ear and figures agree with that?
#
# ## Sentences it never heard
#
# Tier `sentence`: the fact was known as text, the sentence was never spoken in training. Two of them, each in every voice; text and speech come from one pass.

# %%
assistant = Assistant.load(settings, run)
print(assistant.which)
spoken = {}
for number, item in enumerate(spread_voices(of_tier(exam.said, "sentence"), 2)):
    voice = item.voice if item.voice in assistant.voices else None
    spoken[f"{voice}, asked: {item.question} (wanted: {item.truth})"] = assistant.ask(item.question, voice=voice, seed=number)
play(spoken)

# %% [markdown]
# Where the judge heard another word, trust your ear. It guesses among the words of this world, and "five", "fine" and "live" differ in one sound. But the Talker errs, too: the table above says how many words are heard.
#
# ## What was forgotten?
#
# All weights learnt, the Thinker's too, and most of the gradient came from the sound. What became of what it knew? The same written questions, once to the Thinker as it was before T2A, once to it as it is now, in three tiers:
# `sentence` (the answer was known as text, and its words were spoken in other sentences), `pair` (known as text, but some pair of its words was never spoken), `fact` (in no text: to be worked out). **Predict** before you run it.

# %%
predict("10.forgotten", "Written questions after T2A: answered 'better', 'same' or 'worse' than before?", None)

# %%
thinker = OmniModel(config)
load_thinker(thinker.model, settings.thinker_file)
once = list({item.question: item for item in exam.said}.values())  # each question once, whoever speaks its answer
papers = {tier: measures.spread(of_tier(once, tier), 100 if budget == "full" else 6) for tier in TIERS}
hits = {}
for name, model in (("before", thinker), ("after", result.model_file)):
    candidate = Candidate(model, exam)
    for tier, items in papers.items():
        texts = candidate.texts(exam.text_prompts(items), f"{name} T2A: {tier}") if items else []
        hits[name, tier] = np.array([measures.same_words(text, item.truth) for text, item in zip(texts, items)])
for tier, items in papers.items():
    if items:
        before, after = hits["before", tier], hits["after", tier]
        lost, won = int((before & ~after).sum()), int((~before & after).sum())
        print(f"{tier:9} {before.mean():4.0%} -> {after.mean():4.0%} of {len(items)} right; {lost} lost, {won} won")
before, after = (np.concatenate([hits[name, tier] for tier in papers]) for name in ("before", "after"))
change = measures.interval(after.astype(int) - before.astype(int), np.ones(len(after), dtype=int))
print(f"all together: {after.mean() - before.mean():+.1%}, 95 % interval {change[0]:+.1%} to {change[1]:+.1%}")
verdict = "same" if change[0] <= 0 <= change[1] else "better" if change[0] > 0 else "worse"
reveal("10.forgotten", verdict, '("better" and "worse" only where the interval leaves 0 out)')

# %% [markdown]
# Each row of T2A carries its text, too, and its text loss is the rehearsal: what stands in the rows is kept, what does not is left to chance. What else could be forgotten? Nothing: it could neither hear nor see.

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
# - The past is made untrustworthy, so that the bridge is read. The rate warms up and falls, a step of Muon lets many directions count, the average of the weights is kept.
# - The first codebooks are learnt first, and best; a loss is not speech.
# - Where a loss begins can be counted beforehand, and so can what a training costs; what it made forgotten can only be asked.
#
# What is left open: the model can read and speak, but it cannot hear. That is [notebook 11](11_train_a2a.ipynb).
#
# **To try.** Set `code_dropout` to 0 and `hidden_history` to 0 in a copy of the stage and train again for a third of the steps. Where does the training loss go, where the held-out one, and
# where the speech?
#
# **Where to read on.** `mmo/training.py`, `mmo/data.py`, `mmo/optimiser.py`, `mmo/muon.py`. Papers:
#
# - Y. Wang, RJ Skerry-Ryan, D. Stanton and others: *Tacotron: Towards End-to-End Speech Synthesis.* Interspeech 2017, [arXiv:1703.10135](https://arxiv.org/abs/1703.10135). The prenet.
# - S. Bengio, O. Vinyals, N. Jaitly, N. Shazeer: *Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks.* NeurIPS 2015, [arXiv:1506.03099](https://arxiv.org/abs/1506.03099).
# - J. Copet, F. Kreuk, I. Gat and others: *Simple and Controllable Music Generation.* NeurIPS 2023, [arXiv:2306.05284](https://arxiv.org/abs/2306.05284). The delay pattern.
# - K. Jordan and others: *Muon: An optimizer for hidden layers in neural networks.* 2024, [kellerjordan.github.io/posts/muon](https://kellerjordan.github.io/posts/muon/).
