//! Values of fields, from text; a mistake says what would be right.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub(super) fn address(value: &str) -> Result<SocketAddr, String> {
    // ":8080" is what many servers take.
    let whole = if value.starts_with(':') { format!("0.0.0.0{value}") } else { value.to_owned() };
    whole.parse().map_err(|_| {
        "is to be an IP address and a port, such as 0.0.0.0:1935 or [::]:1935; :1935 means every IPv4 address"
            .to_owned()
    })
}

pub(super) fn directory(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("is to be a directory".to_owned()) } else { Ok(PathBuf::from(value)) }
}

pub(super) fn number<T: FromStr + PartialOrd + std::fmt::Display>(value: &str, min: T, max: T) -> Result<T, String> {
    let number = value.parse().ok().filter(|number| (&min..=&max).contains(&number));
    number.ok_or_else(|| format!("is to be a whole number from {min} to {max}"))
}

pub(super) fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let choice = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    choice.ok_or_else(|| {
        format!("is to be one of: {}", choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
    })
}
