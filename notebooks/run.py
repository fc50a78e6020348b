"""Runs notebooks headless and fails loudly.

A Rust cell that panics, or whose `?` fails, still reports success to Jupyter, and what it printed to standard
error may arrive late or never. So each cell is made to print a mark at its very end, and has failed when the
mark does not arrive, when it ended in an error, or when it calls report.show and showed no figure. The run
then stops, names the cell and its error, and exits with 1. Executed copies go to figures/, sources stay clean, and figures/machine.json says
which processor it was.

    run.py NOTEBOOK...   run these notebooks
    run.py --warm        compile the library for notebooks, so that the first one starts fast
    run.py --images      draw PNGs of all figures that have none or an older one
    run.py --tables      put the tables of Table I's notebooks together: figures/table1.md and .csv, seeds.md and .csv
    run.py --time        measure how long a kernel takes to start, and a small cell to run

Settings come from the environment, as in EPOCHS=3; each notebook's settings cell lists them.
"""

import argparse
import base64
import contextlib
import csv
import json
import math
import os
import pathlib
import platform
import queue
import re
import shutil
import statistics
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.client import CellExecutionComplete
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.util import run_sync

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
# Where each notebook ran, beside its figures.
MACHINE = "machine.json"
PLOTLY = "application/vnd.plotly.v1+json"
KERNEL = "branchynet"


class Failure(Exception):
    """A notebook did not do what it should."""


# Printed after a cell's own code. It must not occur in anybody's output.
MARK = "\N{END OF PROOF} this cell ran to its end"
# Seconds to wait for the mark after the kernel said that it was done.
PATIENCE = 10
DEFINITIONS = ("fn ", "pub ", "struct ", "enum ", "impl", "trait ", "mod ", "macro_rules!", "#[", ":")


class Client(NotebookClient):
    """Shows what cells print while they run, and knows whether they ran to their end."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            if MARK in msg["content"]["text"]:
                self.completed = True
                msg["content"]["text"] = msg["content"]["text"].replace(MARK + "\n", "")
            if not msg["content"]["text"]:
                return None
            sys.stdout.write(msg["content"]["text"])
            sys.stdout.flush()
        return super().process_message(msg, cell, cell_index)

    def run_cell(self, cell, index):
        """Executes a cell; returns what went wrong, or an empty string."""
        source = cell.source
        lines = [line.split("//")[0].strip() for line in source.splitlines()]
        ends = next((line for line in reversed(lines) if line), "")
        marked = ends.endswith(";") and not source.lstrip().startswith(":")
        self.completed = False
        if marked:
            cell.source = f'{source}\nprintln!("{MARK}");'
        self.execute_cell(cell, index)
        cell.source = source
        if not marked:
            # A definition cannot fail while it runs; an expression has failed when it shows no value.
            shown = any(output.output_type in ("execute_result", "display_data") for output in cell.outputs)
            begins = next((line for line in lines if line), "")
            self.completed = shown or not ends or begins.startswith(DEFINITIONS)
        deadline = time.time() + PATIENCE
        while not self.completed and not text_of(cell.outputs) and time.time() < deadline:
            try:
                self.process_message(run_sync(self.kc.get_iopub_msg)(timeout=0.5), cell, index)
            except (queue.Empty, CellExecutionComplete):
                pass
        if self.completed and not any(output.output_type == "error" for output in cell.outputs):
            return ""
        return text_of(cell.outputs) or "the cell did not run to its end, and gave no reason"


def text_of(outputs):
    """The errors among a cell's outputs, as text."""
    texts = []
    for output in outputs:
        if output.output_type == "error":
            texts.append("\n".join(dict.fromkeys(output.traceback)) or f"{output.ename}: {output.evalue}")
        elif output.output_type == "stream" and output.name == "stderr":
            texts.append(output.text)
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(texts)).strip()


def client_of(notebook):
    """A busy machine may take minutes to start a kernel."""
    return Client(notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(ROOT / "notebooks")}},
                  allow_errors=True, timeout=None, startup_timeout=600)


def run(path):
    started = time.time()
    notebook = nbformat.read(path, as_version=4)
    client = client_of(notebook)
    figures = 0
    print(f"== {path.name}", flush=True)
    try:
        with client.setup_kernel():
            print(f"   kernel ready after {time.time() - started:.1f} s", flush=True)
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                error = client.run_cell(cell, index)
                shown = sum(PLOTLY in output.get("data", {}) for output in cell.outputs)
                if not error and shown < cell.source.count("report.show("):
                    error = "the cell calls report.show, but no figure was shown"
                if error:
                    raise Failure(f"{path.name}, cell {index + 1} failed:\n\n{indented(cell.source)}\n\n{indented(error)}\n")
                figures += shown
    except (DeadKernelError, CellTimeoutError) as error:
        raise Failure(f"{path.name}: the kernel died: {error}") from error
    except RuntimeError as error:  # nbclient: the kernel did not start
        raise Failure(f"{path.name}: {error}; is `make setup` done?") from error
    if figures == 0:
        raise Failure(f"{path.name}: no cell showed a figure")
    draw(newer_than=started)
    embed_images(notebook)
    # Under the experiment's name; a run with other output (FIGURES=…) keeps its copy there too.
    target = FIGURES / os.environ.get("FIGURES", "") / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    note_machine(target.parent / MACHINE, path.stem)
    print(f"   {figures} figures in {time.time() - started:.0f} s; executed copy: {target.relative_to(ROOT)}", flush=True)


def note_machine(path, notebook):
    """Says beside the figures on which processor and when a notebook ran."""
    cpu = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", cpu.partition("\n\n")[0], re.M))
    name = " ".join(facts.get("model name", platform.processor() or platform.machine()).split())
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    flags = facts.get("flags", "").split()
    widest = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "NEON" if platform.machine() in ("arm64", "aarch64") else "no SIMD"
    machines = json.loads(path.read_text()) if path.exists() else {}
    machines[notebook] = {"processor": name, "simd": os.environ.get("BRANCHYNET_SIMD", widest), "date": time.strftime("%Y-%m-%d")}
    path.write_text(json.dumps(machines, indent=1) + "\n")


def indented(text):
    return "\n".join("    " + line for line in text.splitlines())


def chromium():
    """Kaleido's browser: the one named by BROWSER_PATH, or any Chromium on the PATH."""
    names = [os.environ.get("BROWSER_PATH") or "", "chromium", "chromium-browser", "google-chrome", "chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def draw(newer_than=0):
    """Draws a PNG beside every figure's JSON that is newer than the PNG and than the time given."""
    stale = []
    for source in sorted(FIGURES.glob("**/*.json")):
        image = source.with_suffix(".png")
        if source.name == MACHINE or source.is_relative_to(FIGURES / "site"):  # no figures
            continue
        if source.stat().st_mtime > newer_than and (not image.exists() or image.stat().st_mtime < source.stat().st_mtime):
            stale.append((source, image))
    if not stale:
        return
    if chromium() is None:
        print("   no Chromium found: figures stay HTML and JSON; with one installed, `make images` draws PNGs")
        return
    os.environ["BROWSER_PATH"] = chromium()
    import plotly.io
    figures = [plotly.io.from_json(source.read_text(), skip_invalid=True) for source, _ in stale]
    try:
        plotly.io.write_images(figures, [str(image) for _, image in stale], scale=2,
                               width=[figure.layout.width for figure in figures], height=[figure.layout.height for figure in figures])
    except Exception as error:  # kaleido and the browser fail in many ways, none of which concerns the results
        print(f"   the browser drew no PNGs ({type(error).__name__}: {error}); figures stay HTML and JSON")


def embed_images(notebook):
    """Gives each plot in an executed notebook its PNG, for viewers that do not know plotly."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY not in data:
                continue
            image = ROOT / pathlib.Path(data.get("text/plain", "")).with_suffix(".png")
            if image.is_file():
                # As HTML: beside a plot, JupyterLab's extension for plotly shows an image/png in its place, and as
                # large as it was drawn, with twice as many pixels.
                pixels = base64.b64encode(image.read_bytes()).decode()
                width = data[PLOTLY]["layout"].get("width", 700)
                data["text/html"] = f'<img width="{width}" src="data:image/png;base64,{pixels}">'


# The notebooks that make Table I.
TABLE1 = ("lenet_mnist", "alexnet_cifar10", "resnet110_cifar10")


def short(cell):
    """A number with at most six significant digits, as the notebooks show it; other text as it is."""
    try:
        x = float(cell)
    except ValueError:
        return cell
    if x == 0 or not math.isfinite(x):
        return cell
    if not 1e-6 <= abs(x) < 1e15:
        digits, power = f"{x:.5e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    text = f"{x:.{min(max(5 - math.floor(math.log10(abs(x))), 0), 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def tables():
    """Writes the rows of all notebooks that make Table I, and those over seeds, as one table each, and beneath the first what others report."""
    below = FIGURES / os.environ.get("FIGURES", "")
    for name in ("table1", "seeds"):
        found = []
        for notebook in TABLE1:
            # A network whose notebook has not been run has no rows.
            with contextlib.suppress(FileNotFoundError), open(below / notebook / f"{name}.csv", newline="") as file:
                found.append(list(csv.DictReader(file)))
        if not found:
            raise Failure(f"there are no tables {name}.csv below {below.relative_to(ROOT)} yet; `make figures` makes them")
        # The network with the most exits has all columns that another has.
        columns = max((list(rows[0]) for rows in found), key=len)
        rows = [[row.get(column) or "" for column in columns] for table in found for row in table]
        with open(below / f"{name}.csv", "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])
        # Thresholds in full: one digit less lets others leave.
        full = [bool(re.fullmatch(r"T\d+", column)) for column in columns]
        text = markdown(columns, [[cell if whole else short(cell) for cell, whole in zip(row, full)] for row in rows])
        if name == "table1":
            with open(ROOT / "notebooks" / "paper" / "others.csv", newline="") as file:
                others = [[row["who"], row["network"], row["reports"]] for row in csv.DictReader(file)]
            text += "\n" + markdown(["who", "network", "reports"], others)
        (below / f"{name}.md").write_text(text)
        print(f"{(below / name).relative_to(ROOT)}.md and .csv")


def markdown(names, rows):
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [names, *rows]).replace("\n", f"\n|{'---|' * len(names)}\n", 1)


def open_cells(sources):
    """A client and the cells of a notebook that is made up here."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = client_of(notebook)
    return client, list(enumerate(notebook.cells))


def warm():
    client, cells = open_cells([':dep branchynet-notebooks = { path = "." }', "use branchynet_notebooks::prelude::*;"])
    with client.setup_kernel():
        for index, cell in cells:
            if error := client.run_cell(cell, index):
                raise Failure(f"the library does not compile for notebooks:\n\n{indented(error)}")


def measure():
    """Prints the time from a kernel's start to the library's first result, and of a small cell afterwards."""
    first = [':dep branchynet-notebooks = { path = "." }', "use branchynet_notebooks::prelude::*;", "let x = Tensor::new(1f32, &Device::Cpu)?;"]
    small = [f"let y{i} = (&x + {i}.0)?;" for i in range(20)]
    client, cells = open_cells(first + small)
    ends = [time.time()]
    with client.setup_kernel():
        for index, cell in cells:
            if error := client.run_cell(cell, index):
                raise Failure(error)
            ends.append(time.time())
    times = [end - start for start, end in zip(ends[len(first):], ends[len(first) + 1:])]
    print(f"kernel start to first result: {ends[len(first)] - ends[0]:.1f} s; small cell: {statistics.median(times):.2f} s (median of {len(times)})")


def lacking(path):
    """What a notebook needs and does not have here; None where it has all."""
    if path.name == "7_cache.ipynb" and not (shutil.which("valgrind") or shutil.which("perf")):
        return "neither valgrind nor perf is here (Debian: apt install valgrind)"
    if path.name.startswith("11_") and not (ROOT / "datasets" / "cifar10.safetensors").exists():
        return "CIFAR-10 is not here (`make datasets`)"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path, metavar="NOTEBOOK")
    parser.add_argument("--warm", action="store_true", help="compile the library for notebooks")
    parser.add_argument("--images", action="store_true", help="draw missing PNGs")
    parser.add_argument("--tables", action="store_true", help="put the tables of Table I's notebooks together")
    parser.add_argument("--time", action="store_true", help="measure the kernel")
    arguments = parser.parse_args()
    if not (arguments.notebooks or arguments.warm or arguments.images or arguments.tables or arguments.time):
        parser.error("name a notebook, or --warm, --images, --tables or --time")
    # Kernels inherit it: the library's warnings and errors are one line, a backtrace is noise.
    os.environ.setdefault("RUST_BACKTRACE", "0")
    try:
        if arguments.warm:
            warm()
        # 10 comes after 9.
        for path in sorted(arguments.notebooks, key=lambda path: int(re.match(r"0*(\d*)", path.name)[1] or 0)):
            if not path.is_file():
                raise Failure(f"{path}: there is no such notebook")
            if why := lacking(path):
                print(f"== {path.name}: skipped, for {why}")
                continue
            run(path)
        if arguments.images:
            draw()
        if arguments.tables:
            tables()
        if arguments.time:
            measure()
    except Failure as failure:
        sys.exit(f"\nFAILED: {failure}")


if __name__ == "__main__":
    main()
