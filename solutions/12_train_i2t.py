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
# # 12 · Train I2T: a picture in, text out
#
# *Takes 71 minutes (tiny) · runs in 810 s on 2 cores (tiny) · builds on 03, 11 · 4 exercises, 10 points*
#
# **At the end** it looks at a picture it never saw and says what is there: colours, shapes, sizes, and which is where. You know which of these it reads well, how sure that is, and
# whether the other skills paid for it.
#
# **You need** notebook 11's model (or the shipped one); that a picture is 64 vectors, one a patch (notebook 03).
#
# **The claim.** The same recipe again: a frozen encoder, two linear layers, placeholders. Sight costs the model no new part. What it costs is rehearsal: more than half of the rows of its second pass
# teach again what was learnt before, and you count whether that was enough.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
from collections import Counter
from dataclasses import replace
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch
from pyarrow.parquet import read_table
from torch import Tensor

from mmo import measures
from mmo.assistant import Assistant
from mmo.checkpoint import latest_weights, snapshots_of, stage_file
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.cost import print_beside, try_passes
from mmo.course.pictures import show_maps
from mmo.data import find_files
from mmo.display import LossCurves, finish, listen, show_image
from mmo.examination import SIZES, Candidate, Exam, of_tier
from mmo.measures import words
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import parse_conversation
from mmo.training import peak_memory, planned_passes, read_log, read_picture, train
from mmo.world.text import COLOURS, NUMBERS, SHAPES

settings = find_profile(profile)
run = run_dir(settings, budget)
exam = Exam(settings, SIZES[budget])
count = 100 if budget == "full" else 6
shown = measures.spread(of_tier(exam.shown, "sentence"), count)


def gallery(items, captions):
    """Pictures in a row, each under its words."""
    figure, axes = plt.subplots(1, len(items), figsize=(2.3 * len(items), 3.0), layout="constrained", squeeze=False)
    for axis, item, caption in zip(axes[0], items, captions):
        axis.imshow(read_picture(item.picture))
        axis.set_title(fill(caption, 26), fontsize=7)
        axis.axis("off")
    picture = finish(figure, "Pictures side by side, each under its words: " + " | ".join(captions))
    plt.close(figure)
    display(picture)


# %% [markdown]
# ## What there is to see

# %%
gallery(shown[:6], [item.truth for item in shown[:6]])
features = exam.see(shown)
print(f"{len(features)} pictures, each {tuple(features[0].shape)}: patches by numbers")

# %% [markdown]
# A caption names what is larger first; of two things of one size, the one above or on the left. So there is one right answer to each picture, and exact words can be asked for.
#
# This is what the model gets of the first picture: for each patch a vector, here as its length and as its first eight numbers, each where the patch was.

# %%
side = round(len(features[0]) ** 0.5)
grids = [features[0].norm(dim=1), *features[0][:, :8].T]
display(show_maps([each.view(side, side) for each in grids], ["length", *(f"number {n}" for n in range(8))], columns=9, size=1.1, alt="Features of the first picture over its patches."))

# %% [markdown]
# ## Exercise: right without looking
#
# *Exercise 12.blind · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("12.blind")`*
#
# Before any training, the floor: how much would be right with closed eyes? Who only knows the answers of the training gives the most frequent one, always (of equally frequent ones the first).

# %%
@exercise("12.blind")
def blind(seen: list[str], asked: list[str]) -> float:
    """seen: answers of the training, asked: right answers of the test -> share that is right with closed eyes."""
    ### BEGIN SOLUTION
    answer = max(dict.fromkeys(seen), key=seen.count)
    return asked.count(answer) / len(asked)
    ### END SOLUTION


# %%
check("12.blind")

# %%
passes = planned_passes(settings, "i2t", budget, None)
learnt = [parse_conversation(cell)[-1]["content"] for path in find_files(settings.data_dir, passes[-1].data) for cell in read_table(path, columns=["conversations"])["conversations"].to_pylist()]
truths = [item.truth for item in shown]


def named(texts: list[str], kind: set[str]) -> list[str]:
    """The first word of a kind in each text that has one."""
    return [next(word for word in words(text) if word in kind) for text in texts if set(words(text)) & kind]


print(f"{len(learnt)} answers in training, {len(set(learnt))} different ones")
print(f"whole descriptions right with closed eyes: {blind(learnt, truths):.1%}")
for name, kind in (("colour", set(COLOURS)), ("shape", set(SHAPES)), ("place", {"above", "below", "left", "right"})):
    if named(learnt, kind) and named(truths, kind):
        print(f"the first {name:6} right with closed eyes: {blind(named(learnt, kind), named(truths, kind)):.0%}")

# %% [markdown]
# ## Train
#
# The projector alone, then everything, with rows of both earlier tasks mixed in. The original trains I2T only in its full recipe: the projector at 5e-5, then all at 5e-6, a tenth of it: by then the weights read, hear and speak, and a small rate is what guards that. Our rates
# are those of a small model that must see in minutes. Some captions were spoken for T2A: these rows bring their sound along, so that the Talker learns to speak behind a picture, where the answer
# begins 64 positions later than it is used to.

# %%
for stage in passes:
    print(f"{stage.name:14} learning: {stage.trainable:12} {stage.steps} steps, rehearsal: {', '.join(f'{each.share:.0%} {each.data[0]}' for each in stage.rehearsal) or 'none'}")

# %% [markdown]
# What will it cost? Again a few updates of each pass on the clock, thrown away. A picture takes 64 positions: more than most spoken questions, and far more than its caption.

# %%
before, _ = latest_weights(settings, run, before="i2t")
trials = try_passes(settings, passes, before, exam.encoders)
print(f"this kernel has held {peak_memory(settings.device()) / 1e6:.0f} MB at most so far")
predict("12.minutes", f"{' and '.join(str(stage.steps) for stage in passes)} updates: how many minutes will both passes take together?", None)

# %%
predict("12.hardest", "What will be wrong most often: 'size', 'colour', 'shape', 'place' or 'number'?", None)

# %%
with LossCurves(run / "log" / "i2t.jsonl", "I2T"):
    result = train(settings, "i2t", budget, run, encoders=exam.encoders, snapshots=True)

# %%
print_beside(trials, read_log(result.log_file))
print(f"at most {result.memory / 1e6:.0f} MB")
reveal("12.minutes", round(result.seconds / 60, 1), "minutes, with looking at held-out rows and saving")

# %% [markdown]
# The codebooks on the right are nearly all rehearsal; new is only that some answers are spoken behind a picture. (The minutes are those of the machine and the hour; the line at the top is of the whole notebook.) On held-out rows, all that was measured on the way, the text loss of each task and the codebooks:

# %%
for entry in read_log(result.log_file, validation=True):
    codebooks = "  ".join(f"{loss:.2f}" for loss in entry["codebooks"]) if any(entry["codebooks"]) else "nothing spoken"
    print(f"step {entry['step'] + 1:5}  {entry['validation']:15} text {entry['text']:.3f}   codebooks {codebooks}")

# %% [markdown]
# ## Look, then say
#
# Pictures whose captions were never drawn in training.

# %%
candidate = Candidate(result.model_file, exam)
prompts = exam.picture_prompts(shown, features)
texts = candidate.texts(prompts, "pictures")
hits = torch.tensor([text.strip() == item.truth for text, item in zip(texts, shown)])
print(f"{hits.float().mean():.0%} of {len(hits)} descriptions right, word for word")
wrong = [n for n in range(len(shown)) if not hits[n]][:6]
if len(wrong) > 1:
    gallery([shown[n] for n in wrong], [f"it says: {texts[n]}" for n in wrong])

# %% [markdown]
# ## Several looks
#
# A picture that is moved by three pixels falls otherwise into its patches, and where the eyes mistook a cross for a star they may not do so again. So look several times: `exam.seen_prompts` moves each picture by the shares of its sides in `Decoding.looks`, and of every word of the answer the one is taken that all looks together find likeliest, their
# log-probabilities added: `agree` in `mmo/generation.py`, by which notebook 11 brought its hearings together. Nothing is learnt for it. The first look speaks the answer; the others leave when the text has ended.

# %%
looks = exam.decoding.looks
print("moved down and right, in shares of the sides:", "  ".join(f"{down:+.3f} {right:+.3f}" for down, right in looks))
prompts, at_once = exam.seen_prompts(shown), hits
texts = candidate.texts(prompts, f"{len(looks)} looks")
hits = torch.tensor([text.strip() == item.truth for text, item in zip(texts, shown)])
print(f"one look: {at_once.float().mean():.0%} right; {len(looks)} looks together: {hits.float().mean():.0%}")
print(f"{int((hits & ~at_once).sum())} were put right, {int((at_once & ~hits).sum())} were put wrong")

# %% [markdown]
# Which word was it? The truth and the answer are compared word by word where they are equally long.

# %%
sizes, places = {"small", "large"}, {"above", "below", "left", "right"}
shapes = {"circle", "square", "triangle", "star", "heart", "moon", "cross", "ring", "diamond"}


def kind(word: str) -> str:
    """Which attribute a word names; "colour" is what is none of the others."""
    if word in sizes:
        return "size"
    if word in places:
        return "place"
    if word in NUMBERS:
        return "number"
    return "shape" if word.rstrip("s") in shapes or word == "crosses" else "colour"


missed = Counter()
for text, item in zip(texts, shown):
    said, meant = ([word for word in words(each) if word != "of"] for each in (text, item.truth))  # "left of" is as long as "above"
    if len(said) == len(meant):
        missed.update({kind(truth) for word, truth in zip(said, meant) if word != truth and truth not in {"a", "an"}})
    elif text.strip() != item.truth:
        missed["size"] += 1  # a size left out, or one too many, changes the number of words
print("descriptions with a wrong …", dict(missed.most_common()))
most = max(missed.values(), default=0)
worst = [name for name, times in missed.items() if times == most] or ["none"]
reveal("12.hardest", worst, "(equally: each counts)" if len(worst) > 1 else "")

# %% [markdown]
# ## Exercise: the same picture, told from the other thing
#
# *Exercise 12.told · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("12.told")`*
#
# That count is hard on one kind of answer. "A blue square below a large red circle" has nearly every word wrong where "a large red circle above a blue square" is meant, and is true: only the wrong thing was named first. Whether a thing is seen, and whether it is named first, are two skills. So turn
# a caption round: the other thing first, and the relation as it looks from there. What has no relation (one thing, or a number of them) stays as it is.

# %%
@exercise("12.told")
def told(said: list[str]) -> list[str]:
    """The words of a caption -> the words of the same picture's caption, told from the other thing."""
    ### BEGIN SOLUTION
    turned = {"above": "below", "below": "above", "left": "right", "right": "left"}
    at = next((n for n, word in enumerate(said) if word in turned), None)
    if at is None:
        return said
    rest = said[at + 1 :]
    of = rest[:1] if rest[:1] == ["of"] else []
    return rest[len(of) :] + [turned[said[at]]] + of + said[:at]
    ### END SOLUTION


# %%
check("12.told")

# %%
two = [n for n, item in enumerate(shown) if set(words(item.truth)) & places]  # pictures of two things
from_the_other = [n for n in two if not hits[n] and words(texts[n]) == told(words(shown[n].truth))]
wrong_in_two = sum(not hits[n] for n in two)
print(f"{wrong_in_two} of {len(two)} descriptions of two things are wrong word for word; {len(from_the_other)} of them tell the same picture from its other thing")
print(f"seen rightly, whichever is named first: {float(hits.float().mean()) + len(from_the_other) / len(hits):.0%} of all {len(hits)}")
if from_the_other:
    gallery([shown[n] for n in from_the_other[:6]], [f"it says: {texts[n]}" for n in from_the_other[:6]])

# %% [markdown]
# What is wrong from either side is a matter of the eyes, or of what was made of their vectors; what is wrong from one side only is a matter of the order. Where none tells its picture from the other thing, the order is no part of the mistakes. Look at the wrong ones above: some may say one thing twice, the second in the colour and shape of the first.
#
# ## Exercise: how far to trust a share
#
# *Exercise 12.interval · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("12.interval")`*
#
# A hundred pictures, so many right. Another hundred would have given another number; how different? The *bootstrap* pretends that the hundred are the world: it draws a hundred of them with
# replacement, again and again, and looks how far the share swings. `drawn` (R, N) holds those draws; give the 2.5th and the 97.5th percentile of the shares.

# %%
@exercise("12.interval")
def interval(hits: Tensor, drawn: Tensor) -> Tensor:
    """hits (N,) bool, drawn (R, N) int64 -> (2,) float64: the 95 % interval of the share of hits."""
    ### BEGIN SOLUTION
    shares = hits.double()[drawn].mean(dim=1)
    return torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64))
    ### END SOLUTION


# %%
check("12.interval")

# %%
drawn = torch.randint(len(hits), (1000, len(hits)), generator=torch.Generator().manual_seed(0))
low, high = interval(hits, drawn).tolist()
print(f"{hits.float().mean():.0%} of {len(hits)}: between {low:.0%} and {high:.0%}, nineteen times in twenty")

# %% [markdown]
# (Where all are right, or none, the bootstrap has nothing else to draw and gives an interval of no width. That is no certainty: with $n$ of $n$ right the share may still be as low as about $1 - 3/n$.)
#
# **The control.** With the pictures swapped, the answers must swap too.

# %%
pairs = [(n, other) for n, other in enumerate(measures.swap([item.truth for item in shown])) if other is not None]
swapped = candidate.texts([prompts[other] for _, other in pairs], "swapped")
print(f"against its own picture's truth: {np.mean([text.strip() == shown[n].truth for text, (n, _) in zip(swapped, pairs)]):.0%} right")
print(f"against the other picture's: {np.mean([text.strip() == shown[other].truth for text, (_, other) in zip(swapped, pairs)]):.0%}")

# %% [markdown]
# ## What each stage taught, and what it forgot
#
# Every stage's weights lie in the run's folder. The same small examination for each of them; **predict** the column before you run it.

# %%
predict("12.forgotten", "After I2T: does it still answer as many written questions as after T2A? 'yes' or 'no'", None)

# %%
few = 40 if budget == "full" else 4
read, heard, seen = (measures.spread(of_tier(items, "sentence"), few) for items in (exam.said, exam.asked, exam.shown))
tasks = {
    "read": (exam.text_prompts(read), read),
    "hear": (exam.heard_prompts(heard), heard),
    "see": (exam.seen_prompts(seen), seen),
}
marks = {}
for stage in ("t2a", "a2a", "i2t"):
    path = stage_file(run, stage)
    if path.is_file():
        after = Candidate(path, exam)
        marks[stage] = {
            task: torch.tensor([measures.same_words(text, item.truth) for text, item in zip(after.texts(asked, f"{stage}: {task}"), items)])
            for task, (asked, items) in tasks.items()
        }
print(f"{'after':8}" + "".join(f"{task:>8}" for task in tasks))
for stage, row in marks.items():
    print(f"{stage:8}" + "".join(f"{row[task].float().mean():8.0%}" for task in tasks))

# %% [markdown]
# ## Exercise: is it forgotten, or is it chance?
#
# *Exercise 12.change · difficulty ●●○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("12.change")`*
#
# Some percent more or less: learnt, forgotten, or luck with forty questions? The *same* questions were asked each time, and a hard one is hard before and after. So draw questions, not answers: the interval of the difference, item by item.

# %%
@exercise("12.change")
def change(before: Tensor, after: Tensor, drawn: Tensor) -> Tensor:
    """before, after (N,) bool, drawn (R, N) int64 -> (2,) float64: the 95 % interval of the difference of the shares."""
    ### BEGIN SOLUTION
    differences = after.double() - before.double()
    return torch.quantile(differences[drawn].mean(dim=1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    ### END SOLUTION


# %%
check("12.change")

# %%
stages = list(marks)
redrawn = torch.randint(few, (1000, few), generator=torch.Generator().manual_seed(1))
for one, other in zip(stages, stages[1:]):
    for task in tasks:
        if len(marks[one][task]) == few:
            low, high = change(marks[one][task], marks[other][task], redrawn).tolist()
            verdict = "chance could do that" if low <= 0 <= high else "won" if low > 0 else "forgotten"
            print(f"{one} -> {other}, {task:5} {marks[other][task].float().mean() - marks[one][task].float().mean():+5.0%}   ({low:+.0%} to {high:+.0%}): {verdict}")
low, high = change(marks[stages[0]]["read"], marks["i2t"]["read"], torch.randint(len(read), (1000, len(read)), generator=torch.Generator().manual_seed(2))).tolist()
reveal("12.forgotten", "yes" if high >= 0 else "no", f"(from {stages[0]} to i2t {low:+.0%} to {high:+.0%})")

# %% [markdown]
# ## On the way, and aloud
#
# The first picture at each snapshot, asked and answered aloud, with one voice and one seed. At step 0 no picture has ever been learnt: 64 vectors mean nothing yet, and what the model did last with vectors, in A2A, was to write down a question
# and close its think block. So if it begins with `</think>`, or several, it closes a block that nobody opened; what follows is a guess.

# %%
display(show_image(read_picture(shown[0].picture), f"The picture. {shown[0].truth}"))
print(f"the truth: {shown[0].truth}")
prompt = replace(prompts[0], speaker=next(iter(exam.voices.values()), None), seed=0)
for step, path in [(0, before), *snapshots_of(run, "i2t")]:
    answer = Candidate(path, exam).answer([prompt], f"step {step}", speech=True)[0]
    display(listen(answer.samples, answer.sample_rate, f"after {step} steps: {answer.text}"))

# %%
assistant = Assistant.load(settings, run)
for n, item in enumerate(shown[:3]):
    picture = read_picture(item.picture)
    display(show_image(picture, f"The picture. {item.truth}"))
    spoken = assistant.ask("What do you see?", picture=picture, voice=next(iter(assistant.voices), None), seed=n)
    display(listen(spoken.samples, spoken.sample_rate, f"{spoken.text}   (wanted: {item.truth})"))

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("12")

# %% [markdown]
# ## Summary
#
# - Three stages, one set of weights: it reads, hears, sees and speaks.
# - A share of hits means little without its interval, and nothing without its control.
# - The same picture from a little aside brings other mistakes; what all looks agree on is more often right.
# - What is rehearsed can stay. Whether it did is counted, question by question.
#
# **Often mistaken.** *"It saw the caption's words in the picture."* It saw 64 vectors; words are its own. *"A wrong word means bad eyes."* It may have seen all, and told it from the other thing; whether it did can be counted.
#
# **To try.** Cover half of the patches with zeros. Ask "What colour is the circle?" of a picture with a circle, and of one without. Next: [notebook 13](13_talk_to_it.ipynb).
#
# **Where to read on.** `mmo/vision_encoder.py`, `mmo/measures.py`. Papers:
#
# - M. Tschannen, A. Gritsenko, X. Wang and others: *SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense Features.* 2025,
#   [arXiv:2502.14786](https://arxiv.org/abs/2502.14786).
# - H. Liu, C. Li, Q. Wu, Y. J. Lee: *Visual Instruction Tuning.* NeurIPS 2023, [arXiv:2304.08485](https://arxiv.org/abs/2304.08485).
# - M. Bisani, H. Ney: *Bootstrap estimates for confidence intervals in ASR performance evaluation.* ICASSP 2004.
