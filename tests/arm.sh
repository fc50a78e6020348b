#!/bin/sh
# Runs the tests of operations and of networks for ARM, whose NEON registers hold four numbers, under an emulator.
# Needs (Debian) qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross, and `rustup target add
# aarch64-unknown-linux-gnu`; compiles all dependencies into target/aarch64, some minutes.
set -e
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="$PWD/target/aarch64"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
# candle's matrix products are written for ARM processors with 16-bit floats.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-Ctarget-feature=+fp16"
exec cargo test --target aarch64-unknown-linux-gnu --test ops --test networks
