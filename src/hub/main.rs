//! Fetches MNIST, Fashion-MNIST or CIFAR-10 from the Hugging Face hub, its cache first (`HF_HUB_CACHE` and `HF_HOME` are
//! honoured, and `HF_HUB_OFFLINE`), then the network, into one safetensors file of bytes, which `branchynet datasets NAME
//! --from FILE` checks and takes over.

mod cache;

use candle_core::{DType, Device, Result, Tensor, bail, safetensors};
use candle_datasets::vision;
use std::collections::HashMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, file] = &arguments[..] else {
        eprintln!("usage: hub mnist|fashion-mnist|cifar10 FILE.safetensors");
        return ExitCode::from(2);
    };
    match fetch(name, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that candle appends.
            let error = error.to_string();
            eprintln!("hub: cannot fetch {name}: {}", error.lines().next().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn fetch(name: &str, file: &str) -> Result<()> {
    let known = cache::KNOWN.iter().find(|known| known.name == name);
    let Some(known) = known else { bail!("there is no such data set: use mnist, fashion-mnist or cifar10") };
    let cache = cache::folder();
    let target = std::path::Path::new(file).with_extension("cache");
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("HF_HUB_CACHE", &cache) };
    if cache::link(known, &cache, &target)? {
        unsafe { std::env::set_var("HF_HUB_CACHE", &target) };
    } else if cache::offline() {
        let names = known.repositories.join(", ");
        bail!("HF_HUB_OFFLINE is set, and {} has no parquet files of {names}", cache.display())
    }
    let set = match name {
        "mnist" => vision::mnist::load(),
        "fashion-mnist" => vision::fashion_mnist::load(),
        _ => vision::cifar::load(),
    };
    let _ = std::fs::remove_dir_all(&target);
    let set = set?;
    // Pixels come divided by 255.
    let bytes = |images: &Tensor| -> Result<Tensor> {
        let pixels = images.flatten_all()?.to_vec1::<f32>()?;
        let mut bytes: Vec<u8> = pixels.iter().map(|x| (x * 255.0).round() as u8).collect();
        let shape = match *images.dims() {
            [samples, pixels] => vec![samples, 28, pixels / 28],
            ref dims => dims.to_vec(),
        };
        if let [_, _, size, _] = shape[..] {
            // candle-datasets 0.11 hands out (samples, channels, width, height) of CIFAR-10, whose images
            // are square. The checksum of what comes out here was taken from the hub's PNGs by another
            // decoder.
            for plane in bytes.chunks_mut(size * size) {
                for (y, x) in (0..size).flat_map(|y| (0..y).map(move |x| (y, x))) {
                    plane.swap(y * size + x, x * size + y);
                }
            }
        }
        Tensor::from_vec(bytes, shape, &Device::Cpu)
    };
    let tensors = HashMap::from([
        ("train_images", bytes(&set.train_images)?),
        ("train_labels", set.train_labels.to_dtype(DType::U8)?),
        ("test_images", bytes(&set.test_images)?),
        ("test_labels", set.test_labels.to_dtype(DType::U8)?),
    ]);
    if let Some(folder) = std::path::Path::new(file).parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Whole or not at all.
    let unfinished = format!("{file}.part");
    safetensors::save(&tensors, &unfinished)?;
    Ok(std::fs::rename(unfinished, file)?)
}
