// One run: its figures, its report, its flame graph, the machine.
"use strict";

(() => {
  IB.pages.run = async function page(main, { path }) {
    const [{ run, report, profile }, overview] = await Promise.all([IB.run(path[1]), IB.overview()]);
    const folder = `runs/${encodeURIComponent(run.run_id)}`;
    const [previous, next] = await neighbours(run);
    IB.fill(main, [
      IB.el("h1", {}, run.scenario),
      IB.el("p", { class: "meta" }, IB.el("code", {}, run.run_id)),
      IB.el("p", { class: "meta" }, `${run.started_at.slice(0, 19).replace("T", " ")} UTC · ${run.machine} · revision `,
        IB.revision(run.revision, overview.revision_url), run.partial ? " · partial" : ""),
      run.warnings.length ? IB.el("div", { class: "alert" }, IB.el("strong", {}, "Before believing the figures"), IB.el("ul", {}, run.warnings.map((text) => IB.el("li", {}, text)))) : "",
      IB.el("p", { class: "links" },
        report ? IB.el("a", { href: `${folder}/report.html`, id: "report" }, "Report") : IB.el("span", { class: "note" }, "no report in this site: iommu-bench report makes one"),
        profile ? IB.el("a", { href: `${folder}/profile.svg`, id: "profile" }, "Flame graph") : IB.el("span", { class: "note" }, "no flame graph was stored"),
        previous ? IB.el("a", { href: IB.href(["compare"], { a: previous, b: run.run_id }), id: "compare-previous" }, "Compare with the run before") : "",
        next ? IB.el("a", { href: IB.href(["run", next]) }, "Next run") : ""),
      profile ? IB.el("section", {}, IB.el("h2", {}, "Flame graph"), IB.el("a", { href: `${folder}/profile.svg` }, IB.el("img", { src: `${folder}/profile.svg`, alt: "flame graph of the run", class: "profile" }))) : "",
      run.relative.length ? IB.el("section", {}, IB.el("h2", {}, "Between the modes"), IB.table(["case", "against", "metric", "ratio", "interval"],
        run.relative.map((row) => IB.el("tr", {}, IB.el("th", { scope: "row" }, row.case), IB.el("td", {}, row.baseline), IB.el("td", {}, IB.words(row.metric)),
          IB.el("td", { class: "figure" }, IB.ratio(row.ratio)), IB.el("td", { class: "figure" }, `${IB.significant(row.ci[0])} to ${IB.significant(row.ci[1])}`))))) : "",
      run.cases.map((item) => caseSection(item)),
      IB.el("section", {}, IB.el("details", {}, IB.el("summary", {}, "Machine"), IB.table(["fact", "value"],
        Object.entries(run.environment).map(([name, fact]) => IB.el("tr", {}, IB.el("th", { scope: "row" }, IB.words(name)),
          IB.el("td", {}, fact.value === null ? `n/a: ${fact.reason}` : String(fact.value))))))),
    ]);
    return `${run.scenario}, ${run.started_at.slice(0, 16)}`;
  };

  /** The runs of the same scenario, machine and host before and after this one. */
  async function neighbours(run) {
    const runs = await IB.runs();
    const own = runs.id.indexOf(run.run_id);
    const same = runs.id.map((_, index) => index)
      .filter((index) => runs.scenario[index] === runs.scenario[own] && runs.machine[index] === runs.machine[own] && runs.host[index] === runs.host[own])
      .sort((one, other) => runs.t[one] - runs.t[other]);
    const at = same.indexOf(own);
    return [runs.id[same[at - 1]], runs.id[same[at + 1]]];
  }

  function caseSection(item) {
    const rows = IB.figures(item).map((figure) => IB.el("tr", {}, IB.el("th", { scope: "row" }, IB.words(figure.name)),
      figure.reason
        ? IB.el("td", { colspan: 2, class: "missing" }, `n/a: ${figure.reason}`)
        : [IB.el("td", { class: "figure" }, IB.figure(figure)), IB.el("td", { class: "figure" }, IB.plusMinus(figure.value, figure.ci))]));
    return IB.el("section", {}, IB.el("h2", {}, IB.el("span", { class: `swatch ${item.mode}` }), item.id),
      IB.table(["figure", "value", ""], rows));
  }

  /** A value with its unit; counts are exact, so all their digits are shown. */
  IB.figure = (figure) => (figure.exact ? figure.value.toLocaleString("en") : IB.quantity(figure.value, figure.unit));

  /** Everything a case says, in one list: metrics, percentiles, counts. */
  IB.figures = function figures(item) {
    const list = [];
    for (const [name, metric] of Object.entries(item.metrics)) {
      list.push(metric.value === null ? { name, reason: metric.reason } : { name, value: metric.value, unit: metric.unit, ci: metric.ci });
    }
    for (const [name, summary] of Object.entries(item.histograms)) {
      for (const percentile of ["p50", "p99", "p999"]) {
        list.push({ name: `${name} ${percentile}`, value: summary[percentile], unit: summary.unit, ci: null });
      }
    }
    for (const [name, count] of Object.entries(item.counts)) list.push({ name, value: count, unit: "", ci: null, exact: true });
    return list;
  };
})();
