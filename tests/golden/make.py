"""Write the small goldens in this folder: `python tests/golden/make.py`.

The figures come from a second, deliberately naive implementation, in this file, in float64: loops over codebooks, heads,
experts, runs and positions, no cache (incremental logits are full forwards over prefixes), nothing imported from
`mmo`.  It was written from the description in README.md and itself agrees with the original's golden files
(`python tests/golden/make.py --check ../shared/golden`), so these small files carry the original's maths to
where those cannot be had, and cover what they do not: several pictures and runs, top-2 experts without
renormalisation, rows without sound, a reference voice longer than its prompt.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
IGNORE = -100
STEPS = 5


# --- The naive model ---------------------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def softmax(x):
    e = torch.exp(x - x.max(-1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True)


def rotated(x, theta):
    """x (T, E): pair (i, i + E/2) turned by t * theta^(-2i/E)."""
    T, E = x.shape
    out = x.clone()
    for i in range(E // 2):
        angle = torch.arange(T, dtype=x.dtype) * theta ** (-2 * i / E)
        a, b = x[:, i], x[:, i + E // 2]
        out = out.index_copy(1, torch.tensor([i]), (a * angle.cos() - b * angle.sin())[:, None])
        out = out.index_copy(1, torch.tensor([i + E // 2]), (b * angle.cos() + a * angle.sin())[:, None])
    return out


def attention(w, name, x, sizes):
    """x (T, D), one row."""
    T, E = len(x), sizes["head_dim"]
    q, k, v = (x @ w[f"{name}.{p}_proj.weight"].T for p in "qkv")
    heard = []
    for head in range(sizes["heads"]):
        group = head // (sizes["heads"] // sizes["kv_heads"])
        qh, kh, vh = q[:, head * E : (head + 1) * E], k[:, group * E : (group + 1) * E], v[:, group * E : (group + 1) * E]
        qh = rotated(rms_norm(qh, w[f"{name}.q_norm.weight"], sizes["eps"]), sizes["theta"])
        kh = rotated(rms_norm(kh, w[f"{name}.k_norm.weight"], sizes["eps"]), sizes["theta"])
        scores = (qh @ kh.T / math.sqrt(E)).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        heard.append(softmax(scores) @ vh)
    return torch.cat(heard, -1) @ w[f"{name}.o_proj.weight"].T


def swiglu(w, name, x):
    gate, up = x @ w[f"{name}.gate_proj.weight"].T, x @ w[f"{name}.up_proj.weight"].T
    return (gate / (1 + torch.exp(-gate)) * up) @ w[f"{name}.down_proj.weight"].T


def mixture(w, name, x, sizes, routed):
    """x (T, D); appends (scores, chosen) of every position to `routed`, for the auxiliary loss."""
    out = []
    for position in x:
        scores = softmax(w[f"{name}.gate.weight"] @ position)
        chosen = scores.argsort(descending=True)[: sizes["top_k"]]
        gates = scores[chosen]
        if sizes["renormalise"]:
            gates = gates / gates.sum()
        experts = [g * swiglu(w, f"{name}.experts.{int(e)}", position) for g, e in zip(gates, chosen)]
        out.append(sum(experts))
        routed.append((scores, chosen))
    return torch.stack(out)


def block(w, name, x, sizes, routed):
    x = x + attention(w, f"{name}.self_attn", rms_norm(x, w[f"{name}.input_layernorm.weight"], sizes["eps"]), sizes)
    y = rms_norm(x, w[f"{name}.post_attention_layernorm.weight"], sizes["eps"])
    return x + (mixture(w, f"{name}.mlp", y, sizes, routed) if sizes["moe"] else swiglu(w, f"{name}.mlp", y))


def projector(w, name, x):
    centred = x - x.mean(-1, keepdim=True)
    x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.0.weight"] + w[f"{name}.0.bias"]
    x = gelu(x @ w[f"{name}.1.weight"].T + w[f"{name}.1.bias"])
    return x @ w[f"{name}.3.weight"].T + w[f"{name}.3.bias"]


def normed_mlp(w, name, x, eps):
    x = gelu(x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"])
    return rms_norm(x @ w[f"{name}.2.weight"].T + w[f"{name}.2.bias"], w[f"{name}.3.weight"], eps)


def runs(ids, marker):
    """[start, end) of each run of `marker`."""
    found, start = [], None
    for position, value in enumerate([*ids, None]):
        if value == marker and start is None:
            start = position
        if value != marker and start is not None:
            found.append((start, position))
            start = None
    return found


def placed(stream, ids, marker, groups):
    """groups[r] (n, D) replace the first n positions of run r."""
    stream = list(stream)
    for (start, end), group in zip(runs(ids, marker), groups):
        for i in range(min(len(group), end - start)):
            stream[start + i] = group[i]
    return torch.stack(stream)


def code_embedding(w, codes, Q):
    """codes (Q,) of one position."""
    total = 0
    for k in range(Q):
        name = f"talker.embed_tokens.adapters.{k}"
        own = gelu(w[f"{name}.0.weight"][codes[k]]) @ w[f"{name}.2.weight"].T
        total = total + w["talker.embed_tokens.base.weight"][codes[k]] + own
    return total / Q


def code_logits(w, x, Q):
    """x (T, D) -> (Q, T, A)."""
    shared = x @ w["talker.lm_head.base.weight"].T
    out = []
    for k in range(Q):
        name = f"talker.lm_head.adapters.{k}"
        out.append(shared + gelu(x @ w[f"{name}.0.weight"].T) @ w[f"{name}.2.weight"].T)
    return torch.stack(out)


def block_sizes(c):
    """Thinker's and Talker's: the Talker's are its own, whatever the Thinker has."""
    thinker = {
        "heads": c["num_attention_heads"],
        "kv_heads": c["num_key_value_heads"],
        "head_dim": c["head_dim"],
        "eps": c["rms_norm_eps"],
        "theta": c["rope_theta"],
        "moe": c["use_moe"],
        "top_k": c["num_experts_per_tok"],
        "renormalise": c["norm_topk_prob"],
        "coef": c["router_aux_loss_coef"],
    }
    own = {"heads": 8, "kv_heads": 4, "head_dim": c["talker_hidden_size"] // 8, "eps": 1e-6}
    return thinker, thinker | own | {"top_k": 1, "renormalise": True, "coef": 5e-4}


def row_forward(w, c, inputs, b, length, aux):
    """Row b, its first `length` positions -> text logits (length, V), audio logits (Q, length, A).

    aux: one list of routed positions for each block, gathered over rows.
    """
    ids = inputs["input_ids"][b, :, :length]
    Q, text = len(ids) - 1, ids[-1].tolist()
    thinker, talker = block_sizes(c)
    x = w["model.embed_tokens.weight"][ids[-1]]
    if "audio_features_encoded" in inputs:
        heard = projector(w, "audio_proj.mlp", inputs["audio_features_encoded"][b])
        x = placed(x, text, c["audio_ids"][0], [heard[: int(inputs["audio_lens"][b])]])
    if "image_features_encoded" in inputs:
        seen = projector(w, "vision_proj.mlp", inputs["image_features_encoded"][b])
        x = placed(x, text, c["image_ids"][0], seen if seen.dim() == 3 else [seen])
    bridge = x
    for layer in range(c["num_hidden_layers"]):
        x = block(w, f"model.layers.{layer}", x, thinker, aux[layer])
        if layer == c["bridge_layer"]:
            bridge = x
    text_hidden = rms_norm(x, w["model.norm.weight"], c["rms_norm_eps"])

    codes = []
    for t in range(length):
        is_speaker = int(ids[0, t]) == c["audio_spk_token"] and "spk_emb" in inputs
        codes.append(
            w["talker.spk_proj.weight"] @ inputs["spk_emb"][b] if is_speaker else code_embedding(w, ids[:Q, t], Q)
        )
    y = normed_mlp(w, "talker.embed_proj", bridge, c["rms_norm_eps"]) * w["talker.text_scale"]
    y = y + normed_mlp(w, "talker.codec_proj", torch.stack(codes), c["rms_norm_eps"]) * w["talker.audio_scale"]
    for layer in range(c["num_talker_hidden_layers"]):
        y = block(w, f"talker.layers.{layer}", y, talker, aux[c["num_hidden_layers"] + layer])
    y = rms_norm(y, w["talker.norm.weight"], c["rms_norm_eps"])
    return text_hidden @ w["model.embed_tokens.weight"].T, code_logits(w, y, Q)


def forward(w, c, inputs, length=None):
    """Text logits (B, T, V), audio logits (B, Q, T, A), auxiliary loss of training."""
    B, _, T = inputs["input_ids"].shape
    aux = [[] for _ in range(c["num_hidden_layers"] + c["num_talker_hidden_layers"])]
    rows = [row_forward(w, c, inputs, b, length or T, aux) for b in range(B)]
    loss = torch.zeros((), dtype=torch.float64)
    for layer, routed in enumerate(aux):
        if not routed:
            continue
        coef = block_sizes(c)[layer >= c["num_hidden_layers"]]["coef"]
        E = c["num_experts"] if layer < c["num_hidden_layers"] else 4
        load = torch.zeros(E, dtype=torch.float64)
        for _, chosen in routed:
            for expert in chosen:
                load[expert] += 1 / len(routed)
        loss = loss + coef * E * (load * torch.stack([scores for scores, _ in routed]).mean(0)).sum()
    return torch.stack([text for text, _ in rows]), torch.stack([audio for _, audio in rows]), loss


def cross_entropies(logits, labels):
    """One for each labelled position; logits (N, V), labels (N,)."""
    return [-torch.log(softmax(x)[label]) for x, label in zip(logits, labels.tolist()) if label != IGNORE]


def losses(c, text_logits, audio_logits, text_labels, audio_labels):
    text = cross_entropies(text_logits.flatten(0, 1), text_labels.flatten())
    audio = 0
    for k in range(audio_labels.shape[1]):
        labels = audio_labels[:, k].flatten()
        each = cross_entropies(audio_logits[:, k].flatten(0, 1), labels)
        weights = [10 if label == c["audio_stop_token"] else 1 for label in labels.tolist() if label != IGNORE]
        audio = audio + sum(x * weight for x, weight in zip(each, weights)) / len(each)
    return sum(text) / len(text), audio / audio_labels.shape[1]


def run(c, state, inputs):
    """All outputs of a golden file, from weights and inputs."""
    w = {name: value.double().requires_grad_() for name, value in state.items() if name != "lm_head.weight"}
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    T = inputs["input_ids"].shape[-1]
    text_logits, audio_logits, aux_loss = forward(w, c, inputs)
    text_loss, audio_loss = losses(c, text_logits, audio_logits, inputs["text_labels"], inputs["audio_labels"])
    gradients = torch.autograd.grad(text_loss + audio_loss + aux_loss, list(w.values()), allow_unused=True)
    grad_norms = {name: 0.0 if g is None else float(g.norm()) for name, g in zip(w, gradients)}
    out = {
        "text_logits": text_logits,
        "audio_logits": audio_logits,
        "incremental_text_logits": text_logits[:, T - STEPS - 1 :],  # a causal model: prefixes give the same
        "incremental_audio_logits": audio_logits[:, :, T - STEPS - 1 :],
        "text_loss": text_loss,
        "audio_loss": audio_loss,
        "aux_loss": aux_loss,
    }
    return {name: value.detach().float().contiguous() for name, value in out.items()}, grad_norms


# --- Weights and inputs ------------------------------------------------------------------------------------------


def base_config(**changes):
    c = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_talker_hidden_layers": 1,
        "talker_hidden_size": 16,
        "use_moe": False,
        "vocab_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "intermediate_size": 28,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "num_experts": 4,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 12,
        "norm_topk_prob": True,
        "router_aux_loss_coef": 5e-4,
        "audio_hidden_size": 10,
        "image_hidden_size": 12,
        "image_token_len": 3,
        "spk_emb_size": 7,
        "audio_vocab_size": 20,
        "audio_pad_token": 17,
        "audio_stop_token": 18,
        "audio_spk_token": 19,
        "bridge_layer": 0,
        "audio_ids": [16],
        "image_ids": [12],
        "max_position_embeddings": 64,
        "num_codebooks": 8,
        "adapter_rank": 4,
    }
    return c | changes


def random_weights(c, generator):
    """Weights under the original's names; norms and scales off their starting values, so that each one counts."""
    state = {}

    def matrix(name, rows, columns, std=None):
        state[name] = torch.randn(rows, columns, generator=generator) * (std or columns**-0.5)

    def vector(name, size, mean):
        state[name] = mean + 0.2 * torch.randn(size, generator=generator)

    def blocks(prefix, count, width, heads, kv_heads, head_dim, inner, expert_inner, experts):
        for layer in range(count):
            name = f"{prefix}.layers.{layer}"
            matrix(f"{name}.self_attn.q_proj.weight", heads * head_dim, width)
            matrix(f"{name}.self_attn.k_proj.weight", kv_heads * head_dim, width)
            matrix(f"{name}.self_attn.v_proj.weight", kv_heads * head_dim, width)
            matrix(f"{name}.self_attn.o_proj.weight", width, heads * head_dim)
            for norm, size in (("q_norm", head_dim), ("k_norm", head_dim)):
                vector(f"{name}.self_attn.{norm}.weight", size, 1.0)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                vector(f"{name}.{norm}.weight", width, 1.0)
            if c["use_moe"]:
                matrix(f"{name}.mlp.gate.weight", experts, width)
            parts = [f"mlp.experts.{e}" for e in range(experts)] if c["use_moe"] else ["mlp"]
            for part in parts:
                size = expert_inner if c["use_moe"] else inner
                matrix(f"{name}.{part}.gate_proj.weight", size, width)
                matrix(f"{name}.{part}.up_proj.weight", size, width)
                matrix(f"{name}.{part}.down_proj.weight", width, size)

    D, W, A, R = c["hidden_size"], c["talker_hidden_size"], c["audio_vocab_size"], c["adapter_rank"]
    matrix("model.embed_tokens.weight", c["vocab_size"], D, 0.3)
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    sizes = (c["intermediate_size"], c["moe_intermediate_size"], c["num_experts"])
    blocks("model", c["num_hidden_layers"], D, heads, kv_heads, c["head_dim"], *sizes)
    vector("model.norm.weight", D, 1.0)
    inner = math.ceil(W * math.pi / 64) * 64
    blocks("talker", c["num_talker_hidden_layers"], W, 8, 4, W // 8, inner, inner, 4)
    vector("talker.norm.weight", W, 1.0)
    matrix("talker.embed_tokens.base.weight", A, W, 0.5)
    matrix("talker.lm_head.base.weight", A, W)
    for k in range(c["num_codebooks"]):
        matrix(f"talker.embed_tokens.adapters.{k}.0.weight", A, R, 1.0)
        matrix(f"talker.embed_tokens.adapters.{k}.2.weight", W, R)
        matrix(f"talker.lm_head.adapters.{k}.0.weight", R, W)
        matrix(f"talker.lm_head.adapters.{k}.2.weight", A, R)
    for name, width in (("codec_proj", W), ("embed_proj", D)):
        matrix(f"talker.{name}.0.weight", width, width)
        vector(f"talker.{name}.0.bias", width, 0.0)
        matrix(f"talker.{name}.2.weight", W, width)
        vector(f"talker.{name}.2.bias", W, 0.0)
        vector(f"talker.{name}.3.weight", W, 1.0)
    matrix("talker.spk_proj.weight", W, c["spk_emb_size"])
    state["talker.text_scale"], state["talker.audio_scale"] = torch.tensor(2.9), torch.tensor(1.1)
    for name, width in (("audio_proj", c["audio_hidden_size"]), ("vision_proj", c["image_hidden_size"])):
        vector(f"{name}.mlp.0.weight", width, 1.0)
        vector(f"{name}.mlp.0.bias", width, 0.0)
        matrix(f"{name}.mlp.1.weight", D, width)
        vector(f"{name}.mlp.1.bias", D, 0.0)
        matrix(f"{name}.mlp.3.weight", D, D)
        vector(f"{name}.mlp.3.bias", D, 0.0)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    return state


def random_inputs(c, texts, generator, audio_lens=None, pictures=0, speaker=True):
    """texts: rows of ids in which 16 and 12 are placeholders and -1 is drawn at random."""
    B, T, Q = len(texts), len(texts[0]), c["num_codebooks"]

    def draw(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    text = torch.tensor(texts)
    text = torch.where(text < 0, 20 + draw(c["vocab_size"] - 20, B, T), text)
    start = T - 12
    codes = torch.full((B, Q, T), c["audio_pad_token"])
    audio_labels = torch.full((B, Q, T), IGNORE)
    for b in range(B):
        for k in range(Q):
            codes[b, k, start + k + 1 :] = draw(c["audio_pad_token"] - 1, T - start - k - 1)
            length = min(3 + 2 * b, T - start - k - 1)  # the rows' answers differ in length
            audio_labels[b, k, start + k : start + k + length] = codes[b, k, start + k + 1 : start + k + 1 + length]
            audio_labels[b, k, min(start + k + length, T - 1)] = c["audio_stop_token"]
    if speaker:
        codes[:, :, start - 1] = c["audio_spk_token"]
    text_labels = torch.full((B, T), IGNORE)
    text_labels[:, start:] = draw(c["vocab_size"], B, T - start)
    inputs = {
        "input_ids": torch.cat((codes, text[:, None]), 1),
        "text_labels": text_labels,
        "audio_labels": audio_labels,
    }
    if speaker:
        inputs["spk_emb"] = torch.randn(B, c["spk_emb_size"], generator=generator)
    if audio_lens is not None:
        N = max(audio_lens)
        inputs["audio_features_encoded"] = torch.randn(B, N, c["audio_hidden_size"], generator=generator)
        inputs["audio_lens"] = torch.tensor(audio_lens)
    if pictures:
        shape = (B, pictures, c["image_token_len"], c["image_hidden_size"])
        inputs["image_features_encoded"] = torch.randn(*shape, generator=generator)
    return inputs


def a(*pieces):
    """A row of ids: numbers are ids, (id, n) a run, -n is n drawn ids."""
    row = []
    for piece in pieces:
        row += [piece[0]] * piece[1] if isinstance(piece, tuple) else [-1] * -piece if piece < 0 else [piece]
    return row


def cases():
    """name -> (config, texts, other inputs)."""
    speech, picture = 16, 12
    yield "pictures", base_config(), [
        a(-2, (picture, 3), -1, (picture, 3), -1, (speech, 4), -12),  # two pictures, then speech
        a((picture, 3), -1, (speech, 2), -1, (speech, 5), (picture, 2), -12),  # runs at once; second speech run; cut
    ], {"audio_lens": [3, 5], "pictures": 2}
    yield "experts", base_config(
        use_moe=True, num_experts=5, num_experts_per_tok=2, norm_topk_prob=False, router_aux_loss_coef=0.02,
        num_hidden_layers=2,
    ), [a(-3, (speech, 5), -14), a(-2, (speech, 3), -17), a(-22)], {"audio_lens": [7, 0, 2]}
    yield "switch", base_config(
        use_moe=True, num_hidden_layers=2, bridge_layer=1, num_key_value_heads=4,
        num_codebooks=3,
    ), [a(-18), a(-18)], {}
    yield "plain", base_config(
        hidden_size=24, talker_hidden_size=32, head_dim=8, num_attention_heads=3, num_key_value_heads=1,
        rms_norm_eps=1e-5, rope_theta=1e4, num_hidden_layers=1, bridge_layer=-1,
    ), [a(-19)], {"speaker": False}


def write_models():
    for seed, (name, c, texts, options) in enumerate(cases()):
        generator = torch.Generator().manual_seed(seed)
        state = random_weights(c, generator)
        inputs = random_inputs(c, texts, generator, **options)
        outputs, grad_norms = run(c, state, inputs)
        tensors = {f"state.{k}": v for k, v in state.items()} | inputs | outputs
        save_file(tensors, HERE / f"{name}.safetensors")
        text = json.dumps({"config": c, "grad_norms": {k: round(v, 8) for k, v in grad_norms.items()}})
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{name}: text {outputs['text_loss']:.4f}, audio {outputs['audio_loss']:.4f}, aux {outputs['aux_loss']:.6f}")


# --- The naive layout --------------------------------------------------------------------------------------------

BOS, EOS, THINK_END = [1, 7, 5], [2, 5], [6, 5, 5]
PAD, STOP, SPEAKER = 513, 514, 515


def naive_layout(text_ids, answer, ref, has_speaker, max_length):
    """A row, position by position; answer and ref are flat and frame-major."""
    text_ids = text_ids[:max_length]
    ranges, i = [], 0
    while i < len(text_ids):
        if text_ids[i : i + 3] == BOS:
            end = i + 3
            while end < len(text_ids) and text_ids[end : end + 2] != EOS:
                end += 1
            ranges.append([i + 3, end])
            i = end
        i += 1
    first, end = ranges[-1]
    start = first
    for i in range(first, min(end, first + 50)):
        if text_ids[i : i + 3] == THINK_END:
            start = i + 3
            break
    streams = [[PAD] * max_length for _ in range(8)]
    labels = [[IGNORE] * max_length for _ in range(8)]
    if answer:
        room = start - (1 if has_speaker else 0)
        used = min(len(ref) // 8, room)
        kept = ref[len(ref) - 8 * used :]
        for k in range(8):
            for f in range(used):
                streams[k][start - used + f] = kept[8 * f + k]
            if has_speaker:
                streams[k][start - used - 1] = SPEAKER
            for f in range(len(answer) // 8 + 1):
                position = start + k + 1 + f
                if position < max_length:
                    streams[k][position] = labels[k][position] = answer[8 * f + k] if 8 * f < len(answer) else STOP
    text = text_ids + [0] * (max_length - len(text_ids))
    text_labels = [text[i] if first <= i < end + 2 and i < len(text_ids) else IGNORE for i in range(max_length)]
    return {
        "assistant_ranges": ranges,
        "audio_start": start,
        "expected_input": [row[:-1] for row in [*streams, text]],
        "expected_text_labels": text_labels[1:],
        "expected_audio_labels": [row[1:] for row in labels],
    }


def write_layout():
    draw = random.Random(0)

    def words(n):
        return [draw.randrange(20, 60) for _ in range(n)]

    def turn(n, think=None):
        head = [] if think is None else [8, 5, *words(think), *THINK_END]
        return [*BOS, *head, *words(n), *EOS]

    def user(n):
        return [1, 9, 5, *words(n), *EOS]

    rows = [
        ("plain", user(5) + turn(4), 6, 0, False, 48),
        ("short reference, speaker", user(9) + turn(4), 5, 4, True, 48),
        ("reference longer than the prompt", user(4) + turn(3), 4, 40, True, 40),
        ("reference longer than the prompt, no speaker", user(4) + turn(3), 4, 40, False, 40),
        ("two turns", user(3) + turn(4) + user(2) + turn(3), 5, 3, True, 64),
        ("empty think block", user(4) + turn(5, think=0), 7, 2, True, 48),
        ("think block of 49", user(4) + turn(5, think=47), 3, 2, True, 96),
        ("think block too long", user(4) + turn(5, think=48), 3, 2, True, 96),
        ("all stops cut", user(4) + turn(4), 30, 2, True, 32),
        ("some stops cut", user(4) + turn(4), 10, 0, True, 28),
        ("text cut", user(4) + turn(40), 2, 2, True, 32),
        ("cut right behind the marker", user(4) + turn(9), 2, 2, True, 12),
        ("no sound", user(4) + turn(4), 0, 5, True, 32),
        ("as long as it gets", user(4) + turn(4), 6, 0, False, 27),
    ]
    layout = {
        "pad_token_id": 0,
        "audio_pad": PAD,
        "audio_stop": STOP,
        "audio_spk": SPEAKER,
        "think_end_ids": THINK_END,
        "bos_assistant_ids": BOS,
        "eos_ids": EOS,
        "cases": [],
    }
    for note, text_ids, answer_frames, ref_frames, has_speaker, max_length in rows:
        answer = [draw.randrange(512) for _ in range(8 * answer_frames)]
        ref = [draw.randrange(512) for _ in range(8 * ref_frames)]
        case = {
            "note": note,
            "max_length": max_length,
            "text_ids": text_ids,
            "answer_codes": answer,
            "ref_codes": ref,
            "has_spk": has_speaker,
        }
        layout["cases"].append(case | naive_layout(text_ids, answer, ref, has_speaker, max_length))
    (HERE / "layout.json").write_text(json.dumps(layout, separators=(",", ":")) + "\n", encoding="utf-8")


def check(folder):
    """Does the naive model agree with the original's files?"""
    for path in sorted(Path(folder).glob("*.safetensors")):
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        tensors = load_file(path)
        state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        inputs = {k: v for k, v in tensors.items() if not k.startswith("state.")}
        outputs, grad_norms = run(described["config"], state, inputs)
        worst = max(float((outputs[k] - tensors[k]).abs().max()) for k in outputs)
        theirs = described["grad_norms"]
        gradients = max(abs(grad_norms[k] - v) / max(v, 0.01) for k, v in theirs.items())
        print(f"{path.stem}: outputs {worst:.1e}, gradient norms {gradients:.1e}")
        if not (worst < 1e-4 and gradients < 1e-4):
            raise SystemExit(f"{path}: the naive model disagrees with the original")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        check(sys.argv[2])
    else:
        write_models()
        write_layout()
