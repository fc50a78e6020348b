#!/usr/bin/env bash
# cargo 1.95.0: with one CARGO_TARGET_DIR for two checkouts, `cargo run` in the second may run the first one's program.
#
# A guess would be that artefacts of packages in different folders are told apart. They are not: for members of a workspace
# the folder is no part of the hash in an artefact's name, so that two checkouts of a package (same name, same version)
# share one fingerprint, which compares the times of the sources with the time of the last build. A checkout whose
# files are older than the other's build counts as fresh, and nothing is compiled. `cargo run` prints no warning.
# Seen: "first", "first"; after `touch` of the source "second". The way out is a target folder for each checkout.
set -euo pipefail
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR
version=$(cargo --version | cut -d ' ' -f 2)
[ "$version" = 1.95.0 ] || { echo "this was seen with cargo 1.95.0, and here is $version" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for checkout in first second; do
  mkdir -p "$folder/$checkout/src"
  printf '[package]\nname = "answer"\nversion = "0.1.0"\nedition = "2024"\n' >"$folder/$checkout/Cargo.toml"
  echo "fn main() { println!(\"$checkout\") }" >"$folder/$checkout/src/main.rs"
done
# As a checkout has them that was made before the other one was built.
touch -d '1 hour ago' "$folder"/second/Cargo.toml "$folder"/second/src/main.rs
run() { (cd "$folder/$1" && CARGO_TARGET_DIR="$folder/target" cargo run --quiet); }
seen="$(run first) $(run second)"
touch "$folder/second/src/main.rs"
seen="$seen $(run second)"
echo "$seen"
[ "$seen" = "first first second" ]
