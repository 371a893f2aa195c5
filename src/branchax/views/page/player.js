"use strict";
// Episodes side by side: scenes in the plane, bodies in space (drag to turn), or the observation as traces.

function prepare(canvas, aspect) {
  const ratio = window.devicePixelRatio || 1, width = Math.max(200, canvas.clientWidth), height = Math.round(Math.min(width * aspect, 380));
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, width, height);
  c.lineCap = c.lineJoin = "round";
  return [c, width, height];
}

function drawScene(canvas, scene, i) {
  const [x0, y0, x1, y1] = scene.view, [c, width, height] = prepare(canvas, Math.min(1, (y1 - y0) / (x1 - x0)));
  const scale = Math.min(width / (x1 - x0), height / (y1 - y0));
  const aside = (width - scale * (x1 - x0)) / 2, above = (height - scale * (y1 - y0)) / 2;
  const x = (v) => aside + scale * (v - x0), y = (v) => above + scale * (y1 - v);
  for (const s of scene.shapes) {
    const at = Array.isArray(s.at[0]) ? s.at[i] : s.at;
    c.strokeStyle = c.fillStyle = role(s.role);
    c.beginPath();
    if (s.kind === "line" || s.kind === "path") {
      c.lineWidth = Math.max(1, s.size[0] * scale);
      for (let k = 0; k < at.length; k += 2) c[k ? "lineTo" : "moveTo"](x(at[k]), y(at[k + 1]));
      c.stroke();
    } else if (s.kind === "disc") {
      c.arc(x(at[0]), y(at[1]), Math.max(1.5, s.size[0] * scale), 0, 2 * Math.PI);
      c.fill();
    } else {
      const [w, h] = s.size.map((v) => v * scale);
      c.save();
      c.translate(x(at[0]), y(at[1]));
      c.rotate(-at[2]);
      c.fillRect(-w / 2, -h / 2, w, h);
      c.restore();
    }
  }
}

// --- bodies: an orthographic view, in which a capsule is a thick line and a sphere a disc, exactly ---

function turn([w, x, y, z], [a, b, c]) {  // a vector by a unit quaternion: v + 2 u × (u × v + w v)
  const [d, e, f] = [y * c - z * b + w * a, z * a - x * c + w * b, x * b - y * a + w * c];
  return [a + 2 * (y * f - z * e), b + 2 * (z * d - x * f), c + 2 * (x * e - y * d)];
}

function place(pose, link, v) {
  if (link < 0) return v;
  const p = pose.slice(7 * link, 7 * link + 7), r = turn(p.slice(3), v);
  return [p[0] + r[0], p[1] + r[1], p[2] + r[2]];
}

function ends(geom) {  // the points that a geom reaches, in its link's frame
  const along = ["capsule", "cylinder"].includes(geom.kind) ? [-geom.size[1], geom.size[1]] : [0];
  return along.map((h) => { const r = turn(geom.rot, [0, 0, h]); return r.map((v, k) => v + geom.pos[k]); });
}

function reach(geoms, sides) {  // whether the view follows the first link, and how much it has to hold
  const solid = geoms.filter((g) => g.kind !== "plane");
  let low = [1e9, 1e9, 1e9], high = [-1e9, -1e9, -1e9], walked = 0;
  for (const poses of sides) {
    const xs = poses.map((p) => p[0]);
    walked = Math.max(walked, Math.max(...xs) - Math.min(...xs));
  }
  const follow = walked > 1.5 && !solid.some((g) => g.link < 0);
  for (const poses of sides)
    for (let i = 0; i < poses.length; i += 5)
      for (const g of solid)
        for (const point of ends(g)) {
          const p = place(poses[i], g.link, point), r = g.size[0];
          const shift = follow ? [poses[i][0], poses[i][1], 0] : [0, 0, 0];
          for (let k = 0; k < 3; k++) {
            low[k] = Math.min(low[k], p[k] - shift[k] - r);
            high[k] = Math.max(high[k], p[k] - shift[k] + r);
          }
        }
  const flat = high[2] - low[2] < 0.25 * Math.max(high[0] - low[0], high[1] - low[1]);
  return { follow, low, high, flat };
}

function drawBodies(canvas, geoms, pose, view) {
  const [c, width, height] = prepare(canvas, 0.72);
  const { low, high, follow, yaw, pitch } = view;
  const ahead = [-Math.sin(yaw), Math.cos(yaw), 0], right = [Math.cos(yaw), Math.sin(yaw), 0];
  const up = [ahead[0] * Math.sin(pitch), ahead[1] * Math.sin(pitch), Math.cos(pitch)];
  const into = [ahead[0] * Math.cos(pitch), ahead[1] * Math.cos(pitch), -Math.sin(pitch)];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const centre = low.map((v, k) => (v + high[k]) / 2 + (follow && k < 2 ? pose[k] : 0));
  const size = Math.hypot(...low.map((v, k) => high[k] - v));
  const tall = (high[2] - low[2]) * Math.cos(pitch) + (high[1] - low[1] + high[0] - low[0]) * 0.5 * Math.sin(pitch);
  const wide = Math.max(high[0] - low[0], high[1] - low[1]);
  const scale = 0.9 * Math.min(width / Math.max(wide, 0.3 * size), height / Math.max(tall, 0.3 * size));
  const flat = (p) => {
    const d = p.map((v, k) => v - centre[k]);
    return [width / 2 + scale * dot(d, right), height / 2 - scale * dot(d, up), dot(d, into)];
  };
  const ground = geoms.find((g) => g.kind === "plane");
  if (ground) {  // a grid that stays where it is while the view moves
    const step = 10 ** Math.round(Math.log10(size / 4)), z = ground.pos[2], n = 8;
    const [x, y] = [0, 1].map((k) => Math.round(centre[k] / step) * step);
    c.strokeStyle = role("rule");
    c.lineWidth = 1;
    for (let i = -n; i <= n; i++)
      for (const line of [[[x + i * step, y - n * step, z], [x + i * step, y + n * step, z]],
                          [[x - n * step, y + i * step, z], [x + n * step, y + i * step, z]]]) {
        c.beginPath();
        line.forEach((p, k) => c[k ? "lineTo" : "moveTo"](...flat(p).slice(0, 2)));
        c.stroke();
      }
  }
  const things = [];
  for (const g of geoms.filter((g) => g.kind !== "plane")) {
    const points = ends(g).map((p) => flat(place(pose, g.link, p)));
    if (g.kind !== "box") {  // a long rail is drawn in pieces, of which some may be behind a body and some before it
      const pieces = g.link < 0 && points.length > 1 ? 24 : 1, between = (t) => points[0].map((v, k) => v + t * (points[points.length - 1][k] - v));
      for (let i = 0; i < pieces; i++) {
        const piece = pieces > 1 ? [between(i / pieces), between((i + 1) / pieces)] : points;
        things.push({ g, points: piece, plain: pieces > 1, depth: piece.reduce((s, p) => s + p[2], 0) / piece.length });
      }
      continue;
    }
    const corner = (i) => [0, 1, 2].map((k) => (i & (1 << k) ? 1 : -1) * g.size[k]);
    const corners = [...Array(8).keys()].map((i) => {
      const r = turn(g.rot, corner(i));
      return flat(place(pose, g.link, r.map((v, k) => v + g.pos[k])));
    });
    for (const face of [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]) {
      const points = face.map((i) => corners[i]);
      things.push({ g, points, face: true, depth: points.reduce((s, p) => s + p[2], 0) / 4 });
    }
  }
  things.sort((a, b) => b.depth - a.depth);
  for (const { g, points, face, plain } of things) {
    const ink = role(g.link < 0 ? "ground" : g.link % 2 ? "accent" : "body"), edge = role("page");
    const line = () => { c.beginPath(); points.forEach((p, k) => c[k ? "lineTo" : "moveTo"](p[0], p[1])); };
    if (face) {
      line();
      c.closePath();
      c.fillStyle = ink;
      c.strokeStyle = edge;
      c.lineWidth = 1;
      c.fill();
      c.stroke();
      continue;
    }
    c.lineCap = g.kind === "cylinder" ? "butt" : "round";
    const mean = g.kind === "ellipsoid" ? (g.size[0] + g.size[1] + g.size[2]) / 3 : g.size[0];
    const radius = Math.max(1.5, mean * scale);
    if (points.length === 1) points.push([points[0][0] + 0.01, points[0][1]]);
    for (const [w, paint] of plain ? [[2 * radius, ink]] : [[2 * radius + 2, edge], [2 * radius, ink]]) { line(); c.lineWidth = w; c.strokeStyle = paint; c.stroke(); }
    c.save();  // light from above, as a lighter line inside
    c.globalAlpha = 0.25;
    c.translate(-0.25 * radius, -0.25 * radius);
    line();
    c.lineWidth = radius * 0.7;
    c.strokeStyle = "#ffffff";
    c.stroke();
    c.restore();
  }
}

function drawTraces(canvas, side, sides, names, i) {
  const [c, width, height] = prepare(canvas, 0.72), count = side.traces.length, row = height / count;
  const length = Math.max(...sides.map((s) => s.traces[0].length), 2);
  c.font = "11px system-ui, sans-serif";
  side.traces.forEach((values, k) => {
    const all = sides.flatMap((s) => s.traces[k]).filter(Number.isFinite);
    const low = Math.min(...all), high = Math.max(...all);
    const y = (v) => row * (k + 0.9) - ((v - low) / (high - low || 1)) * row * 0.72;
    c.strokeStyle = colour(k);
    c.lineWidth = 1.6;
    c.beginPath();
    values.slice(0, i + 1).forEach((v, t) => c[t ? "lineTo" : "moveTo"]((t / (length - 1)) * width, y(v)));
    c.stroke();
    c.fillStyle = role("soft");
    c.fillText(names[k] || `obs ${k}`, 4, row * k + 12);
  });
}

// `more(i)`, if there is one, promises the episode with index i, or null: then the first is shown again.
function player(runs, more = null) {
  const able = runs.filter((run) => run.diagnosis && run.diagnosis.player.episodes.length);
  if (!able.length) return null;
  const canvases = { real: make("canvas"), imagined: make("canvas") };
  const totals = { real: make("span"), imagined: make("span") };
  const titles = { real: "real", imagined: "imagined by one member of the model" };
  const panels = {};
  for (const side of ["real", "imagined"])
    panels[side] = make("div", {}, make("div", { class: "of" }, make("span", {}, titles[side]), totals[side]), canvases[side]);
  const which = make("select", { id: "player-run", "aria-label": "run" }, ...able.map((run, i) => make("option", { value: String(i) }, run.name)));
  const episode = make("select", { "aria-label": "episode" });
  const speed = make("select", { "aria-label": "speed" }, ...["0.25", "0.5", "1", "2", "4"].map((s) => make("option", { value: s }, `${s} ×`)));
  speed.value = "1";
  const slider = make("input", { type: "range", min: "0", value: "0", step: "1", "aria-label": "step" });
  const clock = make("span", { id: "player-clock" });
  const note = make("p");
  const play = make("button", { type: "button", id: "player-play" }, "pause");
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, time = 0, last = null, view = null;
  let current, sides, steps, next = null;

  function choose(wanted = episode.value || "0") {
    const found = able[which.value].diagnosis;
    episode.replaceChildren(...found.player.episodes.map((_, i) => make("option", { value: String(i) }, `start ${i + 1}`)));
    episode.value = found.player.episodes[wanted] ? wanted : "0";
    current = found.player;
    sides = current.episodes[episode.value];
    steps = Math.max(...Object.values(sides).map((s) => s.total.length));
    slider.max = String(steps - 1);
    note.textContent = (current.geoms ? "Drag to turn. " : "") + current.note + (found.why_no_model ? ` Nothing is imagined: ${found.why_no_model}.` : "");
    panels.imagined.hidden = !sides.imagined;
    const poses = Object.values(sides).map((s) => s.poses).filter(Boolean);
    if (poses.length) {
      const held = reach(current.geoms, poses);
      const { yaw, pitch } = more && view ? view : { yaw: 0, pitch: held.flat ? 1.3 : 0.12 };  // as it was turned
      view = { ...held, yaw, pitch };
    }
    for (const canvas of Object.values(canvases)) canvas.style.cursor = view ? "grab" : "";
    time = 0;
    const i = Number(episode.value) + 1;
    next = more && (current.episodes[i] ? Promise.resolve(current.episodes[i]) : more(i));
    draw();
  }

  async function advance() {  // while the next episode is on its way, this one is shown again
    const before = next, i = Number(episode.value) + 1, found = await next;
    if (before !== next) return;
    if (found) current.episodes[i] = found;
    choose(found ? String(i) : "0");
  }

  function draw() {
    const i = Math.min(steps - 1, Math.floor(time / current.seconds));
    slider.value = String(i);
    clock.textContent = `step ${number(i + 1)} of ${number(steps)}`;
    for (const [side, part] of Object.entries(sides)) {
      const end = part.total.length - 1, at = Math.min(i, end);
      totals[side].textContent = `return ${number(part.total[at])}${i > end ? " · over" : ""}`;
      canvases[side].style.opacity = i > end ? 0.55 : 1;
      if (part.scene) drawScene(canvases[side], part.scene, at);
      else if (part.poses) drawBodies(canvases[side], current.geoms, part.poses[at], view);
      else drawTraces(canvases[side], part, Object.values(sides), able[which.value].diagnosis.names, at);
    }
  }

  function tick(now) {
    if (playing && last !== null) {
      time += (Math.min(now - last, 100) / 1000) * Number(speed.value);
      if (time > steps * current.seconds + 0.8) {  // the last picture stays a moment
        time = 0;
        if (next) advance();
      }
      draw();
    }
    last = now;
    requestAnimationFrame(tick);
  }

  function toggle(on) { playing = on; play.textContent = playing ? "pause" : "play"; }
  play.addEventListener("click", () => toggle(!playing));
  slider.addEventListener("input", () => { toggle(false); time = (Number(slider.value) + 0.5) * current.seconds; draw(); });
  which.addEventListener("change", () => choose());
  episode.addEventListener("change", () => choose());
  for (const canvas of Object.values(canvases)) {
    let from = null;
    canvas.addEventListener("pointerdown", (e) => { from = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      if (!from || !view) return;
      view.yaw -= (e.clientX - from[0]) / 150;
      if (e.pointerType === "mouse") view.pitch = Math.min(1.57, Math.max(0, view.pitch + (e.clientY - from[1]) / 150));
      from = [e.clientX, e.clientY];
      draw();
    });
    for (const done of ["pointerup", "pointercancel"]) canvas.addEventListener(done, () => { from = null; });
  }
  toggle(playing);
  redraws.push(() => { if (current) draw(); });
  requestAnimationFrame(() => { choose(); requestAnimationFrame(tick); });
  return make("div", { class: "panel" }, make("div", { class: "sides" }, panels.real, panels.imagined),
    make("div", { class: "controls" }, play, slider, clock),
    make("div", { class: "controls" }, able.length > 1 ? which : null, episode, speed), note);
}
