#!/usr/bin/env python3
"""Every family, small, pretrained and fine-tuned on the shipped sample with as much arithmetic each: the table of docs/families.md.

    cargo build --release
    python tools/compare_families.py --out DIR [--threads N] [--steps N] [--epochs N] [--helixgrad FILE]

Encoders are 3 layers of 128 with 4 heads; feed-forward layers are 512 wide, gated ones 344, so that a token costs as much in all.
Each is pretrained on the same number of tokens, and fine-tuned on as many as DNABERT's 3-mers make of the training windows
in --epochs passes: families whose tokens hold more bases pass more often. The test part's region is held out of both. What was done is kept
in --out, and is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample" / "grch37_X_46M-56M"
WINDOW = 80
TOKENS_PER_STEP = 5120


class Family(NamedTuple):
    name: str
    preset: str
    inner: int
    # Bases of a k-mer, or entries of a vocabulary of byte pairs.
    k: int = 0
    entries: int = 0


FAMILIES = [
    Family("DNABERT, 3-mers", "splice-small", 512, k=3),
    Family("DNABERT, 6-mers", "dnabert-6", 512, k=6),
    Family("DNABERT-2", "dnabert2-117m", 344, entries=4096),
    Family("Nucleotide Transformer", "nt-500m", 512),
    Family("Nucleotide Transformer v2", "nt-v2-50m", 344),
    Family("BigBird", "bigbird-dna-4096", 512, entries=4096),
]


def run(arguments, done, *command):
    """What the command prints as JSON, from `done` if it was run before."""
    if done.exists():
        return json.loads(done.read_text())
    command = [arguments.helixgrad, *command, "--json", "--quiet", "--threads", arguments.threads]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {finished.stderr}")
    done.write_text(finished.stdout)
    return json.loads(finished.stdout)


def compare(arguments, family, data, windows):
    folder = arguments.out / family.name.replace(", ", "-").replace(" ", "-").lower()
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--preset", family.preset, "--layers", 3, "--hidden", 128, "--heads", 4, "--intermediate", family.inner]
    if family.k:
        options += ["--k", family.k]
    if family.entries:
        tokens = arguments.out / "tokens"
        run(arguments, arguments.out / "tokens.json", "tokenizer", "train", "--genome", f"{SAMPLE}.2bit", "--vocab-size",
            family.entries, "--out", tokens)
        options += ["--tokenizer", tokens]
    pretrained = run(
        arguments, folder / "pretrain.json", "pretrain", "--genome", f"{SAMPLE}.2bit", *options, "--max-length", WINDOW,
        "--tokens-per-step", TOKENS_PER_STEP, "--steps", arguments.steps, "--learning-rate", 1e-3, "--eval-every", arguments.steps,
        *(option for region in arguments.held_out for option in ("--hold-out", region)), "--out", folder / "pretrained",
    )
    tokens = tokens_of(arguments, folder, windows)
    epochs = round(arguments.epochs * arguments.most / tokens)
    rows = {}
    for start in ("pretrained", "scratch"):
        first = ["--init", folder / "pretrained"] if start == "pretrained" else options
        run(
            arguments, folder / f"finetune-{start}.json", "finetune", "--data", data, *first, "--head", "site", "--window", WINDOW,
            "--epochs", epochs, "--batch", 64, "--learning-rate", 1e-3, "--decay", "cosine", "--out", folder / f"finetuned-{start}",
        )
        rows[start] = run(
            arguments, folder / f"evaluate-{start}.json", "evaluate", "--model", folder / f"finetuned-{start}", "--data", data / "test.tsv"
        )
    return pretrained, tokens, epochs, rows


def tokens_of(arguments, folder, windows):
    """Tokens of a window, on average, specials included."""
    fasta = arguments.out / "windows.fa"
    if not fasta.exists():
        fasta.write_text("".join(f">{i}\n{window}\n" for i, window in enumerate(windows)))
    done = folder / "tokens.json"
    if not done.exists():
        printed = subprocess.run(
            [arguments.helixgrad, "tokenizer", "encode", "--tokenizer", folder / "pretrained", "--fasta", fasta, "--json", "--quiet"],
            capture_output=True, text=True, check=True,
        ).stdout
        done.write_text(json.dumps(count_ids(json.loads(printed)) / len(windows)))
    return json.loads(done.read_text())


def bases_of(k_mers):
    """The bases of a row of overlapping k-mers."""
    first, *others = k_mers.split()
    return first + "".join(k_mer[-1] for k_mer in others)


def middle(bases):
    return bases[(len(bases) - WINDOW) // 2 :][:WINDOW]


def mcc(result):
    low, high = result["intervals"]["mcc_3class"]
    return f"{result['mcc_3class']:.3f} [{low:.3f}, {high:.3f}]"


def count_ids(value):
    if isinstance(value, dict):
        return sum(len(item) if name == "ids" else count_ids(item) for name, item in value.items())
    if isinstance(value, list):
        return sum(map(count_ids, value))
    return 0


def main():
    parser = argparse.ArgumentParser(description="All families on the sample, with as much arithmetic each.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300, help="updates of a pretraining")
    parser.add_argument("--epochs", type=int, default=5, help="passes of 3-mers over the training windows")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--helixgrad", default=ROOT / "target" / "release" / "helixgrad")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.held_out = []
    data = arguments.out / "data"
    described = run(arguments, arguments.out / "data.json", "splice", "dataset", "--genome", f"{SAMPLE}.2bit", "--annotation",
                    f"{SAMPLE}.gff3.gz", "--k", 3, "--out", data)
    for part in ("dev", "test"):
        for region in described["parts"][part]["regions"]:
            name, _, span = region.rpartition(":")
            first, _, end = span.partition("-")
            arguments.held_out.append(f"{name}:{int(first) + 1}-{end}")
    lines = (data / "train.tsv").read_text().splitlines()[1:]
    windows = [middle(bases_of(line.split("\t")[0])) for line in lines]
    arguments.most = WINDOW - 3 + 1 + 2
    print("| family | tokens a window | epochs | loss of pretraining | 3-class MCC, pretrained | from scratch |")
    print("| --- | --- | --- | --- | --- | --- |")
    baselines = {}
    for family in FAMILIES:
        pretrained, tokens, epochs, rows = compare(arguments, family, data, windows)
        baselines = rows["scratch"]["baselines"]
        loss = f"{pretrained['loss_first']:.3f} to {pretrained['loss_last']:.3f}"
        print(
            f"| {family.name} | {tokens:.1f} | {epochs} | {loss} | {mcc(rows['pretrained']['splice'])} | "
            f"{mcc(rows['scratch']['splice'])} |",
            flush=True,
        )
    for name, result in baselines.items():
        if isinstance(result, dict) and "intervals" in result:
            print(f"| {name} | | | | | {mcc(result)} |")


if __name__ == "__main__":
    main()
