//! Tables: shown in notebooks as HTML, written as CSV for programs and Markdown for people.

use super::notebook::content;
use crate::Result;
use crate::error::bail;
use crate::experiments::{Seeds, paper};
use crate::files::{project_dir, write_atomically};
use polars::prelude::{AnyValue, DataFrame};

/// Shares as text: `62.00, 70.10 %`.
pub fn percent(shares: &[f64]) -> String {
    let all: Vec<String> = shares.iter().map(|a| format!("{:.2}", a * 100.0)).collect();
    format!("{} %", all.join(", "))
}

/// The cells of a table as text: numbers with at most six significant digits, missing values as a
/// dash.
fn cells(table: &DataFrame) -> Result<(Vec<String>, Vec<Vec<String>>)> {
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
            table.columns().iter().map(|column| Ok(cell(column.get(row)?))).collect::<Result<Vec<String>>>()
        })
        .collect::<Result<_>>()?;
    Ok((names, rows))
}

fn short(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let digits = (5 - x.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

fn markdown(names: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(names.len()));
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{rule}{body}", line(names))
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
        let cells = table.columns().iter().map(|column| Ok(cell(column.get(row)?)));
        lines.push(cells.collect::<Result<Vec<String>>>()?.join(","));
    }
    Ok(lines.join("\n") + "\n")
}

fn html(names: &[String], rows: &[Vec<String>]) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let row = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let body: String = rows.iter().map(|cells| row("td", cells)).collect();
    format!("<table><thead>{}</thead><tbody>{body}</tbody></table>", row("th", names))
}

/// The cells of a text that [`csv`] wrote, the heading first.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    rows
}

/// A table as Markdown.
pub(super) fn markdown_of(frame: &DataFrame) -> Result<String> {
    let (names, rows) = cells(frame)?;
    Ok(markdown(&names, &rows))
}

/// Shows a table in a notebook.
pub fn table(table: &DataFrame) -> Result<()> {
    let (names, rows) = cells(table)?;
    content(&[("text/html", &html(&names, &rows)), ("text/plain", &markdown(&names, &rows))]);
    Ok(())
}

/// Writes a table to `figures/<name>.csv` and `figures/<name>.md`.
pub(super) fn write(frame: &DataFrame, name: &str) -> Result<()> {
    write_both(name, &csv(frame)?, &markdown_of(frame)?)
}

fn write_both(name: &str, csv: &str, markdown: &str) -> Result<()> {
    for (extension, text) in [("csv", csv), ("md", markdown)] {
        let path = project_dir().join("figures").join(format!("{name}.{extension}"));
        write_atomically(&path, text.as_bytes())?;
    }
    Ok(())
}

/// The notebooks that make Table I, and their networks.
const NOTEBOOKS: [(&str, &str); 3] =
    [("lenet_mnist", "B-LeNet"), ("alexnet_cifar10", "B-AlexNet"), ("resnet110_cifar10", "B-ResNet-110")];

/// One table of everything, from the tables that the notebooks wrote below `figures/`, or below
/// `figures/<folder>/`: all rows of Table I, those over seeds, and beneath what others report. Writes
/// `table1` and `seeds` there, each as `.md` and `.csv`, and returns the text. Fails where no notebook has
/// been run.
pub fn table_of_everything(folder: Option<&str>) -> Result<String> {
    let below = folder.map_or(String::new(), |folder| format!("{folder}/"));
    let Some((csv, table1)) = together(&below, "table1") else {
        bail!(Missing, "there are no tables in figures/{below} yet; `make figures` makes them")
    };
    let mut others = "| who | network | reports |\n|---|---|---|\n".to_string();
    for (_, network) in NOTEBOOKS {
        for (who, what) in paper(network)?.others {
            others += &format!("| {who} | {network} | {what} |\n");
        }
    }
    let mut text = format!("{table1}\n{others}");
    write_both(&format!("{below}table1"), &csv, &text)?;
    if let Some((csv, seeds)) = together(&below, "seeds") {
        write_both(&format!("{below}seeds"), &csv, &seeds)?;
        text += &format!("\n{seeds}");
    }
    Ok(text)
}

/// What all recorded runs gave, one table for each experiment with the spread over its seeds, costs in
/// multiply-accumulates: Markdown.
pub fn table_of_records() -> Result<String> {
    let mut text = "Written by `branchynet records`, from the exit records alone. Gains are ratios of \
        multiply-accumulates; shares and accuracies are on Test, in 0..=1.\n"
        .to_string();
    for seeds in Seeds::recorded()? {
        let network = &seeds.results()[0].settings.network;
        text += &format!("\n## {network}: {}\n\n{}", seeds.caption(), markdown_of(&seeds.frame_in_macs()?)?);
    }
    Ok(text)
}

/// The rows that the notebooks wrote to tables of this name, as comma-separated values and as Markdown;
/// `None` where no notebook wrote any.
fn together(below: &str, name: &str) -> Option<(String, String)> {
    let path = |notebook: &str| project_dir().join(format!("figures/{below}{notebook}/{name}.csv"));
    // A network whose notebook has not been run has no rows.
    let read = |(notebook, _): (&str, &str)| std::fs::read_to_string(path(notebook)).ok();
    let tables: Vec<Vec<Vec<String>>> =
        NOTEBOOKS.into_iter().filter_map(read).map(|text| csv_rows(&text)).collect();
    // The network with the most exits has all columns that another has.
    let headings = tables.iter().filter_map(|rows| rows.first());
    let names = headings.max_by_key(|names| names.len())?.clone();
    let mut lines: Vec<Vec<String>> = Vec::new();
    for table in &tables {
        let place = |name: &String| table[0].iter().position(|heading| heading == name);
        let places: Vec<Option<usize>> = names.iter().map(place).collect();
        for row in &table[1..] {
            let cell = |at: &Option<usize>| at.and_then(|at| row.get(at).cloned());
            lines.push(places.iter().map(|at| cell(at).unwrap_or_default()).collect());
        }
    }
    let short = |cell: &String| cell.parse().map_or(cell.clone(), short);
    let shown: Vec<Vec<String>> = lines.iter().map(|row| row.iter().map(short).collect()).collect();
    let line = |row: &Vec<String>| row.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",");
    let csv: Vec<String> = std::iter::once(&names).chain(&lines).map(line).collect();
    Some((csv.join("\n") + "\n", markdown(&names, &shown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_written_whole_and_escaped() -> Result<()> {
        let frame = polars::prelude::df!(
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

    #[test]
    fn what_is_written_is_read() {
        let rows = csv_rows("a,b c\n\"x, \"\"y\"\"\",1.5\n,2\n");
        assert_eq!(rows, [["a", "b c"], ["x, \"y\"", "1.5"], ["", "2"]]);
    }
}
