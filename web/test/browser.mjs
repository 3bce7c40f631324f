// The engine in a real browser: its answers token for token against native ones.
//
//   node web/test/browser.mjs FOLDER

import assert from "node:assert/strict";
import { native, open, run } from "./harness.mjs";

const tests = {
  async "every kernel agrees with its twin"() {
    const page = await open();
    const checks = await page.evaluate(async () => {
      const { default: init, doctor } = await import("./wasm/benben.js");
      await init();
      return doctor();
    });
    assert.ok(checks.length > 50);
    assert.deepEqual(checks.filter(({ passed }) => !passed), []);
    await page.close();
  },

  async "answers are the native ones, token for token"() {
    const page = await open();
    const answers = await page.evaluate(async ({ prompt, maxTokens, answers }) => {
      const { Benben } = await import("./benben.js");
      const model = await Benben.load("model.gguf");
      const found = [];
      for (const { kv } of answers) {
        await model.configure({ kv });
        const ids = [];
        for await (const { id } of model.generate(prompt, { maxTokens })) if (id !== undefined) ids.push(id);
        const { rowsPerLayer } = await model.stats();
        const positions = (await model.positions()).map((sets) => sets.map((set) => [...set]));
        found.push({ kv, ids, rowsPerLayer, positions });
      }
      model.dispose();
      return found;
    }, native);
    assert.deepEqual(answers, native.answers);
    await page.close();
  },

  async "a fork goes on from where it was made, beside the other"() {
    const page = await open();
    const found = await page.evaluate(async ({ prompt, maxTokens }) => {
      const { Benben } = await import("./benben.js");
      const model = await Benben.load("model.gguf", { kv: { policy: "full" } });
      const answer = async (chat, text, maxTokens) => {
        const ids = [];
        for await (const { id } of chat.generate(text, { maxTokens })) if (id !== undefined) ids.push(id);
        return { ids, promptTokens: (await chat.stats()).promptTokens };
      };
      await answer(model, prompt, 0);
      const fork = await model.fork();
      const other = "an old river beside dunes of sand, but no rider";
      const both = await Promise.all([answer(model, `${prompt} once`, maxTokens), answer(fork, `${prompt} twice`, maxTokens)]);
      const alone = [];
      for (const text of [`${prompt} once`, `${prompt} twice`]) {
        await model.configure({ kv: { policy: "full" } });
        alone.push(await answer(model, text, maxTokens));
      }
      fork.dispose();
      const gone = await fork.stats().then(() => "none", (error) => error.code);
      const still = await answer(model, other, 1);
      model.dispose();
      return { both, alone, gone, still };
    }, native);
    for (const i of [0, 1]) {
      assert.deepEqual(found.both[i].ids, found.alone[i].ids);
      assert.ok(found.both[i].promptTokens < found.alone[i].promptTokens, "the beginning ran again");
    }
    assert.equal(found.gone, "cancelled");
    assert.equal(found.still.ids.length, 1);
    await page.close();
  },

  async "an answer can be stopped, and the next one is whole"() {
    const page = await open();
    const found = await page.evaluate(async ({ prompt, maxTokens }) => {
      const { Benben } = await import("./benben.js");
      const model = await Benben.load("model.gguf", { kv: { policy: "full" } });
      for await (const _ of model.generate(prompt, { maxTokens: 2000 })) break;
      const control = new AbortController();
      let thrown;
      try {
        let count = 0;
        for await (const _ of model.generate(prompt, { maxTokens: 2000, signal: control.signal }))
          if (++count === 3) control.abort();
      } catch (error) {
        thrown = error.name;
      }
      const ids = [];
      for await (const { id } of model.generate(prompt, { maxTokens })) if (id !== undefined) ids.push(id);
      model.dispose();
      return { thrown, ids };
    }, native);
    assert.equal(found.thrown, "AbortError");
    assert.deepEqual(found.ids, native.answers[0].ids);
    await page.close();
  },

  async "mistakes are errors with a code"() {
    const page = await open();
    const codes = await page.evaluate(async () => {
      const { Benben } = await import("./benben.js");
      const code = (work) => work().then(() => "none", (error) => error.code);
      const codes = [
        await code(() => Benben.load("absent.gguf")),
        await code(() => Benben.load(new Blob(["GGUF no more"]))),
        await code(() => Benben.load("model.gguf", { kv: { polcy: "full" } })),
        await code(() => Benben.load("model.gguf", { kv: { policy: "full", keep: 0.5 } })),
      ];
      const model = await Benben.load("model.gguf", { context: 16 });
      codes.push(await code(() => model.generate("a b c d e f g h i j k l m n o p q r s").next()));
      model.dispose();
      return codes;
    });
    assert.deepEqual(codes, ["download", "format", "invalid", "invalid", "context-full"]);
    await page.close();
  },
};

await run(tests);
