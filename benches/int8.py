"""What int8 costs and gains: exported files in onnxruntime, and this crate's own plan, on all test images.

    int8.py --program PROGRAM --output FILE.csv [--images N] NETWORK ...    `make int8`

For each network, with thresholds that promise at most 1 % of other answers than the last exit's: f32; int8 the naive way (onnxruntime's own static quantisation, 8 bits per channel, with the thresholds of f32);
int8 as `export --int8` writes it, with thresholds of its own; the same with 8 bits. Then f32 and both in this crate's plan
(benches/int8.rs). Times are medians of rounds in which all take turns, one image at a time on one thread.
"""

import argparse
import csv
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from export import DATA, array, decided, images, policy_of, session
from machine import cpu

CHOICE = "1 % guaranteed"
TIMED = 300  # images a round
ROUNDS = 5


class Calibration(CalibrationDataReader):
    """The first 500 training images."""

    def __init__(self, network):
        self.images = iter(images(network, 500, "train_images"))

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"image": image[None]}


def labels(network, count):
    return array(ROOT / "datasets" / f"{DATA.get(network, 'cifar10')}.safetensors", "test_labels")[:count]


def all_logits(path, pixels):
    model = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [np.stack(model.run(None, {"image": pixels[i:i + 100]})) for i in range(0, len(pixels), 100)]
    return np.concatenate(parts, axis=1)


class Plan:
    """This crate's plans of a network, in a process of its own."""

    def __init__(self, network, count):
        command = ["cargo", "bench", "--quiet", "--profile", "dev", "--bench", "int8", "--", network, str(count)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.rows = {f"{row['file']}, plan": row for row in self.line()["rows"]}

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("int8.py: benches/int8.rs ended early; what it said stands above")
        return json.loads(line)

    def round(self):
        """Times by name: with early exit, to the last exit, and images a second in batches."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return {f"{name}, plan": times for name, times in self.line().items()}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(files, pixels, policies, plan):
    """Milliseconds an image of each file in the `if` form, medians of rounds in turn; and of this crate's plans all that it
    measures."""
    models = {name: session(path) for name, path in files.items()}
    rounds = {name: [] for name in files}
    own = []
    for _ in range(ROUNDS + 1):
        for name, model in models.items():
            given = {"thresholds": np.array(policies[name][0], np.float32)}
            start = time.perf_counter()
            for image in pixels[:TIMED]:
                model.run(["label"], {"image": image[None], **given})
            rounds[name].append((time.perf_counter() - start) / TIMED * 1e3)
        own.append(plan.round())
    times = {name: {"early": statistics.median(times[1:])} for name, times in rounds.items()}
    for name, found in own[0].items():
        times[name] = {kind: statistics.median(round[name][kind] for round in own[1:]) for kind in found}
    return times


def written(times):
    """The columns of times."""
    columns = {"ms an image": ("early", 3), "ms to the last exit": ("whole", 3), "images/s, batches of 64": ("batch", 0)}
    return {column: f"{times[kind]:.{digits}f}" if kind in times else "" for column, (kind, digits) in columns.items()}


def exported(program, network, folder):
    """The files of each way by name: all exits' logits; those that decide; and their policies."""
    def export(name, *flags):
        path = folder / f"{name}.onnx"
        subprocess.run([program, "export", network, "--onnx", path, "--choice", CHOICE, *flags], check=True, stdout=subprocess.DEVNULL)
        return path

    ways = {"f32": [], "int8": ["--int8"], "int8, 8 bits": ["--int8", "--vnni"]}
    exits = {name: export(f"{name}-exits", "--form=exits", *flags) for name, flags in ways.items()}
    decide = {name: export(f"{name}-if", *flags) for name, flags in ways.items()}
    return exits, decide, {name: policy_of(path)[:2] for name, path in decide.items()}


def quantised_naively(exits, path, network):
    """The file of all exits' logits as onnxruntime's own static quantisation makes it."""
    prepared = path.with_name("prepared.onnx")
    quant_pre_process(str(exits), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(path), Calibration(network), QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    return path


def rows(program, network, count, folder):
    pixels, truth = images(network, count), labels(network, count)
    exits, decide, policies = exported(program, network, folder)
    naive = quantised_naively(exits["f32"], folder / "naive.onnx", network)
    logits = {name: all_logits(path, pixels) for name, path in {**exits, "int8, naive": naive}.items()}
    policies["int8, naive"] = policies["f32"]
    plan = Plan(network, count)
    times = timed(decide, pixels, policies, plan)
    plan.close()
    reference = logits["f32"][-1].argmax(1)
    for name in ("f32", "int8, naive", "int8", "int8, 8 bits"):
        answer, exit, _ = map(np.array, zip(*decided(logits[name].swapaxes(0, 1), *policies[name])))
        last = logits[name][-1].argmax(1)
        shares = " ".join(f"{(exit == i + 1).mean() * 100:.1f}" for i in range(len(logits[name])))
        size = (naive if "naive" in name else decide[name]).stat().st_size
        yield {"network": network, "file": name, "last exit, % right": f"{(last == truth).mean() * 100:.2f}",
               "with early exit, % right": f"{(answer == truth).mean() * 100:.2f}", "leave at each exit, %": shares,
               "not the last exit's answer, %": f"{(answer != last).mean() * 100:.2f}",
               "not the f32 last exit's, %": f"{(answer != reference).mean() * 100:.2f}", "other answers than by f32 sums": "", "kB": f"{size / 1e3:.0f}", **written(times.get(name, {}))}
    for name, row in plan.rows.items():
        shares = " ".join(f"{share:.1f}" for share in row["shares"])
        yield {"network": network, "file": name, "last exit, % right": f"{row['last']:.2f}",
               "with early exit, % right": f"{row['early']:.2f}", "leave at each exit, %": shares,
               "not the last exit's answer, %": f"{row['changed']:.2f}", "not the f32 last exit's, %": f"{row['changed_f32']:.2f}",
               "other answers than by f32 sums": "" if name == "f32, plan" else row["other_than_f32_sums"], "kB": "",
               **written(times[name])}


def processor():
    facts, flags = cpu()
    has = ", ".join(name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("avx512_vnni", "VNNI")) if flag in flags)
    maker = facts.get("vendor_id", platform.machine()).replace("GenuineIntel", "Intel").replace("AuthenticAMD", "AMD")
    return f"{maker} family {facts.get('cpu family')}, model {facts.get('model')} ({has or 'no SIMD'})"


def write(path, found):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--times", action="store_true", help="measure the times alone again, into the file that is there")
    parser.add_argument("networks", nargs="+")
    arguments = parser.parse_args()
    found = list(csv.DictReader(open(arguments.output, newline=""))) if arguments.times else []
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.times:
                _, decide, policies = exported(arguments.program, network, pathlib.Path(folder))
                plan = Plan(network, TIMED)
                times = timed(decide, images(network, TIMED), policies, plan)
                plan.close()
                for row in (row for row in found if row["network"] == network and row["file"] in times):
                    row.update(written(times[row["file"]]))
                    print(f"   {network}, {row['file']}: {row['ms an image']} ms", flush=True)
                continue
            for row in rows(arguments.program, network, arguments.images, pathlib.Path(folder)):
                print("   " + "; ".join(f"{name}: {value}" for name, value in row.items() if value), flush=True)
                found.append({**row, "processor": processor(), "onnxruntime": onnxruntime.__version__})
    write(arguments.output, found)


if __name__ == "__main__":
    main()
