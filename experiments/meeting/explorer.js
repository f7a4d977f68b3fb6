"use strict";
{
  // Any number of a run over any field, of one experiment: a point is a run, a line joins the means.
  const $ = id => document.getElementById(id), { fields: known, runs } = JSON.parse($("explored").textContent), data = {};
  const form = $("explore"), plot = $("plot"), { experiment, x, y, color } = form.elements;
  const SHAPES = ["M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0", "M-4,-4h8v8h-8z", "M0,-5l5,9h-10z", "M0,-5l5,5l-5,5l-5,-5z",
    "M0,5l5,-9h-10z", "M-4,-1h3v-3h2v3h3v2h-3v3h-2v-3h-3z"];
  const shape = c => SHAPES[(c + Math.floor(c / 6)) % 6];  // with six colours: 36 series differ
  const word = value => value === null ? "none" : String(value);
  const told = number => number.toLocaleString("en", { maximumSignificantDigits: 5 });
  const short = text => text.length > 24 ? text.slice(0, 23) + "…" : text;

  const numeric = values => values.every(value => value === null || typeof value === "number");

  function add(parent, tag, attributes = {}, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return parent.appendChild(element);
  }

  // Of an experiment: its numbers, and its fields as values in their order with the index of each run's.
  function read(columns) {
    const fields = {}, numbers = {}, rank = value => value === null ? 0 : typeof value === "number" ? 1 : 2;
    for (const [name, of] of Object.entries(columns)) {
      if (!known.includes(name) && !name.includes(".")) numbers[name] = of;
      const values = [...new Set(of)].sort((a, b) => rank(a) - rank(b) || (rank(a) === 1 ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true })));
      if (!numbers[name] && values.length > 1) fields[name] = { values, of: of.map(value => values.indexOf(value)) };
    }
    return { fields, numbers, failed: numbers.failed ?? [] };
  }

  function fill(select, names, wished) {
    const kept = select.options.length ? [select.value] : [];
    select.replaceChildren(...names.map(name => new Option(name || "nothing", name)));
    select.value = [...kept, ...wished, names[0]].find(one => names.includes(one));
  }

  function choose() {
    const { fields, numbers } = data[experiment.value] ??= read(runs[experiment.value]), names = Object.keys(fields);
    fill(x, names, ["density", "width", "epochs", "net"]);
    fill(y, Object.keys(numbers).filter(name => name !== "failed"), ["accuracy"]);
    fill(color, ["", ...names], ["method", "net"].filter(one => one !== x.value));
    draw();
  }

  // The runs by color and x; `mean` is over the runs that train and have the number.
  function grouped() {
    const { fields, numbers, failed } = data[experiment.value];
    const across = fields[x.value], of = fields[color.value] ?? { values: [""], of: across.of.map(() => 0) };
    const values = numbers[y.value];
    return of.values.map((name, c) => across.values.map((at, i) => {
      const runs = values.map((value, run) => ({ value, run, failed: failed[run] }))
        .filter(({ value, run }) => value !== null && across.of[run] === i && of.of[run] === c);
      const kept = runs.filter(run => !run.failed);
      return { at, name, runs, kept, mean: kept.length ? kept.reduce((sum, run) => sum + run.value, 0) / kept.length : null };
    }));
  }

  // Where values stand, from 0 to 1: numbers to scale (a logarithm if they span much), what is none left of them.
  function places(values) {
    const some = values.filter(value => value !== null);
    if (!numeric(values) || some.length < 2) return values.map((_, i) => values.length < 2 ? 0.5 : i / (values.length - 1));
    const log = Math.min(...some) > 0 && Math.max(...some) / Math.min(...some) > 30;
    const scale = log ? Math.log : Number, low = scale(Math.min(...some)), high = scale(Math.max(...some));
    const from = some.length < values.length ? 0.15 : 0;
    return values.map(value => value === null ? 0 : from + (1 - from) * (scale(value) - low) / (high - low));
  }

  function ticks(low, high) {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(one => one * power >= rough);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => +((first + i) * step).toPrecision(6));
  }

  function draw() {
    const series = grouped(), names = data[experiment.value].fields[x.value].values;
    const all = series.flat().flatMap(cell => cell.runs.map(run => run.value));
    plot.replaceChildren();
    $("means").replaceChildren();
    if (!all.length) return;
    const texts = names.map(name => short(word(name))), long = Math.max(...texts.map(text => text.length)) > 7;
    const width = Math.max(300, plot.parentElement.clientWidth - 18), bottom = long ? 130 : 50;
    const height = 360 + bottom, box = { left: 64, right: width - 24, top: 12, bottom: height - bottom };
    let low = Math.min(...all), high = Math.max(...all);
    if (low === high) [low, high] = [low - 1, high + 1];
    [low, high] = [low - 0.04 * (high - low), high + 0.04 * (high - low)];
    const spots = places(names), X = i => box.left + 24 + (box.right - box.left - 48) * spots[i];
    const Y = value => box.bottom - (box.bottom - box.top) * (value - low) / (high - low);
    plot.setAttribute("width", width);
    plot.setAttribute("height", height);
    for (const value of ticks(low, high)) {
      add(plot, "path", { class: "grid", d: `M${box.left},${Y(value)}H${box.right}` });
      add(plot, "text", { x: box.left - 6, y: Y(value) + 4, "text-anchor": "end" }, told(value));
    }
    let free = -Infinity;  // labels that would overlap are left out
    names.map((_, i) => i).sort((a, b) => spots[a] - spots[b]).forEach(i => {
      const room = long ? 16 : 9 + 8 * texts[i].length;
      if (X(i) - free < room) return;
      free = X(i);
      const turn = long ? { transform: `translate(${X(i)},${box.bottom + 16})rotate(-35)`, "text-anchor": "end" }
        : { x: X(i), y: box.bottom + 20, "text-anchor": "middle" };
      add(add(plot, "text", turn, texts[i]), "title", {}, word(names[i]));
    });
    add(plot, "text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, x.value);
    add(plot, "text", { transform: `translate(13,${(box.top + box.bottom) / 2})rotate(-90)`, "text-anchor": "middle" }, y.value);
    const shown = series.filter(cells => cells.some(cell => cell.runs.length));
    shown.forEach((cells, c) => {
      const aside = 5 * (c - (shown.length - 1) / 2) / Math.max(1, shown.length / 6), group = add(plot, "g", { class: `c${c % 6}` });
      const means = cells.map((cell, i) => [cell.mean, i]).filter(([mean]) => mean !== null).sort((a, b) => spots[a[1]] - spots[b[1]]);
      const joined = numeric(names) ? means.filter(([, i]) => names[i] !== null) : [];
      const line = joined.map(([mean, i], n) => `${n ? "L" : "M"}${X(i) + aside},${Y(mean)}`);
      const bars = means.map(([mean, i]) => `M${X(i) + aside - 9},${Y(mean)}h18`);
      add(group, "path", { class: "line", d: [...line, ...bars].join("") });
      cells.forEach((cell, i) => cell.runs.forEach(run => add(add(group, "path", { class: run.failed ? "failed" : "point",
        d: shape(c), transform: `translate(${X(i) + aside},${Y(run.value)})` }), "title", {},
        `${x.value} ${word(cell.at)}${color.value && `, ${color.value} ${word(cell.name)}`}: ${told(run.value)}${run.failed ? " (fails)" : ""}`)));
    });
    $("legend").replaceChildren(...(color.value ? shown : []).map((cells, c) => {
      const item = document.createElement("li"), key = add(item, "svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", class: `c${c % 6}`, "aria-hidden": "true" });
      add(key, "path", { class: "point", d: shape(c) });
      item.append(short(word(cells[0].name)));
      return item;
    }));
    table(shown, names);
    $("told").textContent = `${y.value} over ${x.value}: ${all.length} runs, ${shown.length} series. Means are over the runs that train.`;
  }

  // The same in words, for those who do not see the plot.
  function table(shown, names) {
    const row = (texts, tag) => $("means").append(texts.reduce((line, text, i) => {
      line.append(Object.assign(document.createElement(i ? tag : "th"), { textContent: text }));
      return line;
    }, document.createElement("tr")));
    row([x.value, ...shown.map(cells => word(cells[0].name) || "mean")], "th");
    names.forEach((name, i) => row([word(name), ...shown.map(cells => cells[i].mean === null ? "–"
      : `${told(cells[i].mean)} (${cells[i].kept.length})`)], "td"));
  }

  experiment.replaceChildren(...Object.keys(runs).map(name => new Option(name, name)));
  experiment.addEventListener("input", choose);
  for (const select of [x, y, color]) select.addEventListener("input", draw);
  addEventListener("resize", draw);
  choose();
}
