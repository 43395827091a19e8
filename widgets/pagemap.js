// PageMap: one cell a page, or one cell for 2^n pages, the most severe state winning.
// Fill says what a page is, the tick in a cell's corner that it is pinned.

const FLASH = 1200; // ms
const FLASHES = 4096; // ranges that may flash at once
const LETTERS = 14; // px of a cell from which its letter is drawn
const NUMBERS = 24; // and the number of its pins
const ROWS_A_LABEL = 16;

function pagemap(ui) {
  const canvas = h("canvas", { class: "sl-pages", role: "img", "aria-label": "Map of pages" });
  const ctx = canvas.getContext("2d");
  ui.stage.append(canvas);
  let pages = null, map = null; // the data, and what else the last full message said
  const grid = new Grid();
  let cursor = 0, hover = -1, filter = 0, lit = null, touched = false;
  let box = {}; // where grid and strip lie, px
  let flashes = []; // [a, b, when]
  let chips = [];

  // ------------------------------------------------------------- geometry

  function layout() {
    if (!pages || !ui.width) return;
    const small = ui.size === "S", type = ui.size === "L" ? 1.35 : 1;
    const sans = `${12 * type}px ${getComputedStyle(ui.stage).fontFamily}`, mono = `${12 * type}px ${ui.colour("--sl-mono")}`;
    const measure = (text, font) => { ctx.font = font; return Math.ceil(ctx.measureText(text).width); };
    const gutter = small ? 0 : measure(hex((map.first + pages.count) * 4096), mono) + 8;
    const names = small ? 0 : Math.max(0, ...map.regions.map(([, , name]) => Math.min(140, measure(name, sans) + 14)));
    const strip = small || pages.count < 256 ? 0 : Math.round(18 * type);
    grid.lay(pages.count, ui.width - gutter - names - (strip ? strip + 14 : 2), small ? 84 : ui.height - 2, type > 1 ? 6 : 5, Math.round(LARGEST * type));
    box = { gutter, names, strip, type, sans, mono, x: gutter, y: 1, tall: grid.tall + 2, side: gutter + grid.wide + names + 13 };
  }

  function home() { // what is in use, as large as it fits
    const used = pages.extent();
    grid.fit(...(used ?? [0, pages.count]));
    cursor = used ? used[0] : 0;
  }

  function pageAt(event) {
    const bounds = canvas.getBoundingClientRect();
    return grid.at(event.clientX - bounds.left - box.x, event.clientY - bounds.top - box.y);
  }

  // ------------------------------------------------------------- colours

  const paintOf = (rank) => pages.kinds[pages.codeOf[rank]];
  const severest = (mask) => 31 - Math.clz32(mask);

  function fillRank(rank, faded, x, y, w, hgt) {
    const { colour } = paintOf(rank);
    ctx.globalAlpha = faded ? 0.16 : colour ? 1 : 0.1;
    ctx.fillStyle = colour || box.ink;
    ctx.fillRect(x, y, w, hgt);
    ctx.globalAlpha = 1;
  }

  function owned(a, b) {
    for (let page = a; page < b; page++) if (pages.owner[page] === lit) return true;
    return false;
  }

  // ------------------------------------------------------------- drawing

  function paint() {
    if (!pages || !ui.width) return;
    const scale = window.devicePixelRatio || 1;
    const w = Math.round(ui.width * scale), hgt = Math.round(box.tall * scale);
    if (canvas.width !== w || canvas.height !== hgt) {
      Object.assign(canvas, { width: w, height: hgt });
      canvas.style.width = `${ui.width}px`;
      canvas.style.height = `${box.tall}px`;
    }
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    ctx.clearRect(0, 0, ui.width, box.tall);
    box.ink = ui.colour("--sl-ink");
    box.soft = ui.colour("--sl-soft");
    box.accent = ui.colour("--sl-accent");
    box.card = ui.colour("--sl-card");
    cells();
    if (box.gutter) { addresses(); regions(); strip(); }
    flash();
    if (hover >= 0) ring(hover, 1, box.soft);
    ring(cursor, 2, box.accent);
    legend();
  }

  function cells() {
    const { cols, cell, pages: each } = grid.level, gap = cell >= 7 ? 1 : 0, rows = grid.rows;
    const letter = cell >= LETTERS, tick = Math.max(2, Math.round(cell * 0.3));
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (let row = 0; row < rows; row++) {
      const y = box.y + row * cell;
      for (let col = 0; col < cols; col++) {
        const a = ((grid.top + row) * cols + col) * each;
        if (a >= pages.count) return;
        const b = Math.min(a + each, pages.count);
        const [mask, pins] = each === 1 ? [1 << pages.rank[a], pages.pins[a]] : pages.look(a, b);
        const wanted = filter ? mask & filter : mask;
        const faded = !wanted || (lit !== null && !owned(a, b));
        const rank = severest(wanted || mask), x = box.x + col * cell, kind = paintOf(rank);
        fillRank(rank, faded, x, y, cell - gap, cell - gap);
        if (faded) continue;
        if (letter) {
          ctx.fillStyle = kind.colour ? kind.ink : box.soft;
          ctx.font = `600 ${Math.round(cell * 0.56)}px ${ui.colour("--sl-mono")}`;
          ctx.fillText(kind.letter, x + (cell - gap) / 2, y + (cell - gap) / 2 + 0.5);
        }
        if (!pins) continue;
        ctx.fillStyle = kind.colour ? kind.ink : box.ink;
        if (pins > 1 && cell >= NUMBERS) {
          ctx.font = `600 ${Math.round(cell * 0.34)}px ${getComputedStyle(ui.stage).fontFamily}`;
          ctx.textAlign = "right";
          ctx.fillText(pins > 99 ? "99+" : pins, x + cell - gap - 2, y + cell * 0.22);
          ctx.textAlign = "center";
        } else {
          ctx.beginPath();
          ctx.moveTo(x + cell - gap - tick, y);
          ctx.lineTo(x + cell - gap, y);
          ctx.lineTo(x + cell - gap, y + tick);
          ctx.fill();
        }
      }
    }
  }

  function addresses() {
    const { cols, cell, pages: each } = grid.level;
    ctx.font = `${12 * box.type}px ${ui.colour("--sl-mono")}`;
    ctx.fillStyle = box.soft;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    const every = Math.min(ROWS_A_LABEL, 2 ** Math.ceil(Math.log2(Math.max(1, (20 * box.type) / cell))) * 2);
    const rows = Math.min(grid.rows, grid.rowsOf() - top);
    for (let row = 0; row < rows; row++)
      if ((grid.top + row) % every === 0 || rows <= 2) {
        const y = Math.min(box.tall - 7 * box.type, Math.max(7 * box.type, box.y + row * cell + Math.min(cell, 12) / 2));
        ctx.fillText(hex((map.first + (grid.top + row) * cols * each) * 4096), box.gutter - 8, y);
      }
  }

  function regions() {
    const { cols, cell, pages: each } = grid.level, rows = grid.rows, right = box.x + cols * cell;
    let free = -Infinity;
    ctx.strokeStyle = box.ink;
    ctx.fillStyle = box.soft;
    ctx.lineWidth = 1;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.font = `${12 * box.type}px ${getComputedStyle(ui.stage).fontFamily}`;
    for (const [first, count, name] of map.regions) {
      const a = Math.floor(first / each), b = Math.ceil((first + count) / each);
      edge(a); edge(b);
      const y0 = Math.floor(a / cols) - grid.top, y1 = Math.ceil(b / cols) - grid.top;
      if (y1 <= 0 || y0 >= rows) continue;
      const from = box.y + Math.max(0, y0) * cell + 0.5, to = box.y + Math.min(rows, y1) * cell - 1.5;
      ctx.beginPath();
      ctx.moveTo(right + 3, from); ctx.lineTo(right + 6.5, from); ctx.lineTo(right + 6.5, to); ctx.lineTo(right + 3, to);
      ctx.stroke();
      const y = Math.max(free + 14 * box.type, Math.min(box.tall - 7 * box.type, Math.max(7 * box.type, (from + to) / 2)));
      if (y > box.tall - 6 * box.type) continue;
      ctx.fillText(name, right + 11, y, box.names - 12);
      free = y;
    }
    function edge(index) { // the step-shaped border before the cell of this index
      const row = Math.floor(index / cols) - grid.top, col = index % cols;
      if (row < 0 || row > rows) return;
      const y = box.y + row * cell - 0.5, x = box.x + col * cell - 0.5;
      ctx.beginPath();
      if (col && row < rows) { ctx.moveTo(box.x, y + cell); ctx.lineTo(x, y + cell); ctx.lineTo(x, y); ctx.lineTo(right, y); }
      else { ctx.moveTo(box.x, y); ctx.lineTo(right, y); }
      ctx.stroke();
    }
  }

  function strip() {
    const x = ui.width - box.strip, tall = box.tall - 2, buckets = Math.floor(tall / 2);
    for (let i = 0; i < buckets; i++) {
      const a = Math.floor((i * pages.count) / buckets), b = Math.max(a + 1, Math.floor(((i + 1) * pages.count) / buckets));
      if (a >= pages.count) break;
      const [mask] = pages.look(a, Math.min(b, pages.count)), wanted = filter ? mask & filter : mask;
      fillRank(severest(wanted || mask), !wanted, x, 1 + 2 * i, box.strip, 2);
    }
    const { cols, pages: each } = grid.level;
    const y0 = (grid.top * cols * each * tall) / pages.count, y1 = (Math.min(pages.count, (grid.top + grid.rows) * cols * each) * tall) / pages.count;
    ctx.lineWidth = 2;
    ctx.strokeStyle = box.card;
    const place = [x - 0.5, 1 + Math.min(y0, tall - 5), box.strip, Math.max(5, y1 - y0) - 1];
    ctx.strokeRect(place[0] + 1.5, place[1] + 1.5, place[2] - 3, place[3] - 3);
    ctx.strokeStyle = box.ink;
    ctx.strokeRect(...place);
  }

  function ring(page, width, colour) {
    const { cols, cell } = grid.level, index = grid.cellOf(page), row = Math.floor(index / cols) - grid.top;
    if (row < 0 || row >= grid.rows) return;
    const size = Math.max(cell, 7), x = box.x + (index % cols) * cell - (size - cell) / 2, y = box.y + row * cell - (size - cell) / 2;
    ctx.lineWidth = width + 2;
    ctx.strokeStyle = box.card;
    ctx.strokeRect(x - 1, y - 1, size + 1, size + 1);
    ctx.lineWidth = width;
    ctx.strokeStyle = colour;
    ctx.strokeRect(x - 1, y - 1, size + 1, size + 1);
  }

  function flash() {
    const now = performance.now();
    if (!ui.still) flashes = flashes.filter(([, , when]) => now - when < FLASH);
    if (!flashes.length) return;
    const { cols, cell, pages: each } = grid.level, rows = grid.rows;
    const from = grid.top * cols, to = (grid.top + rows) * cols;
    ctx.lineWidth = 2;
    ctx.strokeStyle = box.ink;
    for (const [a, b, when] of flashes) {
      const age = ui.still ? 0 : (now - when) / FLASH, grow = Math.max(0, (7 - cell) / 2) + 3 * (1 - age);
      ctx.globalAlpha = 1 - age;
      const first = Math.max(from, Math.floor(a / each)), last = Math.min(to, Math.ceil(b / each));
      for (let row = Math.floor(first / cols); row * cols < last; row++) { // one outline a row
        const c0 = Math.max(0, first - row * cols), c1 = Math.min(cols, last - row * cols);
        ctx.strokeRect(box.x + c0 * cell - grow, box.y + (row - grid.top) * cell - grow, (c1 - c0) * cell - 1 + 2 * grow, cell - 1 + 2 * grow);
      }
    }
    ctx.globalAlpha = 1;
    if (!ui.still) ui.paint();
  }

  // ------------------------------------------------------------- legend, status

  function chip(letter, kind, onclick) {
    const swatch = h("span", { class: "sl-swatch", text: letter, "aria-hidden": "true" });
    if (kind.colour) swatch.style.cssText = `background:${kind.colour};color:${kind.ink}`;
    const count = h("b");
    const element = h("button", { type: "button", class: "sl-key", "aria-pressed": "false", title: `Show ${kind.name} only`, onclick }, swatch, h("span", { text: kind.name }), count);
    return { element, count };
  }

  function legend() {
    if (!chips.length) {
      chips = pages.kinds.map((kind, code) => chip(kind.letter, kind, () => { filter ^= 1 << pages.rankOf[code]; ui.paint(); }));
      const pin = h("span", { class: "sl-key sl-pinned" }, h("span", { class: "sl-swatch sl-tick", "aria-hidden": "true" }), h("span", { text: "pinned" }), h("b"));
      chips.push({ element: pin, count: pin.lastChild });
      ui.foot.replaceChildren(...chips.map((one) => one.element));
    }
    pages.kinds.forEach((_, code) => {
      const on = (filter >> pages.rankOf[code]) & 1;
      chips[code].element.hidden = !pages.counts[code] && !on;
      chips[code].element.setAttribute("aria-pressed", Boolean(on));
      write(chips[code].count, many(pages.counts[code]));
    });
    chips[chips.length - 1].element.hidden = !pages.pinned;
    write(chips[chips.length - 1].count, many(pages.pinned));
  }

  const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  function tell(page = cursor) {
    if (!pages) return;
    const each = grid.level?.pages ?? 1, a = Math.floor(page / each) * each;
    ui.say(sentence(pages, map, a, Math.min(a + each, pages.count)));
  }

  // ------------------------------------------------------------- hand and keyboard

  let telling;
  function go(page, { quiet = false } = {}) {
    const each = grid.level.pages, cell = Math.floor(Math.max(0, Math.min(page, pages.count - 1)) / each);
    let best = cell * each; // the first of the most severe pages of the cell, so that zooming in leads there
    for (let p = best; p < Math.min((cell + 1) * each, pages.count); p++) if (pages.rank[p] > pages.rank[best]) best = p;
    cursor = quiet ? page : best;
    grid.show(cursor);
    tell();
    ui.paint();
    touched = true;
    if (quiet) return;
    clearTimeout(telling);
    telling = setTimeout(() => ui.select(cursor), 40);
  }

  function key(event) {
    if (!pages || !levels.length) return false;
    const { cols, pages: each } = grid.level, cell = grid.cellOf(cursor), screen = cols * grid.rows;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols, PageUp: -screen, PageDown: screen };
    const last = Math.ceil(pages.count / each) - 1;
    if (event.key in moves) {
      const to = cell + moves[event.key];
      go((to < 0 ? (cell < cols ? 0 : cell % cols) : to > last ? (moves[event.key] === 1 ? last : cell) : to) * each);
    } else if (event.key === "Home") go(0);
    else if (event.key === "End") go(pages.count - 1);
    else if (event.key === "+" || event.key === "=") { zoom(1); go(cursor); }
    else if (event.key === "-") { zoom(-1); tell(); }
    else if (event.key === "0") { z = 0; touched = true; grid.show(cursor); tell(); }
    else if (event.key === "u") { fit(pages.extent()); go(cursor); }
    else if (event.key === "Enter") ui.send("enter", { page: cursor });
    else return false;
    ui.paint();
    return true;
  }

  const inStrip = (event) => box.strip && event.clientX - canvas.getBoundingClientRect().left >= ui.width - box.strip - 4;

  function drag(event) {
    const y = (event.clientY - canvas.getBoundingClientRect().top) / box.tall, { cols, pages: each } = grid.level;
    grid.top = Math.max(0, Math.min(Math.round((y * pages.count) / each / cols - grid.rows / 2), grid.rowsOf() - grid.rows));
    grid.top = Math.max(0, top);
    touched = true;
    ui.paint();
  }

  let dragging = false, turned = 0;
  canvas.addEventListener("pointerdown", (event) => {
    if (!pages) return;
    ui.stage.focus({ preventScroll: true });
    if (inStrip(event)) { dragging = true; canvas.setPointerCapture(event.pointerId); drag(event); return; }
    const page = pageAt(event);
    if (page >= 0) go(page);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pages) return;
    if (dragging) return drag(event);
    const page = inStrip(event) ? -1 : pageAt(event);
    canvas.style.cursor = inStrip(event) ? "ns-resize" : page < 0 ? "default" : "";
    if (page === hover) return;
    hover = page;
    tell(page < 0 ? cursor : page);
    ui.paint();
  });
  canvas.addEventListener("pointerup", () => (dragging = false));
  canvas.addEventListener("pointerleave", () => { if (pages) { hover = -1; tell(); ui.paint(); } });
  canvas.addEventListener("dblclick", (event) => { const page = pageAt(event); if (page >= 0) ui.send("enter", { page: cursor }); });
  canvas.addEventListener("wheel", (event) => { // the notebook scrolls until the map has been clicked
    if (!pages || !(event.ctrlKey || document.activeElement === ui.stage)) return;
    turned += event.deltaY;
    if (Math.abs(turned) >= 60) {
      const page = hover >= 0 ? hover : cursor;
      if (!zoom(turned < 0 ? 1 : -1, page) && !event.ctrlKey) { turned = 0; return; }
      turned = 0;
      hover = pageAt(event);
      tell(hover < 0 ? cursor : hover);
      ui.paint();
    }
    event.preventDefault();
  }, { passive: false });

  // ------------------------------------------------------------- messages

  async function full(message, [buffer]) {
    const data = await bytes(buffer, message.z), fresh = !pages || pages.count !== message.count;
    map = message;
    pages = new Pages(message.count, message.kinds.map(([name, letter, colour, ink, severity]) => ({ name, letter, colour, ink, severity })));
    if (message.whole) pages.load(data);
    else pages.apply(data);
    chips = [];
    flashes = [];
    if (message.lit !== undefined) lit = message.lit;
    if (fresh) { touched = false; cursor = 0; }
    layout();
    if (!touched) home();
    if (Number.isInteger(message.selected)) selected(message.selected);
    tell();
  }

  function home() {
    const used = pages.extent();
    fit(used);
    if (!touched && used) cursor = Math.max(cursor, 0);
  }

  async function delta(message, [buffer]) {
    const ranges = pages.apply(await bytes(buffer, message.z)), now = performance.now();
    flashes = [...(ui.still ? [] : flashes), ...ranges.map(([a, b]) => [a, b, now])].slice(-FLASHES);
    if (!touched) home();
    if (hover < 0) tell();
  }

  function selected(page) {
    if (!pages || !Number.isInteger(page) || page === cursor || page < 0 || page >= pages.count) return;
    go(page, { quiet: true });
  }

  return {
    full, delta, paint, key, selected,
    lit: ({ owner }) => { lit = owner; ui.paint(); },
    resize: () => { const page = cursor; layout(); if (pages) { if (touched) show(page); else home(); } },
  };
}
