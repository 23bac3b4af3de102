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
  const spec = { ...data.figures[card.dataset.figure], datasets: { rows } };
  const drawn = await window.vegaEmbed("#chart-" + id, spec, { renderer: "svg", actions: false, tooltip: { theme: "custom" } });
  views.set(id, drawn.view);
}

function fill(name, values, any) {
  const element = select(name);
  for (const value of any ? ["", ...values] : values) {
    element.add(new Option(value === "" ? "all" : value, value));
  }
  element.addEventListener("change", update);
}

function chosen() {
  const wanted = { profile: select("profile").value, accel: select("accel").value, start: select("start").value,
    dma: select("dma").value, outcome: select("outcome").value };
  const since = select("since").value ? Date.parse(select("since").value + "T00:00:00") : -Infinity;
  const until = select("until").value ? Date.parse(select("until").value + "T23:59:59.999") : Infinity;
  return data.launches.filter((launch) => launch.at >= since && launch.at <= until
    && Object.entries(wanted).every(([key, value]) => value === "" || launch[key] === value));
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

function summary(launches) {
  const body = document.getElementById("summary");
  body.replaceChildren();
  for (const dma of ["off", "on", "unknown"]) {
    const side = launches.filter((launch) => launch.dma === dma && launch.outcome === "success");
    if (side.length === 0) { continue; }
    const row = body.insertRow();
    row.insertCell().textContent = dma;
    for (const key of ["launch", "transfer", "total"]) {
      const values = side.map((launch) => launch[key]).filter((value) => value !== null);
      const cell = row.insertCell();
      cell.className = "n";
      cell.textContent = values.length ? duration(median(values)) : "–";
    }
    const count = row.insertCell();
    count.className = "n";
    count.textContent = side.length.toLocaleString("en");
  }
}

async function drawWaterfall() {
  const launch = data.launches.find((one) => one.id === select("launch").value);
  await draw("waterfall", launch ? waterfallRows(launch) : []);
}

async function update() {
  const launches = chosen();
  select("count").value = launches.length.toLocaleString("en") + " launches";
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

async function start() {
  for (const [id, rows] of Object.entries(data.fixed)) { await draw(id, rows); }
  if (data.launches.length > 0) {
    for (const [name, any] of [["profile", true], ["accel", false], ["start", false], ["dma", true], ["outcome", true]]) {
      fill(name, order(data.launches.map((launch) => launch[name])), any);
      if (data.first[name] !== undefined) { select(name).value = data.first[name]; }
    }
    select("since").addEventListener("change", update);
    select("until").addEventListener("change", update);
    select("launch").addEventListener("change", drawWaterfall);
    await update();
  }
  document.body.dataset.ready = "yes";
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) { details.open = true; }
});
start();
