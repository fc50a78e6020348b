#!/usr/bin/env bash
# onnxruntime 1.32.0 (PyPI), CPU, x86-64: beside a NaN, ReduceMax, ReduceMin and GlobalMaxPool may give a number that is neither NaN
# nor the extreme of the other numbers.
#
# ONNX's operators do not say what becomes of NaN. A guess would be that it is the result, as in NumPy and PyTorch, or that it is passed
# over, as in `np.nanmax`. Neither holds: the result hangs on where the NaN lies. So a network whose activations went wrong may give
# logits, and a confidence, that look like any others; a check for NaN behind a pooling or a maximum does not see it. Look before them.
# Seen:
#   ReduceMax     [1, nan, 2, 3]: 2, NumPy nan, without NaN 3
#   ReduceMax     [nan, 1, 2, 3]: nan, NumPy nan, without NaN 3
#   ReduceMin     [3, nan, 2, 1]: 2, NumPy nan, without NaN 1
#   GlobalMaxPool [5, 4, nan, 2]: 4, NumPy nan, without NaN 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper

def of(operator, numbers):
    """What the operator gives for these numbers, as a vector or as an image of one row."""
    pooling = operator == "GlobalMaxPool"
    shape, out = ([1, 1, 1, len(numbers)], [1, 1, 1, 1]) if pooling else ([1, len(numbers)], [1, 1])
    node = helper.make_node(operator, ["x"], ["y"], **{} if pooling else {"axes": [1]})
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array(numbers, np.float32).reshape(shape)})[0].item()

nan = np.nan
for operator, numbers in [("ReduceMax", [1, nan, 2, 3]), ("ReduceMax", [nan, 1, 2, 3]), ("ReduceMin", [3, nan, 2, 1]),
                          ("GlobalMaxPool", [5, 4, nan, 2])]:
    whole, rest = (np.min, np.nanmin) if operator == "ReduceMin" else (np.max, np.nanmax)
    print(f"{operator:13} {numbers}: {of(operator, numbers):g}, NumPy {whole(numbers):g}, without NaN {rest(numbers):g}")
PYTHON
diff "$folder/seen" <(sed -n 's/^#   \(.*: .*, NumPy\)/\1/p' "$0")
