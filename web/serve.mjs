// Serves this folder on loopback, and a model of the caller's choice as /model.gguf.
//
//   node web/serve.mjs MODEL [PORT]
//
// `serve(model, port)` does the same for tests; port 0 takes a free one, and `intercept(request, response)` answers
// what it returns true for.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL(".", import.meta.url));
const types = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

export async function serve(model, port = 0, intercept = () => false) {
  const server = createServer(async (request, response) => {
    try {
      if (await intercept(request, response)) return;
      const { pathname } = new URL(request.url, "http://localhost");
      const path = pathname === "/model.gguf" ? model : inside(pathname === "/" ? "/index.html" : pathname);
      await send(path, request, response);
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

/** Sends a file, or the range of it that the request asks for. */
export async function send(path, request, response) {
  const { size, mtimeMs } = await stat(path);
  const headers = {
    "content-type": types[extname(path)] ?? "application/octet-stream",
    "cache-control": "no-cache",
    "accept-ranges": "bytes",
    etag: `"${size.toString(36)}-${Math.round(mtimeMs).toString(36)}"`,
  };
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const start = Number(from ?? 0);
  const end = Math.min(to ? Number(to) : Infinity, size - 1);
  if (from && start > end) return response.writeHead(416, { "content-range": `bytes */${size}` }).end();
  if (from) headers["content-range"] = `bytes ${start}-${end}/${size}`;
  response.writeHead(from ? 206 : 200, { ...headers, "content-length": end - start + 1 });
  if (request.method === "HEAD") return response.end();
  createReadStream(path, { start, end }).on("error", () => response.destroy()).pipe(response);
}

function inside(pathname) {
  const path = normalize(join(folder, decodeURIComponent(pathname)));
  if (!path.startsWith(folder) || path.split(sep).includes("node_modules")) throw new Error("outside");
  return path;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [model, port = "8080"] = process.argv.slice(2);
  const { url } = await serve(model, Number(port));
  console.log(`benben is at ${url} (Ctrl-C ends it)`);
}
