// Training report: loss and metric curves, and metrics before and after training.

import { get } from "./api.js";
import { makeChart } from "./chart.js";
import { byId, el, refill } from "./dom.js";
import { empty, errorNotice } from "./notices.js";
import { measure } from "./format.js";
import { isLocal } from "./store.js";

export function makeReport(store) {
  const select = byId("report-adapter");
  const body = byId("report-body");
  let requested = null;
  let shown = null;
  let active = false;

  function show(params) {
    active = true;
    requested = params?.get("ref") ?? requested;
    draw();
  }

  function draw() {
    if (!active || !store.loaded) return;
    const refs = store.adapters.filter(isLocal).map((each) => each.ref);
    if (requested && !refs.includes(requested)) refs.unshift(requested);
    requested ??= refs[0] ?? null;
    const options = JSON.stringify(refs);
    if (select.dataset.options !== options) {
      select.dataset.options = options;
      refill(select, refs.map((ref) => el("option", { value: ref }, ref)));
    }
    select.disabled = !refs.length;
    if (requested) select.value = requested;
    else refill(body, empty("No adapters yet", ["Train one with ", el("code", {}, "adapterhub train recipe.yaml"), " to see its curves here."]));
    if (requested && requested !== shown) fetchReport(requested);
  }

  async function fetchReport(ref) {
    shown = ref;
    refill(byId("report-notice"));
    refill(body, el("p", { class: "muted" }, "Loading…"));
    try {
      const report = await get(`v1/adapters/report?ref=${encodeURIComponent(ref)}`);
      if (shown === ref) refill(body, reportOf(report));
    } catch (error) {
      if (shown !== ref) return;
      shown = null;
      refill(body);
      refill(byId("report-notice"), errorNotice(error, () => fetchReport(ref)));
    }
  }

  select.addEventListener("change", () => {
    location.hash = `report?ref=${encodeURIComponent(select.value)}`;
  });
  store.addEventListener("change", draw);
  return { show, hide: () => (active = false) };
}

function reportOf(report) {
  const curves = (report.curves ?? []).filter((each) => each.points.length);
  const scores = { before: report.before ?? {}, after: report.after ?? {} };
  const names = Object.keys({ ...scores.before, ...scores.after });
  if (!curves.length && !names.length) {
    return empty("No training report", ["This version was composed, imported or pulled without a report. Versions trained by a recipe have one."]);
  }
  return [
    el("p", { class: "report-of" }, el("span", { class: "mono" }, report.ref), report.task && el("span", { class: "chip" }, report.task)),
    el("p", { class: "muted small mono" }, report.digest),
    el(
      "div",
      { class: "charts report" },
      names.length > 0 && comparison(names, scores),
      grouped(curves).map(({ title, members }) => chartOf(title, members)),
    ),
  ];
}

// curves with the same scale share a chart
function grouped(curves) {
  const groups = new Map();
  for (const curve of curves) {
    const title = /loss/i.test(curve.name) ? "Loss" : curve.name;
    if (!groups.has(title)) groups.set(title, []);
    groups.get(title).push(curve);
  }
  return [...groups].map(([title, members]) => ({ title, members }));
}

function chartOf(title, members) {
  const chart = makeChart({ title, unit: "by step", x: (value) => String(Math.round(value)) });
  chart.update(members.map(({ name, points }, index) => ({ name, points, hue: 1 + (index % 4) })));
  return chart.node;
}

function comparison(names, { before, after }) {
  const cell = (value) => el("td", { class: "num" }, measure(value));
  const table = el(
    "table",
    { class: "plain", "aria-label": "Before and after" },
    el("thead", {}, el("tr", {}, ["Metric", "Before", "After", "Change"].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, names.map((name) => el("tr", {}, el("th", { scope: "row" }, name), cell(before[name]), cell(after[name]), el("td", { class: "num" }, change(before[name], after[name]))))),
  );
  const title = el("figcaption", {}, el("h3", {}, "Before and after"), el("span", { class: "muted small" }, "on held-out examples"));
  return el("figure", { class: "chart panel" }, title, table);
}

function change(before, after) {
  if (typeof before !== "number" || typeof after !== "number") return "–";
  const difference = after - before;
  if (difference === 0) return "none";
  return `${difference > 0 ? "+" : "−"}${measure(Math.abs(difference))}`;
}
