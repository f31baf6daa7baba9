// Results of classifiers and taggers: bars, and a text with marked spans.

import { el, hue } from "./dom.js";
import { measure } from "./format.js";

const MOST_BARS = 12;
const FALLBACK_HUES = 4;

/** Make the bars of a classifier's scores, the highest first. */
export function bars({ label, labels, scores }) {
  const given = labels ?? [label];
  const all = Object.entries(scores).sort((a, b) => b[1] - a[1]);
  const shown = all.slice(0, MOST_BARS);
  return el(
    "div",
    {},
    el("ol", { class: "bars" }, shown.map(([name, score]) => bar(name, score, given.includes(name)))),
    all.length > shown.length && el("p", { class: "muted small" }, `${all.length - shown.length} more labels have lower scores.`),
  );
}

function bar(name, score, best) {
  const fill = el("span", { class: "fill" });
  // as a property, since the policy forbids style attributes
  fill.style.width = `${Math.min(1, Math.max(0, score)) * 100}%`;
  return el(
    "li",
    { class: best ? "best" : null },
    el("span", { class: "bar-name" }, name),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
    el("span", { class: "num" }, score.toFixed(3)),
  );
}

/** Make a text with marked spans, and a table of them with their offsets. */
export function marked(text, spans) {
  const { parts, lanes, outside } = splitBySpans(text, spans);
  const labels = [...new Set(spans.map((span) => span.label))].sort();
  const colour = (label) => hue(1 + (labels.indexOf(label) % FALLBACK_HUES));
  const shown = el("p", { class: "marked" }, parts.map((part) => markedPart(part, colour)));
  shown.style.setProperty("--lanes", Math.max(1, lanes));
  return el(
    "div",
    {},
    shown,
    spans.length
      ? listOf(spans, colour)
      : el("p", { class: "muted" }, "No spans were found in this text."),
    outside.length > 0 && el("p", { class: "field-error" }, `${outside.length} spans are outside of the text and are only listed.`),
  );
}

function markedPart(part, colour) {
  if (!part.spans.length) return part.text;
  const spans = [...part.spans].sort((a, b) => a.lane - b.lane);
  const starting = spans.filter((span) => span.start === part.start);
  // the style sheet draws the label of a tag, so that it is not part of copied text
  const tag = (span) => el("span", { class: `tag ${colour(span.label)}`, "data-tag": span.label });
  const words = el("span", {}, starting.map(tag), part.text);
  return el(
    "mark",
    { class: colour(spans.at(-1).label), "data-start": part.start, "data-end": part.end, title: spans.map((span) => span.label).join(", ") },
    spans.reduce((inner, span) => underlined(inner, span, colour), words),
  );
}

// one line below the text for each span, which distinguishes overlapping ones
function underlined(inner, span, colour) {
  const line = el("span", { class: `lane ${colour(span.label)}` }, inner);
  line.style.setProperty("--lane", span.lane);
  return line;
}

function listOf(spans, colour) {
  return el(
    "table",
    { class: "plain spans" },
    el("thead", {}, el("tr", {}, ["Label", "Text", "Offsets", "Score"].map((title) => el("th", { scope: "col" }, title)))),
    el(
      "tbody",
      {},
      spans.map((span) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, el("span", { class: `dot ${colour(span.label)}`, "aria-hidden": "true" }), span.label),
          el("td", {}, span.text),
          el("td", { class: "num" }, `${span.start}–${span.end}`),
          el("td", { class: "num" }, measure(span.score)),
        ),
      ),
    ),
  );
}

/**
 * Split a text where spans begin or end, so that spans may overlap and nest.
 *
 * JavaScript counts UTF-16 units; the API counts code points, of which one may be two units.
 * @param {string} text
 * @param {{label: string, start: number, end: number}[]} spans
 * @returns {{parts: {text: string, start: number, end: number, spans: Object[]}[], lanes: number, outside: Object[]}}
 *   the parts in order, which together are the text, each with its spans and their lanes, which
 *   overlapping spans do not share; and the spans outside of the text.
 */
export function splitBySpans(text, spans) {
  const points = Array.from(text);
  const fits = ({ start, end }) =>
    Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= points.length;
  const placed = assignLanes(spans.filter(fits));
  const edges = new Set([0, points.length]);
  for (const { start, end } of placed) edges.add(start).add(end);
  const sorted = [...edges].sort((a, b) => a - b);
  const parts = sorted.slice(1).map((end, index) => {
    const start = sorted[index];
    return {
      text: points.slice(start, end).join(""),
      start,
      end,
      spans: placed.filter((span) => span.start <= start && end <= span.end),
    };
  });
  const lanes = placed.reduce((most, span) => Math.max(most, span.lane + 1), 0);
  return { parts, lanes, outside: spans.filter((span) => !fits(span)) };
}

// the first free lane; a longer span comes before those inside it
function assignLanes(spans) {
  const ends = [];
  return spans
    .map((span) => ({ ...span }))
    .sort((a, b) => a.start - b.start || b.end - a.end)
    .map((span) => {
      let lane = ends.findIndex((end) => end <= span.start);
      if (lane === -1) lane = ends.length;
      ends[lane] = span.end;
      return { ...span, lane };
    });
}
