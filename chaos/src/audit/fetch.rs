//! Requests of the auditor.

use std::time::Duration;
use ureq::ResponseExt;

/// How long an answer may take.
pub const ANSWER: Duration = Duration::from_secs(10);

/// What was answered.
pub struct Answer {
    /// Where it came from in the end: what it names lies beside that (RFC 3986 section 5.1.3).
    pub url: String,
    /// Content-Type, or nothing.
    pub content_type: String,
    /// Cache-Control.
    pub cache_control: Option<String>,
    /// All of it.
    pub body: Vec<u8>,
}

/// The answer, if it is a 200; else what it was.
pub fn get(url: &str, most: u64) -> anyhow::Result<Answer> {
    let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER)).build();
    let told = |error| match error {
        ureq::Error::Timeout(_) => anyhow::anyhow!("no answer within {} s", ANSWER.as_secs()),
        other => other.into(),
    };
    let mut response = ureq::Agent::new_with_config(config).get(url).call().map_err(told)?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (content_type, cache_control) = (header("content-type").unwrap_or_default(), header("cache-control"));
    let url = response.get_uri().to_string();
    let body = response.body_mut().with_config().limit(most).read_to_vec().map_err(told)?;
    Ok(Answer { url, content_type, cache_control, body })
}

/// A URI relative to a playlist (RFC 3986 section 5), as far as playlists use it.
pub fn beside(playlist: &str, uri: &str) -> String {
    if uri.contains("://") {
        return uri.to_owned();
    }
    let origin = playlist.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    if uri.starts_with('/') {
        return format!("{origin}{uri}");
    }
    let path = playlist.split('?').next().unwrap_or(playlist);
    let directory = path.rsplit_once('/').map_or(path, |(directory, _)| directory);
    format!("{directory}/{uri}")
}
