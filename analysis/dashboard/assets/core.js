// What every page uses: loading data, building elements, writing numbers, addresses.
//
// Data comes as scripts that call IB.put, since a page opened from a disk may not fetch. Text from runs is only ever put
// into text nodes and attributes, never into markup.
"use strict";

const IB = (() => {
  const stored = new Map();
  const waiting = new Map();

  /** Called by the data files. */
  function put(key, value) {
    stored.set(key, value);
  }

  /** Loads a data file once; its value, or an error that names it. */
  function load(key, file) {
    if (stored.has(key)) return Promise.resolve(stored.get(key));
    if (!waiting.has(key)) {
      waiting.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = () => stored.has(key)
          ? resolve(stored.get(key))
          : reject(new Error(`${file} holds no ${key}: build the site again`));
        script.onerror = () => {
          waiting.delete(key);
          reject(new Error(`${file} cannot be loaded: the site is not complete`));
        };
        document.head.append(script);
      }));
    }
    return waiting.get(key);
  }

  const overview = () => load("overview", "data/overview.js");
  const runs = () => load("runs", "data/runs.js");
  const quality = () => load("quality", "data/quality.js");
  const series = (id) => load(`series:${id}`, `data/series/${encodeURIComponent(id)}.js`);
  const run = (id) => load(`run:${id}`, `runs/${encodeURIComponent(id)}/run.js`);

  /** An element; attributes that are functions become listeners, children that are not nodes become text. */
  function el(tag, attributes = {}, ...children) {
    const svg = ["svg", "polyline", "circle"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    return fill(node, children);
  }

  /** Puts children into a node in place of those it has; lists are taken apart, what is nothing is left out. */
  function fill(node, children) {
    const present = (child) => child !== null && child !== undefined && child !== false && child !== "";
    node.replaceChildren(...children.flat(3).filter(present));
    return node;
  }

  const table = (heads, rows, attributes = {}) =>
    el("div", { class: "scroll" }, el("table", attributes,
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows)));

  // Numbers, as the reports write them: three significant digits and a unit.
  function significant(value) {
    if (value === 0) return "0";
    const exponent = Math.floor(Math.log10(Math.abs(Number(value.toExponential(2)))));
    return Number(value.toExponential(2)).toFixed(Math.min(9, Math.max(0, 2 - exponent)));
  }
  const steps = {
    "bytes/s": [8, [[1e12, "Tbit/s"], [1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"], [1, "bit/s"]]],
    "1/s": [1, [[1e9, "G/s"], [1e6, "M/s"], [1e3, "k/s"], [1, "/s"]]],
    "ns": [1, [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]]],
  };
  /** Factor and name of the unit in which `value` reads best. */
  function scale(value, unit) {
    if (!steps[unit]) return [1, unit];
    const [factor, names] = steps[unit];
    const size = Math.abs(value * factor);
    const [step, name] = names.find(([least]) => size >= least) || names[names.length - 1];
    return [factor / step, name];
  }
  function quantity(value, unit) {
    const [factor, name] = scale(value, unit);
    return `${significant(value * factor)} ${name}`;
  }
  function plusMinus(value, ci) {
    if (!ci || value === 0) return "";
    const half = Math.max(ci[1] - value, value - ci[0]) / Math.abs(value) * 100;
    return half < 0.1 ? "±<0.1 %" : `±${half.toFixed(1)} %`;
  }
  const ratio = (value) => `×${significant(value)}`;
  const time = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 16);
  const words = (name) => name.replaceAll("_", " ");

  /** `#/metric/abc?mode=strict` as {path: ["metric", "abc"], query}. */
  function address() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query || "") };
  }
  function href(path, query = {}) {
    const kept = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    const text = new URLSearchParams(kept).toString();
    return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
  }
  /** Changes the query of this page's address without leaving the page, and without an entry for every key pressed. */
  function setQuery(query) {
    history.replaceState(null, "", href(address().path, query));
  }

  function badge(verdict) {
    const signs = { better: "▲", worse: "▼", same: "=", inconclusive: "?" };
    return el("span", { class: `badge ${verdict}` }, el("span", { "aria-hidden": "true" }, `${signs[verdict] || ""} `), verdict);
  }

  /** A revision, linked where the site knows how. */
  function revision(id, url) {
    const clean = id.replace(/-dirty$/, "");
    const known = url && /^[0-9a-f]{7,}$/.test(clean);
    const text = el("code", {}, id);
    return known ? el("a", { href: url.replaceAll("{revision}", clean), rel: "noreferrer" }, text) : text;
  }

  return {
    put, overview, runs, quality, series, run, el, fill, table, scale, significant, quantity, plusMinus, ratio, time, words,
    address, href, setQuery, badge, revision, pages: {}, chart: null,
  };
})();
