// One recording, uploaded or recorded: its transcript with times, or its classes.

import { post, postForm } from "./api.js";
import { byId, el, refill } from "./dom.js";
import { shortDigest } from "./format.js";
import { errorNotice } from "./notices.js";
import { bars } from "./results.js";
import { classifiesAudio, isLocal, transcribes } from "./store.js";
import { shortTime, srt, vtt } from "./subtitles.js";
import { canRecord, readable, record } from "./waveform.js";

const TICK_MS = 200;

export function makeAudio(store) {
  const form = byId("audio-form");
  const player = byId("audio-player");
  const model = byId("audio-model");
  const recordButton = byId("audio-record");
  let file = null;
  let address = null;
  let recorder = null;
  let busy = false;
  let drawnState = null;
  const usable = () => store.adapters.filter((each) => isLocal(each) && (transcribes(each) || classifiesAudio(each)));

  function show(params) {
    draw();
    const ref = params?.get("ref");
    if (ref && usable().some((each) => each.ref === ref)) model.value = ref;
    showFields();
  }

  function draw() {
    byId("nav-audio").hidden = !store.readsAudio;
    if (!store.loaded) return;
    const state = JSON.stringify([store.transcriber, usable().map((each) => each.ref)]);
    if (state === drawnState) return;
    drawnState = state;
    const before = model.value;
    const base = store.transcriber ? [el("option", { value: store.transcriber }, `${store.transcriber} (base model, transcript)`)] : [];
    refill(model, base, usable().map((each) => el("option", { value: each.ref }, `${each.ref} (${transcribes(each) ? "transcript" : "classes"})`)));
    if ([...model.options].some((each) => each.value === before)) model.value = before;
    byId("audio-none").hidden = model.options.length > 0;
    byId("audio-go").disabled = !model.options.length;
    showFields();
  }

  function showFields() {
    byId("audio-language").closest("label").hidden = Boolean(chosenAdapter() && classifiesAudio(chosenAdapter()));
  }

  function chosenAdapter() {
    return store.adapters.find((each) => each.ref === model.value);
  }

  function take(found) {
    file = found;
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    player.src = address;
    player.hidden = false;
    byId("audio-name").textContent = file.name;
    refill(byId("audio-notice"));
    refill(byId("audio-result"));
  }

  function fail(error, again = null) {
    const known = "status" in error;
    refill(byId("audio-notice"), known ? errorNotice(error, again) : el("p", { class: "notice bad", role: "alert" }, error.message));
  }

  async function toggleRecording() {
    if (recorder) {
      const current = recorder;
      recorder = null;
      showRecording();
      try {
        take(await current.stop());
        byId("audio-file").value = "";
      } catch (error) {
        fail(error);
      }
      return;
    }
    try {
      recorder = await record();
    } catch (error) {
      fail(new Error(`The microphone can't be used: ${error.message}. Allow it for this page, or choose a file.`));
      return;
    }
    showRecording();
    const started = performance.now();
    const tick = setInterval(() => {
      if (!recorder) clearInterval(tick);
      else byId("audio-name").textContent = `recording ${shortTime((performance.now() - started) / 1000)}`;
    }, TICK_MS);
  }

  function showRecording() {
    recordButton.textContent = recorder ? "Stop recording" : "Record";
    recordButton.setAttribute("aria-pressed", String(Boolean(recorder)));
  }

  async function run() {
    if (busy || recorder) return;
    if (!file) {
      refill(byId("audio-notice"), el("p", { class: "notice warn", role: "alert" }, "Choose a file, or record one."));
      return;
    }
    const adapter = chosenAdapter();
    busy = true;
    byId("audio-go").disabled = true;
    byId("audio-result").setAttribute("aria-busy", "true");
    try {
      const sent = await readable(file);
      const made = adapter && classifiesAudio(adapter) ? await classified(sent) : await transcribed(sent);
      refill(byId("audio-notice"));
      refill(byId("audio-result"), made);
    } catch (error) {
      refill(byId("audio-result"));
      fail(error, run);
    } finally {
      busy = false;
      byId("audio-go").disabled = false;
      byId("audio-result").setAttribute("aria-busy", "false");
    }
  }

  async function classified(sent) {
    const items = [{ model: model.value, input: { audio: await dataUrl(sent) } }];
    const [found] = (await post("v1/classify", { items })).data;
    return panel(found.model, found.digest, bars(found));
  }

  async function transcribed(sent) {
    const body = new FormData();
    body.append("file", sent, sent.name);
    body.append("model", model.value);
    body.append("response_format", "verbose_json");
    const language = byId("audio-language").value.trim();
    if (language) body.append("language", language);
    const found = await postForm("v1/audio/transcriptions", body);
    const segments = found.segments ?? [];
    return panel(model.value, chosenAdapter()?.digest, transcript(found, segments), downloads(found, segments));
  }

  function transcript(found, segments) {
    if (!segments.length) return el("p", {}, found.text || "Nothing was said.");
    // a name such as "english" is no code
    const lang = /^[a-z]{2,3}$/.test(found.language ?? "") ? found.language : null;
    const list = el("ol", { class: "segments", lang }, segments.map(segment));
    player.ontimeupdate = () => {
      const at = player.currentTime;
      for (const [index, item] of [...list.children].entries()) {
        const { start, end } = segments[index];
        const button = item.firstElementChild;
        if (start <= at && at < end) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
      }
    };
    return list;
  }

  function segment({ start, end, text }) {
    const play = () => {
      player.currentTime = start;
      player.play();
    };
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", onclick: play, title: `Play from ${shortTime(start)}` },
        el("span", { class: "num muted" }, `${shortTime(start)}–${shortTime(end)}`),
        el("span", {}, text.trim()),
      ),
    );
  }

  function downloads(found, segments) {
    const name = file.name.replace(/\.[^.]*$/, "");
    const kinds = [["txt", "text/plain", `${found.text}\n`]];
    if (segments.length) kinds.push(["srt", "application/x-subrip", srt(segments)], ["vtt", "text/vtt", vtt(segments)]);
    return el(
      "p",
      { class: "row-actions" },
      kinds.map(([kind, type, text]) =>
        el("a", { class: "button", download: `${name}.${kind}`, href: URL.createObjectURL(new Blob([text], { type })) }, `Download ${kind}`),
      ),
    );
  }

  byId("audio-file").addEventListener("change", (event) => {
    const [chosen] = event.target.files;
    if (chosen) take(chosen);
  });
  recordButton.addEventListener("click", toggleRecording);
  recordButton.disabled = !canRecord();
  byId("audio-insecure").hidden = canRecord();
  model.addEventListener("change", showFields);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  store.addEventListener("change", draw);
  return {
    show,
    hide: () => {
      player.pause();
      if (recorder) toggleRecording();
    },
  };
}

function panel(name, digest, ...parts) {
  return el(
    "article",
    { class: "panel result", "aria-label": name },
    el(
      "header",
      {},
      el("h2", { class: "mono" }, name),
      digest && el("span", { class: "muted small mono", title: digest }, shortDigest(digest)),
    ),
    parts,
  );
}

/** Read a file as a data: URL of a type that the server knows as audio. */
async function dataUrl(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  // in parts, as a call takes a limited number of arguments
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return `data:${file.type.startsWith("audio/") ? file.type : "audio/wav"};base64,${btoa(text)}`;
}
