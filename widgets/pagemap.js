// PageMap: one cell a page, or one cell for 2^n pages, the most severe state winning.
// Fill says what a page is, the tick in a cell's corner that it is pinned.

const FLASH = 1200; // ms
const FLASHES = 4096; // ranges that may flash at once
const LETTERS = 14; // px of a cell from which its letter is drawn
const NUMBERS = 24; // and the number of its pins
const ROWS_A_LABEL = 16;
const FADED = 0.16;

function pagemap(ui) {
  const canvas = h("canvas", { class: "sl-pages", role: "img", "aria-label": "Map of pages" });
  const ctx = canvas.getContext("2d");
  const grid = new Grid();
  ui.stage.append(canvas);
  let pages = null, map = null; // the data, and what else the last full message said
  let cursor = 0, hover = -1, filter = 0, pinned = false, lit = null;
  let touched = false; // the reader has moved: the view stays where it was put
  let box = {}; // where grid, names and strip lie (px), and the colours of the theme
  let flashes = []; // [first, end, when]
  let chips = null;

  function layout() {
    const small = ui.size === "S", type = ui.size === "L" ? 1.35 : 1;
    const sans = `${12 * type}px ${getComputedStyle(ui.stage).fontFamily}`, mono = `${12 * type}px ${ui.colour("--sl-mono")}`;
    const measure = (text, font) => { ctx.font = font; return Math.ceil(ctx.measureText(text).width); };
    const gutter = small ? 0 : measure(hex((numberOf(map, pages.count - 1) + 1) * 4096), mono) + 8;
    const names = small ? 0 : Math.max(0, ...map.regions.map(([, , name]) => Math.min(140, measure(name, sans) + 14)));
    const strip = small || pages.count < 256 ? 0 : Math.round(18 * type);
    const room = ui.width - gutter - names - (strip ? strip + 14 : 2);
    grid.lay(pages.count, room, small ? 84 : ui.height - 2, type > 1 ? 6 : 5, Math.round(LARGEST * type));
    box = { gutter, names, strip, type, sans, mono, x: gutter, y: 1, tall: grid.tall + 2, side: gutter + grid.wide + names + 13 };
  }

  function home() { // what is in use, as large as it fits
    const used = pages.extent();
    grid.fit(...(used ?? [0, pages.count]));
    cursor = used ? used[0] : 0;
  }

  const inside = (event) => { const { left, top } = canvas.getBoundingClientRect(); return [event.clientX - left, event.clientY - top]; };
  const pageAt = (event) => { const [x, y] = inside(event); return grid.at(x - box.x, y - box.y); };
  const inStrip = (event) => { const [x] = inside(event); return box.strip && x >= box.side - 3 && x < box.side + box.strip + 3; };

  // ------------------------------------------------------------- drawing

  const kindOf = (rank) => pages.kinds[pages.codeOf[rank]];
  const severest = (mask) => 31 - Math.clz32(mask);

  function fill(rank, faded, x, y, width, height) {
    const { colour } = kindOf(rank);
    ctx.globalAlpha = faded ? FADED : colour ? 1 : 0.1;
    ctx.fillStyle = colour || box.ink;
    ctx.fillRect(x, y, width, height);
    ctx.globalAlpha = 1;
  }

  function paint() {
    if (!pages || !ui.width) return;
    const scale = window.devicePixelRatio || 1, width = Math.round(ui.width * scale), height = Math.round(box.tall * scale);
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      canvas.style.cssText = `width:${ui.width}px;height:${box.tall}px`;
    }
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    ctx.clearRect(0, 0, ui.width, box.tall);
    for (const name of ["ink", "soft", "accent", "card"]) box[name] = ui.colour(`--sl-${name}`);
    cells();
    if (box.gutter) { addresses(); regions(); }
    if (box.strip) strip();
    flash();
    if (hover >= 0) ring(hover, 1, box.soft);
    ring(cursor, 2, box.accent);
    legend();
  }

  function cells() {
    const { cols, cell, high, pages: each } = grid.level, gap = cell >= 7 ? 1 : 0, rows = grid.rows;
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        const a = ((grid.top + row) * cols + col) * each, b = Math.min(a + each, pages.count);
        if (a >= pages.count) return;
        const [mask, pins] = each === 1 ? [1 << pages.rank[a], pages.pins[a]] : pages.look(a, b);
        const wanted = filter ? mask & filter : mask, faded = !wanted || (pinned && !(pins && pages.held(wanted, a, b))) || (lit !== null && !pages.has(lit, a, b));
        const rank = severest(wanted || mask), left = grid.x(col), size = grid.x(col + 1) - left - gap, y = box.y + row * high;
        fill(rank, faded, box.x + left, y, size, high - gap);
        if (!faded) details(kindOf(rank), pins, box.x + left, y, size, Math.floor(cell)); // all cells of a level alike
      }
    }
  }

  function details({ letter, colour, ink }, pins, x, y, size, cell) {
    if (cell >= LETTERS) {
      ctx.fillStyle = colour ? ink : box.soft;
      ctx.font = `600 ${Math.round(cell * 0.55)}px ${box.mono.slice(box.mono.indexOf(" "))}`;
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      ctx.fillText(letter, x + size / 2, y + size / 2 + 0.5);
    }
    if (!pins) return;
    ctx.fillStyle = colour ? ink : box.ink;
    if (pins > 1 && cell >= NUMBERS) {
      ctx.font = `600 ${Math.round(cell * 0.34)}px ${box.sans.slice(box.sans.indexOf(" "))}`;
      ctx.textAlign = "right";
      ctx.fillText(pins > 99 ? "99+" : pins, x + size - 2, y + cell * 0.22);
      return;
    }
    const tick = Math.max(2, Math.round(cell * 0.3));
    ctx.globalAlpha = cell < 10 ? 0.5 : 1; // many small ones are a texture, not the picture
    ctx.beginPath();
    ctx.moveTo(x + size - tick, y);
    ctx.lineTo(x + size, y);
    ctx.lineTo(x + size, y + tick);
    ctx.fill();
    ctx.globalAlpha = 1;
  }

  function addresses() {
    const { cols, high, pages: each } = grid.level, line = 14 * box.type;
    ctx.font = box.mono;
    ctx.fillStyle = box.soft;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    const every = Math.min(ROWS_A_LABEL, 2 ** Math.ceil(Math.log2((1.6 * line) / high) + 0.5));
    const rows = Math.min(grid.rows, grid.rowsOf() - grid.top);
    for (let row = 0, below = -line; row < rows; row++) {
      const first = (grid.top + row) * cols * each, place = map.places.find(([at]) => at && at >= first && at < first + cols * each); // the numbers jump
      const round = (grid.top + row) % every === 0 || place, y = box.y + row * high + high / 2;
      if (!round && !(row === 0 && (every - (grid.top % every)) * high > 1.5 * line)) continue;
      const at = Math.min(box.tall - line / 2, Math.max(line / 2, y));
      if (at - below >= line) ctx.fillText(hex(numberOf(map, place ? place[0] : first) * 4096), box.gutter - 8, (below = at));
    }
  }

  function regions() {
    const { cols, high, pages: each } = grid.level, rows = grid.rows, right = box.x + grid.x(cols), line = 14 * box.type;
    ctx.strokeStyle = box.ink;
    ctx.fillStyle = box.soft;
    ctx.lineWidth = 1;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.font = box.sans;
    let free = line / 2;
    for (const [first, count, name] of map.regions) {
      const a = Math.floor(first / each), b = Math.ceil((first + count) / each);
      for (const border of [a, b]) { // a step in the row, or a line between two
        const row = Math.floor(border / cols) - grid.top, col = border % cols, y = box.y + row * high - 0.5, x = box.x + grid.x(col) - 0.5;
        if (row < 0 || row > rows || (row === rows && col)) continue;
        ctx.beginPath();
        if (col) { ctx.moveTo(box.x, y + high); ctx.lineTo(x, y + high); ctx.lineTo(x, y); } else ctx.moveTo(box.x, y);
        ctx.lineTo(right, y);
        ctx.stroke();
      }
      const y0 = Math.floor(a / cols) - grid.top, y1 = Math.ceil(b / cols) - grid.top;
      if (y1 <= 0 || y0 >= rows) continue;
      const from = box.y + Math.max(0, y0) * high + 0.5, to = box.y + Math.min(rows, y1) * high - 1.5;
      ctx.beginPath();
      ctx.moveTo(right + 3, from); ctx.lineTo(right + 6.5, from); ctx.lineTo(right + 6.5, to); ctx.lineTo(right + 3, to);
      ctx.stroke();
      const y = Math.max(free, (from + to) / 2);
      if (y > box.tall - line / 2 + 2) continue;
      ctx.fillText(name, right + 11, y, box.names - 12);
      free = y + line;
    }
  }

  function strip() {
    const { cols, pages: each } = grid.level, tall = box.tall - 2, buckets = Math.floor(tall / 2), screen = grid.rows * cols * each;
    for (let i = 0; i < buckets; i++) {
      const a = Math.floor((i * pages.count) / buckets), b = Math.floor(((i + 1) * pages.count) / buckets);
      const [mask, pins] = pages.look(Math.min(a, pages.count - 1), Math.max(a + 1, b)), wanted = filter ? mask & filter : mask;
      fill(severest(wanted || mask), !wanted || (pinned && !pins), box.side, 1 + 2 * i, box.strip, 2);
    }
    if (screen >= pages.count) return;
    const from = (grid.top * cols * each * tall) / pages.count, size = Math.max(6, (screen * tall) / pages.count);
    outline(box.side - 0.5, 1.5 + Math.min(from, tall - size), box.strip + 1, size - 1, 2, box.ink);
  }

  function outline(x, y, width, height, thick, colour) {
    for (const [line, style] of [[thick + 2, box.card], [thick, colour]]) {
      ctx.lineWidth = line;
      ctx.strokeStyle = style;
      ctx.strokeRect(x, y, width, height);
    }
  }

  function ring(page, thick, colour) {
    const corner = grid.place(page), { cell, high } = grid.level, wide = Math.max(Math.floor(cell), 7) + 1, tall = Math.max(high, 7) + 1;
    if (corner) outline(box.x + corner[0] - Math.round((wide + 1 - cell) / 2), box.y + corner[1] - Math.round((tall + 1 - high) / 2), wide, tall, thick, colour);
  }

  function flash() {
    const now = performance.now(), { cell, high, cols, pages: each } = grid.level, from = grid.top * cols, to = from + grid.rows * cols;
    if (!ui.still) flashes = flashes.filter(([, , when]) => now - when < FLASH);
    ctx.lineWidth = 2;
    ctx.strokeStyle = box.ink;
    for (const [a, b, when] of flashes) {
      const age = ui.still ? 0 : (now - when) / FLASH, grow = Math.max(0, (7 - Math.min(cell, high)) / 2) + (ui.still ? 0 : 3 * (1 - age));
      const first = Math.max(from, Math.floor(a / each)) - from, end = Math.min(to, Math.ceil(b / each)) - from;
      if (first >= end) continue;
      ctx.globalAlpha = 1 - age * age;
      outlineOf(first, end, grow);
    }
    ctx.globalAlpha = 1;
    if (flashes.length && !ui.still) ui.paint();
  }

  function outlineOf(first, end, grow) { // cells in view from first to end - 1: a rectangle, or a shape with two steps
    const { cols, high } = grid.level, last = end - 1, row = (i) => box.y + Math.floor(i / cols) * high, col = (i) => box.x + grid.x(i % cols);
    const [top, foot, begin, finish] = [row(first) - grow, row(last) + high - 1 + grow, col(first) - grow, col(last) + grid.x((last % cols) + 1) - grid.x(last % cols) - 1 + grow];
    ctx.beginPath();
    if (row(first) === row(last)) ctx.rect(begin, top, finish - begin, foot - top);
    else if (row(last) - row(first) === high && col(last) < col(first)) { // two pieces that do not touch
      ctx.rect(begin, top, box.x + grid.wide - 1 + grow - begin, high - 1 + 2 * grow);
      ctx.rect(box.x - grow, foot - high + 1 - 2 * grow, finish - box.x + grow, high - 1 + 2 * grow);
    } else {
      const left = box.x - grow, right = box.x + grid.x(cols) - 1 + grow, upper = row(first) + high - grow, lower = row(last) - 1 + grow;
      const corners = [[begin, top], [right, top], [right, lower], [finish, lower], [finish, foot], [left, foot], [left, upper], [begin, upper]];
      corners.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
      ctx.closePath();
    }
    ctx.stroke();
  }

  // ------------------------------------------------------------- legend, status

  function chip(kind, code) {
    const swatch = h("span", { class: "sl-swatch", text: kind.letter, "aria-hidden": "true" }), count = h("b");
    if (kind.colour) swatch.style.cssText = `background:${kind.colour};color:${kind.ink}`;
    const toggle = () => { filter ^= 1 << pages.rankOf[code]; ui.paint(); };
    const element = h("button", { type: "button", class: "sl-key", title: `Show ${kind.name} only`, onclick: toggle }, swatch, h("span", { text: kind.name }), count);
    return { element, count };
  }

  function legend() {
    if (!chips) {
      const count = h("b"), toggle = () => { pinned = !pinned; ui.paint(); };
      const pin = h("button", { type: "button", class: "sl-key", title: "Show pinned pages only", onclick: toggle }, h("span", { class: "sl-swatch sl-tick", "aria-hidden": "true" }), h("span", { text: "pinned" }), count);
      chips = [...pages.kinds.map(chip), { element: pin, count }];
      ui.foot.replaceChildren(...chips.map((one) => one.element));
    }
    const numbers = [...pages.counts, pages.pinned];
    chips.forEach(({ element, count }, code) => {
      const on = Boolean(filter & (1 << pages.rankOf[code])) && code < pages.kinds.length;
      const pressed = code < pages.kinds.length ? on : pinned;
      element.setAttribute("aria-pressed", pressed);
      element.hidden = !numbers[code] && !pressed;
      if (count.textContent !== many(numbers[code])) count.textContent = many(numbers[code]);
    });
  }

  function tell(page = hover < 0 ? cursor : hover) {
    const { pages: each } = grid.level, a = Math.floor(page / each) * each;
    ui.say(sentence(pages, map, a, Math.min(a + each, pages.count)));
  }

  // ------------------------------------------------------------- hand and keyboard

  let telling;
  function go(page) { // to the first of the most severe pages of its cell, so that zooming in leads there
    const { pages: each } = grid.level, cell = Math.floor(Math.max(0, Math.min(page, pages.count - 1)) / each);
    cursor = pages.worst(cell * each, Math.min((cell + 1) * each, pages.count));
    look();
    clearTimeout(telling);
    telling = setTimeout(() => ui.select(cursor), 40);
  }

  function look() {
    touched = true;
    grid.show(cursor);
    tell();
    ui.paint();
  }

  function step(by) {
    const { cols, pages: each } = grid.level, cell = grid.cellOf(cursor), last = Math.ceil(pages.count / each) - 1, to = cell + by;
    if (to < 0) go(Math.abs(by) < cols ? 0 : (cell % cols) * each);
    else if (to > last) go(Math.abs(by) < cols ? last * each : (last - ((last - cell) % cols)) * each);
    else go(to * each);
  }

  function key(event) {
    if (!pages) return false;
    const { cols } = grid.level, screen = cols * grid.rows;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols, PageUp: -screen, PageDown: screen };
    const acts = {
      Home: () => go(0),
      End: () => go(pages.count - 1),
      "+": () => { grid.zoom(1, cursor); go(cursor); },
      "-": () => { grid.zoom(-1, cursor); look(); },
      0: () => { grid.fit(0, pages.count); look(); },
      u: () => { home(); look(); },
      Enter: () => ui.send("enter", { page: cursor }),
    };
    acts["="] = acts["+"];
    if (event.key in steps) step(steps[event.key]);
    else if (acts[event.key]) acts[event.key]();
    else return false;
    return true;
  }

  function drag(event) {
    const { cols, pages: each } = grid.level;
    grid.scroll(Math.round(((inside(event)[1] / box.tall) * pages.count) / each / cols - grid.rows / 2));
    touched = true;
    ui.paint();
  }

  let dragging = false, turned = 0;
  canvas.addEventListener("pointerdown", (event) => {
    if (!pages) return;
    ui.stage.focus({ preventScroll: true });
    const page = pageAt(event);
    if (page >= 0) go(page);
    else if (inStrip(event)) { dragging = true; canvas.setPointerCapture(event.pointerId); drag(event); }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pages) return;
    if (dragging) return drag(event);
    point(event);
    canvas.style.cursor = inStrip(event) ? "ns-resize" : hover < 0 ? "default" : "";
  });
  function point(event) {
    const page = event.type === "pointerleave" ? -1 : pageAt(event);
    if (page === hover) return;
    hover = page;
    tell();
    ui.paint();
  }
  canvas.addEventListener("pointerup", () => (dragging = false));
  canvas.addEventListener("pointerleave", (event) => pages && point(event));
  canvas.addEventListener("dblclick", (event) => { if (pageAt(event) >= 0) ui.send("enter", { page: cursor }); });
  canvas.addEventListener("wheel", (event) => { // the notebook scrolls until the map has been clicked
    if (!pages || !(event.ctrlKey || document.activeElement === ui.stage)) return;
    event.preventDefault();
    turned += event.deltaY;
    if (Math.abs(turned) < 60) return;
    if (grid.zoom(turned < 0 ? 1 : -1, hover < 0 ? cursor : hover)) { touched = true; point(event); ui.paint(); }
    turned = 0;
  }, { passive: false });

  // ------------------------------------------------------------- messages

  async function full(message, [buffer]) {
    const data = await bytes(buffer, message.z);
    if (pages?.count !== message.count) touched = false;
    map = message;
    pages = new Pages(message.count, message.kinds.map(([name, letter, colour, ink, severity]) => ({ name, letter, colour, ink, severity })));
    if (message.whole) pages.load(data);
    else pages.apply(data);
    [chips, flashes, lit] = [null, [], message.lit ?? null];
    resize();
    selected(message.selected);
  }

  async function delta(message, [buffer]) {
    const now = performance.now(), ranges = pages.apply(await bytes(buffer, message.z)).map(([a, b]) => [a, b, now]);
    flashes = [...(ui.still ? [] : flashes), ...ranges].slice(-FLASHES);
    if (!touched && !ui.past) home(); // a walk through time keeps the view
    tell();
  }

  function resize() {
    if (!pages || !ui.width) return;
    layout();
    if (touched) grid.show(cursor);
    else home();
    tell();
  }

  function selected(page) {
    if (!pages || !ui.width || !Number.isInteger(page) || page === cursor || page < 0 || page >= pages.count) return;
    cursor = page;
    look();
  }

  return { full, delta, paint, key, selected, resize, lit: ({ owner }) => { lit = owner; ui.paint(); } };
}
