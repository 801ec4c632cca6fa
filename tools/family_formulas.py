"""The families' formulas in plain PyTorch, one sequence at a time and without padding: a second opinion on the models that
golden_families.py and hf_families.py take from transformers, two of which (DNABERT-2, Nucleotide Transformer v2) they have
to patch together. Shares no code with either: it is written from the formulas, over tensors under their released names.
"""

import math
from functools import partial

import torch


def encode(config, weights, ids, attention=None):
    """[tokens, hidden] of one sequence: after the embeddings, then after each layer (the last one after the last LayerNorm).

    `config` is the family's config.json with "family" added, `ids` an int64 tensor, and `attention(query, key, value,
    layer)`, of [heads, tokens, head size], replaces full attention.
    """
    if config["family"] == "modernbert":
        return modern(config, weights, ids)
    esm = config["family"].startswith("nt")
    root = "esm" if esm else "bert"
    x = embed(config, weights, ids)
    states = [x]
    for layer in range(config["num_hidden_layers"]):
        of = partial("{}.encoder.layer.{}.{}".format, root, layer)
        block = before if esm else after
        x = block(config, weights, of, x, partial(attention or partial(attend, config), layer=layer))
        states.append(x)
    if esm:
        states[-1] = norm(config, weights, "esm.encoder.emb_layer_norm_after", x)
    return states


def modern(config, weights, ids):
    """ModernBERT: LayerNorm inside each residual, none before the first layer; no bias but the decoder's."""
    size = config["hidden_size"] // config["num_attention_heads"]
    position = torch.arange(len(ids))
    x = looked_up(weights, "model.embeddings.tok_embeddings.weight", ids, config["pad_token_id"])
    x = norm(config, weights, "model.embeddings.norm", x)
    states = [x]
    for layer in range(config["num_hidden_layers"]):
        of = partial("model.layers.{}.{}".format, layer)
        sees_all = layer % config["global_attn_every_n_layers"] == 0
        base = config["global_rope_theta" if sees_all else "local_rope_theta"]
        reach = len(ids) if sees_all else config["local_attention"] // 2
        h = norm(config, weights, of("attn_norm"), x) if layer else x
        query, key, value = linear(weights, of("attn.Wqkv"), h).reshape(len(ids), 3, -1, size).permute(1, 2, 0, 3)
        angle = position[:, None] * torch.tensor([base ** (-2 * j / size) for j in range(size // 2)], dtype=torch.float64)
        query, key = (rotate(matrix, torch.polar(torch.ones_like(angle), angle)) for matrix in (query, key))
        scores = torch.einsum("hid,hjd->hij", query, key) / math.sqrt(size)
        scores = torch.where((position[:, None] - position).abs() <= reach, scores, -torch.inf)
        context = (torch.softmax(scores, dim=-1) @ value).transpose(0, 1).reshape(len(ids), -1)
        x = x + linear(weights, of("attn.Wo"), context)
        up = linear(weights, of("mlp.Wi"), norm(config, weights, of("mlp_norm"), x))
        half = up.shape[1] // 2
        x = x + linear(weights, of("mlp.Wo"), gelu(up[:, :half]) * up[:, half:])
        states.append(x)
    states[-1] = norm(config, weights, "model.final_norm", x)
    return states


def looked_up(weights, name, which, unlearned=None):
    table = weights[name]
    if unlearned is not None:  # looking this row up teaches it nothing
        rest = torch.ones(len(table), 1, dtype=torch.bool)
        rest[unlearned] = False
        table = torch.where(rest, table, table.detach())
    return table[which]


def embed(config, weights, ids):
    rows = partial(looked_up, weights)
    position = torch.arange(len(ids))
    if config["family"].startswith("nt"):
        x = rows("esm.embeddings.word_embeddings.weight", ids, config["pad_token_id"])
        if config["token_dropout"]:
            hidden = ids == config["mask_token_id"]
            share = hidden.double().mean()
            x = torch.where(hidden[:, None], 0.0, x) * ((1 - 0.15 * 0.8) / (1 - share))
        if config["position_embedding_type"] == "absolute":
            x = x + rows("esm.embeddings.position_embeddings.weight", 2 + position)
        return x
    x = rows("bert.embeddings.word_embeddings.weight", ids, config.get("pad_token_id", 0))
    x = x + weights["bert.embeddings.token_type_embeddings.weight"][0]
    if config["family"] == "bigbird":
        x = x + rows("bert.embeddings.position_embeddings.weight", position)
    return norm(config, weights, "bert.embeddings.LayerNorm", x)


def after(config, weights, of, x, attention):
    """LayerNorm behind each residual: DNABERT-2 and BigBird."""
    if config["family"] == "dnabert2":
        joined = linear(weights, of("attention.self.Wqkv"), x)
        width = config["hidden_size"]
        query, key, value = joined[:, :width], joined[:, width : 2 * width], joined[:, 2 * width :]
    else:
        query, key, value = (linear(weights, of(f"attention.self.{name}"), x) for name in ("query", "key", "value"))
    context = by_heads(config, attention, query, key, value)
    x = norm(config, weights, of("attention.output.LayerNorm"), linear(weights, of("attention.output.dense"), context) + x)
    if config["family"] == "dnabert2":
        up = linear(weights, of("mlp.gated_layers"), x)
        gated = gelu(up[:, : up.shape[1] // 2]) * up[:, up.shape[1] // 2 :]
        return norm(config, weights, of("mlp.layernorm"), linear(weights, of("mlp.wo"), gated) + x)
    up = gelu_tanh(linear(weights, of("intermediate.dense"), x))
    return norm(config, weights, of("output.LayerNorm"), linear(weights, of("output.dense"), up) + x)


def before(config, weights, of, x, attention):
    """LayerNorm inside each residual: Nucleotide Transformer."""
    h = norm(config, weights, of("attention.LayerNorm"), x)
    query, key, value = (linear(weights, of(f"attention.self.{name}"), h) for name in ("query", "key", "value"))
    x = x + linear(weights, of("attention.output.dense"), by_heads(config, attention, query, key, value))
    up = linear(weights, of("intermediate.dense"), norm(config, weights, of("LayerNorm"), x))
    if config["family"] == "nt_v2":
        half = up.shape[1] // 2
        up = up[:, :half] / (1 + torch.exp(-up[:, :half])) * up[:, half:]
    else:
        up = gelu(up)
    return x + linear(weights, of("output.dense"), up)


def by_heads(config, attention, *matrices):
    heads = config["num_attention_heads"]
    context = attention(*(matrix.reshape(len(matrix), heads, -1).transpose(0, 1) for matrix in matrices))
    return context.transpose(0, 1).reshape(context.shape[1], -1)


def attend(config, query, key, value, layer):
    """Full attention; `layer` matters to block-sparse attention only."""
    heads, length, size = query.shape
    position = torch.arange(length, dtype=torch.float64)
    if config["family"] == "nt_v2":
        angle = position[:, None] * torch.tensor([10000 ** (-2 * j / size) for j in range(size // 2)], dtype=torch.float64)
        turn = torch.polar(torch.ones_like(angle), angle)
        query, key = (rotate(matrix, turn) for matrix in (query, key))
    scores = torch.einsum("hid,hjd->hij", query, key) / math.sqrt(size)
    if config["family"] == "dnabert2":
        distance = (position[:, None] - position).abs()
        scores = scores - torch.tensor(slopes(heads), dtype=torch.float64)[:, None, None] * distance
    return torch.softmax(scores, dim=-1) @ value


def rotate(matrix, turn):
    """Elements j and j + size/2 are the two parts of a complex number."""
    half = matrix.shape[-1] // 2
    turned = torch.complex(matrix[..., :half], matrix[..., half:]) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


def slopes(heads):
    """Of ALiBi: a geometric row where the number of heads is a power of two, else that of the power below, and every other
    one of the power above."""
    power = 2 ** int(math.log2(heads))
    row = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return row if power == heads else row + [2 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)][: heads - power]


def block_sparse(config, blocks, tables, query, key, value, layer):
    """BigBird's sparse attention over `blocks` blocks, of which the sequence fills the first, perhaps not all.

    tables[layer][head][block - 1] are the random blocks of a query block. A key that is seen n times counts n times.
    """
    size = config["block_size"]
    seen = torch.zeros(len(query), blocks, blocks, dtype=torch.float64)
    for head in range(len(query)):
        for block in range(blocks):
            if block in (0, blocks - 1):
                keys = list(range(blocks))
            else:
                keys = sorted({0, block - 1, block, block + 1, blocks - 1}) + list(tables[layer][head][block - 1])
            for key_block in keys:
                seen[head, block, key_block] += 1
    length = query.shape[1]
    seen = seen.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :length, :length]
    scores = torch.einsum("hid,hjd->hij", query, key) / math.sqrt(query.shape[-1])
    scores = torch.where(seen > 0, scores, -torch.inf)
    weight = seen * torch.exp(scores - scores.max(-1, keepdim=True).values)
    return weight / weight.sum(-1, keepdim=True) @ value


def head(config, weights, kind, x):
    """Logits of rows of the last state, [rows, hidden]. `kind` is mlm, classifier or token."""
    family = config["family"]
    if family == "modernbert":
        h = norm(config, weights, "head.norm", gelu(linear(weights, "head.dense", x)))
        if kind != "mlm":
            return linear(weights, "classifier", h)
        return h @ weights["model.embeddings.tok_embeddings.weight"].T + weights["decoder.bias"]
    if kind == "token":
        return linear(weights, "classifier", x)
    if kind == "classifier":
        if family == "dnabert2":
            return linear(weights, "classifier", torch.tanh(linear(weights, "bert.pooler.dense", x)))
        act = torch.tanh if family.startswith("nt") else gelu_tanh
        return linear(weights, "classifier.out_proj", act(linear(weights, "classifier.dense", x)))
    if family.startswith("nt"):
        h = norm(config, weights, "lm_head.layer_norm", gelu(linear(weights, "lm_head.dense", x)))
        return linear(weights, "lm_head.decoder", h) + weights["lm_head.bias"]
    act = gelu_tanh if family == "bigbird" else gelu
    h = norm(config, weights, "cls.predictions.transform.LayerNorm", act(linear(weights, "cls.predictions.transform.dense", x)))
    bias = "cls.predictions.decoder.bias" if family == "dnabert2" else "cls.predictions.bias"
    return h @ weights["bert.embeddings.word_embeddings.weight"].T + weights[bias]


def linear(weights, name, x):
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def norm(config, weights, name, x):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    y = centred / torch.sqrt(variance + config.get("layer_norm_eps", config.get("norm_eps"))) * weights[f"{name}.weight"]
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
