// Live streams: what each is, its recording lamp, and the verbs of its recording.

import * as api from "./api.js";
import { troublesOf } from "./card.js";
import { Clock } from "./clock.js";
import { actionButton, el, keyed, setText, show, toast } from "./dom.js";
import * as format from "./format.js";

const LAMP = {
  off: "Not recorded",
  starting: "Recording starts",
  recording: "Recording",
  paused: "Recording paused",
  finalizing: "Finishing the file",
};

export function liveView(store) {
  const list = document.getElementById("streams");
  const empty = document.getElementById("streams-empty");
  const count = document.getElementById("streams-count");
  const update = keyed(list, (session) => session.mediaSessionId, () => streamCard(store));
  const draw = () => {
    update(store.sessions);
    show(empty, store.loaded && store.sessions.length === 0 && !store.error);
    setText(count, store.sessions.length > 0 ? String(store.sessions.length) : "");
  };
  store.addEventListener("sessions", draw);
  draw();
}

function streamCard(store) {
  let session = null;
  const tell = (error) => {
    toast(`${format.short(session.name)}: ${error.message}`);
    store.reload();
  };
  const verb = (call) => async () => {
    const recording = await call(session.mediaSessionId);
    if (recording) store.takeRecording(recording);
  };
  const running = () => (session.recordingId ? store.running.get(session.recordingId) : null);

  const lamp = el("span.lamp", { role: "img" });
  const name = el("h3");
  const room = el("span.room");
  const protocol = el("span.tag");
  const pending = el("span.tag", { "data-kind": "wait" }, "connecting");
  const trouble = el("span.tag.trouble", { "data-kind": "failed", role: "status" });
  const media = el("dd");
  const rate = el("dd.number");
  const age = new Clock("dd");
  const lost = el("dd.number");
  const lostPair = el("div", {}, el("dt", {}, "Packets lost"), lost);
  const state = el("span");
  const clock = new Clock("span");
  const record = actionButton("Record", { className: "record" }, () => verb(running() ? api.stop : api.start)(), tell);
  const split = actionButton("New part", {}, verb(api.split), tell);
  const hold = actionButton("Pause", {}, () => verb(running()?.status === "paused" ? api.resume : api.pause)(), tell);
  const pair = (term, value) => el("div", {}, el("dt", {}, term), value);
  const element = el(
    "li.stream", {},
    el("div.stream-head", {}, lamp, el("div.names", {}, name, el("p.quiet", {}, "Room ", room)), trouble, pending, protocol),
    el("dl.facts", {}, pair("Media", media), pair("Rate", rate), pair("On air", age.element), lostPair),
    el("div.stream-foot", {}, el("p.lamp-words", {}, state, " ", clock.element), el("div.actions", {}, hold, split, record)),
  );

  let timed = null;
  /** Asks how long the recording is whenever its state changed; then the page's clock goes on from there. */
  const time = async (recording) => {
    const key = recording && `${recording.id} ${recording.status}`;
    if (key === timed) return;
    timed = key;
    if (!recording) return;
    const told = await api.recordingState(session.mediaSessionId).catch(() => null);
    if (timed !== key || told?.recordingId !== recording.id) return;
    clock.set(told.totalRunningDurationMs, recording.status === "recording");
  };

  const update = (next) => {
    session = next;
    const recording = running();
    const status = session.recordingId ? recording?.status ?? "starting" : "off";
    const ready = session.status === "PUBLISHING";
    setText(name, session.name);
    name.title = session.name;
    setText(room, session.roomName);
    setText(protocol, format.protocol(session.protocol));
    show(pending, !ready);
    const troubles = recording ? troublesOf(recording) : [];
    setText(trouble, troubles.join(" · "));
    show(trouble, troubles.length > 0);
    const track = (kind) => session.tracks.find((t) => t.kind === kind);
    setText(media, format.media({ video: track("video"), audio: track("audio") }));
    setText(rate, format.bitrate(session.bitrate));
    age.set(Date.now() - Date.parse(session.createdAt), true);
    setText(lost, String(session.lost));
    show(lostPair, session.lost > 0);

    lamp.dataset.state = status;
    lamp.ariaLabel = LAMP[status];
    setText(state, LAMP[status]);
    show(clock.element, status === "recording" || status === "paused");
    label(record, status === "off" ? "Record" : "Stop", session.name);
    record.dataset.on = String(status !== "off");
    record.disabled = status === "finalizing" || (status === "off" && !ready);
    label(hold, status === "paused" ? "Resume" : "Pause", session.name);
    label(split, "New part", session.name);
    show(hold, status === "recording" || status === "paused");
    show(split, status === "recording");
    time(recording);
  };
  return { element, update };
}

/** Which stream a button is for is in its name, for who cannot see where it stands. */
function label(button, text, name) {
  setText(button, text);
  button.ariaLabel = `${text}: ${name}`;
}
