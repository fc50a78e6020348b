//! Numbers and tables as text.

/// Shares as text: `62.00, 70.10 %`.
pub fn percent(shares: &[f64]) -> String {
    let all: Vec<String> = shares.iter().map(|a| format!("{:.2}", a * 100.0)).collect();
    format!("{} %", all.join(", "))
}

/// A number with at most six significant digits.
pub fn short(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let trimmed = |text: &str| text.trim_end_matches('0').trim_end_matches('.').to_string();
    if !(1e-6..1e15).contains(&x.abs()) {
        let text = format!("{x:.5e}");
        return text
            .split_once('e')
            .map_or(text.clone(), |(digits, power)| format!("{}e{power}", trimmed(digits)));
    }
    let digits = (5 - x.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{x:.digits$}");
    if text.contains('.') { trimmed(&text) } else { text }
}

/// A table as Markdown: its headings, and a row of cells each.
pub fn markdown<S: AsRef<str>>(names: &[S], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let heading = line(&mut names.iter().map(AsRef::as_ref));
    let rule = format!("|{}\n", "---|".repeat(names.len()));
    let body: String = rows.iter().map(|row| line(&mut row.iter().map(String::as_str))).collect();
    format!("{heading}{rule}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_escaped_and_numbers_short() {
        let rows = vec![vec!["a|b".to_string(), short(0.123456789)], vec!["c".to_string(), short(1234567.0)]];
        assert_eq!(
            markdown(&["name", "value"], &rows),
            "| name | value |\n|---|---|\n| a\\|b | 0.123457 |\n| c | 1234567 |\n"
        );
        assert_eq!(percent(&[0.5, 1.0]), "50.00, 100.00 %");
        assert_eq!([1.25e-9, 2.9e-5, 1e300, 3e-7].map(short), ["1.25e-9", "0.000029", "1e300", "3e-7"]);
    }
}
