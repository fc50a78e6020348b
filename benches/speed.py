"""Compares this crate's speed and memory with all that a user would pick instead, on this machine: `make bench` writes benches/speed.md and speed.csv.

Inference is that of the trunk without branches, from prepared pixels to logits: a single image on one thread and on all, and batches on all.
Training is a step on the joint loss of all exits with Adam. Each contender is a process of its own, and in each round all measure a cell in turn;
before, a rival's logits are compared with PyTorch's. Early exits are timed over the first test images in their order, whose answers are compared.

From the environment: ROUNDS (3), and SIMD=avx2 for these instructions alone (speed-avx2.md). NETWORKS="lenet stack" and RIVALS="onnxruntime eager"
take these alone and then, as with fewer rounds, nothing is written.
"""

import argparse
import csv
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import runtimes
from machine import cpu
from networks import IMAGES, TITLES, TRAINING
from runtimes import ROOT, SETTINGS, Failure, process, reason, table

WORK = runtimes.WORK / "speed"
ROUNDS = int(os.environ.get("ROUNDS") or 3)
SIMD = os.environ.get("SIMD", "")
THREADS, BATCH = os.cpu_count(), 64
# What is measured, of inference a batch and threads.
CELLS = list(dict.fromkeys(["1 1", f"1 {THREADS}", f"{BATCH} {THREADS}"]))
EXITS, MEMORY = "early exits, 1 thread", "memory: "
# Test images that early exits are timed over.
STREAM = 500
# Seconds for what still has to be compiled, and for what is ready.
PREPARING, MEASURING = 900, 120
BEGUN = time.monotonic()
# This crate, PyTorch, PyTorch's and OpenVINO's oneDNN, and tract; the others have no such setting.
AVX2 = {"BRANCHYNET_SIMD": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "TRACT_CPU_ISA": "-avx512f"}
# What a process and all that it maps took at most; that of the process that asks counts, which is therefore a small one.
PEAK = ("import resource, subprocess, sys; print(subprocess.run(sys.argv[2:], input=sys.argv[1], text=True, check=True, stdout=subprocess.PIPE).stdout); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")


OF = {runtime.name: runtime for runtime in runtimes.RUNTIMES}
installed = functools.cache(lambda name: runtimes.install(OF[name]))


@dataclasses.dataclass(eq=False)
class Rival:
    """`name` is a function of adapters.py, or a program; without a `runtime` that is installed for it, it is this crate."""
    name: str
    title: str
    runtime: runtimes.Runtime | None = None
    trains: bool = False
    less: bool = False  # than f32: shown, and never the best rival
    single: bool = False  # takes batches image by image, from a file for one
    form: str = ""  # of early exits, one of docs/deploy.md's

    @property
    def version(self):
        return self.runtime.version if self.runtime else re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]

    def command(self):
        """Installs it, and says how it is called."""
        command = installed(self.runtime.name) if self.runtime else runtimes.compile_ours(self.name)
        return [*command[:-1], self.name] if len(command) > 1 else command

    def cells(self, network):
        return (CELLS[-1:] if self.name == "throughput" else CELLS) + ["training"] * (self.trains and network in TRAINING)


OURS = Rival("speed", "this crate", trains=True)
RIVALS = [
    ORT := Rival("onnxruntime", "ONNX Runtime", OF["onnxruntime"]),
    Rival("openvino", "OpenVINO", OF["openvino"]),
    # Its hint for many images instead of that for a short wait.
    Rival("throughput", "OpenVINO, THROUGHPUT", OF["openvino"], single=True),
    Rival("mnn", "MNN", OF["mnn"]),
    Rival("ncnn", "ncnn", OF["ncnn"], single=True),
    Rival("tract", "tract", OF["tract"]),
    Rival("rten", "rten", OF["rten"]),
    EAGER := Rival("eager", "PyTorch, eager", OF["aot"], trains=True),
    Rival("channels_last", "PyTorch, channels last", OF["aot"], trains=True),
    Rival("compile", "PyTorch, torch.compile", OF["aot"], trains=True),
    Rival("bf16", "PyTorch, bf16 autocast", OF["aot"], trains=True, less=True),
]
OUR_EXITS = Rival("runtimes", "this crate", form="if")
EARLY = [
    *(Rival("onnxruntime", f"ONNX Runtime, `{form}`", OF["onnxruntime"], form=form) for form in ("if", "if --plain", "stages")),
    Rival("openvino", "OpenVINO, `if`", OF["openvino"], form="if"),
    Rival("mnn", "MNN, `stages`", OF["mnn"], form="stages"),
    Rival("ncnn", "ncnn, `exits`", OF["ncnn"], form="exits --float"),
    Rival("rten", "rten, `if --plain`", OF["rten"], form="if --plain"),
    Rival("aot", "AOTInductor, torch.cond", OF["aot"], form="torch.cond"),
    Rival("aot", "AOTInductor, `stages`", OF["aot"], form="stages"),
    Rival("item", "torch.compile, if on .item()", OF["aot"], form="torch.cond"),
]


class Worker:
    """A contender's process: it prepares a cell when it is first asked for it, and measures it each time."""

    def __init__(self, command, settings=SETTINGS):
        self.command, self.settings, self.process = [str(word) for word in command], settings, None

    def ask(self, cell, limit):
        """What it measured; fails with its reason, or with the last line of a process that ended."""
        if self.process is None:
            self.errors = tempfile.TemporaryFile("w+")
            self.process = subprocess.Popen(self.command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=os.environ | self.settings)
        late, start = threading.Timer(limit, self.process.kill), time.monotonic()
        late.start()
        try:
            self.process.stdin.write(cell + "\n")
            self.process.stdin.flush()
            # Some runtimes print more than they are asked for.
            line = next((line for line in self.process.stdout if line.startswith('{"')), None)
        except BrokenPipeError:
            line = None
        finally:
            late.cancel()
        if line is None:
            code, self.process = self.process.wait(), None
            self.errors.seek(0)
            raise Failure(f"it took more than {limit} s" if time.monotonic() - start > limit else reason(self.errors.read(), code))
        reply = json.loads(line)
        if "error" in reply:
            raise Failure(reason(reply["error"].strip().partition("\n")[0], 1))
        return reply

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def job(name, rival, forms=("operator", "plain")):
    """A rival's command line for a network: a file that says what its cells are. The trunk, with random weights, is as PyTorch exports it; that is done
    once for each version of benches/peers.py."""
    folder, cells = WORK / name, {}
    mark, source = folder / "peers", (ROOT / "benches" / "peers.py").read_text() + OF["aot"].version
    if not mark.exists() or mark.read_text() != source:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        process([installed("aot")[0], ROOT / "benches" / "peers.py", name, folder, "1", BATCH], PREPARING)
        mark.write_text(source)
    tolerance = json.loads((folder / "spread.json").read_text()) * (0.2 if rival.less else 1e-3)
    for cell in CELLS:
        batch, threads = map(int, cell.split())
        files = [folder / f"{form}-{1 if rival.single else batch}.onnx" for form in forms]
        cells[cell] = {"files": [str(path) for path in files if path.exists()], "dims": [batch, *IMAGES[name]], "threads": threads,
                       "images": str(folder / f"{batch}.images"), "logits": str(folder / f"{batch}.logits"), "tolerance": tolerance}
    path = folder / f"{rival.name}.json"
    path.write_text(json.dumps({"network": name, "cells": cells, "threads": THREADS, "dims": [1, *IMAGES[name]], "thresholds": [], "float": True}))
    return path


def unit(cell):
    return "MB" if cell.startswith(MEMORY) else "ms" if cell == EXITS or cell.startswith("1 ") else "images/s"


def shown(name, cell):
    """A cell in words."""
    if cell == "training":
        return f"training, batch {TRAINING[name][0]}"
    batch, *threads = cell.split()
    return f"batch {batch}, {threads[0]} thread{'s' * (threads != ['1'])}" if batch.isdigit() else cell


class Results:
    """What was measured, by network and cell, by contender, by round; and in words what was not."""

    def __init__(self):
        self.found, self.reasons = {}, {}

    def measure(self, name, cell, rival, turn, work):
        """Keeps what `work` gives, not that of turn 0, which prepares. A contender that failed before is not asked again."""
        if (name, cell, rival) in self.reasons:
            return
        try:
            value = work()
        except Failure as failure:
            if not rival.runtime:
                raise
            self.reasons[name, cell, rival] = str(failure)
            self.found.get((name, cell), {}).pop(rival, None)
            print(f"      {rival.title}, {TITLES[name]}, {shown(name, cell)}: {failure}", flush=True)
        else:
            if turn:
                self.found.setdefault((name, cell), {}).setdefault(rival, {})[turn] = value

    def median(self, name, cell, rival):
        rounds = self.found.get((name, cell), {}).get(rival)
        return rounds and statistics.median(rounds.values())

    def ours(self, name, cell):
        return next(contender for contender in self.found[name, cell] if not contender.runtime)

    def against(self, name, cell, rival):
        """How many times faster, or smaller, ours is: by the medians, and in the round where it is least and most."""
        ours, theirs = (self.found[name, cell][contender] for contender in (self.ours(name, cell), rival))
        rounds = [(statistics.median(ours.values()), statistics.median(theirs.values())), *((ours[turn], theirs[turn]) for turn in ours if turn in theirs)]
        medians, *ratios = (one / other if unit(cell) == "images/s" else other / one for one, other in rounds)
        return medians, min(ratios), max(ratios)

    def best(self, name, cell):
        """The rival that ours is least ahead of."""
        rivals = [rival for rival in self.found[name, cell] if rival.runtime and not rival.less]
        return min(rivals, key=lambda rival: self.against(name, cell, rival)[0], default=None)


def say(what, turn):
    minutes = (time.monotonic() - BEGUN) / 60
    print(f"   {what}: {f'round {turn} of {ROUNDS}' if turn else 'all are ready'} after {minutes:.1f} minutes", flush=True)


def alone(name, commands, results):
    """Inference without branches, and training."""
    workers = {rival: Worker([*command, job(name, rival) if rival.runtime else name]) for rival, command in commands.items() if not rival.form}
    for turn in range(ROUNDS + 1):
        for cell in [*CELLS, "training"]:
            def measured(worker):
                value = worker.ask(cell, MEASURING if turn else PREPARING)["value"]
                return 1e3 * BATCH / value if cell == CELLS[-1] else value
            for rival, worker in workers.items():
                if cell in rival.cells(name):
                    results.measure(name, cell, rival, turn, lambda: measured(worker))
        say(name, turn)
    facts = {fact: workers[OURS].ask(fact, MEASURING)["value"] for fact in ("macs", "peak", "front 2", "front 3")}
    for worker in workers.values():
        worker.close()
    return facts


def early_exits(name, commands, results, program):
    """A stream of images, each as far as it has to go."""
    network, workers = runtimes.Network(name, program, STREAM), {}
    for rival in (rival for rival in commands if rival.form):
        path = network.folder / f"{rival.name}-{rival.form}.json"
        path.write_text(json.dumps(network.job(rival.form, 0, 0.35) | {"timed": list(range(STREAM)), "flat": ""}))
        workers[rival] = Worker([*commands[rival], path], runtimes.ENVIRONMENT)

    def mean_ms(worker, turn):
        found = worker.ask("", MEASURING if turn else PREPARING)
        if wrong := STREAM - network.right(found["answers"]):
            raise Failure(f"{wrong} of {STREAM} answers or exits are others")
        times = found["model"]
        return statistics.median(sum(times[i:i + STREAM]) for i in range(0, len(times), STREAM)) / STREAM / 1e6

    for turn in range(ROUNDS + 1):
        for rival, worker in workers.items():
            results.measure(name, EXITS, rival, turn, lambda: mean_ms(worker, turn))
        say(f"{name}, early exits", turn)
    for worker in workers.values():
        worker.close()
    return [sum(exit == place + 1 for _, exit in network.expected) for place in range(len(network.macs))]


def memory(name, commands, results, program):
    """The most memory of processes that do one thing. Nothing sweeps but this crate: it is compared with inference."""
    def peak(*command, cell=""):
        told, _, kilobytes = process([sys.executable, "-c", PEAK, cell, *command], PREPARING, env=os.environ | SETTINGS).strip().rpartition("\n")
        if '{"error"' in told:
            raise Failure(reason(told, 1))
        return int(kilobytes) * 1.024e-3

    for rival, cell, told in [(OURS, "training", "training"), (OURS, "1 1", "batch 1"), (EAGER, "training", "training"), (ORT, "1 1", "batch 1"), (ORT, "1 1", "sweep")]:
        if rival in commands:
            last = job(name, rival, ("operator",)) if rival.runtime else name
            results.measure(name, MEMORY + told, rival, 1, lambda: peak(*commands[rival], last, cell=cell))
    results.measure(name, MEMORY + "sweep", OURS, 1, lambda: peak(program, "sweep", ROOT / "datasets" / "reference" / f"{name}-0.safetensors.gz"))


def digits(value):
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def times(ratio, low, high):
    return f"{ratio:.2f}x" + f" ({low:.2f} to {high:.2f})" * (ROUNDS > 1 and low != high)


def report(names, commands, results, facts, leave):
    """The page: the best rival of each cell, memory, then every contender's times, what is missing and why."""
    base = {name: TITLES[name].removeprefix("B-") for name in names}
    best, every, missing = [], ["## Every contender"], {}
    for name, cell in results.found:
        if rival := results.best(name, cell):
            medians = [digits(results.median(name, cell, contender)) for contender in (results.ours(name, cell), rival)]
            title = f"{base[name] if cell in CELLS else TITLES[name]}, {shown(name, cell)}, {unit(cell)}"
            best.append([title, medians[0], rival.title, medians[1], times(*results.against(name, cell, rival))])
    for name in names:
        cells = [cell for cell in [*CELLS, "training"] if (name, cell) in results.found]
        rows = [[rival.title, *(digits(results.median(name, cell, rival)) for cell in cells)] for rival in commands if not rival.form]
        every.append(table([base[name], *(f"{shown(name, cell)}, {unit(cell)}" for cell in cells)], rows))
    if leave:
        rows = [[rival.title, *(digits(results.median(name, EXITS, rival)) for name in leave)] for rival in commands if rival.form]
        shares = "; ".join(f"of {TITLES[name]} {', '.join(map(str, counts))} leave at exits 1 to {len(counts)}" for name, counts in leave.items())
        every += [f"Early exits: from bytes to the answer, the mean over the first {STREAM} test images one by one; {shares}.",
                  table(["", *(f"{TITLES[name]}, {shown(name, EXITS)}, {unit(EXITS)}" for name in leave)], rows)]
    for (name, cell, rival), why in results.reasons.items():
        missing.setdefault((rival.title, why), []).append(f"{TITLES[name]}, {shown(name, cell)}")
    if missing:
        every += ["What is missing:", table(["", "of", "why"], [[title, "; ".join(cells), why] for (title, why), cells in missing.items()])]
    for name, fact in facts.items():
        reached = 2e-6 * fact["macs"] / results.median(name, "1 1", OURS)
        every.append(f"{base[name]}, batch 1, 1 thread: {reached:.0f} GFLOP/s by the definition of its layers, {100 * reached / fact['peak']:.0f} % of the "
                     f"{fact['peak']:.0f} measured as the peak of one thread; tiles with fewer multiplications count as the definition does.")
    fact = facts[names[0]]
    every.append(f"An exit record of 10,000 samples: the exact Pareto front of two exits in {fact['front 2']:.1f} ms, of three in {fact['front 3']:.0f} ms.")
    versions = dict.fromkeys(f"{'PyTorch' if rival.runtime.shared else rival.runtime.title.partition(',')[0]} {rival.version}" for rival in commands if rival.runtime)
    limited = " This crate, PyTorch, OpenVINO and tract are limited to AVX2; the others have no setting for that, and take what the processor has." * bool(SIMD)
    return "\n\n".join(text.strip() for text in [
        f"{runtimes.processor()}; {', '.join(versions)}; {datetime.date.today()}; medians of {ROUNDS} round{'s' * (ROUNDS > 1)} taken in turn, and their ratio; in "
        f"brackets the smallest and the largest ratio of the rounds.{limited}",
        table(["", "this crate", "best rival", "its", "ours against it"], best), *every]) + "\n"


def write(text, results):
    page = ROOT / "benches" / f"speed{SIMD and '-'}{SIMD}.md"
    page.write_text(text)
    rows = [[TITLES[name], shown(name, cell), rival.title, rival.version, *(f"{of(rounds.values()):.6g}" for of in (statistics.median, min, max)), unit(cell)]
            for (name, cell), contenders in results.found.items() for rival, rounds in contenders.items()]
    with open(page.with_suffix(".csv"), "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["network", "cell", "rival", "version", "median", "low", "high", "unit"], *rows])


def chosen(setting, known):
    """The names that a setting lists, or all."""
    names = os.environ.get(setting, "").split() or known
    if unknown := set(names) - set(known):
        sys.exit(f"speed.py: {setting}={' '.join(sorted(unknown))}: expected some of {' '.join(dict.fromkeys(known))}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=pathlib.Path)
    program = parser.parse_args().program.resolve()
    if SIMD not in ("", "avx2"):
        sys.exit(f"speed.py: SIMD={SIMD}: expected avx2, or nothing for the best there is")
    os.environ.update(AVX2 if SIMD else {})
    # Of ARM and of x86.
    bf16 = not SIMD and {"bf16", "avx512_bf16", "amx_bf16"} & set(cpu()[1])
    known = [rival for rival in [*RIVALS, *EARLY] if bf16 or not rival.less]
    names, wanted = chosen("NETWORKS", list(TITLES)), chosen("RIVALS", [rival.name for rival in known])
    commands, results, facts, leave = {}, Results(), {}, {}
    for rival in [OURS, OUR_EXITS, *(rival for rival in known if rival.name in wanted)]:
        try:
            commands[rival] = rival.command()
        except Failure as failure:
            if not rival.runtime:
                raise
            print(f"   {rival.title} is not installed: {failure}", flush=True)
            results.reasons |= {(name, "every cell", rival): f"not installed: {failure}" for name in names}
    for name in names:
        facts[name] = alone(name, commands, results)
        if name in runtimes.NETWORKS:
            leave[name] = early_exits(name, commands, results, program)
        if name in TRAINING:
            memory(name, commands, results, program)
    text = report(names, commands, results, facts, leave)
    if ROUNDS >= 3 and names == list(TITLES) and len(wanted) == len(known):
        write(text, results)
    print(text)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"speed.py: {failure}")
