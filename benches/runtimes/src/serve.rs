//! Cells of the table of `benches/speed.py`: each line of standard input names one, and is answered by a line that
//! says how fast it is.

use serde_json::json;
use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures a cell once.
pub type Measure = Box<dyn FnMut() -> Result<f64>>;

/// Answers lines until there are no more. `prepare` gives what measures a cell; that is kept.
pub fn serve(mut prepare: impl FnMut(&str) -> Result<Measure>) -> Result<()> {
    let mut ready: HashMap<String, Measure> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let cell = line?;
        let mut answer = || {
            if !ready.contains_key(&cell) {
                ready.insert(cell.clone(), prepare(&cell)?);
            }
            let measure = ready.get_mut(&cell).ok_or("a cell that is not prepared")?;
            Ok::<_, Box<dyn Error>>(json!({ "value": measure()? }))
        };
        println!("{}", answer().unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    Ok(())
}

/// The median, in milliseconds, of calls for a third of a second, at least two, after some that do not count.
pub fn median_ms(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < 3 || start.elapsed().as_secs_f64() < 0.35 * 1.3 {
        let before = Instant::now();
        work()?;
        times.push(before.elapsed().as_secs_f64() * 1e3);
    }
    times.drain(..times.len().div_ceil(4));
    times.sort_by(f64::total_cmp);
    let (low, high) = (times[(times.len() - 1) / 2], times[times.len() / 2]);
    Ok((low + high) / 2.0)
}
