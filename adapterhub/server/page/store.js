// What the server said last: who asks, the backbone, and its adapters.

import { get } from "./api.js";

const TAGGING = "token-classification";
const ANSWERING = "question-answering";
const CLASSIFYING = "text-classification";
// these have heads too, and no view of their own
const OTHER_HEADS = new Set(["relation-extraction", "ranking"]);
const LOOKING = "image-classification";

export class Store extends EventTarget {
  me = null;
  backbone = null;
  /** Whether the backbone writes text; others only read. */
  generates = true;
  adapters = [];
  error = null;
  loaded = false;

  get manages() {
    return this.me?.role === "manage";
  }

  /** Ask for everything again; views hear "change" whether or not it worked. */
  async refresh() {
    try {
      const [me, models, adapters] = await Promise.all([
        get("v1/me"),
        get("v1/models"),
        get("v1/adapters"),
      ]);
      this.me = me;
      this.adapters = adapters.data;
      const base = backboneOf(models.data);
      this.backbone = base?.id ?? null;
      this.generates = base?.kind !== "encoder" && base?.kind !== "vision";
      this.error = null;
      this.loaded = true;
    } catch (error) {
      this.error = error;
      if (error.status === 401 || error.status === 403) Object.assign(this, NOTHING);
    }
    this.dispatchEvent(new Event("change"));
  }
}

const NOTHING = { me: null, backbone: null, generates: true, adapters: [], loaded: false };

export function tags(adapter) {
  return adapter.task === TAGGING;
}

export function classifies(adapter) {
  return adapter.task === CLASSIFYING;
}

/** Whether it reads pictures; then the backbone does, and all of its adapters. */
export function looks(adapter) {
  return adapter.task === LOOKING;
}

export function answers(adapter) {
  return adapter.task === ANSWERING;
}

/** Adapters of other tasks change what a decoder writes. */
export function writes(adapter) {
  return known(adapter) && !tags(adapter) && !classifies(adapter) && !answers(adapter) && !looks(adapter) && !OTHER_HEADS.has(adapter.task);
}

/** One that is still on its way from elsewhere has no digest yet. */
export function known(adapter) {
  return adapter.digest !== "";
}

// adapters name the backbone as their parent; it has none
function backboneOf(models) {
  return models.find((model) => !model.parent);
}
