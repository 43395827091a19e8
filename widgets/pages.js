// The pages behind a PageMap, in the browser: what they are, and how they shrink into cells.
//
// Pages are kept as ranks, least severe first; above them stand levels of sixteen
// pages, 256, 4,096 ..., each a set of the ranks below (a bit a rank), so that a cell
// of any size is a handful of ORs and one changed page is never lost. A filter is a mask.

const SHIFT = 4; // a level has a sixteenth of the entries of the one below

class Pages {
  constructor(count, kinds) {
    this.count = count;
    this.kinds = kinds;
    const order = kinds.map((_, code) => code).sort((a, b) => kinds[a].severity - kinds[b].severity || a - b);
    this.rankOf = new Uint8Array(256);
    order.forEach((code, rank) => (this.rankOf[code] = rank));
    this.codeOf = order;
    this.rank = new Uint8Array(count).fill(this.rankOf[0]);
    this.owner = new Uint16Array(count);
    this.pins = new Uint16Array(count);
    this.counts = new Float64Array(kinds.length);
    this.counts[0] = count;
    this.pinned = 0;
    this.masks = []; // masks[i] is level i + 1
    this.most = []; // the most pins of a group
    for (let size = count; size > 1; ) {
      size = Math.ceil(size / 16);
      this.masks.push(new Uint32Array(size).fill(1 << this.rankOf[0]));
      this.most.push(new Uint16Array(size));
    }
  }

  // Columns first, length, owner, pins, state, as widgets/runs.py packs them.
  apply(buffer) {
    const n = buffer.byteLength / 13;
    const first = new Uint32Array(buffer, 0, n), length = new Uint32Array(buffer, 4 * n, n);
    const owner = new Uint16Array(buffer, 8 * n, n), pins = new Uint16Array(buffer, 10 * n, n), state = new Uint8Array(buffer, 12 * n, n);
    const ranges = [];
    for (let i = 0; i < n; i++) {
      const a = first[i], b = a + length[i], rank = this.rankOf[state[i]];
      for (let page = a; page < b; page++) {
        this.counts[this.codeOf[this.rank[page]]]--;
        if (this.pins[page]) this.pinned--;
      }
      this.counts[state[i]] += b - a;
      if (pins[i]) this.pinned += b - a;
      this.rank.fill(rank, a, b);
      this.owner.fill(owner[i], a, b);
      this.pins.fill(pins[i], a, b);
      const last = ranges[ranges.length - 1];
      if (last && a <= last[1]) last[1] = Math.max(b, last[1]);
      else ranges.push([a, b]);
    }
    for (const [a, b] of ranges) this.lift(a, b);
    return ranges;
  }

  // State, owner and pins of all pages, whole: for a map without runs.
  load(buffer) {
    const n = this.count;
    this.owner = new Uint16Array(buffer, 0, n);
    this.pins = new Uint16Array(buffer, 2 * n, n);
    const state = new Uint8Array(buffer, 4 * n, n);
    this.counts.fill(0);
    this.pinned = 0;
    for (let page = 0; page < n; page++) {
      this.counts[state[page]]++;
      this.rank[page] = this.rankOf[state[page]];
      if (this.pins[page]) this.pinned++;
    }
    this.lift(0, n);
  }

  // Bring the levels above pages a to b - 1 up to date.
  lift(a, b) {
    let below = this.rank, count = this.pins, bit = (x) => 1 << x;
    for (let level = 0; level < this.masks.length; level++) {
      const masks = this.masks[level], most = this.most[level];
      a >>= SHIFT;
      b = (b + 15) >> SHIFT;
      for (let i = a; i < b; i++) {
        let mask = 0, top = 0;
        for (let j = i << SHIFT, end = Math.min(j + 16, below.length); j < end; j++) {
          mask |= bit(below[j]);
          if (count[j] > top) top = count[j];
        }
        masks[i] = mask;
        most[i] = top;
      }
      below = masks; count = most; bit = (x) => x;
    }
  }

  // The set of ranks among pages a to b - 1, and the most pins of one of them.
  look(a, b) {
    let mask = 0, top = 0, level = 0;
    while (a < b) {
      const masks = level ? this.masks[level - 1] : null, pins = level ? this.most[level - 1] : this.pins;
      const take = (i) => { mask |= masks ? masks[i] : 1 << this.rank[i]; if (pins[i] > top) top = pins[i]; };
      if (level < this.masks.length) {
        while (a < b && a & 15) take(a++);
        while (a < b && b & 15) take(--b);
        a >>= SHIFT; b >>= SHIFT; level++;
      } else while (a < b) take(a++);
    }
    return [mask, top];
  }

  // The first of the most severe pages from a to b - 1.
  worst(a, b) {
    let best = a;
    for (let page = a + 1; page < b; page++) if (this.rank[page] > this.rank[best]) best = page;
    return best;
  }

  has(owner, a, b) {
    for (let page = a; page < b; page++) if (this.owner[page] === owner) return true;
    return false;
  }

  // Whether a page of one of these ranks is pinned.
  held(mask, a, b) {
    for (let page = a; page < b; page++) if (this.pins[page] && mask & (1 << this.rank[page])) return true;
    return false;
  }

  // The kinds that are not the least severe lie between these pages.
  extent() {
    const ground = this.rank.length ? 1 << this.rankOf[0] : 0;
    const edge = (step) => {
      let level = this.masks.length - 1, i = step > 0 ? 0 : (this.masks[level]?.length ?? 1) - 1;
      for (; level >= -1; level--) {
        const at = (j) => (level < 0 ? 1 << this.rank[j] : this.masks[level][j]);
        const size = level < 0 ? this.count : this.masks[level].length;
        let j = level === this.masks.length - 1 ? i : step > 0 ? i << SHIFT : Math.min((i << SHIFT) + 15, size - 1);
        while (j >= 0 && j < size && at(j) === ground) j += step;
        if (j < 0 || j >= size) return -1;
        i = j;
      }
      return i;
    };
    const first = edge(1);
    return first < 0 ? null : [first, edge(-1) + 1];
  }
}

const hex = (number) => "0x" + number.toString(16);
const many = (number) => number.toLocaleString("en-US");

// The number of a page of the map: where regions are folded behind one another, the numbers jump.
function numberOf(map, page) {
  const [at, number] = map.places.findLast(([at]) => at <= page);
  return map.first + number + page - at;
}

// What a reader is told of pages a to b - 1; pagemap.py says the same of one page.
function sentence(pages, map, a, b) {
  if (b - a === 1) {
    const kind = pages.kinds[pages.codeOf[pages.rank[a]]], owner = pages.owner[a], pins = pages.pins[a];
    const parts = [`${kind.letter} ${kind.name}`];
    if (owner) parts.push(`${map.word} ${map.owners[owner] ?? owner}`);
    if (pins) parts.push(pins > 1 ? `pinned ${many(pins)} times` : "pinned");
    for (const [first, count, name] of map.regions) if (first <= a && a < first + count) parts.push(name);
    const number = numberOf(map, a);
    return `Page ${hex(number)} at ${hex(number * 4096)}: ${parts.join(", ")}.`;
  }
  const counts = new Map();
  let pinned = 0;
  for (let page = a; page < b; page++) {
    counts.set(pages.rank[page], (counts.get(pages.rank[page]) ?? 0) + 1);
    if (pages.pins[page]) pinned++;
  }
  const parts = [...counts].sort((x, y) => y[0] - x[0]).map(([rank, count]) => {
    const kind = pages.kinds[pages.codeOf[rank]];
    return `${kind.letter} ${kind.name} ${many(count)}`;
  });
  return `Pages ${hex(numberOf(map, a))} to ${hex(numberOf(map, b - 1))} (${many(b - a)}): ${parts.join(", ")}${pinned ? `; ${many(pinned)} pinned` : ""}.`;
}
