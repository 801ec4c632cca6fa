#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizer: what Hugging Face's programs make of random strings.

    python tools/tokenizer_fixtures.py [--out tests/fixtures/tokenizer]

Run by hand, where the fixtures have to change; the tests only read the files. The committed ones were made with Python 3.11,
transformers 5.24.0 and tokenizers 0.23.

    dnabert2.json  a tokenizer.json like DNABERT-2's, 400 tokens learnt from random DNA with repeats
    gena.json      one like GENA-LM's: letters for N and most IUPAC codes, and a token for long runs of N
    expected.json  for nt-v1, nt-v2 (transformers' EsmTokenizer over the vocabularies of the Nucleotide Transformer), dnabert2 and gena:
                   pairs of a text and its ids
"""

import argparse
import itertools
import json
import random
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Replace, Sequence, Strip
from tokenizers.pre_tokenizers import Split, Whitespace
from tokenizers.processors import BertProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import EsmTokenizer

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
TOKENS = 400


def dna(draw, length, letters="ACGT"):
    return "".join(draw.choices(letters, k=length))


def training_text(draw):
    """Sequences with repeats, runs of one letter and runs of short words, as genomes have them."""
    repeats = [dna(draw, draw.randint(10, 60)) for _ in range(12)]
    for _ in range(400):
        pieces = []
        for _ in range(8):
            kind = draw.random()
            if kind < 0.5:
                pieces.append(dna(draw, draw.randint(5, 60)))
            elif kind < 0.8:
                pieces.append(draw.choice(repeats))
            else:
                pieces.append(dna(draw, draw.randint(1, 3)) * draw.randint(3, 20))
        yield "".join(pieces)


def dnabert2(draw):
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=TOKENS, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(training_text(draw), trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def gena(draw):
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.normalizer = Sequence([Strip(), Replace(Regex("N{10,}"), "-")])
    tokenizer.pre_tokenizer = Split("-", "isolated")
    trainer = BpeTrainer(
        vocab_size=TOKENS, special_tokens=[*SPECIALS, "-"], initial_alphabet=list("ABCGKMNRSTWY"),
        max_token_length=64, show_progress=False,
    )
    unknown = ("N" * draw.randint(1, 9) + dna(draw, 30, "ACGTNR") for _ in range(200))
    tokenizer.train_from_iterator(itertools.chain(training_text(draw), unknown), trainer)
    tokenizer.post_processor = BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def esm(version):
    specials = ["<unk>", "<pad>", "<mask>", "<cls>"] + (["<eos>", "<bos>"] if version == 2 else [])
    tokens = [*specials, *map("".join, itertools.product("ATCG", repeat=6)), *"ATCGN"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("\n".join(tokens) + "\n")
        return EsmTokenizer(str(path), eos_token=None, bos_token=None)


def texts(draw, specials):
    yield from ["", " ", "A", "N", "a", "A" * 33, "AC" * 40, "ACGT" + "N" * 12 + "ACGT", "ACGT" + "N" * 9 + "ACGT"]
    for _ in range(20):
        yield dna(draw, draw.randint(1, 400))
    for _ in range(15):
        yield dna(draw, draw.randint(1, 200), "ACGTACGTACGTN")
    for _ in range(15):
        yield dna(draw, draw.randint(1, 200), "ACGTACGTacgtnNRYKMSWBDHVU-")
    for _ in range(10):
        pieces = [dna(draw, 20), dna(draw, 20, "ACGTacgt"), "N" * draw.randint(1, 30), " ", "\n", "\u00e9", "\u4e2d.", "[MAS", "<mask", "_", *specials]
        yield "".join(draw.choices(pieces, k=8))
    for _ in range(10):
        yield "".join(dna(draw, draw.randint(1, 3)) * draw.randint(1, 30) for _ in range(6))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/tokenizer"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(20240611)
    expected = {}
    for version in (1, 2):
        tokenizer = esm(version)
        of_esm = texts(draw, ["<mask>", "<cls>", "<unk>", "<pad>"])
        expected[f"nt-v{version}"] = [[text, tokenizer(text)["input_ids"]] for text in of_esm]
    for name, tokenizer in [("dnabert2", dnabert2(draw)), ("gena", gena(draw))]:
        (out / f"{name}.json").write_text(tokenizer.to_str(pretty=False))
        expected[name] = [[text, tokenizer.encode(text).ids] for text in texts(draw, SPECIALS)]
    (out / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
