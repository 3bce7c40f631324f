// Numbers as people say them, and what went wrong with what to do about it.

/** Bytes in the unit that leaves one to three digits before the point. */
export function bytes(n) {
  if (n < 1e3) return `${Math.round(n)} B`;
  if (n < 1e6) return `${(n / 1e3).toFixed(1)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}

/** A duration, as coarse as it is long. */
export function seconds(s) {
  if (s < 10) return `${s.toFixed(1)} s`;
  return s < 90 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`;
}

/** A rate with two or three digits. */
export function rate(n) {
  return n < 10 ? n.toFixed(1) : Math.round(n).toString();
}

/** A share of one. */
export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

/** The options of a cache. */
export function cache({ policy, share, kBits, vBits }) {
  return policy === "auto" ? `auto, ${percent(share)} of the bytes` : `${policy}, K ${kBits} bits, V ${vBits} bits`;
}

/** What a model takes, before it is loaded. */
export function planned({ total, weights, kv, kvFullF16, scratch, storage }) {
  const cache = `${bytes(kv)} for the conversation at its longest (${bytes(kvFullF16)} in a full f16 cache)`;
  const kept = storage === "opfs" ? "It is kept in this browser." : `It is not kept: ${storage}.`;
  return `It takes ${bytes(total)} of GPU memory: ${bytes(weights)} for the weights, ${cache}, ${bytes(scratch)} to work with. ${kept}`;
}

/** Where an error's own sentence does not say: a title, and what to do. */
const problems = {
  "no-webgpu": [
    "No WebGPU here",
    "benben computes on the GPU by way of WebGPU. Chrome, Edge, Safari 26 and Firefox 141 or newer have it; on Linux, "
      + "Chrome may need chrome://flags/#enable-unsafe-webgpu. chrome://gpu says what is missing.",
  ],
  "no-adapter": ["No GPU here", "chrome://gpu says what is missing."],
  offline: [
    "You are offline",
    "A model that was loaded before may still be in this browser, and a file on this machine always works.",
  ],
  download: ["The download failed", "Check the address; the server must also allow other sites to read it (CORS)."],
  format: ["This file is no model for benben", "benben reads GGUF files of the Llama family."],
  "does-not-fit": ["It does not fit", "A smaller model, one of fewer bits, or a cache of fewer bits needs less."],
  unsupported: ["The GPU cannot do this", "Other tabs may hold it; asking again tries again, and a reload starts afresh."],
  "context-full": ["The conversation is too long", "A shorter message or a new conversation fits."],
  "out-of-memory": ["The GPU is out of memory", "Asking again tries again, on a fresh device."],
  "device-lost": [
    "The GPU was lost",
    "It was lost again while the model was on its way back onto it. Other programs may have taken its memory.",
  ],
};

/** An error as a title, its sentence, and advice. */
export function problem(error) {
  const code = error.code === "download" && !navigator.onLine ? "offline" : error.code;
  const [title, advice] = problems[code] ?? ["That did not work", ""];
  const numbers = error.need && `It needs ${bytes(error.need)}, and there are ${bytes(error.limit)}.`;
  return { title, text: numbers ? `${numbers} ${sentence(error.message)}` : sentence(error.message), advice };
}

/** An error's own words as a sentence, with its bytes as people say them. */
function sentence(text) {
  const said = text.replace(/\b(\d{4,}) bytes\b/g, (_, n) => bytes(Number(n)));
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}
