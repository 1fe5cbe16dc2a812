// The pipeline as connected cards: the start model, each stage with its summary, and a place to add.
// Cards are drawn anew after every change; what has the focus keeps it by its data-key.
const KIND_WORDS = { create: "create", expand: "expand", pretrain: "train" };

function cardButton(key, isSelected, ...children) {
  return make(
    "button",
    {
      type: "button",
      class: "plan-pick",
      "data-key": key,
      "aria-pressed": String(isSelected),
    },
    ...children
  );
}

function cardRows(rows) {
  const list = make("span", { class: "plan-rows" });
  for (const [name, text] of rows) {
    list.append(make("span", { class: "plan-row" }, make("span", {}, name), make("span", {}, text)));
  }
  return list;
}

function problemPill(problems) {
  const errors = problems.filter((problem) => problem.level === "error").length;
  const count = errors || problems.length;
  if (!count) return "";
  const word = errors ? "problem" : "note";
  return make(
    "span",
    { class: "pill", "data-level": errors ? "error" : "warning" },
    `${count} ${word}${count > 1 ? "s" : ""}`
  );
}

// `view`: {plan, checked, schema, startTitle, needsOf(name), isAdding,
// pick(place), move(place, to), drop(place), add()}
function drawCards(list, view) {
  const { plan, checked } = view;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const problemsOf = (place) =>
    checked.problems.filter(({ place: at }) => at === place || at.startsWith(`${place}.`));
  const stages = plan.draft.stages;
  const general = checked.problems.filter(
    ({ place }) => !stages.some((_, number) => place === `stages.${number}` || place.startsWith(`stages.${number}.`))
  );
  const first = cardButton(
    "card--1",
    plan.selected === -1,
    make("span", { class: "plan-title" }, make("b", {}, "Run"), problemPill(general)),
    cardRows([
      ["Start", view.startTitle],
      ["Seed", textOf(plan.draft.seed)],
      ["Devices", plan.draft.devices ? `GPU ${plan.draft.devices}` : "all"],
    ])
  );
  const cards = [make("li", { class: "plan-card", "data-part": "run" }, first)];
  stages.forEach((stage, number) => {
    const button = cardButton(
      `card-${number}`,
      plan.selected === number,
      make(
        "span",
        { class: "plan-title" },
        make("span", { class: "place" }, String(number + 1)),
        make("b", {}, stage.title || stage.name)
      ),
      make(
        "span",
        { class: "plan-pills" },
        make("span", { class: "pill" }, KIND_WORDS[stage.kind] ?? stage.kind),
        stage.skip ? make("span", { class: "pill" }, "skipped") : "",
        problemPill(problemsOf(`stages.${number}`))
      ),
      cardRows([...(checked.cards[number]?.rows ?? []), ...view.needsOf(stage.name)])
    );
    const card = make(
      "li",
      { class: "plan-card", draggable: "true", "data-skip": stage.skip === true, "data-number": number },
      button
    );
    cards.push(card);
  });
  const add = make(
    "button",
    { type: "button", class: "plan-add", "data-key": "add", "aria-expanded": String(view.isAdding) },
    make("span", { "aria-hidden": "true" }, "+"),
    make("span", {}, "Add stage")
  );
  cards.push(make("li", { class: "plan-card", "data-part": "add" }, add));
  list.replaceChildren(...cards);
  if (focused) list.querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
}

// Clicks, keys and drags on the cards; once, because the list itself stays.
function connectCards(list, view) {
  const numberOf = (target) => {
    const card = target.closest("li[data-number]");
    return card ? Number(card.dataset.number) : null;
  };
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.key === "add") view.add();
    else view.pick(numberOf(button) ?? -1);
  });
  const focus = (number) => list.querySelector(`[data-key="card-${number}"]`)?.focus();
  list.addEventListener("keydown", (event) => {
    const number = numberOf(event.target);
    if (number === null) return;
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (event.altKey && by) {
      event.preventDefault();
      if (view.move(number, number + by)) focus(number + by);
    } else if (event.key === "Delete") {
      event.preventDefault();
      view.drop(number);
      focus(view.plan.selected);
    }
  });
  let dragged = null;
  list.addEventListener("dragstart", (event) => {
    dragged = numberOf(event.target);
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", String(dragged));
  });
  list.addEventListener("dragover", (event) => {
    if (dragged !== null && numberOf(event.target) !== null) event.preventDefault();
  });
  list.addEventListener("drop", (event) => {
    const to = numberOf(event.target);
    if (dragged === null || to === null) return;
    event.preventDefault();
    view.move(dragged, to);
  });
  list.addEventListener("dragend", () => {
    dragged = null;
  });
}
