//! The usual codec with small buffers: a message has 20 bytes, and the leader holds a stream for every node. The default
//! of 8 KiB in each direction was a quarter of what a node costs it.

use std::marker::PhantomData;

use tonic::Status;
use tonic::codec::{BufferSettings, Codec, Decoder, Encoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

const BUFFER_BYTES: usize = 64;
/// Messages are sent as soon as there are this many bytes of them.
const YIELD_BYTES: usize = 1024;

/// Sends `T`, receives `U`.
#[derive(Debug)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Send + 'static,
    U: Send + 'static,
    ProstEncoder<T>: Encoder<Item = T, Error = Status> + Send + 'static,
    ProstDecoder<U>: Decoder<Item = U, Error = Status> + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
