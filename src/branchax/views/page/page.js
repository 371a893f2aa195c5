"use strict";
// The page, from the data that it carries.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");

function section(title, ...children) {
  const found = children.filter(Boolean);
  if (found.length) main.append(make("section", {}, make("h2", {}, title), ...found));
}

function panel(title, chart, text = null, wide = false) {
  return make("div", { class: wide ? "panel wide" : "panel" }, make("h3", {}, title), text ? make("p", {}, text) : null, chart.node);
}

function table(head, rows, differs = () => false) {
  const cell = (tag, x) => make(tag, { class: typeof x === "number" ? "number" : "" }, typeof x === "number" ? number(x) : x);
  const numeric = head.map((_, i) => rows.some((r) => typeof r[i] === "number") && rows.every((r) => typeof r[i] === "number" || r[i] === "–"));
  const titles = head.map((x, i) => make("th", { class: numeric[i] ? "number" : "" }, x));
  const body = rows.map((row) => make("tr", { class: differs(row) ? "differs" : "" }, ...row.map((x) => cell("td", x))));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...body)));
}

function curves() {
  const metrics = [...new Set(data.curves.flatMap((group) => Object.keys(group.metrics)))];
  if (!metrics.length) return make("p", {}, "No rows yet.");
  const options = (list) => list.map((name) => make("option", { value: name, title: name }, data.names[name]));
  const what = make("select", { id: "metric", "aria-label": "metric" }, ...options(metrics));
  const over = make("select", { id: "over", "aria-label": "over" }, make("option", { value: "steps" }, data.steps),
    make("option", { value: "seconds" }, "seconds, with compilation"));
  const log = make("input", { type: "checkbox", id: "log" });
  const worlds = [...new Set(data.curves.map((group) => group.world))];
  const series = (world) => () => data.curves.filter((group) => group.world === world).map((group, i) => {
    const part = (group.metrics[what.value] || {})[over.value] || { x: [], middle: [], low: [], high: [], seeds: [] };
    const many = part.seeds.length > 1;
    return { name: `${group.label}${many ? ` (${part.seeds.length} seeds)` : ""}`, x: part.x, y: part.middle, colour: i,
      dash: DASHES[i % DASHES.length], low: part.low, high: part.high, seeds: many ? part.seeds : [] };
  });
  const charts = worlds.map((world) => lineChart({ series: series(world), height: 360, logY: () => log.checked, y: () => data.names[what.value],
    x: () => over.selectedOptions[0].textContent }));
  for (const control of [what, over, log]) control.addEventListener("change", () => charts.forEach((chart) => chart.draw()));
  return make("div", { class: "panel" },
    make("div", { class: "controls" }, make("label", {}, what), make("label", {}, "over ", over), make("label", {}, log, " logarithmic")),
    ...charts.flatMap((chart, i) => [worlds.length > 1 ? make("h3", {}, worlds[i]) : null, chart.node]));
}

function range(n) { return [...Array(n).keys()]; }
function column(rows, i) { return rows.map((row) => row[i]); }

function openLoop(part) {
  const log = make("input", { type: "checkbox", checked: !part.tabular });
  const series = () => [
    ...part.names.slice(0, 8).map((name, i) => ({ name, x: part.steps, y: column(part.error, i), colour: i, dash: DASHES[i % 4], width: 1.4 })),
    ...(part.tabular ? [] : [{ name: "all, median and middle half", x: part.steps, y: column(part.quantiles, 1), low: column(part.quantiles, 0),
      high: column(part.quantiles, 2), colour: "ink", width: 2.6 }]),
    { name: "if nothing changed", x: part.steps, y: part.still, colour: "soft", dash: "2 3" },
  ];
  const chart = lineChart({ series, logY: () => log.checked, x: () => "steps ahead",
    y: () => (part.tabular ? "share of wrong states" : "error [standard deviations]") });
  log.addEventListener("change", () => chart.draw());
  return { node: make("div", {}, chart.node, make("div", { class: "controls" }, make("label", {}, log, " logarithmic"))) };
}

function examples(found) {
  const part = found.example, steps = range(part.true.length + 1);
  const from = (i, rows) => [part.start[i], ...column(rows, i)];
  const charts = part.start.map((_, i) => make("div", {}, make("h3", {}, found.names[i]), lineChart({ height: 150, legend: false,
    series: () => [
      ...part.sampled.map((rows, e) => ({ name: `elite ${e + 1}, sampled`, x: steps, y: from(i, rows), colour: 4, width: 1 })),
      { name: "what happened", x: steps, y: from(i, part.true), colour: 0, width: 2.6 },
      { name: "predicted, mean", x: steps, y: from(i, part.mean), colour: 1, dash: "6 4" },
    ], x: () => "steps ahead" }).node));
  return { node: make("div", { class: "small" }, ...charts) };
}

function diagnostics(run) {
  const found = run.diagnosis, shown = [];
  if (!found) return run.note ? make("p", {}, `${run.name}: ${run.note}`) : null;
  if (found.open_loop) shown.push(panel("Error of predictions", openLoop(found.open_loop),
    "Along the recorded actions of episodes that the model was not fitted to."));
  if (found.calibration) {
    const part = found.calibration, last = part.names.length - 1;
    const entries = [...range(Math.min(last, 7)), last];
    shown.push(panel("Calibration", lineChart({ diagonal: true, range: [0, 1], x: () => "quantile predicted, one step ahead",
      y: () => "share below it", series: () => entries.map((k, i) => ({ name: part.names[k], x: part.levels, y: part.share[k], colour: i, dash: DASHES[i % 4] })) }),
      `${Math.round(100 * part.inside)} % of what happened is inside the middle 90 %; mean gap ${number(part.ece)}.`));
  }
  const returns = found.returns;
  if (returns.imagined) {
    const points = returns.real.map((x, b) => {
      const each = column(returns.imagined, b);
      return { x, y: each.reduce((s, v) => s + v, 0) / each.length, low: Math.min(...each), high: Math.max(...each) };
    });
    shown.push(panel("Imagined and real return", scatter(points, { x: "real return", y: "imagined return" }),
      `The same policy from the same starts, first ${number(returns.steps)} steps; bars from the lowest to the highest member.`));
  }
  if (found.critic && found.critic.actual.length) {
    const part = found.critic;
    shown.push(panel("Critic", scatter(part.actual.map((x, i) => ({ x, y: part.predicted[i] })),
      { x: "discounted return that followed", y: "predicted value" }),
      `Predicted less actual: ${number(part.bias)} on average, at discount ${part.discount}${part.soft ? "; both count the bonus for entropy" : ""}.`));
  }
  if (found.map) shown.push(panel("Where members disagree", heatMap(found.map),
    found.map.tabular ? "Bright: actions never seen there." : "Bright: more. Dots: real states, brought onto the slice."));
  if (found.phases) shown.push(panel("Where the time goes", bars(found.phases), time(found.phases)));
  if (found.example) shown.push(panel("Predicted and true", examples(found),
    "Blue: what happened. Orange, dashed: the mean prediction. Yellow: samples, a member of the ensemble each.", true));
  const title = data.runs.length > 1 ? make("h3", {}, `${run.name}, seed ${found.seed}, ${number(found.env_steps)} env steps`) : null;
  const why = found.why_no_model ? make("p", {}, `No diagnostics of a model: ${found.why_no_model}.`) : null;
  return make("div", {}, title, why, make("div", { class: "grid" }, ...shown));
}

function bars(part) {
  const total = part.seconds.reduce((s, x) => s + x, 0);
  const row = (name, x) => [make("span", {}, name), make("span", { class: ["evaluate", "save"].includes(name) ? "bar host" : "bar",
    style: `--share: ${x / total}` }), make("span", { class: "number" }, `${(100 * x / total).toFixed(1)} %`), make("span", { class: "number" }, `${number(Number(x.toPrecision(2)))} s`)];
  return { node: make("div", { class: "bars", role: "img", "aria-label": "share of an epoch's time by phase" },
    ...part.names.flatMap((name, i) => row(name, part.seconds[i]))) };
}

function time(part) {
  const total = part.seconds.reduce((s, x) => s + x, 0);
  const own = part.run === null ? "" : ` In the run an epoch took ${number(part.run)} s, ${part.seeds === 1 ? "" : `${part.seeds} seeds at once, `}all of this included.`;
  return `Share of the ${number(total)} s that ${number(part.epoch_steps)} env steps of one seed take alone, part by part; grey: between epochs.${own}`;
}

function settings() {
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.config)))];
  const text = (x) => (x === undefined || x === null ? "–" : Array.isArray(x) ? x.join(", ") : String(x));
  const rows = names.map((name) => [name, ...data.runs.map((run) => text(run.config[name]))]);
  return table(["setting", ...data.runs.map((run) => run.name)], rows, (row) => new Set(row.slice(1)).size > 1);
}

function environment() {
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.environment)))];
  const rows = names.map((name) => [name, ...data.runs.map((run) => String(run.environment[name] ?? "–"))]);
  return table(["", ...data.runs.map((run) => run.name)], rows, (row) => new Set(row.slice(1)).size > 1);
}

section("Summary", table(["run", "return", data.steps, "state", "time", "what differs"], // on a phone the first ones show
  data.summary.map((run) => [run.name, run.return ?? "–", run.steps, run.state, run.time, run.differs || "–"])));
section("Curves", curves(), make("p", {}, "Runs that differ in their seeds alone are one curve: interquartile mean, 95 % bootstrap interval (too narrow for fewer than five seeds), a thin line per seed."));
section("Real and imagined", player(data.runs));
const diagnosed = data.runs.map(diagnostics).filter(Boolean);
section("Model and critic", diagnosed.length > 1 ? make("div", { class: "beside" }, ...diagnosed) : diagnosed[0]);
const evaluated = data.runs.flatMap((run) => run.evaluations.map((e) => [run.name, e.seed, e.steps, e.episodes, e.mean ?? "–", e.std ?? "–", e.length ?? "–"]));
section("Evaluations", evaluated.length ? table(["run", "seed", data.steps, "episodes", "return", "± SD", "length"], evaluated) : null);
const folded = (name, node) => make("details", {}, make("summary", {}, name), node);
section("How it was made", ...data.runs.map((run) => (run.command ? make("p", {}, make("code", { class: "lines" }, run.command)) : null)),
  folded("settings", settings()), folded("environment", environment()));
