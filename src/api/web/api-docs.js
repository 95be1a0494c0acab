// The page `/api`: shows /openapi.json to people. Nothing but what is in that document is told here.

import { el, setText, toast } from "./dom.js";
import { fields, inline, typeOf } from "./api-schema.js";

const byId = (id) => document.getElementById(id);
const anchor = (text) => text.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");
const METHODS = ["get", "put", "post", "patch", "delete", "options", "head"];
const COPIED_MS = 1500;

/** Paragraphs, lists and `code`: the Markdown that the document is written in. */
function words(text) {
  const block = (part) => {
    const lines = part.split("\n");
    if (!lines.every((line) => line.startsWith("- "))) return el("p", {}, inline(part));
    return el("ul", {}, lines.map((line) => el("li", {}, inline(line.slice(2)))));
  };
  return (text ?? "").split("\n\n").filter(Boolean).map(block);
}

function code(text, label, kind = "code") {
  const copy = el("button", { type: "button", "aria-label": `Copy: ${label}` }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      setText(copy, "Copied");
      setTimeout(() => setText(copy, "Copy"), COPIED_MS);
    } catch {
      toast("The browser does not let this page copy. Select the text instead.");
    }
  });
  return el(`div.${kind}`, {}, el("pre", { tabIndex: 0, role: "region", "aria-label": label }, el("code", {}, text)), copy);
}

function piece(title, ...content) {
  return el("section.piece", {}, el("h4", {}, title), content.flat(2));
}

const json = (value) => JSON.stringify(value, null, 2);
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** A line for the shell that makes the call; what stands in capitals is to be filled in. */
function curl(method, path, operation) {
  const name = (word) => word.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
  const address = location.origin + path.replace(/\{(\w+)\}/g, (_, word) => name(word));
  const line = ["curl"];
  if (method !== "get") line.push("-X", method.toUpperCase());
  const [[type, content] = []] = Object.entries(operation.requestBody?.content ?? {});
  if (operation.responses["101"]) return `wscat -c ${address.replace(/^http/, "ws")}`;
  if (operation.responses["206"]) line.push("-OJ");
  line.push(address);
  if (type === "application/json") line.push("-d", quoted(JSON.stringify(content.example)));
  else if (type) line.push("-H", quoted(`Content-Type: ${type}`), "--data-binary", "@FILE");
  return line.join(" ");
}

function parameters(list) {
  const places = { path: "in the path", query: "in the query", header: "header" };
  const row = ({ name, in: place, required, description, schema }) => el("div", {},
    el("dt", {}, el("code", {}, name), required && el("span.must", {}, "required")),
    el("dd", {}, el("span.type", {}, typeOf(schema), ` · ${places[place]}`), el("span", {}, inline(description ?? ""))));
  return piece("Parameters", el("dl.fields", {}, list.map(row)));
}

/** `whole`: with fields and example, not the name of the schema alone. */
function content(of, what, whole = true) {
  return Object.entries(of ?? {}).flatMap(([type, { schema, example }]) => [
    el("p", {}, el("span.type", {}, type, schema ? " · " : ""), schema && typeOf(schema)),
    whole && schema?.type === "object" && fields(schema),
    whole && example !== undefined && code(typeof example === "string" ? example : json(example), `Example of ${what}`),
  ]);
}

function answer([status, { description, headers, content: of }]) {
  const good = Number(status) < 400;
  const told = Object.entries(headers ?? {}).map(([name, header]) =>
    el("p", {}, el("code", {}, name), ": ", inline(header.description ?? "")));
  return el("div", {},
    el("dt", {}, el("span.status", { "data-good": String(good) }, status)),
    el("dd", {}, words(description), told, content(of, `an answer of ${status}`, good)));
}

function operationView(method, path, operation) {
  const title = `${method.toUpperCase()} ${path}`;
  const inside = () => [
    ...words(operation.description),
    piece(operation.responses["101"] ? "Shell" : "curl", code(curl(method, path, operation), `call of ${title}`, "code.line")),
    operation.parameters && parameters(operation.parameters),
    operation.requestBody && piece(operation.requestBody.required ? "Body" : "Body, may be left out", content(operation.requestBody.content, "the body")),
    piece("Answers", el("dl.fields", {}, Object.entries(operation.responses).map(answer))),
  ];
  const head = [el("span.method", { "data-method": method }, method.toUpperCase()), el("code", {}, path), el("span.quiet", {}, operation.summary)];
  return entry(`op-${operation.operationId}`, head, inside, `${title} ${operation.summary} ${operation.operationId}`);
}

function schemaView(name, schema) {
  const head = [el("code", {}, name), el("span.quiet", {}, inline((schema.description ?? "").split("\n")[0]))];
  const [, more] = (schema.description ?? "").split(/\n([^]*)/);
  return entry(`schema-${anchor(name)}`, head, () => [...words(more), fields(schema)], name);
}

/** What is inside is made when it is opened: the document is long. */
function entry(id, head, inside, search) {
  const details = el("details.entry", { id, "data-search": search.toLowerCase() }, el("summary", {}, head));
  const fill = () => details.childElementCount === 1 && details.append(el("div.inside", {}, inside()));
  details.addEventListener("toggle", fill, { once: true });
  return details;
}

function group(name, description, entries) {
  const id = `group-${anchor(name)}`;
  byId("contents").append(el("a", { href: `#${id}` }, name));
  byId("groups").append(el("section.group", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, name), el("p.quiet", {}, inline(description)), entries));
}

function operations(paths) {
  return Object.entries(paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => [method, path, item[method]]));
}

function draw(api) {
  setText(byId("version"), api.info.version);
  byId("about").append(...words(api.info.description));
  const all = operations(api.paths);
  for (const { name, description } of api.tags) {
    group(name, description, all.filter(([, , { tags }]) => tags.includes(name)).map((one) => operationView(...one)));
  }
  const schemas = Object.entries(api.components.schemas);
  group("Schemas", "The objects that calls take and answer.", schemas.map(([name, schema]) => schemaView(name, schema)));
}

function find() {
  const wanted = byId("find").value.trim().toLowerCase().split(/\s+/);
  let count = 0;
  for (const part of document.querySelectorAll(".group")) {
    const entries = [...part.querySelectorAll(".entry")];
    for (const one of entries) one.hidden = !wanted.every((word) => one.dataset.search.includes(word));
    const left = entries.filter((one) => !one.hidden).length;
    part.hidden = left === 0;
    count += left;
  }
  setText(byId("found"), wanted[0] === "" ? "" : count === 0 ? "Nothing is called that." : `${count} found`);
}

/** A link to an operation or a schema opens it. */
function openLinked() {
  const linked = document.getElementById(location.hash.slice(1));
  if (!linked) return;
  linked.hidden = false;
  linked.closest(".group").hidden = false;
  if (linked.tagName === "DETAILS") {
    linked.open = true;
    linked.querySelector("summary").focus({ preventScroll: true });
  }
  linked.scrollIntoView();
}

async function start() {
  try {
    const answered = await fetch("openapi.json", { cache: "no-store" });
    if (!answered.ok) throw new Error(`reeld answered ${answered.status}.`);
    draw(await answered.json());
  } catch (error) {
    byId("fault").hidden = false;
    setText(byId("fault"), `The description of the API cannot be shown: ${error.message}`);
    return;
  }
  byId("find").addEventListener("input", find);
  addEventListener("hashchange", openLinked);
  openLinked();
  document.body.dataset.state = "ready";
}

start();
