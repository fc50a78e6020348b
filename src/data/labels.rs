//! Labels as others write them, which classes they are, and which samples are held out or drawn by them.

use crate::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::collections::BTreeSet;

/// Most classes that a data set has.
const MOST_CLASSES: usize = 1 << 16;

/// Seed of the split into Train and Validation and of parts: part of what the data set is, not of an experiment.
const SPLIT_SEED: u64 = 1;

/// Labels that are whole numbers from 0, whatever their type is. Fails on the first that is not.
pub fn whole(numbers: impl Iterator<Item = f64>) -> Result<Vec<u32>, String> {
    let label = |(sample, number): (usize, f64)| match number {
        x if x >= 0.0 && x <= f64::from(u32::MAX) && x.fract() == 0.0 => Ok(x as u32),
        x => Err(format!(
            "the label of sample {sample} is {x}, expected a whole number from 0 to {}; leave out samples without a label",
            u32::MAX
        )),
    };
    numbers.enumerate().map(label).collect()
}

/// Has the labels that occur, in ascending order, be the classes 0, 1, …, and returns the classes' names, which are
/// those labels. Fails where there are too many.
pub(super) fn number(parts: [&mut Vec<u32>; 2]) -> Result<Vec<String>, String> {
    let seen: Vec<u32> =
        parts.iter().flat_map(|labels| labels.iter()).copied().collect::<BTreeSet<_>>().into_iter().collect();
    if seen.len() > MOST_CLASSES {
        return Err(format!("{} different labels, expected at most {MOST_CLASSES}", seen.len()));
    }
    for label in parts.into_iter().flatten() {
        *label = seen.partition_point(|seen| seen < label) as u32;
    }
    Ok(seen.iter().map(u32::to_string).collect())
}

/// Labels as they are stored and summed up, and how many bytes each has: one where all fit.
pub fn bytes(labels: &[u32]) -> (usize, Vec<u8>) {
    match labels.iter().map(|&label| u8::try_from(label)).collect::<Result<Vec<u8>, _>>() {
        Ok(bytes) => (1, bytes),
        Err(_) => (4, labels.iter().flat_map(|label| label.to_le_bytes()).collect()),
    }
}

/// How many samples each class has: at least so many classes, more where labels are larger.
pub fn counts(labels: &[u32], classes: usize) -> Vec<usize> {
    let largest = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut counts = vec![0; classes.max(largest)];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

/// So many of the samples to hold out, every class in proportion, but for a class's only sample, which stays. In ascending
/// order.
pub(super) fn stratified(labels: &[u32], classes: usize, held_out: usize) -> Vec<usize> {
    let mut rng = Rng::seed_from_u64(SPLIT_SEED);
    let mut by_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(i, &label)| by_class[label as usize].push(i));
    let mut chosen = Vec::new();
    let mut seen = 0;
    for class in &mut by_class {
        class.shuffle(&mut rng);
        // Rounding is carried over, so that the classes' shares add up to `held_out`.
        seen += class.len();
        let share = seen * held_out / labels.len() - chosen.len();
        chosen.extend_from_slice(&class[..share.min(class.len().saturating_sub(1))]);
    }
    chosen.sort_unstable();
    chosen
}

/// So many of the samples, drawn by a fixed seed: one of each class first, the others in proportion. In ascending order.
pub(super) fn drawn(labels: &[u32], classes: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.shuffle(&mut Rng::seed_from_u64(SPLIT_SEED));
    let sizes = counts(labels, classes);
    let mut taken = vec![0; sizes.len()];
    // What share of its class comes before a sample.
    let mut shares: Vec<(f64, usize)> = Vec::with_capacity(labels.len());
    for sample in order {
        let class = labels[sample] as usize;
        shares.push((f64::from(taken[class]) / sizes[class] as f64, sample));
        taken[class] += 1;
    }
    shares.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut chosen: Vec<usize> = shares.into_iter().take(count).map(|(_, sample)| sample).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, Train, Validation};

    #[test]
    fn labels_are_whole_numbers_from_0() {
        assert_eq!(whole([0.0, 65_535.0, 3.0].into_iter()), Ok(vec![0, 65_535, 3]));
        for wrong in [-1.0, 3.7, f64::NAN, 5e9] {
            let error = whole([0.0, wrong].into_iter()).expect_err("no label");
            assert!(error.contains("sample 1") && error.contains(&wrong.to_string()), "{error}");
        }
    }

    #[test]
    fn labels_that_occur_are_the_classes() {
        let (mut train, mut test) = (vec![26, 1, 3], vec![3, 7]);
        assert_eq!(number([&mut train, &mut test]), Ok(["1", "3", "7", "26"].map(str::to_string).to_vec()));
        assert_eq!((train, test), (vec![3, 0, 1], vec![1, 2]));
        let mut many: Vec<u32> = (0..=65_536).collect();
        assert!(number([&mut many, &mut vec![]]).is_err());
        many.pop();
        assert_eq!(number([&mut many, &mut vec![]]).map(|names| names.len()), Ok(65_536));
    }

    #[test]
    fn a_class_s_only_sample_is_not_held_out() {
        // The old rule took the single sample of class 2: 1000 · 100 / 1000 − 99.
        let labels = [vec![0; 600], vec![1; 399], vec![2]].concat();
        let held_out = stratified(&labels, 3, 100);
        let all = Split::<Train>::new(labels.iter().map(|&label| label as u8).collect(), labels, [1, 1, 1]);
        let (rest, off) = all.expect("a byte for each label").split_off::<Validation>(&held_out);
        assert_eq!((rest.len(), off.len()), (901, 99));
        assert!(!held_out.contains(&999) && rest.labels()[900] == 2);
        for i in 0..901 {
            assert_eq!(u32::from(rest.image(i)[0]), rest.labels()[i]);
        }
        let off_labels: Vec<u32> = held_out.iter().map(|&i| if i < 600 { 0 } else { 1 }).collect();
        assert_eq!(off.labels(), off_labels);
        // Nor are all of many classes of one sample each.
        assert!(stratified(&(0..50).collect::<Vec<_>>(), 50, 5).is_empty());
    }

    #[test]
    fn parts_have_all_classes_in_proportion() {
        let labels = [vec![0; 600], vec![1; 300], vec![2]].concat();
        let of = |count| counts(&drawn(&labels, 3, count).iter().map(|&i| labels[i]).collect::<Vec<_>>(), 3);
        assert_eq!((of(3), of(31), of(301)), (vec![1, 1, 1], vec![20, 10, 1], vec![200, 100, 1]));
        assert_eq!(drawn(&labels, 3, 5000), (0..901).collect::<Vec<_>>());
        let (small, large) = (drawn(&labels, 3, 40), drawn(&labels, 3, 80));
        assert!(small.iter().all(|i| large.contains(i)) && small != (0..40).collect::<Vec<_>>());
    }
}
