// A service worker: the page's own files, from the network while there is one, else as they last came from it.
// Models are not its business; they are in the store.

const SHELL = "benben-page";
const SHELL_FILE = /(\/|\.(html|css|js|svg|wasm))$/;

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method === "GET" && origin === location.origin && SHELL_FILE.test(pathname)) event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(SHELL);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request);
    if (kept) return kept;
    throw error;
  }
}
