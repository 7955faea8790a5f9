// What the explorers share. Python puts this in front of each one's module: nothing is imported.

const COLDEST = 0.25;
const HOTTEST = 50;
// The temperatures of the arrow keys: round numbers, about a tenth apart.
const RUNGS = [0.1, 1, 10]
  .flatMap((decade) =>
    [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9].map(
      (mantissa) => Number((decade * mantissa).toPrecision(2)),
    ),
  )
  .filter((rung) => rung >= COLDEST && rung <= HOTTEST);

function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  assign(node, attributes);
  node.append(...children);
  return node;
}

function assign(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A number for the eye, with its full value for a machine.
function writeNumber(node, value, text = readable(value)) {
  node.value = String(value);
  write(node, text);
}

function softmax(logits, temperature, into) {
  const highest = Math.max(...logits);
  let sum = 0;
  for (let k = 0; k < logits.length; k++) {
    into[k] = Math.exp((logits[k] - highest) / temperature);
    sum += into[k];
  }
  for (let k = 0; k < logits.length; k++) into[k] /= sum;
  return into;
}

function entropy(probabilities) {
  let sum = 0;
  for (const p of probabilities) if (p > 0) sum -= p * Math.log(p);
  return sum;
}

function distance(a, b) {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += (a[k] - b[k]) ** 2;
  return Math.sqrt(sum);
}

function readable(number) {
  if (number === 0) return "0";
  if (number >= 100) return number.toFixed(0);
  if (number >= 0.995) return number.toPrecision(3);
  if (number >= 0.0095) return number.toFixed(2);
  if (number < 1e-300) return "<10⁻³⁰⁰";
  const power = Math.floor(Math.log10(number));
  const digit = Math.round(number / 10 ** power);
  return digit === 10 ? powerOfTen(power + 1) : `${digit}·${powerOfTen(power)}`;
}

function powerOfTen(power) {
  const raised = [...String(power)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]));
  return `10${raised.join("")}`;
}

function spoken(temperature) {
  return temperature.toFixed(temperature < 1 ? 2 : 1);
}

function between(low, high, value) {
  return Math.min(high, Math.max(low, value));
}

// The rung so many places above the temperature, or below it.
function rungFrom(temperature, places) {
  const above = RUNGS.findIndex((rung) => rung > temperature * 1.0001);
  const first = above < 0 ? RUNGS.length : above;
  const onRung = first > 0 && RUNGS[first - 1] > temperature * 0.9999;
  const place = places > 0 ? first - 1 + places : first + places - (onRung ? 1 : 0);
  return RUNGS[between(0, RUNGS.length - 1, place)];
}

const floats = (view) =>
  new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// Keys pressed here are meant for the explorer; JupyterLab would move to another cell.
function keepKeys(root) {
  root.addEventListener("keydown", (event) => {
    const shortcut = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape";
    const runsTheCell = event.key === "Enter" && event.shiftKey;
    if (!shortcut && !runsTheCell) event.stopPropagation();
  });
}

// Tell Python what the reader has chosen; without a kernel it stays here.
function share(model, choice) {
  for (const [name, value] of Object.entries(choice)) model.set(name, value);
  model.save_changes();
}

// A button that runs `frame(seconds)` until it returns false or is pressed again.
// Readers who asked for less motion get a step a second.
function playButton(what, { frame, stopped }) {
  const button = html("button", { type: "button", class: "play" });
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let running = null;

  function label() {
    button.setAttribute("aria-label", running ? `pause ${what}` : `play ${what}`);
    button.classList.toggle("playing", Boolean(running));
  }

  function stop() {
    if (!running) return;
    running.ended = true;
    running = null;
    label();
    stopped();
  }

  function play() {
    const run = { began: performance.now(), ended: false };
    const later = (next) =>
      still.matches ? setTimeout(() => next(performance.now()), 1000) : requestAnimationFrame(next);
    const next = (now) => {
      if (run.ended) return;
      if (frame(Math.max(0, now - run.began) / 1000)) later(next);
      else stop();
    };
    running = run;
    label();
    later(next);
  }

  button.addEventListener("click", () => (running ? stop() : play()));
  label();
  return { button, stop };
}

// A figure with a title, a number beside it if it has a unit, and a drawing.
function panel(name, title, unit, height) {
  const value = html("data", { class: "now" });
  const drawing = svg("svg", { "aria-hidden": "true", height });
  const head = html("figcaption", {}, html("span", { class: "title" }, title));
  if (unit !== null) head.append(html("span", { class: "amount" }, value, unit));
  const node = html("figure", { class: name }, head, drawing);
  return { node, drawing, value, head };
}

// A table for those who do not see the drawing.
function unseenTable(title, columns, rows) {
  const head = html("tr", {}, ...columns.map((name) => html("th", { scope: "col" }, name)));
  const table = html("table", {}, title, html("thead", {}, head), html("tbody", {}, ...rows));
  return html("div", { class: "unseen" }, table);
}

function unseenRow(name, cells) {
  return html("tr", {}, html("th", { scope: "row" }, name), ...cells.map((cell) => html("td", {}, cell)));
}

// Calls back with the width whenever it changes, and now.
function onWidth(node, callback) {
  let width = 0;
  const look = () => {
    const wide = Math.floor(node.clientWidth);
    if (wide > 0 && wide !== width) callback((width = wide));
  };
  const observer = new ResizeObserver(look);
  observer.observe(node);
  look();
  return () => observer.disconnect();
}

let numbered = 0;
function uniqueId(what) {
  numbered += 1;
  return `kdlib-${what}-${numbered}`;
}
