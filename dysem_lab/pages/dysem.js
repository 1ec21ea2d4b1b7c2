// DySem (arXiv 2605.29751, Eqs. 11-17) in a browser, on vectors that dysem-lab captured.
// No widget and no page is known here: data in, numbers out. Dimensions count from 0.
"use strict";

const dysem = (() => {
  // A page that was opened from a disk may not read files, but may load scripts: each piece of data
  // is a script that hands itself over.
  const taken = new Map(), asked = new Map();

  function take(name, value) { taken.set(name, value); }

  function load(name) {
    if (!asked.has(name)) {
      asked.set(name, new Promise((done, failed) => {
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => taken.has(name) ? done(taken.get(name)) : failed(new Error(name));
        script.onerror = () => {
          asked.delete(name);
          failed(new Error(`The file data/${name}.js is not beside this page. Copy the whole folder.`));
        };
        document.head.append(script);
      }));
    }
    return asked.get(name);
  }

  // --- what the files hold

  function bytes(text) {
    const raw = atob(text), found = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
    return found;
  }

  let numbers = null; // every float16 as a number
  function tableOfHalves() {
    numbers = new Float64Array(65536);
    for (let h = 0; h < 65536; h++) {
      const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
      numbers[h] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024)
        : 2 ** -14 * (fraction / 1024));
    }
  }

  // The mean; what is left of each text in float16, with 256th parts of its last place; signs as
  // bits → n × d numbers and signs.
  function vectors({mean, scale, halves, rest, positive}) {
    if (!numbers) tableOfHalves();
    const mu = new Float32Array(bytes(mean).buffer), d = mu.length;
    const raw = new Uint16Array(bytes(halves).buffer), parts = new Int8Array(bytes(rest).buffer);
    const found = new Float64Array(raw.length);
    for (let i = 0; i < found.length; i++) {
      const lastPlace = 2 ** (Math.max(1, (raw[i] >> 10) & 31) - 25);
      found[i] = mu[i % d] + scale * (numbers[raw[i]] + lastPlace * parts[i] / 256);
    }
    return {values: found, positive: bits(positive, d)};
  }

  // bits in base64, each row filled up to whole bytes → n × d of 0 and 1
  function bits(text, d) {
    const raw = bytes(text), width = Math.ceil(d / 8), n = raw.length / width;
    const found = new Uint8Array(n * d);
    for (let i = 0; i < n; i++) for (let j = 0; j < d; j++) {
      found[i * d + j] = (raw[i * width + (j >> 3)] >> (j & 7)) & 1;
    }
    return found;
  }

  const fileOf = (model, setting, component, code) =>
    // English prompts are the same in both settings.
    `${model}/${code === "en" ? "english" : setting}-${component}-${code}`;

  const decoded = new Map();
  async function languageVectors(model, setting, component, code) {
    const name = fileOf(model, setting, component, code);
    if (!decoded.has(name)) decoded.set(name, vectors(await load(name)));
    return decoded.get(name);
  }

  // --- the mathematics

  function meanOf(columns) {
    const mean = new Float64Array(columns[0].values.length);
    for (const {values} of columns) for (let i = 0; i < mean.length; i++) mean[i] += values[i];
    for (let i = 0; i < mean.length; i++) mean[i] /= columns.length;
    return mean;
  }

  // S(x) of n texts (Eqs. 11-13): positive in every language, the k largest means; ties go to the
  // lower index.
  function consensusSets(columns, mean, d, k) {
    const sets = new Uint8Array(mean.length);
    for (let start = 0; start < mean.length; start += d) {
      const positive = [];
      for (let j = 0; j < d; j++) {
        if (columns.every((column) => column.positive[start + j])) positive.push(j);
      }
      positive.sort((a, b) => mean[start + b] - mean[start + a] || a - b);
      for (const j of positive.slice(0, k)) sets[start + j] = 1;
    }
    return sets;
  }

  const numberOfDimensions = (share, d) => Math.min(d, Math.max(1, Math.floor(share * d + 0.5)));

  function meanText(v, d, rows) {
    const mu = new Float64Array(d);
    for (const i of rows) for (let j = 0; j < d; j++) mu[j] += v[i * d + j] / rows.length;
    return mu;
  }

  const sameSet = (a, b) => a.length === b.length && a.every((one) => b.includes(one));

  // What a pair, a search or a dimension is computed from.
  //   state: model, setting, component, languages, k (a share of d), vector, centred
  //   sources: languages of which v is asked for; "mean" has one for all
  const kept = new Map();
  async function encoded(catalog, state, sources = ["en"]) {
    const {model, setting, component, languages} = state;
    const {d, k: usualK} = catalog.models.find((one) => one.id === model);
    const key = JSON.stringify([model, setting, component, languages, state.k, state.vector, sources]);
    if (!kept.has(key)) {
      const columns = await Promise.all(
        languages.map((code) => languageVectors(model, setting, component, code)));
      const mean = meanOf(columns), k = numberOfDimensions(state.k, d);
      const shipped = sameSet(languages, catalog.usual) && k === usualK;
      const sets = shipped
        ? bits(await load(`${model}/${setting}-${component}-sets`), d)
        : consensusSets(columns, mean, d, k);
      const plain = {}, v = {}, mu = {};
      for (const code of sources) {
        plain[code] = (await languageVectors(model, setting, component, code)).values;
        v[code] = state.vector === "mean" ? mean : plain[code];
        mu[code] = meanText(v[code], d, catalog.centre);
      }
      if (kept.size > 8) kept.clear();
      kept.set(key, {d, n: mean.length / d, k, columns, mean, sets, shipped, plain, v, mu});
    }
    return {...kept.get(key), centred: state.centred};
  }

  // cos(v(x), v(y)) on the dimensions of U; NaN where there is none or a vector is zero on it.
  // added[j], if given, is filled with what dimension j adds to it.
  function cosineOn(a, i, b, j, d, U, from = null, to = null, added = null) {
    let dot = 0, x2 = 0, y2 = 0, size = 0;
    for (let c = 0; c < d; c++) {
      if (U && !U(c)) continue;
      const x = a[i * d + c] - (from ? from[c] : 0), y = b[j * d + c] - (to ? to[c] : 0);
      dot += x * y; x2 += x * x; y2 += y * y; size += 1;
      if (added) added[c] = x * y;
    }
    const norms = Math.sqrt(x2) * Math.sqrt(y2);
    if (added) for (let c = 0; c < d; c++) added[c] = norms > 0 ? added[c] / norms : 0;
    const value = norms > 0 ? Math.max(-1, Math.min(1, dot / norms)) : NaN;
    return {value, size};
  }

  // The DySem similarity of texts i and j (Eqs. 14-17), with |U|.
  function similarity(of, i, j, xl = "en", yl = "en", added = null) {
    const {d, sets, centred} = of;
    const U = (c) => sets[i * d + c] || sets[j * d + c];
    return cosineOn(of.v[xl], i, of.v[yl], j, d, U,
      centred ? of.mu[xl] : null, centred ? of.mu[yl] : null, added);
  }

  // The cosine on all d dimensions: of the texts' own vectors, or of v.
  const plainCosine = (of, i, j, xl = "en", yl = "en") =>
    cosineOn(of.plain[xl], i, of.plain[yl], j, of.d, null).value;
  const wholeCosine = (of, i, j, xl = "en", yl = "en") =>
    cosineOn(of.v[xl], i, of.v[yl], j, of.d, null).value;

  const setSize = (of, i) => of.sets.subarray(i * of.d, (i + 1) * of.d).reduce((a, b) => a + b, 0);

  // Values of all shipped pairs, of those of a high score, and of first sentences with the second
  // ones of other pairs. valueOf: (i, j) → a value of two texts
  function scaleOf(catalog, valueOf) {
    const {pairs, scores, related, others} = catalog;
    const all = pairs.map(([i, j]) => valueOf(i, j));
    return {all, related: all.filter((value, p) => scores[p] >= related),
      unrelated: pairs.map(([i], p) => valueOf(i, pairs[others[p]][1]))};
  }

  // Of the values that are defined, the share that a value is higher than.
  function higherThan(value, values) {
    const defined = values.filter((one) => !Number.isNaN(one));
    return defined.filter((one) => value > one + 1e-9).length / defined.length;
  }

  // The n texts nearest to one, itself left out.
  function nearest(of, query, n) {
    const found = [];
    for (let i = 0; i < of.n; i++) {
      if (i !== query) found.push({text: i, ...similarity(of, query, i)});
    }
    return found.filter((one) => !Number.isNaN(one.value))
      .sort((a, b) => b.value - a.value || a.text - b.text).slice(0, n);
  }

  // Share of the texts whose S(x) has each dimension.
  function frequency(of) {
    const share = new Float64Array(of.d);
    for (let i = 0; i < of.sets.length; i++) share[i % of.d] += of.sets[i] / of.n;
    return share;
  }

  return {take, load, encoded, similarity, plainCosine, wholeCosine, cosineOn, setSize, scaleOf,
    higherThan, nearest, frequency, numberOfDimensions, consensusSets, vectors, bits};
})();
