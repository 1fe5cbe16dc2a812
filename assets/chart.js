// The training chart: five curves over the tokens of a whole run, in a node that is never replaced.
// Zoom, legend and hover survive an update (uirevision). Values come from the server as numbers or
// null; null is a gap. Plotly is served by the playground itself.

const CURVES = [
  { name: "loss", title: "Loss", axis: "y", colour: 0, mode: "lines", width: 1.6 },
  { name: "validation", title: "Validation loss", axis: "y", colour: 1, mode: "lines+markers", width: 1.6 },
  { name: "learning_rate", title: "Learning rate", axis: "y2", colour: 2, mode: "lines", width: 1.3 },
  { name: "gradient_norm", title: "Gradient norm", axis: "y3", colour: 3, mode: "lines", width: 1.3 },
  { name: "tokens_per_second", title: "Tokens/s", axis: "y4", colour: 4, mode: "lines", width: 1.3 },
];
// Okabe and Ito's colours, which colour-blind readers can tell apart; each has its own panel too.
const PALETTE = {
  light: ["#177874", "#c2500a", "#3f6fb5", "#8a5a9e", "#5b6770"],
  dark: ["#43b1ac", "#f0935a", "#7ba7e6", "#c79bdb", "#a3afb8"],
};
// Panels from top to bottom, as shares of the height.
const PANELS = { yaxis: [0.5, 0.965], yaxis2: [0.34, 0.46], yaxis3: [0.17, 0.29], yaxis4: [0, 0.12] };
// Plotly's own list also has a button that would send the data to another host.
const BUTTONS = [["zoom2d", "pan2d", "resetScale2d", "toImage"]];
// More points than this on a line: ask the server for a thinned curve.
const TOO_MANY_POINTS = 4000;

let plotlyLoading = null;

function loadPlotly(url) {
  if (window.Plotly) return Promise.resolve();
  plotlyLoading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} cannot be loaded`));
    document.head.appendChild(script);
  });
  return plotlyLoading;
}

function isDark() {
  return document.body.classList.contains("dark") || !!document.querySelector(".dark");
}

function makeChart(node, plotlyUrl) {
  const state = { run: "", data: emptyData(), bands: [], titles: {}, revision: 0, isDrawing: false };

  function emptyData() {
    return Object.fromEntries(CURVES.map((curve) => [curve.name, { x: [], y: [] }]));
  }

  function traces(colours) {
    return CURVES.map((curve) => ({
      x: state.data[curve.name].x,
      y: state.data[curve.name].y,
      name: curve.title,
      uid: curve.name,
      type: "scatter",
      mode: curve.mode,
      yaxis: curve.axis,
      connectgaps: false,
      line: { color: colours[curve.colour], width: curve.width },
      marker: { color: colours[curve.colour], size: 5 },
      hovertemplate: "%{y:.5~g}",
    }));
  }

  function axis(title, domain, style, extra = {}) {
    return {
      title: { text: title, font: { size: 11 }, standoff: 6 },
      domain,
      automargin: false,
      gridcolor: style.line,
      zeroline: false,
      nticks: 4,
      tickfont: { size: 10.5 },
      exponentformat: "power",
      fixedrange: false,
      ...extra,
    };
  }

  function layout(style) {
    const bands = state.bands.filter((band) => band.end > band.start);
    return {
      uirevision: state.run,
      datarevision: state.revision,
      margin: { l: 58, r: 12, t: 8, b: 38 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 11.5, color: style.ink },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style.soft, activecolor: style.colours[0] },
      hovermode: "x unified",
      hoversubplots: "axis",
      hoverlabel: { bgcolor: style.surface, bordercolor: style.line, font: { color: style.ink } },
      legend: { orientation: "h", x: 0, y: 1.0, yanchor: "bottom", font: { size: 11.5 } },
      xaxis: {
        title: { text: "Tokens seen in all stages", font: { size: 11 }, standoff: 4 },
        anchor: "y4",
        gridcolor: style.line,
        zeroline: false,
        rangemode: "tozero",
        tickfont: { size: 10.5 },
      },
      yaxis: axis("Loss, nats/token", PANELS.yaxis, style),
      yaxis2: axis("LR", PANELS.yaxis2, style, { rangemode: "tozero" }),
      yaxis3: axis("Grad norm", PANELS.yaxis3, style, { rangemode: "tozero" }),
      yaxis4: axis("Tokens/s", PANELS.yaxis4, style, { rangemode: "tozero" }),
      shapes: bands.map((band, place) => ({
        type: "rect",
        layer: "below",
        xref: "x",
        yref: "paper",
        x0: band.start,
        x1: band.end,
        y0: 0,
        y1: 0.965,
        line: { width: 0 },
        fillcolor: place % 2 ? style.bandOdd : style.bandEven,
      })),
      annotations: bands.map((band) => ({
        text: band.name,
        xref: "x",
        yref: "paper",
        x: (band.start + band.end) / 2,
        y: 0.965,
        yanchor: "top",
        showarrow: false,
        font: { size: 10.5, color: style.soft },
      })),
    };
  }

  function style() {
    const read = (name) => getComputedStyle(node).getPropertyValue(name).trim();
    const dark = isDark();
    return {
      colours: dark ? PALETTE.dark : PALETTE.light,
      ink: read("--body-text-color"),
      soft: read("--body-text-color-subdued"),
      line: read("--border-color-primary"),
      surface: read("--background-fill-primary"),
      bandEven: dark ? "rgba(67,177,172,0.07)" : "rgba(23,120,116,0.05)",
      bandOdd: dark ? "rgba(160,175,185,0.07)" : "rgba(80,95,105,0.05)",
    };
  }

  async function draw() {
    if (node.offsetParent === null) return; // hidden: a chart without width cannot be laid out
    await loadPlotly(plotlyUrl);
    if (state.isDrawing) return;
    state.isDrawing = true;
    state.revision += 1;
    const now = style();
    const config = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS };
    try {
      await window.Plotly.react(node, traces(now.colours), layout(now), config);
    } finally {
      state.isDrawing = false;
    }
  }

  function take(run, reply) {
    const isOther = run !== state.run || reply.is_whole;
    if (isOther) {
      state.run = run;
      state.data = emptyData();
    }
    let longest = 0;
    let added = 0;
    for (const curve of CURVES) {
      const fresh = reply.curves[curve.name];
      const kept = state.data[curve.name];
      kept.x.push(...fresh.x);
      kept.y.push(...fresh.y);
      added += fresh.x.length;
      longest = Math.max(longest, kept.x.length);
    }
    state.bands = reply.bands;
    return { hasNew: isOther || added > 0, isEmpty: longest === 0, isTooLong: longest > TOO_MANY_POINTS };
  }

  new ResizeObserver(() => {
    if (node.offsetParent !== null && node.data) window.Plotly.Plots.resize(node);
  }).observe(node);
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });

  return { draw, take };
}
