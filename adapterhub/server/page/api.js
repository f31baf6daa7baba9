// Calls of the server's API, and its errors as one class.

import { key } from "./key.js";
import { events } from "./sse.js";

/** What the server, or the way to it, refused. `status` is 0 where no answer came. */
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

/**
 * Post a request that is answered by server-sent events.
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
      throw new ApiError(chunk.error.message ?? "The answer broke off", {
        status: 500,
        code: chunk.error.code,
        requestId: response.headers.get("x-request-id"),
      });
    }
    yield chunk;
  }
  throw new ApiError("The connection closed before the answer was complete");
}

async function send(path, options) {
  const headers = { Accept: "application/json" };
  if (options.body) headers["Content-Type"] = "application/json";
  const held = key();
  if (held) headers.Authorization = `Bearer ${held}`;
  let response;
  try {
    // relative, so that the page also works behind a proxy that adds a prefix
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server did not answer");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // a proxy may answer with a page of its own
  }
  const wait = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new ApiError(error.message || `The server answered ${response.status}`, {
    status: response.status,
    code: error.code ?? null,
    requestId: response.headers.get("x-request-id"),
    retryAfter: Number.isFinite(wait) ? wait : null,
  });
}
