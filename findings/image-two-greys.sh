#!/usr/bin/env bash
# image 0.25.10 (crate): one picture in colour has two grey versions. DynamicImage::to_luma8 rounds a sum of f32, whose weights it derives
# from the primaries; imageops::grayscale and Pixel::to_luma cut off a sum of whole numbers, 2126, 7152 and 722 of 10,000.
#
# A guess would be that all ways from RGB to 8 bits of grey in one crate are one function, as they name one standard. So who prepares
# pictures elsewhere as a Rust program does (in a browser, in Python), with the integers that the crate's source names,
# is off by one for half of the colours; the two are alike where red, green and blue are, so pictures in grey do not show it.
# Seen, of all 256³ colours: alike 8390144, apart by one 8387072, by more 0; of 256 greys alike 256
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "greys"
version = "0.1.0"
edition = "2024"
[dependencies]
image = { version = "=0.25.10", default-features = false }
[profile.dev]
opt-level = 1
TOML
cat >"$folder/src/main.rs" <<'RUST'
use image::{DynamicImage, Rgb, RgbImage, imageops::grayscale};
fn main() {
    let every = RgbImage::from_fn(4096, 4096, |x, y| Rgb([x as u8, y as u8, (x >> 8 << 4 | y >> 8) as u8]));
    let (whole, float) = (grayscale(&every), DynamicImage::ImageRgb8(every.clone()).to_luma8());
    let mut apart = [0; 3];
    whole.iter().zip(float.iter()).for_each(|(a, b)| apart[usize::from(a.abs_diff(*b)).min(2)] += 1);
    let grey = every.pixels().zip(whole.pixels().zip(float.pixels())).filter(|(p, _)| p.0[0] == p.0[1] && p.0[1] == p.0[2]);
    let alike = grey.clone().filter(|(_, (a, b))| a == b).count();
    println!("alike {}, apart by one {}, by more {}; of {} greys alike {alike}", apart[0], apart[1], apart[2], grey.count());
}
RUST
seen=$(cd "$folder" && CARGO_TARGET_DIR="$folder/target" cargo run --quiet)
echo "$seen"
[ "$seen" = "alike 8390144, apart by one 8387072, by more 0; of 256 greys alike 256" ]
