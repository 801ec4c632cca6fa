"""Writes tests/fixtures/genes/: expression with its correlations by pandas, vectors with their neighbours by gensim, and Gene2vec's pathway score
by its formula.

    pip install numpy pandas scipy gensim
    python tools/gene2vec_reference.py
"""
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
from gensim.models import KeyedVectors

FOLDER = Path(__file__).parent.parent / "tests/fixtures/genes"
GENES, SAMPLES, MIN_SAMPLES = 26, 24, 10
MAX_GENES, BACKGROUND = 50, 20


def expression():
    """Four groups with a signal of their own, values of two decimals (so that there are ties), missing ones in every fifth gene, a constant gene."""
    rng = np.random.default_rng(7)
    signals = rng.normal(size=(4, SAMPLES))
    values = np.array([signals[g % 4] * (-1 if g % 8 == 5 else 1) + rng.normal(size=SAMPLES) * 0.1 * (g % 7) for g in range(GENES)])
    values = np.round(values, 1 if GENES % 2 else 2)
    values[:, ::6] = np.round(values[:, ::6])
    values[11] = 3.25
    values[::5][rng.random((len(values[::5]), SAMPLES)) < 0.2] = np.nan
    values[20, :17] = np.nan
    names = [f"GENE{g}" for g in range(GENES)]
    return pd.DataFrame(values, index=names, columns=[f"s{s}" for s in range(SAMPLES)])


def correlations(table):
    """Of all pairs over the samples that both have; none where there are too few, or one does not vary."""
    kept = {}
    for method in ("pearson", "spearman"):
        matrix = table.T.corr(method=method, min_periods=MIN_SAMPLES)
        pairs = itertools.combinations(table.index, 2)
        kept[method] = [[a, b, matrix.loc[a, b]] for a, b in pairs if not np.isnan(matrix.loc[a, b])]
    return kept


def vectors():
    rng = np.random.default_rng(3)
    names = [f"GENE{g}" for g in range(60)]
    common = rng.normal(size=(3, 12))
    return names, (rng.normal(size=(60, 12)) * 0.6 + common[np.arange(60) % 3] + 0.4).astype(np.float32)


def score(names, values, sets):
    """The mean over sets of the mean cosine of their pairs, over that of the pairs of the first genes of a shuffled list."""
    unit = dict(zip(names, values.astype(np.float64) / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)))
    mean = lambda genes: float(np.mean([unit[a] @ unit[b] for a, b in itertools.combinations(genes, 2)]))
    present = [[g for g in genes if g in unit] for _, genes in sets if len(genes) <= MAX_GENES]
    numerator = float(np.mean([mean(genes) for genes in present if len(genes) >= 2]))
    shuffled = list(names)
    random.Random(35).shuffle(shuffled)
    denominator = mean(shuffled[:BACKGROUND])
    return {"within_sets": numerator, "random_genes": denominator, "score": numerator / denominator}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = expression()
    table.to_csv(FOLDER / "expression.tsv", sep="\t", na_rep="NA", float_format="%g")
    table = pd.read_csv(FOLDER / "expression.tsv", sep="\t", index_col=0)
    names, values = vectors()
    lines = [f"{name} " + " ".join(repr(float(v)) for v in row) for name, row in zip(names, values)]
    (FOLDER / "vectors.txt").write_text(f"{len(names)} {values.shape[1]}\n" + "\n".join(lines) + "\n")
    sets = [(f"set {k}", [f"GENE{g}" for g in range(k, 60, 3)] + [f"OTHER{k}"]) for k in range(3)]
    sets += [("mixed", [f"GENE{g}" for g in range(10)]), ("one", ["GENE1", "NONE"]), ("large", [f"X{g}" for g in range(51)])]
    (FOLDER / "sets.gmt").write_text("".join(f"{name}\thttp://x\t" + "\t".join(genes) + "\n" for name, genes in sets))
    loaded = KeyedVectors.load_word2vec_format(FOLDER / "vectors.txt")
    similar = lambda **query: loaded.most_similar(**query, topn=8)
    expected = {
        "correlations": correlations(table),
        "neighbours": similar(positive=["GENE7"]),
        "analogy": similar(positive=["GENE1", "GENE5"], negative=["GENE9"]),
        "pathways": score(names, values, sets),
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")


main()
