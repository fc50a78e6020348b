//! Early exit: the network, its plan and the replay of a record agree, and choices of thresholds
//! are exact.

mod common;

use branchynet::data::{Split, Test, Validation};
use branchynet::network::{Layer, branch, conv, dropout, linear, lrn, max_pool, relu};
use branchynet::plan::Plan;
use branchynet::record::{ExitRecord, Outcome, knee, undominated};
use branchynet::{Network, Result, Rng, b_lenet, latency};
use candle_core::Device;
use rand::{Rng as _, SeedableRng};

fn noise(count: usize, image: [usize; 3]) -> Result<Split<Test>> {
    let mut rng = Rng::seed_from_u64(4);
    let pixels = (0..count * image.iter().product::<usize>())
        .map(|_| rng.random())
        .collect();
    Split::new(pixels, (0..count).map(|i| (i % 10) as u8).collect(), image)
}

/// Three exits, and every kind of layer in places where a plan treats it differently.
fn all_kinds() -> Vec<Layer> {
    vec![
        conv(3, 8, 5, 2),
        branch([
            relu(),
            max_pool(3, 2),
            lrn(),
            conv(8, 6, 3, 1),
            relu(),
            max_pool(3, 2),
            linear(96, 10),
        ]),
        relu(),
        max_pool(3, 2),
        lrn(),
        Layer::Conv {
            inputs: 8,
            outputs: 12,
            kernel: 3,
            padding: 1,
            stride: 2,
        },
        branch([lrn(), relu(), linear(192, 10)]),
        relu(),
        linear(192, 20),
        relu(),
        dropout(0.5),
        linear(20, 10),
    ]
}

#[test]
fn classify_plan_and_replay_agree_bit_for_bit() -> Result<()> {
    for (layers, image) in [(b_lenet(), [1, 28, 28]), (all_kinds(), [3, 16, 16])] {
        let network = Network::new("test", image, layers, 3, &Device::Cpu)?;
        let split = noise(300, image)?;
        let record = ExitRecord::collect(&network, &split)?;
        let images = split.batch(&(0..split.len()).collect::<Vec<_>>(), &Device::Cpu)?;
        let mut plan = Plan::new(&network)?;
        // Thresholds between the entropies that occur, so that every exit gets its share; and the
        // extremes.
        let quantile = |exit: usize, q: usize| {
            let mut entropies: Vec<f64> = record
                .readings(exit)
                .iter()
                .map(|reading| reading.entropy)
                .collect();
            entropies.sort_by(f64::total_cmp);
            entropies[entropies.len() * q / 100]
        };
        let free = network.exits() - 1;
        let mut choices = vec![vec![0.0; free], vec![f64::INFINITY; free]];
        choices.extend([20, 50, 90].map(|q| (0..free).map(|exit| quantile(exit, q)).collect()));
        for thresholds in choices {
            let replay = record.answers(&thresholds)?;
            assert_eq!(
                network.classify(&images, &thresholds)?,
                replay,
                "classify at {thresholds:?}"
            );
            let pixels = images.flatten_from(1)?.to_vec2::<f32>()?;
            for (i, pixels) in pixels.iter().enumerate() {
                assert_eq!(
                    plan.classify(pixels, &thresholds)?,
                    replay[i],
                    "plan, sample {i} at {thresholds:?}"
                );
            }
            let outcome = record.outcome(&thresholds, &vec![1.0; network.exits()])?;
            assert_eq!(outcome.samples(), 300);
            assert_eq!(
                outcome.leaving[free],
                replay.iter().filter(|answer| answer.exit == free).count()
            );
        }
        // In input order: shuffled images give shuffled answers.
        let thresholds: Vec<f64> = (0..free).map(|exit| quantile(exit, 50)).collect();
        let reversed = split.batch(&(0..split.len()).rev().collect::<Vec<_>>(), &Device::Cpu)?;
        let mut answers = network.classify(&reversed, &thresholds)?;
        answers.reverse();
        assert_eq!(answers, record.answers(&thresholds)?);
    }
    Ok(())
}

#[test]
fn wrong_thresholds_and_images_are_refused() -> Result<()> {
    let network = Network::new("test", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
    let images = noise(2, [1, 28, 28])?.batch(&[0, 1], &Device::Cpu)?;
    for (thresholds, part) in [
        (vec![], "2 exits need 1 thresholds"),
        (vec![0.1, 0.2], "got 2"),
        (vec![-0.1], "at least 0"),
        (vec![f64::NAN], "NaN"),
    ] {
        let error = network
            .classify(&images, &thresholds)
            .expect_err(part)
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = Plan::new(&network)?
        .classify(&[0.0; 3], &[0.1])
        .expect_err("too few pixels")
        .to_string();
    assert!(error.contains("images of 784 values, got 3"), "{error}");
    Ok(())
}

/// Logits of `exits` exits for random samples, later exits better, with ties among the entropies.
fn random_record(samples: usize, exits: usize, seed: u64) -> Result<ExitRecord<Validation>> {
    let mut rng = Rng::seed_from_u64(seed);
    let labels: Vec<u8> = (0..samples).map(|_| rng.random_range(0..4)).collect();
    let logits = (0..exits)
        .map(|exit| {
            let row = |&label: &u8| {
                let sure = rng.random_range(0..12) as f32 / 2.0;
                let right = rng.random_range(0..10) < 5 + 2 * exit as i32 + sure as i32 / 2;
                let answer = if right { label } else { (label + 1) % 4 };
                (0..4)
                    .map(|class| if class == answer { sure } else { 0.0 })
                    .collect::<Vec<f32>>()
            };
            labels.iter().flat_map(row).collect()
        })
        .collect();
    ExitRecord::from_logits(logits, labels)
}

/// The front found by trying every threshold that can make a difference, one by one.
fn brute_force(record: &ExitRecord<Validation>, costs: &[f64]) -> Result<Vec<(usize, f64)>> {
    let candidates = |exit: usize| {
        let mut all: Vec<f64> = record
            .readings(exit)
            .iter()
            .map(|reading| reading.entropy)
            .chain([0.0, f64::INFINITY])
            .collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        all
    };
    let mut outcomes = Vec::new();
    for &first in &candidates(0) {
        if record.exits() == 2 {
            outcomes.push(record.outcome(&[first], costs)?);
            continue;
        }
        for &second in &candidates(1) {
            outcomes.push(record.outcome(&[first, second], costs)?);
        }
    }
    Ok(points(&undominated(outcomes)))
}

fn points(front: &[Outcome]) -> Vec<(usize, f64)> {
    front
        .iter()
        .map(|o| (o.right, (o.cost * 1e9).round() / 1e9))
        .collect()
}

#[test]
fn the_pareto_front_is_exact() -> Result<()> {
    for seed in 0..6 {
        for (exits, costs) in [
            (2, vec![1.0, 4.0]),
            (3, vec![1.0, 2.5, 4.0]),
            (3, vec![1.0, 5.0, 4.0]),
        ] {
            let record = random_record(70, exits, seed)?;
            let front = record.pareto_front(&costs)?;
            assert_eq!(
                points(&front),
                brute_force(&record, &costs)?,
                "{exits} exits, seed {seed}"
            );
            // The thresholds of every point give just that point.
            for point in &front {
                assert_eq!(&record.outcome(&point.thresholds, &costs)?, point);
            }
        }
    }
    Ok(())
}

#[test]
fn the_curve_holds_every_distinct_threshold() -> Result<()> {
    let record = random_record(200, 2, 9)?;
    let curve = record.curve(&[1.0, 3.0])?;
    let mut entropies: Vec<f64> = record
        .readings(0)
        .iter()
        .map(|reading| reading.entropy)
        .collect();
    entropies.sort_by(f64::total_cmp);
    entropies.dedup();
    assert_eq!(curve.len(), entropies.len() + 1);
    for point in &curve {
        assert_eq!(&record.outcome(&point.thresholds, &[1.0, 3.0])?, point);
    }
    Ok(())
}

#[test]
fn choices_meet_their_bounds_or_say_why_not() -> Result<()> {
    let record = random_record(500, 3, 2)?;
    let costs = [1.0, 2.0, 4.0];
    let front = record.pareto_front(&costs)?;
    let best = front.last().expect("a front").accuracy();
    for point in &front {
        let for_accuracy = record.choose_for_accuracy(point.accuracy(), &costs)?;
        assert_eq!(
            (for_accuracy.right, for_accuracy.cost),
            (point.right, point.cost)
        );
        let for_cost = record.choose_for_cost(point.cost, &costs)?;
        assert_eq!((for_cost.right, for_cost.cost), (point.right, point.cost));
    }
    let error = record
        .choose_for_accuracy(best + 0.01, &costs)
        .expect_err("too good")
        .to_string();
    assert!(error.contains("no thresholds reach"), "{error}");
    let error = record
        .choose_for_cost(0.5, &costs)
        .expect_err("too cheap")
        .to_string();
    assert!(error.contains("the cheapest cost 1"), "{error}");
    assert!(
        record
            .curve(&costs)
            .expect_err("3 exits")
            .to_string()
            .contains("use pareto_front")
    );
    assert!(
        record
            .outcome(&[0.1, 0.1], &[1.0])
            .expect_err("1 cost")
            .to_string()
            .contains("3 exits need as many costs")
    );
    assert_eq!(record.grid(&[0.0, 0.5, 2.0], &costs)?.len(), 9);
    Ok(())
}

#[test]
fn the_knee_lies_where_the_front_bends() {
    let outcome = |cost: f64, right: usize| Outcome {
        thresholds: vec![cost],
        right,
        leaving: vec![50, 50],
        cost,
    };
    let front = [
        outcome(1.0, 10),
        outcome(1.5, 60),
        outcome(2.0, 85),
        outcome(4.0, 90),
        outcome(8.0, 92),
    ];
    assert_eq!(knee(&front).map(|o| o.right), Some(85));
    assert_eq!(knee(&front[..1]).map(|o| o.right), Some(10));
    assert!(knee(&[]).is_none());
}

#[test]
fn timing_measures_every_contender() -> Result<()> {
    let layers = b_lenet();
    let network = Network::new("test", [1, 28, 28], layers.clone(), 0, &Device::Cpu)?;
    let baseline = Network::new(
        "test",
        [1, 28, 28],
        branchynet::network::without_branches(&layers),
        0,
        &Device::Cpu,
    )?;
    let images: Vec<Vec<f32>> = noise(50, [1, 28, 28])?
        .batch(&(0..50).collect::<Vec<_>>(), &Device::Cpu)?
        .flatten_from(1)?
        .to_vec2()?;
    let timing = latency::measure(&network, &baseline, &images, 4)?;
    let mix = latency::measure_mix(&network, &baseline, &images, &[0.9, 0.1], 4)?;
    assert_eq!(timing.exits.len(), 2);
    for latency in [&timing.baseline, &mix.baseline, &mix.mix, &mix.trunk_only]
        .into_iter()
        .chain(&timing.exits)
        .chain(&timing.trunk_only)
    {
        assert_eq!(latency.count, 200);
        assert!(latency.median > 0.0 && latency.median <= latency.p95);
    }
    for shares in [&[1.0][..], &[0.5, 0.4], &[f64::NAN, 1.0]] {
        let error = latency::measure_mix(&network, &baseline, &images, shares, 1)
            .expect_err("shares that do not fit")
            .to_string();
        assert!(error.contains("shares that add up to 1"), "{error}");
    }
    assert!(latency::measure(&network, &baseline, &[], 1).is_err());
    Ok(())
}

#[test]
fn batches_are_timed_where_the_networks_are() -> Result<()> {
    for device in common::devices() {
        let layers = b_lenet();
        let trunk = branchynet::network::without_branches(&layers);
        let network = Network::new("test", [1, 28, 28], layers, 0, device)?;
        let baseline = Network::new("test", [1, 28, 28], trunk, 0, device)?;
        let images: Vec<Vec<f32>> = noise(20, [1, 28, 28])?
            .batch(&(0..20).collect::<Vec<_>>(), &Device::Cpu)?
            .flatten_from(1)?
            .to_vec2()?;
        let measure = |shares: &[f64], sizes: &[usize]| {
            latency::measure_batches(&network, &baseline, &images, shares, sizes, 3)
        };
        for shares in [[0.9, 0.1], [0.0, 1.0], [1.0, 0.0]] {
            let times = measure(&shares, &[1, 3])?;
            assert_eq!(times.iter().map(|t| t.batch).collect::<Vec<_>>(), [1, 3]);
            assert!(times.iter().all(|t| t.baseline > 0.0 && t.early_exit > 0.0));
            assert_eq!(latency::batches_frame(&times)?.height(), 2);
        }
        assert!(measure(&[0.5, 0.4], &[1]).is_err());
        assert!(measure(&[0.5, 0.5], &[0]).is_err());
    }
    Ok(())
}
