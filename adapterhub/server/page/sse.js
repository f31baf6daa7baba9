// Server-sent events out of the body of a response.

/** Yield the data of each event; lines may be cut anywhere, also inside a character. */
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
    // a reader that leaves early lets the server free its row
    await reader.cancel().catch(() => {});
  }
}
