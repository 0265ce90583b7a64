//! How a command ends: etcdctl's exit codes, and errors that say what, why and how to go on.

use crate::client;
use std::fmt;
use std::process::ExitCode;
use tonic::Code;

/// Something went wrong.
pub const ERROR: u8 = 1;
/// No server could be reached.
pub const BAD_CONNECTION: u8 = 2;
/// The input (stdin) can't be read.
pub const INVALID_INPUT: u8 = 3;
/// The server can't do what was asked.
pub const SERVER: u8 = 4;
/// The cluster, or an endpoint asked, is not healthy.
pub const UNHEALTHY: u8 = 5;
/// The command line can't be understood.
pub const BAD_ARGS: u8 = 128;

/// How servers say that a request has too many bytes: etcd's store, and its transport.
const TOO_LARGE: [&str; 2] = ["request is too large", "received message larger than max"];

/// How servers say that they have no room for a write.
const NO_SPACE: &str = "database space exceeded";

/// Why a command ends with another code than 0.
#[derive(Clone, Debug)]
pub struct Failure {
    code: u8,
    /// What and why; empty if all was said on stdout.
    text: String,
    fix: Option<String>,
    doctor: Doctor,
    /// What the doctor found, in lines.
    findings: String,
}

/// Whether a failure is one for the connection doctor (`doctor.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doctor {
    /// The connection and the cluster have no part in it.
    Idle,
    /// They may have, and the fix holds whatever is found.
    Beside,
    /// They may have, and the fix is a guess that gives way to a finding.
    Instead,
}

impl Failure {
    /// Ends the command with `code`, saying `text`.
    pub fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into(), fix: None, doctor: Doctor::Idle, findings: String::new() }
    }

    /// Ends the command with `code`; the output has said why.
    pub fn silent(code: u8) -> Failure {
        Failure::new(code, "")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Failure {
        Failure { fix: Some(fix.into()), ..self }
    }

    /// Calls the doctor.
    #[must_use]
    pub fn doctor(self, doctor: Doctor) -> Failure {
        Failure { doctor, ..self }
    }

    /// Whether the doctor is called.
    pub fn calls_the_doctor(&self) -> bool {
        self.doctor != Doctor::Idle
    }

    /// Adds what the doctor found, and whether that says how to go on.
    #[must_use]
    pub fn finding(self, findings: String, has_fix: bool) -> Failure {
        let fix = self.fix.filter(|_| self.doctor != Doctor::Instead || !has_fix);
        Failure { findings, fix, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        let text = error.to_string();
        if error.is_unreachable() {
            return Failure::new(BAD_CONNECTION, text)
                .fix("start a local cluster: quorate dev\n       or say where one is: --endpoints HOST:PORT")
                .doctor(Doctor::Instead);
        }
        match &error {
            client::Error::Uncertain(_) => Failure::new(ERROR, text)
                .fix("read the key back before writing again: quorate get KEY")
                .doctor(Doctor::Beside),
            client::Error::Refused(_) => {
                Failure::new(ERROR, text).fix("see what the cluster lacks: quorate status").doctor(Doctor::Instead)
            }
            client::Error::Rejected(status) if status.code() == Code::Unimplemented => {
                let failure = Failure::new(SERVER, text).fix(
                    "give a member's client address (port 2379, where 2380 is its peers'), or a server that has this call",
                );
                // A member that lacks one call is not ill.
                let stranger = status.message().contains("unknown service");
                failure.doctor(if stranger { Doctor::Instead } else { Doctor::Idle })
            }
            client::Error::Rejected(status) if TOO_LARGE.iter().any(|what| status.message().contains(what)) => {
                Failure::new(ERROR, text)
                    .fix("send less at once, or start every member with a larger --max-request-bytes")
            }
            client::Error::Rejected(status) if status.message().contains(NO_SPACE) => {
                Failure::new(ERROR, text).doctor(Doctor::Beside)
            }
            client::Error::Rejected(_) => Failure::new(ERROR, text),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        // Whoever read our output has seen enough (`quorate get ... | head`).
        let closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        if closed { Failure::silent(ERROR) } else { Failure::new(ERROR, error.to_string()) }
    }
}

/// Says what went wrong, on stderr, and turns it into the process's exit code.
pub fn finish(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if !failure.text.is_empty() {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{red}error:{red:#} {}", failure.text);
    }
    if let Some(fix) = &failure.fix {
        anstream::eprintln!("  fix: {fix}");
    }
    anstream::eprint!("{}", failure.findings);
    ExitCode::from(failure.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn a_refusal_comes_with_its_exit_code_and_the_way_out() {
        for (status, code, way_out) in [
            (Status::unimplemented("unknown service etcdserverpb.KV"), SERVER, "client address"),
            (Status::invalid_argument("etcdserver: request is too large"), ERROR, "--max-request-bytes"),
            (Status::resource_exhausted("grpc: received message larger than max (3 vs. 2)"), ERROR, "less at once"),
        ] {
            let failure = Failure::from(client::Error::Rejected(status));
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.fix.as_ref().is_some_and(|fix| fix.contains(way_out)), "{failure:?}");
        }
    }
}
