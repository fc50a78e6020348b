"""Runs an ONNX file over images for `branchynet record`.

    onnx_logits.py MODEL [EXIT ...]

Prints one line of JSON: the input's shape and type, the exits, their classes, and the multiply-accumulates that it takes to leave
at each, or a text that says why they are unknown. Then it reads batches from standard input, the number of images (u32, little-endian) and
their values, and answers each with the logits of every exit, f32.
"""

import json
import os
import sys

import numpy as np
import onnx
import onnxruntime


def fail(what):
    sys.exit(f"{sys.argv[1]}: {what}")


def dims(value):
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]


def behind(graph, outputs):
    """The nodes that these values come from, by their place."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found, open_values = set(), list(outputs)
    while open_values:
        place = makers.get(open_values.pop())
        if place is not None and place not in found:
            found.add(place)
            open_values.extend(graph.node[place].input)
    return found


# Operations that multiply, with the place of the second factor among their inputs; those of whole numbers have scale and zero
# in between.
FACTOR = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}
# These multiply too, and are not counted.
UNCOUNTED = {"Attention", "DeformConv", "Einsum", "GRU", "If", "Loop", "LSTM", "RNN", "Scan"}


def costs(model, exits, image):
    """Multiply-accumulates of an image that leaves at each exit, with all exits before it; a text where the file does not tell."""
    # One image, of the data's size, where the file leaves that open; by their names what it leaves open inside.
    first, open_sizes = model.graph.input[0].type.tensor_type.shape.dim, {}
    for dim, size in zip(first, [1, *image]):
        if not dim.dim_value:
            open_sizes[dim.dim_param] = size
            dim.dim_value = size
    for value in [*model.graph.value_info, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in open_sizes:
                dim.dim_value = open_sizes[dim.dim_param]
    batch = first[0].dim_value
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:
        return str(error).partition("\n")[0]
    shapes = {value.name: dims(value) for value in [*graph.value_info, *graph.input, *graph.output]}
    shapes |= {weights.name: list(weights.dims) for weights in graph.initializer}
    nodes, sums = set(), []
    for exit in exits:
        nodes |= behind(graph, [exit])
        total = 0
        for node in (graph.node[i] for i in nodes):
            if node.domain not in ("", "ai.onnx") or node.op_type in UNCOUNTED:
                return f"{node.op_type} is not counted"
            if place := FACTOR.get(node.op_type):
                output, weight, given = (shapes.get(name) for name in (node.output[0], node.input[place], node.input[0]))
                if not output or not weight or not given or None in output + weight + given:
                    return f"the file does not tell the shapes at {node.op_type} {node.name}"
                kind = node.op_type
                if kind == "ConvTranspose":
                    total += np.prod(given, dtype=float) * np.prod(weight[1:])
                else:
                    each = np.prod(weight[1:]) if "Conv" in kind else np.prod(weight) / output[-1] if kind == "Gemm" else given[-1]
                    total += np.prod(output, dtype=float) * each
        sums.append(total / batch)
    return sums


def main():
    path, exits = sys.argv[1], sys.argv[2:]
    try:
        model = onnx.load(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # each has its own kinds
        fail(str(error).splitlines()[0])
    inputs, outputs = session.get_inputs(), {output.name: output for output in session.get_outputs()}
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in ("tensor(float)", "tensor(uint8)"):
        given = ", ".join(f"{value.name} {value.shape} {value.type}" for value in inputs)
        fail(f"one input of images is expected, (batch, channels, height, width) in f32 or u8, got {given}")
    for exit in exits:
        if exit not in outputs:
            fail(f"there is no output {exit}; there are {', '.join(outputs)}")
    exits = exits or list(outputs)
    if len(exits) < 2 or len(set(exits)) < len(exits):
        fail(f"two exits or more are needed, each once, got {', '.join(exits)}")
    classes = outputs[exits[0]].shape[-1]
    for exit in exits:
        shape = outputs[exit].shape
        if len(shape) != 2 or shape[1] != classes or not isinstance(classes, int) or outputs[exit].type != "tensor(float)":
            fail(f"output {exit} is {outputs[exit].type} of shape {shape}, and an exit gives logits in f32 of shape (batch, classes), as many classes as the others; name the exits by --exits")
    batch, *image = inputs[0].shape
    print(json.dumps({"image": [dim if isinstance(dim, int) else None for dim in image], "bytes": inputs[0].type == "tensor(uint8)",
                      "exits": exits, "classes": classes, "costs": costs(model, exits, json.loads(os.environ["IMAGE"]))}), flush=True)
    kind = np.uint8 if inputs[0].type == "tensor(uint8)" else np.float32
    read, write = sys.stdin.buffer, sys.stdout.buffer
    while head := read.read(8):
        count, size = np.frombuffer(head, np.uint32)
        images = np.frombuffer(read.read(int(size)), kind).reshape(int(count), *json.loads(os.environ["IMAGE"]))
        step = batch if isinstance(batch, int) else count
        parts = []
        for start in range(0, count, step):
            part = images[start:start + step]
            # A file for a fixed batch gets the last image more than once.
            full = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
            parts.append([logits[:len(part)] for logits in session.run(exits, {inputs[0].name: full})])
        for logits in zip(*parts):
            write.write(np.concatenate(logits).astype(np.float32).tobytes())
        write.flush()


main()
