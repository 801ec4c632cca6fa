#!/usr/bin/env python3
"""`helixgrad embed` beside PyTorch's forward pass: the same model, the same sequences, the same cores, in turns.

    cargo build --release
    python tools/torch_forward.py [mini|bionemo-xsmall|dnabert-6|splice-small] [--threads N] [--rounds N] [--json]

PyTorch runs transformers' BertModel (SDPA, inference mode, eval) on batches of equally long sequences, so that it wastes
nothing on padding; what is timed is the forward pass and the mean over k-mers, not the tokenising. helixgrad is timed from
the FASTA file to the .npy file, without loading the model, as it says itself. The vectors of both are compared. The two take
turns, so that other work on the machine disturbs both alike; what is printed is the median of each and the ratio.

Needs torch, transformers and numpy.
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
import torch
import transformers
from transformers import BertConfig, BertModel

from torch_baseline import PRESETS

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
#: Tokens that each side works through in a round: seconds, not minutes.
TOKENS = {"mini": 1 << 16, "bionemo-xsmall": 1 << 16, "dnabert-6": 1 << 13, "splice-small": 1 << 18}


def k_mers(k):
    return [""] if k == 0 else [base + rest for base in "ATCG" for rest in k_mers(k - 1)]


def main():
    parser = argparse.ArgumentParser(description="helixgrad embed beside PyTorch's forward pass.")
    parser.add_argument("preset", nargs="?", default="mini", choices=PRESETS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--helixgrad", default=Path(__file__).parent.parent / "target" / "release" / "helixgrad")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    k = 6 if preset.vocabulary == 4101 else 3
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=preset.vocabulary, hidden_size=preset.hidden, num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads, intermediate_size=preset.intermediate, max_position_embeddings=512,
        attn_implementation="sdpa",
    )
    model = BertModel(config).eval()
    count = max(preset.batch, TOKENS[arguments.preset] // preset.length)
    bases = numpy.random.default_rng(0).integers(0, 4, (count, preset.length - 2 + k - 1))
    # The digit of a base is its place in ATCG.
    digits = numpy.lib.stride_tricks.sliding_window_view(bases, k, axis=1)
    ids = 5 + (digits * 4 ** numpy.arange(k - 1, -1, -1)).sum(axis=2)
    ids = numpy.concatenate([numpy.full((count, 1), 2), ids, numpy.full((count, 1), 3)], axis=1)
    batches = torch.from_numpy(ids).split(preset.batch)

    def run_torch():
        vectors = []
        with torch.inference_mode():
            for batch in batches:
                vectors.append(model(batch).last_hidden_state[:, 1:-1].mean(dim=1))
        return torch.cat(vectors).numpy()

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder / "model")
        (folder / "model" / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS + k_mers(k)) + "\n")
        letters = numpy.frombuffer(b"ATCG", dtype=numpy.uint8)
        records = (f">s{i}\n{letters[row].tobytes().decode()}\n" for i, row in enumerate(bases))
        (folder / "x.fa").write_text("".join(records))
        command = [arguments.helixgrad, "embed", "--model", folder / "model", "--fasta", folder / "x.fa", "--out",
                   folder / "x.npy", "--device", "cpu", "--threads", arguments.threads, "--json", "--quiet"]
        theirs, ours = [], []
        for _ in range(arguments.rounds + 1):
            start = time.perf_counter()
            expected = run_torch()
            theirs.append(count * preset.length / (time.perf_counter() - start))
            printed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
            ours.append(json.loads(printed)["tokens_per_second"])
        error = float(numpy.abs(numpy.load(folder / "x.npy") - expected).max())
    # The first round warms both up.
    theirs, ours = theirs[1:], ours[1:]
    result = {
        "preset": arguments.preset,
        "threads": arguments.threads,
        "sequences": count,
        "length": preset.length,
        "torch_tokens_per_second": statistics.median(theirs),
        "helixgrad_tokens_per_second": statistics.median(ours),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "ratios": [round(a / b, 2) for a, b in zip(ours, theirs)],
        "largest_difference": error,
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{arguments.preset}, {arguments.threads} threads, load {result['load_average']:.1f}: torch {result['torch']} "
              f"{result['torch_tokens_per_second']:,.0f} tokens/s, helixgrad {result['helixgrad_tokens_per_second']:,.0f}: "
              f"{result['ratio']:.2f} times (rounds {result['ratios']}); largest difference {error:.1e}")
    if error > 1e-4:
        sys.exit(f"the vectors differ by {error}")


if __name__ == "__main__":
    main()
