// The points behind the charts: kept, completed by the details of a stretch, smoothed, measured.
// Knows neither Plotly nor the page. A value is a number or null (a gap: not finite on the server).

const MAX_KEPT_POINTS = 3000; // of one curve; beyond, the server is asked for a thinned one
const THINNED_FROM = 750; // the server thins to 1,500 and never below half of that
const MAX_CURVES = 200;
const MAX_MEDIANS = 1500; // places where the running median is taken
const CURVE_NAME = /^[a-z][a-z0-9_]*$|^validation:/;

function isFiniteNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function isPoint(x, y) {
  return isFiniteNumber(x) && (y === null || isFiniteNumber(y));
}

function checkedCurves(curves) {
  // Name -> {x, y} of what a server sent; anything else is passed over.
  const kept = new Map();
  for (const [name, curve] of Object.entries(curves ?? {}).slice(0, MAX_CURVES)) {
    if (!CURVE_NAME.test(name) || !Array.isArray(curve?.x) || !Array.isArray(curve?.y)) continue;
    const places = curve.x.map((x, place) => place).filter((i) => isPoint(curve.x[i], curve.y[i]));
    kept.set(name, { x: places.map((i) => curve.x[i]), y: places.map((i) => curve.y[i]) });
  }
  return kept;
}

function firstAtLeast(sorted, value) {
  // Index of the first x that is not below the value; sorted.length where there is none.
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function makeCurveStore() {
  let curves = new Map();
  let detail = null; // {from, to, curves}
  let wasThinned = false;

  function replace(fresh) {
    curves = checkedCurves(fresh);
    detail = null;
    wasThinned = [...curves.values()].some((curve) => curve.x.length >= THINNED_FROM);
  }

  function append(fresh) {
    // Returns the names that have grown.
    const grown = [];
    for (const [name, { x, y }] of checkedCurves(fresh)) {
      if (!x.length) continue;
      const kept = curves.get(name) ?? { x: [], y: [] };
      let from = kept.x.length; // a run that went back takes the place of what it repeats
      while (from > 0 && kept.x[from - 1] > x[0]) from -= 1;
      curves.set(name, { x: kept.x.slice(0, from).concat(x), y: kept.y.slice(0, from).concat(y) });
      grown.push(name);
    }
    return grown;
  }

  function get(name) {
    const base = curves.get(name) ?? { x: [], y: [] };
    const fine = detail?.curves.get(name);
    if (!fine?.x.length) return base;
    const before = firstAtLeast(base.x, Math.max(detail.from, fine.x[0]));
    let after = firstAtLeast(base.x, fine.x.at(-1));
    while (base.x[after] <= fine.x.at(-1)) after += 1;
    return {
      x: base.x.slice(0, before).concat(fine.x, base.x.slice(after)),
      y: base.y.slice(0, before).concat(fine.y, base.y.slice(after)),
    };
  }

  return {
    replace,
    append,
    get,
    names: () => [...curves.keys()],
    setDetail: (from, to, fresh) => (detail = { from, to, curves: checkedCurves(fresh) }),
    dropDetail: () => (detail = null),
    mayBeThinned: () => wasThinned,
    isTooLong: () => [...curves.values()].some((curve) => curve.x.length > MAX_KEPT_POINTS),
    isEmpty: () => [...curves.values()].every((curve) => !curve.x.length),
    // The smallest and the largest x of all curves, or null.
    extent: () => {
      const full = [...curves.values()].filter((curve) => curve.x.length);
      if (!full.length) return null;
      return [Math.min(...full.map((c) => c.x[0])), Math.max(...full.map((c) => c.x.at(-1)))];
    },
  };
}

function smoothed(values, weight) {
  // Exponential moving average, debiased as in Adam (Kingma and Ba 2015): divided by the sum of the
  // weights so far, so that the first values are not drawn towards zero. Gaps stay gaps.
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

function fullRange(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function typicalRange(values) {
  // The range without outliers: what a running median of nine reaches, and 98 of 100 values. A
  // steep beginning lasts and is kept; a lone spike does not.
  const reached = [];
  const stride = Math.ceil(values.length / MAX_MEDIANS);
  for (let place = 0; place < values.length; place += stride) {
    const nearby = values.slice(Math.max(0, place - 4), place + 5).sort((one, two) => one - two);
    reached.push(nearby[nearby.length >> 1]);
  }
  const sorted = [...values].sort((one, two) => one - two);
  return fullRange([...reached, quantile(sorted, 0.01), quantile(sorted, 0.99)]);
}

function moveBetween(x, before, after) {
  // The place on the new x axis that belongs to x on the old one: inside a stage tokens, steps and
  // seconds go together, so its ends say enough.
  const place = before.findIndex((band) => x <= band.end);
  const old = before[place < 0 ? before.length - 1 : place];
  const fresh = old && after.find((band) => band.name === old.name);
  if (!fresh || !(old.end > old.start)) return null;
  return fresh.start + ((x - old.start) / (old.end - old.start)) * (fresh.end - fresh.start);
}

function plainText(text, length = 80) {
  // Plotly reads a small HTML in names and labels; a run's texts are only text.
  const value = String(text ?? "").replace(/\s+/g, " ");
  const short = value.length > length ? `${value.slice(0, length - 1)}\u2026` : value;
  return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
