"use strict";
(function () {
  const EVERY_MS = 50, WINDOW_S = 1;
  const at = (id) => document.getElementById(id);
  let language = (navigator.language || "en").startsWith("zh") ? 1 : 0;
  let dark = window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches;
  let shown = "machine", layout = null, model = "", chosen = -1, updates = 0, past = [], states = {};
  const cells = [], lines = {};
  const WORDS = {
    machine: ["Machine", "机器"], try: ["Try it", "试一试"], instance: ["instance", "实例"], state: ["state", "状态"],
    running: ["running", "运行"], waiting: ["waiting", "等待"], load: ["load", "负载"], memory: ["memory", "显存"],
    chips: ["NPUs", "NPU"], up: ["up", "正常"], down: ["down", "故障"], drained: ["drained", "排空"], leaving: ["leaving", "切换中"],
    lost: ["the endpoint does not answer", "端点无响应"],
  };
  const COLUMNS = ["instance", "state", "running", "waiting", "load", "memory", "chips"];
  const say = (key) => (WORDS[key] || [key, key])[language];
  const percent = (ratio) => (100 * ratio).toFixed(0) + " %";

  function headers() { return at("key").value ? { Authorization: "Bearer " + at("key").value } : {}; }
  async function ask(path, body) {
    const given = body === undefined ? { headers: headers() }
      : { method: "POST", headers: Object.assign({ "Content-Type": "application/json" }, headers()), body: JSON.stringify(body) };
    const answer = await fetch(path, given);
    if (answer.status === 401) at("keyed").hidden = false;
    if (!answer.ok) throw new Error(((await answer.json()).error || {}).message || String(answer.status));
    return answer;
  }
  function make(tag, parent, text) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  function note(text) {
    const log = at("log");
    log.prepend(Object.assign(document.createElement("li"), { textContent: text }));
    while (log.children.length > 50) log.lastChild.remove();
  }
  function words() {
    document.documentElement.classList.toggle("dark", dark);
    document.documentElement.lang = language ? "zh" : "en";
    at("language").textContent = language ? "English" : "中文";
    document.querySelectorAll("[data-words]").forEach((each) => { each.textContent = each.dataset.words.split("|")[language]; });
    at("heads").replaceChildren();
    COLUMNS.forEach((key) => { make("th", at("heads"), say(key)).scope = "col"; });
    at("views").replaceChildren();
    ["machine", "try"].forEach((key) => {
      const tab = make("button", at("views"), say(key));
      tab.type = "button"; tab.setAttribute("role", "tab"); tab.setAttribute("aria-selected", String(key === shown));
      tab.addEventListener("click", () => { shown = key; words(); });
      at(key).hidden = key !== shown;
    });
  }
  function place() {
    at("name").textContent = "taicang · " + model + " · " + layout.machine;
    const row = Math.min(layout.chips_per_node, layout.chips_per_rack);
    for (let first = 0; first < layout.chips; first += layout.chips_per_rack) {
      const rack = make("div", at("chips"));
      rack.className = "rack"; rack.setAttribute("role", "group"); rack.setAttribute("aria-label", "rack " + first / layout.chips_per_rack);
      for (let node = first; node < Math.min(first + layout.chips_per_rack, layout.chips); node += row) {
        const line = make("div", rack);
        for (let chip = node; chip < Math.min(node + row, layout.chips); chip += 1) {
          const cell = make("button", line);
          cell.type = "button";
          cell.addEventListener("click", () => { chosen = chip; });
          cells.push({ node: cell, holders: [] });
        }
      }
    }
    Object.entries(layout.instances).forEach(([name, [begin, end]]) => {
      for (let chip = begin; chip < end; chip += 1) cells[chip].holders.push(Number(name));
    });
  }
  function busy(now) {
    past.push({ s: now.machine_s, busy: Object.fromEntries(now.instances.map((each) => [each.instance, each.busy_s])) });
    while (past.length > 2 && past[1].s < now.machine_s - WINDOW_S) past.shift();
    const then = past[0], span = now.machine_s - then.s;
    return Object.fromEntries(now.instances.map((each) =>
      [each.instance, span > 0 ? Math.min(Math.max((each.busy_s - (then.busy[each.instance] || 0)) / span, 0), 1) : 0]));
  }
  function draw(now) {
    const loads = busy(now), by = at("by").value, known = {};
    now.instances.forEach((each) => {
      known[each.instance] = each;
      if (states[each.instance] && states[each.instance] !== each.state)
        note(now.machine_s.toFixed(1) + " s: " + say("instance") + " " + each.instance + " " + say(each.state));
      states[each.instance] = each.state;
      let line = lines[each.instance];
      if (!line) {
        line = lines[each.instance] = make("tr", at("rows"));
        COLUMNS.forEach(() => make("td", line));
      }
      const span = layout.instances[each.instance] || [0, 0];
      [each.instance, say(each.state), each.running, each.waiting, percent(loads[each.instance]), percent(each.cache_ratio), span[0] + "–" + (span[1] - 1)]
        .forEach((text, index) => { line.children[index].textContent = text; });
    });
    const measure = {
      load: (each) => loads[each.instance], memory: (each) => each.cache_ratio,
      queue: (each) => each.waiting / (each.waiting + 8), fault: (each) => (each.state === "up" ? 0 : 1),
    }[by];
    cells.forEach((cell, chip) => {
      const held = cell.holders.map((name) => known[name]).filter(Boolean);
      const down = held.some((each) => each.state === "down");
      const part = held.length ? Math.max(...held.map(measure)) : 0;
      const text = down ? "×" : held.length ? String(Math.round(9 * part)) : "·";
      if (cell.text !== text || cell.part !== part) {
        cell.text = text; cell.part = part;
        cell.node.textContent = text;
        cell.node.style.setProperty("--part", (80 * part).toFixed(0) + "%");
        cell.node.classList.toggle("down", down);
        cell.node.setAttribute("aria-label", say("chips") + " " + chip + ": " + (down ? say("down") : say(by) + " " + percent(part)));
      }
      cell.node.classList.toggle("chosen", chip === chosen);
    });
    if (chosen >= 0)
      at("chosen").textContent = say("chips") + " " + chosen + ": " + cells[chosen].holders.map((name) => say("instance") + " " + name + ", "
        + say(known[name].state) + ", " + say("running") + " " + known[name].running + ", " + say("waiting") + " " + known[name].waiting + ", "
        + say("memory") + " " + percent(known[name].cache_ratio)).join("; ");
    at("now").textContent = now.machine_s.toFixed(2) + " s × " + now.speed + " · " + now.requests + " ▸ " + now.ended;
    updates += 1;
    document.body.dataset.updates = String(updates);
  }
  async function follow() {
    const began = performance.now();
    try {
      if (!layout) {
        model = (await (await ask("/v1/models")).json()).data[0].id;
        layout = await (await ask("/admin/layout")).json();
        place();
      }
      draw(await (await ask("/admin/state")).json());
    } catch (error) {
      at("now").textContent = say("lost") + ": " + error.message;
      await new Promise((next) => setTimeout(next, 1000));
    }
    setTimeout(follow, Math.max(EVERY_MS - (performance.now() - began), 0));
  }
  async function chat() {
    const began = performance.now(), most = Number(at("tokens").value);
    let first = 0, count = 0, rest = "";
    at("answer").textContent = "";
    const answer = await ask("/v1/chat/completions", { model: model, stream: true, max_tokens: most, messages: [{ role: "user", content: at("said").value }] });
    const reader = answer.body.getReader(), text = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += text.decode(value, { stream: true });
      const parts = rest.split("\n\n");
      rest = parts.pop();
      parts.filter((part) => part.startsWith("data: {")).forEach((part) => {
        const piece = ((JSON.parse(part.slice(6)).choices || [])[0] || { delta: {} }).delta.content;
        if (!piece) return;
        first = first || performance.now(); count += 1;
        at("answer").textContent += piece;
      });
      if (count > 1) at("took").textContent = "TTFT " + (first - began).toFixed(0) + " ms · TPOT " + ((performance.now() - first) / (count - 1)).toFixed(1) + " ms · " + count;
    }
  }
  function on(id, kind, act) {
    at(id).addEventListener(kind, (event) => { event.preventDefault(); Promise.resolve(act()).catch((error) => note(error.message)); });
  }
  on("keyed", "submit", () => undefined);
  on("chat", "submit", chat);
  on("trouble", "submit", async () => {
    const part = at("part").value, number = Number(at("number").value), lasts = Number(at("lasts").value);
    await ask("/admin/fail", part === "instance" ? { instance: number, for_s: lasts } : { part: part, number: number, for_s: lasts });
    note(part + " " + number + " " + say("down"));
  });
  on("rate", "change", () => ask("/admin/background", Number(at("rate").value) ? { load: at("profile").value + "@" + at("rate").value + "/s" } : {}));
  on("rate", "input", () => { at("rated").textContent = at("rate").value; });
  on("speed", "input", () => { at("sped").textContent = String(Number((2 ** at("speed").value).toPrecision(3))); });
  on("speed", "change", () => ask("/admin/speed", { speed: 2 ** at("speed").value }));
  at("language").addEventListener("click", () => { language = 1 - language; cells.forEach((cell) => { cell.text = ""; }); words(); });
  at("theme").addEventListener("click", () => { dark = !dark; words(); });
  words();
  follow();
})();
