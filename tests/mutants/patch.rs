//! A mutant: what it is called, what it breaks, and which bytes of which files it changes.

use crate::root;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[derive(Clone, Default)]
pub struct Mutant {
    /// By which a process that is to be this mutant is told.
    pub number: u32,
    pub name: String,
    pub trap: String,
    pub law: String,
    pub unseen: Option<String>,
    /// In which worlds it is looked for, in the driver's words; empty: in all sorts.
    pub worlds: Vec<String>,
    pub changes: Vec<Change>,
    /// Everything that was said of it: another text is another mutant.
    pub text: String,
}

/// Bytes of a file, and what stands there instead.
#[derive(Clone, Debug)]
pub struct Change {
    pub file: String,
    pub at: Range<usize>,
    pub new: String,
}

/// A hunk: its lines, each with its sign.
struct Hunk<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
}

/// Those of `tests/mutants/`, in the order of their names.
pub fn all() -> Vec<Mutant> {
    let entries = fs::read_dir(root().join("tests/mutants")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "patch"));
    let mut mutants: Vec<Mutant> = paths.iter().map(|path| read(path)).collect();
    mutants.sort_by_key(|mutant| mutant.number);
    let twice = mutants.windows(2).find(|two| two[0].number == two[1].number);
    assert!(twice.is_none(), "two mutants have the number {:?}", twice.map(|two| two[0].number));
    mutants
}

fn read(path: &Path) -> Mutant {
    let name = path.file_stem().unwrap().to_str().unwrap().to_string();
    let number = name.split_once('-').and_then(|(number, _)| number.parse().ok());
    let number = number.unwrap_or_else(|| panic!("{name} does not begin with a number"));
    let text = fs::read_to_string(path).unwrap();
    let (head, diff) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name} has no header"));
    let head: BTreeMap<&str, &str> = head.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let field = |key: &str| head.get(key).unwrap_or_else(|| panic!("{name} does not say its {key}")).to_string();
    assert!(head.keys().all(|key| ["trap", "law", "breaks", "unseen", "worlds"].contains(key)), "{name}: {head:?}");
    assert!(field("law").ends_with('.') && !field("breaks").is_empty(), "{name}: the law is a sentence");
    assert!(field("trap").strip_prefix('T').is_some_and(|n| n.parse::<u32>().is_ok()), "{name}: a trap is like T20");
    let unseen = head.get("unseen").map(ToString::to_string);
    let worlds: Vec<String> = head.get("worlds").iter().flat_map(|words| words.split(' ')).map(Into::into).collect();
    assert!(worlds.is_empty() || unseen.is_none(), "{name}: nobody looks for it in {worlds:?}");
    let (trap, law) = (field("trap"), field("law"));
    let changes: Vec<Change> = hunks(&name, diff).iter().flat_map(|hunk| hunk.changes(&name)).collect();
    assert!(!changes.is_empty(), "{name} changes nothing");
    Mutant { number, name, trap, law, unseen, worlds, changes, text: text.clone() }
}

fn hunks<'a>(name: &str, diff: &'a str) -> Vec<Hunk<'a>> {
    let mut hunks: Vec<Hunk> = Vec::new();
    let mut file = "";
    for line in diff.split_inclusive('\n') {
        if let Some(path) = line.strip_prefix("+++ b/") {
            file = path.trim_end();
        } else if line.starts_with("@@") {
            hunks.push(Hunk { file, lines: Vec::new() });
        } else if !line.starts_with("--- ") {
            let hunk = hunks.last_mut().unwrap_or_else(|| panic!("{name}: a line before the first hunk"));
            hunk.lines.push(line);
        }
    }
    hunks
}

impl Hunk<'_> {
    /// Where its lines stand now, which must be one place, and what it changes there: each run of changed lines by itself.
    fn changes(&self, name: &str) -> Vec<Change> {
        let file = self.file;
        let text = fs::read_to_string(root().join(file)).unwrap();
        let parts: Vec<(&str, &str)> =
            self.lines.iter().map(|line| line.split_at(usize::from(*line != "\n"))).collect();
        let old: String = parts.iter().filter(|(sign, _)| *sign != "+").map(|(_, line)| *line).collect();
        let found: Vec<usize> = text.match_indices(&old).map(|(at, _)| at).collect();
        let [mut at] = found[..] else {
            panic!("{name}: a hunk for {file} stands there {} times:\n{old}", found.len())
        };
        let mut changes: Vec<Change> = Vec::new();
        let mut goes_on = false;
        for (sign, line) in parts {
            if matches!(sign, "+" | "-") {
                if !goes_on {
                    changes.push(Change { file: file.into(), at: at..at, new: String::new() });
                }
                let change = changes.last_mut().unwrap();
                match sign {
                    "+" => change.new += line,
                    _ => change.at.end += line.len(),
                }
            }
            goes_on = matches!(sign, "+" | "-");
            at += if sign == "+" { 0 } else { line.len() };
        }
        changes
    }
}
