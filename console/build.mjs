// Builds the page into dist/: what delivery/build.rs embeds.
import { build } from "esbuild";
import { cp, mkdir } from "node:fs/promises";

await mkdir("dist", { recursive: true });
await build({
  entryPoints: ["src/console.ts"],
  outfile: "dist/console.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "inline",
});
await cp("src/index.html", "dist/index.html");
await cp("src/console.css", "dist/console.css");
