"""Puts the outputs of executed notebooks (figures/*.ipynb, which `make figures` leaves) into those of the repository, for readers who run nothing:
text, tables as HTML, each plot as a small PNG with the checksum of the figure that it was made of.

    outputs.py            put them in (`make readme`)
    outputs.py --check    say where the outputs in the repository are not those of its figures and tables
"""

import argparse
import base64
import hashlib
import io
import pathlib
import sys

import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLOTLY = "application/vnd.plotly.v1+json"
# Bytes of a picture and of a notebook.
PICTURE, NOTEBOOK = 100_000, 1_000_000


def small(png):
    """The same picture in at most `PICTURE` bytes: with as many colours as fit, else smaller."""
    from PIL import Image
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        for colours in (256, 64, 24):
            out = io.BytesIO()
            picture.quantize(colours).save(out, "png", optimize=True)
            if out.tell() <= PICTURE:
                return out.getvalue()
        picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.LANCZOS)


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(output):
    """What of an output stays; None where nothing does."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = output.get("data", {})
    if PLOTLY in data:
        image = (ROOT / data["text/plain"]).with_suffix(".png")
        if not image.is_file():
            raise SystemExit(f"{image.relative_to(ROOT)} is missing: figures become PNGs where a Chromium is installed (`make images`)")
        width = data[PLOTLY]["layout"].get("width", 700)
        pixels = base64.b64encode(small(image.read_bytes())).decode()
        return nbformat.v4.new_output("display_data", {"image/png": pixels, "text/plain": data["text/plain"]},
                                      metadata={"image/png": {"width": width}, "figure": {"sha256": checksum(image)}})
    return nbformat.v4.new_output("display_data", {kind: data[kind] for kind in ("text/html", "text/plain") if kind in data})


def put_in(path):
    executed = ROOT / "figures" / path.name
    if not executed.exists():
        print(f"{path.name}: keeps its outputs, as it has not been run (`make figures`)")
        return
    notebook, run = (nbformat.read(file, as_version=4) for file in (path, executed))
    # A text may be mended without running anything again.
    code = lambda book: [cell.source for cell in book.cells if cell.cell_type == "code"]
    if code(notebook) != code(run):
        raise SystemExit(f"{path.name} has changed since it was run: `make figures` runs it again")
    count = 0
    done = iter(cell for cell in run.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [output for output in map(kept, next(done).outputs) if output]
    # As Jupyter saves it, so that saving it there changes nothing.
    nbformat.write(notebook, path)
    size = path.stat().st_size
    if size > NOTEBOOK:
        raise SystemExit(f"{path.name} has {size:,} bytes with its outputs, at most {NOTEBOOK:,} are meant to be")


def wrong(path, tables):
    """Where a notebook's outputs are not those of the figures and tables in figures/."""
    for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code":
            continue
        place = f"{path.name}, cell {index + 1}"
        shown = [output for output in cell.outputs if output.output_type == "display_data"]
        pictures = [output for output in shown if "image/png" in output.data]
        for output in pictures:
            image = (ROOT / output.data["text/plain"]).with_suffix(".png")
            if not image.is_file() or checksum(image) != output.metadata["figure"]["sha256"]:
                yield f"{place}: the plot is not {image.relative_to(ROOT)}"
        if ".save(" in cell.source:
            parts = [part.strip() for output in shown if "text/html" in output.data for part in output.data["text/plain"].split("\n\n")]
            if not cell.outputs or not all(part in tables for part in parts):
                yield f"{place}: the table is none of those in figures/"
        if len(pictures) < cell.source.count(".show("):
            yield f"{place}: there is no plot"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where outputs are not those of figures/")
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not parser.parse_args().check:
        for path in books:
            put_in(path)
        return
    tables = {path.read_text().strip() for path in (ROOT / "figures").glob("**/*.md")}
    found = [what for path in books for what in wrong(path, tables)]
    print("\n".join(found) or "the notebooks' outputs are those of figures/")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
