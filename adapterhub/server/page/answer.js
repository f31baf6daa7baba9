// One answer as it streams in.

import { stream } from "./api.js";
import { el, refill } from "./dom.js";
import { faultNotice } from "./faults.js";
import { milliseconds, shortDigest } from "./format.js";

const ENDS = { stop: "ended by itself", length: "cut at max tokens", content_filter: "filtered", tool_calls: "calls a tool" };

/** Make the place of an answer. */
export function makeAnswer() {
  const text = document.createTextNode("");
  const wait = el("span", { class: "muted" }, "No answer yet.");
  // aria-busy holds a screen reader back until the answer is whole
  const output = el("div", { class: "answer", "aria-live": "polite", "aria-busy": "false", tabindex: "0", role: "region", "aria-label": "Text of the answer" }, wait, text);
  const fault = el("div");
  const facts = el("p", { class: "facts muted small num" });
  const node = el("div", { class: "answer-part" }, output, fault, facts);

  /** Ask, and show what comes. Resolves to a word for the status, never rejects. */
  async function ask({ path, body, signal, again }) {
    const started = performance.now();
    const seen = { first: null, tokens: 0, usage: null, end: null, digest: "" };
    text.data = "";
    wait.textContent = "Waiting for the first token…";
    wait.hidden = false;
    output.setAttribute("aria-busy", "true");
    // the button that asked again goes
    if (fault.contains(document.activeElement)) output.focus({ preventScroll: true });
    refill(fault);
    facts.textContent = "";
    let word = "done";
    try {
      const { digest, chunks } = await stream(path, body, { signal });
      seen.digest = digest;
      for await (const chunk of chunks) take(chunk, seen, started);
    } catch (error) {
      word = error.name === "AbortError" ? "stopped" : "failed";
      if (word === "failed") refill(fault, faultNotice(error, again));
    }
    wait.hidden = text.data !== "" || word === "failed";
    wait.textContent = word === "stopped" ? "Stopped before the first token." : "The answer is empty.";
    output.setAttribute("aria-busy", "false");
    refill(facts, document.createTextNode(summary(seen, started, word)), answeredBy(seen.digest));
    return word;
  }

  function take(chunk, seen, started) {
    if (chunk.usage) seen.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const piece = choice.delta?.content ?? choice.text ?? "";
    if (piece) {
      seen.first ??= performance.now() - started;
      seen.tokens += 1;
      wait.hidden = true;
      const stuck = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
      text.appendData(piece);
      if (stuck) output.scrollTop = output.scrollHeight;
    }
    if (choice.finish_reason) seen.end = choice.finish_reason;
  }

  return { node, ask };
}

function summary(seen, started, word) {
  const seconds = (performance.now() - started) / 1000;
  const tokens = seen.usage?.completion_tokens ?? seen.tokens;
  const said = [];
  if (tokens) {
    const writing = seconds - (seen.first ?? 0) / 1000;
    said.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
    if (tokens > 1 && writing > 0) said.push(`${((tokens - 1) / writing).toFixed(1)}/s`);
    if (seen.first !== null) said.push(`first after ${milliseconds(seen.first)}`);
  }
  if (word === "stopped") said.push("stopped");
  else if (seen.end) said.push(ENDS[seen.end] ?? seen.end);
  return said.join(" · ");
}

// the base has no digest
function answeredBy(header) {
  const digests = header.split(",").map((each) => shortDigest(each.trim())).filter(Boolean);
  return digests.length > 0 && el("span", { class: "mono", title: header }, digests.join(" + "));
}
