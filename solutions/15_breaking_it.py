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
# # 15 · Breaking it
#
# *Takes 155 minutes (tiny) · runs in 266 s on one core (tiny) · builds on 07, 13 · 8 exercises, 20 points*
#
# **At the end** you know where this model loses what, with a number for each place, and you have diagnosed and repaired ten broken runs:
# the mistakes that everybody makes once, and that no error message tells of.
#
# **You need** the whole pipeline: the delay of [notebook 07](07_sequence_and_delay.ipynb), and a model that talks
# ([notebook 13](13_talk_to_it.ipynb)).
#
# **The claim.** An omni model is a chain, and a chain is judged at its joints. Give one part what it would get in the best case,
# leave the others as they are, and the difference is what that part costs. The same habit finds bugs: follow the signal, compare it with a healthy
# run at each joint, and look at the first joint where the two differ.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer sentences, questions, pictures and steps

# %%
import copy
import math

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmo import measures, sequence
from mmo.chat import user_content
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.clinic import Clinic, Ward, agreement_by_codebook
from mmo.display import BLUE, GREY, ORANGE, RED, drawing, finish, listen
from mmo.examination import read_uncoded
from mmo.forcing import forced
from mmo.generation import Prompt
from mmo.profiles import profile as find_profile

settings = find_profile(profile)
config = settings.model
small = budget == "smoke"
# The shipped model, the codec, the encoders and the judge, each loaded when it is first needed.
ward = Ward(settings, questions=4, pictures=3, steps=4) if small else Ward(settings)
generator, codec, tokenizer, judge = ward.generator(), ward.codec, ward.tokenizer, ward.judge
PAD, STOP = config.audio_pad_token, config.audio_stop_token
torch.set_num_threads(1)  # the steps are too small to share
print(f"{sum(p.numel() for p in ward.model.parameters()) / 1e6:.1f} M weights, shipped with the course")

# %% [markdown]
# # Part one: where the bodies are buried
#
# ## 1. The codec hand-off
#
# When the speech is bad, whom do you blame? The Talker writes codes, the codec makes sound of them, the judge writes down what it hears, and each
# of the three has its faults. So measure them apart, on the same sentences:
#
# - the recording itself, never coded: what the judge gets wrong on its own (its **floor**),
# - the recording's true codes through the codec: what is lost **before the Talker begins** (the **ceiling** of everything it can do),
# - true codes in the first $n$ codebooks, and the Talker's own in the rest: what each further codebook costs,
# - the Talker's codes alone.

# %%
bounds = (5, 7)  # words: short answers have up to 5, long ones more than 7
spoken_once = [item for item in ward.said if item.uncoded]
of_length = [[item for item in spoken_once if sum(len(measures.words(item.truth)) > bound for bound in bounds) == group] for group in range(3)]
sentences = [item for group in of_length for item in measures.spread(group, 2 if small else 20)]
for item in sentences[:: len(sentences) // 4]:
    print(f"{item.voice}: {item.question}\n     {item.truth}")
recorded = [read_uncoded(item.uncoded) for item in sentences]
seconds = sum(len(samples) / rate for samples, rate in recorded)
print(f"{len(sentences)} sentences of the test set, {seconds:.0f} s of speech, {sum(len(measures.words(item.truth)) for item in sentences)} words")

# %%
predict("15.codec", mine=None, question="Of the word errors that you will see on the Talker's speech, "
        "what share is there already with true codes (judge and codec alone), in percent?")

# %% [markdown]
# ## Exercise: true codes on the diagonal
#
# *Exercise 15.given · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("15.given")`*
#
# To give the Talker true codes for some codebooks, they must be put where it feeds its own: into each step, on the diagonal. In step $s$ of the
# answer codebook $k$ is at frame $f = s - 1 - k$ (sound begins one step behind the text). For codebooks below `given`:
#
# $$\text{fed}_k = \begin{cases} c_{k,f} & 0 \le f < F \\ \text{stop} & f = F \\ \text{chosen}_k & \text{else}\end{cases}$$

# %%
@exercise("15.given")
def given_codes(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    """codes (Q, F) true, chosen (Q,)
    -> (Q,) what is fed in this step: true codes in the first `given` codebooks."""
    ### BEGIN SOLUTION
    fed, frames = chosen.clone(), codes.shape[1]
    for k in range(given):
        f = step - 1 - k
        if 0 <= f < frames:
            fed[k] = codes[k, f]
        elif f == frames:
            fed[k] = stop
    return fed
    ### END SOLUTION


# %%
check("15.given")

# %% [markdown]
# `mmo.forcing.forced` puts this into the decoder of [`mmo/generation.py`](../mmo/generation.py): the model runs as ever, and before a step is fed, its text and the
# first codebooks are replaced. Your function is used here, if it is right:

# %%
import mmo.forcing

mmo.forcing.given_codes = given_codes
prompts = [Prompt(tokenizer.prompt([{"role": "user", "content": item.question}]), item.speaker, seed=number) for number, item in enumerate(sentences)]
ways = {"recorded": [samples for samples, _ in recorded], "all 8 true": [codec.decode(item.codes[None])[0, 0].numpy() for item in sentences]}
answers = {}
for given in (3, 1, 0):
    with tqdm(desc=f"codebooks given: {given}", unit="step") as bar:
        answers[given] = forced(generator, prompts, [item.truth for item in sentences], [item.codes for item in sentences], given, progress=bar.update)
    ways[f"first {given} true" if given else "the Talker's"] = [answer.samples for answer in answers[given]]

# %%
sounds = [(name, samples, recorded[0][1] if name == "recorded" else codec.sample_rate) for name, waves in ways.items() for samples in waves]
with tqdm(total=len(sounds), desc="the judge listens", unit="sound") as bar:
    texts = iter(judge.transcribe([(samples, rate) for _, samples, rate in sounds], workers=1, progress=bar.update))
heard = {name: [next(texts) for _ in waves] for name, waves in ways.items()}
errors = {name: measures.word_errors([item.truth for item in sentences], found) for name, found in heard.items()}
for name, figure in errors.items():
    low, high = figure.interval()
    print(f"{name:13} {100 * figure.wer:5.1f} % of the words wrong   (95 % interval: {100 * low:.0f} to {100 * high:.0f})")

# %%
order = ["recorded", "all 8 true", "first 3 true", "first 1 true", "the Talker's"]
with drawing(7.0, 2.2) as figure:
    axes = figure.add_subplot()
    rates = [100 * errors[name].wer for name in order]
    spans = [errors[name].interval() for name in order]
    axes.barh(order, rates, color=[GREY, BLUE, ORANGE, ORANGE, RED], height=0.6,
              xerr=[[rate - 100 * low for rate, (low, _) in zip(rates, spans)], [100 * high - rate for rate, (_, high) in zip(rates, spans)]], ecolor="#666666", capsize=3)
    axes.set(xlabel="words the judge gets wrong, percent", xlim=(0, None))
    axes.invert_yaxis()
    picture = finish(figure, "Word error rates: " + ", ".join(f"{name} {rate:.0f} percent" for name, rate in zip(order, rates)))
display(picture)
before = errors["all 8 true"].wer / max(errors["the Talker's"].wer, 1e-9)
reveal("15.codec", round(100 * before), "percent of the Talker's errors that are there already with true codes")

# %% [markdown]
# ## Exercise: who is to blame?
#
# *Exercise 15.blame · difficulty ●○○ · importance ●●● · 5 minutes · 2 points · stuck? `hint("15.blame")`*
#
# Each bar is what is wrong after one more joint. What did each joint add, as a share of all the errors at the end? A joint may also mend something: then its share is negative.

# %%
@exercise("15.blame")
def blame(rates: Tensor) -> Tensor:
    """rates (K,) float64 of errors behind each joint, the last one the whole
    -> (K,) shares that sum to 1."""
    ### BEGIN SOLUTION
    return torch.diff(rates, prepend=rates.new_zeros(1)) / rates[-1]
    ### END SOLUTION


# %%
check("15.blame")

# %%
joints = ["the judge", "the codec", "codebooks 3 to 7", "codebooks 1 and 2", "codebook 0 and the stop"]
shares = blame(torch.tensor([errors[name].wer for name in order], dtype=torch.float64))
counted = np.stack([errors[name].errors for name in order])  # (bars, sentences)
added = np.diff(counted, axis=0, prepend=0)  # sentence by sentence: what a joint added
print("added to the words wrong at the end (95 % interval, sentence by sentence):")
for joint, share, found in zip(joints, shares.tolist(), added):
    low, high = measures.interval(found, counted[-1])  # the same sentences are drawn on both sides
    print(f"{joint:24} {share:+5.0%}   ({low:+.0%} to {high:+.0%})")

# %%
worst = int(np.argmax(errors["the Talker's"].errors - errors["all 8 true"].errors))
for name in ("recorded", "all 8 true", "the Talker's"):
    rate = recorded[worst][1] if name == "recorded" else codec.sample_rate
    display(listen(ways[name][worst], rate, f"{name}: {sentences[worst].truth}\nthe judge hears: {heard[name][worst] or '(nothing)'}", small=True))

# %% [markdown]
# Read it from the top. From the first bar to the second nothing was predicted: that is the codec alone. The next steps are the Talker's. Where do they begin to cost: in the last five codebooks, in 1 and 2, or in codebook 0?
#
# A bar may be shorter than the one above it. Often that is chance. It can also be real: the Talker goes on best from codes that it would have chosen itself, and a true one may be a code that it did not expect.
#
# Mind the whiskers, and the intervals of the shares. Bars are compared sentence by sentence, for all of them are of the same sentences, and so a difference may be sure
# although the whiskers of its two bars overlap. But where the interval of a share has 0 in it, these sentences do not tell whether that joint costs anything. The report of `mmo evaluate` takes hundreds.
#
# **Not to be confused.** "The codec is good, I heard it" is said of music and of long speech. What counts here is the words. A codec may sound
# pleasant and swallow a consonant.

# %% [markdown]
# ## 2. The frozen encoders: a bottleneck?
#
# ### Ears
#
# A spoken question passes the speech encoder, then the projector, then the Thinker. The encoder is frozen: what it does not hear, nobody behind it can know.
# Four ways to ask the same questions:
#
# - **oracle**: the true words, typed. What the Thinker knows when it hears perfectly.
# - **oracle, as a transcript**: the same in small letters and without signs, for that is how the encoder writes.
# - **cascade**: the encoder's own transcript, typed. What a pipeline of speech recognition and language model would do.
# - **projector**: the features themselves, in one hearing (in use it has three): it writes down what it hears, and answers that ([notebook 11](11_train_a2a.ipynb)).

# %%
predict("15.ears", mine=None, question="Which way gives more right answers, 'cascade' or 'projector'? Or is it 'the same'?")

# %%
questions = measures.spread(ward.items("a2a", ("question_audios",)), 8 if small else 60)
from mmo.features import read_sound

features, lengths = ward.speech_encoder.encode([read_sound(item.question_sound) for item in questions])
transcripts = ward.speech_encoder.spell(features, lengths)
voice = next(iter(ward.voices.values()))


def typed(text: str) -> Prompt:
    """A question in writing."""
    return Prompt(tokenizer.prompt([{"role": "user", "content": text}]), voice)


def spoken(feature: Tensor) -> Prompt:
    """A question as features (N, D)."""
    return Prompt(tokenizer.prompt([{"role": "user", "content": user_content(sound_length=len(feature))}]), voice, audio_features=feature)


asked = {
    "oracle": [typed(item.question) for item in questions],
    "oracle, as a transcript": [typed(" ".join(measures.words(item.question))) for item in questions],
    "cascade": [typed(text) if text else typed("Hello.") for text in transcripts],
    "projector": [spoken(each[:length]) for each, length in zip(features, lengths.tolist())],
}
right = {}
for way, wanted in asked.items():
    with tqdm(total=len(wanted), desc=way, unit="answer") as bar:
        written = generator.generate_batch(wanted, speech=False, progress=bar.update)
    right[way] = np.array([measures.same_words(answer.text, item.truth) for answer, item in zip(written, questions)])
misheard = np.array([not measures.same_words(item.question, text) for item, text in zip(questions, transcripts)])
lost = measures.word_errors([item.question for item in questions], transcripts).wer
print(f"the encoder's own transcript: {100 * lost:.1f} % of the words wrong, in voices it never heard")
columns = (f"of {sum(~misheard)} heard rightly", f"of {sum(misheard)} misheard")
print(f"{'answered rightly':23} {'of all':>8} {'95 % interval':>15} {columns[0]:>22} {columns[1]:>17}")
for way, hits in right.items():
    low, high = measures.share_interval(hits)
    print(f"{way:23} {100 * np.mean(hits):6.0f} % {f'{100 * low:.0f} to {100 * high:.0f}':>15} {sum(hits[~misheard]):22} {sum(hits[misheard]):17}")
gains = right["projector"].astype(int) - right["cascade"].astype(int)
low, high = measures.interval(gains, np.ones_like(gains))
print(f"projector beside cascade, question by question: {gains.mean():+.1%}, 95 % interval {low:+.1%} to {high:+.1%}")
better = "the same" if low <= 0 <= high else "projector" if low > 0 else "cascade"
reveal("15.ears", better, "(another answer than 'the same' only where the interval leaves 0 out)")

# %% [markdown]
# The columns on the right part the questions by whether the encoder's own transcript is right, word for word. The oracles read the true words in both; the cascade reads what was misheard.
#
# From the first oracle to the second: what small letters and missing signs cost a Thinker that has learnt to read sentences. From there to the cascade: what the ear loses. From cascade to projector: who writes the words, the encoder's small head or the model. The model may do better: it writes each word knowing what questions there are, as a sentence in its own spelling, and may still look at the features when it answers, where
# the doubt between two words is not thrown away. It may do worse: it had to *learn* to write what it hears, from a few thousand questions.
#
# ### Eyes
#
# The same question for pictures. A linear **probe** reads an attribute straight from the frozen features ([notebook 03](03_vision_encoder.ipynb)). Beside it, the same attribute in
# what the model says. If the probe knows and the model does not, the projector or the Thinker lost it. If neither does, it never came in.

# %%
from mmo.course.exercises import find
from mmo.training import read_picture
from mmo.world.text import COLOURS, SHAPES, SIZES

KINDS = {"colour": COLOURS, "shape": SHAPES, "size": [size for size in SIZES if size]}


def attributes(caption: str) -> dict[str, int] | None:
    """The attributes of a caption of one thing; None for others."""
    said = measures.words(caption)
    if sum(word in COLOURS for word in said) != 1:
        return None
    found = {}
    for kind, names in KINDS.items():
        here = [number for number, name in enumerate(names) for word in said if word.rstrip("s") == name.rstrip("s") or word == f"{name}es"]
        found[kind] = here[0] if here else len(names)  # no word of size: the middle one
    return found


def pictures_of(split: str, count: int) -> list:
    """Pictures of one kind of thing whose question asks for a caption, with their attributes."""
    from mmo.examination import read_items

    items = read_items(settings.data_dir / f"i2t-{split}.parquet", config, ("image_bytes",))
    return measures.spread([item for item in items if item.kind == "caption" and item.tier in ("train", "sentence") and attributes(item.truth)], count)


shown = {"train": pictures_of("train", 60 if small else 400), "test": pictures_of("test", 12 if small else 60)}
seen = {}
for split, items in shown.items():
    parts = [items[start : start + 40] for start in range(0, len(items), 40)]
    seen[split] = torch.cat([ward.vision_encoder.encode([read_picture(item.picture) for item in part]) for part in tqdm(parts, desc=f"pictures, {split}, 40 at a time", unit="group")])
print({split: tuple(each.shape) for split, each in seen.items()})
predict("15.eyes", mine=None, question="Which attribute will the model say wrongly most often: 'colour', 'shape', 'size' or 'none'?")

# %%
asked = [
    Prompt(tokenizer.prompt([{"role": "user", "content": user_content(item.question, pictures=1, image_length=config.image_token_len)}]), voice, image_features=each)
    for item, each in zip(shown["test"], seen["test"])
]
said = [answer.text for answer in generator.generate_batch(asked, speech=False)]
probe = find("03.probe").reference
pooled_features = {split: torch.cat((each.mean(dim=1), each.amax(dim=1), each.amin(dim=1)), dim=1) for split, each in seen.items()}  # (N, 3 D)
middle, spread = pooled_features["train"].mean(dim=0), pooled_features["train"].std(dim=0) + 1e-6
wrong_share = {}
for kind, names in KINDS.items():
    truth = {split: torch.tensor([attributes(item.truth)[kind] for item in items]) for split, items in shown.items()}
    weights = probe((pooled_features["train"] - middle) / spread, truth["train"], len(names) + 1, 30.0)
    read = (((pooled_features["test"] - middle) / spread) @ weights[:-1] + weights[-1]).argmax(dim=1)
    by_model = [(attributes(text) or {}).get(kind, -1) for text in said]
    of_model = float((torch.tensor(by_model) == truth["test"]).float().mean())
    print(f"{kind:7} the probe {100 * float((read == truth['test']).float().mean()):4.0f} %   the model {100 * of_model:4.0f} %   by chance about {100 / (len(names) + (kind == 'size')):3.0f} %")
    wrong_share[kind] = 1 - of_model
most = max(wrong_share.values())
worst_read = [kind for kind, share in wrong_share.items() if share == most] if most else ["none"]
reveal("15.eyes", worst_read, "(equally: each counts)" if len(worst_read) > 1 else "")

# %% [markdown]
# A probe is a lower bound: it reads what lies on the surface, from the mean and the extremes over the 64 patches. The projector with the Thinker behind it can do more, and
# knows where each patch stands. So *probe low, model high* is no contradiction. *Probe high, model low* is a finding.

# %% [markdown]
# ## 3. Capacity
#
# ### Length
#
# Are short answers easier? Take the errors of the hand-off by the length of the answer. But first: how does one average error rates?
#
# ## Exercise: errors per word, by group
#
# *Exercise 15.pooled · difficulty ●○○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("15.pooled")`*
#
# A sentence of two words with one error, and one of ten words with one: the mean of their rates is 30 %, yet two of twelve words are wrong, 17 %. A rate over a group is the sum of its errors over the sum of its words. Give it for each group.

# %%
@exercise("15.pooled")
def pooled(errors: Tensor, words: Tensor, groups: Tensor, number: int) -> Tensor:
    """errors, words, groups (N,)
    -> (number,) float: errors per word of each group; NaN where a group has no sentence."""
    ### BEGIN SOLUTION
    rates = [errors[groups == group].sum() / words[groups == group].sum() for group in range(number)]
    return torch.stack(rates).float()
    ### END SOLUTION


# %%
check("15.pooled")

# %%
predict("15.length", mine=None, question="How many times more errors per word does the Talker make "
        "in the longest answers than in the shortest?")

# %%
sizes = torch.tensor([len(measures.words(item.truth)) for item in sentences])
groups = sum((sizes > bound).long() for bound in bounds)
names = [f"up to {bounds[0]} words", f"{bounds[0] + 1} to {bounds[1]}", f"more than {bounds[1]}"]
by_length = {}  # name -> percent of each group, and the ends of its interval
for name in ("all 8 true", "the Talker's"):
    wrong, said = errors[name].errors, errors[name].sizes
    rates = 100 * pooled(torch.from_numpy(wrong), torch.from_numpy(said), groups, len(names)).numpy()
    here = [(groups == group).numpy() for group in range(len(names))]
    by_length[name] = rates, 100 * np.array([measures.interval(wrong[those], said[those]) or [math.nan] * 2 for those in here]).T
print(f"{'words of the answer':20} {'sentences':>9} {'codec alone (95 %)':>24} {'Talker (95 %)':>24}")
for group, words in enumerate(names):
    told = [f"{rates[group]:.1f} % ({low[group]:.0f} to {high[group]:.0f})" for rates, (low, high) in by_length.values()]
    print(f"{words:20} {int((groups == group).sum()):9} {told[0]:>24} {told[1]:>24}")
with drawing(6.0, 2.4) as figure:
    axes = figure.add_subplot()
    place = np.arange(len(names))
    for shift, colour, label, (rates, (low, high)) in zip((-0.2, 0.2), (BLUE, RED), ("codec alone", "Talker"), by_length.values()):
        axes.bar(place + shift, rates, 0.38, color=colour, label=label, yerr=np.maximum(0, [rates - low, high - rates]), ecolor="#666666", capsize=3)
    axes.set_xticks(place, names)
    axes.set(ylabel="words wrong, percent")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = finish(figure, "Word error rate by length of the answer, of the codec alone and of the Talker, with 95 % intervals.")
display(picture)
talker = by_length["the Talker's"][0]
ratio = round(float(talker[-1] / talker[0]), 1) if talker[0] > 0 else "no error in the shortest"
reveal("15.length", ratio, f"times; in the middle group {talker[1] / talker[0]:.1f} times" if talker[0] > 0 else "")

# %% [markdown]
# Mind the whiskers: groups of which one's whisker reaches far into another's are not told apart. And look at both colours before you blame the Talker's memory. In a long answer it speaks most of its words when the text is over, so it must remember them. If that hurts, the Talker's bar grows
# with length and the codec's does not. If both rise and fall together, it is the words of these sentences that are hard, for the codec and for the judge ("a", "of", "is"), and not their number.
#
# ### Width
#
# How wide must a Talker be? A fair answer takes a full training for each width, which is hours. A small one takes a minute or two: give Talkers of three widths, behind the same frozen Thinker, the same few spoken answers and the same number of updates, and
# let each say what it has taken in. So this is capacity to *memorise in a given time*, of answers that were heard in training; it tells nothing of new sentences.

# %%
predict("15.width", mine=None, question="A Talker of a quarter of the width has about what share of the weights, in percent?")

# %%
from mmo.config import Draws
from mmo.data import Corpus, Layout, collate, realise
from mmo.display import Curves
from mmo.omni import OmniModel
from mmo.sequence import frames
from mmo.thinker import load_thinker
from mmo.training import Stepper, losses_of

steps = 6 if small else 100
recipe = settings.stages["t2a"][0].replace(trainable="talker", warmup_steps=5, steps=steps, code_dropout=0.0, ema_decay=0.0)
heart = Corpus(ward.trained_rows[0].files, Draws.none(drop_reference=1.0))  # the past is true: it may be copied here
chosen = np.random.default_rng(3).permutation(len(heart))[: 2 if small else 6].tolist()
layout = Layout(config, tokenizer, recipe.max_length)
batch = collate([realise(heart, number, 0, np.random.default_rng(0), layout) for number in chosen], config)
rows = [heart.locate(number)[1] for number in chosen]
lines = [row.conversation[-1]["content"] for row in rows]
by_heart = [Prompt(tokenizer.prompt([{"role": "user", "content": row.conversation[-2]["content"]}]), torch.as_tensor(np.array(row.speaker), dtype=torch.float32)) for row in rows]
print(f"the batch: {len(lines)} answers, {sum(len(measures.words(line)) for line in lines)} words, {batch.size} positions")
widths = [config.talker_hidden_size // 4, config.talker_hidden_size // 2, config.talker_hidden_size]
said_by, weights_of, last_loss, nats_of = {}, {}, {}, {}
with Curves(*(f"width {width}: audio loss" for width in widths)) as curves:
    for width in widths:
        torch.manual_seed(0)
        model = OmniModel(config.replace(talker_hidden_size=width, adapter_rank=max(8, width // 3))).train()
        load_thinker(model.model, settings.thinker_file)
        stepper = Stepper(model, recipe, steps, torch.device("cpu"), torch.float32)
        for number in tqdm(range(steps), desc=f"width {width}", unit="step"):
            last_loss[width] = float(stepper.step(batch, number)[1])
            curves.add(number, *(last_loss[width] if each == width else None for each in widths))
        weights_of[width] = sum(p.numel() for p in model.talker.parameters())
        with torch.no_grad():  # what it has learnt, read along once more; a stop counts like any code
            nats_of[width] = losses_of(model.eval(), batch, recipe.replace(stop_weight=1.0), torch.device("cpu"))[1][3:]
        said_by[width] = ward.generator(model).generate_batch(by_heart, settings.decoding.greedy())

# %%
waves = {"true codes": [codec.decode(frames(row.answers[-1], config.num_codebooks, config.num_codes)[None])[0, 0].numpy() for row in rows]}
waves |= {width: [answer.samples for answer in answers] for width, answers in said_by.items()}
heard_by = {name: judge.transcribe([(samples, codec.sample_rate) for samples in sounds], workers=1) for name, sounds in waves.items()}
by_width = {name: measures.word_errors(lines, found) for name, found in heard_by.items()}
print(f"{'':12} {'M weights':>11} {'last loss':>11} {'seconds an answer':>19} {'words wrong':>13} {'95 % interval':>15}")
for name, figure in by_width.items():
    low, high = figure.interval()
    told = (f"width {name}", f"{weights_of[name] / 1e6:.2f}", f"{last_loss[name]:.2f}") if name in weights_of else (name, "", "")
    seconds = np.mean([len(samples) for samples in waves[name]]) / codec.sample_rate
    print(f"{told[0]:12} {told[1]:>11} {told[2]:>11} {seconds:19.1f} {100 * figure.wer:11.1f} % {f'{100 * low:.0f} to {100 * high:.0f}':>15}")
reveal("15.width", round(100 * min(weights_of.values()) / max(weights_of.values())), "percent")

# %%
with drawing(5.0, 2.2) as figure:
    axes = figure.add_subplot()
    rates = [100 * by_width[width].wer for width in widths]
    spans = [by_width[width].interval() for width in widths]
    axes.errorbar(widths, rates, yerr=[[rate - 100 * low for rate, (low, _) in zip(rates, spans)], [100 * high - rate for rate, (_, high) in zip(rates, spans)]], fmt="o-", color=RED, ecolor="#666666", capsize=3, label="Talker")
    axes.axhline(100 * by_width["true codes"].wer, color=BLUE, linewidth=1.0, label="codec alone")
    axes.set(xlabel="width of the Talker", ylabel="words wrong, percent", xticks=widths, ylim=(0, None))
    axes.legend()
    picture = finish(figure, "Word error rate by width of the Talker, on answers learnt by heart: " + ", ".join(f"{width}: {rate:.0f} percent" for width, rate in zip(widths, rates)))
display(picture)
display(listen(waves["true codes"][0], codec.sample_rate, f"true codes: {lines[0]}", small=True))
for width, answers in said_by.items():
    display(listen(answers[0].samples, codec.sample_rate, f"width {width}: {answers[0].text}", small=True))

# %% [markdown]
# ## Exercise: how weights grow with the width
#
# *Exercise 15.exponent · difficulty ●●○ · importance ●●○ · 6 minutes · 2 points · stuck? `hint("15.exponent")`*
#
# The matrices of a block are width by width; the tables of codes are entries by width. So $\text{weights} \approx c \cdot \text{width}^e$ with an $e$ between 1 and 2. Find it: the slope of the line of least squares through the logarithms.

# %%
@exercise("15.exponent")
def exponent(widths: Tensor, weights: Tensor) -> float:
    """widths, weights (N,) -> e of weights = c · width ** e."""
    ### BEGIN SOLUTION
    x, y = widths.double().log(), weights.double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))
    ### END SOLUTION


# %%
check("15.exponent")

# %%
found = exponent(torch.tensor(list(weights_of)), torch.tensor(list(weights_of.values())))
print(f"the Talker's weights grow with its width to the power of {found:.2f}: twice as wide is {2**found:.1f} times as many")

# %% [markdown]
# ## Exercise: how much it has taken in
#
# *Exercise 15.bits · difficulty ●●○ · importance ●●○ · 8 minutes · 2 points · stuck? `hint("15.bits")`*
#
# Is a narrow Talker *full*? A loss is a length. Where a model gives the true code the probability $p$, that code can be written down with $-\log_2 p$ bits; without a model each of $A$ entries takes $\log_2 A$. These Talkers knew nothing of codes before, so the bits that they save on this
# batch are what they have taken in. The losses are in nats, $-\ln p$, the mean for each codebook; `counts` says how many labels it has. A codebook that is worse than an even guess costs bits.

# %%
@exercise("15.bits")
def bits(losses: Tensor, counts: Tensor, entries: int) -> float:
    """losses (Q,) in nats for a label, counts (Q,) labels, entries A
    -> bits saved over all labels against an even guess."""
    ### BEGIN SOLUTION
    saved = math.log2(entries) - losses / math.log(2)
    return float((counts * saved).sum())
    ### END SOLUTION


# %%
check("15.bits")

# %%
predict("15.bits", mine=None, question="How many bits has the narrowest Talker taken in for each of its weights?")

# %%
labels = (batch.audio_labels != -100).sum(dim=(0, 2))  # (Q,)
there_are = bits(torch.zeros(config.num_codebooks), labels, config.audio_vocab_size)
print(f"the batch: {int(labels.sum())} labels, {there_are / 1000:.1f} thousand bits")
print(f"all of it by heart would be {there_are / weights_of[widths[0]]:.3f} bits for each weight of the narrowest")
for width in widths:
    learnt = bits(nats_of[width], labels, config.audio_vocab_size)
    print(f"width {width:3}: {learnt / 1000:5.1f} thousand bits taken in, {learnt / there_are:4.0%} of all, {learnt / weights_of[width]:.3f} bits a weight")
reveal("15.bits", round(bits(nats_of[widths[0]], labels, config.audio_vocab_size) / weights_of[widths[0]], 3), "bits a weight")

# %% [markdown]
# Models that were trained long hold about *two* bits a weight (Allen-Zhu and Li, at the end of this notebook). Compare that with the second line: the whole batch is a small part of a bit for each weight of the narrowest Talker. So it is not full. What it lacks is time, or steps that use its time better: a wider Talker takes more in with each step.
#
# What does the curve say? Where a narrow Talker stays above the blue line and a wide one comes down to it, the width was what hurt, with these rows in this time. Where all come down, or none does, something else did: the time, the rate, the codec. The narrow ones may also stop too early: compare the seconds of an answer with those of the true codes.
# A word that is not said is a word wrong. Mind the whiskers, and mind what was not asked: a wide Talker that has learnt by heart is not a good one on new sentences.

# %% [markdown]
# ## 4. Half precision
#
# `float16` has 10 bits of fraction and ends at 65504. `bfloat16` has 7 bits and the range of `float32`. So fp16 **overflows**, and bf16 **rounds**. Where would each hurt here?
# Run the model once, note the largest number that each part puts out, and see how much room there is to 65504; what lies above it overflows. Note it for what is computed *inside* a part as well:
# a norm squares its input, a softmax takes its exponential.

# %%
LARGEST = torch.finfo(torch.float16).max
row = sequence.build_row(
    tokenizer.conversation([{"role": "user", "content": sentences[0].question}, {"role": "assistant", "content": sentences[0].truth}]),
    sentences[0].codes, config, sequence.Markers.from_tokenizer(tokenizer), has_speaker=True,
)
inputs = dict(input_ids=row.input_ids[None], speaker=sentences[0].speaker[None])
largest: dict[str, float] = {}
into_norm: dict[str, Tensor] = {}


def watch(name: str):
    """A hook that notes the largest magnitude of a part's output, and of the square of its input where it is a norm."""

    def note(module, given, output) -> None:
        output = output[0] if isinstance(output, tuple) else output
        largest[name] = max(largest.get(name, 0.0), float(output.abs().max()))
        if type(module).__name__ == "RMSNorm":
            largest[f"{name}: x squared"] = float(given[0].square().max())
            into_norm[name] = given[0][0]  # (T, width) or, where heads have norms of their own, (T, heads, width)

    return note


handles = [part.register_forward_hook(watch(name)) for name, part in ward.model.named_modules() if name and not list(part.children())]
with torch.no_grad():
    logits = ward.model(**inputs)
for handle in handles:
    handle.remove()
temperature = 0.2
audio = logits.audio_logits.float()
largest["logits"] = float(max(audio.abs().max(), logits.text_logits.abs().max()))
largest[f"audio logits / {temperature}"] = float(audio.abs().max()) / temperature
loudest = float(audio.max())
room = {name: np.log2(LARGEST / max(value, 1e-9)) for name, value in largest.items()}
tight = sorted(room, key=room.get)[:8]
for name in tight:
    print(f"{name:52} {largest[name]:9.0f}  {abs(room[name]):4.1f} doublings {'above' if room[name] < 0 else 'below'} 65504")
print(f"exp of the audio logits / {temperature} reaches exp({loudest / temperature:.0f}); float16 ends at exp({np.log(LARGEST):.1f})")

# %%
predict("15.half", mine=None, question="With everything in float16, the softmax written out as exp / sum: "
        "at what share of the places where a code is to be said are the probabilities not finite, in percent?")

# %%
here = (row.audio_labels != -100)  # (Q, T): where something is to be said
scaled = (audio[0] / temperature).half()[here]  # (N, A)
naive = scaled.exp() / scaled.exp().sum(dim=-1, keepdim=True)
safe = (scaled - scaled.amax(dim=-1, keepdim=True)).exp()
safe = safe / safe.sum(dim=-1, keepdim=True)
broken = (~naive.isfinite()).any(dim=-1).float().mean()
print(f"exp / sum in float16: not finite at {100 * broken:.0f} % of the places")
print(f"with the largest subtracted first: at {100 * (~safe.isfinite()).any(dim=-1).float().mean():.0f} %")
loudest_norm = max(into_norm, key=lambda name: float(into_norm[name].abs().max()))
stream = into_norm[loudest_norm]
print(f"{loudest_norm} gets numbers of up to {float(stream.abs().max()):.0f}; their squares leave float16 from 256 on")
for kind in (torch.float16, torch.bfloat16, torch.float32):
    x = stream.to(kind)
    by_hand = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + config.rms_norm_eps)
    silent = (by_hand == 0).all(dim=-1).float().mean()
    print(f"RMSNorm by hand in {str(kind)[6:]:9}: {100 * float(silent):3.0f} % of the positions come out as zeros")
in_half = copy.deepcopy(ward.model).half()
with torch.no_grad():
    half = in_half(inputs["input_ids"], speaker=inputs["speaker"].half()).audio_logits.float()
same_best = (half.argmax(dim=-1) == audio.argmax(dim=-1))[0][here].float().mean()
print("the model in float16 with torch's own norms, which square in float32:")
not_finite = float((~half.isfinite()).float().mean())
print(f"  {100 * not_finite:.0f} % of the logits not finite; the likeliest code is the same at {100 * float(same_best):.0f} % of the places")
del in_half
reveal("15.half", round(100 * float(broken)), "percent")

# %% [markdown]
# Two different deaths. The softmax dies loudly: infinity over infinity is NaN, and the sampler raises an error or picks garbage. The norm dies silently: a mean of squares that is infinite gives a scale of zero,
# the result is *zero everywhere* at that position, and the model goes on, deaf. Where its norms square in float32, as torch's do, this model survives in float16; a norm written out by hand may not.
#
# And bf16? It never overflows here, but it has three decimal digits at most. Add up a thousand small probabilities in it, and behind a sum of one half each further thousandth is rounded away.

# %%
shares = (audio[0][here] / temperature).softmax(dim=-1)  # (N, A), fp32
warm = audio[0][here].softmax(dim=-1)
generator_ = torch.Generator().manual_seed(0)
uniform = torch.rand(len(warm), 1, generator=generator_)
for name, probabilities in ((f"temperature {temperature}", shares), ("temperature 1", warm)):
    ordered = probabilities.sort(dim=-1, descending=True).values
    exact = (ordered.cumsum(dim=-1) < uniform).sum(dim=-1)
    for kind in (torch.float16, torch.bfloat16):
        heap = torch.zeros(ordered.shape[:-1], dtype=kind)
        place = torch.zeros_like(exact)
        for rank in range(ordered.shape[-1]):  # one by one, rounding each sum, as a loop in that type does
            heap = heap + ordered[..., rank].to(kind)
            place += heap.float() < uniform[..., 0]
        differ = 100 * float((place != exact).float().mean())
        print(f"{name:16} {str(kind)[6:]:8}: {differ:4.1f} % of the choices differ, the sum ends at {float(heap.float().mean()):.3f}")

# %% [markdown]
# Hence the rule of this repository, `bf16` for the matrices and `fp32` for the choice: a product of large matrices forgives a rounding error, a running sum of small numbers does not.
#
# ## Exercise: a choice that half precision cannot spoil
#
# *Exercise 15.choose · difficulty ●●○ · importance ●●● · 12 minutes · 3 points · stuck? `hint("15.choose")`*
#
# Logits come in half precision. With the uniform number $u$ choose the first id, counted from the likeliest down, at which the summed probabilities reach $u$. Nothing on the way may
# overflow, and no sum may be rounded away.

# %%
@exercise("15.choose")
def choose(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """logits (B, V) in half precision, uniform (B,) in 0..1 -> ids (B,)."""
    ### BEGIN SOLUTION
    values, ids = logits.float().sort(dim=-1, descending=True)
    heap = (values / temperature).softmax(dim=-1).cumsum(dim=-1)
    place = (heap < uniform[:, None]).sum(dim=-1, keepdim=True)
    return ids.gather(-1, place.clamp(max=logits.shape[-1] - 1))[:, 0]
    ### END SOLUTION


# %%
check("15.choose")

# %% [markdown]
# ## Exercise: what sinks and what overflows
#
# *Exercise 15.fate · difficulty ●○○ · importance ●●● · 8 minutes · 2 points · stuck? `hint("15.fate")`*
#
# So far the way forward. On the way back the numbers are *small*: each is the gradient of a mean over many places. And `float16` has an end below, too. Its smallest number with all its digits is 6.1e-5; below it come *subnormal* ones with fewer and fewer digits, down to 6.0e-8; and what is less
# than half of that is stored as 0. Then the weight hears nothing. The remedy is **loss scaling**: multiply the loss by a large number, and all gradients are multiplied by it; divide by it in float32, before the update. How large may it be? Of the values that are not 0, give the share that becomes 0
# and the share that becomes infinite when `scale` times the value is stored as `kind`.

# %%
@exercise("15.fate")
def fate(values: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """values (N,) float32, some of them 0
    -> (2,) float32: of those that are not 0, the share stored as 0 and the share stored
    as infinite."""
    ### BEGIN SOLUTION
    real = values[values != 0]
    stored = (real * scale).to(kind)
    return torch.stack(((stored == 0).float().mean(), stored.isinf().float().mean()))
    ### END SOLUTION


# %%
check("15.fate")

# %%
predict("15.sinks", mine=None, question="Of the gradients of this model that are not 0, what share becomes 0 in float16, in percent?")

# %% [markdown]
# The shipped model, the loss of training, the one sentence from above; the gradient of every weight:

# %%
from mmo.omni import loss_sums

sums = loss_sums(ward.model, ward.model.hidden_states(**inputs), row.text_labels[None], row.audio_labels[None])
learning = [weight for weight in ward.model.parameters() if weight.requires_grad]
found = torch.autograd.grad(sums.text_loss() + sums.audio_loss(), learning, allow_unused=True)  # the projectors have none: it was asked in writing
gradients = torch.cat([each.flatten() for each in found if each is not None])
powers = list(range(0, 28, 3))
fates = {kind: torch.stack([fate(gradients, 2.0**power, kind) for power in powers]) for kind in (torch.float16, torch.bfloat16)}
print(f"{len(gradients) / 1e6:.1f} M gradients, {100 * float((gradients == 0).float().mean()):.0f} % of them 0 from the start; the largest is {float(gradients.abs().max()):.2g}")
for kind, shares_by_scale in fates.items():
    for power, (sunk, over) in zip(powers, shares_by_scale.tolist()):
        if power % 6 == 0:
            print(f"{str(kind)[6:]:9} scale 2^{power:<2}: {100 * sunk:7.3f} % become 0, {100 * over:7.3f} % infinite")
safe = [power for power, (_, over) in zip(powers, fates[torch.float16].tolist()) if over == 0]
print(f"the largest of these scales at which nothing overflows: 2^{safe[-1]}" if safe else "at every one of these scales something overflows")
with drawing(5.0, 2.2) as figure:
    axes = figure.add_subplot()
    axes.plot(powers, 100 * fates[torch.float16][:, 0].numpy(), "o-", color=BLUE, markersize=4, label="float16: become 0")
    axes.plot(powers, 100 * fates[torch.float16][:, 1].numpy(), "o-", color=RED, markersize=4, label="float16: become infinite")
    axes.plot(powers, 100 * fates[torch.bfloat16].sum(dim=1).numpy(), ".:", color=GREY, markersize=4, label="bfloat16: either of them")
    axes.set(xlabel="scale of the loss, power of two", ylabel="gradients, percent")
    axes.legend()
    picture = finish(figure, "Percent of the gradients that become 0 and that become infinite in float16, and of those that become either in bfloat16, by the scale of the loss.")
display(picture)
reveal("15.sinks", round(100 * float(fates[torch.float16][0, 0])), "percent become 0 without a scale")
del found, gradients

# %% [markdown]
# The two ends are not alike. What sinks is lost for one weight and one step. *One* infinite gradient spoils the norm by which all are clipped, and so the whole step. So take the largest scale at which nothing overflows, with some room; `torch.amp.GradScaler` finds it as it goes: it doubles the scale after many good
# steps, halves it when something overflows, and leaves that step out. The trainer of this repository needs none of it: it computes in `float32` or in `bfloat16`, which reaches as far.

# %% [markdown]
# # Part two: the symptom clinic
#
# Ten patients lie in ten beds. Each is the real pipeline of the shipped model with **one function of the package exchanged for a broken one**. Nothing crashes, no warning is given. You know
# the complaint, and you have a stethoscope: the sound, what the judge hears, some figures, and the same figures of a healthy run.
#
# For each patient: **see**, listen, and say aloud what you think before you read on. Then `diagnose` shows four possible causes. Your first guess counts most
# (3 points, then 2, then 1), and each wrong one is answered with what speaks against it. Then `treat` opens the patient and shows the broken function. Write it as it should be
# and pass it, `clinic.treat("A", my_function)`: the run is made again, and cured is who has every figure of a healthy run (1 point more). Names like `HEALTHY_FEATURES` in a broken function
# are the package's own functions; `from mmo.course.clinic import HEALTHY_FEATURES` gives them to yours.
#
# ## An instrument first
#
# *Exercise 15.lags · difficulty ●●○ · importance ●●○ · 10 minutes · 4 points · stuck? `hint("15.lags")`*
#
# Codes that agree with nothing may still be the right codes, at the wrong time. For each codebook find the lag $d$ at which most of `found[k, f + d]` equal `wanted[k, f]`, with $-m \le d \le m$.
# Late is positive. Where several lags agree equally well, take the one nearest to 0, and of $d$ and $-d$ the positive.

# %%
@exercise("15.lags")
def lags(wanted: Tensor, found: Tensor, most: int = 3) -> list[int]:
    """wanted, found (Q, F) codes, perhaps of unlike length
    -> how many frames late each codebook is, Q whole numbers."""
    ### BEGIN SOLUTION
    length = min(wanted.shape[1], found.shape[1])
    late = []
    for k in range(len(wanted)):
        best, most_equal = 0, -1
        for lag in sorted(range(-most, most + 1), key=lambda lag: (abs(lag), -lag)):
            early, late_by = max(0, -lag), max(0, lag)
            ours, theirs = wanted[k, early : length - late_by], found[k, late_by : length - early]
            equal = int((ours == theirs).sum())
            if equal > most_equal:
                best, most_equal = lag, equal
        late.append(best)
    return late
    ### END SOLUTION


# %%
check("15.lags")

# %% [markdown]
# ## The beds
#
# The seed says who lies where. With another seed you meet others, in another order. What some of the figures mean:
#
# - *dB nearer to joe's recordings than to others'*: by how much the sound's mean spectrum is nearer to that of joe's recordings than to the nearest other voice's. Negative: it is nearer to another voice.
# - *mel distance from health over the common length*: how far the two spectrograms lie apart on average; what one of the two runs says after the other has ended is not counted.
# - *codes as in a healthy run*, and below the chart, by your own instrument: how many frames each codebook is late, and how many percent of its codes are equal once it is moved back by them. A lag at which hardly any are equal says nothing.

# %%
clinic = Clinic(settings, seed=10, ward=ward, beds=2 if small else 10)


def examine(bed: str) -> None:
    """Sounds, figures and pictures of a patient; where there are codes, the lags of its codebooks by your instrument."""
    chart = clinic.see(bed)
    display(chart)
    if chart.symptom and chart.symptom.codes is not None and chart.symptom.codes.numel():
        wanted, found = chart.healthy.codes, chart.symptom.codes
        late = lags(wanted, found, 2)
        moved = torch.stack([row.roll(-lag) for row, lag in zip(found, late)])
        told = {"codebook": range(len(late)), "frames late": late, "equal codes then, percent": agreement_by_codebook(wanted, moved)}
        for name, values in told.items():
            print(f"{name:26}" + "".join(f"{value:5}" for value in values))


# %% [markdown]
# ### Patient A

# %%
examine("A")

# %%
clinic.diagnose("A", None)

# %%
clinic.treat("A")

# %% [markdown]
# ### Patient B

# %%
examine("B")

# %%
clinic.diagnose("B", None)

# %%
clinic.treat("B")

# %% [markdown]
# ### Patient C

# %%
examine("C")

# %%
clinic.diagnose("C", None)

# %%
clinic.treat("C")

# %% [markdown]
# ### Patient D

# %%
examine("D")

# %%
clinic.diagnose("D", None)

# %%
clinic.treat("D")

# %% [markdown]
# ### Patient E

# %%
examine("E")

# %%
clinic.diagnose("E", None)

# %%
clinic.treat("E")

# %% [markdown]
# ### Patient F

# %%
examine("F")

# %%
clinic.diagnose("F", None)

# %%
clinic.treat("F")

# %% [markdown]
# ### Patient G

# %%
examine("G")

# %%
clinic.diagnose("G", None)

# %%
clinic.treat("G")

# %% [markdown]
# ### Patient H

# %%
examine("H")

# %%
clinic.diagnose("H", None)

# %%
clinic.treat("H")

# %% [markdown]
# ### Patient I

# %%
examine("I")

# %%
clinic.diagnose("I", None)

# %%
clinic.treat("I")

# %% [markdown]
# ### Patient J

# %%
examine("J")

# %%
clinic.diagnose("J", None)

# %%
clinic.treat("J")

# %%
clinic.score()

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("15")

# %% [markdown]
# ## Summary
#
# - Give one part the best input it could get, leave the rest, and the difference is what it costs: true codes, true words, a probe on the features.
# - The codec sets a ceiling before the Talker begins. The judge has a floor before anybody begins. A figure without both says little.
# - A Talker that is too narrow for its time is not full: count the bits that it has taken in.
# - fp16 overflows, in exponentials and in squares, and lets small gradients sink. bf16 rounds, in long sums. Matrices in bf16, the choice in fp32.
# - Most bugs of such a model do not crash: codes are codes. They are found by comparing with a healthy run, joint by joint.
# - A loss that is too good is a symptom.
#
# **Often mistaken.** *"It trains, so the data are right."* A model learns from any labels. *"It sounds bad, so the model is too small."* Measure the ceiling first.
# *"It worked for one question."* State, order and voices go wrong at the second one, and in batches. *"NaN is the worst that fp16 can do."* Silent zeros are worse: nobody looks.
#
# **To try.** Another seed for the clinic. `forced` with the true codes in the *last* codebooks only. Write a patient of your own: a broken function of the package, the complaint that somebody would make of it, three causes that
# are wrong but tempting (`mmo/course/clinic.py` shows the form), and give it to a friend.
#
# **Where to read on.** In this course: [`mmo/course/clinic.py`](../mmo/course/clinic.py) and [`mmo/forcing.py`](../mmo/forcing.py). Papers:
#
# - P. Micikevicius, S. Narang, J. Alben and others: *Mixed Precision Training.* ICLR 2018, [arXiv:1710.03740](https://arxiv.org/abs/1710.03740). What fp16 loses, and loss scaling.
# - D. Kalamkar, D. Mudigere, N. Mellempudi and others: *A Study of BFLOAT16 for Deep Learning Training.* 2019, [arXiv:1905.12322](https://arxiv.org/abs/1905.12322).
# - Z. Allen-Zhu, Y. Li: *Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws.* 2024, [arXiv:2404.05405](https://arxiv.org/abs/2404.05405). Bits a weight.
# - G. Alain, Y. Bengio: *Understanding intermediate layers using linear classifier probes.* 2016, [arXiv:1610.01644](https://arxiv.org/abs/1610.01644).
# - M. Bisani, H. Ney: *Bootstrap estimates for confidence intervals in ASR performance evaluation.* ICASSP 2004. The whiskers of part one.
# - A. Karpathy: *A Recipe for Training Neural Networks.* 2019, [karpathy.github.io](https://karpathy.github.io/2019/04/25/recipe/). "Neural net training fails silently."
