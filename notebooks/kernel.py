"""Starts evcxr_jupyter in a build folder of its own, so that several notebooks can be open at once.

The first kernel builds in target/kernel, where cargo builds the library, the program and the tests too
(.cargo/config.toml); every dependency is compiled once for all of them. While that folder is taken, further
kernels work in copies of it, target/kernel-1 and so on, made when first needed. A kernel holds its
folder by a lock that the system releases when the kernel ends, however it ends.
"""

import fcntl
import os
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIRST = ROOT / "target" / "kernel"


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


def copy_build(folder):
    """Copies the compiled dependencies of the first kernel's folder, keeping times, by which cargo judges what is fresh.

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

    def copy(source, target):
        if "/deps/" in source:
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(FIRST / "target", folder / "target", ignore=ignore, copy_function=copy)
    stamp.write_bytes(lock_file)


def main():
    folder = take_folder()
    if folder != FIRST:
        copy_build(folder)
    # The same versions as the library itself was built with; cargo adds the cells' own crate.
    shutil.copyfile(ROOT / "Cargo.lock", folder / "Cargo.lock")
    os.environ["EVCXR_TMPDIR"] = str(folder)
    program = str(ROOT / "target" / "tools" / "bin" / "evcxr_jupyter")
    try:
        os.execv(program, [program, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"kernel.py: cannot start {program}: {error}; run `make setup`")


main()
