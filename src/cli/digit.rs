//! A digit on its paper, prepared as NIST prepared those of MNIST (LeCun et al., "Gradient-based learning applied to
//! document recognition", 1998, section III-A): white on black, its box scaled to 20×20 pixels with its proportions
//! kept, its centre of mass in the middle of 28×28.

use image::imageops::{FilterType, replace, resize};
use image::{GrayImage, Luma};

/// What is drawn on a picture.
pub struct Ink {
    /// How far each pixel is from the paper, on the side of the ink.
    strength: GrayImage,
    /// Ink is above it.
    threshold: u8,
    /// The mean strengths of paper and ink.
    means: [f64; 2],
    /// The ink is darker than the paper.
    pub dark: bool,
}

impl Ink {
    /// Finds it. Paper is what the border shows, lit from one side maybe: a plane through the medians of the four sides.
    /// Ink is what is further from it than Otsu's threshold (1979), between whose sides the variance is largest. `None`
    /// where both are hardly apart: nothing is drawn.
    pub fn of(picture: &GrayImage) -> Option<Self> {
        let (width, height) = picture.dimensions();
        let median = |side: &mut dyn Iterator<Item = (u32, u32)>| {
            let mut values: Vec<u8> = side.map(|(x, y)| picture.get_pixel(x, y).0[0]).collect();
            let middle = values.len() / 2;
            f32::from(*values.select_nth_unstable(middle).1)
        };
        let [left, right] = [0, width - 1].map(|x| median(&mut (0..height).map(|y| (x, y))));
        let [top, bottom] = [0, height - 1].map(|y| median(&mut (0..width).map(|x| (x, y))));
        let middle = (left + right + top + bottom) / 4.0;
        let slope =
            |change: f32, length: u32| move |at: u32| change * ((at as f32 + 0.5) / length as f32 - 0.5);
        let (across, down) = (slope(right - left, width), slope(bottom - top, height));
        let from_paper =
            |(x, y, value): (u32, u32, &Luma<u8>)| f32::from(value.0[0]) - (middle + across(x) + down(y));
        let from_paper: Vec<f32> = picture.enumerate_pixels().map(from_paper).collect();
        // Too large and too small values end at 255 and 0.
        let distance: Vec<u8> = from_paper.iter().map(|value| (value.abs() + 0.5) as u8).collect();
        let (threshold, _) = otsu(&distance)?;
        let ink = from_paper.iter().zip(&distance).filter(|(_, distance)| **distance > threshold);
        let dark = ink.map(|(value, _)| value).sum::<f32>() < 0.0;
        let sign = if dark { -1.0 } else { 1.0 };
        let strength: Vec<u8> = from_paper.iter().map(|value| (sign * value + 0.5) as u8).collect();
        let (threshold, means) = otsu(&strength)?;
        let strength = GrayImage::from_raw(width, height, strength)?;
        Some(Self { strength, threshold, means, dark })
    }

    /// The digit cut out, scaled and centred for images of `side`×`side`, and what speaks against its being one. A
    /// picture where it has that size and place already, as MNIST's own, is scaled as a whole.
    pub fn cut_out(&self, side: u32) -> (GrayImage, Option<&'static str>) {
        let (places, row) = (self.parts(), self.strength.width() as usize);
        let range = |of: &dyn Fn(usize) -> usize| {
            let places = || places.iter().map(|&at| of(at) as u32);
            let first = places().min().unwrap_or(0);
            (first, places().max().unwrap_or(0) + 1 - first)
        };
        let ((left, width), (top, height)) = (range(&|at| at % row), range(&|at| at / row));
        let (length, longest) = (f64::from(side), f64::from(width.max(height)));
        let whole = length / f64::from(self.strength.width());
        let there = self.strength.width() == self.strength.height()
            && (0.6 * length..=length * 20.0 / 28.0).contains(&(longest * whole))
            && centre(&self.strength).iter().all(|centre| (centre * whole - length / 2.0).abs() < 1.0);
        let mut digit = if there {
            resize(&self.strength, side, side, FilterType::Triangle)
        } else {
            // What is near the paper is its grain.
            let level = |x, y| {
                let strength = f64::from(self.strength.get_pixel(left + x, top + y).0[0]);
                let share = (strength - self.means[0]) / (self.means[1] - self.means[0]);
                Luma([((share - 0.3) / 0.7 * 255.0).round() as u8])
            };
            let scaled = |of: u32| (f64::from(of) / longest * length * 20.0 / 28.0).round().max(1.0) as u32;
            let digit = GrayImage::from_fn(width, height, level);
            resize(&digit, scaled(width), scaled(height), FilterType::Triangle)
        };
        // Thin strokes have become grey.
        let most = f64::from(digit.iter().copied().max().unwrap_or(0).max(1));
        digit.iter_mut().for_each(|value| *value = (f64::from(*value) * 255.0 / most).round() as u8);
        let corner = |centre: f64| if there { 0 } else { (length / 2.0 - centre).round() as i64 };
        let [x, y] = centre(&digit).map(corner);
        let mut image = GrayImage::new(side, side);
        replace(&mut image, &digit, x, y);
        let odd = if 2 * places.len() > self.strength.len() {
            Some("more than half of it is ink: paper all around is expected")
        } else if width > 2 * height {
            Some("more than twice as wide as high: one digit in a picture is expected")
        } else {
            None
        };
        (image, odd)
    }

    /// The places of the ink, without specks: connected parts of less than a tenth of the largest.
    fn parts(&self) -> Vec<usize> {
        let [width, height] = [self.strength.width(), self.strength.height()].map(|length| length as usize);
        let mut open: Vec<bool> = self.strength.iter().map(|&value| value > self.threshold).collect();
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for start in 0..open.len() {
            if !std::mem::take(&mut open[start]) {
                continue;
            }
            let (mut part, mut next) = (vec![start], 0);
            while let Some(&at) = part.get(next) {
                next += 1;
                let around = |at: usize, end: usize| at.saturating_sub(1)..(at + 2).min(end);
                for y in around(at / width, height) {
                    for to in around(at % width, width).map(|x| y * width + x) {
                        if std::mem::take(&mut open[to]) {
                            part.push(to);
                        }
                    }
                }
            }
            parts.push(part);
        }
        let largest = parts.iter().map(Vec::len).max().unwrap_or(0);
        parts.retain(|part| part.len() * 10 >= largest);
        parts.concat()
    }
}

/// Otsu's threshold, and the means of what is at most as large and of what is larger. `None` where these are hardly apart.
fn otsu(values: &[u8]) -> Option<(u8, [f64; 2])> {
    let mut counts = [0u32; 256];
    values.iter().for_each(|&value| counts[usize::from(value)] += 1);
    let counts = counts.map(f64::from);
    let total: f64 = counts.iter().enumerate().map(|(value, count)| value as f64 * count).sum();
    let all = values.len() as f64;
    let (mut below, mut total_below, mut most, mut best) = (0.0, 0.0, 0.0, None);
    for (value, count) in counts.into_iter().enumerate() {
        below += count;
        total_below += value as f64 * count;
        let means = [total_below / below, (total - total_below) / (all - below)];
        // No number where one side is empty, and then not above the most.
        let variance = below * (all - below) * (means[1] - means[0]).powi(2);
        if variance > most {
            (most, best) = (variance, Some((value as u8, means)));
        }
    }
    best.filter(|(_, means)| means[1] - means[0] >= 16.0)
}

/// The centre of mass (x, y), in pixels from the left upper corner.
fn centre(picture: &GrayImage) -> [f64; 2] {
    let mut sums = [0.0; 3];
    for (x, y, value) in picture.enumerate_pixels() {
        for (sum, by) in sums.iter_mut().zip([f64::from(x) + 0.5, f64::from(y) + 0.5, 1.0]) {
            *sum += by * f64::from(value.0[0]);
        }
    }
    [sums[0] / sums[2], sums[1] / sums[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ink_fills_20_pixels_and_its_mass_is_in_the_middle() {
        // A bar of 12×40 pixels in a corner of paper that is lit from one side, with a speck of dust elsewhere.
        let bar = |x: u32, y: u32| (5..17).contains(&x) && (100..140).contains(&y);
        for (paper, ink, light) in [(180, 60, 0), (180, 60, 60), (250, 0, 0), (0, 255, 0), (40, 160, 60)] {
            let pixel = |x: u32, y: u32| {
                let dust = (150..153).contains(&x) && y == 20;
                Luma([((if bar(x, y) || dust { ink } else { paper }) + light * x as i32 / 200) as u8])
            };
            let found = Ink::of(&GrayImage::from_fn(200, 150, pixel)).expect("ink");
            assert_eq!(found.dark, ink < paper);
            let (image, odd) = found.cut_out(28);
            assert_eq!(odd, None);
            for (x, y, value) in image.enumerate_pixels() {
                let inside = (11..17).contains(&x) && (4..24).contains(&y);
                assert_eq!(value.0[0] > 200, inside, "{paper} {ink} {light}: {value:?} at {x}, {y}");
                assert!(inside || value.0[0] == 0, "{value:?} at {x}, {y}");
            }
        }
        assert!(Ink::of(&GrayImage::from_pixel(30, 20, Luma([90]))).is_none());
        // What has its size and place already stays as it is, whatever its greys.
        let ready = GrayImage::from_fn(28, 28, |x, y| {
            Luma([if (9..19).contains(&x) && (4..24).contains(&y) { 155 + 10 * (x - 8) as u8 } else { 0 }])
        });
        assert_eq!(Ink::of(&ready).expect("ink").cut_out(28).0, ready);
    }
}
