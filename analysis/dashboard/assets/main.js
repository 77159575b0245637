// Which page the address means; keys that work everywhere; light and dark.
"use strict";

(() => {
  const main = document.getElementById("main");
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let turn = 0;

  IB.render = async function render() {
    const address = IB.address();
    const page = IB.pages[address.path[0] || "overview"];
    const own = ++turn;
    IB.chart = null;
    for (const link of document.querySelectorAll("header nav a")) {
      const here = link.hash.split("/")[1] === (address.path[0] || "");
      if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    // Pages draw into a box of their own, so that a slow one that was left cannot draw over the next.
    const box = IB.el("div", {});
    main.replaceChildren(box);
    try {
      if (!page) throw new Error(`there is no page ${address.path[0]}`);
      const title = await page(box, address);
      if (own === turn) document.title = `${title} · iommu-bench`;
    } catch (error) {
      box.replaceChildren(IB.el("h1", {}, "Not here"), IB.el("p", { class: "alert" }, error.message), IB.el("p", {}, IB.el("a", { href: "#/" }, "Overview")));
      if (own === turn) document.title = "Not here · iommu-bench";
    }
    if (own === turn) {
      document.body.dataset.ready = location.hash || "#/";
      performance.mark("ready");
    }
  };

  function isDark() {
    return document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : dark.matches;
  }
  function label() {
    button.textContent = isDark() ? "Light" : "Dark";
  }
  function remember(theme) {
    try { localStorage.setItem("theme", theme); } catch { /* a browser may forbid it; the choice then ends with the page */ }
  }
  function remembered() {
    try { return localStorage.getItem("theme"); } catch { return null; }
  }

  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    remember(document.documentElement.dataset.theme);
    label();
    IB.render();
  });
  dark.addEventListener("change", () => { label(); IB.render(); });
  addEventListener("hashchange", () => { IB.render(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => { if (IB.chart) IB.chart.setSize({ width: Math.max(300, IB.chart.root.parentElement.clientWidth), height: 340 }); }, 100);
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const places = { o: "#/", r: "#/runs", c: "#/compare", q: "#/quality" };
    const search = document.getElementById("search");
    if (event.key === "/" && search) {
      search.focus();
      event.preventDefault();
    } else if (places[event.key]) location.hash = places[event.key];
  });

  const theme = remembered();
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  label();
  IB.overview().then((data) => {
    document.getElementById("faults").textContent = data.faults ? ` (${data.faults})` : "";
    document.getElementById("footer").textContent = `${data.runs} runs · built ${data.generated_at.slice(0, 16).replace("T", " ")} UTC by iommu-bench ${data.tool} · keys: / search, o overview, r runs, c compare, q quality`;
  }, () => { /* the page itself says so */ });
  IB.render();
})();
