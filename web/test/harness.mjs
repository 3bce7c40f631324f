// What the browser tests share: a browser, the server that a test may disturb, and a runner.
//
// The browser is Debian's Chromium, or what CHROMIUM names; its software GPU will do. FOLDER, the first argument of
// every test, holds the models and answers written by `cargo test --test web -- --ignored`. BENBEN_MODEL may name a real
// one.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { chromium } from "playwright-core";
import { send, serve } from "../serve.mjs";

export const [folder, shots] = process.argv.slice(2);
export const native = JSON.parse(await readFile(join(folder, "tiny.json"), "utf8"));

/** What the server does with files of FOLDER, which it has as /models/...; tests change it, `run` resets it. */
export const server = { ...(await serve(join(folder, "tiny.gguf"), 0, models)), bytes: 0, requests: [] };

function calm() {
  // Whether it knows ranges and says sizes; bytes after which it hangs up, and whether that once; whether it is down
  // for models or for "all"; whether it takes its time; whether the store is on offer. And what it counted.
  const usual = { ranges: true, sizes: true, cut: Infinity, once: false, down: false, slow: false, opfs: true };
  Object.assign(server, usual, { bytes: 0, requests: [] });
}

async function models(request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (server.down === "all" || (server.down && pathname.startsWith("/models/"))) return request.socket.destroy();
  if (pathname === "/store.js" && !server.opfs) {
    const text = await readFile(new URL("../store.js", import.meta.url), "utf8");
    response.writeHead(200, { "content-type": "text/javascript" });
    return response.end(`delete globalThis.FileSystemSyncAccessHandle;\n${text}`);
  }
  if (!pathname.startsWith("/models/")) return false;
  server.requests.push(`${request.method} ${request.headers.range ?? "whole"}`);
  if (server.bytes > server.cut) return request.socket.destroy();
  if (!server.ranges) delete request.headers.range;
  const write = response.write;
  const end = response.end;
  let broken = false;
  const count = (chunk) => {
    if (typeof chunk === "string" || chunk instanceof Uint8Array) server.bytes += chunk.length;
    if (server.bytes <= server.cut) return;
    if (server.once) server.cut = Infinity;
    // What was sent arrives before the connection breaks.
    broken = true;
    setTimeout(300).then(() => response.destroy());
  };
  response.write = (chunk, ...rest) => {
    if (broken) return false;
    count(chunk);
    return write.call(response, chunk, ...rest) && !broken;
  };
  response.end = (chunk, ...rest) => {
    if (!broken) count(chunk);
    if (!broken) end.call(response, chunk, ...rest);
  };
  const head = response.writeHead;
  response.writeHead = (status, headers) => {
    if (!server.ranges) delete headers["accept-ranges"];
    if (!server.sizes) delete headers["content-length"];
    return head.call(response, status, headers);
  };
  const name = pathname.slice("/models/".length);
  const path = name === "real.gguf" ? process.env.BENBEN_MODEL : join(folder, name);
  if (server.slow) await trickle(path, response);
  else await send(path, request, response);
  return true;
}

/** Sends a file as a slow network would: 64 KiB every twenty milliseconds, until nobody listens. */
async function trickle(path, response) {
  response.writeHead(200, { "content-length": (await stat(path)).size });
  for await (const chunk of createReadStream(path)) {
    if (response.destroyed) return;
    response.write(chunk);
    await setTimeout(20);
  }
  response.end();
}

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

/** Waits until every worker of a page is gone. */
export async function idle(page) {
  for (let i = 0; i < 2400 && page.workers().length; i++) await page.waitForTimeout(50);
  assert.equal(page.workers().length, 0);
}

/** Runs the tests one after the other, and ends the process with their outcome. */
export async function run(tests) {
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    const started = performance.now();
    calm();
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
