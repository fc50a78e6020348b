//! Model cards: one page about trained weights, all of it from the weights' file and the exit record.

use branchynet::Result;
use branchynet::candle_core::Device;
use branchynet::files::{shown, write_atomically};
use branchynet::training::Epoch;
use branchynet_runs::text::{markdown, percent, short};
use branchynet_runs::{Choice, Pretrained, Quantity, Results, Seeds, Spread};

/// The model card of `weights`, whose run gave `results`, as Markdown. `name` is what
/// [`Pretrained::named`] takes.
pub fn model_card(name: &str, weights: &Pretrained, results: &Results) -> Result<String> {
    let (about, network, exits) = (&weights.about, &weights.network, results.test.exits());
    let (settings, macs) = (&about.settings, network.macs());
    let trunk = network.costs().last().map_or(1.0, |cost| cost.trunk_macs as f64);
    let [channels, height, width] = about.image;

    let chosen = results.policies(&macs)?.into_iter();
    let chosen = chosen.map(|(name, policy)| results.choice(&name, &policy.thresholds, &macs));
    let chosen = chosen.collect::<Result<Vec<_>>>()?;

    let (validation, test) = (results.validation.exit_accuracy(), results.test.exit_accuracy());
    let of_exit = |exit: usize| {
        let cells = [macs[exit], macs[exit] / trunk, validation[exit], test[exit]];
        std::iter::once((exit + 1).to_string()).chain(cells.map(short)).collect()
    };
    let costs = markdown(
        &["exit", "MACs to leave", "share of the trunk", "validation accuracy", "test accuracy"],
        &(0..exits).map(of_exit).collect::<Vec<_>>(),
    );
    let of_epoch = |epoch: &Epoch| {
        let losses = [&epoch.train, &epoch.validation].map(|scores| short(scores.loss[exits - 1]));
        let accuracy = percent(&epoch.validation.accuracy);
        std::iter::once(epoch.epoch.to_string()).chain(losses).chain([accuracy]).collect()
    };
    let history = markdown(
        &["epoch", "loss of the last exit, train", "validation", "accuracy of each exit, validation"],
        &results.run.history.iter().map(of_epoch).collect::<Vec<_>>(),
    );
    let mut rows = settings.rows()?;
    rows.push(("commit".to_string(), about.commit.clone()));
    let settings_table =
        markdown(&["setting", "value"], &rows.into_iter().map(|(a, b)| vec![a, b]).collect::<Vec<_>>());
    let compared: String = results
        .baselines()
        .iter()
        .map(|(name, baseline)| format!("- {name}: {} on Test\n", percent(&[baseline.accuracy()])))
        .collect();

    Ok(format!(
        "# {network_name}, trained on {data}\n\n\
         Written by `branchynet export`; every number comes from the exit record of the run, and the hours are those that the training took.\n\n\
         ```rust\nlet network = Pretrained::named(\"{name}\", &Device::Cpu)?.network;      // in a notebook or a program\n```\n\
         ```sh\ncargo run -- classify {name} photo.png         # label, exit, entropy, probability\n```\n\n\
         {parameters} parameters in f32; input {channels}×{height}×{width}; {classes_count} classes: {classes}.\n\n\
         ## Data\n\n{data}: {origin}. Preprocessed by {preprocessing}{augmented}. Thresholds were chosen on {validation} images held out of the training set, results are on {test} test images.\n\n\
         ## Accuracy and cost\n\nMultiply-accumulates (MACs) count the trunk up to the exit and every branch on the way; the trunk alone has {trunk}. Accuracies (0..=1) are those if all images left there.\n\n{costs}\n\
         Networks without branches, for comparison:\n\n{compared}\n\
         ## Thresholds\n\nCriterion: {criterion}. Each choice is the cheapest in MACs; *mean cost* is in MACs. Results are on Test.\n\n{choices}{promise}\n\
         ## Settings\n\n{settings_table}\n\
         Baseline and joint training together took {hours:.1} hours on {devices}.\n\n\
         ## History of the joint training\n\n{history}\n\
         ## Licence\n\n\
         Reference weights and their cards are under the MIT licence of the program; for weights that you exported, it is for you to say. \
         Neither says anything about the data.\n\n\
         ## What it should not be used for\n\n\
         - It answers one of its {classes_count} classes to any picture, also to one that shows none of them, and it may be sure of it.\n\
         - The thresholds hold for images like those of {data}. Elsewhere other shares leave, at another accuracy, and no promise holds.\n\
         - Entropies and probabilities are not calibrated: a probability of 0.9 does not mean that nine answers in ten are right.\n\
         - It exists to study early exits, not for decisions that concern people.\n",
        network_name = settings.network,
        data = about.data,
        origin = origin(&about.data),
        parameters = network.parameter_count(),
        classes_count = about.classes.len(),
        classes = about.classes.join(", "),
        preprocessing = settings.preprocessing,
        augmented =
            if settings.config.augment { ", augmented by shifts and flips" } else { ", not augmented" },
        criterion = results.test.criterion().axis(),
        validation = results.validation.len(),
        test = results.test.len(),
        choices = choices(&chosen),
        promise = match chosen.iter().any(|choice| choice.name == "1 % guaranteed") {
            true =>
                "\n*1 % guaranteed*: with a probability of 95 % at most 1 % of the answers to images like those of validation are not the last exit's.\n",
            false => "",
        },
        hours = results.hours(),
        devices = results.run.devices().join(" and "),
    ))
}

/// Where a data set is from, and under which licence.
fn origin(data: &str) -> &'static str {
    match data {
        "MNIST" | "MNIST-5k" => {
            "handwritten digits, by LeCun, Cortes and Burges (<http://yann.lecun.com/exdb/mnist/>); the copy on the Hugging Face hub names the MIT licence"
        }
        "Fashion-MNIST" => {
            "pictures of clothes, by Xiao, Rasul and Vollgraf (<https://github.com/zalandoresearch/fashion-mnist>), under the MIT licence"
        }
        "CIFAR-10" => {
            "small photographs, by Krizhevsky, Nair and Hinton (<https://www.cs.toronto.edu/~kriz/cifar.html>); the copy on the Hugging Face hub says that the licence is unknown"
        }
        _ => "a data set of your own, whose makers and licence you know",
    }
}

/// The card of the weights called `name` in `datasets/reference/weights/`, from them and the record of their run; `None`
/// where there is no such record.
fn recorded_card(name: &str) -> Result<Option<String>> {
    let weights = Pretrained::named(name, &Device::Cpu)?;
    let recorded = Results::recorded(|settings| *settings == weights.about.settings)?;
    let (Some(results), Some((_, policy))) = (recorded.first(), weights.about.policies.first()) else {
        return Ok(None);
    };
    model_card(name, &weights, &results.read_by(&policy.readout)?).map(Some)
}

/// Writes the cards of `datasets/reference/weights/` anew, where the record of the run is there.
pub fn cards() -> Result<String> {
    let mut written = String::new();
    for name in Pretrained::names() {
        let path = Pretrained::path(&name).with_extension("md");
        match recorded_card(&name)? {
            Some(card) => write_atomically(&path, card.as_bytes())?,
            None => written += "no record of the run, left as it is: ",
        }
        written += &format!("{}\n", shown(&path));
    }
    Ok(written)
}

/// A row for each choice: thresholds, accuracy and shares on Test, mean cost.
fn choices(choices: &[Choice]) -> String {
    let columns = Choice::columns(&choices.iter().collect::<Vec<_>>());
    let numbers = columns.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = ["choice"].into_iter().chain(numbers).chain(["mean cost"]).collect();
    let row = |(i, choice): (usize, &Choice)| {
        let number = |(name, values): &(String, Vec<Option<f64>>)| {
            let text = |x: f64| if Choice::has_thresholds(name) { x.to_string() } else { short(x) };
            values[i].map(text)
        };
        let numbers = columns.iter().filter_map(number).chain([short(choice.cost)]);
        std::iter::once(choice.label()).chain(numbers).collect()
    };
    markdown(&names, &choices.iter().enumerate().map(row).collect::<Vec<_>>())
}

/// What all recorded runs gave, one table for each experiment with the spread over its seeds, costs in
/// multiply-accumulates: Markdown.
pub fn records() -> Result<String> {
    let mut text = "Written by `branchynet records`, from the exit records alone. Speedups are ratios of \
        multiply-accumulates; shares and accuracies are on Test, in 0..=1.\n"
        .to_string();
    for seeds in Seeds::recorded()? {
        let first = &seeds.runs()[0];
        let network = first.network()?;
        let (trunk, macs) = (network.costs().last().map_or(0, |cost| cost.trunk_macs), network.macs());
        // A single run has no spread.
        let known = |x: f64| if x.is_nan() { "–".to_string() } else { short(x) };
        let with_gain = |choice: Choice| (choice.clone(), trunk as f64 / choice.cost);
        let quantities = seeds.on_test(|run| Ok(run.choices(&macs)?.into_iter().map(with_gain).collect()))?;
        let row = |quantity: Quantity| {
            let Spread { runs, mean, deviation, half_width, .. } = quantity.spread();
            let numbers = [mean, deviation, mean - half_width, mean + half_width].map(known);
            [quantity.of, quantity.name, runs.to_string()].into_iter().chain(numbers).collect()
        };
        let table = markdown(
            &["of", "on test", "runs", "mean", "standard deviation", "95 % from", "95 % to"],
            &quantities.into_iter().map(row).collect::<Vec<_>>(),
        );
        text += &format!("\n## {}: {}\n\n{table}", first.run.settings.network, seeds.caption());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_cards_are_those_that_the_program_writes() {
        let mut compared = 0;
        for name in Pretrained::names() {
            if let Some(card) = recorded_card(&name).unwrap() {
                let path = Pretrained::path(&name).with_extension("md");
                let committed = std::fs::read_to_string(&path).unwrap();
                assert!(committed == card, "{} is old: branchynet cards", shown(&path));
                compared += 1;
            }
        }
        assert!(compared >= 5, "the reference weights and their records are there");
    }
}
