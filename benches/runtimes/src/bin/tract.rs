use branchynet_runtimes::{Model, Result, run};
use std::sync::Arc;
use tract_onnx::prelude::multithread::Executor;
use tract_onnx::prelude::*;

struct Tract(Arc<TypedRunnableModel>);

impl Model for Tract {
    type Value = TValue;

    fn load(path: &str, inputs: &[String], outputs: &[String], threads: usize) -> Result<Self> {
        let model = tract_onnx::onnx().model_for_path(path)?;
        let model = model.with_input_names(inputs)?.with_outputs_by_name(outputs)?;
        let executor = if threads > 1 { Executor::multithread(threads) } else { Executor::SingleThread };
        let options = RunOptions { executor: Some(executor), ..RunOptions::default() };
        Ok(Self(model.into_optimized()?.into_runnable_with_options(&options)?))
    }

    fn bytes(dims: &[usize], values: &[u8]) -> Result<TValue> {
        Ok(Tensor::from_shape(dims, values)?.into())
    }

    fn floats(dims: &[usize], values: &[f32]) -> Result<TValue> {
        Ok(Tensor::from_shape(dims, values)?.into())
    }

    fn run(&self, given: &[&TValue]) -> Result<Vec<TValue>> {
        Ok(self.0.run(given.iter().map(|&value| value.clone()).collect())?.into_vec())
    }

    fn integer(value: &TValue) -> Result<i64> {
        Ok(value.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?[0])
    }

    fn values(value: &TValue) -> Result<Vec<f32>> {
        Ok(value.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    }
}

fn main() -> Result<()> {
    run::<Tract>()
}
