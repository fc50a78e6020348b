#!/usr/bin/env bash
# onnx 1.23.2: `onnx.utils.extract_model` and `onnx.compose.add_prefix` do not look into the branches of `If`, so that valid models become invalid.
#
# A guess would be that to extract a model from its own inputs to its own outputs gives that model, and that a prefix in front
# of all names changes nothing but names. ONNX lets a branch read the names around it. `extract_model` keeps the initialisers
# and nodes that nodes of the main graph read; what a branch alone reads is dropped, and it stops at the check of what it has written.
# `add_prefix` renames what the main graph defines and the nodes in it, not what branches read of it; it says nothing, and the checker and
# onnxruntime refuse the result. `onnx.compose.merge_models` takes its prefixes from there, which is how two models with equal
# names are put together. A network with early exits has the rest of the network in such a branch, with all of its weights outside.
# Seen: the model is valid; extracted whole and with a prefix it is refused because of "weight", which the branch alone reads.
# The way out: cut and join the network before its exits are put around it, or write what a branch reads into the branch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper


def branch(name, operator, *reads):
    return helper.make_graph([helper.make_node(operator, reads, [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])])


rest = branch("late", "Mul", "image", "weight")
nodes = [
    helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0),
    helper.make_node("Greater", ["largest", "limit"], ["sure"]),
    helper.make_node("If", ["sure"], ["answer"], then_branch=branch("early", "Identity", "image"), else_branch=rest),
]
graph = helper.make_graph(
    nodes, "exit", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [2])],
    [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [2])],
    [numpy_helper.from_array(np.array([2, 3], np.float32), "weight"), numpy_helper.from_array(np.float32(1), "limit")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")


def refused(work):
    try:
        work()
    except onnx.checker.ValidationError as error:
        return str(error).partition("input '")[2].partition("'")[0]
    return "nothing"


whole = refused(lambda: onnx.utils.extract_model("model.onnx", "whole.onnx", ["image"], ["answer"]))
prefixed = compose.add_prefix(model, "a_")
renamed = refused(lambda: onnx.checker.check_model(prefixed, full_check=True))
print("extracted whole, refused because of", whole, "- with a prefix, refused because of", renamed)
assert (whole, renamed) == ("weight", "weight")
PYTHON
