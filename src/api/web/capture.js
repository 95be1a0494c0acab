// Camera, screen and microphone: choosing, opening, and how loud it is.

export const SCREEN = "screen";
export const NONE = "none";

/** Why nothing can be captured here, or null. */
export function obstacle() {
  if (!navigator.mediaDevices?.getUserMedia) {
    return "This browser gives a camera to secure pages only. Open this page as https:// or, on the machine itself, as http://localhost.";
  }
  if (typeof RTCPeerConnection === "undefined") return "WebRTC is switched off in this browser.";
  return null;
}

export function screenCanBeShared() {
  return typeof navigator.mediaDevices?.getDisplayMedia === "function";
}

/** `{ cameras, microphones }`, each `[{ id, label }]`; without labels until the first permission. */
export async function devices() {
  const all = await navigator.mediaDevices.enumerateDevices();
  const of = (kind, name) =>
    all.filter((d) => d.kind === kind && d.deviceId !== "").map((d, n) => ({ id: d.deviceId, label: d.label || `${name} ${n + 1}` }));
  return { cameras: of("videoinput", "Camera"), microphones: of("audioinput", "Microphone") };
}

const VIDEO = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };

/** Opens what was chosen. `""` is the browser's default device. */
export async function capture(picture, sound) {
  const audio = sound === NONE ? false : { ...(sound && { deviceId: { exact: sound } }) };
  if (picture === SCREEN) return captureScreen(audio);
  const video = picture === NONE ? false : { ...VIDEO, ...(picture && { deviceId: { exact: picture } }) };
  return navigator.mediaDevices.getUserMedia({ video, audio });
}

/** The screen's own sound where it is shared, else the microphone. */
async function captureScreen(audio) {
  const screen = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 30 } }, audio: audio !== false });
  if (audio === false || screen.getAudioTracks().length > 0) return screen;
  try {
    const voice = await navigator.mediaDevices.getUserMedia({ audio });
    voice.getAudioTracks().forEach((track) => screen.addTrack(track));
    return screen;
  } catch (error) {
    screen.getTracks().forEach((track) => track.stop());
    throw error;
  }
}

/** What `getUserMedia` failed by, in words that help. */
export function captureWords(error) {
  switch (error.name) {
    case "NotAllowedError": return "The browser was not allowed to use it. Allow camera and microphone for this page, then try again.";
    case "NotFoundError": return "There is no such device. Connect one, or choose “No picture” or “No sound”.";
    case "NotReadableError": return "The device is in use by another program.";
    case "OverconstrainedError": return "The chosen device is gone. Choose another.";
    case "TypeError": return "Choose a picture or a sound: a stream needs one of them.";
    default: return `The device could not be opened (${error.name}).`;
  }
}

/** Calls `onLevel(0..1)` some 15 times a second until the returned function is called. */
export function listen(stream, onLevel) {
  if (stream.getAudioTracks().length === 0) return () => onLevel(0);
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 1024 });
  context.createMediaStreamSource(stream).connect(analyser);
  context.resume().catch(() => {});
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    // -60 dB is the foot of the scale, full scale its top.
    const decibels = 10 * Math.log10(power + 1e-12);
    onLevel(Math.min(1, Math.max(0, 1 + decibels / 60)));
  }, 66);
  return () => {
    clearInterval(timer);
    context.close().catch(() => {});
    onLevel(0);
  };
}
