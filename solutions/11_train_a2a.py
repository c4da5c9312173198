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
# *Takes 80 minutes (tiny) · runs in 536 s on 2 cores (tiny) · builds on 04, 10 · 4 exercises, 11 points*
#
# **At the end** you ask aloud, in a voice the model never heard, and it answers aloud. You can tell which of its mistakes were misheard and which were misunderstood.
#
# **You need** notebook 10's model (or the shipped one); that a *projector* is two linear layers from the encoder's width to the Thinker's.
#
# **The claim.** Hearing needs no new model: features of a frozen speech encoder, put through two linear layers, can stand in the
# text where words would stand. But what is not in the frozen encoder's features, nothing behind it can bring back.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmo import measures
from mmo.assistant import Assistant
from mmo.chat import think_block
from mmo.checkpoint import latest_weights, snapshots_of, stage_file
from mmo.config import IGNORE
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.cost import print_beside, try_passes
from mmo.data import written_down
from mmo.display import LossCurves, drawing, finish, listen, show_delay
from mmo.examination import SIZES, Candidate, Exam, of_tier
from mmo.features import read_sound
from mmo.measures import words
from mmo.omni import load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.sequence import Markers, build_row, find_assistant_ranges
from mmo.training import peak_memory, planned_passes, read_log, train

settings = find_profile(profile)
run = run_dir(settings, budget)
exam = Exam(settings, SIZES[budget])  # the test items, as prompts
count = 60 if budget == "full" else 6
asked = measures.spread(of_tier(exam.asked, "sentence"), count)

# %% [markdown]
# ## A question, as sound and as features
#
# The encoder turns 16 kHz sound into one vector every 60 ms. The projector turns each into a vector of the Thinker's width, and it
# takes the place of one `<|audio_pad|>` in the prompt. **Predict:** how many placeholders does this question need?

# %%
sound = read_sound(asked[0].question_sound)
print(f"{len(sound) / 16000:.2f} seconds, voice {asked[0].voice}: {asked[0].question}")
display(listen(sound, 16_000, asked[0].question))
predict("11.placeholders", "How many placeholders?", None)

# %%
features = exam.hear(asked)
reveal("11.placeholders", len(features[0]), f"vectors of {features[0].shape[1]} numbers")

# %%
length, size = features[0].shape
with drawing(min(9.0, 2.0 + 1.6 * 0.06 * length), 2.4) as figure:  # as wide as the spectrogram above
    axes = figure.add_subplot()
    changes = features[0] - features[0].mean(dim=0)  # what is the same all the time would be a stripe
    axes.imshow(changes.T, aspect="auto", cmap="cividis", interpolation="nearest", extent=(0, 0.06 * length, size - 0.5, -0.5))
    axes.set(xlabel="seconds", ylabel="number of the vector")
    axes.set_title("a column a placeholder, 60 ms; each number less its mean")
    axes.grid(False)
    display(finish(figure, f"The question's features: {length} columns, one every 60 ms, of {size} numbers each."))

# %% [markdown]
# ## How well is it heard?
#
# (In the picture a column is one vector, a row one of its numbers; yellow is above that number's mean over the question, dark blue below.)
#
# The encoder has a head of its own that writes down what it hears. It is not used by our model, but it tells how much is *in* the features.
# The measure is the word error rate: the least number of words to insert, delete and replace, over the number of words that were said.
#
# ## Exercise: word errors
#
# *Exercise 11.word_errors · difficulty ●●○ · importance ●●● · 15 minutes · 4 points · stuck? `hint("11.word_errors")`*
#
# Count the least number of insertions, deletions and replacements that turn `heard` into `wanted`.

# %%
@exercise("11.word_errors")
def word_errors(wanted: list[str], heard: list[str]) -> int:
    """Edit distance in words (Levenshtein): the least number of edits."""
    ### BEGIN SOLUTION
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        above, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row[-1]
    ### END SOLUTION


# %%
check("11.word_errors")

# %%
encoder = exam.encoders.speech.loaded()
heard = [encoder.spell(each[None], torch.tensor([len(each)]))[0] for each in features]
errors = [word_errors(words(item.question), words(text)) for item, text in zip(asked, heard)]
said = [len(words(item.question)) for item in asked]
for voice in sorted({item.voice for item in asked}):
    own = [n for n, item in enumerate(asked) if item.voice == voice]
    share, whole = sum(errors[n] for n in own) / sum(said[n] for n in own), np.mean([errors[n] == 0 for n in own])
    print(f"{voice}: {share:6.1%} of the words wrong, {whole:.0%} of the questions heard whole")
assert sum(errors) == measures.word_errors([item.question for item in asked], heard).errors.sum()

# %% [markdown]
# These voices were in no training, the encoder's included. A few words lost in a hundred sound little; but an answer stands or falls with a whole
# question.
#
# ## Train
#
# Two passes. First the projector alone: everything else is frozen, so nothing can be forgotten. Then all weights, with text
# questions mixed in, so that reading and speaking stay. Most rows are *silent* (`Draws.silent`): the answer is only written. What is to be learnt here
# is hearing; a silent row is half as long, the Talker rests, and twice as many questions fit into the same minute. The original does the same two passes at 5e-4 and
# 2e-5, all rows with their sound: a projector from nothing may run, and cannot hurt what is frozen behind it; then the trained weights only bend a little, at a twenty-fifth of that rate, for whoever moves them fast forgets what they knew.
#
# The features are computed once and kept (`mmo.features`), in several differently disturbed copies: other speeds, rooms and noises.
#
# **Written down first.** The Thinker knows what to do with *words*. So in the second pass the answer to a question that is heard (four fifths of its rows; the others are asked in writing) begins with a think block (`Draws.write_down`): the model writes what it hears, closes the block, and then answers.
# Nothing of the block is spoken: the layout starts the sound behind it (`audio_start` in `mmo/sequence.py`; the layout is that of [notebook 07](07_sequence_and_delay.ipynb)). Every word of the question is a label now, also one on which the answer does not hang; and the answer may look back at words.
# The original answers at once. So does the first pass here: a frozen Thinker has never seen such a block.

# %%
block = exam.tokenizer.encode(think_block(asked[0].question))
print(think_block(asked[0].question) + asked[0].truth)
chosen = len(exam.tokenizer.encode(asked[0].question + "\n</think>"))  # it is given how a block opens, and the empty line behind it
print(f"\n{len(block)} tokens that nobody hears stand in front of the answer.")
print(f"The model writes {chosen} of them, the others are given: {chosen} steps more until the first sound")

# %% [markdown]
# ## Exercise: where the sound begins
#
# *Exercise 11.begins · difficulty ●○○ · importance ●●● · 5 minutes · 2 points · stuck? `hint("11.begins")`*
#
# The layout has to know which of an answer's tokens are spoken. The answer stands at `first` … `end − 1` of the text, which may hold other answers, before it and behind it. A think block ends with the tokens `closing` (`</think>`, its line's end, an empty line). Where these
# begin within the first 50 tokens of the answer, the sound begins behind them; where they do not, nothing was written down and it begins with the answer.

# %%
@exercise("11.begins")
def sound_begins(text: list[int], first: int, end: int, closing: list[int]) -> int:
    """The place in `text` of the first token that is spoken.

    text: token ids.  first, end: the answer is text[first:end].
    closing: the ids that end a think block.
    """
    ### BEGIN SOLUTION
    for at in range(first, min(end, first + 50)):
        if text[at : at + len(closing)] == closing:
            return at + len(closing)
    return first
    ### END SOLUTION


# %%
check("11.begins")

# %%
markers = Markers.from_tokenizer(exam.tokenizer)
example = min(exam.said, key=lambda item: item.codes.shape[1])  # a short one, so that all of it can be seen
answered = written_down(example.question, exam.tokenizer) + example.truth
text = exam.tokenizer.conversation([{"role": "user", "content": example.question}, {"role": "assistant", "content": answered}])
first, end = find_assistant_ranges(text, markers.assistant, markers.end)[-1]
begins = sound_begins(text, first, end, list(markers.think_end))
row = build_row(text, example.codes, settings.model, markers)
written, spoken = (row.text_labels != IGNORE).nonzero()[:, 0], (row.audio_labels[0] != IGNORE).nonzero()[:, 0]
print(f"answer from token {first}, sound from token {begins}: {len(written)} text labels, {begins - first} of them of the block")
print(f"codebook 0 has its first label at position {int(spoken[0])}")
assert int(spoken[0]) == begins  # inputs and labels are shifted by one: it answers position `begins`, whose text is the answer's first token
upto = min(row.input_ids.shape[1], first + 28)
tokens = [exam.tokenizer.tokenizer.id_to_token(int(each)).replace("Ġ", " ").replace("Ċ", "\\n") for each in row.input_ids[-1, first:upto]]
display(show_delay(row.input_ids[:, first:upto], settings.model, begins - first, tokens, label="the sound begins"))

# %% [markdown]
# All of it is written, and every token of it is a text label. The sound begins at the line, as if no block stood there: the first code is the label at the line and the input one position later.

# %%
passes = planned_passes(settings, "a2a", budget, None)
for stage in passes:
    written_first = stage.draws.write_down * stage.draws.question[0]
    print(f"{stage.name:14} learning: {stage.trainable}, {stage.steps or f'{stage.epochs:g} epochs of'} steps")
    print(f"{'':14} of its own rows {stage.draws.silent:.0%} silent, {written_first:.0%} written down first")
    print(f"{'':14} rehearsal: {', '.join(f'{each.share:.0%} {each.data[0]}' for each in stage.rehearsal) or 'none'}")

# %% [markdown]
# ## Exercise: whose labels are they?
#
# *Exercise 11.labels · difficulty ●○○ · importance ●●● · 6 minutes · 2 points · stuck? `hint("11.labels")`*
#
# Three rows in ten are rehearsal: written questions with their sound, and sentences of the pretraining that were never spoken. Are they three tenths of what is learnt from? Text and sound have a loss each, and each loss is a mean over its own labels. Given the share of each source in the rows, how many of its rows are silent, and the labels a row
# brings in text (the think block's words are labels, too) and in each codebook: whose are the labels?

# %%
@exercise("11.labels")
def label_shares(shares: Tensor, silent: Tensor, written: Tensor, spoken: Tensor) -> Tensor:
    """(2, S): each source's share of the text labels, and of the audio labels of a codebook.

    All (S,), S sources.
    shares: of the rows.  silent: the share of a source's rows without sound.
    written, spoken: labels of a row in text, and in a codebook where it is not silent.
    """
    ### BEGIN SOLUTION
    labels = torch.stack((shares * written, shares * (1 - silent) * spoken))
    return labels / labels.sum(dim=1, keepdim=True)
    ### END SOLUTION


# %%
check("11.labels")

# %%
whole_pass = passes[-1]
sources = {"its own rows": (1 - sum(each.share for each in whole_pass.rehearsal), whole_pass.draws.silent)}
for each in whole_pass.rehearsal:
    sources[each.data[0]] = each.share, each.draws.silent
answers = [len(exam.tokenizer.encode(item.truth)) + 1 for item in exam.said]  # with the end sign
blocks = [len(exam.tokenizer.encode(think_block(item.question))) for item in asked]  # what is heard is a label, too
lengths = [item.codes.shape[1] + 1 for item in exam.said]  # with the stop
written = [float(np.mean(answers))] * len(sources)
written[0] += float(whole_pass.draws.write_down * whole_pass.draws.question[0] * np.mean(blocks))  # only what is heard is written down
spoken = [float(np.mean(lengths))] * len(sources)
shares, silent = zip(*sources.values())
found = label_shares(*(torch.tensor(each) for each in (shares, silent, written, spoken)))
for name, text_labels, sound_labels in zip(sources, *found.tolist()):
    print(f"{name:20} {text_labels:4.0%} of the text labels, {sound_labels:4.0%} of the sound's")

# %% [markdown]
# So the few spoken rows of the rehearsal are most of what the Talker learns from, and the hearing is learnt in writing. The rows of text alone are there for the Thinker: in its pretraining it had read, for instance, what comes after each number, and it forgets what no row mentions any more.
#
# ## Exercise: what freezing saves
#
# *Exercise 11.cost · difficulty ●●○ · importance ●●○ · 8 minutes · 3 points · stuck? `hint("11.cost")`*
#
# The first pass trains two small layers in front of a frozen Thinker. How much cheaper is that than training all? Forward, every weight costs two operations a position. Backward, two more for its own gradient, if it learns; and two more for the
# gradient of its input, if anybody in front wants one.

# %%
@exercise("11.cost")
def operations(weights: Tensor, learns: Tensor) -> int:
    """Operations a position, forward and backward.

    weights (P,) int64, learns (P,) bool: of each part, in the order of the data.
    """
    ### BEGIN SOLUTION
    behind = (learns.cumsum(0) - learns.long()) > 0  # something in front of the part learns
    return int(2 * (weights * (1 + learns.long() + behind.long())).sum())
    ### END SOLUTION


# %%
check("11.cost")

# %%
before, _ = latest_weights(settings, run, before="a2a")
model = load_model(before)
parts = torch.tensor([sum(p.numel() for p in part.parameters()) for part in (model.audio_proj, model.model)])
alone, together = operations(parts, torch.tensor([True, False])), operations(parts, torch.tensor([True, True]))
print(f"projector {parts[0] / 1e3:.0f} k, Thinker {parts[1] / 1e6:.2f} M weights")
print(f"a position of a silent row: {alone / 1e6:.1f} M operations with the projector alone, {together / 1e6:.1f} M with both: {alone / together:.0%}")
del model  # training loads its own; a mixture of mini's size takes 1.3 GB

# %% [markdown]
# A small part that learns in front of a large one is not cheap: the gradient has to come back through all of it.
#
# ## What it costs, before it is paid
#
# A few updates of each pass on the clock; they are thrown away. From these lines and the numbers of updates above you can tell the minutes.
# The count above was of projector and Thinker. In the second pass the Talker runs as well, in the share of the updates that its line names: so on the clock the first pass is cheaper still.

# %%
trials = try_passes(settings, passes, before, exam.encoders)
clock = [trial.seconds / trial.positions for trial in trials]
print(f"a position of the first pass takes {clock[0] / clock[-1]:.0%} of the time of one of the second; counted were {alone / together:.0%}")
print(f"this kernel has held {peak_memory(settings.device()) / 1e6:.0f} MB at most so far")
updates = " and ".join(str(stage.steps or f"{stage.epochs:g} epochs of") for stage in passes)
predict(
    "11.minutes", f"{updates} updates: how many minutes will both passes take together?",
    None,
)

# %%
predict(
    "11.right", "Which share of the questions, in percent, will be answered rightly when it is done?",
    None,
)

# %%
with LossCurves(run / "log" / "a2a.jsonl", "A2A"):
    result = train(settings, "a2a", budget, run, encoders=exam.encoders, snapshots=True)

# %%
print_beside(trials, read_log(result.log_file))
print(f"at most {result.memory / 1e6:.0f} MB")
reveal("11.minutes", round(result.seconds / 60, 1), "minutes, with looking at held-out rows and saving")

# %% [markdown]
# The text loss jumps where the second pass begins: think blocks are new to it (not where you went on from the shipped weights, which have learnt all this before). On the left are the losses as a whole, on the right each codebook; steps in which nothing was spoken have no audio loss and are left out. The codebooks were learnt in notebook 10. What do they do here: come down, stay, or rise, when everything begins to learn (the second pass)? In figures, on
# held-out rows:

# %%
spoken_entries = [entry for entry in read_log(result.log_file, validation=True) if any(entry["codebooks"])]
earlier = read_log(run / "log" / "t2a.jsonl", validation=True)[-1:]  # none where the shipped weights were gone on from
entries = [("at the end of T2A", each) for each in earlier] + [(f"A2A, step {each['step'] + 1}", each) for each in spoken_entries]
print(f"{'codebook':34}" + "".join(f"{k:6}" for k in range(settings.model.num_codebooks)))
for name, entry in entries:
    print(f"{name:18} {entry['validation']:14} " + "".join(f"{loss:6.2f}" for loss in entry["codebooks"]))
if earlier and len(spoken_entries) > 1:
    before_it, risen, at_the_end = (each["codebooks"][0] for each in (earlier[0], spoken_entries[0], spoken_entries[-1]))
    print(f"\ncodebook 0: {before_it:.2f} before A2A, {risen:.2f} when all weights have begun to learn, {at_the_end:.2f} at the end")

# %% [markdown]
# So they rise first, the first codebooks most, and then come down again. How much of it is won back by the end of this notebook, the last line says; [notebook 12](12_train_i2t.ipynb) goes on from there, and prints them once more. And the text:

# %%
for entry in read_log(result.log_file, validation=True):
    if entry["validation"] == "a2a-validation":
        print(f"{entry['pass']:14} step {entry['step'] + 1:5}: text, held out {entry['text']:.3f}")

# %% [markdown]
# (The two passes' losses are not to be compared: in the second the words of the block are labels, too, and the answer is read behind the true block, not behind the model's own.)
#
# ## Misheard, or misunderstood?
#
# Each question is asked three ways: as it was spoken; as the encoder's own head wrote it down; as it was meant. The second way is an *oracle* for the projector: all
# that the features clearly say, in the Thinker's own language.

# %%
candidate = Candidate(result.model_file, exam)
truths = [item.truth for item in asked]
prompts = exam.sound_prompts(features)
answers = candidate.answer(prompts, "spoken", speech=False)
ways = {
    "spoken": [answer.text for answer in answers],
    "written down by the encoder": candidate.texts([exam.prompt(text, n) for n, text in enumerate(heard)], "written down"),
    "as it was meant": candidate.texts(exam.text_prompts(asked), "as meant"),
}
right = {way: [measures.same_words(text, truth) for text, truth in zip(texts, truths)] for way, texts in ways.items()}
for way, hits in right.items():
    low, high = measures.share_interval(hits)
    print(f"{way:28} {np.mean(hits):5.0%} right   (95 % interval: {low:.0%} to {high:.0%})")
reveal("11.right", round(100 * float(np.mean(right["spoken"]))), "percent")

# %%
whole = np.array(errors) == 0
for name, part in (("heard whole", whole), ("something misheard", ~whole)):
    if part.any():
        print(f"{name:20} {part.sum():3} questions, {np.mean(np.array(right['spoken'])[part]):.0%} answered rightly")

# %% [markdown]
# Where the first two figures are near each other, the encoder is the bottleneck. Where the first is well below the second, words that the encoder can write did not get through: its features of these voices are
# unlike those of the training voices, and projector and Thinker have learnt from no others. The questions that were heard whole tell the two apart. (An interval of no width is no certainty: where no answer is wrong, the bootstrap can draw no mistake. With $n$ of $n$ right the share may still be as low as about $1 - 3/n$.)
#
# The model's own think blocks tell more: what *it* heard, beside what the encoder's head heard in the same features.

# %%
own = [word_errors(words(item.question), words(answer.heard)) for item, answer in zip(asked, answers)]
for who, found in (("the encoder's head", errors), ("the model's think block", own)):
    print(f"{who:24} {sum(found) / sum(said):6.1%} of the words wrong, {np.mean([each == 0 for each in found]):.0%} of the questions whole")
written_right = np.array(own) == 0
for name, part in (("written down rightly", written_right), ("written down wrongly", ~written_right)):
    if part.any():
        print(f"{name:24} {part.sum():3} questions, {np.mean(np.array(right['spoken'])[part]):.0%} answered rightly")
for n in [n for n, each in enumerate(own) if each][:5]:
    print(f"  {asked[n].voice} asked: {asked[n].question}")
    print(f"       heard: {answers[n].heard}   answered: {answers[n].text}")

# %% [markdown]
# **Heard three times.** "Fifteen" and "sixteen" lie near each other. Played a little slower and a little faster the same question sounds different, to the frozen encoder too, and the mistakes differ. So the model hears it at each speed of
# `Decoding.hearings`, and every word of the block is the one that all hearings together find likeliest: their log-probabilities are added (`agree` in `mmo/generation.py`). No weight is learnt for it; it costs a batch of three for the dozen tokens of the block.
# **Predict:** how many of these questions, in percent, are written down rightly then?

# %%
predict("11.again", "Of 100 questions, how many will be written down without a mistake?", None)

# %%
print("speeds:", ", ".join(f"{speed:g}" for speed in exam.decoding.hearings))
together = candidate.answer(exam.heard_prompts(asked), "heard again", speech=False)
written_again = np.array([measures.same_words(answer.heard, item.question) for item, answer in zip(asked, together)])
right_again = np.array([measures.same_words(answer.text, truth) for answer, truth in zip(together, truths)])
for name, wrote, hits in (("heard once", written_right, right["spoken"]), ("heard at each speed", written_again, right_again)):
    print(f"{name:20} {np.mean(wrote):5.0%} written down rightly, {np.mean(hits):5.0%} answered rightly")
for what, once, again in (("written down", written_right, written_again), ("answered", np.array(right["spoken"]), right_again)):
    print(f"{what:12} of {len(asked)} questions {int((again & ~once).sum())} were put right, {int((once & ~again).sum())} were put wrong")
for n in [n for n in range(len(asked)) if written_again[n] != written_right[n]][:5]:
    print(f"  {asked[n].voice} asked: {asked[n].question}")
    print(f"        once: {answers[n].heard}\n    together: {together[n].heard}")
reveal("11.again", round(100 * float(np.mean(written_again))), "percent")

# %% [markdown]
# `mmo say --audio question.wav` and every figure of `report.json` hear that way; the comparison of the three ways above was of one hearing, for all three.
#
# **The control.** With the questions swapped among each other, the answers must be wrong. If they are not, the model was guessing from the shape of the prompt.

# %%
pairs = [(n, other) for n, other in enumerate(measures.swap(truths)) if other is not None]
swapped = candidate.texts([prompts[other] for _, other in pairs], "swapped")
hits = [measures.same_words(text, truths[n]) for text, (n, _) in zip(swapped, pairs)]
print(f"with another question's sound: {np.mean(hits):.0%} right")

# %% [markdown]
# ## What was forgotten?
#
# The same written questions, before and after this stage.

# %%
predict("11.forgotten", "Will written questions be answered 'better', 'the same' or 'worse' after A2A?", None)

# %%
read = measures.spread(of_tier(exam.said, "sentence"), count)
known = {}
for name, path in (("before", before), ("after", stage_file(run, "a2a"))):
    texts = Candidate(path, exam).texts(exam.text_prompts(read), f"{name} A2A")
    known[name] = np.array([measures.same_words(text, item.truth) for text, item in zip(texts, read)], dtype=int)
for name, hits in known.items():
    print(f"{name + ' A2A:':11} {hits.mean():4.0%} of {len(read)} written questions right")
change = measures.interval(known["after"] - known["before"], np.ones(len(read), dtype=int))
print(f"question by question: {np.mean(known['after'] - known['before']):+.1%}, 95 % interval {change[0]:+.1%} to {change[1]:+.1%}")
verdict = "the same" if change[0] <= 0 <= change[1] else "better" if change[0] > 0 else "worse"
reveal("11.forgotten", verdict, '("better" and "worse" only where the interval leaves 0 out)')

# %% [markdown]
# ## Ask aloud
#
# First, the way there: one question, one voice, one seed, asked of each snapshot and of the model before A2A. **Predict:** when is the answer right for the first time?

# %%
predict("11.first", "After how many steps is this question first answered rightly?", None)

# %%
hear = next((n for n, good in enumerate(right["spoken"]) if good), 0)  # one that the finished model answers rightly, if there is one
print(f"asked aloud by {asked[hear].voice}: {asked[hear].question}")
voice = next(iter(exam.voices.values()), None)
prompt = replace(prompts[hear], speaker=voice, seed=0)
first_right = None
for step, path in [(0, before), *snapshots_of(run, "a2a")]:
    writes = exam.decoding.write_down and step > (passes[0].steps or 0)  # before, nobody has learnt to write down what is heard
    answer = Candidate(path, exam).generator.generate_batch([prompt], replace(exam.decoding, write_down=writes))[0]
    first_right = step if first_right is None and measures.same_words(answer.text, asked[hear].truth) else first_right
    display(listen(answer.samples, answer.sample_rate, f"after {step} steps, written: {answer.text}"))
reveal("11.first", "never" if first_right is None else first_right, "" if first_right is None else "steps")

# %% [markdown]
# Listen to the voice, too: it was there from the start, and the second pass must not lose it. Up to the end of the first pass, what you heard is the projector's work alone; behind it all weights learn.

# %%
assistant = Assistant.load(settings, run)
for n, item in enumerate(asked[:4]):
    sound = read_sound(item.question_sound)
    voices = list(assistant.voices)
    spoken = assistant.ask(sound=sound, voice=voices[n % len(voices)] if voices else None, seed=n)
    display(listen(sound, 16_000, f"asked by {item.voice}: {item.question}"))
    display(listen(spoken.samples, spoken.sample_rate, f"it heard: {spoken.heard}\nit answers: {spoken.text}"))

# %% [markdown]
# Where an answer is not what was asked for, look at what it heard, the words of its block: misheard is not misunderstood.

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("11")

# %% [markdown]
# ## Summary
#
# - The projector is a dictionary from sounds to the Thinker's own language, and it is learnt against two frozen sides first.
# - It can only be as good as the frozen encoder's features; the encoder's own transcript, read as text, tells roughly how good they are.
# - Most of what the Thinker can do with words it can do with what it hears, once it has written it down rightly.
# - The same sound at other speeds brings other mistakes. What all hearings agree on can put some of them right; whether it also puts some wrong is counted question by question.
# - What is not rehearsed may be forgotten; a little text in each batch keeps it, and a count before and after says whether it did.
#
# **Often mistaken.** *"The Thinker gets the words."* It gets a vector every 60 ms; words stand only where it has written them itself. *"The audio loss trains hearing."* It trains speaking; hearing is learnt from the text loss.
#
# **To try.** Give the model another question's features with this question's text written beside them. Which does it believe? Next: [notebook 12](12_train_i2t.ipynb).
#
# **Where to read on.** `mmo/features.py`, `mmo/projector.py`, `mmo/measures.py`. Papers:
#
# - K. An, Q. Chen, C. Deng and others: *FunAudioLLM: Voice Understanding and Generation Foundation Models for Natural Interaction Between Humans and LLMs.* 2024,
#   [arXiv:2407.04051](https://arxiv.org/abs/2407.04051). SenseVoice.
# - D. Zhang, S. Li, X. Zhang and others: *SpeechGPT: Empowering Large Language Models with Intrinsic Cross-Modal Conversational Abilities.* Findings of EMNLP 2023,
#   [arXiv:2305.11000](https://arxiv.org/abs/2305.11000). The words of a spoken question are written before its answer ("chain of modality").
# - H. Liu, C. Li, Q. Wu, Y. J. Lee: *Visual Instruction Tuning.* NeurIPS 2023, [arXiv:2304.08485](https://arxiv.org/abs/2304.08485). The projector first, then all.
# - T. Ko, V. Peddinti, D. Povey, S. Khudanpur: *Audio augmentation for speech recognition.* Interspeech 2015.
