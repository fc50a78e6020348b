"""Writes the tables of README.md, docs/results.md and benches/README.md anew from those in figures/ and benches/ (`make readme`)."""

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
    """With so many digits; None: as it is, for thresholds, at which one digit less lets others leave."""
    return f"{float(text):.{digits}f}" if text and digits is not None else text


def table1():
    """The paper's rows for its CPU, and of ours the baselines and two choices on Validation."""
    columns = {"T1": None, "T2": None, "accuracy": 4, "leave at exit 1": 3, "leave at exit 2": 3, "leave at exit 3": 3, "ms/sample": 4,
               "gain, end to end": 2, "gain, trunk only": 2}
    shown = [row for row in rows("table1")
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


def answered(cells, answer, notebook, figure):
    """One row: these cells, the answer, notebook and figure. None where the notebook has not been run."""
    try:
        return [[*cells, answer(), f"[{notebook}](../notebooks/{notebook}.ipynb)", f"[figure](../figures/{figure}.png)"]]
    except FileNotFoundError:
        print(f"docs/results.md: no row for {cells[0]}, whose notebook has not been run")
        return []


# What both the front page and the results tell of.


def without_loss(network):
    """By quantity: means over seeds at thresholds without loss on Validation."""
    return {row["on test"]: row for row in rows("seeds") if row["network"] == network and row["of"] == "no loss, chosen on validation"}


def figure4():
    """B-AlexNet's row, and in %: accuracy where none leaves early, the best, the share that leaves there, accuracy where all do."""
    alexnet = next(row for row in rows("thresholds/figure4") if row["network"] == "B-AlexNet")
    return alexnet, *(float(alexnet[name]) * 100 for name in list(alexnet)[2:])


def figure5():
    """The rows of the last exit, by the branch's convolutions."""
    return [row for row in rows("branch_structure/figure5") if row["of"] == "last exit"]


def figure6():
    """Cache misses of leaving at exit 1 over those of the baseline, by level."""
    misses = rows("cache/misses")
    return [float(misses[0][name]) / float(misses[-1][name]) for name in list(misses[0])[1:]]


def guaranteed():
    """By network: its row with at most 1 % of the answers changed."""
    return {row["network"]: row for row in rows("worth/standings") if row["choice"].startswith("1 %")}


def broken():
    """In %, the divisions in which thresholds lost more than they were to, by how they were chosen."""
    return [f"{float(row['divisions that lose more']) * 100:.1f}" for row in rows("criteria/coverage")]


def front_page():
    """Eight rows: what the paper says, what came out with half of the 95 % interval, seeds, notebook."""
    lines = []

    def row(paper, here, seeds, notebook):
        lines.append([paper, here, str(seeds), f"[{notebook.split('_')[0]}](notebooks/{notebook}.ipynb)"])

    def with_intervals(network):
        found = without_loss(network)

        def cell(name, unit, digits):
            mean, to = float(found[name]["mean"]) * unit, found[name]["95 % to"]
            return f"{mean:.{digits}f}" + (f" ± {float(to) * unit - mean:.{digits}f}" if to else "")
        return f"{cell('accuracy', 100, 2)} %, {cell('gain', 1, 2)}x", found["gain"]["runs"]

    row("B-LeNet 99.25 %, 5.4x", *with_intervals("B-LeNet"), "1_lenet_mnist")
    row("B-AlexNet 79.19 %, 1.5x", *with_intervals("B-AlexNet"), "2_alexnet_cifar10")
    row("B-ResNet-110 79.17 %, 1.9x", *with_intervals("B-ResNet-110"), "3_resnet110_cifar10")
    alexnet, none, best, share, _ = figure4()
    row("Figure 4: B-AlexNet from 79.15 to 79.5 % as 45 % leave early", f"from {none:.2f} to {best:.2f} % as {share:.0f} % leave early", alexnet["runs"],
        "4_thresholds")
    means = [float(row["mean"]) * 100 for row in figure5()]
    row("Figure 5: the last exit has 76.6 to 78.0 % by the branch's convolutions", f"{min(means):.1f} to {max(means):.1f} %", figure5()[0]["runs"],
        "5_branch_structure")
    row("Figure 6: cache misses fall to 0.23", "to {:.2f} in the first level of cache, to {:.2f} in the last".format(*figure6()), 1, "7_cache")
    ours = guaranteed()["B-Airbench"]
    row("*not asked*: is it worth it?", f"1 % of the answers changed: {float(ours['accuracy']) * 100:.2f} % at {float(ours['gain']):.2f}x the trunk's speed",
        ours["seeds"], "9_is_it_worth_it")
    row("*not asked*: may thresholds promise?", f"5 % may break the promise: {broken()[0]} % do; without a guarantee {broken()[2]} %", 1,
        "10_criteria_and_guarantees")
    return markdown(["the paper", "here", "seeds", "notebook"], lines)


def experiments():
    """A row for each experiment of the paper whose notebook has been run: what the paper says, and what came out."""
    lines = []

    def row(experiment, says, came_out, notebook, figure):
        lines.extend(answered([experiment, says], came_out, notebook, figure))

    def many(row):
        return "one run" if int(row["runs"]) == 1 else f"{int(row['runs'])} seeds"

    def in_words(network):
        found = without_loss(network)
        mean, gain = float(found["accuracy"]["mean"]) * 100, float(found["gain"]["mean"])
        return f"{mean:.2f} %, {gain:.2f}x without loss, {many(found['gain'])}"

    def thresholds():
        alexnet, none, best, share, every = figure4()
        return f"from {none:.2f} to {best:.2f} % at {share:.0f} %; {every:.2f} % when all do, {many(alexnet)}"

    def branches():
        found = figure5()
        by_convolutions = ", ".join(f"{float(row['mean']) * 100:.1f}" for row in found)
        none, two = (row for row in rows("branch_structure/figure5_longer") if row["of"] == "last exit")
        longer = f"{float(none['mean']) * 100:.1f} and {float(two['mean']) * 100:.1f} % with {none['variant']} and {two['variant']}"
        return (f"{by_convolutions} % with {found[0]['variant']} to {found[-1]['variant']}, {many(found[0])}, 5 + 5 epochs; "
                f"{longer}, {many(none)}, 20 + 20 epochs")

    def misses():
        return "misses per sample fall to {:.2f} of the baseline's in the first level of cache, to {:.2f} in the second or last".format(*figure6())

    def speedup():
        gains = [float(rows(f"speedup/{name}")[0]["time, end to end"]) for name in ("lenet", "alexnet", "resnet110")]
        return "at its mix of exits, end to end: " + ", ".join(f"{gain:.2f}x" for gain in gains)

    def training():
        def found(table, variant, of="last exit"):
            return next(row for row in rows(f"training/{table}") if (row["variant"], row["of"]) == (variant, of))

        def points(row):
            return f"{float(row['difference']) * 100:+.2f} ± {float(row['difference, 95 % ±']) * 100:.2f}"

        def of(network):
            weights, gap = found(f"weights_{network}", "1 : 0.3"), found(f"gaps_{network}", "last exit", "Train less Test")
            better, random = found(f"matched_{network}", "last exit", "accuracy on test"), found(f"ways_{network}", "from random weights")
            return (f"{weights['runs']} seeds: {points(weights)} points by 1 : 0.3 against equal weights, {points(random)} by random weights against the "
                    f"baseline's, {points(better)} against the matched baseline, whose Train less Test differs by {points(gap)}")
        return f"B-LeNet's last exit, {of('lenet')}; B-AlexNet's, {of('alexnet')}"

    row("Table I, Figure 3a", "B-LeNet 99.25 %, 5.4x on a CPU", lambda: in_words("B-LeNet"), "1_lenet_mnist", "lenet_mnist/accuracy_time")
    row("Table I, Figure 3b", "B-AlexNet 79.19 %, 1.5x", lambda: in_words("B-AlexNet"), "2_alexnet_cifar10", "alexnet_cifar10/accuracy_time")
    row("Table I, Figure 3c", "B-ResNet-110 79.17 %, 1.9x", lambda: in_words("B-ResNet-110"), "3_resnet110_cifar10",
        "resnet110_cifar10/accuracy_time")
    row("Figure 4", "B-AlexNet's accuracy rises from 79.15 to 79.5 % while 45 % leave at branch 1; 74.9 % when all do", thresholds,
        "4_thresholds", "thresholds/figure4_alexnet")
    row("Figure 5", "B-AlexNet's last exit has 76.6, 77.8, 78.0, 77.9, 77.4 % with 0 to 4 convolutions in its only branch", branches,
        "5_branch_structure", "branch_structure/figure5")
    row("Section V-A", "unequal exit weights help by a point, the baseline's weights by several; joint training regularises", training,
        "6_training", "training/ways_lenet")
    row("Figure 6", "the rate of cache misses falls to 0.23 of the baseline's", misses, "7_cache", "cache/figure6")
    row("the gains of Table I", "5.4x, 1.5x, 1.9x on a CPU", speedup, "8_where_the_speedup_comes_from", "speedup/lenet")
    return markdown(["experiment", "the paper", "here", "notebook", ""], lines)


def beyond():
    """A row for each question beyond the paper whose notebook has been run."""
    lines = []

    def row(question, answer, notebook, figure):
        lines.extend(answered([question], answer, notebook, figure))

    def criteria():
        early = {row["way"]: f"{float(row['leave early']) * 100:.0f} %" for row in rows("criteria/ways")}
        return ("at most 1 % of B-AlexNet's answers changed, leave early: " + ", ".join(f"{early[way]} by {name}" for way, name in
                [("entropy", "entropy"), ("margin", "the margin"), ("learned gate", "a learned gate"),
                 ("entropy of all exits so far", "all exits together")]))

    def guarantees():
        return f"yes: broken in {broken()[0]} % of 1,000 divisions of the images, where 5 % are allowed; without a guarantee in {broken()[2]} %"

    def shifted():
        most = [max(float(row["answers that differ"]) for row in rows(f"shift/{name}")) * 100 for name in ("alexnet", "lenet")]
        lenet = rows("shift/lenet")
        dearest = max(float(row["mean cost"]) for row in lenet) / float(lenet[0]["mean cost"])
        return (f"1 % promised, at most {most[0]:.1f} % of B-AlexNet's answers change, and {most[1]:.0f} % of B-LeNet's; "
                f"B-LeNet's mean cost grows up to {dearest:.1f} times")

    def worth():
        found = guaranteed()
        ours = found["B-Airbench"]
        cascade = max((row for name, row in found.items() if ", then " in name), key=lambda row: float(row["gain"]))
        static = f"{float(ours['static at this accuracy']):.2f}x that of a static network as accurate" if ours["static at this accuracy"] else (
            "no static network that is cheaper is as accurate")
        return (f"at most 1 % of the answers changed, guaranteed: B-Airbench has {float(ours['accuracy']) * 100:.2f} % at {float(ours['gain']):.2f}x the speed "
                f"of its trunk alone, {static}; {cascade['network']}: {float(cascade['accuracy']) * 100:.2f} % at {float(cascade['gain']):.2f}x")

    def places():
        found = {(row["variant"], row["of"]): row for row in rows("branch_structure/savings")}

        def place(name):
            accuracy, gain = (float(found[f"{name}:2x32", of]["mean"]) for of in ("the branch", "gain"))
            return f"{accuracy * 100:.1f} % and {gain:.2f}x"
        return (f"accuracy there and gain in MACs without loss of B-AlexNet's branches, trained alone, {found['conv1:2x32', 'gain']['runs']} seeds: "
                f"{place('conv1')} behind the first convolution, {place('conv2')} behind the second (the paper's place), {place('conv5')} behind the fifth")

    row("Is early exit worth it?", worth, "9_is_it_worth_it", "worth/plane")
    row("Where should a branch leave?", places, "5_branch_structure", "branch_structure/plane_macs")
    row("How to tell who may leave?", criteria, "10_criteria_and_guarantees", "criteria/ways")
    row("Are thresholds with a guarantee worth their name?", guarantees, "10_criteria_and_guarantees", "criteria/coverage")
    row("And on noisy, blurred, bright images?", shifted, "11_when_the_world_shifts", "shift/lenet_promise")
    return markdown(["question", "answer", "notebook", ""], lines)


def speed():
    """The table of `make bench`, without the notes below it."""
    return "\n\n".join((ROOT / "benches" / "speed.md").read_text().split("\n\n")[:2]) + "\n"


WRITTEN = {
    "README.md": {"front page": front_page},
    "docs/results.md": {"experiments": experiments, "beyond": beyond, "table1": table1, "seeds": seeds},
    "benches/README.md": {"speed": speed},
}
for file, tables in WRITTEN.items():
    path = ROOT / file
    text = path.read_text()
    for name, table in tables.items():
        begin, end = f"<!-- {name}: make readme -->\n", "<!-- end -->\n"
        written = begin + "\n" + table() + "\n" + end
        text, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: written, text, flags=re.S)
        if count != 1:
            raise SystemExit(f"{file}: {count} places for {name}, expected one between {begin.strip()} and {end.strip()}")
    path.write_text(text)
