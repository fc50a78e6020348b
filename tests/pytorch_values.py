"""Prints the PyTorch values in tests/ops.rs. Run: python tests/pytorch_values.py (PyTorch 2, f64).

Inputs and digests are given by formulas, the same in tests/ops.rs, so that no arrays need storing:
element i of input number s is sin(1.3 i + s), and a tensor's digest is sum_i cos(0.7 i) t_i.
"""
import torch
import torch.nn.functional as F
from torch import nn

torch.set_default_dtype(torch.float64)


def wave(seed, *shape):
    n = torch.Size(shape).numel()
    return torch.sin(1.3 * torch.arange(n) + seed).reshape(shape).requires_grad_()


def digest(t):
    return (torch.cos(0.7 * torch.arange(t.numel())) * t.flatten()).sum()


def show(case, out, *inputs):
    grads = torch.autograd.grad(digest(out), inputs)
    values = [digest(out), *map(digest, grads)]
    print(f"    ({case}, [{', '.join(f'{v.item():.9}' for v in values)}]),")


print("CONV (batch, in, out, height, width, kernel, padding, stride): output, and gradients of x, weight, bias")
for b, i, o, h, w, k, p, s in [
    (1, 1, 1, 3, 3, 3, 0, 1), (2, 1, 5, 28, 28, 5, 3, 1), (3, 5, 10, 15, 15, 5, 3, 1), (1, 3, 4, 7, 5, 3, 1, 1),
    (2, 4, 3, 9, 7, 3, 1, 2), (2, 3, 9, 8, 11, 5, 2, 2), (1, 2, 7, 10, 10, 3, 0, 3), (5, 3, 17, 6, 6, 1, 0, 1),
    (2, 6, 2, 5, 5, 1, 0, 2), (9, 2, 3, 4, 19, 2, 1, 1), (1, 16, 33, 8, 8, 3, 1, 1), (2, 2, 2, 5, 6, 4, 3, 3),
    (19, 3, 32, 5, 7, 3, 1, 1), (2, 4, 48, 8, 9, 3, 1, 2), (3, 2, 64, 6, 6, 5, 2, 1), (1, 1, 80, 4, 4, 2, 0, 1),
    (18, 16, 16, 10, 9, 3, 1, 1), (2, 8, 32, 11, 13, 5, 2, 1), (3, 64, 48, 8, 8, 3, 1, 1), (2, 16, 32, 9, 9, 3, 1, 2),
    (2, 3, 5, 6, 4, 1, 1, 1), (3, 2, 17, 5, 7, 3, 4, 2), (1, 16, 32, 8, 8, 3, 3, 1), (2, 1, 3, 4, 4, 2, 5, 3),
]:
    x, weight, bias = wave(1, b, i, h, w), wave(2, o, i, k, k), wave(3, o)
    show(f"({b}, {i}, {o}, {h}, {w}, {k}, {p}, {s})", F.conv2d(x, weight, bias, s, p), x, weight, bias)

print("POOL (batch, channels, height, width, kernel, stride): output, gradient of x")
for b, c, h, w, k, s in [
    (1, 1, 4, 4, 2, 2), (2, 3, 15, 15, 2, 2), (2, 2, 32, 32, 3, 2), (1, 2, 7, 9, 3, 2), (3, 1, 5, 8, 3, 1), (1, 2, 7, 7, 2, 3),
    (2, 1, 4, 6, 4, 3), (1, 1, 1, 1, 1, 1), (2, 2, 10, 9, 3, 4), (1, 1, 5, 5, 1, 3),
]:
    x = wave(1, b, c, h, w)
    show(f"({b}, {c}, {h}, {w}, {k}, {s})", F.max_pool2d(x, k, s, ceil_mode=True), x)

print("LRN (batch, channels, height, width, n, k, alpha, beta): output, gradient of x")
for b, c, h, w, n, k, alpha, beta in [
    (1, 5, 3, 4, 3, 2.0, 5e-5, 0.75), (2, 4, 3, 3, 3, 1.0, 0.7, 0.75), (3, 7, 2, 5, 5, 2.0, 0.3, 0.5), (1, 1, 4, 4, 3, 1.5, 0.9, 0.6),
]:
    x = wave(1, b, c, h, w)
    # PyTorch divides alpha by n, Chainer does not.
    show(f"({b}, {c}, {h}, {w}, {n}, {k}, {alpha}, {beta})", F.local_response_norm(x, n, alpha * n, beta, k), x)

print("LINEAR (batch, in, out): output, and gradients of x, weight, bias")
for b, i, o in [(1, 1, 1), (1, 84, 10), (7, 33, 5), (40, 720, 84)]:
    x, weight, bias = wave(1, b, i), wave(2, o, i), wave(3, o)
    show(f"({b}, {i}, {o})", F.linear(x, weight, bias), x, weight, bias)

print("RELU (elements): output, gradient of x")
x = wave(1, 40_000)
show("40000", F.relu(x), x)

print("GELU (elements): output, gradient of x, which is six times as large")
x = 6 * wave(1, 40_000)
show("40000", F.gelu(x), x)

print("BATCH_NORM (batch, channels, height, width): output, and gradients of x, weight, bias")
for b, c, h, w in [(1, 1, 2, 2), (3, 4, 5, 7), (8, 2, 16, 17), (20, 3, 1, 1)]:
    x, weight, bias = wave(1, b, c, h, w), wave(2, c), wave(3, c)
    show(f"({b}, {c}, {h}, {w})", F.batch_norm(x, None, None, weight, bias, True, eps=2e-5), x, weight, bias)

print("BATCH_NORM_BY (batch, channels, height, width): output by means wave(4) and variances 1 + wave(5), and the same gradients")
for b, c, h, w in [(1, 1, 2, 2), (3, 4, 5, 7)]:
    x, weight, bias = wave(1, b, c, h, w), wave(2, c), wave(3, c)
    show(f"({b}, {c}, {h}, {w})", F.batch_norm(x, wave(4, c).detach(), 1 + wave(5, c).detach(), weight, bias, False, eps=2e-5), x, weight, bias)

print("INSIDE (batch, channels, height, width, kernel, stride): the largest of windows inside the image, gradient of x")
for b, c, h, w, k, s in [(2, 3, 7, 7, 2, 2), (1, 2, 31, 9, 2, 2), (2, 2, 8, 7, 3, 3), (1, 1, 5, 6, 4, 3)]:
    x = wave(1, b, c, h, w)
    show(f"({b}, {c}, {h}, {w}, {k}, {s})", F.max_pool2d(x, k, s), x)

print("AVERAGE (batch, channels, height, width, kernel, stride): output, gradient of x")
for b, c, h, w, k, s in [(2, 3, 8, 8, 6, 1), (1, 2, 8, 8, 8, 1), (3, 1, 9, 7, 3, 2), (1, 1, 1, 1, 1, 1)]:
    x = wave(1, b, c, h, w)
    show(f"({b}, {c}, {h}, {w}, {k}, {s})", F.avg_pool2d(x, k, s), x)

print("SHORTCUT (batch, in, out, height, width, stride): relu(body + shortcut(x)), gradients of body, x")
for b, i, o, h, w, s in [(2, 3, 3, 5, 6, 1), (2, 4, 8, 30, 30, 2), (3, 2, 5, 15, 15, 2), (1, 1, 1, 7, 8, 3)]:
    x, body = wave(1, b, i, h, w), wave(2, b, o, -(-h // s), -(-w // s))
    show(f"({b}, {i}, {o}, {h}, {w}, {s})", torch.relu(body + F.pad(x[:, :, ::s, ::s], (0, 0, 0, 0, o - i, 0))), body, x)

print("ZEROS: the same of (2, 3, 8, 7, 6, 2) with zeros in front, around and behind, 2 of 5 in front")
for front in [5, 2, 0]:
    x, body = wave(1, 2, 3, 7, 6), wave(2, 2, 8, 4, 3)
    show(front, torch.relu(body + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, front, 5 - front))), body, x)

print("CROSS_ENTROPY (batch, classes, smoothing), label i * 7 % classes: losses, gradient of 0.3 of their sum")
for b, c, smoothing in [(1, 2, 0.0), (5, 10, 0.0), (37, 3, 0.0), (5, 10, 0.2), (37, 3, 0.7)]:
    logits, labels = 5 * wave(1, b, c), torch.arange(b) * 7 % c
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    gradient, = torch.autograd.grad(0.3 * losses.sum(), logits)
    print(f"    (({b}, {c}, {smoothing}), [{digest(losses).item():.9}, {digest(gradient).item():.9}]),")

print("OPTIMIZERS (src/training/optimizer.rs): three steps with gradients of their own, in f32")
for name, optimizer, options in [
    ("Adam", torch.optim.Adam, {}), ("SGD", torch.optim.SGD, {}),
    ("SGD with momentum and weight decay", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    ("Nesterov's SGD with the same", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
]:
    weight = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float32, requires_grad=True)
    steps = optimizer([weight], **options)
    for step, rate in enumerate([0.1, 0.05, 0.2]):
        steps.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor([0.1, -2.0, 0.3], dtype=torch.float32) * (step + 1) - 0.25
        steps.step()
    print(f"    {name}: [{', '.join(f'{v:.8}' for v in weight.tolist())}]")


def filled(model):
    """The model's output for an image of waves, its state filled by a formula: element i of a tensor is sin(1.3 i + s), s the sum
    of its name's bytes, times 2 / sqrt(fan-in) in a weight of a convolution or linear layer."""
    for name, t in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        sine = torch.sin(1.3 * torch.arange(t.numel()) + sum(name.encode())).reshape(t.shape)
        if t.dim() > 1:
            value = sine * 2 / t[0].numel() ** 0.5
        elif name.endswith("running_var") or name.endswith("weight"):
            value = 1 + 0.5 * sine
        else:
            value = 0.1 * sine
        t.copy_(value.float())
    return model.eval()


class Block(nn.Module):
    """As in torchvision's ResNet; without downsample the shortcut is option A, as its authors' readers have it in PyTorch."""

    def __init__(self, inputs, outputs, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if project and stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.stride, self.fill = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "downsample"):
            return F.relu(y + self.downsample(x))
        s = self.stride
        return F.relu(y + F.pad(x[:, :, ::s, ::s], (0, 0, 0, 0, self.fill, self.fill)))


class ResNet(nn.Module):
    def __init__(self, width, blocks, project):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        stage = lambda i, o: nn.Sequential(*[Block(o if n else i, o, 1 if n or i == o else 2, project) for n in range(blocks)])
        self.layer1, self.layer2, self.layer3 = stage(width, width), stage(width, 2 * width), stage(2 * width, 4 * width)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class AlexNet(nn.Module):
    """torchvision's, narrower. At 224 pixels its adaptive pooling changes nothing."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 16, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(),
            nn.MaxPool2d(3, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(16 * 36, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


print("STATE_DICT (tests/state_dict.rs): logits of PyTorch's models for two images of waves")
for name, model, size in [
    ("AlexNet", AlexNet(), 224), ("ResNet-20", ResNet(16, 3, False), 32), ("ResNet-14 with projections", ResNet(8, 2, True), 32),
]:
    logits = filled(model)(wave(1, 2, 3, size, size).float().double())
    print(f"    {name}: {[[float(f'{z:.8}') for z in row] for row in logits.tolist()]}")
