"""docs/claims.md: what the pages claim, what makes it, and how far another machine may differ; and the check of it (`make claims`), which compares the
committed values with those of the program and of the notebooks that ran with FIGURES=claims.

    claims.py              fail where a value differs
    claims.py --trained    the same where networks were trained again
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from values import MARKED, ROOT, Quantities

PAGE = ROOT / "docs" / "claims.md"
RECORDS = "datasets/reference/records.md"
HEAD = """# Claims

Written by `make values`. Each number that a page states, in the words of the first page that does, in bold; the file that it comes from; what makes this file; how
far the number may differ where it is made again; and on which processor it was seen last. *Notebook 4* stands for
`target/venv/bin/python notebooks/run.py notebooks/4_*.ipynb`, after `make setup datasets`; `make figures` runs them all.

`make claims` makes again what follows from the committed records, and times, in a quarter of an hour on two cores, and compares. `make claims FULL=1`
trains first, which takes days on a CPU.

- *Exact* follows from the committed records alone, and is the same on every machine.
- A percentage is a share of the value, for times and ratios of times.
- *Chance*: it hangs on a training, or on which thresholds measured times made the cheapest, and may differ by {intervals:g} of its 95 % intervals, or by {alone:g} points where a single run has none. With `FULL=1`
  all but times may.
- The paper's numbers, and what was measured once ([measured.csv](measured.csv)), are compared with nothing.

Last seen on
"""


def clause(text, mark):
    """The clause that a number stands in, or the row of a table, without links and other marks; the number is bold."""
    text = text[:mark.start()] + f"**{mark['text']}**" + text[mark.end():] + "\n"
    line = text[text.rfind("\n", 0, mark.start()) + 1:text.find("\n", mark.start())]
    if line.startswith("|"):
        words = "; ".join(cell for cell in line.strip("| ").split(" | ") if not cell.startswith("["))
    else:
        begin = max(text.rfind(end, 0, mark.start()) + len(end) for end in ("\n", ". ", "; ", ": "))
        end = min(at for end in ("\n", ". ", "; ", ": ") if (at := text.find(end, mark.start() + len(mark["text"]) + 4)) >= 0)
        words = text[begin:end].removeprefix("- ")
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"<!--.*?-->", "", words))


def places(pages):
    """By quantity: the pages that state it, and the clause that does so first."""
    found = {}
    for page in pages:
        for text in page.texts:
            for mark in MARKED.finditer(text):
                found.setdefault(mark["name"], ([], clause(text, mark)))[0].append(page.name)
    return {name: (list(dict.fromkeys(where)), words) for name, (where, words) in found.items()}


def makers(quantities, quantity):
    """What makes the files of a quantity: notebooks by name, and commands."""
    return list(dict.fromkeys(maker for path in quantity.files for maker in next(
        made for beginning, made in quantities.made_by.items() if path.startswith(beginning)).split(", ")))


def may_differ(quantities, quantity):
    if quantity.kind == "time":
        return f"{quantities.tolerance['time']:.0%}".replace("%", " %")
    return {"paper": "", "once": ""}.get(quantity.kind, quantity.kind)


def page(quantities, pages):
    machines = json.loads((ROOT / "figures" / "machine.json").read_text())
    seen = {name: f"{run['processor']} with {run['simd']}, {run['date']}" for name, run in machines.items()}
    letters = {where: chr(97 + index) for index, where in enumerate(dict.fromkeys(seen.values()))}
    lines = [HEAD.format(intervals=quantities.tolerance["intervals"], alone=quantities.tolerance["alone"] * 100),
             *(f"- ({letter}): {where}" for where, letter in letters.items())]
    group = None
    for name, (where, words) in sorted(places(pages).items(), key=lambda item: list(quantities).index(item[0])):
        if (new := name.split(".")[0]) != group:
            group = new
            lines.append(f"\n## {group}\n\n| name | claim | stated in | file | made by | may differ by | last seen |\n|{' --- |' * 7}")
        quantity = quantities[name]
        made_by = makers(quantities, quantity)
        lines.append("| " + " | ".join([
            name.split(".")[1], words, ", ".join(f"[{pathlib.Path(path).stem}](../{path})" for path in where),
            ", ".join(f"[{pathlib.Path(path).name}](../{path})" for path in quantity.files),
            ", ".join(f"notebook {maker.split('_')[0]}" if maker in seen else maker for maker in made_by), may_differ(quantities, quantity),
            " ".join(sorted({f"({letters[seen[maker]]})" for maker in made_by if maker in seen}))]) + " |")
    return "\n".join(lines) + "\n"


def records():
    """What `branchynet records` says of the committed records, and of no others."""
    program = next(ROOT.glob("target/*/target/*/debug/branchynet"), None) or sys.exit("the program is not compiled: make setup")
    libraries = subprocess.run(["rustc", "--print", "target-libdir"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "datasets").mkdir()
        (pathlib.Path(folder) / "datasets" / "reference").symlink_to(ROOT / "datasets" / "reference")
        return subprocess.run([program, "records"], capture_output=True, text=True, check=True,
                              env={**os.environ, "BRANCHYNET_DIR": folder, "LD_LIBRARY_PATH": libraries}).stdout


def remade(quantity, again):
    """Whether all files of runs that a quantity comes from were made again."""
    return bool(quantity) and all(path in again for path in quantity.files if not path.startswith("notebooks/paper/"))


def agree(tolerance, old, new, trained):
    """Whether a value that was made again is the committed one, as far as its kind lets it be."""
    if old.kind == "exact" and not trained:
        return new.text == old.text
    if old.kind == "time" or "%" not in old.form:
        return abs(new.value - old.value) <= tolerance["time"] * abs(old.value)
    half = getattr(old.value, "half", None)
    return abs(new.value - old.value) <= (tolerance["intervals"] * half if half else tolerance["alone"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", action="store_true", help="networks were trained again: allow for chance")
    trained = parser.parse_args().trained
    below = ROOT / "figures" / "claims"
    with tempfile.NamedTemporaryFile("w", suffix=".md") as file:
        file.write(records())
        file.flush()
        again = {RECORDS: pathlib.Path(file.name)}
        again |= {f"figures/{path.relative_to(below)}": path for path in below.glob("**/*.csv")}
        committed, found = Quantities(), Quantities(lambda path: again.get(path, ROOT / path), lenient=True)
        for name, source in committed.again.items():
            if not remade(found.get(name), again):
                found[name] = found.evaluated(committed[name].form, source, "chance")
    counts, slow = {"passed": 0, "FAILED": 0, "not made again": 0}, []
    print("| claim | committed | again | may differ by | |\n| --- | --- | --- | --- | --- |")
    for name, old in committed.items():
        if old.kind in ("paper", "once"):
            continue
        made = remade(new := found.get(name), again)
        verdict = "not made again" if not made else "passed" if agree(committed.tolerance, old, new, trained) else "FAILED"
        counts[verdict] += 1
        slow += [name] if (verdict, old.kind) == ("FAILED", "time") else []
        print(f"| {name} | {old.text} | {new.text if made else ''} | {may_differ(committed, old)} | {verdict} |")
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if slow:
        print(f"Of those, times: {', '.join(slow)}. On a machine that does other work at the same time they say little.")
    sys.exit(bool(counts["FAILED"]))


if __name__ == "__main__":
    main()
