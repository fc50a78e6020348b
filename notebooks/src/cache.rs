//! Notebook 7: cache misses per sample (paper, figure 6), by the processor's own counters where the system grants them,
//! else simulated by valgrind. Both count a whole process, so each workload runs twice, with few images and
//! with many; the difference is what the images take.

use crate::figures::style::{self, axis, colour, dot, framed, line, log_axis, measured, points, stroke};
use crate::paper::Paper;
use branchynet::exits::OperatingPoint;
use branchynet::files::project_dir;
use branchynet::networks::WorkingSet;
use branchynet::{Error, ErrorKind, Result};
use branchynet_runs::Session;
use plotly::common::{DashType, Marker, MarkerSymbol};
use plotly::layout::{AxisType, BarMode};
use plotly::{Bar, Plot};
use polars::prelude::DataFrame;
use rayon::prelude::*;
use std::path::Path;
use std::process::Command;

/// Cache misses of one sample, on the average: of the first-level data cache, and of the cache behind it (of the last level
/// by counters, of the second level in the simulation).
pub type Misses = [f64; 2];

/// Cache misses of a network with early exits and of its baseline.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CacheMisses {
    /// What counted: `counters of the processor`, or valgrind and the sizes that it simulated.
    pub counted_by: String,
    /// The baseline's.
    pub baseline: Misses,
    /// Of samples that leave at each exit.
    pub exits: Vec<Misses>,
}

/// A cache of this machine: `L2`, and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cache {
    /// `L1`, `L2`, `L3`.
    pub name: String,
    /// Its size.
    pub bytes: usize,
    ways: usize,
    line: usize,
}

/// The data caches that the first core uses, from the first level on; none where the system is not Linux.
pub fn caches() -> Vec<Cache> {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let cache = |index: usize| {
        let read = |name: &str| {
            let text = std::fs::read_to_string(folder.join(format!("index{index}/{name}"))).ok()?;
            Some(text.trim().to_string())
        };
        let size = read("size")?;
        let kibibytes: usize = size.strip_suffix('K')?.parse().ok()?;
        Some(Cache {
            name: format!("L{}", read("level")?),
            bytes: kibibytes * 1024,
            ways: read("ways_of_associativity")?.parse().ok()?,
            line: read("coherency_line_size")?.parse().ok()?,
        })
        .filter(|_| read("type").is_some_and(|kind| kind != "Instruction"))
    };
    (0..8).filter_map(cache).collect()
}

fn missing(message: String) -> Error {
    Error::new(ErrorKind::Missing, message)
}

/// A tool that counts the misses of a whole process.
struct Counter {
    /// For subtitles.
    name: String,
    tool: &'static str,
    arguments: Vec<String>,
    /// Reads what the tool prints.
    read: fn(&str) -> Option<Misses>,
    /// Few images and many.
    images: (usize, usize),
}

impl Counter {
    /// The processor's own counters, where the system grants them, else the simulation.
    fn available() -> Result<Self> {
        let found = [Self::perf(), Self::valgrind()].into_iter().find(|tool| tool.count(&["true"]).is_some());
        found.ok_or_else(|| {
            missing("cache misses cannot be counted: the system grants no counters of the processor to perf, and valgrind is not here (Debian: apt install valgrind)".to_string())
        })
    }

    fn perf() -> Self {
        let arguments = ["stat", "-x", ",", "-e", "L1-dcache-load-misses:u,cache-misses:u"];
        Self {
            name: "counters of the processor, first and last level".to_string(),
            tool: "perf",
            arguments: arguments.map(str::to_string).to_vec(),
            read: perf_counts,
            images: (200, 1200),
        }
    }

    /// A thousand times slower than the processor.
    fn valgrind() -> Self {
        let caches: Vec<Cache> = caches().into_iter().take(2).collect();
        let sizes = caches.iter().map(|cache| format!("{} of {} KiB", cache.name, cache.bytes / 1024));
        let flags = ["D1", "LL"].iter().zip(&caches);
        let flags = flags.map(|(flag, of)| format!("--{flag}={},{},{}", of.bytes, of.ways, of.line));
        let tool = ["--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null"];
        let name = ["simulated by valgrind".to_string(), sizes.collect::<Vec<_>>().join(", ")];
        Self {
            name: name[..if caches.is_empty() { 1 } else { 2 }].join(": "),
            tool: "valgrind",
            arguments: tool.map(str::to_string).into_iter().chain(flags).collect(),
            read: cachegrind_counts,
            images: (3, 9),
        }
    }

    fn count(&self, program: &[&str]) -> Option<Misses> {
        (self.read)(&counted(self.tool, &self.arguments, program)?)
    }
}

/// What a counting tool writes to standard error about a program; `None` where the tool is missing or fails.
fn counted(tool: &str, arguments: &[String], program: &[&str]) -> Option<String> {
    // Where the program's dynamic library is, and the standard library, which it needs as cargo would start it.
    let asked = Command::new("rustc").args(["--print", "target-libdir"]).output();
    let folder = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    let libraries =
        format!("{}:{}", project_dir().join("target/counting").display(), folder.unwrap_or_default());
    let mut command = Command::new(tool);
    command.args(arguments).args(program).env("LD_LIBRARY_PATH", libraries);
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The first two counts of `perf stat -x,`, which has a line for each event: value, unit, event, ….
fn perf_counts(text: &str) -> Option<Misses> {
    let mut values = text.lines().filter_map(|line| line.split(',').next()?.parse().ok());
    Some([values.next()?, values.next()?])
}

/// The data misses that cachegrind prints: `D1  misses:  1,234  (…`, `LLd misses: …`.
fn cachegrind_counts(text: &str) -> Option<Misses> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.split_once(name))?.1;
        line.split_whitespace().next()?.replace(',', "").parse().ok()
    };
    Some([value("D1  misses:")?, value("LLd misses:")?])
}

/// Where `make` puts a copy of the program. `perf` and valgrind count in it.
const PROGRAM: &str = "target/counting/branchynet";

/// Counts the cache misses of samples that leave at each exit, and of the baseline. It takes about a
/// minute where valgrind simulates. Fails where nothing can count.
pub fn cache_misses(session: &Session) -> Result<CacheMisses> {
    let (counter, program) = (Counter::available()?, project_dir().join(PROGRAM));
    if !program.exists() {
        return Err(missing(format!("there is no {PROGRAM} to count in; `make counting` builds it")));
    }
    let exits = session.networks()?.1.exits();
    let program = program.display().to_string();
    let run = |images: usize, leave: Option<usize>| {
        let shares = (0..exits).map(|exit| if Some(exit) == leave { "1" } else { "0" });
        let flag = format!("--shares={}", shares.collect::<Vec<_>>().join(","));
        let count = images.to_string();
        let mut command = vec![program.as_str(), "stream", &session.name, "--count", &count];
        command.extend(leave.map(|_| flag.as_str()));
        let failed = || missing(format!("counting failed for `{}`", command.join(" ")));
        counter.count(&command).ok_or_else(failed)
    };
    let (few, many) = counter.images;
    let of_sample = |leave: Option<usize>| -> Result<Misses> {
        let (less, more) = (run(few, leave)?, run(many, leave)?);
        Ok(std::array::from_fn(|level| (more[level] - less[level]) / (many - few) as f64))
    };
    let workloads: Vec<Option<usize>> = (0..exits).map(Some).chain([None]).collect();
    let mut all: Vec<Misses> = match counter.tool {
        // Side by side they would share a cache.
        "perf" => workloads.into_iter().map(of_sample).collect::<Result<_>>()?,
        _ => workloads.into_par_iter().map(of_sample).collect::<Result<_>>()?,
    };
    let baseline = all.pop().unwrap_or_default();
    Ok(CacheMisses { counted_by: counter.name, baseline, exits: all })
}

impl CacheMisses {
    /// What a sample takes on the average where these shares (0..=1) leave at each exit.
    pub fn mean(&self, shares: &[f64]) -> Misses {
        let of_level =
            |level: usize| shares.iter().zip(&self.exits).map(|(share, of)| share * of[level]).sum();
        std::array::from_fn(of_level)
    }

    /// A table of misses per sample, by where a sample leaves.
    pub fn table(&self) -> Result<DataFrame> {
        let exits = self.exits.iter().enumerate().map(|(i, of)| (format!("exit {}", i + 1), of));
        let rows: Vec<_> = exits.chain([("baseline".to_string(), &self.baseline)]).collect();
        rows!(rows, (name, misses) =>
            "leaves at" => name.clone(),
            "misses of the first level" => misses[0],
            "misses of the second or last" => misses[1],
        )
    }
}

const LEVELS: [(&str, MarkerSymbol); 2] =
    [("first level", MarkerSymbol::Circle), ("second or last level", MarkerSymbol::Square)];

/// Misses per sample against the threshold T, the same at every exit, of outcomes in ascending order of T;
/// dotted lines are the baseline's.
pub fn misses_by_threshold(misses: &CacheMisses, outcomes: &[OperatingPoint]) -> Plot {
    let label = |outcome: &OperatingPoint| match outcome.thresholds[0] {
        t if t.is_infinite() => "∞".to_string(),
        t => t.to_string(),
    };
    let names: Vec<String> = outcomes.iter().map(label).collect();
    let (mut plot, mut drawn) = (Plot::new(), Vec::new());
    for (i, (level, symbol)) in LEVELS.into_iter().enumerate() {
        let mean = |outcome: &OperatingPoint| misses.mean(&outcome.shares())[i].max(1.0);
        let y: Vec<f64> = outcomes.iter().map(mean).collect();
        let baseline = vec![misses.baseline[i].max(1.0); names.len()];
        drawn.extend(y.iter().chain(&baseline).copied());
        plot.add_trace(measured(&format!("{level}, early exit"), names.clone(), y, colour(i), symbol));
        let dotted = stroke(colour(i), 2.0).dash(DashType::Dot);
        plot.add_trace(line(&format!("{level}, baseline"), names.clone(), baseline, dotted));
    }
    let x_axis = axis("threshold T, the same at every exit").type_(AxisType::Category);
    plot.set_layout(framed(x_axis, log_axis("misses per sample (logarithmic)", drawn.into_iter())));
    plot
}

/// Misses per sample against time per sample, both relative to the baseline's (paper, figure 6). The costs
/// of the outcomes are milliseconds, as is `baseline`.
pub fn misses_against_time(
    misses: &CacheMisses,
    outcomes: &[OperatingPoint],
    baseline: f64,
    paper: Option<&Paper>,
) -> Plot {
    let mut plot = Plot::new();
    if let Some(paper) = paper.filter(|paper| !paper.misses_by_time.is_empty()) {
        let (x, y) = paper.misses_by_time.iter().copied().unzip();
        plot.add_trace(style::paper::<f64, f64>("paper (miss rate, read off its figure)", x, y));
    }
    for (i, (level, symbol)) in LEVELS.into_iter().enumerate() {
        let ratio = |outcome: &OperatingPoint| misses.mean(&outcome.shares())[i] / misses.baseline[i];
        let (x, y) = outcomes.iter().map(|outcome| (outcome.cost / baseline, ratio(outcome))).unzip();
        plot.add_trace(measured::<f64, f64>(level, x, y, colour(i), symbol));
    }
    let mark = dot("#000000", 12, MarkerSymbol::Diamond);
    plot.add_trace(points("baseline", vec![1.0], vec![1.0], mark));
    let x_axis = axis("time per sample relative to the baseline");
    plot.set_layout(framed(x_axis, axis("misses relative to the baseline")));
    plot
}

/// What each part of a network works on, beside the sizes of the caches.
pub fn working_sets(sets: &[WorkingSet], caches: &[Cache]) -> Plot {
    let names: Vec<String> = sets.iter().map(|set| set.name.clone()).collect();
    let kibibytes = |bytes: usize| bytes as f64 / 1024.0;
    let (mut plot, mut drawn) = (Plot::new(), Vec::new());
    type Part = fn(&WorkingSet) -> usize;
    let parts: [(&str, Part); 2] =
        [("weights", |set| set.weights), ("largest input and output of a layer", |set| set.activations)];
    for (i, (name, part)) in parts.into_iter().enumerate() {
        let sizes: Vec<f64> = sets.iter().map(|set| kibibytes(part(set))).collect();
        drawn.extend_from_slice(&sizes);
        plot.add_trace(Bar::new(names.clone(), sizes).name(name).marker(Marker::new().color(colour(i))));
    }
    for (cache, dash) in caches.iter().zip([DashType::Dot, DashType::Dash, DashType::DashDot]) {
        let size = kibibytes(cache.bytes);
        drawn.push(size);
        let name = format!("{} of this core: {size} KiB", cache.name);
        plot.add_trace(line(
            &name,
            names.clone(),
            vec![size; names.len()],
            stroke("#000000", 1.5).dash(dash),
        ));
    }
    let layout = framed(axis(""), log_axis("KiB (logarithmic)", drawn.into_iter()));
    plot.set_layout(layout.bar_mode(BarMode::Group));
    plot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_print_is_read() {
        let text = "==1== D   refs:  279,507,683  (234,538,263 rd + 44,969,420 wr)\n==1== D1  misses:     26,974,661  ( 25,651,149 rd   +    1,323,512 wr)\n==1== LLd misses:      2,131,903  (  1,316,024 rd   +      815,879 wr)\n";
        assert_eq!(cachegrind_counts(text), Some([26_974_661.0, 2_131_903.0]));
        let text = "1234,,L1-dcache-load-misses:u,1000,100.00,,\n56,,cache-misses:u,1000,100.00,,\n";
        assert_eq!(perf_counts(text), Some([1234.0, 56.0]));
        let text = "<not supported>,,L1-dcache-load-misses:u,0,100.00,,\n<not supported>,,cache-misses:u,0,100.00,,\n";
        assert_eq!(perf_counts(text), None);
    }
}
