#!/usr/bin/env python3
"""What pretraining is worth with few labelled windows and with many: the table of docs/pretraining.md.

    cargo build --release
    python tools/pretraining_curve.py --out DIR [--genome FILE --annotation FILE] [--test REGION --dev REGION]
        [--sizes 100,300,1000,3000] [--seeds 3] [--steps N] [--threads N] [--helixgrad FILE]

A model of splice-small's shape (3 layers of 128, 3-mers, windows of 80 bases) is pretrained by masked-language modelling on the genome
without the dev and the test part. Then, for each number of training windows and each seed, two models are fine-tuned on the same windows,
drawn anew for each seed with the classes' shares: one from the pretrained encoder, one from random weights, with equal options.
Smaller sets are passed more often (about 10,000 windows a run, five passes at least). Figures are the 3-class MCC on all windows
of the test part: the mean over seeds and the lowest and highest; the weight matrix learns from the same windows. What was done is kept in
--out, and is not done again.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample" / "grch37_X_46M-56M"
WINDOW = 80
SEEN = 10_000


def run(arguments, done, *command):
    """What the command prints as JSON, and its seconds, from `done` if it was run before."""
    if done.exists():
        return json.loads(done.read_text())
    command = [arguments.helixgrad, *command, "--json", "--quiet", "--threads", arguments.threads]
    start = time.monotonic()
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {finished.stderr}")
    found = {"result": json.loads(finished.stdout), "seconds": time.monotonic() - start}
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(found))
    return found


def subset(train, size, seed, path):
    """Writes `size` rows of the table, of each class its share; all of them in another order if there are no more."""
    header, *rows = train.read_text().splitlines()
    draw = random.Random(seed)
    draw.shuffle(rows)
    by_class = {}
    for row in rows:
        by_class.setdefault(row.split("\t")[1], []).append(row)
    kept = []
    for label in sorted(by_class):
        of_class = by_class[label]
        kept += of_class[: max(1, round(size * len(of_class) / len(rows)))]
    draw.shuffle(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *kept]) + "\n")
    return len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--genome", type=Path, default=SAMPLE.with_suffix(".2bit"))
    parser.add_argument("--annotation", type=Path, default=SAMPLE.with_suffix(".gff3.gz"))
    parser.add_argument("--test", help="the test part's region (default: the last tenth of the genes)")
    parser.add_argument("--dev", help="the dev part's")
    parser.add_argument("--sizes", default="100,300,1000,3000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="updates of pretraining, 8,192 tokens each")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--helixgrad", default=ROOT / "target" / "release" / "helixgrad")
    arguments = parser.parse_args()
    out = arguments.out

    parts = ["--test-region", arguments.test, "--dev-region", arguments.dev] if arguments.test else []
    source = ["--genome", arguments.genome, "--annotation", arguments.annotation]
    dataset = ["splice", "dataset", *source, "--window", WINDOW, "--k", 3, *parts, "--out", out / "data"]
    described = run(arguments, out / "data.json", *dataset)["result"]
    held_out = [part for name in ("dev", "test") for part in described["parts"][name]["regions"]]
    hold_out = [word for region in held_out for word in ("--hold-out", region)]
    pretraining = ["pretrain", "--genome", arguments.genome, *hold_out, "--preset", "splice-small", "--max-length", WINDOW]
    pretraining += ["--steps", arguments.steps, "--tokens-per-step", 8192, "--learning-rate", "1e-3", "--out", out / "pretrained"]
    pretrained = run(arguments, out / "pretrained.json", *pretraining)
    print(f"pretraining: {pretrained['seconds']:.0f} s, {json.dumps(pretrained['result'])}", file=sys.stderr)

    all_windows = sum(1 for _ in (out / "data" / "train.tsv").open()) - 1
    sizes = [size for size in map(int, arguments.sizes.split(",")) if size < all_windows] + [all_windows]
    starts = {"scratch": ["--preset", "splice-small"], "pretrained": ["--init", out / "pretrained"]}
    print("| windows | passes | from scratch | pretrained | difference, seed by seed | weight matrix |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        epochs = max(5, SEEN // size)
        figures = {name: [] for name in [*starts, "weight matrix"]}
        for seed in range(1, arguments.seeds + 1):
            folder = out / f"{size}-{seed}"
            train = folder / "train.tsv"
            if not train.exists():
                subset(out / "data" / "train.tsv", size, seed, train)
            labels = ["--labels", ",".join(described["label_names"])]
            for name, start in starts.items():
                options = ["--head", "site", "--epochs", epochs, "--batch", min(64, max(8, size // 16)), "--learning-rate", "5e-4"]
                finetuning = ["finetune", "--data", train, *labels, *start, *options, "--seed", seed, "--out", folder / name]
                run(arguments, folder / f"{name}.json", *finetuning)
                test = out / "data" / "test.tsv"
                evaluation = ["evaluate", "--model", folder / name, "--data", test, "--train", train, *labels]
                found = run(arguments, folder / f"{name}-test.json", *evaluation)["result"]
                figures[name].append(found["splice"]["mcc_3class"])
            figures["weight matrix"].append(found["baselines"]["pwm"]["mcc_3class"])
        def cell(values):
            return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

        differences = [one - other for one, other in zip(figures["pretrained"], figures["scratch"])]
        told = ", ".join(f"{difference:+.3f}" for difference in differences)
        cells = [cell(figures["scratch"]), cell(figures["pretrained"]), told, cell(figures["weight matrix"])]
        print("|", " | ".join([f"{size:,}", str(epochs), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
