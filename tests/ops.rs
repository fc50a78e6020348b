//! Every operation with its own gradient, against PyTorch's values and against central differences
//! in f64.
//!
//! The tables below were printed by `tests/pytorch_values.py` (PyTorch 2.15, f64). Inputs and
//! digests are formulas, the same there and here.

mod common;

use branchynet::Rng;
use branchynet::candle_core::backprop::GradStore;
use branchynet::candle_core::{DType, Device, Result, Tensor, Var};
use branchynet::kernels::{
    Lrn, Pooling, Shortcut, Zeros, add_shortcut, batch_norm, batch_norm_by, conv2d, cross_entropy, dropout,
    gelu, linear, lrn, pool2d, relu,
};
use rand::SeedableRng;

/// Element i is sin(1.3 i + seed).
fn wave(seed: usize, shape: &[usize]) -> Result<Var> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f64> = (0..count).map(|i| (1.3 * i as f64 + seed as f64).sin()).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Σ cos(0.7 i) t_i, differentiable.
fn digest(t: &Tensor) -> Result<Tensor> {
    let weights: Vec<f64> = (0..t.elem_count()).map(|i| (0.7 * i as f64).cos()).collect();
    let weights = Tensor::from_vec(weights, t.shape(), &Device::Cpu)?;
    let weights = weights.to_dtype(t.dtype())?.to_device(t.device())?;
    (t * weights)?.sum_all()
}

fn scalar(t: &Tensor) -> Result<f64> {
    t.to_dtype(DType::F64)?.to_scalar()
}

/// Compares the digests of the output and of all gradients with PyTorch's, then every gradient with
/// central differences (of up to 40 elements each), then f32 with f64, and inputs that are not
/// contiguous. On every device there is.
fn check(
    case: &str,
    inputs: &[Var],
    expected: &[f64],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    for device in common::devices() {
        let inputs: Vec<Var> = inputs
            .iter()
            .map(|var| Var::from_tensor(&var.as_tensor().to_device(device)?))
            .collect::<Result<_>>()?;
        check_on(device, &format!("{case} on {:?}", device.location()), &inputs, expected, &f)?;
    }
    Ok(())
}

fn check_on(
    device: &Device,
    case: &str,
    inputs: &[Var],
    expected: &[f64],
    f: &impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
    let exact = f(&tensors)?;
    let out = digest(&exact)?;
    let grads = out.backward()?;
    let close = |what: &str, got: f64, want: f64, tolerance: f64| {
        assert!(
            (got - want).abs() <= tolerance * (1.0 + want.abs()),
            "{case}, {what}: {got}, expected {want}"
        );
    };
    close("output", scalar(&out)?, expected[0], 1e-8);
    assert_eq!(expected.len(), inputs.len() + 1);
    for (i, var) in inputs.iter().enumerate() {
        let grad = grads.get(var).expect("every input has a gradient");
        assert_eq!(grad.dims(), var.dims());
        close(&format!("gradient of input {i}"), scalar(&digest(grad)?)?, expected[i + 1], 1e-8);
        let (values, grad) = (var.flatten_all()?.to_vec1::<f64>()?, grad.flatten_all()?.to_vec1::<f64>()?);
        for at in (0..values.len()).step_by(values.len().div_ceil(40)) {
            let shifted = |by: f64| {
                let mut values = values.clone();
                values[at] += by;
                let mut tensors = tensors.clone();
                tensors[i] = Tensor::from_vec(values, var.shape(), device)?;
                scalar(&digest(&f(&tensors)?)?)
            };
            let h = 1e-5;
            let difference = (shifted(h)? - shifted(-h)?) / (2.0 * h);
            close(&format!("central difference of input {i} at {at}"), grad[at], difference, 1e-6);
        }
    }
    // f32: other vector widths and other block sizes.
    let single: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(DType::F32)).collect::<Result<_>>()?;
    let single: Vec<Var> = single.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let views: Vec<Tensor> = single.iter().map(|var| var.as_tensor().clone()).collect();
    let out = f(&views)?;
    let near = |what: &str, single: &Tensor, exact: &Tensor| -> Result<()> {
        let error = scalar(&(single.to_dtype(DType::F64)? - exact)?.abs()?.flatten_all()?.max(0)?)?;
        let largest = scalar(&exact.abs()?.flatten_all()?.max(0)?)?;
        assert!(
            error <= 1e-4 * (1.0 + largest),
            "{case}, {what} in f32: off by {error} where {largest} is the largest"
        );
        Ok(())
    };
    near("output", &out, &exact)?;
    let single_grads = digest(&out)?.backward()?;
    for (i, (single, var)) in single.iter().zip(inputs).enumerate() {
        let of = |grads: &GradStore, var: &Var| grads.get(var).expect("every input has a gradient").clone();
        near(&format!("gradient of input {i}"), &of(&single_grads, single), &of(&grads, var))?;
    }
    // Not contiguous: each input is stored transposed, and a tensor with an offset in front of it.
    let views: Vec<Tensor> = tensors
        .iter()
        .map(|t| {
            let last = t.rank() - 1;
            let stored = t.transpose(0, last)?.contiguous()?.transpose(0, last)?;
            Tensor::cat(&[&stored, &stored], 0)?.narrow(0, t.dims()[0], t.dims()[0])
        })
        .collect::<Result<_>>()?;
    let out = scalar(&digest(&f(&views)?)?)?;
    close("output of inputs that are not contiguous", out, expected[0], 1e-8);
    Ok(())
}

/// (batch, in, out, height, width, kernel, padding, stride): output, and gradients of x, weight, bias.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const CONV: &[((usize, usize, usize, usize, usize, usize, usize, usize), [f64; 4])] = &[
    ((1, 1, 1, 3, 3, 3, 0, 1), [2.83826615, -0.821320915, -0.0838616568, 1.0]),
    ((2, 1, 5, 28, 28, 5, 3, 1), [-1.97612602, 26.0591651, -26.4744073, -1.69588434]),
    ((3, 5, 10, 15, 15, 5, 3, 1), [-10.4663179, 19.9511903, 16.0663765, -2.65939434]),
    ((1, 3, 4, 7, 5, 3, 1, 1), [-0.112870928, 21.1014532, 11.5549842, -1.22886989]),
    ((2, 4, 3, 9, 7, 3, 1, 2), [-0.422945554, 9.73476747, 1.31991952, 2.58848601]),
    ((2, 3, 9, 8, 11, 5, 2, 2), [-2.54149157, -7.41945267, 0.0957374227, 1.22338223]),
    ((1, 2, 7, 10, 10, 3, 0, 3), [0.872757789, -1.15427973, -10.6156917, -0.0231266091]),
    ((5, 3, 17, 6, 6, 1, 0, 1), [-1.01886459, -1.32481281, -0.921116964, 0.0598708897]),
    ((2, 6, 2, 5, 5, 1, 0, 2), [-2.17898051, 6.25682525, 0.937970623, 0.0822019362]),
    ((9, 2, 3, 4, 19, 2, 1, 1), [26.3633114, -34.4475708, 10.3704625, -0.240769381]),
    ((1, 16, 33, 8, 8, 3, 1, 1), [1.27228131, -61.6766909, 4.65857772, -3.38595941]),
    ((2, 2, 2, 5, 6, 4, 3, 3), [-0.223787588, 0.919525918, -0.352083578, 0.0822019362]),
    ((19, 3, 32, 5, 7, 3, 1, 1), [0.502172716, 372.600766, 0.356217105, -10.9737048]),
    ((2, 4, 48, 8, 9, 3, 1, 2), [-3.03168686, 5.21631735, 3.13834091, 0.856870567]),
    ((3, 2, 64, 6, 6, 5, 2, 1), [1.30785629, -0.438171852, 4.55688014, -0.0164645826]),
    ((1, 1, 80, 4, 4, 2, 0, 1), [-0.882371281, 4.59286849, 0.407550029, -0.00441057617]),
    ((18, 16, 16, 10, 9, 3, 1, 1), [0.0909509956, 203.817452, 0.0884304579, 0.429220216]),
    ((2, 8, 32, 11, 13, 5, 2, 1), [-0.331757889, 10.0415851, -7.06334688, -2.80860154]),
    ((3, 64, 48, 8, 8, 3, 1, 1), [-1.65945201, -306.844674, 4.4136712, -1.81975798]),
    ((2, 16, 32, 9, 9, 3, 1, 2), [-11.0256303, 53.5121037, -1.81806628, -2.36122099]),
    ((2, 3, 5, 6, 4, 1, 1, 1), [1.51551926, 0.696994817, 1.53312783, 2.5321498]),
    ((3, 2, 17, 5, 7, 3, 4, 2), [-14.281823, 4.06786787, -0.990541691, 0.319722032]),
    ((1, 16, 32, 8, 8, 3, 3, 1), [12.3519255, -1.71886042, 35.5891415, 0.377658194]),
    ((2, 1, 3, 4, 4, 2, 5, 3), [0.386667251, 1.81915575, -0.359249886, -1.7330812]),
];

#[test]
fn conv2d_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in CONV {
        let (batch, inputs, outputs, height, width, kernel, padding, stride) = case;
        let x = wave(1, &[batch, inputs, height, width])?;
        let weight = wave(2, &[outputs, inputs, kernel, kernel])?;
        let bias = wave(3, &[outputs])?;
        check(&format!("conv {case:?}"), &[x, weight, bias], &expected, |t| {
            conv2d(&t[0], &t[1], &t[2], padding, stride)
        })?;
    }
    Ok(())
}

/// (batch, channels, height, width, kernel, stride): output, gradient of x.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const POOL: &[((usize, usize, usize, usize, usize, usize), [f64; 2])] = &[
    ((1, 1, 4, 4, 2, 2), [0.904768753, -0.901412765]),
    ((2, 3, 15, 15, 2, 2), [-1.82283706, 3.46197881]),
    ((2, 2, 32, 32, 3, 2), [0.730548687, -4.79800767]),
    ((1, 2, 7, 9, 3, 2), [-0.435933257, 2.04261819]),
    ((3, 1, 5, 8, 3, 1), [0.193199531, -4.20594994]),
    ((1, 2, 7, 7, 2, 3), [-0.682838024, -1.28398346]),
    ((2, 1, 4, 6, 4, 3), [1.42849813, -0.416932114]),
    ((1, 1, 1, 1, 1, 1), [0.841470985, 1.0]),
    ((2, 2, 10, 9, 3, 4), [-0.639612509, 1.27422063]),
    ((1, 1, 5, 5, 1, 3), [0.597174609, 0.0284860908]),
];

#[test]
fn max_pool2d_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in POOL {
        let (batch, channels, height, width, kernel, stride) = case;
        let x = wave(1, &[batch, channels, height, width])?;
        check(&format!("pool {case:?}"), &[x], &expected, |t| pool2d(&t[0], Pooling::Max, kernel, stride))?;
    }
    Ok(())
}

/// The same for windows that stay inside the image.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const INSIDE: &[((usize, usize, usize, usize, usize, usize), [f64; 2])] = &[
    ((2, 3, 7, 7, 2, 2), [0.0681206034, -0.550355598]),
    ((1, 2, 31, 9, 2, 2), [2.42212687, 0.568521188]),
    ((2, 2, 8, 7, 3, 3), [-0.95130271, -2.10333504]),
    ((1, 1, 5, 6, 4, 3), [0.996829794, -0.475536928]),
];

#[test]
fn max_pool2d_inside_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in INSIDE {
        let (batch, channels, height, width, kernel, stride) = case;
        let x = wave(1, &[batch, channels, height, width])?;
        let pool = |t: &[Tensor]| pool2d(&t[0], Pooling::MaxInside, kernel, stride);
        check(&format!("pool inside {case:?}"), &[x], &expected, pool)?;
    }
    Ok(())
}

#[test]
fn max_pool2d_gives_the_whole_gradient_to_the_first_of_equals() -> Result<()> {
    let x = Var::from_tensor(&Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu)?)?;
    let grads = pool2d(&x, Pooling::Max, 2, 2)?.sum_all()?.backward()?;
    let grad = grads.get(&x).expect("x is a variable").flatten_all()?.to_vec1::<f32>()?;
    let expected = [1., 0., 1., 0., 0., 0., 0., 0., 1., 0., 1., 0., 0., 0., 0., 0.];
    assert_eq!(grad, expected);
    Ok(())
}

#[test]
fn max_pool2d_takes_what_is_no_number_for_the_largest() -> Result<()> {
    for device in common::devices() {
        for (kernel, stride) in [(2, 2), (3, 2), (4, 4)] {
            for at in 0..kernel * kernel {
                let mut window = vec![1f32; kernel * kernel];
                window[at] = f32::NAN;
                let x = Tensor::from_vec(window, (1, 1, kernel, kernel), device)?;
                let pooled =
                    pool2d(&x, Pooling::MaxInside, kernel, stride)?.flatten_all()?.to_vec1::<f32>()?;
                assert!(pooled[0].is_nan(), "{kernel} x {kernel}, element {at}");
            }
        }
    }
    Ok(())
}

/// (batch, channels, height, width, n, k, alpha, beta): output, gradient of x.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const LRN: &[((usize, usize, usize, usize, usize, f64, f64, f64), [f64; 2])] = &[
    ((1, 5, 3, 4, 3, 2.0, 5e-05, 0.75), [0.145389835, 18.216155]),
    ((2, 4, 3, 3, 3, 1.0, 0.7, 0.75), [-0.0920402741, 12.034295]),
    ((3, 7, 2, 5, 5, 2.0, 0.3, 0.5), [0.211118376, 57.0486371]),
    ((1, 1, 4, 4, 3, 1.5, 0.9, 0.6), [0.787702318, 4.30133593]),
];

#[test]
fn lrn_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in LRN {
        let (batch, channels, height, width, n, k, alpha, beta) = case;
        let x = wave(1, &[batch, channels, height, width])?;
        check(&format!("lrn {case:?}"), &[x], &expected, |t| lrn(&t[0], Lrn { n, k, alpha, beta }))?;
    }
    Ok(())
}

/// (batch, in, out): output, and gradients of x, weight, bias.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const LINEAR: &[((usize, usize, usize), [f64; 4])] = &[
    ((1, 1, 1), [0.906267409, 0.909297427, 0.841470985, 1.0]),
    ((1, 84, 10), [-19.830336, -0.298193137, 0.0659865972, 5.50983832]),
    ((7, 33, 5), [6.31217819, -1.72344488, 0.144021251, 0.439829024]),
    ((40, 720, 84), [-428.07844, 2.22673646, 1.2544886, 40.1588409]),
];

#[test]
fn linear_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in LINEAR {
        let (batch, inputs, outputs) = case;
        let (x, weight, bias) =
            (wave(1, &[batch, inputs])?, wave(2, &[outputs, inputs])?, wave(3, &[outputs])?);
        check(&format!("linear {case:?}"), &[x, weight, bias], &expected, |t| linear(&t[0], &t[1], &t[2]))?;
    }
    Ok(())
}

#[test]
fn relu_agrees_with_pytorch_and_central_differences() -> Result<()> {
    check("relu of 40000", &[wave(1, &[40_000])?], &[1.20472198, 9990.51374], |t| relu(&t[0]))
}

#[test]
fn gelu_agrees_with_pytorch_and_central_differences() -> Result<()> {
    let x = Var::from_tensor(&(wave(1, &[40_000])?.as_tensor() * 6.0)?)?;
    check("gelu of 40000", &[x], &[7.23260173, 9997.69602], |t| gelu(&t[0]))
}

/// (batch, channels, height, width): output, and gradients of x, weight, bias.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const BATCH_NORM: &[((usize, usize, usize, usize), [f64; 4])] = &[
    ((1, 1, 2, 2), [2.27693739, 0.064906584, 2.28213664, 1.42996323]),
    ((3, 4, 5, 7), [1.55285011, -48.1394193, 0.744760359, -1.05437764]),
    ((8, 2, 16, 17), [2.52191327, 1155.09788, 1.77377594, -0.636178291]),
    ((20, 3, 1, 1), [-1.12388344, -2.90415796, -0.454549542, 0.137814505]),
];

/// The same by means that are `wave(4)` and variances that are `1 + wave(5)`.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const BATCH_NORM_BY: &[((usize, usize, usize, usize), [f64; 4])] = &[
    ((1, 1, 2, 2), [13.2759942, 8.38217997, 14.3783513, 1.42996323]),
    ((3, 4, 5, 7), [1.43593342, 169.990026, 0.560941295, -1.05437764]),
];

#[test]
fn batch_norm_agrees_with_pytorch_and_central_differences() -> Result<()> {
    let inputs = |(batch, channels, height, width)| -> Result<[Var; 3]> {
        Ok([wave(1, &[batch, channels, height, width])?, wave(2, &[channels])?, wave(3, &[channels])?])
    };
    for &(case, expected) in BATCH_NORM {
        check(&format!("batch norm {case:?}"), &inputs(case)?, &expected, |t| {
            Ok(batch_norm(&t[0], &t[1], &t[2])?.0)
        })?;
    }
    for &(case, expected) in BATCH_NORM_BY {
        let (mean, variance) = (wave(4, &[case.1])?, (wave(5, &[case.1])?.as_tensor() + 1.0)?);
        check(&format!("batch norm by {case:?}"), &inputs(case)?, &expected, |t| {
            let here = |moment: &Tensor| moment.to_device(t[0].device());
            batch_norm_by(&t[0], &t[1], &t[2], &here(mean.as_tensor())?, &here(&variance)?)
        })?;
    }
    Ok(())
}

/// (batch, channels, height, width, kernel, stride): output, gradient of x.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const AVERAGE: &[((usize, usize, usize, usize, usize, usize), [f64; 2])] = &[
    ((2, 3, 8, 8, 6, 1), [-0.0044975852, -0.254825389]),
    ((1, 2, 8, 8, 8, 1), [0.0225945813, 0.0269491124]),
    ((3, 1, 9, 7, 3, 2), [0.00217285977, 0.0369756]),
    ((1, 1, 1, 1, 1, 1), [0.841470985, 1.0]),
];

#[test]
fn avg_pool2d_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in AVERAGE {
        let (batch, channels, height, width, kernel, stride) = case;
        let x = wave(1, &[batch, channels, height, width])?;
        check(&format!("average {case:?}"), &[x], &expected, |t| {
            pool2d(&t[0], Pooling::Average, kernel, stride)
        })?;
    }
    Ok(())
}

/// (batch, in, out, height, width, stride): relu(body + shortcut(x)), gradients of body and x.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const SHORTCUT: &[((usize, usize, usize, usize, usize, usize), [f64; 3])] = &[
    ((2, 3, 3, 5, 6, 1), [2.01222241, 42.9662121, 42.9662121]),
    ((2, 4, 8, 30, 30, 2), [0.580380053, 906.235233, -3.93525054]),
    ((3, 2, 5, 15, 15, 2), [1.05358683, 242.044038, -7.02457829]),
    ((1, 1, 1, 7, 8, 3), [0.600223119, 2.97367882, 2.79928858]),
];

#[test]
fn add_shortcut_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for &(case, expected) in SHORTCUT {
        let (batch, inputs, outputs, height, width, stride) = case;
        let small = |size: usize| size.div_ceil(stride);
        let x = wave(1, &[batch, inputs, height, width])?;
        let body = wave(2, &[batch, outputs, small(height), small(width)])?;
        check(&format!("shortcut {case:?}"), &[body, x], &expected, |t| add_shortcut(&t[0], &t[1]))?;
    }
    // The five channels of zeros elsewhere.
    for (zeros, expected) in [
        (Zeros::Front, [0.358891485, 49.6940733, -3.60698852]),
        (Zeros::Around, [1.28673386, 50.6345682, 0.11504017]),
        (Zeros::Behind, [-1.54910831, 49.9400677, 4.09388236]),
    ] {
        let (x, body) = (wave(1, &[2, 3, 7, 6])?, wave(2, &[2, 8, 4, 3])?);
        check(&format!("{zeros:?}"), &[body, x], &expected, |t| {
            Shortcut::between(&t[1], &t[0], zeros)?.add(&t[0], &t[1])
        })?;
    }
    Ok(())
}

/// (batch, classes, smoothing), label i · 7 mod classes: the losses, and the gradient of 0.3 of their sum.
#[rustfmt::skip]
#[allow(clippy::type_complexity)]
const CROSS_ENTROPY: &[((usize, usize, f64), [f64; 2])] = &[
    ((1, 2, 0.0), [0.482122706, -0.0269863844]),
    ((5, 10, 0.0), [2.62322298, 0.0499725393]),
    ((37, 3, 0.0), [-6.19882838, -3.5106983]),
    ((5, 10, 0.2), [2.61101708, 0.035296083]),
    ((37, 3, 0.7), [-0.179222395, -1.27834704]),
];

#[test]
fn cross_entropy_agrees_with_pytorch_and_central_differences() -> Result<()> {
    for device in common::devices() {
        for &((batch, classes, smoothing), expected) in CROSS_ENTROPY {
            let logits = (wave(1, &[batch, classes])?.as_tensor() * 5.0)?.to_device(device)?;
            let labels: Vec<u32> = (0..batch).map(|i| (i * 7 % classes) as u32).collect();
            let labels = Tensor::new(labels, device)?;
            for (dtype, tolerance) in [(DType::F64, 1e-8), (DType::F32, 1e-5)] {
                let losses = cross_entropy(&logits.to_dtype(dtype)?, &labels, 0.3, smoothing)?;
                for (got, want) in [
                    (scalar(&digest(&losses.each()?)?)?, expected[0]),
                    (scalar(&digest(&losses.gradient)?)?, expected[1]),
                ] {
                    let close = (got - want).abs() <= tolerance * (1.0 + want.abs());
                    assert!(close, "{batch}, {classes} in {dtype:?}: {got}, expected {want}");
                }
            }
            // The gradient belongs to the losses' sum.
            let (values, h) = (logits.flatten_all()?.to_vec1::<f64>()?, 1e-5);
            let losses = cross_entropy(&logits, &labels, 1.0, smoothing)?;
            let gradient = losses.gradient.flatten_all()?.to_vec1::<f64>()?;
            for at in 0..values.len() {
                let shifted = |by: f64| {
                    let mut values = values.clone();
                    values[at] += by;
                    let logits = Tensor::from_vec(values, logits.shape(), device)?;
                    Result::Ok(cross_entropy(&logits, &labels, 1.0, smoothing)?.sums()?.0)
                };
                let difference = (shifted(h)? - shifted(-h)?) / (2.0 * h);
                assert!((gradient[at] - difference).abs() < 1e-6, "{batch}, {classes} at {at}");
            }
            // Who is right: the first largest.
            let rows = logits.to_vec2::<f64>()?;
            let right = rows.iter().enumerate().filter(|(i, row)| {
                let max = row.iter().copied().fold(f64::MIN, f64::max);
                row.iter().position(|&z| z == max) == Some(i * 7 % classes)
            });
            assert_eq!(losses.sums()?.1, right.count());
        }
    }
    Ok(())
}

/// Early exit shrinks batches: a sample must get bit for bit the same result in any company.
#[test]
fn results_do_not_depend_on_the_batch() -> Result<()> {
    let x = wave(1, &[70, 3, 9, 9])?.to_dtype(DType::F32)?;
    let (kernel, kernel_bias) =
        (wave(2, &[10, 3, 5, 5])?.to_dtype(DType::F32)?, wave(3, &[10])?.to_dtype(DType::F32)?);
    let (weight, bias) = (wave(4, &[7, 810])?.to_dtype(DType::F32)?, wave(5, &[7])?.to_dtype(DType::F32)?);
    let f = |x: &Tensor| linear(&conv2d(x, &kernel, &kernel_bias, 2, 1)?.flatten_from(1)?, &weight, &bias);
    let together = f(&x)?.to_vec2::<f32>()?;
    for (i, row) in together.iter().enumerate() {
        assert_eq!(row, &f(&x.narrow(0, i, 1)?)?.to_vec2::<f32>()?[0], "sample {i} alone");
    }
    assert_eq!(together[31..69], f(&x.narrow(0, 31, 38)?)?.to_vec2::<f32>()?);
    Ok(())
}

#[test]
fn dropout_is_seeded_keeps_the_mean_and_masks_the_gradient() -> Result<()> {
    for device in common::devices() {
        let x = Var::from_tensor(&Tensor::ones((200, 50), DType::F32, device)?)?;
        let run = |seed| dropout(&x, 0.3, &mut Rng::seed_from_u64(seed));
        let (first, again, other) = (run(7)?, run(7)?, run(8)?);
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        assert_eq!(flat(&first)?, flat(&again)?);
        assert_ne!(flat(&first)?, flat(&other)?);
        let mean = first.mean_all()?.to_scalar::<f32>()?;
        // Standard error of the mean of 10,000 draws: 0.0065.
        assert!((mean - 1.0).abs() < 0.03, "mean {mean}");
        let grads = first.sum_all()?.backward()?;
        assert_eq!(flat(grads.get(&x).expect("x is a variable"))?, flat(&first)?);
    }
    Ok(())
}

#[test]
fn wrong_shapes_are_refused_in_one_line() -> Result<()> {
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    for (result, part) in [
        (conv2d(&t(&[1, 3, 8, 8])?, &t(&[4, 2, 3, 3])?, &t(&[4])?, 1, 1), "needs a weight (out, 3, k, k)"),
        (conv2d(&t(&[1, 3, 8, 8])?, &t(&[4, 3, 3, 3])?, &t(&[5])?, 1, 1), "bias"),
        (conv2d(&t(&[1, 3, 2, 2])?, &t(&[4, 3, 5, 5])?, &t(&[4])?, 1, 1), "does not fit an image of 4x4"),
        (conv2d(&t(&[1, 3, 2, 2])?, &t(&[4, 3, 1, 1])?, &t(&[4])?, 1, 0), "stride 0"),
        (pool2d(&t(&[1, 3, 2, 2])?, Pooling::Max, 3, 2), "does not fit an image of 2x2"),
        (linear(&t(&[1, 3])?, &t(&[4, 2])?, &t(&[4])?), "needs an input (batch, 2)"),
        (lrn(&t(&[1, 3, 2, 2])?, Lrn { n: 2, ..Lrn::default() }), "n must be odd"),
        (pool2d(&t(&[1, 3, 2, 2])?, Pooling::Average, 3, 1), "does not fit an image of 2x2"),
        (
            batch_norm(&t(&[1, 3, 2, 2])?, &t(&[3])?, &t(&[2])?).map(|(out, _)| out),
            "needs a weight and a bias (3)",
        ),
        (add_shortcut(&t(&[1, 2, 2, 2])?, &t(&[1, 3, 2, 2])?), "cannot add its input of 3x2x2 to 2x2x2"),
        (dropout(&t(&[1])?, 1.0, &mut Rng::seed_from_u64(0)), "must be in 0..1"),
    ] {
        let message = result.expect_err(part).to_string();
        let line = message.lines().next().unwrap_or_default();
        assert!(line.contains(part), "{message}");
    }
    Ok(())
}
