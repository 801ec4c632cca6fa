#!/usr/bin/env python3
"""Sets what was measured side by side: our rows, what a PyTorch user would take instead, and the ratio of their times.

    python tools/bench_table.py OURS.jsonl PEERS.jsonl [--train OURS.json PEER.json]...

OURS.jsonl is what `cargo bench -- --json OURS.jsonl` appends, PEERS.jsonl the output of `tools/torch_baseline.py ops`; `--train` takes
the outputs of `helixgrad bench train --json` and `tools/torch_baseline.py PRESET --json`. A ratio over 1 means that ours is faster.
"""

import argparse
import json
import sys


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def latest(rows):
    """The last row of each name: a bench may have run several times."""
    return {row["row"]: row for row in rows}


def microseconds(seconds):
    return f"{seconds * 1e6:,.1f}"


def operation_rows(ours, peers):
    for peer in peers:
        row = ours.get(peer["row"])
        if "seconds" not in peer:
            yield [peer["row"], microseconds(row["seconds"]) if row else "", peer["peer"], f"missing: {peer['missing'][:60]}", ""]
        elif row:
            ratio = f"{peer['seconds'] / row['seconds']:.2f}"
            yield [peer["row"], microseconds(row["seconds"]), peer["peer"], microseconds(peer["seconds"]), ratio]
        else:
            yield [peer["row"], "", peer["peer"], microseconds(peer["seconds"]), ""]


def train_row(ours, peer):
    name = f"train/{ours['preset']}, {ours['task']}, {ours['mix']}"
    for what in ("preset", "task", "mix", "length", "batch"):
        if ours[what] != peer[what]:
            sys.exit(f"bench_table.py: {name}: {what} is {ours[what]} here and {peer[what]} there: not the same work")
    how = f"transformers, {peer['dtype']}{', compiled' if peer['compiled'] else ''}"
    rates = ours["tokens_per_second"], peer["tokens_per_second"]
    return [name, f"{rates[0]:,.0f} tokens/s", how, f"{rates[1]:,.0f} tokens/s", f"{rates[0] / rates[1]:.2f}"]


def main():
    parser = argparse.ArgumentParser(description="One table of our rows, their peers, and the ratios.")
    parser.add_argument("ours")
    parser.add_argument("peers")
    parser.add_argument("--train", nargs=2, action="append", default=[], metavar=("OURS", "PEER"))
    arguments = parser.parse_args()
    rows = list(operation_rows(latest(read_lines(arguments.ours)), read_lines(arguments.peers)))
    for ours, peer in arguments.train:
        with open(ours, encoding="utf-8") as one, open(peer, encoding="utf-8") as other:
            rows.append(train_row(json.load(one), json.load(other)))
    header = ["row", "ours, µs", "instead", "µs", "ratio"]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(5)]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [text.rjust(width) if column in (1, 3, 4) else text.ljust(width) for column, (text, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
