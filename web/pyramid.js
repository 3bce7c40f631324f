// Draws the KV cache, one row for each layer, the first at the bottom, as a pyramid stands.
//
//   tokens   one column for each token of the conversation: lit where the layer holds its row, dim where it was
//            dropped, pale where only some heads hold it
//   shape    each row centred, as long as the layer has rows, before the outline of a full cache
//
// A column can be pointed at, with a pointer, a finger or the arrow keys; `onPoint` hears which.

/** No cell is wider than this, so that a conversation is seen to grow. */
const WIDEST = 14;

export class Pyramid {
  #canvas;
  #view = "tokens";
  #tokens = 0;
  #rows = [];
  /** For each layer and token the share of the heads that hold its row, 0 to 255. */
  #held = [];
  /** Tokens of which `#held` knows; newer ones live everywhere. */
  #known = 0;
  /** The share of the layers that the newer ones have run through while a prompt runs. */
  #share = 1;
  #column = null;
  #frame = 0;
  /** @type {(column: number?) => void} */
  onPoint = () => {};

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
    for (const event of ["pointermove", "pointerdown"]) canvas.addEventListener(event, (e) => this.#pointAt(e.offsetX));
    canvas.addEventListener("pointerleave", () => document.activeElement !== canvas && this.point(null));
    canvas.addEventListener("focus", () => this.point(this.#column ?? 0));
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** The column that is pointed at, or null. */
  get column() {
    return this.#column;
  }

  set view(view) {
    this.#view = view;
    this.#redraw();
  }

  /** Live rows of each layer, and tokens of the conversation. */
  update(rows, tokens) {
    if (tokens < this.#known) this.#known = 0;
    [this.#rows, this.#tokens] = [rows, tokens];
    if (this.#column >= tokens) this.point(tokens ? tokens - 1 : null);
    this.#canvas.ariaValueMax = String(tokens);
    this.#redraw();
  }

  /** The last `count` tokens are a prompt that has run through this share of the layers. */
  read(share, count) {
    this.#share = share;
    this.#known = Math.min(this.#known, Math.max(0, this.#tokens - count));
    this.#redraw();
  }

  /** One more token, which lives in every layer until the next `hold` says otherwise. */
  grow() {
    this.#tokens++;
    this.#share = 1;
    this.#redraw();
  }

  /**
   * What lives now.
   * @param {Uint32Array[][]} positions of each layer, one list or one for each head
   */
  hold(positions) {
    // Newer tokens may be under way on the device than the page knows of, or the other way round.
    const newest = positions.reduce((most, [set]) => Math.max(most, set.at(-1) ?? -1), -1);
    const known = Math.min(this.#tokens, newest + 1);
    [this.#known, this.#share] = [known, 1];
    this.#held = positions.map((sets) => {
      const held = new Uint8Array(known);
      const share = Math.floor(255 / sets.length);
      for (const set of sets) for (const position of set) if (position < known) held[position] += share;
      return held;
    });
    this.#redraw();
  }

  /** Layers in which a token's row lives, and layers there are. */
  layersOf(token) {
    const layers = this.#rows.length;
    const lives = token >= this.#known ? Math.floor(layers * this.#share) : this.#held.filter((held) => held[token]).length;
    return [lives, layers];
  }

  /** Points at a column, or at none. */
  point(column) {
    this.#column = column === null || !this.#tokens ? null : Math.max(0, Math.min(column, this.#tokens - 1));
    this.#canvas.ariaValueNow = String((this.#column ?? 0) + 1);
    this.onPoint(this.#column);
    this.#redraw();
  }

  #unit() {
    return Math.min(WIDEST, this.#canvas.clientWidth / Math.max(this.#tokens, 1));
  }

  #pointAt(x) {
    const column = Math.floor(x / this.#unit());
    if (this.#view === "tokens") this.point(column < this.#tokens ? column : null);
  }

  #key(event) {
    const far = Math.max(1, Math.round(this.#tokens / 20));
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -far, PageUp: far };
    const ends = { Home: 0, End: this.#tokens - 1 };
    const to = ends[event.key] ?? (event.key in steps ? (this.#column ?? 0) + steps[event.key] : null);
    if (to === null || this.#view !== "tokens") return;
    event.preventDefault();
    this.point(to);
  }

  /** Draws soon, and at most ten times a second. */
  #redraw() {
    this.#frame ||= setTimeout(() => requestAnimationFrame(() => ((this.#frame = 0), this.#draw())), 100);
  }

  #draw() {
    const canvas = this.#canvas;
    const [width, height, scale] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
    const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const [bar, ghost, ink] = ["--bar", "--ghost", "--ink"].map((name) => style.getPropertyValue(name));
    const layers = this.#rows.length;
    const step = height / layers;
    const thick = Math.max(1, Math.min(step * 0.8, step - 1));
    for (let layer = 0; layer < layers; layer++) {
      const top = height - (layer + 1) * step + (step - thick) / 2;
      const fill = (color, alpha, x, wide) => {
        context.fillStyle = color;
        context.globalAlpha = alpha;
        context.fillRect(x, top, wide, thick);
      };
      if (this.#view === "shape") this.#drawLength(fill, layer, width, bar, ghost);
      else this.#drawCells(fill, layer, bar, ghost);
    }
    context.globalAlpha = 1;
    if (this.#view === "shape") return;
    const unit = this.#unit();
    // The gaps between cells, where cells are wide enough to be told apart.
    for (let token = 1; unit > 4 && token <= this.#tokens; token++) context.clearRect(token * unit - 1, 0, 1, height);
    if (this.#column === null) return;
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.strokeRect(this.#column * unit - 0.5, 0.75, Math.max(unit, 2), height - 1.5);
  }

  #drawLength(fill, layer, width, bar, ghost) {
    const wide = width * Math.min(1, this.#rows[layer] / Math.max(this.#tokens, 1));
    fill(ghost, 1, 0, width);
    fill(bar, 1, (width - wide) / 2, wide);
  }

  /** Draws neighbours of a kind as one. */
  #drawCells(fill, layer, bar, ghost) {
    const unit = this.#unit();
    const held = this.#held[layer] ?? [];
    const reached = layer < this.#share * this.#rows.length ? 255 : 0;
    const share = (token) => (token < this.#known ? held[token] : reached);
    for (let token = 0; token < this.#tokens; ) {
      const lit = share(token);
      let end = token + 1;
      while (end < this.#tokens && share(end) === lit) end++;
      fill(lit ? bar : ghost, lit ? 0.35 + (0.65 * lit) / 255 : 1, token * unit, Math.max((end - token) * unit, 0.5));
      token = end;
    }
  }
}

/** What the picture shows, in words. */
export function describePyramid(rows, tokens) {
  if (!tokens) return "Empty: nothing was said yet.";
  if (!rows[0]) return `${tokens} tokens, of which none was read yet.`;
  const last = rows.length - 1;
  return `${tokens} tokens; the first of ${rows.length} layers holds ${rows[0]} of them, the last ${rows[last]}.`;
}
