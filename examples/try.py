"""Trains B-LeNet for three epochs, sweeps its threshold, classifies forty test digits, and draws what came out to figures/try.html.

    try.py cargo run --quiet --    `make try`; a second time the finished run is found again
"""

import base64
import io
import json
import pathlib
import subprocess
import sys

import plotly.graph_objects as go
from PIL import Image, ImageOps
from plotly.subplots import make_subplots

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "try"
SETTINGS = ["lenet", "--data", "mnist", "--baseline-epochs", "1", "--epochs", "2", "--matched", "no"]
ROWS, COLUMNS = 5, 8


def branchynet(*words, **options):
    print("== branchynet", *words, flush=True)
    return subprocess.run([*sys.argv[1:], *words], check=True, text=True, **options).stdout


def sweep(*words):
    return json.loads(branchynet("sweep", *SETTINGS, "--json", *words, stdout=subprocess.PIPE))["points"]


def digits():
    """The first test images, each as a PNG in target/try/digits/, and all side by side."""
    with open(ROOT / "datasets" / "mnist.safetensors", "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell() + head["test_images"]["data_offsets"][0]
        _, _, height, width = head["test_images"]["shape"]
        file.seek(start)
        images = [Image.frombytes("L", (width, height), file.read(width * height)) for _ in range(ROWS * COLUMNS)]
    (FOLDER / "digits").mkdir(parents=True, exist_ok=True)
    # Below each there is room for a line of text.
    across, down = width + 4, height + 10
    together = Image.new("L", (COLUMNS * across, ROWS * down))
    for i, image in enumerate(images):
        image.save(FOLDER / "digits" / f"{i:02}.png")
        together.paste(image, (i % COLUMNS * across, i // COLUMNS * down))
    png = io.BytesIO()
    ImageOps.invert(together).convert("RGB").save(png, "PNG")
    return png.getvalue(), (across, down)


def draw(front, every, chosen, answers, pictures, across, down):
    figure = make_subplots(1, 2, column_widths=[0.5, 0.5], subplot_titles=[
        "Test accuracy against multiply-accumulates, for every threshold", "Forty test digits: answer, and the exit where each left"])
    points = [("exact front, chosen on validation", front, "lines"), ("all leave at one exit", every, "markers"),
              ("no loss on validation", chosen, "markers")]
    for name, found, mode in points:
        figure.add_scatter(x=[point["test"]["cost"] for point in found], y=[point["test"]["accuracy"] * 100 for point in found], name=name,
                           mode=mode, marker_size=10, text=[f"T = {point['thresholds'][0]}" for point in found])
    figure.update_xaxes(title="mean multiply-accumulates (MACs) per image", row=1, col=1)
    figure.update_yaxes(title="right answers on test, %", row=1, col=1)
    source = "data:image/png;base64," + base64.b64encode(pictures).decode()
    figure.add_trace(go.Image(source=source, hoverinfo="skip"), 1, 2)
    early, late = "#1b7837", "#b2182b"
    for i, answer in enumerate(answers):
        figure.add_annotation(x=(i % COLUMNS + 0.45) * across, y=(i // COLUMNS + 0.86) * down, showarrow=False, row=1, col=2,
                              text=f"{answer['label']} · exit {answer['exit']}", font={"size": 11, "color": early if answer["exit"] == 1 else late})
    figure.update_xaxes(visible=False, row=1, col=2)
    figure.update_yaxes(visible=False, row=1, col=2)
    left_early = sum(answer["exit"] == 1 for answer in answers)
    figure.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.15}, title={
        "text": f"B-LeNet after 1 + 2 epochs: {chosen[0]['test']['shares'][0] * 100:.1f} % of the test images leave at exit 1"
                f"<br><sup>a short run, for trying out; {left_early} of the forty digits shown left early</sup>"})
    out = ROOT / "figures" / "try.html"
    figure.write_html(out, config={"modeBarButtonsToRemove": ["sendChartToCloud"]})
    return out


def main():
    branchynet("train", *SETTINGS)
    every = sweep("--anytime")
    front = sweep("--rows", "1000")
    chosen = sweep("--accuracy", repr(every[-1]["validation"]["accuracy"]))
    branchynet("export", *SETTINGS, "--name", "try", "--output", str(FOLDER))
    pictures, size = digits()
    lines = branchynet("classify", str(FOLDER / "try.safetensors"), str(FOLDER / "digits"), "--json", stdout=subprocess.PIPE)
    answers = [json.loads(line) for line in lines.splitlines()]
    point = chosen[0]
    print(f"At T = {point['thresholds'][0]}, {point['test']['shares'][0]:.1%} of the test images leave at exit 1, {point['test']['accuracy']:.2%} are right, and an "
          f"image takes {every[-1]['test']['cost'] / point['test']['cost']:.1f} times fewer multiply-accumulates than to the last exit.")
    print(f"Drawn to {draw(front, every, chosen, answers, pictures, *size).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
