#!/usr/bin/env python3
"""Writes tests/fixtures/gene2vec.json: skip-gram vectors that gensim trained with one worker, and all that they follow from.

    pip install gensim && python tools/gene2vec_fixture.py

Each case has the vocabulary in gensim's order with its counts, the vectors at the start, the pairs of each round in their order, and the
vectors and output vectors behind each round. A round is one call of train(), as in Gene2vec's program, so that the learning rate starts again.
"""

import json
import pathlib
import random

import numpy
from gensim.models import Word2Vec

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/gene2vec.json"


def pairs_of(genes, count, seed):
    """Pairs within groups of ten for the most part, of genes whose counts fall as 1 / rank."""
    draw = random.Random(seed)
    weights = [1 / (rank + 3) for rank in range(genes)]
    pairs = []
    while len(pairs) < count:
        one = draw.choices(range(genes), weights)[0]
        group = one // 10 * 10
        other = draw.choice(range(group, min(group + 10, genes))) if draw.random() < 0.8 else draw.randrange(genes)
        if one != other:
            pairs.append([f"g{one}", f"g{other}"])
    return pairs


def case(name, genes, count, rounds, scale, seed, **settings):
    pairs = pairs_of(genes, count, seed)
    model = Word2Vec(sg=1, window=1, min_count=1, workers=1, epochs=1, seed=seed, **settings)
    model.build_vocab(pairs)
    model.wv.vectors *= scale
    order = model.wv.index_to_key
    number = {gene: index for index, gene in enumerate(order)}
    written = {
        "name": name,
        "seed": seed,
        "dimension": model.vector_size,
        "negatives": model.negative,
        "exponent": model.ns_exponent,
        "sample": model.sample,
        "alpha": model.alpha,
        "min_alpha": model.min_alpha,
        "batch_words": model.batch_words,
        "counts": [int(model.wv.get_vecattr(gene, "count")) for gene in order],
        "start": numbers(model.wv.vectors),
        "rounds": [],
    }
    for round in range(rounds):
        random.Random(100 * seed + round).shuffle(pairs)
        model.train(pairs, total_examples=len(pairs), epochs=1)
        written["rounds"].append({
            "pairs": [number[gene] for pair in pairs for gene in pair],
            "vectors": numbers(model.wv.vectors),
            "output": numbers(model.syn1neg),
        })
        print(name, round, "largest vector", numpy.abs(model.wv.vectors).max(), "output", numpy.abs(model.syn1neg).max())
    return written


def numbers(array):
    return [float(f"{value:.9g}") for value in array.ravel()]


def main():
    cases = [
        # The recipe, in one job.
        case("recipe", 80, 2000, 1, 1, 1, vector_size=16),
        # A dimension that is no multiple of a register, jobs of 50 pairs, rates that move vectors far. Longer, and a product would round to
        # the other side of an edge of the table of the logistic function, after which nothing can agree to 1e-6.
        case("fast", 40, 400, 2, 1, 2, vector_size=20, batch_words=100, alpha=0.2, sample=0.02),
        # Every occurrence, another power, one job; vectors so large that many products lie beyond the table.
        case("large", 40, 300, 1, 60, 7, vector_size=16, sample=0, negative=3, ns_exponent=0.5, alpha=0.05),
    ]
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
