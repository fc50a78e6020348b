//! Runs a job in a runtime that takes files: answers for all images, then times. `adapters.py` does the same in Python and
//! `job.mjs` in JavaScript.

pub mod job;

pub use job::{Job, Result};
use serde_json::Value as Json;

/// What a runtime has to do: load a file for these inputs and outputs, take arrays and give arrays.
pub trait Model: Sized {
    type Value;
    fn load(path: &str, inputs: &[String], outputs: &[String]) -> Result<Self>;
    fn bytes(dims: &[usize], values: &[u8]) -> Result<Self::Value>;
    fn floats(dims: &[usize], values: &[f32]) -> Result<Self::Value>;
    fn run(&self, given: &[&Self::Value]) -> Result<Vec<Self::Value>>;
    /// The only element of a value, which is a whole number.
    fn integer(value: &Self::Value) -> Result<i64>;
    fn float(value: &Self::Value) -> Result<f32>;
}

pub fn run<M: Model>() -> Result<()> {
    let job = Job::read()?;
    let text = |key: &str| job.json[key].as_str().unwrap_or_default();
    let thresholds: Vec<f32> = job::numbers(&job.json["thresholds"]).iter().map(|&n| n as f32).collect();
    let list = |json: &Json| json.as_array().cloned().unwrap_or_default();
    let strings = |json: &Json| -> Vec<String> {
        list(json).iter().filter_map(Json::as_str).map(str::to_string).collect()
    };
    let mut models = Vec::new();
    for stage in list(&job.json["files"]) {
        let file = stage["file"].as_str().unwrap_or_default();
        models.push(M::load(file, &strings(&stage["inputs"]), &strings(&stage["outputs"]))?);
    }
    let trunk = M::load(text("flat"), &["image".to_string()], &[text("flat_output").to_string()])?;
    let image = |i: usize| {
        let image = job.image(i);
        if job.json["float"] != true {
            return M::bytes(&job.dims, image);
        }
        let floats = image.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        M::floats(&job.dims, &floats.collect::<Vec<_>>())
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
            if exit == thresholds.len() || M::float(&found[1])? < thresholds[exit] {
                return Ok((M::integer(&found[0])?, exit as i64 + 1));
            }
            value = found.remove(2);
        }
        Err("no stage answered".into())
    };
    job.measure(answer, |i| trunk.run(&[&image(i)?]).map(drop))
}
