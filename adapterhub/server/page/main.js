// Start: the views, the address bar, the key, and the connection.

import { makeAdapters } from "./adapters.js";
import { byId, refill } from "./dom.js";
import { faultNotice } from "./faults.js";
import { bindKeyDialog } from "./key.js";
import { makeLabel } from "./label.js";
import { makeLive } from "./live.js";
import { makePlayground } from "./playground.js";
import { makeReport } from "./report.js";
import { Store } from "./store.js";

const AGAIN_MS = 5000;

const store = new Store();
const views = {
  adapters: makeAdapters(store),
  playground: makePlayground(store),
  label: makeLabel(store),
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
  const place = byId("connection");
  place.dataset.state = error ? "down" : "up";
  place.textContent = error ? (refused(error) ? "no access" : "not reached") : (backbone ?? "connected");
  byId("key-open").textContent = me?.key_id ? `Key ${me.key_id}` : "API key";
  // said once, not with every try
  const said = error ? `${error.status} ${error.message}` : "";
  const notice = byId("app-notice");
  if (notice.dataset.said === said) return;
  notice.dataset.said = said;
  refill(notice, error && faultNotice(error, () => store.refresh()));
}

function refused(error) {
  return error.status === 401 || error.status === 403;
}

for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
bindKeyDialog(() => store.refresh());
store.addEventListener("change", showConnection);
addEventListener("hashchange", route);
setInterval(() => {
  // residency changes by itself; a server that comes back is seen
  const quiet = document.visibilityState === "visible" && !document.querySelector("dialog[open]");
  const blocked = store.error && refused(store.error);
  if (quiet && !blocked && (shown === "adapters" || store.error)) store.refresh();
}, AGAIN_MS);

route();
store.refresh();
