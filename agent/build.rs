//! Makes the presence service from its description. Needs `protoc`, as the etcd client does.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .codec_path("crate::presence::codec::SmallCodec")
        .compile_protos(&["proto/presence.proto"], &["proto"])
}
