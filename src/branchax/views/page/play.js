"use strict";
// The policy at play: one episode after the other, from the server that plays them, or those that the page carries.

const data = JSON.parse(document.getElementById("data").textContent);

async function more(i) {
  if (!data.live) return data.runs[0].diagnosis.player.episodes[i] || null;
  try {
    const found = await fetch(`episode/${i}`);
    return found.ok ? await found.json() : null;
  } catch { return null; }  // the command has ended: what there is goes on
}

document.getElementById("main").append(make("section", {}, player(data.runs, more), make("p", {}, data.about)));
