"use strict";
const [infos, sheets] = JSON.parse(document.getElementById("data").textContent);
const $ = (query, at = document) => at.querySelector(query);
const $$ = (query, at = document) => [...at.querySelectorAll(query)];
const panel = $("aside"), tip = $(".tip"), search = $("input");
const views = $$(".sheet").map((place, n) => {
  const { boxes, edges } = sheets[n];
  const neighbours = (from, to) => {
    const near = boxes.map(() => []);
    edges.forEach((edge) => near[edge[from]].push(edge[to]));
    return near;
  };
  return { place, boxes, svg: $("svg", place), nodes: $$(".node", place), edges: $$(".edge", place), pairs: edges,
    above: neighbours(1, 0), below: neighbours(0, 1), x: 0, y: 0, scale: 0 };
});
let view = views[0], status = null, chosen = null;

// ---- moving
const draw = (v = view) => { v.svg.style.transform = `translate(${v.x}px, ${v.y}px) scale(${v.scale})`; };
const size = (v) => ({ width: v.svg.width.baseVal.value, height: v.svg.height.baseVal.value });
function fit(whole) {
  const { width, height } = size(view), room = view.place.getBoundingClientRect();
  const wide = (room.width - 24) / width, high = (room.height - 24) / height;
  view.scale = Math.min(1.15, whole ? Math.min(wide, high) : Math.max(wide, Math.min(0.55, 1)));
  view.x = Math.max(12, (room.width - width * view.scale) / 2);
  view.y = Math.max(12, whole ? (room.height - height * view.scale) / 2 : 12);
  draw();
}
function zoom(factor, x, y) {
  const scale = Math.min(4, Math.max(0.05, view.scale * factor)), by = scale / view.scale;
  view.x = x - (x - view.x) * by;
  view.y = y - (y - view.y) * by;
  view.scale = scale;
  draw();
}
function centre(n) {
  const box = $("rect", view.nodes[n]), room = view.place.getBoundingClientRect();
  const at = (side, length) => box[side].baseVal.value + box[length].baseVal.value / 2;
  view.scale = Math.max(view.scale, 0.8);
  const free = panel.hidden ? room.width : Math.max(room.width - panel.offsetWidth, 120);
  view.x = free / 2 - at("x", "width") * view.scale;
  view.y = room.height / 2 - at("y", "height") * view.scale;
  draw();
}

// ---- what is lit: a box with everything that it needs and that needs it, a status, or what was searched for
function reach(n, near) {
  const seen = new Set([n]), stack = [n];
  while (stack.length) near[stack.pop()].forEach((next) => { if (!seen.has(next)) { seen.add(next); stack.push(next); } });
  return seen;
}
function light(n) {
  const word = search.value.trim().toLowerCase();
  const isMeant = (at) => view.boxes[at].some((task) => (!status || infos[task].status === status)
    && (!word || infos[task].name.toLowerCase().includes(word) || infos[task].kind.toLowerCase().includes(word)));
  const above = n === null ? null : reach(n, view.above), below = n === null ? null : reach(n, view.below);
  const isLit = (at) => (n === null ? isMeant(at) : above.has(at) || below.has(at));
  view.nodes.forEach((node, at) => {
    node.classList.toggle("faded", !isLit(at));
    node.classList.toggle("chosen", at === chosen);
  });
  view.edges.forEach((edge, at) => {
    const [from, to] = view.pairs[at];
    const isOn = n === null ? isMeant(from) && isMeant(to)
      : (above.has(from) && above.has(to)) || (below.has(from) && below.has(to));
    edge.classList.toggle("faded", !isOn);
    edge.classList.toggle("lit", n !== null && isOn);
  });
}

// ---- details
const text = (tag, words, name) => {
  const made = document.createElement(tag);
  if (words) made.textContent = words;
  if (name) made.className = name;
  return made;
};
const words = { hit: "up to date", miss: "must run", unknown: "known later", blocked: "cannot run" };
const title = (n) => $("text", view.nodes[n]).parentNode.dataset.name;
function terms(task) {
  const list = text("dl");
  const rows = [["status", words[task.status]], ["why", task.reason], ["kind", task.kind], ["key", task.key], ["took", task.took]];
  rows.filter((row) => row[1]).forEach(([term, value]) => list.append(text("dt", term), text("dd", value)));
  return list;
}
function links(head, boxes) {
  if (!boxes.length) return [];
  const list = text("ul");
  boxes.forEach((n) => {
    const item = text("li"), link = text("a", title(n), `dot ${view.nodes[n].dataset.status}`);
    link.tabIndex = 0;
    link.addEventListener("click", () => show(n));
    item.append(link);
    list.append(item);
  });
  return [text("h3", head), list];
}
function show(n) {
  chosen = n;
  const tasks = view.boxes[n].map((task) => infos[task]), inside = text("ul");
  const body = $("div", panel);
  body.replaceChildren(text("h2", title(n)));
  if (tasks.length === 1) {
    body.append(terms(tasks[0]));
  } else {
    tasks.forEach((task) => {
      const item = text("li", "", ""), name = text("span", task.name, `dot ${task.status}`);
      item.append(name, text("small", [task.kind, task.took, task.reason].filter(Boolean).join(" · ")));
      inside.append(item);
    });
    body.append(text("h3", `${tasks.length} tasks`), inside);
  }
  body.append(...links("needs", view.above[n]), ...links("is needed by", view.below[n]));
  panel.hidden = false;
  light(n);
  const box = view.nodes[n].getBoundingClientRect(), edge = panel.getBoundingClientRect();
  if (box.right > edge.left || box.left < 0 || box.top < 0 || box.bottom > innerHeight) centre(n);
}
function close() {
  panel.hidden = true;
  chosen = null;
  light(null);
}
function hover(n, event) {
  const tasks = view.boxes[n].map((task) => infos[task]), count = (word) => tasks.filter((task) => task.status === word).length;
  const lines = tasks.length === 1
    ? [`${tasks[0].kind} · ${words[tasks[0].status]}${tasks[0].took ? ` · took ${tasks[0].took}` : ""}`, tasks[0].reason]
    : [Object.keys(words).filter(count).map((word) => `${count(word)} ${words[word]}`).join(", ")];
  tip.replaceChildren(text("b", title(n)), ...lines.filter(Boolean).map((line) => text("small", line)));
  tip.hidden = false;
  const room = $("main").getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX - room.left + 14, room.width - tip.offsetWidth - 6)}px`;
  tip.style.top = `${Math.min(event.clientY - room.top + 14, room.height - tip.offsetHeight - 6)}px`;
}

// ---- listening
views.forEach((v) => {
  let from = null, moved = false;
  v.place.addEventListener("pointerdown", (event) => { from = [event.clientX - v.x, event.clientY - v.y]; moved = false; });
  v.place.addEventListener("pointermove", (event) => {
    if (!from || !(event.buttons & 1)) return;
    const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
    moved = moved || Math.hypot(x - v.x, y - v.y) > 3;
    if (!moved) return;
    [v.x, v.y] = [x, y];
    v.place.classList.add("moving");
    tip.hidden = true;
    draw();
  });
  const end = () => { from = null; v.place.classList.remove("moving"); };
  v.place.addEventListener("pointerup", end);
  v.place.addEventListener("pointerleave", end);
  v.place.addEventListener("click", (event) => { if (!moved && !event.target.closest(".node")) close(); });
  v.place.addEventListener("wheel", (event) => {
    event.preventDefault();
    const room = v.place.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 500), event.clientX - room.left, event.clientY - room.top);
  }, { passive: false });
  v.nodes.forEach((node, n) => {
    $("title", node).remove();
    node.addEventListener("mousemove", (event) => { if (!event.buttons) hover(n, event); });
    node.addEventListener("mouseenter", () => { if (chosen === null) light(n); });
    node.addEventListener("mouseleave", () => { tip.hidden = true; if (chosen === null) light(null); });
    node.addEventListener("click", () => { if (!moved) show(n); });
  });
});
$$("[data-sheet]").forEach((button) => button.addEventListener("click", () => {
  const shown = panel.hidden ? null : view.boxes[chosen][0];
  view.place.hidden = true;
  view = views[Number(button.dataset.sheet)];
  view.place.hidden = false;
  $$("[data-sheet]").forEach((each) => each.setAttribute("aria-pressed", each === button));
  if (!view.scale) fit(false);
  close();
  if (shown !== null) show(view.boxes.findIndex((box) => box.includes(shown)));
}));
$$("[data-status]").forEach((button) => button.addEventListener("click", () => {
  status = status === button.dataset.status ? null : button.dataset.status;
  $$("[data-status]").forEach((each) => each.setAttribute("aria-pressed", each.dataset.status === status));
  close();
}));
$$("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
  const room = view.place.getBoundingClientRect();
  zoom(Number(button.dataset.zoom), room.width / 2, room.height / 2);
}));
$("[data-fit]").addEventListener("click", () => fit(true));
$("[data-close]").addEventListener("click", close);
search.addEventListener("input", () => {
  close();
  const word = search.value.trim().toLowerCase();
  const found = view.boxes.findIndex((box) => box.some((task) => infos[task].name.toLowerCase().includes(word)));
  if (word && found >= 0) centre(found);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") { search.value = ""; close(); }
  if (event.key === "/" && event.target !== search) { event.preventDefault(); search.focus(); }
});
fit(false);
