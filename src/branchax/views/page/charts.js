"use strict";
// Line charts, scatters and maps as SVG and canvas: hover for values, legends that toggle, linear or logarithmic.

const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3A9BD4", "#444444"];
const DARK = ["#4FB0EA", "#F08A3C", "#33C79B", "#E3A3C8", "#E69F00", "#8FD0F5", "#DDDDDD"];
const DASHES = ["", "7 4", "9 3 2 3", "2 3"];
const redraws = [];  // everything that has to follow the width of the page and its colours

function isDark() { return document.documentElement.dataset.theme === "dark"; }
function colour(i) { const list = isDark() ? DARK : LIGHT; return list[i % list.length]; }
function role(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function number(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-3) return x.toExponential(2).replace("e+", "e");
  if (size >= 1000) return Math.round(x).toLocaleString("en");
  return String(Number(x.toPrecision(4)));
}

function ticks(low, high, count, log) {
  if (log) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of high / low > 300 ? [1] : [1, 2, 5]) {
        const x = m * 10 ** e;
        if (x >= low * 0.999 && x <= high * 1.001) found.push(x);
      }
    const every = Math.ceil(found.length / 7);
    return found.filter((_, i) => i % every === 0);
  }
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

// A frame with axes; returns what is needed to draw in it. `box` is {x: [low, high], y: [low, high]}.
function frame(width, height, box, options) {
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": options.label || options.y });
  const marks = ticks(...box.y, Math.max(2, Math.round(height / 60)), options.logY);
  const widest = Math.max(0, ...marks.map((v) => number(v).length));
  const left = Math.max(58, 28 + 6.5 * widest), right = 20, top = 10, bottom = options.x ? 38 : 22;
  const scale = (log) => (log ? Math.log10 : (v) => v);
  const fx = scale(options.logX), fy = scale(options.logY);
  const span = (f, [a, b]) => (f(b) - f(a)) || 1;
  const x = (v) => left + ((fx(v) - fx(box.x[0])) / span(fx, box.x)) * (width - left - right);
  const y = (v) => height - bottom - ((fy(v) - fy(box.y[0])) / span(fy, box.y)) * (height - top - bottom);
  const ink = role("rule");
  for (const v of marks) {
    root.append(svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), stroke: ink }));
    root.append(svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)));
  }
  for (const v of ticks(...box.x, Math.max(2, Math.round(width / 80)), options.logX))
    root.append(svg("text", { x: x(v), y: height - bottom + 16, "text-anchor": "middle" }, number(v)));
  root.append(svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: role("soft") }));
  if (options.x) root.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, options.x));
  if (options.y)
    root.append(svg("text", { x: 12, y: (top + height - bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 12 ${(top + height - bottom) / 2})` }, options.y));
  return { root, x, y, left, right: width - right, top, bottom: height - bottom };
}

function extent(values, log, room = 0.04) {
  const good = values.filter((v) => Number.isFinite(v) && v !== null && (!log || v > 0));
  if (!good.length) return log ? [0.1, 1] : [0, 1];
  let low = good.reduce((a, b) => Math.min(a, b)), high = good.reduce((a, b) => Math.max(a, b));
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  if (low === high) return [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
  const margin = room * (high - low);
  return [low - margin, high + margin];
}

function path(x, y, xs, ys, log) {
  let d = "", pen = false;
  xs.forEach((v, i) => {
    const fine = ys[i] !== null && Number.isFinite(ys[i]) && (!log || ys[i] > 0);
    if (fine) d += `${pen ? "L" : "M"}${x(v).toFixed(1)} ${y(ys[i]).toFixed(1)}`;
    pen = fine;
  });
  return d;
}

// series: [{name, x, y, low, high, seeds, colour: index or "soft", dash}]
function lineChart(options) {
  const holder = make("div", { class: "chart" }), legend = make("div", { class: "legend" });
  const shown = options.series().map(() => true);
  let state = null;
  const tip = make("div", { class: "tip", hidden: true });
  const ink = (s) => (typeof s.colour === "string" ? role(s.colour) : colour(s.colour));

  function draw() {
    const series = options.series(), width = Math.max(240, holder.clientWidth || 600), height = options.height || 300;
    while (shown.length < series.length) shown.push(true);
    const live = series.filter((_, i) => shown[i]);
    const log = options.logY ? options.logY() : false;
    const ys = live.flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || []), ...(s.seeds || []).flat()]);
    const box = { x: extent(live.flatMap((s) => s.x), false, 0), y: options.range || extent(ys, log) };
    const f = frame(width, height, box, { x: options.x && options.x(), y: options.y && options.y(), logY: log });
    if (options.diagonal) f.root.append(svg("path", { d: path(f.x, f.y, box.x, box.x), stroke: role("soft"), fill: "none" }));
    for (const s of live) {
      if (s.low && s.high) {
        const keep = s.x.map((_, i) => i).filter((i) => s.low[i] !== null && s.high[i] !== null && (!log || s.low[i] > 0));
        const there = keep.map((i) => `${f.x(s.x[i]).toFixed(1)} ${f.y(s.high[i]).toFixed(1)}`);
        const back = keep.reverse().map((i) => `${f.x(s.x[i]).toFixed(1)} ${f.y(s.low[i]).toFixed(1)}`);
        if (there.length) f.root.append(svg("path", { d: `M${there.join("L")}L${back.join("L")}Z`, fill: ink(s), opacity: 0.18 }));
      }
      for (const y of s.seeds || [])
        f.root.append(svg("path", { d: path(f.x, f.y, s.x, y, log), fill: "none", stroke: ink(s), "stroke-width": 0.7, opacity: 0.6 }));
      f.root.append(svg("path", { d: path(f.x, f.y, s.x, s.y, log), fill: "none", stroke: ink(s),
        "stroke-width": s.width || 2, "stroke-dasharray": s.dash || "" }));
      if (s.x.length < 3)
        s.x.forEach((v, i) => s.y[i] !== null && f.root.append(svg("circle", { cx: f.x(v), cy: f.y(s.y[i]), r: 3.5, fill: ink(s) })));
    }
    const cursor = svg("line", { y1: f.top, y2: f.bottom, stroke: role("soft"), visibility: "hidden" });
    const dots = svg("g");
    f.root.append(cursor, dots);
    holder.replaceChildren(f.root, tip);
    state = { f, live, cursor, dots, width, log };
    legend.replaceChildren(...series.map((s, i) => {
      const key = svg("svg", { class: "key", width: 30, height: 4 });
      key.append(svg("line", { x2: 30, y1: 2, y2: 2, stroke: ink(s), "stroke-width": 3, "stroke-dasharray": s.dash || "" }));
      return make("button", { type: "button", "aria-pressed": String(shown[i]),
        onclick: () => { shown[i] = !shown[i]; draw(); } }, key, s.name);
    }));
  }

  function point(event) {
    if (!state) return;
    const { f, live, cursor, dots, width, log } = state;
    const box = holder.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    const all = live.flatMap((s) => s.x);
    if (!all.length) return;
    const nearest = all.reduce((a, b) => (Math.abs(f.x(b) - at) < Math.abs(f.x(a) - at) ? b : a));
    cursor.setAttribute("x1", f.x(nearest));
    cursor.setAttribute("x2", f.x(nearest));
    cursor.setAttribute("visibility", "visible");
    dots.replaceChildren();
    const lines = [make("div", {}, make("strong", {}, `${number(nearest)} `), options.x ? options.x() : "")];
    for (const s of live) {
      let i = 0;
      s.x.forEach((v, j) => { if (Math.abs(v - nearest) < Math.abs(s.x[i] - nearest)) i = j; });
      if (Math.abs(f.x(s.x[i]) - f.x(nearest)) > 24) continue;
      const value = s.y[i];
      if (value !== null && Number.isFinite(value) && (!log || value > 0))
        dots.append(svg("circle", { cx: f.x(s.x[i]), cy: f.y(value), r: 4, fill: ink(s) }));
      const band = s.low && s.low[i] !== s.high[i] ? ` (${number(s.low[i])} to ${number(s.high[i])})` : "";
      const line = make("div", {}, `${s.name}: ${number(value)}${band}`);
      line.style.color = ink(s);
      lines.push(line);
    }
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const left = f.x(nearest) / width < 0.5;
    tip.style.left = left ? `${(f.x(nearest) / width) * 100 + 2}%` : "auto";
    tip.style.right = left ? "auto" : `${100 - (f.x(nearest) / width) * 100 + 2}%`;
  }

  holder.addEventListener("pointermove", point);
  holder.addEventListener("pointerdown", point);
  holder.addEventListener("pointerleave", () => {
    tip.hidden = true;
    if (state) { state.cursor.setAttribute("visibility", "hidden"); state.dots.replaceChildren(); }
  });
  redraws.push(draw);
  return { node: make("div", {}, holder, options.legend === false ? null : legend), draw };
}

// points: [{x, y, low, high}], with the line on which both are equal
function scatter(points, options) {
  const holder = make("div", { class: "chart" }), tip = make("div", { class: "tip", hidden: true });
  let f = null, width = 0;
  function draw() {
    width = Math.max(240, holder.clientWidth || 400);
    const both = points.flatMap((p) => [p.x, p.y, p.low ?? p.y, p.high ?? p.y]);
    const range = extent(both, false);
    f = frame(width, options.height || 300, { x: range, y: range }, options);
    f.root.append(svg("path", { d: path(f.x, f.y, range, range), stroke: role("soft"), fill: "none" }));
    for (const p of points) {
      if (p.low !== undefined)
        f.root.append(svg("line", { x1: f.x(p.x), x2: f.x(p.x), y1: f.y(p.low), y2: f.y(p.high), stroke: role("accent") }));
      f.root.append(svg("circle", { cx: f.x(p.x), cy: f.y(p.y), r: p.low === undefined ? 2 : 4, fill: role("body"), opacity: 0.75 }));
    }
    holder.replaceChildren(f.root, tip);
  }
  holder.addEventListener("pointermove", (event) => {
    const box = holder.getBoundingClientRect(), unit = width / box.width;
    const x = (event.clientX - box.left) * unit, y = (event.clientY - box.top) * unit;
    const gap = (p) => (f.x(p.x) - x) ** 2 + (f.y(p.y) - y) ** 2;
    const p = points.reduce((a, b) => (gap(b) < gap(a) ? b : a), points[0]);
    tip.hidden = !p || gap(p) > 900;
    if (!tip.hidden) tip.textContent = `${number(p.x)} → ${number(p.y)}`;
    tip.style.left = "64px";
  });
  holder.addEventListener("pointerleave", () => { tip.hidden = true; });
  redraws.push(draw);
  return { node: holder, draw };
}

// Dark blue to yellow through grey: perceived the same with any colour vision (after cividis).
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
function shade(t) {
  const at = Math.min(0.9999, Math.max(0, t)) * (CIVIDIS.length - 1), i = Math.floor(at), part = at - i;
  return `rgb(${CIVIDIS[i].map((v, k) => Math.round(v + part * (CIVIDIS[i + 1][k] - v))).join(",")})`;
}

function heatMap(map) {
  const holder = make("div", { class: "chart" }), tip = make("div", { class: "tip", hidden: true }), height = 300;
  const scale = make("div", { class: "scale" });
  let cells = [];
  function draw() {
    const width = Math.max(240, holder.clientWidth || 400);
    let f;
    cells = [];
    if (map.tabular) {
      const rows = 1 + Math.max(...map.cells.map((c) => c[0])), columns = 1 + Math.max(...map.cells.map((c) => c[1]));
      const size = Math.min(width / columns, height / rows);
      f = { root: svg("svg", { viewBox: `0 0 ${width} ${rows * size}`, height: rows * size }) };
      map.cells.forEach(([i, j], k) => cells.push({ x: j * size, y: i * size, w: size - 1, h: size - 1, v: map.doubt[k], t: map.doubt[k] }));
    } else {
      const { x, y } = map, dx = (x[1] - x[0]) / 2, dy = (y[1] - y[0]) / 2;
      f = frame(width, height, { x: [x[0] - dx, x[x.length - 1] + dx], y: [y[0] - dy, y[y.length - 1] + dy] },
        { x: map.names[0], y: map.names[1] });
      const all = map.doubt.flat(), low = Math.min(...all), high = Math.max(...all);
      map.doubt.forEach((line, j) => line.forEach((v, i) => cells.push({
        x: f.x(x[i] - dx), y: f.y(y[j] + dy), w: f.x(x[i] + dx) - f.x(x[i] - dx) + 0.4, h: f.y(y[j] - dy) - f.y(y[j] + dy) + 0.4,
        v, t: (v - low) / (high - low || 1) })));
    }
    for (const c of cells) f.root.append(svg("rect", { x: c.x, y: c.y, width: c.w, height: c.h, fill: shade(c.t) }));
    for (const [u, v] of map.data || []) f.root.append(svg("circle", { cx: f.x(u), cy: f.y(v), r: 1.2, fill: "#fff", opacity: 0.75 }));
    holder.replaceChildren(f.root, tip);
    holder.dataset.width = width;
    const values = map.tabular ? [0, 1] : map.doubt.flat(), colours = [0, 0.25, 0.5, 0.75, 1].map(shade).join(", ");
    scale.replaceChildren(number(Math.min(...values)), make("span", { style: `background: linear-gradient(to right, ${colours})` }),
      number(Math.max(...values)));
  }
  holder.addEventListener("pointermove", (event) => {
    const box = holder.getBoundingClientRect(), unit = holder.dataset.width / box.width;
    const x = (event.clientX - box.left) * unit, y = (event.clientY - box.top) * unit;
    const c = cells.find((c) => x >= c.x && x < c.x + c.w && y >= c.y && y < c.y + c.h);
    tip.hidden = !c;
    if (c) tip.textContent = number(c.v);
    tip.style.right = "12px";
  });
  holder.addEventListener("pointerleave", () => { tip.hidden = true; });
  redraws.push(draw);
  return { node: make("div", {}, holder, scale), draw };
}
