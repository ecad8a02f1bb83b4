//! `tidemill demo`: the whole product on this machine, with made-up visitors: collector, log, pipeline, query API, dashboard.
//!
//! Every part is a process of this program, as in production, on a free port; only the dashboard's address is for people.
//! With `--for` it ends by itself and closes the books: what was sent, accepted, read, counted and is in the tables, from
//! each part's own count. It exits with 0 only if they agree.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use tidemill_log::{FOLDER, Location, LogError, reader};

use super::measure::Stopwatch;
use super::run::free_addresses;
use super::{Failure, units, with_causes};

/// How long a part has to be ready, and the pipeline to catch up at the end.
const PATIENCE: Duration = Duration::from_secs(60);
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

    let collect = ["collect", "--log", &text(&log), "--listen", &collector.to_string(), "--json"];
    let collect = Part::start("collector", &collect, &folder.path)?;
    ready(&collect, &format!("http://{collector}/readyz"))?;
    let (from, workers) = (format!("log://{}", text(&log)), arguments.workers.to_string());
    let processes = arguments.processes.to_string();
    let run = ["run", "web_analytics", "--from", &from, "--out", &text(&data), "--workers", &workers, "--json"];
    let run = [&run[..], &["--processes", &processes, "--supervise"]].concat();
    let ops = ["--ops".to_owned(), status.to_string()];
    let run = [&run[..], &[&*ops[0], &*ops[1]]].concat();
    let pipeline = Part::start("pipeline", &run, &folder.path)?;
    let status = format!("http://{status}");
    let serve = ["serve", "--data", &text(&data), "--listen", &page.to_string(), "--status", &status];
    let serve = Part::start("dashboard", &serve, &folder.path)?;
    ready(&serve, &format!("http://{page}/readyz"))?;
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
    while !asked_to_stop.load(Ordering::Acquire) && parts[3].running() {
        if let Some(ended) = parts[..3].iter_mut().find_map(|part| (!part.running()).then_some(part.name)) {
            return Err(Failure::failed(format!("the {ended} ended by itself; see {}", text(&folder.path))));
        }
        thread::park_timeout(LOOK);
    }
    let [collecting, counting, serving, visiting] = parts;
    let sent = visiting.end()?;
    let collected = collecting.end()?;
    caught_up(&data, number(&collected, "/accepted"))?;
    let counted = counting.end()?;
    drop(serving);
    let books = Books::of(&sent, &collected, &counted);
    say(&books.table())?;
    books.check()?;
    folder.done();
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
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
    log: PathBuf,
}

impl Part {
    fn start(name: &'static str, arguments: &[&str], folder: &Path) -> Result<Part, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot start the {name}: {error}"));
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        // Ctrl-C is for the demo, which ends the parts in order.
        command.stderr(File::create(&log).map_err(failed)?).process_group(0);
        Ok(Part { name, child: command.spawn().map_err(failed)?, log })
    }

    fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and gives the last line that it printed, as JSON.
    fn end(mut self) -> Result<Value, Failure> {
        if self.running() {
            self.ask_to_end();
        }
        let mut printed = String::new();
        if let Some(stdout) = self.child.stdout.as_mut() {
            stdout.read_to_string(&mut printed).map_err(Failure::failed)?;
        }
        let ended = self.child.wait().map_err(Failure::failed)?;
        let books = printed.lines().last().and_then(|line| serde_json::from_str(line).ok());
        books.filter(|_| ended.success()).ok_or_else(|| {
            Failure::failed(format!("the {} ended without its books ({ended}); see {}", self.name, self.log.display()))
        })
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

fn ready(part: &Part, url: &str) -> Result<(), Failure> {
    let clock = Stopwatch::start();
    while ureq::get(url).call().is_err() {
        if clock.elapsed() > PATIENCE {
            let log = part.log.display();
            return Err(Failure::failed(format!("the {} was not ready within {PATIENCE:?}; see {log}", part.name)));
        }
        thread::park_timeout(LOOK);
    }
    Ok(())
}

/// Waits until the pipeline has committed all that the collector accepted.
fn caught_up(data: &Path, accepted: u64) -> Result<(), Failure> {
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
        if clock.elapsed() > PATIENCE {
            return Err(Failure::failed(format!(
                "the pipeline had committed {read} of {accepted} events after {PATIENCE:?}"
            )));
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
