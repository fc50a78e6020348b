#!/usr/bin/env bash
# tract 0.23.9 (PyPI): an output that a Cast to int64 makes cannot be read from Python, though the model loads and runs.
#
# A guess would be that an output declared as int64 comes out as int64, as it does from Where, ArgMax or Add. tract takes integers that a Cast
# makes for dimensions of tensors (its type TDim), and its Python interface has no array for them. So a model that is right in
# onnxruntime has an unreadable output; Where with two constants says the same and comes out.
# Seen: "where: [1]" and "cast: Unsupported DatumType in the public API TDim".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 tract==0.23.9
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper


def seen(node):
    constants = [helper.make_tensor("one", TensorProto.INT64, [1], [1]), helper.make_tensor("zero", TensorProto.INT64, [1], [0])]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.BOOL, [1])],
                              [helper.make_tensor_value_info("y", TensorProto.INT64, [1])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    x = np.array([True])
    assert onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})[0].tolist() == [1]
    output = tract.onnx().load("model.onnx").into_model().into_runnable().run([x])[0]
    try:
        return str(output.to_numpy())
    except Exception as error:
        return str(error).splitlines()[0]


where = seen(helper.make_node("Where", ["x", "one", "zero"], ["y"]))
cast = seen(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64))
print(f"where: {where}\ncast: {cast}")
assert where == "[1]" and "TDim" in cast
PYTHON
