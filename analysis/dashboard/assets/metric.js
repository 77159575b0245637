// One history: the chart, its changes with the revisions around them, its values.
"use strict";

(() => {
  const LISTED = 50;

  IB.pages.metric = async function metric(main, { path }) {
    const [data, overview] = await Promise.all([IB.series(path[1]), IB.overview()]);
    IB.revisionUrl = overview.revision_url;
    const box = IB.el("div", { class: "chart" });
    const open = async (index) => {
      const runs = await IB.runs();
      location.hash = IB.href(["run", runs.id[data.run[index]]]);
    };
    const runLink = (index, text) => IB.el("a", {
      href: "#", class: "run-link",
      click: (event) => { event.preventDefault(); open(index); },
    }, text);
    const better = data.better ? `${data.better} is better` : "neither more nor less is better";
    const labels = [data.endpoint, data.label, better].filter(Boolean).join(" · ");
    IB.fill(main, [
      IB.el("h1", {}, `${IB.words(data.figure)}, ${data.mode}`),
      IB.el("p", { class: "meta" }, `${data.scenario} · ${data.case} · ${data.machine}: ${data.host}`),
      IB.el("p", { class: "meta" }, `${labels} · `, IB.badge(data.verdict)),
      IB.el("section", {}, box, data.kind === "metric" ? ""
        : IB.el("p", { class: "note" }, data.kind === "count" ? "Counts are exact and have no interval." : "A percentile of one run has no interval.")),
      IB.el("section", { id: "changes" }, IB.el("h2", {}, "Changes"), changes(data, runLink)),
      IB.el("section", {}, IB.el("h2", {}, "Newest values"), values(data, runLink)),
      IB.el("section", {}, IB.el("details", {}, IB.el("summary", {}, "Parameters"),
        IB.table(["parameter", "value"], Object.entries(data.params).map(([name, value]) =>
          IB.el("tr", {}, IB.el("th", { scope: "row" }, name), IB.el("td", {}, String(value))))))),
    ]);
    IB.draw(box, data, open);
    return `${IB.words(data.figure)}, ${data.mode}, ${data.scenario}`;
  };

  function changes(data, runLink) {
    if (data.points_of_change.length === 0) return IB.el("p", {}, "None found.");
    return IB.el("ol", {}, data.points_of_change.map((change) => IB.el("li", {},
      IB.badge(change.direction), ` ${change.ratio === null ? "" : `${IB.ratio(change.ratio)}: `}`,
      `${IB.quantity(change.before, data.unit)} → ${IB.quantity(change.after, data.unit)}, first in `,
      runLink(change.index, `the run of ${IB.time(data.t[change.index])}`), ", revision ",
      IB.revision(change.to, IB.revisionUrl),
      change.from === change.to ? ", the same revision as before it: look at the machine" : [" after ", IB.revision(change.from, IB.revisionUrl)],
      change.commits.length === 0 ? "" : IB.el("ul", { class: "commits" }, change.commits.map(([hash, subject]) =>
        IB.el("li", {}, IB.revision(hash, IB.revisionUrl), ` ${subject}`))))));
  }

  function values(data, runLink) {
    const newest = data.v.map((_, index) => index).slice(-LISTED).reverse();
    return IB.table(["run", "value", "interval", "revision"], newest.map((index) => {
      const ci = data.lo[index] === null ? null : [data.lo[index], data.hi[index]];
      const rev = data.revs[data.rev[index]];
      return IB.el("tr", {}, IB.el("th", { scope: "row" }, runLink(index, IB.time(data.t[index]))),
        IB.el("td", { class: "figure" }, IB.quantity(data.v[index], data.unit)),
        IB.el("td", { class: "figure" }, ci ? `${IB.quantity(ci[0], data.unit)} to ${IB.quantity(ci[1], data.unit)}` : "n/a"),
        IB.el("td", {}, IB.revision(rev.id, IB.revisionUrl), rev.subject ? ` ${rev.subject}` : ""));
    }));
  }
})();
