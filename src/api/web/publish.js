// The page `/publish`: a camera or a screen goes to reeld and is recorded; then there is a link to play and download it.

import * as api from "./api.js";
import { NONE, SCREEN, capture, captureWords, devices, listen, obstacle, screenCanBeShared } from "./capture.js";
import { el, setText, show, toast } from "./dom.js";
import * as format from "./format.js";
import { WhipSession, sendable } from "./whip.js";

const byId = (id) => document.getElementById(id);
const CODECS = { H264: "H.264 (MP4)", VP8: "VP8 (WebM)", VP9: "VP9 (WebM)", AV1: "AV1 (MP4)" };
/** How long a file may take to be finished after the last frame. */
const FINISH_MS = 60_000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** `idle`, `preview`, `connecting`, `live`, `stopping`, `finishing`. */
let state = "idle";
let stream = null;
let deafen = () => {};
let session = null;
let mediaSessionId = null;
let since = 0;
/** Each opening of devices and each publish has a number: what comes late of an older one is left. */
let turn = 0;

function enter(next, words) {
  state = next;
  const busy = state === "connecting" || state === "stopping" || state === "finishing";
  document.body.dataset.state = state;
  byId("lamp").dataset.state = { live: "recording", connecting: "starting", stopping: "finalizing", finishing: "finalizing" }[state] ?? "off";
  setText(byId("state"), words);
  const go = byId("go");
  setText(go, state === "live" || state === "stopping" ? "Stop" : "Start");
  go.dataset.on = String(state === "live");
  go.disabled = busy || obstacle() !== null;
  go.setAttribute("aria-busy", String(busy));
  for (const field of byId("form").querySelectorAll("input, select")) field.disabled = busy || state === "live";
}

function fault(words) {
  setText(byId("fault"), words ?? "");
  show(byId("fault"), Boolean(words));
}

/** Opens what is chosen and shows it. A screen is asked for at Start only: browsers want a press for it. */
async function preview() {
  const mine = ++turn;
  release();
  fault(null);
  try {
    const opened = await capture(byId("picture").value, byId("sound").value);
    if (mine !== turn) return stopTracks(opened);
    take(opened);
    await fillDevices();
    return true;
  } catch (error) {
    if (mine !== turn) return false;
    enter("idle", "Nothing to publish yet");
    fault(captureWords(error));
    return false;
  }
}

function take(opened) {
  stream = opened;
  const video = byId("preview");
  video.srcObject = stream;
  video.play().catch(() => {});
  const hasPicture = stream.getVideoTracks().length > 0;
  show(video, hasPicture);
  setText(byId("preview-words"), hasPicture ? "" : "Sound only");
  video.dataset.mirrored = String(byId("picture").value !== SCREEN);
  deafen = listen(stream, showLevel);
  for (const track of stream.getTracks()) {
    track.addEventListener("ended", () => stream === opened && ended(track));
  }
  if (state === "idle") enter("preview", "Ready");
}

function showLevel(level) {
  const meter = byId("level");
  meter.firstElementChild.style.transform = `scaleX(${level.toFixed(3)})`;
  meter.dataset.loud = String(level > 0.95);
  meter.ariaValueNow = String(Math.round(level * 100));
}

function ended(track) {
  const what = track.kind === "video" ? "The picture" : "The sound";
  if (state === "live") {
    toast(`${what} has ended, so the recording was stopped.`);
    stop();
  } else {
    release();
    enter("idle", `${what} has ended. Choose it again.`);
  }
}

function stopTracks(of) {
  of?.getTracks().forEach((track) => track.stop());
}

function release() {
  deafen();
  deafen = () => {};
  stopTracks(stream);
  stream = null;
  byId("preview").srcObject = null;
  show(byId("preview"), false);
  setText(byId("preview-words"), byId("picture").value === SCREEN ? "The browser asks for the screen when you press Start" : "No preview yet");
}

async function fillDevices() {
  const { cameras, microphones } = await devices();
  const screen = screenCanBeShared() ? [{ id: SCREEN, label: "Screen or window" }] : [];
  fill(byId("picture"), [...named(cameras, "Camera"), ...screen, { id: NONE, label: "No picture" }]);
  fill(byId("sound"), [...named(microphones, "Microphone"), { id: NONE, label: "No sound" }]);
}

/** Before the first permission there are no ids: the default device stands for all. */
function named(list, word) {
  return list.length > 0 ? list : [{ id: "", label: word }];
}

function fill(select, options) {
  const chosen = select.value;
  const track = stream?.getTracks().find((t) => t.kind === (select.id === "picture" ? "video" : "audio"));
  const inUse = chosen === "" ? track?.getSettings().deviceId : chosen;
  select.replaceChildren(...options.map(({ id, label }) => el("option", { value: id }, label)));
  select.value = options.some(({ id }) => id === inUse) ? inUse : options[0].id;
}

async function start() {
  if (!byId("form").reportValidity()) return;
  if (stream === null && !(await preview())) return;
  const mine = ++turn;
  const room = byId("room").value.trim();
  const name = byId("stream").value.trim();
  fault(null);
  show(byId("result"), false);
  enter("connecting", "Connecting …");
  session = new WhipSession();
  try {
    const url = `/whip/${encodeURIComponent(room)}/${encodeURIComponent(name)}?record=true`;
    await session.start(url, stream, byId("codec").value, (words) => lost(words));
  } catch (error) {
    session = null;
    enter("preview", "Not published");
    return fault(error.message);
  }
  since = performance.now();
  mediaSessionId = null;
  enter("live", "Live, starting to record");
  watch(mine, room, name);
}

/** While live: finds the session, says whether it is recorded and what is sent. */
async function watch(mine, room, name) {
  const isOurs = (s) => s.name === name && s.roomName === room && s.protocol === "webrtc";
  for (let seconds = 0; mine === turn && state === "live"; seconds++) {
    const sent = await session.sending().catch(() => null);
    const told = seconds % 2 === 0 ? await api.sessions().catch(() => null) : null;
    if (mine !== turn || state !== "live") return;
    const ours = told?.items.find(isOurs);
    if (ours) {
      mediaSessionId = ours.mediaSessionId;
      byId("lamp").dataset.state = ours.recordingId ? "recording" : "off";
      setText(byId("state"), ours.recordingId ? "Live and recording" : "Live, but not recorded: the record policy says no");
    }
    setText(byId("clock"), format.clock(performance.now() - since));
    if (sent) {
      const facts = [format.size(sent), sent.fps && `${Math.round(sent.fps)} fps`, format.bitrate(sent.bitrate)];
      setText(byId("sent"), facts.filter(Boolean).map((fact) => ` · ${fact}`).join(""));
    }
    await pause(1000);
  }
}

async function lost(words) {
  if (state !== "live") return;
  fault(`${words} What was recorded until then is kept.`);
  await stop();
}

async function stop() {
  const mine = ++turn;
  enter("stopping", "Stopping …");
  await session.stop();
  session = null;
  if (mine !== turn) return;
  enter("finishing", "Finishing the file …");
  const outcome = await finished().catch((error) => ({ words: error.message }));
  if (mine !== turn) return;
  setText(byId("clock"), "");
  setText(byId("sent"), "");
  enter(stream ? "preview" : "idle", outcome.recording ? "Recorded" : "Stopped");
  if (outcome.recording) showResult(outcome.recording);
  else fault(outcome.words);
}

/** The recording of what was published, once it is final. */
async function finished() {
  if (mediaSessionId === null) return { words: "It was stopped before anything was recorded." };
  const deadline = performance.now() + FINISH_MS;
  while (performance.now() < deadline) {
    const { items } = await api.recordings({ mediaSessionId, limit: 1 });
    const [recording] = items;
    if (!recording) return { words: "Nothing of it was recorded." };
    if (recording.status === "failed") return { words: `The recording failed. ${recording.error ?? ""}` };
    if (recording.endedAt !== null && recording.parts.length > 0) return { recording };
    await pause(300);
  }
  return { words: "The file is not finished yet; it will be in the library." };
}

function showResult(recording) {
  const [part] = recording.parts;
  const video = byId("result-video");
  video.src = api.fileUrl(recording.id, part.number);
  show(video, true);
  setText(byId("result-name"), recording.streamName);
  setText(byId("result-facts"), [format.clock(recording.durationMs), format.bytes(recording.size), format.media(part)].join(" · "));
  byId("result-play").href = `/#play=${recording.id}`;
  byId("result-download").href = api.downloadUrl(recording.id, part.number);
  byId("result-download").download = part.name;
  show(byId("result"), true);
  byId("result-title").focus();
}

function begin() {
  byId("stream").value = `cam-${crypto.getRandomValues(new Uint16Array(1))[0].toString(16).padStart(4, "0")}`;
  const given = new URLSearchParams(location.search);
  for (const key of ["room", "stream"]) if (given.get(key)) byId(key).value = given.get(key);
  const why = obstacle();
  enter("idle", why ? "Nothing can be published from here" : "Choose a picture and a sound");
  if (why) return fault(why);

  byId("codec").replaceChildren(...sendable().map((name) => el("option", { value: name }, CODECS[name])));
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state === "live") stop();
    else if (state === "idle" || state === "preview") start();
  });
  byId("picture").addEventListener("change", choose);
  byId("sound").addEventListener("change", choose);
  // A browser that cannot play the file still has the links.
  byId("result-video").addEventListener("error", () => show(byId("result-video"), false));
  navigator.mediaDevices.addEventListener("devicechange", () => stream && fillDevices());
  addEventListener("beforeunload", (event) => state === "live" && event.preventDefault());
  addEventListener("pagehide", () => session?.abandon());
  fillDevices().then(preview);
}

function choose() {
  turn += 1;
  release();
  fault(null);
  enter("idle", "Choose a picture and a sound");
  if (byId("picture").value !== SCREEN) preview();
}

begin();
