#!/usr/bin/env python3
"""Asks TensorBoard's own reader for the curves of a run, and compares them with its metrics.jsonl.

    python tools/check_tensorboard.py RUN      # the folder of a `helixgrad pretrain` or `finetune`; needs tensorboard

TensorBoard reads the event files of all sessions in order and forgets what a later session replaced, so a resumed run must have each step
once, as the log has.
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def numbers(line, prefix=""):
    for name, value in line.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and prefix + name != "step":
            yield prefix + name, value


def main():
    run = pathlib.Path(sys.argv[1])
    expected = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for name, value in numbers(line):
            expected.setdefault(name, []).append((line["step"], value))
    reader = EventAccumulator(str(run), size_guidance={"scalars": 0})
    reader.Reload()
    found = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    wrong = [name for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        same = [step for step, _ in expected[name]] == [step for step, _ in found[name]] and all(
            abs(one - other) <= 1e-6 * abs(one) for (_, one), (_, other) in zip(expected[name], found[name])
        )
        if not same:
            wrong.append(name)
    for name in sorted(wrong):
        print(f"{name}: the log has {expected.get(name)}, TensorBoard {found.get(name)}")
    points = sum(len(curve) for curve in found.values())
    print(f"{len(found)} curves, {points} points: {'all as in metrics.jsonl' if not wrong else f'{len(wrong)} differ'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
