// What the charts ask the server for by themselves: the details of a stretch that was zoomed into,
// and the curves of earlier runs. An answer that is no longer wanted is thrown away.

const DETAIL_AFTER_MS = 200; // a zoom is often two or three gestures
const REREAD_OVERLAYS_MS = 60_000; // an earlier run may still be going
const DETAIL_POINTS = 1500;
const OVERLAY_POINTS = 600; // a thin line for comparison; six runs of four curves add up

function makeCurveReader(askCurves, view, onArrival) {
  const others = new Map(); // run -> {x, readAt, curves, end}
  let timer = null;
  let ticket = 0;

  async function read(question) {
    const reply = await askCurves(question);
    if (!reply || reply.error) throw new Error(reply?.error ?? "no answer");
    return reply.curves;
  }

  async function readDetail(mine) {
    const [from, to] = shownRange(view);
    const { run, x } = view;
    const question = { run, x, from, to, max_points: DETAIL_POINTS };
    let curves;
    try {
      curves = await read(question);
    } catch {
      return; // the thinned curve stays, and is true
    }
    if (mine !== ticket || run !== view.run || x !== view.x) return;
    view.store.setDetail(from, to, curves);
    onArrival();
  }

  function refine() {
    // Call when the range in sight has changed by a choice, or a whole curve has come.
    clearTimeout(timer);
    const mine = ++ticket;
    const isPart = view.zoom.x !== null || view.settings.range !== "whole";
    if (!isPart) view.store.dropDetail();
    if (!isPart || !view.store.mayBeThinned()) return;
    timer = setTimeout(() => readDetail(mine), DETAIL_AFTER_MS);
  }

  async function readOther(id) {
    const x = view.x;
    const known = others.get(id);
    const kept = known?.x === x ? known : { curves: new Map(), end: 0 };
    others.set(id, { ...kept, x, readAt: performance.now() });
    const names = Object.keys(COMPARED);
    const question = { run: id, x, from: null, to: null, names, max_points: OVERLAY_POINTS };
    try {
      const curves = checkedCurves(await read(question));
      if (x !== view.x) return;
      const ends = [...curves.values()].filter((curve) => curve.x.length).map((c) => c.x.at(-1));
      others.set(id, { x, readAt: performance.now(), curves, end: Math.max(0, ...ends) });
    } catch {
      return; // deleted, or the app is away: asked again in a minute
    }
    onArrival();
  }

  function overlays() {
    // The earlier runs that are to be drawn and have come; asks for those that have not.
    const chosen = view.settings.overlays.filter((id) => id !== view.run && view.labels.has(id));
    for (const id of chosen) {
      const known = others.get(id);
      const isStale = !known || performance.now() - known.readAt > REREAD_OVERLAYS_MS;
      if (isStale || known.x !== view.x) readOther(id);
    }
    for (const id of others.keys()) if (!chosen.includes(id)) others.delete(id);
    return chosen.flatMap((id, hue) => {
      const known = others.get(id);
      if (!known.curves.size || known.x !== view.x) return [];
      return [{ id, label: view.labels.get(id), hue, curves: known.curves, end: known.end }];
    });
  }

  return { refine, overlays };
}
