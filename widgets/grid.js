// Grid: where the cells of a PageMap lie, from the whole memory in one view to one page a cell.
//
// A level is {pages a cell, columns, width and height of a cell (px)}; columns are a power of
// two, so that rows begin at round addresses; a width need not be whole, so that all levels
// are as wide as the room. Level 0 shows all pages, the last one letters and numbers. Small
// cells are taller than wide where that fills the picture.

const LARGEST = 30; // px of a cell

class Grid {
  constructor() {
    Object.assign(this, { levels: [], z: 0, top: 0, count: 0 }); // top: the first row of cells in view
  }

  get level() { return this.levels[this.z]; }

  cellOf(page) { return Math.floor(page / this.level.pages); }

  rowsOf({ pages, cols } = this.level) { return Math.ceil(Math.ceil(this.count / pages) / cols); }

  get rows() { return Math.max(1, Math.floor(this.tall / this.level.high)); }

  // Make the levels for `count` pages in `room` by `height` px; cells are at least `least` px.
  lay(count, room, height, least, largest) {
    const before = this.level;
    this.count = count;
    this.levels = [];
    let cols = 8;
    while (2 * cols * least <= room && cols < 256) cols *= 2;
    const cell = Math.min(largest, room / cols), square = Math.floor(cell);
    let pages = 1;
    while (Math.ceil(count / pages / cols) * square > height) pages *= 2;
    for (; pages > 1; pages /= 2) this.levels.push({ pages, cols, cell });
    for (; cols >= 4; cols /= 2) {
      this.levels.push({ pages: 1, cols, cell: Math.min(largest, room / cols) });
      if (this.levels.at(-1).cell === largest) break;
    }
    for (const level of this.levels) {
      const square = Math.floor(level.cell);
      level.high = square < 12 ? Math.max(square, Math.min(2 * square, Math.floor(height / this.rowsOf(level)))) : square;
    }
    const heights = this.levels.map((level) => this.rowsOf(level) * level.high);
    this.tall = Math.max(...heights.filter((one) => one <= height)); // level 0 fits
    this.wide = Math.max(...this.levels.map((level) => Math.round(level.cols * level.cell)));
    const same = before ? this.levels.findIndex((level) => level.pages === before.pages && level.cols <= before.cols) : 0;
    this.z = same < 0 ? this.levels.length - 1 : same;
  }

  // The finest level that shows all pages from a to b - 1.
  fit(a, b) {
    this.z = 0;
    while (this.z + 1 < this.levels.length) {
      this.z++;
      const row = this.level.pages * this.level.cols;
      if (Math.ceil(b / row) - Math.floor(a / row) > this.rows) { this.z--; break; }
    }
    this.top = Math.floor(this.cellOf(a) / this.level.cols);
    this.show(a);
  }

  // Bring a page into view.
  show(page) {
    const row = Math.floor(this.cellOf(page) / this.level.cols);
    if (row < this.top) this.top = row;
    if (row >= this.top + this.rows) this.top = row - this.rows + 1;
    this.scroll(this.top);
  }

  scroll(top) { this.top = Math.max(0, Math.min(top, this.rowsOf() - this.rows)); }

  // Another level, with `page` where it was; false when there is none.
  zoom(by, page) {
    const row = Math.floor(this.cellOf(page) / this.level.cols) - this.top;
    const next = Math.max(0, Math.min(this.levels.length - 1, this.z + by));
    if (next === this.z) return false;
    this.z = next;
    this.top = Math.floor(this.cellOf(page) / this.level.cols) - row;
    this.show(page);
    return true;
  }

  // The left edge of a column, px.
  x(col) { return Math.round(col * this.level.cell); }

  // The first page of the cell at (x, y) px, -1 where there is none.
  at(x, y) {
    const { cols, cell, high, pages } = this.level, col = Math.floor(x / cell), row = Math.floor(y / high);
    if (x < 0 || y < 0 || col >= cols || row >= this.rows) return -1;
    const page = ((this.top + row) * cols + col) * pages;
    return page < this.count ? page : -1;
  }

  // The corner of a page's cell, px; null when it is not in view.
  place(page) {
    const { cols, high } = this.level, index = this.cellOf(page), row = Math.floor(index / cols) - this.top;
    return row < 0 || row >= this.rows ? null : [this.x(index % cols), row * high];
  }
}
