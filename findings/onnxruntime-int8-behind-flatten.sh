#!/usr/bin/env bash
# onnxruntime 1.32.0 (PyPI): a quantised Gemm is computed in int8 behind a Reshape, and in f32 behind a Flatten.
#
# A guess would be that both are alike, since both change the shape alone: QuantizeLinear, DequantizeLinear, Flatten, Gemm,
# QuantizeLinear is what a network's first linear layer looks like. The optimiser moves DequantizeLinear behind a Reshape, so that
# the Gemm stands between DequantizeLinear and QuantizeLinear and becomes a QGemm. It does not move it behind a Flatten: the Gemm
# stays in f32, and its weights are made f32 at each run. Answers are right either way; speed is lost, and nothing says so.
# Seen:
#   behind a Reshape: QuantizeLinear Reshape QGemm DequantizeLinear
#   behind a Flatten: QuantizeLinear DequantizeLinear Flatten DequantizeLinear Gemm QuantizeLinear DequantizeLinear
#   the same answers: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper

def given(name, values):
    return numpy_helper.from_array(np.array(values), name)

def optimised(flat):
    """The operations that onnxruntime makes of the file."""
    rng = np.random.default_rng(0)
    weights = [given("scale", np.float32(0.1)), given("zero", np.uint8(0)), given("weight_scale", np.full(8, 0.01, np.float32)),
               given("weight_zero", np.zeros(8, np.int8)), given("weight", rng.integers(-99, 99, (8, 64)).astype(np.int8)),
               given("bias", np.zeros(8, np.float32)), given("shape", np.array([-1, 64], np.int64))]
    node = helper.make_node
    nodes = [node("QuantizeLinear", ["x", "scale", "zero"], ["q"]), node("DequantizeLinear", ["q", "scale", "zero"], ["d"]), flat,
             node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
             node("Gemm", ["flat", "w", "bias"], ["y"], transB=1),
             node("QuantizeLinear", ["y", "scale", "zero"], ["yq"]), node("DequantizeLinear", ["yq", "scale", "zero"], ["out"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 4])],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = f"{sys.argv[1]}/optimised.onnx"
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer = session.run(None, {"x": rng.random((1, 4, 4, 4), np.float32)})[0]
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node], answer

behind_reshape, a = optimised(helper.make_node("Reshape", ["d", "shape"], ["flat"]))
behind_flatten, b = optimised(helper.make_node("Flatten", ["d"], ["flat"], axis=1))
print("behind a Reshape:", *behind_reshape)
print("behind a Flatten:", *behind_flatten)
print("the same answers:", bool(np.allclose(a, b, atol=0.11)))
assert "QGemm" in behind_reshape and "Gemm" not in behind_reshape, "changed: no QGemm behind a Reshape"
assert "Gemm" in behind_flatten and "QGemm" not in behind_flatten, "changed: a QGemm behind a Flatten as well"
PYTHON
