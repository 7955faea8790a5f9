// Temperature and alpha, dragged over a grid of trained students. Nothing is interpolated between them.

const ROW = 44;
const GRID_LEFT = 34;
const GRID_BOTTOM = 40;
const DOTS_HEIGHT = 150;
const TERMS_HEIGHT = 64;

function render({ model, el }) {
  const grid = unpackedGrid(model);
  const chosen = { temperature: model.get("temperature"), alpha: model.get("alpha") };
  const temperature = stops("temperature", "Drag the temperature T", grid.temperatures, choose, settled);
  const alpha = stops("alpha", "and the weight α of soft targets", grid.alphas, choose, settled);
  const map = errorMap(grid, choose, settled);
  const dots = errorDots(grid);
  const terms = lossTerms(grid);
  const root = html(
    "div",
    { class: "kdlib kdlib-distillation", role: "group", "aria-label": "distillation explorer" },
    html("div", { class: "two" }, temperature.node, alpha.node),
    html("div", { class: "panels" }, map.node, html("div", {}, dots.node, terms.node)),
    html(
      "p",
      { class: "caption" },
      `Means and intervals of 95 % are over the seeds of ${grid.labels.errors.length} students; in the grid ` +
        "green settings make fewer errors than labels only, grey ones more, and where the paired interval " +
        "contains zero there is no colour.",
    ),
    gridTable(grid),
  );

  function choose(choice) {
    Object.assign(chosen, choice);
    draw();
  }

  function settled() {
    share(model, chosen);
  }

  function draw() {
    const cell = grid.at(chosen);
    temperature.draw(chosen.temperature);
    alpha.draw(chosen.alpha);
    map.draw(cell, chosen);
    dots.draw(cell, chosen);
    terms.draw(cell, chosen);
  }

  function followPython() {
    choose({ temperature: model.get("temperature"), alpha: model.get("alpha") });
  }

  el.append(root);
  keepKeys(root);
  const ends = [map, dots, terms].map((panel) =>
    onWidth(panel.node, (width) => {
      panel.resize(width);
      draw();
    }),
  );
  draw();
  model.on("change:temperature", followPython);
  model.on("change:alpha", followPython);
  return () => {
    ends.forEach((end) => end());
    model.off("change:temperature", followPython);
    model.off("change:alpha", followPython);
  };
}

function unpackedGrid(model) {
  const cells = model.get("_cells");
  const find = (alpha, T) => cells.find((c) => c.alpha === alpha && (alpha === 0 || c.temperature === T));
  return {
    cells,
    temperatures: model.get("_temperatures"),
    alphas: model.get("_alphas"),
    labels: cells.find((cell) => cell.alpha === 0),
    testImages: model.get("_test_images"),
    at: ({ temperature, alpha }) => find(alpha, temperature),
  };
}

// A slider that stops at each of these values.
function stops(name, title, values, choose, settled) {
  const id = uniqueId("stops");
  const input = html("input", { id, type: "range", min: 0, max: values.length - 1, step: 1 });
  const readout = html("output", { for: id, class: "readout", "aria-live": "off" });
  const scale = html("div", { class: "scale", "aria-hidden": "true" });
  values.forEach((value, k) => {
    scale.append(html("span", { style: `--place: ${k / Math.max(1, values.length - 1)}` }, short(value)));
  });
  input.addEventListener("input", () => choose({ [name]: values[Number(input.value)] }));
  input.addEventListener("change", settled);
  const node = html(
    "div",
    { class: "drive" },
    html("label", { for: id }, title),
    html("span", { class: "value" }, readout),
    html("div", { class: "track" }, input, scale),
  );
  return {
    node,
    draw(value) {
      input.value = values.indexOf(value);
      input.setAttribute("aria-valuetext", `${name} ${short(value)}`);
      write(readout, short(value));
    },
  };
}

// The mean errors of every setting, which can be dragged over, too.
function errorMap(grid, choose, settled) {
  const { cells, temperatures, alphas } = grid;
  const height = ROW * alphas.length + GRID_BOTTOM;
  const { node, drawing } = panel("map", "mean test errors of each setting", null, height);
  const best = Math.min(...cells.map((cell) => cell.against.difference));
  const fields = cells.map((cell) => {
    const number = svg("text", { "text-anchor": "middle", class: "name" });
    write(number, cell.alpha ? cell.mean.toFixed(0) : `labels only: ${cell.mean.toFixed(0)}`);
    const shade = svg("rect", { class: `shade ${cell.against.verdict.replaceAll(" ", "-")}` });
    shade.style.setProperty("--gain", cell.against.difference / best);
    return { cell, shade, number };
  });
  const axis = svg("g", {});
  const ring = svg("rect", { class: "ring", height: ROW - 4, rx: 3 });
  drawing.append(axis, ...fields.flatMap(({ shade, number }) => [shade, number]), ring);
  let step = 1;

  const rowOf = (alpha) => alphas.length - 1 - alphas.indexOf(alpha);
  const place = (alpha, T) => ({
    x: GRID_LEFT + (alpha ? temperatures.indexOf(T) * step : 0) + 2,
    y: rowOf(alpha) * ROW + 2,
    width: Math.max(0, (alpha ? step : step * temperatures.length) - 4),
  });

  function resize(width) {
    step = Math.max(10, (width - GRID_LEFT) / temperatures.length);
    drawing.setAttribute("width", width);
    for (const { cell, shade, number } of fields) {
      const at = place(cell.alpha, cell.temperature);
      assign(shade, { ...at, height: ROW - 4 });
      assign(number, { x: at.x + at.width / 2, y: at.y + ROW / 2 + 2 });
    }
    axis.replaceChildren(
      ...alphas.map((alpha) => note(short(alpha), GRID_LEFT - 8, rowOf(alpha) * ROW + ROW / 2 + 4, "end")),
      ...temperatures.map((T, k) =>
        note(short(T), GRID_LEFT + (k + 0.5) * step, ROW * alphas.length + 16, "middle"),
      ),
      note("temperature T", GRID_LEFT + (step * temperatures.length) / 2, height - 6, "middle"),
      note("α", 4, 12, "start"),
    );
  }

  function pick(event) {
    const box = drawing.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - GRID_LEFT) / step);
    const row = Math.floor((event.clientY - box.top) / ROW);
    choose({
      temperature: temperatures[between(0, temperatures.length - 1, column)],
      alpha: alphas[alphas.length - 1 - between(0, alphas.length - 1, row)],
    });
  }

  drawing.addEventListener("pointerdown", (event) => {
    drawing.setPointerCapture(event.pointerId);
    pick(event);
  });
  drawing.addEventListener("pointermove", (event) => {
    if (drawing.hasPointerCapture(event.pointerId)) pick(event);
  });
  drawing.addEventListener("pointerup", settled);
  return {
    node,
    resize,
    draw: (cell, { temperature, alpha }) => assign(ring, place(alpha, temperature)),
  };
}

function note(text, x, y, anchor) {
  const node = svg("text", { x, y, "text-anchor": anchor });
  write(node, String(text));
  return node;
}

// Every student's errors: with labels only, and in this setting.
function errorDots({ cells, labels, testImages }) {
  const { node, drawing } = panel("dots", "test errors; each dot is one student", null, DOTS_HEIGHT);
  const all = cells.flatMap(({ errors, low, high }) => [...errors, low, high]);
  const margin = 0.03 * (Math.max(...all) - Math.min(...all)) || 1;
  const [least, most] = [Math.min(...all) - margin, Math.max(...all) + margin];
  const rows = [dotRow("hard", labels, 24), dotRow("soft", labels, 84)];
  const axis = svg("g", { class: "axis" });
  const verdict = html("p", { class: "verdict" });
  const scores = html("p", { class: "scores" });
  drawing.append(axis, ...rows.map((row) => row.node));
  node.append(verdict, scores);
  let span = 1;
  const x = (errors) => 8 + (span * (errors - least)) / (most - least);

  function resize(width) {
    span = Math.max(40, width - 16);
    drawing.setAttribute("width", width);
    axis.replaceChildren(
      ...roundNumbers(least, most).flatMap((errors) => [
        svg("line", { x1: x(errors), x2: x(errors), y1: 0, y2: DOTS_HEIGHT - 22 }),
        note(errors, x(errors), DOTS_HEIGHT - 6, "middle"),
      ]),
    );
    rows[0].draw(labels, x, "labels only");
  }

  function draw(cell, { temperature, alpha }) {
    rows[1].draw(cell, x, alpha ? `T = ${short(temperature)}, α = ${short(alpha)}` : "α = 0: the same");
    write(verdict, alpha ? inWords(cell.against) : "Without soft targets the temperature plays no part.");
    const accuracy = testImages ? `Accuracy ${right(cell)}; with labels only ${right(labels)}. ` : "";
    write(scores, accuracy + (cell.loss ? `Test loss ${nats(cell.loss)}.` : ""));
  }

  // More errors are less accuracy, so the interval's ends change places.
  function right({ mean, low, high }) {
    const percent = (errors) => (100 * (1 - errors / testImages)).toFixed(2);
    return `${percent(mean)} % [${percent(high)}, ${percent(low)}]`;
  }

  function nats({ mean, low, high }) {
    return `${mean.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}] nats`;
  }

  return { node, resize, draw };
}

// As many digits as one would write by hand: 0.3, not 0.30000000000000004.
function short(value) {
  return String(Number(value.toPrecision(6)));
}

function inWords({ difference, low, high, n, verdict }) {
  const digits = Math.max(Math.abs(low), Math.abs(high)) < 10 ? 1 : 0;
  const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(digits)}`;
  return (
    `${signed(difference)} errors against labels only [${signed(low)}, ${signed(high)}], ` +
    `n = ${n}, paired: ${verdict}.`
  );
}

function roundNumbers(least, most) {
  const rough = (most - least) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(least / step);
  return Array.from({ length: Math.floor(most / step) - first + 1 }, (_, k) => (first + k) * step);
}

function dotRow(ink, { errors }, y) {
  const title = svg("text", { y: y - 10, class: ink });
  const bar = svg("line", { class: `interval ${ink}`, y1: y + 8, y2: y + 8 });
  const middle = svg("line", { class: `middle ${ink}`, y1: y - 2, y2: y + 18 });
  const dots = errors.map(() => svg("circle", { class: `dot ${ink}`, r: 4, cy: y + 8 }));
  const node = svg("g", {}, bar, middle, ...dots, title);
  return {
    node,
    draw(cell, x, name) {
      const { mean, low, high } = cell;
      assign(bar, { x1: x(low), x2: x(high) });
      assign(middle, { x1: x(mean), x2: x(mean) });
      dots.forEach((dot, k) => dot.setAttribute("cx", x(cell.errors[k])));
      title.setAttribute("x", 8);
      write(title, `${name}: ${mean.toFixed(0)} [${low.toFixed(0)}, ${high.toFixed(0)}]`);
    },
  };
}

// The two terms: as measured in the last epoch, or the weights with which they enter.
function lossTerms({ cells }) {
  const measured = cells.every((cell) => cell.terms);
  const title = measured ? "the loss’s terms, last epoch" : "weights of the loss’s terms";
  const { node, drawing } = panel("terms", title, null, TERMS_HEIGHT);
  const bars = [termBar("soft", 4), termBar("hard", 34)];
  drawing.append(...bars.map((bar) => bar.node));
  const values = (cell) => (measured ? [cell.terms.soft, cell.terms.hard] : [cell.alpha, 1 - cell.alpha]);
  const longest = Math.max(...cells.flatMap(values));
  let span = 1;

  function resize(width) {
    span = Math.max(40, width - (measured ? 240 : 190));
    drawing.setAttribute("width", width);
  }

  function words({ terms }, { temperature, alpha }) {
    const weighted = [`${short(alpha)} · T² · KL at T = ${short(temperature)}`, `${short(1 - alpha)} · cross entropy`];
    if (!measured) return weighted;
    return [terms.soft, terms.hard].map((nats, k) => `${readable(nats)} nats of ${weighted[k]}`);
  }

  function draw(cell, setting) {
    const texts = words(cell, setting);
    values(cell).forEach((value, k) => bars[k].draw((span * value) / longest, texts[k]));
  }

  return { node, resize, draw };
}

function termBar(ink, y) {
  const bar = svg("rect", { class: ink, y, height: 18, rx: 1 });
  const text = svg("text", { class: ink, y: y + 13 });
  return {
    node: svg("g", {}, bar, text),
    draw(length, words) {
      bar.setAttribute("width", Math.max(0, length));
      text.setAttribute("x", Math.max(0, length) + 8);
      write(text, words);
    },
  };
}

function gridTable({ temperatures, alphas, at }) {
  const rows = alphas.map((alpha) => {
    const cells = temperatures.map((temperature) => {
      const number = html("data", {});
      const { mean, against } = at({ temperature, alpha });
      writeNumber(number, mean, alpha ? `${mean.toFixed(1)}, ${against.verdict}` : mean.toFixed(1));
      return number;
    });
    return unseenRow(short(alpha), cells);
  });
  const title = html("caption", {}, "Mean test errors by temperature and alpha, each against labels only");
  return unseenTable(title, ["alpha", ...temperatures.map((T) => `T = ${short(T)}`)], rows);
}

export default { render };
