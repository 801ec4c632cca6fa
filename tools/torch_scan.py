#!/usr/bin/env python3
"""`helixgrad scan` beside PyTorch: the same model, the same windows, the same cores, in turns; and the files beside each other.

    cargo build --release
    python tools/torch_scan.py --model runs/demo/splice --genome runs/demo/genome.2bit --region X_46000001_56000000:1080001-1100000

PyTorch runs transformers' BertForTokenClassification (SDPA, inference mode, eval) on batches of windows that are tokens
already; what is timed is the forward pass alone, with the best of several batch sizes. helixgrad is timed as it says itself,
from the .2bit file to the last byte. The two take turns, so that other work on the machine disturbs both alike; what is
printed is the median of each and the ratio. Then every call is compared with PyTorch's probability, and every bigWig file,
read by pyBigWig, with its bedGraph file.

Needs torch, transformers, numpy and pyBigWig, and a site head without a hidden layer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import pyBigWig
import torch
import transformers
from transformers import BertForTokenClassification

TRACKS = ["donor_plus", "donor_minus", "acceptor_plus", "acceptor_minus"]
COMPLEMENT = str.maketrans("ACGT", "TGCA")
BATCHES = [16, 64, 256]


def main():
    parser = argparse.ArgumentParser(description="helixgrad scan beside PyTorch.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--genome", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--helixgrad", default=Path(__file__).parent.parent / "target" / "release" / "helixgrad")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    model = BertForTokenClassification.from_pretrained(arguments.model, attn_implementation="sdpa").eval()
    vocabulary = {token: index for index, token in enumerate(Path(arguments.model, "vocab.txt").read_text().split())}
    config = json.loads(Path(arguments.model, "config.json").read_text())
    width = window_of(config)
    k = len(list(vocabulary)[-1])
    donor, acceptor = (find_class(config, name) for name in ("donor", "acceptor"))

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        scans = iter(range(arguments.rounds + 1))

        def scan():
            out = folder / str(next(scans))
            command = [arguments.helixgrad, "scan", "--model", arguments.model, "--genome", arguments.genome, "--out", out,
                       "--region", arguments.region, "--min-track-score", "0", "--threads", str(arguments.threads),
                       "--json", "--quiet"]
            return out, json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

        out, summary = scan()
        calls = read_calls(out)
        name, bases, start = read_region(arguments, folder)
        windows, keys = [], []
        for (track, _, base), score in calls.items():
            kind, strand = track.split("_")
            behind = (kind == "donor") == (strand == "plus")
            boundary = base if behind else base + 1
            left = width // 2 if strand == "plus" else width - width // 2
            window = bases[boundary - left - start:][:width]
            if strand == "minus":
                window = window.translate(COMPLEMENT)[::-1]
            windows.append([vocabulary["[CLS]"]] + [vocabulary[window[i:i + k]] for i in range(width - k + 1)] + [vocabulary["[SEP]"]])
            keys.append((donor if kind == "donor" else acceptor, score))
        tokens = torch.tensor(windows)
        site = 1 + width // 2 - k // 2

        def forward(batch):
            started = time.perf_counter()
            with torch.inference_mode():
                logits = [model(input_ids=part).logits[:, site] for part in tokens.split(batch)]
            return torch.cat(logits), time.perf_counter() - started

        batch = min(BATCHES, key=lambda batch: forward(batch)[1])
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            _, summary = scan()
            ours.append(summary["windows"] / summary["seconds"])
            logits, seconds = forward(batch)
            theirs.append(len(windows) / seconds)
        probabilities = logits.softmax(dim=1)
        difference = max(abs(probabilities[row, column].item() - score) for row, (column, score) in enumerate(keys))
        values = sum(compare_bigwig(out, track, calls) for track in TRACKS)

    result = {
        "windows": len(windows),
        "window": width,
        "helixgrad_windows_per_second": statistics.median(ours),
        "torch_windows_per_second": statistics.median(theirs),
        "torch_batch": batch,
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "ratios": [one / other for one, other in zip(ours, theirs)],
        "largest_difference": difference,
        "bigwig_values": values,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{result['windows']:,} windows of {width} bases; helixgrad {result['helixgrad_windows_per_second']:,.0f} a second, "
              f"PyTorch {result['torch_windows_per_second']:,.0f} (batches of {batch}): {result['ratio']:.2f} times")
        print(f"largest difference of a probability {difference:.1e}; {values:,} bigWig values are those of the bedGraph files")
    if difference > 1e-4:
        sys.exit("the probabilities differ")


def window_of(config):
    """Bases of the model's window."""
    window = config.get("helixgrad", {}).get("classification", {}).get("window")
    return window or sys.exit("the model has no window of its own")


def find_class(config, name):
    return next(int(index) for index, label in config["id2label"].items() if label == name)


def read_calls(out):
    """Score by track, sequence and base."""
    calls = {}
    for track in TRACKS:
        for line in (out / f"{track}.bedgraph").read_text().splitlines():
            name, start, _, score = line.split("\t")
            calls[track, name, int(start)] = float(score)
    return calls


def read_region(arguments, folder):
    """The region's sequence with a thousand bases on either side, and where it starts (0-based)."""
    name, places = arguments.region.rsplit(":", 1)
    first, last = (int(place.replace(",", "")) for place in places.split("-"))
    start = max(1, first - 1000)
    command = [arguments.helixgrad, "genome", "extract", arguments.genome, f"{name}:{start}-{last + 1000}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return name, "".join(text.splitlines()[1:]).upper(), start - 1


def compare_bigwig(out, track, calls):
    """The number of values; exits where one differs."""
    expected = {key: score for key, score in calls.items() if key[0] == track}
    if not expected:
        return 0
    file = pyBigWig.open(str(out / f"{track}.bw"))
    count = 0
    for name in file.chroms():
        for start, end, value in file.intervals(name) or []:
            for base in range(start, end):
                count += 1
                if abs(value - expected[track, name, base]) > 1e-6:
                    sys.exit(f"{track}.bw differs at {name}:{base}")
    if count != len(expected):
        sys.exit(f"{track}.bw has {count} values, its bedGraph file {len(expected)}")
    return count


if __name__ == "__main__":
    main()
