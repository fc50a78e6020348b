#!/bin/sh
# How the exit records in this folder were made: each network with its default settings (`branchynet --help`), on the CPU.
# The settings, the history of the training and the commit are inside each record; `branchynet sweep FILE` prints them.
# LeNet takes some minutes on two cores, AlexNet most of an hour, ResNet-110 about as long for its few epochs.
set -eu
cd "$(dirname "$0")/../.."
for network in ${*:-lenet alexnet resnet110}; do
  cargo run --quiet -- train "$network"
  cargo run --quiet -- evaluate "$network" --output "datasets/reference/$network.safetensors.gz"
done
