"""What int8 files say on a processor without VNNI, which adds products of bytes in 16 bits: `make int8-avx2`.

    int8_avx2.py --program PROGRAM --output FILE.csv [--images N] NETWORK ...

onnxruntime runs each file here, and once more on an emulated Haswell (AVX2, no VNNI; `qemu-x86_64` of Debian's package qemu-user).
Integers are emulated exactly, so that sums overflow as they do there; times mean nothing.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

EMULATOR = ["qemu-x86_64", "-cpu", "Haswell"]


def answer(folder, name):
    """The logits of all exits of each file in the folder, by onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    pixels = np.load(folder / "images.npy")
    for path in sorted(folder.glob("*-exits.onnx")):
        model = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        parts = [np.stack(model.run(None, {"image": pixels[i:i + 20]})) for i in range(0, len(pixels), 20)]
        np.save(folder / f"{path.stem}-{name}.npy", np.concatenate(parts, axis=1))


def rows(program, network, count, folder):
    import int8
    exits, _, policies = int8.exported(program, network, folder)
    int8.quantised_naively(exits["f32"], folder / "int8, naive-exits.onnx", network)
    exits["f32"].unlink()
    policies["int8, naive"] = policies["f32"]
    np.save(folder / "images.npy", int8.images(network, count))
    truth = int8.labels(network, count)
    answer(folder, "here")
    subprocess.run([*EMULATOR, sys.executable, __file__, "--answer", folder], check=True, stderr=subprocess.DEVNULL)
    for name in ("int8, naive", "int8", "int8, 8 bits"):
        here, there = (np.load(folder / f"{name}-exits-{where}.npy") for where in ("here", "there"))
        last = there[-1].argmax(1)
        given, _, _ = map(np.array, zip(*int8.decided(there.swapaxes(0, 1), *policies[name])))
        yield {"network": network, "file": name, "images": count, "largest change of a logit": f"{abs(here - there).max():.3g}",
               "answers of the last exit that change": int((here[-1].argmax(1) != last).sum()),
               "last exit, % right with VNNI": f"{(here[-1].argmax(1) == truth).mean() * 100:.1f}",
               "without VNNI": f"{(last == truth).mean() * 100:.1f}",
               "without VNNI, not the last exit's answer, %": f"{(given != last).mean() * 100:.1f}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program")
    parser.add_argument("--output")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--answer", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("networks", nargs="*")
    arguments = parser.parse_args()
    if arguments.answer:
        return answer(arguments.answer, "there")
    if not shutil.which(EMULATOR[0]):
        sys.exit(f"int8_avx2.py: there is no {EMULATOR[0]}; on Debian: apt-get install qemu-user")
    import int8  # not at the top: on the emulator it is not needed, and slow
    found = []
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(arguments.program, network, arguments.images, pathlib.Path(folder)):
                print("   " + "; ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
                found.append(row)
    int8.write(arguments.output, found)


if __name__ == "__main__":
    main()
