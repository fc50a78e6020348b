#!/usr/bin/env bash
# MNN 3.6.1 (PyPI): load_module_from_file(..., thread_num=1) runs on four threads; numThread 1 of a runtime manager runs on one.
#
# A guess would be that the argument thread_num, whose default is 4, says how many threads a module runs on. Whatever it says, three more
# threads are started; they spin, so on a busy machine an image may take a hundred times as long as on one thread. A runtime manager's
# numThread is heeded.
# Seen, threads started beside those that were there: "thread_num=1: 3" and "numThread 1: 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 MNN==3.6.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(np.ones((64, 3, 3, 3), np.float32), "w")
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], "g",
                          [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
                          [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 32, 32])], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")
PYTHON
venv/bin/mnnconvert -f ONNX --modelFile model.onnx --MNNModel model.mnn --bizCode b >/dev/null
cat >run.py <<'PYTHON'
import os
import sys

import MNN
import numpy as np

threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
how = {"thread_num=1": lambda: {"thread_num": 1},
       "numThread 1": lambda: {"runtime_manager": MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1},))}}[sys.argv[1]]
module = MNN.nn.load_module_from_file("model.mnn", ["x"], ["y"], **how())
image = np.ones((1, 3, 32, 32), np.float32)
result = module.onForward([MNN.expr.const(image, list(image.shape), MNN.expr.NCHW, MNN.expr.float)])[0].read()
assert result.max() == 27
print(f"{sys.argv[1]}: {threads() - before}")
PYTHON
one=$(venv/bin/python run.py "thread_num=1" | tail -1) two=$(venv/bin/python run.py "numThread 1" | tail -1)
printf '%s\n' "$one" "$two"
[ "$one" = "thread_num=1: 3" ] && [ "$two" = "numThread 1: 0" ]
