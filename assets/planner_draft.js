// The draft of a plan: a recipe as JSON whose values may still be wrong, the stage that is shown,
// and what can be undone. Kept in localStorage, so that a reload loses nothing.
const KEPT_PLAN = "stentor-plan-1";
const MAX_UNDO = 30;
const copyOf = (value) => JSON.parse(JSON.stringify(value));

function makePlan() {
  // base: the preset that the draft began as, or null; origin: what "start over" puts back.
  let state = { draft: null, base: null, origin: null, selected: 0, undo: [] };
  let lastPlace = null; // typing in one field is one change

  function keep() {
    try {
      localStorage.setItem(KEPT_PLAN, JSON.stringify(state));
    } catch {
      // A forbidden or full storage only costs the draft after a reload.
    }
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEPT_PLAN));
      if (!Array.isArray(kept?.draft?.stages) || !Array.isArray(kept.undo)) return false;
      state = kept;
      return true;
    } catch {
      return false; // nothing kept, or by another version
    }
  }

  function remember(what, place = null) {
    if (place !== null && place === lastPlace) return;
    lastPlace = place;
    const { draft, base, origin, selected } = state;
    state.undo.push(copyOf({ what, draft, base, origin, selected }));
    state.undo = state.undo.slice(-MAX_UNDO);
  }

  function holder(place) {
    const names = place.split(".");
    const last = names.pop();
    let owner = state.draft;
    for (const name of names) owner = owner?.[name];
    return [owner, last];
  }

  function newName(wanted) {
    const names = state.draft.stages.map((stage) => stage.name);
    if (!names.includes(wanted)) return wanted;
    let number = 2;
    while (names.includes(`${wanted}_${number}`)) number += 1;
    return `${wanted}_${number}`;
  }

  return {
    keep,
    restore,
    get draft() {
      return state.draft;
    },
    get base() {
      return state.base;
    },
    get origin() {
      return state.origin;
    },
    get stage() {
      return state.draft.stages[state.selected] ?? null;
    },
    get selected() {
      return state.selected;
    },
    get canUndo() {
      return state.undo.at(-1)?.what ?? "";
    },
    read(place) {
      const [owner, last] = holder(place);
      return owner?.[last];
    },
    write(place, value, what) {
      remember(what, place);
      const [owner, last] = holder(place);
      owner[last] = value;
    },
    // -1 is the recipe itself.
    select(place) {
      state.selected = Math.max(-1, Math.min(place, state.draft.stages.length - 1));
      lastPlace = null;
    },
    begin(draft, base, what) {
      if (state.draft) remember(what);
      state.draft = copyOf(draft);
      state.base = base;
      state.origin = copyOf(draft);
      state.selected = Math.min(Math.max(state.selected, -1), draft.stages.length - 1);
    },
    insert(stage, place, what) {
      remember(what);
      const added = { ...copyOf(stage), name: newName(stage.name) };
      state.draft.stages.splice(place, 0, added);
      state.selected = place;
    },
    drop(place) {
      remember(`drop ${state.draft.stages[place].title}`);
      state.draft.stages.splice(place, 1);
      this.select(Math.min(place, state.draft.stages.length - 1));
    },
    move(place, to) {
      const { stages } = state.draft;
      if (to < 0 || to >= stages.length || to === place) return false;
      remember(`move ${stages[place].title}`);
      stages.splice(to, 0, ...stages.splice(place, 1));
      this.select(to);
      return true;
    },
    undo() {
      const before = state.undo.pop();
      if (!before) return "";
      const { what, ...old } = before;
      state = { ...state, ...old };
      lastPlace = null;
      return what;
    },
  };
}
