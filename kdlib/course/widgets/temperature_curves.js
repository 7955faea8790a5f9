// Axes of a curve over the temperature, 0 to 1 upwards.
function plane(drawing, right) {
  const top = 10;
  const bottom = CURVES_HEIGHT - 36;
  const left = 34;
  let span = 1;
  return {
    top,
    bottom,
    left,
    resize(width) {
      span = Math.max(40, width - left - right);
      drawing.setAttribute("width", width);
    },
    end: () => left + span,
    x: (temperature) => left + (span * Math.log(temperature / COLDEST)) / Math.log(HOTTEST / COLDEST),
    y: (height) => bottom - (bottom - top) * between(0, 1, height),
  };
}

function temperatureAxis({ x, bottom, left, end }) {
  const title = svg("text", { x: (left + end()) / 2, y: bottom + 32, "text-anchor": "middle" });
  write(title, "temperature T");
  return [
    svg("line", { class: "base", x1: left, x2: end(), y1: bottom, y2: bottom }),
    ...TICKS.map(([temperature, name]) => {
      const text = svg("text", { x: x(temperature), y: bottom + 16, "text-anchor": "middle" });
      write(text, name);
      return text;
    }),
    title,
  ];
}

function heightAxis({ y, left, end }, ticks) {
  return ticks.flatMap(([height, name]) => {
    const text = svg("text", { x: left - 6, y: y(height) + 4, "text-anchor": "end" });
    write(text, name);
    return [svg("line", { x1: left, x2: end(), y1: y(height), y2: y(height) }), text];
  });
}

function pathOver({ x, y }, heights) {
  return heights
    .map((height, k) => `${k ? "L" : "M"}${x(GRID[k]).toFixed(2)} ${y(height).toFixed(2)}`)
    .join("");
}

function entropyCurve({ classes, logits }) {
  const title = html("span", {}, "their ", html("b", { class: "teacher" }, "entropy"));
  const { node, drawing, value } = panel("entropy", title, " nats", CURVES_HEIGHT);
  const axes = plane(drawing, 14);
  const most = Math.log(classes.length);
  const fraction = (nats) => nats / (1.12 * most);
  const frame = svg("g", { class: "axis" });
  const ceiling = svg("line", { class: "ceiling" });
  const ceilingName = svg("text", { class: "note" });
  write(ceilingName, `all ${classes.length} alike: ${most.toFixed(2)}`);
  const hair = svg("line", { class: "hair", y1: axes.top, y2: axes.bottom });
  const curve = svg("path", { class: "curve" });
  const mark = svg("circle", { class: "mark teacher", r: 6 });
  drawing.append(frame, ceiling, ceilingName, hair, curve, mark);

  function resize(width) {
    axes.resize(width);
    const whole = Array.from({ length: Math.floor(most) + 1 }, (_, nats) => nats);
    const nats = whole.filter((tick) => most < 4 || tick % 2 === 0);
    frame.replaceChildren(
      ...heightAxis(axes, nats.map((tick) => [fraction(tick), String(tick)])),
      ...temperatureAxis(axes),
    );
    const y = axes.y(fraction(most));
    assign(ceiling, { x1: axes.left, x2: axes.end(), y1: y, y2: y });
    assign(ceilingName, { x: axes.left + 4, y: y - 5 });
  }

  function show(index) {
    const soft = new Float64Array(classes.length);
    const heights = GRID.map((T) => fraction(entropy(softmax(logits[index], T, soft))));
    curve.setAttribute("d", pathOver(axes, heights));
  }

  function draw(temperature, nats) {
    const x = axes.x(temperature);
    assign(mark, { cx: x, cy: axes.y(fraction(nats)) });
    assign(hair, { x1: x, x2: x });
    writeNumber(value, nats, nats.toFixed(2));
  }

  return { node, resize, show, draw };
}

// The norm over the classes of T (q - p) and of (q - p) / T, on a logarithmic scale.
function gradientCurves({ classes, logits, student, hasStudent }) {
  const title = html("span", {}, "size of the soft loss’s gradient");
  const { node, drawing } = panel("gradient", title, null, CURVES_HEIGHT);
  const axes = plane(drawing, 72);
  const frame = svg("g", { class: "axis" });
  const hair = svg("line", { class: "hair", y1: axes.top, y2: axes.bottom });
  const lines = [
    gradientLine("soft", "with T²", (T) => T),
    gradientLine("control", "without", (T) => 1 / T),
  ];
  drawing.append(frame, hair, ...lines.flatMap((line) => line.nodes));
  const p = new Float64Array(classes.length);
  const q = new Float64Array(classes.length);
  const gap = (index, T) => distance(softmax(student[index], T, q), softmax(logits[index], T, p));
  const [lowest, highest] = [-5, 2];
  const fraction = (size) => (Math.log10(size) - lowest) / (highest - lowest);

  function resize(width) {
    axes.resize(width);
    const powers = Array.from({ length: highest - lowest + 1 }, (_, k) => lowest + k);
    const ticks = powers.map((power) => [
      (power - lowest) / (highest - lowest),
      power === 0 ? "1" : powerOfTen(power),
    ]);
    frame.replaceChildren(...heightAxis(axes, ticks), ...temperatureAxis(axes));
  }

  function show(index) {
    const gaps = GRID.map((T) => gap(index, T));
    for (const line of lines) line.show(axes, gaps.map((size, k) => fraction(size * line.by(GRID[k]))));
    spread(lines.map((line) => line.label), axes);
  }

  function draw(temperature, size) {
    const x = axes.x(temperature);
    assign(hair, { x1: x, x2: x });
    for (const line of lines) {
      const weighted = size * line.by(temperature);
      line.draw(x, axes.y(fraction(weighted)), weighted);
    }
  }

  return { node, resize, show, draw };
}

function gradientLine(ink, name, by) {
  const curve = svg("path", { class: `curve ${ink}` });
  const mark = svg("circle", { class: `mark ${ink}`, r: 6 });
  const title = svg("tspan", {});
  const number = svg("tspan", { class: "strong", dy: 15 });
  write(title, name);
  const label = svg("text", { class: ink }, title, number);
  return {
    by,
    label,
    nodes: [curve, mark, label],
    show(axes, heights) {
      const x = axes.end() + 10;
      curve.setAttribute("d", pathOver(axes, heights));
      assign(label, { x, y: axes.y(heights[heights.length - 1]) });
      title.setAttribute("x", x);
      number.setAttribute("x", x);
    },
    draw(x, y, size) {
      assign(mark, { cx: x, cy: y });
      mark.dataset.size = size;
      write(number, readable(size));
    },
  };
}

// Two labels of two lines each: at their curves' ends, but never over each other.
function spread([upper, lower], { top, bottom }) {
  const high = between(top + 8, bottom - 50, Number(upper.getAttribute("y")));
  const low = between(high + 34, bottom - 12, Number(lower.getAttribute("y")));
  upper.setAttribute("y", high);
  lower.setAttribute("y", low);
}

// The images, the most uncertain first; one of them is chosen, by mouse or by arrow keys.
function thumbnails(data, choose) {
  const { classes, labels, order } = data;
  const list = html("div", { class: "strip", role: "listbox", "aria-orientation": "horizontal" });
  list.setAttribute("aria-label", "images, the most uncertain first");
  const options = new Map(
    order.map((index) => {
      const option = canvasFor(data, { class: "thumbnail", role: "option", tabindex: -1 });
      option.setAttribute("aria-label", `image ${index}, label ${classes[labels[index]]}`);
      option.setAttribute("aria-selected", "false");
      option.dataset.index = index;
      paint(option, data, index);
      return [index, option];
    }),
  );
  list.append(...options.values());

  const id = uniqueId("class");
  const select = html("select", { id }, html("option", { value: "" }, "all"));
  classes.forEach((name, k) => {
    if (labels.includes(k)) select.append(html("option", { value: k }, name));
  });
  const random = html("button", { type: "button" }, "random image");
  const node = html(
    "div",
    { class: "choose" },
    html(
      "div",
      { class: "choices" },
      html("span", { class: "title" }, "Choose an image: ", html("b", {}, "the confusing ones first")),
      html("span", {}, html("label", { for: id }, "class"), " ", select),
      random,
    ),
    list,
  );

  const inClass = () => order.filter((index) => select.value === "" || labels[index] === Number(select.value));

  let current = null;
  function show(index) {
    if (current === index) return;
    const before = options.get(current);
    const option = options.get(index);
    before?.setAttribute("aria-selected", "false");
    before?.setAttribute("tabindex", -1);
    option.setAttribute("aria-selected", "true");
    option.setAttribute("tabindex", 0);
    current = index;
    if (option.hidden) filter("");
    reveal(list, option);
  }

  function filter(value) {
    select.value = value;
    const there = new Set(inClass());
    for (const [index, option] of options) option.hidden = !there.has(index);
  }

  select.addEventListener("change", () => {
    filter(select.value);
    const [first] = inClass();
    list.scrollLeft = 0;
    choose(first);
  });
  random.addEventListener("click", () => {
    const others = inClass().filter((index) => index !== current);
    if (others.length) choose(others[Math.floor(Math.random() * others.length)]);
  });
  list.addEventListener("click", (event) => {
    const { index } = event.target.dataset;
    if (index !== undefined) choose(Number(index));
  });
  list.addEventListener("keydown", (event) => {
    const there = inClass();
    const place = there.indexOf(current);
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: there.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const index = there[between(0, there.length - 1, to)];
    choose(index);
    options.get(index).focus({ preventScroll: true });
  });
  return { node, show, reveal: () => reveal(list, options.get(current)) };
}

// Scroll the strip, never the page.
function reveal(list, option) {
  const [strip, own] = [list, option].map((node) => node.getBoundingClientRect());
  const middle = own.left - strip.left + own.width / 2;
  const there = middle > 28 && middle < strip.width - 28;
  if (!there) list.scrollLeft += middle - strip.width / 2;
}

function caption({ classes, hasStudent }) {
  const student = hasStudent ? "the student" : "an untrained student whose logits are all alike";
  const few = `; of the ${classes.length} classes ${MOST_ROWS} are shown, the likeliest and the labelled one`;
  return html(
    "p",
    { class: "caption" },
    "The teacher’s logits, divided by T, go through the softmax: a higher T lifts the small probabilities and " +
      `never changes their order, and the pull on ${student} (the norm of the gradient with respect to its logits) fades ` +
      `with T unless the loss is multiplied by T²${classes.length > MOST_ROWS ? few : ""}.`,
  );
}

function numberTable({ classes, labels, hasStudent }) {
  const columns = ["class", "label", "teacher", ...(hasStudent ? ["student"] : [])];
  const title = html("caption", {});
  const cells = classes.map(() => columns.slice(1).map(() => html("data", {})));
  const node = unseenTable(title, columns, classes.map((name, k) => unseenRow(name, cells[k])));
  let current = 0;
  let resting = null;

  function show(index) {
    current = index;
    cells.forEach(([label], k) => writeNumber(label, Number(labels[index] === k)));
  }

  // The values at once; the words, which would cost every frame a layout, when the hand rests.
  function draw(temperature, teacher, student) {
    cells.forEach(([, ofTeacher, ofStudent], k) => {
      ofTeacher.value = String(teacher[k]);
      if (hasStudent) ofStudent.value = String(student[k]);
    });
    clearTimeout(resting);
    resting = setTimeout(() => {
      write(title, `Soft targets of image ${current} at temperature ${spoken(temperature)}`);
      for (const cell of cells.flatMap(([, ...numbers]) => numbers)) write(cell, readable(Number(cell.value)));
    }, 100);
  }

  return { node, show, draw };
}

export default { render };
