// The frame around every picture: title, stage, status, messages, time, table.
//
// A widget's own module stands below this text and has a function, its MAKER, like
//
//     const pagemap = (ui) => ({
//       full(message, buffers) {},      // everything; may be async
//       delta(message, buffers) {},     // what is new; without it, full() takes these too
//       paint() {},                     // draw: after ui.paint(), and when size or theme changed
//       key(event) { return true; },    // a key pressed in the stage; true: it was meant for us
//       resize() {},                    // ui.width or ui.size is another
//       selected(value) {},             // something was selected elsewhere
//       sized: true,                    // the picture depends on the width: ask for another when it changes
//       KIND(message, buffers) {},      // a message {kind: KIND} of its own
//       close() {},
//     });
//
// ui: stage (the element with the focus: put the picture there), foot (below it, for a
// legend), bar (in the title line, for switches), width (px of the stage), height (px the stage may have), size ("S" "M" "L"),
// still (reduced motion), past (an earlier entry is drawn), say(sentence), send(kind,
// fields), select(value), fail(sentence, details), paint(), colour("--sl-ink"), chrome.

const SIZES = { S: [420, 150], M: [1000, 278], L: [Infinity, 470] }; // widest frame, highest stage (px)
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const GLYPHS = { // 16 by 16
  reset: "M3 3h2v10H3zM13 3v10L6 8z",
  back: "M11 3v10L4 8z",
  step: "M5 3v10l7-5z",
  run: "M2 3v10l6-5zM8 3v10l6-5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
};

function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function svg(tag, props = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  return element;
}

function glyph(name) {
  const picture = svg("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" });
  picture.append(svg("path", { d: GLYPHS[name], fill: "currentColor" }));
  return picture;
}

const button = (label, onclick, ...children) =>
  h("button", { type: "button", class: "sl-button", onclick, ...(children.length ? { "aria-label": label, title: label } : { text: label }) }, ...children);

// The bytes of a buffer, at an address that any typed array accepts; decompressed where the message says so.
async function bytes(buffer, squeezed) {
  if (squeezed) return new Response(new Blob([buffer]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  return buffer.buffer ? buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength) : buffer;
}

const COMMON = [["Tab", "in"], ["Esc", "out"], ["t", "table or picture"], ["?", "these keys"]];
const TIMED = [["[ ]", "one entry back, forward"]];

function frame(make) {
  return async function render({ model, el }, early, css) {
    const root = el.getRootNode(), home = root.head ?? root;
    if (![...home.querySelectorAll("style.sl-style")].some((style) => style.textContent === css))
      home.append(h("style", { class: "sl-style", text: css }));
    hatchings(root.body ?? root);
    const view = Math.random().toString(36).slice(2, 10);
    return new View(model, el, view, make).open(early);
  };
}

// Hatching and arrow heads, once and always in the page: a browser takes the first of a name, even from a cell out of sight.
function hatchings(home) {
  if ([...home.children].some((one) => one.matches("svg.sl-defs"))) return;
  home.prepend(svg("svg", { class: "sl-defs", width: 0, height: 0, "aria-hidden": "true", style: "position:absolute" }));
  home.firstElementChild.innerHTML = DEFS;
}

class View {
  constructor(model, el, id, make) {
    Object.assign(this, { model, id, have: -1, picks: 0, time: {}, tasks: Promise.resolve(), chrome: {}, rows: null });
    this.build(el);
    this.ui = {
      stage: this.stage, foot: this.foot, bar: this.bar, width: 0, height: 0, size: "M", past: false, chrome: {},
      get still() { return STILL.matches; },
      say: (text) => { if (this.status.textContent !== text) this.status.textContent = text; },
      send: (kind, fields = {}) => this.send(kind, fields),
      select: (value) => this.send("select", { value, nth: ++this.picks }),
      fail: (say, details = "") => this.error({ say, details }),
      paint: () => this.paint(),
      colour: (name) => getComputedStyle(this.root).getPropertyValue(name).trim(),
    };
    this.picture = make(this.ui);
  }

  build(el) {
    this.name = h("span", { class: "sl-name" });
    this.facts = h("span", { class: "sl-facts" });
    this.pastSign = h("span", { class: "sl-past", hidden: true });
    this.banner = h("p", { class: "sl-banner", hidden: true });
    this.stage = h("div", { class: "sl-stage", tabindex: "0", role: "application", "aria-roledescription": "picture" });
    this.emptySign = h("p", { class: "sl-empty", hidden: true });
    this.sheet = h("div", { class: "sl-sheet", tabindex: "0", role: "region", "aria-label": "Table view", hidden: true });
    this.foot = h("div", { class: "sl-foot" });
    this.bar = h("div", { class: "sl-choices" });
    this.status = h("p", { class: "sl-status", role: "status", "aria-live": "polite" });
    this.hint = button("Keys", () => this.toggleKeys(), "?");
    this.hint.classList.add("sl-hint");
    this.alert = h("div", { class: "sl-error", role: "alert", hidden: true });
    this.controls = h("div", { class: "sl-controls", role: "toolbar", "aria-label": "Time and export", hidden: true });
    this.keys = h("dl", { class: "sl-keys", hidden: true });
    this.root = h("div", { class: "sl", "data-size": "M", role: "group", onkeydown: (e) => this.key(e) },
      this.banner, h("div", { class: "sl-title" }, this.name, this.facts, this.bar, this.pastSign),
      h("div", { class: "sl-body" }, this.stage, this.emptySign, this.sheet), this.foot,
      h("div", { class: "sl-line" }, this.status, this.hint), this.alert, this.controls, this.keys);
    // JupyterLab's shortcuts are matched from the focused element upward: it must say so itself.
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
    el.append(this.root);
  }

  open(early) {
    this.listen = (message, buffers) => { this.tasks = this.tasks.then(() => this.take(message, buffers)).catch((error) => this.broken(error)); };
    this.model.on("msg:custom", this.listen);
    for (const [message, buffers] of early) this.listen(message, buffers);
    this.sizes = new ResizeObserver(() => this.measure());
    this.sizes.observe(this.root);
    // The outline is never drawn: its colour follows the theme, and its transition says when.
    const follow = ({ target, propertyName }) => { if (target === this.root && propertyName === "outline-color") { this.paint(); setTimeout(() => this.paint(), 100); } };
    for (const moment of ["run", "end", "cancel"]) this.root.addEventListener(`transition${moment}`, follow);
    this.stage.addEventListener("scroll", () => this.more(), { passive: true });
    this.measure();
    return () => { this.sizes.disconnect(); this.stop(); this.picture.close?.(); };
  }

  send(kind, fields = {}) { this.model.send({ kind, view: this.id, ...fields }); }

  // A view without a width (its output is folded, or far away) waits until it has one: measure() calls again.
  ready() {
    if (!this.ui.width) return;
    this.asked = true;
    this.wanted = this.ui.width;
    this.send("ready", { width: this.ui.width, size: this.ui.size });
  }

  measure() {
    const width = Math.floor(this.root.clientWidth), inner = Math.floor(this.stage.clientWidth || width - 26);
    if (!width || (inner === this.ui.width && this.ui.height)) return this.more();
    const size = Object.keys(SIZES).find((name) => width <= SIZES[name][0]);
    this.root.dataset.size = size;
    Object.assign(this.ui, { width: Math.floor(this.stage.clientWidth) || inner, size, height: SIZES[size][1] });
    this.picture.resize?.();
    this.paint();
    if (this.wanted === undefined) return this.ready();
    if (!this.picture.sized) return;
    clearTimeout(this.resized); // also when the first picture is still under way: it was asked for at the old width
    this.resized = setTimeout(() => this.ready(), 120);
  }

  // Whether there is more below: then the lower edge fades.
  more() {
    const { scrollTop, scrollHeight, clientHeight } = this.stage;
    this.stage.toggleAttribute("data-more", scrollHeight - clientHeight - scrollTop > 4);
  }

  paint() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      try { this.picture.paint?.(); this.root.dataset.seq = this.have; this.more(); } catch (error) { this.broken(error); }
    });
  }

  broken(error) {
    console.error(error);
    this.error({ say: `This picture could not be drawn: ${error.message}.`, details: error.stack ?? "" });
  }

  // ------------------------------------------------------------- messages

  async take(message, buffers) {
    if (message.to && message.to !== this.id) return;
    const { kind } = message, passed = (message.heard?.[this.id] ?? 0) < this.picks; // by a choice of this view that is still under way
    if (passed) delete message.selected;
    if (kind === "full" || kind === "delta") {
      if (kind === "delta") {
        if (message.seq <= this.have) return;
        if (this.picture.delta && message.seq !== this.have + 1) { // one was lost, or we have none yet
          if (!this.asked) this.ready();
          return;
        }
      }
      this.have = message.seq;
      if (kind === "full") this.asked = false;
      this.clock(this.wish === undefined ? message : { ...message, entry: this.time.entry }); // a hand on the scrubber is ahead of the answers
      await ((kind === "delta" && this.picture.delta) || this.picture.full)(message, buffers);
      this.paint();
    } else if (kind === "frame") { this.around(message); this.clock(message); }
    else if (kind === "sought") this.sought(message);
    else if (kind === "look") this.look();
    else if (kind === "selected") { if (message.by !== this.id && !passed) this.picture.selected?.(message.value); }
    else if (kind === "ping") this.send("ack", { seq: this.have });
    else if (kind === "error") this.error(message);
    else if (kind === "rows") this.fillSheet(message);
    else if (kind === "file") await download(message, buffers[0]);
    else await this.picture[kind]?.(message, buffers);
  }

  around(chrome) {
    this.chrome = this.ui.chrome = chrome;
    this.root.dataset.widget = chrome.widget; // for style sheets
    this.name.textContent = chrome.title;
    this.facts.textContent = chrome.facts.join(" · ");
    this.root.setAttribute("aria-label", [chrome.title, ...chrome.facts].join(", "));
    this.stage.setAttribute("aria-label", `${chrome.title}. ${chrome.empty || "Arrow keys move, question mark lists the keys."}`);
    this.banner.hidden = !chrome.imaginary;
    this.banner.textContent = `This machine never existed: ${chrome.imaginary}`;
    this.emptySign.hidden = !chrome.empty || !this.sheet.hidden;
    this.emptySign.replaceChildren(h("span", { text: chrome.empty }));
    const pairs = [...chrome.keys, ...(chrome.host ? TIMED : []), ...COMMON];
    this.keys.replaceChildren(...pairs.flatMap(([key, what]) => [h("dt", {}, h("kbd", { text: key })), h("dd", { text: what })]));
    if (chrome.files && !chrome.host) // without a host there is no bar that has these
      this.keys.append(h("dt", { text: "as" }), h("dd", { class: "sl-take" }, button("Table", () => this.toggleSheet()), ...fileButtons((what) => this.send("export", { what }))));
    this.controls.hidden = !chrome.host;
    this.hint.hidden = chrome.host;
    if (chrome.host && !this.slider) this.buildControls();
    this.picture.around?.(chrome);
  }

  // ------------------------------------------------------------- time

  buildControls() {
    const step = (by) => () => { this.stop(); this.seek(this.at() + by); };
    this.runButton = button("Run to now", () => (this.running ? this.stop() : this.run()), glyph("run"));
    this.slider = h("input", { type: "range", "aria-label": "Journal entry", oninput: () => { this.stop(); this.seek(+this.slider.value); } });
    this.where = h("output", { class: "sl-where" });
    this.whereNow = h("span");
    this.tableButton = h("button", { type: "button", class: "sl-button", text: "Table", "aria-pressed": "false", onclick: () => this.toggleSheet() });
    const menu = h("details", { class: "sl-menu" }, h("summary", { class: "sl-button", text: "Export" }),
      h("div", {}, ...fileButtons((what) => { menu.open = false; this.send("export", { what }); })));
    this.where.append(h("span", { class: "sl-word", text: "entry " }), this.whereNow);
    this.controls.append(
      button("Reset: to the first entry", () => { this.stop(); this.seek(0); }, glyph("reset")),
      button("Step back", step(-1), glyph("back")), button("Step", step(1), glyph("step")), this.runButton,
      this.slider, this.where, menu, this.tableButton, button("Keys", () => this.toggleKeys(), "?"));
  }

  at() { return this.time.entry ?? this.time.n ?? 0; }

  clock({ n, entry, oldest = this.time.oldest ?? 0 }) {
    if (n === undefined) return;
    this.time = { n, entry, oldest };
    this.ui.past = entry !== undefined;
    if (!this.slider) return;
    Object.assign(this.slider, { min: oldest, max: n });
    this.slider.value = this.at();
    const text = `${this.at()} of ${n}`;
    this.whereNow.textContent = text;
    this.slider.setAttribute("aria-valuetext", `entry ${text}`);
    if (this.root.toggleAttribute("data-past", this.ui.past) === this.pastSign.hidden) {
      this.pastSign.hidden = !this.ui.past;
      this.past ??= h("span");
      this.pastSign.replaceChildren(this.past, button("Back to now", () => { this.stop(); this.seek(null); this.stage.focus(); }));
    }
    if (this.past) this.past.textContent = `Entry ${entry} of ${n}, read only`;
  }

  // The newest wish only, and one question at a time: a scrubber asks faster than a kernel answers.
  seek(n) {
    const wish = n === null ? null : Math.max(this.time.oldest, Math.min(n, this.time.n));
    this.clock({ n: this.time.n, entry: wish === null || wish >= this.time.n ? undefined : wish });
    this.wish = wish;
    this.wishing ??= setTimeout(() => this.wishes(), 30);
  }

  wishes() {
    if (this.wish === undefined) { this.wishing = undefined; return; }
    this.send("seek", { n: this.wish });
    this.sent = this.wish;
    this.wish = undefined;
    this.wishing = setTimeout(() => this.wishes(), 3000); // if no answer comes, ask again
  }

  sought(message) {
    clearTimeout(this.wishing);
    this.wishing = undefined;
    if (this.wish !== undefined && this.wish !== this.sent) this.wishes();
    else { this.wish = undefined; this.clock(message); }
  }

  // Entry by entry as fast as they can be drawn, at most four a second; a long journal in some forty steps.
  run() {
    if (this.at() >= this.time.n) this.seek(0);
    const step = Math.max(1, Math.ceil((this.time.n - this.at()) / 40));
    this.runLooks("pause", "Pause");
    this.running = setInterval(() => {
      if (this.wishing) return;
      this.seek(this.at() + step);
      if (this.at() >= this.time.n) this.stop();
    }, 250);
  }

  runLooks(picture, label) {
    this.runButton.replaceChildren(glyph(picture));
    this.runButton.setAttribute("aria-label", label);
    this.runButton.title = label;
  }

  stop() {
    if (!this.running) return;
    clearInterval(this.running);
    this.running = undefined;
    this.runLooks("run", "Run to now");
  }

  // Somebody else's link leads here.
  look() {
    this.root.scrollIntoView({ block: "nearest", behavior: STILL.matches ? "auto" : "smooth" });
    this.stage.focus({ preventScroll: true });
    this.root.classList.remove("sl-looked");
    requestAnimationFrame(() => this.root.classList.add("sl-looked"));
  }

  // ------------------------------------------------------------- keys

  key(event) {
    const { key, target } = event;
    if (key === "Escape") {
      if (!this.keys.hidden) this.toggleKeys();
      else this.leave();
      return;
    }
    if (target.matches("input:not([type=range]), textarea, select") || event.metaKey) return;
    const plain = !event.ctrlKey && !event.altKey;
    const ours = { "[": () => this.seek(this.at() - 1), "]": () => this.seek(this.at() + 1) }; // AltGr on many keyboards
    const words = { t: () => this.toggleSheet(), "?": () => this.toggleKeys() };
    if (this.time.n !== undefined && ours[key]) { this.stop(); ours[key](); }
    else if (plain && words[key]) words[key]();
    else if (!(plain && target === this.stage && this.picture.key?.(event))) return;
    event.preventDefault();
  }

  leave() {
    document.activeElement?.blur();
    const notebook = this.root.closest(".jp-Notebook");
    if (notebook?.tabIndex >= 0) notebook.focus({ preventScroll: true });
  }

  toggleKeys() { this.keys.hidden = !this.keys.hidden; }
  // ------------------------------------------------------------- table, files, errors

  toggleSheet() {
    const open = this.sheet.hidden;
    if (open) { this.sheet.replaceChildren(h("p", { text: "…" })); this.send("table"); }
    this.sheet.hidden = !open;
    this.stage.hidden = open;
    this.emptySign.hidden = open || !this.chrome.empty;
    this.tableButton?.setAttribute("aria-pressed", open);
    (open ? this.sheet : this.stage).focus();
    if (!open) { this.measure(); this.paint(); }
  }

  fillSheet({ heads, rows, all }) {
    const numeric = heads.map((_, i) => rows.length > 0 && rows.every((row) => typeof row[i] === "number"));
    const cell = (tag, i, props) => h(tag, { class: numeric[i] ? "sl-number" : null, ...props });
    this.sheet.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, ...heads.map((text, i) => cell("th", i, { text, scope: "col" })))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((value, i) => cell("td", i, { text: value ?? "" })))))));
    if (all > rows.length) this.sheet.append(h("p", { text: `${all - rows.length} more rows: the CSV file has them all.` }));
    if (!rows.length) this.sheet.append(h("p", { text: this.chrome.empty || "No rows." }));
  }

  error({ say, details }) {
    this.alert.replaceChildren(h("p", { text: say }),
      ...(details ? [h("details", {}, h("summary", { text: "Details" }), h("pre", { text: details, tabindex: "0", role: "region", "aria-label": "Details of the error" }))] : []),
      button("Close this message", () => { this.alert.hidden = true; this.stage.focus(); }, "×"));
    this.alert.hidden = false;
  }
}
