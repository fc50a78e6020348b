"""Writes the exact front of a network for the site's figures, from a record and what `branchynet sweep RECORD --json` prints of it:

    branchynet sweep RECORD --json --rows 60 | fronts.py RECORD figures/fronts/NAME.csv

A row for each outcome: thresholds, accuracy and mean MACs on test, share that leaves at each exit, the accuracy of the record's own
matched baseline (the same in all rows), and a letter for each of the first hundred test images: the exit that it takes (a is the
first), as a capital where the answer is wrong.
"""

import csv
import gzip
import json
import math
import pathlib
import struct
import sys


def record(path):
    """Labels of the test images, for every exit (entropy, answer) of each, in the order of the record, and the accuracy of the
    matched baseline of the same run."""
    data = gzip.decompress(path.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    arrays, data = json.loads(data[8:8 + size]), data[8 + size:]
    part = lambda name: data[slice(*arrays[name]["data_offsets"])]
    exits, samples, classes = arrays["test.logits"]["shape"]
    answers = lambda name: [answer(row) for row in struct.iter_unpack(f"<{classes}f", part(f"{name}.logits"))]
    said, labels = answers("test"), part("matched.labels")
    matched = sum(c == label for (_, c), label in zip(answers("matched"), labels)) / len(labels)
    return part("test.labels"), [said[exit * samples:(exit + 1) * samples] for exit in range(exits)], matched


def answer(logits):
    """The entropy of the softmax in nats, and the class."""
    most = max(logits)
    powers = [math.exp(x - most) for x in logits]
    total = sum(powers)
    return math.log(total) - sum(p * (x - most) for p, x in zip(powers, logits)) / total, logits.index(most)


def main():
    source, target = map(pathlib.Path, sys.argv[1:])
    sweep, (labels, said, matched) = json.load(sys.stdin), record(source)
    exits = len(said)
    table = [[f"T{i + 1}" for i in range(exits - 1)] + ["accuracy", "MACs"] + [f"exit {i + 1}" for i in range(exits)] + ["matched baseline", "first hundred"]]
    for point in sweep["points"]:
        thresholds, test = [float(t) for t in point["thresholds"]] + [math.inf], point["test"]
        took = [next(e for e in range(exits) if e == exits - 1 or said[e][i][0] < thresholds[e]) for i in range(len(labels))]
        right = [said[e][i][1] == labels[i] for i, e in enumerate(took)]
        # The program decided; this only repeats it, and must agree.
        if sum(right) != round(test["accuracy"] * len(right)) or took.count(0) != round(test["shares"][0] * len(took)):
            sys.exit(f"{source}: at {thresholds[:-1]} other images leave here than in the program; the record or its reading has changed")
        letters = "".join("abcdefgh"[e] if ok else "ABCDEFGH"[e] for e, ok in zip(took[:100], right))
        table.append(point["thresholds"] + [test["accuracy"], round(test["cost"])] + test["shares"] + [matched, letters])
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    print(f"{target}: {len(table) - 1} outcomes of {sweep['of']}")


if __name__ == "__main__":
    main()
