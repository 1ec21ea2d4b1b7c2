// The page: what is asked for (the part of the address after #), controls, and four views of it.
"use strict";

const explorer = (() => {
  const {el, number, signed} = charts;
  const VECTORS = {attn: "what attention wrote (A^L)", resid: "the residual stream (h^L)"};
  const PROMPTS = {"language-specific": "each language in a prompt of its own",
    english: "all languages in the English prompt"};
  const COMPARED = {mean: "the mean over the languages", source: "the sentence's own language alone"};
  const EXAMPLES = [["paraphrase", "Paraphrase"], ["negation", "Negation"], ["word-sense", "Word sense"],
    ["unrelated", "Unrelated"]];
  const CURVES = [["resid, cumulative", "residual stream after each layer (h^l)"],
    ["attn, cumulative", "all that attention has written up to it (A^l)"],
    ["attn, layer-wise", "what this layer's attention writes (a^l)"],
    ["ffn, cumulative", "all that the FFNs have written up to it (F^l)"],
    ["ffn, layer-wise", "what this layer's FFN writes (f^l)"]];
  const byId = (id) => document.getElementById(id);
  const percent = (share) => `${Math.round(100 * share)} %`;
  let catalog, state, shown = 0, written = "";

  // --- what is asked for, and the address that says it

  const modelOf = () => catalog.models.find((one) => one.id === state.model);
  const first = () => {
    const model = catalog.models[0], [x, y] = exampleOf(EXAMPLES[0][0]) || catalog.pairs[0];
    return {view: "pair", model: model.id, setting: catalog.settings[0], component: "attn",
      languages: [...catalog.usual], k: model.k / model.d, vector: "mean", centred: false,
      x, y, xl: "en", yl: "en", dimension: null, curve: CURVES[0][0]};
  };

  function exampleOf(kind) {
    const index = catalog.subsets.findIndex((subset) => subset.split("/")[0] === kind);
    return index < 0 ? null : catalog.pairs[index];
  }

  function address() {
    const usual = first(), said = [];
    for (const [name, value] of Object.entries(state)) {
      const text = Array.isArray(value) ? value.join(",") : String(value);
      const same = Array.isArray(value) ? usual[name].join(",") : String(usual[name]);
      if (name === "view" || text !== same) said.push(`${name}=${encodeURIComponent(text)}`);
    }
    return `#${said.join("&")}`;
  }

  // Values that the page does not have are left out: a link of another export still opens.
  function read(hash) {
    const asked = new URLSearchParams(hash.slice(1)), found = first();
    const codes = catalog.languages.map(([code]) => code), n = catalog.texts[codes[0]].length;
    const oneOf = (name, valid) => {
      if (valid.includes(asked.get(name))) found[name] = asked.get(name);
    };
    const whole = (name, end) => {
      const value = Number(asked.get(name));
      if (asked.get(name) && Number.isInteger(value) && value >= 0 && value < end) found[name] = value;
    };
    oneOf("view", ["pair", "layers", "dimension", "search"]);
    oneOf("model", catalog.models.map((one) => one.id));
    oneOf("setting", catalog.settings);
    oneOf("component", Object.keys(VECTORS));
    oneOf("vector", Object.keys(COMPARED));
    oneOf("xl", codes);
    oneOf("yl", codes);
    oneOf("curve", CURVES.map(([key]) => key));
    found.centred = asked.get("centred") === "true";
    const languages = (asked.get("languages") || "").split(",").filter((code) => codes.includes(code));
    if (languages.length) found.languages = codes.filter((code) => languages.includes(code));
    const k = Number(asked.get("k"));
    if (k > 0 && k <= 1) found.k = k;
    whole("x", n);
    whole("y", n);
    whole("dimension", catalog.models.find((one) => one.id === found.model).d);
    return found;
  }

  function change(...changes) {
    Object.assign(state, ...changes);
    written = address();
    location.replace(written);
    render();
  }

  // --- words

  const textOf = (i, code = "en") => catalog.texts[code][i];
  const nameOf = (code) => catalog.languages.find(([one]) => one === code)[1];
  const pairIndex = () => catalog.pairs.findIndex(([x, y]) => x === state.x && y === state.y);
  const short = (said, n = 60) => said.length > n ? `${said.slice(0, n - 1)}…` : said;
  const sources = () => [...new Set(["en", state.xl, state.yl])];
  const isUsual = () => {
    const usual = first(), same = (name) => String(state[name]) === String(usual[name]);
    return ["setting", "component", "languages", "vector", "xl", "yl"].every(same)
      && dysem.numberOfDimensions(state.k, modelOf().d) === modelOf().k;
  };

  function settingsInWords() {
    const model = modelOf(), k = dysem.numberOfDimensions(state.k, model.d);
    return `${model.name}, ${VECTORS[state.component]}, ${state.languages.join("/")}, `
      + `${PROMPTS[state.setting]}, ${COMPARED[state.vector]}, at most ${k} of ${model.d} dimensions per `
      + `sentence${state.centred ? ", centred" : ""}`;
  }

  // Said as in the panels and on the command line.
  const standing = (value, scale) => {
    const of = (values) => `${percent(dysem.higherThan(value, values))} of the ${values.length}`;
    const among = scale.related.length ? `; than ${of(scale.related)} related ones (scored ${catalog.related} or more), and than ` : " and ";
    return Number.isNaN(value) ? "" : `higher than ${of(scale.all)} ${catalog.data} pairs${among}${of(scale.unrelated)} unrelated ones`;
  };

  const scoreInWords = (index) => index < 0 ? ""
    : `${catalog.scores[index].toFixed(1)} of 5 is this pair's score in ${catalog.data}`
      + `${catalog.data === "demo" ? " (assigned by its writers by rule, not rated by people)" : ""}.`;

  function python() {
    const said = JSON.stringify, given = (i) => `{${[...new Set([state.xl, state.yl, ...state.languages])]
      .map((code) => `${said(code)}: ${said(textOf(i, code))}`).join(",\n     ")}}`;
    return `import dysem_lab as dl\n\nlens = dl.load_model(${said(modelOf().name)})\ndysem = dl.DySem(\n`
      + `    lens, ${said(state.languages)}, k=${Number(state.k.toFixed(6))}, component=${said(state.component)},\n`
      + `    setting=${said(state.setting)}, vector=${said(state.vector)},\n)\nx = ${given(state.x)}\n`
      + `y = ${given(state.y)}\nfinding = dl.explain(dysem, x, y, by="token"${state.centred ? "" : ", centre=None"})`;
  }

  // --- controls

  const option = (value, label, chosen) => el("option", {value, selected: chosen}, label);
  const menu = (id, label, options, value, pick) => el("label", {for: id}, label,
    el("select", {id, onchange: (event) => pick(event.target.value)},
      options.map(([key, said]) => option(key, said, String(key) === String(value)))));

  function sentenceRow(id, label, language) {
    const texts = catalog.texts[state[language]];
    const pick = (event) => change({[id]: Number(event.target.value)});
    const row = [el("label", {for: id}, label), el("select", {id, onchange: pick, lang: state[language]},
      texts.map((said, i) => option(i, said, i === state[id])))];
    const pickLanguage = (event) => change({[language]: event.target.value});
    row.push(el("select", {id: language, onchange: pickLanguage, "aria-label": `${label}: its language`},
      catalog.languages.map(([code, name]) => option(code, name, code === state[language]))));
    return row;
  }

  function drawControls() {
    const focused = document.activeElement && document.activeElement.id;
    for (const link of document.querySelectorAll("nav a")) {
      const {view} = link.dataset;
      link.toggleAttribute("aria-current", view === state.view);
      if (view === state.view) link.setAttribute("aria-current", "page");
      link.onclick = (event) => { event.preventDefault(); change({view}); };
    }
    const two = state.view === "pair" || state.view === "layers";
    byId("examples").hidden = !two;
    byId("examples").replaceChildren(...(two ? chips() : []));
    const rows = {pair: [sentenceRow("x", "First", "xl"), sentenceRow("y", "Second", "yl")],
      layers: [pairRow()], search: [queryRow()], dimension: [dimensionRow()]};
    byId("sentences").replaceChildren(...rows[state.view].flat());
    byId("settings").hidden = false;
    document.querySelector("#settings summary").textContent = state.view === "layers"
      ? `Settings: ${modelOf().name}, ${PROMPTS[state.setting]}` : `Settings: ${settingsInWords()}`;
    const model = menu("model", "Model", catalog.models.map((one) => [one.id, one.name]), state.model,
      (value) => change({model: value, dimension: null}));
    const setting = menu("setting", "Prompts", catalog.settings.map((one) => [one, PROMPTS[one]]),
      state.setting, (value) => change({setting: value}));
    byId("controls").replaceChildren(...(state.view === "layers" ? [model, setting] : [
      model,
      menu("component", "Vector", Object.entries(VECTORS), state.component, (value) => change({component: value})),
      setting,
      menu("vector", "Compared is", Object.entries(COMPARED), state.vector, (value) => change({vector: value})),
      slider("k", "Dimensions per sentence (k)", 1, modelOf().d, dysem.numberOfDimensions(state.k, modelOf().d),
        (value) => change({k: Number((value / modelOf().d).toFixed(6))})),
      slider("m", "Languages of the consensus (m)", 1, catalog.languages.length, state.languages.length,
        (value) => change({languages: withM(value)})),
      el("label", {for: "centred"}, "What all sentences share",
        el("span", {}, el("input", {type: "checkbox", id: "centred", checked: state.centred,
          onchange: (event) => change({centred: event.target.checked})}), " is taken away (centred)")),
      el("fieldset", {}, el("legend", {}, "Languages"), catalog.languages.map(([code, name]) =>
        el("label", {for: `language-${code}`}, el("input", {type: "checkbox", id: `language-${code}`,
          checked: state.languages.includes(code), onchange: () => toggle(code)}), ` ${name}`))),
    ]));
    if (focused && byId(focused)) byId(focused).focus({preventScroll: true});
  }

  function slider(id, label, low, high, value, pick) {
    const output = el("output", {for: id}, String(value));
    return el("label", {for: id}, el("span", {}, `${label}: `, output), el("input", {type: "range", id,
      min: low, max: high, value, oninput: (event) => { output.textContent = event.target.value; },
      onchange: (event) => pick(Number(event.target.value))}));
  }

  // The usual languages come first, then the others in their order.
  function withM(m) {
    const codes = catalog.languages.map(([code]) => code);
    const order = [...state.languages, ...catalog.usual, ...codes].filter((code, i, all) => all.indexOf(code) === i);
    return codes.filter((code) => order.slice(0, m).includes(code));
  }

  function toggle(code) {
    const has = state.languages.includes(code);
    if (has && state.languages.length === 1) return change({}); // one is left
    const chosen = has ? state.languages.filter((one) => one !== code) : [...state.languages, code];
    return change({languages: catalog.languages.map(([one]) => one).filter((one) => chosen.includes(one))});
  }

  function chips() {
    const made = [], plain = {xl: "en", yl: "en"};
    const chip = (label, to) => made.push(el("button", {type: "button", id: `example-${made.length}`,
      "aria-pressed": String(Object.entries(to).every(([name, value]) => state[name] === value)),
      onclick: () => change(to, to.vector ? {} : {vector: "mean"})}, label));
    for (const [kind, label] of EXAMPLES) {
      const pair = exampleOf(kind);
      if (pair) chip(label, {x: pair[0], y: pair[1], ...plain});
    }
    if (!made.length) {
      const order = catalog.scores.map((score, i) => [score, i]).sort((a, b) => b[0] - a[0]).map(([, i]) => i);
      for (const [label, i] of [["Highest score", order[0]], ["Lowest score", order[order.length - 1]]]) {
        chip(label, {x: catalog.pairs[i][0], y: catalog.pairs[i][1], ...plain});
      }
    }
    const other = catalog.usual.find((code) => code !== "en");
    if (other && state.view === "pair") {
      const x = catalog.pairs[0][0];
      chip("Translation", {x, y: x, xl: "en", yl: other, vector: "source"});
    }
    return made;
  }

  function pairRow() {
    const index = pairIndex();
    const options = catalog.pairs.map(([x, y], i) =>
      option(i, `${i + 1}. ${short(textOf(x), 44)} / ${short(textOf(y), 44)}`, i === index));
    if (index < 0) options.unshift(option(-1, "choose one of the pairs", true));
    return [el("label", {for: "pair"}, "Pair"), el("select", {id: "pair", onchange: (event) => {
      const [x, y] = catalog.pairs[Number(event.target.value)];
      change({x, y});
    }}, options), el("span")];
  }

  const queryRow = () => [el("label", {for: "x"}, "Like"), el("select", {id: "x", onchange: (event) =>
    change({x: Number(event.target.value)})}, catalog.texts.en.map((said, i) => option(i, said, i === state.x))), el("span")];

  const dimensionRow = () => [el("label", {for: "dimension"}, "Dimension"), el("input", {type: "number",
    id: "dimension", min: 0, max: modelOf().d - 1, value: state.dimension === null ? "" : state.dimension,
    onchange: (event) => {
      const value = Math.round(Number(event.target.value));
      change({dimension: Math.max(0, Math.min(modelOf().d - 1, value))});
    }}), el("span", {class: "quiet"}, `of 0 to ${modelOf().d - 1}`)];

  // --- the views: each returns what stands above the settings, and what below

  const width = () => Math.max(288, Math.min(1028, document.querySelector("main").clientWidth));

  async function pairView() {
    const of = await dysem.encoded(catalog, state, sources()), {x, y, xl, yl} = state, added = new Float64Array(of.d);
    const {value, size} = dysem.similarity(of, x, y, xl, yl, added), scale = dysem.scaleOf(catalog, (i, j) => dysem.similarity(of, i, j, xl, yl).value);
    const plain = dysem.plainCosine(of, x, y, xl, yl);
    const plainScale = dysem.scaleOf(catalog, (i, j) => dysem.plainCosine(of, i, j, xl, yl));
    const sizes = [x, y].map((i) => dysem.setSize(of, i)), both = sizes[0] + sizes[1] - size;
    const index = pairIndex(), whole = ([i, j]) => dysem.wholeCosine(of, i, j, xl, yl);
    const above = [
      el("p", {}, el("span", {class: "big", id: "similarity"}, number(value)),
        el("strong", {}, state.centred ? "centred DySem similarity" : "DySem similarity"), Number.isNaN(value)
          ? ": no dimension is positive in every language for either sentence, so it is undefined. Take fewer languages."
          : el("span", {id: "standing"}, `: ${standing(value, scale)}.`)),
      el("figure", {}, charts.strip(width(), [[`${scale.related.length} related pairs (scored ${catalog.related} or more of 5)`,
        scale.related], [`the other ${catalog.data} pairs (${scale.all.length - scale.related.length})`, scale.all.filter((one, p) =>
        catalog.scores[p] < catalog.related)], [`${scale.unrelated.length} unrelated ones: first sentences with second ones of others`,
        scale.unrelated]],
      value, `Similarities of all pairs at these settings; this pair ${number(value)}`)),
      el("p", {class: "quiet"}, `On ${size} of ${of.d} dimensions: ${sizes[0]} of the first sentence, ${sizes[1]} of the `
        + `second, ${both} in both. The plain cosine ${xl === yl ? `in ${nameOf(xl)}` : "of the two"}, on all ${of.d}, is `
        + `${number(plain)}: ${standing(plain, plainScale)}. `
        + (state.vector === "mean" ? `That of the mean over the languages is ${number(whole([x, y]))}, higher than `
          + `${percent(dysem.higherThan(whole([x, y]), catalog.pairs.map(whole)))}. ` : "")
        + scoreInWords(index)),
    ];
    const most = added.reduce((best, one, j) => one > added[best] ? j : best, 0), rest = scale.all.concat(scale.unrelated);
    if (!state.centred && added[most] > 0.5 && rest.filter((one) => one > 0.9).length > rest.length / 2) {
      above.push(el("p", {class: "quiet"}, `Most pairs are near 1 here because a few dimensions are large in every sentence: dimension `
        + `${most} alone adds ${number(added[most], 3)}. `, el("button", {type: "button", class: "link", onclick: () =>
        change({centred: true})}, "Take away what all sentences share.")));
    }
    const below = [...await whySection(index), ...addedSection(of, added), setSection(of), renderingSection(of),
      el("details", {}, el("summary", {}, "The same in Python"), el("pre", {}, python()))];
    return [above, below];
  }

  async function whySection(index) {
    const heading = el("h2", {}, "Why?");
    if (index < 0 || !catalog.explained.includes(index)) {
      return [heading, el("p", {}, index < 0
        ? "An explanation by words and heads is shipped for the pairs of the set; for other sentences, see what each dimension adds."
        : "No explanation by words and heads was exported for this pair; see what each dimension adds.")];
    }
    const why = await dysem.load(`${state.model}/why-${index}`), usual = modelOf();
    if (why.none) return [heading, el("p", {}, `There is no explanation by words and heads: ${why.none}.`)];
    const of = await dysem.encoded(catalog, {...first(), model: usual.id, k: usual.k / usual.d, centred: true});
    const centred = dysem.similarity(of, state.x, state.y).value;
    const said = `Of what attention wrote (A^L) in ${catalog.usual.join("/")}, ${PROMPTS[catalog.settings[0]]}, the mean over `
      + `the languages, k = ${usual.k}, once what all sentences share is taken away.`
      + (isUsual() ? "" : " The settings below are others: they do not change this explanation.");
    const parts = (by, n) => why[by].parts.map(([name, value, random, spread, block, head]) => ({name, value, block, head,
      note: random === null ? "" : `random pairs ${signed(random)} ± ${spread.toFixed(3)}`}))
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, n);
    const cells = parts("head").filter((one) => one.head !== null)
      .map((one) => ({...one, said: `${one.name}: ${signed(one.value, 4)}; ${one.note}`}));
    return [heading, el("p", {id: "why"}, `${why.head.caption} The ${number(centred, 3)} is `
      + `${standing(centred, dysem.scaleOf(catalog, (i, j) => dysem.similarity(of, i, j).value))}.`), el("p", {class: "quiet"}, said),
      el("h3", {}, "Which words"), tokenMap(why.token),
      el("div", {class: "columns"},
        el("div", {}, el("h3", {}, "Which heads add most"), charts.bars(parts("head", 8)),
          cells.length ? el("figure", {class: "wide"}, charts.heads(Math.min(560, width()), cells,
            "What each head adds: blocks from left to right, heads from top to bottom"),
          el("figcaption", {}, "Blocks from left to right, heads from top to bottom; + adds, − takes away.")) : null),
        el("div", {}, el("h3", {}, "Which blocks add most"), charts.bars(parts("block", 8))))];
  }

  function tokenMap(why) {
    const all = [...why.x, ...why.y], bound = Math.max(...all.map((one) => Math.abs(one[3])), 1e-12);
    const lines = [];
    for (const code of new Set(all.map(([language]) => language))) {
      for (const [side, name] of [["x", "first"], ["y", "second"]]) {
        const mine = why[side].filter(([language]) => language === code);
        lines.push(el("div", {class: "tokens", dir: "auto", lang: code}, el("span", {class: "name"}, `${name}, ${code}`),
          mine.map(([, token, inText, value]) => {
            const share = Math.abs(value) / bound, kind = share < 0.06 ? "" : value > 0 ? "more" : "less";
            const colour = kind ? `color-mix(in srgb, var(--${kind}) ${Math.round(45 * share)}%, transparent)` : "none";
            return [el("span", {class: `token ${kind} ${inText ? "" : "frame"}`, title: signed(value, 4),
              style: `background:${colour}`}, token), el("wbr")];
          })));
      }
    }
    const most = ["x", "y"].flatMap((side) => why[side].filter((one) => one[2]).map(([code, token, , value]) =>
      ({name: `${side === "x" ? "first" : "second"}, ${code}: ${token.trim()}`, value})))
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 8);
    return el("div", {}, lines, el("p", {class: "quiet"}, "Orange over a solid line adds to the similarity, blue over a "
      + "broken line takes away from it; small and grey is the prompt around the sentence. A token's part is the way "
      + "through which meaning came, not the word that caused it."),
    el("details", {}, el("summary", {}, "The largest, in numbers"), charts.bars(most)));
  }

  function addedSection(of, added) {
    const order = [...added.keys()].sort((a, b) => Math.abs(added[b]) - Math.abs(added[a]) || a - b).slice(0, 10);
    const rest = added.reduce((a, b) => a + b, 0) - order.reduce((sum, j) => sum + added[j], 0);
    const items = order.filter((j) => added[j]).map((j) => ({value: added[j], name: el("button", {type: "button",
      class: "link", onclick: () => change({view: "dimension", dimension: j})}, `dimension ${j}`)}));
    return items.length ? [el("h2", {}, "What each dimension adds"), charts.bars(items, 4),
      el("p", {class: "quiet"}, `The others add ${number(rest)} together. Choose a dimension to see what it is.`)] : [];
  }

  function setSection(of) {
    const row = (data, i) => data.subarray(i * of.d, (i + 1) * of.d), {x, y, xl, yl} = state;
    return el("div", {}, el("h2", {}, "The sets and the vectors"), el("figure", {},
      charts.members(width(), of.d, row(of.sets, x), row(of.sets, y), row(of.v[xl], x), row(of.v[yl], y),
        "Dimensions of the sets of both sentences, and the values of their vectors"),
      el("figcaption", {}, `S(x), S(y): the dimensions that are positive in every language, at most ${of.k} of the largest; `
        + "the cosine is taken on those of either. Below, the vectors, cut off at their 99th percentile. "
        + (of.shipped ? "These sets are the module's own." : "These sets were computed here."))));;
  }

  function renderingSection(of) {
    const cosines = state.languages.map((code, c) => ([i, j]) =>
      dysem.cosineOn(of.columns[c].values, i, of.columns[c].values, j, of.d, null).value);
    const heads = ["Language", "First", "Second", "cosine in it alone", `higher than so many ${catalog.data} pairs`];
    return el("div", {}, el("h2", {}, "In each language"), el("table", {class: "renderings"}, el("thead", {}, el("tr", {}, heads.map((said) =>
      el("th", {scope: "col"}, said)))), el("tbody", {}, state.languages.map((code, c) => {
      const value = cosines[c]([state.x, state.y]);
      return el("tr", {}, el("th", {scope: "row"}, nameOf(code)), el("td", {lang: code, dir: "auto"}, textOf(state.x, code)),
        el("td", {lang: code, dir: "auto"}, textOf(state.y, code)),
        el("td", {class: "number", "data-of": heads[3]}, number(value)),
        el("td", {class: "number", "data-of": heads[4]}, percent(dysem.higherThan(value, catalog.pairs.map(cosines[c])))));
    }))));
  }

  async function layersView() {
    const index = pairIndex();
    if (index < 0) return [[el("p", {}, "Curves over the layers are shipped for the pairs of the set: choose one above.")], []];
    const all = await dysem.load(`${state.model}/${state.setting}-layers`), [key] = CURVES.find(([one]) => one === state.curve);
    const curve = (measure) => all[`${key}, ${measure}`], of = curve("DySem"), values = of.pairs[index];
    const label = CURVES.find(([one]) => one === key)[1], last = values[values.length - 1];
    const ends = of.pairs.map((row) => row[row.length - 1] ?? NaN);
    const chosen = menu("curve", "Drawn is", CURVES, key, (value) => change({curve: value}));
    const close = of.unrelated[1][0];
    const above = [el("p", {}, chosen), el("p", {}, el("span", {class: "big"}, number(last ?? NaN, 3)), el("strong", {},
      "at the last layer"), last === null ? "" : `: higher than ${percent(dysem.higherThan(last, ends))} of the ${ends.length} ${catalog.data} pairs; the `
      + `median of unrelated sentences there is ${number(of.unrelated[1].at(-1) ?? NaN, 3)}.`),
    el("figure", {}, charts.curves(width(), 320, [{name: "this pair, DySem", values, kind: "line-x"},
      {name: "this pair, all dimensions", values: curve("all dimensions").pairs[index], kind: "line-thin"}], of.unrelated,
    `Cosine of the pair at each layer: ${label}`),
    el("figcaption", {}, "Solid: this pair, DySem. Dotted: the same vectors on all dimensions. Dashed, in a grey band: "
      + "sentences that have nothing to do with each other, their median and the middle 80 %, DySem."))];
    const below = [close > 0.95 ? el("h2", {}, "Why the first layers say little") : null, close > 0.95 ? el("p", {}, "Everything "
      + "is read at the last token of the prompt, which is the same for every sentence of a language. Before a layer has "
      + "brought much of the sentence there, the vectors are nearly the same whatever was said: at layer 1 the median of "
      + `unrelated sentences is ${number(close, 3)}. So look at how far the pair lies above the band, and not at how near to `
      + "1 it is.") : null,
    el("p", {class: "quiet"}, `${catalog.usual.join("/")}, ${PROMPTS[state.setting]}, the mean over the languages, at most `
      + `${modelOf().k} of ${modelOf().d} dimensions per sentence at each layer. ${scoreInWords(index)}`)];
    return [above, below.filter((part) => part)];
  }

  async function dimensionView() {
    const of = await dysem.encoded(catalog, state), {d, n} = of, shares = dysem.frequency(of);
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b);
    let j = state.dimension, how = "";
    if (j === null) {
      const added = new Float64Array(d);
      dysem.similarity({...of, centred: true}, state.x, state.y, "en", "en", added);
      j = [...added.keys()].sort((a, b) => added[b] - added[a])[0];
      how = `It is the one that adds most to the centred similarity of “${textOf(state.x)}” and “${textOf(state.y)}” `;
      byId("dimension").value = j;
    }
    const best = [...Array(n).keys()].sort((a, b) => of.mean[b * d + j] - of.mean[a * d + j] || a - b).slice(0, 10);
    const [up, down] = (await dysem.load(`${state.model}/tokens`))[j];
    const above = [el("p", {}, el("strong", {}, `Dimension ${j}`), ` is in the set of ${(100 * shares[j]).toFixed(1)} % of `
      + `${n} sentences (place ${order.indexOf(j) + 1} of ${d}). ${how}`),
    el("figure", {}, charts.frequencies(width(), shares, order, j, (chosen) => change({dimension: chosen}),
      `Share of the sentences whose set has each dimension; dimension ${j}: ${percent(shares[j])}`)),
    el("table", {}, el("thead", {}, el("tr", {}, ["Sentences with the largest values", "value", "in its set"].map((said) =>
      el("th", {scope: "col"}, said)))), el("tbody", {}, best.map((i) => el("tr", {}, el("td", {}, textOf(i)),
      el("td", {class: "number"}, of.mean[i * d + j].toPrecision(4)), el("td", {}, of.sets[i * d + j] ? "yes" : "no")))))];
    const positive = state.languages.map((code, i) => ({name: nameOf(code), value:
      [...Array(n).keys()].filter((row) => of.columns[i].positive[row * d + j]).length / n}));
    const list = (tokens) => el("p", {}, tokens.flatMap((token, i) => [i ? " · " : "", el("bdi", {}, token.trim() || "␣")]));
    const below = [el("div", {class: "columns"}, el("div", {}, el("h2", {}, "Positive in what share of the sentences"),
      charts.bars(positive, 2)), el("div", {}, el("h2", {}, "Tokens"), el("h3", {}, "It promotes"), list(up),
      el("h3", {}, "It demotes"), list(down), el("p", {class: "quiet"}, "The logit lens of one dimension of the stream: what "
        + "more of it adds to a token's logit, compared with the mean token, the divisor of the final norm held fixed."))),
    el("p", {class: "quiet"}, "Values are means over the languages that are chosen.")];
    return [above, below];
  }

  async function searchView() {
    const of = await dysem.encoded(catalog, state), found = dysem.nearest(of, state.x, 12);
    const scale = dysem.scaleOf(catalog, (i, j) => dysem.similarity(of, i, j).value);
    const rows = found.map(({text, value, size}, rank) => el("tr", {}, el("td", {class: "number"}, rank + 1), el("td", {},
      el("button", {type: "button", class: "link", onclick: () => change({view: "pair", y: text, xl: "en", yl: "en"})}, textOf(text))),
    el("td", {class: "number"}, number(value)), el("td", {class: "number"},
      percent(dysem.higherThan(value, scale.unrelated))), el("td", {class: "number"}, size)));
    const above = [found.length ? el("p", {}, `The nearest of ${of.n - 1} sentences to “${textOf(state.x)}” is “`,
      el("strong", {}, textOf(found[0].text)), `” with ${number(found[0].value)}: ${standing(found[0].value, scale)}.`)
      : el("p", {}, "No sentence has a similarity to this one at these settings. Take fewer languages."),
    el("div", {class: "wide"}, el("table", {}, el("thead", {}, el("tr", {}, ["", "Sentence", "similarity",
      "higher than so many unrelated pairs", "dimensions"].map((said) => el("th", {scope: "col"}, said)))), el("tbody", {}, rows)))];
    return [above, [el("p", {class: "quiet"}, "Choose a sentence to see the two side by side.")]];
  }

  const VIEWS = {pair: pairView, layers: layersView, dimension: dimensionView, search: searchView};

  async function render() {
    const mine = ++shown, error = byId("error");
    error.hidden = true;
    byId("said").textContent = "";
    document.body.classList.add("busy");
    byId("result").setAttribute("aria-busy", "true");
    drawControls();
    drawAbout();
    try {
      const [above, below] = await VIEWS[state.view]();
      if (mine !== shown) return; // something else was asked for meanwhile
      byId("result").replaceChildren(...above);
      byId("more").replaceChildren(...below);
    } catch (problem) {
      if (mine !== shown) return;
      error.textContent = problem.message;
      error.hidden = false;
    }
    document.body.classList.remove("busy");
    byId("result").removeAttribute("aria-busy");
    byId("result").dataset.shown = mine;
  }

  function drawAbout() {
    const model = modelOf(), rule = catalog.data === "demo" ? " Its scores were assigned by its writers by rule." : "";
    byId("about").replaceChildren(el("p", {}, `Measured on ${model.name} (${model.weights}), ${model.layers} layers, d = ${model.d}; `
      + `${catalog.data}, ${catalog.pairs.length} pairs, ${catalog.texts.en.length} different sentences in ${catalog.languages.length} `
      + `languages.${rule} Prompt: ${catalog.template}. Similarities computed here agree with `
      + `dysem-lab ${catalog.version} to 0.001. Method: DySem, arXiv 2605.29751.`));
  }

  // --- to take away

  function say(said) { byId("said").textContent = said; }

  async function copy() {
    const link = location.href;
    try { await navigator.clipboard.writeText(link); } catch {
      const box = el("textarea", {}, link);
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
    say("Copied.");
  }

  async function download() {
    const style = await dysem.load("style"), title = state.view === "pair" || state.view === "layers"
      ? `${textOf(state.x, state.xl)} / ${textOf(state.y, state.yl)}` : document.querySelector("#result strong").textContent;
    const body = [el("h1", {}, title), el("p", {class: "quiet"}, settingsInWords()), byId("result").cloneNode(true),
      byId("more").cloneNode(true), byId("about").cloneNode(true), el("p", {class: "quiet"}, location.href)];
    for (const part of body) for (const fold of part.querySelectorAll("details")) fold.open = true;
    const page = `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>${el("i", {}, title).innerHTML}</title>`
      + `<style>${style}</style></head><body>${body.map((part) => part.outerHTML).join("\n")}</body></html>`;
    const name = title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80);
    const link = el("a", {href: URL.createObjectURL(new Blob([page], {type: "text/html"})), download: `${name}.html`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Saved as ${name}.html.`);
  }

  async function start() {
    try {
      catalog = await dysem.load("catalog");
    } catch (problem) {
      byId("error").textContent = problem.message;
      byId("error").hidden = false;
      return;
    }
    state = read(location.hash);
    byId("copy").onclick = copy;
    byId("download").onclick = download;
    window.addEventListener("hashchange", () => {
      if (location.hash === written) return;
      state = read(location.hash);
      render();
    });
    let drawn = width();
    new ResizeObserver(() => {
      if (width() !== drawn) { drawn = width(); render(); }
    }).observe(document.querySelector("main"));
    await render();
  }

  window.addEventListener("DOMContentLoaded", start);
  return {get catalog() { return catalog; }, get state() { return state; }, change};
})();
