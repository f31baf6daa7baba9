// Recordings of the microphone and files of other formats, turned into WAV.

const RATE = 16000;
const HEADER_BYTES = 44;
// what the server decodes itself
const DECODED = /\.(wav|flac|mp3)$/i;

/** Return a file that the server decodes: the file itself, or its sound as WAV. */
export async function readable(file) {
  if (DECODED.test(file.name)) return file;
  const name = `${file.name.replace(/\.[^.]*$/, "") || "recording"}.wav`;
  return new File([await toWav(file)], name, { type: "audio/wav" });
}

/** Record the microphone until `stop`, which resolves to the recording as a WAV file. */
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.start();
  return {
    stop: () =>
      new Promise((resolve, reject) => {
        recorder.addEventListener("stop", () => {
          for (const track of stream.getTracks()) track.stop();
          // most browsers record Opus in WebM
          const file = new File(parts, "recording.webm", { type: recorder.mimeType });
          readable(file).then(resolve, reject);
        });
        recorder.stop();
      }),
  };
}

/** Whether the page may record: it must come from this machine or by HTTPS. */
export function canRecord() {
  return Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);
}

async function toWav(file) {
  const context = new AudioContext();
  let sound;
  try {
    sound = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} can't be decoded as audio. Choose WAV, FLAC or MP3.`);
  } finally {
    await context.close();
  }
  // one channel, resampled by the browser
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(sound.duration * RATE)), RATE);
  const source = offline.createBufferSource();
  source.buffer = sound;
  source.connect(offline.destination);
  source.start();
  return wav((await offline.startRendering()).getChannelData(0), RATE);
}

/** Return samples in -1 to 1 as a WAV file of 16-bit integers. */
export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + 2 * samples.length));
  const text = (at, word) => [...word].forEach((each, index) => view.setUint8(at + index, each.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  // integers, one channel
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, index) => {
    view.setInt16(HEADER_BYTES + 2 * index, Math.round(32767 * Math.min(1, Math.max(-1, sample))), true);
  });
  return view.buffer;
}
