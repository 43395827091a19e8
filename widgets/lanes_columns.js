// The lines of a trace as columns, and which of them are shown where. No drawing here.

const LINE_SIZE = 20; // bytes of a packed line: source, target, lock, bad (u8), label, answer, kind, n (u32)
const LOCK = { TAKEN: 1, GIVEN: 2, AWAITED: 4 };

class LineTable {
  constructor() { this.unit = "entry"; this.clear(); }

  clear() {
    this.count = 0;
    this.texts = [];
    this.view = new DataView(new ArrayBuffer(0));
    this.lifelines = [];
    this.drawn = [];
    this.column = [];
    this.locks = [[]];
  }

  add(message, packed, texts) {
    if (message.again) this.clear();
    this.unit = message.unit ?? this.unit;
    this.lifelines = message.lifelines;
    const more = new TextDecoder().decode(texts);
    if (more.length || message.known === 0) this.texts = this.texts.slice(0, message.known).concat(more.split("\0"));
    const old = new Uint8Array(this.view.buffer, 0, Math.min(this.view.byteLength, message.first * LINE_SIZE));
    const all = new Uint8Array(old.length + packed.byteLength);
    all.set(old);
    all.set(new Uint8Array(packed), old.length);
    this.view = new DataView(all.buffer);
    this.count = all.length / LINE_SIZE;
    for (const { split, left } of [message]) if (split !== undefined) Object.assign(this, { split, left });
    this.findLocks();
    this.findColumns();
  }

  // Which lifelines have a column: those that a line touches, or all while there is no line. `column[at]` is its place.
  findColumns() {
    const touched = new Set();
    for (let i = 0; i < this.count; i++) touched.add(this.source(i)).add(this.target(i));
    this.drawn = this.lifelines.map((_, at) => at).filter((at) => !this.count || touched.has(at));
    this.column = this.lifelines.map((_, at) => this.drawn.indexOf(at));
  }

  source(i) { return this.view.getUint8(i * LINE_SIZE); }
  target(i) { return this.view.getUint8(i * LINE_SIZE + 1); }
  lock(i) { return this.view.getUint8(i * LINE_SIZE + 2); }
  bad(i) { return this.view.getUint8(i * LINE_SIZE + 3); }
  label(i) { return this.texts[this.view.getUint32(i * LINE_SIZE + 4, true)]; }
  answer(i) { return this.texts[this.view.getUint32(i * LINE_SIZE + 8, true)]; }
  kindOf(i) { return this.view.getUint32(i * LINE_SIZE + 12, true); }
  n(i) { return this.view.getUint32(i * LINE_SIZE + 16, true); }

  kinds() {
    const seen = new Map();
    for (let i = 0; i < this.count; i++) seen.set(this.kindOf(i), (seen.get(this.kindOf(i)) ?? 0) + 1);
    return [...seen].map(([kind, count]) => [this.texts[kind], count]).filter(([name]) => name).sort();
  }

  said(i) {
    const [from, to] = [this.source(i), this.target(i)].map((at) => this.lifelines[at][0]);
    return `${this.unit[0].toUpperCase()}${this.unit.slice(1)} ${this.n(i)}: ${from}${from === to ? "" : ` to ${to}`}, ${this.label(i)}${this.answer(i) ? `: ${this.answer(i)}` : ""}.`;
  }

  // The stretches of locks of the trace that line `i` is of: both begin alike, and each goes on with its own.
  locksOf(i) { return this.split != null && i >= this.left ? this.locks[1] : this.locks[0]; }

  findLocks() {
    const span = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);
    this.locks = this.split == null ? [this.stretches(span(0, this.count))]
      : [this.stretches(span(0, this.left)), this.stretches([...span(0, this.split), ...span(this.left, this.count)])];
  }

  // Stretches of these lines in which a lifeline holds a lock or waits for one: [lifeline, from line, to line, waiting].
  stretches(lines) {
    const locks = [], held = new Map(), waits = new Map(), last = lines[lines.length - 1];
    for (const i of lines) {
      const what = this.lock(i);
      if (!what) continue;
      const at = this.source(i), stack = held.get(at) ?? [];
      held.set(at, stack);
      if (what === LOCK.AWAITED) waits.set(at, i);
      else if (what === LOCK.TAKEN) {
        if (waits.has(at)) { locks.push([at, waits.get(at), i, true]); waits.delete(at); }
        stack.push(i);
      } else if (stack.length) locks.push([at, stack.pop(), i, false]);
    }
    for (const [at, stack] of held) for (const from of stack) locks.push([at, from, last, false]);
    for (const [at, from] of waits) locks.push([at, from, last, true]);
    return locks;
  }

  // The places of the picture, top to bottom: {both: line}, {gap: true} where two traces part, {left, right} after it.
  places({ parties, kinds, words }) {
    const wanted = (i) => (!parties.size || parties.has(this.source(i)) || parties.has(this.target(i)))
      && (!kinds.size || kinds.has(this.texts[this.kindOf(i)]))
      && (!words || `${this.label(i)} ${this.answer(i)} ${this.texts[this.kindOf(i)]}`.toLowerCase().includes(words));
    const of = (from, to) => { const found = []; for (let i = from; i < to; i++) if (wanted(i)) found.push(i); return found; };
    if (this.split == null) return { both: of(0, this.count), left: [], right: [], parted: false };
    return { both: of(0, this.split), left: of(this.split, this.left), right: of(this.left, this.count), parted: this.split < this.left || this.left < this.count };
  }
}
