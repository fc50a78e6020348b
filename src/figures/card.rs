//! Model cards: one page about trained weights, all of it from the weights' file and the exit record.

use super::tables::{markdown_of, percent};
use crate::Result;
use crate::experiments::{Choice, Pretrained, Results};
use polars::prelude::df;

/// The model card of `weights`, whose run gave `results`, as Markdown. `name` is what
/// [`Pretrained::named`] takes.
pub fn model_card(name: &str, weights: &Pretrained, results: &Results) -> Result<String> {
    let (about, network, exits) = (&weights.about, &weights.network, results.test.exits());
    let (settings, macs) = (&about.settings, network.macs());
    let trunk = network.costs().last().map_or(1.0, |cost| cost.trunk_macs as f64);
    let [channels, height, width] = about.image;

    let costs = df!(
        "exit" => (1..=exits as u64).collect::<Vec<_>>(),
        "MACs to leave" => macs.iter().map(|&macs| macs as u64).collect::<Vec<_>>(),
        "share of the trunk" => macs.iter().map(|macs| macs / trunk).collect::<Vec<_>>(),
        "validation accuracy" => results.validation.exit_accuracy(),
        "test accuracy" => results.test.exit_accuracy(),
    )?;
    let choices = results.choices(&macs)?;
    let chosen: Vec<Choice> =
        choices.into_iter().filter(|choice| choice.origin == Choice::ON_VALIDATION).collect();
    let history = df!(
        "epoch" => results.history.iter().map(|epoch| epoch.epoch as u64).collect::<Vec<_>>(),
        "loss of the last exit, train" => results.history.iter().map(|e| e.train.loss[exits - 1]).collect::<Vec<_>>(),
        "validation" => results.history.iter().map(|e| e.validation.loss[exits - 1]).collect::<Vec<_>>(),
        "accuracy of each exit, validation" =>
            results.history.iter().map(|e| percent(&e.validation.accuracy)).collect::<Vec<_>>(),
    )?;
    let compared: String = results
        .baselines()
        .iter()
        .map(|(name, baseline)| format!("- {name}: {} on Test\n", percent(&[baseline.accuracy()])))
        .collect();

    Ok(format!(
        "# {network_name}, trained on {data}\n\n\
         Written by `branchynet export`; every number comes from the exit record of the run, and the hours are those that the training took.\n\n\
         ```rust\nlet network = Network::pretrained(\"{name}\")?;      // in a notebook or a program\n```\n\
         ```sh\ncargo run -- classify {name} photo.png         # label, exit, entropy, probability\n```\n\n\
         {parameters} parameters in f32; input {channels}×{height}×{width}; {classes_count} classes: {classes}.\n\n\
         ## Data\n\n{data}, preprocessed by {preprocessing}{augmented}. Thresholds were chosen on {validation} images held out of the training set, results are on {test} test images.\n\n\
         ## Accuracy and cost\n\nMultiply-accumulates (MACs) count the trunk up to the exit and every branch on the way; the trunk alone has {trunk}. Accuracies (0..=1) are those if all images left there.\n\n{costs}\n\
         Networks without branches, for comparison:\n\n{compared}\n\
         ## Thresholds\n\nCriterion: {criterion}. Each choice is the cheapest in MACs; *mean cost* is in MACs. Results are on Test.\n\n{choices}\n\
         ## Settings\n\n{settings_table}\n\
         Baseline and joint training together took {hours:.1} hours on {devices}.\n\n\
         ## History of the joint training\n\n{history}\n\
         ## What it should not be used for\n\n\
         - It answers one of its {classes_count} classes to any picture, also to one that shows none of them, and it may be sure of it.\n\
         - The thresholds hold for images like those of {data}. Elsewhere other shares leave, at another accuracy; nothing here is a guarantee.\n\
         - Entropies and probabilities are not calibrated: a probability of 0.9 does not mean that nine answers in ten are right.\n\
         - It exists to study early exits, not for decisions that concern people.\n",
        network_name = settings.network,
        data = about.data,
        parameters = network.parameter_count(),
        classes_count = about.classes.len(),
        classes = about.classes.join(", "),
        preprocessing = settings.preprocessing,
        augmented =
            if settings.config.augment { ", augmented by shifts and flips" } else { ", not augmented" },
        criterion = results.test.criterion().axis(),
        validation = results.validation.len(),
        test = results.test.len(),
        costs = markdown_of(&costs)?,
        choices = markdown_of(&Choice::frame(&chosen)?)?,
        settings_table = markdown_of(&settings.frame(&[("commit", &about.commit)])?)?,
        hours = results.hours(),
        devices = results.devices().join(" and "),
        history = markdown_of(&history)?,
    ))
}
