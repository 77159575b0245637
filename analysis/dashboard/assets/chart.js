// A history as a chart: values with their intervals, change points as lines. Arrow keys walk over the values.
"use strict";

IB.draw = function draw(container, data, onOpen) {
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name).trim();
  const largest = Math.max(...data.v.map(Math.abs));
  const [factor, unit] = IB.scale(largest, data.unit);
  const scaled = (values) => values.map((value) => (value === null ? null : value * factor));
  const intervals = data.lo.some((value) => value !== null);
  // Runs at equal distances: histories have pauses of weeks, and minutes with ten runs.
  const x = data.v.map((_, index) => index);
  const columns = [x, scaled(data.v), scaled(data.lo), scaled(data.hi)];
  const dots = data.v.length <= 400;

  function lines(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = ink("--change");
    ctx.fillStyle = ink("--change");
    ctx.lineWidth = 2 * devicePixelRatio;
    for (const change of data.points_of_change) {
      const at = Math.round(u.valToPos(change.index - 0.5, "x", true));
      if (at < bbox.left || at > bbox.left + bbox.width) continue;
      ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  const axis = { stroke: ink("--muted"), grid: { stroke: ink("--edge"), width: 1 }, ticks: { stroke: ink("--edge") } };
  const options = {
    width: Math.max(300, container.clientWidth),
    height: 340,
    legend: { show: false },
    cursor: { points: { size: 9 }, drag: { x: true, y: false } },
    scales: { x: { time: false } },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) && data.t[tick] !== undefined ? IB.time(data.t[tick]).slice(5) : "")), space: 90 },
      { ...axis, label: unit, size: 70, values: (_, ticks) => ticks.map((tick) => String(Number(tick.toPrecision(4)))) },
    ],
    series: [
      {},
      { label: data.figure, stroke: ink("--line"), width: 1.5, points: { show: dots, size: 6, fill: ink("--card"), stroke: ink("--line") } },
      { label: "low", stroke: "transparent", points: { show: false } },
      { label: "high", stroke: "transparent", points: { show: false } },
    ],
    bands: intervals ? [{ series: [3, 2], fill: ink("--band") }] : [],
    hooks: {
      draw: [lines],
      setCursor: [(u) => { if (u.cursor.idx !== null && u.cursor.idx !== undefined) show(u.cursor.idx); }],
    },
  };
  const about = IB.el("p", { class: "about", "aria-live": "polite" }, "Point at a value, or press → here.");
  let at = data.v.length - 1;

  function show(index) {
    at = index;
    const ci = data.lo[index] === null ? null : [data.lo[index], data.hi[index]];
    const rev = data.revs[data.rev[index]];
    about.replaceChildren(
      IB.el("strong", {}, IB.quantity(data.v[index], data.unit)), " ", IB.plusMinus(data.v[index], ci),
      ` · ${IB.time(data.t[index])} · `, IB.revision(rev.id, IB.revisionUrl), rev.subject ? ` ${rev.subject}` : "",
    );
  }
  function moveTo(index) {
    const next = Math.min(data.v.length - 1, Math.max(0, index));
    u.setCursor({ left: u.valToPos(next, "x"), top: u.valToPos(data.v[next] * factor, "y") });
    show(next);
  }
  const moves = {
    ArrowLeft: () => at - 1, ArrowRight: () => at + 1, PageUp: () => at - 20, PageDown: () => at + 20,
    Home: () => 0, End: () => data.v.length - 1,
  };
  const plot = IB.el("div", {
    class: "plot", tabindex: "0", role: "img",
    "aria-label": `${data.figure} over ${data.v.length} runs, ${data.points_of_change.length} changes. Arrow keys walk over the values, Enter opens the run.`,
    keydown: (event) => {
      if (moves[event.key]) moveTo(moves[event.key]());
      else if (event.key === "Enter") onOpen(at);
      else return;
      event.preventDefault();
    },
    dblclick: () => {},
  });
  container.replaceChildren(plot, about);
  const u = new uPlot(options, columns, plot);
  let down = null;
  u.over.addEventListener("mousedown", (event) => { down = event.clientX; });
  u.over.addEventListener("click", (event) => {
    // A drag zooms; only a click opens the run.
    if (u.cursor.idx !== null && u.cursor.idx !== undefined && Math.abs(event.clientX - down) < 4) onOpen(u.cursor.idx);
  });
  IB.chart = u;
  return u;
};

/** A line of at most forty values, for a table. */
IB.spark = function spark(values) {
  const [width, height] = [120, 26];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const span = high - low || 1;
  const step = values.length > 1 ? (width - 6) / (values.length - 1) : 0;
  const points = values.map((value, index) => [3 + index * step, height - 4 - ((value - low) / span) * (height - 8)]);
  const [x, y] = points[points.length - 1] || [0, 0];
  return IB.el("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    IB.el("polyline", { points: points.map((point) => point.map((n) => n.toFixed(1)).join(",")).join(" ") }),
    IB.el("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 2.5 }));
};
