// Plays one stream, shows latency and stalls, and recovers by itself.
import Hls, { type ErrorData } from "hls.js";
import { element } from "./dom";

// After an error that hls.js gives up on: how long to wait before loading anew.
const RELOAD_MS = 1000;
// How often figures are shown and stalls looked for.
const TICK_MS = 250;
// Errors of the decoder in a row after which the player is built anew.
const MAX_MEDIA_ERRORS = 3;

interface Figures {
  stalls: number;
  stalledMs: number;
  recoveries: number;
}

export function watch(main: HTMLElement, stream: string): void {
  const video = element("video");
  Object.assign(video, { controls: true, autoplay: true, muted: true, playsInline: true });
  const notice = element("p");
  notice.className = "notice";
  notice.hidden = true;
  const figures: Figures = { stalls: 0, stalledMs: 0, recoveries: 0 };
  const panel = element("dl");
  main.replaceChildren(element("h1", stream), video, notice, panel);
  const url = `/${stream}/index.m3u8`;
  if (Hls.isSupported()) {
    const player = new Player(video, url, figures, (text) => {
      notice.hidden = text === "";
      notice.textContent = text;
    });
    player.load();
    measure(video, figures, () => show(panel, figures, player.latency(), url));
  } else if (video.canPlayType("application/vnd.apple.mpegurl")) {
    video.src = url;
    video.addEventListener("error", () => setTimeout(() => ((figures.recoveries += 1), video.load()), RELOAD_MS));
    measure(video, figures, () => show(panel, figures, null, url));
  } else {
    notice.hidden = false;
    notice.textContent = `This browser cannot play HLS. Use a player with ${location.origin}${url}`;
  }
}

class Player {
  private hls: Hls | null = null;
  private mediaErrors = 0;

  constructor(
    private readonly video: HTMLVideoElement,
    private readonly url: string,
    private readonly figures: Figures,
    private readonly say: (text: string) => void,
  ) {}

  load(): void {
    this.hls?.destroy();
    const hls = new Hls();
    this.hls = hls;
    hls.on(Hls.Events.ERROR, (_, error) => this.failed(hls, error));
    hls.on(Hls.Events.FRAG_BUFFERED, () => {
      this.mediaErrors = 0;
      this.say("");
    });
    hls.loadSource(this.url);
    hls.attachMedia(this.video);
  }

  latency(): number | null {
    const latency = this.hls?.latency ?? 0;
    return latency > 0 ? latency : null;
  }

  private failed(hls: Hls, error: ErrorData): void {
    if (!error.fatal) {
      return;
    }
    this.figures.recoveries += 1;
    if (error.type === Hls.ErrorTypes.MEDIA_ERROR && this.mediaErrors < MAX_MEDIA_ERRORS) {
      this.mediaErrors += 1;
      hls.recoverMediaError();
      return;
    }
    this.say("The stream does not answer; trying again.");
    setTimeout(() => {
      if (this.hls === hls) {
        this.load();
      }
    }, RELOAD_MS);
  }
}

// A stall is a picture that stands still while it should play.
function measure(video: HTMLVideoElement, figures: Figures, shown: () => void): void {
  let [lastTime, lastTick, stalled, started] = [0, performance.now(), false, false];
  setInterval(() => {
    const now = performance.now();
    const still = video.currentTime === lastTime && !video.paused && !video.seeking && !video.ended;
    started ||= video.currentTime > 0;
    if (started && still) {
      figures.stalls += stalled ? 0 : 1;
      figures.stalledMs += now - lastTick;
    }
    [stalled, lastTime, lastTick] = [started && still, video.currentTime, now];
    shown();
  }, TICK_MS);
}

function show(panel: HTMLElement, figures: Figures, latency: number | null, url: string): void {
  const rows: [string, string][] = [
    ["Latency", latency === null ? "…" : `${latency.toFixed(1)} s`],
    ["Stalls", `${figures.stalls} (${(figures.stalledMs / 1000).toFixed(1)} s)`],
    ["Recoveries", String(figures.recoveries)],
    ["Playlist", `${location.origin}${url}`],
  ];
  panel.replaceChildren(...rows.flatMap(([title, text]) => [element("dt", title), element("dd", text)]));
}
