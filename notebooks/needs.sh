#!/bin/sh
# Says all at once what this machine lacks for set-up, and how to get it. PYTHON names the Python to use.
missing=0
lacks() {
  echo "make: $1" >&2
  missing=1
}
if ! command -v cargo >/dev/null; then
  lacks "cargo is missing: install Rust 1.95 or later from https://rustup.rs"
elif ! cargo --version | awk '{split($2, v, "."); new = v[1] > 1 || v[2] >= 95} END {exit !new}'; then
  lacks "Rust 1.95 or later is needed, and cargo --version says \"$(cargo --version 2>&1 | tail -1)\": rustup update"
elif ! command -v rustup >/dev/null && ! test -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library"; then
  lacks "the Rust sources are missing, which the kernel needs: install rust-src with your system's packages, or Rust from https://rustup.rs"
fi
if ! command -v "$PYTHON" >/dev/null; then
  lacks "$PYTHON is missing: install Python 3.11 or later with venv, or name one with PYTHON=..."
elif ! "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  lacks "$PYTHON is older than 3.11 or lacks venv (Debian: apt install python3-venv)"
fi
command -v cc >/dev/null || lacks "a C compiler and linker (cc) is missing (Debian: apt install build-essential)"
exit $missing
