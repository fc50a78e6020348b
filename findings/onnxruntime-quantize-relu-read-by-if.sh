#!/usr/bin/env bash
# onnxruntime 1.32.0: static quantisation takes away a rectifier whose output a branch of `If` reads, and the model's answers change.
#
# A guess would be that `quantize_static` keeps what it doesn't quantise as it is. In the QDQ format a Relu behind a Conv is left
# out where the quantised range begins at 0, since rounding then clips what the Relu would. The Conv takes over the name of the Relu's
# output; those who read it in the main graph get the rounded, clipped value, but a branch of `If` reads the name itself, which
# is now what the Conv gives, negative values included. No warning is printed, onnx.checker has no complaint, and the condition is
# still right, so that only images that take this branch are answered from other features. Nodes inside of branches stay f32,
# also without a word. A network with early exits has just this form: whether its exit is sure is computed in the main graph, and the
# rest of the network is a branch that reads the trunk's activations.
# Seen: the branch's sum of rectified values [-1, 2, -3, 4] is 6; after quantisation 2, and the branch has the nodes it had.
# The way out: quantise the stages of the network as files of their own, before they are put together.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

logging.disable(logging.WARNING)


def branch(name, operator):
    node = helper.make_node(operator, ["features"], [name], keepdims=0)
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])])


nodes = [
    helper.make_node("Conv", ["image", "weight"], ["sums"]),
    helper.make_node("Relu", ["sums"], ["features"]),
    helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
    helper.make_node("Greater", ["largest", "limit"], ["sure"]),
    helper.make_node("If", ["sure"], ["answer"], then_branch=branch("early", "ReduceMax"), else_branch=branch("late", "ReduceSum")),
]
graph = helper.make_graph(
    nodes, "exit", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 2, 2])],
    [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [])],
    [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "weight"), numpy_helper.from_array(np.float32(100), "limit")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "float.onnx")
image = np.array([-1, 2, -3, 4], np.float32).reshape(1, 1, 2, 2)


class Calibration(CalibrationDataReader):
    left = [{"image": image}]

    def get_next(self):
        return self.left.pop() if self.left else None


quantize_static("float.onnx", "int8.onnx", Calibration(), quant_format=QuantFormat.QDQ)
quantized = onnx.load("int8.onnx")
onnx.checker.check_model(quantized, full_check=True)
answers = [float(onnxruntime.InferenceSession(name).run(None, {"image": image})[0]) for name in ("float.onnx", "int8.onnx")]
operators = [node.op_type for node in quantized.graph.node]
inside = [node.op_type for branch in quantized.graph.node[-1].attribute for node in branch.g.node]
print("answers", answers, "Relu left:", "Relu" in operators, "in the branches:", sorted(inside))
assert answers[0] == 6 and abs(answers[1] - 2) < 0.1, "the branch now reads something else"
assert "Relu" not in operators and sorted(inside) == ["ReduceMax", "ReduceSum"]
PYTHON
