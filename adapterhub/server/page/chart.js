// Line charts as SVG, each with one vertical axis.

import { el, hue, svg } from "./dom.js";
import { measure } from "./format.js";

const HEIGHT = 190;
const PAD = { left: 46, right: 12, top: 10, bottom: 24 };
const TICK_WIDTH = 90;

/**
 * Make a chart.
 * @param {{title: string, unit?: string, x?: (value: number) => string, y?: (value: number) => string}} options
 * @returns {{node: Element, update: (series: {name: string, hue: number, points: number[][]}[]) => void}}
 *   `points` are `[x, y]` sorted by x; a y that is not a number is a gap.
 */
export function makeChart({ title, unit = "", x = measure, y = measure }) {
  const plot = svg("svg", { class: "plot", role: "img", tabindex: "0", height: HEIGHT });
  const legend = el("ul", { class: "legend" });
  const node = el("figure", { class: "chart panel" }, el("figcaption", {}, el("h3", {}, title), unit && el("span", { class: "muted small" }, unit)), plot, legend);
  let series = [];
  let at = null;

  function draw() {
    const width = plot.clientWidth || 320;
    const frame = frameOf(series, width);
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.setAttribute("aria-label", description(title, unit, series, y));
    plot.replaceChildren(...(frame ? [...axes(frame, x), ...lines(series, frame), ...cursor(series, frame, at)] : [placeholder(width)]));
    legend.replaceChildren(...series.map((each) => legendEntry(each, at, frame, x, y)));
  }

  function move(to) {
    at = to;
    draw();
  }

  plot.addEventListener("pointermove", (event) => {
    const frame = frameOf(series, plot.clientWidth);
    if (frame) move(nearest(xsOf(series), frame.valueAt(event.offsetX)));
  });
  plot.addEventListener("pointerleave", () => move(null));
  plot.addEventListener("blur", () => move(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const xs = xsOf(series);
    if (step === undefined || !xs.length) return;
    event.preventDefault();
    const from = at === null ? (step < 0 ? xs.length : -1) : xs.indexOf(nearest(xs, at));
    move(xs[Math.min(xs.length - 1, Math.max(0, from + step))]);
  });
  new ResizeObserver(draw).observe(plot);
  return {
    node,
    update: (given) => {
      series = given;
      draw();
    },
  };
}

/** Return round numbers that cover `low` to `high` in about `count` ticks. */
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((factor) => factor * size >= rough * 0.999);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) {
    found.push(index * step);
  }
  return found;
}

const real = ([, value]) => typeof value === "number" && Number.isFinite(value);

function xsOf(series) {
  return [...new Set(series.flatMap((each) => each.points.filter(real).map(([x]) => x)))].sort((a, b) => a - b);
}

function nearest(xs, wanted) {
  return xs.reduce((best, x) => (best === null || Math.abs(x - wanted) < Math.abs(best - wanted) ? x : best), null);
}

function frameOf(series, width) {
  const all = series.flatMap((each) => each.points.filter(real));
  if (!all.length) return null;
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const [left, right] = apart(minimum(xs), maximum(xs));
  // the axis starts at 0 unless that would flatten the curve
  const span = maximum(ys) - minimum(ys);
  const low = minimum(ys) >= 0 && minimum(ys) < 3 * span ? 0 : minimum(ys) - span * 0.1;
  const [bottom, rough] = apart(minimum(ys) >= 0 && span === 0 ? 0 : low, maximum(ys));
  const marks = ticks(bottom, rough, 4);
  const top = marks.length > 1 && marks.at(-1) < rough ? marks.at(-1) + (marks[1] - marks[0]) : rough;
  const inner = { width: Math.max(10, width - PAD.left - PAD.right), height: HEIGHT - PAD.top - PAD.bottom };
  return {
    left, right, bottom, top, width,
    x: (value) => PAD.left + ((value - left) / (right - left)) * inner.width,
    y: (value) => PAD.top + (1 - (value - bottom) / (top - bottom)) * inner.height,
    valueAt: (pixel) => left + ((pixel - PAD.left) / inner.width) * (right - left),
  };
}

const minimum = (values) => values.reduce((a, b) => Math.min(a, b));
const maximum = (values) => values.reduce((a, b) => Math.max(a, b));
const apart = (low, high) => (high > low ? [low, high] : [low, low + (Math.abs(low) || 1)]);

// rounded, since sums of steps are inexact
function tickText(value) {
  return Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
}

function axes(frame, x) {
  const across = ticks(frame.bottom, frame.top, 4).flatMap((value) => [
    svg("line", { class: "grid", x1: PAD.left, x2: frame.width - PAD.right, y1: frame.y(value), y2: frame.y(value) }),
    svg("text", { class: "tick", x: PAD.left - 7, y: frame.y(value) + 4, "text-anchor": "end" }, tickText(value)),
  ]);
  const count = Math.max(2, Math.floor(frame.width / TICK_WIDTH));
  const along = ticks(frame.left, frame.right, count).map((value) => {
    const place = frame.x(value);
    const anchor = place > frame.width - 40 ? "end" : place < PAD.left + 20 ? "start" : "middle";
    return svg("text", { class: "tick", x: place, y: HEIGHT - 6, "text-anchor": anchor }, x(value));
  });
  return [...across, ...along];
}

function lines(series, frame) {
  return series.flatMap((each) => [
    svg("path", { class: `line ${hue(each.hue)}`, d: pathOf(each.points, frame) }),
    // a line through one point is invisible
    ...isolated(each.points).map(([x, y]) => svg("circle", { class: `point ${hue(each.hue)}`, cx: frame.x(x), cy: frame.y(y), r: 3 })),
  ]);
}

function pathOf(points, frame) {
  let pen = "M";
  return points
    .map((point) => {
      if (!real(point)) {
        pen = "M";
        return "";
      }
      const part = `${pen}${frame.x(point[0]).toFixed(1)} ${frame.y(point[1]).toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}

function isolated(points) {
  const joined = (index) => index >= 0 && index < points.length && real(points[index]);
  return points.filter((point, index) => real(point) && !joined(index - 1) && !joined(index + 1));
}

function cursor(series, frame, at) {
  if (at === null) return [];
  const place = frame.x(at);
  const dots = series.flatMap((each) =>
    each.points.filter((point) => point[0] === at && real(point)).map(([x, y]) =>
      svg("circle", { class: `point ${hue(each.hue)}`, cx: frame.x(x), cy: frame.y(y), r: 4 }),
    ),
  );
  return [svg("line", { class: "cursor", x1: place, x2: place, y1: PAD.top, y2: HEIGHT - PAD.bottom }), ...dots];
}

function legendEntry(each, at, frame, x, y) {
  const seen = each.points.filter(real);
  const point = at === null ? seen.at(-1) : seen.find(([value]) => value === at);
  const where = at !== null && point && frame ? el("span", { class: "muted" }, ` at ${x(at)}`) : null;
  return el(
    "li",
    {},
    el("span", { class: `swatch ${hue(each.hue)}`, "aria-hidden": "true" }),
    each.name,
    " ",
    el("strong", { class: "num" }, point ? y(point[1]) : "–"),
    where,
  );
}

function description(title, unit, series, y) {
  const parts = series.map((each) => {
    const values = each.points.filter(real).map(([, value]) => value);
    if (!values.length) return `${each.name}: no data yet`;
    return `${each.name}: last ${y(values.at(-1))}, minimum ${y(minimum(values))}, maximum ${y(maximum(values))}`;
  });
  return `${title}${unit ? ` in ${unit}` : ""}. ${parts.join(". ")}. Arrow keys move between points.`;
}

function placeholder(width) {
  return svg("text", { class: "tick", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No data yet");
}
