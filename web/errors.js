// Errors with a code that programs can tell apart, in words for people who have options and no command line.

export class BenbenError extends Error {
  /**
   * @param {string} code such as "no-webgpu", "does-not-fit", "format", "device-lost" or "cancelled"
   * @param {string} message
   * @param {{need?: number, limit?: number, advice?: {kind: string, value?: unknown}[], cause?: unknown}} details
   *   bytes, where something does not fit, and settings that would have let the call succeed
   */
  constructor(code, message, { need, limit, advice = [], cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    // What is stopped is told apart by this name everywhere on the web.
    this.name = code === "cancelled" ? "AbortError" : "BenbenError";
    this.code = code;
    this.advice = advice;
    if (need !== undefined) Object.assign(this, { need, limit });
  }

  /** The error of something that a signal stopped, or of a model that is gone. */
  static cancelled(cause) {
    return new BenbenError("cancelled", cause?.message || "stopped", { cause });
  }

  /** An error that came out of the worker. */
  static from({ code, message, ...details }) {
    const said = message
      .replace(/ \(install [^)]*\)/, "")
      .replace(/JsValue\(([^)]*?)\s*(?:undefined)?\)/, "$1")
      .replace(/`([a-z-]+)`/g, (_, option) => option.replace(/-(.)/g, (_, letter) => letter.toUpperCase()));
    return new BenbenError(code, said, details);
  }
}
