//! Notebook 7: cache misses per sample (paper, figure 6), by the processor's own counters where the system grants them,
//! else simulated by valgrind. Both count a whole process, so each workload runs twice, with few images and
//! with many; the difference is what the images take.

use crate::figures::style::{self, axis, colour, layout, legend, log_axis};
use crate::paper::Paper;
use branchynet::exits::OperatingPoint;
use branchynet::files::project_dir;
use branchynet::networks::WorkingSet;
use branchynet::runs::Session;
use branchynet::{Error, ErrorKind, Result};
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::BarMode;
use plotly::{Bar, Plot, Scatter};
use polars::prelude::DataFrame;
use rayon::prelude::*;
use std::path::Path;
use std::process::Command;

/// What one sample takes, on the average.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Misses {
    /// Misses of the first-level data cache.
    pub first: f64,
    /// Misses of the cache behind it: of the last level by counters, of the second level in the simulation.
    pub second: f64,
}

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

/// What counts.
enum Counter {
    Perf,
    Valgrind(Vec<Cache>),
}

/// Misses of the first level, then of the second or last.
const EVENTS: &str = "L1-dcache-load-misses:u,cache-misses:u";

impl Counter {
    fn available() -> Result<Self> {
        if counted("perf", &perf(EVENTS), &["true"]).is_some_and(|text| perf_counts(&text).is_some()) {
            return Ok(Self::Perf);
        }
        if counted("valgrind", &["--version".to_string()], &[]).is_some() {
            return Ok(Self::Valgrind(caches().into_iter().take(2).collect()));
        }
        Err(missing("cache misses cannot be counted: the system grants no counters of the processor to perf, and valgrind is not here (Debian: apt install valgrind)".to_string()))
    }

    /// Misses of a whole process.
    fn count(&self, program: &[&str]) -> Option<Misses> {
        match self {
            Self::Perf => perf_counts(&counted("perf", &perf(EVENTS), program)?),
            Self::Valgrind(caches) => {
                let mut arguments: Vec<String> =
                    ["--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null"]
                        .map(str::to_string)
                        .to_vec();
                for (flag, cache) in ["D1", "LL"].iter().zip(caches) {
                    arguments.push(format!("--{flag}={},{},{}", cache.bytes, cache.ways, cache.line));
                }
                cachegrind_counts(&counted("valgrind", &arguments, program)?)
            }
        }
    }

    /// Few images and many. The simulation is a thousand times slower than the processor.
    fn images(&self) -> (usize, usize) {
        match self {
            Self::Perf => (200, 1200),
            Self::Valgrind(_) => (3, 9),
        }
    }

    fn name(&self) -> String {
        let size = |cache: &Cache| format!("{} of {} KiB", cache.name, cache.bytes / 1024);
        match self {
            Self::Perf => "counters of the processor, first and last level".to_string(),
            Self::Valgrind(caches) if caches.is_empty() => "simulated by valgrind".to_string(),
            Self::Valgrind(caches) => {
                let sizes: Vec<String> = caches.iter().map(size).collect();
                format!("simulated by valgrind: {}", sizes.join(", "))
            }
        }
    }
}

fn perf(events: &str) -> Vec<String> {
    ["stat", "-x", ",", "-e", events].map(str::to_string).to_vec()
}

/// What a counting tool writes to standard error about a program; `None` where the tool is missing or fails.
fn counted(tool: &str, arguments: &[String], program: &[&str]) -> Option<String> {
    let output = Command::new(tool)
        .args(arguments)
        .args(program)
        .env("LD_LIBRARY_PATH", library_path())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Where the program's dynamic library is, and the standard library, which it needs as cargo would start it.
fn library_path() -> String {
    let asked = Command::new("rustc").args(["--print", "target-libdir"]).output();
    let folder = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    format!("{}:{}", project_dir().join("target/counting").display(), folder.unwrap_or_default())
}

/// The first two counts of `perf stat -x,`, which has a line for each event: value, unit, event, ….
fn perf_counts(text: &str) -> Option<Misses> {
    let mut values = text.lines().filter_map(|line| line.split(',').next()?.parse().ok());
    Some(Misses { first: values.next()?, second: values.next()? })
}

/// The data misses that cachegrind prints: `D1  misses:  1,234  (…`, `LLd misses: …`.
fn cachegrind_counts(text: &str) -> Option<Misses> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.split_once(name))?.1;
        line.split_whitespace().next()?.replace(',', "").parse().ok()
    };
    Some(Misses { first: value("D1  misses:")?, second: value("LLd misses:")? })
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
    let flag = |at: usize| {
        let shares = (0..exits).map(|exit| if exit == at { "1" } else { "0" });
        format!("--shares={}", shares.collect::<Vec<_>>().join(","))
    };
    let program = program.display().to_string();
    let run = |images: usize, flag: &Option<String>| {
        let count = images.to_string();
        let mut command = vec![program.as_str(), "stream", &session.name, "--count", &count];
        command.extend(flag.as_deref());
        let failed = || missing(format!("counting failed for `{}`", command.join(" ")));
        counter.count(&command).ok_or_else(failed)
    };
    let workloads: Vec<Option<String>> =
        std::iter::once(None).chain((0..exits).map(|exit| Some(flag(exit)))).collect();
    let (few, many) = counter.images();
    let of_workload = |flag: &Option<String>| {
        let (less, more) = (run(few, flag)?, run(many, flag)?);
        let each = |more: f64, less: f64| (more - less) / (many - few) as f64;
        Ok(Misses { first: each(more.first, less.first), second: each(more.second, less.second) })
    };
    let mut all: Vec<Misses> = match counter {
        // Side by side they would share a cache.
        Counter::Perf => workloads.iter().map(of_workload).collect::<Result<_>>()?,
        Counter::Valgrind(_) => workloads.par_iter().map(of_workload).collect::<Result<_>>()?,
    };
    let baseline = all.remove(0);
    Ok(CacheMisses { counted_by: counter.name(), baseline, exits: all })
}

impl CacheMisses {
    /// What a sample takes on the average where these shares (0..=1) leave at each exit.
    pub fn mean(&self, shares: &[f64]) -> Misses {
        let mean = |of: fn(&Misses) -> f64| shares.iter().zip(&self.exits).map(|(s, m)| s * of(m)).sum();
        Misses { first: mean(|m| m.first), second: mean(|m| m.second) }
    }

    /// A table of misses per sample, by where a sample leaves.
    pub fn table(&self) -> Result<DataFrame> {
        let exits = (1..=self.exits.len()).map(|exit| format!("exit {exit}"));
        let all = || self.exits.iter().chain([&self.baseline]);
        df!(
            "leaves at" => exits.chain(["baseline".to_string()]).collect::<Vec<_>>(),
            "misses of the first level" => all().map(|m| m.first).collect::<Vec<_>>(),
            "misses of the second or last" => all().map(|m| m.second).collect::<Vec<_>>(),
        )
    }
}

type Level = (&'static str, fn(&Misses) -> f64, MarkerSymbol);
const LEVELS: [Level; 2] = [
    ("first level", |misses| misses.first, MarkerSymbol::Circle),
    ("second or last level", |misses| misses.second, MarkerSymbol::Square),
];

/// Misses per sample against the threshold T, the same at every exit, of outcomes in ascending order of T;
/// dotted lines are the baseline's.
pub fn misses_by_threshold(misses: &CacheMisses, outcomes: &[OperatingPoint]) -> Plot {
    let label = |outcome: &OperatingPoint| match outcome.thresholds[0] {
        t if t.is_infinite() => "∞".to_string(),
        t => t.to_string(),
    };
    let names: Vec<String> = outcomes.iter().map(label).collect();
    let mut plot = Plot::new();
    let mut drawn = Vec::new();
    for (i, (level, of, symbol)) in LEVELS.into_iter().enumerate() {
        let mean = |outcome: &OperatingPoint| of(&misses.mean(&outcome.shares())).max(1.0);
        let y: Vec<f64> = outcomes.iter().map(mean).collect();
        let baseline = of(&misses.baseline).max(1.0);
        drawn.extend(y.iter().copied().chain([baseline]));
        plot.add_trace(
            Scatter::new(names.clone(), y)
                .name(format!("{level}, early exit"))
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(9).symbol(symbol))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
        plot.add_trace(
            Scatter::new(names.clone(), vec![baseline; names.len()])
                .name(format!("{level}, baseline"))
                .mode(Mode::Lines)
                .line(Line::new().color(colour(i)).dash(DashType::Dot).width(2.0)),
        );
    }
    plot.set_layout(
        layout()
            .x_axis(axis("threshold T, the same at every exit").type_(plotly::layout::AxisType::Category))
            .y_axis(log_axis("misses per sample (logarithmic)", drawn.into_iter()))
            .legend(legend()),
    );
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
    let times: Vec<f64> = outcomes.iter().map(|outcome| outcome.cost / baseline).collect();
    if let Some(paper) = paper.filter(|paper| !paper.misses_by_time.is_empty()) {
        let (x, y) = paper.misses_by_time.iter().copied().unzip();
        plot.add_trace(style::paper::<f64, f64>("paper (miss rate, read off its figure)", x, y));
    }
    for (i, (level, of, symbol)) in LEVELS.into_iter().enumerate() {
        let ratio = |outcome: &OperatingPoint| of(&misses.mean(&outcome.shares())) / of(&misses.baseline);
        plot.add_trace(
            Scatter::new(times.clone(), outcomes.iter().map(ratio).collect())
                .name(level)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(9).symbol(symbol))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
    }
    plot.add_trace(
        Scatter::new(vec![1.0], vec![1.0])
            .name("baseline")
            .mode(Mode::Markers)
            .marker(Marker::new().color("#000000").size(12).symbol(MarkerSymbol::Diamond)),
    );
    plot.set_layout(
        layout()
            .x_axis(axis("time per sample relative to the baseline"))
            .y_axis(axis("misses relative to the baseline"))
            .legend(legend()),
    );
    plot
}

/// What each part of a network works on, beside the sizes of the caches.
pub fn working_sets(sets: &[WorkingSet], caches: &[Cache]) -> Plot {
    let names: Vec<String> = sets.iter().map(|set| set.name.clone()).collect();
    let kibibytes = |bytes: usize| bytes as f64 / 1024.0;
    let mut plot = Plot::new();
    let weights: Vec<usize> = sets.iter().map(|set| set.weights).collect();
    let activations: Vec<usize> = sets.iter().map(|set| set.activations).collect();
    let parts = [("weights", weights), ("largest input and output of a layer", activations)];
    let mut drawn = Vec::new();
    for (i, (name, sizes)) in parts.into_iter().enumerate() {
        let sizes: Vec<f64> = sizes.into_iter().map(kibibytes).collect();
        drawn.extend_from_slice(&sizes);
        plot.add_trace(Bar::new(names.clone(), sizes).name(name).marker(Marker::new().color(colour(i))));
    }
    for (cache, dash) in caches.iter().zip([DashType::Dot, DashType::Dash, DashType::DashDot]) {
        let size = kibibytes(cache.bytes);
        drawn.push(size);
        plot.add_trace(
            Scatter::new(names.clone(), vec![size; names.len()])
                .name(format!("{} of this core: {size} KiB", cache.name))
                .mode(Mode::Lines)
                .line(Line::new().color("#000000").dash(dash).width(1.5)),
        );
    }
    plot.set_layout(
        layout()
            .bar_mode(BarMode::Group)
            .x_axis(axis(""))
            .y_axis(log_axis("KiB (logarithmic)", drawn.into_iter()))
            .legend(legend()),
    );
    plot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_print_is_read() {
        let text = "==1== D   refs:  279,507,683  (234,538,263 rd + 44,969,420 wr)\n==1== D1  misses:     26,974,661  ( 25,651,149 rd   +    1,323,512 wr)\n==1== LLd misses:      2,131,903  (  1,316,024 rd   +      815,879 wr)\n";
        assert_eq!(cachegrind_counts(text), Some(Misses { first: 26_974_661.0, second: 2_131_903.0 }));
        let text = "1234,,L1-dcache-load-misses:u,1000,100.00,,\n56,,cache-misses:u,1000,100.00,,\n";
        assert_eq!(perf_counts(text), Some(Misses { first: 1234.0, second: 56.0 }));
        let text = "<not supported>,,L1-dcache-load-misses:u,0,100.00,,\n<not supported>,,cache-misses:u,0,100.00,,\n";
        assert_eq!(perf_counts(text), None);
    }
}
