//! Thresholds as text: what is printed can be given back.

/// The decimal number with the fewest digits at which an exit decides as at `threshold` for each of these samples, given
/// by how unsure the exit is of them.
pub(super) fn shortest(threshold: f64, uncertainties: impl Iterator<Item = f64>) -> f64 {
    let (mut leaves, mut stays) = (f64::NEG_INFINITY, f64::INFINITY);
    for uncertainty in uncertainties {
        if uncertainty < threshold {
            leaves = leaves.max(uncertainty);
        } else {
            stays = stays.min(uncertainty);
        }
    }
    let decides_alike = |candidate: &f64| leaves < *candidate && *candidate <= stays;
    let rounded = |digits: usize, to: f64| format!("{to:.digits$e}").parse().unwrap_or(threshold);
    let candidates = |digits: usize| {
        let nearest: f64 = rounded(digits, threshold);
        // The nearest number of so many digits, and its neighbours.
        let step = 10f64.powi((threshold.abs().log10().floor() as i32).saturating_sub(digits as i32));
        [nearest, rounded(digits, nearest - step), rounded(digits, nearest + step)]
    };
    (0..17).flat_map(candidates).find(decides_alike).unwrap_or(threshold)
}

#[cfg(test)]
mod tests {
    use super::shortest;

    #[test]
    fn the_shortest_number_decides_alike() {
        for (threshold, uncertainties, expected) in [
            (0.123457, vec![0.123456, 0.2, 0.7], 0.2),
            (0.123457, vec![0.123456, 0.1235], 0.1235),
            (3.2e-7, vec![3.1e-7, 3.3e-7], 3.2e-7),
            (0.5, vec![0.5, 0.4999999], 0.5),
            (0.0, vec![0.1, f64::NAN], 0.0),
            (1e-12, vec![0.0, 0.1], 1e-12),
            (f64::INFINITY, vec![0.1, 2.0], f64::INFINITY),
            (0.30000000000000004, vec![0.3, 0.30000000000000004], 0.30000000000000004),
            (f64::NEG_INFINITY, vec![-3.0], f64::NEG_INFINITY),
        ] {
            let found = shortest(threshold, uncertainties.iter().copied());
            for uncertainty in uncertainties {
                assert_eq!(uncertainty < found, uncertainty < threshold, "{threshold}: {found}");
            }
            assert_eq!(found, expected);
        }
    }
}
