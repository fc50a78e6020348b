"""Writes the tables of README.md anew from those in figures/ (`make readme`): Table I, and the spread over seeds."""

import csv
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent


def rows(name):
    with open(ROOT / "figures" / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def markdown(names, lines):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [names, ["---"] * len(names), *lines]) + "\n"


def number(text, digits):
    return f"{float(text):.{digits}f}" if text else ""


def table1():
    """The paper's rows for its CPU, and ours but those screened on Test."""
    columns = {"T1": 4, "T2": 4, "accuracy": 4, "leave at exit 1": 3, "leave at exit 2": 3, "leave at exit 3": 3, "ms/sample": 4,
               "gain, end to end": 2, "gain, trunk only": 2}
    shown = [row for row in rows("table1")
             if row["source"] == "paper, CPU" or row["source"].startswith("ours, CPU") and "screened" not in row["threshold"]]
    lines = [[row["source"], row["network"], row["threshold"], *(number(row[name], digits) for name, digits in columns.items())]
             for row in shown]
    return markdown(["source", "network", "threshold", *columns], lines)


def seeds():
    """A line for each baseline, exit and choice of thresholds of the networks with several seeds: means, and half of the 95 % interval."""
    columns = {"accuracy": ("accuracy, %", 100, 2), "accuracy less the matched baseline's": ("less the matched baseline, points", 100, 2),
               "share that leaves early": ("leave early, %", 100, 1), "gain": ("gain", 1, 2)}
    found = {}
    for row in rows("seeds"):
        if int(row["runs"]) > 1 and "screened" not in row["of"]:
            found.setdefault((row["network"], row["of"], row["runs"]), {})[row["on test"]] = row
    lines = []
    for (network, of, runs), quantities in found.items():
        cells = []
        for quantity, (_, unit, digits) in columns.items():
            row = quantities.get(quantity)
            cells.append(f"{float(row['mean']) * unit:.{digits}f} ± {(float(row['95 % to']) - float(row['mean'])) * unit:.{digits}f}"
                         if row else "")
        lines.append([network, of, runs, *cells])
    return markdown(["network", "", "seeds", *(heading for heading, _, _ in columns.values())], lines)


path = ROOT / "README.md"
text = path.read_text()
for name, table in ("table1", table1()), ("seeds", seeds()):
    begin, end = f"<!-- {name}: make readme -->\n", "<!-- end -->\n"
    text, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + "\n" + table + "\n" + end, text, flags=re.S)
    if count != 1:
        raise SystemExit(f"README.md: {count} places for {name}, expected one between {begin.strip()} and {end.strip()}")
path.write_text(text)
