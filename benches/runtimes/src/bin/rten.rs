use branchynet_runtimes::{Model, Result, run};
use rten::{NodeId, RunOptions, ThreadPool, Value, ValueView};
use std::sync::Arc;

struct Rten(rten::Model, Vec<NodeId>, Vec<NodeId>, RunOptions);

impl Model for Rten {
    type Value = Value;

    fn load(path: &str, inputs: &[String], outputs: &[String], threads: usize) -> Result<Self> {
        let model = rten::ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
        let ids = |names: &[String]| {
            names.iter().map(|name| model.node_id(name)).collect::<std::result::Result<_, _>>()
        };
        let (inputs, outputs) = (ids(inputs)?, ids(outputs)?);
        let pool = Some(Arc::new(ThreadPool::with_num_threads(threads)));
        Ok(Self(model, inputs, outputs, RunOptions::default().with_thread_pool(pool)))
    }

    fn bytes(dims: &[usize], values: &[u8]) -> Result<Value> {
        Ok(Value::from_shape(dims, values.to_vec())?)
    }

    fn floats(dims: &[usize], values: &[f32]) -> Result<Value> {
        Ok(Value::from_shape(dims, values.to_vec())?)
    }

    fn run(&self, given: &[&Value]) -> Result<Vec<Value>> {
        let given = self.1.iter().copied().zip(given.iter().map(|&value| value.into())).collect();
        Ok(self.0.run(given, &self.2, Some(self.3.clone()))?)
    }

    // It has 32 bits for them.
    fn integer(value: &Value) -> Result<i64> {
        match value.as_view() {
            ValueView::Int32Tensor(tensor) => {
                Ok(tensor.iter().next().copied().ok_or("an empty value")?.into())
            }
            other => Err(format!("expected whole numbers, got {:?}", other.dtype()).into()),
        }
    }

    fn values(value: &Value) -> Result<Vec<f32>> {
        match value.as_view() {
            ValueView::FloatTensor(tensor) => Ok(tensor.iter().copied().collect()),
            other => Err(format!("expected f32, got {:?}", other.dtype()).into()),
        }
    }
}

fn main() -> Result<()> {
    run::<Rten>()
}
