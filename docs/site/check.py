"""Checks the site in figures/site/ in a headless Chromium, and exits with 1 where something is wrong: every link and anchor, every
plot drawn, wide and narrow, light and dark, without text that is cut off, no error on the console, no request to another host, no
sideways scrolling and a menu that opens in sight at 380 pixels, contrast of all text (WCAG AA), pictures in place of plots on paper
and without scripts, the search.

    check.py             check all pages
    check.py --shots     also leave screenshots in target/site/shots/
"""

import base64
import collections
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from urllib.parse import unquote, urldefrag, urlsplit

import websocket

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "figures" / "site"
SHOTS = ROOT / "target" / "site" / "shots"
# Of which pages there are screenshots.
SHOWN = ("index.html", "docs/method.html", "docs/thresholds.html", "docs/results.html", "notebooks/2_alexnet_cifar10.html")

# Scrolls to each plot and waits until it is drawn; says what is wrong with those that are not.
DRAWN = """(async () => {
  const wrong = [], figures = [...document.querySelectorAll("figure.plot")];
  for (const figure of figures) {
    figure.scrollIntoView();
    for (let i = 0; i < 200 && !(figure.matches(".drawn") && figure.querySelector(".main-svg")); i++) await new Promise(go => setTimeout(go, 50));
    await new Promise(requestAnimationFrame);
    const chart = figure.querySelector(".chart"), box = chart.getBoundingClientRect();
    const marks = chart.querySelectorAll(".plot :is(.lines path, .points path, .heatmaplayer image, .box, .errorbar path, .js-fill)");
    if (!marks.length) wrong.push(`${figure.id} is not drawn`);
    // A kind that the bundle lacks is drawn as another.
    chart._fullData?.forEach(({ type, index }) => { if (type !== (chart.data[index].type ?? "scatter")) wrong.push(`${figure.id}: the bundle has no ${chart.data[index].type}`); });
    if (chart.querySelector('.modebar-btn[data-title*="loud"]')) wrong.push(`${figure.id} offers to be sent to a server`);
    for (const text of chart.querySelectorAll("text")) {
      const t = text.getBoundingClientRect();
      if (t.width && text.checkVisibility({ checkOpacity: true }) && (t.left < box.left - 1 || t.right > box.right + 1 || t.top < box.top - 1 || t.bottom > box.bottom + 1))
        wrong.push(`${figure.id}: "${text.textContent}" is cut off`);
    }
  }
  return { count: figures.length, wrong };
})()"""

# Text whose contrast with what lies behind it is too small.
CONTRAST = """(() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const pixel = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const known = {}, rgba = colour => known[colour] ??= pixel(colour);
  const light = rgb => { const [r, g, b] = rgb.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { for (; element; element = element.parentElement) { const c = rgba(getComputedStyle(element).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), wrong = {};
  let count = 0;
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement, style = getComputedStyle(element);
    // Text on the cells of a heatmap has another ground, which this cannot see.
    if (!node.data.trim() || /SCRIPT|STYLE/.test(element.tagName) || element.closest(".heatmaplayer")) continue;
    if (element.closest(".annotation") && element.closest(".chart").querySelector(".heatmaplayer image")) continue;
    if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    count++;
    const [a, b] = [rgba(element.closest("svg") ? style.fill : style.color), behind(element)].map(c => light(c.slice(0, 3))).sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) wrong[`contrast ${ratio.toFixed(2)}: "${node.data.trim().slice(0, 40)}" in ${element.tagName} ${element.closest("[class]")?.getAttribute("class")}`] = 1;
  }
  return { count, wrong: Object.keys(wrong) };
})()"""

PICTURES = """(async () => {
  let count = 0;
  for (const image of document.querySelectorAll("figure img")) {
    image.scrollIntoView();
    count += image.checkVisibility() && await image.decode().then(() => true, () => false);
  }
  return count;
})()"""
SEARCH = """(async () => {
  document.getElementById("find").click();
  const query = document.querySelector("dialog input");
  query.value = "guarantee";
  query.dispatchEvent(new Event("input"));
  for (let i = 0; i < 100 && !document.querySelector("dialog li"); i++) await new Promise(go => setTimeout(go, 100));
  return [...document.querySelectorAll("dialog li a")].map(a => a.href);
})()"""
# However far one has scrolled, the menu of a narrow screen must open in sight, and its last entry be within reach.
MENU = """(() => {
  const menu = document.getElementById("menu"), nav = document.getElementById("nav"), last = [...nav.querySelectorAll("a")].at(-1);
  scrollTo(0, document.documentElement.scrollHeight);
  menu.click();
  const first = nav.getBoundingClientRect();
  last.scrollIntoView({ block: "nearest" });
  const box = last.getBoundingClientRect(), there = document.elementFromPoint(box.left + 9, box.top + 9);
  menu.click();
  return first.height > 0 && first.top >= 0 && first.bottom <= innerHeight && there === last && !nav.checkVisibility();
})()"""
# The slider must move the point.
SLIDER = """(async () => {
  const chart = document.querySelector("figure.plot .chart"), told = () => chart.layout.annotations[0].text + chart.data[2].x + chart.data[3].z;
  const before = told(), step = chart.layout.sliders[0].steps[0];
  await Plotly[step.method](chart, ...step.args);
  return before !== told();
})()"""


class Browser:
    def __init__(self):
        names = [os.environ.get("BROWSER_PATH") or "", "chromium", "chromium-browser", "google-chrome", "chrome"]
        program = next((found for name in names if name and (found := shutil.which(name))), None)
        if not program:
            sys.exit("no Chromium: install it (Debian: apt install chromium), or name it by BROWSER_PATH")
        self.folder = tempfile.mkdtemp()
        self.process = subprocess.Popen([program, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--remote-allow-origins=*", "--no-first-run", "--disable-component-update",
                                         f"--user-data-dir={self.folder}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = pathlib.Path(self.folder, "DevToolsActivePort")
        for _ in range(300):
            if port.is_file() and "\n" in port.read_text():
                break
            time.sleep(0.1)
        else:
            sys.exit(f"{program} did not start")
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json"))
        self.socket = websocket.create_connection(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"), timeout=120, max_size=None)
        self.last, self.events = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv())).get("id") != self.last:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def js(self, code):
        result = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description"))
        return result["result"].get("value")

    def open(self, url):
        self("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        self.events = [event for event in self.events if event["method"] != "Page.loadEventFired"]

    def look(self, width=1280, height=900, scheme="light", media=""):
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        # Plots are drawn anew a moment after.
        time.sleep(0.3 if self.js("document.querySelector('.drawn') !== null") else 0)

    def shot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.js("scrollTo(0, 0)")
        (SHOTS / f"{name}.png").write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None


def trouble(events, host):
    """What the browser complained of, and requests to other hosts."""
    for event in events:
        method, told = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            yield f"exception: {told['exceptionDetails'].get('exception', {}).get('description') or told['exceptionDetails']['text']}"
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            yield f"console: {[argument.get('value') for argument in told['args']]}"
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            yield f"console: {told['entry']['text']} {told['entry'].get('url', '')}"
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("data:", "blob:", host)):
            yield f"a request to another host: {told['request']['url']}"


def main():
    if not (SITE / "index.html").is_file():
        sys.exit("there is no figures/site/index.html: make site builds it")
    started, shots, wrong, counts = time.time(), "--shots" in sys.argv, [], collections.Counter()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}/"
    pages = sorted(name for path in SITE.glob("**/*.html") if not (name := str(path.relative_to(SITE))).startswith(("api/", "pagefind/")))
    browser, links, anchors = Browser(), collections.defaultdict(set), {}
    try:
        for name in pages:
            found = []
            browser.events = []
            browser.look()
            browser.open(host + name)
            for width, scheme in ((1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")):
                browser.look(width, 900, scheme)
                drawn, contrast = browser.js(DRAWN), browser.js(CONTRAST)
                found += [f"{width} pixels, {scheme}: {what}" for what in drawn["wrong"] + contrast["wrong"]]
                counts.update({"drawings of plots": drawn["count"], "texts with their contrast": contrast["count"]})
                if (wide := browser.js("document.documentElement.scrollWidth")) > width:
                    found.append(f"is {wide} pixels wide on a screen of {width}")
                if shots and name in SHOWN:
                    browser.shot(f"{name.replace('/', '-').removesuffix('.html')}-{width}-{scheme}")
            if not browser.js(MENU):
                found.append("the menu does not open in sight at 380 pixels, or does not close")
            for href in browser.js("[...document.querySelectorAll('a[href]')].map(a => a.href)"):
                links[href].add(name)
            anchors[name] = set(browser.js("[...document.querySelectorAll('[id]')].map(e => e.id)"))
            counts["plots"] += drawn["count"]
            if name == "docs/thresholds.html" and not browser.js(SLIDER):
                found.append("the slider moves nothing")
            if name == "index.html":
                results = browser.js(SEARCH)
                counts["results of a search"] += len(results)
                if not results:
                    found.append("the search finds nothing")
                links.update({href: {"the search"} for href in results})
            pictures = browser.js("document.querySelectorAll('figure img').length")
            if pictures:
                browser.look(media="print")
                if (printed := browser.js(PICTURES)) != pictures:
                    found.append(f"{printed} of {pictures} pictures on paper")
                browser("Emulation.setScriptExecutionDisabled", value=True)
                browser.look()
                browser.open(host + name)
                if (without := browser.js(PICTURES)) != pictures:
                    found.append(f"{without} of {pictures} pictures without scripts")
                browser("Emulation.setScriptExecutionDisabled", value=False)
                counts["pictures on paper and without scripts"] += pictures
            counts["requests"] += sum(event["method"] == "Network.requestWillBeSent" for event in browser.events)
            found += trouble(browser.events, host)
            print(f"  {name}: {drawn['count']} plots{', ' + str(len(found)) + ' WRONG' if found else ''}", flush=True)
            wrong += [f"{name}: {what}" for what in dict.fromkeys(found)]
    finally:
        browser.close()
        server.shutdown()
    for href, froms in links.items():
        there, anchor = urldefrag(href)
        if not href.startswith(host):
            counts["links to elsewhere, not followed"] += 1
            continue
        counts["links"] += 1
        file = unquote(urlsplit(there).path)[1:] or "index.html"
        if file.endswith("/"):
            file += "index.html"
        if not (SITE / file).is_file():
            wrong.append(f"{', '.join(sorted(froms))}: {file} is not there")
        elif anchor:
            counts["anchors"] += 1
            ids = anchors.get(file) or set(re.findall(r'id="([^"]+)"', (SITE / file).read_text()))
            if unquote(anchor) not in ids:
                wrong.append(f"{', '.join(sorted(froms))}: {file} has no #{anchor}")
    counts["pages"] = len(pages)
    print("\n".join(wrong))
    print(f"== {'; '.join(f'{what}: {count}' for what, count in counts.items())}; {len(wrong)} wrong; {time.time() - started:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
