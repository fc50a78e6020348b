"""Follows docs/extend.md: applies its examples, in the page's order, to a copy of the repository, builds it, and runs their commands.

    extend.py           all of that, in target/extend
    extend.py --check   only whether the examples still apply, and whether the page's table counts them right (a second)

How the page is read: a `diff` block is a patch; a block below a line that ends in "`src/layers/silu.rs`:" is a whole file, and below
one with a notebook's name each block is a cell; a `sh` block is run after the build; each line of the `text` block behind it must
occur in what it prints, with … for anything.
"""

import dataclasses
import filecmp
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "extend.md"
FOLDER = ROOT / "target" / "extend"
TABLE = re.compile(r"<!-- files: tests/extend.py -->\n\n(.*?)\n<!-- end -->", re.S)


@dataclasses.dataclass
class Example:
    title: str
    patches: list = dataclasses.field(default_factory=list)
    files: dict = dataclasses.field(default_factory=dict)  # The blocks of each new file.
    runs: list = dataclasses.field(default_factory=list)  # Commands, and the lines that they must print.

    def patched(self):
        return re.findall(r"^\+\+\+ b/(\S+)$", "".join(self.patches), re.M)

    def row(self):
        """A line of the page's table: files changed and new, without those that only hold tests, those, and lines added."""
        tests, code = [[file for file in [*self.patched(), *self.files] if file.startswith("tests/") == of_tests] for of_tests in (True, False)]
        lines = len(re.findall(r"^\+(?!\+\+ )", "".join(self.patches), re.M)) + sum(block.count("\n") for blocks in self.files.values() for block in blocks)
        anchor = self.title.lower().replace(" ", "-")
        return f"| [{self.title}](#{anchor}) | {len(code)} | {len(self.files)} | {len(tests)} | {lines} |\n"


def read(page):
    """The page's examples."""
    examples = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        example, end, path = Example(section.splitlines()[0]), 0, None
        for block in re.finditer(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S):
            before, language, text = section[end:block.start()].strip(), block[1], block[2]
            end = block.end()
            if before or not str(path).endswith(".ipynb"):
                named = re.search(r"`([^`]+)`:$", before)
                path = named and named[1]
            if language == "diff":
                example.patches.append(text)
            elif language == "sh":
                example.runs.append([text, []])
            elif language == "text":
                example.runs[-1][1] = text.splitlines()
            elif path:
                example.files.setdefault(path, []).append(text)
            else:
                sys.exit(f"{PAGE.name}, {example.title}: a block of {language} without the line that names its file:\n{text}")
        examples.append(example)
    return examples


def apply(example, tree):
    for path, blocks in example.files.items():
        file = tree / path
        if file.exists():
            sys.exit(f"{PAGE.name}, {example.title}: {path} is there already")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(notebook(blocks) if path.endswith(".ipynb") else "".join(blocks))
    for patch in example.patches:
        # The tree is no repository, and lies in one.
        result = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=tree, input=patch, capture_output=True, text=True,
                                env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)})
        if result.returncode:
            sys.exit(f"{PAGE.name}, {example.title}: a diff does not apply any more; write it anew for the code as it is\n{result.stderr}{patch}")


def notebook(cells):
    cells = [{"cell_type": "code", "id": f"cell-{i:02}", "metadata": {}, "source": cell.rstrip("\n"), "outputs": [], "execution_count": None}
             for i, cell in enumerate(cells)]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def check_table(page, examples):
    table = "| | files | of them new | and tests | lines |\n|---|---|---|---|---|\n" + "".join(example.row() for example in examples)
    print(table)
    if TABLE.search(page)[1] != table:
        sys.exit(f"{PAGE.name}: its table is not the one above; put it there")


def copy(tree):
    """Copies the repository as it is, with what is not committed yet."""
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shutil.rmtree(tree, ignore_errors=True)
    for name in filter(None, files.split("\0")):
        # Cargo reads the configuration of folders above as well, and would add up the flags of both.
        if (ROOT / name).is_file() and not name.startswith(".cargo/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def update(tree, new):
    """Makes a folder as another one is, but for its target/. What is the same in both keeps its time, by which cargo knows it, so
    that a second run builds only what has changed."""
    for file in [*tree.rglob("*")]:
        name = file.relative_to(tree)
        if name.parts[0] != "target" and file.is_file() and not (new / name).is_file():
            file.unlink()
    for file in new.rglob("*"):
        there = tree / file.relative_to(new)
        if file.is_file() and not (there.is_file() and filecmp.cmp(file, there, shallow=False)):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, there)


def share(tree):
    """Gives the copy data, tools and what is compiled already."""
    for data in (ROOT / "datasets").glob("*.safetensors"):
        os.link(data, tree / "datasets" / data.name)
    (tree / "target").mkdir(exist_ok=True)
    for name in ("tools", "venv"):
        link = tree / "target" / name
        link.is_symlink() or link.symlink_to(ROOT / "target" / name)
    build = tree.relative_to(ROOT / "target") / "target" / "kernel"
    subprocess.run([sys.executable, ROOT / "notebooks" / "kernel.py", "--copy-build", build], check=True)


def environment(tree):
    """That of the copy: its build folder and its kernel, and no settings from outside."""
    kernel = FOLDER / "jupyter" / "kernels" / "branchynet"
    kernel.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, str(tree / "notebooks" / "kernel.py"), "--control_file", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Rust", "language": "rust", "interrupt_mode": "message"}))
    kept = ("PATH", "HOME", "LANG", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "TMPDIR", "BROWSER_PATH", "BRANCHYNET_SIMD")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "CARGO_TARGET_DIR": str(tree / "target" / "kernel" / "target"),
            "JUPYTER_PATH": str(FOLDER / "jupyter")}


def run(what, command, expected, tree):
    """Runs a command in the copy; fails where it does, or where an expected line is missing."""
    started = time.time()
    print(f"   {what}", end="", flush=True)
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tree, env=environment(tree), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f" ({time.time() - started:.0f} s)", flush=True)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    missing = [line for line in expected if not any(re.search(re.escape(" ".join(line.split())).replace("…", ".*"), found) for found in lines)]
    if result.returncode or missing:
        sys.exit(f"{result.stdout}\n{PAGE.name}: {command}\nended with {result.returncode}; not printed: {missing}")
    return result.stdout


def main():
    page = PAGE.read_text()
    examples = read(page)
    new, tree = FOLDER / "new", FOLDER / "tree"
    copy(new)
    for example in examples:
        apply(example, new)
    check_table(page, examples)
    if sys.argv[1:] == ["--check"]:
        return
    update(tree, new)
    share(tree)
    print("all examples together")
    run("build", "cargo build --workspace", [], tree)
    outputs = {}
    for example in examples:
        print(example.title)
        outputs[example.title] = "".join(run(command.splitlines()[0] + " …", command, expected, tree) for command, expected in example.runs)
    losses = re.findall(r"^B-LeNet, epoch.*validation loss (.*?) acc", outputs["A setting"], re.M)
    if len(set(losses)) != 2:
        sys.exit(f"{PAGE.name}, A setting: its two values should give two losses, and give {losses}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(examples)} examples work; {used.ru_utime + used.ru_stime:.0f} seconds of processor time")


if __name__ == "__main__":
    main()
