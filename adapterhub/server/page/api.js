// Requests to the server's API, with its errors as one class.

import { key } from "./key.js";

/** Error response of the server; `status` is 0 if there was no response. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, requestId = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

export async function get(path, { signal } = {}) {
  return (await send(path, { method: "GET", signal })).json();
}

export async function post(path, body, { signal } = {}) {
  return (await send(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

/** Send a form, such as one with a file. */
export async function postForm(path, form, { signal } = {}) {
  return (await send(path, { method: "POST", body: form, signal })).json();
}

/**
 * Send a request whose response is a stream of server-sent events.
 * @returns {Promise<{digest: string, chunks: AsyncGenerator<Object>}>}
 */
export async function stream(path, body, { signal } = {}) {
  const response = await send(path, {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  return { digest: response.headers.get("x-adapter-digest") ?? "", chunks: chunks(response) };
}

async function* chunks(response) {
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) {
      throw new ApiError(chunk.error.message ?? "The response was interrupted", {
        status: 500,
        code: chunk.error.code,
        requestId: response.headers.get("x-request-id"),
      });
    }
    yield chunk;
  }
  throw new ApiError("The connection closed before the response was complete");
}

async function send(path, options) {
  const headers = { Accept: "application/json" };
  // the browser writes the header of a form itself
  if (typeof options.body === "string") headers["Content-Type"] = "application/json";
  const secret = key();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  let response;
  try {
    // relative, so that the page also works behind a proxy that adds a prefix
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server did not respond");
  }
  if (!response.ok) throw await responseError(response);
  return response;
}

async function responseError(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // a proxy may respond with a page of its own
  }
  const wait = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new ApiError(error.message || `The server responded with status ${response.status}`, {
    status: response.status,
    code: error.code ?? null,
    requestId: response.headers.get("x-request-id"),
    retryAfter: Number.isFinite(wait) ? wait : null,
  });
}

/** Yield the data of each server-sent event; chunks may end anywhere, even inside a character. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const text = line.endsWith("\r") ? line.slice(0, -1) : line;
        if (text === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (text.startsWith("data:")) {
          data.push(text.slice(text[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // stopping early lets the server cancel the request
    await reader.cancel().catch(() => {});
  }
}
