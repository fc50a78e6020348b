"""Networks from elsewhere: exported by PyTorch as people do it, recorded, and given a policy; the files decide as the record says.

    given.py --program PROGRAM [--images N]    `make check-from`

A network of torchvision's parts and one of timm's get an exit each, are trained for a moment (few steps: answers are compared, not counted right), and are exported by both of PyTorch's
exporters, and quantised by onnxruntime. `branchynet record` runs them, `branchynet export --from` writes the form if, and batch and
stages where a single value passes on behind the exit. Each image's label and exit are compared with what follows from the record's
logits, and costs with what PyTorch's own layers multiply, for any batch and for batches of 8.
"""

import argparse
import pathlib
import subprocess
import tempfile
import warnings

import numpy as np
import onnx
import timm
import torch
import torchvision
from export import RUNS, array, decided, images, uncertainty
from onnxruntime.quantization import CalibrationDataReader, quantize_static

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Torchvision(torch.nn.Module):
    """A MobileNetV3 with an exit in the middle; what goes on is one value."""

    def __init__(self):
        super().__init__()
        trunk = torchvision.models.mobilenet_v3_small(num_classes=10)
        self.first, self.rest, self.classifier = trunk.features[:4], trunk.features[4:], trunk.classifier
        self.exit = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(96, 10))

    def forward(self, x):
        x = self.first(x)
        early = self.exit(x)
        x = torch.flatten(torch.nn.functional.adaptive_avg_pool2d(self.rest(x), 1), 1)
        return early, self.classifier(x)


class Timm(torch.nn.Module):
    """A ResNet-10 of timm whose last exit sees the first stage's mean as well: two values go on."""

    def __init__(self):
        super().__init__()
        self.trunk = timm.create_model("resnet10t", num_classes=10, in_chans=3)
        self.early = torch.nn.Linear(64, 10)
        self.late = torch.nn.Linear(512 + 64, 10)

    def forward(self, x):
        t = self.trunk
        x = t.layer1(t.maxpool(t.act1(t.bn1(t.conv1(x)))))
        mean = x.mean((2, 3))
        x = t.global_pool(t.layer4(t.layer3(t.layer2(x))))
        return self.early(mean), self.late(torch.cat([x, mean], 1))


def trained(network, steps=20):
    """The network after so many steps, on the first images."""
    pixels, labels = images("alexnet", 64 * steps, "train_images"), array(data(), "train_labels")[:64 * steps]
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(steps):
        part = slice(64 * step, 64 * step + 64)
        early, late = network(prepared(pixels[part]))
        truth = torch.tensor(labels[part].astype(np.int64))
        loss = torch.nn.functional.cross_entropy(early, truth) + torch.nn.functional.cross_entropy(late, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def data():
    return pathlib.Path(__file__).resolve().parent.parent / "datasets" / "cifar10.safetensors"


def prepared(pixels):
    x = torch.tensor(pixels.astype(np.float32) / 255)
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def macs(network):
    """Multiply-accumulates of all convolutions and linear layers, for one image."""
    counts = []
    def count(module, _, output):
        counts.append(output.numel() * module.weight[0].numel())
    layers = [module for module in network.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def exported(network, path, dynamo, batch=None):
    """A file of any batch, or of this one, as each exporter writes it unless told otherwise: the newer one puts weights beside it."""
    names = {"input_names": ["x"], "output_names": ["early", "late"]}
    if batch is None:
        names |= {"dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(batch or 2, 3, 32, 32),), str(path), dynamo=dynamo, verbose=False, **names)
    if not dynamo:
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(path))), str(path))


class Calibration(CalibrationDataReader):
    """The first images, once."""

    def __init__(self, pixels):
        self.batches = iter([{"x": pixels[:64]}])

    def get_next(self):
        return next(self.batches, None)


def record(program, path):
    numbers = [",".join(map(str, values)) for values in (MEAN, STD)]
    subprocess.run([program, "record", path, "--data", "cifar10", "--mean", numbers[0], "--std", numbers[1]], check=True, stdout=subprocess.DEVNULL)
    return path.with_suffix(".record.safetensors")


def export(program, path, form):
    out = path.with_name(f"{path.stem}-{form}{'' if form == 'stages' else '.onnx'}")
    return out, subprocess.run([program, "export", "--from", path, "--onnx", out, "--form", form], text=True, capture_output=True)


def decides(program, title, path, form, pixels):
    """Whether a file decides as follows from its record: 1 where it does not."""
    out, run = export(program, path, form)
    if run.returncode:
        print(f"{title}: FAILED: {run.stderr.strip()}")
        return 1
    logits = array(path.with_suffix(".record.safetensors"), "test_logits")[:, :len(pixels)].swapaxes(0, 1)
    # Half of the images leave, whatever the network has learned.
    thresholds = [float(np.median([uncertainty(z[0], "entropy") for z in logits]))]
    expected = list(decided(logits, thresholds, "entropy"))
    found = list(RUNS[form](out, pixels, thresholds, "entropy"))
    others = sum(a[:2] != b[:2] for a, b in zip(expected, found))
    early = sum(exit == 1 for _, exit, _ in expected) / len(pixels)
    print(f"{title}: {others} of {len(pixels)} answers or exits differ; {early:.0%} leave at exit 1", flush=True)
    return int(others > len(pixels) / 200 or not 0 < early < 1)


def check(program, name, network, count, folder):
    pixels = prepared(images("alexnet", count)).numpy()
    wrong = 0
    for dynamo in (True, False):
        exporter = "dynamo" if dynamo else "script"
        path = folder / f"{name}-{exporter}.onnx"
        exported(network, path, dynamo)
        costs = array(record(program, path), "costs")
        title = f"{name}, {exporter}, opset {onnx.load(str(path), load_external_data=False).opset_import[0].version}"
        print(f"{title}: {costs[-1]:,.0f} multiply-accumulates, and {macs(network):,} by PyTorch's layers")
        wrong += costs[-1] != macs(network)
        for form in ("if", "batch", "stages"):
            if name == "timm" and form != "if":
                _, run = export(program, path, form)
                refused = run.returncode == 2 and "the form `if` alone takes that" in run.stderr
                print(f"{title}, {form}: {'refused, since two values go on' if refused else 'NOT REFUSED: ' + run.stderr}")
                wrong += not refused
                continue
            wrong += decides(program, f"{title}, {form}", path, form, pixels)
        eight = folder / f"{name}-{exporter}-8.onnx"
        exported(network, eight, dynamo, 8)
        same = np.array_equal(array(record(program, eight), "costs"), costs)
        _, run = export(program, eight, "if")
        refused = run.returncode == 2 and "it takes batches of 8" in run.stderr
        print(f"{title}, batches of 8: costs of an image {'are the same' if same else 'ARE OTHERS'}, {'refused' if refused else 'NOT REFUSED: ' + run.stderr}")
        wrong += not (same and refused)
    quantised = folder / f"{name}-int8.onnx"
    quantize_static(str(path), str(quantised), Calibration(pixels), per_channel=True)
    record(program, quantised)
    return wrong + decides(program, f"{name}, {exporter}, quantised by onnxruntime, if", quantised, "if", pixels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, network in (("torchvision", Torchvision()), ("timm", Timm())):
            wrong += check(arguments.program, name, trained(network), arguments.images, pathlib.Path(folder))
    if wrong:
        raise SystemExit(f"{wrong} files decide otherwise than their record")


main()
