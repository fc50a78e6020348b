"""Compares B-LeNet's speed with PyTorch's and ONNX Runtime's on this machine, taking turns in one run.

Run by `make bench`, which installs PyTorch and ONNX Runtime into target/peers. Training: joint loss over both exits, Adam, batch 128,
all cores. Inference: the baseline at batch 1, one thread, from pixels to logits. Each contender runs ROUNDS times (default 5) in
turn; the table shows medians, and is written to benches/speed.md.
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
import torch.nn as nn
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = int(os.environ.get("ROUNDS", "5"))


class BLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        pool = lambda: nn.MaxPool2d(2, 2, ceil_mode=True)
        self.stem = nn.Conv2d(1, 5, 5, padding=3)
        self.branch = nn.Sequential(pool(), nn.ReLU(), nn.Conv2d(5, 10, 3, padding=1), pool(), nn.ReLU(), nn.Flatten(), nn.Linear(640, 10))
        self.trunk = nn.Sequential(pool(), nn.ReLU(), nn.Conv2d(5, 10, 5, padding=3), pool(), nn.ReLU(),
                                   nn.Conv2d(10, 20, 5, padding=3), pool(), nn.ReLU(), nn.Flatten(), nn.Linear(720, 84), nn.Linear(84, 10))

    def forward(self, x):
        x = self.stem(x)
        return self.branch(x), self.trunk(x)


def torch_training():
    torch.set_num_threads(os.cpu_count())
    net = BLeNet()
    optimizer = torch.optim.Adam(net.parameters())
    images, labels = torch.rand(12800, 1, 28, 28), torch.randint(0, 10, (12800,))

    def epoch():
        start = time.perf_counter()
        for i in range(0, 12800, 128):
            loss = sum(F.cross_entropy(logits, labels[i:i + 128]) for logits in net(images[i:i + 128]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return 12800 / (time.perf_counter() - start)

    epoch()
    return statistics.median(epoch() for _ in range(3))


def median_ms(work):
    for _ in range(200):
        work()
    times = []
    for _ in range(2000):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def baseline():
    net = BLeNet().eval()
    return nn.Sequential(net.stem, net.trunk).eval()


def torch_latency():
    torch.set_num_threads(1)
    net, image = baseline(), torch.rand(1, 1, 28, 28)
    with torch.inference_mode():
        return median_ms(lambda: net(image))


def onnx_session():
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "lenet.onnx"
        torch.onnx.export(baseline(), (torch.rand(1, 1, 28, 28),), str(path), verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(str(path), options)


def onnx_latency(session):
    feed = {session.get_inputs()[0].name: torch.rand(1, 1, 28, 28).numpy()}
    return median_ms(lambda: session.run(None, feed))


def ours():
    output = subprocess.run(["cargo", "bench", "--quiet", "--profile", "dev", "--bench", "speed"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main():
    session = onnx_session()
    rows = []
    for turn in range(ROUNDS):
        print(f"round {turn + 1} of {ROUNDS}", flush=True)
        rows.append({**ours(), "torch_training": torch_training(), "torch_ms": torch_latency(), "onnx_ms": onnx_latency(session)})
    m = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    gain = m["baseline_ms"] / m["exit_1_ms"]
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}; "
        f"medians of {ROUNDS} rounds taken in turn.",
        "",
        "| B-LeNet | this crate | PyTorch | ONNX Runtime | ours against PyTorch | ours against ONNX Runtime |",
        "|---|---|---|---|---|---|",
        f"| joint training, batch 128, all cores, images/s | {m['training_images_per_second']:.0f} | {m['torch_training']:.0f} | – | "
        f"{m['training_images_per_second'] / m['torch_training']:.2f}x | – |",
        f"| baseline, batch 1, one thread, µs | {m['baseline_ms'] * 1e3:.1f} | {m['torch_ms'] * 1e3:.0f} | {m['onnx_ms'] * 1e3:.1f} | "
        f"{m['torch_ms'] / m['baseline_ms']:.1f}x | {m['onnx_ms'] / m['baseline_ms']:.2f}x |",
        f"| leaving at exit 1, end to end, µs | {m['exit_1_ms'] * 1e3:.1f} | – | – | – | – |",
        f"| leaving at exit 2, end to end, µs | {m['exit_2_ms'] * 1e3:.1f} | – | – | – | – |",
        "",
        f"Leaving at exit 1 is {gain:.1f} times faster than the baseline, end to end; the paper's timer, which covers the trunk alone, "
        f"would show {m['baseline_ms'] / m['exit_1_trunk_ms']:.1f} times.",
        "",
        f"An exit record of 10,000 samples: the exact curve of two exits in {m['curve_ms']:.1f} ms, the exact Pareto front of three in {m['front_ms']:.0f} ms.",
    ]
    text = "\n".join(lines) + "\n"
    (ROOT / "benches" / "speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
