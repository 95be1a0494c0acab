// A WHIP client (RFC 9725): an offer, an answer that names the ICE servers, then the candidates; ends by DELETE.

import { ApiError, problem } from "./api.js";

/** A server that is silent is not waited for longer; nothing else waits for it. */
const GATHER_MS = 5000;
const CONNECT_MS = 15_000;
const CALL_MS = 10_000;

/** Codecs this browser can send, each once, as in SDP. */
export function sendable() {
  const all = RTCRtpSender.getCapabilities("video")?.codecs ?? [];
  const names = new Set(all.map(({ mimeType }) => mimeType.split("/")[1].toUpperCase()));
  return ["H264", "VP8", "VP9", "AV1"].filter((name) => names.has(name));
}

export class WhipSession {
  #connection = new RTCPeerConnection();
  #resource = null;
  #last = null;
  #stopped = false;

  /** Publishes the tracks of `stream`. Resolves when connected; `onLost(words)` tells when it is over without a stop. */
  async start(url, stream, codec, onLost) {
    try {
      await this.#connect(url, stream, codec);
    } catch (error) {
      await this.stop();
      throw error;
    }
    this.#connection.addEventListener("connectionstatechange", () => {
      if (!this.#stopped && this.#connection.connectionState === "failed") onLost("The connection to reeld broke off.");
    });
  }

  async #connect(url, stream, codec) {
    const connection = this.#connection;
    for (const track of stream.getTracks()) {
      const transceiver = connection.addTransceiver(track, { direction: "sendonly", streams: [stream] });
      if (track.kind === "video" && codec) prefer(transceiver, codec);
    }
    const offer = await connection.createOffer();
    const headers = { "Content-Type": "application/sdp" };
    const answer = await reach(url, { method: "POST", headers, body: offer.sdp });
    if (answer.status !== 201) throw await problem(answer);
    this.#resource = new URL(answer.headers.get("Location"), answer.url).href;
    if (this.#stopped) return this.#end();
    // The answer names the servers that candidates are gathered by, so they are gathered now only (RFC 9725 §4.6).
    const iceServers = linkedIceServers(answer.headers.get("Link") ?? "");
    if (iceServers.length > 0) connection.setConfiguration({ iceServers });
    await connection.setLocalDescription(offer);
    await connection.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    this.#trickle(answer.headers.get("ETag"));
    await connected(connection);
  }

  /** Tells our candidates. Where they do not arrive, reeld still learns from the checks where these come from. */
  async #trickle(etag) {
    await gathered(this.#connection);
    const resource = this.#resource;
    const fragment = candidates(this.#connection.localDescription?.sdp ?? "");
    if (!resource || this.#stopped || fragment === null) return;
    const headers = { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": etag ?? "*" };
    await reach(resource, { method: "PATCH", headers, body: fragment }).catch(() => {});
  }

  /** What is sent now: `{ bitrate, width, height, fps }`; bits per second since the last call. */
  async sending() {
    const reports = [...(await this.#connection.getStats()).values()].filter((r) => r.type === "outbound-rtp");
    if (reports.length === 0) return null;
    const bytes = reports.reduce((sum, r) => sum + (r.bytesSent ?? 0), 0);
    const at = reports[0].timestamp;
    const last = this.#last;
    this.#last = { bytes, at };
    const video = reports.find((r) => r.kind === "video");
    const bitrate = last && at > last.at ? ((bytes - last.bytes) * 8000) / (at - last.at) : 0;
    return { bitrate, width: video?.frameWidth, height: video?.frameHeight, fps: video?.framesPerSecond };
  }

  async stop() {
    this.#stopped = true;
    await this.#end();
    this.#connection.close();
  }

  async #end() {
    const resource = this.#resource;
    this.#resource = null;
    // That it is gone already is what was wanted; without an answer the server ends it by its own deadline.
    if (resource) await reach(resource, { method: "DELETE" }).catch(() => {});
  }

  /** While the page goes away: a call that outlives it. */
  abandon() {
    if (this.#resource) fetch(this.#resource, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

/** `Link: <turn:HOST>; rel="ice-server"; username="…"; credential="…"`, any number of them, as RTCIceServer. */
export function linkedIceServers(header) {
  const servers = [];
  for (const [, urls, parameters] of header.matchAll(/<([^>]*)>((?:[^,"]|"(?:[^"\\]|\\.)*")*)/g)) {
    const given = new Map();
    for (const [, key, quoted, plain] of parameters.matchAll(/;\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))/g)) {
      given.set(key.toLowerCase(), quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1"));
    }
    if (given.get("rel") !== "ice-server" || !/^(stuns?|turns?):/i.test(urls)) continue;
    const [username, credential] = [given.get("username"), given.get("credential")];
    servers.push(username === undefined ? { urls } : { urls, username, credential });
  }
  return servers;
}

/** The candidates of a description as a fragment (RFC 8840 §9), or null when it has none. All tracks share one transport. */
function candidates(sdp) {
  const lines = sdp.split(/\r?\n/);
  const first = (start) => lines.find((line) => line.startsWith(start));
  const own = [...new Set(lines.filter((line) => line.startsWith("a=candidate:")))];
  const head = ["a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:"].map(first);
  if (own.length === 0 || head.includes(undefined)) return null;
  return [...head, ...own, "a=end-of-candidates", ""].join("\r\n");
}

async function reach(url, init) {
  try {
    return await fetch(url, { ...init, signal: AbortSignal.timeout(CALL_MS) });
  } catch {
    throw new ApiError(0, "reeld cannot be reached. Is it running?");
  }
}

function prefer(transceiver, codec) {
  const known = RTCRtpSender.getCapabilities("video").codecs;
  const wanted = known.filter((c) => c.mimeType.toUpperCase() === `VIDEO/${codec}`);
  const repair = known.filter((c) => /rtx|red|ulpfec/i.test(c.mimeType));
  if (wanted.length > 0) transceiver.setCodecPreferences?.([...wanted, ...repair]);
}

function gathered(connection) {
  return until(connection, "icegatheringstatechange", GATHER_MS, () => connection.iceGatheringState === "complete")
    .catch(() => {});
}

function connected(connection) {
  const late = "No media path to reeld was found. Are its UDP ports ([webrtc] udp_ports) open to this browser?";
  return until(connection, "connectionstatechange", CONNECT_MS, () => {
    if (["failed", "closed"].includes(connection.connectionState)) throw new ApiError(0, late);
    return connection.connectionState === "connected";
  }).catch(() => {
    throw new ApiError(0, late);
  });
}

/** Resolves once `reached()`, looked at on each `event`; rejects after `ms`, or with what `reached` throws. */
function until(target, event, ms, reached) {
  return new Promise((resolve, reject) => {
    const look = () => {
      try {
        if (reached()) end(resolve);
      } catch (error) {
        end(reject, error);
      }
    };
    const timer = setTimeout(() => end(reject, new Error("too late")), ms);
    const end = (settle, value) => {
      clearTimeout(timer);
      target.removeEventListener(event, look);
      settle(value);
    };
    target.addEventListener(event, look);
    look();
  });
}
