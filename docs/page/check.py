"""Checks the page in figures/page/ in a headless Chromium, served below a path, and exits with 1 where something is wrong:
- ten digits drawn by mouse, one by finger, test images and made-up pictures as files: label, exit and every entropy are the
  program's for the bytes that the network was fed, and for the picture itself, which the program prepares;
- at every point of the slider each sample leaves where the record of the network says, and what is grey fits;
- keyboard alone, names of controls, contrast in light and dark, no sideways scrolling at 380 pixels, a file that is no picture;
- no error on the console, no request to another host.

    check.py [--shots] PROGRAM ...    `make check-page`; PROGRAM ... runs branchynet, --shots leaves screenshots in target/page/shots/
"""

import base64
import collections
import csv
import functools
import http.server
import itertools
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from build import NETWORKS, PAGE, ROOT, png, tests

sys.path.insert(0, str(ROOT / "docs" / "site"))
import check as site  # noqa: E402

site.SHOTS = ROOT / "target" / "page" / "shots"
IMAGES = 20
# Runtimes round differently; what is shown has four digits.
NEAR = 2e-4


def arc(x, y, wide, high, start, end):
    turns = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [(x + wide * math.cos(turn), y + high * math.sin(turn)) for turn in turns]


# How digits are written, in parts of the paper.
STROKES = {
    "0": [arc(.5, .5, .2, .32, -90, 270)],
    "1": [[(.52, .18), (.48, .82)]],
    "2": [arc(.5, .36, .2, .18, 180, 390) + [(.3, .8), (.74, .8)]],
    "3": [arc(.48, .34, .18, .16, 200, 450) + arc(.48, .66, .21, .17, -90, 160)],
    "4": [[(.36, .2), (.3, .52), (.72, .52)], [(.62, .22), (.6, .84)]],
    "5": [[(.7, .2), (.38, .2), (.36, .48)] + arc(.48, .63, .2, .18, -110, 150)],
    "6": [[(.62, .16), (.4, .42)] + arc(.49, .66, .17, .17, 200, 560)],
    "7": [[(.28, .22), (.72, .22), (.46, .84)]],
    "8": [arc(.5, .33, .14, .15, 90, 450) + arc(.5, .66, .17, .18, -90, 270)],
    "9": [arc(.5, .36, .17, .16, 0, 360) + [(.66, .5), (.6, .84)]],
}
# Notes what the network is fed, up to the times' repetitions.
LISTEN = """(async () => {
  const { InferenceSession } = await import(new URL("ort.wasm.bundle.min.mjs", location)), { run } = InferenceSession.prototype;
  window.fed = [];
  InferenceSession.prototype.run = function (feeds) {
    if (fed.length < 9) fed.push({ image: [...feeds.image.data], dims: feeds.image.dims, thresholds: [...feeds.thresholds.data].map(String) });
    return run.apply(this, arguments);
  };
})()"""
FORGET = "document.querySelector('#answer').replaceChildren(); document.querySelector('#time').textContent = ''; window.fed && (fed.length = 0)"
STATE = """(async () => {
  const found = selector => document.querySelector(selector);
  for (let i = 0; i < 1000 && !(found("#answer b") && (!%s || /^[\\d.]+ ms/.test(found("#time").textContent))); i++) await new Promise(go => setTimeout(go, 10));
  return {
    label: found("#answer b")?.textContent ?? null, exit: Number(found("#answer").textContent.match(/exit (\\d)/)?.[1]), problem: found("#problem").textContent, fed,
    rows: [...found("#exits").rows].map(row => [...row.cells].map(cell => cell.innerText.trim())), values: found("#point").ariaValueText,
    off: [...found("#layers").children].map(part => new Set([...part.querySelectorAll("ol li")].map(box => box.matches(".off")))).map(is => is.size === 1 && [...is][0]),
  };
})()"""
KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37}


class Page(site.Browser):
    def act(self, action, timed=False):
        """The state of the page when it has answered to an action."""
        self.js(FORGET)
        action()
        return self.js(STATE % str(timed).lower())

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], **text)

    def choose(self, network):
        """Whether it was loaded."""
        return self.js(f"""(async () => {{
          const radio = document.querySelector("[value={network}]"), answer = document.querySelector("#answer");
          if (!radio.checked) answer.replaceChildren(), radio.click();
          for (let i = 0; i < 1500 && !/^(Draw|Choose)/.test(answer.textContent); i++) await new Promise(go => setTimeout(go, 20));
          return /^(Draw|Choose)/.test(answer.textContent);
        }})()""")

    def give(self, path):
        node = self("DOM.querySelector", nodeId=self("DOM.getDocument")["root"]["nodeId"], selector="#file")["nodeId"]
        self("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop(self, path):
        for kind in ("dragEnter", "dragOver", "drop"):
            self("Input.dispatchDragEvent", type=kind, x=200, y=200, data={"items": [], "files": [str(path)], "dragOperationsMask": 1})

    def draw(self, strokes, finger=False):
        self.js("document.querySelector('#clear').click(); document.querySelector('#paper').scrollIntoView({ block: 'center' })")
        left, top, side = self.js("(() => { const box = document.querySelector('#paper').getBoundingClientRect(); return [box.left, box.top, box.width]; })()")
        for i, stroke in enumerate(strokes):
            if i:
                time.sleep(0.1)
            points = [{"x": left + x * side, "y": top + y * side} for x, y in stroke]
            if i == len(strokes) - 1:
                self.js(FORGET)
            if finger:
                for point in points:
                    self("Input.dispatchTouchEvent", type="touchStart" if point is points[0] else "touchMove", touchPoints=[point])
                self("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
                continue
            mouse = lambda kind, point: self("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **point)
            mouse("mousePressed", points[0])
            for point in points[1:]:
                mouse("mouseMoved", point)
            mouse("mouseReleased", points[-1])


def made(data):
    """Pictures of other sizes with a test image on paper that is lit from one side, darker than it, with some grain."""
    for (image, (channels, height, width), _), (wide, high, times) in zip(tests(data, 4), [(1100, 640, 18), (211, 340, 7), (90, 64, 2), (19, 17, 0.5)]):
        left, top, planes = wide // 4, high // 6, bytearray()
        for channel, y, x in itertools.product(range(channels), range(high), range(wide)):
            u, v = math.floor((x - left) / times), math.floor((y - top) / times)
            ink = image[(channel * height + v) * width + u] if 0 <= u < width and 0 <= v < height else 0
            planes.append(max(0, 200 + 40 * x // wide - 10 * y // high - ink * 3 // 4 + (x * 7 + y * 13) % 5))
        yield f"{data}-{wide}x{high}", png(bytes(planes), (channels, high, wide))


def classify(program, network, folder, thresholds, pictures, *options):
    """What the program answers for pictures: {name: (label, exit, uncertainty)}."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        for name, content in pictures.items():
            pathlib.Path(here, f"{name}.png").write_bytes(content)
        lines = subprocess.run([*program, "classify", network, here, "--json", "--thresholds", ",".join(thresholds), *options], check=True, text=True, stdout=subprocess.PIPE).stdout
    answers = map(json.loads, lines.splitlines())
    return {pathlib.Path(a["picture"]).stem: (a["label"], a["exit"], a["uncertainty"]) for a in answers}


def compare(program, network, seen, folder):
    """What the page said of pictures, {name: (content, state)}, against the program."""
    thresholds = next(iter(seen.values()))[1]["fed"][0]["thresholds"]
    thresholds = ["inf" if t == "Infinity" else t for t in thresholds]
    fed = {name: png(bytes(state["fed"][0]["image"]), state["fed"][0]["dims"][1:]) for name, (_, state) in seen.items()}
    ours = functools.partial(classify, program, network, folder)
    given, prepared = ours(thresholds, {name: content for name, (content, _) in seen.items()}), ours(thresholds, fed, "--as-is")
    at = [ours(["inf" if i == exit else "0" for i in range(len(thresholds))], fed, "--as-is") for exit in range(len(thresholds))]
    for name, (_, state) in seen.items():
        label, exit, uncertainty = prepared[name]
        if given[name] != prepared[name]:
            yield f"{name}: the page prepares it otherwise than the program, which answers {given[name]} for the picture and {prepared[name]} for the page's bytes"
        distance = min(abs(here[name][2] - float(t)) for here, t in zip(at, thresholds))
        if (state["label"], state["exit"]) != (label, exit) and distance > NEAR:
            yield f"{name}: the page says {state['label']} at exit {state['exit']}, the program {label} at {exit}; its entropy is {distance:.1e} from a threshold"
            continue
        for i, (_, said, entropy, _, does) in enumerate(state["rows"]):
            expected = ("–", None, "is not computed") if i >= exit else (label, uncertainty, "answers") if i == exit - 1 else (at[i][name][0], at[i][name][2], "passes it on")
            if (said, does) != expected[::2] or (entropy != "–" if expected[1] is None else abs(float(entropy) - expected[1]) > NEAR):
                yield f"{name}: of exit {i + 1} the page shows {said}, {entropy}, {does}; expected {expected}"


def front(page, network, found, counts):
    """The samples at every point of the slider against the letters of the record."""
    rows = list(csv.DictReader(open(ROOT / "figures" / "fronts" / f"{network}.csv", newline="")))
    samples = json.loads((PAGE / network / "samples.json").read_text())
    for i, sample in enumerate(samples):
        page.act(lambda: page.js(f"document.querySelectorAll('#samples button')[{i}].click()"))
        took = set()
        for at, row in enumerate(rows):
            state = page.act(lambda: page.js(f"Object.assign(document.querySelector('#point'), {{ value: {at} }}).dispatchEvent(new Event('input'))"))
            letter, exit = row["first hundred"][sample["index"]], state["exit"]
            took.add(exit)
            if exit != "abc".index(letter.lower()) + 1 or (state["label"] == sample["label"]) != letter.islower():
                found.append(f"test image {sample['index']} at point {at}: {state['label']} at exit {exit}, recorded is {letter}")
            fed = [float(t) for t in state["fed"][0]["thresholds"]]
            if any(abs(float(row[f"T{i + 1}"]) - t) > 1e-6 for i, t in enumerate(fed) if t != math.inf) or not all(f"T{i + 1} = " in state["values"] for i in range(len(fed))):
                found.append(f"point {at}: the network is fed {fed}")
            if state["off"] != [i >= exit for i in range(len(state["off"]))]:
                found.append(f"point {at}: grey are {state['off']} at exit {exit}")
            counts["points of the slider"] += 1
        counts["samples that leave elsewhere as the slider moves"] += len(took) > 1
    if not samples:
        found.append(f"no test images: make datasets, then make page (datasets/{NETWORKS[network]}.safetensors)")


def looks(page, name, found, counts, shots):
    for width, scheme in ((1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")):
        page.look(width, 900, scheme)
        contrast = page.js(site.CONTRAST)
        counts["texts with their contrast"] += contrast["count"]
        found += [f"{width} pixels, {scheme}: {what}" for what in contrast["wrong"]]
        if (wide := page.js("document.documentElement.scrollWidth")) > width:
            found.append(f"is {wide} pixels wide on a screen of {width}")
        if shots:
            page.shot(f"{name}-{width}-{scheme}")
    page.look()


def keyboard(page, network, found):
    """From the top of the page to an answer and other thresholds by keys alone; names of what can have the focus."""
    page.js("document.activeElement.blur(); scrollTo(0, 0)")

    def reach(selector):
        for _ in range(60):
            page.press("Tab")
            if page.js(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        found.append(f"Tab does not reach {selector}")

    reach("#file")
    reach("#samples button")
    if not page.act(lambda: page.press("Enter"))["label"]:
        found.append("Enter on a test image gives no answer")
    reach("#point")
    before = page.js("document.querySelector('#point').ariaValueText")
    # It stands at its end.
    state = page.act(lambda: page.press("ArrowLeft"))
    if state["values"] == before or not state["fed"]:
        found.append("an arrow key does not move the slider")
    nodes = page("Accessibility.getFullAXTree")["nodes"]
    has = lambda node, name: any(p["name"] == name and p["value"].get("value") for p in node.get("properties", []))
    named = [node for node in nodes if not node["ignored"] and has(node, "focusable") and node["role"]["value"] not in ("RootWebArea", "status")]
    found += [f"a {node['role']['value']} without a name" for node in named if not node.get("name", {}).get("value")]
    if len(named) < 10 or not any(node.get("role", {}).get("value") == "status" for node in nodes):
        found.append("the tree for screen readers lacks controls or the status")


def main():
    program = [word for word in sys.argv[1:] if word != "--shots"]
    shots, started, wrong, counts = len(program) < len(sys.argv) - 1, time.time(), [], collections.Counter()
    if not (PAGE / "index.html").is_file():
        sys.exit("there is no figures/page/index.html: make page builds it")
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "some").mkdir()
        pathlib.Path(folder, "some", "path").symlink_to(PAGE)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}/some/path/"
        others = [picture for data in NETWORKS.values() for picture in made(data)]
        page = Page()
        try:
            page.look()
            page.open(host)
            page.js(LISTEN)
            for network, data in NETWORKS.items():
                found = []
                if not page.choose(network):
                    said = page.js("document.querySelector('#problem').textContent")
                    wrong.append(f"{network} is not loaded: {said or 'nothing is said of it'}")
                    break
                looks(page, f"{network}-empty", found, counts, shots and network == "lenet")
                seen = {}
                given = [(f"test-{i}", png(image, shape)) for i, (image, shape, _) in enumerate(tests(data, IMAGES))]
                for name, content in given + others:
                    path = pathlib.Path(folder, f"{name}.png")
                    path.write_bytes(content)
                    # Some by dropping.
                    seen[name] = content, page.act(lambda: (page.drop if name == "test-1" else page.give)(path))
                for digit, strokes in STROKES.items() if network == "lenet" else ():
                    for finger in (False, True) if digit == "3" else (False,):
                        page.js(FORGET)
                        page.draw(strokes, finger)
                        state = page.js(STATE % "false")
                        url = page.js("document.querySelector('#paper').toDataURL()")
                        seen[f"drawn-{digit}{'-finger' * finger}"] = base64.b64decode(url.split(",")[1]), state
                        counts["drawn digits that are taken for what they are"] += state["label"] == digit
                lost = [name for name, (_, state) in seen.items() if not state["fed"]]
                found += [f"{name}: no answer; {seen[name][1]['problem']}" for name in lost]
                seen = {name: it for name, it in seen.items() if name not in lost}
                found += compare(program, network, seen, folder) if seen else []
                counts["images compared with the program"] += len(seen)
                front(page, network, found, counts)
                page.choose("alexnet" if network == "lenet" else "lenet")
                page.choose(network)
                keyboard(page, network, found)
                last = len(json.loads((PAGE / network / "samples.json").read_text())) - 1
                page.act(lambda: page.js(f"document.querySelectorAll('#samples button')[{last}].click()"), timed=True)
                if not page.js("/^[\\d.]+ ms, the median of \\d+ rounds/.test(document.querySelector('#time').textContent)"):
                    found.append("no time is shown")
                looks(page, network, found, counts, shots)
                notes = pathlib.Path(folder, "notes.txt")
                notes.write_text("no picture")
                page.give(notes)
                time.sleep(0.3)
                if "notes.txt" not in page.js("document.querySelector('#problem').textContent"):
                    found.append("nothing is said of a file that is no picture")
                print(f"  {network}: {len(seen)} images{', ' + str(len(found)) + ' WRONG' if found else ''}", flush=True)
                wrong += [f"{network}: {what}" for what in found]
            counts["requests"] += sum(event["method"] == "Network.requestWillBeSent" for event in page.events)
            wrong += dict.fromkeys(site.trouble(page.events, host))
        finally:
            page.close()
            server.shutdown()
    if counts["drawn digits that are taken for what they are"] < 9:
        wrong.append("the strokes no longer look like digits to the network")
    if not counts["samples that leave elsewhere as the slider moves"]:
        wrong.append("the slider changes no exit")
    print("\n".join(wrong))
    print(f"== {'; '.join(f'{what}: {count}' for what, count in counts.items())}; {len(wrong)} wrong; {time.time() - started:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
