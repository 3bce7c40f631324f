// The page: four states (start, loading, problem, chat) around one model. All engine work is in a worker.

import { Benben } from "./benben.js";
import { Chat } from "./chat.js";
import { Side } from "./side.js";
import { bytes, planned, problem, seconds } from "./words.js";

const $ = (id) => document.getElementById(id);
const CONTEXT = 2048;
const MODEL = "model.gguf";

const side = new Side($);
const chat = new Chat($, side);
let model;
/** Ends the load under way. */
let control;

function show(state, focus) {
  document.body.dataset.state = state;
  $("unload").hidden = state !== "chat";
  if (focus) $(focus).focus();
  if (state === "start" && navigator.gpu) offer();
}

function fail(error) {
  const { title, text, advice } = problem(error);
  $("problem-title").textContent = title;
  $("problem-text").textContent = text;
  $("problem-advice").textContent = advice;
  show("problem", "problem-title");
}

async function load(source, name) {
  const { signal } = (control = new AbortController());
  $("start-note").textContent = "";
  $("plan").textContent = "";
  progress({ phase: "download", done: 0, total: null });
  show("loading", "loading-title");
  try {
    const options = { ...side.options(), context: CONTEXT };
    const onPlan = (plan) => agree({ ...plan, name: plan.name || name }, signal);
    model = await Benben.load(source, { ...options, onPlan, onProgress: progress, signal });
    $("where").textContent = model.info.name || name;
    chat.attach(model, CONTEXT);
    side.attach(model);
    show("chat", "prompt");
  } catch (error) {
    if (!signal.aborted) return fail(error);
    $("start-note").textContent = "Cancelled. Nothing is left in memory; a download goes on where it ended.";
    show("start", "start-title");
  } finally {
    control = null;
  }
}

/** Shows what the model takes, and waits for a yes where it has to be downloaded. */
async function agree(plan, signal) {
  $("plan").textContent = planned(plan);
  if (!plan.download) return;
  const button = $("download");
  $("loading-title").textContent = plan.name;
  button.textContent = `Download ${bytes(plan.download)}`;
  [button.hidden, $("bar").hidden] = [false, true];
  button.focus();
  await new Promise((resolve) => {
    button.onclick = resolve;
    signal.addEventListener("abort", resolve);
  });
  [button.hidden, $("bar").hidden] = [true, false];
  $("loading-title").focus();
}

const phases = { download: "Downloading", read: "Reading", upload: "Moving to the GPU", compile: "Compiling shaders" };

function progress({ phase, done, total, rate }) {
  // A heading that is set anew is read out anew.
  if ($("loading-title").textContent !== phases[phase]) $("loading-title").textContent = phases[phase];
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

function unload() {
  chat.stop();
  side.detach();
  model.dispose();
  $("where").textContent = "a language model in your browser";
  $("start-note").textContent = "Unloaded: its memory is free again.";
  show("start", "start-title");
}

function submit() {
  if (chat.busy) return chat.stop();
  const text = $("prompt").value.trim();
  if (!text) return;
  $("prompt").value = "";
  chat.ask(text);
}

$("default-form").onsubmit = (event) => (event.preventDefault(), load(MODEL, MODEL));
$("url-form").onsubmit = (event) => (event.preventDefault(), load($("url").value, $("url").value.split("/").pop()));
$("file").onchange = (event) => event.target.files[0] && load(event.target.files[0], event.target.files[0].name);
$("cancel").onclick = () => control?.abort();
$("back").onclick = () => show("start", "start-title");
$("unload").onclick = unload;
$("composer").onsubmit = (event) => (event.preventDefault(), submit());
$("settings").onchange = ({ target }) => ["temperature", "maxTokens"].includes(target.name) || chat.reconfigure();
$("settings").onsubmit = (event) => event.preventDefault();
$("clear").onclick = () => (chat.clear(), $("prompt").focus());
for (const idea of $("ideas").querySelectorAll("button")) {
  idea.onclick = () => chat.busy || (chat.ask(idea.textContent), $("prompt").focus());
}
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
};
addEventListener("keydown", ({ key }) => key === "Escape" && (control?.abort(), chat.stop()));

document.body.ondragover = (event) => (event.preventDefault(), document.body.classList.add("dropping"));
document.body.ondragleave = () => document.body.classList.remove("dropping");
document.body.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (!file || control) return;
  if (document.body.dataset.state === "chat") unload();
  load(file, file.name);
};

const network = () => ($("offline").hidden = navigator.onLine);
addEventListener("online", network);
addEventListener("offline", network);
network();

/** Offers the model beside the page, where there is one, and says how much of it is in this browser. */
async function offer() {
  const [head, stored] = await Promise.all([fetch(MODEL, { method: "HEAD" }).catch(() => null), Benben.stored()]);
  const kept = stored.find(({ url }) => url === new URL(MODEL, location).href);
  if (!head?.ok && !kept?.complete) return;
  const size = Number(head?.headers.get("content-length")) || kept?.size;
  const here = kept?.complete ? "all of it in this browser" : kept && `${bytes(kept.have)} in this browser`;
  $("default-size").textContent = [size && bytes(size), here].filter(Boolean).join(" · ");
  $("default-form").hidden = false;
}

if (navigator.gpu) show("start");
else fail({ code: "no-webgpu", message: "This browser has no WebGPU." });
