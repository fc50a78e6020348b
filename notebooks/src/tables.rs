//! Tables: shown in notebooks as HTML, written as CSV for programs and Markdown for people.

use crate::paper::{Paper, choices as choices_with};
use branchynet::exits::{BatchTime, Latency, OperatingPoint, Timing};
use branchynet::files::{project_dir, write_atomically};
use branchynet::runs::{Choice, Results, Seeds, Settings, Spread};
use branchynet::text::{markdown, short};
use branchynet::{Error, Network, Result};
use polars::prelude::{AnyValue, Column, DataFrame};

/// The cells of a table as text: numbers with at most six significant digits, missing values as a
/// dash.
pub(crate) fn cells(table: &DataFrame) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let names = table.get_column_names().iter().map(|name| name.to_string()).collect();
    let cell = |value: AnyValue| match value {
        AnyValue::Null => "–".to_string(),
        AnyValue::Float64(x) => short(x),
        AnyValue::Float32(x) => short(f64::from(x)),
        AnyValue::String(text) => text.to_string(),
        AnyValue::StringOwned(text) => text.to_string(),
        other => other.to_string(),
    };
    let rows = (0..table.height())
        .map(|row| {
            table
                .columns()
                .iter()
                .map(|column| Ok(cell(column.get(row).map_err(Error::other)?)))
                .collect::<Result<Vec<String>>>()
        })
        .collect::<Result<_>>()?;
    Ok((names, rows))
}

/// A cell of comma-separated values.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

/// Comma-separated values (RFC 4180): numbers in full, missing values empty.
fn csv(table: &DataFrame) -> Result<String> {
    let cell = |value: AnyValue| match value {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => quoted(text),
        AnyValue::Float64(x) => x.to_string(),
        other => quoted(&other.to_string()),
    };
    let names: Vec<String> = table.get_column_names().iter().map(|name| quoted(name)).collect();
    let mut lines = vec![names.join(",")];
    for row in 0..table.height() {
        let cells = table.columns().iter().map(|column| Ok(cell(column.get(row).map_err(Error::other)?)));
        lines.push(cells.collect::<Result<Vec<String>>>()?.join(","));
    }
    Ok(lines.join("\n") + "\n")
}

pub(crate) fn html(names: &[String], rows: &[Vec<String>]) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let row = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let body: String = rows.iter().map(|cells| row("td", cells)).collect();
    format!("<table><thead>{}</thead><tbody>{body}</tbody></table>", row("th", names))
}

/// A table as Markdown.
fn markdown_of(frame: &DataFrame) -> Result<String> {
    let (names, rows) = cells(frame)?;
    Ok(markdown(&names, &rows))
}

/// Writes a table to `figures/<name>.csv` and `figures/<name>.md`.
pub(crate) fn write(table: &DataFrame, name: &str) -> Result<()> {
    for (extension, text) in [("csv", csv(table)?), ("md", markdown_of(table)?)] {
        let path = project_dir().join("figures").join(format!("{name}.{extension}"));
        write_atomically(&path, text.as_bytes())?;
    }
    Ok(())
}

/// A cell of a table: a single run has no spread, which is NaN there.
pub(crate) fn known(x: f64) -> Option<f64> {
    Some(x).filter(|x| !x.is_nan())
}

/// A table of accuracies (0..=1), of the baselines and of each exit if all images left there. The
/// baselines' on Validation are those after their last epoch.
pub fn accuracies(results: &Results) -> Result<DataFrame> {
    let (mut names, mut validation, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for (name, baseline) in results.baselines() {
        names.push(name);
        validation.push(baseline.validation_accuracy());
        test.push(baseline.accuracy());
    }
    names.extend((1..=results.test.exits()).map(|exit| format!("exit {exit}")));
    validation.extend(results.validation.exit_accuracy());
    test.extend(results.test.exit_accuracy());
    df!("network" => names, "validation accuracy" => validation, "test accuracy" => test)
}

/// A table of what it costs to leave at each exit of `network`, and of `baseline`: MACs, and
/// milliseconds end to end and trunk only.
pub fn timing(timing: &Timing, network: &Network, baseline: &Network) -> Result<DataFrame> {
    let exits = (1..=network.exits()).map(|exit| format!("exit {exit}"));
    let macs = network.costs().into_iter().chain(baseline.costs().pop()).map(|cost| cost.macs as u64);
    // The baseline has no branch that the paper's timer could have left out.
    let of = |of: &[Latency], part: fn(&Latency) -> f64| -> Vec<f64> {
        of.iter().chain([&timing.baseline]).map(part).collect()
    };
    df!(
        "leaves at" => exits.chain(["baseline".to_string()]).collect::<Vec<_>>(),
        "MACs" => macs.collect::<Vec<_>>(),
        "median, ms" => of(&timing.exits, |latency| latency.median),
        "95th percentile, ms" => of(&timing.exits, |latency| latency.p95),
        "trunk only (the paper's timer), median, ms" => of(&timing.trunk_only, |latency| latency.median),
    )
}

/// A table of choices: thresholds, accuracy and shares (0..=1) on the test images, mean cost.
pub fn choices(choices: &[Choice]) -> Result<DataFrame> {
    let tests = || choices.iter().map(|choice| &choice.test);
    let mut frame = df!("choice" => choices.iter().map(Choice::label).collect::<Vec<_>>())?;
    let shared = |o: &OperatingPoint| Shared {
        thresholds: o.thresholds.clone(),
        accuracy: Some(o.accuracy()),
        shares: o.shares(),
    };
    for column in columns(tests().map(shared).collect()) {
        frame.with_column(column).map_err(Error::other)?;
    }
    let costs: Vec<f64> = tests().map(|outcome| outcome.cost).collect();
    frame.with_column(Column::new("mean cost".into(), costs)).map_err(Error::other)?;
    Ok(frame)
}

/// What the rows of tables of choices share.
pub(crate) struct Shared {
    pub thresholds: Vec<f64>,
    pub accuracy: Option<f64>,
    pub shares: Vec<f64>,
}

/// The columns of what rows share: `T1`, …, `accuracy`, `leave at exit 1`, …. What a row lacks is missing.
pub(crate) fn columns(rows: Vec<Shared>) -> Vec<Column> {
    let exits = rows.iter().map(|row| row.shares.len()).max().unwrap_or(0);
    let column = |name: String, of: &dyn Fn(&Shared) -> Option<f64>| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>())
    };
    let threshold = |exit| column(format!("T{exit}"), &|row| row.thresholds.get(exit - 1).copied());
    let share = |exit| column(format!("leave at exit {exit}"), &|row| row.shares.get(exit - 1).copied());
    let accuracy = column("accuracy".to_string(), &|row| row.accuracy);
    (1..exits).map(threshold).chain([accuracy]).chain((1..=exits).map(share)).collect()
}

/// A table of times by size of batch.
pub fn batches(times: &[BatchTime]) -> Result<DataFrame> {
    let column = |of: fn(&BatchTime) -> f64| times.iter().map(of).collect::<Vec<_>>();
    df!(
        "batch" => times.iter().map(|t| t.batch as u64).collect::<Vec<_>>(),
        "threads" => times.iter().map(|t| t.threads as u64).collect::<Vec<_>>(),
        "baseline, ms per image" => column(|t| t.baseline),
        "early exit, ms per image" => column(|t| t.early_exit),
        "gain" => column(BatchTime::speedup),
    )
}

/// A table of what several seeds have in common ([`Seeds::quantities`]), given what it costs to leave at each exit and
/// what the baseline costs.
pub fn seeds(seeds: &Seeds, costs: &[f64], baseline: f64, paper: Option<&Paper>) -> Result<DataFrame> {
    let rows = seeds.quantities(baseline, |results| choices_with(results, costs, paper))?;
    let column = |of: fn(&Spread) -> f64| -> Vec<Option<f64>> {
        rows.iter().map(|row| known(of(&row.value))).collect()
    };
    let network = seeds.results()[0].settings.network.as_str();
    df!(
        "network" => vec![network; rows.len()],
        "of" => rows.iter().map(|row| row.of.clone()).collect::<Vec<_>>(),
        "on test" => rows.iter().map(|row| row.name).collect::<Vec<_>>(),
        "runs" => rows.iter().map(|row| row.value.runs as u64).collect::<Vec<_>>(),
        "mean" => column(|s| s.mean),
        "standard deviation" => column(|s| s.deviation),
        "95 % from" => column(|s| s.mean - s.half_width),
        "95 % to" => column(|s| s.mean + s.half_width),
    )
}

/// A table of all settings but the layers, and of what else should stand beneath them: name, value.
pub fn settings(settings: &Settings, more: &[(&str, &str)]) -> Result<DataFrame> {
    let mut rows = settings.rows()?;
    rows.extend(more.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    let (names, values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    df!("setting" => names, "value" => values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_written_whole_and_escaped() -> Result<()> {
        let frame = df!(
            "name, unit" => ["a|b", "say \"x\"", "<c>"],
            "value" => [Some(0.123456789), None, Some(1234567.0)],
        )?;
        let (names, rows) = cells(&frame)?;
        assert_eq!(csv(&frame)?, "\"name, unit\",value\na|b,0.123456789\n\"say \"\"x\"\"\",\n<c>,1234567\n");
        assert_eq!(
            markdown(&names, &rows),
            "| name, unit | value |\n|---|---|\n| a\\|b | 0.123457 |\n| say \"x\" | – |\n| <c> | 1234567 |\n"
        );
        assert!(html(&names, &rows).contains("<td>&lt;c&gt;</td><td>1234567</td>"));
        Ok(())
    }
}
