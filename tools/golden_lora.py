#!/usr/bin/env python3
"""Writes the golden fixtures of low-rank adapters: what peft computes for the tiny classifiers of golden.py and golden_families.py, in
float64.

    python tools/golden_lora.py [--out tests/fixtures]

Run by hand, where the fixtures have to change; the tests only read the files. Needs peft besides what golden.py needs; the committed ones
were made on a CPU with Python 3.11, torch 2.15.0, transformers 5.24.0 and peft 0.21.2.

Each case is golden_lora_CASE.safetensors with a golden_lora_CASE.json. CASE is a golden fixture that has the batch and the model's weights;
here are, under the names that peft has in adapter_model.safetensors:

    peft.NAME   f32  A and B of each adapter, both random, and the head, which is trained in full
    grad.NAME   f32  their gradients of the mean loss, without dropout
    logits      f32  of the model with its adapters

and in the .json the loss, and adapter_config.json as peft writes it. What peft's own merge_and_unload makes of the model has to have the
same logits, or nothing is written.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy
import peft
import torch
import transformers
from safetensors.numpy import save_file
from torch.nn import functional

import golden
import golden_families

DENSE = ["attention.output.dense", "intermediate.dense", "output.dense"]
QKV = [f"attention.self.{part}" for part in ("query", "key", "value")]
GATED = ["attention.output.dense", "intermediate.gated_layers", "output.dense"]
# Rank, alpha, what has adapters, what is saved whole.
CASES = {
    "classifier": (4, 6.0, [QKV[0], QKV[2]], ["bert.pooler.dense", "classifier"]),
    "nt_v1_classifier": (2, 32.0, QKV + DENSE, ["classifier"]),
    "nt_v2_token": (3, 3.0, QKV + DENSE, ["classifier"]),
    "dnabert2_classifier": (2, 4.0, [QKV[0], QKV[2]] + GATED, ["bert.pooler.dense", "classifier"]),
    "bigbird_classifier": (3, 5.0, [QKV[1]] + DENSE, ["classifier"]),
}


def prepare(name):
    """The model without adapters, and a function that gives a model's labelled logits; the labels."""
    if name == "classifier":
        case = next(case for case in golden.CASES if case.name == name)
        config = transformers.BertConfig(**case.config, num_labels=golden.CLASSES, attn_implementation="eager")
        model = golden.fill(case.model_class(config).double(), case.seed)
        inputs, targets = golden.pad(*golden.draw_batch(case))
        return model, lambda model: model(**inputs).logits, targets[:, 0]
    case = next(case for case in golden_families.CASES if case.title() == name)
    model, config = golden_families.prepare(case)
    batch = golden_families.batch_of(case)
    return model, lambda model: golden_families.forward(case, config, model, batch)[1], batch.targets


def compute(name):
    rank, alpha, targets, saved = CASES[name]
    model, logits_of, labels = prepare(name)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets, modules_to_save=saved, lora_dropout=0.1,
        task_type="TOKEN_CLS" if name.endswith("token") else "SEQ_CLS",
    )
    model = peft.get_peft_model(model, config).double().eval()
    draw = numpy.random.default_rng(2000 + len(name))
    for parameter_name, parameter in model.named_parameters():
        if ".lora_" in parameter_name:
            value = draw.standard_normal(tuple(parameter.shape)) / parameter.shape[1] ** 0.5
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(value.astype(numpy.float32).astype(numpy.float64)))
    logits = logits_of(model)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    # Gradients under the names that peft gives the weights that it saves.
    weights = peft.get_peft_model_state_dict(model)
    by_place = {parameter.data_ptr(): parameter for parameter in model.parameters()}
    gradients = {key: by_place[tensor.data_ptr()].grad for key, tensor in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        written = json.loads((Path(folder) / "adapter_config.json").read_text())
    written["target_modules"].sort()
    tensors = {"logits": logits.detach()}
    tensors |= {f"peft.{key}": tensor.detach().clone() for key, tensor in weights.items()}
    tensors |= {f"grad.{key}": tensor.clone() for key, tensor in gradients.items()}
    merged = logits_of(model.merge_and_unload())
    assert (merged - logits).abs().max() < 1e-9, f"{name}: merging changes the logits"
    facts = {
        "case": name,
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
        "loss": loss.item(),
        "adapter_config": written,
    }
    return {key: tensor.numpy().astype(numpy.float32) for key, tensor in tensors.items()}, facts


def main():
    parser = argparse.ArgumentParser(description="Writes the golden fixtures of low-rank adapters.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures")
    folder = parser.parse_args().out
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in CASES:
        tensors, facts = compute(name)
        path = folder / f"golden_lora_{name}.safetensors"
        save_file(tensors, path)
        path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes, loss {facts['loss']:.6f}")


if __name__ == "__main__":
    main()
