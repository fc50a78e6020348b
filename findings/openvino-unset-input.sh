#!/usr/bin/env bash
# OpenVINO 2026.4.1 (PyPI): a call that sets one of two inputs is taken without an error, and computes with what lies in the other.
#
# A guess would be that an input without a value is an error, as in onnxruntime. OpenVINO allocates it and runs: in an exported network with
# early exits, thresholds that were forgotten are whatever was there, and every image gets an answer.
# Seen: "onnxruntime: Required inputs (['t']) are missing" and "openvino: an answer".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

value = lambda name, kind: helper.make_tensor_value_info(name, kind, [1])
graph = helper.make_graph([helper.make_node("Less", ["x", "t"], ["y"])], "g", [value("x", TensorProto.FLOAT), value("t", TensorProto.FLOAT)],
                          [value("y", TensorProto.BOOL)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")
x = np.zeros(1, np.float32)
try:
    onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})
    raise SystemExit("onnxruntime takes it too")
except ValueError as error:
    print("onnxruntime:", str(error).split(" from")[0])
request = openvino.Core().compile_model("model.onnx", "CPU").create_infer_request()
found = request.infer({"x": x})
assert len(found) == 1
print("openvino: an answer")
PYTHON
