// What is drawn by hand: requests as spans, and the links of a fabric as cells.
function unpacked(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length), rows = [];
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  const values = new Float64Array(bytes.buffer);
  for (let i = 0; i < values.length; i += 4) rows.push([values[i], values[i + 1], values[i + 2], values[i + 3]]);
  return rows;
}
function surface(box, height, words) {
  const canvas = make("canvas", box, undefined, "own");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  const said = make("p", box, words, "said"), pen = canvas.getContext("2d");
  said.setAttribute("aria-live", "polite");
  function fit() {
    const ratio = window.devicePixelRatio || 1, wide = canvas.clientWidth || 600, high = typeof height === "function" ? height() : height;
    canvas.style.height = high + "px";
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
      canvas.width = Math.round(wide * ratio); canvas.height = Math.round(high * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, wide, high);
    pen.font = "12px system-ui, sans-serif";
    return [wide, high];
  }
  return { canvas, said, pen, fit };
}

// Rows of [first step, first token, end, lane] in order of their ends; each lane is as high as it has requests at once.
function spans(box, names, legend) {
  const LEFT = 64, BOTTOM = 22, HIGH = 420;
  const words = () => say(legend) + say([" Wheel or + and −: zoom; drag or arrows: move; 0: all.", "滚轮或 +、−：缩放；拖动或方向键：移动；0：全部。"]);
  const bar = make("div", box, undefined, "bar"), { canvas, said, pen, fit } = surface(box, room, words());
  const lanes = names.map(() => []);
  let most = 0;
  let running = [], from = 0, to = 1, last = 0, first = Infinity, count = 0, moved = false, held = null, waits = false, only = -1, took = 0;
  const pick = make("select", make("label", bar, say(["show", "显示"])));
  ["–", ...names].forEach((name, index) => { make("option", pick, index ? name : say(["all", "全部"])).value = String(index - 1); });
  pick.addEventListener("change", () => { only = Number(pick.value); soon(); });
  function button(text, about, act) {
    const made = make("button", bar, text);
    made.type = "button"; made.setAttribute("aria-label", about); made.addEventListener("click", act);
  }
  function put(row) {
    const lane = lanes[row[3]];
    if (!lane) return;
    let line = lane.find((each) => each[each.length - 1][2] <= row[0] + 1e-9);
    if (!line) lane.push(line = []);
    line.push(row);
    first = Math.min(first, row[0]); last = Math.max(last, row[2]); count += 1;
  }
  // What is under way takes, for now, the first line of its lane that is free: [lines, index, those] of each lane shown.
  function shown() {
    const free = lanes.map((lane) => lane.map((line) => line[line.length - 1][2])), now = lanes.map(() => []);
    for (const row of running) {
      if (!lanes[row[3]]) continue;
      let number = free[row[3]].findIndex((end) => end <= row[0]);
      if (number < 0) number = free[row[3]].length;
      free[row[3]][number] = Infinity;
      now[row[3]][number] = row;
    }
    return lanes.map((lane, index) => [free[index].map((_, number) => (now[index][number] ? (lane[number] || []).concat([now[index][number]]) : lane[number])), index])
      .filter(([, index]) => only < 0 || index === only);
  }
  function room() {  // few lines need little; it never shrinks, so that nothing jumps
    most = Math.max(most, lanes.reduce((sum, lane) => sum + lane.length, 0), lanes.length);
    return Math.min(HIGH, BOTTOM + 56 * Math.max(most, 2));
  }
  // Each lane has room for its name where there are few, and more by how many requests it has at once.
  function placed(high) {
    const list = shown(), least = list.length > 1 ? Math.min(16, (high - BOTTOM) / list.length) : high - BOTTOM;
    const rows = list.reduce((sum, [lane]) => sum + lane.length, 0) || 1, rest = high - BOTTOM - least * list.length;
    let y = 0;
    return list.map(([lane, index]) => {
      const whole = least + rest * lane.length / rows, one = { lane, index, y, whole, tall: (whole - 2) / Math.max(lane.length, 1) };
      y += whole;
      return one;
    });
  }
  function begin(line, when) {
    let low = 0, high = line.length;
    while (low < high) { const middle = (low + high) >> 1; if (line[middle][2] < when) low = middle + 1; else high = middle; }
    return low;
  }
  function paint() {
    waits = false;
    const began = performance.now(), [wide, high] = fit(), scale = (wide - LEFT) / (to - from || 1), reads = new Path2D(), makes = new Path2D();
    pen.fillStyle = colour("text"); pen.textBaseline = "middle"; pen.textAlign = "left";
    let named = -20;
    for (const { lane, index, y, whole, tall } of placed(high)) {
      if (y + whole / 2 - named >= 14) { pen.fillText(names[index].slice(0, 8), 6, y + whole / 2); named = y + whole / 2; }
      let drawn = -1;
      for (let number = 0; number < lane.length; number += 1) {
        const top = y + number * tall, pixel = Math.floor(top);
        if (pixel === drawn) continue;  // lines that share a pixel: the first stands for them
        drawn = pixel;
        const line = lane[number], box_high = Math.min(Math.max(tall - (tall > 4 ? 1 : 0), 1), 48);
        let reached = -1;
        for (let i = begin(line, from); i < line.length && line[i][0] < to; i += 1) {
          const [a, b, c] = line[i], left = Math.max(LEFT + (a - from) * scale, LEFT), right = LEFT + (c - from) * scale;
          if (right - reached < 1) continue;  // smaller than a pixel, beside what is drawn
          const cut = Math.max(LEFT + (b - from) * scale, left);
          if (cut > left) reads.rect(left, top + box_high / 2, Math.max(cut - left, 0.7), Math.max(box_high / 2, 0.7));
          if (right > cut) makes.rect(cut, top, Math.max(right - cut - (right - cut > 4 ? 1 : 0), 0.7), box_high);
          reached = right;
        }
      }
    }
    pen.fillStyle = colour("second"); pen.fill(reads);
    pen.fillStyle = colour("mark"); pen.fill(makes);
    pen.fillStyle = colour("faint");
    const step = 10 ** Math.floor(Math.log10((to - from) / 4 || 1)), every = (to - from) / step > 12 ? 5 * step : (to - from) / step > 6 ? 2 * step : step;
    for (let tick = Math.ceil(from / every) * every; tick < to; tick += every)
      pen.fillText(written(Number(tick.toPrecision(8)), "s"), LEFT + (tick - from) * scale, high - BOTTOM / 2);
    took = performance.now() - began;
    canvas.dataset.spans = String(count);
    canvas.dataset.took = took.toFixed(1);
  }
  function soon() { if (!waits) { waits = true; requestAnimationFrame(paint); } }
  function all() { from = Number.isFinite(first) ? first : 0; to = Math.max(last, from + 1e-3); moved = false; soon(); }
  function zoom(ratio, middle = (from + to) / 2) { from = middle - (middle - from) * ratio; to = middle + (to - middle) * ratio; moved = true; soon(); }
  function move(share) { const by = share * (to - from); from += by; to += by; moved = true; soon(); }
  function when(event) { return from + (event.offsetX - LEFT) / (canvas.clientWidth - LEFT) * (to - from); }
  function find(event) {
    const time = when(event), one = placed(HIGH).find((each) => event.offsetY >= each.y && event.offsetY < each.y + each.whole);
    const line = one && one.lane[Math.floor((event.offsetY - one.y) / one.tall)], span = line && line[begin(line, time)];
    return span && span[0] <= time ? [span, names[one.index]] : null;
  }
  button("+", say(["zoom in", "放大"]), () => zoom(0.5));
  button("−", say(["zoom out", "缩小"]), () => zoom(2));
  button("◂", say(["earlier", "更早"]), () => move(-0.3));
  button("▸", say(["later", "更晚"]), () => move(0.3));
  button(say(["all", "全部"]), say(["all", "全部"]), all);
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : 0.8, when(event)); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { held = event.offsetX; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (held !== null) { move((held - event.offsetX) / (canvas.clientWidth - LEFT)); held = event.offsetX; return; }
    const found = find(event);
    said.textContent = found ? found[1] + ": " + written(found[0][0], "s") + " – " + written(found[0][2], "s") + " ("
      + written(found[0][1] - found[0][0], "s") + " + " + written(found[0][2] - found[0][1], "s") + ")" : words();
  });
  canvas.addEventListener("keydown", (event) => {
    const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), 0: all }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  window.addEventListener("resize", soon);
  const made = {
    add(rows) { rows.forEach(put); if (!moved) all(); else soon(); return made; },
    follow(now, width) { running.forEach((row) => { row[2] = now; }); if (!moved) { to = now; from = now - width; soon(); } },
    running(rows) { running = rows; },
    paint,
  };
  window.timeline = made;
  return made;
}

// Rows of cells, a cell for each port or switch: the darker, the busier the link.
function tiers(box) {
  const LEFT = window.innerWidth < 640 ? 8 : 170, ROW = 64, CELL = 18;
  let rows = [];
  const words = () => say(["Upper line: up; lower line: down. Numbers: per cent of the time that the fullest link of a cell is busy; ×: failed. Point at a cell to read it.",
    "上行：向上；下行：向下。数字：该格最忙链路忙碌时间的百分比；×：故障。指向单元格可读数。"]);
  const { canvas, said, pen, fit } = surface(box, () => 16 + ROW * Math.max(rows.length, 1), words());
  function place(event) {
    const row = rows[Math.floor((event.offsetY - 8) / ROW)];
    const line = row && row.lines[Math.floor((event.offsetY - 8 - ROW * rows.indexOf(row) - 18) / (CELL + 2))];
    if (!line) return null;
    const index = Math.floor((event.offsetX - LEFT) / (canvas.clientWidth - LEFT - 8) * line.busy.length);
    return line.busy[index] === undefined ? null : [row, line, index];
  }
  function paint() {
    const [wide] = fit();
    rows.forEach((row, number) => {
      const y = 8 + ROW * number;
      pen.textAlign = "left"; pen.textBaseline = "alphabetic"; pen.fillStyle = colour("text");
      pen.fillText(row.label, 8, LEFT > 8 ? y + 32 : y + 12);
      row.lines.forEach((line, at_line) => {
        const cell = (wide - LEFT - 8) / line.busy.length, top = y + 18 + at_line * (CELL + 2), dead = new Set(line.dead);
        pen.textAlign = "center"; pen.textBaseline = "middle";
        line.busy.forEach((part, index) => {
          const left = LEFT + index * cell;
          pen.globalAlpha = dead.has(index) ? 1 : 0.08 + 0.92 * Math.sqrt(part);
          pen.fillStyle = colour(dead.has(index) ? "bad" : "mark");
          pen.fillRect(left, top, Math.max(cell - (cell > 3 ? 1 : 0.15), 0.6), CELL);
          pen.globalAlpha = 1;
          if (cell < 20 && !(dead.has(index) && cell > 8)) return;
          pen.fillStyle = dead.has(index) || part > 0.35 ? colour("back") : colour("text");
          pen.fillText(dead.has(index) ? "×" : String(Math.round(100 * part)), left + cell / 2, top + CELL / 2);
        });
      });
    });
  }
  canvas.addEventListener("pointermove", (event) => {
    const found = place(event);
    if (!found) { said.textContent = words(); return; }
    const [row, line, index] = found, each = line.count / line.busy.length;
    said.textContent = row.label + " " + Math.round(index * each) + (each > 1 ? "–" + (Math.round((index + 1) * each) - 1) : "") + ": "
      + (line.dead.includes(index) ? say(["failed", "故障"]) : written(line.busy[index], "ratio"));
  });
  window.addEventListener("resize", paint);
  const made = { show(found) { rows = found; paint(); return made; } };
  return made;
}
