// An answer that streams in.

import { stream } from "./api.js";
import { el, refill } from "./dom.js";
import { errorNotice } from "./notices.js";
import { milliseconds, shortDigest } from "./format.js";

const FINISH_REASONS = { stop: "complete", length: "stopped at max tokens", content_filter: "filtered", tool_calls: "calls a tool" };

/** Make the element of an answer. */
export function makeAnswer() {
  const text = document.createTextNode("");
  const wait = el("span", { class: "muted" }, "No answer yet.");
  // aria-busy makes a screen reader wait until the answer is complete
  const output = el("div", { class: "answer", "aria-live": "polite", "aria-busy": "false", tabindex: "0", role: "region", "aria-label": "Text of the answer" }, wait, text);
  const notice = el("div");
  const facts = el("p", { class: "facts muted small num" });
  const node = el("div", { class: "answer-part" }, output, notice, facts);

  /** Send a request and show the stream. Resolves to a word for the status, never rejects. */
  async function request({ path, body, signal, again }) {
    const started = performance.now();
    const seen = { first: null, tokens: 0, usage: null, end: null, digest: "" };
    text.data = "";
    wait.textContent = "Waiting for the first token…";
    wait.hidden = false;
    output.setAttribute("aria-busy", "true");
    // the button of the notice is removed
    if (notice.contains(document.activeElement)) output.focus({ preventScroll: true });
    refill(notice);
    facts.textContent = "";
    let outcome = "done";
    try {
      const { digest, chunks } = await stream(path, body, { signal });
      seen.digest = digest;
      for await (const chunk of chunks) take(chunk, seen, started);
    } catch (error) {
      outcome = error.name === "AbortError" ? "stopped" : "failed";
      if (outcome === "failed") refill(notice, errorNotice(error, again));
    }
    wait.hidden = text.data !== "" || outcome === "failed";
    wait.textContent = outcome === "stopped" ? "Stopped before the first token." : "The answer is empty.";
    output.setAttribute("aria-busy", "false");
    refill(facts, document.createTextNode(summary(seen, started, outcome)), digestsOf(seen.digest));
    return outcome;
  }

  function take(chunk, seen, started) {
    if (chunk.usage) seen.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const content = choice.delta?.content ?? choice.text ?? "";
    if (content) {
      seen.first ??= performance.now() - started;
      seen.tokens += 1;
      wait.hidden = true;
      const stuck = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
      text.appendData(content);
      if (stuck) output.scrollTop = output.scrollHeight;
    }
    if (choice.finish_reason) seen.end = choice.finish_reason;
  }

  return { node, request };
}

function summary(seen, started, outcome) {
  const seconds = (performance.now() - started) / 1000;
  const tokens = seen.usage?.completion_tokens ?? seen.tokens;
  const parts = [];
  if (tokens) {
    const writing = seconds - (seen.first ?? 0) / 1000;
    parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
    if (tokens > 1 && writing > 0) parts.push(`${((tokens - 1) / writing).toFixed(1)}/s`);
    if (seen.first !== null) parts.push(`first token after ${milliseconds(seen.first)}`);
  }
  if (outcome === "stopped") parts.push("stopped");
  else if (seen.end) parts.push(FINISH_REASONS[seen.end] ?? seen.end);
  return parts.join(" · ");
}

// the base model has no digest
function digestsOf(header) {
  const digests = header.split(",").map((each) => shortDigest(each.trim())).filter(Boolean);
  return digests.length > 0 && el("span", { class: "mono", title: header }, digests.join(" + "));
}
