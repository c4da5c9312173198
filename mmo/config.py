"""Configuration: what the model is (`ModelConfig`), how it answers (`Decoding`), how a stage of training runs (`StageConfig`).

Everything is a frozen dataclass.  `ModelConfig` uses the field names of MiniMind-O's own configuration, so that a
`config` written by the original reads straight in; the fields at the end of the class are ours.

>>> config = ModelConfig(hidden_size=192, num_hidden_layers=4)
>>> config.head_dim, config.intermediate_size, config.bridge_layer
(24, 640, 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

IGNORE = -100  # label of a position that is not learnt (the default `ignore_index` of torch's cross-entropy)


def swiglu_width(hidden_size: int) -> int:
    """Inner width of SwiGLU: ceil(width * pi / 64) * 64, the original's rule."""
    return math.ceil(hidden_size * math.pi / 64) * 64


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one stack of decoder blocks.  The Thinker has one, the Talker has its own."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    use_moe: bool
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    router_aux_loss_coef: float
    keep_top1_gate: bool

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} must divide num_heads {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary embedding turns pairs")
        if self.use_moe and not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(f"num_experts_per_tok {self.num_experts_per_tok} must lie in 1..{self.num_experts}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and special ids of the omni model; the defaults are minimind-3o (~113 M parameters).

    `None` means "follow the rule": head_dim = hidden_size / heads, SwiGLU width = ceil(hidden_size * pi / 64) * 64,
    experts as wide as the dense layer, bridge = num_hidden_layers // 2 - 1.
    """

    # Thinker
    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int | None = None
    intermediate_size: int | None = None
    vocab_size: int = 6400
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768
    # Mixture of experts (Thinker; the Talker's own are below)
    use_moe: bool = False
    num_experts: int = 4
    num_experts_per_tok: int = 1
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 5e-4
    # Talker
    talker_hidden_size: int = 768
    num_talker_hidden_layers: int = 4
    bridge_layer: int | None = None  # index of the Thinker layer whose output the Talker hears; -1: the embedding
    spk_emb_size: int = 192
    # Codes: ids 0 .. num_codes - 1 are sounds, the ids above are signs
    audio_vocab_size: int = 2112
    audio_pad_token: int = 2049
    audio_stop_token: int = 2050
    audio_spk_token: int = 2051
    # Speech and pictures
    audio_hidden_size: int = 512  # width of the speech encoder's features
    image_hidden_size: int = 768  # width of the vision encoder's features
    image_token_len: int = 64  # placeholders (= patches) a picture
    audio_ids: tuple[int, ...] = (16,)  # the placeholder <|audio_pad|>; the first id is the one used
    image_ids: tuple[int, ...] = (12,)  # the placeholder <|image_pad|>
    # --- From here on: constants of the original's code, fields here -------------------------------------------
    num_codebooks: int = 8
    adapter_rank: int = 256
    pad_token: int = 0
    im_start_token: int = 1
    im_end_token: int = 2
    newline_token: int = 234
    # The original builds the Talker's blocks from default settings, whatever the Thinker has.
    talker_num_attention_heads: int = 8
    talker_num_key_value_heads: int = 4
    talker_rms_norm_eps: float = 1e-6
    talker_num_experts: int = 4
    talker_num_experts_per_tok: int = 1
    talker_router_aux_loss_coef: float = 5e-4
    # Ours.  False reproduces the original: renormalised top-1 gates are always 1, so its router never feels the
    # loss of the task.  True keeps the router's own score as the gate of a single expert (see moe.py).
    keep_top1_gate: bool = False

    def __post_init__(self) -> None:
        rules = {
            "head_dim": self.hidden_size // self.num_attention_heads,
            "intermediate_size": swiglu_width(self.hidden_size),
            "bridge_layer": self.num_hidden_layers // 2 - 1,
        }
        for name, value in rules.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.moe_intermediate_size is None:
            object.__setattr__(self, "moe_intermediate_size", self.intermediate_size)
        for name in ("audio_ids", "image_ids"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check()

    def _check(self) -> None:
        if not -1 <= self.bridge_layer < self.num_hidden_layers:
            raise ValueError(f"bridge_layer {self.bridge_layer} must lie in -1..{self.num_hidden_layers - 1}")
        signs = (self.audio_pad_token, self.audio_stop_token, self.audio_spk_token)
        if len(set(signs)) < 3 or not self.num_codes <= min(signs) or max(signs) >= self.audio_vocab_size:
            raise ValueError(
                f"pad, stop and speaker ids {signs} must differ and lie in "
                f"{self.num_codes}..{self.audio_vocab_size - 1} (audio_vocab_size - 1)"
            )
        if not self.audio_ids or not self.image_ids:
            raise ValueError("audio_ids and image_ids need one placeholder id each")

    @property
    def num_codes(self) -> int:
        """How many sounds a codebook has: 2048 for real Mimi (pad is 2049), 512 in the tiny world (pad is 513)."""
        return self.audio_pad_token - 1

    @property
    def thinker(self) -> TransformerConfig:
        """Sizes of the Thinker's blocks."""
        return TransformerConfig(
            hidden_size=self.hidden_size,
            num_layers=self.num_hidden_layers,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
            rms_norm_eps=self.rms_norm_eps,
            rope_theta=self.rope_theta,
            max_positions=self.max_position_embeddings,
            use_moe=self.use_moe,
            num_experts=self.num_experts,
            num_experts_per_tok=self.num_experts_per_tok,
            moe_intermediate_size=self.moe_intermediate_size,
            norm_topk_prob=self.norm_topk_prob,
            router_aux_loss_coef=self.router_aux_loss_coef,
            keep_top1_gate=self.keep_top1_gate,
        )

    @property
    def talker(self) -> TransformerConfig:
        """Sizes of the Talker's blocks: they follow the Talker's own width, not the Thinker's sizes."""
        width = self.talker_hidden_size
        return TransformerConfig(
            hidden_size=width,
            num_layers=self.num_talker_hidden_layers,
            num_heads=self.talker_num_attention_heads,
            num_kv_heads=self.talker_num_key_value_heads,
            head_dim=width // self.talker_num_attention_heads,
            intermediate_size=swiglu_width(width),
            rms_norm_eps=self.talker_rms_norm_eps,
            rope_theta=self.rope_theta,
            max_positions=self.max_position_embeddings,
            use_moe=self.use_moe,
            num_experts=self.talker_num_experts,
            num_experts_per_tok=self.talker_num_experts_per_tok,
            moe_intermediate_size=swiglu_width(width),
            norm_topk_prob=True,
            router_aux_loss_coef=self.talker_router_aux_loss_coef,
            keep_top1_gate=self.keep_top1_gate,
        )

    @classmethod
    def from_dict(cls, values: Mapping) -> ModelConfig:
        """Build from a mapping (a JSON file's `config`).  Raises ValueError naming keys that are not settings."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown model settings {unknown}; known are {sorted(known)}")
        return cls(**values)

    def to_dict(self) -> dict:
        """Plain types only, ready for JSON; `from_dict` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def replace(self, **changes) -> ModelConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)


# --- Decoding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoding:
    """How text and codes are chosen, and how long an answer may get.

    `temperature` and `top_k` may be one number, or one a codebook (a short tuple's last number stands for the rest).
    Temperature 0 takes the most likely one; top_k 0 keeps all.
    """

    temperature: float | tuple[float, ...] = 0.2  # the original's, for codes
    top_k: int | tuple[int, ...] = 50
    text_temperature: float = 0.0
    text_top_k: int = 50
    max_text: int = 128  # tokens
    max_frames: int = 375  # 30 s
    write_down: bool = False  # what is heard is written in a think block first, and the answer follows (for models trained so: `Draws.write_down`)
    hearings: tuple[float, ...] = (1.0,)  # speeds at which a sound is heard to write it down, by all hearings together; the answer is to the first
    looks: tuple[tuple[float, float], ...] = ((0.0, 0.0),)  # how far down and right (shares of its sides) a picture is moved at each look; all choose the text

    def __post_init__(self) -> None:
        if not self.hearings or min(self.hearings) <= 0:
            raise ValueError(f"hearings {self.hearings}: at least one speed is needed, each above 0")
        if not self.looks or any(abs(far) >= 0.5 for look in self.looks for far in look):
            raise ValueError(f"looks {self.looks}: at least one is needed, (down, right) in shares of the picture's sides, each less than half of one")
        if min(*each(self.temperature, 2), self.text_temperature) < 0:
            raise ValueError(f"temperatures must not be negative: {self.temperature}, {self.text_temperature}")
        if min(*each(self.top_k, 2), self.text_top_k) < 0:
            raise ValueError(f"top_k must not be negative: {self.top_k}, {self.text_top_k}")
        if self.max_text < 1 or self.max_frames < 1:
            raise ValueError(f"max_text {self.max_text} and max_frames {self.max_frames} must be at least 1")

    def greedy(self) -> Decoding:
        """The same bounds, always the most likely choice."""
        return replace(self, temperature=0.0, text_temperature=0.0)


def each(setting: float | Sequence[float], count: int) -> list[float]:
    """One number for each of `count` codebooks."""
    numbers = list(setting) if isinstance(setting, Sequence) else [setting]
    if not numbers:
        raise ValueError("a setting for each codebook must hold at least one number")
    return (numbers + [numbers[-1]] * count)[:count]


# --- Training ----------------------------------------------------------------------------------------------------


DRAWN = ("sound_last", "system_prompt", "empty_think", "drop_reference", "silent", "write_down", "random_codes", "random_text", "hidden_history")


@dataclass(frozen=True)
class Draws:
    """What is drawn anew each time a row is read; the defaults are the original's (dataset/omni_dataset.py).

    Every draw is seeded by (seed, epoch, row), so a run that was interrupted reads what it would have read.
    """

    question: tuple[float, float, float] = (0.4, 0.2, 0.4)  # as sound, as text, as both; must sum to 1
    sound_last: float = 0.5  # of "both": the sound behind the text
    picture_moves: bool = True  # the picture before or behind the text (40 and 60 %); False: before it
    system_prompt: float = 0.2
    empty_think: float = 0.2  # how often an empty think block is kept, where the chat template writes one
    drop_reference: float = 0.5  # reference codes; the speaker's vector stays
    # Ours: the answer is only written. Such rows are short and gather in batches without the Talker, so that hearing and seeing
    # are learnt from several times as many questions in the same time.
    silent: float = 0.0
    # Ours: a question that is only heard is first written down, in the answer's think block; the answer follows, and its sound begins with it.
    # Then every word of the question is learnt, and what the Thinker can do with words it can do with what it hears.
    write_down: float = 0.0
    # Scheduled sampling (Bengio et al. 2015, arXiv:1506.03099): uniform ids in the place of true history
    random_codes: float = 0.05  # of the answer's positions, all codebooks together, over the whole audio vocabulary
    random_text: float = 0.05
    # Ours: stretches about a word long, hidden from the Talker's history, so that it looks at the bridge instead
    hidden_history: float = 0.0  # of the answer's positions; half of the stretches become pad, half random codes
    hidden_length: tuple[int, int] = (2, 6)  # positions a stretch, both ends included

    def __post_init__(self) -> None:
        if abs(sum(self.question) - 1) > 1e-6 or min(self.question) < 0:
            raise ValueError(f"question: shares as sound, text and both must sum to 1, got {self.question}")
        for name in DRAWN:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"draws.{name} {getattr(self, name)}: wanted a share, from 0 to 1")
        if len(self.hidden_length) != 2 or not 1 <= self.hidden_length[0] <= self.hidden_length[1]:
            raise ValueError(f"draws.hidden_length {list(self.hidden_length)}: wanted the shortest and the longest stretch, as [2,6]")

    @classmethod
    def none(cls, **changes) -> Draws:
        """No chance at all: the question as sound where there is one, nothing dropped, nothing replaced."""
        quiet = dict(
            question=(1.0, 0.0, 0.0), sound_last=0.0, picture_moves=False, system_prompt=0.0, empty_think=1.0,
            drop_reference=0.0, silent=0.0, write_down=0.0, random_codes=0.0, random_text=0.0, hidden_history=0.0,
        )
        return cls(**(quiet | changes))


@dataclass(frozen=True)
class Rehearsal:
    """Rows of an earlier task mixed into a stage, so that it is not forgotten."""

    data: tuple[str, ...]  # globs under the profile's data folder
    share: float  # of all rows
    draws: Draws = Draws()

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"rehearsal share {self.share} of {self.data} must lie between 0 and 1")


@dataclass(frozen=True)
class Masks:
    """Parts of a sound that are hidden: a stretch of silence in the samples, and SpecAugment (Park et al., 2019) in the encoder's mel frames.

    Each `..._share` is the probability that it happens; `silence_seconds` is a range; bands are of 80 mel bins at most `widest_band` wide, gaps
    at most `longest_gap` of the sound.
    """

    silence_share: float = 0.3
    silence_seconds: tuple[float, float] = (0.05, 0.25)
    share: float = 0.5
    bands: int = 2
    widest_band: int = 14
    gaps: int = 2
    longest_gap: float = 0.1


@dataclass(frozen=True)
class Augmentation:
    """How strongly to change a sound. Each `..._share` is the probability that the step happens at all.

    `speed` is the range of speed factors, drawn evenly in its logarithm; `gain_db`, `noise_db` (signal to noise), `equaliser_db` (largest
    boost or cut), `low_pass_hz`, `high_pass_hz` and `echo_seconds` (time to fall by 60 dB) are ranges; `echo_db` is direct sound to echo.
    masks: what is hidden altogether; None: nothing.
    """

    speed_share: float = 0.8
    speed: tuple[float, float] = (0.8, 1.25)
    filter_share: float = 0.7
    equaliser_db: float = 12.0
    low_pass_hz: tuple[float, float] = (3_000.0, 8_000.0)
    high_pass_hz: tuple[float, float] = (0.0, 300.0)
    echo_share: float = 0.4
    echo_seconds: tuple[float, float] = (0.05, 0.5)
    echo_db: tuple[float, float] = (0.0, 15.0)
    noise_share: float = 0.7
    noise_db: tuple[float, float] = (5.0, 30.0)
    gain_db: tuple[float, float] = (-12.0, 6.0)
    masks: Masks | None = field(default=None, repr=False)  # not in the words of one without: features that were made before masks are still known

    def __str__(self) -> str:
        return repr(self) + (f", {self.masks}" if self.masks else "")


@dataclass(frozen=True)
class StageConfig:
    """One pass of training over some files with some of the weights (T2A is one, A2A two, I2T two).

    Exactly one of `epochs` and `steps` is set.  Lengths are positions of the nine streams.
    """

    name: str
    data: tuple[str, ...]  # globs under the profile's data folder
    learning_rate: float
    trainable: str = "all"  # or first names of parameters joined by "+": "audio_proj", "vision_proj", "talker", "model"
    epochs: float | None = None
    steps: int | None = None
    smoke_steps: int = 24  # the same pass with budget "smoke"
    # Rows
    needs: tuple[str, ...] = ()  # columns without which the files cannot serve
    draws: Draws = Draws()
    rehearsal: tuple[Rehearsal, ...] = ()
    sound_copies: int = 1  # augmented versions of each question's sound in the feature cache; epochs take turns
    picture_copies: int = 1  # the same of each picture
    max_length: int = 512
    token_budget: int = 2048  # positions a batch, padding included
    chunk_rows: int = 2048  # rows that are realised, sorted by length and cut into batches together
    # Optimiser
    optimiser: str = "adamw"  # "muon": hidden matrices by Muon, the rest by AdamW
    muon_rate: float = 0.02
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    schedule: str = "cosine"  # or "linear", "wsd" (constant, then down over the last fifth), "constant"
    final_rate: float = 0.1  # of learning_rate, at the end
    warmup_steps: int = 50
    compile: bool = False  # the blocks by torch.compile (compiling.py); off where that fails, with the reason
    quick_products: bool = False  # computed in float32 on a CPU: products in bfloat16 where it has units for them (products.py)
    ema_decay: float = 0.0  # 0: no averaging; else evaluation and the finished checkpoint use the average
    # Losses
    stop_weight: float = 10.0
    codebook_weights: tuple[float, ...] | None = None  # None: all equal, as the original
    code_dropout: float = 0.0  # on the projected code embedding (Tacotron's prenet)

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name}: set exactly one of epochs and steps")
        if (self.epochs if self.steps is None else self.steps) <= 0:
            raise ValueError(f"stage {self.name}: {f'{self.epochs} epochs' if self.steps is None else f'{self.steps} steps'}; wanted more than none")
        if self.codebook_weights is not None and (min(self.codebook_weights, default=0) < 0 or not sum(self.codebook_weights) > 0):
            raise ValueError(f"stage {self.name}: codebook_weights {list(self.codebook_weights)} must be 0 or more, and not all 0")
        if not 0 <= self.code_dropout < 1:
            raise ValueError(f"stage {self.name}: code_dropout {self.code_dropout} must be 0 or more, and less than 1: else nothing of a code is left")
        if min(self.sound_copies, self.picture_copies) < 1:
            raise ValueError(f"stage {self.name}: sound_copies {self.sound_copies} and picture_copies {self.picture_copies} must be at least 1")
        if not self.clip_norm > 0:
            raise ValueError(f"stage {self.name}: clip_norm {self.clip_norm} must be above 0: gradients of no length teach nothing")
        if self.optimiser not in ("adamw", "muon"):
            raise ValueError(f"stage {self.name}: optimiser {self.optimiser!r} is neither adamw nor muon")
        if self.schedule not in ("cosine", "linear", "wsd", "constant"):
            raise ValueError(f"stage {self.name}: schedule {self.schedule!r} is none of cosine, linear, wsd, constant")
        if self.token_budget < self.max_length:
            raise ValueError(
                f"stage {self.name}: token_budget {self.token_budget} has no room for one row of max_length {self.max_length}"
            )
        if sum(each.share for each in self.rehearsal) >= 1:
            raise ValueError(f"stage {self.name}: rehearsal leaves no room for the stage's own rows")

    def replace(self, **changes) -> StageConfig:
        """A copy with some settings changed; a number of steps takes the place of epochs, and the other way round."""
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if changes.get(one) is not None:
                changes.setdefault(other, None)
        return replace(self, **changes)
