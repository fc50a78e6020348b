#!/usr/bin/env bash
# onnx 1.23.2 (PyPI): the reference evaluator's LRN normalises one channel only where the batch has one image; the others pass unchanged.
#
# A guess would be that what the standard's own package computes is what the standard says: each element divided by a power of the sum of
# squares of its neighbours across channels. Its loop over channels runs to x.shape[0], the batch, instead of x.shape[1]; with as many images
# as channels it is right. So a file with LRN, compared with this oracle at batch 1, seems wrong by far, and is right.
# Seen, of channels 1, 10, 100, 1000 with size 3, alpha 3, beta 1, bias 1:
#   onnxruntime 0.0098 0.001 0.0001 0.001
#   reference   0.0098 10.0 100.0 1000.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

x = np.array([1, 10, 100, 1000], np.float32).reshape(1, 4, 1, 1)
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 1, 1])
node = helper.make_node("LRN", ["x"], ["y"], size=3, alpha=3.0, beta=1.0, bias=1.0)
model = helper.make_model(helper.make_graph([node], "lrn", [value("x")], [value("y")]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)

by_the_standard = [float(x[0, c, 0, 0] / (1 + sum(x[0, i, 0, 0] ** 2 for i in range(max(0, c - 1), min(4, c + 2))))) for c in range(4)]
runtime = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0].ravel()
reference = ReferenceEvaluator(model).run(None, {"x": x})[0].ravel()
for name, found in [("onnxruntime", runtime), ("reference  ", reference)]:
    print(name, *(round(float(v), 4) for v in found))
assert np.allclose(runtime, by_the_standard, rtol=1e-5)
assert np.allclose(reference, [by_the_standard[0], 10, 100, 1000], rtol=1e-5)
PYTHON
