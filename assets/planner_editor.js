// The options of the chosen stage, or of the whole run, as a form made from the declarations. Part of
// planner.js, which owns the draft.
function fieldOf(option, place, control) {
  return makeField(option, place, plan.read(place), (value) => edit.write(place, value), control);
}

function startField(option) {
  const place = "start";
  const value = plan.draft.start;
  const known = [["", "Nothing: the first stage creates a model"], ...modelTitles()];
  const select = makeSelect(known, value ?? "");
  const box = make("div", { class: "paths" }, select);
  select.addEventListener("change", () => edit.write(place, select.value || null));
  if (setup.allow_folders && !setup.refusal) {
    const input = make("input", {
      type: "text",
      placeholder: "or a model folder, then Enter",
      "aria-label": "Model folder",
      spellcheck: "false",
    });
    input.addEventListener("change", () => {
      if (!input.value.trim()) return;
      edit.write(place, input.value.trim());
      drawEditor();
    });
    box.append(input);
  }
  return fieldOf(option, place, box);
}

function sourcesField(option, place) {
  const list = plan.read(place) ?? [];
  const earlier = plan.draft.stages
    .slice(0, Math.max(0, plan.selected))
    .filter((stage) => stage.kind === "pretrain" && !stage.skip)
    .map((stage) => [stage.name, stage.title || stage.name]);
  const set = (next, what) => {
    plan.write(place, next, what);
    restructured("");
  };
  const blank = setup.schema.source.options;
  const fresh = Object.fromEntries(Object.values(blank).map((o) => [o.name, copyOf(o.default)]));
  const sources = makeSources(list.map(copyOf), place, setup, earlier, {
    write: edit.write,
    redraw: () => {
      drawEditor();
      drawProblems();
    },
    remove: (number) => set(list.filter((_, other) => other !== number), "remove a text"),
    kind(number, kind) {
      const name = { generated: setup.schema.flavours[0], replay: earlier[0]?.[0] ?? "" }[kind] ?? "";
      const kept = { weight: list[number].weight, licence: list[number].licence };
      const changed = { ...copyOf(fresh), ...kept, kind, name: name || (kind === "files" ? fresh.name : "") };
      set(list.map((source, other) => (other === number ? changed : source)), "change a text");
    },
  });
  const add = make("button", { type: "button", class: "plain-button", "data-key": "source-add" }, "Add text");
  add.addEventListener("click", () => set([...list, copyOf(fresh)], "add a text"));
  const everywhere = make(
    "button",
    { type: "button", class: "plain-button quiet", "data-key": "source-all" },
    "Use in every stage"
  );
  everywhere.addEventListener("click", () => useEverywhere(list));
  return make(
    "div",
    { class: "field wide", "data-place": place },
    sources,
    make("div", { class: "plan-buttons" }, add, everywhere),
    make("p", { class: "field-problem" })
  );
}

function useEverywhere(list) {
  const own = list.filter((source) => source.kind !== "replay");
  const stages = plan.draft.stages.map((stage) => {
    if (!stage.settings.sources) return stage;
    const replays = stage.settings.sources.filter((source) => source.kind === "replay");
    return { ...stage, settings: { ...stage.settings, sources: copyOf([...own, ...replays]) } };
  });
  plan.write("stages", stages, "use a text everywhere");
  restructured("Every stage that reads text reads these now.");
}

function drawGroup(title, fields, place, isOpen) {
  if (!fields.length) return "";
  const group = make("details", { class: "group", "data-group": title }, make("summary", {}, title));
  group.open = opened.has(title) || (isOpen && !closed.has(title));
  group.append(make("div", { class: "fields" }, ...fields));
  group.querySelector("summary").addEventListener("click", () => {
    (group.open ? closed : opened).add(title);
    (group.open ? opened : closed).delete(title);
  });
  return group;
}

function drawForm(form, place) {
  return form.groups.map(({ title, options }, number) => {
    const fields = options.map((name) => {
      const option = form.options[name];
      const at = place ? `${place}.${name}` : name;
      if (option.kind === "sources") return sourcesField(option, at);
      if (at === "start") return startField(option);
      return fieldOf(option, at);
    });
    return drawGroup(title, fields, place, number < OPEN_GROUPS);
  });
}

function tool(action, words, help, isOff = false) {
  const attributes = { type: "button", class: "plain-button", "data-action": action, "data-key": action };
  const button = make("button", { ...attributes, title: help }, words);
  button.disabled = isOff;
  return button;
}

function stageHead(stage) {
  const count = plan.draft.stages.length;
  const kind = setup.schema.kind_titles[stage.kind] ?? stage.kind;
  return make(
    "div",
    { class: "editor-head" },
    make("h3", { tabindex: "-1" }, stage.title || stage.name, make("span", { class: "pill" }, kind)),
    make(
      "div",
      { class: "plan-buttons" },
      tool("earlier", "← Earlier", "Alt and left arrow on the card", plan.selected === 0),
      tool("later", "Later →", "Alt and right arrow on the card", plan.selected === count - 1),
      tool("skip", stage.skip ? "Include" : "Skip", "Keep it in the plan; the run leaves it out"),
      tool("duplicate", "Copy", "Add the same stage after this one"),
      tool("drop", "Drop", "Delete on the card; Undo brings it back", count === 1)
    )
  );
}

function drawEditor() {
  const editor = part("editor");
  const focused = editor.contains(document.activeElement)
    ? document.activeElement.dataset.key ?? document.activeElement.closest("[data-place]")?.dataset.place
    : null;
  const { stage, selected } = plan;
  const nodes = stage
    ? [
        stageHead(stage),
        ...drawForm(setup.schema.settings[stage.kind], `stages.${selected}.settings`),
        ...drawForm(setup.schema.stage, `stages.${selected}`),
      ]
    : [
        make("div", { class: "editor-head" }, make("h3", { tabindex: "-1" }, "The whole run")),
        ...drawForm(setup.schema.recipe, ""),
        drawGroup(
          "Alarms",
          Object.values(setup.schema.alarms.options).map((o) => fieldOf(o, `alarms.${o.name}`)),
          "alarms",
          false
        ),
      ];
  editor.replaceChildren(...nodes.filter((node) => node !== ""));
  if (!focused) return;
  const key = CSS.escape(focused);
  const field = editor.querySelector(`[data-key="${key}"]:not(:disabled)`);
  const place = editor.querySelector(`[data-place="${key}"]`);
  (field ?? place?.querySelector("input, select, textarea"))?.focus({ preventScroll: true });
}

