//! Tables: shown in notebooks as HTML, written as CSV for programs and Markdown for people.

use crate::timed_choices::TimedChoices;
use branchynet::exits::{BatchTime, Timing};
use branchynet::files::commit;
use branchynet::{Error, Network, Result};
use branchynet_runs::text::short;
use branchynet_runs::{Choice, Quantity, Results, Seeds, Spread};
use polars::prelude::{AnyValue, Column, DataFrame};

/// The names of a table's columns.
pub(crate) fn names(table: &DataFrame) -> Vec<String> {
    table.get_column_names().iter().map(ToString::to_string).collect()
}

/// The cells of a table as text, row by row: numbers as `number` has them, thresholds in full, what is missing as
/// `missing`.
fn cells(table: &DataFrame, missing: &str, number: fn(f64) -> String) -> Result<Vec<Vec<String>>> {
    let cell = |column: &Column, row| -> Result<String> {
        let number = if Choice::has_thresholds(column.name()) { |x: f64| x.to_string() } else { number };
        Ok(match column.get(row).map_err(Error::other)? {
            AnyValue::Null => missing.to_string(),
            AnyValue::Float64(x) => number(x),
            AnyValue::Float32(x) => number(f64::from(x)),
            other => other.get_str().map_or_else(|| other.to_string(), str::to_string),
        })
    };
    let row = |row| table.columns().iter().map(|column| cell(column, row)).collect();
    (0..table.height()).map(row).collect()
}

/// The cells of a table for people: numbers with at most six significant digits, a dash for what is missing.
pub(crate) fn shown(table: &DataFrame) -> Result<Vec<Vec<String>>> {
    cells(table, "–", short)
}

/// Comma-separated values (RFC 4180): numbers in full, missing values empty.
pub(crate) fn csv(table: &DataFrame) -> Result<String> {
    let quoted = |text: &String| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.clone(),
    };
    let mut lines = cells(table, "", |x| x.to_string())?;
    lines.insert(0, names(table));
    Ok(lines.iter().map(|line| line.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n").collect())
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

/// A cell of a table: a single run has no spread, which is NaN there.
pub(crate) fn known(x: f64) -> Option<f64> {
    Some(x).filter(|x| !x.is_nan())
}

/// Adds columns of numbers to a table.
pub(crate) fn add(
    table: &mut DataFrame,
    columns: impl IntoIterator<Item = (String, Vec<Option<f64>>)>,
) -> Result<()> {
    for (name, values) in columns {
        table.with_column(Column::new(name.into(), values)).map_err(Error::other)?;
    }
    Ok(())
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
    let exits = (0..network.exits()).map(|exit| {
        let macs = network.costs()[exit].macs;
        (format!("exit {}", exit + 1), macs, timing.exits[exit], timing.trunk_only[exit])
    });
    // The baseline has no branch that the paper's timer could have left out.
    let last = baseline.costs().pop().map_or(0, |cost| cost.macs);
    let rows = exits.chain([("baseline".to_string(), last, timing.baseline, timing.baseline)]);
    let rows: Vec<_> = rows.collect();
    rows!(rows, (name, macs, end_to_end, trunk_only) =>
        "leaves at" => name.clone(),
        "MACs" => *macs as u64,
        "median, ms" => end_to_end.median,
        "95th percentile, ms" => end_to_end.p95,
        "trunk only (the paper's timer), median, ms" => trunk_only.median,
    )
}

/// A table of choices: thresholds, accuracy and shares (0..=1) on the test images, mean cost.
pub fn choices(choices: &[Choice]) -> Result<DataFrame> {
    let mut frame = rows!(choices, choice => "choice" => choice.label())?;
    add(&mut frame, Choice::columns(&choices.iter().collect::<Vec<_>>()))?;
    add(&mut frame, [("mean cost".to_string(), choices.iter().map(|choice| Some(choice.cost)).collect())])?;
    Ok(frame)
}

/// A table of times by size of batch.
pub fn batches(times: &[BatchTime]) -> Result<DataFrame> {
    rows!(times, time =>
        "batch" => time.batch as u64,
        "threads" => time.threads as u64,
        "baseline, ms per image" => time.baseline,
        "early exit, ms per image" => time.early_exit,
        "gain" => time.speedup(),
    )
}

/// A table of what several seeds have in common ([`Seeds::on_test`]). A gain is the baseline's mean time over that of the
/// run's own mix of exits, the number that Table I has.
pub fn seeds(seeds: &Seeds, timed: &TimedChoices) -> Result<DataFrame> {
    let gains = |results: &Results| {
        Ok(timed.of(results)?.iter().map(|(choice, mix)| (choice.clone(), mix.speedup())).collect())
    };
    let network = &seeds.runs()[0].run.settings.network;
    let spread = |quantity: Quantity| (quantity.spread(), quantity);
    let rows: Vec<(Spread, Quantity)> = seeds.on_test(gains)?.into_iter().map(spread).collect();
    rows!(rows, (spread, quantity) =>
        "network" => network.clone(),
        "of" => quantity.of.clone(),
        "on test" => quantity.name.clone(),
        "runs" => spread.runs as u64,
        "mean" => known(spread.mean),
        "standard deviation" => known(spread.deviation),
        "95 % from" => known(spread.mean - spread.half_width),
        "95 % to" => known(spread.mean + spread.half_width),
    )
}

/// A table of all settings of a run but the layers, of its data, and of what `images` times were taken on: name, value.
pub fn settings(results: &Results, images: &str) -> Result<DataFrame> {
    let more = [("data set", &*results.run.data), ("timed on", images), ("commit of the timing", &commit())]
        .map(|(name, value)| (name.to_string(), value.to_string()));
    let mut rows = results.run.settings.rows()?;
    rows.extend(more);
    rows!(rows, (name, value) => "setting" => name.clone(), "value" => value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use branchynet_runs::text::markdown;

    #[test]
    fn tables_are_written_whole_and_escaped() -> Result<()> {
        let frame = df!(
            "name, unit" => ["a|b", "say \"x\"", "<c>"],
            "value" => [Some(0.123456789), None, Some(1234567.0)],
        )?;
        let (names, rows) = (names(&frame), shown(&frame)?);
        assert_eq!(csv(&frame)?, "\"name, unit\",value\na|b,0.123456789\n\"say \"\"x\"\"\",\n<c>,1234567\n");
        assert_eq!(
            markdown(&names, &rows),
            "| name, unit | value |\n|---|---|\n| a\\|b | 0.123457 |\n| say \"x\" | – |\n| <c> | 1234567 |\n"
        );
        assert!(html(&names, &rows).contains("<td>&lt;c&gt;</td><td>1234567</td>"));
        Ok(())
    }
}
