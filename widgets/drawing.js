// Drawing: shows the SVG that Python made, and lets a reader walk, select, drag and choose in it.

const NUDGE = 8; // px that Shift and an arrow move a thing

function drawing(ui) {
  const board = h("div", { class: "sl-board" }), { bar } = ui;
  ui.stage.append(board);
  const rings = svg("g"); // around the items selected and pointed at, not in them: an item is as large as what is drawn of it
  let items = [], current = null, hover = null, say = "", before = new Map(), held = null, shown = 0;
  const keyOf = (item) => item?.dataset.key ?? null;
  const find = (key) => items.find((item) => item.dataset.key === key);

  // ------------------------------------------------------------- pictures

  async function full(message, buffers) {
    let which = message.widths.indexOf(ui.width);
    if (which < 0) which = message.widths.findIndex((at) => at <= ui.width);
    which = Math.max(0, which);
    const text = new TextDecoder().decode(await bytes(buffers[which], message.z[which]));
    say = message.say;
    const { scrollTop, scrollLeft } = ui.stage;
    board.innerHTML = text;
    const picture = board.firstElementChild;
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", say);
    picture.style.maxWidth = "100%";
    items = [...picture.querySelectorAll("[data-key]")];
    picture.append(rings);
    if (hover) hover = find(keyOf(hover)) ?? null; // the thing of that key, as it is drawn now
    const seen = new Map(items.map((item) => [item.dataset.key, item.innerHTML + item.dataset.say])); // being lit is no change
    if (shown++ && before.width === message.widths[which])
      for (const item of items) if (before.get(item.dataset.key) !== seen.get(item.dataset.key)) item.classList.add("sl-flash");
    before = seen;
    before.width = message.widths[which];
    ui.stage.style.maxHeight = `${Math.max(ui.height, +picture.getAttribute("height") <= 1.2 * ui.height ? 1.2 * ui.height : 0)}px`;
    Object.assign(ui.stage, { scrollTop, scrollLeft });
    legend(ui.chrome);
    if (message.selected !== undefined) current = message.selected;
    mark();
    tell();
  }

  // Where an item lies; null while the page does not show it (another tab, a theme that is being put on): then all its boxes are 0 by 0.
  function boxOf(item) {
    const box = item.getBBox();
    return box.width || box.height ? box : null;
  }

  function ring(item, style) {
    const box = boxOf(item);
    if (box) rings.append(svg("rect", { x: box.x - 2.5, y: box.y - 2.5, width: box.width + 5, height: box.height + 5, rx: 3, class: style }));
  }

  function mark() {
    rings.replaceChildren();
    const on = find(current);
    if (hover && hover !== on) ring(hover, "sl-halo");
    if (on) ring(on, "sl-ring");
  }
  const sight = new ResizeObserver(mark); // it is shown, again or in another size
  sight.observe(board);

  const tell = () => ui.say((hover ?? find(current))?.dataset.say ?? say);

  function select(item, report = true) {
    if (!item) return;
    current = keyOf(item);
    mark();
    tell();
    const { top, bottom } = item.getBoundingClientRect(), box = ui.stage.getBoundingClientRect();
    if (top < box.top || bottom > box.bottom) ui.stage.scrollTop += top < box.top ? top - box.top - 8 : bottom - box.bottom + 8;
    if (report) ui.select(current);
  }

  // ------------------------------------------------------------- choices, legend

  function legend(chrome) {
    const text = JSON.stringify([chrome.choices, chrome.legend]);
    if (text === legend.text) return;
    legend.text = text;
    const had = bar.contains(document.activeElement) ? document.activeElement.textContent : null;
    bar.replaceChildren(...(chrome.choices ?? []).map(([name, label, options, chosen]) =>
      h("div", { class: "sl-choice", role: "group", "aria-label": label }, h("span", { text: label }), ...options.map((option) =>
        h("button", { type: "button", class: "sl-button", text: option, "aria-pressed": String(option === chosen), onclick: () => ui.send("choose", { name, option }) })))));
    if (had) [...bar.querySelectorAll("button")].find((one) => one.textContent === had)?.focus();
    ui.foot.replaceChildren(...(chrome.legend ?? []).map(([picture, text]) => {
      const swatch = h("span", { "aria-hidden": "true" });
      swatch.innerHTML = picture;
      return h("span", { class: "sl-key sl-still" }, swatch, h("span", { text }));
    }));
  }

  // ------------------------------------------------------------- keyboard

  function toward(dx, dy) {
    const from = find(current);
    if (!from) return find(ui.chrome.start) ?? items[0];
    const centre = (item) => { const b = boxOf(item); return b && [b.x + b.width / 2, b.y + b.height / 2]; };
    const [x, y] = centre(from) ?? [0, 0];
    let best = null, least = Infinity;
    for (const item of items) {
      const there = item === from ? null : centre(item);
      if (!there) continue;
      const [a, b] = there, along = (a - x) * dx + (b - y) * dy, across = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
      if (along <= 0.5) continue;
      const cost = along + 3 * across;
      if (cost < least) [best, least] = [item, cost];
    }
    return best;
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function key(event) {
    const on = find(current) ?? (event.key === "Enter" ? find(ui.chrome.start) : null);
    if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      if (event.shiftKey) {
        const drag = on?.dataset.drag ?? "", step = +(on?.dataset.step ?? NUDGE);
        if ((dx && drag.includes("x")) || (dy && drag.includes("y"))) ui.send("drop", { key: current, dx: dx * step, dy: dy * step });
      } else select(toward(dx, dy));
    } else if (event.key === "Home") select(items[0]);
    else if (event.key === "End") select(items[items.length - 1]);
    else if ((event.key === "Enter" || event.key === " ") && on) { select(on); if (on.dataset.act) ui.send("act", { key: keyOf(on) }); }
    else {
      const choice = (ui.chrome.choices ?? []).find(([, label]) => label[0].toLowerCase() === event.key);
      if (!choice) return false;
      const [name, , options, chosen] = choice;
      ui.send("choose", { name, option: options[(options.indexOf(chosen) + 1) % options.length] });
    }
    return true;
  }

  // ------------------------------------------------------------- hand

  const under = (event) => event.target.closest?.("[data-key]");
  board.addEventListener("pointermove", (event) => {
    if (held) return pull(event);
    const item = under(event);
    if (item === hover) return;
    hover = item;
    mark();
    tell();
  });
  board.addEventListener("pointerleave", () => { hover = null; mark(); tell(); });
  board.addEventListener("pointerdown", (event) => {
    ui.stage.focus({ preventScroll: true });
    const item = under(event);
    if (!item) return;
    select(item);
    if (!item.dataset.drag || event.button) return;
    held = { item, x: event.clientX, y: event.clientY, dx: 0, dy: 0 };
    board.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  function pull(event) {
    const { drag, step } = held.item.dataset, snap = (d) => (step ? Math.round(d / step) * step : d);
    held.dx = drag.includes("x") ? snap(event.clientX - held.x) : 0;
    held.dy = drag.includes("y") ? snap(event.clientY - held.y) : 0;
    for (const one of [held.item, rings]) one.setAttribute("transform", `translate(${held.dx} ${held.dy})`);
  }
  function letGo(done) {
    if (!held) return;
    const { item, dx, dy } = held;
    held = null;
    for (const one of [item, rings]) one.removeAttribute("transform");
    if (done && (dx || dy)) ui.send("drop", { key: keyOf(item), dx, dy });
  }
  board.addEventListener("pointerup", () => letGo(true));
  board.addEventListener("pointercancel", () => letGo(false));
  board.addEventListener("dblclick", (event) => { const item = under(event); if (item?.dataset.act) ui.send("act", { key: keyOf(item) }); });

  return {
    full, key, sized: true,
    around: legend,
    selected: (key) => { current = key; mark(); tell(); },
    close: () => sight.disconnect(),
  };
}
