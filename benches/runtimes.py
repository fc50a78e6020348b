"""How the runtimes that can be installed treat an exported early-exit network: `make runtimes` writes docs/runtimes.md and figures/runtimes/.

Each network is exported in the forms of docs/deploy.md. A runtime gets them from the simplest on until it takes one, answers the first
COUNT test images as the program does, label and exit, and skips what stands behind a taken exit. Then all runtimes, and this
library's own plan, are timed in ROUNDS rounds in turn, one image at a time on one thread: at each exit, and the trunk without branches
in the same runtime. Each run is a process of its own with a time limit. RUNTIMES="openvino tract" takes these alone, and writes nothing.
"""

import argparse
import csv
import dataclasses
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from PIL import Image

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import export  # noqa: E402  reads the test images
from machine import cpu  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
HERE = ROOT / "benches" / "runtimes"
WORK = ROOT / "target" / "runtimes"
NETWORKS = {"lenet": "B-LeNet", "alexnet": "B-AlexNet"}
COUNT = int(os.environ.get("COUNT") or 200)
ROUNDS = int(os.environ.get("ROUNDS") or 3)
# Of each exit so many images are timed.
TIMED = 20
FORMS = ["if", "if --plain", "if --fixed", "if --plain --fixed", "stages", "stages --plain", "stages --plain --float"]
# What is timed of runtimes that take nested files.
OTHERS = ["if", "if --plain", "stages", "stages --plain"]
# Of which the trunk alone is taken.
EXITS = ["exits", "exits --plain", "exits --float", "exits --plain --float"]
# PyTorch 2.15.0 does not tell apart in its cache what it compiled for one instruction set and for another, and crashes with the wrong one.
SETTINGS = {"RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0", "BRANCHYNET_DIR": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(WORK / f"inductor-{os.environ.get('SIMD') or 'best'}")}
ENVIRONMENT = SETTINGS | {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "RTEN_NUM_THREADS", "TVM_NUM_THREADS")}


@dataclasses.dataclass
class Runtime:
    name: str
    title: str
    # Where it comes from, pinned: what pip installs, or a feature of benches/runtimes/Cargo.toml, or a package of npm.
    pip: tuple = ()
    crate: str = ""
    npm: str = ""
    # What its packages ask for and it does without is left out.
    alone: bool = False
    # An environment that make has made for something else.
    shared: str = ""
    forms: tuple = tuple(FORMS)
    timed: int = TIMED
    # Seconds for a job, what it converts and compiles included.
    limit: int = 120

    @property
    def version(self):
        if self.name == "ours":
            return ""
        if self.crate:
            return re.search(rf'^{self.crate}\b.*?"=([\d.]+)"', (HERE / "Cargo.toml").read_text(), re.M)[1]
        if self.npm:
            return json.loads((HERE / "package.json").read_text())["dependencies"][self.npm]
        return self.pip[0].partition("==")[2]


NUMPY, ONNX = "numpy==2.4.6", "onnx==1.23.2"
RUNTIMES = [
    Runtime("onnxruntime", "onnxruntime", ("onnxruntime==1.32.0", NUMPY)),
    Runtime("openvino", "OpenVINO", ("openvino==2026.4.1", NUMPY)),
    Runtime("mnn", "MNN", ("MNN==3.6.1", NUMPY)),
    Runtime("tract", "tract", crate="tract-onnx"),
    Runtime("rten", "rten", crate="rten"),
    Runtime("node", "onnxruntime-node", npm="onnxruntime-node"),
    Runtime("web", "onnxruntime-web, in Chromium", npm="onnxruntime-web"),
    Runtime("candle", "candle-onnx", crate="candle-onnx"),
    Runtime("reference", "onnx's reference", (ONNX, NUMPY), timed=2),
    Runtime("ncnn", "ncnn, through pnnx", ("ncnn==1.0.20261020", "pnnx==20261020", NUMPY), alone=True, forms=("if", "exits --float", "exits --plain --float")),
    Runtime("iree", "IREE", ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", ONNX, NUMPY)),
    Runtime("tvm", "TVM", ("apache-tvm==0.27.0.post1", ONNX, NUMPY), forms=("if", "if --plain", "stages")),
    Runtime("litert", "LiteRT, through onnx2tf", ("ai-edge-litert==2.1.0", "onnx2tf==1.29.24"), forms=("if", "stages"), limit=400),
    Runtime("aot", "AOTInductor", ("torch==2.15.0",), shared="peers", forms=("torch.cond", "stages"), limit=400),
    Runtime("executorch", "ExecuTorch, with XNNPACK", ("executorch==1.5.1", "torch==2.14.0", NUMPY), forms=("torch.cond", "stages", "stages --plain"), limit=400),
]


class Failure(Exception):
    """A runtime cannot be installed, or a job failed; in words."""


def process(command, limit, **options):
    """What a process prints; past its time it is ended with all that it started."""
    child = subprocess.Popen([str(word) for word in command], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options)
    try:
        out, err = child.communicate("\n", timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise Failure(f"it took more than {limit} s") from None
    if child.returncode:
        raise Failure(reason(err or out, child.returncode))
    return out


def reason(text, code):
    """The line that says why something ended with this code."""
    if code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else f"it ended with {code} and said nothing"
    line = re.sub(r"(?<![\w.])(/[\w.+-]+)+/([\w.+-]+)", r"\2", line)
    return line if len(line) <= 200 else line[:200] + " …"


def install(runtime):
    """Installs a runtime below target/runtimes, once for each pin; returns the command that takes a job."""
    if runtime.shared:
        python = ROOT / "target" / runtime.shared / "bin" / "python"
        if not python.exists():
            raise Failure(f"target/{runtime.shared} is not there; make target/setup/{runtime.shared}")
        return [python, HERE / "adapters.py", runtime.name]
    if runtime.pip:
        folder, pins = WORK / runtime.name, "\n".join(runtime.pip)
        python, mark = folder / "bin" / "python", folder / "pins"
        if not mark.exists() or mark.read_text() != pins:
            print(f"== {runtime.title} {runtime.version} (target/runtimes/{runtime.name})", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            process([sys.executable, "-m", "venv", folder], 120)
            process([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *["--no-deps"] * runtime.alone, *runtime.pip], 900)
            mark.write_text(pins)
        return [python, HERE / "adapters.py", runtime.name]
    if runtime.npm:
        folder, pins = WORK / "npm", (HERE / "package-lock.json").read_text()
        mark = folder / "pins"
        if not mark.exists() or mark.read_text() != pins:
            print("== packages of npm (target/runtimes/npm)", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            # What onnxruntime-node would run fetches CUDA's part.
            process(["npm", "ci", "--silent", "--ignore-scripts"], 600, cwd=folder)
            mark.write_text(pins)
        return [sys.executable, HERE / "adapters.py", "web"] if runtime.name == "web" else ["node", HERE / "job.mjs"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "rust"), "RUSTFLAGS": ""}
    if runtime.crate == "candle-onnx":
        environment["PROTOC"] = str(protoc())
    command = ["cargo", "build", "--quiet", "--locked", "--release", "--manifest-path", HERE / "Cargo.toml", "--features", runtime.name, "--bin", runtime.name]
    print(f"== {runtime.title} {runtime.version} (target/runtimes/rust; minutes the first time)", flush=True)
    process(command, 1800, env=environment, cwd=HERE)
    return [next(WORK.glob(f"rust/**/release/{runtime.name}"))]


def protoc():
    """The compiler of protocol buffers, which candle-onnx asks for when it is built, from a Python package."""
    folder = WORK / "protoc"
    if not (folder / "protoc").exists():
        process([sys.executable, "-m", "venv", folder], 120)
        process([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "grpcio-tools==1.85.1"], 300)
        (folder / "protoc").write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m grpc_tools.protoc "$@"\n')
        (folder / "protoc").chmod(0o755)
    return folder / "protoc"


class Network:
    """A network's files in all forms, its test images, and what the program answers."""

    def __init__(self, name, program, count=COUNT):
        self.name, self.title, self.folder = name, NETWORKS[name], WORK / "files" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for form in FORMS + EXITS:
            subprocess.run([program, "export", name, "--onnx", self.path(form), "--form", *form.split()], check=True, stdout=subprocess.DEVNULL)
        manifest = json.loads((self.path("stages") / "manifest.json").read_text())
        self.stages = manifest["stages"]
        self.macs = [stage["macs_to_leave_here"] for stage in self.stages]
        self.places = [f"exit {place + 1}" for place in range(len(self.macs))] + ["trunk"]
        self.thresholds = [3e38 if t is None else t for t in manifest["policy"]["thresholds"]]
        for form in EXITS:
            self.trunk(form.removeprefix("exits").replace(" --", "-"))
        pixels = export.images(name, count)
        self.dims, self.count = [1, *pixels.shape[1:]], len(pixels)
        pixels.tofile(self.folder / "images")
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(self.path("exits")).graph.initializer}
        (pixels.astype(np.float32) * weights["image.factors"] + weights["image.offsets"]).tofile(self.folder / "images-float")
        with tempfile.TemporaryDirectory() as folder:
            for i, image in enumerate(pixels):
                Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(f"{folder}/{i:05}.png", compress_level=1)
            told = subprocess.run([program, "classify", name, folder, "--as-is", "--json"], check=True, text=True, stdout=subprocess.PIPE).stdout
        answers = [json.loads(line) for line in told.splitlines()]
        self.expected = [[manifest["classes"].index(answer["label"]), answer["exit"]] for answer in answers]

    def path(self, form):
        path = self.folder / form.replace(" --", "-")
        return path if form.startswith("stages") else path.with_suffix(".onnx")

    def trunk(self, variant):
        """The trunk alone, for one image, from the file of all exits."""
        model = onnx.load(self.path("exits" + variant.replace("-", " --")))
        last, graph = model.graph.output[-1], model.graph
        needed, kept = {last.name}, []
        for node in reversed(graph.node):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        weights = [tensor for tensor in graph.initializer if tensor.name in needed]
        image = graph.input[0]
        for value in (image, last):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        model.graph.CopyFrom(onnx.helper.make_graph(kept[::-1], "trunk", [image], [last], weights))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, self.folder / f"trunk{variant}.onnx")

    def by_exit(self, each):
        """Indices of at most so many images of each exit, the exits in turn."""
        found = [[i for i, (_, exit) in enumerate(self.expected) if exit == place + 1] for place in range(len(self.macs))]
        return [images[i] for i in range(each) for images in found if i < len(images)]

    def right(self, answers):
        """How many answers are the program's, label and exit."""
        return sum(ours == theirs for ours, theirs in zip(self.expected, answers, strict=True))

    def job(self, form, timed, seconds):
        # What PyTorch exports itself is no file of ours, and works as a nested one.
        kind, *flags = form.replace("torch.cond", "if").split()
        floats, path = "--float" in flags, self.path(form)
        if kind == "stages":
            files = [{"file": str(path / stage["file"]), "inputs": [stage["input"]],
                      "outputs": ["label", "uncertainty", *(name for name in stage["outputs"] if name.startswith("trunk"))]} for stage in self.stages]
        elif kind == "exits":
            files = [{"file": str(path), "inputs": ["image"], "outputs": [f"exit{place + 1}" for place in range(len(self.macs))]}]
        else:
            files = [{"file": str(path), "inputs": ["image"] + ["thresholds"] * ("--fixed" not in flags), "outputs": ["label", "exit"]}]
        variant = "".join(flag.replace("--", "-") for flag in flags if flag != "--fixed")
        return {"network": self.name, "form": kind, "fixed": "--fixed" in flags, "plain": "--plain" in flags, "float": floats, "files": files,
                "flat": str(self.folder / f"trunk{variant}.onnx"), "flat_output": f"exit{len(self.macs)}",
                "thresholds": self.thresholds, "dims": self.dims, "count": self.count,
                "images": str(self.folder / ("images-float" if floats else "images")),
                "timed": self.by_exit(timed), "seconds": seconds, "packages": str(WORK / "npm" / "node_modules")}


@dataclasses.dataclass
class Run:
    """What a job gave: how many answers are the program's, and seconds at each exit and of the trunk, the medians of each round."""
    right: int
    rounds: list

    @property
    def times(self):
        return [statistics.median(row) for row in zip(*self.rounds)]


def run(command, network, form, timed, limit, seconds=0.6):
    job = network.job(form, timed, seconds)
    path = WORK / "job.json"
    path.write_text(json.dumps(job))
    lines = process([*command, path, job["packages"]], limit, env={**os.environ, **ENVIRONMENT}, cwd=WORK).strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise Failure("it ended without an answer") from None
    right = network.right(found["answers"])
    exits = [network.expected[i][1] for i in job["timed"]]
    times = [statistics.median(time for time, exit in zip(found["model"], exits * len(found["model"])) if exit == place + 1) / 1e6
             for place in range(len(network.macs))]
    return Run(right, [[*times, statistics.median(found["flat"]) / 1e6]])


def skips(network, run):
    """Whether an image that leaves first takes less than half way from its share of the work to all of it."""
    first, *_, last, _ = run.times
    return first / last < (1 + network.macs[0] / network.macs[-1]) / 2


def attempt(command, runtime, networks):
    """The simplest form that is right and skips, its runs by network, and what the others did."""
    told, second = [], None
    for form in runtime.forms:
        runs = {}
        for network in networks:
            try:
                found = run(command, network, form, runtime.timed, runtime.limit)
            except Failure as failure:
                told.append((form, f"{network.title}: {failure}"))
                break
            runs[network.name] = found
            if found.right < network.count:
                told.append((form, f"{network.title}: {network.count - found.right} of {network.count} answers or exits are others"))
                break
        else:
            if not any(skips(network, runs[network.name]) for network in networks):
                told.append((form, "right, but computes what stands behind a taken exit"))
                second = second or (form, runs)
                continue
            return form, runs, told
    return *(second or ("", {})), told


OURS = Runtime("ours", "this crate's plan")


def compile_ours(bench="runtimes"):
    command = ["cargo", "bench", "--quiet", "--profile", "dev", "--bench", bench]
    process([*command, "--no-run"], 3600, cwd=ROOT)
    found = process([*command, "--no-run", "--message-format=json"], 600, cwd=ROOT)
    programs = [message["executable"] for line in found.splitlines() if (message := json.loads(line)).get("executable") and message["target"]["name"] == bench]
    return [programs[-1]]


def processor():
    """The processor, its cores and its widest instructions."""
    facts, flags = cpu()
    widest = next((name for flag, name in [("amx_tile", "AVX-512 and AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2")] if flag in flags), "neither AVX2 nor AVX-512")
    return f"{facts.get('model name', 'a processor without a name')} (family {facts.get('cpu family')}, model {facts.get('model')}) with {widest}, {os.cpu_count()} cores"


def micro(ms):
    """Milliseconds as microseconds, to three digits."""
    value = 1e3 * ms
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def shown(form):
    """A form as the page shows it."""
    return form and f"`{form}`"


def table(names, rows):
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines) + "\n"


def page(networks, found, rounds):
    """docs/runtimes.md: what was measured, in a text that stays (benches/runtimes/page.md)."""
    ours = found["ours"].runs
    overview, failures, times, forms = [], [], [], []
    for runtime in [OURS, *RUNTIMES]:
        tried = found[runtime.name]
        # A reason that several forms share stands once.
        for why in dict.fromkeys(why for _, why in tried.told):
            failures.append([runtime.title, ", ".join(shown(form) for form, of in tried.told if of == why), why])
        if not tried.runs:
            overview.append([runtime.title, runtime.version, "none", *[""] * (2 + len(networks))])
            continue
        against = [", ".join(f"{time / tried.runs[n.name].times[-1]:.2f}" for time in tried.runs[n.name].times[:-1]) for n in networks]
        right = ", ".join(str(tried.runs[n.name].right) for n in networks)
        overview.append([runtime.title, runtime.version, shown(tried.form), right, "yes" if any(skips(n, tried.runs[n.name]) for n in networks) else "no", *against])
    for n in networks:
        rows = [(runtime.title, found[runtime.name].runs[n.name].times) for runtime in [OURS, *RUNTIMES] if found[runtime.name].runs]
        rows = [[title, *(f"{micro(time)} ({time / own:.1f}x)" for time, own in zip(of, ours[n.name].times))] for title, of in rows]
        times.append(table([n.title, *n.places], rows))
        rows = []
        for runtime in (runtime for runtime in RUNTIMES if found[runtime.name].others):
            by_form = {tried.form: tried.runs[n.name].times for tried in [found[runtime.name], *found[runtime.name].others]}
            rows.append([runtime.title, *(f"{micro(of[0])} to {micro(of[-2])}" if (of := by_form.get(form)) else "" for form in OTHERS)])
        forms.append(table([f"{n.title}: first to last exit", *(f"`{form}`" for form in OTHERS)], rows))
    leave = "; of " + "; of ".join(f"{n.title} {', '.join(f'{sum(exit == place + 1 for _, exit in n.expected)} leave at exit {place + 1}' for place in range(len(n.macs)))}" for n in networks)
    facts = f"{processor()}; {datetime.date.today()}; the first {COUNT} test images{leave}; medians of {rounds} round{'s' * (rounds > 1)} taken in turn; load of the machine in the last quarter of an hour {os.getloadavg()[2]:.1f}, of which 1 is this."
    columns = ["runtime", "version", "simplest form that is right and skips", f"right, of {COUNT}: {', '.join(n.title for n in networks)}", "skips",
               *(f"{n.title}: {', '.join(n.places[:-1])} against the trunk" for n in networks)]
    text = (HERE / "page.md").read_text().format(
        facts=facts, overview=table(columns, overview), times="\n".join(times), forms="\n".join(forms), failures=table(["runtime", "form", "what it did"], failures))
    (ROOT / "docs" / "runtimes.md").write_text(re.sub(r"\n{3,}", "\n\n", text))


def figure(networks, found):
    """Times at each exit by runtime, as plotly's JSON and a table."""
    folder = ROOT / "figures" / "runtimes"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [runtime for runtime in [OURS, *RUNTIMES] if found[runtime.name].runs]
    with open(folder / "times.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["runtime", "version", "form", "network", "right", "of", "place", "ms"])
        for runtime in rows:
            tried = found[runtime.name]
            for tried in [tried, *tried.others]:
                for n in networks:
                    for place, ms in zip(n.places, tried.runs[n.name].times):
                        writer.writerow([runtime.title, runtime.version, tried.form, n.title, tried.runs[n.name].right, n.count, place, f"{ms:.6f}"])
    colours, symbols = ["#0072B2", "#D55E00", "#009E73"], ["circle", "square", "triangle-up"]
    data, titles, layout_axes = [], [], {}
    axis = {"gridcolor": "#e5e5e5", "linecolor": "#444444", "showline": True, "zeroline": False}
    names = [runtime.title.partition(",")[0] for runtime in rows]
    for column, n in enumerate(networks):
        suffix = "" if column == 0 else str(column + 1)
        for place in range(len(n.macs)):
            data.append({"type": "scatter", "mode": "markers", "name": f"leaves at exit {place + 1}", "legendgroup": str(place), "showlegend": len(n.macs) == max(len(m.macs) for m in networks),
                         "x": [found[r.name].runs[n.name].times[place] for r in rows], "y": names, "marker": {"color": colours[place], "symbol": symbols[place], "size": 10},
                         "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        data.append({"type": "scatter", "mode": "markers", "name": "the trunk without branches", "legendgroup": "trunk", "showlegend": column == 0,
                     "x": [found[r.name].runs[n.name].times[-1] for r in rows], "y": names,
                     "marker": {"color": "#000000", "symbol": "diamond-open", "size": 11, "line": {"width": 2}}, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        layout_axes[f"xaxis{suffix}"] = {**axis, "type": "log", "dtick": "D2", "title": {"text": f"{n.title}: ms for an image"}}
        layout_axes[f"yaxis{suffix}"] = {**axis, "categoryorder": "array", "categoryarray": names[::-1], "automargin": True}
    title = "What an image costs that leaves at each exit, by runtime<br><sub>one image at a time, one thread, medians; logarithmic axis</sub>"
    layout = {"title": {"text": title}, "height": 160 + 32 * len(rows), "width": 860, "grid": {"rows": 1, "columns": len(networks), "pattern": "independent", "xgap": 0.4}, "margin": {"t": 80, "l": 60, "r": 20, "b": 60}, "paper_bgcolor": "white", "plot_bgcolor": "white",
              "font": {"size": 13, "color": "#222222"}, "legend": {"orientation": "h", "x": 0, "y": -0.16}, **layout_axes}
    (folder / "times.json").write_text(json.dumps({"config": {}, "data": data, "layout": layout}, separators=(",", ":"), ensure_ascii=False))


@dataclasses.dataclass
class Tried:
    form: str = ""
    runs: dict = dataclasses.field(default_factory=dict)
    # Forms that it was given before, and what it did.
    told: list = dataclasses.field(default_factory=list)
    # The same in other forms, where it takes them.
    others: list = dataclasses.field(default_factory=list)


def others(command, runtime, networks, form):
    """What a runtime that takes nested files does with the other forms; those that it does not take or is not right in are left out."""
    found = []
    for other in (other for other in OTHERS if other != form):
        try:
            runs = {network.name: run(command, network, other, runtime.timed, runtime.limit) for network in networks}
        except Failure:
            continue
        if all(runs[network.name].right == network.count for network in networks):
            found.append(Tried(other, runs))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=pathlib.Path)
    program = parser.parse_args().program.resolve()
    wanted = os.environ.get("RUNTIMES", "").split()
    if unknown := set(wanted) - {runtime.name for runtime in RUNTIMES}:
        sys.exit(f"runtimes.py: RUNTIMES={' '.join(unknown)}: expected some of {' '.join(runtime.name for runtime in RUNTIMES)}")
    chosen = [runtime for runtime in RUNTIMES if not wanted or runtime.name in wanted]
    WORK.mkdir(parents=True, exist_ok=True)
    found, commands = {runtime.name: Tried() for runtime in [OURS, *RUNTIMES]}, {"ours": compile_ours()}
    for runtime in chosen:
        try:
            commands[runtime.name] = install(runtime)
        except Failure as failure:
            found[runtime.name].told.append(("", f"not installed: {failure}"))
    networks = [Network(name, program) for name in NETWORKS]

    # After each round, so that what is interrupted leaves what it has.
    def report(rounds):
        if not wanted:
            figure(networks, found)
            page(networks, found, rounds)

    timed = [OURS, *(runtime for runtime in chosen if runtime.name in commands)]
    for runtime in timed:
        print(f"   {runtime.title}", end="", flush=True)
        tried = found[runtime.name]
        if runtime is OURS:
            tried.runs = {network.name: run(commands["ours"], network, "if", TIMED, 60) for network in networks}
        else:
            tried.form, tried.runs, tried.told = attempt(commands[runtime.name], runtime, networks)
        if tried.form.startswith("if") and runtime.timed == TIMED:
            tried.others = others(commands[runtime.name], runtime, networks, tried.form)
        print(f": {tried.form or ('' if tried.runs else 'none')}", *(f"{n.title} " + " ".join(map(micro, tried.runs[n.name].times)) for n in networks if tried.runs), flush=True)
        for form, why in tried.told:
            print(f"      {form}: {why}", flush=True)
    report(1)
    for turn in range(2, ROUNDS + 1):
        print(f"   round {turn} of {ROUNDS}", flush=True)
        for runtime in timed:
            for tried in [found[runtime.name], *found[runtime.name].others]:
                for network in networks:
                    if network.name not in tried.runs:
                        continue
                    try:
                        again = run(commands[runtime.name], network, tried.form or "if", runtime.timed, runtime.limit)
                        tried.runs[network.name].rounds += again.rounds
                    except Failure as failure:
                        print(f"      {runtime.title}, {network.title}: {failure}", flush=True)
        report(turn)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"runtimes.py: {failure}")
