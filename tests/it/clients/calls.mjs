// Calls through the gate with Node's undici: kept connections over HTTP/1.1, then HTTP/2 over mutual TLS.
// Arguments: the plain gateway, the TLS gateway, the caller's token, a directory with cert.pem and key.pem, the authority.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [plain, tls, token, identity, authority] = process.argv.slice(2);
const require = createRequire(pathToFileURL(process.env.NODE_PATH + "/"));
const { Agent, request } = require("undici");

const bearer = { authorization: `Bearer ${token}` };
const kept = new Agent({ connections: 2, pipelining: 1 });
for (let round = 0; round < 25; round++) {
  const read = await request(`${plain}/v1/orders/${round}`, { headers: bearer, dispatcher: kept });
  assert.equal(read.statusCode, 200);
  const seen = await read.body.json();
  assert.equal(seen.headers["portcullis-call-id"], read.headers["portcullis-call-id"]);
  const body = "x".repeat(round * 4000);
  const written = await request(`${plain}/v1/orders/${round}`, { method: "POST", headers: bearer, body, dispatcher: kept });
  assert.equal(written.statusCode, 201);
  assert.equal((await written.body.json()).body_bytes, body.length);
  const refused = await request(`${plain}/elsewhere`, { headers: bearer, dispatcher: kept });
  assert.equal(refused.statusCode, 404);
  assert.equal((await refused.body.json()).reason, "route_unknown");
}

const connect = { ca: readFileSync(authority), cert: readFileSync(`${identity}/cert.pem`), key: readFileSync(`${identity}/key.pem`) };
const mutual = new Agent({ connect, allowH2: true });
const answers = await Promise.all(Array.from({ length: 40 }, async (_, order) => {
  const answer = await request(`${tls}/v1/orders/${order}`, { dispatcher: mutual });
  return [answer.statusCode, (await answer.body.json()).path];
}));
assert.deepEqual(answers, answers.map((_, order) => [200, `/v1/orders/${order}`]));
await Promise.all([kept.close(), mutual.close()]);
console.log("ok");
