"""Starts evcxr_jupyter in a build folder of its own, so that several notebooks can be open at once.

The first kernel builds in target/kernel, where cargo builds the library, the program and the tests too
(.cargo/config.toml); every dependency is compiled once for all of them. While that folder is taken, further
kernels work in copies of it, target/kernel-1 and so on, made when first needed. A kernel holds its
folder by a lock that the system releases when the kernel ends, however it ends.

With CUDA=1 (or CUDA=cudnn) in the environment the library is built for an NVIDIA GPU, in target/cuda (or
target/cudnn) and its copies, and notebooks need not know.

    kernel.py --control_file FILE   start a kernel, as Jupyter does
    kernel.py --copy-build          take over into target/cuda what target/kernel has compiled already
"""

import fcntl
import os
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

FEATURES = {"": "", "0": "", "1": "cuda", "cuda": "cuda", "cudnn": "cudnn"}
if os.environ.get("CUDA", "") not in FEATURES:
    sys.exit(f"kernel.py: CUDA={os.environ['CUDA']}: expected 1 or cudnn, or nothing for the CPU alone")
FEATURE = FEATURES[os.environ.get("CUDA", "")]
FIRST = ROOT / "target" / (FEATURE or "kernel")


def take_folder():
    for number in range(100):
        folder = FIRST if number == 0 else FIRST.with_name(f"kernel-{number}")
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

    Artefacts become hard links: compilers replace them and never write into them. What cargo itself rewrites is copied.
    """
    lock_file = (ROOT / "Cargo.lock").read_bytes()
    stamp = folder / "copied-for"
    if stamp.exists() and stamp.read_bytes() == lock_file:
        return
    shutil.rmtree(folder / "target", ignore_errors=True)

    def ignore(directory, names):
        unneeded = ("incremental", "examples", "hub", "tmp", ".cargo-lock")
        return {name for name in names if name in unneeded or name.startswith(("libcode_", "libctx", "ctx-"))}

    def copy(file, target):
        if "/deps/" in file:
            os.link(file, target)
        else:
            shutil.copy2(file, target)

    shutil.copytree(source / "target", folder / "target", ignore=ignore, copy_function=copy)
    stamp.write_bytes(lock_file)


def switch_on(feature, folder):
    """Has evcxr add, before any cell, a crate that is there to ask for the library's feature: cargo then builds it
    for the notebook's own `:dep branchynet` too. Returns the folder of evcxr's configuration."""
    crate, configuration = folder / "feature", folder / "configuration"
    crate.mkdir(exist_ok=True)
    configuration.mkdir(exist_ok=True)
    (crate / "lib.rs").touch()
    (crate / "Cargo.toml").write_text(
        '[package]\nname = "branchynet-feature"\nversion = "0.0.0"\nedition = "2024"\n[lib]\npath = "lib.rs"\n'
        f'[dependencies]\nbranchynet = {{ path = "{ROOT}", features = ["{feature}"] }}\n')
    (configuration / "init.evcxr").write_text(f':dep branchynet-feature = {{ path = "{crate}" }}\n')
    return configuration


def main():
    if sys.argv[1:] == ["--copy-build"]:
        kernel = ROOT / "target" / "kernel"
        if FEATURE and (kernel / "target").is_dir() and not (FIRST / "target").exists():
            copy_build(FIRST, kernel)
        return
    folder = take_folder()
    if folder != FIRST:
        copy_build(folder)
    # The same versions as the library itself was built with; cargo adds the cells' own crate.
    shutil.copyfile(ROOT / "Cargo.lock", folder / "Cargo.lock")
    os.environ["EVCXR_TMPDIR"] = str(folder)
    if FEATURE:
        os.environ["EVCXR_CONFIG_DIR"] = str(switch_on(FEATURE, folder))
    program = str(ROOT / "target" / "tools" / "bin" / "evcxr_jupyter")
    try:
        os.execv(program, [program, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"kernel.py: cannot start {program}: {error}; run `make setup`")


main()
