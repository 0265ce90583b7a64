//! Maelstrom's protocol: one JSON object a line, `{"src", "dest", "body"}`.
//!
//! A body has a `type`; a request has a `msg_id`, and its answer names it in `in_reply_to`. An answer has exactly the fields
//! that the workload names: Maelstrom's clients take one more for malformed. Errors are [`Code`]s, and the line between
//! those that say "surely not done" and the one that says "perhaps" ([`Code::Crash`]) is the one between
//! `Reply::Refused` and `Reply::Uncertain`.
//!
//! What is read here comes from outside: whatever it is, it becomes a [`Message`] or a sentence.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a message says: its `type`, its ids, the fields of its workload.
pub type Body = Map<String, Value>;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who sent it.
    pub src: String,
    /// For whom it is.
    pub dest: String,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no message.
    pub fn read(line: &str) -> Result<Message, String> {
        serde_json::from_str(line).map_err(|error| error.to_string())
    }

    /// The line, without its end.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("a message of text and JSON is JSON: {error}"))
    }

    /// What kind of message it is; empty if it does not say.
    pub fn kind(&self) -> &str {
        self.body.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Where its answer goes; `None` if it asks for none.
    pub fn caller(&self) -> Option<Caller> {
        Some(Caller { src: self.src.clone(), msg_id: self.body.get("msg_id")?.as_i64()? })
    }
}

/// Who waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub src: String,
    /// Its number for the request.
    pub msg_id: i64,
}

impl Caller {
    /// The answer, as `own` sends it.
    pub fn answer(self, own: &str, outcome: Result<Body, Error>) -> Message {
        let mut body = outcome.unwrap_or_else(Error::body);
        body.insert("in_reply_to".to_owned(), self.msg_id.into());
        Message { src: own.to_owned(), dest: self.src, body }
    }
}

/// Maelstrom's error codes, those that are used here. All but [`Code::Crash`] say that nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The workload that runs does not have this request.
    NotSupported = 10,
    /// Not now: no leader, or too much to do. Surely not done.
    TemporarilyUnavailable = 11,
    /// The request can't be understood.
    MalformedRequest = 12,
    /// Perhaps done: nobody knows.
    Crash = 13,
    /// It can't be carried out, and changed nothing.
    Abort = 14,
    /// The key is not there.
    KeyDoesNotExist = 20,
    /// A cas found another value.
    PreconditionFailed = 22,
    /// A transaction lost against others, each time it was tried. Surely not done.
    TxnConflict = 30,
}

/// Why a request was not carried out, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// For the client.
    pub code: Code,
    /// For people.
    pub text: String,
}

impl Error {
    /// An error of `code`, saying `text`.
    pub fn new(code: Code, text: impl Into<String>) -> Error {
        Error { code, text: text.into() }
    }

    /// The request can't be understood.
    pub fn malformed(text: impl Into<String>) -> Error {
        Error::new(Code::MalformedRequest, text)
    }

    /// The workload that runs has no request of this kind.
    pub fn not_supported(kind: &str, workload: &str) -> Error {
        Error::new(Code::NotSupported, format!("{workload} has no request {kind:?}"))
    }

    fn body(self) -> Body {
        body("error", [("code", (self.code as u8).into()), ("text", self.text.into())])
    }
}

/// A body of type `kind` with these fields.
pub fn body<const N: usize>(kind: &str, fields: [(&str, Value); N]) -> Body {
    let mut body = Body::new();
    body.insert("type".to_owned(), kind.into());
    body.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    body
}

/// A field that a request must have.
///
/// # Errors
/// It has not.
pub fn field<'a>(body: &'a Body, name: &str) -> Result<&'a Value, Error> {
    body.get(name).ok_or_else(|| Error::malformed(format!("the field {name:?} is missing")))
}

/// A field that must be an object.
///
/// # Errors
/// It is missing, or something else.
pub fn object<'a>(body: &'a Body, name: &str) -> Result<&'a Map<String, Value>, Error> {
    let value = field(body, name)?;
    value.as_object().ok_or_else(|| Error::malformed(format!("the field {name:?} is no object: {value}")))
}

/// A field that must be a list.
///
/// # Errors
/// It is missing, or something else.
pub fn list<'a>(body: &'a Body, name: &str) -> Result<&'a Vec<Value>, Error> {
    let value = field(body, name)?;
    value.as_array().ok_or_else(|| Error::malformed(format!("the field {name:?} is no list: {value}")))
}

/// Names, from a list of strings.
///
/// # Errors
/// One is something else.
pub fn names(values: &[Value]) -> Result<Vec<String>, Error> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    let names = values.iter().map(|value| name(value).ok_or_else(|| Error::malformed(format!("{value} is no name"))));
    names.collect()
}

/// A value as bytes: equal values have equal bytes, in whatever order the fields of their objects stand. Never empty, and
/// without a zero byte.
pub fn encode(value: &Value) -> Bytes {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    sorted.to_string().into()
}

/// The value that [`encode`] made bytes of.
///
/// # Errors
/// They are not such bytes.
pub fn decode(bytes: &[u8]) -> Result<Value, Error> {
    let wrong = |error| Error::new(Code::Abort, format!("the store holds what is not JSON: {error}"));
    serde_json::from_slice(bytes).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_names_its_request_and_an_error_its_code() {
        let line = r#"{"id":7,"src":"c1","dest":"n1","body":{"type":"read","msg_id":3,"key":1}}"#;
        let message = Message::read(line).unwrap();
        assert_eq!(message.kind(), "read");
        let caller = message.caller().unwrap();
        let answer = caller.clone().answer("n1", Ok(body("read_ok", [("value", json!(5))])));
        assert_eq!(answer.line(), r#"{"src":"n1","dest":"c1","body":{"type":"read_ok","value":5,"in_reply_to":3}}"#);
        let error = caller.answer("n1", Err(Error::new(Code::KeyDoesNotExist, "no 1")));
        assert!(
            error.line().ends_with(r#"{"type":"error","code":20,"text":"no 1","in_reply_to":3}}"#),
            "{}",
            error.line()
        );
    }

    #[test]
    fn what_is_no_message_is_a_sentence_and_what_asks_for_nothing_has_no_caller() {
        for line in ["", "{", "[]", "null", r#"{"src":"c1"}"#, r#"{"src":1,"dest":"n1","body":{}}"#, "\u{fffd}"] {
            assert!(Message::read(line).is_err(), "{line:?}");
        }
        for body in ["{}", r#"{"msg_id":"x"}"#, r#"{"msg_id":1.5}"#] {
            let line = format!(r#"{{"src":"c1","dest":"n1","body":{body}}}"#);
            assert_eq!(Message::read(&line).unwrap().caller(), None, "{line}");
        }
    }

    #[test]
    fn equal_values_have_equal_bytes() {
        let of = |text: &str| encode(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"a":1,"b":{"c":2,"d":3}}"#), of(r#"{"b":{"d":3,"c":2},"a":1}"#));
        assert_ne!(of("1"), of(r#""1""#));
        assert!(!of(r#""\u0000""#).contains(&0));
        assert_eq!(decode(&of("[1,null]")).unwrap(), json!([1, null]));
    }
}
