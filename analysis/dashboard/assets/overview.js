// Every history: filters in the address, a sparkline and the last verdict each.
"use strict";

(() => {
  const SHOWN = 200;
  const filters = ["scenario", "machine", "endpoint", "mode", "figure", "verdict", "host"];
  const kinds = { metric: "metrics", latency: "latencies", count: "counts" };

  IB.pages.overview = async function overview(main, { query }) {
    const data = await IB.overview();
    const state = Object.fromEntries([...filters, "q"].map((name) => [name, query.get(name) || ""]));
    // Metrics come first; a filter on the figure finds the others by name.
    state.kind = query.get("kind") || "metric";
    let shown = SHOWN;
    // Rows of different hosts or builds look alike without this.
    const several = new Set(data.series.map((row) => row.host)).size > 1;

    const tbody = IB.el("tbody", { id: "histories" });
    const status = IB.el("p", { class: "note", role: "status", id: "status" });
    const more = IB.el("button", { type: "button", click: () => { shown += SHOWN; fill(); } }, "Show more");

    function fits(row) {
      const text = `${row.scenario} ${row.case} ${row.figure} ${row.host}`.toLowerCase();
      return filters.every((name) => !state[name] || String(row[name]) === state[name])
        && (state.kind === "all" || row.kind === state.kind)
        && state.q.toLowerCase().split(/\s+/).every((word) => text.includes(word));
    }
    function fill() {
      const rows = data.series.filter(fits);
      tbody.replaceChildren(...rows.slice(0, shown).map((row) => tableRow(row, several)));
      status.textContent = rows.length === 0
        ? "No history fits these filters."
        : `${rows.length} of ${data.series.length} histories over ${data.runs} runs`;
      more.hidden = rows.length <= shown;
      const { kind, ...rest } = state;
      IB.setQuery({ ...rest, kind: kind === "metric" ? "" : kind });
    }
    function changed(name, value) {
      state[name] = value;
      shown = SHOWN;
      fill();
    }
    function choice(name) {
      const values = [...new Set(data.series.map((row) => String(row[name])))].sort();
      if (state[name] && !values.includes(state[name])) values.push(state[name]);
      const options = [IB.el("option", { value: "" }, "all"), ...values.map((value) =>
        IB.el("option", { value, selected: value === state[name] }, IB.words(value)))];
      return IB.el("label", {}, name,
        IB.el("select", { id: `filter-${name}`, change: (event) => changed(name, event.target.value) }, options));
    }

    const search = IB.el("input", {
      id: "search", type: "search", value: state.q, placeholder: "press / to search",
      input: (event) => changed("q", event.target.value),
    });
    const kind = IB.el("select", { id: "filter-kind", change: (event) => changed("kind", event.target.value) },
      [...Object.entries(kinds), ["all", "everything"]].map(([value, text]) =>
        IB.el("option", { value, selected: value === state.kind }, text)));
    const reset = IB.el("button", { type: "button", id: "reset", click: () => { location.hash = "#/"; IB.render(); } }, "Reset");

    IB.fill(main, [
      IB.el("h1", {}, "Histories"),
      data.faults ? IB.el("p", { class: "alert" }, data.skipped ? `Left out: ${data.skipped} of ${data.runs + data.skipped} runs. See ` : "Not everything in the store is sound. See ", IB.el("a", { href: "#/quality" }, "data quality"), ".") : "",
      IB.el("form", { class: "filters", submit: (event) => event.preventDefault() },
        IB.el("label", {}, "search", search), IB.el("label", {}, "kind", kind), filters.map(choice), reset),
      status,
      IB.el("div", { class: "scroll" }, IB.el("table", { class: "histories" },
        IB.el("thead", {}, IB.el("tr", {}, ["figure", "scenario", "machine", "endpoint", "mode", "case", "newest", "", "runs", "verdict"]
          .map((head) => IB.el("th", { scope: "col" }, head)))), tbody)),
      more,
      IB.el("p", { class: "note" }, `Verdict: the last change point among the newest ${data.recent} values, or none. A history in which nothing changed shows a change with a probability of at most ${data.significance * 100} %. Change points say where to look; a verdict between two builds comes from paired runs.`),
    ]);
    fill();
    return "Histories";
  };

  function tableRow(row, several) {
    const title = row.variant ? `${row.case} (parameters ${row.variant + 1})` : row.case;
    return IB.el("tr", {},
      IB.el("th", { scope: "row" }, IB.el("a", { href: IB.href(["metric", row.id]) }, IB.words(row.figure)),
        row.label ? IB.el("small", {}, ` ${row.label}`) : ""),
      IB.el("td", {}, row.scenario), IB.el("td", {}, row.machine, several ? IB.el("small", {}, ` ${row.host}`) : ""), IB.el("td", {}, row.endpoint),
      IB.el("td", {}, IB.el("span", { class: `swatch ${row.mode}` }), row.mode), IB.el("td", { class: "case" }, title),
      IB.el("td", { class: "figure" }, IB.quantity(row.last, row.unit), " ", IB.el("small", {}, IB.plusMinus(row.last, row.last_ci))),
      IB.el("td", {}, IB.spark(row.spark)), IB.el("td", { class: "figure" }, String(row.n)),
      IB.el("td", {}, IB.badge(row.verdict), row.change ? IB.el("small", {}, ` ${IB.ratio(row.change)}`) : ""));
  }
})();
