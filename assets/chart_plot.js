// One Plotly node, and when it is drawn. The nodes are never replaced, and an update never
// touches what the reader did with them: ranges and the legend's choices are kept in the view.

const DRAW_EVERY_MS = { training: 1000, machine: 5000 }; // the machine is measured every 5 s
const DRAW_UNSEEN_EVERY_MS = 5000; // scrolled out of sight
const REST_FACTOR = 20; // rest after a drawing, as a multiple of what it took

const REMOVED_BUTTONS = [
  ...["autoScale2d", "resetScale2d", "zoomIn2d", "zoomOut2d", "select2d", "lasso2d"],
];

let plotlyLoading = null;

function loadPlotly(url) {
  if (window.Plotly) return Promise.resolve();
  plotlyLoading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = resolve;
    script.onerror = () => {
      plotlyLoading = null; // the next drawing tries again
      reject(new Error(`${url} cannot be loaded`));
    };
    document.head.appendChild(script);
  });
  return plotlyLoading;
}

function readTheme(node) {
  const read = (name) => getComputedStyle(node).getPropertyValue(name).trim();
  const isDark = document.body.classList.contains("dark") || !!node.closest(".dark");
  return {
    colours: isDark ? COLOURS.dark : COLOURS.light,
    ink: read("--body-text-color"),
    soft: read("--body-text-color-subdued"),
    line: read("--border-color-primary"),
    surface: read("--background-fill-primary"),
    bandEven: isDark ? "rgba(67,177,172,0.08)" : "rgba(23,120,116,0.06)",
    bandOdd: isDark ? "rgba(160,175,185,0.05)" : "rgba(80,95,105,0.035)",
  };
}

function makePlot(node, which, view, options) {
  // options: { onZoom(isAlongX), onReset(), onResize() }
  const config = {
    responsive: false,
    displaylogo: false,
    doubleClick: false,
    displayModeBar: view.isTouch ? false : "hover",
    modeBarButtonsToRemove: REMOVED_BUTTONS,
    toImageButtonOptions: { filename: `stentor-${which}`, scale: 2 },
  };
  let isListening = false;

  function panelOf(axis) {
    const name = axis.replace("yaxis", "y");
    if (name === MFU_AXIS) return "mfu";
    return PANELS[which].find((panel) => panel.axis === name)?.name;
  }

  function onRelayout(changes) {
    // A gesture on the chart: what it changed is kept as our own range.
    const names = Object.keys(changes).map((key) => key.match(/^([xy]axis\d*)\.range/)?.[1]);
    const axes = new Set(names.filter(Boolean));
    if (!axes.size) return;
    for (const axis of axes) {
      const range = node.layout[axis].range.map(Number);
      if (axis === "xaxis") view.zoom.x = range.map((value) => value * view.unit.divisor);
      else if (panelOf(axis)) view.zoom.y[panelOf(axis)] = range;
    }
    options.onZoom(axes.has("xaxis"));
  }

  function onRestyle([edit, places]) {
    // The legend: Plotly names traces by place, we by uid, so that it outlives every change.
    if (!("visible" in edit)) return;
    places.forEach((place, turn) => {
      const values = [edit.visible].flat();
      if (values[turn % values.length] === "legendonly") view.hidden.add(node.data[place].uid);
      else view.hidden.delete(node.data[place].uid);
    });
  }

  function listen() {
    isListening = true;
    node.on("plotly_relayout", onRelayout);
    node.on("plotly_restyle", onRestyle);
    node.on("plotly_doubleclick", options.onReset);
  }

  async function draw() {
    const theme = readTheme(node);
    const hasPoints = which === "training" || !view.isMachineEmpty;
    const isShown = hasPoints && shownPanels(view, which).length > 0;
    node.hidden = !isShown;
    if (!isShown) return;
    const axes = new Set([...shownPanels(view, which).map((panel) => panel.axis)]);
    if (axes.has("y4")) axes.add(MFU_AXIS);
    const make = which === "training" ? trainingTraces : machineTraces;
    const traces = make(view, theme.colours).filter((trace) => axes.has(trace.yaxis));
    const layout = makeLayout(view, which, traces, node.clientWidth, theme);
    // One button of our own: Plotly's would go back to the ranges that it was first given. Lists of
    // lists in the configuration would make it build everything anew with each drawing.
    config.modeBarButtonsToAdd ??= [
      {
        name: "whole",
        title: "Show the whole run",
        icon: window.Plotly.Icons.home,
        click: options.onReset,
      },
    ];
    await window.Plotly.react(node, traces, layout, config);
    if (!isListening) listen();
  }

  // A hidden chart has no width to be laid out in; one without panels is hidden by ourselves.
  const isOnPage = () => node.parentElement.offsetParent !== null;
  let width = 0;
  new ResizeObserver(() => {
    if (!node.data || !isOnPage() || node.clientWidth === width) return;
    width = node.clientWidth;
    options.onResize();
  }).observe(node);
  return { node, which, draw, isOnPage };
}

function makePainter(plots, prepare) {
  // Draws what has changed: at most once a second for news, in the next frame for a reader's
  // choice; one chart per frame, nothing while hidden, nothing while the pointer holds a chart.
  const state = { timer: null, frame: null, isHeld: false };
  const idle = { isDirty: false, isUrgent: false, isBusy: false, isSeen: true, cost: 0 };
  const due = plots.map(({ which }) => ({ ...idle, which, drawnAt: -Infinity }));
  const canDraw = () => !document.hidden && !state.isHeld && window.Plotly;

  function waitOf(entry) {
    if (entry.isUrgent) return 0;
    const usual = entry.isSeen ? DRAW_EVERY_MS[entry.which] : DRAW_UNSEEN_EVERY_MS;
    const pause = Math.max(usual, REST_FACTOR * entry.cost);
    return Math.max(0, entry.drawnAt + pause - performance.now());
  }

  function plan() {
    const waiting = due.filter(
      (entry, place) => entry.isDirty && !entry.isBusy && plots[place].isOnPage(),
    );
    if (!waiting.length || !canDraw()) return;
    clearTimeout(state.timer);
    state.timer = setTimeout(() => {
      state.frame ??= requestAnimationFrame(paint);
    }, Math.min(...waiting.map(waitOf)));
  }

  async function paint() {
    state.frame = null;
    const place = due.findIndex(
      (entry, i) => entry.isDirty && !entry.isBusy && plots[i].isOnPage() && waitOf(entry) <= 0,
    );
    if (place < 0 || !canDraw()) return plan();
    const entry = due[place];
    const now = performance.now();
    Object.assign(entry, { isDirty: false, isUrgent: false, isBusy: true, drawnAt: now });
    try {
      prepare();
      await plots[place].draw();
    } finally {
      entry.isBusy = false;
      entry.cost = performance.now() - entry.drawnAt;
      plan();
    }
  }

  function request(which, isUrgent = false) {
    // which: "training", "machine" or "both"
    due.forEach((entry) => {
      if (which !== "both" && entry.which !== which) return;
      entry.isDirty = true;
      entry.isUrgent ||= isUrgent;
    });
    plan();
  }

  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        due[plots.findIndex((plot) => plot.node === target)].isSeen = isIntersecting;
      }
      plan();
    },
    { rootMargin: "200px" },
  );
  plots.forEach((plot) => seen.observe(plot.node));
  document.addEventListener("visibilitychange", plan);
  const hold = (isHeld) => {
    state.isHeld = isHeld;
    plan();
  };
  return { request, plan, hold };
}
