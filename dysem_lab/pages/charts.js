// Charts as SVG and HTML, as wide as they are given room. Colours are of pages.css; none of them is
// the only sign of what it says.
"use strict";

const charts = (() => {
  const NAMESPACE = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) {
        node.setAttribute(name, value === true ? "" : value);
      }
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
  }
  const el = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS(NAMESPACE, tag), attributes, children);
  const text = (x, y, said, attributes = {}) => svg("text", {x, y, ...attributes}, said);

  const drawing = (width, height, label, ...children) => svg("svg",
    {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label},
    ...children);

  const number = (value, digits = 4) => Number.isNaN(value) ? "undefined" : value.toFixed(digits);
  const signed = (value, digits = 3) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

  // A scale from numbers to pixels.
  const linear = (low, high, from, to) => (value) =>
    from + (to - from) * (high > low ? (value - low) / (high - low) : 0.5);

  function ticks(low, high, n = 4) {
    const raw = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((one) => one * power >= raw);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) {
      found.push([i * step, (i * step).toFixed(digits)]);
    }
    return found;
  }

  // Where a value stands among others: a row of ticks for each group of them, and a line.
  //   groups: [[label, values], …]
  function strip(width, groups, value, label) {
    const all = groups.flatMap(([, values]) => values).concat(value).filter((one) => !Number.isNaN(one));
    if (!all.length) return el("p", {}, "No pair has a similarity at these settings.");
    const low = Math.min(...all), high = Math.max(...all), row = 34;
    const height = 26 + row * groups.length + 22, at = linear(low, high, 8, width - 8);
    const parts = [];
    groups.forEach(([name, values], g) => {
      const top = 26 + row * g;
      parts.push(text(8, top + 9, name, {class: "quiet"}));
      const d = values.filter((one) => !Number.isNaN(one))
        .map((one) => `M${at(one).toFixed(1)} ${top + 14}v14`).join("");
      parts.push(svg("path", {d, class: `ticks ticks-${g}`}));
    });
    const bottom = 26 + row * groups.length;
    for (const [tick, said] of ticks(low, high, width < 500 ? 3 : 6)) {
      parts.push(text(at(tick), bottom + 16, said, {class: "quiet", "text-anchor": "middle"}));
    }
    if (!Number.isNaN(value)) {
      const x = at(value), right = x > width / 2;
      parts.push(svg("path", {d: `M${x} 18V${bottom}`, class: "marker"}));
      parts.push(svg("path", {d: `M${x - 5} 10h10l-5 8z`, class: "marker-head"}));
      parts.push(text(right ? x - 9 : x + 9, 16, `this pair ${number(value)}`,
        {"text-anchor": right ? "end" : "start", class: "strong"}));
    }
    return drawing(width, height, label, ...parts);
  }

  // A list of names with bars that go right for more and left for less.
  //   items: [{name, value, note}]
  function bars(items, digits = 3) {
    const largest = Math.max(...items.map((one) => Math.abs(one.value)), 1e-12);
    const both = items.some((one) => one.value < 0);
    return el("table", {class: "bars"}, el("tbody", {}, items.map(({name, value, note}) => {
      const share = Math.abs(value) / largest * (both ? 50 : 100);
      const start = both ? (value < 0 ? 50 - share : 50) : 0;
      const kind = value < 0 ? "less" : "more";
      return el("tr", {}, el("th", {scope: "row"}, name),
        el("td", {class: "track"}, el("span",
          {class: `bar ${kind}`, style: `margin-left:${start}%;width:${share}%`})),
        el("td", {class: "number"}, both ? signed(value, digits) : number(value, digits),
          note ? el("small", {}, note) : null));
    })));
  }

  // Which dimensions are in S(x), S(y) and U, and the values of v(x) and v(y).
  function members(width, d, inX, inY, vx, vy, label) {
    const left = 46, row = 18, at = linear(0, d, left, width - 4), wide = (width - 4 - left) / d;
    const rows = [["S(x)", (j) => inX[j], "set-x"], ["S(y)", (j) => inY[j], "set-y"],
      ["both", (j) => inX[j] && inY[j], "set-both"]];
    const parts = rows.flatMap(([name, has, kind], r) => {
      let path = "";
      for (let j = 0; j < d; j++) if (has(j)) path += `M${at(j).toFixed(2)} ${r * row + 2}h${wide.toFixed(2)}v${row - 4}h-${wide.toFixed(2)}z`;
      return [text(0, r * row + 14, name), svg("rect", {x: left, y: r * row + 2, width: width - 4 - left,
        height: row - 4, class: "ground"}), svg("path", {d: path, class: kind})];
    });
    const sizes = [...vx, ...vy].map(Math.abs).sort((a, b) => a - b);
    const bound = sizes[Math.floor(sizes.length * 0.99)] || 1, middle = row * 3 + 26;
    [["v(x)", vx], ["v(y)", vy]].forEach(([name, v], r) => {
      const zero = middle + r * 46;
      let path = "";
      for (let j = 0; j < d; j++) {
        const height = Math.max(-1, Math.min(1, v[j] / bound)) * 20;
        path += `M${at(j + 0.5).toFixed(2)} ${zero}v${(-height).toFixed(1)}`;
      }
      parts.push(text(0, zero + 4, name), svg("path", {d: `M${left} ${zero}H${width - 4}`, class: "axis"}),
        svg("path", {d: path, class: r ? "line-y" : "line-x", "stroke-width": Math.max(0.6, wide * 0.8)}));
    });
    const bottom = middle + 46 + 36;
    for (const [tick, said] of ticks(0, d, width < 500 ? 3 : 6)) {
      parts.push(text(at(tick), bottom, said, {class: "quiet", "text-anchor": "middle"}));
    }
    return drawing(width, bottom + 6, label, ...parts);
  }

  // A map of blocks × heads.
  //   cells: [{block, head, value, said}], counted from 0
  function heads(width, cells, label) {
    const L = 1 + Math.max(...cells.map((one) => one.block)), H = 1 + Math.max(...cells.map((one) => one.head));
    // Of many blocks, the map is wider than a phone, which moves over it.
    const left = 34, top = 18, side = Math.max(16, Math.min(26, (width - left - 4) / L)), bound =
      Math.max(...cells.map((one) => Math.abs(one.value)), 1e-12);
    const parts = cells.map(({block, head, value, said}) => {
      const x = left + block * side, y = top + head * side, share = Math.abs(value) / bound;
      return svg("g", {}, svg("title", {}, said),
        svg("rect", {x, y, width: side - 1, height: side - 1, class: "ground"}),
        svg("rect", {x, y, width: side - 1, height: side - 1, class: value < 0 ? "less" : "more", "fill-opacity": share}),
        share > 0.25 ? text(x + side / 2 - 0.5, y + side / 2 + 4, value < 0 ? "−" : "+",
          {"text-anchor": "middle", class: "sign"}) : null);
    });
    for (let block = 0; block < L; block += side < 18 ? 5 : 1) {
      parts.push(text(left + (block + 0.5) * side, 12, block + 1, {"text-anchor": "middle", class: "quiet"}));
    }
    for (let head = 0; head < H; head++) {
      parts.push(text(0, top + (head + 0.5) * side + 4, `h ${head + 1}`, {class: "quiet"}));
    }
    return drawing(left + L * side + 4, top + H * side + 4, label, ...parts);
  }

  // Lines over layers, with a band; layers count from 1.
  //   lines: [{name, values, kind}]; band: [low, middle, high] or null
  function curves(width, height, lines, band, label) {
    const all = lines.flatMap((one) => one.values).concat(band ? [...band[0], ...band[2]] : [])
      .filter((one) => one !== null);
    if (!all.length) return el("p", {}, "Undefined at every layer.");
    const n = lines[0].values.length, low = Math.min(...all), high = Math.max(...all);
    const x = linear(1, n, 44, width - 10), y = linear(low, high, height - 30, 10);
    const path = (values) => {
      let pen = false;
      return values.map((value, i) => {
        if (value === null) { pen = false; return ""; }
        const part = `${pen ? "L" : "M"}${x(i + 1).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = true;
        return part;
      }).join("");
    };
    const parts = ticks(low, high, 5).flatMap(([tick, said]) => [
      svg("path", {d: `M44 ${y(tick)}H${width - 10}`, class: "grid"}),
      text(38, y(tick) + 4, said, {"text-anchor": "end", class: "quiet"})]);
    for (const [tick, said] of ticks(1, n, width < 500 ? 4 : 8)) {
      if (Number.isInteger(tick)) parts.push(text(x(tick), height - 12, said, {"text-anchor": "middle", class: "quiet"}));
    }
    parts.push(text(4, height - 12, "layer", {class: "quiet"}));
    if (band && band[0].every((one) => one !== null)) {
      const back = band[0].map((value, i) => `L${x(i + 1)} ${y(value)}`).reverse().join("");
      parts.push(svg("path", {d: `${path(band[2])}${back}Z`, class: "band"}));
      parts.push(svg("path", {d: path(band[1]), class: "line-unrelated"}));
    }
    for (const {name, values, kind} of lines) {
      parts.push(svg("path", {d: path(values), class: kind}, svg("title", {}, name)));
    }
    return drawing(width, height, label, ...parts);
  }

  // How often each dimension is selected, the most frequent first; `chosen` is marked.
  function frequencies(width, shares, order, chosen, pick, label) {
    const height = 130, x = linear(0, order.length, 44, width - 8), y = linear(0, 1, height - 24, 8);
    const parts = [[0, "0 %"], [0.5, "50 %"], [1, "100 %"]].flatMap(([tick, said]) => [
      svg("path", {d: `M44 ${y(tick)}H${width - 8}`, class: "grid"}),
      text(40, y(tick) + 4, said, {"text-anchor": "end", class: "quiet"})]);
    parts.push(svg("path", {class: "line-x", d: order.map((j, i) =>
      `${i ? "L" : "M"}${x(i + 0.5).toFixed(1)} ${y(shares[j]).toFixed(1)}`).join("")}));
    const place = order.indexOf(chosen), cx = x(place + 0.5), right = cx > width / 2;
    parts.push(svg("circle", {cx, cy: y(shares[chosen]), r: 6, class: "marker-head"}));
    parts.push(text(right ? cx - 10 : cx + 10, y(shares[chosen]) + (shares[chosen] > 0.8 ? 18 : -12),
      `dimension ${chosen}`, {class: "strong", "text-anchor": right ? "end" : "start"}));
    parts.push(text(width - 8, height - 6, "dimensions, the most frequent first", {"text-anchor": "end", class: "quiet"}));
    const drawn = drawing(width, height, label, ...parts);
    drawn.addEventListener("click", (event) => {
      const across = event.clientX - drawn.getBoundingClientRect().left;
      const place = Math.floor((across - 44) / (width - 52) * order.length);
      pick(order[Math.max(0, Math.min(order.length - 1, place))]);
    });
    return drawn;
  }

  return {el, strip, bars, members, heads, curves, frequencies, number, signed};
})();
