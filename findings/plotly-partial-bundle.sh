#!/usr/bin/env bash
# plotly.js 4.1.1, partial bundle plotly.js-cartesian-dist-min (npm), in Chromium: a trace of a kind that the bundle lacks is drawn as a
# scatter, and nothing is said: no exception, no rejected promise, no message on the console.
#
# A partial bundle is chosen to make a page lighter. A guess would be that a kind it was built without is an error, or at least a
# warning, as the kind is a valid one of plotly.js. But it counts as a wrong value, and wrong values become the default: axes appear,
# points if there are x and y, else none. Plotly.validate, which nobody has to call, does tell. So whoever changes bundles has to
# compare the kinds that were drawn (_fullData) with those that were asked for.
# Seen: {"asked":["bar","scatterpolar","surface"],"drawn":["bar","scatter","scatter"],"messages":[]}
# Needs npm and chromium.
set -euo pipefail
for program in npm chromium; do command -v "$program" >/dev/null || { echo "$program is missing" >&2; exit 2; }; done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm pack --silent plotly.js-cartesian-dist-min@4.1.1 >/dev/null
tar xzf plotly.js-cartesian-dist-min-4.1.1.tgz
cat >page.html <<'HTML'
<div id="plot"></div><pre id="seen"></pre>
<script>
const messages = [];
for (const kind of ["log", "info", "warn", "error"]) console[kind] = (...words) => messages.push(words.join(" "));
addEventListener("error", event => messages.push(event.message));
addEventListener("unhandledrejection", event => messages.push(String(event.reason)));
</script>
<script src="package/plotly-cartesian.min.js"></script>
<script>
const traces = [{ type: "bar", y: [1, 2] }, { type: "scatterpolar", r: [1, 2], theta: [0, 90] }, { type: "surface", z: [[1, 2], [3, 4]] }];
Plotly.newPlot("plot", traces).then(plot => {
  const kinds = of => of.map(trace => trace.type);
  document.getElementById("seen").textContent = JSON.stringify({ asked: kinds(traces), drawn: kinds(plot._fullData), messages });
});
</script>
HTML
seen=$(timeout 60 chromium --headless --no-sandbox --user-data-dir="$folder/profile" --virtual-time-budget=5000 --dump-dom "file://$folder/page.html" 2>/dev/null |
  sed -n 's/.*<pre id="seen">\(.*\)<\/pre>.*/\1/p')
echo "$seen"
[ "$seen" = '{"asked":["bar","scatterpolar","surface"],"drawn":["bar","scatter","scatter"],"messages":[]}' ]
