#!/usr/bin/env python3
"""Compares a byte-pair encoding that `helixgrad tokenizer train` learnt with what the tokenizers library learns from the same bases.

    python tools/check_tokenizer.py DIR GENOME.fa

DIR holds the tokenizer.json; GENOME.fa is the whole genome, in upper case, of which no more than the sample's bases are known. Both must
have learnt the same merges, and the library must read the file and encode with it as with its own.
"""

import re
import sys
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
PIECE = 1000


def pieces(fasta):
    for record in Path(fasta).read_text().split(">")[1:]:
        bases = "".join(record.split("\n")[1:])
        for run in re.findall("[ACGT]+", bases):
            yield from (run[start : start + PIECE] for start in range(0, len(run), PIECE))


def main():
    folder, fasta = sys.argv[1:]
    ours = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    theirs = Tokenizer(BPE(unk_token="[UNK]"))
    theirs.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=ours.get_vocab_size(), special_tokens=SPECIALS, show_progress=False)
    theirs.train_from_iterator(pieces(fasta), trainer)
    if ours.get_vocab() != theirs.get_vocab():
        different = set(ours.get_vocab().items()) ^ set(theirs.get_vocab().items())
        sys.exit(f"the vocabularies differ: {sorted(different, key=lambda token: token[1])[:20]}")
    for piece in pieces(fasta):
        encoded = ours.encode(piece).ids
        if encoded[1:-1] != theirs.encode(piece).ids or encoded[0] != 1 or encoded[-1] != 2:
            sys.exit(f"{piece} is encoded otherwise")


if __name__ == "__main__":
    main()
