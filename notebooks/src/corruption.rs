//! Corrupted images: six of the corruptions of CIFAR-10-C (Hendrycks and Dietterich 2019,
//! <https://arxiv.org/abs/1903.12261>) with the constants of their `make_cifar_c.py`, computed here.

use branchynet::data::{Role, Split};
use branchynet::{Result, Rng, bail};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use std::f32::consts::PI;
use std::fmt;

/// What happens to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// Gaussian noise on every value.
    Noise,
    /// A Gaussian filter.
    Blur,
    /// More brightness (the value of HSV).
    Brightness,
    /// Less contrast around each channel's mean.
    Contrast,
    /// Made smaller and larger again.
    Pixels,
    /// JPEG's quantisation, with colours at half the resolution.
    Jpeg,
}

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Noise, Self::Blur, Self::Brightness, Self::Contrast, Self::Pixels, Self::Jpeg];

    /// Its name, and the constants of severities 1 to 5.
    fn about(self) -> (&'static str, [f32; 5]) {
        match self {
            Self::Noise => ("noise", [0.04, 0.06, 0.08, 0.09, 0.1]),
            Self::Blur => ("blur", [0.4, 0.6, 0.7, 0.8, 1.0]),
            Self::Brightness => ("brightness", [0.05, 0.1, 0.15, 0.2, 0.3]),
            Self::Contrast => ("contrast", [0.75, 0.5, 0.4, 0.3, 0.15]),
            Self::Pixels => ("pixelation", [0.95, 0.9, 0.85, 0.75, 0.65]),
            Self::Jpeg => ("JPEG", [80.0, 65.0, 58.0, 50.0, 40.0]),
        }
    }

    /// The images of a split, corrupted, with their labels. The noise of an image depends on `seed` and on its number.
    /// Fails unless `severity` is 1 to 5.
    pub fn of<R: Role>(self, split: &Split<R>, severity: usize, seed: u64) -> Result<Split<R>> {
        if !(1..=5).contains(&severity) {
            bail!(Setting, "severities are 1 to 5, got {severity}")
        }
        let constant = self.about().1[severity - 1];
        let [_, height, width] = split.image_shape();
        Ok(split.changed(|number, image| {
            let mut picture = Picture {
                planes: image
                    .chunks(height * width)
                    .map(|plane| plane.iter().map(|&byte| f32::from(byte) / 255.0).collect())
                    .collect(),
                height,
                width,
            };
            match self {
                Self::Noise => {
                    picture.noise(constant, seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                }
                Self::Blur => picture.blur(constant),
                Self::Brightness => picture.brighten(constant),
                Self::Contrast => picture.contrast(constant),
                Self::Pixels => picture.pixelate(constant),
                Self::Jpeg => picture.jpeg(constant),
            }
            for (byte, value) in image.iter_mut().zip(picture.planes.iter().flatten()) {
                // Cut off, as numpy's conversion does; a little more, so that whole numbers stay what they are.
                *byte = (value.clamp(0.0, 1.0) * 255.0 + 1e-3) as u8;
            }
        }))
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().0)
    }
}

/// An image in f32, from 0 to 1.
struct Picture {
    planes: Vec<Vec<f32>>,
    height: usize,
    width: usize,
}

impl Picture {
    fn noise(&mut self, deviation: f32, seed: u64) {
        let mut rng = Rng::seed_from_u64(seed);
        for value in self.planes.iter_mut().flatten() {
            let normal: f32 = StandardNormal.sample(&mut rng);
            *value += deviation * normal;
        }
    }

    /// scipy's Gaussian filter: four deviations to each side, the outermost pixels repeated outside.
    fn blur(&mut self, deviation: f32) {
        let radius = (4.0 * deviation + 0.5) as isize;
        let weight = |at: isize| (-0.5 * (at as f32 / deviation).powi(2)).exp();
        let weights: Vec<f32> = (-radius..=radius).map(weight).collect();
        let sum: f32 = weights.iter().sum();
        let (height, width) = (self.height as isize, self.width as isize);
        let filter = |plane: &[f32], down: isize, right: isize| -> Vec<f32> {
            let at = |i: isize, by: isize| {
                let y = (i / width + by * down).clamp(0, height - 1);
                let x = (i % width + by * right).clamp(0, width - 1);
                plane[(y * width + x) as usize]
            };
            let terms = || (-radius..=radius).zip(&weights);
            let pixel = |i| terms().map(|(by, weight)| weight * at(i, by)).sum::<f32>() / sum;
            (0..height * width).map(pixel).collect()
        };
        for plane in &mut self.planes {
            *plane = filter(&filter(plane, 1, 0), 0, 1);
        }
    }

    /// Hue and saturation stay: all channels grow by the same factor, and black becomes grey.
    fn brighten(&mut self, by: f32) {
        for i in 0..self.height * self.width {
            let value = self.planes.iter().map(|plane| plane[i]).fold(0.0, f32::max);
            let brighter = (value + by).min(1.0);
            for plane in &mut self.planes {
                plane[i] = if value > 0.0 { plane[i] * brighter / value } else { brighter };
            }
        }
    }

    fn contrast(&mut self, factor: f32) {
        for plane in &mut self.planes {
            let mean = plane.iter().sum::<f32>() / plane.len() as f32;
            plane.iter_mut().for_each(|value| *value = (*value - mean) * factor + mean);
        }
    }

    fn pixelate(&mut self, factor: f32) {
        let (height, width) = (self.height, self.width);
        let small = |size: usize| ((size as f32 * factor) as usize).max(1);
        for plane in &mut self.planes {
            let less = resize(plane, (height, width), (small(height), small(width)));
            *plane = resize(&less, (small(height), small(width)), (height, width));
        }
    }

    /// What JPEG loses: brightness and colours in blocks of 8×8 by the standard's tables for a quality, colours
    /// averaged over 2×2 pixels before and interpolated after.
    fn jpeg(&mut self, quality: f32) {
        let scale = if quality < 50.0 { 5000.0 / quality } else { 200.0 - 2.0 * quality };
        let table =
            |base: &[u8; 64]| base.map(|q| ((f32::from(q) * scale + 50.0) / 100.0).floor().clamp(1.0, 255.0));
        let (height, width) = (self.height, self.width);
        let bytes = |plane: &Vec<f32>| plane.iter().map(|v| v * 255.0).collect::<Vec<f32>>();
        let planes: Vec<Vec<f32>> = self.planes.iter().map(bytes).collect();
        let back = |plane: Vec<f32>| plane.iter().map(|v| v.round().clamp(0.0, 255.0) / 255.0).collect();
        let [red, green, blue] = &planes[..] else {
            for (to, mut plane) in self.planes.iter_mut().zip(planes) {
                quantise(&mut plane, (height, width), &table(&LUMINANCE));
                *to = back(plane);
            }
            return;
        };
        let mix = |r: f32, g: f32, b: f32, more: f32| -> Vec<f32> {
            (0..height * width).map(|i| (r * red[i] + g * green[i] + b * blue[i] + more).round()).collect()
        };
        let mut y = mix(0.299, 0.587, 0.114, 0.0);
        quantise(&mut y, (height, width), &table(&LUMINANCE));
        let colour = |mixed: Vec<f32>| {
            let half = (height.div_ceil(2), width.div_ceil(2));
            let at = |i: usize, dy: usize, dx: usize| {
                let (row, column) = (i / half.1 * 2 + dy, i % half.1 * 2 + dx);
                mixed[row.min(height - 1) * width + column.min(width - 1)]
            };
            let mean = |i| ((at(i, 0, 0) + at(i, 0, 1) + at(i, 1, 0) + at(i, 1, 1)) / 4.0).round();
            let mut small: Vec<f32> = (0..half.0 * half.1).map(mean).collect();
            quantise(&mut small, half, &table(&CHROMINANCE));
            // Three quarters of the nearest and one of the next, in each direction.
            let near = |x: usize, size: usize| {
                let next =
                    if x.is_multiple_of(2) { (x / 2).saturating_sub(1) } else { (x / 2 + 1).min(size - 1) };
                [(x / 2, 0.75), (next, 0.25)]
            };
            let pixel = |i: usize| {
                let (rows, columns) = (near(i / width, half.0), near(i % width, half.1));
                let terms = rows.iter().flat_map(|&(r, a)| columns.iter().map(move |&(c, b)| (r, c, a * b)));
                terms.map(|(r, c, share)| small[r * half.1 + c] * share).sum::<f32>() - 128.0
            };
            (0..height * width).map(pixel).collect::<Vec<f32>>()
        };
        let cb = colour(mix(-0.168_735_9, -0.331_264_1, 0.5, 128.0));
        let cr = colour(mix(0.5, -0.418_687_6, -0.081_312_4, 128.0));
        let of = |r: f32, b: f32| back((0..height * width).map(|i| y[i] + r * cr[i] + b * cb[i]).collect());
        self.planes = vec![of(1.402, 0.0), of(-0.714_136_3, -0.344_136_3), of(0.0, 1.772)];
    }
}

/// Pillow's resizing by boxes, in bytes: the mean of the pixels whose centres lie under one of the result, first across
/// and then down.
fn resize(plane: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    // For each pixel of the result the pixels under it, along one side.
    let under = |size: usize, wanted: usize| -> Vec<Vec<usize>> {
        let scale = size as f32 / wanted as f32;
        let reach = scale.max(1.0);
        let of_pixel = |i: usize| {
            let centre = (i as f32 + 0.5) * scale;
            let inside = |j: &usize| {
                let distance = (*j as f32 + 0.5 - centre) / reach;
                distance > -0.5 && distance <= 0.5
            };
            (0..size).filter(inside).collect()
        };
        (0..wanted).map(of_pixel).collect()
    };
    let mean = |pixels: &[usize], at: &dyn Fn(usize) -> f32| {
        let sum: f32 = pixels.iter().map(|&pixel| at(pixel)).sum();
        (sum / pixels.len() as f32 * 255.0).round() / 255.0
    };
    let (columns, rows) = (under(from.1, to.1), under(from.0, to.0));
    let across = |i: usize| mean(&columns[i % to.1], &|x| plane[i / to.1 * from.1 + x]);
    let across: Vec<f32> = (0..from.0 * to.1).map(across).collect();
    (0..to.0 * to.1).map(|i| mean(&rows[i / to.1], &|y| across[y * to.1 + i % to.1])).collect()
}

/// Rounds the cosine transform of each block of 8×8 to multiples of the table's numbers. The outermost pixels are
/// repeated where blocks hang over.
fn quantise(plane: &mut [f32], (height, width): (usize, usize), table: &[f32; 64]) {
    let basis = |k: usize, x: usize| {
        let scale = if k == 0 { (1.0f32 / 8.0).sqrt() } else { 0.5 };
        scale * ((2 * x + 1) as f32 * k as f32 * PI / 16.0).cos()
    };
    let basis: Vec<f32> = (0..64).map(|i| basis(i / 8, i % 8)).collect();
    for (top, left) in (0..height).step_by(8).flat_map(|y| (0..width).step_by(8).map(move |x| (y, x))) {
        let at =
            |i: usize| plane[(top + i / 8).min(height - 1) * width + (left + i % 8).min(width - 1)] - 128.0;
        let block: Vec<f32> = (0..64).map(at).collect();
        let sum = |f: &dyn Fn(usize) -> f32| (0..8).map(f).sum::<f32>();
        let rows: Vec<f32> = (0..64).map(|i| sum(&|x| block[i / 8 * 8 + x] * basis[i % 8 * 8 + x])).collect();
        let transformed = (0..64).map(|i| sum(&|y| rows[y * 8 + i % 8] * basis[i / 8 * 8 + y]));
        let rounded: Vec<f32> = transformed.zip(table).map(|(value, q)| (value / q).round() * q).collect();
        let rows: Vec<f32> =
            (0..64).map(|i| sum(&|k| rounded[i / 8 * 8 + k] * basis[k * 8 + i % 8])).collect();
        for (y, x) in
            (top..height.min(top + 8)).flat_map(|y| (left..width.min(left + 8)).map(move |x| (y, x)))
        {
            plane[y * width + x] = sum(&|k| rows[k * 8 + x - left] * basis[k * 8 + y - top]) + 128.0;
        }
    }
}

/// The standard's tables (ITU-T T.81, annex K), row by row.
#[rustfmt::skip]
const LUMINANCE: [u8; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
#[rustfmt::skip]
const CHROMINANCE: [u8; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

#[cfg(test)]
mod tests {
    use super::*;
    use branchynet::data::Train;

    #[test]
    #[rustfmt::skip]
    fn corruptions_agree_with_pillow_and_scikit_image() -> Result<()> {
        // Printed by notebooks/src/corruptions.py.
        let expected = [
            (Corruption::Blur, [139, 206, 196, 175, 144, 190, 103, 125, 152, 55, 47, 92, 85]),
            (Corruption::Brightness, [141, 242, 250, 200, 174, 228, 127, 149, 172, 53, 36, 129, 127]),
            (Corruption::Contrast, [129, 162, 165, 154, 141, 156, 120, 128, 136, 94, 89, 113, 113]),
            (Corruption::Pixels, [120, 194, 210, 204, 152, 198, 106, 125, 176, 56, 41, 91, 91]),
            (Corruption::Jpeg, [159, 205, 187, 185, 139, 196, 92, 135, 153, 30, 56, 48, 89]),
        ];
        let value = |i: usize| {
            let (channel, y, x) = (i / 256, i / 16 % 16, i % 16);
            let wave = (0.5 * x as f64 + 0.3 * y as f64 + channel as f64).sin();
            (120.0 + 90.0 * wave + ((7 * x + 11 * y + 5 * channel) % 30) as f64) as u8
        };
        let split = Split::<Train>::new((0..768).map(value).collect(), vec![0], [3, 16, 16])?;
        for (corruption, expected) in expected {
            let corrupted = corruption.of(&split, 3, 0)?;
            let ours = corrupted.image(0).iter().step_by(61).map(|&byte| i32::from(byte));
            // Pillow's transforms are whole numbers.
            let near = if corruption == Corruption::Jpeg { 6 } else { 1 };
            for (ours, theirs) in ours.zip(expected) {
                assert!((ours - theirs).abs() <= near, "{corruption}: {ours}, expected {theirs}");
            }
        }
        // Noise: its deviation, and the same again for the same seed.
        let grey = Split::<Train>::new(vec![128; 3072 * 20], vec![0; 20], [3, 32, 32])?;
        let noise = |seed| -> Result<Vec<u8>> {
            let noisy = Corruption::Noise.of(&grey, 5, seed)?;
            Ok((0..20).flat_map(|i| noisy.image(i).to_vec()).collect())
        };
        let values = noise(3)?;
        let variance = values.iter().map(|&v| (f64::from(v) - 127.5).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((variance.sqrt() / 255.0 - 0.1).abs() < 0.002);
        assert!(values == noise(3)? && values != noise(4)? && values[..3072] != values[3072..6144]);
        assert!(Corruption::Noise.of(&grey, 6, 0).is_err());
        Ok(())
    }
}
