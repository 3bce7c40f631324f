// One conversation of the worker: its session, whose turn it is, and how it goes on when the device fails.

export class Conversation {
  #engine;
  #options;
  #session;
  /** The model of the session; the engine has another one since a device failed. */
  #model;
  /** What has the session to itself, which the next such call waits for. */
  #last = Promise.resolve();
  /** Answers that were asked for and have not ended. */
  #answers = 0;
  /** Who asked for the positions amid an answer; its next token brings them. */
  #looks = [];
  /** Whether the answer under way is to end, also while it has no device. */
  #cancelled = false;

  /** @param engine holds the model, and replaces it when its device fails */
  constructor(engine, options) {
    [this.#engine, this.#options] = [engine, options];
  }

  /** Opens the session. */
  async begin(progress, warmUp = true) {
    const { model } = this.#engine;
    this.#adopt(model.session(this.#options), model);
    if (!warmUp) return;
    progress({ phase: "compile", done: 0, total: null, rate: null });
    await this.#session.warmUp();
  }

  configure(options, progress) {
    return this.#alone(() => {
      this.#options = options;
      return this.begin(progress).catch((error) => this.#recover(error, [], 0, progress));
    });
  }

  async generate(prompt, options, event) {
    this.#answers++;
    try {
      return await this.#alone(() => this.#answer(prompt, options, event));
    } finally {
      this.#answers--;
    }
  }

  cancel() {
    this.#cancelled = true;
    this.#session.cancel();
  }

  fork() {
    return this.#alone(() => {
      const fork = new Conversation(this.#engine, this.#options);
      fork.#adopt(this.#session.fork(), this.#model);
      return fork;
    });
  }

  stats() {
    return { ...this.#session.stats(), heapBytes: this.#engine.loading.memory.buffer.byteLength };
  }

  positions() {
    if (this.#answers) return new Promise((resolve) => this.#looks.push(resolve));
    return this.#alone(() => this.#session.positions());
  }

  tokens(first) {
    return this.#session.words(first);
  }

  dispose() {
    this.cancel();
    return this.#alone(() => this.#session.free());
  }

  #adopt(session, model) {
    this.#session?.free();
    [this.#session, this.#model] = [session, model];
  }

  /** Runs what needs the session to itself, after what had it before. */
  #alone(work) {
    return (this.#last = this.#last.then(work, work));
  }

  /** Answers, if need be on more than one device. */
  async #answer(prompt, options, event) {
    this.#cancelled = false;
    if (typeof prompt === "string") this.#session.text(prompt);
    else this.#session.chat(prompt);
    const prefill = (done, total) => event({ phase: "prefill", done, total, rate: null });
    let said = 0;
    const piece = (text, id) => {
      if (id !== undefined) said++;
      event({ text, id });
      return this.#looks.length ? (positions) => this.#show(positions) : undefined;
    };
    try {
      for (let before = -1; ; before = said) {
        try {
          return await this.#session.generate(options, prefill, piece);
        } catch (error) {
          // A device that fails again before it gave a token will not give one.
          if (before === said) throw error;
          await this.#recover(error, this.#session.ids(), said, event);
          if (this.#cancelled) return "cancel";
        }
      }
    } finally {
      if (this.#looks.length) this.#show(await this.#session.positions().catch(() => []));
    }
  }

  #show(positions) {
    for (const look of this.#looks.splice(0)) look(positions);
  }

  /** After a device was lost or ran out of memory: a session on a new one that holds the same conversation. */
  async #recover(error, ids, said, progress) {
    if (!["device-lost", "out-of-memory"].includes(error?.code)) throw error;
    progress({ phase: "restore", done: 0, total: null, rate: null });
    await this.#engine.replace(this.#model, this.#options, progress);
    await this.begin(progress);
    this.#session.restore(ids, said);
  }
}
