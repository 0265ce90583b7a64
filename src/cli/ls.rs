//! `ls`: keys as if they were files, with `/` between the parts of a name.
//!
//! Only names are read, all at one revision. A key may be a file and a directory at once (`a` and `a/b`): both are shown.

use super::exit::{BAD_ARGS, Failure};
use super::output::{self, Format, plural};
use super::{Global, block_on};
use crate::client::prefix_range;
use crate::proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// `quorate ls`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate ls                    the first parts of all names\n  quorate ls app/\n  \
    quorate ls app/ --tree --depth 2"
)]
pub struct Args {
    /// What the keys start with.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// Show what is below, too, and how many keys that are.
    #[arg(long)]
    tree: bool,
    /// With --tree: so many levels; 0: all.
    #[arg(long, default_value_t = 0, requires = "tree")]
    depth: usize,
}

/// A part of names, and what is below it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Node {
    /// What comes next; where names go on, with its `/`.
    below: BTreeMap<Vec<u8>, Node>,
    /// Keys here and below.
    keys: u64,
}

impl Node {
    fn insert(&mut self, rest: &[u8]) {
        self.keys += 1;
        match rest.iter().position(|byte| *byte == b'/') {
            Some(slash) => self.below.entry(rest[..=slash].to_vec()).or_default().insert(&rest[slash + 1..]),
            None => self.below.entry(rest.to_vec()).or_default().keys += 1,
        }
    }

    /// Draws what is below, `levels` deep.
    fn draw(&self, indent: &str, levels: usize, text: &mut String) {
        let last = self.below.len().saturating_sub(1);
        for (place, (name, node)) in self.below.iter().enumerate() {
            let (branch, gap) = if place == last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let count = if node.below.is_empty() { String::new() } else { format!("  {}", plural(node.keys, "key")) };
            text.push_str(&format!("{indent}{branch}{}{count}\n", shown(name)));
            if levels > 1 {
                node.draw(&format!("{indent}{gap}"), levels - 1, text);
            }
        }
    }
}

/// A part of a name; an empty one is the key that is called like its directory.
fn shown(name: &[u8]) -> String {
    match String::from_utf8_lossy(name) {
        text if text.is_empty() => "\"\"".to_owned(),
        text if text.chars().any(char::is_control) => text.escape_debug().to_string(),
        text => text.into_owned(),
    }
}

/// Runs `quorate ls`.
pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if global.write_out != Format::Simple {
        return Err(Failure::new(BAD_ARGS, "ls prints for people")
            .fix("for programs: quorate get --prefix PREFIX --keys-only -w json"));
    }
    let client = global.client()?;
    let prefix = args.prefix.into_vec();
    let (key, range_end) = prefix_range(&prefix);
    let mut pages = client.pages(pb::RangeRequest { key, range_end, keys_only: true, ..Default::default() });
    let mut root = Node::default();
    block_on(async {
        while let Some(page) = pages.next().await? {
            page.iter().for_each(|kv| root.insert(kv.key.strip_prefix(&prefix[..]).unwrap_or(&kv.key)));
        }
        Ok::<_, Failure>(())
    })??;
    let mut text = String::new();
    if args.tree {
        let top = if prefix.is_empty() { ".".to_owned() } else { shown(&prefix) };
        text.push_str(&format!("{top}  {}\n", plural(root.keys, "key")));
        root.draw("", if args.depth == 0 { usize::MAX } else { args.depth }, &mut text);
    } else {
        for name in root.below.keys() {
            text.push_str(&format!("{}\n", shown(&[&prefix[..], name].concat())));
        }
    }
    output::print(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&str], levels: usize) -> String {
        let mut root = Node::default();
        names.iter().for_each(|name| root.insert(name.as_bytes()));
        let mut text = String::new();
        root.draw("", levels, &mut text);
        text
    }

    #[test]
    fn names_become_a_tree() {
        let names = ["a", "a/", "a/b/c", "a/b/d", "z\n"];
        let all = "├── a\n├── a/  3 keys\n│   ├── \"\"\n│   └── b/  2 keys\n│       ├── c\n│       └── d\n└── z\\n\n";
        assert_eq!(tree(&names, usize::MAX), all);
        assert_eq!(tree(&names, 1), "├── a\n├── a/  3 keys\n└── z\\n\n");
    }
}
