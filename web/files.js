// Which files a model consists of, and opening them: from the store, a server or this machine.

import { Local, Remote } from "./source.js";
import { Store } from "./store.js";

/** What may lie beside safetensors. */
const BESIDE = [
  "config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "generation_config.json",
  "chat_template.jinja",
];

/**
 * Opens the files of a model as far as their sizes go.
 * @param {(string|Blob|ArrayBuffer)[]} parts URLs and files: one, or all shards and what belongs beside them
 * @param {AbortSignal} signal
 * @returns {{sources: (Local|Remote)[], storage: string}} storage: "opfs", or why nothing is stored
 */
export async function openFiles(parts, signal) {
  const urls = parts.filter((part) => typeof part === "string");
  if (!urls.length) return { sources: parts.map(local), storage: "local file" };
  const store = await Store.open(urls);
  // What is stored names its files, so that no server has to be asked for them.
  const known = store?.record.files.map(({ name, url }) => ({ name, url }));
  const remotes = known?.length ? known : await expand(urls, signal);
  const sources = parts.filter((part) => typeof part !== "string").map(local);
  for (const { name, url, optional } of remotes) {
    const source = new Remote(name, url, store?.file(name, url), signal);
    try {
      await source.open();
      sources.push(source);
    } catch (error) {
      if (!optional || !error.status) throw error;
      store?.record.files.pop();
    }
  }
  let storage = store ? "opfs" : "none in this browser or window";
  if (store && !(await isRoomFor(sources))) {
    for (const source of sources) if (source.missing) source.forgo();
    storage = "no room";
  }
  return { sources, storage };
}

const local = (part) => new Local(part instanceof Blob ? part : new Blob([part]));

/** Whether what is missing fits into what the browser grants this site. */
async function isRoomFor(sources) {
  const { quota, usage } = (await navigator.storage.estimate?.()) ?? {};
  return quota === undefined || usage + sources.reduce((sum, { missing }) => sum + missing, 0) <= quota;
}

/** The files that a URL means: itself, all shards of which it is one, and what lies beside safetensors. */
async function expand(urls, signal) {
  if (urls.length > 1) return urls.map(named);
  const [url] = urls;
  const path = new URL(url).pathname;
  const beside = (names) => names.map((name) => ({ ...named(new URL(name, url).href), optional: true }));
  if (path.endsWith(".safetensors.index.json")) {
    const response = await fetch(url, { signal });
    const { weight_map: map = {} } = response.ok ? await response.json().catch(() => ({})) : {};
    const shards = [...new Set(Object.values(map))].map((name) => named(new URL(name, url).href));
    return [...shards, named(url), ...beside(BESIDE)];
  }
  const [, stem, count, kind] = /^(.*)-\d{5}-of-(\d{5})\.(gguf|safetensors)$/.exec(path) ?? [];
  const shard = (i) => `${stem}-${String(i + 1).padStart(5, "0")}-of-${count}.${kind}`;
  const paths = stem ? Array.from({ length: Number(count) }, (_, i) => shard(i)) : [path];
  const files = paths.map((path) => named(Object.assign(new URL(url), { pathname: path }).href));
  return path.endsWith(".safetensors") ? [...files, ...beside(BESIDE)] : files;
}

function named(url) {
  return { name: decodeURIComponent(new URL(url).pathname.split("/").pop()), url };
}
