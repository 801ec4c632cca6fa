"use strict";
// The map: points on a canvas, moved by dragging, enlarged by the wheel. Names reach the page as text, never as markup.
(() => {
  const { genes, x, y, sets } = JSON.parse(document.getElementById("data").textContent);
  const [canvas, tip, find, found] = ["map", "tip", "find", "found"].map((id) => document.getElementById(id));
  const context = canvas.getContext("2d");
  const all = genes.map((_, gene) => gene);
  const STEPS = 20000, MARGIN = 24, REACH = 9;
  const setsOf = new Map();
  sets.forEach((set, index) => set.genes.forEach((gene) => setsOf.set(gene, [...(setsOf.get(gene) ?? []), index])));
  const shown = sets.map(() => true);
  let view = { scale: 1, left: 0, top: 0 }, width = 0, height = 0, marked = [], asked = false;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const place = (gene) => [x[gene] * view.scale + view.left, y[gene] * view.scale + view.top];

  function whole() {
    const side = Math.min(width, height) - 2 * MARGIN;
    const [right, bottom] = [x, y].map((all) => all.reduce((most, at) => Math.max(most, at), 0));
    view.scale = side / STEPS;
    view.left = (width - right * view.scale) / 2;
    view.top = (height - bottom * view.scale) / 2;
    redraw();
  }

  function draw() {
    asked = false;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const enlarged = (view.scale * STEPS) / Math.max(1, Math.min(width, height));
    const least = genes.length > 5000 ? 1.6 : genes.length > 500 ? 3 : 7;
    const size = Math.min(9, least * Math.sqrt(Math.max(1, enlarged)));
    const dots = (list, style, size) => {
      context.fillStyle = style;
      for (const gene of list) {
        const [left, top] = place(gene);
        if (left < -size || top < -size || left > width + size || top > height + size) continue;
        context.fillRect(left - size / 2, top - size / 2, size, size);
      }
    };
    const coloured = new Set(sets.flatMap((set, index) => (shown[index] ? set.genes : [])));
    context.globalAlpha = coloured.size ? 0.45 : 0.7;
    dots(all.filter((gene) => !coloured.has(gene)), colour("--point"), size);
    context.globalAlpha = 1;
    sets.forEach((set, index) => shown[index] && dots(set.genes, colour(`--set-${index}`), size + 1.5));
    context.font = "12px system-ui, sans-serif";
    context.lineWidth = 2;
    for (const gene of marked) {
      const [left, top] = place(gene);
      context.strokeStyle = colour("--accent");
      context.beginPath();
      context.arc(left, top, size / 2 + 5, 0, 2 * Math.PI);
      context.stroke();
      if (marked.length > 60) continue;
      context.strokeStyle = colour("--paper");
      context.lineWidth = 4;
      context.strokeText(genes[gene], left + 10, top + 4);
      context.fillStyle = colour("--ink");
      context.fillText(genes[gene], left + 10, top + 4);
      context.lineWidth = 2;
    }
  }

  function redraw() {
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  }

  function nearest(left, top) {
    let [best, least] = [-1, REACH * REACH];
    for (let gene = 0; gene < genes.length; gene++) {
      const [dx, dy] = [x[gene] * view.scale + view.left - left, y[gene] * view.scale + view.top - top];
      if (dx * dx + dy * dy < least) [best, least] = [gene, dx * dx + dy * dy];
    }
    return best;
  }

  function tell(event) {
    const gene = nearest(event.offsetX, event.offsetY);
    tip.hidden = gene < 0;
    if (gene < 0) return;
    const name = document.createElement("b");
    name.textContent = genes[gene];
    const lines = (setsOf.get(gene) ?? []).map((index) => {
      const line = document.createElement("div");
      line.textContent = sets[index].name;
      line.style.color = `var(--set-${index})`;
      return line;
    });
    tip.replaceChildren(name, ...lines);
    tip.style.left = `${Math.min(event.offsetX + 14, width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.offsetY + 14, height - tip.offsetHeight - 4)}px`;
  }

  function search() {
    const text = find.value.trim().toLowerCase();
    const named = genes.map((name, gene) => [name.toLowerCase(), gene]);
    const same = text ? named.filter(([name]) => name === text) : [];
    marked = (same.length || !text ? same : named.filter(([name]) => name.startsWith(text))).map(([, gene]) => gene);
    found.textContent = text ? (marked.length === 1 ? genes[marked[0]] : `${marked.length} genes`) : "";
    redraw();
  }

  function centre() {
    if (!marked.length) return;
    const [left, top] = place(marked[0]);
    view.left += width / 2 - left;
    view.top += height / 2 - top;
    redraw();
  }

  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = [event.clientX - view.left, event.clientY - view.top];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => (dragged = null));
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) return tell(event);
    tip.hidden = true;
    [view.left, view.top] = [event.clientX - dragged[0], event.clientY - dragged[1]];
    redraw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const factor = Math.exp(-Math.sign(event.deltaY) * Math.min(0.5, Math.abs(event.deltaY) / 400));
    view.scale *= factor;
    view.left = event.offsetX - (event.offsetX - view.left) * factor;
    view.top = event.offsetY - (event.offsetY - view.top) * factor;
    redraw();
  }, { passive: false });
  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => event.key === "Enter" && centre());
  document.getElementById("whole").addEventListener("click", whole);

  for (const [index, set] of sets.entries()) {
    const button = document.createElement("button");
    const spot = document.createElement("i");
    spot.style.background = `var(--set-${index})`;
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(spot, `${set.name} (${set.genes.length})`);
    button.addEventListener("click", () => {
      shown[index] = !shown[index];
      button.setAttribute("aria-pressed", shown[index]);
      redraw();
    });
    document.getElementById("sets").append(button);
  }

  new ResizeObserver(() => {
    const first = width === 0;
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    if (first) whole();
    else redraw();
  }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
