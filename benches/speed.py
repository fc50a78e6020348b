"""Compares the three networks' speed with PyTorch's and ONNX Runtime's on this machine, taking turns in one run.

Run by `make bench`, which installs PyTorch and ONNX Runtime into target/peers. Training: joint loss over all exits, Adam, batch
128, all cores. Inference: the baseline at batch 1, on one thread, from pixels to logits. Each contender runs ROUNDS times (default 5)
in turn; the table shows medians, and is written to benches/speed.md. NETWORKS=alexnet takes one network alone.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time
import warnings

import onnxruntime
import torch
import torch.nn.functional as F

from peers import TITLES, alexnet, lenet, resnet110

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = int(os.environ.get("ROUNDS", "5"))
THREADS = os.cpu_count()


# Image shape, training steps an epoch, images timed one by one.
NETWORKS = {"lenet": (lenet, (1, 28, 28), 100, 2000), "alexnet": (alexnet, (3, 32, 32), 20, 500), "resnet110": (resnet110, (3, 32, 32), 3, 60)}


def training(name):
    """Images a second."""
    build, shape, steps, _ = NETWORKS[name]
    torch.set_num_threads(THREADS)
    net = build()
    optimizer = torch.optim.Adam(net.parameters())
    images, labels = torch.rand(128 * steps, *shape), torch.randint(0, 10, (128 * steps,))

    def epoch():
        start = time.perf_counter()
        for i in range(0, len(labels), 128):
            loss = sum(F.cross_entropy(logits, labels[i:i + 128]) for logits in net(images[i:i + 128]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return len(labels) / (time.perf_counter() - start)

    epoch()
    return statistics.median(epoch() for _ in range(3))


def median_ms(work, count):
    for _ in range(count // 10):
        work()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def torch_latency(name, threads):
    build, shape, _, count = NETWORKS[name]
    torch.set_num_threads(threads)
    net, image = build().baseline(), torch.rand(1, *shape)
    with torch.inference_mode():
        return median_ms(lambda: net(image), count)


def onnx_session(name, threads):
    build, shape, _, _ = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "network.onnx"
        torch.onnx.export(build().baseline(), (torch.rand(1, *shape),), str(path), verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(str(path), options)


def onnx_latency(name, session):
    _, shape, _, count = NETWORKS[name]
    feed = {session.get_inputs()[0].name: torch.rand(1, *shape).numpy()}
    return median_ms(lambda: session.run(None, feed), count)


def ours(name):
    output = subprocess.run(["cargo", "bench", "--quiet", "--profile", "dev", "--bench", "speed", "--", name], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main():
    names = os.environ.get("NETWORKS", " ".join(NETWORKS)).split()
    lines = [
        f"{platform.processor() or platform.machine()}, {THREADS} cores; PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}; "
        f"medians of {ROUNDS} rounds taken in turn.",
        "",
        "| | this crate | PyTorch | ONNX Runtime | ours against PyTorch | ours against ONNX Runtime |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for name in names:
        sessions = {threads: onnx_session(name, threads) for threads in (1, THREADS)}
        rows = []
        for turn in range(ROUNDS):
            print(f"{name}, round {turn + 1} of {ROUNDS}", flush=True)
            rows.append({**ours(name), "torch_training": training(name),
                         **{f"torch_{threads}": torch_latency(name, threads) for threads in sessions},
                         **{f"onnx_{threads}": onnx_latency(name, session) for threads, session in sessions.items()}})
        m = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        title, base = TITLES[name], TITLES[name].removeprefix("B-")
        lines.append(f"| {title}, joint training, batch 128, images/s | {m['training_images_per_second']:.0f} | {m['torch_training']:.0f} | – | "
                     f"{m['training_images_per_second'] / m['torch_training']:.2f}x | – |")
        for threads in sessions:
            lines.append(f"| {base}, batch 1, {threads} thread{'s' * (threads > 1)}, ms | {m['alone_ms']:.3f}{' (on 1)' * (threads > 1)} | "
                         f"{m[f'torch_{threads}']:.3f} | {m[f'onnx_{threads}']:.3f} | {m[f'torch_{threads}'] / m['alone_ms']:.2f}x | "
                         f"{m[f'onnx_{threads}'] / m['alone_ms']:.2f}x |")
        exits = [key for key in sorted(m) if key.startswith("exit_") and "trunk" not in key]
        notes.append(f"{title}, one thread, end to end, all in turn: " + ", ".join(
            f"leaving at exit {i} {m[key]:.3f} ms" for i, key in enumerate(exits, 1)) + f"; baseline {m['baseline_ms']:.3f} ms.")
        if "front_ms" in m:
            notes.append(f"An exit record of 10,000 samples: the exact curve of two exits in {m['curve_ms']:.1f} ms, "
                         f"the exact Pareto front of three in {m['front_ms']:.0f} ms.")
    text = "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"
    if set(names) == set(NETWORKS):
        (ROOT / "benches" / "speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
