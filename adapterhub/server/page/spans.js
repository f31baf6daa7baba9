// Spans of a text, with offsets in code points as the API counts them.

/**
 * Cut a text where spans begin or end, so that spans may overlap and nest.
 *
 * JavaScript counts UTF-16 units; the API counts code points, of which one may be two units.
 * @param {string} text
 * @param {{label: string, start: number, end: number}[]} spans
 * @returns {{pieces: {text: string, start: number, end: number, spans: Object[]}[], lanes: number, outside: Object[]}}
 *   the pieces in order, which together are the text; each placed span has a `lane` that no
 *   overlapping one shares; and the spans that do not lie in the text.
 */
export function cut(text, spans) {
  const points = Array.from(text);
  const fits = ({ start, end }) =>
    Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= points.length;
  const placed = lay(spans.filter(fits));
  const edges = new Set([0, points.length]);
  for (const { start, end } of placed) edges.add(start).add(end);
  const sorted = [...edges].sort((a, b) => a - b);
  const pieces = sorted.slice(1).map((end, index) => {
    const start = sorted[index];
    return {
      text: points.slice(start, end).join(""),
      start,
      end,
      spans: placed.filter((span) => span.start <= start && end <= span.end),
    };
  });
  const lanes = placed.reduce((most, span) => Math.max(most, span.lane + 1), 0);
  return { pieces, lanes, outside: spans.filter((span) => !fits(span)) };
}

// the first lane that is free; a longer span comes before those that it holds
function lay(spans) {
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
