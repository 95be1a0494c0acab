// The page `/`: puts its views together.

import * as api from "./api.js";
import { setText, toast } from "./dom.js";
import * as format from "./format.js";
import { liveView } from "./live.js";
import { makePlayer } from "./player.js";
import { recordingsView } from "./recordings.js";
import { Store } from "./store.js";

const byId = (id) => document.getElementById(id);
const LINKS = {
  connecting: "Connecting",
  live: "Live updates",
  polling: "Updates every few seconds",
  offline: "reeld cannot be reached; trying again",
};

function linkView(store) {
  const draw = () => {
    byId("link").dataset.state = store.link;
    setText(byId("link-words"), LINKS[store.link]);
    document.body.dataset.stale = String(store.link === "offline");
  };
  store.addEventListener("link", draw);
  draw();
}

function serverView(store) {
  store.addEventListener("server", () => {
    const { disk, policy, addresses, version } = store.server;
    const used = disk.totalBytes - disk.freeBytes;
    const low = disk.mark !== "enough";
    byId("disk").hidden = disk.totalBytes === 0;
    byId("disk").dataset.low = String(low);
    byId("disk-bar").max = disk.totalBytes;
    byId("disk-bar").value = used;
    const left = disk.secondsToFull === null ? "" : ` · full in ${format.roughly(disk.secondsToFull)}`;
    setText(byId("disk-words"), `${format.bytes(disk.freeBytes)} free of ${format.bytes(disk.totalBytes)}${left}`);
    byId("disk").title = `Records folder: ${disk.path}`;
    byId("policy").hidden = policy.error === null;
    setText(byId("policy-words"), policy.error);
    setText(byId("push-rtmp"), `rtmp://${reachable(addresses.rtmp)}/ROOM/STREAM`);
    setText(byId("push-rtsp"), `rtsp://${reachable(addresses.rtsp)}/ROOM/STREAM`);
    setText(byId("version"), `reeld ${version}`);
  });
}

/** A daemon that listens everywhere is reached by the name this page came from. */
function reachable(address) {
  return address.replace(/^(0\.0\.0\.0|\[::\])(?=:)/, location.hostname);
}

/** `#play=ID` opens the player: links to a recording are made so. */
async function playLinked(player) {
  const [, id] = location.hash.match(/^#play=([0-9a-f-]{36})$/i) ?? [];
  if (!id) return;
  try {
    player.open(await api.recording(id));
  } catch (error) {
    toast(error.message);
  }
}

const store = new Store();
const player = makePlayer();
linkView(store);
serverView(store);
liveView(store);
recordingsView(store, player);
addEventListener("hashchange", () => playLinked(player));
store.start();
playLinked(player);
