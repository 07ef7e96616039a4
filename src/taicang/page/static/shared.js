"use strict";
// What every page has: words in two languages, two themes, tabs, and how its parts are drawn.
const at = (id) => document.getElementById(id);
let language = (navigator.language || "en").startsWith("zh") ? 1 : 0;
let dark = Boolean(window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches);
let charts = [];

function say(words) { return Array.isArray(words) ? words[language] || words[0] : words; }
function make(tag, parent, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  if (parent) parent.appendChild(node);
  return node;
}
function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }
function scaled(value, unit, steps) {
  const size = Math.abs(value);
  for (const [factor, prefix] of steps) if (size >= factor) return Number((value / factor).toPrecision(3)) + " " + prefix + unit;
  return Number(value.toPrecision(3)) + " " + unit;
}
function written(value, unit) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (unit === "ratio") return Number((100 * value).toFixed(Math.abs(value) < 0.01 ? 3 : 1)) + " %";
  if (unit === "s") return scaled(value, "s", [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]]);
  if (unit === "B") return scaled(value, "B", [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]);
  if (unit === "W") return scaled(value, "W", [[1e6, "M"], [1e3, "k"]]);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function option(part) {
  const flat = ["bars", "stack", "waterfall"].includes(part.kind), many = part.series.length > 1;
  const axis = { type: "value", axisLabel: { formatter: (v) => written(v, part.unit), hideOverlap: true } };
  const limits = part.limits.map(([name, value]) => name + " " + written(value, part.unit)).join(", ");
  const named = !flat && (say(part.y) || limits) !== "";
  const made = {
    backgroundColor: "transparent", animation: false,
    series: [], aria: { enabled: true, decal: { show: many && flat } },
    grid: { left: 12, right: 30, top: (many ? 44 : 26) + (named && many ? 18 : 0), bottom: flat ? 8 : 34, containLabel: true },
    legend: many ? { type: "scroll", top: 0 } : undefined,
    tooltip: {
      trigger: part.kind === "stack" || part.kind === "lines" ? "axis" : "item", confine: true, renderMode: "richText",
      valueFormatter: (v) => written(Array.isArray(v) ? v[1] : v, part.unit),
    },
  };
  if (part.kind !== "stack" && part.kind !== "lines") made.tooltip.formatter = (one) => {
    if (!Array.isArray(one.value)) return one.name + "\n" + written(one.value, part.unit);
    return [one.seriesName, written(one.value[0], ""), written(one.value[1], part.unit), one.value[2] || ""].join("\n");
  };
  if (flat) {
    made.xAxis = axis;
    made.yAxis = { type: "category", data: part.categories, inverse: true, axisLabel: { width: window.innerWidth < 640 ? 110 : 220, overflow: "truncate" } };
    if (part.kind === "waterfall") {  // each bar begins where the one before it ends
      let sum = 0;
      const before = part.series[0].data.map((value) => { sum += value; return sum - value; });
      made.series.push({ type: "bar", data: before, stack: "all", silent: true, itemStyle: { color: "transparent" }, tooltip: { show: false } });
    }
    made.series = made.series.concat(part.series.map((each) => ({
      type: "bar", name: each.name, data: each.data, stack: part.kind === "bars" ? undefined : "all",
      label: part.kind !== "stack" && !many ? { show: true, position: "right", formatter: (one) => written(one.value, part.unit), color: colour("faint") } : undefined,
    })));
    if (part.kind !== "stack" && !many) made.grid.right = 72;
    return made;
  }
  made.xAxis = { type: "value", name: say(part.x), nameLocation: "middle", nameGap: 24, scale: true, axisLabel: { hideOverlap: true } };
  const top = Math.max(...part.limits.map(([, value]) => value)), full = (range) => (range.max > 0.6 ? Math.max(1, range.max) : undefined);
  const near = (range) => (top > range.max && top < 4 * range.max ? 1.05 * top : undefined);  // a limit far above would flatten the rest: its name alone says it
  made.yAxis = Object.assign({
    name: say(part.y) || limits, nameTextStyle: { align: "left", color: limits ? colour("bad") : undefined }, scale: part.kind === "points",
    max: part.unit === "ratio" ? full : part.limits.length ? near : undefined,
  }, axis);
  made.series = part.series.map((each, index) => ({
    type: part.kind === "lines" ? "line" : "scatter", name: each.name, data: each.data, showSymbol: false, symbolSize: each.marked ? 13 : 7, z: each.marked ? 3 : 2,
    itemStyle: each.marked ? { borderColor: colour("text"), borderWidth: 1 } : undefined,
    lineStyle: part.kind === "lines" ? { width: 1.8, type: ["solid", "dashed", "dotted"][index % 3] } : undefined,
    symbol: ["circle", "rect", "triangle", "diamond", "pin"][index % 5], large: each.data.length > 5000,
    markLine: part.limits.length && index === 0
      ? { symbol: "none", silent: true, lineStyle: { color: colour("bad"), type: "dashed" },
          data: part.limits.map(([, value]) => ({ yAxis: value, label: { show: false } })) } : undefined,
  }));
  return made;
}
function drawChart(part, view) {
  const box = make("div", view, undefined, "chart");
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", say(part.title));
  if (part.categories.length) box.style.height = Math.max(7, (part.series.length > 1 ? 5 : 3) + 1.7 * part.categories.length) + "rem";
  const chart = echarts.init(box, dark ? "dark" : null, { renderer: "canvas" });
  chart.setOption(option(part));
  charts.push(chart);
  return chart;
}
function drawTable(part, view) {
  const table = make("table", make("div", view, undefined, "scroll")), head = make("tr", make("thead", table)), body = make("tbody", table);
  const long = part.columns.map((_, index) => index > 0 && part.rows.some((row) => say(row[index]).length > 24));
  part.columns.forEach((words, index) => { make("th", head, say(words), long[index] ? "text" : "").scope = "col"; });
  part.rows.forEach((row) => { const line = make("tr", body); row.forEach((text, index) => make("td", line, say(text), long[index] ? "text" : "")); });
}
function drawPick(part, view) {
  const label = make("label", view), list = make("select", label), below = make("div", view, undefined, "grid");
  list.setAttribute("aria-label", say(part.title));
  part.names.forEach((name, index) => { make("option", list, name).value = String(index); });
  const show = () => {
    charts = charts.filter((each) => !below.contains(each.getDom()) || each.dispose());
    below.replaceChildren();
    part.choices[Number(list.value)].forEach((each) => draw(each, below));
    settle();
  };
  list.addEventListener("change", show);
  show();
  return (names) => {
    const index = part.names.findIndex((each) => names.includes(each));
    if (index >= 0) { list.value = String(index); show(); view.scrollIntoView({ block: "nearest" }); }
  };
}
function draw(part, view) {
  if (part.kind === "list" && !part.lines.length) return undefined;
  const box = make("div", view);
  box.dataset.kind = part.kind;
  if (["list", "spans", "picture", "pick"].includes(part.kind) || (part.kind === "table" && part.columns.length > 4) || part.wide) box.className = "wide";
  make("h2", box, say(part.title));
  if (part.kind === "table") return drawTable(part, box);
  if (part.kind === "spans") return spans(box, part.lanes, part.legend).add(unpacked(part.data));
  if (part.kind === "picture") {
    const drawn = new DOMParser().parseFromString(part.svg, "image/svg+xml").documentElement;
    drawn.setAttribute("role", "img"); drawn.setAttribute("aria-label", say(part.title));
    return box.append(document.importNode(drawn, true));
  }
  if (part.kind === "pick") return drawPick(part, box);
  if (part.kind === "list") {
    const list = make("ul", box);
    return part.lines.forEach((line) => make("li", list, line));
  }
  return drawChart(part, box);
}
function settle() { charts.forEach((chart) => chart.resize()); }
function clear() { charts.forEach((chart) => chart.dispose()); charts = []; }

function tabs(titles, shown, choose) {
  at("views").replaceChildren();
  titles.forEach((words, index) => {
    const tab = make("button", at("views"), say(words));
    tab.type = "button"; tab.setAttribute("role", "tab"); tab.setAttribute("aria-selected", String(index === shown));
    tab.tabIndex = index === shown ? 0 : -1;
    tab.addEventListener("click", () => choose(index));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: titles.length - 1 - index }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      choose((index + step + titles.length) % titles.length);
      at("views").querySelector("[aria-selected=true]").focus();
    });
  });
}
function dress() {
  document.documentElement.classList.toggle("dark", dark);
  document.documentElement.lang = language ? "zh" : "en";
  at("language").textContent = language ? "English" : "中文";
  document.querySelectorAll("[data-words]").forEach((each) => { each.textContent = each.dataset.words.split("|")[language]; });
}
function switches(render) {
  at("language").addEventListener("click", () => { language = 1 - language; render(); });
  at("theme").addEventListener("click", () => { dark = !dark; render(); });
  window.addEventListener("resize", settle);
}
