#!/usr/bin/env bash
# candle-core 0.11.1 (Rust), on the CPU: a rectifier turns NaN into 0, and other maxima keep it or drop it by where it stands.
#
# A guess, from PyTorch, where all of these give NaN, would be that a network that has diverged shows it: NaN in, NaN out.
# Here `relu` is `f32::max(x, 0)`, which drops NaN. `maximum` compares, and keeps the NaN of its first operand alone. The
# largest of a row (`max`) or of a window (max pooling) begins with the first value and compares: NaN stays in that place, and
# is passed over in any other. So a network whose first layer gives NaN has plain numbers behind its first rectifier, and its
# loss may look finite.
# The documentation of these says nothing of NaN.
# Seen: the lines at the end of this file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_TARGET_DIR=$folder/target
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "largest"
version = "0.0.0"
edition = "2021"

[dependencies]
candle-core = { version = "=0.11.1", default-features = false }
TOML
cat >src/main.rs <<'RUST'
use candle_core::{Device, Result, Tensor};

fn main() -> Result<()> {
    let row = |values: [f32; 4]| Tensor::new(&values, &Device::Cpu);
    let shown = |what: &str, values: Tensor| -> Result<()> {
        println!("{what}: {:?}", values.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    };
    let (nan, zeros) = (row([f32::NAN, -1.0, 1.0, 2.0])?, row([0.0; 4])?);
    shown("relu(NaN, -1, 1, 2)", nan.relu()?)?;
    shown("maximum((NaN, -1, 1, 2), 0)", nan.maximum(&zeros)?)?;
    shown("maximum(0, (NaN, -1, 1, 2))", zeros.maximum(&nan)?)?;
    shown("max(NaN, -1, 1, 2)", nan.max(0)?)?;
    shown("max(-1, NaN, 1, 2)", row([-1.0, f32::NAN, 1.0, 2.0])?.max(0)?)?;
    let pooled = |values: [f32; 4]| row(values)?.reshape((1, 1, 2, 2))?.max_pool2d(2);
    shown("max_pool2d of NaN, -1, 1, 2", pooled([f32::NAN, -1.0, 1.0, 2.0])?)?;
    shown("max_pool2d of -1, NaN, 1, 2", pooled([-1.0, f32::NAN, 1.0, 2.0])?)
}
RUST
seen=$(cargo run --quiet)
echo "$seen"
[ "$seen" = "relu(NaN, -1, 1, 2): [0.0, 0.0, 1.0, 2.0]
maximum((NaN, -1, 1, 2), 0): [NaN, 0.0, 1.0, 2.0]
maximum(0, (NaN, -1, 1, 2)): [0.0, 0.0, 1.0, 2.0]
max(NaN, -1, 1, 2): [NaN]
max(-1, NaN, 1, 2): [2.0]
max_pool2d of NaN, -1, 1, 2: [NaN]
max_pool2d of -1, NaN, 1, 2: [2.0]" ]
