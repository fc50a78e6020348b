"""Headless notebooks on the real kernel: the real ones run quickly, broken ones make the run fail, and what a reader
may change works.

Run by `make test`. Output goes to figures/test/, so that results stay.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The names of all settings, from the program.
LISTED = subprocess.run(["cargo", "run", "--quiet", "--", "settings"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
SETTINGS = [line.split()[0] for line in LISTED.splitlines()]
RECORDED = {**{name: value for name, value in os.environ.items() if name not in SETTINGS}, "FIGURES": "test"}
ENVIRONMENT = {**RECORDED, "QUICK": "1", "RETRAIN": "1"}
FOLDER = tempfile.TemporaryDirectory()
CIFAR10, FASHION = ((ROOT / "datasets" / f"{name}.safetensors").exists() for name in ("cifar10", "fashion-mnist"))

# What comes before the broken cell in each notebook.
PRELUDE = [':dep branchynet-notebooks = { path = "." }', "use branchynet_notebooks::prelude::*;", "let x = Var::new(2f32, &Device::Cpu)?;"]

# Broken cells, and what the failure must name.
BROKEN = {
    "panics": ('panic!("on purpose");', ["cell 4 failed", 'panic!("on purpose")', "panicked"]),
    "fails a ?": ("let n = Network::new(\"n\", [1, 28, 28], vec![linear(700, 10)], 0, &Device::Cpu)?;",
                  ["cell 4 failed", "linear1, linear(700, 10): it expects 700 values"]),
    "does not compile": ("let y: u8 = x;", ["cell 4 failed", "mismatched types"]),
    "shows two figures": ("""let report = Report::new(&session::from_environment("lenet")?, "two", "");
report.show("first", "nothing", Plot::new())?;
report.show("second", "nothing", Plot::new())?;""", ["cell 4 failed", "this cell has shown something already"]),
    "shows no figure": ("x.as_tensor().to_scalar::<f32>()?", ["no cell showed a figure"]),
}


# What must work across cells: candle's gradients (a second copy of candle would give wrong ones), a criterion and a data
# set of one's own.
ACROSS = [
    "let product = (x.as_tensor() * &Tensor::new(3f32, &Device::Cpu)?)?;",
    "let derivative = product.backward()?.get(&x).map(|grad| grad.to_scalar::<f32>()).transpose()?;",
    'println!("d(w·x)/dw = {derivative:?}");',
    """let images = Tensor::rand(0f32, 1f32, (60, 2, 6, 6), &Device::Cpu)?;
let labels = Tensor::arange(0u32, 60, &Device::Cpu)?.affine(0.05, 0.0)?.to_dtype(DType::U8)?;
let data = Dataset::from_tensors("mine", (&images, &labels), (&images, &labels), 10, &["a", "b", "c"])?;""",
    """let mut session = session::from_environment("lenet")?;
session.experiment.layers = vec![conv(2, 4, 3, 1), branch([linear(144, 3)]), relu(), max_pool(2, 2), linear(36, 3)];
session.experiment.data = data.into();
(session.experiment.baseline_epochs, session.experiment.config.epochs) = (1, 1);
session.experiment.criterion = Criterion::own("second largest probability", |seen| {
    let mut p = seen.probabilities();
    p.sort_by(f64::total_cmp);
    p[p.len() - 2]
});""",
    "let results = session.results()?;",
    "let choices = results.choices(&[1.0, 2.0])?;",
    """let report = Report::new(&session, "across", &results.caption());
report.show("sure", "how sure each exit is", figures::certainty(&results.test))?;""",
    'println!("by {}: {} choices", results.test.criterion(), choices.len());',
]


def branches(count):
    """The AlexNet notebook with so many branches."""
    book = json.loads((ROOT / "notebooks" / "2_alexnet_cifar10.ipynb").read_text())
    cell = next(cell for cell in book["cells"] if "session.experiment.layers = vec![" in "".join(cell["source"]))
    source = "".join(cell["source"])
    first, second = re.findall(r"    branch\(\[.*?\n    \]\),\n", source, re.S)
    if count == 1:
        source = source.replace(second, "")
    if count == 3:
        source = source.replace("linear(1024, 256)", "branch([linear(1024, 10)]), linear(1024, 256)")
    cell["source"] = source
    return json.dumps(book)


def notebook(cells):
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}
             for i, cell in enumerate(cells)]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def check(what, book, expected=(), environment=ENVIRONMENT, status=0):
    """Runs a notebook, given as its path or its text. Returns what was checked, whether it held, and the output."""
    if isinstance(book, str):
        path = pathlib.Path(FOLDER.name) / f"{re.sub('[^a-z0-9]+', '-', what.lower())}.ipynb"
        path.write_text(book)
    else:
        path = book
    before = path.read_bytes()
    result = subprocess.run([sys.executable, str(ROOT / "notebooks" / "run.py"), str(path)], env=environment,
                            stdin=subprocess.DEVNULL, capture_output=True, text=True)
    output = result.stdout + result.stderr
    return what, result.returncode == status and all(part in output for part in expected) and path.read_bytes() == before, output


def whole(path):
    """The check of one of the project's notebooks."""
    # AlexNet's is drawn from the committed record, as is what cannot be trained for want of data.
    recorded = "alexnet" in path.name or (number(path) > 1 and not CIFAR10) or (number(path) == 14 and not FASHION)
    if recorded:
        return f"{path.name} runs headless, from its record", path, (), {**RECORDED, "TRAIN": "0"}
    # Notebooks on several networks find what those before them have trained.
    return f"{path.name} runs headless, on a few images", path, (), ENVIRONMENT if number(path) < 4 else {**ENVIRONMENT, "RETRAIN": ""}


def number(path):
    return int(path.name.split("_")[0])


def main():
    books = sorted((ROOT / "notebooks").glob("*.ipynb"), key=number)
    changed = [(f"a notebook that {what} fails the run", notebook([*PRELUDE, cell]), parts, ENVIRONMENT, 1)
               for what, (cell, parts) in BROKEN.items()]
    changed.append(("gradients, and a criterion and data of one's own, work across cells", notebook([*PRELUDE, *ACROSS]),
                    ["d(w·x)/dw = Some(3.0)", "by second largest probability: 4 choices"]))
    for count in (1, 2, 3):
        if CIFAR10:
            # Figures in a folder of their own: the checks run side by side.
            changed.append((f"AlexNet's notebook runs with {count} branches", branches(count), [f"exit {count + 1}:"],
                            {**ENVIRONMENT, "FIGURES": f"test/alexnet-{count}"}))
        else:
            print(f"AlexNet's notebook with {count} branches: skipped, CIFAR-10 is not there")
    results = []
    for checks in [whole(path) for path in books if number(path) < 4] + changed, [whole(path) for path in books if number(path) >= 4]:
        # Two at a time: a cell is compiled on one core.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for done in concurrent.futures.as_completed([pool.submit(check, *arguments) for arguments in checks]):
                what, ok, output = done.result()
                results.append(ok)
                print(f"{what} ... {'ok' if ok else 'FAILED'}", flush=True)
                if not ok:
                    print(output)
    # Kernels side by side must not share a file that rustc writes into.
    shared = [path for path in (ROOT / "target").glob("kernel*/target/*/debug/deps/*.d") if path.stat().st_nlink > 1]
    results.append(not shared)
    print(f"lists of sources are each kernel's own ... {'ok' if not shared else f'FAILED: {shared[0]} and others'}")
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


main()
