"""Runs exported ONNX files in onnxruntime and compares every answer and exit with the program's.

    export.py --program PROGRAM [--images N] NETWORK ...    `make check-onnx`

Each form of each network is exported, checked by onnx's own checker, and run on the first N test images; the same images go to
`branchynet classify` as PNGs. An image on which both disagree is listed with the distance of its uncertainty from the threshold.
More than one disagreement in a thousand fails (int8: in fifty).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = {"lenet": "mnist"}
FORMS = ["--form=if", "--form=if --fixed", "--form=if --plain", "--form=batch", "--form=exits", "--form=stages", "--form=if --int8",
         "--form=stages --int8 --vnni"]


def array(path, name):
    """An array of a safetensors file, not read before it is asked for its values."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(size))[name]
    kind = {"U8": np.uint8, "U32": np.uint32, "F32": np.float32, "F64": np.float64}[about["dtype"]]
    return np.memmap(path, kind, "r", 8 + size + about["data_offsets"][0], tuple(about["shape"]))


def images(network, count, part="test_images"):
    """The first images of a part, bytes (count, channels, height, width)."""
    return array(ROOT / "datasets" / f"{DATA.get(network, 'cifar10')}.safetensors", part)[:count]


def session(path):
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def uncertainty(logits, criterion):
    """The policy's criterion by its definition, in f64."""
    odds = np.exp(logits.astype(np.float64) - logits.max())
    p = np.sort(odds / odds.sum())[::-1]
    return float({"entropy": lambda: -(p[p > 0] * np.log(p[p > 0])).sum(), "probability": lambda: p[1:].sum(),
                  "margin": lambda: 1 - p[0] + p[1]}[criterion]())


def policy_of(path):
    """Thresholds, criterion and classes, as a file says them of itself."""
    about = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    policy = json.loads(about["policy"])
    thresholds = [float("inf") if t is None else t for t in policy["thresholds"]]
    return thresholds, policy["readout"]["criterion"], json.loads(about["classes"])


def run_if(path, pixels, thresholds, _):
    """Answers of the `if` form: label, exit, uncertainty."""
    model = session(path)
    given = {} if len(model.get_inputs()) == 1 else {"thresholds": np.array(thresholds, np.float32)}
    for image in pixels:
        label, exit, uncertainty = model.run(["label", "exit", "uncertainty"], {"image": image[None], **given})
        yield int(label[0]), int(exit[0]), float(uncertainty[0])


def run_batch(path, pixels, thresholds, _):
    model = session(path)
    def answers(pixels, thresholds):
        found = model.run(["label", "exit", "uncertainty"], {"image": pixels, "thresholds": np.array(thresholds, np.float32)})
        return list(zip(*(part.tolist() for part in found)))
    for threshold, exit in (np.inf, 1), (0, len(thresholds) + 1):
        if any(found != exit for _, found, _ in answers(pixels[:7], [threshold] * len(thresholds))):
            sys.exit(f"{path.name}: at thresholds of {threshold}, not all images leave at exit {exit}")
    for start in range(0, len(pixels), 64):
        yield from answers(pixels[start:start + 64], thresholds)


def decided(images, thresholds, criterion):
    """Answers of images, given the logits of each at every exit: label, exit, uncertainty."""
    for logits in images:
        unsure = [uncertainty(z, criterion) for z in logits]
        exit = next((i for i, (u, t) in enumerate(zip(unsure, thresholds)) if u < t), len(thresholds))
        yield int(logits[exit].argmax()), exit + 1, unsure[exit]


def run_exits(path, pixels, thresholds, criterion):
    model = session(path)
    for start in range(0, len(pixels), 100):
        yield from decided(zip(*model.run(None, {"image": pixels[start:start + 100]})), thresholds, criterion)


def run_stages(folder, pixels, thresholds, _):
    manifest = json.loads((folder / "manifest.json").read_text())
    stages = [(stage, session(folder / stage["file"])) for stage in manifest["stages"]]
    for image in pixels:
        value = image[None]
        for exit, (stage, model) in enumerate(stages):
            found = dict(zip(stage["outputs"], model.run(stage["outputs"], {stage["input"]: value})))
            if exit == len(thresholds) or found["uncertainty"][0] < thresholds[exit]:
                break
            value = found[f"trunk{exit + 1}"]
        yield int(found["label"][0]), exit + 1, float(found["uncertainty"][0])


RUNS = {"if": run_if, "batch": run_batch, "exits": run_exits, "stages": run_stages}


def check(program, network, count, folder):
    """How many answers or exits are not the program's, by form."""
    pixels = images(network, count)
    (folder / "pictures").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(folder / "pictures" / f"{i:05}.png", compress_level=1)
    lines = subprocess.run([program, "classify", network, folder / "pictures", "--as-is", "--json"], check=True, text=True, stdout=subprocess.PIPE).stdout
    expected = [json.loads(line) for line in lines.splitlines()]
    wrong = 0
    for form in FORMS:
        path = folder / form.replace("--", "").replace(" ", "_").replace("=", "_")
        path = path if "stages" in form else path.with_suffix(".onnx")
        subprocess.run([program, "export", network, "--onnx", path, *form.split()], check=True, stdout=subprocess.DEVNULL)
        first = path / "stage1.onnx" if path.is_dir() else path
        model = onnx.load(str(first))
        if model.ByteSize() != first.stat().st_size:
            sys.exit(f"{network} {form}: ONNX's own library would write {model.ByteSize():,} bytes, and the file has {first.stat().st_size:,}")
        thresholds, criterion, classes = policy_of(first)
        if "int8" in form:
            # The quantised network as the program computes it.
            logits = array(path.with_suffix(".record.safetensors"), "test_logits")[:, :len(pixels)].swapaxes(0, 1)
            expected = [{"label": classes[label], "exit": exit, "uncertainty": unsure} for label, exit, unsure in decided(logits, thresholds, criterion)]
        found = list(RUNS[form.split("=")[1].split()[0]](path, pixels, thresholds, criterion))
        others = [i for i, (ours, theirs) in enumerate(zip(expected, found)) if (ours["label"], ours["exit"]) != (classes[theirs[0]], theirs[1])]
        largest = max((abs(ours["uncertainty"] - theirs[2]) for i, (ours, theirs) in enumerate(zip(expected, found)) if i not in others), default=0)
        size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
        print(f"{network} {form}: {len(others)} of {len(found)} answers or exits differ; uncertainties by at most {largest:.1e}; {size:,} bytes", flush=True)
        for i in others:
            distance = min(abs(expected[i]["uncertainty"] - t) for t in thresholds)
            print(f"   image {i}: ours {expected[i]['label']} at exit {expected[i]['exit']}, theirs {classes[found[i][0]]} at {found[i][1]}; {distance:.1e} from a threshold")
        # Sums of integers are rounded elsewhere than sums of floats, and a value that falls to the next number may tip the scale.
        wrong += len(others) > count / (50 if "int8" in form else 1000)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("networks", nargs="+")
    arguments = parser.parse_args()
    wrong = 0
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            wrong += check(arguments.program, network, arguments.images, pathlib.Path(folder))
    sys.exit(f"{wrong} forms decide otherwise than the program" if wrong else None)


if __name__ == "__main__":
    main()
