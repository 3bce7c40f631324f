// The conversation: messages, an answer as it comes, and an answer a second time beside a full cache.

import { Markdown } from "./markdown.js";
import { bytes, cache, problem, rate, seconds } from "./words.js";

export class Chat {
  #$;
  #side;
  #model;
  #context;
  #messages = [];
  /** Ends the answer under way. */
  #control;
  #answering = false;
  /** The work under way, which the next one waits for. */
  #work = Promise.resolve();

  constructor($, side) {
    this.#$ = $;
    this.#side = side;
  }

  get busy() {
    return this.#answering;
  }

  attach(model, context) {
    [this.#model, this.#context] = [model, context];
    this.#begin();
    this.#say("Ready");
  }

  stop() {
    this.#control?.abort();
  }

  /** Answers `text` as the next message. */
  ask(text) {
    return this.#run(async (signal) => {
      this.#$("ideas").hidden = true;
      const prompt = [...this.#messages, { role: "user", content: text }];
      const question = this.#bubble("user", text);
      const turn = { prompt, sampling: this.#side.sampling(), kv: this.#side.options().kv };
      const item = this.#bubble("assistant");
      turn.answer = await this.#answer(item, question, turn, signal, this.#side);
      const { said, ids } = turn.answer;
      if (said) {
        this.#messages = [...prompt, { role: "assistant", content: said }];
        if (ids.length && turn.kv.policy + turn.kv.kBits + turn.kv.vBits !== "full1616") this.#offer(item, turn);
      } else {
        // Nothing came of it: the words go back to where they can be changed.
        item.remove();
        if (signal.aborted) question.remove();
        this.#$("prompt").value ||= text;
        this.#$("ideas").hidden = this.#$("log").childElementCount > 0;
        // With them the box grows, over what was said of the failure.
        this.#$("log").scrollTop = this.#$("log").scrollHeight;
      }
      await this.#side.settle();
    });
  }

  /** Forgets the conversation. */
  clear() {
    this.stop();
    this.#begin();
    return this.reconfigure();
  }

  /** Lets the settings hold from the next message on. */
  reconfigure() {
    this.stop();
    return this.#run(async () => {
      await this.#model.configure({ ...this.#side.options(), context: this.#context });
      await this.#side.settle();
      this.#say(this.#messages.length ? "The next message reads the conversation anew" : "Ready");
    });
  }

  #begin() {
    this.#messages = [];
    this.#$("log").replaceChildren();
    this.#$("ideas").hidden = false;
  }

  /** Runs one thing after the other; what goes wrong is said in the log. */
  #run(work) {
    const model = this.#model;
    this.#work = this.#work.then(async () => {
      if (model !== this.#model) return;
      this.#control = new AbortController();
      try {
        await work(this.#control.signal);
      } catch (error) {
        if (model === this.#model && error.code !== "cancelled") this.#fail(error);
      }
    });
    return this.#work;
  }

  /** Streams an answer into `item`; `watcher` hears of the prompt and of every token. */
  async #answer(item, question, { prompt, sampling }, signal, watcher) {
    const body = item.appendChild(document.createElement("div"));
    body.className = "words";
    const words = new Markdown(body);
    const note = item.appendChild(document.createElement("p"));
    note.className = "note numbers";
    this.#answering = true;
    item.classList.add("pending");
    question.classList.add("reading");
    this.#$("send").textContent = "Stop";
    this.#say("Reading the prompt");
    watcher?.follow();
    const onProgress = (progress) => {
      note.textContent = this.#progress(progress);
      this.#stay();
      if (progress.phase !== "prefill") return;
      question.style.setProperty("--read", `${(100 * progress.done) / progress.total}%`);
      watcher?.read(progress.done, progress.total);
    };
    const ids = [];
    let end = "Done";
    try {
      for await (const { text, id } of this.#model.generate(prompt, { ...sampling, signal, onProgress })) {
        if (!ids.length) this.#say("Answering");
        question.classList.remove("reading");
        if (id !== undefined) ids.push(id);
        watcher?.grow();
        note.textContent = "";
        words.push(text, () => this.#stay());
      }
    } catch (error) {
      end = signal.aborted ? "Stopped" : "Failed";
      if (end === "Failed") this.#fail(error);
    }
    words.flush();
    this.#answering = false;
    item.classList.remove("pending");
    question.classList.remove("reading");
    this.#$("send").textContent = "Send";
    const stats = await this.#model.stats().catch(() => null);
    if (stats && ids.length) note.textContent = summary(ids.length, stats);
    this.#say(`${end}: ${ids.length} tokens${stats ? ` in ${seconds(stats.prefillSeconds + stats.decodeSeconds)}` : ""}`);
    this.#stay();
    return { said: words.text, ids, stats };
  }

  /** What is shown, not spoken, while something takes its time. */
  #progress({ phase, done, total }) {
    if (phase === "prefill") return `Reading ${done} of ${total} tokens`;
    if (phase === "restore") this.#say("The GPU was lost or ran out of memory; loading the model onto it again");
    return total ? `Loading the model again: ${bytes(done)} of ${bytes(total)}` : "Loading the model again";
  }

  /** Offers to answer the same again with a full cache. */
  #offer(item, turn) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = "Compare with a full cache";
    button.onclick = () => !this.busy && (button.remove(), this.#compare(item, turn));
    item.append(button);
  }

  #compare(item, turn) {
    return this.#run(async (signal) => {
      const mine = document.createElement("div");
      mine.append(title(cache(turn.kv)), ...item.childNodes);
      const full = document.createElement("div");
      full.append(title("full, f16"));
      item.replaceChildren(mine, full);
      item.classList.add("pair");
      const context = this.#context;
      await this.#model.configure({ kv: { policy: "full" }, context });
      const question = item.previousElementSibling;
      const { ids } = await this.#answer(full, question, turn, signal, null);
      const differ = ids.findIndex((id, at) => id !== turn.answer.ids[at]);
      const same = differ < 0 ? ids.length : differ;
      const verdict = document.createElement("p");
      verdict.className = "note";
      verdict.textContent = `The first ${same} of ${ids.length} tokens are the same.`;
      item.append(verdict);
      this.#stay();
      // The panel goes on showing the compressed cache, which the next message fills again.
      await this.#model.configure({ ...this.#side.options(), context });
    });
  }

  #fail(error) {
    const { title, text, advice } = problem(error);
    const item = this.#bubble("failed", `${title}. ${text} ${advice}`);
    item.setAttribute("role", "alert");
  }

  #bubble(role, text = "") {
    const item = document.createElement("li");
    item.className = role;
    item.dir = "auto";
    item.textContent = text;
    this.#$("log").append(item);
    this.#$("log").scrollTop = this.#$("log").scrollHeight;
    return item;
  }

  #say(text) {
    this.#$("status").textContent = text;
  }

  /** Keeps the log's end in sight, unless the reader has scrolled up. */
  #stay() {
    const log = this.#$("log");
    if (log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
  }
}

function title(text) {
  const made = document.createElement("h3");
  made.textContent = text;
  return made;
}

/** An answer in figures. */
function summary(tokens, { decodeRate, prefillSeconds, kvBytes, kvBytesFullF16 }) {
  const parts = [`${tokens} tokens`];
  if (tokens > 1) parts.push(`${rate(decodeRate)} tokens/s`);
  parts.push(`first after ${seconds(prefillSeconds)}`);
  parts.push(`KV ${bytes(kvBytes)}, ${Math.round((100 * kvBytes) / kvBytesFullF16)} % of a full f16 cache`);
  return parts.join(" · ");
}
