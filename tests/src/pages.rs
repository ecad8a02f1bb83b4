//! Pages of documentation, and a reader who types every command on them.
//!
//! What a block is, its fence says: `sh` is run; `text` directly behind it is what it prints on standard output, where `…`
//! stands for anything; `console`, and any other `text`, is not run and says why in a comment before it
//! (`<!-- not run: reason -->`); `rust` is compiled with the documentation tests of `tidemill`; `sql`, `yaml` and `toml`
//! are there to be read.
//!
//! The blocks of a page are run in order by one shell with `set -euo pipefail`, in an empty folder. What is put in the place of what is written:
//!
//! * `/tmp/` and `/var/lib/tidemill`: folders of this run;
//! * a port of `127.0.0.1`, `localhost` or `0.0.0.0`: a free one of 127.0.0.1, the same for the whole page;
//! * `--events N` of more than [`MOST_EVENTS`]: that many.
//!
//! `curl` fails where the answer is an error. What is still running at the end of a page is ended.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Made-up events that a block gets at most.
pub const MOST_EVENTS: u64 = 40_000;

/// Seconds after which a page is taken to hang.
const LIMIT: &str = "300";

/// The comment that says why a block is not run.
const REASON: &str = "<!-- not run: ";

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where its fence is, counted from 1.
    pub line: usize,
    /// What the fence says that it is.
    pub kind: String,
    /// What is in it.
    pub text: String,
    /// Why it is not run, if a comment before it says so.
    pub reason: Option<String>,
    /// Whether nothing stands between it and the block before.
    pub directly: bool,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    name: String,
    blocks: Vec<Block>,
}

impl Page {
    /// Reads a page of Markdown.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn read(path: &Path) -> Page {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Page { name: path.display().to_string(), blocks: blocks(&text) }
    }

    /// Its blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// What is wrong with the fences of its blocks, a sentence each.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let wrong = match block.kind.as_str() {
                "sh" if block.reason.is_some() => Some("is run, but a comment says that it is not"),
                "text" if self.is_output(at) => None,
                "console" | "text" if block.reason.is_none() => {
                    Some("needs a comment `<!-- not run: reason -->` before it")
                }
                "sh" | "console" | "text" | "sql" | "yaml" | "toml" => None,
                kind if kind.split(',').next() == Some("rust") => None,
                _ => Some("has a fence of no known kind"),
            };
            mistakes.extend(wrong.map(|wrong| format!("{}:{}: the block {wrong}", self.name, block.line)));
        }
        mistakes
    }

    /// Whether a block is what the one before it prints.
    fn is_output(&self, at: usize) -> bool {
        let (block, before) = (&self.blocks[at], at.checked_sub(1).map(|before| &self.blocks[before]));
        block.kind == "text" && block.directly && before.is_some_and(|before| before.kind == "sh")
    }

    /// Runs its commands; `commands` are those that it knows beside the machine's own, with where they are.
    ///
    /// # Errors
    /// Which block failed, or printed something else than the page shows.
    ///
    /// # Panics
    /// When there is no shell.
    pub fn run(&self, commands: &[(&str, &Path)]) -> Result<(), String> {
        let folder = TempDir::new().expect("a temporary folder for the page");
        let place = |name: &str| folder.path().join(name);
        for name in ["bin", "work", "tmp", "var", "said"] {
            fs::create_dir(place(name)).expect("a folder in an empty one");
        }
        for (name, binary) in commands {
            std::os::unix::fs::symlink(binary, place("bin").join(name)).expect("a link in an empty folder");
        }
        fs::write(place(".curlrc"), "fail-with-body\n").expect("a file in a folder of ours");
        let stand_ins = StandIns::new(folder.path(), &self.blocks);
        let mut script = String::from(
            "set -euo pipefail\ncd \"$PAGE/work\"\nexport PATH=\"$PAGE/bin:$PATH\"\n\
             trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n",
        );
        for (at, block) in self.blocks.iter().enumerate().filter(|(_, block)| block.kind == "sh") {
            let typed = stand_ins.put_into(&block.text);
            let (out, error) = (format!("$PAGE/said/{at}.out"), format!("$PAGE/said/{at}.err"));
            writeln!(script, "{{\n{typed}}} >\"{out}\" 2>\"{error}\" </dev/null\necho {at} >>\"$PAGE/done\"")
                .expect("text takes text");
        }
        fs::write(place("page.sh"), script).expect("a file in a folder of ours");
        // `timeout` ends the shell and all that it has started, should it hang.
        let mut shell = Command::new("timeout");
        shell
            .args(["--kill-after=10", LIMIT, "bash"])
            .arg(place("page.sh"))
            .env("PAGE", folder.path())
            .env("CURL_HOME", folder.path());
        let ended = shell.stdin(Stdio::null()).output().expect("a shell to run the page with");
        let done = fs::read_to_string(place("done")).unwrap_or_default();
        let said = |at: usize, kind: &str| {
            String::from_utf8_lossy(&fs::read(place(&format!("said/{at}.{kind}"))).unwrap_or_default()).into_owned()
        };
        for (at, block) in self.blocks.iter().enumerate() {
            let line = format!("{}:{}", self.name, block.line);
            if block.kind == "sh" && !done.lines().any(|number| number == at.to_string()) {
                let (out, error) = (said(at, "out"), said(at, "err"));
                let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
                return Err(format!("{line}: the block failed ({}):\n{out}{error}{complaint}", ended.status));
            }
            if self.is_output(at) {
                let (shown, printed) = (stand_ins.put_into(&block.text), said(at - 1, "out"));
                if !fits(&trimmed(&shown), &trimmed(&printed)) {
                    return Err(format!("{line}: the page shows\n{shown}and it prints\n{printed}"));
                }
            }
        }
        if ended.status.success() {
            Ok(())
        } else {
            Err(format!("{}: the shell ended with {}", self.name, ended.status))
        }
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut reason, mut between) = (Vec::new(), None, true);
    let mut lines = (1..).zip(text.lines());
    while let Some((line, content)) = lines.next() {
        if let Some(kind) = content.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().map(|(_, inner)| inner).take_while(|inner| *inner != "```").collect();
            let body: String = body.iter().map(|inner| format!("{inner}\n")).collect();
            found.push(Block { line, kind: kind.to_owned(), text: body, reason: reason.take(), directly: !between });
            between = false;
        } else if let Some(comment) = content.strip_prefix(REASON) {
            reason = comment.strip_suffix("-->").map(|why| why.trim().to_owned()).filter(|why| !why.is_empty());
            between = true;
        } else if !content.is_empty() {
            (reason, between) = (None, true);
        }
    }
    found
}

/// What stands in the place of what is written.
struct StandIns {
    folders: [(&'static str, String); 2],
    ports: BTreeMap<String, u16>,
}

const HOSTS: [&str; 3] = ["127.0.0.1:", "localhost:", "0.0.0.0:"];
const EVENTS: &str = "--events ";

impl StandIns {
    fn new(folder: &Path, blocks: &[Block]) -> StandIns {
        let mut ports = BTreeMap::new();
        for block in blocks.iter().filter(|block| block.kind == "sh") {
            for host in HOSTS {
                let written = block.text.split(host).skip(1).map(|rest| digits(rest).to_owned());
                ports.extend(written.filter(|port| !port.is_empty() && port != "0").map(|port| (port, 0)));
            }
        }
        // All at once, so that no two are the same.
        let free: Vec<_> = ports.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        for (port, listener) in ports.values_mut().zip(&free) {
            *port = listener.local_addr().expect("it listens").port();
        }
        let of = |name: &str| folder.join(name).display().to_string();
        StandIns { folders: [("/var/lib/tidemill", of("var")), ("/tmp/", of("tmp") + "/")], ports }
    }

    fn put_into(&self, text: &str) -> String {
        // Folders come last: what stands in for them is below the machine's own /tmp/.
        let mut text = replaced(text, EVENTS, |number| match number.parse::<u64>() {
            Ok(events) if events > MOST_EVENTS => Some(format!("{EVENTS}{MOST_EVENTS}")),
            _ => None,
        });
        for host in HOSTS {
            text = replaced(&text, host, |port| self.ports.get(port).map(|free| format!("127.0.0.1:{free}")));
        }
        let [(data, of_data), (temporary, of_temporary)] = &self.folders;
        text.replace(temporary, of_temporary).replace(data, of_data)
    }
}

/// The text with every `before` and the digits behind it replaced, where `by` says something for those digits.
fn replaced(text: &str, before: &str, by: impl Fn(&str) -> Option<String>) -> String {
    let mut pieces = text.split(before);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for rest in pieces {
        let number = digits(rest);
        match by(number) {
            Some(instead) => out.push_str(&instead),
            None => out.extend([before, number]),
        }
        out.push_str(&rest[number.len()..]);
    }
    out
}

fn digits(text: &str) -> &str {
    &text[..text.bytes().take_while(u8::is_ascii_digit).count()]
}

/// Without spaces at the ends of lines, nor empty lines at the end.
fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

/// Whether a text is what is shown; `…` stands for anything.
fn fits(shown: &str, text: &str) -> bool {
    let mut pieces = shown.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n```sh\necho a b c\n```\n\n```text\na … c\n```\n\nWords.\n\n\
                        <!-- not run: it shows a form -->\n```console\ntidemill FORM\n```\n\n```text\nlost\n```\n\n```zig\n```\n";

    #[test]
    fn a_block_says_what_it_is() {
        let page = Page { name: "page.md".to_owned(), blocks: blocks(PAGE) };
        let kinds: Vec<_> = page.blocks().iter().map(|block| (block.line, block.kind.as_str())).collect();
        assert_eq!(kinds, [(3, "sh"), (7, "text"), (14, "console"), (18, "text"), (22, "zig")]);
        assert_eq!(page.blocks()[2].reason.as_deref(), Some("it shows a form"));
        let mistakes = page.mistakes();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(mistakes[0].starts_with("page.md:18: ") && mistakes[1].starts_with("page.md:22: "), "{mistakes:?}");
    }

    #[test]
    fn a_page_is_run_and_what_it_prints_is_compared() {
        let run = |text: &str| Page { name: "page.md".to_owned(), blocks: blocks(text) }.run(&[]);
        assert_eq!(run(PAGE), Ok(()));
        let failed = run("```sh\ntrue\n```\n\n```sh\necho why >&2\nfalse | cat\n```\n").unwrap_err();
        assert!(failed.starts_with("page.md:5: ") && failed.contains("why"), "{failed}");
        let differs = run("```sh\necho a\n```\n```text\nb\n```\n").unwrap_err();
        assert!(differs.starts_with("page.md:4: ") && differs.contains("it prints\na"), "{differs}");
        // What a page starts and leaves behind does not keep it from ending.
        assert_eq!(run("```sh\nsleep 1000 &\nA=1\n```\n```sh\ntest $A = 1\n```\n"), Ok(()));
    }

    #[test]
    fn folders_ports_and_numbers_of_events_are_replaced() {
        let text =
            "run --out /tmp/a --events 1000000 --ops 127.0.0.1:9464 log:///var/lib/tidemill/log localhost:9464 :1\n";
        let stand_ins = StandIns::new(Path::new("/tmp/page"), &blocks(&format!("```sh\n{text}```\n")));
        let port = stand_ins.ports["9464"];
        let expected = format!(
            "run --out /tmp/page/tmp/a --events {MOST_EVENTS} --ops 127.0.0.1:{port} log:///tmp/page/var/log 127.0.0.1:{port} :1\n"
        );
        assert_eq!(stand_ins.put_into(text), expected);
        assert_eq!(stand_ins.put_into("--events 5 127.0.0.1:0"), "--events 5 127.0.0.1:0");
    }

    #[test]
    fn dots_stand_for_anything() {
        for (shown, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a…", "ab", true),
            ("…c", "abc", true),
            ("a…b…c", "a 1 b 2 c", true),
            ("a…b…c", "a 1 c", false),
        ] {
            assert_eq!(fits(shown, text), expected, "{shown} {text}");
        }
    }
}
