#!/usr/bin/env bash
# ExecuTorch 1.5.1 (PyPI, with PyTorch 2.14.0): a linear layer in a branch of torch.cond makes to_edge_transform_and_lower with XNNPACK refuse the program.
#
# A guess would be that what a delegate does not take runs in ExecuTorch's own kernels, as its documentation says. The partitioner asks that
# linear layers and poolings stay whole wherever they stand, but looks for them outside of branches alone; what is whole in the end and in no
# delegate is an error. The same program is taken without a partitioner, and by the older to_edge and to_backend (with a warning that it is
# deprecated), where the branch is then left to the kernels.
# Seen: "one step: Node aten_linear_default ... was not decomposed or delegated."; "no partitioner: [1.0]"; "two steps: [1.0]".
# Installs some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.14.0 executorch==1.5.1
cd "$folder"
venv/bin/python - 2>/dev/null <<'PYTHON'
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge, to_edge_transform_and_lower
from executorch.runtime import Runtime


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.ones_(self.linear.bias)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.linear(x), lambda x: x.clone(), (x,))


x = torch.full((1, 1), 2.0)
exported = torch.export.export(Model().eval(), (x,))


def ran(lowered):
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    return program.load_method("forward").execute([x])[0][0].tolist()


try:
    to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    raise SystemExit("one step: it is taken")
except RuntimeError as error:
    why = str(error).splitlines()[0]
    print("one step:", why)
    assert why.endswith("was not decomposed or delegated.")
found = ran(to_edge_transform_and_lower(exported)), ran(to_edge(exported).to_backend(XnnpackPartitioner()))
print("no partitioner:", found[0])
print("two steps:", found[1])
assert found == ([1], [1])
PYTHON
