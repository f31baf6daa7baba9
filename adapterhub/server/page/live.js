// Live statistics: throughput, latency, queue and cache.

import { get } from "./api.js";
import { makeChart } from "./chart.js";
import { byId, el, refill } from "./dom.js";
import { errorNotice } from "./notices.js";
import { bytes, measure, milliseconds } from "./format.js";

const EVERY_MS = 1000;
const HISTORY_S = 300;
const RETRY_MS = 5000;

const ago = (value) => (value === 0 ? "now" : `−${Math.round(-value)} s`);

export function makeLive(store) {
  const samples = [];
  const plots = [
    plot("Throughput", "tokens per second", measure, ["tokens", "tokens_per_second", 1]),
    plot("Latency", "median, milliseconds", measure, ["first token", "time_to_first_token_ms_p50", 2], ["one step", "step_ms_p50", 3]),
    plot("Requests", "at the same time", measure, ["running", "running", 1], ["waiting in the engine", "waiting", 2], ["queued", "queued", 4]),
    plot("KV cache", "percent used", measure, ["used", cachePercent, 3]),
  ];
  // counts how often the view was shown, so that an old response does not poll again
  let showing = 0;
  let active = false;
  let failed = false;

  function show() {
    if (!byId("live-charts").childElementCount) {
      byId("live-charts").append(...plots.map((each) => each.chart.node));
      draw();
    }
    active = true;
    showing += 1;
    poll(showing);
  }

  function hide() {
    active = false;
  }

  async function poll(mine) {
    if (!active || mine !== showing) return;
    let wait = EVERY_MS;
    if (document.visibilityState === "visible") {
      try {
        take(await get("v1/stats"));
        failed = false;
        refill(byId("live-notice"));
      } catch (error) {
        wait = RETRY_MS;
        if (!failed) refill(byId("live-notice"), errorNotice(error));
        failed = true;
      }
    }
    setTimeout(poll, wait, mine);
  }

  function take(stats) {
    const last = samples.at(-1);
    // a restarted server starts from 0
    if (last && stats.time < last.time) samples.length = 0;
    samples.push(stats);
    while (samples[0].time < stats.time - HISTORY_S) samples.shift();
    draw();
  }

  function draw() {
    const now = samples.at(-1);
    refill(byId("live-tiles"), tiles(now ?? {}).map(([name, value, note]) => el("div", { class: "tile" }, el("dt", {}, name), el("dd", { class: "num" }, value, note && el("span", { class: "muted small" }, ` ${note}`)))));
    for (const { chart, curves } of plots) {
      chart.update(curves.map(([name, field, hue]) => ({ name, hue, points: samples.map((each) => [each.time - now.time, read(each, field)]) })));
    }
  }

  store.addEventListener("change", () => {
    // a new key may have access
    if (failed && active && !store.error) show();
  });
  return { show, hide };
}

function plot(title, unit, y, ...curves) {
  return { chart: makeChart({ title, unit, x: ago, y }), curves };
}

function read(stats, field) {
  return typeof field === "function" ? field(stats) : stats[field];
}

function cachePercent({ cache_used: used, cache_size: size }) {
  return size > 0 ? (100 * used) / size : null;
}

function tiles(now) {
  const percent = cachePercent(now);
  return [
    ["Tokens per second", measure(now.tokens_per_second)],
    ["Time to first token, median", milliseconds(now.time_to_first_token_ms_p50)],
    ["Step, median", milliseconds(now.step_ms_p50)],
    ["Running", measure(now.running), waiting(now)],
    ["KV cache used", typeof percent === "number" ? `${percent.toFixed(0)} %` : "–"],
    ["Adapters on the device", measure(now.resident)],
    ["Adapters in host memory", measure(now.host_adapters), now.host_bytes ? bytes(now.host_bytes) : ""],
    ["Since the start of the server", measure(now.requests_total), Number.isFinite(now.tokens_total) ? `requests, ${measure(now.tokens_total)} tokens` : ""],
  ];
}

function waiting(now) {
  const count = (now.waiting ?? 0) + (now.queued ?? 0);
  return count ? `and ${count} waiting` : "";
}
