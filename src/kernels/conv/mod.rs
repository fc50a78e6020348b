//! Convolutions on the CPU over images whose channels lie side by side, for inference and for training.
//!
//! [`Image`] is where activations lie, [`product`] the inner product of everything here. A convolution runs
//! by its definition ([`direct`]), with pixels in the lanes of registers where it has few outputs ([`mod@rows`]), or with
//! fewer multiplications ([`winograd`]); [`gradient`] is the gradient of its kernel. Training has [`planes`]
//! for few channels, with several images in the lanes. One of whole numbers of a byte ([`grid`]) is computed by [`integer`].

// Iterators over arrays of registers compile to calls, plain indices to registers.
#![allow(clippy::needless_range_loop)]

mod direct;
mod dot;
mod gradient;
mod grid;
mod image;
mod integer;
mod planes;
mod product;
mod rows;
mod share;
mod transpose;
mod winograd;

pub use self::gradient::Gradient;
pub use self::grid::{Grid, weight_scale, whole_numbers};
pub use self::image::{From, Image, To, rows};
pub use self::integer::{Integer, Results, Whole};
pub use self::planes::Planes;
pub use self::product::{Finish, floor, load, peak, store};
pub use self::share::{Share, Shared};
pub use self::transpose::transpose;
pub use self::winograd::{Tiles, Winograd};

use self::direct::Direct;
use self::rows::Rows;

/// A convolution, in the way that is fastest for it.
#[derive(Debug)]
pub enum Conv {
    Direct(Direct),
    Rows(Rows),
    Winograd(Winograd),
}

impl Conv {
    /// A convolution of an image `from` to `to` by [`Tiles`], if any; kernel, padding, stride. `weight` is
    /// (outputs, inputs, kernel, kernel).
    pub fn new(
        from: &Image,
        to: &Image,
        sizes: [usize; 3],
        tiles: Option<Tiles>,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let [kernel, padding, stride] = sizes;
        match tiles {
            Some(tiles) => Self::Winograd(Winograd::new(from, tiles, padding, to.channels, weight)),
            None if Rows::suits(from, to, stride) => {
                Self::Rows(Rows::new(from, (kernel, padding), to.channels, weight))
            }
            None => Self::Direct(Direct::new(from, sizes, to.channels, weight)),
        }
    }

    /// Elements of scratch that [`Self::run`] needs.
    pub fn scratch(&self, from: &Image) -> usize {
        match self {
            Self::Winograd(conv) => conv.scratch(from),
            _ => 0,
        }
    }

    /// What it is called, the numbers that it reads as weights, and its multiplications for an image `to`.
    pub fn weights(&self, to: &Image) -> (String, usize, usize) {
        let by_definition = |what: &str, weights| (what.to_string(), weights, weights * to.height * to.width);
        match self {
            Self::Direct(conv) => by_definition("by the definition", conv.weights()),
            Self::Rows(conv) => by_definition("by the definition, in rows", conv.weights()),
            Self::Winograd(conv) => (conv.tiles().to_string(), conv.weights(), conv.multiplications(to)),
        }
    }

    /// Convolves this share of `images` images that lie one after another.
    pub fn run(
        &self,
        from: From<'_>,
        finish: Finish<'_>,
        to: To<'_>,
        scratch: &mut [f32],
        images: usize,
        share: Share,
    ) {
        match self {
            Self::Direct(conv) => conv.run(from, finish, to, images, share),
            Self::Rows(conv) => conv.run(from, finish, to, images, share),
            Self::Winograd(conv) => conv.run(from, finish, to, scratch, images, share),
        }
    }
}
