// Schemas (JSON Schema, as OpenAPI 3.1 has it) as people read them: types in a few words, objects as lists of fields.

import { el } from "./dom.js";

const PREFIX = "#/components/schemas/";

/** Text with `code` in it. */
export function inline(text) {
  return text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

/** A link to a schema of the page. */
function link(ref) {
  const name = ref.slice(PREFIX.length);
  return el("a", { href: `#schema-${name}` }, name);
}

function joined(parts, between) {
  return parts.flatMap((part, index) => (index === 0 ? [part] : [between, part])).flat();
}

/** What a value is, in words and links. */
export function typeOf(schema) {
  if (schema === undefined || schema === true || Object.keys(schema).length === 0) return ["anything"];
  if (schema.$ref) return [link(schema.$ref)];
  if (schema.allOf) return joined(schema.allOf.filter((one) => one.$ref || one.oneOf).map(typeOf), " and ");
  const either = schema.oneOf ?? schema.anyOf;
  if (either) return joined(either.map(typeOf), " or ");
  if (schema.enum) return [schema.enum.map((word) => JSON.stringify(word)).join(", ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  const types = [schema.type].flat();
  return joined(types.map((type) => (type === "array" ? ["list of ", ...typeOf(schema.items)] : [plain(type, schema)])), " or ");
}

function plain(type, schema) {
  const { format, minimum, maximum } = schema;
  const word = type === "string" && format ? format : type ?? "anything";
  const written = schema.default === undefined ? "" : `, ${JSON.stringify(schema.default)} when it is not given`;
  const range = maximum === undefined ? "" : ` ${minimum ?? ""} to ${maximum}`;
  return word + range + written;
}

/** The fields of an object, or the kinds of it that there are. */
export function fields(schema) {
  const either = schema.oneOf ?? schema.anyOf;
  if (schema.allOf) return el("div.piece", {}, schema.allOf.map(part));
  if (either) return el("div.variants", {}, either.map(part));
  if (schema.properties === undefined) return el("p.type", {}, typeOf(schema));
  const required = new Set(schema.required);
  const row = ([name, of]) => el("div", {},
    el("dt", {}, el("code", {}, name), required.has(name) && el("span.always", {}, "always")),
    el("dd", {}, el("span.type", {}, typeOf(of)), of.description && el("span", {}, inline(of.description))));
  return el("dl.fields", {}, Object.entries(schema.properties).map(row));
}

function part(schema) {
  if (schema.$ref) return el("p.type", {}, typeOf(schema));
  return el("div.piece", {}, schema.description && el("p.quiet", {}, inline(schema.description)), fields(schema));
}
