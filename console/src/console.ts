// The console: `/` lists what is live, `/watch/APPLICATION/NAME` plays it.
import { list } from "./list";
import { watch } from "./watch";

const main = document.getElementById("main")!;
const [, page, app, name] = location.pathname.split("/");
if (page === "watch" && app && name) {
  watch(main, `${decodeURIComponent(app)}/${decodeURIComponent(name)}`);
} else {
  list(main);
}
