// Serves this folder on loopback, and a model of the caller's choice as /model.gguf.
//
//   node web/serve.mjs MODEL [PORT]
//
// `serve(model, port)` does the same for the test; port 0 takes a free one.

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
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

export async function serve(model, port = 0) {
  const server = createServer(async (request, response) => {
    try {
      const { pathname } = new URL(request.url, "http://localhost");
      const path = pathname === "/model.gguf" ? model : inside(pathname === "/" ? "/index.html" : pathname);
      const { size } = await stat(path);
      const type = types[extname(path)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type, "content-length": size, "cache-control": "no-cache" });
      if (request.method === "HEAD") return response.end();
      createReadStream(path).on("error", () => response.destroy()).pipe(response);
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
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
