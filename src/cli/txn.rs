//! `txn`: etcdctl's little language for transactions.
//!
//! Three sections, each ended by an empty line: compares, operations if all of them hold, operations if not.
//!
//! ```text
//! mod("key1") > "0"
//!
//! put key1 "a new value"
//!
//! get key1
//!
//! ```
//!
//! Input that ends inside a section is refused: half a transaction is not the one that was meant.

use super::exit::{Failure, INVALID_INPUT};
use super::kv::{DelArgs, GetArgs, PutArgs};
use super::output::Printer;
use super::{Global, block_on};
use crate::proto::etcdserverpb as pb;
use clap::Parser;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use std::io::{BufRead, IsTerminal as _, Write};

/// `quorate txn`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "The transaction is read from stdin, each section ended by an empty line:\n\n  \
    mod(\"key1\") > \"0\"          compares: value, version, create, mod, lease with = != < >\n\n  \
    put key1 \"a new value\"     done if all compares hold: get, put, del\n\n  \
    get key1                   done if not\n")]
pub struct Args {
    /// Ask for each section.
    #[arg(short, long)]
    interactive: bool,
}

/// One operation, with the arguments and flags of the command of that name.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
enum Operation {
    /// As `quorate put`.
    Put(PutArgs),
    /// As `quorate get`.
    Get(GetArgs),
    /// As `quorate del`.
    Del(DelArgs),
}

/// Runs `quorate txn`.
pub fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    let mut input = std::io::stdin().lock();
    if !args.interactive && input.is_terminal() {
        anstream::eprintln!("reading three sections from the terminal, each ended by an empty line (-i asks for each)");
    }
    let request = read(&mut input, |section| match args.interactive {
        true => Ok(writeln!(std::io::stdout(), "{section}:")?),
        false => Ok(()),
    })?;
    let response = block_on(client.txn(request))??;
    printer.txn(&response)
}

/// Reads a whole transaction; `announce` is told the name of each section before it is read.
fn read(
    input: &mut impl BufRead,
    mut announce: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<pb::TxnRequest, Failure> {
    announce("compares")?;
    let compare = section(input, compare)?;
    announce("success requests (get, put, del)")?;
    let success = section(input, operation)?;
    announce("failure requests (get, put, del)")?;
    let failure = section(input, operation)?;
    Ok(pb::TxnRequest { compare, success, failure })
}

fn section<T>(input: &mut impl BufRead, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some(text) = line.strip_suffix('\n') else {
            let text = "the input ended inside a section; nothing was sent";
            return Err(Failure::new(INVALID_INPUT, text).fix("end each of the three sections with an empty line"));
        };
        if text.trim().is_empty() {
            return Ok(items);
        }
        let item = parse(text.trim()).map_err(|why| Failure::new(INVALID_INPUT, format!("{}: {why}", text.trim())))?;
        items.push(item);
    }
}

/// Reads `target("key") op "operand"`.
fn compare(line: &str) -> Result<pb::Compare, String> {
    const FORM: &str = "a compare looks like mod(\"key\") > \"0\"";
    const OPERATORS: &str = "after the target comes one of = != < >";
    let (target, rest) = line.split_once('(').ok_or(FORM)?;
    let (key, rest) = quoted(rest.trim_start())?;
    let rest = rest.trim_start().strip_prefix(')').ok_or(FORM)?.trim_start();
    let (result, rest) = match rest {
        _ if [">=", "<=", "=="].iter().any(|op| rest.starts_with(op)) => return Err(OPERATORS.to_owned()),
        _ if rest.starts_with("!=") => (CompareResult::NotEqual, &rest[2..]),
        _ if rest.starts_with('=') => (CompareResult::Equal, &rest[1..]),
        _ if rest.starts_with('<') => (CompareResult::Less, &rest[1..]),
        _ if rest.starts_with('>') => (CompareResult::Greater, &rest[1..]),
        _ => return Err(OPERATORS.to_owned()),
    };
    let (operand, rest) = quoted(rest.trim_start())?;
    if !rest.trim().is_empty() {
        return Err(format!("{:?} is too much", rest.trim()));
    }
    let number = |radix| {
        let text = String::from_utf8_lossy(&operand);
        i64::from_str_radix(&text, radix).map_err(|e| format!("the operand {text:?}: {e}"))
    };
    let (target, target_union) = match target.trim() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(operand.into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => return Err(format!("unknown target {other:?}: value, version, create, mod or lease")),
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(target_union),
        range_end: Default::default(),
    })
}

/// Reads one operation.
fn operation(line: &str) -> Result<pb::RequestOp, String> {
    let parsed = Operation::try_parse_from(words(line)?).map_err(|e| in_a_line(&e))?;
    let stdin = || Err(Failure::new(INVALID_INPUT, "the value is missing: put KEY VALUE"));
    let request = match parsed {
        Operation::Put(args) => args.request(stdin).map(Request::RequestPut),
        Operation::Get(args) => args.request().map(Request::RequestRange),
        Operation::Del(args) => args.request().map(Request::RequestDeleteRange),
    };
    request.map(|request| pb::RequestOp { request: Some(request) }).map_err(|failure| failure.to_string())
}

/// What the parser says is wrong, without its advice, which is for command lines.
pub fn in_a_line(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
        return "an operation is one of get, put, del".to_owned();
    }
    let text = error.to_string();
    let what = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Splits a line at blanks; quotes of either kind hold a word together and are taken off, and nothing in them is special.
pub fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if first == '"' || first == '\'' {
            rest = &rest[1..];
            rest.find(first).ok_or_else(|| format!("the quote {first} is not closed"))?
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].strip_prefix(['"', '\'']).unwrap_or(&rest[end..]).trim_start();
    }
    Ok(words)
}

/// Reads a Go string literal, `"..."` with escapes or `` `...` `` without, at the start of `text`; returns the rest too.
fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    if let Some(raw) = text.strip_prefix('`') {
        let (inside, rest) = raw.split_once('`').ok_or("the quote ` is not closed")?;
        return Ok((inside.into(), rest));
    }
    let mut rest = text.strip_prefix('"').ok_or("keys and operands stand in double quotes")?;
    let mut bytes = Vec::new();
    loop {
        let mut chars = rest.chars();
        match chars.next().ok_or("the quote \" is not closed")? {
            '"' => return Ok((bytes, chars.as_str())),
            '\\' => rest = escape(chars.as_str(), &mut bytes)?,
            plain => {
                bytes.extend(plain.encode_utf8(&mut [0; 4]).as_bytes());
                rest = chars.as_str();
            }
        }
    }
}

/// Reads what follows a backslash; returns the rest.
fn escape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Result<&'a str, String> {
    let kind = text.chars().next().ok_or("a backslash ends the line")?;
    let rest = &text[kind.len_utf8()..];
    let digits = |text: &'a str, count: usize, radix| {
        let digits = text.get(..count).ok_or("an escape is cut short")?;
        let number = u32::from_str_radix(digits, radix).map_err(|e| format!("escape \\{digits}: {e}"))?;
        Ok::<_, String>((number, &text[count..]))
    };
    let simple = match kind {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '"' | '\'' => kind as u8,
        'x' | '0'..='7' => {
            let (number, rest) = if kind == 'x' { digits(rest, 2, 16)? } else { digits(text, 3, 8)? };
            bytes.push(u8::try_from(number).map_err(|_| format!("escape \\{number:o} is more than a byte"))?);
            return Ok(rest);
        }
        'u' | 'U' => {
            let (number, rest) = digits(rest, if kind == 'u' { 4 } else { 8 }, 16)?;
            let char = char::from_u32(number).ok_or_else(|| format!("escape \\{kind}: {number:x} is no character"))?;
            bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(rest);
        }
        other => return Err(format!("unknown escape \\{other}")),
    };
    bytes.push(simple);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> Result<pb::TxnRequest, String> {
        read(&mut text.as_bytes(), |_| Ok(())).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_three_sections_become_one_request() {
        let text = "mod(\"k\") > \"0\"\nvalue(\"k\\x00\") != \"a\\\"b\"\nlease(`k`) = \"ff\"\n\nput k \"a b\" --prev-kv\n\nget k --prefix\ndel 'x y'\n\n";
        let txn = read_all(text).unwrap();
        let unions: Vec<_> = txn.compare.iter().map(|c| (c.result(), c.target_union.clone().unwrap())).collect();
        assert_eq!(
            unions,
            [
                (CompareResult::Greater, TargetUnion::ModRevision(0)),
                (CompareResult::NotEqual, TargetUnion::Value("a\"b".into())),
                (CompareResult::Equal, TargetUnion::Lease(255)),
            ]
        );
        assert_eq!(txn.compare[1].key, "k\0");
        let Some(Request::RequestPut(put)) = &txn.success[0].request else { panic!("{txn:?}") };
        assert_eq!((put.key.as_ref(), put.value.as_ref(), put.prev_kv), (&b"k"[..], &b"a b"[..], true));
        let Some(Request::RequestRange(get)) = &txn.failure[0].request else { panic!("{txn:?}") };
        assert_eq!(get.range_end, "l");
        let Some(Request::RequestDeleteRange(del)) = &txn.failure[1].request else { panic!("{txn:?}") };
        assert_eq!(del.key, "x y");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "ended inside a section"),
            ("\nput a b\n\n", "ended inside a section"),
            ("\n\nget a", "ended inside a section"),
            ("bad\n\n\n\n", "looks like"),
            ("size(\"a\") = \"1\"\n\n\n\n", "unknown target"),
            ("mod(\"a\") ? \"1\"\n\n\n\n", "one of ="),
            ("mod(\"a\") = \"x\"\n\n\n\n", "invalid digit"),
            ("mod(\"a) = 1\n\n\n\n", "not closed"),
            ("mod(\"a\") = \"1\" 2\n\n\n\n", "too much"),
            ("value(\"\\q\") = \"1\"\n\n\n\n", "unknown escape"),
            ("mod(\"a\") >= \"1\"\n\n\n\n", "mod(\"a\") >= \"1\": after the target comes one of ="),
            ("\nfrob a\n\n\n", "frob a: an operation is one of get, put, del"),
            ("\nhelp\n\n\n", "one of get, put, del"),
            ("\nget\n\n\n", "get: the following required arguments were not provided: <KEY>"),
            ("\nget a --frob\n\n\n", "get a --frob: unexpected argument '--frob' found"),
            ("\nput a\n\n\n", "value is missing"),
            ("\nget \"a\n\n\n", "not closed"),
            ("\nput a b --lease=zz\n\n\n", "hexadecimal"),
        ] {
            let text = read_all(text).expect_err(text);
            assert!(text.contains(why), "{why}: {text}");
        }
    }

    #[test]
    fn escapes_are_gos() {
        let (bytes, rest) = quoted(r#""\a\n\\\"\x7f\377\u00e9\U0001f600é" tail"#).unwrap();
        assert_eq!(bytes, [b"\x07\n\\\"\x7f\xff", "é😀é".as_bytes()].concat());
        assert_eq!(rest, " tail");
    }
}
