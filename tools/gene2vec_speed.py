#!/usr/bin/env python3
"""gensim and helixgrad genes train side by side: words a second on the same pairs, settings and threads.

    pip install gensim && python tools/gene2vec_speed.py target/release/helixgrad [--pairs FILE...] [--threads 2] [--rounds 1] [--turns 3]

Without --pairs it makes some: 25,000 genes whose counts fall as those of co-expressed ones do, in groups. Both programs train in turns. gensim's
time is that of train() on pairs in memory, in which it counts words as we do, two a pair; ours is that of the rounds, with the order of pairs made on
the disk.
"""

import argparse
import gzip
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy


def made_up(path, count, genes, seed=1):
    draw = numpy.random.default_rng(seed)
    weights = 1 / (numpy.arange(genes) + 200.0) ** 0.8
    one = draw.choice(genes, count, p=weights / weights.sum())
    near = one // 50 * 50 + draw.integers(0, 50, count)
    far = draw.choice(genes, count, p=weights / weights.sum())
    other = numpy.where(draw.random(count) < 0.7, numpy.minimum(near, genes - 1), far)
    keep = one != other
    with open(path, "w") as file:
        file.writelines(f"GENE{a} GENE{b}\n" for a, b in zip(one[keep], other[keep]))


def read(paths):
    pairs = []
    for path in paths:
        opened = gzip.open(path, "rt", encoding="cp1252") if str(path).endswith(".gz") else open(path, encoding="cp1252")
        with opened as file:
            pairs += [line.split() for line in file if line.strip()]
    return [pair for pair in pairs if pair[0] != pair[1]]


def gensim_rate(pairs, arguments):
    from gensim.models import Word2Vec

    model = Word2Vec(sg=1, window=1, min_count=1, vector_size=arguments.dimension, workers=arguments.threads, epochs=1)
    model.build_vocab(pairs)
    begun = time.perf_counter()
    for _ in range(arguments.rounds):
        model.train(pairs, total_examples=len(pairs), epochs=1)
    return 2 * len(pairs) * arguments.rounds / (time.perf_counter() - begun)


def our_rate(binary, paths, arguments, *options):
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "genes", "train", "--pairs", *map(str, paths), "--out", f"{folder}/run", "--threads", str(arguments.threads)]
        command += ["--dimension", str(arguments.dimension), "--rounds", str(arguments.rounds), "--json", "--quiet", *options]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["words_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--pairs", nargs="+", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=1_000_000, help="pairs to make up")
    parser.add_argument("--genes", type=int, default=25_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dimension", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.pairs
        if not paths:
            paths = [pathlib.Path(folder) / "pairs.txt"]
            made_up(paths[0], arguments.count, arguments.genes)
        pairs = read(paths)
        programs = {
            "gensim": lambda: gensim_rate(pairs, arguments),
            "helixgrad, gensim's order": lambda: our_rate(arguments.binary, paths, arguments),
            "helixgrad --lock-free": lambda: our_rate(arguments.binary, paths, arguments, "--lock-free"),
        }
        rates = {name: [] for name in programs}
        for _ in range(arguments.turns):
            for name, measure in programs.items():
                rates[name].append(measure())
        print(f"{len(pairs):,} pairs, dimension {arguments.dimension}, {arguments.threads} threads; words/s, median of {arguments.turns}")
        base = statistics.median(rates["gensim"])
        for name, all_rates in rates.items():
            median = statistics.median(all_rates)
            print(f"{name:28} {median:12,.0f}   {median / base:5.2f} x   ({min(all_rates):,.0f} to {max(all_rates):,.0f})")


if __name__ == "__main__":
    main()
