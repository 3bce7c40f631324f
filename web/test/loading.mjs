// Loading: by URL, file and shards; what is refused, what it costs in memory, and what is fetched.
//
//   node web/test/loading.mjs FOLDER

import assert from "node:assert/strict";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { folder, idle, native, open, run, server } from "./harness.mjs";
import { GLANCE, answer, load, refusal } from "./loads.mjs";

const size = async (name) => (await stat(join(folder, name))).size;
const ids = native.answers[0].ids;

await run({
  async "a model loads by URL, each byte fetched once"() {
    const page = await open();
    const found = await answer(page, "models/tiny.gguf");
    assert.deepEqual(found.ids, ids);
    assert.equal(server.bytes, await size("tiny.gguf"));
    assert.equal(found.plan.storage, "opfs");
    assert.equal(typeof found.persisted, "boolean");
    await page.close();
  },

  async "the plan comes before the weights, and takes the header alone"() {
    const page = await open();
    const plan = await page.evaluate(async () => {
      const { Benben } = await import("./benben.js");
      return Benben.plan("models/fat.gguf", { context: 512 });
    });
    assert.ok(server.bytes <= (1 << 20) + GLANCE, `${server.bytes} bytes`);
    assert.ok(server.requests.every((request) => /^GET bytes=/.test(request)), server.requests.join());
    assert.equal(plan.download, await size("fat.gguf"));
    assert.equal(plan.stored, 0);
    assert.equal(plan.total, plan.weights + plan.kv + plan.scratch);
    // 4 layers, 512 tokens, 2 heads of 32, K and V, two bytes each.
    assert.equal(plan.kvFullF16, 4 * 512 * 2 * 32 * 2 * 2);
    assert.deepEqual(await page.evaluate(async () => (await import("./benben.js")).Benben.stored()), []);
    await page.close();
  },

  async "what does not fit is refused before it is fetched"() {
    const page = await open();
    for (const options of [{ memory: 1e6 }, { kv: { policy: "full" }, context: 1 << 26 }, { context: 1 << 31 }]) {
      const { code, message } = await refusal(page, "models/fat.gguf", options);
      assert.match(code, options.context === 1 << 31 ? /invalid/ : /does-not-fit/, message);
      assert.match(message, /\d/);
    }
    assert.ok(server.bytes <= 3 * ((1 << 20) + GLANCE), `${server.bytes} bytes`);
    await page.close();
  },

  async "progress has one bar's numbers in every phase"() {
    const page = await open();
    const { events } = await load(page, "models/fat.gguf");
    const phases = [...new Set(events.map(({ phase }) => phase))];
    assert.deepEqual(phases, ["read", "download", "upload"]);
    for (const phase of ["download", "upload"]) {
      const of = events.filter((event) => event.phase === phase);
      assert.ok(of.every(({ done, total }, i) => done <= total && done >= (of[i - 1]?.done ?? 0)));
      assert.equal(of.at(-1).done, of.at(-1).total);
      assert.ok(of.at(-1).rate > 0 && of.at(-1).left === 0);
    }
    await page.close();
  },

  async "WebAssembly's memory does not grow with the file"() {
    const page = await open();
    const tiny = await load(page, "models/tiny.gguf");
    const fat = await load(page, "models/fat.gguf");
    const again = await load(page, "models/fat.gguf");
    console.log(`        heap ${tiny.heap} bytes for ${await size("tiny.gguf")}, ${fat.heap} for ${await size("fat.gguf")}`);
    assert.ok(fat.heap - tiny.heap <= 12 << 20);
    assert.equal(again.heap, fat.heap);
    await idle(page);
    await page.close();
  },

  async "a real model takes its vocabulary and little more"() {
    const { BENBEN_MODEL: path } = process.env;
    if (!path) return console.log("SKIPPED: BENBEN_MODEL names no model");
    const page = await open();
    const { heap } = await load(page, "models/real.gguf");
    console.log(`        heap ${heap} bytes for ${(await stat(path)).size}`);
    assert.ok(heap < 40 << 20);
    await page.close();
  },

  async "a file loads without the server"() {
    const page = await open();
    const found = await page.evaluate(async () => {
      const bytes = await (await fetch("models/tiny.gguf")).arrayBuffer();
      globalThis.files = [new File([bytes], "tiny.gguf")];
    });
    server.bytes = 0;
    assert.deepEqual((await answer(page, null)).ids, ids, found);
    assert.equal(server.bytes, 0);
    await page.close();
  },

  async "shards load by one URL, by all of them, and as files"() {
    const page = await open();
    const shard = (i) => `tiny-0000${i}-of-00003.gguf`;
    assert.deepEqual((await answer(page, `models/${shard(2)}`)).ids, ids);
    await load(page, [3, 1, 2].map((i) => `models/${shard(i)}`));
    await page.evaluate(async (names) => {
      const file = async (name) => new File([await (await fetch(`models/${name}`)).arrayBuffer()], name);
      globalThis.files = await Promise.all(names.map(file));
    }, [2, 1, 3].map(shard));
    assert.deepEqual((await answer(page, null)).ids, ids);
    const { code, message } = await refusal(page, [`models/${shard(1)}`, `models/${shard(2)}`]);
    assert.match(message, /shard 1 of 3, and 2 came/);
    assert.equal(code, "format");
    await page.close();
  },

  async "safetensors load by their index, with what lies beside them"() {
    const page = await open();
    const { ids } = await answer(page, "models/model.safetensors.index.json");
    assert.deepEqual(ids, native.safetensors);
    await page.close();
  },

  async "a server without ranges, or without sizes, will do"() {
    for (const sizes of [true, false]) {
      Object.assign(server, { ranges: false, sizes, bytes: 0 });
      const page = await open();
      await load(page, "models/fat.gguf");
      assert.equal(server.bytes, await size("fat.gguf"));
      server.down = true;
      await load(page, "models/fat.gguf");
      server.down = false;
      await page.close();
    }
  },

  async "without ranges, too, the plan comes before the weights"() {
    // As a network does; this machine's own would bring the file before anybody can stop it.
    server.ranges = false;
    server.slow = true;
    const page = await open();
    const total = await page.evaluate(async () => {
      const { Benben } = await import("./benben.js");
      return (await Benben.plan("models/fat.gguf")).total;
    });
    assert.ok(total > 4e7, `${total} bytes`);
    assert.ok(server.bytes < 0.5 * (await size("fat.gguf")), `${server.bytes} bytes`);
    await page.close();
  },

  async "without storage, ranges go straight to the GPU"() {
    server.opfs = false;
    const page = await open();
    const found = await answer(page, "models/tiny.gguf");
    assert.deepEqual(found.ids, ids);
    assert.match(found.plan.storage, /none/);
    server.bytes = 0;
    const fat = await answer(page, "models/fat.gguf", 3);
    const whole = await size("fat.gguf");
    assert.ok(server.bytes >= whole && server.bytes < 1.2 * whole, `${server.bytes} of ${whole} bytes`);
    assert.deepEqual(fat.ids, native.fat.slice(0, 3));
    server.ranges = false;
    await load(page, "models/fat.gguf");
    await page.close();
  },

  async "damaged and missing files are told apart"() {
    const page = await open();
    const truncated = await refusal(page, "models/truncated.gguf");
    assert.equal(truncated.code, "format");
    assert.match(truncated.message, /truncated\.gguf.*beyond the file's \d+ bytes/);
    const absent = await refusal(page, "models/absent.gguf");
    assert.equal(absent.code, "download");
    assert.match(absent.message, /404/);
    server.down = true;
    const down = await refusal(page, "models/tiny.gguf");
    assert.equal(down.code, "download");
    assert.match(down.message, /cannot be reached/);
    await page.close();
  },
});
