"""A model made ready for decoding: fewer and larger products a step, weights in the precision that is asked for.

    twin = for_decoding(model)                  # the same answers; shares with the model what it does not join
    twin = for_decoding(model, "bfloat16")      # half the bytes a step reads; sums and sampling stay in float32
    twin = for_decoding(model, "int8")          # a quarter of them

A single step multiplies matrices with one vector a row, so its time is that of reading the weights (the memory's bandwidth)
and of calling operations.  For the second, layers that read the same input become one product:

    as trained                          here
    q_proj, k_proj, v_proj              qkv_proj
    q_norm, k_norm, two rotations       one of each, over query and key heads side by side
    gate_proj, up_proj                  gate_up_proj
    Q tables and Q adapters of codes    one table of all codes, worked out once
    Q adapters of the heads             one stacked product

For the first there are fewer bytes.  int8 is of the weights only: each row of a matrix is rounded to 255 steps of its own
size.  torch's own dynamic quantisation rounds activations to eight bits too, and is deprecated in the pinned version; the product used here
is the one that its compiler chooses for such weights.
What either costs in words is measured by `mmo bench precision`.  With either an answer may depend a little on who shares its batch: rounding
makes a small difference of two orders of summing into a larger one.

Letters: B batch, T positions, Q codebooks, A audio vocabulary, R rank of the adapters, H query heads, G key/value heads, E width of a head,
D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmo.fused import rotate
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.talker import CodeEmbedding, CodeHead
from mmo.transformer import Attention, Block, FeedForward, KVCache, Window, write_cache

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Some = TypeVar("Some", bound=nn.Module)


# --- Products ----------------------------------------------------------------------------------------------------


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers of -127 .. 127 times a scale for each output.

    torch's kernel is quick with activations in bfloat16 alone: they are rounded to it before the product, and what comes out is.  Between
    the products everything stays as precise as the model.  Scales are rounded before they are used, so that weights fit them exactly.
    """

    STEP = 32  # the kernel takes inputs in pieces; a width that is no multiple goes through an ordinary product
    ROWS = 24  # and is made for a few rows: more than this are quicker so, too

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        exact = weight.detach().float()
        scales = (exact.abs().amax(dim=1) / 127).clamp(min=1e-12).bfloat16()
        self.register_buffer("weight", (exact / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8).contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., outputs), in the precision of x."""
        flat = x.reshape(-1, x.shape[-1])
        if not 0 < len(flat) <= self.ROWS or flat.shape[1] % self.STEP:
            out = F.linear(flat, self.weight.to(x.dtype)) * self.scales.to(x.dtype)
        else:
            out = torch._weight_int8pack_mm(flat.bfloat16().contiguous(), self.weight, self.scales).to(x.dtype)
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], len(self.weight))


class PackedLinear(nn.Module):
    """A linear layer in bfloat16 whose weights lie as oneDNN wants to read them; from the usual layout it copies them at every call.

    These are the operations that torch's own compiler puts in the place of a linear layer on a CPU.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.outputs = len(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
        self.bias = None if bias is None else bias.detach()

    @staticmethod
    def possible(weight: Tensor) -> bool:
        """Whether this machine multiplies so."""
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
            return False
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., outputs)."""
        if not x.numel():  # an expert to whom nothing was sent
            return x.new_zeros(*x.shape[:-1], self.outputs)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), self.weight, self.bias, "none", [], "")


@torch.no_grad()
def joined(linears: Sequence[nn.Linear], precision: Precision | None) -> nn.Module:
    """One layer that gives the outputs of several layers of the same input, side by side.

    In float32 a single one is shared, not copied.
    """
    weight = linears[0].weight if len(linears) == 1 else torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    if precision == "int8":
        return Int8Linear(weight, bias)
    if precision == "bfloat16" and PackedLinear.possible(weight):
        return PackedLinear(weight, bias)
    if len(linears) == 1:
        return linears[0]
    one = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    one.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        one.bias = nn.Parameter(bias, requires_grad=False)
    return one


# --- Blocks ------------------------------------------------------------------------------------------------------


class QuickAttention(nn.Module):
    """`Attention` with one product, one norm and one rotation for queries and keys."""

    @torch.no_grad()
    def __init__(self, attention: Attention, precision: Precision | None = None) -> None:
        super().__init__()
        self.head_dim = E = attention.head_dim
        self.heads, self.groups = attention.q_proj.out_features // E, attention.k_proj.out_features // E
        self.qkv_proj = joined([attention.q_proj, attention.k_proj, attention.v_proj], precision)
        self.o_proj = joined([attention.o_proj], precision)
        self.eps = attention.q_norm.eps
        norms = attention.q_norm.weight.expand(self.heads, E), attention.k_norm.weight.expand(self.groups, E)
        self.register_buffer("norm", torch.cat(norms))  # (H + G, E)

    def forward(self, x: Tensor, window: Window, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """As `Attention.forward`."""
        B, T, _ = x.shape
        H, G, E = self.heads, self.groups, self.head_dim
        queries_keys, v = self.qkv_proj(x).view(B, T, H + 2 * G, E).split((H + G, G), dim=2)
        queries_keys = F.rms_norm(queries_keys, (E,), None, self.eps) * self.norm
        q, k = rotate(queries_keys, window.cos, window.sin).split((H, G), dim=2)
        if cache is not None:
            k, v = write_cache(k, v, window, cache, layer)  # (B, G, S, E)
        else:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        if T == 1:
            return self.o_proj(attend_once(q, k, v, window.mask).view(B, 1, H * E))
        heard = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=window.mask, is_causal=window.causal, enable_gqa=True)
        return self.o_proj(heard.transpose(1, 2).reshape(B, T, H * E))


def attend_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One position's attention: q (B, 1, H, E), k and v (B, G, S, E), mask (B or 1, 1, 1, S) -> (B, G, H / G, E).

    The H / G query heads of a key head stand as so many positions: nothing is repeated, and torch's quick attention takes it.
    """
    B, _, H, E = q.shape
    G = k.shape[1]
    return F.scaled_dot_product_attention(q.reshape(B, G, H // G, E), k, v, attn_mask=mask).contiguous()


class QuickFeedForward(nn.Module):
    """`FeedForward` with one product for gate and up."""

    def __init__(self, feed_forward: FeedForward, precision: Precision | None = None) -> None:
        super().__init__()
        self.gate_up_proj = joined([feed_forward.gate_proj, feed_forward.up_proj], precision)
        self.down_proj = joined([feed_forward.down_proj], precision)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def quick_block(block: Block, precision: Precision | None) -> Block:
    """The block with quick halves; of a mixture each expert.  Routers stay as they are."""
    twin = shallow(block)
    twin.self_attn = QuickAttention(block.self_attn, precision)
    if isinstance(block.mlp, MixtureOfExperts):
        twin.mlp = shallow(block.mlp)
        twin.mlp.grouped = False  # which takes experts as they are trained
        twin.mlp.experts = nn.ModuleList(QuickFeedForward(expert, precision) for expert in block.mlp.experts)
    else:
        twin.mlp = QuickFeedForward(block.mlp, precision)
    return twin


# --- Codes -------------------------------------------------------------------------------------------------------


class CodeTable(nn.Module):
    """`CodeEmbedding` as one table: every code's vector is worked out once, a step only looks Q of them up."""

    @torch.no_grad()
    def __init__(self, embedding: CodeEmbedding) -> None:
        super().__init__()
        own = [adapter(torch.arange(len(adapter[0].weight), device=adapter[0].weight.device)) for adapter in embedding.adapters]
        self.table = torch.cat([embedding.base.weight + table for table in own])  # (Q A, D)
        A, Q = len(embedding.base.weight), len(own)
        self.first = torch.arange(Q, device=self.table.device)[:, None] * A  # where each codebook's part begins

    def forward(self, codes: Tensor) -> Tensor:
        """codes (B, Q, T) -> (B, T, D)."""
        B, Q, T = codes.shape
        flat = (codes + self.first).transpose(1, 2).reshape(B * T, Q)
        return F.embedding_bag(flat, self.table, mode="mean").view(B, T, -1)


class StackedHead(nn.Module):
    """`CodeHead` with its adapters' matrices stacked once instead of at every step."""

    @torch.no_grad()
    def __init__(self, head: CodeHead, precision: Precision | None = None) -> None:
        super().__init__()
        self.base = joined([head.base], precision)
        self.inner = joined([adapter[0] for adapter in head.adapters], precision)  # to Q R
        self.outer = torch.stack([adapter[2].weight.T for adapter in head.adapters]).contiguous()  # (Q, R, A)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., Q, A), a view of memory laid out as (Q, ..., A)."""
        Q, R, A = self.outer.shape
        x = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
        low = F.gelu(self.inner(x)).view(-1, Q, R).transpose(0, 1)  # (Q, N, R)
        logits = torch.baddbmm(self.base(x).expand(Q, -1, -1), low, self.outer)  # (Q, N, A)
        return logits.view(Q, *hidden.shape[:-1], A).movedim(0, -2)


class Int8Head(nn.Module):
    """`CodeHead` with weights in int8; one product a codebook, for torch has none for several such matrices."""

    def __init__(self, head: CodeHead) -> None:
        super().__init__()
        self.base = joined([head.base], "int8")
        self.inner = joined([adapter[0] for adapter in head.adapters], "int8")
        self.outer = nn.ModuleList(joined([adapter[2]], "int8") for adapter in head.adapters)

    def forward(self, hidden: Tensor) -> Tensor:
        """As `StackedHead.forward`."""
        low = F.gelu(self.inner(hidden)).unflatten(-1, (len(self.outer), -1))  # (..., Q, R)
        own = torch.stack([outer(low[..., k, :]) for k, outer in enumerate(self.outer)], dim=-2)
        return own + self.base(hidden)[..., None, :]


# --- The whole model ---------------------------------------------------------------------------------------------


@torch.no_grad()
def for_decoding(model: OmniModel, precision: Precision | None = None) -> OmniModel:
    """A twin of the model for decoding.  precision: of the matrices, by default as they are.

    It is a snapshot: after further training make a new one.  Joined matrices are copies (half the model again in float32).
    Raises ValueError for an unknown precision, and for int8 anywhere but on a CPU.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision == "int8" and model.lm_head.weight.device.type != "cpu":
        raise ValueError("weights in int8 are for a CPU, whose memory is slow; on a card choose bfloat16")
    if precision not in (None, "int8") and model.lm_head.weight.dtype != getattr(torch, precision):
        model = copy.deepcopy(model).to(getattr(torch, precision))
    twin, talker = shallow(model), model.talker
    twin.model, twin.talker = shallow(model.model), shallow(talker)
    for stack, own in ((model.model, twin.model), (talker, twin.talker)):
        own.layers = nn.ModuleList(quick_block(block, precision) for block in stack.layers)
    twin.lm_head = joined([model.lm_head], precision)
    twin.talker.embed_tokens = CodeTable(talker.embed_tokens)
    twin.talker.lm_head = Int8Head(talker.lm_head) if precision == "int8" else StackedHead(talker.lm_head, precision)
    for name in ("embed_proj", "codec_proj"):
        layers = [joined([layer], precision) if isinstance(layer, nn.Linear) else layer for layer in getattr(talker, name)]
        setattr(twin.talker, name, nn.Sequential(*layers))
    return twin


def shallow(module: Some) -> Some:
    """A copy of the module whose children can be exchanged without touching the original's, as it was before any compiler."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin.__dict__.pop("forward", None)  # a compiled one belongs to the original
    return twin


def step_bytes(twin: OmniModel, tail: bool = False) -> int:
    """Bytes of the matrices that one step of a twin multiplies with.  tail: without the Thinker's upper layers and its head.

    Looked-up tables are left out, for a step reads Q rows of them; of a mixture's experts a row reads `top_k`.
    """
    talker = twin.talker
    parts = [*twin.model.layers[: twin.model.num_lower], *talker.layers, talker.lm_head, talker.embed_proj, talker.codec_proj]
    if not tail:
        parts += [*twin.model.layers[twin.model.num_lower :], twin.lm_head]
    mixtures = [module for part in parts for module in part.modules() if isinstance(module, MixtureOfExperts)]
    idle = sum(tensor_bytes(expert) for mixture in mixtures for expert in mixture.experts[mixture.top_k :])
    return sum(tensor_bytes(part) for part in parts) - idle


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters, buffers and plain tensors, its children's included."""
    found = [*module.parameters(), *module.buffers()]
    found += [value for each in module.modules() for value in vars(each).values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in found)
