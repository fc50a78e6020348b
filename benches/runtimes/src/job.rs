//! A job of `benches/runtimes.py`: which images, and how long to measure.

use serde_json::{Value as Json, json};
use std::error::Error;
use std::fs;
use std::time::Instant;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub struct Job {
    pub json: Json,
    pub dims: Vec<usize>,
    images: Vec<u8>,
}

impl Job {
    pub fn read() -> Result<Self> {
        let path = std::env::args().nth(1).ok_or("expected the job's file")?;
        let json: Json = serde_json::from_slice(&fs::read(path)?)?;
        let dims = numbers(&json["dims"]).iter().map(|&n| n as usize).collect();
        // A job of `benches/speed.py` has images for each cell instead.
        let images = json["images"].as_str().map_or(Ok(Vec::new()), fs::read)?;
        Ok(Self { dims, images, json })
    }

    /// Image `i` as it lies in the file: bytes, or prepared pixels as little-endian f32.
    pub fn image(&self, i: usize) -> &[u8] {
        let size = self.dims.iter().product::<usize>() * if self.json["float"] == true { 4 } else { 1 };
        &self.images[i * size..][..size]
    }

    /// Answers, and times for each line of standard input, as a line each. `answer` says label and exit, from 1, of an
    /// image.
    pub fn measure(
        &self,
        mut answer: impl FnMut(usize) -> Result<(i64, i64)>,
        mut flat: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let count = self.json["count"].as_u64().unwrap_or(0) as usize;
        let timed: Vec<usize> = numbers(&self.json["timed"]).iter().map(|&n| n as usize).collect();
        let seconds = self.json["seconds"].as_f64().unwrap_or(1.0);
        let answers = (0..count).map(&mut answer).collect::<Result<Vec<_>>>()?;
        for _ in std::io::stdin().lines() {
            for &i in &timed {
                answer(i)?;
                flat(i)?;
            }
            let (mut model_ns, mut flat_ns, start) = (Vec::new(), Vec::new(), Instant::now());
            while model_ns.is_empty() || start.elapsed().as_secs_f64() < seconds {
                for &i in &timed {
                    let before = Instant::now();
                    answer(i)?;
                    model_ns.push(before.elapsed().as_nanos() as u64);
                }
                for &i in &timed {
                    let before = Instant::now();
                    flat(i)?;
                    flat_ns.push(before.elapsed().as_nanos() as u64);
                }
            }
            println!("{}", json!({ "answers": answers, "model": model_ns, "flat": flat_ns }));
        }
        Ok(())
    }
}

pub fn numbers(json: &Json) -> Vec<f64> {
    json.as_array().into_iter().flatten().filter_map(Json::as_f64).collect()
}
