//! Who may publish: without keys this machine, with keys whoever has the stream's.

use actors::{Authorizer, Verdict};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use storage::StreamName;

/// Name of the query parameter that carries the key.
const PARAMETER: &str = "key";
const NOT_LOCAL: &str = "publishing from other machines needs a key: start the server with --key APPLICATION/NAME=KEY \
    and publish to rtmp://HOST/APPLICATION/NAME?key=KEY";

/// Static keys.
#[derive(Debug, Default)]
pub struct StaticKeys {
    keys: ArcSwap<BTreeMap<String, String>>,
}

impl StaticKeys {
    /// Keys by `application/name` or `application/*`.
    pub fn new(keys: BTreeMap<String, String>) -> Self {
        Self { keys: ArcSwap::from_pointee(keys) }
    }

    /// Takes other keys from now on. Who publishes already goes on.
    pub fn replace(&self, keys: BTreeMap<String, String>) {
        self.keys.store(Arc::new(keys));
    }
}

/// The stream's own key, else its application's.
fn key_of<'a>(keys: &'a BTreeMap<String, String>, stream: &StreamName) -> Option<&'a str> {
    let own = keys.get(&stream.to_string());
    own.or_else(|| keys.get(&format!("{}/*", stream.app()))).map(String::as_str)
}

impl Authorizer for StaticKeys {
    fn authorize(&self, stream: &StreamName, parameters: &[(String, String)], peer: SocketAddr) -> Verdict {
        let keys = self.keys.load();
        if keys.is_empty() {
            let local = peer.ip().to_canonical().is_loopback();
            return if local { Verdict::Granted } else { Verdict::Denied(NOT_LOCAL.to_owned()) };
        }
        let Some(expected) = key_of(&keys, stream) else {
            return Verdict::Denied(format!("no key is configured for {stream}"));
        };
        let given = parameters.iter().find(|(name, _)| name == PARAMETER).map(|(_, key)| key.as_str());
        match given {
            Some(given) if same(given.as_bytes(), expected.as_bytes()) => Verdict::Granted,
            Some(_) => Verdict::Denied(format!("the key is not that of {stream}")),
            None => Verdict::Denied(format!("a key is needed: publish to rtmp://HOST/{stream}?key=KEY")),
        }
    }
}

/// Compares in time that does not depend on where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(keys: &[(&str, &str)], stream: &str, key: Option<&str>, peer: &str) -> bool {
        let keys =
            StaticKeys::new(keys.iter().map(|(stream, key)| ((*stream).to_owned(), (*key).to_owned())).collect());
        let parameters: Vec<_> = key.iter().map(|key| (PARAMETER.to_owned(), (*key).to_owned())).collect();
        let stream = StreamName::new("live", stream).expect("valid name");
        keys.authorize(&stream, &parameters, peer.parse().expect("valid address")) == Verdict::Granted
    }

    #[test]
    fn without_keys_only_this_machine_publishes() {
        assert!(verdict(&[], "show", None, "127.0.0.1:5"));
        assert!(verdict(&[], "show", None, "[::ffff:127.0.0.1]:5"));
        assert!(!verdict(&[], "show", None, "192.0.2.1:5"));
    }

    #[test]
    fn with_keys_the_key_decides_wherever_the_peer_is() {
        let keys = [("live/show", "a"), ("live/*", "b")];
        assert!(verdict(&keys, "show", Some("a"), "192.0.2.1:5"));
        assert!(!verdict(&keys, "show", Some("b"), "127.0.0.1:5"));
        assert!(verdict(&keys, "other", Some("b"), "192.0.2.1:5"));
        assert!(!verdict(&keys, "show", None, "127.0.0.1:5"));
        assert!(!verdict(&keys[..1], "other", Some("a"), "127.0.0.1:5"));
    }
}
