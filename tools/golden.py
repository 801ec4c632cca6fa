#!/usr/bin/env python3
"""Writes the golden fixtures: what PyTorch and transformers compute for four tiny BERTs, in float64.

    python tools/golden.py [--out tests/fixtures]

Run by hand, where the fixtures have to change; the tests only read the files. The committed ones were made on a CPU with
Python 3.11, torch 2.15.0, transformers 5.24.0, numpy 2.4.6 and safetensors 0.8 (each .json repeats its versions).

Each case is golden_CASE.safetensors with a golden_CASE.json:

    mlm         BertForMaskedLM: rows are the labelled tokens, the decoder is tied to the word embeddings
    classifier  BertForSequenceClassification: 3 classes, through the pooler; rows are the [CLS] tokens
    token       BertForTokenClassification: 3 classes, a linear head on one token of each sequence
    wide        as mlm, one layer, two heads of 32: sizes that the kernels for Hopper take

    tokens       i32 [total]            four sequences laid end to end; PyTorch got them padded, with an attention mask
    cu_seqlens   i32 [sequences + 1]    where each starts, and where the last ends
    rows         i32 [rows]             indices into tokens that the head reads, ascending
    labels       i32 [rows]
    logits       f32 [rows, classes]    classes is the vocabulary for mlm
    hidden.0 ..  f32 [total, hidden]    the embeddings' output (after LayerNorm), then each layer's
    weight.NAME, grad.NAME, step3.NAME  f32, under transformers' names: the first weights, the gradients of the mean loss
                                        before clipping, and the weights after three AdamW steps on the same batch
                                        (no step3 for wide)

bf16_errors in the .json is how far PyTorch itself is off where model and activations are bfloat16: of logits, loss and each gradient, the
norm of the difference from float64 over the norm. It is the yardstick for our bf16.

Every first weight is a float32, so both sides start from the same bits; everything after it is float64 and is rounded
to float32 once, when it is written. The errors of a float32 engine against these files are therefore its own.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Callable, NamedTuple

import numpy
import torch
import transformers
from safetensors.numpy import save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

LENGTHS = [64, 17, 7, 33]
CLASSES = 3
CLS, SEP, MASK, FIRST_KMER, VOCABULARY = 2, 3, 4, 5, 69
IGNORED = -100

# No dropout: its random bits could not be the same on both sides.
CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}

# clip_coefficient is how torch's clip_grad_norm_ scales the gradients.
OPTIMIZER = {
    "steps": 3,
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.98,
    "epsilon": 1e-6,
    "weight_decay": 0.01,
    "no_weight_decay": "biases and LayerNorm weights",
    "clip_norm": 1.0,
    "clip_coefficient": "min(1, clip_norm / (gradient_norm + 1e-6))",
}


def label_mlm(draw, sequence):
    """A fifth of the tokens, at least one; of them 80 % become [MASK], 10 % any k-mer, 10 % stay."""
    count = max(1, round(len(sequence) / 5))
    chosen = sorted(draw.choice(numpy.arange(1, len(sequence) - 1), count, replace=False).tolist())
    labels = {position: int(sequence[position]) for position in chosen}
    for position in chosen:
        kind = draw.random()
        if kind < 0.8:
            sequence[position] = MASK
        elif kind < 0.9:
            sequence[position] = draw.integers(FIRST_KMER, VOCABULARY)
    return labels


def label_first(draw, _sequence):
    """A class for the whole sequence, read at [CLS]."""
    return {0: int(draw.integers(CLASSES))}


def label_one_token(draw, sequence):
    """A class for one k-mer, as at a splice site."""
    return {int(draw.integers(1, len(sequence) - 1)): int(draw.integers(CLASSES))}


class Case(NamedTuple):
    """`label` takes a generator and a sequence, may change the sequence, and returns {position: label}."""

    name: str
    model_class: type
    label: Callable
    seed: int
    config: dict = CONFIG


CASES = [
    Case("mlm", BertForMaskedLM, label_mlm, 1),
    Case("classifier", BertForSequenceClassification, label_first, 2),
    Case("token", BertForTokenClassification, label_one_token, 3),
    Case("wide", BertForMaskedLM, label_mlm, 4,
         CONFIG | {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}),
]


def draw_batch(case):
    """The sequences (token ids), and a {position: label} for each."""
    draw = numpy.random.default_rng(case.seed)
    sequences = [
        numpy.concatenate([[CLS], draw.integers(FIRST_KMER, VOCABULARY, length - 2), [SEP]]) for length in LENGTHS
    ]
    return sequences, [case.label(draw, sequence) for sequence in sequences]


def fill(model, seed):
    """Random weights, far larger than BERT's N(0, 0.02): attention is then far from uniform and no gradient is tiny."""
    draw = numpy.random.default_rng(1000 + seed)
    for name, parameter in model.named_parameters():
        noise = draw.standard_normal(tuple(parameter.shape))
        if name.endswith("LayerNorm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embeddings" in name:
            value = 0.7 * noise
        else:
            value = 1.5 * noise / parameter.shape[1] ** 0.5
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value.astype(numpy.float32).astype(numpy.float64)))
    return model


def pad(sequences, labels):
    longest = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    targets = torch.full_like(tokens, IGNORED)
    for index, (sequence, labelled) in enumerate(zip(sequences, labels)):
        tokens[index, : len(sequence)] = torch.from_numpy(sequence)
        mask[index, : len(sequence)] = 1
        for position, label in labelled.items():
            targets[index, position] = label
    return {"input_ids": tokens, "attention_mask": mask}, targets


def pack(padded, sequences):
    """[sequences, longest, ...] without the padding: [total, ...]."""
    return torch.cat([padded[index, : len(sequence)] for index, sequence in enumerate(sequences)])


def check_padding_is_ignored(case, model, sequences, hidden):
    """Packed sequences are only comparable with padded ones where padding changes nothing."""
    encoder = model.bert
    for index, sequence in enumerate(sequences):
        alone = encoder(input_ids=torch.from_numpy(sequence)[None]).last_hidden_state[0]
        error = (hidden[index, : len(sequence)] - alone).abs().max().item()
        assert error < 1e-12, f"{case.name}: sequence {index} differs by {error} when it is not padded"


def forward(case, model, inputs, targets):
    """The mean loss over the labelled rows, all logits, and the hidden states."""
    labels = targets[:, 0] if case.name == "classifier" else targets
    return model(**inputs, labels=labels, output_hidden_states=True)


def optimizer_of(model):
    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=OPTIMIZER["learning_rate"],
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"],
    )


def train(case, model, inputs, targets):
    """Three steps on one batch: the loss and the gradient norm (before clipping) of each."""
    optimizer = optimizer_of(model)
    losses, norms = [], []
    for _ in range(OPTIMIZER["steps"]):
        optimizer.zero_grad()
        loss = forward(case, model, inputs, targets).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"]).item())
        losses.append(loss.item())
        optimizer.step()
    return losses, norms


def compute(case):
    """All tensors of one case, and what its .json says."""
    config = BertConfig(**case.config, num_labels=CLASSES, attn_implementation="eager")
    model = fill(case.model_class(config).double(), case.seed)
    sequences, labels = draw_batch(case)
    inputs, targets = pad(sequences, labels)
    cu_seqlens = numpy.cumsum([0] + LENGTHS)
    rows = [int(start) + position for start, labelled in zip(cu_seqlens, labels) for position in sorted(labelled)]

    output = forward(case, model, inputs, targets)
    output.loss.backward()
    check_padding_is_ignored(case, model, sequences, output.hidden_states[-1])
    logits = output.logits if case.name == "classifier" else pack(output.logits, sequences)[rows]

    tensors = {
        "tokens": numpy.concatenate(sequences),
        "cu_seqlens": cu_seqlens,
        "rows": numpy.array(rows),
        "labels": pack(targets, sequences)[rows].numpy(),
    }
    tensors = {name: array.astype(numpy.int32) for name, array in tensors.items()}
    floats = {"logits": logits}
    floats |= {f"hidden.{index}": pack(state, sequences) for index, state in enumerate(output.hidden_states)}
    floats |= {f"weight.{name}": parameter.clone() for name, parameter in model.named_parameters()}
    floats |= {f"grad.{name}": parameter.grad.clone() for name, parameter in model.named_parameters()}
    # Attention does not change when one number is added to all its scores, so this gradient is zero but for rounding.
    zero = [name for name, p in model.named_parameters() if p.grad.abs().max() < 1e-12]
    bf16_errors = compare_bf16(case, config, output, model, zero, inputs, targets)
    losses, norms = train(case, model, inputs, targets)
    if case.name != "wide":
        floats |= {f"step3.{name}": parameter for name, parameter in model.named_parameters()}
    tensors |= {name: tensor.detach().numpy().astype(numpy.float32) for name, tensor in floats.items()}

    facts = {
        "case": case.name,
        "model": case.model_class.__name__,
        "made_with": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "config": case.config if case.label is label_mlm else case.config | {"num_labels": CLASSES},
        "tied": {name: first for name, first in tied(model)},
        "zero_gradients": zero,
        "loss": losses[0],
        "optimizer": OPTIMIZER,
        "losses": losses,
        "gradient_norms": norms,
        "bf16_errors": bf16_errors,
    }
    return tensors, facts


def compare_bf16(case, config, output, model, zero, inputs, targets):
    """The same forward and backward pass in bfloat16, against that in float64. Rows that are not labelled count as well.

    With PyTorch's fused attention, which takes the rowsum of its way back from the rounded output, as our kernels do.
    """
    config = BertConfig(**(config.to_dict() | {"attn_implementation": "sdpa"}))
    rounded = fill(case.model_class(config).double(), case.seed).bfloat16()
    assert rounded.config._attn_implementation == "sdpa"
    other = forward(case, rounded, inputs, targets)
    other.loss.backward()
    seen = (inputs["attention_mask"] > 0) if case.name != "classifier" else ...
    pairs = {"logits": (other.logits[seen], output.logits[seen]), "loss": (other.loss, output.loss)}
    gradients = dict(model.named_parameters())
    pairs |= {f"grad.{name}": (p.grad, gradients[name].grad) for name, p in rounded.named_parameters() if name not in zero}
    return {name: ((a.double() - b).norm() / b.norm()).item() for name, (a, b) in pairs.items()}


def tied(model):
    """Names that share their storage with an earlier name; their gradients and updates are those of the earlier one."""
    first = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            yield name, first[id(parameter)]
        first.setdefault(id(parameter), name)


def main():
    parser = argparse.ArgumentParser(description="Writes the golden fixtures.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # one order of summation, so the same bytes on every run
    for case in CASES:
        tensors, facts = compute(case)
        path = folder / f"golden_{case.name}.safetensors"
        save_file(tensors, path)
        path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
        print(f"{path}: {path.stat().st_size} bytes, {len(tensors['rows'])} rows, losses {facts['losses']}, "
              f"gradient norms {facts['gradient_norms']}")


if __name__ == "__main__":
    main()
