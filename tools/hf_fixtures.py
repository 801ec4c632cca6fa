#!/usr/bin/env python3
"""Writes tests/fixtures/hf: tiny BERTs as transformers, older programs and DNABERT's fork write them.

    python tools/hf_fixtures.py [--out tests/fixtures/hf]

Run by hand, where the fixtures have to change; the tests only read the files. The committed ones were made on a CPU with
Python 3.11, torch 2.15.0, transformers 5.24.0 and safetensors 0.8.

    mlm/          BertForMaskedLM.save_pretrained
    classifier/   BertForSequenceClassification.save_pretrained, 3 classes with names
    token/        BertForTokenClassification.save_pretrained
    regression/   BertForSequenceClassification.save_pretrained, one number
    encoder/      BertModel.save_pretrained: names without `bert.`
    zip/          the masked LM in a pytorch_model.bin of today, trained with DataParallel: names with `module.`
    legacy/       the masked LM in a pytorch_model.bin of before PyTorch 1.6, LayerNorm with gamma and beta
    bf16/         the encoder of the masked LM in a pytorch_model.bin, in bfloat16, with transposed and shifted memory
    dnabert/      as DNABERT's training program leaves it: legacy pickle, both biases, the decoder's weights, a pooler,
                  a config.json without a version
    expected.safetensors
                  tokens [2, 12] i32, and for each folder its logits (hidden states for encoder and bf16), f32, of two
                  whole sequences; for dnabert the logits of the fork, which adds its bias twice

and with them what hf_families.py writes: the same of DNABERT-2, Nucleotide Transformer, BigBird and ModernBERT.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

import hf_families

LABELS = ["donor", "acceptor", "neither"]
SIZES = {
    "vocab_size": 69,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KMERS = [a + b + c for a in "ATCG" for b in "ATCG" for c in "ATCG"]


def fill(model, seed):
    """Weights far from zero, so that a tensor in the wrong place shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(1 + 0.3 * noise if name.endswith("LayerNorm.weight") else 0.4 * noise)
    return model.eval()


def config(**more):
    return BertConfig(**SIZES, attn_implementation="eager", **more)


def bare_config(architecture):
    """config.json as programs wrote it before versions were kept."""
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02}
    return {"architectures": [architecture], "hidden_act": "gelu", **rates, **SIZES}


def write_folder(out, name, state=None, architecture="BertForMaskedLM", **how):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS + KMERS) + "\n")
    if state is not None:
        torch.save(state, folder / "pytorch_model.bin", **how)
        (folder / "config.json").write_text(json.dumps(bare_config(architecture), indent=2) + "\n")
    return folder


def main():
    parser = argparse.ArgumentParser(description="Writes tests/fixtures/hf.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures" / "hf")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(5)
    tokens = torch.randint(5, 69, (2, 12), generator=draw)
    tokens[:, 0], tokens[:, -1] = 2, 3
    expected = {"tokens": tokens.to(torch.int32)}

    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: id for id, name in enumerate(LABELS)}}
    masked = fill(BertForMaskedLM(config()), 1)
    saved = {
        "mlm": masked,
        "classifier": fill(BertForSequenceClassification(config(**labels)), 2),
        "token": fill(BertForTokenClassification(config(**labels)), 3),
        "regression": fill(BertForSequenceClassification(config(num_labels=1)), 4),
        "encoder": fill(BertModel(config()), 5),
    }
    with torch.no_grad():
        for name, model in saved.items():
            model.save_pretrained(write_folder(out, name))
            output = model(tokens)
            expected[name] = output.last_hidden_state if name == "encoder" else output.logits

        state = masked.state_dict()
        folder = write_folder(out, "zip", {f"module.{name}": tensor for name, tensor in state.items()})
        masked.config.save_pretrained(folder)
        expected["zip"] = expected["mlm"]

        old = {}
        for name, tensor in state.items():
            if "decoder" not in name:
                name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                old[name] = tensor
        write_folder(out, "legacy", old, _use_new_zipfile_serialization=False)
        expected["legacy"] = expected["mlm"]

        narrow = {}
        for name, tensor in state.items():
            if name.startswith("bert."):
                narrow[name] = tensor.to(torch.bfloat16)
                if tensor.dim() == 2:  # the same matrix, its memory the other way round and not at the start
                    memory = torch.cat([torch.zeros(7, dtype=torch.bfloat16), narrow[name].t().flatten()])
                    narrow[name] = memory[7:].reshape(tensor.shape[1], tensor.shape[0]).t()
        write_folder(out, "bf16", narrow, "BertModel")
        rounded = BertModel(config(), add_pooling_layer=False)
        rounded.load_state_dict({name[len("bert."):]: tensor.float() for name, tensor in narrow.items()})
        expected["bf16"] = rounded.eval()(tokens).last_hidden_state

        fork = dict(state)
        fork["bert.pooler.dense.weight"] = torch.randn(16, 16, generator=draw)
        fork["bert.pooler.dense.bias"] = torch.randn(16, generator=draw)
        fork["cls.predictions.decoder.bias"] = fork["cls.predictions.bias"]
        fork["cls.predictions.decoder.weight"] = fork["bert.embeddings.word_embeddings.weight"]
        write_folder(out, "dnabert", fork, _use_new_zipfile_serialization=False)
        expected["dnabert"] = expected["mlm"] + state["cls.predictions.bias"]

    save_file({name: tensor.contiguous().clone() for name, tensor in expected.items()}, out / "expected.safetensors")
    hf_families.write(out)
    for path in sorted(out.rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(out)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
