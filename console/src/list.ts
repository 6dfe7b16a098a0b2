// What is live, asked for every two seconds.
import { element, link } from "./dom";
import { tree } from "./tree";

interface Stream {
  name: string;
  state: string;
  published_at_ms: number;
  codecs: string | null;
  width: number | null;
  height: number | null;
  bandwidth: number;
}

const REFRESH_MS = 2000;

export function list(main: HTMLElement): void {
  const table = element("table");
  const note = element("p", "Asking the server…");
  const supervisors = element("section");
  main.replaceChildren(element("h1", "Live"), note, table, supervisors);
  tree(supervisors);
  const refresh = async (): Promise<void> => {
    try {
      const response = await fetch("/api/v1/streams", { signal: AbortSignal.timeout(REFRESH_MS * 2) });
      const { streams } = (await response.json()) as { streams: Stream[] };
      show(table, note, streams);
    } catch {
      note.textContent = "The server does not answer; asking again.";
    }
    setTimeout(refresh, REFRESH_MS);
  };
  void refresh();
}

function show(table: HTMLTableElement, note: HTMLElement, streams: Stream[]): void {
  note.textContent = streams.length
    ? ""
    : `Nothing is live. Publish: ffmpeg -re -i FILE -c copy -f flv rtmp://${location.hostname}/live/show`;
  const head = element("tr", "", ...["Stream", "State", "Since", "Picture", "Bit rate"].map((title) => element("th", title)));
  table.replaceChildren(...(streams.length ? [head] : []), ...streams.map(row));
}

function row(stream: Stream): HTMLTableRowElement {
  const size = stream.width ? `${stream.width}×${stream.height}` : stream.codecs ? "audio only" : "";
  return element(
    "tr",
    "",
    element("td", "", link(`/watch/${stream.name}`, stream.name)),
    element("td", stream.state),
    element("td", new Date(stream.published_at_ms).toLocaleString()),
    element("td", size),
    element("td", stream.bandwidth ? `${Math.round(stream.bandwidth / 1000)} kbit/s` : ""),
  );
}
