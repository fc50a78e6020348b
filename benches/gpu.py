"""Compares joint training on an NVIDIA GPU with PyTorch's, eager, taking turns in one run.

    python benches/gpu.py            needs PyTorch with CUDA, and cargo with a CUDA toolkit
    PROGRAM=./speed python ...       runs that program instead of `cargo bench --features cudnn --bench speed`

Both keep all images on the GPU as bytes and normalise each batch there; the loss is the sum over all exits, the optimiser Adam, read
back once a step. Each is timed in f32 (PyTorch: TF32 off), with TF32, and in bf16 (PyTorch: autocast), PyTorch also with its fused Adam
and channels last; the table shows f32 and the fastest of each. Writes benches/gpu.md. From the environment: NETWORKS, BATCHES (128 512),
ROUNDS (3), DEVICE (cuda; cpu tries the script out), IMAGES (an epoch's).
"""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

import peers
from networks import IMAGES as SHAPES, TITLES

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICE = os.environ.get("DEVICE", "cuda")
ROUNDS = int(os.environ.get("ROUNDS", "3"))
IMAGES = int(os.environ.get("IMAGES", "45000"))


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def pytorch(name, batch, precision, channels_last):
    """Images a second: the median of three epochs after a first."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "f32"
    net = getattr(peers, name)().to(DEVICE)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.Adam(net.parameters(), fused=DEVICE == "cuda")
    images = torch.randint(0, 256, (IMAGES, *SHAPES[name]), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, 10, (IMAGES,), device=DEVICE)
    cast = torch.autocast(DEVICE, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def epoch():
        synchronize()
        start = time.perf_counter()
        for chosen in torch.randperm(IMAGES, device=DEVICE).split(batch):
            x = (images[chosen].float() / 255).contiguous(memory_format=layout)
            with cast:
                loss = sum(F.cross_entropy(logits, labels[chosen]) for logits in net(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        synchronize()
        return IMAGES / (time.perf_counter() - start)

    epoch()
    return statistics.median(epoch() for _ in range(3))


def ours(name, batch, precision):
    command = os.environ.get("PROGRAM", "").split() or ["cargo", "bench", "--quiet", "--profile", "dev", "--features", "cudnn", "--bench", "speed", "--"]
    settings = {"DEVICE": DEVICE, "BATCH_SIZE": str(batch), "PRECISION": precision, "IMAGES": str(IMAGES)}
    result = subprocess.run([*command, name], cwd=ROOT, env={**os.environ, **settings}, input="training\n", capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"gpu.py: {' '.join(command)} {name} failed:\n{result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def main():
    names = os.environ.get("NETWORKS", "lenet alexnet resnet110").split()
    batches = [int(batch) for batch in os.environ.get("BATCHES", "128 512").split()]
    precisions = ["f32", "tf32", "bf16"] if DEVICE == "cuda" else ["f32"]
    lines, notes = ["| joint training, images/s | batch | this crate, f32 | PyTorch, f32 | ours against PyTorch | this crate, fastest | PyTorch, fastest | ours against PyTorch |",
                    "|---|---|---|---|---|---|---|---|"], []
    device = "CPU"
    for name in names:
        for batch in batches:
            mine, theirs = {}, {}
            for turn in range(ROUNDS):
                print(f"{name}, batch {batch}, round {turn + 1} of {ROUNDS}", flush=True)
                for precision in precisions:
                    result = ours(name, batch, precision)
                    device = result.get("device", device)
                    mine.setdefault(precision, []).append(result["value"])
                    if precision == "f32" and batch == batches[0] and turn == 0 and "batches_ms" in result:
                        times = "; ".join(f"batch {size}: baseline {a / size * 1e3:.2f}, early exit {b / size * 1e3:.2f}" for size, a, b in result["batches_ms"])
                        notes.append(f"{TITLES[name]}, inference in f32, µs an image, equal shares leaving at each exit: {times}.")
                    for last in (False, True):
                        key = precision + (", channels last" if last else "")
                        theirs.setdefault(key, []).append(pytorch(name, batch, precision, last))
            mine, theirs = ({key: statistics.median(values) for key, values in side.items()} for side in (mine, theirs))
            best, peer = max(mine, key=mine.get), max(theirs, key=theirs.get)
            lines.append(f"| {TITLES[name]} | {batch} | {mine['f32']:.0f} | {theirs['f32']:.0f} | {mine['f32'] / theirs['f32']:.2f}x | "
                         f"{mine[best]:.0f} ({best}) | {theirs[peer]:.0f} ({peer}) | {mine[best] / theirs[peer]:.2f}x |")
    text = f"{device}; PyTorch {torch.__version__}, eager, Adam fused; medians of {ROUNDS} rounds taken in turn.\n\n" + "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"
    if DEVICE == "cuda":
        (ROOT / "benches" / "gpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
