use branchynet_runtimes::{Model, Result, run};
use candle_core::{DType, Device, Tensor};
use candle_onnx::onnx::ModelProto;

struct Candle(ModelProto, Vec<String>, Vec<String>);

impl Model for Candle {
    type Value = Tensor;

    fn load(path: &str, inputs: &[String], outputs: &[String], _: usize) -> Result<Self> {
        Ok(Self(candle_onnx::read_file(path)?, inputs.to_vec(), outputs.to_vec()))
    }

    fn bytes(dims: &[usize], values: &[u8]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, dims, &Device::Cpu)?)
    }

    fn floats(dims: &[usize], values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, dims, &Device::Cpu)?)
    }

    fn run(&self, given: &[&Tensor]) -> Result<Vec<Tensor>> {
        let given = self.1.iter().cloned().zip(given.iter().map(|&value| value.clone())).collect();
        let mut found = candle_onnx::simple_eval(&self.0, given)?;
        self.2.iter().map(|name| Ok(found.remove(name).ok_or_else(|| format!("no output {name}"))?)).collect()
    }

    fn integer(value: &Tensor) -> Result<i64> {
        Ok(value.to_dtype(DType::I64)?.flatten_all()?.get(0)?.to_scalar()?)
    }

    fn values(value: &Tensor) -> Result<Vec<f32>> {
        Ok(value.flatten_all()?.to_vec1()?)
    }
}

fn main() -> Result<()> {
    run::<Candle>()
}
