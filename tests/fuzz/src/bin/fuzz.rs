//! Runs targets on random and mutated inputs: any stable toolchain, the ordinary build, no coverage.
//!
//! `fuzz all --seconds 600` runs every target, two at a time, each in a process of its own: one that overflows its stack
//! or never ends is a finding like any other. What is found is shrunk and written below `--found`.

use std::fs;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_fuzz::memory::Counting;
use tidemill_fuzz::{TARGETS, Target, corpus, mutate, panics, target};

#[global_allocator]
static MEMORY: Counting = Counting;

#[derive(Parser)]
#[command(about = "Gives anything to what reads what strangers send")]
struct Arguments {
    #[command(subcommand)]
    command: What,
    /// Where inputs go that break a promise.
    #[arg(long, default_value = "target/fuzz", global = true)]
    found: PathBuf,
}

#[derive(Subcommand)]
enum What {
    /// The names of all targets.
    List,
    /// All targets, some at once.
    All {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        #[arg(long, default_value_t = 2)]
        at_once: usize,
        #[arg(long)]
        seed: Option<u64>,
    },
    /// One target, for a time or a number of inputs.
    Run {
        #[arg(value_parser = chosen)]
        target: Target,
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        #[arg(long)]
        inputs: Option<u64>,
        #[arg(long)]
        seed: Option<u64>,
    },
    /// One target on these files.
    Once {
        #[arg(value_parser = chosen)]
        target: Target,
        files: Vec<PathBuf>,
    },
}

fn chosen(name: &str) -> Result<Target, String> {
    let names = || TARGETS.map(|target| target.name).join(", ");
    target(name).ok_or_else(|| format!("there is no such target; there are {}", names()))
}

fn main() -> ExitCode {
    let Arguments { command, found } = Arguments::parse();
    let done = match command {
        What::List => TARGETS.iter().try_for_each(|target| say(target.name)),
        What::All { seconds, at_once, seed } => return all(&found, seconds, at_once, seed),
        What::Run { target, seconds, inputs, seed } => return run(&target, &found, seconds, inputs, seed),
        What::Once { target, files } => files.iter().try_for_each(|file| {
            (target.run)(&fs::read(file)?);
            say(&format!("{}: {} is taken", target.name, file.display()))
        }),
    };
    done.map_or_else(|error| failed(&error.to_string()), |()| ExitCode::SUCCESS)
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

fn failed(sentence: &str) -> ExitCode {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "{sentence}");
    ExitCode::FAILURE
}

#[expect(clippy::disallowed_methods, reason = "for how long is asked in seconds, and reaches no input")]
fn now() -> Instant {
    Instant::now()
}

/// Panics so far, on any thread: some are caught on their way, and count all the same.
static PANICS: AtomicU64 = AtomicU64::new(0);
static SAID: Mutex<String> = Mutex::new(String::new());

fn listen_to_panics() {
    panic::set_hook(Box::new(|panicked| {
        if !panics::counts(panicked) {
            return;
        }
        PANICS.fetch_add(1, Ordering::SeqCst);
        if let Ok(mut said) = SAID.lock() {
            *said = panicked.to_string();
        }
    }));
}

/// What broke on this input, if anything did.
fn breaks(target: &Target, input: &[u8]) -> Option<String> {
    let before = PANICS.load(Ordering::SeqCst);
    let ended = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let broke = ended.is_err() || PANICS.load(Ordering::SeqCst) > before;
    broke.then(|| SAID.lock().map(|said| said.clone()).unwrap_or_default())
}

fn run(target: &Target, found: &Path, seconds: u64, most: Option<u64>, seed: Option<u64>) -> ExitCode {
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    let kept = match corpus::inputs(target).and_then(|kept| fs::create_dir_all(found).map(|()| kept)) {
        Ok(kept) => kept,
        Err(error) => return failed(&format!("{}: {error}", target.name)),
    };
    listen_to_panics();
    // What is under way when the process is ended from outside, or by its stack.
    let current = found.join(format!("{}.current", target.name));
    let (began, mut tried, mut random) = (now(), 0_u64, ChaCha8Rng::seed_from_u64(seed));
    let goes_on = |done| most.map_or_else(|| now() - began < Duration::from_secs(seconds), |most| done < most);
    while goes_on(tried) || tried < kept.len() as u64 {
        let as_it_is = usize::try_from(tried).ok().and_then(|number| kept.get(number));
        let input = as_it_is.cloned().unwrap_or_else(|| mutate::next(&mut random, &kept, target.words));
        if let Err(error) = fs::write(&current, &input) {
            return failed(&format!("{}: {error}", current.display()));
        }
        if let Some(said) = breaks(target, &input) {
            let small = shrunk(target, input);
            let place = found.join(format!("{}-{seed}-{tried}", target.name));
            let _ = fs::write(&place, &small);
            let again = format!("fuzz once {} {}", target.name, place.display());
            let (name, bytes) = (target.name, small.len());
            return failed(&format!("{name}: seed {seed}, input {tried}, {bytes} bytes: {said}\n  again: {again}"));
        }
        tried += 1;
    }
    let _ = fs::remove_file(&current);
    let line = format!("{}: seed {seed}, {tried} inputs, nothing found", target.name);
    say(&line).map_or_else(|error| failed(&error.to_string()), |()| ExitCode::SUCCESS)
}

/// A smaller input that breaks something too: pieces are left out, large ones first, as long as it still does.
fn shrunk(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut piece = input.len() / 2;
    // Some inputs take seconds each.
    let until = now() + Duration::from_secs(20);
    while piece > 0 && now() < until {
        let mut at = 0;
        while at < input.len() && now() < until {
            let rest = &input[(at + piece).min(input.len())..];
            let without = [&input[..at], rest].concat();
            if breaks(target, &without).is_some() { input = without } else { at += piece }
        }
        piece /= 2;
    }
    input
}

/// A target that runs in a process of its own.
struct Running {
    name: &'static str,
    child: Child,
    until: Instant,
}

fn all(found: &Path, seconds: u64, at_once: usize, seed: Option<u64>) -> ExitCode {
    let (mut waiting, mut running, mut broken) = (TARGETS.to_vec(), Vec::<Running>::new(), Vec::new());
    waiting.reverse();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < at_once.max(1)
            && let Some(next) = waiting.pop()
        {
            match start(&next, found, seconds, seed) {
                Ok(child) => {
                    let until = now() + Duration::from_secs(2 * seconds + 120);
                    running.push(Running { name: next.name, child, until });
                }
                Err(error) => return failed(&format!("{}: {error}", next.name)),
            }
        }
        thread::park_timeout(Duration::from_millis(50));
        running.retain_mut(|one| match one.child.try_wait() {
            Ok(Some(status)) => {
                if !status.success() {
                    broken.push(format!("{}: {status}", one.name));
                }
                false
            }
            Ok(None) if now() < one.until => true,
            _ => {
                let _ = one.child.kill().and_then(|()| one.child.wait().map(drop));
                broken.push(format!("{}: an input has no end", one.name));
                false
            }
        });
    }
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    failed(&format!("{}; inputs are in {} (NAME.current: under way when it ended)", broken.join("; "), found.display()))
}

fn start(target: &Target, found: &Path, seconds: u64, seed: Option<u64>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", target.name, "--seconds", &seconds.to_string(), "--found"]).arg(found);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    command.spawn()
}
