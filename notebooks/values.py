"""Named quantities: every number in prose is one. docs/values.toml says where each comes from and how it is written; in a page its name follows
it, in a comment that no reader sees:

    the last exit reaches 99.13 ± 0.06<!--lenet.last--> %
"""

import csv
import dataclasses
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What a name stands behind: a number with its interval, or a word.
MARKED = re.compile(r"(?P<text>[-+]?\d[\d,.]*(?: ± \d[\d.]*)?|[\w-]+)<!--(?P<name>[a-z][\w.-]*)-->")


class Number(float):
    """A number, and half of its 95 % interval, where there is one."""

    def __new__(cls, value, half=None):
        number = super().__new__(cls, value)
        number.half = half
        return number

    def scaled(self, factor):
        return Number(float(self) * factor, None if self.half is None else self.half * abs(factor))

    def __mul__(self, factor):
        return self.scaled(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor):
        return self.scaled(1 / divisor)

    def __neg__(self):
        return self.scaled(-1)


def numbers_in(cell):
    try:
        return float(cell)
    except ValueError:
        return None


class Table:
    """A file's rows. `table["B-LeNet", "exit 2", "accuracy"]` finds the one row that begins with these cells, or the beginnings of these where none is
    equal, and takes its mean, or the column that is named last."""

    def __init__(self, path, seen):
        self.path, self.seen = path, seen

    def rows(self):
        if not hasattr(self, "found"):
            self.found = (sections if self.path.suffix == ".md" else lines)(self.path)
        self.seen.add(self.path)
        return self.found

    def __getitem__(self, keys):
        keys = [str(key) for key in (keys if isinstance(keys, tuple) else (keys,))]
        column = keys.pop() if keys[-1] in self.rows()[0] else "mean"
        found = self.rows()
        for place, key in enumerate(keys):
            cells = [list(row.values())[place] for row in found]
            exact = key in cells
            found = [row for row, cell in zip(found, cells) if (cell == key if exact else re.match(re.escape(key) + r"\b", cell))]
        if len(found) != 1 or column not in found[0]:
            raise LookupError(f"{self.path.name}: {len(found)} rows begin with {keys}, expected one with a column {column}")
        return self.number(found[0], column)

    def column(self, name, *keys, **cells):
        """Of all rows that begin with these cells, and have these by name."""
        return [self.number(row, name) for row in self.rows()
                if list(row.values())[:len(keys)] == list(keys) and all(row[column] == cell for column, cell in cells.items())]

    @staticmethod
    def number(row, column):
        value = numbers_in(row[column])
        if value is None:
            return row[column]
        half = numbers_in(row.get("95 % ±" if column == "mean" else f"{column}, 95 % ±", ""))
        to = numbers_in(row.get("95 % to", "")) if column == "mean" else None
        return Number(value, half if to is None else to - value)


def lines(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def sections(path):
    """The tables of a Markdown file, the heading above each in a column of its own."""
    rows, heading, names = [], "", None
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            heading, names = line.lstrip("# "), None
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if names is None:
                names = cells
            elif not set(line) <= set("|-: "):
                rows.append(dict(zip(["heading", *names], [heading, *cells])))
    return rows


@dataclasses.dataclass
class Quantity:
    """`kind` says how it would differ if it were made again: exact, time, chance; paper and once are not made again."""

    form: str
    value: float | str
    files: list
    kind: str

    @property
    def text(self):
        return written(self.value, self.form)


def written(value, form):
    """As Python formats it, `.2%` without the sign, and with its interval where the form ends in ±."""
    if isinstance(value, str):
        return value
    spec = form.removesuffix(" ±")

    def one(number, spec):
        shown = format(number, spec).rstrip("%")
        return shown if float(shown.replace(",", "")) else shown.lstrip("+-")
    half = getattr(value, "half", None)
    return one(value, spec) + (f" ± {one(half, spec.lstrip('+'))}" if spec != form and half is not None else "")


class Quantities(dict):
    """All named quantities, read from the files where `at` says that they are; lenient: without those whose rows are not there."""

    def __init__(self, at=lambda path: ROOT / path, lenient=False):
        with open(ROOT / "docs" / "values.toml", "rb") as file:
            declared = tomllib.load(file)
        self.made_by, self.tolerance, self.settings = declared["made by"], declared["tolerance"], declared["settings"]
        self.seen, self.again, self.files, self.at = set(), declared["again"], list(declared["files"].values()), at
        tables = {name: Table(at(path), self.seen) for name, path in declared["files"].items()}
        self.names = {"__builtins__": {}, "min": min, "max": max, "abs": abs, "range": range, "zip": zip, **tables}
        for group, quantities in declared["values"].items():
            for name, (form, source, *kind) in quantities.items():
                try:
                    self[f"{group}.{name}"] = self.evaluated(form, source, *kind)
                except (LookupError, ValueError, TypeError, NameError, SyntaxError, ArithmeticError, OSError) as error:
                    if not lenient:
                        raise SystemExit(f"docs/values.toml, {group}.{name}: {error}") from error

    def evaluated(self, form, source, kind="exact"):
        self.seen.clear()
        value = eval(source, self.names)
        written(value, form)
        return Quantity(form, value, [path for path in self.files if self.at(path) in self.seen], kind)
