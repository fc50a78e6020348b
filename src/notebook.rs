//! What a notebook cell shows, and the settings it takes from the environment.

use crate::Result;
use crate::data::{project_dir, write_atomically};
use crate::error::bail;
use polars::prelude::{AnyValue, DataFrame};
use std::str::FromStr;

/// Prints representations of one output, best first, in the form that the evcxr kernel turns into a
/// MIME bundle. Outside a notebook the plain text alone.
pub(crate) fn content(representations: &[(&str, &str)]) {
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        let bundle: String = representations
            .iter()
            .map(|(mime, text)| format!("EVCXR_BEGIN_CONTENT {mime}\n{text}\nEVCXR_END_CONTENT\n"))
            .collect();
        print!("{bundle}");
    } else if let Some((_, text)) = representations
        .iter()
        .find(|(mime, _)| *mime == "text/plain")
    {
        println!("{text}");
    }
}

/// The setting `name` from the environment (`EPOCHS=3 make figures`), or `default` where it is not
/// set or empty. Fails on a value that is not of `default`'s type.
pub fn setting<T: FromStr>(name: &str, default: T) -> Result<T> {
    Ok(given(name)?.unwrap_or(default))
}

/// The setting `name` from the environment, if it is set.
pub(crate) fn given<T: FromStr>(name: &str) -> Result<Option<T>> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value.parse().map(Some).or_else(|_| {
            bail!(
                "{name}={value} in the environment: expected {}",
                match std::any::type_name::<T>() {
                    "usize" | "u64" => "a whole number, as in 1",
                    "f64" => "a number, as in 0.5",
                    kind if kind.ends_with("Precision") => "f32, tf32 or bf16",
                    _ => "another value; the settings cell lists them",
                }
            )
        }),
        _ => Ok(None),
    }
}

/// The folder below `figures/` for an experiment's output: `name`, or, with FIGURES=mine in the
/// environment, `mine/name`.
pub fn output(name: &str) -> Result<String> {
    Ok(match given::<String>("FIGURES")? {
        Some(folder) => format!("{folder}/{name}"),
        None => name.to_string(),
    })
}

/// Whether the switch `name` is on in the environment: set, and not 0.
pub fn switch(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}

/// Shares as text: `62.00, 70.10 %`.
pub fn percent(shares: &[f64]) -> String {
    let all: Vec<String> = shares.iter().map(|a| format!("{:.2}", a * 100.0)).collect();
    format!("{} %", all.join(", "))
}

/// The cells of a table as text: numbers with at most six significant digits, missing values as a
/// dash.
fn cells(table: &DataFrame) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let names = table
        .get_column_names()
        .iter()
        .map(|name| name.to_string())
        .collect();
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
                .map(|column| Ok(cell(column.get(row)?)))
                .collect::<Result<Vec<String>>>()
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
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

fn markdown(names: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        format!(
            "| {} |\n",
            cells
                .iter()
                .map(|cell| cell.replace('|', "\\|"))
                .collect::<Vec<_>>()
                .join(" | ")
        )
    };
    let rule = format!("|{}\n", "---|".repeat(names.len()));
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{rule}{body}", line(names))
}

/// Comma-separated values (RFC 4180): numbers in full, missing values empty.
fn csv(table: &DataFrame) -> Result<String> {
    let quoted = |text: &str| {
        let plain = !text.contains([',', '"', '\n', '\r']);
        if plain {
            text.to_string()
        } else {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
    };
    let cell = |value: AnyValue| match value {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => quoted(text),
        AnyValue::Float64(x) => x.to_string(),
        other => quoted(&other.to_string()),
    };
    let names: Vec<String> = table
        .get_column_names()
        .iter()
        .map(|name| quoted(name))
        .collect();
    let mut lines = vec![names.join(",")];
    for row in 0..table.height() {
        let cells = table
            .columns()
            .iter()
            .map(|column| Ok(cell(column.get(row)?)));
        lines.push(cells.collect::<Result<Vec<String>>>()?.join(","));
    }
    Ok(lines.join("\n") + "\n")
}

fn html(names: &[String], rows: &[Vec<String>]) -> String {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let row = |tag: &str, cells: &[String]| {
        let cells: String = cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)))
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let body: String = rows.iter().map(|cells| row("td", cells)).collect();
    format!(
        "<table><thead>{}</thead><tbody>{body}</tbody></table>",
        row("th", names)
    )
}

/// Shows a table in a notebook, as HTML.
pub fn table(table: &DataFrame) -> Result<()> {
    let (names, rows) = cells(table)?;
    content(&[
        ("text/html", &html(&names, &rows)),
        ("text/plain", &markdown(&names, &rows)),
    ]);
    Ok(())
}

/// Writes a table to `figures/<name>.csv` and `figures/<name>.md`, and shows it in a notebook.
pub fn save_table(frame: &DataFrame, name: &str) -> Result<()> {
    let (names, rows) = cells(frame)?;
    let path = |extension: &str| {
        project_dir()
            .join("figures")
            .join(format!("{name}.{extension}"))
    };
    write_atomically(&path("csv"), csv(frame)?.as_bytes())?;
    write_atomically(&path("md"), markdown(&names, &rows).as_bytes())?;
    table(frame)
}

/// The commit that the working tree is at, for results; `unknown` outside a git checkout.
pub fn commit() -> String {
    let output = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(project_dir())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        }
        _ => "unknown".to_string(),
    }
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
        assert_eq!(
            csv(&frame)?,
            "\"name, unit\",value\na|b,0.123456789\n\"say \"\"x\"\"\",\n<c>,1234567\n"
        );
        assert_eq!(
            markdown(&names, &rows),
            "| name, unit | value |\n|---|---|\n| a\\|b | 0.123457 |\n| say \"x\" | – |\n| <c> | 1234567 |\n"
        );
        assert!(html(&names, &rows).contains("<td>&lt;c&gt;</td><td>1234567</td>"));
        Ok(())
    }

    #[test]
    fn settings_of_the_wrong_type_are_refused() {
        // A name that no environment has.
        assert_eq!(setting("BRANCHYNET_TEST_UNSET", 7usize).ok(), Some(7));
        assert!(
            setting("PATH", 7usize)
                .expect_err("a path")
                .to_string()
                .contains("expected a whole number")
        );
    }
}
