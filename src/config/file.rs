//! The configuration file: TOML, its fields named as the options are.

use super::{Config, Problem, note};
use std::path::Path;

/// Applies what the file says; adds what is wrong with it.
pub(super) fn read(path: &Path, config: &mut Config, problems: &mut Vec<Problem>) {
    let shown_path = path.display().to_string();
    let table = std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| text.parse::<toml::Table>().map_err(|error| error.to_string()));
    let table = match table {
        Ok(table) => table,
        Err(mistake) => return problems.push(Problem { field: shown_path, mistake }),
    };
    for (field, value) in &table {
        let place = format!("{shown_path}: {field}");
        match (field.as_str(), value) {
            ("keys", toml::Value::Table(keys)) => {
                for (stream, key) in keys {
                    let set =
                        key.as_str().ok_or("is to be text".to_owned()).and_then(|key| config.set_key(stream, key));
                    note(problems, format!("{place}: {stream}"), set);
                }
            }
            ("archives", toml::Value::Table(archives)) => {
                for (app, at) in archives {
                    let set = at.as_str().ok_or("is to be text".to_owned()).and_then(|at| config.set_archive(app, at));
                    note(problems, format!("{place}: {app}"), set);
                }
            }
            ("archives" | "archive", _) => note(
                problems,
                place,
                Err("is to be a table: [archives] and below it \"live\" = \"DIRECTORY\"".to_owned()),
            ),
            ("keys" | "key", _) => {
                note(problems, place, Err("is to be a table: [keys] and below it \"live/show\" = \"KEY\"".to_owned()))
            }
            ("takeover", toml::Value::Array(apps)) => {
                for app in apps {
                    let set = app.as_str().ok_or("is to be text".to_owned()).and_then(|app| config.set(field, app));
                    note(problems, place.clone(), set);
                }
            }
            ("takeover", _) => note(problems, place, Err("is to be a list: takeover = [\"live\"]".to_owned())),
            (_, toml::Value::Table(_)) => note(
                problems,
                place,
                Err("there is no such table, only [keys] and [archives]; settings stand above these".to_owned()),
            ),
            (_, toml::Value::String(text)) => note(problems, place, config.set(field, text)),
            (_, toml::Value::Integer(number)) => note(problems, place, config.set(field, &number.to_string())),
            (_, toml::Value::Boolean(truth)) => note(problems, place, config.set(field, &truth.to_string())),
            (_, _) => note(problems, place, Err("is to be text, a whole number, true or false".to_owned())),
        }
    }
}
