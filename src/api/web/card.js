// One recording as a card.

import * as api from "./api.js";
import { Clock } from "./clock.js";
import { el, setText, show } from "./dom.js";
import * as format from "./format.js";
import { isRunning } from "./store.js";

const STATUS = {
  starting: "Starting",
  recording: "Recording",
  paused: "Paused",
  finalizing: "Finishing",
  completed: "Completed",
  failed: "Failed",
  recovered: "Recovered",
};

/** `actions.play(recording)` and `actions.remove(recording)` are what its buttons do. */
export function recordingCard(actions) {
  let recording = null;
  const poster = posterOf(() => actions.play(recording));
  const name = el("h3");
  const where = el("p.quiet");
  const status = el("span.tag");
  const time = el("time");
  const media = el("span");
  const size = el("span.number");
  const notes = el("ul.notes");
  const deliveries = el("ul.deliveries");
  const play = el("button.primary", { type: "button", onclick: () => actions.play(recording) }, "Play");
  const download = el("div.download");
  const remove = el("button.danger", { type: "button", onclick: () => actions.remove(recording) }, "Delete");
  const element = el(
    "li.card", {},
    poster.element,
    el(
      "div.card-body", {},
      el("div.card-head", {}, el("div.names", {}, name, where), status),
      el("p.card-facts", {}, time, size, media),
      notes,
      deliveries,
      el("div.actions", {}, play, download, remove),
    ),
  );

  const update = (next) => {
    recording = next;
    const running = isRunning(recording);
    const started = new Date(recording.startedAt);
    element.dataset.status = recording.status;
    poster.update(recording);
    setText(name, recording.streamName);
    name.title = recording.streamName;
    setText(where, `Room ${recording.roomName} · ${format.protocol(recording.protocol)}`);
    setText(status, STATUS[recording.status] ?? recording.status);
    status.dataset.kind = recording.status;
    setText(time, format.when(started));
    time.dateTime = recording.startedAt;
    time.title = format.wholeTime(started);
    setText(size, recording.size > 0 ? format.bytes(recording.size) : "");
    setText(media, mediaOf(recording));
    replace(notes, notesOf(recording).map(note));
    replace(deliveries, deliveriesOf(recording));
    play.ariaLabel = `Play ${recording.streamName}`;
    play.disabled = recording.status === "starting" || (recording.parts.length === 0 && !running);
    drawDownload(download, recording);
    remove.ariaLabel = `Delete ${recording.streamName}`;
    remove.disabled = running;
    remove.title = running ? "It can be deleted once it has ended." : "";
  };
  return { element, update };
}

function mediaOf({ parts, container }) {
  const [part] = parts;
  const count = parts.length > 1 ? ` · ${format.plural(parts.length, "part")}` : "";
  return part ? `${container.toUpperCase()} · ${format.media(part)}${count}` : container.toUpperCase();
}

/** The picture, or a drawing where there is none (yet). */
function posterOf(play) {
  const image = el("img", { alt: "", loading: "lazy", decoding: "async" });
  const length = new Clock("span.length");
  // The Play button below does the same: one stop for the keyboard is enough.
  const element = el("div.poster", { "aria-hidden": "true", onclick: play }, image, length.element);
  let asked = null;
  let timed = null;
  // Not `hidden`: what is not laid out is not loaded lazily either.
  image.addEventListener("load", () => (image.dataset.loaded = "true"));
  image.addEventListener("error", () => delete image.dataset.loaded);
  const update = (recording) => {
    const { id, status, durationMs, parts } = recording;
    const part = parts.find((p) => p.video);
    element.dataset.kind = part || parts.length === 0 ? "picture" : "sound";
    // What is told again unchanged is as old as it was: its clock goes on.
    if (recording !== timed) length.set(durationMs, status === "recording");
    timed = recording;
    show(length.element, durationMs > 0 || status === "recording");
    // Made a moment after its part: an event tells.
    if (!part?.poster || asked === part.number) return;
    asked = part.number;
    image.src = api.posterUrl(id, part.number);
  };
  return { element, update };
}

const TROUBLES = {
  "no-data": "Nothing is recorded",
  "no-key-frame": "No key frames",
  "no-video": "The picture is missing",
  "no-audio": "The sound is missing",
  frozen: "The picture stands still",
  black: "The picture is black",
  silent: "The sound is silent",
};

/** What is wrong with a recording now, or was at its end, in words. */
export function troublesOf({ health = [] }) {
  return health.filter((h) => !h.until).map((h) => TROUBLES[h.reason] ?? h.reason);
}

function notesOf({ error, degraded, health = [], lost, status }) {
  const notes = [];
  if (error) notes.push({ kind: "error", text: error });
  if (status === "recovered") notes.push({ kind: "wait", text: "Made whole after the daemon had died." });
  for (const trouble of troublesOf({ health })) notes.push({ kind: "warn", text: trouble });
  for (const reason of degraded.filter((r) => !(r in TROUBLES))) notes.push({ kind: "warn", text: reason });
  const over = [...new Set(health.filter((h) => h.until).map((h) => TROUBLES[h.reason] ?? h.reason))];
  if (over.length > 0) notes.push({ kind: "wait", text: `For a while: ${over.join(", ")}` });
  const missing = [
    lost.frames > 0 && format.plural(lost.frames, "frame"),
    lost.packets > 0 && format.plural(lost.packets, "packet"),
  ].filter(Boolean);
  if (missing.length > 0) notes.push({ kind: "warn", text: `Missing: ${missing.join(", ")}` });
  const pauses = lost.gaps.filter((gap) => gap.kind === "pause").length;
  const gaps = lost.gaps.length - pauses;
  if (gaps > 0) notes.push({ kind: "warn", text: format.plural(gaps, "gap") });
  if (pauses > 0) notes.push({ kind: "wait", text: `Paused ${pauses === 1 ? "once" : `${pauses} times`}` });
  return notes;
}

function note({ kind, text }) {
  return el("li", { "data-kind": kind }, text);
}

const KINDS = { hook: "Hook", webhook: "Webhook", upload: "Upload" };
/** The worst state of its parts speaks for a kind. */
const WORST = ["dead", "failed", "pending", "done"];

function deliveriesOf({ deliveries = [], parts }) {
  const kinds = [...new Set(deliveries.map((d) => d.kind))];
  return kinds.map((kind) => {
    const own = deliveries.filter((d) => d.kind === kind);
    const state = WORST.find((word) => own.some((d) => d.state === word)) ?? own[0].state;
    const speaks = own.find((d) => d.state === state);
    const text = `${KINDS[kind] ?? kind}: ${deliveryWords(state, speaks.attempts)}`;
    const output = kind === "hook" ? parts.find((p) => p.number === speaks.part)?.hook?.output?.trim() : "";
    if (!output) return el("li", { "data-kind": state }, text);
    return el("li", { "data-kind": state }, el("details", {}, el("summary", {}, text), el("pre", {}, output)));
  });
}

function deliveryWords(state, attempts) {
  const tries = format.plural(attempts, "attempt");
  switch (state) {
    case "pending": return "waiting";
    case "done": return attempts > 1 ? `done after ${tries}` : "done";
    case "failed": return `failed, ${tries}; is tried again`;
    case "dead": return `given up after ${tries}`;
    default: return state;
  }
}

/** A link to the file; with several parts, a list of links. */
function drawDownload(box, { id, streamName, parts }) {
  const key = parts.map((p) => `${p.number} ${p.name}`).join("\n");
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const link = (part, text) =>
    el("a.button", { href: api.downloadUrl(id, part.number), download: part.name, title: part.name }, text);
  if (parts.length === 0) return box.replaceChildren();
  if (parts.length === 1) {
    const only = link(parts[0], "Download");
    only.ariaLabel = `Download ${streamName}`;
    return box.replaceChildren(only);
  }
  const wasOpen = box.querySelector("details")?.open ?? false;
  const items = parts.map((part) =>
    el("li", {}, link(part, `Part ${part.number} · ${format.clock(part.durationMs)} · ${format.bytes(part.size)}`)));
  const summary = el("summary.button", { "aria-label": `Download the parts of ${streamName}` }, "Download");
  box.replaceChildren(el("details", { open: wasOpen }, summary, el("ul.menu", {}, items)));
}

/** Only what reads differently is drawn again: open details stay open. */
function replace(list, items) {
  const text = (nodes) => [...nodes].map((n) => `${n.dataset.kind} ${n.textContent}`).join("\n");
  if (text(list.children) !== text(items)) list.replaceChildren(...items);
  show(list, items.length > 0);
}
