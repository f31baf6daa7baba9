// Segments of a transcript as subtitles.

/**
 * Return segments as SubRip.
 * @param {{start: number, end: number, text: string}[]} segments
 */
export function srt(segments) {
  return segments
    .map((each, index) => `${index + 1}\n${clock(each.start, ",")} --> ${clock(each.end, ",")}\n${cue(each.text)}\n\n`)
    .join("");
}

/** Return segments as WebVTT. */
export function vtt(segments) {
  const cues = segments.map((each) => `${clock(each.start, ".")} --> ${clock(each.end, ".")}\n${cue(each.text)}\n\n`);
  return `WEBVTT\n\n${cues.join("")}`;
}

// an arrow would begin a line of times, and an empty line would end the cue
function cue(text) {
  return text.trim().replace(/\s+/g, " ").replaceAll("-->", "->");
}

function clock(seconds, point) {
  const total = Math.round(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(total / 3_600_000), Math.floor(total / 60_000) % 60, total % 60_000];
  return `${two(hours)}:${two(minutes)}:${two(Math.floor(rest / 1000))}${point}${String(rest % 1000).padStart(3, "0")}`;
}

/** Return seconds as shown beside a segment, such as 1:05.2. */
export function shortTime(seconds) {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}
