"""Networks from elsewhere: exported by PyTorch as people do it, recorded, and given a policy; the files decide as the record says.

    given.py --program PROGRAM [--images N]    `make check-from`

A network of torchvision's parts and one of timm's get an exit each, are trained for a moment (few steps: answers are compared, not counted right), and are exported by both of PyTorch's
exporters. `branchynet record` runs them, `branchynet export --from` writes the form if, and batch and stages where a single value
passes on behind the exit. Each image's label and exit are compared with what follows from the record's logits.
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


def check(program, name, network, count, folder):
    pixels = prepared(images("alexnet", count)).numpy()
    wrong = 0
    for dynamo in (True, False):
        path = folder / f"{name}-{'dynamo' if dynamo else 'script'}.onnx"
        names = {"input_names": ["x"], "output_names": ["early", "late"]}
        batch = {"dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (torch.zeros(2, 3, 32, 32),), str(path), dynamo=dynamo, external_data=False, verbose=False, **names, **batch)
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(path))), str(path))
        numbers = [",".join(map(str, values)) for values in (MEAN, STD)]
        subprocess.run([program, "record", path, "--data", "cifar10", "--mean", numbers[0], "--std", numbers[1]], check=True, stdout=subprocess.DEVNULL)
        logits = array(path.with_suffix(".record.safetensors"), "test_logits")[:, :count].swapaxes(0, 1)
        for form in ("if", "batch", "stages"):
            out = folder / f"{path.stem}-{form}{'' if form == 'stages' else '.onnx'}"
            run = subprocess.run([program, "export", "--from", path, "--onnx", out, "--form", form], text=True, capture_output=True)
            title = f"{name}, {'dynamo' if dynamo else 'TorchScript'}, opset {onnx.load(str(path)).opset_import[0].version}, {form}"
            if name == "timm" and form != "if":
                refused = run.returncode == 2 and "the form `if` alone takes that" in run.stderr
                print(f"{title}: {'refused, since two values go on' if refused else 'NOT REFUSED: ' + run.stderr}")
                wrong += not refused
                continue
            if run.returncode:
                print(f"{title}: FAILED: {run.stderr.strip()}")
                wrong += 1
                continue
            # Half of the images leave, whatever the network has learned.
            thresholds = [float(np.median([uncertainty(z[0], "entropy") for z in logits]))]
            expected = list(decided(logits, thresholds, "entropy"))
            found = list(RUNS[form](out, pixels, thresholds, "entropy"))
            others = sum(a[:2] != b[:2] for a, b in zip(expected, found))
            early = sum(exit == 1 for _, exit, _ in expected) / count
            print(f"{title}: {others} of {count} answers or exits differ; {early:.0%} leave at exit 1", flush=True)
            wrong += others > count / 200 or not 0 < early < 1
    return wrong


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
