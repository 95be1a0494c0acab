// What the library page knows: live sessions, recordings by filter, the server. Views are told by events.

import * as api from "./api.js";
import { Feed } from "./feed.js";

export const PAGE = 24;
const POLL_MS = 3_000;
/** With the socket there: rates and frame counts of live streams are numbers, not events. */
const NUMBERS_MS = 5_000;
const DISK_MS = 30_000;

/** Events: `sessions`, `recordings`, `server`, `link`. */
export class Store extends EventTarget {
  sessions = [];
  /** Recordings that fit the filter, newest first, as far as loaded. */
  list = [];
  nextCursor = null;
  filter = { room: "", status: "" };
  /** Recordings under way by id, whether or not they fit the filter. */
  running = new Map();
  server = null;
  /** `connecting`, `live` (events), `polling`, `offline` (no answer at all). */
  link = "connecting";
  /** Of the last load: `null` or an ApiError. */
  error = null;
  loaded = false;
  #feedUp = false;
  #load = null;
  /** Reads under way or waiting. */
  #reads = 0;
  /** Counts changes of the filter: an answer to an older one is left. */
  #turn = 0;
  /** Events that came while a read is under way. */
  #held = null;
  /** Recordings that were deleted: what is told of them late is left. */
  #gone = new Set();

  start() {
    this.reload();
    new Feed((event) => this.#take(event), (up) => this.#feed(up)).start();
    this.#every(POLL_MS, () => !this.#feedUp && this.reload());
    this.#every(NUMBERS_MS, () => this.#feedUp && this.sessions.length > 0 && this.#loadSessions());
    this.#every(DISK_MS, () => this.#loadServer());
    document.addEventListener("visibilitychange", () => !document.hidden && !this.#feedUp && this.reload());
  }

  /** One after the other, and not while nobody looks. */
  #every(ms, work) {
    const turn = async () => {
      if (!document.hidden) await Promise.resolve(work()).catch(() => {});
      setTimeout(turn, ms);
    };
    setTimeout(turn, ms);
  }

  setFilter(filter) {
    this.filter = { ...this.filter, ...filter };
    this.#turn += 1;
    this.list = [];
    this.nextCursor = null;
    this.loaded = false;
    this.#tell("recordings");
    this.reload(true);
  }

  /** Reads everything again, once more after a read under way where `anew`. What events tell meanwhile comes on top. */
  reload(anew = false) {
    if (this.#load && !anew) return this.#load;
    const load = (this.#load ?? Promise.resolve()).then(() => this.#readAll());
    this.#load = load.finally(() => {
      this.#reads -= 1;
      if (this.#reads === 0) this.#load = null;
    });
    this.#reads += 1;
    return this.#load;
  }

  async #readAll() {
    const turn = this.#turn;
    this.#held ??= [];
    try {
      const [sessions, page] = await Promise.all([api.sessions(), this.#page()]);
      // The filter has changed: the read that its change asked for follows.
      if (turn !== this.#turn) return;
      this.sessions = sessions.items;
      this.#takePage(page);
      await this.#readRunning();
      this.error = null;
      this.#setLink(this.#feedUp ? "live" : "polling");
      if (this.server === null) this.#loadServer().catch(() => {});
    } catch (error) {
      if (turn !== this.#turn) return;
      this.error = error;
      if (error.status === 0) this.#setLink("offline");
    }
    this.loaded = true;
    const held = this.#held;
    this.#held = null;
    held.forEach((event) => this.#apply(event));
    this.#tell("sessions", "recordings");
  }

  #page(cursor = null) {
    return api.recordings({ ...this.filter, limit: PAGE, cursor });
  }

  /** The first page replaces what it covers; older ones that were loaded before stay. */
  #takePage({ items, nextCursor }) {
    const last = items.at(-1);
    const older = nextCursor && last ? this.list.filter((r) => order(last, r) < 0) : [];
    if (older.length === 0) this.nextCursor = nextCursor;
    this.list = [...items, ...older];
    this.running = new Map(items.filter(isRunning).map((r) => [r.id, r]));
  }

  /** Recordings under way that the page does not hold. */
  async #readRunning() {
    const missing = this.sessions.map((s) => s.recordingId).filter((id) => id && !this.running.has(id));
    const read = await Promise.allSettled(missing.map((id) => api.recording(id)));
    for (const { value } of read) if (value && isRunning(value)) this.running.set(value.id, value);
  }

  async more() {
    if (this.nextCursor === null) return;
    const turn = this.#turn;
    const page = await this.#page(this.nextCursor);
    if (turn !== this.#turn) return;
    const known = new Set(this.list.map((r) => r.id));
    this.list = [...this.list, ...page.items.filter((r) => !known.has(r.id))];
    this.nextCursor = page.nextCursor;
    this.#tell("recordings");
  }

  async #loadSessions() {
    this.sessions = (await api.sessions()).items;
    await this.#readRunning();
    this.#tell("sessions");
  }

  async #loadServer() {
    this.server = await api.server();
    this.#tell("server");
  }

  #feed(up) {
    this.#feedUp = up;
    if (up) this.#setLink("live");
    else this.reload();
  }

  #take(event) {
    // What came between the first read and the socket is in no event, so hello reads again.
    if (event.type === "sync" || event.type === "hello") this.reload(true).catch(() => {});
    else if (this.#held) this.#held.push(event);
    else this.#apply(event);
  }

  #apply(event) {
    if (event.type === "recording.deleted") this.forget(event.recordingId);
    if (event.recording?.id) {
      this.takeRecording(event.recording);
      // As it is told here it has no deliveries, and of many parts the newest only.
      if (!isRunning(event.recording) || event.partial) this.refresh(event.recording.id);
    }
    if (event.session?.mediaSessionId) this.#takeSession(event);
    const delivered = event.type === "delivery.done" || event.type === "delivery.failed";
    if (delivered && event.recordingId) this.refresh(event.recordingId);
    if (event.type.startsWith("disk") || event.type.startsWith("config.")) this.#loadServer().catch(() => {});
  }

  #takeSession({ type, session }) {
    const others = this.sessions.filter((s) => s.mediaSessionId !== session.mediaSessionId);
    const at = this.sessions.findIndex((s) => s.mediaSessionId === session.mediaSessionId);
    if (type !== "session.ended") others.splice(at < 0 ? others.length : at, 0, session);
    this.sessions = others;
    this.#tell("sessions");
  }

  /** A recording as it is now, from an event or an answer. */
  takeRecording(recording) {
    if (this.#gone.has(recording.id)) return;
    if (isRunning(recording)) this.running.set(recording.id, recording);
    else this.running.delete(recording.id);
    this.sessions = this.sessions.map((s) => withRecording(s, recording));
    const others = this.list.filter((r) => r.id !== recording.id);
    this.list = this.#fits(recording) ? insert(others, recording, this.nextCursor) : others;
    this.#tell("sessions", "recordings");
  }

  /** Reads one recording again, as its deliveries are told by the catalog only. */
  async refresh(id) {
    try {
      this.takeRecording(await api.recording(id));
    } catch (error) {
      if (error.status === 404) this.forget(id);
    }
  }

  forget(id) {
    this.#gone.add(id);
    this.running.delete(id);
    this.list = this.list.filter((r) => r.id !== id);
    this.#tell("recordings");
  }

  #fits({ roomName, status }) {
    const { room, status: wanted } = this.filter;
    return (room === "" || room === roomName) && (wanted === "" || wanted === status);
  }

  #setLink(link) {
    if (this.link === link) return;
    this.link = link;
    this.#tell("link");
  }

  #tell(...names) {
    names.forEach((name) => this.dispatchEvent(new Event(name)));
  }
}

export function isRunning({ status }) {
  return status === "starting" || status === "recording" || status === "paused" || status === "finalizing";
}

/** Newest first; those of the same ms by id, as the server lists them. Negative: `a` comes first; 0: it is the same. */
function order(a, b) {
  return b.startedAtMs - a.startedAtMs || Number(b.id > a.id) - Number(b.id < a.id);
}

/** Older than all that is loaded, while there is more to load, comes with its own page. */
function insert(list, recording, nextCursor) {
  const at = list.findIndex((r) => order(recording, r) < 0);
  if (at >= 0) return list.toSpliced(at, 0, recording);
  return nextCursor === null || list.length === 0 ? [...list, recording] : list;
}

function withRecording(session, recording) {
  if (session.mediaSessionId === recording.mediaSessionId && isRunning(recording)) {
    return { ...session, recordingId: recording.id };
  }
  return session.recordingId === recording.id && !isRunning(recording) ? { ...session, recordingId: null } : session;
}
