// What a click or the slider of a phase diagram does; `data` holds flat arrays (slider, point, code, component).
const [n_x, n_y] = [facts.shape[0], facts.shape.length > 1 ? facts.shape[1] : 1];
const n_points = n_x * n_y;
const layer = slider === null ? 0 : slider.value;
const get = (name) => data[name].data.x;

if (cb_obj.event_name === "tap") {
  const nearest = (values, v) => values.reduce((best, value, i) =>
    Math.abs(value - v) < Math.abs(values[best] - v) ? i : best, 0);
  const [x, y] = facts.places;  // infinity has one, too
  const i = nearest(x, cb_obj.x);
  const j = n_y > 1 ? nearest(y, cb_obj.y) : 0;
  facts.chosen = i * n_y + j;
  marker.data = {x: [x[i]], y: [n_y > 1 ? y[j] : NaN]};
} else {
  slider.title = `${facts.slider_name} = ${Number(facts.slider[layer].toPrecision(5))}`;
  const phase = Array.from({length: n_points}, (_, i) => get("phase")[layer * n_points + i]);
  cells.data = {...cells.data, phase, color: phase.map((p) => p < 0 ? facts.failed : facts.colors[p])};
}

if (facts.chosen !== undefined) {
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const at = layer * n_points + facts.chosen;
  const [m, C, K] = [facts.m, facts.classes.length, facts.n_codes];
  const where = facts.names.map((name, axis) => {
    const index = axis === 0 ? Math.floor(facts.chosen / n_y) : facts.chosen % n_y;
    const value = facts.axes[axis][index];
    return `${name} = ${Number.isFinite(value) ? Number(value.toPrecision(6)) : "∞"}`;
  });
  if (slider !== null) where.push(`${facts.slider_name} = ${Number(facts.slider[layer].toPrecision(6))}`);
  const phase = get("phase")[at];
  const rows = [];
  for (let k = 0; k < K; k++) {
    const label = get("label")[at * K + k];
    if (label < 0) continue;
    const slice = (name, size) => Array.from(get(name).slice((at * K + k) * size, (at * K + k + 1) * size));
    rows.push({label: facts.patterns[label], color: facts.palette[label], weight: get("weight")[at * K + k],
               readout: slice("readout", m), activation: slice("activation", C)});
  }
  rows.sort((a, b) => b.weight - a.weight);
  if (phase < 0) {
    table.text = `<p><b>${escape(where.join(", "))}</b>: not certified</p>` +
      `<p>${escape(facts.messages[layer][facts.chosen] ?? "")}</p>`;
  } else {
    const cell = (value) => `<td style="text-align:right;padding:0 .5em">${value}</td>`;
    const number = (value) => Number.isFinite(value) ? value.toFixed(4) : "";
    const [objective, residual, gap] = [0, 1, 2].map((i) => get("numbers")[at * 3 + i]);
    const head = ["code", "weight", ...Array.from({length: m}, (_, r) => `a<sub>${r + 1}</sub>`),
                  ...facts.classes.map((c) => `φ on ${escape(c)}`)];
    table.text = `<p><b>${escape(where.join(", "))}</b>: ${escape(facts.phases[phase])}<br>` +
      `min J = ${objective.toPrecision(9)}, residual ${residual.toExponential(1)}, gap ${gap.toExponential(1)}</p>` +
      `<table><tr>${head.map((name) => `<th style="padding:0 .5em">${name}</th>`).join("")}</tr>` +
      rows.map((row) => `<tr><td><span style="color:${row.color}">■</span> ${escape(row.label)}</td>${cell(row.weight.toFixed(6))}` +
        [...row.readout, ...row.activation].map((v) => cell(number(v))).join("") + "</tr>").join("") + "</table>";
  }
  const outputs = Array.from({length: m}, (_, r) => r + 1);
  lines.data = {
    x: rows.map(() => m > 1 ? outputs : [0.75, 1.25]),
    y: rows.map((row) => m > 1 ? row.readout : [row.readout[0], row.readout[0]]),
    size: rows.map((row) => 1.5 + 5 * Math.min(1, row.weight)),
    color: rows.map((row) => row.color),
    label: rows.map((row) => row.label),
  };
  const pixels = image.data.image[0];  // an array with a shape: filled anew, not replaced
  pixels.fill(NaN);
  const bulk = rows.some((row) => row.label.startsWith("outlier"));
  let next = 0;
  for (const row of bulk ? [...rows].reverse() : rows) {
    // Codes hold their share of the neurons; an outlier is one neuron, drawn as one row.
    const outlier = row.label.startsWith("outlier");
    const share = outlier ? 1 : Math.round(facts.n_neurons * row.weight);
    for (let i = 0; i < share && next < facts.n_neurons; i++, next++)
      for (let c = 0; c < C; c++) pixels[next * C + c] = row.activation[c];
  }
  image.change.emit();
  const levels = rows.flatMap((row) => row.readout).filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...levels), Math.max(0, ...levels)];
  readouts.y_range.start = low - 0.08 * (high - low);
  readouts.y_range.end = high + 0.08 * (high - low);
}
