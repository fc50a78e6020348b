"""Headless notebooks on the real kernel: the real ones run quickly, broken ones make the run fail, and what a reader
may change works.

Run by `make test`. Output goes to figures/test/, so that results stay.
"""

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
CIFAR10 = (ROOT / "datasets" / "cifar10.safetensors").exists()

# What comes before the broken cell in each notebook.
PRELUDE = [':dep branchynet = { path = ".." }', "use branchynet::prelude::*;", "let x = Var::new(2f32, &Device::Cpu)?;"]

# Broken cells, and what the failure must name.
BROKEN = {
    "panics": ('panic!("on purpose");', ["cell 4 failed", 'panic!("on purpose")', "panicked"]),
    "fails a ?": ("let n = Network::new(\"n\", [1, 28, 28], vec![linear(700, 10)], 0, &Device::Cpu)?;",
                  ["cell 4 failed", "linear1, linear(700, 10): it expects 700 values"]),
    "does not compile": ("let y: u8 = x;", ["cell 4 failed", "mismatched types"]),
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
    """let mut session = Session::from_environment("lenet")?;
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


def run(path, environment=ENVIRONMENT):
    return subprocess.run([sys.executable, str(ROOT / "notebooks" / "run.py"), str(path)], env=environment,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)


def notebook(cells):
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}
             for i, cell in enumerate(cells)]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def main():
    passed = failed = 0

    def check(what, ok, output):
        nonlocal passed, failed
        passed, failed = passed + ok, failed + (not ok)
        print(f"{what} ... {'ok' if ok else 'FAILED'}", flush=True)
        if not ok:
            print(output)

    with tempfile.TemporaryDirectory() as folder:
        for what, (cell, expected) in BROKEN.items():
            path = pathlib.Path(folder) / "broken.ipynb"
            path.write_text(notebook([*PRELUDE, cell]))
            result = run(path)
            output = result.stdout + result.stderr
            check(f"a notebook that {what} fails the run", result.returncode == 1 and all(part in output for part in expected), output)
        path.write_text(notebook([*PRELUDE, *ACROSS]))
        result = run(path)
        expected = ["d(w·x)/dw = Some(3.0)", "by second largest probability: 4 choices"]
        output = result.stdout + result.stderr
        check("gradients, and a criterion and data of one's own, work across cells",
              result.returncode == 0 and all(part in output for part in expected), output)
        for count in (1, 2, 3):
            if not CIFAR10:
                print(f"AlexNet's notebook with {count} branches: skipped, CIFAR-10 is not there")
                continue
            path = pathlib.Path(folder) / f"alexnet-{count}.ipynb"
            path.write_text(branches(count))
            result = run(path)
            output = result.stdout + result.stderr
            check(f"AlexNet's notebook runs with {count} branches", result.returncode == 0 and f"exit {count + 1}:" in output, output)
    number = lambda path: int(path.name.split("_")[0])
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"), key=number):
        before = path.read_bytes()
        # AlexNet's is drawn from the committed record, as is what cannot be trained for want of data.
        recorded = "alexnet" in path.name or (number(path) > 1 and not CIFAR10)
        # Notebooks on several networks find what those before them have trained.
        quick = ENVIRONMENT if number(path) < 4 else {**ENVIRONMENT, "RETRAIN": ""}
        result = run(path, {**RECORDED, "TRAIN": "0"} if recorded else quick)
        ok = result.returncode == 0 and path.read_bytes() == before
        how = "from its record" if recorded else "on a few images"
        check(f"{path.name} runs headless, {how}", ok, result.stdout + result.stderr)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
