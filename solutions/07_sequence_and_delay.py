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
# # 07 · The sequence and its delay
#
# *Takes 60 minutes (tiny) · runs in 8 s on one core (tiny) · builds on nothing before it · 4 exercises, 12 points*
#
# **At the end** you have laid out a spoken answer as the model sees it: eight streams of codes over one stream of words, each
# codebook one step later than the one above it. You can go there and back, you know what is learnt at which position, and what
# padding costs.
#
# **You need** tensors and slices; from the course only this: Mimi, the codec, turns each 80 ms of sound into one *frame* of eight
# codes, one from each of eight *codebooks*. The first two say the most; from the third on each refines what those before it left.
#
# **The claim.** A model that predicts eight codes in one step need not guess the eight codes of one frame blindly. Shift codebook
# $k$ by $k$ steps, and each code is written knowing the coarser ones of its own frame. The price is seven steps, once, however
# long the answer is.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"  # smoke: fewer rows where rows are counted

# %%
import numpy as np
import torch
from torch import Tensor

from mmo import sequence
from mmo.chat import ChatTokenizer
from mmo.codec import Codec
from mmo.config import IGNORE
from mmo.course import check, exercise, hint, predict, quiz, reveal, solution
from mmo.course.pictures import compare_grids
from mmo.data import cut_at
from mmo.display import listen, mel_spectrogram, show_codes, show_delay
from mmo.omni import OmniModel
from mmo.profiles import profile as find_profile
from mmo.rows import open_rows

settings = find_profile(profile)
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)
PAD, STOP = config.audio_pad_token, config.audio_stop_token
print(f"codes 0 to {config.num_codes - 1}, and above them signs: pad {PAD}, stop {STOP}, speaker {config.audio_spk_token} ({config.num_codes} stays free)")

# %% [markdown]
# ## One answer, as codes
#
# A row of the data: a question, its answer, and the answer's sound as codes. In the file they lie flat, frame after frame;
# `sequence.frames` makes the grid of $Q$ codebooks by $F$ frames out of them.

# %%
rows = open_rows(settings.data_dir / "t2a-validation.parquet", config, settings.cache_dir())
row = rows[4]
question, answer = row.conversation[-2]["content"], row.conversation[-1]["content"]
codes = sequence.frames(row.answers[-1], config.num_codebooks, config.num_codes)  # (Q, F)
Q, F = codes.shape
print(f"asked:    {question}\nanswered: {answer}")
print(f"{Q} codebooks x {F} frames = {codes.numel()} codes for {F / codec.frame_rate:.2f} seconds")
display(show_codes(codes, config.num_codes))
display(listen(codec.decode(codes[None])[0, 0], codec.sample_rate, answer))

# %% [markdown]
# ## Three ways to write a grid in a line
#
# A language model writes one step after the other. How should it write a grid? With $c_{k,f}$ for the code of codebook $k$ in frame $f$:
#
# | | one step writes | steps for $F$ frames | $c_{k,f}$ may look at |
# |---|---|---|---|
# | **flat** | one code | $Q F$ | everything before it, coarser codes of its frame too |
# | **parallel** | the frame's $Q$ codes | $F$ | earlier frames only |
# | **delayed** | one code of each of $Q$ frames, on a diagonal | $F + Q - 1$ | earlier frames (of the last few only the coarser codes), *and* the coarser codes of its own frame (of the next few the still coarser ones) |
#
# Flat is exact and slow. Parallel is fast, but the eight codes of a frame are drawn without knowing of each other, and codebook 2
# refines codes that it has not seen. Delayed has nearly the speed of the one and nearly the knowledge of the other.

# %%
predict(
    "07.steps",
    mine=None,
    question=f"How many steps does each way need for this answer of {F} frames? Give the delayed one's number.",
)

# %%
for way, steps in (("flat", Q * F), ("parallel", F), ("delayed", F + Q - 1)):
    print(f"{way:9} {steps:4} steps, {steps / (F / codec.frame_rate):6.1f} a second of speech")
reveal("07.steps", F + Q - 1, "steps")

# %% [markdown]
# **Not to be confused.** "Multi-token prediction" often means predicting several *future* tokens of one stream. Here it means several
# streams at one step. The eight codes of a step do not belong to one frame, nor to eight later ones: they lie on a diagonal.

# %% [markdown]
# ## Exercise: the delay pattern
#
# *Exercise 07.delay · difficulty ●○○ · importance ●●● · 8 minutes · 3 points · stuck? `hint("07.delay")`*
#
# Write the staircase. Row $k$ of the result is $k$ pads, the $F$ codes of codebook $k$, the stop sign, and pads up to the end:
#
#     c0.0 c0.1 c0.2 STOP  -    -
#      -   c1.0 c1.1 c1.2 STOP  -
#      -    -   c2.0 c2.1 c2.2 STOP

# %%
@exercise("07.delay")
def delay(codes: Tensor, pad: int, stop: int) -> Tensor:
    """codes (Q, F) -> (Q, F + Q), int64: row k is k pads, its F codes, the stop sign, pads."""
    ### BEGIN SOLUTION
    Q, F = codes.shape
    delayed = torch.full((Q, F + Q), pad)
    for k in range(Q):
        delayed[k, k : k + F] = codes[k]
        delayed[k, k + F] = stop
    return delayed
    ### END SOLUTION


# %%
check("07.delay")

# %% [markdown]
# Column by column this is what the model writes. Here are the first columns of our answer: on the left which frame each code belongs to,
# on the right the codes themselves. (There are eight colours only: frames eight apart share one, and so may unlike codes on the right.)

# %%
delayed = delay(codes, PAD, STOP)
columns = 11
belongs_to = (torch.arange(columns) - torch.arange(Q)[:, None]).clamp(min=-1)  # the frame; -1 where there is none yet
display(compare_grids(belongs_to, delayed[:, :columns], {-1: "", PAD: ""}, titles=("which frame", "which code"), mark=False,
                      rows=[f"codebook {k}" for k in range(Q)], columns=range(columns),
                      alt=f"The first {columns} columns of the staircase of {Q} codebooks: the frame that each code belongs to, and the codes."))
print(f"{tuple(codes.shape)} -> {tuple(delayed.shape)}")
print(f"{F + Q - 1} columns hold codes; one more is there for the stop of codebook {Q - 1} alone")

# %% [markdown]
# **Read column 3 of the left picture aloud, from top to bottom.** Then find frame 0: in which columns do its eight codes stand? In step 3 codebook 3
# says its code of frame 0. By then codebooks 0, 1 and 2 have said theirs, in the columns before, where it can read them.

# %%
predict(
    "07.first",
    mine=None,
    question="The codec can only play a whole frame. After how many steps is the first one whole?",
)

# %% tags=["remove-input"] slideshow={"slide_type": "fragment"}
first_whole = next(steps for steps in range(1, delayed.shape[1]) if sequence.undelay(delayed[:, :steps]).shape[1])
reveal("07.first", first_whole, "steps, of which the last seven bring its finer codes (and begin the next frames)")

# %% [markdown]
# ## Exercise: the way back
#
# *Exercise 07.undelay · difficulty ●●○ · importance ●●● · 10 minutes · 3 points · stuck? `hint("07.undelay")`*
#
# To hear anything the rows must be pushed back. While the model is still writing only some of the frames are whole, and behind
# a stop there is no sound. Give the whole frames, up to but not including the first one in which *any* codebook has stopped.

# %%
@exercise("07.undelay")
def undelay(delayed: Tensor, stop: int) -> Tensor:
    """delayed (Q, L) -> (Q, F) whole frames, F <= max(0, L - Q + 1);
    none from the first stop on.
    """
    ### BEGIN SOLUTION
    Q, L = delayed.shape
    F = max(0, L - Q + 1)
    codes = torch.stack([delayed[k, k : k + F] for k in range(Q)])
    stopped = (codes == stop).any(dim=0)
    return codes[:, stopped.cumsum(dim=0) == 0]
    ### END SOLUTION


# %%
check("07.undelay")

# %%
assert torch.equal(undelay(delayed, STOP), codes)
print("there and back again: the same codes")

# %% [markdown]
# ### What an error of one step sounds like
#
# Nothing crashes when the delay is wrong. Codes are codes, and the codec plays whatever it gets. **Predict:** which is worse, all
# codebooks played one frame too late, or the staircase played as it is?

# %%
predict(
    "07.worse",
    mine=None,
    question="Which sounds worse: 'late' (every codebook one frame late) or 'staircase' (codebook k late by k frames)?",
)

# %%
late = torch.cat((codes[:, :1], codes[:, :-1]), dim=1)
staircase = torch.stack([torch.cat((codes[k, :1].expand(k), codes[k, : F - k])) for k in range(Q)])
one_off = torch.cat((codes[:1], torch.cat((codes[1:, :1], codes[1:, :-1]), dim=1)))  # codebook 0 right, the others a frame late
versions = {"right": codes, "late: all by one frame": late, "codebooks 1 to 7 late by one frame": one_off, "the staircase, not pushed back": staircase}
for name, wrong in versions.items():
    display(listen(codec.decode(wrong[None])[0, 0], codec.sample_rate, f"{name}: {answer}"))

# %% [markdown] slideshow={"slide_type": "notes"}
# To have a number for *worse*: the mean distance of the two spectrograms in decibels, with the wrong sound moved back against the right one by as much as suits it best, so that being late costs next to nothing. (A part of what is left for *late* stands at the edge: there frame 0 is played twice, to fill the gap. The second figure leaves the first frame out.)

# %%
def apart(wrong: Tensor, codes: Tensor, skip: int = 0) -> float:
    """Mean distance in decibels of what two sets of codes (Q, F) sound like, the best of moving the first back by 0 to Q frames.

    skip: frames at the beginning that do not count.
    """
    sounds = [codec.decode(each[None])[0, 0].numpy() for each in (wrong, codes)]
    both = mel_spectrogram(np.concatenate(sounds), codec.sample_rate)  # a column each 10 ms; decibels below the loudest of both
    heard, wanted = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
    frame = round(100 / codec.frame_rate)  # columns
    gaps = []
    for moved in range(0, Q * frame + 1, frame // 2):
        length = heard.shape[1] - moved
        gaps.append(float(np.abs(heard[:, moved:] - wanted[:, :length])[:, skip * frame :].mean()))
    return min(gaps)


wrongs = {"late": late, "codebooks 1 to 7 late": one_off, "staircase": staircase}
distances = {name: apart(wrong, codes) for name, wrong in wrongs.items()}
for name, distance in distances.items():
    print(f"{name:22} {distance:.1f} dB   without the first frame {apart(wrongs[name], codes, skip=1):.1f} dB")
reveal("07.worse", max(("late", "staircase"), key=distances.get))

# %% [markdown]
# All codebooks late together is the same sentence 80 ms later. Codebooks late *against each other* are summed with codes of another frame: that is
# the sound of a delay that is off by one. Keep it in your ear: where only the way back is wrong, no loss curve shows it.

# %% [markdown]
# ## The whole row
#
# Nine streams on one clock. The text stands in the last row: question, then answer. The sound begins one position behind the
# answer's first word, so that there is a word to be said. In front of the answer stand the codes of a *reference voice* (`ref`), not
# delayed, and before them the speaker sign (`voice`). Each number is the *frame* that a code belongs to; the same frame has the
# same colour. `sequence.build_row` puts it together.

# %%
ids = tokenizer.conversation(row.conversation)
markers = sequence.Markers.from_tokenizer(tokenizer)
reference = sequence.frames(row.reference, Q)[:, :6]
laid = sequence.build_row(ids, codes, config, markers, ref_codes=reference, has_speaker=True)
first, last = sequence.find_assistant_ranges(ids, markers.assistant, markers.end)[-1]
last += len(markers.end)  # <|im_end|> and its newline are learnt too
T = laid.input_ids.shape[1]
begin = max(0, first - 8)
end = min(begin + 28, T)
words = [tokenizer.tokenizer.id_to_token(int(t)).replace("Ġ", " ").replace("Ċ", "↵") for t in laid.input_ids[-1, begin:end]]
words = ["" if word == tokenizer.tokenizer.id_to_token(config.pad_token) else word for word in words]
display(show_delay(laid.input_ids[:, begin:end], config, first - begin, words))
print(f"(cut here: positions {begin} to {end - 1}; the row begins at 0 and goes on to {T - 1})")

# %% [markdown]
# Look at the right end of the text row: the words are over, and the sound goes on for dozens of positions. There the text row holds pads.
# How the Talker (the half of the model that writes the codes) knows which word it is on, when there are no words any more, is the question of notebook 08.
#
# ## What is learnt, and what is not
#
# A label says what should come *next*. Many places have none: the question was asked by somebody else, the reference voice is
# given, pads mean nothing. Their label is -100, which cross-entropy skips. **Predict** before you count:

# %%
predict("07.labels_share", "What share of this row's 9 x T places has a label, in percent?", None)

# %%
text_labels, audio_labels = laid.text_labels, laid.audio_labels
places = laid.input_ids.numel()
learnt = int((text_labels != IGNORE).sum()) + int((audio_labels != IGNORE).sum())
print(f"T = {laid.input_ids.shape[1]} positions, {places} places")
in_text, in_codebook = int((text_labels != IGNORE).sum()), int((audio_labels[0] != IGNORE).sum())
print(f"text: {in_text} labels; each codebook: {in_codebook} labels, one of them the stop")
reveal("07.labels_share", round(100 * learnt / places), "percent")

# %% [markdown]
# In each codebook one label of dozens is the stop, and the whole end of the speech hangs on it. So its loss counts tenfold:
# with labels $y_t$ and weights $w_t = 10$ where $y_t$ is the stop, else 1, the loss of a codebook is
# $\frac{1}{M}\sum_t w_t \cdot \mathrm{CE}_t$, with $M$ the number of positions that have a label. The sum is weighted, $M$ is not.
#
# ## Exercise: labels
#
# *Exercise 07.labels · difficulty ●●○ · importance ●●● · 12 minutes · 4 points · stuck? `hint("07.labels")`*
#
# `text` holds the whole conversation, padded to length $N$. The answer's text stands at positions `first` to `last - 1`; its end sign
# is in it. The codes, delayed and with their stops, begin at position `first + 1`; what would stand at position $N$ or later is cut.
# Then comes the shift by one: the label at $t$ is what stands at $t + 1$. (In the pictures below · is -100: nothing to learn.)

# %%
@exercise("07.labels")
def labels(text: Tensor, codes: Tensor, first: int, last: int, stop: int) -> tuple[Tensor, Tensor]:
    """text (N,), codes (Q, F) -> text labels (N - 1,), audio labels (Q, N - 1), int64;
    -100 where nothing is learnt.
    """
    ### BEGIN SOLUTION
    length = len(text)
    text_labels = torch.full((length,), -100)
    text_labels[first:last] = text[first:last]
    audio_labels = torch.full((len(codes), length), -100)
    staircase = sequence.delay(codes, -100, stop)[:, : length - first - 1]
    audio_labels[:, first + 1 : first + 1 + staircase.shape[1]] = staircase
    return text_labels[1:], audio_labels[:, 1:]
    ### END SOLUTION


# %%
check("07.labels")

# %% [markdown]
# On the real row it must give what `build_row` gives:

# %%
N = laid.input_ids.shape[1] + 1
padded = torch.tensor(ids + [config.pad_token] * (N - len(ids)))
mine = labels(padded, codes, first, last, STOP)
assert torch.equal(mine[0], laid.text_labels) and torch.equal(mine[1], laid.audio_labels)
span = slice(first - 2, first + 9)
print(f"inputs at positions {span.start} to {span.stop - 1} (the answer's first word stands at {first}), and what each is asked for:")
signs = {PAD: "", STOP: "stop", IGNORE: "·", config.audio_spk_token: "voice"}
display(compare_grids(laid.input_ids[:, span], torch.cat((mine[1], mine[0][None]))[:, span], signs, titles=("inputs", "labels"), mark=False,
                      rows=[*(f"codebook {k}" for k in range(Q)), "text"], columns=range(span.start, span.stop),
                      alt="What stands at eleven positions, and the label of each."))

# %% [markdown]
# ### When the row is cut
#
# Rows have a greatest length. What is cut off first is the end of the sound, and with it the stops. A model trained on many such rows
# learns that speech does not end. So they are counted.

# %%
for most in (N, N - 4, N - 20):
    short = sequence.build_row(ids, codes, config, markers, ref_codes=reference, has_speaker=True, max_length=most)
    print(f"cut at {most:3} of {N}: {short.stop_cut} of {Q} stops lost")

# %% [markdown]
# ## The cost of padding
#
# A batch is a rectangle. Rows of unlike length must be padded to the longest, and the model computes every pad as if it meant something.
# A common recipe pads every row to one fixed length. **Predict:** if every row of the training file is padded to 512 positions,
# what share of the positions is useful?

# %%
training = open_rows(settings.data_dir / settings.stages["t2a"][0].data[0], config, settings.cache_dir())
count = min(len(training), 256 if budget == "smoke" else 2048)


def positions(raw) -> int:
    """How long a row gets: its text, or up to the last stop, after the shift by one."""
    answer_codes = sequence.frames(raw.answers[-1], Q)
    return sequence.build_row(tokenizer.conversation(raw.conversation), answer_codes, config, markers).input_ids.shape[1]


lengths = [positions(training[number]) for number in range(count)]
print(f"{count} rows: {min(lengths)} to {max(lengths)} positions, {sum(lengths) / count:.0f} on average")
predict("07.useful", "Every row padded to 512 positions: how many percent are useful?", None)

# %%
reveal("07.useful", round(100 * sum(lengths) / (512 * count)), "percent")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercise: computed positions
#
# *Exercise 07.padding · difficulty ●●○ · importance ●●○ · 10 minutes · 2 points · stuck? `hint("07.padding")`*
#
# Better: let rows of like length share a batch, and bound a batch by its *area*. Sort the rows; a row joins the open batch as long as
# rows times longest stays within the budget, else it opens a new one. How many positions are computed in all?

# %% slideshow={"slide_type": "skip"}
@exercise("07.padding")
def positions_computed(lengths: list[int], budget: int) -> int:
    """Rows sorted by length and cut into batches of at most `budget` positions
    -> the sum of rows x longest.
    """
    ### BEGIN SOLUTION
    batches = [[]]
    for length in sorted(lengths):
        if batches[-1] and (len(batches[-1]) + 1) * length > budget:
            batches.append([])
        batches[-1].append(length)
    return sum(len(batch) * batch[-1] for batch in batches)
    ### END SOLUTION


# %%
check("07.padding")

# %%
from mmo.display import BLUE, drawing, finish

limit = settings.stages["t2a"][0].token_budget
useful = sum(lengths)
batch_rows = max(1, limit // max(lengths))
unsorted = sum(len(part) * max(part) for part in (lengths[at : at + batch_rows] for at in range(0, count, batch_rows)))
ways = {"every row to 512": 512 * count, f"every row to the longest ({max(lengths)})": max(lengths) * count, f"batches of {batch_rows} as they come": unsorted,
        f"sorted, at most {limit} positions": positions_computed(lengths, limit)}
for way, cost in ways.items():
    print(f"{way:34} {cost:8} positions, {100 * useful / cost:5.1f} % useful, {ways['every row to 512'] / cost:4.1f} times fewer positions")
with drawing(7.0, 1.8) as figure:
    axes = figure.add_subplot()
    axes.barh(list(ways), [100 * useful / cost for cost in ways.values()], color=BLUE, height=0.6)
    axes.set(xlabel="useful positions, percent", xlim=(0, 100))
    axes.invert_yaxis()
    picture = finish(figure, "Share of useful positions for four ways of making batches; sorted rows waste almost nothing.")
display(picture)

# %% [markdown]
# Fewer than in the first way, that is; seconds are another matter. `mmo.data.Batches` sorts and cuts a chunk of rows at a time and shuffles the batches, so that the model does not see all short rows first. And it goes one
# better: of all budgets that give as few batches it takes the smallest. The cut itself, for one budget, is your exercise again:

# %%
import inspect

print(inspect.getsource(cut_at))

# %% [markdown]
# **Padding is not all that is computed for nothing.** The original (MiniMind-O, which this course builds anew) pads, and then runs every layer and all nine heads over every position. A head is a product with its weights, and `mini`'s are large:

# %%
with torch.device("meta"):  # its shapes, without memory for its weights
    mini = OmniModel(find_profile("mini").model)


def millions(part) -> float:
    """Weights of a part; a position that goes through it costs two operations for each."""
    return sum(weight.numel() for weight in part.parameters()) / 1e6


print(
    f"mini, millions of weights: the heads of all codebooks {millions(mini.talker.lm_head):.1f}, the text head {millions(mini.lm_head):.1f}, "
    f"one layer {millions(mini.talker.layers[0]):.1f}"
)

# %% [markdown]
# All of that is computed for every position of the question, too, which has no code to learn. What else training leaves out or joins, each with the loss and the gradients as they were:
#
# | what is done | where |
# |---|---|
# | heads only where there is a label | `loss_sums` in `mmo/omni.py` |
# | the last layer of each half likewise: its keys and values are needed of all positions, the rest of it only where a head looks | `read` in `mmo/transformer.py` |
# | the Thinker's layers above the *bridge* (the block in its middle whose output is all that the Talker gets of the text, notebook 08) only as far as there is text to learn: while the sound plays out, nothing that is heard comes from them | `text_length` in `mmo/omni.py` |
# | all codebooks in one product, not one after the other | `mmo/talker.py` |
# | norms and rotations with gradients written by hand, half the passes over memory | `mmo/fused.py` |
# | in bf16: what several products read is rounded once; on a CPU, attention over short rows as two products, whose gradient is quicker than the fused kernel's | `mmo/fused.py` |
# | freed memory stays for the next step instead of going back to the system, and lies on pages of 2 MiB, of which there are fewer to look up | `mmo/memory.py` |
# | the next batches are laid out in a process beside | `mmo/loader.py` |
# | small operations joined by a compiler, where there is one (`mmo train --compile`) | `mmo/compiling.py` |
# | frozen encoders run once, not in every epoch (notebook 11); experts get their positions sorted (06); Muon's matrices of one shape go together (10) | `mmo/features.py`, `mmo/moe.py`, `mmo/muon.py` |
#
# One thing more is not quite as it was: on a processor with units for bfloat16 `tiny` rounds what goes into its matrix products and what comes out of them to that format, and trains a quarter quicker (`mmo/products.py`); norms, attention, the weights themselves and the optimiser's averages stay as they are. Rows are filled up to a multiple of 128 there,
# for the first product of each new shape waits until a kernel has been written for it, and buckets have hundreds of shapes.
#
# A batch bounded by its area also changes something: it holds as many positions each time, not as many rows, so the updates are others. What that means for learning is a question of loss against *time*, not of rows a second:
# `mmo bench train` and `mmo bench learn` measure the two, and [how speed is measured](../docs/performance.md) has the tables.

# %% [markdown]
# ## Five questions
#
# Every choice says why it is right or wrong.

# %%
quiz("07")

# %% [markdown]
# ## Summary
#
# - Codebook $k$ of frame $f$ stands at position `first + 1 + k + f`. One step writes a diagonal; a frame is whole when its last code is.
# - The delay costs $Q - 1$ steps once. The first frame is whole after eight.
# - Labels are the streams themselves, one position on, inside the last answer; everything else is -100.
# - A wrong delay does not crash. It sounds.
# - Padding is the largest cost that nobody sees; sorting removes it.
#
# **Often mistaken.** *"Delay means latency."* It costs seven steps of the model, however long they take; the 80 ms of a frame are something else.
# *"Pad is silence."* Silence is a sound and has codes; pad is the absence of any. *"The reference voice is delayed too."* It is not: it is read, never written.
#
# **To try.** Delay by $2k$ instead of $k$: how many steps, and what does each code know now that it did not before? Delay only codebooks 1 to 7 by
# one (as some models do): which codes are then guessed without knowing each other? Give `build_row` two answers: which is learnt?
#
# **Where to read on.** In this course: `mmo/sequence.py`, then [notebook 10](10_train_t2a.ipynb), where these rows train. Papers:
#
# - J. Copet, F. Kreuk, I. Gat, T. Remez, D. Kant, G. Synnaeve, Y. Adi, A. Défossez: *Simple and Controllable Music Generation.* NeurIPS 2023,
#   [arXiv:2306.05284](https://arxiv.org/abs/2306.05284). The delay pattern beside flat, parallel and others, measured.
# - Z. Borsos, R. Marinier, D. Vincent and others: *AudioLM: a Language Modeling Approach to Audio Generation.* 2022,
#   [arXiv:2209.03143](https://arxiv.org/abs/2209.03143). Codes written flat, coarse ones first.
# - C. Wang, S. Chen, Y. Wu and others: *Neural Codec Language Models are Zero-Shot Text to Speech Synthesizers.* 2023,
#   [arXiv:2301.02111](https://arxiv.org/abs/2301.02111). VALL-E: codebook 0 step by step; the others in a second model, one after the other, each for all frames at once.
# - A. Défossez, L. Mazaré, M. Orsini and others: *Moshi: a speech-text foundation model for real-time dialogue.* 2024,
#   [arXiv:2410.00037](https://arxiv.org/abs/2410.00037). Text and codes on one clock; a small depth transformer writes the frame.
