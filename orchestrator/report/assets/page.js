// Filters the launches embedded in the page and redraws the charts. All figures shown come from Python or from here.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const views = new Map();
const select = (name) => document.getElementById("filter-" + name);
const order = (values) => [...new Set(values)].sort();

// The first call draws a chart, later ones change its rows.
async function draw(id, rows) {
  const card = document.getElementById("card-" + id);
  card.classList.toggle("empty", rows.length === 0);
  if (rows.length === 0) { return; }
  const view = views.get(id);
  if (view) {
    await view.data("rows", rows).runAsync();
    return;
  }
  const figure = data.figures[card.dataset.figure];
  // The page has its own legends: they wrap on a phone.
  const config = { ...figure.config, legend: { disable: true } };
  const spec = { ...figure, config, datasets: { rows } };
  const options = { renderer: "svg", actions: false, tooltip: { theme: "custom" } };
  const drawn = await window.vegaEmbed("#chart-" + id, spec, options);
  views.set(id, drawn.view);
}

function fill(name, values, any) {
  const element = select(name);
  for (const value of any ? ["", ...values] : values) {
    element.add(new Option(value === "" ? "all" : value, value));
  }
  element.addEventListener("change", update);
}

const filters = ["profile", "accel", "start", "dma", "outcome"];

// Returns the test that the filters amount to. Dates are UTC, as everywhere on the page.
function chosen() {
  const wanted = filters.map((name) => [name, select(name).value]).filter(([, value]) => value !== "");
  const since = select("since").value ? Date.parse(select("since").value + "T00:00:00Z") : -Infinity;
  const until = select("until").value ? Date.parse(select("until").value + "T23:59:59.999Z") : Infinity;
  return (launch) => Number(launch.at) >= since && Number(launch.at) <= until
    && wanted.every(([key, value]) => launch[key] === value);
}

// Shows those of the slowest and the failed that the filters let through.
function listExtremes(fits) {
  for (const section of document.querySelectorAll("#slowest, #failures")) {
    let shown = 0;
    for (const launch of section.querySelectorAll("details")) {
      launch.hidden = !fits(launch.dataset);
      shown += launch.hidden ? 0 : 1;
    }
    section.querySelector(".none").hidden = shown > 0;
  }
}

function phaseRows(launches) {
  const rows = [];
  for (const launch of launches) {
    if (launch.outcome !== "success" || launch.dma === "unknown") { continue; }
    for (const [phase, begin, duration] of launch.phases) {
      rows.push({ phase, part: data.parts[phase], ms: Math.max(duration, 1e-3), dma: launch.dma });
    }
  }
  return rows;
}

function duration(ms) {
  if (ms >= 1000) { return (ms / 1000).toFixed(2) + " s"; }
  return (ms >= 100 ? ms.toFixed(0) : Number(ms.toPrecision(3))) + " ms";
}

function waterfallRows(launch) {
  return launch.phases.map(([phase, begin, length, source]) => ({ phase, part: data.parts[phase], begin: begin / 1000,
    end: (begin + length) / 1000, label: duration(length), source }));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function listLaunches(launches) {
  const element = select("launch");
  const ready = launches.filter((launch) => launch.launch !== null && launch.outcome === "success");
  ready.sort((a, b) => a.launch - b.launch);
  const before = element.value;
  element.replaceChildren();
  const add = (launch, what) => { if (launch) { element.add(new Option(`${what}: ${launch.id}, ${duration(launch.launch)}`, launch.id)); } };
  for (const dma of order(ready.map((launch) => launch.dma))) {
    const side = ready.filter((launch) => launch.dma === dma);
    add(side[side.length >> 1], `median, DMA ${dma}`);
    add(side[side.length - 1], `slowest, DMA ${dma}`);
    add(side[0], `fastest, DMA ${dma}`);
  }
  [...launches].filter((launch) => launch.outcome !== "success").slice(-5).forEach((launch) =>
    element.add(new Option(`${launch.outcome}: ${launch.id}`, launch.id)));
  if ([...element.options].some((option) => option.value === before)) { element.value = before; }
}

function cells(row, texts) {
  for (const [number, text] of texts.entries()) {
    const cell = row.insertCell();
    cell.className = number ? "n" : "";
    cell.textContent = text;
  }
}

function summary(launches) {
  const body = document.getElementById("summary");
  body.replaceChildren();
  const medians = {};
  for (const dma of ["off", "on", "unknown"]) {
    const side = launches.filter((launch) => launch.dma === dma && launch.outcome === "success");
    if (side.length === 0) { continue; }
    medians[dma] = ["launch", "transfer", "total"].map((key) => {
      const values = side.map((launch) => launch[key]).filter((value) => value !== null);
      return values.length ? median(values) : null;
    });
    const shown = medians[dma].map((value) => value === null ? "–" : duration(value));
    cells(body.insertRow(), [dma, ...shown, side.length.toLocaleString("en")]);
  }
  if (medians.off && medians.on) {
    const row = body.insertRow();
    row.className = "ratio";
    const times = medians.off.map((value, number) => value && medians.on[number]
      ? (value / medians.on[number]).toPrecision(3) + "×" : "–");
    cells(row, ["off / on", ...times, ""]);
  }
}

async function drawWaterfall() {
  const launch = data.launches.find((one) => one.id === select("launch").value);
  await draw("waterfall", launch ? waterfallRows(launch) : []);
}

async function update() {
  const fits = chosen();
  const launches = data.launches.filter(fits);
  listExtremes(fits);
  select("count").value = launches.length.toLocaleString("en") + (launches.length === 1 ? " launch" : " launches");
  listLaunches(launches);
  summary(launches);
  const ready = launches.filter((launch) => launch.launch !== null && launch.dma !== "unknown")
    .map((launch) => ({ id: launch.id, at: launch.at, launch_s: launch.launch / 1000, dma: launch.dma }));
  const phases = phaseRows(launches);
  await drawWaterfall();
  await draw("phases", phases);
  await draw("phase-ab", phases);
  await draw("launch-ecdf", ready);
  await draw("trend", ready);
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
}

// Sets the filters to the largest group of launches.
function reset() {
  for (const name of filters) { select(name).value = data.first[name] ?? ""; }
  for (const name of ["since", "until"]) { select(name).value = ""; }
}

async function start() {
  for (const [id, rows] of Object.entries(data.fixed)) { await draw(id, rows); }
  if (data.launches.length > 0) {
    for (const name of filters) {
      // Accelerators and kinds of start are looked at one at a time: never pooled.
      fill(name, order(data.launches.map((launch) => launch[name])), !["accel", "start"].includes(name));
    }
    reset();
    select("since").addEventListener("change", update);
    select("until").addEventListener("change", update);
    select("launch").addEventListener("change", drawWaterfall);
    select("reset").addEventListener("click", () => { reset(); update(); });
    await update();
  }
  document.body.dataset.ready = "yes";
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) { details.open = true; }
  for (const name of ["since", "until"]) { select(name)?.parentElement.classList.toggle("blank", select(name).value === ""); }
});
start();
