#!/usr/bin/env bash
# rustc 1.95.0, Linux: std::backtrace names no function of a library that was loaded after the first backtrace was taken.
#
# A guess would be that each backtrace looks at the libraries that are loaded then. The standard library lists them once, at
# the first backtrace of the process, and has no call that lists them again (the crate it is made of has, and keeps the
# matter open as https://github.com/rust-lang/backtrace-rs/issues/238). So in a program that loads code as it runs, as a Rust
# notebook does for each cell, only what was loaded before the first backtrace, or the first panic, has names.
# Seen: "first_library: named" and "second_library: <unknown>", the libraries being alike.
set -euo pipefail
version=$(rustc --version | cut -d ' ' -f 2)
[ "$version" = 1.95.0 ] || { echo "this was seen with rustc 1.95.0, and here is $version" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for name in first_library second_library; do
  cat >"$name.rs" <<RUST
#[unsafe(no_mangle)]
pub extern "C-unwind" fn $name(look: extern "C-unwind" fn()) {
    look();
    std::hint::black_box(0);
}
RUST
  rustc --crate-type cdylib -o "lib$name.so" "$name.rs"
done
cat >main.rs <<'RUST'
use std::backtrace::Backtrace;
use std::ffi::{CString, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

extern "C-unwind" fn look() {
    let trace = Backtrace::force_capture().to_string();
    println!("{}", if trace.contains("_library") { "named" } else if trace.contains("<unknown>") { "<unknown>" } else { "?" });
}

fn main() {
    for name in ["first_library", "second_library"] {
        print!("{name}: ");
        let path = CString::new(format!("./lib{name}.so")).unwrap();
        let symbol = CString::new(name).unwrap();
        // RTLD_NOW
        let function = unsafe { dlsym(dlopen(path.as_ptr(), 2), symbol.as_ptr()) };
        let function: extern "C-unwind" fn(extern "C-unwind" fn()) = unsafe { std::mem::transmute(function) };
        function(look);
    }
}
RUST
rustc -o main main.rs
seen=$(./main)
echo "$seen"
[ "$seen" = "first_library: named
second_library: <unknown>" ]
