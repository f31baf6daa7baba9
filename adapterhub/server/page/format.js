// Numbers, digests and dates as text.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${UNITS[unit]}`;
}

/** Format a measurement with three or four significant digits. */
export function measure(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size < 1000 && Number.isInteger(value)) return String(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return size >= 0.001 ? value.toFixed(size < 1 ? 3 : 2) : value.toExponential(1);
}

export function milliseconds(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

/** Return the first digits of a digest. */
export function shortDigest(digest) {
  const [, hex] = String(digest ?? "").split(":");
  return (hex ?? String(digest ?? "")).slice(0, 12);
}

export function day(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString().slice(0, 10);
}
