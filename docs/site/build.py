"""Builds the static site in figures/site/ from what is in the repository: prose, notebooks with their outputs, figures as plotly's
JSON. No notebook is run. A page lies where its source lies (docs/method.md becomes docs/method.html), so that links between
files of the repository are links between pages; a source file that is linked becomes a page too.

    build.py [DOC]    DOC: where cargo doc left the API's documentation
"""

import base64
import csv
import html
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import jinja2
import mistune
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound

from npm import fetch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SITE = ROOT / "figures" / "site"
# The same version as that of the Python package in requirements.txt; this bundle has all kinds of traces that the figures use.
BUNDLE = "https://registry.npmjs.org/plotly.js-cartesian-dist-min/-/plotly.js-cartesian-dist-min-4.1.1.tgz"
SHA512 = "o8GrFeusncwBIxbBynRJpY4pkgVB6caM+JLpwrLYbbsO7dZ8FJ+SVN2Fr+L7kiG/Z6w4P5O0Jus/Qr5EefHVeg=="
PLOTLY = f"plotly-{BUNDLE.split('-')[-1].removesuffix('.tgz')}.min.js"
REFERENCE = "datasets/reference/weights/"
# Groups of pages; those that are not there are left out.
PAGES = {
    "": ["README.md", "docs/method.md", "docs/thresholds.md", "docs/results.md", "docs/claims.md"],
    "Notebooks": sorted((f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")), key=lambda path: int(re.search(r"\d+", path)[0])),
    "Use it": ["docs/extend.md", "docs/bring-your-own.md", "docs/deploy.md", "docs/int8.md", "docs/runtimes.md", "docs/containers.md", "datasets/README.md", "datasets/reference/README.md", "docs/gpu.md", "notebooks/README.md"],
    "Trained networks": [f"{REFERENCE}{name}.md" for name in ("lenet", "alexnet", "resnet110", "resnet110-standard", "airbench")],
    "Inside": ["docs/design.md", "benches/README.md", "CONTRIBUTING.md", "CHANGELOG.md"],
}
TITLES = {"README.md": "Overview", "docs/results.md": "Results", "notebooks/README.md": "Run the notebooks"}


def text_of(path):
    return (ROOT / path).read_text(encoding="utf-8")


def title_of(path):
    text = text_of(path)
    if path.endswith(".ipynb"):
        text = "".join(json.loads(text)["cells"][0]["source"])
    heading = re.search(r"^# (.+)", text, re.M)
    return re.sub(r"[`*]", "", heading[1]) if heading else path


def target(path):
    """Where the page of a file of the repository lies, or its copy."""
    folder, name = os.path.split(path)
    stem, kind = os.path.splitext(name)
    if name == "README.md":
        return os.path.join(folder, "index.html")
    if kind in (".md", ".ipynb"):
        return os.path.join(folder, stem + ".html")
    return path if kind in (".png", ".csv", ".svg") else path + ".html"


def coloured(code, language=None, name=None):
    try:
        lexer = get_lexer_by_name(language) if language else get_lexer_for_filename(name)
    except ClassNotFound:
        lexer = TextLexer()
    return f'<pre class="code" tabindex="0"><code>{highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="t-"))}</code></pre>'


class Site:
    def __init__(self):
        self.todo, self.done, self.wrong = [], set(), []
        self.counts = dict.fromkeys(("pages", "interactive", "pictures"), 0)
        self.pages = {group: kept for group, paths in PAGES.items() if (kept := [path for path in paths if (ROOT / path).is_file()])}
        # Where a notebook shows a figure, links to its picture lead there.
        self.shown = {}
        for path in self.pages["Notebooks"]:
            for figure in re.findall(r'"text/plain": "(figures/[^"]+)\.html"', text_of(path)):
                self.shown.setdefault(figure, path)
        self.template = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE)).get_template("page.html")

    def link(self, here, href):
        """What a link of a file becomes on its page; None where there is nothing to lead to."""
        if re.match(r"[a-z]+:|#|$", href):
            return href
        file, _, anchor = href.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(here), file))
        if (ROOT / path).is_dir():
            path += "/README.md"
            if not (ROOT / path).is_file():
                return None
        if not (ROOT / path).is_file():
            self.wrong.append(f"{here}: the link to {href} leads nowhere")
            return None
        figure = os.path.splitext(path)[0]
        if path.endswith(".png") and figure in self.shown:
            path, anchor = self.shown[figure], identity(figure)
        self.todo.append(path)
        return os.path.relpath(target(path), os.path.dirname(target(here))) + (f"#{anchor}" if anchor else "")

    def plot(self, here, figure, small=None):
        """A figure by its path without an ending: drawn from plotly's JSON where that is there, and behind it a picture, the small one
        of the notebook where there is one."""
        source, image = ROOT / f"{figure}.json", ROOT / f"{figure}.png"
        picture, caption, spec = "", figure, None
        # Pictures of data are as good as they are.
        if source.is_file() and '"type":"image"' not in source.read_text().replace(" ", ""):
            # More digits than a figure shows.
            spec = json.loads(source.read_text(), parse_float=lambda x: float(f"{float(x):.6g}"))
            title, _, rest = spec["layout"].pop("title")["text"].partition("<br>")
            rest = re.sub(r"</?sub>", "", rest).replace("<br>", " ")
            caption = f"<b>{title}</b> {rest}"
        if image.is_file():
            (SITE / figure).parent.mkdir(parents=True, exist_ok=True)
            (SITE / f"{figure}.png").write_bytes(small if small and spec else image.read_bytes())
            size = image.read_bytes()[16:24]
            wide, high = (int.from_bytes(size[i:i + 4]) // 2 for i in (0, 4))
            alt = html.escape(re.sub("<[^>]+>", "", caption))
            picture = f'<img src="{os.path.relpath(figure, os.path.dirname(target(here)))}.png" alt="{alt}" width="{wide}" height="{high}" loading="lazy">'
        return self.figure(identity(figure), picture, spec, caption if spec else "")

    def figure(self, anchor, picture, spec, caption):
        self.counts["interactive" if spec else "pictures"] += 1
        chart = ""
        if spec:
            chart = '<div class="chart"></div><script type="application/json">' + json.dumps(spec, separators=(",", ":")).replace("</", "<\\/") + "</script>"
        kind = "plot" if spec else "picture"
        return f'<figure class="{kind}" id="{anchor}">{picture}{chart}<figcaption>{caption}</figcaption></figure>'

    def front(self, path, caption):
        """The exact front of a network with a slider, from the table that fronts.py wrote."""
        rows = list(csv.DictReader(io.StringIO(text_of(path))))
        folder = next(ROOT.glob(f"figures/{pathlib.Path(path).stem}_*/latency.csv")).parent
        latency = list(csv.DictReader(open(folder / "latency.csv", newline="")))
        *exits, trunk = [(float(row["MACs"]), float(row["median, ms"])) for row in latency]
        # Of the same run as the front: the notebook's may be another.
        matched = float(rows[0]["matched baseline"])
        n, tens, colours = len(exits), list(range(10)), ["#0072B2", "#D55E00", "#009E73"]
        wrapped = lambda cells: [cells[i:i + 10] for i in range(0, 100, 10)]
        steps, curve = [], []
        for row in rows:
            shares = [float(row[f"exit {i + 1}"]) for i in range(n)]
            ms = sum(share * exit[1] for share, exit in zip(shares, exits))
            x, y, letters = float(row["MACs"]) / trunk[0], float(row["accuracy"]) * 100, row["first hundred"]
            curve.append((x, y))
            name = ", ".join(f"T{i + 1} = {row[f'T{i + 1}']}".replace("inf", "∞") for i in range(n - 1))
            told = "<br>".join([f"<b>{name}: {y:.2f} % right</b>",
                                f"leave at exit {', '.join(str(i + 1) for i in range(n))}: {', '.join(f'{share * 100:.1f}' for share in shares)} %",
                                f"{x * 100:.0f} % of the trunk's MACs", f"{ms:.3f} ms, {trunk[1] / ms:.2f}x as fast as the trunk"])
            traces = {"x": [[x], tens], "y": [[y], tens], "z": [None, wrapped(["abc".index(c.lower()) for c in letters])],
                      "text": [None, wrapped(["×" if c.isupper() else "" for c in letters])]}
            steps.append({"method": "update", "label": f"{x * 100:.2f} %", "args": [traces, {"annotations[0].text": told}, [2, 3]]})
        start = len(rows) // 2
        first = steps[start]["args"][0]
        scale = [[i / n + edge / n, colours[i]] for i in range(n) for edge in (0, 1)]
        data = [
            {"type": "scatter", "mode": "lines", "name": "front of validation, on test", "x": [x for x, _ in curve], "y": [y for _, y in curve], "line": {"color": "#0072B2"}},
            {"type": "scatter", "mode": "markers", "name": "matched baseline", "x": [1], "y": [matched * 100], "marker": {"symbol": "diamond", "size": 11, "color": "#000000"}},
            {"type": "scatter", "mode": "markers", "name": "these thresholds", "x": first["x"][0], "y": first["y"][0], "marker": {"size": 14, "color": "#CC79A7", "line": {"color": "#000000", "width": 2}}},
            {"type": "heatmap", "x": tens, "y": tens, "z": first["z"][1], "text": first["text"][1], "texttemplate": "%{text}", "textfont": {"color": "#ffffff", "size": 15},
             "customdata": wrapped(list(range(1, 101))), "hovertemplate": "test image %{customdata}<extra></extra>", "xaxis": "x2", "yaxis": "y2", "xgap": 2, "ygap": 2,
             "zmin": -0.5, "zmax": n - 0.5, "colorscale": scale, "showscale": False},
            *({"type": "scatter", "mode": "markers", "name": f"leaves at exit {i + 1}", "x": [None], "y": [None], "marker": {"symbol": "square", "size": 11, "color": colours[i]}} for i in range(n)),
        ]
        axis = {"gridcolor": "#e5e5e5", "linecolor": "#444444", "showline": True, "zeroline": False}
        bare = {"visible": False, "constrain": "domain"}
        layout = {
            "height": 560, "margin": {"t": 100, "l": 60, "r": 35, "b": 50}, "paper_bgcolor": "white", "plot_bgcolor": "white", "font": {"size": 13, "color": "#222222"},
            "grid": {"rows": 1, "columns": 2, "pattern": "independent"}, "xaxis": {**axis, "title": {"text": "mean MACs, relative to the trunk"}},
            "yaxis": {**axis, "title": {"text": "accuracy, %"}}, "xaxis2": bare, "yaxis2": {**bare, "autorange": "reversed", "scaleanchor": "x2"}, "legend": {"orientation": "h"},
            "annotations": [{"text": steps[start]["args"][1]["annotations[0].text"], "align": "left", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 12},
                            {"text": "the first 100 test images, × wrong", "showarrow": False, "xref": "x2 domain", "yref": "y2 domain", "x": 0.5, "y": 1.01, "yanchor": "bottom"}],
            "sliders": [{"active": start, "steps": steps, "pad": {"t": 75}, "currentvalue": {"prefix": "mean cost: ", "suffix": " of the trunk's MACs"}, "bordercolor": "#444444"}],
        }
        return self.figure(identity(path), "", {"data": data, "layout": layout}, caption)

    def page(self, path):
        print(f"  {path}", flush=True)
        page, title = Page(self, path), path
        if path.endswith((".ipynb", ".md")):
            title = title_of(path)
        if path.endswith(".ipynb"):
            main = notebook(page, json.loads(text_of(path)))
            shutil.copy(ROOT / path, SITE / path)
        elif path.endswith(".md"):
            main = page.html(text_of(path))
            if path == "README.md":
                main = overview(main)
        else:
            main = f"<h1><code>{path}</code></h1>{coloured(text_of(path), name=path)}"
        # Wide tables scroll by themselves.
        main = main.replace("<table", '<div class="scroll" tabindex="0"><table').replace("</table>", "</table></div>")
        # Whoever searches wants prose; source files have the same words more often.
        prose = path.endswith((".md", ".ipynb")) or path == "LICENSE"
        up = os.path.relpath(".", os.path.dirname(target(path)))
        file = SITE / target(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        groups = [(group, [(other, target(other), TITLES.get(other) or title_of(other)) for other in paths]) for group, paths in self.pages.items()]
        file.write_text(self.template.render(title=title, main=main, toc=page.toc, up=up, here=path, groups=groups, plots='class="plot"' in main,
                                             api=(SITE / "api").is_dir(), plotly=PLOTLY, front=path == "README.md", prose=prose), encoding="utf-8")
        self.counts["pages"] += 1

    def build(self):
        self.todo = [path for paths in self.pages.values() for path in paths]
        while self.todo:
            path = self.todo.pop(0)
            if path in self.done:
                continue
            self.done.add(path)
            (SITE / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, SITE / path) if target(path) == path else self.page(path)
        if self.wrong:
            sys.exit("\n".join(self.wrong))


def identity(figure):
    """The anchor of a figure."""
    return os.path.splitext(figure)[0].removeprefix("figures/").replace("/", "-")


class Page(mistune.HTMLRenderer):
    """Markdown as GitHub shows it, with links to pages of the site."""

    def __init__(self, site, path):
        super().__init__(escape=False)
        self.site, self.path, self.toc, self.used = site, path, [], {}
        self.html = mistune.Markdown(self, plugins=[mistune.plugins.import_plugin(name) for name in ("table", "strikethrough", "url")])

    def heading(self, text, level, **_):
        plain = html.unescape(re.sub("<[^>]+>", "", text))
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = self.used[slug] = self.used.get(slug, -1) + 1
        slug += f"-{count}" if count else ""
        if level == 2:
            self.toc.append((slug, plain))
        return f'<h{level} id="{slug}">{text}<a class="anchor" href="#{slug}" aria-label="link to this section"></a></h{level}>\n'

    def text(self, text):
        # 5 % stays in one line.
        return re.sub(r"(?<=\d) %", "\u00a0%", super().text(text))

    def block_code(self, code, info=None):
        return coloured(code, (info or "text").split()[0])

    def link(self, text, url, title=None):
        there = self.site.link(self.path, url)
        if re.fullmatch(r"[\w/-]+\.md", text) and there:
            text = TITLES.get(text) or title_of(os.path.normpath(os.path.join(os.path.dirname(self.path), url.partition("#")[0])))
        if there and re.search(r"figures/fronts/\w+\.csv$", url):
            path = os.path.normpath(os.path.join(os.path.dirname(self.path), url))
            return self.site.front(path, f'<a href="{there}">{text}</a>')
        return f'<a href="{html.escape(there)}">{text}</a>' if there is not None else f"<code>{text}</code>"

    def image(self, text, url, title=None):
        return self.site.plot(self.path, os.path.splitext(os.path.normpath(os.path.join(os.path.dirname(self.path), url)))[0])

    def paragraph(self, text):
        return text if text.startswith("<figure") else f"<p>{text}</p>\n"

    def block_html(self, text):
        return "" if text.startswith("<!--") else text


def notebook(page, book):
    """The cells of a notebook as committed, with the outputs of the reference run."""
    name = os.path.basename(page.path)
    parts = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(page.html(source))
            continue
        parts.append(coloured(source, "rust"))
        printed = lambda text: f'<pre class="out" tabindex="0">{html.escape(text)}</pre>'
        for streams, outputs in itertools.groupby(cell["outputs"], lambda output: output["output_type"] == "stream"):
            if streams:
                parts.append(printed("".join("".join(output["text"]) for output in outputs)))
                continue
            for output in outputs:
                data = {kind: "".join(value) for kind, value in output["data"].items()}
                if "image/png" in data:
                    parts.append(page.site.plot(page.path, data["text/plain"].removesuffix(".html"), base64.b64decode(data["image/png"])))
                else:
                    parts.append(data.get("text/html") or printed(data["text/plain"]))
    where = f'<p class="where">Notebook with the outputs of the reference run. <code>make lab</code> steps through it. <a href="{name}" download>Download</a></p>'
    return parts[0].replace("</h1>", "</h1>" + where, 1) + "".join(parts[1:])


def overview(main):
    """The front page: what it is beside the figure, then the sections."""
    first, rest = re.split(r"(?=<h2)", main, maxsplit=1)
    figure = re.search(r"<figure.*</figure>", first, re.S)
    if figure is None:
        sys.exit("README.md: the front page needs a figure before its first heading")
    return f'<div class="hero"><div>{first.replace(figure[0], "")}</div>{figure[0]}</div>{rest}'


def main():
    started = time.time()
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir(parents=True)
    for docs in sys.argv[1:]:
        if os.path.isdir(f"{docs}/branchynet"):
            shutil.copytree(docs, SITE / "api")
            start = SITE / "api" / "branchynet" / "index.html"
            start.write_text(start.read_text(encoding="utf-8").replace("<main>", '<main><p><a href="../../index.html">Back to the site</a></p>', 1), encoding="utf-8")
            print(f"== documentation of the API, from {docs}", flush=True)
    fetch(BUNDLE, SHA512, {"plotly-cartesian.min.js": PLOTLY}, ROOT / "target" / "site")
    shutil.copy(ROOT / "target" / "site" / PLOTLY, SITE)
    for name in ("style.css", "site.js"):
        shutil.copy(HERE / name, SITE)
    site = Site()
    print("== pages", flush=True)
    site.build()
    print("== index for the search", flush=True)
    subprocess.run([sys.executable, "-m", "pagefind", "--site", SITE, "--silent"], check=True)
    size = sum(path.stat().st_size for path in SITE.glob("**/*") if path.is_file() and "api" not in path.relative_to(SITE).parts)
    counts = site.counts
    print(f"== figures/site: {counts['pages']} pages, {counts['interactive']} interactive plots, {counts['pictures']} pictures, "
          f"{size / 1e6:.1f} MB without the API, in {time.time() - started:.0f} s; look at it with python3 -m http.server -d figures/site")


if __name__ == "__main__":
    main()
