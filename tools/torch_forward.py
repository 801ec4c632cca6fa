#!/usr/bin/env python3
"""`helixgrad embed` and `scan` beside PyTorch's forward pass: the same model, the same sequences, the same cores, in turns.

    cargo build --release
    python tools/torch_forward.py [mini|bionemo-xsmall|dnabert-6|splice-small] [--mix dnabert | --scan] [--threads N]
        [--device cuda] [--rounds N] [--json]

PyTorch runs transformers' BertModel (SDPA, inference mode, eval) on batches of equally long sequences, so that it wastes
nothing on padding; what is timed is the forward pass and the mean over k-mers, not the tokenising. helixgrad is timed from
the FASTA file to the .npy file, without loading the model, as it says itself. The vectors of both are compared. The two take
turns, so that other work on the machine disturbs both alike; what is printed is the median of each and the ratio.

With --mix dnabert half of the sequences are of full length and the others of any, as in DNABERT's pretraining; PyTorch gets
them as they come, padded to the longest of a batch. With --scan both score splice sites: PyTorch BertForSequenceClassification
on the windows as tokens, helixgrad from the genome file to BED, bedGraph and bigWig; probabilities are compared.

With --device cuda both compute in bf16 on the GPU, PyTorch through torch.compile where all lengths are equal.

Needs torch, transformers and numpy.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertModel

from torch_baseline import PRESETS

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
#: Tokens that each side works through in a round: seconds, not minutes.
TOKENS = {"mini": 1 << 16, "bionemo-xsmall": 1 << 16, "dnabert-6": 1 << 13, "splice-small": 1 << 18}


def k_mers(k):
    return [""] if k == 0 else [base + rest for base in "ATCG" for rest in k_mers(k - 1)]


def tokens_of(bases, k):
    """The token ids of rows of bases, `[rows, bases]`, with [CLS] and [SEP]; a base's digit is its place in ATCG."""
    windows = numpy.lib.stride_tricks.sliding_window_view(bases, k, axis=1)
    ids = 5 + (windows * 4 ** numpy.arange(k - 1, -1, -1)).sum(axis=2)
    ends = [numpy.full((len(ids), 1), special) for special in (2, 3)]
    return numpy.concatenate([ends[0], ids, ends[1]], axis=1)


def letters(row):
    return numpy.frombuffer(b"ATCG", dtype=numpy.uint8)[row].tobytes().decode()


def prepared(arguments, model):
    """How a tensor gets to the device, and the model there."""
    if arguments.device == "cpu":
        return (lambda tensor: tensor), model
    model.to(arguments.device, torch.bfloat16)
    compiled = torch.compile(model) if arguments.mix == "full" else model
    return (lambda tensor: tensor.to(arguments.device)), compiled


def embedding(arguments, preset, config, k, folder):
    """What each side does in a round, the tokens of it, and the largest difference of their results."""
    model = BertModel(config).eval()
    model.save_pretrained(folder / "model")
    on_device, compute = prepared(arguments, model)
    count = max(preset.batch, arguments.tokens // preset.length)
    random = numpy.random.default_rng(0)
    lengths = numpy.full(count, preset.length - 2)
    if arguments.mix == "dnabert":
        lengths = numpy.where(random.random(count) < 0.5, lengths, random.integers(5, preset.length - 1, count))
    rows = [random.integers(0, 4, length + k - 1) for length in lengths]
    ids = [torch.from_numpy(tokens_of(row[None], k)[0]) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    batches = []
    for first in range(0, count, preset.batch):
        sizes = torch.tensor([len(row) for row in ids[first : first + preset.batch]])
        tokens = padded[first : first + preset.batch, : int(sizes.max())]
        place = torch.arange(tokens.shape[1])
        mask = place < sizes[:, None]
        # Equal lengths need no mask, and run faster without.
        k_mers = ((place > 0) & (place < sizes[:, None] - 1)).float()
        batches.append((on_device(tokens), None if mask.all() else on_device(mask.long()), on_device(k_mers)))

    def theirs():
        vectors = []
        with torch.inference_mode():
            for tokens, mask, k_mers in batches:
                hidden = compute(tokens, attention_mask=mask).last_hidden_state.float()
                vectors.append((hidden * k_mers[:, :, None]).sum(dim=1) / k_mers.sum(dim=1, keepdim=True))
        return torch.cat(vectors).cpu().numpy()

    (folder / "x.fa").write_text("".join(f">s{i}\n{letters(row)}\n" for i, row in enumerate(rows)))
    total = int(lengths.sum()) + 2 * count

    def ours():
        printed = helixgrad(arguments, "embed", "--model", folder / "model", "--fasta", folder / "x.fa", "--out",
                            folder / "x.npy")
        return total / printed["tokens_per_second"]

    def difference(expected):
        return float(numpy.abs(numpy.load(folder / "x.npy") - expected).max())

    return theirs, ours, total, difference


def scanning(arguments, preset, config, k, folder):
    """As `embedding`, of the GT and AG on both strands of random bases."""
    config.id2label = dict(enumerate(["neither", "donor", "acceptor"]))
    config.label2id = {name: number for number, name in config.id2label.items()}
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder / "model")
    on_device, compute = prepared(arguments, model)
    width = preset.length - 2 + k - 1
    width -= width % 2
    genome = numpy.random.default_rng(0).integers(0, 4, 4 * arguments.tokens // preset.length + width)
    (folder / "x.fa").write_text(f">x\n{letters(genome)}\n")
    helixgrad(arguments, "genome", "pack", folder / "x.fa", folder / "x.2bit")
    half = width // 2
    place = numpy.arange(half, len(genome) - half + 1)
    other = numpy.array([1, 0, 3, 2])[genome[::-1]]
    windows, donors = [], None
    # A, T, C, G: a donor's intron begins with GT, an acceptor's ends with AG.
    for strand in (genome, other):
        after = place[place + 1 < len(genome)]
        gt = after[(strand[after] == 3) & (strand[after + 1] == 1)]
        before = place[place >= 2]
        ag = before[(strand[before - 2] == 0) & (strand[before - 1] == 3)]
        # Where an exon of no bases would lie between them, both read the same window.
        sites = numpy.union1d(gt, ag)
        donors = numpy.isin(sites, gt) if donors is None else donors
        windows.append(numpy.lib.stride_tricks.sliding_window_view(strand, width)[sites - half])
    ids = torch.from_numpy(tokens_of(numpy.concatenate(windows), k))
    batches = [on_device(batch) for batch in ids.split(preset.batch)]

    def theirs():
        with torch.inference_mode():
            return torch.cat([compute(batch).logits.float().softmax(dim=1) for batch in batches]).cpu().numpy()

    out = folder / "scan"

    def ours():
        shutil.rmtree(out, ignore_errors=True)
        printed = helixgrad(arguments, "scan", "--model", folder / "model", "--genome", folder / "x.2bit", "--window", width,
                            "--min-track-score", 0, "--out", out)
        if printed["windows"] != len(ids):
            sys.exit(f"helixgrad scored {printed['windows']} windows, PyTorch {len(ids)}")
        return printed["seconds"]

    def difference(expected):
        track = next(out.glob("*donor*plus*.bedgraph"), None) or next(out.glob("*donor*.bedgraph"))
        rows = [line.split() for line in track.read_text().splitlines() if not line.startswith(("#", "track"))]
        return float(numpy.abs(numpy.array([float(row[3]) for row in rows]) - expected[: len(donors)][donors, 1]).max())

    return theirs, ours, ids.numel(), difference


def helixgrad(arguments, *command):
    command = [arguments.helixgrad, *command, "--device", arguments.device, "--threads", arguments.threads, "--json", "--quiet"]
    return json.loads(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description="helixgrad embed and scan beside PyTorch's forward pass.")
    parser.add_argument("preset", nargs="?", default="mini", choices=PRESETS)
    parser.add_argument("--mix", choices=["full", "dnabert"], default="full")
    parser.add_argument("--scan", action="store_true", help="splice sites of a genome instead of embeddings")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda[:N]")
    parser.add_argument("--batch", type=int, help="sequences that PyTorch takes at a time (default: the preset's; 128 on a GPU)")
    parser.add_argument("--tokens", type=int, help="tokens of a round (default: by the preset; 2^21 on a GPU)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--helixgrad", default=Path(__file__).parent.parent / "target" / "release" / "helixgrad")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    on_cpu = arguments.device == "cpu"
    preset = preset._replace(batch=arguments.batch or (preset.batch if on_cpu else 128))
    arguments.tokens = arguments.tokens or (TOKENS[arguments.preset] if on_cpu else 1 << 21)
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
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "model").mkdir()
        (folder / "model" / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS + k_mers(k)) + "\n")
        prepare = scanning if arguments.scan else embedding
        run_theirs, run_ours, total, difference = prepare(arguments, preset, config, k, folder)
        theirs, ours = [], []
        for _ in range(arguments.rounds + 1):
            start = time.perf_counter()
            expected = run_theirs()
            theirs.append(total / (time.perf_counter() - start))
            ours.append(total / run_ours())
        error = difference(expected)
    # The first round warms both up.
    theirs, ours = theirs[1:], ours[1:]
    result = {
        "task": "scan" if arguments.scan else "embed",
        "preset": arguments.preset,
        "mix": arguments.mix,
        "device": arguments.device,
        "threads": arguments.threads,
        "tokens": total,
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
        print(f"{result['task']}, {arguments.preset}, {arguments.mix} lengths, {arguments.threads} threads, load "
              f"{result['load_average']:.1f}: torch {result['torch']} {result['torch_tokens_per_second']:,.0f} tokens/s, helixgrad "
              f"{result['helixgrad_tokens_per_second']:,.0f}: {result['ratio']:.2f} times (rounds {result['ratios']}); "
              f"largest difference {error:.1e}")
    if error > (1e-4 if on_cpu else 0.1):
        sys.exit(f"the results differ by {error}")


if __name__ == "__main__":
    main()
