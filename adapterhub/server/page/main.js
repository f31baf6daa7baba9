// Entry point: the views, the address, the API key and the connection.

import { makeAdapters } from "./adapters.js";
import { makeAudio } from "./audio.js";
import { byId, refill } from "./dom.js";
import { errorNotice } from "./notices.js";
import { bindKeyDialog } from "./key.js";
import { makeLabel } from "./label.js";
import { makeLive } from "./live.js";
import { makePlayground } from "./playground.js";
import { makeReport } from "./report.js";
import { Store } from "./store.js";

const REFRESH_MS = 5000;

const store = new Store();
const views = {
  adapters: makeAdapters(store),
  playground: makePlayground(store),
  label: makeLabel(store),
  audio: makeAudio(store),
  live: makeLive(store),
  report: makeReport(store),
};
let shown = null;

function route() {
  const [name, query = ""] = location.hash.slice(1).split("?");
  // the skip link names an element, not a view
  if (name === "main" && shown) return;
  const wanted = Object.hasOwn(views, name) ? name : "adapters";
  const moved = shown !== null && shown !== wanted;
  if (shown && moved) views[shown].hide?.();
  for (const each of Object.keys(views)) byId(`view-${each}`).hidden = each !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  shown = wanted;
  const title = byId(`title-${wanted}`);
  document.title = `${title.textContent} · adapterhub`;
  views[wanted].show(new URLSearchParams(query));
  if (moved) {
    title.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function showConnection() {
  const { error, backbone, me } = store;
  const status = byId("connection");
  status.dataset.state = error ? "down" : "up";
  status.textContent = error ? (isForbidden(error) ? "no access" : "not connected") : (backbone ?? "connected");
  byId("key-open").textContent = me?.key_id ? `Key ${me.key_id}` : "API key";
  // a repeated error is shown once
  const message = error ? `${error.status} ${error.message}` : "";
  const notice = byId("app-notice");
  if (notice.dataset.message === message) return;
  notice.dataset.message = message;
  refill(notice, error && errorNotice(error, () => store.refresh()));
}

function isForbidden(error) {
  return error.status === 401 || error.status === 403;
}

for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
bindKeyDialog(() => store.refresh());
store.addEventListener("change", showConnection);
addEventListener("hashchange", route);
setInterval(() => {
  // the residency changes, and a server may come back
  const quiet = document.visibilityState === "visible" && !document.querySelector("dialog[open]");
  const blocked = store.error && isForbidden(store.error);
  if (quiet && !blocked && (shown === "adapters" || store.error)) store.refresh();
}, REFRESH_MS);

route();
store.refresh();
