//! Networks as ONNX files. Whether runtimes give the same answers, tests/export.py says.

use branchynet::exits::{Criterion, ExitPolicy, Gate};
use branchynet_runs::prelude::*;
use branchynet_runs::{Form, OnnxFile, OnnxNetwork, OnnxOptions, Pretrained};
use onnx_rs::ast::{
    DataLocation, DataType, Dimension, Graph, OpType, StringStringEntry, TensorProto, TypeValue,
};

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
    let file = OnnxFile::new("mine.onnx", bytes);
    let network = OnnxNetwork::of(&file, &[], &costs)?;
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
fn what_has_no_name_gets_none() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let mut model = onnx_rs::parse(&bytes).expect("a file of ONNX");
    let graph = model.graph.as_mut().expect("a graph");
    graph.node.iter_mut().for_each(|node| node.name = "");
    let file = OnnxFile::new("unnamed.onnx", onnx_rs::encode(&model));
    let bytes = decides(&file, &costs)?;
    // Two nodes of one name would be refused.
    let model = onnx_rs::parse(&bytes).expect("a file of ONNX");
    let graph = model.graph.expect("a graph");
    let mut names: Vec<&str> =
        graph.node.iter().map(|node| node.name).filter(|name| !name.is_empty()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    Ok(())
}

#[test]
fn what_is_no_network_with_exits_is_named() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let refused = |bytes: &[u8], exits: &[&str], costs: &[f64]| {
        let exits: Vec<String> = exits.iter().map(ToString::to_string).collect();
        let file = OnnxFile::new("mine.onnx", bytes.to_vec());
        OnnxNetwork::of(&file, &exits, costs).expect_err("refused").to_string()
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

/// What a file becomes that decides by one threshold.
fn decides(file: &OnnxFile, costs: &[f64]) -> Result<Vec<u8>> {
    let network = OnnxNetwork::of(file, &[], costs)?;
    Ok(network.with_policy(&ExitPolicy::entropy([0.1]), &OnnxOptions::default(), &[])?.swap_remove(0).1)
}

#[test]
fn weights_in_a_file_beside_are_those_in_the_file() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let folder = std::env::temp_dir().join(format!("branchynet-beside-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (path, beside) = (folder.join("mine.onnx"), folder.join("mine.onnx.data"));
    // As PyTorch writes it: one file of all weights, each with its place and length there, which start at multiples.
    let graph = onnx_rs::parse(&bytes).expect("a file of ONNX").graph.expect("a graph");
    let mut data = vec![7u8; 64];
    let places: Vec<[String; 2]> = graph
        .initializer
        .iter()
        .map(|weights| {
            let place = [data.len(), weights.as_raw().map_or(0, <[u8]>::len)].map(|n| n.to_string());
            data.extend(weights.as_raw().unwrap_or_default());
            data.resize(data.len().next_multiple_of(64), 7);
            place
        })
        .collect();
    let write = |location: &'static str, data: &[u8]| {
        let mut model = onnx_rs::parse(&bytes).expect("a file of ONNX");
        for (weights, [offset, length]) in
            model.graph.as_mut().expect("a graph").initializer.iter_mut().zip(&places)
        {
            let entries = [("location", location), ("offset", offset.as_str()), ("length", length.as_str())];
            let entries = entries.map(|(key, value)| StringStringEntry { key, value });
            *weights =
                TensorProto::from_raw(weights.name(), weights.dims().to_vec(), weights.data_type(), &[])
                    .with_external_data(entries.into())
                    .with_data_location(DataLocation::External);
        }
        std::fs::write(&path, onnx_rs::encode(&model)).expect("written");
        std::fs::write(&beside, data).expect("written");
    };
    write("mine.onnx.data", &data);
    let file = OnnxFile::read(&path)?;
    assert_eq!(decides(&file, &costs)?, decides(&OnnxFile::new("mine.onnx", bytes.clone()), &costs)?);
    // Other weights make another network of the same graph.
    let digest = file.digest();
    data[64] ^= 1;
    write("mine.onnx.data", &data);
    assert_ne!(OnnxFile::read(&path)?.digest(), digest);
    write("mine.onnx.data", &data[..1000]);
    let cut = decides(&OnnxFile::read(&path)?, &costs).expect_err("cut").to_string();
    assert!(cut.contains("its values end behind the 1000 bytes of mine.onnx.data"), "{cut}");
    for (location, said) in [
        ("../mine.onnx.data", "its weights are in \"../mine.onnx.data\", which is no file beside it"),
        ("/etc/hostname", "which is no file beside it"),
        ("gone.data", "its weights are in another file: cannot read"),
    ] {
        write(location, &data);
        let refused = OnnxFile::read(&path).expect_err("refused").to_string();
        assert!(refused.contains(said) && refused.contains("mine.onnx: "), "{refused}");
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

#[test]
fn weights_in_wider_numbers_are_those_in_bytes() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let with = |weights: TensorProto<'_>| {
        let mut model = onnx_rs::parse(&bytes).expect("a file of ONNX");
        let graph = model.graph.as_mut().expect("a graph");
        let bias = graph.initializer.iter_mut().find(|w| w.name() == weights.name()).expect("a bias");
        *bias = weights;
        onnx_rs::encode(&model)
    };
    // Once as bytes, and once as ONNX keeps short numbers otherwise: in 32 bits each.
    for (kind, code, values, raw) in [
        (DataType::Int8, 3, vec![-1, 2, -128], &[0xff, 2, 0x80][..]),
        (DataType::Bool, 9, vec![1, 0, 1], &[1, 0, 1][..]),
        (DataType::Float16, 10, vec![0x3c00, 0xbc00], &[0, 0x3c, 0, 0xbc][..]),
    ] {
        let dims = vec![values.len() as i64];
        let mut wide = with(TensorProto::from_i32("conv1.bias", dims.clone(), values));
        // The library writes them as 32 bits alone: behind the type (6) are the numbers (field 5).
        let places: Vec<usize> =
            wide.windows(3).enumerate().filter(|(_, w)| *w == [0x10, 6, 0x2a]).map(|(i, _)| i).collect();
        assert_eq!(places.len(), 1, "{places:?}");
        wide[places[0] + 1] = code;
        let [wide, short] = [wide, with(TensorProto::from_raw("conv1.bias", dims, kind, raw))]
            .map(|bytes| decides(&OnnxFile::new("mine.onnx", bytes), &costs));
        assert_eq!(wide?, short?, "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_file_of_one_size_of_batch_takes_no_other() -> Result<()> {
    let (bytes, costs) = from_elsewhere()?;
    let of = |batch: i64, form: Form| {
        let mut model = onnx_rs::parse(&bytes).expect("a file of ONNX");
        let graph = model.graph.as_mut().expect("a graph");
        let Some(TypeValue::Tensor(input)) =
            graph.input[0].r#type.as_mut().and_then(|kind| kind.value.as_mut())
        else {
            panic!("images")
        };
        input.shape.as_mut().expect("a shape").dim[0].value = Dimension::Value(batch);
        let file = OnnxFile::new("mine.onnx", onnx_rs::encode(&model));
        let network = OnnxNetwork::of(&file, &[], &costs)?;
        let options = OnnxOptions { form, ..OnnxOptions::default() };
        network.with_policy(&ExitPolicy::entropy([0.1]), &options, &[]).map(|files| files.len())
    };
    assert_eq!(of(1, Form::If)?, 1);
    for (batch, form, said) in [
        (8, Form::If, "it takes batches of 8, and this form takes one image at a time"),
        (8, Form::Stages, "it takes batches of 8, and this form takes one image at a time"),
        (1, Form::Batch, "it takes batches of 1, and this form takes any"),
    ] {
        let refused = of(batch, form).expect_err("refused").to_string();
        assert!(refused.contains(said), "{refused}");
    }
    Ok(())
}
