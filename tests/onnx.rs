//! Networks as ONNX files. Whether runtimes give the same answers, tests/export.py says.

use branchynet::exits::{Criterion, ExitPolicy, Gate};
use branchynet::prelude::*;
use branchynet::runs::{Form, OnnxNetwork, OnnxOptions, Pretrained};
use onnx_rs::ast::{Graph, OpType};

fn lenet() -> Result<Pretrained> {
    Pretrained::named("lenet", &Device::Cpu)
}

/// The operations of a graph and of those inside it.
fn operations(graph: &Graph<'_>) -> Vec<String> {
    let inside = |node: &onnx_rs::ast::Node<'_>| -> Vec<String> {
        node.attribute.iter().filter_map(|a| a.g.as_deref()).flat_map(operations).collect()
    };
    graph
        .node
        .iter()
        .flat_map(|node| [vec![node.op_type.as_str().to_string()], inside(node)].concat())
        .collect()
}

fn written(weights: &Pretrained, policy: &ExitPolicy, options: &OnnxOptions) -> Result<Vec<u8>> {
    Ok(weights.onnx(policy, options, &[])?.swap_remove(0).1)
}

#[test]
fn what_follows_an_exit_stands_in_its_else_branch() -> Result<()> {
    let weights = Pretrained::named("alexnet", &Device::Cpu)?;
    let bytes = written(&weights, weights.policy("no loss")?, &OnnxOptions::default())?;
    let model = onnx_rs::parse(&bytes).expect("a file of ONNX");
    let main = model.graph.expect("a graph");
    let convolutions =
        |graph: &Graph<'_>| graph.node.iter().filter(|node| node.op_type == OpType::Conv).count();
    // Two of the trunk and two of the first branch run for every image; the other nine only where it stays.
    let (mut graph, mut counts) = (&main, vec![convolutions(&main)]);
    while let Some(decision) = graph.node.iter().find(|node| node.op_type == OpType::If) {
        let branch = |name: &str| {
            let attribute = decision.attribute.iter().find(|a| a.name == name);
            attribute.and_then(|a| a.g.as_deref()).expect("a graph for each branch")
        };
        assert_eq!(convolutions(branch("then_branch")), 0);
        graph = branch("else_branch");
        counts.push(convolutions(graph));
    }
    let layers = weights.network.parameters();
    let all = layers.iter().filter(|(name, _)| name.contains("conv") && name.ends_with("weight")).count();
    assert_eq!((counts.len(), counts.iter().sum::<usize>()), (weights.network.exits(), all));
    Ok(())
}

#[test]
fn plain_files_have_no_operation_that_small_runtimes_lack() -> Result<()> {
    let weights = Pretrained::named("alexnet", &Device::Cpu)?;
    let mut found = [false, true].map(|plain| {
        let options = OnnxOptions { plain, ..OnnxOptions::default() };
        let bytes =
            written(&weights, weights.policy("no loss").expect("a choice"), &options).expect("written");
        operations(&onnx_rs::parse(&bytes).expect("a file of ONNX").graph.expect("a graph"))
    });
    let lrn = |operations: &mut Vec<String>| operations.iter().any(|name| name == "LRN");
    assert_eq!(found.each_mut().map(lrn), [true, false]);
    Ok(())
}

#[test]
fn what_onnx_cannot_hold_is_named() -> Result<()> {
    let weights = lenet()?;
    let labels = vec![0u32, 1];
    let record = ExitRecord::<branchynet::data::Validation>::from_logits(
        vec![vec![1.0, 0.0, 0.0, 1.0], vec![1.0, 0.0, 0.0, 1.0]],
        labels,
    )?;
    let gate = ExitPolicy::new(Criterion::Gate(Gate::fit(&record)), [0.1]);
    let refused = |policy: &ExitPolicy, form: Form| {
        let options = OnnxOptions { form, ..OnnxOptions::default() };
        weights.onnx(policy, &options, &[]).expect_err("refused").to_string()
    };
    assert!(refused(&gate, Form::If).contains("the criterion gate cannot be written as ONNX"));
    let patience = ExitPolicy::new(Criterion::Patience, [0.6]);
    assert!(refused(&patience, Form::Stages).contains("a stage sees its own exit alone"));
    assert!(refused(&ExitPolicy::entropy([0.1, 0.2]), Form::If).contains("2 exits need 1 thresholds"));
    Ok(())
}

#[test]
fn a_stage_says_how_many_bytes_stand_behind_it() -> Result<()> {
    let weights = Pretrained::named("alexnet", &Device::Cpu)?;
    let options = OnnxOptions { form: Form::Stages, ..OnnxOptions::default() };
    let files = weights.onnx(weights.policy("no loss")?, &options, &[])?;
    let (manifest, stages) = files.split_last().expect("a manifest behind the stages");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.1)?;
    let listed = |key: &str| -> Vec<_> {
        let entries = manifest["stages"].as_array().expect("a list");
        entries.iter().map(|stage| stage[key].as_u64()).collect()
    };
    let [first, second, third] = [0, 1, 2].map(|i| stages[i].1.len() as u64);
    assert_eq!(listed("bytes"), [first, second, third].map(Some));
    assert_eq!(listed("bytes_not_read"), [second + third, third, 0].map(Some));
    Ok(())
}

/// The exits' file of LeNet, as one from elsewhere.
fn from_elsewhere() -> Result<(Vec<u8>, Vec<f64>)> {
    let weights = lenet()?;
    let options = OnnxOptions { form: Form::Exits, ..OnnxOptions::default() };
    let bytes = written(&weights, weights.policy("no loss")?, &options)?;
    Ok((bytes, weights.network.macs()))
}

#[test]
fn a_file_from_elsewhere_gets_its_exits_nested() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let network = OnnxNetwork::parse("mine.onnx", &bytes, &[], &costs)?;
    let files = network.with_policy(&ExitPolicy::entropy([0.1]), &OnnxOptions::default(), &[])?;
    let model = onnx_rs::parse(&files[0].1).expect("a file of ONNX");
    let main = model.graph.expect("a graph");
    let decision = main.node.iter().find(|node| node.op_type == OpType::If).expect("a decision");
    let behind = decision.attribute.iter().find(|a| a.name == "else_branch").and_then(|a| a.g.as_deref());
    let behind = behind.expect("what stands behind the exit");
    // Two convolutions run for every image, and the trunk's other two, with their weights, only where it stays.
    let convolutions =
        |graph: &Graph<'_>| graph.node.iter().filter(|node| node.op_type == OpType::Conv).count();
    assert_eq!((convolutions(&main), convolutions(behind)), (2, 2));
    assert!(behind.get_initializer("model.conv3.weight").is_some());
    assert!(main.get_initializer("model.conv3.weight").is_none());
    let inputs: Vec<&str> = main.input.iter().map(|input| input.name).collect();
    assert_eq!(inputs, ["image", "thresholds"]);
    Ok(())
}

#[test]
fn what_is_no_network_with_exits_is_named() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let refused = |bytes: &[u8], exits: &[&str], costs: &[f64]| {
        let exits: Vec<String> = exits.iter().map(ToString::to_string).collect();
        OnnxNetwork::parse("mine.onnx", bytes, &exits, costs).expect_err("refused").to_string()
    };
    assert!(refused(b"not ONNX", &[], &costs).contains("mine.onnx: no ONNX file"));
    assert!(
        refused(&bytes, &["exit3", "exit1"], &costs)
            .contains("there is no output exit3; there are exit1, exit2")
    );
    assert!(refused(&bytes, &["exit2"], &costs[..1]).contains("two or more are needed"));
    let weights = lenet()?;
    let nested = written(&weights, weights.policy("no loss")?, &OnnxOptions::default())?;
    assert!(refused(&nested, &[], &costs).contains("one input"), "{}", refused(&nested, &[], &costs));
    Ok(())
}

#[test]
fn a_batch_decides_without_a_branch() -> Result<()> {
    let weights = lenet()?;
    let options = OnnxOptions { form: Form::Batch, ..OnnxOptions::default() };
    let bytes = written(&weights, weights.policy("no loss")?, &options)?;
    let found = operations(&onnx_rs::parse(&bytes).expect("a file of ONNX").graph.expect("a graph"));
    assert!(!found.contains(&"If".to_string()) && found.contains(&"NonZero".to_string()));
    Ok(())
}
