// What a program sees of the engine while things happen to it: progress, stops, a lost device, errors in words.
//
//   node web/test/engine.mjs FOLDER

import assert from "node:assert/strict";
import { openWithDevice } from "./device.mjs";
import { native, open, run } from "./harness.mjs";
import { refusal } from "./loads.mjs";

const LONG = Array(24).fill(native.prompt).join(" ");

const destroy = () => self.device.destroy();

const tests = {
  async "a prompt is read in the open, and can be stopped amid it"() {
    const page = await open();
    const found = await page.evaluate(async ({ prompt, maxTokens, long }) => {
      const { Benben } = await import("./benben.js");
      const model = await Benben.load("model.gguf", { kv: { policy: "full" } });
      const reports = [];
      const onProgress = (report) => reports.push(report);
      for await (const _ of model.generate(long, { maxTokens: 1, onProgress }));
      const control = new AbortController();
      const stopped = [];
      const answer = model.generate(`x ${long}`, {
        signal: control.signal,
        onProgress: (report) => (stopped.push(report), control.abort()),
      });
      const error = await answer.next().then(() => null, ({ name, code }) => ({ name, code }));
      const ids = [];
      for await (const { id } of model.generate(prompt, { maxTokens })) if (id !== undefined) ids.push(id);
      model.dispose();
      return { reports, stopped, error, ids };
    }, { ...native, long: LONG });
    const done = found.reports.map((report) => report.done);
    assert.ok(found.reports.every(({ phase }) => phase === "prefill"));
    assert.ok(done.length >= 4 && done.every((n, i) => !i || n >= done[i - 1]), `${done}`);
    assert.equal(done.at(-1), found.reports[0].total);
    assert.deepEqual(found.error, { name: "AbortError", code: "cancelled" });
    assert.ok(found.stopped.at(-1).done < found.stopped[0].total, "the prompt ran to its end all the same");
    assert.deepEqual(found.ids, native.answers[0].ids);
    await page.close();
  },

  async "what lives can be asked for amid an answer"() {
    const page = await open();
    const found = await page.evaluate(async () => {
      const { Benben } = await import("./benben.js");
      const model = await Benben.load("model.gguf", { kv: { policy: "pyramid", keep: 0.6 } });
      const looks = [];
      let count = 0;
      for await (const _ of model.generate([{ role: "user", content: "Tell me of the river and of the dunes." }])) {
        if (++count % 40 === 0) looks.push(model.positions().then((layers) => layers.map(([set]) => [...set])));
      }
      const words = await model.tokens();
      const { tokens, rowsPerLayer } = await model.stats();
      const last = (await model.positions()).map(([set]) => set.length);
      model.dispose();
      return { looks: await Promise.all(looks), words, tokens, rowsPerLayer, last, count };
    });
    assert.ok(found.looks.length >= 3, `${found.count} tokens`);
    for (const layers of found.looks) {
      for (const set of layers) assert.ok(set.length && set.every((p, i) => !i || p > set[i - 1]), `${set}`);
      assert.ok(layers[0].at(-1) > layers[3].length, "deep layers hold fewer rows than there are tokens");
    }
    assert.deepEqual(found.last, found.rowsPerLayer);
    assert.equal(found.words.length, found.tokens);
    assert.match(found.words.join(""), /Tell me of the river and of the dunes\./);
    await page.close();
  },

  async "a lost device comes back, and the answer goes on"() {
    const [page, inWorker] = await openWithDevice({ path: "style.css" });
    const options = { prompt: native.prompt, maxTokens: 60 };
    await page.evaluate(async (options) => {
      const { Benben } = await import("./benben.js");
      Object.assign(self, options, { model: await Benben.load("model.gguf", { kv: { policy: "full" } }) });
      self.answer = async () => {
        const found = { ids: [], text: "", phases: new Set() };
        const onProgress = ({ phase }) => found.phases.add(phase);
        for await (const { id, text } of model.generate(prompt, { maxTokens, onProgress })) {
          found.ids.push(id);
          found.text += text;
        }
        return { ...found, phases: [...found.phases] };
      };
      self.whole = await answer();
    }, options);
    const whole = await page.evaluate(() => whole);
    assert.deepEqual(whole.phases, ["prefill"]);

    await inWorker(() => (self.left = 20));
    const amid = await page.evaluate(() => answer());
    assert.ok(amid.phases.includes("restore"), `${amid.phases}`);
    assert.equal(amid.ids.length, 60);
    assert.equal(amid.text, whole.text);

    await inWorker(destroy);
    const idle = await page.evaluate(() => answer());
    assert.ok(idle.phases.includes("restore"));
    assert.deepEqual(idle.ids, whole.ids);

    await inWorker(destroy);
    await page.evaluate(() => model.configure({ kv: { policy: "full", kBits: 8 } }));
    assert.equal((await page.evaluate(() => answer())).ids.length, 60);

    // A device that does not come back is an error with a code; the next call tries again.
    await inWorker(() => ((self.refuse = true), self.device.destroy()));
    const code = await page.evaluate(() => answer().then(() => "none", (error) => error.code));
    assert.equal(code, "unsupported");
    await inWorker(() => (self.refuse = false));
    assert.equal((await page.evaluate(() => answer())).ids.length, 60);
    await page.close();
  },

  async "a GPU without memory is named, and gone on with once there is some"() {
    const [poor] = await openWithDevice({ path: "style.css", before: "self.roomAnew = 200_000;" });
    const { code, message } = await refusal(poor, "model.gguf");
    assert.equal(code, "out-of-memory", message);
    assert.match(message, /no memory beyond the \d{6,} bytes that benben asked for/);
    await poor.close();

    const [page, inWorker] = await openWithDevice({ path: "style.css" });
    await page.evaluate(async (prompt) => {
      const { Benben } = await import("./benben.js");
      self.model = await Benben.load("model.gguf", { kv: { policy: "full" } });
      self.answer = async () => {
        const found = { ids: [], phases: new Set() };
        const onProgress = ({ phase }) => found.phases.add(phase);
        for await (const { id } of model.generate(prompt, { maxTokens: 20, onProgress })) found.ids.push(id);
        return { ...found, phases: [...found.phases] };
      };
    }, LONG);

    // Its own device has no room for the prompt, and neither has the next one for the model.
    await inWorker(() => Object.assign(self, { room: 0, roomAnew: 0 }));
    const none = await page.evaluate(() => answer().then(() => "none", (error) => error.code));
    assert.equal(none, "out-of-memory");
    await inWorker(() => (self.roomAnew = Infinity));
    const whole = await page.evaluate(() => answer());
    assert.equal(whole.ids.length, 20);
    assert.deepEqual((await page.evaluate(() => answer())).ids, whole.ids);

    // Where the next device has room, nobody needs to ask again.
    await page.evaluate(() => model.configure({ kv: { policy: "full" } }));
    await inWorker(() => (self.room = 0));
    const again = await page.evaluate(() => answer());
    assert.ok(again.phases.includes("restore"), `${again.phases}`);
    assert.deepEqual(again.ids, whole.ids);
    await page.close();
  },

  async "errors are for people who have no command line"() {
    const page = await open();
    const errors = await page.evaluate(async () => {
      const { Benben, BenbenError } = await import("./benben.js");
      const thrown = (work) => work().then(() => "none", (error) => ({
        typed: error instanceof BenbenError, ...error, message: error.message,
      }));
      const errors = [
        await thrown(() => Benben.load("model.gguf", { kv: { policy: "pyramid" }, context: 1e8 })),
        await thrown(() => Benben.load("model.gguf", { kv: { policy: "tsp", preset: "7b" } })),
        await thrown(() => Benben.load("model.gguf", { kv: { policy: "pyramid", perHead: true } })),
        await thrown(() => Benben.load("model.gguf", { kv: { policy: "full", share: 0.2 } })),
        await thrown(() => Benben.load("model.gguf", { signal: AbortSignal.abort() })),
      ];
      const model = await Benben.load("model.gguf", { context: 16 });
      errors.push(await thrown(() => model.generate("a b c d e f g h i j k l m n o p q r s").next()));
      model.dispose();
      errors.push(await thrown(() => model.stats()));
      return errors;
    });
    for (const error of errors) {
      assert.ok(error.typed, JSON.stringify(error));
      assert.doesNotMatch(error.message, /--|`benben/, error.message);
    }
    const codes = errors.map(({ code }) => code);
    assert.deepEqual(codes, ["does-not-fit", "invalid", "invalid", "invalid", "cancelled", "context-full", "cancelled"]);
    assert.ok(errors[0].need > errors[0].limit && errors[0].limit > 0);
    assert.match(errors[1].message, /preset needs the policy pyramid/);
    await page.close();
  },
};

await run(tests);
