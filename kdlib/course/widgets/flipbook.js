// A slider over pictures that were made beforehand. All are decoded first, so that none comes late.

const FRAMES_A_SECOND = 4;

function render({ model, el }) {
  const labels = model.get("labels");
  const id = uniqueId("flipbook");
  const input = html("input", { id, type: "range", min: 0, max: labels.length - 1, step: 1 });
  const readout = html("output", { for: id, class: "readout", "aria-live": "off" });
  const place = html("span", { class: "place" });
  const { button, stop } = playButton("the pictures", { frame: flip, stopped: settled });
  const pictures = model.get("_frames").map((frame, n) => {
    const picture = html("img", { alt: labels[n], src: `data:image/png;base64,${base64(frame)}` });
    return picture;
  });
  const root = html(
    "div",
    { class: "kdlib kdlib-flipbook", role: "group", "aria-label": "flipbook" },
    html(
      "div",
      { class: "drive" },
      button,
      html("label", { for: id }, "Drag"),
      readout,
      place,
      html("div", { class: "track" }, input),
    ),
    html("div", { class: "pages" }, ...pictures),
  );
  let shown = null;
  let began = null;

  function draw(index) {
    if (index === shown) return;
    pictures.forEach((picture, n) => picture.classList.toggle("shown", n === index));
    shown = index;
    input.value = index;
    input.setAttribute("aria-valuetext", labels[index]);
    write(readout, labels[index]);
    write(place, `${index + 1} of ${labels.length}`);
  }

  // On to the last picture; from there, from the first.
  function flip(seconds) {
    began ??= shown === labels.length - 1 ? 0 : shown;
    const due = began + Math.floor(seconds * FRAMES_A_SECOND);
    draw(Math.min(due, shown + 1, labels.length - 1)); // none is left out, however slow the page
    return shown < labels.length - 1;
  }

  function settled() {
    began = null;
    share(model, { index: shown });
  }

  function followPython() {
    draw(model.get("index"));
  }

  input.addEventListener("input", () => {
    stop();
    draw(Number(input.value));
  });
  input.addEventListener("change", settled);
  el.append(root);
  keepKeys(root);
  pictures.forEach((picture) => picture.decode().catch(() => {}));
  draw(model.get("index"));
  model.on("change:index", followPython);
  return () => {
    stop();
    model.off("change:index", followPython);
  };
}

function base64(view) {
  let signs = "";
  for (const byte of bytes(view)) signs += String.fromCharCode(byte);
  return btoa(signs);
}

export default { render };
