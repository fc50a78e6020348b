//! `branchynet classify`: a trained network's answers for one's own pictures.

use crate::aligned;
use branchynet::exits::{Criterion, Seen};
use branchynet::runs::Pretrained;
use branchynet::{Error, ErrorKind, Result, clap};
use image::imageops::FilterType;
use std::path::{Path, PathBuf};

/// Classify pictures (PNG or JPEG) with a trained network: label, exit, entropy, probability
///
/// The middle square of a picture is scaled to the network's size. A network for grey images gets the
/// picture's luminance; MNIST's digits are white on black, so pass --invert for black ink on paper.
#[derive(clap::Args)]
pub struct Classify {
    /// Trained weights: lenet, for example; a file made by `branchynet export` is taken as well
    weights: String,
    /// Pictures
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Thresholds by what they were chosen for: "no loss", "1 % less" or "knee"
    #[arg(long, value_name = "CHOICE", default_value = "no loss")]
    choice: String,
    /// Thresholds instead of the choice's, on its criterion (most: the entropy in nats), one for each exit but the last
    #[arg(long, value_name = "T,T,...", value_delimiter = ',')]
    thresholds: Vec<f64>,
    /// Exchange dark and bright
    #[arg(long)]
    invert: bool,
    /// Device: cpu, or cuda in a build for NVIDIA GPUs
    #[arg(long, env, value_name = "D", default_value = "cpu")]
    device: String,
}

/// A line for each picture, below a heading.
pub fn classify(arguments: &Classify) -> Result<String> {
    let device = branchynet::device(&arguments.device)?;
    let named = &arguments.weights;
    let weights = match named.ends_with(".safetensors") {
        true => Pretrained::read(Path::new(named), &device)?,
        false => Pretrained::named(named, &device)?,
    };
    let mut policy = weights.policy(&arguments.choice)?.clone();
    if !arguments.thresholds.is_empty() {
        policy.thresholds = arguments.thresholds.clone();
    }
    let mut bytes = Vec::new();
    for path in &arguments.pictures {
        bytes.extend(read(path, weights.about.image, arguments.invert)?);
    }
    let images = weights.images(&bytes)?;
    let answers = weights.network.classify_with_logits(&images, &policy)?;
    let classes = &weights.about.classes;
    let mut rows = vec![["picture", "label", "exit", "entropy", "probability"].map(str::to_string)];
    for (picture, (answer, logits)) in arguments.pictures.iter().zip(&answers) {
        let seen = Seen::new(logits, classes.len());
        let numbers = [Criterion::Entropy.read(seen).uncertainty, seen.probabilities()[answer.label]];
        let [entropy, probability] = numbers.map(|x| format!("{x:.4}"));
        let label = classes[answer.label].clone();
        rows.push([
            picture.display().to_string(),
            label,
            (answer.exit + 1).to_string(),
            entropy,
            probability,
        ]);
    }
    Ok(aligned(2, &rows))
}

/// The bytes of a picture's middle square at the size that the network takes, channel by channel.
fn read(path: &Path, [channels, height, width]: [usize; 3], invert: bool) -> Result<Vec<u8>> {
    let failed = |cause: image::ImageError| {
        let name = path.display();
        Error::new(ErrorKind::File, format!("cannot read {name} as PNG or JPEG: {cause}"))
    };
    let reader = image::ImageReader::open(path).map_err(|cause| failed(cause.into()))?;
    // What it is follows from its content: names lie.
    let picture = reader.with_guessed_format().map_err(|cause| failed(cause.into()))?;
    let mut picture = picture.decode().map_err(failed)?;
    let side = picture.width().min(picture.height());
    let (left, top) = ((picture.width() - side) / 2, (picture.height() - side) / 2);
    picture = picture.crop_imm(left, top, side, side);
    // A triangle filter: bilinear, and an average of the pixels that fall together where it shrinks.
    picture = picture.resize_exact(width as u32, height as u32, FilterType::Triangle);
    if invert {
        picture.invert();
    }
    match channels {
        1 => Ok(picture.to_luma8().into_raw()),
        3 => {
            let pixels = picture.to_rgb8().into_raw();
            Ok((0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect())
        }
        _ => {
            let message = format!("pictures are for networks of 1 or 3 channels; this one takes {channels}");
            Err(Error::new(ErrorKind::Shape, message))
        }
    }
}
