// What the browser tests share: a browser, a server and a runner.
//
// The browser is Debian's Chromium, or what CHROMIUM names; its software GPU will do. FOLDER, the first argument of
// every test, holds tiny.gguf and tiny.json, written by `cargo test --test web -- --ignored`.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { serve } from "../serve.mjs";

export const [folder, shots] = process.argv.slice(2);
export const native = JSON.parse(await readFile(join(folder, "tiny.json"), "utf8"));
export const server = await serve(join(folder, "tiny.gguf"));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** A page of its own storage; what it throws fails the test. */
export async function open({ path = "", init, ...options } = {}) {
  const page = await browser.newPage(options);
  // A software GPU on a busy machine takes its time.
  page.setDefaultTimeout(120_000);
  page.on("pageerror", (error) => assert.fail(`the page threw ${error}`));
  page.on("console", (message) => message.type() === "error" && console.error(`  page: ${message.text()}`));
  if (init) await page.addInitScript(init);
  await page.goto(server.url + path);
  return page;
}

/** Runs the tests one after the other, and ends the process with their outcome. */
export async function run(tests) {
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
}
