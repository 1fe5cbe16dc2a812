// What a check or a rehearsal found: problems with their mends, the first text as a model reads it,
// and a table of time, energy, disk and memory. All text is put in as text, never as HTML.
const LEVELS = { error: "Error", warning: "Warning", note: "Note" };

function unit(value, steps, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  for (const [limit, name, scale] of steps) {
    if (Math.abs(value) >= limit) return `${Number((value / scale).toPrecision(digits))} ${name}`;
  }
  return String(value);
}
const asBytes = (value) =>
  unit(value, [[1e12, "TB", 1e12], [1e9, "GB", 1e9], [1e6, "MB", 1e6], [0, "kB", 1e3]]);
const asEnergy = (value) =>
  unit(value, [[3.6e6, "kWh", 3.6e6], [3.6e3, "Wh", 3.6e3], [0, "J", 1]]);
const asCount = (value) =>
  unit(value, [[1e12, "T", 1e12], [1e9, "B", 1e9], [1e6, "M", 1e6], [1e4, "k", 1e3], [0, "", 1]]).trim();

function asTime(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${(whole / 86_400).toFixed(1)} days`;
}

function memoryWords(stage) {
  const used = stage.memory_measured ?? stage.memory_predicted;
  if (used === null || used === undefined) return "–";
  const words = asBytes(used) + (stage.memory_measured ? "" : " (predicted)");
  return stage.memory_limit ? `${words} of ${asBytes(stage.memory_limit)}` : words;
}

function tableRow(cells, cell = "td") {
  const [first, ...rest] = cells;
  return make(
    "tr",
    {},
    make("th", { scope: cell === "th" ? "col" : "row" }, first),
    ...rest.map((text) => make(cell, cell === "th" ? { scope: "col" } : {}, text))
  );
}

function reportTable(report, titles) {
  const stages = (report.stages ?? []).filter((stage) => stage.steps || stage.checkpoint_bytes);
  if (!stages.length) return "";
  const rows = stages.map((stage) => [
    titles[stage.name] ?? stage.name,
    stage.tokens ? asCount(stage.tokens) : "–",
    stage.steps ? stage.steps.toLocaleString("en-GB") : "–",
    stage.tokens_per_second ? asCount(stage.tokens_per_second) : "–",
    asTime(stage.seconds),
    asEnergy(stage.energy_joules),
    asBytes((stage.checkpoint_bytes ?? 0) + (stage.data_bytes ?? 0)),
    memoryWords(stage),
  ]);
  const total = report.total;
  const sum = (name) => stages.reduce((all, stage) => all + (stage[name] ?? 0), 0);
  const foot = total
    ? [
        "In total",
        asCount(sum("tokens")),
        sum("steps").toLocaleString("en-GB"),
        "",
        asTime(total.seconds),
        asEnergy(total.energy_joules),
        `${asBytes(total.disk_bytes)} of ${asBytes(total.disk_free_bytes)} free`,
        asBytes(total.peak_memory_bytes),
      ]
    : null;
  const heads = ["Stage", "Tokens", "Steps", "Tokens/s", "Time", "Energy", "Disk", "Memory"];
  // What nobody measured yet takes no column.
  const isKnown = heads.map((_, column) => rows.some((row) => row[column] !== "–"));
  const shown = (cells) => cells.filter((_, column) => isKnown[column]);
  const table = make(
    "table",
    {},
    make("caption", {}, total ? "What the whole pipeline needs" : "What the pipeline comes to"),
    make("thead", {}, tableRow(shown(heads), "th")),
    make("tbody", {}, ...rows.map((cells) => tableRow(shown(cells)))),
    ...(foot ? [make("tfoot", {}, tableRow(shown(foot)))] : [])
  );
  return make("div", { class: "report-table", tabindex: "0", role: "region", "aria-label": "Needs" }, table);
}

function reportWindows(windows, titles) {
  if (!windows?.length) return "";
  return make(
    "div",
    { class: "report-windows" },
    ...windows.map((found) =>
      make(
        "details",
        {},
        make(
          "summary",
          {},
          `First text of ${titles[found.stage] ?? found.stage}: ${found.source}` +
            (found.num_tokens ? `, ${found.num_tokens.toLocaleString("en-GB")} tokens` : "")
        ),
        make("pre", {}, found.text ?? "")
      )
    )
  );
}

function drawReport(box, { kind, report, titles, isStale }) {
  const order = Object.keys(LEVELS);
  const problems = [...(report.problems ?? [])].sort(
    (one, other) => order.indexOf(one.level) - order.indexOf(other.level)
  );
  const worst = problems[0]?.level;
  const counts = order
    .map((level) => [problems.filter((problem) => problem.level === level).length, level])
    .filter(([count]) => count)
    .map(([count, level]) => `${count} ${level}${count > 1 ? "s" : ""}`);
  const done =
    kind === "rehearse"
      ? `Rehearsed${report.steps_rehearsed ? ` ${report.steps_rehearsed} steps` : ""}`
      : "Checked";
  const heading = counts.length ? `${done}: ${counts.join(", ")}` : `${done}: nothing is in the way`;
  const items = problems.map((problem) =>
    make(
      "li",
      { "data-level": problem.level },
      make("b", {}, LEVELS[problem.level] ?? problem.level),
      make(
        "span",
        {},
        problem.stage ? make("span", { class: "soft" }, `${titles[problem.stage] ?? problem.stage}: `) : "",
        problem.message,
        problem.mend ? make("span", { class: "mend" }, ` ${problem.mend}`) : ""
      )
    )
  );
  const source = report.total?.energy_source;
  box.replaceChildren(
    ...[
      make("h4", { "data-level": worst ?? "good" }, heading),
      isStale ? make("p", { class: "soft" }, "The plan was changed after this.") : "",
      items.length ? make("ul", { class: "report-problems" }, ...items) : "",
      reportTable(report, titles),
      source ? make("p", { class: "soft" }, `Energy: ${source}.`) : "",
      kind !== "rehearse" && !report.total
        ? make("p", { class: "soft" }, "A rehearsal of 20 steps measures time, energy and memory.")
        : "",
      reportWindows(report.windows, titles),
    ].filter((node) => node !== "")
  );
  box.hidden = false;
}
