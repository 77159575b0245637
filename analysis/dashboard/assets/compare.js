// Any two runs, case by case: what both have, and what only one has.
"use strict";

(() => {
  const OFFERED = 300;

  IB.pages.compare = async function compare(main, { query }) {
    const runs = await IB.runs();
    const [a, b] = [query.get("a") || "", query.get("b") || ""];
    const newest = runs.id.map((_, index) => index).sort((one, other) => runs.t[other] - runs.t[one]).slice(0, OFFERED);
    const offers = IB.el("datalist", { id: "run-ids" }, newest.map((index) =>
      IB.el("option", { value: runs.id[index] }, `${IB.time(runs.t[index])} ${runs.rev[index]}`)));
    const field = (name, value) => IB.el("label", {}, name === "a" ? "base (A)" : "head (B)",
      IB.el("input", { id: `run-${name}`, list: "run-ids", value, placeholder: "id of a run", autocomplete: "off", size: 44 }));
    const form = IB.el("form", {
      class: "filters",
      submit: (event) => {
        event.preventDefault();
        const value = (name) => document.getElementById(`run-${name}`).value.trim();
        location.hash = IB.href(["compare"], { a: value("a"), b: value("b") });
      },
    }, field("a", a), field("b", b), offers, IB.el("button", { type: "submit" }, "Compare"),
    a && b ? IB.el("a", { href: IB.href(["compare"], { a: b, b: a }), id: "swap" }, "Swap") : "");
    const result = IB.el("div", { id: "comparison" });
    IB.fill(main, [IB.el("h1", {}, "Compare two runs"), form, result]);
    if (!a || !b) {
      result.append(IB.el("p", {}, "Choose two runs here, or mark two in the ", IB.el("a", { href: "#/runs" }, "list of runs"), "."));
      return "Compare";
    }
    const unknown = [a, b].filter((id) => !runs.id.includes(id));
    if (unknown.length) {
      result.append(IB.el("p", { class: "alert" }, `There is no run ${unknown.join(" and no run ")} in this site.`));
      return "Compare";
    }
    const [base, head] = (await Promise.all([IB.run(a), IB.run(b)])).map((page) => page.run);
    result.append(...comparison(base, head));
    return "Compare";
  };

  function comparison(base, head) {
    const overview = (run) => IB.el("li", {}, IB.el("a", { href: IB.href(["run", run.run_id]) }, run.run_id), ` · ${run.machine} · `, IB.el("code", {}, run.revision));
    const ids = new Set([...base.cases, ...head.cases].map((item) => item.id));
    const find = (run, id) => run.cases.find((item) => item.id === id);
    const sections = [];
    for (const id of ids) {
      const [one, other] = [find(base, id), find(head, id)];
      if (!one || !other) {
        sections.push(IB.el("section", {}, IB.el("h2", {}, id), IB.el("p", {}, `only in ${one ? "A" : "B"}`)));
        continue;
      }
      const params = Object.keys({ ...one.params, ...other.params }).filter((name) =>
        one.params[name] !== undefined && other.params[name] !== undefined && one.params[name] !== other.params[name]);
      sections.push(IB.el("section", {}, IB.el("h2", {}, IB.el("span", { class: `swatch ${one.mode}` }), id),
        params.length ? IB.el("p", { class: "alert" }, `Not like with like: ${params.map((name) => `${name} ${one.params[name]} / ${other.params[name]}`).join(", ")}`) : "",
        IB.table(["figure", "A", "B", "B / A", ""], rows(one, other))));
    }
    return [
      IB.el("ul", {}, overview(base), overview(head)),
      IB.el("p", { class: "note" }, "These runs were not measured side by side, so the machine may have changed between them. Intervals that are apart are marked; a verdict comes from iommu-bench compare or ab."),
      base.scenario === head.scenario ? "" : IB.el("p", { class: "alert" }, `Different scenarios: ${base.scenario} and ${head.scenario}.`),
      ...sections,
    ];
  }

  function rows(one, other) {
    const theirs = new Map(IB.figures(other).map((figure) => [figure.name, figure]));
    const cell = (figure) => (!figure ? "n/a: not measured" : figure.reason ? `n/a: ${figure.reason}` : `${IB.figure(figure)} ${IB.plusMinus(figure.value, figure.ci)}`);
    const row = (name, base, head) => {
      const both = base && head && !base.reason && !head.reason;
      const ratio = both && base.value !== 0 ? IB.ratio(head.value / base.value) : both && base.value === head.value ? "=" : "n/a";
      return IB.el("tr", {}, IB.el("th", { scope: "row" }, IB.words(name)), IB.el("td", { class: "figure" }, cell(base)),
        IB.el("td", { class: "figure" }, cell(head)), IB.el("td", { class: "figure" }, ratio), IB.el("td", {}, both ? apart(base, head) : ""));
    };
    const list = IB.figures(one).map((base) => {
      const head = theirs.get(base.name);
      theirs.delete(base.name);
      return row(base.name, base, head);
    });
    return [...list, ...[...theirs.values()].map((head) => row(head.name, undefined, head))];
  }

  function apart(base, head) {
    if (base.exact) return base.value === head.value ? "equal" : "counts differ";
    if (!base.ci || !head.ci) return "";
    return base.ci[1] < head.ci[0] || head.ci[1] < base.ci[0] ? "intervals apart" : "intervals overlap";
  }
})();
