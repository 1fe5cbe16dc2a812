// The curves of a run in two Plotly nodes that are never replaced: training above, machine below.
// Zoom, legend and hover survive every update and every change of a control, because all ranges are
// kept here. Scripts in their order: chart_data, chart_traces, chart_layout, chart_reader,
// chart_pointer, chart_controls, chart_plot, chart.

const MAX_MARKS = 500;
const TRAINING_CURVES = [...Object.keys(COMPARED), "validation", "mfu"];
const MACHINE_CURVE = /^(gpu\d+_|cpu_percent$|memory_used$|process_memory$|disk_free$)/;

function makeView() {
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const settings = readSettings(matchMedia("(max-width: 700px)").matches);
  return {
    run: "",
    x: settings.x, // the axis of the points that are kept; settings.x is the one asked for
    store: makeCurveStore(),
    settings,
    isTouch,
    revision: 0,
    zoom: { x: null, y: {} }, // y: name of a panel -> range in units of its axis
    hidden: new Set(), // names of traces switched off in the legend
    labels: new Map(), // earlier runs: id -> label
    highlighted: null,
    unit: unitOf("tokens", null),
    extent: null,
    bands: [],
    marks: [],
    alarms: [],
    resumes: [],
    gpus: [],
    gpuList: [], // as the server names them
    overlays: [],
    isMachineEmpty: true,
  };
}

function checkedBands(bands) {
  return (Array.isArray(bands) ? bands : [])
    .filter(({ start, end }) => isFiniteNumber(start) && isFiniteNumber(end) && end > start)
    .map(({ name, title, start, end }) => ({ name, title: title ?? name, start, end }));
}

function checkedMarks(marks, loss) {
  // A sample without a loss of its own sits on the curve.
  const last = loss.y.length - 1;
  const onCurve = (x) => loss.y[Math.min(firstAtLeast(loss.x, x), last)];
  return (Array.isArray(marks) ? marks : [])
    .slice(-MAX_MARKS)
    .map((mark) => ({
      key: String(mark.key),
      x: mark.x,
      y: mark.y ?? onCurve(mark.x),
      title: String(mark.title ?? mark.stage ?? ""),
      step: Number(mark.step) || 0,
      texts: Array.isArray(mark.texts) ? mark.texts.map(String) : [],
    }))
    .filter((mark) => isFiniteNumber(mark.x) && isFiniteNumber(mark.y));
}

function checkedGpus(gpus, names) {
  // The server's list, or what the names of the curves say.
  const indices = new Set(names.map((name) => name.match(/^gpu(\d+)_/)?.[1]).filter(Boolean));
  const listed = Array.isArray(gpus) ? gpus : [];
  const known = new Map(listed.map((gpu) => [String(gpu.index), gpu.name]));
  return [...indices].sort((one, two) => one - two).map((index) => {
    const name = known.get(index);
    return { index, label: plainText(name ? `GPU ${index}, ${name}` : `GPU ${index}`, 40) };
  });
}

function zoomOnNewAxis(range, before, after) {
  // The same stretch of the run on another x axis; null where it cannot be said.
  const ends = range && range.map((x) => moveBetween(x, before, after));
  return ends && ends.every(isFiniteNumber) && ends[0] < ends[1] ? ends : null;
}

function makeCharts(root, options) {
  // root holds [data-part="chart-controls"], .chart and .machine-chart. options: { plotlyUrl,
  // askCurves: async (question) => reply, onMark: (key) => void, onQuestionChange: () => void }
  const view = makeView();
  const { store, settings } = view;
  const gestures = {
    onZoom: (isAlongX) => {
      controls.showZoom(true);
      if (isAlongX) reader.refine();
      painter.request("both", true);
    },
    onReset: () => {
      controls.chooseWhole();
      resetZoom();
    },
    onResize: () => painter.request("both", true),
  };
  const plots = [
    makePlot(root.querySelector(".chart"), "training", view, gestures),
    makePlot(root.querySelector(".machine-chart"), "machine", view, gestures),
  ];
  const painter = makePainter(plots, prepare);
  const reader = makeCurveReader(options.askCurves, view, () => painter.request("both", true));
  const controls = makeChartControls(
    root.querySelector('[data-part="chart-controls"]'),
    settings,
    onSetting,
  );
  makeChartPointer(plots[0].node, view, { onMark: options.onMark, onDrag: painter.hold });
  makeChartPointer(plots[1].node, view, { onMark: null, onDrag: painter.hold });

  function prepare() {
    // What both charts share, before either is drawn: one x axis for all that is shown.
    view.revision += 1;
    view.overlays = reader.overlays();
    const [first, last] = store.extent() ?? [0, 0];
    view.extent = [first, Math.max(last, ...view.overlays.map((other) => other.end))];
    view.unit = unitOf(view.x, view.extent);
    view.gpus = checkedGpus(view.gpuList, store.names());
    const measured = store.names().filter((name) => MACHINE_CURVE.test(name));
    view.isMachineEmpty = measured.every((name) => store.get(name).x.length === 0);
  }

  function resetZoom() {
    view.zoom = { x: null, y: {} };
    controls.showZoom(false);
    reader.refine();
    painter.request("both", true);
  }

  function onSetting(name) {
    if (name === "x") return options.onQuestionChange();
    if (name === "range") return resetZoom();
    if (name === "isLog" && view.zoom.y.loss) {
      const move = settings.isLog ? Math.log10 : (power) => 10 ** power;
      const moved = view.zoom.y.loss.map(move);
      if (moved.every(Number.isFinite)) view.zoom.y.loss = moved;
      else delete view.zoom.y.loss; // a zoom down to zero has no place on a logarithmic axis
    }
    if (name === "isClipped") view.zoom.y = {};
    painter.request("both", true);
  }

  function takeFrame(reply) {
    // Everything but the points. Returns whether it has changed.
    const frame = () => [view.bands, view.marks, view.alarms, view.resumes, view.gpuList];
    const before = JSON.stringify(frame());
    view.marks = checkedMarks(reply.marks, store.get("loss"));
    view.alarms = (reply.alarms ?? []).filter((alarm) => isFiniteNumber(alarm.x));
    view.resumes = (reply.resumes ?? []).filter(isFiniteNumber);
    view.gpuList = reply.gpus ?? [];
    view.bands = checkedBands(reply.bands);
    return JSON.stringify(frame()) !== before;
  }

  function takeWhole(run, reply) {
    store.replace(reply.curves);
    if (run !== view.run) view.zoom = { x: null, y: {} };
    else if (view.x !== settings.x) {
      view.zoom.x = zoomOnNewAxis(view.zoom.x, view.bands, checkedBands(reply.bands));
    }
    Object.assign(view, { run, x: settings.x });
    controls.showZoom(view.zoom.x !== null || Object.keys(view.zoom.y).length > 0);
    reader.refine();
  }

  function take(run, reply) {
    const isWhole = run !== view.run || reply.is_whole;
    let grown = [];
    if (isWhole) takeWhole(run, reply);
    else grown = store.append(reply.curves);
    const isNew = takeFrame(reply) || isWhole;
    const hasTraining = grown.some((name) => !MACHINE_CURVE.test(name));
    if (isNew || hasTraining) painter.request("training", isWhole);
    if (isWhole || grown.length > 0) painter.request("machine", isWhole);
    const isEmpty = TRAINING_CURVES.every((name) => store.get(name).x.length === 0);
    return { isEmpty, wantsWhole: store.isTooLong() };
  }

  function draw() {
    // A promise that fails where Plotly cannot be loaded. The painter decides when to draw.
    return loadPlotly(options.plotlyUrl).then(painter.plan);
  }

  function setRuns(runs) {
    view.labels = new Map(runs.map((run) => [run.id, run.label]));
    controls.setRuns(runs);
    if (settings.overlays.length) painter.request("training");
  }

  function highlight(key) {
    if (view.highlighted === key) return;
    view.highlighted = key;
    painter.request("training", true);
  }

  new MutationObserver(() => painter.request("both", true)).observe(document.body, {
    attributes: true,
    attributeFilter: ["class"],
  });
  return { take, draw, question: () => ({ x: settings.x }), setRuns, highlight };
}
