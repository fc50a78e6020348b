//! Trained networks as ONNX files, in which an image that leaves early skips the rest.

mod given;
mod graph;
mod layers;

pub use given::{OnnxFile, OnnxNetwork};

use crate::weights::Pretrained;
use branchynet::exits::{Criterion, ExitPolicy};
use branchynet::networks::Shape;
use branchynet::{Result, bail};
use graph::{Attribute, Graph, OPSET};
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
    /// One file for any batch: behind each exit only the images that stay are computed, and one where all leave, since
    /// runtimes differ about empty batches. Inputs and outputs are those of [`Self::If`], with a batch.
    Batch,
}

/// What an ONNX file is to be.
#[derive(Debug, Clone, Default)]
pub struct OnnxOptions {
    pub form: Form,
    /// Only with operations that small runtimes have too: no LRN, no padding of poolings.
    pub plain: bool,
    /// The input is prepared pixels, as [`branchynet::data::Split::batch`] gives them, instead of bytes from 0 to 255.
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
        let mut all = vec![
            ("pixels", if options.float { "prepared" } else { "bytes from 0 to 255" }.to_string()),
            ("data", self.about.data.clone()),
            ("classes", serde_json::to_string(&self.about.classes)?),
            ("settings", serde_json::to_string(&self.about.settings)?),
        ];
        all.extend_from_slice(about);
        write(self, policy, options, all)
    }
}

/// What becomes ONNX: a network, given in stages, each of which ends in an exit.
pub(super) trait Staged {
    fn name(&self) -> &str;
    fn exits(&self) -> usize;
    fn classes(&self) -> usize;
    /// What it costs to leave at each exit.
    fn costs(&self) -> Vec<f64>;
    /// A graph without operations, of the kind that this network is written in.
    fn graph(&self, options: &OnnxOptions) -> Graph;
    /// Declares the input, of so many images (`None`: any), as pixels that the network takes.
    fn image(&self, images: Option<usize>, options: &OnnxOptions, graph: &mut Graph) -> Result<Value>;
    /// Trunk and logits of exit `exit`, from 0, given the trunk before it.
    fn stage(
        &self,
        exit: usize,
        from: Value,
        options: &OnnxOptions,
        graph: &mut Graph,
    ) -> Result<(Value, String)>;
    /// Whether a stage needs nothing but the trunk before it, or why not.
    fn passes_one_value(&self) -> Result<()>;
}

/// A value and the shape of one sample in it.
pub(super) type Value = (String, Shape);

/// Files of a network that decides by this policy, which say this about themselves.
pub(super) fn write(
    network: &dyn Staged,
    policy: &ExitPolicy,
    options: &OnnxOptions,
    mut about: Vec<(&str, String)>,
) -> Result<Vec<(String, Vec<u8>)>> {
    policy.check(network.exits())?;
    if options.fixed && !matches!(options.form, Form::If | Form::Batch) {
        bail!(Setting, "thresholds are fixed in the forms `if` and `batch` alone; the others have none")
    }
    if options.form != Form::If {
        network.passes_one_value()?;
    }
    about.push(("policy", serde_json::to_string(policy)?));
    let writer = Writer { network, policy, options };
    let file = |graph: Graph| vec![("model.onnx".to_string(), graph.encode("network", &about))];
    match options.form {
        Form::If | Form::Batch => writer.decided().map(file),
        Form::Exits => writer.exits().map(file),
        Form::Stages => writer.stages(&about),
    }
}

struct Writer<'a> {
    network: &'a dyn Staged,
    policy: &'a ExitPolicy,
    options: &'a OnnxOptions,
}

/// What an exit says of the images: values of a graph, all of one element an image but the logits (images, classes).
#[derive(Clone)]
struct Read {
    /// What it answers by: at its temperature, and with those before it where they answer together.
    logits: String,
    label: String,
    uncertainty: String,
    /// Exits in a row that agree.
    streak: Option<String>,
}

impl Staged for Pretrained {
    fn name(&self) -> &str {
        self.network.name()
    }

    fn exits(&self) -> usize {
        self.network.exits()
    }

    fn classes(&self) -> usize {
        self.network.classes()
    }

    fn costs(&self) -> Vec<f64> {
        self.network.macs()
    }

    fn graph(&self, options: &OnnxOptions) -> Graph {
        Graph::new(options.plain, self.weight_bits, OPSET)
    }

    fn passes_one_value(&self) -> Result<()> {
        Ok(())
    }

    /// Fails where a byte becomes a pixel otherwise than along a line.
    fn image(&self, images: Option<usize>, options: &OnnxOptions, graph: &mut Graph) -> Result<Value> {
        let (image, shape) = (self.about.image, self.network.input());
        let dims = [images, Some(image[0]), Some(image[1]), Some(image[2])];
        if options.float {
            return Ok((graph.input("image", Float, &dims), shape));
        }
        let bytes = graph.input("image", Uint8, &dims);
        let line = |table: &[f32]| ((table[255] - table[0]) / 255.0, table[0]);
        let (factors, offsets): (Vec<f32>, Vec<f32>) = self.bytes.chunks(256).map(line).unzip();
        for (table, (factor, offset)) in self.bytes.chunks(256).zip(factors.iter().zip(&offsets)) {
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

    fn stage(&self, exit: usize, from: Value, _: &OnnxOptions, graph: &mut Graph) -> Result<(Value, String)> {
        let trunk = layers::write(&self.network.segments()[exit], from, graph)?;
        let branch = self.network.branches().get(exit);
        let logits = branch.map(|branch| layers::write(branch, trunk.clone(), graph)).transpose()?;
        let logits = logits.unwrap_or_else(|| trunk.clone()).0;
        Ok((trunk, logits))
    }
}

impl Writer<'_> {
    fn graph(&self) -> Graph {
        self.network.graph(self.options)
    }

    fn exits(&self) -> Result<Graph> {
        let mut graph = self.graph();
        let mut trunk = self.network.image(None, self.options, &mut graph)?;
        for exit in 0..self.network.exits() {
            let logits;
            (trunk, logits) = self.network.stage(exit, trunk, self.options, &mut graph)?;
            let name = graph.add("Identity", format!("exit{}", exit + 1), &[&logits]);
            graph.output(&name, Float, &[None, Some(self.network.classes())]);
        }
        Ok(graph)
    }

    /// A file that decides by itself.
    fn decided(&self) -> Result<Graph> {
        let mut graph = self.graph();
        let images = (self.options.form == Form::If).then_some(1);
        let image = self.network.image(images, self.options, &mut graph)?;
        let thresholds: Vec<f32> = self.policy.thresholds.iter().map(|&t| t as f32).collect();
        if thresholds.is_empty() {
            bail!(Setting, "{} has no early exit to take; write its exits instead", self.network.name())
        }
        match self.options.fixed {
            true => graph.weights("thresholds", &[thresholds.len()], &thresholds),
            false => graph.input("thresholds", Float, &[Some(thresholds.len())]),
        };
        let [logits, uncertainty, exit] = match images {
            Some(_) => self.leave(0, image, None, &mut graph)?,
            None => self.compact(0, image, None, &mut graph)?,
        };
        graph.add_with("ArgMax", "label", &[&logits], [("axis", 1.into()), ("keepdims", 0.into())]);
        graph.add_with("Softmax", "probabilities", &[&logits], [("axis", 1.into())]);
        graph.output("label", Int64, &[images]);
        graph.output(&exit, Int64, &[images]);
        graph.output(&uncertainty, Float, &[images]);
        graph.output("probabilities", Float, &[images, Some(self.network.classes())]);
        Ok(graph)
    }

    /// From exit `exit` on, for a batch: logits, uncertainties and numbers of the exits where images leave, counted from this
    /// one as 1. Only the images that stay go on; their answers come back to their places.
    fn compact(
        &self,
        exit: usize,
        from: Value,
        before: Option<&Read>,
        graph: &mut Graph,
    ) -> Result<[String; 3]> {
        let part = |part: &str| format!("exit{}.{part}", exit + 1);
        let (trunk, read) = self.reach(exit, from, before, graph)?;
        let same = graph.add("Equal", part("any"), &[&read.label, &read.label]);
        let ones = graph.add_with("Cast", part("here"), &[&same], [("to", 7.into())]);
        if exit == self.policy.thresholds.len() {
            return Ok([read.logits, read.uncertainty, ones]);
        }
        let sure = self.sure(exit, &read, graph);
        let [zero, one] =
            [("first", 0), ("one_exit", 1)].map(|(name, v)| graph.integers(part(name), &[1], &[v]));
        let axis = graph.integers(part("rows"), &[], &[0]);
        let stays = graph.add("Where", part("stays"), &[&sure, &zero, &one]);
        let total = |graph: &mut Graph, name: &str, x: &str| graph.add("ReduceSum", part(name), &[x, &zero]);
        let (images, staying) = (total(graph, "images", &ones), total(graph, "staying", &stays));
        let count = |graph: &mut Graph, name: &str, x: &str| {
            let so_far = graph.add("CumSum", part(&format!("{name}.count")), &[x, &axis]);
            graph.add("Sub", part(name), &[&so_far, &one])
        };
        // Where all leave, the first image goes on alone, and nobody reads what comes of it.
        let row = count(graph, "row", &ones);
        let (first, none) = (
            graph.add("Equal", part("is_first"), &[&row, &zero]),
            graph.add("Equal", part("none"), &[&staying, &zero]),
        );
        let alone = graph.add("And", part("alone"), &[&first, &none]);
        let goes_on = graph.add("Where", part("goes_on"), &[&alone, &one, &stays]);
        let rows = graph.add("NonZero", part("nonzero"), &[&goes_on]);
        let rows = graph.add("Squeeze", part("going_on"), &[&rows, &zero]);
        let next = count(graph, "next", &stays);
        let next = graph.add("Add", part("behind"), &[&images, &next]);
        let answers = graph.add("Where", part("answers"), &[&sure, &row, &next]);

        let take = |graph: &mut Graph, name: &str, x: &str| {
            graph.add_with("Gather", part(name), &[x, &rows], [("axis", 0.into())])
        };
        let on = (take(graph, "trunk", &trunk.0), trunk.1);
        // What the next exit asks of this one.
        let logits = match self.policy.readout.ensemble {
            true => take(graph, "on.logits", &read.logits),
            false => read.logits.clone(),
        };
        let streak = read.streak.as_ref().map(|streak| take(graph, "on.streak", streak));
        let label = match streak {
            Some(_) => take(graph, "on.label", &read.label),
            None => read.label.clone(),
        };
        let before = Read { logits, label, streak, ..read.clone() };
        let [logits, uncertainty, number] = self.compact(exit + 1, on, Some(&before), graph)?;
        let number = graph.add("Add", part("later"), &[&number, &one]);
        let [of_logits, of_uncertainty, of_number] = merged(exit);
        let mut merge = |name: String, here: &str, behind: &str| {
            let both =
                graph.add_with("Concat", format!("{name}.both"), &[here, behind], [("axis", 0.into())]);
            graph.add_with("Gather", name, &[&both, &answers], [("axis", 0.into())])
        };
        Ok([
            merge(of_logits, &read.logits, &logits),
            merge(of_uncertainty, &read.uncertainty, &uncertainty),
            merge(of_number, &ones, &number),
        ])
    }

    /// The trunk at exit `exit`, given the one before it, and what this exit says, given what the one before it said.
    fn reach(
        &self,
        exit: usize,
        from: Value,
        before: Option<&Read>,
        graph: &mut Graph,
    ) -> Result<(Value, Read)> {
        let (trunk, logits) = self.network.stage(exit, from, self.options, graph)?;
        Ok((trunk, self.read(exit, logits, before, graph)?))
    }

    /// Whether an image leaves at this exit.
    fn sure(&self, exit: usize, read: &Read, graph: &mut Graph) -> String {
        let part = |part: &str| format!("exit{}.{part}", exit + 1);
        let place = graph.integers(part("place"), &[1], &[exit as i64]);
        let threshold = graph.add("Gather", part("threshold"), &["thresholds", &place]);
        graph.add("Less", part("sure"), &[&read.uncertainty, &threshold])
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
        let (trunk, read) = self.reach(exit, from, before, graph)?;
        if exit == self.policy.thresholds.len() {
            // 1, by the condition that brought the image here: runtimes fold constants of branches.
            return Ok([read.logits, read.uncertainty, format!("exit{exit}.stays")]);
        }
        let sure = self.sure(exit, &read, graph);
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

        let outputs = merged(exit);
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
                    None => {
                        let same = graph.add("Equal", part("itself"), &[&read.label, &read.label]);
                        graph.add_with("Cast", part("streak"), &[&same], [("to", 1.into())])
                    }
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
        let (mut files, mut listed, mut image, mut shape) = (Vec::new(), Vec::new(), None, Shape::Flat(0));
        for (exit, cost) in self.network.costs().into_iter().enumerate() {
            let mut graph = self.graph();
            let input = if exit == 0 { "image".to_string() } else { format!("trunk{exit}") };
            let from = match exit {
                0 => self.network.image(Some(1), self.options, &mut graph)?,
                _ => (graph.input(&input, Float, &dims(shape)), shape),
            };
            image = image.or(Some(dims(from.1)));
            let (trunk, read) = self.reach(exit, from, None, &mut graph)?;
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
            listed.push(json!({ "file": file, "input": input, "outputs": outputs, "threshold": threshold, "macs_to_leave_here": cost, "bytes": bytes.len() }));
            files.push((file, bytes));
        }
        let mut behind = 0;
        for (stage, (_, bytes)) in listed.iter_mut().zip(&files).rev() {
            stage["bytes_not_read"] = json!(behind);
            behind += bytes.len();
        }
        let value = |(key, text): &(&str, String)| {
            (key.to_string(), serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
        };
        let mut about: serde_json::Map<_, _> = about.iter().map(value).collect();
        let [pixels, classes, policy] = ["pixels", "classes", "policy"].map(|key| about.remove(key));
        let manifest = json!({
            "rule": "run the stages in turn; an image leaves where uncertainty < threshold (null: everything leaves), at the last stage in any case",
            "criterion": readout.criterion.to_string(),
            "image": image.map(|dims| dims[1..].to_vec()),
            "pixels": pixels,
            "classes": classes,
            "policy": policy,
            "stages": listed,
            "about": about,
        });
        files.push(("manifest.json".to_string(), serde_json::to_vec_pretty(&manifest)?));
        Ok(files)
    }
}

/// What the answers of exit `exit` and those behind it are called together: logits, uncertainty, number of the exit.
fn merged(exit: usize) -> [String; 3] {
    match exit {
        0 => ["logits", "uncertainty", "exit"].map(str::to_string),
        _ => ["", ".uncertainty", ".number"].map(|part| format!("exit{}.answer{part}", exit + 1)),
    }
}

/// Entropy, probability or margin of logits (images, classes): a value of one element an image. The odds of each class against the most
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
        // From opset 18 on axes are an input.
        match graph.opset {
            ..18 => graph.add_with(
                "ReduceMax",
                part(name),
                &[x],
                [("axes", [1].into()), ("keepdims", keep.into())],
            ),
            _ => graph.add_with("ReduceMax", part(name), &[x, &axis], [("keepdims", keep.into())]),
        }
    };
    // Small runtimes lack Max, and MNN answers otherwise with what stands for it.
    let larger = |graph: &mut Graph, name: &str, x: &str, y: &str| {
        if !graph.plain {
            return graph.add("Max", part(name), &[x, y]);
        }
        let less = graph.add("Less", part(&format!("{name}.less")), &[x, y]);
        graph.add("Where", part(name), &[&less, y, x])
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
            let none = graph.add("Equal", part("no_tie"), &[&ties, &zero]);
            let tie = graph.add("Where", part("tie"), &[&none, &zero, one]);
            let second = larger(graph, "runner_up", &second, &tie);
            let unsure = graph.add("Add", part("unsure"), &[&rest, &second]);
            graph.add("Div", part("uncertainty"), &[&unsure, &whole])
        }
        _ => {
            // ln(1 + rest) − Σ distance · odds / (1 + rest), where 1 + rest may round to 1.
            let least = graph.weights(part("least"), &[1], &[-1000.0]);
            let distance = larger(graph, "near", &distance, &least);
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
