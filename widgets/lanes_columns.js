// The lines of a trace as columns, and which of them are shown where. No drawing here.

const LINE_SIZE = 20; // bytes of a packed line: source, target, lock, bad (u8), label, answer, kind, n (u32)
const LOCK = { TAKEN: 1, GIVEN: 2, AWAITED: 4 };

class LineTable {
  constructor() { this.clear(); }

  clear() {
    this.count = 0;
    this.texts = [];
    this.view = new DataView(new ArrayBuffer(0));
    this.lifelines = [];
    this.locks = [];
  }

  add(message, packed, texts) {
    if (message.again) this.clear();
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
    return `Entry ${this.n(i)}: ${from}${from === to ? "" : ` to ${to}`}, ${this.label(i)}${this.answer(i) ? `: ${this.answer(i)}` : ""}.`;
  }

  // Stretches in which a lifeline holds a lock or waits for one: [lifeline, from line, to line, waiting].
  findLocks() {
    this.locks = [];
    const held = new Map(), waits = new Map();
    for (let i = 0; i < this.count; i++) {
      const what = this.lock(i);
      if (!what) continue;
      const at = this.source(i), stack = held.get(at) ?? [];
      held.set(at, stack);
      if (what === LOCK.AWAITED) waits.set(at, i);
      else if (what === LOCK.TAKEN) {
        if (waits.has(at)) { this.locks.push([at, waits.get(at), i, true]); waits.delete(at); }
        stack.push(i);
      } else if (stack.length) this.locks.push([at, stack.pop(), i, false]);
    }
    for (const [at, stack] of held) for (const from of stack) this.locks.push([at, from, this.count - 1, false]);
    for (const [at, from] of waits) this.locks.push([at, from, this.count - 1, true]);
  }

  // The places of the picture, top to bottom: {both: line}, {gap: true} where two traces part, {left, right} after it.
  places({ parties, kinds, words }) {
    const wanted = (i) => (!parties.size || parties.has(this.source(i)) || parties.has(this.target(i)))
      && (!kinds.size || kinds.has(this.texts[this.kindOf(i)]))
      && (!words || `${this.label(i)} ${this.answer(i)} ${this.texts[this.kindOf(i)]}`.toLowerCase().includes(words));
    const of = (from, to) => { const found = []; for (let i = from; i < to; i++) if (wanted(i)) found.push(i); return found; };
    if (this.split == null) return { both: of(0, this.count), left: [], right: [], parted: false };
    return { both: of(0, this.split), left: of(this.split, this.left), right: of(this.left, this.count), parted: true };
  }
}
