// Opens the page `/` and prints, whenever it changes, what it shows of an actor: generation, restarts, last end, and
// whether it lights up.
//   node tree.mjs URL "SUPERVISOR ACTOR"
import { chromium } from "playwright-core";

const [url, actor] = process.argv.slice(2);
// How often the page is looked at.
const LOOK_MS = 100;
// How long it may take to show the actor.
const SHOWN_WITHIN_MS = 30_000;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
process.on("SIGTERM", () => void browser.close());
const page = await browser.newPage();
await page.goto(url);
// A page that shows no such actor, as one that was not built does, is an error.
await page.waitForSelector(`#tree tr[data-actor="${actor}"]`, { timeout: SHOWN_WITHIN_MS }).catch(async (error) => {
  await browser.close();
  throw error;
});
let shown = "";
while (browser.isConnected()) {
  const now = await page.evaluate((actor) => {
    const row = document.querySelector(`#tree tr[data-actor="${actor}"]`);
    if (!row) return "";
    const [, , generation, restarts, last] = Array.from(row.cells, (cell) => cell.textContent);
    return `${generation} ${restarts} ${last || "-"} ${row.classList.contains("fresh") ? "fresh" : "quiet"}`;
  }, actor);
  if (now && now !== shown) console.log((shown = now));
  await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
}
