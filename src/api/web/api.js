// Calls of the REST API. What goes wrong is an `ApiError` whose message can be shown as it is.

export class ApiError extends Error {
  /** `status` is 0 when no answer came. */
  constructor(status, message, type = null) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

const ROOT = "/api/v1";
/** A stop answers when the file is final. */
const DEADLINE_MS = 60_000;

async function call(method, path, body) {
  const init = { method, signal: AbortSignal.timeout(DEADLINE_MS), cache: "no-store" };
  if (body !== undefined) {
    init.headers = { "Content-Type": "application/json" };
    init.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(ROOT + path, init);
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new ApiError(0, late ? "reeld did not answer in time." : "reeld cannot be reached. Is it running?");
  }
  if (!answer.ok) throw await problem(answer);
  return answer.status === 204 ? null : answer.json();
}

/** The error that an answer tells as problem+json (RFC 9457), as far as it does. */
export async function problem(answer) {
  const told = await answer.json().catch(() => ({}));
  const message = told.detail ?? told.title ?? `reeld answered ${answer.status}.`;
  return new ApiError(answer.status, sentence(message), told.type ?? null);
}

function sentence(text) {
  const ended = /[.!?]$/.test(text) ? text : `${text}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

const id = encodeURIComponent;

export const server = () => call("GET", "/server");
export const sessions = () => call("GET", "/sessions");
export const recordingState = (session) => call("GET", `/sessions/${id(session)}/recording`);
export const recording = (recordingId) => call("GET", `/recordings/${id(recordingId)}`);
export const start = (session) => call("POST", `/sessions/${id(session)}/recording`, {});
export const stop = (session) => call("DELETE", `/sessions/${id(session)}/recording`);
export const split = (session) => call("POST", `/sessions/${id(session)}/recording/split`, {});
export const pause = (session) => call("POST", `/sessions/${id(session)}/recording/pause`, {});
export const resume = (session) => call("POST", `/sessions/${id(session)}/recording/resume`, {});
export const remove = (recordingId) => call("DELETE", `/recordings/${id(recordingId)}`);

/** A page of recordings; what is empty in `filter` is left out. */
export function recordings(filter) {
  const given = Object.entries(filter).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return call("GET", `/recordings?${new URLSearchParams(given)}`);
}

export const fileUrl = (recordingId, part) => `${ROOT}/recordings/${id(recordingId)}/parts/${part}/file`;
export const downloadUrl = (recordingId, part) => `${fileUrl(recordingId, part)}?download=1`;
export const posterUrl = (recordingId, part) => `${ROOT}/recordings/${id(recordingId)}/parts/${part}/poster`;

export function eventsUrl(cursor) {
  const url = new URL(`${ROOT}/events`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  if (cursor !== null) url.searchParams.set("cursor", cursor);
  return url.href;
}
