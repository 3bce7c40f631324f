// The section "Stored models": what this page keeps on the machine, and a button to delete each.
//
// It also registers offline.js, with which the page itself opens without a network.

import { Benben } from "./benben.js";
import { bytes } from "./words.js";

const details = document.getElementById("stored");
const list = document.getElementById("stored-list");
const note = document.getElementById("stored-note");

function row({ name, url, date, size, have, complete }) {
  const item = document.createElement("li");
  const title = document.createElement("strong");
  title.textContent = name;
  title.title = url;
  const facts = document.createElement("span");
  facts.className = "quiet numbers";
  const when = new Date(date).toLocaleDateString(undefined, { dateStyle: "medium" });
  facts.textContent = `${complete ? bytes(size) : `${bytes(have)} of ${bytes(size)}, goes on when loaded`} · ${when}`;
  const button = document.createElement("button");
  button.textContent = "Delete";
  button.className = "plain";
  button.setAttribute("aria-label", `Delete ${name}`);
  button.onclick = async () => {
    button.disabled = true;
    await Benben.remove(url).then(show, (error) => (note.textContent = error.message));
    details.querySelector("summary").focus();
  };
  item.append(title, facts, button);
  return item;
}

async function show() {
  const models = await Benben.stored();
  list.replaceChildren(...models.map(row));
  if (!models.length) return (note.textContent = "Nothing is stored.");
  const kept = await navigator.storage.persisted();
  const { quota, usage } = await navigator.storage.estimate();
  const room = `${bytes(Math.max(0, quota - usage))} of room left.`;
  note.textContent = kept ? `The browser keeps these until you delete them. ${room}` : `The browser may delete these when it runs short. ${room}`;
}

details.addEventListener("toggle", () => details.open && show());

if ("serviceWorker" in navigator) navigator.serviceWorker.register("offline.js");
