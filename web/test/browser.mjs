// The engine in a real browser: its answers token for token against native ones, and the page as a person uses it.
//
//   node web/test/browser.mjs FOLDER [SHOTS]
//
// FOLDER holds tiny.gguf and tiny.json (written by `cargo test --test web -- --ignored`); screenshots of the page go
// to SHOTS. The browser is Debian's Chromium, or what CHROMIUM names; its software GPU will do.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { serve } from "../serve.mjs";

const [folder, shots] = process.argv.slice(2);
const native = JSON.parse(await readFile(join(folder, "tiny.json"), "utf8"));
const server = await serve(join(folder, "tiny.gguf"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

async function open(options = {}) {
  const page = await browser.newPage(options);
  page.on("pageerror", (error) => assert.fail(`the page threw ${error}`));
  page.on("console", (message) => message.type() === "error" && console.error(`  page: ${message.text()}`));
  await page.goto(server.url);
  return page;
}

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
        const positions = [];
        for (const layer of rowsPerLayer.keys()) positions.push(await model.positions(layer));
        found.push({ kv, ids, rowsPerLayer, positions });
      }
      model.dispose();
      return found;
    }, native);
    assert.deepEqual(answers, native.answers);
    await page.close();
  },

  async "an answer can be stopped, and the next one is whole"() {
    const page = await open();
    const found = await page.evaluate(async ({ prompt, maxTokens }) => {
      const { Benben } = await import("./benben.js");
      const model = await Benben.load("model.gguf");
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
      codes.push(await code(() => model.positions(99)));
      model.dispose();
      return codes;
    });
    assert.deepEqual(codes, ["download", "format", "invalid", "invalid", "context-full", "invalid"]);
    await page.close();
  },

  async "the page loads a model and chats, by keyboard"() {
    for (const [name, options] of Object.entries({
      wide: { viewport: { width: 1280, height: 800 } },
      narrow: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, colorScheme: "light" },
      dark: { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
    })) {
      const page = await open(options);
      const shoot = (state) => shots && page.screenshot({ path: join(shots, `benben-web-${name}-${state}.png`) });
      await page.getByRole("button", { name: "Load it" }).waitFor();
      await shoot("start");
      await page.getByRole("button", { name: "Load it" }).press("Enter");
      await page.getByText("Ready", { exact: true }).waitFor();
      await shoot("ready");
      await page.keyboard.type("Tell me of the river and of the dunes.");
      await page.keyboard.press("Enter");
      await page.getByText(/^Done: \d+ tokens/).waitFor();
      assert.equal(await page.locator("#log .user").count(), 1);
      await shoot("answered");
      await page.getByRole("button", { name: "Positions" }).click();
      await page.waitForTimeout(300);
      await shoot("positions");
      assert.match(await page.locator("#pyramid").getAttribute("aria-label"), /the first of 4 layers holds \d+ rows/);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true);
      await page.close();
    }
  },

  async "a browser without WebGPU is told so"() {
    const page = await browser.newPage();
    await page.addInitScript(() => Object.defineProperty(navigator, "gpu", { value: undefined }));
    await page.goto(server.url);
    await page.getByRole("alert").getByText("This browser has no WebGPU.").waitFor();
    if (shots) await page.screenshot({ path: join(shots, "benben-web-problem.png") });
    await page.close();
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  const started = performance.now();
  try {
    await test();
    console.log(`ok      ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
await browser.close();
server.close();
process.exit(failed ? 1 : 0);
