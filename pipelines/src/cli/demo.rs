//! `tidemill demo`: the whole product on this machine, with made-up visitors: collector, log, pipeline, query API, dashboard.
//!
//! Every part is a process of this program, as in production, on a free port; only the dashboard's address is for people.
//! With `--for` it ends by itself and closes the books: what was sent, accepted, read, counted and is in the tables, from
//! each part's own count. It exits with 0 only if they agree.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use tidemill_log::{FOLDER, Location, LogError, reader};

use super::collect::KEYS_VARIABLE;
use super::measure::Stopwatch;
use super::run::free_addresses;
use super::{Failure, units, with_causes};

/// How long a part has to be ready and to end, the visitors to end by themselves when their time is over, and the pipeline to
/// catch up at the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one answer to whether a part is ready may take.
const ANSWER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// End by itself after so long, and close the books; without it, it goes on until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = units::duration)]
    time: Option<Duration>,
    /// Events a second that the visitors send.
    #[arg(long, value_name = "N", default_value_t = 500)]
    rate: u32,
    /// Worker threads of the pipeline.
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,
    /// Processes of the pipeline.
    #[arg(long, value_name = "M", default_value_t = 1)]
    processes: u32,
    /// Keep everything in this folder, which must be new; without it, a folder among the temporary files is removed at the
    /// end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn demo(arguments: &DemoArguments) -> Result<(), Failure> {
    let folder = Folder::new(arguments.dir.as_deref())?;
    let asked_to_stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked_to_stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&asked_to_stop)))
            .map_err(Failure::failed)?;
    }
    let mut free = free_addresses(3)?.into_iter();
    let mut address = || free.next().expect("as many as were asked for");
    let (collector, status, page) = (address(), address(), address());
    let (log, data) = (folder.path.join("log"), folder.path.join("data"));
    let text = |path: &Path| path.display().to_string();

    let collect = ["collect", "--open", "--log", &text(&log), "--listen", &collector.to_string(), "--json"];
    let mut collect = Part::start("collector", &collect, &folder.path)?;
    ready(&mut collect, &format!("http://{collector}/readyz"))?;
    let (from, workers) = (format!("log://{}", text(&log)), arguments.workers.to_string());
    let processes = arguments.processes.to_string();
    let run = ["run", "web_analytics", "--from", &from, "--out", &text(&data), "--workers", &workers, "--json"];
    let run = [&run[..], &["--processes", &processes, "--supervise"]].concat();
    let ops = ["--ops".to_owned(), status.to_string()];
    let run = [&run[..], &[&*ops[0], &*ops[1]]].concat();
    let pipeline = Part::start("pipeline", &run, &folder.path)?;
    let status = format!("http://{status}");
    let serve = ["serve", "--data", &text(&data), "--listen", &page.to_string(), "--status", &status];
    let mut serve = Part::start("dashboard", &serve, &folder.path)?;
    ready(&mut serve, &format!("http://{page}/readyz"))?;
    let (to, rate) = (format!("http://{collector}"), arguments.rate.to_string());
    let time = arguments.time.map(|time| format!("{}ms", time.as_millis()));
    let mut generate = vec!["generate", "--to", &to, "--rate", &rate, "--json", "--within-horizon"];
    generate.extend(time.iter().flat_map(|time| ["--for", time.as_str()]));
    let visitors = Part::start("visitors", &generate, &folder.path)?;

    say(&format!("dashboard  http://{page}/"))?;
    say(&format!(
        "files      {} (tables in data, events in log, and what each part says, with its address)",
        text(&folder.path)
    ))?;

    let mut parts = [collect, pipeline, serve, visitors];
    let (clock, longest) = (Stopwatch::start(), arguments.time.map(|given| given + PATIENCE));
    while !asked_to_stop.load(Ordering::Acquire) && parts[3].running() {
        parts[..3].iter_mut().try_for_each(Part::goes_on)?;
        if longest.is_some_and(|longest| clock.elapsed() > longest) {
            return Err(parts[3].trouble(&format!("did not end within {PATIENCE:?} after their time")));
        }
        thread::park_timeout(LOOK);
    }
    let [collecting, mut counting, serving, visiting] = parts;
    let sent = visiting.end(PATIENCE)?;
    let collected = collecting.end(PATIENCE)?;
    caught_up(&mut counting, &data, number(&collected, "/accepted"))?;
    let counted = counting.end(PATIENCE)?;
    drop(serving);
    let books = Books::of(&sent, &collected, &counted);
    say(&books.table())?;
    books.check()?;
    folder.done();
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Failure::failed)
}

/// Where everything lies.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Folder, Failure> {
        let path = match given {
            Some(path) => std::path::absolute(path).map_err(Failure::failed)?,
            None => std::env::temp_dir().join(format!("tidemill-demo-{}", std::process::id())),
        };
        if path.exists() {
            return Err(Failure::usage(format!("{} exists: a demo begins in a new folder", path.display())));
        }
        std::fs::create_dir_all(&path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        Ok(Folder { path, temporary: given.is_none() })
    }

    /// All went well; what went wrong can be looked at.
    fn done(&self) {
        if self.temporary {
            // A leftover among the temporary files only takes room.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A process of the demo. It ends with it.
struct Part {
    name: &'static str,
    child: Child,
    /// All that it prints, once it prints no more.
    printed: Receiver<String>,
    log: PathBuf,
}

impl Part {
    fn start(name: &'static str, arguments: &[&str], folder: &Path) -> Result<Part, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start the {name}: {error}"));
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // Its collector is open to the visitors, whatever keys the one of this machine asks for.
        command.args(arguments).env_remove(KEYS_VARIABLE).stderr(File::create(&log).map_err(failed)?);
        Part::of(name, &mut command, log).map_err(failed)
    }

    fn of(name: &'static str, command: &mut Command, log: PathBuf) -> io::Result<Part> {
        // Ctrl-C is for the demo, which ends the parts in order.
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn()?;
        let mut stdout = child.stdout.take().expect("it was asked for as a pipe");
        let (tell, printed) = channel();
        let read = move || {
            let mut text = String::new();
            // What cannot be read has no books in it, which is said; nobody may be waiting any more.
            let _ = stdout.read_to_string(&mut text);
            let _ = tell.send(text);
        };
        thread::Builder::new().name(name.into()).spawn(read)?;
        Ok(Part { name, child, printed, log })
    }

    fn trouble(&self, what: &str) -> Failure {
        Failure::failed(format!("the {} {what}; see {}", self.name, self.log.display()))
    }

    /// Fails once it has ended without being asked to.
    fn goes_on(&mut self) -> Result<(), Failure> {
        if self.running() { Ok(()) } else { Err(self.trouble("ended by itself")) }
    }

    fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and gives the last line that it printed, as JSON.
    fn end(mut self, patience: Duration) -> Result<Value, Failure> {
        if self.running() {
            self.ask_to_end();
        }
        let clock = Stopwatch::start();
        let ended = loop {
            if let Some(ended) = self.child.try_wait().map_err(Failure::failed)? {
                break ended;
            }
            if clock.elapsed() > patience {
                return Err(self.trouble(&format!("did not end within {patience:?}")));
            }
            thread::park_timeout(LOOK);
        };
        let printed = self.printed.recv_timeout(patience).unwrap_or_default();
        let books = printed.lines().last().and_then(|line| serde_json::from_str(line).ok());
        books.filter(|_| ended.success()).ok_or_else(|| self.trouble(&format!("ended without its books ({ended})")))
    }

    fn ask_to_end(&mut self) {
        // It fails only for a process that has ended.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.running() {
            self.ask_to_end();
            let clock = Stopwatch::start();
            while self.running() && clock.elapsed() < Duration::from_secs(5) {
                thread::park_timeout(LOOK);
            }
            // Both fail only for one that has ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn ready(part: &mut Part, url: &str) -> Result<(), Failure> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER)).build().into();
    let clock = Stopwatch::start();
    while agent.get(url).call().is_err() {
        part.goes_on()?;
        if clock.elapsed() > PATIENCE {
            return Err(part.trouble(&format!("was not ready within {PATIENCE:?}")));
        }
        thread::park_timeout(LOOK);
    }
    Ok(())
}

/// Waits until the pipeline has committed all that the collector accepted.
fn caught_up(pipeline: &mut Part, data: &Path, accepted: u64) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(with_causes(error));
    let place = Location::from(data).open_for_reading().map_err(|error| failed(&error))?;
    let clock = Stopwatch::start();
    loop {
        let read = match reader::read(Arc::clone(&place.store), FOLDER) {
            Ok(state) => super::books::Books::of(&state).read,
            Err(LogError::NotInitialized { .. }) => 0,
            Err(error) => return Err(failed(&error)),
        };
        if read >= accepted {
            return Ok(());
        }
        pipeline.goes_on()?;
        if clock.elapsed() > PATIENCE {
            return Err(pipeline.trouble(&format!("had committed {read} of {accepted} events after {PATIENCE:?}")));
        }
        thread::park_timeout(LOOK);
    }
}

fn number(books: &Value, pointer: &str) -> u64 {
    books.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// What each part counted by itself.
struct Books(BTreeMap<&'static str, u64>);

impl Books {
    fn of(sent: &Value, collected: &Value, counted: &Value) -> Books {
        let entries = [
            ("sent", number(sent, "/sent")),
            ("acknowledged", number(sent, "/accepted")),
            ("refused", number(sent, "/rejected")),
            ("collected", number(collected, "/accepted")),
            ("rejected", number(collected, "/rejected")),
            ("read", number(counted, "/events_read")),
            ("counted", number(counted, "/accepted")),
            ("duplicates", number(counted, "/duplicates")),
            ("unverified", number(counted, "/unverified")),
            ("malformed", number(counted, "/malformed")),
            ("raw_events", number(counted, "/rows/raw_events")),
            ("unverified_events", number(counted, "/rows/unverified_events")),
        ];
        Books(entries.into_iter().collect())
    }

    fn table(&self) -> String {
        let n = |name| self.0[name];
        [
            format!("visitors   sent {} = accepted {} + rejected {}", n("sent"), n("acknowledged"), n("refused")),
            format!("collector  accepted {}, rejected {}", n("collected"), n("rejected")),
            format!(
                "pipeline   read {} = counted {} + duplicate {} + unverified {}",
                n("read"),
                n("counted"),
                n("duplicates"),
                n("unverified")
            ),
            format!("tables     raw_events {}, unverified_events {}", n("raw_events"), n("unverified_events")),
        ]
        .join("\n")
    }

    fn check(&self) -> Result<(), Failure> {
        let n = |name| self.0[name];
        let laws = [
            ("what was sent was accepted or rejected", n("sent") == n("acknowledged") + n("refused")),
            ("what was acknowledged was collected", n("acknowledged") <= n("collected")),
            ("what was collected was read", n("collected") == n("read")),
            ("what was accepted is no dead letter", n("malformed") == 0),
            ("what was read was counted", n("read") == n("counted") + n("duplicates") + n("unverified")),
            ("what was counted is in the table", n("counted") == n("raw_events")),
            ("what is unverified is in its table", n("unverified") == n("unverified_events")),
            ("something was sent", n("sent") > 0),
        ];
        let broken: Vec<&str> = laws.iter().filter(|(_, holds)| !holds).map(|(law, _)| *law).collect();
        if broken.is_empty() {
            return say("the books agree");
        }
        Err(Failure::failed(format!("the books do not agree: not true that {}", broken.join("; nor that "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the parts of a run print at the end: visitors, collector, pipeline.
    fn printed() -> [Value; 3] {
        let sent = json!({"sent": 12, "accepted": 10, "rejected": 2});
        let collected = json!({"accepted": 11, "rejected": 2});
        let rows = json!({"raw_events": 9, "unverified_events": 1});
        let counted = json!({
            "events_read": 11, "accepted": 9, "duplicates": 1, "unverified": 1, "malformed": 0, "rows": rows
        });
        [sent, collected, counted]
    }

    fn judged([sent, collected, counted]: &[Value; 3]) -> Result<(), Failure> {
        Books::of(sent, collected, counted).check()
    }

    #[test]
    fn books_that_agree_pass() {
        // A batch whose answer was lost is collected twice and acknowledged once.
        assert!(judged(&printed()).is_ok());
    }

    fn part(script: &str) -> Part {
        Part::of("part", Command::new("sh").args(["-c", script]), PathBuf::from("part.log")).unwrap()
    }

    #[track_caller]
    fn said<T>(done: Result<T, Failure>) -> String {
        done.err().expect("it fails").message
    }

    #[test]
    fn a_part_that_is_gone_or_does_not_end_is_named_and_not_waited_for() {
        // Nobody listens at port 1 of this machine.
        let gone = said(ready(&mut part("exit 3"), "http://127.0.0.1:1/readyz"));
        assert_eq!(gone, "the part ended by itself; see part.log");
        let nowhere = tempfile::tempdir().unwrap();
        assert_eq!(said(caught_up(&mut part("exit 0"), nowhere.path(), 7)), gone);
        let deaf_now = nowhere.path().join("deaf");
        let mut deaf = part(&format!("trap '' TERM; : > {}; while :; do sleep 0.1; done", deaf_now.display()));
        while !deaf_now.exists() {
            deaf.goes_on().unwrap();
            thread::park_timeout(LOOK);
        }
        assert_eq!(said(deaf.end(Duration::from_millis(300))), "the part did not end within 300ms; see part.log");
        let ended = |script| {
            let mut part = part(script);
            while part.running() {
                thread::park_timeout(LOOK);
            }
            part.end(PATIENCE)
        };
        assert_eq!(ended("echo x; echo '{\"sent\": 3}'").unwrap(), json!({"sent": 3}));
        assert!(said(ended("echo '{}'; exit 1")).contains("ended without its books (exit status: 1)"));
    }

    #[test]
    fn any_number_that_is_wrong_is_named() {
        for (part, number, value, law) in [
            (0, "/sent", 13, "what was sent was accepted or rejected"),
            (0, "/accepted", 9, "what was sent was accepted or rejected"),
            (0, "/rejected", 3, "what was sent was accepted or rejected"),
            (1, "/accepted", 9, "what was acknowledged was collected"),
            (1, "/accepted", 12, "what was collected was read"),
            (2, "/events_read", 10, "what was collected was read"),
            (2, "/malformed", 1, "what was accepted is no dead letter"),
            (2, "/accepted", 8, "what was read was counted"),
            (2, "/duplicates", 2, "what was read was counted"),
            (2, "/unverified", 0, "what was read was counted"),
            (2, "/rows/raw_events", 10, "what was counted is in the table"),
            (2, "/rows/unverified_events", 2, "what is unverified is in its table"),
        ] {
            let mut books = printed();
            *books[part].pointer_mut(number).unwrap() = value.into();
            let Err(failure) = judged(&books) else { panic!("{number} is {value}") };
            assert_eq!(failure.code, 1, "{number} is {value}");
            assert!(failure.message.contains(law), "{number} is {value}: {}", failure.message);
        }
        let nothing = [json!({}), json!({}), json!({})];
        assert!(judged(&nothing).is_err_and(|failure| failure.message.contains("something was sent")));
    }
}
