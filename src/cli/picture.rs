//! One picture: read from its file, and prepared as the images are that a network was trained on.

use crate::digit::Ink;
use branchynet::{Result, bail, error};
use branchynet_runs::WeightsHeader;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Rgba};
use std::io::{Cursor, Read as _};
use std::path::Path;

/// What is read, for messages.
pub const FORMATS: &str = "PNG, JPEG, GIF, WebP, BMP or TIFF";

/// What is said of most pictures, and no reason to doubt.
pub const INVERTED: &str = "dark on bright: inverted, as the network learned bright on dark";

/// Why a picture is refused of which a part is missing.
const CUT_OFF: &str = "it is cut off: its end is missing";

/// The side that pictures for networks of digits are shrunk to, before anything is looked for: digits fill more than a
/// fiftieth of it.
const MOST: u32 = 1024;

/// The most bytes that the values of a picture may take.
const MOST_BYTES: u64 = 1 << 29;

/// Names that end so are those of pictures, beside those that the decoders know, though nothing here reads them.
const OTHER: [&str; 4] = ["heic", "heif", "jxl", "svg"];

/// How pictures are prepared for a network.
pub struct Preparation {
    /// Channels, height and width.
    image: [usize; 3],
    /// Exchange dark and bright first.
    invert: bool,
    /// Exchange dark and bright where the picture is dark on bright.
    on_black: bool,
    /// Cut the digit out.
    digits: bool,
}

/// A picture as a network sees it.
pub struct Picture {
    /// Channel by channel.
    pub bytes: Vec<u8>,
    /// What was done, or is odd, that its owner should know.
    pub warnings: Vec<String>,
}

impl Preparation {
    /// For the network with these weights. MNIST and its kin are bright on black, and have a channel; of the digits
    /// among them it is known how they were cut out.
    pub fn new(weights: &WeightsHeader, invert: bool, as_is: bool) -> Result<Self> {
        let (image, data) = (weights.image, weights.data.to_lowercase());
        if ![1, 3].contains(&image[0]) {
            bail!(Shape, "pictures are for networks of 1 or 3 channels; this one takes {}", image[0])
        }
        let on_black = image[0] == 1 && data.contains("mnist") && !as_is;
        let digits =
            on_black && image[1] == image[2] && ["mnist", "qmnist"].iter().any(|name| data.starts_with(name));
        Ok(Self { image, invert, on_black, digits })
    }

    /// Reads a picture. Fails, naming it, where it is none, damaged, cut off, or too large.
    pub fn read(&self, path: &Path) -> Result<Picture> {
        let (picture, mut warnings) = open(path)?;
        let picture = self.prepared(picture, &mut warnings);
        let bytes = match self.image[0] {
            1 => picture.into_luma8().into_raw(),
            _ => {
                let pixels = picture.into_rgb8().into_raw();
                (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect()
            }
        };
        Ok(Picture { bytes, warnings })
    }

    /// The picture at the network's size.
    fn prepared(&self, mut picture: DynamicImage, warnings: &mut Vec<String>) -> DynamicImage {
        let side = picture.width().min(picture.height());
        if 2 * side < self.image[1].min(self.image[2]) as u32 {
            warnings.push(format!("only {}×{} pixels", picture.width(), picture.height()));
        }
        if self.invert {
            picture.invert();
        }
        if !self.on_black {
            return self.square(&picture);
        }
        let large = picture.width().max(picture.height()) > MOST;
        let mut grey = if large { picture.thumbnail(MOST, MOST) } else { picture }.into_luma8();
        let Some(ink) = Ink::of(&grey) else {
            warnings.push(
                "nothing stands out from the background (what is transparent is laid on white)".to_string(),
            );
            // An empty page is no ink.
            if grey.iter().map(|&value| u64::from(value)).sum::<u64>() > 127 * grey.len() as u64 {
                image::imageops::invert(&mut grey);
            }
            return self.square(&grey.into());
        };
        if ink.dark {
            warnings.push(INVERTED.to_string());
            image::imageops::invert(&mut grey);
        }
        if !self.digits {
            return self.square(&grey.into());
        }
        let (digit, odd) = ink.cut_out(self.image[1] as u32);
        warnings.extend(odd.map(str::to_string));
        digit.into()
    }

    /// The middle square at the network's size.
    fn square(&self, picture: &DynamicImage) -> DynamicImage {
        let [_, height, width] = self.image.map(|length| length as u32);
        let side = picture.width().min(picture.height());
        let (left, top) = ((picture.width() - side) / 2, (picture.height() - side) / 2);
        scaled(&picture.crop_imm(left, top, side, side), width, height)
    }
}

/// By a triangle filter: bilinear, and an average of the pixels that fall together where it shrinks.
pub fn scaled(picture: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    picture.resize_exact(width, height, FilterType::Triangle)
}

/// What a file shows: as it is to be held, on white paper, in 8 bits; and what is odd about it. Fails, naming it, where it
/// is no picture, damaged, cut off, or too large.
pub fn open(path: &Path) -> Result<(DynamicImage, Vec<String>)> {
    let mut warnings = Vec::new();
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = match read() {
        Ok(bytes) if bytes.len() as u64 > MOST_BYTES => {
            Err(format!("it is too large: {} MiB are the most", MOST_BYTES >> 20))
        }
        read => read.map_err(|cause| cause.to_string()),
    };
    let picture = bytes
        .and_then(|bytes| decode(bytes, &mut warnings))
        .map_err(|why| error!(File, "cannot read {}: {why}", path.display()))?;
    Ok((picture, warnings))
}

/// [`open`] of a file's content.
fn decode(bytes: Vec<u8>, warnings: &mut Vec<String>) -> std::result::Result<DynamicImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".to_string());
    }
    // What it is follows from its content: names lie.
    let format = image::guess_format(&bytes).map_err(|_| match &bytes[..bytes.len().min(12)] {
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "it is HEIC; save it as JPEG".to_string(),
        [b'%', b'P', b'D', b'F', ..] => "it is a PDF; save a page of it as PNG".to_string(),
        _ => format!("it is no {FORMATS}"),
    })?;
    if !format.reading_enabled() {
        return Err(format!("it is {format:?}, not {FORMATS}"));
    }
    // The decoder would paint grey what is missing.
    if format == ImageFormat::Jpeg && !is_whole(&bytes) {
        return Err(CUT_OFF.to_string());
    }
    let why = |cause: ImageError| match cause {
        ImageError::IoError(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            CUT_OFF.to_string()
        }
        ImageError::Unsupported(cause) => format!("{cause}; save it as 8-bit PNG or JPEG"),
        cause => cause.to_string(),
    };
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(why)?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() == 0 {
        return Err("it has no pixels".to_string());
    }
    if decoder.total_bytes() > MOST_BYTES {
        return Err(format!("{width}×{height} pixels are too many: {} MiB are the most", MOST_BYTES >> 20));
    }
    let orientation = decoder.orientation().map_err(why)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(why)?;
    picture.apply_orientation(orientation);
    let floats: &[f32] = match &picture {
        DynamicImage::ImageRgb32F(picture) => picture,
        DynamicImage::ImageRgba32F(picture) => picture,
        _ => &[],
    };
    if let Some(odd) = floats.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        return Err(format!("floats are read between 0 and 1, and there is {odd}"));
    }
    if let Some(bits) = use_full_range(&mut picture) {
        warnings.push(format!("all values are below {}: taken as {bits} bits in a file of 16", 1 << bits));
    }
    Ok(on_white(picture))
}

/// Whether a JPEG reaches its end: a marker that may be missing, and not the one of a preview within.
fn is_whole(jpeg: &[u8]) -> bool {
    let mut at = 0;
    while let Some(next) = jpeg.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += next + 1;
        match jpeg.get(at..) {
            Some([0xd9, ..]) => return true,
            // Fill bytes, a value of 255, and markers without a length.
            Some([0xff, ..]) => {}
            Some([0 | 1 | 0xd0..=0xd8, ..]) => at += 1,
            Some([_, high, low, ..]) => at += 1 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        }
    }
    false
}

/// Cameras of 10 and 12 bits, and programs of 8, leave the upper part of 16 bits unused: black to the eye. Scales such
/// values, and gives their bits.
fn use_full_range(picture: &mut DynamicImage) -> Option<u32> {
    let values: &mut [u16] = match picture {
        DynamicImage::ImageLuma16(picture) => picture,
        DynamicImage::ImageLumaA16(picture) => picture,
        DynamicImage::ImageRgb16(picture) => picture,
        DynamicImage::ImageRgba16(picture) => picture,
        _ => return None,
    };
    let most = u32::from(values.iter().copied().max()?);
    let bits = [8, 10, 12].into_iter().find(|bits| (1..1 << bits).contains(&most))?;
    values.iter_mut().for_each(|value| *value = (u32::from(*value) * 65535 / ((1 << bits) - 1)) as u16);
    Some(bits)
}

/// Lays what is transparent on white paper.
fn on_white(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture;
    }
    let mut picture = picture.into_rgba8();
    for Rgba([colours @ .., alpha]) in picture.pixels_mut() {
        let opaque = u32::from(std::mem::replace(alpha, 255));
        colours
            .iter_mut()
            .for_each(|c| *c = ((u32::from(*c) * opaque + 255 * (255 - opaque) + 127) / 255) as u8);
    }
    picture.into()
}

/// Whether a file is a picture by its name or by its first bytes. A pipe is none: nobody may ever write to it.
pub fn seems_one(path: &Path) -> bool {
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return false;
    }
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase()).unwrap_or_default();
    let named =
        ImageFormat::from_extension(&extension).is_some() || OTHER.iter().any(|other| extension == *other);
    let begins = || {
        let mut first = Vec::new();
        std::fs::File::open(path)?.take(16).read_to_end(&mut first)?;
        Ok::<_, std::io::Error>(image::guess_format(&first).is_ok_and(|format| format.reading_enabled()))
    };
    named || begins().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_transparent_is_laid_on_white() {
        let pixels = [[0, 0, 0, 0], [9, 200, 30, 255], [0, 100, 255, 128], [255, 255, 255, 7]];
        let picture = image::RgbaImage::from_raw(4, 1, pixels.concat()).expect("four pixels");
        let expected = [[255, 255, 255], [9, 200, 30], [127, 177, 255], [255, 255, 255]];
        assert_eq!(on_white(picture.into()).into_rgb8().into_raw(), expected.concat());
    }

    #[test]
    fn the_bits_that_values_use_follow_from_the_largest() {
        for (most, bits, becomes) in [
            (255u16, Some(8), 65535),
            (1023, Some(10), 65535),
            (2730, Some(12), 43690),
            (4096, None, 4096),
            (0, None, 0),
        ] {
            let mut picture = image::ImageBuffer::from_pixel(1, 1, image::Luma([most])).into();
            assert_eq!((use_full_range(&mut picture), picture.to_luma16().into_raw()), (bits, vec![becomes]));
        }
        // Opacity uses the whole range: nearly black ink is nearly black.
        let mut picture = image::ImageBuffer::from_pixel(1, 1, image::LumaA([300u16, 65535])).into();
        assert_eq!(use_full_range(&mut picture), None);
    }
}
