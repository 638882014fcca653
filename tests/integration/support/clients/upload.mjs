// Uploads a picture as Node's users do: node upload.mjs WAY URL FILE; prints the answer.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [way, url, file] = process.argv.slice(2);
const content = readFileSync(file);
const form = () => {
  const made = new FormData();
  made.append("file", new Blob([content]), "cat.jpg");
  return made;
};
const fetched = async (body) => (await fetch(url, { method: "POST", body })).text();
const ways = {
  "fetch a form": () => fetched(form()),
  "fetch a body": () => fetched(content),
  "fetch a stream": async () => {
    const body = new ReadableStream({ start: (queue) => (queue.enqueue(content), queue.close()) });
    return (await fetch(url, { method: "POST", body, duplex: "half" })).text();
  },
  "axios a form": async () => {
    const made = new (required("form-data"))();
    made.append("file", content, "cat.jpg");
    return JSON.stringify((await required("axios").post(url, made)).data);
  },
  "axios a body": async () => JSON.stringify((await required("axios").post(url, content)).data),
};
function required(name) {
  // Found through NODE_PATH, which imports do not heed.
  return createRequire(import.meta.url)(name);
}
console.log(await ways[way]());
