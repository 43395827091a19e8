// Lanes: the drawing. Only the lines that are visible are drawn, whatever their number.

const HEADER = 30; // px above the first line
const GLOW = 1200; // ms that a new line glows
const PARTY_COLOURS = { O: "#009e73", V: "#e69f00", K: "#d55e00", P: "#0072b2", E: "#56b4e9", G: "#cc79a7", B: "#f0e442" };
const inkOn = (letter) => (letter === "P" ? "#fff" : "#111");

function lanesPainter(ui, canvas, table) {
  let at, rows, step, shown, current, entry, names, fresh, side; // the state of the picture that is being drawn

  function paint(state) {
    ({ at, rows, line: step, shown, current, entry, names, fresh } = state);
    const wide = ui.stage.clientWidth, high = ui.stage.clientHeight, dpr = devicePixelRatio || 1;
    if (!wide || !high) return;
    if (canvas.width !== Math.round(wide * dpr) || canvas.height !== Math.round(high * dpr)) {
      Object.assign(canvas, { width: Math.round(wide * dpr), height: Math.round(high * dpr) });
      Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
    }
    const c = canvas.getContext("2d");
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    const look = Object.fromEntries(["ink", "text", "soft", "line", "accent", "tint", "edge"].map((name) => [name, ui.colour(`--sl-${name}`)]));
    look.ground = getComputedStyle(ui.stage.closest(".sl")).backgroundColor;
    c.clearRect(0, 0, wide, high);
    c.fillStyle = look.ground;
    c.fillRect(0, 0, wide, high);
    c.textBaseline = "alphabetic";
    const size = Math.round(Math.min(12.5, step * 0.62) * (ui.size === "L" ? 1.35 : 1));
    const fonts = { plain: `${size}px ${ui.colour("--sl-sans")}`, bold: `600 ${size}px ${ui.colour("--sl-sans")}`, small: `${Math.max(10, size - 1)}px ${ui.colour("--sl-sans")}` };
    const first = Math.floor(ui.stage.scrollTop / step), shift = ui.stage.scrollTop % step;
    const parted = shown.parted && first + Math.ceil(high / step) > shown.both.length;
    c.font = fonts.small;
    side = 14 + Math.max(...[table.unit, String(table.count ? table.n(table.count - 1) : 0)].map((text) => Math.ceil(c.measureText(text).width))); // room for the entry's number
    const areas = [[side, wide - 8]], halves = [[side, wide / 2 - 10], [wide / 2 + side - 6, wide - 8]];
    const draw = { c, look, fonts, step, wide };
    c.save();
    c.beginPath();
    c.rect(0, HEADER, wide, high);
    c.clip();
    for (let row = first, y = HEADER - shift; y < high && row < rows; row++, y += step) {
      const [one, two] = at(row);
      if (one === "parted") { drawParting(draw, y, halves); continue; }
      if (row > shown.both.length) {
        [one, two].forEach((index, which) => { lifelines(draw, halves[which], y, step, index); if (index !== null) drawLine(draw, index, y, halves[which]); });
      } else {
        if (ui.size !== "S") lifelines(draw, areas[0], y, step, one);
        drawLine(draw, one, y, areas[0]);
      }
    }
    c.restore();
    header(draw, parted && first > shown.both.length ? halves : areas);
    canvas.dataset.rows = rows;
    if (fresh && !ui.still && performance.now() - fresh.when < GLOW) ui.paint();
  }

  // Few columns stand a little to the left of the middle of theirs: what is said of the last one needs room.
  const across = ([left, right], at) => left + (right - left) * (table.column[at] + ([0.5, 0.18, 0.18, 0.32][table.drawn.length] ?? 0.5)) / Math.max(1, table.drawn.length);

  function header({ c, look, fonts, wide }, areas) {
    c.fillStyle = look.ground;
    c.fillRect(0, 0, wide, HEADER - 2);
    c.strokeStyle = look.line;
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(0, HEADER - 1.5);
    c.lineTo(wide, HEADER - 1.5);
    c.stroke();
    c.font = fonts.small;
    c.fillStyle = look.soft;
    c.textAlign = "left";
    if (ui.size === "S") { c.fillText(table.unit, 2, 19); return; }
    c.textAlign = "right";
    areas.forEach((area, which) => {
      c.textAlign = "right";
      c.fillStyle = look.soft;
      c.fillText(areas.length > 1 ? "" : table.unit, area[0] - 12, 19);
      const each = (area[1] - area[0]) / Math.max(1, table.drawn.length);
      table.drawn.forEach((i) => {
        const [name, letter] = table.lifelines[i];
        const x = across(area, i), tag = letter ? 18 : 0;
        c.font = fonts.bold;
        c.textAlign = "left";
        const text = each > 52 ? cut(c, name, each - tag - 10) : "";
        const left = x - (tag + (text ? c.measureText(text).width : -4)) / 2;
        if (letter) badge(c, left, 6, letter);
        c.fillStyle = look.text;
        c.font = fonts.bold;
        c.fillText(text, left + tag, 19);
      });
    });
  }

  function badge(c, x, y, letter) {
    c.fillStyle = PARTY_COLOURS[letter];
    c.fillRect(x, y, 14, 14);
    c.fillStyle = inkOn(letter);
    c.font = `700 10px ${ui.colour("--sl-mono")}`;
    c.textAlign = "center";
    c.fillText(letter, x + 7, y + 11);
    c.textAlign = "left";
  }

  function cut(c, text, room) {
    if (c.measureText(text).width <= room) return text;
    let short = text;
    while (short && c.measureText(`${short}…`).width > room) short = short.slice(0, -1);
    return short.length > 1 ? `${short}…` : "";
  }

  function lifelines({ c, look }, area, y, step, index) {
    c.lineWidth = 1;
    c.strokeStyle = look.line;
    c.beginPath();
    table.drawn.forEach((i) => { const x = Math.round(across(area, i)) + 0.5; c.moveTo(x, y); c.lineTo(x, y + step); });
    c.stroke();
    if (index === null) return;
    for (const [at, from, to, waiting] of table.locksOf(index)) {
      if (index < from || index > to) continue;
      const x = Math.round(across(area, at)) + 0.5;
      c.lineWidth = waiting ? 2 : 5;
      c.strokeStyle = waiting ? look.text : PARTY_COLOURS[table.lifelines[at][1]] ?? look.accent;
      c.setLineDash(waiting ? [2, 3] : []);
      c.beginPath();
      c.moveTo(x, y + (index === from ? step * 0.7 : 0));
      c.lineTo(x, y + (index === to ? step * 0.7 : step));
      c.stroke();
      c.setLineDash([]);
    }
  }

  function drawParting({ c, look, fonts, step, wide }, y, halves) {
    c.strokeStyle = look.accent;
    c.lineWidth = 2;
    c.beginPath();
    c.moveTo(0, y + step / 2);
    c.lineTo(wide, y + step / 2);
    c.stroke();
    const text = names.filter(Boolean).join("   ·   ");
    c.font = fonts.bold;
    c.textAlign = "center";
    const half = c.measureText(text).width / 2 + 10;
    c.fillStyle = look.ground;
    c.fillRect(wide / 2 - half, y, 2 * half, step);
    c.fillStyle = look.ink;
    c.fillText(text, wide / 2, y + step / 2 + 4);
    c.textAlign = "left";
    for (const area of halves) { // whose the lines below are
      table.drawn.forEach((i) => {
        const x = across(area, i), letter = table.lifelines[i][1];
        if (letter && step > 16 && Math.abs(x - wide / 2) > half + 8) badge(c, Math.round(x) - 7, y + step / 2 - 7, letter);
      });
    }
  }

  function drawLine(draw, index, y, area) {
    const { c, look, fonts, step } = draw;
    const later = entry !== undefined && table.n(index) > entry;
    if (index === current) {
      c.fillStyle = look.tint;
      c.fillRect(area[0] - side + 1, y, area[1] - area[0] + side, step);
      c.fillStyle = look.accent;
      c.fillRect(area[0] - side + 1, y, 3, step);
      if (ui.size !== "S") lifelines(draw, area, y, step, index);
    }
    const age = fresh && index >= fresh.from ? (ui.still ? 0 : (performance.now() - fresh.when) / GLOW) : 1;
    if (age < 1) { // new: it glows once, and without motion has an outline until the next
      c.strokeStyle = c.fillStyle = look.accent;
      c.globalAlpha = ui.still ? 1 : 0.3 * (1 - age);
      c.lineWidth = 1;
      if (ui.still) c.strokeRect(area[0] - side + 1.5, y + 0.5, area[1] - area[0] + side - 1, step - 1);
      else c.fillRect(area[0] - side + 1, y, area[1] - area[0] + side, step);
    }
    c.globalAlpha = later ? 0.35 : 1;
    const base = y + step * 0.72, back = index === current ? look.tint : look.ground;
    c.font = fonts.small;
    c.fillStyle = look.soft;
    c.textAlign = "right";
    c.fillText(String(table.n(index)), area[0] - 12, base);
    c.textAlign = "left";
    const [from, to] = [table.source(index), table.target(index)], bad = table.bad(index);
    const answer = table.answer(index), label = table.label(index);
    if (ui.size === "S") {
      const letters = [from, to].map((i) => table.lifelines[i][1] || table.lifelines[i][0].slice(0, 3));
      c.font = bad ? fonts.bold : fonts.plain;
      c.fillStyle = look.text;
      c.fillText(cut(c, `${letters[0]}${from === to ? "" : ` → ${letters[1]}`}  ${label}  ${answer}`, area[1] - area[0]), area[0], base);
      c.globalAlpha = 1;
      return;
    }
    const x1 = across(area, from), x2 = across(area, to), right = x2 >= x1, tight = step < 20;
    const lineY = Math.round(tight ? y + step / 2 : y + step - 5) + 0.5, colour = bad ? "#d55e00" : look.text;
    c.strokeStyle = c.fillStyle = colour;
    c.lineWidth = bad ? 2 : 1.25;
    let start;
    if (from === to) {
      c.fillStyle = PARTY_COLOURS[table.lifelines[from][1]] ?? look.soft;
      c.fillRect(x1 - 3.5, y + step / 2 - 3.5, 7, 7);
      c.strokeStyle = look.soft;
      c.lineWidth = 1;
      c.strokeRect(x1 - 3.5, y + step / 2 - 3.5, 7, 7);
      start = x1 + 10;
    } else {
      c.beginPath();
      c.moveTo(x1, lineY);
      c.lineTo(x2 - (right ? 5 : -5), lineY);
      c.stroke();
      c.beginPath();
      c.moveTo(x2 - (right ? 1 : -1), lineY);
      c.lineTo(x2 - (right ? 8 : -8), lineY - 4);
      c.lineTo(x2 - (right ? 8 : -8), lineY + 4);
      c.fill();
      start = Math.min(x1, x2) + 8;
    }
    const textY = from === to || tight ? y + step / 2 + 4 : lineY - 4.5;
    if (tight && from !== to) start = Math.max(x1, x2) + 8;
    c.font = bad ? fonts.bold : fonts.plain;
    const said = answer && `${bad ? "✕ " : ""}${answer}`, apart = said && right && from !== to && !tight; // at the head of its arrow
    if (from === to) { // a note for which there is more room on the left stands there
      const wide = c.measureText(label).width, left = x1 - 10 - area[0];
      if (start + wide > area[1] && left > area[1] - start) start = x1 - 10 - Math.min(wide, left);
    }
    const room = (from === to && start < x1 ? x1 - 10 : area[1]) - start, more = apart ? c.measureText(said).width + 12 : 0;
    const words = cut(c, apart || !said ? label : `${label}  ${said}`, more < room / 2 ? room - more : room), size = parseFloat(fonts.plain);
    const put = (text, x, base) => {
      c.fillStyle = back;
      c.fillRect(x - 2, base - size, c.measureText(text).width + 4, size + 0.5);
      c.fillStyle = from === to ? look.soft : look.text;
      c.fillText(text, x, base);
    };
    put(words, start, textY);
    if (apart) {
      const end = start + c.measureText(words).width, past = end + 6 > x2 + 7;
      const x = past ? end + 9 : x2 + 7, short = cut(c, said, area[1] - x);
      if (short) put(short, x, past ? textY : Math.min(lineY + size * 0.36, y + step - 1));
    }
    c.globalAlpha = 1;
  }

  return paint;
}
