"""Writes into the pages what runs say: tables, and the named quantities in prose (values.py, docs/values.toml), and docs/claims.md.

    readme.py            write them (`make readme`, after the runs, and `make values`)
    readme.py --check    change nothing; fail where a page says something else, or where a number that looks like a result has no name
"""

import argparse
import csv
import json
import re
import sys

import nbformat

import claims
from values import MARKED, ROOT, Quantities

# Pages that a person writes. Model cards are written by `branchynet export`, tables in figures/ by notebooks.
# docs/runtimes.md is written whole by `make runtimes`.
PAGES = ["*.md", "docs/*.md", "docs/*/*.md", "benches/README.md", "datasets/README.md", "datasets/reference/README.md", "notebooks/*.ipynb",
         "notebooks/*.md", "notebooks/paper/*.md", "src/**/*.md", "examples/*.md", "findings/*.md"]


def rows(path):
    with open(ROOT / path, newline="") as file:
        return list(csv.DictReader(file))


def markdown(names, lines):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [names, ["---"] * len(names), *lines]) + "\n"


def number(text, digits):
    """With so many digits; None: as it is, for thresholds, at which one digit less lets others leave."""
    return f"{float(text):.{digits}f}" if text and digits is not None else text


def table1():
    """The paper's rows for its CPU, and of ours the baselines and two choices on Validation."""
    columns = {"T1": None, "T2": None, "accuracy": 4, "leave at exit 1": 3, "leave at exit 2": 3, "leave at exit 3": 3, "ms/sample": 4,
               "gain, end to end": 2, "gain, trunk only": 2}
    shown = [row for row in rows("figures/table1.csv")
             if row["source"] == "paper, CPU"
             or row["source"].startswith("ours, CPU") and row["threshold"].startswith(("baseline", "matched", "no loss", "knee, chosen"))]
    lines = [[row["source"], row["network"], row["threshold"], *(number(row[name], digits) for name, digits in columns.items())]
             for row in shown]
    return markdown(["source", "network", "threshold", *columns], lines)


def seeds():
    """A line for each baseline, exit and choice of thresholds of the networks with several seeds: means, and half of the 95 % interval."""
    columns = {"accuracy": ("accuracy, %", 100, 2), "accuracy less the matched baseline's": ("less the matched baseline, points", 100, 2),
               "share that leaves early": ("leave early, %", 100, 1), "gain": ("gain", 1, 2)}
    found = {}
    for row in rows("figures/seeds.csv"):
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


def speed():
    """The tables of `make bench`, without those of every contender."""
    return (ROOT / "benches" / "speed.md").read_text().partition("\n## ")[0]


def processor():
    """What the runs measured their times on."""
    machines = {}
    for notebook, run in json.loads((ROOT / "figures" / "machine.json").read_text()).items():
        machines.setdefault(f"{run['processor']} with {run['simd']}", []).append(int(notebook.partition("_")[0]))
    shares = (f"{machine} (notebooks {min(numbers)} to {max(numbers)})" for machine, numbers in machines.items())
    return "Processor of the times, one core each: " + "; ".join(shares) + ".\n"


def file(path):
    """A committed table as it is."""
    lines = rows(path)
    return markdown(list(lines[0]), [list(row.values()) for row in lines])


TABLES = {"table1": table1, "seeds": seeds, "speed": speed, "processor": processor}
TABLE = re.compile(r"(<!-- (?P<name>[\w./-]+): make readme -->\n).*?(<!-- end -->\n)", re.S)


def filled(text, quantities):
    """The text with its tables and quantities as runs give them."""
    text = TABLE.sub(lambda found: f"{found[1]}\n{TABLES.get(found['name'], lambda: file(found['name']))()}\n{found[3]}", text)
    return MARKED.sub(lambda found: f"{quantities[found['name']].text}<!--{found['name']}-->", text)


# What looks like a result: a number with an interval, a decimal point or a unit, and some that are words.
UNIT = (r"(?: ?(?:%|x\b)| (?:(?:times|ns|µs|ms|s|seconds?|minutes?|hours?|days?|points?|percent|[kMG]B|GB/s|GFLOP/s|images/s|images a second|million)\b))")
NUMBER = r"(?<![\w.])[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?"
WORD = r"\b(?:half|quarter|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirty|several)"
RESULT = re.compile(rf"{NUMBER} ± [\d.]+|(?<![\w.-])[-+]?\d[\d,]*\.\d+(?![\w.])|{NUMBER}(?:(?:,| and| or| to) (?:[-+]?[\d.]+|#))*{UNIT}|{WORD}{UNIT}|"
                    r"\b(?:an?|one|two|three|four|five|six|seven) (?:third|fourth|quarter|fifth|sixth|eighth|tenth)s? of|"
                    rf"{WORD} of (?:ten|a hundred)")


def unnamed(text, settings):
    """Numbers in prose that look like results and have no name: not in code, in a written table or in the address of a link, and no setting."""
    text = TABLE.sub("", re.sub(r"```.*?```", "", text, flags=re.S))
    text = MARKED.sub("#", re.sub(r"\]\([^)\s]*\)", "]", re.sub(r"`[^`\n]*`", "code", text)))
    for setting in settings:
        text = text.replace(setting, "#")
    for found in RESULT.finditer(text):
        yield " ".join(text[max(0, found.start() - 40):found.end() + 20].split()), found[0]


class Page:
    """A Markdown file, or a notebook, of which Markdown cells are read and written."""

    def __init__(self, path):
        self.path, self.name = path, path.relative_to(ROOT).as_posix()
        self.source = path.read_text()
        self.notebook = json.loads(self.source) if path.suffix == ".ipynb" else None
        self.cells = [cell for cell in self.notebook["cells"] if cell["cell_type"] == "markdown"] if self.notebook else []
        self.texts = ["".join(cell["source"]) for cell in self.cells] if self.notebook else [self.source]

    def write(self, texts):
        if self.notebook:
            for cell, text in zip(self.cells, texts):
                cell["source"] = text
            # As Jupyter saves it, so that saving it there changes nothing.
            nbformat.write(nbformat.from_dict(self.notebook), self.path)
        else:
            self.path.write_text(texts[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a number is not what its source says, or has none")
    check = parser.parse_args().check
    quantities = Quantities()
    pages = [Page(path) for path in sorted({path for pattern in PAGES for path in ROOT.glob(pattern)}) if path not in (claims.PAGE, ROOT / "docs" / "runtimes.md")]
    wrong = []
    for page in pages:
        for text in page.texts:
            known = {found["name"] for found in MARKED.finditer(text) if found["name"] in quantities}
            wrong += [f"{page.name}: {name} is no quantity of docs/values.toml, or no number stands before it"
                      for name in re.findall(r"<!--([a-z][\w.-]*)-->", text) if name not in known]
    if wrong:
        sys.exit("\n".join(wrong))
    used = claims.places(pages)
    wrong += [f"docs/values.toml: no page has {name}" for name in quantities if name not in used]
    for page in pages:
        texts = [filled(text, quantities) for text in page.texts]
        settings = quantities.settings.get("everywhere", []) + quantities.settings.get(page.name, [])
        wrong += [f"{page.name}: “… {around} …”: {found} looks like a result: name it in docs/values.toml, or list it there under settings"
                  for text in texts for around, found in unnamed(text, settings)]
        wrong += [f"docs/values.toml: {page.name} does not say “{setting}”" for setting in quantities.settings.get(page.name, [])
                  if not any(setting in text for text in texts)]
        if check:
            wrong += [f"{page.name}: {mark['name']} is {mark['text']}, and {quantity.text} by {', '.join(quantity.files)}: make values"
                      for text in page.texts for mark in MARKED.finditer(text) if mark["text"] != (quantity := quantities[mark["name"]]).text]
            wrong += [f"{page.name}: the table {old['name']} is not what its source says: make values" for text, after in zip(page.texts, texts)
                      for old, new in zip(TABLE.finditer(text), TABLE.finditer(after)) if old[0] != new[0]]
        elif texts != page.texts:
            page.write(texts)
            print(f"{page.name}: written")
        page.texts = texts
    text = claims.page(quantities, pages)
    if not check:
        claims.PAGE.write_text(text)
    elif not claims.PAGE.exists() or claims.PAGE.read_text() != text:
        wrong.append("docs/claims.md is not what the pages claim: make values")
    print("\n".join(wrong) or f"{len(quantities)} quantities in prose are what their sources say, and no number is without one")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
