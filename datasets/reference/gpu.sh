#!/bin/sh
# The reference runs of runs.csv on an NVIDIA GPU that is lent for short times and has neither network nor Snakemake: each run
# keeps a checkpoint after every epoch below datasets/runs/, and the same command goes on from the last.
#
#   datasets/reference/gpu.sh build     on a machine with a CUDA toolkit: programs that can be carried, 85 MB each (12 compressed),
#                                       target/carried/branchynet and, for benches/gpu.py, speed
#   datasets/reference/gpu.sh train     on the machine with the GPU, from the folder that holds the program and datasets/*.safetensors
#   datasets/reference/gpu.sh evaluate  there too: writes the records to datasets/reference/
#
# LINES names some of the lines, TABLE another list than runs.csv.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
build)
  cd "$here/../.."
  # Without the dynamic linking that notebooks need.
  RUSTFLAGS="" CARGO_TARGET_DIR=target/carried/build cargo build --quiet --features cudnn --bin branchynet
  RUSTFLAGS="" CARGO_TARGET_DIR=target/carried/build cargo bench --quiet --profile dev --features cudnn --bench speed --no-run
  cp target/carried/build/*/debug/branchynet target/carried/
  cp "$(find target/carried/build/*/debug/deps -name 'speed-*' -perm -u+x ! -name '*.d' -printf '%T@ %p\n' | sort -rn | head -1 | cut -d' ' -f2)" target/carried/speed
  strip target/carried/branchynet target/carried/speed
  ls -l target/carried
  ;;
train | evaluate)
  BRANCHYNET_DIR=$PWD && export BRANCHYNET_DIR
  sed 1d "${TABLE:-$here/runs.csv}" | while IFS=";" read -r line network settings seeds keeps hours; do
    case " ${LINES:-$line} " in *" $line "*) ;; *) continue ;; esac
    for seed in $(seq "${seeds%-*}" "${seeds#*-}"); do
      kept=
      [ "$1" = train ] || kept="--output datasets/reference/$line-$seed.safetensors.gz"
      [ "$1$keeps" != evaluatesummary ] || kept="--summary --output datasets/reference/summaries/$line-$seed.json"
      # shellcheck disable=SC2086
      ${PROGRAM:-./branchynet} "$1" "$network" $settings --seed "$seed" --device "${DEVICE:-cuda}" --precision "${PRECISION:-f32}" $kept </dev/null
    done
  done
  ;;
*)
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
