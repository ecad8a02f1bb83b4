//! `bench`: workload S through the loop and the job, rounds interleaved; `bench loop FILE` is the loop alone.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use tidemill_benches::rounds::{BenchError, Contestant, Measured, Places};
use tidemill_benches::{hand_loop, report, rounds, state, usage};
use tidemill_connectors::generate::{GenerateConfig, Rates, generate};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "bench [--events N] [--rounds N] [--seed N] [--only WORDS] | bench loop FILE";

struct Options {
    events: u64,
    rounds: usize,
    seed: u64,
    /// Contestants whose names hold this, beside the loop.
    only: String,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["loop", path] => run_loop(Path::new(path)),
        _ => options(&arguments).and_then(|options| compare(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<Options, BenchError> {
    let mut options = Options { events: 3_000_000, rounds: 5, seed: 1, only: String::new() };
    let mut words = arguments.iter();
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| BenchError::Usage(format!("{name} needs a value; {HELP}")))?;
        let number =
            || value.parse::<u64>().map_err(|_| BenchError::Usage(format!("{name} {value}: no number; {HELP}")));
        match name.as_str() {
            "--events" => options.events = number()?,
            "--rounds" => options.rounds = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--seed" => options.seed = number()?,
            "--only" => options.only.clone_from(value),
            _ => return Err(BenchError::Usage(format!("{name} is no option; {HELP}"))),
        }
    }
    Ok(options)
}

fn run_loop(path: &Path) -> Result<(), BenchError> {
    let start = usage::now();
    let answer = hand_loop::run(path).map_err(|source| io_error(format!("reading {}", path.display()), source))?;
    let seconds = start.elapsed().as_secs_f64();
    let mut line = json!(answer);
    line["seconds"] = json!(seconds);
    line["cpu_seconds"] = json!(usage::cpu_seconds());
    line["peak_memory_bytes"] = json!(usage::peak_memory_bytes());
    print(&format!("{line}\n"))
}

fn compare(options: &Options) -> Result<(), BenchError> {
    let bench = std::env::current_exe().map_err(|source| io_error("finding this program".into(), source))?;
    let cache = PathBuf::from(".cache/bench");
    fs::create_dir_all(&cache).map_err(|source| io_error(format!("creating {}", cache.display()), source))?;
    let places =
        Places { tidemill: bench.with_file_name("tidemill"), input: workload(options, &cache)?, scratch: cache, bench };
    let all = rounds::contestants();
    let contestants: Vec<Contestant> =
        all.into_iter().filter(|one| one.is_loop || one.name.contains(&options.only)).collect();
    let mut measured: Vec<Vec<Measured>> = Vec::new();
    // Round 0 fills the page cache and is thrown away.
    for round in 0..=options.rounds {
        let mut results = Vec::new();
        for contestant in &contestants {
            let result = rounds::run(contestant, &places)?;
            eprintln!("round {round}: {}: {:.2} s", contestant.name, result.seconds);
            if !contestant.is_loop {
                rounds::check(contestant, &result, &results[0])?;
            }
            results.push(result);
        }
        if round > 0 {
            measured.push(results);
        }
    }
    let mut text = String::new();
    report::write(&contestants, &measured, &mut text).expect("a String takes all that is written");
    let (ids, sessions) = state::costs(&places.input)?;
    ids.write("dedup ids", &mut text).expect("a String takes all that is written");
    sessions.write("sessions", &mut text).expect("a String takes all that is written");
    print(&text)
}

/// Workload S as a file, generated once: all within the horizon, so that the loop's answer is exact too.
fn workload(options: &Options, cache: &Path) -> Result<PathBuf, BenchError> {
    let path = cache.join(format!("events-{}-{}.ndjson", options.events, options.seed));
    if path.exists() {
        return Ok(path);
    }
    let config = GenerateConfig { rates: Rates::within_horizon(), ..GenerateConfig::new(options.events, options.seed) };
    let unfinished = path.with_extension("unfinished");
    let file =
        File::create(&unfinished).map_err(|source| io_error(format!("creating {}", unfinished.display()), source))?;
    let summary = generate(&config, BufWriter::new(file)).map_err(|error| BenchError::Usage(error.to_string()))?;
    eprintln!("{}: {} lines, {} bytes", path.display(), summary.lines, summary.bytes);
    fs::rename(&unfinished, &path).map_err(|source| io_error(format!("renaming {}", unfinished.display()), source))?;
    Ok(path)
}

fn io_error(what: String, source: io::Error) -> BenchError {
    BenchError::Io { what, source }
}

fn print(text: &str) -> Result<(), BenchError> {
    io::stdout().write_all(text.as_bytes()).map_err(|source| io_error("printing the result".into(), source))
}
