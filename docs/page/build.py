"""Builds the page in figures/page/, which answers in the browser: networks as ONNX files with their fronts and a few test images,
and onnxruntime-web.

    build.py PROGRAM ...    `make page`; PROGRAM ... runs branchynet
"""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "figures" / "page"
sys.path.insert(0, str(ROOT / "docs" / "site"))
from npm import fetch  # noqa: E402

RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The build without GPU, which is the smallest.
FILES = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"]
NETWORKS = {"lenet": "mnist", "alexnet": "cifar10"}


def tests(data, most):
    """The first test images of a data set: bytes of an image, (channels, height, width), label. None where it is not there."""
    path = ROOT / "datasets" / f"{data}.safetensors"
    if not path.is_file():
        return
    with open(path, "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()

        def read(name, at, length):
            file.seek(start + head[name]["data_offsets"][0] + at * length)
            return file.read(length)

        count, *shape = head["test_images"]["shape"]
        wide = {"U8": 1, "U32": 4, "I64": 8}[head["test_labels"]["dtype"]]
        for i in range(min(count, most)):
            label = int.from_bytes(read("test_labels", i, wide), "little")
            yield read("test_images", i, shape[0] * shape[1] * shape[2]), shape, label


def png(planes, shape):
    """Bytes channel by channel as PNG."""
    channels, height, width = shape
    pixels = bytearray(len(planes))
    for channel in range(channels):
        pixels[channel::channels] = planes[channel * height * width:(channel + 1) * height * width]
    rows = b"".join(b"\0" + pixels[y * width * channels:(y + 1) * width * channels] for y in range(height))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def samples(folder, data, classes):
    """The first test image of each class, as PNG with a list."""
    found = {}
    for index, (image, shape, label) in enumerate(tests(data, 100)):
        if label not in found:
            found[label] = {"file": f"{label}.png", "label": classes[label], "index": index}
            (folder / f"{label}.png").write_bytes(png(image, shape))
    if not found:
        print(f"== no datasets/{data}.safetensors: the page offers no test images of it; make datasets fetches it")
    (folder / "samples.json").write_text(json.dumps([found[label] for label in sorted(found)]))


def main():
    kept = ROOT / "target" / "page"
    fetch(RUNTIME, SHA512, {f"dist/{name}": name for name in FILES}, kept)
    # The page is replaced when the new one is whole.
    new = kept / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for path in [*(kept / name for name in FILES), ROOT / "docs" / "site" / "style.css",
                 *(path for path in HERE.iterdir() if path.suffix in (".html", ".css", ".js"))]:
        shutil.copy(path, new)
    for network, data in NETWORKS.items():
        folder = new / network
        folder.mkdir()
        subprocess.run([*sys.argv[1:], "export", network, "--onnx", folder / "model.onnx"], check=True, stdout=subprocess.DEVNULL)
        shutil.copy(ROOT / "figures" / "fronts" / f"{network}.csv", folder / "front.csv")
        with open(ROOT / "datasets" / "reference" / "weights" / f"{network}.safetensors", "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        samples(folder, data, json.loads(head["__metadata__"]["about"])["classes"])
    shutil.rmtree(PAGE, ignore_errors=True)
    new.rename(PAGE)
    files = [path for path in PAGE.glob("**/*") if path.is_file()]
    print(f"== figures/page: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB. To look at it: "
          f"python3 -m http.server -d {PAGE.relative_to(ROOT)}, then open http://localhost:8000/")


if __name__ == "__main__":
    main()
