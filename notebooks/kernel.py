"""Starts evcxr_jupyter in a build folder of its own, so that several notebooks can be open at once.

The first kernel builds in target/kernel, where cargo builds the library, the program and the tests too
(.cargo/config.toml); every dependency is compiled once for all of them. While that folder is taken, further
kernels work in copies of it, target/kernel-1 and so on, made when first needed. A kernel holds its
folder by a lock that the system releases when the kernel ends, however it ends.

With CUDA=1 (or CUDA=cudnn) in the environment the library is built for an NVIDIA GPU, in target/cuda (or
target/cudnn) and its copies, and notebooks need not know.

evcxr runs rust-analyzer to learn the types of variables, and rust-analyzer reads the sources of every package
that `cargo metadata` lists, 90 MB on one thread at each start. Types come from a handful of them. So the kernel
finds a cargo that leaves the others out of that list; it hands everything else on to the real one.

    kernel.py --control_file FILE   start a kernel, as Jupyter does
    kernel.py --copy-build FOLDER   take over into target/FOLDER, if it is new, what target/kernel has compiled already
    kernel.py --metadata CARGO ...  what that cargo prints: the metadata of the packages that types come from
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

FEATURES = {"": "", "0": "", "1": "cuda", "cuda": "cuda", "cudnn": "cudnn"}
if os.environ.get("CUDA", "") not in FEATURES:
    sys.exit(f"kernel.py: CUDA={os.environ['CUDA']}: expected 1 or cudnn, or nothing for the CPU alone")
FEATURE = FEATURES[os.environ.get("CUDA", "")]
FIRST = ROOT / "target" / (FEATURE or "kernel")


def take_folder():
    for number in range(100):
        folder = FIRST if number == 0 else FIRST.with_name(f"{FIRST.name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.set_inheritable(lock, True)
        return folder
    sys.exit("kernel.py: 100 kernels are running already; shut some down")


def copy_build(folder, source=FIRST):
    """Copies the compiled dependencies of the first kernel's folder, or of another, keeping times, by which cargo judges what is fresh.

    Artefacts become hard links: compilers replace them and never write into them. What cargo itself rewrites is copied, and
    so are lists of sources (*.d), which rustc rewrites where they are: a kernel whose list another is just writing would
    take a changed cell for one that is compiled, and load the cell before ("dlsym failed").
    """
    wanted = (ROOT / "Cargo.lock").read_bytes() + pathlib.Path(__file__).read_bytes()
    stamp = folder / "copied-for"
    if stamp.exists() and stamp.read_bytes() == wanted:
        return
    shutil.rmtree(folder / "target", ignore_errors=True)

    def ignore(directory, names):
        unneeded = ("incremental", "examples", "hub", "tmp", ".cargo-lock")
        return {name for name in names if name in unneeded or name.startswith(("libcode_", "libctx", "ctx-", "ctx."))}

    def copy(file, target):
        if "/deps/" in file and not file.endswith(".d"):
            os.link(file, target)
        else:
            shutil.copy2(file, target)

    shutil.copytree(source / "target", folder / "target", ignore=ignore, copy_function=copy)
    stamp.write_bytes(wanted)


def switch_on(feature, folder):
    """Has evcxr add, before any cell, a crate that is there to ask for the library's feature: cargo then builds it
    for the notebook's own `:dep branchynet-notebooks` too. Returns a line for evcxr's configuration."""
    crate = folder / "feature"
    crate.mkdir(exist_ok=True)
    (crate / "lib.rs").touch()
    (crate / "Cargo.toml").write_text(
        '[package]\nname = "branchynet-feature"\nversion = "0.0.0"\nedition = "2024"\n[lib]\npath = "lib.rs"\n'
        f'[dependencies]\nbranchynet-notebooks = {{ path = "{ROOT}/notebooks", features = ["{feature}"] }}\n')
    return f':dep branchynet-feature = {{ path = "{crate}" }}\n'


# Packages whose types occur in cells: the library's own, those it hands on, and those that they are built on.
TYPED = ("candle-core", "candle-nn", "half", "num-traits", "plotly", "rand", "rand_chacha", "rand_core", "safetensors", "serde",
         "serde_core", "serde_json")


def metadata(command):
    """Prints the metadata of a notebook's packages without those that types do not come from."""
    result = subprocess.run(command, stdout=subprocess.PIPE)
    try:
        found = json.loads(result.stdout)
        typed = {package["id"] for package in found["packages"]
                 if package["source"] is None or package["name"] in TYPED or package["name"].startswith("polars")}
        found["packages"] = [package for package in found["packages"] if package["id"] in typed]
        nodes = [node for node in (found["resolve"] or {"nodes": []})["nodes"] if node["id"] in typed]
        for node in nodes:
            node["dependencies"] = [package for package in node["dependencies"] if package in typed]
            node["deps"] = [dependency for dependency in node["deps"] if dependency["pkg"] in typed]
        if found["resolve"]:
            found["resolve"]["nodes"] = nodes
        result.stdout = json.dumps(found).encode()
    except (ValueError, KeyError, TypeError):
        pass  # Another version of cargo: rust-analyzer gets the whole list, and takes longer.
    sys.stdout.buffer.write(result.stdout)
    sys.exit(result.returncode)


def short_metadata(folder):
    """Has rust-analyzer find a cargo that lists few packages: it looks in $CARGO_HOME/bin first. What evcxr itself
    builds with keeps the real folder. Returns a line for evcxr's configuration."""
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    cargo = shutil.which("cargo")
    if cargo is None:
        return ""
    programs = folder / "cargo-home" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    program = programs / "cargo"
    program.write_text(f'''#!/bin/sh
export CARGO_HOME='{home}'
case "$1 $*" in
"metadata "*"{folder}/Cargo.toml"*) exec '{sys.executable}' '{__file__}' --metadata '{cargo}' "$@" ;;
esac
exec '{cargo}' "$@"
''')
    program.chmod(0o755)
    os.environ["CARGO_HOME"] = str(programs.parent)
    return f":build_env CARGO_HOME={home}\n"


def keep_versions(folder):
    """Has cells use the versions that the library was built with: a copy of the repository's Cargo.lock. evcxr's first
    build is of an empty crate, for which cargo strikes all packages from that file; without it the first cell would
    take the newest versions and compile them, and the library that it leaves would no longer fit the tests' own candle. So
    a process of its own puts the file back, as often as it is struck while the kernel starts."""
    good, lock = (ROOT / "Cargo.lock").read_bytes(), folder / "Cargo.lock"

    def put_back():
        # A new file in its place: cargo, which may be writing at this moment, writes into the old one.
        new = folder / "Cargo.lock.new"
        new.write_bytes(good)
        new.replace(lock)

    put_back()
    kernel = os.getpid()
    if os.fork() > 0:
        return
    # Who reads the kernel's output waits for its end, not for this process.
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    for _ in range(15000):
        time.sleep(0.02)
        if os.getppid() != kernel:
            break
        with contextlib.suppress(OSError):
            if b'name = "branchynet"' not in lock.read_bytes():
                put_back()
    os._exit(0)


def main():
    if sys.argv[1:2] == ["--metadata"]:
        metadata(sys.argv[2:])
    if sys.argv[1:2] == ["--copy-build"]:
        if len(sys.argv) != 3:
            sys.exit("kernel.py: --copy-build wants one FOLDER, the name of a folder below target/")
        kernel, folder = ROOT / "target" / "kernel", ROOT / "target" / sys.argv[2]
        if (kernel / "target").is_dir() and not (folder / "target").exists():
            copy_build(folder, kernel)
        return
    folder = take_folder()
    if folder != FIRST:
        copy_build(folder)
    os.environ["EVCXR_TMPDIR"] = str(folder)
    lines = short_metadata(folder)
    if FEATURE:
        lines += switch_on(FEATURE, folder)
    configuration = folder / "configuration"
    configuration.mkdir(exist_ok=True)
    (configuration / "init.evcxr").write_text(lines)
    os.environ["EVCXR_CONFIG_DIR"] = str(configuration)
    keep_versions(folder)
    program = str(ROOT / "target" / "tools" / "bin" / "evcxr_jupyter")
    try:
        os.execv(program, [program, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"kernel.py: cannot start {program}: {error}; run `make setup`")


main()
