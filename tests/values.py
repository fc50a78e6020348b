"""What the check of numbers in prose (notebooks/readme.py) finds and what it leaves alone."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "notebooks"))
import readme  # noqa: E402
import values  # noqa: E402

RESULTS = ["it has 92.6 %", "1.24 ± 0.12", "a gain of 2.3", "5x faster", "80, 81 and 82 %", "81 and 82<!--a.b--> %", "8 MB", "in nine minutes", "12 to 30 ms", "two fifths of it",
           "1,200 images/s", "seven of ten images", "48 million MACs", "| 3 points |"]
OTHERS = ["20 epochs", "32×32 pixels, ten classes", "`EPOCHS=10 x 2.5 %`", "[Figure 3](a_2.5.png)", "92.6<!--a.b--> %", "1.24 ± 0.12<!--a.b-->", "ResNet-110s, Figure 3a, CIFAR-10",
          "```\n92.6 %\n```", "<!-- seeds: make readme -->\n92.6 %\n<!-- end -->\n", "0 and 1, times in milliseconds", "at most 1 % of all"]


def main():
    for text in RESULTS:
        assert list(readme.unnamed(text, [])), f"not found: {text}"
    for text in OTHERS:
        assert not list(readme.unnamed(text, ["at most 1 % of"])), f"no result: {text}"

    quantity = values.Quantity(".2% ±", values.Number(0.99132, 0.00057), [], "exact")
    assert readme.filled("has 12<!--a.b--> %, 3 ± 4<!--a.b--> %", {"a.b": quantity}) == "has 99.13 ± 0.06<!--a.b--> %, 99.13 ± 0.06<!--a.b--> %"
    assert values.written(values.Number(-0.00002), "+.2%") == "0.00", "no minus before zero"
    assert values.written(values.Number(1234.5), ",.0f") == "1,234"

    declared = values.Quantities()
    try:
        declared.evaluated(".2%", 'seeds["B-LeNet", "exit 9", "accuracy"]')
    except LookupError:
        pass
    else:
        raise AssertionError("a row that is not there has a value")
    print("numbers in prose: the check finds results and leaves the rest alone")


if __name__ == "__main__":
    main()
