#!/usr/bin/env python3
"""Tables of what `tools/gpu_check.sh` measured: ours, what was predicted, the least that the machine allows, and PyTorch's.

    python tools/bench_table.py step FILE           training steps: `helixgrad bench train --json` (ours) or `tools/torch_baseline.py --json`
    python tools/bench_table.py same FILE...        whether steps of ours, computed in several ways, have the same loss and gradient norm
    python tools/bench_table.py table FOLDER        all of it, one row a step, kernel and bench; also written to table.md and table.json

FOLDER holds what it finds of plan.json (`helixgrad plan --json`), step*.json and torch*.json (as above), ours.jsonl (`cargo bench -- --json`)
and peers*.jsonl (`tools/torch_baseline.py ops`). Times are milliseconds, of a kernel those of a whole step. The prediction is the largest of the bounds
that the plan states, of a step their sum; the floor is by the ceilings that the same run measured. A ratio over 1 means that ours is faster.
"""

import argparse
import json
import pathlib
import re
import sys

COLUMNS = ["kernel", "calls", "prediction", "measured", "of prediction", "floor", "PyTorch", "ratio"]
SAME_WORK = ("preset", "task", "mix", "length", "batch")
# bf16 keeps 8 bits: what tests/devices/ allows steps against the CPU's.
TOLERANCE = 0.02


def read(path):
    """The object in a file, or none: of a command that was cut short there may be nothing, or half of it."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_lines(path):
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def aligned(rows, left=1):
    """Markdown that is a table in a terminal as well; all but the first columns stand to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    for row in [rows[0], rule, *rows[1:]]:
        cells = [text.ljust(width) if column < left else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths))]
        yield f"| {' | '.join(cells)} |"


def step(path):
    report = read(path)
    if report is None:
        sys.exit(f"bench_table.py: no report in {path}")
    if "torch" in report:
        how = ", compiled" if report["compiled"] else ""
        print(f"PyTorch {report['torch']}, {report['dtype']}{how}: {report['step_seconds_median'] * 1e3:.1f} ms a step, "
              f"{report['tokens_per_second']:,.0f} tokens/s")
        return
    print(f"{report['seconds_per_step'] * 1e3:.1f} ms a step, {report['tokens_per_second']:,.0f} tokens/s, MFU {report['mfu']:.1%} of "
          f"{report['peak']['flops_per_second'] / 1e12:.0f} TFLOP/s; loss {report['loss']:.6f}, gradient norm {report['gradient_norm']:.6f}; "
          f"attention: {report['attention']}")
    ceilings = report["ceilings"]
    print(f"ceilings: {ceilings['memory']} at {ceilings['bytes_per_second'] / 1e12:.2f} TB/s, a product of {ceilings['product_size']}^3 at "
          f"{ceilings['flops_per_second'] / 1e12:.0f} TFLOP/s{' by cuBLASLt' if ceilings['by_cublaslt'] else ''}")
    if pathlib.Path(path).name != "step.json":
        return
    rows = [["op", "pass", "calls", "ms a step", "share %", "GB/s", "TFLOP/s", "roofline %", "limit"]]
    for op in report["ops"]:
        rows.append([op["op"], op["pass"] or "", f"{op['calls_per_step']:.0f}", f"{op['milliseconds_per_step']:.2f}", f"{op['share'] * 100:.1f}",
                     f"{op['gigabytes_per_second']:.0f}", f"{op['tflops']:.1f}", f"{op['roofline'] * 100:.0f}", op["limit"] or ""])
    print("\n".join(aligned(rows, left=2)))


def same(paths):
    reports = {pathlib.Path(path).stem: report for path in paths if (report := read(path))}
    if len(reports) < 2:
        print("skipped: fewer than two ways have run")
        return
    worst = 0.0
    for what in ("loss", "gradient_norm"):
        values = {name: report[what] for name, report in reports.items()}
        print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
        if any(value is None for value in values.values()):
            sys.exit(f"error: {what} is no number")
        worst = max(worst, (max(values.values()) - min(values.values())) / max(abs(value) for value in values.values()))
    print(f"farthest apart: {worst:.1e}")
    if worst > TOLERANCE:
        sys.exit(f"error: farther apart than {TOLERANCE}")


def bound(kernel):
    """Milliseconds that a plan gives a kernel: the largest of its bounds."""
    return max((value for key, value in kernel.items() if key.endswith("milliseconds") and value is not None), default=None)


def step_rows(folder, plan, reports):
    torch = [report for path in sorted(folder.glob("torch*.json")) if (report := read(path)) and "torch" in report]
    predicted = None
    if plan:
        predicted = sum(bound(kernel) or 0 for kernel in plan["kernels"])
    for name, report in reports.items():
        beside = [peer for peer in torch if all(peer[key] == report[key] for key in SAME_WORK)]
        best = min(beside, key=lambda peer: peer["step_seconds_median"], default=None)
        planned = report["mix"] == "full" and report["task"] == "pretrain" and plan and report["tokens_per_step"] == plan["tokens_per_step"]
        yield {
            "kernel": f"{name}, {report['preset']}, {report['mix']}" + (f" beside PyTorch {'compiled' if best['compiled'] else 'eager'}" if best else ""),
            "prediction": predicted if planned else None,
            "measured": report["seconds_per_step"] * 1e3,
            "floor": sum(row["roofline"] * row["milliseconds_per_step"] for row in report["kernels"] if row["roofline"] is not None),
            "PyTorch": best["step_seconds_median"] * 1e3 if best else None,
        }


def kernel_rows(plan, reports):
    """The kernels of the default step, then those that only another way has."""
    planned = {kernel["kernel"]: kernel for kernel in plan["kernels"]} if plan else {}
    seen = set()
    for name, report in reports.items():
        if report["mix"] != "full" or report["task"] != "pretrain":
            continue
        totals = {}
        for row in report["kernels"]:
            total = totals.setdefault(row["name"], {"calls": 0.0, "measured": 0.0, "floor": 0.0})
            total["calls"] += row["calls_per_step"]
            total["measured"] += row["milliseconds_per_step"]
            total["floor"] += (row["roofline"] or 0.0) * row["milliseconds_per_step"]
        for kernel, total in sorted(totals.items(), key=lambda item: -item[1]["measured"]):
            if kernel in seen:
                continue
            seen.add(kernel)
            label = kernel if name == "step" else f"{kernel} ({name})"
            # Of another way the plan knows nothing: where its kernels have a name of the default's, they take on other calls.
            prediction = bound(planned[kernel]) if name == "step" and kernel in planned else None
            yield {**total, "kernel": label, "prediction": prediction, "floor": total["floor"] or None}


def bench_rows(folder):
    peers = {}
    for path in sorted(folder.glob("peers*.jsonl")):
        for peer in read_lines(path):
            if "seconds" in peer and peer["seconds"] < peers.get(peer["row"], {"seconds": float("inf")})["seconds"]:
                peers[peer["row"]] = peer
    # The last row of each name: a bench may have run several times.
    for name, row in {row["row"]: row for row in read_lines(folder / "ours.jsonl")}.items():
        if "/" not in name:
            continue
        floor = max(row["bytes"] / row["memory_bytes_per_second"], row["flops"] / row["product_flops_per_second"])
        peer = peers.pop(name, None)
        label = f"{name} beside {peer['peer']}" if peer else name
        yield {"kernel": label, "measured": row["seconds"] * 1e3, "floor": floor * 1e3 or None, "PyTorch": peer["seconds"] * 1e3 if peer else None}
    for name, peer in peers.items():
        yield {"kernel": f"{name} ({peer['peer']})", "PyTorch": peer["seconds"] * 1e3}


def cells(row):
    def number(key, digits=3):
        value = row.get(key)
        return "" if value is None else f"{value:,.{digits}f}"

    return [row["kernel"], number("calls", 0), *(number(key) for key in ("prediction", "measured")), number("of prediction", 2),
            *(number(key) for key in ("floor", "PyTorch")), number("ratio", 2)]


def table(folder):
    folder = pathlib.Path(folder)
    plan = read(folder / "plan.json")
    reports = {path.stem: report for path in sorted(folder.glob("step*.json"), key=lambda path: path.stem) if (report := read(path))}
    rows = [*step_rows(folder, plan, reports), *kernel_rows(plan, reports), *bench_rows(folder)]
    for row in rows:
        if row.get("measured"):
            row["of prediction"] = row["measured"] / row["prediction"] if row.get("prediction") else None
            row["ratio"] = row["PyTorch"] / row["measured"] if row.get("PyTorch") else None
    if not rows:
        print("nothing was measured: no table")
        return
    chip = plan["chip"]["name"] if plan else None
    device = next((report["device"] for report in reports.values()), "")
    note = f"ms, of a kernel those of a step; prediction: {f'the plan for {chip}' if chip else 'none'}; measured on {device or 'the device of ours.jsonl'}"
    (folder / "table.md").write_text("\n".join([note, "", *aligned([COLUMNS, *map(cells, rows)])]) + "\n", encoding="utf-8")
    (folder / "table.json").write_text(json.dumps({"predicted_for": chip, "device": device, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    # Other ways of the same bench are in the file.
    shown = [row for row in rows if "/" not in row["kernel"] or re.search(r"/(forward|backward|update)($| beside| \()", row["kernel"])]
    print("\n".join([note, *aligned([COLUMNS, *map(cells, shown)])]))
    if len(shown) < len(rows):
        print(f"{len(rows) - len(shown)} more rows in table.md: other ways to compute the same")


def main():
    parser = argparse.ArgumentParser(description="Tables of what tools/gpu_check.sh measured.")
    parser.add_argument("what", choices=["step", "same", "table"])
    parser.add_argument("paths", nargs="+", metavar="PATH")
    arguments = parser.parse_args()
    if arguments.what == "same":
        same(arguments.paths)
    elif len(arguments.paths) > 1:
        parser.error("name one file or folder")
    else:
        {"step": step, "table": table}[arguments.what](arguments.paths[0])


if __name__ == "__main__":
    main()
