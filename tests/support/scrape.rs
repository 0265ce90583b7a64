//! A page over HTTP, and what a scrape of `/metrics` says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any page takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The status and the body of a page; an error if the connection fails.
pub async fn page(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // 1.0: the body comes whole, and the connection ends with it.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(std::io::Error::other)??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("the answer has no end"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| std::io::Error::other("the answer has no status"))?, body.to_owned()))
}

/// One line of a scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// What `/metrics` says.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The type of each metric.
    pub types: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Asks a server.
    pub async fn of(address: &str) -> Scrape {
        let (status, text) = page(address, "/metrics").await.expect("a ready server answers");
        assert_eq!(status, 200, "{text}");
        Scrape::parse(&text)
    }

    fn parse(text: &str) -> Scrape {
        let mut scrape = Scrape::default();
        for line in text.lines().filter(|line| !line.starts_with("# HELP")) {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').expect("a type follows the name");
                assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value follows the series");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // No value of a label that we compare has a comma or a quote in it.
            let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
            scrape.samples.push(Sample {
                name: name.to_owned(),
                labels: labels.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned())).collect(),
                value: value.parse().unwrap_or_else(|_| panic!("{line} has no number")),
            });
        }
        scrape
    }

    /// The sum of a metric's samples that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(|sample| sample.name == name).filter(has).map(|sample| sample.value).sum()
    }

    /// The names of all samples.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples.iter().map(|sample| sample.name.as_str()).collect()
    }

    /// The names of the labels of a metric's samples.
    pub fn labels(&self, name: &str) -> BTreeSet<Vec<&str>> {
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples.map(|sample| sample.labels.keys().map(String::as_str).collect()).collect()
    }

    /// The values of one label of a metric.
    pub fn values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples.filter_map(|sample| sample.labels.get(label).map(String::as_str)).collect()
    }
}
