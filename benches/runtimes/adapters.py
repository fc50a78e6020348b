"""Runtimes that Python can call, each a function that loads a file: `adapters.py RUNTIME JOB` runs a job of benches/runtimes.py, answers
for all images, then times for each line of standard input, and prints both as a line of JSON. src/lib.rs does the same in Rust and job.mjs in JavaScript. A job of
benches/speed.py has cells: each line of standard input names one, and is answered by a line that says how fast it is.

A function gets the file, the names of inputs and outputs, and threads, and returns one that takes arrays and gives arrays.
"""

import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import warnings

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
NAME = sys.argv[1]
JOB = json.loads(pathlib.Path(sys.argv[2]).read_text())


def made(path, ending, *commands):
    """A file made of a file by commands, once: beside it, with another ending."""
    target = pathlib.Path(path).with_suffix(ending)
    if not target.exists():
        half = target.with_name("half-" + target.name)
        for command in commands:
            done = subprocess.run([str(word) for word in command(half)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=target.parent)
            if done.returncode:
                sys.exit(f"{pathlib.Path(str(command(half)[0])).name} ended with {done.returncode}: {told(done.stdout)}")
        half.rename(target)
    return str(target)


def told(text):
    """The line of an output that says most of what went wrong."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line)] or [line for line in lines if "error" in line.lower()] or lines
    return errors[-1] if errors else "it says nothing"


def program(name):
    return pathlib.Path(sys.executable).with_name(name)


def onnxruntime(path, inputs, outputs, threads=1):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda values: session.run(outputs, dict(zip(inputs, values)))


def compiled_by_openvino(path, threads, hint):
    import openvino
    # Where a processor has bfloat16 it takes that unless it is told not to.
    precision = os.environ.get("OPENVINO_PRECISION", "f32")
    return openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision})


def openvino(path, inputs, outputs, threads=1):
    model = compiled_by_openvino(path, threads, "LATENCY")
    request = model.create_infer_request()
    # One value may have several names.
    ports = [next(port for port in model.outputs if name in port.names) for name in outputs]

    def run(values):
        request.infer(dict(zip(inputs, values)), share_inputs=True)
        return [request.get_tensor(port).data for port in ports]
    return run


def throughput(path, inputs, outputs, threads):
    """OpenVINO's other hint: a file for one image, and a request for each image of a batch, several at a time."""
    import numpy as np
    import openvino
    queue, found = openvino.AsyncInferQueue(compiled_by_openvino(path, threads, "THROUGHPUT")), {}
    queue.set_callback(lambda request, place: found.update({place: request.get_output_tensor().data.copy()}))

    def run(values):
        for place in range(len(values[0])):
            queue.start_async({inputs[0]: values[0][place:place + 1]}, place)
        queue.wait_all()
        return [np.concatenate([found[place] for place in range(len(values[0]))])]
    return run


def mnn(path, inputs, outputs, threads=1):
    converted = made(path, ".mnn", lambda to: [program("mnnconvert"), "-f", "ONNX", "--modelFile", path, "--MNNModel", to, "--bizCode", "b"])
    import MNN
    # thread_num of load_module_from_file is not enough: several threads then wait for each other.
    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    module = MNN.nn.load_module_from_file(converted, inputs, outputs, runtime_manager=manager)
    kinds = {"float32": MNN.expr.float, "uint8": MNN.expr.uint8}

    def run(values):
        given = [MNN.expr.const(value, list(value.shape), MNN.expr.NCHW, kinds[str(value.dtype)]) for value in values]
        return [MNN.expr.convert(value, MNN.expr.NCHW).read() for value in module.onForward(given)]
    return run


def reference(path, inputs, outputs):
    from onnx.reference import ReferenceEvaluator
    model = ReferenceEvaluator(path)
    return lambda values: model.run(outputs, dict(zip(inputs, values)))


def ncnn(path, inputs, outputs, threads=1):
    """Computes no more than what it is asked for, one output after the other, and keeps what it has computed. It has no batches: of these each thread
    takes an image."""
    import ncnn
    import numpy as np
    pnnx = pathlib.Path(ncnn.__file__).parent.parent / "pnnx" / "pnnx"
    # Weights in f32; without this they are halved.
    shape = ",".join(f"[{','.join(map(str, dims))}]{kind}" for dims, kind in zip([JOB["dims"], [len(JOB["thresholds"])]][:len(inputs)], ["f32" if JOB["float"] else "u8", "f32"]))
    weights = pathlib.Path(path).with_suffix(".ncnnbin")
    converted = made(path, ".ncnnparam", lambda to: [pnnx, path, f"inputshape={shape}", "fp16=0", f"ncnnparam={to}", f"ncnnbin={weights}"])
    net = ncnn.Net()
    net.opt.num_threads = threads
    # Light mode throws away what another output may still need.
    net.opt.lightmode = len(outputs) == 1
    net.opt.use_vulkan_compute = net.opt.use_fp16_arithmetic = net.opt.use_fp16_storage = net.opt.use_bf16_storage = False
    if net.load_param(converted) or net.load_model(str(weights)):
        sys.exit("ncnn does not load what pnnx wrote")
    places = [int(name.removeprefix("exit")) - 1 for name in outputs] if len(outputs) > 1 else [0]

    pool = concurrent.futures.ThreadPoolExecutor(threads)

    def outputs_of(image):
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        for place in places:
            yield np.array(extractor.extract(f"out{place}")[1])

    def run(values):
        if len(values[0]) == 1:
            return outputs_of(values[0][0])
        # An extractor takes what is set when it is made.
        net.opt.num_threads = 1
        return pool.map(lambda image: next(outputs_of(image)), values[0])
    return run


def iree(path, inputs, outputs):
    compiled = made(path, ".vmfb", lambda to: [program("iree-import-onnx"), path, "-o", to.with_suffix(".mlir")],
                    lambda to: [program("iree-compile"), to.with_suffix(".mlir"), "--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu",
                                "--iree-llvmcpu-target-cpu=host", "-o", to])
    import iree.runtime
    import onnx
    graph = onnx.load(path).graph
    places = [[value.name for value in graph.output].index(name) for name in outputs]
    config = iree.runtime.Config("local-sync")
    main = iree.runtime.load_vm_module(iree.runtime.VmModule.mmap(config.vm_instance, compiled), config)[graph.name]

    def run(values):
        found = main(*values)
        found = found if isinstance(found, (tuple, list)) else [found]
        return [found[place].to_host() for place in places]
    return run


def tvm(path, inputs, outputs):
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx
    model = onnx.load(path)
    places = [[value.name for value in model.graph.output].index(name) for name in outputs]
    machine = relax.VirtualMachine(tvm.compile(relax.get_pipeline("zero")(from_onnx(model)), tvm.target.Target("llvm")), tvm.cpu())

    def run(values):
        found = machine["main"](*map(tvm.runtime.tensor, values))
        found = [found] if hasattr(found, "numpy") else found
        return [found[place].numpy() for place in places]
    return run


def litert(path, inputs, outputs):
    import numpy as np
    folder = pathlib.Path(path).parent
    # It compares what it made on a sample, which it downloads if there is none where it runs.
    sample = folder / "calibration_image_sample_data_20x128x128x3_float32.npy"
    if not sample.exists():
        np.save(sample, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    # It simplifies the file that it is given in its place: it gets a copy.
    made_in, copy = pathlib.Path(path).with_suffix(".tf"), pathlib.Path(path).with_suffix(".copy.onnx")
    converted = made(path, ".tflite", lambda to: ["cp", path, copy], lambda to: [program("onnx2tf"), "-i", copy, "-o", made_in, "-n"],
                     lambda to: ["cp", made_in / f"{copy.stem}_float32.tflite", to])
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(converted, num_threads=1)
    interpreter.allocate_tensors()
    run_signature = interpreter.get_signature_runner()

    def run(values):
        # Channels come last, in a trunk that one stage gives and the next takes as well.
        given = [np.ascontiguousarray(value.transpose(0, 2, 3, 1)) if name == "image" else value for name, value in zip(inputs, values)]
        found = run_signature(**dict(zip(inputs, given)))
        return [found[name] for name in outputs]
    return run


def pytorch(path):
    """What a file stands for, the network written anew in PyTorch (benches/peers.py): the trunk, a stage, or all with torch.cond in place of If, or with
    Python's if; and its inputs."""
    import peers
    import torch
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with open(HERE.parent.parent / "datasets" / "reference" / "weights" / f"{JOB['network']}.safetensors", "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    weights = {name: torch.frombuffer(bytearray(data[slice(*about["data_offsets"])]), dtype=torch.float32).reshape(about["shape"])
               for name, about in head.items() if name != "__metadata__"}
    network = getattr(peers, JOB["network"])().eval()
    for prefix, part in [("", network.segments), *((f"branch{i + 1}.", branch) for i, branch in enumerate(network.branches))]:
        for kind, name in ((torch.nn.Conv2d, "conv"), (torch.nn.Linear, "linear")):
            for i, layer in enumerate(layer for layer in part.modules() if isinstance(layer, kind)):
                layer.load_state_dict({of: weights[f"{prefix}{name}{i + 1}.{of}"] for of in ("weight", "bias")})
    if JOB["plain"]:
        torch.nn.LocalResponseNorm.forward = peers.plain
    dark, bright = (weights["bytes"][:, byte].reshape(1, -1, 1, 1) for byte in (0, 255))

    class Trunk(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network
            self.register_buffer("offset", dark)
            self.register_buffer("factor", (bright - dark) / 255)

        def pixels(self, image):
            return image.float() * self.factor + self.offset

        def forward(self, image):
            x = self.pixels(image)
            for segment in self.network.segments:
                x = segment(x)
            return x

        def through(self, exit, x):
            """The trunk and the logits at an exit, and their entropy."""
            x = self.network.segments[exit](x)
            logits = x if exit == len(self.network.branches) else self.network.branches[exit](x)
            logs = torch.log_softmax(logits, 1)
            return x, logits, -(logs.exp() * logs).sum()

    class Stage(Trunk):
        def __init__(self, exit):
            super().__init__()
            self.exit = exit

        def forward(self, x):
            x, logits, uncertainty = self.through(self.exit, x if self.exit else self.pixels(x))
            return logits.argmax(1), uncertainty, *([x] if self.exit < len(self.network.branches) else [])

    class Nested(Trunk):
        def forward(self, image, thresholds):
            logits, number = self.leave(0, self.pixels(image), thresholds)
            return logits.argmax(1), number

        def leave(self, exit, x, thresholds):
            x, logits, uncertainty = self.through(exit, x)
            number = torch.full((1,), exit + 1)
            if exit == len(self.network.branches):
                return logits, number
            if NAME == "item":
                return (logits, number) if (uncertainty < thresholds[exit]).item() else self.leave(exit + 1, x, thresholds)
            # What a branch gives must be a copy. It takes images flat: else AOTInductor may hand it them in another order than it reads
            # (findings/inductor-cond-channels-last.sh).
            shape = x.shape[1:]
            stays = lambda x, logits, thresholds: tuple(value.clone() for value in self.leave(exit + 1, x.unflatten(1, shape), thresholds))
            return torch.cond(uncertainty < thresholds[exit], lambda x, logits, thresholds: (logits.clone(), torch.full((1,), exit + 1)),
                              stays, (x.flatten(1), logits, thresholds))

    image = torch.zeros(JOB["dims"], dtype=torch.uint8)
    if path == JOB["flat"]:
        return Trunk().eval(), (image,)
    if JOB["form"] == "if":
        return Nested().eval(), (image, torch.tensor(JOB["thresholds"]))
    place = [stage["file"] for stage in JOB["files"]].index(path)
    x = image
    for earlier in range(place):
        *_, x = Stage(earlier)(x)
    return Stage(place).eval(), (x,)


def exported(path):
    """What a file stands for as PyTorch exports it."""
    import torch
    with torch.no_grad():
        return torch.export.export(*pytorch(path))


def aot(path, inputs, outputs):
    import torch
    compiled = pathlib.Path(path).with_suffix(".pt2")
    if not compiled.exists():
        torch._inductor.aoti_compile_and_package(exported(path), package_path=str(compiled))
    runner = torch._inductor.aoti_load_package(str(compiled))

    def run(values):
        found = runner(*map(torch.from_numpy, values))
        found = found if isinstance(found, (list, tuple)) else [found]
        return [value.numpy() for value in found]
    return run


def item(path, inputs, outputs):
    """torch.compile, for which the graph breaks where Python asks whether an image leaves."""
    import torch
    import torch._inductor.config
    torch._inductor.config.freezing = True
    module = torch.compile(pytorch(path)[0], dynamic=False)

    def run(values):
        with torch.no_grad():
            found = module(*map(torch.from_numpy, values))
        found = found if isinstance(found, (list, tuple)) else [found]
        return [value.numpy() for value in found]
    return run


def mode(network):
    """The network as a mode has it, and what its calls stand in."""
    import torch
    import torch._inductor.config
    last = NAME in ("channels_last", "bf16")
    if last:
        network = network.to(memory_format=torch.channels_last)
    if NAME == "compile":
        # Weights become constants of the program. In training they stay what they are.
        torch._inductor.config.freezing = True
        network = torch.compile(network, dynamic=False)

    def run(images):
        with torch.autocast("cpu", torch.bfloat16, enabled=NAME == "bf16"):
            return network(images.contiguous(memory_format=torch.channels_last) if last else images)
    return run


def eager(path, inputs, outputs, threads):
    """PyTorch, in the mode that the name of this function or of those below says; the file stands for the network that it was made of."""
    import peers
    import torch
    run_mode = mode(peers.seeded(JOB["network"]).baseline())

    def run(values):
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.no_grad():
            return [run_mode(torch.from_numpy(values[0])).float().numpy()]
    return run


channels_last = compile = bf16 = eager


def training():
    """A function that trains for some steps on the joint loss of all exits, and says how many images a second."""
    import networks
    import peers
    import torch
    batch, steps = networks.TRAINING[JOB["network"]]
    torch.set_num_threads(JOB["threads"])
    network = getattr(peers, JOB["network"])()
    run, optimizer = mode(network), torch.optim.Adam(network.parameters(), fused=True)
    images = torch.randint(0, 256, (batch * steps, *networks.IMAGES[JOB["network"]]), dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch * steps,))

    def step(chosen):
        loss = sum(torch.nn.functional.cross_entropy(logits.float(), labels[chosen]) for logits in run(images[chosen].float() / 255))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def measure():
        start = time.perf_counter()
        for i in range(0, batch * steps, batch):
            step(slice(i, i + batch))
        return batch * steps / (time.perf_counter() - start)

    step(slice(0, batch))
    return measure


def executorch(path, inputs, outputs):
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime
    compiled = pathlib.Path(path).with_suffix(".pte")
    if not compiled.exists():
        try:
            lowered = to_edge_transform_and_lower(exported(path), partitioner=[XnnpackPartitioner()])
        except RuntimeError as error:
            # The first of several lines says why.
            sys.exit(str(error).splitlines()[0])
        compiled.write_bytes(lowered.to_executorch().buffer)
    # Programs that are loaded already hold the threads that this would end.
    if portable_lib._threadpool_get_thread_count() > 1:
        portable_lib._unsafe_reset_threadpool(1)
    program = Runtime.get().load_program(compiled).load_method("forward")
    return lambda values: [value.numpy() for value in program.execute([torch.from_numpy(value) for value in values])]


@contextlib.contextmanager
def chromium():
    names = [os.environ.get("BROWSER_PATH") or "", "chromium", "chromium-browser", "google-chrome", "chrome"]
    browser = next((found for name in names if name and (found := shutil.which(name))), None)
    if not browser:
        sys.exit("no Chromium: install it (Debian: apt install chromium), or name it by BROWSER_PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield lambda address: subprocess.Popen(
            [browser, "--headless=new", "--no-sandbox", "--no-first-run", "--disable-component-update", "--disable-gpu", f"--user-data-dir={folder}", address],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def web():
    """Serves job.html to a headless Chromium, and waits for what it tells."""
    packages, found = pathlib.Path(JOB["packages"]), []
    served = {JOB["images"], JOB["flat"], *(stage["file"] for stage in JOB["files"])}
    kinds = {".mjs": "text/javascript", ".html": "text/html", ".wasm": "application/wasm"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            asked = urllib.parse.unquote(query)
            file = {"/job": sys.argv[2], "/file": asked if asked in served else "", "/": HERE / "job.html", "/job.mjs": HERE / "job.mjs"}
            file = pathlib.Path(file.get(path, packages / os.path.normpath(path).removeprefix("/")))
            if not file.is_file():
                return self.send_error(404)
            self.send_response(200)
            # Isolated from other origins, a page's clock is finer.
            for name, value in [("Content-Type", kinds.get(file.suffix, "application/octet-stream")), ("Cross-Origin-Opener-Policy", "same-origin"),
                                ("Cross-Origin-Embedder-Policy", "require-corp"), ("Content-Length", str(file.stat().st_size))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(file.read_bytes())

        def do_POST(self):
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, chromium() as start:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = start(f"http://127.0.0.1:{server.server_port}/")
        try:
            while not found and browser.poll() is None:
                time.sleep(0.05)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    if not found:
        sys.exit(f"Chromium ended with {browser.returncode}")
    if "error" in found[0]:
        sys.exit(found[0]["error"])
    print(json.dumps(found[0]))


def answering(load):
    """A function of an image: label and exit, from 1."""
    import numpy as np
    thresholds = np.array(JOB["thresholds"], np.float32)
    runs = [load(stage["file"], stage["inputs"], stage["outputs"]) for stage in JOB["files"]]
    if JOB["form"] == "if":
        given = [] if JOB["fixed"] else [thresholds]
        return lambda image: [int(np.ravel(value)[0]) for value in runs[0]([image, *given])]

    def exits(image):
        """Where a runtime computes an output no earlier than it is asked for."""
        for exit, logits in enumerate(runs[0]([image])):
            odds = np.exp(logits - logits.max())
            p = odds / odds.sum()
            if exit == len(thresholds) or -(p * np.log(np.maximum(p, 1e-30))).sum() < thresholds[exit]:
                return [int(logits.argmax()), exit + 1]

    def stages(value):
        for exit, run in enumerate(runs):
            label, uncertainty, *onward = run([value])
            if exit == len(thresholds) or np.ravel(uncertainty)[0] < thresholds[exit]:
                return [int(np.ravel(label)[0]), exit + 1]
            value = onward[0]
    return exits if JOB["form"] == "exits" else stages


def median_ms(work, seconds=0.35):
    """Of calls for so long, at least two, after some that do not count."""
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds * 1.3:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return statistics.median(times[-(-len(times) // 4):]) * 1e3


def prepared(load, cell):
    """What measures a cell, by the faster of its files: milliseconds a batch. Fails where none is answered as PyTorch does."""
    import numpy as np
    images, expected = (np.fromfile(cell[key], np.float32) for key in ("images", "logits"))
    images, found, wrong = images.reshape(cell["dims"]), [], None
    for path in cell["files"]:
        try:
            run = load(path, ["image"], ["logits"], threads=cell["threads"])
            work = lambda run=run: list(run([images]))
            off = float(np.abs(np.ravel(work()) - expected).max())
            if not off <= cell["tolerance"]:
                raise ValueError(f"its logits are off by {off:.2g}, and {cell['tolerance']:.2g} is allowed")
            found.append((median_ms(work) if len(cell["files"]) > 1 else 0, len(found), work))
        except (Exception, SystemExit) as error:
            wrong = error
    if not found:
        raise wrong
    *_, work = min(found)
    return lambda: median_ms(work)


def serve(load):
    """Measures the cells that are asked for, one a line, and keeps what it has prepared for them."""
    ready = {}
    for line in sys.stdin:
        cell = line.strip()
        try:
            if cell not in ready:
                ready[cell] = training() if cell == "training" else prepared(load, JOB["cells"][cell])
            reply = {"value": ready[cell]()}
        except (Exception, SystemExit) as error:
            reply = {"error": f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)}
        print(json.dumps(reply), flush=True)


def main(load):
    import numpy as np
    images = np.fromfile(JOB["images"], np.float32 if JOB["float"] else np.uint8).reshape(JOB["count"], *JOB["dims"])
    works = {"model": answering(load)}
    if JOB["flat"]:
        trunk = load(JOB["flat"], ["image"], [JOB["flat_output"]])
        works["flat"] = lambda image: list(trunk([image]))
    answers, timed = [works["model"](image) for image in images], [images[i] for i in JOB["timed"]]
    for _ in sys.stdin:
        for image in timed:
            for work in works.values():
                work(image)
        times, start = {name: [] for name in works}, time.perf_counter()
        while not times["model"] or time.perf_counter() - start < JOB["seconds"]:
            for name, work in works.items():
                for image in timed:
                    before = time.perf_counter_ns()
                    work(image)
                    times[name].append(time.perf_counter_ns() - before)
        print(json.dumps({"answers": answers, **times}), flush=True)


if __name__ == "__main__":
    web() if NAME == "web" else (serve if "cells" in JOB else main)(globals()[NAME])
