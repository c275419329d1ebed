//! Who holds a lock file: the record in it, and whether that process still lives.
//!
//! A lock goes with the last descriptor of its open file, and a forked child has one: the record tells whether the
//! process that took the lock lives, where that can be told at all. A process id means nothing in another boot, on
//! another host or in another pid namespace (a container): a process there is never said to be dead.

use std::fmt;
use std::io;
use std::process;

/// The most bytes of a record that are read.
pub(super) const MOST: usize = 1024;

/// A process, as its record has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its id; 0 where the record does not say.
    pid: u32,
    /// When it began, in the system's own count; 0 where the system does not say. Ids are used again.
    start: u64,
    /// Where its id means something; empty where that cannot be told.
    place: String,
    /// The name of its host.
    host: String,
}

impl Holder {
    /// This process.
    pub(super) fn this() -> Holder {
        let start = begun(process::id()).map_or(0, |(start, _)| start);
        Holder { pid: process::id(), start, place: place().unwrap_or_default(), host: host() }
    }

    /// What it is called in a lock file.
    pub(super) fn to_record(&self) -> String {
        let Holder { pid, start, place, host } = self;
        format!("libckpt lock\npid {pid}\nstart {start}\nplace {place}\nhost {host}\n")
    }

    /// Reads a record; what it does not say is empty.
    pub(super) fn from_record(record: &[u8]) -> Holder {
        let record = String::from_utf8_lossy(record);
        let value = |key: &str| {
            let mut lines = record.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(name, _)| *name == key).map_or(String::new(), |(_, value)| value.to_owned())
        };
        let number = |key| value(key).parse::<u64>().unwrap_or(0);
        let pid = u32::try_from(number("pid")).unwrap_or(0);
        Holder { pid, start: number("start"), place: value("place"), host: value("host") }
    }

    /// Whether that process is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        let Ok(pid) = libc::pid_t::try_from(self.pid) else { return false };
        if pid <= 0 || place().is_none_or(|here| here != self.place) {
            return false;
        }
        // SAFETY: kill takes plain numbers; signal 0 is none, and asks only.
        let gone = unsafe { libc::kill(pid, 0) } != 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        let another = |(start, alive): (u64, bool)| !alive || self.start != 0 && start != self.start;
        gone || begun(self.pid).is_some_and(another)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => f.write_str("a process that has left no record"),
            pid => write!(f, "process {pid} on host '{}'", self.host),
        }
    }
}

/// When a process began, and whether it runs: one that nobody has waited for yet does not. `None` where the system does
/// not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn begun(pid: u32) -> Option<(u64, bool)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, of any characters; the fields behind it are the third and so on.
    let end = stat.iter().rposition(|&b| b == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).copied();
    // Where the first thread has ended before the others, the process is called a zombie too.
    let ended = matches!(field(3)?, "Z" | "X") && field(20)?.parse::<u64>().ok()? <= 1;
    Some((field(22)?.parse().ok()?, !ended))
}

/// When a process began: not known here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn begun(_: u32) -> Option<(u64, bool)> {
    None
}

/// Where this process' id means something: this boot and this pid namespace.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.to_str()?))
}

/// Where this process' id means something: on this host.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn place() -> Option<String> {
    Some(host()).filter(|host| !host.is_empty())
}

/// The name of this host, in one line.
fn host() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the call writes at most that many bytes into memory of that many.
    let known = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } == 0;
    let name = name.split(|&b| b == 0).next().filter(|_| known).unwrap_or_default();
    String::from_utf8_lossy(name).replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_record_comes_back() {
        let this = Holder::this();
        assert_eq!(Holder::from_record(this.to_record().as_bytes()), this);
        assert!(!this.has_ended());
        for torn in ["", "pid", "pid x\nstart", "libckpt lock\npid 99999999999\n", "\u{fffd}"] {
            let holder = Holder::from_record(torn.as_bytes());
            assert!(holder.pid == 0 && !holder.has_ended(), "{torn:?}");
        }
    }

    #[test]
    fn only_a_process_of_this_place_is_known_to_have_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let start = begun(child.id()).map_or(0, |(start, _)| start);
        let record = Holder { pid: child.id(), start, ..Holder::this() };
        assert!(!record.has_ended());
        // Another process that was given the id of the former.
        let former = Holder { start: start + 1, ..record.clone() };
        assert_eq!(former.has_ended(), start != 0);
        child.kill().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(record.has_ended());
        assert!(!Holder { place: "elsewhere".into(), ..record.clone() }.has_ended());
        assert!(!Holder { place: String::new(), ..record }.has_ended());
    }
}
