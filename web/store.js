// Models kept in the browser's private file system (OPFS), so that they are fetched once and open offline.
//
//   benben/<id>/record.json    {name, url, date, files: [{name, url, size, version, have, hashes}]}
//   benben/<id>/0, 1, ...      the bytes of those files
//
// A file is kept in chunks with a SHA-256 each, which is compared whenever a chunk is read. It grows from its start,
// so `have` bytes of it are there whatever interrupted a download: after a closed tab all whole chunks, else every
// byte. `version` is what the server said of the file (its ETag or date), to notice that it is another one now.

import { BenbenError } from "./errors.js";

const CHUNK = 4 << 20;

/** The folder of all models, or null where the browser has none (private windows, pages without https). */
async function folder() {
  try {
    const root = await navigator.storage.getDirectory();
    return await root.getDirectoryHandle("benben", { create: true });
  } catch {
    return null;
  }
}

async function readRecord(directory) {
  try {
    const file = await (await directory.getFileHandle("record.json")).getFile();
    return JSON.parse(await file.text());
  } catch {
    return null; // Interrupted before its first record was whole: nothing to go on from.
  }
}

/** Everything that is stored: [{name, url, date, size, have, complete}], bytes and a date in milliseconds. */
export async function stored() {
  const all = [];
  const models = await folder();
  if (!models) return all;
  for await (const directory of models.values()) {
    const record = await readRecord(directory);
    if (!record) continue;
    const { name, url, date, files } = record;
    const [size, have] = [total(files, "size"), total(files, "have")];
    all.push({ name, url, date, size, have, complete: files.every((file) => file.have === file.size) });
  }
  return all.sort((a, b) => b.date - a.date);
}

const total = (files, key) => files.reduce((sum, file) => sum + (file[key] ?? 0), 0);

/** Deletes what is stored under a name or a URL; returns how many models that were. */
export async function remove(which) {
  const models = await folder();
  let removed = 0;
  if (!models) return removed;
  const entries = [];
  for await (const entry of models.entries()) entries.push(entry);
  for (const [id, directory] of entries) {
    const record = await readRecord(directory);
    if (!record || (record.name !== which && record.url !== which)) continue;
    try {
      await models.removeEntry(id, { recursive: true });
    } catch (error) {
      const message = `${which} is being written by another tab; close it first (${error.message})`;
      throw new BenbenError("busy", message);
    }
    removed++;
  }
  return removed;
}

/** One model in the store, for the worker: only there can files be written in place. */
export class Store {
  #models;
  #id;
  record;

  /** The model that comes from these URLs, stored or not; null where nothing can be stored. */
  static async open(urls) {
    const models = await folder();
    if (!models || !globalThis.FileSystemSyncAccessHandle) return null;
    const store = new Store();
    store.#models = models;
    store.#id = (await hash(new TextEncoder().encode(urls.join("\n")))).slice(0, 32);
    const directory = await models.getDirectoryHandle(store.#id).catch(() => null);
    const name = decodeURIComponent(new URL(urls[0]).pathname.split("/").pop()) || urls[0];
    store.record = (directory && (await readRecord(directory))) ?? { name, url: urls[0], date: 0, files: [] };
    return store;
  }

  /** The file of this URL; one that is new has no bytes. */
  file(name, url) {
    const { files } = this.record;
    let index = files.findIndex((file) => file.url === url);
    if (index < 0) index = files.push({ name, url, size: null, version: "", have: 0, hashes: [] }) - 1;
    return new StoredFile(this, index);
  }

  /** A file of the model's folder, both made where they are missing. */
  async handle(name) {
    const directory = await this.#models.getDirectoryHandle(this.#id, { create: true });
    return directory.getFileHandle(name, { create: true });
  }

  async save() {
    this.record.date = Date.now();
    const handle = await (await this.handle("record.json")).createSyncAccessHandle();
    const text = new TextEncoder().encode(JSON.stringify(this.record));
    handle.truncate(0);
    handle.write(text, { at: 0 });
    handle.flush();
    handle.close();
  }
}

/** One file of a model: read by ranges as far as it is there, and appended to. */
export class StoredFile {
  #store;
  #index;
  #file;
  #checked = new Set();
  /** The chunks read last, by number: neighbouring tensors share them. */
  #recent = new Map();

  constructor(store, index) {
    this.#store = store;
    this.#index = index;
  }

  get entry() {
    return this.#store.record.files[this.#index];
  }

  get complete() {
    return this.entry.size !== null && this.entry.have === this.entry.size;
  }

  /** Forgets what is there: the server has another file now. */
  reset() {
    Object.assign(this.entry, { size: null, version: "", have: 0, hashes: [] });
    this.#changed();
  }

  #changed() {
    this.#file = null;
    this.#checked.clear();
    this.#recent.clear();
  }

  /** A range of the `have` bytes. */
  async read(offset, length) {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const number = Math.floor((offset + at) / CHUNK);
      const from = offset + at - number * CHUNK;
      const part = (await this.#chunk(number)).subarray(from, from + length - at);
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  async #chunk(number) {
    const recent = this.#recent.get(number);
    if (recent) return recent;
    this.#file ??= await (await this.#store.handle(String(this.#index))).getFile();
    const end = Math.min((number + 1) * CHUNK, this.entry.have);
    const chunk = new Uint8Array(await this.#file.slice(number * CHUNK, end).arrayBuffer());
    if (!this.#checked.has(number)) {
      if ((await hash(chunk)) !== this.entry.hashes[number]) await this.#damaged(number);
      this.#checked.add(number);
    }
    this.#recent.set(number, chunk);
    if (this.#recent.size > 2) this.#recent.delete(this.#recent.keys().next().value);
    return chunk;
  }

  async #damaged(number) {
    const { entry } = this;
    entry.have = number * CHUNK;
    entry.hashes.length = number;
    this.#changed();
    await this.#store.save();
    const message = `The stored copy of ${entry.name} is damaged after ${entry.have} bytes; load it again to mend it`;
    throw Object.assign(new Error(message), { code: "damaged-copy" });
  }

  /**
   * Appends what `pieces` yields, and leaves behind a file that can be gone on with, however it ends. Throws a
   * `NoModificationAllowedError` while another tab is writing the file.
   */
  async append(pieces) {
    const { entry } = this;
    const handle = await (await this.#store.handle(String(this.#index))).createSyncAccessHandle();
    const chunk = new Uint8Array(CHUNK);
    let filled = entry.have % CHUNK;
    const keep = async () => {
      const at = Math.floor(entry.have / CHUNK);
      const part = chunk.subarray(0, filled);
      handle.write(part, { at: at * CHUNK });
      handle.flush();
      entry.hashes[at] = await hash(part);
      entry.have = at * CHUNK + filled;
      await this.#store.save();
    };
    try {
      if (filled) {
        const start = entry.have - filled;
        handle.read(chunk.subarray(0, filled), { at: start });
        if ((await hash(chunk.subarray(0, filled))) !== entry.hashes[start / CHUNK]) await this.#damaged(start / CHUNK);
      }
      await this.#store.save();
      try {
        for await (let piece of pieces) {
          while (piece.length) {
            const part = piece.subarray(0, CHUNK - filled);
            chunk.set(part, filled);
            filled += part.length;
            piece = piece.subarray(part.length);
            if (filled === CHUNK) {
              await keep();
              filled = 0;
            }
          }
        }
      } finally {
        if (filled && filled !== entry.have % CHUNK) await keep();
      }
      if (entry.size === null) {
        entry.size = entry.have;
        await this.#store.save();
      }
    } finally {
      handle.close();
      this.#changed();
    }
  }
}

async function hash(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
