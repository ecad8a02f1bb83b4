//! From the measurements of all rounds to a table in Markdown.

use std::fmt::{self, Write};

use crate::rounds::{Contestant, Measured};

/// Prints the table: medians over the rounds, ratios taken within a round first.
///
/// `rounds[r][c]` is what contestant `c` measured in round `r`; contestant 0 is the loop.
///
/// # Errors
/// When `out` takes no more.
pub fn write(contestants: &[Contestant], rounds: &[Vec<Measured>], out: &mut impl Write) -> fmt::Result {
    let events = rounds.first().and_then(|round| round.first()).map_or(0.0, events_of);
    writeln!(out, "{events:.0} lines, {} rounds, medians\n", rounds.len())?;
    writeln!(out, "| | k events/s | x loop | CPU s/M | peak MB | on disk MB | checkpoints |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|")?;
    for (at, contestant) in contestants.iter().enumerate() {
        let over = |of: &dyn Fn(&Vec<Measured>) -> f64| median(rounds.iter().map(of).collect());
        let rate = over(&|round| events_of(&round[at]) / round[at].seconds / 1e3);
        let ratio = over(&|round| round[0].seconds / round[at].seconds);
        let cpu = over(&|round| round[at].cpu_seconds / events_of(&round[at]) * 1e6);
        let peak = over(&|round| round[at].peak_memory_bytes / 1e6);
        let disk = over(&|round| round[at].disk_bytes as f64 / 1e6);
        let checkpoints = over(&|round| round[at].line["checkpoints"].as_f64().unwrap_or(0.0));
        let name = &contestant.name;
        writeln!(out, "| {name} | {rate:.0} | {ratio:.2} | {cpu:.2} | {peak:.0} | {disk:.0} | {checkpoints:.0} |")?;
    }
    writeln!(out)?;
    for (at, contestant) in contestants.iter().enumerate() {
        let off = contestant.name.replace("exactly-once on", "exactly-once off");
        let Some(without) = contestants.iter().position(|other| other.name == off).filter(|other| *other != at) else {
            continue;
        };
        let cost = median(rounds.iter().map(|round| round[at].seconds / round[without].seconds - 1.0).collect());
        writeln!(out, "exactly-once costs {:.1} % ({})", cost * 100.0, off.replace(", exactly-once off", ""))?;
    }
    details(contestants, rounds, out)
}

/// What the job says about its own state (`state` of the --json line), from the last round.
fn details(contestants: &[Contestant], rounds: &[Vec<Measured>], out: &mut impl Write) -> fmt::Result {
    let Some(last) = rounds.last() else { return Ok(()) };
    for (contestant, measured) in contestants.iter().zip(last) {
        if let Some(state) = measured.line["state"].as_object() {
            let numbers: Vec<String> = state.iter().map(|(name, value)| format!("{name} {value}")).collect();
            writeln!(out, "{}: {}", contestant.name, numbers.join(", "))?;
        }
    }
    Ok(())
}

fn events_of(measured: &Measured) -> f64 {
    measured.line["events_read"].as_f64().unwrap_or(f64::NAN)
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_median_ignores_one_wild_round() {
        assert_eq!(median(vec![3.0, 900.0, 1.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let measured =
            |seconds: f64| Measured { seconds, line: json!({"events_read": 1_000_000}), ..Measured::default() };
        let contestant = |name: &str| Contestant { name: name.into(), options: vec![], is_loop: false };
        let contestants = [contestant("loop"), contestant("a, exactly-once on"), contestant("a, exactly-once off")];
        // The second round ran on a machine half as fast: ratios do not move.
        let rounds = [[2.0, 1.0, 0.8], [4.0, 2.0, 1.6]].map(|round| round.map(measured).to_vec());
        let mut text = String::new();
        write(&contestants, &rounds, &mut text).unwrap();
        assert!(text.contains("| a, exactly-once on | 750 | 2.00 |"), "{text}");
        assert!(text.contains("exactly-once costs 25.0 % (a)"), "{text}");
    }
}
