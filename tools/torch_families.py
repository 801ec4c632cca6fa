#!/usr/bin/env python3
"""A training step and `helixgrad embed` of every family beside its PyTorch form: the same sizes, the same cores, in turns.

    cargo build --release
    python tools/torch_families.py [PRESET ...] [--layers N] [--threads N] [--rounds N] [--json]

Nucleotide Transformer v1 and BigBird are transformers' own, the others are patched together from its BERT and ESM
(tools/families.py), all with SDPA but BigBird, which has an attention of its own. A step is forward, backward, clipping to a
global norm of 1 and fused AdamW, with the dropout of the release, 15 % of the tokens masked, on random tokens; ours is
`helixgrad bench train`. Embedding is the encoder's forward pass and the mean over tokens in PyTorch, without tokenising, and
from the FASTA file to the .npy file in helixgrad, without loading the model. Sequences of 6-mer blocks are equally long;
those of byte pairs are padded to the longest of a batch, as transformers' users have them. Vectors are compared.

The two take turns, so that other work on the machine disturbs both alike; printed are the medians and their ratio. --layers
takes that many layers of each model: a step then takes seconds. Needs torch, transformers, safetensors, tokenizers and numpy.
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
from typing import NamedTuple

import numpy
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

import families
import hf_families

MASKED_SHARE = 0.15
SPECIALS = 8


class Preset(NamedTuple):
    family: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    length: int
    batch: int


PRESETS = {
    "dnabert2-117m": Preset("dnabert2", 12, 768, 12, 3072, 4096, 512, 2),
    "nt-500m": Preset("nt_v1", 24, 1280, 20, 5120, 4105, 512, 2),
    "nt-v2-50m": Preset("nt_v2", 12, 512, 16, 2048, 4107, 512, 2),
    "nt-v2-100m": Preset("nt_v2", 22, 512, 16, 2048, 4107, 512, 2),
    "bigbird-dna-4096": Preset("bigbird", 12, 768, 12, 3072, 32000, 4096, 1),
}


def sizes(preset):
    longest = {"nt_v1": 1002, "nt_v2": 2050, "dnabert2": 512, "bigbird": 4096}[preset.family]
    return {
        "vocab_size": preset.vocabulary,
        "hidden_size": preset.hidden,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "intermediate_size": preset.intermediate,
        "max_position_embeddings": longest,
    }


def helixgrad(arguments, *command):
    command = [arguments.helixgrad, *command, "--device", "cpu", "--threads", arguments.threads, "--json", "--quiet"]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {finished.stderr}")
    return json.loads(finished.stdout)


def write_model(arguments, preset, config, model, folder):
    """The model's folder as released, its byte pairs learnt from random bases."""
    if preset.family.startswith("nt"):
        hf_families.write_vocabulary(folder, preset.family, config)
    else:
        draw = numpy.random.default_rng(1)
        bases = draw.choice(numpy.frombuffer(b"ACGT", dtype=numpy.uint8), 200 * preset.vocabulary)
        (folder / "bases.fa").write_text(f">x\n{bases.tobytes().decode()}\n")
        helixgrad(arguments, "genome", "pack", folder / "bases.fa", folder / "bases.2bit")
        learnt = folder / "learnt"
        helixgrad(arguments, "tokenizer", "train", "--genome", folder / "bases.2bit", "--vocab-size", preset.vocabulary, "--out", learnt)
        for file in learnt.iterdir():
            file.rename(folder / file.name)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    state = families.released(preset.family, model.state_dict())
    if preset.family == "bigbird":
        del state["cls.predictions.decoder.weight"], state["cls.predictions.decoder.bias"]
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})


def inputs(preset, config, sequences):
    """What the model takes; equal lengths need no mask, but for DNABERT-2's, in which the positions are."""
    batch = families.pad(preset.family, config, sequences, dtype=torch.float32)
    if preset.family != "dnabert2" and len(set(map(len, sequences))) == 1:
        del batch["attention_mask"]
    return batch


def training(arguments, name, preset, config, model, folder):
    """Tokens of a step, and how each side does one: seconds."""
    model.train()
    originals = torch.randint(SPECIALS, preset.vocabulary, (preset.batch, preset.length))
    masked = torch.rand(originals.shape) < MASKED_SHARE
    mask = 2 if preset.family.startswith("nt") else 4
    batch = inputs(preset, config, list(originals.masked_fill(masked, mask)))
    labels = originals.masked_fill(~masked, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01, fused=True)

    def step():
        start = time.perf_counter()
        model(**batch, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    def theirs():
        return statistics.median(step() for _ in range(arguments.steps))

    options = [] if preset.family.startswith("nt") else ["--tokenizer", folder]

    def ours():
        printed = helixgrad(
            arguments, "bench", "train", "--preset", name, "--layers", preset.layers, "--length", preset.length,
            "--batch", preset.batch, "--steps", arguments.steps, *options,
        )
        return printed["seconds_per_step"]

    return preset.batch * preset.length, theirs, ours


def embedding(arguments, preset, config, model, folder):
    """Tokens of a round, how each side works through them (seconds), and the largest difference of their vectors."""
    model.eval()
    count = max(preset.batch, arguments.tokens // preset.length)
    draw = numpy.random.default_rng(2)
    if preset.family.startswith("nt"):
        lengths = [6 * (preset.length - 1)] * count
    else:
        # As many bases as give about as many tokens as may be.
        lengths = draw.integers(4 * preset.length, 5 * preset.length, count)
    rows = ["".join(draw.choice(list("ACGT"), length)) for length in lengths]
    if preset.family.startswith("nt"):
        place = {line: number for number, line in enumerate((folder / "vocab.txt").read_text().split("\n"))}
        ids = [[3] + [place[row[at : at + 6]] for at in range(0, len(row), 6)] for row in rows]
        last = None
    else:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = [tokenizer.encode(row).ids[: preset.length - 1] for row in rows]
        # Cut in the text as well: what a sequence's first tokens say.
        rows = ["".join(map(tokenizer.id_to_token, row[1:-1])) for row in ids]
        ids = [tokenizer.encode(row).ids for row in rows]
        last = -1
    (folder / "x.fa").write_text("".join(f">s{i}\n{row}\n" for i, row in enumerate(rows)))
    encoder = model.esm if preset.family.startswith("nt") else model.bert
    batches = [ids[first : first + preset.batch] for first in range(0, count, preset.batch)]
    batches = [(inputs(preset, config, batch), [len(row) for row in batch]) for batch in batches]
    vectors = []

    def theirs():
        start = time.perf_counter()
        vectors.clear()
        with torch.inference_mode():
            for batch, lengths in batches:
                hidden = encoder(**batch).last_hidden_state
                vectors.extend(row[1:length][:last].mean(dim=0) for row, length in zip(hidden, lengths))
        return time.perf_counter() - start

    total = sum(map(len, ids))

    def ours():
        printed = helixgrad(arguments, "embed", "--model", folder, "--fasta", folder / "x.fa", "--out", folder / "x.npy")
        return total / printed["tokens_per_second"]

    def difference():
        return float(numpy.abs(numpy.load(folder / "x.npy") - torch.stack(vectors).numpy()).max())

    return total, theirs, ours, difference


def in_turns(arguments, total, theirs, ours):
    """Tokens a second of each, and the ratio in each round. The first round warms both up."""
    rounds = [(total / theirs(), total / ours()) for _ in range(arguments.rounds + 1)][1:]
    torch_rate, our_rate = (statistics.median(rates) for rates in zip(*rounds))
    return {
        "torch_tokens_per_second": torch_rate,
        "helixgrad_tokens_per_second": our_rate,
        "ratio": statistics.median(b / a for a, b in rounds),
        "ratios": [round(b / a, 2) for a, b in rounds],
    }


def measure(arguments, name):
    preset = PRESETS[name]
    preset = preset._replace(
        layers=min(arguments.layers or preset.layers, preset.layers),
        length=arguments.length or preset.length,
        batch=arguments.batch or preset.batch,
    )
    config = families.config_of(preset.family, "mlm", **sizes(preset))
    model = families.build(preset.family, "mlm", config, "sdpa")
    common = {"preset": name, "layers": preset.layers, "length": preset.length, "batch": preset.batch, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_model(arguments, preset, config, model, folder)
        if arguments.task != "train":
            total, theirs, ours, difference = embedding(arguments, preset, config, model, folder)
            result = {"task": "embed"} | common | in_turns(arguments, total, theirs, ours) | {"largest_difference": difference()}
            yield result
            if result["largest_difference"] > 1e-3:
                sys.exit(f"{name}: the vectors differ by {result['largest_difference']}")
        if arguments.task != "embed":
            yield {"task": "train"} | common | in_turns(arguments, *training(arguments, name, preset, config, model, folder))


def main():
    parser = argparse.ArgumentParser(description="The families' training steps and embeddings beside PyTorch's.")
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(PRESETS)} (default: all)")
    parser.add_argument("--task", choices=["train", "embed"], help="default: both")
    parser.add_argument("--layers", type=int, help="layers at most (default: the preset's)")
    parser.add_argument("--length", type=int, help="tokens of a sequence (default: the preset's)")
    parser.add_argument("--batch", type=int, help="sequences of a batch (default: the preset's)")
    parser.add_argument("--tokens", type=int, default=1 << 13, help="tokens that are embedded in a round")
    parser.add_argument("--steps", type=int, default=3, help="training steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--helixgrad", default=Path(__file__).parent.parent / "target" / "release" / "helixgrad")
    parser.add_argument("--json", action="store_true", help="print a JSON object a row")
    arguments = parser.parse_args()
    for name in arguments.presets:
        if name not in PRESETS:
            parser.error(f"{name}: give one of {', '.join(PRESETS)}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for name in arguments.presets or PRESETS:
        for result in measure(arguments, name):
            if arguments.json:
                print(json.dumps(result | {"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
                continue
            error = f"; largest difference {result['largest_difference']:.1e}" if "largest_difference" in result else ""
            print(
                f"{result['task']}, {name}, {result['layers']} layers, {result['batch']} x {result['length']} tokens, "
                f"{result['threads']} threads: torch {result['torch_tokens_per_second']:,.0f} tokens/s, helixgrad "
                f"{result['helixgrad_tokens_per_second']:,.0f}: {result['ratio']:.2f} times (rounds {result['ratios']}){error}",
                flush=True,
            )


if __name__ == "__main__":
    main()
