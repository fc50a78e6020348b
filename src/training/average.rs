//! The running average of a network's weights, which they become every few steps: lookahead (Zhang et al. 2019,
//! <https://arxiv.org/abs/1907.08610>), with a share that grows while training goes on, as in Keller Jordan's airbench
//! (<https://arxiv.org/abs/2404.00498>).

use crate::Result;
use crate::networks::Network;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Steps from one update to the next.
const STEPS: usize = 5;

/// The average of all that inference depends on, by name.
pub(super) type Average = BTreeMap<String, Tensor>;

/// An average that begins with what the network is now.
pub(super) fn begin(network: &Network) -> Result<Average> {
    network.state().iter().map(|(name, var)| Ok((name.clone(), var.as_tensor().copy()?))).collect()
}

/// After step `step` of `steps`, from 1: updates the average and gives it to the network; at the end gives it only.
pub(super) fn update(average: &mut Average, network: &Network, step: usize, steps: usize) -> Result<()> {
    if !step.is_multiple_of(STEPS) && step < steps {
        return Ok(());
    }
    let keep = 0.95f64.powi(STEPS as i32) * (step as f64 / steps as f64).powi(3);
    for (name, var) in network.state() {
        let mean = average.get_mut(&name).expect("made of the same network");
        if step.is_multiple_of(STEPS) {
            *mean = ((&*mean * keep)? + (var.as_tensor() * (1.0 - keep))?)?.detach();
        }
        var.set(mean)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::linear;
    use candle_core::Device;

    #[test]
    fn weights_become_their_average_every_five_steps_and_in_the_end() -> Result<()> {
        let network = Network::new("small", [1, 1, 2], [linear(2, 2)], 0, &Device::Cpu)?;
        let bias = &network.parameters()["linear1.bias"];
        let mut average = begin(&network)?;
        let set = |value: f32| bias.set(&Tensor::full(value, 2, &Device::Cpu)?);
        let get = || bias.as_tensor().get(0)?.to_scalar::<f32>();
        set(8.0)?;
        update(&mut average, &network, 4, 12)?;
        assert_eq!(get()?, 8.0);
        let mut expected = 0.0;
        for (step, value) in [(5, 8.0), (10, 3.0)] {
            set(value)?;
            update(&mut average, &network, step, 12)?;
            let keep = 0.95f64.powi(5) * (step as f64 / 12.0).powi(3);
            expected = keep * expected + (1.0 - keep) * f64::from(value);
            assert!((f64::from(get()?) - expected).abs() < 1e-6);
        }
        set(100.0)?;
        update(&mut average, &network, 12, 12)?;
        assert!((f64::from(get()?) - expected).abs() < 1e-6);
        Ok(())
    }
}
