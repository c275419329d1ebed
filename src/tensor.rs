//! What a tensor is: its path in the checkpoint, dtype, shape, and the checksum that vouches for all of them.
#![forbid(unsafe_code)]

/// The type of an element; the discriminants are those of `ckpt_dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Dtype {
    F32 = 0,
    F64 = 1,
    F16 = 2,
    Bf16 = 3,
    I8 = 4,
    U8 = 5,
    I16 = 6,
    U16 = 7,
    I32 = 8,
    U32 = 9,
    I64 = 10,
    U64 = 11,
    Bool = 12,
}

impl Dtype {
    /// Every dtype, in the order of its number.
    pub const ALL: [Dtype; 13] = [
        Dtype::F32,
        Dtype::F64,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::I8,
        Dtype::U8,
        Dtype::I16,
        Dtype::U16,
        Dtype::I32,
        Dtype::U32,
        Dtype::I64,
        Dtype::U64,
        Dtype::Bool,
    ];

    /// The integer of this many bytes.
    pub fn integer(size: usize, signed: bool) -> Option<Dtype> {
        Some(match (size, signed) {
            (1, true) => Dtype::I8,
            (1, false) => Dtype::U8,
            (2, true) => Dtype::I16,
            (2, false) => Dtype::U16,
            (4, true) => Dtype::I32,
            (4, false) => Dtype::U32,
            (8, true) => Dtype::I64,
            (8, false) => Dtype::U64,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
        }
    }

    /// The name that Keras and NumPy use.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            Dtype::I8 => "int8",
            Dtype::U8 => "uint8",
            Dtype::I16 => "int16",
            Dtype::U16 => "uint16",
            Dtype::I32 => "int32",
            Dtype::U32 => "uint32",
            Dtype::I64 => "int64",
            Dtype::U64 => "uint64",
            Dtype::Bool => "bool",
        }
    }
}

/// A tensor as a checkpoint names it. The bytes are row-major and little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Components joined by `/`, none of them empty: `layers/dense/vars/0`.
    pub path: String,
    /// The type of an element.
    pub dtype: Dtype,
    /// Elements along each axis; empty for a scalar.
    pub shape: Vec<u64>,
}

/// The most axes that a tensor can have: HDF5's limit.
pub const MAX_RANK: usize = 32;

/// The most bytes of a path, a tensor's or a group's.
pub const MAX_PATH: usize = 64 << 10;

/// The most bytes of all paths together, those of the groups too, in an HDF5 file of `file` bytes: names in deep
/// groups take little room in it, and their paths a lot of memory.
pub fn max_path_bytes(file: u64) -> u64 {
    file.saturating_mul(16).saturating_add(16 << 20)
}

/// Bytes of all elements of this size; `None` where that does not fit 63 bits.
pub fn checked_nbytes(itemsize: usize, shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut n = itemsize as u64;
    for &d in shape {
        n = n.checked_mul(d)?;
    }
    (n <= i64::MAX as u64).then_some(n)
}

impl TensorSpec {
    /// Bytes of all elements; `None` where that does not fit 63 bits.
    pub fn checked_nbytes(&self) -> Option<u64> {
        checked_nbytes(self.dtype.size(), &self.shape)
    }

    /// Bytes of all elements.
    ///
    /// Only for specs that [`TensorSpec::checked_nbytes`] has accepted.
    pub fn nbytes(&self) -> u64 {
        self.checked_nbytes().unwrap_or(u64::MAX)
    }

    /// The checksum that stands in `/libckpt`: the CRC-32 (ISO-HDLC, as in zip) of the path, a NUL, the dtype's
    /// number (1 byte), the rank (1 byte), each dimension (8 bytes, little-endian), and then the tensor's
    /// bytes, whose own CRC-32 is `data_crc`.
    pub fn checksum(&self, data_crc: u32) -> u32 {
        let mut sum = self.head();
        sum.combine(&crc32fast::Hasher::new_with_initial_len(data_crc, self.nbytes()));
        sum.finalize()
    }

    /// The same, from the tensor's bytes: where they are few, they are summed sooner than their sum is combined.
    pub fn checksum_of(&self, bytes: &[u8]) -> u32 {
        let mut sum = self.head();
        sum.update(bytes);
        sum.finalize()
    }

    /// The sum of what comes before the bytes.
    fn head(&self) -> crc32fast::Hasher {
        let mut head = crc32fast::Hasher::new();
        head.update(self.path.as_bytes());
        head.update(&[0, self.dtype as u8, self.shape.len() as u8]);
        for &d in &self.shape {
            head.update(&d.to_le_bytes());
        }
        head
    }
}

/// The key of a path in the table of checksums: FNV-1a, 64 bits.
pub fn path_key(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// `[64, 32]`, for messages.
pub fn shape_text(shape: &[u64]) -> String {
    format!("{shape:?}")
}
