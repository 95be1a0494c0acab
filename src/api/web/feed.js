// The event socket: connects, resumes by cursor, and comes back by itself. While it is away the page polls.

import { eventsUrl } from "./api.js";

/** The server tells a heartbeat every 15 s: a socket silent for longer is dead, whatever TCP believes. */
const SILENCE_MS = 40_000;
const CONNECT_MS = 10_000;
const RETRY_MS = { first: 500, most: 15_000 };

export class Feed {
  #cursor = null;
  #socket = null;
  #wait = RETRY_MS.first;
  #retry = null;
  #silence = null;
  #onEvent;
  #onState;

  /** `onEvent(event)` takes each event, `onState(up)` whether events arrive. */
  constructor(onEvent, onState) {
    this.#onEvent = onEvent;
    this.#onState = onState;
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => !document.hidden && this.#hurry());
    addEventListener("pagehide", () => this.#drop());
    addEventListener("pageshow", (event) => event.persisted && this.#connect());
  }

  start() {
    this.#connect();
  }

  #connect() {
    clearTimeout(this.#retry);
    const socket = new WebSocket(eventsUrl(this.#cursor));
    this.#socket = socket;
    this.#expect(CONNECT_MS);
    socket.addEventListener("message", ({ data }) => this.#socket === socket && this.#take(data));
    socket.addEventListener("close", () => this.#socket === socket && this.#lost());
  }

  #take(data) {
    this.#expect(SILENCE_MS);
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    if (event.type === "hello") {
      this.#wait = RETRY_MS.first;
      // Without a cursor what follows hello is new; with one, what was missed comes first.
      this.#cursor ??= event.seq;
      this.#onState(true);
    } else if (Number.isSafeInteger(event.seq)) {
      this.#cursor = event.seq;
    }
    this.#onEvent(event);
  }

  #expect(ms) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#drop();
      this.#lost();
    }, ms);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    clearTimeout(this.#silence);
    clearTimeout(this.#retry);
    socket?.close();
  }

  #lost() {
    this.#socket = null;
    clearTimeout(this.#silence);
    this.#onState(false);
    // Spread, so that all the pages of a daemon that restarts do not come back at once.
    this.#retry = setTimeout(() => this.#connect(), this.#wait * (0.75 + Math.random() / 2));
    this.#wait = Math.min(this.#wait * 2, RETRY_MS.most);
  }

  #hurry() {
    if (this.#socket === null) this.#connect();
  }
}
