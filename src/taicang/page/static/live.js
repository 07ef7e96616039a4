(function () {
  const EVERY_MS = 50, KEPT = 1200, SPAN_S = 30, LINKS_MS = 500, DRAW_MS = 8;
  const VIEWS = ["machine", "traffic", "requests", "links", "try"];
  const WORDS = {
    machine: ["Machine", "机器"], traffic: ["Traffic", "流量"], requests: ["Requests", "请求"], links: ["Links", "链路"], try: ["Try it", "试一试"],
    instance: ["instance", "实例"], state: ["state", "状态"], running: ["running", "运行"], waiting: ["waiting", "等待"], load: ["load", "负载"],
    memory: ["memory", "显存"], queue: ["queue", "队列"], fault: ["faults", "故障"], chips: ["NPUs", "NPU"], up: ["up", "正常"], down: ["down", "故障"],
    drained: ["drained", "排空"], leaving: ["leaving", "切换中"], lost: ["the endpoint does not answer", "端点无响应"], node: ["node", "节点"],
    rank: ["rank", "rank"], requestsHere: ["requests", "请求"], link: ["link", "链路"], busy: ["busy", "忙碌"], hottest: ["hottest links", "最热链路"],
    bus: ["links of the bus, over the last 5 s of the machine", "总线各链路（机器时间最近 5 s）"], idle: ["nothing on the links", "链路空闲"],
    time: ["machine time", "机器时间"], serving: ["instances serve", "个实例在服务"], came: ["requests came", "个请求到达"], ended: ["ended", "个结束"], behind: ["the host is behind by", "主机落后"],
    legend: ["Half height: the prompt is read; full height: the answer is made.", "半高：处理输入；全高：生成输出。"],
    timeline: ["requests on their instances", "各实例的请求时间线"], rack: ["cabinet", "机柜"], group: ["group", "组"],
  };
  const COLUMNS = ["instance", "state", "running", "waiting", "load", "memory", "chips"];
  let shown = "machine", layout = null, model = "", chosen = -1, node = null, updates = 0, due = 0, since = 0, after = 0, states = {}, linked = 0;
  let wanted = [], drawn = [], turn = 0, line = null, fabric = null, past = [];
  const cells = [], lines = {};
  const word = (key) => say(WORDS[key] || [key, key]);
  const percent = (ratio) => (100 * ratio).toFixed(0) + " %";

  async function ask(path, body) {
    const key = at("key").value ? { Authorization: "Bearer " + at("key").value } : {};
    const given = body === undefined ? { headers: key }
      : { method: "POST", headers: Object.assign({ "Content-Type": "application/json" }, key), body: JSON.stringify(body) };
    const answer = await fetch(path, given);
    if (answer.status === 401) at("keyed").hidden = false;
    if (!answer.ok) throw new Error(((await answer.json()).error || {}).message || String(answer.status));
    return answer;
  }
  const told = async (path) => (await ask(path)).json();
  function note(text) {
    at("log").prepend(make("li", null, text));
    while (at("log").children.length > 50) at("log").lastChild.remove();
  }
  function render() {
    dress();
    tabs(VIEWS.map((key) => WORDS[key]), VIEWS.indexOf(shown), (index) => { shown = VIEWS[index]; render(); });
    VIEWS.forEach((key) => { at(key).hidden = key !== shown; });
    at("heads").replaceChildren();
    COLUMNS.forEach((key) => { make("th", at("heads"), word(key)).scope = "col"; });
    cells.forEach((cell) => { cell.text = ""; });
    document.querySelectorAll(".rack > span").forEach((each, index) => { each.textContent = word("rack") + " " + index; });
    clear();
    at("traffic").replaceChildren();
    at("requests").replaceChildren();
    at("links").replaceChildren();
    drawn = []; line = fabric = null; linked = 0;
    if (!layout) return;
    if (shown === "traffic") { drawn = wanted.map((part) => draw(part, at("traffic"))); settle(); }
    if (shown === "requests") {
      make("h2", at("requests"), word("timeline"));
      line = spans(at("requests"), Object.keys(layout.instances), WORDS.legend);
      line.add(past);
    }
    if (shown === "links") {
      make("h2", at("links"), word("bus"));
      fabric = { rows: tiers(at("links")), said: make("p", at("links"), "", "said"), table: make("div", at("links")) };
    }
  }
  function place() {
    at("name").textContent = "taicang · " + model + " · " + layout.machine;
    const row = Math.min(layout.chips_per_node, layout.chips_per_rack);
    for (let first = 0; first < layout.chips; first += layout.chips_per_rack) {
      const rack = make("div", at("chips"), undefined, "rack");
      rack.setAttribute("role", "group");
      make("span", rack, word("rack") + " " + first / layout.chips_per_rack);
      for (let begin = first; begin < Math.min(first + layout.chips_per_rack, layout.chips); begin += row) {
        const strip = make("div", rack);
        for (let chip = begin; chip < Math.min(begin + row, layout.chips); chip += 1) {
          const cell = make("button", strip);
          cell.type = "button";
          cell.tabIndex = chip ? -1 : 0;  // one stop for all; arrows move among them
          cell.addEventListener("keydown", (event) => {
            const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -chip, End: layout.chips - 1 - chip }[event.key];
            if (step === undefined || !cells[chip + step]) return;
            event.preventDefault();
            cell.tabIndex = -1; cells[chip + step].node.tabIndex = 0; cells[chip + step].node.focus();
          });
          cell.addEventListener("click", () => { chosen = chip; node = null; lookAt().catch((error) => note(error.message)); });
          cells.push({ node: cell, holders: [] });
        }
      }
    }
    Object.entries(layout.instances).forEach(([name, [begin, end]]) => {
      for (let chip = begin; chip < end; chip += 1) cells[chip].holders.push({ name: Number(name), share: (chip - begin) / (end - begin) });
    });
  }
  async function lookAt() {
    const number = Math.floor(chosen / layout.chips_per_node);
    node = await told("/admin/node?number=" + number);
    at("node").replaceChildren();
    make("h2", at("node"), word("node") + " " + number);
    drawTable({
      columns: ["NPU", word("rank"), word("instance"), word("group"), word("running"), word("waiting"), word("memory"), word("requestsHere")],
      rows: node.ranks.map((each, index) => {
        const before = node.ranks[index - 1] || {};
        const chip = String(Math.floor(each.rank / node.dies)) + (Math.floor(each.rank / node.dies) === chosen ? " ◂" : "");
        if (each.instance === null) return [chip, String(each.rank), "–", "–", "–", "–", "–", "–"];
        const named = each.requests.map((one) => "#" + one.request + " (" + one.prompt_tokens + " → " + one.answer_tokens + ")").join(", ");
        return [chip, String(each.rank), String(each.instance), String(each.group), String(each.running), String(each.waiting), percent(each.cache_ratio), each.instance === before.instance && each.group === before.group ? "″" : named || "–"];
      }),
    }, at("node"));
  }
  function show(now) {
    const known = {}, by = at("by").value;
    now.instances.forEach((each) => {
      known[each.instance] = each;
      if (states[each.instance] && states[each.instance] !== each.state)
        note(now.machine_s.toFixed(1) + " s: " + word("instance") + " " + each.instance + " " + word(each.state));
      states[each.instance] = each.state;
      let row = lines[each.instance];
      if (!row) {
        row = lines[each.instance] = make("tr", at("rows"));
        COLUMNS.forEach(() => make("td", row));
      }
      const span = layout.instances[each.instance] || [0, 0];
      [each.instance, word(each.state), each.running, each.waiting, percent(each.load_ratio), percent(each.cache_ratio), span[0] + "–" + (span[1] - 1)]
        .forEach((text, index) => { row.children[index].textContent = text; });
    });
    const measure = {
      load: (each) => each.load_ratio, memory: (each, group) => group[2], queue: (each, group) => group[1] / (group[1] + 8),
      fault: (each) => (each.state === "up" ? 0 : 1),
    }[by];
    if (shown === "machine") cells.forEach((cell, chip) => {
      const held = cell.holders.filter((one) => known[one.name]);
      const down = held.some((one) => known[one.name].state === "down");
      const part = held.length ? Math.max(...held.map((one) => {
        const each = known[one.name];
        return measure(each, each.groups[Math.floor(one.share * each.groups.length)]);
      })) : 0;
      const text = down ? "×" : held.length ? String(Math.round(9 * part)) : "·";
      if (cell.text !== text || cell.part !== part) {
        cell.text = text; cell.part = part;
        cell.node.textContent = text;
        cell.node.style.setProperty("--part", (80 * part).toFixed(0) + "%");
        cell.node.classList.toggle("down", down);
        cell.node.setAttribute("aria-label", "NPU " + chip + ": " + (down ? word("down") : word(by) + " " + percent(part)));
      }
      cell.node.classList.toggle("chosen", chip === chosen);
    });
    if (!updates && now.background) {
      at("profile").value = now.background.load;
      at("rate").value = at("rated").textContent = String(Math.round(now.background.per_s));
    }
    const up = now.instances.filter((each) => each.state === "up").length;
    at("now").textContent = word("time") + " " + now.machine_s.toFixed(2) + " s (× " + Number(now.speed.toPrecision(3)) + ") · " + up + " / " + now.instances.length + " " + word("serving")
      + " · " + now.requests.toLocaleString("en") + " " + word("came") + ", " + now.ended.toLocaleString("en") + " " + word("ended") + (now.behind_s > 0.1 ? " · " + word("behind") + " " + written(now.behind_s, "s") : "");
  }
  function follow(now) {
    wanted.forEach((part) => part.series.forEach((each) => {
      const value = now.traffic[each.key];
      each.data.push([now.machine_s, value === undefined ? null : value]);
      if (each.data.length > KEPT) each.data.splice(0, each.data.length - KEPT);
    }));
    const began = performance.now();
    for (let count = 0; count < drawn.length && (!count || performance.now() - began < DRAW_MS); count += 1) {  // in turn, so that each update stays short
      turn = (turn + 1) % drawn.length;
      drawn[turn].setOption({ series: wanted[turn].series.map((each) => ({ data: each.data })) }, { lazyUpdate: false, silent: true });
    }
    since = now.next; after = now.after;
    const names = Object.keys(layout.instances), rows = now.ended_rows.map((row) => [row[0], row[1], row[2], names.indexOf(String(row[3]))]);
    past = past.concat(rows);
    if (past.length > 100000) past = past.slice(-80000);
    if (line) { line.add(rows); line.follow(now.machine_s, SPAN_S); }
  }
  async function lookAtRequests() {
    const found = await told("/admin/running"), names = Object.keys(layout.instances);
    if (line) line.running(found.map((row) => [row[0], row[1], row[2], names.indexOf(String(row[3]))]));
  }
  async function look() {
    if (!fabric || performance.now() - linked < LINKS_MS) return;
    linked = performance.now();
    const found = await told("/admin/links");
    if (!fabric) return;
    if (found.reason) { fabric.said.textContent = found.reason; return; }
    fabric.rows.show(found.rows);
    fabric.said.textContent = say(found.note);
    fabric.table.replaceChildren();
    make("h2", fabric.table, word("hottest"));
    if (found.hottest.length) drawTable({ columns: [word("link"), word("busy")], rows: found.hottest.map(([name, part, alike]) => [name + (alike ? say([", and " + alike + " alike", "，另有 " + alike + " 条相同"]) : ""), written(part, "ratio")]) }, fabric.table);
    else make("p", fabric.table, word("idle"));
  }
  async function go() {
    try {
      if (!layout) {
        model = (await told("/v1/models")).data[0].id;
        [layout, wanted] = await Promise.all([told("/admin/layout"), told("/admin/charts")]);
        place();
        render();
      }
      const now = await told("/admin/watch?since=" + since + "&after=" + after);
      show(now);
      follow(now);
      if (shown === "links") await look();
      if (shown === "requests" && updates % 5 === 0) await lookAtRequests();
      if (shown === "machine" && chosen >= 0 && updates % 10 === 0) await lookAt();
      updates += 1;
      document.body.dataset.updates = String(updates);
    } catch (error) {
      at("now").textContent = word("lost") + ": " + error.message;
      await new Promise((next) => setTimeout(next, 1000));
    }
    due = Math.max(due + EVERY_MS, performance.now());
    setTimeout(go, due - performance.now());
  }
  async function chat() {
    const began = performance.now(), most = Number(at("tokens").value);
    let first = 0, last = 0, made = 0, rest = "";
    at("answer").textContent = at("took").textContent = "";
    const answer = await ask("/v1/chat/completions", {
      model: model, stream: true, stream_options: { include_usage: true }, max_tokens: most, messages: [{ role: "user", content: at("said").value }],
    });
    const reader = answer.body.getReader(), text = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += text.decode(value, { stream: true });
      const parts = rest.split("\n\n");
      rest = parts.pop();
      parts.filter((part) => part.startsWith("data: {")).forEach((part) => {
        const told = JSON.parse(part.slice(6)), piece = ((told.choices || [])[0] || { delta: {} }).delta.content;
        if (told.usage) made = told.usage.completion_tokens;  // a step with drafts makes several tokens of one part
        if (!piece) return;
        last = performance.now(); first = first || last;
        at("answer").textContent += piece;
      });
    }
    if (first) at("took").textContent = "TTFT " + (first - began).toFixed(0) + " ms · TPOT " + ((last - first) / Math.max(made - 1, 1)).toFixed(1) + " ms · " + made + " tokens";
  }
  function on(id, kind, act) {
    at(id).addEventListener(kind, (event) => { event.preventDefault(); Promise.resolve(act()).catch((error) => note(error.message)); });
  }
  on("keyed", "submit", () => undefined);
  on("chat", "submit", chat);
  on("trouble", "submit", async () => {
    const part = at("part").value, number = Number(at("number").value), lasts = Number(at("lasts").value);
    await ask("/admin/fail", part === "instance" ? { instance: number, for_s: lasts } : { part: part, number: number, for_s: lasts });
    note(at("part").selectedOptions[0].textContent + " " + number + ": " + word("down"));
  });
  on("rate", "change", () => ask("/admin/background", Number(at("rate").value) ? { load: at("profile").value + "@" + at("rate").value + "/s" } : {}));
  on("rate", "input", () => { at("rated").textContent = at("rate").value; });
  on("speed", "input", () => { at("sped").textContent = String(Number((2 ** at("speed").value).toPrecision(3))); });
  on("speed", "change", () => ask("/admin/speed", { speed: 2 ** at("speed").value }));
  switches(render);
  render();
  go();
})();
