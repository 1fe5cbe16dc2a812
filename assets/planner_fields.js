// Fields made from the declarations that the server sends. A field writes what was typed into the
// draft, also where it is no number: the server says what is wrong, and nothing is lost.
let numFields = 0;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

const textOf = (value) => (value === null || value === undefined ? "" : String(value));

function parseNumber(text, option) {
  const trimmed = text.trim();
  if (!trimmed) return option.optional ? null : "";
  const value = Number(trimmed.replace(/(?<=\d)[_,\s](?=\d{3})/g, ""));
  const isExact = Number.isFinite(value) && (option.kind === "float" || Number.isSafeInteger(value));
  return isExact ? value : trimmed;
}

function rangeOf(option) {
  if (option.low === null && option.high === null) return "";
  const show = (value) => (Math.abs(value) >= 1e4 ? value.toLocaleString("en-GB") : String(value));
  if (option.high === null || option.high >= 1e12) return `at least ${show(option.low)}`;
  return `${show(option.low)} to ${show(option.high)}`;
}

// Arrow keys step a number, as they would in a number field, which throws away what is no number.
function stepBy(event, input, option) {
  const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  const value = Number(input.value);
  if (!direction || !option.step || input.value.trim() === "" || !Number.isFinite(value)) return;
  event.preventDefault();
  const digits = Math.max(0, Math.ceil(-Math.log10(option.step)));
  const next = Number((value + direction * option.step).toFixed(Math.min(12, digits + 2)));
  input.value = String(Math.min(option.high ?? next, Math.max(option.low ?? next, next)));
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

function makeSelect(choices, value) {
  const select = make("select");
  const known = choices.map((choice) => (Array.isArray(choice) ? choice : [choice, choice]));
  if (!known.some(([id]) => id === value)) known.push([value, textOf(value) || "choose one"]);
  for (const [id, words] of known) select.append(new Option(words, textOf(id)));
  select.value = textOf(value);
  return select;
}

function controlOf(option, value, write) {
  if (option.kind === "bool") {
    const box = make("input", { type: "checkbox" });
    box.checked = value === true;
    box.addEventListener("change", () => write(box.checked));
    return box;
  }
  if (option.choices.length) {
    const select = makeSelect(option.choices, value);
    select.addEventListener("change", () => write(select.value));
    return select;
  }
  if (option.kind === "lines") {
    const area = make("textarea", { rows: 4 });
    area.value = (value ?? []).join("\n");
    area.addEventListener("input", () => {
      write(area.value.trim() ? area.value.replace(/\n+$/, "").split("\n") : []);
    });
    return area;
  }
  const isNumber = option.kind === "int" || option.kind === "float";
  const input = make("input", {
    type: "text",
    inputmode: isNumber ? "decimal" : null,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: option.placeholder ?? null,
  });
  input.value = textOf(value);
  if (isNumber) input.addEventListener("keydown", (event) => stepBy(event, input, option));
  input.addEventListener("input", () => {
    if (isNumber) write(parseNumber(input.value, option));
    else write(input.value || !option.optional ? input.value : null);
  });
  return input;
}

// One option with its label, help and room for what is wrong with it; `place` is its path in the
// draft. `control` takes the place of the usual one.
function makeField(option, place, value, write, control = controlOf(option, value, write)) {
  numFields += 1;
  const id = `plan-field-${numFields}`;
  const target = control.matches("input, select, textarea")
    ? control
    : control.querySelector("input, select, textarea");
  if (target) {
    target.id = id;
    target.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
  }
  const range = option.kind === "int" || option.kind === "float" ? rangeOf(option) : "";
  const help = [option.help, range].filter(Boolean).join("; ");
  const label = make("label", { for: id }, option.label);
  const isBox = control.type === "checkbox";
  return make(
    "div",
    { class: "field", "data-place": place, "data-kind": option.kind },
    ...(isBox ? [make("div", { class: "field-box" }, control, label)] : [label, control]),
    make("p", { class: "field-help", id: `${id}-help` }, help),
    make("p", { class: "field-problem", id: `${id}-problem` })
  );
}
