// The temperature explorer: everything that moves is drawn here, from the teacher's real logits.

const SWEEP_SECONDS = 6;
const BARS_HEIGHT = 300;
const CURVES_HEIGHT = 232;
const FAINTEST = 1e-9; // the left end of the logarithmic scale
const MOST_ROWS = 12;
const LONGEST_NAME = 14;
const GRID = Array.from({ length: 121 }, (_, k) => COLDEST * (HOTTEST / COLDEST) ** (k / 120));

function render({ model, el }) {
  const data = unpacked(model);
  const chosen = { temperature: model.get("temperature"), index: model.get("index") };
  const teacher = new Float64Array(data.classes.length);
  const student = new Float64Array(data.classes.length);

  const slider = temperatureSlider(dragged, settled);
  const picture = pictureOf(data);
  const targets = targetBars(data);
  const softness = entropyCurve(data);
  const pull = gradientCurves(data);
  const strip = thumbnails(data, choose);
  const numbers = numberTable(data);
  const root = html(
    "div",
    { class: "kdlib kdlib-temperature", role: "group", "aria-label": "temperature explorer" },
    slider.node,
    html("div", { class: "panels" }, picture.node, targets.node, softness.node, pull.node),
    strip.node,
    caption(data),
    numbers.node,
  );

  function dragged(temperature) {
    chosen.temperature = temperature;
    draw();
  }

  function settled() {
    share(model, { temperature: chosen.temperature });
  }

  function choose(index) {
    chosen.index = index;
    show();
    share(model, { index });
  }

  // All that depends on the temperature; nodes are moved, none is made.
  function draw() {
    const { temperature, index } = chosen;
    softmax(data.logits[index], temperature, teacher);
    softmax(data.student[index], temperature, student);
    slider.draw(temperature);
    targets.draw(teacher, student);
    softness.draw(temperature, entropy(teacher));
    pull.draw(temperature, distance(student, teacher));
    numbers.draw(temperature, teacher, student);
  }

  // All that depends on the image.
  function show() {
    picture.show(chosen.index);
    targets.show(chosen.index);
    softness.show(chosen.index);
    pull.show(chosen.index);
    strip.show(chosen.index);
    numbers.show(chosen.index);
    draw();
  }

  // Each follows alone: an image chosen during a sweep leaves the sweep's temperature as it is.
  function followTemperature() {
    chosen.temperature = model.get("temperature");
    draw();
  }

  function followIndex() {
    chosen.index = model.get("index");
    show();
  }

  el.append(root);
  keepKeys(root);
  const ends = [targets, softness, pull].map((panel) =>
    onWidth(panel.node, (width) => {
      panel.resize(width);
      show();
    }),
  );
  show();
  ends.push(onWidth(strip.node, strip.reveal));
  model.on("change:temperature", followTemperature);
  model.on("change:index", followIndex);
  return () => {
    slider.stop();
    ends.forEach((end) => end());
    model.off("change:temperature", followTemperature);
    model.off("change:index", followIndex);
  };
}

function unpacked(model) {
  const classes = model.get("classes");
  const labels = model.get("_labels");
  const rows = (view) => {
    const all = Float64Array.from(floats(view));
    return labels.map((_, n) => all.subarray(n * classes.length, (n + 1) * classes.length));
  };
  const untrained = new Float64Array(classes.length);
  const given = model.get("_student_logits").byteLength > 0;
  return {
    classes,
    labels,
    order: model.get("_order"),
    logits: rows(model.get("_logits")),
    student: given ? rows(model.get("_student_logits")) : labels.map(() => untrained),
    hasStudent: given,
    pixels: bytes(model.get("_pixels")),
    size: model.get("_size"),
  };
}

function temperatureSlider(dragged, settled) {
  const id = uniqueId("temperature");
  const input = html("input", {
    id,
    type: "range",
    min: Math.log(COLDEST),
    max: Math.log(HOTTEST),
    step: "any",
  });
  const readout = html("output", { for: id, class: "readout", "aria-live": "off" });
  const { button, stop } = playButton("a sweep of the temperature", {
    frame: sweep,
    stopped: () => {
      began = null;
      settled();
    },
  });
  let temperature = 1;
  let began = null;

  const set = (value) => dragged(between(COLDEST, HOTTEST, Number(value.toPrecision(3))));

  // Up and down once, back to where it stood.
  function sweep(seconds) {
    began ??= temperature;
    const place = Math.min(1, seconds / SWEEP_SECONDS);
    const height = (1 - Math.cos(2 * Math.PI * (place + phaseOf(began)))) / 2;
    set(place < 1 ? COLDEST * (HOTTEST / COLDEST) ** height : began);
    return place < 1;
  }

  input.addEventListener("input", () => {
    stop();
    const position = Number(input.value);
    set(Math.abs(position) < 0.05 ? 1 : Math.exp(position));
  });
  input.addEventListener("change", settled);
  input.addEventListener("keydown", (event) => {
    const places = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
    const ends = { Home: COLDEST, End: HOTTEST };
    const { key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || !(key in places || key in ends)) return;
    event.preventDefault();
    stop();
    set(ends[key] ?? rungFrom(temperature, places[key]));
  });
  input.addEventListener("keyup", settled);

  const node = html(
    "div",
    { class: "drive" },
    button,
    html("label", { for: id }, "Drag the temperature"),
    html("span", { class: "value" }, html("i", {}, "T"), " = ", readout),
    html("div", { class: "track" }, input, sliderScale()),
  );

  function draw(value) {
    temperature = value;
    const position = Math.log(value);
    if (Math.abs(Number(input.value) - position) > 1e-9) input.value = position;
    input.setAttribute("aria-valuetext", `temperature ${spoken(value)}`);
    write(readout, value.toPrecision(3));
  }

  return { node, draw, stop };
}

// Where in a sweep this temperature lies on the way up, in turns.
function phaseOf(temperature) {
  const height = Math.log(temperature / COLDEST) / Math.log(HOTTEST / COLDEST);
  return Math.acos(between(-1, 1, 1 - 2 * height)) / (2 * Math.PI);
}

function sliderScale() {
  const scale = html("div", { class: "scale", "aria-hidden": "true" });
  for (const [temperature, text] of TICKS) {
    const place = Math.log(temperature / COLDEST) / Math.log(HOTTEST / COLDEST);
    scale.append(html("span", { style: `--place: ${place}` }, text));
  }
  const ends = [html("span", {}, "← nearer to one answer"), html("span", {}, "nearer to all alike →")];
  return html("div", {}, scale, html("div", { class: "ends", "aria-hidden": "true" }, ...ends));
}

const TICKS = [
  [0.25, "¼"],
  [1, "1"],
  [4, "4"],
  [20, "20"],
  [50, "50"],
];

function pictureOf(data) {
  const canvas = canvasFor(data, { class: "image", role: "img" });
  const label = html("b", { class: "hard" });
  const answer = html("b", { class: "teacher" });
  const node = html(
    "figure",
    { class: "picture" },
    canvas,
    html(
      "figcaption",
      {},
      html("span", {}, "label ", label),
      html("span", {}, "teacher predicts ", answer),
    ),
  );

  function show(index) {
    const { classes, labels, logits } = data;
    paint(canvas, data, index);
    canvas.setAttribute("aria-label", `image ${index}, label ${classes[labels[index]]}`);
    write(label, classes[labels[index]]);
    write(answer, classes[logits[index].indexOf(Math.max(...logits[index]))]);
  }

  return { node, show };
}

function canvasFor({ size: [channels, height, width] }, attributes) {
  const kind = channels === 1 ? "grey" : "colour";
  const name = `${attributes.class} ${kind}`;
  return html("canvas", { ...attributes, class: name, width, height });
}

// Grey images are dark on white, as on paper.
function paint(canvas, { pixels, size: [channels, height, width] }, index) {
  const area = height * width;
  const start = index * channels * area;
  const picture = new ImageData(width, height);
  for (let place = 0; place < area; place++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = pixels[start + (channels === 1 ? 0 : colour) * area + place];
      picture.data[4 * place + colour] = channels === 1 ? 255 - value : value;
    }
    picture.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

// One bar for each class: the teacher's, the student's below it, and the label as an outline of length 1.
function targetBars({ classes, labels, logits, hasStudent }) {
  const title = html("span", {}, "soft targets of ", html("b", { class: "teacher" }, "teacher"));
  if (hasStudent) title.append(" and ", html("b", { class: "student" }, "student"));
  const { node, drawing, head } = panel("targets", title, null, BARS_HEIGHT);
  const log = html("input", { type: "checkbox" });
  head.append(html("label", { class: "toggle" }, log, "log scale"));

  const count = Math.min(classes.length, MOST_ROWS);
  const step = (BARS_HEIGHT - 30) / count;
  const thick = hasStudent ? 0.42 : 0.62;
  const rows = Array.from({ length: count }, (_, place) => barRow(place, step, thick, hasStudent));
  const outline = svg("rect", { class: "outline", height: step - 3, rx: 2 });
  const outlineName = svg("text", { class: "hard small", "text-anchor": "end" });
  write(outlineName, "label");
  const axis = svg("g", { class: "axis" });
  drawing.append(axis, outline, outlineName, ...rows.map((row) => row.node));

  let shown = [];
  let label = 0;
  let left = 0;
  let span = 1;
  let last = null;

  const length = (p) =>
    log.checked ? span * Math.max(0, 1 - Math.log(p) / Math.log(FAINTEST)) : span * p;

  function resize(width) {
    const longest = Math.max(...classes.map((name) => clipped(name).length));
    left = 11 + 7.2 * longest;
    span = Math.max(40, width - left - 66);
    drawing.setAttribute("width", width);
    for (const row of rows) row.place(left);
    outline.setAttribute("x", left);
    outline.setAttribute("width", span);
    outlineName.setAttribute("x", left + span - 5);
    drawAxis();
  }

  function drawAxis() {
    const ticks = log.checked ? [-9, -6, -3, 0] : [0, 0.25, 0.5, 0.75, 1];
    axis.replaceChildren(
      ...ticks.flatMap((tick) => {
        const x = left + (log.checked ? span * (1 + tick / 9) : span * tick);
        const text = svg("text", { x, y: BARS_HEIGHT - 6, "text-anchor": "middle" });
        write(text, log.checked && tick ? powerOfTen(tick) : String(log.checked ? 1 : tick));
        return [svg("line", { x1: x, x2: x, y1: 0, y2: BARS_HEIGHT - 24 }), text];
      }),
    );
  }

  function show(index) {
    label = labels[index];
    shown = rowsFor(logits[index], label, count);
    rows.forEach((row, place) => row.name(classes[shown[place]], shown[place] === label));
    const y = shown.indexOf(label) * step + 1.5;
    outline.setAttribute("y", y);
    outlineName.setAttribute("y", y + step / 2 + 2.5);
  }

  function draw(teacher, student) {
    last = [teacher, student];
    rows.forEach((row, place) => {
      const k = shown[place];
      row.draw(teacher[k], length(teacher[k]), student[k], length(student[k]));
    });
    const highest = hasStudent ? Math.max(teacher[label], student[label]) : teacher[label];
    const inTheWay = length(highest) > span - 80;
    outlineName.setAttribute("visibility", inTheWay ? "hidden" : "visible");
  }

  log.addEventListener("change", () => {
    drawAxis();
    draw(...last);
  });
  return { node, resize, show, draw };
}

// Every class in its order; of many classes the likeliest, and the labelled one.
function rowsFor(logits, label, count) {
  const places = Array.from(logits, (_, k) => k);
  if (places.length <= count) return places;
  const likeliest = places.sort((a, b) => logits[b] - logits[a]).slice(0, count);
  if (!likeliest.includes(label)) likeliest[count - 1] = label;
  return likeliest;
}

// Beside a bar there is room for a short name; the table for screen readers has all of it.
function clipped(name) {
  return name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
}

function barRow(place, step, thick, hasStudent) {
  const top = place * step + (hasStudent ? 0.08 : 0.19) * step;
  const name = svg("text", { class: "name", y: place * step + step / 2 + 4, "text-anchor": "end" });
  const bar = svg("rect", { class: "teacher", y: top, height: thick * step, rx: 1 });
  const number = svg("text", { class: "number", y: top + (thick * step) / 2 + 4 });
  const node = svg("g", {}, name, bar, number);
  const below = svg("rect", { class: "student", y: top + thick * step + 1, height: 0.34 * step, rx: 1 });
  const numberBelow = svg("text", { class: "number student", y: top + (thick + 0.17) * step + 5 });
  if (hasStudent) node.append(below, numberBelow);
  let start = 0;

  return {
    node,
    place(left) {
      start = left;
      name.setAttribute("x", left - 8);
      bar.setAttribute("x", left);
      below.setAttribute("x", left);
    },
    name(text, labelled) {
      write(name, clipped(text));
      name.classList.toggle("hard", labelled);
    },
    draw(p, length, q, lengthBelow) {
      bar.setAttribute("width", length);
      number.setAttribute("x", start + length + 6);
      write(number, readable(p));
      if (!hasStudent) return;
      below.setAttribute("width", lengthBelow);
      numberBelow.setAttribute("x", start + lengthBelow + 6);
      write(numberBelow, readable(q));
    },
  };
}
