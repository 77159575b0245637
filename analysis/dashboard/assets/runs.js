// The runs, newest first, with two boxes to compare; and what was left out.
"use strict";

(() => {
  const SHOWN = 100;

  IB.pages.runs = async function list(main, { query }) {
    const [runs, overview] = await Promise.all([IB.runs(), IB.overview()]);
    const order = runs.id.map((_, index) => index).sort((one, other) => runs.t[other] - runs.t[one]);
    const state = { q: query.get("q") || "", scenario: query.get("scenario") || "" };
    const marked = [];
    let shown = SHOWN;
    const tbody = IB.el("tbody", { id: "runs" });
    const status = IB.el("p", { class: "note", role: "status", id: "status" });
    const more = IB.el("button", { type: "button", click: () => { shown += SHOWN; fill(); } }, "Show more");
    const compare = IB.el("button", {
      type: "button", id: "compare", disabled: true,
      click: () => {
        // The older one is the base.
        const [a, b] = [...marked].sort((one, other) => runs.t[runs.id.indexOf(one)] - runs.t[runs.id.indexOf(other)]);
        location.hash = IB.href(["compare"], { a, b });
      },
    }, "Compare");

    function mark(id, on) {
      if (on) marked.push(id);
      else marked.splice(marked.indexOf(id), 1);
      if (marked.length > 2) {
        const box = document.getElementById(`mark-${marked.shift()}`);
        if (box) box.checked = false;
      }
      compare.disabled = marked.length !== 2;
    }
    function fill() {
      const wanted = state.q.toLowerCase().split(/\s+/);
      const found = order.filter((index) => {
        const text = `${runs.id[index]} ${runs.rev[index]} ${runs.machine[index]} ${runs.host[index]}`.toLowerCase();
        return (!state.scenario || runs.scenario[index] === state.scenario) && wanted.every((word) => text.includes(word));
      });
      tbody.replaceChildren(...found.slice(0, shown).map((index) => IB.el("tr", {},
        IB.el("td", {}, IB.el("input", {
          type: "checkbox", id: `mark-${runs.id[index]}`, checked: marked.includes(runs.id[index]),
          "aria-label": `compare ${runs.id[index]}`, change: (event) => mark(runs.id[index], event.target.checked),
        })),
        IB.el("th", { scope: "row" }, IB.el("a", { href: IB.href(["run", runs.id[index]]) }, IB.time(runs.t[index]))),
        IB.el("td", {}, runs.scenario[index]), IB.el("td", { title: runs.host[index] }, runs.machine[index]),
        IB.el("td", {}, IB.revision(runs.rev[index], overview.revision_url)),
        IB.el("td", {}, runs.partial[index] ? "partial" : ""))));
      status.textContent = `${found.length} of ${runs.id.length} runs`;
      more.hidden = found.length <= shown;
      IB.setQuery(state);
    }
    const changed = (name) => (event) => { state[name] = event.target.value; shown = SHOWN; fill(); };
    const scenarios = [...new Set(runs.scenario)].sort();
    IB.fill(main, [
      IB.el("h1", {}, "Runs"),
      IB.el("form", { class: "filters", submit: (event) => event.preventDefault() },
        IB.el("label", {}, "search", IB.el("input", { id: "search", type: "search", value: state.q, placeholder: "press / to search", input: changed("q") })),
        IB.el("label", {}, "scenario", IB.el("select", { id: "filter-scenario", change: changed("scenario") },
          [IB.el("option", { value: "" }, "all"), ...scenarios.map((name) => IB.el("option", { value: name, selected: name === state.scenario }, name))])),
        compare, IB.el("span", { class: "note" }, "Mark two runs to compare them.")),
      status,
      IB.el("div", { class: "scroll" }, IB.el("table", {},
        IB.el("thead", {}, IB.el("tr", {}, ["", "started (UTC)", "scenario", "machine", "revision", ""].map((head) => IB.el("th", { scope: "col" }, head)))), tbody)),
      more]);
    fill();
    return "Runs";
  };

  IB.pages.quality = async function quality(main) {
    const [data, overview] = await Promise.all([IB.quality(), IB.overview()]);
    const groups = Object.entries(data.groups);
    IB.fill(main, [
      IB.el("h1", {}, "Data quality"),
      IB.el("p", {}, `Runs used: ${overview.runs}. Left out: ${overview.skipped}. `,
        data.revisions_checked ? "Revisions were looked up in the repository." : "Revisions were not looked up: the site was built without --repo."),
      groups.length === 0 ? IB.el("p", {}, "Nothing to say: every file is as it was stored.") : "",
      groups.map(([name, group]) => IB.el("section", { id: `quality-${name}` },
        IB.el("h2", {}, `${IB.words(name.replaceAll("-", " "))}: ${group.count}`),
        IB.el("p", { class: "note" }, group.skipped ? "These runs are left out everywhere." : group.note ? "Worth knowing; nothing is lost." : "No run is left out because of these."),
        IB.table(["what", "why"], group.entries.map((entry) => IB.el("tr", {},
          IB.el("th", { scope: "row" }, IB.el("code", {}, entry.subject)), IB.el("td", {}, entry.message)))),
        group.count > group.entries.length ? IB.el("p", { class: "note" }, `and ${group.count - group.entries.length} more; iommu-bench store verify --json lists all`) : "")),
    ]);
    return "Data quality";
  };
})();
