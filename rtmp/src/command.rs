//! Commands of a peer (RTMP 1.0 section 7.2), parsed from AMF0.

use crate::amf0::{self, Amf0Error, Value};
use crate::writer::{info, text};
use rml_rtmp::rml_amf0::Amf0Value;
use std::collections::HashMap;

/// Codecs we package, by FourCC, as announced to Enhanced RTMP peers.
const PACKAGED_FOUR_CC: [&str; 2] = ["avc1", "mp4a"];

/// A command message: name, transaction id, command object and the arguments after it.
#[derive(Debug)]
pub(crate) struct Command {
    pub name: String,
    pub transaction: f64,
    pub object: Value,
    pub arguments: Vec<Value>,
}

/// What a `connect` said that matters later.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connect {
    /// Application without its query.
    pub app: String,
    /// Parameters of the application's query.
    pub parameters: Vec<(String, String)>,
    /// URL the encoder was given.
    pub tc_url: String,
    /// Enhanced RTMP capability flags, kept for logs and later codecs.
    pub caps_ex: Option<f64>,
    /// Enhanced RTMP codecs the peer offers.
    pub four_cc_list: Vec<String>,
    /// AMF version the peer asked for; echoed.
    pub object_encoding: f64,
}

impl Command {
    /// Reads the payload of message type 20, or of 17 without its leading AMF3 byte. `None`: no command name.
    pub fn read(payload: &[u8]) -> Result<Option<Self>, Amf0Error> {
        let mut values = amf0::read(payload)?.into_iter();
        let Some(Value::String(name)) = values.next() else { return Ok(None) };
        Ok(Some(Self {
            name,
            transaction: values.next().and_then(|value| value.as_number()).unwrap_or(0.0),
            object: values.next().unwrap_or(Value::Null),
            arguments: values.collect(),
        }))
    }

    /// The first argument as text.
    pub fn text(&self) -> Option<&str> {
        self.arguments.first().and_then(Value::as_str)
    }
}

impl Connect {
    pub fn read(object: &Value) -> Self {
        let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let (app, parameters) = split_query(text("app"));
        let four_cc_list = match object.get("fourCcList") {
            Some(Value::Array(codecs)) => codecs.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            // ECMA arrays are sent too, with the index as key.
            Some(Value::Object(codecs)) => codecs.iter().filter_map(|(_, v)| v.as_str()).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Self {
            app: app.trim_matches('/').to_owned(),
            parameters,
            tc_url: text("tcUrl").to_owned(),
            caps_ex: object.get("capsEx").and_then(Value::as_number),
            four_cc_list,
            object_encoding: object.get("objectEncoding").and_then(Value::as_number).unwrap_or(0.0),
        }
    }

    /// Properties and information object of the `_result`.
    pub fn answer(&self) -> (Amf0Value, Amf0Value) {
        let mut properties = HashMap::from([
            ("fmsVer".to_owned(), text("FMS/3,0,1,123")),
            ("capabilities".to_owned(), Amf0Value::Number(31.0)),
        ]);
        if let Some(codecs) = self.common_codecs() {
            properties.insert("fourCcList".to_owned(), codecs);
        }
        if self.caps_ex.is_some() {
            // We take part in none of the optional Enhanced RTMP capabilities.
            properties.insert("capsEx".to_owned(), Amf0Value::Number(0.0));
        }
        let encoding = ("objectEncoding", Amf0Value::Number(self.object_encoding));
        let granted = info("status", "NetConnection.Connect.Success", "connected", [encoding]);
        (Amf0Value::Object(properties), granted)
    }

    /// The codecs both sides know, if the peer speaks of codecs at all (Enhanced RTMP, connect).
    fn common_codecs(&self) -> Option<Amf0Value> {
        let offered = |codec: &&&str| self.four_cc_list.iter().any(|offer| offer == **codec || offer == "*");
        let common = PACKAGED_FOUR_CC.iter().filter(offered).map(|codec| text(codec)).collect();
        (!self.four_cc_list.is_empty()).then_some(Amf0Value::StrictArray(common))
    }
}

/// Splits `name?a=b&c=d` into the name and its decoded parameters.
pub(crate) fn split_query(text: &str) -> (&str, Vec<(String, String)>) {
    let Some((name, query)) = text.split_once('?') else { return (text, Vec::new()) };
    (name, form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}
