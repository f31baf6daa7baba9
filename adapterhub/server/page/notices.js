// Notices of errors with advice, and of empty lists.

import { el } from "./dom.js";
import { openKeyDialog } from "./key.js";

const ADVICE = {
  0: ["The server can't be reached", "Check that adapterhub serve is running, then try again."],
  400: ["The request is invalid", "Correct the field that the message names, then try again."],
  401: ["An API key is required", "Enter a key created with adapterhub key create."],
  403: ["The API key does not allow this", "Use a key with the required role or adapters."],
  404: ["There is no such adapter", "Choose one from the list, or one of the suggested names."],
  409: ["The adapter is for another backbone", "Start a server with the backbone it was trained on."],
  413: ["The request is too large", "Send a smaller input."],
  422: ["The adapter can't be used", "Use another version, or train it again."],
  429: ["The server is busy", "Wait a moment, then try again."],
  503: ["The server accepts no requests now", "It is starting or shutting down. Try again in a few seconds."],
};
const SERVER_ERROR = ["The server failed", "Look for the request id in its log."];

/** Return the title and the advice for an error. */
export function explain(error) {
  const [title, advice] = ADVICE[error.status] ?? SERVER_ERROR;
  if (error.status === 429 && error.retryAfter !== null) {
    const seconds = Math.max(1, Math.ceil(error.retryAfter));
    return { title, advice: `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.` };
  }
  return { title, advice };
}

/** Describe an error in one line, for a dialog or a status. */
export function oneLine(error) {
  const { title, advice } = explain(error);
  return `${title}: ${error.message}. ${advice}`.replace("..", ".");
}

/**
 * Make a notice of an error, with a button to fix or repeat it.
 * @param {Function|null} again called by "Try again"
 */
export function errorNotice(error, again = null) {
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
    keyHelps && el("button", { type: "button", onclick: openKeyDialog }, "Enter an API key"),
    again && !keyHelps && el("button", { type: "button", onclick: again }, "Try again"),
  );
}

/** Make the placeholder of an empty list, with how to fill it. */
export function empty(title, ...paragraphs) {
  return el(
    "div",
    { class: "empty" },
    el("h2", {}, title),
    paragraphs.map((parts) => el("p", {}, parts)),
  );
}
