// Clocks that go on by themselves between two answers.

import { el, setText } from "./dom.js";
import * as format from "./format.js";

const clocks = new Set();

export class Clock {
  #ms = 0;
  /** `performance.now()` of the last `set`; null: it stands. */
  #at = null;

  /** `shape` as for `el`. It runs for as long as its element is in the page. */
  constructor(shape) {
    this.element = el(`${shape}.number`);
    clocks.add(new WeakRef(this));
  }

  set(ms, runs) {
    this.#ms = ms;
    this.#at = runs ? performance.now() : null;
    this.draw();
  }

  draw() {
    const since = this.#at === null ? 0 : performance.now() - this.#at;
    setText(this.element, format.clock(this.#ms + since));
  }
}

setInterval(() => {
  for (const reference of clocks) {
    const clock = reference.deref();
    if (!clock) clocks.delete(reference);
    else if (clock.element.isConnected) clock.draw();
  }
}, 1000);
