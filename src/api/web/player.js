// The player: a dialog with one video element, and a list where a recording has several parts.

import * as api from "./api.js";
import { el, setText, show, toast } from "./dom.js";
import * as format from "./format.js";
import { isRunning } from "./store.js";

const byId = (id) => document.getElementById(id);
const TYPES = { mp4: "video/mp4", webm: "video/webm", mkv: "video/x-matroska", ts: "video/mp2t" };

export function makePlayer() {
  const dialog = byId("player");
  const video = byId("player-video");
  const fault = byId("player-fault");
  const parts = byId("player-parts");
  let recording = null;
  let current = null;

  const load = (part, play) => {
    current = part;
    show(fault, false);
    show(video, true);
    video.src = api.fileUrl(recording.id, part.number);
    video.poster = part.poster ? api.posterUrl(recording.id, part.number) : "";
    byId("player-download").href = api.downloadUrl(recording.id, part.number);
    byId("player-download").download = part.name ?? "";
    for (const button of parts.querySelectorAll("button")) {
      button.ariaCurrent = String(Number(button.dataset.part) === part.number);
    }
    // A browser that wants a press on Play first is no fault.
    if (play) video.play().catch(() => {});
  };

  /** The parts play as one: the next begins where one ends. */
  const next = () => {
    const list = partsOf(recording);
    const after = list[list.findIndex((p) => p.number === current.number) + 1];
    if (after) load(after, true);
  };

  const failed = async () => {
    if (!dialog.open || current === null || !video.currentSrc) return;
    const asked = current;
    const words = await why(recording, current, video.error);
    if (asked !== current) return;
    show(video, false);
    setText(byId("player-fault-words"), words);
    show(fault, true);
  };
  video.addEventListener("ended", next);
  video.addEventListener("error", failed);
  byId("player-again").addEventListener("click", () => load(current, true));
  dialog.addEventListener("close", () => {
    current = null;
    video.pause();
    video.removeAttribute("src");
    video.removeAttribute("poster");
    video.load();
    if (location.hash !== "") history.replaceState(null, "", location.pathname + location.search);
  });
  // A click beside it closes it, as people expect; what is in it has its own box.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  const open = (what) => {
    const list = partsOf(what);
    if (list.length === 0) return toast(`${what.streamName} has no file to play.`);
    recording = what;
    setText(byId("player-name"), recording.streamName);
    setText(byId("player-facts"), factsOf(recording));
    parts.replaceChildren(...list.map((part) => partButton(part, () => load(part, true))));
    show(parts, list.length > 1);
    if (!dialog.open) dialog.showModal();
    history.replaceState(null, "", `#play=${recording.id}`);
    load(list[0], true);
    video.focus();
  };
  return { open };
}

/** Finished parts, and the one that is being written: as much of it as there is can be played. */
function partsOf(recording) {
  if (!isRunning(recording)) return recording.parts;
  return [...recording.parts, { number: (recording.parts.at(-1)?.number ?? 0) + 1, unfinished: true }];
}

function factsOf(recording) {
  const started = format.when(new Date(recording.startedAt));
  const running = isRunning(recording) ? "still being written" : format.clock(recording.durationMs);
  const size = recording.size > 0 && format.bytes(recording.size);
  return [`Room ${recording.roomName}`, started, running, size].filter(Boolean).join(" · ");
}

function partButton(part, choose) {
  const length = part.unfinished ? "being written" : format.clock(part.durationMs);
  const button = el("button", { type: "button", "data-part": part.number, onclick: choose });
  button.append(el("span", {}, `Part ${part.number}`), el("span.quiet.number", {}, length));
  return el("li", {}, button);
}

/** Why a part does not play: the server says why it does not give it, else the browser cannot show it. */
async function why(recording, part, error) {
  try {
    const answer = await fetch(api.fileUrl(recording.id, part.number), { headers: { Range: "bytes=0-0" } });
    if (!answer.ok) return (await api.problem(answer)).message;
    await answer.body?.cancel();
  } catch {
    return "reeld cannot be reached. The recording is safe; try again when it runs.";
  }
  const playable = document.createElement("video").canPlayType(TYPES[recording.container] ?? "") !== "";
  if (!playable || error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED) {
    const what = part.video || part.audio ? format.media(part) : recording.container.toUpperCase();
    return `This browser cannot play ${what} in ${recording.container.toUpperCase()}. Download the file to watch it.`;
  }
  return "Playing broke off. Try again, or download the file.";
}
