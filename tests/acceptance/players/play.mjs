// Plays a stream in Chromium and prints what was measured as one JSON object.
//   node play.mjs hls|shaka|page URL SECONDS
// `hls` and `shaka` are the stock players with stock settings; `page` is a watch page of our own.
import { chromium } from "playwright-core";
import { createRequire } from "node:module";

const [player, url, seconds] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const scripts = { hls: "hls.js/dist/hls.min.js", shaka: "shaka-player/dist/shaka-player.compiled.js" };
// currentTime standing still for this long while it should play is a stall.
const STALL_MS = 250;
const TICK_MS = 25;

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
    await page.addScriptTag({ path: require.resolve(scripts[player]) });
  }
  const measured = await page.evaluate(measure, { player, url, seconds: Number(seconds), STALL_MS, TICK_MS });
  console.log(JSON.stringify({ ...measured, console_errors }));
} finally {
  await browser.close();
}

// Runs in the page.
async function measure({ player, url, seconds, STALL_MS, TICK_MS }) {
  const errors = [];
  const begun = performance.now();
  const video = document.querySelector("video");
  if (player === "hls") {
    const hls = new Hls();
    hls.on(Hls.Events.ERROR, (_, data) => errors.push({ details: data.details, fatal: data.fatal }));
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
  }
  const result = { first_frame_ms: null, played_s: 0, stalls: 0, stalled_ms: 0, errors };
  let [last_time, last_moved, start_time, stalled] = [0, begun, 0, false];
  while (performance.now() - begun < seconds * 1000) {
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    const now = performance.now();
    if (result.first_frame_ms === null) {
      if (video.readyState >= 2 && video.currentTime > 0) {
        [result.first_frame_ms, start_time, last_time, last_moved] = [now - begun, video.currentTime, video.currentTime, now];
      }
      continue;
    }
    if (video.currentTime !== last_time) {
      if (stalled) result.stalled_ms += now - last_moved;
      [last_time, last_moved, stalled] = [video.currentTime, now, false];
    } else if (!stalled && now - last_moved >= STALL_MS && !video.ended) {
      stalled = true;
      result.stalls += 1;
    }
  }
  const moving_at_end = !stalled && performance.now() - last_moved < 1000;
  const quality = video.getVideoPlaybackQuality();
  return {
    ...result,
    played_s: last_time - start_time,
    frames: quality.totalVideoFrames,
    dropped_frames: quality.droppedVideoFrames,
    width: video.videoWidth,
    ended: video.ended,
    moving_at_end,
  };
}
