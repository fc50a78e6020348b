"""Prints the values that corruption.rs compares corruptions with: scikit-image, scipy and Pillow at severity 3, as Hendrycks and Dietterich
have them (make_cifar_c.py). Needs numpy, pillow and scikit-image."""

import io

import numpy as np
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian

# A smooth picture of 16 x 16 pixels with some grain.
y, x, channel = np.mgrid[0:16, 0:16, 0:3]
picture = np.uint8(120 + 90 * np.sin(0.5 * x + 0.3 * y + channel) + (7 * x + 11 * y + 5 * channel) % 30)
unit = picture / 255.0


def brightness():
    hsv = rgb2hsv(unit)
    hsv[:, :, 2] = np.clip(hsv[:, :, 2] + 0.15, 0, 1)
    return hsv2rgb(hsv) * 255


def contrast():
    mean = unit.mean(axis=(0, 1), keepdims=True)
    return np.clip((unit - mean) * 0.4 + mean, 0, 1) * 255


def pixelation():
    small = Image.fromarray(picture).resize((13, 13), Image.BOX)
    return np.array(small.resize((16, 16), Image.BOX))


def jpeg():
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=58)
    return np.array(Image.open(file))


for name, result in [("Blur", gaussian(unit, sigma=0.7, channel_axis=-1) * 255), ("Brightness", brightness()), ("Contrast", contrast()),
                     ("Pixels", pixelation()), ("Jpeg", jpeg())]:
    # Every 61st value, channel by channel.
    values = np.uint8(np.clip(result, 0, 255)).transpose(2, 0, 1).flatten()[::61]
    print(f"        (Corruption::{name}, [{', '.join(map(str, values))}]),")
