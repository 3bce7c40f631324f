// Draws the KV cache: one bar for each layer, the first at the bottom, as a pyramid stands.
//
//   shape       centred, as wide as the layer has rows, before the outline of a full cache
//   positions   one column for each token of the conversation, lit where a layer still holds its row

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} rows live rows of each layer
 * @param {number} tokens rows that a full cache has in each layer
 * @param {number[][]?} positions live positions of each layer; absent, the shape is drawn
 */
export function drawPyramid(canvas, rows, tokens, positions) {
  const scale = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const [bar, ghost] = ["--bar", "--ghost"].map((name) => style.getPropertyValue(name));
  const step = height / rows.length;
  const thick = Math.max(1, Math.min(step * 0.78, step - 1));
  const unit = width / Math.max(tokens, 1);
  rows.forEach((count, layer) => {
    const top = height - (layer + 1) * step + (step - thick) / 2;
    context.fillStyle = ghost;
    context.fillRect(0, top, width, thick);
    context.fillStyle = bar;
    if (!positions) {
      const wide = Math.min(width, count * unit);
      context.fillRect((width - wide) / 2, top, wide, thick);
      return;
    }
    for (const [first, length] of runs(positions[layer] ?? [])) {
      context.fillRect(first * unit, top, Math.max(length * unit - (unit > 4 ? 1 : 0), 0.5), thick);
    }
  });
}

/** What the picture shows, for those who do not see it. */
export function describePyramid(rows, tokens) {
  if (!tokens) return "No rows yet";
  const last = rows.length - 1;
  return `${tokens} tokens; the first of ${rows.length} layers holds ${rows[0]} rows, the last ${rows[last]}`;
}

/** Ascending numbers as runs of neighbours: [first, length]. */
function runs(numbers) {
  const found = [];
  for (const number of numbers) {
    const last = found.at(-1);
    if (last && last[0] + last[1] === number) last[1]++;
    else found.push([number, 1]);
  }
  return found;
}
