#!/usr/bin/env python3
"""Whether peft loads the adapters of a fine-tuned model onto what training began with, and gets what the merged model gives.

    cargo build --release
    python tools/check_peft.py [--helixgrad target/release/helixgrad]

Needs torch, transformers, peft and safetensors. For a DNABERT, with adapters of query and value, of all matrices, and with a head on a token:

1. `helixgrad finetune --lora` trains from a folder that transformers saved;
2. peft loads the run's adapter/ onto that folder's model, with no missing or unexpected keys; transformers loads the run's own model;
3. the logits of both are equal to 1e-5, and differ from those that training began with.

Prints a line for each; the exit code is 1 if anything differs.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from check_hf import SPECIAL_TOKENS, config, k_mers
from peft import PeftModel

CASES = {
    "query and value": (transformers.BertForSequenceClassification, ["--head", "cls"]),
    "all matrices": (transformers.BertForSequenceClassification, ["--lora-targets", "query,key,value,dense"]),
    "a token's class": (transformers.BertForTokenClassification, ["--head", "site", "--lora-alpha", "9"]),
}


def check(name, helixgrad, folder):
    model_class, options = CASES[name]
    init, run, data = folder / "init", folder / "run", folder / "data.tsv"
    folder.mkdir()
    torch.manual_seed(1)
    # Three classes under their names, so that the head is not drawn anew.
    labels = {0: "a", 1: "b", 2: "c"}
    base = model_class(config(3, id2label=labels, label2id={label: id for id, label in labels.items()})).eval()
    base.save_pretrained(init)
    (init / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS + k_mers(3)) + "\n")
    rows = [("ACGTTGCAACGTACGATCGA", "a"), ("TTTTACGTAAACGCGTATAT", "b"), ("GGGACGCCACGTTTTACGAA", "c")] * 8
    data.write_text("sequence\tlabel\n" + "".join(f"{bases}\t{label}\n" for bases, label in rows))
    command = [helixgrad, "finetune", "--data", data, "--init", init, "--out", run, "--lora", "3", "--epochs", "3", "--batch", "4"]
    subprocess.run([*command, "--learning-rate", "1e-2", "--quiet", *options], check=True, stdout=subprocess.DEVNULL)

    tokens = torch.randint(5, 69, (4, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = base(tokens).logits
        merged = model_class.from_pretrained(run, attn_implementation="eager").eval()(tokens).logits
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(base, run / "adapter").eval()(tokens).logits
    told = [str(warning.message) for warning in told if "key" in str(warning.message)]
    off, moved = (adapted - merged).abs().max().item(), (adapted - before).abs().max().item()
    holds = off < 1e-5 and moved > 1e-2 and not told
    print(f"{'ok  ' if holds else 'FAIL'} {name}: off by {off:.1e}, moved by {moved:.1e} {told or ''}")
    return holds


def main():
    parser = argparse.ArgumentParser(description="Checks adapters against peft.")
    parser.add_argument("--helixgrad", type=Path, default=Path(__file__).parent.parent / "target" / "release" / "helixgrad")
    helixgrad = parser.parse_args().helixgrad.resolve()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        checks = [check(name, helixgrad, Path(folder) / str(number)) for number, name in enumerate(CASES)]
    sys.exit(0 if all(checks) else 1)


if __name__ == "__main__":
    main()
