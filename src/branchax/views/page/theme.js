"use strict";
// Light or dark, as it was chosen before or as the system has it, and drawings that follow it and the width.

const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
function theme(name) {
  document.documentElement.dataset.theme = name;
  for (const draw of redraws) draw();
}
document.getElementById("theme").addEventListener("click", () => {
  const name = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", name); } catch { /* a page from a file may not */ }
  theme(name);
});
theme(remembered() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
let wait = null;
addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(() => redraws.forEach((draw) => draw()), 100); });
