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
# *Takes 50 minutes (tiny) · builds on 11 · 1 exercises, 3 points*
#
# **At the end** it looks at a picture it never saw and says what is there: colours, shapes, sizes, and which is where. You know which of these it reads well, how sure that is, and
# what the other skills paid for it.
#
# **You need** notebook 11's model (or the shipped one); that a picture is 64 vectors, one a patch (notebook 03).
#
# **The claim.** The same recipe again: a frozen encoder, two linear layers, placeholders. Sight costs the model no new part, but it pushes out what is not rehearsed.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from mmo import measures
from mmo.assistant import Assistant
from mmo.checkpoint import latest_weights, snapshots_of, stage_file
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.display import LossCurves, listen
from mmo.examination import SIZES, Candidate, Exam, of_tier
from mmo.measures import words
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.training import planned_passes, read_log, read_picture, train

settings = find_profile(profile)
run = run_dir(settings, budget)
exam = Exam(settings, SIZES[budget])
count = 100 if budget == "full" else 6
shown = measures.spread(of_tier(exam.shown, "sentence"), count)


def gallery(items, captions):
    """Pictures in a row, each under its words."""
    figure, axes = plt.subplots(1, len(items), figsize=(2.3 * len(items), 3.0))
    for axis, item, caption in zip(axes, items, captions):
        axis.imshow(read_picture(item.picture))
        axis.set_title(caption, fontsize=7, wrap=True)
        axis.axis("off")
    plt.show()


# %% [markdown]
# ## What there is to see

# %%
gallery(shown[:6], [item.truth for item in shown[:6]])
features = exam.see(shown)
print(f"{len(features)} pictures, each {tuple(features[0].shape)}: patches by numbers")

# %% [markdown]
# A caption names what is larger first; of two things of one size, the one above or on the left. So there is one right answer to each picture, and exact words can be asked for.
#
# ## Train
#
# The projector alone, then everything, with rows of both earlier tasks mixed in. The original trains I2T only in its full recipe: the projector at 5e-5, then all at 5e-6. Our rates
# are those of a small model that must see in minutes. Some captions were spoken for T2A: these rows bring their sound along, so that the Talker learns to speak behind a picture, where the answer
# begins 64 positions later than it is used to.

# %%
for stage in planned_passes(settings, "i2t", budget, None):
    print(f"{stage.name:14} learning: {stage.trainable:12} {stage.steps} steps, rehearsal: {', '.join(f'{each.share:.0%} {each.data[0]}' for each in stage.rehearsal) or 'none'}")
predict("12.hardest", "What will be wrong most often: 'size', 'colour', 'shape' or 'place'?", None)

# %%
before, which = latest_weights(settings, run, before="i2t")
print(which)
with LossCurves(run / "log" / "i2t.jsonl", "I2T"):
    result = train(settings, "i2t", budget, run, snapshots=True)

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
# Which word was it? The truth and the answer are compared word by word where they are equally long.

# %%
sizes, places = {"small", "large"}, {"above", "below", "left", "right"}
shapes = {"circle", "square", "triangle", "star", "heart", "moon", "cross", "ring", "diamond"}


def kind(word: str) -> str:
    """Which attribute a word names; "colour" is what is none of the others."""
    return "size" if word in sizes else "place" if word in places else "shape" if word.rstrip("s") in shapes or word == "crosses" else "colour"


missed = Counter()
for text, item in zip(texts, shown):
    said, meant = words(text), words(item.truth)
    if len(said) == len(meant):
        missed.update({kind(truth) for word, truth in zip(said, meant) if word != truth and truth not in {"a", "an", "of"}})
    elif text.strip() != item.truth:
        missed["size"] += 1  # a size left out, or one too many, changes the number of words
print("descriptions with a wrong …", dict(missed.most_common()))
reveal("12.hardest", missed.most_common(1)[0][0] if missed else "none")

# %% [markdown]
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
    "hear": (exam.sound_prompts(exam.hear(heard)), heard),
    "see": (exam.picture_prompts(seen, exam.see(seen)), seen),
}
table = {}
for stage in ("t2a", "a2a", "i2t"):
    path = stage_file(run, stage)
    if path.is_file():
        after = Candidate(path, exam)
        table[stage] = {
            task: float(np.mean([measures.same_words(text, item.truth) for text, item in zip(after.texts(asked, f"{stage}: {task}"), items)]))
            for task, (asked, items) in tasks.items()
        }
print(f"{'after':8}" + "".join(f"{task:>8}" for task in tasks))
for stage, row in table.items():
    print(f"{stage:8}" + "".join(f"{row[task]:8.0%}" for task in tasks))
first, last = next(iter(table.values())), table["i2t"]
reveal("12.forgotten", "yes" if last["read"] >= first["read"] - 0.05 else "no")

# %% [markdown]
# ## On the way, and aloud

# %%
for step, path in snapshots_of(run, "i2t"):
    print(f"after {step:4} steps: {Candidate(path, exam).texts(prompts[:1], f'step {step}')[0]}")
print(f"the truth:        {shown[0].truth}")

# %%
assistant = Assistant.load(settings, run)
for n, item in enumerate(shown[:3]):
    picture = read_picture(item.picture)
    display(picture.resize((160, 160)))
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
# - What is rehearsed stays.
#
# **Often mistaken.** *"It saw the caption's words in the picture."* It saw 64 vectors; words are its own. *"A wrong word means bad eyes."* Look at its errors: whether a thing is seen and whether it is named first
# are two skills.
#
# **To try.** Cover half of the patches with zeros. Ask "What colour is the circle?" of a picture with a circle, and of one without. Next: [notebook 13](13_talk_to_it.ipynb).
#
# **Where to read on.** `mmo/vision_encoder.py`, `mmo/measures.py`. Papers:
#
# - M. Tschannen, A. Gritsenko, X. Wang and others: *SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense Features.* 2025,
#   [arXiv:2502.14786](https://arxiv.org/abs/2502.14786).
# - H. Liu, C. Li, Q. Wu, Y. J. Lee: *Visual Instruction Tuning.* NeurIPS 2023, [arXiv:2304.08485](https://arxiv.org/abs/2304.08485).
# - M. Bisani, H. Ney: *Bootstrap estimates for confidence intervals in ASR performance evaluation.* ICASSP 2004.
