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
# *Takes 71 minutes (tiny) · runs in 628 s on 2 cores (tiny) · builds on 03, 11 · 4 exercises, 10 points*
#
# **At the end** it looks at a picture it never saw and says what is there: colours, shapes, sizes, and which is where. You know which of these it reads well, how sure that is, and
# whether the other skills paid for it.
#
# **You need** notebook 11's model (or the shipped one); that a picture is 64 vectors, one a patch (notebook 03).
#
# **The claim.** The same recipe again: a frozen encoder, two linear layers, placeholders. Sight costs the model no new kind of part. What it costs is rehearsal: more than half of the rows of its second pass
# teach again what was learnt before, and you count whether that was enough.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
from collections import Counter
from dataclasses import replace
from textwrap import fill

import numpy as np
import torch
from pyarrow.parquet import read_table
from torch import Tensor
from tqdm.auto import tqdm

from mmo import measures
from mmo.assistant import Assistant
from mmo.checkpoint import latest_weights, snapshots_of, stage_file
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.cost import print_beside, try_passes
from mmo.course.pictures import bare, show_maps
from mmo.data import find_files
from mmo.display import LossCurves, drawing, finish, listen, show_image
from mmo.examination import SIZES, Candidate, Exam, of_tier
from mmo.measures import words
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.rows import parse_conversation
from mmo.training import peak_memory, planned_passes, read_log, read_picture, train
from mmo.vision_encoder import moved
from mmo.world.text import COLOURS, NUMBERS, SHAPES

settings = find_profile(profile)
run = run_dir(settings, budget)
exam = Exam(settings, SIZES[budget])
count = 100 if budget == "full" else 6
shown = measures.spread(of_tier(exam.shown, "sentence"), count)


def gallery(items, captions):
    """Pictures in rows of three, each under its words."""
    rows = -(-len(items) // 3)
    with drawing(7.5, 3.0 * rows) as figure:
        places = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes in places[len(items) :]:
            axes.set_visible(False)
        for axes, item, caption in zip(places, items, captions):
            axes.imshow(read_picture(item.picture))
            axes.set_title(fill(caption, 30), fontsize=9)
            bare(axes)
        display(finish(figure, "Pictures, each under its words: " + " | ".join(captions), pictures=True))


# %% [markdown]
# ## What there is to see

# %%
gallery(shown[:6], [item.truth for item in shown[:6]])
features = exam.see(shown)
print(f"{len(features)} pictures, each {tuple(features[0].shape)}: patches by numbers")

# %% [markdown]
# A caption names what is larger first; of two things of one size, the one above or on the left. So there is one right answer to each picture, and exact words can be asked for.
#
# This is what the model gets of the first picture: for each patch a vector, here as its length and as its first eight numbers, each where the patch was (yellow is high, dark blue low, each map on a scale of its own).

# %%
side = round(len(features[0]) ** 0.5)
grids = [features[0].norm(dim=1), *features[0][:, :8].T]
names = ["length", *(f"number {n}" for n in range(8))]
display(show_maps([each.view(side, side) for each in grids], names, columns=5, alt="Features of the first picture over its patches."))

# %% [markdown]
# ## Exercise: right without looking
#
# *Exercise 12.blind · difficulty ●○○ · importance ●●○ · 5 minutes · 2 points · stuck? `hint("12.blind")`*
#
# Before any training, the floor: how much would be right with closed eyes? Someone who knows only the training answers always gives the most frequent one (of equally frequent ones the first).

# %%
@exercise("12.blind")
def blind(seen: list[str], asked: list[str]) -> float:
    """The share that is right with closed eyes.

    seen: answers of the training.  asked: right answers of the test.
    """
    ### BEGIN SOLUTION
    answer = max(dict.fromkeys(seen), key=seen.count)
    return asked.count(answer) / len(asked)
    ### END SOLUTION


# %%
check("12.blind")

# %%
passes = planned_passes(settings, "i2t", budget, None)
tables = [read_table(path, columns=["conversations"]) for path in find_files(settings.data_dir, passes[-1].data)]
learnt = [parse_conversation(cell)[-1]["content"] for table in tables for cell in table["conversations"].to_pylist()]
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
# The projector alone, then everything, with rows of both earlier tasks, and a few of the text that the Thinker learnt from, mixed in. The original trains I2T only in its full recipe: the projector at 5e-5, then all at 5e-6, a tenth of it: by then the weights read, hear and speak, and a small rate is what guards that. Our rates
# are those of a small model that must see in minutes. Some captions were spoken for T2A: these rows bring their sound along, so that the Talker learns to speak behind a picture, where the answer
# begins 64 positions later than it is used to.

# %%
for stage in passes:
    print(f"{stage.name:14} learning: {stage.trainable}, {stage.steps or f'{stage.epochs:g} epochs of'} steps")
    print(f"{'':14} rehearsal: {', '.join(f'{each.share:.0%} {each.data[0]}' for each in stage.rehearsal) or 'none'}")

# %% [markdown]
# What will it cost? Again a few updates of each pass on the clock, thrown away. A picture takes 64 positions: more than most spoken questions, and far more than its caption.

# %%
before, _ = latest_weights(settings, run, before="i2t")
trials = try_passes(settings, passes, before, exam.encoders)
print(f"this kernel has held {peak_memory(settings.device()) / 1e6:.0f} MB at most so far")
updates = " and ".join(str(stage.steps or f"{stage.epochs:g} epochs of") for stage in passes)
predict(
    "12.minutes", f"{updates} updates: how many minutes will both passes take together?",
    None,
)

# %%
predict(
    "12.hardest", "What will be wrong most often: 'size', 'colour', 'shape', 'place' or 'number'?",
    None,
)

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
entries = [("T2A", each) for each in read_log(run / "log" / "t2a.jsonl", validation=True)[-1:]]  # none where shipped weights were gone on from
entries += [(str(each["step"] + 1), each) for each in read_log(result.log_file, validation=True)]
print(f"{'step':>5}  {'held out':15}{'text':>6}   codebook" + "".join(f"{k:6}" for k in range(settings.model.num_codebooks)))
for step, entry in entries:
    codebooks = "".join(f"{loss:6.2f}" if any(entry["codebooks"]) else f"{'–':>6}" for loss in entry["codebooks"])
    print(f"{step:>5}  {entry['validation']:15}{entry['text']:6.3f}   {'':8}{codebooks}")

# %% [markdown]
# A dash: nothing was spoken in these rows. The line `T2A` on top is where T2A ended (notebook 10; there is none where you went on from the shipped weights). In A2A the first codebooks had risen above it. Here they rise once more where all weights begin to learn (the curves on the right, above), and then come down, while speech is rehearsed. Compare the last spoken line with the first.

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
# A picture that is moved by three pixels falls differently into its patches (the white lines below), and where the eyes mistook a cross for a star they may not do so again. So look several times: `exam.seen_prompts` moves each picture by the shares of its sides in `Decoding.looks`, and of every word of the answer the one is taken that all looks together find likeliest, their
# log-probabilities added: `agree` in `mmo/generation.py`, by which notebook 11 brought its hearings together. Nothing is learnt for it. The first look speaks the answer; the others leave when the text has ended.

# %%
looks = exam.decoding.looks
shifted, names = [], []
for down, right in looks:
    pixels = np.array(moved(read_picture(shown[0].picture), down, right))
    height, width, _ = pixels.shape
    for edge in range(1, side):  # white lines where one patch ends and the next begins
        pixels[edge * height // side] = pixels[:, edge * width // side] = 255
    shifted.append(pixels)
    steps = ((round(down * height), "down", "up"), (round(right * width), "right", "left"))
    names.append("\n".join(f"{abs(step)} pixels {one if step > 0 else other}" for step, one, other in steps if step) or "as it is")
display(show_maps(shifted, names, columns=5, alt="The first picture at each look, under the lines between its patches."))
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


def things(text: str) -> list[tuple[str, str]]:
    """Colour and shape of each single thing that a description names."""
    said = words(text)
    return [(colour, shape) for colour, shape in zip(said, said[1:]) if shape in shapes]


missed = Counter()
for text, item in zip(texts, shown):
    said, meant = ([word for word in words(each) if word != "of"] for each in (text, item.truth))  # "left of" is as long as "above"
    if len(said) == len(meant):
        missed.update({kind(truth) for word, truth in zip(said, meant) if word != truth and truth not in {"a", "an"}})
    elif text.strip() != item.truth:
        missed["size"] += 1  # a size left out, or one too many, changes the number of words
print("descriptions with a wrong …", ", ".join(f"{name} {times}" for name, times in missed.most_common()) or "none")
twice = [n for n in range(len(shown)) if not hits[n] and len(set(things(texts[n]))) < len(things(texts[n]))]
print(f"{len(twice)} of {int((~hits).sum())} wrong descriptions name one thing twice")
most = max(missed.values(), default=0)
worst = [name for name, times in missed.items() if times == most] or ["none"]
reveal("12.hardest", worst, "(equally: each counts)" if len(worst) > 1 else "")

# %% [markdown]
# ## Exercise: the same picture, told from the other thing
#
# *Exercise 12.told · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("12.told")`*
#
# A count of words knows nothing of things. A description that names one thing twice has colour and shape wrong at once. And on another kind of answer the count is too hard: "A blue square below a large red circle" has nearly every word wrong where "a large red circle above a blue square" is meant, and is true: only the wrong thing was named first. Whether a thing is seen, and whether it is named first, are two skills. So turn
# a caption round: the other thing first, and the relation as it looks from there. What has no relation (one thing, or a number of them) stays as it is.

# %%
@exercise("12.told")
def told(said: list[str]) -> list[str]:
    """The words of the same picture's caption, told from the other thing.

    said: the words of a caption.
    """
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
print(f"{wrong_in_two} of {len(two)} descriptions of two things are wrong word for word; of these")
print(f"{len(from_the_other):3} tell the same picture from its other thing")
print(f"{len(set(two) & set(twice)):3} name one thing twice")
print(f"seen rightly, whichever is named first: {float(hits.float().mean()) + len(from_the_other) / len(hits):.0%} of all {len(hits)}")
if from_the_other:
    gallery([shown[n] for n in from_the_other[:6]], [f"it says: {texts[n]}" for n in from_the_other[:6]])

# %% [markdown]
# What is wrong from either side is a matter of the eyes, or of what was made of their vectors; what is wrong from one side only is a matter of the order. Where none tells its picture from the other thing, the order is no part of the mistakes here. Where many name one thing twice, the mistake is not one colour taken for another, nor one shape: one of the two things is named in the colour and shape of the other. Look at the wrong ones under *Look, then say* once more.
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
    """The 95 % interval of the share of hits, (2,) float64.

    hits (N,) bool.  drawn (R, N) int64: which items each of R draws took.
    """
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
# **The control.** With the pictures swapped, the answers must swap too. (Each gets another picture drawn at random, some twice and some never: so the second figure need not be quite the share from above.)

# %%
pairs = [(n, other) for n, other in enumerate(measures.swap([item.truth for item in shown])) if other is not None]
swapped = candidate.texts([prompts[other] for _, other in pairs], "swapped")
own, others = (np.mean([text.strip() == shown[pair[place]].truth for text, pair in zip(swapped, pairs)]) for place in (0, 1))
print(f"against its own picture's truth: {own:.0%} right\nagainst the other picture's:     {others:.0%}")

# %% [markdown]
# ## What each stage taught, and what it forgot
#
# Every stage's weights lie in the run's folder. The same small examination for each of them: written questions, spoken ones, pictures. **Predict** before you run it whether reading lasts. (How well it speaks has no column: the codebooks under *Train* and in [notebook 11](11_train_a2a.ipynb) say something of it, your ear says more.)

# %%
predict(
    "12.forgotten", "After I2T: does it still answer as many written questions as after T2A, 'yes' or 'no'?",
    None,
)

# %%
few = 40 if budget == "full" else 4
read, heard, seen = (measures.spread(of_tier(items, "sentence"), few) for items in (exam.said, exam.asked, exam.shown))
tasks = {
    "read": (exam.text_prompts(read), read),
    "hear": (exam.heard_prompts(heard), heard),
    "see": (exam.seen_prompts(seen), seen),
}
marks = {}
weights = {stage: stage_file(run, stage) for stage in ("t2a", "a2a", "i2t") if stage_file(run, stage).is_file()}
with tqdm(total=sum(len(items) for _, items in tasks.values()) * len(weights), desc="all stages", unit="answer") as bar:
    for stage, path in weights.items():
        generator, marks[stage] = Candidate(path, exam).generator, {}
        for task, (asked, items) in tasks.items():
            answers = generator.generate_batch(asked, speech=False, progress=bar.update)
            marks[stage][task] = torch.tensor([measures.same_words(answer.text, item.truth) for answer, item in zip(answers, items)])
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
    """The 95 % interval of the difference of the shares, after minus before, (2,) float64.

    before, after (N,) bool: the same items.
    drawn (R, N) int64: which items each of R draws took.
    """
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
        earlier, later = marks[one][task], marks[other][task]
        if len(earlier) == few:
            low, high = change(earlier, later, redrawn).tolist()
            verdict = "chance could do that" if low <= 0 <= high else "won" if low > 0 else "forgotten"
            figures = f"{later.float().mean() - earlier.float().mean():+5.0%}   ({low:+.0%} to {high:+.0%}): {verdict}"
            print(f"{one} -> {other}, {task:5} {'no change' if torch.equal(earlier, later) else figures}")
redrawn = torch.randint(len(read), (1000, len(read)), generator=torch.Generator().manual_seed(2))
low, high = change(marks[stages[0]]["read"], marks["i2t"]["read"], redrawn).tolist()
reveal("12.forgotten", "yes" if high >= 0 else "no", f"(from {stages[0]} to i2t {low:+.0%} to {high:+.0%})")

# %% [markdown]
# ## On the way, and aloud
#
# The first picture at each snapshot, asked in writing and answered aloud, with one voice and one seed. At step 0 no picture has ever been learnt (where you went on from the shipped weights, all were: expect a right answer there): 64 vectors mean nothing yet, and what the model did last with vectors, in A2A, was to write down a question
# and close its think block. So what it says there is a guess, perhaps even a `</think>`.

# %%
display(show_image(read_picture(shown[0].picture), f"The picture. {shown[0].truth}"))
print(f"the truth: {shown[0].truth}")
prompt = replace(prompts[0], speaker=next(iter(exam.voices.values()), None), seed=0)
for step, path in [(0, before), *snapshots_of(run, "i2t")]:
    answer = Candidate(path, exam).generator.generate_batch([prompt])[0]
    display(listen(answer.samples, answer.sample_rate, f"after {step} steps, written: {answer.text}"))

# %%
assistant = Assistant.load(settings, run)
for n, item in enumerate(shown[:3]):
    picture = read_picture(item.picture)
    display(show_image(picture, f"The picture. {item.truth}"))
    spoken = assistant.ask("What do you see?", picture=picture, voice=next(iter(assistant.voices), None), seed=n)
    display(listen(spoken.samples, spoken.sample_rate, f"written: {spoken.text}\nwanted: {item.truth}"))

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
# - The same picture, shifted a little, brings other mistakes. What all looks agree on can put some of them right; count both those put right and those put wrong.
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
