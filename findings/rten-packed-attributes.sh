#!/usr/bin/env bash
# rten 0.27.0 (crate): a file whose attributes have their whole numbers packed is refused, though it is the same model.
#
# Protobuf lets a writer put repeated numbers one by one or packed, and asks a reader to take both. A guess would be that rten does, as it takes
# both for the data of tensors. The numbers of attributes (axes, strides, pads) and the dimensions of tensors it takes one by one alone, as
# ONNX's own library writes them. A writer that packs them, such as the crate onnx-rs 0.1.3, makes files that onnx and onnxruntime
# read, and rten does not; loading such a file with onnx and saving it again is a way out.
# Seen: "onnxruntime: same", "rten one by one: loaded", "rten packed: FieldTypeMismatch".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON' | tee seen
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2])
graph = helper.make_graph([node], "g", [value("x")], [value("y")])
single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
# Field 8 with one number, twice; and once with two bytes of numbers.
packed = single.replace(b"\x40\x01\x40\x00", b"\x42\x02\x01\x00")
assert single != packed and onnx.load_from_string(single) == onnx.load_from_string(packed)
onnx.checker.check_model(packed, full_check=True)
x = np.array([[1, 2], [3, 4]], np.float32)
assert all((onnxruntime.InferenceSession(model).run(None, {"x": x})[0] == x.T).all() for model in (single, packed))
print("onnxruntime: same")
for name, model in [("single.onnx", single), ("packed.onnx", packed)]:
    with open(name, "wb") as file:
        file.write(model)
PYTHON
mkdir src
printf '[package]\nname = "seen"\nedition = "2024"\n\n[dependencies]\nrten = "=0.27.0"\n' >Cargo.toml
cat >src/main.rs <<'RUST'
fn main() {
    for (how, file) in [("one by one", "single.onnx"), ("packed", "packed.onnx")] {
        match rten::Model::load_file(file) {
            Ok(_) => println!("rten {how}: loaded"),
            Err(error) if format!("{error:?}").contains("FieldTypeMismatch") => println!("rten {how}: FieldTypeMismatch"),
            Err(error) => println!("rten {how}: {error:?}"),
        }
    }
}
RUST
cargo run --quiet | tee -a seen
[ "$(cat seen)" = "onnxruntime: same
rten one by one: loaded
rten packed: FieldTypeMismatch" ]
