// The page as a person uses it: by keyboard, on a phone, in the dark, and when things go wrong.
//
//   node web/test/page.mjs FOLDER [SHOTS]
//
// Screenshots of every state go to SHOTS.

import assert from "node:assert/strict";
import { join } from "node:path";
import { openWithDevice } from "./device.mjs";
import { open, run, shots } from "./harness.mjs";

const looks = {
  wide: { viewport: { width: 1280, height: 860 } },
  narrow: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true },
  dark: { viewport: { width: 1280, height: 860 }, colorScheme: "dark" },
  "narrow-dark": { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, colorScheme: "dark" },
};

async function shoot(page, name) {
  const fits = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  assert.ok(fits, `${name}: the page is wider than its window`);
  if (shots) await page.screenshot({ path: join(shots, `benben-web-${name}.png`) });
}

/** Loads the model beside the page; `planned` is called when it says what that takes, before it downloads. */
async function load(page, planned = () => {}) {
  await page.getByRole("button", { name: "Load it" }).press("Enter");
  await page.getByText(/^It takes .* of GPU memory: /).waitFor();
  await planned();
  await page.getByRole("button", { name: /^Download \d/ }).press("Enter");
  await page.getByText("Ready", { exact: true }).waitFor();
}

/** The page with the model beside it loaded. */
async function loaded(options) {
  const page = await open(options);
  await load(page);
  await page.getByLabel("Most tokens").selectOption("64");
  return page;
}

/** Sends a message; the status that says it is done is then its own, not the one before's. */
async function ask(page, text) {
  await page.locator("#status").evaluate((status) => (status.textContent = ""));
  await page.getByLabel("Your message").fill(text);
  await page.keyboard.press("Enter");
}

const done = (page) => page.getByText(/^Done: \d+ tokens/).waitFor();
const QUESTION = "Tell me of the river and of the dunes.";

/** The longest task of the page's own thread while `work` runs, in milliseconds of that thread's time. */
async function longestTask(page, work) {
  await page.context().browser().startTracing(page, { categories: ["toplevel", "disabled-by-default-devtools.timeline"] });
  await work();
  const { traceEvents } = JSON.parse(await page.context().browser().stopTracing());
  const main = traceEvents.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain");
  const tasks = traceEvents.filter(({ pid, tid, name, tdur }) =>
    /RunTask/.test(name) && tdur && main.some((thread) => thread.pid === pid && thread.tid === tid));
  assert.ok(tasks.length > 100, `only ${tasks.length} tasks were traced`);
  return Math.max(...tasks.map(({ tdur }) => tdur)) / 1000;
}

const tests = {
  async "a conversation, by keyboard, in every look"() {
    for (const [name, options] of Object.entries(looks)) {
      const page = await open(options);
      await page.getByRole("button", { name: "Load it" }).waitFor();
      await shoot(page, `${name}-start`);
      await load(page, () => shoot(page, `${name}-plan`));
      await shoot(page, `${name}-ready`);
      const longest = await longestTask(page, async () => {
        await page.keyboard.type(QUESTION);
        await page.keyboard.press("Enter");
        await page.getByText("Answering", { exact: true }).waitFor();
        await page.waitForTimeout(500);
        await shoot(page, `${name}-answering`);
        await done(page);
      });
      console.log(`        ${name}: the longest task of the page took ${longest.toFixed(0)} ms`);
      assert.ok(longest < 50, `${name}: the page was busy for ${longest} ms at once while it answered`);
      assert.equal(await page.locator("#log .user").count(), 1);
      assert.match(await page.locator("#log .note").first().textContent(), /tokens\/s · first after .* KV .* of a full f16 cache$/);
      await shoot(page, `${name}-answered`);
      await page.locator("#pyramid").focus();
      await page.keyboard.press("End");
      await page.keyboard.press("ArrowLeft");
      const text = await page.locator("#pyramid").getAttribute("aria-valuetext");
      assert.match(text, /token \d+, lives in \d of 4 layers$/);
      await shoot(page, `${name}-token`);
      await page.getByRole("button", { name: "Shape" }).click();
      await page.waitForTimeout(100);
      await shoot(page, `${name}-shape`);
      await page.close();
    }
  },

  async "an answer can be compared with a full cache"() {
    for (const name of ["wide", "narrow-dark"]) {
      const page = await loaded(looks[name]);
      await ask(page, QUESTION);
      await done(page);
      await page.getByRole("button", { name: "Compare with a full cache" }).click();
      await page.getByText(/^The first \d+ of \d+ tokens are the same\.$/).waitFor();
      assert.deepEqual(await page.locator(".pair h3").allTextContents(), ["auto, 20 % of the bytes", "full, f16"]);
      await shoot(page, `${name}-compared`);
      await ask(page, "And then?");
      await done(page);
      await page.close();
    }
  },

  async "settings begin the cache anew, and the conversation goes on"() {
    const page = await loaded();
    await ask(page, QUESTION);
    await done(page);
    await page.getByLabel("Policy").selectOption("joint");
    await page.getByRole("slider", { name: "Keep" }).fill("0.3");
    await page.getByRole("group", { name: "V bits" }).getByText("4", { exact: true }).click();
    await page.getByText("The next message reads the conversation anew").waitFor();
    await ask(page, "And then?");
    await done(page);
    const share = await page.locator("#share").textContent();
    assert.ok(parseInt(share, 10) < 70, share);
    await page.getByLabel("Policy").selectOption("full");
    assert.ok(await page.getByRole("slider", { name: "Keep" }).isDisabled());
    await page.close();
  },

  async "a stop amid the prompt gives the words back"() {
    const page = await loaded();
    const long = Array(40).fill(QUESTION).join(" ");
    await ask(page, long);
    await page.getByText(/^Reading \d+ of \d+ tokens/).waitFor();
    await shoot(page, "wide-reading");
    await page.keyboard.press("Escape");
    await page.getByText(/^Stopped: 0 tokens/).waitFor();
    assert.equal(await page.getByLabel("Your message").inputValue(), long);
    assert.equal(await page.locator("#log li").count(), 0);
    await page.getByLabel("Your message").fill(QUESTION);
    await page.keyboard.press("Enter");
    await done(page);
    await page.close();
  },

  async "Markdown becomes elements, and nothing else does"() {
    const page = await open();
    const text = [
      "# Title *one*", "A **bold** `<b>code</b>` and [a link](https://example.org/a), [no](javascript:alert(1)).",
      "<img src=x onerror=alert(1)> ![picture](https://example.org/p.png) snake_case_name 2 * 3 * 4 \\*plain\\*",
      "", "1. first", "2. second", "   - inner", "   - `x_y`", "", "> quoted", "> on", "", "| a | b |", "|---|:-:|",
      "| 1 | **2** |", "", "```js", "let x = '</code><script>alert(1)</script>';", "```", "---", "end",
    ].join("\n");
    const found = await page.evaluate(async (text) => {
      const { Markdown } = await import("./markdown.js");
      const render = (step) => {
        const element = document.createElement("div");
        const markdown = new Markdown(element);
        for (let at = 0; at < text.length; at += step) {
          markdown.push(text.slice(at, at + step));
          markdown.flush();
        }
        return element.innerHTML;
      };
      return [render(text.length), render(1), render(7)];
    }, text);
    assert.equal(found[1], found[0], "one character at a time");
    assert.equal(found[2], found[0], "seven at a time");
    for (const part of [
      "<h3>Title <em>one</em></h3>", "<strong>bold</strong>", "<code>&lt;b&gt;code&lt;/b&gt;</code>", "[no](javascript:",
      "snake_case_name 2 * 3 * 4 *plain*", '<ol start="1"><li>first</li><li>', "<blockquote>quoted\non</blockquote>",
      "<ul><li>inner</li><li><code>x_y</code></li></ul>", "<td>1</td><td><strong>2</strong></td>", "<hr><p>end</p>",
    ]) assert.ok(found[0].includes(part), `${part} is not in ${found[0]}`);
    assert.doesNotMatch(found[0], /<img|<script|href="javascript|<b>/);
    await page.close();
  },

  async "every way to fail says what to do"() {
    for (const [name, options] of Object.entries(looks)) {
      const gone = await open({ ...options, init: () => Object.defineProperty(navigator, "gpu", { value: undefined }) });
      await gone.getByRole("alert").getByText("This browser has no WebGPU.").waitFor();
      await shoot(gone, `${name}-no-webgpu`);
      await gone.close();

      const page = await open(options);
      await page.getByLabel("Another GGUF file").fill(new URL("absent.gguf", page.url()).href);
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "The download failed" }).waitFor();
      await shoot(page, `${name}-download`);
      await page.getByRole("button", { name: "Back" }).click();
      await page.getByLabel("Choose a file").setInputFiles({ name: "x.gguf", mimeType: "", buffer: Buffer.from("GGUF no more") });
      await page.getByRole("heading", { name: "This file is no model for benben" }).waitFor();
      await page.getByRole("button", { name: "Back" }).click();

      let release;
      await page.route("**/model.gguf", (route) => new Promise((resolve) => (release = resolve)).then(() => route.abort()));
      await page.getByRole("button", { name: "Load it" }).click();
      await page.waitForTimeout(300);
      await shoot(page, `${name}-loading`);
      await page.getByRole("button", { name: "Cancel" }).click();
      await page.getByText(/^Cancelled/).waitFor();
      await shoot(page, `${name}-cancelled`);
      release?.();
      await page.close();
    }
  },

  async "a network that goes away is named, and does not matter"() {
    const page = await loaded();
    await page.context().setOffline(true);
    await page.getByText("Offline: what is loaded goes on").waitFor();
    await ask(page, QUESTION);
    await done(page);
    await shoot(page, "wide-offline");
    await page.close();
  },

  async "a GPU that is lost and refused is told in the conversation, and comes back"() {
    const [page, inWorker] = await openWithDevice();
    await load(page);
    await inWorker(() => ((self.refuse = true), self.device.destroy()));
    await ask(page, QUESTION);
    await page.getByText(/^Failed: 0 tokens/).waitFor();
    await shoot(page, "wide-lost");
    await inWorker(() => (self.refuse = false));
    await page.getByLabel("Your message").press("Enter");
    await done(page);
    await page.close();
  },

  async "a GPU without memory is told, before a conversation and in one"() {
    for (const name of ["wide", "narrow-dark"]) {
      const [poor] = await openWithDevice({ ...looks[name], before: "self.roomAnew = 200_000;" });
      await poor.getByRole("button", { name: "Load it" }).click();
      await poor.getByRole("button", { name: /^Download \d/ }).click();
      await poor.getByRole("heading", { name: "The GPU is out of memory" }).waitFor();
      await poor.getByText(/^The GPU has no memory beyond the [\d.]+ kB that benben asked for; close other programs/).waitFor();
      await shoot(poor, `${name}-out-of-memory`);
      await poor.close();
    }
    const [page, inWorker] = await openWithDevice();
    await load(page);
    await inWorker(() => Object.assign(self, { room: 0, roomAnew: 0 }));
    const long = Array(40).fill(QUESTION).join(" ");
    await ask(page, long);
    await page.getByRole("alert").getByText(/^The GPU is out of memory\./).waitFor();
    await page.getByText(/^Failed: 0 tokens/).waitFor();
    assert.ok(await page.locator("#log").evaluate((log) => log.scrollHeight - log.scrollTop - log.clientHeight < 2));
    await shoot(page, "wide-out-of-memory-amid");
    await inWorker(() => (self.roomAnew = Infinity));
    assert.equal(await page.getByLabel("Your message").inputValue(), long);
    await page.getByLabel("Your message").press("Enter");
    await done(page);
    await page.close();
  },
};

await run(tests);
