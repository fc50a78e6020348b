//! Cascade training, as in the authors' code (`percentTrainKeeps`): a later exit learns from the samples that
//! an earlier one would not answer.

use crate::Result;
use candle_core::Tensor;

/// Takes from the gradients of the logits (batch, classes) of each exit but the first those samples that do
/// not come so far: of the samples that an exit learns from, the share `keeps` with the largest entropy goes
/// on to the next. An exit's loss stays a mean over the samples that it learns from. The whole batch still
/// passes through the network, so that batch normalisation sees it.
pub(super) fn cascade(logits: &[Tensor], gradients: &mut [Tensor], keeps: f64) -> Result<()> {
    let Some((_, before)) = logits.split_last() else {
        return Ok(());
    };
    let batch = logits[0].dim(0)?;
    let mut stay: Vec<usize> = (0..batch).collect();
    for (logits, gradient) in before.iter().zip(&mut gradients[1..]) {
        let log = candle_nn::ops::log_softmax(logits, 1)?;
        let entropy = (log.exp()? * &log)?.sum(1)?.neg()?.to_vec1::<f32>()?;
        stay.sort_by(|&a, &b| entropy[b].total_cmp(&entropy[a]));
        stay.truncate((keeps * stay.len() as f64).round().max(1.0) as usize);
        let mut factors = vec![0.0; batch];
        stay.iter().for_each(|&sample| factors[sample] = batch as f32 / stay.len() as f32);
        let factors = Tensor::from_vec(factors, (batch, 1), gradient.device())?;
        *gradient = gradient.broadcast_mul(&factors)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_least_sure_go_on() -> Result<()> {
        let tensor = |values: &[[f32; 2]; 4]| Tensor::new(values, &Device::Cpu);
        // Sample 1 is the least sure at exit 1, then 3; at exit 2 sample 3 is less sure than 1.
        let first = tensor(&[[9.0, 0.0], [0.0, 0.0], [0.0, 5.0], [1.0, 0.0]])?;
        let second = tensor(&[[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.5, 0.0]])?;
        let ones = Tensor::ones((4, 2), candle_core::DType::F32, &Device::Cpu)?;
        let mut gradients = vec![ones.clone(), ones.clone(), ones];
        cascade(&[first, second.clone(), second], &mut gradients, 0.5)?;
        let columns = |gradient: &Tensor| gradient.narrow(1, 0, 1)?.flatten_all()?.to_vec1::<f32>();
        assert_eq!(columns(&gradients[0])?, [1.0; 4]);
        assert_eq!(columns(&gradients[1])?, [0.0, 2.0, 0.0, 2.0]);
        assert_eq!(columns(&gradients[2])?, [0.0, 0.0, 0.0, 4.0]);
        Ok(())
    }
}
