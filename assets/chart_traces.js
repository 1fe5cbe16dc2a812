// The lines of the two charts, made from what is kept and chosen; pure functions of a view.
// A view: { store, settings, overlays, marks, gpus, hidden, highlighted, unit }; see chart.js.

// The panels of both charts from top to bottom: axis (Plotly's name), height in pixels, how its
// range is found. The wording is what the menu and the axis show.
const FROM_ZERO = { toZero: true };
const OF_GPUS = { gpuOnly: true };
const PANELS = {
  training: [
    { name: "loss", title: "Loss", axis: "y", axisTitle: "Loss, nats/token", height: 250 },
    { name: "learning_rate", title: "Learning rate", axis: "y2", axisTitle: "LR", ...FROM_ZERO },
    { name: "gradient_norm", title: "Gradient norm", axis: "y3", axisTitle: "Norm", ...FROM_ZERO },
    { name: "speed", title: "Tokens/s and MFU", axis: "y4", axisTitle: "Tokens/s", ...FROM_ZERO },
  ],
  machine: [
    { name: "utilisation", title: "Utilisation", axis: "y", axisTitle: "Use, %", fixed: [0, 105] },
    { name: "memory", title: "Memory", axis: "y2", axisTitle: "Memory, GB", ...FROM_ZERO },
    { name: "power", title: "Power", axis: "y3", axisTitle: "Power, W", ...FROM_ZERO, ...OF_GPUS },
    { name: "temperature", title: "Temperature", axis: "y4", axisTitle: "Temp., °C", ...OF_GPUS },
  ],
};
const MFU_AXIS = "y5"; // shares the panel of the speed, on the right
const BYTES_PER_GB = 1e9;
// Okabe and Ito's hues, which colour-blind readers can tell apart, made to stand out on either
// background.
const COLOURS = {
  light: {
    curves: ["#177874", "#b8460b", "#2f66ad", "#85509b", "#4d5a64", "#a06a00"],
    others: ["#3b7dd8", "#c4589b", "#9a7d00", "#2f9e44", "#d0552f", "#6f63c9"],
    gpus: ["#0072b2", "#d55e00", "#00805e", "#b8568f", "#2e9fd6", "#a67c00"],
    alarm: "#9c332f",
    ring: "#191f25",
  },
  dark: {
    curves: ["#43b1ac", "#f0935a", "#7ba7e6", "#c79bdb", "#a3afb8", "#e0b04c"],
    others: ["#7fb2ff", "#ec8fc6", "#d9c04a", "#7fd08f", "#ff9b7a", "#b3a8ff"],
    gpus: ["#4aa8e0", "#f08a3c", "#2fc095", "#dd8fbc", "#8fd3f7", "#e6bd4f"],
    alarm: "#f0a59f",
    ring: "#eceff1",
  },
};
const DASHES = ["solid", "dash", "dot"];
const FAINT = 0.28; // opacity of a raw line below its smoothed one
const NUM_DRAWN_AS_POINTS = 30; // shorter curves also show their points
const NUM_VALIDATIONS_AS_POINTS = 100; // each point is an element of the page: 400 cost 10 ms
// What earlier runs are compared in: curve -> its axis.
const COMPARED = {
  loss: "y",
  learning_rate: "y2",
  gradient_norm: "y3",
  tokens_per_second: "y4",
};

function weightOf(settings) {
  // The slider goes from 0 to 100, the weight from 0 to 0.99, finer towards 1.
  return 1 - 10 ** (-settings.smoothing / 50);
}

function uidOf(name) {
  // Plotly also makes a CSS class of it; a source of text is called what its owner likes.
  return name.replace(/[^A-Za-z0-9_-]/gu, (sign) => `-${sign.codePointAt(0).toString(16)}-`);
}

function makeTrace(view, name, curve, axis, look) {
  const uid = uidOf(name);
  const isShort = curve.x.length < NUM_DRAWN_AS_POINTS;
  const { divisor } = view.unit;
  const { colour, width = 1.5, dash = "solid", opacity = 1 } = look;
  const { format = ".4~g", extra = {} } = look;
  return {
    type: "scatter",
    uid,
    name: look.name,
    x: divisor === 1 ? curve.x : curve.x.map((x) => x / divisor),
    y: curve.y,
    yaxis: axis,
    mode: look.mode ?? (isShort ? "lines+markers" : "lines"),
    line: { color: colour, width, dash },
    marker: { color: colour, size: 4.5 },
    opacity,
    connectgaps: false,
    legendgroup: look.group ?? "",
    legendrank: look.rank ?? 1000,
    meta: look.meta ?? "raw",
    showlegend: !!look.isListed && curve.x.length > 0,
    visible: view.hidden.has(uid) ? "legendonly" : true,
    hovertemplate: `%{y:${format}}`,
    ...extra,
  };
}

function smoothPair(view, uid, axis, look) {
  // The raw line, faint, and above it the smoothed one; only the raw one where nothing is smoothed.
  const curve = view.store.get(uid);
  const weight = weightOf(view.settings);
  if (weight === 0) return [makeTrace(view, uid, curve, axis, { ...look, group: uid })];
  const smooth = { x: curve.x, y: smoothed(curve.y, weight) };
  const format = look.format ?? ".4~g";
  const raw = makeTrace(view, uid, curve, axis, {
    ...look,
    width: 1,
    opacity: FAINT,
    group: uid,
    isListed: false,
    extra: {
      customdata: smooth.y,
      hovertemplate: `%{y:${format}}, smoothed %{customdata:${format}}`,
    },
  });
  const drawn = { mode: "lines", width: 1.8, group: uid, meta: "smooth" };
  const above = { ...look, ...drawn, extra: { hoverinfo: "skip", hovertemplate: "" } };
  return [raw, makeTrace(view, `${uid}-smooth`, smooth, axis, above)];
}

function validationTraces(view, colours) {
  // The mean over all sources, then each source where there are several.
  const sources = view.store.names().filter((name) => name.startsWith("validation:"));
  const curve = view.store.get("validation");
  const mean = makeTrace(view, "validation", curve, "y", {
    name: "Validation loss",
    colour: colours.curves[1],
    mode: curve.x.length < NUM_VALIDATIONS_AS_POINTS ? "lines+markers" : "lines",
    isListed: true,
  });
  const each = sources.map((uid, place) =>
    makeTrace(view, uid, view.store.get(uid), "y", {
      name: `Validation, ${plainText(uid.slice("validation:".length), 30)}`,
      colour: colours.curves[1],
      width: 1,
      dash: ["dot", "dash", "dashdot"][place % 3],
      mode: "lines",
      opacity: 0.8,
      isListed: true,
    }),
  );
  return [...each, mean];
}

function overlayTraces(view, colours) {
  const weight = weightOf(view.settings);
  return view.overlays.flatMap(({ id, label, hue, curves }) =>
    Object.entries(COMPARED).map(([name, axis]) => {
      const curve = curves.get(name) ?? { x: [], y: [] };
      const isSmooth = weight > 0 && name !== "learning_rate";
      const isLoss = name === "loss";
      return makeTrace(
        view,
        `${name}@${id}`,
        isSmooth ? { x: curve.x, y: smoothed(curve.y, weight) } : curve,
        axis,
        {
          name: plainText(label, 44),
          colour: colours.others[hue % colours.others.length],
          width: 1,
          mode: "lines",
          group: `run-${id}`,
          rank: 1100, // after the run's own in the legend
          meta: "other",
          isListed: isLoss,
          extra: isLoss ? {} : { hoverinfo: "skip", hovertemplate: "" },
        },
      );
    }),
  );
}

function markTrace(view, colours) {
  // Where samples were written. Hover and click are found by chart_pointer.js.
  const curve = { x: view.marks.map((mark) => mark.x), y: view.marks.map((mark) => mark.y) };
  const isChosen = view.marks.map((mark) => mark.key === view.highlighted);
  const trace = makeTrace(view, "marks", curve, "y", {
    name: "Samples",
    colour: colours.curves[5],
    mode: "markers",
    isListed: true,
    extra: { hoverinfo: "skip", hovertemplate: "" },
  });
  trace.marker = {
    symbol: "diamond",
    size: isChosen.map((chosen) => (chosen ? 14 : 9)),
    color: colours.curves[5],
    line: { width: isChosen.map((chosen) => (chosen ? 2.5 : 1)), color: colours.ring },
  };
  trace.cliponaxis = false;
  return trace;
}

function trainingTraces(view, colours) {
  const single = (uid, axis, look) => makeTrace(view, uid, view.store.get(uid), axis, look);
  const hasMfu = view.store.get("mfu").x.length > 0;
  const dotted = { width: 1.2, dash: "dot" };
  const mfu = { name: "MFU", colour: colours.curves[5], ...dotted, format: ".1%", isListed: true };
  const rate = { name: "Learning rate", colour: colours.curves[2] };
  const norm = { name: "Gradient norm", colour: colours.curves[3] };
  return [
    ...overlayTraces(view, colours),
    ...smoothPair(view, "loss", "y", { name: "Loss", colour: colours.curves[0], isListed: true }),
    ...validationTraces(view, colours),
    single("learning_rate", "y2", rate),
    ...smoothPair(view, "gradient_norm", "y3", norm),
    ...smoothPair(view, "tokens_per_second", "y4", {
      name: "Tokens/s",
      colour: colours.curves[4],
      format: ",.4~r",
      isListed: hasMfu,
    }),
    ...(hasMfu ? [single("mfu", MFU_AXIS, mfu)] : []), // its axis is there only with it
    markTrace(view, colours),
  ];
}

function gpuTraces(view, colours, gpu, place) {
  const look = {
    name: gpu.label,
    colour: colours.gpus[place % colours.gpus.length],
    dash: DASHES[Math.floor(place / colours.gpus.length) % DASHES.length],
    group: `gpu${gpu.index}`,
  };
  const line = (what, axis, more = {}) => {
    const name = `gpu${gpu.index}_${what}`;
    const curve = view.store.get(name);
    const shown = what === "memory" ? inGigabytes(curve) : curve;
    return makeTrace(view, name, shown, axis, { ...look, format: ".0f", ...more });
  };
  return [
    line("utilisation", "y", { isListed: true }),
    line("memory", "y2", { format: ".2f" }),
    line("power", "y3"),
    line("temperature", "y4"),
  ];
}

function inGigabytes(curve) {
  return { x: curve.x, y: curve.y.map((bytes) => (bytes === null ? null : bytes / BYTES_PER_GB)) };
}

function machineTraces(view, colours) {
  const gpus = view.gpus.flatMap((gpu, place) => gpuTraces(view, colours, gpu, place));
  const hasGpus = view.gpus.length > 0;
  const cpu = makeTrace(view, "cpu_percent", view.store.get("cpu_percent"), "y", {
    name: "CPU",
    colour: hasGpus ? colours.curves[4] : colours.curves[0],
    width: hasGpus ? 1 : 1.5,
    dash: hasGpus ? "dot" : "solid",
    format: ".0f",
    isListed: true,
  });
  if (hasGpus) return [...gpus, cpu];
  const memory = (uid, name, colour) =>
    makeTrace(view, uid, inGigabytes(view.store.get(uid)), "y2", {
      name,
      colour: colours.curves[colour],
      format: ".2f",
      isListed: true,
    });
  const inUse = memory("memory_used", "RAM in use", 2);
  return [cpu, inUse, memory("process_memory", "RAM of the run", 5)];
}
