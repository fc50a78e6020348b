#!/usr/bin/env bash
# OpenCV 5.0.0 (PyPI: opencv-python-headless 5.0.0.93): with an If inside a branch of an If, one net that is called several times gives
# some inputs the answer of an earlier call, without an error.
#
# A guess would be that a net gives for an input what a net that was just read gives for it. With one condition it does. With another
# inside, the fifth call below gets the answer of the third. A net that is read again for each input is right.
# Seen, for inputs that lead to the answers 3, 2, 1, 2, 3:
#   onnxruntime: 3 2 1 2 3
#   OpenCV, a new net for each input: 3 2 1 2 3
#   OpenCV, one net: 3 2 1 2 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

node, FLOAT = helper.make_node, TensorProto.FLOAT


def output(name):
    return helper.make_tensor_value_info(name, FLOAT, [1, 2])


def gives(constant, name):
    """A branch that gives a constant."""
    return helper.make_graph([node("Identity", [constant], [name])], name, [], [output(name)])


inner = [node("Less", ["second", "zero"], ["leaves2"]), node("If", ["leaves2"], ["y2"], then_branch=gives("two", "a"), else_branch=gives("three", "b")),
         node("Identity", ["y2"], ["c"])]
inner = helper.make_graph(inner, "inner", [], [output("c")])
nodes = [node("Less", ["first", "zero"], ["leaves1"]), node("Identity", ["u"], ["second"]),
         node("If", ["leaves1"], ["y"], then_branch=gives("one", "d"), else_branch=inner)]
constants = [numpy_helper.from_array(np.float32([0]), "zero")]
constants += [numpy_helper.from_array(np.full((1, 2), value, np.float32), name) for value, name in [(1, "one"), (2, "two"), (3, "three")]]
inputs = [helper.make_tensor_value_info(name, FLOAT, [1]) for name in ("first", "u")]
graph = helper.make_graph(nodes, "nested", inputs, [output("y")], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
file = model.SerializeToString()
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def read():
    return cv2.dnn.readNetFromONNX(np.frombuffer(file, np.uint8))


def forward(net, given):
    for name, value in given.items():
        net.setInput(value, name)
    return int(net.forward().ravel()[0])


wanted = {1: (-1, 1), 2: (1, -1), 3: (1, 1)}
given = [{name: np.float32([value]) for name, value in zip(("first", "u"), wanted[answer])} for answer in (3, 2, 1, 2, 3)]
net = read()
right = [int(session.run(None, values)[0][0, 0]) for values in given]
fresh, one = [forward(read(), values) for values in given], [forward(net, values) for values in given]
print("onnxruntime:", *right)
print("OpenCV, a new net for each input:", *fresh)
print("OpenCV, one net:", *one)
assert right == fresh == [3, 2, 1, 2, 3]
assert one != right, "changed: one net is right"
PYTHON
