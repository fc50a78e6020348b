//! Arrays as others write them: `.npz` of numpy (compressed or not, in either order of axes and of bytes) and
//! `.safetensors`, read one array at a time.

use branchynet::data::to_bytes;
use branchynet::networks::StateDict;
use branchynet::{Result, error, files};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use safetensors::{Dtype, tensor::Metadata};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// An array: its shape, and its values, the last axis first.
pub struct Array<T> {
    pub shape: Vec<usize>,
    pub values: Vec<T>,
}

/// A file with named arrays. Each is read when asked for, whatever the others are.
pub struct ArrayFile {
    path: PathBuf,
    content: Content,
}

enum Content {
    Npz(ZipArchive<BufReader<File>>),
    Safetensors { file: BufReader<File>, start: u64, metadata: Metadata },
}

/// What the bytes of an array mean.
struct Layout {
    shape: Vec<usize>,
    element: Element,
    /// Bytes of an element.
    width: usize,
    big_endian: bool,
    /// The first axis first.
    fortran: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Element {
    Unsigned,
    Signed,
    Float,
    BFloat,
}

impl Layout {
    /// The number of elements. Fails where they need more bytes than there are.
    fn count(&self, available: u64) -> std::result::Result<usize, String> {
        let count = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let fits = |count: &usize| {
            (*count as u64).checked_mul(self.width as u64).is_some_and(|size| size <= available)
        };
        count.filter(fits).ok_or_else(|| {
            format!("its shape {:?} needs more than the {available} bytes that it has", self.shape)
        })
    }
}

impl ArrayFile {
    /// Opens a file, which is told by its content and not by its name. Fails with the way out where it is of another kind.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |what: String| error!(File, "{}: {what}", path.display());
        files::expect_file(path)?;
        let mut file = BufReader::new(File::open(path).map_err(|cause| wrong(cause.to_string()))?);
        let mut head = Vec::new();
        file.by_ref().take(16).read_to_end(&mut head).map_err(|cause| wrong(cause.to_string()))?;
        file.rewind().map_err(|cause| wrong(cause.to_string()))?;
        // The head of a .safetensors file is JSON behind its length, whose bytes may be those of anything.
        if let Some(kind) = another_kind(&head).filter(|_| head.get(8) != Some(&b'{')) {
            return Err(wrong(format!(
                "this is {kind}, not an .npz (np.savez) or .safetensors file with named arrays"
            )));
        }
        let content = if head.starts_with(b"PK\x03") || head.starts_with(b"PK\x05") {
            let archive =
                ZipArchive::new(file).map_err(|cause| wrong(format!("a damaged .npz file: {cause}")))?;
            if archive.file_names().flatten().any(|name| name.ends_with("data.pkl")) {
                return Err(wrong(
                    "torch.save wrote this; write arrays by safetensors.torch.save_file, or by np.savez"
                        .to_string(),
                ));
            }
            Content::Npz(archive)
        } else {
            let (start, metadata) = safetensors_head(&mut file).map_err(|cause| {
                wrong(format!(
                    "neither an .npz file (np.savez) nor a .safetensors file with named arrays: {cause}"
                ))
            })?;
            Content::Safetensors { file, start, metadata }
        };
        Ok(Self { path: path.to_path_buf(), content })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its arrays.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.content {
            Content::Npz(archive) => archive
                .file_names()
                .flatten()
                .filter_map(|name| Some(name.strip_suffix(".npy")?.to_string()))
                .collect(),
            Content::Safetensors { metadata, .. } => metadata.tensors().into_keys().collect(),
        };
        names.sort();
        names
    }

    /// The shape of an array; `None` where there is none of this name.
    pub fn shape(&mut self, name: &str) -> Result<Option<Vec<usize>>> {
        self.with(name, |layout, _, _| Ok(layout.shape))
    }

    /// An array of numbers of any type, each handed to `convert`; `None` where there is none of this name. Fails where
    /// it holds something else than numbers, or fewer than it says.
    pub fn read<T: Copy + Default>(&mut self, name: &str, convert: fn(f64) -> T) -> Result<Option<Array<T>>> {
        self.with(name, |layout, bytes, available| values(layout, bytes, available, convert))
    }

    /// Bytes of an element of an array; 0 where there is none of this name.
    pub fn width(&mut self, name: &str) -> Result<usize> {
        Ok(self.with(name, |layout, _, _| Ok(layout.width))?.unwrap_or(0))
    }

    /// An array of pixels as bytes: whole numbers from 0 to 255 as they are, floating point from 0 to 1 as 0 to 255. Fails
    /// where it holds other numbers.
    pub fn pixels(&mut self, name: &str) -> Result<Option<Array<u8>>> {
        self.with(name, |layout, bytes, available| {
            if layout.element == Element::Unsigned && layout.width == 1 && !layout.fortran {
                let mut values = vec![0; layout.count(available)?];
                bytes.read_exact(&mut values).map_err(|cause| format!("it ends too early ({cause})"))?;
                whole(bytes)?;
                return Ok(Array { shape: layout.shape, values });
            }
            let float = matches!(layout.element, Element::Float | Element::BFloat);
            let Array { shape, values } = values(layout, bytes, available, |x| x as f32)?;
            Ok(Array { shape, values: to_bytes(&values, float)? })
        })
    }

    /// What a .safetensors file says of itself under this name.
    pub fn about(&self, name: &str) -> Option<&str> {
        match &self.content {
            Content::Safetensors { metadata, .. } => Some(metadata.metadata().as_ref()?.get(name)?.as_str()),
            Content::Npz(_) => None,
        }
    }

    fn with<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Layout, &mut dyn Read, u64) -> std::result::Result<T, String>,
    ) -> Result<Option<T>> {
        let found = match &mut self.content {
            Content::Npz(archive) => match archive.index_for_name(&format!("{name}.npy")) {
                None => return Ok(None),
                Some(index) => {
                    let refused = |cause: zip::result::ZipError| {
                        format!("{cause}; np.savez and np.savez_compressed write what is read here")
                    };
                    archive.by_index(index).map_err(refused).and_then(|mut entry| {
                        let size = entry.size();
                        let header = NpyHeader::from_reader(&mut entry).map_err(|cause| cause.to_string())?;
                        read(npy_layout(&header)?, &mut entry, size)
                    })
                }
            },
            Content::Safetensors { file, start, metadata } => match metadata.info(name) {
                None => return Ok(None),
                Some(info) => {
                    let (from, to) = info.data_offsets;
                    file.seek(SeekFrom::Start(*start + from as u64))
                        .map_err(|cause| cause.to_string())
                        .and_then(|_| {
                            let size = (to - from) as u64;
                            read(safetensors_layout(info.dtype, &info.shape)?, &mut file.take(size), size)
                        })
                }
            },
        };
        found.map(Some).map_err(|what| error!(File, "{}, {name}: {what}", self.path.display()))
    }
}

/// Reads a PyTorch `state_dict` from a file that `safetensors.torch.save_file(model.state_dict(), path)` wrote (or an `.npz`
/// with arrays of the same names), in floating point of 16, 32 or 64 bits, for [`branchynet::Network::load_state_dict`]. Fails,
/// naming the file, where it is of another kind.
pub fn read_state_dict(path: impl AsRef<Path>) -> Result<StateDict> {
    let mut file = ArrayFile::open(path.as_ref())?;
    let mut tensors = Vec::new();
    for name in file.names() {
        if let Some(Array { shape, values }) = file.read(&name, |x| x as f32)? {
            tensors.push((name, Tensor::from_vec(values, shape, &Device::Cpu)?));
        }
    }
    StateDict::named(&path.as_ref().display().to_string(), tensors)
}

/// Names what a file is that users have and that is none of ours, by its first bytes.
fn another_kind(head: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 6] = [
        (b"\x93NUMPY", "a single array (np.save)"),
        (b"MATLAB 5.0 MAT", "a MATLAB file"),
        (b"\x89HDF\r\n", "an HDF5 file, as MATLAB's -v7.3 and h5py write them"),
        (b"\x1f\x8b", "a file compressed by gzip"),
        (b"\x80", "a pickle of Python"),
        (b"ARROW1", "an Arrow file"),
    ];
    kinds.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| kind)
}

fn safetensors_head(file: &mut (impl Read + Seek)) -> std::result::Result<(u64, Metadata), String> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "it is too short".to_string())?;
    let length = u64::from_le_bytes(length);
    let end = file.seek(SeekFrom::End(0)).map_err(|cause| cause.to_string())?;
    if length > end.saturating_sub(8) {
        return Err("its first bytes are those of neither".to_string());
    }
    file.rewind().map_err(|cause| cause.to_string())?;
    let mut head = Vec::new();
    file.take(8 + length).read_to_end(&mut head).map_err(|cause| cause.to_string())?;
    let metadata: Metadata = serde_json::from_slice(&head[8..]).map_err(|cause| cause.to_string())?;
    if metadata.data_len() as u64 != end - 8 - length {
        return Err("it does not end where its head says".to_string());
    }
    Ok((8 + length, metadata))
}

fn safetensors_layout(dtype: Dtype, shape: &[usize]) -> std::result::Result<Layout, String> {
    let (element, width) = match dtype {
        Dtype::BOOL | Dtype::U8 => (Element::Unsigned, 1),
        Dtype::U16 => (Element::Unsigned, 2),
        Dtype::U32 => (Element::Unsigned, 4),
        Dtype::U64 => (Element::Unsigned, 8),
        Dtype::I8 => (Element::Signed, 1),
        Dtype::I16 => (Element::Signed, 2),
        Dtype::I32 => (Element::Signed, 4),
        Dtype::I64 => (Element::Signed, 8),
        Dtype::F16 => (Element::Float, 2),
        Dtype::F32 => (Element::Float, 4),
        Dtype::F64 => (Element::Float, 8),
        Dtype::BF16 => (Element::BFloat, 2),
        other => {
            return Err(format!("numbers are expected, got {other:?}; .to(torch.float32) makes them some"));
        }
    };
    Ok(Layout { shape: shape.to_vec(), element, width, big_endian: false, fortran: false })
}

fn npy_layout(header: &NpyHeader) -> std::result::Result<Layout, String> {
    let dtype = header.dtype();
    let refused = || {
        let mend = match &dtype {
            DType::Plain(plain) if plain.type_char() == TypeChar::Object => {
                "np.stack makes one array of a list of arrays"
            }
            DType::Plain(plain) if matches!(plain.type_char(), TypeChar::UnicodeStr | TypeChar::ByteStr) => {
                "np.unique(labels, return_inverse=True)[1] numbers names"
            }
            _ => "astype(np.float32) makes them some",
        };
        format!("numbers are expected, got numpy's type {}; {mend}", dtype.descr())
    };
    let DType::Plain(plain) = &dtype else { return Err(refused()) };
    let (element, widths): (_, &[u64]) = match plain.type_char() {
        TypeChar::Bool => (Element::Unsigned, &[1]),
        TypeChar::Uint => (Element::Unsigned, &[1, 2, 4, 8]),
        TypeChar::Int => (Element::Signed, &[1, 2, 4, 8]),
        TypeChar::Float => (Element::Float, &[2, 4, 8]),
        // numpy has no bfloat16; what JAX and ml_dtypes have as such arrives as two bytes of no type.
        TypeChar::RawData => (Element::BFloat, &[2]),
        _ => return Err(refused()),
    };
    if !widths.contains(&plain.size_field()) {
        return Err(refused());
    }
    let shape = header
        .shape()
        .iter()
        .map(|&size| usize::try_from(size).map_err(|_| refused()))
        .collect::<std::result::Result<_, _>>()?;
    Ok(Layout {
        shape,
        element,
        width: plain.size_field() as usize,
        big_endian: plain.endianness() == Endianness::Big,
        fortran: header.order() == Order::Fortran,
    })
}

fn values<T: Copy + Default>(
    layout: Layout,
    bytes: &mut dyn Read,
    available: u64,
    convert: fn(f64) -> T,
) -> std::result::Result<Array<T>, String> {
    let count = layout.count(available)?;
    let Layout { shape, element, width, big_endian, fortran } = layout;
    let mut values = vec![T::default(); count];
    if !fortran || count == 0 {
        decode(bytes, &mut values, element, width, big_endian, convert)?;
        whole(bytes)?;
        return Ok(Array { shape, values });
    }
    let mut fill = |into: &mut [T]| decode(bytes, into, element, width, big_endian, convert);
    // The last axis comes last in the file and first here. A few of its places at a time: each write fills a line of the cache.
    let (&columns, before) = shape.split_last().unwrap_or((&1, &[]));
    let rows = count / columns;
    let mut block = vec![T::default(); rows * LINE.min(columns)];
    for first in (0..columns).step_by(LINE) {
        let taken = LINE.min(columns - first);
        fill(&mut block[..rows * taken])?;
        let mut index = vec![0; before.len()];
        for row in 0..rows {
            let at = index.iter().zip(before).fold(0, |at, (i, size)| at * size + i) * columns + first;
            for (column, value) in values[at..at + taken].iter_mut().enumerate() {
                *value = block[column * rows + row];
            }
            for (i, &size) in index.iter_mut().zip(before) {
                *i = (*i + 1) % size;
                if *i > 0 {
                    break;
                }
            }
        }
    }
    whole(bytes)?;
    Ok(Array { shape, values })
}

/// Fails unless this is the end: an archive compares its checksum there.
fn whole(bytes: &mut dyn Read) -> std::result::Result<(), String> {
    match bytes.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("it has more bytes than its shape needs".to_string()),
        Err(cause) => Err(format!("it is damaged ({cause})")),
    }
}

/// Places of the last axis that are put in order at once.
const LINE: usize = 16;

/// Reads as many numbers as `into` holds.
fn decode<T>(
    bytes: &mut dyn Read,
    into: &mut [T],
    element: Element,
    width: usize,
    big_endian: bool,
    convert: fn(f64) -> T,
) -> std::result::Result<(), String> {
    const BLOCK: usize = 1 << 13;
    let mut buffer = vec![0; width * BLOCK];
    for into in into.chunks_mut(BLOCK) {
        let bytes_here = &mut buffer[..width * into.len()];
        bytes.read_exact(bytes_here).map_err(|cause| format!("it ends too early ({cause})"))?;
        if big_endian {
            bytes_here.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        macro_rules! each {
            ($number:ty, $as_f64:expr) => {
                for (into, number) in into.iter_mut().zip(bytes_here.as_chunks().0) {
                    *into = convert($as_f64(<$number>::from_le_bytes(*number)));
                }
            };
        }
        match (element, width) {
            (Element::Unsigned, 1) => each!(u8, f64::from),
            (Element::Unsigned, 2) => each!(u16, f64::from),
            (Element::Unsigned, 4) => each!(u32, f64::from),
            (Element::Unsigned, _) => each!(u64, |n| n as f64),
            (Element::Signed, 1) => each!(i8, f64::from),
            (Element::Signed, 2) => each!(i16, f64::from),
            (Element::Signed, 4) => each!(i32, f64::from),
            (Element::Signed, _) => each!(i64, |n| n as f64),
            (Element::BFloat, _) => each!(bf16, f64::from),
            (Element::Float, 2) => each!(f16, f64::from),
            (Element::Float, 4) => each!(f32, f64::from),
            (Element::Float, _) => each!(f64, |n| n),
        }
    }
    Ok(())
}
