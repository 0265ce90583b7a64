//! Requests as curl sends them: plain HTTP, one connection each, whole answers or their lines as they come.

use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longer than any answer takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The body as JSON; a text if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| Value::String(self.body.clone()))
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer that comes in lines. Dropped, its connection breaks.
#[derive(Debug)]
pub struct Lines {
    pub status: u16,
    reader: BufReader<TcpStream>,
}

impl Lines {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.reader.read_line(&mut line)).await;
        read.expect("a line in time").expect("a connection that holds");
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}")))
    }
}

/// Begins a request, and reads the head of its answer.
async fn begin(
    address: &str,
    verb: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (Answer, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(address).await.expect("a server that listens");
    // 1.0: the body comes as it is, and the connection ends with it.
    let mut request = format!("{verb} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        request += "Content-Type: application/x-www-form-urlencoded\r\n";
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all((request + "\r\n" + body).as_bytes()).await.expect("a connection that holds");
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("a connection that holds");
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let status = head.first().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let headers = head.iter().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    (Answer { status, headers, body: String::new() }, reader)
}

/// Asks, and waits for the whole answer.
pub async fn ask(address: &str, verb: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let exchange = async {
        let (mut answer, mut reader) = begin(address, verb, path, headers, body).await;
        reader.read_to_string(&mut answer.body).await.expect("a connection that holds");
        answer
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| panic!("{verb} {path} is not answered"))
}

/// What `curl -d BODY ADDRESS/PATH` does.
pub async fn post(address: &str, path: &str, body: &str) -> Answer {
    ask(address, "POST", path, &[], body).await
}

/// The same, line by line.
pub async fn lines(address: &str, path: &str, body: &str) -> Lines {
    let (answer, reader) = begin(address, "POST", path, &[], body).await;
    Lines { status: answer.status, reader }
}
