// Theme, menu, search, and plots that are drawn when they are scrolled to.

const dark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
// Figures are made for white; in the dark these colours take the place of theirs. The last row is the scale of heatmaps.
const DARK = {
  white: "#14181d", "rgba(255, 255, 255, 0.8)": "rgba(20, 24, 29, 0.8)", "#222222": "#e3e6ea", "#000000": "#ffffff", "#444444": "#8b96a2",
  "#e5e5e5": "#333b45", "#888888": "#a3acb6", "#0072b2": "#4aa8e0", "#d55e00": "#f08040", "#7a4b00": "#c99a52",
  "#ffffff": "#1c2229", "#9ecae1": "#2f6a96", "#08519c": "#c6e2f4",
};
const NARROW = 480;

const figures = [...document.querySelectorAll("figure.plot")], drawn = new Set();

// Long texts of plotly's in lines of so many characters.
const lines = (text, length) => text.replace(new RegExp(`(.{1,${length}})(\\s+|$)`, "g"), "$1<br>").replace(/<br>$/, "");

function draw(figure) {
  const text = figure.querySelector("script").textContent, chart = figure.querySelector(".chart");
  const shown = dark() ? text.replace(/"(#[0-9a-f]{6}|white|rgba\([^"]*\))"/gi, (all, colour) => `"${DARK[colour.toLowerCase()] ?? colour}"`) : text;
  const { data, layout } = JSON.parse(shown), narrow = chart.clientWidth < NARROW;
  delete layout.width;
  layout.autosize = true;
  // The title is the caption below.
  if (!layout.sliders) layout.height -= layout.margin.t - 24, (layout.margin.t = 24);
  Object.assign(layout.legend ??= {}, { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" });
  // A finger scrolls.
  if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
  const axes = Object.keys(layout).filter(key => /^[xy]axis/.test(key)).map(key => layout[key]);
  for (const axis of axes) axis.automargin = true;
  if (narrow) {
    layout.font.size = 11;
    layout.margin.l = 45;
    layout.margin.r = Math.min(layout.margin.r, 50);
    for (const axis of axes) if (axis.title?.text) axis.title.text = lines(axis.title.text, 40);
    for (const trace of data) if (trace.name) trace.name = lines(trace.name, 40);
    // Room for the legend, which has hardly more than one entry in a line.
    layout.height += 15 * data.filter(trace => trace.name && trace.showlegend !== false).length;
    const { grid } = layout;
    if (grid?.columns > 1) {
      layout.height *= layout.sliders ? 1.5 : grid.columns * 0.85;
      [grid.rows, grid.columns] = [grid.columns, grid.rows];
    }
  }
  chart.style.minHeight = `${layout.height}px`;
  drawn.add(figure);
  // One of plotly's buttons sends the figure to its makers' server.
  const modeBarButtonsToRemove = ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "downloadJson"];
  return Plotly.react(chart, data, layout, { displaylogo: false, displayModeBar: narrow ? false : "hover", modeBarButtonsToRemove }).then(() => {
    figure.classList.add("drawn");
    if (!layout.sliders) return;
    // Where the reader left it.
    figure.step ? Plotly.update(chart, ...figure.step.args) : chart.on("plotly_sliderchange", ({ step }) => (figure.step = step));
    if (figure.step) Plotly.relayout(chart, "sliders[0].active", figure.step._index);
  });
}

const redraw = () => drawn.forEach(draw);
const seen = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) if (isIntersecting && !drawn.has(target)) draw(target);
}, { rootMargin: "400px" });
figures.forEach(figure => seen.observe(figure));
// Browsers don't wait for pictures when they print.
addEventListener("load", () => setTimeout(() => document.querySelectorAll(".plot > img").forEach(image => (image.loading = "eager")), 1000));

let later, width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(later);
  later = setTimeout(redraw, 150);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.getElementById("theme").addEventListener("click", () => {
  root.style.colorScheme = dark() ? "light" : "dark";
  localStorage.setItem("theme", root.style.colorScheme);
  redraw();
});

// On a narrow screen the menu lies over the text: a chosen section must not stay behind it.
const menu = document.getElementById("menu"), toggle = open => menu.setAttribute("aria-expanded", root.classList.toggle("open", open));
menu.addEventListener("click", () => toggle());
document.getElementById("nav").addEventListener("click", event => event.target.closest("a") && toggle(false));
addEventListener("keydown", event => event.key === "Escape" && toggle(false));

const search = document.getElementById("search"), query = search.querySelector("input"), found = search.querySelector("ol");
const open = () => (search.showModal(), query.select());
document.getElementById("find").addEventListener("click", open);
addEventListener("keydown", event => {
  if (event.key === "/" && !/INPUT|TEXTAREA/.test(event.target.tagName)) event.preventDefault(), open();
});
let pagefind;
query.addEventListener("input", async () => {
  const base = new URL(`${root.dataset.up}/`, location), asked = query.value;
  try {
    pagefind ??= await import(new URL("pagefind/pagefind.js", base));
  } catch {
    found.innerHTML = "<li>The search needs a server: <code>python3 -m http.server -d figures/site</code></li>";
    return;
  }
  const results = (await pagefind.debouncedSearch(asked, {}, 150))?.results.slice(0, 12);
  if (!results) return;
  const pages = await Promise.all(results.map(result => result.data()));
  if (query.value !== asked) return;
  found.innerHTML = pages.map(page => `<li><a href="${page.url}">${page.meta.title}</a><p>${page.excerpt}</p></li>`).join("") || (asked && "<li>Nothing found</li>");
});
