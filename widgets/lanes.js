// Lanes: what a reader does. The stage scrolls; one canvas sticks to its top and shows what is visible (lanes_paint.js).

const ZOOMS = [14, 18, 24, 32]; // px of a line

function lanes(ui) {
  const own = { "data-lm-suppress-shortcuts": "true" };
  const table = new LineTable();
  const canvas = h("canvas", { class: "sl-lanes", "aria-hidden": "true" }), spacer = h("div", { class: "sl-lanes-space" }, canvas);
  const search = h("input", { type: "search", class: "sl-search", placeholder: "search", "aria-label": "Search the lines", ...own, oninput: () => { filter.words = search.value.trim().toLowerCase(); refilter(); } });
  const found = h("output", { class: "sl-found" });
  const chips = h("div", { class: "sl-chips", role: "group", "aria-label": "Lifelines" });
  const kindList = h("div", { class: "sl-kinds" });
  const kindMenu = h("details", { class: "sl-menu sl-kind-menu" }, h("summary", { class: "sl-button", text: "Kinds", ...own }), kindList);
  const zoomOut = button("Zoom out", () => zoom(-1), "−"), zoomIn = button("Zoom in", () => zoom(1), "+");
  const filters = h("div", { class: "sl-filters" }, chips, h("span", { class: "sl-tools" }, kindMenu, search, found, zoomOut, zoomIn));
  const tiles = h("div", { class: "sl-tiles", role: "group", "aria-label": "Schedules", hidden: true });
  const drawer = h("div", { class: "sl-drawer", role: "group", hidden: true, "aria-label": "The line selected" }); // no landmark: a page has several
  const canvasOf = lanesPainter(ui, canvas, table);
  const filter = { parties: new Set(), kinds: new Set(), words: "" };
  let shown = { both: [], left: [], right: [], parted: false }, level = 2, current = null, side = "left", say = "", entry, names = [], detail = null, following = true, fresh = null;
  ui.stage.parentElement.before(tiles, filters);
  ui.stage.append(spacer);
  ui.stage.parentElement.append(drawer);
  ui.stage.classList.add("sl-scrolls");

  // ------------------------------------------------------------- what comes from Python

  async function full(message, buffers) {
    const [packed, texts] = await Promise.all([bytes(buffers[0], message.z[0]), bytes(buffers[1], message.z[1])]);
    if (message.again) { table.split = null; current = null; names = [message.names[0], message.parting, message.names[1]]; }
    const atEnd = ui.stage.scrollTop + ui.stage.clientHeight >= spacer.offsetHeight - 4;
    const old = table.count, follows = !message.again || (old && message.lifelines.length > table.lifelines.length); // else it is another trace
    table.add(message, packed, texts);
    if (!follows) fresh = null;
    else if (table.count > old) fresh = { from: old, when: performance.now() };
    say = message.say;
    if (message.schedules) drawTiles(message.schedules, message.picked);
    if (message.selected !== undefined && message.selected !== null && message.selected < table.count) current = message.selected;
    const moved = entry !== message.entry;
    entry = message.entry;
    drawChips();
    refilter();
    if (moved && entry !== undefined) scrollTo(shown.both.findLastIndex((i) => table.n(i) <= entry));
    else if (!message.again && atEnd && following) ui.stage.scrollTop = spacer.offsetHeight;
    tell();
  }

  function drawTiles(list, picked) {
    tiles.hidden = !list.length;
    tiles.replaceChildren(...list.map(([letter, ends, count, schedule]) => {
      const stuck = ends.some((end) => end.startsWith("waits for"));
      return h("button", { type: "button", class: `sl-tile${stuck ? " sl-stuck" : ""}`, "aria-pressed": String(schedule === picked), ...own, onclick: () => ui.send("pick", { schedule }) },
        h("b", { text: letter }), h("span", {}, ...ends.map((end, i) => h("span", { class: "sl-end", text: `${i + 1} ${end}` }))), h("span", { class: "sl-count", text: `${count} schedule${count === 1 ? "" : "s"}`, hidden: list.every((tile) => tile[2] === 1) }));
    }));
  }

  function drawChips() {
    const text = JSON.stringify([table.lifelines, table.drawn]);
    if (chips.dataset.text === text) return;
    chips.dataset.text = text;
    chips.replaceChildren(...table.drawn.map((at) => {
      const [name, letter] = table.lifelines[at];
      const swatch = letter ? h("span", { class: "sl-swatch", style: `background:${PARTY_COLOURS[letter]};color:${inkOn(letter)}`, "aria-hidden": "true", text: letter }) : "";
      const chip = h("button", { type: "button", class: "sl-key", "aria-pressed": String(filter.parties.has(at)), ...own, onclick: () => toggle(filter.parties, at, chip) }, swatch, h("span", { text: name }));
      return chip;
    }));
  }

  function toggle(set, value, chip) {
    if (!set.delete(value)) set.add(value);
    chip.setAttribute("aria-pressed", String(set.has(value)));
    refilter();
  }

  kindMenu.addEventListener("toggle", () => {
    if (kindMenu.open) kindList.replaceChildren(...table.kinds().map(([name, count]) =>
      h("label", {}, h("input", { type: "checkbox", checked: filter.kinds.has(name), ...own, onchange: () => { if (!filter.kinds.delete(name)) filter.kinds.add(name); refilter(); } }), h("span", { text: name }), h("span", { class: "sl-found", text: String(count) }))));
  });
  kindMenu.addEventListener("keydown", (event) => { if (event.key === "Escape" && kindMenu.open) { kindMenu.open = false; kindMenu.firstElementChild.focus(); event.stopPropagation(); } });

  function refilter() {
    shown = table.places(filter);
    const all = table.count, some = shown.both.length + shown.left.length + shown.right.length;
    found.textContent = some === all ? "" : some ? `${some} of ${all}` : `none of ${all}: Esc shows all`;
    measure();
    ui.paint();
  }

  // ------------------------------------------------------------- geometry

  const line = () => Math.round(ZOOMS[level] * (ui.size === "L" ? 1.35 : 1));
  const rows = () => shown.both.length + (shown.parted ? 1 + Math.max(shown.left.length, shown.right.length) : 0);
  const room = () => ({ S: drawer.hidden ? 134 : 100, M: !drawer.hidden ? 104 : shown.parted || !tiles.hidden ? 230 : 256, L: 420 })[ui.size];

  function measure() {
    const high = HEADER + rows() * line() + 10;
    spacer.style.height = `${high}px`;
    ui.stage.style.height = `${Math.min(Math.max(high, 120), room())}px`;
    ui.stage.parentElement.classList.toggle("sl-beside", ui.size === "L" && !drawer.hidden);
  }

  // What stands in row `at` of the picture: the line of the left (or only) column, and that of the right.
  function at(row) {
    if (row < shown.both.length) return [shown.both[row], null];
    const k = row - shown.both.length - 1;
    return k < 0 ? ["parted", null] : [shown.left[k] ?? null, shown.right[k] ?? null];
  }

  function rowOf(index) {
    if (index === null) return -1;
    let row = shown.both.indexOf(index);
    if (row >= 0) return row;
    row = shown.left.indexOf(index);
    if (row < 0) row = shown.right.indexOf(index);
    return row < 0 ? -1 : shown.both.length + 1 + row;
  }

  function scrollTo(row) {
    if (row < 0) return;
    const y = HEADER + row * line(), top = ui.stage.scrollTop, high = ui.stage.clientHeight;
    if (y - HEADER < top) ui.stage.scrollTop = y - HEADER;
    else if (y + line() > top + high) ui.stage.scrollTop = y + line() - high + 6;
  }

  // ------------------------------------------------------------- the reader

  function tell() { ui.say(current === null || current >= table.count ? say : table.said(current)); }

  function select(index, open = false) {
    if (index === null || index === undefined || index === "parted") return;
    current = index;
    scrollTo(rowOf(index));
    tell();
    ui.paint();
    if (open || !drawer.hidden) openDrawer();
    ui.select(index);
  }

  function openDrawer() {
    drawer.hidden = false;
    if (!detail || detail.index !== current) drawer.replaceChildren(h("p", { text: "…" }));
    measure();
  }

  function closeDrawer() {
    drawer.hidden = true;
    measure();
    ui.stage.focus({ preventScroll: true });
    ui.paint();
  }

  function fillDrawer(message) {
    detail = message;
    if (drawer.hidden || message.index !== current) return;
    const there = ui.chrome.host ? [h("button", { type: "button", class: "sl-button sl-goto", text: `Go to entry ${message.n}`, ...own, onclick: seek })] : [];
    drawer.replaceChildren(
      h("div", { class: "sl-drawer-head" }, h("b", { text: message.said }), ...there, button("Close", closeDrawer, "×")),
      h("dl", {}, ...message.fields.flatMap(([name, value]) => [h("dt", { text: name }), h("dd", { text: value })])),
      ...(message.svg ? [picture(message)] : []),
      ...(message.hex ? [h("pre", { text: message.hex, tabindex: "0", role: "region", "aria-label": "The bytes that moved", ...own })] : []));
  }

  function picture({ svg: text, fields }) { // a small Layout
    const holder = h("div", { class: "sl-moved", role: "img", "aria-label": `The bytes that moved, field by field: ${fields.find(([name]) => name === "structure")?.[1] ?? "a structure"}` });
    holder.innerHTML = text;
    return holder;
  }

  const seek = () => current !== null && current < table.count && ui.chrome.host && ui.send("seek", { n: table.n(current) });

  function step(by) {
    if (!rows()) return;
    let row = rowOf(current);
    row = row < 0 ? (by > 0 ? Math.floor(ui.stage.scrollTop / line()) - 1 : rows()) : row;
    for (row += by; row >= 0 && row < rows(); row += Math.sign(by)) {
      const [one, two] = at(row), index = side === "right" ? two ?? one : one ?? two;
      if (index !== "parted" && index !== null) return select(index);
    }
    select(by > 0 ? edge(-1) : edge(1));
  }

  // The first (1) or last (-1) line of the picture.
  function edge(way) {
    for (let row = way > 0 ? 0 : rows() - 1; row >= 0 && row < rows(); row += way) {
      const [one, two] = at(row), index = one ?? two;
      if (index !== "parted" && index !== null) return index;
    }
    return null;
  }

  function across_side(way) {
    side = way;
    const row = rowOf(current);
    if (row > shown.both.length) select(at(row)[way === "right" ? 1 : 0]);
  }

  function zoom(by) {
    const row = Math.floor(ui.stage.scrollTop / line());
    level = Math.max(0, Math.min(ZOOMS.length - 1, level + by));
    zoomOut.disabled = level === 0;
    zoomIn.disabled = level === ZOOMS.length - 1;
    measure();
    ui.stage.scrollTop = row * line();
    ui.paint();
  }

  function key(event) {
    const screen = Math.max(1, Math.floor((ui.stage.clientHeight - HEADER) / line()) - 1);
    const acts = {
      ArrowDown: () => step(1), ArrowUp: () => step(-1), PageDown: () => step(screen), PageUp: () => step(-screen), Home: () => select(edge(1)), End: () => select(edge(-1)),
      ArrowLeft: () => across_side("left"), ArrowRight: () => across_side("right"), Enter: () => { if (current === null) step(1); if (drawer.hidden) select(current, true); else closeDrawer(); },
      g: seek, "/": () => search.focus(), "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1),
    };
    if (!acts[event.key]) return false;
    acts[event.key]();
    return true;
  }

  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !search.value) return; // some browsers empty the field without telling
    event.preventDefault();
    event.stopPropagation();
    search.value = filter.words = "";
    refilter();
  });
  search.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); ui.stage.focus(); step(1); } });
  ui.stage.addEventListener("scroll", () => { following = ui.stage.scrollTop + ui.stage.clientHeight >= spacer.offsetHeight - 4; ui.paint(); }, { passive: true });
  canvas.addEventListener("click", (event) => {
    const y = event.offsetY - HEADER;
    if (y < 0) return;
    const [one, two] = at(Math.floor((ui.stage.scrollTop + y) / line()));
    side = event.offsetX > canvas.clientWidth / 2 ? "right" : "left";
    ui.stage.focus({ preventScroll: true });
    const index = side === "right" ? two ?? one : one ?? two;
    if (index !== null && index !== undefined) select(index, true);
  });

  const paint = () => canvasOf({ at, rows: rows(), line: line(), shown, current, entry, names, fresh });

  return {
    full, delta: full, paint, key,
    detail: fillDrawer,
    resize: () => { measure(); ui.paint(); },
    selected: (index) => { current = index; scrollTo(rowOf(index)); tell(); ui.paint(); },
    around() { ui.stage.setAttribute("aria-label", `${ui.chrome.title}. ${ui.chrome.empty || "A sequence diagram: arrow keys move from line to line, Enter shows fields and bytes."}`); },
  };
}
