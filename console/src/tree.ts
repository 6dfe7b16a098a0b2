// The supervision tree, asked for every second: what was started again lights up.
import { element } from "./dom";

interface Child {
  generation: number;
  running: boolean;
  restarts: number;
  last_ending: string | null;
}

interface Supervisor {
  name: string;
  generation: number;
  children: Record<string, Child>;
}

const REFRESH_MS = 1000;

export function tree(section: HTMLElement): void {
  const table = element("table");
  table.id = "tree";
  section.replaceChildren(element("h2", "Supervision"), table);
  // Restarts by actor when they were last shown.
  const known = new Map<string, number>();
  const refresh = async (): Promise<void> => {
    try {
      const response = await fetch("/api/v1/tree", { signal: AbortSignal.timeout(REFRESH_MS * 2) });
      const { supervisors } = (await response.json()) as { supervisors: Supervisor[] };
      table.replaceChildren(head(), ...supervisors.flatMap((supervisor) => rows(supervisor, known)));
    } catch {
      // The list of streams says that the server does not answer.
    }
    setTimeout(refresh, REFRESH_MS);
  };
  void refresh();
}

function head(): HTMLTableRowElement {
  return element("tr", "", ...["Supervisor", "Actor", "Generation", "Restarts", "Last end"].map((title) => element("th", title)));
}

function rows(supervisor: Supervisor, known: Map<string, number>): HTMLTableRowElement[] {
  const name = supervisor.generation > 1 ? `${supervisor.name} (${supervisor.generation})` : supervisor.name;
  return Object.entries(supervisor.children).map(([actor, child], n) => {
    const row = element(
      "tr",
      "",
      element("td", n === 0 ? name : ""),
      element("td", actor),
      element("td", String(child.generation)),
      element("td", String(child.restarts)),
      element("td", child.last_ending ?? ""),
    );
    const key = `${supervisor.name} ${actor}`;
    row.dataset.actor = key;
    row.classList.toggle("ended", !child.running);
    row.classList.toggle("fresh", child.restarts > (known.get(key) ?? child.restarts));
    known.set(key, child.restarts);
    return row;
  });
}
