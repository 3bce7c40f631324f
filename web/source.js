// Where the bytes of a model come from: files on this machine, or a server, by ranges if it knows them.
//
//   open()       learns the size, fetching no more than the start
//   read()       a range: from the store, from what was fetched, or from the server
//   download()   brings the whole file into the store, from the byte where it ends there

/** Fetched first: the header of most files. */
const START = 1 << 20;
/** What a range is rounded to where nothing can be stored, and how many of these are kept. */
const BLOCK = 1 << 20;
const BLOCKS = 24;
/** Waiting for a server that may be out of reach, before the stored copy is taken, in milliseconds. */
const PATIENCE = 4000;
/** Pauses before a broken download is taken up again, in milliseconds. */
const PAUSES = [500, 1000, 2000];

const failure = (code, message) => Object.assign(new Error(message), { code });

/** A file on this machine, or bytes in memory: read in place, stored nowhere. */
export class Local {
  missing = 0;
  stored = 0;
  seeks = true;

  constructor(blob) {
    this.blob = blob;
    this.name = blob.name ?? "the file";
    this.size = blob.size;
  }

  async read(offset, length) {
    return new Uint8Array(await this.blob.slice(offset, offset + length).arrayBuffer());
  }

  async download() {}
}

/** A file on a server, and in the store where there is one. */
export class Remote {
  /** Bytes fetched beyond those that are stored, in order. */
  #front = [];
  #frontBytes = 0;
  /** The body of a response that is under way, where the server knows no ranges. */
  #stream;
  #ranges = true;
  /** Nothing is stored: what comes after the header is read by ranges when it is wanted. */
  #direct = false;
  #blocks = new Map();
  #signal;
  /** What the last failed read threw: WebAssembly hands on its words only. */
  failure;
  size = null;

  /** @param {StoredFile?} file its place in the store */
  constructor(name, url, file, signal) {
    Object.assign(this, { name, url, file });
    this.#signal = signal;
  }

  get stored() {
    return this.file?.entry.have ?? 0;
  }

  /** Bytes that a download would fetch; those fetched already count. */
  get missing() {
    return this.size === null ? null : this.size - this.stored;
  }

  /** Whether what lies far ahead can be read without all that lies before it. */
  get seeks() {
    return this.#ranges;
  }

  /** Bytes from the start that are here. */
  get #here() {
    return this.stored + this.#frontBytes;
  }

  async open() {
    if (this.file?.complete && (await this.#isCurrent())) {
      this.size = this.file.entry.size;
      return;
    }
    for (;;) {
      const from = this.stored;
      const response = await this.#get(from, from + START - 1);
      const whole = response.status === 200;
      const size = whole ? lengthOf(response) : await this.#sizeOf(response);
      const version = versionOf(response);
      const same = size === this.file?.entry.size && version === this.file?.entry.version;
      if (from && (whole || response.status === 416 || !same)) {
        response.body?.cancel();
        this.file.reset();
        continue;
      }
      if (response.status === 416) throw this.#refused(response);
      if (this.file) Object.assign(this.file.entry, { size, version });
      Object.assign(this, { size, version });
      this.#ranges = !whole;
      if (whole) this.#stream = response.body.getReader();
      else this.#keep(new Uint8Array(await response.arrayBuffer()));
      return;
    }
  }

  /** Whether the stored file is still the server's; a server that does not answer has no say. */
  async #isCurrent() {
    const signal = AbortSignal.any([this.#signal, AbortSignal.timeout(PATIENCE)]);
    const head = await fetch(this.url, { method: "HEAD", cache: "no-cache", signal }).catch(() => null);
    this.#signal.throwIfAborted();
    if (!head?.ok) return true;
    const { size, version } = this.file.entry;
    const same = version === versionOf(head) && [size, null].includes(lengthOf(head));
    if (!same) this.file.reset();
    return same;
  }

  async #get(from, to) {
    const range = `bytes=${from}-${to ?? ""}`;
    let response;
    try {
      response = await fetch(this.url, { headers: { range }, cache: "no-store", signal: this.#signal });
    } catch (error) {
      this.#signal.throwIfAborted();
      throw failure("download", `${this.name} cannot be reached at ${this.url} (${error.message})`);
    }
    if (![200, 206, 416].includes(response.status)) throw this.#refused(response);
    return response;
  }

  #refused({ status }) {
    const refusal = failure("download", `The server has no such model: ${status} for ${this.url}`);
    return Object.assign(refusal, { status });
  }

  /** The size of the file behind a part of it. Another site's server may hide it there, and tell when asked. */
  async #sizeOf(response) {
    const [, size] = /\/(\d+)$/.exec(response.headers.get("content-range") ?? "") ?? [];
    if (size || response.status !== 206) return Number(size) || null;
    const head = await fetch(this.url, { method: "HEAD", signal: this.#signal });
    return lengthOf(head);
  }

  #keep(bytes) {
    this.#front.push(bytes);
    this.#frontBytes += bytes.length;
  }

  async read(offset, length) {
    try {
      return await this.#read(offset, length);
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }

  async #read(offset, length) {
    const end = offset + length;
    if (this.whole) return new Uint8Array(await this.whole.slice(offset, end).arrayBuffer());
    if (end <= this.stored) return this.file.read(offset, length);
    if (this.#direct && end > this.#here) return this.#range(offset, length);
    // A glance far ahead, at what tells models apart, does not wait for all that lies before it.
    if (this.#ranges && offset > this.#here + START) return this.#glance(offset, length);
    while (this.#here < end && (await this.#advance(end)));
    const bytes = new Uint8Array(Math.max(0, Math.min(end, this.#here) - offset));
    let start = this.stored;
    if (offset < start) bytes.set(await this.file.read(offset, start - offset));
    for (const piece of this.#front) {
      const [from, to] = [Math.max(offset, start), Math.min(offset + bytes.length, start + piece.length)];
      if (from < to) bytes.set(piece.subarray(from - start, to - start), from - offset);
      start += piece.length;
    }
    return bytes;
  }

  /** Fetches some more of the start; false when there is no more. */
  async #advance(end) {
    if (this.#ranges) {
      if (this.#here >= this.size) return false;
      const response = await this.#get(this.#here, Math.min(end, this.size) - 1);
      this.#keep(new Uint8Array(await response.arrayBuffer()));
      return true;
    }
    this.#stream ??= (await this.#get(0)).body.getReader();
    const { value, done } = await this.#stream.read();
    if (value) this.#keep(value);
    return !done;
  }

  /** A range from the server that is kept nowhere. */
  async #glance(offset, length) {
    const response = await this.#get(offset, offset + length - 1);
    if (response.status !== 206) throw this.#refused(response);
    return new Uint8Array(await response.arrayBuffer());
  }

  /** A range from the server, by blocks: what lies between two tensors is asked for once. */
  async #range(offset, length) {
    const [first, end] = [Math.floor(offset / BLOCK), Math.ceil((offset + length) / BLOCK)];
    const numbers = Array.from({ length: end - first }, (_, i) => first + i);
    const absent = numbers.filter((number) => !this.#blocks.has(number));
    if (absent.length) {
      const from = absent[0] * BLOCK;
      const response = await this.#get(from, Math.min((absent.at(-1) + 1) * BLOCK, this.size) - 1);
      if (response.status !== 206) throw this.#refused(response);
      const bytes = new Uint8Array(await response.arrayBuffer());
      for (let i = absent[0]; i <= absent.at(-1); i++) {
        this.#blocks.delete(i);
        this.#blocks.set(i, bytes.subarray(i * BLOCK - from, (i + 1) * BLOCK - from));
      }
    }
    const bytes = new Uint8Array(length);
    for (const number of numbers) {
      const start = number * BLOCK - offset;
      const block = this.#blocks.get(number).subarray(Math.max(0, -start), Math.max(0, length - start));
      bytes.set(block, Math.max(0, start));
    }
    for (const number of this.#blocks.keys()) {
      if (this.#blocks.size <= BLOCKS) break;
      this.#blocks.delete(number);
    }
    return bytes;
  }

  /** Goes without the store: what is wanted comes from the server, from the start. */
  forgo() {
    this.#stream?.cancel().catch(() => {});
    this.#stream = null;
    this.file = null;
    this.#front = [];
    this.#frontBytes = 0;
  }

  /** Brings what is missing into the store; without one, only what a server without ranges has. */
  async download(report) {
    if (this.missing === 0) return;
    if (this.file) {
      try {
        await this.file.append(this.#rest(report));
      } catch (error) {
        // Another tab is storing it, or the disk is full: this tab goes without.
        if (!["NoModificationAllowedError", "QuotaExceededError"].includes(error.name)) throw error;
        this.forgo();
      }
    }
    this.#direct = !this.file && this.#ranges;
    if (!this.file && !this.#ranges) this.whole = await collect(this.#rest(report));
    this.size ??= this.file?.entry.size ?? this.whole?.size ?? null;
  }

  /** The bytes from where the stored ones end, as they come; what was fetched before comes first. */
  async *#rest(report) {
    const start = this.stored;
    let done = start;
    const count = (bytes) => (report((done += bytes.length)), bytes);
    this.#frontBytes = 0;
    for (const piece of this.#front.splice(0)) yield count(piece);
    for (let attempt = 0; this.size === null || done < this.size; ) {
      try {
        if (!this.#stream) {
          const response = await this.#get(done);
          const same = versionOf(response) === this.version && (!done || response.status === 206);
          if (!same) throw Object.assign(new Error("the server has another file now"), { status: response.status });
          this.#stream = response.body.getReader();
        }
        for (let part = await this.#stream.read(); !part.done; part = await this.#stream.read()) {
          attempt = 0;
          yield count(part.value);
        }
        if (this.size === null) return;
        if (done < this.size) throw new Error("the connection ended early");
      } catch (error) {
        this.#stream = null;
        this.#signal.throwIfAborted();
        if (error.status || !this.#ranges || attempt >= PAUSES.length) {
          const message = `${this.name} came up to byte ${done} of ${this.size ?? "?"} (${error.message}); load it again to go on`;
          throw failure("download", message);
        }
        await new Promise((resolve) => setTimeout(resolve, PAUSES[attempt++]));
      } finally {
        // With a body under way only when whoever takes the pieces has had enough.
        this.#stream?.cancel().catch(() => {});
        this.#stream = null;
      }
    }
  }
}

/** Pieces as one Blob, which browsers may put on disk. */
async function collect(pieces) {
  let whole = new Blob();
  let waiting = [];
  let size = 0;
  for await (const piece of pieces) {
    waiting.push(piece);
    size += piece.length;
    if (size > BLOCK * BLOCKS) {
      whole = new Blob([whole, ...waiting.splice(0)]);
      size = 0;
    }
  }
  return new Blob([whole, ...waiting]);
}

/** The length of a body; null if it is not said, or is that of a compressed body. */
function lengthOf({ headers }) {
  return headers.get("content-encoding") ? null : Number(headers.get("content-length")) || null;
}

/** What tells a file from the one that replaces it. */
function versionOf({ headers }) {
  return headers.get("etag") ?? headers.get("last-modified") ?? "";
}
