// Plays a stream in Chromium and prints what was measured as one JSON object.
//   node play.mjs hls|shaka|page|file URL SECONDS [ZERO_MS FPS]
// With ZERO_MS, when picture 0 of a clip of `chaos numbered` was sent (milliseconds since 1970), and its frames a
// second, the latency from glass to glass is read from the pictures.
// `hls` and `shaka` are the stock players with stock settings; `page` is a watch page of our own; `file` is a file in
// the element itself. RATE plays faster. What has an end is watched to its end.
import { chromium } from "playwright-core";
import { createRequire } from "node:module";

const [player, url, seconds, zero_ms, fps] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const scripts = { hls: "hls.js/dist/hls.min.js", shaka: "shaka-player/dist/shaka-player.compiled.js" };
// currentTime standing still for this long while it should play is a stall.
const STALL_MS = 250;
const TICK_MS = 25;
// What hls.js calls a stall, and what it does about one: told apart from what went wrong.
const HLS_STALLS = ["bufferStalledError", "bufferNudgeOnStall"];
// How often a picture's number is read.
const READ_MS = 1000;
// Stalls and requests that are told in full.
const MAX_DETAILS = 10;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--mute-audio", "--autoplay-policy=no-user-gesture-required", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
try {
  const page = await browser.newPage();
  const console_errors = [];
  page.on("console", (message) => message.type() === "error" && console_errors.push(message.text()));
  page.on("pageerror", (error) => console_errors.push(String(error)));
  await page.goto(player === "page" ? url : new URL("/healthz", url).href);
  if (player !== "page") {
    await page.setContent("<video muted playsinline></video>");
    if (scripts[player]) await page.addScriptTag({ path: require.resolve(scripts[player]) });
  }
  const measured = await page.evaluate(measure, {
    player, url, rate: Number(process.env.RATE ?? 1), seconds: Number(seconds), zero_ms: Number(zero_ms), fps: Number(fps), STALL_MS, TICK_MS, READ_MS, MAX_DETAILS, HLS_STALLS,
  });
  console.log(JSON.stringify({ ...measured, console_errors }));
} finally {
  await browser.close();
}

// Runs in the page.
async function measure({ player, url, rate, seconds, zero_ms, fps, STALL_MS, TICK_MS, READ_MS, MAX_DETAILS, HLS_STALLS }) {
  // What a player had when it stalled: nothing to play, or something it did not play. And what it asked for last.
  const state = (video, at_ms) => ({
    at_ms,
    current_time: video.currentTime,
    ready_state: video.readyState,
    paused: video.paused,
    buffered: Array.from({ length: video.buffered.length }, (_, n) => [video.buffered.start(n), video.buffered.end(n)]),
    seekable_end: video.seekable.length ? video.seekable.end(video.seekable.length - 1) : null,
    requests: performance.getEntriesByType("resource").slice(-MAX_DETAILS).map((request) => ({
      name: request.name.split("/").pop(), at_ms: request.startTime - begun, took_ms: request.duration,
      status: request.responseStatus,
    })),
  });
  // The number drawn into a picture (chaos/src/frames.rs): 24 bits and a check byte, a block of 10 pixels each.
  const canvas = new OffscreenCanvas(320, 32);
  const picture = canvas.getContext("2d", { willReadFrequently: true });
  const number_shown = (video) => {
    picture.drawImage(video, 0, 0, 320, 32, 0, 0, 320, 32);
    const { data } = picture.getImageData(0, 16, 320, 1);
    const bytes = [0, 1, 2, 3].map((byte) =>
      [0, 1, 2, 3, 4, 5, 6, 7].reduce((value, bit) => value * 2 + Number(data[((byte * 8 + bit) * 10 + 5) * 4] >= 128), 0));
    const rotated = (value, by) => ((value << by) | (value >> (8 - by))) & 255;
    const check = ((bytes[0] ^ rotated(bytes[1], 3) ^ rotated(bytes[2], 5)) + 0x5a) & 255;
    return check === bytes[3] ? bytes[0] * 65536 + bytes[1] * 256 + bytes[2] : null;
  };
  const [latencies, unreadable] = [[], { count: 0 }];
  const read_latency = (video) => {
    const number = number_shown(video);
    if (number === null) unreadable.count += 1;
    else latencies.push(Date.now() - zero_ms - (number * 1000) / fps);
  };
  performance.setResourceTimingBufferSize(1e5);
  const [errors, stall_errors] = [[], []];
  const begun = performance.now();
  const video = document.querySelector("video");
  if (player === "hls") {
    const hls = new Hls();
    // With where the player was: a hole at the start is its own matter, one in the middle is the stream's.
    hls.on(Hls.Events.ERROR, (_, { details, fatal, reason, error }) => {
      const ranges = [...Array(video.buffered.length).keys()].map((n) => [video.buffered.start(n), video.buffered.end(n)]);
      const after_s = (performance.now() - begun) / 1000;
      const list = !fatal && HLS_STALLS.includes(details) ? stall_errors : errors;
      list.push({ details, fatal, why: reason ?? error?.message, after_s, at_s: video.currentTime, ranges });
    });
    hls.loadSource(url);
    hls.attachMedia(video);
    video.play().catch(() => {});
  } else if (player === "shaka") {
    shaka.polyfill.installAll();
    const shown = new shaka.Player();
    await shown.attach(video);
    shown.addEventListener("error", (event) => errors.push({ details: String(event.detail?.code), fatal: true }));
    await shown.load(url).catch((error) => errors.push({ details: String(error.code ?? error), fatal: true }));
    video.play().catch(() => {});
  } else if (player === "file") {
    video.src = url;
    video.play().catch((error) => errors.push({ details: String(error), fatal: true }));
  }
  video.playbackRate = rate;
  const result = { first_frame_ms: null, played_s: 0, stalls: 0, stalled_ms: 0, stalled_at: [], least_ahead_s: null, errors, stall_errors };
  let [last_time, last_moved, start_time, stalled, last_read] = [0, begun, 0, false, begun];
  while (performance.now() - begun < seconds * 1000 && !video.ended) {
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    const now = performance.now();
    if (result.first_frame_ms === null) {
      if (video.readyState >= 2 && video.currentTime > 0) {
        [result.first_frame_ms, start_time, last_time, last_moved] = [now - begun, video.currentTime, video.currentTime, now];
      }
      continue;
    }
    if (zero_ms && now - last_read >= READ_MS && !stalled) {
      last_read = now;
      read_latency(video);
    }
    const ranges = video.buffered;
    const ahead = ranges.length ? ranges.end(ranges.length - 1) - video.currentTime : 0;
    result.least_ahead_s = Math.min(result.least_ahead_s ?? ahead, ahead);
    if (video.currentTime !== last_time) {
      if (stalled) result.stalled_ms += now - last_moved;
      [last_time, last_moved, stalled] = [video.currentTime, now, false];
    } else if (!stalled && now - last_moved >= STALL_MS && !video.ended) {
      stalled = true;
      result.stalls += 1;
      if (result.stalled_at.length < MAX_DETAILS) result.stalled_at.push(state(video, now - begun));
    }
  }
  const moving_at_end = !stalled && performance.now() - last_moved < 1000;
  const quality = video.getVideoPlaybackQuality();
  latencies.sort((a, b) => a - b);
  const at = (part) => Math.round(latencies[Math.floor(part * (latencies.length - 1))]);
  const latency = latencies.length > 0 ? { least: at(0), median: at(0.5), most: at(1), read: latencies.length, unreadable: unreadable.count } : null;
  return {
    ...result,
    latency_ms: latency,
    played_s: last_time - start_time,
    frames: quality.totalVideoFrames,
    dropped_frames: quality.droppedVideoFrames,
    width: video.videoWidth,
    ended: video.ended,
    current_time: video.currentTime,
    duration: video.duration,
    moving_at_end,
  };
}
