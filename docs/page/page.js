// The page: an image, the answer of an exported network, and where on its front it works.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { read } from "./onnx.js";
import { prepare } from "./prepare.js";

const $ = id => document.getElementById(id);
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const pause = ms => new Promise(go => setTimeout(go, ms));
const small = x => x < 0.0001 && x > 0 ? x.toExponential(1) : x.toFixed(4);
const percent = (x, digits) => `${(x * 100).toFixed(digits)}\u00a0%`;
const sign = x => String(x).replace("Infinity", "∞");

ort.env.wasm.numThreads = 1;
const pen = $("paper").getContext("2d", { willReadFrequently: true });
const networks = {};
// The network, its image as bytes, and which answer was asked for last.
let net, bytes, asked = 0, line = Promise.resolve();

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is not there (${answer.status}); make page writes it`);
  return answer;
}

async function load(name) {
  const file = new Uint8Array(await (await get(`${name}/model.onnx`)).arrayBuffer());
  const [front, samples] = [await (await get(`${name}/front.csv`)).text(), await (await get(`${name}/samples.json`)).json()];
  const [head, ...rows] = front.trim().split("\n").map(row => row.split(","));
  const points = rows.map(row => {
    const all = head.map((column, i) => [column, row[i] === "inf" ? Infinity : Number(row[i])]), column = Object.fromEntries(all);
    const [thresholds, shares] = [/^T/, /^exit/].map(kind => all.filter(([name]) => kind.test(name)).map(([, value]) => value));
    return { thresholds, shares, accuracy: column.accuracy, macs: column.MACs };
  });
  const about = read(file), own = about.policy.thresholds.map(t => t ?? Infinity);
  const far = ({ thresholds }) => thresholds.reduce((sum, t, i) => sum + Math.abs(Math.min(t, 99) - Math.min(own[i], 99)), 0);
  const start = points.reduce((best, point, i) => far(point) < far(points[best]) ? i : best, 0);
  return { name, ...about, points, at: start, samples, session: await ort.InferenceSession.create(file, { executionProviders: ["wasm"] }) };
}

// One run of the file at these thresholds.
async function run({ session, image }, bytes, thresholds) {
  const feeds = { image: new ort.Tensor("uint8", bytes, [1, ...image]), thresholds: new ort.Tensor("float32", Float32Array.from(thresholds)) };
  const { label, exit, uncertainty } = await session.run(feeds);
  return { label: Number(label.data[0]), exit: Number(exit.data[0]), uncertainty: uncertainty.data[0] };
}

// Milliseconds of a run at each of these thresholds, which take turns: medians of rounds, as clocks of browsers are coarse.
const ROUNDS = 7;
async function times(net, bytes, ...choices) {
  const taken = choices.map(() => []);
  for (let round = 0; round < ROUNDS; round++) for (const [i, thresholds] of choices.entries()) {
    const start = performance.now();
    let runs = 0, ms;
    do (await run(net, bytes, thresholds)), runs++, (ms = performance.now() - start); while (ms < 10);
    taken[i].push(ms / runs);
  }
  return taken.map(all => all.sort((a, b) => a - b)[ROUNDS >> 1]);
}

// Answers for the image and thresholds at hand. Runs stand in line, and of those that wait the last counts.
function answer() {
  const turn = ++asked, late = () => turn !== asked;
  const next = job => (line = line.then(() => late() || job()).catch(problem));
  if (!bytes) return forget();
  next(async () => {
    const { thresholds } = net.points[net.at], last = await run(net, bytes, thresholds), said = [];
    for (let exit = 1; exit < last.exit; exit++) {
      const there = await run(net, bytes, thresholds.map((_, i) => i + 1 === exit ? Infinity : 0));
      if (there.exit !== exit) throw new Error(`the image leaves at exit ${there.exit} instead of ${exit}`);
      said.push(there);
    }
    if (late()) return;
    show([...said, last], thresholds);
    // A slider that moves is not held up by times.
    pause(200).then(() => next(async () => {
      const [ms, whole] = await times(net, bytes, thresholds, thresholds.map(() => 0));
      if (late()) return;
      const compared = last.exit > thresholds.length ? "" : ` To the last exit it takes ${whole.toFixed(2)} ms, ${(whole / ms).toFixed(1)} times as long.`;
      $("time").textContent = `${ms.toFixed(2)} ms, the median of ${ROUNDS} rounds.${compared}`;
    }));
  });
}

function show(said, thresholds) {
  const { label, exit, uncertainty } = said.at(-1), { classes, policy } = net, exits = thresholds.length + 1;
  const kind = policy.readout.criterion, against = exit < exits ? `, below the threshold ${sign(thresholds[exit - 1])}` : "";
  $("answer").replaceChildren(make("b", {}, classes[label]), ` at exit ${exit} of ${exits}; ${kind} ${small(uncertainty)}${against}`);
  $("time").textContent = "Measuring the time …";
  const most = kind === "entropy" ? Math.log(classes.length) : 1;
  $("exits").replaceChildren(...Array.from({ length: exits }, (_, i) => {
    const here = said[i], limit = i < exits - 1 ? sign(thresholds[i]) : "none", cell = make("td", {}, here ? small(here.uncertainty) : "–");
    if (here) {
      const bar = make("div", { className: "bar", ariaHidden: "true" }, make("i", {}));
      bar.firstChild.style.width = `${Math.min(here.uncertainty / most, 1) * 100}%`;
      if (i < exits - 1) bar.append(make("b", {})), (bar.lastChild.style.left = `${Math.min(thresholds[i] / most, 1) * 100}%`);
      cell.append(bar);
    }
    const does = !here ? "is not computed" : i + 1 === exit ? "answers" : "passes it on";
    return make("tr", {}, make("th", { scope: "row" }, `${i + 1}`), make("td", {}, here ? classes[here.label] : "–"), cell, make("td", {}, limit), make("td", {}, does));
  }));
  [...$("layers").children].forEach((part, i) => {
    const off = i >= exit;
    for (const box of part.querySelectorAll("ol li")) {
      box.classList.toggle("off", off);
      box.querySelector(".hidden").textContent = off ? " (not computed)" : "";
    }
    part.querySelector(".exit").classList.toggle("taken", i + 1 === exit);
  });
}

function forget() {
  $("answer").textContent = net.image[0] === 1 ? "Draw a digit, or choose an image." : "Choose an image.";
  $("time").textContent = "";
  $("exits").replaceChildren();
  $("layers").querySelectorAll(".off, .taken").forEach(box => box.classList.remove("off", "taken"));
  $("layers").querySelectorAll(".hidden").forEach(mark => (mark.textContent = ""));
  $("seen").hidden = true;
}

const problem = error => {
  console.info(error);
  $("problem").textContent = error.message;
};

// Takes a picture (ImageData) as the image.
function take(picture) {
  if (!net) return;
  const [channels, height, width] = net.image, [prepared, odd] = prepare(picture, net.image);
  bytes = prepared;
  $("problem").textContent = odd && `Careful: ${odd}.`;
  const seen = Object.assign($("seen"), { width, height, hidden: false }), pixels = new ImageData(width, height);
  pixels.data.forEach((_, at) => {
    const channel = at % 4, place = at >> 2;
    pixels.data[at] = channel === 3 ? 255 : bytes[(channels === 3 ? channel : 0) * width * height + place];
  });
  seen.getContext("2d").putImageData(pixels, 0, 0);
  answer();
}

// Where the image comes from: the button of a test image, the file input, or neither.
function from(source) {
  $("samples").querySelectorAll("button").forEach(button => (button.ariaPressed = String(button === source)));
  if (source !== $("file")) $("file").value = "";
}

function clear(source) {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, 280, 280);
  from(source);
  $("problem").textContent = "";
}

async function open(file, name, source) {
  let pixels;
  try {
    // The pixels of the file: no profile of colours is applied, as in the program.
    const picture = await createImageBitmap(file, { colorSpaceConversion: "none" }), { width, height } = picture;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(picture, 0, 0);
    pixels = context.getImageData(0, 0, width, height);
  } catch {
    return problem(new Error(`cannot read ${name}: expected a picture that this browser can show, such as PNG or JPEG`));
  }
  clear(source);
  take(pixels);
}

function point() {
  const { thresholds, shares, accuracy, macs } = net.points[net.at], { points } = net, exits = shares.map((share, i) => `${percent(share, 1)}${i ? "" : " of the test images leave"} at exit ${i + 1}`);
  const named = thresholds.map((t, i) => `T${i + 1} = ${sign(t)}`).join(", ");
  $("point").ariaValueText = named;
  $("told").replaceChildren(make("b", {}, named), `: ${exits.join(", ")}; ${percent(accuracy, 2)} are right, and an image takes ${(macs / 1e6).toFixed(2)} million multiply-accumulates (MACs) in the mean.`);
  const range = of => [Math.min(...points.map(of)), Math.max(...points.map(of))];
  const [x0, x1] = range(p => p.macs), [y0, y1] = range(p => p.accuracy);
  const x = p => 52 + (p.macs - x0) / (x1 - x0) * 240, y = p => 140 - (p.accuracy - y0) / (y1 - y0) * 120, here = points[net.at];
  $("front").innerHTML = `<svg viewBox="0 0 310 180" role="img" aria-label="Front of the network: accuracy from ${percent(y0, 2)} to ${percent(y1, 2)}, MACs from ${(x0 / 1e6).toFixed(2)} to ${(x1 / 1e6).toFixed(2)} million; the slider moves the point">
<path class="frame" fill="none" d="M46 14V146H300"/><polyline points="${points.map(p => `${x(p)},${y(p)}`).join(" ")}"/><circle class="here" cx="${x(here)}" cy="${y(here)}" r="6"/>
<text x="42" y="24" text-anchor="end">${(y1 * 100).toFixed(1)}</text><text x="42" y="144" text-anchor="end">${(y0 * 100).toFixed(1)}</text><text x="52" y="10">accuracy, %</text>
<text x="46" y="160">${(x0 / 1e6).toFixed(2)}</text><text x="300" y="160" text-anchor="end">${(x1 / 1e6).toFixed(2)}</text><text x="173" y="174" text-anchor="middle">mean MACs of an image, millions</text></svg>`;
}

function layers() {
  const box = ({ layer, kind, told }) => make("li", {}, layer, make("small", {}, told ? `${kind} ${told}` : kind), make("span", { className: "hidden" }));
  $("layers").replaceChildren(...net.parts.map(({ trunk, branch }, i) => {
    const exit = make("li", { className: "exit" }, `exit ${i + 1}`, make("span", { className: "hidden" }));
    const named = (className, label, ...boxes) => make("ol", { className, ariaLabel: label }, ...boxes);
    if (!branch.length) return make("li", {}, named("trunk", "trunk, to the last exit", ...trunk.map(box), exit));
    return make("li", {}, named("trunk", `trunk, to exit ${i + 1}`, ...trunk.map(box)), named("branch", `branch of exit ${i + 1}`, ...branch.map(box), exit));
  }));
}

const chosen = () => document.querySelector("[name=network]:checked").value;

async function choose(name) {
  [net, bytes] = [null, null];
  asked++;
  try {
    const loaded = await (networks[name] ??= load(name));
    if (name !== chosen()) return;
    net = loaded;
  } catch (error) {
    delete networks[name];
    return problem(error);
  }
  $("drawing").hidden = net.image[0] !== 1;
  $("samples").replaceChildren(...net.samples.map(({ file, label, index }) => {
    const button = make("button", { type: "button", ariaPressed: "false" }, make("img", { src: `${name}/${file}`, alt: `test image ${index}: ${label}` }));
    button.addEventListener("click", () => get(`${name}/${file}`).then(got => got.blob()).then(blob => open(blob, file, button)).catch(problem));
    return button;
  }));
  $("uncertainty").textContent = net.policy.readout.criterion;
  Object.assign($("point"), { max: net.points.length - 1, value: net.at });
  clear();
  layers();
  point();
  answer();
}

document.querySelectorAll("[name=network]").forEach(radio => radio.addEventListener("change", () => choose(radio.value)));
$("point").addEventListener("input", () => {
  if (!net) return;
  net.at = Number($("point").value);
  point();
  answer();
});
$("file").addEventListener("change", () => $("file").files[0] && open($("file").files[0], $("file").files[0].name, $("file")));
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});
$("clear").addEventListener("click", () => {
  clear();
  bytes = null;
  if (net) answer();
});

Object.assign(pen, { lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
let last = null;
const place = ({ clientX, clientY }) => {
  const { left, top, width, height } = $("paper").getBoundingClientRect();
  return [(clientX - left) / width * 280, (clientY - top) / height * 280];
};
function stroke(event) {
  if (!last) return;
  const to = place(event);
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...to);
  pen.stroke();
  last = to;
}
$("paper").addEventListener("pointerdown", event => {
  $("paper").setPointerCapture(event.pointerId);
  from(null);
  last = place(event);
  stroke(event);
});
$("paper").addEventListener("pointermove", stroke);
for (const end of ["pointerup", "pointercancel"]) $("paper").addEventListener(end, () => {
  if (last) (last = null), take(pen.getImageData(0, 0, 280, 280));
});

$("runtime").textContent = `onnxruntime-web ${ort.env.versions.web}`;
choose(chosen());
