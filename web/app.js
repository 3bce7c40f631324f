// The page: four states (start, loading, problem, chat) around one model. All engine work is in a worker.

import { Benben } from "./benben.js";
import { bytes, seconds } from "./words.js";
import { Side } from "./side.js";

const $ = (id) => document.getElementById(id);
const CONTEXT = 2048;
const MODEL = "model.gguf";

const side = new Side($);
let model;
let messages = [];
/** Ends what is under way: a load or an answer. */
let control;

function show(state, focus) {
  document.body.dataset.state = state;
  $("unload").hidden = state !== "chat";
  if (focus) $(focus).focus();
}

/** What to do about an error, where its sentence does not say. */
const advice = {
  "no-webgpu": "On Linux, Chrome may need chrome://flags/#enable-unsafe-webgpu. chrome://gpu says what is missing.",
  "no-adapter": "chrome://gpu says what is missing.",
  download: "Check the address; the server must also allow other sites to read it (CORS).",
  format: "benben reads GGUF files of the Llama family.",
  "does-not-fit": "A smaller model, or one of fewer bits, needs less.",
  "device-lost": "Other programs may have taken the GPU's memory. Loading the model again starts afresh.",
};

function fail(error) {
  $("problem-text").textContent = error.message;
  $("problem-advice").textContent = advice[error.code] ?? "";
  show("problem", "problem-title");
}

async function load(source, name) {
  const { signal } = (control = new AbortController());
  progress({ phase: "download", done: 0, total: null });
  show("loading", "loading-title");
  try {
    const options = { ...side.options(), context: CONTEXT };
    model = await Benben.load(source, { ...options, onProgress: progress, signal });
    messages = [];
    $("log").replaceChildren();
    $("ideas").hidden = false;
    $("where").textContent = model.info.name || name;
    side.attach(model);
    $("status").textContent = "Ready";
    show("chat", "prompt");
  } catch (error) {
    if (signal.aborted) show("start");
    else fail(error);
  } finally {
    control = null;
  }
}

const phases = { download: "Downloading", read: "Reading", upload: "Moving to the GPU", compile: "Compiling shaders" };

function progress({ phase, done, total, rate }) {
  $("loading-title").textContent = phases[phase];
  const bar = $("bar");
  if (total && phase !== "read") {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
  const parts = [total ? `${bytes(done)} of ${bytes(total)}` : done ? bytes(done) : ""];
  if (rate) parts.push(`${bytes(rate)}/s`);
  if (rate && total) parts.push(`${seconds((total - done) / rate)} left`);
  $("loaded").textContent = parts.filter(Boolean).join(" · ");
}

function bubble(role, text = "") {
  const item = document.createElement("li");
  item.className = role;
  item.dir = "auto";
  item.textContent = text;
  $("log").append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

async function ask(text) {
  $("ideas").hidden = true;
  messages.push({ role: "user", content: text });
  bubble("user", text);
  const item = bubble("assistant pending");
  const words = item.appendChild(document.createTextNode(""));
  const { signal } = (control = new AbortController());
  $("send").textContent = "Stop";
  $("status").textContent = "Reading the prompt";
  side.follow();
  const started = performance.now();
  let tokens = 0;
  let end = "Done";
  try {
    const answer = model.generate(messages, { ...side.sampling(), signal });
    for await (const piece of answer) {
      if (!tokens++) $("status").textContent = "Answering";
      stay(() => (words.data += piece.text));
    }
  } catch (error) {
    end = signal.aborted ? "Stopped" : "Failed";
    if (end === "Failed") bubble("failed", error.message);
  }
  messages.push({ role: "assistant", content: words.data });
  item.classList.remove("pending");
  if (!words.data) item.remove();
  $("status").textContent = `${end}: ${tokens} tokens in ${seconds((performance.now() - started) / 1000)}`;
  $("send").textContent = "Send";
  control = null;
  await side.settle();
}

/** Changes the log and keeps its end in sight, unless the reader has scrolled up. */
function stay(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function submit() {
  if (control) return control.abort();
  const text = $("prompt").value.trim();
  if (!text) return;
  $("prompt").value = "";
  ask(text);
}

async function reconfigure() {
  control?.abort();
  try {
    await model.configure({ ...side.options(), context: CONTEXT });
    await side.settle();
    $("status").textContent = messages.length ? "The next message reads the conversation anew" : "Ready";
  } catch (error) {
    $("status").textContent = error.message;
  }
}

function unload() {
  control?.abort();
  model.dispose();
  side.detach();
  $("where").textContent = "a language model in your browser";
  show("start");
}

$("default-form").onsubmit = (event) => (event.preventDefault(), load(MODEL, MODEL));
$("url-form").onsubmit = (event) => (event.preventDefault(), load($("url").value, $("url").value.split("/").pop()));
$("file").onchange = (event) => event.target.files[0] && load(event.target.files[0], event.target.files[0].name);
$("cancel").onclick = () => control.abort(new DOMException("cancelled", "AbortError"));
$("back").onclick = () => show("start");
$("unload").onclick = unload;
$("composer").onsubmit = (event) => (event.preventDefault(), submit());
$("settings").onchange = ({ target }) => ["temperature", "maxTokens"].includes(target.name) || reconfigure();
$("clear").onclick = () => {
  control?.abort();
  messages = [];
  $("log").replaceChildren();
  $("ideas").hidden = false;
  reconfigure();
  $("prompt").focus();
};
for (const idea of $("ideas").querySelectorAll("button")) idea.onclick = () => control || (ask(idea.textContent), $("prompt").focus());
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
};
addEventListener("keydown", (event) => event.key === "Escape" && control?.abort());

document.body.ondragover = (event) => (event.preventDefault(), document.body.classList.add("dropping"));
document.body.ondragleave = () => document.body.classList.remove("dropping");
document.body.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (!file) return;
  if (model && document.body.dataset.state === "chat") unload();
  load(file, file.name);
};

/** Offers the model beside the page, where there is one, with what it will cost. */
async function offer() {
  const head = await fetch(MODEL, { method: "HEAD" }).catch(() => null);
  if (!head?.ok) return;
  const size = Number(head.headers.get("content-length"));
  $("default-size").textContent = size ? `${bytes(size)} to download, about ${bytes(1.15 * size)} of GPU memory` : "";
  $("default-form").hidden = false;
}

if (navigator.gpu) offer();
else fail({ code: "no-webgpu", message: "This browser has no WebGPU. Chrome, Edge, Safari 26 and Firefox 141 or newer do." });
