//! The files of `deploy/` agree with the program: what they configure it understands, what they ask for it tells.
//!
//! Whether they are valid for the programs that read them is checked by those programs, in `.ci/run`: promtool,
//! systemd-analyze, the schemas of Kubernetes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use quorate::proto::etcdserverpb as pb;
use quorate::server::config::{CalledAs, Config};
use quorate::server::flags::Settings;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use support::Cluster;
use support::scrape::Scrape;

/// The one thing that these files can't help yet.
const WITHOUT_TLS: &str =
    "listening beyond this host without TLS: whoever reaches these ports can read and change everything";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

fn json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// All texts under `key`, wherever they stand.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text),
                    value => texts(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

/// The metrics that an expression names.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named =
        |word: &&str| ["etcd_", "quorate_", "process_", "grpc_server_"].iter().any(|prefix| word.starts_with(prefix));
    words.filter(named).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_ask_for_what_members_tell() {
    let cluster = Cluster::steady(3).await;
    let mut told = BTreeSet::new();
    for (place, endpoint) in cluster.endpoints().iter().enumerate() {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        cluster.client_of(place).put(put).await.unwrap();
        let scrape = Scrape::of(endpoint).await;
        told.extend(scrape.names().into_iter().map(str::to_owned));
    }

    let (alerts, dashboard) = (yaml("prometheus/alerts.yml"), json("grafana/dashboards/quorate.json"));
    for (file, value) in [("alerts", &alerts[0]), ("dashboard", &dashboard)] {
        let mut expressions = Vec::new();
        texts(value, "expr", &mut expressions);
        texts(value, "definition", &mut expressions);
        assert!(expressions.len() > 10, "the {file} asks for {expressions:?}");
        for expression in expressions {
            let asked = metrics(expression);
            assert!(!asked.is_empty() || expression.contains("up{"), "the {file} asks for nothing: {expression}");
            for name in asked {
                assert!(told.contains(&name), "the {file} asks for {name}, which no member tells: {expression}");
            }
        }
    }
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let alerts = yaml("prometheus/alerts.yml");
    let rules: Vec<&Value> =
        alerts[0]["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let mut names = BTreeSet::new();
    for rule in rules {
        assert!(names.insert(rule["alert"].as_str().unwrap()), "{rule} is there twice");
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("warning" | "critical")), "{rule}");
        for annotation in ["summary", "action"] {
            assert!(rule["annotations"][annotation].is_string(), "{rule} has no {annotation}");
        }
    }
}

/// Grafana shows what it is given: panels that lie over each other, or ask a data source that is not there, are not refused.
#[test]
fn the_dashboard_is_whole() {
    let dashboard = json("grafana/dashboards/quorate.json");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has no id of its own", panel["title"]);
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for cell in (at("y")..at("y") + at("h")).flat_map(|y| (at("x")..at("x") + at("w")).map(move |x| (x, y))) {
            assert!(cell.0 < 24 && cells.insert(cell), "{} lies over another panel", panel["title"]);
        }
    }
    let sources = yaml("grafana/provisioning/datasources/prometheus.yml");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let source = variables.iter().find(|variable| variable["name"] == "datasource").unwrap();
    assert_eq!(source["current"]["value"], sources[0]["datasources"][0]["uid"]);
    let providers = yaml("grafana/provisioning/dashboards/quorate.yml");
    assert_eq!(
        providers[0]["providers"][0]["options"]["path"], "/var/lib/grafana/dashboards",
        "where Compose mounts them"
    );
    let jobs = yaml("prometheus/prometheus.yml");
    let job = variables.iter().find(|variable| variable["name"] == "job").unwrap();
    assert_eq!(jobs[0]["scrape_configs"][0]["job_name"], job["current"]["value"]);
}

/// What a member makes of these variables.
fn configured(environment: &BTreeMap<String, String>) -> Config {
    let mut settings = Settings::default();
    let unknown = settings.merge_environment(environment);
    assert!(unknown.is_empty(), "{unknown:?}");
    let config = Config::new(&settings, CalledAs::Quorate).unwrap();
    assert_eq!(config.notices, [WITHOUT_TLS]);
    config
}

#[test]
fn systemds_unit_starts_a_member_that_its_example_describes() {
    let mut environment = BTreeMap::new();
    let unit = read("systemd/quorate.service");
    let in_unit = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    let example = read("systemd/quorate.env");
    for line in example.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).chain(in_unit) {
        let (name, value) = line.split_once('=').unwrap();
        environment.insert(name.to_owned(), value.to_owned());
    }
    let config = configured(&environment);
    assert_eq!(config.bootstrap().unwrap().members.len(), 3);
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib").join(value("StateDirectory")));
    assert!(read("systemd/sysusers.d/quorate.conf").contains(&format!("u     {} ", value("User"))));
}

/// Every pod of an overlay, as Kubernetes would start it, finds itself and all others in the first cluster.
#[test]
fn kubernetes_pods_found_one_cluster() {
    let set = yaml("kubernetes/base/statefulset.yaml").remove(0);
    let services = yaml("kubernetes/base/services.yaml");
    let peers = services.iter().find(|service| service["metadata"]["name"] == set["spec"]["serviceName"]).unwrap();
    assert_eq!(peers["spec"]["publishNotReadyAddresses"], true);
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], serde_json::json!(["serve"]));
    for overlay in ["dev", "prod"] {
        let kustomization = yaml(&format!("kubernetes/overlays/{overlay}/kustomization.yaml")).remove(0);
        let replicas = kustomization["replicas"][0]["count"].as_u64().unwrap();
        let shared = yaml(&format!("kubernetes/overlays/{overlay}/cluster.yaml")).remove(0);
        assert_eq!(container["envFrom"][0]["configMapRef"]["name"], shared["metadata"]["name"]);
        let mut clusters = BTreeSet::new();
        for pod in 0..replicas {
            let pod = format!("{}-{pod}", set["metadata"]["name"].as_str().unwrap());
            let expand = |value: &str| value.replace("$(POD_NAME)", &pod).replace("$(POD_NAMESPACE)", "somewhere");
            let own = container["env"].as_array().unwrap().iter();
            let own = own.filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)));
            let shared = shared["data"].as_object().unwrap().iter();
            let shared = shared.map(|(name, value)| (name.as_str(), value.as_str().unwrap()));
            let environment = shared.chain(own).map(|(name, value)| (name.to_owned(), expand(value))).collect();
            let config = configured(&environment);
            let founding = config.bootstrap().unwrap();
            assert_eq!(founding.members.len() as u64, replicas, "{overlay}");
            let host = format!("http://{pod}.{}:2380", peers["metadata"]["name"].as_str().unwrap());
            let myself = founding.members.iter().find(|member| member.id == founding.member).unwrap();
            assert_eq!(myself.peer_urls, [host]);
            clusters.insert(founding.cluster);
        }
        assert_eq!(clusters.len(), 1, "{overlay}");
    }
}
