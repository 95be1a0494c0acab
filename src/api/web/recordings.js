// The recordings: filters, the list page by page, deletion.

import * as api from "./api.js";
import { recordingCard } from "./card.js";
import { actionButton, el, keyed, setText, show, toast } from "./dom.js";
import * as format from "./format.js";

const byId = (id) => document.getElementById(id);

export function recordingsView(store, player) {
  const list = byId("recordings");
  const room = byId("filter-room");
  const text = byId("filter-text");
  const status = byId("filter-status");
  const actions = { play: (recording) => player.open(recording), remove: (recording) => confirmRemove(store, recording) };
  const update = keyed(list, (recording) => recording.id, () => recordingCard(actions));
  const more = actionButton("Load more", { id: "more" }, () => store.more(), (error) => toast(error.message));
  byId("more-place").append(more);

  const draw = () => {
    const words = text.value.trim().toLowerCase();
    const shown = store.list.filter((recording) => matches(recording, words));
    update(shown);
    show(more, store.nextCursor !== null);
    setText(byId("recordings-count"), counted(store, shown));
    setText(byId("recordings-empty"), emptyWords(store, shown, words));
    show(byId("recordings-empty"), store.loaded && shown.length === 0);
    show(byId("recordings-loading"), !store.loaded);
    show(byId("filter-clear"), room.value !== "" || text.value !== "" || status.value !== "");
    offerRooms(store);
  };
  store.addEventListener("recordings", draw);
  store.addEventListener("sessions", () => offerRooms(store));

  text.addEventListener("input", draw);
  // A half-typed room is no room: it holds once it is chosen or entered.
  const filter = () => store.setFilter({ room: room.value.trim(), status: status.value });
  const changed = () => room.value.trim() !== store.filter.room || status.value !== store.filter.status;
  room.addEventListener("change", () => changed() && filter());
  room.addEventListener("search", () => changed() && filter());
  room.addEventListener("input", (event) => event.inputType === "insertReplacementText" && filter());
  status.addEventListener("change", filter);
  byId("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    if (changed()) filter();
  });
  // Menus of parts close as menus do.
  const closeMenus = (except) => {
    for (const menu of list.querySelectorAll(".download details[open]")) if (!menu.contains(except)) menu.open = false;
  };
  document.addEventListener("pointerdown", (event) => closeMenus(event.target));
  list.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest(".download details[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  byId("filter-clear").addEventListener("click", () => {
    room.value = text.value = status.value = "";
    room.focus();
    if (changed()) filter();
    else draw();
  });
  draw();
}

function matches({ id, streamName, roomName, parts, startedAt }, words) {
  if (words === "") return true;
  const all = [id, streamName, roomName, startedAt, ...parts.map((p) => p.name)].join("\n").toLowerCase();
  return words.split(/\s+/).every((word) => all.includes(word));
}

function counted(store, shown) {
  if (!store.loaded || shown.length === 0) return "";
  const more = store.nextCursor !== null ? "+" : "";
  return shown.length === store.list.length ? `${shown.length}${more}` : `${shown.length} of ${store.list.length}${more}`;
}

function emptyWords(store, shown, words) {
  if (shown.length > 0) return "";
  if (store.error && store.list.length === 0) return `The recordings cannot be shown. ${store.error.message}`;
  if (words !== "" && store.list.length > 0) {
    const rest = store.nextCursor !== null ? " Load more to look further back." : "";
    return `Nothing among the ${format.plural(store.list.length, "recording")} loaded holds “${words}”.${rest}`;
  }
  if (store.filter.room !== "") return `No recording in room “${store.filter.room}”. Rooms match by their whole name.`;
  if (store.filter.status !== "") return "No recording has this status.";
  return "Nothing is recorded yet. Press Record on a live stream, or publish one from this browser.";
}

/** Rooms that were seen are offered; any other can be typed. */
function offerRooms(store) {
  const box = byId("rooms");
  const known = new Set([...box.options].map((option) => option.value));
  const seen = [...store.sessions, ...store.list].map((item) => item.roomName);
  for (const name of new Set(seen)) if (!known.has(name)) box.append(el("option", { value: name }));
}

function confirmRemove(store, recording) {
  const dialog = byId("confirm");
  setText(byId("confirm-name"), format.short(recording.streamName));
  const files = format.plural(recording.parts.length, "file");
  setText(byId("confirm-what"), `${format.when(new Date(recording.startedAt))} · ${files} · ${format.bytes(recording.size)}`);
  const remove = actionButton("Delete", { className: "danger solid" }, async () => {
    try {
      await api.remove(recording.id);
    } catch (error) {
      // Somebody else was faster: what was wanted is done.
      if (error.status !== 404) throw error;
    }
    dialog.close();
    store.forget(recording.id);
    toast(`Deleted ${format.short(recording.streamName)}.`, "done");
  }, (error) => {
    dialog.close();
    toast(`${format.short(recording.streamName)} was not deleted. ${error.message}`);
  });
  byId("confirm-do").replaceChildren(remove);
  dialog.showModal();
}
