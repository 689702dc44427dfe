"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  // Storage may be refused to a page that is opened from disk.
  const kept = (store, key) => { try { return JSON.parse(window[store].getItem(key)); } catch { return null; } };
  const keep = (store, key, value) => { try { window[store].setItem(key, JSON.stringify(value)); } catch { /* not kept */ } };

  const THEMES = ["auto", "light", "dark"];
  const themeButton = byId("theme");
  let theme = kept("localStorage", "launcher-theme");
  if (!THEMES.includes(theme)) theme = "auto";
  function applyTheme() {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    themeButton.textContent = `theme: ${theme}`;
  }
  themeButton.hidden = false;
  applyTheme();

  const island = byId("data");
  if (!island) {
    themeButton.onclick = () => { theme = THEMES[(THEMES.indexOf(theme) + 1) % 3]; keep("localStorage", "launcher-theme", theme); applyTheme(); };
    return;
  }
  const data = JSON.parse(island.textContent);
  // Curves share their steps.
  for (const curve of [...Object.values(data.curves).flat(), ...Object.values(data.trunkCurves)]) if (curve) curve.x = data.steps[curve.x];
  const figure = byId("figure");
  const place = `launcher-report:${location.pathname}:${data.group}`;
  const state = { metric: data.primary, view: data.point === null ? "all" : "branch", smooth: 0, log: false,
    band: true, streams: false, hidden: [], zoom: null, ...(kept("sessionStorage", place) || {}) };
  if (!data.metrics.includes(state.metric)) { state.metric = data.primary; state.zoom = null; }

  /* ---- what is drawn ---- */

  // What a library reads as markup is a name here.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const colour = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const faded = (hex, alpha) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  const isDark = () => root.dataset.theme === "dark" || (root.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  // The baseline is black on white and white on black.
  const hexOf = (arm) => (arm.baseline && isDark() ? "#F2F0EA" : arm.colour);
  const halfLife = () => (state.smooth ? Math.max(1, Math.round(data.span * 0.4 * (state.smooth / 40) ** 2)) : 0);

  /** Exponential mean by half-life; `start` is [step, value] that it goes on from. */
  function smoothed(x, y, start) {
    const half = halfLife();
    if (!half) return y;
    let [at, mean] = start || [null, null];
    return y.map((value, i) => {
      if (value === null) return null;
      const weight = mean === null ? 0 : 0.5 ** ((x[i] - at) / half);
      mean = mean === null ? value : weight * mean + (1 - weight) * value;
      at = x[i];
      return mean;
    });
  }

  /** The trunk's curve, and the point at which branches leave it. */
  function trunkOf(metric) {
    const curve = data.trunkCurves[metric];
    if (!curve) return null;
    const y = smoothed(curve.x, curve.y, null);
    let leave = null;
    curve.x.forEach((x, i) => { if (x <= data.point && y[i] !== null) leave = [x, y[i]]; });
    return { x: curve.x, y, leave };
  }

  const clean = (value) => Number(value.toPrecision(5)).toString();

  function traces() {
    const found = [];
    const few = data.arms.length <= 8;
    const trunk = trunkOf(state.metric);
    const leave = trunk && trunk.leave;
    const shown = (name) => !state.hidden.includes(name);
    if (trunk && shown("\u0000trunk")) {
      found.push({ x: trunk.x, y: trunk.y, name: plain(data.trunk), mode: "lines", hovertemplate: "%{y:.5~g}<extra>%{fullData.name} (trunk)</extra>",
        line: { color: isDark() ? "#8f8f8f" : "#8c8c8c", width: 1.6 }, meta: "trunk" });
    }
    data.arms.forEach((arm, index) => {
      const curve = data.curves[state.metric][index];
      if (!curve || !shown(arm.name)) return;
      const hex = hexOf(arm);
      const [low, high] = curve.low ? [curve.low, curve.high].map((edge) => smoothed(curve.x, edge, leave)) : [];
      if (state.band && low) {
        found.push({ x: [...curve.x, ...[...curve.x].reverse()], y: [...high, ...[...low].reverse()], fill: "toself", mode: "lines",
          fillcolor: faded(hex, few ? 0.16 : 0.08), line: { width: 0 }, hoverinfo: "skip", meta: "band", name: plain(arm.name) });
      }
      if (state.streams && curve.streams) {
        for (const [stream, values] of Object.entries(curve.streams)) {
          const y = smoothed(curve.x, values, leave);
          found.push({ x: leave ? [leave[0], ...curve.x] : curve.x, y: leave ? [leave[1], ...y] : y, mode: "lines", meta: "stream", name: plain(arm.name),
            line: { color: faded(hex, 0.55), width: 0.9 }, hovertemplate: `%{y:.5~g}<extra>%{fullData.name}, stream ${Number(stream)}</extra>` });
        }
      }
      const y = smoothed(curve.x, curve.y, leave);
      const about = curve.x.map((_, i) => [
        low ? `  (${clean(low[i])} to ${clean(high[i])}` + (arm.streams > 1 ? `, ${curve.n ? curve.n[i] : Object.keys(curve.streams || [0]).length} of ${arm.streams} streams)` : ")") : ""]);
      found.push({ x: leave ? [leave[0], ...curve.x] : curve.x, y: leave ? [leave[1], ...y] : y, customdata: leave ? [[""], ...about] : about,
        name: plain(arm.name), meta: "arm", mode: curve.x.length <= 40 ? "lines+markers" : "lines", marker: { size: 4.5, color: hex },
        line: { color: hex, dash: arm.dash, width: arm.baseline ? 2.4 : 2 }, hovertemplate: "%{y:.5~g}%{customdata[0]}<extra>%{fullData.name}</extra>" });
    });
    return found;
  }

  /** Both axes: around the branches, everything, or where somebody has zoomed to. */
  function ranges(all) {
    if (state.zoom) return state.zoom;
    const lines = all.filter((one) => one.meta !== "trunk" || state.view === "all");
    const end = Math.max(...lines.flatMap((one) => one.x), ...(lines.length ? [] : all.flatMap((one) => one.x)));
    if (state.view === "all" || data.point === null || !Number.isFinite(end)) return { x: null, y: null };
    const length = Math.max(1, end - data.point);
    const x = [data.point - 0.35 * length, end + 0.03 * length];
    const values = all.flatMap((one) => one.y.filter((value, i) => value !== null && one.x[i] >= x[0] && one.x[i] <= x[1] && (!state.log || value > 0)));
    if (!values.length) return { x, y: null };
    const scaled = (value) => (state.log ? Math.log10(value) : value);
    const low = scaled(values.reduce((a, b) => Math.min(a, b))), high = scaled(values.reduce((a, b) => Math.max(a, b)));
    const room = 0.06 * (high - low) || Math.abs(high) * 0.05 || 1;
    return { x, y: [low - room, high + room] };
  }

  function layout(all) {
    const [ink, soft, rule, paper] = ["ink", "soft", "rule", "paper"].map(colour);
    const { x, y } = ranges(all);
    const axis = { gridcolor: rule, linecolor: soft, zeroline: false, ticks: "outside", tickcolor: soft, ticklen: 4, tickfont: { size: 12.5, color: soft }, showline: true };
    const title = (text) => ({ text, font: { size: 13.5, color: ink }, standoff: 10 });
    const narrow = figure.clientWidth < 520;
    return {
      font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: "zoom",
      hovermode: data.arms.length <= 8 ? "x unified" : "closest", hoverdistance: data.arms.length <= 8 ? -1 : 30,
      hoverlabel: { bgcolor: paper, bordercolor: rule, font: { size: 13, color: ink }, namelength: narrow ? 18 : 40 },
      margin: { l: narrow ? 52 : 64, r: narrow ? 10 : 16, t: 28, b: 52 },
      xaxis: { ...axis, showgrid: false, title: title(data.point === null ? "steps since the branch point" : "step"), tickformat: ",d", nticks: narrow ? 4 : 9, hoverformat: ",d", spikethickness: 1, spikecolor: soft, spikedash: "solid", ...(x ? { range: x, autorange: false } : { autorange: true }) },
      yaxis: { ...axis, type: state.log ? "log" : "linear", title: title(plain(state.metric)), nticks: 7, ...(y ? { range: y, autorange: false } : { autorange: true }) },
      shapes: data.point === null ? [] : [{ type: "line", x0: data.point, x1: data.point, yref: "paper", y0: 0, y1: 1, line: { color: soft, width: 1, dash: "dot" } }],
      annotations: data.point === null ? [] : [{ x: data.point, yref: "paper", y: 1, yanchor: "bottom", text: "branch point", showarrow: false, font: { size: 12.5, color: soft } }],
      separators: ".\u00a0", modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
    };
  }

  const config = { displaylogo: false, responsive: true, doubleClick: false, modeBarButtons: [["zoom2d", "pan2d", "toImage"]],
    toImageButtonOptions: { format: "png", scale: 3, filename: "curves" } };

  function draw() {
    const all = traces();
    keep("sessionStorage", place, { ...state, scroll: window.scrollY });
    return Plotly.react(figure, all, layout(all), config);
  }

  /* ---- what can be set ---- */

  const half = () => { byId("smoothed").value = state.smooth ? `over ${halfLife()} steps` : "none"; };
  function control(id, read, write, after) {
    const one = byId(id);
    write(one);
    one.addEventListener("input", () => { read(one); if (after) after(); draw(); });
  }
  for (const metric of data.metrics) byId("metric").add(new Option(metric, metric));
  const unzoom = () => { state.zoom = null; };
  control("metric", (one) => { state.metric = one.value; }, (one) => { one.value = state.metric; }, unzoom);
  control("view", (one) => { state.view = one.value; }, (one) => { one.value = state.view; }, unzoom);
  control("smooth", (one) => { state.smooth = Number(one.value); }, (one) => { one.value = state.smooth; half(); }, half);
  control("log", (one) => { state.log = one.checked; }, (one) => { one.checked = state.log; }, unzoom);
  for (const id of ["band", "streams"]) control(id, (one) => { state[id] = one.checked; }, (one) => { one.checked = state[id]; });
  if (!data.arms.some((arm) => arm.streams > 1)) byId("streams").parentElement.hidden = true;
  if (data.point === null) byId("view").parentElement.hidden = true;
  byId("controls").hidden = false;
  byId("controls").addEventListener("submit", (event) => event.preventDefault());

  const DASHED = { solid: "", dash: "9 5", dot: "2 4", dashdot: "9 4 2 4", longdash: "15 6", longdashdot: "15 4 2 4" };
  function legend() {
    const list = byId("legend");
    list.replaceChildren();
    const entries = data.arms.map((arm) => [arm.name, arm.name + (arm.baseline ? " (baseline)" : ""), hexOf(arm), arm.dash]);
    if (data.trunk) entries.unshift(["\u0000trunk", `${data.trunk} (trunk)`, "#8c8c8c", "solid"]);
    for (const [key, text, hex, dash] of entries) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.arm = key;
      button.setAttribute("aria-pressed", String(!state.hidden.includes(key)));
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const drawn = { x1: 0, x2: "100%", y1: "50%", y2: "50%", stroke: hex, "stroke-width": 2.4, "stroke-dasharray": DASHED[dash] };
      for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
      swatch.setAttribute("aria-hidden", "true");
      swatch.append(line);
      button.append(swatch, text);
      button.onclick = () => {
        state.hidden = state.hidden.includes(key) ? state.hidden.filter((one) => one !== key) : [...state.hidden, key];
        button.setAttribute("aria-pressed", String(!state.hidden.includes(key)));
        draw();
      };
      list.append(button);
    }
  }

  const redress = () => { applyTheme(); legend(); draw(); };
  themeButton.onclick = () => { theme = THEMES[(THEMES.indexOf(theme) + 1) % 3]; keep("localStorage", "launcher-theme", theme); redress(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redress);

  legend();
  draw().then(() => {
    figure.on("plotly_relayout", (change) => {
      const read = (axis) => (change[`${axis}.range[0]`] === undefined ? null : [change[`${axis}.range[0]`], change[`${axis}.range[1]`]]);
      const x = read("xaxis"), y = read("yaxis");
      if (!x && !y) return;
      state.zoom = { x: x || figure.layout.xaxis.range, y: y || figure.layout.yaxis.range };
      keep("sessionStorage", place, { ...state, scroll: window.scrollY });
    });
    figure.on("plotly_doubleclick", () => { unzoom(); draw(); });
    root.dataset.drawn = "yes";
  });

  if (data.live) {
    if (state.scroll) window.scrollTo(0, state.scroll);
    setInterval(() => {
      // Not under a hand that is dragging, and not for nobody.
      if (document.hidden || document.querySelector(".dragcover, :active")) return;
      keep("sessionStorage", place, { ...state, scroll: window.scrollY });
      location.reload();
    }, data.every * 1000);
  }
})();
