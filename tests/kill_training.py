"""Kills `branchynet train` three times with SIGKILL at random moments and compares what comes of it, bit for bit, with a run
that was left alone: every weight, running statistic and moment of Adam.

    kill_training.py [NETWORK [OPTION...]]     default: alexnet on 3,000 images, 2 + 3 epochs

The small version of this is a test (tests/training.rs); this one takes minutes. Both runs are of one identity, so the first is
moved aside for the second, and both are removed in the end.
"""

import pathlib
import random
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARGUMENTS = sys.argv[1:] or ["alexnet", "--images", "3000", "--baseline-epochs", "2", "--epochs", "3"]
COMMAND = ["cargo", "run", "--quiet", "--", "train", *ARGUMENTS, "--seed", str(random.randrange(10**6))]


def start():
    # A group of its own: cargo and the program die together.
    return subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0)


def finish():
    process = start()
    output, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{' '.join(COMMAND)} failed")
    return output


def tensors(path):
    """The data section of a safetensors file; the header before it holds times, which differ."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little"):]


def main():
    subprocess.run(["cargo", "build", "--quiet"], cwd=ROOT, check=True)
    runs = ROOT / "datasets" / "runs"
    before = set(runs.glob("*"))
    started = time.time()
    finish()
    whole = time.time() - started
    undisturbed = {path.name: tensors(path) for path in set(runs.glob("*")) - before}
    for name in undisturbed:
        (runs / name).unlink()
    for turn in range(3):
        process = start()
        moment = random.uniform(0.2, 0.4) * whole
        time.sleep(moment)
        subprocess.run(["kill", "-KILL", f"-{process.pid}"], check=True)
        process.communicate()
        print(f"killed after {moment:.1f} s of {whole:.1f}")
    found = re.findall(r"found (\d+) of (\d+) epochs", finish())
    print("the last start found", ", ".join(f"{a} of {b} epochs" for a, b in found) or "nothing")
    ok = bool(undisturbed)
    for name, data in sorted(undisturbed.items()):
        same = (runs / name).exists() and tensors(runs / name) == data
        print(f"{name}: {len(data)} bytes of weights and moments {'agree' if same else 'DIFFER'}")
        ok &= same
        (runs / name).unlink(missing_ok=True)
    sys.exit(not ok)


main()
