"""Runs notebooks headless and fails loudly.

A Rust cell that panics, or whose `?` fails, still reports success to Jupyter. Here a cell has failed when it
printed anything to standard error, ended in an error, or called figures::show and showed no figure. The run
then stops, names the cell and its error, and exits with 1. Executed copies go to figures/, sources stay clean.

    run.py NOTEBOOK...   run these notebooks
    run.py --warm        compile the library for notebooks, so that the first one starts fast
    run.py --images      draw PNGs of all figures that have none or an older one
    run.py --time        measure how long a kernel takes to start, and a small cell to run

Settings come from the environment, as in EPOCHS=3; each notebook's settings cell lists them.
"""

import argparse
import base64
import os
import pathlib
import re
import shutil
import statistics
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
PLOTLY = "application/vnd.plotly.v1+json"
KERNEL = "branchynet"


class Failure(Exception):
    """A notebook did not do what it should."""


class Client(NotebookClient):
    """Shows what cells print while they run."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            sys.stdout.write(msg["content"]["text"])
            sys.stdout.flush()
        return super().process_message(msg, cell, cell_index)


def text_of(outputs):
    """What went wrong in a cell, or an empty string."""
    texts = []
    for output in outputs:
        if output.output_type == "error":
            texts.append("\n".join(dict.fromkeys(output.traceback)) or f"{output.ename}: {output.evalue}")
        elif output.output_type == "stream" and output.name == "stderr":
            texts.append(output.text)
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(texts)).strip()


def run(path):
    started = time.time()
    notebook = nbformat.read(path, as_version=4)
    client = Client(notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(ROOT / "notebooks")}},
                    allow_errors=True, timeout=None)
    figures = 0
    print(f"== {path.name}", flush=True)
    try:
        with client.setup_kernel():
            print(f"   kernel ready after {time.time() - started:.1f} s", flush=True)
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                client.execute_cell(cell, index)
                error = text_of(cell.outputs)
                shown = sum(PLOTLY in output.get("data", {}) for output in cell.outputs)
                if not error and shown < cell.source.count("figures::show("):
                    error = "the cell calls figures::show, but no figure was shown"
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
    print(f"   {figures} figures in {time.time() - started:.0f} s; executed copy: {target.relative_to(ROOT)}", flush=True)


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
                data["image/png"] = base64.b64encode(image.read_bytes()).decode()


def warm():
    cells = [':dep branchynet = { path = ".." }', "use branchynet::prelude::*;"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = Client(notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(ROOT / "notebooks")}},
                    allow_errors=True, timeout=None)
    client.execute()
    if error := "\n".join(text_of(cell.outputs) for cell in notebook.cells).strip():
        raise Failure(f"the library does not compile for notebooks:\n\n{indented(error)}")


def measure():
    """Prints the time from a kernel's start to the first result of the library, and of a small cell afterwards."""
    first = [':dep branchynet = { path = ".." }', "use branchynet::prelude::*;", "let x = Tensor::new(1f32, &Device::Cpu)?; println!(\"{x}\");"]
    small = [f"let y{i} = (&x + {i}.0)?; println!(\"{{y{i}}}\");" for i in range(20)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in first + small])
    client = NotebookClient(notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(ROOT / "notebooks")}}, timeout=None)
    started = time.time()
    ends = []
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            if error := text_of(cell.outputs):
                raise Failure(error)
            ends.append(time.time())
    cells = [end - start for start, end in zip(ends[2:], ends[3:])]
    print(f"kernel start to first result: {ends[2] - started:.1f} s; small cell: {statistics.median(cells):.2f} s (median of {len(cells)})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path, metavar="NOTEBOOK")
    parser.add_argument("--warm", action="store_true", help="compile the library for notebooks")
    parser.add_argument("--images", action="store_true", help="draw missing PNGs")
    parser.add_argument("--time", action="store_true", help="measure the kernel")
    arguments = parser.parse_args()
    if not (arguments.notebooks or arguments.warm or arguments.images or arguments.time):
        parser.error("name a notebook, or --warm, --images or --time")
    # Kernels inherit it: the library's warnings and errors are one line, a backtrace is noise.
    os.environ.setdefault("RUST_BACKTRACE", "0")
    try:
        if arguments.warm:
            warm()
        for path in arguments.notebooks:
            if not path.is_file():
                raise Failure(f"{path}: there is no such notebook")
            run(path)
        if arguments.images:
            draw()
        if arguments.time:
            measure()
    except Failure as failure:
        sys.exit(f"\nFAILED: {failure}")


if __name__ == "__main__":
    main()
