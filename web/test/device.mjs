// A page whose worker lets a test at its GPU device: to refuse one, to lose it, or to leave it without memory.

import { open } from "./harness.mjs";

/**
 * Goes before the worker's own code. `self.refuse` refuses devices; the device is destroyed once `self.left` tokens were
 * told; `self.room` is how many bytes of buffers there are still to be had, for new devices `self.roomAnew`.
 */
const HOOKS = `
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    if (self.refuse) throw new DOMException("no device today", "OperationError");
    self.room = self.roomAnew ?? Infinity;
    return (self.device = await request.apply(this, args));
  };
  const post = self.postMessage;
  self.postMessage = (message) => {
    if (message.event?.id !== undefined && --self.left === 0) self.device.destroy();
    post.call(self, message);
  };
  const create = GPUDevice.prototype.createBuffer;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    self.room -= descriptor.size;
    if (self.room >= 0) return create.call(this, descriptor);
    // What browsers do: they hand out a buffer that is none, tell of it later, and refuse the work that uses it.
    const error = new GPUOutOfMemoryError("no room today");
    queueMicrotask(() => this.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error })));
    this.pushErrorScope("validation");
    const none = create.call(this, { ...descriptor, usage: 0 });
    this.popErrorScope();
    return none;
  };
`;

/** The page and a function that runs another in its newest worker; `before` runs in every worker before its own code. */
export async function openWithDevice({ before = "", ...options } = {}) {
  const page = await open({ ...options, serviceWorkers: "block" });
  await page.route("**/worker.js", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: HOOKS + before + (await response.text()) });
  });
  return [page, (work, value) => page.workers().at(-1).evaluate(work, value)];
}
