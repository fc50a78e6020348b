"""Checks in seconds that the cells of all notebooks compile: each notebook becomes a program that is checked and not run. Headless runs
(tests/notebooks.py) take minutes, and find what only the kernel refuses, such as a closure that borrows and should outlive its cell."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "cells"


def program(path):
    """The code cells of a notebook as one program, and for each of its lines which cell it is from."""
    cells = [(number, "".join(cell["source"])) for number, cell in enumerate(json.loads(path.read_text())["cells"], 1)
             if cell["cell_type"] == "code"]
    lines = [(number, line) for number, source in cells for line in source.splitlines() if not line.startswith(":dep")]
    uses = [line for _, line in lines if line.startswith("use ")]
    body = [(number, "" if line.startswith("use ") else line) for number, line in lines]
    return f"#![allow(warnings)]\n{' '.join(uses)}\nfn main() -> Result<()> {{\n", body


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "src" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Cargo.lock", FOLDER)
    (FOLDER / "Cargo.toml").write_text(
        '[workspace]\n[package]\nname = "cells"\nversion = "0.0.0"\nedition = "2024"\n'
        f'[dependencies]\nbranchynet-notebooks = {{ path = "{ROOT}/notebooks" }}\n')
    places = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = f"notebook_{path.stem}"
        head, body = program(path)
        text = head + "".join(line + "\n" for _, line in body) + "Ok(())\n}\n"
        (FOLDER / "src" / "bin" / f"{name}.rs").write_text(text)
        places[f"src/bin/{name}.rs"] = (path.name, head.count("\n"), body)
    environment = {**os.environ, "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target" / "kernel" / "target"))}
    result = subprocess.run(["cargo", "check", "--quiet", "--message-format=json", "--manifest-path", str(FOLDER / "Cargo.toml")],
                            cwd=ROOT, env=environment, capture_output=True, text=True)
    failures = 0
    for line in result.stdout.splitlines():
        message = json.loads(line).get("message") or {}
        if message.get("level") != "error" or not message.get("spans"):
            continue
        failures += 1
        span = message["spans"][0]
        found = next((places[name] for name in places if span["file_name"].endswith(name)), None)
        where = span["file_name"]
        if found:
            name, before, body = found
            number, source = body[span["line_start"] - before - 1]
            where = f"{name}, cell {number}: {source.strip()}"
        print(f"{where}\n    {message['message']}")
    if result.returncode and not failures:
        print(result.stderr)
    print(f"cells of {len(places)} notebooks: {'compile' if result.returncode == 0 else 'do not compile'}")
    sys.exit(result.returncode)


main()
