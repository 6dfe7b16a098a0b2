//! Embeds the console: what npm built in `console/dist`, or a page that says what is missing.

use std::path::Path;
use std::{env, fs};

const FILES: [&str; 3] = ["index.html", "console.js", "console.css"];
const MISSING: &str = "<!doctype html><meta charset=utf-8><title>Steadycast</title>\
<p>The server runs; its page was not built. Install Node.js and npm, run <code>make console</code> and build again.\
<p>Streams play without it: <code>http://this-host:8080/live/NAME/index.m3u8</code>\n";

fn main() {
    let dist = Path::new("../console/dist");
    println!("cargo::rerun-if-changed=../console/dist");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let built = FILES.iter().all(|file| dist.join(file).is_file());
    for file in FILES {
        let to = Path::new(&out).join(file);
        if built {
            fs::copy(dist.join(file), to).expect("the console can be copied");
        } else {
            let text = if file == "index.html" { MISSING } else { "" };
            fs::write(to, text).expect("the build directory can be written");
        }
    }
}
