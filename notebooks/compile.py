"""Runs a cargo command and says, for what takes minutes, how many crates of how many are compiled.

    compile.py WHAT cargo ...    WHAT begins each line; what cargo prints is shown where it fails
"""

import os
import re
import subprocess
import sys
import time

EVERY = 30  # seconds between lines


def main():
    what, command = sys.argv[1], sys.argv[2:]
    start = said = time.monotonic()
    # Cargo counts for terminals alone, unless it is asked to.
    progress = {"CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "120", "CARGO_TERM_COLOR": "never"}
    cargo = subprocess.Popen(command, env=os.environ | progress, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines, count = [], None
    # Each state of the bar ends in a carriage return, which text mode reads as the end of a line.
    for line in cargo.stdout:
        bar = re.search(r"Building \[.*\] (\d+)/(\d+)", line)
        lines += [] if bar or not line.strip() else [line]
        count = bar or count
        if count and time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"   {what}: {count[1]} of {count[2]} crates after {(said - start) / 60:.1f} minutes", flush=True)
    if cargo.wait():
        sys.stderr.write("".join(lines))
        sys.exit(f"make: {what} could not be compiled: cargo's words are above")
    print(f"   {what}: done in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
