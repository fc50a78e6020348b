#!/usr/bin/env bash
# OpenCV 5.0.0 (PyPI: opencv-python-headless 5.0.0.93): a linear layer (Gemm) in a branch of If runs only where the first call took that branch.
#
# A guess would be that a net that takes both branches in one order takes them in the other as well. What the first call does not reach is
# not prepared, and a later call that reaches it fails. A first call that takes the branch with the layer makes all later calls right.
# Seen, for inputs that go past the layer (0) or through it (1):
#   first past it, then through: [1.0, 1.0] error: > DNN/Gemm: constant B is not pre-packed ...
#   first through it, then past, then through: [10.0, -2.0] [1.0, 1.0] [10.0, -2.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node, info, FLOAT = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT
weight = numpy_helper.from_array(np.float32([[1, 1, 1, 1], [1, -1, 1, -1]]), "weight")
bias = numpy_helper.from_array(np.float32([0, 0]), "bias")
through = [node("Flatten", ["x"], ["flat"]), node("Gemm", ["flat", "weight", "bias"], ["z"], transB=1)]
through = helper.make_graph(through, "through", [], [info("z", FLOAT, [1, 2])], [weight, bias])
past = helper.make_graph([node("Identity", ["ones"], ["w"])], "past", [], [info("w", FLOAT, [1, 2])])
constants = [numpy_helper.from_array(np.float32([0]), "zero"), numpy_helper.from_array(np.ones((1, 2), np.float32), "ones")]
nodes = [node("Less", ["sign", "zero"], ["leaves"]), node("If", ["leaves"], ["y"], then_branch=past, else_branch=through)]
graph = helper.make_graph(nodes, "g", [info("x", FLOAT, [1, 1, 2, 2]), info("sign", FLOAT, [1])], [info("y", FLOAT, [1, 2])], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)


def calls(branches):
    """What one net gives when its calls take these branches, until one fails."""
    net, found = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8)), []
    for branch in branches:
        net.setInput(np.float32([1, 2, 3, 4]).reshape(1, 1, 2, 2), "x")
        net.setInput(np.float32([1 if branch else -1]), "sign")
        try:
            found.append(net.forward().ravel().tolist())
        except cv2.error as error:
            return [*found, "error: " + next((line.strip() for line in str(error).splitlines() if "pre-packed" in line), str(error))]
    return found


print("first past it, then through:", *(first := calls([0, 1])))
print("first through it, then past, then through:", *(second := calls([1, 0, 1])))
assert second == [[10, -2], [1, 1], [10, -2]]
assert first[0] == [1, 1] and "pre-packed" in str(first[1]), "changed: the second call does not fail"
PYTHON
