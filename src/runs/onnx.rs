//! Trained networks as ONNX files, in which an image that leaves early skips the rest.

use super::weights::Pretrained;
use crate::Result;
use crate::error::bail;
use crate::exits::{Criterion, ExitPolicy};
use crate::layers::{Shape, write_onnx};
use crate::networks::Network;
use crate::onnx::{Attribute, Graph};
use onnx_rs::ast::DataType::{Float, Int64, Uint8};
use serde_json::json;

/// How a network with exits becomes ONNX.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// One file for one image at a time. What stands behind an exit is the else branch of an `If`, which a runtime computes
    /// only for an image that stays. Outputs: `label`, `exit` (from 1), `uncertainty` by the policy's criterion, and
    /// `probabilities` (1, classes) of the exit that answered.
    #[default]
    If,
    /// One file for any batch, which gives the logits of all exits (batch, classes): `exit1`, `exit2`, …
    Exits,
    /// A file for each exit with the part of the trunk before it, for one image, and `manifest.json`: for runtimes without
    /// `If`. A stage gives `label`, `uncertainty`, `probabilities`, and the `trunk` that the next one takes.
    Stages,
}

/// What an ONNX file is to be.
#[derive(Debug, Clone, Default)]
pub struct OnnxOptions {
    pub form: Form,
    /// Only with operations that small runtimes have too: no LRN, no padding of poolings.
    pub plain: bool,
    /// The input is prepared pixels, as [`crate::data::Split::batch`] gives them, instead of bytes from 0 to 255.
    pub float: bool,
    /// Thresholds are constants of the file instead of an input.
    pub fixed: bool,
}

impl Pretrained {
    /// The network as ONNX files, each with its name: one that is called `model.onnx`, or those of [`Form::Stages`]. It decides
    /// by this policy, one of its own ([`Self::policy`]) or another; `about` is added to what a file says about itself. Fails,
    /// naming it, for a layer or a criterion that ONNX cannot hold.
    pub fn onnx(
        &self,
        policy: &ExitPolicy,
        options: &OnnxOptions,
        about: &[(&str, String)],
    ) -> Result<Vec<(String, Vec<u8>)>> {
        policy.check(self.network.exits())?;
        if options.fixed && options.form != Form::If {
            bail!(Setting, "thresholds are fixed in the form `if` alone; the others have none")
        }
        let mut all = vec![
            ("pixels", if options.float { "prepared" } else { "bytes from 0 to 255" }.to_string()),
            ("data", self.about.data.clone()),
            ("classes", serde_json::to_string(&self.about.classes)?),
            ("settings", serde_json::to_string(&self.about.settings)?),
            ("policy", serde_json::to_string(policy)?),
        ];
        all.extend_from_slice(about);
        let writer = Writer { weights: self, network: &self.network, policy, options };
        let file = |graph: Graph| vec![("model.onnx".to_string(), graph.encode("network", &all))];
        match options.form {
            Form::If => writer.nested().map(file),
            Form::Exits => writer.exits().map(file),
            Form::Stages => writer.stages(&all),
        }
    }
}

struct Writer<'a> {
    weights: &'a Pretrained,
    network: &'a Network,
    policy: &'a ExitPolicy,
    options: &'a OnnxOptions,
}

/// What an exit says of one image: values of a graph, all of one element but the logits (1, classes).
struct Read {
    /// What it answers by: at its temperature, and with those before it where they answer together.
    logits: String,
    label: String,
    uncertainty: String,
    /// Exits in a row that agree.
    streak: Option<String>,
}

/// A value and the shape of one sample in it.
type Value = (String, Shape);

impl Writer<'_> {
    fn graph(&self) -> Graph {
        Graph::new(self.options.plain)
    }

    /// The input, as pixels that the network takes. Fails where a byte becomes a pixel otherwise than along a line.
    fn image(&self, batch: Option<usize>, graph: &mut Graph) -> Result<Value> {
        let (image, shape) = (self.weights.about.image, self.network.input());
        let dims = [batch, Some(image[0]), Some(image[1]), Some(image[2])];
        if self.options.float {
            return Ok((graph.input("image", Float, &dims), shape));
        }
        let bytes = graph.input("image", Uint8, &dims);
        let line = |table: &[f32]| ((table[255] - table[0]) / 255.0, table[0]);
        let (factors, offsets): (Vec<f32>, Vec<f32>) = self.weights.bytes.chunks(256).map(line).unzip();
        for (table, (factor, offset)) in self.weights.bytes.chunks(256).zip(factors.iter().zip(&offsets)) {
            let off = |(byte, value): (usize, &f32)| {
                (byte as f32 * factor + offset - value).abs() > 1e-5 * (1.0 + value.abs())
            };
            if table.iter().enumerate().any(off) {
                bail!(
                    Setting,
                    "these weights prepare bytes otherwise than by a factor and an offset; take prepared pixels"
                )
            }
        }
        let float = graph.add_with("Cast", "image.float", &[&bytes], [("to", 1.into())]);
        let factors = graph.weights("image.factors", &[1, image[0], 1, 1], &factors);
        let offsets = graph.weights("image.offsets", &[1, image[0], 1, 1], &offsets);
        let scaled = graph.add("Mul", "image.scaled", &[&float, &factors]);
        Ok((graph.add("Add", "pixels", &[&scaled, &offsets]), shape))
    }

    /// Trunk and logits of exit `exit`, from 0, given the trunk before it.
    fn stage(&self, exit: usize, from: Value, graph: &mut Graph) -> Result<(Value, String)> {
        let trunk = write_onnx(&self.network.segments[exit], from, graph)?;
        let branch = self.network.branches.get(exit);
        let logits = branch.map(|branch| write_onnx(branch, trunk.clone(), graph)).transpose()?;
        let logits = logits.unwrap_or_else(|| trunk.clone()).0;
        Ok((trunk, logits))
    }

    fn exits(&self) -> Result<Graph> {
        let mut graph = self.graph();
        let mut trunk = self.image(None, &mut graph)?;
        for exit in 0..self.network.exits() {
            let logits;
            (trunk, logits) = self.stage(exit, trunk, &mut graph)?;
            let name = graph.add("Identity", format!("exit{}", exit + 1), &[&logits]);
            graph.output(&name, Float, &[None, Some(self.network.classes())]);
        }
        Ok(graph)
    }

    fn nested(&self) -> Result<Graph> {
        let mut graph = self.graph();
        let image = self.image(Some(1), &mut graph)?;
        let thresholds: Vec<f32> = self.policy.thresholds.iter().map(|&t| t as f32).collect();
        if thresholds.is_empty() {
            bail!(Setting, "{} has no early exit to take; write its exits instead", self.network.name())
        }
        match self.options.fixed {
            true => graph.weights("thresholds", &[thresholds.len()], &thresholds),
            false => graph.input("thresholds", Float, &[Some(thresholds.len())]),
        };
        let [logits, uncertainty, exit] = self.leave(0, image, None, &mut graph)?;
        graph.add_with("ArgMax", "label", &[&logits], [("axis", 1.into()), ("keepdims", 0.into())]);
        graph.add_with("Softmax", "probabilities", &[&logits], [("axis", 1.into())]);
        graph.output("label", Int64, &[Some(1)]);
        graph.output(&exit, Int64, &[Some(1)]);
        graph.output(&uncertainty, Float, &[Some(1)]);
        graph.output("probabilities", Float, &[Some(1), Some(self.network.classes())]);
        Ok(graph)
    }

    /// From exit `exit` on: logits, uncertainty and number of the exit where the image leaves, counted from this one as 1.
    fn leave(
        &self,
        exit: usize,
        from: Value,
        before: Option<&Read>,
        graph: &mut Graph,
    ) -> Result<[String; 3]> {
        let part = |part: &str| format!("exit{}.{part}", exit + 1);
        let (trunk, logits) = self.stage(exit, from, graph)?;
        let read = self.read(exit, logits, before, graph)?;
        if exit == self.policy.thresholds.len() {
            // 1, by the condition that brought the image here: runtimes fold constants of branches.
            return Ok([read.logits, read.uncertainty, format!("exit{exit}.stays")]);
        }
        let place = graph.integers(part("place"), &[1], &[exit as i64]);
        let threshold = graph.add("Gather", part("threshold"), &["thresholds", &place]);
        let sure = graph.add("Less", part("sure"), &[&read.uncertainty, &threshold]);
        let (one, none) =
            (graph.integers(part("one_exit"), &[1], &[1]), graph.integers(part("no_exit"), &[1], &[0]));
        let leaves = graph.add("Where", part("leaves"), &[&sure, &one, &none]);
        let stays = graph.add("Where", part("stays"), &[&sure, &none, &one]);

        let mut here = self.graph();
        let answer = [(&read.logits, "logits"), (&read.uncertainty, "uncertainty"), (&leaves, "number")]
            .map(|(value, name)| here.add("Identity", part(&format!("then.{name}")), &[value]));
        self.declare(&answer, &mut here);
        let mut behind = self.graph();
        let [logits, uncertainty, number] = self.leave(exit + 1, trunk, Some(&read), &mut behind)?;
        let number = behind.add("Add", part("else.number"), &[&stays, &number]);
        // An output of a branch is computed in it.
        let logits = behind.add("Identity", part("else.logits"), &[&logits]);
        let uncertainty = behind.add("Identity", part("else.uncertainty"), &[&uncertainty]);
        self.declare(&[logits, uncertainty, number], &mut behind);

        let outputs = match exit {
            0 => ["logits", "uncertainty", "exit"].map(str::to_string),
            _ => ["answer", "answer.uncertainty", "answer.number"].map(part),
        };
        // Some converters confuse nested graphs of one name.
        let branches = [
            ("then_branch", Attribute::Graph(part("leaves"), here)),
            ("else_branch", Attribute::Graph(part("stays"), behind)),
        ];
        graph.add_many("If", part("decision"), &[&sure], branches, outputs.to_vec());
        Ok(outputs)
    }

    /// Declares logits, uncertainty and number of an exit as outputs.
    fn declare(&self, [logits, uncertainty, number]: &[String; 3], graph: &mut Graph) {
        graph.output(logits, Float, &[Some(1), Some(self.network.classes())]);
        graph.output(uncertainty, Float, &[Some(1)]);
        graph.output(number, Int64, &[Some(1)]);
    }

    /// What exit `exit` says, given its logits and what the one before it said.
    fn read(&self, exit: usize, logits: String, before: Option<&Read>, graph: &mut Graph) -> Result<Read> {
        let (readout, part) = (&self.policy.readout, |part: &str| format!("exit{}.{part}", exit + 1));
        let mut logits = logits;
        if let Some(&temperature) = readout.temperatures.get(exit) {
            let temperature = graph.number(part("temperature"), temperature);
            logits = graph.add("Div", part("scaled"), &[&logits, &temperature]);
        }
        if readout.ensemble {
            logits = graph.add_with("LogSoftmax", part("own"), &[&logits], [("axis", 1.into())]);
            if let Some(before) = before {
                let share = 1.0 / (exit + 1) as f64;
                let (share, others) =
                    (graph.number(part("share"), share), graph.number(part("others"), 1.0 - share));
                let own = graph.add("Mul", part("own_share"), &[&logits, &share]);
                let mean = graph.add("Mul", part("mean_share"), &[&before.logits, &others]);
                logits = graph.add("Add", part("mean"), &[&mean, &own]);
            }
        }
        let label =
            graph.add_with("ArgMax", part("label"), &[&logits], [("axis", 1.into()), ("keepdims", 0.into())]);
        let one = graph.weights(part("one"), &[1], &[1.0]);
        let mut read = Read { logits, label, uncertainty: String::new(), streak: None };
        read.uncertainty = match &readout.criterion {
            Criterion::Patience => {
                let streak = match before {
                    None => one.clone(),
                    Some(before) => {
                        let same = graph.add("Equal", part("same"), &[&read.label, &before.label]);
                        let same = graph.add_with("Cast", part("agrees"), &[&same], [("to", 1.into())]);
                        let so_far = before.streak.as_deref().unwrap_or(&one);
                        let longer = graph.add("Mul", part("longer"), &[&same, so_far]);
                        graph.add("Add", part("streak"), &[&one, &longer])
                    }
                };
                let uncertainty = graph.add("Div", part("uncertainty"), &[&one, &streak]);
                read.streak = Some(streak);
                uncertainty
            }
            criterion @ (Criterion::Entropy | Criterion::Probability | Criterion::Margin) => {
                by_odds(criterion, &read.logits, &one, part, graph)
            }
            other => bail!(
                Setting,
                "the criterion {other} cannot be written as ONNX; use entropy, probability, margin or patience"
            ),
        };
        Ok(read)
    }

    fn stages(&self, about: &[(&str, String)]) -> Result<Vec<(String, Vec<u8>)>> {
        let readout = &self.policy.readout;
        if readout.ensemble || readout.criterion == Criterion::Patience {
            bail!(
                Setting,
                "a stage sees its own exit alone: exits that answer together, and patience, cannot be written as stages"
            )
        }
        let dims = |shape: Shape| match shape {
            Shape::Image(channels, height, width) => vec![Some(1), Some(channels), Some(height), Some(width)],
            Shape::Flat(len) => vec![Some(1), Some(len)],
        };
        let (mut files, mut listed, mut shape) = (Vec::new(), Vec::new(), self.network.input());
        for (exit, macs) in self.network.macs().into_iter().enumerate() {
            let mut graph = self.graph();
            let input = if exit == 0 { "image".to_string() } else { format!("trunk{exit}") };
            let from = match exit {
                0 => self.image(Some(1), &mut graph)?,
                _ => (graph.input(&input, Float, &dims(shape)), shape),
            };
            let (trunk, logits) = self.stage(exit, from, &mut graph)?;
            let read = self.read(exit, logits, None, &mut graph)?;
            let mut outputs = vec!["label", "uncertainty", "probabilities"];
            graph.add("Identity", "label", &[&read.label]);
            graph.add("Identity", "uncertainty", &[&read.uncertainty]);
            graph.add_with("Softmax", "probabilities", &[&read.logits], [("axis", 1.into())]);
            graph.output("label", Int64, &[Some(1)]);
            graph.output("uncertainty", Float, &[Some(1)]);
            graph.output("probabilities", Float, &[Some(1), Some(self.network.classes())]);
            let onward = format!("trunk{}", exit + 1);
            shape = trunk.1;
            if exit + 1 < self.network.exits() {
                graph.add("Identity", &onward, &[&trunk.0]);
                graph.output(&onward, Float, &dims(shape));
                outputs.push(&onward);
            }
            let (file, bytes) = (format!("stage{}.onnx", exit + 1), graph.encode("stage", about));
            let threshold = self.policy.thresholds.get(exit).filter(|t| t.is_finite());
            listed.push(json!({ "file": file, "input": input, "outputs": outputs, "threshold": threshold, "macs_to_leave_here": macs, "bytes": bytes.len() }));
            files.push((file, bytes));
        }
        let mut behind = 0;
        for (stage, (_, bytes)) in listed.iter_mut().zip(&files).rev() {
            stage["bytes_not_read"] = json!(behind);
            behind += bytes.len();
        }
        let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
        let others = about.iter().filter(|(key, _)| !["pixels", "classes", "policy"].contains(key));
        let about: serde_json::Map<_, _> = others.map(|(key, text)| (key.to_string(), value(text))).collect();
        let manifest = json!({
            "rule": "run the stages in turn; an image leaves where uncertainty < threshold (null: everything leaves), at the last stage in any case",
            "criterion": readout.criterion.to_string(),
            "image": self.weights.about.image,
            "pixels": if self.options.float { "prepared" } else { "bytes from 0 to 255" },
            "classes": self.weights.about.classes,
            "policy": self.policy,
            "stages": listed,
            "about": about,
        });
        files.push(("manifest.json".to_string(), serde_json::to_vec_pretty(&manifest)?));
        Ok(files)
    }
}

/// Entropy, probability or margin of logits (1, classes): a value of one element. The odds of each class against the most
/// probable one are summed without that one, so that nothing is lost to rounding where an exit is very sure.
fn by_odds(
    criterion: &Criterion,
    logits: &str,
    one: &str,
    part: impl Fn(&str) -> String,
    graph: &mut Graph,
) -> String {
    let zero = graph.weights(part("zero"), &[1], &[0.0]);
    let axis = graph.integers(part("axis"), &[1], &[1]);
    let sum = |graph: &mut Graph, name: &str, x: &str| {
        graph.add_with("ReduceSum", part(name), &[x, &axis], [("keepdims", 0.into())])
    };
    let largest = |graph: &mut Graph, name: &str, x: &str, keep: usize| {
        graph.add_with("ReduceMax", part(name), &[x], [("axes", [1].into()), ("keepdims", keep.into())])
    };
    let top = largest(graph, "largest", logits, 1);
    let distance = graph.add("Sub", part("distance"), &[logits, &top]);
    let other = graph.add("Less", part("other"), &[&distance, &zero]);
    let power = graph.add("Exp", part("power"), &[&distance]);
    let odds = graph.add("Where", part("odds"), &[&other, &power, &zero]);
    // Classes that are as probable as the answer.
    let equal = graph.add("Not", part("equal"), &[&other]);
    let equal = graph.add_with("Cast", part("equals"), &[&equal], [("to", 1.into())]);
    let equal = sum(graph, "count", &equal);
    let ties = graph.add("Sub", part("ties"), &[&equal, one]);
    let below = sum(graph, "below", &odds);
    let rest = graph.add("Add", part("rest"), &[&below, &ties]);
    let whole = graph.add("Add", part("whole"), &[one, &rest]);
    match criterion {
        Criterion::Probability => graph.add("Div", part("uncertainty"), &[&rest, &whole]),
        Criterion::Margin => {
            let second = largest(graph, "second", &odds, 0);
            let tie = graph.add("Min", part("tie"), &[&ties, one]);
            let second = graph.add("Max", part("runner_up"), &[&second, &tie]);
            let unsure = graph.add("Add", part("unsure"), &[&rest, &second]);
            graph.add("Div", part("uncertainty"), &[&unsure, &whole])
        }
        _ => {
            // ln(1 + rest) − Σ distance · odds / (1 + rest), where 1 + rest may round to 1.
            let least = graph.weights(part("least"), &[1], &[-1000.0]);
            let distance = graph.add("Max", part("near"), &[&distance, &least]);
            let weighted = graph.add("Mul", part("weighted"), &[&distance, &odds]);
            let weighted = sum(graph, "weighted_sum", &weighted);
            let weighted = graph.add("Div", part("mean_distance"), &[&weighted, &whole]);
            let grown = graph.add("Sub", part("grown"), &[&whole, one]);
            let lost = graph.add("Equal", part("lost"), &[&grown, &zero]);
            let log = graph.add("Log", part("log"), &[&whole]);
            let log = graph.add("Mul", part("log_rest"), &[&log, &rest]);
            let log = graph.add("Div", part("log_exact"), &[&log, &grown]);
            let log = graph.add("Where", part("log_whole"), &[&lost, &rest, &log]);
            graph.add("Sub", part("uncertainty"), &[&log, &weighted])
        }
    }
}
