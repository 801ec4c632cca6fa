"""DNABERT-2, Nucleotide Transformer, BigBird and ModernBERT as PyTorch models, their config.json and the names of their tensors as
released: what golden_families.py and hf_families.py have in common. Needs only torch, transformers and numpy.

Nucleotide Transformer v1, BigBird and ModernBERT are transformers' own. The other two ship code of their own that today's transformers
does not load, so they are patched together from transformers' BERT and ESM: a gated feed-forward network in place of the
plain one, and for DNABERT-2 an additive attention mask that carries ALiBi. family_formulas.py is what they are checked with.
"""

import contextlib

import numpy
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BigBirdConfig,
    BigBirdForMaskedLM,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
    EsmConfig,
    EsmForMaskedLM,
    EsmForSequenceClassification,
    EsmForTokenClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
)

NT = {
    "attention_probs_dropout_prob": 0.0,
    "emb_layer_norm_before": False,
    "esmfold_config": None,
    "hidden_dropout_prob": 0.0,
    "hidden_size": 1280,
    "initializer_range": 0.02,
    "intermediate_size": 5120,
    "is_folding_model": False,
    "layer_norm_eps": 1e-12,
    "mask_token_id": 2,
    "max_position_embeddings": 1002,
    "num_attention_heads": 20,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": False,
    "token_dropout": True,
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_list": None,
    "vocab_size": 4105,
}

# config.json as released: nucleotide-transformer-500m, nucleotide-transformer-v2-500m-multi-species, DNABERT-2-117M, and
# gena-lm-bigbird-base-t2t; of modernGENA's, which was not at hand, ModernBERT's words and the tokens of GENA-LM. Sizes are the caller's.
RELEASED = {
    "nt_v1": {"architectures": ["EsmForMaskedLM"], "model_type": "esm"} | NT,
    "nt_v2": {
        "architectures": ["EsmForMaskedLM", "EsmForTokenClassification", "EsmForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "esm_config.EsmConfig",
            "AutoModelForMaskedLM": "modeling_esm.EsmForMaskedLM",
            "AutoModelForTokenClassification": "modeling_esm.EsmForTokenClassification",
            "AutoModelForSequenceClassification": "modeling_esm.EsmForSequenceClassification",
        },
    }
    | NT
    | {
        "add_bias_fnn": False,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "max_position_embeddings": 2050,
        "num_attention_heads": 16,
        "num_hidden_layers": 29,
        "position_embedding_type": "rotary",
        "token_dropout": False,
        "vocab_size": 4107,
    },
    "dnabert2": {
        "alibi_starting_size": 512,
        "attention_probs_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_bert.BertConfig",
            "AutoModel": "bert_layers.BertModel",
            "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM",
            "AutoModelForSequenceClassification": "bert_layers.BertForSequenceClassification",
        },
        "classifier_dropout": None,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 4096,
    },
    "bigbird": {
        "architectures": ["BigBirdForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "attention_type": "block_sparse",
        "block_size": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 4096,
        "model_type": "big_bird",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "num_random_blocks": 3,
        "pad_token_id": 3,
        "rescale_embeddings": False,
        "sep_token_id": 66,
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_bias": True,
        "use_cache": True,
        "vocab_size": 32000,
    },
    "modernbert": {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "cls",
        "cls_token_id": 1,
        "decoder_bias": True,
        "embedding_dropout": 0.0,
        "eos_token_id": 2,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 1152,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "pad_token_id": 3,
        "sep_token_id": 2,
        "torch_dtype": "float32",
        "vocab_size": 32000,
    },
}

CLASSES = {
    "nt": (EsmConfig, {"mlm": EsmForMaskedLM, "classifier": EsmForSequenceClassification, "token": EsmForTokenClassification}),
    "dnabert2": (
        BertConfig,
        {"mlm": BertForMaskedLM, "classifier": BertForSequenceClassification, "token": BertForTokenClassification},
    ),
    "bigbird": (
        BigBirdConfig,
        {"mlm": BigBirdForMaskedLM, "classifier": BigBirdForSequenceClassification, "token": BigBirdForTokenClassification},
    ),
    "modernbert": (
        ModernBertConfig,
        {
            "mlm": ModernBertForMaskedLM,
            "classifier": ModernBertForSequenceClassification,
            "token": ModernBertForTokenClassification,
        },
    ),
}

# What config.json has for others than the constructor of transformers' config.
NOT_ARGUMENTS = ("architectures", "auto_map", "model_type", "torch_dtype", "alibi_starting_size", "add_bias_fnn")


def config_of(family, kind, **changes):
    """The config.json of a release, or for another `kind` than mlm of what was fine-tuned from it and saved."""
    config = RELEASED[family] | changes
    if kind != "mlm":
        config["architectures"] = [CLASSES[family.split("_")[0]][1][kind].__name__]
        if family == "dnabert2":
            config |= {"model_type": "bert", "pad_token_id": 0}
    return config


def build(family, kind, config, attention="eager"):
    """The model with its own first weights, in float32."""
    config_class, models = CLASSES[family.split("_")[0]]
    arguments = {name: value for name, value in config.items() if name not in NOT_ARGUMENTS}
    if family == "bigbird":
        attention = "eager"  # it has no other
    config = config_class(**arguments, attn_implementation=attention)
    model = models[kind](config)
    width, inner = config.hidden_size, config.intermediate_size
    if family == "nt_v2":
        model.esm.rotary_embeddings = Rotary(config)
        for layer in model.esm.encoder.layer:
            layer.intermediate = Gated("dense", width, inner, functional.silu)
            layer.output.dense = nn.Linear(inner, width, bias=False)
    if family == "modernbert":
        model.model.rotary_emb = RotaryByKind(config)
    if family == "dnabert2":
        position = model.bert.embeddings.position_embeddings.weight
        position.requires_grad_(False).zero_()
        for layer in model.bert.encoder.layer:
            layer.intermediate = Gated("gated_layers", width, inner, functional.gelu)
    return model


def fill(model, seed):
    """Random weights, large enough that attention is far from uniform, and no LayerNorm or bias trivial."""
    draw = numpy.random.default_rng(1000 + seed)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = draw.standard_normal(tuple(parameter.shape))
        if name.endswith("bias"):
            value = 0.3 * noise
        elif parameter.dim() == 1:
            value = 1.0 + 0.3 * noise
        elif "embeddings" in name:
            value = 0.7 * noise
        else:
            value = 1.5 * noise / parameter.shape[1] ** 0.5
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value.astype(numpy.float32).astype(numpy.float64)))
    return model


class Gated(nn.Module):
    """The first half of the columns passes the activation, and multiplies the second."""

    def __init__(self, name, width, inner, activation):
        super().__init__()
        self.activation = activation
        self.linear = name
        self.add_module(name, nn.Linear(width, 2 * inner, bias=False))

    def forward(self, x):
        gate, value = getattr(self, self.linear)(x).chunk(2, dim=-1)
        return self.activation(gate) * value


class Rotary(nn.Module):
    """transformers' tables of angles, which are float32 there whatever the model is."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        self.frequencies = 10000 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class RotaryByKind(nn.Module):
    """The same of ModernBERT, whose layers have one base or another."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
        self.frequencies = {kind: of["rope_theta"] ** -exponents for kind, of in config.rope_parameters.items()}

    def forward(self, x, position_ids, kind):
        angles = position_ids[..., None].double() * self.frequencies[kind]
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


@contextlib.contextmanager
def in_float64():
    """transformers' ESM rounds the share of masked tokens, queries and keys to float32 on the way, and its ModernBERT queries, keys and
    attention's probabilities: here they do not."""
    original, softmax = torch.Tensor.float, functional.softmax
    torch.Tensor.float = torch.Tensor.double
    functional.softmax = lambda x, dim, dtype=None: softmax(x, dim=dim, dtype=x.dtype)
    try:
        yield
    finally:
        torch.Tensor.float, functional.softmax = original, softmax


def pad(family, config, sequences, dtype=torch.float64):
    """What the model takes: ids with padding on the right, and the mask."""
    longest = max(map(len, sequences))
    padding = 3 if family == "dnabert2" else config["pad_token_id"]
    tokens = torch.full((len(sequences), longest), padding)
    mask = torch.zeros_like(tokens)
    for index, sequence in enumerate(sequences):
        tokens[index, : len(sequence)] = torch.as_tensor(sequence)
        mask[index, : len(sequence)] = 1
    if family == "dnabert2":
        mask = alibi_mask(config["num_attention_heads"], mask, dtype)
    return {"input_ids": tokens, "attention_mask": mask}


def alibi_mask(heads, mask, dtype):
    """[sequences, heads, length, length], which is added to the scores."""

    def of_power(count):
        return [2 ** (-8 * head / count) for head in range(1, count + 1)]

    power = 1 << (heads.bit_length() - 1)
    slopes = of_power(heads) if power == heads else of_power(power) + of_power(2 * power)[::2][: heads - power]
    position = torch.arange(mask.shape[1])
    distance = (position[None, :] - position[:, None]).abs()
    bias = -torch.tensor(slopes, dtype=torch.float64)[:, None, None] * distance
    return (bias[None] + (1.0 - mask.double())[:, None, None, :] * -10000.0).to(dtype)


def released(family, tensors):
    """The same tensors under the names, and in the shapes, that the family's checkpoints have."""
    if family != "dnabert2":
        return dict(tensors)
    result = {}
    for name, tensor in tensors.items():
        if name == "bert.embeddings.position_embeddings.weight" or name == "cls.predictions.bias":
            continue
        if ".attention.self.query." in name:
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            result[name.replace("query", "Wqkv")] = torch.cat(parts)
        elif ".attention.self." not in name:
            if ".attention." not in name:
                name = name.replace(".intermediate.gated_layers.", ".mlp.gated_layers.")
                name = name.replace(".output.dense.", ".mlp.wo.").replace(".output.LayerNorm.", ".mlp.layernorm.")
            result[name] = tensor
    if "cls.predictions.bias" in tensors:
        result["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    return result


def random_blocks(config, training, length):
    """BigBird's, [layers, heads, blocks - 2, random blocks], by the model's own functions, each layer from a seed of its own."""
    size, count, heads = config["block_size"], config["num_random_blocks"], config["num_attention_heads"]
    tables = []
    for seed, layer in enumerate(build("bigbird", "mlm", config).train(training).bert.encoder.layer):
        attention = layer.attention.self
        numpy.random.seed(seed)
        if length in (1024, 3072, 4096):
            longest = config["max_position_embeddings"]
            table = [
                attention._bigbird_block_rand_mask(longest, longest, size, size, count, last_idx=1024)[: length // size - 2]
                for _ in range(heads)
            ]
        else:
            plan = attention._get_rand_attn_plan(length, size, count)
            table = attention._bigbird_block_rand_mask_with_head(
                length, length, size, size, heads, plan_from_length=plan[0], plan_num_rand_blocks=plan[1]
            )
        tables.append(numpy.stack(table))
    return numpy.stack(tables)
