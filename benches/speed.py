"""Compares the networks' speed with PyTorch's and ONNX Runtime's on this machine, taking turns in one run.

Run by `make bench`, which installs PyTorch and ONNX Runtime into target/peers. Training: joint loss over all exits, Adam, batch
128 (airbench 1,024), all cores. Inference: the baseline from pixels to logits, at batch 1 on one and on all cores, and at batch 64 on all. Each
contender runs ROUNDS times (default 5) in turn; the table shows medians, and is written to benches/speed.md. NETWORKS=alexnet takes
one network alone. SIMD=avx2 has this crate and PyTorch use these instructions (ONNX Runtime cannot be told), and writes
benches/speed-avx2.md.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time
import warnings

SIMD = os.environ.get("SIMD", "")
if SIMD not in ("", "avx2"):
    raise SystemExit(f"speed.py: SIMD={SIMD}: expected avx2, or nothing for the best there is")
if SIMD:
    os.environ.update(BRANCHYNET_SIMD="avx2", ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")

import onnxruntime
import torch
import torch.nn.functional as F

from machine import cpu
from peers import TITLES, airbench, alexnet, lenet, resnet110

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = int(os.environ.get("ROUNDS", "5"))
THREADS = os.cpu_count()
BATCH = 64


# Image shape, images in a training step, steps an epoch, images timed one by one.
NETWORKS = {"lenet": (lenet, (1, 28, 28), 128, 100, 2000), "alexnet": (alexnet, (3, 32, 32), 128, 20, 500),
            "resnet110": (resnet110, (3, 32, 32), 128, 3, 60), "airbench": (airbench, (3, 32, 32), 1024, 2, 200)}


def training(name):
    """Images a second."""
    build, shape, batch, steps, _ = NETWORKS[name]
    torch.set_num_threads(THREADS)
    net = build()
    optimizer = torch.optim.Adam(net.parameters())
    images, labels = torch.rand(batch * steps, *shape), torch.randint(0, 10, (batch * steps,))

    def epoch():
        start = time.perf_counter()
        for i in range(0, len(labels), batch):
            loss = sum(F.cross_entropy(logits, labels[i:i + batch]) for logits in net(images[i:i + batch]))
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


def torch_latency(name, threads, batch=1):
    build, shape, _, _, count = NETWORKS[name]
    torch.set_num_threads(threads)
    net, images = build().baseline(), torch.rand(batch, *shape)
    with torch.inference_mode():
        return median_ms(lambda: net(images), max(10, count // batch))


def onnx_session(name, threads, batch=1):
    build, shape, *_ = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "network.onnx"
        torch.onnx.export(build().baseline(), (torch.rand(batch, *shape),), str(path), verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(str(path), options)


def onnx_latency(name, session, batch=1):
    _, shape, _, _, count = NETWORKS[name]
    feed = {session.get_inputs()[0].name: torch.rand(batch, *shape).numpy()}
    return median_ms(lambda: session.run(None, feed), max(10, count // batch))


def processor():
    facts, flags = cpu()
    if not flags:
        return platform.processor() or platform.machine()
    best = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "neither AVX2 nor AVX-512"
    return f"{facts['model name']} with {best}"


def ours(name):
    output = subprocess.run(["cargo", "bench", "--quiet", "--profile", "dev", "--bench", "speed", "--", name], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main():
    names = os.environ.get("NETWORKS", " ".join(NETWORKS)).split()
    lines = [
        f"{processor()}, {THREADS} cores; PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}; {datetime.date.today()}; "
        f"medians of {ROUNDS} rounds taken in turn."
        + (" This crate and PyTorch limited to AVX2, ONNX Runtime as it chooses." if SIMD else ""),
        "",
        "| | this crate | PyTorch | ONNX Runtime | ours against PyTorch | ours against ONNX Runtime |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for name in names:
        sessions = {threads: onnx_session(name, threads) for threads in (1, THREADS)}
        in_batches = onnx_session(name, THREADS, BATCH)
        rows = []
        for turn in range(ROUNDS):
            print(f"{name}, round {turn + 1} of {ROUNDS}", flush=True)
            rows.append({**ours(name), "torch_training": training(name),
                         **{f"torch_{threads}": torch_latency(name, threads) for threads in sessions},
                         **{f"onnx_{threads}": onnx_latency(name, session) for threads, session in sessions.items()},
                         "torch_batch": BATCH / torch_latency(name, THREADS, BATCH) * 1e3,
                         "onnx_batch": BATCH / onnx_latency(name, in_batches, BATCH) * 1e3})
        m = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        title, base = TITLES[name], TITLES[name].removeprefix("B-")
        lines.append(f"| {title}, joint training, batch {NETWORKS[name][2]}, images/s | {m['training_images_per_second']:.0f} | {m['torch_training']:.0f} | – | "
                     f"{m['training_images_per_second'] / m['torch_training']:.2f}x | – |")
        for threads in sessions:
            own, ours_by = m[f"alone_{threads}_ms"], lambda peer: f"{m[f'{peer}_{threads}'] / m[f'alone_{threads}_ms']:.2f}x"
            lines.append(f"| {base}, batch 1, {threads} thread{'s' * (threads > 1)}, ms | {own:.3f} | "
                         f"{m[f'torch_{threads}']:.3f} | {m[f'onnx_{threads}']:.3f} | {ours_by('torch')} | {ours_by('onnx')} |")
        batch = m["batch_images_per_second"]
        lines.append(f"| {base}, batch {BATCH}, {THREADS} threads, images/s | {batch:.0f} | {m['torch_batch']:.0f} | {m['onnx_batch']:.0f} | "
                     f"{batch / m['torch_batch']:.2f}x | {batch / m['onnx_batch']:.2f}x |")
        reached = 2 * m["macs"] / m["alone_1_ms"] / 1e6
        notes.append(f"{base}, batch 1, 1 thread: {reached:.0f} GFLOP/s by the definition of its layers, {100 * reached / m['peak_gflops']:.0f} % of the "
                     f"{m['peak_gflops']:.0f} measured as the peak of one thread; tiles with fewer multiplications count as the definition does.")
        exits = [key for key in sorted(m) if key.startswith("exit_") and "trunk" not in key]
        notes.append(f"{title}, one thread, end to end, all in turn: " + ", ".join(
            f"leaving at exit {i} {m[key]:.3f} ms" for i, key in enumerate(exits, 1)) + f"; baseline {m['baseline_ms']:.3f} ms.")
        if "front_ms" in m:
            notes.append(f"An exit record of 10,000 samples: the exact curve of two exits in {m['curve_ms']:.1f} ms, "
                         f"the exact Pareto front of three in {m['front_ms']:.0f} ms.")
    text = "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"
    if set(names) == set(NETWORKS):
        (ROOT / "benches" / f"speed{SIMD and '-'}{SIMD}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
