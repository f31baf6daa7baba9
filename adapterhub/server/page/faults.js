// What went wrong, in words that say what to do.

import { el } from "./dom.js";
import { openKeyDialog } from "./key.js";

const ADVICE = {
  0: ["The server can't be reached", "See whether adapterhub serve still runs, then try again."],
  400: ["The server can't answer this as asked", "Change what the message names, then try again."],
  401: ["A key is needed", "Enter a key that was made with adapterhub key create."],
  403: ["This key may not do that", "Use a key with the role or the adapters that this asks for."],
  404: ["There is no such adapter", "Choose one from the list, or mind the near names above."],
  409: ["The adapter is for another backbone", "Start a server with the backbone that it was trained on."],
  413: ["The text is larger than the server takes", "Send less at once."],
  422: ["The server can't answer this as asked", "Change what the message names, then try again."],
  429: ["The server is busy", "Wait a little, then try again."],
  503: ["The server takes no requests now", "It starts or stops. Try again in some seconds."],
};
const FAILED = ["The server failed", "Its log tells why; look for the request id."];

/** Title and advice for an error. */
export function explain(error) {
  const [title, advice] = ADVICE[error.status] ?? FAILED;
  if (error.status === 429 && error.retryAfter !== null) {
    const seconds = Math.max(1, Math.ceil(error.retryAfter));
    return { title, advice: `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.` };
  }
  return { title, advice };
}

/** An error as one line, for a dialog or a status. */
export function oneLine(error) {
  const { title, advice } = explain(error);
  return `${title}: ${error.message}. ${advice}`.replace("..", ".");
}

/**
 * A notice that shows an error, with a button that helps.
 * @param {Function|null} again called by "Try again"
 */
export function faultNotice(error, again = null) {
  const { title, advice } = explain(error);
  const keyHelps = error.status === 401 || error.status === 403;
  return el(
    "div",
    { class: error.status === 429 || error.status === 503 ? "notice warn" : "notice bad", role: "alert" },
    el(
      "div",
      { class: "words" },
      el("strong", {}, title),
      el("span", {}, error.message, " "),
      el("span", {}, advice),
      error.requestId && el("div", { class: "small" }, "Request ", el("code", {}, error.requestId)),
    ),
    keyHelps && el("button", { type: "button", onclick: openKeyDialog }, "Enter a key"),
    again && !keyHelps && el("button", { type: "button", onclick: again }, "Try again"),
  );
}

/** A place where there is nothing yet, and how to change that. */
export function empty(title, ...paragraphs) {
  return el(
    "div",
    { class: "empty" },
    el("h2", {}, title),
    paragraphs.map((parts) => el("p", {}, parts)),
  );
}
