(() => {
  const view = JSON.parse(document.getElementById("view").textContent);
  const [WIDTH, HEIGHT] = view.box;
  const SVG = "http://www.w3.org/2000/svg";
  const FLOAT = 4; // bytes
  const by = (id) => document.getElementById(id);
  const svg = by("picture"), details = by("details"), words = by("words"), found = by("found"), note = by("note");
  const { count, show } = netShapes;
  const state = { form: 0, open: "folded", layer: null, box: null, inputs: {}, focus: null };
  let form, result, picture, camera, boxOf;

  // Everything from the net is put in as text, never as markup.
  function make(name, attributes = {}, ...children) {
    const isDrawn = ["svg", "g", "rect", "path", "text", "title", "circle", "line"].includes(name);
    const element = isDrawn ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }
  const grouped = (value) => Math.round(value).toLocaleString("en-US");
  function short(value) {
    for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (value >= unit * 0.9995) return `${Number((value / unit).toPrecision(3))} ${name}`;
    return grouped(value);
  }
  const bytes = (value) => (value < 1e3 ? `${value} bytes` : `${short(value)}B`);
  const number = (value) => (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? `${Number(value.toPrecision(4))}` : value === 0 ? "0" : value.toExponential(2));
  // Cut a text to a width in pixels: the parts at its end go, of a single part the middle.
  const ruler = document.createElement("canvas").getContext("2d");
  const family = getComputedStyle(document.body).fontFamily;
  const NAME = `600 12px ${family}`, WORDS = `11px ${family}`; // as in page.css
  function fitted(text, width, font, between = "") {
    ruler.font = font;
    const fits = (one) => ruler.measureText(one).width <= width;
    if (fits(text)) return text;
    const parts = between ? text.split(between) : [text];
    for (let kept = parts.length - 1; kept > 0; kept--) {
      const cut = `${parts.slice(0, kept).join(between)} …`;
      if (fits(cut)) return cut;
    }
    const letters = [...parts[0]];
    for (let most = Math.min(letters.length, Math.ceil(width / 2)); most > 2; most--) {
      const tail = Math.floor(most / 2), cut = `${letters.slice(0, most - tail).join("")}…${letters.slice(letters.length - tail + 1).join("")}`;
      if (fits(cut)) return cut;
    }
    return "…";
  }
  const shapeText = (shape) => (shape ? show(shape) : "not known");
  const button = (text, click, attributes = {}) => make("button", { type: "button", onclick: click, ...attributes }, text);

  // -- the net and its sizes ---------------------------------------------------------------------------------------

  function useForm(index) {
    state.form = index;
    form = view.forms[index];
    boxOf = new Map();
    form.boxes.forEach((box, at) => box.layers.forEach((layer) => boxOf.set(layer, at)));
    state.inputs = {};
    state.layer = state.box = state.focus = null;
    state.open = Object.hasOwn(form.pictures, state.open) && Number.isNaN(Number(state.open)) ? state.open : "folded";
    const fields = form.layers.filter((layer) => layer.rule.rule === "input").flatMap((layer) => layer.tops).map((blob) => {
      const built = form.shapes[blob];
      const field = make("input", { type: "text", value: show(built), "data-blob": blob, inputmode: "text", spellcheck: "false",
        autocomplete: "off", oninput: readSizes, title: "sizes, such as 1x3x320x480, or 320x480" });
      return make("label", {}, make("span", {}, `${blob}:`), field);
    });
    by("sizes").replaceChildren(...fields, ...(fields.length ? [button("Reset", () => { useSizes({}); resetFields(); }, { id: "reset" })] : []));
    compute();
    draw(true);
    fillTable();
    showDetails();
  }

  const fieldsOfSizes = () => [...by("sizes").querySelectorAll("input")];
  function resetFields() {
    for (const field of fieldsOfSizes()) { field.value = show(form.shapes[field.dataset.blob]); field.removeAttribute("aria-invalid"); }
  }

  function readSizes() {
    const inputs = {};
    let isRight = true;
    for (const field of fieldsOfSizes()) {
      const built = form.shapes[field.dataset.blob];
      let sizes = field.value.trim().split(/[x×,\s]+/i).map(Number);
      if (sizes.length === 2 && built.length === 4) sizes = [...built.slice(0, 2), ...sizes];
      const fits = sizes.length === built.length && sizes.every((size) => Number.isInteger(size) && size > 0 && size < 1e6);
      field.setAttribute("aria-invalid", String(!fits));
      if (fits) inputs[field.dataset.blob] = sizes; else isRight = false;
    }
    if (isRight) useSizes(inputs);
    else say("A size should be whole numbers with x between them, such as 1x3x320x480 or 320x480.", true);
  }

  function useSizes(inputs) {
    state.inputs = inputs;
    compute();
    draw(false);
    fillTable();
    showDetails();
  }

  function compute() {
    result = netShapes.compute(form.layers, form.shapes, state.inputs);
    const blobs = [...result.shapes.values()];
    const isKnown = blobs.every(Boolean);
    const adds = result.layers.reduce((sum, layer) => sum + (layer.adds || 0), 0);
    const memory = blobs.reduce((sum, shape) => sum + (shape ? count(shape) * FLOAT : 0), 0);
    const parameters = form.layers.reduce((sum, layer) => sum + layer.parameters, 0);
    const facts = [["layers", grouped(form.layers.length)], ["parameters", short(parameters), grouped(parameters)],
      ["multiply-adds", (isKnown ? "" : "at least ") + short(adds), grouped(adds)],
      ["all blobs", (isKnown ? "" : "at least ") + bytes(memory), grouped(memory)]];
    by("totals").replaceChildren(...facts.map(([name, value, title]) =>
      make("div", {}, make("dt", {}, name), make("dd", { title: title || null }, value))));
    const [first] = result.problems;
    if (first) {
      const more = result.problems.size > 1 ? ` (and ${result.problems.size - 1} more)` : "";
      say(`${form.layers[first[0]].name}: ${first[1]}${more}`, true);
    } else say(form.note, false);
  }
  function say(text, isError) { note.textContent = text; note.className = isError ? "error" : "less"; }

  // -- the picture ---------------------------------------------------------------------------------------------------

  const firstLayer = (box) => form.layers[form.boxes[box].layers[0]];
  const stageOf = (id) => (id < 0 ? -1 - id : form.boxes[id].stage);
  const boxesOf = (id) => (id >= 0 ? [id] : form.boxes.map((_, at) => at).filter((at) => form.boxes[at].stage === -1 - id));
  const layersOf = (id) => boxesOf(id).flatMap((box) => form.boxes[box].layers);
  const lastShape = (layers) => {
    const withTops = layers.filter((layer) => form.layers[layer].tops.length);
    const last = withTops[withTops.length - 1];
    return last === undefined ? "" : shapeText(result.shapes.get(form.layers[last].tops[0]));
  };

  function node([id, x, y]) {
    const layers = layersOf(id), isStage = id < 0;
    const name = isStage ? form.stages[-1 - id] : firstLayer(id).name;
    const does = isStage ? `${layers.length} layers in ${boxesOf(id).length} boxes` : form.boxes[id].does;
    const isFailed = layers.some((layer) => result.problems.has(layer));
    const findings = view.findings.filter((one) => layers.some((layer) => form.layers[layer].name === one.layer));
    const level = ["error", "warning", "note"].find((one) => findings.some((finding) => finding.level === one));
    const problem = layers.map((layer) => result.problems.get(layer)).find(Boolean);
    const shape = lastShape(layers);
    const kind = isStage ? "stage" : form.boxes[id].kind;
    const label = `${name}: ${does}. Makes ${shape || "nothing"}.${problem ? ` ${problem}.` : ""}${isStage ? " A folded stage." : ""}`
      + (level ? ` ${findings.length} of doctor's findings.` : "");
    const title = isStage ? layers.map((layer) => form.layers[layer].name).join(", ")
      : layers.map((layer) => `${form.layers[layer].name} (${form.layers[layer].type})`).join(", ");
    return make("g", { class: `node ${kind}${isFailed ? " failed" : ""}`, "data-id": id, role: "button", "aria-label": label, tabindex: -1,
      "aria-expanded": isStage ? "false" : null, onclick: () => activate(id), onfocus: () => { state.focus = id; rove(); } },
    make("title", {}, title),
    isStage && make("rect", { class: "behind", x: x + 4, y: y + 4, width: WIDTH, height: HEIGHT, rx: 6 }),
    make("rect", { class: "box", x, y, width: WIDTH, height: HEIGHT, rx: 6 }),
    make("text", { class: "name", x: x + 9, y: y + 17 }, fitted(name, WIDTH - 16 - (level ? 14 : 0), NAME, isStage ? " … " : "")),
    make("text", { x: x + 9, y: y + 33 }, fitted(does, WIDTH - 16, WORDS, " + ")),
    make("text", { class: "shape", x: x + 9, y: y + 49 }, fitted(shape, WIDTH - 16, WORDS)),
    level && make("circle", { class: `mark ${level}`, cx: x + WIDTH - 11, cy: y + 12, r: 4.5 }));
  }

  function frame([stage, x, y, width, height]) {
    const text = `${fitted(form.stages[stage], width - 36, WORDS, " … ")} ▾`;
    return make("g", { class: "frame", role: "button", tabindex: 0, "aria-expanded": "true", "aria-label": `Fold ${form.stages[stage]}`,
      onclick: () => { foldStage(stage); }, onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); foldStage(stage); } } },
    make("rect", { x, y, width, height, rx: 8 }), make("text", { x: x + 10, y: y + 17 }, text));
  }

  function draw(isNew) {
    picture = form.pictures[state.open];
    const lines = picture.lines.map(([source, target, flows, path]) =>
      make("path", { class: `line${flows ? "" : " size"}`, d: path, "data-ends": `${source} ${target}` }));
    const tips = picture.lines.map(([source, target, , path]) => tip(path, source, target));
    svg.replaceChildren(...picture.frames.map(frame), ...lines, ...tips, ...picture.nodes.map(node));
    const known = picture.nodes.map(([id]) => id);
    if (!known.includes(state.focus)) state.focus = known.length ? known[0] : null;
    if (isNew || !camera) fit(false);
    rove();
    choose();
    by("fold").disabled = state.open === "folded";
    by("open").disabled = state.open === "open";
  }

  // The tip at the end of a line: a path ends with V and the y of its target's edge.
  function tip(path, source, target) {
    const [, left, top] = picture.nodes.find(([id]) => id === target);
    const parts = path.match(/[MHVq][^MHVq]*/g);
    let x = 0;
    for (const part of parts) {
      const values = part.slice(1).split(" ").map(Number);
      if (part[0] === "M" || part[0] === "H") [x] = values;
      else if (part[0] === "q") x += values[2];
    }
    x = Math.min(Math.max(x, left), left + WIDTH);
    return make("path", { class: "tip", d: `M${x} ${top}l-3.5 -7h7z`, "data-ends": `${source} ${target}` });
  }

  const elementOf = (id) => svg.querySelector(`.node[data-id="${id}"]`);
  function rove() {
    for (const one of svg.querySelectorAll(".node")) one.setAttribute("tabindex", Number(one.dataset.id) === state.focus ? 0 : -1);
    for (const one of svg.querySelectorAll("[data-ends]"))
      one.classList.toggle("near", state.focus !== null && one.dataset.ends.split(" ").includes(String(state.focus)));
  }
  function choose() {
    const box = state.layer === null ? null : boxOf.get(state.layer);
    for (const one of svg.querySelectorAll(".node")) {
      const id = Number(one.dataset.id);
      one.classList.toggle("chosen", box !== null && (id === box || (id < 0 && form.boxes[box].stage === -1 - id)));
    }
  }

  // -- moving and zooming --------------------------------------------------------------------------------------------

  function aim() { svg.setAttribute("viewBox", `${camera.x} ${camera.y} ${svg.clientWidth / camera.zoom} ${svg.clientHeight / camera.zoom}`); }
  // The whole picture, or as much of it as can be read.
  function fit(isWhole) {
    const [width, height] = picture.size;
    const whole = Math.min(svg.clientWidth / width, svg.clientHeight / height);
    const zoom = Math.min(1.4, isWhole ? whole : Math.max(whole, svg.clientWidth < 600 ? 0.9 : 0.75));
    const spareX = svg.clientWidth / zoom - width, spareY = svg.clientHeight / zoom - height;
    camera = { zoom, x: spareX > 0 ? -spareX / 2 : 0, y: spareY > 0 ? -spareY / 2 : 0 };
    aim();
  }
  function zoomBy(factor, at) {
    const point = at || [svg.clientWidth / 2, svg.clientHeight / 2];
    const zoom = Math.min(4, Math.max(0.1, camera.zoom * factor));
    camera.x += point[0] / camera.zoom - point[0] / zoom;
    camera.y += point[1] / camera.zoom - point[1] / zoom;
    camera.zoom = zoom;
    aim();
  }
  function bringIn(id) {
    const [, x, y] = picture.nodes.find(([one]) => one === id);
    const width = svg.clientWidth / camera.zoom, height = svg.clientHeight / camera.zoom;
    const isIn = x >= camera.x && x + WIDTH <= camera.x + width && y >= camera.y && y + HEIGHT <= camera.y + height;
    if (!isIn) { camera.x = x + WIDTH / 2 - width / 2; camera.y = y + HEIGHT / 2 - height / 2; aim(); }
  }
  const pointers = new Map();
  let moved = 0;
  svg.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, [event.clientX, event.clientY]); if (pointers.size === 1) moved = 0; });
  addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const last = pointers.get(event.pointerId), now = [event.clientX, event.clientY];
    const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (others.length) {
      const apart = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]);
      const corner = svg.getBoundingClientRect();
      if (apart(last) > 0) zoomBy(apart(now) / apart(last), [(now[0] + others[0][0]) / 2 - corner.left, (now[1] + others[0][1]) / 2 - corner.top]);
    } else {
      camera.x -= (now[0] - last[0]) / camera.zoom;
      camera.y -= (now[1] - last[1]) / camera.zoom;
      aim();
    }
    moved += Math.hypot(now[0] - last[0], now[1] - last[1]);
    svg.classList.toggle("drags", moved > 4);
    pointers.set(event.pointerId, now);
  });
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, (event) => { pointers.delete(event.pointerId); svg.classList.remove("drags"); });
  svg.addEventListener("click", (event) => { if (moved > 4) { event.stopPropagation(); moved = 0; } }, true);
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const corner = svg.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), [event.clientX - corner.left, event.clientY - corner.top]);
  }, { passive: false });
  addEventListener("resize", () => { if (camera) aim(); });

  // -- opening -------------------------------------------------------------------------------------------------------

  function setOpen(open, focus) {
    state.open = open;
    state.focus = focus === undefined ? null : focus;
    draw(true);
    if (state.focus !== null) bringIn(state.focus);
  }
  function openStage(stage) { setOpen(Object.hasOwn(form.pictures, String(stage)) ? String(stage) : "open", form.boxes.findIndex((box) => box.stage === stage)); }
  function foldStage(stage) { setOpen("folded", -1 - stage); elementOf(-1 - stage)?.focus(); }
  function activate(id) {
    if (id < 0) { openStage(-1 - id); elementOf(state.focus)?.focus({ preventScroll: true }); }
    else { state.focus = id; rove(); select(form.boxes[id].layers[0]); }
  }
  function select(layer, isFromElsewhere = false) {
    const box = boxOf.get(layer);
    state.layer = layer;
    if (!picture.nodes.some(([id]) => id === box)) openStage(form.boxes[box].stage);
    state.focus = box;
    rove();
    choose();
    if (isFromElsewhere) bringIn(box);
    showDetails();
    save();
    if (matchMedia("(max-width: 56rem)").matches) details.scrollIntoView({ block: "start" });
  }
  const selectName = (name) => {
    let layer = form.layers.findIndex((one) => one.name === name);
    if (layer < 0) {
      const other = view.forms.findIndex((one) => one.layers.some((entry) => entry.name === name));
      if (other < 0) return;
      document.querySelector(`#forms input[value="${other}"]`).checked = true;
      useForm(other);
      layer = form.layers.findIndex((one) => one.name === name);
    }
    select(layer, true);
  };
  function close() {
    state.layer = null;
    choose();
    showDetails();
    save();
    elementOf(state.focus)?.focus({ preventScroll: true });
  }

  // -- details -------------------------------------------------------------------------------------------------------

  const table = (head, rows, numbers = []) => make("div", { class: "wide" }, make("table", {},
    make("thead", {}, make("tr", {}, head.map((text, at) => make("th", { scope: "col", class: numbers.includes(at) ? "number" : null }, text)))),
    make("tbody", {}, rows.map((cells) => make("tr", { class: cells.style || null }, cells.map((cell, at) =>
      make(at ? "td" : "th", { scope: at ? null : "row", class: numbers.includes(at) ? "number" : null }, cell)))))));
  const code = (text) => make("code", {}, text);
  const definitions = (pairs) => make("dl", { class: "facts" }, pairs.filter(Boolean).flatMap(([name, ...value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const layerButton = (index) => button(form.layers[index].name, () => { select(index, true); details.focus(); }, { class: "link" });

  function showDetails() {
    if (state.layer === null) {
      details.replaceChildren(make("h2", {}, "Choose a layer"), make("p", { class: "less" }, "A box is a layer with those that only change its values; a stacked box is a folded stage, which opens. A dashed line says that only sizes are read."),
        heaviest());
      return;
    }
    const layer = form.layers[state.layer], made = result.layers[state.layer], problem = result.problems.get(state.layer);
    const box = form.boxes[boxOf.get(state.layer)];
    details.replaceChildren(...[
      button("✕", close, { class: "close", "aria-label": "Close" }),
      make("h2", {}, layer.name), make("p", { class: "less" }, code(layer.type), ` in ${form.stages[box.stage]}`),
      box.layers.length > 1 && make("div", { class: "chips" }, box.layers.map((index) => button(form.layers[index].name, () => select(index), { "aria-pressed": String(index === state.layer) }))),
      make("p", {}, view.types[layer.type].replaceAll("`", "")),
      findingsOf(layer),
      problem && make("p", { class: "warning" }, `At these sizes: ${problem}.`),
      make("h3", {}, "Shapes"),
      table(["blob", "shape", "memory"], [
        ...layer.bottoms.map((blob, at) => [make("span", {}, "reads ", code(blob)), ...sizeCells(made.bottoms[at])]),
        ...layer.tops.map((blob, at) => [make("span", {}, "makes ", code(blob)), ...sizeCells(made.tops && made.tops[at])])], [1, 2]),
      definitions([
        layer.sees && ["sees", `${grouped(layer.sees[0])} px of the input, along an axis`],
        layer.sees && ["stride", `${layer.sees[1]} px from one value to the next`],
        layer.sees && ["offset", `the first value is centred on pixel ${layer.sees[2]}`],
        layer.blind && ["sees", layer.blind],
        made.adds ? ["multiply-adds", make("span", { title: grouped(made.adds) }, short(made.adds))] : null,
        layer.parameters ? ["parameters", `${grouped(layer.parameters)}, ${bytes(layer.parameters * FLOAT)}`] : null,
      ]),
      neighbours(),
      layer.crop && cropOf(layer),
      layer.blobs.length > 0 && [make("h3", {}, "Parameters"), table(["blob", "shape", "rate", "decay"], layer.blobs.map((blob) =>
        [code(blob.name), show(blob.shape), ...(blob.shared === undefined ? [`× ${number(blob.lr_mult)}`, `× ${number(blob.decay_mult)}`] : [`shared ${blob.shared}`, ""])]))],
      weightsOf(layer),
      optionsOf(layer),
    ].flat(9).filter(Boolean));
    details.scrollTop = 0;
  }
  // Where the multiply-adds are, the most first.
  function heaviest() {
    const total = result.layers.reduce((sum, layer) => sum + (layer.adds || 0), 0);
    const order = form.layers.map((_, at) => at).filter((at) => result.layers[at].adds).sort((a, b) => result.layers[b].adds - result.layers[a].adds).slice(0, 8);
    return make("div", {}, order.length > 0 && [make("h3", {}, "Most multiply-adds"), table(["layer", "", "share", "parameters"], order.map((at) =>
      [layerButton(at), short(result.layers[at].adds), `${(100 * result.layers[at].adds / total).toFixed(1)} %`, short(form.layers[at].parameters)]), [1, 2, 3])]);
  }
  const sizeCells = (shape) => [shapeText(shape), shape ? bytes(count(shape) * FLOAT) : ""];

  function findingsOf(layer) {
    const own = view.findings.filter((one) => one.layer === layer.name);
    return own.length > 0 && make("ul", { class: "findings" }, own.map((one) =>
      make("li", { class: one.level }, make("b", {}, one.level), `${one.problem} ${one.advice}`)));
  }

  function neighbours() {
    const layer = form.layers[state.layer];
    const makerOf = (reader, blob) => form.layers.findLastIndex((one, at) => at < reader && one.tops.includes(blob));
    const makers = [...new Set(layer.bottoms.map((blob) => makerOf(state.layer, blob)))];
    const readers = form.layers.map((_, at) => at).filter((at) => at > state.layer
      && form.layers[at].bottoms.some((blob) => layer.tops.includes(blob) && makerOf(at, blob) === state.layer));
    const listed = (indices) => indices.flatMap((index, at) => [at ? ", " : "", layerButton(index)]);
    return definitions([makers.length && ["from", ...listed(makers)], readers.length && ["to", ...listed(readers)]].map((one) => one || null));
  }

  function cropOf(layer) {
    const { crop } = layer, head = make("h3", {}, "How the offset follows");
    if (crop.error) return [head, make("p", {}, crop.error)];
    const way = (blob, steps) => [make("p", { class: "less" }, `From ${blob} up to ${crop.common}: x is a pixel of what each layer reads.`),
      steps.length ? table(["layer", "type", "x in its top", `x in ${blob}`], steps.map(([name, type, map, whole]) => [name, type, code(map), code(whole)]))
        : make("p", {}, "nothing lies between.")];
    return [head, ...way(layer.bottoms[0], crop.from), ...way(layer.bottoms[1], crop.to),
      make("p", {}, `So pixel 0 of ${layer.bottoms[1]} is pixel `, make("b", {}, crop.offset.join(", ")), ` of ${layer.bottoms[0]}: the offset`
        + `${crop.scale.some((scale) => scale !== "1") ? `; but a step there is ${crop.scale.join(", ")} here, so no offset fits` : ""}. The file has `,
      make("b", {}, layer.rule.offsets ? [...new Set(layer.rule.offsets)].join(", ") : "none"), ".")];
  }

  function weightsOf(layer) {
    if (view.weights_file === null || !layer.blobs.length) return null;
    const have = Object.hasOwn(view.weights, layer.name) ? view.weights[layer.name] : null;
    if (!have) return [make("h3", {}, "Weights"), make("p", {}, `${view.weights_file} has none for this layer.`)];
    const seen = have.picture;
    const scale = seen ? Math.max(1, Math.min(8, Math.floor(340 / Math.max(...seen.size)))) : 1;
    return [make("h3", {}, "Weights"),
      have.misfit && make("p", { class: "warning" }, `They do not fit: ${have.blobs.map((blob) => show(blob.shape)).join(", ")}.`),
      seen && make("figure", {}, make("img", { class: "filters", src: seen.uri, alt: seen.note, width: seen.size[0] * scale, height: seen.size[1] * scale }), make("figcaption", {}, seen.note)),
      have.blobs.map((blob, at) => histogram(layer.blobs[at] ? layer.blobs[at].name : String(at), blob))];
  }

  function histogram(name, blob) {
    const total = count(blob.shape), share = (part) => `${Number((100 * part / total).toPrecision(3))} %`;
    if (blob.low === undefined) return make("p", {}, `${name}: no value is finite.`);
    const words = [`${name}: ${number(blob.low)} to ${number(blob.high)}, mean ${number(blob.mean)}, deviation ${number(blob.deviation)}`];
    if (blob.zeros) words.push(`${share(blob.zeros)} are 0`);
    if (blob.dead) words.push(`${grouped(blob.dead)} of ${blob.shape[0]} outputs have only zeros`);
    if (blob.odd) words.push(`${grouped(blob.odd)} values are not finite`);
    const most = blob.bins ? Math.max(...blob.bins) : 0;
    return make("figure", {},
      blob.bins && make("svg", { class: "histogram", viewBox: "0 0 330 76", role: "img", "aria-label": `Histogram: ${words.join("; ")}` },
        blob.bins.map((bin, at) => make("rect", { x: at * 8 + 1, y: 60 - 58 * bin / most, width: 7, height: Math.max(bin ? 0.7 : 0, 58 * bin / most) })),
        make("line", { x1: 0, x2: 330, y1: 60.5, y2: 60.5 }), make("text", { x: 1, y: 73 }, number(blob.low)), make("text", { class: "end", x: 329, y: 73 }, number(blob.high))),
      make("figcaption", {}, `${words.join("; ")}.`));
  }

  function optionsOf(layer) {
    const listed = (isSet) => {
      const options = layer.options.map((at) => view.options[at]).filter((option) => option[3] === isSet);
      return options.length > 0 && make("dl", { class: isSet ? "options" : "options default" }, options.map(([key, name, value]) =>
        make("div", {}, make("dt", {}, code(name), make("b", {}, value)), make("dd", {}, view.meanings[key] || ""))));
    };
    const set = listed(true), defaults = listed(false);
    return [make("h3", {}, "Options"), set || make("p", { class: "less" }, "None is set."),
      defaults && make("details", { open: !set }, make("summary", {}, `${defaults.children.length} at their defaults`), defaults)];
  }

  // -- the table -----------------------------------------------------------------------------------------------------

  function fillTable() {
    by("table").tBodies[0].replaceChildren(...form.layers.map((layer, index) => {
      const made = result.layers[index];
      const shapes = layer.tops.map((top, at) => `${top} ${shapeText(made.tops && made.tops[at])}`).join(", ");
      return make("tr", { class: result.problems.has(index) ? "failed" : null, onclick: (event) => { if (!event.target.closest("button")) select(index, true); } },
        make("th", { scope: "row" }, layerButton(index)), ...[layer.type, layer.bottoms.join(", "), shapes].map((text) => make("td", {}, text)),
        ...[layer.parameters ? grouped(layer.parameters) : "", made.adds ? short(made.adds) : "", layer.sees ? grouped(layer.sees[0]) : "", layer.sees ? layer.sees[1] : ""]
          .map((text) => make("td", { class: "number" }, text)));
    }));
  }

  // -- searching -----------------------------------------------------------------------------------------------------

  const MOST_FOUND = 40;
  function matches() {
    const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!parts.length) return null;
    return form.layers.map((_, at) => at).filter((at) => {
      const layer = form.layers[at];
      const text = [layer.name, layer.type, ...layer.bottoms, ...layer.tops].join(" ").toLowerCase();
      return parts.every((part) => text.includes(part));
    });
  }
  function search() {
    const list = matches();
    found.hidden = list === null;
    for (const one of svg.querySelectorAll(".node")) {
      const isOut = list !== null && !layersOf(Number(one.dataset.id)).some((layer) => list.includes(layer));
      one.classList.toggle("dim", isOut);
    }
    if (list === null) return;
    const items = list.slice(0, MOST_FOUND).map((index) => make("li", {}, button([make("span", {}, form.layers[index].name), make("span", { class: "less" }, form.layers[index].type)], () => take(index))));
    if (!list.length) items.push(make("li", { class: "less" }, "No layer has these words."));
    if (list.length > MOST_FOUND) items.push(make("li", { class: "less" }, `and ${list.length - MOST_FOUND} more`));
    found.replaceChildren(...items);
  }
  function take(index) {
    words.value = "";
    search();
    select(index, true);
    elementOf(boxOf.get(index))?.focus({ preventScroll: true });
  }
  words.addEventListener("input", search);
  words.closest(".search").addEventListener("keydown", (event) => {
    const list = matches();
    const buttons = [...found.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "Enter" && event.target === words && list && list.length) { event.preventDefault(); take(list[0]); }
    else if (event.key === "ArrowDown" && buttons.length) { event.preventDefault(); buttons[Math.min(at + 1, buttons.length - 1)].focus(); }
    else if (event.key === "ArrowUp" && buttons.length) { event.preventDefault(); (at > 0 ? buttons[at - 1] : words).focus(); }
    else if (event.key === "Escape") {
      event.stopPropagation();
      words.value = "";
      search();
      elementOf(state.focus)?.focus({ preventScroll: true });
    }
  });

  // -- keys ----------------------------------------------------------------------------------------------------------

  svg.addEventListener("keydown", (event) => {
    if (!event.target.closest(".node") || event.ctrlKey || event.metaKey || event.altKey) return;
    const ids = picture.nodes.map(([id]) => id), at = ids.indexOf(state.focus);
    // Lines along which values flow go before those of sizes, near ends before far ones.
    const along = (from, to) => picture.lines.filter((line) => line[from] === state.focus)
      .sort((a, b) => b[2] - a[2] || Math.abs(ids.indexOf(a[to]) - at) - Math.abs(ids.indexOf(b[to]) - at)).map((line) => line[to])[0];
    const next = { ArrowDown: () => along(0, 1), ArrowUp: () => along(1, 0), ArrowRight: () => ids[at + 1], ArrowLeft: () => ids[at - 1],
      Home: () => ids[0], End: () => ids[ids.length - 1] }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); activate(state.focus); }
    if (!next) return;
    event.preventDefault();
    const id = next();
    if (id === undefined) return;
    state.focus = id;
    bringIn(id);
    elementOf(id).focus({ preventScroll: true });
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); words.focus(); }
    else if (event.key === "Escape") {
      if (state.layer !== null) close();
      else if (state.open !== "folded") foldStage(stageOf(state.focus === null ? 0 : state.focus));
    } else if (event.key === "+" || event.key === "=") zoomBy(1.25);
    else if (event.key === "-") zoomBy(0.8);
    else if (event.key === "0") fit(true);
  });
  by("fold").addEventListener("click", () => setOpen("folded", state.focus === null ? undefined : -1 - stageOf(state.focus)));
  by("open").addEventListener("click", () => setOpen("open", state.focus === null ? undefined : boxesOf(state.focus)[0]));
  by("smaller").addEventListener("click", () => zoomBy(0.8));
  by("larger").addEventListener("click", () => zoomBy(1.25));
  by("fit").addEventListener("click", () => fit(true));
  by("sizes").addEventListener("submit", (event) => event.preventDefault());
  by("forms").addEventListener("change", (event) => { useForm(Number(event.target.value)); save(); });
  document.querySelector(".below").addEventListener("click", (event) => {
    const link = event.target.closest("[data-layer]");
    if (!link) return;
    selectName(link.dataset.layer);
    by("graph").scrollIntoView();
  });

  // The hash says which net and which layer, so that a link leads there.
  function save() {
    const parts = [form.title, state.layer === null ? "" : form.layers[state.layer].name];
    history.replaceState(null, "", state.layer === null && state.form === 0 ? location.pathname + location.search : `#${parts.map(encodeURIComponent).join("/")}`);
  }
  function restore() {
    let parts = [];
    try { parts = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { /* a hash of somebody else */ }
    const index = Math.max(0, view.forms.findIndex((one) => one.title === parts[0]));
    for (const one of document.querySelectorAll("#forms input")) one.checked = Number(one.value) === index;
    useForm(index);
    if (parts[1] && form.layers.some((layer) => layer.name === parts[1])) selectName(parts[1]);
  }
  addEventListener("hashchange", restore);
  restore();
})();
