#!/usr/bin/env python3
"""Writes into tests/fixtures/hf what the repositories of DNABERT-2, Nucleotide Transformer, BigBird and ModernBERT hold, with tiny weights.

    python tools/hf_families.py [--out tests/fixtures/hf]

Run by hand, where the fixtures have to change; the tests only read the files. The committed ones were made on a CPU with
Python 3.11, torch 2.15.0, transformers 5.24.0, tokenizers 0.23 and safetensors 0.8. hf_fixtures.py calls it as well.

    nt_v1/                a release: pytorch_model.bin with contact head and int64 position ids, and the vocabulary of 4105
    nt_v1_classifier/     EsmForSequenceClassification.save_pretrained, 3 classes with names; contact head
    nt_v2/                a release: model.safetensors with a position table that nothing reads, inv_freq of each layer and
                          contact head; a config.json without model_type; the vocabulary of 4107
    dnabert2/             a release: pytorch_model.bin, the decoder's weights beside the embeddings that they are; no pooler; a
                          config.json without model_type, architectures and pad_token_id; a tokenizer.json of 40 tokens
    dnabert2_decoder/     the same in a model.safetensors, for which one name of the shared matrix had to go: the embeddings'
    dnabert2_classifier/  a fine-tuned model as its own program saves it: pooler, classifier, 3 classes with names
    bigbird/              a release: model.safetensors with pooler; a tokenizer.json of 40 tokens
    bigbird_classifier/   BigBirdForSequenceClassification.save_pretrained, 3 classes with names
    modernbert/           a release: model.safetensors without the decoder's weights, which are the embeddings'; a config.json in the words of
                          before transformers 5; a tokenizer.json of 40 tokens
    modernbert_classifier/  ModernBertForSequenceClassification.save_pretrained, 3 classes with names
    expected_families.safetensors
                          for each folder FOLDER.tokens [2, 12] i32, two whole sequences; FOLDER.rows i32, indices into the 24
                          tokens; and FOLDER, the logits of these rows, f32

transformers 5.24 saves the LayerNorms of an ESM as gamma and beta, wherever the model came from, hence nt_v1_classifier has
those: the names that it still reads from files of old are turned round when it writes, except in other models.
"""

import argparse
import itertools
import json
import random
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Replace, Sequence, Strip
from tokenizers.pre_tokenizers import Split, Whitespace
from tokenizers.processors import BertProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer

import families

LABELS = ["donor", "acceptor", "neither"]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
}
# Thousands of tokens, so a width of 4.
NT_SIZES = SIZES | {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 6, "max_position_embeddings": 26}
FOLDERS = {
    "nt_v1": ("nt_v1", "mlm", NT_SIZES | {"vocab_size": 4105}),
    "nt_v1_classifier": ("nt_v1", "classifier", NT_SIZES | {"vocab_size": 4105}),
    "nt_v2": ("nt_v2", "mlm", NT_SIZES | {"vocab_size": 4107}),
    "dnabert2": ("dnabert2", "mlm", SIZES),
    "dnabert2_decoder": ("dnabert2", "mlm", SIZES),
    "dnabert2_classifier": ("dnabert2", "classifier", SIZES),
    "bigbird": ("bigbird", "mlm", SIZES),
    "bigbird_classifier": ("bigbird", "classifier", SIZES),
    "modernbert": ("modernbert", "mlm", SIZES | {"local_attention": 6}),
    "modernbert_classifier": ("modernbert", "classifier", SIZES | {"local_attention": 6}),
}
# Of thousands of logits, those of one token behind a <mask>; else those of all rows, or of the classifiers.
ROWS = {"nt_v1": [15], "nt_v2": [15]}
SEED = {"mlm": 31, "classifier": 32}
BPE_SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def draw_tokens(family, config):
    """Two sequences of 12 with [UNK] and, in the second only, two [MASK]."""
    draw = torch.Generator().manual_seed(33)
    tokens = torch.randint(6, config["vocab_size"], (2, 12), generator=draw)
    tokens[0, 4] = 0
    tokens[1, [2, 7]] = 2 if family.startswith("nt") else 4
    tokens[:, 0] = 3 if family.startswith("nt") else 1
    if not family.startswith("nt"):
        tokens[:, -1] = 2
    return tokens


def write_vocabulary(folder, family, config):
    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    if family.startswith("nt"):
        specials = ["<unk>", "<pad>", "<mask>", "<cls>"] + (["<eos>", "<bos>"] if family == "nt_v2" else [])
        blocks = ["".join(bases) for bases in itertools.product("ATCG", repeat=6)]
        (folder / "vocab.txt").write_text("\n".join(specials + blocks + list("ATCGN")))
        named = {f"{name}_token": f"<{name}>" for name in ("cls", "pad", "mask", "unk")}
        length = {"nt_v1": 1000, "nt_v2": 2048}[family]
        write("tokenizer_config.json", {"tokenizer_class": "EsmTokenizer", "eos_token": None, "model_max_length": length} | named)
        return
    draw = random.Random(34)
    text = ["".join(draw.choices("ACGT", k=200)) for _ in range(20)]
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    options = {"vocab_size": config["vocab_size"], "show_progress": False}
    if family == "dnabert2":
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        trainer = BpeTrainer(special_tokens=BPE_SPECIALS, **options)
    else:
        tokenizer.normalizer = Sequence([Strip(), Replace(Regex("N{10,}"), "-")])
        tokenizer.pre_tokenizer = Split("-", "isolated")
        tokenizer.post_processor = BertProcessing(("[SEP]", 2), ("[CLS]", 1))
        trainer = BpeTrainer(special_tokens=[*BPE_SPECIALS, "-"], initial_alphabet=list("ABCGKMNRSTWY"), **options)
    tokenizer.train_from_iterator(text, trainer)
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "mask", "unk")}
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"} | named)


def write_weights(folder, name, family, kind, config, model):
    """config.json and the weights, as the family's repositories or programs have them."""
    if name in ("nt_v1_classifier", "bigbird_classifier", "modernbert_classifier"):
        model.save_pretrained(folder)
        return
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = families.released(family, model.state_dict())
    draw = torch.Generator().manual_seed(35)
    if family == "nt_v1":
        state["esm.embeddings.position_ids"] = torch.arange(config["max_position_embeddings"])[None]
    if family == "nt_v2":
        size = config["hidden_size"] // config["num_attention_heads"]
        frequencies = 1.0 / 10000 ** (torch.arange(0, size, 2) / size)
        for layer in range(config["num_hidden_layers"]):
            state[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.clone()
        shape = (config["max_position_embeddings"], config["hidden_size"])
        state["esm.embeddings.position_embeddings.weight"] = torch.randn(shape, generator=draw)
    if family == "bigbird" and kind == "mlm":
        del state["cls.predictions.decoder.weight"], state["cls.predictions.decoder.bias"]
    if family == "modernbert":
        del state["decoder.weight"]
    if name in ("nt_v1", "dnabert2"):
        torch.save(state, folder / "pytorch_model.bin")
        return
    if name == "dnabert2_decoder":
        del state["bert.embeddings.word_embeddings.weight"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})


def write(out):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    expected = {}
    for name, (family, kind, sizes) in FOLDERS.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = families.config_of(family, kind, **sizes)
        if kind == "classifier":
            config |= {"id2label": dict(enumerate(LABELS)), "label2id": {label: id for id, label in enumerate(LABELS)}}
        model = families.fill(families.build(family, kind, config), SEED[kind]).eval()
        write_vocabulary(folder, family, config)
        write_weights(folder, name, family, kind, config, model)
        tokens = draw_tokens(family, config)
        with torch.no_grad(), families.in_float64():
            logits = model.double()(**families.pad(family, config, list(tokens))).logits
        rows = ROWS.get(name, [0, 12] if kind == "classifier" else list(range(24)))
        if kind == "mlm":
            logits = logits.flatten(0, 1)[rows]
        expected |= {f"{name}.tokens": tokens.to(torch.int32), f"{name}.rows": torch.tensor(rows, dtype=torch.int32)}
        expected[name] = logits.float().contiguous()
    save_file(expected, out / "expected_families.safetensors")


def main():
    parser = argparse.ArgumentParser(description="Writes the families' folders of tests/fixtures/hf.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures" / "hf")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    write(out)
    for path in [*(path for name in FOLDERS for path in sorted((out / name).iterdir())), out / "expected_families.safetensors"]:
        print(f"{path.relative_to(out)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
