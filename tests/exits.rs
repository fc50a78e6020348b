//! Early exit: the network, its plan and the replay of a record agree, and choices of thresholds
//! are exact.

mod common;

use branchynet::data::{Split, Test, Validation};
use branchynet::exits::{
    Criterion, ExitPolicy, ExitRecord, Gate, Loss, OperatingPoint, Plan, Readout, Timer, Watch, knee,
    pareto_optimal,
};
use branchynet::networks::{
    Layer, b_lenet, branch, conv, dropout, gelu, linear, lrn, max_pool, max_pool_inside, plain_norm, relu,
    scale, without_branches,
};
use branchynet::{Network, Result, Rng};
use candle_core::Device;
use rand::{Rng as _, SeedableRng};

fn noise(count: usize, image: [usize; 3]) -> Result<Split<Test>> {
    let mut rng = Rng::seed_from_u64(4);
    let pixels = (0..count * image.iter().product::<usize>()).map(|_| rng.random()).collect();
    Split::new(pixels, (0..count).map(|i| (i % 10) as u32).collect(), image)
}

/// Three exits, and every kind of layer in places where a plan treats it differently.
fn all_kinds() -> Vec<Layer> {
    vec![
        conv(3, 8, 5, 2),
        branch([relu(), max_pool(3, 2), lrn(), conv(8, 6, 3, 1), relu(), max_pool(3, 2), linear(96, 10)]),
        relu(),
        max_pool(3, 2),
        lrn(),
        max_pool_inside(1, 1),
        plain_norm(8),
        gelu(),
        conv(8, 12, 3, 1).stride(2).expect("convolutions have a stride"),
        branch([lrn(), relu(), linear(192, 10)]),
        gelu(),
        linear(192, 20),
        scale(1.5),
        relu(),
        dropout(0.5),
        linear(20, 10),
    ]
}

/// Ways to read so many exits: by the criteria that have names, by a gate learned from `fit`, and by one of one's own that
/// looks at all exits so far; with temperatures, and with exits that answer together.
fn readouts(fit: &ExitRecord<Validation>) -> Vec<Readout> {
    let mut all = Criterion::NAMED.to_vec();
    all.push(Criterion::Gate(Gate::fit(fit)));
    all.push(Criterion::own("minus the mean of the largest logits", |seen| {
        let largest = |z: &[f32]| z.iter().copied().fold(f32::MIN, f32::max);
        let all: Vec<f32> = seen.exits().map(largest).collect();
        -f64::from(all.iter().sum::<f32>()) / all.len() as f64
    }));
    let temperatures: Vec<f64> = (0..fit.exits()).map(|exit| 0.7 + 0.8 * exit as f64).collect();
    let with = |criterion: Criterion| {
        [(vec![], false), (temperatures.clone(), false), (vec![], true), (temperatures.clone(), true)]
            .map(|(temperatures, ensemble)| Readout { criterion: criterion.clone(), temperatures, ensemble })
    };
    all.into_iter().flat_map(with).collect()
}

#[test]
fn classify_plan_and_replay_agree_bit_for_bit() -> Result<()> {
    for (layers, image) in [(b_lenet(), [1, 28, 28]), (all_kinds(), [3, 16, 16])] {
        let network = Network::new("test", image, layers, 3, &Device::Cpu)?;
        let split = noise(300, image)?;
        let images = split.batch(&(0..split.len()).collect::<Vec<_>>(), &Device::Cpu)?;
        let pixels = images.flatten_from(1)?.to_vec2::<f32>()?;
        let mut plan = Plan::new(&network)?;
        let all = ExitRecord::collect(&network, &split)?;
        let logits = (0..network.exits()).map(|exit| all.logits(exit).to_vec()).collect();
        let fit = ExitRecord::from_logits(logits, all.labels().to_vec())?;
        for readout in readouts(&fit) {
            let record = all.read_by(&readout)?;
            // Thresholds between the values that occur, so that every exit gets its share; and the
            // extremes.
            let quantile = |exit: usize, q: usize| {
                let predictions = record.predictions(exit).iter();
                let mut values: Vec<f64> = predictions.map(|prediction| prediction.uncertainty).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() * q / 100]
            };
            let free = network.exits() - 1;
            let mut choices = vec![vec![0.0; free], vec![f64::INFINITY; free]];
            choices.extend([20, 50, 90].map(|q| (0..free).map(|exit| quantile(exit, q)).collect()));
            for thresholds in choices {
                let policy = ExitPolicy::new(readout.clone(), thresholds.clone());
                let replay = record.answers(&thresholds)?;
                let answers = network.classify(&images, &policy)?;
                assert_eq!(answers, replay, "classify by {policy:?}");
                let with_logits = network.classify_with_logits(&images, &policy)?;
                for (i, (answer, logits)) in with_logits.iter().enumerate() {
                    assert_eq!(*answer, replay[i]);
                    assert_eq!(logits[..], record.logits(answer.exit)[i * 10..][..10]);
                }
                for (i, pixels) in pixels.iter().enumerate() {
                    let answer = plan.classify(pixels, &policy)?;
                    assert_eq!(answer, replay[i], "plan, sample {i} by {policy:?}");
                }
                let outcome = record.operating_point(&thresholds, &vec![1.0; network.exits()])?;
                assert_eq!(outcome.samples(), 300);
                assert_eq!(outcome.leaving[free], replay.iter().filter(|answer| answer.exit == free).count());
            }
            // In input order: shuffled images give shuffled answers.
            let thresholds: Vec<f64> = (0..free).map(|exit| quantile(exit, 50)).collect();
            let reversed = split.batch(&(0..split.len()).rev().collect::<Vec<_>>(), &Device::Cpu)?;
            let mut answers = network.classify(&reversed, &record.policy(&thresholds))?;
            answers.reverse();
            assert_eq!(answers, record.answers(&thresholds)?);
        }
    }
    Ok(())
}

#[test]
fn criteria_say_what_they_are_defined_to_say() -> Result<()> {
    // Two exits, three classes; probabilities 0.7, 0.2, 0.1 and then 0.2, 0.5, 0.3.
    let ln = |p: [f32; 3]| p.map(f32::ln).to_vec();
    let logits = vec![ln([0.7, 0.2, 0.1]), ln([0.2, 0.5, 0.3])];
    let record = ExitRecord::<Validation>::from_logits(logits.clone(), vec![0])?;
    let at = |criterion: Criterion, exit: usize| record.by(&criterion).predictions(exit)[0].uncertainty;
    let entropy = |p: [f64; 3]| -p.iter().map(|p| p * p.ln()).sum::<f64>();
    for (value, expected) in [
        (at(Criterion::Entropy, 0), entropy([0.7, 0.2, 0.1])),
        (at(Criterion::Probability, 0), 0.3),
        (at(Criterion::Margin, 1), 0.8),
        (at(Criterion::Patience, 0), 1.0),
        // The second exit does not agree with the first.
        (at(Criterion::Patience, 1), 1.0),
    ] {
        assert!((value - expected).abs() < 1e-6, "{value}, expected {expected}");
    }
    let agreeing = vec![logits[0].clone(), logits[0].clone(), logits[0].clone()];
    let agreeing = ExitRecord::<Validation>::from_logits(agreeing, vec![0])?;
    let patience = agreeing.by(&Criterion::Patience);
    let streaks = [0, 1, 2].map(|exit| patience.predictions(exit)[0].uncertainty);
    assert_eq!(streaks, [1.0, 0.5, 1.0 / 3.0]);
    // What is not a number stays until the last exit, whatever the threshold.
    let broken = vec![vec![f32::NAN, 1.0, 0.0], vec![f32::INFINITY, 1.0, 0.0], ln([0.5, 0.3, 0.2])];
    let broken = ExitRecord::<Validation>::from_logits(broken, vec![0])?;
    for criterion in Criterion::NAMED {
        let answers = broken.by(&criterion).answers(&[f64::INFINITY; 2])?;
        assert_eq!(answers[0].exit, 2, "{criterion}");
        assert_eq!(criterion.to_string().parse::<Criterion>()?, criterion);
    }
    assert!("clueless".parse::<Criterion>().is_err());
    Ok(())
}

/// What is written is read back whole, and decides alike.
#[test]
fn a_policy_comes_back_from_json() -> Result<()> {
    let logits = |exit: usize| (0..300).map(|i| (i as f32 * 0.37 + exit as f32).sin()).collect();
    let fit = ExitRecord::from_logits(vec![logits(0), logits(1)], (0..100).map(|i| i % 3).collect())?;
    for readout in readouts(&fit) {
        let policy = fit.read_by(&readout)?.policy(&[0.1 + 0.2]);
        let json = serde_json::to_string(&policy);
        match readout.criterion {
            Criterion::Own(_) => assert!(json.is_err()),
            _ => assert_eq!(serde_json::from_str::<ExitPolicy>(&json?)?, policy),
        }
    }
    let promised = fit.promise(Loss::Different, 0.5, 0.05, &[1.0, 2.0])?;
    let json = serde_json::to_string(&promised)?;
    assert!(
        json.contains("\"promise\":{\"loss\":\"different\",\"epsilon\":0.5,\"delta\":0.05,\"images\":100}"),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<ExitPolicy>(&json)?, promised);
    let everybody = ExitPolicy::entropy([f64::INFINITY]);
    let json = serde_json::to_string(&everybody)?;
    assert_eq!(json, "{\"readout\":{\"criterion\":\"entropy\"},\"thresholds\":[null]}");
    assert_eq!(serde_json::from_str::<ExitPolicy>(&json)?, everybody);
    // What a later version may add is not passed over in silence.
    assert!(serde_json::from_str::<ExitPolicy>(&json.replace("}", ",\"more\":1}")).is_err());
    // Temperatures come before the ensemble, and there is one for each exit.
    assert!(fit.ensembled()?.scaled(&[1.0, 2.0]).is_err() && fit.scaled(&[1.0]).is_err());
    assert_eq!(fit.scaled(&[2.0, 3.0])?.scaled(&[2.0, 1.0])?.readout().temperatures, [4.0, 3.0]);
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
        let error = network.classify(&images, &ExitPolicy::entropy(thresholds)).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = Plan::new(&network)?
        .classify(&[0.0; 3], &ExitPolicy::entropy([0.1]))
        .expect_err("too few pixels")
        .to_string();
    assert!(error.contains("images of 784 values, got 3"), "{error}");
    Ok(())
}

/// Logits of `exits` exits for random samples, later exits better, for even seeds with ties among the entropies.
fn random_record(samples: usize, exits: usize, seed: u64) -> Result<ExitRecord<Validation>> {
    let mut rng = Rng::seed_from_u64(seed);
    let labels: Vec<u32> = (0..samples).map(|_| rng.random_range(0..4)).collect();
    let logits = (0..exits)
        .map(|exit| {
            let row = |&label: &u32| {
                let apart = if seed % 2 == 1 { rng.random_range(0.0..0.5) } else { 0.0 };
                let sure = rng.random_range(0..12) as f32 / 2.0 + apart;
                let right = rng.random_range(0..10) < 5 + 2 * exit as i32 + sure as i32 / 2;
                let answer = if right { label } else { (label + 1) % 4 };
                (0..4).map(|class| if class == answer { sure } else { 0.0 }).collect::<Vec<f32>>()
            };
            labels.iter().flat_map(row).collect()
        })
        .collect();
    ExitRecord::from_logits(logits, labels)
}

#[test]
fn one_threshold_for_all_exits_is_exact() -> Result<()> {
    for (exits, seed) in [(2, 1), (3, 2), (4, 3), (12, 4)] {
        let record = random_record(60, exits, seed)?;
        let costs: Vec<f64> = (1..=exits).map(|exit| exit as f64).collect();
        let curve = record.shared_curve(&costs)?;
        // Each outcome is what its thresholds give.
        for point in &curve {
            let again = record.operating_point(&point.thresholds, &costs)?;
            assert_eq!((again.right, again.leaving), (point.right, point.leaving.clone()));
        }
        // And every threshold that can make a difference gives one of them.
        let all = (0..exits - 1).flat_map(|exit| record.predictions(exit));
        for threshold in all.map(|prediction| prediction.uncertainty).chain([f64::INFINITY]) {
            let outcome = record.operating_point(&vec![threshold; exits - 1], &costs)?;
            assert!(
                curve.iter().any(|point| (point.right, &point.leaving) == (outcome.right, &outcome.leaving))
            );
        }
    }
    Ok(())
}

/// The front found by trying every threshold that can make a difference, one by one.
fn brute_force(record: &ExitRecord<Validation>, costs: &[f64]) -> Result<Vec<(usize, f64)>> {
    let candidates = |exit: usize| {
        let mut all: Vec<f64> = record
            .predictions(exit)
            .iter()
            .map(|prediction| prediction.uncertainty)
            .chain([0.0, f64::INFINITY])
            .collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        all
    };
    let mut outcomes = Vec::new();
    for &first in &candidates(0) {
        if record.exits() == 2 {
            outcomes.push(record.operating_point(&[first], costs)?);
            continue;
        }
        for &second in &candidates(1) {
            outcomes.push(record.operating_point(&[first, second], costs)?);
        }
    }
    Ok(points(&pareto_optimal(outcomes)))
}

fn points(front: &[OperatingPoint]) -> Vec<(usize, f64)> {
    front.iter().map(|o| (o.right, (o.cost * 1e9).round() / 1e9)).collect()
}

#[test]
fn the_pareto_front_is_exact() -> Result<()> {
    for seed in 0..6 {
        for (exits, costs) in [(2, vec![1.0, 4.0]), (3, vec![1.0, 2.5, 4.0]), (3, vec![1.0, 5.0, 4.0])] {
            let record = random_record(70, exits, seed)?;
            let front = record.pareto_front(&costs)?;
            assert_eq!(points(&front), brute_force(&record, &costs)?, "{exits} exits, seed {seed}");
            // The thresholds of every point give just that point.
            for point in &front {
                assert_eq!(&record.operating_point(&point.thresholds, &costs)?, point);
            }
        }
    }
    // So many samples that the search passes over what it need not look at.
    for (seed, costs) in
        [(6, [1.0, 2.5, 4.0]), (7, [1.0, 5.0, 4.0]), (8, [3.0, 2.0, 4.0]), (9, [1.0, 4.0, 4.0])]
    {
        let record = random_record(300, 3, seed)?;
        assert_eq!(points(&record.pareto_front(&costs)?), brute_force(&record, &costs)?, "costs {costs:?}");
    }
    Ok(())
}

/// The share of an exact front's area above the axes that an approximate one covers: accuracy against
/// saved cost.
fn covered(exact: &[OperatingPoint], approximate: &[OperatingPoint], dearest: f64) -> f64 {
    let area = |front: &[OperatingPoint]| -> f64 {
        let mut area = 0.0;
        let mut below = 0.0;
        for outcome in front {
            area += (outcome.accuracy() - below) * (dearest - outcome.cost);
            below = outcome.accuracy();
        }
        area
    };
    area(approximate) / area(exact)
}

#[test]
fn the_approximate_front_is_close_to_the_exact_one() -> Result<()> {
    for seed in 0..4 {
        for costs in [[1.0, 2.5, 4.0], [1.0, 5.0, 4.0]] {
            let record = random_record(400, 3, seed)?;
            let (exact, found) = (record.pareto_front(&costs)?, record.approximate_front(&costs)?);
            let covered = covered(&exact, &found, 5.0);
            assert!((0.995..=1.0 + 1e-12).contains(&covered), "seed {seed}: {covered}");
            for point in &found {
                assert_eq!(&record.operating_point(&point.thresholds, &costs)?, point);
            }
        }
    }
    Ok(())
}

#[test]
fn five_exits_have_a_front_of_real_outcomes() -> Result<()> {
    let (record, costs) = (random_record(300, 5, 1)?, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(!record.front_is_exact());
    let front = record.pareto_front(&costs)?;
    assert_eq!(front, record.pareto_front(&costs)?, "it can be repeated");
    for pair in front.windows(2) {
        assert!(pair[0].cost < pair[1].cost && pair[0].right < pair[1].right);
    }
    for point in &front {
        assert_eq!(&record.operating_point(&point.thresholds, &costs)?, point);
    }
    // At least as good as all combinations of a grid.
    for outcome in record.grid(&[0.0, 0.2, 0.5, 0.8, 1.0, 1.4], &costs)? {
        let beaten = |o: &OperatingPoint| o.right >= outcome.right && o.cost <= outcome.cost + 1e-9;
        assert!(front.iter().any(beaten), "{outcome:?}");
    }
    let last = record.exit_accuracy()[4];
    assert!(record.choose_for_accuracy(last, &costs)?.accuracy() >= last);
    Ok(())
}

#[test]
fn the_curve_holds_every_distinct_threshold() -> Result<()> {
    let record = random_record(200, 2, 9)?;
    let curve = record.curve(&[1.0, 3.0])?;
    let mut entropies: Vec<f64> =
        record.predictions(0).iter().map(|prediction| prediction.uncertainty).collect();
    entropies.sort_by(f64::total_cmp);
    entropies.dedup();
    assert_eq!(curve.len(), entropies.len() + 1);
    for point in &curve {
        assert_eq!(&record.operating_point(&point.thresholds, &[1.0, 3.0])?, point);
    }
    Ok(())
}

#[test]
fn a_part_of_a_record_is_the_record_of_that_part() -> Result<()> {
    let record = random_record(40, 3, 5)?;
    let costs = [1.0, 2.0, 4.0];
    // Exit 2 that lets nothing leave is as good as none.
    let two = record.only(&[0, 2])?;
    for outcome in two.curve(&[1.0, 4.0])? {
        let three = record.operating_point(&[outcome.thresholds[0], 0.0], &costs)?;
        assert_eq!((outcome.right, outcome.cost), (three.right, three.cost));
    }
    let samples = [7, 3, 3, 39];
    let part = record.select(&samples)?;
    let (all, some) = (record.answers(&[0.7, 0.9])?, part.answers(&[0.7, 0.9])?);
    assert_eq!(some, samples.map(|sample| all[sample]));
    assert!(samples.iter().zip(part.labels()).all(|(&i, label)| record.labels()[i] == *label));
    for wrong in [record.only(&[3]), record.only(&[]), record.select(&[40]), record.select(&[])] {
        assert!(wrong.is_err());
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
        assert_eq!((for_accuracy.right, for_accuracy.cost), (point.right, point.cost));
        let for_cost = record.choose_for_cost(point.cost, &costs)?;
        assert_eq!((for_cost.right, for_cost.cost), (point.right, point.cost));
    }
    let error = record.choose_for_accuracy(best + 0.01, &costs).expect_err("too good").to_string();
    assert!(error.contains("no thresholds reach"), "{error}");
    let error = record.choose_for_cost(0.5, &costs).expect_err("too cheap").to_string();
    assert!(error.contains("the cheapest cost 1"), "{error}");
    assert!(record.curve(&costs).expect_err("3 exits").to_string().contains("use pareto_front"));
    assert!(
        record
            .operating_point(&[0.1, 0.1], &[1.0])
            .expect_err("1 cost")
            .to_string()
            .contains("3 exits need as many costs")
    );
    assert_eq!(record.grid(&[0.0, 0.5, 2.0], &costs)?.len(), 9);
    Ok(())
}

#[test]
fn the_knee_lies_where_the_front_bends() {
    let operating_point = |cost: f64, right: usize| OperatingPoint {
        thresholds: vec![cost],
        right,
        leaving: vec![50, 50],
        cost,
    };
    let front = [
        operating_point(1.0, 10),
        operating_point(1.5, 60),
        operating_point(2.0, 85),
        operating_point(4.0, 90),
        operating_point(8.0, 92),
    ];
    assert_eq!(knee(&front).map(|o| o.right), Some(85));
    assert_eq!(knee(&front[..1]).map(|o| o.right), Some(10));
    assert!(knee(&[]).is_none());
}

/// LeNet with its branch and without, on a device, and images for it.
fn lenets(device: &Device, count: usize) -> Result<(Network, Network, Vec<Vec<f32>>)> {
    let (layers, image) = (b_lenet(), [1, 28, 28]);
    let baseline = Network::new("test", image, without_branches(&layers), 0, device)?;
    let network = Network::new("test", image, layers, 0, device)?;
    let images = noise(count, image)?.batch(&(0..count).collect::<Vec<_>>(), &Device::Cpu)?;
    Ok((network, baseline, images.flatten_from(1)?.to_vec2()?))
}

#[test]
fn timing_measures_every_contender() -> Result<()> {
    let (network, baseline, images) = lenets(&Device::Cpu, 50)?;
    let logits = |exit: usize| (0..300).map(|i| (i as f32 * 0.37 + exit as f32).sin()).collect();
    let fit = ExitRecord::from_logits(vec![logits(0), logits(1)], (0..100).map(|i| i % 3).collect())?;
    for readout in readouts(&fit) {
        let timer = Timer::new(&network, &baseline, images.clone(), 4)?.by(readout);
        let (timing, mix) = (timer.exits()?, timer.mixes(&[[0.9, 0.1]])?.remove(0));
        assert_eq!(timing.exits.len(), 2);
        for latency in [&timing.baseline, &mix.baseline, &mix.mix, &mix.trunk_only, &mix.undecided]
            .into_iter()
            .chain(&timing.exits)
            .chain(&timing.trunk_only)
        {
            assert_eq!(latency.count, 200);
            assert!(latency.median > 0.0 && latency.mean > 0.0 && latency.p95 > 0.0);
        }
        // The clock's own times; those of the others count by their ratios.
        for baseline in [timing.baseline, mix.baseline] {
            assert!(baseline.median <= baseline.p95);
        }
        for shares in [&[1.0][..], &[0.5, 0.4], &[f64::NAN, 1.0]] {
            let error = timer.mixes(&[shares]).expect_err("shares that do not fit");
            assert!(error.to_string().contains("shares that add up to 1"), "{error}");
        }
    }
    assert!(Timer::new(&network, &baseline, vec![], 1).is_err());
    assert!(Timer::new(&network, &baseline, vec![vec![0.0; 3]], 1).is_err());
    Ok(())
}

#[test]
fn batches_are_timed_where_the_networks_are() -> Result<()> {
    for device in common::devices() {
        let (network, baseline, images) = lenets(device, 20)?;
        let timer = Timer::new(&network, &baseline, images, 3)?;
        for shares in [[0.9, 0.1], [0.0, 1.0], [1.0, 0.0]] {
            let times = timer.batches(&shares, &[1, 3])?;
            assert_eq!(times.iter().map(|t| t.batch).collect::<Vec<_>>(), [1, 3]);
            assert!(times.iter().all(|t| t.baseline > 0.0 && t.early_exit > 0.0));
        }
        assert!(timer.batches(&[0.5, 0.4], &[1]).is_err());
        assert!(timer.batches(&[0.5, 0.5], &[0]).is_err());
    }
    Ok(())
}

#[test]
fn a_cascade_says_what_its_networks_say() -> Result<()> {
    let image = [3, 16, 16];
    let small = [conv(3, 8, 2, 0), gelu(), max_pool_inside(2, 2), conv(8, 9, 3, 1), relu(), linear(441, 10)];
    let small = Network::new("small", image, small, 1, &Device::Cpu)?;
    let large = Network::new("large", image, without_branches(&all_kinds()), 2, &Device::Cpu)?;
    let split = noise(200, image)?;
    let (first, then) = (ExitRecord::collect(&small, &split)?, ExitRecord::collect(&large, &split)?);
    let cascade = small.followed_by(&large)?;
    let record = ExitRecord::collect(&cascade, &split)?;
    assert_eq!(record.logits(0), first.logits(0));
    assert_eq!(record.logits(1), then.logits(0));
    let replayed = first.followed_by(&then)?;
    assert_eq!((replayed.logits(0), replayed.logits(1)), (record.logits(0), record.logits(1)));
    let [of_small, of_large] = [&small, &large].map(|network| network.macs()[0]);
    assert_eq!(cascade.macs(), [of_small, of_small + of_large]);
    // Nobody who stays is answered by what the small network left in the buffers.
    let pixels = split.batch(&[7], &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    let answer = Plan::new(&cascade)?.classify(&pixels, &ExitPolicy::entropy([0.0]))?;
    assert_eq!((answer.label, answer.exit), (then.predictions(0)[7].label, 1));
    assert!(cascade.followed_by(&large).is_err(), "a cascade of three");
    let other = Network::new("other", [1, 16, 16], [linear(256, 10)], 0, &Device::Cpu)?;
    assert!(other.followed_by(&large).is_err(), "other images");
    Ok(())
}

#[test]
fn the_oracle_leaves_at_the_first_exit_that_is_right() -> Result<()> {
    // Two classes, three samples: right at exit 1, right at exit 2 alone, never right.
    let logits = vec![vec![2.0, 0.0, 2.0, 0.0, 2.0, 0.0], vec![0.0, 1.0, 0.0, 1.0, 1.0, 0.0]];
    let record = ExitRecord::<Validation>::from_logits(logits, vec![0, 1, 1])?;
    let oracle = record.oracle(&[1.0, 4.0])?;
    assert_eq!((oracle.right, oracle.leaving, oracle.cost), (2, vec![1, 2], 3.0));
    Ok(())
}

/// A plan that is watched answers as one that is not, and sees of the images drawn what their record says.
#[test]
fn a_watched_plan_sees_what_its_record_says() -> Result<()> {
    // Of this seed the exits disagree about most images.
    let network = Network::new("all kinds", [3, 16, 16], all_kinds(), 14, &Device::Cpu)?;
    let images = noise(120, [3, 16, 16])?;
    let pixels: Vec<f32> =
        images.batch(&(0..120).collect::<Vec<_>>(), &Device::Cpu)?.flatten_all()?.to_vec1()?;
    let plain = ExitRecord::collect(&network, &images)?;
    for ensemble in [false, true] {
        let record = plain.read_by(&Readout { ensemble, ..Readout::default() })?;
        let median = |exit: usize| {
            let mut all: Vec<f64> = record.predictions(exit).iter().map(|p| p.uncertainty).collect();
            all.sort_by(f64::total_cmp);
            all[60]
        };
        let policy = record.policy(&[median(0), median(1)]);
        let expected = record.answers(&policy.thresholds)?;
        let (mut plan, mut watch) = (Plan::new(&network)?, Watch::new(0.99, 1e-9, 0.5, 1)?);
        let (mut coins, mut drawn, mut changed) = (watch.clone(), 0, 0);
        for (number, (image, expected)) in pixels.chunks(768).zip(&expected).enumerate() {
            assert_eq!(plan.classify_watched(image, &policy, &mut watch)?, *expected);
            if coins.draws() {
                drawn += 1;
                changed += u64::from(record.predictions(2)[number].label != expected.label);
            }
        }
        assert_eq!((watch.images(), watch.drawn()), (120, (drawn, changed)));
        assert!(drawn > 40 && changed > 0 && changed < drawn, "{changed} of {drawn}");
        // An image that is refused does not count.
        assert!(plan.classify_watched(&pixels[..5], &policy, &mut watch).is_err() && watch.images() == 120);
    }
    Ok(())
}
