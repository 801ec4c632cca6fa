#!/usr/bin/env python3
"""Loads what `helixgrad genes train` wrote with gensim and numpy, and says whether all forms hold the same vectors.

    pip install gensim && python tools/check_gene_vectors.py RUN_FOLDER
"""

import pathlib
import sys

import numpy
from gensim.models import KeyedVectors


def main():
    run = pathlib.Path(sys.argv[1])
    text = KeyedVectors.load_word2vec_format(run / "vectors.txt", binary=False)
    binary = KeyedVectors.load_word2vec_format(run / "vectors.bin", binary=True)
    array = numpy.load(run / "vectors.npy")
    names = (run / "genes.txt").read_text().split("\n")[:-1]
    (table,) = run.glob("gene2vec_dim_*_iter_*.txt")
    rows = [line.rstrip("\n").split("\t") for line in open(table)]
    assert text.index_to_key == binary.index_to_key == names == [row[0] for row in rows], "the genes differ"
    from_table = numpy.array([[float(number) for number in row[1].split()] for row in rows], dtype=numpy.float32)
    for what, vectors in [("text", text.vectors), ("binary", binary.vectors), ("table", from_table)]:
        assert (vectors == array).all(), f"{what} differs from the array"
    print(f"{len(names):,} genes of {array.shape[1]} numbers: text, binary, table and array are the same, bit for bit")


if __name__ == "__main__":
    main()
