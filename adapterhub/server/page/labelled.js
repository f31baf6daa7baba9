// What classifiers and taggers answered, drawn: bars, and a text with marked spans.

import { el, hue } from "./dom.js";
import { measure } from "./format.js";
import { cut } from "./spans.js";

const MOST_BARS = 12;
const FALLBACK_HUES = 4;

/** Scores of a classifier, the best on top. */
export function bars({ label, labels, scores }) {
  const given = labels ?? [label];
  const all = Object.entries(scores).sort((a, b) => b[1] - a[1]);
  const shown = all.slice(0, MOST_BARS);
  return el(
    "div",
    {},
    el("ol", { class: "bars" }, shown.map(([name, score]) => bar(name, score, given.includes(name)))),
    all.length > shown.length && el("p", { class: "muted small" }, `${all.length - shown.length} more labels score less.`),
  );
}

function bar(name, score, best) {
  const fill = el("span", { class: "fill" });
  // set as a property: the policy refuses style attributes
  fill.style.width = `${Math.min(1, Math.max(0, score)) * 100}%`;
  return el(
    "li",
    { class: best ? "best" : null },
    el("span", { class: "bar-name" }, name),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
    el("span", { class: "num" }, score.toFixed(3)),
  );
}

/** A text with its spans, and the same as a list with offsets. */
export function marked(text, spans) {
  const { pieces, lanes, outside } = cut(text, spans);
  const labels = [...new Set(spans.map((span) => span.label))].sort();
  const colour = (label) => hue(1 + (labels.indexOf(label) % FALLBACK_HUES));
  const shown = el("p", { class: "marked" }, pieces.map((piece) => pieceOf(piece, colour)));
  shown.style.setProperty("--lanes", Math.max(1, lanes));
  return el(
    "div",
    {},
    shown,
    spans.length
      ? listOf(spans, colour)
      : el("p", { class: "muted" }, "Nothing was found in this text."),
    outside.length > 0 && el("p", { class: "field-error" }, `${outside.length} spans do not lie in the text and are only listed.`),
  );
}

function pieceOf(piece, colour) {
  if (!piece.spans.length) return piece.text;
  const spans = [...piece.spans].sort((a, b) => a.lane - b.lane);
  const starting = spans.filter((span) => span.start === piece.start);
  // the words of a tag are drawn by the style sheet, so that copied text is the text
  const tag = (span) => el("span", { class: `tag ${colour(span.label)}`, "data-tag": span.label });
  const words = el("span", {}, starting.map(tag), piece.text);
  return el(
    "mark",
    { class: colour(spans.at(-1).label), "data-start": piece.start, "data-end": piece.end, title: spans.map((span) => span.label).join(", ") },
    spans.reduce((inner, span) => underlined(inner, span, colour), words),
  );
}

// one line below the text for each span, so that overlapping ones are told apart
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
