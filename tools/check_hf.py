#!/usr/bin/env python3
"""The round trip with the real library: transformers' models through helixgrad and back, and embeddings against it.

    cargo build --release
    python tools/check_hf.py [--helixgrad target/release/helixgrad]

Needs torch, transformers, safetensors and numpy. For models of random weights and several shapes:

1. transformers saves, `helixgrad import` takes over, transformers loads the result with no missing, unexpected or
   mismatched keys: the weights have the same bits;
2. the same from a pytorch_model.bin of today and of before PyTorch 1.6, and in DNABERT's layout, where the logits have
   to be those of DNABERT's fork, which adds its bias twice;
3. `helixgrad embed` gives, for every layer, the hidden states that transformers gives, for sequences with N among them;
4. AutoTokenizer and BertTokenizer, given a saved folder and nothing else, make our ids of k-mers.

Prints a line for each; the exit code is 1 if anything differs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import transformers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LABELS = {"id2label": {0: "donor", 1: "acceptor", 2: "neither"}, "label2id": {"donor": 0, "acceptor": 1, "neither": 2}}
failures = 0


def report(what, holds, detail=""):
    global failures
    failures += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {what} {detail}")


def k_mers(k):
    return [""] if k == 0 else [base + rest for base in "ATCG" for rest in k_mers(k - 1)]


def config(k, heads=4, **more):
    return BertConfig(
        vocab_size=4**k + 5, hidden_size=16 * heads, num_hidden_layers=3, num_attention_heads=heads,
        intermediate_size=40 * heads, max_position_embeddings=64, attn_implementation="eager", **more,
    )


def random_model(kind, config, seed):
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save(model, folder, k):
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS + k_mers(k)) + "\n")


def helixgrad(binary, *arguments):
    result = subprocess.run([binary, *map(str, arguments), "--json", "--quiet"], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"helixgrad {' '.join(map(str, arguments))}:\n{result.stderr}")
    return json.loads(result.stdout)


def load(kind, folder):
    model, info = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    wrong = {name: keys for name, keys in info.items() if keys}
    return model.eval(), wrong


def output(model, tokens):
    with torch.no_grad():
        result = model(tokens)
    return result.last_hidden_state if isinstance(model, BertModel) else result.logits


def check_round_trips(binary, folder):
    cases = [
        ("masked LM", BertForMaskedLM, {}),
        ("classifier", BertForSequenceClassification, LABELS),
        ("token classifier", BertForTokenClassification, LABELS),
        ("regression", BertForSequenceClassification, {"num_labels": 1}),
        ("multi-label", BertForSequenceClassification, {**LABELS, "problem_type": "multi_label_classification"}),
        ("encoder", BertModel, {}),
    ]
    for number, (name, kind, more) in enumerate(cases):
        k = 3 + number % 4
        model = random_model(kind, config(k, **more), number)
        theirs, ours = folder / f"theirs{number}", folder / f"ours{number}"
        save(model, theirs, k)
        helixgrad(binary, "import", theirs, "--out", ours)
        again, wrong = load(kind, ours)
        tokens = torch.randint(5, 4**k + 5, (3, 50))
        before, after = model.state_dict(), again.state_dict()
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        # Equal weights at other addresses may be added up in another order.
        error = (output(model, tokens) - output(again, tokens)).abs().max().item()
        report(f"{name}, k = {k}: import and back", same and error < 1e-5 and not wrong, f"{error:.1e} {wrong or ''}")
        kept = all(again.config.id2label[i] == model.config.id2label[i] or model.config.id2label[i].startswith("LABEL_")
                   for i in model.config.id2label) if more else True
        report(f"{name}: names of the classes", kept)


def check_pickles(binary, folder):
    k = 6
    model = random_model(BertForMaskedLM, config(k), 77)
    tokens = torch.randint(5, 4**k + 5, (3, 50))
    logits, state = output(model, tokens), model.state_dict()
    fork = dict(state)
    fork["cls.predictions.decoder.bias"] = fork["cls.predictions.bias"]
    cases = [
        ("pickle of today", state, {}, True, logits),
        ("pickle of before 1.6", state, {"_use_new_zipfile_serialization": False}, True, logits),
        ("DNABERT's layout", fork, {"_use_new_zipfile_serialization": False}, False, logits + state["cls.predictions.bias"]),
    ]
    for number, (name, tensors, how, versioned, expected) in enumerate(cases):
        theirs, ours = folder / f"pickle{number}", folder / f"pickled{number}"
        save(model, theirs, k)
        (theirs / "model.safetensors").unlink()
        torch.save(tensors, theirs / "pytorch_model.bin", **how)
        if not versioned:
            path = theirs / "config.json"
            path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items()
                                        if key not in ("transformers_version", "dtype")}))
        helixgrad(binary, "import", theirs, "--out", ours)
        again, wrong = load(BertForMaskedLM, ours)
        error = (output(again, tokens) - expected).abs().max().item()
        report(f"{name}: import, then transformers", error < 1e-5 and not wrong, f"{error:.1e} {wrong or ''}")


def check_tokenizers(binary, folder):
    for k in (3, 6):
        theirs, ours = folder / f"tokens{k}", folder / f"tokenised{k}"
        save(random_model(BertForMaskedLM, config(k), k), theirs, k)
        helixgrad(binary, "import", theirs, "--out", ours)
        words = ["A" * k, "A" * (k - 1) + "C", "TCG" * (k // 3), "A" * (k - 1) + "N"]
        vocabulary = SPECIAL_TOKENS + k_mers(k)
        expected = [2] + [vocabulary.index(word) if word in vocabulary else 1 for word in words] + [3]
        for kind in (AutoTokenizer, BertTokenizer):
            tokenizer = kind.from_pretrained(ours)
            special = [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")]
            found = tokenizer(" ".join(words))["input_ids"]
            holds = found == expected and special == [0, 1, 2, 3, 4] and tokenizer.model_max_length == 64
            report(f"{kind.__name__}.from_pretrained, k = {k}: the same ids", holds, f"{found}")


def check_embeddings(binary, folder):
    k = 4
    model = random_model(BertModel, config(k, heads=8), 5)
    theirs = folder / "embed"
    save(model, theirs, k)
    draw = random.Random(1)
    sequences = ["".join(draw.choices("ACGT", k=length)) for length in (4, 9, 40, 65)]
    sequences[2] = sequences[2][:10] + "NNR" + sequences[2][13:]
    fasta = folder / "x.fa"
    fasta.write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)))
    vocabulary = {token: id for id, token in enumerate(SPECIAL_TOKENS + k_mers(k))}
    tokenizer = BertTokenizer(str(theirs / "vocab.txt"), do_lower_case=False)
    hidden, same_tokens = [], True
    for sequence in sequences:
        words = [sequence[i : i + k] for i in range(len(sequence) - k + 1)]
        ids = [2] + [vocabulary.get(word, 1) for word in words] + [3]
        same_tokens &= tokenizer(" ".join(words))["input_ids"] == ids
        with torch.no_grad():
            hidden.append([h[0] for h in model(torch.tensor([ids]), output_hidden_states=True).hidden_states])
    report("BertTokenizer reads vocab.txt and makes the same tokens", same_tokens)
    for layer in range(model.config.num_hidden_layers + 1):
        expected = torch.cat([states[layer][1:-1] for states in hidden]).numpy()
        helixgrad(binary, "embed", "--model", theirs, "--fasta", fasta, "--layer", layer, "--per", "token", "--out", folder / "x.npy")
        found = numpy.load(folder / "x.npy")
        error = numpy.abs(found - expected).max() / numpy.abs(expected).max()
        report(f"embed --per token --layer {layer}", found.shape == expected.shape and error < 1e-5, f"{error:.1e}")
        expected = numpy.stack([states[layer][0].numpy() for states in hidden])
        helixgrad(binary, "embed", "--model", theirs, "--fasta", fasta, "--layer", layer, "--pool", "cls", "--out", folder / "x.npy")
        error = numpy.abs(numpy.load(folder / "x.npy") - expected).max() / numpy.abs(expected).max()
        report(f"embed --pool cls --layer {layer}", error < 1e-5, f"{error:.1e}")


def main():
    parser = argparse.ArgumentParser(description="The round trip between helixgrad and transformers.")
    parser.add_argument("--helixgrad", default=Path(__file__).parent.parent / "target" / "release" / "helixgrad")
    binary = parser.parse_args().helixgrad
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        check_round_trips(binary, Path(folder))
        check_pickles(binary, Path(folder))
        check_tokenizers(binary, Path(folder))
        check_embeddings(binary, Path(folder))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {failures} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
