// A browser with somebody before it: opens an address, signs in as who the second argument names, types in the code that the
// third one is, agrees to everything, and prints the page that it ends at.
import assert from "node:assert/strict";

const [start, login, code] = process.argv.slice(2);
const cookies = new Map();
const origin = new URL(start).origin;

async function load(url, form) {
  const headers = { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") };
  const answer = await fetch(url, { redirect: "manual", headers, ...(form && { method: "POST", body: form }) });
  for (const cookie of answer.headers.getSetCookie()) {
    const [name, value] = cookie.split(";")[0].split(/=(.*)/s);
    if (value) cookies.set(name, value); else cookies.delete(name);
  }
  return answer;
}

const attribute = (tag, name) => tag.match(new RegExp(`\\b${name}="([^"]*)"`))?.[1].replaceAll("&amp;", "&");
let [url, form] = [start, undefined];
for (let step = 0; step < 20; step++) {
  const answer = await load(url, form);
  form = undefined;
  const next = answer.headers.get("location");
  if (next) {
    url = new URL(next, url).href;
    continue;
  }
  const page = await answer.text();
  const forms = [...page.matchAll(/<form[\s\S]*?<\/form>/g)].map(([text]) => text);
  const shown = forms.find((text) => !/name="abort"/.test(text));
  if (new URL(url).origin !== origin || !shown) {
    console.log(`${answer.status} ${page.trim()}`);
    process.exit(0);
  }
  form = new URLSearchParams();
  for (const [input] of shown.matchAll(/<input[^>]*>/g)) {
    const name = attribute(input, "name");
    const typed = { login, password: "any", user_code: code }[name];
    if (name) form.set(name, attribute(input, "value") || typed || "");
  }
  if (form.has("user_code") && code) form.set("user_code", code);
  url = new URL(attribute(shown, "action"), url).href;
}
assert.fail("no end of pages");
