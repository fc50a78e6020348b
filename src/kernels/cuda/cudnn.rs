//! Convolution by cuDNN, forward and both gradients; candle has the first only. The algorithms of the
//! gradients are ones that add in a fixed order, so that a run can be repeated.

use super::Input;
use crate::ConvGeometry as Geometry;
use crate::conv2d::Wanted;
use crate::precision::Precision;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t,
    cudnnConvolutionMode_t, cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnDataType, CudnnError,
    FilterDescriptor, TensorDescriptor,
};
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::{CudaDevice, CudaStorage, DType, Error, Layout, Result, WithDType, bail};
use half::bf16;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

thread_local! {
    // A handle must not be used by two threads at a time.
    static HANDLES: RefCell<HashMap<DeviceId, Arc<Cudnn>>> = RefCell::new(HashMap::new());
    // Asking cuDNN for an algorithm can take longer than running it.
    static ALGORITHMS: RefCell<HashMap<Convolution, (Algorithm, usize)>> = RefCell::new(HashMap::new());
}

/// What an algorithm is chosen by: device, sizes, batch, type, precision, and which tensor is wanted.
type Convolution = (DeviceId, Geometry, usize, DType, Precision, Wanted);

/// How one of the three tensors is computed from the other two.
#[derive(Clone, Copy)]
enum Algorithm {
    Out(cudnnConvolutionFwdAlgo_t),
    GradX(cudnnConvolutionBwdDataAlgo_t),
    GradWeight(cudnnConvolutionBwdFilterAlgo_t),
}

fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Cudnn::new(device.cuda_stream()).map_err(Error::wrap)?;
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}

/// What cuDNN wants to know of tensors of type `X` in a convolution that adds up in `C`.
struct Descriptors<X: CudnnDataType, C: CudnnDataType> {
    conv: ConvDescriptor<C>,
    x: TensorDescriptor<X>,
    weight: FilterDescriptor<X>,
    out: TensorDescriptor<X>,
}

impl<X: CudnnDataType, C: CudnnDataType> Descriptors<X, C> {
    fn new(g: &Geometry, batch: usize, device: &CudaDevice) -> Result<Self> {
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let (handle, format) = (handle(device)?, cudnnTensorFormat_t::CUDNN_TENSOR_NCHW);
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let (padding, stride) = ([int(g.padding); 2], [int(g.stride); 2]);
        let conv = handle.create_conv2d::<C>(padding, stride, [1, 1], mode);
        let mut conv = conv.map_err(Error::wrap)?;
        // cuDNN's default rounds f32 to TF32 without being asked.
        let math = match Precision::current() {
            Precision::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
            Precision::Tf32 | Precision::Bf16 => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        conv.set_math_type(math).map_err(Error::wrap)?;
        let x = [batch, g.inputs, g.height, g.width].map(int);
        let weight = [g.outputs, g.inputs, g.kernel, g.kernel].map(int);
        let out = [batch, g.outputs, g.out_height, g.out_width].map(int);
        Ok(Self {
            conv,
            x: handle.create_4d_tensor::<X>(format, x).map_err(Error::wrap)?,
            weight: handle.create_4d_filter::<X>(format, weight).map_err(Error::wrap)?,
            out: handle.create_4d_tensor::<X>(format, out).map_err(Error::wrap)?,
        })
    }
}

impl<X: CudnnDataType, C: CudnnDataType> Descriptors<X, C> {
    fn forward(&self) -> ConvForward<'_, X, C, X> {
        ConvForward { conv: &self.conv, x: &self.x, w: &self.weight, y: &self.out }
    }

    fn backward_data(&self) -> ConvBackwardData<'_, X, C, X> {
        ConvBackwardData { conv: &self.conv, dx: &self.x, w: &self.weight, dy: &self.out }
    }

    fn backward_filter(&self) -> ConvBackwardFilter<'_, X, C, X> {
        ConvBackwardFilter { conv: &self.conv, x: &self.x, dw: &self.weight, dy: &self.out }
    }

    /// The algorithm that cuDNN expects to be the fastest of those that add in a fixed order, and the bytes that it
    /// works in.
    fn algorithm(&self, wanted: Wanted) -> std::result::Result<(Algorithm, usize), CudnnError> {
        use cudnnConvolutionBwdDataAlgo_t::{
            CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        };
        use cudnnConvolutionBwdFilterAlgo_t::{
            CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
            CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
        };
        Ok(match wanted {
            Wanted::Out => {
                let algorithm = self.forward().pick_algorithm()?;
                (Algorithm::Out(algorithm), self.forward().get_workspace_size(algorithm)?)
            }
            Wanted::GradX => {
                let algorithm = match self.backward_data().pick_algorithm()? {
                    CUDNN_CONVOLUTION_BWD_DATA_ALGO_0 => CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                    fixed => fixed,
                };
                (Algorithm::GradX(algorithm), self.backward_data().get_workspace_size(algorithm)?)
            }
            Wanted::GradWeight => {
                let algorithm = match self.backward_filter().pick_algorithm()? {
                    CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0 | CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3 => {
                        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1
                    }
                    fixed => fixed,
                };
                (Algorithm::GradWeight(algorithm), self.backward_filter().get_workspace_size(algorithm)?)
            }
        })
    }
}

fn convolve<X, C>(
    g: &Geometry,
    batch: usize,
    a: Input<'_>,
    b: Input<'_>,
    wanted: Wanted,
) -> Result<CudaStorage>
where
    X: CudnnDataType + CudaDType + DeviceRepr + WithDType,
    C: CudnnDataType,
{
    let device = a.0.device();
    let d = Descriptors::<X, C>::new(g, batch, device)?;
    let convolution = (device.id(), g.clone(), batch, X::DTYPE, Precision::current(), wanted);
    let known = ALGORITHMS.with_borrow(|known| known.get(&convolution).copied());
    let (algorithm, bytes) = match known {
        Some(known) => known,
        None => {
            let chosen = d.algorithm(wanted).map_err(Error::wrap)?;
            ALGORITHMS.with_borrow_mut(|known| known.insert(convolution, chosen));
            chosen
        }
    };
    let (slice_a, slice_b) = (a.0.as_cuda_slice::<X>()?, b.0.as_cuda_slice::<X>()?);
    let slice_a = &slice_a.slice(a.1.start_offset()..);
    let slice_b = &slice_b.slice(b.1.start_offset()..);
    let ends = (X::from_f64(1.0), X::from_f64(0.0));
    // Safety: cuDNN writes the whole output; the tensors have the sizes of the descriptors.
    unsafe {
        let mut out = device.alloc::<X>(g.shape(wanted, batch).elem_count())?;
        let space = &mut device.alloc::<u8>(bytes.max(1))?;
        match algorithm {
            Algorithm::Out(algorithm) => {
                d.forward().launch(algorithm, Some(space), ends, slice_a, slice_b, &mut out)
            }
            Algorithm::GradX(algorithm) => {
                d.backward_data().launch(algorithm, Some(space), ends, &mut out, slice_b, slice_a)
            }
            Algorithm::GradWeight(algorithm) => {
                d.backward_filter().launch(algorithm, Some(space), ends, slice_a, &mut out, slice_b)
            }
        }
        .map_err(Error::wrap)?;
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
}

/// The wanted tensor from the other two: from image and kernel, from the output's gradient and kernel, or from image and
/// the output's gradient. The output is without bias.
pub fn compute(
    g: &Geometry,
    batch: usize,
    a: Input<'_>,
    b: Input<'_>,
    wanted: Wanted,
) -> Result<CudaStorage> {
    match (a.0.dtype(), Precision::current()) {
        (DType::F64, _) => convolve::<f64, f64>(g, batch, a, b, wanted),
        (DType::F32, Precision::Bf16) => {
            let round = |(storage, layout): Input<'_>| storage.to_dtype(layout, DType::BF16);
            let (round_a, round_b) = (round(a)?, round(b)?);
            let (layout_a, layout_b) = (Layout::contiguous(a.1.shape()), Layout::contiguous(b.1.shape()));
            let (a, b) = ((&round_a, &layout_a), (&round_b, &layout_b));
            let out = convolve::<bf16, f32>(g, batch, a, b, wanted)?;
            out.to_dtype(&Layout::contiguous(g.shape(wanted, batch)), DType::F32)
        }
        (DType::F32, _) => convolve::<f32, f32>(g, batch, a, b, wanted),
        (dtype, _) => bail!("conv2d works on f32 and f64 only, got {dtype:?}"),
    }
}
