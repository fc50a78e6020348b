#!/bin/sh
# How reference records are made on an NVIDIA GPU, also in several short leases of one: each run keeps a checkpoint after
# every epoch below datasets/runs/, and the same command goes on from the last. Epochs, batches, the constant step size and the
# absence of augmentation are those of the authors' scripts; the standard ResNet-110, which they did not train, has a cosine and
# augmentation instead.
#
#   datasets/reference/gpu.sh build     on a machine with a CUDA toolkit: programs that can be carried, 51 MB each (13 compressed),
#                                       target/carried/branchynet and, for benches/gpu.py, speed
#   datasets/reference/gpu.sh train     on the machine with the GPU, from the folder that holds the program and datasets/*.safetensors
#   datasets/reference/gpu.sh evaluate  there too: writes the records to datasets/reference/
#
# RUNS names some of: lenet lenet-1 lenet-2 alexnet alexnet-1 alexnet-2 resnet110 resnet110-standard. NOT YET RUN on a GPU: the
# records in this folder are those of make.sh.
set -eu
settings() {
  case $1 in
  lenet | lenet-*) echo "lenet --baseline-epochs 50 --epochs 100 --batch-size 512 --final-rate 1" ;;
  alexnet | alexnet-*) echo "alexnet --baseline-epochs 50 --epochs 100 --batch-size 512 --final-rate 1 --augment no" ;;
  resnet110) echo "resnet110 --baseline-epochs 100 --epochs 100 --batch-size 64 --final-rate 1 --augment no" ;;
  resnet110-standard) echo "resnet110-standard --baseline-epochs 100 --epochs 100 --batch-size 128 --augment yes" ;;
  *) echo "gpu.sh: there is no run $1" >&2 && exit 2 ;;
  esac
}
seed() { case $1 in *-[0-9]) echo "${1##*-}" ;; *) echo 0 ;; esac; }
case ${1:-} in
build)
  cd "$(dirname "$0")/../.."
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
  for run in ${RUNS:-lenet lenet-1 lenet-2 alexnet alexnet-1 alexnet-2 resnet110 resnet110-standard}; do
    chosen=$(settings "$run")
    # shellcheck disable=SC2086
    set -- "$1" $chosen --seed "$(seed "$run")" --device "${DEVICE:-cuda}" --precision "${PRECISION:-f32}"
    verb=$1 && shift
    if [ "$verb" = evaluate ]; then
      ${PROGRAM:-./branchynet} evaluate "$@" --output "datasets/reference/$run.safetensors.gz"
    else
      ${PROGRAM:-./branchynet} train "$@"
    fi
    set -- "$verb"
  done
  ;;
*)
  sed -n '2,14s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
