// Numbers and times as people read them.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** 1536000 → "1.5 MB" (decimal, as disks are sold and `ls --si` counts). */
export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit > 0 && value < 9.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Bits per second → "1.2 Mbit/s". */
export function bitrate(bits) {
  if (!Number.isFinite(bits) || bits <= 0) return "–";
  if (bits >= 999_500) return `${(bits / 1e6).toFixed(1)} Mbit/s`;
  return `${Math.round(bits / 1e3)} kbit/s`;
}

/** ms → "0:07", "12:34", "1:02:03". */
export function clock(ms) {
  if (!Number.isFinite(ms) || ms < 0) return "–";
  const all = Math.floor(ms / 1000);
  const [hours, minutes, seconds] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (n) => String(n).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

/** A time to come, in the unit that fits: "5 min", "3 h", "12 days". */
export function roughly(seconds) {
  for (const [unit, length] of [["days", 86_400], ["h", 3_600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

const SAME_DAY = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const OTHER_DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** A time of today as such, others with their date. */
export function when(date) {
  const sameDay = date.toDateString() === new Date().toDateString();
  return sameDay ? `Today, ${SAME_DAY.format(date)}` : OTHER_DAY.format(date);
}

export function wholeTime(date) {
  return WHOLE.format(date);
}

/** Names may be hundreds of characters long: where one is part of a sentence, its beginning. */
export function short(name) {
  const letters = [...name];
  return letters.length > 48 ? `${letters.slice(0, 47).join("")}…` : name;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

const CODECS = {
  h264: "H.264", h265: "H.265", av1: "AV1", vp8: "VP8", vp9: "VP9",
  aac: "AAC", opus: "Opus", vorbis: "Vorbis", mp3: "MP3", pcma: "PCMA", pcmu: "PCMU",
};

export function codec(word) {
  return CODECS[word] ?? String(word).toUpperCase();
}

const PROTOCOLS = { rtmp: "RTMP", rtmps: "RTMPS", rtsp: "RTSP", webrtc: "WebRTC" };

export function protocol(word) {
  return PROTOCOLS[word] ?? String(word).toUpperCase();
}

export function size(track) {
  return track?.width && track?.height ? `${track.width}×${track.height}` : null;
}

/** "H.264 1280×720 + AAC" of what has `video` and `audio`, either of which may be missing. */
export function media({ video, audio }) {
  const picture = video && [codec(video.codec), size(video)].filter(Boolean).join(" ");
  return [picture, audio && codec(audio.codec)].filter(Boolean).join(" + ") || "no media yet";
}
