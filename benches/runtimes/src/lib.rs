//! Runs a job in a runtime that takes files: answers for all images, then times. `adapters.py` does the same in Python and
//! `job.mjs` in JavaScript.

pub mod job;
mod serve;

pub use job::{Job, Result};
use serde_json::Value as Json;
use std::fs;
use std::rc::Rc;

/// What a runtime has to do: load a file for these inputs, outputs and threads, take arrays and give arrays.
pub trait Model: Sized {
    type Value;
    fn load(path: &str, inputs: &[String], outputs: &[String], threads: usize) -> Result<Self>;
    fn bytes(dims: &[usize], values: &[u8]) -> Result<Self::Value>;
    fn floats(dims: &[usize], values: &[f32]) -> Result<Self::Value>;
    fn run(&self, given: &[&Self::Value]) -> Result<Vec<Self::Value>>;
    /// The only element of a value, which is a whole number.
    fn integer(value: &Self::Value) -> Result<i64>;
    fn values(value: &Self::Value) -> Result<Vec<f32>>;
}

/// Little-endian f32.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// What measures a cell, by the faster of its files: milliseconds a batch. Fails where none is answered as PyTorch
/// does.
fn prepare<M: Model + 'static>(cell: &Json) -> Result<serve::Measure>
where
    M::Value: 'static,
{
    let text = |key: &str| cell[key].as_str().unwrap_or_default();
    let dims: Vec<usize> = job::numbers(&cell["dims"]).iter().map(|&n| n as usize).collect();
    let images = Rc::new(M::floats(&dims, &floats(&fs::read(text("images"))?))?);
    let expected = floats(&fs::read(text("logits"))?);
    let (tolerance, threads) = (cell["tolerance"].as_f64().unwrap_or(0.0) as f32, cell["threads"].as_u64());
    let files: Vec<&str> = cell["files"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let (mut best, mut wrong): (Option<(f64, serve::Measure)>, _) = (None, "no file".into());
    for path in &files {
        let load = || -> Result<(f64, serve::Measure)> {
            let threads = threads.unwrap_or(1) as usize;
            let model = M::load(path, &["image".to_string()], &["logits".to_string()], threads)?;
            let found = M::values(&model.run(&[&images])?[0])?;
            let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let right = found.len() == expected.len() && found.iter().all(|value| value.is_finite());
            if !right || off > tolerance {
                return Err(format!("its logits are off by {off:.2e}, and {tolerance:.2e} is allowed").into());
            }
            let images = images.clone();
            let mut measure: serve::Measure =
                Box::new(move || serve::median_ms(|| model.run(&[&images]).map(drop)));
            Ok((if files.len() > 1 { measure()? } else { 0.0 }, measure))
        };
        match load() {
            Ok(found) if best.as_ref().is_none_or(|best| found.0 < best.0) => best = Some(found),
            Ok(_) => (),
            Err(error) => wrong = error,
        }
    }
    best.map(|(_, measure)| measure).ok_or(wrong)
}

pub fn run<M: Model + 'static>() -> Result<()>
where
    M::Value: 'static,
{
    let job = Job::read()?;
    if let Some(cells) = job.json["cells"].as_object() {
        return serve::serve(|cell| prepare::<M>(cells.get(cell).ok_or("no such cell")?));
    }
    let text = |key: &str| job.json[key].as_str().unwrap_or_default();
    let thresholds: Vec<f32> = job::numbers(&job.json["thresholds"]).iter().map(|&n| n as f32).collect();
    let list = |json: &Json| json.as_array().cloned().unwrap_or_default();
    let strings = |json: &Json| -> Vec<String> {
        list(json).iter().filter_map(Json::as_str).map(str::to_string).collect()
    };
    let mut models = Vec::new();
    for stage in list(&job.json["files"]) {
        let file = stage["file"].as_str().unwrap_or_default();
        models.push(M::load(file, &strings(&stage["inputs"]), &strings(&stage["outputs"]), 1)?);
    }
    let trunk = match text("flat") {
        "" => None,
        flat => Some(M::load(flat, &["image".to_string()], &[text("flat_output").to_string()], 1)?),
    };
    let image = |i: usize| {
        let image = job.image(i);
        if job.json["float"] != true {
            return M::bytes(&job.dims, image);
        }
        M::floats(&job.dims, &floats(image))
    };
    let answer = |i: usize| {
        let mut value = image(i)?;
        if text("form") == "if" {
            let thresholds = M::floats(&[thresholds.len()], &thresholds)?;
            let inputs = [&value, &thresholds];
            let found = models[0].run(&inputs[..if job.json["fixed"] == true { 1 } else { 2 }])?;
            return Ok((M::integer(&found[0])?, M::integer(&found[1])?));
        }
        for (exit, model) in models.iter().enumerate() {
            let mut found = model.run(&[&value])?;
            if exit == thresholds.len() || M::values(&found[1])?[0] < thresholds[exit] {
                return Ok((M::integer(&found[0])?, exit as i64 + 1));
            }
            value = found.remove(2);
        }
        Err("no stage answered".into())
    };
    job.measure(answer, |i| match &trunk {
        Some(trunk) => trunk.run(&[&image(i)?]).map(drop),
        None => Ok(()),
    })
}
