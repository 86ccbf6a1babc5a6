// Draws the charts of a report from the JSON beside it. Only what is visible is drawn.
(() => {
  "use strict";
  const arms = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  // Okabe and Ito's palette, which colour-blind readers tell apart; lighter for a dark page.
  const palette = {
    light: ["#0b6aad", "#c04f00", "#007d5c", "#a8518a", "#8a6d00", "#2b8fc4", "#4d4d4d"],
    dark: ["#62b5f5", "#ff9f5a", "#41cfa4", "#ec9fd0", "#f0d84a", "#9ad7f7", "#d0d0d0"],
  };
  const hue = (i) => { const p = palette[dark.matches ? "dark" : "light"]; return p[i % p.length]; };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const safe = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  const positive = (ys) => ys.map((y) => (y > 0 ? y : null)); // a log axis has no place for zero
  const state = { arm: 0, layer: null, relative: false };

  // Traces ------------------------------------------------------------------------------------------------

  const RAD = "%{y:.3~g} rad  (%{customdata:.3~g}°)";
  const degrees = (ys) => ys.map((y) => (y === null ? null : (y * 180) / Math.PI));
  const line = (x, ys, name, color, more = {}) => ({
    type: "scatter", mode: ys.filter((y) => y !== null).length > 1 ? "lines" : "markers", x, y: positive(ys), name: safe(name),
    line: { color, width: 2, ...more.line }, marker: { color, size: 7 }, ...Object.fromEntries(Object.entries(more).filter(([k]) => k !== "line")),
  });
  const angle = (x, ys, name, color, more = {}) =>
    line(x, ys, name, color, { customdata: degrees(ys), hovertemplate: RAD, ...more });
  const dashed = { line: { dash: "5px,4px", width: 1.8 } };
  const dotted = { line: { dash: "2px,3px", width: 1.5 }, opacity: 0.75 };
  const band = (x, low, high, name) => {
    const edge = { type: "scatter", mode: "lines", x, line: { width: 0 }, legendgroup: "band", hoverinfo: "skip" };
    return [
      { ...edge, y: positive(low), showlegend: false },
      { ...edge, y: positive(high), name, fill: "tonexty", fillcolor: css("--band"), legendgroup: "band" },
    ];
  };
  const between = (low, high) => low.map((y, i) => (y === null ? "" : `90% of neurons: ${y.toPrecision(3)} to ${high[i].toPrecision(3)}`));
  const named = (l) => (l.held ? "held" : l.static.length ? "forecast" : "at rest");
  const some = (ys) => ys.some((y) => y > 0);

  function layout(yTitle, log, more = {}) {
    const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, ticks: "outside", tickcolor: css("--line"), ticklen: 4, automargin: true };
    const family = getComputedStyle(document.body).fontFamily;
    const title = (text) => ({ text, standoff: 10, font: { size: 12, color: css("--soft") } });
    return {
      paper_bgcolor: css("--card"), plot_bgcolor: css("--card"),
      font: { family, size: 12, color: css("--ink") },
      margin: { l: 52, r: 10, t: 30, b: 40 }, dragmode: coarse ? false : "zoom", hovermode: "x unified",
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { family, color: css("--ink"), size: 12 }, namelength: -1, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", font: { size: 12 }, tracegroupgap: 0 },
      ...more,
      xaxis: { ...axis, title: title("optimizer step"), hoverformat: ",d", unifiedhovertitle: { text: "step %{x}" }, spikecolor: css("--soft"), spikethickness: 1, spikedash: "dot", ...more.xaxis },
      yaxis: { ...axis, title: title(yTitle), type: log ? "log" : "linear", tickformat: "~g", ...more.yaxis },
    };
  }
  // A logarithmic range over all values, but at most two decades deep: where lr ends at zero the curve may leave it.
  function fit(traces) {
    const ys = traces.flatMap((t) => t.y).filter((y) => y > 0);
    if (!ys.length) return {};
    const high = ys.reduce((a, b) => Math.max(a, b)), low = Math.max(high / 100, ys.reduce((a, b) => Math.min(a, b)));
    const decades = Math.log10(high / low), pad = Math.max(0.04, 0.06 * decades);
    // Ticks at 1, 2 and 5 where every digit would be too many, and plotly's own choice where the range is short.
    return { range: [Math.log10(low) - pad, Math.log10(high) + pad], ...(decades > 0.6 ? { dtick: "D2" } : {}) };
  }
  const logged = (traces, title, more = {}) => [traces, layout(title, true, { ...more, yaxis: fit(traces) })];

  // Charts: name -> (arm, layer) => [traces, layout] ------------------------------------------------------------

  const ROTATION = "RMS rotation (rad per step)";
  const charts = {
    overview() {
      const drawn = arms.filter((a) => a.overview.step.length);
      const traces = drawn.map((a) => angle(a.overview.step, a.overview.rotation, a.name, hue(arms.indexOf(a))));
      const hoped = drawn.filter((a) => some(a.overview.expected)).map((a) =>
        angle(a.overview.step, a.overview.expected, `${a.name}, predicted`, hue(arms.indexOf(a)), { ...dashed, showlegend: false, opacity: 0.8 }));
      const key = hoped.length ? [{ ...line([null], [null], "predicted", css("--soft"), dashed), mode: "lines" }] : [];
      return logged([...traces, ...hoped, ...key], ROTATION);
    },
    loss() {
      const traces = [];
      for (const [i, a] of arms.entries()) {
        const { loss, val_loss: val } = a.losses;
        if (loss) traces.push(line(loss.map((p) => p[0]), loss.map((p) => p[1]), a.name, hue(i), { legendgroup: `a${i}`, opacity: val ? 0.35 : 1, showlegend: !val, line: { width: val ? 1.2 : 2 }, hoverinfo: val ? "skip" : "all", hovertemplate: val ? undefined : "%{y:.4g}" }));
        if (val) traces.push(line(val.map((p) => p[0]), val.map((p) => p[1]), a.name, hue(i), { legendgroup: `a${i}`, hovertemplate: "%{y:.4g}" }));
      }
      return logged(traces, "loss");
    },
    layers: (arm) => {
      // Every layer has a forecast of its own, of which the chosen one is drawn; what is held or at rest is common.
      const chosen = layerOf(arm), common = arm.layers.filter((l) => some(l.expected) && !l.static.length);
      const expected = [...new Map(common.map((l) => [JSON.stringify(l.expected), l])).values()];
      const lines = expected.map((l, i) =>
        line(l.step, l.expected, named(l), css("--expected"), { ...dashed, showlegend: i === 0, legendgroup: "predicted", hoverinfo: "skip" }));
      if (some(chosen.static)) lines.push(line(chosen.step, chosen.static, "at rest", css("--expected"), { ...dotted, hoverinfo: "skip" }));
      if (chosen.static.length) lines.push(line(chosen.step, chosen.expected, "forecast", css("--expected"), { ...dashed, hoverinfo: "skip" }));
      return every(arm, "rotation", ROTATION, (l) => l.rotation, lines);
    },
    norms: (arm) => {
      const first = (l) => l.norm.find((y) => y > 0) || 1;
      const scale = (l) => (state.relative ? l.norm.map((y) => y === null ? null : y / first(l)) : l.norm);
      return every(arm, "norm", state.relative ? "RMS norm / its first value" : "RMS norm of a weight vector", scale, []);
    },
    rotation: (arm, l) => logged([
      ...band(l.step, l.low, l.high, "5–95% of neurons"),
      angle(l.step, l.rotation, "measured", css("--measured"), { text: between(l.low, l.high), hovertemplate: `${RAD}<br>%{text}` }),
      ...(some(l.static) ? [angle(l.step, l.static, "at rest", css("--expected"), dotted)] : []),
      ...(some(l.expected) ? [angle(l.step, l.expected, named(l), css("--expected"), dashed)] : []),
    ], ROTATION),
    norm: (arm, l) => logged([
      ...band(l.step, l.normLow, l.normHigh, "5–95% of neurons"),
      line(l.step, l.norm, "measured", css("--measured"), { text: between(l.normLow, l.normHigh), hovertemplate: "%{y:.4g}<br>%{text}" }),
      ...(some(l.normStatic) ? [line(l.step, l.normStatic, "at rest", css("--expected"), { ...dotted, hovertemplate: "%{y:.4g}" })] : []),
      ...(some(l.normExpected) ? [line(l.step, l.normExpected, named(l), css("--expected"), { ...dashed, hovertemplate: "%{y:.4g}" })] : []),
    ], "RMS norm of a weight vector"),
    strip: (arm, l) => heat(l.strip),
  };

  // All layers in one chart: quiet lines, the chosen one on top; a click chooses.
  function every(arm, what, title, values, above) {
    const chosen = layerOf(arm);
    const hover = (l) => what === "rotation"
      ? { customdata: degrees(values(l)), hovertemplate: `${RAD}, step %{x}` }
      : { hovertemplate: `${what} %{y:.3~g}, step %{x}` };
    const quiet = arm.layers.filter((l) => l !== chosen).map((l, i) =>
      line(l.step, values(l), l.name, css("--context"), { line: { width: 1.2 }, showlegend: false, layer: l.name, ...hover(l) }));
    const key = quiet.length ? [{ ...line([null], [null], "other layers", css("--context"), { line: { width: 1.5 } }), mode: "lines" }] : [];
    const top = line(chosen.step, values(chosen), chosen.name, css("--measured"), { line: { width: 2.4 }, layer: chosen.name, ...hover(chosen) });
    return logged([...quiet, top, ...above, ...key], title, { hovermode: "closest" });
  }

  function heat(s) {
    const bytes = Uint8Array.from(atob(s.data), (c) => c.charCodeAt(0));
    const columns = s.step.length;
    const value = (b) => (b === 255 ? null : s.low + (b / 254) * (s.high - s.low));
    const z = s.neurons.map((_, r) => Array.from(bytes.subarray(r * columns, (r + 1) * columns), value));
    // A ratio is coloured around 1 and cut at a factor of 10; a plain rotation runs over its own range.
    const far = Math.min(1, Math.max(Math.log10(1.5), Math.abs(s.low), Math.abs(s.high)));
    const [low, high] = s.relative ? [-far, far] : [s.low, s.high];
    const factors = [10, 5, 3, 2, 1.5, 1.2, 1.1].filter((f) => Math.log10(f) <= far);
    const kept = far > 0.35 ? factors.filter((f) => f >= 2) : factors;
    const marks = [...kept.map((f) => 1 / f), 1, ...[...kept].reverse()];
    const decade = [1, 2, 5].flatMap((m) => Array.from({ length: 12 }, (_, k) => m * 10 ** (k - 10)));
    const inside = decade.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high).sort((a, b) => a - b);
    const ticks = s.relative ? marks : inside;
    const text = (v) => (s.relative ? (v < 1 ? `1/${+(1 / v).toPrecision(2)}` : v > 1 ? `×${+v.toPrecision(2)}` : "as predicted") : v.toExponential(0));
    const scale = s.relative
      ? [[0, css("--slow")], [0.5, css("--even")], [1, css("--fast")]]
      : [[0, css("--even")], [1, css("--measured")]];
    const trace = {
      type: "heatmap", x: s.step, y: s.neurons.map((_, r) => r), z, zmin: low, zmax: high, colorscale: scale, hoverongaps: false,
      text: z.map((row, r) => row.map((v) => v === null ? "" : `neuron ${safe(s.neurons[r])}<br>` + (s.relative ? `${(10 ** v).toPrecision(3)} × prediction` : `${(10 ** v).toPrecision(3)} rad per step`))),
      hovertemplate: "%{text}<br>step %{x}<extra></extra>",
      colorbar: { thickness: 12, outlinewidth: 0, tickvals: ticks.map(Math.log10), ticktext: ticks.map(text), ticks: "", x: 1.01, xpad: 0, len: 1 },
    };
    return [[trace], layout(`neurons, slowest at the bottom`, false, { hovermode: "closest", plot_bgcolor: css("--hole"), margin: { l: 40, r: 10, t: 8, b: 40 }, yaxis: { showticklabels: false, ticks: "", showgrid: false }, xaxis: { showgrid: false } })];
  }

  // Drawing -----------------------------------------------------------------------------------------------

  const layerOf = (arm) => arm.layers.find((l) => l.name === state.layer) || arm.layers[0];
  const config = { responsive: true, displayModeBar: false };

  function draw(root) {
    for (const el of root.querySelectorAll("[data-chart]")) {
      const arm = arms[state.arm];
      const needsLayer = !["overview", "loss"].includes(el.dataset.chart);
      if (needsLayer && !arm.layers.length) continue;
      const [traces, shape] = charts[el.dataset.chart](arm, needsLayer ? layerOf(arm) : null);
      const fresh = !el.data;
      Plotly.react(el, traces, shape, config);
      if (!fresh) Plotly.Plots.resize(el); // the window may have changed while this arm was hidden
      if (fresh && ["layers", "norms"].includes(el.dataset.chart)) {
        el.on("plotly_click", (event) => event.points[0].data.layer && choose(event.points[0].data.layer));
      }
    }
  }
  const section = () => document.querySelectorAll("section.arm")[state.arm];

  function choose(name) {
    const root = section(), arm = arms[state.arm];
    if (!arm.layers.length) return;
    state.layer = name ?? state.layer;
    const l = layerOf(arm);
    for (const row of root.querySelectorAll("tr[data-layer]")) row.classList.toggle("chosen", row.dataset.layer === l.name);
    root.querySelector("select").value = l.name;
    const pill = root.querySelector(".says .pill");
    pill.className = `pill ${l.word.replace(" ", "-")}`;
    pill.textContent = l.word;
    root.querySelector(".says .why").textContent = l.sentence;
    draw(root);
  }

  function show(index) {
    state.arm = index;
    document.querySelectorAll("section.arm").forEach((el, i) => { el.hidden = i !== index; });
    document.querySelectorAll("[role=tab]").forEach((el, i) => {
      el.setAttribute("aria-selected", String(i === index));
      el.tabIndex = i === index ? 0 : -1;
    });
    choose();
  }

  document.querySelectorAll("[role=tab]").forEach((el, i, all) => {
    el.addEventListener("click", () => show(i));
    el.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      const next = (to + all.length) % all.length;
      event.preventDefault();
      show(next);
      all[next].focus();
    });
  });
  document.querySelectorAll(".pick").forEach((el) => el.addEventListener("click", () => choose(el.closest("tr").dataset.layer)));
  document.querySelectorAll(".tools select").forEach((el) => el.addEventListener("change", () => choose(el.value)));
  document.querySelectorAll("[data-by]").forEach((el) => el.addEventListener("click", () => {
    const names = arms[state.arm].layers.map((l) => l.name);
    const at = names.indexOf(layerOf(arms[state.arm]).name) + Number(el.dataset.by);
    choose(names[(at + names.length) % names.length]);
  }));
  document.querySelectorAll(".relative").forEach((el) => el.addEventListener("click", () => {
    state.relative = !state.relative;
    document.querySelectorAll(".relative").forEach((b) => b.setAttribute("aria-pressed", String(state.relative)));
    draw(section());
  }));
  document.querySelectorAll(".save").forEach((el) => el.addEventListener("click", () => {
    const chart = el.closest("figure").querySelector("[data-chart]");
    Plotly.downloadImage(chart, { format: "svg", width: 900, height: 480, filename: `${arms[state.arm].name} ${chart.dataset.chart}` });
  }));
  const everything = () => { draw(document.getElementById("arms-together") || document.createElement("div")); show(state.arm); };
  dark.addEventListener("change", everything);
  const linked = /^#arm-(\d+)$/.exec(location.hash); // a link may name an arm
  if (linked && arms[linked[1]]) state.arm = Number(linked[1]);
  everything();
})();
