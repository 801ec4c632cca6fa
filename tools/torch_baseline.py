#!/usr/bin/env python3
"""Times what a PyTorch user would take instead, on the same machine, in the same run: full training steps, or single operations.

    python tools/torch_baseline.py [mini|bionemo-xsmall|dnabert-6|splice-small] [--threads N] [--steps N] [--batch N]
                                   [--mix full|dnabert] [--device cuda --dtype bf16 --compile] [--json]
    python tools/torch_baseline.py ops [--device cuda --dtype bf16] [--only gemm,attention] [--tokens N] [--lengths 512,2048]

`ops` prints a JSON object a row, with the names of `cargo bench`'s rows (tools/torch_ops.py); tools/bench_table.py sets both side by side.

A step is forward, backward, clipping to a global norm of 1 and fused AdamW, on transformers' BERT with its default dropout
of 0.1 and PyTorch's own attention (SDPA). All presets but `splice-small` train BertForMaskedLM on 512-token sequences, 15 % of
the tokens masked; `splice-small` trains a three-class linear head on the token at the site, on 80-token sequences. The tokens
are random: no step depends on what they say. With `--mix dnabert` half of the sequences have full length and half a uniform one, padded
to full length with an attention mask, as transformers' users run it; only tokens that are no padding are counted.

The last line of stdout is the tokens per second of the median step (with --json, one object that holds it).
Needs torch and transformers. `--device cuda`, `--dtype bf16` (autocast) and `--compile` have not been tried on a GPU.
"""

import argparse
import json
import os
import statistics
import sys
import time
from typing import NamedTuple

import torch
import torch_ops
import transformers
from transformers import BertConfig, BertForMaskedLM, BertModel

MASKED_SHARE = 0.15
SPECIAL_TOKENS, PAD, MASK = 5, 0, 4
SHORTEST = 7
CLASSES = 3
WARMUP_STEPS = 2


class Preset(NamedTuple):
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    length: int
    batch: int


PRESETS = {
    "mini": Preset(4, 256, 4, 1024, 4101, 512, 8),
    "bionemo-xsmall": Preset(6, 256, 4, 2048, 69, 512, 8),
    "dnabert-6": Preset(12, 768, 12, 3072, 4101, 512, 2),
    "splice-small": Preset(3, 128, 4, 512, 69, 80, 64),
}


class MaskedLanguageModel(torch.nn.Module):
    """transformers' pretraining model: logits and loss for every position, as its users run it."""

    def __init__(self, config):
        super().__init__()
        self.model = BertForMaskedLM(config)

    def forward(self, tokens, labels, attention_mask=None):
        return self.model(input_ids=tokens, labels=labels, attention_mask=attention_mask).loss

    @staticmethod
    def batch(preset, batch, real):
        """Tokens and labels; `real` says which positions are no padding."""
        originals = torch.randint(SPECIAL_TOKENS, preset.vocabulary, (batch, preset.length))
        masked = (torch.rand(batch, preset.length) < MASKED_SHARE) & real
        return originals.masked_fill(masked, MASK).masked_fill(~real, PAD), originals.masked_fill(~masked, -100)


class TokenAtSite(torch.nn.Module):
    """A linear head on the middle token of each window."""

    def __init__(self, config):
        super().__init__()
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
        self.head = torch.nn.Linear(config.hidden_size, CLASSES)

    def forward(self, tokens, labels, attention_mask=None):
        site = self.encoder(input_ids=tokens, attention_mask=attention_mask).last_hidden_state[:, tokens.shape[1] // 2]
        return torch.nn.functional.cross_entropy(self.head(self.dropout(site)), labels)

    @staticmethod
    def batch(preset, batch, real):
        tokens = torch.randint(SPECIAL_TOKENS, preset.vocabulary, (batch, preset.length)).masked_fill(~real, PAD)
        return tokens, torch.randint(CLASSES, (batch,))


def parse():
    parser = argparse.ArgumentParser(description="Times PyTorch training steps of BERT.")
    parser.add_argument("preset", nargs="?", choices=[*PRESETS, "ops"], default="mini")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--steps", type=int, default=8, help=f"timed steps, after {WARMUP_STEPS} that are not")
    parser.add_argument("--batch", type=int, help="sequences a step (default: the preset's)")
    parser.add_argument("--length", type=int, help="tokens a sequence (default: the preset's)")
    parser.add_argument("--task", choices=["pretrain", "splice"], help="default: pretrain; for splice-small splice")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda[:N]")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--mix", choices=["full", "dnabert"], default="full", help="lengths of the sequences")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    operations = parser.add_argument_group("ops")
    operations.add_argument("--only", help="the rows of some benches, with commas: gemm, attention, layernorm, ...")
    operations.add_argument("--tokens", type=int, help="tokens (default: 65,536 on a GPU, 4,096 on the CPU)")
    operations.add_argument("--lengths", help="lengths for attention, with commas")
    operations.add_argument("--runs", type=int, default=20, help="timed runs of each operation")
    arguments = parser.parse_args()
    for option in ("threads", "steps", "batch", "length", "tokens", "runs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option} {value}: give at least 1")
    arguments.device, _, number = arguments.device.partition(":")
    if arguments.device not in ("cpu", "cuda") or not (number or "0").isdigit():
        parser.error("--device: cpu, cuda or cuda:N")
    if arguments.device == "cuda":
        if int(number or 0) >= torch.cuda.device_count():
            parser.error(f"--device cuda: PyTorch sees {torch.cuda.device_count()} GPUs here")
        torch.cuda.set_device(int(number or 0))
    return arguments


def build(preset, arguments):
    config = BertConfig(
        vocab_size=preset.vocabulary,
        hidden_size=preset.hidden,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        intermediate_size=preset.intermediate,
        max_position_embeddings=512,
        attn_implementation="sdpa",
    )
    task = TokenAtSite if arguments.task == "splice" else MaskedLanguageModel
    model = task(config).train().to(arguments.device)
    return model, task.batch


def time_steps(model, batch, arguments):
    """Seconds of each timed step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    loss_of = torch.compile(model) if arguments.compile else model
    finish = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    seconds = []
    for _ in range(WARMUP_STEPS + arguments.steps):
        finish()
        start = time.perf_counter()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bf16"):
            loss = loss_of(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        finish()
        seconds.append(time.perf_counter() - start)
    return seconds[WARMUP_STEPS:]


def real_positions(preset, sequences, mix):
    """Which positions of a padded batch are no padding, `[sequences, length]`."""
    lengths = torch.full((sequences,), preset.length)
    if mix == "dnabert":
        # Every other one, so that a small batch has the mix as well.
        lengths[1::2] = torch.randint(min(SHORTEST, preset.length), preset.length + 1, (sequences // 2,))
    return torch.arange(preset.length) < lengths[:, None]


def main():
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.preset == "ops":
        torch_ops.main(arguments)
        return
    preset = PRESETS[arguments.preset]
    preset = preset._replace(length=arguments.length or preset.length)
    arguments.task = arguments.task or ("splice" if arguments.preset == "splice-small" else "pretrain")
    torch.manual_seed(0)
    model, make_batch = build(preset, arguments)
    sequences = arguments.batch or preset.batch
    real = real_positions(preset, sequences, arguments.mix)
    batch = list(make_batch(preset, sequences, real))
    if not real.all():
        batch.append(real.long())
    batch = [tensor.to(arguments.device) for tensor in batch]
    seconds = time_steps(model, batch, arguments)
    tokens = int(real.sum())
    result = {
        "preset": arguments.preset,
        "task": arguments.task,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "compiled": arguments.compile,
        "threads": torch.get_num_threads(),
        "batch": sequences,
        "length": preset.length,
        "mix": arguments.mix,
        "tokens": tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_seconds_median": statistics.median(seconds),
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens_per_second": tokens / statistics.median(seconds),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{result['preset']} on {result['device']} ({result['dtype']}), torch {result['torch']}, {result['threads']} threads: "
        f"{result['step_seconds_median']:.3f} s a step ({result['step_seconds_min']:.3f} to "
        f"{result['step_seconds_max']:.3f}), {tokens} tokens",
        file=sys.stderr,
    )
    print(f"{result['tokens_per_second']:.1f}")


if __name__ == "__main__":
    main()
