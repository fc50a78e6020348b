#!/usr/bin/env bash
# pulp 0.22.3 (Rust, x86-64): the same generic maximum drops NaN or keeps it, by the processor and by the order of its operands.
#
# A guess would be that code written once for pulp's `Simd` trait gives the same values with all instructions, or, as
# `f32::max` does, drops NaN everywhere. With AVX2 `max_f32s(a, b)` is the processor's instruction, which gives `b` where one
# of both is NaN; without vector instructions (`Arch::Scalar`) it is `f32::max`. So a rectifier written as
# `max_f32s(zero, x)` keeps NaN on a user's machine and turns it into 0 where there are no vectors, and one written as
# `max_f32s(x, zero)` turns it into 0 on both; then the loss of a network that has diverged may look finite. The documentation
# of the trait says nothing; a comment in the source wants the minimum and maximum of x86 to propagate NaN.
# Seen: "AVX2: max(0, NaN) = NaN, max(NaN, 0) = 0" and "scalar: max(0, NaN) = 0, max(NaN, 0) = 0".
set -euo pipefail
grep -q -w avx2 /proc/cpuinfo || { echo "this needs a processor with AVX2" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_TARGET_DIR=$folder/target
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "maximum"
version = "0.0.0"
edition = "2021"

[dependencies]
pulp = "=0.22.3"
TOML
cat >src/main.rs <<'RUST'
use pulp::{Arch, Simd, WithSimd};

struct Maximum(f32, f32);

impl WithSimd for Maximum {
    type Output = f32;
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let both = simd.max_f32s(simd.splat_f32s(self.0), simd.splat_f32s(self.1));
        simd.reduce_sum_f32s(both) / S::F32_LANES as f32
    }
}

fn main() {
    let v3 = pulp::x86::V3::try_new().expect("AVX2");
    for (name, arch) in [("AVX2", Arch::V3(v3)), ("scalar", Arch::Scalar)] {
        let first = arch.dispatch(Maximum(0.0, f32::NAN));
        let second = arch.dispatch(Maximum(f32::NAN, 0.0));
        println!("{name}: max(0, NaN) = {first}, max(NaN, 0) = {second}");
    }
}
RUST
seen=$(cargo run --quiet)
echo "$seen"
[ "$seen" = "AVX2: max(0, NaN) = NaN, max(NaN, 0) = 0
scalar: max(0, NaN) = 0, max(NaN, 0) = 0" ]
