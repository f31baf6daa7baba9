// The caller, the backbone and the adapters, as the server last reported them.

import { get } from "./api.js";

const TOKEN_CLASSIFICATION = "token-classification";
const QUESTION_ANSWERING = "question-answering";
const TEXT_CLASSIFICATION = "text-classification";
// tasks with heads that have no view of their own
const AUDIO_CLASSIFICATION = "audio-classification";
const SPEECH_RECOGNITION = "speech-recognition";
const OTHER_HEADS = new Set(["relation-extraction", "ranking", AUDIO_CLASSIFICATION, SPEECH_RECOGNITION]);
const IMAGE_CLASSIFICATION = "image-classification";
// kinds of backbones that generate no text
const SILENT_KINDS = new Set(["encoder", "vision", "audio"]);

export class Store extends EventTarget {
  me = null;
  backbone = null;
  /** Whether the backbone generates text; of several the first that does is the backbone. */
  generates = true;
  /** Whether a backbone reads recordings, and the one that writes transcripts without an adapter. */
  readsAudio = false;
  transcriber = null;
  adapters = [];
  error = null;
  loaded = false;

  get manages() {
    return this.me?.role === "manage";
  }

  /** Fetch everything again; "change" is dispatched even if that fails. */
  async refresh() {
    try {
      const [me, models, adapters] = await Promise.all([
        get("v1/me"),
        get("v1/models"),
        get("v1/adapters"),
      ]);
      this.me = me;
      this.adapters = adapters.data;
      const bases = models.data.filter((model) => !model.parent);
      const base = bases.find(({ kind }) => !SILENT_KINDS.has(kind)) ?? bases[0];
      this.backbone = base?.id ?? null;
      this.generates = !SILENT_KINDS.has(base?.kind);
      this.readsAudio = bases.some(({ kind }) => kind === "audio");
      this.transcriber = bases.find(({ transcribes }) => transcribes)?.id ?? null;
      this.error = null;
      this.loaded = true;
    } catch (error) {
      this.error = error;
      if (error.status === 401 || error.status === 403) Object.assign(this, NOTHING);
    }
    this.dispatchEvent(new Event("change"));
  }
}

const NOTHING = { me: null, backbone: null, generates: true, readsAudio: false, transcriber: null, adapters: [], loaded: false };

export function tags(adapter) {
  return adapter.task === TOKEN_CLASSIFICATION;
}

export function classifies(adapter) {
  return adapter.task === TEXT_CLASSIFICATION;
}

/** Whether an adapter reads images, as do all adapters of its backbone then. */
export function readsImages(adapter) {
  return adapter.task === IMAGE_CLASSIFICATION;
}

export function classifiesAudio(adapter) {
  return adapter.task === AUDIO_CLASSIFICATION;
}

export function transcribes(adapter) {
  return adapter.task === SPEECH_RECOGNITION;
}

export function answers(adapter) {
  return adapter.task === QUESTION_ANSWERING;
}

/** Whether an adapter changes the text that a decoder generates. */
export function generatesText(adapter) {
  return isLocal(adapter) && !tags(adapter) && !classifies(adapter) && !answers(adapter) && !readsImages(adapter) && !OTHER_HEADS.has(adapter.task);
}

/** Whether an adapter is available; one that is being downloaded has no digest yet. */
export function isLocal(adapter) {
  return adapter.digest !== "";
}
