"""Headless notebooks on the real kernel: the real one runs quickly, and broken ones make the run fail.

Run by `make test`. Output goes to figures/test/, so that results stay.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = ("EPOCHS", "BASELINE_EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "FINAL_RATE", "WEIGHTS", "SEED", "IMAGES", "PREPROCESSING",
            "AUGMENT", "TRAIN", "DEVICE", "QUICK", "RETRAIN")
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
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        before = path.read_bytes()
        # AlexNet's is drawn from the committed record, as is what cannot be trained for want of data.
        recorded = "alexnet" in path.name or ("cifar10" in path.name and not CIFAR10)
        result = run(path, {**RECORDED, "TRAIN": "0"} if recorded else ENVIRONMENT)
        # The last cell takes a derivative across cells.
        ok = result.returncode == 0 and "d(w·x)/dw = Some(3.0)" in result.stdout and path.read_bytes() == before
        how = "from its record" if recorded else "on a few images"
        check(f"{path.name} runs headless, {how}, with gradients right across cells", ok, result.stdout + result.stderr)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
