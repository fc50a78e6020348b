#!/usr/bin/env bash
# Apache TVM 0.27.0.post1 (PyPI): an ONNX attribute of 0 is refused where the file does not spell the 0 out, as protocol buffers allow.
#
# A guess would be that a file that onnx's checker takes and onnxruntime runs has attributes that every reader can read. Some writers, Rust's
# onnx-rs and all of protocol buffers version 3, leave out a number that is 0; the type says that it is one. TVM asks which field is there.
# Seen: "as written: [6.]" of onnxruntime, "Cannot parse attribute" of TVM, and TVM's result after `attribute.i = attribute.i`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 apache-tvm==0.27.0.post1
cd "$folder"
venv/bin/python - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)
graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
keepdims = next(attribute for attribute in model.graph.node[0].attribute if attribute.name == "keepdims")
keepdims.ClearField("i")
assert keepdims.type == onnx.AttributeProto.INT and keepdims.i == 0
onnx.checker.check_model(model, full_check=True)
x = np.array([[4, 6, 5]], np.float32)
print("as written:", onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])
try:
    from_onnx(model)
    raise SystemExit("TVM takes it")
except ValueError as error:
    print("TVM:", str(error).splitlines()[0])
    assert "Cannot parse attribute" in str(error)
keepdims.i = keepdims.i
machine = relax.VirtualMachine(tvm.compile(from_onnx(model), tvm.target.Target("llvm")), tvm.cpu())
found = machine["main"](tvm.runtime.tensor(x)).numpy()
print("written out:", found)
assert found.tolist() == [6]
PYTHON
