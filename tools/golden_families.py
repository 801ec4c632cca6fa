#!/usr/bin/env python3
"""Writes the golden fixtures of DNABERT-2, Nucleotide Transformer, BigBird and ModernBERT: as golden.py does for BERT, in float64.

    python tools/golden_families.py [--out tests/fixtures]

Run by hand, where the fixtures have to change; the tests only read the files. The committed ones were made on a CPU with
Python 3.11, torch 2.15.0, transformers 5.24.0, numpy 2.4.6 and safetensors 0.8 (each .json repeats its versions).

    nt_v1_mlm            token dropout; the second sequence has no [MASK], the last one only its <cls>
    nt_v1_classifier     3 classes at <cls>, through classifier.dense, tanh and classifier.out_proj
    nt_v2_mlm            rotary positions, SwiGLU
    nt_v2_token          3 classes, a linear head on one token of each sequence
    dnabert2_mlm         ALiBi of 12 heads, GEGLU; [UNK] among the tokens, whose row learns nothing from being looked up
    dnabert2_classifier  3 classes at [CLS], through the pooler; ALiBi of 4 heads
    dnabert2_wide        12 heads of 8; 3 classes, a linear head on one token of each sequence; no step3
    bigbird_mlm          full attention, as in all sequences of at most (5 + 2 random blocks) * block size tokens
    bigbird_classifier   3 classes at [CLS], through classifier.dense, gelu_tanh and classifier.out_proj
    bigbird_sparse_eval  block-sparse attention of 16 tokens a block, as transformers has it in eval(): see below
    bigbird_sparse_train the same with the random blocks of training
    bigbird_blocks64_eval, bigbird_blocks64_train  the same with 64 tokens a block and heads of 8, as kernels take them

    modernbert_mlm       4 layers, of which the second and third attend to 4 tokens to each side; LayerNorms without bias
    modernbert_classifier  3 classes at [CLS], through head.dense, gelu and head.norm; the second layer attends to 2 tokens to each side
    modernbert_window    heads of 8, as kernels take them, and 20 tokens to each side of the second layer; no step3

Tensors and facts are those of golden.py, under the names that the family's checkpoints have. hidden.N of the last layer of
Nucleotide Transformer and of ModernBERT comes after the last LayerNorm. `config` is the config.json of the release with small sizes and no
dropout; `unused` lists what a checkpoint has beside that and no gradient reaches, so that it has no tensors here.

The sparse cases have no optimizer steps, and of the hidden states the last one only (blocks64: none, nothing padded, and bf16_errors
instead). A sequence's sparse attention depends on
the number of its blocks, which in transformers is that of the longest sequence of the batch: there it depends on its company.

    hidden.2, logits, grad.NAME     each sequence on its own: 32 blocks, and 25, the last one not quite full
    padded.hidden.2, padded.logits  both padded to 512 tokens, as transformers has them in one batch: 32 blocks both, and the last
                                    blocks of the second are padding
    random   i32 [layers, heads, 30, 3]  the random blocks of query blocks 1 .. 30; those of a sequence of 25 blocks are the
                                    first 23 rows (checked). All 0 in eval.

golden_bigbird_blocks.safetensors has random blocks for sizes as released, 64 tokens a block and a table of 4096 positions:
random.LENGTH, i32 [2 layers, 3 heads, blocks - 2, 3], for lengths of both of transformers' ways to draw them.

Checked before a case is written (to 1e-9 of the largest element): hidden states, logits, loss and every gradient against
family_formulas.py, a second implementation that works on one sequence at a time without padding, and the loss against the
model's own. So padding changes nothing, and the two models that are patched together compute the published formulas.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
import transformers
from safetensors.numpy import save_file
from torch.nn import functional

import families
import family_formulas as formulas
from golden import IGNORED, OPTIMIZER, pack

LENGTHS = [64, 17, 7, 33]
LABELS = 3
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 16,
    "max_position_embeddings": 66,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY = SMALL | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
MODERN = {name: size for name, size in SMALL.items() if "dropout" not in name} | {
    "max_position_embeddings": 160,
    "vocab_size": 40,
}
SPARSE = SMALL | {
    "block_size": 16,
    "hidden_size": 8,
    "intermediate_size": 16,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
BLOCKS_64 = SPARSE | {"block_size": 64, "hidden_size": 16, "max_position_embeddings": 768, "num_attention_heads": 2}


class Ids(NamedTuple):
    """Special tokens of a family; `sep` of Nucleotide Transformer is none. Others begin at `first`."""

    cls: int
    sep: int | None
    mask: int
    first: int
    unknown: int


IDS = {
    "nt_v1": Ids(3, None, 2, 4, 0),
    "nt_v2": Ids(3, None, 2, 6, 0),
    "dnabert2": Ids(1, 2, 4, 5, 0),
    "bigbird": Ids(1, 2, 4, 6, 0),
    "modernbert": Ids(1, 2, 4, 6, 0),
}


class Case(NamedTuple):
    family: str
    kind: str
    seed: int
    changes: dict
    lengths: list = LENGTHS
    name: str | None = None
    steps: bool = True

    def title(self):
        return self.name or f"{self.family}_{self.kind}"


# Vocabularies as of 2-mers instead of 6-mers; those of byte pairs are as short as one likes.
CASES = [
    Case("nt_v1", "mlm", 11, SMALL | {"vocab_size": 25}, LENGTHS + [1]),
    Case("nt_v1", "classifier", 12, TINY | {"vocab_size": 25}, LENGTHS + [1]),
    Case("nt_v2", "mlm", 13, SMALL | {"vocab_size": 27}, LENGTHS + [1]),
    Case("nt_v2", "token", 14, TINY | {"vocab_size": 27}),
    Case("dnabert2", "mlm", 15, SMALL | {"vocab_size": 40, "hidden_size": 48, "num_attention_heads": 12}),
    Case("dnabert2", "classifier", 16, TINY | {"vocab_size": 40}),
    Case("dnabert2", "token", 17,
         TINY | {"vocab_size": 40, "hidden_size": 96, "intermediate_size": 16, "num_attention_heads": 12},
         [17, 9], "dnabert2_wide", steps=False),
    Case("bigbird", "mlm", 18, SMALL | {"vocab_size": 40}),
    Case("bigbird", "classifier", 19, TINY | {"vocab_size": 40}),
    Case("modernbert", "mlm", 24, MODERN | {"num_hidden_layers": 4, "local_attention": 8}),
    Case("modernbert", "classifier", 25, MODERN | {"hidden_size": 16, "local_attention": 4}),
    Case("modernbert", "token", 26, MODERN | {"hidden_size": 16, "num_attention_heads": 2, "local_attention": 40},
         [150, 9, 70], "modernbert_window", steps=False),
]
SPARSE_CASES = [
    Case("bigbird", "mlm", 20, SPARSE, [512, 395], "bigbird_sparse_eval"),
    Case("bigbird", "mlm", 21, SPARSE, [512, 395], "bigbird_sparse_train"),
    Case("bigbird", "mlm", 22, BLOCKS_64, [768, 725], "bigbird_blocks64_eval"),
    Case("bigbird", "mlm", 23, BLOCKS_64, [768, 725], "bigbird_blocks64_train"),
]


def draw_batch(case):
    """The sequences (token ids), and a {position: label} for each."""
    draw = numpy.random.default_rng(case.seed)
    ids = IDS[case.family]
    sequences, labels = [], []
    for index, length in enumerate(case.lengths):
        last = [] if ids.sep is None or length == 1 else [ids.sep]
        inner = draw.integers(ids.first, case.changes["vocab_size"], length - 1 - len(last))
        if index < 2:
            inner[[2, 5]] = ids.unknown
        sequence = numpy.concatenate([[ids.cls], inner, last]).astype(numpy.int64)
        labels.append(LABEL[case.kind](draw, case, ids, index, sequence))
        sequences.append(sequence)
    return sequences, labels


def label_mlm(draw, case, ids, index, sequence):
    """A tenth of long sequences, else a fifth; of them 80 % become [MASK], 10 % any token, 10 % stay. No [MASK] in the second
    of Nucleotide Transformer. Never [UNK], which DNABERT-2 does not take for a label."""
    eligible = numpy.flatnonzero(sequence >= ids.first)
    if len(eligible) == 0:
        return {}
    count = max(1, round(len(sequence) / (10 if len(sequence) > 100 else 5)))
    chosen = sorted(draw.choice(eligible, count, replace=False).tolist())
    labels = {position: int(sequence[position]) for position in chosen}
    for position in chosen:
        kind = draw.random()
        if case.family.startswith("nt") and index == 1:
            kind = 0.8 + 0.2 * kind
        if kind < 0.8:
            sequence[position] = ids.mask
        elif kind < 0.9:
            sequence[position] = draw.integers(ids.first, case.changes["vocab_size"])
    return labels


def label_first(draw, _case, _ids, _index, _sequence):
    return {0: int(draw.integers(LABELS))}


def label_one_token(draw, _case, _ids, _index, sequence):
    return {int(draw.integers(1, len(sequence) - 1)): int(draw.integers(LABELS))}


LABEL = {"mlm": label_mlm, "classifier": label_first, "token": label_one_token}


def prepare(case, attention="eager"):
    """The model in float64 with its weights, and its config."""
    config = families.config_of(case.family, case.kind, **case.changes)
    if case.kind != "mlm":
        config["num_labels"] = LABELS
    return families.fill(families.build(case.family, case.kind, config, attention).double(), case.seed), config


class Batch(NamedTuple):
    sequences: list
    labels: list
    rows: list
    targets: torch.Tensor


def batch_of(case):
    sequences, labels = draw_batch(case)
    starts = numpy.cumsum([0] + case.lengths)
    rows = [int(start) + position for start, labelled in zip(starts, labels) for position in sorted(labelled)]
    targets = [labelled[position] for labelled in labels for position in sorted(labelled)]
    return Batch(sequences, labels, rows, torch.tensor(targets))


def forward(case, config, model, batch, sequences=None):
    """The hidden states, packed, and the logits of the labelled rows; with `sequences` all logits of these instead."""
    dtype = next(model.parameters()).dtype
    chosen = sequences or batch.sequences
    output = model(**families.pad(case.family, config, chosen, dtype), output_hidden_states=True)
    states = [pack(state, chosen) for state in output.hidden_states]
    if case.kind == "classifier":
        return states, output.logits
    logits = pack(output.logits, chosen)
    return states, logits if sequences else logits[batch.rows]


def check_loss(case, config, model, batch, loss):
    """transformers' own loss, which for masked language models leaves out the labels of -100."""
    inputs = families.pad(case.family, config, batch.sequences)
    targets = torch.full_like(inputs["input_ids"], IGNORED)
    for index, labelled in enumerate(batch.labels):
        for position, label in labelled.items():
            targets[index, position] = label
    theirs = model(**inputs, labels=targets[:, 0] if case.kind == "classifier" else targets).loss
    assert abs(theirs - loss) < 1e-9, f"{case.title()}: the loss is {loss}, transformers' is {theirs}"


def trained(model):
    """Parameters that a gradient reaches, and the names of the others."""
    named = dict(model.named_parameters())
    unused = [name for name, parameter in named.items() if parameter.requires_grad and parameter.grad is None]
    return {name: parameter for name, parameter in named.items() if name not in unused and parameter.grad is not None}, unused


def gather(case, parameters, prefix, of):
    tensors = {name: of(parameter).detach().clone() for name, parameter in parameters.items()}
    if case.family == "dnabert2":
        tensors |= {"bert.embeddings.position_embeddings.weight": None}
    return {prefix + name: tensor for name, tensor in families.released(case.family, tensors).items()}


def check(case, config, batch, floats, prefix="", attentions=None):
    """Everything again by family_formulas.py, from the released tensors: `attentions` has one for each sequence."""
    told = config | {"family": case.family}
    names = [name.removeprefix("weight.") for name in floats if name.startswith("weight.")]
    weights = {name: floats[f"weight.{name}"].clone().requires_grad_() for name in names}
    attentions = attentions or [None] * len(batch.sequences)
    states = [
        formulas.encode(told, weights, torch.from_numpy(sequence), attention)
        for sequence, attention in zip(batch.sequences, attentions)
    ]
    states = [torch.cat(layer) for layer in zip(*states)]
    logits = formulas.head(told, weights, case.kind, states[-1][batch.rows])
    loss = -torch.log_softmax(logits, dim=-1)[torch.arange(len(batch.rows)), batch.targets].mean()
    loss.backward()

    found = {f"hidden.{index}": state for index, state in enumerate(states)} | {"logits": logits}
    found |= {f"grad.{name}": weight.grad for name, weight in weights.items()}
    worst = 0.0
    for name, tensor in found.items():
        if prefix + name in floats:
            expected = floats[prefix + name]
            largest = max(expected.abs().max().item(), 1e-4)
            error = (tensor - expected).abs().max().item() / largest
            assert error < 1e-9, f"{case.title()}: {prefix}{name} is off by {error} from the formulas"
            worst = max(worst, error)
    return loss.item(), worst


def zero_gradients(floats):
    """Attention does not change when one number is added to all scores of a row, so a gradient may be zero but for rounding."""
    return [name.removeprefix("grad.") for name, tensor in floats.items()
            if name.startswith("grad.") and tensor.abs().max() < 1e-12]


def compute(case):
    """All tensors of one case, and what its .json says."""
    model, config = prepare(case)
    batch = batch_of(case)
    with families.in_float64():
        states, logits = forward(case, config, model, batch)
        loss = functional.cross_entropy(logits, batch.targets)
        loss.backward()
        check_loss(case, config, model, batch, loss.item())
        parameters, unused = trained(model)
        floats = {"logits": logits} | {f"hidden.{index}": state for index, state in enumerate(states)}
        floats |= gather(case, parameters, "weight.", lambda parameter: parameter)
        floats |= gather(case, parameters, "grad.", lambda parameter: parameter.grad)
        floats = {name: tensor.detach() for name, tensor in floats.items()}
        again, worst = check(case, config, batch, floats)
        assert abs(again - loss.item()) < 1e-9
        bf16_errors = compare_bf16(case, batch, floats, loss.item())
        losses, norms = train(case, config, model, batch, parameters)
    if case.steps:
        floats |= gather(case, parameters, "step3.", lambda parameter: parameter)
    facts = describe(case, config, model, floats, unused) | {
        "loss": losses[0],
        "optimizer": OPTIMIZER,
        "losses": losses,
        "gradient_norms": norms,
        "bf16_errors": bf16_errors,
    }
    return integers(case, batch), floats, facts, worst


def train(case, config, model, batch, parameters):
    """Three AdamW steps on one batch: the loss and the gradient norm (before clipping) of each."""
    plain = [parameter for parameter in parameters.values() if parameter.dim() == 1]
    decayed = [parameter for parameter in parameters.values() if parameter.dim() > 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=OPTIMIZER["learning_rate"],
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"],
    )
    losses, norms = [], []
    for _ in range(OPTIMIZER["steps"]):
        optimizer.zero_grad()
        loss = functional.cross_entropy(forward(case, config, model, batch)[1], batch.targets)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), OPTIMIZER["clip_norm"]).item())
        losses.append(loss.item())
        optimizer.step()
    return losses, norms


def compare_bf16(case, batch, floats, loss):
    """The same forward and backward pass of transformers in bfloat16, against that in float64: see golden.py.

    With PyTorch's fused attention where the model can have it. ALiBi is then rounded to bfloat16 as well.
    """
    model, config = prepare(case, "eager" if case in SPARSE_CASES else "sdpa")
    model = model.bfloat16()
    if case in SPARSE_CASES:
        logits = alone(case, config, model.train(case.title().endswith("train")), batch)[1]
    else:
        _, logits = forward(case, config, model, batch)
    other = functional.cross_entropy(logits, batch.targets)
    other.backward()
    pairs = {"logits": (logits, floats["logits"]), "loss": (other, torch.tensor(loss))}
    gradients = gather(case, trained(model)[0], "grad.", lambda parameter: parameter.grad)
    zero = zero_gradients(floats)
    pairs |= {name: (gradient, floats[name]) for name, gradient in gradients.items() if name[len("grad."):] not in zero}
    return {name: ((a.double() - b).norm() / b.norm()).item() for name, (a, b) in pairs.items()}


def alone(case, config, model, batch):
    """As `forward`, each sequence on its own."""
    parts = [forward(case, config, model, batch, [sequence]) for sequence in batch.sequences]
    states = [torch.cat(layer) for layer in zip(*(states for states, _ in parts))]
    return states, torch.cat([logits for _, logits in parts])[batch.rows]


def compute_sparse(case):
    """Block-sparse attention: each sequence alone, with gradients, and the padded batch without."""
    training = case.title().endswith("train")
    batch = batch_of(case)
    floats, losses = {}, {}
    config = prepare(case)[1]
    tables = families.random_blocks(config, training, max(case.lengths))
    worst = 0.0
    small = "blocks64" in case.title()
    for prefix in [""] if small else ["", "padded."]:
        model, config = prepare(case)  # a new one, since its choice of attention sticks
        model.train(training)
        if prefix:
            states, logits = forward(case, config, model, batch)
        else:
            states, logits = alone(case, config, model, batch)
        assert model.bert.attention_type == "block_sparse"
        loss = functional.cross_entropy(logits, batch.targets)
        floats |= {f"{prefix}logits": logits}
        if not small:
            floats |= {f"{prefix}hidden.{len(states) - 1}": states[-1]}
        if not prefix:
            loss.backward()
            parameters, unused = trained(model)
            floats |= gather(case, parameters, "weight.", lambda parameter: parameter)
            floats |= gather(case, parameters, "grad.", lambda parameter: parameter.grad)
        floats = {name: tensor.detach() for name, tensor in floats.items()}
        size = config["block_size"]
        blocks = [-(-(max(case.lengths) if prefix else length) // size) for length in case.lengths]
        for count in blocks:
            assert (families.random_blocks(config, training, count * size) == tables[:, :, : count - 2]).all()
        sparse = [partial(formulas.block_sparse, config, count, tables) for count in blocks]
        again, error = check(case, config, batch, floats, prefix, sparse)
        assert abs(again - loss.item()) < 1e-9
        worst, losses[f"{prefix}loss"] = max(worst, error), loss.item()
    facts = describe(case, config, model, floats, unused) | losses
    if small:
        facts["bf16_errors"] = compare_bf16(case, batch, floats, losses["loss"])
    return integers(case, batch) | {"random": tables}, floats, facts, worst


def released_blocks():
    """The random blocks of training for sizes as released."""
    sizes = {"hidden_size": 6, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 6, "vocab_size": 64}
    config = families.config_of("bigbird", "mlm", **sizes)
    return {f"random.{length}": families.random_blocks(config, True, length).astype(numpy.int32)
            for length in (768, 1024, 2048, 3072, 4096)}


def integers(case, batch):
    return {
        "tokens": numpy.concatenate(batch.sequences),
        "cu_seqlens": numpy.cumsum([0] + case.lengths),
        "rows": numpy.array(batch.rows),
        "labels": batch.targets.numpy(),
    }


def describe(case, config, model, floats, unused):
    tied = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}
    if case.family == "bigbird":
        tied["cls.predictions.decoder.bias"] = "cls.predictions.bias"
    if case.family == "modernbert":
        tied = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
    return {
        "case": case.title(),
        "family": case.family,
        "model": type(model).__name__,
        "made_with": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "config": config,
        "tied": tied if case.kind == "mlm" and not case.family.startswith("nt") else {},
        "unused": unused,
        "zero_gradients": zero_gradients(floats),
    }


def main():
    parser = argparse.ArgumentParser(description="Writes the golden fixtures of the families.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # one order of summation, so the same bytes on every run
    for case in CASES + SPARSE_CASES:
        whole, floats, facts, worst = (compute_sparse if case in SPARSE_CASES else compute)(case)
        tensors = {name: array.astype(numpy.int32) for name, array in whole.items()}
        tensors |= {name: tensor.detach().numpy().astype(numpy.float32) for name, tensor in floats.items()}
        path = folder / f"golden_{case.title()}.safetensors"
        save_file(tensors, path)
        path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes, {len(whole['rows'])} rows, loss {facts['loss']:.6f}, "
              f"off the formulas by {worst:.1e}; zero: {facts['zero_gradients']}; unused: {facts['unused']}")
    save_file(released_blocks(), folder / "golden_bigbird_blocks.safetensors")


if __name__ == "__main__":
    main()
