"""The networks in PyTorch, for the comparisons of speed: the same layers as in src/, random weights.

    peers.py NETWORK FOLDER BATCH ...    writes trunks without branches as ONNX files, a file for each size of a batch and
                                         of FORMS, with images and the logits that PyTorch gives for them
"""

import contextlib
import json
import pathlib
import sys
import warnings
from unittest import mock

import torch
import torch.nn as nn
import torch.nn.functional as F

from networks import IMAGES


def pool(kernel):
    return nn.MaxPool2d(kernel, 2, ceil_mode=True)


def lrn():
    # PyTorch divides alpha by the number of channels, Chainer does not.
    return nn.LocalResponseNorm(3, 1.5e-4, 0.75, 2.0)


def conv(inputs, outputs, kernel, padding, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding)


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.zeros, self.stride = outputs - inputs, outputs // inputs
        self.body = nn.Sequential(conv(inputs, outputs, 3, 1, self.stride), nn.BatchNorm2d(outputs), nn.ReLU(),
                                  conv(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs))

    def subsampled(self, x):
        return x[:, :, ::self.stride, ::self.stride]

    def forward(self, x):
        body = self.body(x)
        if self.zeros:
            x = F.pad(self.subsampled(x), (0, 0, 0, 0, self.zeros, 0))
        return torch.relu(body + x)


class Branchy(nn.Module):
    """Segments of the trunk, and a branch behind each but the last."""

    def __init__(self, segments, branches):
        super().__init__()
        self.segments = nn.ModuleList(nn.Sequential(*segment) for segment in segments)
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x):
        logits = []
        for segment, branch in zip(self.segments, self.branches):
            x = segment(x)
            logits.append(branch(x))
        return [*logits, self.segments[-1](x)]

    def baseline(self):
        return nn.Sequential(*self.segments).eval()


def lenet():
    r, flat = nn.ReLU, nn.Flatten
    return Branchy(
        [[conv(1, 5, 5, 3)],
         [pool(2), r(), conv(5, 10, 5, 3), pool(2), r(), conv(10, 20, 5, 3), pool(2), r(), flat(), nn.Linear(720, 84), nn.Linear(84, 10)]],
        [[pool(2), r(), conv(5, 10, 3, 1), pool(2), r(), flat(), nn.Linear(640, 10)]])


def alexnet():
    r, flat = nn.ReLU, nn.Flatten
    return Branchy(
        [[conv(3, 32, 5, 2), r(), pool(3), lrn(), conv(32, 64, 5, 2)],
         [r(), pool(3), lrn(), conv(64, 96, 3, 1)],
         [r(), conv(96, 96, 3, 1), r(), conv(96, 64, 3, 1), r(), pool(3), flat(), nn.Linear(1024, 256), r(), nn.Dropout(0.5),
          nn.Linear(256, 128), r(), nn.Dropout(0.5), nn.Linear(128, 10)]],
        [[r(), pool(3), lrn(), conv(64, 32, 3, 1), r(), conv(32, 32, 3, 1), r(), pool(3), flat(), nn.Linear(512, 10)],
         [r(), pool(3), lrn(), conv(96, 32, 3, 1), r(), pool(3), flat(), nn.Linear(128, 10)]])


def resnet110():
    r, flat = nn.ReLU, nn.Flatten
    stage = lambda inputs, outputs: [Block(inputs, outputs)] + [Block(outputs, outputs) for _ in range(17)]
    return Branchy(
        [[conv(3, 16, 3, 0), nn.BatchNorm2d(16), r()],
         stage(16, 16),
         [*stage(16, 32), *stage(32, 64), nn.AvgPool2d(6, 1), flat(), nn.Linear(576, 10)]],
        [[conv(16, 64, 5, 2), r(), lrn(), conv(64, 32, 3, 1), r(), conv(32, 32, 3, 1), r(), flat(), nn.Linear(28800, 10)],
         [Block(16, 16), flat(), nn.Linear(14400, 10)]])


class Scale(nn.Module):
    def forward(self, x):
        return x / 9


def airbench():
    g, flat = nn.GELU, nn.Flatten

    def group(inputs, outputs):
        return [conv(inputs, outputs, 3, 1), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), g(), conv(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs), g()]

    def further(inputs, outputs):
        return [conv(inputs, outputs, 3, 1), nn.BatchNorm2d(outputs), g()]

    return Branchy(
        [[conv(3, 24, 2, 0), g(), *group(24, 64)], [*group(64, 256), *group(256, 256), nn.MaxPool2d(3), flat(), nn.Linear(256, 10), Scale()]],
        [[nn.MaxPool2d(2), *further(64, 96), *further(96, 96), nn.MaxPool2d(2), *further(96, 96), *further(96, 96),
          nn.MaxPool2d(3), flat(), nn.Linear(96, 10), Scale()]])


def stack():
    """What most networks spend their time in, and no more."""
    layers = [layer for _ in range(24) for layer in (conv(64, 64, 3, 1), nn.ReLU())]
    return Branchy([[*layers, nn.AvgPool2d(32), nn.Flatten(), nn.Linear(64, 10)]], [])


def seeded(name):
    """A network whose logits depend on every layer, so that a layer computed wrongly shows: weights that keep the size of activations, and batch
    normalisations that have seen images."""
    torch.manual_seed(0)
    network = globals()[name]()
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(64, *IMAGES[name]))
    return network.eval()


def plain(layer, x):
    """Local response normalisation by sums of slices, and with roots for its power of 3/4: every runtime has that."""
    squares = F.pad(x * x, (0, 0, 0, 0, layer.size // 2, layer.size // 2))
    root = (layer.k + layer.alpha / layer.size * sum(squares[:, i:i + x.shape[1]] for i in range(layer.size))).sqrt()
    return x / (root * root.sqrt())


def operator(layer, x):
    """Local response normalisation as ONNX has it; torch.onnx.export alone writes a pooling in three dimensions."""
    attributes = {"alpha": layer.alpha, "beta": layer.beta, "bias": layer.k, "size": layer.size}
    return torch.onnx.ops.symbolic("LRN", (x,), attributes, dtype=x.dtype, shape=x.shape)


def pooled(block, x):
    """Every second pixel, without slices."""
    return F.max_pool2d(x, 1, block.stride)


# What is written how: as ONNX's operators, or with those that every runtime has.
FORMS = {"operator": [(nn.LocalResponseNorm, "forward", operator)], "plain": [(nn.LocalResponseNorm, "forward", plain), (Block, "subsampled", pooled)]}


def export(name, folder, batches):
    network = seeded(name).baseline()
    kinds = {type(layer) for layer in network.modules()}
    with torch.no_grad():
        for batch in batches:
            # Of different brightness, so that logits differ much more than they are rounded.
            images = torch.rand(batch, *IMAGES[name]) * 2 * torch.rand(batch, 1, 1, 1)
            logits = network(images)
            images.numpy().tofile(folder / f"{batch}.images")
            logits.numpy().tofile(folder / f"{batch}.logits")
            for form, changes in FORMS.items():
                if form == "plain" and not any(kind in kinds for kind, *_ in changes):
                    continue
                with contextlib.ExitStack() as changed:
                    for change in changes:
                        changed.enter_context(mock.patch.object(*change))
                    torch.onnx.export(network, (images,), str(folder / f"{form}-{batch}.onnx"), input_names=["image"], output_names=["logits"],
                                      external_data=False, verbose=False)
    # By how much images make logits differ, not how large they are.
    (folder / "spread.json").write_text(json.dumps(float((logits - logits.mean(0)).abs().max())))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    export(sys.argv[1], pathlib.Path(sys.argv[2]), [int(batch) for batch in sys.argv[3:]])
