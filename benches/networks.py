"""The networks that speed is compared on; benches/peers.py has them in PyTorch."""

TITLES = {"lenet": "B-LeNet", "alexnet": "B-AlexNet", "resnet110": "B-ResNet-110", "airbench": "B-Airbench", "stack": "24 convolutions"}
# Channels, height, width.
IMAGES = {"lenet": (1, 28, 28), "alexnet": (3, 32, 32), "resnet110": (3, 32, 32), "airbench": (3, 32, 32), "stack": (64, 32, 32)}
# Images in a training step, and steps that are timed together.
TRAINING = {"lenet": (128, 100), "alexnet": (128, 20), "resnet110": (128, 3), "airbench": (1024, 1)}
