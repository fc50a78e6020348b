#!/usr/bin/env bash
# PyTorch 2.15.0 (PyPI, on a CPU): what AOTInductor compiles hands a branch of torch.cond a tensor in another order than the branch reads, and says nothing.
#
# A guess would be that compiled programs compute what the exported one computes, or refuse. Inductor changes the memory layout of what a
# convolution reads to channels last, and compiles each branch for the layout that the exporter saw. Where a tensor is both read by a convolution
# and handed to a branch, the branch takes channels last for contiguous: the right numbers in the wrong places. An early-exit network is such a
# case: what leaves the trunk goes into the exit's convolution and into the branch that goes on. torch.compile checks the strides when the program
# runs, and raises an AssertionError; AOTInductor leaves these checks out. contiguous() and clone() before torch.cond change nothing. What helps
# is to hand tensors over flat and to give them their form again in the branch, or torch._inductor.config.layout_optimization = False.
# Seen: "as it is: AOTInductor gives the same numbers in another order, torch.compile raises"; "flat: both right"; "layout kept: both right".
# Needs a C++ compiler. Installs some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.15.0
cd "$folder"
export TORCHINDUCTOR_CACHE_DIR="$folder/cache"
venv/bin/python - 2>/dev/null <<'PYTHON'
import torch


class Model(torch.nn.Module):
    def __init__(self, flat):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.flat = flat

    def forward(self, x):
        x = torch.relu(x)
        y = self.convolution(x)
        if self.flat:
            form = lambda value: value.unflatten(1, (3, 8, 8))
            return torch.cond(y.sum() > 1e6, lambda x, y: form(y).clone(), lambda x, y: 2 * form(x), (x.flatten(1), y.flatten(1)))
        return torch.cond(y.sum() > 1e6, lambda x, y: y.clone(), lambda x, y: 2 * x, (x, y))


def compare(name, flat):
    torch.manual_seed(0)
    model, x = Model(flat).eval(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        right = program.module()(x)
        assert torch.equal(right, model(x))
        found = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=f"{name}.pt2"))(x)
        torch._dynamo.reset()
        try:
            compiled = torch.equal(torch.compile(model)(x), right)
        except AssertionError:
            compiled = "raises"
    return torch.equal(found, right), torch.equal(found.flatten().sort()[0], right.flatten().sort()[0]), compiled


seen = compare("plain", False)
assert seen == (False, True, "raises"), "as it is: AOTInductor is right or otherwise wrong, or torch.compile does not raise"
print("as it is: AOTInductor gives the same numbers in another order, torch.compile raises")
assert compare("flat", True) == (True, True, True), "flat: something differs"
print("flat: both right")
torch._inductor.config.layout_optimization = False
assert compare("kept", False) == (True, True, True), "layout kept: something differs"
print("layout kept: both right")
PYTHON
