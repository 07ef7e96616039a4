"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tabs = document.getElementById("views"), view = document.getElementById("view");
  let language = (navigator.language || "en").startsWith("zh") ? 1 : 0;
  let dark = window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches;
  let shown = 0, charts = [];

  function say(words) { return words[language] || words[0]; }
  function make(tag, text, parent) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }
  function scaled(value, unit, steps) {
    const size = Math.abs(value);
    for (const [factor, prefix] of steps) if (size >= factor) return (value / factor).toPrecision(3) + " " + prefix + unit;
    return value.toPrecision(3) + " " + unit;
  }
  function written(value, unit) {
    if (value === 0) return "0";
    if (unit === "ratio") return (100 * value).toFixed(1) + " %";
    if (unit === "s") return scaled(value, "s", [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]]);
    if (unit === "B") return scaled(value, "B", [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]);
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  }
  function option(part) {
    const flat = part.kind === "bars" || part.kind === "stack";
    const axis = { type: "value", axisLabel: { formatter: (v) => written(v, part.unit), hideOverlap: true } };
    const many = part.series.length > 1;
    const made = {
      backgroundColor: "transparent", animation: false,
      aria: { enabled: true, decal: { show: many } },
      grid: { left: 12, right: 24, top: many ? 56 : 24, bottom: 36, containLabel: true },
      legend: many ? { type: "scroll", top: 0 } : undefined,
      tooltip: {
        trigger: flat && part.kind === "stack" ? "axis" : "item", confine: true, renderMode: "richText",
        formatter: part.kind === "stack" ? undefined : (at) => {
          const value = at.value;
          if (!Array.isArray(value)) return at.name + "\n" + written(value, part.unit);
          return [at.seriesName, written(value[0], ""), written(value[1], part.unit), value[2] || ""].join("\n");
        },
        valueFormatter: (v) => written(v, part.unit),
      },
    };
    if (flat) {
      made.xAxis = axis;
      made.yAxis = { type: "category", data: part.categories, inverse: true, axisLabel: { width: 220, overflow: "truncate" } };
      made.series = part.series.map((each) => ({ type: "bar", name: each.name, data: each.data, stack: part.kind === "stack" ? "all" : undefined }));
      return made;
    }
    made.xAxis = { type: "value", name: say(part.x), nameLocation: "middle", nameGap: 26, scale: true };
    made.yAxis = Object.assign({ name: say(part.y), nameTextStyle: { align: "left" }, scale: part.kind === "points" }, axis);
    made.series = part.series.map((each, index) => ({
      type: part.kind === "lines" ? "line" : "scatter", name: each.name, data: each.data, showSymbol: false, symbolSize: 7,
      symbol: ["circle", "rect", "triangle", "diamond", "pin"][index % 5], large: each.data.length > 5000,
      markLine: part.limits.length && index === 0
        ? { symbol: "none", data: part.limits.map(([name, value]) => ({ yAxis: value, name: name, label: { formatter: name } })) } : undefined,
    }));
    return made;
  }
  function draw(part) {
    if (part.kind === "list" && !part.lines.length) return;
    make("h2", say(part.title), view);
    if (part.kind === "list") {
      const list = make("ul", undefined, view);
      part.lines.forEach((line) => make("li", line, list));
    } else if (part.kind === "table") {
      const box = make("div", undefined, view); box.className = "scroll";
      const table = make("table", undefined, box), head = make("tr", undefined, make("thead", undefined, table));
      part.columns.forEach((words) => { make("th", say(words), head).scope = "col"; });
      const body = make("tbody", undefined, table);
      part.rows.forEach((row) => { const line = make("tr", undefined, body); row.forEach((text) => make("td", text, line)); });
    } else {
      const box = make("div", undefined, view); box.className = "chart"; box.setAttribute("role", "img");
      box.setAttribute("aria-label", say(part.title));
      if (part.categories.length) box.style.height = Math.max(9, 5 + 1.7 * part.categories.length) + "rem";
      const chart = echarts.init(box, dark ? "dark" : null, { renderer: "canvas" });
      chart.setOption(option(part));
      charts.push(chart);
    }
  }
  function render() {
    document.documentElement.classList.toggle("dark", dark);
    document.documentElement.lang = language ? "zh" : "en";
    document.getElementById("language").textContent = language ? "English" : "中文";
    charts.forEach((chart) => chart.dispose());
    charts = [];
    tabs.replaceChildren(); view.replaceChildren();
    data.sections.forEach((section, index) => {
      const tab = make("button", say(section.title), tabs);
      tab.type = "button"; tab.setAttribute("role", "tab"); tab.setAttribute("aria-selected", String(index === shown));
      tab.addEventListener("click", () => { shown = index; render(); view.focus({ preventScroll: true }); });
    });
    data.sections[shown].parts.forEach(draw);
  }
  document.getElementById("language").addEventListener("click", () => { language = 1 - language; render(); });
  document.getElementById("theme").addEventListener("click", () => { dark = !dark; render(); });
  window.addEventListener("resize", () => charts.forEach((chart) => chart.resize()));
  window.taicang = { charts: () => charts, data: data };
  render();
})();
