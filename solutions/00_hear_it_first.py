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
# # 00 · Hear it first
#
# *Takes 40 minutes (tiny) · runs in 39 s on one core (tiny) · builds on nothing before it · 2 exercises, 3 points*
#
# **At the end** you know what you are going to build, because you have heard it: a small model that is asked in writing, by voice or with a
# picture, and answers aloud. You know what your machine can run, whether you know enough to begin, and which way through the course is yours.
#
# **You need** an installed course ([how to install](../docs/install.md)). Nothing else: the trained weights come with it, and this notebook is
# mostly read and listened to.
#
# **The claim.** Nothing about a model that hears, sees and speaks is out of reach of one person and one laptop. The one you hear below has about
# five million weights that you will train. It makes a second of speech in less than a second, without a GPU. Every part of it you will have written or taken apart.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer questions

# %%
import math

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmo import doctor
from mmo.chat import ChatTokenizer, user_content
from mmo.codec import Codec
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.catalogue import read_course
from mmo.course.map import show_map
from mmo.course.pictures import show_machine
from mmo.course.status import shares, so_far, status_page
from mmo.display import listen, show_codes
from mmo.examination import read_items
from mmo.features import read_sound
from mmo.generation import Generator, Prompt
from mmo.judge import Judge
from mmo.measures import same_words
from mmo.omni import load_model
from mmo.profiles import profile as find_profile
from mmo.speech_encoder import SpeechEncoder
from mmo.vision_encoder import VisionEncoder, open_picture

settings = find_profile(profile)

# %% [markdown]
# ## What can this machine run?
#
# One word decides how large everything is: the *profile*. `tiny` is a closed little world with everything in the box, for a laptop and without a network.
# `mini` has the full-size model and a small set of real data, for one graphics card with 24 GB. `full` has the same model and all the data. The code is
# the same for all.

# %%
machine = doctor.look_at_machine()
packages = list(doctor.check_packages())
print(f"{machine.cores} cores; {sum(found.fine for found in packages)} of {len(packages)} packages in order")
for found in packages:
    if not found.fine:
        print(f"  {found.what}: {found.found} -> {found.advice}")
display(show_machine(machine, doctor.NEEDS, {name: not doctor.missing_files(find_profile(name)) for name in doctor.NEEDS}))

# %% [markdown]
# Green is enough, red is not. If `tiny` is green you can do the whole course. In a terminal `mmo doctor` says more, and what to do about each thing
# that is missing.
#
# ## Ask it in writing
#
# These are the trained weights that come with the course. In notebooks 10 to 12 you train your own, and in notebook 13 yours answer.
#
# A question in writing becomes a row of token numbers. The *Thinker*, a language model, continues it with the words of the answer. The *Talker* beside it
# writes *codes*, whole numbers of which a *codec* (coder and decoder) makes sound. What each of them is comes later. First, hear them.

# %%
model = load_model(settings.checkpoint_file)
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
codec = Codec.load(settings.codec_file, num_codebooks=model.config.num_codebooks)
generator = Generator(model, codec, tokenizer, settings.decoding)
voices = load_file(settings.data_dir / "voices.safetensors")
torch.set_num_threads(1)  # steps of a model so small are too short to share between threads
count = sum(parameter.numel() for parameter in model.parameters())
print(f"{count / 1e6:.1f} million weights to train; voices: {', '.join(voices)}")
vocabulary = settings.data_dir / "words.txt"
judge = Judge.from_file(vocabulary) if vocabulary.is_file() else None  # where a profile has no closed list of words, nobody judges here


def ask(text: str = "", voice: str | None = None, sound: Tensor | None = None, picture: Tensor | None = None):
    """One question: in writing, as speech features (N, D) or with patch features (P, D)."""
    content = user_content(text, 0 if sound is None else len(sound), 0 if picture is None else 1, model.config.image_token_len)
    ids = tokenizer.prompt([{"role": "user", "content": content}])
    speaker = voices[voice or next(iter(voices))]
    return generator.answer(Prompt(ids, speaker, audio_features=sound, image_features=picture))


def heard(answer) -> str:
    """What the judge writes down of an answer's sound."""
    return f"the judge hears: {judge.transcribe([(answer.samples, answer.sample_rate)], workers=1)[0]}" if judge and len(answer.samples) else ""


# %% [markdown]
# The model is loaded and has not been asked yet. Make a guess first; changing it loads nothing again.

# %%
predict(
    "00.first",
    "How many milliseconds pass between the question and its first sound, on this machine?",
    None,
)

# %%
ask("Hello.")  # the first call prepares things; a second one is what an answer really takes
for voice in voices:
    answer = ask("What is three plus four?", voice)
    display(listen(answer.samples, answer.sample_rate, f"{voice}: {answer.text} ({heard(answer)})"))
    if answer.first_audio_ms is not None:
        print(f"first sound after {answer.first_audio_ms:.0f} ms; {answer.real_time_factor:.2f} s of work per second of speech")
if answer.first_audio_ms is not None:
    display(reveal("00.first", round(answer.first_audio_ms), "milliseconds in the last voice, as busy as this machine was"))

# %% [markdown]
# The picture under a player is a *spectrogram*: time to the right, pitch upwards, bright is loud.
#
# The *judge* listens with you: a speech recogniser made by other people, on other voices, which knows the words of this world and nothing else. It sees no text. Where it writes something else than the model, one of the two is wrong; in doubt trust your ears.
#
# The same weights speak in each voice; one vector at one position differs. And nothing here reads a finished text aloud: words and codes are written
# side by side, in the same steps. The first sound comes after a fixed number of these steps, however long the answer is.
#
# Its world has 231 words (`data/tiny/words.txt`, one a line): small sums, comparisons, counting, colours, shapes and where they are, opposites, days and months, a few animals, a few facts about
# itself. Outside this world it guesses. The world is closed on purpose: it is small enough to be learnt on a laptop, and since each question has one
# right answer, every claim of the course can be checked.
#
# ## Ask it aloud
#
# Now the question is a recording, in a voice that was never heard in training. Nobody chose the questions: they stand at even distances in the file of
# test questions. Where an answer is wrong, the right one stands beside it. Over the whole file some answers are wrong, even if none of these few is: a voice never heard is hard for a model of this size.

# %%
asked = [item for item in read_items(settings.data_dir / "a2a-test.parquet", model.config) if item.tier == "sentence"]
asked = asked[:: len(asked) // (2 if budget == "smoke" else 4)][: 2 if budget == "smoke" else 4]
ear = SpeechEncoder.load(settings.speech_encoder_dir)
for item in asked:
    sound = read_sound(item.question_sound)  # 16 kHz, one channel
    features, lengths = ear.encode([sound])
    answer = ask(sound=features[0, : int(lengths[0])])
    verdict = "right" if same_words(answer.text, item.truth) else f"not right: {item.truth}"
    display(listen(sound, 16_000, f"asked: {item.question}"))
    display(listen(answer.samples, answer.sample_rate, f"heard: {answer.heard} Answered: {answer.text} ({verdict})"))

# %% [markdown]
# Nobody gave it the words. The *speech encoder* made a vector for every 60 milliseconds of the question, and these vectors stand where the words of a
# written question would stand. The model writes down what it hears in them, unspoken, and answers that, with the vectors still before it. (Here the model gets each question and each picture once. `mmo say` and the figures in README give it a question at three speeds and a picture five times, slightly moved, and let all of them choose the words together.) Notebooks 02, 04 and 11 are about it.
#
# ## Show it a picture

# %%
from mmo.display import drawing, finish

seen = [item for item in read_items(settings.data_dir / "i2t-test.parquet", model.config) if item.tier == "sentence"]
seen = seen[1 :: len(seen) // (1 if budget == "smoke" else 3)][: 1 if budget == "smoke" else 3]
eye = VisionEncoder.load(settings.vision_encoder_dir)
for item in seen:
    shown = open_picture(item.picture)
    answer = ask(item.question, picture=eye.encode([shown])[0])
    verdict = "right" if same_words(answer.text, item.truth) else f"not right: {item.truth}"
    with drawing(1.6, 1.6) as figure:
        axes = figure.add_subplot()
        axes.imshow(shown)
        axes.axis("off")
        display(finish(figure, f"The picture shown: {item.truth}"))
    display(listen(answer.samples, answer.sample_rate, f"asked: {item.question} Answered: {answer.text} ({verdict}; {heard(answer)})"))

# %% [markdown]
# It knows these words, shapes and colours, but not these scenes: none of them was drawn for training, and none of these captions was spoken there. Read and
# listen. The written caption is right more often than the spoken one can be understood; long captions come out blurred. `README.md` has the figures on
# the whole test set, each with its control beside it.
#
# ## What it really writes
#
# The model never writes a sample of sound. It writes eight codes for every 80 milliseconds, and the codec makes sound of them. This is the last answer as
# it was written, a tensor of shape $(Q, F)$: a row for each *codebook*, $Q = 8$ of them, and a column for each *frame* of 80 milliseconds. A code is only the
# number of an entry in a table, so the colours have no order: codes that are neighbours need not sound alike.

# %%
if answer.codes.shape[1]:
    display(show_codes(answer.codes, model.config.num_codes, answer.text))
predict("00.numbers", "How many whole numbers does it write for each second of speech?", None)

# %%
reveal("00.numbers", round(codec.frame_rate * codec.num_codebooks), f"({codec.frame_rate} frames of {codec.num_codebooks} codes)")

# %% [markdown]
# ## What it really reads
#
# And on the way in? A question becomes *tokens*, most of them words, and each token has a number, its *id*. The id picks one row of a table, the *embedding*: a vector. Below is a whole prompt: tokens, ids and, under each, its vector as a column of colours (red above zero, blue below, white near it).
# Look for a token that stands there more than once, `<|im_start|>` or the line break `↵`: the same token has the same column wherever it stands.
# Where a sound or a picture is asked about, its vectors stand in this same row. From here on the model sees nothing but columns.

# %%
ids = tokenizer.prompt([{"role": "user", "content": "What is three plus four?"}])
tokens = [tokenizer.tokenizer.id_to_token(each).replace("Ġ", " ").replace("Ċ", "↵") for each in ids]
vectors = model.model.embed_tokens.weight.detach()[ids]  # (T, D): a row for each token
with drawing(9.0, 3.5) as figure:
    axes = figure.add_subplot()
    top = float(vectors.abs().quantile(0.98))
    axes.imshow(vectors[:, :64].T, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    labels = [f"{token.strip(' ')} · {each}" for token, each in zip(tokens, ids)]
    axes.set_xticks(range(len(ids)), labels, fontsize=9, rotation=30, ha="left", rotation_mode="anchor")
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set(ylabel=f"the first 64 of {vectors.shape[1]} numbers")
    axes.grid(False)
    picture = finish(
        figure,
        f"A prompt of {len(ids)} tokens with their ids, and under each token its vector of {vectors.shape[1]} numbers as a column of colours; "
        "the same token has the same column wherever it stands.",
    )
display(picture)
print(f"{len(ids)} ids -> {tuple(vectors.shape)} numbers")

# %% [markdown]
# ## The map
#
# A question goes in on the left and a voice comes out on the right. Each box is a notebook, and its colour says what you do there. Blue parts are *rented*:
# trained by others (in the tiny world: as the appendix does it), frozen, taken apart. Yellow parts you write. Pale green ones are trained, pink ones
# asked and examined. A dark green bar at the foot of a box is what you have solved of it. The dotted line: 07 says how the words of 05 and the codes of 08 stand side by side.

# %%
course = read_course()
show_map([each.number for each in course], shares(so_far()["exercises"]))

# %% [markdown]
# Read it once along the arrows:
#
# 1. A spoken question becomes a row of vectors (**02**), a picture 64 of them (**03**). Two small networks, the *projectors*, give both the width of a word's vector (**04**).
# 2. The **Thinker** (**05**) is a language model. It reads the vectors of words, sounds and pictures in one row and writes the answer's words. **06** gives it
#    *experts*: several layers in the place of one, of which each word uses one.
# 3. Its vectors from half-way up, its *hidden states*, are the *bridge* to the **Talker** (**08**), which writes eight codes at each step. **07** says which
#    eight, and how text and codes share one clock.
# 4. The codec **Mimi** (**01**) turns codes into sound, frame by frame while the rest is still being written (**09**).
# 5. Training goes in three stages: first it learns to speak (**10**), then to hear (**11**), then to see (**12**). Then you talk to it (**13**), compare (**14**), and break it on purpose (**15**).
#
# **Not to be confused.** This is no chain of three programs, a recogniser, a language model and a voice. A spoken question is written down first, but by the same model, in the same row, with the sound's vectors still before it. And the Talker never sees a word: it
# gets the Thinker's hidden states, one at each step, while the Thinker goes on. So it need not wait for the end of the sentence.

# %% [markdown]
# ## Do you know enough? A ten-minute check
#
# Five questions with a number for an answer, then two small pieces of code. Write your numbers in place of `None`, run the cell, then the next one. With three of
# the five right and both exercises solved, begin. Otherwise the table below says where to read, an hour for each line.

# %%
display(predict(
    "00.broadcast",
    "1. A tensor of shape (4, 1, 3) plus one of shape (5, 1): how many numbers has the sum?",
    None,
))
display(predict(
    "00.softmax",
    "2. Two logits differ by ln 3. How many times likelier is the larger one after softmax?",
    None,
))
display(predict(
    "00.entropy",
    "3. A model that knows nothing chooses among 2112 codes (the large model's). "
    "Its cross-entropy, in nats?",
    None,
))
display(predict(
    "00.causal",
    "4. Nine positions, causal attention. To how many positions does the sixth one look?",
    None,
))
display(predict(
    "00.samples",
    "5. How many samples are 80 milliseconds at 24 kHz?",
    None,
))

# %%
logits = torch.tensor([0.0, math.log(3)])
display(reveal("00.broadcast", (torch.zeros(4, 1, 3) + torch.zeros(5, 1)).numel(), "numbers, shape (4, 5, 3)"))
display(reveal("00.softmax", round(float(logits.softmax(0)[1] / logits.softmax(0)[0]), 2), "times: only differences of logits count"))
display(reveal("00.entropy", round(float(torch.nn.functional.cross_entropy(torch.zeros(1, 2112), torch.tensor([7]))), 2), "nats, the logarithm of 2112"))
display(reveal("00.causal", int(torch.ones(9, 9).tril()[5].sum()), "positions: the five before it, and itself"))
display(reveal("00.samples", round(0.08 * 24_000), "samples: a frame"))

# %% [markdown]
# ## Exercise: frames
#
# *Exercise 00.frames · difficulty ●○○ · importance ●●○ · 4 minutes · 1 point · stuck? `hint("00.frames")`*
#
# The codec works on frames: pieces of one length. Cut a sound of $n$ samples into as many frames as it needs, $F = \lceil n / \mathrm{size} \rceil$.
#
# This is how exercises work here. The cell below has only the head of a function; write the body, run it, run `check`. A wrong answer gets a diagnosis.
# Nothing blocks: what you leave open is answered by the package, and the notebook runs on. In a cell of your own, `hint("00.frames")` takes you one step further each
# time you run it, and `solution("00.frames")` has the whole answer, folded until you open it.

# %%
@exercise("00.frames")
def cut_frames(wave: Tensor, size: int) -> Tensor:
    """wave (n,) -> (F, size): frame after frame,
    the last one filled with zeros if the samples do not fill it.
    """
    ### BEGIN SOLUTION
    missing = -len(wave) % size
    return torch.nn.functional.pad(wave, (0, missing)).view(-1, size)
    ### END SOLUTION


# %%
check("00.frames")

# %% [markdown]
# ## Exercise: the loss
#
# *Exercise 00.loss · difficulty ●○○ · importance ●●● · 5 minutes · 2 points · stuck? `hint("00.loss")`*
#
# The model is trained with one loss, cross-entropy, for words and for codes. Many positions have nothing to learn, the question's for instance; their label
# is -100. For logits $z$ of shape $(T, V)$ and labels $y$ of shape $(T,)$, with $N$ labels that are not -100:
#
# $$\ell = -\frac{1}{N} \sum_{t\,:\,y_t \ne -100} \log \mathrm{softmax}(z_t)_{y_t}$$

# %%
@exercise("00.loss")
def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (T, V), labels (T,) int64 ->
    the mean cross-entropy over the positions whose label is not -100, a scalar.
    """
    ### BEGIN SOLUTION
    known = labels != -100
    return -logits.log_softmax(dim=1)[known, labels[known]].mean()
    ### END SOLUTION


# %%
check("00.loss")

# %% [markdown]
# | if this was hard | read | an hour of it |
# |---|---|---|
# | shapes, broadcasting, autograd | [PyTorch: Learn the Basics](https://pytorch.org/tutorials/beginner/basics/intro.html) | tensors, autograd, optimisation |
# | softmax, cross-entropy | D. Jurafsky, J. H. Martin: [*Speech and Language Processing*](https://web.stanford.edu/~jurafsky/slp3/), 3rd edition draft | the chapters on logistic regression and neural networks |
# | attention | J. Alammar: [*The Illustrated Transformer*](https://jalammar.github.io/illustrated-transformer/); then A. Vaswani and others: *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762) | sections 1 to 3 |
# | a language model as code | S. Raschka: *Build a Large Language Model (From Scratch)*, Manning 2024, [code](https://github.com/rasbt/LLMs-from-scratch) | chapters 3 and 4 |
# | samples, frequencies, spectrograms | S. W. Smith: [*The Scientist and Engineer's Guide to Digital Signal Processing*](https://www.dspguide.com/), 1997 | chapters 3 and 8 |
# | what an omni model is | J. Xu and others: *Qwen2.5-Omni Technical Report*, 2025, [arXiv:2503.20215](https://arxiv.org/abs/2503.20215) | section 2 |

# %% [markdown]
# ## One evening
#
# Notebooks 00 to 13 fill a weekend. If you have one evening, take this way: first the sound, then the words, then what joins them. Run everything, make the
# predictions, leave the exercises for another day; the package stands in for them.
#
# | | what to take from it | about |
# |---|---|---|
# | **01** speech codec | sound as eight rows of codes; how few of them one understands | 40 minutes |
# | **05** Thinker | a language model in one sitting; skip what you know | 45 minutes |
# | **07** sequence and delay | why eight codes at once are a diagonal | 35 minutes |
# | **08** Talker | how codes come out of hidden states, and how it knows which word it is on | 45 minutes |
# | **13** talk to it | your own questions, voices, temperature | 30 minutes |

# %%
evening = ("01", "05", "07", "08", "13")
show_map([each.number for each in course], shares(so_far()["exercises"]), evening)

# %% [markdown]
# In a class, or with a weekend, go in the order of the numbers. Each notebook says in its first lines what it needs.

# %%
from IPython.display import Markdown

lines = ["| | notebook | what you have at the end | minutes |", "|---|---|---|---:|"]
lines += [f"| {each.number} | [{each.title}]({each.file}.ipynb) | {each.aim} | {each.minutes.get(profile, '')} |" for each in course]
Markdown("\n".join(lines))

# %% [markdown]
# ## How far you are
#
# Exercises, predictions and the scores of your listening tests are kept in a small file, `runs/progress.json`. `mmo course status` shows the same in a
# terminal; `mmo course reset 07` forgets what you did in a notebook.

# %%
status_page()

# %% [markdown]
# ## Four questions
#
# Every choice says why it is right or wrong.

# %%
quiz("00")

# %% [markdown]
# ## Summary
#
# - The model hears, sees and speaks, with about five million weights of its own, on this machine. It errs, and the course shows where and why.
# - One row of vectors goes in. Words and codes come out side by side, eight codes for every 80 milliseconds of sound.
# - Rented and frozen: speech encoder, vision encoder and codec. Built by you: everything between them.
#
# **Often mistaken.** *"It reads a finished text aloud."* The Talker gets no text: it hears the Thinker's hidden states, while the Thinker goes on. *"Small means a toy."* Only the sizes are small; the classes are those of the
# large model, and with `profile = "mini"` in its parameters a notebook runs it (02 to 08 and A1 to A3 are made for the tiny one). *"A low loss means that it speaks well."* In notebook 08 the loss falls almost to zero, and the model can say one sentence.
#
# **To try.** Change the questions above. Ask for something outside its world ("What is love?") and watch what it does with words it does not know. Give `Prompt` in `ask` another
# `seed` (1, 2, 3) and ask the same question again: what changes, the words or the melody?
#
# **Where to read on.** [Notebook 01](01_speech_codec.ipynb) says what the hundred numbers a second are. Where all this comes from:
#
# - J. Gong: *MiniMind-O*, the model that this course builds: [github.com/jingyaogong/minimind-o](https://github.com/jingyaogong/minimind-o).
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024, [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). The codec, and text and codes on one clock.
# - J. Xu, Z. Guo, J. He and others: *Qwen2.5-Omni Technical Report.* 2025, [arXiv:2503.20215](https://arxiv.org/abs/2503.20215). Thinker and Talker.
