#!/usr/bin/env bash
# Runs a command whose program was built with `--features cuda` (or cudnn) on the emulator of emulator.cpp,
# which is compiled below target/emulator first. Needs CUDA_HOME (a toolkit) and a C++ compiler.
#   emulate.sh COMMAND...
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(command -v nvcc)")")}
out=$root/target/emulator
cxx=("${CXX:-g++}" -std=c++17 -O2 -fPIC -shared -w)
mkdir -p "$out/candle"
newest=$(find "$root/tests/cuda" "$root/src/kernels/cuda/kernels.cu" -newer "$out/.made" 2>/dev/null || echo first)
if [[ -n $newest ]]; then
  rm -f "$out/.made"
  # Functions that nobody calls, but that the bindings name, end the program.
  for library in libcuda libcublas libcublasLt libcurand libcudnn; do
    file=$(ls "$CUDA_HOME"/lib*/$library.so* "$CUDA_HOME"/lib*/stubs/$library.so* 2>/dev/null | head -1 || true)
    [[ -z $file ]] || nm -D --defined-only "$file" | awk '$2 ~ /[TW]/ {print $3}' | sed 's/@.*//'
  done | grep -E '^cu[A-Za-z]' | cat - <(printf '%s\n' cuProfilerInitialize) | sort -u >"$out/names"
  { echo '#include <stdio.h>'; echo '#include <stdlib.h>'
    sed 's/.*/__attribute__((weak)) void &(void) { fprintf(stderr, "emulator: & is missing\\n"); abort(); }/' "$out/names"
  } >"$out/stubs.c"
  "${CC:-cc}" -O0 -w -fPIC -c -o "$out/stubs.o" "$out/stubs.c"
  "${cxx[@]}" -o "$out/libcuda.so.1" -Wl,-soname,libcuda.so.1 "$root/tests/cuda/emulator.cpp" "$out/stubs.o" -ldl
  # The kernels find their threads' numbers and barriers there.
  cxx+=(-Wl,--no-as-needed "$out/libcuda.so.1" "-Wl,-rpath,$out")
  "${cxx[@]}" -o "$out/kernels_f32.so" -DREAL=float -DTYPE=f32 -include "$root/tests/cuda/device.h" -x c++ "$root/src/kernels/cuda/kernels.cu" &
  "${cxx[@]}" -o "$out/kernels_f64.so" -DREAL=double -DTYPE=f64 -include "$root/tests/cuda/device.h" -x c++ "$root/src/kernels/cuda/kernels.cu" &
  # candle's own kernels, of which half, bf16 and fp8 are left out.
  candle=$(cd "$root" && cargo metadata --format-version 1 --features cuda 2>/dev/null |
    python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-kernels"))')
  cp "$(dirname "$candle")"/src/*.cuh "$out/candle/"
  for header in compatibility.cuh cuda_fp16.h cuda_bf16.h cuda_fp8.h cuda.h; do : >"$out/candle/$header"; done
  for source in affine binary fill indexing reduce ternary unary; do
    cp "$(dirname "$candle")/src/$source.cu" "$out/candle/"
    "${cxx[@]}" -o "$out/candle/$source.so" -D__CUDA_ARCH__=0 -include "$root/tests/cuda/device.h" -I"$out/candle" -I"$CUDA_HOME/include/cccl" -x c++ "$out/candle/$source.cu" &
  done
  "${cxx[@]}" -o "$out/cast.so" -include "$root/tests/cuda/device.h" "$root/tests/cuda/cast.cpp" &
  for job in $(jobs -p); do wait "$job"; done
  for name in libcublas.so.12 libcublas.so.13 libcublasLt.so.12 libcublasLt.so.13 libcurand.so.10 libcudnn.so.9; do
    ln -sf libcuda.so.1 "$out/$name"
  done
  touch "$out/.made"
fi
export LD_LIBRARY_PATH=$out:$CUDA_HOME/lib:$CUDA_HOME/lib64:${LD_LIBRARY_PATH:-}
export EMULATED_KERNELS=$out/kernels_f32.so:$out/kernels_f64.so:$out/cast.so$(printf ':%s' "$out"/candle/*.so)
# The stand-ins' functions carry no versions, which the loader would note at every start.
exec "$@" 2> >(grep -v "no version information available" >&2)
