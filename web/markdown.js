// Markdown into elements while it is being written: headings, lists, tables, quotes, code, emphasis, links.
//
// Text reaches the page through text nodes alone, so that nothing a model says can become markup. A block is final
// once the first line of the next one is complete; only what may still change is built anew when text arrives, which
// is why nothing flickers.

export class Markdown {
  #element;
  #text = "";
  /** Where the first block begins that may still change, and the elements from there on. */
  #from = 0;
  #open = [];
  #due = 0;

  /** @param {HTMLElement} element what it fills */
  constructor(element) {
    this.#element = element;
  }

  get text() {
    return this.#text;
  }

  /** Adds text; the page shows it with its next frame. `shown` is called then. */
  push(text, shown = () => {}) {
    this.#text += text;
    this.#due ||= requestAnimationFrame(() => (this.flush(), shown()));
  }

  /** Shows what was added, now. */
  flush() {
    cancelAnimationFrame(this.#due);
    this.#due = 0;
    const blocks = split(this.#text.slice(this.#from));
    const elements = blocks.map(({ lines, render }) => render(lines));
    for (const element of this.#open) element.remove();
    this.#element.append(...elements);
    // A line that has only begun may yet turn out to belong to the block before: "2" becomes "2. second".
    const last = blocks.at(-1);
    const begun = last?.lines.length === 1 && this.#text.endsWith(last.lines[0]);
    const first = Math.max(0, blocks.length - (begun ? 2 : 1));
    this.#open = elements.slice(first);
    this.#from += blocks[first]?.start ?? 0;
  }
}

const FENCE = /^\s*(```+|~~~+)\s*([\w+#.-]*)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^\s*(?:-\s*){3,}$|^\s*(?:\*\s*){3,}$|^\s*(?:_\s*){3,}$/;

/** The blocks of a text: where each starts, its lines, and what makes an element of them. */
function split(text) {
  const blocks = [];
  const lines = text.split("\n");
  const starts = [0];
  for (const line of lines) starts.push(starts.at(-1) + line.length + 1);
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) {
      i++;
      continue;
    }
    const [end, render] = extent(lines, i);
    blocks.push({ start: starts[i], lines: lines.slice(i, end), render });
    i = end;
  }
  return blocks;
}

/** Where the block that begins at line `i` ends, and how it is rendered. */
function extent(lines, i) {
  const line = lines[i];
  const run = (belongs) => {
    let end = i + 1;
    while (end < lines.length && belongs(lines[end], end)) end++;
    return end;
  };
  const fence = FENCE.exec(line);
  if (fence) {
    const close = lines.findIndex((l, at) => at > i && l.trim().startsWith(fence[1]));
    return [close < 0 ? lines.length : close + 1, code];
  }
  if (HEADING.test(line)) return [i + 1, heading];
  if (RULE.test(line)) return [i + 1, () => document.createElement("hr")];
  if (line.startsWith(">")) return [run((l) => l.startsWith(">")), quote];
  if (line.startsWith("|")) return [run((l) => l.startsWith("|")), table];
  if (ITEM.test(line)) {
    // A blank line parts two items, or ends the list.
    const goesOn = (l, at) => (l.trim() ? ITEM.test(l) || /^\s+/.test(l) : goesOn(lines[at + 1] ?? "end", at + 1));
    return [run(goesOn), list];
  }
  const opens = (l) => !l.trim() || [FENCE, HEADING, RULE, ITEM].some((p) => p.test(l)) || /^[>|]/.test(l);
  return [run((l) => !opens(l)), paragraph];
}

const element = (name, ...children) => {
  const made = document.createElement(name);
  made.append(...children);
  return made;
};

const paragraph = (lines) => element("p", ...inline(lines.join("\n").trimEnd()));

function heading([line]) {
  const [, marks, title] = HEADING.exec(line);
  // The page's own headings come before those of an answer.
  return element(`h${Math.min(marks.length + 2, 6)}`, ...inline(title));
}

const quote = (lines) => element("blockquote", ...nested(lines.map((line) => line.replace(/^> ?/, ""))));

function nested(lines) {
  const blocks = split(lines.join("\n"));
  // A lone paragraph needs no box of its own.
  if (blocks.length === 1 && blocks[0].render === paragraph) return inline(blocks[0].lines.join("\n"));
  return blocks.map(({ lines, render }) => render(lines));
}

function code(lines) {
  const [, fence, language] = FENCE.exec(lines[0]);
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(fence);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "plain";
  copy.onclick = () => navigator.clipboard.writeText(text).then(() => (copy.textContent = "Copied"));
  const figure = element("figure", element("figcaption", language || "text", copy), element("pre", element("code", text)));
  figure.querySelector("pre").tabIndex = 0;
  return figure;
}

function list(lines) {
  const items = [];
  const [, indent, mark] = ITEM.exec(lines[0]);
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) items.push([line.slice(item[0].length)]);
    else items.at(-1).push(line.replace(/^ {1,4}|^\t/, ""));
  }
  const ordered = /\d/.test(mark);
  const made = element(ordered ? "ol" : "ul", ...items.map((item) => element("li", ...nested(item))));
  if (ordered) made.start = parseInt(mark, 10);
  return made;
}

function table(lines) {
  const rows = lines.map((line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim()));
  if (rows.length < 2 || !rows[1].every((cell) => /^:?-+:?$/.test(cell))) return paragraph(lines);
  const row = (cells, name) => element("tr", ...cells.map((cell) => element(name, ...inline(cell))));
  const body = element("tbody", ...rows.slice(2).map((cells) => row(cells, "td")));
  return element("table", element("thead", row(rows[0], "th")), body);
}

const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/,
    /(?<ticks>`+)(?<code>.+?)\k<ticks>(?!`)/,
    /\*\*(?<strong>\S(?:.*?\S)?)\*\*/,
    /\*(?<em>[^\s*](?:.*?[^\s*])?)\*/,
    /(?<!\w)_(?<low>[^\s_](?:.*?[^\s_])?)_(?!\w)/,
    /~~(?<del>\S(?:.*?\S)?)~~/,
    /!?\[(?<label>[^\]]+)\]\((?<target>[^()\s]+)\)/,
  ].map((part) => part.source).join("|"),
  "gs",
);

/** What stands in a line: text, and elements around parts of it. */
function inline(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    const { escaped, code, strong, em, low, del, label, target } = match.groups;
    if (escaped) nodes.push(escaped);
    else if (code) nodes.push(element("code", code.trim()));
    else if (strong) nodes.push(element("strong", ...inline(strong)));
    else if (em ?? low) nodes.push(element("em", ...inline(em ?? low)));
    else if (del) nodes.push(element("del", ...inline(del)));
    else nodes.push(link(label, target));
  }
  nodes.push(text.slice(at));
  return nodes.filter((node) => node !== "");
}

/** A link to another page; images too are only linked, since showing one would fetch it. */
function link(label, target) {
  const url = URL.parse(target);
  if (!["http:", "https:", "mailto:"].includes(url?.protocol)) return label;
  const made = element("a", ...inline(label));
  Object.assign(made, { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href });
  return made;
}
