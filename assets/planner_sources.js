// The mixture of a stage: a list of sources, each with the fields that count for its kind.
const SOURCE_TITLES = {
  generated: "Generated text",
  files: "Your own files",
  hub: "Hugging Face dataset",
  replay: "Text of an earlier stage again",
};
const nameOfPath = (path) => path.replace(/\/+$/, "").split("/").pop();

// `setup`: {schema, texts: [{name, path}], allow_folders, refusal}; `earlier`: [[name, title]] of
// stages whose text can be read again; `change(what)` is called after every change of the list.
function makeSources(sources, place, setup, earlier, edit) {
  const { options } = setup.schema.source;
  const list = make("ol", { class: "sources" });

  function showShares() {
    const total = sources.reduce((sum, source) => sum + (Number(source.weight) || 0), 0);
    list.querySelectorAll(".share").forEach((span, number) => {
      const share = total > 0 ? (100 * (Number(sources[number].weight) || 0)) / total : 0;
      span.textContent = `${Number(share.toPrecision(3))} %`;
    });
  }

  function fieldOf(source, number, name) {
    const at = `${place}.${number}.${name}`;
    const write = (next) => {
      edit.write(at, next);
      source[name] = next;
      if (name === "weight") showShares();
    };
    const value = source[name];
    const option = options[name];
    if (name === "paths") {
      return makeField(option, at, value, write, makePaths(value ?? [], write, setup, edit.redraw));
    }
    const isChosen = { generated: setup.schema.flavours, replay: earlier }[source.kind];
    if (name === "name" && isChosen) {
      const choices = isChosen.length ? isChosen : [["", "no earlier stage with text"]];
      const select = makeSelect(choices, value);
      select.addEventListener("change", () => write(select.value));
      const called = source.kind === "replay" ? "Stage" : "Flavour";
      return makeField({ ...option, label: called, help: "" }, at, value, write, select);
    }
    const dataset = source.kind === "hub" && name === "name";
    const shown = dataset ? { ...option, label: "Dataset", help: "Such as owner/name" } : option;
    return makeField(shown, at, value, write);
  }

  sources.forEach((source, number) => {
    const kinds = makeSelect(
      options.kind.choices.map((kind) => [kind, SOURCE_TITLES[kind] ?? kind]),
      source.kind
    );
    kinds.addEventListener("change", () => edit.kind(number, kinds.value));
    const own = setup.schema.source_options[source.kind] ?? [];
    const shown = source.kind === "replay" ? own : [...own, "licence"];
    const drop = make(
      "button",
      {
        type: "button",
        class: "plain-button quiet",
        "data-key": `source-drop-${number}`,
        "aria-label": `Remove text ${number + 1}`,
      },
      "Remove"
    );
    drop.disabled = sources.length < 2;
    drop.addEventListener("click", () => edit.remove(number));
    list.append(
      make(
        "li",
        { class: "source", "data-place": `${place}.${number}` },
        make(
          "div",
          { class: "source-head" },
          make("label", { class: "source-kind" }, make("span", { class: "visually-hidden" }, "Kind of text"), kinds),
          sources.length > 1 ? fieldOf(source, number, "weight") : "",
          sources.length > 1 ? make("span", { class: "share" }) : "",
          drop
        ),
        make("div", { class: "fields" }, ...shown.map((n) => fieldOf(source, number, n))),
        make("p", { class: "field-problem" })
      )
    );
  });
  showShares();
  return list;
}

// Files of a source: chips with a cross, a menu of uploaded files, and a path where one may be typed.
function makePaths(paths, write, setup, redraw) {
  const box = make("div", { class: "paths" });
  const set = (next) => {
    write(next);
    redraw();
  };
  paths.forEach((path, number) => {
    const cross = make(
      "button",
      { type: "button", "aria-label": `Remove ${nameOfPath(path)}`, "data-key": `path-${path}` },
      "×"
    );
    cross.addEventListener("click", () => set(paths.filter((_, other) => other !== number)));
    box.append(make("span", { class: "chip", title: path }, nameOfPath(path), cross));
  });
  const free = setup.texts.filter((text) => !paths.includes(text.path));
  if (free.length) {
    const menu = makeSelect([["", "Add an uploaded file"], ...free.map((t) => [t.path, t.name])], "");
    menu.setAttribute("aria-label", "Add an uploaded file");
    menu.addEventListener("change", () => menu.value && set([...paths, menu.value]));
    box.append(menu);
  } else if (!paths.length && !setup.allow_folders) {
    box.append(make("span", { class: "soft" }, "Upload a file below, then choose it here."));
  }
  if (setup.allow_folders && !setup.refusal) {
    const input = make("input", {
      type: "text",
      placeholder: "or a whole path, then Enter",
      "aria-label": "Path of a file or folder",
      spellcheck: "false",
    });
    const add = () => {
      const path = input.value.trim();
      if (path && !paths.includes(path)) set([...paths, path]);
    };
    input.addEventListener("change", add);
    box.append(input);
  }
  return box;
}
