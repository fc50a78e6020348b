//! A cascade of two networks, the strongest simple rival of early exit.

use super::network::Network;
use crate::layers::branch;
use crate::{Result, bail};

impl Network {
    /// The cascade of two trained networks without branches: this one answers where it is sure, else `then` does,
    /// from the pixels on. As a network with exits, the first branch leaves at the pixels and is all of this network.
    /// Parameters are copied.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let small = Network::new("small", [3, 8, 8], [linear(192, 10)], 0, &Device::Cpu)?;
    /// let large = Network::new("large", [3, 8, 8], [conv(3, 9, 3, 1), relu(), linear(576, 10)], 0, &Device::Cpu)?;
    /// let cascade = small.followed_by(&large)?;
    /// assert_eq!(cascade.macs(), [1_920.0, 1_920.0 + 9.0 * 27.0 * 64.0 + 5_760.0]);
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// Fails where one has branches, or where they differ in images or classes.
    pub fn followed_by(&self, then: &Network) -> Result<Network> {
        for network in [self, then] {
            if network.exits() > 1 {
                bail!(Shape, "a cascade is of networks without branches, and {} has some", network.name)
            }
        }
        if self.image != then.image {
            bail!(Shape, "{} takes {}, and {} {}", self.name, self.input(), then.name, then.input())
        }
        let mut layers = vec![branch(self.layers.clone())];
        layers.extend(then.layers.iter().cloned());
        let name = format!("{}, then {}", self.name, then.name);
        let cascade = Network::new(&name, then.image, layers, 0, &then.device)?;
        cascade.copy("branch1.", self)?;
        cascade.copy("", then)?;
        Ok(cascade)
    }
}
