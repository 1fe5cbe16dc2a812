// The frame of the two charts: axes and their ranges, stage bands, alarms, resumes, theme. Pure
// functions of a view and its traces; all ranges are decided here, so that an update never moves a
// zoom. Text of a run passes plainText before Plotly sees it.

const SMALL_PANEL = 84; // pixels
const GAP = 18; // pixels between two panels
const MARGIN = { left: 56, right: 14, rightWithMfu: 46, top: 34, bottom: 40 };
const CHARACTER_WIDTH = 6.2; // pixels of a label's letter, rounded up
const MAX_ALARMS = 40;
const ALARM_NAMES = {
  not_finite: "not finite",
  spike: "spike",
  plateau: "plateau",
  stall: "stall",
  slow: "slow",
  hot_gpu: "hot GPU",
  throttled_gpu: "throttled GPU",
  disk_low: "disk low",
  dead_worker: "dead worker",
};
const TIME_UNITS = [
  { below: 600, divisor: 1, suffix: "s", format: ".0f", word: "seconds" },
  { below: 3 * 3600, divisor: 60, suffix: "min", format: ".2f", word: "minutes" },
  { below: 4 * 86400, divisor: 3600, suffix: "h", format: ".2f", word: "hours" },
  { below: Infinity, divisor: 86400, suffix: "d", format: ".2f", word: "days" },
];
const NEWEST_SHARE = { quarter: 0.25, twentieth: 0.05 };

function unitOf(x, extent) {
  // How values of the x axis are shown. Times are divided, so that ticks fall on round numbers.
  const counted = { divisor: 1, format: ",d", suffix: x };
  if (x === "tokens") return { ...counted, title: "Tokens seen in all stages" };
  if (x === "steps") return { ...counted, title: "Steps in all stages" };
  const seconds = extent ? extent[1] : 0;
  const { word, ...unit } = TIME_UNITS.find(({ below }) => seconds < below);
  return { ...unit, title: `Time of training without pauses, ${word}` };
}

function shownRange(view) {
  // [from, to] of the x axis in the units of the data.
  if (view.zoom.x) return view.zoom.x;
  const [first, last] = view.extent ?? [0, 1];
  const end = last > first ? last : first + 1;
  const share = NEWEST_SHARE[view.settings.range];
  const from = share ? end - share * (end - first) : Math.min(0, first);
  return [from, end + 0.012 * (end - from)];
}

function shownPanels(view, which) {
  return PANELS[which].filter(
    (panel) => view.settings.panels[panel.name] && !(panel.gpuOnly && !view.gpus.length),
  );
}

function heightOf(panels) {
  const inside = panels.reduce((sum, panel) => sum + (panel.height ?? SMALL_PANEL), 0);
  return inside + GAP * (panels.length - 1) + MARGIN.top + MARGIN.bottom;
}

function domainsOf(panels) {
  // Axis -> [bottom, top] as shares of the inner height, first panel on top.
  const inner = heightOf(panels) - MARGIN.top - MARGIN.bottom;
  let top = inner;
  return Object.fromEntries(
    panels.map((panel) => {
      const bottom = top - (panel.height ?? SMALL_PANEL);
      const domain = [Math.max(0, bottom / inner), top / inner];
      top = bottom - GAP;
      return [panel.axis, domain];
    }),
  );
}

function valuesInSight(traces, axis, range, divisor) {
  const values = [];
  for (const trace of traces) {
    if (trace.yaxis !== axis || trace.visible !== true) continue;
    const end = range[1] / divisor;
    let place = firstAtLeast(trace.x, range[0] / divisor);
    for (; place < trace.x.length && trace.x[place] <= end; place += 1) {
      if (trace.y[place] !== null) values.push(trace.y[place]);
    }
  }
  return values;
}

function fitted(view, panel, traces, range) {
  // The range of a y axis that shows what is in sight, in the axis's own units: powers of ten where
  // it is logarithmic.
  let values = valuesInSight(traces, panel.axis, range, view.unit.divisor);
  if (isLogAxis(view, panel)) values = values.filter((value) => value > 0).map(Math.log10);
  if (!values.length) return isLogAxis(view, panel) ? [-1, 1] : [0, panel.fixed?.[1] ?? 1];
  let [low, high] = view.settings.isClipped ? typicalRange(values) : fullRange(values);
  if (panel.fixed) return [panel.fixed[0], Math.max(panel.fixed[1], high)];
  if (panel.toZero) low = Math.min(0, low);
  const pad = 0.08 * (high - low || Math.abs(high) || 1);
  return [panel.toZero ? low : low - pad, high + pad];
}

function numOutside(view, panel, traces, range, limits) {
  // How many of the run's own values lie beyond a clipped axis.
  const own = traces.filter((trace) => trace.meta === "raw");
  const values = valuesInSight(own, panel.axis, range, view.unit.divisor);
  const [low, high] = isLogAxis(view, panel) ? limits.map((power) => 10 ** power) : limits;
  return values.filter((value) => value < low || value > high).length;
}

function isLogAxis(view, panel) {
  return panel.name === "loss" && view.settings.isLog;
}

function yAxis(view, panel, domain, range, theme) {
  return {
    title: { text: panel.axisTitle, font: { size: 11 }, standoff: 4 },
    type: isLogAxis(view, panel) ? "log" : "linear",
    domain,
    range: view.zoom.y[panel.name] ?? range,
    automargin: false,
    gridcolor: theme.line,
    zeroline: false,
    nticks: panel.height ? 7 : 4,
    tickfont: { size: 10.5 },
    exponentformat: panel.name === "speed" ? "SI" : "power",
    minexponent: 4,
  };
}

function xAxis(view, panels, range, theme) {
  const { divisor, title, format, suffix } = view.unit;
  return {
    title: { text: title, font: { size: 11 }, standoff: 4 },
    anchor: panels.at(-1).axis,
    range: range.map((value) => value / divisor),
    gridcolor: theme.line,
    zeroline: false,
    tickfont: { size: 10.5 },
    exponentformat: "B",
    hoverformat: format,
    unifiedhovertitle: { text: `%{x:${format}} ${suffix}` },
    spikecolor: theme.soft,
    spikethickness: 1,
    spikedash: "solid",
  };
}

function verticalLine(x, look) {
  return { type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: look };
}

function bandShapes(view, theme) {
  return view.bands.map((band, place) => ({
    type: "rect",
    layer: "below",
    xref: "x",
    yref: "paper",
    x0: band.start / view.unit.divisor,
    x1: band.end / view.unit.divisor,
    y0: 0,
    y1: 1,
    line: { width: 0 },
    fillcolor: place % 2 ? theme.bandOdd : theme.bandEven,
  }));
}

function label(text, x, shift, font, anchor = "center") {
  return {
    text,
    xref: "x",
    yref: "paper",
    x,
    y: 1,
    xanchor: anchor,
    yanchor: "top",
    yshift: shift,
    showarrow: false,
    font,
  };
}

function bandLabels(view, range, width, theme) {
  // A stage's name in the middle of what is in sight of it, shortened to the room that it has.
  const perUnit = width / (range[1] - range[0]);
  return view.bands.flatMap((band) => {
    const from = Math.max(band.start, range[0]);
    const to = Math.min(band.end, range[1]);
    const room = Math.floor(((to - from) * perUnit - 6) / CHARACTER_WIDTH);
    if (room < 3) return [];
    const middle = (from + to) / 2 / view.unit.divisor;
    return [label(plainText(band.title, room), middle, -1, { size: 11, color: theme.soft })];
  });
}

function shownAlarms(view) {
  return view.alarms.slice(-MAX_ALARMS);
}

function alarmColour(alarm, theme) {
  return alarm.state === "cleared" ? theme.soft : theme.colours.alarm; // over, but it did happen
}

function alarmName(alarm) {
  return ALARM_NAMES[alarm.alarm] ?? plainText(alarm.alarm, 20);
}

function alarmLabels(view, range, width, theme) {
  // Right of its line, below the stages' names; one that would cover the one before is left out.
  const perUnit = width / (range[1] - range[0]);
  let end = -Infinity;
  return shownAlarms(view).flatMap((alarm) => {
    const name = alarmName(alarm);
    const left = (alarm.x - range[0]) * perUnit;
    const right = left + name.length * CHARACTER_WIDTH + 6;
    if (left < end || left < 0 || left > width) return [];
    end = right;
    const isAtEnd = right > width;
    const font = { size: 10.5, color: alarmColour(alarm, theme) };
    return [label(name, alarm.x / view.unit.divisor, -17, font, isAtEnd ? "right" : "left")];
  });
}

function lineShapes(view, theme) {
  const { divisor } = view.unit;
  const resumes = view.resumes.map((x) =>
    verticalLine(x / divisor, { width: 1.2, color: theme.soft, dash: "dot" }),
  );
  const alarms = shownAlarms(view).map((alarm) =>
    verticalLine(alarm.x / divisor, { width: 1, color: alarmColour(alarm, theme) }),
  );
  return [...resumes, ...alarms];
}

function outsideNote(outside, panel, domain, theme) {
  return {
    text: `${outside} beyond the axis`,
    xref: "paper",
    yref: "paper",
    x: 1,
    y: domain[1],
    xanchor: "right",
    yanchor: "top",
    yshift: panel.name === "loss" ? -17 : -1, // below the names of the stages
    showarrow: false,
    font: { size: 10, color: theme.soft },
  };
}

function makeLayout(view, which, traces, width, theme) {
  // The whole layout; `width`: pixels of the node. It also keeps the ranges for chart_pointer.js.
  const panels = shownPanels(view, which);
  const domains = domainsOf(panels);
  const range = shownRange(view);
  const hasMfuAxis = traces.some((trace) => trace.uid === "mfu" && trace.x.length > 0);
  // Both charts leave the room for the axis of the MFU, so that one moment is above the other.
  const right = view.store.get("mfu").x.length ? MARGIN.rightWithMfu : MARGIN.right;
  const inner = Math.max(50, width - MARGIN.left - right);
  const names = [view, range, inner, theme];
  const layout = {
    uirevision: which,
    datarevision: view.revision,
    width,
    height: heightOf(panels),
    margin: { l: MARGIN.left, r: right, t: MARGIN.top, b: MARGIN.bottom },
    paper_bgcolor: theme.surface,
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 11.5, color: theme.ink },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.soft, activecolor: theme.colours.curves[0] },
    dragmode: view.isTouch ? false : "zoom",
    hovermode: "x unified",
    hoversubplots: "axis",
    hoverlabel: {
      bgcolor: theme.surface,
      bordercolor: theme.line,
      font: { color: theme.ink, size: 11.5 },
    },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 11.5 } },
    xaxis: xAxis(view, panels, range, theme),
    shapes: [...bandShapes(view, theme), ...lineShapes(view, theme)],
    annotations: which === "training" ? [...bandLabels(...names), ...alarmLabels(...names)] : [],
  };
  for (const panel of panels) {
    const limits = fitted(view, panel, traces, range);
    const name = panel.axis.replace("y", "yaxis");
    layout[name] = yAxis(view, panel, domains[panel.axis], limits, theme);
    if (!view.settings.isClipped || view.zoom.y[panel.name]) continue;
    const outside = numOutside(view, panel, traces, range, limits);
    if (outside) layout.annotations.push(outsideNote(outside, panel, domains[panel.axis], theme));
  }
  if (hasMfuAxis) {
    // Lower than the tokens/s, which the MFU follows so closely that it would be hidden.
    const fit = fitted(view, { axis: MFU_AXIS, toZero: true }, traces, range);
    const axis = yAxis(view, { name: "mfu", axisTitle: "MFU" }, [], [0, 1.35 * fit[1]], theme);
    delete axis.domain; // that of the panel
    const place = { overlaying: "y4", side: "right", showgrid: false, tickmode: "auto" };
    layout.yaxis5 = { ...axis, ...place, tickformat: ".0%", nticks: 4 };
  }
  return layout;
}
