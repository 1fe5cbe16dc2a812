// The bar above the charts: what they show, kept in this browser. Every control is an ordinary
// labelled input. Labels of runs are untrusted and only become text nodes.

const SETTINGS_KEY = "stentor-charts";
const MAX_OVERLAYS = 6;
const RUN_ID = /^[A-Za-z0-9._-]{1,128}$/;
const CHOICES = {
  x: ["tokens", "steps", "time"],
  range: ["whole", "quarter", "twentieth"],
};
const SMOOTHING_HELP =
  "Exponential moving average, debiased, computed here over the points that are shown: fewer " +
  "points, as of a long run before you zoom in, are smoothed over more tokens each. The raw line " +
  "stays, faint.";
const CLIP_HELP =
  "Lone spikes no longer decide how far an axis reaches. They stay in the data; their number is " +
  "shown.";
const BAR = `
<details class="chart-bar">
  <summary>Settings of the curves</summary>
  <div class="chart-fields">
    <div class="chart-group">
    <label>Over <select data-setting="x">
      <option value="tokens">tokens</option><option value="steps">steps</option>
      <option value="time">time</option></select></label>
    <label>Show <select data-setting="range">
      <option value="whole">whole run</option>
      <option value="quarter">newest 25 %</option>
      <option value="twentieth">newest 5 %</option>
      <option value="zoom" hidden disabled>your zoom</option></select></label>
    <details class="chart-menu"><summary>Panels</summary><div class="chart-choices"
      data-choices="panels" role="group" aria-label="Panels to show"></div></details>
    <details class="chart-menu"><summary>Earlier runs <span class="chart-count"></span></summary>
      <div class="chart-choices" data-choices="overlays" role="group"
        aria-label="Earlier runs to draw for comparison"></div></details>
    </div>
    <div class="chart-group">
    <label title="${SMOOTHING_HELP}">Smoothing
      <input type="range" min="0" max="100" step="1" data-setting="smoothing">
      <output class="chart-weight"></output></label>
    <label><input type="checkbox" data-setting="isLog"> Log loss</label>
    <label title="${CLIP_HELP}"><input type="checkbox" data-setting="isClipped">
      Clip outliers</label>
    </div>
  </div>
</details>`;

function defaultSettings(isNarrow) {
  const panels = {};
  for (const panel of [...PANELS.training, ...PANELS.machine]) panels[panel.name] = true;
  // On a phone: the loss, the speed, and the machine's use and memory.
  if (isNarrow) Object.assign(panels, { learning_rate: false, gradient_norm: false, power: false });
  const axes = { x: "tokens", range: "whole", isLog: false, isClipped: false };
  return { ...axes, smoothing: 30, panels, overlays: [] };
}

function checkedSettings(found, settings) {
  // What was kept may be old, or somebody else's: only what is known and of its type is taken.
  if (typeof found !== "object" || found === null) return settings;
  for (const [name, values] of Object.entries(CHOICES)) {
    if (values.includes(found[name])) settings[name] = found[name];
  }
  for (const name of ["isLog", "isClipped"]) {
    if (typeof found[name] === "boolean") settings[name] = found[name];
  }
  if (Number.isInteger(found.smoothing) && found.smoothing >= 0 && found.smoothing <= 100) {
    settings.smoothing = found.smoothing;
  }
  for (const name of Object.keys(settings.panels)) {
    if (typeof found.panels?.[name] === "boolean") settings.panels[name] = found.panels[name];
  }
  if (!PANELS.training.some((panel) => settings.panels[panel.name])) settings.panels.loss = true;
  if (Array.isArray(found.overlays)) {
    const ids = found.overlays.filter((id) => typeof id === "string" && RUN_ID.test(id));
    settings.overlays = [...new Set(ids)].slice(0, MAX_OVERLAYS);
  }
  return settings;
}

function readSettings(isNarrow) {
  const settings = defaultSettings(isNarrow);
  try {
    return checkedSettings(JSON.parse(localStorage.getItem(SETTINGS_KEY)), settings);
  } catch {
    return settings; // no storage (a frame of another site), or not JSON
  }
}

function keepSettings(settings) {
  try {
    localStorage.setItem(SETTINGS_KEY, JSON.stringify(settings));
  } catch {
    // No storage: the choice holds until the page is left.
  }
}

function makeCheckbox(text, isOn, value) {
  const box = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "checkbox", checked: isOn, value });
  const words = document.createElement("span");
  words.textContent = text;
  box.append(input, words);
  return box;
}

function makeChartControls(root, settings, onChange) {
  // onChange(name): the setting of this name has changed. Returns {setRuns, showZoom, chooseWhole}.
  const narrow = matchMedia("(max-width: 700px)");
  const known = new Set();
  root.innerHTML = BAR;
  const bar = root.querySelector(".chart-bar");
  const field = (name) => root.querySelector(`[data-setting="${name}"]`);
  const choices = (name) => root.querySelector(`[data-choices="${name}"]`);

  function show() {
    for (const name of ["x", "range"]) field(name).value = settings[name];
    for (const name of ["isLog", "isClipped"]) field(name).checked = settings[name];
    field("smoothing").value = String(settings.smoothing);
    showWeight();
  }

  function showWeight() {
    const weight = weightOf(settings).toFixed(2);
    root.querySelector(".chart-weight").textContent = weight;
    field("smoothing").setAttribute("aria-valuetext", weight === "0.00" ? "off" : weight);
  }

  function change(name, value) {
    settings[name] = value;
    if (name === "smoothing") showWeight();
    keepSettings(settings);
    onChange(name);
  }

  function listPanels() {
    const all = [...PANELS.training, ...PANELS.machine];
    const boxes = all.map(({ title, name }) => makeCheckbox(title, settings.panels[name], name));
    choices("panels").replaceChildren(...boxes);
    checkPanels();
  }

  function checkPanels() {
    // One panel of training stays.
    const on = PANELS.training.filter((panel) => settings.panels[panel.name]);
    for (const input of choices("panels").querySelectorAll("input")) {
      input.disabled = on.length === 1 && input.value === on[0].name;
    }
  }

  function setRuns(runs) {
    // Rebuilt only when the list is another one, so that the keyboard's place is kept.
    const signature = JSON.stringify(runs);
    const box = choices("overlays");
    if (box.dataset.signature === signature) return;
    box.dataset.signature = signature;
    const focused = box.contains(document.activeElement) ? document.activeElement.value : null;
    known.clear();
    runs.forEach((run) => known.add(run.id));
    const isOn = (id) => settings.overlays.includes(id);
    const boxes = runs.map(({ id, label }) => makeCheckbox(label, isOn(id), id));
    const empty = document.createElement("p");
    empty.textContent = "No other run yet. Once there is one, its curves can be drawn below these.";
    box.replaceChildren(...(boxes.length ? boxes : [empty]));
    const inputs = [...box.querySelectorAll("input")];
    if (focused) inputs.find((input) => input.value === focused)?.focus();
    countOverlays();
  }

  function countOverlays() {
    const count = settings.overlays.filter((id) => known.has(id)).length;
    root.querySelector(".chart-count").textContent = count ? `(${count})` : "";
    for (const input of choices("overlays").querySelectorAll("input")) {
      input.disabled = count >= MAX_OVERLAYS && !input.checked;
    }
  }

  function showZoom(isZoomed) {
    const option = field("range").querySelector('[value="zoom"]');
    if (option.hidden === !isZoomed) return;
    option.hidden = option.disabled = !isZoomed;
    field("range").value = isZoomed ? "zoom" : settings.range;
  }

  function chooseWhole() {
    settings.range = "whole";
    keepSettings(settings);
    field("range").value = "whole";
  }

  function onInput(event) {
    const input = event.target;
    const name = input.dataset.setting;
    if (name) {
      const value = input.type === "checkbox" ? input.checked : input.value;
      return change(name, name === "smoothing" ? Number(value) : value);
    }
    const group = input.closest("[data-choices]")?.dataset.choices;
    if (group === "panels") {
      settings.panels[input.value] = input.checked;
      checkPanels();
      change("panels", settings.panels);
    }
    if (group === "overlays") {
      const others = settings.overlays.filter((id) => id !== input.value && known.has(id));
      change("overlays", input.checked ? [...others, input.value] : others);
      countOverlays();
    }
  }

  function closeMenus(except) {
    for (const menu of root.querySelectorAll(".chart-menu[open]")) {
      if (!menu.contains(except)) menu.open = false;
    }
  }

  function placeMenu(menu) {
    // Open towards the side where there is room.
    const box = menu.querySelector(".chart-choices");
    box.dataset.side = "left";
    const isBeyond = box.getBoundingClientRect().right > root.getBoundingClientRect().right;
    if (isBeyond) box.dataset.side = "right";
  }

  for (const menu of root.querySelectorAll(".chart-menu")) {
    menu.addEventListener("toggle", () => menu.open && placeMenu(menu));
  }
  root.addEventListener("input", onInput);
  root.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest(".chart-menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  root.addEventListener("focusin", (event) => closeMenus(event.target));
  document.addEventListener("pointerdown", (event) => closeMenus(event.target));
  const fold = () => (bar.open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
  show();
  listPanels();
  setRuns([]);
  return { setRuns, showZoom, chooseWhole };
}
