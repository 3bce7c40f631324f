// What the browser keeps: offline, resumed at the byte, mended, replaced, listed and deleted.
//
//   node web/test/storage.mjs FOLDER

import assert from "node:assert/strict";
import { stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { folder, idle, native, open, run, server } from "./harness.mjs";
import { GLANCE, answer, load, refusal } from "./loads.mjs";

const FAT = "models/fat.gguf";
const size = (await stat(join(folder, "fat.gguf"))).size;
const CUT = 18_000_000;

const stored = (page) => page.evaluate(async () => (await import("./benben.js")).Benben.stored());
const remove = (page, name) => page.evaluate(async (name) => (await import("./benben.js")).Benben.remove(name), name);

await run({
  async "a stored model opens with the network cut"() {
    const page = await open();
    const first = await load(page, "models/tiny.gguf");
    server.bytes = 0;
    const second = await load(page, "models/tiny.gguf");
    assert.equal(server.bytes, 0);
    assert.equal(second.plan.download, 0);
    assert.equal(second.plan.stored, first.plan.download);
    server.down = true;
    assert.deepEqual((await answer(page, "models/tiny.gguf")).ids, native.answers[0].ids);
    await page.close();
  },

  async "a broken connection is taken up again within a load"() {
    const page = await open();
    server.cut = CUT;
    server.once = true;
    await load(page, FAT);
    // What was under way when the connection broke is fetched twice; a fresh start would be all of `CUT`.
    assert.ok(server.bytes < size + 0.9 * CUT, `${server.bytes} of ${size} bytes`);
    await page.close();
  },

  async "a failed download goes on at its last byte"() {
    const page = await open();
    server.cut = CUT;
    const { code, message } = await refusal(page, FAT);
    assert.equal(code, "download");
    assert.match(message, /load it again to go on/);
    const [{ have, complete }] = await stored(page);
    assert.ok(!complete && have > 0.5 * CUT && have <= CUT + (1 << 20), `${have} bytes`);
    assert.ok(have % (4 << 20), "a whole number of chunks proves nothing");
    Object.assign(server, { cut: Infinity, bytes: 0, requests: [] });
    const { plan } = await load(page, FAT);
    assert.equal(plan.stored, have);
    assert.equal(server.bytes, size - have + GLANCE);
    assert.match(server.requests[0], new RegExp(`^GET bytes=${have}-`));
    server.down = true;
    assert.equal((await load(page, FAT)).plan.download, 0);
    await page.close();
  },

  async "a load can be cancelled at any time, and keeps what came"() {
    const page = await open();
    for (const when of ["read", "download", "upload", "compile"]) {
      const thrown = await page.evaluate(async ({ source, when }) => {
        const { Benben } = await import("./benben.js");
        const control = new AbortController();
        const onProgress = ({ phase, done }) => phase === when && (done > 1e7 || when !== "download") && control.abort();
        const loading = Benben.load(source, { onProgress, signal: control.signal });
        const thrown = await loading.then((model) => (model.dispose(), "loaded"), (error) => error.name);
        await new Promise((resolve) => setTimeout(resolve, 300));
        return thrown;
      }, { source: FAT, when });
      assert.equal(thrown, "AbortError", when);
      const [{ have } = { have: 0 }] = await stored(page);
      if (when === "read") assert.equal(have, 0);
      if (when === "download") assert.ok(have > 1e7 && have < size, `${have} bytes`);
      if (when === "upload") assert.equal(have, size);
    }
    await idle(page);
    await page.close();
  },

  async "a refusal of the plan ends the load"() {
    const page = await open();
    const message = await page.evaluate(async (source) => {
      const { Benben } = await import("./benben.js");
      const onPlan = async ({ download }) => {
        throw new Error(`${download} bytes are too many`);
      };
      return Benben.load(source, { onPlan }).catch((error) => error.message);
    }, FAT);
    assert.equal(message, `${size} bytes are too many`);
    assert.deepEqual(await stored(page), []);
    await page.close();
  },

  async "a damaged copy is noticed and mended"() {
    const page = await open();
    await load(page, FAT);
    await page.evaluate(async () => {
      const models = await (await navigator.storage.getDirectory()).getDirectoryHandle("benben");
      for await (const model of models.values()) {
        const writable = await (await model.getFileHandle("0")).createWritable({ keepExistingData: true });
        await writable.write({ type: "write", position: 30_000_000, data: new Uint8Array([1, 2, 3]) });
        await writable.close();
      }
    });
    server.bytes = 0;
    await load(page, FAT);
    const chunk = Math.floor(30_000_000 / (4 << 20)) * (4 << 20);
    assert.equal(server.bytes, size - chunk + GLANCE);
    await page.close();
  },

  async "another file at the same address replaces the stored one"() {
    const page = await open();
    await load(page, "models/tiny.gguf");
    await utimes(join(folder, "tiny.gguf"), new Date(), new Date(Date.now() - 60_000));
    server.bytes = 0;
    await load(page, "models/tiny.gguf");
    assert.equal(server.bytes, (await stat(join(folder, "tiny.gguf"))).size);
    assert.equal((await stored(page)).length, 1);
    await page.close();
  },

  async "two loads at once do not spoil each other"() {
    const page = await open();
    server.cut = CUT;
    await refusal(page, FAT);
    server.cut = Infinity;
    // One of them finds the file taken, and goes without the store.
    const found = await Promise.all([answer(page, FAT, 1), answer(page, FAT, 1)]);
    for (const { ids } of found) assert.deepEqual(ids, native.fat.slice(0, 1));
    server.down = true;
    assert.equal((await load(page, FAT)).plan.download, 0);
    await page.close();
  },

  async "what is stored is listed and deleted, also on the page"() {
    const page = await open();
    await load(page, "models/tiny.gguf");
    await load(page, FAT);
    const list = await stored(page);
    assert.deepEqual(list.map(({ name }) => name), ["fat.gguf", "tiny.gguf"]);
    assert.ok(list.every(({ complete, size, have, date }) => complete && size === have && Date.now() - date < 60_000));
    assert.equal(await remove(page, "fat.gguf"), 1);
    assert.equal(await remove(page, "fat.gguf"), 0);
    await page.getByText("Stored models").click();
    const row = page.getByRole("listitem").filter({ hasText: "tiny.gguf" });
    await row.getByRole("button", { name: "Delete" }).click();
    await page.getByText("Nothing is stored.").waitFor();
    assert.deepEqual(await stored(page), []);
    await page.close();
  },

  async "the page itself opens with the network cut"() {
    const page = await open();
    await load(page, "models/tiny.gguf");
    await page.evaluate(() => navigator.serviceWorker.ready);
    // The second visit is the first that the service worker sees.
    await page.reload();
    await load(page, "models/tiny.gguf");
    await load(page, "model.gguf");
    server.down = "all";
    await page.reload();
    await page.getByText("all of it in this browser").waitFor();
    assert.deepEqual((await answer(page, "models/tiny.gguf")).ids, native.answers[0].ids);
    await page.close();
  },
});
